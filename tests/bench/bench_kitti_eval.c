/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_kitti_eval FOLDER [REPEATS [THREADS [devkit|python]]]: how long the KITTI evaluator takes for
 * FOLDER/label_2 and FOLDER/result/data, read into memory first: best of the repeats. Prints one JSON object
 * with all scores. bench_kitti_eval.py makes such a folder and runs the common Python program on it beside
 * this one.
 */
#define _XOPEN_SOURCE 700
#include "datasets/kitti_eval.h"
#include "perception/json.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int is_text(const struct dirent *entry)
{
    const size_t length = strlen(entry->d_name);
    return length > 4 && strcmp(entry->d_name + length - 4, ".txt") == 0;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static sv_status read_frames(sv_ctx *c, const char *folder, struct dirent **names, int count,
                             sv_kitti_eval_frame *out)
{
    for (int i = 0; i < count; i++) {
        char path[4096];
        sv_kitti_objects labels, detections;
        snprintf(path, sizeof path, "%s/label_2/%s", folder, names[i]->d_name);
        SV_TRY(sv_kitti_read_objects(c, path, false, &labels));
        snprintf(path, sizeof path, "%s/result/data/%s", folder, names[i]->d_name);
        SV_TRY(sv_kitti_read_objects(c, path, true, &detections));
        out[i] = (sv_kitti_eval_frame){labels.data, detections.data, labels.count, detections.count};
    }
    return SV_OK;
}

static sv_status evaluate(sv_ctx *c, sv_kitti_rule rule, const sv_kitti_eval_frame *frames, int count,
                          sv_kitti_scores *scores)
{
    sv_kitti_eval *e = NULL;
    sv_status status = sv_kitti_eval_open(c, rule, &e);
    if (status == SV_OK) status = sv_kitti_eval_add(c, e, frames, count);
    if (status == SV_OK) status = sv_kitti_eval_finish(c, e, scores);
    sv_kitti_eval_close(e);
    return status;
}

static void print_scores(const sv_kitti_scores *s, int threads, double read_ms, double ms)
{
    sv_json j = sv_json_begin(stdout);
    sv_json_object(&j, SV_JSON_INLINE);
    sv_json_key(&j, "threads");
    sv_json_int(&j, threads);
    sv_json_key(&j, "frames");
    sv_json_int(&j, s->frames);
    sv_json_key(&j, "read_ms");
    sv_json_double(&j, read_ms);
    sv_json_key(&j, "ms");
    sv_json_double(&j, ms);
    sv_json_key(&j, "scores");
    sv_json_object(&j, SV_JSON_INLINE);
    for (int o = 0; o < SV_KITTI_OVERLAPS; o++)
        for (int k = 0; k < SV_KITTI_CLASSES; k++)
            for (int m = 0; m < SV_KITTI_METRICS; m++) {
                char name[64];
                snprintf(name, sizeof name, "%s/%s/%s", sv_kitti_overlap_names[o], sv_kitti_class_names[k],
                         sv_kitti_metric_names[m]);
                sv_json_key(&j, name);
                sv_json_array(&j, SV_JSON_INLINE); /* R40 of the three difficulties, then R11 */
                for (int d = 0; d < SV_KITTI_DIFFICULTIES; d++) sv_json_double(&j, s->curve[o][k][m][d].r40);
                for (int d = 0; d < SV_KITTI_DIFFICULTIES; d++) sv_json_double(&j, s->curve[o][k][m][d].r11);
                sv_json_end(&j);
            }
    sv_json_end(&j);
    sv_json_end(&j);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: bench_kitti_eval FOLDER [REPEATS [THREADS [devkit|python]]]\n");
        return 2;
    }
    const int repeats = argc > 2 ? atoi(argv[2]) : 5;
    sv_ctx_def def = sv_ctx_def_default();
    def.threads = argc > 3 ? atoi(argv[3]) : 0;
    const sv_kitti_rule rule = argc > 4 && strcmp(argv[4], "devkit") == 0 ? SV_KITTI_DEVKIT : SV_KITTI_PYTHON;
    sv_ctx *c = NULL;
    if (sv_ctx_open(&def, &c) != SV_OK) return 4;
    char path[4096];
    snprintf(path, sizeof path, "%s/label_2", argv[1]);
    struct dirent **names = NULL;
    const int count = scandir(path, &names, is_text, by_name);
    if (count < 0) {
        fprintf(stderr, "bench_kitti_eval: %s: the folder cannot be read\n", path);
        return 3;
    }
    sv_kitti_eval_frame *frames = calloc((size_t)count + 1, sizeof *frames);
    sv_kitti_scores *scores = malloc(sizeof *scores);
    if (!frames || !scores) return 4;
    double began = sv_clock_ms(), best = 0;
    sv_status status = read_frames(c, argv[1], names, count, frames);
    const double read_ms = sv_clock_ms() - began;
    for (int i = 0; i < repeats && status == SV_OK; i++) {
        began = sv_clock_ms();
        status = evaluate(c, rule, frames, count, scores);
        const double ms = sv_clock_ms() - began;
        if (i == 0 || ms < best) best = ms;
    }
    if (status == SV_OK)
        print_scores(scores, sv_pool_threads(c->pool), read_ms, best);
    else
        fprintf(stderr, "bench_kitti_eval: %s\n", sv_error_message(c));
    for (int i = 0; i < count; i++) {
        free(names[i]);
        free((void *)frames[i].labels);
        free((void *)frames[i].detections);
    }
    free(names);
    free(frames);
    free(scores);
    sv_ctx_close(c);
    return sv_status_exit_code(status);
}
