/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna eval as a user meets it, on a small dataset that the suite makes: scores that do not depend on how
 * they were made, runs that are killed and continued, other people's files, self-checks.
 */
#define _GNU_SOURCE /* flock */
#include "support_program.h"

#include "datasets/kitti.h"
#include "perception/image.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <yajl/yajl_tree.h>

enum { FRAMES = 36, WIDTH = 400, HEIGHT = 120 };

/* ---- a dataset ---------------------------------------------------------------------------------------- */

static sv_kitti_calibration calibration(sv_ctx *c)
{
    static const double p2[12] = {230, 0, 200, 15, 0, 230, 55, 0, 0, 0, 1, 0.003};
    static const double turn[12] = {0, -1, 0, 0.02, 0, 0, -1, -0.08, 1, 0, 0, -0.27};
    sv_kitti_calibration k = {.r0_rect = {1, 0, 0, 0, 1, 0, 0, 0, 1}};
    memcpy(k.p2, p2, sizeof p2);
    memcpy(k.p0, p2, sizeof p2);
    memcpy(k.p1, p2, sizeof p2);
    memcpy(k.p3, p2, sizeof p2);
    memcpy(k.velo_to_cam, turn, sizeof turn);
    for (int i = 0; i < 3; i++) k.imu_to_velo[5 * i] = 1;
    assert_ok(c, sv_kitti_derive_calibration(c, "test", &k));
    return k;
}

/* The sides of a box that the sensor sees, and ground around. */
static int scan(test_rng *rng, const sv_box *boxes, int count, float *points)
{
    int n = 0;
    for (int b = 0; b < count; b++)
        for (int i = 0; i < 400; i++) {
            const sv_box *box = &boxes[b];
            double u = rng_uniform(rng, -0.5, 0.5) * (double)box->dx,
                   v = rng_uniform(rng, -0.5, 0.5) * (double)box->dy;
            if (i % 2)
                u = -0.5 * (double)box->dx;
            else
                v = (box->y > 0 ? -0.5 : 0.5) * (double)box->dy;
            const double z = (double)box->z + rng_uniform(rng, -0.45, 0.5) * (double)box->dz;
            float *p = points + 4 * n++;
            p[0] = (float)((double)box->x + u), p[1] = (float)((double)box->y + v), p[2] = (float)z,
            p[3] = 0.4f;
        }
    for (int i = 0; i < 4000; i++) {
        float *p = points + 4 * n++;
        p[0] = (float)rng_uniform(rng, 4, 50), p[1] = (float)rng_uniform(rng, -15, 15);
        p[2] = (float)(-1.7 + rng_uniform(rng, -0.02, 0.02)), p[3] = 0.1f;
    }
    return n;
}

static void make_frame(sv_ctx *c, const char *root, const sv_kitti_calibration *k, int number)
{
    test_rng rng = {(uint64_t)number + 100};
    char path[512];
    sv_box boxes[4];
    sv_kitti_object objects[5];
    static float points[4 * 8000];
    const int count = number % 5 == 4 ? 0 : 1 + number % 4;
    for (int i = 0; i < count; i++) {
        boxes[i] = (sv_box){.x = (float)(8 + 9 * i + rng_uniform(&rng, 0, 3)),
                            .y = (float)(i % 2 ? rng_uniform(&rng, 2.5, 4) : rng_uniform(&rng, -4, -2.5)),
                            .dx = 3.9f,
                            .dy = 1.6f,
                            .dz = 1.5f,
                            .label = 1};
        boxes[i].z = -1.7f + 0.75f;
        sv_kitti_object_of_box(k, &boxes[i], "Car", WIDTH, HEIGHT, &objects[i]);
        objects[i].truncated = 0;
        objects[i].occluded = 0;
        objects[i].has_score = false;
    }
    objects[count] = (sv_kitti_object){
        .type = "DontCare", .truncated = -1, .occluded = -1, .alpha = -10, .x2 = 20, .y2 = 20};
    objects[count].h = objects[count].w = objects[count].l = -1;
    objects[count].x = objects[count].y = objects[count].z = -1000;
    objects[count].ry = -10;
    snprintf(path, sizeof path, "%s/training/velodyne/%06d.bin", root, number);
    write_file(path, points, sizeof(float) * 4 * (size_t)scan(&rng, boxes, count, points));
    snprintf(path, sizeof path, "%s/training/calib/%06d.txt", root, number);
    assert_ok(c, sv_kitti_write_calibration(c, path, k));
    snprintf(path, sizeof path, "%s/training/label_2/%06d.txt", root, number);
    assert_ok(c, sv_kitti_write_objects(c, path, objects, count + 1));
    sv_image image;
    assert_ok(c, sv_image_new(c, &image, WIDTH, HEIGHT, 0x334455));
    snprintf(path, sizeof path, "%s/training/image_2/%06d.png", root, number);
    assert_ok(c, sv_image_write_png(c, &image, path));
    sv_image_free(&image);
}

