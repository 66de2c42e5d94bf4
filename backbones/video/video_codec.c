/* SPDX-License-Identifier: Apache-2.0
 *
 * Encoder and decoder of the video model without quantisation.
 *
 *     encoder   conv3x3 to depth 0, block; then for every further depth: 2 x 2 mean, blocks
 *     decoder   conv3x3 to the FIRST depth, although it comes last; then the depths backwards: blocks, doubled map (not after
 *               the last); LayerNorm over channels, Dense, tanh
 *
 * GroupNorm in the blocks always has 32 groups.
 */
#include "convs5.h"
#include "flax.h"

enum { GROUPS = 32 };
static const float BRANCH = 0.1f;

/* ---- residual block ------------------------------------------------------------------------------------- */

sv_status sv_video_block_bind(sv_binder *b, sv_video_block *block, int in, int out, int height, int width)
{
    SV_CHECK(sv_binder_ctx(b), in % GROUPS == 0 && out % GROUPS == 0, SV_BAD_INPUT,
             "a block from %d to %d channels: multiples of %d are needed", in, out, GROUPS);
    *block = (sv_video_block){.in = in, .out = out, .cells = height * width, .has_skip = in != out};
    SV_TRY(sv_video_norm_bind(b, &block->norm[0], "GroupNorm_0", in));
    SV_TRY(sv_video_conv_bind(b, &block->conv[0], "Conv_0", "Conv_0.bias", 3, in, out, height, width, 1));
    SV_TRY(sv_video_norm_bind(b, &block->norm[1], "GroupNorm_1", out));
    SV_TRY(sv_video_conv_bind(b, &block->conv[1], "Conv_1", "AddBias_0.bias", 3, out, out, height, width,
                              BRANCH));
    if (!block->has_skip) return SV_OK;
    return sv_video_conv_bind(b, &block->skip, "skip", NULL, 1, in, out, height, width, 1);
}

sv_status sv_video_block_run(sv_ctx *c, const sv_video_block *block, sv_tensor y, sv_tensor x)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor p, q;
    SV_TRY(sv_scratch_alloc(c, &p, "block", SV_F32, x.dim[0], block->in, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &q, "block", SV_F32, x.dim[0], block->out, SV_NONE));
    SV_TRY(sv_map_norm(c, p, x, block->norm[0].scale, block->norm[0].bias, block->cells, GROUPS, SV_VIDEO_EPS,
                       SV_MAP_elu));
    SV_TRY(sv_video_conv_run(c, &block->conv[0], q, p, SV_NONE, SV_MAP_identity));
    SV_TRY(sv_map_norm(c, q, q, block->norm[1].scale, block->norm[1].bias, block->cells, GROUPS, SV_VIDEO_EPS,
                       SV_MAP_elu));
    sv_tensor aside = x;
    if (block->has_skip) {
        aside = y;
        SV_TRY(sv_video_conv_run(c, &block->skip, y, x, SV_NONE, SV_MAP_identity));
    }
    SV_TRY(sv_video_conv_run(c, &block->conv[1], y, q, aside, SV_MAP_identity));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static sv_status bind_block(sv_binder *b, sv_video_codec *codec, int index, int in, int out, int shift)
{
    sv_binder_push(b, "ResNetBlock_%d", index);
    SV_TRY(
        sv_video_block_bind(b, &codec->block[index], in, out, codec->height >> shift, codec->width >> shift));
    sv_binder_pop(b);
    return SV_OK;
}

/* ---- encoder -------------------------------------------------------------------------------------------- */

sv_status sv_video_encoder_bind(sv_binder *b, sv_video_codec *e)
{
    int next = 0;
    SV_TRY(sv_video_conv_bind(b, &e->first, "Conv_0", "Conv_0.bias", 3, e->channels, e->depth[0], e->height,
                              e->width, 1));
    SV_TRY(bind_block(b, e, next++, e->depth[0], e->depth[0], 0));
    for (int i = 1; i < e->depths; i++)
        for (int k = 0; k < e->blocks; k++)
            SV_TRY(bind_block(b, e, next++, e->depth[k == 0 ? i - 1 : i], e->depth[i], i));
    return SV_OK;
}

