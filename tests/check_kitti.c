/* SPDX-License-Identifier: Apache-2.0
 *
 * KITTI's text files, the geometry between its frames, and its folders, on files made here; then on recorded
 * frames where they are.
 */
#include "datasets/kitti_dataset.h"
#include "datasets/kitti_raw.h"
#include "perception/core/file.h"
#include "perception/geometry/box.h"
#include "perception/points.h"
#include "support.h"

#include <math.h>
#include <pthread.h>
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

static void write_text(const char *name, const char *text)
{
    write_file(test_path(name), text, strlen(text));
}

/* A folder and those above it. */
static const char *make_folder(const char *name)
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

static sv_status parse(sv_ctx *c, const char *text, sv_kitti_calibration *out)
{
    return sv_kitti_parse_calibration(c, text, strlen(text), "calib.txt", out);
}

static sv_status parse_objects(sv_ctx *c, const char *text, bool with_score, sv_kitti_objects *out)
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

#define P2_LINE   "P2: 700 0 600 45 0 700 180 -0.3 0 0 1 0.003\n"
#define R0_LINE   "R0_rect: 1 0 0 0 1 0 0 0 1\n"
#define VELO_LINE "Tr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\n"

START_TEST(calibration_of_other_benchmarks)
{
    sv_ctx *c = test_context(1);
    sv_kitti_calibration k, other;
    assert_ok(c, parse(c, "P9: not read\n" P2_LINE "\n" R0_LINE VELO_LINE, &k));
    /* what is not there follows P2; the inertial unit is where the LiDAR is */
    ck_assert_mem_eq(k.p0, k.p2, sizeof k.p2);
    ck_assert_mem_eq(k.p3, k.p2, sizeof k.p2);
    ck_assert(k.imu_to_velo[0] == 1 && k.imu_to_velo[5] == 1 && k.imu_to_velo[10] == 1 &&
              k.imu_to_velo[3] == 0);
    /* tracking: other names, no colons, line ends of another system */
    assert_ok(c, parse(c,
                       "P2: 700 0 600 45 0 700 180 -0.3 0 0 1 0.003\r\nR_rect 1 0 0 0 1 0 0 0 1\r\n"
                       "Tr_velo_cam 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\r\nTr_imu_velo 1 0 0 5 0 1 0 0 0 0 1 0",
                       &other));
    ck_assert_mem_eq(&k.lidar_to_rect, &other.lidar_to_rect, sizeof(sv_pose));
    ck_assert(other.imu_to_velo[3] == 5);
    /* the LiDAR's forward is the camera's depth */
    const double lidar[3] = {10, 1, -1};
    double rect[3];
    sv_pose_apply(&k.lidar_to_rect, lidar, rect);
    ck_assert(fabs(rect[0] + 1) < 1e-12 && fabs(rect[1] - 0.92) < 1e-12 && fabs(rect[2] - 9.73) < 1e-12);
    sv_ctx_close(c);
}
END_TEST

START_TEST(wrong_calibrations)
{
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {"", "calib.txt: has no P2 (the projection onto the left colour camera)"},
        {R0_LINE VELO_LINE, "has no P2"},
        {P2_LINE VELO_LINE, "has no R0_rect"},
        {P2_LINE R0_LINE, "has no Tr_velo_to_cam (the way from the LiDAR to the cameras)"},
        {P2_LINE R0_LINE VELO_LINE P2_LINE, "line 4: a second P2, the first is in line 1"},
        {"\n\nP2: 1 2 3\n", "line 3: P2 has 3 numbers, it needs 12"},
        {"P2: 1 2 3 4 5 6 7 8 9 10 11 12 13\n", "P2 has 13 numbers"},
        {"P2: 1 2 3 4 5 6 7 8 9 10 11 one\n", "line 1: 'one' in P2 is not a number"},
        {P2_LINE "R0_rect: 1 0 0 0 nan 0 0 0 1\n", "line 2: 'nan' in R0_rect"},
        {P2_LINE "R0_rect: 1 0 0 0 inf 0 0 0 1\n", "'inf'"},
        {P2_LINE "R0_rect: 1 0 0 0 1e999 0 0 0 1\n", "'1e999'"},
        {P2_LINE "R0_rect: 1 0 0 0 1e10 0 0 0 1\n", "'1e10'"},
        {P2_LINE "R0_rect: 1 0 0 0 1_0 0 0 0 1\n", "'1_0'"},
        {P2_LINE "R0_rect: 1 0 0 0 0x1 0 0 0 1\n", "'0x1'"},
        {P2_LINE "R0_rect: 1 0 0 0 1,5 0 0 0 1\n", "'1,5'"},
        {P2_LINE "R0_rect: 1 0 0 0 \x01\xff 0 0 0 1\n", "'\?\?' in R0_rect"},
        {P2_LINE R0_LINE "Tr_velo_to_cam: 0 0 0 0 0 0 0 0 0 0 0 0\n", "Tr_velo_to_cam is singular"},
        {P2_LINE "R0_rect: 1 0 0 1 0 0 0 0 1\n" VELO_LINE, "R0_rect is singular"},
        {"P2: 0 0 0 0 0 0 0 0 0 0 0 0\n" R0_LINE VELO_LINE, "P2 is singular"},
    };
    sv_ctx *c = test_context(1);
    const sv_kitti_calibration none = {0};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        sv_kitti_calibration k = some_calibration();
        assert_fails(c, parse(c, wrong[i].text, &k), SV_BAD_INPUT, wrong[i].says);
        ck_assert_mem_eq(&k, &none, sizeof k);
    }
    sv_kitti_calibration k;
    assert_fails(c, sv_kitti_read_calibration(c, test_path("none.txt"), &k), SV_IO, "none.txt");
    sv_ctx_close(c);
}
END_TEST

static const char cam_to_cam[] =
    "calib_time: 09-Jan-2012 13:57:47\ncorner_dist: 9.95e-02\nS_rect_02: 1.242e+03 3.75e+02\n"
    "R_rect_00: 1 0 0 0 1 0 0 0 1\nR_rect_02: 9 9 9 9 9 9 9 9 9\n"
    "P_rect_00: 700 0 600 0 0 700 180 0 0 0 1 0\nP_rect_02: 700 0 600 45 0 700 180 -0.3 0 0 1 0.003\n";
static const char velo_to_cam[] =
    "calib_time: 15-Mar-2012 11:37:16\nR: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27\n"
    "delta_f: 0 0\n";

START_TEST(raw_calibration)
{
    sv_ctx *c = test_context(1);
    sv_kitti_calibration k, same;
    const char *folder = make_folder("day");
    write_text("day/calib_cam_to_cam.txt", cam_to_cam);
    assert_fails(c, sv_kitti_read_raw_calibration(c, folder, &k), SV_IO, "day/calib_velo_to_cam.txt");
    write_text("day/calib_velo_to_cam.txt", velo_to_cam);
    assert_ok(c, sv_kitti_read_raw_calibration(c, folder, &k));
    assert_ok(c, parse(c, P2_LINE R0_LINE VELO_LINE, &same));
    ck_assert_mem_eq(k.p2, same.p2, sizeof k.p2);
    ck_assert_mem_eq(&k.lidar_to_rect, &same.lidar_to_rect, sizeof(sv_pose));
    ck_assert(k.p0[3] == 0 && k.p1[3] == 45 && k.imu_to_velo[3] == 0);
    write_text("day/calib_imu_to_velo.txt", "R: 1 0 0 0 1 0 0 0 1\nT: -0.8 0.3 -0.8\n");
    assert_ok(c, sv_kitti_read_raw_calibration(c, folder, &k));
    ck_assert(k.imu_to_velo[3] == -0.8 && k.imu_to_velo[7] == 0.3 && k.imu_to_velo[11] == -0.8);
    write_text("day/calib_imu_to_velo.txt", "R: 1 0 0 0 1 0 0 0 1\n");
    assert_fails(c, sv_kitti_read_raw_calibration(c, folder, &k), SV_BAD_INPUT,
                 "calib_imu_to_velo.txt: has no T");
    write_text("day/calib_velo_to_cam.txt", "R: 0 -1 0 0 0 -1 1 0 x\nT: 0 -0.08 -0.27\n");
    assert_fails(c, sv_kitti_read_raw_calibration(c, folder, &k), SV_BAD_INPUT,
                 "calib_velo_to_cam.txt, line 1: 'x' in R");
    sv_ctx_close(c);
}
END_TEST

