/* SPDX-License-Identifier: Apache-2.0
 *
 * Cottention (Mongaras et al. 2024): cosine attention without a softmax; q and k of unit length, values divided by a power
 * of their place instead of a sum of weights.
 *
 *     S_t = S_(t-1) + k_t (v_t / t^sigmoid(m))',  o = q'S;   for the whole group: v / T^sigmoid(m), every token sees all
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>

enum { Q, K, V, M, PLACE, S };
enum { CAUSAL, WHOLE };

typedef struct exponents {
    sv_tensor of_head; /* [1, H] sigmoid(m) */
} exponents;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    const int heads = self->size['H'];
    float *power = malloc((size_t)heads * sizeof *power);
    SV_CHECK(c, power, SV_NO_MEMORY, "no memory for exponents");
    for (int h = 0; h < heads; h++) power[h] = (float)(1 / (1 + exp(-(double)sv_f32(self->host[M])[h])));
    const sv_status status = sv_prepare_row(c, &SV_PREPARED(exponents, self)->of_head, power, heads);
    free(power);
    return status;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const int heads = call->of->size['H'];
    const bool whole = call->form == WHOLE;
    sv_decay_rule rule = {.heads = heads, .scale = 1};
    const sv_tensor *in = call->in;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_sequence place = sv_part_of(call, PLACE), memory = sv_part_of(call, S);
    if (whole) place.state_in = place.state_out = memory.state_in = memory.state_out = SV_NONE;
    sv_tensor q, k, v, power;
    SV_TRY(sv_call_scratch(c, call, &q, "unit queries", in[Q].dim[1]));
    SV_TRY(sv_call_scratch(c, call, &k, "unit keys", in[K].dim[1]));
    SV_TRY(sv_call_scratch(c, call, &v, "divided values", in[V].dim[1]));
    SV_TRY(sv_call_scratch(c, call, &power, "powers", heads));
    SV_TRY(sv_head_map(c, q, in[Q], heads, SV_HEAD_LIMITED, 1e-12f));
    SV_TRY(sv_head_map(c, k, in[K], heads, SV_HEAD_LIMITED, 1e-12f));
    SV_TRY(sv_position_power(c, power, SV_PREPARED_CONST(exponents, call->of)->of_head, whole, &place));
    SV_TRY(sv_head_scale(c, v, in[V], power, false, 0));
    SV_TRY(sv_decay_scan(c, call->y, q, k, v, SV_NONE, SV_NONE, &rule, &memory, false));
    if (whole) {
        rule.read = SV_READ_BEFORE;
        memory.reverse = !memory.reverse;
        SV_TRY(sv_decay_scan(c, call->y, q, k, v, SV_NONE, SV_NONE, &rule, &memory, true));
    }
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .map = SV_MAP_identity),
    [K] = SV_TOKEN("k", "BTHK", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BTHV", .map = SV_MAP_identity),
    [M] = SV_WEIGHT("m", "H", .init = {SV_INIT_CONSTANT, 0.5f, 0}),
    [PLACE] = SV_STATE(NULL, "B", NULL),
    [S] = SV_STATE(NULL, "BHKV", NULL),
    SV_RESULT(CAUSAL, "o", "BTHV"),
    SV_RESULT(WHOLE, "o_bidirectional", "BTHV", .fresh = true),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("cottention"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .whole = WHOLE,
                                         .prepare = prepare,
                                         .run = run};
SV_CATALOGUE(cottention, "Cottention", &recurrence);
