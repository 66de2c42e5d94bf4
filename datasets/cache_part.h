/* SPDX-License-Identifier: Apache-2.0
 *
 * One file of a cache. The HDF5 library is entered by one thread at a time; packing and unpacking of chunks, where the
 * time goes, is done by callers in parallel.
 */
#ifndef SV_CACHE_PART_H
#define SV_CACHE_PART_H

#include "cache.h"

enum {
    SV_CACHE_FRAME = 10, /* columns of 'frames' */
    SV_CACHE_POSE = 24,
    SV_CACHE_BOX = 9,
    SV_CACHE_LABEL = 3,
    SV_CACHE_ID = 64,
    SV_CACHE_SETTINGS = 512,
    SV_CACHE_COLUMNS = 16,
};
typedef enum sv_cache_column {
    SV_CACHE_FIRST_ROW,
    SV_CACHE_POINTS,
    SV_CACHE_DROPPED,
    SV_CACHE_FIRST_BOX,
    SV_CACHE_BOXES,
    SV_CACHE_FLAGS, /* 1: has a pose, 2: has labels */
    SV_CACHE_BYTES,
    SV_CACHE_VALUES,
    SV_CACHE_CONTENT,
    SV_CACHE_RESERVED
} sv_cache_column;

/* Everything of a part but its points. */
typedef struct sv_cache_tables {
    int samples, boxes;
    int64_t *frames; /* all malloc'ed, as in the file */
    double *poses, *times;
    float *box_values;
    int32_t *labels;
    char *ids;
} sv_cache_tables;
void sv_cache_free_tables(sv_cache_tables *tables); /* may be called twice */

/* A chunk as it lies in the file: one column of SV_CACHE_ROWS rows. */
typedef struct sv_cache_chunk {
    void *bytes; /* malloc'ed by sv_cache_pack() */
    size_t size;
    uint32_t mask; /* which filters were not used */
} sv_cache_chunk;
/* 'column' of 'rows' rows [rows, columns], at most SV_CACHE_ROWS; what is missing is zero. */
sv_status sv_cache_pack(sv_ctx *c, const float *points, int rows, int columns, int column,
                        sv_cache_chunk *out);
/* Into the column of the first 'rows' rows; 'name' is the file's, for messages. */
sv_status sv_cache_unpack(sv_ctx *c, const char *name, const sv_cache_chunk *chunk, int rows, int columns,
                          int column, float *points);

/* ---- writing ---- */

typedef struct sv_cache_writer {
    int64_t file, points; /* of the library */
    int64_t rows;
    int columns;
    char path[1200], temporary[1240];
} sv_cache_writer;
sv_status sv_cache_writer_open(sv_ctx *c, const char *path, int columns, sv_cache_writer *out);
/* The next SV_CACHE_ROWS rows: a chunk of each column. */
sv_status sv_cache_writer_rows(sv_ctx *c, sv_cache_writer *writer, const sv_cache_chunk *chunks);
/* The rest, and the part appears under its name. */
sv_status sv_cache_writer_close(sv_ctx *c, sv_cache_writer *writer, const char *settings,
                                const sv_cache_tables *tables);
void sv_cache_writer_discard(sv_cache_writer *writer); /* harmless after a close */

/* ---- reading ---- */

typedef struct sv_cache_reader {
    int64_t file, points; /* of the library; -1: not open */
    int columns;
    int64_t rows;
} sv_cache_reader;
sv_status sv_cache_reader_open(sv_ctx *c, const char *path, sv_cache_reader *out);
void sv_cache_reader_close(sv_cache_reader *reader); /* may be called twice */
sv_status sv_cache_reader_settings(sv_ctx *c, const sv_cache_reader *reader, const char *path,
                                   char out[SV_CACHE_SETTINGS]);
sv_status sv_cache_reader_tables(sv_ctx *c, const sv_cache_reader *reader, const char *path,
                                 sv_cache_tables *out);
/* The chunks of all columns that begin with this row, in 'bytes', which has sv_cache_rows_room(). */
sv_status sv_cache_reader_rows(sv_ctx *c, const sv_cache_reader *reader, const char *path, int64_t row,
                               uint8_t *bytes, sv_cache_chunk *out);
size_t sv_cache_rows_room(int columns);

#endif
