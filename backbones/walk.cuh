/* SPDX-License-Identifier: Apache-2.0
 *
 * What the catalogue's scans share on the GPU (walk.h on the CPU): token inputs lie in slots, states are
 * updated where the next call finds them. How a group is cut and who walks what follows from the shapes
 * alone, so that the order of every sum does, too.
 */
#ifndef SV_WALK_CUH
#define SV_WALK_CUH

#include "backbones/sequence.cuh"

/* Rows to update: state_out, or scratch when it is not wanted, holding state_in or zeros. */
sv_status sv_cuda_walk_states(sv_ctx *c, const sv_sequence *seq, int groups, int columns, sv_tensor *out);
/* state_in or zeros in scratch, which nothing else writes: state_out may be state_in, and has rows of groups
 * that are not there, which stay as they are. */
sv_status sv_cuda_walk_before(sv_ctx *c, const sv_sequence *seq, int groups, int columns, sv_tensor *out);

/* How the groups of 'y' are walked. */
typedef struct sv_walk {
    int32_t length;
    bool reverse;
} sv_walk;

static inline sv_walk sv_walk_of(const sv_sequence *seq)
{
    sv_walk walk;
    walk.length = seq->length;
    walk.reverse = seq->reverse;
    return walk;
}

/* A one-row tensor as one that gives this row for every slot. */
static inline sv_tensor sv_walk_constant(sv_tensor t)
{
    t.pitch = 0;
    return t;
}

#ifdef __CUDACC__
enum { SV_WARP = 32 };

/* The row of 't' that walking step 'step' of a group reads or writes. */
static __device__ __forceinline__ float *sv_walk_row(const sv_tensor &t, const sv_walk &walk, int64_t group,
                                                     int step)
{
    return (float *)t.data + sv_slot_of(group, walk.length, step, walk.reverse) * t.pitch;
}

static __device__ __forceinline__ float *sv_walk_group(const sv_tensor &states, int64_t group)
{
    return (float *)states.data + group * states.pitch;
}

/* Groups of which there are tokens. */
static __device__ __forceinline__ int sv_walk_groups(const sv_tensor &y, const sv_walk &walk)
{
    return sv_rows(y) / walk.length;
}

/* Over the warp, in every lane; pairs are fixed and symmetric, so that all lanes get the same bits. */
static __device__ __forceinline__ float sv_warp_sum(float value)
{
    for (int distance = SV_WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}
static __device__ __forceinline__ double sv_warp_sum(double value)
{
    for (int distance = SV_WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}
static __device__ __forceinline__ float sv_warp_most(float value)
{
    for (int distance = SV_WARP / 2; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
    return value;
}
/* a.b of one warp, in every lane. */
static __device__ __forceinline__ float sv_warp_dot(const float *a, const float *b, int count)
{
    float sum = 0;
    for (int i = threadIdx.x % SV_WARP; i < count; i += SV_WARP) sum = fmaf(a[i], b[i], sum);
    return sv_warp_sum(sum);
}
#endif

#endif
