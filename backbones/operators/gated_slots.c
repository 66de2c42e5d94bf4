/* SPDX-License-Identifier: Apache-2.0
 *
 * Gated slot attention (Zhang et al. 2024) and ABC (Peng et al. 2022): M slots of keys and values, two passes with a softmax
 * over the slots between them.
 *
 *     Kt = Kt diag(a) + k s',  p = softmax(K^-1/2 q'Kt),  Vt = diag(a) Vt + s v',  o = p'Vt
 *     GSA: a = e^g, s = 1 - a;      ABC: s = e^(u - z), a = e^(z_before - z), z = log sum e^u: means instead of decays
 */
#include "backbones/block.h"

#include <math.h>

enum { Q, K, V, G, KEYS, VALUES, SLOTS }; /* GSA; SLOTS: s, where it is not 1 - a */
enum { ABC_Q, ABC_K, ABC_V, ABC_S, ABC_M, ABC_C, ABC_KEYS, ABC_VALUES };

static sv_status two_passes(sv_ctx *c, const sv_call *call, sv_tensor s, sv_tensor decay, int keys,
                            int values)
{
    const int heads = call->of->size['H'];
    const sv_decay_rule first = {
        .heads = heads, .decay = SV_DECAY_VALUE, .scale = (float)(1 / sqrt(call->of->size['K']))};
    const sv_decay_rule second = {.heads = heads, .decay = SV_DECAY_CHANNEL, .scale = 1};
    const sv_sequence of_keys = sv_part_of(call, keys), of_values = sv_part_of(call, values);
    const sv_tensor *in = call->in;
    sv_tensor p;
    SV_TRY(sv_call_scratch(c, call, &p, "slot weights", s.dim[1]));
    SV_TRY(sv_decay_scan(c, p, in[Q], in[K], s, decay, SV_NONE, &first, &of_keys, false));
    SV_TRY(sv_head_map(c, p, p, heads, SV_HEAD_SOFTMAX, 1));
    return sv_decay_scan(c, call->y, p, s, in[V], decay, SV_NONE, &second, &of_values, false);
}

static sv_status run_gsa(sv_ctx *c, const sv_call *call)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor s = call->in[SLOTS];
    if (sv_is_none(s)) {
        SV_TRY(sv_call_scratch(c, call, &s, "slot inputs", call->in[G].dim[1]));
        SV_TRY(sv_map1(c, s, call->in[G], SV_MAP_one_minus_exp));
    }
    SV_TRY(two_passes(c, call, s, call->in[G], KEYS, VALUES));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static sv_status run_abc(sv_ctx *c, const sv_call *call)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor s, decay;
    const int columns = call->in[ABC_S].dim[1];
    sv_sequence shares = call->seq; /* the maxima and the sums are one state of the scan */
    if (!sv_is_none(shares.state_in)) shares.state_in = sv_columns(shares.state_in, 0, 2 * columns);
    if (!sv_is_none(shares.state_out)) shares.state_out = sv_columns(shares.state_out, 0, 2 * columns);
    SV_TRY(sv_call_scratch(c, call, &s, "slot shares", columns));
    SV_TRY(sv_call_scratch(c, call, &decay, "slot decays", columns));
    SV_TRY(sv_log_sum_scan(c, s, decay, call->in[ABC_S], &shares, false));
    SV_TRY(two_passes(c, call, s, decay, ABC_KEYS, ABC_VALUES));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port gsa_ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .map = SV_MAP_silu),
    [K] = SV_TOKEN("k", "BTHK", .map = SV_MAP_silu),
    [V] = SV_TOKEN("v", "BTHV", .map = SV_MAP_silu),
    [G] = SV_TOKEN("g", "BTHM", .map = SV_MAP_log_sigmoid, .gain = 1.0f / 8),
    [KEYS] = SV_STATE("initial_state_k", "BHKM", "final_k"),
    [VALUES] = SV_STATE("initial_state_v", "BHMV", "final_v"),
    [SLOTS] = {.kind = SV_PORT_TOKEN, .name = "s", .layout = "BTHM", .optional = true},
    SV_RESULT(0, "o", "BTHV"),
    SV_END,
};
static const sv_port abc_ports[] = {
    [ABC_Q] = SV_TOKEN("q", "BHTK", .map = SV_MAP_silu),
    [ABC_K] = SV_TOKEN("k", "BHTK", .map = SV_MAP_silu),
    [ABC_V] = SV_TOKEN("v", "BHTV", .map = SV_MAP_silu),
    [ABC_S] = SV_TOKEN("s", "BHTM", .map = SV_MAP_identity),
    [ABC_M] = SV_STATE(NULL, "BHM", NULL),
    [ABC_C] = SV_STATE(NULL, "BHM", NULL),
    [ABC_KEYS] = SV_STATE(NULL, "BHKM", NULL),
    [ABC_VALUES] = SV_STATE(NULL, "BHMV", NULL),
    SV_RESULT(0, "o", "BHTV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {SV_LETTER_COUNT, 'M', "slots", 16},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence gsa = {
    .recordings = SV_RECORDED("gsa"), .ports = gsa_ports, .letters = letters, .heads = "H", .run = run_gsa};
static const sv_recurrence abc = {
    .recordings = SV_RECORDED("abc"), .ports = abc_ports, .letters = letters, .heads = "H", .run = run_abc};
SV_CATALOGUE(gsa, "GSA", &gsa);
SV_CATALOGUE(abc, "ABC", &abc);
