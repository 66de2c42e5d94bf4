/* SPDX-License-Identifier: Apache-2.0
 *
 * The measure of object_eval.h as an evaluator, for ONCE and for custom data: results in text files, the
 * table, curves, self-check, pictures.
 *
 * Self-check: every label of a scored class is a detection with score 1. Each finds itself with overlap 1, so
 * a class with objects has AP 100 in every range that holds some.
 */
#include "curve_sheet.h"
#include "custom_dataset.h"
#include "evaluator_type.h"
#include "match_picture.h"
#include "object_result.h"
#include "object_submission.h"
#include "once_results.h"
#include "object_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 4096 };

typedef struct objects {
    sv_object_measure measure;
    int kinds[SV_OBJECT_CLASSES]; /* classes of the dataset to those of the measure */
    sv_object_eval *eval;
    sv_object_scores *scores; /* after finish */
    sv_object *labels, *detections;
    int label_room, detection_room;
    int other_class; /* boxes of detectors that are not scored; atomic */
} objects;

static sv_status open_measure(sv_ctx *c, sv_evaluator *e, const sv_object_measure *measure, const int *kinds)
{
    objects *o = calloc(1, sizeof *o);
    e->own = o;
    SV_CHECK(c, o, SV_NO_MEMORY, "no memory for the evaluator");
    o->measure = *measure;
    for (int k = 0; k < sv_dataset_class_count(e->dataset); k++) o->kinds[k] = kinds ? kinds[k] : k;
    o->scores = calloc(1, sizeof *o->scores);
    SV_CHECK(c, o->scores, SV_NO_MEMORY, "no memory for scores");
    return sv_object_eval_open(c, measure, &o->eval);
}

/* Cars, buses and lorries are one class of the benchmark. */
static sv_status open_once(sv_ctx *c, sv_evaluator *e)
{
    static const sv_object_measure measure = {
        .names = {"Vehicle", "Pedestrian", "Cyclist"}, .overlaps = {0.7, 0.3, 0.5}, .count = 3};
    static const int kinds[] = {0, 0, 0, 1, 2}; /* of sv_once_class_names */
    return open_measure(c, e, &measure, kinds);
}

static sv_status open_custom(sv_ctx *c, sv_evaluator *e)
{
    return open_measure(c, e, sv_custom_measure_of(e->dataset), NULL);
}

static void close_objects(sv_evaluator *e)
{
    objects *o = e->own;
    if (!o) return;
    sv_object_eval_close(o->eval);
    free(o->scores);
    free(o->labels);
    free(o->detections);
    free(o);
}

/* ---- results of a sample ------------------------------------------------------------------------------ */

static sv_status result_of_boxes(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                                 const char *const *classes, const sv_box *boxes, int count,
                                 sv_eval_result *out)
{
    objects *o = e->own;
    return sv_object_result_of_boxes(c, e, sample, classes, boxes, count, &o->other_class, out);
}

static const char *missing_rule(const sv_evaluator *e)
{
    (void)e;
    return "frames without a result file count as frames without detections";
}

/* ---- scoring ------------------------------------------------------------------------------------------ */

static sv_object object_of(const sv_box *b, int kind)
{
    return (sv_object){.x = (double)b->x,
                       .y = (double)b->y,
                       .z = (double)b->z,
                       .dx = (double)b->dx,
                       .dy = (double)b->dy,
                       .dz = (double)b->dz,
                       .heading = (double)b->heading,
                       .score = (double)b->score,
                       .kind = kind};
}

static sv_status reserve(sv_ctx *c, sv_object **list, int *room, int wanted)
{
    if (wanted <= *room) return SV_OK;
    sv_object *grown = realloc(*list, sizeof *grown * 2 * (size_t)wanted);
    SV_CHECK(c, grown, SV_NO_MEMORY, "no memory for %d objects", wanted);
    *list = grown;
    *room = 2 * wanted;
    return SV_OK;
}

/* Labels and detections of a sample as the measure takes them; those that have no place in it stay, as kind
 * -1. */
static sv_status gather(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                        const sv_eval_result *result, sv_object **labels, int *label_room,
                        sv_object **detections, int *detection_room)
{
    const objects *o = e->own;
    const int count = result ? result->count : 0;
    SV_TRY(reserve(c, labels, label_room, sample->label_count + 1));
    SV_TRY(reserve(c, detections, detection_room, count + sample->label_count + 1));
    for (int i = 0; i < sample->label_count; i++) {
        const sv_label *l = &sample->labels[i];
        (*labels)[i] = object_of(&l->box, l->has_box && l->box.label > 0 ? o->kinds[l->box.label - 1] : -1);
    }
    for (int i = 0; i < count; i++) {
        const sv_object_line *line = (const sv_object_line *)result->data + i;
        const int k = sv_object_class_like(e->dataset, line->type);
        SV_CHECK(c, k >= 0, SV_BAD_INPUT, "sample %s: a result is of the class '%.31s', which %s has not",
                 sample->id, line->type, sv_dataset_summary(e->dataset));
        (*detections)[i] = object_of(&line->box, o->kinds[k]);
    }
    return SV_OK;
}

