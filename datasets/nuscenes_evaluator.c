/* SPDX-License-Identifier: Apache-2.0
 *
 * The nuScenes detection measure as an evaluator: submissions, the table, curves, self-check and pictures around
 * nuscenes_eval.h.
 *
 * Self-check: every label of the ten classes is a detection with score 1, its own velocity (0 where that is not known)
 * and attribute. Each finds itself at distance 0, so a class with objects has AP 1 and errors 0; where no object of a
 * class has a velocity, or an attribute, its error is 1 by definition.
 */
#include "dataset_type.h"
#include "curve_sheet.h"
#include "evaluator_type.h"
#include "match_picture.h"
#include "nuscenes_dataset.h"
#include "nuscenes_results.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { K = SV_NUSCENES_CLASSES, D = SV_NUSCENES_DISTANCES, E = SV_NUSCENES_ERRORS, P = SV_NUSCENES_POINTS };

typedef struct nuscenes {
    sv_nuscenes_eval *eval;
    sv_nuscenes_scores *scores; /* after finish */
    int other_class, beyond;    /* boxes of detectors that cannot be written; atomic */
} nuscenes;

static sv_status open_nuscenes(sv_ctx *c, sv_evaluator *e)
{
    nuscenes *n = calloc(1, sizeof *n);
    e->own = n;
    SV_CHECK(c, n, SV_NO_MEMORY, "no memory for the evaluator");
    n->scores = calloc(1, sizeof *n->scores);
    SV_CHECK(c, n->scores, SV_NO_MEMORY, "no memory for scores");
    return sv_nuscenes_eval_open(c, &n->eval);
}

static void close_nuscenes(sv_evaluator *e)
{
    nuscenes *n = e->own;
    if (!n) return;
    sv_nuscenes_eval_close(n->eval);
    free(n->scores);
    free(n);
}

/* ---- results of a sample ------------------------------------------------------------------------------ */

static sv_status result_of_boxes(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                                 const char *const *classes, const sv_box *boxes, int count,
                                 sv_eval_result *out)
{
    nuscenes *n = e->own;
    const sv_nuscenes_record *record = sv_nuscenes_record_of(sample);
    sv_nuscenes_boxes list;
    int other, beyond;
    SV_TRY(sv_nuscenes_boxes_of(c, record->tables, record->sample, classes, boxes, count, &list, &other,
                                &beyond));
    *out = (sv_eval_result){list.data, list.count};
    if (other > 0 && __atomic_fetch_add(&n->other_class, other, __ATOMIC_RELAXED) == 0)
        sv_log(c, SV_LOG_WARNING,
               "sample %s: %d boxes are of classes that nuScenes has not, and are left out, here and in "
               "later samples",
               sample->id, other);
    if (beyond > 0 && __atomic_fetch_add(&n->beyond, beyond, __ATOMIC_RELAXED) == 0)
        sv_log(c, SV_LOG_WARNING,
               "sample %s: %d boxes are more than the %d that nuScenes takes; those with the lowest scores "
               "are left "
               "out, here and in later samples",
               sample->id, beyond, SV_NUSCENES_MOST_BOXES);
    return SV_OK;
}

/* The sample whose result file this is: ID.json. */
static sv_status sample_of_path(sv_ctx *c, const char *path, sv_nuscenes_token *out)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    SV_CHECK(c, dot && sv_nuscenes_token_parse(name, (size_t)(dot - name), out) && dot > name, SV_BAD_INPUT,
             "%s: a sample's result file is called after its token, TOKEN.json", path);
    return SV_OK;
}

static sv_status write_result(sv_ctx *c, const char *path, const sv_eval_result *result)
{
    sv_nuscenes_token sample;
    sv_nuscenes_writer writer;
    SV_TRY(sample_of_path(c, path, &sample));
    SV_TRY(sv_nuscenes_writer_open(c, path, false, &writer)); /* a sample by itself: no submission */
    sv_status status = sv_nuscenes_writer_add(c, &writer, sample, result->data, result->count);
    if (status == SV_OK) status = sv_nuscenes_writer_close(c, &writer);
    sv_nuscenes_writer_discard(&writer);
    return status;
}

