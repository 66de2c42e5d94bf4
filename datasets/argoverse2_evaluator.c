/* SPDX-License-Identifier: Apache-2.0
 *
 * The measure of Argoverse 2 as an evaluator. Results are text files per sweep (object_text.h), or one
 * Feather file of all detections as the official tools take it (log_id, timestamp_ns, category, box, score).
 *
 * Rules: 'roi', the leaderboard's, where boxes count that have a corner in the region of interest of their
 * log's map; 'everywhere' needs no maps. One region is in memory at a time: samples come log by log.
 *
 * Self-check: every label that counts is a detection with score 1. Each finds itself at distance 0, so a
 * class with labels has AP and CDS 1 and errors 0.
 */
#include "argoverse2.h"
#include "argoverse2_results.h"
#include "argoverse2_roi.h"
#include "curve_sheet.h"
#include "dataset_type.h"
#include "evaluator_type.h"
#include "match_picture.h"
#include "object_result.h"
#include "object_submission.h"
#include "object_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 4096, K = SV_ARGOVERSE2_CLASSES, T = SV_ARGOVERSE2_THRESHOLDS };

enum { ROI, EVERYWHERE };
static const char *const rules[] = {[ROI] = "roi", [EVERYWHERE] = "everywhere"};

typedef struct argoverse {
    sv_argoverse2_eval *eval;
    sv_argoverse2_scores *scores; /* after finish */
    int other_class;              /* boxes of detectors that are not scored; atomic */
    sv_argoverse2_roi roi;        /* of the sequence */
    int roi_sequence;             /* -1: none yet */
} argoverse;

static sv_status open_argoverse2(sv_ctx *c, sv_evaluator *e)
{
    argoverse *a = calloc(1, sizeof *a);
    e->own = a;
    SV_CHECK(c, a, SV_NO_MEMORY, "no memory for the evaluator");
    a->roi_sequence = -1;
    a->scores = calloc(1, sizeof *a->scores);
    SV_CHECK(c, a->scores, SV_NO_MEMORY, "no memory for scores");
    return sv_argoverse2_eval_open(c, &a->eval);
}

static void close_argoverse2(sv_evaluator *e)
{
    argoverse *a = e->own;
    if (!a) return;
    sv_argoverse2_eval_close(a->eval);
    sv_argoverse2_roi_free(&a->roi);
    free(a->scores);
    free(a);
}

/* ---- results of a sample ------------------------------------------------------------------------------ */

static sv_status result_of_boxes(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                                 const char *const *classes, const sv_box *boxes, int count,
                                 sv_eval_result *out)
{
    argoverse *a = e->own;
    return sv_object_result_of_boxes(c, e, sample, classes, boxes, count, &a->other_class, out);
}

static const char *missing_rule(const sv_evaluator *e)
{
    (void)e;
    return "sweeps without results count as sweeps without detections";
}

/* ---- scoring ------------------------------------------------------------------------------------------ */

static sv_argoverse2_object object_of(const sv_box *b, int kind, int points)
{
    return (sv_argoverse2_object){.centre = {(double)b->x, (double)b->y, (double)b->z},
                                  .size = {(double)b->dx, (double)b->dy, (double)b->dz},
                                  .heading = (double)b->heading,
                                  .score = (double)b->score,
                                  .kind = kind,
                                  .points = points};
}

static sv_status read_roi(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample, sv_argoverse2_roi *out)
{
    const sv_dataset *d = e->dataset;
    char folder[PATH];
    SV_CHECK(c, sample->has_pose, SV_BAD_INPUT,
             "sample %s: city_SE3_egovehicle.feather has no pose for it, by which the region of interest is "
             "found: without it the rule is 'everywhere'",
             sample->id);
    SV_TRY(sv_dataset_path(c, folder, sizeof folder, "%s/%s/%s/map", d->root, d->split,
                           d->sequences[sample->sequence].name));
    return sv_argoverse2_roi_read(c, folder, out);
}

