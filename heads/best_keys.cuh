/* SPDX-License-Identifier: Apache-2.0
 *
 * The smallest of many 64-bit keys on the GPU, sorted. Keys are collected in any order, with a count of the
 * bin each falls into; then
 *
 *   the bin that the last wanted key falls into -> keys up to that bin -> exactly the wanted ones -> sorted
 *
 * All keys of a sample differ, so the order in which they were collected leaves no trace. Included by the
 * .cu files of heads/.
 */
#ifndef SV_BEST_KEYS_CUH
#define SV_BEST_KEYS_CUH

#include "perception/core/launch.cuh"

namespace {

enum { KEY_BINS = 8192, SORT_THREADS = 1024, COLLECT_BLOCKS = 128 };
/* So many keys are put in order without being cut to the wanted ones first, which takes longer. */
enum { SORT_ENOUGH = 8192 };
enum { RANK_THREADS = 1024, RANK_PARTS = 32, RANK_KEYS = RANK_THREADS / RANK_PARTS, RANK_TILE = 4096 };

struct best_keys {
    int room, batch, most;          /* keys of a sample at most; samples; keys wanted of each */
    int32_t *bins;                  /* [batch][KEY_BINS] */
    int32_t *passed, *limit, *near; /* [batch] keys collected; last bin; keys up to that bin */
    const int32_t *first;           /* [batch] place of a sample's keys; NULL: every 'room' */
    uint64_t *keys, *best;          /* in the end the wanted ones lie at the front of a sample's 'keys' */
};

__device__ __forceinline__ int64_t first_key(const best_keys &list, int b)
{
    return list.first ? list.first[b] : (int64_t)b * list.room;
}

/* In the scratch arena, counts zeroed. 'total' keys of all samples together. */
sv_status alloc_keys(sv_ctx *c, best_keys *out, int room, int batch, int most, int64_t total)
{
    void *counts = NULL, *keys = NULL, *best = NULL;
    const size_t count_bytes = sizeof(int32_t) * (size_t)batch * (KEY_BINS + 3),
                 key_bytes = sizeof(uint64_t) * (size_t)total;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "candidate counts", count_bytes, &counts));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "candidate keys", key_bytes, &keys));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "best candidate keys", key_bytes, &best));
    out->room = room;
    out->batch = batch;
    out->most = most < room ? most : room;
    out->bins = (int32_t *)counts;
    out->passed = out->bins + batch * KEY_BINS;
    out->limit = out->passed + batch;
    out->near = out->limit + batch;
    out->keys = (uint64_t *)keys;
    out->best = (uint64_t *)best;
    SV_CUDA_TRY(c, "best keys", cudaMemsetAsync(counts, 0, count_bytes, sv_cuda_stream(c)));
    return SV_OK;
}

/* The first of 'wanted' places for each thread in a list that grows by a shared counter; one addition per
 * block. */
__device__ __forceinline__ int take_places(int wanted, int32_t *counter)
{
    __shared__ int counts[32], first;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    int sum = wanted;
    for (int d = 1; d < 32; d *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, sum, d);
        if (lane >= d) sum += other;
    }
    if (lane == 31) counts[warp] = sum;
    __syncthreads();
    int before = sum - wanted, all = 0;
    for (int w = 0; w < warps; w++) {
        if (w < warp) before += counts[w];
        all += counts[w];
    }
    if (threadIdx.x == 0) first = all > 0 ? atomicAdd(counter, all) : 0;
    __syncthreads();
    const int place = first + before;
    __syncthreads(); /* the counts may be used again */
    return place;
}

/* One block per sample: the first bin with which enough keys have been seen. */
__global__ void __launch_bounds__(SORT_THREADS) find_limit(const __grid_constant__ best_keys job)
{
    __shared__ int sums[32];
    sv_wait_before();
    const int b = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    constexpr int per = KEY_BINS / SORT_THREADS;
    int own[per], sum = 0;
#pragma unroll
    for (int i = 0; i < per; i++) {
        own[i] = job.bins[b * KEY_BINS + threadIdx.x * per + i];
        sum += own[i];
    }
    int before = -sum;
    for (int d = 1; d < 32; d *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, sum, d);
        if (lane >= d) sum += other;
    }
    if (lane == 31) sums[warp] = sum;
    if (threadIdx.x == 0) job.limit[b] = KEY_BINS - 1;
    __syncthreads();
    before += sum;
    for (int w = 0; w < warp; w++) before += sums[w];
#pragma unroll
    for (int i = 0; i < per; i++) {
        if (before < job.most && before + own[i] >= job.most) job.limit[b] = threadIdx.x * per + i;
        before += own[i];
    }
}

/* The key that 'most' of 'count' keys do not exceed: its bytes from the highest to the lowest. */
__device__ uint64_t threshold(const uint64_t *keys, int count, int most, int32_t *bins)
{
    uint64_t prefix = 0;
    __shared__ int digit, left;
    int wanted = most;
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += SORT_THREADS) bins[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += SORT_THREADS)
            if (shift == 56 || keys[i] >> (shift + 8) == prefix >> (shift + 8))
                atomicAdd(&bins[keys[i] >> shift & 255], 1);
        __syncthreads();
        if (threadIdx.x == 0) {
            int d = 0, seen = 0;
            while (seen + bins[d] < wanted) seen += bins[d++];
            digit = d;
            left = wanted - seen;
        }
        __syncthreads();
        prefix |= (uint64_t)digit << shift;
        wanted = left;
        __syncthreads();
    }
    return prefix;
}

