/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables in the order in which they explain each other:
 *
 *     category, sensor, attribute, instance (what an annotation is)     scene, sample (what is chosen)
 *     calibrated_sensor, sample_data (what is kept of it)               ego_pose (of what was kept)
 *     sample_annotation
 *
 * A row is read into the loader's own structure, whose texts point into the window of the file, and taken from there.
 */
#include "dataset_type.h"
#include "nuscenes.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 1300, MOST_ROWS = 1 << 28, LONGEST_PATH = 400 };

/* ---- reading a row ------------------------------------------------------------------------------------ */

typedef enum kind { TEXT, TEXTS, INTEGER, FLAG, NUMBERS, MATRIX } kind;

/* A list of texts: how many, and the first. */
typedef struct texts {
    sv_json_span first;
    int count;
} texts;
typedef struct matrix {
    double value[9];
    bool empty;
} matrix;

typedef struct field {
    const char *name;
    size_t letters;
    kind kind;
    size_t offset; /* in 'row' */
    int count;     /* of NUMBERS */
} field;

/* All fields of all tables that are used. */
typedef struct row {
    sv_json_span token, name, scene, sample, category, instance, sensor, channel, calibration, pose, previous,
        next, file;
    texts attributes;
    int64_t time, width, height, lidar_points, radar_points;
    bool key;
    double translation[3], size[3], rotation[4];
    matrix intrinsic;
} row;

#define FIELD(name, kind, member, count)                                                                     \
    {                                                                                                        \
        name, sizeof name - 1, kind, offsetof(row, member), count                                            \
    }

static bool read_texts(sv_json_scan *s, texts *out)
{
    sv_json_span span;
    *out = (texts){.count = 0};
    if (!sv_json_open(s, '[')) return false;
    while (sv_json_next(s))
        if (sv_json_read_text(s, &span) && out->count++ == 0) out->first = span;
    return s->state == SV_JSON_GOOD;
}

/* [] or three rows of three */
static bool read_matrix(sv_json_scan *s, matrix *out)
{
    int rows = 0;
    double more[3];
    if (!sv_json_open(s, '[')) return false;
    while (sv_json_next(s)) {
        sv_json_numbers(s, rows < 3 ? out->value + 3 * rows : more, 3);
        rows++;
    }
    out->empty = rows == 0;
    if (s->state == SV_JSON_GOOD && rows != 0 && rows != 3) sv_json_wrong(s, "a matrix has not three rows");
    return s->state == SV_JSON_GOOD;
}

static void read_field(sv_json_scan *s, const field *f, row *r)
{
    void *to = (char *)r + f->offset;
    switch (f->kind) {
    case TEXT:
        sv_json_read_text(s, to);
        break;
    case TEXTS:
        read_texts(s, to);
        break;
    case INTEGER:
        sv_json_read_integer(s, to);
        break;
    case FLAG:
        sv_json_read_bool(s, to);
        break;
    case NUMBERS:
        sv_json_numbers(s, to, f->count);
        break;
    case MATRIX:
        read_matrix(s, to);
    }
}

/* ---- the loader --------------------------------------------------------------------------------------- */

/* What is needed only while reading. */
typedef struct loader {
    sv_nuscenes_tables *t;
    const sv_nuscenes_tables_def *def;
    const sv_nuscenes_split *split; /* NULL: every scene */
    const char *path;               /* of the table at work */
    const field *fields;
    int field_count;
    row row;
    int64_t number;

    sv_nuscenes_index scenes, samples, categories, attributes, instances, sensors, calibrations, data, poses,
        annotations;
    int *sensor_channels;
    signed char *attribute_names;
    int *category_classes, *instance_categories;
    sv_nuscenes_token *instance_tokens;
    sv_nuscenes_token *data_previous; /* of the kept rows of sample_data, as the next */
    sv_nuscenes_token *data_pose;
    int32_t *same_pose;            /* the next row with the same pose; -1 */
    sv_nuscenes_token *neighbours; /* of annotations: previous, next */
    sv_nuscenes_sample *all_samples;
    int all_sample_count, sensor_count, attribute_count, instance_count, chosen_scenes;
    int32_t *sample_numbers; /* of all samples: the number of a chosen one; -1 */
    size_t name_bytes, name_room;
} loader;

static bool is_field(sv_json_span key, const field *f)
{
    return key.size == f->letters && memcmp(key.at, f->name, f->letters) == 0;
}

static void read_fields(sv_json_scan *s, void *user)
{
    loader *l = user;
    sv_json_span key;
    uint32_t seen = 0;
    int expected = 0; /* records have their fields in the same order */
    memset(&l->row, 0, sizeof l->row);
    if (!sv_json_open(s, '{')) return;
    while (sv_json_next_key(s, &key)) {
        int i = expected;
        if (i >= l->field_count || !is_field(key, &l->fields[i]))
            for (i = 0; i < l->field_count && !is_field(key, &l->fields[i]); i++) {
            }
        if (i == l->field_count) {
            sv_json_skip(s);
            continue;
        }
        if (seen & 1u << i) {
            sv_json_wrong(s, "a field stands twice");
            return;
        }
        seen |= 1u << i;
        expected = i + 1;
        read_field(s, &l->fields[i], &l->row);
    }
    if (s->state == SV_JSON_GOOD && seen != (1u << l->field_count) - 1)
        for (int i = 0; i < l->field_count; i++)
            if (!(seen & 1u << i)) {
                static _Thread_local char text[80];
                snprintf(text, sizeof text, "the field \"%s\" is missing", l->fields[i].name);
                sv_json_wrong(s, text);
            }
}