/* Whether none of the box's corners is in the region. */
static bool lies_outside(const sv_argoverse2_roi *roi, const sv_pose *to_city, const sv_argoverse2_object *o)
{
    const double cosine = cos(o->heading), sine = sin(o->heading);
    for (int corner = 0; corner < 8; corner++) {
        double half[3], city[3];
        for (int i = 0; i < 3; i++) half[i] = o->size[i] / 2 * (corner >> i & 1 ? 1 : -1);
        const double at[3] = {o->centre[0] + half[0] * cosine - half[1] * sine,
                              o->centre[1] + half[0] * sine + half[1] * cosine, o->centre[2] + half[2]};
        sv_pose_apply(to_city, at, city);
        if (sv_argoverse2_roi_holds(roi, city[0], city[1])) return false;
    }
    return true;
}

/* malloc'ed labels, behind them the detections. 'roi' NULL: everything counts. */
static sv_status gather(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                        const sv_eval_result *result, const sv_argoverse2_roi *roi,
                        sv_argoverse2_object **out, int *detections)
{
    const int labels = sample->label_count, count = e->self_check ? labels : result ? result->count : 0;
    *detections = 0;
    *out = malloc(sizeof **out * (size_t)(labels + count + 1));
    SV_CHECK(c, *out, SV_NO_MEMORY, "sample %s: no memory to score it", sample->id);
    for (int i = 0; i < labels; i++)
        (*out)[i] =
            object_of(&sample->labels[i].box, sample->labels[i].box.label - 1, sample->labels[i].points);
    for (int i = 0; i < count; i++) {
        sv_argoverse2_object *to = *out + labels + *detections;
        if (e->self_check) {
            if (sample->labels[i].points <= 0) continue;
            *to = (*out)[i];
            to->score = 1;
        } else {
            const sv_object_line *line = (const sv_object_line *)result->data + i;
            const int k = sv_object_class_like(e->dataset, line->type);
            if (k < 0) {
                free(*out);
                return SV_FAIL(c, SV_BAD_INPUT,
                               "sample %s: a result is of the class '%.31s', which Argoverse 2 has not",
                               sample->id, line->type);
            }
            *to = object_of(&line->box, k, 0);
        }
        ++*detections;
    }
    for (int i = 0; roi && i < labels + *detections; i++)
        (*out)[i].outside = lies_outside(roi, &sample->ego_to_world, &(*out)[i]);
    return SV_OK;
}

static sv_status add(sv_ctx *c, sv_evaluator *e, const sv_sample *sample, const sv_eval_result *result)
{
    argoverse *a = e->own;
    sv_argoverse2_object *objects;
    int count;
    const bool roi = e->rule == ROI;
    if (roi && a->roi_sequence != sample->sequence) {
        sv_argoverse2_roi_free(&a->roi);
        a->roi_sequence = -1;
        SV_TRY(read_roi(c, e, sample, &a->roi));
        a->roi_sequence = sample->sequence;
    }
    SV_CHECK(c, !roi || sample->has_pose, SV_BAD_INPUT,
             "sample %s: has no pose in city_SE3_egovehicle.feather", sample->id);
    SV_TRY(gather(c, e, sample, result, roi ? &a->roi : NULL, &objects, &count));
    const sv_status status = sv_argoverse2_eval_add(c, a->eval, sample->id, objects, sample->label_count,
                                                    objects + sample->label_count, count, NULL, NULL);
    free(objects);
    return status;
}

static sv_status finish(sv_ctx *c, sv_evaluator *e)
{
    argoverse *a = e->own;
    return sv_argoverse2_eval_finish(c, a->eval, a->scores);
}

/* ---- what comes out ----------------------------------------------------------------------------------- */

static void print_row(FILE *to, const char *name, const sv_argoverse2_class *k)
{
    fprintf(to, "%-32s %6.4f ", name, k->mean_ap);
    for (int t = 0; t < T; t++) fprintf(to, " %6.4f", k->ap[t]);
    fprintf(to, "  %6.4f %6.4f %6.4f  %6.4f %9lld %10lld\n", k->error[0], k->error[1], k->error[2], k->cds,
            (long long)k->labels, (long long)k->detections);
}

