/* SPDX-License-Identifier: Apache-2.0
 *
 * Detectors with both branches, MODEL.CAMERA and MODEL.TEMPORAL: with zeros in them they give the bytes of the one
 * without, on simulated and recorded nuScenes frames; with numbers in them a drive frame by frame is the drive at
 * once; and 'savanna eval' carries both states.
 */
#include "support_program.h"
#include "support_sweeps.h"

#include "backbones/video/camera.h"
#include "datasets/dataset.h"
#include "datasets/synthetic/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FRAMES = DRIVE_FRAMES, MOST = 100, WIDTH = 80, HEIGHT = 48, TOKENS = 6, CHANNELS = 16, SLOTS = 2 };

#define CAMERA_KEYS                                                                                          \
    "VARIANT: mu, WIDTH: 24, HEADS: 3, DEPTH: 2, MLP: 40, PATCH: [1, 16, 16], RANGE: [0.5, 60], "            \
    "INPUT: {SIZE: [32, 48], RESIZE: stretch}"
#define NUSCENES_CAMERAS "CAM_FRONT, CAM_FRONT_LEFT, CAM_FRONT_RIGHT, CAM_BACK, CAM_BACK_LEFT, CAM_BACK_RIGHT"

static const char *both_of(const char *cameras)
{
    static char text[600];
    snprintf(text, sizeof text, "MODEL: {CAMERA: {NAME: TRecViT, CAMERAS: [%s], %s}, %s}\n", cameras,
             CAMERA_KEYS, sweep_branch);
    return text;
}

/* Random weights of a detector with both branches; with 'numbers' their last layers are not zeros. */
static sv_weights *weights_with(sv_ctx *c, const char *config, bool numbers)
{
    sv_weights *w = sv_weights_new();
    const sv_model_def def = {.config = config};
    test_rng rng = {78};
    assert_ok(c, sv_model_init(c, &def, 5, w));
    const sv_tensor t = sv_weights_find(w, "camera.projection.weight");
    ck_assert(!sv_is_none(t));
    if (numbers) {
        sweep_numbers(w);
        rng_fill(&rng, sv_f32(t), (size_t)t.dim[0] * (size_t)t.dim[1], 0.3);
    }
    return w;
}

static sv_model *model_of(sv_ctx *c, const char *config, const sv_weights *w)
{
    const sv_model_def def = {.config = config};
    sv_model *model = NULL;
    assert_ok(c, sv_model_open_weights(c, &def, w, &model));
    return model;
}

typedef struct stream {
    sv_model *model;
    sv_detector *detector;
    sv_state *state;
    sv_box boxes[MOST];
    int count;
} stream;

/* Takes the model. */
static stream *open_stream(sv_model *model, int threads)
{
    stream *s = calloc(1, sizeof *s);
    sv_detector_def def = sv_detector_def_default();
    def.ctx.threads = threads;
    s->model = model;
    ck_assert_msg(sv_detector_open(&def, model, &s->detector) == SV_OK, "%s", sv_detector_error(s->detector));
    ck_assert_int_eq(sv_detector_stream(s->detector, &s->state), SV_OK);
    return s;
}

static void close_stream(stream *s)
{
    sv_state_close(s->state);
    sv_detector_close(s->detector);
    sv_model_release(s->model);
    free(s);
}

static void detect(stream *s, sv_frame *frame)
{
    memset(s->boxes, 0, sizeof s->boxes);
    ck_assert_msg(sv_detect(s->detector, &frame, 1, s->state, s->boxes, &s->count) == SV_OK, "%s",
                  sv_detector_error(s->detector));
}

static bool same(const stream *a, const stream *b)
{
    return a->count == b->count && memcmp(a->boxes, b->boxes, sizeof(sv_box) * (size_t)a->count) == 0;
}

/* ---- branches of zeros ---------------------------------------------------------------------------------- */