/* ---- labels ------------------------------------------------------------------------------------------- */

static const char one_label[] =
    "Car 0.88 3 -0.69 0.00 192.37 402.31 374.00 1.60 1.57 3.23 -2.70 1.74 3.68 -1.29\n";

START_TEST(label_round_trip)
{
    static const char text[] =
        "Car 0.88 3 -0.69 0.00 192.37 402.31 374.00 1.60 1.57 3.23 -2.70 1.74 3.68 -1.29\n"
        "Person_sitting 0.00 0 -0.00 1.00 2.00 3.00 4.00 1.00 1.00 1.00 -1.00 -0.00 -1000.00 -10.00\n"
        "DontCare -1 -1 -10 800.38 163.67 825.45 184.07 -1 -1 -1 -1000 -1000 -1000 -10\n";
    sv_ctx *c = test_context(1);
    sv_kitti_objects objects;
    assert_ok(c, parse_objects(c, text, false, &objects));
    ck_assert_int_eq(objects.count, 3);
    const sv_kitti_object *o = &objects.data[0];
    ck_assert_str_eq(o->type, "Car");
    ck_assert(o->truncated == 0.88 && o->occluded == 3 && o->alpha == -0.69 && o->x1 == 0 &&
              o->y1 == 192.37 && o->x2 == 402.31 && o->y2 == 374 && o->h == 1.6 && o->w == 1.57 &&
              o->l == 3.23 && o->x == -2.7 && o->y == 1.74 && o->z == 3.68 && o->ry == -1.29 &&
              !o->has_score && o->score == 0);
    assert_ok(c, sv_kitti_write_objects(c, test_path("l.txt"), objects.data, objects.count));
    size_t size;
    char *written = read_file(test_path("l.txt"), &size);
    ck_assert_str_eq(written, text);
    free(written);
    sv_kitti_free_objects(&objects);
    sv_kitti_free_objects(&objects);
    /* blank lines, tabs, other line ends, a score behind a label, nothing at all */
    assert_ok(c, parse_objects(c, "\r\n  \nCar\t0 0 0 1 2 3 4 5 6 7 8 9 10 1 0.5 \r\n\n", false, &objects));
    ck_assert(objects.count == 1 && objects.data[0].has_score && objects.data[0].score == 0.5);
    sv_kitti_free_objects(&objects);
    assert_ok(c, parse_objects(c, "", true, &objects));
    ck_assert(objects.count == 0);
    assert_ok(c, parse_objects(c, "\n\n", false, &objects));
    ck_assert(objects.count == 0);
    /* no end of line at the end of the file */
    assert_ok(c, sv_kitti_parse_objects(c, one_label, sizeof one_label - 2, "x", false, &objects));
    ck_assert(objects.count == 1 && objects.data[0].ry == -1.29);
    sv_kitti_free_objects(&objects);
    assert_ok(c, sv_kitti_write_objects(c, test_path("none.txt"), NULL, 0));
    written = read_file(test_path("none.txt"), &size);
    ck_assert(written && size == 0);
    free(written);
    sv_ctx_close(c);
}
END_TEST

START_TEST(results_read_back_to_the_same_floats)
{
    sv_ctx *c = test_context(1);
    test_rng rng = {7};
    enum { COUNT = 300 };
    sv_kitti_object objects[COUNT] = {0};
    for (int i = 0; i < COUNT; i++) {
        sv_kitti_object *o = &objects[i];
        snprintf(o->type, sizeof o->type, "Cyclist");
        double *numbers[] = {&o->alpha, &o->x1, &o->y1, &o->x2, &o->y2, &o->h,    &o->w,
                             &o->l,     &o->x,  &o->y,  &o->z,  &o->ry, &o->score};
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++)
            *numbers[k] = (float)(rng_normal(&rng) * pow(10, rng_uniform(&rng, -6, 6)));
        o->truncated = o->occluded = -1;
        o->has_score = true;
    }
    assert_ok(c, sv_kitti_write_objects(c, test_path("r.txt"), objects, COUNT));
    sv_kitti_objects read;
    assert_ok(c, sv_kitti_read_objects(c, test_path("r.txt"), true, &read));
    ck_assert_int_eq(read.count, COUNT);
    for (int i = 0; i < COUNT; i++) {
        const sv_kitti_object *a = &objects[i], *b = &read.data[i];
        ck_assert((float)a->alpha == (float)b->alpha && (float)a->x1 == (float)b->x1 &&
                  (float)a->y2 == (float)b->y2 && (float)a->h == (float)b->h && (float)a->l == (float)b->l &&
                  (float)a->x == (float)b->x && (float)a->z == (float)b->z && (float)a->ry == (float)b->ry &&
                  (float)a->score == (float)b->score && b->has_score && b->occluded == -1);
    }
    sv_kitti_free_objects(&read);
    /* what cannot be read back is not written, and leaves no file */
    objects[2].ry = NAN;
    assert_fails(c, sv_kitti_write_objects(c, test_path("bad.txt"), objects, 3), SV_BAD_INPUT,
                 "bad.txt: ry of object 2 is ");
    objects[2].ry = 1e20;
    assert_fails(c, sv_kitti_write_objects(c, test_path("bad.txt"), objects, 3), SV_BAD_INPUT, "1e+20");
    objects[2].ry = 0;
    snprintf(objects[1].type, sizeof objects[1].type, "two words");
    assert_fails(c, sv_kitti_write_objects(c, test_path("bad.txt"), objects, 3), SV_BAD_INPUT, "'two words'");
    objects[1].type[0] = '\0';
    assert_fails(c, sv_kitti_write_objects(c, test_path("bad.txt"), objects, 3), SV_BAD_INPUT, "object 1");
    size_t size;
    ck_assert_ptr_null(read_file(test_path("bad.txt"), &size));
    sv_ctx_close(c);
}
END_TEST

