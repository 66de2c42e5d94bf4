/* SPDX-License-Identifier: Apache-2.0 */
#include "trecvit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const float NORM_EPS = 1e-6f;

/* ---- binding ------------------------------------------------------------------------------------------ */

static sv_status bind_layers(sv_binder *b, sv_trecvit *m)
{
    const sv_trecvit_spec *s = &m->spec;
    const sv_temporal_spec temporal = {.width = s->width,
                                       .lru_width = s->lru_width,
                                       .heads = s->heads,
                                       .taps = s->taps,
                                       .mlp = s->gated_mlp ? s->mlp : 0,
                                       .complex_numbers = s->complex_numbers};
    for (int i = 0; i < s->depth; i++) {
        sv_binder_push(b, "residualblock_%02d", i);
        SV_TRY(sv_temporal_bind(b, &m->temporal[i], &temporal));
        sv_binder_pop(b);
        sv_binder_push(b, "encoderblock_%d", i);
        SV_TRY(sv_spatial_bind(b, &m->spatial[i], s->width, s->heads, s->mlp));
        sv_binder_pop(b);
    }
    return sv_bind_layer_norm(b, &m->norm, &m->norm_bias, "encoder_norm", s->width);
}

sv_status sv_trecvit_bind(sv_binder *b, sv_trecvit *m, const sv_trecvit_spec *spec)
{
    sv_ctx *c = sv_binder_ctx(b);
    void *memory = NULL;
    *m = (sv_trecvit){.spec = *spec};
    SV_TRY(sv_arena_describe(c, c->weights, sizeof(sv_temporal) * (size_t)spec->depth, (void **)&memory));
    m->temporal = memory;
    SV_TRY(sv_arena_describe(c, c->weights, sizeof(sv_spatial) * (size_t)spec->depth, (void **)&memory));
    m->spatial = memory;
    sv_binder_push(b, "tokenizer");
    SV_TRY(sv_tokenizer_bind(b, &m->tokenizer, spec));
    sv_binder_pop(b);
    sv_binder_push(b, "encoder");
    SV_TRY(bind_layers(b, m));
    sv_binder_pop(b);
    if (spec->classes == 0) return SV_OK;
    sv_binder_push(b, "decoder");
    SV_TRY(sv_video_head_bind(b, &m->head, spec));
    sv_binder_pop(b);
    return SV_OK;
}

/* ---- streams ------------------------------------------------------------------------------------------ */

static sv_tensor rows_of(sv_tensor t, int first, int count)
{
    if (sv_is_none(t)) return t;
    t.data = (char *)t.data + (size_t)first * (size_t)t.pitch * sv_dtype_bytes((sv_dtype)t.dtype);
    t.dim[0] = count;
    return t;
}

sv_status sv_trecvit_streams_of(sv_ctx *c, const sv_trecvit *m, sv_state *state, int streams,
                                sv_trecvit_streams *out)
{
    const int rows = streams * m->tokenizer.tokens, kept = m->spec.taps - 1;
    const sv_state_entry *entry = NULL;
    *out = (sv_trecvit_streams){.streams = streams};
    SV_TRY(sv_state_entry_get(c, state, "trecvit position", rows, 1, &entry));
    out->position[0] = entry->now;
    out->position[1] = entry->next;
    SV_TRY(
        sv_state_entry_get(c, state, "trecvit recurrence", rows * m->spec.depth, m->spec.lru_width, &entry));
    out->h[0] = entry->now;
    out->h[1] = entry->next;
    if (kept == 0) return SV_OK;
    SV_TRY(
        sv_state_entry_get(c, state, "trecvit conv", rows * m->spec.depth, kept * m->spec.lru_width, &entry));
    out->conv[0] = entry->now;
    out->conv[1] = entry->next;
    return SV_OK;
}

/* The rows of streams first..first+count-1 in layer i. */
static sv_tensor layer_rows(const sv_trecvit *m, const sv_trecvit_streams *s, sv_tensor t, int layer,
                            int first, int count)
{
    const int n = m->tokenizer.tokens;
    return rows_of(t, (layer * s->streams + first) * n, count * n);
}

/* Every block of rows of the stream. */
sv_status sv_trecvit_keep(sv_ctx *c, const sv_trecvit *m, const sv_trecvit_streams *s, int stream)
{
    const struct {
        const sv_tensor *pair;
        int layers;
    } parts[] = {{s->position, 1}, {s->h, m->spec.depth}, {s->conv, m->spec.depth}};
    for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
        for (int i = 0; i < parts[p].layers && !sv_is_none(parts[p].pair[0]); i++) {
            const sv_tensor now = layer_rows(m, s, parts[p].pair[0], i, stream, 1),
                            next = layer_rows(m, s, parts[p].pair[1], i, stream, 1);
            SV_TRY(c->device->copy(c, next.data, now.data,
                                   sizeof(float) * (size_t)now.dim[0] * (size_t)now.pitch));
        }
    return SV_OK;
}

/* ---- forward ------------------------------------------------------------------------------------------ */

