/* SPDX-License-Identifier: Apache-2.0 */
#include "head.h"

#include <string.h>

#define HEAD(name) extern const sv_head_type sv_head_##name;
#include "heads.def"
#undef HEAD

static const sv_head_type *const heads[] = {
#define HEAD(name) &sv_head_##name,
#include "heads.def"
#undef HEAD
};

const sv_head_type *sv_head_find(const char *name)
{
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        if (strcmp(heads[i]->name, name) == 0) return heads[i];
    return NULL;
}

sv_status sv_head_conv_bind(sv_binder *b, sv_chain_def *chain, int *next_slot, const sv_head_conv *conv,
                            int *slot)
{
    sv_ctx *c = sv_binder_ctx(b);
    SV_CHECK(c, chain->node_count < SV_CHAIN_NODES, SV_UNSUPPORTED,
             "more than %d convolutions in the 2-D part", SV_CHAIN_NODES);
    sv_chain_node *node = &chain->nodes[chain->node_count++];
    *node = (sv_chain_node){.kind = SV_CHAIN_CONV,
                            .in = conv->in,
                            .out = *slot = (*next_slot)++,
                            .kernel = conv->kernel,
                            .stride = 1,
                            .in_channels = conv->in_channels,
                            .out_channels = conv->channels,
                            .add = -1,
                            .relu = conv->relu};
    SV_TRY(sv_bind_conv(b, &node->w, &node->bias, conv->conv, conv->norm, conv->eps, conv->channels,
                        conv->in_channels, conv->kernel, false, conv->bias));
    if (!conv->turned) return SV_OK;
    const int kernel = conv->kernel, taps = kernel * kernel;
    const int64_t filters = (int64_t)conv->channels * conv->in_channels;
    float *turned = NULL;
    SV_TRY(sv_bind_memory(b, &turned, filters * taps));
    for (int64_t i = 0; i < filters; i++)
        for (int tap = 0; tap < taps; tap++)
            turned[i * taps + tap] = node->w[i * taps + tap % kernel * kernel + tap / kernel];
    node->w = turned;
    return SV_OK;
}

sv_status sv_head_map_add(sv_ctx *c, sv_head_maps *maps, const char *name, int slot, int channels)
{
    SV_CHECK(c, maps->count < SV_HEAD_MAPS, SV_UNSUPPORTED, "more than %d maps of the head", SV_HEAD_MAPS);
    maps->map[maps->count].name = name;
    maps->map[maps->count].slot = slot;
    maps->map[maps->count++].channels = channels;
    return SV_OK;
}

/* What so many numbers take of a piece of memory. */
static size_t part_bytes(int rows, int columns)
{
    enum { ALIGNMENT = 256 };
    return (sizeof(float) * (size_t)rows * (size_t)columns + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static sv_tensor take_part(char **memory, sv_dtype dtype, int rows, int columns, const int32_t *offsets,
                           int batch)
{
    sv_tensor part = sv_view(*memory, dtype, rows, columns);
    part.offsets = offsets;
    part.batch = (int16_t)batch;
    *memory += part_bytes(rows, columns);
    return part;
}

size_t sv_candidates_bytes(int capacity, int batch)
{
    return part_bytes(batch + 1, 1) + part_bytes(capacity, SV_BOX_FIELDS) + 2 * part_bytes(capacity, 1);
}

void sv_candidates_place(sv_candidates *out, void *memory, int capacity, int batch)
{
    char *next = memory;
    int32_t *offsets = memory;
    next += part_bytes(batch + 1, 1);
    out->offsets = offsets;
    out->boxes = take_part(&next, SV_F32, capacity, SV_BOX_FIELDS, offsets, batch);
    out->scores = take_part(&next, SV_F32, capacity, 1, offsets, batch);
    out->labels = take_part(&next, SV_I32, capacity, 1, offsets, batch);
    out->index = SV_NONE;
}

sv_status sv_candidates_alloc(sv_ctx *c, sv_candidates *out, const char *name, int capacity, int batch)
{
    SV_CHECK(c, batch >= 1 && batch <= SV_MAX_BATCH, SV_USAGE, "batch of %d frames: 1 to %d are possible",
             batch, SV_MAX_BATCH);
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->frame, name, sv_candidates_bytes(capacity, batch), &memory));
    sv_candidates_place(out, memory, capacity, batch);
    return sv_frame_alloc(c, &out->index, name, SV_I32, capacity, 1, out->boxes);
}

sv_status sv_cell_picks_alloc(sv_ctx *c, sv_cell_picks *out, int rows)
{
    SV_TRY(sv_frame_alloc(c, &out->row, "picked rows", SV_I32, rows, 1, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &out->channel, "picked channels", SV_I32, rows, 1, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &out->score, "picked scores", SV_F32, rows, 1, SV_NONE));
    return sv_frame_alloc(c, &out->place, "picked places", SV_F32, rows, 2, SV_NONE);
}