static sv_status read_result(sv_ctx *c, const char *path, sv_eval_result *out)
{
    sv_nuscenes_token sample;
    sv_nuscenes_submission s;
    sv_nuscenes_boxes boxes = {0};
    SV_TRY(sample_of_path(c, path, &sample));
    SV_TRY(sv_nuscenes_submission_open(c, path, &s));
    sv_status status = SV_OK;
    if (s.count != 1 || !sv_nuscenes_token_same(s.slices[0].sample, sample))
        status =
            SV_FAIL(c, SV_BAD_INPUT, "%s: should hold one sample, the one it is called after; it holds %d",
                    path, s.count);
    if (status == SV_OK) status = sv_nuscenes_submission_read(c, &s, 0, &boxes);
    sv_nuscenes_submission_close(&s);
    /* places in files of their own decide nothing */
    for (int i = 0; i < boxes.count; i++) boxes.data[i].order = -1;
    *out = (sv_eval_result){boxes.data, boxes.count};
    return status;
}

/* ---- submissions -------------------------------------------------------------------------------------- */

typedef struct submission {
    sv_nuscenes_submission file;
    int32_t *slices; /* of the dataset's samples; -1 */
} submission;

static void close_submission(sv_submission *s)
{
    submission *own = s->own;
    sv_nuscenes_submission_close(&own->file);
    free(own->slices);
    free(own);
    s->own = NULL;
}

static sv_status open_submission(sv_ctx *c, const sv_evaluator *e, const char *path, sv_submission *out)
{
    const sv_nuscenes_tables *t = sv_nuscenes_tables_of(e->dataset);
    submission *own = calloc(1, sizeof *own);
    SV_CHECK(c, own, SV_NO_MEMORY, "%s: no memory", path);
    own->file.file = -1;
    out->own = own;
    own->slices = malloc(sizeof *own->slices * (size_t)(t->sample_count + 1));
    SV_CHECK(c, own->slices, SV_NO_MEMORY, "%s: no memory for %d samples", path, t->sample_count);
    sv_nuscenes_index samples;
    SV_CHECK(c, sv_nuscenes_index_open(&samples), SV_NO_MEMORY, "%s: no memory", path);
    bool good = true;
    for (int i = 0; i < t->sample_count; i++) {
        own->slices[i] = -1;
        good = good && sv_nuscenes_index_add(&samples, t->samples[i].token, i) == i;
    }
    sv_status status = good ? sv_nuscenes_submission_open(c, path, &own->file)
                            : SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for %d samples", path, t->sample_count);
    for (int i = 0; status == SV_OK && i < own->file.count; i++) {
        const int sample = sv_nuscenes_index_find(&samples, own->file.slices[i].sample);
        if (sample >= 0) {
            out->present[sample] = true;
            own->slices[sample] = i;
        } else if (out->extra++ == 0) {
            sv_nuscenes_token_text(own->file.slices[i].sample, out->first_extra);
        }
    }
    sv_nuscenes_index_close(&samples);
    return status;
}

static sv_status read_submission(sv_ctx *c, const sv_evaluator *e, const sv_submission *s, int sample,
                                 sv_eval_result *out)
{
    (void)e;
    const submission *own = s->own;
    sv_nuscenes_boxes boxes = {0};
    const sv_status status = sv_nuscenes_submission_read(c, &own->file, own->slices[sample], &boxes);
    *out = (sv_eval_result){boxes.data, boxes.count};
    return status;
}

static const char *missing_rule(const sv_evaluator *e)
{
    (void)e;
    return "samples without results count as samples without detections; the official program refuses such a "
           "file";
}

/* ---- scoring ------------------------------------------------------------------------------------------ */

static sv_nuscenes_frame frame_of(const sv_sample *sample, const sv_nuscenes_box *boxes, int count)
{
    const sv_nuscenes_record *r = sv_nuscenes_record_of(sample);
    const double *ego = r->tables->data[r->sample->data[0]].translation;
    return (sv_nuscenes_frame){.labels = r->tables->annotations + r->sample->first,
                               .label_count = r->sample->count,
                               .boxes = boxes,
                               .box_count = count,
                               .ego = {ego[0], ego[1]},
                               .name = sample->id};
}