static sv_status read_table(sv_ctx *c, loader *l, const char *name, const field *fields, int count,
                            sv_status (*take)(sv_ctx *c, void *user, int64_t row))
{
    char path[PATH];
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/%s.json", l->t->folder, name));
    l->path = path;
    l->fields = fields;
    l->field_count = count;
    const sv_json_rows rows = {.path = path, .user = l, .read = read_fields, .take = take};
    const sv_status status = sv_json_read_rows(c, &rows);
    l->path = NULL;
    return status;
}
#define READ_TABLE(c, l, name, fields, take)                                                                 \
    read_table(c, l, name, fields, (int)(sizeof(fields) / sizeof *(fields)), take)

/* Room for one more in an array that doubles. */
static sv_status room(sv_ctx *c, loader *l, void *pointer, int count, size_t size)
{
    void **data = pointer;
    SV_CHECK(c, count < MOST_ROWS, SV_BAD_INPUT, "%s: more than %d entries", l->path, MOST_ROWS);
    if (count > 0 && (count < 64 || (count & (count - 1)) != 0)) return SV_OK;
    void *grown = realloc(*data, size * (size_t)(count > 0 ? 2 * count : 64));
    SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for %d entries", l->path, count + 1);
    *data = grown;
    return SV_OK;
}

static sv_status token_of(sv_ctx *c, const loader *l, int64_t number, const char *what, sv_json_span text,
                          bool may_be_none, sv_nuscenes_token *out)
{
    if (sv_nuscenes_token_parse(text.at, text.size, out) && (may_be_none || text.size > 0)) return SV_OK;
    return SV_FAIL(c, SV_BAD_INPUT,
                   "%s: entry %lld has the %s '%.*s', which is no token of 32 hexadecimal digits", l->path,
                   (long long)number, what, text.size < 40 ? (int)text.size : 40, text.at);
}

/* The entry's own token, new in 'index'. */
static sv_status add_token(sv_ctx *c, loader *l, int64_t number, sv_nuscenes_index *index, int as,
                           sv_nuscenes_token *out)
{
    SV_TRY(token_of(c, l, number, "token", l->row.token, false, out));
    const int32_t there = sv_nuscenes_index_add(index, *out, as);
    SV_CHECK(c, there >= 0, SV_NO_MEMORY, "%s: no memory for %d entries", l->path, as + 1);
    SV_CHECK(c, there == as, SV_BAD_INPUT, "%s: the token %.*s stands twice, again in entry %lld", l->path,
             (int)l->row.token.size, l->row.token.at, (long long)number);
    return SV_OK;
}

/* What another table has under a token. */
static sv_status follow(sv_ctx *c, const loader *l, int64_t number, const char *what, sv_json_span text,
                        const sv_nuscenes_index *index, const char *table, int *out)
{
    sv_nuscenes_token token;
    SV_TRY(token_of(c, l, number, what, text, false, &token));
    *out = sv_nuscenes_index_find(index, token);
    SV_CHECK(c, *out >= 0, SV_BAD_INPUT,
             "%s: entry %lld (token %.*s) has the %s %.*s, which is not in %s.json: the tables do not belong "
             "together or one is cut off",
             l->path, (long long)number, l->row.token.size < 40 ? (int)l->row.token.size : 40,
             l->row.token.at, what, (int)text.size, text.at, table);
    return SV_OK;
}

static sv_status check_finite(sv_ctx *c, const loader *l, int64_t number, const char *what,
                              const double *value, int count)
{
    for (int i = 0; i < count; i++)
        SV_CHECK(c, isfinite(value[i]) && fabs(value[i]) < 1e12, SV_BAD_INPUT,
                 "%s: entry %lld (token %.*s): the %s holds %g, which is no place in the world", l->path,
                 (long long)number, l->row.token.size < 40 ? (int)l->row.token.size : 40, l->row.token.at,
                 what, value[i]);
    return SV_OK;
}

static sv_status check_rotation(sv_ctx *c, const loader *l, int64_t number)
{
    const double *q = l->row.rotation, n = q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3];
    SV_TRY(check_finite(c, l, number, "rotation", q, 4));
    SV_CHECK(c, n > 0.25 && n < 4, SV_BAD_INPUT,
             "%s: entry %lld (token %.*s): the rotation is no unit quaternion (w, x, y, z)", l->path,
             (long long)number, (int)l->row.token.size, l->row.token.at);
    return SV_OK;
}

static sv_status copy_name(sv_ctx *c, const loader *l, int64_t number, const char *what, sv_json_span text,
                           char *out, size_t size)
{
    SV_CHECK(c, text.size > 0 && sv_json_span_copy(text, out, size), SV_BAD_INPUT,
             "%s: entry %lld has a %s of %zu letters; 1 to %zu are expected", l->path, (long long)number,
             what, text.size, size - 1);
    return SV_OK;
}

/* ---- small tables ------------------------------------------------------------------------------------- */

static sv_status take_category(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_tables *t = l->t;
    sv_nuscenes_token token;
    SV_TRY(add_token(c, l, number, &l->categories, t->category_count, &token));
    SV_TRY(room(c, l, &t->categories, t->category_count, sizeof *t->categories));
    SV_TRY(room(c, l, &l->category_classes, t->category_count, sizeof *l->category_classes));
    char *name = t->categories[t->category_count];
    SV_TRY(copy_name(c, l, number, "name", l->row.name, name, sizeof *t->categories));
    l->category_classes[t->category_count++] = sv_nuscenes_class_of_category(name);
    return SV_OK;
}

