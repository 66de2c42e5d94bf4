/* SPDX-License-Identifier: Apache-2.0
 *
 * LightNet's additive recurrence (Qin et al. 2024) and Latte (Dolga et al. 2024): the memory of a key channel is the mean of
 * all values so far, weighed with e^k.
 *
 *     z = log sum e^k;   S = (sum e^k_s v_s') / (sum e^k_s);   o = f(q)'S
 *     LightNet: f = K^-1/2 silu;   Latte: f = softmax over the channels (latents)
 *
 * With z of the whole group the result does not depend on any order.
 */
#include "backbones/block.h"

#include <math.h>

enum { Q, K, V, M, C, S };
enum { CAUSAL, WHOLE };

static sv_status mean_of_values(sv_ctx *c, const sv_call *call, sv_tensor q, float scale)
{
    const sv_tensor *in = call->in;
    const bool whole = call->form == WHOLE;
    sv_decay_rule rule = {
        .heads = call->of->size['H'], .decay = whole ? SV_DECAY_NONE : SV_DECAY_CHANNEL, .scale = scale};
    /* the maxima and the sums are one state of the scan */
    sv_sequence shares = sv_part_of(call, M), memory = sv_part_of(call, S);
    const int columns = 2 * in[K].dim[1];
    if (!sv_is_none(shares.state_in)) shares.state_in = sv_columns(call->seq.state_in, 0, columns);
    if (!sv_is_none(shares.state_out)) shares.state_out = sv_columns(call->seq.state_out, 0, columns);
    sv_tensor weight, decay = SV_NONE;
    SV_TRY(sv_call_scratch(c, call, &weight, "shares", in[K].dim[1]));
    if (!whole) SV_TRY(sv_call_scratch(c, call, &decay, "decays", in[K].dim[1]));
    if (whole) shares.state_in = shares.state_out = memory.state_in = memory.state_out = SV_NONE;
    SV_TRY(sv_log_sum_scan(c, weight, decay, in[K], &shares, whole));
    SV_TRY(sv_decay_scan(c, call->y, q, weight, in[V], decay, SV_NONE, &rule, &memory, false));
    if (!whole) return SV_OK;
    rule.read = SV_READ_BEFORE;
    memory.reverse = !memory.reverse;
    return sv_decay_scan(c, call->y, q, weight, in[V], SV_NONE, SV_NONE, &rule, &memory, true);
}

static sv_status run_lightnet(sv_ctx *c, const sv_call *call)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor q;
    SV_TRY(sv_call_scratch(c, call, &q, "queries", call->in[Q].dim[1]));
    SV_TRY(sv_map1(c, q, call->in[Q], SV_MAP_silu));
    SV_TRY(mean_of_values(c, call, q, (float)(1 / sqrt(call->of->size['K']))));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static sv_status run_latte(sv_ctx *c, const sv_call *call)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor q;
    SV_TRY(sv_call_scratch(c, call, &q, "queries", call->in[Q].dim[1]));
    SV_TRY(sv_head_map(c, q, call->in[Q], call->of->size['H'], SV_HEAD_SOFTMAX, 1));
    SV_TRY(mean_of_values(c, call, q, 1));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .map = SV_MAP_identity),
    [K] = SV_TOKEN("k", "BTHK", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BTHV", .map = SV_MAP_identity),
    [M] = SV_STATE(NULL, "BHK", NULL),
    [C] = SV_STATE(NULL, "BHK", NULL),
    [S] = SV_STATE(NULL, "BHKV", "final_state"),
    SV_RESULT(CAUSAL, "o", "BTHV"),
    SV_RESULT(WHOLE, "o_bidirectional", "BTHV", .fresh = true),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence lightnet = {.recordings = SV_RECORDED("lightnet"),
                                       .ports = ports,
                                       .letters = letters,
                                       .heads = "H",
                                       .whole = WHOLE,
                                       .run = run_lightnet};
static const sv_recurrence latte = {.recordings = SV_RECORDED("latte"),
                                    .ports = ports,
                                    .letters = letters,
                                    .heads = "H",
                                    .whole = WHOLE,
                                    .run = run_latte};
SV_CATALOGUE(lightnet, "LightNet", &lightnet);
SV_CATALOGUE(latte, "Latte", &latte);
