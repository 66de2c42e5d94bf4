/* SPDX-License-Identifier: Apache-2.0 */
#include "waymo_objects.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER = 1 << 20, OBJECT_MOST = 1 << 18, MOST_RUNS = 1 << 28, MOST_IN_FRAME = 1 << 13 };

/* ---- one object --------------------------------------------------------------------------------------- */

sv_status sv_waymo_parse_object(sv_ctx *c, sv_bytes message, const char *name, int64_t number,
                                sv_waymo_object *out, sv_waymo_key *key)
{
    sv_waymo_label label = {0};
    bool has_label = false;
    int flag = 0;
    *out = (sv_waymo_object){.score = 1};
    *key = (sv_waymo_key){.context = ""};
    sv_wire w = sv_wire_open(message), inner = {0};
    sv_field f;
    while (sv_wire_next(&w, &f)) {
        sv_bytes bytes = {0};
        switch (f.number) {
        case 1:
            sv_wire_bytes(&w, &f, &bytes);
            if (w.fault) break;
            SV_CHECK(c, sv_waymo_parse_label(bytes, &label, &inner), SV_BAD_INPUT,
                     "%s, object %" PRId64 ": field %d of its label: %s; the file is damaged", name, number,
                     inner.number, inner.fault);
            has_label = true;
            break;
        case 2:
            sv_wire_float(&w, &f, &out->score);
            break;
        case 3:
            sv_wire_int_within(&w, &f, 0, 1, &flag);
            break;
        case 4:
            sv_wire_text(&w, &f, key->context, sizeof key->context);
            break;
        case 5:
            sv_wire_int(&w, &f, &key->timestamp);
            break;
        }
    }
    SV_CHECK(c, !w.fault, SV_BAD_INPUT,
             "%s, object %" PRId64 ": field %d: %s; the file is damaged, or no Objects message", name, number,
             w.number, w.fault);
    SV_CHECK(c, has_label, SV_BAD_INPUT,
             "%s, object %" PRId64 ": has no label (field 1): is the file an Objects message?", name, number);
    SV_CHECK(c, isfinite(out->score), SV_BAD_INPUT,
             "%s, object %" PRId64 ": its score is %g; scores are finite", name, number, (double)out->score);
    out->x = label.x;
    out->y = label.y;
    out->z = label.z;
    out->length = label.length;
    out->width = label.width;
    out->height = label.height;
    out->heading = label.heading;
    out->type = label.type;
    out->points = label.points;
    out->level = label.level;
    out->in_zone = flag != 0;
    return SV_OK;
}

void sv_waymo_put_object(sv_wire_out *out, const sv_waymo_object *o, const char *context, int64_t timestamp)
{
    sv_wire_out box = {0}, label = {0}, object = {0};
    const double values[7] = {o->x, o->y, o->z, o->width, o->length, o->height, o->heading};
    for (int i = 0; i < 7; i++) sv_wire_put_double(&box, i + 1, values[i]);
    sv_wire_put_bytes(&label, 1, box.data, box.size);
    sv_wire_put_int(&label, 3, o->type);
    if (o->level) sv_wire_put_int(&label, 5, o->level);
    if (o->points) sv_wire_put_int(&label, 7, o->points);
    sv_wire_put_bytes(&object, 1, label.data, label.size);
    sv_wire_put_float(&object, 2, o->score);
    if (o->in_zone) sv_wire_put_int(&object, 3, 1);
    sv_wire_put_bytes(&object, 4, context, strlen(context));
    sv_wire_put_int(&object, 5, timestamp);
    sv_wire_put_bytes(out, 1, object.data, object.size);
    out->failed = out->failed || box.failed || label.failed || object.failed;
    sv_wire_free(&box);
    sv_wire_free(&label);
    sv_wire_free(&object);
}

static int type_of(const char *class_name)
{
    for (int i = SV_WAYMO_VEHICLE; i < SV_WAYMO_TYPES; i++)
        if (strcmp(class_name, sv_waymo_type_names[i]) == 0) return i;
    return strcmp(class_name, "Car") == 0 ? SV_WAYMO_VEHICLE : SV_WAYMO_UNKNOWN;
}