START_TEST(wrong_labels)
{
    static const struct {
        const char *text, *says;
        bool with_score;
    } wrong[] = {
        {"Car\n", "label.txt, line 1: 1 columns, a label has 15", false},
        {"Car 0 0 0 1 2 3 4 5 6 7 8 9 10\n", "14 columns, a label has 15", false},
        {"Car 0 0 0 1 2 3 4 5 6 7 8 9 10 11 12 13\n", "17 columns", false},
        {"Car 0 0 0 1 2 3 4 5 6 7 8 9 10 11\n", "15 columns, a result has 16", true},
        {"Car 0 0 0 1 2 3 4 5 6 7 8 9 10 11 12 13\n", "17 columns, a result has 16", true},
        {"\n\nCar 0 0 0 1 2 three 4 5 6 7 8 9 10 11\n", "line 3: 'three' (x2) is not a number", false},
        {"Car 0 0 0 1 2 3 4 nan 6 7 8 9 10 11\n", "'nan' (h)", false},
        {"Car 0 0 0 1 2 3 4 5 6 7 8 9 inf 11\n", "'inf' (z)", false},
        {"Car 0 0 0 1 2 3 4 5 6 7 8 9 1e99 11\n", "'1e99' (z)", false},
        {"Car 0 0 0 1 2 3 4 5 6 7 8 9 -1e9999 11\n", "'-1e9999' (z)", false},
        {"Car 0 0 0 1 2 3 4 5 6 7 8 9 10 11 nan\n", "'nan' (score)", true},
        {"Car 0 0.5 0 1 2 3 4 5 6 7 8 9 10 11\n", "0.5 (occluded) is none of", false},
        {"Car 0 7 0 1 2 3 4 5 6 7 8 9 10 11\n", "7 (occluded)", false},
        {"0 Car 0 0 1 2 3 4 5 6 7 8 9 10 11\n", "starts with the number 0", false},
        {"ACarWithAVeryLongNameIndeed 0 0 0 1 2 3 4 5 6 7 8 9 10 11\n", "a type of 27 letters", false},
        {"Car 0 0 0 1 2 3 4 5 6 7 8 9 10 "
         "0.0000000000000000000000000000000000000000000000000000000000000000000000001\n",
         "(ry) is not a number", false},
    };
    sv_ctx *c = test_context(1);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        sv_kitti_objects objects;
        char text[512];
        /* behind a good line of the same kind, too: nothing is kept */
        snprintf(text, sizeof text, "%s", wrong[i].text);
        assert_fails(c, parse_objects(c, text, wrong[i].with_score, &objects), SV_BAD_INPUT, wrong[i].says);
        ck_assert(objects.data == NULL && objects.count == 0);
        snprintf(text, sizeof text, "Car 0 0 0 1 2 3 4 5 6 7 8 9 10 11 12\n%s", wrong[i].text);
        ck_assert_int_eq(parse_objects(c, text, wrong[i].with_score, &objects), SV_BAD_INPUT);
        ck_assert(objects.data == NULL && objects.count == 0);
        sv_error_clear(c);
    }
    sv_kitti_objects objects;
    static const char zero[] =
        "Car\0 0 0 0 1 2 3 4 5 6 7 8 9 10 11\n"; /* a zero byte is a letter nobody can type */
    assert_ok(c, sv_kitti_parse_objects(c, zero, sizeof zero - 1, "zero", false, &objects));
    ck_assert_str_eq(objects.data[0].type, "Car?");
    sv_kitti_free_objects(&objects);
    assert_fails(c, sv_kitti_read_objects(c, test_path("nowhere.txt"), false, &objects), SV_IO,
                 "nowhere.txt");
    sv_ctx_close(c);
}
END_TEST

START_TEST(lists_of_names)
{
    sv_ctx *c = test_context(1);
    sv_kitti_ids ids;
    write_text("list.txt", "000001\n\n  000134 \r\n7481\n0000000012");
    assert_ok(c, sv_kitti_read_ids(c, test_path("list.txt"), &ids));
    ck_assert_int_eq(ids.count, 4);
    ck_assert_str_eq(ids.data[0], "000001");
    ck_assert_str_eq(ids.data[1], "000134");
    ck_assert_str_eq(ids.data[3], "0000000012");
    sv_kitti_free_ids(&ids);
    sv_kitti_free_ids(&ids);
    static const char *const wrong[][2] = {
        {"000001\n../../etc/passwd\n", "list.txt, line 2: '../../etc/passwd' is no name of a frame"},
        {"..", "'..'"},
        {"a/b", "'a/b'"},
        {"000001 1\n", "'1' behind '000001': one name per line"},
        {"0000000000000000000000000000000000000000001\n", "at most 31"},
        {"\xc3\xa4\n", "'\?\?'"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        write_text("list.txt", wrong[i][0]);
        assert_fails(c, sv_kitti_read_ids(c, test_path("list.txt"), &ids), SV_BAD_INPUT, wrong[i][1]);
        ck_assert(ids.data == NULL && ids.count == 0);
    }
    assert_fails(c, sv_kitti_read_ids(c, test_path("no_list.txt"), &ids), SV_IO, "no_list.txt");
    sv_ctx_close(c);
}
END_TEST

/* ---- between the frames ------------------------------------------------------------------------------- */

/* [P2] [R0 0; 0 1] [Tr; 0 0 0 1] [x; 1] as products of whole matrices, in long double. */
static void oracle_pixel(const sv_kitti_calibration *k, const double lidar[3], double out[3],
                         double rect_out[3])
{
    const long double x[4] = {lidar[0], lidar[1], lidar[2], 1};
    long double cam[4] = {0, 0, 0, 1}, rect[4] = {0, 0, 0, 1}, pixel[3] = {0};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) cam[i] += (long double)k->velo_to_cam[4 * i + j] * x[j];
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) rect[i] += (long double)k->r0_rect[3 * i + j] * cam[j];
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) pixel[i] += (long double)k->p2[4 * i + j] * rect[j];
    for (int i = 0; i < 3; i++) {
        out[i] = (double)pixel[i];
        rect_out[i] = (double)rect[i];
    }
}

START_TEST(projection_against_an_oracle)
{
    sv_ctx *c = test_context(1);
    sv_kitti_calibration k = some_calibration();
    assert_ok(c, sv_kitti_derive_calibration(c, "made", &k));
    test_rng rng = {3};
    int before = 0;
    for (int i = 0; i < 2000; i++) {
        const double lidar[3] = {rng_uniform(&rng, -20, 80), rng_uniform(&rng, -40, 40),
                                 rng_uniform(&rng, -3, 3)};
        double wanted[3], wanted_rect[3], rect[3], pixel[2] = {-7, -7};
        oracle_pixel(&k, lidar, wanted, wanted_rect);
        sv_pose_apply(&k.lidar_to_rect, lidar, rect);
        for (int j = 0; j < 3; j++) ck_assert(fabs(rect[j] - wanted_rect[j]) < 1e-11);
        const bool seen = sv_kitti_project(&k, rect, pixel);
        ck_assert_int_eq(seen, wanted[2] > 0);
        before += seen;
        for (int j = 0; j < 2 && seen; j++)
            ck_assert(fabs(pixel[j] - wanted[j] / wanted[2]) < 1e-9 * (1 + fabs(pixel[j])));
    }
    ck_assert(before > 1000 && before < 1950);
    sv_ctx_close(c);
}
END_TEST

static double wrapped(double angle)
{
    return atan2(sin(angle), cos(angle));
}

