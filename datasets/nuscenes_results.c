/* SPDX-License-Identifier: Apache-2.0 */
#define _XOPEN_SOURCE 700
#include "nuscenes_results.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 22, LONGEST_KEY = 64, LONGEST_LIST = 1 << 24, MOST_SAMPLES = 1 << 22 };

/* ---- where the lists lie ------------------------------------------------------------------------------ */

/* What comes next on a level: 1 in the file's object, 2 in that of the results. */
typedef enum expect { KEY, IN_KEY, COLON, VALUE, IN_VALUE, IN_SCALAR, COMMA, DONE } expect;

typedef struct finder {
    sv_nuscenes_submission *s;
    sv_nuscenes_index seen;
    int room;
    expect expect;
    int level; /* 0: the file's object has not begun */
    char key[LONGEST_KEY + 1];
    int key_size;
    bool first, found_results; /* no comma has been met on this level */
    /* in a value */
    int depth, boxes;
    bool text, escape;
    int64_t begin;
} finder;

static sv_status no_submission(sv_ctx *c, const finder *f, int64_t at, const char *what)
{
    return SV_FAIL(c, SV_BAD_INPUT, "%s: is no submission, at byte %lld: %s", f->s->path, (long long)at,
                   what);
}

static sv_status add_slice(sv_ctx *c, finder *f, int64_t end)
{
    sv_nuscenes_submission *s = f->s;
    sv_nuscenes_token token;
    SV_CHECK(c, sv_nuscenes_token_parse(f->key, (size_t)f->key_size, &token) && f->key_size > 0, SV_BAD_INPUT,
             "%s: '%s', before byte %lld, is no token of a sample (32 hexadecimal digits)", s->path, f->key,
             (long long)f->begin);
    SV_CHECK(c, f->boxes <= SV_NUSCENES_MOST_BOXES, SV_BAD_INPUT,
             "%s: the sample %s has %d boxes; %d at most are allowed: keep those with the best scores",
             s->path, f->key, f->boxes, SV_NUSCENES_MOST_BOXES);
    SV_CHECK(c, end - f->begin <= LONGEST_LIST, SV_BAD_INPUT,
             "%s: the list of the sample %s is longer than %d bytes", s->path, f->key, LONGEST_LIST);
    SV_CHECK(c, s->count < MOST_SAMPLES, SV_BAD_INPUT, "%s: holds more than %d samples", s->path,
             MOST_SAMPLES);
    if (s->count == f->room) {
        const int wanted = f->room ? 2 * f->room : 1024;
        sv_nuscenes_slice *grown = realloc(s->slices, sizeof *grown * (size_t)wanted);
        SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for %d samples", s->path, wanted);
        s->slices = grown;
        f->room = wanted;
    }
    const int there = sv_nuscenes_index_add(&f->seen, token, s->count);
    SV_CHECK(c, there >= 0, SV_NO_MEMORY, "%s: no memory for %d samples", s->path, s->count);
    SV_CHECK(c, there == s->count, SV_BAD_INPUT, "%s: the sample %s stands twice, again at byte %lld",
             s->path, f->key, (long long)f->begin);
    s->slices[s->count++] = (sv_nuscenes_slice){token, f->begin, (int32_t)(end - f->begin), f->boxes};
    return SV_OK;
}

/* On within a value that is an object or a list, to where it ends or the bytes do. */
static const char *skip_value(finder *f, const char *p, const char *end)
{
    /* 1: text, 2: open, 3: close */
    static const unsigned char kinds[256] = {['"'] = 1, ['{'] = 2, ['['] = 2, ['}'] = 3, [']'] = 3};
    while (p < end) {
        if (f->text) {
            while (p < end && f->text) {
                const char letter = *p++;
                if (f->escape)
                    f->escape = false;
                else if (letter == '\\')
                    f->escape = true;
                else
                    f->text = letter != '"';
            }
            continue;
        }
        while (p < end && !kinds[(unsigned char)*p]) p++;
        if (p == end) return p;
        const char letter = *p++;
        const int kind = kinds[(unsigned char)letter];
        if (kind == 1) {
            f->text = true;
        } else if (kind == 2) {
            f->boxes += f->depth == 1 && letter == '{';
            f->depth++;
        } else if (--f->depth == 0) {
            return p;
        }
    }
    return p;
}

