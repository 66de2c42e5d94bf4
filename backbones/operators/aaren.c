/* SPDX-License-Identifier: Apache-2.0
 *
 * Aaren, attention as an RNN (Feng et al. 2024): one learned query per head asks all tokens so far. The scan's element is
 * (m, c, a): the greatest score, the sum of e^(s - m), and that of e^(s - m) v; o = a / c.
 *
 *     s_t = K^-1/2 q.k_t,  o_t = sum_(s<=t) e^s_s v_s / sum e^s_s
 *
 * Here the mean a / c is carried instead of a, as linear attention with one key channel whose decay the log-sum-exp gives.
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>

enum { Q, K, V, M, C, MEAN };

typedef struct query {
    sv_linear_weights scores; /* H*K -> H, each head's own q */
} query;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    const int heads = self->size['H'], keys = self->size['K'], width = heads * keys;
    float *w = calloc((size_t)heads * (size_t)width, sizeof *w);
    SV_CHECK(c, w, SV_NO_MEMORY, "no memory for queries");
    for (int h = 0; h < heads; h++)
        for (int j = 0; j < keys; j++)
            w[h * width + h * keys + j] = (float)((double)sv_f32(self->host[Q])[h * keys + j] / sqrt(keys));
    const sv_status status =
        sv_linear_prepare(c, &SV_PREPARED(query, self)->scores, sv_view(w, SV_F32, heads, width), SV_NONE);
    free(w);
    return status;
}

/* a = c times the mean, for the probe */
static sv_status show(sv_ctx *c, const sv_call *call)
{
    const int heads = call->of->size['H'], groups = call->seq.state_out.dim[0];
    sv_tensor a;
    SV_TRY(sv_scratch_alloc(c, &a, "weighted sums", SV_F32, groups, heads * call->of->size['V'], SV_NONE));
    SV_TRY(sv_head_scale(c, a, sv_part_of(call, MEAN).state_out, sv_part_of(call, C).state_out, false, 0));
    return sv_probe(c, "a", a);
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const int heads = call->of->size['H'];
    const sv_decay_rule rule = {.heads = heads, .decay = SV_DECAY_TOKEN, .scale = 1};
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor score, weight, decay, ones;
    SV_TRY(sv_call_scratch(c, call, &score, "scores", heads));
    SV_TRY(sv_call_scratch(c, call, &weight, "shares", heads));
    SV_TRY(sv_call_scratch(c, call, &decay, "decays", heads));
    SV_TRY(sv_call_ones(c, call, &ones, heads));
    sv_sequence shares = call->seq; /* m and c are one state of the scan */
    const sv_sequence mean = sv_part_of(call, MEAN);
    if (!sv_is_none(shares.state_in)) shares.state_in = sv_columns(shares.state_in, 0, 2 * heads);
    if (!sv_is_none(shares.state_out)) shares.state_out = sv_columns(shares.state_out, 0, 2 * heads);
    SV_TRY(sv_linear(c, score, call->in[K], SV_NONE, &SV_PREPARED_CONST(query, call->of)->scores,
                     SV_MAP_identity));
    SV_TRY(sv_log_sum_scan(c, weight, decay, score, &shares, false));
    SV_TRY(sv_decay_scan(c, call->y, ones, weight, call->in[V], decay, SV_NONE, &rule, &mean, false));
    if (sv_probing(c) && !sv_is_none(call->seq.state_out)) SV_TRY(show(c, call));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [Q] = SV_WEIGHT("q", "HK", .init = {SV_INIT_NORMAL, 0, 1}),
    [K] = SV_TOKEN("k", "BTHK", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BTHV", .map = SV_MAP_identity),
    [M] = SV_STATE(NULL, "BH", "m"),
    [C] = SV_STATE(NULL, "BH", "c"),
    [MEAN] = SV_STATE(NULL, "BHV", NULL),
    SV_RESULT(0, "o", "BTHV"),
    SV_SHOWN(0, "a", "BHV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("aaren"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .prepare = prepare,
                                         .run = run};
SV_CATALOGUE(aaren, "Aaren", &recurrence);
