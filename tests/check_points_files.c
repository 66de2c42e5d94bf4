/* SPDX-License-Identifier: Apache-2.0
 *
 * PCD and PLY files: what is read of every kind of field, what writing gives back, and that no lie of a header does harm.
 */
#include "perception/lzf.h"
#include "perception/points.h"
#include "support.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- files made here ---------------------------------------------------------------------------------- */

typedef struct buffer {
    unsigned char bytes[1 << 16];
    size_t size;
} buffer;

static void add_text(buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add_text(buffer *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    b->size += (size_t)vsnprintf((char *)b->bytes + b->size, sizeof b->bytes - b->size, format, args);
    va_end(args);
}
static void add_bytes(buffer *b, const void *bytes, size_t count)
{
    ck_assert(count <= sizeof b->bytes - b->size);
    memcpy(b->bytes + b->size, bytes, count);
    b->size += count;
}
/* 'value' as kind and size say, in either order of bytes */
static void add_value(buffer *b, char kind, int bytes, double value, bool big)
{
    unsigned char raw[8] = {0};
    if (kind == 'F' && bytes == 4) {
        const float f = (float)value;
        memcpy(raw, &f, 4);
    } else if (kind == 'F') {
        memcpy(raw, &value, 8);
    } else {
        const int64_t whole = (int64_t)value;
        memcpy(raw, &whole, 8); /* two's complement: the low bytes are the value */
    }
    for (int i = 0; i < bytes; i++) add_bytes(b, &raw[big ? bytes - 1 - i : i], 1);
}

/* A stream of literals is a stream, too: an encoder of two lines to test the decoder's user. */
static void add_stored(buffer *b, const unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i += 32) {
        const size_t run = count - i < 32 ? count - i : 32;
        const unsigned char control = (unsigned char)(run - 1);
        add_bytes(b, &control, 1);
        add_bytes(b, bytes + i, run);
    }
}

typedef struct field {
    const char *name;
    char kind;
    int bytes, count;
} field;

/* Every kind and size there is; only five of them are columns. */
static const field fields[] = {
    {"_", 'U', 1, 3},      {"x", 'F', 8, 1},         {"label", 'U', 8, 1}, {"y", 'F', 4, 1}, {"z", 'I', 2, 1},
    {"normal", 'F', 4, 3}, {"Intensity", 'U', 2, 1}, {"ring", 'U', 1, 1},  {"a", 'I', 1, 1}, {"b", 'I', 4, 1},
    {"c", 'I', 8, 1},      {"d", 'U', 4, 1},         {"time", 'F', 8, 1}};
enum { FIELDS = sizeof fields / sizeof *fields, POINTS = 7 };

static double value_of(int point, int f, int n)
{
    switch (fields[f].name[0]) {
    case 'x':
        return -3.25 + point;
    case 'y':
        return 100.5 * point;
    case 'z':
        return point % 2 ? -300 - point : 300 + point;
    case 'I':
        return 65535 - point;
    case 'r':
        return 200 + point;
    default:
        return fields[f].kind == 'U' ? 3 * point + n : 7 - 2 * point + n;
    }
}

static void assert_points(const sv_points *p, const char *layout)
{
    ck_assert_int_eq(p->count, POINTS);
    ck_assert_int_eq(p->dropped, 0);
    ck_assert_str_eq(p->layout, layout);
    ck_assert_int_eq(p->columns, (int)strlen(layout));
    for (int i = 0; i < POINTS; i++)
        for (int k = 0; k < p->columns; k++) {
            const int f = layout[k] == 'x'   ? 1
                          : layout[k] == 'y' ? 3
                          : layout[k] == 'z' ? 4
                          : layout[k] == 'i' ? 6
                                             : 7;
            ck_assert_msg(p->data[i * p->columns + k] == (float)value_of(i, f, 0), "point %d column %d: %g",
                          i, k, (double)p->data[i * p->columns + k]);
        }
}

