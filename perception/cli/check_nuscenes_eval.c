/* SPDX-License-Identifier: Apache-2.0
 *
 * Reference data of the nuScenes detection measure: a folder with v1.0-.../, and for every split results_SPLIT.json with
 * expected_SPLIT.json, what the development kit makes of them; expected_annotation_velocity_global.json, velocities of
 * annotations. Everything must be equal to 1e-9; recorded curves have nine digits.
 */
#define _XOPEN_SOURCE 700
#include "check.h"

#include "datasets/evaluator.h"
#include "datasets/nuscenes_dataset.h"
#include "datasets/nuscenes_results.h"
#include "perception/core/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yajl/yajl_tree.h>

enum { EXPECTED_LIMIT = 256 << 20, NAME = 160, PATH = 1200, P = SV_NUSCENES_POINTS };
static const double tolerance = 1e-9, written_digits = 5e-10;

static bool has(const char *folder, const char *format, const char *split)
{
    char name[128], path[PATH];
    struct stat info;
    snprintf(name, sizeof name, format, split);
    return snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path && stat(path, &info) == 0 &&
           S_ISREG(info.st_mode);
}

static bool is_reference(const char *folder)
{
    for (int i = 0; i < SV_NUSCENES_SPLITS; i++)
        if (has(folder, "expected_%s.json", sv_nuscenes_splits[i].name) &&
            has(folder, "results_%s.json", sv_nuscenes_splits[i].name))
            return true;
    return false;
}

static sv_status parse_file(sv_ctx *c, const char *path, yajl_val *out)
{
    char message[256];
    void *text = NULL;
    size_t bytes = 0;
    SV_TRY(sv_file_read(c, path, EXPECTED_LIMIT, &text, &bytes));
    *out = yajl_tree_parse(text, message, sizeof message);
    free(text);
    SV_CHECK(c, *out, SV_BAD_INPUT, "%s: not JSON: %s", path, message);
    return SV_OK;
}

/* ---- scores of a split -------------------------------------------------------------------------------- */

static sv_status add_samples(sv_ctx *c, const sv_nuscenes_tables *t, const sv_nuscenes_submission *submission,
                             const sv_nuscenes_index *index, sv_nuscenes_eval *eval)
{
    for (int i = 0; i < t->sample_count; i++) {
        const sv_nuscenes_sample *sample = &t->samples[i];
        char token[SV_NUSCENES_TOKEN_TEXT];
        sv_nuscenes_token_text(sample->token, token);
        const int slice = sv_nuscenes_index_find(index, sample->token);
        SV_CHECK(c, slice >= 0, SV_BAD_INPUT, "%s: has no results of the sample %s", submission->path, token);
        sv_nuscenes_boxes boxes;
        SV_TRY(sv_nuscenes_submission_read(c, submission, slice, &boxes));
        const double *ego = t->data[sample->data[0]].translation;
        const sv_nuscenes_frame frame = {.labels = t->annotations + sample->first,
                                         .label_count = sample->count,
                                         .boxes = boxes.data,
                                         .box_count = boxes.count,
                                         .ego = {ego[0], ego[1]},
                                         .name = token};
        const sv_status status = sv_nuscenes_eval_add(c, eval, &frame);
        free(boxes.data);
        SV_TRY(status);
    }
    return SV_OK;
}

static sv_status evaluate(sv_ctx *c, const char *folder, const char *split, const sv_nuscenes_tables *t,
                          sv_nuscenes_scores *scores)
{
    char path[PATH];
    sv_nuscenes_submission submission;
    sv_nuscenes_index index;
    sv_nuscenes_eval *eval = NULL;
    snprintf(path, sizeof path, "%s/results_%s.json", folder, split);
    SV_TRY(sv_nuscenes_submission_open(c, path, &submission));
    sv_status status =
        sv_nuscenes_index_open(&index) ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "no memory for results");
    for (int i = 0; i < submission.count && status == SV_OK; i++)
        if (sv_nuscenes_index_add(&index, submission.slices[i].sample, i) < 0)
            status = SV_FAIL(c, SV_NO_MEMORY, "no memory for results");
    if (status == SV_OK) status = sv_nuscenes_eval_open(c, &eval);
    if (status == SV_OK) status = add_samples(c, t, &submission, &index, eval);
    if (status == SV_OK) status = sv_nuscenes_eval_finish(c, eval, scores);
    sv_nuscenes_eval_close(eval);
    sv_nuscenes_index_close(&index);
    sv_nuscenes_submission_close(&submission);
    return status;
}

