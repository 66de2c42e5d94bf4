/* SPDX-License-Identifier: Apache-2.0
 *
 * Simulated drives in the layouts of nuScenes and Waymo, read back by the readers of the real ones: points
 * lie where the simulator put them, also through sweeps and range images; labels hold the points they count;
 * the same bytes for any number of threads and after an interruption; detected and evaluated by the program.
 */
#include "support_program.h"

#include "datasets/dataset.h"
#include "datasets/synthetic/synth.h"
#include "perception/geometry/box.h"
#include "perception/image.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a command prints and its exit code. */

static sv_synth_def drives(const char *format, const char *folder)
{
    return (sv_synth_def){.format = format, .folder = folder, .frames = 4, .drives = 2, .seed = 3};
}

static sv_dataset *read_back(sv_ctx *c, const char *folder, const char *split)
{
    sv_dataset *dataset = NULL;
    sv_dataset_def def = sv_dataset_def_default(NULL, folder);
    def.split = split;
    assert_ok(c, sv_dataset_open(c, &def, &dataset));
    return dataset;
}

/* The two folders hold the same files with the same bytes, but for the settings' own file. */
static void assert_same(const char *a, const char *b)
{
    char command[1400];
    snprintf(command, sizeof command, "diff -r %s %s > %s", a, b, test_path("difference"));
    const int state = system(command);
    size_t size = 0;
    char *text = read_file(test_path("difference"), &size);
    ck_assert_msg(WIFEXITED(state) && WEXITSTATUS(state) == 0, "%.300s", text ? text : "");
    free(text);
}

static const char *const formats[] = {"nuscenes", "waymo"};

START_TEST(any_number_of_threads_and_an_interruption_give_the_same_bytes)
{
    const char *format = formats[_i];
    char one[300], three[300], command[700];
    snprintf(one, sizeof one, "%s", test_path("one"));
    snprintf(three, sizeof three, "%s", test_path("three"));
    sv_ctx *c = test_context(1), *d = test_context(3);
    sv_synth_summary summary;
    sv_synth_def def = drives(format, one);
    assert_ok(c, sv_synth_run(c, &def, &summary));
    ck_assert_int_eq(summary.written, 4);
    ck_assert_int_gt(summary.labels, 40);
    def.folder = three;
    assert_ok(d, sv_synth_run(d, &def, &summary));
    assert_same(one, three);
    /* what an interrupted run lacks is made again */
    snprintf(command, sizeof command,
             _i == 0 ? "rm -r %s/v1.0-trainval/sample_data.json %s/synth/000002.counts"
                     : "rm -r %s/validation",
             three, three);
    ck_assert_int_eq(system(command), 0);
    assert_ok(d, sv_synth_run(d, &def, &summary));
    ck_assert_int_eq(summary.written, _i == 0 ? 1 : 2);
    assert_same(one, three);
    assert_ok(d, sv_synth_run(d, &def, &summary));
    ck_assert_int_eq(summary.kept, 4);
    sv_ctx_close(c);
    sv_ctx_close(d);
}
END_TEST

/* Returns of the ground, of the frame and of every sweep moved into it, lie on the ground of the scene. */
static double share_on_ground(sv_ctx *c, const sv_synth_def *def, int index, double time, const sv_sample *s)
{
    const sv_synth_frame f = sv_synth_frame_at(def, index);
    sv_sim_scene scene = {0};
    assert_ok(c, sv_sim_scene_at(c, &f.world, time, &scene));
    const sv_pose to_world = sv_pose_compose(&s->ego_to_world, &s->lidar_to_ego);
    int ground = 0, below = 0;
    for (int i = 0; i < s->frame->count; i++) {
        const float *p = s->frame->points + (size_t)i * (size_t)s->frame->columns;
        const double local[3] = {(double)p[0], (double)p[1], (double)p[2]};
        double world[3];
        sv_pose_apply(&to_world, local, world);
        if (hypot(world[0] - scene.ego.t[0], world[1] - scene.ego.t[1]) > 18) continue;
        const double above = world[2] - sv_sim_ground(&scene.ground, world[0], world[1]);
        ground += fabs(above) < 0.08;
        below += above < -0.15;
    }
    ck_assert_int_gt(ground, 3000);
    sv_sim_scene_free(&scene);
    return (double)below / ground;
}

/* Boxes hold the points they count, but for noise at their faces. */
static int check_counts(const sv_sample *s)
{
    int checked = 0, off = 0;
    for (int i = 0; i < s->label_count; i++) {
        sv_box box = s->labels[i].box;
        if (s->labels[i].points < 30 || strstr(s->labels[i].type, "edestrian")) continue;
        box.dx += 0.3f, box.dy += 0.3f, box.dz += 0.3f;
        const int inside = sv_points_in_box(s->frame->points, s->frame->count, s->frame->columns, &box);
        checked++;
        off += inside < 0.8 * s->labels[i].points || inside > 1.8 * s->labels[i].points + 40;
    }
    ck_assert_msg(off <= checked / 8, "%d of %d labels hold other numbers of points", off, checked);
    return checked;
}

