/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening walks over the records of every file: their heads, and the first kilobytes, which hold the
 * context's name and the timestamp. Reading a sample reads its whole record and compares the checksum.
 */
#include "waymo_dataset.h"

#include "dataset_type.h"
#include "evaluator_type.h"
#include "tfrecord.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 4096, HEAD = 8192, MOST_RECORDS = 1 << 20 };

static const char *const classes[] = {"Vehicle", "Pedestrian", "Cyclist"};
enum { CLASSES = sizeof classes / sizeof *classes };

/* A sample's record. */
typedef struct place {
    int file, context;
    sv_tfrecord record;
    int64_t timestamp;
} place;

/* sv_dataset.own */
typedef struct waymo {
    char **files; /* paths */
    int file_count;
    char **contexts;
    int context_count, context_room;
    place *places; /* one per sample */
    int place_room;
    int sweeps;
} waymo;

/* ---- which files -------------------------------------------------------------------------------------- */

static bool has_records(const char *folder)
{
    sv_names names;
    if (!sv_dataset_is_folder(folder) || sv_dataset_list(NULL, folder, ".tfrecord", &names) != SV_OK)
        return false;
    const int count = names.count;
    sv_names_free(&names);
    return count > 0;
}

static bool holds_records(const char *root, const char *inner)
{
    char path[PATH];
    return (size_t)snprintf(path, sizeof path, "%s/%s", root, inner) < sizeof path && has_records(path);
}

/* Folders of ROOT that hold records, sorted. */
static sv_status record_folders(sv_ctx *c, const char *root, sv_names *out)
{
    SV_TRY(sv_dataset_list(c, root, "/", out));
    int kept = 0;
    for (int i = 0; i < out->count; i++) {
        if (holds_records(root, out->data[i]))
            out->data[kept++] = out->data[i];
        else
            free(out->data[i]);
    }
    out->count = kept;
    return SV_OK;
}

static bool recognise(const char *root)
{
    sv_names folders = {0};
    if (has_records(root)) return true;
    const bool any = record_folders(NULL, root, &folders) == SV_OK && folders.count > 0;
    sv_names_free(&folders);
    return any;
}

/* The file's name without what all of them have: "segment-", "_with_camera_labels", ".tfrecord". */
static void drive_of(const char *file, char out[128])
{
    static const char front[] = "segment-", tail[] = "_with_camera_labels";
    if (strncmp(file, front, sizeof front - 1) == 0) file += sizeof front - 1;
    snprintf(out, 128, "%s", file);
    char *end = strstr(out, ".tfrecord");
    if (end) *end = '\0';
    const size_t length = strlen(out);
    if (length > sizeof tail - 1 && strcmp(out + length - (sizeof tail - 1), tail) == 0)
        out[length - (sizeof tail - 1)] = '\0';
}

static bool wanted(const sv_dataset_def *def, const char *file, bool *found)
{
    char drive[128];
    drive_of(file, drive);
    bool is = def->sequence_count == 0;
    for (int i = 0; i < def->sequence_count; i++) {
        if (strcmp(def->sequences[i], drive) != 0 && strcmp(def->sequences[i], file) != 0) continue;
        is = found[i] = true;
    }
    return is;
}

static sv_status add_file(sv_ctx *c, waymo *own, const char *root, const char *folder, const char *name)
{
    char path[PATH];
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s%s%s/%s", root, folder[0] ? "/" : "", folder, name));
    const int n = own->file_count;
    if ((n & (n - 1)) == 0) {
        char **grown = realloc(own->files, sizeof *grown * (size_t)(n ? 2 * n : 1));
        SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for %d files", root, n + 1);
        own->files = grown;
    }
    own->files[n] = strdup(path);
    SV_CHECK(c, own->files[n], SV_NO_MEMORY, "%s: no memory for %d files", root, n + 1);
    own->file_count++;
    return SV_OK;
}

