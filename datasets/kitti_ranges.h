/* SPDX-License-Identifier: Apache-2.0
 *
 * Recall and precision by distance: what a curve at one score says of near and of far objects. Not part of the official
 * benchmark, but matched by its rules: seen from above, at the loose overlaps, 'hard' labels (all that are not nearly
 * hidden or tiny). A false detection in an area whose objects were not labelled (DontCare) counts neither way.
 */
#ifndef SV_KITTI_RANGES_H
#define SV_KITTI_RANGES_H

#include "kitti_eval.h"

enum { SV_KITTI_RANGES = 3 };
/* Metres over the ground from the camera: a range goes to the next entry. */
extern const double sv_kitti_range_from[SV_KITTI_RANGES + 1];

typedef struct sv_kitti_range_counts {
    int64_t found, missed, wrong; /* labels with and without a detection, detections without a label */
} sv_kitti_range_counts;

/* Adds a frame's detections of at least 'score'. A label counts where it lies, a false detection where it is claimed. */
sv_status sv_kitti_count_ranges(sv_ctx *c, sv_kitti_rule rule, const sv_kitti_eval_frame *frame, double score,
                                sv_kitti_range_counts counts[SV_KITTI_CLASSES][SV_KITTI_RANGES]);

#endif
