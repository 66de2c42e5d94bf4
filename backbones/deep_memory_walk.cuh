/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kernels of deep memories share (deep_memory.cu, deep_memory_chunks.cu, deep_memory_window.cu).
 */
#ifndef SV_DEEP_MEMORY_WALK_CUH
#define SV_DEEP_MEMORY_WALK_CUH

#include "backbones/walk.cuh"

/* The largest perceptrons that deep_memory_chunks.cu takes. */
enum { SV_DEEP_WIDTH = 32, SV_DEEP_HIDDEN = 128, SV_DEEP_TOKENS = 16 };
/* The largest memories over monomials that deep_memory_window.cu takes. */
enum { SV_DEEP_NARROW = 8, SV_DEEP_WINDOW = 8 };

typedef struct sv_deep_walk_job {
    sv_tensor y, before, after; /* states */
    sv_deep_inputs in;
    sv_deep_memory rule;
    sv_walk walk;
    int32_t width;
    double *work; /* of all heads of all groups; deep_memory.cu only */
    int64_t work_doubles;
} sv_deep_walk_job;

/* Whether its matrices have room in this GPU's shared memory. */
bool sv_cuda_deep_fits(const sv_deep_memory *rule, int width);
bool sv_cuda_deep_window_fits(const sv_deep_memory *rule, int width);
sv_status sv_cuda_deep_window(sv_ctx *c, const sv_deep_walk_job *job, int groups, cudaStream_t stream);
sv_status sv_cuda_deep_chunks(sv_ctx *c, const sv_deep_walk_job *job, int groups, cudaStream_t stream);

#endif
