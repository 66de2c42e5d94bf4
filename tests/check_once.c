/* SPDX-License-Identifier: Apache-2.0
 *
 * ONCE: a small folder of its layout, read and scored; what is wrong with it, in one sentence each.
 */
#include "support_program.h"

#include "datasets/object_text.h"
#include "datasets/once.h"
#include "datasets/once_results.h"
#include "perception/image.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char root[300];

static void put(const char *name, const void *data, size_t size)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", root, name);
    write_file(path, data, size);
}

/* Frames 100 (annotated), 200 (not), 300 (annotated, without objects), 400 (annotated). */
#define CAMERA                                                                                               \
    "{\"cam_to_velo\": [[0, 0, -1, 1], [-1, 0, 0, 2], [0, -1, 0, 3], [0, 0, 0, 1]], \"cam_intrinsic\": "     \
    "[[900, 0, 960], [0, 900, 540], [0, 0, 1]], \"distortion\": [0.1, 0, 0, 0, 0]}"
#define BOXES                                                                                                \
    "{\"names\": [\"Car\", \"Bus\", \"Cyclist\", \"Pedestrian\"], \"boxes_3d\": [[-10, 5, 0, 4, 2, 1.5, "    \
    "0.5], "                                                                                                 \
    "[20, 25, 1, 10, 3, 3, -3], [5, -40, 0, 1.8, 0.7, 1.7, 1], [55, 3, 0, 0.7, 0.7, 1.8, 0]], "              \
    "\"boxes_2d\": {}}"
static const char json[] = "{\"meta_info\": {\"weather\": \"sunny\"}, \"calib\": {\"cam01\": " CAMERA
                           ", \"cam03\": " CAMERA "}, \"frames\": [\n"
                           "{\"sequence_id\": \"000076\", \"frame_id\": \"100\", \"annos\": " BOXES
                           ", \"pose\": [0, 0, 0.6, 0.8, 5, 6, 7]},\n"
                           "{\"frame_id\": \"200\", \"pose\": [0, 0, 0, 1, 0, 0, 0]},\n"
                           "{\"frame_id\": \"300\", \"pose\": [0, 0, 0, 1, 0, 0, 0], \"annos\": "
                           "{\"boxes_3d\": [], \"names\": []}},\n"
                           "{\"frame_id\": \"400\", \"pose\": [0, 0, 0, 1, 0, 0, 0], \"annos\": "
                           "{\"boxes_3d\": [[1, 2, 3, 4, 2, 1.5, 0.5]], "
                           "\"names\": [\"Truck\"]}}]}\n";

static void make_set(const char *name)
{
    static const char *const folders[] = {
        "", "/ImageSets", "/data", "/data/000076", "/data/000076/lidar_roof", "/data/000076/cam01"};
    static const char *const frames[] = {"100", "200", "300", "400"};
    snprintf(root, sizeof root, "%s", test_path(name));
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char path[400];
        snprintf(path, sizeof path, "%s%s", root, folders[i]);
        ck_assert_int_eq(mkdir(path, 0777), 0);
    }
    put("ImageSets/val.txt", "000076\n", 7);
    put("data/000076/000076.json", json, strlen(json));
    for (int i = 0; i < 4; i++) {
        float points[4 * 200];
        char file[80];
        for (int k = 0; k < 200; k++) {
            points[4 * k] = (float)(k % 20) - 10;
            points[4 * k + 1] = (float)k / 20 + 3;
            points[4 * k + 2] = -1.5f + 0.01f * (float)(k % 7);
            points[4 * k + 3] = 0.1f * (float)i;
        }
        snprintf(file, sizeof file, "data/000076/lidar_roof/%s.bin", frames[i]);
        put(file, points, sizeof points);
    }
}

