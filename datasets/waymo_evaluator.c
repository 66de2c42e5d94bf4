/* SPDX-License-Identifier: Apache-2.0
 *
 * The Waymo benchmark as an evaluator: result files, the table, curves, self-check and pictures around
 * waymo_eval.h.
 *
 * Self-check: labels with points serve as detections of score 1. Every label then finds itself at every
 * cutoff, precision and recall are 1, and so is the area. A class or range without labels that count
 * scores 0, which is what it can attain.
 */
#include "dataset_type.h"
#include "curve_sheet.h"
#include "evaluator_type.h"
#include "match_picture.h"
#include "waymo_dataset.h"
#include "waymo_eval.h"

#include "perception/core/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { WAITING = 128 };

/* What sv_eval_result holds: an object says which frame it is of. */
typedef struct entry {
    sv_waymo_object object;
    sv_waymo_key key;
} entry;

/* Frames wait until there are enough of them for all threads. */
typedef struct waymo {
    sv_waymo_eval *eval;
    sv_waymo_scores *scores; /* after finish */
    sv_waymo_eval_frame waiting[WAITING];
    sv_waymo_object *objects[WAITING]; /* of a waiting frame: labels, then detections */
    int room[WAITING], count;
} waymo;

static sv_status open_waymo(sv_ctx *c, sv_evaluator *e)
{
    waymo *w = calloc(1, sizeof *w);
    e->own = w;
    SV_CHECK(c, w, SV_NO_MEMORY, "no memory for the evaluator");
    w->scores = calloc(1, sizeof *w->scores);
    SV_CHECK(c, w->scores, SV_NO_MEMORY, "no memory for scores");
    return sv_waymo_eval_open(c, &w->eval);
}

static void close_waymo(sv_evaluator *e)
{
    waymo *w = e->own;
    if (!w) return;
    sv_waymo_eval_close(w->eval);
    for (int i = 0; i < WAITING; i++) free(w->objects[i]);
    free(w->scores);
    free(w);
}

/* ---- results ------------------------------------------------------------------------------------------ */

static sv_status result_of_boxes(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                                 const char *const *classes, const sv_box *boxes, int count,
                                 sv_eval_result *out)
{
    entry *entries = calloc((size_t)count + 1, sizeof *entries);
    SV_CHECK(c, entries, SV_NO_MEMORY, "sample %s: no memory for %d boxes", sample->id, count);
    for (int i = 0; i < count; i++) {
        entry *n = &entries[i];
        n->object = sv_waymo_object_of_box(&boxes[i], classes[boxes[i].label - 1]);
        snprintf(n->key.context, sizeof n->key.context, "%s", sv_waymo_context(e->dataset, sample->index));
        n->key.timestamp = sv_waymo_timestamp(e->dataset, sample->index);
        if (n->object.type != SV_WAYMO_UNKNOWN) continue;
        free(entries);
        return SV_FAIL(c, SV_USAGE,
                       "the detector's class %s is none that Waymo scores: Vehicle, Pedestrian, Sign or "
                       "Cyclist",
                       classes[boxes[i].label - 1]);
    }
    *out = (sv_eval_result){entries, count};
    return SV_OK;
}

static sv_status write_result(sv_ctx *c, const char *path, const sv_eval_result *result)
{
    sv_wire_out bytes = {0};
    const entry *entries = result->data;
    for (int i = 0; i < result->count; i++)
        sv_waymo_put_object(&bytes, &entries[i].object, entries[i].key.context, entries[i].key.timestamp);
    sv_output file = {0};
    sv_status status =
        bytes.failed ? SV_FAIL(c, SV_NO_MEMORY, "%s: no memory", path) : sv_output_open(c, &file, path);
    if (status == SV_OK) {
        if (bytes.size > 0) fwrite(bytes.data, 1, bytes.size, file.stream);
        status = sv_output_commit(c, &file);
    }
    sv_wire_free(&bytes);
    return status;
}

static int keep_key(void *arg, const sv_waymo_key *key)
{
    *(sv_waymo_key *)arg = *key;
    return 0;
}

