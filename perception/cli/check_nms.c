/* SPDX-License-Identifier: Apache-2.0
 *
 * Reference data of non-maximum suppression: boxes, scores and labels of clustered boxes, and what the official
 * functions keep of them; exact IoU of the first boxes. Thresholds stand in the names of the groups and attributes.
 */
#include "check.h"

#include "heads/head.h"
#include "perception/geometry/rotated_iou.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_nms(check_file *file)
{
    return check_has(file, "boxes") && check_has(file, "scores") && check_has(file, "labels0");
}

typedef struct inputs {
    sv_h5_array boxes, scores, labels;
    int count;
    int32_t *order; /* descending score, ties by row */
    double score_thresh, pre_max, post_max;
} inputs;

static const float *sort_scores;
static int by_score(const void *a, const void *b)
{
    const int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (sort_scores[i] != sort_scores[j]) return sort_scores[i] > sort_scores[j] ? -1 : 1;
    return (i > j) - (i < j);
}

/* Keep with 'rule' and compare with <group>/selected and <group>/scores; candidates have at least 'min_score'. */
static sv_status compare(check_run *run, check_file *file, const inputs *in, const char *group,
                         const sv_nms_rule *rule, double min_score)
{
    sv_ctx *c = run->c;
    sv_candidates from, out;
    SV_TRY(sv_candidates_alloc(c, &from, "reference boxes", in->count, 1));
    SV_TRY(sv_candidates_alloc(c, &out, "kept boxes", in->count, 1));
    float *boxes = calloc((size_t)in->count * SV_BOX_FIELDS + 1, sizeof *boxes),
          *scores = calloc((size_t)in->count + 1, sizeof *scores);
    int32_t *labels = calloc((size_t)in->count + 1, sizeof *labels),
            *index = calloc((size_t)in->count + 1, sizeof *index);
    SV_CHECK(c, boxes && scores && labels && index, SV_NO_MEMORY, "no memory");
    int count = 0;
    for (int k = 0; k < in->count; k++) {
        const int32_t i = in->order[k];
        const float score = in->scores.f[i];
        if (!(score >= (float)min_score)) continue;
        memcpy(boxes + (size_t)count * SV_BOX_FIELDS, in->boxes.f + 7 * (size_t)i, 7 * sizeof *boxes);
        scores[count] = score;
        labels[count] = in->labels.i[i] + 1;
        index[count++] = i;
    }
    const int32_t offsets[2] = {0, count};
    sv_status status =
        c->device->upload(c, from.boxes.data, boxes, sizeof *boxes * SV_BOX_FIELDS * (size_t)count);
    if (status == SV_OK)
        status = c->device->upload(c, from.scores.data, scores, sizeof *scores * (size_t)count);
    if (status == SV_OK)
        status = c->device->upload(c, from.labels.data, labels, sizeof *labels * (size_t)count);
    if (status == SV_OK) status = c->device->upload(c, from.index.data, index, sizeof *index * (size_t)count);
    if (status == SV_OK) status = c->device->upload(c, from.offsets, offsets, sizeof offsets);
    if (status == SV_OK) status = c->device->queue_wait(c);
    if (status == SV_OK) status = sv_nms(c, &out, &from, rule);
    char name[160];
    if (status == SV_OK) {
        snprintf(name, sizeof name, "%s/selected", group);
        status = check_tensor(run, file, name, out.index, NULL);
    }
    snprintf(name, sizeof name, "%s/scores", group);
    if (status == SV_OK && check_has(file, name)) status = check_tensor(run, file, name, out.scores, NULL);
    free(boxes);
    free(scores);
    free(labels);
    free(index);
    return status;
}

/* The class thresholds: 'thr': x entries of the attribute whose name begins with the group's. */
static int class_thresholds(check_run *run, check_file *file, const char *group, float *out, int most)
{
    static const char *const names[] = {"%s", "%s_thr_0.3_0.2_0.1"};
    int count = 0;
    for (size_t k = 0; k < 2 && count == 0; k++) {
        char name[160], *text = NULL;
        snprintf(name, sizeof name, k == 0 ? names[0] : names[1], group);
        if (!sv_h5_has_attribute(file->h5, name) || sv_h5_text(run->c, file->h5, name, &text) != SV_OK)
            continue;
        for (const char *p = strstr(text, "'thr': "); p && count < most; p = strstr(p + 1, "'thr': "))
            out[count++] = (float)atof(p + 7);
        free(text);
    }
    return count;
}

