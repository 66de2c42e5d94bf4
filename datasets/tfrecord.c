/* SPDX-License-Identifier: Apache-2.0 */
#include "tfrecord.h"

#include "crc32c.h"

uint32_t sv_crc32c_masked(const void *bytes, size_t size)
{
    const uint32_t crc = sv_crc32c(bytes, size);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

sv_status sv_tfrecord_head(sv_ctx *c, const sv_source *source, uint64_t offset, int number,
                           const uint8_t head[SV_TFRECORD_HEAD], sv_tfrecord *out)
{
    const uint64_t length = sv_le64(head), left = source->size - offset;
    SV_CHECK(
        c, SV_CHECKSUMS_MATCH(sv_le32(head + 8) == sv_crc32c_masked(head, 8)), SV_BAD_INPUT,
        "%s, record %d: the checksum of its length is wrong: the file is damaged, or no TFRecord; fetch it "
        "again",
        source->path, number);
    SV_CHECK(
        c,
        left >= SV_TFRECORD_HEAD && length <= left - SV_TFRECORD_HEAD &&
            left - SV_TFRECORD_HEAD - length >= SV_TFRECORD_TAIL,
        SV_BAD_INPUT,
        "%s, record %d: is cut off: it says %llu bytes, and the file ends after %llu; fetch the file again",
        source->path, number, (unsigned long long)length,
        (unsigned long long)(left >= SV_TFRECORD_HEAD ? left - SV_TFRECORD_HEAD : 0));
    SV_CHECK(c, length <= SV_TFRECORD_MOST, SV_BAD_INPUT,
             "%s, record %d: %llu bytes are more than a frame can have (%d)", source->path, number,
             (unsigned long long)length, SV_TFRECORD_MOST);
    *out = (sv_tfrecord){offset + SV_TFRECORD_HEAD, (uint32_t)length, number};
    return SV_OK;
}

sv_status sv_tfrecord_read(sv_ctx *c, const sv_source *source, const sv_tfrecord *record, uint8_t *bytes)
{
    SV_TRY(sv_source_read(c, source, record->offset, bytes, (size_t)record->length + SV_TFRECORD_TAIL));
    SV_CHECK(
        c, SV_CHECKSUMS_MATCH(sv_le32(bytes + record->length) == sv_crc32c_masked(bytes, record->length)),
        SV_BAD_INPUT, "%s, record %d: the checksum of its data is wrong: the file is damaged, fetch it again",
        source->path, record->number);
    return SV_OK;
}
