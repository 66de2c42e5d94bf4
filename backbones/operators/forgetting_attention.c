/* SPDX-License-Identifier: Apache-2.0
 *
 * Forgetting attention (Lin et al. 2025): softmax attention whose scores lose what log forget gates add up to. Quadratic in the
 * length of a group and without a state: the reference the linear operators are compared with. 'window' limits what a token
 * sees to that many tokens (0: all).
 *
 *     o_i = softmax over j <= i of (K^-1/2 q_i.k_j + sum of g in j+1..i) v_j
 */
#include "backbones/block.h"

#include <math.h>

enum { Q, K, V, G, WINDOW };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const double window = call->of->number[WINDOW];
    SV_CHECK(c, window >= 0 && window <= 1e9 && window == floor(window), SV_BAD_INPUT,
             "attention over a window of %g tokens; 0 (all) or more are possible", window);
    return sv_attention_scan(c, call->y, in[Q], in[K], in[V], in[G], call->of->size['H'],
                             (float)(1 / sqrt(call->of->size['K'])), (int)window, 1, &call->seq);
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .map = SV_MAP_identity),
    [K] = SV_TOKEN("k", "BTHK", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BTHV", .map = SV_MAP_identity),
    [G] = SV_TOKEN("g", "BTH", .bias = true, .start = {SV_INIT_UNIFORM, 3, 6}, .map = SV_MAP_log_sigmoid),
    [WINDOW] = SV_NUMBER("window", 0),
    SV_RESULT(0, "o", "BTHV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("forgetting_attn"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .quadratic = true,
                                         .run = run};
SV_CATALOGUE(forgetting_attention, "ForgettingAttention", &recurrence);