static void make_folder(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void make_folder(const char *format, ...)
{
    char path[512];
    va_list args;
    va_start(args, format);
    vsnprintf(path, sizeof path, format, args);
    va_end(args);
    ck_assert_msg(mkdir(path, 0777) == 0, "%s cannot be made", path);
}

/* Made by the first test of the program that asks. */
static const char *dataset(void)
{
    const char *root = test_path("kitti");
    struct stat info;
    if (stat(root, &info) == 0) return root;
    sv_ctx *c = test_context(1);
    static const char *const parts[] = {"",
                                        "/training",
                                        "/training/velodyne",
                                        "/training/calib",
                                        "/training/label_2",
                                        "/training/image_2",
                                        "/ImageSets",
                                        "/testing",
                                        "/testing/velodyne",
                                        "/testing/calib"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) make_folder("%s%s", root, parts[i]);
    const sv_kitti_calibration k = calibration(c);
    char ids[FRAMES * 8 + 1] = "", path[512];
    for (int i = 0; i < FRAMES; i++) {
        make_frame(c, root, &k, i);
        snprintf(ids + 7 * i, 9, "%06d\n", i);
    }
    snprintf(path, sizeof path, "%s/ImageSets/val.txt", root);
    write_file(path, ids, strlen(ids));
    snprintf(path, sizeof path, "%s/testing/velodyne/000000.bin", root);
    write_file(path, "", 0);
    snprintf(path, sizeof path, "%s/testing/calib/000000.txt", root);
    assert_ok(c, sv_kitti_write_calibration(c, path, &k));
    sv_ctx_close(c);
    return root;
}

/* ---- helpers ------------------------------------------------------------------------------------------ */

static bool same_file(const char *a, const char *b)
{
    size_t n = 0, m = 0;
    char *x = read_file(a, &n), *y = read_file(b, &m);
    const bool same = x && y && n == m && memcmp(x, y, n) == 0;
    free(x);
    free(y);
    return same;
}

static int count_files(const char *folder)
{
    int count = 0;
    DIR *handle = opendir(folder);
    for (struct dirent *entry; handle && (entry = readdir(handle));) count += entry->d_name[0] != '.';
    if (handle) closedir(handle);
    return count;
}

/* The same names with the same bytes, temporary files included. */
static void assert_same_folder(const char *a, const char *b)
{
    ck_assert_int_eq(count_files(a), count_files(b));
    DIR *handle = opendir(a);
    ck_assert_ptr_nonnull(handle);
    for (struct dirent *entry; (entry = readdir(handle));) {
        char x[1024], y[1024];
        if (entry->d_name[0] == '.') continue;
        snprintf(x, sizeof x, "%s/%s", a, entry->d_name);
        snprintf(y, sizeof y, "%s/%s", b, entry->d_name);
        ck_assert_msg(same_file(x, y), "%s differs from %s", x, y);
    }
    closedir(handle);
}

static double metric(const char *path, const char *kitti_class, const char *name, int difficulty)
{
    size_t size = 0;
    char *text = read_file(path, &size), message[128];
    ck_assert_ptr_nonnull(text);
    yajl_val root = yajl_tree_parse(text, message, sizeof message);
    ck_assert_msg(root != NULL, "%s: %s", path, message);
    yajl_val list = yajl_tree_get(
        root, (const char *[]){"classes", kitti_class, "official", name, "R40", NULL}, yajl_t_array);
    ck_assert_ptr_nonnull(list);
    const double value = YAJL_GET_DOUBLE(YAJL_GET_ARRAY(list)->values[difficulty]);
    yajl_tree_free(root);
    free(text);
    return value;
}

/* ---- scores ------------------------------------------------------------------------------------------- */

START_TEST(scores_do_not_depend_on_how_they_are_made)
{
    const char *root = dataset(), *first = test_path("first.json"), *other = test_path("other.json"),
               *saved = test_path("saved");
    ck_assert_msg(
        savanna("eval --root %s -c cluster --save-results %s -o %s --threads 1", root, saved, first) == 0,
        "%s", output);
    ck_assert_ptr_nonnull(strstr(output, "Pedestrian"));
    ck_assert_ptr_nonnull(strstr(output, "loose"));
    ck_assert_int_eq(count_files(saved), FRAMES + 1);
    ck_assert_double_gt(metric(first, "Car", "bbox", 1), 20); /* the boxes are there to be found */
    ck_assert_double_gt(metric(first, "Car", "bev", 1), 10);
    ck_assert_int_eq(
        savanna("eval -q --dataset kitti --root %s -c cluster -o %s --threads 3 --batch 4", root, other), 0);
    ck_assert_str_eq(output, "");
    ck_assert(same_file(first, other));
    /* the files that were saved score the same, in any place */
    ck_assert_int_eq(savanna("eval -q --root %s --results %s -o %s", root, saved, other), 0);
    ck_assert(same_file(first, other));
    make_folder("%s", test_path("official"));
    ck_assert_int_eq(rename(saved, test_path("official/data")), 0);
    ck_assert_int_eq(
        savanna("eval -q --root %s --results %s -o %s --threads 2", root, test_path("official"), other), 0);
    ck_assert(same_file(first, other));
    ck_assert_int_eq(savanna("eval -q --json --root %s --results %s", root, test_path("official")), 0);
    size_t size = 0;
    char *text = read_file(first, &size);
    ck_assert_str_eq(output, text);
    free(text);
    ck_assert_int_eq(rename(test_path("official/data"), saved), 0);
}
END_TEST

START_TEST(pictures_and_curves)
{
    const char *root = dataset();
    ck_assert_msg(savanna("eval -q --root %s -c cluster --images %s --curves %s --fov all", root,
                          test_path("pictures"), test_path("curves.png")) == 0,
                  "%s", output);
    ck_assert_int_eq(count_files(test_path("pictures")), FRAMES);
    sv_ctx *c = test_context(1);
    sv_image image;
    assert_ok(c, sv_image_read_png(c, test_path("pictures/000000.png"), &image));
    ck_assert_int_gt(image.width, 400);
    sv_image_free(&image);
    assert_ok(c, sv_image_read_png(c, test_path("curves.png"), &image));
    ck_assert_int_gt(image.width, 1000);
    sv_image_free(&image);
    ck_assert_int_eq(savanna("eval -q --root %s --self-check --curves %s", root, test_path("curves")), 0);
    assert_ok(c, sv_image_read_png(c, test_path("curves/Car_3d.png"), &image));
    sv_image_free(&image);
    ck_assert_int_eq(count_files(test_path("curves")), 18);
    sv_ctx_close(c);
}
END_TEST

START_TEST(self_check_says_what_is_attainable)
{
    const char *root = dataset();
    /* the curve of 29 objects has 28 of its 40 places */
    assert_says(savanna("eval --root %s --self-check", root), 0,
                "Car 3d hard                          29    70.0000    70.0000    72.7273    72.7273\n");
    assert_says(savanna("eval --root %s --self-check --rule python", root), 0, "every score is what");
    /* nobody labelled a cyclist: 0 of 0 */
    ck_assert_ptr_nonnull(strstr(output, "Cyclist 3d hard                       0     0.0000     0.0000"));
    /* a label without size cannot be found */
    make_folder("%s", test_path("flat"));
    char command[1024];
    snprintf(command, sizeof command, "cp -r %s/. %s", root, test_path("flat"));
    ck_assert_int_eq(system(command), 0);
    static const char line[] =
        "Car 0.00 0 -0.50 10.00 10.00 60.00 80.00 0.00 0.00 0.00 1.00 1.70 9.00 0.00\n";
    write_file(test_path("flat/training/label_2/000003.txt"), line, strlen(line));
    assert_says(savanna("eval --root %s --self-check", test_path("flat")), 1, "NOT REACHED");
    assert_says(savanna("eval --root %s --self-check --split testing", root), 3, "no labels");
}
END_TEST

/* ---- other people's files ----------------------------------------------------------------------------- */

START_TEST(missing_and_extra_files_are_named)
{
    const char *root = dataset(), *folder = test_path("theirs"), *first = test_path("a.json"),
               *other = test_path("b.json");
    make_folder("%s", folder);
    assert_says(savanna("eval --root %s --results %s", root, folder), 3, "holds no results");
    assert_says(savanna("eval --root %s --results %s/none", root, folder), 3, "no such folder");
    for (int i = 0; i < FRAMES; i++) { /* empty files are fine */
        char name[64];
        snprintf(name, sizeof name, "theirs/%06d.txt", i);
        write_file(test_path(name), "", 0);
    }
    ck_assert_msg(savanna("eval -q --root %s --results %s -o %s", root, folder, first) == 0, "%s", output);
    write_file(test_path("theirs/777777.txt"), "", 0);
    write_file(test_path("theirs/notes.md"), "", 0);
    assert_says(savanna("eval --root %s --results %s", root, folder), 0, "1 results belong to no sample");
    ck_assert_ptr_nonnull(strstr(output, "777777.txt"));
    for (int i = 3; i < 15; i++) {
        char name[64];
        snprintf(name, sizeof name, "theirs/%06d.txt", i);
        ck_assert_int_eq(unlink(test_path(name)), 0);
    }
    assert_says(savanna("eval -q --root %s --results %s", root, folder), 3,
                "12 of 36 samples have no results: 000003");
    ck_assert_ptr_nonnull(strstr(output, "000012 and 2 more"));
    assert_says(savanna("eval --root %s --results %s --allow-missing", root, folder), 0, "left out");
    ck_assert_ptr_nonnull(strstr(output, "24 frames"));
    assert_says(
        savanna("eval --root %s --results %s --allow-missing --rule python -o %s", root, folder, other), 0,
        "without detections");
    ck_assert_ptr_nonnull(strstr(output, "36 frames"));
    /* a broken file is one sentence that names it, whichever thread read it */
    write_file(test_path("theirs/000020.txt"), "Car 1 2 3\n", 10);
    for (int i = 0; i < 3; i++)
        assert_says(savanna("eval -q --root %s --results %s --allow-missing --threads 4", root, folder), 3,
                    "000020.txt, line 1");
}
END_TEST

/* ---- killed and continued ----------------------------------------------------------------------------- */

static pid_t start(const char *const *arguments)
{
    const char *program = getenv("SAVANNA_PROGRAM");
    ck_assert_ptr_nonnull(program);
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child > 0) return child;
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    execv(program, (char *const *)arguments);
    _exit(127);
}

