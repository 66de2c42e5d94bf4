/* SPDX-License-Identifier: Apache-2.0
 *
 * Pictures to tokens. The table of what is added to a token holds the class token, and for the others bias + position: the
 * linear layer itself has no bias and gives zeros for a class token, whose patch is number -1.
 */
#include "trecvit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int sv_tokenizer_patch_numbers(const sv_tokenizer *t)
{
    return 3 * t->patch[0] * t->patch[1] * t->patch[2];
}

/* Sines and cosines of the grid position of patch i: sin(x w), cos(x w), sin(y w), cos(y w), w = 10000^(-k / (c/4 - 1)). */
static void sine_position(float *out, int width, int y, int x)
{
    const int quarter = width / 4;
    for (int k = 0; k < quarter; k++) {
        const double omega = pow(10000, -(quarter > 1 ? (double)k / (quarter - 1) : 0));
        out[k] = (float)sin(x * omega);
        out[quarter + k] = (float)cos(x * omega);
        out[2 * quarter + k] = (float)sin(y * omega);
        out[3 * quarter + k] = (float)cos(y * omega);
    }
}

/* The table on the host, [tokens, width]. */
static sv_status fill_table(sv_binder *b, const sv_tokenizer *t, const sv_trecvit_spec *spec,
                            const float *bias, float *table)
{
    const int c = t->width, patches = t->grid[0] * t->grid[1], first = t->class_token ? 1 : 0;
    float *rows = table + (size_t)first * (size_t)c;
    if (spec->sines) {
        for (int i = 0; i < patches; i++)
            sine_position(rows + (size_t)i * (size_t)c, c, i / t->grid[1], i % t->grid[1]);
    } else {
        sv_tensor learned;
        const int32_t dims[3] = {1, patches, c};
        SV_TRY(sv_bind_host(b, &learned, "pos_embedding", (sv_init){SV_INIT_NORMAL, 0, 1 / sqrtf((float)c)},
                            3, dims));
        memcpy(rows, learned.data, sizeof *rows * (size_t)patches * (size_t)c);
    }
    for (int i = 0; i < patches; i++)
        for (int k = 0; k < c; k++) rows[(size_t)i * (size_t)c + (size_t)k] += bias[k];
    if (t->class_token) {
        sv_tensor token;
        const int32_t dims[3] = {1, 1, c};
        SV_TRY(sv_bind_host(b, &token, "cls", (sv_init){SV_INIT_NORMAL, 0, 0.02f}, 3, dims));
        memcpy(table, token.data, sizeof *table * (size_t)c);
    }
    return SV_OK;
}

sv_status sv_tokenizer_bind(sv_binder *b, sv_tokenizer *t, const sv_trecvit_spec *spec)
{
    sv_ctx *c = sv_binder_ctx(b);
    *t = (sv_tokenizer){.width = spec->width, .class_token = spec->class_token};
    memcpy(t->patch, spec->patch, sizeof t->patch);
    memcpy(t->grid, spec->grid, sizeof t->grid);
    const int patches = t->grid[0] * t->grid[1], numbers = sv_tokenizer_patch_numbers(t);
    SV_CHECK(c, !spec->sines || spec->width % 4 == 0, SV_UNSUPPORTED,
             "positions by sines need a width that 4 divides, not %d", spec->width);
    t->tokens = patches + (spec->class_token ? 1 : 0);

    const int32_t dims[5] = {t->patch[0], t->patch[1], t->patch[2], 3, t->width}, bias_dim = t->width;
    sv_tensor kernel, bias;
    sv_binder_push(b, "embedding");
    SV_TRY(sv_bind_host(b, &kernel, "kernel", sv_init_fan_in(numbers), 5, dims));
    SV_TRY(sv_bind_host(b, &bias, "bias", SV_INIT(0), 1, &bias_dim));
    sv_binder_pop(b);
    const float *from = sv_f32(kernel);
    SV_TRY(sv_flax_prepare(c, &t->embedding, &from, 1, numbers, t->width, NULL));

    float *table = NULL, *memory = NULL;
    SV_TRY(sv_bind_memory(b, &table, (int64_t)t->tokens * t->width));
    SV_TRY(sv_bind_memory(b, &memory, t->tokens));
    SV_TRY(fill_table(b, t, spec, sv_f32(bias), table));
    SV_TRY(sv_weight_upload(c, &t->table, sv_view(table, SV_F32, t->tokens, t->width)));
    int32_t *patch_of = (int32_t *)memory;
    for (int i = 0; i < t->tokens; i++) patch_of[i] = i - (t->class_token ? 1 : 0);
    return sv_weight_upload(c, &t->patch_of, sv_view(patch_of, SV_I32, t->tokens, 1));
}

