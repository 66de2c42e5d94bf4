/* SPDX-License-Identifier: Apache-2.0
 *
 * RWKV-6 as LION's group operator (Peng et al., "Eagle and Finch", 2024; LION's block: the scan runs both
 * ways, the token shift one way). With p the token before x in its group, zero for the first:
 *
 *     x = LayerNorm(x) in the network's first block only
 *     n = LayerNorm(x);  t = tanh(W1 (n + (p - n) maa_x)), five parts of 32
 *     x_i = n + (p - n) (maa_i + W2_i t_i),   i = w, k, v, r, g                      S slots from here
 *     r = R x_r,  k = K x_k,  v = V x_v,  log decay = -e^(time_decay + D2 tanh(D1 x_w))
 *     o_t = r_t'(sum over s < t of decay_(s+1..t-1) k_s v_s' + diag(faaaa) k_t v_t' + the same over s > t)
 *     x += gamma1 O (GroupNorm(o) SiLU(G x_g))            N rows again, norm per head
 *     n = LayerNorm(x);  x_k = n m_k + (p - n)(1 - m_k),  x_r with m_r alike
 *     x += gamma2 sigmoid(R x_r) * (V relu(K x_k)^2)
 *
 * Widths: C channels in n_head heads, hidden hidden_rate*C. A mixture with fixed weights is a causal
 * convolution of two taps. gamma1 and gamma2 are there when init_values is set; they are multiplied into O
 * and V.
 */
#include "backbones/operator.h"

#include <stdlib.h>
#include <string.h>

static const float NORM_EPS = 1e-5f;
enum { MIX_RANK = 32, DECAY_RANK = 64 }; /* constants of the official code */
enum { MIX_W, MIX_K, MIX_V, MIX_R, MIX_G, MIXTURES };

/* What a layer's result is before gamma scales it: for a probe. */
typedef struct plain_weights {
    sv_linear_weights output, ffn_value;
} plain_weights;

typedef struct rwkv {
    bool first; /* the network's first block */
    sv_rwkv_weights w;
    sv_tensor zeros; /* [C] */
    plain_weights plain;
} rwkv;

/* ---- binding ------------------------------------------------------------------------------------------ */

static const sv_init share = {SV_INIT_UNIFORM, 0, 1};
static const sv_init small = {SV_INIT_UNIFORM, -0.1f, 0.1f};
/* 'savanna init': the official 1e-5 would make every block the identity */
static const sv_init damping = {SV_INIT_UNIFORM, 0.1f, 0.3f};

static sv_status bind_norm(sv_binder *b, sv_rwkv_norm *out, const char *weight, const char *bias,
                           int channels)
{
    SV_TRY(sv_bind_vector(b, &out->weight, weight, SV_INIT(1), channels));
    return sv_bind_vector(b, &out->bias, bias, SV_INIT(0), channels);
}

/* A vector that the checkpoint holds as [1, 1, C]. */
static sv_status bind_row(sv_binder *b, sv_tensor *host, const char *name, sv_init init, int channels)
{
    SV_TRY(sv_bind_host(b, host, name, init, 3, (const int32_t[]){1, 1, channels}));
    *host = sv_view(host->data, SV_F32, 1, channels);
    return SV_OK;
}

/* n + (p - n) m as taps m, 1 - m; or, with 'own_share', n m + (p - n)(1 - m) as taps 1 - m, 2m - 1. */
static sv_status bind_taps(sv_binder *b, sv_tensor *out, const char *name, bool own_share, int channels)
{
    sv_ctx *c = sv_binder_ctx(b);
    sv_tensor host;
    SV_TRY(bind_row(b, &host, name, share, channels));
    float *taps = malloc(2 * (size_t)channels * sizeof *taps);
    SV_CHECK(c, taps, SV_NO_MEMORY, "no memory for mixtures");
    for (int i = 0; i < channels; i++) {
        const double m = sv_f32(host)[i];
        taps[2 * i] = (float)(own_share ? 1 - m : m);
        taps[2 * i + 1] = (float)(own_share ? 2 * m - 1 : 1 - m);
    }
    const sv_status status = sv_weight_upload(c, out, sv_view(taps, SV_F32, channels, 2));
    free(taps);
    return status;
}

