/* SPDX-License-Identifier: Apache-2.0
 *
 * SCOUT (Jafari et al. 2025): a cheap mixer, here the paper's sliding window, enriches every token with what
 * is near; then a token asks the last token of every earlier segment, which stands for all of it, and itself:
 *
 *     h = x + W_o softmax(K^-1/2 q.k within the window) v
 *     o_t = softmax(K^-1/2 (W_q h_t).(W_k h_s)) W_v h_s over s = t and the last places of segments before t
 *
 * A segment's length less than attention's cost, still quadratic; no state is carried.
 */
#include "backbones/block.h"

#include <math.h>

enum { X, Q, K, V, WO, WQ, WK, WV, WINDOW, SEGMENT };

typedef struct products {
    sv_linear_weights out, q, k, v;
} products;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    products *m = SV_PREPARED(products, self);
    SV_TRY(sv_prepare_port(c, self, &m->out, WO, -1, false));
    SV_TRY(sv_prepare_port(c, self, &m->q, WQ, -1, false));
    SV_TRY(sv_prepare_port(c, self, &m->k, WK, -1, false));
    return sv_prepare_port(c, self, &m->v, WV, -1, false);
}

static sv_status tokens_of(sv_ctx *c, const sv_call *call, int port, int *out)
{
    const double value = call->of->number[port];
    SV_CHECK(c, value >= 1 && value <= 65536 && value == floor(value), SV_BAD_INPUT,
             "SCOUT's %s is %g tokens; a whole number within 1..65536 is needed",
             call->of->type->ports[port].name, value);
    *out = (int)value;
    return SV_OK;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const products *m = SV_PREPARED_CONST(products, call->of);
    const int heads = call->of->size['H'], inner = call->of->size['E'];
    const float scale = (float)(1 / sqrt(call->of->size['K']));
    int window = 0, segment = 0;
    SV_TRY(tokens_of(c, call, WINDOW, &window));
    SV_TRY(tokens_of(c, call, SEGMENT, &segment));
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor h, q, k, v;
    SV_TRY(sv_call_scratch(c, call, &h, "scout mixed", in[X].dim[1]));
    SV_TRY(sv_call_scratch(c, call, &q, "scout queries", inner));
    SV_TRY(sv_call_scratch(c, call, &k, "scout keys", inner));
    SV_TRY(sv_call_scratch(c, call, &v, "scout values", inner));
    SV_TRY(sv_attention_scan(c, q, in[Q], in[K], in[V], SV_NONE, heads, scale, window, 1, &call->seq));
    SV_TRY(sv_linear(c, h, q, SV_NONE, &m->out, SV_MAP_identity));
    SV_TRY(sv_map2(c, h, h, in[X], SV_MAP_add));
    SV_TRY(sv_linear(c, q, h, SV_NONE, &m->q, SV_MAP_identity));
    SV_TRY(sv_linear(c, k, h, SV_NONE, &m->k, SV_MAP_identity));
    SV_TRY(sv_linear(c, v, h, SV_NONE, &m->v, SV_MAP_identity));
    SV_TRY(sv_attention_scan(c, call->y, q, k, v, SV_NONE, heads, scale, 0, segment, &call->seq));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [X] = SV_TOKEN("x", "BTD", .input = true),
    [Q] = SV_TOKEN("q", "BTHK", .map = SV_MAP_identity),
    [K] = SV_TOKEN("k", "BTHK", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BTHK", .map = SV_MAP_identity),
    [WO] = SV_WEIGHT("W_o", "DE", .fan_in = true),
    [WQ] = SV_WEIGHT("W_q", "ED", .fan_in = true),
    [WK] = SV_WEIGHT("W_k", "ED", .fan_in = true),
    [WV] = SV_WEIGHT("W_v", "ED", .fan_in = true),
    [WINDOW] = SV_NUMBER("window", 32),
    [SEGMENT] = SV_NUMBER("segment", 32),
    SV_RESULT(0, "o", "BTHK"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand", 1},
                                    {SV_LETTER_SHARE, 'E', "expand", 1},
                                    {SV_LETTER_SHARE, 'D', NULL, 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("scout"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .quadratic = true,
                                         .prepare = prepare,
                                         .run = run};
SV_CATALOGUE(scout, "SCOUT", &recurrence);
