/* SPDX-License-Identifier: Apache-2.0
 *
 * AGaLiTe (Pramanik et al. 2023), the approximation of GaLiTe (galite.c) whose state is no matrix: the
 * products of key and value gates are unmixed by R cosines of time, w_r evenly spaced over -pi..pi, both ends
 * included, t = 1, 2 ...
 *
 *     k_r = (1 - gamma) k_r + cos(w_r t) gamma k,   v_r = (1 - beta) v_r + cos(w_r t) beta v
 *     s = (1 - gamma) s + gamma k
 *     o = sum_r v_r (k_r.q) / (2 R s.q),   per head
 *
 * The cosines repeat every 2 (R - 1) tokens, so streams are split at multiples of that (16 by default). As in
 * galite.c, a block has plain projections with elu + 1 for q and k.
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>

enum { Q, K, V, GAMMA, BETA, KS, VS, SUM };

typedef struct waves {
    sv_tensor cosines; /* [period, R] */
} waves;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    const int count = self->size['R'], period = count > 1 ? 2 * (count - 1) : 2;
    float *table = malloc(sizeof *table * (size_t)period * (size_t)count);
    SV_CHECK(c, table, SV_NO_MEMORY, "no memory for %d waves", count);
    const double pi = acos(-1);
    for (int t = 0; t < period; t++)
        for (int r = 0; r < count; r++)
            table[t * count + r] = (float)cos((t + 1) * (count > 1 ? 2 * pi * r / (count - 1) - pi : -pi));
    const sv_status status =
        sv_weight_upload(c, &SV_PREPARED(waves, self)->cosines, sv_view(table, SV_F32, period, count));
    free(table);
    return status;
}

/* The part of wave 'r' of a state of R times 'columns'. */
static sv_sequence wave_of(const sv_call *call, int port, int r, int columns)
{
    sv_sequence seq = sv_part_of(call, port);
    if (!sv_is_none(seq.state_in)) seq.state_in = sv_columns(seq.state_in, r * columns, columns);
    if (!sv_is_none(seq.state_out)) seq.state_out = sv_columns(seq.state_out, r * columns, columns);
    return seq;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const int count = call->of->size['R'], heads = call->of->size['H'], keys = in[K].dim[1],
              values = in[V].dim[1];
    const sv_sequence sums = sv_part_of(call, SUM);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor k, v, keep_k, keep_v, wave, cosines, match, below;
    SV_TRY(sv_call_scratch(c, call, &k, "agalite keys", keys));
    SV_TRY(sv_call_scratch(c, call, &v, "agalite values", values));
    SV_TRY(sv_call_scratch(c, call, &keep_k, "agalite key decay", keys));
    SV_TRY(sv_call_scratch(c, call, &keep_v, "agalite value decay", values));
    SV_TRY(sv_call_scratch(c, call, &wave, "agalite wave", keys > values ? keys : values));
    SV_TRY(sv_call_scratch(c, call, &cosines, "agalite cosines", count));
    SV_TRY(sv_call_scratch(c, call, &match, "agalite match", heads));
    SV_TRY(sv_call_scratch(c, call, &below, "agalite sums", heads));
    const sv_tensor of_keys = sv_columns(wave, 0, keys), of_values = sv_columns(wave, 0, values);
    SV_TRY(sv_place_rows(c, cosines, SV_PREPARED_CONST(waves, call->of)->cosines, &call->seq));
    SV_TRY(sv_map2(c, k, in[K], in[GAMMA], SV_MAP_mul));
    SV_TRY(sv_map2(c, v, in[V], in[BETA], SV_MAP_mul));
    SV_TRY(sv_map1(c, keep_k, in[GAMMA], SV_MAP_one_minus));
    SV_TRY(sv_map1(c, keep_v, in[BETA], SV_MAP_one_minus));
    SV_TRY(sv_diagonal_scan(c, of_keys, k, keep_k, false, false, &sums));
    SV_TRY(sv_head_dot(c, below, of_keys, in[Q], SV_NONE));
    SV_TRY(sv_fill(c, call->y, 0));
    for (int r = 0; r < count; r++) {
        const sv_sequence key_part = wave_of(call, KS, r, keys), value_part = wave_of(call, VS, r, values);
        const sv_tensor cosine = sv_columns(cosines, r, 1);
        SV_TRY(sv_head_scale(c, of_keys, k, cosine, false, 0));
        SV_TRY(sv_diagonal_scan(c, of_keys, of_keys, keep_k, false, false, &key_part));
        SV_TRY(sv_head_dot(c, match, of_keys, in[Q], SV_NONE));
        SV_TRY(sv_head_scale(c, of_values, v, cosine, false, 0));
        SV_TRY(sv_diagonal_scan(c, of_values, of_values, keep_v, false, false, &value_part));
        SV_TRY(sv_head_scale(c, of_values, of_values, match, false, 0));
        SV_TRY(sv_map2(c, call->y, call->y, of_values, SV_MAP_add));
    }
    SV_TRY(sv_head_map(c, below, below, 1, SV_HEAD_TIMES, 2.0f * (float)count));
    SV_TRY(sv_head_scale(c, call->y, call->y, below, true, 1e-10f));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .map = SV_MAP_elu_one),
    [K] = SV_TOKEN("k", "BTHK", .map = SV_MAP_elu_one),
    [V] = SV_TOKEN("v", "BTHV", .map = SV_MAP_identity),
    [GAMMA] = SV_TOKEN("gamma", "BTHK", .map = SV_MAP_sigmoid),
    [BETA] = SV_TOKEN("beta", "BTHV", .map = SV_MAP_sigmoid),
    [KS] = SV_STATE("k0", "BRHK", "k_waves"),
    [VS] = SV_STATE("v0", "BRHV", "v_waves"),
    [SUM] = SV_STATE("s0", "BHK", "s"),
    SV_RESULT(0, "o", "BTHV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {SV_LETTER_COUNT, 'R', "waves", 9},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("agalite"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .prepare = prepare,
                                         .run = run};
SV_CATALOGUE(agalite, "AGaLiTe", &recurrence);
