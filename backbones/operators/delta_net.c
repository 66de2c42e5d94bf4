/* SPDX-License-Identifier: Apache-2.0
 *
 * The delta-rule operators over one core; q and k of unit length.
 *
 *     DeltaNet (Yang et al. 2024)         S += k (beta (v - S'k))',  o = K^-1/2 S'q,  beta = sigmoid(.) in (0,1)
 *     with negative eigenvalues           beta = 2 sigmoid(.): I - beta k k' has an eigenvalue in (-1,1)
 *      (Grazzi et al. 2025)
 *     Gated DeltaNet (Yang et al. 2025)   S *= e^g before, one g per head; KDA (Kimi team 2025): one per key channel
 */
#include "backbones/block.h"

#include <math.h>

enum { Q, K, V, BETA, S, G };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const int heads = call->of->size['H'];
    const sv_delta_inputs inputs = {.q = in[Q], .k = in[K], .v = in[V], .beta = in[BETA], .decay = in[G]};
    const sv_delta_rule rule = {.heads = heads,
                                .steps = 1,
                                .decay = sv_is_none(in[G])       ? SV_DECAY_NONE
                                         : in[G].dim[1] == heads ? SV_DECAY_TOKEN
                                                                 : SV_DECAY_CHANNEL,
                                .scale = (float)(1 / sqrt(call->of->size['K']))};
    return sv_delta_scan(c, call->y, &inputs, &rule, &call->seq);
}

#define UNIT_PORTS(layout_k, layout_v, layout_beta, steepest)                                                \
    [Q] = SV_TOKEN("q", layout_k, .conv = true, .unit = true),                                               \
    [K] = SV_TOKEN("k", layout_k, .conv = true, .unit = true), [V] = SV_TOKEN("v", layout_v, .conv = true),  \
    [BETA] = SV_TOKEN("beta", layout_beta, .map = SV_MAP_sigmoid, .gain = (steepest)),                       \
    [S] = SV_STATE("initial_state", "BHKV", "final_state")

static const sv_port delta_ports[] = {
    UNIT_PORTS("BHTK", "BHTV", "BHT", 1),
    [G] = {.kind = SV_PORT_TOKEN, .layout = "BHT", .optional = true},
    SV_RESULT(0, "o", "BHTV"),
    SV_END,
};
static const sv_port negative_ports[] = {
    UNIT_PORTS("BHTK", "BHTV", "BHT", 2),
    [G] = {.kind = SV_PORT_TOKEN, .layout = "BHT", .optional = true},
    SV_RESULT(0, "o", "BHTV"),
    SV_END,
};
static const sv_port gated_ports[] = {
    UNIT_PORTS("BTHK", "BTHV", "BTH", 1),
    [G] = SV_TOKEN("g", "BTH", .bias = true, .start = {SV_INIT_UNIFORM, -6.9f, -2.25f},
                   .map = SV_MAP_softplus, .rate = true),
    SV_RESULT(0, "o", "BTHV"),
    SV_END,
};
static const sv_port kda_ports[] = {
    UNIT_PORTS("BTHK", "BTHV", "BTH", 1),
    [G] = SV_TOKEN("g", "BTHK", .rank = 16, .bias = true, .start = {SV_INIT_UNIFORM, -6.9f, -2.25f},
                   .map = SV_MAP_softplus, .rate = true),
    SV_RESULT(0, "o", "BTHV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence delta = {.recordings = SV_RECORDED("delta_rule"),
                                    .ports = delta_ports,
                                    .letters = letters,
                                    .heads = "H",
                                    .run = run};
static const sv_recurrence negative = {.recordings = SV_RECORDED("delta_rule_negeig"),
                                       .ports = negative_ports,
                                       .letters = letters,
                                       .heads = "H",
                                       .run = run};
static const sv_recurrence gated = {.recordings = SV_RECORDED("gated_delta_rule"),
                                    .ports = gated_ports,
                                    .letters = letters,
                                    .heads = "H",
                                    .run = run};
static const sv_recurrence kda = {
    .recordings = SV_RECORDED("kda"), .ports = kda_ports, .letters = letters, .heads = "H", .run = run};
SV_CATALOGUE(delta_net, "DeltaNet", &delta);
SV_CATALOGUE(delta_net_negative, "DeltaNetNegative", &negative);
SV_CATALOGUE(gated_delta_net, "GatedDeltaNet", &gated);
SV_CATALOGUE(kda, "KDA", &kda);
