/* SPDX-License-Identifier: Apache-2.0
 *
 * What deep_memory_cpu.c hands to the vector code of deep_memory.simd.c.
 */
#ifndef SV_DEEP_MEMORY_KERNELS_H
#define SV_DEEP_MEMORY_KERNELS_H

#include "perception/core/ops.h"

typedef struct sv_deep_job {
    sv_tensor y, states;
    const sv_deep_inputs *in;
    const sv_deep_memory *rule;
    const sv_sequence *seq;
    int width;
} sv_deep_job;

static inline int64_t sv_deep_monomials(int64_t width)
{
    return 1 + width + width * (width + 1) / 2;
}

/* Doubles of working memory of one head. */
static inline int64_t sv_deep_work(const sv_deep_memory *rule, int64_t width)
{
    const int64_t f = sv_deep_monomials(width), hidden = rule->hidden, batch = rule->batch;
    if (rule->kind == SV_DEEP_PERCEPTRON) return 6 * width * hidden + 3 * hidden + 2 * width;
    return 3 * f * width + 2 * width * width + batch * (f + width + 1) + f + width;
}

typedef struct sv_deep_kernels {
    /* All tokens of a group, one head. */
    void (*run)(const sv_deep_job *job, int group, int head, double *work);
} sv_deep_kernels;

#endif
