/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "cache_part.h"

#include "perception/lzf.h"

#include <fcntl.h>
#include <hdf5.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A chunk is a column of some rows, bytes of its numbers apart (the library's filter), then LZF (registered
 * as 32000, known to h5py): zlib would unpack points at the speed of decoding the source. Where that saves
 * little, as for coordinates, whose low bits are noise, numbers lie as they are: reading them costs less than
 * unpacking. The bits are those of the filter mask. */
enum { LZF = 32000, NO_SHUFFLE = 1, NO_PACKING = 2 };
static const char format[] = "savanna frame cache 1";

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void enter(void)
{
    pthread_mutex_lock(&lock);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* failures are reported through the context */
}

static void leave(void)
{
    pthread_mutex_unlock(&lock);
}

void sv_cache_free_tables(sv_cache_tables *t)
{
    free(t->frames);
    free(t->poses);
    free(t->times);
    free(t->box_values);
    free(t->labels);
    free(t->ids);
    *t = (sv_cache_tables){0};
}

/* ---- chunks ------------------------------------------------------------------------------------------- */

/* A packed chunk is at most WORTH bytes. */
enum { NUMBERS = SV_CACHE_ROWS, CHUNK = 4 * NUMBERS, WORTH = CHUNK / 2 };

sv_status sv_cache_pack(sv_ctx *c, const float *points, int rows, int columns, int column,
                        sv_cache_chunk *out)
{
    uint8_t plain[CHUNK] = {0}, apart[CHUNK];
    for (int i = 0; i < rows; i++)
        memcpy(plain + 4 * i, points + (size_t)i * (size_t)columns + (size_t)column, 4);
    for (int i = 0; i < NUMBERS; i++)
        for (int b = 0; b < 4; b++) apart[b * NUMBERS + i] = plain[4 * i + b];
    *out = (sv_cache_chunk){.bytes = malloc(sv_lzf_room(CHUNK))};
    SV_CHECK(c, out->bytes, SV_NO_MEMORY, "no memory to pack %d points", rows);
    out->size = sv_lzf_pack(apart, CHUNK, out->bytes);
    if (out->size <= WORTH) return SV_OK;
    /* as it is, which readers are told */
    memcpy(out->bytes, plain, CHUNK);
    out->size = CHUNK;
    out->mask = NO_SHUFFLE | NO_PACKING;
    return SV_OK;
}

