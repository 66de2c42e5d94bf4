/* SPDX-License-Identifier: Apache-2.0
 *
 * Features of cameras at the projections of voxel centres, on the CPU. First every view by itself: project all voxels of its
 * sample and note the least distance in each small cell of the picture; a minimum has no order. Then every voxel: the views
 * that see it, in their order.
 */
#include "camera_kernels.h"
#include "camera_lens.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/row_tasks.h"

#include <math.h>
#include <string.h>

enum { MOST_VIEWS = 16 };

/* Where a voxel lies in a view; distance 0: nowhere. */
typedef struct place {
    float column, row, distance;
} place;

typedef struct job {
    sv_tensor y, coords, features, views;
    const sv_grid *grid;
    const sv_camera_rule *rule;
    sv_row_tasks tasks;
    place *places;  /* [rows, views] */
    float *nearest; /* [B * views, rows * FINE, columns * FINE] */
} job;

static place project(const job *j, const float *view, const int32_t *cell)
{
    const sv_grid *g = j->grid;
    const sv_camera_rule *rule = j->rule;
    float p[3];
    for (int axis = 0; axis < 3; axis++)
        p[axis] = g->min[axis] + ((float)cell[3 - axis] + 0.5f) * g->size[axis];
    const float w = view[8] * p[0] + view[9] * p[1] + view[10] * p[2] + view[11];
    place out = {0, 0, 0};
    if (view[12] == 0 || !(w >= rule->nearest && w <= rule->farthest)) return out;
    float column = (view[0] * p[0] + view[1] * p[1] + view[2] * p[2] + view[3]) / w,
          row = (view[4] * p[0] + view[5] * p[1] + view[6] * p[2] + view[7]) / w;
    if (!sv_lens_bend(view + SV_CAMERA_LENS, &column, &row)) return out;
    if (!(column >= 0 && column < (float)rule->columns && row >= 0 && row < (float)rule->rows)) return out;
    return (place){column, row, w};
}

static int fine_cells(const sv_camera_rule *rule)
{
    return rule->rows * rule->columns * SV_CAMERA_FINE * SV_CAMERA_FINE;
}

static float *fine_cell(const job *j, int view, const place *p)
{
    const int width = j->rule->columns * SV_CAMERA_FINE;
    return j->nearest + (size_t)view * (size_t)fine_cells(j->rule) +
           (size_t)(p->row * SV_CAMERA_FINE) * (size_t)width + (size_t)(p->column * SV_CAMERA_FINE);
}

static void run_view(void *arg, int task, int worker)
{
    (void)worker;
    const job *j = arg;
    const int views = j->rule->views, sample = task / views;
    const float *view = sv_f32(j->views) + (ptrdiff_t)task * j->views.pitch;
    float *nearest = j->nearest + (size_t)task * (size_t)fine_cells(j->rule);
    for (int i = 0; i < fine_cells(j->rule); i++) nearest[i] = INFINITY;
    for (int i = j->coords.offsets[sample]; i < j->coords.offsets[sample + 1]; i++) {
        place *to = j->places + (size_t)i * (size_t)views + (size_t)(task % views);
        *to = project(j, view, sv_i32(j->coords) + (ptrdiff_t)i * j->coords.pitch);
        if (to->distance == 0) continue;
        float *cell = fine_cell(j, task, to);
        if (to->distance < *cell) *cell = to->distance;
    }
}

/* Indices and shares along one axis of 'size' tokens with their centres at 0.5, 1.5, ... */
static void neighbours(float at, int size, int index[2], float share[2])
{
    const float low = floorf(at - 0.5f);
    const int first = (int)low;
    index[0] = first < 0 ? 0 : first;
    index[1] = first + 1 > size - 1 ? size - 1 : first + 1;
    share[1] = at - 0.5f - low;
    share[0] = 1 - share[1];
}

static void add_view(const job *j, const sv_camera_kernels *kernels, float *y, int view, const place *p,
                     float weight)
{
    const sv_camera_rule *rule = j->rule;
    int column[2], line[2];
    float across[2], down[2], share[4];
    const float *row[4];
    neighbours(p->column, rule->columns, column, across);
    neighbours(p->row, rule->rows, line, down);
    for (int k = 0; k < 4; k++) {
        const ptrdiff_t token = (ptrdiff_t)view * rule->rows * rule->columns +
                                (ptrdiff_t)line[k / 2] * rule->columns + column[k % 2];
        row[k] = sv_f32(j->features) + token * j->features.pitch;
        share[k] = weight * down[k / 2] * across[k % 2];
    }
    kernels->add(y, j->y.dim[1], row, share);
}

static void run_rows(void *arg, int task, int worker)
{
    (void)worker;
    const job *j = arg;
    const sv_camera_kernels *kernels = SV_SIMD_PICK(sv_camera_kernels);
    const int views = j->rule->views, end = sv_task_end(&j->tasks, task);
    for (int i = task * j->tasks.per_task; i < end; i++) {
        const int sample = sv_i32(j->coords)[(ptrdiff_t)i * j->coords.pitch];
        const place *p = j->places + (size_t)i * (size_t)views;
        int seen[MOST_VIEWS], count = 0;
        for (int k = 0; k < views; k++) {
            if (p[k].distance == 0) continue;
            const float least = *fine_cell(j, sample * views + k, &p[k]);
            if (j->rule->hidden > 0 && p[k].distance > least + j->rule->hidden) continue;
            seen[count++] = k;
        }
        for (int k = 0; k < count; k++)
            add_view(j, kernels, sv_f32(j->y) + (ptrdiff_t)i * j->y.pitch, sample * views + seen[k],
                     &p[seen[k]], 1.0f / (float)count);
    }
}

sv_status sv_cpu_camera_sample(sv_ctx *c, sv_tensor y, sv_tensor coords, sv_tensor features, sv_tensor views,
                               const sv_grid *grid, const sv_camera_rule *rule)
{
    const int rows = sv_live_rows(coords), count = coords.batch * rule->views;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    job j = {.y = y,
             .coords = coords,
             .features = features,
             .views = views,
             .grid = grid,
             .rule = rule,
             .tasks = sv_split_rows(rows, 8 * y.dim[1], 32768)};
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "voxels in pictures",
                          sizeof *j.places * (size_t)rows * (size_t)rule->views, &memory));
    j.places = memory;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "distances in pictures",
                          sizeof *j.nearest * (size_t)count * (size_t)fine_cells(rule), &memory));
    j.nearest = memory;
    sv_pool_run(c->pool, run_view, &j, count);
    sv_pool_run(c->pool, run_rows, &j, j.tasks.count);
    sv_arena_rewind(&c->scratch, mark);
    sv_count_work(c, (double)rows * (30.0 * rule->views + 8.0 * y.dim[1]),
                  4.0 * rows * (2.0 * y.dim[1] + 6.0 * rule->views));
    return SV_OK;
}