/* Lines of a list of OpenPCDet: names of files. */
static sv_status read_list(sv_ctx *c, const char *path, sv_names *out)
{
    void *text;
    size_t size;
    *out = (sv_names){0};
    SV_TRY(sv_file_read(c, path, 1 << 24, &text, &size));
    char *state = NULL;
    sv_status status = SV_OK;
    for (char *line = strtok_r(text, "\r\n \t", &state); line && status == SV_OK;
         line = strtok_r(NULL, "\r\n \t", &state)) {
        const int n = out->count;
        if ((n & (n - 1)) == 0) {
            char **grown = realloc(out->data, sizeof *grown * (size_t)(n ? 2 * n : 1));
            if (grown) out->data = grown;
            if (!grown) status = SV_FAIL(c, SV_NO_MEMORY, "%s: no memory", path);
        }
        if (status == SV_OK && (strchr(line, '/') || line[0] == '.'))
            status = SV_FAIL(c, SV_BAD_INPUT, "%s: '%.60s' is no name of a file", path, line);
        if (status != SV_OK) break;
        out->data[n] = strdup(line);
        if (out->data[n])
            out->count++;
        else
            status = SV_FAIL(c, SV_NO_MEMORY, "%s: no memory", path);
    }
    free(text);
    return status;
}

/* Where the files of the split lie ("" for ROOT itself) and what they are called. */
static sv_status find_files(sv_ctx *c, const sv_dataset_def *def, sv_dataset *d, char folder[64],
                            sv_names *out)
{
    char path[PATH], there[400];
    const bool pcdet = holds_records(d->root, "raw_data");
    const char *split = def->split                             ? def->split
                        : holds_records(d->root, "validation") ? "validation"
                        : pcdet                                ? "val"
                                                               : "";
    SV_CHECK(c, strlen(split) < sizeof d->split && !strchr(split, '/') && split[0] != '.', SV_USAGE,
             "'%.60s' is no name of a split", split);
    memcpy(d->split, split, strlen(split) + 1);
    memcpy(folder, d->split, sizeof d->split);
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s%s%s", d->root, split[0] ? "/" : "", split));
    if (has_records(path)) return sv_dataset_list(c, path, ".tfrecord", out);
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/ImageSets/%s.txt", d->root, split));
    if (pcdet && sv_dataset_is_file(path)) {
        snprintf(folder, 64, "raw_data");
        return read_list(c, path, out);
    }
    SV_TRY(record_folders(c, d->root, out));
    sv_names_say(out, there, sizeof there);
    return SV_FAIL(c, SV_BAD_INPUT,
                   "%s: has no .tfrecord files%s%s; folders that have some: %s (choose one with "
                   "--split, or name it as the root)",
                   d->root, split[0] ? " in " : "", split, there);
}

static sv_status choose_files(sv_ctx *c, const sv_dataset_def *def, sv_dataset *d)
{
    char folder[64], there[400];
    sv_names names = {0};
    bool *found = calloc((size_t)def->sequence_count + 1, sizeof *found);
    sv_status status =
        found ? find_files(c, def, d, folder, &names) : SV_FAIL(c, SV_NO_MEMORY, "%s: no memory", d->root);
    for (int i = 0; i < names.count && status == SV_OK; i++)
        if (wanted(def, names.data[i], found)) status = add_file(c, d->own, d->root, folder, names.data[i]);
    sv_names_say(&names, there, sizeof there);
    for (int i = 0; i < def->sequence_count && status == SV_OK; i++)
        if (!found[i])
            status = SV_FAIL(c, SV_USAGE, "%s: has no drive '%.80s'; its files are %s", d->root,
                             def->sequences[i], there);
    sv_names_free(&names);
    free(found);
    return status;
}

/* ---- which records ------------------------------------------------------------------------------------ */

/* A record of which only the part around 'at' is in memory. */
typedef struct window {
    const sv_source *source;
    uint64_t at, end; /* in the file */
    uint8_t bytes[HEAD];
    size_t from, size; /* of bytes: what lies at 'at' begins at 'from' */
} window;

static sv_status look(sv_ctx *c, window *w, size_t count)
{
    if (w->size - w->from >= count) return SV_OK;
    w->from = 0;
    w->size = w->end - w->at < HEAD
    ? (size_t)(w->end - w->at) : HEAD;
    return sv_source_read(c, w->source, w->at, w->bytes, w->size);
}

static void skip(window *w, uint64_t count)
{
    w->at += count;
    if (count <= w->size - w->from)
        w->from += (size_t)count;
    else
        w->from = w->size = 0;
}

