/* SPDX-License-Identifier: Apache-2.0
 *
 * An .npy file: "\x93NUMPY", version (major, minor), length of the header
 * (2 bytes in version 1, 4 bytes later), the header as a Python dictionary
 * {'descr': '<f4', 'fortran_order': False, 'shape': (N, C), }, then the values.
 */
#include "points.h"

#include "points_fields.h"

#include "perception/core/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char magic[6] = {'\x93', 'N', 'U', 'M', 'P', 'Y'};

typedef enum value_kind { F16 = 2, F32 = 4, F64 = 8 } value_kind; /* bytes of a value */

sv_status sv_points_layout(sv_ctx *c, const char *layout, int *columns, bool *half)
{
    static const char *const names[] = {"xyz", "xyzi", "xyzir", "xyzit", "xyzie"};
    *columns = 0;
    SV_CHECK(c, layout != NULL, SV_USAGE,
             "the layout of the points is not known: name it (xyz, xyzi, xyzir, xyzit, xyzie)");
    const size_t length = strcspn(layout, ":");
    const bool plain = layout[length] == '\0';
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == length && strncmp(names[i], layout, length) == 0 &&
            (plain || strcmp(layout + length, ":f16") == 0)) {
            *columns = (int)length;
            if (half) *half = !plain;
            return SV_OK;
        }
    return SV_FAIL(
        c, SV_USAGE,
        "'%.60s' is no point layout: xyz, xyzi, xyzir, xyzit, xyzie, each with :f16 for half floats", layout);
}

/* ---- values ------------------------------------------------------------------------------------------- */