static sv_status add_labels(sv_ctx *c, nuscenes *n, const sv_sample *sample)
{
    sv_nuscenes_frame f = frame_of(sample, NULL, 0);
    sv_nuscenes_box *boxes = malloc(sizeof *boxes * (size_t)(f.label_count + 1));
    SV_CHECK(c, boxes, SV_NO_MEMORY, "sample %s: no memory for %d labels", sample->id, f.label_count);
    for (int i = 0; i < f.label_count; i++) {
        const sv_nuscenes_annotation *a = &f.labels[i];
        /* what the sensors did not touch is not scored, and would be a false detection */
        if (a->detection_class < 0 || a->lidar_points + a->radar_points == 0) continue;
        sv_nuscenes_box *b = &boxes[f.box_count++];
        *b = (sv_nuscenes_box){
            .score = 1, .order = -1, .detection_class = a->detection_class, .attribute = a->attribute};
        memcpy(b->translation, a->translation, sizeof b->translation);
        memcpy(b->size, a->size, sizeof b->size);
        memcpy(b->rotation, a->rotation, sizeof b->rotation);
        for (int k = 0; k < 2; k++) b->velocity[k] = isnan(a->velocity[k]) ? 0 : a->velocity[k];
    }
    f.boxes = boxes;
    const sv_status status = sv_nuscenes_eval_add(c, n->eval, &f);
    free(boxes);
    return status;
}

static sv_status add(sv_ctx *c, sv_evaluator *e, const sv_sample *sample, const sv_eval_result *result)
{
    nuscenes *n = e->own;
    if (e->self_check) return add_labels(c, n, sample);
    const sv_nuscenes_frame f = frame_of(sample, result ? result->data : NULL, result ? result->count : 0);
    return sv_nuscenes_eval_add(c, n->eval, &f);
}

static sv_status finish(sv_ctx *c, sv_evaluator *e)
{
    nuscenes *n = e->own;
    if (n->other_class > 0 || n->beyond > 0)
        sv_log(c, SV_LOG_WARNING, "left out in all: %d boxes of other classes, %d beyond %d in a sample",
               n->other_class, n->beyond, SV_NUSCENES_MOST_BOXES);
    return sv_nuscenes_eval_finish(c, n->eval, n->scores);
}

/* ---- the table ---------------------------------------------------------------------------------------- */

static void print_error(FILE *to, double value)
{
    if (isnan(value))
        fprintf(to, " %6s", "-");
    else
        fprintf(to, " %6.4f", value);
}

static void print(const sv_evaluator *e, FILE *to)
{
    const sv_nuscenes_scores *s = ((const nuscenes *)e->own)->scores;
    static const char *const short_names[E] = {"ATE", "ASE", "AOE", "AVE", "AAE"};
    fprintf(to, "%s: %lld samples, %lld labels, %lld detections\n\n", sv_dataset_summary(e->dataset),
            (long long)s->samples, (long long)s->labels, (long long)s->detections);
    fprintf(to, "%-21s %6s  %6s %6s %6s %6s ", "", "AP", "0.5 m", "1 m", "2 m", "4 m");
    for (int i = 0; i < E; i++) fprintf(to, " %6s", short_names[i]);
    fprintf(to, "  %8s %10s\n", "labels", "detections");
    for (int k = 0; k < K; k++) {
        fprintf(to, "%-21s %6.4f ", sv_nuscenes_class_names[k], s->class_ap[k]);
        for (int d = 0; d < D; d++) fprintf(to, " %6.4f", s->curve[k][d].ap);
        fputc(' ', to);
        for (int i = 0; i < E; i++) print_error(to, s->class_error[k][i]);
        fprintf(to, "  %8lld %10lld\n", (long long)s->label_count[k], (long long)s->detection_count[k]);
    }
    fprintf(to, "%-21s %6.4f  %6s %6s %6s %6s ", "mean", s->mean_ap, "", "", "", "");
    for (int i = 0; i < E; i++) print_error(to, s->mean_error[i]);
    fprintf(to, "\n\nmAP %.4f   NDS %.4f\n", s->mean_ap, s->nds);
}

/* ---- JSON, with the names of the official summary ----------------------------------------------------- */

static void json_list(sv_json *j, const char *key, const double values[P])
{
    sv_json_key(j, key);
    sv_json_array(j, SV_JSON_INLINE);
    for (int i = 0; i < P; i++) sv_json_double(j, values[i]);
    sv_json_end(j);
}

static void json_errors(sv_json *j, const char *key, const double values[E])
{
    sv_json_key(j, key);
    sv_json_object(j, SV_JSON_INLINE);
    for (int i = 0; i < E; i++) {
        sv_json_key(j, sv_nuscenes_error_names[i]);
        sv_json_double(j, values[i]);
    }
    sv_json_end(j);
}

