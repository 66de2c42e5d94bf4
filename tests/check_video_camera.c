/* SPDX-License-Identifier: Apache-2.0
 *
 * MODEL.CAMERA: features of cameras at the voxels they see. With a projection of zeros the detector gives the bytes of the one
 * without; states go on, wait and start afresh as promised; cameras that do not fit are refused.
 */
#include "support_model.h"

#include "backbones/video/camera.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS = 5000, MOST = 100, WIDTH = 80, HEIGHT = 48, TOKENS = 6, CHANNELS = 16, SLOTS = 2 };

static const char small_camera[] =
    "MODEL: {CAMERA: {NAME: TRecViT, CAMERAS: [left, right], VARIANT: mu, WIDTH: 24, HEADS: 3, "
    "DEPTH: 2, MLP: 40, PATCH: [1, 16, 16], HIDDEN: 0.5, MAX_GAP: 0.4, RANGE: [0.5, 60], "
    "INPUT: {SIZE: [32, 48], RESIZE: stretch}}}\n";

/* ---- frames with pictures ------------------------------------------------------------------------------ */

static void camera_looking(sv_camera_view *view, const char *name, double yaw)
{
    const double focal = 50, c = cos(yaw), s = sin(yaw);
    /* x forward, y left, z up: distance along the axis, columns to the right, rows down */
    const double forward[4] = {c, s, 0, 0.3}, right[4] = {s, -c, 0, 0}, down[4] = {0, 0, -1, -0.2};
    snprintf(view->name, sizeof view->name, "%s", name);
    for (int i = 0; i < 4; i++) {
        view->projection[i] = focal * right[i] + WIDTH / 2.0 * forward[i];
        view->projection[4 + i] = focal * down[i] + HEIGHT / 2.0 * forward[i];
        view->projection[8 + i] = forward[i];
    }
    view->width = WIDTH;
    view->height = HEIGHT;
}

typedef struct scene {
    sv_frame *frame;
    sv_camera_view cameras[SLOTS];
} scene;

static void new_picture(sv_ctx *c, test_rng *rng, sv_camera_view *view, int width, int height)
{
    sv_image_free(&view->image);
    assert_ok(c, sv_image_new(c, &view->image, width, height, 0));
    for (int i = 0; i < 3 * width * height; i++) view->image.rgb[i] = (uint8_t)rng_u64(rng);
}

static scene *new_scene(sv_ctx *c, test_rng *rng, double time)
{
    scene *s = calloc(1, sizeof *s);
    s->frame = small_cloud(rng, POINTS);
    s->frame->time = time;
    snprintf(s->frame->id, sizeof s->frame->id, "f%g", time);
    camera_looking(&s->cameras[0], "right", -0.4);
    camera_looking(&s->cameras[1], "left", 0.5);
    for (int i = 0; i < SLOTS; i++) new_picture(c, rng, &s->cameras[i], WIDTH, HEIGHT);
    s->frame->cameras = s->cameras;
    s->frame->camera_count = SLOTS;
    return s;
}

static void free_scene(scene *s)
{
    for (int i = 0; i < SLOTS; i++) sv_image_free(&s->cameras[i].image);
    sv_frame_release(s->frame);
    free(s);
}

/* ---- models ------------------------------------------------------------------------------------------- */

/* With 'projection' numbers of this deviation instead of zeros. */
static sv_model *camera_model(sv_ctx *c, double projection)
{
    const sv_model_def def = {.config = small_config_of(SMALL_KITTI, small_camera)};
    sv_weights *w = sv_weights_new();
    sv_model *model = NULL;
    test_rng rng = {77};
    assert_ok(c, sv_model_init(c, &def, 5, w));
    const sv_tensor t = sv_weights_find(w, "camera.projection.weight");
    ck_assert(!sv_is_none(t));
    for (int i = 0; i < t.dim[0] * t.dim[1]; i++) ck_assert(sv_f32(t)[i] == 0);
    if (projection > 0) rng_fill(&rng, sv_f32(t), (size_t)t.dim[0] * (size_t)t.dim[1], projection);
    assert_ok(c, sv_model_open_weights(c, &def, w, &model));
    sv_weights_free(w);
    return model;
}