START_TEST(a_sequence_is_read)
{
    sv_ctx *c = test_context(1);
    make_set("once");
    if (sv_image_has_jpeg()) {
        sv_image picture;
        char path[500];
        assert_ok(c, sv_image_new(c, &picture, 192, 108, 0x406080));
        snprintf(path, sizeof path, "%s/data/000076/cam01/100.jpg", root);
        assert_ok(c, sv_image_write_jpeg(c, &picture, 90, path));
        sv_image_free(&picture);
    }
    sv_dataset_def def = sv_dataset_def_default(NULL, root);
    sv_dataset *d = NULL;
    assert_ok(c, sv_dataset_open(c, &def, &d));
    ck_assert_str_eq(sv_dataset_name(d), "once");
    ck_assert_int_eq(sv_dataset_count(d), 2); /* annotated ones with objects */
    ck_assert_str_eq(sv_dataset_id(d, 1), "000076_400");
    sv_sample s = {0};
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_ALL, &s));
    ck_assert_int_eq(s.frame->count, 200);
    ck_assert_int_eq(s.label_count, 4);
    static const int classes[] = {1, 2, 5, 4};
    for (int i = 0; i < 4; i++) ck_assert_int_eq(s.labels[i].box.label, classes[i]);
    ck_assert_float_eq(s.labels[1].box.dx, 10);
    ck_assert_double_eq_tol(s.time, 0.1, 1e-12);
    /* the LiDAR's rear is behind the vehicle; its place in the world is the pose's */
    const double rear[3] = {0, 1, 0}, left[3] = {1, 0, 0}, origin[3] = {0, 0, 0};
    double p[3];
    sv_pose_apply(&s.lidar_to_ego, rear, p);
    ck_assert(fabs(p[0] + 1) < 1e-12 && fabs(p[1]) < 1e-12);
    sv_pose_apply(&s.lidar_to_ego, left, p);
    ck_assert(fabs(p[0]) < 1e-12 && fabs(p[1] - 1) < 1e-12);
    const sv_pose to_world = sv_pose_compose(&s.ego_to_world, &s.lidar_to_ego);
    sv_pose_apply(&to_world, origin, p);
    ck_assert(fabs(p[0] - 5) < 1e-12 && fabs(p[1] - 6) < 1e-12 && fabs(p[2] - 7) < 1e-12);
    ck_assert_double_eq_tol(sv_pose_yaw(&to_world), 2 * atan2(0.6, 0.8), 1e-12);
    ck_assert_int_eq(s.camera_count, sv_image_has_jpeg() ? 1 : 0);
    if (s.camera_count) {
        /* the camera looks against the LiDAR's x from (1, 2, 3): 9 m before it, 0.9 m right and below */
        const double *m = s.cameras[0].projection, q[3] = {1 - 9, 2 - 0.9, 3 - 0.9};
        const double w = m[8] * q[0] + m[9] * q[1] + m[10] * q[2] + m[11],
                     u = (m[0] * q[0] + m[1] * q[1] + m[2] * q[2] + m[3]) / w,
                     v = (m[4] * q[0] + m[5] * q[1] + m[6] * q[2] + m[7]) / w;
        ck_assert_double_eq_tol(w, 9, 1e-9);
        ck_assert_double_eq_tol(u, 960 + 90, 1e-9);
        ck_assert_double_eq_tol(v, 540 + 90, 1e-9);
        ck_assert_int_eq(s.cameras[0].width, 192);
    }
    sv_dataset_close(d);
    def.split = "all";
    assert_ok(c, sv_dataset_open(c, &def, &d));
    ck_assert_int_eq(sv_dataset_count(d), 4);
    assert_ok(c, sv_dataset_read(c, d, 1, SV_READ_LABELS, &s));
    ck_assert(!s.has_labels);
    assert_ok(c, sv_dataset_read(c, d, 2, SV_READ_LABELS, &s));
    ck_assert(s.has_labels && s.label_count == 0);
    sv_sample_free(&s);
    sv_dataset_close(d);
    def.split = "test";
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_BAD_INPUT,
                 "has no ImageSets/test.txt; there is: val.txt");
    sv_ctx_close(c);
}
END_TEST

