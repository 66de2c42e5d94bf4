/* SPDX-License-Identifier: Apache-2.0
 *
 * xLSTM as LION's group operator (Vision-LSTM: Alkin et al. 2024; mLSTM: Beck et al. 2024): two sub-blocks, one
 * that walks the group forward and one that walks it from its end:
 *
 *     [a | z] = proj_up LN(x)
 *     s = SiLU(causal depthwise conv(a));   q, k = blocks s;   v = blocks a
 *     h = mLSTM(q, k, v, igate [q|k|v], fgate [q|k|v])              4 heads
 *     x = x + proj_down((GroupNorm(h) + learnable_skip * s) * SiLU(z))
 *
 * Widths: C channels, inner = 2C; q, k and v come from block-diagonal maps with blocks of 4. The norms store
 * their weights minus one. Nothing is ever flipped: the second sub-block reads and writes the same slots in
 * reverse order.
 */
#include "backbones/operator.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FORWARD, BACKWARD, DIRECTIONS };
enum { HEADS = 4, BLOCK = 4, MAX_TAPS = 8 };
static const float NORM_EPS = 1e-5f, CELL_EPS = 1e-6f;

typedef struct xlstm {
    sv_xlstm_weights w;
} xlstm;

static const char *const names[DIRECTIONS] = {"rowwise_from_top_left", "rowwise_from_bot_right"};

/* ---- binding ------------------------------------------------------------------------------------------ */

/* 'savanna init': both sub-blocks begin with this share of their usual size. */
static sv_init damped(int fan_in)
{
    sv_init init = sv_init_fan_in(fan_in);
    init.a *= 0.3f, init.b *= 0.3f;
    return init;
}

static sv_status upload_sum(sv_ctx *c, sv_tensor *out, const float *values, int n, float add)
{
    float *sums = malloc((size_t)n * sizeof *sums);
    SV_CHECK(c, sums, SV_NO_MEMORY, "no memory for a norm's weights");
    for (int i = 0; i < n; i++) sums[i] = values[i] + add;
    const sv_status status = sv_weight_upload(c, out, sv_view(sums, SV_F32, 1, n));
    free(sums);
    return status;
}

/* A norm whose checkpoint holds weight - 1. */
static sv_status bind_norm(sv_binder *b, sv_tensor *weight, sv_tensor *bias, const char *weight_name,
                           const char *bias_name, int n)
{
    sv_tensor host;
    SV_TRY(sv_bind_host(b, &host, weight_name, SV_INIT(0), 1, (const int32_t[]){n}));
    SV_TRY(upload_sum(sv_binder_ctx(b), weight, sv_f32(host), n, 1.0f));
    return sv_bind_vector(b, bias, bias_name, SV_INIT(0), n);
}

static sv_status bind_blocks(sv_binder *b, sv_tensor *weight, sv_tensor *bias, const char *name, int inner)
{
    const int32_t dims[] = {inner / BLOCK, BLOCK, BLOCK};
    sv_tensor host;
    sv_binder_push(b, "%s", name);
    SV_TRY(sv_bind_host(b, &host, "weight", sv_init_fan_in(BLOCK), 3, dims));
    SV_TRY(sv_weight_upload(sv_binder_ctx(b), weight, sv_view(host.data, SV_F32, inner, BLOCK)));
    SV_TRY(sv_bind_vector(b, bias, "bias", SV_INIT(0), inner));
    sv_binder_pop(b);
    return SV_OK;
}

/* Both gates as one product. New models forget slowly (biases of 3 to 6) and have gates that hardly depend on
 * the token yet, as the authors start them. */
static sv_status bind_gates(sv_binder *b, sv_linear_weights *out, int inner)
{
    static const sv_init small = {SV_INIT_NORMAL, 0, 0.02f}, input = {SV_INIT_NORMAL, 0, 0.1f},
                         forget = {SV_INIT_UNIFORM, 3, 6};
    sv_ctx *c = sv_binder_ctx(b);
    const int32_t dims[] = {HEADS, 3 * inner};
    const size_t count = (size_t)HEADS * (size_t)(3 * inner);
    sv_tensor weights[2], biases[2];
    SV_TRY(sv_bind_host(b, &weights[0], "igate.weight", small, 2, dims));
    SV_TRY(sv_bind_host(b, &weights[1], "fgate.weight", small, 2, dims));
    SV_TRY(sv_bind_host(b, &biases[0], "igate.bias", input, 1, dims));
    SV_TRY(sv_bind_host(b, &biases[1], "fgate.bias", forget, 1, dims));
    float *stacked = malloc((2 * count + 2 * HEADS) * sizeof *stacked);
    SV_CHECK(c, stacked, SV_NO_MEMORY, "no memory for the gates' weights");
    float *bias = stacked + 2 * count;
    for (int i = 0; i < 2; i++) {
        memcpy(stacked + (size_t)i * count, weights[i].data, count * sizeof *stacked);
        memcpy(bias + i * HEADS, biases[i].data, HEADS * sizeof *bias);
    }
    const sv_status status = sv_linear_prepare(c, out, sv_view(stacked, SV_F32, 2 * HEADS, 3 * inner),
                                               sv_view(bias, SV_F32, 1, 2 * HEADS));
    free(stacked);
    return status;
}

