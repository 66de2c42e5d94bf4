/* SPDX-License-Identifier: Apache-2.0
 *
 * Point clouds into files; points.h describes the kinds, points_pcd.c and points_ply.c the formats.
 */
#include "points.h"

#include "lzf.h"
#include "perception/core/file.h"
#include "perception/core/text.h"

#include <stdlib.h>
#include <string.h>

/* A column's name in files, as our readers, PCL and CloudCompare know it. */
static const char *column_name(char letter)
{
    switch (letter) {
    case 'x':
        return "x";
    case 'y':
        return "y";
    case 'z':
        return "z";
    case 'i':
        return "intensity";
    case 'r':
        return "ring";
    case 't':
        return "time_lag";
    default:
        return "elongation";
    }
}

static void write_text(FILE *to, const sv_points *p)
{
    char text[SV_NUMBER_TEXT];
    for (int i = 0; i < p->count; i++)
        for (int k = 0; k < p->columns; k++) {
            sv_text_from_float(text, p->data[(size_t)i * (size_t)p->columns + (size_t)k]);
            fprintf(to, "%s%c", text, k + 1 < p->columns ? ' ' : '\n');
        }
}

static void write_binary(FILE *to, const sv_points *p)
{
    fwrite(p->data, sizeof(float) * (size_t)p->columns, (size_t)p->count, to);
}

/* The columns one behind the other, as LZF; the two sizes first. */
static sv_status write_compressed(sv_ctx *c, const char *path, FILE *to, const sv_points *p)
{
    const size_t count = (size_t)p->count, columns = (size_t)p->columns,
                 size = count * columns * sizeof(float);
    float *by_column = malloc(size + 1);
    unsigned char *packed = malloc(sv_lzf_room(size));
    if (!by_column || !packed) {
        free(by_column);
        free(packed);
        return SV_FAIL(c, SV_NO_MEMORY, "%s: no memory to compress %zu bytes", path, size);
    }
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < columns; k++) by_column[k * count + i] = p->data[i * columns + k];
    const uint32_t sizes[2] = {(uint32_t)sv_lzf_pack((const unsigned char *)by_column, size, packed),
                               (uint32_t)size};
    fwrite(sizes, sizeof sizes, 1, to);
    fwrite(packed, 1, sizes[0], to);
    free(by_column);
    free(packed);
    return SV_OK;
}

static sv_status write_pcd(sv_ctx *c, const char *path, FILE *to, const sv_points *p,
                           sv_points_encoding encoding)
{
    static const char *const kinds[] = {"binary", "ascii", "binary_compressed"};
    fprintf(to, "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS");
    for (int k = 0; k < p->columns; k++) fprintf(to, " %s", column_name(p->layout[k]));
    fprintf(to, "\nSIZE");
    for (int k = 0; k < p->columns; k++) fprintf(to, " 4");
    fprintf(to, "\nTYPE");
    for (int k = 0; k < p->columns; k++) fprintf(to, " F");
    fprintf(to, "\nCOUNT");
    for (int k = 0; k < p->columns; k++) fprintf(to, " 1");
    fprintf(to, "\nWIDTH %d\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS %d\nDATA %s\n", p->count, p->count,
            kinds[encoding]);
    if (encoding == SV_POINTS_COMPRESSED) return write_compressed(c, path, to, p);
    if (encoding == SV_POINTS_ASCII)
        write_text(to, p);
    else
        write_binary(to, p);
    return SV_OK;
}

static sv_status write_ply(sv_ctx *c, const char *path, FILE *to, const sv_points *p,
                           sv_points_encoding encoding)
{
    SV_CHECK(c, encoding != SV_POINTS_COMPRESSED, SV_USAGE,
             "%s: PLY knows no compression; .pcd does, or take binary or ascii", path);
    fprintf(to, "ply\nformat %s 1.0\nelement vertex %d\n",
            encoding == SV_POINTS_ASCII ? "ascii" : "binary_little_endian", p->count);
    for (int k = 0; k < p->columns; k++) fprintf(to, "property float %s\n", column_name(p->layout[k]));
    fprintf(to, "end_header\n");
    if (encoding == SV_POINTS_ASCII)
        write_text(to, p);
    else
        write_binary(to, p);
    return SV_OK;
}

static sv_status write_npy(sv_ctx *c, const char *path, FILE *to, const sv_points *p,
                           sv_points_encoding encoding)
{
    SV_CHECK(c, encoding == SV_POINTS_BINARY, SV_USAGE, "%s: an .npy file is always binary", path);
    /* magic, version, length of the header: 10 bytes; the header fills up to 128 */
    char header[118];
    const int used =
        snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }",
                 p->count, p->columns);
    memset(header + used, ' ', sizeof header - (size_t)used - 1);
    header[sizeof header - 1] = '\n';
    static const unsigned char start[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, sizeof header, 0};
    fwrite(start, sizeof start, 1, to);
    fwrite(header, sizeof header, 1, to);
    write_binary(to, p);
    return SV_OK;
}

static sv_status write_raw(sv_ctx *c, const char *path, FILE *to, const sv_points *p,
                           sv_points_encoding encoding)
{
    SV_CHECK(c, encoding == SV_POINTS_BINARY, SV_USAGE, "%s: a .bin file is always binary", path);
    write_binary(to, p);
    return SV_OK;
}

sv_status sv_points_write(sv_ctx *c, const char *path, const sv_points *points, sv_points_encoding encoding)
{
    static const struct {
        const char *ending;
        sv_status (*write)(sv_ctx *c, const char *path, FILE *to, const sv_points *p,
                           sv_points_encoding encoding);
    } kinds[] = {{".bin", write_raw}, {".npy", write_npy}, {".pcd", write_pcd}, {".ply", write_ply}};
    const size_t length = strlen(path);
    int kind = -1;
    for (int i = 0; i < 4; i++)
        if (length > 4 && strcmp(path + length - 4, kinds[i].ending) == 0) kind = i;
    SV_CHECK(c, kind >= 0, SV_USAGE, "%s: points are written to .bin, .npy, .pcd or .ply", path);
    SV_CHECK(c, (int)strlen(points->layout) == points->columns, SV_USAGE,
             "%s: the layout of the points is not known", path);
    sv_output output;
    SV_TRY(sv_output_open(c, &output, path));
    sv_status status = kinds[kind].write(c, path, output.stream, points, encoding);
    if (status == SV_OK) status = sv_output_commit(c, &output);
    sv_output_discard(&output);
    return status;
}
