/* SPDX-License-Identifier: Apache-2.0
 *
 * Windowed attention: dot products, softmax weights and weighted sums of a stretch of rows.
 *
 * Where a head is a whole number of vectors (16 channels are one of AVX-512, two of AVX2), a row is read
 * once, its cache lines in order, and up to VECTORS sums stay in registers. Other widths go head by head.
 */
#include "attention_kernels.h"
#include "perception/core/simd.h"

enum { VECTORS = 8 };

static inline int least(int a, int b)
{
    return a < b ? a : b;
}

/* ---- whole vectors ------------------------------------------------------------------------------------ */

/* Heads of 'each' vectors. */
static inline void whole_scores(float *score, ptrdiff_t step, const float *q, const sv_attention_rows *keys,
                                float scale, int each)
{
    const float *row = keys->rows;
    for (int j = 0; j < keys->count; j++, row += keys->pitch)
        for (int h = 0; h < keys->heads; h++) {
            const int at = h * each * SV_VL;
            vf sum = vf_load(q + at) * vf_load(row + at);
            for (int i = SV_VL; i < each * SV_VL; i += SV_VL)
                sum = m_fma(vf_load(q + at + i), vf_load(row + at + i), sum);
            score[h * step + j] = vf_sum(sum) * scale;
        }
}

/* VECTORS vectors from channel 'first' on. */
static inline void whole_add(float *y, const float *weight, ptrdiff_t step, const sv_attention_rows *values,
                             int first, int vectors)
{
    const float *row = values->rows + first, *of_head[VECTORS];
    vf sum[VECTORS];
    for (int i = 0; i < vectors; i++) {
        sum[i] = vf_load(y + first + i * SV_VL);
        of_head[i] = weight + (first + i * SV_VL) / values->width * step;
    }
    for (int j = 0; j < values->count; j++, row += values->pitch) {
        SV_UNROLL
        for (int i = 0; i < vectors; i++)
            sum[i] = m_fma(m_set(of_head[i][j]), vf_load(row + i * SV_VL), sum[i]);
    }
    for (int i = 0; i < vectors; i++) vf_store(y + first + i * SV_VL, sum[i]);
}

/* ---- any width ---------------------------------------------------------------------------------------- */

static void any_scores(float *score, ptrdiff_t step, const float *q, const sv_attention_rows *keys,
                       float scale)
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

static void any_add(float *y, const float *weight, ptrdiff_t step, const sv_attention_rows *values)
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

/* ------------------------------------------------------------------------------------------------------- */

static void scores(float *score, ptrdiff_t step, const float *q, const sv_attention_rows *keys, float scale)
{
    const int each = keys->width / SV_VL;
    if (keys->width % SV_VL != 0)
        any_scores(score, step, q, keys, scale);
    else if (each == 1)
        whole_scores(score, step, q, keys, scale, 1);
    else if (each == 2)
        whole_scores(score, step, q, keys, scale, 2);
    else
        whole_scores(score, step, q, keys, scale, each);
}

static float weigh(float *score, int count)
{
    vf greatest = m_set(score[0]), sum = m_set(0.0f);
    const int whole = count / SV_VL * SV_VL;
    for (int j = 0; j < whole; j += SV_VL) greatest = m_max(greatest, vf_load(score + j));
    float top = vf_max(greatest), total = 0;
    for (int j = whole; j < count; j++) top = score[j] > top ? score[j] : top;
    for (int j = 0; j < whole; j += SV_VL) {
        const vf e = m_exp(vf_load(score + j) - m_set(top));
        vf_store(score + j, e);
        sum = sum + e;
    }
    if (whole < count) {
        vf_store_n(score + whole, m_exp(vf_load_n(score + whole, count - whole) - m_set(top)), count - whole);
        for (int j = whole; j < count; j++) total += score[j];
    }
    return total + vf_sum(sum);
}

static void add(float *y, const float *weight, ptrdiff_t step, const sv_attention_rows *values)
{
    const int channels = values->heads * values->width;
    if (values->width % SV_VL != 0) {
        any_add(y, weight, step, values);
        return;
    }
    int first = 0;
    for (; first + VECTORS * SV_VL <= channels; first += VECTORS * SV_VL)
        whole_add(y, weight, step, values, first, VECTORS);
    for (; first < channels; first += SV_VL) whole_add(y, weight, step, values, first, 1);
}

const sv_attention_kernels SV_SIMD(sv_attention_kernels) = {.scores = scores, .weigh = weigh, .add = add};
