/* SPDX-License-Identifier: Apache-2.0
 *
 * PCD files (Point Cloud Data, the format of the Point Cloud Library; pointclouds.org documents versions up to 0.7):
 *
 *   # .PCD v0.7 - Point Cloud Data file format
 *   VERSION 0.7
 *   FIELDS x y z intensity          names; "_" is padding
 *   SIZE 4 4 4 4                    bytes of a value
 *   TYPE F F F F                    I signed, U unsigned, F floating
 *   COUNT 1 1 1 1                   values of a field; may be left out
 *   WIDTH 2
 *   HEIGHT 1
 *   VIEWPOINT 0 0 0 1 0 0 0         not applied to the points
 *   POINTS 2                        WIDTH x HEIGHT; may be left out
 *   DATA ascii | binary | binary_compressed
 *
 * ascii: a line per point. binary: records, little-endian, without gaps. binary_compressed: two uint32, the sizes of what
 * follows and of what it expands to, then an LZF stream of all values field by field.
 *
 * Every size is compared with the bytes that are there before anything is allocated for it.
 */
#include "points_fields.h"

#include "lzf.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_HEADER = 1 << 16, MOST_COUNT = 1 << 16, MOST_RECORD = 1 << 20 };

typedef enum encoding { ASCII, BINARY, COMPRESSED } encoding;

typedef struct header {
    sv_point_fields fields;
    bool has_fields, has_size, has_type, has_width, has_points;
    size_t width, height, points;
    encoding data;
    const char *body;
} header;

bool sv_points_is_pcd(const void *bytes, size_t size)
{
    static const char *const starts[] = {"# .PCD", "VERSION ", "FIELDS "};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (size >= strlen(starts[i]) && memcmp(bytes, starts[i], strlen(starts[i])) == 0) return true;
    return false;
}

/* ---- header ------------------------------------------------------------------------------------------- */

/* One of the lines that list something per field. */
static sv_status read_list(sv_ctx *c, const char *name, header *h, sv_point_word key, const char *text,
                           const char *end)
{
    sv_point_fields *fields = &h->fields;
    sv_point_word word;
    int n = 0;
    const bool names = sv_point_word_is(key, "FIELDS");
    SV_CHECK(c, names != h->has_fields, SV_BAD_INPUT, "%s: the PCD header %s", name,
             names ? "has FIELDS twice" : "does not begin with FIELDS");
    for (; sv_point_next_word(&text, end, &word); n++) {
        SV_CHECK(c, n < SV_FIELDS, SV_UNSUPPORTED, "%s: more than %d fields", name, SV_FIELDS);
        sv_point_field *field = &fields->field[n];
        size_t value = 0;
        if (names) {
            *field = (sv_point_field){.count = 1};
            memcpy(field->name, word.at, word.length < SV_FIELD_NAME ? word.length : SV_FIELD_NAME - 1);
        } else if (n >= fields->count) {
            continue;
        } else if (sv_point_word_is(key, "TYPE")) {
            SV_CHECK(c, word.length == 1 && strchr("IUF", *word.at), SV_BAD_INPUT,
                     "%s: TYPE '%.*s' of field '%s' is not I, U or F", name, (int)word.length, word.at,
                     field->name);
            field->kind = *word.at;
        } else {
            const bool size = sv_point_word_is(key, "SIZE");
            SV_CHECK(c,
                     sv_point_whole(word, MOST_COUNT, &value) &&
                         (size ? value == 1 || value == 2 || value == 4 || value == 8 : value >= 1),
                     SV_BAD_INPUT, "%s: %.*s '%.*s' of field '%s' is not possible", name, (int)key.length,
                     key.at, (int)(word.length < 40 ? word.length : 40), word.at, field->name);
            if (size)
                field->bytes = (int)value;
            else
                field->count = value;
        }
    }
    if (names) fields->count = n;
    SV_CHECK(c, n > 0 && n == fields->count, SV_BAD_INPUT, "%s: %.*s has %d entries for %d fields", name,
             (int)key.length, key.at, n, fields->count);
    return SV_OK;
}

