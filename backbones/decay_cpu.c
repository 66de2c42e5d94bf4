/* SPDX-License-Identifier: Apache-2.0
 *
 * The decayed outer-product scan and the token shift on the CPU. Tasks of the scan are (group, head, 32
 * values): the columns of a state are independent. The arithmetic is in decay.simd.c.
 */
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"
#include "backbones/decay_kernels.h"

#include <math.h>
#include <string.h>

SV_SIMD_TABLE(sv_decay_kernels);

typedef struct work {
    const sv_decay_kernels *kernels;
    const sv_decay_job *scan;
    const sv_mix_job *mix;
    int heads, parts; /* of a head's values, or of a group's tokens */
} work;

static const int32_t *index_of(const sv_sequence *seq)
{
    return sv_is_none(seq->index) ? NULL : sv_i32(seq->index);
}
static float *data_of(sv_tensor t)
{
    return sv_is_none(t) ? NULL : sv_f32(t);
}

/* A row of zeros for indices below 0. */
static sv_status zero_row(sv_ctx *c, sv_tensor *out, int columns)
{
    SV_TRY(sv_scratch_alloc(c, out, "zero row", SV_F32, 1, columns, SV_NONE));
    memset(out->data, 0, (size_t)columns * sizeof(float));
    return SV_OK;
}

/* ---- decayed outer-product scan ------------------------------------------------------------------ */

static void scan_task(void *arg, int task, int worker)
{
    (void)worker;
    const work *w = arg;
    const int first = task % w->parts * SV_DECAY_VALUES, left = w->scan->values - first;
    const int head = task / w->parts % w->heads, group = task / w->parts / w->heads;
    w->kernels->scan(w->scan, group, head, first, left < SV_DECAY_VALUES ? left : SV_DECAY_VALUES);
}

sv_status sv_cpu_decay_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor decay,
                            sv_tensor bonus, const sv_decay_rule *rule, const sv_sequence *seq,
                            bool accumulate)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length, heads = rule->heads;
    const int keys = q.dim[1] / heads, values = y.dim[1] / heads;
    const bool of_head = rule->decay == SV_DECAY_NONE || rule->decay == SV_DECAY_HEAD;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor zeros, constants;
    SV_TRY(zero_row(c, &zeros, q.dim[1] > y.dim[1] ? q.dim[1] : y.dim[1]));
    SV_TRY(sv_scratch_alloc(c, &constants, "head decays", SV_F32, 1, heads, SV_NONE));
    for (int h = 0; h < heads; h++)
        sv_f32(constants)[h] = rule->decay == SV_DECAY_HEAD ? (float)expm1((double)sv_f32(decay)[h]) : 0;

    const sv_decay_job job = {
        .y = sv_f32(y),
        .q = sv_f32(q),
        .k = sv_f32(k),
        .v = sv_f32(v),
        .decay = of_head ? sv_f32(constants) : sv_f32(decay),
        .bonus = data_of(bonus),
        .index = index_of(seq),
        .zeros = sv_f32(zeros),
        .state_in = data_of(seq->state_in),
        .state_out = data_of(seq->state_out),
        .y_pitch = y.pitch,
        .q_pitch = q.pitch,
        .k_pitch = k.pitch,
        .v_pitch = v.pitch,
        .decay_pitch = decay.pitch,
        .in_pitch = seq->state_in.pitch,
        .out_pitch = seq->state_out.pitch,
        .length = seq->length,
        .heads = heads,
        .keys = keys,
        .values = values,
        .block = rule->read == SV_READ_CHUNK ? rule->chunk : SV_DECAY_TOKENS,
        .kind = rule->decay,
        .read = rule->read,
        .scale = rule->scale,
        .reverse = seq->reverse,
        .accumulate = accumulate,
    };
    work w = {.kernels = SV_SIMD_PICK(sv_decay_kernels),
              .scan = &job,
              .heads = heads,
              .parts = (values + SV_DECAY_VALUES - 1) / SV_DECAY_VALUES};
    sv_pool_run(c->pool, scan_task, &w, groups * heads * w.parts);
    sv_arena_rewind(&c->scratch, mark);

    const double walks = rule->read == SV_READ_CHUNK ? 2 : 1, tokens = slots;
    const double decays = of_head                         ? 0
                          : rule->decay == SV_DECAY_TOKEN ? heads
                          : rule->decay == SV_DECAY_VALUE ? y.dim[1]
                                                          : q.dim[1];
    sv_count_work(c, tokens * (walks * 6.0 * q.dim[1] * values + 10.0 * decays),
                  4 * tokens * (2.0 * q.dim[1] + (accumulate ? 3.0 : 2.0) * y.dim[1] + decays));
    return SV_OK;
}

/* ---- token shift --------------------------------------------------------------------------------- */

static void mix_task(void *arg, int task, int worker)
{
    (void)worker;
    const work *w = arg;
    const int first = task % w->parts * SV_MIX_TOKENS, left = w->mix->length - first;
    w->kernels->mix(w->mix, task / w->parts, first, left < SV_MIX_TOKENS ? left : SV_MIX_TOKENS);
}

static void keep_last(const sv_mix_job *job, float *out, ptrdiff_t out_pitch, int groups)
{
    for (int g = 0; g < groups; g++) {
        ptrdiff_t row = (ptrdiff_t)g * job->length + (job->reverse ? 0 : job->length - 1);
        if (job->index) row = job->index[row];
        memcpy(out + g * out_pitch, row < 0 ? job->zeros : job->x + row * job->x_pitch,
               (size_t)job->channels * sizeof *out);
    }
}

sv_status sv_cpu_token_mix(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor m, const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor zeros;
    SV_TRY(zero_row(c, &zeros, x.dim[1]));
    const sv_mix_job job = {
        .y = sv_f32(y),
        .x = sv_f32(x),
        .m = sv_f32(m),
        .index = index_of(seq),
        .zeros = sv_f32(zeros),
        .state = data_of(seq->state_in),
        .y_pitch = y.pitch,
        .x_pitch = x.pitch,
        .m_pitch = m.pitch,
        .state_pitch = seq->state_in.pitch,
        .length = seq->length,
        .channels = x.dim[1],
        .mixtures = y.dim[1] / x.dim[1],
        .reverse = seq->reverse,
    };
    work w = {.kernels = SV_SIMD_PICK(sv_decay_kernels),
              .mix = &job,
              .parts = (seq->length + SV_MIX_TOKENS - 1) / SV_MIX_TOKENS};
    sv_pool_run(c->pool, mix_task, &w, groups * w.parts);
    if (!sv_is_none(seq->state_out)) keep_last(&job, sv_f32(seq->state_out), seq->state_out.pitch, groups);
    sv_arena_rewind(&c->scratch, mark);
    sv_count_work(c, 2.0 * slots * y.dim[1], 4.0 * slots * (x.dim[1] + 2.0 * y.dim[1]));
    return SV_OK;
}
