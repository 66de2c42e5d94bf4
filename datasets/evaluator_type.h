/* SPDX-License-Identifier: Apache-2.0
 *
 * For those who write an evaluator: what it fills in. evaluator.h says what the functions do.
 */
#ifndef SV_EVALUATOR_TYPE_H
#define SV_EVALUATOR_TYPE_H

#include "evaluator.h"

typedef struct sv_evaluator_type {
    const char *const *rules; /* the default first; NULL: only one */
    int rule_count;
    const char *suffix;        /* of one sample's result file */
    unsigned parts, box_parts; /* of sv_read */

    sv_status (*open)(sv_ctx *c, sv_evaluator *e); /* makes e->own; close follows a failure, too */
    void (*close)(sv_evaluator *e);

    sv_status (*result_of_boxes)(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                                 const char *const *classes, const sv_box *boxes, int count,
                                 sv_eval_result *out);
    sv_status (*write_result)(sv_ctx *c, const char *path, const sv_eval_result *result);
    sv_status (*read_result)(sv_ctx *c, const char *path, sv_eval_result *out);

    /* A folder with a file of read_result() for each sample is always taken. These are for files of all samples:
     * 'present' is allocated, all false, and 'own' is set. NULL: there are none. */
    sv_status (*open_submission)(sv_ctx *c, const sv_evaluator *e, const char *path, sv_submission *out);
    void (*close_submission)(sv_submission *submission);
    sv_status (*read_submission)(sv_ctx *c, const sv_evaluator *e, const sv_submission *submission,
                                 int sample, sv_eval_result *out);
    const char *(*missing_rule)(const sv_evaluator *e);
    bool refuses_extra; /* results of no sample are an error, as in the official program */

    sv_status (*add)(sv_ctx *c, sv_evaluator *e, const sv_sample *sample, const sv_eval_result *result);
    sv_status (*finish)(sv_ctx *c, sv_evaluator *e);
    void (*print)(const sv_evaluator *e, FILE *to);
    void (*json)(const sv_evaluator *e, sv_json *json); /* keys into an open object */
    sv_status (*curves)(sv_ctx *c, const sv_evaluator *e, const char *path);
    bool (*self_check)(const sv_evaluator *e, FILE *to);
    sv_status (*picture)(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                         const sv_eval_result *result, sv_image *out);
} sv_evaluator_type;

/* Named by the evaluator field of its sv_dataset_type. */
extern const sv_evaluator_type sv_evaluator_type_kitti, sv_evaluator_type_nuscenes, sv_evaluator_type_waymo,
    sv_evaluator_type_once, sv_evaluator_type_argoverse2, sv_evaluator_type_custom;

struct sv_evaluator {
    const sv_evaluator_type *type;
    const sv_dataset *dataset;
    int rule; /* number in type->rules */
    bool self_check;
    double picture_score;
    void *own;
};

#endif
