/* SPDX-License-Identifier: Apache-2.0
 *
 * Index primitives on the GPU: gather, sums and maxima over segments, the best rows of a sample.
 */
#include "launch.cuh"
#include "row_norm.cuh"

/* ---- norms behind other work --------------------------------------------------------------------------- */

/* The norm of a row whose pieces the lanes beside this one have; see norm_within(). */
template <int V>
static __device__ __forceinline__ void norm_pieces(sv_numbers<V> &piece, const sv_row_norm_job &norm,
                                                   int channels, int channel)
{
    sv_norm_row<SV_MAP_identity>(piece.at, norm, channels, channels / V, [&](int n) { return channel + n; });
}

/* The norm, where all pieces of a row of 'y' lie in a warp (sv_each_piece()); else none, and the rest has
 * to do it. */
static sv_row_norm_job norm_within(const sv_row_norm *norm, sv_tensor y, bool in_fours)
{
    const int fours = y.dim[1] / 4;
    const sv_row_norm_job job = sv_cuda_row_norm(norm), none = {};
    return in_fours && job.map == SV_MAP_identity && fours <= 32 && (fours & (fours - 1)) == 0 ? job : none;
}
static sv_status norm_the_rest(sv_ctx *c, const sv_row_norm *norm, sv_tensor y, const sv_row_norm_job &done)
{
    if (done.weight || !norm || sv_is_none(norm->weight)) return SV_OK;
    return sv_cuda_norm(c, y, y, norm->weight, norm->bias, norm->eps, norm->map, SV_NONE);
}

/* ---- gather -------------------------------------------------------------------------------------------- */

/* Without 'base' the elements are copied as they are (floats or integers): zero is the same 4 bytes for
 * both. */
template <int V>
static __global__ void gather_kernel(sv_tensor y, sv_tensor x, const int32_t *index, sv_tensor base,
                                     sv_row_norm_job norm)
{
    sv_wait_before();
    sv_each_piece<V>(sv_rows(y), y.dim[1], [&](int row, int channel) {
        const int from = index[row];
        sv_numbers<V> numbers = {};
        if (from >= 0) numbers = sv_read<V>((const float *)x.data + (int64_t)from * x.pitch + channel);
        if (base.data) {
            const sv_numbers<V> under =
                sv_read<V>((const float *)base.data + (int64_t)row * base.pitch + channel);
#pragma unroll
            for (int i = 0; i < V; i++) numbers.at[i] = under.at[i] + numbers.at[i];
        }
        if (norm.weight) norm_pieces<V>(numbers, norm, y.dim[1], channel);
        sv_write<V>((float *)y.data + (int64_t)row * y.pitch + channel, numbers);
    });
}

sv_status sv_cuda_gather_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, sv_tensor base,
                              const sv_row_norm *norm)
{
    if (y.dim[1] == 0) return SV_OK;
    const int32_t *from = (const int32_t *)index.data;
    const bool in_fours =
        sv_cuda_in_fours(y) && sv_cuda_in_fours(x) && (sv_is_none(base) || sv_cuda_in_fours(base));
    const sv_row_norm_job within = norm_within(norm, y, in_fours);
    SV_TRY(sv_launch_next(c, "gather", in_fours ? gather_kernel<4> : gather_kernel<1>,
                          dim3(sv_cuda_row_blocks(y.dim[0], y.dim[1] / (in_fours ? 4 : 1))), SV_CUDA_THREADS,
                          0, y, x, from, base, within));
    return norm_the_rest(c, norm, y, within);
}

sv_status sv_cuda_gather(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, sv_tensor base)
{
    return sv_cuda_gather_norm(c, y, x, index, base, NULL);
}

/* ---- segments ------------------------------------------------------------------------------------------ */

/* One thread adds a segment in its channels, in ascending order: neighbouring threads read neighbouring
 * channels. With a norm all threads of a segment lie in a warp. */
