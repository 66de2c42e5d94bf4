/* SPDX-License-Identifier: Apache-2.0
 *
 * Video files: what is written is read back, in order; broken ones are refused; 'savanna video' takes a film for the folder
 * of its pictures and writes films. The films are made here, from simulated streets. In a build without FFmpeg: one sentence.
 */
#include "support_program.h"

#include "datasets/synthetic/sim.h"
#include "perception/clip.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { FRAMES = 13, WIDTH = 96, HEIGHT = 64 };

/* What a camera on the roof sees of a drive, ten pictures a second. */
static void simulate(sv_ctx *c, sv_image frames[FRAMES])
{
    static const double forward[9] = {0, 0, 1, -1, 0, 0, 0, -1, 0};
    const sv_sim_world world = sv_sim_world_make(6);
    const sv_sim_camera_def camera = {
        .width = WIDTH, .height = HEIGHT, .fx = 60, .fy = 60, .cx = WIDTH / 2.0, .cy = HEIGHT / 2.0};
    sv_sim_scene scene = {0};
    sv_pose mount = {.t = {0, 0, 1.6}};
    memcpy(mount.r, forward, sizeof mount.r);
    for (int t = 0; t < FRAMES; t++) {
        sv_sim_view view = {0};
        assert_ok(c, sv_sim_scene_at(c, &world, 2 + 0.1 * t, &scene));
        const sv_pose pose = sv_pose_compose(&scene.ego, &mount);
        assert_ok(c, sv_sim_camera(c, &scene, &camera, &pose, (uint64_t)t, &view));
        frames[t] = view.image;
        view.image = (sv_image){0};
        /* a mark that no other picture has */
        sv_image_rectangle(&frames[t], (float)(4 + 6 * t), 4, 5, 8, (sv_paint){0xff00ff, 1});
        sv_sim_view_free(&view);
    }
    sv_sim_scene_free(&scene);
}

static void release(sv_image frames[FRAMES])
{
    for (int t = 0; t < FRAMES; t++) sv_image_free(&frames[t]);
}

/* The film's path. */
static const char *film_of(sv_ctx *c, const char *name, sv_image frames[FRAMES])
{
    const char *path = test_path(name);
    sv_film_writer *w = NULL;
    assert_ok(c, sv_film_create(c, path, WIDTH, HEIGHT, 10, &w));
    for (int t = 0; t < FRAMES; t++) assert_ok(c, sv_film_add(c, w, &frames[t]));
    assert_ok(c, sv_film_finish(c, w));
    sv_film_writer_close(w);
    return path;
}

static double difference(const sv_image *a, const sv_image *b)
{
    double sum = 0;
    for (int i = 0; i < 3 * WIDTH * HEIGHT; i++) {
        const double d = (double)a->rgb[i] - (double)b->rgb[i];
        sum += d * d;
    }
    return sqrt(sum / (3 * WIDTH * HEIGHT));
}

static bool has_films(void)
{
    if (sv_film_version()) return true;
    printf("SKIPPED: this build reads no video files\n");
    return false;
}

START_TEST(a_film_comes_back_in_order)
{
    if (!has_films()) return;
    sv_ctx *c = test_context(1);
    sv_image frames[FRAMES], image = {0};
    simulate(c, frames);
    sv_film *film = NULL;
    const char *path = film_of(c, "street.mp4", frames);
    assert_ok(c, sv_film_open(c, path, &film));
    ck_assert_int_eq(sv_film_width(film), WIDTH);
    ck_assert_int_eq(sv_film_height(film), HEIGHT);
    ck_assert_int_eq(sv_film_count(film), FRAMES);
    ck_assert(fabs(sv_film_rate(film) - 10) < 1e-6);
    assert_ok(c, sv_image_new(c, &image, WIDTH, HEIGHT, 0));
    bool there = false;
    double time = 0;
    for (int t = 0; t < FRAMES; t++) {
        assert_ok(c, sv_film_next(c, film, &image, &time, &there));
        ck_assert(there && fabs(time - 0.1 * t) < 1e-3);
        const double own = difference(&image, &frames[t]);
        ck_assert_msg(own < 16, "picture %d differs by %g", t, own);
        for (int k = 0; k < FRAMES; k++) ck_assert(k == t || difference(&image, &frames[k]) > own);
    }
    assert_ok(c, sv_film_next(c, film, &image, &time, &there));
    ck_assert(!there);
    sv_film_close(film);
    /* the same bytes again */
    size_t size[2];
    char *bytes[2] = {read_file(path, &size[0]), read_file(film_of(c, "again.mp4", frames), &size[1])};
    ck_assert(size[0] == size[1] && memcmp(bytes[0], bytes[1], size[0]) == 0);
    free(bytes[0]);
    free(bytes[1]);
    sv_image_free(&image);
    release(frames);
    sv_ctx_close(c);
}
END_TEST

