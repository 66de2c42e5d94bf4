/* SPDX-License-Identifier: Apache-2.0
 *
 * Windowed attention: dot products, softmax weights and weighted sums of a stretch of rows. Lanes are channels of one head; heads
 * go outside, because a stretch of rows stays in the first-level cache.
 */
#include "attention_kernels.h"
#include "perception/core/simd.h"

static inline int least(int a, int b)
{
    return a < b ? a : b;
}

static void scores(float *score, ptrdiff_t step, const float *q, const sv_attention_rows *keys, float scale)
{
    for (int h = 0; h < keys->heads; h++) {
        const float *from = q + h * keys->width, *row = keys->rows + h * keys->width;
        for (int j = 0; j < keys->count; j++, row += keys->pitch) {
            vf sum = m_set(0.0f);
            for (int i = 0; i < keys->width; i += SV_VL) {
                const int lanes = least(SV_VL, keys->width - i);
                sum = m_fma(vf_load_n(from + i, lanes), vf_load_n(row + i, lanes), sum);
            }
            score[h * step + j] = vf_sum(sum) * scale;
        }
    }
}

static float weigh(float *score, int count)
{
    float greatest = score[0], total = 0;
    for (int j = 1; j < count; j++) greatest = score[j] > greatest ? score[j] : greatest;
    vf sum = m_set(0.0f);
    for (int j = 0; j < count; j += SV_VL) {
        const int lanes = least(SV_VL, count - j);
        const vf e = m_exp(vf_load_n(score + j, lanes) - m_set(greatest));
        vf_store_n(score + j, e, lanes);
        if (lanes == SV_VL)
            sum = sum + e;
        else
            for (int i = j; i < count; i++) total += score[i];
    }
    return total + vf_sum(sum);
}

static void add(float *y, const float *weight, ptrdiff_t step, const sv_attention_rows *values)
{
    for (int h = 0; h < values->heads; h++)
        for (int i = 0; i < values->width; i += SV_VL) {
            const int lanes = least(SV_VL, values->width - i), at = h * values->width + i;
            const float *row = values->rows + at;
            vf sum = vf_load_n(y + at, lanes);
            for (int j = 0; j < values->count; j++, row += values->pitch)
                sum = m_fma(m_set(weight[h * step + j]), vf_load_n(row, lanes), sum);
            vf_store_n(y + at, sum, lanes);
        }
}

const sv_attention_kernels SV_SIMD(sv_attention_kernels) = {.scores = scores, .weigh = weigh, .add = add};
