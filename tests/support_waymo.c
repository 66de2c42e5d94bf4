/* SPDX-License-Identifier: Apache-2.0 */
#include "support_waymo.h"

#include "datasets/tfrecord.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

void small_pose(double yaw, double x, double y, double out[16])
{
    const double m[16] = {cos(yaw), -sin(yaw), 0, x, sin(yaw), cos(yaw), 0, y, 0, 0, 1, 30, 0, 0, 0, 1};
    memcpy(out, m, sizeof m);
}

float small_range(int laser, int which, int row, int column)
{
    const int odd = (laser * 7 + row * 5 + column * 3 + which) % 11;
    if (odd == 0 || (which == 1 && odd % 3)) return -1;
    return 4.0f + (float)odd * 3.25f + (float)which;
}

float small_intensity(int laser, int row, int column)
{
    return 0.03f * (float)(laser + row + column);
}

void small_pixel_pose(const small_frame *frame, int row, int column, float out[6])
{
    /* the car drives on, and nods a little; rows of a column differ every other column */
    const double yaw = atan2(frame->pose[4], frame->pose[0]),
                 t = column / 100.0 + (column % 2 ? row / 1000.0 : 0);
    out[0] = (float)(0.01 * t);
    out[1] = (float)(-0.02 * t);
    out[2] = (float)(yaw + 0.05 * t);
    out[3] = (float)(frame->pose[3] + 3 * t * cos(yaw));
    out[4] = (float)(frame->pose[7] + 3 * t * sin(yaw));
    out[5] = (float)frame->pose[11];
}

void small_extrinsic(int laser, double out[16])
{
    static const double yaws[SV_WAYMO_LASERS] = {0.3, 0, 1.57, -1.6, 3.1};
    small_pose(yaws[laser], 1.2 - laser, 0.4 * laser - 0.8, out);
    out[11] = laser == 0 ? 2.1 : 0.7;
}

double small_inclination(int laser, int row)
{
    if (laser == 0) return 0.04 - 0.09 * row - 0.01 * row * row;
    /* evenly from -0.5 to 0.3, from above, rows in the middle of their part */
    return -0.5 + (SMALL_ROWS - 1 - row + 0.5) / SMALL_ROWS * 0.8;
}

static void doubles(sv_wire_out *o, int number, const double *values, int count, bool unpacked)
{
    for (int i = 0; unpacked && i < count; i++) sv_wire_put_double(o, number, values[i]);
    if (!unpacked) sv_wire_put_bytes(o, number, values, sizeof *values * (size_t)count);
}

static void nest(sv_wire_out *outer, int number, sv_wire_out *inner)
{
    sv_wire_put_bytes(outer, number, inner->data, inner->size);
    sv_wire_free(inner);
}

static void transform(sv_wire_out *o, int number, const double m[16], bool unpacked)
{
    sv_wire_out inner = {0};
    doubles(&inner, 1, m, 16, unpacked);
    nest(o, number, &inner);
}

void small_image(const float *values, size_t count, int rows, int columns, int channels, bool unpacked,
                 sv_wire_out *out)
{
    sv_wire_out matrix = {0}, shape = {0};
    for (size_t i = 0; unpacked && i < count; i++) sv_wire_put_float(&matrix, 1, values[i]);
    if (!unpacked) sv_wire_put_bytes(&matrix, 1, values, sizeof *values * count);
    const int sizes[3] = {rows, columns, channels};
    for (int i = 0; i < 3; i++) sv_wire_put_int(&shape, 1, sizes[i]);
    nest(&matrix, 2, &shape);
    uLongf size = compressBound(matrix.size);
    Bytef *packed = malloc(size);
    compress(packed, &size, matrix.data, matrix.size);
    sv_wire_free(out);
    *out = (sv_wire_out){packed, size, size, false};
    sv_wire_free(&matrix);
}

static void laser(const small_frame *f, int which, sv_wire_out *o)
{
    enum { MOST = SMALL_TOP_ROWS * SMALL_TOP_COLUMNS };
    const int rows = which ? SMALL_ROWS : SMALL_TOP_ROWS, columns = which ? SMALL_COLUMNS : SMALL_TOP_COLUMNS;
    sv_wire_out message = {0}, image = {0};
    sv_wire_put_int(&message, 1, which + 1);
    for (int r = 0; r < 2; r++) {
        float values[MOST * 4], poses[MOST * 6];
        for (int i = 0; i < rows * columns; i++) {
            values[4 * i] = small_range(which, r, i / columns, i % columns);
            values[4 * i + 1] = small_intensity(which, i / columns, i % columns);
            values[4 * i + 2] = 0.1f * (float)r;
            values[4 * i + 3] = i % 5 ? -1 : 1;
            small_pixel_pose(f, i / columns, i % columns, poses + 6 * i);
        }
        sv_wire_out inner = {0};
        small_image(values, (size_t)(4 * rows * columns), rows, columns, 4, f->unpacked, &image);
        nest(&inner, 2, &image);
        sv_wire_put_bytes(&inner, 3, "", 0);
        if (which == 0 && r == 0) {
            small_image(poses, (size_t)(6 * rows * columns), rows, columns, 6, f->unpacked, &image);
            nest(&inner, 4, &image);
        }
        nest(&message, 2 + r, &inner);
    }
    nest(o, 5, &message);
}

