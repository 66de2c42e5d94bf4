/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers of ConvS5 one after the other. Long skips (of twelve layers): what enters layer 3 is added to what enters layer 8,
 * what enters layer 6 to what enters layer 11.
 */
#include "convs5.h"

#include <stdio.h>

sv_status sv_convs5_stack_bind(sv_binder *b, sv_convs5_stack *stack, const sv_convs5_spec *spec)
{
    sv_ctx *c = sv_binder_ctx(b);
    SV_CHECK(c, spec->layers >= 1 && spec->layers <= SV_CONVS5_LAYERS, SV_UNSUPPORTED,
             "ConvS5: %d layers; 1 to %d are supported", spec->layers, SV_CONVS5_LAYERS);
    stack->spec = *spec;
    for (int i = 0; i < spec->layers; i++) {
        sv_binder_push(b, "layers_%d", i);
        sv_binder_push(b, "seq");
        SV_TRY(sv_convs5_layer_bind(b, &stack->layer[i], &stack->spec));
        sv_binder_pop(b);
        if (spec->norm) SV_TRY(sv_video_norm_bind(b, &stack->layer[i].norm, "norm", spec->width));
        sv_binder_pop(b);
    }
    return SV_OK;
}

/* Rows of layer i. */
static sv_tensor state_of(sv_tensor states, int layers, int i)
{
    if (sv_is_none(states)) return states;
    const int rows = states.dim[0] / layers;
    states.data = (float *)states.data + (size_t)i * (size_t)rows * (size_t)states.pitch;
    states.dim[0] = rows;
    return states;
}

/* v = block(norm(u)) + u, normalised behind. */
static sv_status run_layer(sv_ctx *c, const sv_convs5_stack *stack, int i, sv_tensor v, sv_tensor u,
                           int frames, int stretch, sv_tensor state_in, sv_tensor state_out)
{
    const sv_convs5_spec *s = &stack->spec;
    const sv_convs5_layer *layer = &stack->layer[i];
    const bool before = s->norm && s->norm_first;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor input = u;
    if (before) {
        SV_TRY(sv_scratch_alloc(c, &input, "normalised", SV_F32, u.dim[0], s->width, SV_NONE));
        SV_TRY(sv_norm(c, input, u, layer->norm.scale, layer->norm.bias, SV_VIDEO_EPS, SV_MAP_identity,
                       SV_NONE));
    }
    SV_TRY(sv_convs5_layer_run(c, layer, v, input, frames, stretch, state_in, state_out));
    if (s->skip) SV_TRY(sv_map2(c, v, v, u, SV_MAP_add));
    if (s->norm && !s->norm_first)
        SV_TRY(sv_norm(c, v, v, layer->norm.scale, layer->norm.bias, SV_VIDEO_EPS, SV_MAP_identity, SV_NONE));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

sv_status sv_convs5_stack_run(sv_ctx *c, const sv_convs5_stack *stack, sv_tensor y, sv_tensor u, int frames,
                              int stretch, sv_tensor state_in, sv_tensor state_out)
{
    const sv_convs5_spec *s = &stack->spec;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor buffer[2], kept[2] = {SV_NONE, SV_NONE}, x = u;
    for (int i = 0; i < 2; i++)
        SV_TRY(sv_scratch_alloc(c, &buffer[i], "layer", SV_F32, u.dim[0], s->width, SV_NONE));
    for (int i = 0; i < 2 && s->long_skips; i++)
        SV_TRY(sv_scratch_alloc(c, &kept[i], "long skip", SV_F32, u.dim[0], s->width, SV_NONE));
    for (int i = 0; i < s->layers; i++) {
        char name[16];
        snprintf(name, sizeof name, "layer%d", i);
        if (s->long_skips && (i == 3 || i == 6)) SV_TRY(sv_map1(c, kept[i == 6], x, SV_MAP_identity));
        if (s->long_skips && (i == 8 || i == 11)) SV_TRY(sv_map2(c, x, x, kept[i == 11], SV_MAP_add));
        const sv_tensor to = i + 1 == s->layers && y.data != x.data ? y : buffer[i % 2];
        SV_TRY(run_layer(c, stack, i, to, x, frames, stretch, state_of(state_in, s->layers, i),
                         state_of(state_out, s->layers, i)));
        SV_TRY(sv_probe(c, name, to));
        x = to;
    }
    if (x.data != y.data) SV_TRY(sv_map1(c, y, x, SV_MAP_identity));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
