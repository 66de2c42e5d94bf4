/* SPDX-License-Identifier: Apache-2.0
 *
 * Merging on the GPU (formulas: voxel.h). Inputs are the live rows and behind them the diffusion copies. A
 * merged row is the rank of its key among the marked keys (perception/core/prefix.cuh):
 *
 *     mark the key of each input -> prefix sums -> merged row of each input; how many rows each has
 *     -> prefix sums -> where each list of rows begins; rows to their lists, each of which is then put in
 * ascending order
 *
 * Copies have no place in the lists 'start' and 'rows'. Rows reach their list in any order, which is why
 * it is sorted at the end; it has as many rows as cells are merged (8 at most on even grids).
 */
#include "voxel.h"

#include "perception/core/launch.cuh"
#include "perception/core/prefix.cuh"

namespace {

struct merge_job {
    sv_merge out;
    sv_tensor coords, picks;
    int32_t shape[3], scale[3];
    sv_merge_strides strides;
    sv_cuda_prefix marks;  /* of keys */
    sv_cuda_prefix counts; /* rows of each merged row that fits */
    int32_t *arrival;      /* a row's place in its list, before the list is sorted */
    uint32_t *arrived;     /* of each merged row: rows that are in its list */
    int32_t *needed;
};

__device__ __forceinline__ int rows_of(const merge_job &job)
{
    return sv_rows(job.coords);
}
__device__ __forceinline__ int inputs_of(const merge_job &job)
{
    return rows_of(job) + (job.picks.data ? 4 * job.picks.offsets[job.picks.batch] : 0);
}
/* Merged rows that fit; written by number_inputs(). */
__device__ __forceinline__ int merged_of(const merge_job &job)
{
    return job.out.offsets[job.coords.batch];
}

__device__ __forceinline__ int64_t key_of(const merge_job &job, int input)
{
    const int32_t *coords = (const int32_t *)job.coords.data;
    const int rows = rows_of(job);
    if (input < rows) return sv_merge_key(job.strides, job.scale, coords + 4 * (int64_t)input);
    /* The inverse of sv_diffusion_row(). */
    const int copy = input - rows;
    const int b = sv_sample_of(job.picks.offsets, job.picks.batch, copy / 4);
    const int first = job.picks.offsets[b], count = job.picks.offsets[b + 1] - first;
    const int block = (copy - 4 * first) / count, pick = first + (copy - 4 * first) % count;
    const int row = ((const int32_t *)job.picks.data)[pick];
    int32_t place[4];
    sv_diffusion_copy(job.shape, block, coords + 4 * (int64_t)row, place);
    return sv_merge_key(job.strides, job.scale, place);
}

__global__ void mark_inputs(const __grid_constant__ merge_job job)
{
    sv_wait_before_of_few();
    const int input = (int)sv_thread();
    if (input < inputs_of(job)) sv_prefix_mark(job.marks, key_of(job, input));
}

/* Also, by the first threads: where sample b begins, and how many merged rows there are. Those beyond the
 * capacity are cut off. */
__global__ void number_inputs(const __grid_constant__ merge_job job)
{
    sv_wait_before_of_few();
    const int input = (int)sv_thread(), capacity = job.out.coords.dim[0], batch = job.coords.batch,
              merged = job.marks.totals[job.marks.blocks];
    if (input <= batch) {
        /* Keys behind the last sample (an uneven grid, voxel.h) stay with it. */
        const int first = input == batch ? merged : sv_prefix_rank(job.marks, input * job.strides.b);
        job.out.offsets[input] = min(first, capacity);
        if (input == 0) *job.needed = merged;
    }
    if (input >= inputs_of(job)) return;
    const int64_t key = key_of(job, input);
    const int row = sv_prefix_rank(job.marks, key);
    ((int32_t *)job.out.inverse.data)[input] = row < capacity ? row : -1;
    if (row >= capacity) return;
    if (input < rows_of(job)) job.arrival[input] = (int32_t)atomicAdd(&job.counts.numbers[row], 1u);
    /* the same from every input of the row */
    sv_merge_coords(job.strides, key, (int32_t *)job.out.coords.data + 4 * (int64_t)row);
}

/* On even grids a list has eight rows at most: they are read together. */
__device__ void sort_list(const merge_job &job, int row)
{
    enum { FEW = 8 };
    const int first = sv_prefix_sum(job.counts, row), count = (int)job.counts.numbers[row];
    volatile int32_t *rows =
        (volatile int32_t *)job.out.rows.data + first; /* by others, so not from this processor's cache */
    if (count <= FEW) {
        int32_t own[FEW];
#pragma unroll
        for (int i = 0; i < FEW; i++) own[i] = i < count ? rows[i] : INT32_MAX;
#pragma unroll
        for (int i = 0; i < FEW; i++) {
            int rank = 0;
#pragma unroll
            for (int k = 0; k < FEW; k++) rank += own[k] < own[i];
            if (i < count) rows[rank] = own[i];
        }
        return;
    }
    for (int i = 1; i < count; i++) {
        const int32_t moved = rows[i];
        int at = i;
        for (; at > 0 && rows[at - 1] > moved; at--) rows[at] = rows[at - 1];
        rows[at] = moved;
    }
}

/* Who comes last to a list sorts it. */
__global__ void fill_lists(const __grid_constant__ merge_job job)
{
    sv_wait_before();
    const int i = (int)sv_thread();
    if (i <= merged_of(job)) ((int32_t *)job.out.start.data)[i] = sv_prefix_sum(job.counts, i);
    if (i >= rows_of(job)) return;
    const int row = ((const int32_t *)job.out.inverse.data)[i];
    if (row < 0) return;
    ((int32_t *)job.out.rows.data)[sv_prefix_sum(job.counts, row) + job.arrival[i]] = i;
    const uint32_t length = job.counts.numbers[row];
    if (length == 1) return;
    __threadfence();
    if (atomicAdd(&job.arrived[row], 1u) + 1 < length) return;
    __threadfence();
    sort_list(job, row);
}

} // namespace