/* The frame's own file is small: it is walked over twice, once for the keys of its objects. */
static sv_status read_result(sv_ctx *c, const char *path, sv_eval_result *out)
{
    sv_waymo_key key = {.context = ""};
    sv_waymo_file file = {.run_count = 0};
    sv_waymo_object *objects = NULL;
    int count = 0;
    sv_status status = sv_waymo_file_open(c, path, keep_key, &key, &file);
    if (status == SV_OK) status = sv_waymo_file_read(c, &file, 0, &objects, &count);
    sv_waymo_file_close(&file);
    entry *entries = status == SV_OK ? calloc((size_t)count + 1, sizeof *entries) : NULL;
    if (status == SV_OK && !entries) status = SV_FAIL(c, SV_NO_MEMORY, "%s: no memory", path);
    for (int i = 0; i < count && status == SV_OK; i++) entries[i] = (entry){objects[i], key};
    free(objects);
    if (status == SV_OK) *out = (sv_eval_result){entries, count};
    return status;
}

/* ---- one file of all results -------------------------------------------------------------------------- */

typedef struct finder {
    const sv_dataset *dataset;
    sv_submission *out;
    sv_waymo_key last;
    int sample; /* of the last key; -2: none yet */
    int found;
} finder;

static int sample_of(void *arg, const sv_waymo_key *key)
{
    finder *f = arg;
    if (f->sample != -2 && key->timestamp == f->last.timestamp && strcmp(key->context, f->last.context) == 0)
        return f->sample;
    f->last = *key;
    f->sample = sv_waymo_find(f->dataset, key->context, key->timestamp);
    if (f->sample >= 0) {
        f->found++;
    } else if (f->out->extra++ == 0) {
        char id[160];
        snprintf(id, sizeof id, "%.50s_%lld", key->context, (long long)key->timestamp);
        snprintf(f->out->first_extra, sizeof f->out->first_extra, "%.79s", id);
    }
    return f->sample;
}

static sv_status open_submission(sv_ctx *c, const sv_evaluator *e, const char *path, sv_submission *out)
{
    sv_waymo_file *file = calloc(1, sizeof *file);
    out->own = file;
    SV_CHECK(c, file, SV_NO_MEMORY, "%s: no memory", path);
    finder f = {.dataset = e->dataset, .out = out, .sample = -2};
    SV_TRY(sv_waymo_file_open(c, out->path, sample_of, &f, file));
    /* A file of objects cannot say that a frame has none: those without are frames where nothing was
     * found. */
    for (int i = 0; i < sv_dataset_count(e->dataset) && f.found > 0; i++) out->present[i] = true;
    return SV_OK;
}

static void close_submission(sv_submission *submission)
{
    sv_waymo_file_close(submission->own);
    free(submission->own);
}

static sv_status read_submission(sv_ctx *c, const sv_evaluator *e, const sv_submission *submission,
                                 int sample, sv_eval_result *out)
{
    sv_waymo_object *objects;
    int count;
    SV_TRY(sv_waymo_file_read(c, submission->own, sample, &objects, &count));
    entry *entries = calloc((size_t)count + 1, sizeof *entries);
    for (int i = 0; i < count && entries; i++) {
        entries[i].object = objects[i];
        snprintf(entries[i].key.context, sizeof entries[i].key.context, "%s",
                 sv_waymo_context(e->dataset, sample));
        entries[i].key.timestamp = sv_waymo_timestamp(e->dataset, sample);
    }
    free(objects);
    SV_CHECK(c, entries, SV_NO_MEMORY, "%s: no memory for %d objects", submission->path, count);
    *out = (sv_eval_result){entries, count};
    return SV_OK;
}

static const char *missing_rule(const sv_evaluator *e)
{
    (void)e;
    return "frames without a result file count as frames without detections, as in the official program";
}

/* ---- scoring ------------------------------------------------------------------------------------------ */

static sv_waymo_object object_of_label(const sv_waymo_label *l)
{
    return (sv_waymo_object){.x = l->x,
                             .y = l->y,
                             .z = l->z,
                             .length = l->length,
                             .width = l->width,
                             .height = l->height,
                             .heading = l->heading,
                             .score = 1,
                             .type = l->type,
                             .points = l->points,
                             .level = l->level};
}