sv_waymo_object sv_waymo_object_of_box(const sv_box *box, const char *class_name)
{
    return (sv_waymo_object){.x = (double)box->x,
                             .y = (double)box->y,
                             .z = (double)box->z,
                             .length = (double)box->dx,
                             .width = (double)box->dy,
                             .height = (double)box->dz,
                             .heading = sv_wrap_angle((double)box->heading),
                             .score = box->score,
                             .type = type_of(class_name)};
}

sv_box sv_waymo_box_of_object(const sv_waymo_object *o)
{
    return (sv_box){.x = (float)o->x,
                    .y = (float)o->y,
                    .z = (float)o->z,
                    .dx = (float)o->length,
                    .dy = (float)o->width,
                    .dz = (float)o->height,
                    .heading = (float)o->heading,
                    .score = o->score};
}

/* ---- frames ------------------------------------------------------------------------------------------- */

static bool same_key(const sv_waymo_key *a, const sv_waymo_key *b)
{
    return a->timestamp == b->timestamp && strcmp(a->context, b->context) == 0;
}

/* FNV-1a over the name and the time. */
static uint64_t hash_of(const sv_waymo_key *key)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (const char *p = key->context; *p; p++) hash = (hash ^ (unsigned char)*p) * 0x100000001b3u;
    for (int i = 0; i < 8; i++) hash = (hash ^ ((uint64_t)key->timestamp >> (8 * i) & 255)) * 0x100000001b3u;
    return hash ^ hash >> 32;
}

/* The slot of a key, or the free one where it belongs. */
static int *slot_of(const sv_waymo_keys *k, const sv_waymo_key *key)
{
    const unsigned mask = (unsigned)k->slot_count - 1;
    for (unsigned i = (unsigned)hash_of(key) & mask;; i = (i + 1) & mask)
        if (k->slots[i] == 0 || same_key(&k->data[k->slots[i] - 1], key)) return &k->slots[i];
}

/* At least twice as many slots as frames. */
static bool enlarge_keys(sv_waymo_keys *k)
{
    const int slots = k->slot_count ? 2 * k->slot_count : 1024;
    sv_waymo_key *data = slots <= 1 << 26 ? realloc(k->data, sizeof *data * (size_t)slots / 2) : NULL;
    if (data) k->data = data;
    int *fresh = data ? calloc((size_t)slots, sizeof *fresh) : NULL;
    if (!fresh) return false;
    free(k->slots);
    k->slots = fresh;
    k->slot_count = slots;
    for (int i = 0; i < k->count; i++) *slot_of(k, &k->data[i]) = i + 1;
    return true;
}

int sv_waymo_keys_number(void *keys, const sv_waymo_key *key)
{
    sv_waymo_keys *k = keys;
    if (k->count > 0 && same_key(&k->data[k->count - 1], key)) return k->count - 1;
    if (2 * k->count >= k->slot_count && !enlarge_keys(k)) {
        k->failed = true;
        return -1;
    }
    int *slot = slot_of(k, key);
    if (*slot == 0) {
        k->data[k->count++] = *key;
        *slot = k->count;
    }
    return *slot - 1;
}

typedef struct numbered {
    const sv_waymo_key *key;
    int number;
} numbered;

static int compare_keys(const void *a, const void *b)
{
    const sv_waymo_key *p = ((const numbered *)a)->key, *q = ((const numbered *)b)->key;
    const int names = strcmp(p->context, q->context);
    return names ? names : p->timestamp < q->timestamp ? -1 : p->timestamp > q->timestamp;
}

bool sv_waymo_keys_sort(const sv_waymo_keys *k, int *order)
{
    numbered *list = malloc(sizeof *list * (size_t)(k->count + 1));
    if (!list) return false;
    for (int i = 0; i < k->count; i++) list[i] = (numbered){&k->data[i], i};
    qsort(list, (size_t)k->count, sizeof *list, compare_keys);
    for (int i = 0; i < k->count; i++) order[i] = list[i].number;
    free(list);
    return true;
}

void sv_waymo_keys_free(sv_waymo_keys *k)
{
    free(k->data);
    free(k->slots);
    *k = (sv_waymo_keys){0};
}

/* ---- a file of them ----------------------------------------------------------------------------------- */

typedef struct walk {
    sv_ctx *c;
    sv_waymo_file *file;
    sv_waymo_frame_fn frame_of;
    void *arg;
    uint8_t *buffer; /* [BUFFER] */
    uint64_t base;   /* offset of the buffer's first byte */
    size_t size;     /* bytes in it */
} walk;

