/* SPDX-License-Identifier: Apache-2.0
 *
 * Feather files written row by row: tables of integers, doubles and texts as feather.h reads them, plain.
 * Rows go to disk in batches, so that memory does not grow with the file.
 */
#ifndef SV_FEATHER_WRITE_H
#define SV_FEATHER_WRITE_H

#include "feather.h"
#include "perception/core/file.h"

typedef struct sv_feather_field {
    const char *name;
    sv_feather_kind kind; /* INTEGER (int64), FLOAT (double) or TEXT */
} sv_feather_field;

typedef union sv_feather_value {
    int64_t integer;
    double number;
    const char *text; /* UTF-8 */
} sv_feather_value;

typedef struct sv_feather_writer {
    sv_output file;
    const sv_feather_field *fields; /* of the caller */
    int field_count;
    int64_t rows; /* of the batch that is gathered */
    struct sv_feather_part *parts, *blocks;
    uint64_t written;
    int block_count;
} sv_feather_writer;

/* 'fields' must stay. The file appears when it is closed. */
sv_status sv_feather_writer_open(sv_ctx *c, const char *path, const sv_feather_field *fields, int count,
                                 sv_feather_writer *out);
/* One value for each field. */
sv_status sv_feather_writer_add(sv_ctx *c, sv_feather_writer *writer, const sv_feather_value *row);
sv_status sv_feather_writer_close(sv_ctx *c, sv_feather_writer *writer);
void sv_feather_writer_discard(sv_feather_writer *writer); /* harmless after closing */

#endif