static void print(const sv_evaluator *e, FILE *to)
{
    const sv_argoverse2_scores *s = ((const argoverse *)e->own)->scores;
    fprintf(to, "%s: %lld sweeps, %lld labels, %lld detections; %s\n\n", sv_dataset_summary(e->dataset),
            (long long)s->sweeps, (long long)s->labels, (long long)s->detections,
            e->rule == ROI ? "in the region of interest" : "everywhere, unlike the leaderboard");
    fprintf(to, "%-32s %6s   0.5 m    1 m    2 m    4 m     ATE    ASE    AOE     CDS    labels detections\n",
            "", "AP");
    for (int k = 0; k < K; k++) print_row(to, sv_argoverse2_class_names[k], &s->of[k]);
    print_row(to, "mean", &s->mean);
}

static void json_class(sv_json *j, const char *name, const sv_argoverse2_class *k)
{
    static const char *const errors[] = {"ATE", "ASE", "AOE"};
    sv_json_key(j, name);
    sv_json_object(j, SV_JSON_LINES);
    sv_json_key(j, "AP"), sv_json_double(j, k->mean_ap);
    sv_json_key(j, "AP_by_threshold"), sv_json_array(j, SV_JSON_INLINE);
    for (int t = 0; t < T; t++) sv_json_double(j, k->ap[t]);
    sv_json_end(j);
    for (int i = 0; i < SV_ARGOVERSE2_ERRORS; i++) sv_json_key(j, errors[i]), sv_json_double(j, k->error[i]);
    sv_json_key(j, "CDS"), sv_json_double(j, k->cds);
    sv_json_key(j, "labels"), sv_json_int(j, k->labels);
    sv_json_key(j, "detections"), sv_json_int(j, k->detections);
    sv_json_end(j);
}

static void json(const sv_evaluator *e, sv_json *j)
{
    const sv_argoverse2_scores *s = ((const argoverse *)e->own)->scores;
    sv_json_key(j, "sweeps"), sv_json_int(j, s->sweeps);
    sv_json_key(j, "region_of_interest"), sv_json_bool(j, e->rule == ROI);
    sv_json_key(j, "classes"), sv_json_object(j, SV_JSON_LINES);
    for (int k = 0; k < K; k++) json_class(j, sv_argoverse2_class_names[k], &s->of[k]);
    sv_json_end(j);
    json_class(j, "mean", &s->mean);
}

static bool self_check(const sv_evaluator *e, FILE *to)
{
    const sv_argoverse2_scores *s = ((const argoverse *)e->own)->scores;
    bool all = true;
    fprintf(to, "%s: %lld sweeps; labels as detections\n\n%-32s %9s %8s %10s %8s %10s\n",
            sv_dataset_summary(e->dataset), (long long)s->sweeps, "", "labels", "AP", "attainable", "CDS",
            "attainable");
    for (int k = 0; k < K; k++) {
        const sv_argoverse2_class *of = &s->of[k];
        const double best = of->labels > 0 ? 1 : 0;
        const bool good = fabs(of->mean_ap - best) < 1e-9 && fabs(of->cds - best) < 1e-9;
        fprintf(to, "%-32s %9lld %8.4f %10.4f %8.4f %10.4f%s\n", sv_argoverse2_class_names[k],
                (long long)of->labels, of->mean_ap, best, of->cds, best, good ? "" : "   NOT REACHED");
        all = all && good;
    }
    fprintf(to, "\n%s\n",
            all ? "every score is what its labels allow (1 where there are any)"
                : "a score is not what its labels allow: more than 100 labels of a class in a sweep, or two "
                  "in one place");
    return all;
}

static void draw_panel(sv_image *image, int x, int y, int width, int height, const void *scores, int panel,
                       int text)
{
    const sv_argoverse2_class *of = &((const sv_argoverse2_scores *)scores)->of[panel];
    double recall[SV_ARGOVERSE2_POINTS];
    sv_plot_line lines[T];
    char names[T][32];
    for (int i = 0; i < SV_ARGOVERSE2_POINTS; i++) recall[i] = 0.01 * i;
    for (int t = 0; t < T; t++) {
        snprintf(names[t], sizeof names[t], "%g m %.3f", sv_argoverse2_thresholds[t], of->ap[t]);
        lines[t] = (sv_plot_line){.x = recall,
                                  .y = of->precision[t],
                                  .count = SV_ARGOVERSE2_POINTS,
                                  .colour = sv_plot_colour(t),
                                  .name = names[t]};
    }
    const sv_plot plot = sv_curve_plot(sv_argoverse2_class_names[panel], lines, T, text);
    sv_plot_draw(image, x, y, width, height, &plot);
}

