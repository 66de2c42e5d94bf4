/* SPDX-License-Identifier: Apache-2.0
 *
 * The safetensors format (https://github.com/huggingface/safetensors, README):
 *   8 bytes   n, length of the header, little endian
 *   n bytes   JSON: {"name": {"dtype": "F32", "shape": [2,3], "data_offsets": [begin, end]}, ...,
 *             "__metadata__": {"key": "text", ...}}, padded with spaces
 *   the rest  the numbers, little endian; begin and end count from here
 * The tensors must cover the rest without gaps or overlaps. The header is read
 * as a stream (yajl); nothing in it is trusted before it is checked against
 * the length of the file.
 */
#include "weights_file.h"

#include <yajl/yajl_gen.h>
#include <yajl/yajl_parse.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_HEADER = 16 << 20 };

static const struct kind {
    const char *name;
    sv_number number;
} kinds[] = {{"F32", SV_NUMBER_F32}, {"F16", SV_NUMBER_F16}, {"BF16", SV_NUMBER_BF16},
             {"F64", SV_NUMBER_F64}, {"I64", SV_NUMBER_I64}, {"I32", SV_NUMBER_I32}};

typedef struct record {
    char *name;
    int kind;          /* of 'kinds'; -1: not said yet */
    int ndim, offsets; /* numbers seen; ndim -1: no shape yet */
    int64_t dims[SV_MAX_DIMS], begin, end;
} record;

typedef enum place { OUTSIDE, TOP, TENSOR, SHAPE, OFFSETS, METADATA, DONE } place;
typedef enum field { NO_FIELD, DTYPE, SHAPE_FIELD, OFFSETS_FIELD } field;

typedef struct parser {
    sv_ctx *c;
    sv_weights *w;
    const char *path;
    place place;
    field field;
    bool metadata_key; /* the next map at the top is __metadata__ */
    char key[128];     /* of the metadata entry */
    record *records;
    int count, room;
    sv_status status; /* the first failure inside a callback, which can only say "stop" */
} parser;

/* ---- the header ---------------------------------------------------------------------------------------- */

/* What a callback returns: go on, or stop. */
static int pass(parser *p, sv_status status)
{
    p->status = status;
    return status == SV_OK;
}

static int stop(parser *p, const char *why)
{
    const record *last = p->count > 0 ? &p->records[p->count - 1] : NULL;
    char shown[SV_SHOWN];
    return pass(p, SV_FAIL(p->c, SV_BAD_INPUT, "%s: its header is not that of a safetensors file: %s%s%s%s",
                           p->path, why, last ? " (near tensor '" : "",
                           last ? sv_shown(shown, last->name, strlen(last->name)) : "", last ? "')" : ""));
}

static int on_map_key(void *user, const unsigned char *text, size_t length)
{
    parser *p = user;
    if (p->place == METADATA) {
        if (length >= sizeof p->key || memchr(text, 0, length)) return stop(p, "a metadata key is too long");
        memcpy(p->key, text, length);
        p->key[length] = '\0';
        return sv_weights_meta(p->w, p->key) ? stop(p, "a metadata key is there twice") : 1;
    }
    if (p->place == TENSOR) {
        p->field = length == 5 && memcmp(text, "dtype", 5) == 0            ? DTYPE
                   : length == 5 && memcmp(text, "shape", 5) == 0          ? SHAPE_FIELD
                   : length == 12 && memcmp(text, "data_offsets", 12) == 0 ? OFFSETS_FIELD
                                                                           : NO_FIELD;
        return p->field == NO_FIELD ? stop(p, "a tensor has a key beside dtype, shape and data_offsets") : 1;
    }
    p->metadata_key = length == 12 && memcmp(text, "__metadata__", 12) == 0;
    if (p->metadata_key) return 1;
    if (length == 0 || length > SV_WEIGHTS_MAX_NAME || memchr(text, 0, length))
        return stop(p, "a tensor's name is empty or too long");
    if (p->count == SV_WEIGHTS_MAX_TENSORS) return stop(p, "it lists too many tensors");
    if (p->count == p->room) {
        const int room = p->room ? 2 * p->room : 256;
        record *grown = realloc(p->records, (size_t)room * sizeof *grown);
        if (!grown)
            return pass(p, SV_FAIL(p->c, SV_NO_MEMORY, "%s: no memory for %d tensors", p->path, room));
        p->records = grown;
        p->room = room;
    }
    char *name = malloc(length + 1);
    if (!name) return pass(p, SV_FAIL(p->c, SV_NO_MEMORY, "%s: no memory for a name", p->path));
    memcpy(name, text, length);
    name[length] = '\0';
    p->records[p->count++] = (record){.name = name, .kind = -1, .ndim = -1};
    return 1;
}

