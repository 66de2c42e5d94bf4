/* SPDX-License-Identifier: Apache-2.0
 *
 * Memories that learn while they are read, on the CPU. Tasks are (group, head); the arithmetic is in memory.simd.c.
 */
#include "backbones/memory_kernels.h"
#include "backbones/walk.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"

SV_SIMD_TABLE(sv_memory_kernels);

typedef struct work {
    const sv_memory_kernels *kernels;
    sv_memory_job job;
} work;

static void run_task(void *arg, int task, int worker)
{
    const work *w = arg;
    w->kernels->run(&w->job, task / w->job.rule->heads, task % w->job.rule->heads,
                    sv_walk_group(w->job.work, worker));
}

static double flops_of(const sv_memory *rule, double width)
{
    const double batch = rule->batch, hidden = rule->hidden;
    switch (rule->kind) {
    case SV_MEMORY_GRADIENT:
        return 6 * width * width + 4 * batch * width + 30 * width;
    case SV_MEMORY_MLP:
        return 14 * width * hidden + 4 * batch * (width + hidden) + 80 * hidden;
    case SV_MEMORY_MOMENTUM:
        return 10 * width * width + 40 * width;
    case SV_MEMORY_SOFTMAX:
        return 60 * width * width;
    default:
        return 8 * width * width;
    }
}

sv_status sv_cpu_memory_scan(sv_ctx *c, sv_tensor y, const sv_memory_inputs *in, const sv_memory *rule,
                             const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length;
    const int width = y.dim[1] / rule->heads;
    const int64_t parts[] = {(int64_t)width * width + width,
                             2 * (int64_t)width * rule->hidden + rule->hidden + width,
                             2 * (int64_t)width * width};
    const int64_t state =
        rule->heads * (rule->kind <= SV_MEMORY_MOMENTUM ? parts[rule->kind] : (int64_t)width * width);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    work w = {.kernels = SV_SIMD_PICK(sv_memory_kernels)};
    w.job = (sv_memory_job){.y = y, .in = in, .rule = rule, .seq = seq, .width = width};
    SV_TRY(sv_walk_states(c, seq, groups, (int)state, &w.job.states));
    SV_TRY(sv_scratch_alloc(c, &w.job.work, "memory work", SV_F32, sv_pool_threads(c->pool),
                            (int)sv_memory_work(rule, width), SV_NONE));
    sv_pool_run(c->pool, run_task, &w, groups * rule->heads);
    sv_arena_rewind(&c->scratch, mark);
    sv_count_work(c, (double)slots * rule->heads * flops_of(rule, width), 16.0 * slots * y.dim[1]);
    return SV_OK;
}