static sv_status take_attribute(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    char name[64];
    sv_nuscenes_token token;
    SV_TRY(add_token(c, l, number, &l->attributes, l->attribute_count, &token));
    SV_TRY(room(c, l, &l->attribute_names, l->attribute_count, sizeof *l->attribute_names));
    SV_TRY(copy_name(c, l, number, "name", l->row.name, name, sizeof name));
    l->attribute_names[l->attribute_count++] = (signed char)sv_nuscenes_attribute_of(name);
    return SV_OK;
}

static sv_status take_instance(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_token token;
    int category;
    SV_TRY(add_token(c, l, number, &l->instances, l->instance_count, &token));
    SV_TRY(follow(c, l, number, "category_token", l->row.category, &l->categories, "category", &category));
    SV_TRY(room(c, l, &l->instance_categories, l->instance_count, sizeof *l->instance_categories));
    SV_TRY(room(c, l, &l->instance_tokens, l->instance_count, sizeof *l->instance_tokens));
    l->instance_tokens[l->instance_count] = token;
    l->instance_categories[l->instance_count++] = category;
    return SV_OK;
}

static sv_status take_sensor(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_token token;
    SV_TRY(add_token(c, l, number, &l->sensors, l->sensor_count, &token));
    SV_TRY(room(c, l, &l->sensor_channels, l->sensor_count, sizeof *l->sensor_channels));
    int channel = SV_NUSCENES_CHANNELS - 1;
    while (channel >= 0 && !sv_json_span_is(l->row.channel, sv_nuscenes_channels[channel])) channel--;
    l->sensor_channels[l->sensor_count++] = channel;
    return SV_OK;
}

static sv_status take_calibration(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_tables *t = l->t;
    const row *r = &l->row;
    sv_nuscenes_token token;
    int sensor;
    SV_TRY(add_token(c, l, number, &l->calibrations, t->calibration_count, &token));
    SV_TRY(follow(c, l, number, "sensor_token", r->sensor, &l->sensors, "sensor", &sensor));
    SV_TRY(check_rotation(c, l, number));
    SV_TRY(check_finite(c, l, number, "translation", r->translation, 3));
    SV_TRY(check_finite(c, l, number, "camera_intrinsic", r->intrinsic.value, 9));
    SV_TRY(room(c, l, &t->calibrations, t->calibration_count, sizeof *t->calibrations));
    sv_nuscenes_calibration *k = &t->calibrations[t->calibration_count++];
    *k = (sv_nuscenes_calibration){.channel = l->sensor_channels[sensor],
                                   .to_ego = sv_pose_from_quaternion(r->rotation, r->translation),
                                   .has_intrinsic = !r->intrinsic.empty};
    memcpy(k->intrinsic, r->intrinsic.value, sizeof k->intrinsic);
    memcpy(k->rotation, r->rotation, sizeof k->rotation);
    return SV_OK;
}

static sv_status take_scene(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_tables *t = l->t;
    sv_nuscenes_token token;
    SV_TRY(add_token(c, l, number, &l->scenes, t->scene_count, &token));
    SV_TRY(room(c, l, &t->scenes, t->scene_count, sizeof *t->scenes));
    sv_nuscenes_scene *scene = &t->scenes[t->scene_count++];
    *scene = (sv_nuscenes_scene){.token = token};
    SV_TRY(copy_name(c, l, number, "name", l->row.name, scene->name, sizeof scene->name));
    scene->chosen = !l->split || sv_nuscenes_split_has(l->split, scene->name);
    bool named = l->def->scene_count == 0;
    for (int i = 0; i < l->def->scene_count; i++) named |= strcmp(l->def->scenes[i], scene->name) == 0;
    scene->chosen = scene->chosen && named;
    l->chosen_scenes += scene->chosen;
    return SV_OK;
}

static sv_status take_sample(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_token token;
    int scene;
    SV_TRY(add_token(c, l, number, &l->samples, l->all_sample_count, &token));
    SV_TRY(follow(c, l, number, "scene_token", l->row.scene, &l->scenes, "scene", &scene));
    SV_TRY(room(c, l, &l->all_samples, l->all_sample_count, sizeof *l->all_samples));
    sv_nuscenes_sample *s = &l->all_samples[l->all_sample_count++];
    *s = (sv_nuscenes_sample){.token = token, .time = l->row.time, .scene = scene};
    for (int i = 0; i < SV_NUSCENES_CHANNELS; i++) s->data[i] = -1;
    return SV_OK;
}

/* ---- the chosen samples ------------------------------------------------------------------------------- */

typedef struct order {
    int64_t time;
    int32_t scene, sample; /* in all_samples */
} order;

static int by_time(const void *a, const void *b)
{
    const order *x = a, *y = b;
    if (x->scene != y->scene) return x->scene < y->scene ? -1 : 1;
    if (x->time != y->time) return x->time < y->time ? -1 : 1;
    return x->sample < y->sample ? -1 : 1;
}