template <int V>
static __global__ void sum_segments(sv_tensor y, sv_tensor x, const int32_t *start, const int32_t *rows,
                                    sv_row_norm_job norm)
{
    enum { AT_ONCE = V == 1 ? 8 : 4 };
    sv_wait_before();
    sv_each_piece<V>(sv_rows(y), y.dim[1], [&](int segment, int channel) {
        const int first = start[segment], end = start[segment + 1];
        const float *in = (const float *)x.data + channel;
        sv_numbers<V> result = {};
        for (int block = first; block < end; block += AT_ONCE) {
            sv_numbers<V> value[AT_ONCE]; /* on their way together */
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int j = min(block + i, end - 1);
                value[i] = sv_read<V>(in + (int64_t)(rows ? rows[j] : j) * x.pitch);
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
#pragma unroll
                for (int n = 0; n < V; n++)
                    if (block + i < end) result.at[n] += value[i].at[n];
        }
        if (norm.weight) norm_pieces<V>(result, norm, y.dim[1], channel);
        sv_write<V>((float *)y.data + (int64_t)segment * y.pitch + channel, result);
    });
}

enum { MAX_WARPS = 8, MAX_CHANNELS = 128, PER_LANE = MAX_CHANNELS / 32, LONG_SEGMENT = 32 };

/* Maxima of every 'step'-th row from 'from' on, of a lane's channels. A NaN stays only where the segment
 * begins, as it does when rows are compared one after the other. */
template <int AT_ONCE>
static __device__ __forceinline__ void walk_maxima(float (&best)[PER_LANE], const sv_tensor &x,
                                                   const int32_t *rows, int first, int end, int from,
                                                   int step, int channel, int channels)
{
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) best[i] = -INFINITY;
    for (int block = from; block < end; block += AT_ONCE * step) {
        float value[AT_ONCE]
                   [PER_LANE]; /* on their way together; the last row again where there are no more */
#pragma unroll
        for (int a = 0; a < AT_ONCE; a++) {
            const int j = block + a * step < end ? block + a * step : block;
            const float *row = (const float *)x.data + (int64_t)(rows ? rows[j] : j) * x.pitch + channel;
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) value[a][i] = channel + 32 * i < channels ? row[32 * i] : 0.0f;
        }
#pragma unroll
        for (int a = 0; a < AT_ONCE; a++)
#pragma unroll
            for (int i = 0; i < PER_LANE; i++)
                best[i] = (a == 0 && block == first) || value[a][i] > best[i] ? value[a][i] : best[i];
    }
}

/* A warp has a short segment; all of a block's share a long one. blockIdx.y: which 128 channels. */
static __global__ void __launch_bounds__(32 * MAX_WARPS)
    max_segments(sv_tensor y, sv_tensor x, const int32_t *start, const int32_t *rows)
{
    __shared__ float parts[MAX_WARPS][MAX_CHANNELS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, channels = y.dim[1],
              channel = blockIdx.y * MAX_CHANNELS + lane, count = sv_rows(y), base = blockIdx.x * MAX_WARPS;
    if (base >= count) return;
    float best[PER_LANE];
    const int own = base + warp;
    if (own < count && start[own + 1] - start[own] <= LONG_SEGMENT) {
        const int first = start[own], end = start[own + 1];
        walk_maxima<4>(best, x, rows, first, end, first, 1, channel, channels);
#pragma unroll
        for (int i = 0; i < PER_LANE; i++)
            if (channel + 32 * i < channels)
                ((float *)y.data)[(int64_t)own * y.pitch + channel + 32 * i] = first < end ? best[i] : 0.0f;
    }
    for (int segment = base; segment < min(base + MAX_WARPS, count); segment++) {
        const int first = start[segment], end = start[segment + 1];
        if (end - first <= LONG_SEGMENT) continue;
        walk_maxima<8>(best, x, rows, first, end, first + warp, MAX_WARPS, channel, channels);
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) parts[warp][lane + 32 * i] = best[i];
        __syncthreads();
        if (threadIdx.x < MAX_CHANNELS && blockIdx.y * MAX_CHANNELS + threadIdx.x < channels) {
            float result = parts[0][threadIdx.x];
            for (int w = 1; w < MAX_WARPS; w++)
                result = parts[w][threadIdx.x] > result ? parts[w][threadIdx.x] : result;
            ((float *)y.data)[(int64_t)segment * y.pitch + blockIdx.y * MAX_CHANNELS + threadIdx.x] = result;
        }
        __syncthreads();
    }
}

