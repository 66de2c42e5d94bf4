/* SPDX-License-Identifier: Apache-2.0 */
#include "temporal.h"

#include <math.h>

static const float NORM_EPS = 1e-6f;

sv_status sv_rms_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor weight)
{
    const sv_head_norm_spec how = {.groups = 1, .eps = NORM_EPS, .weight = weight};
    return sv_head_norm(c, y, x, SV_NONE, &how);
}

/* 'tensor' before 'map' to the probe, then the map: someone compares what a layer gives before its activation. */
static sv_status probe_then_map(sv_ctx *c, const char *name, sv_tensor tensor, sv_map map)
{
    SV_TRY(sv_probe(c, name, tensor));
    return sv_map1(c, tensor, tensor, map);
}

/* ---- RG-LRU ------------------------------------------------------------------------------------------- */

/* On a CPU a product for each block; elsewhere, where a block has as many outputs as inputs, one for all of them. */
static sv_status bind_gate(sv_binder *b, sv_linear_weights *each, sv_block_gate *all, const char *name,
                           int heads, int in, int outputs)
{
    *all = (sv_block_gate){.w = SV_NONE, .bias = SV_NONE};
    if (in != outputs || sv_binder_ctx(b)->device->kind == SV_CPU)
        return sv_flax_bind_blocks(b, each, name, heads, in, outputs);
    return sv_flax_bind_diagonal(b, &all->w, &all->bias, name, heads, in);
}

sv_status sv_rg_lru_bind(sv_binder *b, sv_rg_lru *lru, int width, int heads, bool complex_numbers)
{
    sv_ctx *c = sv_binder_ctx(b);
    const int gates = complex_numbers ? width / 2 : width;
    SV_CHECK(c,
             heads >= 1 && heads <= SV_VIDEO_HEADS && width % heads == 0 && gates % heads == 0 &&
                 (!complex_numbers || width % 2 == 0),
             SV_UNSUPPORTED, "RG-LRU: %d channels do not divide into %d blocks of gates (at most %d)", width,
             heads, SV_VIDEO_HEADS);
    lru->width = width;
    lru->heads = heads;
    lru->complex_numbers = complex_numbers;
    SV_TRY(
        bind_gate(b, lru->input_gate, &lru->input_blocks, "input_gate", heads, width / heads, gates / heads));
    SV_TRY(bind_gate(b, lru->a_gate, &lru->a_blocks, "a_gate", heads, width / heads, gates / heads));
    sv_tensor param;
    float *speed = NULL;
    const int32_t dim = gates;
    /* a within 0.5..0.999 where the gate is open */
    SV_TRY(sv_bind_host(b, &param, "a_param", (sv_init){SV_INIT_UNIFORM, -9, -2.4f}, 1, &dim));
    SV_TRY(sv_bind_memory(b, &speed, gates));
    for (int i = 0; i < gates; i++) {
        const double x = sv_f32(param)[i];
        speed[i] = (float)(-8 * (fmax(x, 0) + log1p(exp(-fabs(x)))));
    }
    SV_TRY(sv_weight_upload(c, &lru->speed, sv_view(speed, SV_F32, 1, gates)));
    lru->turn = SV_NONE;
    if (!complex_numbers) return SV_OK;
    return sv_flax_bind_vector(b, &lru->turn, "a_imag_param", (sv_init){SV_INIT_UNIFORM, -0.3f, 0.3f}, gates,
                               0);
}

/* y [S, gates] = sigmoid of the block-diagonal layer. */
static sv_status gate(sv_ctx *c, const sv_rg_lru *lru, const sv_linear_weights *blocks,
                      const sv_block_gate *all, sv_tensor y, sv_tensor x, const char *name)
{
    const bool probing = sv_probing(c);
    int from = 0, to = 0;
    if (!sv_is_none(all->w)) {
        SV_TRY(sv_block_linear(c, y, x, SV_NONE, all->w, all->bias));
        return probe_then_map(c, name, y, SV_MAP_sigmoid);
    }
    for (int h = 0; h < lru->heads; h++) {
        SV_TRY(sv_linear(c, sv_columns(y, to, blocks[h].n), sv_columns(x, from, blocks[h].k), SV_NONE,
                         &blocks[h], probing ? SV_MAP_identity : SV_MAP_sigmoid));
        from += blocks[h].k;
        to += blocks[h].n;
    }
    return probing ? probe_then_map(c, name, y, SV_MAP_sigmoid) : SV_OK;
}