static sv_status bind_layer(sv_binder *b, sv_xlstm_direction *w, int channels, int inner, int taps)
{
    sv_tensor host;
    SV_TRY(sv_bind_linear(b, &w->proj_up, "proj_up", 2 * inner, channels, true));
    SV_TRY(sv_bind_host(b, &host, "conv.conv.weight", sv_init_fan_in(taps), 3,
                        (const int32_t[]){inner, 1, taps}));
    SV_TRY(sv_weight_upload(sv_binder_ctx(b), &w->conv_weight, sv_view(host.data, SV_F32, inner, taps)));
    SV_TRY(sv_bind_vector(b, &w->conv_bias, "conv.conv.bias", sv_init_fan_in(taps), inner));
    SV_TRY(bind_blocks(b, &w->q_weight, &w->q_bias, "q_proj", inner));
    SV_TRY(bind_blocks(b, &w->k_weight, &w->k_bias, "k_proj", inner));
    SV_TRY(bind_blocks(b, &w->v_weight, &w->v_bias, "v_proj", inner));
    sv_binder_push(b, "mlstm_cell");
    SV_TRY(bind_gates(b, &w->gates, inner));
    SV_TRY(bind_norm(b, &w->outnorm_weight, &w->outnorm_bias, "outnorm.weight", "outnorm.bias", inner));
    sv_binder_pop(b);
    SV_TRY(sv_bind_vector(b, &w->skip, "learnable_skip", SV_INIT(1), inner));
    sv_tensor down, bias;
    SV_TRY(sv_bind_host(b, &down, "proj_down.weight", damped(inner), 2, (const int32_t[]){channels, inner}));
    SV_TRY(sv_bind_host(b, &bias, "proj_down.bias", damped(inner), 1, (const int32_t[]){channels}));
    return sv_linear_prepare(sv_binder_ctx(b), &w->proj_down, down, bias);
}

/* Settings that only exist with their default. */
static sv_status read_settings(sv_ctx *c, const sv_node *cfg, int *taps)
{
    const char *kind = "causal1d";
    bool proj_bias = true, norm_bias = true;
    SV_TRY(sv_node_string_or(c, cfg, "conv_kind", &kind, kind));
    SV_CHECK(c, strcmp(kind, "causal1d") == 0, SV_UNSUPPORTED,
             "xLSTM: conv_kind is '%s'; voxels lie in sequences here, which only 'causal1d' knows", kind);
    SV_TRY(sv_node_bool_or(c, cfg, "proj_bias", &proj_bias, true));
    SV_TRY(sv_node_bool_or(c, cfg, "norm_bias", &norm_bias, true));
    SV_CHECK(c, proj_bias && norm_bias, SV_UNSUPPORTED, "xLSTM: proj_bias and norm_bias must be True");
    SV_TRY(sv_node_int_or(c, cfg, "conv_kernel_size", taps, 4));
    SV_CHECK(c, *taps >= 2 && *taps <= MAX_TAPS, SV_UNSUPPORTED,
             "xLSTM: conv_kernel_size is %d; 2 to %d are supported", *taps, MAX_TAPS);
    sv_node_ignore(c, cfg, "d_model", NULL);   /* the official code overwrites it with the layer's channels */
    sv_node_ignore(c, cfg, "drop_path", NULL); /* training only, as is with_cp */
    sv_node_ignore(c, cfg, "with_cp", NULL);
    return SV_OK;
}