sv_status sv_cache_unpack(sv_ctx *c, const char *name, const sv_cache_chunk *chunk, int rows, int columns,
                          int column, float *points)
{
    uint8_t unpacked[CHUNK];
    const uint8_t *apart = chunk->bytes;
    const bool packed = !(chunk->mask & NO_PACKING), shuffled = !(chunk->mask & NO_SHUFFLE);
    const bool good =
        packed ? shuffled && sv_lzf_expand(chunk->bytes, chunk->size, unpacked, CHUNK) : chunk->size == CHUNK;
    if (packed) apart = unpacked;
    SV_CHECK(c, good, SV_BAD_INPUT,
             "%s: a chunk of points is damaged: remove the file and make the cache again", name);
    if (!shuffled) {
        for (int i = 0; i < rows; i++)
            memcpy(points + (size_t)i * (size_t)columns + column, apart + 4 * i, 4);
        return SV_OK;
    }
    const uint8_t *p0 = apart, *p1 = p0 + NUMBERS, *p2 = p1 + NUMBERS, *p3 = p2 + NUMBERS;
    float *to = points + column;
    for (int i = 0; i < rows; i++, to += columns) {
        const uint32_t bits =
            (uint32_t)p0[i] | (uint32_t)p1[i] << 8 | (uint32_t)p2[i] << 16 | (uint32_t)p3[i] << 24;
        memcpy(to, &bits, 4);
    }
    return SV_OK;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

static hid_t create_points(hid_t file, int columns)
{
    const hsize_t none[2] = {0, (hsize_t)columns}, most[2] = {H5S_UNLIMITED, (hsize_t)columns},
                  chunk[2] = {SV_CACHE_ROWS, 1};
    const hid_t space = H5Screate_simple(2, none, most), options = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(options, false); /* the same points give the same bytes */
    H5Pset_chunk(options, 2, chunk);
    H5Pset_shuffle(options);
    const unsigned values[3] = {4, 0x0105, CHUNK}; /* versions of the filter and of LZF, bytes of a chunk */
    H5Pset_filter(options, LZF, H5Z_FLAG_OPTIONAL, 3, values);
    const hid_t points = H5Dcreate2(file, "points", H5T_IEEE_F32LE, space, H5P_DEFAULT, options, H5P_DEFAULT);
    H5Pclose(options);
    H5Sclose(space);
    return points;
}

sv_status sv_cache_writer_open(sv_ctx *c, const char *path, int columns, sv_cache_writer *out)
{
    *out = (sv_cache_writer){.file = -1, .points = -1, .columns = columns};
    snprintf(out->path, sizeof out->path, "%s", path);
    SV_CHECK(c, strlen(path) < sizeof out->path, SV_USAGE, "%.80s...: the path is too long", path);
    snprintf(out->temporary, sizeof out->temporary, "%s.part-%ld-0", path, (long)getpid());
    enter();
    out->file = H5Fcreate(out->temporary, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    if (out->file >= 0) out->points = create_points(out->file, columns);
    leave();
    if (out->points >= 0) return SV_OK;
    sv_cache_writer_discard(out);
    return SV_FAIL(c, SV_IO, "%s: cannot be written", path);
}

sv_status sv_cache_writer_rows(sv_ctx *c, sv_cache_writer *w, const sv_cache_chunk *chunks)
{
    const hsize_t first = (hsize_t)w->rows;
    w->rows += SV_CACHE_ROWS;
    const hsize_t size[2] = {(hsize_t)w->rows, (hsize_t)w->columns};
    enter();
    bool good = H5Dset_extent(w->points, size) >= 0;
    for (int k = 0; k < w->columns && good; k++) {
        const hsize_t at[2] = {first, (hsize_t)k};
        good =
            H5Dwrite_chunk(w->points, H5P_DEFAULT, chunks[k].mask, at, chunks[k].size, chunks[k].bytes) >= 0;
    }
    leave();
    SV_CHECK(c, good, SV_IO, "%s: cannot be written (is the disk full?)", w->path);
    return SV_OK;
}

static bool write_array(hid_t file, const char *name, hid_t stored, hid_t type, hsize_t rows, hsize_t columns,
                        const void *data)
{
    const hsize_t size[2] = {rows, columns};
    const hid_t space = H5Screate_simple(2, size, NULL), options = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(options, false);
    const hid_t dataset = H5Dcreate2(file, name, stored, space, H5P_DEFAULT, options, H5P_DEFAULT);
    const bool good =
        dataset >= 0 && (rows == 0 || H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    if (dataset >= 0) H5Dclose(dataset);
    H5Pclose(options);
    H5Sclose(space);
    return good;
}

static bool write_text(hid_t file, const char *name, const char *text)
{
    const hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, strlen(text) + 1);
    const hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    const bool good = attribute >= 0 && H5Awrite(attribute, type, text) >= 0;
    if (attribute >= 0) H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
    return good;
}

/* On disk before it has its name. */
static bool flush(const char *path)
{
    const int handle = open(path, O_RDONLY | O_CLOEXEC);
    const bool good = handle >= 0 && fsync(handle) == 0;
    if (handle >= 0) close(handle);
    return good;
}

sv_status sv_cache_writer_close(sv_ctx *c, sv_cache_writer *w, const char *settings, const sv_cache_tables *t)
{
    const hsize_t samples = (hsize_t)t->samples, boxes = (hsize_t)t->boxes;
    enter();
    bool good =
        write_array(w->file, "frames", H5T_STD_I64LE, H5T_NATIVE_INT64, samples, SV_CACHE_FRAME, t->frames) &&
        write_array(w->file, "poses", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, samples, SV_CACHE_POSE, t->poses) &&
        write_array(w->file, "times", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, samples, 1, t->times) &&
        write_array(w->file, "boxes", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, boxes, SV_CACHE_BOX, t->box_values) &&
        write_array(w->file, "labels", H5T_STD_I32LE, H5T_NATIVE_INT32, boxes, SV_CACHE_LABEL, t->labels) &&
        write_array(w->file, "ids", H5T_STD_U8LE, H5T_NATIVE_UCHAR, samples, SV_CACHE_ID, t->ids) &&
        write_text(w->file, "settings", settings) && write_text(w->file, "format", format);
    good = H5Dclose(w->points) >= 0 && good;
    good = H5Fclose(w->file) >= 0 && good;
    w->file = w->points = -1;
    leave();
    good = good && flush(w->temporary) && rename(w->temporary, w->path) == 0;
    if (good) w->temporary[0] = '\0';
    sv_cache_writer_discard(w);
    SV_CHECK(c, good, SV_IO, "%s: cannot be written (is the disk full?)", w->path);
    return SV_OK;
}

void sv_cache_writer_discard(sv_cache_writer *w)
{
    enter();
    if (w->points >= 0) H5Dclose(w->points);
    if (w->file >= 0) H5Fclose(w->file);
    w->file = w->points = -1;
    leave();
    if (w->temporary[0]) unlink(w->temporary);
    w->temporary[0] = '\0';
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static bool find_points(sv_cache_reader *r)
{
    hsize_t size[2] = {0, 0}, chunk[2] = {0, 0};
    r->points = H5Dopen2(r->file, "points", H5P_DEFAULT);
    if (r->points < 0) return false;
    const hid_t space = H5Dget_space(r->points), options = H5Dget_create_plist(r->points),
                type = H5Dget_type(r->points);
    const bool good = H5Sget_simple_extent_ndims(space) == 2 &&
                      H5Sget_simple_extent_dims(space, size, NULL) == 2 &&
                      H5Pget_layout(options) == H5D_CHUNKED && H5Pget_chunk(options, 2, chunk) == 2 &&
                      H5Pget_nfilters(options) == 2 && H5Tequal(type, H5T_IEEE_F32LE) > 0;
    H5Tclose(type);
    H5Pclose(options);
    H5Sclose(space);
    r->rows = (int64_t)size[0];
    r->columns = (int)size[1];
    return good && size[1] >= 3 && size[1] <= SV_CACHE_COLUMNS && size[0] < (hsize_t)1 << 40 &&
           chunk[0] == SV_CACHE_ROWS && chunk[1] == 1;
}

sv_status sv_cache_reader_open(sv_ctx *c, const char *path, sv_cache_reader *out)
{
    *out = (sv_cache_reader){.file = -1, .points = -1};
    enter();
    out->file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    const bool good = out->file >= 0 && find_points(out);
    leave();
    if (good) return SV_OK;
    sv_cache_reader_close(out);
    return SV_FAIL(c, SV_BAD_INPUT,
                   "%s: is no part of a frame cache, or damaged: remove it and make the cache again", path);
}

void sv_cache_reader_close(sv_cache_reader *r)
{
    enter();
    if (r->points >= 0) H5Dclose(r->points);
    if (r->file >= 0) H5Fclose(r->file);
    leave();
    r->file = r->points = -1;
}

static bool read_text(hid_t file, const char *name, char out[SV_CACHE_SETTINGS])
{
    memset(out, 0, SV_CACHE_SETTINGS);
    if (H5Aexists(file, name) <= 0) return false;
    const hid_t attribute = H5Aopen(file, name, H5P_DEFAULT);
    if (attribute < 0) return false;
    const hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute);
    const bool good = H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 &&
                      H5Tget_size(type) < SV_CACHE_SETTINGS && H5Sget_simple_extent_npoints(space) == 1 &&
                      H5Aread(attribute, type, out) >= 0;
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(attribute);
    return good;
}

sv_status sv_cache_reader_settings(sv_ctx *c, const sv_cache_reader *r, const char *path,
                                   char out[SV_CACHE_SETTINGS])
{
    char kind[SV_CACHE_SETTINGS];
    enter();
    const bool good = read_text(r->file, "format", kind) && strcmp(kind, format) == 0 &&
                      read_text(r->file, "settings", out);
    leave();
    SV_CHECK(c, good, SV_BAD_INPUT, "%s: is no part of a frame cache of this version: make the cache again",
             path);
    return SV_OK;
}

/* malloc'ed [rows, columns]; any number of rows when *rows is negative. */
static void *read_array(hid_t file, const char *name, hid_t type, size_t bytes, int *rows, int columns)
{
    hsize_t size[2] = {0, 0};
    if (H5Lexists(file, name, H5P_DEFAULT) <= 0) return NULL;
    const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    if (dataset < 0) return NULL;
    const hid_t space = H5Dget_space(dataset);
    void *data = NULL;
    if (H5Sget_simple_extent_ndims(space) == 2 && H5Sget_simple_extent_dims(space, size, NULL) == 2 &&
        size[1] == (hsize_t)columns && size[0] < 1 << 26 && (*rows < 0 || size[0] == (hsize_t)*rows)) {
        data = malloc(((size_t)size[0] + 1) * (size_t)columns * bytes);
        *rows = (int)size[0];
        if (data && *rows > 0 && H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) {
            free(data);
            data = NULL;
        }
    }
    H5Sclose(space);
    H5Dclose(dataset);
    return data;
}

/* Rows and boxes of a sample lie where the file has some. */
static bool fits(const sv_cache_reader *r, const sv_cache_tables *t)
{
    for (int i = 0; i < t->samples; i++) {
        const int64_t *f = t->frames + (size_t)SV_CACHE_FRAME * (size_t)i;
        if (f[SV_CACHE_FIRST_ROW] < 0 || f[SV_CACHE_FIRST_ROW] % SV_CACHE_ROWS != 0 ||
            f[SV_CACHE_POINTS] < 0 || f[SV_CACHE_POINTS] > 1 << 28 || f[SV_CACHE_FIRST_ROW] > r->rows ||
            f[SV_CACHE_POINTS] > r->rows - f[SV_CACHE_FIRST_ROW] || f[SV_CACHE_FIRST_BOX] < 0 ||
            f[SV_CACHE_BOXES] < 0 || f[SV_CACHE_FIRST_BOX] > t->boxes ||
            f[SV_CACHE_BOXES] > t->boxes - f[SV_CACHE_FIRST_BOX])
            return false;
        t->ids[(size_t)SV_CACHE_ID * (size_t)(i + 1) - 1] = '\0';
    }
    return true;
}

sv_status sv_cache_reader_tables(sv_ctx *c, const sv_cache_reader *r, const char *path, sv_cache_tables *out)
{
    *out = (sv_cache_tables){.samples = -1, .boxes = -1};
    enter();
    out->frames = read_array(r->file, "frames", H5T_NATIVE_INT64, 8, &out->samples, SV_CACHE_FRAME);
    if (out->frames) {
        out->poses = read_array(r->file, "poses", H5T_NATIVE_DOUBLE, 8, &out->samples, SV_CACHE_POSE);
        out->times = read_array(r->file, "times", H5T_NATIVE_DOUBLE, 8, &out->samples, 1);
        out->ids = read_array(r->file, "ids", H5T_NATIVE_UCHAR, 1, &out->samples, SV_CACHE_ID);
        out->box_values = read_array(r->file, "boxes", H5T_NATIVE_FLOAT, 4, &out->boxes, SV_CACHE_BOX);
        if (out->box_values)
            out->labels = read_array(r->file, "labels", H5T_NATIVE_INT32, 4, &out->boxes, SV_CACHE_LABEL);
    }
    leave();
    const bool good =
        out->frames && out->poses && out->times && out->ids && out->box_values && out->labels && fits(r, out);
    if (good) return SV_OK;
    sv_cache_free_tables(out);
    return SV_FAIL(c, SV_BAD_INPUT,
                   "%s: is a damaged part of a frame cache: remove it and make the cache again", path);
}

sv_status sv_cache_reader_rows(sv_ctx *c, const sv_cache_reader *r, const char *path, int64_t row,
                               uint8_t *bytes, sv_cache_chunk *out)
{
    const size_t room = sv_lzf_room(CHUNK);
    bool good = true;
    enter();
    for (int k = 0; k < r->columns && good; k++) {
        const hsize_t at[2] = {(hsize_t)row, (hsize_t)k};
        hsize_t stored = 0;
        good = H5Dget_chunk_storage_size(r->points, at, &stored) >= 0 && stored > 0 && stored <= room;
        out[k] = (sv_cache_chunk){.bytes = bytes + room * (size_t)k, .size = (size_t)stored};
        good = good && H5Dread_chunk(r->points, H5P_DEFAULT, at, &out[k].mask, out[k].bytes) >= 0;
    }
    leave();
    SV_CHECK(c, good, SV_BAD_INPUT,
             "%s: a chunk of points cannot be read: remove the file and make the cache again", path);
    return SV_OK;
}

size_t sv_cache_rows_room(int columns)
{
    return sv_lzf_room(CHUNK) * (size_t)columns;
}