START_TEST(boxes_there_and_back)
{
    sv_ctx *c = test_context(1);
    sv_kitti_calibration k = some_calibration();
    assert_ok(c, sv_kitti_derive_calibration(c, "made", &k));
    test_rng rng = {11};
    for (int i = 0; i < 1000; i++) {
        sv_kitti_object o = {.type = "Car",
                             .h = rng_uniform(&rng, 1, 3),
                             .w = rng_uniform(&rng, 0.5, 3),
                             .l = rng_uniform(&rng, 0.5, 12),
                             .x = rng_uniform(&rng, -20, 20),
                             .y = rng_uniform(&rng, 0, 3),
                             .z = rng_uniform(&rng, 8, 70),
                             .ry = rng_uniform(&rng, -4, 4),
                             .score = 0.25},
                        back;
        const sv_box box = sv_kitti_box_of_object(&k, &o);
        ck_assert(box.dx == (float)o.l && box.dy == (float)o.w && box.dz == (float)o.h && box.score == 0.25f);
        ck_assert(fabs(wrapped((double)box.heading + o.ry + 3.14159265358979323846 / 2)) < 1e-6);
        ck_assert(fabsf(box.heading) <= 3.1415928f);
        /* the centre of its bottom, seen from the camera */
        const double bottom[3] = {(double)box.x, (double)box.y, (double)box.z - (double)box.dz / 2};
        double unused[3], rect[3];
        oracle_pixel(&k, bottom, unused, rect);
        ck_assert(fabs(rect[0] - o.x) < 1e-5 && fabs(rect[1] - o.y) < 1e-5 && fabs(rect[2] - o.z) < 1e-5);
        ck_assert(sv_kitti_object_of_box(&k, &box, "Car", 1242, 375, &back));
        ck_assert_str_eq(back.type, "Car");
        ck_assert(fabs(back.x - o.x) < 1e-5 && fabs(back.y - o.y) < 1e-5 && fabs(back.z - o.z) < 1e-5 &&
                  fabs(back.h - o.h) < 1e-6 && fabs(back.w - o.w) < 1e-6 && fabs(back.l - o.l) < 1e-6 &&
                  fabs(wrapped(back.ry - o.ry)) < 1e-6);
        ck_assert(back.truncated == -1 && back.occluded == -1 && back.has_score && back.score == 0.25);
        ck_assert(back.ry >= -3.1415927 && back.ry <= 3.1415927 && back.alpha >= -3.1415927 &&
                  back.alpha <= 3.1415927);
        /* the angle under which it is seen: nearly the same from the camera */
        ck_assert(fabs(wrapped(back.alpha - (o.ry - atan2(o.x, o.z)))) < 0.08);
        /* the image box: all corners, found in another way, divided by their depth */
        double low[2] = {1e9, 1e9}, high[2] = {-1e9, -1e9};
        for (int corner = 0; corner < 8; corner++) {
            const double u = (corner & 1 ? 0.5 : -0.5) * back.l, v = (corner & 2 ? 0.5 : -0.5) * back.w,
                         up = corner & 4 ? back.h : 0;
            const double p[3] = {back.x + u * cos(back.ry) + v * sin(back.ry), back.y - up,
                                 back.z - u * sin(back.ry) + v * cos(back.ry)};
            const double pixel[2] = {(k.p2[0] * p[0] + k.p2[1] * p[1] + k.p2[2] * p[2] + k.p2[3]) / p[2],
                                     (k.p2[4] * p[0] + k.p2[5] * p[1] + k.p2[6] * p[2] + k.p2[7]) / p[2]};
            ck_assert(p[2] > 0.2);
            for (int j = 0; j < 2; j++) {
                low[j] = fmin(low[j], pixel[j]);
                high[j] = fmax(high[j], pixel[j]);
            }
        }
        const double most[2] = {1241, 374};
        for (int j = 0; j < 2; j++) {
            low[j] = fmin(fmax(low[j], 0), most[j]);
            high[j] = fmin(fmax(high[j], 0), most[j]);
        }
        ck_assert(fabs(back.x1 - low[0]) < 1e-8 && fabs(back.y1 - low[1]) < 1e-8 &&
                  fabs(back.x2 - high[0]) < 1e-8 && fabs(back.y2 - high[1]) < 1e-8);
    }
    sv_ctx_close(c);
}
END_TEST

START_TEST(boxes_beside_and_behind_the_camera)
{
    sv_ctx *c = test_context(1);
    sv_kitti_calibration k;
    sv_kitti_object o;
    assert_ok(c, parse(c, P2_LINE R0_LINE VELO_LINE, &k));
    sv_box box = {.x = -10, .y = 1, .z = -1, .dx = 4, .dy = 2, .dz = 1.5f, .heading = 0.3f, .score = 0.5f};
    ck_assert(!sv_kitti_object_of_box(&k, &box, "Car", 1242, 375, &o));
    ck_assert(o.x1 == 0 && o.y1 == 0 && o.x2 == 0 && o.y2 == 0 && o.l == 4 && o.score == 0.5);
    /* the camera stands in it: everything is covered */
    box.x = 0;
    box.y = 0;
    box.z = -0.2f;
    ck_assert(sv_kitti_object_of_box(&k, &box, "Car", 1242, 375, &o));
    ck_assert(o.x1 == 0 && o.y1 == 0 && o.x2 == 1241 && o.y2 == 374);
    /* beside the camera, half of it behind: it reaches the left edge, but does not come to the middle */
    box = (sv_box){.x = 1, .y = 4, .z = -1, .dx = 8, .dy = 2, .dz = 1.5f};
    ck_assert(sv_kitti_object_of_box(&k, &box, "Car", 1242, 375, &o));
    ck_assert(o.x1 == 0 && o.y2 == 374 && o.x2 > 0 && o.x2 < 500);
    /* the nearest of what is before the camera is at y = 3, x = 5: its pixel bounds the box */
    const double corner[3] = {-3, 0.08, 5 - 0.27};
    ck_assert(fabs(o.x2 - (700 * corner[0] + 600 * corner[2] + 45) / corner[2]) < 1e-4);
    sv_ctx_close(c);
}
END_TEST

/* One point on either side of every limit. */
START_TEST(field_of_view_limits)
{
    sv_ctx *c = test_context(1);
    sv_kitti_calibration k;
    /* no rotation: the point itself is in the rectified frame; pixel = (x + 5 z) / z or / (z + 1) */
    assert_ok(
        c, parse(c, "P2: 1 0 5 0 0 1 5 0 0 0 1 1\n" R0_LINE "Tr_velo_to_cam: 1 0 0 0 0 1 0 0 0 0 1 0\n", &k));
    const float seen[][5] = {{0, 0, 1, 1, 0},      {-5, 0, 1, 2, 0}, /* u = 0 */
                             {4.999f, 0, 1, 3, 0}, {0, -5, 1, 4, 0}, /* u below width, v = 0 */
                             {0, 4.999f, 1, 5, 0}, {0, 0, 1e-3f, 6, 0}},
                unseen[][5] = {{-5.001f, 0, 1, 7, 0}, {5, 0, 1, 8, 0},   {0, -5.001f, 1, 9, 0},
                               {0, 5, 1, 10, 0},      {0, 0, -1, 11, 0}, {0, 0, 0, 12, 0},
                               {NAN, 0, 1, 13, 0}};
    float points[13][5];
    for (int i = 0; i < 13; i++)
        memcpy(points[i], i % 2 && i / 2 < 6 ? seen[i / 2] : unseen[i / 2], sizeof *points);
    int kept = sv_kitti_filter_fov(&k, SV_KITTI_FOV_TRAINING, 10, 10, points[0], 13, 5);
    ck_assert_int_eq(kept, 6);
    for (int i = 0; i < 6; i++) ck_assert(points[i][3] == (float)(i + 1)); /* in order */
    /* the devkit divides by z + 1: u = (x + 5 z) / (z + 1) */
    float other[][4] = {{-5, 0, 1, 1}, {15, 0, 1, 2}, {14.9f, 0, 1, 3}, {5, 0, 1, 4}, {0, 0, -0.5f, 5}};
    kept = sv_kitti_filter_fov(&k, SV_KITTI_FOV_DEVKIT, 10, 10, other[0], 5, 4);
    ck_assert_int_eq(kept, 3);
    ck_assert(other[0][3] == 1 && other[1][3] == 3 && other[2][3] == 4);
    ck_assert_int_eq(sv_kitti_filter_fov(&k, SV_KITTI_FOV_ALL, 0, 0, other[0], 5, 4), 5);
    sv_ctx_close(c);
}
END_TEST

