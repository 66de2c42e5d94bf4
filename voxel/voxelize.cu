/* SPDX-License-Identifier: Apache-2.0
 *
 * Voxelization on the GPU (formulas: voxel.h). A voxel's row is the rank of its key among the marked keys
 * (perception/core/prefix.cuh):
 *
 *     mark the key of each point -> prefix sums -> voxel of each point; how many points each has
 *     -> prefix sums -> where each voxel's points begin; points to their voxels in any order
 *     -> a point's place among its voxel's: how many of them come before it in the input
 *
 * Points that are dead, outside the grid or not finite have no key. Sums for the means are 64-bit integers.
 * The last step takes the square of a voxel's points: no matter for thousands, felt where a sensor reports
 * hundreds of thousands of lost returns at one place.
 */
#include "voxel.h"

#include "perception/core/launch.cuh"
#include "perception/core/prefix.cuh"

typedef struct voxel_job {
    sv_point_groups out;
    sv_tensor points;
    sv_grid grid;
    sv_cuda_prefix marks;  /* of keys, a sample behind the other */
    sv_cuda_prefix counts; /* points of each voxel that fits */
    int64_t *key;          /* [P] -1: none */
    int32_t *voxel;        /* [P] -1: none, or beyond the capacity */
    int32_t *arrival;      /* [P] a point's place in its voxel, as points came */
    int32_t *unordered;    /* [P] point rows, voxel by voxel */
    int32_t *needed;
} voxel_job;

static __global__ void mark_points(const __grid_constant__ voxel_job job)
{
    sv_wait_before_of_few();
    const int row = (int)sv_thread();
    if (row >= sv_rows(job.points)) return;
    const float *p = (const float *)job.points.data + (int64_t)row * job.points.pitch;
    int64_t key = sv_voxel_key(&job.grid, p[0], p[1], p[2]);
    if (key >= 0) {
        key += sv_sample_of(job.points.offsets, job.points.batch, row) * sv_voxel_keys(&job.grid);
        sv_prefix_mark(job.marks, key);
    }
    job.key[row] = key;
}

/* Also, by the first threads: where the voxels of sample b begin, and how many there are. Those beyond the
 * capacity are cut off. */
static __global__ void number_points(const __grid_constant__ voxel_job job)
{
    sv_wait_before_of_few();
    const int row = (int)sv_thread(), capacity = job.out.coords.dim[0], batch = job.points.batch,
              voxels = job.marks.totals[job.marks.blocks];
    const int64_t keys = sv_voxel_keys(&job.grid);
    if (row <= batch) {
        const int first = row == batch ? voxels : sv_prefix_rank(job.marks, row * keys);
        job.out.coords_offsets[row] = min(first, capacity);
        if (row == 0) *job.needed = voxels;
    }
    if (row >= sv_rows(job.points)) return;
    const int64_t key = job.key[row];
    const int voxel = key >= 0 ? sv_prefix_rank(job.marks, key) : capacity;
    job.voxel[row] = voxel < capacity ? voxel : -1;
    if (voxel >= capacity) return;
    const int arrival = (int)atomicAdd(&job.counts.numbers[voxel], 1u);
    job.arrival[row] = arrival;
    if (arrival == 0)
        sv_voxel_coords(&job.grid, (int)(key / keys), key % keys,
                        (int32_t *)job.out.coords.data + 4 * (int64_t)voxel);
}

static __global__ void place_points(const __grid_constant__ voxel_job job)
{
    sv_wait_before_of_few();
    const int i = (int)sv_thread(), batch = job.points.batch;
    if (i <= batch) job.out.rows_offsets[i] = sv_prefix_sum(job.counts, job.out.coords_offsets[i]);
    if (i <= job.out.coords_offsets[batch]) ((int32_t *)job.out.start.data)[i] = sv_prefix_sum(job.counts, i);
    if (i >= sv_rows(job.points)) return;
    const int voxel = job.voxel[i];
    if (voxel >= 0) job.unordered[sv_prefix_sum(job.counts, voxel) + job.arrival[i]] = i;
}

