/* SPDX-License-Identifier: Apache-2.0 */
#include "crc32c.h"

#include "perception/core/simd.h"

SV_SIMD_TABLE(sv_crc32c_kernels);

uint32_t sv_crc32c(const void *bytes, size_t size)
{
    return ~SV_SIMD_PICK(sv_crc32c_kernels)->update(0xffffffffu, bytes, size);
}
