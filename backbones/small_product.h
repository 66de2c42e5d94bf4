/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of small matrices that lie in L1, for the chunks of a scan; included by *.simd.c only.
 *
 *     C[r][j] = keep * C[r][j] + sum_d A(r,d) B[d][j]        A(r,d) = a[r * a_row + d * a_step]
 *
 * Rows in multiples of PRODUCT_ROWS, columns in multiples of SV_VL. The terms of an element are added in
 * ascending d, so its value does not depend on the tile it is in.
 */
#ifndef SV_SMALL_PRODUCT_H
#define SV_SMALL_PRODUCT_H

#include "perception/core/simd.h"

#include <stddef.h>

#if SV_SIMD_ISA == 2
enum { PRODUCT_ROWS = 8, PRODUCT_VECTORS = 2 }; /* 16 sums hide the latency of a multiply-add */
#elif SV_SIMD_ISA == 1
enum { PRODUCT_ROWS = 4, PRODUCT_VECTORS = 2 };
#else
enum { PRODUCT_ROWS = 4, PRODUCT_VECTORS = 8 }; /* the compiler makes SSE2 of the inner loop */
#endif

typedef struct left_side {
    const float *a;
    ptrdiff_t row, step;
} left_side;

static inline __attribute__((always_inline)) void product_tile(float *c, ptrdiff_t c_pitch, float keep,
                                                               left_side a, const float *b, ptrdiff_t b_pitch,
                                                               int depth, const int vectors)
{
    vf sum[PRODUCT_ROWS][PRODUCT_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < PRODUCT_ROWS; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            sum[r][v] = m_set(0.0f);
            if (keep != 0.0f) sum[r][v] = m_set(keep) * vf_load(c + r * c_pitch + v * SV_VL);
        }
    for (int d = 0; d < depth; d++) {
        vf right[PRODUCT_VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) right[v] = vf_load(b + d * b_pitch + v * SV_VL);
#pragma GCC unroll 8
        for (int r = 0; r < PRODUCT_ROWS; r++) {
            const vf left = m_set(a.a[r * a.row + d * a.step]);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) sum[r][v] = m_fma(left, right[v], sum[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < PRODUCT_ROWS; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) vf_store(c + r * c_pitch + v * SV_VL, sum[r][v]);
}

/* keep 0: C is not read. */
static inline __attribute__((always_inline)) void small_product(float *c, ptrdiff_t c_pitch, int rows,
                                                                int columns, float keep, left_side a,
                                                                const float *b, ptrdiff_t b_pitch, int depth)
{
    for (int r = 0; r < rows; r += PRODUCT_ROWS) {
        const left_side from = {a.a + r * a.row, a.row, a.step};
        int j = 0;
        for (; j + PRODUCT_VECTORS * SV_VL <= columns; j += PRODUCT_VECTORS * SV_VL)
            product_tile(c + r * c_pitch + j, c_pitch, keep, from, b + j, b_pitch, depth, PRODUCT_VECTORS);
        for (; j < columns; j += SV_VL)
            product_tile(c + r * c_pitch + j, c_pitch, keep, from, b + j, b_pitch, depth, 1);
    }
}

#endif