/* ---- the expectations --------------------------------------------------------------------------------- */

typedef struct expectation {
    check_run *run;
    check_file *folder;
    const sv_nuscenes_scores *scores;
    char path[NAME]; /* "mini_val/metrics/label_aps" */
} expectation;

static expectation below(const expectation *x, const char *name)
{
    expectation out = *x;
    const size_t used = strlen(out.path);
    snprintf(out.path + used, sizeof out.path - used, "/%.50s", name);
    return out;
}

static void compare_number(const expectation *x, yajl_val want, double got)
{
    if (YAJL_IS_NUMBER(want)) {
        const double number = YAJL_GET_DOUBLE(want);
        check_doubles(x->run, x->folder, x->path, &got, &number, 1, tolerance);
    } else if (YAJL_IS_NULL(want)) {
        check_result(x->run, x->folder, x->path, isnan(got), isnan(got) ? "not defined" : "defined");
    } else {
        check_not_covered(x->run, x->folder, x->path, "no number");
    }
}

static void compare_list(const expectation *x, yajl_val want, const double *got)
{
    double numbers[P];
    bool good = YAJL_IS_ARRAY(want) && YAJL_GET_ARRAY(want)->len == P;
    for (int i = 0; good && i < P; i++) {
        yajl_val value = YAJL_GET_ARRAY(want)->values[i];
        good = YAJL_IS_NUMBER(value);
        numbers[i] = good ? YAJL_GET_DOUBLE(value) : 0;
    }
    if (good)
        check_doubles(x->run, x->folder, x->path, got, numbers, P, tolerance + written_digits);
    else
        check_result(x->run, x->folder, x->path, false, "no list of %d numbers", P);
}

static int error_of(const char *name)
{
    for (int i = 0; i < SV_NUSCENES_ERRORS; i++)
        if (strcmp(sv_nuscenes_error_names[i], name) == 0) return i;
    return -1;
}

/* 'each' gets every member of an object. */
static void for_members(const expectation *x, yajl_val object,
                        void (*each)(const expectation *x, const char *key, yajl_val value, int number),
                        int number)
{
    if (!YAJL_IS_OBJECT(object)) {
        check_not_covered(x->run, x->folder, x->path, "no object");
        return;
    }
    for (size_t i = 0; i < YAJL_GET_OBJECT(object)->len; i++) {
        const expectation member = below(x, YAJL_GET_OBJECT(object)->keys[i]);
        each(&member, YAJL_GET_OBJECT(object)->keys[i], YAJL_GET_OBJECT(object)->values[i], number);
    }
}

static void one_ap(const expectation *x, const char *key, yajl_val value, int number)
{
    for (int d = 0; d < SV_NUSCENES_DISTANCES; d++)
        if (fabs(strtod(key, NULL) - sv_nuscenes_distances[d]) < 1e-6) {
            compare_number(x, value, x->scores->curve[number][d].ap);
            return;
        }
    check_not_covered(x->run, x->folder, x->path, "unknown distance");
}

static void one_error(const expectation *x, const char *key, yajl_val value, int number)
{
    const int error = error_of(key);
    if (error < 0)
        check_not_covered(x->run, x->folder, x->path, "unknown error");
    else
        compare_number(x, value, x->scores->class_error[number][error]);
}

