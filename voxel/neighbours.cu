/* SPDX-License-Identifier: Apache-2.0
 *
 * Neighbour tables on the GPU: rows are sorted by a key of their cell (voxel.h), and each of the 26 other
 * cells around a row is looked up by halving.
 */
#include "voxel.h"

#include "perception/core/cuda.cuh"

typedef struct grid_shape {
    int32_t size[3]; /* z, y, x */
} grid_shape;

static __global__ void row_keys(sv_cuda_pairs pairs, sv_tensor coords,
                                const __grid_constant__ grid_shape shape, uint64_t dead)
{
    const int row = (int)sv_thread();
    if (row >= pairs.count) return;
    const bool live = row < sv_rows(coords);
    pairs.keys[row] =
        live ? (uint64_t)sv_neighbour_key(shape.size, (const int32_t *)coords.data + 4 * (int64_t)row) : dead;
    pairs.values[row] = row;
}

static __global__ void look_up(sv_tensor table, sv_tensor coords, sv_cuda_pairs sorted,
                               const __grid_constant__ grid_shape shape)
{
    const int64_t item = sv_thread();
    const int64_t row = item / SV_SUBM_OFFSETS;
    const int k = (int)(item % SV_SUBM_OFFSETS), rows = sv_rows(coords);
    if (row >= rows) return;
    int found = (int)row;
    if (k != SV_SUBM_CENTRE) {
        const uint64_t key = (uint64_t)(sv_neighbour_key(shape.size, (const int32_t *)coords.data + 4 * row) +
                                        sv_neighbour_step(shape.size, k));
        const int at = sv_lower_bound(sorted.keys, rows, key);
        found = at < rows && sorted.keys[at] == key ? sorted.values[at] : -1;
    }
    ((int32_t *)table.data)[row * table.pitch + k] = found;
}

sv_status sv_cuda_neighbours(sv_ctx *c, sv_tensor table, sv_tensor coords, const int32_t *shape)
{
    const cudaStream_t stream = sv_cuda_stream(c);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const grid_shape grid = {{shape[0], shape[1], shape[2]}};
    /* Above the keys of one sample more: see the uneven grids of voxel.h, 3. */
    const int32_t beyond[4] = {coords.batch + 1, 0, 0, 0};
    const uint64_t dead = (uint64_t)sv_neighbour_key(shape, beyond);
    sv_cuda_pairs pairs, sorted;
    SV_TRY(sv_cuda_pairs_alloc(c, &pairs, coords.dim[0]));
    row_keys<<<sv_cuda_blocks(pairs.count), SV_CUDA_THREADS, 0, stream>>>(pairs, coords, grid, dead);
    SV_TRY(sv_cuda_sort(c, &sorted, pairs, sv_cuda_bits(dead)));
    look_up<<<sv_cuda_blocks((int64_t)pairs.count * SV_SUBM_OFFSETS), SV_CUDA_THREADS, 0, stream>>>(
        table, coords, sorted, grid);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "neighbours");
}
