/* SPDX-License-Identifier: Apache-2.0
 *
 * The classification head of TRecViT.
 */
#include "trecvit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

sv_status sv_video_head_bind(sv_binder *b, sv_video_head *head, const sv_trecvit_spec *spec)
{
    *head = (sv_video_head){.width = spec->width,
                            .rep = spec->rep,
                            .classes = spec->classes,
                            .tokens = spec->grid[0] * spec->grid[1] + (spec->class_token ? 1 : 0),
                            .class_token = spec->class_token};
    SV_TRY(sv_flax_bind_dense(b, &head->pre_logits, "pre_logits", spec->width, spec->rep));
    return sv_flax_bind_dense(b, &head->classifier, "cls_head", spec->rep, spec->classes);
}

static sv_tensor rows_of(sv_tensor t, int first, int count)
{
    t.data = (char *)t.data + (size_t)first * (size_t)t.pitch * sv_dtype_bytes((sv_dtype)t.dtype);
    t.dim[0] = count;
    return t;
}

/* y [segments, C] = mean of the rows x[rows[start[s]]].., all segments of 'count' rows; rows NULL: one behind the other. */
static sv_status mean_rows(sv_ctx *c, sv_tensor y, sv_tensor x, int count, const int32_t *rows)
{
    const int segments = y.dim[0], all = segments * count;
    int32_t *host = malloc(sizeof *host * ((size_t)segments + 1));
    SV_CHECK(c, host, SV_NO_MEMORY, "no memory for %d means", segments);
    for (int i = 0; i <= segments; i++) host[i] = i * count;
    sv_tensor start, places = SV_NONE;
    sv_status status = sv_scratch_alloc(c, &start, "starts of means", SV_I32, segments + 1, 1, SV_NONE);
    if (status == SV_OK)
        status = c->device->upload(c, start.data, host, sizeof *host * ((size_t)segments + 1));
    if (status == SV_OK && rows) {
        status = sv_scratch_alloc(c, &places, "rows of means", SV_I32, all, 1, SV_NONE);
        if (status == SV_OK) status = c->device->upload(c, places.data, rows, sizeof *rows * (size_t)all);
    }
    if (status == SV_OK) status = c->device->queue_wait(c);
    free(host);
    SV_TRY(status);
    SV_TRY(sv_segment_sum(c, y, x, start, places, NULL));
    return sv_head_map(c, y, y, 1, SV_HEAD_TIMES, 1.0f / (float)count);
}

/* The mean over tokens: rows (b, token, t) -> (b, t). */
static sv_status mean_tokens(sv_ctx *c, const sv_video_head *head, sv_tensor y, sv_tensor encoded, int batch,
                             int length)
{
    const int n = head->tokens;
    int32_t *rows = malloc(sizeof *rows * (size_t)encoded.dim[0] + 1);
    SV_CHECK(c, rows, SV_NO_MEMORY, "no memory for the mean over tokens");
    for (int i = 0; i < batch * length; i++)
        for (int token = 0; token < n; token++)
            rows[i * n + token] = (i / length * n + token) * length + i % length;
    const sv_status status = mean_rows(c, y, encoded, n, rows);
    free(rows);
    return status;
}

sv_status sv_video_head_frames(sv_ctx *c, const sv_video_head *head, sv_tensor *rep, sv_tensor encoded,
                               int batch, int length)
{
    SV_TRY(sv_frame_alloc(c, rep, "frame representations", SV_F32, batch * length, head->rep, SV_NONE));
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor in;
    if (head->class_token) {
        for (int b = 0; b < batch; b++) {
            in = rows_of(encoded, b * head->tokens * length, length);
            SV_TRY(sv_probe(c, "head_input", in));
            SV_TRY(
                sv_linear(c, rows_of(*rep, b * length, length), in, SV_NONE, &head->pre_logits, SV_MAP_tanh));
        }
    } else {
        SV_TRY(sv_scratch_alloc(c, &in, "mean token", SV_F32, batch * length, head->width, SV_NONE));
        SV_TRY(mean_tokens(c, head, in, encoded, batch, length));
        SV_TRY(sv_probe(c, "head_input", in));
        SV_TRY(sv_linear(c, *rep, in, SV_NONE, &head->pre_logits, SV_MAP_tanh));
    }
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

sv_status sv_video_head_clips(sv_ctx *c, const sv_video_head *head, sv_tensor *pooled, sv_tensor *logits,
                              sv_tensor rep, int batch, int length)
{
    SV_TRY(sv_frame_alloc(c, pooled, "clip representations", SV_F32, batch, head->rep, SV_NONE));
    SV_TRY(sv_frame_alloc(c, logits, "logits", SV_F32, batch, head->classes, SV_NONE));
    const sv_mark mark = sv_arena_mark(&c->scratch);
    SV_TRY(mean_rows(c, *pooled, rep, length, NULL));
    sv_arena_rewind(&c->scratch, mark);
    return sv_linear(c, *logits, *pooled, SV_NONE, &head->classifier, SV_MAP_identity);
}

void sv_video_average(const float *logits, int clips, int classes, float *mean, float *probabilities)
{
    for (int k = 0; k < classes; k++) mean[k] = probabilities[k] = 0;
    for (int i = 0; i < clips; i++) {
        const float *row = logits + (size_t)i * (size_t)classes;
        double most = -INFINITY, sum = 0;
        for (int k = 0; k < classes; k++) most = fmax(most, (double)row[k]);
        for (int k = 0; k < classes; k++) sum += exp((double)row[k] - most);
        for (int k = 0; k < classes; k++) {
            mean[k] += row[k] / (float)clips;
            probabilities[k] += (float)(exp((double)row[k] - most) / sum / clips);
        }
    }
}
