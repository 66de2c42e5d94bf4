/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention of queries to a window of map cells around their own, on the GPU (the window:
 * window_attention_cpu.c). A block is one query: scores of all heads and cells, the softmax of each head by
 * a warp, then the sums of the values: threads that share a row of V numbers a thread, several rows at once, each
 * of which adds up every so many-th cell; at last these sums are added in order.
 */
#include "perception/core/cuda.cuh"

namespace {

enum { THREADS = 512, WARP = 32 }; /* of the few queries a processor has two at once */

struct attention_job {
    sv_tensor y, q, k, v, cell;
    sv_cell_window window;
    int most, channels; /* cells of a window */
    int shares;         /* into which the sums of the values are cut */
};

/* The first cell of a window's row 'oy' in x, and how many cells it has; 'y': the map's row of it. */
__device__ __forceinline__ int stretch(const sv_cell_window &window, int cell, int oy, int *first, int *y)
{
    const int width = window.width, x = cell % width, below = cell % (width * width) / width + oy;
    const int carry = (below >= 0 ? below : below - width + 1) / width; /* floor */
    *first = max(x - window.radius + carry, 0);
    *y = below - carry * width;
    return max(min(x + window.radius + carry, width - 1) - *first + 1, 0);
}

/* Where V numbers of every head's query and key meet: heads of 'd' numbers. */
template <int V>
__device__ __forceinline__ void find_scores(const attention_job &job, float *scores, const float *q,
                                            const int32_t *rows, int count)
{
    const int heads = job.window.heads, d = job.channels / heads;
#pragma unroll 4
    for (int i = threadIdx.x; i < heads * count; i += THREADS) {
        const int head = i % heads, j = i / heads;
        const float *key = (const float *)job.k.data + (int64_t)rows[j] * job.k.pitch + head * d;
        float sum = 0;
        for (int n = 0; n < d; n += V) {
            const sv_numbers<V> some = sv_read<V>(key + n);
#pragma unroll
            for (int e = 0; e < V; e++) sum = fmaf(q[head * d + n + e], some.at[e], sum);
        }
        scores[head * job.most + j] = sum * job.window.scale;
    }
}

template <int V>
__device__ __forceinline__ void sum_values(const attention_job &job, float *partial, const float *scores,
                                           const int32_t *rows, int count)
{
    const int d = job.channels / job.window.heads, lanes = THREADS / job.shares,
              share = (int)threadIdx.x / lanes;
    if (share >= job.shares) return;
    for (int at = (int)threadIdx.x % lanes * V; at < job.channels; at += lanes * V) {
        const float *weight = scores + at / d * job.most, *value = (const float *)job.v.data + at;
        sv_numbers<V> sum = {};
#pragma unroll 8
        for (int j = share; j < count; j += job.shares) {
            const sv_numbers<V> some = sv_read<V>(value + (int64_t)rows[j] * job.v.pitch);
#pragma unroll
            for (int e = 0; e < V; e++) sum.at[e] = fmaf(weight[j], some.at[e], sum.at[e]);
        }
        sv_write<V>(partial + share * job.channels + at, sum);
    }
}

template <int V> __global__ void __launch_bounds__(THREADS) attend(const __grid_constant__ attention_job job)
{
    extern __shared__ float4 dynamic[];
    const int query = blockIdx.x, heads = job.window.heads, radius = job.window.radius, side = 2 * radius + 1;
    if (query >= sv_rows(job.y)) return;
    float *q = (float *)dynamic, *partial = q + job.channels, *scores = partial + job.shares * job.channels,
          *sums = scores + heads * job.most;
    int32_t *begin = (int32_t *)(sums + heads), *rows = begin + side + 1; /* begin: of a window's rows */
    const int cell = ((const int32_t *)job.cell.data)[(int64_t)query * job.cell.pitch];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int first, y;
    for (int i = threadIdx.x; i < job.channels; i += THREADS)
        q[i] = ((const float *)job.q.data)[(int64_t)query * job.q.pitch + i];
    for (int i = threadIdx.x; i < side; i += THREADS)
        begin[i + 1] = stretch(job.window, cell, i - radius, &first, &y);
    __syncthreads();
    if (threadIdx.x == 0) {
        begin[0] = 0;
        for (int i = 0; i < side; i++) begin[i + 1] += begin[i];
    }
    __syncthreads();
    const int count = begin[side], sample0 = cell - cell % (job.window.width * job.window.width);
    for (int i = warp; i < side; i += THREADS / WARP) {
        const int cells = stretch(job.window, cell, i - radius, &first, &y);
        for (int at = lane; at < cells; at += WARP)
            rows[begin[i] + at] = sample0 + y * job.window.width + first + at;
    }
    __syncthreads();
    find_scores<V>(job, scores, q, rows, count);
    __syncthreads();
    for (int head = warp; head < heads; head += THREADS / WARP) {
        float *score = scores + head * job.most, top = -INFINITY, sum = 0;
        for (int j = lane; j < count; j += WARP) top = fmaxf(top, score[j]);
        for (int step = WARP / 2; step > 0; step /= 2)
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
        for (int j = lane; j < count; j += WARP) sum += score[j] = expf(score[j] - top);
        for (int step = WARP / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (lane == 0) sums[head] = sum;
    }
    __syncthreads();
    sum_values<V>(job, partial, scores, rows, count);
    __syncthreads();
    for (int i = threadIdx.x; i < job.channels; i += THREADS) {
        float sum = 0;
        for (int share = 0; share < job.shares; share++) sum += partial[share * job.channels + i];
        ((float *)job.y.data)[(int64_t)query * job.y.pitch + i] = sum / sums[i / (job.channels / heads)];
    }
}

template <int V> sv_status launch(sv_ctx *c, attention_job &job, int queries)
{
    const int side = 2 * job.window.radius + 1, heads = job.window.heads;
    job.most = side * side;
    job.shares = THREADS / sv_row_lanes(job.channels / V);
    const size_t bytes = sizeof(float) * ((size_t)heads * (size_t)(job.most + 1) +
                                          (size_t)(1 + job.shares) * (size_t)job.channels + (size_t)job.most +
                                          (size_t)side + 1);
    SV_CHECK(c, bytes <= 200 << 10, SV_UNSUPPORTED,
             "window_attention: %d heads and windows of %d x %d cells; the GPU has room for %d kilobytes of "
             "scores",
             heads, side, side, 200);
    SV_CUDA_TRY(c, "window_attention",
                cudaFuncSetAttribute(attend<V>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    attend<V><<<queries, THREADS, bytes, sv_cuda_stream(c)>>>(job);
    return SV_CUDA_LAUNCHED(c, "window_attention");
}

} // namespace

sv_status sv_cuda_window_attention(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                   sv_tensor cell, const sv_cell_window *window)
{
    if (y.dim[0] == 0) return SV_OK;
    attention_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.cell = cell;
    job.window = *window;
    job.channels = y.dim[1];
    const bool fours = sv_cuda_in_fours(k) && sv_cuda_in_fours(v) && job.channels / window->heads % 4 == 0;
    return fours ? launch<4>(c, job, y.dim[0]) : launch<1>(c, job, y.dim[0]);
}
