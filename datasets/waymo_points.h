/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of waymo_points.c that is compiled for several instruction sets.
 */
#ifndef SV_WAYMO_POINTS_H
#define SV_WAYMO_POINTS_H

typedef struct sv_waymo_kernels {
    /* Columns 3 and 4 of 'count' points of five columns become their hyperbolic tangents. */
    void (*squash)(float *points, int count);
} sv_waymo_kernels;

#endif