/* Something in the file is replaced by something else of any length. */
static const struct {
    const char *from, *to, *sentence;
} faults[] = {
    {"\"100\"", "100", "after 0 frames"},
    {"\"100\"", "\"x100\"", "a frame_id is no number of milliseconds"},
    {"[0, 0, 0.6, 0.8, 5, 6, 7]", "[0, 0, 0, 0, 5, 6, 7]", "a pose is no unit quaternion"},
    {"[0, 0, 0.6, 0.8, 5, 6, 7]", "[0, 0, 1]", "after 0 frames"},
    {"[0, 0, 0.6, 0.8, 5, 6, 7]", "[0, 0, 0, 1, NaN, 6, 7]", "a pose is no unit quaternion"},
    {"\"Cyclist\", ", "", "names and boxes_3d have different lengths"},
    {"[5, -40, 0, 1.8, ", "[5, -40, 0, 0, ", "a side that is not greater than 0"},
    {"[-10, 5, 0, 4, 2, 1.5, 0.5]", "[-10, 5, Infinity, 4, 2, 1.5, 0.5]", "a number that is not finite"},
    {"\"Bus\"", "\"A name that is far too long for any class\"", "a name of a class is too long"},
    {"[0, 900, 540], [0, 0, 1]]", "[0, 900, 540]]", "a matrix has too few rows"},
    {"[0, -1, 0, 3]", "[0, 0, 0, 3]", "a cam_to_velo is singular"},
    {"\"pose\": [0, 0, 0, 1, 0, 0, 0]}", "\"place\": 1}", "has no frame_id or no pose"},
    {"\"frames\"", "\"pictures\"", "there is no list of frames"},
    {"[\"Truck\"]}}]}\n", "[\"Tru", "the file is cut off"},
};

START_TEST(faults_are_named)
{
    sv_ctx *c = test_context(1);
    char name[20], changed[sizeof json + 100];
    snprintf(name, sizeof name, "fault%d", _i);
    make_set(name);
    const char *place = strstr(json, faults[_i].from);
    ck_assert_ptr_nonnull(place);
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(place - json), json, faults[_i].to,
             place + strlen(faults[_i].from));
    put("data/000076/000076.json", changed, strlen(changed));
    sv_dataset_def def = sv_dataset_def_default("once", root);
    sv_dataset *d = NULL;
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_BAD_INPUT, faults[_i].sentence);
    sv_findings findings;
    assert_ok(c, sv_dataset_inspect(c, root, &findings));
    ck_assert_int_eq(findings.bad, 1);
    ck_assert_ptr_nonnull(strstr(findings.data[0].text, "000076.json"));
    sv_findings_free(&findings);
    sv_ctx_close(c);
}
END_TEST

/* ---- results of all frames ---------------------------------------------------------------------------- */

static sv_evaluator *open_set(sv_ctx *c, const char *name, sv_dataset **d)
{
    sv_evaluator *e = NULL;
    const sv_evaluator_def how = sv_evaluator_def_default();
    make_set(name);
    const sv_dataset_def def = sv_dataset_def_default(NULL, root);
    assert_ok(c, sv_dataset_open(c, &def, d));
    assert_ok(c, sv_evaluator_open(c, *d, &how, &e));
    return e;
}