static int on_start_map(void *user)
{
    parser *p = user;
    if (p->place == OUTSIDE)
        p->place = TOP;
    else if (p->place == TOP)
        p->place = p->metadata_key ? METADATA : TENSOR;
    else
        return stop(p, "maps nest too deeply");
    p->field = NO_FIELD;
    return 1;
}

static int on_end_map(void *user)
{
    parser *p = user;
    if (p->place == TOP)
        p->place = DONE;
    else if (p->place == METADATA)
        p->place = TOP;
    else if (p->place == TENSOR) {
        const record *last = &p->records[p->count - 1];
        if (last->kind < 0 || last->ndim < 0 || last->offsets != 2)
            return stop(p, "dtype, shape or data_offsets is missing");
        p->place = TOP;
    }
    return 1;
}

static int on_start_array(void *user)
{
    parser *p = user;
    record *last = p->count > 0 ? &p->records[p->count - 1] : NULL;
    if (p->place == TENSOR && p->field == SHAPE_FIELD && last->ndim < 0) {
        p->place = SHAPE;
        last->ndim = 0;
        return 1;
    }
    if (p->place == TENSOR && p->field == OFFSETS_FIELD && last->offsets == 0) {
        p->place = OFFSETS;
        return 1;
    }
    return stop(p, "there is a list where none belongs");
}

static int on_end_array(void *user)
{
    parser *p = user;
    p->place = TENSOR;
    p->field = NO_FIELD;
    return 1;
}

static int on_integer(void *user, long long value)
{
    parser *p = user;
    record *last = p->count > 0 ? &p->records[p->count - 1] : NULL;
    if (value < 0) return stop(p, "a size or offset is negative");
    if (p->place == SHAPE) {
        if (last->ndim == SV_MAX_DIMS) return stop(p, "a tensor has more than 5 dimensions");
        last->dims[last->ndim++] = value;
        return 1;
    }
    if (p->place == OFFSETS && last->offsets < 2) {
        if (last->offsets++ == 0)
            last->begin = value;
        else
            last->end = value;
        return 1;
    }
    return stop(p, "there is a number where none belongs");
}

static int on_string(void *user, const unsigned char *text, size_t length)
{
    parser *p = user;
    if (p->place == METADATA) {
        char *value = malloc(length + 1);
        if (!value) return pass(p, SV_FAIL(p->c, SV_NO_MEMORY, "%s: no memory for metadata", p->path));
        memcpy(value, text, length);
        value[length] = '\0';
        const bool whole = strlen(value) == length;
        const int result = whole ? pass(p, sv_weights_set_meta(p->c, p->w, p->key, value))
                                 : stop(p, "metadata holds a zero byte");
        free(value);
        return result;
    }
    record *last = p->count > 0 ? &p->records[p->count - 1] : NULL;
    if (p->place != TENSOR || p->field != DTYPE || last->kind >= 0)
        return stop(p, "there is text where none belongs");
    for (int i = 0; i < (int)(sizeof kinds / sizeof kinds[0]); i++) {
        if (strlen(kinds[i].name) == length && memcmp(kinds[i].name, text, length) == 0) last->kind = i;
    }
    char shown[2][SV_SHOWN];
    if (last->kind < 0)
        return pass(p, SV_FAIL(p->c, SV_UNSUPPORTED,
                               "%s: tensor '%s' is of type '%s'; F32, F16, BF16, F64, I64 and I32 are read",
                               p->path, sv_shown(shown[0], last->name, strlen(last->name)),
                               sv_shown(shown[1], text, length)));
    p->field = NO_FIELD;
    return 1;
}

