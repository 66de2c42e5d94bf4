/* SPDX-License-Identifier: Apache-2.0
 *
 * The mLSTM cell on the CPU. Tasks are (group, head, 32 value channels); the arithmetic is in mlstm.simd.c.
 */
#include "backbones/mlstm_kernels.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"

#include <math.h>
#include <string.h>

SV_SIMD_TABLE(sv_mlstm_kernels);

typedef struct work {
    const sv_mlstm_kernels *kernels;
    sv_mlstm_job job;
    int parts; /* of a head's value channels */
} work;

static void run_task(void *arg, int task, int worker)
{
    (void)worker;
    const work *w = arg;
    const int first = task % w->parts * SV_MLSTM_VALUES, left = w->job.values - first, head = task / w->parts;
    w->kernels->run(&w->job, head / w->job.heads, head % w->job.heads, first,
                    left < SV_MLSTM_VALUES ? left : SV_MLSTM_VALUES);
}

/* Normaliser and maximum of each head of 'state', side by side. */
static sv_status copy_normalisers(sv_ctx *c, work *w, sv_tensor state, int groups)
{
    const int keys = w->job.keys, heads = w->job.heads, memory = keys * w->job.values;
    sv_tensor copy;
    SV_TRY(sv_scratch_alloc(c, &copy, "mlstm normalisers", SV_F32, groups * heads, keys + 1, SV_NONE));
    for (int i = 0; i < groups * heads; i++)
        memcpy(sv_f32(copy) + (ptrdiff_t)i * (keys + 1),
               sv_f32(state) + (ptrdiff_t)(i / heads) * state.pitch +
                   (ptrdiff_t)(i % heads) * (memory + keys + 1) + memory,
               (size_t)(keys + 1) * sizeof(float));
    w->job.normaliser = sv_f32(copy);
    return SV_OK;
}

sv_status sv_cpu_mlstm(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor igate,
                       sv_tensor fgate, int heads, float eps, const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length;
    const int keys = q.dim[1] / heads, values = y.dim[1] / heads;
    work w = {.kernels = SV_SIMD_PICK(sv_mlstm_kernels),
              .parts = (values + SV_MLSTM_VALUES - 1) / SV_MLSTM_VALUES};
    w.job = (sv_mlstm_job){
        .y = sv_f32(y),
        .q = sv_f32(q),
        .k = sv_f32(k),
        .v = sv_f32(v),
        .igate = sv_f32(igate),
        .fgate = sv_f32(fgate),
        .index = sv_is_none(seq->index) ? NULL : sv_i32(seq->index),
        .state_in = sv_is_none(seq->state_in) ? NULL : sv_f32(seq->state_in),
        .state_out = sv_is_none(seq->state_out) ? NULL : sv_f32(seq->state_out),
        .y_pitch = y.pitch,
        .q_pitch = q.pitch,
        .k_pitch = k.pitch,
        .v_pitch = v.pitch,
        .igate_pitch = igate.pitch,
        .fgate_pitch = fgate.pitch,
        .in_pitch = seq->state_in.pitch,
        .out_pitch = seq->state_out.pitch,
        .length = seq->length,
        .heads = heads,
        .keys = keys,
        .values = values,
        .reverse = seq->reverse,
        .scale = (float)(1.0 / sqrt(keys)),
        .eps = eps,
    };
    const sv_mark mark = sv_arena_mark(&c->scratch);
    if (w.job.state_in) SV_TRY(copy_normalisers(c, &w, seq->state_in, groups));
    sv_pool_run(c->pool, run_task, &w, groups * heads * w.parts);
    sv_arena_rewind(&c->scratch, mark);

    /* per token and head: its chunk's keys and values, the memory read and written */
    const double cells = (double)slots * heads;
    sv_count_work(c, cells * 2 * (SV_MLSTM_TOKENS * (double)(keys + values) + 2.0 * keys * values),
                  4 * cells * (2.0 * keys + 2.0 * values + 2));
    return SV_OK;
}