/* The checkpoint multiplies from the right, x @ w, w [k, n]; 'w' may be a part of a larger tensor. */
static sv_status prepare_transposed(sv_ctx *c, sv_linear_weights *out, const float *w, sv_tensor bias, int n,
                                    int k)
{
    float *turned = malloc((size_t)n * (size_t)k * sizeof *turned);
    SV_CHECK(c, turned, SV_NO_MEMORY, "no memory for low-rank weights");
    for (int i = 0; i < n; i++)
        for (int j = 0; j < k; j++) turned[i * k + j] = w[j * n + i];
    const sv_status status = sv_linear_prepare(c, out, sv_view(turned, SV_F32, n, k), bias);
    free(turned);
    return status;
}

static sv_status bind_mixtures(sv_binder *b, sv_rwkv_weights *m, int channels)
{
    static const char *const names[MIXTURES] = {"time_maa_w", "time_maa_k", "time_maa_v", "time_maa_r",
                                                "time_maa_g"};
    sv_ctx *c = sv_binder_ctx(b);
    sv_tensor down, up;
    SV_TRY(bind_taps(b, &m->mix_x, "time_maa_x", false, channels));
    SV_TRY(sv_bind_host(b, &down, "time_maa_w1", sv_init_fan_in(channels), 2,
                        (const int32_t[]){channels, MIXTURES * MIX_RANK}));
    SV_TRY(sv_bind_host(b, &up, "time_maa_w2", small, 3, (const int32_t[]){MIXTURES, MIX_RANK, channels}));
    SV_TRY(prepare_transposed(c, &m->mix_down, sv_f32(down), SV_NONE, MIXTURES * MIX_RANK, channels));
    for (int i = 0; i < MIXTURES; i++) {
        sv_tensor maa;
        SV_TRY(bind_row(b, &maa, names[i], share, channels));
        SV_TRY(prepare_transposed(c, &m->mix_up[i], sv_f32(up) + (ptrdiff_t)i * MIX_RANK * channels, maa,
                                  channels, MIX_RANK));
    }
    return SV_OK;
}

static sv_status bind_decay(sv_binder *b, sv_rwkv_weights *m, int channels)
{
    static const sv_init speeds = {SV_INIT_UNIFORM, -6, -1};
    sv_ctx *c = sv_binder_ctx(b);
    sv_tensor constant, down, up;
    SV_TRY(bind_row(b, &constant, "time_decay", speeds, channels));
    SV_TRY(sv_bind_host(b, &down, "time_decay_w1", sv_init_fan_in(channels), 2,
                        (const int32_t[]){channels, DECAY_RANK}));
    SV_TRY(sv_bind_host(b, &up, "time_decay_w2", small, 2, (const int32_t[]){DECAY_RANK, channels}));
    SV_TRY(prepare_transposed(c, &m->decay_down, sv_f32(down), SV_NONE, DECAY_RANK, channels));
    return prepare_transposed(c, &m->decay_up, sv_f32(up), constant, channels, DECAY_RANK);
}

/* 'out' is 'plain' with its results scaled by gamma. */
static sv_status bind_scaled(sv_binder *b, sv_linear_weights *out, sv_linear_weights *plain, const char *name,
                             sv_tensor gamma, int n, int k)
{
    sv_ctx *c = sv_binder_ctx(b);
    sv_tensor w;
    SV_TRY(sv_bind_host(b, &w, name, sv_init_fan_in(k), 2, (const int32_t[]){n, k}));
    SV_TRY(sv_linear_prepare(c, plain, w, SV_NONE));
    *out = *plain;
    if (sv_is_none(gamma)) return SV_OK;
    float *scaled = malloc((size_t)n * (size_t)k * sizeof *scaled);
    SV_CHECK(c, scaled, SV_NO_MEMORY, "no memory for %s", name);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < k; j++) scaled[i * k + j] = sv_f32(gamma)[i] * sv_f32(w)[i * k + j];
    const sv_status status = sv_linear_prepare(c, out, sv_view(scaled, SV_F32, n, k), SV_NONE);
    free(scaled);
    return status;
}

