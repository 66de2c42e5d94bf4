/* SPDX-License-Identifier: Apache-2.0
 *
 * PLY files (the Stanford polygon format; Greg Turk, The PLY polygon file format, 1994):
 *
 *   ply
 *   format ascii 1.0 | format binary_little_endian 1.0 | format binary_big_endian 1.0
 *   comment ...                               also obj_info
 *   element vertex 2
 *   property float x                          char uchar short ushort int uint float double, int8 ... float64
 *   property list uchar int vertex_indices    a number, then so many values
 *   end_header
 *
 * Then the elements in order; in ascii one line each. The points are the element "vertex"; elements before it are passed
 * over, those behind it are not looked at. Every count is compared with the bytes that are there before anything is
 * allocated for it.
 */
#include "points_fields.h"

#include <string.h>

enum { ELEMENTS = 16, MOST_HEADER = 1 << 16 };

typedef enum order { ASCII, LITTLE, BIG } order;

typedef struct element {
    char name[SV_FIELD_NAME];
    size_t count, least; /* bytes an item has at least; exactly where record > 0 */
    sv_point_fields fields;
} element;

typedef struct header {
    element element[ELEMENTS];
    int count, vertex;
    order data;
    bool has_format;
    const char *body;
} header;

bool sv_points_is_ply(const void *bytes, size_t size)
{
    return size >= 4 && (memcmp(bytes, "ply\n", 4) == 0 || memcmp(bytes, "ply\r", 4) == 0);
}

/* ---- header ------------------------------------------------------------------------------------------- */

