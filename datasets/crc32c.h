/* SPDX-License-Identifier: Apache-2.0
 *
 * CRC-32C (Castagnoli, polynomial 0x1edc6f41, reflected), by the processor's instruction where there is one,
 * else by eight tables (Intel's slicing-by-8).
 */
#ifndef SV_CRC32C_H
#define SV_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t sv_crc32c(const void *bytes, size_t size);

/* crc32c.simd.c; 'crc' without the final inversion */
typedef struct sv_crc32c_kernels {
    uint32_t (*update)(uint32_t crc, const uint8_t *bytes, size_t size);
} sv_crc32c_kernels;

#endif