enum {
    ORDER_THREADS = 64
}; /* near the sensor voxels have thousands of points: they are spread over processors */

/* How many of the rows from..to-1 of a list lie below 'row'; four are read at once. */
static __device__ __forceinline__ int count_below(const int32_t *list, int from, int to, int row)
{
    const int whole = min((from + 3) / 4 * 4, to), rest = max(to / 4 * 4, whole);
    int count = 0;
#pragma unroll 1
    for (int i = from; i < whole; i++) count += list[i] < row;
#pragma unroll 4
    for (int i = whole; i < rest; i += 4) {
        const int4 four = *(const int4 *)(list + i);
        count += (four.x < row) + (four.y < row) + (four.z < row) + (four.w < row);
    }
#pragma unroll 1
    for (int i = rest; i < to; i++) count += list[i] < row;
    return count;
}

static __global__ void __launch_bounds__(ORDER_THREADS) order_points(const __grid_constant__ voxel_job job)
{
    sv_wait_before();
    const int place = (int)sv_thread();
    if (place >= job.out.rows_offsets[job.points.batch]) return;
    const int row = job.unordered[place], voxel = job.voxel[row],
              first = ((const int32_t *)job.out.start.data)[voxel],
              end = ((const int32_t *)job.out.start.data)[voxel + 1];
    ((int32_t *)job.out.rows.data)[first + count_below(job.unordered, first, end, row)] = row;
    ((int32_t *)job.out.voxel.data)[place] = voxel;
}

sv_status sv_cuda_voxelize(sv_ctx *c, const sv_point_groups *out, sv_tensor points, const sv_grid *grid,
                           int32_t *needed)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int count = points.dim[0], capacity = out->coords.dim[0];
    voxel_job job = {};
    job.out = *out;
    job.points = points;
    job.grid = *grid;
    job.needed = needed;
    void *key = NULL, *lists = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "voxel keys", (size_t)count * sizeof(int64_t), &key));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "points of voxels", (size_t)count * 3 * sizeof(int32_t), &lists));
    job.key = (int64_t *)key;
    job.unordered = (int32_t *)lists;
    job.voxel = job.unordered + count;
    job.arrival = job.voxel + count;
    sv_cuda_prefix prefixes[2];
    const int64_t counts[2] = {(points.batch * sv_voxel_keys(grid) + 31) / 32, capacity + 1};
    SV_TRY(sv_cuda_prefixes_alloc(c, prefixes, counts, 2));
    job.marks = prefixes[0];
    job.counts = prefixes[1];
    const dim3 each(sv_cuda_blocks(count > SV_MAX_BATCH ? count : SV_MAX_BATCH + 1)),
        either(sv_cuda_blocks(count > capacity ? count : capacity + 1));
    mark_points<<<sv_cuda_blocks(count), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(job);
    SV_TRY(SV_CUDA_LAUNCHED(c, "voxelize"));
    SV_TRY(sv_cuda_prefix_bits(c, job.marks));
    SV_TRY(sv_launch_early(c, "voxelize", number_points, job, each, SV_CUDA_THREADS, 0));
    SV_TRY(sv_cuda_prefix_sums(c, job.counts));
    SV_TRY(sv_launch_early(c, "voxelize", place_points, job, either, SV_CUDA_THREADS, 0));
    SV_TRY(sv_launch_early(c, "voxelize", order_points, job,
                           dim3((unsigned)(count + ORDER_THREADS - 1) / ORDER_THREADS + 1), ORDER_THREADS,
                           0));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* ---- point features ------------------------------------------------------------------------------------ */

/* Adds each point to its voxel's sums, which are zeros. Points of a voxel lie beside each other: the last
 * of a warp's adds what the warp has of it. */
