/* SPDX-License-Identifier: Apache-2.0 */
#include "spatial.h"

#include <math.h>

static const float NORM_EPS = 1e-6f;

sv_status sv_bind_layer_norm(sv_binder *b, sv_tensor *scale, sv_tensor *bias, const char *name, int n)
{
    sv_binder_push(b, "%s", name);
    SV_TRY(sv_flax_bind_vector(b, scale, "scale", SV_INIT(1), n, 0));
    SV_TRY(sv_flax_bind_vector(b, bias, "bias", SV_INIT(0), n, 0));
    sv_binder_pop(b);
    return SV_OK;
}

sv_status sv_spatial_bind(sv_binder *b, sv_spatial *block, int width, int heads, int mlp)
{
    static const char *const projections[3] = {"query", "key", "value"};
    SV_CHECK(sv_binder_ctx(b), heads >= 1 && width % heads == 0, SV_UNSUPPORTED,
             "attention: %d channels do not divide into %d heads", width, heads);
    *block = (sv_spatial){.width = width, .heads = heads, .mlp = mlp};
    const sv_flax_dense in = {.ndim = 3, .inputs = 1, .dim = {width, heads, width / heads}};
    const sv_flax_dense out = {.ndim = 3, .inputs = 2, .dim = {heads, width / heads, width}};
    SV_TRY(sv_bind_layer_norm(b, &block->norm[0], &block->norm_bias[0], "LayerNorm_0", width));
    SV_TRY(sv_bind_layer_norm(b, &block->norm[1], &block->norm_bias[1], "LayerNorm_1", width));
    sv_binder_push(b, "MultiHeadDotProductAttention_0");
    SV_TRY(sv_flax_bind_joined(b, &block->qkv, projections, 3, &in));
    SV_TRY(sv_flax_bind(b, &block->out, "out", &out));
    sv_binder_pop(b);
    sv_binder_push(b, "MlpBlock_0");
    SV_TRY(sv_flax_bind_dense(b, &block->dense[0], "Dense_0", width, mlp));
    SV_TRY(sv_flax_bind_dense(b, &block->dense[1], "Dense_1", mlp, width));
    sv_binder_pop(b);
    return SV_OK;
}

/* y = MHA(x) */
static sv_status attend(sv_ctx *c, const sv_spatial *block, sv_tensor y, sv_tensor x,
                        const sv_frame_order *order)
{
    const int d = block->width;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor qkv, z;
    SV_TRY(sv_scratch_alloc(c, &qkv, "queries, keys, values", SV_F32, x.dim[0], 3 * d, x));
    SV_TRY(sv_scratch_alloc(c, &z, "attended", SV_F32, x.dim[0], d, x));
    SV_TRY(sv_linear(c, qkv, x, order->by_frame, &block->qkv, SV_MAP_identity));
    const sv_tensor q = sv_columns(qkv, 0, d), k = sv_columns(qkv, d, d), v = sv_columns(qkv, 2 * d, d);
    SV_TRY(sv_probe(c, "MultiHeadDotProductAttention_0/query", q));
    SV_TRY(sv_probe(c, "MultiHeadDotProductAttention_0/key", k));
    SV_TRY(sv_probe(c, "MultiHeadDotProductAttention_0/value", v));
    const float scale = 1.0f / sqrtf((float)(d / block->heads));
    SV_TRY(sv_dense_attention(c, z, q, k, v, block->heads, scale, order->tokens));
    SV_TRY(sv_linear(c, y, z, order->by_row, &block->out, SV_MAP_identity));
    sv_arena_rewind(&c->scratch, mark);
    SV_TRY(sv_probe(c, "MultiHeadDotProductAttention_0/out", y));
    return sv_probe(c, "MultiHeadDotProductAttention_0", y);
}

static sv_status mlp(sv_ctx *c, const sv_spatial *block, sv_tensor y, sv_tensor x)
{
    const bool probing = sv_probing(c);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor hidden;
    SV_TRY(sv_scratch_alloc(c, &hidden, "mlp", SV_F32, x.dim[0], block->mlp, x));
    SV_TRY(sv_linear(c, hidden, x, SV_NONE, &block->dense[0], probing ? SV_MAP_identity : SV_MAP_gelu_tanh));
    if (probing) {
        SV_TRY(sv_probe(c, "MlpBlock_0/Dense_0", hidden));
        SV_TRY(sv_map1(c, hidden, hidden, SV_MAP_gelu_tanh));
    }
    SV_TRY(sv_linear(c, y, hidden, SV_NONE, &block->dense[1], SV_MAP_identity));
    sv_arena_rewind(&c->scratch, mark);
    SV_TRY(sv_probe(c, "MlpBlock_0/Dense_1", y));
    return sv_probe(c, "MlpBlock_0", y);
}

sv_status sv_spatial_forward(sv_ctx *c, const sv_spatial *block, sv_tensor x, const sv_frame_order *order)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor y, z;
    SV_TRY(sv_scratch_alloc(c, &y, "spatial norm", SV_F32, x.dim[0], x.dim[1], x));
    SV_TRY(sv_scratch_alloc(c, &z, "spatial result", SV_F32, x.dim[0], x.dim[1], x));
    SV_TRY(sv_norm(c, y, x, block->norm[0], block->norm_bias[0], NORM_EPS, SV_MAP_identity, SV_NONE));
    SV_TRY(sv_probe(c, "LayerNorm_0", y));
    SV_TRY(attend(c, block, z, y, order));
    SV_TRY(sv_map2(c, x, x, z, SV_MAP_add));
    SV_TRY(sv_probe(c, "+sa", x));
    SV_TRY(sv_norm(c, y, x, block->norm[1], block->norm_bias[1], NORM_EPS, SV_MAP_identity, SV_NONE));
    SV_TRY(sv_probe(c, "LayerNorm_1", y));
    SV_TRY(mlp(c, block, z, y));
    SV_TRY(sv_map2(c, x, x, z, SV_MAP_add));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