static sv_status read_number(sv_ctx *c, const char *name, sv_point_word key, const char *text,
                             const char *end, size_t *out)
{
    sv_point_word word, more;
    SV_CHECK(c,
             sv_point_next_word(&text, end, &word) && !sv_point_next_word(&text, end, &more) &&
                 sv_point_whole(word, (size_t)1 << 40, out),
             SV_BAD_INPUT, "%s: %.*s of the PCD header is not one whole number", name, (int)key.length,
             key.at);
    return SV_OK;
}

static sv_status read_line(sv_ctx *c, const char *name, header *h, const char *text, const char *end,
                           bool *last)
{
    sv_point_word key, word;
    *last = false;
    if (!sv_point_next_word(&text, end, &key) || *key.at == '#') return SV_OK;
    if (sv_point_word_is(key, "VERSION") || sv_point_word_is(key, "VIEWPOINT")) return SV_OK;
    if (sv_point_word_is(key, "COLUMNS")) key = (sv_point_word){"FIELDS", 6}; /* version 0.5 */
    if (sv_point_word_is(key, "FIELDS") || sv_point_word_is(key, "SIZE") || sv_point_word_is(key, "TYPE") ||
        sv_point_word_is(key, "COUNT")) {
        SV_TRY(read_list(c, name, h, key, text, end));
        h->has_fields = true;
        h->has_size |= sv_point_word_is(key, "SIZE");
        h->has_type |= sv_point_word_is(key, "TYPE");
        return SV_OK;
    }
    if (sv_point_word_is(key, "WIDTH")) {
        h->has_width = true;
        return read_number(c, name, key, text, end, &h->width);
    }
    if (sv_point_word_is(key, "HEIGHT")) return read_number(c, name, key, text, end, &h->height);
    if (sv_point_word_is(key, "POINTS")) {
        h->has_points = true;
        return read_number(c, name, key, text, end, &h->points);
    }
    SV_CHECK(c, sv_point_word_is(key, "DATA"), SV_BAD_INPUT, "%s: '%.*s' is no line of a PCD header", name,
             (int)(key.length < 40 ? key.length : 40), key.at);
    static const char *const kinds[] = {"ascii", "binary", "binary_compressed"};
    *last = true;
    if (sv_point_next_word(&text, end, &word))
        for (int i = 0; i < 3; i++)
            if (sv_point_word_is(word, kinds[i])) {
                h->data = (encoding)i;
                return SV_OK;
            }
    return SV_FAIL(c, SV_UNSUPPORTED, "%s: DATA '%.*s' is not ascii, binary or binary_compressed", name,
                   (int)(word.length < 40 ? word.length : 40), word.at);
}