static __global__ void add_points(long long *sums, sv_tensor points,
                                  const __grid_constant__ sv_point_groups groups)
{
    sv_wait_before();
    const int i = (int)sv_thread(), lane = threadIdx.x % 32;
    const bool live = i < sv_rows(groups.rows);
    const int voxel = live ? ((const int32_t *)groups.voxel.data)[i] : -1;
    long long sum[3] = {0, 0, 0};
    if (live) {
        const float *p =
            (const float *)points.data + (int64_t)((const int32_t *)groups.rows.data)[i] * points.pitch;
        for (int axis = 0; axis < 3; axis++) sum[axis] = sv_fixed(p[axis]);
    }
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const bool same = __shfl_up_sync(0xffffffffu, voxel, d) == voxel && lane >= d;
        for (int axis = 0; axis < 3; axis++) {
            const long long other = __shfl_up_sync(0xffffffffu, sum[axis], d);
            if (same) sum[axis] += other;
        }
    }
    const int next = __shfl_down_sync(0xffffffffu, voxel, 1);
    if (!live || (lane < 31 && next == voxel)) return;
    for (int axis = 0; axis < 3; axis++)
        atomicAdd((unsigned long long *)&sums[3 * (int64_t)voxel + axis], (unsigned long long)sum[axis]);
}

/* Rows are put together in shared memory and written as what they are, one piece. */
static __global__ void __launch_bounds__(SV_CUDA_THREADS)
    write_features(sv_tensor y, const long long *sums, sv_tensor points,
                   const __grid_constant__ sv_point_groups groups, const __grid_constant__ sv_grid grid)
{
    extern __shared__ float rows[];
    sv_wait_before();
    const int first = blockIdx.x * SV_CUDA_THREADS, i = first + (int)threadIdx.x, live = sv_rows(groups.rows);
    if (first >= live) return;
    const int columns = points.dim[1], width = columns + 6, count = min(live - first, (int)SV_CUDA_THREADS);
    if (i < live) {
        const int v = ((const int32_t *)groups.voxel.data)[i];
        const float *p =
            (const float *)points.data + (int64_t)((const int32_t *)groups.rows.data)[i] * points.pitch;
        const int32_t *coords = (const int32_t *)groups.coords.data + 4 * (int64_t)v,
                      *start = (const int32_t *)groups.start.data + v;
        float *out = rows + threadIdx.x * width;
        for (int k = 0; k < columns; k++) out[k] = p[k];
        for (int axis = 0; axis < 3; axis++) {
            out[columns + axis] = p[axis] - sv_fixed_mean(sums[3 * (int64_t)v + axis], start[1] - start[0]);
            out[columns + 3 + axis] = p[axis] - sv_grid_centre(&grid, axis, coords[3 - axis]);
        }
    }
    __syncthreads();
    float *to = (float *)y.data + (int64_t)first * y.pitch;
    if (y.pitch == width)
        for (int k = threadIdx.x; k < count * width; k += SV_CUDA_THREADS) to[k] = rows[k];
    else
        for (int k = threadIdx.x; k < count * width; k += SV_CUDA_THREADS)
            to[(int64_t)(k / width) * y.pitch + k % width] = rows[k];
}

sv_status sv_cuda_point_features(sv_ctx *c, sv_tensor y, sv_tensor points, const sv_point_groups *groups,
                                 const sv_grid *grid)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    void *sums = NULL;
    const size_t bytes = (size_t)groups->coords.dim[0] * 3 * sizeof(long long);
    SV_TRY(sv_arena_alloc(c, &c->scratch, "voxel sums", bytes, &sums));
    SV_CUDA_TRY(c, "point_features", cudaMemsetAsync(sums, 0, bytes, sv_cuda_stream(c)));
    const dim3 blocks(sv_cuda_blocks(groups->rows.dim[0]));
    add_points<<<blocks, SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>((long long *)sums, points, *groups);
    SV_TRY(SV_CUDA_LAUNCHED(c, "point_features"));
    SV_TRY(sv_launch_next(c, "point_features", write_features, blocks, SV_CUDA_THREADS,
                          (int)sizeof(float) * SV_CUDA_THREADS * (points.dim[1] + 6), y,
                          (const long long *)sums, points, *groups, *grid));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