static sv_detector *open_detector(sv_model *model, int threads)
{
    sv_detector_def def = sv_detector_def_default();
    def.ctx.threads = threads;
    sv_detector *d = NULL;
    const sv_status status = sv_detector_open(&def, model, &d);
    ck_assert_msg(status == SV_OK, "%s", sv_detector_error(d));
    return d;
}

typedef struct result {
    int count;
    sv_box boxes[MOST];
    float *features; /* [slots * tokens, channels] of the cameras */
} result;

static sv_status keep_features(void *user, sv_ctx *c, const char *name, sv_tensor t)
{
    result *r = user;
    (void)c;
    if (strcmp(name, "camera/camera_features") != 0) return SV_OK;
    ck_assert_int_eq(t.dim[0], SLOTS * TOKENS);
    r->features = malloc(sizeof(float) * SLOTS * TOKENS * CHANNELS);
    memcpy(r->features, t.data, sizeof(float) * SLOTS * TOKENS * CHANNELS);
    return SV_OK;
}

static result detect(sv_detector *d, scene *s, sv_state *state)
{
    static result r;
    memset(&r, 0, sizeof r);
    sv_detector_ctx(d)->probe = keep_features;
    sv_detector_ctx(d)->probe_user = &r;
    const sv_status status = sv_detect(d, &s->frame, 1, state, r.boxes, &r.count);
    sv_detector_ctx(d)->probe = NULL;
    ck_assert_msg(status == SV_OK, "%s", sv_detector_error(d));
    return r;
}

static bool same_boxes(const result *a, const result *b)
{
    return a->count == b->count && memcmp(a->boxes, b->boxes, sizeof(sv_box) * (size_t)a->count) == 0;
}

/* Features of camera 'slot' (0 left, 1 right). */
static bool same_features(const result *a, const result *b, int slot)
{
    const size_t numbers = (size_t)TOKENS * CHANNELS;
    return memcmp(a->features + (size_t)slot * numbers, b->features + (size_t)slot * numbers,
                  sizeof(float) * numbers) == 0;
}

START_TEST(a_projection_of_zeros_changes_nothing)
{
    test_rng rng = {3};
    sv_ctx *c = test_context(1);
    sv_model *plain = small_model(c, 5), *zero = camera_model(c, 0), *some = camera_model(c, 0.3),
             *without = NULL;
    /* the checkpoint without the branch, in the configuration with it */
    const sv_model_def def = {.config = small_config_of(SMALL_KITTI, small_camera),
                              .weights = small_weights(5)};
    assert_ok(c, sv_model_open(c, &def, &without));
    ck_assert_ptr_null(sv_model_camera(without));
    ck_assert_ptr_null(sv_model_camera(plain));
    ck_assert_ptr_nonnull(sv_model_camera(zero));
    sv_detector *d[4] = {open_detector(plain, 1), open_detector(zero, 3), open_detector(some, 1),
                         open_detector(without, 2)};
    scene *s = new_scene(c, &rng, 1);
    const result want = detect(d[0], s, NULL);
    ck_assert_int_gt(want.count, 0);
    const result same = detect(d[1], s, NULL);
    ck_assert_ptr_nonnull(same.features);
    ck_assert(same_boxes(&want, &same));
    const result other = detect(d[2], s, NULL);
    ck_assert(!same_boxes(&want, &other));
    const result missing = detect(d[3], s, NULL);
    ck_assert_ptr_null(missing.features);
    ck_assert(same_boxes(&want, &missing));
    /* without pictures there is nothing to add */
    s->frame->camera_count = 0;
    const result blind = detect(d[2], s, NULL);
    ck_assert(same_boxes(&want, &blind));
    free(same.features);
    free(other.features);
    free(blind.features);
    free_scene(s);
    for (int i = 0; i < 4; i++) sv_detector_close(d[i]);
    sv_model_release(plain);
    sv_model_release(zero);
    sv_model_release(some);
    sv_model_release(without);
    sv_ctx_close(c);
}
END_TEST

