/* SPDX-License-Identifier: Apache-2.0
 *
 * The sequence primitives of Mamba on the CPU: the short causal convolution
 * and the selective scan. Tasks are (group, part of the tokens) and (group, 16
 * channels); the arithmetic is in scan.simd.c.
 */
#include "perception/core/ops_cpu.h"
#include "perception/core/simd.h"
#include "backbones/scan_kernels.h"

#include <math.h>
#include <string.h>

SV_SIMD_TABLE(sv_scan_kernels);

typedef struct work {
    const sv_scan_kernels *kernels;
    const sv_conv_job *conv;
    const sv_scan_job *scan;
    int parts; /* of a group */
} work;

static const int32_t *index_of(const sv_sequence *seq)
{
    return sv_is_none(seq->index) ? NULL : sv_i32(seq->index);
}
static float *data_of(sv_tensor t)
{
    return sv_is_none(t) ? NULL : sv_f32(t);
}

/* ---- causal convolution ------------------------------------------------------------------------- */

static void conv_task(void *arg, int task, int worker)
{
    (void)worker;
    const work *w = arg;
    const int first = task % w->parts * SV_CONV_TOKENS, left = w->conv->length - first;
    w->kernels->conv(w->conv, task / w->parts, first, left < SV_CONV_TOKENS ? left : SV_CONV_TOKENS);
}

/* The last taps-1 inputs of each group. Ascending, so that the state may be updated in place. */
static void keep_inputs(const sv_conv_job *job, float *out, ptrdiff_t out_pitch, int groups)
{
    const int history = job->taps - 1;
    const size_t row_bytes = (size_t)job->channels * sizeof(float);
    for (int g = 0; g < groups; g++) {
        for (int j = 0; j < history; j++) {
            float *to = out + g * out_pitch + (ptrdiff_t)j * job->channels;
            const int step = job->length - history + j;
            ptrdiff_t row = (ptrdiff_t)g * job->length + (job->reverse ? job->length - 1 - step : step);
            if (step >= 0 && job->index) row = job->index[row];
            if (step < 0 && job->state)
                memmove(to, job->state + g * job->state_pitch + (ptrdiff_t)(step + history) * job->channels,
                        row_bytes);
            else if (step < 0 || row < 0)
                memset(to, 0, row_bytes);
            else
                memcpy(to, job->x + row * job->x_pitch, row_bytes);
        }
    }
}

sv_status sv_cpu_causal_conv(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor w, sv_tensor bias,
                             const sv_sequence *seq, sv_map map)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor zeros;
    SV_TRY(sv_scratch_alloc(c, &zeros, "conv zeros", SV_F32, 1, y.dim[1], SV_NONE));
    memset(zeros.data, 0, (size_t)y.dim[1] * sizeof(float));
    const sv_conv_job job = {
        .y = sv_f32(y),
        .x = sv_f32(x),
        .w = sv_f32(w),
        .bias = sv_f32(bias),
        .index = index_of(seq),
        .zeros = sv_f32(zeros),
        .state = data_of(seq->state_in),
        .y_pitch = y.pitch,
        .x_pitch = x.pitch,
        .w_pitch = w.pitch,
        .state_pitch = seq->state_in.pitch,
        .length = seq->length,
        .channels = y.dim[1],
        .taps = w.dim[1],
        .reverse = seq->reverse,
        .silu = map == SV_MAP_silu,
    };
    work k = {.kernels = SV_SIMD_PICK(sv_scan_kernels), .conv = &job};
    k.parts = (seq->length + SV_CONV_TOKENS - 1) / SV_CONV_TOKENS;
    sv_pool_run(c->pool, conv_task, &k, groups * k.parts);
    if (!sv_is_none(seq->state_out)) keep_inputs(&job, sv_f32(seq->state_out), seq->state_out.pitch, groups);
    sv_arena_rewind(&c->scratch, mark);
    const double numbers = (double)slots * job.channels;
    sv_count_work(c, numbers * 2 * job.taps, 4 * (2 * numbers + (double)job.channels * (job.taps + 1)));
    if (map == SV_MAP_identity || map == SV_MAP_silu) return SV_OK;
    return sv_map1(c, y, y, map);
}