sv_status sv_cuda_segment_sum(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor start, sv_tensor rows,
                              const sv_row_norm *norm)
{
    if (y.dim[1] == 0) return SV_OK;
    const int32_t *begin = (const int32_t *)start.data, *of = (const int32_t *)rows.data;
    const bool in_fours = sv_cuda_in_fours(y) && sv_cuda_in_fours(x);
    const sv_row_norm_job within = norm_within(norm, y, in_fours);
    SV_TRY(sv_launch_next(c, "segment_sum", in_fours ? sum_segments<4> : sum_segments<1>,
                          dim3(sv_cuda_row_blocks(y.dim[0], y.dim[1] / (in_fours ? 4 : 1))), SV_CUDA_THREADS,
                          0, y, x, begin, of, within));
    return norm_the_rest(c, norm, y, within);
}

sv_status sv_cuda_segment_max(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor start, sv_tensor rows)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    const dim3 grid((unsigned)(y.dim[0] + MAX_WARPS - 1) / MAX_WARPS,
                    (unsigned)(y.dim[1] + MAX_CHANNELS - 1) / MAX_CHANNELS);
    max_segments<<<grid, 32 * MAX_WARPS, 0, sv_cuda_stream(c)>>>(y, x, (const int32_t *)start.data,
                                                                 (const int32_t *)rows.data);
    return SV_CUDA_LAUNCHED(c, "segment_max");
}

/* ---- best rows ----------------------------------------------------------------------------------------- */

/*
 * One block per sample. Scores as integers whose unsigned order is descending score; NaN comes first and -0 equals
 * 0. The integer of the K-th row, the cut, is found by histograms of the range that it lies in, first of all between the
 * least and the greatest integer: scores of a map lie close together, and many counts in one bin would be slow. Then
 * every thread counts and writes the rows of its part of the sample. The integers are read from shared memory where they
 * have room.
 */
enum {
    TOP_THREADS = 1024,
    TOP_WARPS = TOP_THREADS / 32,
    TOP_BITS = 12,
    TOP_BINS = 1 << TOP_BITS,
};

struct top_job {
    int32_t *picks, *picks_offsets;
    sv_tensor scores;
    double share;
};

static __device__ __forceinline__ uint32_t descending_key(const sv_tensor &scores, int row)
{
    const float score = ((const float *)scores.data)[(int64_t)row * scores.pitch];
    uint32_t rising = __float_as_uint(score == 0.0f ? 0.0f : score);
    rising = rising >> 31 ? ~rising : rising | 0x80000000u;
    return isnan(score) ? 0 : ~rising;
}

/* The sum of the values of the block's threads before this one; 'warps' belongs to this call. */
static __device__ __forceinline__ int64_t sum_before(int64_t value, int64_t *warps)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t inclusive = value;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const int64_t other = __shfl_up_sync(0xffffffffu, inclusive, d);
        if (lane >= d) inclusive += other;
    }
    if (lane == 31) warps[warp] = inclusive;
    __syncthreads();
    int64_t before = lane < warp ? warps[lane] : 0;
#pragma unroll
    for (int d = 16; d > 0; d /= 2) before += __shfl_xor_sync(0xffffffffu, before, d);
    return before + inclusive - value;
}

/* The bin that the 'wanted'-th (from 1) of the counted lies in, and how many lie in lower bins: in[0] and in[1]. */
static __device__ __forceinline__ void find_bin(int *in, const int *bins, int wanted, int64_t *warps)
{
    enum { EACH = TOP_BINS / TOP_THREADS };
    int own[EACH], sum = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        own[i] = bins[threadIdx.x * EACH + i];
        sum += own[i];
    }
    int before = (int)sum_before(sum, warps);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        if (wanted > before && wanted <= before + own[i]) { /* one thread's */
            in[0] = threadIdx.x * EACH + i;
            in[1] = before;
        }
        before += own[i];
    }
}