static sv_status judge_waiting(sv_ctx *c, waymo *w)
{
    const int count = w->count;
    w->count = 0;
    return sv_waymo_eval_add(c, w->eval, w->waiting, count);
}

static sv_status add(sv_ctx *c, sv_evaluator *e, const sv_sample *sample, const sv_eval_result *result)
{
    waymo *w = e->own;
    const sv_waymo_frame *frame = &sv_waymo_sample_of(sample)->frame;
    const entry *entries = result ? result->data : NULL;
    const int labels = frame->label_count,
              most = result          ? result->count
                     : e->self_check ? labels
                                     : 0,
              i = w->count;
    if (labels + most > w->room[i]) {
        const int room = 2 * (labels + most);
        sv_waymo_object *grown = realloc(w->objects[i], sizeof *grown * (size_t)room);
        SV_CHECK(c, grown, SV_NO_MEMORY, "sample %s: no memory for %d objects", sample->id, labels + most);
        w->objects[i] = grown;
        w->room[i] = room;
    }
    sv_waymo_object *objects = w->objects[i];
    int detections = 0;
    for (int k = 0; k < labels; k++) objects[k] = object_of_label(&frame->labels[k]);
    for (int k = 0; k < most; k++) {
        if (!result) { /* a self-check */
            if (objects[k].points > 0) objects[labels + detections++] = objects[k];
            continue;
        }
        SV_CHECK(c,
                 entries[k].key.timestamp == frame->timestamp &&
                     strcmp(entries[k].key.context, frame->context) == 0,
                 SV_BAD_INPUT, "sample %s: its result file has objects of the frame %s, %lld", sample->id,
                 entries[k].key.context, (long long)entries[k].key.timestamp);
        objects[labels + detections++] = entries[k].object;
    }
    w->waiting[i] = (sv_waymo_eval_frame){objects, objects + labels, labels, detections};
    w->count++;
    return w->count == WAITING ? judge_waiting(c, w) : SV_OK;
}

static sv_status finish(sv_ctx *c, sv_evaluator *e)
{
    waymo *w = e->own;
    SV_TRY(judge_waiting(c, w));
    return sv_waymo_eval_finish(c, w->eval, w->scores);
}

/* ---- the table ---------------------------------------------------------------------------------------- */

/* The mean over the classes that the leaderboard ranks: all but signs. */
static double mean_of(const sv_waymo_scores *s, int level, bool heading)
{
    double sum = 0;
    for (int k = 0; k < SV_WAYMO_CLASSES; k++)
        if (k + 1 != SV_WAYMO_SIGN)
            sum += (double)(heading ? s->curve[k][0].aph[level] : s->curve[k][0].ap[level]);
    return sum / (SV_WAYMO_CLASSES - 1);
}

static void name_row(int waymo_class, int range, char out[32])
{
    snprintf(out, 32, "%s%s", range ? "  " : sv_waymo_type_names[waymo_class + 1],
             sv_waymo_range_names[range]);
}

static void print(const sv_evaluator *e, FILE *to)
{
    const sv_waymo_scores *s = ((const waymo *)e->own)->scores;
    char name[32];
    fprintf(to, "%s: %lld frames, %lld labels with points, %lld detections\n\n",
            sv_dataset_summary(e->dataset), (long long)s->frames, (long long)s->labels,
            (long long)s->detections);
    fprintf(to, "%-14s  %26s   %26s\n", "", "LEVEL_1  objects   AP    APH", "LEVEL_2  objects   AP    APH");
    for (int k = 0; k < SV_WAYMO_CLASSES; k++)
        for (int r = 0; r < SV_WAYMO_RANGES; r++) {
            const sv_waymo_curve *curve = &s->curve[k][r];
            name_row(k, r, name);
            fprintf(to, "%-14s", name);
            for (int l = 0; l < SV_WAYMO_LEVELS; l++)
                fprintf(to, "  %12lld %7.4f %7.4f", (long long)s->valid[k][r][l], (double)curve->ap[l],
                        (double)curve->aph[l]);
            fprintf(to, "\n");
        }
    fprintf(to, "%-14s", "mean, no signs");
    for (int l = 0; l < SV_WAYMO_LEVELS; l++)
        fprintf(to, "  %12s %7.4f %7.4f", "", mean_of(s, l, false), mean_of(s, l, true));
    fprintf(to, "\n");
}

