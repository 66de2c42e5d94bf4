/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementwise maps on the CPU: y = map(a) and y = map(a, b), rows x channels.
 */
#include "map_cpu.h"
#include "ops_cpu.h"
#include "row_tasks.h"

typedef struct job {
    sv_row_tasks tasks;
    sv_tensor y, a, b;
    sv_map map;
    bool dense; /* no gaps between the rows of any tensor */
} job;

static const float *row_of(sv_tensor t, int64_t row)
{
    return sv_is_none(t) ? NULL : sv_f32(t) + row * t.pitch;
}

static void run_rows(void *arg, int task, int worker)
{
    (void)worker;
    const job *j = arg;
    const sv_map_kernels *kernels = SV_SIMD_PICK(sv_map_kernels);
    const int first = task * j->tasks.per_task, end = sv_task_end(&j->tasks, task), columns = j->y.dim[1];
    const int step = j->dense ? end - first : 1;
    for (int i = first; i < end; i += step)
        kernels->run[j->map](sv_f32(j->y) + (int64_t)i * j->y.pitch, row_of(j->a, i), row_of(j->b, i),
                             (int64_t)step * columns);
}

static sv_status run_map(sv_ctx *c, sv_tensor y, sv_tensor a, sv_tensor b, sv_map map)
{
    const int columns = y.dim[1];
    job j = {.tasks = sv_split_rows(sv_live_rows(y), columns, 32768), .y = y, .a = a, .b = b, .map = map};
    j.dense = y.pitch == columns && a.pitch == columns && (sv_is_none(b) || b.pitch == columns);
    sv_pool_run(c->pool, run_rows, &j, j.tasks.count);
    sv_count_work(c, (double)j.tasks.rows * columns, 4.0 * j.tasks.rows * columns * (sv_is_none(b) ? 2 : 3));
    return SV_OK;
}

sv_status sv_cpu_map1(sv_ctx *c, sv_tensor y, sv_tensor a, sv_map map)
{
    return run_map(c, y, a, SV_NONE, map);
}

sv_status sv_cpu_map2(sv_ctx *c, sv_tensor y, sv_tensor a, sv_tensor b, sv_map map)
{
    return run_map(c, y, a, b, map);
}
