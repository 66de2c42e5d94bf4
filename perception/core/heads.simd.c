/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows whose channels fall into heads: norms within each head, and products with a block-diagonal matrix.
 */
#include "heads_cpu.h"

#include "norm_cpu.h"

static inline int least(int a, int b)
{
    return a < b ? a : b;
}

/* ---- norm ----------------------------------------------------------------------------------------- */

/* 1 / sqrt(mean square + eps) of n numbers; lanes beyond n are zero and add nothing. */
static float root_mean_square(const float *x, int n, float eps)
{
    vf sum = m_set(0.0f);
    for (int i = 0; i < n; i += SV_VL) {
        const vf v = vf_load_n(x + i, least(SV_VL, n - i));
        sum = m_fma(v, v, sum);
    }
    return 1.0f / sqrtf(vf_sum(sum) / (float)n + eps);
}

static void norm(const sv_head_norm_row *row)
{
    for (int first = 0; first < row->groups * row->width; first += row->width) {
        const float *x = row->x + first;
        float mean = 0, scale;
        if (row->centred)
            SV_SIMD(sv_norm_kernels).moments(x, row->width, row->eps, &mean, &scale);
        else
            scale = root_mean_square(x, row->width, row->eps);
        const vf centre = m_set(mean), factor = m_set(scale);
        for (int i = 0; i < row->width; i += SV_VL) {
            const int lanes = least(SV_VL, row->width - i), at = first + i;
            vf y = (vf_load_n(x + i, lanes) - centre) * factor * vf_load_n(row->weight + at, lanes);
            if (row->bias) y = y + vf_load_n(row->bias + at, lanes);
            if (row->skip)
                y = m_fma(vf_load_n(row->skip_weight + at, lanes), vf_load_n(row->skip + at, lanes), y);
            if (row->gate) {
                const vf gate = vf_load_n(row->gate + at, lanes);
                y = y * (gate * m_sigmoid(gate));
            }
            vf_store_n(row->y + at, y, lanes);
        }
    }
}

/* ---- block-diagonal product ------------------------------------------------------------------------- */

/* Blocks of any size: lanes are outputs of one block. */
static void any_blocks(float *y, const float *x, const float *w, const float *bias, int n, int size)
{
    for (int first = 0; first < n; first += size)
        for (int i = first; i < first + size; i += SV_VL) {
            const int lanes = least(SV_VL, first + size - i);
            vf sum = bias ? vf_load_n(bias + i, lanes) : m_set(0.0f);
            for (int j = 0; j < size; j++)
                sum = m_fma(m_set(x[first + j]), vf_load_n(w + (ptrdiff_t)j * n + i, lanes), sum);
            vf_store_n(y + i, sum, lanes);
        }
}

#if SV_SIMD_ISA > 0
#if SV_SIMD_ISA == 2
#define SPREAD(x, j) _mm512_permute_ps(x, (j)*0x55)
#else
#define SPREAD(x, j) _mm256_permute_ps(x, (j)*0x55)
#endif
/* Blocks of 4: a vector holds several, and element j of each block is spread over its four lanes. */
static void blocks_of_four(float *y, const float *x, const float *w, const float *bias, int n)
{
    for (int i = 0; i < n; i += SV_VL) {
        const int lanes = least(SV_VL, n - i);
        const vf v = vf_load_n(x + i, lanes);
        vf sum = bias ? vf_load_n(bias + i, lanes) : m_set(0.0f);
        sum = m_fma(SPREAD(v, 0), vf_load_n(w + i, lanes), sum);
        sum = m_fma(SPREAD(v, 1), vf_load_n(w + (ptrdiff_t)n + i, lanes), sum);
        sum = m_fma(SPREAD(v, 2), vf_load_n(w + (ptrdiff_t)2 * n + i, lanes), sum);
        sum = m_fma(SPREAD(v, 3), vf_load_n(w + (ptrdiff_t)3 * n + i, lanes), sum);
        vf_store_n(y + i, sum, lanes);
    }
}
#endif

static void blocks(float *y, const float *x, const float *w, const float *bias, int n, int size)
{
#if SV_SIMD_ISA > 0
    if (size == 4) {
        blocks_of_four(y, x, w, bias, n);
        return;
    }
#endif
    any_blocks(y, x, w, bias, n, size);
}

const sv_heads_kernels SV_SIMD(sv_heads_kernels) = {.norm = norm, .blocks = blocks};