static sv_status choose_samples(sv_ctx *c, loader *l)
{
    sv_nuscenes_tables *t = l->t;
    const size_t count = (size_t)l->all_sample_count + 1;
    order *list = malloc(sizeof *list * count);
    t->samples = malloc(sizeof *t->samples * count);
    l->sample_numbers = malloc(sizeof *l->sample_numbers * count);
    if (!list || !t->samples || !l->sample_numbers) {
        free(list);
        return SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for %d samples", t->folder, l->all_sample_count);
    }
    for (int i = 0; i < l->all_sample_count; i++) {
        const sv_nuscenes_sample *s = &l->all_samples[i];
        l->sample_numbers[i] = -1;
        if (t->scenes[s->scene].chosen) list[t->sample_count++] = (order){s->time, s->scene, i};
    }
    qsort(list, (size_t)t->sample_count, sizeof *list, by_time);
    for (int i = 0; i < t->sample_count; i++) {
        t->samples[i] = l->all_samples[list[i].sample];
        l->sample_numbers[list[i].sample] = i;
    }
    free(list);
    return SV_OK;
}

/* ---- sample_data and ego_pose ------------------------------------------------------------------------- */

/* Names are parts of a path below the root. */
static bool is_inside(const char *path)
{
    if (path[0] == '/' || path[0] == '\0') return false;
    for (const char *p = path; p; p = strchr(p, '/')) {
        p += *p == '/';
        if (strncmp(p, "../", 3) == 0 || strcmp(p, "..") == 0) return false;
    }
    return true;
}

static sv_status add_file(sv_ctx *c, loader *l, int64_t number, uint32_t *out)
{
    sv_nuscenes_tables *t = l->t;
    char name[LONGEST_PATH];
    SV_CHECK(c, sv_json_span_copy(l->row.file, name, sizeof name) && is_inside(name), SV_BAD_INPUT,
             "%s: entry %lld has the filename '%.*s', which is no path below the dataset's folder", l->path,
             (long long)number, l->row.file.size < 80 ? (int)l->row.file.size : 80, l->row.file.at);
    const size_t size = strlen(name) + 1;
    SV_CHECK(c, l->name_bytes + size < UINT32_MAX, SV_BAD_INPUT, "%s: the filenames are longer than 4 GB",
             l->path);
    if (l->name_bytes + size > l->name_room) {
        const size_t wanted = l->name_room ? 2 * l->name_room : 1 << 16;
        char *grown = realloc(t->names, wanted);
        SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for filenames", l->path);
        t->names = grown;
        l->name_room = wanted;
    }
    memcpy(t->names + l->name_bytes, name, size);
    *out = (uint32_t)l->name_bytes;
    l->name_bytes += size;
    return SV_OK;
}

/* Rows with the same pose are a list, newest first. */
static sv_status want_pose(sv_ctx *c, loader *l, int64_t number, int data)
{
    sv_nuscenes_token pose;
    SV_TRY(token_of(c, l, number, "ego_pose_token", l->row.pose, false, &pose));
    const int32_t first = sv_nuscenes_index_add(&l->poses, pose, data);
    SV_CHECK(c, first >= 0, SV_NO_MEMORY, "%s: no memory for %d entries", l->path, data + 1);
    l->data_pose[data] = pose;
    l->same_pose[data] = -1;
    if (first == data) return SV_OK;
    l->same_pose[data] = l->same_pose[first];
    l->same_pose[first] = data;
    return SV_OK;
}

static sv_status take_data(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_tables *t = l->t;
    const row *r = &l->row;
    int calibration, any_sample;
    SV_TRY(follow(c, l, number, "calibrated_sensor_token", r->calibration, &l->calibrations,
                  "calibrated_sensor", &calibration));
    const int channel = t->calibrations[calibration].channel;
    if (channel < 0 || (channel > 0 && !r->key)) return SV_OK;
    SV_TRY(follow(c, l, number, "sample_token", r->sample, &l->samples, "sample", &any_sample));
    const int sample = l->sample_numbers[any_sample];
    if (sample < 0) return SV_OK;

    const int at = t->data_count;
    sv_nuscenes_token token;
    SV_TRY(add_token(c, l, number, &l->data, at, &token));
    SV_TRY(room(c, l, &t->data, at, sizeof *t->data));
    SV_TRY(room(c, l, &l->data_previous, at, sizeof *l->data_previous));
    SV_TRY(room(c, l, &l->data_pose, at, sizeof *l->data_pose));
    SV_TRY(room(c, l, &l->same_pose, at, sizeof *l->same_pose));
    sv_nuscenes_data *d = &t->data[at];
    *d = (sv_nuscenes_data){.token = token,
                            .time = r->time,
                            .previous = -1,
                            .calibration = calibration,
                            .sample = sample,
                            .key = r->key};
    SV_CHECK(c, r->width >= 0 && r->width <= 1 << 16 && r->height >= 0 && r->height <= 1 << 16, SV_BAD_INPUT,
             "%s: entry %lld has a picture of %lld x %lld pixels", l->path, (long long)number,
             (long long)r->width, (long long)r->height);
    d->width = (int32_t)r->width;
    d->height = (int32_t)r->height;
    SV_TRY(token_of(c, l, number, "prev", r->previous, true, &l->data_previous[at]));
    SV_TRY(want_pose(c, l, number, at));
    SV_TRY(add_file(c, l, number, &d->file));
    if (r->key) {
        int32_t *place = &t->samples[sample].data[channel];
        SV_CHECK(c, *place < 0, SV_BAD_INPUT,
                 "%s: entry %lld (token %.*s) is a second key frame of %s in the sample %.*s", l->path,
                 (long long)number, (int)r->token.size, r->token.at, sv_nuscenes_channels[channel],
                 (int)r->sample.size, r->sample.at);
        *place = at;
    }
    t->data_count++;
    return SV_OK;
}

