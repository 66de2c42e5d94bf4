/* SPDX-License-Identifier: Apache-2.0
 *
 * The product inside the sub-manifold convolution, one per instruction set (subm_conv.simd.c).
 */
#ifndef SV_SUBM_CONV_H
#define SV_SUBM_CONV_H

#include "perception/core/simd.h"

#include <stddef.h>

typedef struct subm_kernels {
    /* y[p][0..out-1] += sum over i ascending of x[p][i] * w[i*pitch + 0..out-1], for each of the pairs p. */
    void (*accumulate)(float *const *y, const float *const *x, int pairs, const float *w, ptrdiff_t pitch,
                       int in, int out);
} subm_kernels;

SV_SIMD_TABLE(subm_kernels);

#endif
