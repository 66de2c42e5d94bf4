/* SPDX-License-Identifier: Apache-2.0
 *
 * Peaks of heat maps and the best of all cells and channels, on the GPU (rules: peaks_cpu.c and ops.h).
 */
#include "best_keys.cuh"

namespace {

__global__ void find_peaks(sv_tensor y, sv_tensor x, sv_peak_rule rule)
{
    const int64_t item = sv_thread(), row = item / x.dim[1];
    const int channel = (int)(item % x.dim[1]), cells = rule.height * rule.width;
    if (row >= x.dim[0]) return;
    const int at_x = (int)(row % rule.width), at_y = (int)(row % cells) / rule.width, radius = rule.radius;
    const float *here = (const float *)x.data + row * x.pitch + channel;
    bool peak = at_y >= radius && at_y < rule.height - radius && at_x >= radius && at_x < rule.width - radius;
    if (peak)
        for (int dy = -radius; dy <= radius; dy++)
            for (int dx = -radius; dx <= radius; dx++)
                peak &= !(here[((int64_t)dy * rule.width + dx) * x.pitch] > *here);
    ((float *)y.data)[row * y.pitch + channel] = peak || (rule.alone >> channel & 1u) != 0 ? *here : 0.0f;
}

struct top_job {
    sv_tensor x;
    sv_cell_picks out;
    sv_cell_order order;
    int cells;
    best_keys list;
};

/* As score_key.h orders them: descending scores, equal ones by ascending number, NaN first, -0 equal to +0.
 * */
__device__ __forceinline__ uint64_t key_of(float score, uint32_t number)
{
    const uint32_t bits = __float_as_uint(score + 0.0f);
    uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
    if (isnan(score)) ascending = 0xffffffffu;
    return (uint64_t)~ascending << 32 | number;
}
struct key_bin {
    __device__ int operator()(uint64_t key) const { return (int)(key >> 51); }
};

__global__ void __launch_bounds__(SORT_THREADS) collect(const __grid_constant__ top_job job)
{
    __shared__ int32_t bins[KEY_BINS];
    const int b = blockIdx.y, channels = job.x.dim[1], numbers = job.cells * channels;
    for (int i = threadIdx.x; i < KEY_BINS; i += SORT_THREADS) bins[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * SORT_THREADS + threadIdx.x; i < numbers; i += gridDim.x * SORT_THREADS) {
        const int cell = i / channels, channel = i % channels;
        const int place =
            job.order.by_column ? cell % job.order.width * job.order.height + cell / job.order.width : cell;
        const float score =
            ((const float *)job.x.data)[((int64_t)b * job.cells + cell) * job.x.pitch + channel];
        const uint64_t key = key_of(score, (uint32_t)(channel * job.cells + place));
        job.list.keys[(int64_t)b * numbers + i] = key;
        atomicAdd(&bins[key_bin()(key)], 1);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < KEY_BINS; i += SORT_THREADS)
        if (bins[i] > 0) atomicAdd(&job.list.bins[b * KEY_BINS + i], bins[i]);
    if (blockIdx.x == 0 && threadIdx.x == 0) job.list.passed[b] = numbers;
}

__global__ void write_picks(const __grid_constant__ top_job job)
{
    const int i = (int)sv_thread(), b = blockIdx.y;
    if (i >= job.list.most) return;
    const int number = (int)(uint32_t)job.list.keys[(int64_t)b * job.list.room + i];
    const int channel = number / job.cells, place = number % job.cells;
    const sv_cell_order &order = job.order;
    const int px = order.by_column ? place / order.height : place % order.width,
              py = order.by_column ? place % order.height : place / order.width;
    const int row = b * job.cells + py * order.width + px;
    const int64_t at = (int64_t)b * job.list.most + i;
    ((int32_t *)job.out.row.data)[at * job.out.row.pitch] = row;
    ((int32_t *)job.out.channel.data)[at * job.out.channel.pitch] = channel;
    ((float *)job.out.score.data)[at * job.out.score.pitch] =
        ((const float *)job.x.data)[(int64_t)row * job.x.pitch + channel];
    float *to = (float *)job.out.place.data + at * job.out.place.pitch;
    to[0] = (float)px + order.middle;
    to[1] = (float)py + order.middle;
}

} // namespace

sv_status sv_cuda_local_peaks(sv_ctx *c, sv_tensor y, sv_tensor x, int batch, const sv_peak_rule *rule)
{
    (void)batch; /* the rows say it */
    find_peaks<<<sv_cuda_blocks((int64_t)x.dim[0] * x.dim[1]), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(
        y, x, *rule);
    return SV_CUDA_LAUNCHED(c, "local_peaks");
}

sv_status sv_cuda_top_cells(sv_ctx *c, const sv_cell_picks *out, sv_tensor x, int batch,
                            const sv_cell_order *order)
{
    const int most = out->row.dim[0] / batch;
    if (most == 0) return SV_OK;
    const cudaStream_t stream = sv_cuda_stream(c);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    top_job job = {};
    job.x = x;
    job.out = *out;
    job.order = *order;
    job.cells = order->height * order->width;
    SV_TRY(alloc_keys(c, &job.list, job.cells * x.dim[1], batch, most));
    collect<<<dim3(COLLECT_BLOCKS, (unsigned)batch), SORT_THREADS, 0, stream>>>(job);
    SV_TRY(sort_keys(c, job.list, key_bin()));
    write_picks<<<dim3(sv_cuda_blocks(most), (unsigned)batch), SV_CUDA_THREADS, 0, stream>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "top_cells");
}