static sv_status take_pose(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_tables *t = l->t;
    sv_nuscenes_token token;
    SV_TRY(token_of(c, l, number, "token", l->row.token, false, &token));
    int32_t at = sv_nuscenes_index_find(&l->poses, token);
    if (at < 0) return SV_OK;
    SV_TRY(check_rotation(c, l, number));
    SV_TRY(check_finite(c, l, number, "translation", l->row.translation, 3));
    SV_CHECK(c, !t->data[at].placed, SV_BAD_INPUT, "%s: the token %.*s stands twice, again in entry %lld",
             l->path, (int)l->row.token.size, l->row.token.at, (long long)number);
    for (; at >= 0; at = l->same_pose[at]) {
        memcpy(t->data[at].rotation, l->row.rotation, sizeof l->row.rotation);
        memcpy(t->data[at].translation, l->row.translation, sizeof l->row.translation);
        t->data[at].placed = true;
    }
    return SV_OK;
}

/* Poses are all there, sweeps know the ones before them, samples have their LiDAR. */
static sv_status link_data(sv_ctx *c, loader *l)
{
    sv_nuscenes_tables *t = l->t;
    char token[SV_NUSCENES_TOKEN_TEXT], named[SV_NUSCENES_TOKEN_TEXT];
    for (int i = 0; i < t->data_count; i++) {
        sv_nuscenes_data *d = &t->data[i];
        sv_nuscenes_token_text(d->token, token);
        if (!d->placed) {
            sv_nuscenes_token_text(l->data_pose[i], named);
            return SV_FAIL(c, SV_BAD_INPUT,
                           "%s/sample_data.json: the entry %s has the ego_pose_token %s, which is not in "
                           "ego_pose.json: the tables do not belong together or one is cut off",
                           t->folder, token, named);
        }
        if (t->calibrations[d->calibration].channel != 0 || sv_nuscenes_token_none(l->data_previous[i]))
            continue;
        d->previous = sv_nuscenes_index_find(&l->data, l->data_previous[i]);
        sv_nuscenes_token_text(l->data_previous[i], named);
        SV_CHECK(c, d->previous >= 0, SV_BAD_INPUT,
                 "%s/sample_data.json: the sweep %s follows (prev) %s, which is not in the table among the "
                 "sweeps of "
                 "its scene: the table is cut off or has been changed",
                 t->folder, token, named);
        SV_CHECK(c,
                 t->calibrations[t->data[d->previous].calibration].channel == 0 &&
                     t->data[d->previous].time < d->time,
                 SV_BAD_INPUT,
                 "%s/sample_data.json: the sweep %s follows (prev) %s, which is no earlier sweep", t->folder,
                 token, named);
    }
    for (int i = 0; i < t->sample_count; i++) {
        sv_nuscenes_token_text(t->samples[i].token, token);
        SV_CHECK(c, t->samples[i].data[0] >= 0, SV_BAD_INPUT,
                 "%s/sample_data.json: the sample %s has no key frame of LIDAR_TOP", t->folder, token);
    }
    return SV_OK;
}

/* ---- annotations -------------------------------------------------------------------------------------- */

static sv_status take_annotation(sv_ctx *c, void *user, int64_t number)
{
    loader *l = user;
    sv_nuscenes_tables *t = l->t;
    const row *r = &l->row;
    int any_sample, instance, attribute;
    t->labelled = true;
    SV_TRY(follow(c, l, number, "sample_token", r->sample, &l->samples, "sample", &any_sample));
    const int sample = l->sample_numbers[any_sample], at = t->annotation_count;
    if (sample < 0) return SV_OK;
    sv_nuscenes_token token;
    SV_TRY(add_token(c, l, number, &l->annotations, at, &token));
    SV_TRY(follow(c, l, number, "instance_token", r->instance, &l->instances, "instance", &instance));
    SV_TRY(room(c, l, &t->annotations, at, sizeof *t->annotations));
    SV_TRY(check_rotation(c, l, number));
    SV_TRY(check_finite(c, l, number, "translation", r->translation, 3));
    SV_TRY(check_finite(c, l, number, "size", r->size, 3));
    SV_CHECK(c, r->size[0] > 0 && r->size[1] > 0 && r->size[2] > 0, SV_BAD_INPUT,
             "%s: entry %lld (token %.*s) has the size %g x %g x %g", l->path, (long long)number,
             (int)r->token.size, r->token.at, r->size[0], r->size[1], r->size[2]);
    SV_CHECK(c,
             r->lidar_points >= 0 && r->lidar_points <= INT32_MAX / 2 && r->radar_points >= 0 &&
                 r->radar_points <= INT32_MAX / 2,
             SV_BAD_INPUT, "%s: entry %lld (token %.*s) counts %lld LiDAR and %lld radar points", l->path,
             (long long)number, (int)r->token.size, r->token.at, (long long)r->lidar_points,
             (long long)r->radar_points);
    sv_nuscenes_annotation *a = &t->annotations[at];
    *a = (sv_nuscenes_annotation){.token = token,
                                  .instance = l->instance_tokens[instance],
                                  .sample = sample,
                                  .category = l->instance_categories[instance],
                                  .lidar_points = (int32_t)r->lidar_points,
                                  .radar_points = (int32_t)r->radar_points,
                                  .attribute = SV_NUSCENES_ATTRIBUTE_NONE,
                                  .attributes =
                                      (unsigned char)(r->attributes.count < 255 ? r->attributes.count : 255)};
    a->detection_class = (signed char)l->category_classes[a->category];
    memcpy(a->translation, r->translation, sizeof a->translation);
    memcpy(a->size, r->size, sizeof a->size);
    memcpy(a->rotation, r->rotation, sizeof a->rotation);
    if (a->attributes > 0) {
        SV_TRY(
            follow(c, l, number, "attribute", r->attributes.first, &l->attributes, "attribute", &attribute));
        a->attribute = l->attribute_names[attribute];
    }
    SV_TRY(room(c, l, &l->neighbours, at, 2 * sizeof *l->neighbours));
    SV_TRY(token_of(c, l, number, "prev", r->previous, true, &l->neighbours[2 * at]));
    SV_TRY(token_of(c, l, number, "next", r->next, true, &l->neighbours[2 * at + 1]));
    t->samples[sample].count++;
    t->annotation_count++;
    return SV_OK;
}

