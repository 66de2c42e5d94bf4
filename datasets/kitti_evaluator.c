/* SPDX-License-Identifier: Apache-2.0
 *
 * The KITTI object benchmark as an evaluator: result files, the table, curves, self-check and pictures around
 * kitti_eval.h.
 *
 * Self-check: for every class, the labels of the class and of its neighbouring class (a van beside a car)
 * serve as detections of the class, all with the same score. Then every label finds itself in pass 1, in the
 * file's order, and every threshold has precision 1, so the score is exactly what the number of objects
 * allows. The neighbours are needed: a van that found no detection of its own would take that of a car it
 * hides, and the car would be missed.
 */
#include "curve_sheet.h"
#include "evaluator_type.h"
#include "match_picture.h"
#include "kitti_dataset.h"
#include "kitti_ranges.h"
#include "dataset_type.h"

#include "perception/core/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const rules[] = {"devkit", "python"};
enum { RULES = sizeof rules / sizeof *rules };

typedef struct kitti {
    sv_kitti_eval *eval[SV_KITTI_CLASSES]; /* only the first, except for the self-check: one per class */
    sv_kitti_scores *scores;               /* after finish */
    sv_kitti_range_counts ranges[SV_KITTI_CLASSES][SV_KITTI_RANGES]; /* not for the self-check */
} kitti;

static sv_kitti_rule rule_of(const sv_evaluator *e)
{
    return e->rule == 1 ? SV_KITTI_PYTHON : SV_KITTI_DEVKIT;
}

static sv_status open_kitti(sv_ctx *c, sv_evaluator *e)
{
    kitti *k = calloc(1, sizeof *k);
    e->own = k;
    SV_CHECK(c, k, SV_NO_MEMORY, "no memory for the evaluator");
    k->scores = calloc(1, sizeof *k->scores);
    SV_CHECK(c, k->scores, SV_NO_MEMORY, "no memory for scores");
    for (int i = 0; i < (e->self_check ? SV_KITTI_CLASSES : 1); i++)
        SV_TRY(sv_kitti_eval_open(c, rule_of(e), &k->eval[i]));
    return SV_OK;
}

static void close_kitti(sv_evaluator *e)
{
    kitti *k = e->own;
    if (!k) return;
    for (int i = 0; i < SV_KITTI_CLASSES; i++) sv_kitti_eval_close(k->eval[i]);
    free(k->scores);
    free(k);
}

/* ---- results ------------------------------------------------------------------------------------------ */

/* What a reader makes of a number in a result file, which has the digits of a float. */
static double as_written(double value)
{
    char text[SV_NUMBER_TEXT];
    double read = value;
    if (!isfinite(value)) return value;
    sv_text_from_float(text, (float)value);
    sv_text_number(text, &read);
    return read;
}

static void round_object(sv_kitti_object *o)
{
    double *const numbers[] = {&o->truncated, &o->alpha, &o->x1, &o->y1, &o->x2, &o->y2, &o->h,
                               &o->w,         &o->l,     &o->x,  &o->y,  &o->z,  &o->ry, &o->score};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) *numbers[i] = as_written(*numbers[i]);
}

static sv_status result_of_boxes(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                                 const char *const *classes, const sv_box *boxes, int count,
                                 sv_eval_result *out)
{
    (void)e;
    const sv_kitti_sample *own = sv_kitti_sample_of(sample);
    sv_kitti_object *objects = malloc(sizeof *objects * (size_t)(count > 0 ? count : 1));
    SV_CHECK(c, objects, SV_NO_MEMORY, "sample %s: no memory for %d boxes", sample->id, count);
    for (int i = 0; i < count; i++) {
        /* Boxes behind the camera keep an empty image box: they are in the file, and ignored for their
         * height. */
        sv_kitti_object_of_box(&own->calibration, &boxes[i], classes[boxes[i].label - 1], own->width,
                               own->height, &objects[i]);
        round_object(&objects[i]);
    }
    *out = (sv_eval_result){objects, count};
    return SV_OK;
}

static sv_status write_result(sv_ctx *c, const char *path, const sv_eval_result *result)
{
    return sv_kitti_write_objects(c, path, result->data, result->count);
}

static sv_status read_result(sv_ctx *c, const char *path, sv_eval_result *out)
{
    sv_kitti_objects objects;
    SV_TRY(sv_kitti_read_objects(c, path, true, &objects));
    *out = (sv_eval_result){objects.data, objects.count};
    return SV_OK;
}