START_TEST(nuscenes_is_read_back)
{
    sv_ctx *c = test_context(2);
    char folder[300];
    snprintf(folder, sizeof folder, "%s", test_path("nuscenes"));
    sv_synth_def def = drives("nuscenes", folder);
    def.images = sv_image_has_jpeg();
    sv_synth_summary summary;
    assert_ok(c, sv_synth_run(c, &def, &summary));
    sv_dataset *all = read_back(c, folder, "all"), *val = read_back(c, folder, NULL);
    ck_assert_str_eq(sv_dataset_name(all), "nuscenes");
    ck_assert_int_eq(sv_dataset_count(all), 4);
    ck_assert_int_eq(sv_dataset_count(val), 2);
    ck_assert_str_eq(sv_dataset_sequence(val, 0)->name, "scene-0003");
    sv_sample s = {0};
    assert_ok(c, sv_dataset_read(c, val, 1, SV_READ_POINTS | SV_READ_LABELS | SV_READ_CAMERAS, &s));
    /* ten sweeps: lags of 0 to 0.45 s, all of them where the street is */
    float oldest = 0;
    for (int i = 0; i < s.frame->count; i++) oldest = fmaxf(oldest, s.frame->points[5 * i + 4]);
    ck_assert_double_eq_tol((double)oldest, 0.45, 1e-4);
    ck_assert_double_lt(share_on_ground(c, &def, 3, 0.5, &s), 0.01);
    int moving = 0, still = 0;
    for (int i = 0; i < s.label_count; i++) {
        if (!s.labels[i].has_velocity) continue;
        const double speed = hypot((double)s.labels[i].box.vx, (double)s.labels[i].box.vy);
        moving += speed > 0.5 && speed < 16;
        still += speed < 1e-3;
        ck_assert_double_lt(speed, 16);
    }
    ck_assert_int_gt(moving, 2);
    ck_assert_int_gt(still, 5);
    ck_assert_int_eq(s.camera_count, def.images ? 6 : 0);
    /* the key frame alone is what labels count */
    sv_dataset_def one = sv_dataset_def_default("nuscenes", folder);
    one.sweeps = 1;
    sv_dataset *single = NULL;
    assert_ok(c, sv_dataset_open(c, &one, &single));
    assert_ok(c, sv_dataset_read(c, single, 0, SV_READ_ALL, &s));
    ck_assert_int_ge(check_counts(&s), 3);
    if (def.images) ck_assert_int_eq(s.cameras[5].image.width, 800);
    sv_sample_free(&s);
    sv_dataset_close(single);
    sv_dataset_close(all);
    sv_dataset_close(val);
    sv_ctx_close(c);
}
END_TEST

START_TEST(waymo_is_read_back)
{
    sv_ctx *c = test_context(2);
    char folder[300];
    snprintf(folder, sizeof folder, "%s", test_path("waymo"));
    sv_synth_def def = drives("waymo", folder);
    def.images = sv_image_has_jpeg();
    sv_synth_summary summary;
    assert_ok(c, sv_synth_run(c, &def, &summary));
    sv_dataset *validation = read_back(c, folder, NULL), *training = read_back(c, folder, "training");
    ck_assert_str_eq(sv_dataset_name(validation), "waymo");
    ck_assert_int_eq(sv_dataset_count(validation), 2);
    ck_assert_int_eq(sv_dataset_count(training), 2);
    sv_sample s = {0};
    for (int i = 0; i < 2; i++) {
        assert_ok(c, sv_dataset_read(c, validation, i, SV_READ_ALL, &s));
        ck_assert_int_gt(s.frame->count, 60000);
        ck_assert_double_lt(share_on_ground(c, &def, 2 + i, 0.1 * i, &s), 0.01);
        ck_assert_int_ge(check_counts(&s), 3);
        int moving = 0;
        for (int k = 0; k < s.label_count; k++) moving += s.labels[k].has_velocity && s.labels[k].box.vx != 0;
        ck_assert_int_gt(moving, 2);
        ck_assert_int_eq(s.camera_count, def.images ? 5 : 0);
        if (def.images) ck_assert_int_eq(s.cameras[4].image.height, 296);
    }
    sv_sample_free(&s);
    sv_dataset_close(validation);
    sv_dataset_close(training);
    sv_ctx_close(c);
}
END_TEST

