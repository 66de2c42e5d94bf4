/* SPDX-License-Identifier: Apache-2.0
 *
 * Window orders on the GPU (formulas: voxel.h). Every job has two sequences, x and y; the sequences of all
 * jobs lie one after another in one array and are sorted at once, the number of the sequence above the
 * window key:
 *
 *     key = sequence << key bits | window key          job 0 x | job 0 y | job 1 x | ...
 *
 * Dead rows get the largest key of their sequence, so each sequence keeps its part of the array.
 */
#include "voxel.h"

#include "perception/core/cuda.cuh"

enum { JOBS_AT_ONCE = 12 }; /* their descriptions travel as kernel parameters (4 KiB) */

/* One sequence of a job, and where it begins in the sorted array. */
typedef struct sequence {
    const int32_t *coords, *offsets;
    int32_t *slot_row, *slot_offsets, *row_slot, *order;
    int64_t *key;
    int32_t first, rows; /* rows: capacity */
    int32_t slots;       /* capacity that the windows need; what the caller has is at least that */
    int32_t batch;
} sequence;

typedef struct sequence_list {
    int32_t count, bits; /* bits of a window key */
    sv_window windows[JOBS_AT_ONCE];
    sequence sequences[2 * JOBS_AT_ONCE];
} sequence_list;

/* blockIdx.y is the sequence in all kernels. */
static __global__ void window_keys(const __grid_constant__ sequence_list list, sv_cuda_pairs pairs)
{
    const sequence *s = &list.sequences[blockIdx.y];
    const int row = (int)sv_thread();
    if (row >= s->rows) return;
    uint64_t key = (1ull << list.bits) - 1;
    if (row < s->offsets[s->batch]) {
        key = (uint64_t)sv_window_key(&list.windows[blockIdx.y / 2], blockIdx.y % 2,
                                      s->coords + 4 * (int64_t)row);
        if (s->key) s->key[row] = (int64_t)key;
    }
    pairs.keys[s->first + row] = (uint64_t)blockIdx.y << list.bits | key;
    pairs.values[s->first + row] = row;
}

static __global__ void count_slots(const __grid_constant__ sequence_list list)
{
    const sequence *s = &list.sequences[blockIdx.y];
    const int group = list.windows[blockIdx.y / 2].group;
    s->slot_offsets[0] = 0;
    for (int b = 0; b < s->batch; b++)
        s->slot_offsets[b + 1] =
            s->slot_offsets[b] + sv_window_padded(s->offsets[b + 1] - s->offsets[b], group);
}

static __global__ void write_slots(const __grid_constant__ sequence_list list, const int32_t *sorted)
{
    const sequence *s = &list.sequences[blockIdx.y];
    const int slot = (int)sv_thread();
    if (slot >= s->slot_offsets[s->batch]) return;
    const int b = sv_sample_of(s->slot_offsets, s->batch, slot);
    const int first = s->offsets[b], rows = s->offsets[b + 1] - first, place = slot - s->slot_offsets[b];
    const int rank = first + sv_window_rank(place, rows, list.windows[blockIdx.y / 2].group);
    const int row = sorted[s->first + rank];
    s->slot_row[slot] = row;
    if (place >= rows) return;
    s->row_slot[row] = slot;
    if (s->order) s->order[rank] = row;
}

static sequence sequence_of(const sv_window_job *job, const sv_order *order, int first)
{
    sequence s;
    s.coords = (const int32_t *)job->coords.data;
    s.offsets = job->coords.offsets;
    s.slot_row = (int32_t *)order->slot_row.data;
    s.slot_offsets = order->slot_offsets;
    s.row_slot = (int32_t *)order->row_slot.data;
    s.order = (int32_t *)order->order.data;
    s.key = (int64_t *)order->key.data;
    s.first = first;
    s.rows = job->coords.dim[0];
    s.slots = sv_window_slots(s.rows, job->coords.batch, job->window.group);
    s.batch = job->coords.batch;
    return s;
}

static sv_status order_jobs(sv_ctx *c, const sv_window_job *jobs, int count)
{
    sequence_list list;
    list.count = 2 * count;
    int total = 0, most_rows = 1, most_slots = 1;
    uint64_t most_keys = 1;
    for (int i = 0; i < count; i++) {
        const sv_window_job *job = &jobs[i];
        list.windows[i] = job->window;
        for (int direction = 0; direction < 2; direction++) {
            const sequence s = sequence_of(job, direction == SV_DIRECTION_X ? &job->x : &job->y, total);
            list.sequences[2 * i + direction] = s;
            total += s.rows;
            if (s.rows > most_rows) most_rows = s.rows;
            if (s.slots > most_slots) most_slots = s.slots;
        }
        /* One sample more: rows that a merge on an uneven grid gave to the sample behind the last
         * (voxel.h, 3). */
        const uint64_t keys = (uint64_t)(job->coords.batch + 1) * (uint64_t)sv_window_keys(&job->window);
        if (keys > most_keys) most_keys = keys;
    }
    list.bits = sv_cuda_bits(most_keys);
    const int bits = list.bits + sv_cuda_bits((uint64_t)list.count - 1);
    SV_CHECK(c, bits <= 64, SV_UNSUPPORTED, "window_orders: keys of %d bits; at most 64 are possible", bits);

    const cudaStream_t stream = sv_cuda_stream(c);
    sv_cuda_pairs pairs, sorted;
    SV_TRY(sv_cuda_pairs_alloc(c, &pairs, total));
    const dim3 row_grid(sv_cuda_blocks(most_rows), (unsigned)list.count);
    const dim3 slot_grid(sv_cuda_blocks(most_slots), (unsigned)list.count);
    window_keys<<<row_grid, SV_CUDA_THREADS, 0, stream>>>(list, pairs);
    SV_TRY(sv_cuda_sort(c, &sorted, pairs, bits));
    count_slots<<<dim3(1, (unsigned)list.count), 1, 0, stream>>>(list);
    write_slots<<<slot_grid, SV_CUDA_THREADS, 0, stream>>>(list, sorted.values);
    return SV_CUDA_LAUNCHED(c, "window_orders");
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