/* The field at 'at', without its bytes: these begin at 'at' then. False: broken. */
static sv_status next_field(sv_ctx *c, window *w, uint64_t end, int *number, int *type, uint64_t *value,
                            bool *good)
{
    uint64_t tag = 0;
    const uint64_t left = end - w->at;
    SV_TRY(look(c, w, left < 20 ? (size_t)left : 20));
    const uint8_t *begin = w->bytes + w->from, *p = begin;
    const uint8_t *limit = begin + (w->size - w->from < left ? w->size - w->from : (size_t)left);
    *good = sv_varint(&p, limit, &tag) && tag >> 3 > 0 && tag >> 3 <= 0x1fffffff;
    *number = *good ? (int)(tag >> 3) : 0;
    *type = (int)(tag & 7);
    *value = *type == SV_WIRE_FIXED64 ? 8 : 4; /* bytes that follow */
    if (*type == SV_WIRE_VARINT || *type == SV_WIRE_BYTES)
        *good = *good && sv_varint(&p, limit, value);
    else
        *good = *good && (*type == SV_WIRE_FIXED64 || *type == SV_WIRE_FIXED32);
    skip(w, (uint64_t)(p - begin));
    if (*type != SV_WIRE_VARINT) *good = *good && *value <= end - w->at;
    return SV_OK;
}

/* Context name and timestamp of a record, from as few bytes as it takes. */
static sv_status read_key(sv_ctx *c, window *w, const sv_tfrecord *record, char context[128],
                          int64_t *timestamp)
{
    uint64_t inner = 0, value;
    int number, type;
    bool good = true, timed = false;
    context[0] = '\0';
    w->at = record->offset;
    w->end = record->offset + record->length;
    while (good && w->at < w->end && !(timed && context[0])) {
        SV_TRY(next_field(c, w, inner ? inner : w->end, &number, &type, &value, &good));
        if (!good) break;
        if (inner && number == 1 && type == SV_WIRE_BYTES && value < 128) {
            SV_TRY(look(c, w, (size_t)value));
            memcpy(context, w->bytes + w->from, (size_t)value);
            context[value] = '\0';
            if (w->at + value < inner) value = inner - w->at; /* the rest of the context, too */
        } else if (!inner && number == 2 && type == SV_WIRE_VARINT) {
            *timestamp = (int64_t)value;
            timed = true;
        }
        if (!inner && number == 1 && type == SV_WIRE_BYTES && value > 0)
            inner = w->at + value;
        else if (type != SV_WIRE_VARINT)
            skip(w, value);
        if (inner && w->at >= inner) inner = 0;
    }
    for (const char *p = context; *p; p++) good = good && (unsigned char)*p > ' ' && *p != '/' && *p < 0x7f;
    SV_CHECK(c, good && timed && context[0], SV_BAD_INPUT,
             "%s, record %d: has no %s: it is no Frame of the perception dataset, or damaged",
             w->source->path, record->number,
             !good   ? "sound beginning"
             : timed ? "context name (field 1)"
                     : "timestamp (field 2)");
    return SV_OK;
}

static sv_status find_context(sv_ctx *c, sv_dataset *d, const char *name, int *out)
{
    waymo *own = d->own;
    *out = own->context_count - 1;
    if (*out >= 0 && strcmp(own->contexts[*out], name) == 0) return SV_OK;
    if (own->context_count == own->context_room) {
        const int room = own->context_room ? 2 * own->context_room : 16;
        char **grown = realloc(own->contexts, sizeof *grown * (size_t)room);
        SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory", d->root);
        own->contexts = grown;
        own->context_room = room;
    }
    char *copy = strdup(name);
    SV_CHECK(c, copy, SV_NO_MEMORY, "%s: no memory", d->root);
    own->contexts[own->context_count++] = copy;
    *out = own->context_count - 1;
    return sv_dataset_add_sequence(c, d, name);
}

static sv_status add_record(sv_ctx *c, sv_dataset *d, int file, const sv_tfrecord *record,
                            const char *context, int64_t timestamp)
{
    waymo *own = d->own;
    char id[192];
    int index;
    SV_TRY(find_context(c, d, context, &index));
    if (d->count == own->place_room) {
        const int room = own->place_room ? 2 * own->place_room : 256;
        place *grown = realloc(own->places, sizeof *grown * (size_t)room);
        SV_CHECK(c, grown && d->count < MOST_RECORDS, SV_NO_MEMORY, "%s: no memory for %d records", d->root,
                 room);
        own->places = grown;
        own->place_room = room;
    }
    own->places[d->count] = (place){file, index, *record, timestamp};
    snprintf(id, sizeof id, "%s_%" PRId64, context, timestamp);
    return sv_dataset_add_sample(c, d, id, (double)timestamp * 1e-6);
}