START_TEST(the_program_scores_them)
{
    char command[1200], folder[300];
    snprintf(folder, sizeof folder, "%s", test_path("scored"));
    snprintf(command, sizeof command, "synth %s --format %s --frames 4 --drives 2 --seed 5 --no-images -q",
             folder, formats[_i]);
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    snprintf(command, sizeof command, "inspect %s", folder);
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    snprintf(command, sizeof command, "eval --root %s --self-check", folder);
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    ck_assert_ptr_nonnull(strstr(output, "every score is what"));
    snprintf(command, sizeof command, "eval --root %s -c cluster -o %s -q", folder,
             test_path("metrics.json"));
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    /* scenes of one frame, where nothing has a velocity by its neighbours */
    snprintf(command, sizeof command, "synth %s --format %s --frames 2 --drives 2 --no-images -q",
             test_path("alone"), formats[_i]);
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    snprintf(command, sizeof command, "eval --root %s --self-check", test_path("alone"));
    ck_assert_msg(savanna("%s", command) == 0, "%s", output);
    size_t size = 0;
    char *metrics = read_file(test_path("metrics.json"), &size);
    ck_assert_ptr_nonnull(metrics);
    ck_assert_ptr_nonnull(strstr(metrics, _i == 0 ? "\"nd_score\"" : "\"APH\""));
    free(metrics);
}
END_TEST

START_TEST(what_cannot_be_written_is_refused)
{
    sv_ctx *c = test_context(1);
    sv_synth_summary summary;
    sv_synth_def def = drives("nuscenes", test_path("many"));
    def.frames = def.drives = 301;
    assert_fails(c, sv_synth_run(c, &def, &summary), SV_USAGE, "301 drives");
    def = drives("once", test_path("none"));
    assert_fails(c, sv_synth_run(c, &def, &summary), SV_USAGE, "these are: kitti, nuscenes, waymo");
    /* a frame's counts that are not those of its scene */
    def = drives("nuscenes", test_path("counts"));
    def.frames = def.drives = 1;
    assert_ok(c, sv_synth_run(c, &def, &summary));
    char path[400];
    snprintf(path, sizeof path, "%s/synth/000000.counts", def.folder);
    write_file(path, "123", 3);
    assert_fails(c, sv_synth_run(c, &def, &summary), SV_BAD_INPUT, "000000.counts: 3 bytes do not fit");
    sv_ctx_close(c);
}
END_TEST

START_TEST(pictures_survive_packing)
{
    if (!sv_image_has_jpeg()) {
        printf("skipped: this build has no JPEG pictures\n");
        return;
    }
    sv_ctx *c = test_context(1);
    sv_image image, back;
    assert_ok(c, sv_image_new(c, &image, 70, 33, 0x3060a0));
    sv_image_rectangle(&image, 10, 5, 30, 20, (sv_paint){0xe0c040, 1});
    const char *path = test_path("picture.jpg");
    assert_ok(c, sv_image_write_jpeg(c, &image, 95, path));
    assert_ok(c, sv_image_read_jpeg(c, path, &back));
    ck_assert(back.width == 70 && back.height == 33);
    double difference = 0;
    for (int i = 0; i < 70 * 33 * 3; i++) difference += abs(image.rgb[i] - back.rgb[i]);
    ck_assert_double_lt(difference / (70 * 33 * 3), 6);
    sv_image_free(&image);
    sv_image_free(&back);
    assert_fails(c, sv_image_read_jpeg(c, test_path("none.jpg"), &back), SV_IO, "none.jpg");
    sv_ctx_close(c);
}
END_TEST

START_TEST(quaternions_turn_as_their_matrix)
{
    test_rng rng = {9};
    for (int i = 0; i < 200; i++) {
        double q[4], back[4], t[3] = {1, 2, 3};
        /* some of them nearly half turns */
        for (int k = 0; k < 4; k++) q[k] = rng_normal(&rng) * (k == 0 && i % 3 == 0 ? 1e-9 : 1);
        const sv_pose pose = sv_pose_from_quaternion(q, t);
        sv_pose_quaternion(&pose, back);
        ck_assert_double_ge(back[0], 0);
        const sv_pose again = sv_pose_from_quaternion(back, t);
        for (int k = 0; k < 9; k++) ck_assert_double_eq_tol(again.r[k], pose.r[k], 1e-12);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("synth_formats");
    TCase *cases = tcase_create("formats");
    tcase_set_timeout(cases, 600);
    tcase_add_loop_test(cases, any_number_of_threads_and_an_interruption_give_the_same_bytes, 0, 2);
    tcase_add_test(cases, nuscenes_is_read_back);
    tcase_add_test(cases, waymo_is_read_back);
    tcase_add_loop_test(cases, the_program_scores_them, 0, 2);
    tcase_add_test(cases, what_cannot_be_written_is_refused);
    tcase_add_test(cases, pictures_survive_packing);
    tcase_add_test(cases, quaternions_turn_as_their_matrix);
    suite_add_tcase(suite, cases);
    return run_suite(suite, true);
}
