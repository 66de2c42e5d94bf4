/* SPDX-License-Identifier: Apache-2.0
 *
 * RetNet as LION's group operator (Sun et al., "Retentive Network", 2023; LION's retention block: no rotary
 * embedding, no gate, no norm of the heads):
 *
 *     [q | k | v] = proj LayerNorm(x)                                     N rows
 *     o_i = dk^-1/2 [ sum over earlier chunks of 64 tokens of g^(i-j) (q_i.k_j) v_j          S slots
 *                   + sum over the own chunk of g^|i-j| (q_i.k_j) v_j ]   per head h: g = 1 - 2^(-5-h)
 *     x += o_proj o;   x += fc2 GELU(fc1 LayerNorm(x))
 *
 * The official kernel was changed from the usual one: within a chunk every token sees every other.
 * Widths: C channels, q and k expand_k*C, v expand_v*C, hidden hidden_rate*C, n_head heads.
 */
#include "backbones/operator.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const float NORM_EPS = 1e-6f;
/* 'savanna init': both branches begin at this share of their usual size */
static const float INIT_SHARE = 0.3f;
enum { CHUNK = 64 };

typedef struct retnet {
    sv_retnet_weights w;
    sv_decay_rule rule;
} retnet;

/* ---- binding ------------------------------------------------------------------------------------------ */

static sv_init damped(int fan_in)
{
    sv_init init = sv_init_fan_in(fan_in);
    init.a *= INIT_SHARE, init.b *= INIT_SHARE;
    return init;
}

static sv_status bind_qkv(sv_binder *b, retnet *m, int channels)
{
    static const char *const names[] = {"q_proj.weight", "k_proj.weight", "v_proj.weight"};
    const int rows[] = {m->w.keys, m->w.keys, m->w.values}, total = 2 * m->w.keys + m->w.values;
    sv_ctx *c = sv_binder_ctx(b);
    float *all = malloc((size_t)total * (size_t)channels * sizeof *all), *to = all;
    SV_CHECK(c, all, SV_NO_MEMORY, "no memory for retention weights");
    sv_status status = SV_OK;
    for (int i = 0; i < 3 && status == SV_OK; i++) {
        sv_tensor host;
        status = sv_bind_host(b, &host, names[i], sv_init_fan_in(channels), 2,
                              (const int32_t[]){rows[i], channels});
        if (status != SV_OK) break;
        const size_t count = (size_t)rows[i] * (size_t)channels;
        memcpy(to, host.data, count * sizeof *to);
        to += count;
    }
    if (status == SV_OK)
        status = sv_linear_prepare(c, &m->w.qkv, sv_view(all, SV_F32, total, channels), SV_NONE);
    free(all);
    return status;
}

/* A linear layer whose result is added to the residual stream; bias NULL: none. */
static sv_status bind_branch(sv_binder *b, sv_linear_weights *out, const char *weight, const char *bias,
                             int n, int k)
{
    sv_tensor w, offset = SV_NONE;
    SV_TRY(sv_bind_host(b, &w, weight, damped(k), 2, (const int32_t[]){n, k}));
    if (bias) SV_TRY(sv_bind_host(b, &offset, bias, damped(k), 1, (const int32_t[]){n}));
    return sv_linear_prepare(sv_binder_ctx(b), out, w, offset);
}

static sv_status bind_decay(sv_ctx *c, retnet *m)
{
    float *log = malloc((size_t)m->rule.heads * sizeof *log);
    SV_CHECK(c, log, SV_NO_MEMORY, "no memory for decays");
    for (int h = 0; h < m->rule.heads; h++) log[h] = (float)log1p(-exp2(-5.0 - h));
    const sv_status status = sv_weight_upload(c, &m->w.decay, sv_view(log, SV_F32, 1, m->rule.heads));
    free(log);
    return status;
}

/* A multiple of the channels; the official code truncates the product. */
static sv_status read_width(sv_ctx *c, const sv_node *cfg, const char *key, double otherwise, int channels,
                            int *out)
{
    double factor = 0;
    SV_TRY(sv_node_number_or(c, cfg, key, &factor, otherwise));
    SV_CHECK(c, factor > 0 && factor <= 16, SV_UNSUPPORTED, "RetNet: %s is %g; above 0 to 16 is supported",
             key, factor);
    *out = (int)(factor * channels);
    return SV_OK;
}

