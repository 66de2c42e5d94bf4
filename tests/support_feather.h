/* SPDX-License-Identifier: Apache-2.0
 *
 * Small Feather files, made byte by byte.
 */
#ifndef SUPPORT_FEATHER_H
#define SUPPORT_FEATHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct feather_column {
    const char *name;
    char kind; /* 'i' signed, 'u' unsigned, 'f' float, 't' text, 'd' a kind that is not read (decimal) */
    int bytes; /* of a number */
    const void *data; /* numbers, or const char *[rows] */
} feather_column;

typedef struct feather_def {
    const feather_column *columns;
    int column_count, rows;
    int batches;    /* rows are spread over them; 0: one */
    bool packed;    /* buffers as LZ4 frames with literals and a match */
    int codec;      /* of packed buffers; 1 is Zstandard */
    int null_count; /* what the first column says */
} feather_def;

/* malloc'ed */
uint8_t *feather_make(const feather_def *def, size_t *size);
/* An LZ4 frame of these bytes, malloc'ed: runs of one byte become matches. */
uint8_t *lz4_frame_make(const uint8_t *data, size_t size, size_t *out_size);

#endif
