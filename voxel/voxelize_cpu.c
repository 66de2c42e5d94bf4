/* SPDX-License-Identifier: Apache-2.0
 *
 * Points to voxels, and the input features of the voxel encoder (section 1 of voxel.h).
 *
 *     voxelize        points [P,F] -> coords [N,4], start [N+1], rows [P], voxel [P]
 *     point_features  y [P, F+6] = point | xyz - mean of its voxel | xyz - centre of its voxel
 *
 * Points are sorted by (voxel key, row), each sample on its own, so the voxels do not depend on the order of
 * the points and 'rows' ascends within a voxel. (Official file: vfe/dynamic_voxel_vfe.py.)
 */
#include "perception/core/ops_cpu.h"
#include "sort.h"
#include "voxel.h"

#include <string.h>

enum { KEY_TILE = 8192, FEATURE_TILE = 512 };

typedef struct voxelize_task {
    const sv_point_groups *out;
    const sv_grid *grid;
    sv_tensor points;
    int64_t *key;        /* [P] of each point within its sample; -1: left out */
    sv_sort_space space; /* [P]; a sample uses the part that its points have in the cloud */
    sv_pairs *sorted;    /* [B] */
    int *kept, *voxels;  /* [B] */
} voxelize_task;

static void make_keys(void *arg, int task, int worker)
{
    (void)worker;
    const voxelize_task *t = arg;
    const float *points = sv_f32(t->points);
    const int rows = sv_live_rows(t->points), first = task * KEY_TILE;
    const int end = first + KEY_TILE < rows ? first + KEY_TILE : rows;
    for (int i = first; i < end; i++) {
        const float *p = points + (ptrdiff_t)i * t->points.pitch;
        t->key[i] = sv_voxel_key(t->grid, p[0], p[1], p[2]);
    }
}

static void sort_sample(void *arg, int sample, int worker)
{
    (void)worker;
    voxelize_task *t = arg;
    const int first = t->points.offsets[sample], end = t->points.offsets[sample + 1];
    const sv_sort_space space = sv_sort_space_from(t->space, first);
    int kept = 0, voxels = 0;
    for (int i = first; i < end; i++) {
        if (t->key[i] < 0) continue;
        space.a.key[kept] = (uint64_t)t->key[i];
        space.a.row[kept++] = i;
    }
    const sv_pairs sorted = sv_sort_pairs(&space, kept);
    for (int i = 0; i < kept; i++) voxels += i == 0 || sorted.key[i] != sorted.key[i - 1];
    t->sorted[sample] = sorted;
    t->kept[sample] = kept;
    t->voxels[sample] = voxels;
}

static void write_sample(void *arg, int sample, int worker)
{
    (void)worker;
    const voxelize_task *t = arg;
    const sv_pairs sorted = t->sorted[sample];
    const int place = t->out->rows_offsets[sample];
    int32_t *rows = sv_i32(t->out->rows) + place, *voxel = sv_i32(t->out->voxel) + place;
    int v = t->out->coords_offsets[sample] - 1;
    for (int i = 0; i < t->kept[sample]; i++) {
        if (i == 0 || sorted.key[i] != sorted.key[i - 1]) {
            v++;
            sv_i32(t->out->start)[v] = place + i;
            sv_voxel_coords(t->grid, sample, (int64_t)sorted.key[i],
                            sv_i32(t->out->coords) + (ptrdiff_t)v * 4);
        }
        rows[i] = sorted.row[i];
        voxel[i] = v;
    }
}

sv_status sv_cpu_voxelize(sv_ctx *c, const sv_point_groups *out, sv_tensor points, const sv_grid *grid,
                          int32_t *needed)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int batch = points.batch, live = sv_live_rows(points);
    sv_pairs sorted[SV_MAX_BATCH];
    int kept[SV_MAX_BATCH], voxels[SV_MAX_BATCH];
    sv_sort_space *space = NULL;
    sv_tensor key;
    SV_TRY(sv_sort_spaces(c, &space, 1, points.dim[0]));
    SV_TRY(sv_scratch_alloc(c, &key, "voxel keys", SV_I64, points.dim[0], 1, SV_NONE));
    voxelize_task task = {out, grid, points, key.data, *space, sorted, kept, voxels};
    sv_pool_run(c->pool, make_keys, &task, (live + KEY_TILE - 1) / KEY_TILE);
    sv_pool_run(c->pool, sort_sample, &task, batch);

    out->coords_offsets[0] = out->rows_offsets[0] = 0;
    for (int b = 0; b < batch; b++) {
        out->coords_offsets[b + 1] = out->coords_offsets[b] + voxels[b];
        out->rows_offsets[b + 1] = out->rows_offsets[b] + kept[b];
    }
    *needed = out->coords_offsets[batch];
    SV_CHECK(c, *needed <= out->coords.dim[0], SV_OVERFLOW, "voxelize: %d voxels exceed the capacity of %d",
             *needed, out->coords.dim[0]);
    sv_pool_run(c->pool, write_sample, &task, batch);
    sv_i32(out->start)[*needed] = out->rows_offsets[batch];
    sv_count_work(c, 0, 12.0 * live + 8.0 * out->rows_offsets[batch] + 20.0 * *needed);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

typedef struct feature_task {
    sv_tensor y, points;
    const sv_point_groups *groups;
    const sv_grid *grid;
} feature_task;

static void write_features(void *arg, int task, int worker)
{
    (void)worker;
    const feature_task *t = arg;
    const int32_t *start = sv_i32(t->groups->start), *rows = sv_i32(t->groups->rows);
    const int columns = t->points.dim[1], voxels = sv_live_rows(t->groups->coords),
              first = task * FEATURE_TILE;
    const int end = first + FEATURE_TILE < voxels ? first + FEATURE_TILE : voxels;
    for (int v = first; v < end; v++) {
        const int32_t *coords = sv_i32(t->groups->coords) + (ptrdiff_t)v * 4;
        int64_t sum[3] = {0};
        float mean[3], centre[3];
        for (int i = start[v]; i < start[v + 1]; i++) {
            const float *p = sv_f32(t->points) + (ptrdiff_t)rows[i] * t->points.pitch;
            for (int axis = 0; axis < 3; axis++) sum[axis] += sv_fixed(p[axis]);
        }
        for (int axis = 0; axis < 3; axis++) {
            mean[axis] = sv_fixed_mean(sum[axis], start[v + 1] - start[v]);
            centre[axis] = sv_grid_centre(t->grid, axis, coords[3 - axis]);
        }
        for (int i = start[v]; i < start[v + 1]; i++) {
            const float *p = sv_f32(t->points) + (ptrdiff_t)rows[i] * t->points.pitch;
            float *y = sv_f32(t->y) + (ptrdiff_t)i * t->y.pitch;
            memcpy(y, p, (size_t)columns * sizeof *y);
            for (int axis = 0; axis < 3; axis++) {
                y[columns + axis] = p[axis] - mean[axis];
                y[columns + 3 + axis] = p[axis] - centre[axis];
            }
        }
    }
}

sv_status sv_cpu_point_features(sv_ctx *c, sv_tensor y, sv_tensor points, const sv_point_groups *groups,
                                const sv_grid *grid)
{
    feature_task task = {y, points, groups, grid};
    sv_pool_run(c->pool, write_features, &task,
                (sv_live_rows(groups->coords) + FEATURE_TILE - 1) / FEATURE_TILE);
    sv_count_work(c, 9.0 * sv_live_rows(groups->rows),
                  4.0 * sv_live_rows(groups->rows) * (2.0 * points.dim[1] + 6));
    return SV_OK;
}
