/* SPDX-License-Identifier: Apache-2.0
 *
 * Higher-order linear attention of second order (Zhang et al. 2025) in streaming form, unnormalised:
 *
 *     o_i = sum_(j<=i) [sum_(l<=j) (q_i.k_l)(q_j.k_l)] v_j
 *
 * With a decay gamma < 1 in two forms: as published, and with the factors that make it the exact causal mask (sv_second_order).
 * Blocks take the last one with q and k of unit length, which keeps results bounded.
 */
#include "backbones/block.h"

enum { Q, K, V, GAMMA, S, C, G };
enum { NO_DECAY, PUBLISHED, EXACT };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const float gamma = call->form == NO_DECAY ? 1 : (float)call->of->number[GAMMA];
    const sv_second_order rule = {.heads = call->of->size['H'],
                                  .decay = gamma,
                                  .decay_g = call->form == EXACT ? gamma * gamma : gamma,
                                  .share = call->form == EXACT ? gamma : 1};
    return sv_second_order_scan(c, call->y, call->in[Q], call->in[K], call->in[V], &rule, &call->seq);
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .conv = true, .unit = true),
    [K] = SV_TOKEN("k", "BTHK", .conv = true, .unit = true),
    [V] = SV_TOKEN("v", "BTHV", .conv = true),
    [GAMMA] = SV_NUMBER("gamma", 0.97),
    [S] = SV_STATE(NULL, "BHKK"),
    [C] = SV_STATE(NULL, "BHKV"),
    [G] = SV_STATE(NULL, "BHKV"),
    SV_RESULT(NO_DECAY, "o", "BTHV"),
    SV_RESULT(PUBLISHED, "o_decay", "BTHV"),
    SV_RESULT(EXACT, "o_decay_exact_mask", "BTHV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("hla2"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .form = EXACT,
                                         .run = run};
SV_CATALOGUE(second_order, "HLA", &recurrence);