static sv_status bind_attention(sv_binder *b, rwkv *of, sv_tensor gamma, int channels)
{
    sv_ctx *c = sv_binder_ctx(b);
    sv_rwkv_weights *m = &of->w;
    sv_tensor bonus;
    SV_TRY(bind_mixtures(b, m, channels));
    SV_TRY(bind_decay(b, m, channels));
    SV_TRY(sv_bind_host(b, &bonus, "time_faaaa", share, 2, (const int32_t[]){m->heads, channels / m->heads}));
    SV_TRY(sv_weight_upload(c, &m->bonus, sv_view(bonus.data, SV_F32, 1, channels)));
    SV_TRY(sv_bind_linear(b, &m->receptance, "receptance", channels, channels, false));
    SV_TRY(sv_bind_linear(b, &m->key, "key", channels, channels, false));
    SV_TRY(sv_bind_linear(b, &m->value, "value", channels, channels, false));
    SV_TRY(sv_bind_linear(b, &m->gate, "gate", channels, channels, false));
    SV_TRY(bind_norm(b, &m->ln_x, "ln_x.weight", "ln_x.bias", channels));
    return bind_scaled(b, &m->output, &of->plain.output, "output.weight", gamma, channels, channels);
}

static sv_status bind_ffn(sv_binder *b, rwkv *of, sv_tensor gamma, int channels)
{
    sv_rwkv_weights *m = &of->w;
    SV_TRY(bind_taps(b, &m->mix_key, "spatial_mix_k", true, channels));
    SV_TRY(bind_taps(b, &m->mix_receptance, "spatial_mix_r", true, channels));
    SV_TRY(sv_bind_linear(b, &m->ffn_key, "key", m->hidden, channels, false));
    SV_TRY(sv_bind_linear(b, &m->ffn_receptance, "receptance", channels, channels, false));
    return bind_scaled(b, &m->ffn_value, &of->plain.ffn_value, "value.weight", gamma, channels, m->hidden);
}

static sv_status refuse(sv_ctx *c, const sv_node *cfg, const char *key)
{
    bool set = false;
    SV_TRY(sv_node_bool_or(c, cfg, key, &set, false));
    SV_CHECK(c, !set, SV_UNSUPPORTED, "RWKV: %s is True; only False is supported, as in the official models",
             key);
    return SV_OK;
}

static sv_status read_settings(sv_ctx *c, rwkv *m, const sv_operator_spec *spec, bool *scaled)
{
    const sv_node *cfg = spec->cfg;
    const char *shift = NULL, *init = NULL;
    int rate = 0;
    double gamma = 0;
    SV_TRY(sv_node_int(c, cfg, "n_head", &m->w.heads));
    SV_CHECK(c, m->w.heads >= 1 && spec->channels % m->w.heads == 0, SV_BAD_INPUT,
             "RWKV: n_head is %d, which %d channels do not divide into", m->w.heads, spec->channels);
    SV_TRY(sv_node_int_or(c, cfg, "hidden_rate", &rate, 4));
    SV_CHECK(c, rate >= 1 && rate <= 64, SV_UNSUPPORTED, "RWKV: hidden_rate is %d; 1 to 64 are supported",
             rate);
    SV_TRY(sv_node_string(c, cfg, "shift_mode", &shift));
    SV_CHECK(c, strcmp(shift, "time_shift") == 0, SV_UNSUPPORTED,
             "RWKV: shift_mode is '%s'; only 'time_shift' is supported", shift);
    SV_TRY(sv_node_string_or(c, cfg, "init_mode", &init, "fancy"));
    SV_CHECK(c, strcmp(init, "fancy") == 0, SV_BAD_INPUT,
             "RWKV: init_mode is '%s'; the official code knows 'fancy' only", init);
    SV_TRY(refuse(c, cfg, "post_norm"));
    SV_TRY(refuse(c, cfg, "key_norm"));
    SV_TRY(refuse(c, cfg, "with_cls_token"));
    *scaled = sv_node_find(cfg, "init_values") != NULL; /* the value itself is a start for training */
    if (*scaled) SV_TRY(sv_node_number(c, cfg, "init_values", &gamma));
    /* not looked at with time_shift; training only; or overwritten by the official code */
    sv_node_ignore(c, cfg, "shift_pixel", NULL);
    sv_node_ignore(c, cfg, "drop_path", NULL);
    sv_node_ignore(c, cfg, "with_cp", NULL);
    sv_node_ignore(c, cfg, "d_model", NULL);
    m->w.hidden = rate * spec->channels;
    m->w.eps = NORM_EPS;
    m->first = spec->layer == 0;
    return SV_OK;
}

