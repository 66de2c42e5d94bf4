/* SPDX-License-Identifier: Apache-2.0
 *
 * RWKV-7 ("Goose", Peng et al. 2025), the whole time-mixing layer as RWKV-LM's reference has it; x' is the token before.
 *
 *     x_i = x + (x' - x) m_i                                                     i = r, w, k, v, a, g
 *     r = Wr x_r,  k = Wk x_k,  v = Wv x_v
 *     log w = -e^(-1/2) sigmoid(w_bias + tanh(x_w Ww1) Ww2),  a = sigmoid(a_bias + x_a Wa1 Wa2),  g = sigmoid(x_g Wg1) Wg2
 *     kk = unit(k k_k) per head,  k = k (1 + (a - 1) k_a),  v += (v_first - v) sigmoid(v_bias + x_v Wv1 Wv2)
 *     S_t = diag(w) S_(t-1) + (kk a)(S_(t-1)'(-kk))' + k v',  y = S'r
 *     o = Wo ((GroupNorm(y) + (sum_j r_j k_j r_k_j) v) g)
 *
 * v_first is the first layer's v; a block has no layer before it and takes the form without (that of the first layer).
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>

enum {
    X,
    FIRST,
    BEFORE,
    STATE,
    MR,
    MW,
    MK,
    MV,
    MA,
    MG,
    WR,
    WK,
    WV,
    WO,
    WW1,
    WW2,
    WA1,
    WA2,
    WG1,
    WG2,
    WV1,
    WV2,
    W_BIAS,
    A_BIAS,
    V_BIAS,
    K_K,
    K_A,
    R_K,
    LN_W,
    LN_B,
    FULL,
    FIRST_LAYER,
    END
};
enum { WITH_FIRST, WITHOUT };
enum { MIX_R, MIX_W, MIX_K, MIX_V, MIX_A, MIX_G, MIXTURES };

typedef struct layer {
    sv_tensor taps[MIXTURES], zeros; /* [C,2] */
    sv_tensor k_a;                   /* [1,C] */
    sv_linear_weights r, k, v, o, w1, w2, a1, a2, g1, g2, v1, v2;
} layer;

static sv_status prepare_taps(sv_ctx *c, sv_tensor *out, sv_tensor mix, int channels)
{
    float *taps = malloc(2 * (size_t)channels * sizeof *taps);
    SV_CHECK(c, taps, SV_NO_MEMORY, "no memory for mixtures");
    for (int i = 0; i < channels; i++) {
        taps[2 * i] = sv_f32(mix)[i];
        taps[2 * i + 1] = 1 - sv_f32(mix)[i];
    }
    const sv_status status = sv_weight_upload(c, out, sv_view(taps, SV_F32, channels, 2));
    free(taps);
    return status;
}

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    layer *m = SV_PREPARED(layer, self);
    const int channels = self->size['C'];
    const int mixes[] = {MR, MW, MK, MV, MA, MG};
    const bool has_first = !sv_is_none(self->host[WV1]);
    _Static_assert(sizeof *m <= SV_PREPARED_BYTES, "room for the layer");
    SV_CHECK(c, channels % self->size['H'] == 0, SV_BAD_SHAPE, "%d channels do not divide into %d heads",
             channels, self->size['H']);
    self->size['K'] = self->size['V'] = channels / self->size['H'];
    for (int i = 0; i < MIXTURES; i++) SV_TRY(prepare_taps(c, &m->taps[i], self->host[mixes[i]], channels));
    float *zeros = calloc((size_t)channels, sizeof *zeros);
    SV_CHECK(c, zeros, SV_NO_MEMORY, "no memory for zeros");
    const sv_status status = sv_prepare_row(c, &m->zeros, zeros, channels);
    free(zeros);
    SV_TRY(status);
    SV_TRY(sv_prepare_row(c, &m->k_a, sv_f32(self->host[K_A]), channels));
    SV_TRY(sv_prepare_port(c, self, &m->r, WR, -1, false));
    SV_TRY(sv_prepare_port(c, self, &m->k, WK, -1, false));
    SV_TRY(sv_prepare_port(c, self, &m->v, WV, -1, false));
    SV_TRY(sv_prepare_port(c, self, &m->o, WO, -1, false));
    SV_TRY(sv_prepare_port(c, self, &m->w1, WW1, -1, true));
    SV_TRY(sv_prepare_port(c, self, &m->w2, WW2, W_BIAS, true));
    SV_TRY(sv_prepare_port(c, self, &m->a1, WA1, -1, true));
    SV_TRY(sv_prepare_port(c, self, &m->a2, WA2, A_BIAS, true));
    SV_TRY(sv_prepare_port(c, self, &m->g1, WG1, -1, true));
    SV_TRY(sv_prepare_port(c, self, &m->g2, WG2, -1, true));
    if (!has_first) return SV_OK;
    SV_TRY(sv_prepare_port(c, self, &m->v1, WV1, -1, true));
    return sv_prepare_port(c, self, &m->v2, WV2, V_BIAS, true);
}

