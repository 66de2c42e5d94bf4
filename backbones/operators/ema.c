/* SPDX-License-Identifier: Apache-2.0
 *
 * MEGA's multi-dimensional damped moving average (Ma et al. 2023): N averages of each channel.
 *
 *     p = sigmoid(delta),  q = 1 - p sigmoid(alpha),  h_t = q h_(t-1) + p beta x,  y = sum_n gamma h / sqrt(N)
 *     o = SiLU(y + omega x)
 */
#include "backbones/ema.h"

#include <math.h>
#include <stdlib.h>

enum { X, WEIGHTS, S = WEIGHTS + SV_EMA_OMEGA + 1 };

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

sv_status sv_ema_prepare(sv_ctx *c, const sv_instance *self, int first, sv_ema *out)
{
    const int d = self->size['D'], n = self->size['N'];
    const size_t count = (size_t)d * (size_t)n;
    const sv_tensor *host = self->host + first;
    float *a = malloc(sizeof *a * 3 * count), *b = a + count, *read = b + count;
    SV_CHECK(c, a, SV_NO_MEMORY, "no memory for averages");
    for (size_t i = 0; i < count; i++) {
        const double p = sigmoid((double)sv_f32(host[SV_EMA_DELTA])[i]);
        a[i] = (float)(1 - p * sigmoid((double)sv_f32(host[SV_EMA_ALPHA])[i]));
        b[i] = (float)(p * (double)sv_f32(host[SV_EMA_BETA])[i]);
        read[i] = (float)((double)sv_f32(host[SV_EMA_GAMMA])[i] / sqrt(n));
    }
    sv_status status = sv_weight_upload(c, &out->a, sv_view(a, SV_F32, d, n));
    if (status == SV_OK) status = sv_weight_upload(c, &out->b, sv_view(b, SV_F32, d, n));
    if (status == SV_OK) status = sv_weight_upload(c, &out->c, sv_view(read, SV_F32, d, n));
    free(a);
    return status;
}

sv_status sv_ema_run(sv_ctx *c, const sv_call *call, int first, const sv_ema *m, sv_tensor y, sv_tensor x,
                     const sv_sequence *seq)
{
    const sv_state_rule rule = {
        .kind = SV_STATE_REAL, .states = call->of->size['N'], .a = m->a, .b = m->b, .c = m->c};
    SV_TRY(sv_state_scan(c, y, x, &rule, seq));
    SV_TRY(sv_probe(c, "o_ema", y));
    SV_TRY(sv_column_scale(c, y, x, call->in[first + SV_EMA_OMEGA], y));
    return sv_map1(c, y, y, SV_MAP_silu);
}

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    return sv_ema_prepare(c, self, WEIGHTS, SV_PREPARED(sv_ema, self));
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    return sv_ema_run(c, call, WEIGHTS, SV_PREPARED_CONST(sv_ema, call->of), call->y, call->in[X],
                      &call->seq);
}

static const sv_port ports[] = {
    [X] = SV_TOKEN("x", "TBD", .map = SV_MAP_identity),
    SV_EMA_PORTS(WEIGHTS),
    [S] = SV_STATE("h0", "BDN", "h"),
    SV_RESULT(0, "o", "TBD"),
    SV_SHOWN(0, "o_ema", "TBD"),
    SV_END,
};
static const sv_letter letters[] = {
    {SV_LETTER_SHARE, 'D', "expand", 1}, {SV_LETTER_COUNT, 'N', "d_state", 4}, {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("mega_ema"),
                                         .ports = ports,
                                         .letters = letters,
                                         .prepare = prepare,
                                         .run = run};
SV_CATALOGUE(ema, "EMA", &recurrence);
