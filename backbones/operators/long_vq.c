/* SPDX-License-Identifier: Apache-2.0
 *
 * LongVQ (Liu et al. 2024): moving averages (ema.h) feed queries and keys; keys are replaced by the nearest
 * of M codewords, so that softmax attention over all tokens is a sum over codewords, which keep the values
 * and the number of the tokens they stand for:
 *
 *     h = EMA(x),  q = W_q h,  k = W_k h,  z = argmin_m |k - C_m|;   S_z += v,  n_z += 1
 *     o = sum_m e^(K^-1/2 q.C_m) S_m / sum_m e^(K^-1/2 q.C_m) n_m,   per head
 *
 * That is attention to quantised keys, exactly. (The paper adds a learned bias to the last tokens of a
 * window; without it here. Training's straight-through estimate and codebook averages play no part.)
 */
#include "backbones/ema.h"

#include <math.h>
#include <stdlib.h>

enum { X, V, WEIGHTS, WQ = WEIGHTS + SV_EMA_OMEGA + 1, WK, CODES, AVERAGES, SUMS, COUNTS };

typedef struct parts {
    sv_ema ema;
    sv_linear_weights q, k, score, nearest;
} parts;

/* The codebooks of all heads as one product, with -|C|^2/2 for the nearest. */
static sv_status prepare_codes(sv_ctx *c, const sv_instance *self, parts *m)
{
    const int heads = self->size['H'], keys = self->size['K'], codes = self->size['M'],
              columns = heads * keys;
    float *w = calloc((size_t)heads * (size_t)codes * ((size_t)columns + 1), sizeof *w),
          *bias = w + (ptrdiff_t)heads * codes * columns;
    SV_CHECK(c, w, SV_NO_MEMORY, "no memory for %d codewords", heads * codes);
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < codes; i++) {
            const int row = h * codes + i;
            double square = 0;
            for (int j = 0; j < keys; j++) {
                const float code = sv_f32(self->host[CODES])[row * keys + j];
                w[(ptrdiff_t)row * columns + h * keys + j] = code;
                square += (double)code * (double)code;
            }
            bias[row] = (float)(-square / 2);
        }
    const sv_tensor weights = sv_view(w, SV_F32, heads * codes, columns);
    sv_status status = sv_linear_prepare(c, &m->score, weights, SV_NONE);
    if (status == SV_OK)
        status = sv_linear_prepare(c, &m->nearest, weights, sv_view(bias, SV_F32, 1, heads * codes));
    free(w);
    return status;
}

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    parts *m = SV_PREPARED(parts, self);
    SV_TRY(sv_ema_prepare(c, self, WEIGHTS, &m->ema));
    SV_TRY(sv_prepare_port(c, self, &m->q, WQ, -1, false));
    SV_TRY(sv_prepare_port(c, self, &m->k, WK, -1, false));
    return prepare_codes(c, self, m);
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const parts *m = SV_PREPARED_CONST(parts, call->of);
    const int heads = call->of->size['H'], keys = call->of->size['K'], codes = call->of->size['M'];
    const sv_decay_rule rule = {.heads = heads, .scale = 1};
    const sv_sequence averages = sv_part_of(call, AVERAGES), sums = sv_part_of(call, SUMS),
                      counts = sv_part_of(call, COUNTS);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor h, row, score, code, below, ones;
    SV_TRY(sv_call_scratch(c, call, &h, "longvq averages", call->of->size['D']));
    SV_TRY(sv_call_scratch(c, call, &row, "longvq queries, keys", heads * keys));
    SV_TRY(sv_call_scratch(c, call, &score, "longvq scores", heads * codes));
    SV_TRY(sv_call_scratch(c, call, &code, "longvq codes", heads * codes));
    SV_TRY(sv_call_scratch(c, call, &below, "longvq counts", heads));
    SV_TRY(sv_call_ones(c, call, &ones, heads));
    SV_TRY(sv_ema_run(c, call, WEIGHTS, &m->ema, h, call->in[X], &averages));
    SV_TRY(sv_linear(c, row, h, SV_NONE, &m->k, SV_MAP_identity));
    SV_TRY(sv_linear(c, score, row, SV_NONE, &m->nearest, SV_MAP_identity));
    for (int i = 0; i < heads; i++)
        SV_TRY(
            sv_route(c, sv_columns(code, i * codes, codes), SV_NONE, sv_columns(score, i * codes, codes), 1));
    SV_TRY(sv_linear(c, row, h, SV_NONE, &m->q, SV_MAP_identity));
    SV_TRY(sv_linear(c, score, row, SV_NONE, &m->score, SV_MAP_identity));
    SV_TRY(sv_head_map(c, score, score, heads, SV_HEAD_SOFTMAX, (float)(1 / sqrt(keys))));
    SV_TRY(sv_decay_scan(c, call->y, score, code, call->in[V], SV_NONE, SV_NONE, &rule, &sums, false));
    SV_TRY(sv_decay_scan(c, below, score, code, ones, SV_NONE, SV_NONE, &rule, &counts, false));
    SV_TRY(sv_head_scale(c, call->y, call->y, below, true, 1e-20f));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [X] = SV_TOKEN("x", "BTD", .input = true),
    [V] = SV_TOKEN("v", "BTHV", .map = SV_MAP_silu),
    SV_EMA_PORTS(WEIGHTS),
    [WQ] = SV_WEIGHT("W_q", "ED", .fan_in = true),
    [WK] = SV_WEIGHT("W_k", "ED", .fan_in = true),
    [CODES] = SV_WEIGHT("codebook", "HMK", .init = {SV_INIT_NORMAL, 0, 0.5f}),
    [AVERAGES] = SV_STATE("h0", "BDN", "h"),
    [SUMS] = SV_STATE("sums0", "BHMV", "sums"),
    [COUNTS] = SV_STATE("counts0", "BHM", "counts"),
    SV_RESULT(0, "o", "BTHV"),
    SV_END,
};
static const sv_letter letters[] = {
    {SV_LETTER_COUNT, 'H', "n_head", 4},     {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
    {SV_LETTER_SHARE, 'E', "expand_k", 1},   {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
    {SV_LETTER_SHARE, 'D', NULL, 1},         {SV_LETTER_COUNT, 'N', "d_state", 4},
    {SV_LETTER_COUNT, 'M', "codewords", 32}, {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("longvq"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .prepare = prepare,
                                         .run = run};
SV_CATALOGUE(long_vq, "LongVQ", &recurrence);
