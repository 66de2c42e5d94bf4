/* SPDX-License-Identifier: Apache-2.0
 *
 * Recurrences that are no scan, on the CPU. Tasks are (group, head), (group, 32 channels) or a group; the arithmetic is in
 * cells.simd.c.
 */
#include "backbones/cells_kernels.h"
#include "backbones/walk.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"

SV_SIMD_TABLE(sv_cell_kernels);

typedef struct work {
    const sv_cell_kernels *kernels;
    sv_cell_job job;
    int parts;
} work;

static void run_heads(void *arg, int task, int worker)
{
    const work *w = arg;
    w->kernels->slstm(&w->job, task / w->parts, task % w->parts, sv_walk_group(w->job.work, worker));
}

static void run_channels(void *arg, int task, int worker)
{
    (void)worker;
    const work *w = arg;
    const int first = task % w->parts * SV_CELL_CHANNELS, left = w->job.y.dim[1] - first,
              group = task / w->parts;
    const int count = left < SV_CELL_CHANNELS ? left : SV_CELL_CHANNELS;
    if (w->job.rule->kind == SV_CELL_PARA_GRU)
        w->kernels->gru(&w->job, group, first, count);
    else
        w->kernels->lstm(&w->job, group, first, count);
}

static void run_group(void *arg, int task, int worker)
{
    const work *w = arg;
    w->kernels->mixer(&w->job, task, sv_walk_group(w->job.work, worker));
}

sv_status sv_cpu_cell_scan(sv_ctx *c, sv_tensor y, sv_tensor cell, sv_tensor x, const sv_cell *rule,
                           const sv_sequence *seq)
{
    static const int parts[] = {4, 1, 2};
    const int slots = sv_live_rows(y), groups = slots / seq->length, channels = y.dim[1];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    work w = {.kernels = SV_SIMD_PICK(sv_cell_kernels)};
    w.job = (sv_cell_job){.y = y, .cell = cell, .x = x, .rule = rule, .seq = seq};
    SV_TRY(sv_walk_states(c, seq, groups, parts[rule->kind] * channels, &w.job.states));
    double flops = 60.0 * (1 + rule->newton) * channels;
    if (rule->kind == SV_CELL_SLSTM) {
        const int width = channels / rule->heads;
        w.parts = rule->heads;
        SV_TRY(sv_scratch_alloc(c, &w.job.work, "cell gates", SV_F32, sv_pool_threads(c->pool), 4 * width,
                                SV_NONE));
        sv_pool_run(c->pool, run_heads, &w, groups * w.parts);
        flops += 8.0 * width * channels;
    } else {
        /* Newton iterations look at the cell's last iterate, wanted or not */
        if (rule->newton > 0 && rule->kind == SV_CELL_PARA_LSTM && sv_is_none(cell))
            SV_TRY(sv_scratch_alloc(c, &w.job.cell, "cell iterate", SV_F32, y.dim[0], channels, y));
        w.parts = (channels + SV_CELL_CHANNELS - 1) / SV_CELL_CHANNELS;
        sv_pool_run(c->pool, run_channels, &w, groups * w.parts);
    }
    sv_arena_rewind(&c->scratch, mark);
    sv_count_work(c, flops * slots, 4.0 * slots * (x.dim[1] + 2.0 * channels));
    return SV_OK;
}

sv_status sv_cpu_mixer_scan(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor b, sv_tensor lam, sv_tensor u,
                            sv_tensor alpha, const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length, channels = y.dim[1], rank = alpha.dim[1];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    work w = {.kernels = SV_SIMD_PICK(sv_cell_kernels)};
    w.job = (sv_cell_job){.y = y, .x = x, .b = b, .lam = lam, .u = u, .alpha = alpha, .seq = seq};
    SV_TRY(sv_walk_states(c, seq, groups, channels, &w.job.states));
    SV_TRY(sv_scratch_alloc(c, &w.job.work, "mixer work", SV_F32, sv_pool_threads(c->pool),
                            (2 * rank + 1) * channels, SV_NONE));
    sv_pool_run(c->pool, run_group, &w, groups);
    sv_arena_rewind(&c->scratch, mark);
    sv_count_work(c, (double)slots * channels * (2.0 * rank * rank + 10.0 * rank + 8),
                  4.0 * slots * channels * (4.0 + rank));
    return SV_OK;
}
