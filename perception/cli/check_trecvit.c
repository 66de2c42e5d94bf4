/* SPDX-License-Identifier: Apache-2.0
 *
 * TRecViT's blocks one by one, in the shapes of the file: sequences at once, frame by frame with the state carried, from a
 * given state, and with a new clip in the middle.
 */
#include "check_trecvit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GROUP_BYTES = 64 };

/* ---- helpers ------------------------------------------------------------------------------------------ */

static sv_tensor rows_of(sv_tensor t, int first, int count)
{
    t.data = (char *)t.data + (size_t)first * (size_t)t.pitch * sizeof(float);
    t.dim[0] = count;
    return t;
}

static sv_status zeros(sv_ctx *c, sv_tensor *out, int rows, int columns)
{
    SV_TRY(sv_frame_alloc(c, out, "reference state", SV_F32, rows, columns, SV_NONE));
    return sv_fill(c, *out, 0);
}

/* Frame t of [sequences, length, width] rows, as a matrix of its own, or back. */
static sv_status copy_frame(sv_ctx *c, sv_tensor frame, sv_tensor all, int t, int length, bool back)
{
    const size_t bytes = sizeof(float) * (size_t)frame.pitch;
    for (int g = 0; g < frame.dim[0]; g++) {
        void *one = rows_of(frame, g, 1).data, *place = rows_of(all, g * length + t, 1).data;
        SV_TRY(c->device->copy(c, back ? place : one, back ? one : place, bytes));
    }
    return SV_OK;
}

static sv_status check_shape(trecvit_case *k, const sv_h5_array *x, int ndim)
{
    SV_CHECK(k->c, x->ndim == ndim && !x->integer && x->count > 0, SV_BAD_INPUT,
             "%s: '%s/x' is no array of floats with %d axes", k->file->path, k->group, ndim);
    return SV_OK;
}

/* ---- norm, block-diagonal layer ----------------------------------------------------------------------- */

static sv_status run_rms_norm(trecvit_case *k)
{
    sv_tensor scale, x, y;
    sv_h5_array array;
    SV_TRY(trecvit_input(k, "x", &array, &x));
    sv_h5_array_free(&array);
    SV_TRY(sv_flax_bind_vector(k->binder, &scale, "scale", SV_INIT(0), x.dim[1], 1));
    SV_TRY(sv_binder_finish(k->binder));
    SV_TRY(sv_frame_alloc(k->c, &y, "result", SV_F32, x.dim[0], x.dim[1], SV_NONE));
    SV_TRY(sv_rms_norm(k->c, y, x, scale));
    return trecvit_compare(k, "y", y);
}

static sv_status run_block_diagonal(trecvit_case *k)
{
    sv_tensor x, y, w = sv_weights_find(k->weights, "w");
    sv_h5_array array;
    sv_linear_weights blocks[SV_VIDEO_HEADS];
    SV_TRY(trecvit_input(k, "x", &array, &x));
    sv_h5_array_free(&array);
    const int count = w.dim[0], in = w.dim[1], out = w.dim[2];
    SV_CHECK(k->c, count <= SV_VIDEO_HEADS && x.dim[1] == count * in, SV_BAD_INPUT,
             "%s: '%s' has %d blocks of %d for %d channels", k->file->path, k->group, count, in, x.dim[1]);
    SV_TRY(sv_flax_bind_blocks(k->binder, blocks, NULL, count, in, out));
    SV_TRY(sv_frame_alloc(k->c, &y, "result", SV_F32, x.dim[0], count * out, SV_NONE));
    for (int i = 0; i < count; i++)
        SV_TRY(sv_linear(k->c, sv_columns(y, i * out, out), sv_columns(x, i * in, in), SV_NONE, &blocks[i],
                         SV_MAP_identity));
    return trecvit_compare(k, "y", y);
}

/* ---- conv --------------------------------------------------------------------------------------------- */

typedef struct conv_case {
    sv_tensor w, bias, x; /* x [sequences * length, width] */
    int sequences, length, width, kept;
} conv_case;