/* All frames of a split by detectors without branches, with zeros and with numbers in them. */
static void compare_on(sv_ctx *c, const char *root, const char *split, int least)
{
    const char *config = small_config_of(SMALL_NUSCENES, both_of(NUSCENES_CAMERAS));
    sv_weights *zeros = weights_with(c, config, false), *numbers = weights_with(c, config, true);
    stream *plain = open_stream(small_model_of(c, SMALL_NUSCENES, 5), 1),
           *zero = open_stream(model_of(c, config, zeros), 2),
           *some = open_stream(model_of(c, config, numbers), 2);
    ck_assert(!plain->state && zero->state && some->state);
    sv_dataset_def def = sv_dataset_def_default("nuscenes", root);
    def.split = split;
    sv_dataset *dataset = NULL;
    sv_sample sample = {0};
    assert_ok(c, sv_dataset_open(c, &def, &dataset));
    ck_assert_int_ge(sv_dataset_count(dataset), least);
    int boxes = 0, others = 0;
    for (int i = 0; i < sv_dataset_count(dataset); i++) {
        assert_ok(c, sv_dataset_read(c, dataset, i, SV_READ_POINTS | SV_READ_IMAGES, &sample));
        ck_assert_int_eq(sample.camera_count, 6);
        sample.frame->cameras = sample.cameras;
        sample.frame->camera_count = sample.camera_count;
        detect(plain, sample.frame);
        detect(zero, sample.frame);
        detect(some, sample.frame);
        ck_assert_msg(same(plain, zero), "frame %d: branches of zeros change the boxes", i);
        boxes += plain->count;
        others += !same(plain, some);
    }
    ck_assert_int_gt(boxes, 0);
    ck_assert_int_gt(others, 0);
    sv_sample_free(&sample);
    sv_dataset_close(dataset);
    close_stream(plain);
    close_stream(zero);
    close_stream(some);
    sv_weights_free(zeros);
    sv_weights_free(numbers);
}

/* A drive of key frames with the pictures of six cameras; made once for all tests, which fork. */
static const char *simulated(void)
{
    return test_path("nuscenes");
}
static void simulate(void)
{
    sv_ctx *c = test_context(2);
    const sv_synth_def def = {
        .format = "nuscenes", .folder = simulated(), .frames = 4, .drives = 1, .seed = 3, .images = true};
    sv_synth_summary summary;
    assert_ok(c, sv_synth_run(c, &def, &summary));
    sv_ctx_close(c);
}

START_TEST(zeros_on_a_simulated_drive)
{
    sv_ctx *c = test_context(2);
    compare_on(c, simulated(), "all", 4);
    sv_ctx_close(c);
}
END_TEST

START_TEST(zeros_on_a_recorded_frame)
{
    const char *reference = reference_folder();
    if (!reference) return;
    sv_ctx *c = test_context(2);
    char root[700];
    snprintf(root, sizeof root, "%s/data/nuscenes", reference);
    compare_on(c, root, "mini_train", 1);
    sv_ctx_close(c);
}
END_TEST

/* ---- a drive frame by frame is the drive at once -------------------------------------------------------- */

/* Looks to 'yaw' from where the LiDAR is. */
static void place_camera(sv_camera_view *view, const char *name, double yaw)
{
    const double focal = 50, c = cos(yaw), s = sin(yaw), forward[4] = {c, s, 0, 0.3},
                 right[4] = {s, -c, 0, 0}, down[4] = {0, 0, -1, -0.2};
    snprintf(view->name, sizeof view->name, "%s", name);
    for (int i = 0; i < 4; i++) {
        view->projection[i] = focal * right[i] + WIDTH / 2.0 * forward[i];
        view->projection[4 + i] = focal * down[i] + HEIGHT / 2.0 * forward[i];
        view->projection[8 + i] = forward[i];
    }
    view->width = WIDTH;
    view->height = HEIGHT;
}

/* Pictures of random numbers for every frame of a drive. */
static void add_cameras(sv_ctx *c, sv_frame *frames[FRAMES], sv_camera_view views[FRAMES][SLOTS])
{
    static const char *const names[SLOTS] = {"left", "right"};
    test_rng rng = {9};
    memset(views, 0, sizeof(sv_camera_view) * FRAMES * SLOTS);
    for (int t = 0; t < FRAMES; t++) {
        for (int k = 0; k < SLOTS; k++) {
            place_camera(&views[t][k], names[k], k == 0 ? 0.5 : -0.4);
            assert_ok(c, sv_image_new(c, &views[t][k].image, WIDTH, HEIGHT, 0));
            for (int i = 0; i < 3 * WIDTH * HEIGHT; i++) views[t][k].image.rgb[i] = (uint8_t)rng_u64(&rng);
        }
        frames[t]->cameras = views[t];
        frames[t]->camera_count = SLOTS;
    }
}