START_TEST(results_are_written_and_read)
{
    static const char *const classes[2] = {"cyclist", "Tank"};
    static const sv_box boxes[3] = {
        {.x = 0.1f,
         .y = -2,
         .z = 0.25f,
         .dx = 1,
         .dy = 0.5f,
         .dz = 0.7f,
         .heading = 3,
         .score = 0.7f,
         .label = 1},
        {.x = 1, .dx = 1, .dy = 1, .dz = 1, .score = 0.5f, .label = 2},
        {.x = -30, .dx = 11, .dy = 3, .dz = 3, .heading = -1.25f, .score = 0.125f, .label = 1}};
    sv_ctx *c = test_context(1);
    sv_dataset *d = NULL;
    sv_evaluator *e = open_set(c, "written", &d);
    const char *path = test_path("results.json");
    sv_once_writer w;
    int other = 0;
    assert_ok(c, sv_once_writer_open(c, path, &w));
    assert_ok(c, sv_once_writer_add(c, &w, d, 1, classes, boxes, 3, &other));
    assert_ok(c, sv_once_writer_add(c, &w, d, 0, classes, boxes, 0, &other));
    sv_box bad = boxes[0];
    bad.score = NAN;
    assert_fails(c, sv_once_writer_add(c, &w, d, 1, classes, &bad, 1, &other), SV_BAD_INPUT, "not finite");
    assert_ok(c, sv_once_writer_close(c, &w));
    ck_assert_int_eq(other, 1);
    sv_submission s;
    assert_ok(c, sv_submission_open(c, e, path, &s));
    ck_assert_int_eq(sv_dataset_count(d), 2);
    ck_assert(s.missing == 0 && s.extra == 0);
    sv_eval_result read = {0};
    assert_ok(c, sv_submission_read(c, e, &s, 0, &read));
    ck_assert_int_eq(read.count, 0);
    assert_ok(c, sv_submission_read(c, e, &s, 1, &read));
    ck_assert_int_eq(read.count, 2);
    const sv_object_line *lines = read.data;
    for (int i = 0; i < 2; i++) {
        const sv_box *b = &lines[i].box, *want = &boxes[2 * i];
        ck_assert(b->x == want->x && b->y == want->y && b->z == want->z && b->dx == want->dx &&
                  b->dy == want->dy && b->dz == want->dz && b->heading == want->heading &&
                  b->score == want->score);
        ck_assert_str_eq(lines[i].type, "Cyclist");
    }
    sv_eval_result_free(&read);
    sv_submission_close(e, &s);
    sv_evaluator_close(e);
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

static const struct {
    const char *json, *sentence;
} bad_results[] = {
    {"{}", "results.json"},
    {"[{\"name\": []}]", "entry 0 has no frame_id"},
    {"[{\"frame_id\": \"100\", \"name\": [\"Car\"], \"score\": [], \"boxes_3d\": []}]",
     "1 names, 0 scores and 0 boxes"},
    {"[{\"frame_id\": \"100\", \"name\": [\"Tank\"], \"score\": [1], \"boxes_3d\": [[1, 2, 3, 4, 5, 6, 7]]}]",
     "box 0 is of the class 'Tank'"},
    {"[{\"frame_id\": \"100\", \"name\": [\"Car\"], \"score\": [NaN], \"boxes_3d\": [[1, 2, 3, 4, 5, 6, "
     "7]]}]",
     "a score is not finite"},
    {"[{\"frame_id\": \"100\", \"name\": [\"Car\"], \"score\": [1], \"boxes_3d\": [[1, 2, 3, 4, 0, 6, 7]]}]",
     "a side that is not greater than 0"},
    {"[{\"frame_id\": \"100\", \"name\": [\"Car\"], \"score\": [1], \"boxes_3d\": [[1, 2, 3]]}]",
     "results.json"},
    {"[{\"frame_id\": \"100\"}, {\"frame_id\": \"100\"}]", "frame 100 stands twice"},
    {"[{\"frame_id\": \"100\"", "results.json"},
};

START_TEST(bad_results_are_refused)
{
    sv_ctx *c = test_context(1);
    sv_dataset *d = NULL;
    sv_evaluator *e = open_set(c, "refused", &d);
    sv_submission s;
    const char *path = test_path("results.json");
    write_file(path, bad_results[_i].json, strlen(bad_results[_i].json));
    assert_fails(c, sv_submission_open(c, e, path, &s), SV_BAD_INPUT, bad_results[_i].sentence);
    sv_evaluator_close(e);
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

START_TEST(the_program_scores_it)
{
    make_set("scored");
    assert_says(savanna("inspect %s", root), 0, "4 frames, 3 annotated, 5 objects");
    assert_says(savanna("eval --root %s --self-check", root), 0, "100 where there are any");
    assert_says(savanna("eval --root %s -c cluster", root), 0, "Vehicle");
    static char scores[sizeof output];
    snprintf(scores, sizeof scores, "%s", strstr(output, "ONCE"));
    assert_says(
        savanna("detect -q --dataset once --root %s -c cluster --format once -o %s/out.json", root, root), 0,
        "");
    assert_says(savanna("eval --root %s --results %s/out.json", root, root), 0, "Vehicle");
    ck_assert_str_eq(strstr(output, "ONCE"), scores);
    assert_says(savanna("detect --dataset once --root %s -c cluster --format once", root), 2, "-o FILE.json");
    assert_says(savanna("detect x.bin -c cluster --format once -o a.json"), 2, "--dataset once");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("once");
    TCase *cases = tcase_create("ONCE");
    tcase_set_timeout(cases, 60);
    tcase_add_test(cases, a_sequence_is_read);
    tcase_add_loop_test(cases, faults_are_named, 0, (int)(sizeof faults / sizeof *faults));
    tcase_add_test(cases, results_are_written_and_read);
    tcase_add_loop_test(cases, bad_results_are_refused, 0, (int)(sizeof bad_results / sizeof *bad_results));
    tcase_add_test(cases, the_program_scores_it);
    suite_add_tcase(suite, cases);
    return run_suite(suite, true);
}