static float half_to_float(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31u, fraction = h & 0x3ffu;
    uint32_t bits;
    if (exponent == 0) { /* zero and denormals: exact in float */
        const float value = ldexpf((float)fraction, -24);
        return sign ? -value : value;
    }
    if (exponent == 31)
        bits = sign | 0x7f800000u | fraction << 13;
    else
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float value_at(const unsigned char *p, value_kind kind)
{
    if (kind == F16) {
        uint16_t h;
        memcpy(&h, p, sizeof h);
        return half_to_float(h);
    }
    if (kind == F64) {
        double d;
        memcpy(&d, p, sizeof d);
        return (float)d; /* too large for float: infinite, and dropped */
    }
    float f;
    memcpy(&f, p, sizeof f);
    return f;
}

/* Float values of which every one is finite, the usual case: no exponent of all ones. */
static bool all_finite(const unsigned char *p, size_t values)
{
    uint32_t wrong = 0;
    for (size_t i = 0; i < values; i++) {
        uint32_t bits;
        memcpy(&bits, p + sizeof bits * i, sizeof bits);
        wrong |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return wrong == 0;
}

static sv_status take_points(sv_ctx *c, const unsigned char *p, size_t count, int columns, value_kind kind,
                             const char *name, sv_points *out)
{
    SV_CHECK(c, count <= SV_POINTS_MAX, SV_BAD_INPUT, "%s: %zu points, at most %d are read", name, count,
             SV_POINTS_MAX);
    float *data = malloc((count ? count : 1) * (size_t)columns * sizeof *data);
    SV_CHECK(c, data != NULL, SV_NO_MEMORY, "%s: no memory for %zu points", name, count);
    if (kind == F32 && all_finite(p, count * (size_t)columns)) {
        if (count > 0) memcpy(data, p, count * (size_t)columns * sizeof *data);
        *out = (sv_points){.data = data, .count = (int)count, .columns = columns};
        return SV_OK;
    }
    float *row = data;
    for (size_t i = 0; i < count; i++) {
        bool finite = true;
        for (int j = 0; j < columns; j++, p += kind) {
            row[j] = value_at(p, kind);
            finite = finite && isfinite(row[j]);
        }
        if (finite) row += columns;
    }
    const int kept = (int)((row - data) / columns);
    *out = (sv_points){.data = data, .count = kept, .columns = columns, .dropped = (int)count - kept};
    return SV_OK;
}

/* ---- .npy --------------------------------------------------------------------------------------------- */

/* The header's text, zero-terminated, and the read position in it. */
typedef struct header {
    char text[1024];
    char *at;
} header;

static void skip_spaces(header *h)
{
    h->at += strspn(h->at, " \t\r\n");
}
static bool accept(header *h, const char *word)
{
    skip_spaces(h);
    const size_t length = strlen(word);
    if (strncmp(h->at, word, length) != 0) return false;
    h->at += length;
    return true;
}
/* 'text' in either kind of quotes, without escapes. */
static bool quoted(header *h, char *out, size_t room)
{
    skip_spaces(h);
    const char quote = *h->at;
    if (quote != '\'' && quote != '"') return false;
    const char *end = strchr(h->at + 1, quote);
    const size_t length = end ? (size_t)(end - h->at - 1) : room;
    if (length >= room) return false;
    memcpy(out, h->at + 1, length);
    out[length] = '\0';
    h->at += length + 2;
    return true;
}
static bool whole(header *h, size_t *out)
{
    skip_spaces(h);
    size_t value = 0;
    int digits = 0;
    for (; *h->at >= '0' && *h->at <= '9'; h->at++, digits++) {
        if (digits == 15) return false;
        value = value * 10 + (size_t)(*h->at - '0');
    }
    *out = value;
    return digits > 0;
}

/* (1, 2): at most three dimensions are kept, more than that are none of ours anyway. */
static bool tuple(header *h, size_t dims[3], int *count)
{
    *count = 0;
    if (!accept(h, "(")) return false;
    while (!accept(h, ")")) {
        size_t value;
        if (*count == 3 || !whole(h, &value)) return false;
        dims[(*count)++] = value;
        if (!accept(h, ",") && *h->at != ')') return false;
    }
    return true;
}

static sv_status parse_npy(sv_ctx *c, const unsigned char *bytes, size_t size, const char *name, int columns,
                           bool half, sv_points *out)
{
    SV_CHECK(c, size >= 12, SV_BAD_INPUT, "%s: an .npy file cut off in its header", name);
    const int major = bytes[6];
    SV_CHECK(c, major >= 1 && major <= 3, SV_BAD_INPUT, "%s: .npy version %d is not known", name, major);
    const size_t start = major == 1 ? 10 : 12;
    size_t length = bytes[8] | (size_t)bytes[9] << 8;
    if (major > 1) length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    header h;
    SV_CHECK(c, length < sizeof h.text && length <= size - start, SV_BAD_INPUT,
             "%s: the .npy header claims %zu bytes, the file has %zu", name, length, size);
    memcpy(h.text, bytes + start, length);
    h.text[length] = '\0';
    h.at = h.text;
    char key[32], descr[32] = "";
    size_t dims[3] = {0};
    int ndim = -1, fortran = -1;
    bool good = accept(&h, "{");
    while (good && !accept(&h, "}")) {
        good = quoted(&h, key, sizeof key) && accept(&h, ":");
        if (!good) break;
        if (strcmp(key, "descr") == 0) {
            good = quoted(&h, descr, sizeof descr);
        } else if (strcmp(key, "fortran_order") == 0) {
            fortran = accept(&h, "True") ? 1 : accept(&h, "False") ? 0 : -1;
            good = fortran >= 0;
        } else {
            good = strcmp(key, "shape") == 0 && tuple(&h, dims, &ndim);
        }
        if (good && !accept(&h, ",")) {
            skip_spaces(&h);
            good = *h.at == '}';
        }
    }
    SV_CHECK(c, good && descr[0] && ndim >= 0 && fortran >= 0, SV_BAD_INPUT,
             "%s: the .npy header is not that of a plain array: '%.80s'", name, h.text);
    const value_kind kind = strcmp(descr, "<f2") == 0   ? F16
                            : strcmp(descr, "<f4") == 0 ? F32
                            : strcmp(descr, "<f8") == 0 ? F64
                                                        : (value_kind)0;
    SV_CHECK(c, kind != 0, SV_BAD_INPUT, "%s: the .npy values are '%s', points must be '<f4', '<f8' or '<f2'",
             name, descr);
    SV_CHECK(c, !half || kind == F16, SV_BAD_INPUT,
             "%s: the .npy values are '%s', the layout says half floats (:f16)", name, descr);
    SV_CHECK(c, ndim == 2, SV_BAD_INPUT,
             "%s: the .npy array has %d dimensions, points have 2 (points, columns)", name, ndim);
    SV_CHECK(c, (int64_t)dims[1] == columns, SV_BAD_INPUT,
             "%s: the .npy array has %zu columns, the layout has %d", name, dims[1], columns);
    SV_CHECK(c, !fortran || dims[0] <= 1, SV_BAD_INPUT,
             "%s: the .npy array is in Fortran order, save it in C order", name);
    SV_CHECK(c, dims[0] <= SV_POINTS_MAX, SV_BAD_INPUT, "%s: %zu points, at most %d are read", name, dims[0],
             SV_POINTS_MAX);
    const size_t wanted = dims[0] * (size_t)columns * kind, have = size - start - length;
    SV_CHECK(c, have == wanted, SV_BAD_INPUT,
             "%s: %zu bytes behind the .npy header, %zu points of %d columns need %zu", name, have, dims[0],
             columns, wanted);
    return take_points(c, bytes + start + length, dims[0], columns, kind, name, out);
}

/* ---- files -------------------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

bool sv_points_name(const char *path)
{
    return ends_with(path, ".bin") || ends_with(path, ".npy") || ends_with(path, ".pcd") ||
           ends_with(path, ".ply");
}

static sv_status parse(sv_ctx *c, const void *bytes, size_t size, const char *name, const char *layout,
                       int least, sv_points *out)
{
    *out = (sv_points){0};
    int columns = 0;
    bool half = false;
    if (layout) SV_TRY(sv_points_layout(c, layout, &columns, &half));
    if (least > columns) least = columns;
    const bool pcd = sv_points_is_pcd(bytes, size), ply = sv_points_is_ply(bytes, size);
    SV_CHECK(c, !half || !(pcd || ply), SV_USAGE,
             "%s: a PCD or PLY file says itself what its values are; leave :f16 out", name);
    if (pcd) return sv_points_parse_pcd(c, bytes, size, name, layout, least, out);
    if (ply) return sv_points_parse_ply(c, bytes, size, name, layout, least, out);
    static const char *const kinds[] = {".npy", ".pcd", ".ply"};
    const bool npy = size >= sizeof magic && memcmp(bytes, magic, sizeof magic) == 0;
    for (int i = 0; i < 3; i++)
        SV_CHECK(c, npy || !ends_with(name, kinds[i]) || size == 0, SV_BAD_INPUT,
                 "%s: does not start as %s %s file does", name, i ? "a" : "an", kinds[i]);
    SV_CHECK(c, layout, SV_USAGE,
             "%s: does not say what its columns are: name the layout (xyz, xyzi, xyzir, xyzit, xyzie)", name);
    sv_status status = SV_OK;
    if (npy) {
        status = parse_npy(c, bytes, size, name, columns, half, out);
    } else {
        const value_kind kind = half ? F16 : F32;
        const size_t point = (size_t)columns * kind;
        SV_CHECK(
            c, size % point == 0, SV_BAD_INPUT,
            "%s: %zu bytes are no whole number of points of %d columns ('%s', %zu bytes a point): is the "
            "layout another one?",
            name, size, columns, layout, point);
        status = take_points(c, bytes, size / point, columns, kind, name, out);
    }
    if (status == SV_OK) memcpy(out->layout, layout, (size_t)columns);
    return status;
}

sv_status sv_points_parse(sv_ctx *c, const void *bytes, size_t size, const char *name, const char *layout,
                          sv_points *out)
{
    return parse(c, bytes, size, name, layout, SV_POINTS_COLUMNS, out);
}

/* How large a file may be: PCD and PLY have columns of which nothing is known before they are read. */
static sv_status size_limit(sv_ctx *c, const char *path, int columns, size_t *limit)
{
    /* doubles are the widest values; a header is small */
    *limit = (size_t)SV_POINTS_MAX * (size_t)columns * F64 + 4096;
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode) || (uintmax_t)info.st_size <= *limit) return SV_OK;
    char start[8] = {0};
    FILE *file = fopen(path, "rb");
    SV_CHECK(c, file, SV_IO, "%s: cannot be opened", path);
    const size_t got = fread(start, 1, sizeof start, file);
    fclose(file);
    if (sv_points_is_pcd(start, got) || sv_points_is_ply(start, got)) {
        *limit = (size_t)1 << 30;
        SV_CHECK(c, (uintmax_t)info.st_size <= *limit, SV_BAD_INPUT,
                 "%s: %lld bytes; PCD and PLY files of at most %zu are read", path, (long long)info.st_size,
                 *limit);
        return SV_OK;
    }
    return SV_FAIL(c, SV_BAD_INPUT,
                   "%s: %lld bytes are more than %d points of %d columns, which is all that is read", path,
                   (long long)info.st_size, SV_POINTS_MAX, columns);
}

sv_status sv_points_read_least(sv_ctx *c, const char *path, const char *layout, int least, sv_points *out)
{
    *out = (sv_points){0};
    int columns = SV_POINTS_COLUMNS;
    if (layout) SV_TRY(sv_points_layout(c, layout, &columns, NULL));
    size_t limit = 0, size = 0;
    SV_TRY(size_limit(c, path, columns, &limit));
    void *bytes = NULL;
    SV_TRY(sv_file_read(c, path, limit, &bytes, &size));
    const sv_status status = parse(c, bytes, size, path, layout, least, out);
    free(bytes);
    return status;
}

sv_status sv_points_read(sv_ctx *c, const char *path, const char *layout, sv_points *out)
{
    return sv_points_read_least(c, path, layout, SV_POINTS_COLUMNS, out);
}

void sv_points_free(sv_points *points)
{
    free(points->data);
    *points = (sv_points){0};
}
