/* SPDX-License-Identifier: Apache-2.0
 *
 * What a frame was made from: how many bytes of files, a checksum of values that come from elsewhere (tables), and, when
 * it is asked for, a checksum of the files' content. All CRC-32C, chained in the order in which things are added.
 */
#ifndef SV_FINGERPRINT_H
#define SV_FINGERPRINT_H

#include "perception/core/context.h"

typedef struct sv_fingerprint {
    bool whole; /* the content counts, too: files are read */
    int64_t bytes;
    uint32_t values, content;
} sv_fingerprint;

/* 'size' -1: to the end of the file. A file that is missing or shorter is an error. */
sv_status sv_fingerprint_file(sv_ctx *c, sv_fingerprint *f, const char *path, int64_t offset, int64_t size);
void sv_fingerprint_values(sv_fingerprint *f, const void *bytes, size_t size);

#endif
