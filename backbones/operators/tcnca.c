/* SPDX-License-Identifier: Apache-2.0
 *
 * TCNCA (Terzic et al. 2023): MEGA with a stack of dilated causal convolutions in place of the moving
 * averages, and attention within chunks, which the convolutions join:
 *
 *     h_0 = x,  h_(i+1) = h_i + SiLU(conv of P taps, 2^i tokens apart (h_i)),  i < N
 *     q = W_q h_N,  k = W_k h_N
 *     o = softmax(K^-1/2 q.k over the tokens of the own chunk so far) v
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>

enum { X, V, CONV, BIAS, WQ, WK, ROWS, KEYS, VALUES, COUNTS };
enum { MOST_LAYERS = 8 };

typedef struct parts {
    sv_linear_weights q, k;
    sv_tensor taps[MOST_LAYERS], bias[MOST_LAYERS];
} parts;

/* Rows the convolutions look back, all together. */
static void follow(sv_instance *self)
{
    const int layers = self->size['N'] < MOST_LAYERS ? self->size['N'] : MOST_LAYERS;
    self->size['L'] = (self->size['P'] - 1) * ((1 << layers) - 1);
}

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    parts *m = SV_PREPARED(parts, self);
    const int layers = self->size['N'], d = self->size['D'], taps = self->size['P'];
    SV_CHECK(c, layers <= MOST_LAYERS, SV_UNSUPPORTED, "TCNCA: %d layers; 1 to %d are supported", layers,
             MOST_LAYERS);
    for (int i = 0; i < layers; i++) {
        float *of = sv_f32(self->host[CONV]) + (ptrdiff_t)i * d * taps;
        SV_TRY(sv_weight_upload(c, &m->taps[i], sv_view(of, SV_F32, d, taps)));
        SV_TRY(sv_prepare_row(c, &m->bias[i], sv_f32(self->host[BIAS]) + (ptrdiff_t)i * d, d));
    }
    SV_TRY(sv_prepare_port(c, self, &m->q, WQ, -1, false));
    return sv_prepare_port(c, self, &m->k, WK, -1, false);
}

/* h through the stack; 'rest' is working space. */
static sv_status convolve(sv_ctx *c, const sv_call *call, sv_tensor h, sv_tensor rest)
{
    const parts *m = SV_PREPARED_CONST(parts, call->of);
    const sv_sequence all = sv_part_of(call, ROWS);
    const int d = call->of->size['D'], taps = call->of->size['P'];
    for (int i = 0, first = 0; i < call->of->size['N']; i++) {
        sv_sequence seq = all;
        const int columns = d * (taps - 1) << i;
        if (!sv_is_none(seq.state_in)) seq.state_in = sv_columns(seq.state_in, first, columns);
        if (!sv_is_none(seq.state_out)) seq.state_out = sv_columns(seq.state_out, first, columns);
        first += columns;
        SV_TRY(sv_dilated_conv(c, rest, h, m->taps[i], m->bias[i], 1 << i, &seq));
        SV_TRY(sv_map1(c, rest, rest, SV_MAP_silu));
        SV_TRY(sv_map2(c, h, h, rest, SV_MAP_add));
    }
    return SV_OK;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const parts *m = SV_PREPARED_CONST(parts, call->of);
    const int heads = call->of->size['H'], keys = call->of->size['K'], d = call->of->size['D'];
    const sv_local_rule rule = {
        .heads = heads, .window = call->of->size['W'], .chunked = true, .scale = (float)(1 / sqrt(keys))};
    sv_sequence seq = call->seq;
    const int columns = rule.window * (heads * keys + call->y.dim[1]) + heads,
              first = sv_state_first(call->of, KEYS);
    if (!sv_is_none(seq.state_in)) seq.state_in = sv_columns(call->seq.state_in, first, columns);
    if (!sv_is_none(seq.state_out)) seq.state_out = sv_columns(call->seq.state_out, first, columns);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor h, rest, q, k;
    SV_TRY(sv_call_scratch(c, call, &h, "tcnca convolved", d));
    SV_TRY(sv_call_scratch(c, call, &rest, "tcnca rest", d));
    SV_TRY(sv_call_scratch(c, call, &q, "tcnca queries", heads * keys));
    SV_TRY(sv_call_scratch(c, call, &k, "tcnca keys", heads * keys));
    SV_TRY(sv_map1(c, h, call->in[X], SV_MAP_identity));
    SV_TRY(convolve(c, call, h, rest));
    SV_TRY(sv_linear(c, q, h, SV_NONE, &m->q, SV_MAP_identity));
    SV_TRY(sv_linear(c, k, h, SV_NONE, &m->k, SV_MAP_identity));
    SV_TRY(sv_local_attention(c, call->y, q, k, call->in[V], SV_NONE, &rule, &seq));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [X] = SV_TOKEN("x", "BTD", .input = true),
    [V] = SV_TOKEN("v", "BTHV", .map = SV_MAP_silu),
    [CONV] = SV_WEIGHT("conv", "NDP", .fan_in = true),
    [BIAS] = SV_WEIGHT("conv_bias", "ND", .init = {SV_INIT_CONSTANT, 0, 0}),
    [WQ] = SV_WEIGHT("W_q", "ED", .fan_in = true),
    [WK] = SV_WEIGHT("W_k", "ED", .fan_in = true),
    [ROWS] = SV_STATE("rows0", "BLD", "rows"),
    [KEYS] = SV_STATE("keys0", "BHWK", "keys"),
    [VALUES] = SV_STATE("values0", "BHWV", "values"),
    [COUNTS] = SV_STATE("counts0", "BH", "counts"),
    SV_RESULT(0, "o", "BTHV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_SHARE, 'E', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {SV_LETTER_SHARE, 'D', NULL, 1},
                                    {SV_LETTER_COUNT, 'N', "layers", 5},
                                    {SV_LETTER_COUNT, 'P', "taps", 3},
                                    {SV_LETTER_COUNT, 'W', "chunk", 64},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("tcnca"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .follow = follow,
                                         .prepare = prepare,
                                         .run = run};
SV_CATALOGUE(tcnca, "TCNCA", &recurrence);
