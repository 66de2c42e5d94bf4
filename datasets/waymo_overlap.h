/* SPDX-License-Identifier: Apache-2.0
 *
 * The area that two rectangles share, as the Waymo metrics compute it: the algorithm of O'Rourke, Chien,
 * Olson and Naddor ("A new linear algorithm for intersecting convex polygons", 1982), in which an edge of each
 * polygon chases the other around the intersection, with the signs of cross products exact.
 *
 * It is a faithful copy of a flaw, too: where edges of both lie on one line up to rounding, the walk may not
 * come back to the very point where it began, and the official program then says that nothing is shared. That
 * happens to detections that are a label turned by half a turn. sv_overlap_exact64() has no such cases.
 */
#ifndef SV_WAYMO_OVERLAP_H
#define SV_WAYMO_OVERLAP_H

typedef struct sv_waymo_quad {
    double corner[4][2]; /* counter-clockwise */
    double low[2], high[2];
} sv_waymo_quad;

/* Corners by the official steps of arithmetic. */
sv_waymo_quad sv_waymo_quad_make(double x, double y, double length, double width, double heading);
double sv_waymo_shared_area(const sv_waymo_quad *p, const sv_waymo_quad *q);

#endif