/* Of all classes: the means (0) and what they score (1). */
static void one_mean(const expectation *x, const char *key, yajl_val value, int score)
{
    const int error = error_of(key);
    if (error < 0)
        check_not_covered(x->run, x->folder, x->path, "unknown error");
    else
        compare_number(x, value, (score ? x->scores->error_score : x->scores->mean_error)[error]);
}

static void one_curve(const expectation *x, const char *key, yajl_val value, int number)
{
    const sv_nuscenes_curve *curve = &x->scores->curve[number][SV_NUSCENES_ERROR_DISTANCE];
    const int error = error_of(key);
    if (error >= 0)
        compare_list(x, value, x->scores->error_curve[number][error]);
    else if (strcmp(key, "precision") == 0)
        compare_list(x, value, curve->precision);
    else if (strcmp(key, "confidence") == 0)
        compare_list(x, value, curve->confidence);
    else
        check_not_covered(x->run, x->folder, x->path, "unknown curve");
}

typedef enum by_class { APS, MEAN_APS, ERRORS, CURVES, COUNTS } by_class;

static void one_class(const expectation *x, const char *key, yajl_val value, int what)
{
    const int number = sv_nuscenes_class_of(key);
    if (number < 0) {
        check_not_covered(x->run, x->folder, x->path, "unknown class");
        return;
    }
    const sv_nuscenes_scores *s = x->scores;
    const double got[2] = {(double)s->label_count[number], (double)s->detection_count[number]};
    switch ((by_class)what) {
    case APS:
        for_members(x, value, one_ap, number);
        break;
    case MEAN_APS:
        compare_number(x, value, s->class_ap[number]);
        break;
    case ERRORS:
        for_members(x, value, one_error, number);
        break;
    case CURVES:
        for_members(x, value, one_curve, number);
        break;
    case COUNTS:
        for (int i = 0; i < 2; i++) {
            const expectation member = below(x, i ? "pred" : "gt");
            compare_number(&member,
                           YAJL_IS_ARRAY(value) && YAJL_GET_ARRAY(value)->len == 2
                               ? YAJL_GET_ARRAY(value)->values[i]
                               : value,
                           got[i]);
        }
    }
}

static void one_metric(const expectation *x, const char *key, yajl_val value, int unused)
{
    (void)unused;
    const sv_nuscenes_scores *s = x->scores;
    if (strcmp(key, "label_aps") == 0)
        for_members(x, value, one_class, APS);
    else if (strcmp(key, "mean_dist_aps") == 0)
        for_members(x, value, one_class, MEAN_APS);
    else if (strcmp(key, "label_tp_errors") == 0)
        for_members(x, value, one_class, ERRORS);
    else if (strcmp(key, "tp_errors") == 0)
        for_members(x, value, one_mean, 0);
    else if (strcmp(key, "tp_scores") == 0)
        for_members(x, value, one_mean, 1);
    else if (strcmp(key, "mean_ap") == 0)
        compare_number(x, value, s->mean_ap);
    else if (strcmp(key, "nd_score") == 0)
        compare_number(x, value, s->nds);
    else if (strcmp(key, "cfg") != 0 && strcmp(key, "eval_time") != 0)
        check_not_covered(x->run, x->folder, x->path, "unknown value");
}

static void one_count(const expectation *x, const char *key, yajl_val value, int unused)
{
    (void)unused;
    compare_number(x, value, (double)(strcmp(key, "gt") == 0 ? x->scores->labels : x->scores->detections));
}

static void one_part(const expectation *x, const char *key, yajl_val value, int unused)
{
    (void)unused;
    if (strcmp(key, "metrics") == 0)
        for_members(x, value, one_metric, 0);
    else if (strcmp(key, "curves_at_2m_101_recall_points") == 0)
        for_members(x, value, one_class, CURVES);
    else if (strcmp(key, "boxes_before_filter") == 0)
        for_members(x, value, one_count, 0);
    else if (strcmp(key, "boxes_after_filter_gt_pred") == 0)
        for_members(x, value, one_class, COUNTS);
    else if (strcmp(key, "split") != 0)
        check_not_covered(x->run, x->folder, x->path, "unknown value");
}

