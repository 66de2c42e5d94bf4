/* SPDX-License-Identifier: Apache-2.0 */
#include "gemm.h"

#include "gemm_cpu.h"

size_t sv_gemm_packed_count(int k, int n)
{
    const int panel = SV_SIMD_PICK(sv_gemm_kernels)->panel;
    return (size_t)(n + panel - 1) / (size_t)panel * (size_t)panel * (size_t)k;
}

void sv_gemm_pack(float *packed, int k, int n, const float *b, int64_t k_step, int64_t n_step)
{
    SV_SIMD_PICK(sv_gemm_kernels)->pack(packed, k, n, b, k_step, n_step);
}

void sv_gemm_run(const sv_gemm *g, int first, int rows)
{
    SV_SIMD_PICK(sv_gemm_kernels)->run(g, first, rows);
}

int sv_gemm_row_block(void)
{
    return SV_SIMD_PICK(sv_gemm_kernels)->row_block;
}
