/* SPDX-License-Identifier: Apache-2.0
 *
 * Index primitives on the GPU: gather, sums and maxima over segments, the best rows of a sample.
 */
#include "cuda.cuh"

/* ---- gather -------------------------------------------------------------------------------------------- */

/* Without 'base' the elements are copied as they are (floats or integers): zero is the same 4 bytes for
 * both. */
static __global__ void gather_kernel(sv_tensor y, sv_tensor x, const int32_t *index, sv_tensor base)
{
    const int64_t item = sv_thread();
    const int channels = y.dim[1];
    const int64_t row = item / channels;
    const int channel = (int)(item % channels);
    if (row >= sv_rows(y)) return;
    const int from = index[row];
    const int32_t bits = from < 0 ? 0 : ((const int32_t *)x.data)[(int64_t)from * x.pitch + channel];
    int32_t *out = (int32_t *)y.data + row * y.pitch + channel;
    *out = base.data
               ? __float_as_int(((const float *)base.data)[row * base.pitch + channel] + __int_as_float(bits))
               : bits;
}

sv_status sv_cuda_gather(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, sv_tensor base)
{
    if (y.dim[1] == 0) return SV_OK;
    gather_kernel<<<sv_cuda_blocks((int64_t)y.dim[0] * y.dim[1]), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(
        y, x, (const int32_t *)index.data, base);
    return SV_CUDA_LAUNCHED(c, "gather");
}

/* ---- segments ------------------------------------------------------------------------------------------ */

/* One thread adds a segment in one channel, in ascending order: neighbouring threads read neighbouring channels. */
static __global__ void sum_segments(sv_tensor y, sv_tensor x, const int32_t *start, const int32_t *rows)
{
    enum { AT_ONCE = 8 };
    const int64_t item = sv_thread();
    const int channels = y.dim[1];
    const int64_t segment = item / channels;
    const int channel = (int)(item % channels);
    if (segment >= sv_rows(y)) return;
    const int first = start[segment], end = start[segment + 1];
    const float *in = (const float *)x.data + channel;
    float result = 0;
    for (int block = first; block < end; block += AT_ONCE) {
        float value[AT_ONCE]; /* on their way together */
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int j = min(block + i, end - 1);
            value[i] = in[(int64_t)(rows ? rows[j] : j) * x.pitch];
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (block + i < end) result += value[i];
    }
    ((float *)y.data)[segment * y.pitch + channel] = result;
}

enum { MAX_WARPS = 8, MAX_CHANNELS = 128, PER_LANE = MAX_CHANNELS / 32, LONG_SEGMENT = 32 };

/* Maxima of every 'step'-th row from 'from' on, of a lane's channels. A NaN stays only where the segment begins, as it
 * does when rows are compared one after the other. */
static __device__ __forceinline__ void walk_maxima(float (&best)[PER_LANE], const sv_tensor &x,
                                                   const int32_t *rows, int first, int end, int from,
                                                   int step, int channel, int channels)
{
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) best[i] = -INFINITY;
#pragma unroll 4
    for (int j = from; j < end; j += step) {
        const float *row = (const float *)x.data + (int64_t)(rows ? rows[j] : j) * x.pitch + channel;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            const float value = channel + 32 * i < channels ? row[32 * i] : 0.0f;
            best[i] = j == first || value > best[i] ? value : best[i];
        }
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
        walk_maxima(best, x, rows, first, end, first, 1, channel, channels);
#pragma unroll
        for (int i = 0; i < PER_LANE; i++)
            if (channel + 32 * i < channels)
                ((float *)y.data)[(int64_t)own * y.pitch + channel + 32 * i] = first < end ? best[i] : 0.0f;
    }
    for (int segment = base; segment < min(base + MAX_WARPS, count); segment++) {
        const int first = start[segment], end = start[segment + 1];
        if (end - first <= LONG_SEGMENT) continue;
        walk_maxima(best, x, rows, first, end, first + warp, MAX_WARPS, channel, channels);
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

sv_status sv_cuda_segment_sum(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor start, sv_tensor rows)
{
    if (y.dim[1] == 0) return SV_OK;
    sum_segments<<<sv_cuda_blocks((int64_t)y.dim[0] * y.dim[1]), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(
        y, x, (const int32_t *)start.data, (const int32_t *)rows.data);
    return SV_CUDA_LAUNCHED(c, "segment_sum");
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
 * Sort key: sample, then the score's bits turned so that unsigned order is descending score; NaN comes
 * first and -0 equals 0. Rows are sorted as they lie, so ties keep the lower row first. Dead rows follow
 * the last sample's: no score has all bits set.
 */
static __global__ void score_keys(sv_cuda_pairs pairs, sv_tensor scores)
{
    const int row = (int)sv_thread();
    if (row >= pairs.count) return;
    uint64_t key = (uint64_t)(scores.batch - 1) << 32 | 0xffffffffu;
    if (row < sv_rows(scores)) {
        const float score = ((const float *)scores.data)[(int64_t)row * scores.pitch];
        uint32_t rising = __float_as_uint(score == 0.0f ? 0.0f : score);
        rising = rising >> 31 ? ~rising : rising | 0x80000000u;
        if (isnan(score)) rising = 0xffffffffu;
        key = (uint64_t)sv_sample_of(scores.offsets, scores.batch, row) << 32 | (uint32_t)~rising;
    }
    pairs.keys[row] = key;
    pairs.values[row] = row;
}

static __global__ void count_picks(int32_t *picks_offsets, sv_tensor scores, double share)
{
    picks_offsets[0] = 0;
    for (int b = 0; b < scores.batch; b++)
        picks_offsets[b + 1] = picks_offsets[b] + (int)((scores.offsets[b + 1] - scores.offsets[b]) * share);
}

static __global__ void write_picks(int32_t *picks, const int32_t *picks_offsets, const int32_t *sorted,
                                   sv_tensor scores)
{
    const int pick = (int)sv_thread();
    if (pick >= picks_offsets[scores.batch]) return;
    const int b = sv_sample_of(picks_offsets, scores.batch, pick);
    picks[pick] = sorted[scores.offsets[b] + pick - picks_offsets[b]];
}

sv_status sv_cuda_top_rows(sv_ctx *c, sv_tensor picks, int32_t *picks_offsets, sv_tensor scores, double share)
{
    const cudaStream_t stream = sv_cuda_stream(c);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_cuda_pairs pairs, sorted;
    SV_TRY(sv_cuda_pairs_alloc(c, &pairs, scores.dim[0]));
    score_keys<<<sv_cuda_blocks(pairs.count), SV_CUDA_THREADS, 0, stream>>>(pairs, scores);
    const int sample_bits = scores.batch > 1 ? sv_cuda_bits((uint64_t)scores.batch - 1) : 0;
    SV_TRY(sv_cuda_sort(c, &sorted, pairs, 32 + sample_bits));
    count_picks<<<1, 1, 0, stream>>>(picks_offsets, scores, share);
    write_picks<<<sv_cuda_blocks(pairs.count), SV_CUDA_THREADS, 0, stream>>>(
        (int32_t *)picks.data, picks_offsets, sorted.values, scores);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "top_rows");
}