static void pcd_header(buffer *b, const char *data)
{
    b->size = 0;
    add_text(b, "# .PCD v0.7 - made here\n# and another remark\nVERSION 0.7\nFIELDS");
    for (int f = 0; f < FIELDS; f++) add_text(b, " %s", fields[f].name);
    add_text(b, "\nSIZE");
    for (int f = 0; f < FIELDS; f++) add_text(b, " %d", fields[f].bytes);
    add_text(b, "\nTYPE");
    for (int f = 0; f < FIELDS; f++) add_text(b, " %c", fields[f].kind);
    add_text(b, "\nCOUNT");
    for (int f = 0; f < FIELDS; f++) add_text(b, " %d", fields[f].count);
    add_text(b, "\nWIDTH %d\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS %d\nDATA %s\n", POINTS, POINTS, data);
}

static void make_pcd(buffer *b, const char *data)
{
    pcd_header(b, data);
    if (strcmp(data, "ascii") == 0) {
        for (int i = 0; i < POINTS; i++) {
            for (int f = 0; f < FIELDS; f++)
                for (int n = 0; n < fields[f].count; n++) add_text(b, "%.10g ", value_of(i, f, n));
            add_text(b, i % 2 ? "\r\n" : "\n");
        }
    } else if (strcmp(data, "binary") == 0) {
        for (int i = 0; i < POINTS; i++)
            for (int f = 0; f < FIELDS; f++)
                for (int n = 0; n < fields[f].count; n++)
                    add_value(b, fields[f].kind, fields[f].bytes, value_of(i, f, n), false);
    } else {
        static buffer columns, packed;
        columns.size = packed.size = 0;
        for (int f = 0; f < FIELDS; f++)
            for (int i = 0; i < POINTS; i++)
                for (int n = 0; n < fields[f].count; n++)
                    add_value(&columns, fields[f].kind, fields[f].bytes, value_of(i, f, n), false);
        add_stored(&packed, columns.bytes, columns.size);
        add_value(b, 'U', 4, (double)packed.size, false);
        add_value(b, 'U', 4, (double)columns.size, false);
        add_bytes(b, packed.bytes, packed.size);
    }
}

START_TEST(pcd_of_every_kind)
{
    static const char *const kinds[] = {"ascii", "binary", "binary_compressed"};
    static buffer b;
    sv_ctx *c = test_context(1);
    sv_points p;
    make_pcd(&b, kinds[_i]);
    static const char *const layouts[] = {"xyz", "xyzi", "xyzir"};
    for (int k = 0; k < 3; k++) {
        assert_ok(c, sv_points_parse(c, b.bytes, b.size, "made", layouts[k], &p));
        assert_points(&p, layouts[k]);
        sv_points_free(&p);
    }
    assert_ok(c, sv_points_parse(c, b.bytes, b.size, "made", NULL, &p)); /* what there is */
    assert_points(&p, "xyzir");
    sv_points_free(&p);
    /* by content, whatever it is called */
    write_file(test_path("cloud.bin"), b.bytes, b.size);
    assert_ok(c, sv_points_read(c, test_path("cloud.bin"), "xyzi", &p));
    assert_points(&p, "xyzi");
    sv_points_free(&p);
    assert_fails(c, sv_points_parse(c, b.bytes, b.size, "made", "xyzie", &p), SV_BAD_INPUT,
                 "made: no field is named elongation; the file has: _ x label y z normal Intensity ring");
    ck_assert_ptr_null(p.data);
    /* a time of day is no lag, so it is none of our columns */
    assert_fails(c, sv_points_parse(c, b.bytes, b.size, "made", "xyzit", &p), SV_BAD_INPUT, "time_lag, lag");
    assert_fails(c, sv_points_parse(c, b.bytes, b.size, "made", "xyzi:f16", &p), SV_USAGE, "leave :f16 out");
    assert_ok(c, sv_points_read_least(c, test_path("cloud.bin"), "xyzie", 4, &p));
    ck_assert(p.columns == 5 && p.count == POINTS);
    for (int i = 0; i < POINTS; i++)
        ck_assert(p.data[5 * i + 3] == (float)(65535 - i) && p.data[5 * i + 4] == 0);
    sv_points_free(&p);
    /* cut anywhere: one sentence, and no harm */
    const size_t end =
        _i == 0 ? b.size - 4 : b.size; /* what follows the last value of a text may be missing */
    for (size_t cut = 8; cut < end; cut++) {
        ck_assert_msg(sv_points_parse(c, b.bytes, cut, "cut", "xyzi", &p) == SV_BAD_INPUT,
                      "cut at %zu of %zu", cut, b.size);
        ck_assert_ptr_null(p.data);
        sv_error_clear(c);
    }
    sv_ctx_close(c);
}
END_TEST

