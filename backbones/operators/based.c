/* SPDX-License-Identifier: Apache-2.0
 *
 * Based and ReBased (Arora et al. 2024; Aksenov et al. 2024): attention whose exponential is cut after the second order, which
 * makes it linear attention over second-order features of q and k. With s = K^-1/2 q.k:
 *
 *     Based: weight 1 + s + s^2/2;   ReBased: s^2;    o = sum weight v / (sum weight + 1e-6)
 *
 * A head has 1 + K + K(K+1)/2 features; the scan takes at most 256 key channels, so they go in slices, one after the other.
 */
#include "backbones/block.h"

#include <math.h>

enum { Q, K, V, S, Z };
enum { BASED, NOT_NORMALISED, REBASED };
enum { SLICE = 256 };

static int features_of(int keys)
{
    return 1 + keys + keys * (keys + 1) / 2;
}

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    (void)c;
    self->size['F'] = features_of(self->size['K']);
    return SV_OK;
}

/* Features first .. first+count-1: o and the sum of weights. States of a slice lie together. */
static sv_status add_slice(sv_ctx *c, const sv_call *call, sv_tensor q, sv_tensor sum, sv_tensor ones, int first, int count,
                           bool accumulate)
{
    const int heads = call->of->size['H'], values = call->of->size['V'];
    sv_decay_rule rule = {.heads = heads, .scale = call->form == REBASED ? 2 : 1}; /* s^2 is twice the last feature */
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor fq, fk;
    SV_TRY(sv_call_scratch(c, call, &fq, "features of q", heads * count));
    SV_TRY(sv_call_scratch(c, call, &fk, "features of k", heads * count));
    SV_TRY(sv_quadratic_features(c, fq, q, heads, first, count));
    SV_TRY(sv_quadratic_features(c, fk, call->in[K], heads, first, count));
    sv_sequence memory = sv_part_of(call, S), sums = sv_part_of(call, Z);
    sv_tensor *const states[] = {&memory.state_in, &memory.state_out, &sums.state_in, &sums.state_out};
    for (int i = 0; i < 4; i++) {
        const int columns = heads * (i < 2 ? values : 1);
        if (!sv_is_none(*states[i])) *states[i] = sv_columns(*states[i], first * columns, count * columns);
    }
    SV_TRY(sv_decay_scan(c, call->y, fq, fk, call->in[V], SV_NONE, SV_NONE, &rule, &memory, accumulate));
    SV_TRY(sv_decay_scan(c, sum, fq, fk, ones, SV_NONE, SV_NONE, &rule, &sums, accumulate));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const int heads = call->of->size['H'], keys = call->of->size['K'], all = features_of(keys);
    const int begin = call->form == REBASED ? 1 + keys : 0;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor q, sum, ones;
    SV_TRY(sv_call_scratch(c, call, &q, "scaled queries", call->in[Q].dim[1]));
    SV_TRY(sv_call_scratch(c, call, &sum, "sums of weights", heads));
    SV_TRY(sv_call_ones(c, call, &ones, heads));
    SV_TRY(sv_head_map(c, q, call->in[Q], 1, SV_HEAD_TIMES, (float)(1 / sqrt(keys))));
    for (int first = begin; first < all; first += SLICE)
        SV_TRY(add_slice(c, call, q, sum, ones, first, all - first < SLICE ? all - first : SLICE, first > begin));
    if (call->form != NOT_NORMALISED) SV_TRY(sv_head_scale(c, call->y, call->y, sum, true, 1e-6f));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BHTK", .map = SV_MAP_identity),
    [K] = SV_TOKEN("k", "BHTK", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BHTV", .map = SV_MAP_identity),
    [S] = SV_STATE(NULL, "BHFV", NULL),
    [Z] = SV_STATE(NULL, "BHF", NULL),
    SV_RESULT(BASED, "o", "BHTV"),
    SV_RESULT(NOT_NORMALISED, "o_nonorm", "BHTV"),
    SV_RESULT(REBASED, "o_rebased", "BHTV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_COUNT, 'K', "feature_dim", 16},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence based = {.recordings = SV_RECORDED("based"),
                                    .ports = ports,
                                    .letters = letters,
                                    .heads = "H",
                                    .prepare = prepare,
                                    .run = run};
static const sv_recurrence rebased = {
    .ports = ports, .letters = letters, .heads = "H", .form = REBASED, .prepare = prepare, .run = run};
SV_CATALOGUE(based, "Based", &based);
SV_CATALOGUE(rebased, "ReBased", &rebased);
