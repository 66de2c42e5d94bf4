/* SPDX-License-Identifier: Apache-2.0 */
#include "box_finder.h"

#include <stdlib.h>

sv_status box_finder_open(sv_ctx *c, const sv_app *app, const char *config, const char *weights, int batch,
                          box_finder *f)
{
    *f = (box_finder){.c = c, .batch = batch};
    sv_detector_def def = sv_detector_def_default();
    def.ctx = sv_app_ctx_def(app);
    SV_TRY(sv_app_model(app, c, config, weights, &f->model));
    if (sv_detector_open(&def, f->model, &f->detector) != SV_OK)
        return SV_FAIL(c, sv_detector_ctx(f->detector)->error.status, "%s", sv_detector_error(f->detector));
    SV_TRY(sv_detector_stream(f->detector, &f->state));
    f->most = sv_model_max_boxes(f->model);
    f->boxes = malloc(sizeof *f->boxes * (size_t)f->most * (size_t)batch);
    SV_CHECK(c, f->boxes, SV_NO_MEMORY, "no memory for boxes");
    return SV_OK;
}

void box_finder_close(box_finder *f)
{
    free(f->boxes);
    sv_state_close(f->state);
    sv_detector_close(f->detector);
    sv_model_release(f->model);
    *f = (box_finder){.c = f->c};
}

unsigned box_finder_parts(const box_finder *f)
{
    return SV_READ_POINTS | (sv_model_camera(f->model) ? SV_READ_IMAGES : 0);
}

sv_status box_finder_run(box_finder *f, frame_slot *const *slots, int count, int *counts)
{
    sv_ctx *c = f->c;
    sv_frame *frames[SV_MAX_BATCH];
    for (int i = 0; i < count; i++) {
        frames[i] = slots[i]->sample.frame;
        frames[i]->cameras = slots[i]->sample.cameras;
        frames[i]->camera_count = slots[i]->sample.camera_count;
        if (slots[i]->sample.dropped > 0)
            sv_log(c, SV_LOG_WARNING, "%s: %d points that are not finite were left out", slots[i]->sample.id,
                   slots[i]->sample.dropped);
    }
    if (f->state && slots[0]->sample.first) SV_TRY(sv_state_reset(sv_detector_ctx(f->detector), f->state));
    const sv_status status = sv_detect(f->detector, frames, count, f->state, f->boxes, counts);
    SV_CHECK(c, status == SV_OK, status, "%s", sv_detector_error(f->detector));
    return SV_OK;
}

/* ---- a share ------------------------------------------------------------------------------------------- */

static sv_status give_batch(box_finder *f, const ranks *team, frame_slot *const *slots, const int *numbers,
                            int count)
{
    int counts[SV_MAX_BATCH];
    SV_TRY(box_finder_run(f, slots, count, counts));
    for (int i = 0; i < count; i++)
        ranks_give(team, numbers[i], f->boxes + (size_t)i * (size_t)f->most, counts[i]);
    return SV_OK;
}

static sv_status find_share(box_finder *f, ranks *team, frame_loader *loader, const bool *elsewhere,
                            int count)
{
    frame_slot *batch[SV_MAX_BATCH];
    int numbers[SV_MAX_BATCH], waiting = 0;
    for (int i = 0; i < count && ranks_go_on(team); i++) {
        frame_slot *slot = NULL;
        SV_TRY(frame_loader_wait(f->c, loader, i, &slot));
        if (!elsewhere[i]) {
            numbers[waiting] = i;
            batch[waiting++] = slot;
        }
        /* what is read ahead has an end, so a batch with gaps does not wait for ever */
        const bool late = waiting > 0 && (i == count - 1 || i - numbers[0] >= 2 * f->batch);
        if (waiting == f->batch || late) {
            SV_TRY(give_batch(f, team, batch, numbers, waiting));
            waiting = 0;
        }
        if (waiting == 0) frame_loader_release(loader, i + 1);
    }
    return SV_OK;
}

sv_status box_finder_share(box_finder *f, const sv_app *app, ranks *team, const sv_dataset *dataset)
{
    const int count = sv_dataset_count(dataset);
    bool *elsewhere = calloc((size_t)count, sizeof *elsewhere);
    int *owner = calloc((size_t)count, sizeof *owner);
    frame_loader *loader = NULL;
    sv_status status =
        elsewhere && owner ? SV_OK : SV_FAIL(f->c, SV_NO_MEMORY, "no memory for %d samples", count);
    if (status == SV_OK && ranks_hear(team, elsewhere, count)) { /* those that have results already */
        ranks_share_out(team, dataset, f->batch, owner);
        for (int i = 0; i < count; i++) elsewhere[i] |= owner[i] != team->rank;
        const frame_loader_def def = {.app = app,
                                      .dataset = dataset,
                                      .absent_parts = box_finder_parts(f),
                                      .elsewhere = elsewhere,
                                      .threads = 1,
                                      .slots = 2 * f->batch + 8};
        status = frame_loader_begin(f->c, &def, &loader);
        if (status == SV_OK) status = find_share(f, team, loader, elsewhere, count);
    }
    frame_loader_end(loader);
    free(elsewhere);
    free(owner);
    return status;
}