/* Edits of a header that must each be refused with these words. */
static void try_edits(sv_ctx *c, const buffer *b, const char *const (*edits)[3], int count)
{
    static buffer changed;
    for (int i = 0; i < count; i++) {
        const char *at = strstr((const char *)b->bytes, edits[i][0]);
        ck_assert_msg(at != NULL, "'%s' is not in the header", edits[i][0]);
        const size_t before = (size_t)(at - (const char *)b->bytes), old = strlen(edits[i][0]);
        changed.size = 0;
        add_bytes(&changed, b->bytes, before);
        add_text(&changed, "%s", edits[i][1]);
        add_bytes(&changed, b->bytes + before + old, b->size - before - old);
        sv_points p;
        const sv_status status = sv_points_parse(c, changed.bytes, changed.size, "edited", "xyzi", &p);
        ck_assert_msg(status == SV_BAD_INPUT || status == SV_UNSUPPORTED, "'%s' is accepted", edits[i][1]);
        ck_assert_msg(strstr(sv_error_message(c), edits[i][2]), "'%s' gives: %s", edits[i][1],
                      sv_error_message(c));
        ck_assert_ptr_null(p.data);
        sv_error_clear(c);
    }
}

START_TEST(pcd_headers_that_lie)
{
    static buffer b;
    sv_ctx *c = test_context(1);
    make_pcd(&b, "binary");
    static const char *const edits[][3] = {
        {"WIDTH 7", "WIDTH 8", "POINTS is 7, but WIDTH 8 x HEIGHT 1 is 8"},
        {"WIDTH 7\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 7", "WIDTH 8\nHEIGHT 1\nPOINTS 8",
         "8 points of 65 bytes need 520"},
        {"WIDTH 7\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 7", "WIDTH 6", "6 points of 65 bytes need 390"},
        {"WIDTH 7\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 7", "WIDTH 1099511627776\nHEIGHT 1099511627776",
         "is too large"},
        {"WIDTH 7\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 7", "WIDTH 4294967296",
         "at most 2097152 are read"},
        {"WIDTH 7", "WIDTH -7", "WIDTH of the PCD header is not one whole number"},
        {"WIDTH 7", "WIDTH 99999999999999999999999", "WIDTH of the PCD header is not one whole number"},
        {"WIDTH 7", "WIDTH 7 7", "WIDTH of the PCD header is not one whole number"},
        {"WIDTH 7", "WIDTH", "WIDTH of the PCD header is not one whole number"},
        {"WIDTH 7\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 7\n", "", "lacks WIDTH"},
        {"FIELDS _ x", "FIELDS x", "SIZE has 13 entries for 12 fields"},
        {"FIELDS _ x", "FIELDS _ q x", "SIZE has 13 entries for 14 fields"},
        {"FIELDS", "FIELD", "'FIELD' is no line of a PCD header"},
        {"FIELDS _ x", "SIZE 4\nFIELDS _ x", "does not begin with FIELDS"},
        {"SIZE 1 8 8", "FIELDS a\nSIZE 1 8 8", "FIELDS twice"},
        {"SIZE 1 8 8", "SIZE 1 3 8", "SIZE '3' of field 'x' is not possible"},
        {"SIZE 1 8 8", "SIZE 1 0 8", "SIZE '0' of field 'x' is not possible"},
        {"SIZE 1 8 8", "SIZE 1 2 8", "field 'x' has floats of 2 bytes"},
        {"TYPE U F", "TYPE U G", "TYPE 'G' of field 'x' is not I, U or F"},
        {"TYPE U F", "TYPE U FF", "TYPE 'FF' of field 'x'"},
        {"COUNT 3 1", "COUNT 3 0", "COUNT '0' of field 'x' is not possible"},
        {"COUNT 3 1 1", "COUNT 3 65536 65536", "more than 1048576 bytes"},
        {"COUNT 3 1", "COUNT 99999999 1", "COUNT '99999999' of field '_' is not possible"},
        {"DATA binary", "DATA binary_squeezed", "DATA 'binary_squeezed' is not ascii"},
        {"DATA binary", "DATA", "DATA '' is not ascii"},
        {"DATA binary", "DATA binary_compressed", "the compressed data holds"},
        {"DATA binary", "DATE binary", "'DATE' is no line of a PCD header"},
    };
    try_edits(c, &b, edits, sizeof edits / sizeof *edits);
    static const char *const lacks[][3] = {{"SIZE 1 8 8 4 2 4 2 1 1 4 8 4 8\n", "", "lacks SIZE"},
                                           {"TYPE U F U F I F U U I I I U F\n", "", "lacks TYPE"}};
    try_edits(c, &b, lacks, 2);

    make_pcd(&b, "ascii");
    static const char *const text[][3] = {
        {"WIDTH 7\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 7", "WIDTH 8", "7 points, the header says 8"},
        {"WIDTH 7\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 7", "WIDTH 6", "more lines than the 6 points"},
        {"WIDTH 7\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 7", "WIDTH 2000000",
         "the header says 2000000 points, but only"},
        {"-3.25", "-3.2.5", "point 1: '-3.2.5' is no number"},
        {"-3.25", "0x3", "point 1: '0x3' is no number"},
        {"-3.25", "1_0", "point 1: '1_0' is no number"},
        {"-3.25", "-3.25 0", "point 1 has 18 values, the header says 17"},
        {"-3.25", "", "point 1 has 16 values, the header says 17"},
        {"COUNT 3 1", "COUNT 2 1", "point 1 has 17 values, the header says 16"},
    };
    try_edits(c, &b, text, sizeof text / sizeof *text);
    sv_ctx_close(c);
}
END_TEST

