/* SPDX-License-Identifier: Apache-2.0 */
#include "camera.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- binding ------------------------------------------------------------------------------------------ */

static sv_status read_names(sv_ctx *c, sv_camera_branch *m, const sv_node *cfg)
{
    const sv_node *list = NULL;
    SV_TRY(sv_node_require(c, cfg, "CAMERAS", &list));
    m->slots = sv_node_count(list);
    SV_CHECK(c, m->slots >= 1 && m->slots <= SV_CAMERA_SLOTS, SV_BAD_INPUT,
             "%s: %d cameras; 1 to %d are possible", sv_node_path(list), m->slots, SV_CAMERA_SLOTS);
    for (int i = 0; i < m->slots; i++) {
        const char *name = sv_node_text(sv_node_item(list, i));
        SV_CHECK(c, name[0] && strlen(name) < sizeof m->names[i], SV_BAD_INPUT,
                 "%s: '%s' is no name of a camera", sv_node_path(list), name);
        for (int k = 0; k < i; k++)
            SV_CHECK(c, strcmp(name, m->names[k]) != 0, SV_BAD_INPUT, "%s: '%s' is there twice",
                     sv_node_path(list), name);
        snprintf(m->names[i], sizeof m->names[i], "%s", name);
    }
    return SV_OK;
}

static sv_status read_spec(sv_ctx *c, sv_camera_branch *m, const sv_node *cfg, sv_trecvit_spec *spec)
{
    const char *name = NULL;
    double range[2] = {0.5, 80}, hidden = 1;
    SV_TRY(sv_node_string(c, cfg, "NAME", &name));
    SV_CHECK(c, strcmp(name, "TRecViT") == 0, SV_UNSUPPORTED, "%s.NAME: %s is not supported; TRecViT is",
             sv_node_path(cfg), name);
    SV_TRY(read_names(c, m, cfg));
    const sv_node *input = sv_node_find(cfg, "INPUT");
    m->picture = (sv_picture_rule){.height = 224, .width = 224, .keep = {0, 0, 1, 1}, .stretch = true};
    if (input) SV_TRY(sv_picture_rule_read(c, input, &m->picture));
    const int size[2] = {m->picture.height, m->picture.width};
    SV_TRY(sv_trecvit_read_spec(c, cfg, size, spec));
    SV_CHECK(c, spec->patch[0] == 1, SV_UNSUPPORTED, "%s.PATCH: pictures come one at a time, not %d",
             sv_node_path(cfg), spec->patch[0]);
    spec->classes = 0; /* no head */
    if (sv_node_find(cfg, "RANGE")) SV_TRY(sv_node_numbers(c, cfg, "RANGE", range, 2));
    SV_TRY(sv_node_number_or(c, cfg, "HIDDEN", &hidden, 1));
    SV_TRY(sv_node_number_or(c, cfg, "MAX_GAP", &m->max_gap, 1));
    SV_CHECK(c, range[0] > 0 && range[1] > range[0] && hidden >= 0 && m->max_gap > 0, SV_BAD_INPUT,
             "%s: RANGE [%g, %g], HIDDEN %g or MAX_GAP %g makes no sense", sv_node_path(cfg), range[0],
             range[1], hidden, m->max_gap);
    m->rule = (sv_camera_rule){.views = m->slots,
                               .rows = spec->grid[0],
                               .columns = spec->grid[1],
                               .nearest = (float)range[0],
                               .farthest = (float)range[1],
                               .hidden = (float)hidden};
    return SV_OK;
}

sv_status sv_camera_bind(sv_binder *b, sv_camera_branch *m, const sv_node *cfg, int channels)
{
    sv_ctx *c = sv_binder_ctx(b);
    sv_trecvit_spec spec;
    sv_tensor w, bias;
    *m = (sv_camera_branch){.active = false};
    SV_TRY(read_spec(c, m, cfg, &spec));
    sv_binder_push(b, "camera");
    SV_TRY(sv_bind_host_optional(b, &w, "projection.weight", true, SV_INIT(0), 2,
                                 (const int32_t[]){channels, spec.width}));
    m->active = !sv_is_none(w);
    if (m->active) {
        SV_TRY(sv_bind_host(b, &bias, "projection.bias", SV_INIT(0), 1, &channels));
        SV_TRY(sv_linear_prepare(c, &m->projection, w, bias));
        SV_TRY(sv_trecvit_bind(b, &m->model, &spec));
    } else {
        sv_log(c, SV_LOG_NOTE, "%s: the weights have no 'camera' tensors, so it does nothing",
               sv_node_path(cfg));
    }
    sv_binder_pop(b);
    return SV_OK;
}

/* ---- a frame on the host ------------------------------------------------------------------------------ */

size_t sv_camera_patch_numbers(const sv_camera_branch *m)
{
    return 3 * (size_t)m->picture.height * (size_t)m->picture.width;
}

/* The calibration and the lens, to columns and rows of the grid of tokens instead of pixels. */
static void view_of(const sv_camera_branch *m, const sv_camera_view *camera, float out[SV_CAMERA_VIEW])
{
    const sv_picture_part part = sv_picture_part_of(&m->picture, camera->width, camera->height);
    const double *p = camera->projection;
    const double columns = m->rule.columns / part.width, rows = m->rule.rows / part.height;
    for (int i = 0; i < 4; i++) {
        out[i] = (float)(columns * (p[i] - part.x * p[8 + i]));
        out[4 + i] = (float)(rows * (p[4 + i] - part.y * p[8 + i]));
        out[8 + i] = (float)p[8 + i];
    }
    out[12] = 1;
    const double *lens = camera->lens;
    float *to = out + SV_CAMERA_LENS;
    for (int i = 0; i < 9; i++) to[i] = (float)lens[i];
    to[0] = (float)(columns * lens[0]);
    to[1] = (float)(rows * lens[1]);
    to[2] = (float)(columns * (lens[2] - part.x));
    to[3] = (float)(rows * (lens[3] - part.y));
}

