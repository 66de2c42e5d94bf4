/* SPDX-License-Identifier: Apache-2.0
 *
 * Block-Recurrent Transformer (Hutchins et al. 2022): tokens attend to those of a sliding window and to N
 * state vectors; the states attend to themselves and to the tokens of a block, once per block, and keep a
 * learned share of what they were (the "fixed" gate, which the paper found best; keys and values of tokens
 * and states are shared by both directions, queries are not):
 *
 *     o_t = [softmax(K^-1/2 q_t.k over the window) v,  softmax(K^-1/2 c_t.(W_k s)) W_v s]
 *     z = W_z [softmax((W_self s).(W_k s)) W_v s,  softmax((W_cross s).k over the block) v] + b
 *     s = sigmoid(g) s + (1 - sigmoid(g)) z;   s begins as learned vectors
 *
 * Streams are split between blocks (16 tokens by default). Norms inside are left out: the block has its own.
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { Q, CROSS, K, V, S0, WSELF, WCROSS, WKEY, WVALUE, WZ, BZ, GATE, KEYS, VALUES, COUNTS, STATES };
enum { BLOCK_TOKENS = 16 };

typedef struct parts {
    sv_tensor gate, start; /* [1,D], [1,N*D] */
} parts;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    parts *m = SV_PREPARED(parts, self);
    const int d = self->size['D'];
    float *gate = malloc(sizeof *gate * (size_t)d);
    SV_CHECK(c, gate, SV_NO_MEMORY, "no memory for a gate");
    for (int i = 0; i < d; i++) gate[i] = (float)(1 / (1 + exp(-(double)sv_f32(self->host[GATE])[i])));
    sv_status status = sv_prepare_row(c, &m->gate, gate, d);
    free(gate);
    if (status == SV_OK) status = sv_prepare_row(c, &m->start, sv_f32(self->host[S0]), self->size['N'] * d);
    return status;
}

static sv_status ask_states(sv_ctx *c, const sv_call *call, sv_tensor y, float scale)
{
    const sv_tensor *in = call->in;
    const parts *m = SV_PREPARED_CONST(parts, call->of);
    const sv_block_states rule = {.heads = call->of->size['H'],
                                  .states = call->of->size['N'],
                                  .block = BLOCK_TOKENS,
                                  .scale = scale,
                                  .self = in[WSELF],
                                  .cross = in[WCROSS],
                                  .key = in[WKEY],
                                  .value = in[WVALUE],
                                  .out = in[WZ],
                                  .bias = in[BZ],
                                  .gate = m->gate};
    sv_sequence seq = sv_part_of(call, STATES);
    if (sv_is_none(seq.state_in)) {
        const int groups = call->y.dim[0] / call->seq.length;
        SV_TRY(sv_scratch_alloc(c, &seq.state_in, "block states", SV_F32, groups, m->start.dim[1], SV_NONE));
        SV_TRY(sv_fill(c, seq.state_in, 1));
        SV_TRY(sv_column_scale(c, seq.state_in, seq.state_in, m->start, SV_NONE));
    }
    return sv_block_state_scan(c, y, in[CROSS], in[K], in[V], &rule, &seq);
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const int heads = call->of->size['H'], width = call->of->size['K'], inner = heads * width;
    const sv_local_rule rule = {
        .heads = heads, .window = call->of->size['W'], .scale = (float)(1 / sqrt(width))};
    sv_sequence seq = call->seq;
    const int columns = 2 * rule.window * inner + heads, first = sv_state_first(call->of, KEYS);
    if (!sv_is_none(seq.state_in)) seq.state_in = sv_columns(seq.state_in, first, columns);
    if (!sv_is_none(seq.state_out)) seq.state_out = sv_columns(seq.state_out, first, columns);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    SV_TRY(sv_local_attention(c, sv_columns(call->y, 0, inner), in[Q], in[K], in[V], SV_NONE, &rule, &seq));
    SV_TRY(ask_states(c, call, sv_columns(call->y, inner, inner), rule.scale));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .map = SV_MAP_identity),
    [CROSS] = SV_TOKEN("q_cross", "BTHK", .map = SV_MAP_identity),
    [K] = SV_TOKEN("k", "BTHK", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BTHK", .map = SV_MAP_identity),
    [S0] = SV_WEIGHT("states", "ND", .init = {SV_INIT_NORMAL, 0, 1}),
    [WSELF] = SV_WEIGHT("W_self", "ED", .fan_in = true),
    [WCROSS] = SV_WEIGHT("W_cross", "ED", .fan_in = true),
    [WKEY] = SV_WEIGHT("W_k", "ED", .fan_in = true),
    [WVALUE] = SV_WEIGHT("W_v", "ED", .fan_in = true),
    [WZ] = SV_WEIGHT("W_z", "DF", .fan_in = true),
    [BZ] = SV_WEIGHT("b_z", "D", NULL, "1D", .init = {SV_INIT_CONSTANT, 0, 0}),
    [GATE] = SV_WEIGHT("gate", "D", NULL, "1D", .init = {SV_INIT_UNIFORM, 0, 3}),
    [KEYS] = SV_STATE("keys0", "BHWK", "keys"),
    [VALUES] = SV_STATE("values0", "BHWK", "values"),
    [COUNTS] = SV_STATE("counts0", "BH", "counts"),
    [STATES] = SV_STATE("s0", "BND", "s"),
    SV_RESULT(0, "o", "BTF"),
    SV_END,
};
static const sv_letter letters[] = {
    {SV_LETTER_COUNT, 'H', "n_head", 4},  {SV_LETTER_PER_HEAD, 'K', "expand", 1},
    {SV_LETTER_SHARE, 'E', "expand", 1},  {SV_LETTER_SUM, 'F', "EE", 0},
    {SV_LETTER_SHARE, 'D', NULL, 1},      {SV_LETTER_COUNT, 'N', "states", 16},
    {SV_LETTER_COUNT, 'W', "window", 64}, {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("block_recurrent"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .prepare = prepare,
                                         .run = run};
SV_CATALOGUE(block_recurrent, "BlockRecurrent", &recurrence);
