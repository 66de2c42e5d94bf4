/* SPDX-License-Identifier: Apache-2.0
 *
 * Prefix sums (prefix.cuh) in one kernel: a block adds its 2048 numbers, and the block that ends last adds up the
 * blocks.
 */
#include "prefix.cuh"

#include "launch.cuh"

namespace {

enum { THREADS = SV_PREFIX_BLOCK / SV_PREFIX_GROUP, WARPS = THREADS / 32 };

/* Exclusive prefix of 'value' over the block's threads; 'sum': of all. All threads call. */
__device__ int prefix_of_threads(int value, int *sum)
{
    __shared__ int warps[WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int inclusive = value;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, inclusive, d);
        if (lane >= d) inclusive += other;
    }
    if (lane == 31) warps[warp] = inclusive;
    __syncthreads();
    int before = 0, all = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        before += w < warp ? warps[w] : 0;
        all += warps[w];
    }
    __syncthreads();
    *sum = all;
    return before + inclusive - value;
}

template <bool bits> __global__ void __launch_bounds__(THREADS) add_blocks(sv_cuda_prefix p)
{
    __shared__ bool last;
    sv_wait_before_of_few();
    const int64_t group = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    uint32_t eight[SV_PREFIX_GROUP];
    sv_prefix_load(eight, p, group);
    int own = 0, sum;
#pragma unroll
    for (int i = 0; i < SV_PREFIX_GROUP; i++) own += bits ? __popc(eight[i]) : (int)eight[i];
    p.before[group] = prefix_of_threads(own, &sum);
    if (threadIdx.x == 0) {
        p.totals[blockIdx.x] = sum;
        __threadfence();
        last = atomicAdd(p.ticket, 1) == (uint32_t)p.blocks - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    const int each = (p.blocks + THREADS - 1) / THREADS, first = min((int)threadIdx.x * each, p.blocks),
              end = min(first + each, p.blocks);
    volatile int32_t *totals = p.totals; /* by other blocks, so not from this processor's cache */
    own = 0;
    for (int i = first; i < end; i++) own += totals[i];
    int before = prefix_of_threads(own, &sum);
    for (int i = first; i < end; i++) {
        const int here = totals[i];
        totals[i] = before;
        before += here;
    }
    if (threadIdx.x == 0) totals[p.blocks] = sum;
}

} // namespace

sv_status sv_cuda_prefixes_alloc(sv_ctx *c, sv_cuda_prefix *out, const int64_t *counts, int prefixes)
{
    enum { HEAD = 8 }; /* numbers before the others: a ticket; groups are read as 16-byte pieces */
    size_t all = 0;
    for (int i = 0; i < prefixes; i++) {
        out[i].blocks = (int32_t)((counts[i] + SV_PREFIX_BLOCK - 1) / SV_PREFIX_BLOCK);
        all += HEAD
        +(size_t)out[i].blocks *SV_PREFIX_BLOCK;
    }
    void *numbers = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "prefix numbers", all * sizeof(uint32_t), &numbers));
    uint32_t *at = (uint32_t *)numbers;
    for (int i = 0; i < prefixes; i++) {
        const size_t blocks = (size_t)out[i].blocks;
        void *before = NULL, *totals = NULL;
        SV_TRY(sv_arena_alloc(c, &c->scratch, "prefix groups", blocks * THREADS * sizeof(int32_t), &before));
        SV_TRY(sv_arena_alloc(c, &c->scratch, "prefix blocks", (blocks + 1) * sizeof(int32_t), &totals));
        out[i].ticket = at;
        out[i].numbers = at + HEAD;
        out[i].before = (int32_t *)before;
        out[i].totals = (int32_t *)totals;
        at += HEAD
        +blocks *SV_PREFIX_BLOCK;
    }
    SV_CUDA_TRY(c, "prefix", cudaMemsetAsync(numbers, 0, all * sizeof(uint32_t), sv_cuda_stream(c)));
    return SV_OK;
}

sv_status sv_cuda_prefix_sums(sv_ctx *c, sv_cuda_prefix p)
{
    if (p.blocks == 0) return SV_OK;
    return sv_launch_early(c, "prefix sums", add_blocks<false>, p, dim3((unsigned)p.blocks), THREADS, 0);
}

sv_status sv_cuda_prefix_bits(sv_ctx *c, sv_cuda_prefix p)
{
    if (p.blocks == 0) return SV_OK;
    return sv_launch_early(c, "prefix bits", add_blocks<true>, p, dim3((unsigned)p.blocks), THREADS, 0);
}