START_TEST(pcd_compressed_data_that_lies)
{
    static buffer b;
    sv_ctx *c = test_context(1);
    make_pcd(&b, "binary_compressed");
    const size_t sizes = (size_t)(strstr((char *)b.bytes, "binary_compressed\n") - (char *)b.bytes) + 18;
    sv_points p;
    unsigned char *at = b.bytes + sizes;
    const unsigned char first = at[0];
    at[3] = 0x7f;
    assert_fails(c, sv_points_parse(c, b.bytes, b.size, "lie", "xyz", &p), SV_BAD_INPUT,
                 "lie: cut off: the compressed");
    at[3] = 0;
    at[0] = (unsigned char)(first - 1);
    assert_fails(c, sv_points_parse(c, b.bytes, b.size, "lie", "xyz", &p), SV_BAD_INPUT, "is damaged");
    at[0] = 2, at[1] = 0;
    assert_fails(c, sv_points_parse(c, b.bytes, b.size, "lie", "xyz", &p), SV_BAD_INPUT,
                 "2 compressed bytes cannot hold 455");
    at[0] = first, at[4] ^= 1, at[1] = (unsigned char)((b.size - sizes - 8) >> 8);
    assert_fails(c, sv_points_parse(c, b.bytes, b.size, "lie", "xyz", &p), SV_BAD_INPUT,
                 "the compressed data holds 454 bytes, 7 points of 65 bytes need 455");
    at[4] ^= 1;
    /* a reference to before the beginning, a literal beyond the end */
    at[8] = 0x20, at[9] = 0xff;
    assert_fails(c, sv_points_parse(c, b.bytes, b.size, "lie", "xyz", &p), SV_BAD_INPUT, "is damaged");
    sv_ctx_close(c);
}
END_TEST