static sv_status read_header(sv_ctx *c, const char *bytes, size_t size, const char *name, header *h)
{
    *h = (header){.height = 1};
    const char *end = bytes + (size < MOST_HEADER ? size : MOST_HEADER);
    bool last = false;
    for (const char *line = bytes; !last;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        SV_CHECK(c, stop, SV_BAD_INPUT, "%s: the PCD header has no end (a line DATA ...)", name);
        SV_TRY(read_line(c, name, h, line, stop, &last));
        line = stop + 1;
        h->body = line;
    }
    SV_CHECK(c, h->has_fields && h->has_size && h->has_type, SV_BAD_INPUT, "%s: the PCD header lacks %s",
             name,
             !h->has_fields ? "FIELDS"
             : !h->has_size ? "SIZE"
                            : "TYPE");
    SV_CHECK(c, h->has_width || h->has_points, SV_BAD_INPUT, "%s: the PCD header lacks WIDTH", name);
    if (!h->has_width) h->width = h->points;
    SV_CHECK(c, h->height == 0 || h->width <= SIZE_MAX / h->height, SV_BAD_INPUT,
             "%s: WIDTH %zu x HEIGHT %zu is too large", name, h->width, h->height);
    if (!h->has_points) h->points = h->width * h->height;
    SV_CHECK(c, h->points == h->width * h->height, SV_BAD_INPUT,
             "%s: POINTS is %zu, but WIDTH %zu x HEIGHT %zu is %zu", name, h->points, h->width, h->height,
             h->width * h->height);
    SV_CHECK(c, h->points <= SV_POINTS_MAX, SV_BAD_INPUT, "%s: %zu points, at most %d are read", name,
             h->points, SV_POINTS_MAX);
    sv_point_fields *fields = &h->fields;
    for (int i = 0; i < fields->count; i++) {
        sv_point_field *field = &fields->field[i];
        SV_CHECK(c, field->kind != 'F' || field->bytes >= 4, SV_UNSUPPORTED,
                 "%s: field '%s' has floats of %d bytes; 4 and 8 are supported", name, field->name,
                 field->bytes);
        field->offset = fields->record;
        fields->record += field->count * (size_t)field->bytes;
        SV_CHECK(c, fields->record <= MOST_RECORD, SV_UNSUPPORTED, "%s: a point has more than %d bytes", name,
                 MOST_RECORD);
    }
    return SV_OK;
}

/* ---- the three kinds of data -------------------------------------------------------------------------- */

static sv_status read_ascii(sv_ctx *c, const char *name, const header *h, const char *text, const char *end,
                            sv_point_rows *rows)
{
    size_t values = 0, row = 0;
    for (int i = 0; i < h->fields.count; i++) values += h->fields.field[i].count;
    /* which value of a line each column is */
    size_t place[SV_POINTS_COLUMNS];
    for (int k = 0; k < rows->points.columns; k++) {
        place[k] = 0;
        for (int i = 0; i < rows->field[k]; i++) place[k] += h->fields.field[i].count;
    }
    for (const char *line = text; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop) stop = end;
        float point[SV_POINTS_COLUMNS] = {0};
        size_t n = 0;
        sv_point_word word;
        for (const char *at = line; sv_point_next_word(&at, stop, &word); n++)
            for (int k = 0; k < rows->points.columns; k++)
                if (rows->field[k] >= 0 && place[k] == n && !sv_point_number(word, &point[k]))
                    return SV_FAIL(c, SV_BAD_INPUT, "%s: point %zu: '%.*s' is no number", name, row + 1,
                                   (int)(word.length < 40 ? word.length : 40), word.at);
        line = stop + 1;
        if (n == 0) continue;
        SV_CHECK(c, row < h->points, SV_BAD_INPUT, "%s: more lines than the %zu points of the header", name,
                 h->points);
        SV_CHECK(c, n == values, SV_BAD_INPUT, "%s: point %zu has %zu values, the header says %zu", name,
                 row + 1, n, values);
        sv_point_rows_add(rows, point);
        row++;
    }
    SV_CHECK(c, row == h->points, SV_BAD_INPUT, "%s: %zu points, the header says %zu", name, row, h->points);
    return SV_OK;
}

/* 'step' bytes from point to point of a field that begins at 'start[k]'. */
static void read_binary(const header *h, const unsigned char *const *start, const size_t *step,
                        sv_point_rows *rows)
{
    for (size_t i = 0; i < h->points; i++) {
        float point[SV_POINTS_COLUMNS] = {0};
        for (int k = 0; k < rows->points.columns; k++) {
            if (rows->field[k] < 0) continue;
            const sv_point_field *field = &h->fields.field[rows->field[k]];
            point[k] = sv_point_value(start[k] + i * step[k], field->kind, field->bytes, false);
        }
        sv_point_rows_add(rows, point);
    }
}

