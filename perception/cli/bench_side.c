/* SPDX-License-Identifier: Apache-2.0 */
#include "bench_side.h"

#include "perception/points.h"

#include <stdlib.h>
#include <string.h>

static sv_status read_frame(const sv_bench_frame *frame, sv_bench_side *s)
{
    sv_points points = {0};
    SV_TRY(sv_points_read_least(s->c, frame->points,
                                frame->layout ? frame->layout : sv_model_point_layout(s->model),
                                sv_model_least_columns(s->model), &points));
    const int columns = sv_model_point_columns(s->model);
    sv_status status = SV_OK;
    if (points.columns < sv_model_least_columns(s->model))
        status = SV_FAIL(s->c, SV_BAD_INPUT, "%s: %d columns, the model takes %d (%s)", frame->points,
                         points.columns, columns, sv_model_point_layout(s->model));
    const int kept = points.columns < columns ? points.columns : columns;
    for (int k = 0; k < s->batch && status == SV_OK; k++) {
        s->frame[k] = sv_frame_new(sv_detector_ctx(s->detector)->device, points.count, kept);
        if (!s->frame[k]) status = SV_FAIL(s->c, SV_NO_MEMORY, "no memory for the points");
        for (int i = 0; status == SV_OK && i < points.count; i++)
            memcpy(s->frame[k]->points + (size_t)i * (size_t)kept,
                   points.data + (size_t)i * (size_t)points.columns, sizeof(float) * (size_t)kept);
        if (status == SV_OK) s->frame[k]->count = points.count;
    }
    s->points = points.count;
    sv_points_free(&points);
    return status;
}

sv_status sv_bench_side_open(const sv_app *app, const sv_ctx_def *ctx, const sv_bench_frame *frame,
                             sv_bench_side *s)
{
    sv_detector_def def = sv_detector_def_default();
    def.ctx = *ctx;
    def.timed = true;
    s->batch = frame->batch;
    def.last = strcmp(frame->until, "vfe") == 0           ? SV_STAGE_VFE
               : strcmp(frame->until, "backbone_3d") == 0 ? SV_STAGE_BACKBONE_3D
               : strcmp(frame->until, "bev") == 0         ? SV_STAGE_BEV
                                                          : SV_STAGE_HEAD;
    SV_TRY(sv_app_model(app, s->c, frame->config, frame->weights, &s->model));
    if (sv_detector_open(&def, s->model, &s->detector) != SV_OK)
        return SV_FAIL(s->c, sv_detector_ctx(s->detector)->error.status, "%s",
                       sv_detector_error(s->detector));
    s->boxes = malloc(sizeof *s->boxes * (size_t)sv_model_max_boxes(s->model) * (size_t)s->batch);
    SV_CHECK(s->c, s->boxes, SV_NO_MEMORY, "no memory");
    return read_frame(frame, s);
}

void sv_bench_side_close(sv_bench_side *s)
{
    for (int k = 0; k < SV_MAX_BATCH; k++) sv_frame_release(s->frame[k]);
    free(s->boxes);
    sv_detector_close(s->detector);
    sv_model_release(s->model);
    sv_ctx_close(s->c);
}

sv_status sv_bench_side_detect(sv_bench_side *s)
{
    const sv_status status = sv_detect(s->detector, s->frame, s->batch, NULL, s->boxes, s->counts);
    return status == SV_OK ? SV_OK : SV_FAIL(s->c, status, "%s", sv_detector_error(s->detector));
}
