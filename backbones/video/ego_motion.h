/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a map of the last frame lies in the map of this one: both are grids around the sensor, which has moved in between.
 * A point p of this frame's sensor is T p for the last one's, T = inverse(last to world) (this to world); of a map's cell
 * centres, taken at the sensor's height, that is an affine map of columns and rows.
 *
 * When a state is not carried over but starts afresh: without a pose on either side; when time stands still, runs backwards or
 * leaves a gap; when the sensor jumps or turns by more than a vehicle can between two frames (another drive, a lost position).
 */
#ifndef SV_EGO_MOTION_H
#define SV_EGO_MOTION_H

#include "perception/geometry/pose.h"

/* Of a stream's sample at one frame. */
typedef struct sv_whereabouts {
    bool known;       /* the pose is */
    double time;      /* seconds; 0 in both frames: not known, no rule of time applies */
    sv_pose to_world; /* of the sensor */
} sv_whereabouts;

typedef struct sv_motion_rule {
    double max_gap;  /* seconds between frames */
    double max_step; /* metres */
    double max_turn; /* degrees, about any axis */
} sv_motion_rule;

/* Cell (row r, column q) covers x_min + q * x_step .. and y_min + r * y_step .. */
typedef struct sv_map_place {
    double x_min, y_min, x_step, y_step;
} sv_map_place;

/* A row of sv_map_warp()'s motion. Returns whether the state is carried over (then keep, motion[6], is 1, else 0). */
bool sv_ego_motion(const sv_whereabouts *last, const sv_whereabouts *now, const sv_motion_rule *rule,
                   const sv_map_place *place, float motion[8]);

#endif
