/* SPDX-License-Identifier: Apache-2.0
 *
 * What moments_cpu.c hands to the vector code of moments.simd.c: heads with second moments of keys, and plain attention.
 */
#ifndef SV_MOMENTS_KERNELS_H
#define SV_MOMENTS_KERNELS_H

#include "perception/core/ops.h"

enum {
    SV_QUERIES = 16,       /* of one task of attention */
    SV_TAYLOR_TOKENS = 64, /* of a chunk */
};

typedef struct sv_moments_job {
    sv_tensor y, q, k, v, g, beta, lamb;
    sv_tensor states, work; /* work: a row per worker */
    const sv_second_order *second;
    const sv_taylor *taylor;
    const sv_sequence *seq;
    int heads, keys, values, window, stride, tasks;
    float scale;
    const double *since; /* [groups*heads][length] sums of decay; NULL: none */
} sv_moments_job;

typedef struct sv_moments_kernels {
    /* All tokens of a group, one head. */
    void (*second_order)(const sv_moments_job *job, int group, int head, float *work);
    void (*taylor)(const sv_moments_job *job, int group, int head, float *work);
    void (*mesa)(const sv_moments_job *job, int group, int head, float *work);
    /* Queries first .. first+count-1. */
    void (*attention)(const sv_moments_job *job, int group, int head, int first, int count, float *work);
} sv_moments_kernels;

#endif
