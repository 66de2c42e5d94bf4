/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations on whole rows on the CPU: gather, segment sum and maximum, and the mean of each row.
 */
#include "ops_cpu.h"
#include "row_tasks.h"
#include "rows_cpu.h"

/* ---- gather ------------------------------------------------------------------------------------------- */

typedef struct gather_job {
    sv_row_tasks tasks;
    sv_tensor y, x, index, base;
} gather_job;

/* Rows ahead whose cache lines are asked for: gathered rows are too irregular for the hardware's prefetcher.
 */
enum { AHEAD = 8 };

static void ask_for(const float *row, int columns)
{
    for (int i = 0; i < columns; i += 16) __builtin_prefetch(row + i);
}

static void gather_rows(void *arg, int task, int worker)
{
    (void)worker;
    const gather_job *g = arg;
    const sv_rows_kernels *kernels = SV_SIMD_PICK(sv_rows_kernels);
    const int columns = g->y.dim[1], end = sv_task_end(&g->tasks, task);
    const int32_t *index = sv_i32(g->index);
    const float *x = g->x.data; /* any type of 4 bytes */
    for (int64_t i = (int64_t)task * g->tasks.per_task; i < end; i++) {
        if (i + AHEAD < end) {
            const int64_t next = index[(i + AHEAD) * g->index.pitch];
            if (next >= 0) ask_for(x + next * g->x.pitch, columns);
        }
        const int64_t from = index[i * g->index.pitch];
        float *y = (float *)g->y.data + i * g->y.pitch;
        const float *base = sv_is_none(g->base) ? NULL : sv_f32(g->base) + i * g->base.pitch;
        if (from >= 0 && base)
            kernels->add(y, base, x + from * g->x.pitch, columns);
        else if (from >= 0)
            kernels->copy(y, x + from * g->x.pitch, columns);
        else if (!base)
            kernels->zero(y, columns);
        else if (base != y)
            kernels->copy(y, base, columns);
    }
}

sv_status sv_cpu_gather(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, sv_tensor base)
{
    const int columns = y.dim[1];
    gather_job g = {sv_split_rows(sv_live_rows(y), columns, 32768), y, x, index, base};
    sv_pool_run(c->pool, gather_rows, &g, g.tasks.count);
    const double elements = (double)g.tasks.rows * columns;
    sv_count_work(c, sv_is_none(base) ? 0 : elements, 4.0 * elements * (sv_is_none(base) ? 2 : 3));
    return SV_OK;
}

sv_status sv_cpu_gather_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, sv_tensor base,
                             const sv_row_norm *norm)
{
    SV_TRY(sv_cpu_gather(c, y, x, index, base));
    return norm ? sv_cpu_norm(c, y, y, norm->weight, norm->bias, norm->eps, norm->map, SV_NONE) : SV_OK;
}

/* ---- segments ----------------------------------------------------------------------------------------- */

typedef struct segment_job {
    sv_row_tasks tasks;
    sv_tensor y, start;
    sv_row_list list;
    void (*reduce)(float *y, const sv_row_list *list, int64_t from, int64_t to, int n);
} segment_job;

static void reduce_segments(void *arg, int task, int worker)
{
    (void)worker;
    const segment_job *s = arg;
    const int32_t *start = sv_i32(s->start);
    const int end = sv_task_end(&s->tasks, task);
    for (int64_t i = (int64_t)task * s->tasks.per_task; i < end; i++)
        s->reduce(sv_f32(s->y) + i * s->y.pitch, &s->list, start[i * s->start.pitch],
                  start[(i + 1) * s->start.pitch], s->y.dim[1]);
}

static sv_status run_segments(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor start, sv_tensor rows,
                              bool maximum)
{
    const sv_rows_kernels *kernels = SV_SIMD_PICK(sv_rows_kernels);
    segment_job s = {.tasks = sv_split_rows(sv_live_rows(y), y.dim[1], 8192), .y = y, .start = start};
    s.list = (sv_row_list){.x = sv_f32(x), .x_pitch = x.pitch};
    if (!sv_is_none(rows)) {
        s.list.rows = sv_i32(rows);
        s.list.rows_pitch = rows.pitch;
    }
    s.reduce = maximum ? kernels->max : kernels->sum;
    sv_pool_run(c->pool, reduce_segments, &s, s.tasks.count);
    const double entries = s.tasks.rows > 0 ? sv_i32(start)[(int64_t)s.tasks.rows * start.pitch] : 0;
    sv_count_work(c, entries * y.dim[1], 4.0 * (entries + s.tasks.rows) * y.dim[1]);
    return SV_OK;
}

sv_status sv_cpu_segment_sum(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor start, sv_tensor rows,
                             const sv_row_norm *norm)
{
    SV_TRY(run_segments(c, y, x, start, rows, false));
    return norm ? sv_cpu_norm(c, y, y, norm->weight, norm->bias, norm->eps, norm->map, SV_NONE) : SV_OK;
}

sv_status sv_cpu_segment_max(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor start, sv_tensor rows)
{
    return run_segments(c, y, x, start, rows, true);
}

/* ---- row mean ----------------------------------------------------------------------------------------- */

typedef struct mean_job {
    sv_row_tasks tasks;
    sv_tensor y, x;
} mean_job;

/*
 * In double precision: rows are ranked by this mean, and the reference's own rounding is the only doubt there
 * should be. Eight sums side by side, added in a fixed order, give the same bits on every machine.
 */
static float mean_of(const float *x, int n)
{
    double part[8] = {0};
    int i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) part[j] += (double)x[i + j];
    for (int j = 0; i < n; i++, j++) part[j] += (double)x[i];
    const double low = (part[0] + part[1]) + (part[2] + part[3]),
                 high = (part[4] + part[5]) + (part[6] + part[7]);
    return (float)((low + high) / n);
}

static void mean_rows(void *arg, int task, int worker)
{
    (void)worker;
    const mean_job *m = arg;
    const int end = sv_task_end(&m->tasks, task);
    for (int64_t i = (int64_t)task * m->tasks.per_task; i < end; i++)
        sv_f32(m->y)[i * m->y.pitch] = mean_of(sv_f32(m->x) + i * m->x.pitch, m->x.dim[1]);
}

sv_status sv_cpu_row_mean(sv_ctx *c, sv_tensor y, sv_tensor x)
{
    mean_job m = {sv_split_rows(sv_live_rows(y), x.dim[1], 32768), y, x};
    sv_pool_run(c->pool, mean_rows, &m, m.tasks.count);
    sv_count_work(c, (double)m.tasks.rows * x.dim[1], 4.0 * m.tasks.rows * (x.dim[1] + 1.0));
    return SV_OK;
}