static sv_status check_calibration(sv_ctx *c, const sv_frame *frame, const sv_camera_view *camera)
{
    bool known = false, finite = true;
    for (int i = 0; i < 12; i++) {
        finite = finite && isfinite(camera->projection[i]);
        known = known || (i >= 8 && camera->projection[i] != 0);
    }
    for (int i = 0; i < 9; i++) finite = finite && isfinite(camera->lens[i]);
    known = known && (camera->lens[0] == 0 || camera->lens[1] != 0);
    SV_CHECK(c, known && finite, SV_BAD_INPUT,
             "frame '%s': camera '%s' has a picture but no calibration; MODEL.CAMERA needs one", frame->id,
             camera->name);
    SV_CHECK(c, camera->image.width == camera->width && camera->image.height == camera->height, SV_BAD_INPUT,
             "frame '%s': the picture of camera '%s' has %d x %d pixels, its calibration is for %d x %d",
             frame->id, camera->name, camera->image.width, camera->image.height, camera->width,
             camera->height);
    return SV_OK;
}

static const sv_camera_view *find_camera(const sv_frame *frame, const char *name)
{
    for (int i = 0; i < frame->camera_count; i++)
        if (strcmp(frame->cameras[i].name, name) == 0 && frame->cameras[i].image.rgb)
            return &frame->cameras[i];
    return NULL;
}

/* Whether a stream's picture goes on from the one before. */
static bool goes_on(const sv_camera_branch *m, const sv_camera_seen *last, const sv_frame *frame,
                    const sv_camera_view *camera)
{
    const double gap = frame->time - last->time;
    return last->ever && last->width == camera->width && last->height == camera->height && gap >= 0 &&
           gap <= m->max_gap;
}

sv_status sv_camera_stage(sv_ctx *c, const sv_camera_branch *m, const sv_frame *frame, float *patches,
                          float *views, bool *seen, bool *fresh, float *work, const sv_camera_seen *last,
                          sv_camera_seen *next)
{
    const size_t numbers = sv_camera_patch_numbers(m);
    for (int k = 0; k < m->slots; k++) {
        const sv_camera_view *camera = find_camera(frame, m->names[k]);
        memset(views + (size_t)k * SV_CAMERA_VIEW, 0, sizeof *views * SV_CAMERA_VIEW);
        seen[k] = camera != NULL;
        fresh[k] = !last || !camera || !goes_on(m, &last[k], frame, camera);
        if (next) next[k] = last[k];
        if (!camera) continue;
        SV_TRY(check_calibration(c, frame, camera));
        if (next)
            next[k] = (sv_camera_seen){
                .ever = true, .time = frame->time, .width = camera->width, .height = camera->height};
        view_of(m, camera, views + (size_t)k * SV_CAMERA_VIEW);
        sv_picture_resample(&m->picture, &camera->image, 0, camera->width, camera->height, work);
        sv_tokenizer_patches(&m->model.tokenizer, work, 1, patches + (size_t)k * numbers);
    }
    return SV_OK;
}

/* ---- a frame on the device ---------------------------------------------------------------------------- */

static sv_tensor rows_of(sv_tensor t, int first, int count)
{
    t.data = (char *)t.data + (size_t)first * (size_t)t.pitch * sv_dtype_bytes((sv_dtype)t.dtype);
    t.dim[0] = count;
    return t;
}

/* The projected tokens of one picture into its rows of 'features'. */
static sv_status run_picture(sv_ctx *c, const sv_camera_branch *m, const sv_camera_input *input, int place,
                             const sv_trecvit_streams *streams, sv_tensor features)
{
    const int patches = m->rule.rows * m->rule.columns, first = m->model.spec.class_token ? 1 : 0;
    sv_tensor encoded;
    SV_TRY(sv_trecvit_encode(c, &m->model, &encoded, rows_of(input->patches, place * patches, patches), 1, 1,
                             streams, place, input->fresh[place]));
    return sv_linear(c, rows_of(features, place * patches, patches), rows_of(encoded, first, patches),
                     SV_NONE, &m->projection, SV_MAP_identity);
}

sv_status sv_camera_run(sv_ctx *c, const sv_camera_branch *m, int batch, const sv_camera_input *input,
                        sv_state *state, sv_tensor x, sv_tensor coords, const sv_grid *grid)
{
    const int places = batch * m->slots, patches = m->rule.rows * m->rule.columns;
    sv_trecvit_streams streams;
    sv_tensor features;
    if (state) SV_TRY(sv_trecvit_streams_of(c, &m->model, state, places, &streams));
    SV_TRY(
        sv_frame_alloc(c, &features, "camera features", SV_F32, places * patches, m->projection.n, SV_NONE));
    for (int i = 0; i < places; i++) {
        if (input->seen[i])
            SV_TRY(run_picture(c, m, input, i, state ? &streams : NULL, features));
        else if (state)
            SV_TRY(sv_trecvit_keep(c, &m->model, &streams, i));
    }
    SV_TRY(sv_probe(c, "camera_features", features));
    return sv_camera_sample(c, x, coords, features, input->views, grid, &m->rule);
}
