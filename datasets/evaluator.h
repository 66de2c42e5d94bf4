/* SPDX-License-Identifier: Apache-2.0
 *
 * One way to score detections on all datasets that have an evaluation of their own. An evaluator takes the
 * samples of a dataset in order, each with what was detected in it, and gives the official numbers at the
 * end; the samples are not kept.
 *
 *     sv_evaluator_def def = sv_evaluator_def_default();
 *     sv_evaluator *e;
 *     SV_TRY(sv_evaluator_open(c, dataset, &def, &e));
 *     for every sample: sv_eval_result_of_boxes() or sv_submission_read(), then sv_evaluator_add()
 *     SV_TRY(sv_evaluator_finish(c, e));
 *     sv_evaluator_print(e, stdout);
 *     sv_evaluator_close(e);
 *
 * Results have the dataset's own format, the one that its official server takes, so anybody's files can be
 * scored. A new evaluator is one file with an sv_evaluator_type (evaluator_type.h), named by its dataset.
 */
#ifndef SV_EVALUATOR_H
#define SV_EVALUATOR_H

#include "dataset.h"
#include "perception/json.h"

#include <stdio.h>

typedef struct sv_evaluator sv_evaluator;

typedef struct sv_evaluator_def {
    const char *rule;     /* NULL: the first. KITTI: "devkit", "python"; Argoverse 2: "roi", "everywhere" */
    bool self_check;      /* the labels take the place of detections */
    double picture_score; /* detections below it are not in pictures; 0.3 */
    uint32_t cookie;      /* set by sv_evaluator_def_default() */
} sv_evaluator_def;

sv_evaluator_def sv_evaluator_def_default(void);
/* The dataset must outlive the evaluator. SV_UNSUPPORTED for a dataset without an evaluation. */
sv_status sv_evaluator_open(sv_ctx *c, const sv_dataset *dataset, const sv_evaluator_def *def,
                            sv_evaluator **out);
void sv_evaluator_close(sv_evaluator *e);             /* NULL is fine */
const char *sv_evaluator_rule(const sv_evaluator *e); /* the one in use; "" where there is only one */
/* Parts of a sample (of sv_read) that sv_evaluator_add() needs, and sv_eval_result_of_boxes() in addition. */
unsigned sv_evaluator_parts(const sv_evaluator *e);
unsigned sv_evaluator_box_parts(const sv_evaluator *e);

/* ---- what was detected in one sample ---- */

/* In the dataset's own form; zero it, read into it as often as wanted, free it once. */
typedef struct sv_eval_result {
    void *data; /* malloc'ed */
    int count;
} sv_eval_result;
void sv_eval_result_free(sv_eval_result *result); /* may be called twice */

/* Rounded to what a result file holds, so that detecting and reading back score alike. 'classes' are the
 * detector's. */
sv_status sv_eval_result_of_boxes(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                                  const char *const *classes, const sv_box *boxes, int count,
                                  sv_eval_result *out);
/* The file of one sample: FOLDER/ID and this suffix. Written whole or not at all. */
const char *sv_eval_result_suffix(const sv_evaluator *e);
sv_status sv_eval_result_write(sv_ctx *c, const sv_evaluator *e, const char *path,
                               const sv_eval_result *result);
sv_status sv_eval_result_read(sv_ctx *c, const sv_evaluator *e, const char *path, sv_eval_result *out);

/* ---- somebody's results ---- */

typedef struct sv_submission {
    char path[1024]; /* what is read: PATH, or PATH/data where the files lie there */
    bool *present;   /* malloc'ed; one per sample of the dataset */
    int missing;     /* samples without results */
    int extra;       /* results of no sample */
    char first_extra[80];
    void *own; /* of the evaluator */
} sv_submission;

/* A folder of result files or a file of all of them, as the dataset has it. What is missing is not an error
 * here. */
sv_status sv_submission_open(sv_ctx *c, const sv_evaluator *e, const char *path, sv_submission *out);
void sv_submission_close(const sv_evaluator *e, sv_submission *submission); /* may be called twice */
/* From several threads at a time with a context each. */
sv_status sv_submission_read(sv_ctx *c, const sv_evaluator *e, const sv_submission *submission, int sample,
                             sv_eval_result *out);
/* What scoring does with samples that have no results: a sentence. */
const char *sv_evaluator_missing_rule(const sv_evaluator *e);
/* The official program refuses results of no sample. */
bool sv_evaluator_refuses_extra(const sv_evaluator *e);

/* ---- scoring ---- */

/* The samples in the dataset's order. 'result' NULL: the submission has none (see the rule above), or
 * self_check. */
sv_status sv_evaluator_add(sv_ctx *c, sv_evaluator *e, const sv_sample *sample, const sv_eval_result *result);
sv_status sv_evaluator_finish(sv_ctx *c, sv_evaluator *e);

/* After finish. The official table. */
void sv_evaluator_print(const sv_evaluator *e, FILE *to);
/* Everything, as one JSON object; the same bytes for the same results. */
void sv_evaluator_json(const sv_evaluator *e, sv_json *json);
/* Precision-recall curves: one picture when 'path' ends in .png, else a folder (made if need be) with one for
 * every class and metric. */
sv_status sv_evaluator_curves(sv_ctx *c, const sv_evaluator *e, const char *path);
/* Scores beside the best that the number of objects allows; false when any is not reached. Only after
 * self_check. */
bool sv_evaluator_self_check(const sv_evaluator *e, FILE *to);

/* One sample with its points, pictures (SV_READ_IMAGES; without pictures only from above) and labels: what
 * was found, missed and falsely detected. 'c' may differ from the one that scores, and several threads may
 * draw at a time. */
sv_status sv_evaluator_picture(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                               const sv_eval_result *result, sv_image *out);

#endif