static void json_curves(sv_json *j, const sv_nuscenes_scores *s)
{
    sv_json_key(j, "curves");
    sv_json_object(j, SV_JSON_LINES);
    for (int k = 0; k < K; k++) {
        sv_json_key(j, sv_nuscenes_class_names[k]);
        sv_json_object(j, SV_JSON_LINES);
        for (int d = 0; d < D; d++) {
            char name[16];
            snprintf(name, sizeof name, "%.1f", sv_nuscenes_distances[d]);
            sv_json_key(j, name);
            sv_json_object(j, SV_JSON_LINES);
            json_list(j, "precision", s->curve[k][d].precision);
            json_list(j, "confidence", s->curve[k][d].confidence);
            for (int i = 0; i < E && d == SV_NUSCENES_ERROR_DISTANCE; i++)
                json_list(j, sv_nuscenes_error_names[i], s->error_curve[k][i]);
            sv_json_end(j);
        }
        sv_json_end(j);
    }
    sv_json_end(j);
}

static void json(const sv_evaluator *e, sv_json *j)
{
    const sv_nuscenes_scores *s = ((const nuscenes *)e->own)->scores;
    const struct {
        const char *key;
        int64_t value;
    } counts[] = {{"samples", s->samples}, {"labels", s->labels}, {"detections", s->detections}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        sv_json_key(j, counts[i].key);
        sv_json_int(j, counts[i].value);
    }
    sv_json_key(j, "counted");
    sv_json_object(j, SV_JSON_LINES);
    for (int k = 0; k < K; k++) {
        sv_json_key(j, sv_nuscenes_class_names[k]);
        sv_json_object(j, SV_JSON_INLINE);
        sv_json_key(j, "labels");
        sv_json_int(j, s->label_count[k]);
        sv_json_key(j, "detections");
        sv_json_int(j, s->detection_count[k]);
        sv_json_end(j);
    }
    sv_json_end(j);
    sv_json_key(j, "label_aps");
    sv_json_object(j, SV_JSON_LINES);
    for (int k = 0; k < K; k++) {
        sv_json_key(j, sv_nuscenes_class_names[k]);
        sv_json_object(j, SV_JSON_INLINE);
        for (int d = 0; d < D; d++) {
            char name[16];
            snprintf(name, sizeof name, "%.1f", sv_nuscenes_distances[d]);
            sv_json_key(j, name);
            sv_json_double(j, s->curve[k][d].ap);
        }
        sv_json_end(j);
    }
    sv_json_end(j);
    sv_json_key(j, "mean_dist_aps");
    sv_json_object(j, SV_JSON_LINES);
    for (int k = 0; k < K; k++) {
        sv_json_key(j, sv_nuscenes_class_names[k]);
        sv_json_double(j, s->class_ap[k]);
    }
    sv_json_end(j);
    sv_json_key(j, "mean_ap");
    sv_json_double(j, s->mean_ap);
    sv_json_key(j, "label_tp_errors");
    sv_json_object(j, SV_JSON_LINES);
    for (int k = 0; k < K; k++) json_errors(j, sv_nuscenes_class_names[k], s->class_error[k]);
    sv_json_end(j);
    json_errors(j, "tp_errors", s->mean_error);
    json_errors(j, "tp_scores", s->error_score);
    sv_json_key(j, "nd_score");
    sv_json_double(j, s->nds);
    json_curves(j, s);
}

/* ---- self-check --------------------------------------------------------------------------------------- */

static bool check_value(FILE *to, const char *name, const char *what, double got, double attainable)
{
    const bool good = (isnan(got) && isnan(attainable)) || fabs(got - attainable) <= 1e-9;
    if (isnan(attainable) && good) return true;
    fprintf(to, "%-21s %-11s %10.6f %10.6f%s\n", name, what, got, attainable, good ? "" : "   NOT REACHED");
    return good;
}