static int on_null(void *user)
{
    return stop(user, "there is a null");
}
static int on_boolean(void *user, int value)
{
    (void)value;
    return stop(user, "there is a truth value");
}
static int on_double(void *user, double value)
{
    (void)value;
    return stop(user, "a number is not whole");
}

static sv_status parse_header(parser *p, const uint8_t *text, size_t length)
{
    static const yajl_callbacks callbacks = {on_null,    on_boolean,     on_integer,   on_double,
                                             NULL,       on_string,      on_start_map, on_map_key,
                                             on_end_map, on_start_array, on_end_array};
    yajl_handle json = yajl_alloc(&callbacks, NULL, p);
    SV_CHECK(p->c, json, SV_NO_MEMORY, "%s: no memory to read its header", p->path);
    yajl_status status = yajl_parse(json, text, length);
    if (status == yajl_status_ok) status = yajl_complete_parse(json);
    yajl_free(json);
    SV_TRY(p->status);
    SV_CHECK(p->c, status == yajl_status_ok && p->place == DONE, SV_BAD_INPUT,
             "%s: its header of %zu bytes is not valid JSON: the file is damaged or no safetensors file",
             p->path, length);
    return SV_OK;
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static int by_begin(const void *a, const void *b)
{
    const record *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end); /* empty tensors before the one that begins there */
}

static sv_status read_tensor(parser *p, const sv_source *source, uint64_t data, const record *one,
                             uint8_t *part, size_t room)
{
    void *to = NULL;
    const sv_number number = kinds[one->kind].number;
    SV_TRY(sv_weights_make(p->c, p->w, one->name, sv_number_kept_as(number), one->ndim, one->dims, &to));
    const size_t bytes = sv_number_bytes(number), out_bytes = sv_dtype_bytes(sv_number_kept_as(number));
    if (bytes == out_bytes && number != SV_NUMBER_F64)
        return sv_source_read(p->c, source, data + (uint64_t)one->begin, to, (size_t)(one->end - one->begin));
    for (uint64_t at = (uint64_t)one->begin; at < (uint64_t)one->end;) {
        const uint64_t left = (uint64_t)one->end - at;
        const size_t count = left < room ? (size_t)left : room;
        SV_TRY(sv_source_read(p->c, source, data + at, part, count));
        sv_number_widen(number, to, part, count / bytes, 1);
        to = (char *)to + count / bytes * out_bytes;
        at += count;
    }
    return SV_OK;
}

static sv_status read_tensors(parser *p, const sv_source *source, uint64_t data)
{
    const uint64_t size = source->size - data;
    if (p->count > 0) qsort(p->records, (size_t)p->count, sizeof *p->records, by_begin);
    uint64_t at = 0;
    char shown[SV_SHOWN];
    uint8_t part[16384];
    for (int i = 0; i < p->count; i++) {
        const record *one = &p->records[i];
        sv_shown(shown, one->name, strlen(one->name));
        const int64_t elements = sv_elements(one->ndim, one->dims);
        SV_CHECK(p->c, elements >= 0, SV_BAD_INPUT, "%s: tensor '%s' has impossible sizes", p->path, shown);
        SV_CHECK(p->c, (uint64_t)one->begin == at, SV_BAD_INPUT,
                 "%s: tensor '%s' begins at %lld where %llu was expected: tensors overlap or leave a gap",
                 p->path, shown, (long long)one->begin, (unsigned long long)at);
        const uint64_t bytes = (uint64_t)elements * sv_number_bytes(kinds[one->kind].number);
        SV_CHECK(p->c, one->end >= one->begin && (uint64_t)(one->end - one->begin) == bytes, SV_BAD_INPUT,
                 "%s: tensor '%s' needs %llu bytes, its data_offsets give it %lld", p->path, shown,
                 (unsigned long long)bytes, (long long)(one->end - one->begin));
        SV_CHECK(p->c, (uint64_t)one->end <= size, SV_BAD_INPUT,
                 "%s is cut off: tensor '%s' ends at byte %lld of its data, of which %llu are there", p->path,
                 shown, (long long)one->end, (unsigned long long)size);
        SV_TRY(read_tensor(p, source, data, one, part, sizeof part));
        at = (uint64_t)one->end;
    }
    SV_CHECK(p->c, at == size, SV_BAD_INPUT, "%s has %llu bytes after its last tensor that belong to none",
             p->path, (unsigned long long)(size - at));
    return SV_OK;
}