static void wait_ms(long ms, long us)
{
    const struct timespec time = {ms / 1000, ms % 1000 * 1000000 + us * 1000};
    nanosleep(&time, NULL);
}

START_TEST(killed_runs_end_with_the_same_bytes)
{
    const char *root = dataset(), *whole = test_path("whole"), *broken = test_path("broken"),
               *first = test_path("whole.json"), *other = test_path("broken.json");
    ck_assert_msg(savanna("eval -q --root %s -c cluster --save-results %s -o %s", root, whole, first) == 0,
                  "%s", output);
    test_rng rng = {(uint64_t)getpid()};
    const char *const arguments[] = {"savanna", "eval",           "--root", root,       "-c",
                                     "cluster", "--save-results", broken,   "--resume", "-o",
                                     other,     "--threads",      "1",      NULL};
    int interrupted = 0;
    for (int kills = 0; kills < 5; kills++) {
        /* at some moment after a few more frames */
        const int until = count_files(broken) + 1 + (int)rng_uniform(&rng, 0, 5);
        const pid_t child = start(arguments);
        int state = 0;
        pid_t ended = 0;
        for (int i = 0; i < 60000 && count_files(broken) < until && ended == 0; i++) {
            wait_ms(1, 0);
            ended = waitpid(child, &state, WNOHANG);
        }
        wait_ms(0, (long)rng_uniform(&rng, 0, 3000));
        if (ended == 0) {
            kill(child, SIGKILL);
            waitpid(child, &state, 0);
        }
        interrupted += WIFSIGNALED(state);
    }
    ck_assert_int_gt(interrupted, 0);
    /* what a kill in the middle of writing leaves */
    write_file(test_path("broken/000035.txt.part-12345-6"), "Car", 3);
    ck_assert_msg(
        savanna("eval --root %s -c cluster --save-results %s --resume -o %s", root, broken, other) == 0, "%s",
        output);
    ck_assert_ptr_nonnull(strstr(output, "done already"));
    assert_same_folder(whole, broken);
    ck_assert(same_file(first, other));
}
END_TEST