/* ---- PLY ---------------------------------------------------------------------------------------------- */

static const char *ply_type(char kind, int bytes, bool new_names)
{
    static const char *const old[] = {"char", "uchar", "short", "ushort", "int", "uint", "float", "double"},
                             *const fresh[] = {"int8",  "uint8",  "int16",   "uint16",
                                               "int32", "uint32", "float32", "float64"};
    const int which = kind == 'F' ? (bytes == 4 ? 6 : 7)
                                  : 2 * (bytes == 1   ? 0
                                         : bytes == 2 ? 1
                                                      : 2) +
                                        (kind == 'U');
    return new_names ? fresh[which] : old[which];
}

/* Before the points: an element of fixed size and one with lists; among their properties a list; behind them faces. */
static void make_ply(buffer *b, const char *format, bool new_names)
{
    const bool text = strcmp(format, "ascii") == 0, big = strcmp(format, "binary_big_endian") == 0;
    b->size = 0;
    add_text(b,
             "ply\ncomment made here\nformat %s 1.0\nobj_info nothing\nelement camera 2\nproperty %s f\n"
             "property %s id\nelement strip 3\nproperty list %s %s places\nproperty uchar end\nelement "
             "vertex %d\n",
             format, ply_type('F', 8, new_names), ply_type('I', 2, new_names), ply_type('U', 1, new_names),
             ply_type('I', 4, new_names), POINTS);
    for (int f = 0; f < FIELDS; f++) {
        if (fields[f].bytes == 8 && fields[f].kind != 'F') continue; /* PLY has no such */
        if (fields[f].count > 1)
            add_text(b, "property list %s %s %s\n", ply_type('U', 2, new_names),
                     ply_type(fields[f].kind, fields[f].bytes, new_names), fields[f].name);
        else
            add_text(b, "property %s %s\n", ply_type(fields[f].kind, fields[f].bytes, new_names),
                     fields[f].name);
    }
    add_text(b, "element face 1\nproperty list uchar int vertex_indices\nend_header\n");
    for (int i = 0; i < 2; i++)
        if (text) {
            add_text(b, "%g %d\n", 700.5, i);
        } else {
            add_value(b, 'F', 8, 700.5, big);
            add_value(b, 'I', 2, i, big);
        }
    for (int i = 0; i < 3; i++) { /* i numbers */
        if (text)
            add_text(b, "%d", i);
        else
            add_value(b, 'U', 1, i, big);
        for (int k = 0; k < i; k++)
            if (text)
                add_text(b, " %d", k);
            else
                add_value(b, 'I', 4, k, big);
        if (text)
            add_text(b, " 9\n");
        else
            add_value(b, 'U', 1, 9, big);
    }
    for (int i = 0; i < POINTS; i++) {
        for (int f = 0; f < FIELDS; f++) {
            if (fields[f].bytes == 8 && fields[f].kind != 'F') continue;
            const int count = fields[f].count > 1 ? (fields[f].count + i) % 5 : 1;
            if (fields[f].count > 1 && text) add_text(b, "%d ", count);
            if (fields[f].count > 1 && !text) add_value(b, 'U', 2, count, big);
            for (int n = 0; n < count; n++)
                if (text)
                    add_text(b, "%.10g ", value_of(i, f, n));
                else
                    add_value(b, fields[f].kind, fields[f].bytes, value_of(i, f, n), big);
        }
        if (text) add_text(b, "\n");
    }
    if (text)
        add_text(b, "3 0 1 2\n");
    else
        add_bytes(b, "\3\0\0\0\0\0\0\0\0\0\0\0\0", 13);
}