static sv_status bind_zeros(sv_ctx *c, rwkv *m, int channels)
{
    float *zeros = calloc((size_t)channels, sizeof *zeros);
    SV_CHECK(c, zeros, SV_NO_MEMORY, "no memory for %d zeros", channels);
    const sv_status status = sv_weight_upload(c, &m->zeros, sv_view(zeros, SV_F32, 1, channels));
    free(zeros);
    return status;
}

static sv_status bind(sv_binder *b, void *self, const sv_operator_spec *spec)
{
    sv_ctx *c = sv_binder_ctx(b);
    rwkv *m = self;
    const int channels = spec->channels;
    bool scaled = false;
    sv_tensor gamma1 = SV_NONE, gamma2 = SV_NONE;
    SV_TRY(read_settings(c, m, spec, &scaled));
    SV_TRY(bind_zeros(c, m, channels));
    if (m->first) SV_TRY(bind_norm(b, &m->w.ln0, "ln0.weight", "ln0.bias", channels));
    SV_TRY(bind_norm(b, &m->w.ln1, "ln1.weight", "ln1.bias", channels));
    SV_TRY(bind_norm(b, &m->w.ln2, "ln2.weight", "ln2.bias", channels));
    if (scaled) SV_TRY(sv_bind_host(b, &gamma1, "gamma1", damping, 1, &channels));
    if (scaled) SV_TRY(sv_bind_host(b, &gamma2, "gamma2", damping, 1, &channels));
    sv_binder_push(b, "att");
    SV_TRY(bind_attention(b, m, gamma1, channels));
    sv_binder_pop(b);
    sv_binder_push(b, "ffn");
    SV_TRY(bind_ffn(b, m, gamma2, channels));
    sv_binder_pop(b);
    return SV_OK;
}

/* ---- forward ------------------------------------------------------------------------------------------ */

/* r, k, v and log decay of each slot; the gate, before its SiLU, of each row. */
typedef struct streams {
    sv_tensor r, k, v, decay, gate;
} streams;

/* 'mixed' [S, 5C] and 'low' [S, 5*32] are working space. */
static sv_status project(sv_ctx *c, const rwkv *m, const streams *out, sv_tensor x, const sv_order *order,
                         const sv_sequence *seq, sv_tensor mixed, sv_tensor low)
{
    const int channels = x.dim[1];
    const sv_tensor start = sv_columns(mixed, 0, channels);
    SV_TRY(sv_causal_conv(c, start, x, m->w.mix_x, m->zeros, seq, SV_MAP_identity));
    SV_TRY(sv_linear(c, low, start, SV_NONE, &m->w.mix_down, SV_MAP_tanh));
    sv_tensor part[MIXTURES];
    for (int i = 0; i < MIXTURES; i++) {
        part[i] = sv_columns(mixed, i * channels, channels);
        SV_TRY(sv_linear(c, part[i], sv_columns(low, i * MIX_RANK, MIX_RANK), SV_NONE, &m->w.mix_up[i],
                         SV_MAP_identity));
    }
    SV_TRY(sv_token_mix(c, mixed, x, mixed, seq));
    SV_TRY(sv_linear(c, out->r, part[MIX_R], SV_NONE, &m->w.receptance, SV_MAP_identity));
    SV_TRY(sv_linear(c, out->k, part[MIX_K], SV_NONE, &m->w.key, SV_MAP_identity));
    SV_TRY(sv_linear(c, out->v, part[MIX_V], SV_NONE, &m->w.value, SV_MAP_identity));
    SV_TRY(sv_linear(c, out->gate, part[MIX_G], order->row_slot, &m->w.gate, SV_MAP_identity));
    const sv_tensor rank = sv_columns(low, 0, DECAY_RANK);
    SV_TRY(sv_linear(c, rank, part[MIX_W], SV_NONE, &m->w.decay_down, SV_MAP_tanh));
    SV_TRY(sv_linear(c, out->decay, rank, SV_NONE, &m->w.decay_up, SV_MAP_neg_exp));
    SV_TRY(sv_probe(c, "r", out->r));
    SV_TRY(sv_probe(c, "k", out->k));
    SV_TRY(sv_probe(c, "v", out->v));
    return sv_probe(c, "neg_exp_w", out->decay);
}

