/* SPDX-License-Identifier: Apache-2.0
 *
 * What local_cpu.c hands to the vector code of local.simd.c.
 */
#ifndef SV_LOCAL_KERNELS_H
#define SV_LOCAL_KERNELS_H

#include "perception/core/ops.h"

typedef struct sv_local_job {
    sv_tensor y, q, k, v, weight, states;
    const sv_local_rule *local;
    const sv_block_states *blocks;
    const sv_sequence *seq;
    int heads, keys, values; /* of a head */
} sv_local_job;

/* Floats of working memory of sv_local_kernels.attend() and .blocks(). */
static inline int64_t sv_local_work(const sv_local_job *job)
{
    return (int64_t)job->local->window * (job->keys + job->values + 1) + job->seq->length;
}
static inline int64_t sv_blocks_work(const sv_local_job *job)
{
    const int64_t n = job->blocks->states, e = (int64_t)job->heads * job->keys;
    const int64_t most = n > job->blocks->block ? n : job->blocks->block;
    return 6 * n * e + most + job->blocks->self.dim[1];
}

typedef struct sv_local_kernels {
    void (*attend)(const sv_local_job *job, int group, int head,
                   float *work);                                     /* all tokens of a group, one head */
    void (*blocks)(const sv_local_job *job, int group, float *work); /* all tokens of a group */
} sv_local_kernels;

#endif