START_TEST(ply_of_every_kind)
{
    static const char *const kinds[] = {"ascii", "binary_little_endian", "binary_big_endian"};
    static buffer b;
    sv_ctx *c = test_context(1);
    sv_points p;
    for (int names = 0; names < 2; names++) {
        make_ply(&b, kinds[_i], names == 1);
        assert_ok(c, sv_points_parse(c, b.bytes, b.size, "made", "xyzi", &p));
        assert_points(&p, "xyzi");
        sv_points_free(&p);
        assert_ok(c, sv_points_parse(c, b.bytes, b.size, "made", NULL, &p));
        assert_points(&p, "xyzir");
        sv_points_free(&p);
    }
    assert_fails(c, sv_points_parse(c, b.bytes, b.size, "made", "xyzie", &p), SV_BAD_INPUT,
                 "made: no field is named elongation");
    ck_assert_ptr_null(p.data);
    const size_t faces = _i == 0 ? 8 + 4 : 13; /* what comes behind the points is not looked at */
    for (size_t cut = 4; cut < b.size - faces; cut++) {
        ck_assert_msg(sv_points_parse(c, b.bytes, cut, "cut", "xyzi", &p) == SV_BAD_INPUT,
                      "cut at %zu of %zu", cut, b.size);
        ck_assert_ptr_null(p.data);
        sv_error_clear(c);
    }
    sv_ctx_close(c);
}
END_TEST

START_TEST(ply_headers_that_lie)
{
    static buffer b;
    sv_ctx *c = test_context(1);
    make_ply(&b, "binary_little_endian", false);
    static const char *const edits[][3] = {
        {"element vertex 7", "element vertex 2000000",
         "the header says 2000000 of element 'vertex', but only"},
        {"element vertex 7", "element vertex 99999999999999999999", "no 'element NAME COUNT'"},
        {"element vertex 7", "element vertex", "no 'element NAME COUNT'"},
        {"element vertex 7", "element points 7", "has no element 'vertex'"},
        {"element vertex 7", "element vertex 8", "cut off in item 8 of element 'vertex'"},
        {"element camera 2", "element camera 1000000000000",
         "the header says 1000000000000 of element 'camera'"},
        {"element camera 2\nproperty double f\nproperty short id\n", "element camera 2\n",
         "the header says 2 of element 'camera'"},
        {"element strip 3", "element strip 500", "of element 'strip'"},
        {"property double x", "property real x", "no '[list COUNT] TYPE NAME' (near 'real')"},
        {"property double x", "property double", "no '[list COUNT] TYPE NAME'"},
        {"property double x", "property double x y", "no '[list COUNT] TYPE NAME'"},
        {"property list uchar int places", "property list float int places", "no '[list COUNT] TYPE NAME'"},
        {"property list uchar int places", "property list int int places", "element 'strip'"},
        {"binary_little_endian 1.0", "binary_little_endian 2.0", "is not ascii, binary_little_endian"},
        {"binary_little_endian 1.0", "binary_middle_endian 1.0", "'binary_middle_endian' is not ascii"},
        {"format binary_little_endian 1.0\n", "", "lacks a line 'format'"},
        {"comment made", "remark made", "'remark' is no line of a PLY header"},
        {"ply\n", "ply\nproperty float x\n", "stands before the first element"},
        {"end_header", "end", "'end' is no line of a PLY header"},
    };
    try_edits(c, &b, edits, sizeof edits / sizeof *edits);
    make_ply(&b, "ascii", false);
    static const char *const text[][3] = {
        {"element vertex 7", "element vertex 8", "item 8 of element 'vertex' has too"},
        {"element face 1\nproperty list uchar int vertex_indices\n", "", "x"},
        {"element vertex 7", "element vertex 100000", "the header says 100000 of element 'vertex'"},
        {"700.5 1\n", "700.5\n", "item 2 of element 'camera' has too few values"},
        {"700.5 1\n", "700.5 1 1\n", "item 2 of element 'camera' has too many values"},
        {"2 0 1 9\n", "-2 0 1 9\n", "item 3 of element 'strip' has a list whose length is not possible"},
        {"2 0 1 9\n", "99 0 1 9\n", "item 3 of element 'strip'"},
        {"-3.25", "three", "item 1 of element 'vertex' has a value that is no number"},
    };
    try_edits(c, &b, text, 1);
    try_edits(c, &b, text + 2, sizeof text / sizeof *text - 2);
    sv_ctx_close(c);
}
END_TEST