/* Reads all of a film; the first failure. */
static sv_status read_through(sv_ctx *c, const char *path, int *count)
{
    const sv_picture_rule rule = {.height = 32, .width = 48, .keep = {0, 0, 1, 1}};
    float *numbers = malloc(sizeof *numbers * 3 * 32 * 48);
    sv_clip clip;
    *count = 0;
    sv_status status = sv_clip_open(c, path, &clip);
    for (; status == SV_OK && *count < clip.count; *count += status == SV_OK) {
        int width = 0, height = 0;
        status = sv_clip_read(c, &clip, *count, &rule, numbers, &width, &height);
        ck_assert(status != SV_OK || (width == WIDTH && height == HEIGHT));
    }
    if (status == SV_OK)
        sv_clip_close(&clip);
    else if (*count > 0)
        sv_clip_close(&clip);
    free(numbers);
    return status;
}

START_TEST(broken_films_are_refused)
{
    if (!has_films()) return;
    sv_ctx *c = test_context(1);
    sv_image frames[FRAMES], odd = {0};
    sv_film_writer *w = NULL;
    int count = 0;
    simulate(c, frames);
    const char *path = film_of(c, "whole.mp4", frames), *bad = test_path("bad.mp4");
    assert_ok(c, read_through(c, path, &count));
    ck_assert_int_eq(count, FRAMES);
    size_t size = 0;
    char *bytes = read_file(path, &size);
    for (int i = 1; i < 12; i++) { /* cut off anywhere: the index is at the end */
        write_file(bad, bytes, size * (size_t)i / 12);
        ck_assert_int_ne(read_through(c, bad, &count), SV_OK);
        ck_assert_ptr_nonnull(strstr(sv_error_message(c), "bad.mp4"));
        sv_error_clear(c);
    }
    test_rng rng = {5};
    for (int i = 0; i < 40; i++) { /* damaged: refused, or read as something; never worse */
        char *copy = malloc(size);
        memcpy(copy, bytes, size);
        for (int k = 0; k < 30; k++) copy[rng_u64(&rng) % size] = (char)rng_u64(&rng);
        write_file(bad, copy, size);
        if (read_through(c, bad, &count) != SV_OK) sv_error_clear(c);
        free(copy);
    }
    free(bytes);
    write_file(bad, "no film at all", 14);
    assert_fails(c, read_through(c, bad, &count), SV_BAD_INPUT, "it is no film that can be read");
    static const char playlist[] = "ffconcat version 1.0\nfile whole.mp4\n";
    write_file(bad, playlist, sizeof playlist - 1);
    assert_fails(c, read_through(c, bad, &count), SV_BAD_INPUT, "it is no film that can be read");
    assert_fails(c, read_through(c, test_path("none.mp4"), &count), SV_IO, "none.mp4");

    assert_fails(c, sv_film_create(c, test_path("odd.mp4"), 31, 32, 10, &w), SV_USAGE, "even sides");
    assert_fails(c, sv_film_create(c, test_path("no/folder.mp4"), 32, 32, 10, &w), SV_IO, "folder.mp4");
    assert_ok(c, sv_film_create(c, test_path("half.mp4"), WIDTH, HEIGHT, 10, &w));
    assert_ok(c, sv_image_new(c, &odd, WIDTH, HEIGHT + 2, 0));
    assert_ok(c, sv_film_add(c, w, &frames[0]));
    assert_fails(c, sv_film_add(c, w, &odd), SV_BAD_SHAPE, "in a film of 96 x 64");
    sv_film_writer_close(w); /* nothing is left of it */
    ck_assert_ptr_null(read_file(test_path("half.mp4"), &size));
    sv_image_free(&odd);
    release(frames);
    sv_ctx_close(c);
}
END_TEST

/* ---- the program ---------------------------------------------------------------------------------------- */

static const char mu_yaml[] =
    "MODEL: {NAME: TRecViT, VARIANT: mu, WIDTH: 24, HEADS: 3, DEPTH: 2, MLP: 40, REP_SIZE: 20, CLASSES: 7,\n"
    "  FRAMES_PER_CLIP: 4}\n"
    "INPUT: {SIZE: [32, 48]}\n";
