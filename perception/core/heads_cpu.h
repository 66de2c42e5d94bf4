/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector part of heads.c.
 */
#ifndef SV_HEADS_CPU_H
#define SV_HEADS_CPU_H

#include "ops.h"
#include "simd.h"

#include <stddef.h>

/* One row of sv_head_norm(); NULL: not there. */
typedef struct sv_head_norm_row {
    float *y;
    const float *x, *weight, *bias, *skip, *skip_weight, *gate;
    int groups, width; /* channels of a group */
    bool centred;
    float eps;
} sv_head_norm_row;

typedef struct sv_heads_kernels {
    void (*norm)(const sv_head_norm_row *row);
    /* One row of sv_block_linear(); w transposed: [size][n]; bias may be NULL. */
    void (*blocks)(float *y, const float *x, const float *w, const float *bias, int n, int size);
} sv_heads_kernels;
SV_SIMD_TABLE(sv_heads_kernels);

#endif
