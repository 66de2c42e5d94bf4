/* SPDX-License-Identifier: Apache-2.0
 *
 * Restore-RWKV's repeated bidirectional WKV (Yang et al. 2024; Bi-WKV after Duan et al. 2024), R times over the group, each time
 * with the last result as values. Per channel, T the length of the group:
 *
 *     y_t = (sum_(i != t) e^(k_i - w (|t-i| - 1)/T) v_i + e^(k_t + u/T) v_t) / (the same without v);   block: times sigmoid(r)
 *
 * (Images alternate between scans along rows and columns; LION's layers alternate the groups' order instead.) A shared factor of a
 * channel falls out of the quotient, so e^k is taken relative to the whole group's sum. Both walks are diagonal scans.
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>

enum { K, V, R, W, U };

/* [1, D]; depend on the length of a group */
static sv_status constants(sv_ctx *c, const sv_call *call, int repeat, sv_tensor *keep, sv_tensor *bonus)
{
    const int d = call->of->size['D'];
    const float share = 1.0f / (float)call->seq.length;
    const sv_tensor w = sv_view(sv_f32(call->in[W]) + repeat * d, SV_F32, 1, d),
                    u = sv_view(sv_f32(call->in[U]) + repeat * d, SV_F32, 1, d);
    SV_TRY(sv_scratch_alloc(c, keep, "wkv decay", SV_F32, 1, d, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, bonus, "wkv bonus", SV_F32, 1, d, SV_NONE));
    SV_TRY(sv_head_map(c, *keep, w, 1, SV_HEAD_TIMES, -share));
    SV_TRY(sv_map1(c, *keep, *keep, SV_MAP_exp));
    SV_TRY(sv_head_map(c, *bonus, u, 1, SV_HEAD_TIMES, share));
    return sv_map1(c, *bonus, *bonus, SV_MAP_exp);
}

/* sum = bonus x + what the tokens before and after leave of x, the nearest of them undiminished */
static sv_status both_ways(sv_ctx *c, const sv_call *call, sv_tensor sum, sv_tensor x, sv_tensor keep,
                           sv_tensor bonus, sv_tensor walked, sv_tensor shifted, const sv_tensor *shift)
{
    SV_TRY(sv_column_scale(c, sum, x, bonus, SV_NONE));
    for (int back = 0; back < 2; back++) {
        const sv_sequence seq = {.length = call->seq.length, .reverse = back == 1};
        SV_TRY(sv_diagonal_scan(c, walked, x, keep, false, false, &seq));
        SV_TRY(sv_causal_conv(c, shifted, walked, shift[0], shift[1], &seq, SV_MAP_identity));
        SV_TRY(sv_map2(c, sum, sum, shifted, SV_MAP_add));
    }
    return SV_OK;
}

typedef struct shift {
    sv_tensor taps, zeros; /* of the token before 1, of the token 0 */
} shift_weights;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    const int d = self->size['D'];
    shift_weights *m = SV_PREPARED(shift_weights, self);
    float *rows = calloc(3 * (size_t)d, sizeof *rows);
    SV_CHECK(c, rows, SV_NO_MEMORY, "no memory for a shift");
    for (int i = 0; i < d; i++) rows[2 * i] = 1;
    sv_status status = sv_weight_upload(c, &m->taps, sv_view(rows, SV_F32, d, 2));
    if (status == SV_OK) status = sv_prepare_row(c, &m->zeros, rows + 2 * d, d);
    free(rows);
    return status;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const shift_weights *m = SV_PREPARED_CONST(shift_weights, call->of);
    const sv_tensor shift[] = {m->taps, m->zeros};
    const sv_sequence seq = {.length = call->seq.length};
    const int d = call->of->size['D'];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor weight, x, above, below, walked, shifted;
    SV_TRY(sv_call_scratch(c, call, &weight, "wkv weight", d));
    SV_TRY(sv_call_scratch(c, call, &x, "wkv weighted", d));
    SV_TRY(sv_call_scratch(c, call, &above, "wkv sum", d));
    SV_TRY(sv_call_scratch(c, call, &below, "wkv weights", d));
    SV_TRY(sv_call_scratch(c, call, &walked, "wkv walked", d));
    SV_TRY(sv_call_scratch(c, call, &shifted, "wkv shifted", d));
    SV_TRY(sv_log_sum_scan(c, weight, SV_NONE, call->in[K], &seq, true));
    for (int repeat = 0; repeat < call->of->size['N']; repeat++) {
        sv_tensor keep, bonus;
        SV_TRY(constants(c, call, repeat, &keep, &bonus));
        SV_TRY(sv_map2(c, x, weight, repeat == 0 ? call->in[V] : call->y, SV_MAP_mul));
        SV_TRY(both_ways(c, call, above, x, keep, bonus, walked, shifted, shift));
        SV_TRY(both_ways(c, call, below, weight, keep, bonus, walked, shifted, shift));
        SV_TRY(sv_map2(c, call->y, above, below, SV_MAP_div));
    }
    if (!sv_is_none(call->in[R])) SV_TRY(sv_map2(c, call->y, call->y, call->in[R], SV_MAP_mul));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [K] = SV_TOKEN("k", "BTD", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BTD", .map = SV_MAP_identity),
    [R] = SV_TOKEN("r", "BTD", .map = SV_MAP_sigmoid),
    [W] = SV_WEIGHT("spatial_decay", "ND", .init = {SV_INIT_UNIFORM, 0, 8}),
    [U] = SV_WEIGHT("spatial_first", "ND", .init = {SV_INIT_NORMAL, 0, 1}),
    SV_RESULT(0, "o", "BTD"),
    SV_END,
};
static const sv_letter letters[] = {
    {SV_LETTER_SHARE, 'D', "expand", 1}, {SV_LETTER_COUNT, 'N', "repeats", 2}, {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("re_wkv"), .ports = ports, .letters = letters, .prepare = prepare, .run = run};
SV_CATALOGUE(re_wkv, "ReWKV", &recurrence);