/* Numbers of one kind on the device, in the frame arena; 'host' is theirs no longer than the call. Waits. */
static sv_status upload(sv_ctx *c, sv_tensor *out, sv_dtype dtype, const void *host, int rows)
{
    SV_TRY(sv_frame_alloc(c, out, "video row numbers", dtype, rows, 1, SV_NONE));
    SV_TRY(c->device->upload(c, out->data, host, 4 * (size_t)rows));
    return c->device->queue_wait(c);
}

/* Where the tokens of each frame lie among rows (b, token, t). Single frames lie in order. */
static sv_status order_frames(sv_ctx *c, const sv_trecvit *m, int batch, int length, sv_frame_order *order)
{
    const int n = m->tokenizer.tokens, rows = batch * n * length;
    *order = (sv_frame_order){.tokens = n};
    if (length == 1) return SV_OK;
    int32_t *host = malloc(sizeof *host * 2 * (size_t)rows);
    SV_CHECK(c, host, SV_NO_MEMORY, "no memory for the order of %d tokens", rows);
    for (int row = 0; row < rows; row++) {
        const int frame = row % length, token = row / length % n, b = row / length / n;
        const int slot = (b * length + frame) * n + token;
        host[slot] = row;
        host[rows + row] = slot;
    }
    sv_status status = upload(c, &order->by_frame, SV_I32, host, rows);
    if (status == SV_OK) status = upload(c, &order->by_row, SV_I32, host + rows, rows);
    free(host);
    return status;
}

/* position of every row: that of its token's stream, and the frames since; next positions are 'length' further. */
static sv_status count_frames(sv_ctx *c, const sv_trecvit *m, int batch, int length,
                              const sv_trecvit_streams *s, int first, bool fresh, sv_tensor *position)
{
    const int n = m->tokenizer.tokens, rows = batch * n * length;
    const sv_tensor now = layer_rows(m, s, s->position[0], 0, first, batch),
                    next = layer_rows(m, s, s->position[1], 0, first, batch);
    sv_tensor step;
    if (fresh) return sv_fill(c, next, (float)length); /* each sequence's first slot is its first frame */
    SV_TRY(sv_frame_alloc(c, &step, "frames to count", SV_F32, batch * n, 1, SV_NONE));
    SV_TRY(sv_fill(c, step, (float)length));
    SV_TRY(sv_map2(c, next, now, step, SV_MAP_add));
    *position = now;
    if (length == 1) return SV_OK;
    float *base = malloc(sizeof *base * 2 * (size_t)rows);
    SV_CHECK(c, base, SV_NO_MEMORY, "no memory for the positions of %d tokens", rows);
    int32_t *group = (int32_t *)(base + rows);
    for (int row = 0; row < rows; row++) {
        base[row] = (float)(row % length);
        group[row] = row / length;
    }
    sv_tensor index;
    sv_status status = upload(c, position, SV_F32, base, rows);
    if (status == SV_OK) status = upload(c, &index, SV_I32, group, rows);
    free(base);
    SV_TRY(status);
    return sv_gather(c, *position, now, index, *position);
}

static sv_status run_layer(sv_ctx *c, const sv_trecvit *m, int i, sv_tensor x, const sv_temporal_walk *walk,
                           const sv_frame_order *order)
{
    char name[32];
    snprintf(name, sizeof name, "residualblock_%02d", i);
    SV_TRY(sv_stage_begin(c, name));
    SV_TRY(sv_temporal_forward(c, &m->temporal[i], x, walk));
    SV_TRY(sv_stage_end(c));
    SV_TRY(sv_probe(c, name, x));
    snprintf(name, sizeof name, "encoderblock_%d", i);
    SV_TRY(sv_stage_begin(c, name));
    SV_TRY(sv_spatial_forward(c, &m->spatial[i], x, order));
    SV_TRY(sv_stage_end(c));
    return sv_probe(c, name, x);
}

sv_status sv_trecvit_encode(sv_ctx *c, const sv_trecvit *m, sv_tensor *encoded, sv_tensor patches, int batch,
                            int length, const sv_trecvit_streams *streams, int first, bool fresh)
{
    sv_frame_order order;
    sv_temporal_walk walk = {.length = length};
    SV_TRY(sv_stage_begin(c, "tokenizer"));
    SV_TRY(sv_tokenizer_forward(c, &m->tokenizer, encoded, patches, batch, length));
    SV_TRY(sv_stage_end(c));
    SV_TRY(sv_probe(c, "tokens", *encoded));
    SV_TRY(order_frames(c, m, batch, length, &order));
    if (streams) SV_TRY(count_frames(c, m, batch, length, streams, first, fresh, &walk.position));
    for (int i = 0; i < m->spec.depth; i++) {
        if (streams) {
            walk.h_in = fresh ? SV_NONE : layer_rows(m, streams, streams->h[0], i, first, batch);
            walk.h_out = layer_rows(m, streams, streams->h[1], i, first, batch);
            walk.conv_in = fresh ? SV_NONE : layer_rows(m, streams, streams->conv[0], i, first, batch);
            walk.conv_out = layer_rows(m, streams, streams->conv[1], i, first, batch);
        }
        SV_TRY(run_layer(c, m, i, *encoded, &walk, &order));
    }
    SV_TRY(sv_norm(c, *encoded, *encoded, m->norm, m->norm_bias, NORM_EPS, SV_MAP_identity, SV_NONE));
    return sv_probe(c, "encoded", *encoded);
}
