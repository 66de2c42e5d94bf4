/* SPDX-License-Identifier: Apache-2.0
 *
 * What a lens does to a picture, after Brown: of normalised coordinates x to the right, y down, r^2 = x^2 + y^2
 *
 *     radial = 1 + k1 r^2 + k2 r^4 + k3 r^6
 *     x' = x radial + 2 p1 x y + p2 (r^2 + 2 x^2)        y' = y radial + p1 (r^2 + 2 y^2) + 2 p2 x y
 *
 * Calibrations say this of what the picture shows. Far outside it the polynomial turns back and would put things into
 * the picture that are not there: where 'radial' leaves 0.8..1.2 nothing is seen.
 */
#ifndef SV_CAMERA_LENS_H
#define SV_CAMERA_LENS_H

#include "perception/core/ops.h"

/* lens: fx, fy, cx, cy in the units of column and row, k1, k2, p1, p2, k3; fx 0: a pinhole. From where a pinhole would
 * see something to where the lens shows it; false: nowhere. */
SV_BOTH bool sv_lens_bend(const float *lens, float *column, float *row)
{
    if (lens[0] == 0) return true;
    const float x = (*column - lens[2]) / lens[0], y = (*row - lens[3]) / lens[1], r2 = x * x + y * y,
                radial = 1 + r2 * (lens[4] + r2 * (lens[5] + r2 * lens[8])), p1 = lens[6], p2 = lens[7];
    if (!(radial >= 0.8f && radial <= 1.2f)) return false;
    *column = lens[2] + lens[0] * (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x));
    *row = lens[3] + lens[1] * (y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y);
    return true;
}

#endif
