/* SPDX-License-Identifier: Apache-2.0
 *
 * GaLiTe, the recurrent linear transformer with a learned gate per pair of channels (Pramanik et al. 2023; the exact form of
 * AGaLiTe, in its public code the update rule 'keyvalue_gated'):
 *
 *     C_ij = (1 - gamma_i beta_j) C_ij + gamma_i k_i beta_j v_j,   s_i = (1 - gamma_i) s_i + gamma_i k_i
 *     o = C'q / (s.q + 1e-10),   q and k not negative
 *
 * The gate of a pair is no product of two decays, so this is not gated linear attention: decay_scan has a form for it.
 * (The public code makes q and k as outer products of two small projections; a block here takes a plain projection and elu + 1, which is positive.)
 */
#include "backbones/block.h"

enum { Q, K, V, GAMMA, BETA, C, S };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const int heads = call->of->size['H'], keys = in[K].dim[1], values = in[V].dim[1];
    const sv_decay_rule pairs = {.heads = heads, .decay = SV_DECAY_PAIR, .scale = 1};
    const sv_sequence memory = sv_part_of(call, C), sums = sv_part_of(call, S);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor gates, k, v, sum, ones, gamma_one;
    SV_TRY(sv_call_scratch(c, call, &gates, "galite gates", keys + values));
    SV_TRY(sv_call_scratch(c, call, &gamma_one, "galite gates of sums", keys + heads));
    SV_TRY(sv_call_scratch(c, call, &k, "galite keys", keys));
    SV_TRY(sv_call_scratch(c, call, &v, "galite values", values));
    SV_TRY(sv_call_scratch(c, call, &sum, "galite sums", heads));
    SV_TRY(sv_call_ones(c, call, &ones, heads));
    SV_TRY(sv_map1(c, sv_columns(gates, 0, keys), in[GAMMA], SV_MAP_identity));
    SV_TRY(sv_map1(c, sv_columns(gates, keys, values), in[BETA], SV_MAP_identity));
    SV_TRY(sv_map1(c, sv_columns(gamma_one, 0, keys), in[GAMMA], SV_MAP_identity));
    SV_TRY(sv_fill(c, sv_columns(gamma_one, keys, heads), 1));
    SV_TRY(sv_map2(c, k, in[K], in[GAMMA], SV_MAP_mul));
    SV_TRY(sv_map2(c, v, in[V], in[BETA], SV_MAP_mul));
    SV_TRY(sv_decay_scan(c, call->y, in[Q], k, v, gates, SV_NONE, &pairs, &memory, false));
    SV_TRY(sv_decay_scan(c, sum, in[Q], k, ones, gamma_one, SV_NONE, &pairs, &sums, false));
    SV_TRY(sv_head_scale(c, call->y, call->y, sum, true, 1e-10f));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .map = SV_MAP_elu_one),
    [K] = SV_TOKEN("k", "BTHK", .map = SV_MAP_elu_one),
    [V] = SV_TOKEN("v", "BTHV", .map = SV_MAP_identity),
    [GAMMA] = SV_TOKEN("gamma", "BTHK", .map = SV_MAP_sigmoid),
    [BETA] = SV_TOKEN("beta", "BTHV", .map = SV_MAP_sigmoid),
    [C] = SV_STATE("C0", "BHKV", "C"),
    [S] = SV_STATE("s0", "BHK", "s"),
    SV_RESULT(0, "o", "BTHV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("galite"), .ports = ports, .letters = letters, .heads = "H", .run = run};
SV_CATALOGUE(galite, "GaLiTe", &recurrence);
