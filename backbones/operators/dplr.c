/* SPDX-License-Identifier: Apache-2.0
 *
 * Diagonal plus low rank in general (DPLR; without decay: identity plus low rank, IPLR), the form RWKV-7's state takes:
 *
 *     S_t = diag(e^gk) S_(t-1) + b (S_(t-1)'a)' + k v',  o = K^-1/2 S'q
 *
 * Block: a = -(unit vector), b = sigmoid(.) times the same (as RWKV-7 has it), which keeps the transition's norm below one.
 */
#include "backbones/block.h"

#include <math.h>

enum { Q, K, V, A, B, S, GK };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const sv_delta_inputs inputs = {
        .q = in[Q], .k = in[K], .v = in[V], .decay = in[GK], .a = in[A], .b = in[B]};
    const sv_delta_rule rule = {.heads = call->of->size['H'],
                                .steps = 1,
                                .decay = sv_is_none(in[GK]) ? SV_DECAY_NONE : SV_DECAY_CHANNEL,
                                .scale = (float)(1 / sqrt(call->of->size['K']))};
    return sv_delta_scan(c, call->y, &inputs, &rule, &call->seq);
}

/* In a block b follows from a: b = -a * gate. */
static const sv_port dplr_ports[] = {
    [Q] = SV_TOKEN("q", "BHTK", .map = SV_MAP_identity),
    [K] = SV_TOKEN("k", "BHTK", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BHTV", .map = SV_MAP_identity),
    [A] = SV_TOKEN("alpha", "BHTK", .unit = true, .gain = -1),
    [B] = SV_TOKEN("beta", "BHTK", .like = "alpha", .map = SV_MAP_sigmoid, .gain = -1),
    [S] = SV_STATE("initial_state", "BHKV", "final_state"),
    [GK] = SV_TOKEN("gk", "BHTK", .rank = 16, .bias = true, .map = SV_MAP_log_sigmoid, .gain = 1.0f / 16),
    SV_RESULT(0, "o", "BHTV"),
    SV_END,
};
static const sv_port iplr_ports[] = {
    [Q] = SV_TOKEN("q", "BHTK", .map = SV_MAP_identity),
    [K] = SV_TOKEN("k", "BHTK", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BHTV", .map = SV_MAP_identity),
    [A] = SV_TOKEN("alpha", "BHTK", .unit = true, .gain = -1),
    [B] = SV_TOKEN("beta", "BHTK", .like = "alpha", .map = SV_MAP_sigmoid, .gain = -1),
    [S] = SV_STATE("initial_state", "BHKV", "final_state"),
    [GK] = {.kind = SV_PORT_TOKEN, .layout = "BHTK", .optional = true},
    SV_RESULT(0, "o", "BHTV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence dplr = {
    .recordings = SV_RECORDED("dplr"), .ports = dplr_ports, .letters = letters, .heads = "H", .run = run};
static const sv_recurrence iplr = {
    .recordings = SV_RECORDED("iplr"), .ports = iplr_ports, .letters = letters, .heads = "H", .run = run};
SV_CATALOGUE(dplr, "DPLR", &dplr);
SV_CATALOGUE(iplr, "IPLR", &iplr);