enum { ACROSS = 5 };

static bool place_panel(const void *scores, int panel, int *column, int *row)
{
    (void)scores;
    *column = panel % ACROSS;
    *row = panel / ACROSS;
    return true;
}

static bool name_panel(const void *scores, int panel, char *out, size_t room)
{
    (void)scores;
    snprintf(out, room, "%s", sv_argoverse2_class_names[panel]);
    return true;
}

static sv_status curves(sv_ctx *c, const sv_evaluator *e, const char *path)
{
    const sv_curve_sheet sheet = {.scores = ((const argoverse *)e->own)->scores,
                                  .panels = K,
                                  .columns = ACROSS,
                                  .rows = (K + ACROSS - 1) / ACROSS,
                                  .place = place_panel,
                                  .name = name_panel,
                                  .draw = draw_panel};
    return sv_curve_sheet_write(c, &sheet, path);
}

static sv_status picture(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                         const sv_eval_result *result, sv_image *out)
{
    sv_argoverse2_object *objects = NULL;
    sv_argoverse2_eval *alone = NULL;
    int count = 0, drawn = 0;
    sv_argoverse2_roi roi = {0}; /* its own: pictures are drawn side by side */
    if (e->rule == ROI) SV_TRY(read_roi(c, e, sample, &roi));
    const sv_status gathered = gather(c, e, sample, result, e->rule == ROI ? &roi : NULL, &objects, &count);
    sv_argoverse2_roi_free(&roi);
    SV_TRY(gathered);
    const int labels = sample->label_count;
    const size_t room = (size_t)(labels + count) + 1;
    bool *good = calloc(room, sizeof *good);
    sv_match_box *boxes = calloc(room, sizeof *boxes);
    sv_status status = good && boxes
                           ? sv_argoverse2_eval_open(c, &alone)
                           : SV_FAIL(c, SV_NO_MEMORY, "sample %s: no memory for a picture", sample->id);
    if (status == SV_OK)
        status = sv_argoverse2_eval_add(c, alone, sample->id, objects, labels, objects + labels, count, good,
                                        good + labels);
    for (int i = 0; i < labels && status == SV_OK; i++)
        if (objects[i].kind >= 0 && objects[i].points > 0 && !objects[i].outside)
            boxes[drawn++] = (sv_match_box){sample->labels[i].box, sample->labels[i].type,
                                            good[i] ? SV_LABEL_FOUND : SV_LABEL_MISSED};
    for (int i = 0; result && i < count && status == SV_OK; i++) {
        const sv_object_line *line = (const sv_object_line *)result->data + i;
        if ((double)line->box.score >= e->picture_score && !objects[labels + i].outside)
            boxes[drawn++] = (sv_match_box){line->box, line->type,
                                            good[labels + i] ? SV_DETECTION_RIGHT : SV_DETECTION_FALSE};
    }
    const sv_match_view view = sv_match_view_around(sample, 100, false);
    if (status == SV_OK) status = sv_match_picture(c, sample, boxes, drawn, &view, out);
    sv_argoverse2_eval_close(alone);
    free(objects);
    free(good);
    free(boxes);
    return status;
}

const sv_evaluator_type sv_evaluator_type_argoverse2 = {
    .rules = rules,
    .rule_count = sizeof rules / sizeof *rules,
    .suffix = ".txt",
    .parts = SV_READ_LABELS,
    .open = open_argoverse2,
    .close = close_argoverse2,
    .result_of_boxes = result_of_boxes,
    .write_result = sv_object_result_write,
    .read_result = sv_object_result_read,
    .open_submission = sv_argoverse2_submission_open,
    .close_submission = sv_object_submission_close,
    .read_submission = sv_object_submission_read,
    .missing_rule = missing_rule,
    .add = add,
    .finish = finish,
    .print = print,
    .json = json,
    .curves = curves,
    .self_check = self_check,
    .picture = picture,
};