static sv_status walk_file(sv_ctx *c, sv_dataset *d, int file, window *w)
{
    const waymo *own = d->own;
    sv_source source;
    sv_status status = sv_source_open(c, own->files[file], &source);
    int number = 0;
    w->source = &source;
    w->from = w->size = 0;
    for (uint64_t at = 0; status == SV_OK && at < source.size;) {
        sv_tfrecord record;
        char context[128];
        int64_t timestamp = 0;
        w->at = at;
        w->end = source.size;
        w->from = w->size = 0;
        if (source.size - at < SV_TFRECORD_HEAD)
            status = SV_FAIL(c, SV_BAD_INPUT,
                             "%s, record %d: is cut off: %d bytes are no head of a record; fetch the "
                             "file again",
                             source.path, number, (int)(source.size - at));
        if (status == SV_OK) status = look(c, w, SV_TFRECORD_HEAD);
        if (status == SV_OK) status = sv_tfrecord_head(c, &source, at, number, w->bytes, &record);
        if (status != SV_OK) break;
        skip(w, SV_TFRECORD_HEAD);
        status = read_key(c, w, &record, context, &timestamp);
        if (status == SV_OK) status = add_record(c, d, file, &record, context, timestamp);
        at = sv_tfrecord_end(&record);
        number++;
    }
    if (status == SV_OK && number == 0)
        sv_log(c, SV_LOG_WARNING, "%s: is empty: it has no records", source.path);
    sv_source_close(&source);
    return status;
}

static sv_status open_waymo(sv_ctx *c, const sv_dataset_def *def, sv_dataset *d)
{
    waymo *own = calloc(1, sizeof *own);
    SV_CHECK(c, own, SV_NO_MEMORY, "%s: no memory", d->root);
    d->own = own;
    d->layout = "xyzie";
    d->classes = classes;
    d->class_count = CLASSES;
    SV_CHECK(c, def->sweeps >= 0 && def->sweeps <= 20, SV_USAGE, "%d sweeps are not within 1..20",
             def->sweeps);
    own->sweeps = def->sweeps ? def->sweeps : 1;
    SV_TRY(choose_files(c, def, d));
    snprintf(d->summary, sizeof d->summary, "Waymo Open Dataset%s%s, %d file%s",
             d->split[0] ? ", split " : "", d->split, own->file_count, own->file_count == 1 ? "" : "s");
    window *w = malloc(sizeof *w);
    SV_CHECK(c, w, SV_NO_MEMORY, "%s: no memory", d->root);
    sv_status status = SV_OK;
    for (int i = 0; i < own->file_count && status == SV_OK; i++) status = walk_file(c, d, i, w);
    free(w);
    return status;
}

static void close_waymo(sv_dataset *d)
{
    waymo *own = d->own;
    if (!own) return;
    for (int i = 0; i < own->file_count; i++) free(own->files[i]);
    for (int i = 0; i < own->context_count; i++) free(own->contexts[i]);
    free(own->files);
    free(own->contexts);
    free(own->places);
    free(own);
}

const char *sv_waymo_context(const sv_dataset *d, int sample)
{
    const waymo *own = d->own;
    return own->contexts[own->places[sample].context];
}
int64_t sv_waymo_timestamp(const sv_dataset *d, int sample)
{
    return ((const waymo *)d->own)->places[sample].timestamp;
}
int sv_waymo_find(const sv_dataset *d, const char *context, int64_t timestamp)
{
    char id[256];
    snprintf(id, sizeof id, "%.190s_%" PRId64, context, timestamp);
    const int sample = sv_dataset_find(d, id);
    return sample >= 0 && strcmp(sv_dataset_id(d, sample), id) == 0 ? sample : -1;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

/* sv_sample.memory */
typedef struct memory {
    sv_waymo_sample sample;
    sv_waymo_frame earlier; /* of another sweep */
    sv_waymo_cloud cloud;
    uint8_t *record; /* bytes of the sample's record */
    uint8_t *other;  /* of another sweep */
    size_t record_room, other_room;
} memory;

static void free_memory(void *pointer)
{
    memory *m = pointer;
    sv_waymo_free_frame(&m->sample.frame);
    sv_waymo_free_frame(&m->earlier);
    sv_waymo_free_cloud(&m->cloud);
    free(m->record);
    free(m->other);
    free(m);
}

static sv_status load_record(sv_ctx *c, const waymo *own, int index, uint8_t **bytes, size_t *room,
                             char name[sizeof((sv_waymo_sample *)0)->name], sv_waymo_frame *out)
{
    const place *p = &own->places[index];
    const size_t size = (size_t)p->record.length + SV_TFRECORD_TAIL;
    if (size > *room) {
        uint8_t *grown = realloc(*bytes, size + size / 8);
        SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for a record of %zu bytes", own->files[p->file],
                 size);
        *bytes = grown;
        *room = size + size / 8;
    }
    snprintf(name, sizeof((sv_waymo_sample *)0)->name, "%.1150s, record %d", own->files[p->file],
             p->record.number);
    sv_source source;
    sv_status status = sv_source_open(c, own->files[p->file], &source);
    if (status == SV_OK) status = sv_tfrecord_read(c, &source, &p->record, *bytes);
    sv_source_close(&source);
    if (status == SV_OK) status = sv_waymo_parse_frame(c, (sv_bytes){*bytes, p->record.length}, name, out);
    return status;
}

