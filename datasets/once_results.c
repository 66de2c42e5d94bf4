/* SPDX-License-Identifier: Apache-2.0 */
#include "once_results.h"

#include "object_result.h"
#include "object_submission.h"
#include "perception/json_scan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_BOXES = 1 << 16 };

/* ---- reading ------------------------------------------------------------------------------------------ */

/* An entry as it is read; rows may be read twice, so each begins anew. */
typedef struct entry {
    const sv_evaluator *e;
    sv_submission *out;
    char id[64];
    bool has_id, no_memory;
    sv_object_line *lines; /* malloc'ed */
    int names, scores, boxes, room;
} entry;

/* Room for one more line in all three lists. */
static sv_object_line *line_at(entry *r, int i)
{
    if (i >= r->room && i < MOST_BOXES) {
        const int room = 2 * r->room + 64;
        sv_object_line *grown = realloc(r->lines, sizeof *grown * (size_t)room);
        if (grown) {
            memset(grown + r->room, 0, sizeof *grown * (size_t)(room - r->room));
            r->lines = grown;
            r->room = room;
        }
        r->no_memory |= !grown;
    }
    return i < r->room ? &r->lines[i] : NULL;
}

static void read_name(sv_json_scan *s, sv_object_line *line)
{
    sv_json_span text;
    memset(line->type, 0, sizeof line->type);
    if (sv_json_read_text(s, &text) && !sv_json_span_copy(text, line->type, sizeof line->type))
        sv_json_wrong(s, "a name is none of the classes");
}

static void read_score(sv_json_scan *s, sv_object_line *line)
{
    double score = NAN;
    if (sv_json_read_number(s, &score) && !isfinite(score)) sv_json_wrong(s, "a score is not finite");
    line->box.score = (float)score;
}

static void read_box(sv_json_scan *s, sv_object_line *line)
{
    double v[7];
    if (!sv_json_numbers(s, v, 7)) return;
    bool good = v[3] > 0 && v[4] > 0 && v[5] > 0;
    for (int k = 0; k < 7; k++) good = good && fabs(v[k]) < 1e9;
    if (!good)
        sv_json_wrong(s, "a box has a number that is not finite, or a side that is not greater than 0");
    line->box.x = (float)v[0];
    line->box.y = (float)v[1];
    line->box.z = (float)v[2];
    line->box.dx = (float)v[3];
    line->box.dy = (float)v[4];
    line->box.dz = (float)v[5];
    line->box.heading = (float)v[6];
}

static void read_list(sv_json_scan *s, entry *r, int *count, void (*read)(sv_json_scan *, sv_object_line *))
{
    *count = 0;
    if (!sv_json_open(s, '[')) return;
    while (sv_json_next(s)) {
        sv_object_line *line = line_at(r, *count);
        if (!line) {
            sv_json_wrong(s, "more boxes in a frame than can be");
            return;
        }
        read(s, line);
        ++*count;
    }
}

static void read_entry(sv_json_scan *s, void *user)
{
    entry *r = user;
    sv_json_span key, text;
    r->has_id = false;
    r->names = r->scores = r->boxes = 0;
    if (!sv_json_open(s, '{')) return;
    while (sv_json_next_key(s, &key)) {
        if (sv_json_span_is(key, "frame_id")) {
            if (sv_json_read_text(s, &text)) r->has_id = sv_json_span_copy(text, r->id, sizeof r->id);
        } else if (sv_json_span_is(key, "name")) {
            read_list(s, r, &r->names, read_name);
        } else if (sv_json_span_is(key, "score")) {
            read_list(s, r, &r->scores, read_score);
        } else if (sv_json_span_is(key, "boxes_3d")) {
            read_list(s, r, &r->boxes, read_box);
        } else {
            sv_json_skip(s);
        }
    }
}

/* A frame's name is the end of its sample's: SEQUENCE_FRAME. */
static int sample_of(const entry *r)
{
    char end[sizeof r->id + 1];
    snprintf(end, sizeof end, "_%s", r->id);
    const int sample = sv_dataset_find(r->e->dataset, end);
    return sv_object_submission_sample(r->e, sample < 0 ? r->id : sv_dataset_id(r->e->dataset, sample),
                                       r->out);
}