static const char *missing_rule(const sv_evaluator *e)
{
    return rule_of(e) == SV_KITTI_PYTHON
               ? "frames without a result file count as frames without detections, which is what the Python "
                 "program does with an empty file"
               : "frames without a result file are left out with their labels, as the development kit does";
}

/* ---- scoring ------------------------------------------------------------------------------------------ */

/* Labels of the class and its neighbour as detections of the class. */
static int labels_as_detections(const sv_kitti_objects *labels, int kitti_class, sv_kitti_object *out)
{
    static const char *const neighbours[SV_KITTI_CLASSES] = {"Van", "Person_sitting", NULL};
    const char *name = sv_kitti_class_names[kitti_class], *neighbour = neighbours[kitti_class];
    int count = 0;
    for (int i = 0; i < labels->count; i++) {
        const char *type = labels->data[i].type;
        if (strcasecmp(type, name) != 0 && !(neighbour && strcasecmp(type, neighbour) == 0)) continue;
        out[count] = labels->data[i];
        snprintf(out[count].type, sizeof out[count].type, "%s", name);
        out[count].score = 1;
        count++;
    }
    return count;
}

static sv_status add(sv_ctx *c, sv_evaluator *e, const sv_sample *sample, const sv_eval_result *result)
{
    kitti *k = e->own;
    const sv_kitti_objects *labels = &sv_kitti_sample_of(sample)->objects;
    sv_kitti_eval_frame frame = {.labels = labels->data, .label_count = labels->count};
    if (!e->self_check) {
        if (!result && rule_of(e) == SV_KITTI_DEVKIT) return SV_OK;
        frame.detections = result ? result->data : NULL;
        frame.detection_count = result ? result->count : 0;
        SV_TRY(sv_kitti_eval_add(c, k->eval[0], &frame, 1));
        return sv_kitti_count_ranges(c, rule_of(e), &frame, e->picture_score, k->ranges);
    }
    sv_kitti_object *detections =
        malloc(sizeof *detections * (size_t)(labels->count > 0 ? labels->count : 1));
    SV_CHECK(c, detections, SV_NO_MEMORY, "sample %s: no memory for %d labels", sample->id, labels->count);
    frame.detections = detections;
    sv_status status = SV_OK;
    for (int i = 0; i < SV_KITTI_CLASSES && status == SV_OK; i++) {
        frame.detection_count = labels_as_detections(labels, i, detections);
        status = sv_kitti_eval_add(c, k->eval[i], &frame, 1);
    }
    free(detections);
    return status;
}

static sv_status finish(sv_ctx *c, sv_evaluator *e)
{
    kitti *k = e->own;
    SV_TRY(sv_kitti_eval_finish(c, k->eval[0], k->scores));
    if (!e->self_check) return SV_OK;
    sv_kitti_scores *one = malloc(sizeof *one);
    SV_CHECK(c, one, SV_NO_MEMORY, "no memory for scores");
    sv_status status = SV_OK;
    for (int i = 1; i < SV_KITTI_CLASSES && status == SV_OK; i++) {
        status = sv_kitti_eval_finish(c, k->eval[i], one);
        for (int o = 0; o < SV_KITTI_OVERLAPS; o++)
            memcpy(k->scores->curve[o][i], one->curve[o][i], sizeof one->curve[o][i]);
        memcpy(k->scores->detected[i], one->detected[i], sizeof one->detected[i]);
        k->scores->detections += one->detections;
        k->scores->aos = k->scores->aos && one->aos;
    }
    free(one);
    return status;
}

/* ---- the table ---------------------------------------------------------------------------------------- */

/* The loose set has its own bev and 3d only. */
static bool in_set(int overlaps, int metric)
{
    return overlaps == 0 || metric == SV_KITTI_BEV || metric == SV_KITTI_3D;
}

static void print_rows(const sv_kitti_scores *s, int overlaps, FILE *to)
{
    for (int k = 0; k < SV_KITTI_CLASSES; k++) {
        bool named = false;
        for (int m = 0; m < SV_KITTI_METRICS; m++) {
            if (!in_set(overlaps, m)) continue;
            const sv_kitti_curve *curve = s->curve[overlaps][k][m];
            fprintf(to, "%-11s %-4s @%.2f", named ? "" : sv_kitti_class_names[k], sv_kitti_metric_names[m],
                    sv_kitti_min_overlap(overlaps, k, m));
            named = true;
            if (m == SV_KITTI_AOS && !s->aos) {
                fprintf(to, "   no angles (alpha -10)\n");
                continue;
            }
            fprintf(to, "  %8.4f %8.4f %8.4f   %8.4f %8.4f %8.4f\n", curve[0].r40, curve[1].r40, curve[2].r40,
                    curve[0].r11, curve[1].r11, curve[2].r11);
        }
    }
}

