/* SPDX-License-Identifier: Apache-2.0
 *
 * y[p] += x[p] W for pairs of rows that lie anywhere. A tile of PAIRS rows by VECTORS vectors stays in
 * registers while the inputs are walked, so that a weight is loaded once per PAIRS products. Every element is
 * one chain of multiply-adds over ascending inputs, whatever tile it falls into.
 */
#include "subm_conv.h"

#if SV_SIMD_ISA == 0

/* Without intrinsics a plain loop over the outputs is best: the compiler makes vectors of what the processor
 * has. */
static void accumulate(float *const *y, const float *const *x, int pairs, const float *w, ptrdiff_t pitch,
                       int in, int out)
{
    for (int p = 0; p < pairs; p++) {
        float *restrict sum = y[p];
        for (int i = 0; i < in; i++) {
            const float input = x[p][i], *restrict weight = w + i * pitch;
            for (int o = 0; o < out; o++) sum[o] = m_fma(input, weight[o], sum[o]);
        }
    }
}

#else

#if SV_SIMD_ISA == 2
enum { PAIRS = 6, VECTORS = 4 };
#else
enum { PAIRS = 6, VECTORS = 2 };
#endif

#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* 'pairs' and 'vectors' are constants where this is inlined; 'lanes' of the last vector are used. */
static inline __attribute__((always_inline)) void tile(float *const *y, const float *const *x, const float *w,
                                                       ptrdiff_t pitch, int in, int first, int pairs,
                                                       int vectors, int lanes)
{
    vf sum[PAIRS][VECTORS];
    UNROLL for (int p = 0; p < pairs; p++)
    {
        UNROLL for (int v = 0; v < vectors; v++) sum[p][v] =
            vf_load_n(y[p] + first + v * SV_VL, v < vectors - 1 ? SV_VL : lanes);
    }
    for (int i = 0; i < in; i++, w += pitch) {
        vf weight[VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) weight[v] =
            vf_load_n(w + first + v * SV_VL, v < vectors - 1 ? SV_VL : lanes);
        UNROLL for (int p = 0; p < pairs; p++)
        {
            const vf input = m_set(x[p][i]);
            UNROLL for (int v = 0; v < vectors; v++) sum[p][v] = m_fma(input, weight[v], sum[p][v]);
        }
    }
    UNROLL for (int p = 0; p < pairs; p++)
    {
        UNROLL for (int v = 0; v < vectors; v++)
            vf_store_n(y[p] + first + v * SV_VL, sum[p][v], v < vectors - 1 ? SV_VL : lanes);
    }
}

/* One block of columns of all pairs. */
static inline __attribute__((always_inline)) void columns(float *const *y, const float *const *x, int pairs,
                                                          const float *w, ptrdiff_t pitch, int in, int first,
                                                          int vectors, int lanes)
{
    for (; pairs >= PAIRS; pairs -= PAIRS, y += PAIRS, x += PAIRS)
        tile(y, x, w, pitch, in, first, PAIRS, vectors, lanes);
    if (pairs == 5) tile(y, x, w, pitch, in, first, 5, vectors, lanes);
    if (pairs == 4) tile(y, x, w, pitch, in, first, 4, vectors, lanes);
    if (pairs == 3) tile(y, x, w, pitch, in, first, 3, vectors, lanes);
    if (pairs == 2) tile(y, x, w, pitch, in, first, 2, vectors, lanes);
    if (pairs == 1) tile(y, x, w, pitch, in, first, 1, vectors, lanes);
}

static void accumulate(float *const *y, const float *const *x, int pairs, const float *w, ptrdiff_t pitch,
                       int in, int out)
{
    int first = 0;
    for (; first + VECTORS * SV_VL <= out; first += VECTORS * SV_VL)
        columns(y, x, pairs, w, pitch, in, first, VECTORS, SV_VL);
    for (; first < out; first += SV_VL)
        columns(y, x, pairs, w, pitch, in, first, 1, out - first < SV_VL ? out - first : SV_VL);
}

#endif

const subm_kernels SV_SIMD(subm_kernels) = {accumulate};