static sv_status begin_value(sv_ctx *c, finder *f, char letter, int64_t at)
{
    const bool results = f->level == 1 && strcmp(f->key, "results") == 0;
    f->begin = at;
    f->depth = f->boxes = 0;
    f->text = f->escape = false;
    if (f->level == 2 && letter != '[') return no_submission(c, f, at, "a sample's boxes are no list [...]");
    if (results) {
        if (letter != '{') return no_submission(c, f, at, "\"results\" is no object {...}");
        if (f->found_results) return no_submission(c, f, at, "\"results\" stands twice");
        f->found_results = f->first = true;
        f->level = 2;
        f->expect = KEY;
        return SV_OK;
    }
    f->expect = letter == '{' || letter == '[' ? IN_VALUE : IN_SCALAR;
    if (letter == '"') f->text = true;
    if (f->expect == IN_VALUE) f->depth = 1;
    return SV_OK;
}

/* One byte outside of values. */
static sv_status step(sv_ctx *c, finder *f, char letter, int64_t at)
{
    if (f->expect == IN_KEY) {
        if (letter == '"') {
            f->key[f->key_size] = '\0';
            f->expect = COLON;
        } else if (f->key_size < LONGEST_KEY) {
            f->key[f->key_size++] = letter;
        } else {
            return no_submission(c, f, at, "a key is longer than 64 letters");
        }
        return SV_OK;
    }
    if (f->expect == IN_SCALAR) {
        /* a text, a number or a word: what it is does not matter */
        if (f->text) {
            if (f->escape)
                f->escape = false;
            else if (letter == '\\')
                f->escape = true;
            else
                f->text = letter != '"';
            return SV_OK;
        }
        if (letter != ',' && letter != '}') return SV_OK;
        f->expect = COMMA;
    }
    if (letter == ' ' || letter == '\n' || letter == '\t' || letter == '\r') return SV_OK;
    if (f->level == 0) {
        if (letter != '{' || f->expect == DONE)
            return no_submission(c, f, at,
                                 f->expect == DONE ? "something follows behind its end"
                                                   : "it does not begin with {");
        f->level = 1;
        f->first = true;
        f->expect = KEY;
        return SV_OK;
    }
    if (f->expect == KEY && letter == '"') {
        f->key_size = 0;
        f->expect = IN_KEY;
        return SV_OK;
    }
    if (f->expect == COLON && letter == ':') {
        f->expect = VALUE;
        return SV_OK;
    }
    if (f->expect == VALUE) return begin_value(c, f, letter, at);
    if (f->expect == COMMA && letter == ',') {
        f->first = false;
        f->expect = KEY;
        return SV_OK;
    }
    if (letter == '}' && (f->expect == COMMA || (f->expect == KEY && f->first))) {
        f->level--;
        f->expect = f->level == 0 ? DONE : COMMA;
        return SV_OK;
    }
    return no_submission(c, f, at, "a key, a colon or a comma is missing");
}

static sv_status find_in(sv_ctx *c, finder *f, const char *bytes, size_t size, int64_t offset)
{
    const char *p = bytes, *end = bytes + size;
    while (p < end) {
        if (f->expect != IN_VALUE) {
            SV_TRY(step(c, f, *p, offset + (p - bytes)));
            p++;
            continue;
        }
        p = skip_value(f, p, end);
        if (f->depth > 0) break;
        f->expect = COMMA;
        if (f->level == 2) SV_TRY(add_slice(c, f, offset + (p - bytes)));
    }
    return SV_OK;
}

static sv_status find_lists(sv_ctx *c, finder *f, char *chunk)
{
    int64_t offset = 0;
    for (;;) {
        const ssize_t got = read(f->s->file, chunk, CHUNK);
        if (got < 0 && errno == EINTR) continue;
        SV_CHECK(c, got >= 0, SV_IO, "%s: cannot be read: %s", f->s->path, strerror(errno));
        if (got == 0) break;
        SV_TRY(find_in(c, f, chunk, (size_t)got, offset));
        offset += got;
    }
    SV_CHECK(c, f->expect == DONE, SV_BAD_INPUT,
             "%s: ends too early, at byte %lld%s%s: the file is cut off, write it again", f->s->path,
             (long long)offset, f->level == 2 ? ", behind the sample " : "", f->level == 2 ? f->key : "");
    SV_CHECK(c, f->found_results, SV_BAD_INPUT, "%s: is no submission: it has no \"results\"", f->s->path);
    return SV_OK;
}