static sv_status bind(sv_binder *b, void *self, const sv_operator_spec *spec)
{
    sv_ctx *c = sv_binder_ctx(b);
    xlstm *m = self;
    int taps = 0;
    SV_TRY(read_settings(c, spec->cfg, &taps));
    m->w.inner = 2 * spec->channels;
    m->w.heads = HEADS;
    m->w.norm_eps = NORM_EPS;
    m->w.cell_eps = CELL_EPS;
    SV_CHECK(c, m->w.inner % BLOCK == 0, SV_UNSUPPORTED,
             "xLSTM: %d channels; q, k and v need a multiple of 2", spec->channels);
    for (int direction = 0; direction < DIRECTIONS; direction++) {
        sv_xlstm_direction *w = &m->w.direction[direction];
        sv_binder_push(b, "%s", names[direction]);
        SV_TRY(bind_norm(b, &w->norm_weight, &w->norm_bias, "norm.weight", "norm.bias", spec->channels));
        sv_binder_push(b, "layer");
        SV_TRY(bind_layer(b, w, spec->channels, m->w.inner, taps));
        sv_binder_pop(b);
        sv_binder_pop(b);
    }
    return SV_OK;
}

/* ---- forward ------------------------------------------------------------------------------------------ */

/* Everything of a sub-block between its norm and its last product. */
typedef struct inside {
    sv_sequence seq;               /* of a and z */
    sv_tensor a, z;                /* rows of the sub-block's input */
    sv_tensor conv, qkv, gates, h; /* slots */
} inside;

