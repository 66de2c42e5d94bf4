/* SPDX-License-Identifier: Apache-2.0
 *
 * Rodimus (He et al. 2024), data-dependent tempered selection: how much is forgotten and how much is taken in follow from
 * one gate g = softplus(g_gate) and a temperature tau = sigmoid(tau_gate):
 *
 *     S_t = diag(e^(-g tau)) S_(t-1) + (g^tau k_t/|k_t|) v_t',  o = K^-1/2 q'S         v already gated
 */
#include "backbones/block.h"

#include <math.h>

enum { Q, K, V, G, TAU, S };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const int heads = call->of->size['H'];
    const sv_decay_rule rule = {
        .heads = heads, .decay = SV_DECAY_CHANNEL, .scale = (float)(1 / sqrt(call->of->size['K']))};
    const sv_tensor *in = call->in;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor g, tau, decay, key;
    SV_TRY(sv_call_scratch(c, call, &g, "rodimus gate", in[K].dim[1]));
    SV_TRY(sv_call_scratch(c, call, &tau, "rodimus temperature", in[K].dim[1]));
    SV_TRY(sv_call_scratch(c, call, &decay, "rodimus decay", in[K].dim[1]));
    SV_TRY(sv_call_scratch(c, call, &key, "rodimus key", in[K].dim[1]));
    SV_TRY(sv_map1(c, g, in[G], SV_MAP_softplus));
    SV_TRY(sv_map1(c, tau, in[TAU], SV_MAP_sigmoid));
    SV_TRY(sv_map2(c, decay, g, tau, SV_MAP_neg_mul));
    SV_TRY(sv_map2(c, g, g, tau, SV_MAP_power));
    SV_TRY(sv_head_map(c, key, in[K], heads, SV_HEAD_LIMITED, 1e-12f));
    SV_TRY(sv_map2(c, key, key, g, SV_MAP_mul));
    SV_TRY(sv_decay_scan(c, call->y, in[Q], key, in[V], decay, SV_NONE, &rule, &call->seq, false));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .conv = true),
    [K] = SV_TOKEN("k", "BTHK", .conv = true),
    [V] = SV_TOKEN("v", "BTHV", .map = SV_MAP_identity),
    [G] = SV_TOKEN("g_gate", "BTHK", .bias = true),
    [TAU] = SV_TOKEN("tau_gate", "BTHK", .bias = true),
    [S] = SV_STATE(NULL, "BHKV", "final_state"),
    SV_RESULT(0, "o", "BTHV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 1},
                                    {SV_LETTER_COUNT, 'K', "slots", 64},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 2},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("rodimus_ddts"), .ports = ports, .letters = letters, .heads = "H", .run = run};
SV_CATALOGUE(rodimus, "Rodimus", &recurrence);