static sv_status run_conv_step(trecvit_case *k, const conv_case *conv)
{
    sv_ctx *c = k->c;
    sv_tensor frame, out, all, state, states;
    SV_TRY(zeros(c, &state, conv->sequences, conv->kept * conv->width));
    SV_TRY(sv_frame_alloc(c, &frame, "frame", SV_F32, conv->sequences, conv->width, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &out, "frame result", SV_F32, conv->sequences, conv->width, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &all, "results", SV_F32, conv->x.dim[0], conv->width, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &states, "states", SV_F32, conv->x.dim[0], state.dim[1], SV_NONE));
    const sv_sequence seq = {.length = 1, .state_in = state, .state_out = state};
    for (int t = 0; t < conv->length; t++) {
        SV_TRY(copy_frame(c, frame, conv->x, t, conv->length, false));
        SV_TRY(sv_causal_conv(c, out, frame, conv->w, conv->bias, &seq, SV_MAP_identity));
        SV_TRY(copy_frame(c, out, all, t, conv->length, true));
        SV_TRY(copy_frame(c, state, states, t, conv->length, true));
    }
    SV_TRY(trecvit_compare(k, "step/y", all));
    return trecvit_compare(k, "step/state", states);
}

/* A frame at position 0 begins a clip of its own, which does not see what lies before; the state after is of the last frames. */
static sv_status run_conv_cuts(trecvit_case *k, const conv_case *conv)
{
    if (!check_video_has(k->file, k->group, "docmask/segment_pos")) return SV_OK;
    sv_ctx *c = k->c;
    sv_tensor position, y, state;
    sv_h5_array array;
    SV_TRY(trecvit_input(k, "docmask/segment_pos", &array, &position));
    SV_TRY(sv_frame_alloc(c, &y, "results", SV_F32, conv->x.dim[0], conv->width, SV_NONE));
    SV_TRY(zeros(c, &state, conv->sequences, conv->kept * conv->width));
    for (int row = 0, end; row < conv->x.dim[0]; row = end) {
        for (end = row + 1; end < conv->x.dim[0] && end % conv->length != 0 && array.i[end] != 0;) end++;
        const sv_sequence seq = {.length = end - row};
        SV_TRY(sv_causal_conv(c, rows_of(y, row, end - row), rows_of(conv->x, row, end - row), conv->w,
                              conv->bias, &seq, SV_MAP_identity));
    }
    sv_h5_array_free(&array);
    SV_TRY(trecvit_compare(k, "docmask/y", y));
    const sv_sequence whole = {.length = conv->length, .state_out = state};
    SV_TRY(sv_causal_conv(c, y, conv->x, conv->w, conv->bias, &whole, SV_MAP_identity));
    return trecvit_compare(k, "docmask/state", state);
}

/* The first frames only, fewer than taps. */
static sv_status run_conv_short(trecvit_case *k, const conv_case *conv)
{
    if (!check_video_has(k->file, k->group, "short2/y")) return SV_OK;
    sv_ctx *c = k->c;
    sv_tensor x, y, state;
    const int frames = conv->length < 2 ? conv->length : 2;
    SV_TRY(sv_frame_alloc(c, &x, "first frames", SV_F32, conv->sequences * frames, conv->width, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &y, "results", SV_F32, conv->sequences * frames, conv->width, SV_NONE));
    SV_TRY(zeros(c, &state, conv->sequences, conv->kept * conv->width));
    for (int g = 0; g < conv->sequences; g++)
        SV_TRY(c->device->copy(c, rows_of(x, g * frames, frames).data,
                               rows_of(conv->x, g * conv->length, frames).data,
                               sizeof(float) * (size_t)frames * (size_t)conv->width));
    const sv_sequence seq = {.length = frames, .state_out = state};
    SV_TRY(sv_causal_conv(c, y, x, conv->w, conv->bias, &seq, SV_MAP_identity));
    SV_TRY(trecvit_compare(k, "short2/y", y));
    return trecvit_compare(k, "short2/state", state);
}

