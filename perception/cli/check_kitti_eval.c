/* SPDX-License-Identifier: Apache-2.0
 *
 * Reference data of the KITTI evaluator: a folder with label_2/, result/data/ and expected.json, which holds
 * what the development kit (devkit_cpp) and the Python program (python_numba) make of them. Scores must be
 * equal to 1e-6 percent, curves to 1e-8.
 */
#define _XOPEN_SOURCE 700
#include "check.h"

#include "datasets/kitti_eval.h"
#include "perception/core/file.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yajl/yajl_tree.h>

enum { EXPECTED_LIMIT = 64 << 20, BATCH = 256, NAME = 160, PATH = 1200 };

static bool has(const char *folder, const char *name, bool is_folder)
{
    char path[PATH];
    struct stat info;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path || stat(path, &info) != 0)
        return false;
    return is_folder ? S_ISDIR(info.st_mode) : S_ISREG(info.st_mode);
}

static bool is_kitti_eval(const char *folder)
{
    return has(folder, "label_2", true) && has(folder, "result/data", true) &&
           has(folder, "expected.json", false);
}

/* ---- scores of the folder ----------------------------------------------------------------------------- */

static int is_label(const struct dirent *entry)
{
    const size_t length = strlen(entry->d_name);
    return entry->d_name[0] != '.' && length > 4 && strcmp(entry->d_name + length - 4, ".txt") == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

typedef struct frames {
    sv_kitti_objects labels[BATCH], detections[BATCH];
    sv_kitti_eval_frame frame[BATCH], judged[BATCH]; /* all, and those with a result file */
    int count, judged_count;
} frames;

static void forget(frames *f)
{
    for (int i = 0; i < BATCH; i++) {
        sv_kitti_free_objects(&f->labels[i]);
        sv_kitti_free_objects(&f->detections[i]);
    }
    f->count = f->judged_count = 0;
}

static sv_status read_frame(sv_ctx *c, frames *f, const char *folder, const char *name)
{
    char path[PATH];
    const int i = f->count++;
    snprintf(path, sizeof path, "%s/label_2/%s", folder, name);
    SV_TRY(sv_kitti_read_objects(c, path, false, &f->labels[i]));
    snprintf(path, sizeof path, "%s/result/data/%s", folder, name);
    struct stat info;
    const bool judged = stat(path, &info) == 0;
    if (judged) SV_TRY(sv_kitti_read_objects(c, path, true, &f->detections[i]));
    f->frame[i] = (sv_kitti_eval_frame){.labels = f->labels[i].data,
                                        .label_count = f->labels[i].count,
                                        .detections = f->detections[i].data,
                                        .detection_count = f->detections[i].count};
    if (judged) f->judged[f->judged_count++] = f->frame[i];
    return SV_OK;
}

/* By both rules in one reading. */
static sv_status evaluate(sv_ctx *c, const char *folder, sv_kitti_scores scores[2])
{
    char path[PATH];
    snprintf(path, sizeof path, "%s/label_2", folder);
    struct dirent **names = NULL;
    const int count = scandir(path, &names, is_label, by_name);
    SV_CHECK(c, count >= 0, SV_IO, "%s: the folder cannot be read", path);
    frames *f = calloc(1, sizeof *f);
    sv_kitti_eval *e[2] = {NULL, NULL};
    sv_status status = f ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "no memory for frames");
    for (int rule = 0; rule < 2 && status == SV_OK; rule++)
        status = sv_kitti_eval_open(c, (sv_kitti_rule)rule, &e[rule]);
    for (int i = 0; i < count && status == SV_OK; i++) {
        status = read_frame(c, f, folder, names[i]->d_name);
        if (f->count < BATCH && i < count - 1) continue;
        /* The development kit leaves out frames without a result file. */
        if (status == SV_OK) status = sv_kitti_eval_add(c, e[SV_KITTI_PYTHON], f->frame, f->count);
        if (status == SV_OK) status = sv_kitti_eval_add(c, e[SV_KITTI_DEVKIT], f->judged, f->judged_count);
        forget(f);
    }
    for (int rule = 0; rule < 2 && status == SV_OK; rule++)
        status = sv_kitti_eval_finish(c, e[rule], &scores[rule]);
    for (int rule = 0; rule < 2; rule++) sv_kitti_eval_close(e[rule]);
    if (f) forget(f);
    free(f);
    for (int i = 0; i < count; i++) free(names[i]);
    free(names);
    return status;
}

