/* SPDX-License-Identifier: Apache-2.0
 *
 * What is done to the heads of a row, on the CPU: the arithmetic is in head_rows.simd.c. Routing and powers of a position,
 * of which there are few, are plain C.
 */
#include "backbones/head_rows_kernels.h"
#include "backbones/walk.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/row_tasks.h"
#include "perception/core/simd.h"

#include <math.h>
#include <string.h>

SV_SIMD_TABLE(sv_head_kernels);

typedef void (*row_range)(const sv_head_job *job, int from, int to);
typedef struct row_work {
    const sv_head_job *job;
    row_range run;
    sv_row_tasks tasks;
} row_work;

static void run_rows(void *arg, int task, int worker)
{
    (void)worker;
    const row_work *w = arg;
    w->run(w->job, task * w->tasks.per_task, sv_task_end(&w->tasks, task));
}

static sv_status over_rows(sv_ctx *c, const sv_head_job *job, row_range run)
{
    const int rows = sv_live_rows(job->y);
    row_work w = {.job = job, .run = run, .tasks = sv_split_rows(rows, job->y.dim[1], 8192)};
    sv_pool_run(c->pool, run_rows, &w, w.tasks.count);
    const double numbers = (double)rows * job->y.dim[1];
    sv_count_work(c, 4 * numbers, 8 * numbers);
    return SV_OK;
}

sv_status sv_cpu_head_map(sv_ctx *c, sv_tensor y, sv_tensor x, int heads, sv_head_rule rule, float number)
{
    const sv_head_job job = {.y = y, .x = x, .heads = heads, .rule = rule, .number = number};
    return over_rows(c, &job, SV_SIMD_PICK(sv_head_kernels)->map);
}

sv_status sv_cpu_head_scale(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor s, bool divide, float eps)
{
    const sv_head_job job = {.y = y, .x = x, .s = s, .divide = divide, .number = eps};
    return over_rows(c, &job, SV_SIMD_PICK(sv_head_kernels)->scale);
}

sv_status sv_cpu_fill(sv_ctx *c, sv_tensor y, float value)
{
    const int rows = sv_live_rows(y);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < y.dim[1]; j++) sv_f32(y)[(ptrdiff_t)i * y.pitch + j] = value;
    sv_count_work(c, 0, 4.0 * rows * y.dim[1]);
    return SV_OK;
}

sv_status sv_cpu_column_scale(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor w, sv_tensor base)
{
    const sv_head_job job = {.y = y, .x = x, .s = w, .base = base};
    return over_rows(c, &job, SV_SIMD_PICK(sv_head_kernels)->columns);
}

sv_status sv_cpu_head_dot(sv_ctx *c, sv_tensor y, sv_tensor a, sv_tensor b, sv_tensor w)
{
    const sv_head_job job = {.y = y, .x = a, .s = w, .base = b};
    return over_rows(c, &job, SV_SIMD_PICK(sv_head_kernels)->dots);
}

/* ---- positions ------------------------------------------------------------------------------------ */

sv_status sv_cpu_position_power(sv_ctx *c, sv_tensor y, sv_tensor exponent, bool whole,
                                const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length, heads = y.dim[1];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor walked;
    SV_TRY(sv_walk_states(c, seq, groups, 1, &walked));
    for (int g = 0; g < groups; g++) {
        float *before = sv_walk_group(walked, g);
        for (int step = 0; step < seq->length; step++) {
            const double place = (double)*before + (whole ? seq->length : step + 1);
            for (int h = 0; h < heads; h++)
                sv_walk_row(y, seq, g, step)[h] = (float)pow(place, -(double)sv_f32(exponent)[h]);
        }
        *before += (float)seq->length;
    }
    sv_arena_rewind(&c->scratch, mark);
    sv_count_work(c, 20.0 * slots * heads, 4.0 * slots * heads);
    return SV_OK;
}

sv_status sv_cpu_place_rows(sv_ctx *c, sv_tensor y, sv_tensor table, const sv_sequence *seq)
{
    const int slots = sv_live_rows(y);
    for (int i = 0; i < slots; i++)
        memcpy(sv_walk_row(y, seq, i / seq->length, i % seq->length),
               sv_f32(table) + (ptrdiff_t)(i % seq->length % table.dim[0]) * table.pitch,
               (size_t)y.dim[1] * sizeof(float));
    sv_count_work(c, 0, 4.0 * slots * y.dim[1]);
    return SV_OK;
}

/* ---- routing -------------------------------------------------------------------------------------- */

static void route_row(float *y, int32_t *picks, const float *x, int columns, int count)
{
    int32_t chosen[16];
    for (int i = 0; i < columns; i++) y[i] = 0;
    for (int k = 0; k < count; k++) {
        int best = -1;
        for (int i = 0; i < columns; i++)
            if (y[i] == 0 && (best < 0 || x[i] > x[best])) best = i;
        y[best] = 1;
        chosen[k] = best;
        if (picks) picks[k] = best;
    }
    float sum = 0;
    for (int k = 0; k < count; k++) sum += y[chosen[k]] = expf(x[chosen[k]] - x[chosen[0]]);
    for (int k = 0; k < count; k++) y[chosen[k]] /= sum;
}

sv_status sv_cpu_route(sv_ctx *c, sv_tensor y, sv_tensor picks, sv_tensor x, int count)
{
    const int rows = sv_live_rows(y);
    for (int row = 0; row < rows; row++)
        route_row(sv_f32(y) + (ptrdiff_t)row * y.pitch,
                  sv_is_none(picks) ? NULL : sv_i32(picks) + (ptrdiff_t)row * picks.pitch,
                  sv_f32(x) + (ptrdiff_t)row * x.pitch, y.dim[1], count);
    sv_count_work(c, 10.0 * rows * y.dim[1], 8.0 * rows * y.dim[1]);
    return SV_OK;
}
