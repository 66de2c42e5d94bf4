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
    const float *zeros;
} norm_job;

static int64_t entry(sv_tensor index, int64_t i)
{
    return sv_is_none(index) ? i : sv_i32(index)[i * index.pitch];
}
/* A row below 0 is a row of zeros. */
static const float *row_of(sv_tensor t, int64_t row, const float *zeros)
{
    if (sv_is_none(t)) return NULL;
    return row < 0 ? zeros : sv_f32(t) + row * t.pitch;
}
static sv_status make_zeros(sv_ctx *c, const float **out, int n)
{
    sv_tensor zeros;
    SV_TRY(sv_scratch_alloc(c, &zeros, "row of zeros", SV_F32, 1, n, SV_NONE));
    *out = memset(zeros.data, 0, (size_t)n * sizeof(float));
    return SV_OK;
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
        row.x = row_of(j->x, from, j->zeros);
        row.skip = row_of(how->skip, from, j->zeros);
        row.gate = row_of(how->gate, entry(how->gate_index, i), j->zeros);
        kernels->norm(&row);
    }
}

sv_status sv_cpu_head_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, const sv_head_norm_spec *how)
{
    norm_job j = {
        .tasks = sv_split_rows(sv_live_rows(y), y.dim[1], 32768), .y = y, .x = x, .index = index, .how = how};
    const sv_mark mark = sv_arena_mark(&c->scratch);
    SV_TRY(make_zeros(c, &j.zeros, y.dim[1]));
    sv_pool_run(c->pool, norm_rows, &j, j.tasks.count);
    sv_arena_rewind(&c->scratch, mark);
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
        kernels->blocks(sv_f32(j->y) + i * j->y.pitch, row_of(j->x, from, j->zeros), j->w, j->bias,
                        j->y.dim[1], j->size);
    }
}

sv_status sv_cpu_block_linear(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, sv_tensor w,
                              sv_tensor bias)
{
    const int n = y.dim[1], size = w.dim[1];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    block_job j = {.tasks = sv_split_rows(sv_live_rows(y), n, 32768),
                   .y = y,
                   .x = x,
                   .index = index,
                   .bias = vector_of(bias),
                   .size = size};
    SV_TRY(make_zeros(c, &j.zeros, n));
    sv_tensor turned; /* weights [size, n] */
    SV_TRY(sv_scratch_alloc(c, &turned, "block weights", SV_F32, size, n, SV_NONE));
    for (int o = 0; o < n; o++)
        for (int k = 0; k < size; k++)
            sv_f32(turned)[(ptrdiff_t)k * n + o] = sv_f32(w)[(ptrdiff_t)o * w.pitch + k];
    j.w = sv_f32(turned);
    sv_pool_run(c->pool, block_rows, &j, j.tasks.count);
    sv_arena_rewind(&c->scratch, mark);
    sv_count_work(c, 2.0 * j.tasks.rows * n * size, 4.0 * n * (2.0 * j.tasks.rows + size));
    return SV_OK;
}
