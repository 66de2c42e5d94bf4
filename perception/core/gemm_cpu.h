/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector part of gemm.h, one table per instruction set.
 */
#ifndef SV_GEMM_CPU_H
#define SV_GEMM_CPU_H

#include "gemm.h"
#include "simd.h"

typedef struct sv_gemm_kernels {
    int row_block;                 /* rows that run best together */
    size_t (*count)(int k, int n); /* floats of packed B */
    void (*pack)(float *packed, int k, int n, const float *b, int64_t k_step, int64_t n_step);
    void (*run)(const sv_gemm *g, int first, int rows);
} sv_gemm_kernels;
SV_SIMD_TABLE(sv_gemm_kernels);

/* On matrix tiles (gemm_amx.c); NULL when the processor or the system has none. */
const sv_gemm_kernels *sv_gemm_matrix_kernels(void);

#endif