static bool self_check(const sv_evaluator *e, FILE *to)
{
    const sv_nuscenes_scores *s = ((const nuscenes *)e->own)->scores;
    sv_nuscenes_scores *best = malloc(sizeof *best);
    if (!best) return false;
    sv_nuscenes_attainable(s, best);
    fprintf(to, "%s: %lld samples, %lld labels; labels as detections\n\n", sv_dataset_summary(e->dataset),
            (long long)s->samples, (long long)s->labels);
    fprintf(to, "%-21s %-11s %10s %10s\n", "", "", "score", "attainable");
    bool all = true;
    for (int k = 0; k < K; k++) {
        all &= check_value(to, sv_nuscenes_class_names[k], "AP", s->class_ap[k], best->class_ap[k]);
        for (int i = 0; i < E; i++)
            all &= check_value(to, "", sv_nuscenes_error_names[i], s->class_error[k][i],
                               best->class_error[k][i]);
    }
    all &= check_value(to, "all", "mAP", s->mean_ap, best->mean_ap);
    for (int i = 0; i < E; i++)
        all &= check_value(to, "", sv_nuscenes_error_names[i], s->mean_error[i], best->mean_error[i]);
    all &= check_value(to, "", "NDS", s->nds, best->nds);
    free(best);
    fprintf(to, "\n%s\n",
            all ? "every score is what the labels allow (a class without objects has AP 0 and errors of 1, a "
                  "class whose "
                  "objects have no velocity or attribute has that error 1)"
                : "a score is not what the labels allow: objects of a class at the very same place");
    return all;
}

/* ---- curves ------------------------------------------------------------------------------------------- */

static void draw_precision(sv_image *image, int x, int y, int width, int height, const sv_nuscenes_scores *s,
                           int number, int text)
{
    double recall[P];
    sv_plot_line lines[D];
    char names[D][48], title[80];
    for (int i = 0; i < P; i++) recall[i] = 0.01 * i;
    for (int d = 0; d < D; d++) {
        snprintf(names[d], sizeof names[d], "%.1f m %.3f", sv_nuscenes_distances[d], s->curve[number][d].ap);
        lines[d] = (sv_plot_line){.x = recall,
                                  .y = s->curve[number][d].precision,
                                  .count = P,
                                  .colour = sv_plot_colour(d),
                                  .name = names[d]};
    }
    snprintf(title, sizeof title, "%s, AP %.3f", sv_nuscenes_class_names[number], s->class_ap[number]);
    const sv_plot plot = sv_curve_plot(title, lines, D, text);
    sv_plot_draw(image, x, y, width, height, &plot);
}

static void draw_errors(sv_image *image, int x, int y, int width, int height, const sv_nuscenes_scores *s,
                        int number, int text)
{
    double recall[P];
    sv_plot_line lines[E];
    char names[E][48], title[80];
    int count = 0;
    for (int i = 0; i < P; i++) recall[i] = 0.01 * i;
    for (int i = 0; i < E; i++) {
        const double mean = s->class_error[number][i];
        if (isnan(mean)) continue;
        snprintf(names[count], sizeof names[count], "%s %.3f", sv_nuscenes_error_names[i], mean);
        lines[count] = (sv_plot_line){.x = recall,
                                      .y = s->error_curve[number][i],
                                      .count = P,
                                      .colour = sv_plot_colour(i),
                                      .name = names[count]};
        count++;
    }
    snprintf(title, sizeof title, "%s, errors at 2 m", sv_nuscenes_class_names[number]);
    sv_plot plot = sv_plot_default();
    plot.title = title;
    plot.x = (sv_plot_axis){.label = "recall", .low = 0, .high = 1};
    plot.y = (sv_plot_axis){.label = "error (m, 1 - IoU, rad, m/s, 1 - accuracy)"};
    plot.lines = lines;
    plot.line_count = count;
    plot.legend = SV_PLOT_UPPER_LEFT;
    plot.text = text;
    sv_plot_draw(image, x, y, width, height, &plot);
}

/* A class has two panels, precision and errors. */
static void draw_panel(sv_image *image, int x, int y, int width, int height, const void *scores, int panel,
                       int text)
{
    (panel % 2 ? draw_errors : draw_precision)(image, x, y, width, height, scores, panel / 2, text);
}

enum { ACROSS = 5 };

static bool place_panel(const void *scores, int panel, int *column, int *row)
{
    (void)scores;
    *column = panel / 2 % ACROSS;
    *row = 2 * (panel / 2 / ACROSS) + panel % 2;
    return true;
}

static bool name_panel(const void *scores, int panel, char *out, size_t room)
{
    (void)scores;
    snprintf(out, room, "%s_%s", sv_nuscenes_class_names[panel / 2], panel % 2 ? "errors" : "precision");
    return true;
}

static sv_status curves(sv_ctx *c, const sv_evaluator *e, const char *path)
{
    const sv_curve_sheet sheet = {.scores = ((const nuscenes *)e->own)->scores,
                                  .panels = 2 * K,
                                  .columns = ACROSS,
                                  .rows = 2 * K / ACROSS,
                                  .place = place_panel,
                                  .name = name_panel,
                                  .draw = draw_panel};
    return sv_curve_sheet_write(c, &sheet, path);
}

