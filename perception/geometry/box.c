/* SPDX-License-Identifier: Apache-2.0 */
#include "box.h"

#include <math.h>

int sv_points_in_box(const float *points, int count, int columns, const sv_box *b)
{
    const double cosine = cos((double)b->heading), sine = sin((double)b->heading);
    const double length = (double)b->dx / 2, width = (double)b->dy / 2, height = (double)b->dz / 2;
    int inside = 0;
    for (int i = 0; i < count; i++) {
        const float *p = points + (size_t)i * (size_t)columns;
        const double x = (double)p[0] - (double)b->x, y = (double)p[1] - (double)b->y,
                     z = (double)p[2] - (double)b->z;
        inside += fabs(z) <= height && fabs(x * cosine + y * sine) <= length &&
                  fabs(y * cosine - x * sine) <= width;
    }
    return inside;
}

void sv_box_corners(const sv_box *b, double out[8][3])
{
    static const double along[4] = {0.5, 0.5, -0.5, -0.5}, across[4] = {0.5, -0.5, -0.5, 0.5};
    const double cosine = cos((double)b->heading), sine = sin((double)b->heading);
    for (int i = 0; i < 8; i++) {
        const double u = along[i % 4] * (double)b->dx, v = across[i % 4] * (double)b->dy;
        out[i][0] = (double)b->x + u * cosine - v * sine;
        out[i][1] = (double)b->y + u * sine + v * cosine;
        out[i][2] = (double)b->z + (i < 4 ? -0.5 : 0.5) * (double)b->dz;
    }
}

const unsigned char sv_box_edges[12][2] = {{0, 1}, {1, 2}, {2, 3}, {3, 0}, {4, 5}, {5, 6},
                                           {6, 7}, {7, 4}, {0, 4}, {1, 5}, {2, 6}, {3, 7}};
