/* SPDX-License-Identifier: Apache-2.0
 *
 * Prefix sums over many numbers, and with them ranks: where keys are distinct and their range is small enough
 * for a bit each, the rank of a key is the number of marked bits below it, at a fraction of a sort's time.
 *
 *     sv_cuda_prefixes_alloc() zeros
 *     kernels add to the numbers, or mark bits by sv_prefix_mark()
 *     sv_cuda_prefix_sums()    of the numbers;  sv_cuda_prefix_bits()  of their marked bits
 *     kernels read sv_prefix_sum(), or sv_prefix_rank()
 *
 * Sums are kept per group of 8 numbers within a block of 2048, and per block; what is left of a group is added by
 * who asks. All of it is integers: nothing depends on the order of the work.
 */
#ifndef SV_PREFIX_CUH
#define SV_PREFIX_CUH

#include "cuda.cuh"

enum {
    SV_PREFIX_GROUP = 8,                         /* numbers */
    SV_PREFIX_BLOCK = 256 * SV_PREFIX_GROUP,     /* numbers */
    SV_PREFIX_BLOCK_KEYS = SV_PREFIX_BLOCK * 32, /* keys that share a block of bits */
};

typedef struct sv_cuda_prefix {
    uint32_t *numbers;
    int32_t *before; /* of a group: the sum before it within its block */
    int32_t *totals; /* [blocks + 1] the sum before each block; the last is everything */
    uint32_t *ticket;
    int32_t blocks;
} sv_cuda_prefix;

/* Room for counts[i] numbers each, all zero, in the scratch arena. */
sv_status sv_cuda_prefixes_alloc(sv_ctx *c, sv_cuda_prefix *out, const int64_t *counts, int prefixes);
sv_status sv_cuda_prefix_sums(sv_ctx *c, sv_cuda_prefix p);
sv_status sv_cuda_prefix_bits(sv_ctx *c, sv_cuda_prefix p);

#ifdef __CUDACC__

static __device__ __forceinline__ void sv_prefix_mark(const sv_cuda_prefix &p, int64_t key)
{
    atomicOr(&p.numbers[key >> 5], 1u << (key & 31));
}

/* The eight numbers of a group. */
static __device__ __forceinline__ void sv_prefix_load(uint32_t (&eight)[SV_PREFIX_GROUP],
                                                      const sv_cuda_prefix &p, int64_t group)
{
    const uint4 *from = (const uint4 *)(p.numbers + group * SV_PREFIX_GROUP);
    const uint4 low = from[0], high = from[1];
    eight[0] = low.x, eight[1] = low.y, eight[2] = low.z, eight[3] = low.w;
    eight[4] = high.x, eight[5] = high.y, eight[6] = high.z, eight[7] = high.w;
}

/* numbers[0] + ... + numbers[index - 1] */
static __device__ __forceinline__ int sv_prefix_sum(const sv_cuda_prefix &p, int index)
{
    uint32_t eight[SV_PREFIX_GROUP];
    sv_prefix_load(eight, p, index / SV_PREFIX_GROUP);
    int sum = p.totals[index / SV_PREFIX_BLOCK] + p.before[index / SV_PREFIX_GROUP];
#pragma unroll
    for (int i = 0; i < SV_PREFIX_GROUP; i++) sum += i < index % SV_PREFIX_GROUP ? (int)eight[i] : 0;
    return sum;
}

/* Marked keys below 'key'. */
static __device__ __forceinline__ int sv_prefix_rank(const sv_cuda_prefix &p, int64_t key)
{
    const int64_t group = key / (32 * SV_PREFIX_GROUP);
    const int word = (int)(key / 32 % SV_PREFIX_GROUP);
    uint32_t eight[SV_PREFIX_GROUP];
    sv_prefix_load(eight, p, group);
    int sum = p.totals[key / SV_PREFIX_BLOCK_KEYS] + p.before[group];
#pragma unroll
    for (int i = 0; i < SV_PREFIX_GROUP; i++) {
        const uint32_t below = i < word ? ~0u : i == word ? (1u << (key & 31)) - 1 : 0;
        sum += __popc(eight[i] & below);
    }
    return sum;
}

#endif
#endif