/* ---- the expectations --------------------------------------------------------------------------------- */

typedef struct expectation {
    check_run *run;
    check_file *folder;
    const sv_kitti_scores *scores; /* of the rule at work */
} expectation;

static int index_of(const char *const *names, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

/* 'count' numbers of a list; false when it is none of this length. */
static bool numbers(yajl_val list, double *out, size_t count)
{
    if (!YAJL_IS_ARRAY(list) || YAJL_GET_ARRAY(list)->len != count) return false;
    for (size_t i = 0; i < count; i++) {
        yajl_val value = YAJL_GET_ARRAY(list)->values[i];
        if (!YAJL_IS_NUMBER(value)) return false;
        out[i] = YAJL_GET_DOUBLE(value);
    }
    return true;
}

/* R11, R40 or curve of one class and metric, for the three difficulties. */
static void compare_group(const expectation *x, const char *name, const char *key, yajl_val value,
                          const sv_kitti_curve curve[SV_KITTI_DIFFICULTIES])
{
    enum { D = SV_KITTI_DIFFICULTIES, P = SV_KITTI_POINTS };
    double want[D * P], got[D * P];
    if (strcmp(key, "curve") == 0) {
        bool good = YAJL_IS_ARRAY(value) && YAJL_GET_ARRAY(value)->len == D;
        for (int d = 0; d < D && good; d++) {
            good = numbers(YAJL_GET_ARRAY(value)->values[d], want + d * P, P);
            memcpy(got + d * P, curve[d].value, sizeof curve[d].value);
        }
        if (good)
            check_doubles(x->run, x->folder, name, got, want, D * P, 1e-8);
        else
            check_result(x->run, x->folder, name, false, "not three lists of 41 numbers");
        return;
    }
    const bool r11 = strcmp(key, "R11") == 0;
    if (!r11 && strcmp(key, "R40") != 0) {
        check_not_covered(x->run, x->folder, name, "unknown value");
        return;
    }
    for (int d = 0; d < D; d++) got[d] = r11 ? curve[d].r11 : curve[d].r40;
    if (numbers(value, want, D))
        check_doubles(x->run, x->folder, name, got, want, D, 1e-6);
    else
        check_result(x->run, x->folder, name, false, "not three numbers");
}

/* {metric: {R11, R40, curve}} of a class and a set of overlaps. */
static void compare_metrics(const expectation *x, const char *path, yajl_val metrics, int overlaps,
                            int kitti_class)
{
    for (size_t m = 0; YAJL_IS_OBJECT(metrics) && m < YAJL_GET_OBJECT(metrics)->len; m++) {
        const char *metric_name = YAJL_GET_OBJECT(metrics)->keys[m];
        yajl_val values = YAJL_GET_OBJECT(metrics)->values[m];
        const int metric = index_of(sv_kitti_metric_names, SV_KITTI_METRICS, metric_name);
        char name[NAME];
        snprintf(name, sizeof name, "%s/%.40s", path, metric_name);
        if (metric < 0 || !YAJL_IS_OBJECT(values)) {
            check_not_covered(x->run, x->folder, name, "unknown metric");
            continue;
        }
        for (size_t v = 0; v < YAJL_GET_OBJECT(values)->len; v++) {
            const char *key = YAJL_GET_OBJECT(values)->keys[v];
            snprintf(name, sizeof name, "%s/%.40s/%.40s", path, metric_name, key);
            compare_group(x, name, key, YAJL_GET_OBJECT(values)->values[v],
                          x->scores->curve[overlaps][kitti_class][metric]);
        }
    }
}

static void compare_program(const expectation *x, const char *program, bool with_overlaps, yajl_val classes)
{
    for (size_t k = 0; YAJL_IS_OBJECT(classes) && k < YAJL_GET_OBJECT(classes)->len; k++) {
        const char *class_name = YAJL_GET_OBJECT(classes)->keys[k];
        yajl_val value = YAJL_GET_OBJECT(classes)->values[k];
        const int kitti_class = index_of(sv_kitti_class_names, SV_KITTI_CLASSES, class_name);
        char path[NAME];
        snprintf(path, sizeof path, "%s/%.40s", program, class_name);
        if (kitti_class < 0 || !YAJL_IS_OBJECT(value)) {
            check_not_covered(x->run, x->folder, path, "unknown class");
            continue;
        }
        if (!with_overlaps) compare_metrics(x, path, value, 0, kitti_class);
        for (size_t o = 0; with_overlaps && o < YAJL_GET_OBJECT(value)->len; o++) {
            const char *set = YAJL_GET_OBJECT(value)->keys[o];
            const int overlaps = index_of(sv_kitti_overlap_names, SV_KITTI_OVERLAPS, set);
            snprintf(path, sizeof path, "%s/%.40s/%.20s", program, class_name, set);
            if (overlaps < 0)
                check_not_covered(x->run, x->folder, path, "unknown set of overlaps");
            else
                compare_metrics(x, path, YAJL_GET_OBJECT(value)->values[o], overlaps, kitti_class);
        }
    }
}

static void compare_counts(const expectation *x, yajl_val counts)
{
    for (size_t k = 0; YAJL_IS_OBJECT(counts) && k < YAJL_GET_OBJECT(counts)->len; k++) {
        const char *class_name = YAJL_GET_OBJECT(counts)->keys[k];
        const int kitti_class = index_of(sv_kitti_class_names, SV_KITTI_CLASSES, class_name);
        char name[NAME];
        double want[SV_KITTI_DIFFICULTIES], got[SV_KITTI_DIFFICULTIES];
        snprintf(name, sizeof name, "num_gt/%.40s", class_name);
        if (kitti_class < 0 || !numbers(YAJL_GET_OBJECT(counts)->values[k], want, SV_KITTI_DIFFICULTIES)) {
            check_not_covered(x->run, x->folder, name, "unknown class");
            continue;
        }
        for (int d = 0; d < SV_KITTI_DIFFICULTIES; d++) got[d] = (double)x->scores->valid[kitti_class][d];
        check_doubles(x->run, x->folder, name, got, want, SV_KITTI_DIFFICULTIES, 0);
    }
}

static sv_status compare(check_run *run, check_file *folder, yajl_val root, const sv_kitti_scores scores[2])
{
    const struct {
        const char *name;
        sv_kitti_rule rule;
        bool with_overlaps;
    } programs[] = {{"devkit_cpp", SV_KITTI_DEVKIT, false}, {"python_numba", SV_KITTI_PYTHON, true}};
    int found = 0;
    for (size_t p = 0; p < sizeof programs / sizeof *programs; p++) {
        const expectation x = {run, folder, &scores[programs[p].rule]};
        yajl_val classes = yajl_tree_get(root, (const char *[]){programs[p].name, NULL}, yajl_t_object);
        if (!classes) continue;
        compare_program(&x, programs[p].name, programs[p].with_overlaps, classes);
        found++;
    }
    SV_CHECK(run->c, found > 0, SV_BAD_INPUT, "expected.json holds neither devkit_cpp nor python_numba");
    /* the recorded counts are the Python program's */
    const expectation x = {run, folder, &scores[SV_KITTI_PYTHON]};
    compare_counts(&x,
                   yajl_tree_get(root, (const char *[]){"num_gt_easy_moderate_hard", NULL}, yajl_t_object));
    return SV_OK;
}

static sv_status run_kitti_eval(check_run *run, check_file *folder)
{
    sv_ctx *c = run->c;
    char path[PATH], message[256];
    void *text = NULL;
    size_t bytes = 0;
    snprintf(path, sizeof path, "%s/expected.json", folder->path);
    SV_TRY(sv_file_read(c, path, EXPECTED_LIMIT, &text, &bytes));
    yajl_val root = yajl_tree_parse(text, message, sizeof message);
    free(text);
    SV_CHECK(c, root, SV_BAD_INPUT, "%s: not JSON: %s", path, message);
    sv_kitti_scores *scores = calloc(2, sizeof *scores);
    sv_status status = scores ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "no memory for scores");
    if (status == SV_OK) status = evaluate(c, folder->path, scores);
    if (status == SV_OK) status = compare(run, folder, root, scores);
    free(scores);
    yajl_tree_free(root);
    return status;
}

const check_folder check_kitti_eval = {"KITTI evaluation", is_kitti_eval, run_kitti_eval};
