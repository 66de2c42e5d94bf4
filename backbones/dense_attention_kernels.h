/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector part of dense_attention_cpu.c.
 */
#ifndef SV_DENSE_ATTENTION_KERNELS_H
#define SV_DENSE_ATTENTION_KERNELS_H

#include "perception/core/simd.h"

typedef struct sv_dense_attention_kernels {
    /* s = e^(scale (s - max s)); the sum of them. scale > 0 */
    float (*weigh)(float *s, int n, float scale);
    /* y = y * factor */
    void (*scale)(float *y, int n, float factor);
} sv_dense_attention_kernels;
SV_SIMD_TABLE(sv_dense_attention_kernels);

#endif
