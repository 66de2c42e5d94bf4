/* SPDX-License-Identifier: Apache-2.0
 *
 * LayerNorm over channels on the CPU: y[i] = residual[i] + map((x[i] - mean_i) / sqrt(var_i + eps) * weight +
 * bias).
 */
#include "norm_cpu.h"
#include "ops_cpu.h"
#include "row_tasks.h"

typedef struct job {
    sv_row_tasks tasks;
    sv_tensor y, x, residual;
    const float *weight, *bias;
    float eps;
    sv_map map;
} job;

static void run_rows(void *arg, int task, int worker)
{
    (void)worker;
    const job *j = arg;
    const sv_norm_kernels *kernels = SV_SIMD_PICK(sv_norm_kernels);
    const int columns = j->y.dim[1], end = sv_task_end(&j->tasks, task);
    for (int64_t i = (int64_t)task * j->tasks.per_task; i < end; i++) {
        const float *x = sv_f32(j->x) + i * j->x.pitch;
        const float *residual = sv_is_none(j->residual) ? NULL : sv_f32(j->residual) + i * j->residual.pitch;
        float mean, scale;
        kernels->moments(x, columns, j->eps, &mean, &scale);
        kernels->apply[j->map](sv_f32(j->y) + i * j->y.pitch, x, columns, mean, scale, j->weight, j->bias,
                               residual);
    }
}

sv_status sv_cpu_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor weight, sv_tensor bias, float eps,
                      sv_map map, sv_tensor residual)
{
    const int columns = y.dim[1];
    job j = {.tasks = sv_split_rows(sv_live_rows(y), columns, 32768),
             .y = y,
             .x = x,
             .residual = residual,
             .weight = sv_f32(weight),
             .bias = sv_f32(bias),
             .eps = eps,
             .map = map};
    sv_pool_run(c->pool, run_rows, &j, j.tasks.count);
    sv_count_work(c, 7.0 * j.tasks.rows * columns,
                  4.0 * j.tasks.rows * columns * (sv_is_none(residual) ? 2 : 3));
    return SV_OK;
}