START_TEST(runs_are_only_continued_with_the_same_settings)
{
    const char *root = dataset(), *saved = test_path("settings");
    ck_assert_msg(savanna("eval -q --root %s -c cluster --save-results %s", root, saved) == 0, "%s", output);
    assert_says(savanna("eval -q --root %s -c cluster --save-results %s", root, saved), 3,
                "--resume continues it");
    ck_assert_int_eq(savanna("eval -q --root %s -c cluster --save-results %s --resume", root, saved), 0);
    assert_says(savanna("eval -q --root %s -c cluster --save-results %s --resume --set "
                        "MODEL.POST_PROCESSING.SCORE_THRESH 0.4",
                        root, saved),
                3, "another configuration");
    assert_says(savanna("eval -q --root %s -c cluster --save-results %s --resume --fov all", root, saved), 3,
                "another fov");
    assert_says(
        savanna("eval -q --root %s --split training -c cluster --save-results %s --resume", root, saved), 3,
        "another split");
    ck_assert_int_eq(unlink(test_path("settings/savanna-run.json")), 0);
    assert_says(savanna("eval -q --root %s -c cluster --save-results %s --resume", root, saved), 3,
                "savanna-run.json");
    write_file(test_path("settings/savanna-run.json"), "[", 1);
    assert_says(savanna("eval -q --root %s -c cluster --save-results %s --resume", root, saved), 3,
                "no record of a run");
    /* locked against a second run */
    ck_assert_int_eq(unlink(test_path("settings/savanna-run.json")), 0);
    const int handle = open(saved, O_RDONLY);
    ck_assert_int_eq(flock(handle, LOCK_EX), 0);
    assert_says(savanna("eval -q --root %s -c cluster --save-results %s --resume", root, saved), 3,
                "another run");
    close(handle);
}
END_TEST

