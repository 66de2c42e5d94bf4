/* SPDX-License-Identifier: Apache-2.0
 *
 * Gated DeltaProduct (Siems et al. 2025): per token one decay and then R delta steps, each with its own k, v and beta in (0,2):
 * the transition is a product of R generalised Householder matrices, which can rotate.
 *
 *     S *= e^g;   R times: S += k_j (beta_j (v_j - S'k_j))';   o = S'q        (no K^-1/2, as in the reference)
 */
#include "backbones/block.h"

enum { Q, K, V, BETA, G, S };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const sv_delta_inputs inputs = {.q = in[Q], .k = in[K], .v = in[V], .beta = in[BETA], .decay = in[G]};
    const sv_delta_rule rule = {
        .heads = call->of->size['H'], .steps = call->of->size['R'], .decay = SV_DECAY_TOKEN, .scale = 1};
    return sv_delta_scan(c, call->y, &inputs, &rule, &call->seq);
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .conv = true, .unit = true),
    [K] = SV_TOKEN("k", "B(TR)HK", .conv = true, .unit = true),
    [V] = SV_TOKEN("v", "B(TR)HV", .conv = true),
    [BETA] = SV_TOKEN("beta", "B(TR)H", .map = SV_MAP_sigmoid, .gain = 2),
    [G] = SV_TOKEN("g", "BTH", .bias = true, .start = {SV_INIT_UNIFORM, -6.9f, -2.25f},
                   .map = SV_MAP_softplus, .rate = true),
    [S] = SV_STATE("initial_state", "BHKV", "final_state"),
    SV_RESULT(0, "o", "BTHV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_COUNT, 'R', "householders", 2},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("gated_delta_product", "gated_delta_product_nh1", "gated_delta_product_nh2",
                              "gated_delta_product_nh3", "gated_delta_product_nh4"),
    .ports = ports,
    .letters = letters,
    .heads = "H",
    .run = run};
SV_CATALOGUE(delta_product, "DeltaProduct", &recurrence);