/* ---- pictures ----------------------------------------------------------------------------------------- */

typedef struct drawing {
    sv_match_box *boxes;
    sv_nuscenes_verdict *labels, *detections;
    int count;
} drawing;

static void add_box(drawing *d, const sv_nuscenes_tables *t, const sv_nuscenes_annotation *a, int kind,
                    double score, sv_match_look look)
{
    double box[7], velocity[3];
    sv_nuscenes_lidar_box(t, a, box, velocity);
    d->boxes[d->count++] = (sv_match_box){.box = {.x = (float)box[0],
                                                  .y = (float)box[1],
                                                  .z = (float)box[2],
                                                  .dx = (float)box[3],
                                                  .dy = (float)box[4],
                                                  .dz = (float)box[5],
                                                  .heading = (float)box[6],
                                                  .score = (float)score},
                                          .type = sv_nuscenes_class_names[kind],
                                          .look = look};
}

/* Labels first, so that detections lie above them. */
static void add_boxes(drawing *d, const sv_nuscenes_record *r, const sv_nuscenes_frame *f, double least)
{
    for (int i = 0; i < f->label_count; i++) {
        if (f->labels[i].detection_class < 0) continue;
        const sv_match_look look = d->labels[i] == SV_NUSCENES_FOUND    ? SV_LABEL_FOUND
                                   : d->labels[i] == SV_NUSCENES_MISSED ? SV_LABEL_MISSED
                                                                        : SV_LABEL_IGNORED;
        add_box(d, r->tables, &f->labels[i], f->labels[i].detection_class, 0, look);
    }
    for (int i = 0; i < f->box_count; i++) {
        const sv_nuscenes_box *b = &f->boxes[i];
        if (b->score < least) continue;
        const sv_match_look look = d->detections[i] == SV_NUSCENES_FOUND   ? SV_DETECTION_RIGHT
                                   : d->detections[i] == SV_NUSCENES_FALSE ? SV_DETECTION_FALSE
                                                                           : SV_DETECTION_IGNORED;
        sv_nuscenes_annotation a = {.sample = (int32_t)(r->sample - r->tables->samples)};
        memcpy(a.translation, b->translation, sizeof a.translation);
        memcpy(a.size, b->size, sizeof a.size);
        memcpy(a.rotation, b->rotation, sizeof a.rotation);
        add_box(d, r->tables, &a, b->detection_class, b->score, look);
    }
}

static sv_status picture(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                         const sv_eval_result *result, sv_image *out)
{
    const sv_nuscenes_frame f = frame_of(sample, result ? result->data : NULL, result ? result->count : 0);
    const size_t room = (size_t)(f.label_count + f.box_count) + 1;
    drawing d = {.boxes = calloc(room, sizeof *d.boxes),
                 .labels = calloc(room, sizeof *d.labels),
                 .detections = calloc(room, sizeof *d.detections)};
    sv_status status = d.boxes && d.labels && d.detections
                           ? SV_OK
                           : SV_FAIL(c, SV_NO_MEMORY, "sample %s: no memory for a picture", sample->id);
    if (status == SV_OK) status = sv_nuscenes_eval_verdicts(c, &f, e->picture_score, d.labels, d.detections);
    if (status == SV_OK) {
        char title[120];
        sv_match_view view = sv_match_view_around(sample, 50, true);
        snprintf(title, sizeof title, "%s: official matching, 2 m", sample->id);
        view.title = title;
        add_boxes(&d, sv_nuscenes_record_of(sample), &f, e->picture_score);
        status = sv_match_picture(c, sample, d.boxes, d.count, &view, out);
    }
    free(d.boxes);
    free(d.labels);
    free(d.detections);
    return status;
}

const sv_evaluator_type sv_evaluator_type_nuscenes = {
    .suffix = ".json",
    .parts = SV_READ_LABELS,
    .box_parts = 0,
    .open = open_nuscenes,
    .close = close_nuscenes,
    .result_of_boxes = result_of_boxes,
    .write_result = write_result,
    .read_result = read_result,
    .open_submission = open_submission,
    .close_submission = close_submission,
    .read_submission = read_submission,
    .missing_rule = missing_rule,
    .refuses_extra = true,
    .add = add,
    .finish = finish,
    .print = print,
    .json = json,
    .curves = curves,
    .self_check = self_check,
    .picture = picture,
};
