/* SPDX-License-Identifier: Apache-2.0
 *
 * Peaks of heat maps, the best of all cells and channels of maps, and of sparse cells group by group, on the GPU
 * (rules: peaks_cpu.c and ops.h).
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

/* As score_key.h orders them: descending scores, equal ones by ascending number, NaN first, -0 equal to +0. */
__device__ __forceinline__ uint64_t key_of(float score, uint32_t number)
{
    const uint32_t bits = __float_as_uint(score + 0.0f);
    uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
    if (isnan(score)) ascending = 0xffffffffu;
    return (uint64_t)~ascending << 32 | number;
}

/* Bins of 2^-10 of an octave where sigmoids are, from 1 down to 2^-8; greater scores share the first bin, lesser ones
 * the last. */
struct heat_bin {
    __device__ int operator()(uint64_t key) const
    {
        const uint32_t place = (uint32_t)(key >> 32), one = 0x407fffffu; /* where a score of 1 stands */
        return place < one ? 0 : min((int)((place - one) >> 13), KEY_BINS - 1);
    }
};

/* Blocks x of sample b put keys 0..count-1 into its list. */
template <typename Key> __device__ void collect_keys(const best_keys &list, int b, int count, Key key_at)
{
    __shared__ int32_t bins[KEY_BINS];
    uint64_t *keys = list.keys + first_key(list, b);
    for (int i = threadIdx.x; i < KEY_BINS; i += SORT_THREADS) bins[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * SORT_THREADS + threadIdx.x; i < count; i += gridDim.x * SORT_THREADS) {
        const uint64_t key = key_at(i);
        keys[i] = key;
        atomicAdd(&bins[heat_bin()(key)], 1);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < KEY_BINS; i += SORT_THREADS)
        if (bins[i] > 0) atomicAdd(&list.bins[b * KEY_BINS + i], bins[i]);
    if (blockIdx.x == 0 && threadIdx.x == 0) list.passed[b] = count;
}

__device__ __forceinline__ void put_pick(const sv_cell_picks &out, int64_t at, int row, int channel,
                                         float score, float x, float y)
{
    ((int32_t *)out.row.data)[at * out.row.pitch] = row;
    ((int32_t *)out.channel.data)[at * out.channel.pitch] = channel;
    ((float *)out.score.data)[at * out.score.pitch] = score;
    float *to = (float *)out.place.data + at * out.place.pitch;
    to[0] = x;
    to[1] = y;
}

/* ---- of maps ------------------------------------------------------------------------------------------- */

struct top_job {
    sv_tensor x;
    sv_cell_picks out;
    sv_cell_order order;
    int cells;
    best_keys list;
};

__global__ void __launch_bounds__(SORT_THREADS) collect(const __grid_constant__ top_job job)
{
    const int b = blockIdx.y, channels = job.x.dim[1];
    const float *x = (const float *)job.x.data + (int64_t)b * job.cells * job.x.pitch;
    collect_keys(job.list, b, job.cells * channels, [&](int i) {
        const int cell = i / channels, channel = i % channels;
        const int place =
            job.order.by_column ? cell % job.order.width * job.order.height + cell / job.order.width : cell;
        return key_of(x[(int64_t)cell * job.x.pitch + channel], (uint32_t)(channel * job.cells + place));
    });
}

__global__ void write_picks(const __grid_constant__ top_job job)
{
    const int i = (int)sv_thread(), b = blockIdx.y;
    if (i >= job.list.most) return;
    const int number = (int)(uint32_t)job.list.keys[first_key(job.list, b) + i];
    const int channel = number / job.cells, place = number % job.cells;
    const sv_cell_order &order = job.order;
    const int px = order.by_column ? place / order.height : place % order.width,
              py = order.by_column ? place % order.height : place / order.width;
    const int row = b * job.cells + py * order.width + px;
    put_pick(job.out, (int64_t)b * job.list.most + i, row, channel,
             ((const float *)job.x.data)[(int64_t)row * job.x.pitch + channel], (float)px + order.middle,
             (float)py + order.middle);
}

/* ---- of sparse cells ----------------------------------------------------------------------------------- */

/* Choice i: group i % count of sample i / count. Its keys are to the list a sample's. */
struct sparse_job {
    sv_tensor x, coords;
    sv_cell_picks out;
    sv_channel_groups groups;
    int wanted;     /* picks of a choice */
    int32_t *first; /* [choices] place of its keys: choices take no more room than their rows and channels */
    best_keys list;
};

