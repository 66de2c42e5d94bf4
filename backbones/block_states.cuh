/* SPDX-License-Identifier: Apache-2.0
 *
 * States that are asked and rewritten by blocks: what local.cu hands to block_states.cu.
 */
#ifndef SV_BLOCK_STATES_CUH
#define SV_BLOCK_STATES_CUH

#include "backbones/walk.cuh"

enum { SV_BLOCK_ROWS = 16, SV_BLOCK_CHANNELS = 128 }; /* the most that shared memory is laid out for */

typedef struct sv_block_job {
    sv_tensor y, q, k, v, states, after;
    sv_block_states rule;
    sv_walk walk;
    int32_t width; /* of a head */
    float *work;   /* of all groups; local.cu only */
    int64_t work_floats;
} sv_block_job;

bool sv_cuda_block_fits(const sv_block_job *job);
sv_status sv_cuda_block_walk(sv_ctx *c, const sv_block_job *job, int groups);

#endif
