/* SPDX-License-Identifier: Apache-2.0
 *
 * The submission of Argoverse 2's detection challenge: one Feather file, a row for each box, with the columns
 * tx_m, ty_m, tz_m, length_m, width_m, height_m, qw, qx, qy, qz, score, log_id, timestamp_ns, category. Boxes
 * are in the vehicle's frame.
 */
#ifndef SV_ARGOVERSE2_RESULTS_H
#define SV_ARGOVERSE2_RESULTS_H

#include "evaluator_type.h"
#include "feather_write.h"

/* open_submission() of the evaluator; object_submission.h has the rest. */
sv_status sv_argoverse2_submission_open(sv_ctx *c, const sv_evaluator *e, const char *path,
                                        sv_submission *out);

sv_status sv_argoverse2_writer_open(sv_ctx *c, const char *path, sv_feather_writer *out);
/* Boxes of a sample, of the detector's 'classes' (the dataset's in any case of letters). Of each class at
 * most the 100 best are looked at by the measure; all are written. Boxes of other classes are left out and
 * counted. */
sv_status sv_argoverse2_writer_add(sv_ctx *c, sv_feather_writer *writer, const sv_dataset *dataset,
                                   int sample, const char *const *classes, const sv_box *boxes, int count,
                                   int *other_class);

#endif
