/* SPDX-License-Identifier: Apache-2.0 */
#include "box.h"

#include <math.h>
#include <stddef.h>

int sv_points_in_range(const float *points, int count, int columns, const sv_pose *to_box,
                       const double low[3], const double high[3])
{
    int inside = 0;
    for (int i = 0; i < count; i++) {
        const float *p = points + (size_t)i * (size_t)columns;
        const double v[3] = {(double)p[0], (double)p[1], (double)p[2]};
        double q[3];
        sv_pose_apply(to_box, v, q);
        inside += q[0] >= low[0] && q[0] <= high[0] && q[1] >= low[1] && q[1] <= high[1] && q[2] >= low[2] &&
                  q[2] <= high[2];
    }
    return inside;
}

int sv_points_in_box(const float *points, int count, int columns, const sv_box *b)
{
    const sv_pose box = sv_pose_from_yaw((double)b->heading, (double)b->x, (double)b->y, (double)b->z);
    const double high[3] = {(double)b->dx / 2, (double)b->dy / 2, (double)b->dz / 2},
                 low[3] = {-high[0], -high[1], -high[2]};
    sv_pose to_box;
    /* a heading that is not finite has no inverse, and no inside */
    return sv_pose_invert(&box, &to_box) ? sv_points_in_range(points, count, columns, &to_box, low, high) : 0;
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
