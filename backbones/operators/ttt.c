/* SPDX-License-Identifier: Apache-2.0
 *
 * TTT-Linear as LION's group operator (Sun et al., "Learning to (Learn at Test Time)", 2024):
 *
 *     n = RMSNorm(x);  [q | k | v] = proj n;  rate = sigmoid(n . w_h + b_h)          N rows
 *     o = TTT-Linear of each head, in mini-batches of 16, causal                     S slots
 *     x += o_proj LayerNorm(o);   x += down(SiLU(gate n) * up n), n = RMSNorm(x)
 *
 * Widths: C channels, n_head heads of f = C/n_head, hidden 2C. Token t of a mini-batch learns at
 * max(1/(t+1) + learnable_token_idx[t], 0) * rate / f. q and k are turned by rotary angles
 * t * 10000^(-2i/f) of channels 2i and 2i+1, t counting within the mini-batch.
 */
#include "backbones/operator.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 16 };
static const float NORM_EPS = 1e-6f; /* of every norm in the block */

typedef struct ttt {
    sv_ttt_block_weights w;
} ttt;

/* ---- binding ------------------------------------------------------------------------------------------ */

/* 'savanna init': both branches begin with this share of their usual size. */
static sv_status bind_branch(sv_binder *b, sv_linear_weights *out, const char *name, int n, int k)
{
    sv_init init = sv_init_fan_in(k);
    init.a *= 0.3f, init.b *= 0.3f;
    sv_tensor host;
    SV_TRY(sv_bind_host(b, &host, name, init, 2, (const int32_t[]){n, k}));
    return sv_linear_prepare(sv_binder_ctx(b), out, host, SV_NONE);
}

/* Several [n, k] weights without bias as one product. */
static sv_status bind_stacked(sv_binder *b, sv_linear_weights *out, const char *const *names, int count,
                              int n, int k)
{
    sv_ctx *c = sv_binder_ctx(b);
    const size_t size = (size_t)n * (size_t)k;
    float *all = malloc((size_t)count * size * sizeof *all);
    SV_CHECK(c, all, SV_NO_MEMORY, "no memory for %s and the weights beside it", names[0]);
    sv_status status = SV_OK;
    for (int i = 0; i < count && status == SV_OK; i++) {
        sv_tensor host;
        status = sv_bind_host(b, &host, names[i], sv_init_fan_in(k), 2, (const int32_t[]){n, k});
        if (status == SV_OK) memcpy(all + (size_t)i * size, host.data, size * sizeof *all);
    }
    if (status == SV_OK) status = sv_linear_prepare(c, out, sv_view(all, SV_F32, count * n, k), SV_NONE);
    free(all);
    return status;
}

/* A tensor of any shape as a device matrix of rows x columns. */
static sv_status bind_shaped(sv_binder *b, sv_tensor *out, const char *name, sv_init init, int ndim,
                             const int32_t *dims, int rows, int columns)
{
    sv_tensor host;
    SV_TRY(sv_bind_host(b, &host, name, init, ndim, dims));
    return sv_weight_upload(sv_binder_ctx(b), out, sv_view(host.data, SV_F32, rows, columns));
}

static sv_status bind_rate(sv_binder *b, sv_linear_weights *out, int heads, int channels)
{
    static const sv_init small = {SV_INIT_NORMAL, 0, 0.02f};
    sv_tensor w, bias;
    SV_TRY(sv_bind_host(b, &w, "learnable_ttt_lr_weight", small, 3, (const int32_t[]){heads, 1, channels}));
    SV_TRY(sv_bind_host(b, &bias, "learnable_ttt_lr_bias", SV_INIT(0), 2, (const int32_t[]){heads, 1}));
    return sv_linear_prepare(sv_binder_ctx(b), out, sv_view(w.data, SV_F32, heads, channels),
                             sv_view(bias.data, SV_F32, 1, heads));
}

/* Step sizes of a mini-batch's places; the division by f belongs to the official rate. */
static sv_status bind_token(sv_binder *b, sv_tensor *out, int width)
{
    sv_tensor learned;
    SV_TRY(sv_bind_host(b, &learned, "learnable_token_idx", SV_INIT(0), 1, (const int32_t[]){BATCH}));
    float token[BATCH];
    for (int t = 0; t < BATCH; t++) {
        const float step = 1.0f / (float)(t + 1) + sv_f32(learned)[t];
        token[t] = (step > 0 ? step : 0.0f) / (float)width;
    }
    return sv_weight_upload(sv_binder_ctx(b), out, sv_view(token, SV_F32, 1, BATCH));
}

