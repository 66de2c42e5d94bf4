/* SPDX-License-Identifier: Apache-2.0
 *
 * TRecViT's parts around the recurrence: the spatial block, the tokenizer, the head.
 */
#include "check_trecvit.h"

#include <stdlib.h>
#include <string.h>

static sv_status compare_spatial(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    (void)c;
    static const char *const names[][2] = {
        {"MultiHeadDotProductAttention_0", "sa"}, {"+sa", "after_sa"}, {"MlpBlock_0", "mlp"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i][0]) == 0) return trecvit_compare(user, names[i][1], tensor);
    return SV_OK;
}

sv_status trecvit_run_spatial(trecvit_case *k)
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
    SV_TRY(trecvit_check_shape(k, &array, 3));
    const sv_frame_order order = {.tokens = (int)array.dim[1]};
    sv_h5_array_free(&array);
    c->probe = compare_spatial;
    c->probe_user = k;
    const sv_status status = sv_spatial_forward(c, &block, x, &order);
    c->probe = NULL;
    SV_TRY(status);
    return trecvit_compare(k, "y", x);
}

sv_status trecvit_run_tokenizer(trecvit_case *k)
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

sv_status trecvit_run_head(trecvit_case *k)
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
