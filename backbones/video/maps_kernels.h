/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector part of maps_cpu.c. A row is a cell's channels.
 */
#ifndef SV_MAPS_KERNELS_H
#define SV_MAPS_KERNELS_H

#include "perception/core/ops.h"
#include "perception/core/simd.h"

#include <stdint.h>

typedef struct sv_maps_kernels {
    /* Per channel: mean of 'rows' rows and the sum of squares about it. */
    void (*moments)(const float *x, int64_t pitch, int rows, int channels, float *mean, float *squares);
    /* y = map((x - mean) * scale + shift) of one row */
    void (*apply[SV_MAP_COUNT])(float *y, const float *x, int channels, const float *mean, const float *scale,
                                const float *shift);
    /* y = x + a * before, complex: 'half' real parts, then as many imaginary ones; before NULL: y = x; y may be any of them */
    void (*advance)(float *y, const float *x, const float *a, const float *before, int half);
    /* y = sum of w[i] * x[i], i < 4, added in this order; x[i] NULL: left out */
    void (*blend)(float *y, const float *const *x, const float *w, int channels);
    void (*multiply)(float *y, const float *x, const float *gate, int channels); /* y may be x */
} sv_maps_kernels;
SV_SIMD_TABLE(sv_maps_kernels);

#endif