sv_status sv_nuscenes_submission_open(sv_ctx *c, const char *path, sv_nuscenes_submission *out)
{
    struct stat info;
    *out = (sv_nuscenes_submission){.file = -1};
    SV_CHECK(c, strlen(path) < sizeof out->path && path[0], SV_USAGE, "%.80s...: the path is too long", path);
    memcpy(out->path, path, strlen(path) + 1);
    out->file = open(path, O_RDONLY | O_CLOEXEC);
    SV_CHECK(c, out->file >= 0, SV_IO, "%s: cannot be opened: %s", path, strerror(errno));
    sv_status status = SV_OK;
    finder f = {.s = out};
    if (fstat(out->file, &info) != 0 || !S_ISREG(info.st_mode))
        status =
            SV_FAIL(c, SV_IO, "%s: is no file (a submission is read twice, so it cannot be a pipe)", path);
    char *chunk = malloc(CHUNK);
    if (status == SV_OK && (!sv_nuscenes_index_open(&f.seen) || !chunk))
        status = SV_FAIL(c, SV_NO_MEMORY, "%s: no memory", path);
    if (status == SV_OK) status = find_lists(c, &f, chunk);
    free(chunk);
    sv_nuscenes_index_close(&f.seen);
    if (status != SV_OK) sv_nuscenes_submission_close(out);
    return status;
}

void sv_nuscenes_submission_close(sv_nuscenes_submission *s)
{
    if (s->file >= 0 && s->path[0]) close(s->file);
    free(s->slices);
    *s = (sv_nuscenes_submission){.file = -1};
}

/* ---- boxes -------------------------------------------------------------------------------------------- */

typedef struct record {
    sv_nuscenes_box box;
    sv_json_span sample, name, attribute;
} record;

static void read_record(sv_json_scan *s, record *r)
{
    static const char *const names[] = {"sample_token",    "translation",   "size",
                                        "rotation",        "velocity",      "detection_name",
                                        "detection_score", "attribute_name"};
    enum { NAMES = sizeof names / sizeof *names };
    sv_json_span key;
    unsigned seen = 0;
    int expected = 0;
    *r = (record){.box = {.order = -1}};
    if (!sv_json_open(s, '{')) return;
    while (sv_json_next_key(s, &key)) {
        int i = expected;
        if (i >= NAMES || !sv_json_span_is(key, names[i]))
            for (i = 0; i < NAMES && !sv_json_span_is(key, names[i]); i++) {
            }
        if (i < NAMES && (seen & 1u << i)) {
            sv_json_wrong(s, "a field stands twice");
            return;
        }
        if (i < NAMES) seen |= 1u << i;
        expected = i + 1;
        switch (i) {
        case 0:
            sv_json_read_text(s, &r->sample);
            break;
        case 1:
            sv_json_numbers(s, r->box.translation, 3);
            break;
        case 2:
            sv_json_numbers(s, r->box.size, 3);
            break;
        case 3:
            sv_json_numbers(s, r->box.rotation, 4);
            break;
        case 4:
            sv_json_numbers(s, r->box.velocity, 2);
            break;
        case 5:
            sv_json_read_text(s, &r->name);
            break;
        case 6:
            sv_json_read_number(s, &r->box.score);
            break;
        case 7:
            sv_json_read_text(s, &r->attribute);
            break;
        default:
            sv_json_skip(s);
        }
    }
    if (s->state == SV_JSON_GOOD && seen != (1u << NAMES) - 1)
        sv_json_wrong(
            s, "a box lacks one of sample_token, translation, size, rotation, velocity, detection_name, "
               "detection_score, attribute_name");
}