static void name_range(int range, char out[40])
{
    const double *from = sv_kitti_range_from + range;
    if (range + 1 < SV_KITTI_RANGES)
        snprintf(out, 40, "%g-%g m", from[0], from[1]);
    else
        snprintf(out, 40, "from %g m", from[0]);
}

static void print_ranges(const sv_evaluator *e, FILE *to)
{
    char name[40];
    fprintf(to, "\nrecall / precision seen from above, loose overlaps, scores from %g\n%-11s",
            e->picture_score, "");
    for (int r = 0; r < SV_KITTI_RANGES; r++) name_range(r, name), fprintf(to, "  %24s", name);
    for (int k = 0; k < SV_KITTI_CLASSES; k++) {
        fprintf(to, "\n%-11s", sv_kitti_class_names[k]);
        for (int r = 0; r < SV_KITTI_RANGES; r++) {
            const sv_kitti_range_counts *n = &((const kitti *)e->own)->ranges[k][r];
            char cell[64] = "no objects";
            if (n->found + n->missed > 0)
                snprintf(cell, sizeof cell, "%.3f / %.3f of %lld",
                         (double)n->found / (double)(n->found + n->missed),
                         n->found ? (double)n->found / (double)(n->found + n->wrong) : 0,
                         (long long)(n->found + n->missed));
            fprintf(to, "  %24s", cell);
        }
    }
    fputc('\n', to);
}

static void print(const sv_evaluator *e, FILE *to)
{
    const sv_kitti_scores *s = ((const kitti *)e->own)->scores;
    fprintf(to, "%s: %lld frames, %lld labels, %lld detections; rule %s\n\n", sv_dataset_summary(e->dataset),
            (long long)s->frames, (long long)s->labels, (long long)s->detections, rules[e->rule]);
    fprintf(to, "%-22s  %26s   %26s\n", "average precision, %", "R40   easy moderate     hard",
            "R11   easy moderate     hard");
    print_rows(s, 0, to);
    fprintf(to, "loose overlaps\n");
    print_rows(s, 1, to);
    fprintf(to, "\n%-22s  %8s %8s %8s\n", "objects that count", "easy", "moderate", "hard");
    for (int k = 0; k < SV_KITTI_CLASSES; k++)
        fprintf(to, "%-22s  %8lld %8lld %8lld%s\n", sv_kitti_class_names[k], (long long)s->valid[k][0],
                (long long)s->valid[k][1], (long long)s->valid[k][2],
                s->detected[k][SV_KITTI_BBOX] ? ""
                                              : "   never detected: the development kit prints no score");
    if (!e->self_check) print_ranges(e, to);
}

/* ---- JSON --------------------------------------------------------------------------------------------- */

static void json_numbers(sv_json *j, const char *key, const double *values, int count)
{
    if (key) sv_json_key(j, key);
    sv_json_array(j, SV_JSON_INLINE);
    for (int i = 0; i < count; i++) sv_json_double(j, values[i]);
    sv_json_end(j);
}

static void json_lists(sv_json *j, const char *key, const double *const lists[SV_KITTI_DIFFICULTIES],
                       const sv_kitti_curve *curve, bool whole)
{
    sv_json_key(j, key);
    sv_json_array(j, SV_JSON_LINES);
    for (int d = 0; d < SV_KITTI_DIFFICULTIES; d++)
        json_numbers(j, NULL, lists[d], whole ? SV_KITTI_POINTS : curve[d].points);
    sv_json_end(j);
}

static void json_metric(sv_json *j, const sv_kitti_curve *curve, double min_overlap)
{
    double r40[SV_KITTI_DIFFICULTIES], r11[SV_KITTI_DIFFICULTIES];
    const double *value[SV_KITTI_DIFFICULTIES], *recall[SV_KITTI_DIFFICULTIES],
        *threshold[SV_KITTI_DIFFICULTIES];
    for (int d = 0; d < SV_KITTI_DIFFICULTIES; d++) {
        r40[d] = curve[d].r40;
        r11[d] = curve[d].r11;
        value[d] = curve[d].value;
        recall[d] = curve[d].recall;
        threshold[d] = curve[d].threshold;
    }
    sv_json_object(j, SV_JSON_LINES);
    sv_json_key(j, "min_overlap");
    sv_json_double(j, min_overlap);
    json_numbers(j, "R40", r40, SV_KITTI_DIFFICULTIES);
    json_numbers(j, "R11", r11, SV_KITTI_DIFFICULTIES);
    json_lists(j, "curve", value, curve, true);
    json_lists(j, "recall", recall, curve, false);
    json_lists(j, "threshold", threshold, curve, false);
    sv_json_end(j);
}

