/* SPDX-License-Identifier: Apache-2.0 */
#include "support_shown.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool wanted(const char *name)
{
    static const char *const parts[] = {"head/",
                                        "backbone_2d/",
                                        "backbone_3d/dow4/",
                                        "backbone_3d/dow_out/",
                                        "backbone_3d/linear_out/features",
                                        "backbone_3d/linear_bev"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strncmp(name, parts[i], strlen(parts[i])) == 0) return !strstr(name, "/operators/");
    return false;
}

static sv_status keep(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    shown_frame *r = user;
    if (!wanted(name)) return SV_OK;
    ck_assert_int_lt(r->tensor_count, SHOWN_TENSORS);
    shown *s = &r->tensors[r->tensor_count++];
    void *host = NULL;
    SV_TRY(sv_download_rows(c, tensor, &host, &s->rows));
    snprintf(s->name, sizeof s->name, "%s", name);
    s->channels = tensor.dim[1];
    s->values = host;
    return SV_OK;
}

const shown *shown_tensor(const shown_frame *r, const char *name)
{
    for (int i = 0; i < r->tensor_count; i++) {
        const char *full = r->tensors[i].name;
        const size_t all = strlen(full), end = strlen(name);
        if (strcmp(full, name) == 0 ||
            (all > end && full[all - end - 1] == '/' && strcmp(full + all - end, name) == 0))
            return &r->tensors[i];
    }
    ck_abort_msg("no tensor %s was shown", name);
    return NULL;
}

int32_t shown_integer(const shown *s, int i)
{
    int32_t value;
    memcpy(&value, &s->values[i], sizeof value);
    return value;
}

const float *shown_weight(const shown_frame *r, const char *name)
{
    char full[192];
    snprintf(full, sizeof full, "dense_head.%s", name);
    sv_tensor t = sv_weights_find(r->weights, full);
    snprintf(full, sizeof full, "backbone_3d.%s", name);
    if (sv_is_none(t)) t = sv_weights_find(r->weights, full);
    ck_assert_msg(!sv_is_none(t), "no weights %s", name);
    return sv_f32(t);
}

shown_frame shown_run(small_kind kind, const char *more, uint64_t seed)
{
    shown_frame r = {.weights = sv_weights_new()};
    test_rng rng = {seed};
    sv_ctx *c = test_context(2);
    const sv_model_def def = {.config = small_config_of(kind, more)};
    sv_model *model = NULL;
    sv_detector *d = NULL;
    assert_ok(c, sv_model_init(c, &def, seed, r.weights));
    for (int i = 0; i < sv_weights_count(r.weights); i++) { /* layer norms begin as the identity */
        const sv_tensor t = sv_weights_tensor(r.weights, i);
        if (!strstr(sv_weights_name(r.weights, i), "decoder.norm")) continue;
        for (int k = 0; k < t.dim[0]; k++) sv_f32(t)[k] += (float)rng_uniform(&rng, -0.4, 0.4);
    }
    assert_ok(c, sv_model_open_weights(c, &def, r.weights, &model));
    ck_assert_int_le(sv_model_max_boxes(model), SHOWN_BOXES);
    sv_frame *frame = small_cloud_of(&rng, SHOWN_POINTS, sv_model_point_columns(model));
    const sv_detector_def detector = sv_detector_def_default();
    ck_assert_int_eq(sv_detector_open(&detector, model, &d), SV_OK);
    ck_assert_msg(sv_detect(d, &frame, 1, NULL, r.boxes, &r.count) == SV_OK, "%s", sv_detector_error(d));
    sv_detector_ctx(d)->probe = keep; /* the capacities have settled */
    sv_detector_ctx(d)->probe_user = &r;
    ck_assert_msg(sv_detect(d, &frame, 1, NULL, r.boxes, &r.count) == SV_OK, "%s", sv_detector_error(d));
    sv_detector_close(d);
    sv_frame_release(frame);
    sv_model_release(model);
    sv_ctx_close(c);
    return r;
}

void shown_free(shown_frame *r)
{
    for (int i = 0; i < r->tensor_count; i++) free(r->tensors[i].values);
    sv_weights_free(r->weights);
}