static sv_status make_rotary(sv_ctx *c, sv_tensor *out, int width)
{
    float *table = malloc((size_t)BATCH * (size_t)width * sizeof *table);
    SV_CHECK(c, table, SV_NO_MEMORY, "no memory for rotary angles");
    for (int t = 0; t < BATCH; t++)
        for (int i = 0; i < width; i += 2) {
            /* float32 where the official code has it */
            const float frequency = (float)(1.0 / pow(10000.0, (double)i / width)),
                        angle = (float)t * frequency;
            table[t * width + i] = (float)cos((double)angle);
            table[t * width + i + 1] = (float)sin((double)angle);
        }
    const sv_status status = sv_weight_upload(c, out, sv_view(table, SV_F32, BATCH, width));
    free(table);
    return status;
}

static sv_status bind_cell(sv_binder *b, sv_ttt_weights *w, int width)
{
    static const sv_init start = {SV_INIT_NORMAL, 0, 0.02f};
    const int heads = w->heads, channels = heads * width;
    const int32_t model[] = {heads, width, width}, offset[] = {heads, 1, width}, norm[] = {heads, width};
    w->eps = NORM_EPS;
    SV_TRY(bind_shaped(b, &w->w, "W1", start, 3, model, channels, width));
    SV_TRY(bind_shaped(b, &w->b, "b1", SV_INIT(0), 3, offset, heads, width));
    SV_TRY(bind_shaped(b, &w->norm_weight, "ttt_norm_weight", SV_INIT(1), 2, norm, heads, width));
    SV_TRY(bind_shaped(b, &w->norm_bias, "ttt_norm_bias", SV_INIT(0), 2, norm, heads, width));
    SV_TRY(bind_token(b, &w->token, width));
    return make_rotary(sv_binder_ctx(b), &w->rotary, width);
}

static sv_status read_settings(sv_ctx *c, const sv_node *cfg, int channels, int *heads)
{
    bool use_gate = false;
    SV_TRY(sv_node_int(c, cfg, "n_head", heads));
    SV_CHECK(c, *heads >= 1 && channels % *heads == 0, SV_BAD_INPUT,
             "TTT: n_head is %d, which does not divide %d channels", *heads, channels);
    const int width = channels / *heads;
    SV_CHECK(c, width % 2 == 0 && width <= 128, SV_UNSUPPORTED,
             "TTT: heads of %d channels (n_head %d); even numbers up to 128 are supported", width, *heads);
    SV_TRY(sv_node_bool_or(c, cfg, "use_gate", &use_gate, false));
    SV_CHECK(c, !use_gate, SV_UNSUPPORTED,
             "TTT: use_gate is True; only models without the gate are supported");
    sv_node_ignore(c, cfg, "d_model", NULL);   /* the official code overwrites it with the layer's channels */
    sv_node_ignore(c, cfg, "drop_path", NULL); /* training only, as is with_cp */
    sv_node_ignore(c, cfg, "with_cp", NULL);
    return SV_OK;
}

static sv_status bind(sv_binder *b, void *self, const sv_operator_spec *spec)
{
    static const char *const projections[] = {"q_proj.weight", "k_proj.weight", "v_proj.weight"};
    static const char *const gate_up[] = {"gate_proj.weight", "up_proj.weight"};
    ttt *m = self;
    const int channels = spec->channels;
    int heads = 0;
    SV_TRY(read_settings(sv_binder_ctx(b), spec->cfg, channels, &heads));
    m->w.hidden = 2 * channels;
    m->w.eps = NORM_EPS;
    m->w.cell.heads = heads;
    SV_TRY(sv_bind_vector(b, &m->w.seq_norm, "seq_norm.weight", SV_INIT(1), channels));
    sv_binder_push(b, "seq_modeling_block");
    SV_TRY(bind_stacked(b, &m->w.qkv, projections, 3, channels, channels));
    SV_TRY(bind_rate(b, &m->w.rate, heads, channels));
    SV_TRY(bind_cell(b, &m->w.cell, channels / heads));
    SV_TRY(sv_bind_vector(b, &m->w.post_weight, "post_norm.weight", SV_INIT(1), channels));
    SV_TRY(sv_bind_vector(b, &m->w.post_bias, "post_norm.bias", SV_INIT(0), channels));
    SV_TRY(bind_branch(b, &m->w.o_proj, "o_proj.weight", channels, channels));
    sv_binder_pop(b);
    SV_TRY(sv_bind_vector(b, &m->w.ffn_norm, "ffn_norm.weight", SV_INIT(1), channels));
    sv_binder_push(b, "mlp");
    SV_TRY(bind_stacked(b, &m->w.gate_up, gate_up, 2, m->w.hidden, channels));
    SV_TRY(bind_branch(b, &m->w.down, "down_proj.weight", channels, m->w.hidden));
    sv_binder_pop(b);
    return SV_OK;
}

/* ---- forward ------------------------------------------------------------------------------------------ */

static sv_status rms_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor weight)
{
    const sv_head_norm_spec how = {.groups = 1, .eps = NORM_EPS, .weight = weight};
    return sv_head_norm(c, y, x, SV_NONE, &how);
}

