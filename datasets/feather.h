/* SPDX-License-Identifier: Apache-2.0
 *
 * Feather files: the part of Apache Arrow's IPC file format (format/{File,Message,Schema}.fbs) that tables of numbers and
 * texts need. A file is
 *
 *     "ARROW1\0\0", messages, footer (a flatbuffer), its length (int32), "ARROW1"
 *
 * The footer has the schema and the places of record batches; a batch is a message (a flatbuffer with the places of
 * buffers) and a body of buffers: per column which values there are, then values, or offsets and bytes of texts. Buffers
 * may be packed as LZ4 frames behind their length. Not read, and said so: Zstandard, dictionaries, nested columns, nulls,
 * big-endian files.
 */
#ifndef SV_FEATHER_H
#define SV_FEATHER_H

#include "perception/core/context.h"

enum { SV_FEATHER_COLUMNS = 64, SV_FEATHER_ROWS = 1 << 26 };

typedef enum sv_feather_kind {
    SV_FEATHER_INTEGER, /* of 1, 2, 4 or 8 bytes, signed or not */
    SV_FEATHER_FLOAT,   /* of 2, 4 or 8 bytes */
    SV_FEATHER_TEXT,
    SV_FEATHER_OTHER /* cannot be read */
} sv_feather_kind;

typedef struct sv_feather_column {
    char name[64];
    sv_feather_kind kind;
    int bytes; /* of a number; of an offset, for texts */
    bool is_signed;
} sv_feather_column;

typedef struct sv_feather_text {
    const char *at; /* not terminated */
    size_t size;
} sv_feather_text;

typedef struct sv_feather {
    const char *name; /* of the file, for messages */
    const uint8_t *bytes;
    size_t size;
    sv_feather_column columns[SV_FEATHER_COLUMNS];
    int column_count;
    int64_t rows;
    struct sv_feather_batch *batches; /* malloc'ed */
    int batch_count;
    void **texts; /* unpacked buffers that texts point into; malloc'ed each */
    int text_count;
} sv_feather;

/* 'bytes' must stay; 'name' stands for the file in messages. */
sv_status sv_feather_open(sv_ctx *c, const char *name, const void *bytes, size_t size, sv_feather *out);
void sv_feather_free(sv_feather *file); /* may be called twice */

/* A column of all rows; a missing one, or one of another kind, is an error that names it. */
sv_status sv_feather_floats(sv_ctx *c, sv_feather *file, const char *column, double *out);    /* any number */
sv_status sv_feather_integers(sv_ctx *c, sv_feather *file, const char *column, int64_t *out); /* integers */
/* Texts stay until the file is freed. */
sv_status sv_feather_texts(sv_ctx *c, sv_feather *file, const char *column, sv_feather_text *out);

#endif