/* Later tokens, then earlier ones and the token itself. */
static sv_status scan_both_ways(sv_ctx *c, const rwkv *m, sv_tensor y, const streams *in, int length)
{
    const sv_decay_rule rule = {
        .heads = m->w.heads, .decay = SV_DECAY_CHANNEL, .read = SV_READ_BEFORE, .scale = 1};
    const sv_sequence forth = {.length = length}, back = {.length = length, .reverse = true};
    SV_TRY(sv_decay_scan(c, y, in->r, in->k, in->v, in->decay, SV_NONE, &rule, &back, false));
    SV_TRY(sv_decay_scan(c, y, in->r, in->k, in->v, in->decay, m->w.bonus, &rule, &forth, true));
    return sv_probe(c, "wkv", y);
}

/* y = gamma1 * attention(x); rows to rows. */
static sv_status attention(sv_ctx *c, const rwkv *m, sv_tensor y, sv_tensor x, const sv_order *order,
                           int length)
{
    const int slots = order->slot_row.dim[0], rows = x.dim[0], channels = x.dim[1];
    const sv_sequence seq = {.index = order->slot_row, .length = length};
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor mixed, low, all, wkv, gate, gated;
    SV_TRY(sv_scratch_alloc(c, &mixed, "rwkv mixtures", SV_F32, slots, MIXTURES * channels, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &low, "rwkv low rank", SV_F32, slots, MIXTURES * MIX_RANK, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &all, "rwkv streams", SV_F32, slots, 4 * channels, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &wkv, "rwkv wkv", SV_F32, slots, channels, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &gate, "rwkv gate", SV_F32, rows, channels, x));
    SV_TRY(sv_scratch_alloc(c, &gated, "rwkv gated", SV_F32, rows, channels, x));
    const streams s = {.r = sv_columns(all, 0, channels),
                       .k = sv_columns(all, channels, channels),
                       .v = sv_columns(all, 2 * channels, channels),
                       .decay = sv_columns(all, 3 * channels, channels),
                       .gate = gate};
    SV_TRY(project(c, m, &s, x, order, &seq, mixed, low));
    SV_TRY(scan_both_ways(c, m, wkv, &s, length));
    const sv_head_norm_spec how = {.groups = m->w.heads,
                                   .centred = true,
                                   .eps = NORM_EPS,
                                   .weight = m->w.ln_x.weight,
                                   .bias = m->w.ln_x.bias,
                                   .gate = gate};
    SV_TRY(sv_head_norm(c, gated, wkv, order->row_slot, &how));
    if (sv_probing(c)) {
        SV_TRY(sv_linear(c, y, gated, SV_NONE, &m->plain.output, SV_MAP_identity));
        SV_TRY(sv_probe(c, "att_out", y));
    }
    SV_TRY(sv_linear(c, y, gated, SV_NONE, &m->w.output, SV_MAP_identity));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/*
 * y = gamma2 * ffn(x). Only the shift needs slots: the layers work on the slot each row keeps. Before such a
 * slot lies another, for repeats are at the end of a sample's last group; so what attention made of the
 * repeats, which differs from their rows' own, is not missed here.
 */
static sv_status feed_forward(sv_ctx *c, const rwkv *m, sv_tensor y, sv_tensor x, const sv_order *order,
                              int length)
{
    const int slots = order->slot_row.dim[0], rows = x.dim[0], channels = x.dim[1];
    const sv_sequence seq = {.index = order->slot_row, .length = length};
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor mixed, hidden, gate;
    SV_TRY(sv_scratch_alloc(c, &mixed, "rwkv ffn input", SV_F32, slots, channels, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &hidden, "rwkv ffn hidden", SV_F32, rows, m->w.hidden, x));
    SV_TRY(sv_scratch_alloc(c, &gate, "rwkv ffn gate", SV_F32, rows, channels, x));
    SV_TRY(sv_causal_conv(c, mixed, x, m->w.mix_receptance, m->zeros, &seq, SV_MAP_identity));
    SV_TRY(sv_linear(c, gate, mixed, order->row_slot, &m->w.ffn_receptance, SV_MAP_sigmoid));
    SV_TRY(sv_causal_conv(c, mixed, x, m->w.mix_key, m->zeros, &seq, SV_MAP_identity));
    SV_TRY(sv_linear(c, hidden, mixed, order->row_slot, &m->w.ffn_key, SV_MAP_relu_square));
    if (sv_probing(c)) {
        SV_TRY(sv_linear(c, y, hidden, SV_NONE, &m->plain.ffn_value, SV_MAP_identity));
        SV_TRY(sv_map2(c, y, y, gate, SV_MAP_mul));
        SV_TRY(sv_probe(c, "ffn_out", y));
    }
    SV_TRY(sv_linear(c, y, hidden, SV_NONE, &m->w.ffn_value, SV_MAP_identity));
    SV_TRY(sv_map2(c, y, y, gate, SV_MAP_mul));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* One primitive after the other. */
static sv_status compose(sv_ctx *c, const rwkv *m, sv_tensor y, sv_tensor x, const sv_order *order,
                         int length)
{
    const int rows = x.dim[0], channels = x.dim[1];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor entry = x, normed, branch;
    SV_TRY(sv_scratch_alloc(c, &normed, "rwkv norm", SV_F32, rows, channels, x));
    SV_TRY(sv_scratch_alloc(c, &branch, "rwkv branch", SV_F32, rows, channels, x));
    if (m->first) {
        SV_TRY(sv_scratch_alloc(c, &entry, "rwkv entry", SV_F32, rows, channels, x));
        SV_TRY(sv_norm(c, entry, x, m->w.ln0.weight, m->w.ln0.bias, NORM_EPS, SV_MAP_identity, SV_NONE));
    }
    SV_TRY(sv_norm(c, normed, entry, m->w.ln1.weight, m->w.ln1.bias, NORM_EPS, SV_MAP_identity, SV_NONE));
    SV_TRY(attention(c, m, branch, normed, order, length));
    SV_TRY(sv_map2(c, y, entry, branch, SV_MAP_add));
    SV_TRY(sv_norm(c, normed, y, m->w.ln2.weight, m->w.ln2.bias, NORM_EPS, SV_MAP_identity, SV_NONE));
    SV_TRY(feed_forward(c, m, branch, normed, order, length));
    SV_TRY(sv_map2(c, y, y, branch, SV_MAP_add));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* Where the device does it all in one go, a probe sees the intermediates of the composition and the result of that. */
static sv_status forward(sv_ctx *c, const void *self, sv_tensor y, sv_tensor x, const sv_order *order,
                         int length, const sv_operator_state *state)
{
    const rwkv *m = self;
    SV_CHECK(c, !state || (sv_is_none(state->in) && sv_is_none(state->out)), SV_UNSUPPORTED,
             "RWKV walks its groups both ways here and carries no state");
    if (!sv_rwkv_block_fits(c, &m->w, length)) return compose(c, m, y, x, order, length);
    if (sv_probing(c)) {
        const sv_mark mark = sv_arena_mark(&c->scratch);
        sv_tensor composed;
        SV_TRY(sv_scratch_alloc(c, &composed, "rwkv composed", SV_F32, x.dim[0], x.dim[1], x));
        SV_TRY(compose(c, m, composed, x, order, length));
        sv_arena_rewind(&c->scratch, mark);
    }
    return sv_rwkv_block(c, y, x, &m->w, order, length);
}

const sv_operator sv_operator_rwkv = {
    .name = "RWKV", .bytes = sizeof(rwkv), .bind = bind, .forward = forward};