/* ---- JSON --------------------------------------------------------------------------------------------- */

static void json_curve(sv_json *j, const sv_waymo_curve *curve, const char *key, int which, int level)
{
    sv_json_key(j, key);
    sv_json_array(j, SV_JSON_INLINE);
    for (int i = 0; i < SV_WAYMO_CUTOFFS; i++) {
        const sv_waymo_counts *n = &curve->at[i];
        switch (which) {
        case 0:
            sv_json_int(j, n->found);
            break;
        case 1:
            sv_json_int(j, n->false_alarms);
            break;
        case 2:
            sv_json_int(j, n->missed[level]);
            break;
        case 3:
            sv_json_float(j, n->heading);
            break;
        default:
            sv_json_float(j, sv_waymo_cutoff(i));
        }
    }
    sv_json_end(j);
}

static void json_range(sv_json *j, const sv_waymo_scores *s, int waymo_class, int range)
{
    static const char *const levels[SV_WAYMO_LEVELS] = {"LEVEL_1", "LEVEL_2"};
    const sv_waymo_curve *curve = &s->curve[waymo_class][range];
    sv_json_key(j, range ? sv_waymo_range_names[range] : "all");
    sv_json_object(j, SV_JSON_LINES);
    json_curve(j, curve, "found", 0, 0);
    json_curve(j, curve, "false", 1, 0);
    json_curve(j, curve, "heading_accuracy", 3, 0);
    for (int l = 0; l < SV_WAYMO_LEVELS; l++) {
        sv_json_key(j, levels[l]);
        sv_json_object(j, SV_JSON_LINES);
        sv_json_key(j, "objects");
        sv_json_int(j, s->valid[waymo_class][range][l]);
        sv_json_key(j, "AP");
        sv_json_float(j, curve->ap[l]);
        sv_json_key(j, "APH");
        sv_json_float(j, curve->aph[l]);
        json_curve(j, curve, "missed", 2, l);
        sv_json_end(j);
    }
    sv_json_end(j);
}

static void json(const sv_evaluator *e, sv_json *j)
{
    const sv_waymo_scores *s = ((const waymo *)e->own)->scores;
    const struct {
        const char *key;
        int64_t value;
    } counts[] = {{"frames", s->frames}, {"labels", s->labels}, {"detections", s->detections}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        sv_json_key(j, counts[i].key);
        sv_json_int(j, counts[i].value);
    }
    static const char *const means[4] = {"mean_AP_LEVEL_1", "mean_APH_LEVEL_1", "mean_AP_LEVEL_2",
                                         "mean_APH_LEVEL_2"};
    for (int i = 0; i < 4; i++) {
        sv_json_key(j, means[i]);
        sv_json_double(j, mean_of(s, i / 2, i % 2));
    }
    json_curve(j, &s->curve[0][0], "cutoffs", 4, 0);
    sv_json_key(j, "classes");
    sv_json_object(j, SV_JSON_LINES);
    for (int k = 0; k < SV_WAYMO_CLASSES; k++) {
        sv_json_key(j, sv_waymo_type_names[k + 1]);
        sv_json_object(j, SV_JSON_LINES);
        for (int r = 0; r < SV_WAYMO_RANGES; r++) json_range(j, s, k, r);
        sv_json_end(j);
    }
    sv_json_end(j);
}

/* ---- self-check --------------------------------------------------------------------------------------- */