/* Points that are not finite are left out; 'to' brings those of an earlier frame to where they are now. */
static int keep_finite(float *points, int count, const sv_pose *to)
{
    int kept = 0;
    for (int i = 0; i < count; i++) {
        float *p = points + 5 * (size_t)i, *q = points + 5 * (size_t)kept;
        if (to) {
            double at[3] = {(double)p[0], (double)p[1], (double)p[2]};
            sv_pose_apply(to, at, at);
            for (int k = 0; k < 3; k++) p[k] = (float)at[k];
        }
        if (!isfinite(p[0] + p[1] + p[2]) || !isfinite(p[3]) || !isfinite(p[4])) continue;
        if (q != p) memcpy(q, p, 5 * sizeof *p);
        kept++;
    }
    return kept;
}

/* One sweep behind the points that are there. */
static sv_status add_points(sv_ctx *c, memory *m, const sv_waymo_frame *frame, const char *name,
                            const sv_pose *to, sv_sample *out)
{
    SV_TRY(sv_waymo_unpack(c, frame, name, &m->cloud));
    const int before = to ? out->frame->count : 0;
    if (before == 0) {
        SV_TRY(sv_sample_frame(c, out, m->cloud.total, 5));
    } else if (out->frame->capacity - before < m->cloud.total) {
        sv_frame *old = sv_frame_retain(out->frame);
        const sv_status status = sv_sample_frame(c, out, before + m->cloud.total, 5);
        if (status == SV_OK) memcpy(out->frame->points, old->points, sizeof(float) * 5 * (size_t)before);
        sv_frame_release(old);
        SV_TRY(status);
    }
    float *points = out->frame->points + 5 * (size_t)before;
    SV_TRY(sv_waymo_points(c, frame, name, &m->cloud, true, points));
    const int kept = keep_finite(points, m->cloud.total, to);
    out->dropped += m->cloud.total - kept;
    out->frame->count = before + kept;
    return SV_OK;
}

static sv_status read_points(sv_ctx *c, const sv_dataset *d, memory *m, sv_sample *out)
{
    const waymo *own = d->own;
    const sv_waymo_frame *now = &m->sample.frame;
    SV_TRY(add_points(c, m, now, m->sample.name, NULL, out));
    memcpy(m->sample.points, m->cloud.points, sizeof m->sample.points);
    sv_pose world_to_ego;
    SV_CHECK(c, sv_pose_invert(&now->ego_to_world, &world_to_ego), SV_BAD_INPUT, "%s: Frame.pose is singular",
             m->sample.name);
    for (int k = 1; k < own->sweeps; k++) {
        const int index = out->index - k;
        if (index < d->sequences[out->sequence].first) break;
        char name[sizeof m->sample.name];
        SV_TRY(load_record(c, own, index, &m->other, &m->other_room, name, &m->earlier));
        const sv_pose to = sv_pose_compose(&world_to_ego, &m->earlier.ego_to_world);
        SV_TRY(add_points(c, m, &m->earlier, name, &to, out));
    }
    return SV_OK;
}

/*
 * The camera's frame has x forward, y left, z up: u = c_u - f_u y / x, v = c_v - f_v z / x, bent by the lens where
 * there are coefficients of it. The rolling shutter, a few pixels at the borders, is not part of it.
 */