static sv_status add(sv_ctx *c, sv_evaluator *e, const sv_sample *sample, const sv_eval_result *result)
{
    objects *o = e->own;
    int count = result ? result->count : 0;
    SV_TRY(gather(c, e, sample, result, &o->labels, &o->label_room, &o->detections, &o->detection_room));
    for (int i = 0; e->self_check && i < sample->label_count; i++) {
        o->detections[count] = o->labels[i];
        o->detections[count++].score = 1;
    }
    return sv_object_eval_add(c, o->eval, sample->id, o->labels, sample->label_count, o->detections, count);
}

static sv_status finish(sv_ctx *c, sv_evaluator *e)
{
    objects *o = e->own;
    if (o->other_class > 0)
        sv_log(c, SV_LOG_WARNING, "left out in all: %d boxes of other classes", o->other_class);
    return sv_object_eval_finish(c, o->eval, o->scores);
}

/* ---- what comes out ----------------------------------------------------------------------------------- */

static void print(const sv_evaluator *e, FILE *to)
{
    const objects *o = e->own;
    const sv_object_scores *s = o->scores;
    fprintf(to, "%s: %lld frames, %lld labels, %lld detections\n\n", sv_dataset_summary(e->dataset),
            (long long)s->frames, (long long)s->labels, (long long)s->detections);
    fprintf(to, "%-24s %8s %8s %10s", "AP, 50 places of recall", "overlap", "labels", "detections");
    for (int r = 0; r < SV_OBJECT_RANGES; r++) fprintf(to, " %8s", sv_object_range_names[r]);
    for (int k = 0; k < o->measure.count; k++) {
        fprintf(to, "\n%-24s %8.2f %8lld %10lld", o->measure.names[k], o->measure.overlaps[k],
                (long long)s->curve[k][0].labels, (long long)s->curve[k][0].detections);
        for (int r = 0; r < SV_OBJECT_RANGES; r++) fprintf(to, " %8.2f", s->curve[k][r].ap);
    }
    fprintf(to, "\n%-24s %8s %8s %10s", "mean", "", "", "");
    for (int r = 0; r < SV_OBJECT_RANGES; r++) fprintf(to, " %8.2f", s->mean[r]);
    fputc('\n', to);
}

static void json_numbers(sv_json *j, const char *key, const double *values, int count)
{
    sv_json_key(j, key);
    sv_json_array(j, SV_JSON_INLINE);
    for (int i = 0; i < count; i++) sv_json_double(j, values[i]);
    sv_json_end(j);
}

static void json(const sv_evaluator *e, sv_json *j)
{
    const objects *o = e->own;
    const sv_object_scores *s = o->scores;
    sv_json_key(j, "frames");
    sv_json_int(j, s->frames);
    sv_json_key(j, "classes");
    sv_json_object(j, SV_JSON_LINES);
    for (int k = 0; k < o->measure.count; k++) {
        sv_json_key(j, o->measure.names[k]);
        sv_json_object(j, SV_JSON_LINES);
        sv_json_key(j, "min_overlap");
        sv_json_double(j, o->measure.overlaps[k]);
        for (int r = 0; r < SV_OBJECT_RANGES; r++) {
            const sv_object_curve *curve = &s->curve[k][r];
            sv_json_key(j, sv_object_range_names[r]);
            sv_json_object(j, SV_JSON_LINES);
            sv_json_key(j, "AP");
            sv_json_double(j, curve->ap);
            sv_json_key(j, "labels");
            sv_json_int(j, curve->labels);
            sv_json_key(j, "detections");
            sv_json_int(j, curve->detections);
            json_numbers(j, "precision", curve->precision, SV_OBJECT_POINTS);
            json_numbers(j, "recall", curve->recall, curve->points);
            json_numbers(j, "threshold", curve->threshold, curve->points);
            sv_json_end(j);
        }
        sv_json_end(j);
    }
    sv_json_end(j);
    json_numbers(j, "mean_AP", s->mean, SV_OBJECT_RANGES);
}

static bool self_check(const sv_evaluator *e, FILE *to)
{
    const objects *o = e->own;
    const sv_object_scores *s = o->scores;
    bool all = true;
    fprintf(to, "%s: %lld frames; labels as detections\n\n%-40s %8s %10s %10s\n",
            sv_dataset_summary(e->dataset), (long long)s->frames, "", "labels", "AP", "attainable");
    for (int k = 0; k < o->measure.count; k++)
        for (int r = 0; r < SV_OBJECT_RANGES; r++) {
            const sv_object_curve *curve = &s->curve[k][r];
            const double best = sv_object_attainable(curve->labels);
            const bool good = fabs(curve->ap - best) < 1e-9;
            fprintf(to, "%-31s %-8s %8lld %10.4f %10.4f%s\n", o->measure.names[k], sv_object_range_names[r],
                    (long long)curve->labels, curve->ap, best, good ? "" : "   NOT REACHED");
            all = all && good;
        }
    fprintf(to, "\n%s\n",
            all ? "every score is what its number of labels allows (100 where there are any)"
                : "a score is not what its labels allow: labels of a class overlap each other by more than a "
                  "match needs");
    return all;
}

