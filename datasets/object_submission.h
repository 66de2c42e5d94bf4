/* SPDX-License-Identifier: Apache-2.0
 *
 * Results of all samples in one file, as lines of object_text.h by sample: what an evaluator's
 * open_submission() fills, and the two functions that follow it.
 */
#ifndef SV_OBJECT_SUBMISSION_H
#define SV_OBJECT_SUBMISSION_H

#include "evaluator_type.h"
#include "object_text.h"

typedef struct sv_object_submission sv_object_submission;

/* out->own; sv_submission_close() frees it also after a failure. */
sv_status sv_object_submission_new(sv_ctx *c, sv_submission *out);
/* The sample with this id, or -1 and one more in out->extra. */
int sv_object_submission_sample(const sv_evaluator *e, const char *id, sv_submission *out);
sv_status sv_object_submission_add(sv_ctx *c, sv_submission *submission, int sample,
                                   const sv_object_line *line);
/* After the last line. */
void sv_object_submission_sort(sv_submission *submission);

void sv_object_submission_close(sv_submission *submission);
sv_status sv_object_submission_read(sv_ctx *c, const sv_evaluator *e, const sv_submission *submission,
                                    int sample, sv_eval_result *out);

#endif