START_TEST(points_in_boxes)
{
    const sv_box box = {.x = 10, .y = -5, .z = 1, .dx = 4, .dy = 2, .dz = 1, .heading = 0.5f};
    test_rng rng = {5};
    float points[2000][4];
    int expected = 0;
    for (int i = 0; i < 2000; i++) {
        /* placed in the box's own axes, then turned */
        const double u = rng_uniform(&rng, -3, 3), v = rng_uniform(&rng, -1.5, 1.5),
                     w = rng_uniform(&rng, -1, 1);
        expected += fabs(u) <= 2 && fabs(v) <= 1 && fabs(w) <= 0.5;
        points[i][0] = (float)(10 + u * cos(0.5) - v * sin(0.5));
        points[i][1] = (float)(-5 + u * sin(0.5) + v * cos(0.5));
        points[i][2] = (float)(1 + w);
    }
    ck_assert_int_eq(sv_points_in_box(points[0], 2000, 4, &box), expected);
    ck_assert(expected > 300);
    /* its faces are part of it */
    const sv_box cube = {.x = 1, .y = 1, .z = 1, .dx = 2, .dy = 2, .dz = 2};
    const float faces[4][3] = {{0, 0, 0}, {2, 2, 2}, {2, 1, 1}, {2.0001f, 1, 1}};
    ck_assert_int_eq(sv_points_in_box(faces[0], 4, 3, &cube), 3);
    const sv_box broken = {.heading = NAN, .dx = 1, .dy = 1, .dz = 1};
    ck_assert_int_eq(sv_points_in_box(faces[0], 4, 3, &broken), 0);
    ck_assert_int_eq(sv_points_in_box(NULL, 0, 3, &cube), 0);
}
END_TEST

/* ---- folders ------------------------------------------------------------------------------------------ */

static void write_picture(sv_ctx *c, const char *name, int width, int height)
{
    sv_image image;
    assert_ok(c, sv_image_new(c, &image, width, height, 0x204060));
    assert_ok(c, sv_image_write_png(c, &image, test_path(name)));
    sv_image_free(&image);
}

static void write_scan(const char *name, const float *points, int count)
{
    write_file(test_path(name), points, sizeof *points * 4 * (size_t)count);
}

/* Two training frames and a testing one. With this calibration the points before the car are seen, those
 * behind not. */
static const float scan[5][4] = {
    {10, 0, 0, 0.5f}, {-10, 0, 0, 0.6f}, {20, 1, 0, 0.7f}, {1, 50, 0, 0.8f}, {30, -2, 0, 0.9f}};

static const char *make_benchmark(sv_ctx *c, const char *name)
{
    static const char *const parts[] = {"training/velodyne", "training/image_2", "training/calib",
                                        "training/label_2",  "testing/velodyne", "testing/image_2",
                                        "testing/calib",     "ImageSets"};
    char path[256];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        snprintf(path, sizeof path, "%s/%s", name, parts[i]);
        make_folder(path);
    }
    for (int i = 0; i < 3; i++) {
        const char *part = i < 2 ? "training" : "testing";
        snprintf(path, sizeof path, "%s/%s/velodyne/%06d.bin", name, part, i);
        write_scan(path, scan[0], 5);
        snprintf(path, sizeof path, "%s/%s/image_2/%06d.png", name, part, i);
        write_picture(c, path, 1200, 360);
        snprintf(path, sizeof path, "%s/%s/calib/%06d.txt", name, part, i);
        write_text(path, P2_LINE R0_LINE VELO_LINE);
    }
    snprintf(path, sizeof path, "%s/training/label_2/000000.txt", name);
    write_text(path, "");
    snprintf(path, sizeof path, "%s/training/label_2/000001.txt", name);
    write_text(path, "DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10\n"
                     "Cyclist 0.00 0 0.10 500 150 520 200 1.80 0.60 1.70 -1.00 1.60 20.00 -1.57\n"
                     "Van 0.00 0 0.10 500 150 520 200 1.80 0.60 1.70 -1.00 1.60 20.00 -1.57\n");
    snprintf(path, sizeof path, "%s/ImageSets/train.txt", name);
    write_text(path, "000001\n000000\n");
    snprintf(path, sizeof path, "%s/ImageSets/val.txt", name);
    write_text(path, "000001\n");
    snprintf(path, sizeof path, "%s/ImageSets/test.txt", name);
    write_text(path, "000002\n");
    return test_path(name);
}

static sv_dataset *open_benchmark(sv_ctx *c, const char *root, const char *split, const char *fov)
{
    sv_dataset *d;
    sv_dataset_def def = sv_dataset_def_default("kitti", root);
    def.split = split;
    def.fov = fov;
    assert_ok(c, sv_dataset_open(c, &def, &d));
    return d;
}

START_TEST(object_benchmark)
{
    sv_ctx *c = test_context(1);
    const char *root = make_benchmark(c, "k");
    ck_assert_str_eq(sv_dataset_recognise(root), "kitti");
    sv_dataset *d = open_benchmark(c, root, "train", NULL);
    ck_assert_str_eq(sv_dataset_summary(d), "KITTI object benchmark, split train");
    ck_assert_str_eq(sv_dataset_split(d), "train");
    ck_assert_str_eq(sv_dataset_layout(d), "xyzi");
    ck_assert(sv_dataset_class_count(d) == 3 && strcmp(sv_dataset_classes(d)[1], "Pedestrian") == 0);
    ck_assert(sv_dataset_count(d) == 2 && sv_dataset_sequence_count(d) == 2);
    ck_assert_str_eq(sv_dataset_id(d, 0), "000001"); /* the order of the list */
    ck_assert_int_eq(sv_dataset_find(d, "000000"), 1);
    ck_assert_int_eq(sv_dataset_find(d, "1"), 0);
    ck_assert_int_eq(sv_dataset_find(d, "00"), 1);
    ck_assert_int_eq(sv_dataset_find(d, "000002"), -1);
    ck_assert_int_eq(sv_dataset_find(d, ""), -1);
    ck_assert_int_eq(sv_dataset_sequence_of(d, 1), 1);
    ck_assert(sv_dataset_sequence(d, 1)->first == 1 && sv_dataset_sequence(d, 1)->count == 1);

    sv_sample sample = {0};
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_ALL, &sample));
    ck_assert_str_eq(sample.id, "000001");
    ck_assert(sample.first && sample.sequence == 0 && !sample.has_pose);
    ck_assert(sample.frame->count == 3 && sample.frame->columns == 4 && sample.frame->points[7] == 0.7f);
    ck_assert(sample.camera_count == 1 && sample.cameras[0].width == 1200 && sample.cameras[0].height == 360);
    ck_assert_str_eq(sample.cameras[0].name, "image_2");
    ck_assert(sample.cameras[0].image.width == 1200 && sample.cameras[0].image.rgb[2] == 0x60);
    /* the view's matrix does what the calibration does */
    const sv_kitti_sample *kitti = sv_kitti_sample_of(&sample);
    const double *p = sample.cameras[0].projection, at[3] = {20, 1, -0.5};
    double pixel[3], rect[3];
    oracle_pixel(&kitti->calibration, at, pixel, rect);
    for (int i = 0; i < 3; i++)
        ck_assert(fabs(p[4 * i] * at[0] + p[4 * i + 1] * at[1] + p[4 * i + 2] * at[2] + p[4 * i + 3] -
                       pixel[i]) < 1e-9);
    ck_assert(sample.has_labels && sample.label_count == 3);
    ck_assert(!sample.labels[0].has_box && sample.labels[0].box.label == 0);
    ck_assert_str_eq(sample.labels[0].type, "DontCare");
    ck_assert(sample.labels[1].has_box && sample.labels[1].box.label == 3 && sample.labels[1].points == -1);
    ck_assert(fabsf(sample.labels[1].box.x - 20.27f) < 1e-5f && fabsf(sample.labels[1].box.y - 1) < 1e-5f &&
              fabsf(sample.labels[1].box.z - (-1.68f + 0.9f)) < 1e-5f);
    ck_assert(sample.labels[2].has_box && sample.labels[2].box.label == 0); /* a van is no car */
    ck_assert(((const sv_kitti_object *)sample.labels[2].record)->truncated == 0);

    /* a frame that someone holds stays as it is; otherwise its memory is used again */
    sv_frame *held = sv_frame_retain(sample.frame);
    assert_ok(c, sv_dataset_read(c, d, 1, SV_READ_POINTS | SV_READ_LABELS, &sample));
    ck_assert(sample.frame != held && strcmp(held->id, "000001") == 0 && held->count == 3);
    ck_assert(sample.has_labels && sample.label_count == 0 && sample.camera_count == 0);
    sv_frame *own = sample.frame;
    assert_ok(c, sv_dataset_read(c, d, 1, SV_READ_POINTS, &sample));
    ck_assert(sample.frame == own && !sample.has_labels);
    sv_frame_release(held);
    assert_ok(c, sv_dataset_read(c, d, 1, SV_READ_CAMERAS, &sample));
    ck_assert(sample.frame == NULL && sample.camera_count == 1 && sample.cameras[0].image.rgb == NULL);
    sv_dataset_close(d);

    /* testing has no labels; every scan of a part */
    d = open_benchmark(c, root, "test", NULL);
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_POINTS | SV_READ_LABELS, &sample));
    ck_assert(strcmp(sample.id, "000002") == 0 && !sample.has_labels && sample.label_count == 0);
    sv_dataset_close(d);
    d = open_benchmark(c, root, "testing", "all");
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample));
    ck_assert(sv_dataset_count(d) == 1 && sample.frame->count == 5);
    sv_dataset_close(d);
    d = open_benchmark(c, root, NULL, NULL); /* val */
    ck_assert(sv_dataset_count(d) == 1);
    sv_dataset_close(d);
    sv_sample_free(&sample);
    sv_sample_free(&sample);
    sv_ctx_close(c);
}
END_TEST

