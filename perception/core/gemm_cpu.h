/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector part of gemm.h, one table per instruction set.
 */
#ifndef SV_GEMM_CPU_H
#define SV_GEMM_CPU_H

#include "gemm.h"
#include "simd.h"

typedef struct sv_gemm_kernels {
    int row_block, panel; /* rows and columns of a register tile */
    void (*pack)(float *packed, int k, int n, const float *b, int64_t k_step, int64_t n_step);
    void (*run)(const sv_gemm *g, int first, int rows);
} sv_gemm_kernels;
SV_SIMD_TABLE(sv_gemm_kernels);

#endif
