/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention of queries to a window of map cells around their own, on the GPU (the window:
 * window_attention_cpu.c). A block is one query: scores of all heads and cells, the softmax of each head by
 * a warp, then a thread per channel sums the values.
 */
#include "perception/core/cuda.cuh"

namespace {

enum { THREADS = 256, WARP = 32 };

struct attention_job {
    sv_tensor y, q, k, v, cell;
    sv_cell_window window;
    int most, channels; /* cells of a window */
};

__global__ void __launch_bounds__(THREADS) attend(const __grid_constant__ attention_job job)
{
    extern __shared__ float shared[];
    const int query = blockIdx.x, heads = job.window.heads, d = job.channels / heads;
    if (query >= sv_rows(job.y)) return;
    float *scores = shared, *sums = scores + heads * job.most, *q = sums + heads;
    int32_t *rows = (int32_t *)(q + job.channels);
    __shared__ int count;
    const int cell = ((const int32_t *)job.cell.data)[(int64_t)query * job.cell.pitch];
    for (int i = threadIdx.x; i < job.channels; i += THREADS)
        q[i] = ((const float *)job.q.data)[(int64_t)query * job.q.pitch + i];
    if (threadIdx.x == 0) {
        const int width = job.window.width, cells = width * width, radius = job.window.radius;
        const int x = cell % width, y0 = cell % cells / width;
        int n = 0;
        for (int oy = -radius; oy <= radius; oy++) {
            const int y = y0 + oy, carry = (y >= 0 ? y : y - width + 1) / width; /* floor */
            const int first = max(x - radius + carry, 0), last = min(x + radius + carry, width - 1);
            for (int at = first; at <= last; at++)
                rows[n++] = cell - cell % cells + (y - carry * width) * width + at;
        }
        count = n;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < heads * count; i += THREADS) {
        const int head = i % heads, j = i / heads;
        const float *key = (const float *)job.k.data + (int64_t)rows[j] * job.k.pitch + head * d;
        float sum = 0;
        for (int n = 0; n < d; n++) sum = fmaf(q[head * d + n], key[n], sum);
        scores[head * job.most + j] = sum * job.window.scale;
    }
    __syncthreads();
    const int lane = threadIdx.x % WARP;
    for (int head = threadIdx.x / WARP; head < heads; head += THREADS / WARP) {
        float *score = scores + head * job.most, top = -INFINITY, sum = 0;
        for (int j = lane; j < count; j += WARP) top = fmaxf(top, score[j]);
        for (int step = WARP / 2; step > 0; step /= 2)
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
        for (int j = lane; j < count; j += WARP) sum += score[j] = expf(score[j] - top);
        for (int step = WARP / 2; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (lane == 0) sums[head] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < job.channels; i += THREADS) {
        const float *weight = scores + i / d * job.most;
        float sum = 0;
        for (int j = 0; j < count; j++)
            sum = fmaf(weight[j], ((const float *)job.v.data)[(int64_t)rows[j] * job.v.pitch + i], sum);
        ((float *)job.y.data)[(int64_t)query * job.y.pitch + i] = sum / sums[i / d];
    }
}

} // namespace

sv_status sv_cuda_window_attention(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                   sv_tensor cell, const sv_cell_window *window)
{
    if (y.dim[0] == 0) return SV_OK;
    const int side = 2 * window->radius + 1;
    attention_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.cell = cell;
    job.window = *window;
    job.most = side * side;
    job.channels = y.dim[1];
    const size_t bytes = sizeof(float) * ((size_t)window->heads * (size_t)(job.most + 1) +
                                          (size_t)job.channels + (size_t)job.most);
    SV_CHECK(c, bytes <= 200 << 10, SV_UNSUPPORTED,
             "window_attention: %d heads and windows of %d x %d cells; the GPU has room for %d kilobytes of "
             "scores",
             window->heads, side, side, 200);
    SV_CUDA_TRY(c, "window_attention",
                cudaFuncSetAttribute(attend, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    attend<<<y.dim[0], THREADS, bytes, sv_cuda_stream(c)>>>(job);
    return SV_CUDA_LAUNCHED(c, "window_attention");
}