static sv_status check_split(check_run *run, check_file *folder, const char *split)
{
    sv_ctx *c = run->c;
    char path[PATH];
    sv_nuscenes_tables tables;
    yajl_val root = NULL;
    const sv_nuscenes_tables_def def = {.root = folder->path, .split = split};
    SV_TRY(sv_nuscenes_tables_open(c, &def, &tables));
    snprintf(path, sizeof path, "%s/expected_%s.json", folder->path, split);
    sv_nuscenes_scores *scores = calloc(1, sizeof *scores);
    sv_status status = scores ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "no memory for scores");
    if (status == SV_OK) status = parse_file(c, path, &root);
    if (status == SV_OK) status = evaluate(c, folder->path, split, &tables, scores);
    if (status == SV_OK) {
        expectation x = {.run = run, .folder = folder, .scores = scores};
        snprintf(x.path, sizeof x.path, "%s", split);
        for_members(&x, root, one_part, 0);
    }
    yajl_tree_free(root);
    free(scores);
    sv_nuscenes_tables_close(&tables);
    return status;
}

/* ---- velocities --------------------------------------------------------------------------------------- */

static void compare_velocities(check_run *run, check_file *folder, const sv_nuscenes_tables *t, yajl_val root)
{
    static const char *const name = "annotation_velocity_global";
    double worst = 0;
    size_t right = 0;
    const size_t count = YAJL_IS_OBJECT(root) ? YAJL_GET_OBJECT(root)->len : 0;
    for (int i = 0; i < t->annotation_count; i++) {
        const sv_nuscenes_annotation *a = &t->annotations[i];
        char token[SV_NUSCENES_TOKEN_TEXT];
        sv_nuscenes_token_text(a->token, token);
        yajl_val list = yajl_tree_get(root, (const char *[]){token, NULL}, yajl_t_array);
        bool good = list && YAJL_GET_ARRAY(list)->len == 3;
        for (int k = 0; good && k < 3; k++) {
            yajl_val value = YAJL_GET_ARRAY(list)->values[k];
            if (YAJL_IS_NUMBER(value)) worst = fmax(worst, fabs(YAJL_GET_DOUBLE(value) - a->velocity[k]));
            good = YAJL_IS_NUMBER(value) ? fabs(YAJL_GET_DOUBLE(value) - a->velocity[k]) <= tolerance
                                         : YAJL_IS_NULL(value) && isnan(a->velocity[k]);
        }
        right += good;
    }
    check_result(run, folder, name, right == count && right == (size_t)t->annotation_count,
                 "%zu of %zu annotations, %d in the tables, max error %.2e", right, count,
                 t->annotation_count, worst);
}

static sv_status check_velocities(check_run *run, check_file *folder)
{
    char path[PATH];
    sv_nuscenes_tables tables;
    yajl_val root = NULL;
    const sv_nuscenes_tables_def def = {.root = folder->path, .split = "all"};
    SV_TRY(sv_nuscenes_tables_open(run->c, &def, &tables));
    snprintf(path, sizeof path, "%s/expected_annotation_velocity_global.json", folder->path);
    const sv_status status = parse_file(run->c, path, &root);
    if (status == SV_OK) compare_velocities(run, folder, &tables, root);
    yajl_tree_free(root);
    sv_nuscenes_tables_close(&tables);
    return status;
}

static sv_status run_reference(check_run *run, check_file *folder)
{
    for (int i = 0; i < SV_NUSCENES_SPLITS; i++)
        if (has(folder->path, "expected_%s.json", sv_nuscenes_splits[i].name))
            SV_TRY(check_split(run, folder, sv_nuscenes_splits[i].name));
    if (has(folder->path, "expected_annotation_velocity_%s.json", "global"))
        SV_TRY(check_velocities(run, folder));
    return SV_OK;
}

const check_folder check_nuscenes_eval = {"nuScenes evaluation", is_reference, run_reference};