static sv_status compare_groups(check_run *run, check_file *file, const inputs *in)
{
    for (int i = 0; i < file->count; i++) {
        char group[128];
        const char *slash = strstr(file->names[i], "/selected");
        if (!slash) continue;
        snprintf(group, sizeof group, "%.*s", (int)(slash - file->names[i]), file->names[i]);
        sv_nms_rule rule = {.classes = 0};
        for (int k = 0; k < SV_NMS_CLASSES; k++) {
            rule.pre_max[k] = (int32_t)in->pre_max;
            rule.post_max[k] = (int32_t)in->post_max;
        }
        if (strncmp(group, "class_agnostic_thr", 18) == 0) {
            rule.threshold[0] = (float)atof(group + 18);
            SV_TRY(compare(run, file, in, group, &rule, in->score_thresh));
        } else if (strncmp(group, "multi_class", 11) == 0) {
            rule.classes = class_thresholds(run, file, group, rule.threshold, SV_NMS_CLASSES);
            SV_CHECK(run->c, rule.classes > 0, SV_UNSUPPORTED,
                     "the class thresholds of '%s' are not recorded", group);
            rule.quarter_turn = true;
            for (int k = 0; k < rule.classes;
                 k++) { /* the Waymo model's settings; it has no score threshold at this place */
                rule.pre_max[k] = 4096;
                rule.post_max[k] = 500;
            }
            SV_TRY(compare(run, file, in, group, &rule, -INFINITY));
        }
    }
    return SV_OK;
}

/* iou[n,n] of the first boxes; pairs that the recording set to zero for their distance are compared as zero. */
static sv_status compare_iou(check_run *run, check_file *file, const inputs *in, const char *name, float turn)
{
    if (!check_has(file, name)) return SV_OK;
    sv_h5_array want;
    SV_TRY(check_read(run, file, name, &want));
    const int n = want.ndim == 2 ? (int)want.dim[0] : 0;
    float *iou = calloc(want.count + 1, sizeof *iou);
    sv_rectangle *rectangle = calloc((size_t)n + 1, sizeof *rectangle);
    SV_CHECK(run->c, iou && rectangle && n <= in->count, SV_BAD_INPUT,
             "%s: '%s' is larger than the list of boxes", file->path, name);
    for (int i = 0; i < n; i++) {
        const float *b = in->boxes.f + 7 * (size_t)i;
        rectangle[i] = sv_rectangle_make(b[0], b[1], b[3], b[4], b[6] - turn);
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            if (fabsf(rectangle[i].x - rectangle[j].x) <= 8 && fabsf(rectangle[i].y - rectangle[j].y) <= 8)
                iou[(size_t)i * (size_t)n + (size_t)j] = sv_iou_bev(&rectangle[i], &rectangle[j], 0, true);
    check_floats(run, file, name, iou, want.f, want.count, 1e-5);
    free(iou);
    free(rectangle);
    sv_h5_array_free(&want);
    return SV_OK;
}

static sv_status run_inputs(check_run *run, check_file *file, inputs *in)
{
    SV_TRY(check_read(run, file, "boxes", &in->boxes));
    SV_TRY(check_read(run, file, "scores", &in->scores));
    SV_TRY(check_read(run, file, "labels0", &in->labels));
    SV_TRY(sv_h5_number(run->c, file->h5, "score_thresh", &in->score_thresh));
    SV_TRY(sv_h5_number(run->c, file->h5, "pre_max", &in->pre_max));
    SV_TRY(sv_h5_number(run->c, file->h5, "post_max", &in->post_max));
    in->count = (int)in->scores.count;
    SV_CHECK(run->c,
             in->boxes.count == 7 * in->scores.count && in->labels.integer &&
                 in->labels.count == in->scores.count,
             SV_BAD_INPUT, "%s: %zu box numbers, %zu scores and %zu labels do not belong together",
             file->path, in->boxes.count, in->scores.count, in->labels.count);
    in->order = malloc(sizeof *in->order * (size_t)in->count + 1);
    SV_CHECK(run->c, in->order, SV_NO_MEMORY, "no memory");
    for (int i = 0; i < in->count; i++) in->order[i] = i;
    sort_scores = in->scores.f;
    qsort(in->order, (size_t)in->count, sizeof *in->order, by_score);
    SV_TRY(compare_groups(run, file, in));
    SV_TRY(compare_iou(run, file, in, "iou_bev_true", 0));
    return compare_iou(run, file, in, "iou_bev_waymo_quirk", 1.57079632679489662f);
}

static sv_status run_nms(check_run *run, check_file *file)
{
    inputs in = {0};
    const sv_status status = run_inputs(run, file, &in);
    sv_h5_array_free(&in.boxes);
    sv_h5_array_free(&in.scores);
    sv_h5_array_free(&in.labels);
    free(in.order);
    return status;
}

const check_kind check_nms = {"non-maximum suppression", is_nms, run_nms};
