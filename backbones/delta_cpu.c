/* SPDX-License-Identifier: Apache-2.0
 *
 * The delta rule on the CPU. Tasks are (group, head, 32 values); the arithmetic is in delta.simd.c.
 */
#include "backbones/delta_kernels.h"
#include "backbones/walk.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"

SV_SIMD_TABLE(sv_delta_kernels);

typedef struct work {
    const sv_delta_kernels *kernels;
    sv_delta_job job;
    int parts; /* of a head's values */
} work;

static void run_task(void *arg, int task, int worker)
{
    (void)worker;
    const work *w = arg;
    const int first = task % w->parts * SV_DELTA_VALUES, left = w->job.values - first, head = task / w->parts;
    w->kernels->scan(&w->job, head / w->job.rule.heads, head % w->job.rule.heads, first,
                     left < SV_DELTA_VALUES ? left : SV_DELTA_VALUES);
}

sv_status sv_cpu_delta_scan(sv_ctx *c, sv_tensor y, const sv_delta_inputs *in, const sv_delta_rule *rule,
                            const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length, heads = rule->heads;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    work w = {.kernels = SV_SIMD_PICK(sv_delta_kernels)};
    w.job = (sv_delta_job){.y = y, .in = *in, .rule = *rule, .seq = seq};
    w.job.keys = in->q.dim[1] / heads;
    w.job.values = y.dim[1] / heads;
    w.parts = (w.job.values + SV_DELTA_VALUES - 1) / SV_DELTA_VALUES;
    if (rule->decay == SV_DECAY_HEAD) w.job.in.decay = sv_walk_constant(in->decay);
    SV_TRY(sv_walk_states(c, seq, groups, heads * w.job.keys * w.job.values, &w.job.states));
    sv_pool_run(c->pool, run_task, &w, groups * heads * w.parts);
    sv_arena_rewind(&c->scratch, mark);
    const double cells = (double)slots * heads * w.job.keys * w.job.values;
    sv_count_work(c, cells * (4.0 * rule->steps + 3 + (sv_is_none(in->b) ? 0 : 2)),
                  4.0 * slots * (in->q.dim[1] * (1.0 + rule->steps) + y.dim[1] * (1.0 + rule->steps)));
    return SV_OK;
}
