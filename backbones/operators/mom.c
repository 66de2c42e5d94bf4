/* SPDX-License-Identifier: Apache-2.0
 *
 * Mixture of memories (Du et al. 2025): M gated-delta memories; a token updates and asks the two its router prefers, with the
 * softmax of the two scores as weights. A memory sees its own tokens alone, in their order.
 *
 *     weights = softmax over the 2 greatest of router(x);   o = K^-1/2 sum_m weight_m S_m'q
 */
#include "backbones/block.h"

#include <math.h>

enum { ROUTER, Q, K, V, BETA, G, S };
enum { CHOSEN = 2 };

/* The picks as they are recorded: [S, 2] numbers. */
static sv_status show(sv_ctx *c, sv_tensor picks)
{
    return sv_probing(c) ? sv_probe(c, "topk_idx", picks) : SV_OK;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const int *size = call->of->size;
    const sv_tensor *in = call->in;
    const int heads = size['H'], keys = heads * size['K'], values = heads * size['V'], memories = size['M'];
    const sv_sequence all = sv_part_of(call, S);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor weight, picks;
    const int chosen = memories < CHOSEN ? memories : CHOSEN;
    SV_TRY(sv_call_scratch(c, call, &weight, "memory weights", memories));
    SV_TRY(sv_scratch_alloc(c, &picks, "memory picks", SV_I32, call->y.dim[0], chosen, call->y));
    SV_TRY(sv_route(c, weight, picks, in[ROUTER], chosen));
    SV_TRY(show(c, picks));
    for (int m = 0; m < memories; m++) {
        const sv_delta_inputs inputs = {.q = in[Q],
                                        .k = sv_columns(in[K], m * keys, keys),
                                        .v = sv_columns(in[V], m * values, values),
                                        .beta = sv_columns(in[BETA], m * heads, heads),
                                        .decay = sv_columns(in[G], m * heads, heads),
                                        .weight = sv_columns(weight, m, 1)};
        const sv_delta_rule rule = {.heads = heads,
                                    .steps = 1,
                                    .decay = SV_DECAY_TOKEN,
                                    .scale = (float)(1 / sqrt(size['K'])),
                                    .accumulate = m > 0};
        sv_sequence own = all;
        const int columns = heads * size['K'] * size['V'];
        if (!sv_is_none(own.state_in)) own.state_in = sv_columns(own.state_in, m * columns, columns);
        if (!sv_is_none(own.state_out)) own.state_out = sv_columns(own.state_out, m * columns, columns);
        SV_TRY(sv_delta_scan(c, call->y, &inputs, &rule, &own));
    }
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [ROUTER] = SV_TOKEN("router", "BTM", .map = SV_MAP_identity),
    [Q] = SV_TOKEN("q", "BTHK", .conv = true, .unit = true),
    [K] = SV_TOKEN("k", "MBTHK", .conv = true, .unit = true),
    [V] = SV_TOKEN("v", "MBTHV", .conv = true),
    [BETA] = SV_TOKEN("beta", "MBTH", .map = SV_MAP_sigmoid),
    [G] = SV_TOKEN("g", "MBTH", .bias = true, .start = {SV_INIT_UNIFORM, -6.9f, -2.25f},
                   .map = SV_MAP_softplus, .rate = true),
    [S] = SV_STATE(NULL, "BMHKV", NULL),
    SV_RESULT(0, "o", "BTHV"),
    SV_SHOWN(0, "topk_idx", "BT2"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_COUNT, 'M', "memories", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 0.5},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("mom"), .ports = ports, .letters = letters, .heads = "H", .run = run};
SV_CATALOGUE(mom, "MoM", &recurrence);