static bool all_finite(const double *values, int count)
{
    for (int i = 0; i < count; i++)
        if (!isfinite(values[i]) || fabs(values[i]) > 1e12) return false;
    return true;
}

/* NULL when the record is a box. */
static const char *problem_of(record *r, sv_nuscenes_token sample)
{
    sv_nuscenes_box *b = &r->box;
    char name[64];
    if (!sv_nuscenes_token_parse(r->sample.at, r->sample.size, &b->sample) ||
        !sv_nuscenes_token_same(b->sample, sample))
        return "its sample_token is another sample's";
    if (!all_finite(b->translation, 3)) return "its translation is not finite";
    if (!all_finite(b->size, 3)) return "its size is not finite";
    if (!all_finite(b->rotation, 4)) return "its rotation is not finite";
    for (int i = 0; i < 2; i++)
        if (!isnan(b->velocity[i]) && !all_finite(&b->velocity[i], 1))
            return "its velocity is infinite (NaN says that it is not known)";
    if (isnan(b->score)) return "its detection_score is NaN";
    if (isinf(b->score)) return "its detection_score is infinite";
    const int kind = sv_json_span_copy(r->name, name, sizeof name) ? sv_nuscenes_class_of(name) : -1;
    if (kind < 0) return "its detection_name is none of the ten classes";
    b->detection_class = (signed char)kind;
    const int attribute = sv_json_span_copy(r->attribute, name, sizeof name) ? sv_nuscenes_attribute_of(name)
                                                                             : SV_NUSCENES_ATTRIBUTE_OTHER;
    if (attribute == SV_NUSCENES_ATTRIBUTE_OTHER)
        return "its attribute_name is none of the eight attributes, nor empty";
    b->attribute = (signed char)attribute;
    return NULL;
}

static sv_status add_box(sv_ctx *c, sv_nuscenes_boxes *to, int *room, const sv_nuscenes_box *box,
                         const char *path)
{
    if (to->count == *room) {
        const int wanted = *room ? 2 * *room : 64;
        sv_nuscenes_box *grown = realloc(to->data, sizeof *grown * (size_t)wanted);
        SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for %d boxes", path, wanted);
        to->data = grown;
        *room = wanted;
    }
    to->data[to->count++] = *box;
    return SV_OK;
}

/* The list at the scan's place. */
static sv_status read_list(sv_ctx *c, sv_json_scan *s, const char *path, sv_nuscenes_token sample,
                           sv_nuscenes_boxes *out)
{
    char token[SV_NUSCENES_TOKEN_TEXT];
    int room = 0;
    record r;
    sv_nuscenes_token_text(sample, token);
    sv_json_open(s, '[');
    while (s->state == SV_JSON_GOOD && sv_json_next(s)) {
        read_record(s, &r);
        if (s->state != SV_JSON_GOOD) break;
        const char *problem = problem_of(&r, sample);
        SV_CHECK(c, !problem, SV_BAD_INPUT, "%s: sample %s, box %d: %s", path, token, out->count, problem);
        SV_CHECK(c, out->count < SV_NUSCENES_MOST_BOXES, SV_BAD_INPUT,
                 "%s: the sample %s has more than %d boxes: keep those with the best scores", path, token,
                 SV_NUSCENES_MOST_BOXES);
        SV_TRY(add_box(c, out, &room, &r.box, path));
    }
    return s->state == SV_JSON_GOOD
               ? SV_OK
               : SV_FAIL(c, SV_BAD_INPUT, "%s: sample %s, box %d: %s", path, token, out->count,
                         s->state == SV_JSON_SHORT ? "it is cut off" : s->problem);
}

sv_status sv_nuscenes_parse_boxes(sv_ctx *c, const void *bytes, size_t size, const char *path,
                                  sv_nuscenes_token sample, sv_nuscenes_boxes *out)
{
    sv_json_scan s = sv_json_scan_begin(bytes, size, true);
    *out = (sv_nuscenes_boxes){0};
    sv_status status = read_list(c, &s, path, sample, out);
    if (status == SV_OK && !sv_json_at_end(&s))
        status = SV_FAIL(c, SV_BAD_INPUT, "%s: something follows behind a list of boxes", path);
    if (status != SV_OK) {
        free(out->data);
        *out = (sv_nuscenes_boxes){0};
    }
    return status;
}

