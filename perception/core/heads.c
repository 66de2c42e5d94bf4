/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations on rows whose channels fall into heads, on the CPU: norms within each head, with a skip and a
 * gate behind them, and products with a block-diagonal matrix. The arithmetic is in heads.simd.c.
 */
#include "heads_cpu.h"
#include "ops_cpu.h"
#include "row_tasks.h"

#include <string.h>

/* ---- norm ----------------------------------------------------------------------------------------- */

typedef struct norm_job {
    sv_row_tasks tasks;
    sv_tensor y, x, index;
    const sv_head_norm_spec *how;
} norm_job;

static int64_t entry(sv_tensor index, int64_t i)
{
    return sv_is_none(index) ? i : sv_i32(index)[i * index.pitch];
}
static const float *row_of(sv_tensor t, int64_t row)
{
    return sv_is_none(t) ? NULL : sv_f32(t) + row * t.pitch;
}
static const float *vector_of(sv_tensor t)
{
    return sv_is_none(t) ? NULL : sv_f32(t);
}

static void norm_rows(void *arg, int task, int worker)
{
    (void)worker;
    const norm_job *j = arg;
    const sv_head_norm_spec *how = j->how;
    const sv_heads_kernels *kernels = SV_SIMD_PICK(sv_heads_kernels);
    const int end = sv_task_end(&j->tasks, task);
    sv_head_norm_row row = {
        .weight = sv_f32(how->weight),
        .bias = vector_of(how->bias),
        .skip_weight = vector_of(how->skip_weight),
        .groups = how->groups,
        .width = j->y.dim[1] / how->groups,
        .centred = how->centred,
        .eps = how->eps,
    };
    for (int64_t i = (int64_t)task * j->tasks.per_task; i < end; i++) {
        const int64_t from = entry(j->index, i);
        row.y = sv_f32(j->y) + i * j->y.pitch;
        row.x = row_of(j->x, from);
        row.skip = row_of(how->skip, from);
        row.gate = row_of(how->gate, entry(how->gate_index, i));
        kernels->norm(&row);
    }
}

sv_status sv_cpu_head_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, const sv_head_norm_spec *how)
{
    norm_job j = {sv_split_rows(sv_live_rows(y), y.dim[1], 32768), y, x, index, how};
    sv_pool_run(c->pool, norm_rows, &j, j.tasks.count);
    const double numbers = (double)j.tasks.rows * y.dim[1];
    const int streams = 2 + !sv_is_none(how->skip) + !sv_is_none(how->gate);
    sv_count_work(c, numbers * (7 + 2 * !sv_is_none(how->skip) + 5 * !sv_is_none(how->gate)),
                  4 * numbers * streams);
    return SV_OK;
}

/* ---- block-diagonal product ------------------------------------------------------------------------- */

typedef struct block_job {
    sv_row_tasks tasks;
    sv_tensor y, x, index;
    const float *w, *bias, *zeros;
    int size;
} block_job;

static void block_rows(void *arg, int task, int worker)
{
    (void)worker;
    const block_job *j = arg;
    const sv_heads_kernels *kernels = SV_SIMD_PICK(sv_heads_kernels);
    const int end = sv_task_end(&j->tasks, task);
    for (int64_t i = (int64_t)task * j->tasks.per_task; i < end; i++) {
        const int64_t from = entry(j->index, i);
        kernels->blocks(sv_f32(j->y) + i * j->y.pitch, from < 0 ? j->zeros : row_of(j->x, from), j->w,
                        j->bias, j->y.dim[1], j->size);
    }
}

sv_status sv_cpu_block_linear(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, sv_tensor w,
                              sv_tensor bias)
{
    const int n = y.dim[1], size = w.dim[1];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor turned; /* weights [size, n], and a row of zeros */
    SV_TRY(sv_scratch_alloc(c, &turned, "block weights", SV_F32, size + 1, n, SV_NONE));
    float *columns = sv_f32(turned);
    memset(columns + (ptrdiff_t)size * n, 0, sizeof *columns * (size_t)n);
    for (int o = 0; o < n; o++)
        for (int k = 0; k < size; k++) columns[(ptrdiff_t)k * n + o] = sv_f32(w)[(ptrdiff_t)o * w.pitch + k];
    block_job j = {.tasks = sv_split_rows(sv_live_rows(y), n, 32768),
                   .y = y,
                   .x = x,
                   .index = index,
                   .w = columns,
                   .bias = vector_of(bias),
                   .zeros = columns + (ptrdiff_t)size * n,
                   .size = size};
    sv_pool_run(c->pool, block_rows, &j, j.tasks.count);
    sv_arena_rewind(&c->scratch, mark);
    sv_count_work(c, 2.0 * j.tasks.rows * n * size, 4.0 * n * (2.0 * j.tasks.rows + size));
    return SV_OK;
}
