/* SPDX-License-Identifier: Apache-2.0
 *
 * Voxelization on the GPU (formulas: voxel.h):
 *
 *   key of each point -> stable sort (key, point) -> a flag where a key begins
 *   -> running sum = voxel number + 1
 *
 * Points that are dead, outside the grid or not finite get a key behind all others. The sort is stable, so
 * the points of a voxel stay in ascending order. Sums for the means are 64-bit integers.
 */
#include "voxel.h"

#include "perception/core/cuda.cuh"

typedef struct cell_lists {
    sv_cuda_pairs places; /* sorted: voxel key (batch term included), point row */
    int32_t *number;      /* [P] voxel of each place, counted from 1 */
    uint64_t dead;        /* the key behind all others */
} cell_lists;

static __global__ void point_keys(sv_cuda_pairs pairs, sv_tensor points, const __grid_constant__ sv_grid grid,
                                  uint64_t dead)
{
    const int row = (int)sv_thread();
    if (row >= pairs.count) return;
    uint64_t key = dead;
    if (row < sv_rows(points)) {
        const float *p = (const float *)points.data + (int64_t)row * points.pitch;
        const int64_t cell = sv_voxel_key(&grid, p[0], p[1], p[2]);
        if (cell >= 0)
            key = (uint64_t)(sv_sample_of(points.offsets, points.batch, row) * sv_voxel_keys(&grid) + cell);
    }
    pairs.keys[row] = key;
    pairs.values[row] = row;
}

static __global__ void mark_first(int32_t *flags, sv_cuda_pairs places, uint64_t dead)
{
    const int i = (int)sv_thread();
    if (i >= places.count) return;
    const uint64_t key = places.keys[i];
    flags[i] = key != dead && (i == 0 || places.keys[i - 1] != key);
}

/* Thread b: where sample b begins; thread 0 also counts. 'capacity' voxels fit; places of the others are
 * cut off. */
static __global__ void write_offsets(sv_point_groups out, cell_lists lists, int batch, int64_t keys,
                                     int32_t *needed)
{
    const sv_cuda_pairs places = lists.places;
    const int b = threadIdx.x, capacity = out.coords.dim[0];
    if (b > batch) return;
    const int used = sv_lower_bound(places.keys, places.count, lists.dead);
    const int voxels = used > 0 ? lists.number[used - 1] : 0;
    const int kept = voxels <= capacity ? used : sv_lower_bound(lists.number, used, capacity + 1);
    const int first = b == batch ? used : sv_lower_bound(places.keys, used, (uint64_t)(b * keys));
    out.rows_offsets[b] = min(first, kept);
    out.coords_offsets[b] = min(first > 0 ? lists.number[first - 1] : 0, capacity);
    if (b == 0) {
        *needed = voxels;
        ((int32_t *)out.start.data)[min(voxels, capacity)] = kept;
    }
}

static __global__ void write_places(sv_point_groups out, cell_lists lists,
                                    const __grid_constant__ sv_grid grid)
{
    const int i = (int)sv_thread();
    if (i >= lists.places.count) return;
    const uint64_t key = lists.places.keys[i];
    const int v = lists.number[i] - 1;
    if (key == lists.dead || v >= out.coords.dim[0]) return;
    ((int32_t *)out.rows.data)[i] = lists.places.values[i];
    ((int32_t *)out.voxel.data)[i] = v;
    if (i > 0 && lists.places.keys[i - 1] == key) return;
    ((int32_t *)out.start.data)[v] = i;
    const int64_t keys = sv_voxel_keys(&grid);
    sv_voxel_coords(&grid, (int)((int64_t)key / keys), (int64_t)key % keys,
                    (int32_t *)out.coords.data + 4 * (int64_t)v);
}