/* At least 'count' bytes at 'at', or all that are left before 'end'. */
static sv_status fill(walk *w, uint64_t at, uint64_t end, size_t count, const uint8_t **out, size_t *there)
{
    if (at < w->base || at + count > w->base + w->size) {
        const uint64_t left = w->file->source.size - at;
        w->base = at;
        w->size = left < BUFFER ? (size_t)left : BUFFER;
        SV_TRY(sv_source_read(w->c, &w->file->source, at, w->buffer, w->size));
    }
    const uint64_t left = end - at;
    *out = w->buffer + (at - w->base);
    *there = w->size - (size_t)(at - w->base);
    if (*there > left) *there = (size_t)left;
    return SV_OK;
}

static sv_status add_run(walk *w, int frame, uint64_t offset, uint64_t end)
{
    sv_waymo_file *file = w->file;
    sv_waymo_run *last = file->run_count ? &file->runs[file->run_count - 1] : NULL;
    if (last && last->frame == frame && last->offset + last->size == offset && last->size < BUFFER) {
        last->size += (uint32_t)(end - offset);
        return SV_OK;
    }
    if (file->run_count == file->run_room) {
        const int room = file->run_room ? 2 * file->run_room : 1024;
        sv_waymo_run *grown = room <= MOST_RUNS ? realloc(file->runs, sizeof *grown * (size_t)room) : NULL;
        SV_CHECK(w->c, grown, SV_NO_MEMORY, "%s: no memory for the places of its objects", file->source.path);
        file->runs = grown;
        file->run_room = room;
    }
    file->runs[file->run_count++] =
        (sv_waymo_run){offset, (uint32_t)(end - offset), frame, (int)(file->objects & INT32_MAX)};
    return SV_OK;
}

/* Fields of Objects, or of the Submission around them, from 'at' to 'end'. */
static sv_status walk_objects(walk *w, uint64_t at, uint64_t end, bool nested)
{
    sv_waymo_file *file = w->file;
    const char *path = file->source.path;
    bool submission = false;
    while (at < end) {
        const uint8_t *p, *begin;
        size_t there;
        uint64_t tag, value = 0;
        SV_TRY(fill(w, at, end, 20, &begin, &there));
        p = begin;
        SV_CHECK(w->c, sv_varint(&p, begin + there, &tag) && tag >> 3 > 0, SV_BAD_INPUT,
                 "%s: is no Objects message: there is no field at byte %" PRIu64, path, at);
        const int type = (int)(tag & 7);
        const uint64_t number = tag >> 3;
        bool good = true;
        if (type == SV_WIRE_VARINT || type == SV_WIRE_BYTES) good = sv_varint(&p, begin + there, &value);
        const uint64_t head = (uint64_t)(p - begin);
        const uint64_t size = type == SV_WIRE_BYTES     ? value
                              : type == SV_WIRE_FIXED64 ? 8
                              : type == SV_WIRE_FIXED32 ? 4
                                                        : 0;
        good = good && (type <= SV_WIRE_BYTES || type == SV_WIRE_FIXED32);
        SV_CHECK(w->c, good && size <= end - at - head, SV_BAD_INPUT,
                 "%s: object %" PRId64 ", at byte %" PRIu64
                 ": %s; the file is cut off, or no Objects message",
                 path, file->objects, at, good ? "its length reaches beyond the end" : "it is no field");
        /* A Submission begins with the task, a number; an Objects message with an object. */
        if (!nested && number == 1 && type == SV_WIRE_VARINT) submission = true;
        if (!nested && number == 11 && type == SV_WIRE_BYTES) {
            SV_TRY(walk_objects(w, at + head, at + head + size, true));
        } else if (number == 1 && type == SV_WIRE_BYTES && !submission) {
            sv_waymo_object object;
            sv_waymo_key key;
            SV_CHECK(w->c, size <= OBJECT_MOST, SV_BAD_INPUT,
                     "%s, object %" PRId64 ": %" PRIu64 " bytes are too many", path, file->objects, size);
            SV_TRY(fill(w, at + head, end, (size_t)size, &begin, &there));
            SV_TRY(sv_waymo_parse_object(w->c, (sv_bytes){begin, (size_t)size}, path, file->objects, &object,
                                         &key));
            const int frame = w->frame_of(w->arg, &key);
            if (frame >= 0) SV_TRY(add_run(w, frame, at, at + head + size));
            file->objects++;
        }
        at += head + size;
    }
    return SV_OK;
}