/* y = x + o_proj LayerNorm(TTT-Linear(RMSNorm(x))); y may be x. */
static sv_status mix_tokens(sv_ctx *c, const ttt *m, sv_tensor y, sv_tensor x, const sv_order *order,
                            int length)
{
    const int rows = x.dim[0], channels = x.dim[1], slots = order->slot_row.dim[0];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor normed, qkv, rate, out;
    SV_TRY(sv_scratch_alloc(c, &normed, "ttt normed", SV_F32, rows, channels, x));
    SV_TRY(sv_scratch_alloc(c, &qkv, "ttt q, k, v", SV_F32, rows, 3 * channels, x));
    SV_TRY(sv_scratch_alloc(c, &rate, "ttt rate", SV_F32, rows, m->w.cell.heads, x));
    SV_TRY(sv_scratch_alloc(c, &out, "ttt out", SV_F32, slots, channels, order->slot_row));
    const sv_tensor q = sv_columns(qkv, 0, channels), k = sv_columns(qkv, channels, channels),
                    v = sv_columns(qkv, 2 * channels, channels);
    const sv_sequence seq = {.index = order->slot_row, .length = length};

    SV_TRY(rms_norm(c, normed, x, m->w.seq_norm));
    SV_TRY(sv_linear(c, qkv, normed, SV_NONE, &m->w.qkv, SV_MAP_identity));
    SV_TRY(sv_linear(c, rate, normed, SV_NONE, &m->w.rate, SV_MAP_sigmoid));
    SV_TRY(sv_probe(c, "q_proj", q));
    SV_TRY(sv_probe(c, "k_proj", k));
    SV_TRY(sv_probe(c, "v_proj", v));
    SV_TRY(sv_ttt_linear(c, out, q, k, v, rate, &m->w.cell, &seq));
    SV_TRY(sv_probe(c, "ttt_linear_out", out));
    const sv_head_norm_spec post = {
        .groups = 1, .centred = true, .eps = NORM_EPS, .weight = m->w.post_weight, .bias = m->w.post_bias};
    const sv_tensor kept = sv_columns(qkv, 0, channels); /* q has been read */
    SV_TRY(sv_head_norm(c, kept, out, order->row_slot, &post));
    SV_TRY(sv_linear(c, normed, kept, SV_NONE, &m->w.o_proj, SV_MAP_identity));
    SV_TRY(sv_probe(c, "seq_out", normed));
    SV_TRY(sv_map2(c, y, x, normed, SV_MAP_add));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* x += down(SiLU(gate n) * up n), n = RMSNorm(x). */
static sv_status mix_channels(sv_ctx *c, const ttt *m, sv_tensor x)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor normed, wide;
    SV_TRY(sv_scratch_alloc(c, &normed, "ttt normed", SV_F32, x.dim[0], x.dim[1], x));
    SV_TRY(sv_scratch_alloc(c, &wide, "ttt gate, up", SV_F32, x.dim[0], 2 * m->w.hidden, x));
    const sv_tensor gate = sv_columns(wide, 0, m->w.hidden), up = sv_columns(wide, m->w.hidden, m->w.hidden);
    SV_TRY(rms_norm(c, normed, x, m->w.ffn_norm));
    SV_TRY(sv_linear(c, wide, normed, SV_NONE, &m->w.gate_up, SV_MAP_identity));
    SV_TRY(sv_map2(c, up, up, gate, SV_MAP_mul_silu));
    SV_TRY(sv_linear(c, normed, up, SV_NONE, &m->w.down, SV_MAP_identity));
    SV_TRY(sv_probe(c, "mlp_out", normed));
    SV_TRY(sv_map2(c, x, x, normed, SV_MAP_add));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* Where the device does it all in one go, a probe sees the intermediates of the composition and the result of
 * that. */
static sv_status forward(sv_ctx *c, const void *self, sv_tensor y, sv_tensor x, const sv_order *order,
                         int length, const sv_operator_state *state)
{
    const ttt *m = self;
    SV_CHECK(c, !state || (sv_is_none(state->in) && sv_is_none(state->out)), SV_UNSUPPORTED,
             "TTT starts every group from its own weights here and carries no state");
    if (!sv_ttt_block_fits(c, &m->w)) {
        SV_TRY(mix_tokens(c, m, y, x, order, length));
        return mix_channels(c, m, y);
    }
    if (sv_probing(c)) {
        const sv_mark mark = sv_arena_mark(&c->scratch);
        sv_tensor composed;
        SV_TRY(sv_scratch_alloc(c, &composed, "ttt composed", SV_F32, x.dim[0], x.dim[1], x));
        SV_TRY(mix_tokens(c, m, composed, x, order, length));
        SV_TRY(mix_channels(c, m, composed));
        sv_arena_rewind(&c->scratch, mark);
    }
    return sv_ttt_block(c, y, x, &m->w, order, length);
}

const sv_operator sv_operator_ttt = {.name = "TTT", .bytes = sizeof(ttt), .bind = bind, .forward = forward};