/* ---- writing ------------------------------------------------------------------------------------------ */

START_TEST(what_is_written_reads_back)
{
    static const char *const layouts[] = {"xyz", "xyzi", "xyzir", "xyzit", "xyzie"};
    static const struct {
        const char *name;
        sv_points_encoding encoding;
    } files[] = {{"a.bin", SV_POINTS_BINARY}, {"a.npy", SV_POINTS_BINARY},     {"a.pcd", SV_POINTS_BINARY},
                 {"b.pcd", SV_POINTS_ASCII},  {"c.pcd", SV_POINTS_COMPRESSED}, {"a.ply", SV_POINTS_BINARY},
                 {"b.ply", SV_POINTS_ASCII}};
    sv_ctx *c = test_context(1);
    test_rng rng = {5};
    for (int l = 0; l < 5; l++)
        for (int count = 0; count < 1000; count = count ? count * 30 + 3 : 1) {
            sv_points p = {.count = count, .columns = (int)strlen(layouts[l])}, q;
            memcpy(p.layout, layouts[l], strlen(layouts[l]));
            const size_t values = (size_t)count * (size_t)p.columns;
            p.data = malloc(sizeof(float) * (values + 1));
            for (size_t i = 0; i < values; i++) {
                /* any finite float: denormals, -0 and the greatest, too */
                do {
                    const uint32_t bits = i % 3 ? (uint32_t)rng_u64(&rng) : 0x80000000u;
                    memcpy(&p.data[i], &bits, 4);
                } while (!isfinite(p.data[i]));
            }
            for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
                assert_ok(c, sv_points_write(c, test_path(files[f].name), &p, files[f].encoding));
                const bool named = strstr(files[f].name, ".p") != NULL;
                assert_ok(c, sv_points_read(c, test_path(files[f].name), named ? NULL : layouts[l], &q));
                ck_assert_str_eq(q.layout, layouts[l]);
                ck_assert(q.count == count && q.columns == p.columns && q.dropped == 0);
                ck_assert_msg(count == 0 || memcmp(p.data, q.data, sizeof(float) * values) == 0, "%s",
                              files[f].name);
                sv_points_free(&q);
            }
            free(p.data);
        }
    sv_points none = {.columns = 4};
    assert_fails(c, sv_points_write(c, test_path("a.bin"), &none, SV_POINTS_BINARY), SV_USAGE, "layout");
    memcpy(none.layout, "xyzi", 4);
    assert_fails(c, sv_points_write(c, test_path("a.xyz"), &none, SV_POINTS_BINARY), SV_USAGE,
                 ".bin, .npy, .pcd or .ply");
    assert_fails(c, sv_points_write(c, test_path("n.bin"), &none, SV_POINTS_ASCII), SV_USAGE,
                 "always binary");
    assert_fails(c, sv_points_write(c, test_path("n.npy"), &none, SV_POINTS_ASCII), SV_USAGE,
                 "always binary");
    assert_fails(c, sv_points_write(c, test_path("n.ply"), &none, SV_POINTS_COMPRESSED), SV_USAGE,
                 "no compression");
    size_t size = 0;
    ck_assert_ptr_null(read_file(test_path("n.ply"), &size)); /* nothing is left behind */
    sv_ctx_close(c);
}
END_TEST

