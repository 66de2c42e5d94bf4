/* SPDX-License-Identifier: Apache-2.0
 *
 * MEGA's multi-dimensional damped moving average (Ma et al. 2023): N averages of each channel.
 *
 *     p = sigmoid(delta),  q = 1 - p sigmoid(alpha),  h_t = q h_(t-1) + p beta x,  y = sum_n gamma h / sqrt(N)
 *     o = SiLU(y + omega x)
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>

enum { X, DELTA, ALPHA, BETA, GAMMA, OMEGA, S };

typedef struct constants {
    sv_tensor a, b, c; /* [D, N] */
} constants;

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    constants *m = SV_PREPARED(constants, self);
    const int d = self->size['D'], n = self->size['N'];
    const size_t count = (size_t)d * (size_t)n;
    float *a = malloc(sizeof *a * 3 * count), *b = a + count, *read = b + count;
    SV_CHECK(c, a, SV_NO_MEMORY, "no memory for averages");
    for (size_t i = 0; i < count; i++) {
        const double p = sigmoid((double)sv_f32(self->host[DELTA])[i]);
        a[i] = (float)(1 - p * sigmoid((double)sv_f32(self->host[ALPHA])[i]));
        b[i] = (float)(p * (double)sv_f32(self->host[BETA])[i]);
        read[i] = (float)((double)sv_f32(self->host[GAMMA])[i] / sqrt(n));
    }
    sv_status status = sv_weight_upload(c, &m->a, sv_view(a, SV_F32, d, n));
    if (status == SV_OK) status = sv_weight_upload(c, &m->b, sv_view(b, SV_F32, d, n));
    if (status == SV_OK) status = sv_weight_upload(c, &m->c, sv_view(read, SV_F32, d, n));
    free(a);
    return status;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const constants *m = SV_PREPARED_CONST(constants, call->of);
    const sv_state_rule rule = {
        .kind = SV_STATE_REAL, .states = call->of->size['N'], .a = m->a, .b = m->b, .c = m->c};
    SV_TRY(sv_state_scan(c, call->y, call->in[X], &rule, &call->seq));
    SV_TRY(sv_probe(c, "o_ema", call->y));
    SV_TRY(sv_column_scale(c, call->y, call->in[X], call->in[OMEGA], call->y));
    return sv_map1(c, call->y, call->y, SV_MAP_silu);
}

static const sv_port ports[] = {
    [X] = SV_TOKEN("x", "TBD", .map = SV_MAP_identity),
    [DELTA] = SV_WEIGHT("delta", "DN1", NULL, "DN", .init = {SV_INIT_NORMAL, 0, 0.2f}),
    [ALPHA] = SV_WEIGHT("alpha", "DN1", NULL, "DN", .init = {SV_INIT_NORMAL, 0, 0.2f}),
    [BETA] = SV_WEIGHT("beta", "DN1", NULL, "DN", .init = {SV_INIT_NORMAL, 0, 1}),
    [GAMMA] = SV_WEIGHT("gamma", "DN", .init = {SV_INIT_NORMAL, 0, 1}),
    [OMEGA] = SV_WEIGHT("omega", "D", NULL, "1D", .init = {SV_INIT_NORMAL, 0, 1}),
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