sv_status sv_cuda_voxelize(sv_ctx *c, const sv_point_groups *out, sv_tensor points, const sv_grid *grid,
                           int32_t *needed)
{
    const cudaStream_t stream = sv_cuda_stream(c);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int count = points.dim[0];
    const unsigned blocks = sv_cuda_blocks(count);
    cell_lists lists;
    lists.dead = (uint64_t)(points.batch * sv_voxel_keys(grid));
    sv_cuda_pairs pairs;
    void *flags = NULL, *number = NULL;
    SV_TRY(sv_cuda_pairs_alloc(c, &pairs, count));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "voxel flags", (size_t)count * sizeof(int32_t), &flags));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "voxel numbers", (size_t)count * sizeof(int32_t), &number));
    lists.number = (int32_t *)number;
    point_keys<<<blocks, SV_CUDA_THREADS, 0, stream>>>(pairs, points, *grid, lists.dead);
    SV_TRY(sv_cuda_sort(c, &lists.places, pairs, sv_cuda_bits(lists.dead)));
    mark_first<<<blocks, SV_CUDA_THREADS, 0, stream>>>((int32_t *)flags, lists.places, lists.dead);
    SV_TRY(sv_cuda_running_sum(c, lists.number, (const int32_t *)flags, count));
    write_offsets<<<1, SV_MAX_BATCH + 1, 0, stream>>>(*out, lists, points.batch, sv_voxel_keys(grid), needed);
    write_places<<<blocks, SV_CUDA_THREADS, 0, stream>>>(*out, lists, *grid);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "voxelize");
}

/* ---- point features ------------------------------------------------------------------------------------ */

enum { SUM_LANES = 32 }; /* threads that share a voxel; integer sums may be split in any way */

static __global__ void voxel_means(float *means, sv_tensor points,
                                   const __grid_constant__ sv_point_groups groups)
{
    const int v = (int)(sv_thread() / SUM_LANES), lane = threadIdx.x % SUM_LANES;
    const bool live = v < sv_rows(groups.coords);
    const int first = live ? ((const int32_t *)groups.start.data)[v] : 0;
    const int end = live ? ((const int32_t *)groups.start.data)[v + 1] : 0;
    long long sum[3] = {0, 0, 0};
#pragma unroll 4
    for (int i = first + lane; i < end; i += SUM_LANES) {
        const float *p =
            (const float *)points.data + (int64_t)((const int32_t *)groups.rows.data)[i] * points.pitch;
        for (int axis = 0; axis < 3; axis++) sum[axis] += sv_fixed(p[axis]);
    }
    for (int axis = 0; axis < 3; axis++)
        for (int distance = SUM_LANES / 2; distance > 0; distance /= 2)
            sum[axis] += __shfl_xor_sync(0xffffffffu, sum[axis], distance);
    if (live && lane < 3) means[3 * (int64_t)v + lane] = sv_fixed_mean(sum[lane], end - first);
}

static __global__ void write_features(sv_tensor y, const float *means, sv_tensor points,
                                      const __grid_constant__ sv_point_groups groups,
                                      const __grid_constant__ sv_grid grid)
{
    const int i = (int)sv_thread();
    if (i >= sv_rows(groups.rows)) return;
    const int columns = points.dim[1], v = ((const int32_t *)groups.voxel.data)[i];
    const float *p =
        (const float *)points.data + (int64_t)((const int32_t *)groups.rows.data)[i] * points.pitch;
    const int32_t *coords = (const int32_t *)groups.coords.data + 4 * (int64_t)v;
    float *out = (float *)y.data + (int64_t)i * y.pitch;
    for (int k = 0; k < columns; k++) out[k] = p[k];
    for (int axis = 0; axis < 3; axis++) {
        out[columns + axis] = p[axis] - means[3 * (int64_t)v + axis];
        out[columns + 3 + axis] = p[axis] - sv_grid_centre(&grid, axis, coords[3 - axis]);
    }
}

sv_status sv_cuda_point_features(sv_ctx *c, sv_tensor y, sv_tensor points, const sv_point_groups *groups,
                                 const sv_grid *grid)
{
    const cudaStream_t stream = sv_cuda_stream(c);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int voxels = groups->coords.dim[0];
    void *means = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "voxel means", (size_t)voxels * 3 * sizeof(float), &means));
    voxel_means<<<sv_cuda_blocks((int64_t)voxels * SUM_LANES), SV_CUDA_THREADS, 0, stream>>>((float *)means,
                                                                                             points, *groups);
    write_features<<<sv_cuda_blocks(groups->rows.dim[0]), SV_CUDA_THREADS, 0, stream>>>(
        y, (const float *)means, points, *groups, *grid);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "point_features");
}
