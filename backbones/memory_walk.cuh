/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kernels of memories that learn while they are read share (memory.cu, memory_columns.cu,
 * memory_train.cu).
 */
#ifndef SV_MEMORY_WALK_CUH
#define SV_MEMORY_WALK_CUH

#include "backbones/walk.cuh"

enum {
    SV_MEMORY_WIDTH = 32,   /* channels of a head, */
    SV_MEMORY_TOKENS = 16,  /* tokens of a mini-batch, */
    SV_MEMORY_HIDDEN = 128, /* and channels inside a perceptron that registers and shared memory hold */
};

typedef struct sv_memory_job {
    sv_tensor y, states;
    sv_memory_inputs in;
    sv_memory rule;
    sv_walk walk;
    int32_t width;
    float *work;         /* of all heads of all groups; memory.cu only */
    int64_t work_floats; /* of one */
} sv_memory_job;

/* Heads of up to SV_MEMORY_WIDTH channels: Titans and Miras; TTT with mini-batches of up to SV_MEMORY_TOKENS
 * and up to SV_MEMORY_HIDDEN channels inside. */
sv_status sv_cuda_memory_columns(sv_ctx *c, const sv_memory_job *job, int groups, cudaStream_t stream);
sv_status sv_cuda_memory_train(sv_ctx *c, const sv_memory_job *job, int groups, cudaStream_t stream);

#ifdef __CUDACC__

/* A head's part of a token's row, and its number of one. */
static __device__ __forceinline__ float *sv_memory_row(const sv_memory_job &job, const sv_tensor &t,
                                                       int64_t group, int step, int head)
{
    return sv_walk_row(t, job.walk, group, step) + head * job.width;
}
static __device__ __forceinline__ float sv_memory_number(const sv_memory_job &job, const sv_tensor &t,
                                                         int64_t group, int step, int head)
{
    return sv_walk_row(t, job.walk, group, step)[head];
}

#endif
#endif