static sv_status run_conv(trecvit_case *k)
{
    sv_ctx *c = k->c;
    const int taps = trecvit_size(k, "w", 0);
    conv_case conv = {.width = trecvit_size(k, "w", 1), .kept = taps - 1};
    sv_tensor y, state;
    sv_h5_array array;
    SV_TRY(trecvit_input(k, "x", &array, &conv.x));
    SV_TRY(check_shape(k, &array, 3));
    conv.sequences = (int)array.dim[0];
    conv.length = (int)array.dim[1];
    sv_h5_array_free(&array);
    SV_TRY(sv_temporal_bind_conv(k->binder, &conv.w, &conv.bias, conv.width, taps));
    SV_TRY(sv_binder_finish(k->binder));
    SV_TRY(sv_frame_alloc(c, &y, "results", SV_F32, conv.x.dim[0], conv.width, SV_NONE));
    SV_TRY(zeros(c, &state, conv.sequences, conv.kept * conv.width));
    const sv_sequence seq = {.length = conv.length, .state_out = state};
    SV_TRY(sv_causal_conv(c, y, conv.x, conv.w, conv.bias, &seq, SV_MAP_identity));
    SV_TRY(trecvit_compare(k, "y", y));
    SV_TRY(trecvit_compare(k, "state", state));
    SV_TRY(run_conv_short(k, &conv));
    SV_TRY(run_conv_step(k, &conv));
    return run_conv_cuts(k, &conv);
}

/* ---- RG-LRU ------------------------------------------------------------------------------------------- */

static sv_status compare_gates(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    (void)c;
    char dataset[64];
    snprintf(dataset, sizeof dataset, "%.40s_preact", name);
    return trecvit_compare(user, dataset, tensor);
}

/* 'part' is "", "cont/" or "reset/": inputs and results below it. */
static sv_status run_rg_lru_part(trecvit_case *k, const sv_rg_lru *lru, const char *part)
{
    sv_ctx *c = k->c;
    char name[64];
    sv_tensor x, y;
    sv_h5_array array;
    sv_temporal_walk walk = {.h_in = SV_NONE};
    snprintf(name, sizeof name, "%sx", part);
    if (!check_video_has(k->file, k->group, name)) return SV_OK;
    SV_TRY(trecvit_input(k, name, &array, &x));
    SV_TRY(check_shape(k, &array, 3));
    walk.length = (int)array.dim[1];
    const int sequences = (int)array.dim[0];
    sv_h5_array_free(&array);
    snprintf(name, sizeof name, "%ssegment_pos", part);
    SV_TRY(trecvit_input(k, name, &array, &walk.position));
    sv_h5_array_free(&array);
    snprintf(name, sizeof name, "%sh0", part);
    if (check_video_has(k->file, k->group, name)) {
        SV_TRY(trecvit_input(k, name, &array, &walk.h_in));
        sv_h5_array_free(&array);
    }
    SV_TRY(zeros(c, &walk.h_out, sequences, lru->width));
    SV_TRY(sv_frame_alloc(c, &y, "results", SV_F32, x.dim[0], lru->width, SV_NONE));
    c->probe = part[0] ? NULL : compare_gates;
    c->probe_user = k;
    const sv_status status = sv_rg_lru_forward(c, lru, y, x, &walk);
    c->probe = NULL;
    SV_TRY(status);
    snprintf(name, sizeof name, "%sy", part);
    SV_TRY(trecvit_compare(k, name, y));
    snprintf(name, sizeof name, "%slast_h", part);
    return trecvit_compare(k, name, walk.h_out);
}

static sv_status run_rg_lru(trecvit_case *k)
{
    int real = 1;
    sv_rg_lru lru;
    SV_TRY(check_video_int(k->run, k->file, k->group, "only_real", &real));
    const int heads = trecvit_size(k, "a_gate.w", 0), width = heads * trecvit_size(k, "a_gate.w", 1);
    SV_TRY(sv_rg_lru_bind(k->binder, &lru, width, heads, !real));
    SV_TRY(sv_binder_finish(k->binder));
    SV_TRY(run_rg_lru_part(k, &lru, ""));
    SV_TRY(run_rg_lru_part(k, &lru, "cont/"));
    return run_rg_lru_part(k, &lru, "reset/");
}

/* ---- recurrent and residual block --------------------------------------------------------------------- */

