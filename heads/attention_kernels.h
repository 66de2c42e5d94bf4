/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector kernels of windowed attention (window_attention_cpu.c). 'count' keys lie 'pitch' floats apart, their
 * channels in 'heads' heads of 'width'. Numbers per key and head lie [heads][step].
 */
#ifndef SV_ATTENTION_KERNELS_H
#define SV_ATTENTION_KERNELS_H

#include <stddef.h>

typedef struct sv_attention_rows {
    const float *rows;
    ptrdiff_t pitch;
    int count, heads, width;
} sv_attention_rows;

typedef struct sv_attention_kernels {
    /* score[h][j] = scale * q_h . k_jh */
    void (*scores)(float *score, ptrdiff_t step, const float *q, const sv_attention_rows *keys, float scale);
    /* score[j] becomes e^(score[j] - greatest); returns their sum. count > 0. */
    float (*weigh)(float *score, int count);
    /* y_h += sum_j weight[h][j] v_jh */
    void (*add)(float *y, const float *weight, ptrdiff_t step, const sv_attention_rows *values);
} sv_attention_kernels;

#endif