typedef struct kept {
    sweep_maps maps;
    float *features; /* [FRAMES, SLOTS * TOKENS, CHANNELS] of the cameras */
} kept;

static sv_status keep(void *user, sv_ctx *c, const char *name, sv_tensor t)
{
    kept *k = user;
    (void)c;
    sweep_maps_keep(&k->maps, name, t);
    if (strcmp(name, "camera/camera_features") == 0) {
        const size_t numbers = (size_t)SLOTS * TOKENS * CHANNELS;
        ck_assert_int_eq(t.dim[0], SLOTS * TOKENS);
        memcpy(k->features + (size_t)k->maps.frame * numbers, t.data, sizeof(float) * numbers);
    }
    return SV_OK;
}

/* The features of a camera's whole clip, given to the encoder at once, are those of its frames. */
static void compare_clip(sv_ctx *c, const sv_camera_branch *branch, sv_camera_view views[FRAMES][SLOTS],
                         int slot, const float *streamed)
{
    const size_t numbers = sv_camera_patch_numbers(branch);
    float *video = malloc(sizeof *video * numbers * FRAMES);
    sv_tensor input, encoded, features;
    for (int t = 0; t < FRAMES; t++)
        sv_picture_resample(&branch->picture, &views[t][slot].image, 0, WIDTH, HEIGHT,
                            video + (size_t)t * numbers);
    assert_ok(
        c, sv_frame_alloc(c, &input, "patches", SV_F32, FRAMES * TOKENS, (int)(numbers / TOKENS), SV_NONE));
    sv_tokenizer_patches(&branch->model.tokenizer, video, FRAMES, input.data);
    assert_ok(c, sv_trecvit_encode(c, &branch->model, &encoded, input, 1, FRAMES, NULL, 0, false));
    assert_ok(c, sv_frame_alloc(c, &features, "features", SV_F32, encoded.dim[0], CHANNELS, SV_NONE));
    assert_ok(c, sv_linear(c, features, encoded, SV_NONE, &branch->projection, SV_MAP_identity));
    for (int t = 0; t < FRAMES; t++)
        for (int i = 0; i < TOKENS; i++)
            ck_assert_msg(memcmp(sv_f32(features) + (size_t)((i + 1) * FRAMES + t) * CHANNELS,
                                 streamed + (size_t)((t * SLOTS + slot) * TOKENS + i) * CHANNELS,
                                 sizeof(float) * CHANNELS) == 0,
                          "camera %d, frame %d, token %d", slot, t, i);
    free(video);
}

START_TEST(a_drive_frame_by_frame_is_the_drive_at_once)
{
    sv_ctx *c = test_context(2);
    const char *config = small_config_of(SMALL_KITTI, both_of("left, right"));
    sv_weights *w = weights_with(c, config, true);
    stream *s = open_stream(model_of(c, config, w), 2), *again = open_stream(model_of(c, config, w), 3);
    sv_frame *frames[FRAMES];
    static sv_camera_view views[FRAMES][SLOTS];
    const size_t count = (size_t)SWEEP_CELLS * SWEEP_MAP;
    kept k = {.maps = sweep_maps_new(),
              .features = malloc(sizeof(float) * FRAMES * SLOTS * TOKENS * CHANNELS)};
    float *want = malloc(sizeof *want * count * FRAMES);
    drive_simulate(c, 6, 4, frames);
    add_cameras(c, frames, views);
    sv_detector_ctx(s->detector)->probe = keep;
    sv_detector_ctx(s->detector)->probe_user = &k;
    for (k.maps.frame = 0; k.maps.frame < FRAMES; k.maps.frame++) {
        detect(s, frames[k.maps.frame]);
        detect(again, frames[k.maps.frame]);
        ck_assert_msg(same(s, again), "frame %d: two numbers of threads", k.maps.frame);
    }
    ck_assert_int_eq(sv_state_frames(s->state), FRAMES);
    for (int slot = 0; slot < SLOTS; slot++)
        compare_clip(c, sv_model_camera(s->model), views, slot, k.features);
    sweep_batch(c, config, w, frames, k.maps.before, want);
    assert_close("maps of a drive of 20 frames", k.maps.behind, want, count * FRAMES, 2e-3, 1e-4);

    /* Both pasts matter: the last frame on its own has other features, and with them another map. */
    float *features = malloc(sizeof(float) * SLOTS * TOKENS * CHANNELS);
    memcpy(features, k.features + (size_t)(FRAMES - 1) * SLOTS * TOKENS * CHANNELS,
           sizeof(float) * SLOTS * TOKENS * CHANNELS);
    memcpy(want, k.maps.before + (FRAMES - 1) * count, sizeof *want * count);
    k.maps.frame = 0;
    assert_ok(sv_detector_ctx(s->detector), sv_state_reset(sv_detector_ctx(s->detector), s->state));
    detect(s, frames[FRAMES - 1]);
    ck_assert_mem_ne(features, k.features, sizeof(float) * SLOTS * TOKENS * CHANNELS);
    ck_assert_mem_ne(want, k.maps.before, sizeof *want * count);
    free(features);
    for (int t = 0; t < FRAMES; t++)
        for (int i = 0; i < SLOTS; i++) sv_image_free(&views[t][i].image);
    sweep_maps_free(&k.maps);
    free(k.features);
    free(want);
    drive_release(frames);
    close_stream(s);
    close_stream(again);
    sv_weights_free(w);
    sv_ctx_close(c);
}
END_TEST

