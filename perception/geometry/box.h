/* SPDX-License-Identifier: Apache-2.0
 *
 * Boxes and points: what lies inside, and where the corners are.
 */
#ifndef SV_GEOMETRY_BOX_H
#define SV_GEOMETRY_BOX_H

#include "perception/results.h"
#include "pose.h"

/*
 * How many of 'count' points [count, columns] (x, y, z, ...) lie in the box; its faces are part of it. In
 * double precision.
 */
int sv_points_in_box(const float *points, int count, int columns, const sv_box *box);
/* The same for low <= to_box * point <= high, each coordinate: boxes of any attitude, in any frame. */
int sv_points_in_range(const float *points, int count, int columns, const sv_pose *to_box,
                       const double low[3], const double high[3]);

/*
 * The corners: bottom front left, front right, rear right, rear left, and the same of the top. 'Front' is
 * where the heading points.
 */
void sv_box_corners(const sv_box *box, double out[8][3]);
/* The twelve edges between them: four of the bottom, four of the top, four upright. */
extern const unsigned char sv_box_edges[12][2];

#endif