START_TEST(usage_errors)
{
    const char *root = dataset();
    assert_says(savanna("eval --self-check"), 2, "--root");
    assert_says(savanna("eval --root %s", root), 2, "choose what is scored");
    assert_says(savanna("eval --root %s --self-check -c cluster", root), 2, "choose what is scored");
    assert_says(savanna("eval --root %s -c cluster --resume", root), 2, "--save-results");
    assert_says(savanna("eval --root %s --results x --save-results y", root), 2, "--save-results");
    assert_says(savanna("eval --root %s --self-check --rule best", root), 2, "devkit or python");
    assert_says(savanna("eval --root %s --self-check --dataset moon", root), 2, "moon");
    assert_says(savanna("eval --root %s --self-check --split none", root), 3, "none.txt");
    assert_says(savanna("eval --root %s --self-check extra", root), 2, "extra");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("eval");
    TCase *tests = tcase_create("eval");
    tcase_set_timeout(tests, 600);
    tcase_add_test(tests, scores_do_not_depend_on_how_they_are_made);
    tcase_add_test(tests, pictures_and_curves);
    tcase_add_test(tests, self_check_says_what_is_attainable);
    tcase_add_test(tests, missing_and_extra_files_are_named);
    tcase_add_test(tests, killed_runs_end_with_the_same_bytes);
    tcase_add_test(tests, runs_are_only_continued_with_the_same_settings);
    tcase_add_test(tests, usage_errors);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