START_TEST(points_that_are_not_finite)
{
    sv_ctx *c = test_context(1);
    sv_points p;
    static const char pcd[] = "VERSION .7\nFIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nWIDTH 2\nHEIGHT 2\n"
                              "DATA ascii\n1 2 3 nan\nnan 2 3 0\n4 -inf 6 0\n\n1e99 5 6 0";
    assert_ok(c, sv_points_parse(c, pcd, strlen(pcd), "nan", "xyz", &p));
    ck_assert(p.count == 1 && p.dropped == 3 && p.data[2] == 3); /* what is no column may be NaN */
    sv_points_free(&p);
    static const char ply[] =
        "ply\r\nformat ascii 1.0\r\nelement vertex 2\r\nproperty float x\r\nproperty float y\r\n"
        "property float z\r\nend_header\r\n1 2 NaN\r\n1 2 3";
    assert_ok(c, sv_points_parse(c, ply, strlen(ply), "nan", NULL, &p));
    ck_assert(p.count == 1 && p.dropped == 1);
    ck_assert_str_eq(p.layout, "xyz");
    sv_points_free(&p);
    static const char empty[] =
        "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 0\nHEIGHT 1\nDATA binary_compressed\n";
    assert_ok(c, sv_points_parse(c, empty, strlen(empty), "empty", "xyz", &p));
    ck_assert(p.count == 0 && p.columns == 3);
    sv_points_free(&p);
    sv_ctx_close(c);
}
END_TEST

/* ---- LZF ---------------------------------------------------------------------------------------------- */

START_TEST(lzf_streams_by_hand)
{
    unsigned char out[64];
    /* "abc", then three from three back, then nine from one back */
    static const unsigned char stream[] = {2, 'a', 'b', 'c', 1 << 5, 2, 7 << 5, 0, 0};
    ck_assert(sv_lzf_expand(stream, sizeof stream, out, 15));
    ck_assert(memcmp(out, "abcabcccccccccc", 15) == 0);
    ck_assert(!sv_lzf_expand(stream, sizeof stream, out, 14));
    ck_assert(!sv_lzf_expand(stream, sizeof stream, out, 16));
    for (size_t cut = 1; cut < sizeof stream; cut++) /* where a part ends, the output is too short */
        ck_assert(!sv_lzf_expand(stream, cut, out, 15));
    static const unsigned char before[] = {0, 'a', 1 << 5, 1};
    ck_assert(!sv_lzf_expand(before, sizeof before, out, 4));
    ck_assert(sv_lzf_expand(before, 0, out, 0));
}
END_TEST

START_TEST(lzf_there_and_back)
{
    test_rng rng = {77};
    for (int round = 0; round < 60; round++) {
        const size_t size = round < 20 ? (size_t)round : (size_t)(rng_u64(&rng) % 40000);
        unsigned char *in = malloc(size + 1), *packed = malloc(sv_lzf_room(size)), *out = malloc(size + 1);
        const unsigned letters = round % 3 == 0 ? 256 : round % 3 == 1 ? 4 : 1;
        for (size_t i = 0; i < size; i++)
            in[i] = i > 9000 && round % 4 == 0 ? in[i - 8192] : (unsigned char)(rng_u64(&rng) % letters);
        const size_t n = sv_lzf_pack(in, size, packed);
        ck_assert(n <= sv_lzf_room(size) && size <= SV_LZF_MOST(n));
        if (letters == 1 && size > 1000) ck_assert(n < size / 50);
        ck_assert(sv_lzf_expand(packed, n, out, size));
        ck_assert(memcmp(in, out, size) == 0);
        for (int damage = 0; damage < 20 && n > 0; damage++) { /* it may fit by chance; it must not harm */
            packed[rng_u64(&rng) % n] ^= (unsigned char)(1u << rng_u64(&rng) % 8);
            sv_lzf_expand(packed, n, out, size);
            sv_lzf_expand(packed, n, out, size / 2);
        }
        free(in), free(packed), free(out);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("points_files");
    TCase *tests = tcase_create("points_files");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, pcd_of_every_kind, 0, 3);
    tcase_add_test(tests, pcd_headers_that_lie);
    tcase_add_test(tests, pcd_compressed_data_that_lies);
    tcase_add_loop_test(tests, ply_of_every_kind, 0, 3);
    tcase_add_test(tests, ply_headers_that_lie);
    tcase_add_test(tests, what_is_written_reads_back);
    tcase_add_test(tests, points_that_are_not_finite);
    tcase_add_test(tests, lzf_streams_by_hand);
    tcase_add_test(tests, lzf_there_and_back);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
