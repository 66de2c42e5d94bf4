/* SPDX-License-Identifier: Apache-2.0
 *
 * Gated linear attention (Yang et al. 2024): a decay for every key channel and token.
 *
 *     S_t = diag(e^gk_t) S_(t-1) + k_t v_t',  o = K^-1/2 q'S        block: gk = log sigmoid(low rank of x) / 16
 */
#include "backbones/block.h"

#include <math.h>

enum { Q, K, V, GK, S };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_decay_rule rule = {.heads = call->of->size['H'],
                                .decay = SV_DECAY_CHANNEL,
                                .scale = (float)(1 / sqrt(call->of->size['K']))};
    const sv_tensor *in = call->in;
    return sv_decay_scan(c, call->y, in[Q], in[K], in[V], in[GK], SV_NONE, &rule, &call->seq, false);
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .map = SV_MAP_identity),
    [K] = SV_TOKEN("k", "BTHK", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BTHV", .map = SV_MAP_identity),
    [GK] = SV_TOKEN("gk", "BTHK", .rank = 16, .bias = true, .map = SV_MAP_log_sigmoid, .gain = 1.0f / 16),
    [S] = SV_STATE("initial_state", "BHKV", "final_state"),
    SV_RESULT(0, "o", "BTHV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 0.5},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("gla"), .ports = ports, .letters = letters, .heads = "H", .run = run};
SV_CATALOGUE(gla, "GLA", &recurrence);