static sv_temporal_spec temporal_spec(const trecvit_case *k, const char *prefix)
{
    char name[96];
    sv_temporal_spec s = {.mlp = trecvit_size(k, "mlp_block.ffw_down.kernel", 0)};
    snprintf(name, sizeof name, "%slinear_x.kernel", prefix);
    s.width = trecvit_size(k, name, 0);
    s.lru_width = trecvit_size(k, name, 1);
    snprintf(name, sizeof name, "%sconv_1d.w", prefix);
    s.taps = trecvit_size(k, name, 0);
    snprintf(name, sizeof name, "%srg_lru.a_gate.w", prefix);
    s.heads = trecvit_size(k, name, 0);
    snprintf(name, sizeof name, "%srg_lru.a_imag_param", prefix);
    s.complex_numbers = trecvit_size(k, name, 0) > 0;
    return s;
}

/* y = the block of x, which keeps its content. */
static sv_status run_temporal(sv_ctx *c, const sv_temporal *block, bool residual, sv_tensor y, sv_tensor x,
                              const sv_temporal_walk *walk)
{
    if (!residual) return sv_recurrent_forward(c, block, y, x, walk);
    SV_TRY(c->device->copy(c, y.data, x.data, sizeof(float) * (size_t)x.dim[0] * (size_t)x.pitch));
    return sv_temporal_forward(c, block, y, walk);
}

static sv_status run_temporal_steps(trecvit_case *k, const sv_temporal *block, bool residual, sv_tensor x,
                                    int sequences, int length)
{
    sv_ctx *c = k->c;
    const int width = block->spec.width, inner = block->spec.lru_width, kept = block->spec.taps - 1;
    sv_tensor frame, out, all, h, hs, conv, convs, position;
    SV_TRY(zeros(c, &h, sequences, inner));
    SV_TRY(zeros(c, &conv, sequences, kept * inner));
    SV_TRY(zeros(c, &position, sequences, 1));
    SV_TRY(sv_frame_alloc(c, &frame, "frame", SV_F32, sequences, width, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &out, "frame result", SV_F32, sequences, width, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &all, "results", SV_F32, x.dim[0], width, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &hs, "states", SV_F32, x.dim[0], inner, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &convs, "conv states", SV_F32, x.dim[0], kept * inner, SV_NONE));
    const sv_temporal_walk walk = {.length = 1,
                                   .position = position,
                                   .h_in = h,
                                   .h_out = h,
                                   .conv_in = kept ? conv : SV_NONE,
                                   .conv_out = kept ? conv : SV_NONE};
    for (int t = 0; t < length; t++) {
        SV_TRY(copy_frame(c, frame, x, t, length, false));
        SV_TRY(sv_fill(c, position, (float)t));
        SV_TRY(run_temporal(c, block, residual, out, frame, &walk));
        SV_TRY(copy_frame(c, out, all, t, length, true));
        SV_TRY(copy_frame(c, h, hs, t, length, true));
        SV_TRY(copy_frame(c, conv, convs, t, length, true));
    }
    SV_TRY(trecvit_compare(k, "step/y", all));
    SV_TRY(trecvit_compare(k, "step/rg_lru_state", hs));
    return trecvit_compare(k, "step/conv1d_state", convs);
}

static sv_status run_temporal_block(trecvit_case *k)
{
    sv_ctx *c = k->c;
    const bool residual = trecvit_size(k, "temporal_pre_norm.scale", 0) > 0;
    const sv_temporal_spec spec = temporal_spec(k, residual ? "recurrent_block." : "");
    sv_temporal *block = calloc(1, sizeof *block);
    sv_tensor x, y;
    sv_h5_array array;
    SV_CHECK(c, block, SV_NO_MEMORY, "no memory for a block");
    sv_status status =
        residual ? sv_temporal_bind(k->binder, block, &spec) : sv_recurrent_bind(k->binder, block, &spec);
    if (status == SV_OK) status = sv_binder_finish(k->binder);
    if (status == SV_OK) status = trecvit_input(k, "x", &array, &x);
    if (status != SV_OK) {
        free(block);
        return status;
    }
    const int sequences = (int)array.dim[0], length = (int)(array.count / (size_t)spec.width) / sequences;
    sv_h5_array_free(&array);
    sv_temporal_walk walk = {.length = length};
    status = zeros(c, &walk.h_out, sequences, spec.lru_width);
    if (status == SV_OK) status = zeros(c, &walk.conv_out, sequences, (spec.taps - 1) * spec.lru_width);
    if (status == SV_OK) status = sv_frame_alloc(c, &y, "results", SV_F32, x.dim[0], spec.width, SV_NONE);
    if (status == SV_OK) status = run_temporal(c, block, residual, y, x, &walk);
    if (status == SV_OK) status = trecvit_compare(k, "y", y);
    if (status == SV_OK) status = trecvit_compare(k, "rg_lru_state", walk.h_out);
    if (status == SV_OK) status = trecvit_compare(k, "conv1d_state", walk.conv_out);
    if (status == SV_OK) status = run_temporal_steps(k, block, residual, x, sequences, length);
    free(block);
    return status;
}

