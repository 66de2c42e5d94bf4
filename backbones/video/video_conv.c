/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolutions and norms of the video blocks, from flax tensors.
 */
#include "convs5.h"

#include <stdlib.h>

const float SV_VIDEO_EPS = 1e-6f;

/* Cells from which Winograd's transform is worth it: the map's tiles then fill several tasks. */
enum { CHAIN_CELLS_LEAST = 96 * 96 };

static sv_status prepare_chain(sv_ctx *c, sv_video_conv *conv, sv_tensor w, sv_tensor bias, int kernel)
{
    const int taps = kernel * kernel;
    float *turned = malloc(sizeof *turned * (size_t)w.dim[0] * (size_t)w.dim[1]);
    sv_chain_def *def = calloc(1, sizeof *def);
    sv_status status = SV_OK;
    if (!turned || !def) status = SV_FAIL(c, SV_NO_MEMORY, "no memory for a convolution's weights");
    if (status == SV_OK) {
        for (int tap = 0; tap < taps; tap++)
            for (int i = 0; i < conv->in; i++)
                for (int o = 0; o < conv->out; o++)
                    turned[((size_t)o * (size_t)conv->in + (size_t)i) * (size_t)taps + (size_t)tap] = sv_f32(
                        w)[((size_t)tap * (size_t)conv->in + (size_t)i) * (size_t)conv->out + (size_t)o];
        *def = (sv_chain_def){
            .in_channels = conv->in, .height = conv->height, .width = conv->width, .node_count = 1};
        def->nodes[0] = (sv_chain_node){.kind = SV_CHAIN_CONV,
                                        .in = 0,
                                        .out = 1,
                                        .kernel = kernel,
                                        .stride = 1,
                                        .in_channels = conv->in,
                                        .out_channels = conv->out,
                                        .add = -1,
                                        .w = turned,
                                        .bias = sv_is_none(bias) ? NULL : sv_f32(bias)};
        status = sv_chain_prepare(c, &conv->chain, def);
        if (status == SV_OK) status = c->device->queue_wait(c);
    }
    free(turned);
    free(def);
    return status;
}

sv_status sv_video_conv_prepare(sv_ctx *c, sv_video_conv *conv, sv_tensor w, sv_tensor bias, int kernel,
                                int height, int width)
{
    const int in = w.dim[0] / (kernel * kernel), out = w.dim[1];
    *conv = (sv_video_conv){.in = in, .out = out, .height = height, .width = width, .pointwise = kernel == 1};
    if (kernel == 1) {
        float *turned = malloc(sizeof *turned * (size_t)in * (size_t)out);
        SV_CHECK(c, turned, SV_NO_MEMORY, "no memory for a convolution's weights");
        for (int i = 0; i < in; i++)
            for (int o = 0; o < out; o++)
                turned[(size_t)o * (size_t)in + (size_t)i] = sv_f32(w)[(size_t)i * (size_t)out + (size_t)o];
        sv_status status = sv_linear_prepare(c, &conv->linear, sv_view(turned, SV_F32, out, in), bias);
        if (status == SV_OK) status = c->device->queue_wait(c);
        free(turned);
        return status;
    }
    if (!c->device->ops->map_conv || (kernel == 3 && height * width >= CHAIN_CELLS_LEAST))
        return prepare_chain(c, conv, w, bias, kernel);
    return sv_map_conv_prepare(c, &conv->direct, w, bias, kernel, height, width);
}

static sv_status scaled(sv_binder *b, sv_tensor *t, float scale)
{
    if (sv_is_none(*t) || scale == 1.0f) return SV_OK;
    const int64_t count = (int64_t)t->dim[0] * t->pitch;
    float *copy = NULL;
    SV_TRY(sv_bind_memory(b, &copy, count));
    for (int64_t i = 0; i < count; i++) copy[i] = sv_f32(*t)[i] * scale;
    t->data = copy;
    return SV_OK;
}

sv_status sv_video_conv_bind(sv_binder *b, sv_video_conv *conv, const char *name, const char *bias,
                             int kernel, int in, int out, int height, int width, float scale)
{
    sv_tensor w, offset = SV_NONE;
    const sv_init init = sv_init_fan_in(kernel * kernel * in);
    sv_binder_push(b, "%s", name);
    SV_TRY(sv_bind_host(b, &w, "kernel", init, 4, (const int32_t[]){kernel, kernel, in, out}));
    sv_binder_pop(b);
    if (bias) SV_TRY(sv_bind_host(b, &offset, bias, init, 1, &out));
    w = sv_view(w.data, SV_F32, kernel * kernel * in, out);
    SV_TRY(scaled(b, &w, scale));
    SV_TRY(scaled(b, &offset, scale));
    return sv_video_conv_prepare(sv_binder_ctx(b), conv, w, offset, kernel, height, width);
}

/* Maps first..first+count-1 of a row tensor. */
static sv_tensor maps_of(sv_tensor t, int cells, int first, int count)
{
    t.data = (float *)t.data + (size_t)first * (size_t)cells * (size_t)t.pitch;
    t.dim[0] = count * cells;
    return t;
}

sv_status sv_video_conv_run(sv_ctx *c, const sv_video_conv *conv, sv_tensor y, sv_tensor x, sv_tensor add,
                            sv_map map)
{
    if (!conv->pointwise && !conv->chain) return sv_map_conv(c, y, x, &conv->direct, add, map);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const bool alone = sv_is_none(add);
    sv_tensor to = y;
    if (!alone && add.data == y.data)
        SV_TRY(sv_scratch_alloc(c, &to, "convolution", SV_F32, y.dim[0], y.dim[1], SV_NONE));
    if (conv->pointwise) {
        SV_TRY(sv_linear(c, to, x, SV_NONE, &conv->linear, alone ? map : SV_MAP_identity));
    } else {
        const int cells = conv->height * conv->width, maps = y.dim[0] / cells;
        for (int first = 0; first < maps; first += SV_MAX_BATCH) {
            const int count = maps - first < SV_MAX_BATCH ? maps - first : SV_MAX_BATCH;
            const sv_chain_output output = {.slot = 1, .map = maps_of(to, cells, first, count)};
            SV_TRY(sv_chain_run(c, conv->chain, count, maps_of(x, cells, first, count), SV_NONE, &output, 1));
        }
        if (alone && map != SV_MAP_identity) SV_TRY(sv_map1(c, y, y, map));
    }
    if (!alone) {
        SV_TRY(sv_map2(c, y, add, to, SV_MAP_add));
        if (map != SV_MAP_identity) SV_TRY(sv_map1(c, y, y, map));
    }
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

sv_status sv_video_norm_bind(sv_binder *b, sv_video_norm *norm, const char *name, int channels)
{
    sv_binder_push(b, "%s", name);
    SV_TRY(sv_bind_vector(b, &norm->scale, "scale", (sv_init){SV_INIT_UNIFORM, 0.9f, 1.1f}, channels));
    SV_TRY(sv_bind_vector(b, &norm->bias, "bias", (sv_init){SV_INIT_UNIFORM, -0.1f, 0.1f}, channels));
    sv_binder_pop(b);
    return SV_OK;
}