/* 'within': the integers have room in shared memory. */
template <bool within>
static __global__ void __launch_bounds__(TOP_THREADS) pick_top_rows(const __grid_constant__ top_job job)
{
    extern __shared__ uint32_t kept[];
    __shared__ int bins[TOP_BINS], in[2];
    __shared__ int64_t warps[2][TOP_WARPS];
    __shared__ uint32_t least, greatest;
    static_assert(TOP_WARPS == 32, "a warp adds the warps");
    sv_wait_before();
    const sv_tensor &scores = job.scores;
    const int sample = blockIdx.x, first = scores.offsets[sample], rows = scores.offsets[sample + 1] - first;
    const int tid = threadIdx.x, count = (int)(rows * job.share);
    int place = 0;
    for (int b = 0; b < sample; b++) place += (int)((scores.offsets[b + 1] - scores.offsets[b]) * job.share);
    if (tid == 0) {
        job.picks_offsets[sample + 1] = place + count;
        if (sample == 0) job.picks_offsets[0] = 0;
        least = ~0u;
        greatest = 0;
    }
    if (count == 0) return;
    const auto key_of = [&](int row) { return within ? kept[row] : descending_key(scores, first + row); };
    uint32_t low = ~0u, high = 0;
#pragma unroll 8
    for (int i = tid; i < rows; i += TOP_THREADS) {
        const uint32_t key = descending_key(scores, first + i);
        if (within) kept[i] = key;
        low = min(low, key);
        high = max(high, key);
    }
    low = __reduce_min_sync(0xffffffffu, low);
    high = __reduce_max_sync(0xffffffffu, high);
    __syncthreads();
    if (tid % 32 == 0) {
        atomicMin(&least, low);
        atomicMax(&greatest, high);
    }
    __syncthreads();

    uint32_t cut = least; /* the first integer of the range that it lies in, which has so many bits */
    int wanted = count, bits = 32 - __clz((int)(greatest - least));
#pragma unroll 1
    while (bits > 0) {
        const int shift = max(bits - TOP_BITS, 0);
        for (int i = tid; i < TOP_BINS; i += TOP_THREADS) bins[i] = 0;
        __syncthreads();
#pragma unroll 4
        for (int i = tid; i < rows; i += TOP_THREADS) {
            const uint32_t above = key_of(i) - cut; /* those below the range wrap around */
            if ((uint64_t)above >> bits == 0) atomicAdd(&bins[above >> shift], 1);
        }
        __syncthreads();
        find_bin(in, bins, wanted, warps[0]);
        __syncthreads();
        cut += (uint32_t)in[0] << shift;
        wanted -= in[1];
        bits = shift;
    }

    /* 'wanted' rows on the cut are picks, the lowest ones. A thread has an odd number of rows that follow each other: so
     * the threads of a warp read different banks. */
    const int each = (rows + TOP_THREADS - 1) / TOP_THREADS | 1, begin = min(tid * each, rows),
              end = min(begin + each, rows);
    int64_t own = 0; /* rows below the cut, and above 32 bits those on it */
#pragma unroll 4
    for (int i = begin; i < end; i++) {
        const uint32_t key = key_of(i);
        own += key < cut ? 1 : key == cut ? (int64_t)1 << 32 : 0;
    }
    const int64_t before = sum_before(own, warps[1]);
    int below = (int)(uint32_t)before, on = (int)(before >> 32);
#pragma unroll 4
    for (int i = begin; i < end; i++) {
        const uint32_t key = key_of(i);
        if (key < cut || (key == cut && on < wanted)) job.picks[place + below + min(on, wanted)] = first + i;
        below += key < cut;
        on += key == cut;
    }
}

sv_status sv_cuda_top_rows(sv_ctx *c, sv_tensor picks, int32_t *picks_offsets, sv_tensor scores, double share)
{
    const top_job job = {(int32_t *)picks.data, picks_offsets, scores, share};
    cudaFuncAttributes kernel;
    SV_CUDA_TRY(c, "top_rows", cudaFuncGetAttributes(&kernel, pick_top_rows<true>));
    const int64_t bytes = scores.dim[0] * (int64_t)sizeof(uint32_t);
    const bool within = bytes <= sv_cuda_block_bytes(c) - (int64_t)kernel.sharedSizeBytes;
    return sv_launch_early(c, "top_rows", within ? pick_top_rows<true> : pick_top_rows<false>, job,
                           dim3((unsigned)scores.batch), TOP_THREADS, within ? (int)bytes : 0);
}