/* ---- spatial block, tokenizer, head ------------------------------------------------------------------- */

static sv_status compare_spatial(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    (void)c;
    static const char *const names[][2] = {
        {"MultiHeadDotProductAttention_0", "sa"}, {"+sa", "after_sa"}, {"MlpBlock_0", "mlp"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i][0]) == 0) return trecvit_compare(user, names[i][1], tensor);
    return SV_OK;
}

static sv_status run_spatial_block(trecvit_case *k)
{
    sv_ctx *c = k->c;
    sv_spatial block;
    sv_tensor x;
    sv_h5_array array;
    SV_TRY(sv_spatial_bind(k->binder, &block, trecvit_size(k, "LayerNorm_0.scale", 0),
                           trecvit_size(k, "MultiHeadDotProductAttention_0.query.kernel", 1),
                           trecvit_size(k, "MlpBlock_0.Dense_0.kernel", 1)));
    SV_TRY(sv_binder_finish(k->binder));
    SV_TRY(trecvit_input(k, "x", &array, &x));
    SV_TRY(check_shape(k, &array, 3));
    const sv_frame_order order = {.tokens = (int)array.dim[1]};
    sv_h5_array_free(&array);
    c->probe = compare_spatial;
    c->probe_user = k;
    const sv_status status = sv_spatial_forward(c, &block, x, &order);
    c->probe = NULL;
    SV_TRY(status);
    return trecvit_compare(k, "y", x);
}

static sv_status run_tokenizer(trecvit_case *k)
{
    sv_ctx *c = k->c;
    sv_tokenizer tokenizer;
    sv_h5_array video;
    sv_tensor patches, tokens;
    sv_trecvit_spec spec = {.width = trecvit_size(k, "embedding.kernel", 4),
                            .class_token = trecvit_size(k, "cls", 2) > 0,
                            .sines = trecvit_size(k, "pos_embedding", 2) == 0};
    for (int i = 0; i < 3; i++) spec.patch[i] = trecvit_size(k, "embedding.kernel", i);
    SV_TRY(check_video_read(k->run, k->file, k->group, "video", &video));
    SV_CHECK(c, video.ndim == 5 && !video.integer && video.dim[4] == 3, SV_BAD_INPUT,
             "%s: '%s/video' is no [b,t,h,w,3]", k->file->path, k->group);
    const int batch = (int)video.dim[0], frames = (int)video.dim[1], length = frames / spec.patch[0];
    for (int i = 0; i < 2; i++) spec.grid[i] = (int)video.dim[2 + i] / spec.patch[1 + i];
    SV_TRY(sv_tokenizer_bind(k->binder, &tokenizer, &spec));
    SV_TRY(sv_binder_finish(k->binder));
    const int numbers = sv_tokenizer_patch_numbers(&tokenizer),
              per_sample = length * spec.grid[0] * spec.grid[1];
    SV_TRY(sv_frame_alloc(c, &patches, "patches", SV_F32, batch * per_sample, numbers, SV_NONE));
    float *host = malloc(sizeof *host * (size_t)patches.dim[0] * (size_t)numbers + 1);
    SV_CHECK(c, host, SV_NO_MEMORY, "no memory for patches");
    for (int b = 0; b < batch; b++)
        sv_tokenizer_patches(&tokenizer, video.f + (size_t)b * (video.count / (size_t)batch), frames,
                             host + (size_t)b * (size_t)per_sample * (size_t)numbers);
    sv_status status =
        c->device->upload(c, patches.data, host, sizeof *host * (size_t)patches.dim[0] * (size_t)numbers);
    if (status == SV_OK) status = c->device->queue_wait(c);
    free(host);
    sv_h5_array_free(&video);
    if (status == SV_OK) status = sv_tokenizer_forward(c, &tokenizer, &tokens, patches, batch, length);
    SV_TRY(status);
    /* one sample at a time is turned from (token, frame) to (frame, token) */
    float *rows = NULL, *turned = malloc(sizeof *turned * (size_t)tokens.dim[0] * (size_t)spec.width + 1);
    SV_CHECK(c, turned, SV_NO_MEMORY, "no memory for tokens");
    status = trecvit_download(k, tokens, &rows);
    for (int b = 0; b < batch && status == SV_OK; b++) {
        const size_t sample = (size_t)tokenizer.tokens * (size_t)length * (size_t)spec.width;
        float *one = trecvit_swapped(rows + (size_t)b * sample, tokenizer.tokens, length, spec.width);
        if (one) memcpy(turned + (size_t)b * sample, one, sizeof *one * sample);
        free(one);
    }
    if (status == SV_OK)
        status = check_video_compare(k->run, k->file, k->group, "tokens", turned,
                                     (size_t)tokens.dim[0] * (size_t)spec.width);
    free(rows);
    free(turned);
    return status;
}