static int compare_runs(const void *a, const void *b)
{
    const sv_waymo_run *p = a, *q = b;
    if (p->frame != q->frame) return p->frame < q->frame ? -1 : 1;
    return p->offset < q->offset ? -1 : p->offset > q->offset;
}

sv_status sv_waymo_file_scan(sv_ctx *c, const sv_source *source, sv_waymo_frame_fn frame_of, void *arg,
                             sv_waymo_file *out)
{
    *out = (sv_waymo_file){.source = *source};
    walk w = {.c = c, .file = out, .frame_of = frame_of, .arg = arg, .buffer = malloc(BUFFER)};
    SV_CHECK(c, w.buffer, SV_NO_MEMORY, "%s: no memory", source->path);
    const sv_status status = walk_objects(&w, 0, source->size, false);
    free(w.buffer);
    SV_TRY(status);
    if (out->run_count > 0) qsort(out->runs, (size_t)out->run_count, sizeof *out->runs, compare_runs);
    return SV_OK;
}

sv_status sv_waymo_file_open(sv_ctx *c, const char *path, sv_waymo_frame_fn frame_of, void *arg,
                             sv_waymo_file *out)
{
    sv_source source;
    *out = (sv_waymo_file){.source = {.fd = -1}};
    sv_status status = sv_source_open(c, path, &source);
    if (status == SV_OK) return sv_waymo_file_scan(c, &source, frame_of, arg, out);
    sv_source_close(&source);
    return status;
}

void sv_waymo_file_close(sv_waymo_file *file)
{
    if (file->source.path) sv_source_close(&file->source);
    free(file->runs);
    *file = (sv_waymo_file){.source = {.fd = -1}};
}

static sv_status read_run(sv_ctx *c, const sv_waymo_file *file, const sv_waymo_run *run, uint8_t **bytes,
                          size_t *room, sv_waymo_object **out, int *count, int *out_room)
{
    if (run->size > *room) {
        uint8_t *grown = realloc(*bytes, run->size);
        SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for objects", file->source.path);
        *bytes = grown;
        *room = run->size;
    }
    SV_TRY(sv_source_read(c, &file->source, run->offset, *bytes, run->size));
    sv_wire w = sv_wire_open((sv_bytes){*bytes, run->size});
    sv_field f;
    for (int i = 0; sv_wire_next(&w, &f); i++) {
        sv_waymo_key key;
        if (*count == *out_room) {
            SV_CHECK(c, *count < MOST_IN_FRAME, SV_BAD_INPUT, "%s: a frame has more than %d objects",
                     file->source.path, MOST_IN_FRAME);
            const int more = *out_room ? 2 * *out_room : 64;
            sv_waymo_object *grown = realloc(*out, sizeof *grown * (size_t)more);
            SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for objects", file->source.path);
            *out = grown;
            *out_room = more;
        }
        SV_TRY(sv_waymo_parse_object(c, f.bytes, file->source.path, run->number + i, &(*out)[*count], &key));
        (*count)++;
    }
    SV_CHECK(c, !w.fault, SV_IO, "%s was changed while it was read", file->source.path);
    return SV_OK;
}

sv_status sv_waymo_file_read(sv_ctx *c, const sv_waymo_file *file, int frame, sv_waymo_object **out,
                             int *count)
{
    *out = NULL;
    *count = 0;
    int low = 0, high = file->run_count;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (file->runs[middle].frame < frame)
            low = middle + 1;
        else
            high = middle;
    }
    uint8_t *bytes = NULL;
    size_t room = 0;
    int out_room = 0;
    sv_status status = SV_OK;
    for (int i = low; i < file->run_count && file->runs[i].frame == frame && status == SV_OK; i++)
        status = read_run(c, file, &file->runs[i], &bytes, &room, out, count, &out_room);
    free(bytes);
    if (status == SV_OK) return SV_OK;
    free(*out);
    *out = NULL;
    *count = 0;
    return status;
}