static bool self_check(const sv_evaluator *e, FILE *to)
{
    const sv_waymo_scores *s = ((const waymo *)e->own)->scores;
    bool all = true;
    char name[32];
    fprintf(to, "%s: %lld frames; labels as detections\n\n", sv_dataset_summary(e->dataset),
            (long long)s->frames);
    fprintf(to, "%-14s %-8s %8s %8s %8s %11s\n", "", "", "objects", "AP", "APH", "attainable");
    for (int k = 0; k < SV_WAYMO_CLASSES; k++)
        for (int r = 0; r < SV_WAYMO_RANGES; r++)
            for (int l = 0; l < SV_WAYMO_LEVELS; l++) {
                const sv_waymo_curve *curve = &s->curve[k][r];
                /* Found objects of LEVEL_2 count at LEVEL_1, too. */
                const float best = s->valid[k][r][SV_WAYMO_LEVELS - 1] > 0 ? 1 : 0;
                const bool good = fabsf(curve->ap[l] - best) <= 1e-5f && fabsf(curve->aph[l] - best) <= 1e-5f;
                name_row(k, r, name);
                fprintf(to, "%-14s %-8s %8lld %8.4f %8.4f %11.4f%s\n", l ? "" : name,
                        l ? "LEVEL_2" : "LEVEL_1", (long long)s->valid[k][r][l], (double)curve->ap[l],
                        (double)curve->aph[l], (double)best, good ? "" : "   NOT REACHED");
                all = all && good;
            }
    fprintf(to, "\n%s\n",
            all ? "every score is what its objects allow (1 where there are any)"
                : "a score is not what its objects allow: labels without size (1 cm or less, which overlap "
                  "nothing)");
    return all;
}

/* ---- curves ------------------------------------------------------------------------------------------- */

enum { LINES = 2 * SV_WAYMO_LEVELS };

/* A class in a range: both levels, with and without heading. */
static void draw_panel(sv_image *image, int x, int y, int width, int height, const void *scores, int panel,
                       int text)
{
    const int waymo_class = panel / SV_WAYMO_RANGES, range = panel % SV_WAYMO_RANGES;
    const sv_waymo_curve *curve = &((const sv_waymo_scores *)scores)->curve[waymo_class][range];
    double recall[LINES][SV_WAYMO_CUTOFFS], precision[LINES][SV_WAYMO_CUTOFFS];
    char names[LINES][48], title[80];
    sv_plot_line lines[LINES];
    for (int i = 0; i < LINES; i++) {
        const int level = i / 2;
        const bool heading = i % 2;
        for (int k = 0; k < SV_WAYMO_CUTOFFS; k++) {
            recall[i][k] = (double)sv_waymo_recall(&curve->at[k], level);
            precision[i][k] = recall[i][k] > 0 ? (double)sv_waymo_precision(&curve->at[k], heading)
                                               : (double)NAN; /* no place */
        }
        snprintf(names[i], sizeof names[i], "L%d %s %.4f", level + 1, heading ? "APH" : "AP",
                 (double)(heading ? curve->aph[level] : curve->ap[level]));
        lines[i] = (sv_plot_line){.x = recall[i],
                                  .y = precision[i],
                                  .count = SV_WAYMO_CUTOFFS,
                                  .colour = sv_plot_colour(i),
                                  .points = true,
                                  .name = names[i]};
    }
    snprintf(title, sizeof title, "%s%s%s @%.1f", sv_waymo_type_names[waymo_class + 1], range ? " " : "",
             sv_waymo_range_names[range], (double)sv_waymo_min_overlap(waymo_class));
    const sv_plot plot = sv_curve_plot(title, lines, LINES, text);
    sv_plot_draw(image, x, y, width, height, &plot);
}

static bool place_panel(const void *scores, int panel, int *column, int *row)
{
    (void)scores;
    *column = panel % SV_WAYMO_RANGES;
    *row = panel / SV_WAYMO_RANGES;
    return true;
}

static bool name_panel(const void *scores, int panel, char *out, size_t room)
{
    (void)scores;
    static const char *const suffixes[SV_WAYMO_RANGES] = {"", "_0_30", "_30_50", "_50_inf"};
    snprintf(out, room, "%s%s", sv_waymo_type_names[panel / SV_WAYMO_RANGES + 1],
             suffixes[panel % SV_WAYMO_RANGES]);
    return true;
}

