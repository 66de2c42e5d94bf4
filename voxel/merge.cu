/* SPDX-License-Identifier: Apache-2.0
 *
 * Merging on the GPU (formulas: voxel.h). Inputs are the live rows and behind them the diffusion copies:
 *
 *   key of each input -> stable sort (key, input) -> a flag where a key begins
 *   -> running sum = merged row + 1
 *
 * A second running sum counts the rows that are no copies, which are the only ones in the lists 'start' and
 * 'rows'.
 */
#include "voxel.h"

#include "perception/core/cuda.cuh"

typedef struct merge_lists {
    sv_cuda_pairs inputs; /* sorted: merged key, input */
    int32_t *number;      /* merged row of each place, counted from 1 */
    int32_t *rows;        /* rows that are no copies, up to and including each place */
    uint64_t dead;        /* the key behind all others */
} merge_lists;

typedef struct merge_rule {
    int32_t shape[3], scale[3];
    sv_merge_strides strides;
} merge_rule;

static __global__ void input_keys(sv_cuda_pairs pairs, sv_tensor coords, sv_tensor picks,
                                  const __grid_constant__ merge_rule rule, uint64_t dead)
{
    const int input = (int)sv_thread();
    if (input >= pairs.count) return;
    const int rows = sv_rows(coords);
    const int copies = picks.data ? 4 * picks.offsets[picks.batch] : 0;
    uint64_t key = dead;
    if (input < rows) {
        key = (uint64_t)sv_merge_key(rule.strides, rule.scale,
                                     (const int32_t *)coords.data + 4 * (int64_t)input);
    } else if (input < rows + copies) {
        /* The inverse of sv_diffusion_row(). */
        const int copy = input - rows;
        const int b = sv_sample_of(picks.offsets, picks.batch, copy / 4);
        const int first = picks.offsets[b], count = picks.offsets[b + 1] - first;
        const int block = (copy - 4 * first) / count, pick = first + (copy - 4 * first) % count;
        const int row = ((const int32_t *)picks.data)[pick];
        int32_t place[4];
        sv_diffusion_copy(rule.shape, block, (const int32_t *)coords.data + 4 * (int64_t)row, place);
        key = (uint64_t)sv_merge_key(rule.strides, rule.scale, place);
    }
    pairs.keys[input] = key;
    pairs.values[input] = input;
}

static __global__ void mark_inputs(int32_t *firsts, int32_t *originals, merge_lists lists, sv_tensor coords)
{
    const int i = (int)sv_thread();
    if (i >= lists.inputs.count) return;
    const uint64_t key = lists.inputs.keys[i];
    firsts[i] = key != lists.dead && (i == 0 || lists.inputs.keys[i - 1] != key);
    originals[i] = key != lists.dead && lists.inputs.values[i] < sv_rows(coords);
}

/* Thread b: where sample b begins; thread 0 also counts. Merged rows beyond the capacity are cut off. */
static __global__ void write_offsets(sv_merge out, merge_lists lists, sv_tensor coords, sv_tensor picks,
                                     int64_t sample_keys, int32_t *needed)
{
    const sv_cuda_pairs inputs = lists.inputs;
    const int b = threadIdx.x, capacity = out.coords.dim[0], batch = coords.batch;
    if (b > batch) return;
    /* live inputs have keys before 'dead' */
    const int used = sv_rows(coords) + (picks.data ? 4 * picks.offsets[picks.batch] : 0);
    const int merged = used > 0 ? lists.number[used - 1] : 0;
    /* Keys behind the last sample (an uneven grid, voxel.h) stay with it. */
    const int first = b == batch ? used
                      : b == 0   ? 0
                                 : sv_lower_bound(inputs.keys, used, (uint64_t)(b * sample_keys));
    out.offsets[b] = min(first > 0 ? lists.number[first - 1] : 0, capacity);
    if (b == 0) {
        *needed = merged;
        const int kept = merged <= capacity ? used : sv_lower_bound(lists.number, used, capacity + 1);
        ((int32_t *)out.start.data)[min(merged, capacity)] = kept > 0 ? lists.rows[kept - 1] : 0;
    }
}

static __global__ void write_merged(sv_merge out, merge_lists lists, sv_tensor coords,
                                    const __grid_constant__ merge_rule rule)
{
    const int i = (int)sv_thread();
    if (i >= lists.inputs.count) return;
    const uint64_t key = lists.inputs.keys[i];
    if (key == lists.dead) return;
    const int input = lists.inputs.values[i], merged = lists.number[i] - 1;
    const bool fits = merged < out.coords.dim[0], original = input < sv_rows(coords);
    ((int32_t *)out.inverse.data)[input] = fits ? merged : -1;
    if (!fits) return;
    if (original) ((int32_t *)out.rows.data)[lists.rows[i] - 1] = input;
    if (i > 0 && lists.inputs.keys[i - 1] == key) return;
    ((int32_t *)out.start.data)[merged] = lists.rows[i] - (original ? 1 : 0);
    sv_merge_coords(rule.strides, (int64_t)key, (int32_t *)out.coords.data + 4 * (int64_t)merged);
}

sv_status sv_cuda_merge_map(sv_ctx *c, const sv_merge *out, sv_tensor coords, const int32_t *shape,
                            const int32_t *scale, sv_tensor picks, int32_t *needed)
{
    const cudaStream_t stream = sv_cuda_stream(c);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    merge_rule rule;
    for (int axis = 0; axis < 3; axis++) {
        rule.shape[axis] = shape[axis];
        rule.scale[axis] = scale[axis];
    }
    rule.strides = sv_merge_strides_of(shape, scale);
    const int32_t last[4] = {coords.batch - 1, shape[0] - 1, shape[1] - 1, shape[2] - 1};
    merge_lists lists;
    lists.dead = (uint64_t)sv_merge_key(rule.strides, scale, last) + 1;

    const int count = coords.dim[0] + (sv_is_none(picks) ? 0 : 4 * picks.dim[0]);
    const unsigned blocks = sv_cuda_blocks(count);
    const size_t bytes = (size_t)count * sizeof(int32_t);
    sv_cuda_pairs pairs;
    void *firsts = NULL, *originals = NULL, *number = NULL, *rows = NULL;
    SV_TRY(sv_cuda_pairs_alloc(c, &pairs, count));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "merge flags", bytes, &firsts));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "merge originals", bytes, &originals));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "merge numbers", bytes, &number));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "merge rows", bytes, &rows));
    lists.number = (int32_t *)number;
    lists.rows = (int32_t *)rows;
    input_keys<<<blocks, SV_CUDA_THREADS, 0, stream>>>(pairs, coords, picks, rule, lists.dead);
    SV_TRY(sv_cuda_sort(c, &lists.inputs, pairs, sv_cuda_bits(lists.dead)));
    mark_inputs<<<blocks, SV_CUDA_THREADS, 0, stream>>>((int32_t *)firsts, (int32_t *)originals, lists,
                                                        coords);
    SV_TRY(sv_cuda_running_sum(c, lists.number, (const int32_t *)firsts, count));
    SV_TRY(sv_cuda_running_sum(c, lists.rows, (const int32_t *)originals, count));
    write_offsets<<<1, SV_MAX_BATCH + 1, 0, stream>>>(*out, lists, coords, picks, rule.strides.b, needed);
    write_merged<<<blocks, SV_CUDA_THREADS, 0, stream>>>(*out, lists, coords, rule);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "merge_map");
}