/* in = gate * u with the root, a = |a| e^(j g turn), all [S, W] as real and imaginary halves. */
static sv_status complex_gates(sv_ctx *c, const sv_rg_lru *lru, sv_tensor a, sv_tensor in, sv_tensor x,
                               sv_tensor g, sv_tensor open, const sv_temporal_walk *walk,
                               const sv_sequence *seq)
{
    const int half = lru->width / 2;
    const sv_tensor re = sv_columns(a, 0, half), im = sv_columns(a, half, half);
    sv_tensor angle, log_a, size;
    SV_TRY(sv_scratch_alloc(c, &angle, "rg-lru angles", SV_F32, x.dim[0], half, x));
    SV_TRY(sv_scratch_alloc(c, &log_a, "rg-lru logarithms", SV_F32, x.dim[0], half, x));
    SV_TRY(sv_scratch_alloc(c, &size, "rg-lru sizes", SV_F32, x.dim[0], half, x));
    SV_TRY(sv_column_scale(c, angle, g, lru->turn, SV_NONE));
    SV_TRY(sv_column_scale(c, log_a, g, lru->speed, SV_NONE));
    for (int part = 0; part < 2; part++) {
        const sv_tensor to = sv_columns(in, part * half, half);
        SV_TRY(sv_map2(c, to, sv_columns(x, part * half, half), open, SV_MAP_mul));
        SV_TRY(sv_root_gates(c, size, to, log_a, to, walk->position, seq));
    }
    SV_TRY(sv_map1(c, re, angle, SV_MAP_cos));
    SV_TRY(sv_map1(c, im, angle, SV_MAP_sin));
    SV_TRY(sv_map2(c, re, re, size, SV_MAP_mul));
    return sv_map2(c, im, im, size, SV_MAP_mul);
}

