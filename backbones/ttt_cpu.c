/* SPDX-License-Identifier: Apache-2.0
 *
 * TTT-Linear on the CPU. Tasks are (group, head); the arithmetic is in ttt.simd.c.
 */
#include "backbones/ttt_kernels.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"

SV_SIMD_TABLE(sv_ttt_kernels);

typedef struct work {
    const sv_ttt_kernels *kernels;
    sv_ttt_job job;
} work;

static void run_task(void *arg, int task, int worker)
{
    (void)worker;
    const work *w = arg;
    w->kernels->run(&w->job, task / w->job.heads, task % w->job.heads);
}

static float *data_of(sv_tensor t)
{
    return sv_is_none(t) ? NULL : sv_f32(t);
}

sv_status sv_cpu_ttt_linear(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor rate,
                            const sv_ttt_weights *weights, const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), heads = weights->heads, width = y.dim[1] / heads;
    work w = {.kernels = SV_SIMD_PICK(sv_ttt_kernels)};
    w.job = (sv_ttt_job){
        .y = sv_f32(y),
        .q = sv_f32(q),
        .k = sv_f32(k),
        .v = sv_f32(v),
        .rate = sv_f32(rate),
        .index = sv_is_none(seq->index) ? NULL : sv_i32(seq->index),
        .w = sv_f32(weights->w),
        .b = sv_f32(weights->b),
        .norm_weight = sv_f32(weights->norm_weight),
        .norm_bias = sv_f32(weights->norm_bias),
        .token = sv_f32(weights->token),
        .rotary = data_of(weights->rotary),
        .state_in = data_of(seq->state_in),
        .state_out = data_of(seq->state_out),
        .y_pitch = y.pitch,
        .q_pitch = q.pitch,
        .k_pitch = k.pitch,
        .v_pitch = v.pitch,
        .rate_pitch = rate.pitch,
        .in_pitch = seq->state_in.pitch,
        .out_pitch = seq->state_out.pitch,
        .length = seq->length,
        .heads = heads,
        .width = width,
        .batch = weights->token.dim[1],
        .reverse = seq->reverse,
        .eps = weights->eps,
    };
    sv_pool_run(c->pool, run_task, &w, slots / seq->length * heads);

    /* per token and head: W by k, q and the update, the mini-batch's keys and gradients */
    const double cells = (double)slots * heads;
    sv_count_work(c, cells * (6.0 * width * width + 4.0 * w.job.batch * width + 30.0 * width),
                  4 * cells * (4.0 * width + 1));
    return SV_OK;
}
