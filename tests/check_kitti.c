/* SPDX-License-Identifier: Apache-2.0
 *
 * KITTI's text files and the geometry between its frames, on files made here.
 */
#include "datasets/kitti_raw.h"
#include "perception/core/file.h"
#include "perception/geometry/box.h"
#include "perception/points.h"
#include "support_kitti.h"

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

START_TEST(calibration_of_other_benchmarks)
{
    sv_ctx *c = test_context(1);
    sv_kitti_calibration k, other;
    assert_ok(c, parse(c, "P9: not read\n" KITTI_P2_LINE "\n" KITTI_R0_LINE KITTI_VELO_LINE, &k));
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
        {KITTI_R0_LINE KITTI_VELO_LINE, "has no P2"},
        {KITTI_P2_LINE KITTI_VELO_LINE, "has no R0_rect"},
        {KITTI_P2_LINE KITTI_R0_LINE, "has no Tr_velo_to_cam (the way from the LiDAR to the cameras)"},
        {KITTI_P2_LINE KITTI_R0_LINE KITTI_VELO_LINE KITTI_P2_LINE,
         "line 4: a second P2, the first is in line 1"},
        {"\n\nP2: 1 2 3\n", "line 3: P2 has 3 numbers, it needs 12"},
        {"P2: 1 2 3 4 5 6 7 8 9 10 11 12 13\n", "P2 has 13 numbers"},
        {"P2: 1 2 3 4 5 6 7 8 9 10 11 one\n", "line 1: 'one' in P2 is not a number"},
        {KITTI_P2_LINE "R0_rect: 1 0 0 0 nan 0 0 0 1\n", "line 2: 'nan' in R0_rect"},
        {KITTI_P2_LINE "R0_rect: 1 0 0 0 inf 0 0 0 1\n", "'inf'"},
        {KITTI_P2_LINE "R0_rect: 1 0 0 0 1e999 0 0 0 1\n", "'1e999'"},
        {KITTI_P2_LINE "R0_rect: 1 0 0 0 1e10 0 0 0 1\n", "'1e10'"},
        {KITTI_P2_LINE "R0_rect: 1 0 0 0 1_0 0 0 0 1\n", "'1_0'"},
        {KITTI_P2_LINE "R0_rect: 1 0 0 0 0x1 0 0 0 1\n", "'0x1'"},
        {KITTI_P2_LINE "R0_rect: 1 0 0 0 1,5 0 0 0 1\n", "'1,5'"},
        {KITTI_P2_LINE "R0_rect: 1 0 0 0 \x01\xff 0 0 0 1\n", "'\?\?' in R0_rect"},
        {KITTI_P2_LINE KITTI_R0_LINE "Tr_velo_to_cam: 0 0 0 0 0 0 0 0 0 0 0 0\n",
         "Tr_velo_to_cam is singular"},
        {KITTI_P2_LINE "R0_rect: 1 0 0 1 0 0 0 0 1\n" KITTI_VELO_LINE, "R0_rect is singular"},
        {"P2: 0 0 0 0 0 0 0 0 0 0 0 0\n" KITTI_R0_LINE KITTI_VELO_LINE, "P2 is singular"},
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

START_TEST(raw_calibration)
{
    sv_ctx *c = test_context(1);
    sv_kitti_calibration k, same;
    const char *folder = kitti_folder("day");
    kitti_text("day/calib_cam_to_cam.txt", kitti_cam_to_cam);
    assert_fails(c, sv_kitti_read_raw_calibration(c, folder, &k), SV_IO, "day/calib_velo_to_cam.txt");
    kitti_text("day/calib_velo_to_cam.txt", kitti_velo_to_cam);
    assert_ok(c, sv_kitti_read_raw_calibration(c, folder, &k));
    assert_ok(c, parse(c, KITTI_P2_LINE KITTI_R0_LINE KITTI_VELO_LINE, &same));
    ck_assert_mem_eq(k.p2, same.p2, sizeof k.p2);
    ck_assert_mem_eq(&k.lidar_to_rect, &same.lidar_to_rect, sizeof(sv_pose));
    ck_assert(k.p0[3] == 0 && k.p1[3] == 45 && k.imu_to_velo[3] == 0);
    kitti_text("day/calib_imu_to_velo.txt", "R: 1 0 0 0 1 0 0 0 1\nT: -0.8 0.3 -0.8\n");
    assert_ok(c, sv_kitti_read_raw_calibration(c, folder, &k));
    ck_assert(k.imu_to_velo[3] == -0.8 && k.imu_to_velo[7] == 0.3 && k.imu_to_velo[11] == -0.8);
    kitti_text("day/calib_imu_to_velo.txt", "R: 1 0 0 0 1 0 0 0 1\n");
    assert_fails(c, sv_kitti_read_raw_calibration(c, folder, &k), SV_BAD_INPUT,
                 "calib_imu_to_velo.txt: has no T");
    kitti_text("day/calib_velo_to_cam.txt", "R: 0 -1 0 0 0 -1 1 0 x\nT: 0 -0.08 -0.27\n");
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
    kitti_text("list.txt", "000001\n\n  000134 \r\n7481\n0000000012");
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
        kitti_text("list.txt", wrong[i][0]);
        assert_fails(c, sv_kitti_read_ids(c, test_path("list.txt"), &ids), SV_BAD_INPUT, wrong[i][1]);
        ck_assert(ids.data == NULL && ids.count == 0);
    }
    assert_fails(c, sv_kitti_read_ids(c, test_path("no_list.txt"), &ids), SV_IO, "no_list.txt");
    sv_ctx_close(c);
}
END_TEST

/* ---- between the frames ------------------------------------------------------------------------------- */

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
        kitti_oracle_pixel(&k, lidar, wanted, wanted_rect);
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
        kitti_oracle_pixel(&k, bottom, unused, rect);
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
    assert_ok(c, parse(c, KITTI_P2_LINE KITTI_R0_LINE KITTI_VELO_LINE, &k));
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
        c, parse(c, "P2: 1 0 5 0 0 1 5 0 0 0 1 1\n" KITTI_R0_LINE "Tr_velo_to_cam: 1 0 0 0 0 1 0 0 0 0 1 0\n",
                 &k));
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
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