/* ---- selective scan ----------------------------------------------------------------------------- */

static void scan_task(void *arg, int task, int worker)
{
    (void)worker;
    const work *w = arg;
    const int first = task % w->parts * SV_SCAN_CHANNELS, left = w->scan->channels - first;
    w->kernels->scan(w->scan, task / w->parts, first, left < SV_SCAN_CHANNELS ? left : SV_SCAN_CHANNELS);
}

/* A log2(e) with channels side by side, and the largest |A log2(e)| of each channel. */
static void prepare_decay(sv_tensor a, int channels, int states, int pitch, float *columns, float *reach)
{
    memset(columns, 0, (size_t)pitch * (size_t)states * sizeof(float));
    memset(reach, 0, (size_t)pitch * sizeof(float));
    for (int i = 0; i < channels; i++) {
        const float *row = sv_f32(a) + (ptrdiff_t)i * a.pitch;
        for (int s = 0; s < states; s++) {
            const float value = (float)((double)row[s] * 1.4426950408889634);
            columns[(ptrdiff_t)s * pitch + i] = value;
            if (isnan(value) || fabsf(value) > reach[i]) reach[i] = fabsf(value); /* NaN stays */
        }
    }
}

sv_status sv_cpu_selective_scan(sv_ctx *c, sv_tensor y, sv_tensor u, sv_tensor delta, sv_tensor a,
                                sv_tensor bmat, sv_tensor cmat, sv_tensor d, sv_tensor z,
                                const sv_sequence *seq, bool accumulate)
{
    const int slots = sv_live_rows(y), groups = slots / seq->length;
    const int channels = y.dim[1], states = a.dim[1];
    work k = {.kernels = SV_SIMD_PICK(sv_scan_kernels),
              .parts = (channels + SV_SCAN_CHANNELS - 1) / SV_SCAN_CHANNELS};
    const int pitch = k.parts * SV_SCAN_CHANNELS;

    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor columns, reach;
    SV_TRY(sv_scratch_alloc(c, &columns, "scan decay", SV_F32, states, pitch, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &reach, "scan reach", SV_F32, 1, pitch, SV_NONE));
    prepare_decay(a, channels, states, pitch, sv_f32(columns), sv_f32(reach));
    const sv_scan_job job = {
        .y = sv_f32(y),
        .u = sv_f32(u),
        .delta = sv_f32(delta),
        .b = sv_f32(bmat),
        .c = sv_f32(cmat),
        .d = sv_f32(d),
        .a = sv_f32(columns),
        .reach = sv_f32(reach),
        .z = data_of(z),
        .index = index_of(seq),
        .state_in = data_of(seq->state_in),
        .state_out = data_of(seq->state_out),
        .y_pitch = y.pitch,
        .u_pitch = u.pitch,
        .delta_pitch = delta.pitch,
        .b_pitch = bmat.pitch,
        .c_pitch = cmat.pitch,
        .z_pitch = z.pitch,
        .in_pitch = seq->state_in.pitch,
        .out_pitch = seq->state_out.pitch,
        .length = seq->length,
        .channels = channels,
        .states = states,
        .reverse = seq->reverse,
        .accumulate = accumulate,
    };
    k.scan = &job;
    sv_pool_run(c->pool, scan_task, &k, groups * k.parts);
    sv_arena_rewind(&c->scratch, mark);

    /* per state: the exponent, its power, the input, decay and add, read out; per token the skip and the gate
     */
    const double numbers = (double)slots * channels;
    const double streams = 3.0 + (job.z ? 1 : 0) + (accumulate ? 1 : 0);
    sv_count_work(c, numbers * (7.0 * states + 3 + (job.z ? 4 : 0)),
                  4 * (numbers * streams + 2.0 * slots * states + (double)channels * (states + 1)));
    return SV_OK;
}