sv_status sv_nuscenes_submission_read(sv_ctx *c, const sv_nuscenes_submission *s, int number,
                                      sv_nuscenes_boxes *out)
{
    const sv_nuscenes_slice *slice = &s->slices[number];
    *out = (sv_nuscenes_boxes){0};
    char *bytes = malloc((size_t)slice->size + 1);
    SV_CHECK(c, bytes, SV_NO_MEMORY, "%s: no memory for %d bytes", s->path, slice->size);
    size_t used = 0;
    while (used < (size_t)slice->size) {
        const ssize_t got =
            pread(s->file, bytes + used, (size_t)slice->size - used, slice->offset + (int64_t)used);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        used += (size_t)got;
    }
    sv_status status = used == (size_t)slice->size
                           ? sv_nuscenes_parse_boxes(c, bytes, used, s->path, slice->sample, out)
                           : SV_FAIL(c, SV_IO, "%s: has changed while it was read", s->path);
    free(bytes);
    for (int i = 0; i < out->count; i++) out->data[i].order = (int64_t)number << 16 | i;
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

static void write_numbers(sv_json *j, const char *key, const double *values, int count)
{
    sv_json_key(j, key);
    sv_json_array(j, SV_JSON_INLINE);
    for (int i = 0; i < count; i++) sv_json_double(j, values[i]);
    sv_json_end(j);
}

sv_status sv_nuscenes_writer_open(sv_ctx *c, const char *path, bool camera, sv_nuscenes_writer *out)
{
    static const char *const sources[] = {"use_camera", "use_lidar", "use_radar", "use_map", "use_external"};
    *out = (sv_nuscenes_writer){0};
    SV_TRY(sv_output_open(c, &out->file, path));
    out->json = sv_json_begin(out->file.stream);
    sv_json *j = &out->json;
    sv_json_object(j, SV_JSON_LINES);
    sv_json_key(j, "meta");
    sv_json_object(j, SV_JSON_INLINE);
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        sv_json_key(j, sources[i]);
        sv_json_bool(j, i == 0 ? camera : i == 1);
    }
    sv_json_end(j);
    sv_json_key(j, "results");
    sv_json_object(j, SV_JSON_LINES);
    return SV_OK;
}

sv_status sv_nuscenes_writer_add(sv_ctx *c, sv_nuscenes_writer *w, sv_nuscenes_token sample,
                                 const sv_nuscenes_box *boxes, int count)
{
    sv_json *j = &w->json;
    char token[SV_NUSCENES_TOKEN_TEXT];
    sv_nuscenes_token_text(sample, token);
    SV_CHECK(c, count <= SV_NUSCENES_MOST_BOXES, SV_INTERNAL, "sample %s: %d boxes", token, count);
    sv_json_key(j, token);
    sv_json_array(j, SV_JSON_LINES);
    for (int i = 0; i < count; i++) {
        const sv_nuscenes_box *b = &boxes[i];
        SV_CHECK(c,
                 all_finite(b->translation, 3) && all_finite(b->size, 3) && all_finite(b->rotation, 4) &&
                     all_finite(b->velocity, 2) && isfinite(b->score),
                 SV_BAD_INPUT, "sample %s: box %d has a value that is not finite", token, i);
        sv_json_object(j, SV_JSON_INLINE);
        sv_json_key(j, "sample_token");
        sv_json_text(j, token);
        write_numbers(j, "translation", b->translation, 3);
        write_numbers(j, "size", b->size, 3);
        write_numbers(j, "rotation", b->rotation, 4);
        write_numbers(j, "velocity", b->velocity, 2);
        sv_json_key(j, "detection_name");
        sv_json_text(j, sv_nuscenes_class_names[b->detection_class]);
        sv_json_key(j, "detection_score");
        sv_json_double(j, b->score);
        sv_json_key(j, "attribute_name");
        sv_json_text(j, b->attribute < 0 ? "" : sv_nuscenes_attribute_names[b->attribute]);
        sv_json_end(j);
    }
    sv_json_end(j);
    return SV_OK;
}