START_TEST(points_that_are_not_finite_and_scans_that_are_cut)
{
    sv_ctx *c = test_context(1);
    const char *root = make_benchmark(c, "n");
    float broken[5][4];
    memcpy(broken, scan, sizeof broken);
    broken[2][1] = NAN;
    write_scan("n/training/velodyne/000001.bin", broken[0], 5);
    sv_dataset *d = open_benchmark(c, root, "val", NULL);
    sv_sample sample = {0};
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample));
    ck_assert(sample.dropped == 1 && sample.frame->count == 2);
    write_file(test_path("n/training/velodyne/000001.bin"), scan, 70);
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample), SV_BAD_INPUT, "000001.bin: 70 bytes");
    ck_assert(sample.frame == NULL && sample.memory == NULL);
    write_file(test_path("n/training/velodyne/000001.bin"), "", 0);
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample));
    ck_assert(sample.frame->count == 0);
    sv_sample_free(&sample);
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

static sv_status open_with(sv_ctx *c, const char *root, const char *split, const char *fov,
                           const char *sequence)
{
    sv_dataset *d = NULL;
    sv_dataset_def def = sv_dataset_def_default("kitti", root);
    def.split = split;
    def.fov = fov;
    def.sequences = &sequence;
    def.sequence_count = sequence != NULL;
    const sv_status status = sv_dataset_open(c, &def, &d);
    ck_assert((status == SV_OK) == (d != NULL));
    sv_dataset_close(d);
    return status;
}

/* Who scores result files has labels, and perhaps nothing else. */
START_TEST(labels_alone)
{
    sv_ctx *c = test_context(1);
    make_folder("alone/training/label_2");
    write_text("alone/training/label_2/000007.txt",
               "Car 0.00 0 0.10 100 120 180 170 1.5 1.6 4.0 1.0 1.7 20.0 0.15\n");
    sv_dataset *d = open_benchmark(c, test_path("alone"), "training", NULL);
    ck_assert_int_eq(sv_dataset_count(d), 1);
    sv_sample sample = {0};
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_LABELS, &sample));
    ck_assert(sample.has_labels && sample.label_count == 1 && !sample.labels[0].has_box);
    ck_assert_double_eq(sv_kitti_sample_of(&sample)->objects.data[0].z, 20);
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample), SV_IO, "calib/000007.txt");
    sv_sample_free(&sample);
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

START_TEST(folders_that_lack_something)
{
    sv_ctx *c = test_context(1);
    const char *root = make_benchmark(c, "f");
    assert_fails(c, open_with(c, root, "all", NULL, NULL), SV_BAD_INPUT,
                 "has no ImageSets/all.txt; the splits there are: test, train, val");
    assert_fails(c, open_with(c, root, "../val", NULL, NULL), SV_USAGE, "'../val' is no name of a split");
    assert_fails(c, open_with(c, root, "val", "wide", NULL), SV_USAGE, "'wide' is no field of view");
    assert_fails(c, open_with(c, root, "val", NULL, "x"), SV_USAGE, "belong to no sequences");
    assert_fails(c, open_with(c, test_path("nothing"), NULL, NULL, NULL), SV_IO, "there is no such folder");
    assert_fails(c, open_with(c, test_path("f/training"), NULL, NULL, NULL), SV_BAD_INPUT,
                 "name the folder above it");
    make_folder("empty");
    assert_fails(c, open_with(c, test_path("empty"), NULL, NULL, NULL), SV_BAD_INPUT,
                 "is no KITTI folder; the object benchmark has training/velodyne");
    make_folder("lists/training/velodyne");
    assert_fails(c, open_with(c, test_path("lists"), "val", NULL, NULL), SV_BAD_INPUT, "no folder ImageSets");
    assert_fails(c, open_with(c, test_path("lists"), "test", NULL, NULL), SV_BAD_INPUT,
                 "has no testing/velodyne");
    write_text("f/ImageSets/twice.txt", "000000\n000001\n000000\n");
    assert_fails(c, open_with(c, root, "twice", NULL, NULL), SV_BAD_INPUT,
                 "the sample 000000 is listed twice");
    sv_dataset_def def = sv_dataset_def_default("kittens", root);
    sv_dataset *d;
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_USAGE, "'kittens' is no dataset: kitti");
    def = sv_dataset_def_default(NULL, test_path("empty"));
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_BAD_INPUT, "none of the known datasets");
    def = sv_dataset_def_default("kitti", root);
    def.sweeps = 10;
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_USAGE, "kitti does not take a number of sweeps");

    sv_sample sample = {0};
    d = open_benchmark(c, root, "val", NULL);
    remove(test_path("f/training/label_2/000001.txt"));
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_ALL, &sample), SV_IO, "label_2/000001.txt");
    write_text("f/training/image_2/000001.png", "\xff\xd8\xff\xe0 JFIF and so on");
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample), SV_BAD_INPUT,
                 "000001.png: is a JPEG file, not the PNG that its name or place says");
    remove(test_path("f/training/image_2/000001.png"));
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample), SV_IO, "(--fov all)");
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_CAMERAS, &sample), SV_IO,
                 "000001.png: is not there, but its folder is");
    sv_dataset_close(d);
    /* without any pictures there is no camera, and no filter by it */
    remove(test_path("f/training/image_2/000000.png"));
    remove(test_path("f/training/image_2"));
    d = open_benchmark(c, root, "val", "all");
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_POINTS | SV_READ_IMAGES, &sample));
    ck_assert(sample.camera_count == 0 && sample.frame->count == 5 &&
              sv_kitti_sample_of(&sample)->width == 0);
    remove(test_path("f/training/calib/000001.txt"));
    assert_fails(c, sv_dataset_read(c, d, 0, SV_READ_POINTS, &sample), SV_IO, "calib/000001.txt");
    sv_dataset_close(d);
    sv_sample_free(&sample);
    sv_ctx_close(c);
}
END_TEST