static const char convs5_yaml[] =
    "MODEL:\n  NAME: ConvS5\n  IMAGE_SIZE: 16\n  CHANNELS: 1\n  D_MODEL: 32\n"
    "  ENCODER: {DEPTHS: [32, 32], BLOCKS: 1}\n  DECODER: {DEPTHS: [32, 32], BLOCKS: 1}\n"
    "  SEQ_MODEL: {N_LAYERS: 2, LAYER_ACTIVATION: gelu, USE_NORM: true, PRENORM: false,\n"
    "    PER_LAYER_SKIP: true, NUM_GROUPS: 8}\n"
    "  SSM: {SSM_SIZE: 12, CLIP_EIGS: true, B_KERNEL_SIZE: 3, C_KERNEL_SIZE: 3,\n"
    "    D_KERNEL_SIZE: 3, C_D_CONFIG: resnet}\n";

/* The film's pictures as a folder of PNG files. */
static void unpack(sv_ctx *c, const char *path, const char *folder)
{
    sv_film *film = NULL;
    sv_image image = {0};
    char name[800];
    double time = 0;
    bool there = false;
    mkdir(folder, 0755);
    assert_ok(c, sv_film_open(c, path, &film));
    assert_ok(c, sv_image_new(c, &image, WIDTH, HEIGHT, 0));
    for (int t = 0; t < FRAMES; t++) {
        assert_ok(c, sv_film_next(c, film, &image, &time, &there));
        snprintf(name, sizeof name, "%s/%03d.png", folder, t);
        assert_ok(c, sv_image_write_png(c, &image, name));
    }
    sv_image_free(&image);
    sv_film_close(film);
}

START_TEST(the_program_takes_films_and_writes_them)
{
    const char *model = test_path("mu.safetensors"), *predictor = test_path("c5.safetensors");
    write_file(test_path("mu.yaml"), mu_yaml, sizeof mu_yaml - 1);
    write_file(test_path("c5.yaml"), convs5_yaml, sizeof convs5_yaml - 1);
    assert_says(savanna("init -c %s -o %s --seed 3", test_path("mu.yaml"), model), 0, "seed 3");
    assert_says(savanna("init -c %s -o %s --seed 3", test_path("c5.yaml"), predictor), 0, "seed 3");
    if (!sv_film_version()) {
        write_file(test_path("some.mp4"), "x", 1);
        assert_says(savanna("video -w %s %s", model, test_path("some.mp4")), 3, "libavformat-dev");
        assert_says(savanna("video -w %s %s -o %s", predictor, test_path("some.mp4"), test_path("o.mp4")), 3,
                    "libavformat-dev");
        printf("SKIPPED: the rest, this build reads no video files\n");
        return;
    }
    sv_ctx *c = test_context(1);
    sv_image frames[FRAMES];
    simulate(c, frames);
    const char *film = film_of(c, "drive.mp4", frames), *folder = test_path("drive");
    unpack(c, film, folder);
    assert_says(savanna("video -w %s %s -o %s", model, film, test_path("film.h5")), 0,
                "12 frames in 3 clips");
    assert_says(savanna("video -w %s %s -o %s --mode stream", model, film, test_path("stream.h5")), 0,
                "12 frames in 3 clips");
    assert_says(savanna("video -w %s %s -o %s", model, folder, test_path("folder.h5")), 0,
                "12 frames in 3 clips");
    size_t size[3];
    char *result[3] = {read_file(test_path("film.h5"), &size[0]), read_file(test_path("stream.h5"), &size[1]),
                       read_file(test_path("folder.h5"), &size[2])};
    for (int i = 1; i < 3; i++) ck_assert(size[i] == size[0] && memcmp(result[i], result[0], size[0]) == 0);
    for (int i = 0; i < 3; i++) free(result[i]);

    assert_says(savanna("video -w %s %s --frames 8 --predict 6 -o %s", predictor, film, test_path("out.mp4")),
                0, "8 pictures seen, 6 predicted");
    sv_film *out = NULL;
    assert_ok(c, sv_film_open(c, test_path("out.mp4"), &out));
    ck_assert_int_eq(sv_film_count(out), 14);
    ck_assert_int_ge(sv_film_width(out), 512);
    sv_film_close(out);
    assert_says(savanna("video -w %s %s -o %s", predictor, film, test_path("out.gif")), 2, "name it .png");
    assert_says(savanna("video -w %s %s %s/000.png", model, film, folder), 2, "not both");
    write_file(test_path("cut.mp4"), "x", 1);
    assert_says(savanna("video -w %s %s", model, test_path("cut.mp4")), 3, "it is no film that can be read");
    release(frames);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("films");
    TCase *tests = tcase_create("films");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, a_film_comes_back_in_order);
    tcase_add_test(tests, broken_films_are_refused);
    tcase_add_test(tests, the_program_takes_films_and_writes_them);
    suite_add_tcase(s, tests);
    return run_suite(s, true);
}