static void json_ranges(sv_json *j, const sv_kitti_range_counts *counts)
{
    sv_json_key(j, "ranges");
    sv_json_array(j, SV_JSON_LINES);
    for (int r = 0; r < SV_KITTI_RANGES; r++) {
        const struct {
            const char *key;
            int64_t value;
        } numbers[] = {{"from_metres", (int64_t)sv_kitti_range_from[r]},
                       {"found", counts[r].found},
                       {"missed", counts[r].missed},
                       {"wrong", counts[r].wrong}};
        sv_json_object(j, SV_JSON_INLINE);
        for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
            sv_json_key(j, numbers[i].key), sv_json_int(j, numbers[i].value);
        sv_json_end(j);
    }
    sv_json_end(j);
}

static void json(const sv_evaluator *e, sv_json *j)
{
    const sv_kitti_scores *s = ((const kitti *)e->own)->scores;
    const struct {
        const char *key;
        int64_t value;
    } counts[] = {{"frames", s->frames}, {"labels", s->labels}, {"detections", s->detections}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        sv_json_key(j, counts[i].key);
        sv_json_int(j, counts[i].value);
    }
    sv_json_key(j, "difficulties");
    sv_json_array(j, SV_JSON_INLINE);
    for (int d = 0; d < SV_KITTI_DIFFICULTIES; d++) sv_json_text(j, sv_kitti_difficulty_names[d]);
    sv_json_end(j);
    sv_json_key(j, "classes");
    sv_json_object(j, SV_JSON_LINES);
    for (int k = 0; k < SV_KITTI_CLASSES; k++) {
        sv_json_key(j, sv_kitti_class_names[k]);
        sv_json_object(j, SV_JSON_LINES);
        sv_json_key(j, "objects");
        sv_json_array(j, SV_JSON_INLINE);
        for (int d = 0; d < SV_KITTI_DIFFICULTIES; d++) sv_json_int(j, s->valid[k][d]);
        sv_json_end(j);
        sv_json_key(j, "detected");
        sv_json_bool(j, s->detected[k][SV_KITTI_BBOX]);
        if (!e->self_check) json_ranges(j, ((const kitti *)e->own)->ranges[k]);
        for (int o = 0; o < SV_KITTI_OVERLAPS; o++) {
            sv_json_key(j, sv_kitti_overlap_names[o]);
            sv_json_object(j, SV_JSON_LINES);
            for (int m = 0; m < SV_KITTI_METRICS; m++) {
                if (!in_set(o, m)) continue;
                sv_json_key(j, sv_kitti_metric_names[m]);
                if (m == SV_KITTI_AOS && !s->aos)
                    sv_json_null(j);
                else
                    json_metric(j, s->curve[o][k][m], sv_kitti_min_overlap(o, k, m));
            }
            sv_json_end(j);
        }
        sv_json_end(j);
    }
    sv_json_end(j);
}

/* ---- self-check --------------------------------------------------------------------------------------- */

static bool same(double a, double b)
{
    return fabs(a - b) <= 1e-9;
}

