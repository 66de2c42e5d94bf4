/* SPDX-License-Identifier: Apache-2.0
 *
 * TFRecord files: records one behind the other, each
 *
 *     uint64 length, uint32 masked CRC of these 8 bytes, data, uint32 masked CRC of the data
 *
 * in little endian. CRC-32C; masked: rotated right by 15, plus 0xa282ead8 (TensorFlow, lib/io/record_writer).
 */
#ifndef SV_TFRECORD_H
#define SV_TFRECORD_H

#include "perception/model/source.h"

enum { SV_TFRECORD_HEAD = 12, SV_TFRECORD_TAIL = 4, SV_TFRECORD_MOST = 1 << 28 };

typedef struct sv_tfrecord {
    uint64_t offset; /* of the data */
    uint32_t length; /* not more than SV_TFRECORD_MOST */
    int number;      /* 0, 1 ... in the file, for messages */
} sv_tfrecord;

uint32_t sv_crc32c_masked(const void *bytes, size_t size);

/* The record whose head these bytes are, at 'offset' of the file; a wrong checksum, an absurd length and a
 * file that ends before the record does are errors. */
sv_status sv_tfrecord_head(sv_ctx *c, const sv_source *source, uint64_t offset, int number,
                           const uint8_t head[SV_TFRECORD_HEAD], sv_tfrecord *out);
/* Its data with its checksum into 'bytes', which has room for length + SV_TFRECORD_TAIL. */
sv_status sv_tfrecord_read(sv_ctx *c, const sv_source *source, const sv_tfrecord *record, uint8_t *bytes);
/* Where the next one begins. */
static inline uint64_t sv_tfrecord_end(const sv_tfrecord *record)
{
    return record->offset + record->length + SV_TFRECORD_TAIL;
}

#endif