typedef struct reader {
    const sv_dataset *dataset;
    int points;
} reader;

static void *read_often(void *user)
{
    reader *r = user;
    sv_ctx *c = test_context(1);
    sv_sample sample = {0};
    for (int i = 0; i < 40; i++) {
        if (sv_dataset_read(c, r->dataset, i % sv_dataset_count(r->dataset), SV_READ_ALL, &sample) != SV_OK)
            break;
        r->points += sample.frame->count;
    }
    sv_sample_free(&sample);
    sv_ctx_close(c);
    return NULL;
}

START_TEST(several_threads_read_one_dataset)
{
    enum { THREADS = 3 };
    sv_ctx *c = test_context(1);
    sv_dataset *d = open_benchmark(c, make_benchmark(c, "p"), "train", NULL);
    reader readers[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        readers[i] = (reader){d, 0};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, read_often, &readers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        ck_assert_int_eq(readers[i].points, 40 * 3);
    }
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

/* Does a finding with this key say this? */
static bool finds(const sv_findings *f, bool bad, const char *key, const char *text)
{
    for (int i = 0; i < f->count; i++)
        if (f->data[i].bad == bad && strcmp(f->data[i].key, key) == 0 && strstr(f->data[i].text, text))
            return true;
    return false;
}

START_TEST(inspections)
{
    sv_ctx *c = test_context(1);
    sv_findings f;
    const char *root = make_benchmark(c, "i");
    assert_ok(c, sv_dataset_inspect(c, root, &f));
    ck_assert(f.bad == 0 && finds(&f, false, "training", "2 scans") &&
              finds(&f, false, "testing", "1 scans") && finds(&f, false, "val.txt", "1 frames") &&
              finds(&f, false, "training", "label_2: 2 files"));
    sv_findings_free(&f);
    remove(test_path("i/training/image_2/000001.png"));
    write_text("i/training/calib/000000.txt", "P2: 1\n");
    write_text("i/ImageSets/val.txt", "000001\n000077\n");
    write_text("i/ImageSets/bad.txt", "a b\n");
    write_file(test_path("i/testing/velodyne/000002.bin"), scan, 15);
    assert_ok(c, sv_dataset_inspect(c, root, &f));
    ck_assert_int_eq(f.bad, 5);
    ck_assert(finds(&f, true, "training", "image_2: 1 files, 1 missing, first 000001.png"));
    ck_assert(finds(&f, true, "training", "000000.txt, line 1: P2 has 1 numbers"));
    ck_assert(finds(&f, true, "val.txt", "2 frames, 1 of them without a scan"));
    ck_assert(finds(&f, true, "bad.txt", "one name per line"));
    ck_assert(finds(&f, true, "testing", "1 scans are empty or no whole number of points"));
    sv_findings_free(&f);
    sv_findings_free(&f);
    sv_ctx_close(c);
}
END_TEST

/* ---- raw recordings ----------------------------------------------------------------------------------- */

static void make_drive(sv_ctx *c, const char *drive, int frames)
{
    char path[256];
    snprintf(path, sizeof path, "%s/velodyne_points/data", drive);
    make_folder(path);
    snprintf(path, sizeof path, "%s/image_02/data", drive);
    make_folder(path);
    for (int i = 0; i < frames; i++) {
        snprintf(path, sizeof path, "%s/velodyne_points/data/%010d.bin", drive, i);
        write_scan(path, scan[0], 5);
        snprintf(path, sizeof path, "%s/image_02/data/%010d.png", drive, i);
        write_picture(c, path, 1200, 360);
    }
}

START_TEST(raw_recordings)
{
    sv_ctx *c = test_context(1);
    make_drive(c, "raw/2011_09_26/2011_09_26_drive_0002_sync", 3);
    make_drive(c, "raw/2011_09_26/2011_09_26_drive_0001_sync", 2);
    make_folder("raw/2011_09_26/notes");
    assert_fails(c, open_with(c, test_path("raw"), NULL, NULL, NULL), SV_BAD_INPUT,
                 "calib_cam_to_cam.txt: is not there; the calibration of a day");
    write_text("raw/2011_09_26/calib_cam_to_cam.txt", cam_to_cam);
    write_text("raw/2011_09_26/calib_velo_to_cam.txt", velo_to_cam);
    write_text("raw/2011_09_26/calib_imu_to_velo.txt", "R: 1 0 0 0 1 0 0 0 1\nT: -0.8 0.3 -0.8\n");

    sv_dataset *d = open_benchmark(c, test_path("raw"), NULL, NULL);
    ck_assert_str_eq(sv_dataset_summary(d), "KITTI raw recordings, 2 drives");
    ck_assert(sv_dataset_count(d) == 5 && sv_dataset_sequence_count(d) == 2);
    ck_assert_str_eq(sv_dataset_sequence(d, 0)->name, "2011_09_26_drive_0001_sync");
    ck_assert(sv_dataset_sequence(d, 1)->first == 2 && sv_dataset_sequence(d, 1)->count == 3);
    ck_assert_str_eq(sv_dataset_id(d, 4), "2011_09_26_drive_0002_sync_0000000002");
    ck_assert_int_eq(sv_dataset_find(d, "0001_sync_0000000001"), 1);
    ck_assert_int_eq(sv_dataset_find(d, "0000000001"), -1); /* two drives have it */
    sv_sample sample = {0};
    assert_ok(c, sv_dataset_read(c, d, 3, SV_READ_ALL, &sample));
    ck_assert(!sample.first && sample.sequence == 1 && fabs(sample.time - 0.1) < 1e-12);
    ck_assert(sample.frame->count == 3 && sample.camera_count == 1 && !sample.has_labels && !sample.has_pose);
    ck_assert_str_eq(sample.cameras[0].name, "image_02");
    /* the LiDAR's origin is 0.8 m before and above the inertial unit, and 0.3 m right of it */
    const double origin[3] = {0, 0, 0};
    double ego[3];
    sv_pose_apply(&sample.lidar_to_ego, origin, ego);
    ck_assert(fabs(ego[0] - 0.8) < 1e-12 && fabs(ego[1] + 0.3) < 1e-12 && fabs(ego[2] - 0.8) < 1e-12);
    sv_dataset_close(d);

    /* a day and a drive are as good, and drives can be chosen */
    d = open_benchmark(c, test_path("raw/2011_09_26"), NULL, NULL);
    ck_assert_int_eq(sv_dataset_count(d), 5);
    sv_dataset_close(d);
    d = open_benchmark(c, test_path("raw/2011_09_26/2011_09_26_drive_0002_sync/"), NULL, NULL);
    ck_assert(sv_dataset_count(d) == 3 &&
              strcmp(sv_dataset_id(d, 0), "2011_09_26_drive_0002_sync_0000000000") == 0);
    ck_assert_int_eq(sv_dataset_find(d, "2"), 2);
    assert_ok(c, sv_dataset_read(c, d, 2, SV_READ_POINTS, &sample));
    sv_dataset_close(d);
    assert_fails(
        c, open_with(c, test_path("raw"), NULL, NULL, "0003"), SV_USAGE,
        "has no drive 0003; the drives there are: 2011_09_26_drive_0001_sync, 2011_09_26_drive_0002_sync");
    assert_ok(c, open_with(c, test_path("raw"), NULL, NULL, "2011_09_26_drive_0001_sync"));
    assert_fails(c, open_with(c, test_path("raw"), "val", NULL, NULL), SV_USAGE,
                 "raw recordings have no splits");
    sv_sample_free(&sample);
    sv_ctx_close(c);
}
END_TEST

START_TEST(raw_times_and_poses)
{
    sv_ctx *c = test_context(1);
    make_drive(c, "t/2011_09_26/2011_09_26_drive_0001_sync", 2);
    write_text("t/2011_09_26/calib_cam_to_cam.txt", cam_to_cam);
    write_text("t/2011_09_26/calib_velo_to_cam.txt", velo_to_cam);
    make_folder("t/2011_09_26/2011_09_26_drive_0001_sync/oxts/data");
    const char *times = "t/2011_09_26/2011_09_26_drive_0001_sync/velodyne_points/timestamps.txt";
    write_text(times,
               "2011-09-26 13:02:25.594360375\n2011-09-26 13:02:25.698000000\n2011-09-26 13:02:25.8\n");
    /* half a second of arc further north, turned to the north, and a little up */
    write_text("t/2011_09_26/2011_09_26_drive_0001_sync/oxts/data/0000000000.txt",
               "49.0 8.4 110 0 0 0 1 2 3\n");
    write_text("t/2011_09_26/2011_09_26_drive_0001_sync/oxts/data/0000000001.txt",
               "49.00013888888889 8.4 110.5 0 0 1.5707963267948966\n");
    sv_dataset *d = open_benchmark(c, test_path("t"), NULL, "all");
    sv_sample sample = {0};
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_LABELS, &sample));
    ck_assert(fabs(sample.time - 1317042145.594360375) < 1e-6); /* date -u -d '2011-09-26 13:02:25' +%s */
    ck_assert(sample.has_pose && sample.ego_to_world.r[0] == 1);
    for (int i = 0; i < 3; i++) ck_assert(sample.ego_to_world.t[i] == 0);
    assert_ok(c, sv_dataset_read(c, d, 1, SV_READ_LABELS, &sample));
    ck_assert(fabs(sample.time - 1317042145.698) < 1e-6 && !sample.first);
    /* 0.5 seconds of arc on a sphere of 6378137 m: 15.461 m */
    ck_assert(fabs(sample.ego_to_world.t[0]) < 1e-6 && fabs(sample.ego_to_world.t[1] - 15.461) < 2e-3 &&
              fabs(sample.ego_to_world.t[2] - 0.5) < 1e-9);
    const double ahead[3] = {10, 0, 0};
    double world[3];
    sv_pose_apply(&sample.ego_to_world, ahead, world);
    ck_assert(fabs(world[0]) < 1e-6 && fabs(world[1] - 25.461) < 2e-3);
    sv_dataset_close(d);
    sv_sample_free(&sample);

    /* leap years, and what is no time */
    static const struct {
        const char *text;
        double seconds;
    } dates[] = {{"1970-01-01 00:00:00", 0},          {"2000-02-29 12:00:00", 951825600},
                 {"2000-03-01 00:00:00", 951868800},  {"2011-12-31 23:59:59.5", 1325375999.5},
                 {"2012-03-01 00:00:00", 1330560000}, {"2100-03-01 00:00:00", 4107542400}};
    double *read;
    int count;
    for (size_t i = 0; i < sizeof dates / sizeof *dates; i++) {
        const sv_kitti_text text = {"times", dates[i].text, strlen(dates[i].text)};
        assert_ok(c, sv_kitti_parse_times(c, &text, &read, &count));
        ck_assert(count == 1 && read[0] == dates[i].seconds);
        free(read);
    }
    static const char *const no_times[] = {
        "2011-09-26",         "2011-13-26 1:2:3",  "2011-09-26 25:00:00",  "x y",
        "2011-09-26 13:02",   "2011-09-26 13:02:", "2011-09-26 13:02:nan", "2011-09-26x 13:02:25",
        "1969-09-26 13:02:25"};
    for (size_t i = 0; i < sizeof no_times / sizeof *no_times; i++) {
        const sv_kitti_text text = {"times", no_times[i], strlen(no_times[i])};
        assert_fails(c, sv_kitti_parse_times(c, &text, &read, &count), SV_BAD_INPUT, "times, line 1: '");
        ck_assert(read == NULL && count == 0);
    }
    write_text(times, "2011-09-26 13:02:25.594360375\n");
    assert_fails(c, open_with(c, test_path("t"), NULL, NULL, NULL), SV_BAD_INPUT,
                 "timestamps.txt: has 1 lines, none for the scan 0000000001");
    remove(test_path(times));
    write_text("t/2011_09_26/2011_09_26_drive_0001_sync/oxts/data/0000000000.txt", "90.0 8.4 110 0 0 0\n");
    assert_fails(c, open_with(c, test_path("t"), NULL, NULL, NULL), SV_BAD_INPUT,
                 "line 1: '90.0' is no latitude");
    write_text("t/2011_09_26/2011_09_26_drive_0001_sync/oxts/data/0000000000.txt", "49 8.4 110 0 0\n");
    assert_fails(c, open_with(c, test_path("t"), NULL, NULL, NULL), SV_BAD_INPUT, "has no yaw (column 6)");
    write_text("t/2011_09_26/2011_09_26_drive_0001_sync/velodyne_points/data/first.bin", "");
    remove(test_path("t/2011_09_26/2011_09_26_drive_0001_sync/oxts/data/0000000000.txt"));
    assert_fails(c, open_with(c, test_path("t"), NULL, NULL, NULL), SV_BAD_INPUT,
                 "first.bin: the name of a scan is its number");
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
    tcase_add_test(tests, calibration_of_other_benchmarks);
    tcase_add_test(tests, wrong_calibrations);
    tcase_add_test(tests, raw_calibration);
    tcase_add_test(tests, label_round_trip);
    tcase_add_test(tests, results_read_back_to_the_same_floats);
    tcase_add_test(tests, wrong_labels);
    tcase_add_test(tests, lists_of_names);
    tcase_add_test(tests, projection_against_an_oracle);
    tcase_add_test(tests, boxes_there_and_back);
    tcase_add_test(tests, boxes_beside_and_behind_the_camera);
    tcase_add_test(tests, field_of_view_limits);
    tcase_add_test(tests, points_in_boxes);
    tcase_add_test(tests, object_benchmark);
    tcase_add_test(tests, points_that_are_not_finite_and_scans_that_are_cut);
    tcase_add_test(tests, labels_alone);
    tcase_add_test(tests, folders_that_lack_something);
    tcase_add_test(tests, several_threads_read_one_dataset);
    tcase_add_test(tests, inspections);
    tcase_add_test(tests, raw_recordings);
    tcase_add_test(tests, raw_times_and_poses);
    tcase_add_test(tests, official_texts_are_written_as_they_are);
    tcase_add_test(tests, fields_of_view);
    tcase_add_test(tests, points_in_labelled_boxes);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