static sv_status read_settings(sv_ctx *c, retnet *m, const sv_operator_spec *spec)
{
    const sv_node *cfg = spec->cfg;
    const char *mode = NULL;
    bool mlp = true, scale = false;
    int heads = 0, rate = 0;
    SV_TRY(sv_node_string_or(c, cfg, "mode", &mode, "chunk"));
    SV_CHECK(c, strcmp(mode, "chunk") == 0, SV_UNSUPPORTED,
             "RetNet: mode is '%s'; only 'chunk' is supported, as in the official code", mode);
    SV_TRY(sv_node_bool_or(c, cfg, "used_MLP", &mlp, true));
    SV_CHECK(c, mlp, SV_UNSUPPORTED,
             "RetNet: used_MLP is False; the gated form is not supported, set it to True");
    SV_TRY(sv_node_bool_or(c, cfg, "layerscale", &scale, false));
    SV_CHECK(c, !scale, SV_UNSUPPORTED, "RetNet: layerscale is True; set it to False");
    SV_TRY(sv_node_int(c, cfg, "n_head", &heads));
    SV_TRY(sv_node_int_or(c, cfg, "hidden_rate", &rate, 4));
    SV_TRY(read_width(c, cfg, "expand_k", 1, spec->channels, &m->w.keys));
    SV_TRY(read_width(c, cfg, "expand_v", 2, spec->channels, &m->w.values));
    SV_CHECK(c,
             heads >= 1 && m->w.keys % heads == 0 && m->w.values % heads == 0 && m->w.keys >= heads &&
                 m->w.values >= heads,
             SV_BAD_INPUT, "RetNet: n_head is %d, which %d key and %d value channels do not divide into",
             heads, m->w.keys, m->w.values);
    SV_CHECK(c, rate >= 1 && rate <= 64, SV_UNSUPPORTED, "RetNet: hidden_rate is %d; 1 to 64 are supported",
             rate);
    m->w.hidden = rate * spec->channels;
    /* training only, or overwritten by the official code with the layer's own values */
    sv_node_ignore(c, cfg, "d_model", NULL);
    sv_node_ignore(c, cfg, "drop_path", NULL);
    sv_node_ignore(c, cfg, "with_cp", NULL);
    sv_node_ignore(c, cfg, "layer_init_values", NULL);
    m->w.heads = heads;
    m->w.chunk = CHUNK;
    m->w.eps = NORM_EPS;
    m->w.scale = (float)(1.0 / sqrt((double)m->w.keys / heads));
    m->rule = (sv_decay_rule){
        .heads = heads, .decay = SV_DECAY_HEAD, .read = SV_READ_CHUNK, .chunk = CHUNK, .scale = m->w.scale};
    return SV_OK;
}

static sv_status bind(sv_binder *b, void *self, const sv_operator_spec *spec)
{
    sv_ctx *c = sv_binder_ctx(b);
    retnet *m = self;
    const int channels = spec->channels;
    SV_TRY(read_settings(c, m, spec));
    SV_TRY(bind_decay(c, m));
    SV_TRY(sv_bind_vector(b, &m->w.norm_weight, "retention_layer_norm.weight", SV_INIT(1), channels));
    SV_TRY(sv_bind_vector(b, &m->w.norm_bias, "retention_layer_norm.bias", SV_INIT(0), channels));
    sv_binder_push(b, "multi_scale_retention");
    SV_TRY(bind_qkv(b, m, channels));
    SV_TRY(bind_branch(b, &m->w.o_proj, "o_proj.weight", NULL, channels, m->w.values));
    sv_binder_pop(b);
    SV_TRY(sv_bind_vector(b, &m->w.final_weight, "final_layer_norm.weight", SV_INIT(1), channels));
    SV_TRY(sv_bind_vector(b, &m->w.final_bias, "final_layer_norm.bias", SV_INIT(0), channels));
    SV_TRY(sv_bind_linear(b, &m->w.fc1, "ffn.fc1", m->w.hidden, channels, true));
    return bind_branch(b, &m->w.fc2, "ffn.fc2.weight", "ffn.fc2.bias", channels, m->w.hidden);
}