/* ---- the program ---------------------------------------------------------------------------------------- */

/* The score file of an evaluation, and in 'results' the submission. */
static char *evaluate(const char *name, const char *config, const char *weights, char **results)
{
    char scores[1000], folder[1000], path[1100];
    snprintf(scores, sizeof scores, "%s/%s.json", test_folder(), name);
    snprintf(folder, sizeof folder, "%s/%s-results", test_folder(), name);
    const int code =
        savanna("eval --dataset nuscenes --root %s --split all -c %s -w %s -o %s --save-results %s -q",
                simulated(), config, weights, scores, folder);
    ck_assert_msg(code == 0, "exit code %d: %.3000s", code, output);
    /* TOKEN.json, without the record of the run, which knows the weights */
    snprintf(path, sizeof path, "cat %s/????????????????????????????????.json > %s/%s-all", folder,
             test_folder(), name);
    ck_assert_int_eq(system(path), 0);
    snprintf(path, sizeof path, "%s/%s-all", test_folder(), name);
    size_t size = 0;
    *results = read_file(path, &size);
    ck_assert(*results && size > 0);
    return read_file(scores, &size);
}

START_TEST(evaluation_reads_pictures_and_carries_states)
{
    sv_ctx *c = test_context(1);
    const char *config = small_config_of(SMALL_NUSCENES, both_of(NUSCENES_CAMERAS)),
               *paths[3] = {test_path("plain.h5"), test_path("zero.h5"), test_path("some.h5")};
    const char *plain_config = small_config_of(SMALL_NUSCENES, NULL);
    sv_weights *w[3] = {sv_weights_new(), weights_with(c, config, false), weights_with(c, config, true)};
    const sv_model_def def = {.config = plain_config};
    assert_ok(c, sv_model_init(c, &def, 5, w[0]));
    char *scores[3], *results[3];
    for (int i = 0; i < 3; i++) {
        static const char *const names[3] = {"plain", "zero", "some"};
        assert_ok(c, sv_weights_write(c, w[i], paths[i]));
        sv_weights_free(w[i]);
        scores[i] = evaluate(names[i], i == 0 ? plain_config : config, paths[i], &results[i]);
    }
    ck_assert_msg(strcmp(results[0], results[1]) == 0, "branches of zeros change the results");
    ck_assert(strcmp(results[0], results[2]) != 0);
    for (int i = 0; i < 3; i++) {
        free(scores[i]);
        free(results[i]);
    }
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("branches");
    TCase *tests = tcase_create("branches");
    tcase_set_timeout(tests, 300);
    tcase_add_unchecked_fixture(tests, simulate, NULL);
    tcase_add_test(tests, zeros_on_a_simulated_drive);
    tcase_add_test(tests, zeros_on_a_recorded_frame);
    tcase_add_test(tests, a_drive_frame_by_frame_is_the_drive_at_once);
    tcase_add_test(tests, evaluation_reads_pictures_and_carries_states);
    suite_add_tcase(s, tests);
    return run_suite(s, true);
}