sv_status sv_cuda_merge_map(sv_ctx *c, const sv_merge *out, sv_tensor coords, const int32_t *shape,
                            const int32_t *scale, sv_tensor picks, int32_t *needed)
{
    const cudaStream_t stream = sv_cuda_stream(c);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    merge_job job = {};
    job.out = *out;
    job.coords = coords;
    job.picks = picks;
    job.needed = needed;
    for (int axis = 0; axis < 3; axis++) {
        job.shape[axis] = shape[axis];
        job.scale[axis] = scale[axis];
    }
    job.strides = sv_merge_strides_of(shape, scale);
    const int32_t last[4] = {coords.batch - 1, shape[0] - 1, shape[1] - 1, shape[2] - 1};
    const int64_t keys = sv_merge_key(job.strides, scale, last) + 1;
    const int rows = coords.dim[0], inputs = rows + (sv_is_none(picks) ? 0 : 4 * picks.dim[0]),
              capacity = out->coords.dim[0];
    void *arrival = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "merge arrivals", (size_t)rows * sizeof(int32_t), &arrival));
    job.arrival = (int32_t *)arrival;
    sv_cuda_prefix prefixes[3]; /* the last only for its zeros */
    const int64_t counts[3] = {(keys + 31) / 32, capacity + 1, capacity};
    SV_TRY(sv_cuda_prefixes_alloc(c, prefixes, counts, 3));
    job.marks = prefixes[0];
    job.counts = prefixes[1];
    job.arrived = prefixes[2].numbers;
    const int numbered = inputs > SV_MAX_BATCH ? inputs : SV_MAX_BATCH + 1;
    mark_inputs<<<sv_cuda_blocks(inputs), SV_CUDA_THREADS, 0, stream>>>(job);
    SV_TRY(SV_CUDA_LAUNCHED(c, "merge_map"));
    SV_TRY(sv_cuda_prefix_bits(c, job.marks));
    SV_TRY(sv_launch_early(c, "merge_map", number_inputs, job, dim3(sv_cuda_blocks(numbered)),
                           SV_CUDA_THREADS, 0));
    SV_TRY(sv_cuda_prefix_sums(c, job.counts));
    SV_TRY(sv_launch_early(c, "merge_map", fill_lists, job,
                           dim3(sv_cuda_blocks(rows > capacity ? rows : capacity + 1)), SV_CUDA_THREADS, 0));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
