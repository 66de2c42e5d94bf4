/* SPDX-License-Identifier: Apache-2.0
 *
 * Deep memories on the CPU. Tasks are (group, head); the arithmetic is in deep_memory.simd.c.
 */
#include "backbones/deep_memory_kernels.h"
#include "backbones/walk.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"

SV_SIMD_TABLE(sv_deep_kernels);

typedef struct work {
    const sv_deep_kernels *kernels;
    sv_deep_job job;
    double *memory; /* of each worker */
    int64_t doubles;
} work;

static void run_task(void *arg, int task, int worker)
{
    const work *w = arg;
    w->kernels->run(&w->job, task / w->job.rule->heads, task % w->job.rule->heads,
                    w->memory + worker * w->doubles);
}

sv_status sv_cpu_deep_memory_scan(sv_ctx *c, sv_tensor y, const sv_deep_inputs *in,
                                  const sv_deep_memory *rule, const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length, width = y.dim[1] / rule->heads;
    const double monomials = (double)sv_deep_monomials(width), d = width, hidden = rule->hidden;
    const bool omega = rule->kind == SV_DEEP_OMEGA;
    const int64_t state =
        omega ? 2 * sv_deep_monomials(width) * width + (rule->batch - 1) * (2 * (int64_t)width + 1)
              : 4 * (int64_t)width * rule->hidden;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    work w = {.kernels = SV_SIMD_PICK(sv_deep_kernels)};
    w.job = (sv_deep_job){.y = y, .in = in, .rule = rule, .seq = seq, .width = width};
    w.doubles = sv_deep_work(rule, width);
    sv_tensor memory;
    SV_TRY(sv_walk_states(c, seq, groups, (int)(rule->heads * state), &w.job.states));
    SV_TRY(sv_scratch_alloc(c, &memory, "deep memory work", SV_F64, sv_pool_threads(c->pool), (int)w.doubles,
                            SV_NONE));
    w.memory = memory.data;
    sv_pool_run(c->pool, run_task, &w, groups * rule->heads);
    sv_arena_rewind(&c->scratch, mark);
    const double flops = omega ? monomials * d * (4.0 * rule->batch + 8 + 20 * d) + 10 * d * d * d
                               : 18 * d * hidden + 40 * hidden;
    sv_count_work(c, (double)slots * rule->heads * flops, 16.0 * slots * y.dim[1]);
    return SV_OK;
}
