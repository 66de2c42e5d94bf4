/* SPDX-License-Identifier: Apache-2.0
 *
 * Reference data of operator blocks: inputs, outputs and intermediates of a block with its official weights. Shapes and
 * settings come from the file (its weights where a setting is implied by them).
 */
#include "check_bound.h"

#include "backbones/operator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_operator(check_file *file)
{
    if (!sv_h5_has_attribute(file->h5, "operator") || !sv_h5_has_attribute(file->h5, "d_model")) return false;
    for (int i = 0; i < file->count; i++)
        if (strncmp(file->names[i], "weights/", 8) == 0) return true;
    return false;
}

typedef struct operator_case {
    check_run *run;
    check_file *file;
    char name[64]; /* "G1_L77" */
    int groups, length;
} operator_case;

/* Ours [G*L, heads*width] as [G, heads, L, width]; reversed: each group's time backwards. malloc'ed. */
static float *by_heads(const float *rows, int count, int length, int heads, int width, bool reversed)
{
    float *out = malloc(sizeof *out * (size_t)count * (size_t)heads * (size_t)width + 1);
    for (int i = 0; out && i < count; i++) {
        const int g = i / length, t = reversed ? length - 1 - i % length : i % length;
        for (int h = 0; h < heads; h++)
            memcpy(
                out + (((size_t)g * (size_t)heads + (size_t)h) * (size_t)length + (size_t)t) * (size_t)width,
                rows + ((size_t)i * (size_t)heads + (size_t)h) * (size_t)width, sizeof *out * (size_t)width);
    }
    return out;
}

/*
 * Mamba's recordings lie [G, channels, L], those of its backward direction in reversed time; RetNet's q, k, v and
 * retention [G, heads, L, width]; the others [G, L, channels], xLSTM's second direction in reversed time but for its result.
 */
static sv_status compare_intermediate(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    operator_case *k = user;
    char dataset[256], attribute[128];
    snprintf(dataset, sizeof dataset, "%s/%s", k->name, name);
    if (!check_has(k->file, dataset)) return SV_OK;
    snprintf(attribute, sizeof attribute, "%s_maxabs_f64_f32", k->name);
    void *host = NULL;
    int rows = 0;
    SV_TRY(sv_download_rows(c, tensor, &host, &rows));
    const int channels = (int)sv_row_elements(tensor);
    const bool transposed = strncmp(name, "bwd/", 4) == 0 || strncmp(name, "fwd/", 4) == 0;
    const bool backward = strncmp(name, "bwd/", 4) == 0 ||
                          (strncmp(name, "rowwise_from_bot_right/", 23) == 0 && !strstr(name, "layer_out"));
    int heads = transposed ? channels : 1;
    sv_h5_array recorded;
    sv_status status = sv_h5_read(c, k->file->h5, dataset, &recorded);
    if (status == SV_OK) {
        if (recorded.ndim == 4 && recorded.dim[1] >= 1 && channels % recorded.dim[1] == 0)
            heads = (int)recorded.dim[1];
        sv_h5_array_free(&recorded);
        float *turned = by_heads(host, rows, k->length, heads, channels / heads, backward);
        status = turned ? check_dataset(k->run, k->file, dataset, turned, (size_t)rows * (size_t)channels,
                                        attribute)
                        : SV_FAIL(c, SV_NO_MEMORY, "no memory");
        free(turned);
    }
    free(host);
    return status;
}

static sv_status run_case(operator_case *k, const sv_operator *type, const void *self)
{
    sv_ctx *c = k->run->c;
    char name[160];
    sv_h5_array input;
    snprintf(name, sizeof name, "%s/input", k->name);
    SV_TRY(check_read(k->run, k->file, name, &input));
    SV_CHECK(c, input.ndim == 3 && !input.integer, SV_BAD_INPUT, "%s: '%s' is not [G,L,C]", k->file->path,
             name);
    k->groups = (int)input.dim[0];
    k->length = (int)input.dim[1];
    const int slots = k->groups * k->length, channels = (int)input.dim[2];
    sv_tensor x, y, identity;
    SV_TRY(sv_frame_alloc(c, &x, "reference input", SV_F32, slots, channels, SV_NONE));
    SV_TRY(c->device->upload(c, x.data, input.f, sizeof(float) * input.count));
    SV_TRY(check_attach_rows(k->run, &x, slots));
    SV_TRY(sv_frame_alloc(c, &y, "output", SV_F32, slots, channels, x));
    SV_TRY(sv_frame_alloc(c, &identity, "identity order", SV_I32, slots, 1, x));
    int32_t *host = malloc(sizeof *host * (size_t)slots + 1);
    SV_CHECK(c, host, SV_NO_MEMORY, "no memory");
    for (int i = 0; i < slots; i++) host[i] = i;
    sv_status status = c->device->upload(c, identity.data, host, sizeof *host * (size_t)slots);
    if (status == SV_OK) status = c->device->queue_wait(c);
    free(host);
    sv_h5_array_free(&input);
    SV_TRY(status);
    const sv_order order = {.slot_row = identity, .row_slot = identity};
    c->probe = compare_intermediate;
    c->probe_user = k;
    status = type->forward(c, self, y, x, &order, k->length, NULL);
    c->probe = NULL;
    SV_TRY(status);
    char attribute[128];
    snprintf(name, sizeof name, "%s/output", k->name);
    snprintf(attribute, sizeof attribute, "%s_maxabs_f64_f32", k->name);
    return check_tensor(k->run, k->file, name, y, attribute);
}

static sv_status run_operator_bound(check_run *run, check_file *file, check_bound *b)
{
    sv_ctx *c = run->c;
    const char *name = NULL;
    sv_operator_spec spec = {.layers = 34, .cfg = sv_node_find(b->operator_cfg, "CFG")};
    SV_TRY(check_int(run, file, "d_model", &spec.channels));
    if (sv_h5_has_attribute(file->h5, "layer_id")) SV_TRY(check_int(run, file, "layer_id", &spec.layer));
    SV_TRY(sv_node_string(c, b->operator_cfg, "NAME", &name));
    const sv_operator *type = sv_operator_find(name);
    SV_CHECK(c, type, SV_UNSUPPORTED, "operator '%s' is not built in", name);
    spec.type = type;
    void *self = calloc(1, type->bytes);
    SV_CHECK(c, self, SV_NO_MEMORY, "no memory");
    sv_status status = type->bind(b->binder, self, &spec);
    if (status == SV_OK) status = sv_binder_finish(b->binder);
    for (int i = 0; i < file->count && status == SV_OK; i++) {
        operator_case k = {.run = run, .file = file};
        const char *slash = strchr(file->names[i], '/');
        if (!slash || strcmp(slash, "/input") != 0) continue;
        snprintf(k.name, sizeof k.name, "%.*s", (int)(slash - file->names[i]), file->names[i]);
        status = run_case(&k, type, self);
    }
    free(self);
    return status;
}

static sv_status run_operator(check_run *run, check_file *file)
{
    return check_with_weights(run, file, true, run_operator_bound);
}

const check_kind check_operator = {"LION operator block", is_operator, run_operator};