static sv_status read_camera(sv_ctx *c, const memory *m, int which, bool picture, sv_sample *out)
{
    const sv_waymo_frame *frame = &m->sample.frame;
    const sv_waymo_camera *camera = &frame->cameras[which];
    if (!camera->calibrated || !camera->has_image || camera->width < 1 || camera->height < 1) return SV_OK;
    sv_pose to_camera, to_then, motion = sv_pose_identity();
    SV_CHECK(c,
             sv_pose_invert(&camera->camera_to_ego, &to_camera) &&
                 (!camera->has_pose || sv_pose_invert(&camera->ego_to_world, &to_then)),
             SV_BAD_INPUT, "%s: a pose of the camera %s is singular", m->sample.name,
             sv_waymo_camera_names[which]);
    if (camera->has_pose) motion = sv_pose_compose(&to_then, &frame->ego_to_world);
    const sv_pose p = sv_pose_compose(&to_camera, &motion);
    sv_camera_view *view = &out->cameras[out->camera_count++];
    snprintf(view->name, sizeof view->name, "%s", sv_waymo_camera_names[which]);
    for (int k = 0; k < 4; k++) {
        const double x = k < 3 ? p.r[k] : p.t[0], y = k < 3 ? p.r[3 + k] : p.t[1],
                     z = k < 3 ? p.r[6 + k] : p.t[2];
        view->projection[k] = camera->intrinsic[2] * x - camera->intrinsic[0] * y;
        view->projection[4 + k] = camera->intrinsic[3] * x - camera->intrinsic[1] * z;
        view->projection[8 + k] = x;
    }
    memset(view->lens, 0, sizeof view->lens);
    for (int i = 4; i < 9; i++) /* f_u, f_v, c_u, c_v, k1, k2, p1, p2, k3 */
        if (camera->intrinsic[i] != 0) memcpy(view->lens, camera->intrinsic, sizeof view->lens);
    view->width = camera->width;
    view->height = camera->height;
    if (!picture || camera->jpeg.size == 0) return SV_OK;
    char name[sizeof m->sample.name + 40];
    snprintf(name, sizeof name, "%s: the picture of the camera %s", m->sample.name, view->name);
    SV_TRY(sv_image_parse_jpeg(c, camera->jpeg.data, camera->jpeg.size, name, &view->image));
    SV_CHECK(c, view->image.width == camera->width && view->image.height == camera->height, SV_BAD_INPUT,
             "%s has %d x %d pixels, its calibration is for %d x %d", name, view->image.width,
             view->image.height, camera->width, camera->height);
    return SV_OK;
}

static int class_of(int type)
{
    for (int i = 0; i < CLASSES; i++)
        if (strcmp(classes[i], sv_waymo_type_names[type]) == 0) return i + 1;
    return 0;
}

static sv_status read_labels(sv_ctx *c, const sv_dataset *d, const memory *m, sv_sample *out)
{
    const sv_waymo_frame *frame = &m->sample.frame;
    sv_pose to_ego;
    if (strncmp(d->split, "test", 4) == 0) return SV_OK; /* published without labels */
    SV_CHECK(c, sv_pose_invert(&frame->ego_to_world, &to_ego), SV_BAD_INPUT, "%s: Frame.pose is singular",
             m->sample.name);
    SV_TRY(sv_sample_labels(c, out, frame->label_count));
    for (int i = 0; i < frame->label_count; i++) {
        const sv_waymo_label *l = &frame->labels[i];
        sv_label *label = &out->labels[i];
        label->box = (sv_box){.x = (float)l->x,
                              .y = (float)l->y,
                              .z = (float)l->z,
                              .dx = (float)l->length,
                              .dy = (float)l->width,
                              .dz = (float)l->height,
                              .heading = (float)l->heading,
                              .label = class_of(l->type)};
        label->has_box = true;
        label->points = l->points;
        label->type = sv_waymo_type_names[l->type];
        label->instance = l->id[0] ? l->id : NULL;
        label->record = l;
        label->has_velocity = l->has_speed;
        if (!l->has_speed) continue;
        double v[3] = {l->speed[0], l->speed[1], isfinite(l->speed[2]) ? l->speed[2] : 0};
        sv_pose_rotate(&to_ego, v, v);
        label->box.vx = (float)v[0];
        label->box.vy = (float)v[1];
    }
    out->has_labels = true;
    return SV_OK;
}