/* ---- curves ------------------------------------------------------------------------------------------- */

static void draw_panel(sv_image *image, int x, int y, int width, int height, const void *own, int kind,
                       int text)
{
    const objects *o = own;
    sv_plot_line lines[SV_OBJECT_RANGES];
    char names[SV_OBJECT_RANGES][48], title[80];
    for (int r = 0; r < SV_OBJECT_RANGES; r++) {
        const sv_object_curve *curve = &o->scores->curve[kind][r];
        snprintf(names[r], sizeof names[r], "%s %.2f", sv_object_range_names[r], curve->ap);
        lines[r] = (sv_plot_line){.x = curve->recall,
                                  .y = curve->precision,
                                  .count = curve->points,
                                  .colour = sv_plot_colour(r),
                                  .name = names[r]};
    }
    snprintf(title, sizeof title, "%s @%.2f", o->measure.names[kind], o->measure.overlaps[kind]);
    const sv_plot plot = sv_curve_plot(title, lines, SV_OBJECT_RANGES, text);
    sv_plot_draw(image, x, y, width, height, &plot);
}

static int columns_of(const objects *o)
{
    return o->measure.count < 4 ? o->measure.count : 4;
}

static bool place_panel(const void *own, int kind, int *column, int *row)
{
    *column = kind % columns_of(own);
    *row = kind / columns_of(own);
    return true;
}

static bool name_panel(const void *own, int kind, char *out, size_t room)
{
    snprintf(out, room, "%s", ((const objects *)own)->measure.names[kind]);
    return true;
}

static sv_status curves(sv_ctx *c, const sv_evaluator *e, const char *path)
{
    const objects *o = e->own;
    const sv_curve_sheet sheet = {.scores = o,
                                  .panels = o->measure.count,
                                  .columns = columns_of(o),
                                  .rows = (o->measure.count + columns_of(o) - 1) / columns_of(o),
                                  .place = place_panel,
                                  .name = name_panel,
                                  .draw = draw_panel};
    return sv_curve_sheet_write(c, &sheet, path);
}

/* ---- pictures ----------------------------------------------------------------------------------------- */

static sv_status picture(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                         const sv_eval_result *result, sv_image *out)
{
    const objects *o = e->own;
    const int count = result ? result->count : 0;
    const size_t room = (size_t)(sample->label_count + count) + 1;
    bool *found = calloc(room, sizeof *found), *right = calloc(room, sizeof *right);
    sv_match_box *boxes = calloc(room, sizeof *boxes);
    sv_object *labels = NULL, *detections = NULL;
    int label_room = 0, detection_room = 0, drawn = 0;
    sv_status status = found && right && boxes
                           ? SV_OK
                           : SV_FAIL(c, SV_NO_MEMORY, "sample %s: no memory for a picture", sample->id);
    if (status == SV_OK)
        status = gather(c, e, sample, result, &labels, &label_room, &detections, &detection_room);
    if (status == SV_OK)
        status = sv_object_eval_verdicts(c, &o->measure, labels, sample->label_count, detections, count,
                                         e->picture_score, found, right);
    for (int i = 0; i < sample->label_count && status == SV_OK; i++)
        if (labels[i].kind >= 0)
            boxes[drawn++] = (sv_match_box){sample->labels[i].box, sample->labels[i].type,
                                            found[i] ? SV_LABEL_FOUND : SV_LABEL_MISSED};
    for (int i = 0; i < count && status == SV_OK; i++) {
        const sv_object_line *line = (const sv_object_line *)result->data + i;
        if ((double)line->box.score >= e->picture_score)
            boxes[drawn++] =
                (sv_match_box){line->box, line->type, right[i] ? SV_DETECTION_RIGHT : SV_DETECTION_FALSE};
    }
    const sv_match_view view = sv_match_view_around(sample, 60, false);
    if (status == SV_OK) status = sv_match_picture(c, sample, boxes, drawn, &view, out);
    free(labels);
    free(detections);
    free(found);
    free(right);
    free(boxes);
    return status;
}

#define OBJECT_EVALUATOR(opener)                                                                             \
    .suffix = ".txt", .parts = SV_READ_LABELS, .open = opener, .close = close_objects,                       \
    .result_of_boxes = result_of_boxes, .write_result = sv_object_result_write,                              \
    .read_result = sv_object_result_read, .missing_rule = missing_rule, .add = add, .finish = finish,        \
    .print = print, .json = json, .curves = curves, .self_check = self_check, .picture = picture
const sv_evaluator_type sv_evaluator_type_once = {
    OBJECT_EVALUATOR(open_once), .open_submission = sv_once_submission_open,
    .close_submission = sv_object_submission_close, .read_submission = sv_object_submission_read};
const sv_evaluator_type sv_evaluator_type_custom = {OBJECT_EVALUATOR(open_custom)};
