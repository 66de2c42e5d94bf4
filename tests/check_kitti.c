/* SPDX-License-Identifier: Apache-2.0
 *
 * KITTI's text files, the geometry between its frames, and its folders, on files made here; then on recorded
 * frames where they are.
 */
#include "datasets/kitti_dataset.h"
#include "perception/core/file.h"
#include "perception/geometry/box.h"
#include "perception/points.h"
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- files made here ---------------------------------------------------------------------------------- */

/* A calibration with everything a little askew, as real ones are. */
static sv_kitti_calibration some_calibration(void)
{
    sv_kitti_calibration k = {
        .p2 = {720.5, 0, 610.25, 45.75, 0, 720.5, 172.5, -0.35, 0, 0, 1, 0.00275},
        .r0_rect = {0.9999, 0.0099, -0.0074, -0.0099, 0.9999, -0.0043, 0.0074, 0.0044, 0.9999},
        .velo_to_cam = {0.0075, -0.9999, -0.0006, -0.0041, 0.0148, 0.0007, -0.9999, -0.0763, 0.9998, 0.0075,
                        0.0148, -0.2718},
        .imu_to_velo = {1, 0.0008, -0.002, -0.81, -0.0008, 1, -0.0148, 0.32, 0.002, 0.0148, 1, -0.8},
    };
    memcpy(k.p0, k.p2, sizeof k.p0);
    memcpy(k.p1, k.p2, sizeof k.p1);
    memcpy(k.p3, k.p2, sizeof k.p3);
    k.p0[3] = 0;
    k.p1[3] = -387.5;
    k.p3[3] = -339.5;
    return k;
}

__attribute__((unused)) static void write_text(const char *name, const char *text)
{
    write_file(test_path(name), text, strlen(text));
}

/* A folder and those above it. */
__attribute__((unused)) static const char *make_folder(const char *name)
{
    const char *path = test_path(name);
    char part[512];
    for (size_t i = strlen(test_folder()) + 1; path[i]; i++)
        if (path[i] == '/') {
            snprintf(part, sizeof part, "%.*s", (int)i, path);
            mkdir(part, 0777);
        }
    mkdir(path, 0777);
    return path;
}

__attribute__((unused)) static sv_status parse(sv_ctx *c, const char *text, sv_kitti_calibration *out)
{
    return sv_kitti_parse_calibration(c, text, strlen(text), "calib.txt", out);
}

__attribute__((unused)) static sv_status parse_objects(sv_ctx *c, const char *text, bool with_score,
                                                       sv_kitti_objects *out)
{
    return sv_kitti_parse_objects(c, text, strlen(text), "label.txt", with_score, out);
}

/* ---- calibration -------------------------------------------------------------------------------------- */

START_TEST(calibration_round_trip)
{
    sv_ctx *c = test_context(1);
    sv_kitti_calibration k = some_calibration(), read;
    assert_ok(c, sv_kitti_derive_calibration(c, "made", &k));
    assert_ok(c, sv_kitti_write_calibration(c, test_path("calib.txt"), &k));
    assert_ok(c, sv_kitti_read_calibration(c, test_path("calib.txt"), &read));
    ck_assert_mem_eq(k.p0, read.p0, sizeof k.p0);
    ck_assert_mem_eq(k.p1, read.p1, sizeof k.p1);
    ck_assert_mem_eq(k.p2, read.p2, sizeof k.p2);
    ck_assert_mem_eq(k.p3, read.p3, sizeof k.p3);
    ck_assert_mem_eq(k.r0_rect, read.r0_rect, sizeof k.r0_rect);
    ck_assert_mem_eq(k.velo_to_cam, read.velo_to_cam, sizeof k.velo_to_cam);
    ck_assert_mem_eq(k.imu_to_velo, read.imu_to_velo, sizeof k.imu_to_velo);
    ck_assert_mem_eq(&k.lidar_to_rect, &read.lidar_to_rect, sizeof(sv_pose));
    /* there and back */
    for (int i = 0; i < 20; i++) {
        double p[3] = {3.5 * i, i - 10.0, 0.3 * i - 2}, q[3];
        sv_pose_apply(&k.lidar_to_rect, p, q);
        sv_pose_apply(&k.rect_to_lidar, q, q);
        for (int j = 0; j < 3; j++) ck_assert(fabs(p[j] - q[j]) < 1e-12 * (1 + fabs(p[j])));
    }
    k.p2[3] = NAN;
    assert_fails(c, sv_kitti_write_calibration(c, test_path("nan.txt"), &k), SV_BAD_INPUT,
                 "P2 of the calibration is not finite");
    sv_ctx_close(c);
}
END_TEST

/* ---- reference frames --------------------------------------------------------------------------------- */

static const char *const frames[] = {"000000", "000001", "000008", "000134"};

static void same_files(const char *a, const char *b)
{
    size_t n, m;
    char *x = read_file(a, &n), *y = read_file(b, &m);
    ck_assert_msg(x && y && n == m && memcmp(x, y, n) == 0, "%s and %s differ", a, b);
    free(x);
    free(y);
}