/* The difference between the neighbours over the time between them, which must not be too long. */
static void estimate_velocity(const sv_nuscenes_tables *t, const sv_nuscenes_annotation *before,
                              const sv_nuscenes_annotation *after, double longest, double velocity[3])
{
    const double seconds =
        1e-6 * (double)t->samples[after->sample].time - 1e-6 * (double)t->samples[before->sample].time;
    for (int i = 0; i < 3; i++) {
        velocity[i] = (after->translation[i] - before->translation[i]) / seconds;
        if (!(seconds <= longest) || !isfinite(velocity[i])) velocity[i] = (double)NAN;
    }
}

static sv_status neighbour(sv_ctx *c, const loader *l, int at, int which, int *out)
{
    const sv_nuscenes_token token = l->neighbours[2 * at + which];
    *out = -1;
    if (sv_nuscenes_token_none(token)) return SV_OK;
    *out = sv_nuscenes_index_find(&l->annotations, token);
    if (*out >= 0) return SV_OK;
    char own[SV_NUSCENES_TOKEN_TEXT], named[SV_NUSCENES_TOKEN_TEXT];
    sv_nuscenes_token_text(l->t->annotations[at].token, own);
    sv_nuscenes_token_text(token, named);
    return SV_FAIL(
        c, SV_BAD_INPUT,
        "%s/sample_annotation.json: the entry %s names %s as its %s, which is not in the table among the "
        "entries of its scene: the table is cut off or has been changed",
        l->t->folder, own, named, which ? "next" : "prev");
}

/* By sample, each in the table's order, with velocities. */
static sv_status link_annotations(sv_ctx *c, loader *l)
{
    sv_nuscenes_tables *t = l->t;
    for (int i = 0; i < t->annotation_count; i++) {
        sv_nuscenes_annotation *a = &t->annotations[i];
        int before, after;
        SV_TRY(neighbour(c, l, i, 0, &before));
        SV_TRY(neighbour(c, l, i, 1, &after));
        for (int k = 0; k < 3; k++) a->velocity[k] = (double)NAN;
        if (before < 0 && after < 0) continue;
        estimate_velocity(t, before < 0 ? a : &t->annotations[before], after < 0 ? a : &t->annotations[after],
                          before >= 0 && after >= 0 ? 3.0 : 1.5, a->velocity);
    }
    for (int i = 1; i < t->sample_count; i++)
        t->samples[i].first = t->samples[i - 1].first + t->samples[i - 1].count;
    /* most tables are in order already */
    bool sorted = true;
    for (int i = 1; i < t->annotation_count; i++)
        sorted = sorted && t->annotations[i - 1].sample <= t->annotations[i].sample;
    if (sorted) return SV_OK;
    int32_t *places = malloc(sizeof *places * (size_t)t->annotation_count);
    SV_CHECK(c, places, SV_NO_MEMORY, "%s: no memory for %d annotations", t->folder, t->annotation_count);
    for (int i = 0; i < t->annotation_count; i++) places[i] = t->samples[t->annotations[i].sample].first++;
    for (int i = 0; i < t->sample_count; i++) t->samples[i].first -= t->samples[i].count;
    for (int i = 0; i < t->annotation_count; i++)
        while (places[i] != i) {
            const int32_t to = places[i];
            const sv_nuscenes_annotation moved = t->annotations[to];
            t->annotations[to] = t->annotations[i];
            t->annotations[i] = moved;
            places[i] = places[to];
            places[to] = to;
        }
    free(places);
    return SV_OK;
}

/* ---- opening ------------------------------------------------------------------------------------------ */

static const field category_fields[] = {FIELD("token", TEXT, token, 0), FIELD("name", TEXT, name, 0)};
static const field instance_fields[] = {FIELD("token", TEXT, token, 0),
                                        FIELD("category_token", TEXT, category, 0)};
static const field sensor_fields[] = {FIELD("token", TEXT, token, 0), FIELD("channel", TEXT, channel, 0)};
static const field calibration_fields[] = {
    FIELD("token", TEXT, token, 0), FIELD("sensor_token", TEXT, sensor, 0),
    FIELD("translation", NUMBERS, translation, 3), FIELD("rotation", NUMBERS, rotation, 4),
    FIELD("camera_intrinsic", MATRIX, intrinsic, 0)};