static bool self_check(const sv_evaluator *e, FILE *to)
{
    const sv_kitti_scores *s = ((const kitti *)e->own)->scores;
    bool all = true;
    fprintf(to, "%s: %lld frames; labels as detections; rule %s\n\n", sv_dataset_summary(e->dataset),
            (long long)s->frames, rules[e->rule]);
    fprintf(to, "%-30s %8s %10s %10s %10s %10s\n", "", "objects", "R40", "attainable", "R11", "attainable");
    for (int o = 0; o < SV_KITTI_OVERLAPS; o++)
        for (int k = 0; k < SV_KITTI_CLASSES; k++)
            for (int m = 0; m < SV_KITTI_METRICS; m++) {
                if (!in_set(o, m) || (m == SV_KITTI_AOS && !s->aos)) continue;
                for (int d = 0; d < SV_KITTI_DIFFICULTIES; d++) {
                    const sv_kitti_curve *curve = &s->curve[o][k][m][d];
                    double r11, r40;
                    char name[40];
                    sv_kitti_attainable(s->valid[k][d], &r11, &r40);
                    const bool good = same(curve->r11, r11) && same(curve->r40, r40);
                    snprintf(name, sizeof name, "%s %s %s%s", sv_kitti_class_names[k],
                             sv_kitti_metric_names[m], sv_kitti_difficulty_names[d], o ? " loose" : "");
                    fprintf(to, "%-30s %8lld %10.4f %10.4f %10.4f %10.4f%s\n", name,
                            (long long)s->valid[k][d], curve->r40, r40, curve->r11, r11,
                            good ? "" : "   NOT REACHED");
                    all = all && good;
                }
            }
    if (!s->aos) fprintf(to, "aos: left out, a label has no angle (alpha -10)\n");
    fprintf(
        to, "\n%s\n",
        all ? "every score is what its number of objects allows (41 or more allow 100)"
            : "a score is not what its number of objects allows: labels without size, or objects that hide "
              "each other more than a match needs");
    return all;
}

/* ---- curves ------------------------------------------------------------------------------------------- */

/* Panels: overlaps, then classes, then metrics. */
static int panel_overlaps(int panel)
{
    return panel / (SV_KITTI_CLASSES * SV_KITTI_METRICS);
}
static int panel_class(int panel)
{
    return panel / SV_KITTI_METRICS % SV_KITTI_CLASSES;
}
static int panel_metric(int panel)
{
    return panel % SV_KITTI_METRICS;
}

/* One class and metric, its three difficulties. */
static void draw_panel(sv_image *image, int x, int y, int width, int height, const void *scores, int panel,
                       int text)
{
    const sv_kitti_scores *s = scores;
    const int overlaps = panel_overlaps(panel), kitti_class = panel_class(panel),
              metric = panel_metric(panel);
    double recall[SV_KITTI_POINTS];
    sv_plot_line lines[SV_KITTI_DIFFICULTIES];
    char names[SV_KITTI_DIFFICULTIES][48], title[80];
    for (int i = 0; i < SV_KITTI_POINTS; i++) recall[i] = i / (SV_KITTI_POINTS - 1.0);
    for (int d = 0; d < SV_KITTI_DIFFICULTIES; d++) {
        const sv_kitti_curve *curve = &s->curve[overlaps][kitti_class][metric][d];
        snprintf(names[d], sizeof names[d], "%s %.2f", sv_kitti_difficulty_names[d], curve->r40);
        lines[d] = (sv_plot_line){.x = recall,
                                  .y = curve->value,
                                  .count = curve->points,
                                  .colour = sv_plot_colour(d),
                                  .name = names[d]};
    }
    snprintf(title, sizeof title, "%s %s @%.2f, AP_R40", sv_kitti_class_names[kitti_class],
             sv_kitti_metric_names[metric], sv_kitti_min_overlap(overlaps, kitti_class, metric));
    sv_plot plot = sv_plot_default();
    plot.title = title;
    plot.x = (sv_plot_axis){.label = "recall", .low = 0, .high = 1};
    plot.y = (sv_plot_axis){
        .label = metric == SV_KITTI_AOS ? "orientation similarity" : "precision", .low = 0, .high = 1};
    plot.lines = lines;
    plot.line_count = SV_KITTI_DIFFICULTIES;
    plot.legend = SV_PLOT_LOWER_LEFT;
    plot.text = text;
    sv_plot_draw(image, x, y, width, height, &plot);
}

static bool place_panel(const void *scores, int panel, int *column, int *row)
{
    *column = panel_metric(panel);
    *row = panel_class(panel);
    return panel_overlaps(panel) == 0 && (*column != SV_KITTI_AOS || ((const sv_kitti_scores *)scores)->aos);
}

static bool name_panel(const void *scores, int panel, char *out, size_t room)
{
    const int overlaps = panel_overlaps(panel), metric = panel_metric(panel);
    snprintf(out, room, "%s_%s%s", sv_kitti_class_names[panel_class(panel)], sv_kitti_metric_names[metric],
             overlaps ? "_loose" : "");
    return in_set(overlaps, metric) && (metric != SV_KITTI_AOS || ((const sv_kitti_scores *)scores)->aos);
}

