/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector part of norm.c.
 */
#ifndef SV_NORM_CPU_H
#define SV_NORM_CPU_H

#include "ops.h"
#include "simd.h"

typedef struct sv_norm_kernels {
    /* Mean of n numbers and 1 / sqrt(population variance + eps). */
    void (*moments)(const float *x, int n, float eps, float *mean, float *scale);
    /* y = residual + map((x - mean) * scale * weight + bias); residual may be NULL, y may be x or residual */
    void (*apply[SV_MAP_COUNT])(float *y, const float *x, int n, float mean, float scale, const float *weight,
                                const float *bias, const float *residual);
} sv_norm_kernels;
SV_SIMD_TABLE(sv_norm_kernels);

#endif
