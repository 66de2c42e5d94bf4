/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoints of flax (its legacy format): one MessagePack value
 *
 *     {"step": .., "params": {name: {.. name: leaf}}, "opt_state": .., "model_state": {}}
 *
 * A leaf is an extension of type 1 whose bytes are MessagePack again: [shape, dtype name, numbers in C order]. An array of
 * 1 GiB or more is a map instead: {"__msgpack_chunked_array__": true, "shape": .., "chunks": ..} with one-dimensional leaves as
 * chunks; lists in it may be maps with keys "0", "1", ... The optimizer's state, two thirds of the file, is stepped over.
 *
 * Names are joined with '.'. MessagePack (https://github.com/msgpack/msgpack, spec.md) is big-endian; a value's first byte says
 * what it is. Every length is checked against what is left of the file before it is used.
 */
#include "weights_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH = 16, SLICE = 1 << 16, ARRAY = 1 };

typedef enum value_kind { NIL, BOOL, INTEGER, FLOAT, TEXT, BYTES, LIST, MAP, EXTENSION } value_kind;

typedef struct value {
    value_kind kind;
    int type;        /* of an extension */
    uint64_t number; /* INTEGER; the entries of a list or map; the bytes of the others */
    uint64_t at;     /* TEXT, BYTES, EXTENSION: where the bytes are */
} value;

typedef struct cursor {
    sv_ctx *c;
    const sv_source *source;
    uint64_t at, end;
} cursor;

typedef struct reader {
    sv_ctx *c;
    const sv_source *source;
    sv_weights *w;
    char name[SV_WEIGHTS_MAX_NAME + 1];
    uint8_t *slice; /* [SLICE * 8] */
} reader;

/* ---- MessagePack ---------------------------------------------------------------------------------------- */

static sv_status broken(const cursor *p, const char *why)
{
    return SV_FAIL(p->c, SV_BAD_INPUT, "%s: %s at byte %llu: it is cut off or damaged", p->source->path, why,
                   (unsigned long long)p->at);
}

/* A big-endian number of 1, 2, 4 or 8 bytes. */
static sv_status take_number(cursor *p, int bytes, uint64_t *out)
{
    uint8_t raw[8];
    *out = 0;
    if (p->end - p->at < (uint64_t)bytes) return broken(p, "a value ends early");
    SV_TRY(sv_source_read(p->c, p->source, p->at, raw, (size_t)bytes));
    for (int i = 0; i < bytes; i++) *out = *out << 8 | raw[i];
    p->at += (uint64_t)bytes;
    return SV_OK;
}

/* What a first byte above 0xbf says: kind, and how many bytes hold its number (a length, or the value itself). */
static const struct code {
    value_kind kind;
    int bytes;
} codes[64] = {
    [0x00] = {NIL, 0},       [0x02] = {BOOL, 0},      [0x03] = {BOOL, 0},      [0x04] = {BYTES, 1},
    [0x05] = {BYTES, 2},     [0x06] = {BYTES, 4},     [0x07] = {EXTENSION, 1}, [0x08] = {EXTENSION, 2},
    [0x09] = {EXTENSION, 4}, [0x0a] = {FLOAT, 4},     [0x0b] = {FLOAT, 8},     [0x0c] = {INTEGER, 1},
    [0x0d] = {INTEGER, 2},   [0x0e] = {INTEGER, 4},   [0x0f] = {INTEGER, 8},   [0x10] = {INTEGER, 1},
    [0x11] = {INTEGER, 2},   [0x12] = {INTEGER, 4},   [0x13] = {INTEGER, 8},   [0x14] = {EXTENSION, 0},
    [0x15] = {EXTENSION, 0}, [0x16] = {EXTENSION, 0}, [0x17] = {EXTENSION, 0}, [0x18] = {EXTENSION, 0},
    [0x19] = {TEXT, 1},      [0x1a] = {TEXT, 2},      [0x1b] = {TEXT, 4},      [0x1c] = {LIST, 2},
    [0x1d] = {LIST, 4},      [0x1e] = {MAP, 2},       [0x1f] = {MAP, 4},
};

static sv_status take_coded(cursor *p, uint64_t first, value *v)
{
    const struct code *code = &codes[first - 0xc0];
    if (first == 0xc1) return broken(p, "a byte that begins no value");
    v->kind = first >= 0xe0 ? INTEGER : code->kind;
    if (first >= 0xe0) {
        v->number = first | ~(uint64_t)0xff; /* -32..-1 */
        return SV_OK;
    }
    if (code->bytes > 0) SV_TRY(take_number(p, code->bytes, &v->number));
    const bool is_signed = first >= 0xd0 && first <= 0xd3;
    if (is_signed && code->bytes < 8 && v->number >> (8 * code->bytes - 1))
        v->number |= ~(uint64_t)0 << (8 * code->bytes);
    if (v->kind == EXTENSION) {
        uint64_t type;
        if (first >= 0xd4) v->number = (uint64_t)1 << (first - 0xd4); /* 1, 2, 4, 8, 16 bytes */
        SV_TRY(take_number(p, 1, &type));
        v->type = (int)(int8_t)(uint8_t)type;
    }
    return SV_OK;
}

/* The next value; of text, bytes and extensions the cursor goes behind them, of lists and maps to their first entry. */
static sv_status take(cursor *p, value *v)
{
    uint64_t first;
    *v = (value){0};
    SV_TRY(take_number(p, 1, &first));
    if (first < 0x80) {
        v->kind = INTEGER;
        v->number = first;
    } else if (first < 0xc0) {
        v->kind = first < 0x90 ? MAP : first < 0xa0 ? LIST : TEXT;
        v->number = first < 0xa0 ? first & 0x0f : first & 0x1f;
    } else {
        SV_TRY(take_coded(p, first, v));
    }
    const uint64_t left = p->end - p->at;
    if (v->kind == TEXT || v->kind == BYTES || v->kind == EXTENSION) {
        if (v->number > left) return broken(p, "a value is longer than the file");
        v->at = p->at;
        p->at += v->number;
    } else if ((v->kind == LIST || v->kind == MAP) && v->number > left / (v->kind == MAP ? 2 : 1)) {
        return broken(p, "a list or map has more entries than the file has bytes");
    }
    return SV_OK;
}

/* Step over one value with all it holds. */
static sv_status step_over(cursor *p)
{
    for (uint64_t open = 1; open > 0; open--) {
        value v;
        SV_TRY(take(p, &v));
        if (v.kind == LIST || v.kind == MAP) open += v.kind == MAP
        ? 2 * v.number : v.number;
        if (open - 1 > p->end - p->at) return broken(p, "lists have more entries than the file has bytes");
    }
    return SV_OK;
}

/* Text of fewer than 'room' characters, without zeros in it. */
static sv_status take_text(cursor *p, const char *what, char *out, size_t room)
{
    value v;
    SV_TRY(take(p, &v));
    if (v.kind != TEXT) return broken(p, what);
    SV_CHECK(p->c, v.number < room, SV_BAD_INPUT, "%s: %s of %llu characters", p->source->path, what,
             (unsigned long long)v.number);
    SV_TRY(sv_source_read(p->c, p->source, v.at, out, (size_t)v.number));
    out[v.number] = '\0';
    SV_CHECK(p->c, strlen(out) == v.number, SV_BAD_INPUT, "%s: %s with a zero byte in it", p->source->path,
             what);
    return SV_OK;
}

/* ---- arrays --------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    sv_number number;
} types[] = {{"float32", SV_NUMBER_F32},   {"float64", SV_NUMBER_F64}, {"float16", SV_NUMBER_F16},
             {"bfloat16", SV_NUMBER_BF16}, {"int64", SV_NUMBER_I64},   {"int32", SV_NUMBER_I32},
             {"int16", SV_NUMBER_I16},     {"int8", SV_NUMBER_I8},     {"uint8", SV_NUMBER_U8},
             {"bool", SV_NUMBER_U8}};

typedef struct array {
    int ndim;
    int64_t dims[SV_MAX_DIMS];
    sv_number number;
    uint64_t at, bytes;
} array;

/* A list of entries; in "chunked" arrays also a map from "0", "1", ... */
static sv_status take_list(reader *r, cursor *p, const char *what, uint64_t *count, bool *mapped)
{
    value v;
    SV_TRY(take(p, &v));
    *mapped = v.kind == MAP;
    *count = v.number;
    SV_CHECK(r->c, v.kind == LIST || v.kind == MAP, SV_BAD_INPUT, "%s: %s of '%s' is no list",
             r->source->path, what, r->name);
    return SV_OK;
}

static sv_status take_place(reader *r, cursor *p, bool mapped, uint64_t place)
{
    char key[24], want[24];
    if (!mapped) return SV_OK;
    snprintf(want, sizeof want, "%llu", (unsigned long long)place);
    SV_TRY(take_text(p, "a key of a list", key, sizeof key));
    SV_CHECK(r->c, strcmp(key, want) == 0, SV_BAD_INPUT, "%s: '%s' has an entry '%s' where '%s' is expected",
             r->source->path, r->name, key, want);
    return SV_OK;
}

static sv_status take_shape(reader *r, cursor *p, array *a)
{
    uint64_t count;
    bool mapped;
    SV_TRY(take_list(r, p, "the shape", &count, &mapped));
    SV_CHECK(r->c, count <= SV_MAX_DIMS, SV_UNSUPPORTED,
             "%s: tensor '%s' has %llu dimensions; at most %d are supported", r->source->path, r->name,
             (unsigned long long)count, SV_MAX_DIMS);
    for (uint64_t i = 0; i < count; i++) {
        value v;
        SV_TRY(take_place(r, p, mapped, i));
        SV_TRY(take(p, &v));
        SV_CHECK(r->c, v.kind == INTEGER && v.number <= INT32_MAX, SV_BAD_INPUT,
                 "%s: the shape of tensor '%s' is not made of sizes", r->source->path, r->name);
        a->dims[i] = (int64_t)v.number;
    }
    a->ndim = (int)count;
    if (count == 0) a->dims[a->ndim++] = 1;
    return SV_OK;
}

/* The next value must be an array. */
static sv_status take_array(reader *r, cursor *p, array *a)
{
    value v;
    char type[24] = "";
    *a = (array){0};
    SV_TRY(take(p, &v));
    SV_CHECK(r->c, v.kind == EXTENSION && v.type == ARRAY, SV_UNSUPPORTED,
             "%s: '%s' is no tensor: arrays of numbers and maps of them are expected", r->source->path,
             r->name);
    cursor q = {.c = r->c, .source = r->source, .at = v.at, .end = v.at + v.number};
    SV_TRY(take(&q, &v));
    SV_CHECK(r->c, v.kind == LIST && v.number == 3, SV_BAD_INPUT,
             "%s: tensor '%s' is not [shape, type, numbers]", r->source->path, r->name);
    SV_TRY(take_shape(r, &q, a));
    SV_TRY(take_text(&q, "the type of a tensor", type, sizeof type));
    int known = -1;
    for (int i = 0; i < (int)(sizeof types / sizeof *types); i++)
        if (strcmp(types[i].name, type) == 0) known = i;
    char shown[SV_SHOWN];
    SV_CHECK(r->c, known >= 0, SV_UNSUPPORTED,
             "%s: tensor '%s' has numbers of type '%s', which is not supported", r->source->path, r->name,
             sv_shown(shown, type, strlen(type)));
    a->number = types[known].number;
    SV_TRY(take(&q, &v));
    const int64_t elements = sv_elements(a->ndim, a->dims);
    SV_CHECK(r->c,
             v.kind == BYTES && q.at == q.end && elements >= 0 &&
                 v.number == (uint64_t)elements * sv_number_bytes(a->number),
             SV_BAD_INPUT, "%s: the numbers of tensor '%s' do not fill its shape", r->source->path, r->name);
    a->at = v.at;
    a->bytes = v.number;
    return SV_OK;
}

static sv_status copy_numbers(reader *r, const array *a, void *to)
{
    const size_t each = sv_number_bytes(a->number), kept = sv_dtype_bytes(sv_number_kept_as(a->number));
    const uint64_t count = a->bytes / each;
    for (uint64_t i = 0; i < count; i += SLICE) {
        const size_t part = count - i < SLICE ? (size_t)(count - i) : SLICE;
        SV_TRY(sv_source_read(r->c, r->source, a->at + i * each, r->slice, part * each));
        sv_number_widen(a->number, (uint8_t *)to + (size_t)i * kept, r->slice, part, 1);
    }
    return SV_OK;
}

static sv_status read_leaf(reader *r, cursor *p)
{
    array a;
    void *data = NULL;
    SV_TRY(take_array(r, p, &a));
    SV_TRY(sv_weights_make(r->c, r->w, r->name, sv_number_kept_as(a.number), a.ndim, a.dims, &data));
    return copy_numbers(r, &a, data);
}

/* A map that began with "__msgpack_chunked_array__"; the cursor is behind that key. */
static sv_status read_chunked(reader *r, cursor *p)
{
    array whole = {0}, chunk;
    char key[24];
    uint64_t count;
    bool mapped;
    void *data = NULL;
    SV_TRY(step_over(p));
    SV_TRY(take_text(p, "a key of a tensor in chunks", key, sizeof key));
    SV_CHECK(r->c, strcmp(key, "shape") == 0, SV_BAD_INPUT,
             "%s: tensor '%s' in chunks has '%s' instead of its shape", r->source->path, r->name, key);
    SV_TRY(take_shape(r, p, &whole));
    SV_TRY(take_text(p, "a key of a tensor in chunks", key, sizeof key));
    SV_CHECK(r->c, strcmp(key, "chunks") == 0, SV_BAD_INPUT,
             "%s: tensor '%s' in chunks has '%s' instead of its chunks", r->source->path, r->name, key);
    SV_TRY(take_list(r, p, "the chunks", &count, &mapped));
    const int64_t elements = sv_elements(whole.ndim, whole.dims);
    SV_CHECK(r->c, elements >= 0 && (uint64_t)elements <= p->end - p->at, SV_BAD_INPUT,
             "%s: tensor '%s' is larger than the file", r->source->path, r->name);
    uint64_t done = 0;
    for (uint64_t i = 0; i < count; i++) {
        SV_TRY(take_place(r, p, mapped, i));
        SV_TRY(take_array(r, p, &chunk));
        if (i == 0) {
            whole.number = chunk.number;
            SV_TRY(sv_weights_make(r->c, r->w, r->name, sv_number_kept_as(chunk.number), whole.ndim,
                                   whole.dims, &data));
        }
        const uint64_t part = chunk.bytes / sv_number_bytes(chunk.number);
        SV_CHECK(r->c, chunk.number == whole.number && part <= (uint64_t)elements - done, SV_BAD_INPUT,
                 "%s: the chunks of tensor '%s' do not fit together", r->source->path, r->name);
        SV_TRY(copy_numbers(
            r, &chunk, (uint8_t *)data + (size_t)done * sv_dtype_bytes(sv_number_kept_as(chunk.number))));
        done += part;
    }
    SV_CHECK(r->c, count > 0 && done == (uint64_t)elements, SV_BAD_INPUT,
             "%s: the chunks of tensor '%s' do not fill its shape", r->source->path, r->name);
    return SV_OK;
}

/* ---- the tree ------------------------------------------------------------------------------------------- */

/* A map of maps and leaves, below r->name. */
static sv_status read_tree(reader *r, cursor *p, int depth)
{
    value v;
    const size_t used = strlen(r->name);
    const uint64_t begin = p->at;
    SV_TRY(take(p, &v));
    if (v.kind != MAP) {
        p->at = begin;
        SV_CHECK(r->c, used > 0, SV_BAD_INPUT, "%s: 'params' is no map", r->source->path);
        return read_leaf(r, p);
    }
    SV_CHECK(r->c, depth < DEPTH, SV_BAD_INPUT, "%s: maps nest deeper than %d below '%s'", r->source->path,
             DEPTH, r->name);
    for (uint64_t i = 0; i < v.number; i++) {
        char key[SV_WEIGHTS_MAX_NAME + 1];
        SV_TRY(take_text(p, "a tensor's name", key, sizeof key));
        if (i == 0 && v.number == 3 && used > 0 && strcmp(key, "__msgpack_chunked_array__") == 0)
            return read_chunked(r, p);
        const int length = snprintf(r->name + used, sizeof r->name - used, "%s%s", used > 0 ? "." : "", key);
        SV_CHECK(r->c, key[0] && used + (size_t)length < sizeof r->name, SV_BAD_INPUT,
                 "%s: a name below '%.*s' is empty or too long", r->source->path, (int)used, r->name);
        SV_TRY(read_tree(r, p, depth + 1));
        r->name[used] = '\0';
    }
    return SV_OK;
}

static sv_status read_top(reader *r, cursor *p)
{
    value v;
    bool found = false;
    SV_TRY(take(p, &v));
    if (v.kind != MAP) return broken(p, "a checkpoint is no map");
    const uint64_t entries = v.number;
    for (uint64_t i = 0; i < entries; i++) {
        char key[SV_WEIGHTS_MAX_NAME + 1], shown[SV_SHOWN];
        SV_TRY(take_text(p, "a key of the checkpoint", key, sizeof key));
        if (strcmp(key, "params") == 0) {
            SV_CHECK(r->c, !found, SV_BAD_INPUT, "%s: 'params' is there twice", r->source->path);
            found = true;
            SV_TRY(read_tree(r, p, 0));
        } else if (strcmp(key, "step") == 0 || strcmp(key, "opt_state") == 0) {
            SV_TRY(step_over(p));
        } else if (strcmp(key, "model_state") == 0) {
            SV_TRY(take(p, &v));
            SV_CHECK(
                r->c, v.kind == NIL || (v.kind == MAP && v.number == 0), SV_UNSUPPORTED,
                "%s: 'model_state' is not empty; models with a state beside their weights are not supported",
                r->source->path);
        } else {
            return SV_FAIL(
                r->c, SV_UNSUPPORTED,
                "%s: its map has an entry '%s'; a checkpoint has step, params, opt_state and model_state",
                r->source->path, sv_shown(shown, key, strlen(key)));
        }
    }
    SV_CHECK(r->c, found, SV_BAD_INPUT, "%s: there is no 'params' in it", r->source->path);
    SV_CHECK(r->c, p->at == p->end, SV_BAD_INPUT, "%s: %llu bytes follow the checkpoint", r->source->path,
             (unsigned long long)(p->end - p->at));
    return SV_OK;
}

bool sv_flax_begins(const uint8_t *head, size_t n)
{
    /* A map of few entries whose first key is a short word. No pickle: that begins with 0x80. */
    return n >= 3 && head[0] > 0x80 && head[0] < 0x90 && head[1] > 0xa0 && head[1] < 0xc0 && head[2] >= 'a' &&
           head[2] <= 'z';
}

sv_status sv_flax_read(sv_ctx *c, const sv_source *source, sv_weights *w)
{
    reader r = {.c = c, .source = source, .w = w};
    cursor p = {.c = c, .source = source, .at = 0, .end = source->size};
    r.slice = malloc((size_t)SLICE * 8);
    SV_CHECK(c, r.slice, SV_NO_MEMORY, "%s: no memory to read it", source->path);
    const sv_status status = read_top(&r, &p);
    free(r.slice);
    return status;
}
