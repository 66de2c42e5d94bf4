/* SPDX-License-Identifier: Apache-2.0
 *
 * SeqBoat (Ren et al. 2023), sparse modular activation: moving averages (ema.h) run over all tokens; from
 * them a token decides whether it takes part in attention, and those that do see the last W of their kind:
 *
 *     h = EMA(x),  q = W_q h,  k = W_k h,  p = softmax of two scores of h; active where p_2 > p_1
 *     o = SiLU(W_h h + p_2 softmax(K^-1/2 q.k over the last W active tokens) v)   active
 *     o = SiLU(W_h h)                                                             else
 *
 * so attention's cost goes with the tokens that ask for it. (The paper scales queries and keys out of one
 * projection and adds a bias by distance; a block has a projection for each and no bias.)
 */
#include "backbones/ema.h"

#include <math.h>

enum { X, V, WEIGHTS, WA = WEIGHTS + SV_EMA_OMEGA + 1, BA, WQ, WK, WH, AVERAGES, KEYS, VALUES, COUNTS };

typedef struct parts {
    sv_ema ema;
    sv_linear_weights activate, q, k, h;
} parts;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    parts *m = SV_PREPARED(parts, self);
    SV_TRY(sv_ema_prepare(c, self, WEIGHTS, &m->ema));
    SV_TRY(sv_prepare_port(c, self, &m->activate, WA, BA, false));
    SV_TRY(sv_prepare_port(c, self, &m->q, WQ, -1, false));
    SV_TRY(sv_prepare_port(c, self, &m->k, WK, -1, false));
    return sv_prepare_port(c, self, &m->h, WH, -1, false);
}

/* weight [S,1]: p_2 of active tokens, else 0 */
static sv_status activate(sv_ctx *c, const sv_call *call, sv_tensor weight, sv_tensor h)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor scores, chosen;
    SV_TRY(sv_call_scratch(c, call, &scores, "seqboat scores", 2));
    SV_TRY(sv_call_scratch(c, call, &chosen, "seqboat choice", 2));
    SV_TRY(sv_linear(c, scores, h, SV_NONE, &SV_PREPARED_CONST(parts, call->of)->activate, SV_MAP_identity));
    SV_TRY(sv_route(c, chosen, SV_NONE, scores, 1));
    SV_TRY(sv_head_map(c, scores, scores, 1, SV_HEAD_SOFTMAX, 1));
    SV_TRY(sv_map2(c, weight, sv_columns(scores, 1, 1), sv_columns(chosen, 1, 1), SV_MAP_mul));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const parts *m = SV_PREPARED_CONST(parts, call->of);
    const int heads = call->of->size['H'], keys = call->of->size['K'];
    const sv_local_rule rule = {
        .heads = heads, .window = call->of->size['W'], .scale = (float)(1 / sqrt(keys))};
    const int columns = rule.window * (heads * keys + call->y.dim[1]) + heads,
              first = sv_state_first(call->of, KEYS);
    const sv_sequence averages = sv_part_of(call, AVERAGES);
    sv_sequence seq = call->seq;
    if (!sv_is_none(seq.state_in)) seq.state_in = sv_columns(seq.state_in, first, columns);
    if (!sv_is_none(seq.state_out)) seq.state_out = sv_columns(seq.state_out, first, columns);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor h, q, k, weight, skip;
    SV_TRY(sv_call_scratch(c, call, &h, "seqboat averages", call->of->size['D']));
    SV_TRY(sv_call_scratch(c, call, &q, "seqboat queries", heads * keys));
    SV_TRY(sv_call_scratch(c, call, &k, "seqboat keys", heads * keys));
    SV_TRY(sv_call_scratch(c, call, &skip, "seqboat averages out", call->y.dim[1]));
    SV_TRY(sv_call_scratch(c, call, &weight, "seqboat weights", 1));
    SV_TRY(sv_ema_run(c, call, WEIGHTS, &m->ema, h, call->in[X], &averages));
    SV_TRY(activate(c, call, weight, h));
    SV_TRY(sv_linear(c, q, h, SV_NONE, &m->q, SV_MAP_identity));
    SV_TRY(sv_linear(c, k, h, SV_NONE, &m->k, SV_MAP_identity));
    SV_TRY(sv_linear(c, skip, h, SV_NONE, &m->h, SV_MAP_identity));
    SV_TRY(sv_local_attention(c, call->y, q, k, call->in[V], weight, &rule, &seq));
    SV_TRY(sv_map2(c, call->y, call->y, skip, SV_MAP_add));
    SV_TRY(sv_map1(c, call->y, call->y, SV_MAP_silu));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [X] = SV_TOKEN("x", "BTD", .input = true),
    [V] = SV_TOKEN("v", "BTHV", .map = SV_MAP_silu),
    SV_EMA_PORTS(WEIGHTS),
    [WA] = SV_WEIGHT("W_active", "2D", .fan_in = true),
    [BA] = SV_WEIGHT("b_active", "2", .init = {SV_INIT_CONSTANT, 0, 0}),
    [WQ] = SV_WEIGHT("W_q", "ED", .fan_in = true),
    [WK] = SV_WEIGHT("W_k", "ED", .fan_in = true),
    [WH] = SV_WEIGHT("W_h", "FD", .fan_in = true),
    [AVERAGES] = SV_STATE("h0", "BDN", "h"),
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
                                    {SV_LETTER_SHARE, 'F', "expand_v", 1},
                                    {SV_LETTER_SHARE, 'D', NULL, 1},
                                    {SV_LETTER_COUNT, 'N', "d_state", 4},
                                    {SV_LETTER_COUNT, 'W', "window", 64},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("seqboat"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .prepare = prepare,
                                         .run = run};
SV_CATALOGUE(seq_boat, "SeqBoat", &recurrence);
