/* SPDX-License-Identifier: Apache-2.0 */
#include "feather.h"

#include "lz4.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- flatbuffers -------------------------------------------------------------------------------------- */

/* A table: at 'at' the distance back to its list of places, which has one uint16 per field. Every place is compared with
 * the size of the buffer before it is read. */
typedef struct table {
    const uint8_t *base;
    size_t size, at;
} table;

static uint64_t le(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    for (int i = bytes - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

static bool inside(const table *t, size_t at, size_t bytes)
{
    return at <= t->size && bytes <= t->size - at;
}

static bool read_root(const uint8_t *base, size_t size, table *out)
{
    *out = (table){base, size, 0};
    if (size < 4) return false;
    out->at = (size_t)le(base, 4);
    return inside(out, out->at, 4);
}

/* Where the field's value lies; 0 when it is left out. */
static size_t field(const table *t, int number, size_t bytes)
{
    if (!inside(t, t->at, 4)) return 0;
    const int64_t list = (int64_t)t->at - (int32_t)(uint32_t)le(t->base + t->at, 4);
    if (list < 0 || !inside(t, (size_t)list, 4)) return 0;
    const size_t length = (size_t)le(t->base + list, 2), place = 4 + 2 * (size_t)number;
    if (place + 2 > length || !inside(t, (size_t)list, length)) return 0;
    const size_t offset = (size_t)le(t->base + list + place, 2);
    return offset > 0 && inside(t, t->at + offset, bytes) ? t->at + offset : 0;
}

static int64_t read_number(const table *t, int number, int bytes, int64_t otherwise)
{
    const size_t at = field(t, number, (size_t)bytes);
    if (!at) return otherwise;
    const uint64_t v = le(t->base + at, bytes);
    return bytes == 8   ? (int64_t)v
           : bytes == 4 ? (int32_t)(uint32_t)v
           : bytes == 2 ? (int16_t)(uint16_t)v
                        : (int64_t)v;
}

static bool read_table(const table *t, int number, table *out)
{
    const size_t at = field(t, number, 4);
    if (!at) return false;
    *out = (table){t->base, t->size, at + (size_t)le(t->base + at, 4)};
    return inside(out, out->at, 4);
}

/* The elements of a list lie at *at; -1 when there is no list, or one that goes beyond the buffer. */
static int64_t read_list(const table *t, int number, size_t bytes, size_t *at)
{
    const size_t place = field(t, number, 4);
    if (!place) return -1;
    const size_t list = place + (size_t)le(t->base + place, 4);
    if (!inside(t, list, 4)) return -1;
    const uint64_t count = le(t->base + list, 4);
    *at = list + 4;
    return inside(t, *at, (size_t)count * bytes) ? (int64_t)count : -1;
}

/* ---- the file ----------------------------------------------------------------------------------------- */

typedef struct sv_feather_batch {
    table message; /* RecordBatch */
    const uint8_t *body;
    size_t body_size;
    int64_t rows;
    bool packed;
} batch;

enum {
    TYPE_INT = 2,
    TYPE_FLOAT = 3,
    TYPE_TEXT = 5,
    TYPE_LONG_TEXT = 20,
    HEADER_BATCH = 3,
    BLOCK = 24,
    MAGIC = 6
};
static const char magic[] = "ARROW1";

static sv_status wrong(sv_ctx *c, const sv_feather *f, const char *what)
{
    return SV_FAIL(c, SV_BAD_INPUT, "%s: %s", f->name, what);
}

static sv_status read_column(sv_ctx *c, const sv_feather *f, const table *t, sv_feather_column *out)
{
    table type, other;
    size_t at = 0;
    *out = (sv_feather_column){.kind = SV_FEATHER_OTHER};
    const size_t place = field(t, 0, 4);
    const size_t name = place ? place + (size_t)le(t->base + place, 4) : 0;
    const size_t letters = place && inside(t, name, 4) ? (size_t)le(t->base + name, 4) : 0;
    if (!place || !inside(t, name, 4) || !inside(t, name + 4, letters) || letters >= sizeof out->name)
        return wrong(c, f, "is damaged: a column has no name, or one that is too long");
    memcpy(out->name, t->base + name + 4, letters);
    const int64_t kind = read_number(t, 2, 1, 0);
    if (!read_table(t, 3, &type) || read_table(t, 4, &other) || read_list(t, 5, 4, &at) > 0) return SV_OK;
    if (kind == TYPE_INT) {
        const int64_t bits = read_number(&type, 0, 4, 0);
        out->is_signed = read_number(&type, 1, 1, 0) != 0;
        out->bytes = (int)(bits / 8);
        if (bits == 8 || bits == 16 || bits == 32 || bits == 64) out->kind = SV_FEATHER_INTEGER;
    } else if (kind == TYPE_FLOAT) {
        const int64_t precision = read_number(&type, 0, 2, 0);
        out->bytes = precision == 0 ? 2 : precision == 1 ? 4 : 8;
        if (precision >= 0 && precision <= 2) out->kind = SV_FEATHER_FLOAT;
    } else if (kind == TYPE_TEXT || kind == TYPE_LONG_TEXT) {
        out->kind = SV_FEATHER_TEXT;
        out->bytes = kind == TYPE_TEXT ? 4 : 8;
    }
    return SV_OK;
}

static sv_status read_schema(sv_ctx *c, sv_feather *f, const table *footer)
{
    table schema;
    size_t at = 0;
    if (!read_table(footer, 1, &schema)) return wrong(c, f, "is damaged: its footer has no schema");
    if (read_number(&schema, 0, 2, 0) != 0) return wrong(c, f, "is big-endian, which is not read");
    const int64_t count = read_list(&schema, 1, 4, &at);
    if (count < 0 || count > SV_FEATHER_COLUMNS)
        return wrong(c, f, "is damaged, or has more columns than are read (64)");
    for (int64_t i = 0; i < count; i++) {
        const size_t place = at + 4 * (size_t)i;
        table column = {schema.base, schema.size, place + (size_t)le(schema.base + place, 4)};
        if (!inside(&column, column.at, 4))
            return wrong(c, f, "is damaged: a column lies outside the footer");
        SV_TRY(read_column(c, f, &column, &f->columns[i]));
    }
    f->column_count = (int)count;
    return SV_OK;
}

static sv_status read_batch(sv_ctx *c, sv_feather *f, const uint8_t *block, batch *out)
{
    table message, packing;
    const uint64_t offset = le(block, 8), head = le(block + 8, 4), body = le(block + 16, 8);
    const bool there =
        offset <= f->size && head >= 8 && head <= f->size - offset && body <= f->size - offset - head;
    if (!there) return wrong(c, f, "is damaged: a batch lies outside the file");
    const uint8_t *at = f->bytes + offset;
    /* since version 0.15 four bytes of ones stand before the length */
    const size_t skip = le(at, 4) == 0xffffffff ? 8 : 4;
    if (!read_root(at + skip, (size_t)head - skip, &message) ||
        read_number(&message, 1, 1, 0) != HEADER_BATCH || !read_table(&message, 2, &out->message))
        return wrong(c, f, "is damaged: a batch has no head");
    out->body = at + head;
    out->body_size = (size_t)body;
    out->rows = read_number(&out->message, 0, 8, 0);
    out->packed = read_table(&out->message, 3, &packing);
    if (out->rows < 0 || out->rows > SV_FEATHER_ROWS || f->rows + out->rows > SV_FEATHER_ROWS)
        return wrong(c, f, "says that it has more rows than are read (67108864)");
    if (out->packed && read_number(&packing, 0, 1, 0) != 0)
        return wrong(c, f,
                     "is packed with Zstandard; write it again with LZ4 or without packing "
                     "(pyarrow.feather.write_feather(table, path, compression=\"lz4\"))");
    f->rows += out->rows;
    return SV_OK;
}

static sv_status read_footer(sv_ctx *c, sv_feather *f)
{
    table footer;
    size_t at = 0;
    if (f->size < 2 * MAGIC + 6 || memcmp(f->bytes, magic, MAGIC) != 0 ||
        memcmp(f->bytes + f->size - MAGIC, magic, MAGIC) != 0)
        return wrong(c, f, "is no Feather file (Arrow IPC), or is cut off");
    const uint64_t length = le(f->bytes + f->size - MAGIC - 4, 4);
    if (length > f->size - 2 * MAGIC - 4 ||
        !read_root(f->bytes + f->size - MAGIC - 4 - length, (size_t)length, &footer))
        return wrong(c, f, "is damaged: its footer lies outside the file");
    SV_TRY(read_schema(c, f, &footer));
    const int64_t count = read_list(&footer, 3, BLOCK, &at);
    if (count < 0) return wrong(c, f, "is damaged: its footer has no batches");
    f->batches = calloc((size_t)count + 1, sizeof *f->batches);
    SV_CHECK(c, f->batches, SV_NO_MEMORY, "%s: no memory for %lld batches", f->name, (long long)count);
    for (; f->batch_count < count; f->batch_count++)
        SV_TRY(
            read_batch(c, f, footer.base + at + BLOCK * (size_t)f->batch_count, &f->batches[f->batch_count]));
    return SV_OK;
}

sv_status sv_feather_open(sv_ctx *c, const char *name, const void *bytes, size_t size, sv_feather *out)
{
    *out = (sv_feather){.name = name, .bytes = bytes, .size = size};
    const sv_status status = read_footer(c, out);
    if (status != SV_OK) sv_feather_free(out);
    return status;
}

void sv_feather_free(sv_feather *f)
{
    for (int i = 0; i < f->text_count; i++) free(f->texts[i]);
    free(f->texts);
    free(f->batches);
    *f = (sv_feather){.name = ""};
}

/* ---- buffers ------------------------------------------------------------------------------------------ */

/* What a buffer holds: in the file, or unpacked in malloc'ed memory. */
typedef struct buffer {
    const uint8_t *data;
    size_t size;
    uint8_t *own;
} buffer;

static sv_status read_buffer(sv_ctx *c, const sv_feather *f, const batch *b, int number, size_t most,
                             buffer *out)
{
    size_t at = 0;
    const int64_t count = read_list(&b->message, 2, 16, &at);
    *out = (buffer){0};
    if (number >= count) return wrong(c, f, "is damaged: a batch has too few buffers");
    const uint8_t *place = b->message.base + at + 16 * (size_t)number;
    const uint64_t offset = le(place, 8), size = le(place + 8, 8);
    if (offset > b->body_size || size > b->body_size - offset)
        return wrong(c, f, "is damaged: a buffer lies outside its batch");
    *out = (buffer){.data = b->body + offset, .size = (size_t)size};
    if (!b->packed || size == 0) return SV_OK;
    if (size < 8) return wrong(c, f, "is damaged: a packed buffer has no length");
    const int64_t unpacked = (int64_t)le(out->data, 8);
    out->data += 8;
    out->size -= 8;
    if (unpacked == -1) return SV_OK; /* it did not get smaller */
    if (unpacked < 0 || (uint64_t)unpacked > most || (uint64_t)unpacked > SV_LZ4_MOST(out->size))
        return wrong(c, f, "is damaged: a buffer says that it unpacks to an absurd length");
    uint8_t *own = malloc((size_t)unpacked + 1);
    SV_CHECK(c, own, SV_NO_MEMORY, "%s: no memory for %lld bytes", f->name, (long long)unpacked);
    if (!sv_lz4_unpack_frame(out->data, out->size, own, (size_t)unpacked)) {
        free(own);
        return wrong(c, f, "is damaged: a packed buffer cannot be unpacked");
    }
    *out = (buffer){.data = own, .size = (size_t)unpacked, .own = own};
    return SV_OK;
}

/* A column takes a buffer that says which values there are, and one of values or two of texts. */
static int first_buffer(const sv_feather *f, int column)
{
    int number = 0;
    for (int i = 0; i < column; i++) number += f->columns[i].kind == SV_FEATHER_TEXT ? 3 : 2;
    return number;
}

static sv_status find_column(sv_ctx *c, const sv_feather *f, const char *name, int *out)
{
    for (*out = 0; *out < f->column_count; (*out)++) {
        /* places of buffers behind a column that is not understood are not known */
        SV_CHECK(
            c, f->columns[*out].kind != SV_FEATHER_OTHER, SV_UNSUPPORTED,
            "%s: the column %s is of a kind that is not read (numbers and texts are, without dictionaries)",
            f->name, f->columns[*out].name);
        if (strcmp(f->columns[*out].name, name) == 0) return SV_OK;
    }
    return SV_FAIL(c, SV_BAD_INPUT, "%s: has no column %s", f->name, name);
}

static sv_status check_nulls(sv_ctx *c, const sv_feather *f, const batch *b, int column)
{
    size_t at = 0;
    const int64_t nodes = read_list(&b->message, 1, 16, &at);
    if (column >= nodes) return wrong(c, f, "is damaged: a batch has too few columns");
    const uint8_t *node = b->message.base + at + 16 * (size_t)column;
    if ((int64_t)le(node, 8) != b->rows)
        return wrong(c, f, "is damaged: columns of a batch have different lengths");
    SV_CHECK(c, le(node + 8, 8) == 0, SV_BAD_INPUT, "%s: values of the column %s are missing (null)", f->name,
             f->columns[column].name);
    return SV_OK;
}

static double half(uint64_t bits)
{
    const int exponent = (int)(bits >> 10 & 31), mantissa = (int)(bits & 1023);
    const double size = exponent == 0    ? ldexp(mantissa, -24)
                        : exponent == 31 ? (mantissa ? (double)NAN : (double)INFINITY)
                                         : ldexp(mantissa + 1024, exponent - 25);
    return bits >> 15 ? -size : size;
}

static double float_of(const uint8_t *p, int bytes)
{
    const uint64_t bits = le(p, bytes);
    const uint32_t low = (uint32_t)bits;
    float single;
    double twice;
    if (bytes == 2) return half(bits);
    memcpy(&single, &low, sizeof single);
    memcpy(&twice, &bits, sizeof twice);
    return bytes == 4 ? (double)single : twice;
}

static int64_t integer_of(const uint8_t *p, const sv_feather_column *column)
{
    const uint64_t bits = le(p, column->bytes);
    if (!column->is_signed) return bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
    switch (column->bytes) {
    case 1:
        return (int8_t)(uint8_t)bits;
    case 2:
        return (int16_t)(uint16_t)bits;
    case 4:
        return (int32_t)(uint32_t)bits;
    default:
        return (int64_t)bits;
    }
}

/* One of the two outputs is given. */
static sv_status read_numbers(sv_ctx *c, const sv_feather *f, int number, double *floats, int64_t *integers)
{
    const sv_feather_column *column = &f->columns[number];
    int64_t row = 0;
    for (int i = 0; i < f->batch_count; i++) {
        const batch *b = &f->batches[i];
        const size_t wanted = (size_t)b->rows * (size_t)column->bytes;
        buffer values;
        SV_TRY(check_nulls(c, f, b, number));
        /* buffers are padded to 64 bytes at most */
        SV_TRY(read_buffer(c, f, b, first_buffer(f, number) + 1, wanted + 64, &values));
        const bool enough = values.size >= wanted;
        for (int64_t k = 0; enough && k < b->rows; k++, row++) {
            const uint8_t *p = values.data + (size_t)k * (size_t)column->bytes;
            if (integers) integers[row] = integer_of(p, column);
            if (floats)
                floats[row] = column->kind == SV_FEATHER_FLOAT ? float_of(p, column->bytes)
                                                               : (double)integer_of(p, column);
        }
        free(values.own);
        if (!enough) return wrong(c, f, "is damaged: a column is shorter than its batch");
    }
    return SV_OK;
}

sv_status sv_feather_floats(sv_ctx *c, sv_feather *f, const char *name, double *out)
{
    int column;
    SV_TRY(find_column(c, f, name, &column));
    SV_CHECK(c, f->columns[column].kind != SV_FEATHER_TEXT, SV_BAD_INPUT,
             "%s: the column %s holds texts, not numbers", f->name, name);
    return read_numbers(c, f, column, out, NULL);
}

sv_status sv_feather_integers(sv_ctx *c, sv_feather *f, const char *name, int64_t *out)
{
    int column;
    SV_TRY(find_column(c, f, name, &column));
    SV_CHECK(c, f->columns[column].kind == SV_FEATHER_INTEGER, SV_BAD_INPUT,
             "%s: the column %s holds no integers", f->name, name);
    return read_numbers(c, f, column, NULL, out);
}

static sv_status keep_text(sv_ctx *c, sv_feather *f, buffer *text)
{
    if (!text->own) return SV_OK;
    void **grown = realloc(f->texts, sizeof *grown * (size_t)(f->text_count + 1));
    SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for texts", f->name);
    f->texts = grown;
    f->texts[f->text_count++] = text->own;
    text->own = NULL;
    return SV_OK;
}

/* Offsets rise from the first to the last. */
static bool split_texts(const buffer *offsets, const buffer *text, int64_t rows, int bytes,
                        sv_feather_text *out)
{
    if (rows == 0) return true;
    if (offsets->size < ((size_t)rows + 1) * (size_t)bytes) return false;
    uint64_t from = le(offsets->data, bytes);
    for (int64_t k = 0; k < rows; k++) {
        const uint64_t to = le(offsets->data + (size_t)(k + 1) * (size_t)bytes, bytes);
        if (to < from || to > text->size) return false;
        out[k] = (sv_feather_text){(const char *)text->data + from, (size_t)(to - from)};
        from = to;
    }
    return true;
}

sv_status sv_feather_texts(sv_ctx *c, sv_feather *f, const char *name, sv_feather_text *out)
{
    int column;
    SV_TRY(find_column(c, f, name, &column));
    SV_CHECK(c, f->columns[column].kind == SV_FEATHER_TEXT, SV_BAD_INPUT, "%s: the column %s holds no texts",
             f->name, name);
    const int bytes = f->columns[column].bytes, first = first_buffer(f, column) + 1;
    for (int i = 0; i < f->batch_count; i++) {
        const batch *b = &f->batches[i];
        buffer offsets = {0}, text = {0};
        SV_TRY(check_nulls(c, f, b, column));
        sv_status status = read_buffer(c, f, b, first, ((size_t)b->rows + 1) * (size_t)bytes + 64, &offsets);
        if (status == SV_OK) status = read_buffer(c, f, b, first + 1, (size_t)1 << 28, &text);
        if (status == SV_OK && !split_texts(&offsets, &text, b->rows, bytes, out))
            status = wrong(c, f, "is damaged: texts of a column lie outside their buffer");
        if (status == SV_OK) status = keep_text(c, f, &text);
        free(offsets.own);
        free(text.own);
        SV_TRY(status);
        out += b->rows;
    }
    return SV_OK;
}