/* ---- forward ------------------------------------------------------------------------------------------ */

static sv_status retention(sv_ctx *c, const retnet *m, sv_tensor y, sv_tensor x, const sv_order *order,
                           int length)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor qkv, out;
    SV_TRY(sv_scratch_alloc(c, &qkv, "retention q, k, v", SV_F32, x.dim[0], m->w.qkv.n, x));
    SV_TRY(sv_scratch_alloc(c, &out, "retention out", SV_F32, order->slot_row.dim[0], m->w.values,
                            order->slot_row));
    SV_TRY(sv_linear(c, qkv, x, SV_NONE, &m->w.qkv, SV_MAP_identity));
    const sv_tensor q = sv_columns(qkv, 0, m->w.keys), k = sv_columns(qkv, m->w.keys, m->w.keys),
                    v = sv_columns(qkv, 2 * m->w.keys, m->w.values);
    SV_TRY(sv_probe(c, "q", q));
    SV_TRY(sv_probe(c, "k", k));
    SV_TRY(sv_probe(c, "v", v));
    const sv_sequence seq = {.index = order->slot_row, .length = length};
    SV_TRY(sv_decay_scan(c, out, q, k, v, m->w.decay, SV_NONE, &m->rule, &seq, false));
    SV_TRY(sv_probe(c, "retention", out));
    SV_TRY(sv_linear(c, y, out, order->row_slot, &m->w.o_proj, SV_MAP_identity));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* One primitive after the other. */
static sv_status compose(sv_ctx *c, const retnet *m, sv_tensor y, sv_tensor x, const sv_order *order,
                         int length)
{
    const int rows = x.dim[0], channels = x.dim[1];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor normed, branch, hidden;
    SV_TRY(sv_scratch_alloc(c, &normed, "retnet norm", SV_F32, rows, channels, x));
    SV_TRY(sv_scratch_alloc(c, &branch, "retnet branch", SV_F32, rows, channels, x));
    SV_TRY(sv_scratch_alloc(c, &hidden, "retnet hidden", SV_F32, rows, m->w.hidden, x));

    SV_TRY(sv_norm(c, normed, x, m->w.norm_weight, m->w.norm_bias, NORM_EPS, SV_MAP_identity, SV_NONE));
    SV_TRY(retention(c, m, branch, normed, order, length));
    SV_TRY(sv_probe(c, "msr_out", branch));
    SV_TRY(sv_map2(c, y, x, branch, SV_MAP_add));

    SV_TRY(sv_norm(c, normed, y, m->w.final_weight, m->w.final_bias, NORM_EPS, SV_MAP_identity, SV_NONE));
    SV_TRY(sv_linear(c, hidden, normed, SV_NONE, &m->w.fc1, SV_MAP_gelu));
    SV_TRY(sv_linear(c, branch, hidden, SV_NONE, &m->w.fc2, SV_MAP_identity));
    SV_TRY(sv_probe(c, "ffn_out", branch));
    SV_TRY(sv_map2(c, y, y, branch, SV_MAP_add));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* Where the device does it all in one go, a probe sees the intermediates of the composition and the result of
 * that. */
static sv_status forward(sv_ctx *c, const void *self, sv_tensor y, sv_tensor x, const sv_order *order,
                         int length, const sv_operator_state *state)
{
    const retnet *m = self;
    SV_CHECK(c, !state || (sv_is_none(state->in) && sv_is_none(state->out)), SV_UNSUPPORTED,
             "RetNet's tokens see their whole chunk here and carry no state");
    if (!sv_retnet_block_fits(c, &m->w, length)) return compose(c, m, y, x, order, length);
    if (sv_probing(c)) {
        const sv_mark mark = sv_arena_mark(&c->scratch);
        sv_tensor composed;
        SV_TRY(sv_scratch_alloc(c, &composed, "retnet composed", SV_F32, x.dim[0], x.dim[1], x));
        SV_TRY(compose(c, m, composed, x, order, length));
        sv_arena_rewind(&c->scratch, mark);
    }
    return sv_retnet_block(c, y, x, &m->w, order, length);
}

const sv_operator sv_operator_retnet = {
    .name = "RetNet", .bytes = sizeof(retnet), .bind = bind, .forward = forward};