sv_status sv_rg_lru_forward(sv_ctx *c, const sv_rg_lru *lru, sv_tensor y, sv_tensor x,
                            const sv_temporal_walk *walk)
{
    const sv_sequence seq = {.length = walk->length, .state_in = walk->h_in, .state_out = walk->h_out};
    const int gates = lru->complex_numbers ? lru->width / 2 : lru->width;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor a, in, g, open;
    SV_TRY(sv_scratch_alloc(c, &g, "rg-lru decay", SV_F32, x.dim[0], gates, x));
    SV_TRY(sv_scratch_alloc(c, &open, "rg-lru input gate", SV_F32, x.dim[0], gates, x));
    SV_TRY(gate(c, lru, lru->input_gate, &lru->input_blocks, open, x, "input_gate"));
    SV_TRY(gate(c, lru, lru->a_gate, &lru->a_blocks, g, x, "a_gate"));
    if (lru->complex_numbers) {
        SV_TRY(sv_scratch_alloc(c, &a, "rg-lru complex decay", SV_F32, x.dim[0], lru->width, x));
        SV_TRY(sv_scratch_alloc(c, &in, "rg-lru input", SV_F32, x.dim[0], lru->width, x));
        SV_TRY(complex_gates(c, lru, a, in, x, g, open, walk, &seq));
    } else {
        a = g;
        in = open;
        SV_TRY(sv_map2(c, in, x, in, SV_MAP_mul));
        SV_TRY(sv_column_scale(c, a, a, lru->speed, SV_NONE));
        SV_TRY(sv_root_gates(c, a, in, a, in, walk->position, &seq));
    }
    SV_TRY(sv_diagonal_scan(c, y, in, a, false, lru->complex_numbers, &seq));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* ---- recurrent block ---------------------------------------------------------------------------------- */

sv_status sv_temporal_bind_conv(sv_binder *b, sv_tensor *w, sv_tensor *bias, int width, int taps)
{
    sv_tensor host;
    float *turned = NULL;
    const int32_t dims[2] = {taps, width};
    SV_TRY(sv_bind_host(b, &host, "w", sv_init_fan_in(taps), 2, dims));
    SV_TRY(sv_bind_memory(b, &turned, (int64_t)taps * width));
    for (int k = 0; k < taps; k++)
        for (int i = 0; i < width; i++) turned[i * taps + k] = sv_f32(host)[k * width + i];
    SV_TRY(sv_weight_upload(sv_binder_ctx(b), w, sv_view(turned, SV_F32, width, taps)));
    return sv_flax_bind_vector(b, bias, "b", SV_INIT(0), width, 0);
}

sv_status sv_recurrent_bind(sv_binder *b, sv_temporal *block, const sv_temporal_spec *spec)
{
    block->spec = *spec;
    SV_TRY(sv_flax_bind_dense(b, &block->linear_x, "linear_x", spec->width, spec->lru_width));
    SV_TRY(sv_flax_bind_dense(b, &block->linear_y, "linear_y", spec->width, spec->lru_width));
    SV_TRY(sv_flax_bind_dense(b, &block->linear_out, "linear_out", spec->lru_width, spec->width));
    sv_binder_push(b, "conv_1d");
    SV_TRY(sv_temporal_bind_conv(b, &block->conv_w, &block->conv_b, spec->lru_width, spec->taps));
    sv_binder_pop(b);
    sv_binder_push(b, "rg_lru");
    SV_TRY(sv_rg_lru_bind(b, &block->rg_lru, spec->lru_width, spec->heads, spec->complex_numbers));
    sv_binder_pop(b);
    return SV_OK;
}

sv_status sv_recurrent_forward(sv_ctx *c, const sv_temporal *block, sv_tensor y, sv_tensor x,
                               const sv_temporal_walk *walk)
{
    const int inner = block->spec.lru_width;
    const bool probing = sv_probing(c);
    const sv_sequence seq = {.length = walk->length, .state_in = walk->conv_in, .state_out = walk->conv_out};
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor u, v, g;
    SV_TRY(sv_scratch_alloc(c, &u, "recurrent input", SV_F32, x.dim[0], inner, x));
    SV_TRY(sv_scratch_alloc(c, &v, "recurrent conv", SV_F32, x.dim[0], inner, x));
    SV_TRY(sv_scratch_alloc(c, &g, "recurrent gate", SV_F32, x.dim[0], inner, x));
    SV_TRY(sv_linear(c, g, x, SV_NONE, &block->linear_y, probing ? SV_MAP_identity : SV_MAP_gelu_tanh));
    if (probing) SV_TRY(probe_then_map(c, "recurrent_block/linear_y", g, SV_MAP_gelu_tanh));
    SV_TRY(sv_linear(c, u, x, SV_NONE, &block->linear_x, SV_MAP_identity));
    SV_TRY(sv_probe(c, "recurrent_block/linear_x", u));
    SV_TRY(sv_causal_conv(c, v, u, block->conv_w, block->conv_b, &seq, SV_MAP_identity));
    SV_TRY(sv_probe(c, "recurrent_block/conv_1d", v));
    SV_TRY(sv_stage_begin(c, "recurrent_block"));
    SV_TRY(sv_stage_begin(c, "rg_lru"));
    SV_TRY(sv_rg_lru_forward(c, &block->rg_lru, u, v, walk));
    SV_TRY(sv_stage_end(c));
    SV_TRY(sv_stage_end(c));
    SV_TRY(sv_probe(c, "recurrent_block/rg_lru", u));
    SV_TRY(sv_map2(c, u, u, g, SV_MAP_mul));
    SV_TRY(sv_linear(c, y, u, SV_NONE, &block->linear_out, SV_MAP_identity));
    sv_arena_rewind(&c->scratch, mark);
    SV_TRY(sv_probe(c, "recurrent_block/linear_out", y));
    return sv_probe(c, "recurrent_block", y);
}

/* ---- residual block ----------------------------------------------------------------------------------- */

/* One layer for each half of [2, width, mlp]: the official library keeps both in one array. */
static sv_status bind_mlp(sv_binder *b, sv_temporal *block)
{
    const sv_temporal_spec *spec = &block->spec;
    const int32_t w_dim[3] = {2, spec->width, spec->mlp}, b_dim[4] = {2, 1, 1, spec->mlp};
    sv_tensor w, bias;
    SV_TRY(sv_flax_bind_vector(b, &block->mlp_norm, "channel_pre_norm.scale", SV_INIT(0), spec->width, 1));
    sv_binder_push(b, "mlp_block");
    SV_TRY(sv_bind_host(b, &w, "ffw_up.w", sv_init_fan_in(spec->width), 3, w_dim));
    SV_TRY(sv_bind_host(b, &bias, "ffw_up.b", SV_INIT(0), 4, b_dim));
    const float *kernels[2] = {sv_f32(w), sv_f32(w) + (size_t)spec->width * (size_t)spec->mlp};
    sv_linear_weights *to[2] = {&block->mlp_gate, &block->mlp_up};
    for (int i = 0; i < 2; i++)
        SV_TRY(sv_flax_prepare(sv_binder_ctx(b), to[i], &kernels[i], 1, spec->width, spec->mlp,
                               sv_f32(bias) + (size_t)i * (size_t)spec->mlp));
    SV_TRY(sv_flax_bind_dense(b, &block->mlp_down, "ffw_down", spec->mlp, spec->width));
    sv_binder_pop(b);
    return SV_OK;
}

sv_status sv_temporal_bind(sv_binder *b, sv_temporal *block, const sv_temporal_spec *spec)
{
    SV_TRY(sv_flax_bind_vector(b, &block->norm, "temporal_pre_norm.scale", SV_INIT(0), spec->width, 1));
    sv_binder_push(b, "recurrent_block");
    SV_TRY(sv_recurrent_bind(b, block, spec));
    sv_binder_pop(b);
    return spec->mlp > 0 ? bind_mlp(b, block) : SV_OK;
}

static sv_status gated_mlp(sv_ctx *c, const sv_temporal *block, sv_tensor y, sv_tensor x)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor g, up;
    SV_TRY(sv_scratch_alloc(c, &g, "gated mlp gate", SV_F32, x.dim[0], block->spec.mlp, x));
    SV_TRY(sv_scratch_alloc(c, &up, "gated mlp", SV_F32, x.dim[0], block->spec.mlp, x));
    SV_TRY(sv_linear(c, g, x, SV_NONE, &block->mlp_gate, SV_MAP_gelu_tanh));
    SV_TRY(sv_linear(c, up, x, SV_NONE, &block->mlp_up, SV_MAP_identity));
    SV_TRY(sv_map2(c, up, up, g, SV_MAP_mul));
    SV_TRY(sv_linear(c, y, up, SV_NONE, &block->mlp_down, SV_MAP_identity));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

sv_status sv_temporal_forward(sv_ctx *c, const sv_temporal *block, sv_tensor x, const sv_temporal_walk *walk)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor y, z;
    SV_TRY(sv_scratch_alloc(c, &y, "temporal norm", SV_F32, x.dim[0], x.dim[1], x));
    SV_TRY(sv_scratch_alloc(c, &z, "temporal result", SV_F32, x.dim[0], x.dim[1], x));
    SV_TRY(sv_rms_norm(c, y, x, block->norm));
    SV_TRY(sv_probe(c, "temporal_pre_norm", y));
    SV_TRY(sv_recurrent_forward(c, block, z, y, walk));
    SV_TRY(sv_map2(c, x, x, z, SV_MAP_add));
    if (block->spec.mlp > 0) {
        SV_TRY(sv_rms_norm(c, y, x, block->mlp_norm));
        SV_TRY(gated_mlp(c, block, z, y));
        SV_TRY(sv_map2(c, x, x, z, SV_MAP_add));
    }
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