static bool type_of(sv_point_word word, char *kind, int *bytes)
{
    static const struct {
        const char *name, *other;
        char kind;
        int bytes;
    } types[] = {{"char", "int8", 'I', 1},     {"uchar", "uint8", 'U', 1},   {"short", "int16", 'I', 2},
                 {"ushort", "uint16", 'U', 2}, {"int", "int32", 'I', 4},     {"uint", "uint32", 'U', 4},
                 {"float", "float32", 'F', 4}, {"double", "float64", 'F', 8}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (sv_point_word_is(word, types[i].name) || sv_point_word_is(word, types[i].other)) {
            *kind = types[i].kind;
            *bytes = types[i].bytes;
            return true;
        }
    return false;
}

static void copy_name(char out[SV_FIELD_NAME], sv_point_word word)
{
    const size_t length = word.length < SV_FIELD_NAME ? word.length : SV_FIELD_NAME - 1;
    memcpy(out, word.at, length);
    out[length] = '\0';
}

static int shown(sv_point_word word)
{
    return word.length < 40 ? (int)word.length : 40;
}

static sv_status read_property(sv_ctx *c, const char *name, header *h, const char *text, const char *end)
{
    SV_CHECK(c, h->count > 0, SV_BAD_INPUT, "%s: a PLY property stands before the first element", name);
    element *e = &h->element[h->count - 1];
    SV_CHECK(c, e->fields.count < SV_FIELDS, SV_UNSUPPORTED, "%s: element '%s' has more than %d properties",
             name, e->name, SV_FIELDS);
    sv_point_field *field = &e->fields.field[e->fields.count];
    *field = (sv_point_field){.count = 1};
    sv_point_word word = {"", 0}, more;
    bool good = sv_point_next_word(&text, end, &word);
    if (good && sv_point_word_is(word, "list")) {
        good = sv_point_next_word(&text, end, &word) &&
               type_of(word, &field->list_kind, &field->list_bytes) && field->list_kind != 'F' &&
               sv_point_next_word(&text, end, &word);
    }
    good = good && type_of(word, &field->kind, &field->bytes) && sv_point_next_word(&text, end, &word);
    SV_CHECK(c, good && !sv_point_next_word(&text, end, &more), SV_BAD_INPUT,
             "%s: element '%s' has a property that is no '[list COUNT] TYPE NAME' (near '%.*s')", name,
             e->name, shown(word), word.at);
    copy_name(field->name, word);
    field->offset = e->least;
    e->least += (size_t)(field->list_kind ? field->list_bytes : field->bytes);
    e->fields.count++;
    return SV_OK;
}

static sv_status read_line(sv_ctx *c, const char *name, header *h, const char *text, const char *end,
                           bool *last)
{
    sv_point_word key, word = {"", 0}, version;
    *last = false;
    if (!sv_point_next_word(&text, end, &key) || sv_point_word_is(key, "comment") ||
        sv_point_word_is(key, "obj_info"))
        return SV_OK;
    if (sv_point_word_is(key, "end_header")) {
        *last = true;
        return SV_OK;
    }
    if (sv_point_word_is(key, "property")) return read_property(c, name, h, text, end);
    if (sv_point_word_is(key, "format")) {
        static const char *const kinds[] = {"ascii", "binary_little_endian", "binary_big_endian"};
        h->has_format = false;
        if (sv_point_next_word(&text, end, &word))
            for (int i = 0; i < 3; i++)
                if (sv_point_word_is(word, kinds[i])) {
                    h->data = (order)i;
                    h->has_format = true;
                }
        SV_CHECK(
            c, h->has_format && sv_point_next_word(&text, end, &version) && sv_point_word_is(version, "1.0"),
            SV_UNSUPPORTED,
            "%s: the PLY format '%.*s' is not ascii, binary_little_endian or binary_big_endian, each 1.0",
            name, shown(word), word.at);
        return SV_OK;
    }
    SV_CHECK(c, sv_point_word_is(key, "element"), SV_BAD_INPUT, "%s: '%.*s' is no line of a PLY header", name,
             shown(key), key.at);
    SV_CHECK(c, h->count < ELEMENTS, SV_UNSUPPORTED, "%s: more than %d elements", name, ELEMENTS);
    element *e = &h->element[h->count];
    *e = (element){.count = 0};
    SV_CHECK(c,
             sv_point_next_word(&text, end, &key) && sv_point_next_word(&text, end, &word) &&
                 sv_point_whole(word, (size_t)1 << 40, &e->count) &&
                 !sv_point_next_word(&text, end, &version),
             SV_BAD_INPUT, "%s: a line of the PLY header is no 'element NAME COUNT'", name);
    copy_name(e->name, key);
    if (strcmp(e->name, "vertex") == 0 && h->vertex < 0) h->vertex = h->count;
    h->count++;
    return SV_OK;
}

static sv_status read_header(sv_ctx *c, const char *bytes, size_t size, const char *name, header *h)
{
    h->count = 0;
    h->vertex = -1;
    h->has_format = false;
    const char *end = bytes + (size < MOST_HEADER ? size : MOST_HEADER), *line = bytes;
    bool last = false, first = true;
    while (!last) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        SV_CHECK(c, stop, SV_BAD_INPUT, "%s: the PLY header has no end (a line end_header)", name);
        if (!first) SV_TRY(read_line(c, name, h, line, stop, &last));
        first = false;
        line = stop + 1;
    }
    h->body = line;
    SV_CHECK(c, h->has_format, SV_BAD_INPUT, "%s: the PLY header lacks a line 'format'", name);
    SV_CHECK(c, h->vertex >= 0, SV_BAD_INPUT, "%s: the PLY file has no element 'vertex'", name);
    for (int i = 0; i < h->count; i++) {
        element *e = &h->element[i];
        bool lists = false;
        for (int k = 0; k < e->fields.count; k++) lists = lists || e->fields.field[k].list_kind;
        e->fields.record = lists ? 0 : e->least;
    }
    return SV_OK;
}

/* ---- elements ----------------------------------------------------------------------------------------- */

/* The element's items cannot be in fewer bytes than this. */
static sv_status check_room(sv_ctx *c, const char *name, const header *h, const element *e, size_t left)
{
    /* ascii: a digit and a space or line end per property; the last line may have no end */
    const size_t least = h->data == ASCII ? 2 * (size_t)e->fields.count : e->least;
    const size_t room = h->data == ASCII ? left + 1 : left;
    SV_CHECK(c, e->count == 0 || (least > 0 && e->count <= room / least), SV_BAD_INPUT,
             "%s: the header says %zu of element '%s', but only %zu bytes are left for them", name, e->count,
             e->name, left);
    return SV_OK;
}

/* A negative length reads as a huge one, which no file has room for. */
static size_t list_length(const unsigned char *p, int bytes, bool swap)
{
    size_t value = 0;
    for (int i = 0; i < bytes; i++) value = value << 8 | p[swap ? i : bytes - 1 - i];
    return value;
}

