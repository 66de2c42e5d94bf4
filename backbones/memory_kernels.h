/* SPDX-License-Identifier: Apache-2.0
 *
 * What memory_cpu.c hands to the vector code of memory.simd.c.
 */
#ifndef SV_MEMORY_KERNELS_H
#define SV_MEMORY_KERNELS_H

#include "perception/core/ops.h"

typedef struct sv_memory_job {
    sv_tensor y, states;
    sv_tensor work; /* a row per task, of sv_memory_work() floats */
    const sv_memory_inputs *in;
    const sv_memory *rule;
    const sv_sequence *seq;
    int width;
} sv_memory_job;

typedef struct sv_memory_kernels {
    /* All tokens of a group, one head. */
    void (*run)(const sv_memory_job *job, int group, int head, float *work);
} sv_memory_kernels;

/* Numbers of working memory that lie in front as doubles. */
static inline int64_t sv_memory_doubles(const sv_memory *rule, int width)
{
    const int64_t square = (int64_t)width * width;
    return rule->kind == SV_MEMORY_MOMENTUM ? 3 * square + 5 * width
           : rule->kind == SV_MEMORY_NORM   ? square + width
                                            : 0;
}

/* Floats of working memory of one head, a multiple of 16. */
static inline int64_t sv_memory_work(const sv_memory *rule, int width)
{
    const int64_t batch = rule->batch, hidden = rule->kind == SV_MEMORY_MLP ? rule->hidden : 0;
    const int64_t floats = (batch + 4) * width + (3 * batch + 2) * hidden;
    return (2 * sv_memory_doubles(rule, width) + floats + 15) / 16 * 16;
}

#endif