static sv_status take_entry(sv_ctx *c, void *user, int64_t row)
{
    entry *r = user;
    const char *path = r->out->path;
    SV_CHECK(c, !r->no_memory, SV_NO_MEMORY, "%s: entry %lld: no memory for its boxes", path, (long long)row);
    SV_CHECK(c, r->has_id, SV_BAD_INPUT, "%s: entry %lld has no frame_id", path, (long long)row);
    SV_CHECK(c, r->names == r->scores && r->names == r->boxes, SV_BAD_INPUT,
             "%s: frame %s has %d names, %d scores and %d boxes; as many of each are needed", path, r->id,
             r->names, r->scores, r->boxes);
    for (int i = 0; i < r->boxes; i++)
        SV_CHECK(c, sv_object_class_like(r->e->dataset, r->lines[i].type) >= 0, SV_BAD_INPUT,
                 "%s: frame %s: box %d is of the class '%s', which ONCE has not", path, r->id, i,
                 r->lines[i].type);
    const int sample = sample_of(r);
    if (sample < 0) return SV_OK;
    SV_CHECK(c, !r->out->present[sample], SV_BAD_INPUT, "%s: frame %s stands twice", path, r->id);
    r->out->present[sample] = true;
    for (int i = 0; i < r->boxes; i++) SV_TRY(sv_object_submission_add(c, r->out, sample, &r->lines[i]));
    return SV_OK;
}

sv_status sv_once_submission_open(sv_ctx *c, const sv_evaluator *e, const char *path, sv_submission *out)
{
    entry r = {.e = e, .out = out};
    const sv_json_rows rows = {.path = path, .user = &r, .read = read_entry, .take = take_entry};
    SV_TRY(sv_object_submission_new(c, out));
    const sv_status status = sv_json_read_rows(c, &rows);
    free(r.lines);
    if (status == SV_OK) sv_object_submission_sort(out);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

sv_status sv_once_writer_open(sv_ctx *c, const char *path, sv_once_writer *out)
{
    *out = (sv_once_writer){0};
    SV_TRY(sv_output_open(c, &out->file, path));
    out->json = sv_json_begin(out->file.stream);
    sv_json_array(&out->json, SV_JSON_LINES);
    return SV_OK;
}

sv_status sv_once_writer_add(sv_ctx *c, sv_once_writer *w, const sv_dataset *dataset, int sample,
                             const char *const *classes, const sv_box *boxes, int count, int *other_class)
{
    sv_json *j = &w->json;
    for (int i = 0; i < count; i++) {
        const sv_box *b = &boxes[i];
        const float v[] = {b->x, b->y, b->z, b->dx, b->dy, b->dz, b->heading, b->score};
        for (int k = 0; k < 8; k++)
            SV_CHECK(c, isfinite(v[k]), SV_BAD_INPUT, "frame %s: box %d has a value that is not finite",
                     sv_dataset_id(dataset, sample), i);
        *other_class += sv_object_class_like(dataset, classes[b->label - 1]) < 0;
    }
    sv_json_object(j, SV_JSON_LINES);
    sv_json_key(j, "frame_id"), sv_json_text(j, strrchr(sv_dataset_id(dataset, sample), '_') + 1);
    static const char *const lists[] = {"name", "score", "boxes_3d"};
    for (int list = 0; list < 3; list++) {
        sv_json_key(j, lists[list]), sv_json_array(j, SV_JSON_INLINE);
        for (int i = 0; i < count; i++) {
            const sv_box *b = &boxes[i];
            const int k = sv_object_class_like(dataset, classes[b->label - 1]);
            if (k < 0) continue;
            if (list == 0) sv_json_text(j, sv_dataset_classes(dataset)[k]);
            if (list == 1) sv_json_float(j, b->score);
            if (list < 2) continue;
            const float v[7] = {b->x, b->y, b->z, b->dx, b->dy, b->dz, b->heading};
            sv_json_array(j, SV_JSON_INLINE);
            for (int n = 0; n < 7; n++) sv_json_float(j, v[n]);
            sv_json_end(j);
        }
        sv_json_end(j);
    }
    sv_json_end(j);
    return SV_OK;
}

sv_status sv_once_writer_close(sv_ctx *c, sv_once_writer *w)
{
    sv_json_end(&w->json);
    return sv_output_commit(c, &w->file);
}

void sv_once_writer_discard(sv_once_writer *w)
{
    sv_output_discard(&w->file);
}