void sv_tokenizer_patches(const sv_tokenizer *t, const float *video, int frames, float *out)
{
    const size_t run = 3 * (size_t)t->patch[2], row = run * (size_t)t->grid[1];
    const int height = t->grid[0] * t->patch[1];
    for (int f = 0; f < frames; f += t->patch[0])
        for (int y = 0; y < t->grid[0]; y++)
            for (int x = 0; x < t->grid[1]; x++)
                for (int dt = 0; dt < t->patch[0]; dt++)
                    for (int dy = 0; dy < t->patch[1]; dy++) {
                        const size_t line =
                            (size_t)(f + dt) * (size_t)height + (size_t)(y * t->patch[1] + dy);
                        memcpy(out, video + line * row + (size_t)x * run, sizeof *out * run);
                        out += run;
                    }
}

/* Numbers made on the host, on the device in the frame arena. Waits. */
static sv_status upload_ints(sv_ctx *c, sv_tensor *out, const char *name, const int32_t *host, int count)
{
    SV_TRY(sv_frame_alloc(c, out, "video row numbers", SV_I32, count, 1, SV_NONE));
    SV_CHECK(c, out->data, SV_NO_MEMORY, "no memory for '%s'", name);
    SV_TRY(c->device->upload(c, out->data, host, sizeof *host * (size_t)count));
    return c->device->queue_wait(c);
}

/* Rows (b, token, t): the patch of each, and its place in the table. */
static sv_status number_rows(sv_ctx *c, const sv_tokenizer *t, int batch, int length, sv_tensor *patch_of,
                             sv_tensor *token_of)
{
    const int patches = t->grid[0] * t->grid[1], first = t->class_token ? 1 : 0,
              rows = batch * t->tokens * length;
    int32_t *host = malloc(sizeof *host * 2 * (size_t)rows + 1);
    SV_CHECK(c, host, SV_NO_MEMORY, "no memory for %d tokens", rows);
    for (int i = 0; i < rows; i++) {
        const int frame = i % length, token = i / length % t->tokens, b = i / length / t->tokens;
        host[i] = token < first ? -1 : (b * length + frame) * patches + token - first;
        host[rows + i] = token;
    }
    sv_status status = upload_ints(c, patch_of, "patches", host, rows);
    if (status == SV_OK) status = upload_ints(c, token_of, "tokens", host + rows, rows);
    free(host);
    return status;
}

sv_status sv_tokenizer_forward(sv_ctx *c, const sv_tokenizer *t, sv_tensor *tokens, sv_tensor patches,
                               int batch, int length)
{
    SV_TRY(sv_frame_alloc(c, tokens, "tokens", SV_F32, batch * t->tokens * length, t->width, SV_NONE));
    if (batch == 1 && length == 1) {
        SV_TRY(sv_linear(c, *tokens, patches, t->patch_of, &t->embedding, SV_MAP_identity));
        return sv_map2(c, *tokens, *tokens, t->table, SV_MAP_add);
    }
    sv_tensor patch_of, token_of;
    SV_TRY(number_rows(c, t, batch, length, &patch_of, &token_of));
    SV_TRY(sv_linear(c, *tokens, patches, patch_of, &t->embedding, SV_MAP_identity));
    return sv_gather(c, *tokens, t->table, token_of, *tokens);
}