static const field sample_fields[] = {FIELD("token", TEXT, token, 0), FIELD("timestamp", INTEGER, time, 0),
                                      FIELD("scene_token", TEXT, scene, 0)};
static const field data_fields[] = {
    FIELD("token", TEXT, token, 0),         FIELD("sample_token", TEXT, sample, 0),
    FIELD("ego_pose_token", TEXT, pose, 0), FIELD("calibrated_sensor_token", TEXT, calibration, 0),
    FIELD("timestamp", INTEGER, time, 0),   FIELD("is_key_frame", FLAG, key, 0),
    FIELD("height", INTEGER, height, 0),    FIELD("width", INTEGER, width, 0),
    FIELD("filename", TEXT, file, 0),       FIELD("prev", TEXT, previous, 0)};
static const field pose_fields[] = {FIELD("token", TEXT, token, 0), FIELD("rotation", NUMBERS, rotation, 4),
                                    FIELD("translation", NUMBERS, translation, 3)};
static const field annotation_fields[] = {FIELD("token", TEXT, token, 0),
                                          FIELD("sample_token", TEXT, sample, 0),
                                          FIELD("instance_token", TEXT, instance, 0),
                                          FIELD("attribute_tokens", TEXTS, attributes, 0),
                                          FIELD("translation", NUMBERS, translation, 3),
                                          FIELD("size", NUMBERS, size, 3),
                                          FIELD("rotation", NUMBERS, rotation, 4),
                                          FIELD("prev", TEXT, previous, 0),
                                          FIELD("next", TEXT, next, 0),
                                          FIELD("num_lidar_pts", INTEGER, lidar_points, 0),
                                          FIELD("num_radar_pts", INTEGER, radar_points, 0)};

sv_status sv_nuscenes_version(sv_ctx *c, const char *root, const char *version, const char *split, char *out,
                              size_t size)
{
    char path[PATH], there[400];
    sv_names names;
    SV_TRY(sv_dataset_list(c, root, "/", &names));
    int found = 0;
    const char *only = NULL, *fitting = NULL;
    for (int i = 0; i < names.count; i++) {
        if (snprintf(path, sizeof path, "%s/%s/sample_data.json", root, names.data[i]) >= (int)sizeof path ||
            !sv_dataset_is_file(path))
            continue;
        only = names.data[i];
        found++;
        for (int k = 0; split && k < SV_NUSCENES_SPLITS; k++) {
            char wanted[32];
            snprintf(wanted, sizeof wanted, "v1.0-%s", sv_nuscenes_splits[k].version);
            if (strcmp(split, sv_nuscenes_splits[k].name) == 0 && strcmp(only, wanted) == 0) fitting = only;
        }
        if (version && strcmp(only, version) == 0) fitting = only;
    }
    sv_names_say(&names, there, sizeof there);
    if (!fitting && !version && found == 1) fitting = only;
    const bool fits = fitting && snprintf(out, size, "%s", fitting) < (int)size;
    sv_names_free(&names);
    if (fits) return SV_OK;
    SV_CHECK(
        c, found > 0, SV_BAD_INPUT,
        "%s: holds no tables; a folder v1.0-trainval, v1.0-test or v1.0-mini with sample_data.json belongs "
        "there; here is %s",
        root, there);
    SV_CHECK(c, !version, SV_BAD_INPUT, "%s: has no tables of the version %.40s; here is %s", root, version,
             there);
    return SV_FAIL(c, SV_USAGE, "%s: holds tables of several versions: choose one (--version); here is %s",
                   root, there);
}

static sv_status find_split(sv_ctx *c, loader *l, const char *name)
{
    sv_nuscenes_tables *t = l->t;
    const char *version = strrchr(t->folder, '/') + 1;
    if (!name) {
        name = "all";
        for (int i = SV_NUSCENES_SPLITS - 1; i >= 0; i--)
            if (strncmp(version, "v1.0-", 5) == 0 &&
                strcmp(version + 5, sv_nuscenes_splits[i].version) == 0 &&
                strcmp(sv_nuscenes_splits[i].name, "train") != 0 &&
                strcmp(sv_nuscenes_splits[i].name, "mini_train") != 0)
                name = sv_nuscenes_splits[i].name;
    }
    for (int i = 0; i < SV_NUSCENES_SPLITS; i++)
        if (strcmp(sv_nuscenes_splits[i].name, name) == 0) l->split = &sv_nuscenes_splits[i];
    SV_CHECK(c, l->split || strcmp(name, "all") == 0, SV_USAGE,
             "nuScenes has no split '%.40s': train, val, test, mini_train, mini_val, or all for every scene "
             "there is",
             name);
    snprintf(t->split, sizeof t->split, "%s", name);
    return SV_OK;
}