/* 20 frames: the features of every frame are those of the clip so far, given to the encoder at once. */
START_TEST(a_stream_of_frames_equals_the_clip)
{
    enum { FRAMES = 20 };
    test_rng rng = {4};
    sv_ctx *c = test_context(2);
    sv_model *model = camera_model(c, 0.3);
    const sv_camera_branch *branch = sv_model_camera(model);
    sv_detector *d = open_detector(model, 2), *three = open_detector(model, 3);
    sv_state *state = NULL, *again = NULL;
    ck_assert_int_eq(sv_detector_stream(d, &state), SV_OK);
    ck_assert_ptr_nonnull(state);
    ck_assert_int_eq(sv_detector_stream(three, &again), SV_OK);
    const size_t numbers = sv_camera_patch_numbers(branch);
    float *video = malloc(sizeof *video * numbers * FRAMES),
          *patches = malloc(sizeof *patches * numbers * FRAMES);
    float *streamed = malloc(sizeof *streamed * FRAMES * TOKENS * CHANNELS);
    bool changed = false;
    for (int t = 0; t < FRAMES; t++) {
        scene *s = new_scene(c, &rng, 100 + 0.1 * t);
        sv_picture_resample(&branch->picture, &s->cameras[1].image, 0, WIDTH, HEIGHT,
                            video + (size_t)t * numbers);
        const result r = detect(d, s, state), same = detect(three, s, again), alone = detect(three, s, NULL);
        ck_assert(same_boxes(&r, &same) && same_features(&r, &same, 0) && same_features(&r, &same, 1));
        changed = changed || !same_boxes(&r, &alone);
        memcpy(streamed + (size_t)t * TOKENS * CHANNELS, r.features, sizeof(float) * TOKENS * CHANNELS);
        free(r.features);
        free(same.features);
        free(alone.features);
        free_scene(s);
    }
    ck_assert_msg(changed, "what was before makes no difference");
    ck_assert_int_eq(sv_state_frames(state), FRAMES);

    sv_tensor input, encoded, features;
    const int tokens = branch->model.tokenizer.tokens, width = branch->model.spec.width;
    sv_tokenizer_patches(&branch->model.tokenizer, video, FRAMES, patches);
    assert_ok(
        c, sv_frame_alloc(c, &input, "patches", SV_F32, FRAMES * TOKENS, (int)(numbers / TOKENS), SV_NONE));
    memcpy(input.data, patches, sizeof *patches * numbers * FRAMES);
    assert_ok(c, sv_trecvit_encode(c, &branch->model, &encoded, input, 1, FRAMES, NULL, 0, false));
    assert_ok(c, sv_frame_alloc(c, &features, "features", SV_F32, tokens * FRAMES, CHANNELS, SV_NONE));
    assert_ok(c, sv_linear(c, features, encoded, SV_NONE, &branch->projection, SV_MAP_identity));
    ck_assert_int_eq(encoded.dim[1], width);
    for (int t = 0; t < FRAMES; t++)
        for (int i = 0; i < TOKENS; i++)
            ck_assert_msg(memcmp(sv_f32(features) + (size_t)((i + 1) * FRAMES + t) * CHANNELS,
                                 streamed + (size_t)(t * TOKENS + i) * CHANNELS,
                                 sizeof(float) * CHANNELS) == 0,
                          "frame %d, token %d", t, i);
    free(video);
    free(patches);
    free(streamed);
    sv_state_close(state);
    sv_state_close(again);
    sv_detector_close(d);
    sv_detector_close(three);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

START_TEST(cameras_that_stop_wait_and_cameras_that_change_start_afresh)
{
    test_rng rng = {5};
    sv_ctx *c = test_context(1);
    sv_model *model = camera_model(c, 0.3);
    sv_detector *d = open_detector(model, 1);
    sv_state *state = NULL;
    ck_assert_int_eq(sv_detector_stream(d, &state), SV_OK);
    scene *a = new_scene(c, &rng, 10), *b = new_scene(c, &rng, 10.1), *last = new_scene(c, &rng, 10.2);
    const result first = detect(d, a, NULL), alone = detect(d, last, NULL);

    result r = detect(d, a, state);
    ck_assert(same_features(&r, &first, 0) && same_features(&r, &first, 1));
    free(r.features);
    /* the left camera (the second in the frame) brings no picture: its features are not used, its state waits */
    sv_image kept = b->cameras[1].image;
    b->cameras[1].image = (sv_image){0};
    r = detect(d, b, state);
    free(r.features);
    b->cameras[1].image = kept;
    r = detect(d, last, state);
    ck_assert(!same_features(&r, &alone, 0) && !same_features(&r, &alone, 1)); /* both go on */
    const result waited = r;
    /* as if frame b had never been, for the left one */
    assert_ok(sv_detector_ctx(d), sv_state_reset(sv_detector_ctx(d), state));
    r = detect(d, a, state);
    free(r.features);
    r = detect(d, last, state);
    ck_assert(same_features(&r, &waited, 0) && !same_features(&r, &waited, 1));
    free(r.features);

    /* a gap of more than MAX_GAP, a clock that runs back, other sides: afresh */
    const double times[] = {10.7, 9.9};
    for (int i = 0; i < 2; i++) {
        assert_ok(sv_detector_ctx(d), sv_state_reset(sv_detector_ctx(d), state));
        r = detect(d, a, state);
        free(r.features);
        last->frame->time = times[i];
        r = detect(d, last, state);
        ck_assert(same_features(&r, &alone, 0) && same_features(&r, &alone, 1));
        free(r.features);
    }
    last->frame->time = 10.2;
    new_picture(c, &rng, &last->cameras[1], 2 * WIDTH, 2 * HEIGHT);
    last->cameras[1].width *= 2;
    last->cameras[1].height *= 2;
    for (int i = 0; i < 8; i++) last->cameras[1].projection[i] *= 2;
    const result wide = detect(d, last, NULL);
    assert_ok(sv_detector_ctx(d), sv_state_reset(sv_detector_ctx(d), state));
    r = detect(d, a, state);
    free(r.features);
    r = detect(d, last, state);
    ck_assert(same_features(&r, &wide, 0) && !same_features(&r, &wide, 1));
    free(r.features);
    free(wide.features);
    free(waited.features);
    free(first.features);
    free(alone.features);
    free_scene(a);
    free_scene(b);
    free_scene(last);
    sv_state_close(state);
    sv_detector_close(d);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

START_TEST(cameras_that_do_not_fit_are_refused)
{
    test_rng rng = {6};
    sv_ctx *c = test_context(1);
    sv_model *model = camera_model(c, 0.3);
    sv_detector *d = open_detector(model, 1);
    sv_state *state = NULL;
    ck_assert_int_eq(sv_detector_stream(d, &state), SV_OK);
    scene *a = new_scene(c, &rng, 10), *s = new_scene(c, &rng, 10.1);
    static sv_box boxes[MOST];
    int count = 0;
    result r = detect(d, a, state);
    free(r.features);
    const sv_camera_view good = s->cameras[0];
    memset(s->cameras[0].projection, 0, sizeof good.projection);
    ck_assert_int_eq(sv_detect(d, &s->frame, 1, state, boxes, &count), SV_BAD_INPUT);
    ck_assert_ptr_nonnull(strstr(sv_detector_error(d), "camera 'right' has a picture but no calibration"));
    s->cameras[0] = good;
    s->cameras[0].projection[3] = NAN;
    ck_assert_int_eq(sv_detect(d, &s->frame, 1, state, boxes, &count), SV_BAD_INPUT);
    s->cameras[0] = good;
    s->cameras[0].width = 90;
    ck_assert_int_eq(sv_detect(d, &s->frame, 1, state, boxes, &count), SV_BAD_INPUT);
    ck_assert_ptr_nonnull(strstr(sv_detector_error(d), "has 80 x 48 pixels, its calibration is for 90 x 48"));
    s->cameras[0] = good;
    ck_assert_int_eq(sv_state_frames(state), 1);
    /* the state is as if the bad frames had not been */
    const result after = detect(d, s, state);
    assert_ok(sv_detector_ctx(d), sv_state_reset(sv_detector_ctx(d), state));
    r = detect(d, a, state);
    free(r.features);
    r = detect(d, s, state);
    ck_assert(same_boxes(&r, &after) && same_features(&r, &after, 0) && same_features(&r, &after, 1));
    free(r.features);
    free(after.features);
    free_scene(a);
    free_scene(s);
    sv_state_close(state);
    sv_detector_close(d);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

/* ---- the primitive ------------------------------------------------------------------------------------ */

/* As the definition reads, in double. */
static double naive_sample(const sv_camera_rule *rule, const float *view, const float *features, int channels,
                           int channel, const double p[3], bool *seen, double *distance, int cell[2])
{
    double q[3];
    for (int i = 0; i < 3; i++)
        q[i] = (double)view[4 * i] * p[0] + (double)view[4 * i + 1] * p[1] + (double)view[4 * i + 2] * p[2] +
               (double)view[4 * i + 3];
    *seen = false;
    *distance = q[2];
    if (view[12] == 0 || q[2] < (double)rule->nearest || q[2] > (double)rule->farthest) return 0;
    const double column = q[0] / q[2], row = q[1] / q[2];
    if (column < 0 || column >= rule->columns || row < 0 || row >= rule->rows) return 0;
    *seen = true;
    cell[0] = (int)(row * SV_CAMERA_FINE);
    cell[1] = (int)(column * SV_CAMERA_FINE);
    double sum = 0;
    for (int dy = 0; dy < 2; dy++)
        for (int dx = 0; dx < 2; dx++) {
            const double low_y = floor(row - 0.5), low_x = floor(column - 0.5);
            const double share = (dy ? row - 0.5 - low_y : 1 - (row - 0.5 - low_y)) *
                                 (dx ? column - 0.5 - low_x : 1 - (column - 0.5 - low_x));
            const int y = (int)fmin(fmax(low_y + dy, 0), rule->rows - 1),
                      x = (int)fmin(fmax(low_x + dx, 0), rule->columns - 1);
            sum += share * (double)features[(y * rule->columns + x) * channels + channel];
        }
    return sum;
}

START_TEST(samples_against_a_naive_form)
{
    enum { ROWS = 400, VIEWS = 3, SAMPLES = 2 };
    test_rng rng = {(uint64_t)_i * 13 + 1};
    sv_ctx *c[2] = {test_context(1), test_context(3)};
    const sv_grid grid = {
        .min = {0, -10, -2}, .max = {20, 10, 2}, .size = {0.5f, 0.5f, 1}, .cells = {40, 40, 4}};
    const sv_camera_rule rule = {.views = VIEWS,
                                 .rows = 3 + _i % 3,
                                 .columns = 5,
                                 .nearest = 0.5f,
                                 .farthest = 15,
                                 .hidden = _i % 2 ? 0.7f : 0};
    const int channels = 5 + 7 * _i, tokens = rule.rows * rule.columns;
    int32_t coords[ROWS][4], offsets[3] = {0, ROWS / 3, ROWS};
    for (int i = 0; i < ROWS; i++) {
        coords[i][0] = i >= offsets[1];
        coords[i][1] = (int32_t)(rng_u64(&rng) % 4);
        coords[i][2] = (int32_t)(rng_u64(&rng) % 40);
        coords[i][3] = (int32_t)(rng_u64(&rng) % 40);
    }
    float views[SAMPLES * VIEWS][SV_CAMERA_VIEW] = {0};
    for (int v = 0; v < SAMPLES * VIEWS; v++) {
        sv_camera_view camera;
        camera_looking(&camera, "x", rng_uniform(&rng, -1, 1));
        for (int i = 0; i < 4; i++) {
            views[v][i] = (float)(camera.projection[i] * rule.columns / WIDTH);
            views[v][4 + i] = (float)(camera.projection[4 + i] * rule.rows / HEIGHT);
            views[v][8 + i] = (float)camera.projection[8 + i];
        }
        views[v][12] = v == 4 ? 0.0f : 1.0f;
    }
    float *features = malloc(sizeof *features * (size_t)(SAMPLES * VIEWS * tokens * channels)),
          *before = malloc(sizeof *before * ROWS * (size_t)channels), *y[2];
    rng_fill(&rng, features, (size_t)(SAMPLES * VIEWS * tokens * channels), 1);
    rng_fill(&rng, before, ROWS * (size_t)channels, 1);
    sv_tensor at = sv_view(coords, SV_I32, ROWS, 4);
    at.offsets = offsets;
    at.batch = SAMPLES;
    for (int t = 0; t < 2; t++) {
        y[t] = malloc(sizeof *y[t] * ROWS * (size_t)channels);
        memcpy(y[t], before, sizeof *y[t] * ROWS * (size_t)channels);
        assert_ok(c[t],
                  sv_camera_sample(c[t], sv_view(y[t], SV_F32, ROWS, channels), at,
                                   sv_view(features, SV_F32, SAMPLES * VIEWS * tokens, channels),
                                   sv_view(views, SV_F32, SAMPLES * VIEWS, SV_CAMERA_VIEW), &grid, &rule));
    }
    ck_assert(memcmp(y[0], y[1], sizeof(float) * ROWS * (size_t)channels) == 0);
    int hidden = 0, visible = 0;
    for (int i = 0; i < ROWS; i++)
        for (int k = 0; k < channels; k++) {
            double sum = 0;
            int count = 0;
            for (int v = 0; v < VIEWS; v++) {
                const int view = coords[i][0] * VIEWS + v;
                bool seen, other_seen, behind = false;
                double distance, other, p[3];
                int cell[2], other_cell[2];
                for (int axis = 0; axis < 3; axis++)
                    p[axis] = (double)grid.min[axis] + (coords[i][3 - axis] + 0.5) * (double)grid.size[axis];
                const double value =
                    naive_sample(&rule, views[view], features + (size_t)(view * tokens * channels), channels,
                                 k, p, &seen, &distance, cell);
                for (int j = offsets[coords[i][0]]; seen && rule.hidden > 0 && j < offsets[coords[i][0] + 1];
                     j++) {
                    for (int axis = 0; axis < 3; axis++)
                        p[axis] =
                            (double)grid.min[axis] + (coords[j][3 - axis] + 0.5) * (double)grid.size[axis];
                    naive_sample(&rule, views[view], features, channels, 0, p, &other_seen, &other,
                                 other_cell);
                    behind = behind || (other_seen && memcmp(cell, other_cell, sizeof cell) == 0 &&
                                        distance > other + (double)rule.hidden);
                }
                hidden += behind;
                if (!seen || behind) continue;
                sum += value;
                count++;
                visible++;
            }
            const double want = (double)before[i * channels + k] + (count ? sum / count : 0);
            ck_assert_double_eq_tol((double)y[0][i * channels + k], want, 2e-5);
        }
    ck_assert_int_gt(visible, 0);
    ck_assert(rule.hidden == 0 || hidden > 0);
    free(features);
    free(before);
    free(y[0]);
    free(y[1]);
    sv_ctx_close(c[0]);
    sv_ctx_close(c[1]);
}
END_TEST

/* Where OpenCV's documentation says that a lens shows a point, in double and from the camera's own axes: features that are the
 * places of their tokens give back where a voxel was looked up. */
START_TEST(lenses_against_their_formula)
{
    enum { ROWS = 12, COLUMNS = 20, VOXELS = 40 * 40 * 8 };
    static const double lenses[][5] = {{-0.34, 0.12, 0.0008, -0.0005, 0},
                                       {0.11, -0.05, -0.002, 0.001, 0.02},
                                       {0, 0, 0.01, 0, 0},
                                       {0, 0, 0, -0.012, 0},
                                       {0, 0, 0, 0, 0},
                                       {-0.9, 0, 0, 0, 0}};
    const double *k = lenses[_i], yaw = 0.3, fx = 40, fy = 44, cx = 41.5, cy = 22;
    sv_ctx *c = test_context(2);
    const sv_grid grid = {
        .min = {0, -10, -4}, .max = {20, 10, 4}, .size = {0.5f, 0.5f, 1}, .cells = {40, 40, 8}};
    sv_camera_branch branch = {.slots = 1, .names = {"x"}};
    branch.picture =
        (sv_picture_rule){.height = 16 * ROWS, .width = 16 * COLUMNS, .keep = {0, 0, 1, 1}, .stretch = true};
    branch.model.tokenizer = (sv_tokenizer){.patch = {1, 16, 16}, .grid = {ROWS, COLUMNS}};
    branch.rule =
        (sv_camera_rule){.views = 1, .rows = ROWS, .columns = COLUMNS, .nearest = 0.5f, .farthest = 60};
    const double forward[4] = {cos(yaw), sin(yaw), 0, 0.3}, right[4] = {sin(yaw), -cos(yaw), 0, 0},
                 down[4] = {0, 0, -1, -0.2};
    sv_camera_view view = {.name = "x", .width = WIDTH, .height = HEIGHT, .lens = {fx, fy, cx, cy}};
    memcpy(view.lens + 4, k, sizeof lenses[0]);
    for (int i = 0; i < 4; i++) {
        view.projection[i] = fx * right[i] + cx * forward[i];
        view.projection[4 + i] = fy * down[i] + cy * forward[i];
        view.projection[8 + i] = forward[i];
    }
    test_rng rng = {8};
    new_picture(c, &rng, &view, WIDTH, HEIGHT);
    sv_frame *frame = small_cloud(&rng, 10);
    frame->cameras = &view;
    frame->camera_count = 1;
    float *patches = malloc(sizeof *patches * sv_camera_patch_numbers(&branch)),
          *work = malloc(sizeof *work * sv_camera_patch_numbers(&branch)), row[SV_CAMERA_VIEW];
    bool seen = false, fresh = false;
    assert_ok(c, sv_camera_stage(c, &branch, frame, patches, row, &seen, &fresh, work, NULL, NULL));
    ck_assert(seen);

    static int32_t coords[VOXELS][4], offsets[2] = {0, VOXELS};
    static float features[ROWS * COLUMNS][3], y[VOXELS][3];
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        features[i][0] = (float)(i % COLUMNS) + 0.5f;
        features[i][1] = (float)(i / COLUMNS) + 0.5f;
        features[i][2] = 1;
    }
    memset(y, 0, sizeof y);
    for (int i = 0; i < VOXELS; i++) {
        const int32_t at[4] = {0, i % 8, i / 8 % 40, i / 320};
        memcpy(coords[i], at, sizeof at);
    }
    sv_tensor at = sv_view(coords, SV_I32, VOXELS, 4);
    at.offsets = offsets;
    at.batch = 1;
    assert_ok(c, sv_camera_sample(c, sv_view(y, SV_F32, VOXELS, 3), at,
                                  sv_view(features, SV_F32, ROWS * COLUMNS, 3),
                                  sv_view(row, SV_F32, 1, SV_CAMERA_VIEW), &grid, &branch.rule));
    int inside = 0, bent = 0, cut = 0;
    for (int i = 0; i < VOXELS; i++) {
        const double p[4] = {(coords[i][3] + 0.5) * 0.5, -10 + (coords[i][2] + 0.5) * 0.5,
                             -4 + coords[i][1] + 0.5, 1};
        double q[3] = {0};
        for (int j = 0; j < 4; j++)
            q[0] += right[j] * p[j], q[1] += down[j] * p[j], q[2] += forward[j] * p[j];
        if (q[2] < 0.5 || q[2] > 60) continue;
        const double a = q[0] / q[2], b = q[1] / q[2], r2 = a * a + b * b,
                     radial = 1 + k[0] * r2 + k[1] * pow(r2, 2) + k[4] * pow(r2, 3);
        const double u = cx + fx * (a * radial + 2 * k[2] * a * b + k[3] * (r2 + 2 * a * a)),
                     v = cy + fy * (b * radial + k[2] * (r2 + 2 * b * b) + 2 * k[3] * a * b);
        const double column = u * COLUMNS / WIDTH, line = v * ROWS / HEIGHT;
        const bool there = y[i][2] != 0,
                   within = column > 0.01 && column < COLUMNS - 0.01 && line > 0.01 && line < ROWS - 0.01;
        if (radial < 0.799 || radial > 1.201) {
            ck_assert_msg(!there, "voxel %d is seen where the lens is bent by %g", i, radial);
            cut += within;
        } else if (within && radial > 0.801 && radial < 1.199) {
            ck_assert_msg(there, "voxel %d is not seen", i);
        }
        if (!there || column < 0.51 || column > COLUMNS - 0.51 || line < 0.51 || line > ROWS - 0.51) continue;
        ck_assert_double_eq_tol((double)y[i][0], column, 2e-4);
        ck_assert_double_eq_tol((double)y[i][1], line, 2e-4);
        inside++;
        bent += fabs((u - cx) - fx * a) > 0.5 || fabs((v - cy) - fy * b) > 0.5;
    }
    ck_assert_int_gt(inside, 500);
    ck_assert(_i == 4 ? bent == 0 : bent > 20); /* half a pixel: without the formula the test would fail */
    ck_assert(_i != 5 || cut > 0);
    /* not finite: refused as the rest of a calibration */
    view.lens[7] = NAN;
    assert_fails(c, sv_camera_stage(c, &branch, frame, patches, row, &seen, &fresh, work, NULL, NULL),
                 SV_BAD_INPUT, "no calibration");
    sv_image_free(&view.image);
    sv_frame_release(frame);
    free(patches);
    free(work);
    sv_ctx_close(c);
}
END_TEST

START_TEST(wrong_configurations_are_refused)
{
    static const struct {
        const char *yaml, *sentence;
    } bad[] = {
        {"MODEL: {CAMERA: {NAME: ResNet, CAMERAS: [a]}}\n", "ResNet is not supported"},
        {"MODEL: {CAMERA: {NAME: TRecViT}}\n", "CAMERAS"},
        {"MODEL: {CAMERA: {NAME: TRecViT, CAMERAS: [a, a]}}\n", "'a' is there twice"},
        {"MODEL: {CAMERA: {NAME: TRecViT, CAMERAS: []}}\n", "0 cameras"},
        {"MODEL: {CAMERA: {NAME: TRecViT, CAMERAS: [a], RANGE: [3, 2]}}\n", "makes no sense"},
        {"MODEL: {CAMERA: {NAME: TRecViT, CAMERAS: [a], PATCH: [2, 16, 16]}}\n", "one at a time"},
        {"MODEL: {CAMERA: {NAME: TRecViT, CAMERAS: [a], INPUT: {SIZE: [224, 224], KEEP: [0, 0.5, 1, "
         "0.4]}}}\n",
         "KEEP"},
        {"MODEL: {CAMERA: {NAME: TRecViT, CAMERAS: [a], BLUR: 3}}\n", "BLUR"},
    };
    sv_ctx *c = test_context(1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const sv_model_def def = {.config = small_config_of(SMALL_KITTI, bad[i].yaml)};
        sv_weights *w = sv_weights_new();
        const sv_status status = sv_model_init(c, &def, 1, w);
        ck_assert_msg(status != SV_OK && strstr(sv_error_message(c), bad[i].sentence), "%s: '%s'",
                      bad[i].yaml, sv_error_message(c));
        sv_error_clear(c);
        sv_weights_free(w);
    }
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cameras");
    TCase *tests = tcase_create("cameras");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, a_projection_of_zeros_changes_nothing);
    tcase_add_test(tests, a_stream_of_frames_equals_the_clip);
    tcase_add_test(tests, cameras_that_stop_wait_and_cameras_that_change_start_afresh);
    tcase_add_test(tests, cameras_that_do_not_fit_are_refused);
    tcase_add_loop_test(tests, samples_against_a_naive_form, 0, 6);
    tcase_add_loop_test(tests, lenses_against_their_formula, 0, 6);
    tcase_add_test(tests, wrong_configurations_are_refused);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