static sv_status read_all(parser *p, const sv_source *source, uint8_t **header)
{
    uint8_t head[8];
    SV_TRY(sv_source_read(p->c, source, 0, head, sizeof head));
    const uint64_t length = sv_le64(head);
    SV_CHECK(p->c, length <= MAX_HEADER, SV_BAD_INPUT,
             "%s: a safetensors header of %llu bytes is refused (at most %d)", p->path,
             (unsigned long long)length, MAX_HEADER);
    SV_CHECK(p->c, length <= source->size - 8, SV_BAD_INPUT,
             "%s is cut off: its header has %llu bytes, the file %llu", p->path, (unsigned long long)length,
             (unsigned long long)source->size);
    *header = malloc((size_t)length + 1);
    SV_CHECK(p->c, *header, SV_NO_MEMORY, "%s: no memory for its header", p->path);
    SV_TRY(sv_source_read(p->c, source, 8, *header, (size_t)length));
    SV_TRY(parse_header(p, *header, (size_t)length));
    SV_TRY(read_tensors(p, source, 8 + length));
    const char *format = sv_weights_meta(p->w, "format"), *checksum = sv_weights_meta(p->w, "checksum");
    const bool named = format && strcmp(format, SV_WEIGHTS_FORMAT) == 0;
    const bool ours = named || (checksum && sv_weights_meta(p->w, "format_version"));
    SV_CHECK(p->c, !ours || checksum, SV_BAD_INPUT, "%s: its metadata lacks the checksum", p->path);
    char actual[SV_SHA256_TEXT] = "";
    if (ours) sv_weights_checksum(p->w, actual);
    SV_CHECK(
        p->c, !checksum || strcmp(checksum, actual) == 0, SV_BAD_INPUT,
        "%s: its checksum does not match its content: the file is damaged or was changed by another program",
        p->path);
    return SV_OK;
}