/* No scene of the split is there, or one that was named is not: say what is. */
static sv_status check_scenes(sv_ctx *c, const loader *l)
{
    const sv_nuscenes_tables *t = l->t;
    const sv_nuscenes_tables_def *def = l->def;
    for (int i = 0; i < def->scene_count; i++) {
        bool found = false;
        for (int k = 0; k < t->scene_count; k++)
            found = found || (t->scenes[k].chosen && strcmp(t->scenes[k].name, def->scenes[i]) == 0);
        SV_CHECK(c, found, SV_USAGE,
                 "%s: the split %s has no scene '%.60s' (%d scenes in the tables, the first is %s)",
                 t->folder, t->split, def->scenes[i], t->scene_count,
                 t->scene_count ? t->scenes[0].name : "none");
    }
    if (l->chosen_scenes > 0) return SV_OK;
    char fits[160] = "";
    for (int i = 0; i < SV_NUSCENES_SPLITS; i++) {
        int count = 0;
        for (int k = 0; k < t->scene_count; k++)
            count += sv_nuscenes_split_has(&sv_nuscenes_splits[i], t->scenes[k].name);
        const size_t used = strlen(fits);
        if (count > 0)
            snprintf(fits + used, sizeof fits - used, "%s%s (%d)", used ? ", " : "",
                     sv_nuscenes_splits[i].name, count);
    }
    return SV_FAIL(c, SV_BAD_INPUT,
                   "%s: none of its %d scenes is in the split %s; scenes are there of: %s%sall", t->folder,
                   t->scene_count, t->split, fits, fits[0] ? ", " : "");
}

/* What only sample_data and ego_pose needed. */
static void forget_data(loader *l)
{
    free(l->data_previous);
    free(l->data_pose);
    free(l->same_pose);
    l->data_previous = l->data_pose = NULL;
    l->same_pose = NULL;
    sv_nuscenes_index_close(&l->data);
    sv_nuscenes_index_close(&l->poses);
}

static sv_status read_tables(sv_ctx *c, loader *l)
{
    SV_TRY(READ_TABLE(c, l, "scene", category_fields, take_scene));
    SV_TRY(check_scenes(c, l));
    SV_TRY(READ_TABLE(c, l, "category", category_fields, take_category));
    SV_TRY(READ_TABLE(c, l, "attribute", category_fields, take_attribute));
    SV_TRY(READ_TABLE(c, l, "sensor", sensor_fields, take_sensor));
    SV_TRY(READ_TABLE(c, l, "calibrated_sensor", calibration_fields, take_calibration));
    SV_TRY(READ_TABLE(c, l, "sample", sample_fields, take_sample));
    SV_TRY(choose_samples(c, l));
    SV_TRY(READ_TABLE(c, l, "sample_data", data_fields, take_data));
    SV_TRY(READ_TABLE(c, l, "ego_pose", pose_fields, take_pose));
    SV_TRY(link_data(c, l));
    forget_data(l);
    SV_TRY(READ_TABLE(c, l, "instance", instance_fields, take_instance));
    SV_TRY(READ_TABLE(c, l, "sample_annotation", annotation_fields, take_annotation));
    return link_annotations(c, l);
}

static void close_loader(loader *l)
{
    sv_nuscenes_index *const indices[] = {&l->scenes,    &l->samples,    &l->categories,   &l->attributes,
                                          &l->instances, &l->sensors,    &l->calibrations, &l->data,
                                          &l->poses,     &l->annotations};
    void *const arrays[] = {l->sensor_channels,     l->attribute_names, l->category_classes,
                            l->instance_categories, l->instance_tokens, l->data_previous,
                            l->data_pose,           l->same_pose,       l->neighbours,
                            l->all_samples,         l->sample_numbers};
    for (size_t i = 0; i < sizeof indices / sizeof *indices; i++) sv_nuscenes_index_close(indices[i]);
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
    free(l);
}

/* Arrays have doubled: give back what is too much. */
static void shrink(void *pointer, size_t bytes)
{
    void **data = pointer, *smaller = bytes > 0 && *data ? realloc(*data, bytes) : NULL;
    if (smaller) *data = smaller;
}

sv_status sv_nuscenes_tables_open(sv_ctx *c, const sv_nuscenes_tables_def *def, sv_nuscenes_tables *out)
{
    char version[64];
    *out = (sv_nuscenes_tables){0};
    SV_TRY(sv_nuscenes_version(c, def->root, def->version, def->split, version, sizeof version));
    SV_TRY(sv_dataset_path(c, out->folder, sizeof out->folder, "%s/%s", def->root, version));
    loader *l = calloc(1, sizeof *l);
    SV_CHECK(c, l, SV_NO_MEMORY, "%s: no memory", def->root);
    l->t = out;
    l->def = def;
    sv_nuscenes_index *const indices[] = {&l->scenes,    &l->samples,    &l->categories,   &l->attributes,
                                          &l->instances, &l->sensors,    &l->calibrations, &l->data,
                                          &l->poses,     &l->annotations};
    bool good = true;
    for (size_t i = 0; i < sizeof indices / sizeof *indices; i++)
        good = sv_nuscenes_index_open(indices[i]) && good;
    sv_status status =
        good ? find_split(c, l, def->split) : SV_FAIL(c, SV_NO_MEMORY, "%s: no memory", def->root);
    if (status == SV_OK) status = read_tables(c, l);
    shrink(&out->annotations, sizeof *out->annotations * (size_t)out->annotation_count);
    shrink(&out->data, sizeof *out->data * (size_t)out->data_count);
    shrink(&out->samples, sizeof *out->samples * (size_t)out->sample_count);
    shrink(&out->names, l->name_bytes);
    close_loader(l);
    if (status != SV_OK) sv_nuscenes_tables_close(out);
    return status;
}

void sv_nuscenes_tables_close(sv_nuscenes_tables *t)
{
    free(t->scenes);
    free(t->categories);
    free(t->calibrations);
    free(t->samples);
    free(t->annotations);
    free(t->data);
    free(t->names);
    *t = (sv_nuscenes_tables){0};
}
