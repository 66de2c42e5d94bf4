/* SPDX-License-Identifier: Apache-2.0 */
#include "backbones/trial.h"

#include <stdlib.h>
#include <string.h>

sv_status sv_trial_open(sv_ctx *c, sv_trial *trial, const sv_operator *type, const sv_node *cfg, int channels,
                        uint64_t seed)
{
    const sv_operator_spec spec = {.channels = channels, .layer = 1, .layers = 2, .cfg = cfg, .type = type};
    sv_arena *const weights_before = c->weights;
    *trial = (sv_trial){
        .type = type, .channels = channels, .weights = sv_weights_new(), .self = calloc(1, type->bytes)};
    sv_arena_init(&trial->arena, "operator weights", c->device);
    SV_CHECK(c, trial->weights && trial->self, SV_NO_MEMORY, "no memory for an operator of %d channels",
             channels);
    c->weights = &trial->arena;
    sv_status status = sv_binder_open_init(c, trial->weights, seed, &trial->binder);
    if (status == SV_OK) status = type->bind(trial->binder, trial->self, &spec);
    if (status == SV_OK) trial->parameters = sv_binder_parameters(trial->binder);
    c->weights = weights_before;
    return status;
}

void sv_trial_close(sv_trial *trial)
{
    sv_binder_close(trial->binder);
    free(trial->self);
    sv_weights_free(trial->weights);
    sv_arena_free(&trial->arena);
}

/* ---- tokens -------------------------------------------------------------------------------------------- */

sv_status sv_trial_tokens_alloc(sv_ctx *c, sv_trial_tokens *out, int channels, int groups, int length)
{
    const int count = groups * length;
    *out = (sv_trial_tokens){.groups = groups, .length = length};
    SV_TRY(sv_frame_alloc(c, &out->x, "operator input", SV_F32, count, channels, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &out->y, "operator output", SV_F32, count, channels, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &out->rows, "operator order", SV_I32, count, 1, SV_NONE));
    sv_tensor offsets; /* one sample, all of whose rows are live */
    SV_TRY(sv_frame_alloc(c, &offsets, "operator offsets", SV_I32, 2, 1, SV_NONE));
    int32_t *order = malloc(sizeof *order * (size_t)count);
    SV_CHECK(c, order, SV_NO_MEMORY, "no memory for %d groups of %d tokens", groups, length);
    for (int i = 0; i < count; i++) order[i] = i;
    sv_status status = c->device->upload(c, out->rows.data, order, sizeof *order * (size_t)count);
    if (status == SV_OK)
        status = c->device->upload(c, offsets.data, (const int32_t[]){0, count}, 2 * sizeof *order);
    if (status == SV_OK) status = c->device->queue_wait(c);
    out->x.offsets = out->y.offsets = out->rows.offsets = sv_i32(offsets);
    out->x.batch = out->y.batch = out->rows.batch = 1;
    free(order);
    return status;
}

sv_status sv_trial_tokens_fill(sv_ctx *c, const sv_trial_tokens *tokens, uint32_t seed, bool equal)
{
    const size_t one = (size_t)tokens->length * (size_t)tokens->x.dim[1];
    const size_t count = one * (size_t)tokens->groups;
    float *values = malloc(sizeof *values * count);
    SV_CHECK(c, values, SV_NO_MEMORY, "no memory for %d groups of %d tokens", tokens->groups, tokens->length);
    uint32_t state = seed * 2654435761u + 1;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = equal && i >= one ? values[i - one] : ((float)(state >> 8) * 0x1p-23f - 1) * 1.7320508f;
    }
    sv_status status = c->device->upload(c, tokens->x.data, values, sizeof *values * count);
    if (status == SV_OK) status = c->device->queue_wait(c);
    free(values);
    return status;
}

sv_status sv_trial_run(sv_ctx *c, const sv_trial *trial, const sv_trial_tokens *tokens,
                       const sv_operator_state *state)
{
    const sv_order in_place = {.slot_row = tokens->rows, .row_slot = tokens->rows};
    return trial->type->forward(c, trial->self, tokens->y, tokens->x, &in_place, tokens->length, state);
}