/* out = map(second(inner(first x))) */
static sv_status low_rank(sv_ctx *c, const sv_call *call, sv_tensor out, sv_tensor x,
                          const sv_linear_weights *first, sv_map inner, const sv_linear_weights *second,
                          sv_map map)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor low;
    SV_TRY(sv_call_scratch(c, call, &low, "rwkv7 low rank", first->n));
    SV_TRY(sv_linear(c, low, x, SV_NONE, first, inner));
    SV_TRY(sv_linear(c, out, low, SV_NONE, second, map));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

typedef struct streams {
    sv_tensor r, w, k, v, a, g, kk;
} streams;

static sv_status project(sv_ctx *c, const sv_call *call, const layer *m, const streams *s, sv_tensor mixed,
                         sv_tensor extra)
{
    sv_tensor x[MIXTURES];
    const int channels = call->of->size['C'], heads = call->of->size['H'];
    sv_sequence shift = sv_part_of(call, BEFORE);
    const sv_tensor last = shift.state_out;
    shift.state_out = SV_NONE; /* written once, after all have read the one before */
    for (int i = 0; i < MIXTURES; i++) {
        x[i] = sv_columns(mixed, i * channels, channels);
        if (i == MIXTURES - 1) shift.state_out = last;
        SV_TRY(sv_causal_conv(c, x[i], call->in[X], m->taps[i], m->zeros, &shift, SV_MAP_identity));
    }
    SV_TRY(sv_linear(c, s->r, x[MIX_R], SV_NONE, &m->r, SV_MAP_identity));
    SV_TRY(sv_linear(c, s->k, x[MIX_K], SV_NONE, &m->k, SV_MAP_identity));
    SV_TRY(sv_linear(c, s->v, x[MIX_V], SV_NONE, &m->v, SV_MAP_identity));
    SV_TRY(low_rank(c, call, s->w, x[MIX_W], &m->w1, SV_MAP_tanh, &m->w2, SV_MAP_sigmoid));
    SV_TRY(sv_head_map(c, s->w, s->w, 1, SV_HEAD_TIMES, (float)-exp(-0.5)));
    SV_TRY(low_rank(c, call, s->a, x[MIX_A], &m->a1, SV_MAP_identity, &m->a2, SV_MAP_sigmoid));
    SV_TRY(low_rank(c, call, s->g, x[MIX_G], &m->g1, SV_MAP_sigmoid, &m->g2, SV_MAP_identity));
    SV_TRY(sv_column_scale(c, s->kk, s->k, call->in[K_K], SV_NONE));
    SV_TRY(sv_head_map(c, s->kk, s->kk, heads, SV_HEAD_LIMITED, 1e-12f));
    SV_TRY(sv_map1(c, extra, s->a, SV_MAP_one_minus)); /* k (1 - (1 - a) k_a) */
    SV_TRY(sv_map2(c, extra, extra, s->k, SV_MAP_mul));
    SV_TRY(sv_column_scale(c, extra, extra, m->k_a, SV_NONE));
    SV_TRY(sv_map2(c, s->k, s->k, extra, SV_MAP_sub));
    if (call->form == WITHOUT) return SV_OK;
    SV_TRY(low_rank(c, call, extra, x[MIX_V], &m->v1, SV_MAP_identity, &m->v2, SV_MAP_sigmoid));
    const sv_tensor difference = x[MIX_R]; /* no longer needed */
    SV_TRY(sv_map2(c, difference, call->in[FIRST], s->v, SV_MAP_sub));
    SV_TRY(sv_map2(c, extra, extra, difference, SV_MAP_mul));
    return sv_map2(c, s->v, s->v, extra, SV_MAP_add);
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const layer *m = SV_PREPARED_CONST(layer, call->of);
    const int channels = call->of->size['C'], heads = call->of->size['H'];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor mixed, all, bonus;
    SV_TRY(sv_call_scratch(c, call, &mixed, "rwkv7 mixtures", MIXTURES * channels));
    SV_TRY(sv_call_scratch(c, call, &all, "rwkv7 streams", 8 * channels));
    SV_TRY(sv_call_scratch(c, call, &bonus, "rwkv7 bonus", heads));
    sv_tensor part[8];
    for (int i = 0; i < 8; i++) part[i] = sv_columns(all, i * channels, channels);
    const streams s = {part[0], part[1], part[2], part[3], part[4], part[5], part[6]};
    SV_TRY(project(c, call, m, &s, mixed, part[7]));

    const sv_tensor back = s.a, minus = part[7], y = sv_columns(mixed, 0, channels);
    SV_TRY(sv_map2(c, back, s.kk, s.a, SV_MAP_mul));
    SV_TRY(sv_head_map(c, minus, s.kk, 1, SV_HEAD_TIMES, -1));
    const sv_delta_inputs inputs = {.q = s.r, .k = s.k, .v = s.v, .decay = s.w, .a = minus, .b = back};
    const sv_delta_rule rule = {.heads = heads, .steps = 1, .decay = SV_DECAY_CHANNEL, .scale = 1};
    const sv_sequence memory = sv_part_of(call, STATE);
    SV_TRY(sv_delta_scan(c, y, &inputs, &rule, &memory));

    const sv_head_norm_spec norm = {
        .groups = heads, .centred = true, .eps = 64e-5f, .weight = call->in[LN_W], .bias = call->in[LN_B]};
    SV_TRY(sv_head_norm(c, y, y, SV_NONE, &norm));
    SV_TRY(sv_head_dot(c, bonus, s.r, s.k, call->in[R_K]));
    SV_TRY(sv_head_scale(c, minus, s.v, bonus, false, 0));
    SV_TRY(sv_map2(c, y, y, minus, SV_MAP_add));
    SV_TRY(sv_map2(c, y, y, s.g, SV_MAP_mul));
    SV_TRY(sv_linear(c, call->y, y, SV_NONE, &m->o, SV_MAP_identity));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

#define SHARE .init = {SV_INIT_UNIFORM, 0, 1}
#define SMALL .init = {SV_INIT_NORMAL, 0, 0.02f}
static const sv_port ports[] = {
    [X] = SV_TOKEN("x", "TC", .input = true),
    [FIRST] = {.kind = SV_PORT_TOKEN, .name = "v_first", .layout = "TC", .optional = true},
    [BEFORE] = SV_STATE("x_prev", "C", NULL),
    [STATE] = SV_STATE("S0", "HVK", "S_%s", .core = "HKV"),
    [MR] = SV_WEIGHT("mr", "C", NULL, "1C", SHARE),
    [MW] = SV_WEIGHT("mw", "C", NULL, "1C", SHARE),
    [MK] = SV_WEIGHT("mk", "C", NULL, "1C", SHARE),
    [MV] = SV_WEIGHT("mv", "C", NULL, "1C", SHARE),
    [MA] = SV_WEIGHT("ma", "C", NULL, "1C", SHARE),
    [MG] = SV_WEIGHT("mg", "C", NULL, "1C", SHARE),
    [WR] = SV_WEIGHT("Wr", "CC", .fan_in = true),
    [WK] = SV_WEIGHT("Wk", "CC", .fan_in = true),
    [WV] = SV_WEIGHT("Wv", "CC", .fan_in = true),
    [WO] = SV_WEIGHT("Wo", "CC", .damped = true, .fan_in = true),
    [WW1] = SV_WEIGHT("Ww1", "CW", SMALL),
    [WW2] = SV_WEIGHT("Ww2", "WC", SMALL),
    [WA1] = SV_WEIGHT("Wa1", "CA", SMALL),
    [WA2] = SV_WEIGHT("Wa2", "AC", SMALL),
    [WG1] = SV_WEIGHT("Wg1", "CG", .fan_in = true),
    [WG2] = SV_WEIGHT("Wg2", "GC", .fan_in = true),
    [WV1] = SV_WEIGHT("Wv1", "CM", .optional = true),
    [WV2] = SV_WEIGHT("Wv2", "MC", .optional = true),
    [W_BIAS] = SV_WEIGHT("w_bias", "C", NULL, "1C", .init = {SV_INIT_UNIFORM, -6, 1}),
    [A_BIAS] = SV_WEIGHT("a_bias", "C", NULL, "1C", .init = {SV_INIT_CONSTANT, 0, 0}),
    [V_BIAS] = SV_WEIGHT("v_bias", "C", NULL, "1C", .optional = true),
    [K_K] = SV_WEIGHT("k_k", "C", NULL, "1C", .init = {SV_INIT_CONSTANT, 0.85f, 0}),
    [K_A] = SV_WEIGHT("k_a", "C", NULL, "1C", .init = {SV_INIT_CONSTANT, 1, 0}),
    [R_K] = SV_WEIGHT("r_k", "HK", .init = {SV_INIT_NORMAL, 0, 0.1f}),
    [LN_W] = SV_WEIGHT("ln_w", "C", NULL, "1C", .init = {SV_INIT_CONSTANT, 1, 0}),
    [LN_B] = SV_WEIGHT("ln_b", "C", NULL, "1C", .init = {SV_INIT_CONSTANT, 0, 0}),
    [FULL] = SV_RESULT(WITH_FIRST, "o", "TC"),
    [FIRST_LAYER] = SV_RESULT(WITHOUT, "o_layer0", "TC"),
    [END] = SV_END,
};
static const sv_letter letters[] = {
    {SV_LETTER_COUNT, 'H', "n_head", 4},  {SV_LETTER_SHARE, 'C', NULL, 1},
    {SV_LETTER_PER_HEAD, 'K', NULL, 1},   {SV_LETTER_PER_HEAD, 'V', NULL, 1},
    {SV_LETTER_COUNT, 'W', "rank_w", 32}, {SV_LETTER_COUNT, 'A', "rank_a", 32},
    {SV_LETTER_COUNT, 'G', "rank_g", 64}, {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("rwkv7_timemix"),
                                         .ports = ports,
                                         .letters = letters,
                                         .form = WITHOUT,
                                         .finish = SV_FINISH_DIRECT,
                                         .prepare = prepare,
                                         .run = run};
SV_CATALOGUE(rwkv7, "RWKV7", &recurrence);