sv_status sv_safetensors_read(sv_ctx *c, const sv_source *source, sv_weights *w)
{
    parser p = {.c = c, .w = w, .path = source->path};
    uint8_t *header = NULL;
    const sv_status status = read_all(&p, source, &header);
    for (int i = 0; i < p.count; i++) free(p.records[i].name);
    free(p.records);
    free(header);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static size_t tensor_bytes(sv_tensor t)
{
    return (size_t)t.dim[0] * (size_t)t.pitch * sv_dtype_bytes((sv_dtype)t.dtype);
}

static bool put(yajl_gen json, const char *text)
{
    return yajl_gen_string(json, (const unsigned char *)text, strlen(text)) == yajl_gen_status_ok;
}

/* 8-byte numbers come first, so that every tensor is aligned. */
static bool in_pass(sv_tensor t, int pass)
{
    return (sv_dtype_bytes((sv_dtype)t.dtype) == 8) == (pass == 0);
}

static bool put_header(yajl_gen json, const sv_weights *w, const char *checksum)
{
    char version[16];
    snprintf(version, sizeof version, "%d", SV_WEIGHTS_FORMAT_VERSION);
    bool good = yajl_gen_map_open(json) == yajl_gen_status_ok && put(json, "__metadata__") &&
                yajl_gen_map_open(json) == yajl_gen_status_ok && put(json, "format") &&
                put(json, SV_WEIGHTS_FORMAT) && put(json, "format_version") && put(json, version) &&
                put(json, "checksum") && put(json, checksum);
    for (int i = 0; good && i < sv_weights_meta_count(w); i++) {
        const char *key = sv_weights_meta_key(w, i);
        good = sv_weights_own_meta(key) || (put(json, key) && put(json, sv_weights_meta(w, key)));
    }
    good = good && yajl_gen_map_close(json) == yajl_gen_status_ok;
    long long at = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; good && i < sv_weights_count(w); i++) {
            const sv_tensor t = sv_weights_tensor(w, i);
            if (!in_pass(t, pass)) continue;
            good = put(json, sv_weights_name(w, i)) && yajl_gen_map_open(json) == yajl_gen_status_ok &&
                   put(json, "dtype") &&
                   put(json, t.dtype == SV_F32   ? "F32"
                             : t.dtype == SV_I64 ? "I64"
                                                 : "I32") &&
                   put(json, "shape") && yajl_gen_array_open(json) == yajl_gen_status_ok;
            for (int k = 0; good && k < t.ndim; k++)
                good = yajl_gen_integer(json, t.dim[k]) == yajl_gen_status_ok;
            const long long end = at + (long long)tensor_bytes(t);
            good = good && yajl_gen_array_close(json) == yajl_gen_status_ok && put(json, "data_offsets") &&
                   yajl_gen_array_open(json) == yajl_gen_status_ok &&
                   yajl_gen_integer(json, at) == yajl_gen_status_ok &&
                   yajl_gen_integer(json, end) == yajl_gen_status_ok &&
                   yajl_gen_array_close(json) == yajl_gen_status_ok &&
                   yajl_gen_map_close(json) == yajl_gen_status_ok;
            at = end;
        }
    }
    return good && yajl_gen_map_close(json) == yajl_gen_status_ok;
}

static bool put_bytes(FILE *file, const void *bytes, size_t count)
{
    return count == 0 || fwrite(bytes, 1, count, file) == count;
}

sv_status sv_safetensors_write(sv_ctx *c, const sv_weights *w, const char *temporary, const char *path)
{
    char checksum[SV_SHA256_TEXT];
    sv_weights_checksum(w, checksum);
    yajl_gen json = yajl_gen_alloc(NULL);
    SV_CHECK(c, json, SV_NO_MEMORY, "%s: no memory for its header", path);
    const unsigned char *text = NULL;
    size_t length = 0;
    if (!put_header(json, w, checksum) || yajl_gen_get_buf(json, &text, &length) != yajl_gen_status_ok ||
        length > MAX_HEADER) {
        yajl_gen_free(json);
        return SV_FAIL(c, SV_BAD_INPUT,
                       "%s: its header cannot be written: names and metadata exceed %d bytes", path,
                       MAX_HEADER);
    }
    const size_t padding = (8 - length % 8) % 8;
    uint8_t head[8];
    for (int i = 0; i < 8; i++) head[i] = (uint8_t)((length + padding) >> 8 * i);
    FILE *file = fopen(temporary, "wb");
    bool good = file && put_bytes(file, head, sizeof head) && put_bytes(file, text, length) &&
                put_bytes(file, "        ", padding);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; good && i < sv_weights_count(w); i++) {
            const sv_tensor t = sv_weights_tensor(w, i);
            if (in_pass(t, pass)) good = put_bytes(file, t.data, tensor_bytes(t));
        }
    }
    int reason = errno;
    if (file && fclose(file) != 0 && good) {
        good = false;
        reason = errno;
    }
    yajl_gen_free(json);
    SV_CHECK(c, good, SV_IO, "%s cannot be written: %s", path, strerror(reason));
    return SV_OK;
}
