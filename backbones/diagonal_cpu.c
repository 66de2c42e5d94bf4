/* SPDX-License-Identifier: Apache-2.0
 *
 * The diagonal scans on the CPU: tasks are (group, 64 channels), the arithmetic is in diagonal.simd.c.
 */
#include "backbones/diagonal_kernels.h"
#include "backbones/walk.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"

#include <string.h>

SV_SIMD_TABLE(sv_diagonal_kernels);

typedef void (*channel_range)(const sv_diagonal_job *job, int group, int first, int count);
typedef struct work {
    const sv_diagonal_job *job;
    const sv_diagonal_kernels *kernels;
    channel_range run;
    int channels, parts;
} work;

static void run_task(void *arg, int task, int worker)
{
    (void)worker;
    const work *w = arg;
    const int first = task % w->parts * SV_DIAGONAL_CHANNELS, left = w->channels - first;
    w->run(w->job, task / w->parts, first, left < SV_DIAGONAL_CHANNELS ? left : SV_DIAGONAL_CHANNELS);
}

static void over_channels(sv_ctx *c, const sv_diagonal_job *job, channel_range run, int groups, int channels)
{
    work w = {.job = job, .run = run, .channels = channels};
    w.parts = (channels + SV_DIAGONAL_CHANNELS - 1) / SV_DIAGONAL_CHANNELS;
    sv_pool_run(c->pool, run_task, &w, groups * w.parts);
}

sv_status sv_cpu_diagonal_scan(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor a, bool log,
                               bool complex_numbers, const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length, channels = y.dim[1];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_diagonal_job job = {
        .y = y, .x = x, .a = a, .seq = seq, .log = log, .complex_numbers = complex_numbers};
    if (a.dim[0] == 1) job.a = sv_walk_constant(a);
    SV_TRY(sv_walk_states(c, seq, groups, channels, &job.states));
    over_channels(c, &job, SV_SIMD_PICK(sv_diagonal_kernels)->diagonal, groups,
                  complex_numbers ? channels / 2 : channels);
    sv_arena_rewind(&c->scratch, mark);
    sv_count_work(c, (complex_numbers ? 4.0 : 2.0) * slots * channels, 12.0 * slots * channels);
    return SV_OK;
}

sv_status sv_cpu_root_gates(sv_ctx *c, sv_tensor a, sv_tensor y, sv_tensor log_a, sv_tensor x,
                            sv_tensor position, const sv_sequence *seq)
{
    const int slots = sv_live_rows(y);
    const sv_diagonal_job job = {.y = y, .decay = a, .a = log_a, .x = x, .position = position, .seq = seq};
    over_channels(c, &job, SV_SIMD_PICK(sv_diagonal_kernels)->gates, slots / seq->length, y.dim[1]);
    sv_count_work(c, 40.0 * slots * y.dim[1], 16.0 * slots * y.dim[1]);
    return SV_OK;
}

sv_status sv_cpu_log_sum_scan(sv_ctx *c, sv_tensor weight, sv_tensor decay, sv_tensor x,
                              const sv_sequence *seq, bool whole)
{
    const int slots = sv_live_rows(weight), groups = slots / seq->length, channels = weight.dim[1];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_diagonal_job job = {.y = weight, .x = x, .decay = decay, .seq = seq, .whole = whole};
    SV_TRY(sv_walk_states(c, seq, groups, 2 * channels, &job.states));
    over_channels(c, &job, SV_SIMD_PICK(sv_diagonal_kernels)->log_sum, groups, channels);
    sv_arena_rewind(&c->scratch, mark);
    sv_count_work(c, 60.0 * slots * channels, 12.0 * slots * channels);
    return SV_OK;
}

/* ---- several states of a channel --------------------------------------------------------------------- */

/* [C, parts*N] as [parts*N][C], or back. */
static void turn(float *to, const float *from, int rows, int columns, ptrdiff_t pitch)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) to[(ptrdiff_t)j * rows + i] = from[i * pitch + j];
}

static sv_status turned(sv_ctx *c, const float **real, const float **imaginary, sv_tensor t, int states,
                        bool complex_numbers)
{
    const int channels = t.dim[0];
    sv_tensor copy;
    SV_TRY(sv_scratch_alloc(c, &copy, "state constants", SV_F32, t.dim[1], channels, SV_NONE));
    turn(sv_f32(copy), sv_f32(t), channels, t.dim[1], t.pitch);
    *real = sv_f32(copy);
    if (complex_numbers) *imaginary = sv_f32(copy) + (ptrdiff_t)states * channels;
    return SV_OK;
}

sv_status sv_cpu_state_scan(sv_ctx *c, sv_tensor y, sv_tensor u, const sv_state_rule *rule,
                            const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length, channels = y.dim[1];
    const bool complex_numbers = rule->kind == SV_STATE_COMPLEX;
    const int parts = complex_numbers ? 2 : 1, per_part = channels * rule->states, columns = parts * per_part;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_diagonal_job job = {.y = y, .x = u, .seq = seq, .rule = rule};
    SV_TRY(sv_walk_states(c, seq, groups, columns, &job.states));
    SV_TRY(sv_scratch_alloc(c, &job.work, "states by number", SV_F32, groups, columns, SV_NONE));
    SV_TRY(turned(c, &job.ar, &job.ai, rule->a, rule->states, complex_numbers));
    if (rule->kind != SV_STATE_SELECTIVE) {
        SV_TRY(turned(c, &job.br, &job.bi, rule->b, rule->states, complex_numbers));
        SV_TRY(turned(c, &job.cr, &job.ci, rule->c, rule->states, complex_numbers));
    }
    for (int g = 0; g < groups; g++)
        for (int p = 0; p < parts; p++)
            turn(sv_walk_group(job.work, g) + (ptrdiff_t)p * per_part,
                 sv_walk_group(job.states, g) + (ptrdiff_t)p * per_part, channels, rule->states,
                 rule->states);
    over_channels(c, &job, SV_SIMD_PICK(sv_diagonal_kernels)->states, groups, channels);
    for (int g = 0; g < groups; g++)
        for (int p = 0; p < parts; p++)
            turn(sv_walk_group(job.states, g) + (ptrdiff_t)p * per_part,
                 sv_walk_group(job.work, g) + (ptrdiff_t)p * per_part, rule->states, channels, channels);
    sv_arena_rewind(&c->scratch, mark);
    const double cells = (double)slots * per_part;
    sv_count_work(c, (complex_numbers ? 14.0 : 6.0) * cells, 8.0 * slots * channels);
    return SV_OK;
}

/* ---- a full matrix ------------------------------------------------------------------------------------ */

static void run_dense(void *arg, int task, int worker)
{
    (void)worker;
    const work *w = arg;
    w->kernels->dense(w->job, task / w->channels, task % w->channels);
}

sv_status sv_cpu_dense_scan(sv_ctx *c, sv_tensor y, sv_tensor u, sv_tensor a, sv_tensor b,
                            const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length, n = a.dim[1];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_diagonal_job job = {.y = y, .x = u, .a = a, .br = sv_f32(b), .seq = seq};
    SV_TRY(sv_walk_states(c, seq, groups, y.dim[1], &job.states));
    work w = {.job = &job, .kernels = SV_SIMD_PICK(sv_diagonal_kernels), .channels = y.dim[1] / n};
    sv_pool_run(c->pool, run_dense, &w, groups * w.channels);
    sv_arena_rewind(&c->scratch, mark);
    sv_count_work(c, 2.0 * slots * y.dim[1] * (n + 1), 8.0 * slots * y.dim[1]);
    return SV_OK;
}