static uint32_t little(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Where the body claims more than is there, before anything is allocated. */
static sv_status check_body(sv_ctx *c, const char *name, const header *h, const unsigned char *body,
                            size_t size)
{
    const size_t record = h->fields.record, whole = h->points * record;
    if (h->data == ASCII) {
        SV_CHECK(c, h->points <= size / 2 + 1, SV_BAD_INPUT,
                 "%s: the header says %zu points, but only %zu bytes follow it", name, h->points, size);
        return SV_OK;
    }
    if (h->data == BINARY) {
        SV_CHECK(c, size == whole, SV_BAD_INPUT,
                 "%s: %zu bytes follow the header, %zu points of %zu bytes need %zu", name, size, h->points,
                 record, whole);
        return SV_OK;
    }
    if (h->points == 0 && size == 0) return SV_OK;
    SV_CHECK(c, size >= 8, SV_BAD_INPUT, "%s: cut off in the sizes of the compressed data", name);
    const size_t packed = little(body), expanded = little(body + 4);
    SV_CHECK(c, expanded == whole, SV_BAD_INPUT,
             "%s: the compressed data holds %zu bytes, %zu points of %zu bytes need %zu", name, expanded,
             h->points, record, whole);
    SV_CHECK(c, packed <= size - 8, SV_BAD_INPUT,
             "%s: cut off: the compressed data should have %zu bytes, %zu are there", name, packed, size - 8);
    SV_CHECK(c, expanded <= SV_LZF_MOST(packed), SV_BAD_INPUT, "%s: %zu compressed bytes cannot hold %zu",
             name, packed, expanded);
    return SV_OK;
}

static sv_status read_records(sv_ctx *c, const char *name, const header *h, const unsigned char *body,
                              size_t size, sv_point_rows *rows)
{
    const unsigned char *start[SV_POINTS_COLUMNS] = {0};
    size_t step[SV_POINTS_COLUMNS] = {0};
    if (h->data == BINARY || size == 0) {
        for (int k = 0; k < rows->points.columns; k++) {
            if (rows->field[k] >= 0) start[k] = body + h->fields.field[rows->field[k]].offset;
            step[k] = h->fields.record;
        }
        read_binary(h, start, step, rows);
        return SV_OK;
    }
    const size_t packed = little(body), expanded = little(body + 4);
    unsigned char *fields = malloc(expanded + 1);
    SV_CHECK(c, fields, SV_NO_MEMORY, "%s: no memory for %zu bytes", name, expanded);
    if (!sv_lzf_expand(body + 8, packed, fields, expanded)) {
        free(fields);
        return SV_FAIL(c, SV_BAD_INPUT, "%s: the compressed data is damaged", name);
    }
    for (int k = 0; k < rows->points.columns; k++) {
        if (rows->field[k] < 0) continue;
        const sv_point_field *field = &h->fields.field[rows->field[k]];
        start[k] = fields + field->offset * h->points;
        step[k] = field->count * (size_t)field->bytes;
    }
    read_binary(h, start, step, rows);
    free(fields);
    return SV_OK;
}

sv_status sv_points_parse_pcd(sv_ctx *c, const void *bytes, size_t size, const char *name, const char *layout,
                              int least, sv_points *out)
{
    header h;
    SV_TRY(read_header(c, bytes, size, name, &h));
    const char *end = (const char *)bytes + size;
    const unsigned char *body = (const unsigned char *)h.body;
    const size_t left = (size_t)(end - h.body);
    SV_TRY(check_body(c, name, &h, body, left));
    sv_point_rows rows;
    sv_status status = sv_point_rows_begin(c, name, &h.fields, layout, least, h.points, &rows);
    if (status == SV_OK && h.data == ASCII) status = read_ascii(c, name, &h, h.body, end, &rows);
    if (status == SV_OK && h.data != ASCII) status = read_records(c, name, &h, body, left, &rows);
    if (status == SV_OK)
        *out = rows.points;
    else
        sv_points_free(&rows.points);
    return status;
}