static sv_status curves(sv_ctx *c, const sv_evaluator *e, const char *path)
{
    const sv_curve_sheet sheet = {.scores = ((const waymo *)e->own)->scores,
                                  .panels = SV_WAYMO_CLASSES * SV_WAYMO_RANGES,
                                  .columns = SV_WAYMO_RANGES,
                                  .rows = SV_WAYMO_CLASSES,
                                  .place = place_panel,
                                  .name = name_panel,
                                  .draw = draw_panel};
    return sv_curve_sheet_write(c, &sheet, path);
}

/* ---- pictures ----------------------------------------------------------------------------------------- */

typedef struct drawing {
    sv_waymo_object *labels, *detections;
    int *partner;
    bool *found;
    sv_match_box *boxes;
    int label_count, detection_count, count;
} drawing;

static void add_box(drawing *d, const sv_waymo_object *o, sv_match_look look)
{
    d->boxes[d->count++] = (sv_match_box){sv_waymo_box_of_object(o), sv_waymo_type_names[o->type], look};
}

/* Labels first, so that detections lie above them. */
static void add_boxes(drawing *d)
{
    for (int i = 0; i < d->label_count; i++)
        add_box(d, &d->labels[i],
                d->found[i]               ? SV_LABEL_FOUND
                : d->labels[i].points > 0 ? SV_LABEL_MISSED
                                          : SV_LABEL_IGNORED);
    for (int i = 0; i < d->detection_count; i++)
        add_box(d, &d->detections[i],
                d->partner[i] >= 0         ? SV_DETECTION_RIGHT
                : d->detections[i].in_zone ? SV_DETECTION_IGNORED
                                           : SV_DETECTION_FALSE);
}

static sv_status picture(sv_ctx *c, const sv_evaluator *e, const sv_sample *sample,
                         const sv_eval_result *result, sv_image *out)
{
    const sv_waymo_frame *frame = &sv_waymo_sample_of(sample)->frame;
    const entry *entries = result ? result->data : NULL;
    const int labels = frame->label_count, most = result ? result->count : 0;
    const size_t room = (size_t)(labels + most) + 1;
    drawing d = {.labels = calloc(room, sizeof *d.labels),
                 .detections = calloc(room, sizeof *d.detections),
                 .partner = calloc(room, sizeof *d.partner),
                 .found = calloc(room, sizeof *d.found),
                 .boxes = calloc(room, sizeof *d.boxes)};
    sv_status status = d.labels && d.detections && d.partner && d.found && d.boxes
                           ? SV_OK
                           : SV_FAIL(c, SV_NO_MEMORY, "sample %s: no memory for a picture", sample->id);
    if (status == SV_OK) {
        for (int i = 0; i < labels; i++) d.labels[d.label_count++] = object_of_label(&frame->labels[i]);
        for (int i = 0; i < most; i++)
            if ((double)entries[i].object.score >= e->picture_score)
                d.detections[d.detection_count++] = entries[i].object;
        const sv_waymo_eval_frame pair = {d.labels, d.detections, d.label_count, d.detection_count};
        status = sv_waymo_eval_match(c, &pair, (float)e->picture_score, d.partner, d.found);
    }
    const sv_match_view view = sv_match_view_around(sample, 75, true);
    if (status == SV_OK) {
        add_boxes(&d);
        status = sv_match_picture(c, sample, d.boxes, d.count, &view, out);
    }
    free(d.labels);
    free(d.detections);
    free(d.partner);
    free(d.found);
    free(d.boxes);
    return status;
}

const sv_evaluator_type sv_evaluator_type_waymo = {
    .suffix = ".bin",
    .parts = SV_READ_LABELS,
    .open = open_waymo,
    .close = close_waymo,
    .result_of_boxes = result_of_boxes,
    .write_result = write_result,
    .read_result = read_result,
    .open_submission = open_submission,
    .close_submission = close_submission,
    .read_submission = read_submission,
    .missing_rule = missing_rule,
    .add = add,
    .finish = finish,
    .print = print,
    .json = json,
    .curves = curves,
    .self_check = self_check,
    .picture = picture,
};