/* Quantities the fused path never stores, made for the probe alone. */
static sv_status show(sv_ctx *c, const sv_xlstm_direction *w, const inside *m, const sv_head_norm_spec *norm,
                      int direction, int inner)
{
    static const char *const labels[DIRECTIONS][6] = {
        {"rowwise_from_top_left/conv", "rowwise_from_top_left/q", "rowwise_from_top_left/v",
         "rowwise_from_top_left/igate_preact", "rowwise_from_top_left/fgate_preact",
         "rowwise_from_top_left/mlstm_out"},
        {"rowwise_from_bot_right/conv", "rowwise_from_bot_right/q", "rowwise_from_bot_right/v",
         "rowwise_from_bot_right/igate_preact", "rowwise_from_bot_right/fgate_preact",
         "rowwise_from_bot_right/mlstm_out"},
    };
    const char *const *label = labels[direction];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor extra;
    SV_TRY(sv_scratch_alloc(c, &extra, "xlstm probe", SV_F32, m->h.dim[0], inner, m->h));
    SV_TRY(sv_causal_conv(c, extra, m->a, w->conv_weight, w->conv_bias, &m->seq, SV_MAP_identity));
    SV_TRY(sv_probe(c, label[0], extra));
    SV_TRY(sv_probe(c, label[1], sv_columns(m->qkv, 0, inner)));
    SV_TRY(sv_probe(c, label[2], sv_columns(m->qkv, 2 * inner, inner)));
    SV_TRY(sv_probe(c, label[3], sv_columns(m->gates, 0, HEADS)));
    SV_TRY(sv_probe(c, label[4], sv_columns(m->gates, HEADS, HEADS)));
    sv_head_norm_spec plain = *norm;
    plain.skip = plain.gate = plain.gate_index = SV_NONE;
    SV_TRY(sv_head_norm(c, extra, m->h, SV_NONE, &plain));
    SV_TRY(sv_probe(c, label[5], extra));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* h of every slot. */
static sv_status run_cell(sv_ctx *c, const sv_xlstm_direction *w, const inside *m, int inner)
{
    const sv_sequence slots = {.length = m->seq.length, .reverse = m->seq.reverse};
    const sv_tensor q = sv_columns(m->qkv, 0, inner), k = sv_columns(m->qkv, inner, inner),
                    v = sv_columns(m->qkv, 2 * inner, inner);
    SV_TRY(sv_causal_conv(c, m->conv, m->a, w->conv_weight, w->conv_bias, &m->seq, SV_MAP_silu));
    SV_TRY(sv_block_linear(c, q, m->conv, SV_NONE, w->q_weight, w->q_bias));
    SV_TRY(sv_block_linear(c, k, m->conv, SV_NONE, w->k_weight, w->k_bias));
    SV_TRY(sv_block_linear(c, v, m->a, m->seq.index, w->v_weight, w->v_bias));
    SV_TRY(sv_linear(c, m->gates, m->qkv, SV_NONE, &w->gates, SV_MAP_identity));
    return sv_mlstm(c, m->h, q, k, v, sv_columns(m->gates, 0, HEADS), sv_columns(m->gates, HEADS, HEADS),
                    HEADS, CELL_EPS, &slots);
}

/*
 * y = x + layer(LN(x)). The first sub-block goes from rows to slots, the second from slots back to rows: the
 * repeats that fill up a sample's last group get results of their own, which the second one meets first.
 */
static sv_status run_sub_block(sv_ctx *c, const xlstm *model, int direction, sv_tensor y, sv_tensor x,
                               const sv_order *order, int length)
{
    static const char *const layer_out[DIRECTIONS] = {"rowwise_from_top_left/layer_out",
                                                      "rowwise_from_bot_right/layer_out"};
    const sv_xlstm_direction *w = &model->w.direction[direction];
    const int inner = model->w.inner, in = x.dim[0], slots = order->slot_row.dim[0];
    const bool forwards = direction == FORWARD;
    const sv_tensor from = forwards ? order->slot_row : order->row_slot; /* row of x for each row of y */
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor normed, az, out, mixed;
    inside m = {.seq = {.length = length, .reverse = !forwards}};
    if (forwards) m.seq.index = order->slot_row;
    SV_TRY(sv_scratch_alloc(c, &normed, "xlstm normed", SV_F32, in, x.dim[1], x));
    SV_TRY(sv_scratch_alloc(c, &az, "xlstm a, z", SV_F32, in, 2 * inner, x));
    SV_TRY(sv_scratch_alloc(c, &m.conv, "xlstm conv", SV_F32, slots, inner, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &m.qkv, "xlstm q, k, v", SV_F32, slots, 3 * inner, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &m.gates, "xlstm gates", SV_F32, slots, 2 * HEADS, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &m.h, "xlstm h", SV_F32, slots, inner, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &out, "xlstm out", SV_F32, y.dim[0], inner, y));
    SV_TRY(sv_scratch_alloc(c, &mixed, "xlstm mixed", SV_F32, y.dim[0], y.dim[1], y));
    m.a = sv_columns(az, 0, inner);
    m.z = sv_columns(az, inner, inner);

    SV_TRY(sv_norm(c, normed, x, w->norm_weight, w->norm_bias, NORM_EPS, SV_MAP_identity, SV_NONE));
    SV_TRY(sv_linear(c, az, normed, SV_NONE, &w->proj_up, SV_MAP_identity));
    SV_TRY(run_cell(c, w, &m, inner));
    const sv_head_norm_spec norm = {.groups = HEADS,
                                    .centred = true,
                                    .eps = NORM_EPS,
                                    .weight = w->outnorm_weight,
                                    .bias = w->outnorm_bias,
                                    .skip = m.conv,
                                    .skip_weight = w->skip,
                                    .gate = m.z,
                                    .gate_index = from};
    if (sv_probing(c)) SV_TRY(show(c, w, &m, &norm, direction, inner));
    SV_TRY(sv_head_norm(c, out, m.h, forwards ? SV_NONE : order->row_slot, &norm));
    SV_TRY(sv_linear(c, mixed, out, SV_NONE, &w->proj_down, SV_MAP_identity));
    SV_TRY(sv_probe(c, layer_out[direction], mixed));
    SV_TRY(sv_gather(c, y, x, from, mixed));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* One primitive after the other. */
static sv_status compose(sv_ctx *c, const xlstm *m, sv_tensor y, sv_tensor x, const sv_order *order,
                         int length)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor between; /* slots */
    SV_TRY(sv_scratch_alloc(c, &between, "xlstm between", SV_F32, order->slot_row.dim[0], x.dim[1],
                            order->slot_row));
    SV_TRY(run_sub_block(c, m, FORWARD, between, x, order, length));
    SV_TRY(run_sub_block(c, m, BACKWARD, y, between, order, length));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* Where the device does it all in one go, a probe sees the intermediates of the composition and the result of
 * that. */
static sv_status forward(sv_ctx *c, const void *self, sv_tensor y, sv_tensor x, const sv_order *order,
                         int length, const sv_operator_state *state)
{
    const xlstm *m = self;
    SV_CHECK(c, !state || (sv_is_none(state->in) && sv_is_none(state->out)), SV_UNSUPPORTED,
             "xLSTM walks its groups both ways here and carries no state");
    if (!sv_xlstm_block_fits(c, &m->w, length)) return compose(c, m, y, x, order, length);
    if (sv_probing(c)) {
        const sv_mark mark = sv_arena_mark(&c->scratch);
        sv_tensor composed;
        SV_TRY(sv_scratch_alloc(c, &composed, "xlstm composed", SV_F32, x.dim[0], x.dim[1], x));
        SV_TRY(compose(c, m, composed, x, order, length));
        sv_arena_rewind(&c->scratch, mark);
    }
    return sv_xlstm_block(c, y, x, &m->w, order, length);
}

const sv_operator sv_operator_xlstm = {
    .name = "xLSTM", .bytes = sizeof(xlstm), .bind = bind, .forward = forward};
