/* SPDX-License-Identifier: Apache-2.0
 *
 * JRT-RNN's prefix linear attention (Arora et al. 2024, "Just read twice"): a first pass sums the whole group without a mask, with keys
 * and values of its own; the second reads causally on top of it.
 *
 *     o_t = phi(q)'(sum_all k^e v^e' + sum_(s<=t) k_s v_s') / (phi(q)'(sum_all k^e + sum_(s<=t) k_s) + 1e-10),   phi = elu + 1
 *
 * q, k and k^e have phi applied. Every token sees its whole group: nothing is carried from group to group.
 */
#include "backbones/block.h"

enum { Q, K, V, KE, VE };

static sv_status sum_group(sv_ctx *c, const sv_call *call, sv_tensor unread, sv_tensor k, sv_tensor v,
                           sv_tensor total)
{
    const sv_decay_rule rule = {.heads = call->of->size['H'], .scale = 1};
    const sv_sequence seq = {.length = call->seq.length, .reverse = call->seq.reverse, .state_out = total};
    return sv_decay_scan(c, unread, call->in[Q], k, v, SV_NONE, SV_NONE, &rule, &seq, false);
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const int *size = call->of->size, heads = size['H'], groups = call->y.dim[0] / call->seq.length;
    const sv_decay_rule rule = {.heads = heads, .scale = 1};
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor ones, sum, memory, weights;
    sv_sequence seq = {.length = call->seq.length, .reverse = call->seq.reverse};
    SV_TRY(sv_call_ones(c, call, &ones, heads));
    SV_TRY(sv_call_scratch(c, call, &sum, "jrt weights", heads));
    SV_TRY(
        sv_scratch_alloc(c, &memory, "jrt memory", SV_F32, groups, heads * size['K'] * size['V'], SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &weights, "jrt sums", SV_F32, groups, heads * size['K'], SV_NONE));
    SV_TRY(sum_group(c, call, call->y, in[KE], in[VE], memory));
    SV_TRY(sum_group(c, call, sum, in[KE], ones, weights));
    seq.state_in = memory;
    SV_TRY(sv_decay_scan(c, call->y, in[Q], in[K], in[V], SV_NONE, SV_NONE, &rule, &seq, false));
    seq.state_in = weights;
    SV_TRY(sv_decay_scan(c, sum, in[Q], in[K], ones, SV_NONE, SV_NONE, &rule, &seq, false));
    SV_TRY(sv_head_scale(c, call->y, call->y, sum, true, 1e-10f));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .map = SV_MAP_elu_one),
    [K] = SV_TOKEN("k", "BTHK", .map = SV_MAP_elu_one),
    [V] = SV_TOKEN("v", "BTHV", .map = SV_MAP_identity),
    [KE] = SV_TOKEN("k_encoder", "BTHK", .map = SV_MAP_elu_one),
    [VE] = SV_TOKEN("v_encoder", "BTHV", .map = SV_MAP_identity),
    SV_RESULT(0, "o", "BTHV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("jrt"), .ports = ports, .letters = letters, .heads = "H", .run = run};
SV_CATALOGUE(jrt, "JRT", &recurrence);
