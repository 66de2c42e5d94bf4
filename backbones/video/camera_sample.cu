/* SPDX-License-Identifier: Apache-2.0
 *
 * Features of cameras at the projections of voxel centres, on the GPU; camera_sample_cpu.c has the two steps.
 * The least distance in a small cell of a picture is a minimum over integers, the bits of numbers above zero,
 * which has no order. Compiled without fused multiply-add: what is visible is rounded as on the CPU.
 */
#include "backbones/video/camera_lens.h"
#include "perception/core/cuda.cuh"

namespace {

enum { MOST_VIEWS = 16, WARP = 32, NOTHING = 0x7f }; /* bytes of a distance beyond all others */

/* Where a voxel lies in a view; distance 0: nowhere. */
struct place {
    float column, row, distance;
};

struct sample_job {
    sv_tensor y, coords, features, views;
    sv_grid grid;
    sv_camera_rule rule;
    place *places;    /* [rows, views] */
    int32_t *nearest; /* [B * views, rows * FINE, columns * FINE] */
};

__device__ place project(const sample_job &job, const float *view, const int32_t *cell)
{
    const sv_camera_rule &rule = job.rule;
    float p[3];
    for (int axis = 0; axis < 3; axis++)
        p[axis] = job.grid.min[axis] + ((float)cell[3 - axis] + 0.5f) * job.grid.size[axis];
    const float w = view[8] * p[0] + view[9] * p[1] + view[10] * p[2] + view[11];
    if (view[12] == 0 || !(w >= rule.nearest && w <= rule.farthest)) return {0, 0, 0};
    float column = (view[0] * p[0] + view[1] * p[1] + view[2] * p[2] + view[3]) / w,
          row = (view[4] * p[0] + view[5] * p[1] + view[6] * p[2] + view[7]) / w;
    if (!sv_lens_bend(view + SV_CAMERA_LENS, &column, &row)) return {0, 0, 0};
    if (!(column >= 0 && column < (float)rule.columns && row >= 0 && row < (float)rule.rows))
        return {0, 0, 0};
    return {column, row, w};
}

__device__ __forceinline__ int32_t *fine_cell(const sample_job &job, int view, const place &p)
{
    const int width = job.rule.columns * SV_CAMERA_FINE, height = job.rule.rows * SV_CAMERA_FINE;
    return job.nearest + (int64_t)view * width * height + (int64_t)(int)(p.row * SV_CAMERA_FINE) * width +
           (int)(p.column * SV_CAMERA_FINE);
}

/* A thread per voxel and view. */
__global__ void find_places(const __grid_constant__ sample_job job)
{
    const int64_t number = sv_thread(), row = number / job.rule.views;
    if (row >= sv_rows(job.coords)) return;
    const int32_t *cell = (const int32_t *)job.coords.data + row * job.coords.pitch;
    const int view = cell[0] * job.rule.views + (int)(number % job.rule.views);
    const place p = project(job, (const float *)job.views.data + (int64_t)view * job.views.pitch, cell);
    job.places[number] = p;
    if (p.distance > 0) atomicMin(fine_cell(job, view, p), __float_as_int(p.distance));
}

/* Indices and shares along one axis of 'size' tokens with their centres at 0.5, 1.5, ... */
__device__ __forceinline__ void neighbours(float at, int size, int index[2], float share[2])
{
    const float low = floorf(at - 0.5f);
    const int first = (int)low;
    index[0] = max(first, 0);
    index[1] = min(first + 1, size - 1);
    share[1] = at - 0.5f - low;
    share[0] = 1 - share[1];
}

__device__ void add_view(const sample_job &job, float *y, int view, const place &p, float weight)
{
    const sv_camera_rule &rule = job.rule;
    int column[2], line[2];
    float across[2], down[2], share[4];
    const float *row[4];
    neighbours(p.column, rule.columns, column, across);
    neighbours(p.row, rule.rows, line, down);
    for (int k = 0; k < 4; k++) {
        const int64_t token =
            (int64_t)view * rule.rows * rule.columns + (int64_t)line[k / 2] * rule.columns + column[k % 2];
        row[k] = (const float *)job.features.data + token * job.features.pitch;
        share[k] = weight * down[k / 2] * across[k % 2];
    }
    for (int i = threadIdx.x % WARP; i < job.y.dim[1]; i += WARP) {
        float sum = share[0] * row[0][i];
        for (int k = 1; k < 4; k++) sum = fmaf(share[k], row[k][i], sum);
        y[i] += sum;
    }
}

/* A warp per voxel. */
__global__ void add_features(const __grid_constant__ sample_job job)
{
    const int64_t row = sv_thread() / WARP;
    if (row >= sv_rows(job.coords)) return;
    const int views = job.rule.views,
              first = ((const int32_t *)job.coords.data)[row * job.coords.pitch] * views;
    const place *p = job.places + row * views;
    uint32_t seen = 0; /* bit k: view k */
    for (int k = 0; k < views; k++) {
        if (p[k].distance == 0) continue;
        const float least = __int_as_float(*fine_cell(job, first + k, p[k]));
        if (job.rule.hidden > 0 && p[k].distance > least + job.rule.hidden) continue;
        seen |= 1u << k;
    }
    const float weight = 1.0f / (float)max(__popc(seen), 1);
    for (int k = 0; k < views; k++)
        if (seen >> k & 1) add_view(job, (float *)job.y.data + row * job.y.pitch, first + k, p[k], weight);
}

} // namespace

sv_status sv_cuda_camera_sample(sv_ctx *c, sv_tensor y, sv_tensor coords, sv_tensor features, sv_tensor views,
                                const sv_grid *grid, const sv_camera_rule *rule)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    static_assert(MOST_VIEWS <= 32, "a view is a bit");
    const int fine = rule->rows * rule->columns * SV_CAMERA_FINE * SV_CAMERA_FINE;
    const size_t cells = (size_t)coords.batch * (size_t)rule->views * (size_t)fine;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sample_job job = {};
    job.y = y;
    job.coords = coords;
    job.features = features;
    job.views = views;
    job.grid = *grid;
    job.rule = *rule;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "voxels in pictures",
                          sizeof(place) * (size_t)coords.dim[0] * (size_t)rule->views, (void **)&job.places));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "distances in pictures", sizeof(int32_t) * cells,
                          (void **)&job.nearest));
    SV_CUDA_TRY(c, "camera_sample",
                cudaMemsetAsync(job.nearest, NOTHING, sizeof(int32_t) * cells, sv_cuda_stream(c)));
    find_places<<<sv_cuda_blocks((int64_t)coords.dim[0] * rule->views), SV_CUDA_THREADS, 0,
                  sv_cuda_stream(c)>>>(job);
    add_features<<<sv_cuda_blocks((int64_t)coords.dim[0] * WARP), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(
        job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "camera_sample");
}
