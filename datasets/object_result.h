/* SPDX-License-Identifier: Apache-2.0
 *
 * For evaluators whose results are lines of text (object_text.h), a file per sample: ONCE, custom data, Argoverse 2.
 * The functions are those of an sv_evaluator_type.
 */
#ifndef SV_OBJECT_RESULT_H
#define SV_OBJECT_RESULT_H

#include "evaluator_type.h"

/* The class of this name, whatever the case of its letters (detectors write "Car" or "car", "Bus" or "BUS"); -1: none. */
int sv_object_class_like(const sv_dataset *dataset, const char *name);
/* Boxes whose class the dataset has. Others are left out; they are counted in
 * 'other_class', atomically, and the first of them are told in the log. */
sv_status sv_object_result_of_boxes(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                                    const char *const *classes, const sv_box *boxes, int count,
                                    int *other_class, sv_eval_result *out);
sv_status sv_object_result_write(sv_ctx *c, const char *path, const sv_eval_result *result);
sv_status sv_object_result_read(sv_ctx *c, const char *path, sv_eval_result *out);

#endif