/* One block per sample: where far more are near than wanted (many equal scores), the wanted ones alone. */
__global__ void __launch_bounds__(SORT_THREADS) cut_near(const __grid_constant__ best_keys job)
{
    __shared__ int32_t bins[256], taken;
    sv_wait_before();
    const int b = blockIdx.x, count = job.near[b];
    uint64_t *best = job.best + first_key(job, b), *kept = job.keys + first_key(job, b);
    if (count <= max(job.most, (int)SORT_ENOUGH)) return;
    const uint64_t last = threshold(best, count, job.most, bins);
    if (threadIdx.x == 0) taken = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += SORT_THREADS)
        if (best[i] <= last) kept[atomicAdd(&taken, 1)] = best[i];
    __syncthreads();
    for (int i = threadIdx.x; i < job.most; i += SORT_THREADS) best[i] = kept[i];
    if (threadIdx.x == 0) job.near[b] = job.most;
}

template <typename Bin> struct keep_job {
    best_keys list;
    Bin bin_of;
};

template <typename Bin>
__global__ void __launch_bounds__(SV_CUDA_THREADS) keep_near(const __grid_constant__ keep_job<Bin> keep)
{
    sv_wait_before();
    const best_keys &job = keep.list;
    const int b = blockIdx.y, count = job.passed[b], limit = job.limit[b];
    const uint64_t *keys = job.keys + first_key(job, b);
    uint64_t *best = job.best + first_key(job, b);
    for (int block = blockIdx.x * SV_CUDA_THREADS; block < count; block += gridDim.x * SV_CUDA_THREADS) {
        const int i = block + threadIdx.x;
        const uint64_t key = i < count ? keys[i] : 0;
        const bool near = i < count && keep.bin_of(key) <= limit;
        const int place = take_places(near, &job.near[b]);
        if (near) best[place] = key;
    }
}

/* Puts the wanted keys, ascending, to the front of 'keys', whose other contents are lost. */
struct put_key {
    __device__ void operator()(const best_keys &list, int b, int rank, uint64_t key) const
    {
        list.keys[first_key(list, b) + rank] = key;
    }
    __device__ void before() const {}
};

template <typename Then> struct rank_job {
    best_keys list;
    Then then;
};

/* then.before() by every thread, and then(list, sample, place, key) for each wanted key: its place is how
 * many are smaller. Several threads count for a key. */
template <typename Then>
__global__ void __launch_bounds__(RANK_THREADS) rank_keys(const __grid_constant__ rank_job<Then> job)
{
    __shared__ uint64_t others[RANK_TILE];
    sv_wait_before();
    job.then.before();
    const best_keys &list = job.list;
    const int b = blockIdx.y, count = list.near[b], part = threadIdx.x % RANK_PARTS;
    const uint64_t *best = list.best + first_key(list, b);
    for (int first = blockIdx.x * RANK_KEYS; first < count; first += gridDim.x * RANK_KEYS) {
        const int own = first + threadIdx.x / RANK_PARTS;
        const uint64_t key = best[min(own, count - 1)];
        int rank = 0;
        for (int start = 0; start < count; start += RANK_TILE) {
            const int here = min(count - start, (int)RANK_TILE);
            __syncthreads();
#pragma unroll
            for (int i = threadIdx.x; i < RANK_TILE; i += RANK_THREADS)
                if (i < here) others[i] = best[start + i];
            __syncthreads();
#pragma unroll 8
            for (int i = part; i < here; i += RANK_PARTS) rank += others[i] < key;
        }
        rank = __reduce_add_sync(0xffffffffu, rank);
        if (part == 0 && own < count && rank < list.most) job.then(list, b, rank, key);
    }
}

/* The wanted of the keys in 'best', in order, to 'then'. */
template <typename Then> sv_status order_keys(sv_ctx *c, const best_keys &list, Then then)
{
    static_assert(RANK_PARTS == 32, "a warp has a key");
    const int blocks = max(1, (min(list.room, max(list.most, (int)SORT_ENOUGH)) + RANK_KEYS - 1) / RANK_KEYS);
    const rank_job<Then> job = {list, then};
    return sv_launch_early(c, "best keys", rank_keys<Then>, job, dim3((unsigned)blocks, (unsigned)list.batch),
                           RANK_THREADS, 0);
}

/* What was collected, in order, to 'then'. 'bin_of' as in collecting: ascending with the keys. */
template <typename Bin, typename Then>
sv_status sort_keys(sv_ctx *c, const best_keys &list, Bin bin_of, Then then)
{
    const unsigned blocks = min(sv_cuda_blocks(list.room), (unsigned)SV_CUDA_ROW_BLOCKS);
    const keep_job<Bin> job = {list, bin_of};
    SV_TRY(sv_launch_early(c, "best keys", find_limit, list, dim3((unsigned)list.batch), SORT_THREADS, 0));
    SV_TRY(sv_launch_early(c, "best keys", keep_near<Bin>, job, dim3(blocks, (unsigned)list.batch),
                           SV_CUDA_THREADS, 0));
    SV_TRY(sv_launch_early(c, "best keys", cut_near, list, dim3((unsigned)list.batch), SORT_THREADS, 0));
    return order_keys(c, list, then);
}

} // namespace

#endif
