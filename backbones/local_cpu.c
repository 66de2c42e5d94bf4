/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention among the last tokens, states rewritten by blocks, and dilated convolutions on the CPU. Tasks are
 * (group, head), groups, and (group, 64 tokens); the arithmetic of the first two is in local.simd.c.
 */
#include "backbones/local_kernels.h"
#include "backbones/walk.h"
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"

#include <string.h>

SV_SIMD_TABLE(sv_local_kernels);

typedef struct work {
    const sv_local_kernels *kernels;
    sv_local_job job;
    sv_tensor memory; /* a row per worker */
} work;

static void run_head(void *arg, int task, int worker)
{
    const work *w = arg;
    w->kernels->attend(&w->job, task / w->job.heads, task % w->job.heads, sv_walk_group(w->memory, worker));
}

static void run_group(void *arg, int task, int worker)
{
    const work *w = arg;
    w->kernels->blocks(&w->job, task, sv_walk_group(w->memory, worker));
}

static sv_status run(sv_ctx *c, work *w, int states, int64_t floats, bool by_head)
{
    const int groups = sv_live_rows(w->job.y) / w->job.seq->length;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    SV_TRY(sv_walk_states(c, w->job.seq, groups, states, &w->job.states));
    SV_TRY(sv_scratch_alloc(c, &w->memory, "local attention work", SV_F32, sv_pool_threads(c->pool),
                            (int)((floats + 15) / 16 * 16), SV_NONE));
    sv_pool_run(c->pool, by_head ? run_head : run_group, w, by_head ? groups * w->job.heads : groups);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

sv_status sv_cpu_local_attention(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                 sv_tensor weight, const sv_local_rule *rule, const sv_sequence *seq)
{
    const int heads = rule->heads;
    work w = {.kernels = SV_SIMD_PICK(sv_local_kernels)};
    w.job = (sv_local_job){.y = y,
                           .q = q,
                           .k = k,
                           .v = v,
                           .weight = weight,
                           .local = rule,
                           .seq = seq,
                           .heads = heads,
                           .keys = q.dim[1] / heads,
                           .values = y.dim[1] / heads};
    SV_TRY(run(c, &w, rule->window * (q.dim[1] + y.dim[1]) + heads, sv_local_work(&w.job), true));
    const double seen = rule->chunked ? (rule->window + 1) / 2.0 : rule->window;
    sv_count_work(c, sv_live_rows(y) * seen * (2.0 * q.dim[1] + 2.0 * y.dim[1] + 12.0 * heads),
                  8.0 * sv_live_rows(y) * (q.dim[1] + y.dim[1]));
    return SV_OK;
}

sv_status sv_cpu_block_state_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                  const sv_block_states *rule, const sv_sequence *seq)
{
    const int width = y.dim[1] / rule->heads, channels = rule->self.dim[1];
    work w = {.kernels = SV_SIMD_PICK(sv_local_kernels)};
    w.job = (sv_local_job){.y = y,
                           .q = q,
                           .k = k,
                           .v = v,
                           .blocks = rule,
                           .seq = seq,
                           .heads = rule->heads,
                           .keys = width,
                           .values = width};
    SV_TRY(run(c, &w, rule->states * channels, sv_blocks_work(&w.job), false));
    const double inner = y.dim[1], states = rule->states, slots = sv_live_rows(y);
    sv_count_work(c,
                  slots * states * 8 * inner +
                      slots / rule->block * states * (12.0 * inner * channels + 4 * states * inner),
                  16.0 * slots * inner);
    return SV_OK;
}

/* ---- dilated convolution ------------------------------------------------------------------------------- */

enum { TOKENS = 64 };

typedef struct convolution {
    sv_tensor y, x, w, bias, state_in;
    const sv_sequence *seq;
    int dilation, parts;
} convolution;

/* The input row of step 'step'; those before the walk come from the state. */
static const float *input(const convolution *m, int group, int step)
{
    if (step >= 0) return sv_walk_row(m->x, m->seq, group, step);
    if (sv_is_none(m->state_in)) return NULL;
    const int kept = (m->w.dim[1] - 1) * m->dilation;
    return sv_walk_group(m->state_in, group) + (ptrdiff_t)(kept + step) * m->y.dim[1];
}

static void convolve(void *arg, int task, int worker)
{
    (void)worker;
    const convolution *m = arg;
    const int group = task / m->parts, first = task % m->parts * TOKENS, taps = m->w.dim[1],
              channels = m->y.dim[1];
    for (int step = first; step < m->seq->length && step < first + TOKENS; step++) {
        float *y = sv_walk_row(m->y, m->seq, group, step);
        memcpy(y, m->bias.data, sizeof *y * (size_t)channels);
        for (int j = 0; j < taps; j++) {
            const float *x = input(m, group, step - (taps - 1 - j) * m->dilation);
            for (int i = 0; x && i < channels; i++)
                y[i] += sv_f32(m->w)[(ptrdiff_t)i * m->w.pitch + j] * x[i];
        }
    }
}

/* The rows behind the walk's end, oldest first; 'out' may be the state before. */
static void keep_rows(const convolution *m, int group, float *out)
{
    const int kept = (m->w.dim[1] - 1) * m->dilation, length = m->seq->length, channels = m->y.dim[1];
    for (int i = 0; i < kept; i++) {
        const float *x = input(m, group, length - kept + i); /* a later row of the state, if of it at all */
        float *to = out + (ptrdiff_t)i * channels;
        if (x)
            memmove(to, x, sizeof *to * (size_t)channels);
        else
            memset(to, 0, sizeof *to * (size_t)channels);
    }
}

sv_status sv_cpu_dilated_conv(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor w, sv_tensor bias, int dilation,
                              const sv_sequence *seq)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length;
    convolution m = {.y = y,
                     .x = x,
                     .w = w,
                     .bias = bias,
                     .state_in = seq->state_in,
                     .seq = seq,
                     .dilation = dilation,
                     .parts = (seq->length + TOKENS - 1) / TOKENS};
    sv_pool_run(c->pool, convolve, &m, groups * m.parts);
    for (int g = 0; g < groups && !sv_is_none(seq->state_out); g++)
        keep_rows(&m, g, sv_walk_group(seq->state_out, g));
    sv_count_work(c, 2.0 * slots * y.dim[1] * w.dim[1], 8.0 * slots * y.dim[1]);
    return SV_OK;
}