sv_status sv_nuscenes_writer_close(sv_ctx *c, sv_nuscenes_writer *w)
{
    sv_json_end(&w->json);
    sv_json_end(&w->json);
    return sv_output_commit(c, &w->file);
}

void sv_nuscenes_writer_discard(sv_nuscenes_writer *w)
{
    sv_output_discard(&w->file);
}

/* ---- from boxes of a detector ------------------------------------------------------------------------- */

static void multiply(const double a[4], const double b[4], double out[4])
{
    const double product[4] = {a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
                               a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2],
                               a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1],
                               a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0]};
    for (int i = 0; i < 4; i++) out[i] = product[i];
}

static sv_nuscenes_box global_box(const sv_nuscenes_tables *t, const sv_nuscenes_sample *sample,
                                  const sv_box *box, int detection_class)
{
    const sv_nuscenes_data *lidar = &t->data[sample->data[0]];
    const sv_nuscenes_calibration *k = &t->calibrations[lidar->calibration];
    const sv_pose to_world = sv_nuscenes_ego_pose(lidar);
    sv_nuscenes_box out = {.sample = sample->token,
                           .size = {(double)box->dy, (double)box->dx, (double)box->dz},
                           .score = (double)box->score,
                           .order = -1,
                           .detection_class = (signed char)detection_class};
    const double centre[3] = {(double)box->x, (double)box->y, (double)box->z};
    double velocity[3] = {(double)box->vx, (double)box->vy, 0};
    sv_pose_apply(&k->to_ego, centre, out.translation);
    sv_pose_apply(&to_world, out.translation, out.translation);
    sv_pose_rotate(&k->to_ego, velocity, velocity);
    sv_pose_rotate(&to_world, velocity, velocity);
    memcpy(out.velocity, velocity, sizeof out.velocity);
    const double half = 0.5 * (double)box->heading, turn[4] = {cos(half), 0, 0, sin(half)};
    multiply(k->rotation, turn, out.rotation);
    multiply(lidar->rotation, out.rotation, out.rotation);
    const double *q = out.rotation, n = sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    for (int i = 0; i < 4; i++) out.rotation[i] /= n;
    out.attribute = (signed char)sv_nuscenes_attribute_guess(
        detection_class, sqrt(velocity[0] * velocity[0] + velocity[1] * velocity[1]));
    return out;
}

static int by_score(const void *a, const void *b)
{
    const sv_nuscenes_box *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static int by_order(const void *a, const void *b)
{
    const sv_nuscenes_box *x = a, *y = b;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* Detectors write "Car" or "car". */
static int class_like(const char *name)
{
    int k = SV_NUSCENES_CLASSES - 1;
    while (k >= 0 && strcasecmp(sv_nuscenes_class_names[k], name) != 0) k--;
    return k;
}

sv_status sv_nuscenes_boxes_of(sv_ctx *c, const sv_nuscenes_tables *t, const sv_nuscenes_sample *sample,
                               const char *const *classes, const sv_box *boxes, int count,
                               sv_nuscenes_boxes *out, int *other_class, int *beyond)
{
    *out = (sv_nuscenes_boxes){.data = malloc(sizeof *out->data * (size_t)(count > 0 ? count : 1))};
    *other_class = *beyond = 0;
    SV_CHECK(c, out->data, SV_NO_MEMORY, "no memory for %d boxes", count);
    for (int i = 0; i < count; i++) {
        const int detection_class = class_like(classes[boxes[i].label - 1]);
        *other_class += detection_class < 0;
        if (detection_class < 0) continue;
        out->data[out->count] = global_box(t, sample, &boxes[i], detection_class);
        out->data[out->count++].order = i;
    }
    if (out->count > SV_NUSCENES_MOST_BOXES) {
        qsort(out->data, (size_t)out->count, sizeof *out->data, by_score);
        *beyond = out->count - SV_NUSCENES_MOST_BOXES;
        out->count = SV_NUSCENES_MOST_BOXES;
        qsort(out->data, (size_t)out->count, sizeof *out->data, by_order);
    }
    for (int i = 0; i < out->count; i++) out->data[i].order = -1;
    return SV_OK;
}
