/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA-256 (FIPS 180-4): the checksum of model files and the identity of the
 * checkpoint a model was made from.
 */
#ifndef SV_SHA256_H
#define SV_SHA256_H

#include "perception/core/context.h"

typedef struct sv_sha256 {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
} sv_sha256;

enum { SV_SHA256_TEXT = 65 };

void sv_sha256_begin(sv_sha256 *hash);
void sv_sha256_add(sv_sha256 *hash, const void *bytes, size_t count);
void sv_sha256_text(sv_sha256 *hash, char out[SV_SHA256_TEXT]); /* ends it; 64 lower-case hex digits */
sv_status sv_sha256_file(sv_ctx *c, const char *path, char out[SV_SHA256_TEXT]);

#endif
