/* SPDX-License-Identifier: Apache-2.0
 *
 * Window orders on the GPU (formulas: voxel.h). Every job has two sequences, x and y. Window keys of a sequence
 * are distinct, so a row's rank is the number of marked keys below its own (perception/core/prefix.cuh):
 *
 *     mark the keys of all sequences: job 0 x | job 0 y | job 1 x | ...
 *     -> prefix sums -> every row writes the slots that read it
 *
 * Each sequence has its own range of keys, which begins with a block of the prefix sums.
 */
#include "voxel.h"

#include "perception/core/launch.cuh"
#include "perception/core/prefix.cuh"

enum { JOBS_AT_ONCE = 12 }; /* their descriptions travel as kernel parameters (4 KiB) */

/* One sequence of a job, and where its keys begin. */
typedef struct sequence {
    const int32_t *coords, *offsets;
    int32_t *slot_row, *slot_offsets, *row_slot, *order;
    int64_t *key;
    int64_t first_key;
    int32_t rows; /* capacity */
    int32_t batch;
} sequence;

typedef struct sequence_list {
    sv_cuda_prefix marks;
    int32_t count;
    sv_window windows[JOBS_AT_ONCE];
    sequence sequences[2 * JOBS_AT_ONCE];
} sequence_list;

static __device__ __forceinline__ int64_t key_of(const sequence_list &list, int number, int row)
{
    return sv_window_key(&list.windows[number / 2], number % 2,
                         list.sequences[number].coords + 4 * (int64_t)row);
}

/* blockIdx.y is the sequence in both kernels. */
static __global__ void mark_keys(const __grid_constant__ sequence_list list)
{
    sv_wait_before_of_few();
    const sequence *s = &list.sequences[blockIdx.y];
    const int row = (int)sv_thread();
    if (row >= s->rows || row >= s->offsets[s->batch]) return;
    const int64_t key = key_of(list, blockIdx.y, row);
    if (s->key) s->key[row] = key;
    sv_prefix_mark(list.marks, s->first_key + key);
}

/* The slots that read the row of 'rank' among its sample's 'rows': its own, and the inverse of sv_window_rank(). */
static __device__ __forceinline__ void write_slots(int32_t *slot_row, int row, int rank, int rows, int group)
{
    slot_row[rank] = row;
    if (rows < group) {
        for (int slot = rank + rows; slot < group; slot += rows) slot_row[slot] = row;
    } else if (rank + group >= rows && rank + group < sv_window_padded(rows, group)) {
        slot_row[rank + group] = row;
    }
}

static __global__ void assign_slots(const __grid_constant__ sequence_list list)
{
    sv_wait_before();
    const sequence *s = &list.sequences[blockIdx.y];
    const int row = (int)sv_thread(), group = list.windows[blockIdx.y / 2].group;
    if (row == 0) {
        s->slot_offsets[0] = 0;
        for (int b = 0; b < s->batch; b++)
            s->slot_offsets[b + 1] =
                s->slot_offsets[b] + sv_window_padded(s->offsets[b + 1] - s->offsets[b], group);
    }
    if (row >= s->rows || row >= s->offsets[s->batch]) return;
    const int rank = sv_prefix_rank(list.marks, s->first_key + key_of(list, blockIdx.y, row)) -
                     list.marks.totals[s->first_key / SV_PREFIX_BLOCK_KEYS];
    const int b = sv_sample_of(s->offsets, s->batch, rank);
    int slot0 = 0;
    for (int i = 0; i < b; i++) slot0 += sv_window_padded(s->offsets[i + 1] - s->offsets[i], group);
    const int first = s->offsets[b];
    write_slots(s->slot_row + slot0, row, rank - first, s->offsets[b + 1] - first, group);
    s->row_slot[row] = slot0 + rank - first;
    if (s->order) s->order[rank] = row;
}

static sequence sequence_of(const sv_window_job *job, const sv_order *order, int64_t first_key)
{
    sequence s;
    s.coords = (const int32_t *)job->coords.data;
    s.offsets = job->coords.offsets;
    s.slot_row = (int32_t *)order->slot_row.data;
    s.slot_offsets = order->slot_offsets;
    s.row_slot = (int32_t *)order->row_slot.data;
    s.order = (int32_t *)order->order.data;
    s.key = (int64_t *)order->key.data;
    s.first_key = first_key;
    s.rows = job->coords.dim[0];
    s.batch = job->coords.batch;
    return s;
}

static sv_status order_jobs(sv_ctx *c, const sv_window_job *jobs, int count)
{
    sequence_list list;
    list.count = 2 * count;
    int most_rows = 1;
    int64_t blocks = 0;
    for (int i = 0; i < count; i++) {
        const sv_window_job *job = &jobs[i];
        list.windows[i] = job->window;
        /* One sample more: rows that a merge on an uneven grid gave to the sample behind the last
         * (voxel.h, 3). */
        const int64_t keys = (job->coords.batch + 1) * sv_window_keys(&job->window);
        for (int direction = 0; direction < 2; direction++) {
            list.sequences[2 * i + direction] = sequence_of(
                job, direction == SV_DIRECTION_X ? &job->x : &job->y, blocks * SV_PREFIX_BLOCK_KEYS);
            blocks += (keys + SV_PREFIX_BLOCK_KEYS - 1) / SV_PREFIX_BLOCK_KEYS;
        }
        if (job->coords.dim[0] > most_rows) most_rows = job->coords.dim[0];
    }
    const cudaStream_t stream = sv_cuda_stream(c);
    const dim3 grid(sv_cuda_blocks(most_rows), (unsigned)list.count);
    const int64_t words = blocks * SV_PREFIX_BLOCK;
    SV_TRY(sv_cuda_prefixes_alloc(c, &list.marks, &words, 1));
    mark_keys<<<grid, SV_CUDA_THREADS, 0, stream>>>(list);
    SV_TRY(SV_CUDA_LAUNCHED(c, "window_orders"));
    SV_TRY(sv_cuda_prefix_bits(c, list.marks));
    return sv_launch_early(c, "window_orders", assign_slots, list, grid, SV_CUDA_THREADS, 0);
}

sv_status sv_cuda_window_orders(sv_ctx *c, sv_window_job *jobs, int count)
{
    for (int i = 0; i < count; i += JOBS_AT_ONCE) {
        const sv_mark mark = sv_arena_mark(&c->scratch);
        SV_TRY(order_jobs(c, jobs + i, count - i < JOBS_AT_ONCE ? count - i : JOBS_AT_ONCE));
        sv_arena_rewind(&c->scratch, mark);
    }
    return SV_OK;
}
