/* SPDX-License-Identifier: Apache-2.0
 *
 * An evaluation as one HTML file that needs nothing else: what was scored, the table, precision-recall curves, and
 * pictures of some samples, evenly spread over the split.
 */
#ifndef SV_REPORT_H
#define SV_REPORT_H

#include "app.h"

#include "datasets/evaluator.h"

enum { REPORT_PICTURES = 12, REPORT_FACTS = 12 };

typedef struct report {
    const char *path; /* NULL: no report is wanted, and nothing below does anything */
    int samples;
    struct {
        char id[64];
        void *bytes; /* of a picture's file, malloc'ed */
        size_t size;
        bool jpeg;
    } pictures[REPORT_PICTURES];
    int picture_count;
    struct {
        const char *name;
        char value[400];
    } facts[REPORT_FACTS];
    int fact_count;
    bool without_cameras; /* told already */
} report;

void report_begin(report *r, const char *path, int samples);
void report_fact(report *r, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* A sample that was scored; read anew and drawn when it is one of those that are shown. */
sv_status report_sample(sv_ctx *c, report *r, const sv_dataset *dataset, const sv_evaluator *evaluator,
                        int sample, const sv_eval_result *result);
/* After the scores. */
sv_status report_write(sv_ctx *c, const report *r, const sv_dataset *dataset, const sv_evaluator *evaluator,
                       bool self_check);
void report_end(report *r); /* may be called twice */

#endif