/* The record, and those of the frames that are gathered with it. */
static sv_status fingerprint(sv_ctx *c, const sv_dataset *d, int index, sv_fingerprint *out)
{
    const waymo *own = d->own;
    const int first = d->sequences[d->samples[index].sequence].first;
    for (int k = 0; k < own->sweeps && index - k >= first; k++) {
        const place *p = &own->places[index - k];
        SV_TRY(sv_fingerprint_file(c, out, own->files[p->file], (int64_t)p->record.offset,
                                   (int64_t)p->record.length + SV_TFRECORD_TAIL));
        sv_fingerprint_values(out, &p->timestamp, sizeof p->timestamp);
    }
    return SV_OK;
}

static sv_status read_waymo(sv_ctx *c, const sv_dataset *d, unsigned parts, sv_sample *out)
{
    const waymo *own = d->own;
    if (!out->memory) {
        out->memory = calloc(1, sizeof(memory));
        SV_CHECK(c, out->memory, SV_NO_MEMORY, "%s: no memory", out->id);
        out->free_memory = free_memory;
    }
    memory *m = out->memory;
    out->record = &m->sample;
    memset(m->sample.points, 0, sizeof m->sample.points);
    SV_TRY(load_record(c, own, out->index, &m->record, &m->record_room, m->sample.name, &m->sample.frame));
    SV_CHECK(c, m->sample.frame.timestamp == own->places[out->index].timestamp, SV_BAD_INPUT,
             "%s: has another timestamp than when it was opened: the file was changed", m->sample.name);
    out->ego_to_world = m->sample.frame.ego_to_world;
    out->has_pose = true;
    if (parts & SV_READ_POINTS) SV_TRY(read_points(c, d, m, out));
    for (int i = 0; i < SV_WAYMO_CAMERAS && (parts & SV_READ_CAMERAS); i++)
        SV_TRY(read_camera(c, m, i, (parts & SV_READ_IMAGES) != 0, out));
    if (parts & SV_READ_LABELS) SV_TRY(read_labels(c, d, m, out));
    return SV_OK;
}

/* ---- looking at a folder ------------------------------------------------------------------------------ */

static sv_status inspect_folder(sv_ctx *c, const char *root, const char *folder, sv_findings *findings)
{
    sv_dataset_def def = sv_dataset_def_default("waymo", root);
    sv_dataset *d = NULL;
    const char *shown = folder[0] ? folder : "records";
    def.split = folder[0] ? folder : NULL;
    if (sv_dataset_open(c, &def, &d) != SV_OK) {
        const sv_status status = sv_findings_add(c, findings, true, shown, "%s", sv_error_message(c));
        sv_error_clear(c);
        return status;
    }
    sv_status status = sv_findings_add(c, findings, d->count == 0, shown, "%d drives, %d frames",
                                       d->sequence_count, d->count);
    /* one whole frame says what the files are */
    sv_sample sample = {0};
    if (status == SV_OK && d->count > 0) {
        if (sv_dataset_read(c, d, 0, SV_READ_POINTS | SV_READ_LABELS | SV_READ_CAMERAS, &sample) == SV_OK) {
            const bool empty = sample.frame->count == 0;
            status = sv_findings_add(c, findings, empty, shown,
                                     "the first frame: %d points%s, %d labels, %d cameras",
                                     sample.frame->count, empty ? " (its range images are empty)" : "",
                                     sample.label_count, sample.camera_count);
        } else {
            status = sv_findings_add(c, findings, true, shown, "%s", sv_error_message(c));
            sv_error_clear(c);
        }
    }
    sv_sample_free(&sample);
    sv_dataset_close(d);
    return status;
}

static sv_status inspect_waymo(sv_ctx *c, const char *root, sv_findings *findings)
{
    sv_names folders;
    if (has_records(root)) return inspect_folder(c, root, "", findings);
    SV_TRY(record_folders(c, root, &folders));
    sv_status status = SV_OK;
    for (int i = 0; i < folders.count && status == SV_OK; i++)
        status = inspect_folder(c, root, folders.data[i], findings);
    sv_names_free(&folders);
    return status;
}

const sv_dataset_type sv_dataset_type_waymo = {
    .name = "waymo",
    .summary = "Waymo Open Dataset (perception): TFRecords as they are downloaded",
    .takes_split = true,
    .takes_sequences = true,
    .takes_sweeps = true,
    .recognise = recognise,
    .open = open_waymo,
    .close = close_waymo,
    .read = read_waymo,
    .fingerprint = fingerprint,
    .inspect = inspect_waymo,
    .evaluator = &sv_evaluator_type_waymo,
};