typedef struct head_inputs {
    trecvit_case *k;
    float *rows;
    size_t count;
} head_inputs;

/* Gather what the head sees of each clip. */
static sv_status keep_head_input(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    head_inputs *in = user;
    (void)c;
    if (strcmp(name, "head_input") != 0) return SV_OK;
    float *host = NULL;
    SV_TRY(trecvit_download(in->k, tensor, &host));
    const size_t count = (size_t)tensor.dim[0] * (size_t)tensor.dim[1];
    memcpy(in->rows + in->count, host, sizeof *host * count);
    in->count += count;
    free(host);
    return SV_OK;
}

static sv_status run_head(trecvit_case *k)
{
    sv_ctx *c = k->c;
    int videos = 1, clips = 1;
    char pool[64] = "tok";
    sv_h5_array encoded;
    sv_video_head head;
    sv_tensor x, rep, pooled, logits;
    SV_TRY(check_video_int(k->run, k->file, k->group, "b", &videos));
    SV_TRY(check_video_int(k->run, k->file, k->group, "num_clips", &clips));
    SV_TRY(check_video_text(k->run, k->file, k->group, "pool_type", pool));
    SV_TRY(trecvit_input(k, "encoded", &encoded, &x));
    const int batch = (int)encoded.dim[0], length = (int)encoded.dim[1], tokens = (int)encoded.dim[2];
    const size_t sample = encoded.count / (size_t)batch;
    SV_CHECK(c, encoded.ndim == 4 && batch == videos * clips, SV_BAD_INPUT,
             "%s: '%s/encoded' is not [%d videos x %d clips,t,n,c]", k->file->path, k->group, videos, clips);
    const sv_trecvit_spec spec = {.width = x.dim[1],
                                  .grid = {1, strcmp(pool, "tok") == 0 ? tokens - 1 : tokens},
                                  .class_token = strcmp(pool, "tok") == 0,
                                  .rep = trecvit_size(k, "pre_logits.kernel", 1),
                                  .classes = trecvit_size(k, "cls_head.kernel", 1)};
    SV_TRY(sv_video_head_bind(k->binder, &head, &spec));
    SV_TRY(sv_binder_finish(k->binder));
    for (int b = 0; b < batch; b++) {
        float *turned = trecvit_swapped(encoded.f + (size_t)b * sample, length, tokens, x.dim[1]);
        SV_CHECK(c, turned, SV_NO_MEMORY, "no memory for tokens");
        const sv_status status = c->device->upload(c, (char *)x.data + sizeof(float) * sample * (size_t)b,
                                                   turned, sizeof *turned * sample);
        if (status == SV_OK) SV_TRY(c->device->queue_wait(c));
        free(turned);
        SV_TRY(status);
    }
    sv_h5_array_free(&encoded);
    head_inputs in = {.k = k,
                      .rows = calloc((size_t)batch * (size_t)length, sizeof(float) * (size_t)x.dim[1])};
    SV_CHECK(c, in.rows, SV_NO_MEMORY, "no memory for the head's input");
    c->probe = keep_head_input;
    c->probe_user = &in;
    sv_status status = sv_video_head_frames(c, &head, &rep, x, batch, length);
    c->probe = NULL;
    if (status == SV_OK)
        status = check_video_compare(k->run, k->file, k->group, "head_input", in.rows, in.count);
    free(in.rows);
    SV_TRY(status);
    SV_TRY(sv_video_head_clips(c, &head, &pooled, &logits, rep, batch, length));
    SV_TRY(trecvit_compare(k, "pre_logits", pooled));
    const size_t classes = (size_t)spec.classes;
    float *host = NULL, *mean = calloc(2 * (size_t)videos * classes, sizeof *mean);
    SV_CHECK(c, mean, SV_NO_MEMORY, "no memory for %zu classes", classes);
    float *probs = mean + (size_t)videos * classes;
    status = trecvit_download(k, logits, &host);
    for (int v = 0; v < videos && status == SV_OK; v++)
        sv_video_average(host + (size_t)v * (size_t)clips * classes, clips, spec.classes,
                         mean + (size_t)v * classes, probs + (size_t)v * classes);
    if (status == SV_OK)
        status = check_video_compare(k->run, k->file, k->group, "logits", mean, (size_t)videos * classes);
    if (status == SV_OK)
        status = check_video_compare(k->run, k->file, k->group, "probs", probs, (size_t)videos * classes);
    free(host);
    free(mean);
    return status;
}