START_TEST(official_texts_are_written_as_they_are)
{
    const char *reference = reference_folder();
    if (!reference) return;
    sv_ctx *c = test_context(1);
    char path[512];
    for (int i = 0; i < 4; i++) {
        sv_kitti_calibration k;
        snprintf(path, sizeof path, "%s/data/kitti/training/calib/%s.txt", reference, frames[i]);
        assert_ok(c, sv_kitti_read_calibration(c, path, &k));
        assert_ok(c, sv_kitti_write_calibration(c, test_path("again.txt"), &k));
        same_files(path, test_path("again.txt"));
        sv_kitti_objects objects;
        snprintf(path, sizeof path, "%s/data/kitti/training/label_2/%s.txt", reference, frames[i]);
        assert_ok(c, sv_kitti_read_objects(c, path, false, &objects));
        assert_ok(c, sv_kitti_write_objects(c, test_path("again.txt"), objects.data, objects.count));
        same_files(path, test_path("again.txt"));
        sv_kitti_free_objects(&objects);
    }
    sv_ctx_close(c);
}
END_TEST

/* The recorded scans reduced to the camera's view. */
START_TEST(fields_of_view)
{
    const char *reference = reference_folder();
    if (!reference) return;
    sv_ctx *c = test_context(1);
    char root[512], path[700];
    snprintf(root, sizeof root, "%s/data/kitti", reference);
    static const char *const rules[] = {"devkit", "training", "all"};
    static const int counts[3][2] = {{20285, 18630}, {20259, 18619}, {115384, 120268}};
    sv_sample sample = {0};
    for (int rule = 0; rule < 3; rule++) {
        sv_dataset *d;
        sv_dataset_def def = sv_dataset_def_default("kitti", root);
        def.split = "trainval";
        def.fov = rules[rule];
        assert_ok(c, sv_dataset_open(c, &def, &d));
        for (int i = 0; i < 2; i++) {
            const int at = sv_dataset_find(d, frames[i]);
            ck_assert_int_ge(at, 0);
            assert_ok(c, sv_dataset_read(c, d, at, SV_READ_POINTS, &sample));
            ck_assert_int_eq(sample.frame->count, counts[rule][i]);
            ck_assert_str_eq(sample.frame->id, frames[i]);
            if (rule > 0) continue;
            snprintf(path, sizeof path, "%s/fov_reduced/%s.bin", root, frames[i]);
            size_t size;
            char *bytes = read_file(path, &size);
            ck_assert_uint_eq(size, 16 * (size_t)sample.frame->count);
            ck_assert_mem_eq(bytes, sample.frame->points, size);
            free(bytes);
        }
        sv_dataset_close(d);
    }
    sv_sample_free(&sample);
    sv_ctx_close(c);
}
END_TEST

/* expected_points_in_boxes.json: the counts, in the order of the labels, DontCare left out */
START_TEST(points_in_labelled_boxes)
{
    static const int expected[4][16] = {{376, -1},
                                        {70, 9, 18, -1},
                                        {1424, 1940, 878, 668, 53, 164, -1},
                                        {523, 160, 80, 91, 36, 31, 43, 48, 46, 154, 54, 91, 64, 11, 3, -1}};
    const char *reference = reference_folder();
    if (!reference) return;
    sv_ctx *c = test_context(1);
    char root[512];
    snprintf(root, sizeof root, "%s/data/kitti", reference);
    sv_sample sample = {0};
    sv_dataset *d;
    sv_dataset_def def = sv_dataset_def_default(NULL, root);
    def.split = "training";
    def.fov = "all";
    assert_ok(c, sv_dataset_open(c, &def, &d));
    ck_assert_int_eq(sv_dataset_count(d), 4);
    for (int i = 0; i < 4; i++) {
        assert_ok(c, sv_dataset_read(c, d, i, SV_READ_POINTS | SV_READ_LABELS, &sample));
        ck_assert_str_eq(sample.id, frames[i]);
        ck_assert(sample.has_labels && sample.labels[0].type[0] != 'D');
        int n = 0;
        for (int k = 0; k < sample.label_count; k++) {
            if (!sample.labels[k].has_box) continue;
            const sv_kitti_sample *kitti = sv_kitti_sample_of(&sample);
            const int camera = sv_kitti_points_in_object(&kitti->calibration, sample.labels[k].record,
                                                         sample.frame->points, sample.frame->count, 4);
            ck_assert_int_eq(camera, expected[i][n++]);
            /* the LiDAR frame's upright box is nearly the same one */
            const int lidar =
                sv_points_in_box(sample.frame->points, sample.frame->count, 4, &sample.labels[k].box);
            ck_assert_msg(abs(lidar - camera) <= 3 + camera / 10, "%s, label %d: %d and %d", sample.id, k,
                          lidar, camera);
        }
        ck_assert_int_eq(expected[i][n], -1);
    }
    sv_sample_free(&sample);
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kitti");
    TCase *tests = tcase_create("kitti");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, calibration_round_trip);
    tcase_add_test(tests, official_texts_are_written_as_they_are);
    tcase_add_test(tests, fields_of_view);
    tcase_add_test(tests, points_in_labelled_boxes);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