sv_status sv_video_encode(sv_ctx *c, const sv_video_codec *e, sv_tensor y, sv_tensor pictures)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor x, next;
    int rows = pictures.dim[0], block = 0;
    SV_TRY(sv_scratch_alloc(c, &next, "encoder", SV_F32, rows, e->depth[0], SV_NONE));
    SV_TRY(sv_video_conv_run(c, &e->first, next, pictures, SV_NONE, SV_MAP_identity));
    SV_TRY(sv_scratch_alloc(c, &x, "encoder", SV_F32, rows, e->depth[0], SV_NONE));
    SV_TRY(sv_video_block_run(c, &e->block[block++], x, next));
    for (int i = 1; i < e->depths; i++) {
        SV_TRY(sv_scratch_alloc(c, &next, "encoder", SV_F32, rows / 4, e->depth[i - 1], SV_NONE));
        SV_TRY(sv_map_half(c, next, x, e->height >> (i - 1), e->width >> (i - 1)));
        rows /= 4;
        x = next;
        for (int k = 0; k < e->blocks; k++) {
            SV_TRY(sv_scratch_alloc(c, &next, "encoder", SV_F32, rows, e->depth[i], SV_NONE));
            SV_TRY(sv_video_block_run(c, &e->block[block++], next, x));
            x = next;
        }
    }
    SV_TRY(sv_map1(c, y, x, SV_MAP_identity));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* ---- decoder -------------------------------------------------------------------------------------------- */

sv_status sv_video_decoder_bind(sv_binder *b, sv_video_codec *d)
{
    const int last = d->depths - 1, width = d->depth[0];
    int next = 0;
    SV_TRY(sv_video_conv_bind(b, &d->first, "Conv_0", "Conv_0.bias", 3, d->d_model, width, d->height >> last,
                              d->width >> last, 1));
    for (int i = last; i >= 0; i--)
        for (int k = 0; k < d->blocks; k++)
            SV_TRY(bind_block(b, d, next++,
                              k > 0       ? d->depth[i]
                              : i == last ? width
                                          : d->depth[i + 1],
                              d->depth[i], i));
    SV_TRY(sv_video_norm_bind(b, &d->norm, "LayerNorm_0", d->depth[0]));
    return sv_flax_bind_dense(b, &d->dense, "Dense_0", width, d->channels);
}

sv_status sv_video_decode(sv_ctx *c, const sv_video_codec *d, sv_tensor pictures, sv_tensor x)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int last = d->depths - 1;
    int rows = x.dim[0], block = 0;
    sv_tensor next;
    SV_TRY(sv_scratch_alloc(c, &next, "decoder", SV_F32, rows, d->depth[0], SV_NONE));
    SV_TRY(sv_video_conv_run(c, &d->first, next, x, SV_NONE, SV_MAP_identity));
    x = next;
    for (int i = last; i >= 0; i--) {
        for (int k = 0; k < d->blocks; k++) {
            SV_TRY(sv_scratch_alloc(c, &next, "decoder", SV_F32, rows, d->depth[i], SV_NONE));
            SV_TRY(sv_video_block_run(c, &d->block[block++], next, x));
            x = next;
        }
        if (i == 0) break;
        SV_TRY(sv_scratch_alloc(c, &next, "decoder", SV_F32, rows * 4, d->depth[i], SV_NONE));
        SV_TRY(sv_map_double(c, next, x, d->height >> i, d->width >> i));
        rows *= 4;
        x = next;
    }
    SV_TRY(sv_norm(c, x, x, d->norm.scale, d->norm.bias, SV_VIDEO_EPS, SV_MAP_identity, SV_NONE));
    SV_TRY(sv_linear(c, pictures, x, SV_NONE, &d->dense, SV_MAP_tanh));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