static sv_status curves(sv_ctx *c, const sv_evaluator *e, const char *path)
{
    const sv_kitti_scores *s = ((const kitti *)e->own)->scores;
    const sv_curve_sheet sheet = {.scores = s,
                                  .panels = SV_KITTI_OVERLAPS * SV_KITTI_CLASSES * SV_KITTI_METRICS,
                                  .columns = s->aos ? SV_KITTI_METRICS : SV_KITTI_METRICS - 1,
                                  .rows = SV_KITTI_CLASSES,
                                  .place = place_panel,
                                  .name = name_panel,
                                  .draw = draw_panel};
    return sv_curve_sheet_write(c, &sheet, path);
}

/* ---- pictures ----------------------------------------------------------------------------------------- */

/* Official overlaps in space at moderate difficulty: the matching of the curve that ranks detectors. */
enum { PICTURE_METRIC = SV_KITTI_3D, PICTURE_DIFFICULTY = 1 };

typedef struct drawing {
    sv_match_box *boxes;
    sv_kitti_verdict *label, *detection;
    int count;
} drawing;

static void add_box(drawing *d, const sv_kitti_calibration *calibration, const sv_kitti_object *o,
                    sv_match_look look)
{
    d->boxes[d->count++] = (sv_match_box){sv_kitti_box_of_object(calibration, o), o->type, look};
}

/* Labels first, so that detections lie above them. */
static void add_boxes(drawing *d, const sv_kitti_sample *own, const sv_eval_result *result)
{
    for (int i = 0; i < own->objects.count; i++) {
        const sv_kitti_object *o = &own->objects.data[i];
        if (strcasecmp(o->type, "DontCare") == 0) continue;
        const sv_match_look look = d->label[i] == SV_KITTI_FOUND    ? SV_LABEL_FOUND
                                   : d->label[i] == SV_KITTI_MISSED ? SV_LABEL_MISSED
                                                                    : SV_LABEL_IGNORED;
        add_box(d, &own->calibration, o, look);
    }
    for (int j = 0; result && j < result->count; j++) {
        const sv_kitti_object *o = (const sv_kitti_object *)result->data + j;
        if (d->detection[j] == SV_KITTI_OTHER) continue;
        const sv_match_look look = d->detection[j] == SV_KITTI_FOUND   ? SV_DETECTION_RIGHT
                                   : d->detection[j] == SV_KITTI_FALSE ? SV_DETECTION_FALSE
                                                                       : SV_DETECTION_IGNORED;
        add_box(d, &own->calibration, o, look);
    }
}

static sv_status picture(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                         const sv_eval_result *result, sv_image *out)
{
    const sv_kitti_sample *own = sv_kitti_sample_of(sample);
    const int labels = own->objects.count, detections = result ? result->count : 0;
    const size_t room = (size_t)(labels + detections) + 1;
    drawing d = {.boxes = calloc(room, sizeof *d.boxes),
                 .label = calloc(room, sizeof *d.label),
                 .detection = calloc(room, sizeof *d.detection)};
    sv_status status = d.boxes && d.label && d.detection
                           ? SV_OK
                           : SV_FAIL(c, SV_NO_MEMORY, "sample %s: no memory for a picture", sample->id);
    const sv_kitti_eval_frame frame = {own->objects.data, result ? result->data : NULL, labels, detections};
    if (status == SV_OK)
        status = sv_kitti_eval_verdicts(c, rule_of(e), &frame, 0, PICTURE_METRIC, PICTURE_DIFFICULTY,
                                        e->picture_score, d.label, d.detection, NULL);
    if (status == SV_OK) {
        char title[120];
        snprintf(title, sizeof title, "%s: %s, %s, official overlaps", sample->id,
                 sv_kitti_metric_names[PICTURE_METRIC], sv_kitti_difficulty_names[PICTURE_DIFFICULTY]);
        const sv_match_view view = {title, 0, 70, -40, 40, true};
        add_boxes(&d, own, result);
        status = sv_match_picture(c, sample, d.boxes, d.count, &view, out);
    }
    free(d.boxes);
    free(d.label);
    free(d.detection);
    return status;
}

const sv_evaluator_type sv_evaluator_type_kitti = {
    .rules = rules,
    .rule_count = RULES,
    .suffix = ".txt",
    .parts = SV_READ_LABELS,
    .box_parts = SV_READ_CAMERAS,
    .open = open_kitti,
    .close = close_kitti,
    .result_of_boxes = result_of_boxes,
    .write_result = write_result,
    .read_result = read_result,
    .missing_rule = missing_rule,
    .add = add,
    .finish = finish,
    .print = print,
    .json = json,
    .curves = curves,
    .self_check = self_check,
    .picture = picture,
};