struct choice {
    int row, rows, channel, channels; /* the first, and how many */
};

__device__ __forceinline__ choice choice_at(const sparse_job &job, int i)
{
    const int sample = i / job.groups.count, group = i % job.groups.count, capacity = job.coords.dim[0];
    const int32_t *offsets = job.coords.offsets + sample;
    choice at;
    at.row = min(offsets[0], capacity);
    at.rows = min(offsets[1], capacity) - at.row;
    at.channel = group ? job.groups.end[group - 1] : 0;
    at.channels = job.groups.end[group] - at.channel;
    return at;
}

__global__ void place_choices(const __grid_constant__ sparse_job job)
{
    const int i = (int)sv_thread();
    if (i >= job.list.batch) return;
    const choice at = choice_at(job, i);
    job.first[i] = at.row * job.groups.end[job.groups.count - 1] + at.rows * at.channel;
}

__global__ void __launch_bounds__(SORT_THREADS) collect_sparse(const __grid_constant__ sparse_job job)
{
    const choice at = choice_at(job, blockIdx.y);
    const float *x = (const float *)job.x.data + (int64_t)at.row * job.x.pitch + at.channel;
    collect_keys(job.list, blockIdx.y, at.rows * at.channels, [&](int i) {
        const int row = i / at.channels, channel = i % at.channels;
        return key_of(x[(int64_t)row * job.x.pitch + channel], (uint32_t)(channel * at.rows + row));
    });
}

__global__ void write_sparse_picks(const __grid_constant__ sparse_job job)
{
    const int i = (int)sv_thread(), b = blockIdx.y;
    if (i >= job.wanted) return;
    const int64_t to = (int64_t)b * job.wanted + i;
    const choice from = choice_at(job, b);
    if (i >= min(job.list.near[b], job.list.most)) {
        put_pick(job.out, to, -1, from.channel, -INFINITY, 0, 0);
        return;
    }
    const int number = (int)(uint32_t)job.list.keys[first_key(job.list, b) + i];
    const int row = from.row + number % from.rows, channel = from.channel + number / from.rows;
    const int32_t *cell = (const int32_t *)job.coords.data + (int64_t)row * 4;
    put_pick(job.out, to, row, channel, ((const float *)job.x.data)[(int64_t)row * job.x.pitch + channel],
             (float)cell[3], (float)cell[2]);
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
    const int numbers = job.cells * x.dim[1];
    SV_TRY(alloc_keys(c, &job.list, numbers, batch, most, (int64_t)numbers * batch));
    collect<<<dim3(COLLECT_BLOCKS, (unsigned)batch), SORT_THREADS, 0, stream>>>(job);
    SV_TRY(sort_keys(c, job.list, heat_bin(), put_key()));
    write_picks<<<dim3(sv_cuda_blocks(most), (unsigned)batch), SV_CUDA_THREADS, 0, stream>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "top_cells");
}

sv_status sv_cuda_top_sparse(sv_ctx *c, const sv_cell_picks *out, sv_tensor x, sv_tensor coords,
                             const sv_channel_groups *groups)
{
    const int choices = coords.batch * groups->count;
    if (out->row.dim[0] == 0) return SV_OK;
    const cudaStream_t stream = sv_cuda_stream(c);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sparse_job job = {};
    job.x = x;
    job.coords = coords;
    job.out = *out;
    job.groups = *groups;
    job.wanted = out->row.dim[0] / choices;
    int widest = 0;
    for (int g = 0; g < groups->count; g++)
        widest = max(widest, groups->end[g] - (g ? groups->end[g - 1] : 0));
    void *first = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "first keys", sizeof(int32_t) * (size_t)choices, &first));
    SV_TRY(alloc_keys(c, &job.list, coords.dim[0] * widest, choices, job.wanted,
                      (int64_t)coords.dim[0] * x.dim[1]));
    job.list.first = job.first = (int32_t *)first;
    place_choices<<<sv_cuda_blocks(choices), SV_CUDA_THREADS, 0, stream>>>(job);
    collect_sparse<<<dim3(COLLECT_BLOCKS, (unsigned)choices), SORT_THREADS, 0, stream>>>(job);
    SV_TRY(sort_keys(c, job.list, heat_bin(), put_key()));
    write_sparse_picks<<<dim3(sv_cuda_blocks(job.wanted), (unsigned)choices), SV_CUDA_THREADS, 0, stream>>>(
        job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "top_sparse");
}