/* ---- which is which ----------------------------------------------------------------------------------- */

static const struct {
    const char *weight, *attribute; /* of the group; the attribute may be NULL */
    trecvit_body run;
} kinds[] = {
    {"w/temporal_pre_norm/scale", NULL, run_temporal_block},
    {"w/linear_x/kernel", NULL, run_temporal_block},
    {"w/LayerNorm_0/scale", NULL, run_spatial_block},
    {"w/embedding/kernel", NULL, run_tokenizer},
    {"w/pre_logits/kernel", NULL, run_head},
    {"w/a_param", NULL, run_rg_lru},
    {"w/w", "temporal_width", run_conv},
    {"w/w", "num_blocks", run_block_diagonal},
    {"w/scale", "eps", run_rms_norm},
};

static trecvit_body body_of(check_file *file, const char *group)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char attribute[2 * GROUP_BYTES];
        snprintf(attribute, sizeof attribute, "%s@%s", group, kinds[i].attribute ? kinds[i].attribute : "");
        if (check_video_has(file, group, kinds[i].weight) &&
            (!kinds[i].attribute || sv_h5_has_attribute(file->h5, attribute)))
            return kinds[i].run;
    }
    return NULL;
}

/* The next top-level group after that of dataset '*at'; false at the end. Names are sorted. */
static bool next_group(const check_file *file, int *at, char group[GROUP_BYTES])
{
    for (; *at < file->count; ++*at) {
        const char *name = file->names[*at];
        const size_t length = strcspn(name, "/");
        if (length >= GROUP_BYTES || (strncmp(name, group, length) == 0 && !group[length])) continue;
        memcpy(group, name, length);
        group[length] = '\0';
        return true;
    }
    return false;
}

static bool is_trecvit(check_file *file)
{
    char group[GROUP_BYTES] = "";
    for (int at = 0; next_group(file, &at, group);)
        if (body_of(file, group) || trecvit_is_model(file, group)) return true;
    return false;
}

static sv_status run_trecvit(check_run *run, check_file *file)
{
    char group[GROUP_BYTES] = "";
    SV_TRY(check_video_skip_info(run, file));
    for (int at = 0; next_group(file, &at, group);) {
        const trecvit_body body = body_of(file, group);
        if (body) SV_TRY(trecvit_with_weights(run, file, group, NULL, body));
    }
    return trecvit_run_model(run, file);
}

const check_kind check_trecvit = {"TRecViT", is_trecvit, run_trecvit};
