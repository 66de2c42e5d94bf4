/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear attention with one decay per head and token (simple GLA; the family of Mamba-2 and gated RetNet):
 *
 *     S_t = e^g_t S_(t-1) + k_t v_t',  o = K^-1/2 q'S               block: g = log sigmoid(W x) / 16
 */
#include "backbones/block.h"

#include <math.h>

enum { Q, K, V, G, S };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_decay_rule rule = {.heads = call->of->size['H'],
                                .decay = SV_DECAY_TOKEN,
                                .scale = (float)(1 / sqrt(call->of->size['K']))};
    const sv_tensor *in = call->in;
    return sv_decay_scan(c, call->y, in[Q], in[K], in[V], in[G], SV_NONE, &rule, &call->seq, false);
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .conv = true),
    [K] = SV_TOKEN("k", "BTHK", .conv = true),
    [V] = SV_TOKEN("v", "BTHV", .conv = true),
    [G] = SV_TOKEN("g", "BTH", .map = SV_MAP_log_sigmoid, .gain = 1.0f / 16),
    [S] = SV_STATE("initial_state", "BHKV", "final_state"),
    SV_RESULT(0, "o", "BTHV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("simple_gla"), .ports = ports, .letters = letters, .heads = "H", .run = run};
SV_CATALOGUE(simple_gla, "SimpleGLA", &recurrence);