/* One item in binary; '*at' moves behind it. 'rows' may be NULL. */
static bool read_item(const element *e, const unsigned char **at, const unsigned char *end, bool swap,
                      const sv_point_rows *rows, float *point)
{
    const unsigned char *p = *at;
    for (int i = 0; i < e->fields.count; i++) {
        const sv_point_field *field = &e->fields.field[i];
        size_t count = 1;
        if (field->list_kind) {
            if ((size_t)(end - p) < (size_t)field->list_bytes) return false;
            count = list_length(p, field->list_bytes, swap);
            p += field->list_bytes;
        }
        if ((size_t)(end - p) / (size_t)field->bytes < count) return false;
        for (int k = 0; rows && k < rows->points.columns; k++)
            if (rows->field[k] == i) point[k] = sv_point_value(p, field->kind, field->bytes, swap);
        p += count * (size_t)field->bytes;
    }
    *at = p;
    return true;
}

/* One line; false with '*what' set. */
static bool read_text_item(const element *e, const char *line, const char *stop, const sv_point_rows *rows,
                           float *point, const char **what)
{
    sv_point_word word;
    *what = "has too few values";
    for (int i = 0; i < e->fields.count; i++) {
        const sv_point_field *field = &e->fields.field[i];
        size_t count = 1;
        if (field->list_kind) {
            if (!sv_point_next_word(&line, stop, &word)) return false;
            if (!sv_point_whole(word, (size_t)(stop - line), &count)) {
                *what = "has a list whose length is not possible";
                return false;
            }
        }
        for (size_t n = 0; n < count; n++) {
            if (!sv_point_next_word(&line, stop, &word)) return false;
            for (int k = 0; rows && k < rows->points.columns; k++)
                if (rows->field[k] == i && !sv_point_number(word, &point[k])) {
                    *what = "has a value that is no number";
                    return false;
                }
        }
    }
    *what = "has too many values";
    return !sv_point_next_word(&line, stop, &word);
}

/* All items of an element; 'rows' NULL: only passed over. */
static sv_status read_element(sv_ctx *c, const char *name, const header *h, const element *e, const char **at,
                              const char *end, sv_point_rows *rows)
{
    float point[SV_POINTS_COLUMNS] = {0};
    if (h->data != ASCII && e->fields.record > 0 && !rows) { /* as good as all meshes: nothing to look at */
        *at += e->count * e->fields.record;
        return SV_OK;
    }
    for (size_t i = 0; i < e->count; i++) {
        if (h->data == ASCII) {
            const char *stop = NULL, *what = "";
            while (*at < end && (**at == '\n' || **at == '\r')) ++*at; /* blank lines */
            SV_CHECK(c, *at < end, SV_BAD_INPUT, "%s: %zu of element '%s', the header says %zu", name, i,
                     e->name, e->count);
            stop = memchr(*at, '\n', (size_t)(end - *at));
            if (!stop) stop = end;
            SV_CHECK(c, read_text_item(e, *at, stop, rows, point, &what), SV_BAD_INPUT,
                     "%s: item %zu of element '%s' %s", name, i + 1, e->name, what);
            *at = stop;
        } else {
            const unsigned char *p = (const unsigned char *)*at;
            SV_CHECK(c, read_item(e, &p, (const unsigned char *)end, h->data == BIG, rows, point),
                     SV_BAD_INPUT, "%s: cut off in item %zu of element '%s'", name, i + 1, e->name);
            *at = (const char *)p;
        }
        if (rows) sv_point_rows_add(rows, point);
    }
    return SV_OK;
}

sv_status sv_points_parse_ply(sv_ctx *c, const void *bytes, size_t size, const char *name, const char *layout,
                              int least, sv_points *out)
{
    header h;
    SV_TRY(read_header(c, bytes, size, name, &h));
    const char *at = h.body, *end = (const char *)bytes + size;
    for (int i = 0; i < h.vertex; i++) {
        SV_TRY(check_room(c, name, &h, &h.element[i], (size_t)(end - at)));
        SV_TRY(read_element(c, name, &h, &h.element[i], &at, end, NULL));
    }
    const element *vertex = &h.element[h.vertex];
    SV_TRY(check_room(c, name, &h, vertex, (size_t)(end - at)));
    sv_point_rows rows;
    sv_status status = sv_point_rows_begin(c, name, &vertex->fields, layout, least, vertex->count, &rows);
    if (status == SV_OK) status = read_element(c, name, &h, vertex, &at, end, &rows);
    if (status == SV_OK)
        *out = rows.points;
    else
        sv_points_free(&rows.points);
    return status;
}