static void context(const small_frame *f, sv_wire_out *o)
{
    static const double intrinsic[9] = {200, 201, 96, 60, 0.04, -0.3, 0, 0, 0};
    sv_wire_out message = {0}, inner = {0};
    double m[16];
    sv_wire_put_bytes(&message, 1, f->context, strlen(f->context));
    sv_wire_put_int(&inner, 1, 1);
    doubles(&inner, 2, intrinsic, 9, f->unpacked);
    small_pose(0.01, 1.5, 0, m);
    m[11] = 2;
    transform(&inner, 3, m, f->unpacked);
    sv_wire_put_int(&inner, 4, 192);
    sv_wire_put_int(&inner, 5, 120);
    nest(&message, 2, &inner);
    /* the laser on the roof last, as in recorded data */
    for (int i = 0; i < SV_WAYMO_LASERS; i++) {
        const int which = (i + 1) % SV_WAYMO_LASERS;
        double beams[SMALL_TOP_ROWS];
        for (int k = 0; k < SMALL_TOP_ROWS; k++) beams[k] = small_inclination(0, SMALL_TOP_ROWS - 1 - k);
        sv_wire_put_int(&inner, 1, which + 1);
        if (which == 0) doubles(&inner, 2, beams, SMALL_TOP_ROWS, f->unpacked);
        sv_wire_put_double(&inner, 3, -0.5);
        sv_wire_put_double(&inner, 4, 0.3);
        small_extrinsic(which, m);
        transform(&inner, 5, m, f->unpacked);
        nest(&message, 3, &inner);
    }
    sv_wire_put_bytes(&inner, 2, "Day", 3);
    sv_wire_put_bytes(&inner, 3, "location_test", 13);
    nest(&message, 4, &inner);
    nest(o, 1, &message);
}

static void label(const small_box *b, int number, sv_wire_out *o)
{
    sv_wire_out message = {0}, inner = {0};
    char id[16];
    const double values[7] = {b->x, b->y, b->z, b->width, b->length, b->height, b->heading};
    for (int i = 0; i < 7; i++) sv_wire_put_double(&inner, i + 1, values[i]);
    nest(&message, 1, &inner);
    if (b->moves) {
        sv_wire_put_double(&inner, 1, 3);
        sv_wire_put_double(&inner, 2, 4);
        nest(&message, 2, &inner);
    }
    sv_wire_put_int(&message, 3, b->type);
    snprintf(id, sizeof id, "box%d", number);
    sv_wire_put_bytes(&message, 4, id, strlen(id));
    if (b->level) sv_wire_put_int(&message, 5, b->level);
    sv_wire_put_int(&message, 7, b->points);
    nest(o, 6, &message);
}

void small_message(const small_frame *f, sv_wire_out *out)
{
    context(f, out);
    sv_wire_put_int(out, 2, f->timestamp);
    transform(out, 3, f->pose, f->unpacked);
    if (f->jpeg) {
        sv_wire_out picture = {0};
        sv_wire_put_int(&picture, 1, 1);
        sv_wire_put_bytes(&picture, 2, f->jpeg, f->jpeg_size);
        transform(&picture, 3, f->pose, f->unpacked);
        nest(out, 4, &picture);
    }
    for (int i = 0; i < SV_WAYMO_LASERS && !f->no_lasers; i++) laser(f, (i + 2) % SV_WAYMO_LASERS, out);
    for (int i = 0; i < f->box_count; i++) label(&f->boxes[i], i, out);
}

static void put_raw(sv_wire_out *file, const void *bytes, size_t size)
{
    uint8_t *grown = realloc(file->data, file->size + size);
    if (!grown) abort();
    memcpy(grown + file->size, bytes, size);
    file->data = grown;
    file->size += size;
    file->room = file->size;
}

void small_record(sv_wire_out *file, const void *data, size_t size)
{
    uint8_t head[12], tail[4];
    for (int i = 0; i < 8; i++) head[i] = (uint8_t)((uint64_t)size >> (8 * i));
    const uint32_t a = sv_crc32c_masked(head, 8), b = sv_crc32c_masked(data, size);
    for (int i = 0; i < 4; i++) {
        head[8 + i] = (uint8_t)(a >> (8 * i));
        tail[i] = (uint8_t)(b >> (8 * i));
    }
    put_raw(file, head, 12);
    put_raw(file, data, size);
    put_raw(file, tail, 4);
}
