/* SPDX-License-Identifier: Apache-2.0 */
#include "perception/core/gemm.h"

#include "perception/core/gemm_cpu.h"

/*
 * Matrix tiles take k in steps of 32 and n in steps of 16. Where they are at least half full, and splitting a row into parts
 * (k) is paid for by enough columns, they are 1.2 (128 -> 36) to 1.8 times (64 -> 256) as fast as vectors.
 */
static const sv_gemm_kernels *kernels_for(int k, int n)
{
    const sv_gemm_kernels *matrix = sv_gemm_matrix_kernels();
    const int64_t padded = (int64_t)((k + 31) / 32 * 32) * ((n + 15) / 16 * 16);
    if (matrix && n >= 32 && 3 * padded <= 5 * (int64_t)k * n) return matrix;
    return SV_SIMD_PICK(sv_gemm_kernels);
}

size_t sv_gemm_packed_count(int k, int n)
{
    return kernels_for(k, n)->count(k, n);
}

void sv_gemm_pack(float *packed, int k, int n, const float *b, int64_t k_step, int64_t n_step)
{
    kernels_for(k, n)->pack(packed, k, n, b, k_step, n_step);
}

void sv_gemm_run(const sv_gemm *g, int first, int rows)
{
    kernels_for(g->k, g->n)->run(g, first, rows);
}

int sv_gemm_row_block(int k, int n)
{
    return kernels_for(k, n)->row_block;
}
