/* SPDX-License-Identifier: Apache-2.0
 *
 * The operators by name, from operators/operators.def.
 */
#include "backbones/operator.h"

#include <stdlib.h>
#include <string.h>

static const sv_operator *const operators[] = {
#define OPERATOR(identifier) &sv_operator_##identifier,
#include "backbones/operators/operators.def"
#undef OPERATOR
    NULL,
};

const sv_operator *sv_operator_at(int i)
{
    const int count = (int)(sizeof operators / sizeof operators[0]) - 1;
    return i >= 0 && i < count ? operators[i] : NULL;
}

const sv_operator *sv_operator_find(const char *name)
{
    for (int i = 0; operators[i]; i++)
        if (strcmp(operators[i]->name, name) == 0) return operators[i];
    return NULL;
}

/* ---- what a block costs -------------------------------------------------------------------------------- */

static sv_status run_group(sv_ctx *c, const sv_operator *type, const void *self, int channels, int length)
{
    sv_tensor x, rows;
    SV_TRY(sv_frame_alloc(c, &x, "operator input", SV_F32, length, channels, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &rows, "operator order", SV_I32, length, 1, SV_NONE));
    const size_t count = (size_t)length * (size_t)channels;
    float *values = malloc(sizeof *values * count + sizeof(int32_t) * (size_t)length);
    SV_CHECK(c, values, SV_NO_MEMORY, "no memory for a group of %d tokens", length);
    int32_t *order = (int32_t *)(void *)(values + count);
    uint32_t state = 1;
    for (size_t i = 0; i < count; i++)
        values[i] = (float)((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-22f - 2;
    for (int i = 0; i < length; i++) order[i] = i;
    sv_status status = c->device->upload(c, x.data, values, sizeof *values * count);
    if (status == SV_OK) status = c->device->upload(c, rows.data, order, sizeof *order * (size_t)length);
    if (status == SV_OK) status = c->device->queue_wait(c);
    free(values);
    SV_TRY(status);
    const sv_order in_place = {.slot_row = rows, .row_slot = rows};
    return type->forward(c, self, x, x, &in_place, length, NULL);
}

static sv_status measure_bound(sv_ctx *c, const sv_operator *type, const void *self, int channels, int length,
                               double *flops)
{
    const sv_profile before = c->profile;
    memset(&c->profile, 0, sizeof c->profile);
    c->profile.on = true;
    sv_profile_frame_begin(c);
    sv_status status = sv_stage_begin(c, "operator");
    if (status == SV_OK) status = run_group(c, type, self, channels, length);
    if (status == SV_OK) status = sv_stage_end(c);
    if (status == SV_OK) status = sv_profile_frame_end(c);
    if (status == SV_OK) *flops = c->profile.stages[0].flops / length;
    c->profile = before;
    return status;
}

sv_status sv_operator_measure(sv_ctx *c, const sv_operator *type, const sv_node *cfg, int channels,
                              int length, sv_operator_facts *out)
{
    const sv_operator_spec spec = {.channels = channels, .layer = 1, .layers = 2, .cfg = cfg, .type = type};
    sv_arena *const weights_before = c->weights;
    sv_weights *weights = sv_weights_new();
    void *self = calloc(1, type->bytes);
    sv_binder *b = NULL;
    sv_arena arena;
    sv_arena_init(&arena, "operator weights", c->device);
    c->weights = &arena;
    sv_status status = weights && self
                           ? SV_OK
                           : SV_FAIL(c, SV_NO_MEMORY, "no memory for an operator of %d channels", channels);
    if (status == SV_OK) status = sv_binder_open_init(c, weights, 1, &b);
    if (status == SV_OK) status = type->bind(b, self, &spec);
    if (status == SV_OK) out->parameters = sv_binder_parameters(b);
    if (status == SV_OK) status = measure_bound(c, type, self, channels, length, &out->flops);
    sv_binder_close(b);
    free(self);
    sv_weights_free(weights);
    c->weights = weights_before;
    sv_arena_free(&arena);
    return status;
}
