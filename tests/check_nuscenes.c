/* SPDX-License-Identifier: Apache-2.0
 *
 * nuScenes: tables and submissions made here and spoiled in every way that a message exists for, the
 * measure against scores computed by hand, the program on both; then recorded data where it is.
 */
#define _GNU_SOURCE
#include "datasets/evaluator.h"
#include "datasets/nuscenes_dataset.h"
#include "datasets/nuscenes_results.h"
#include "perception/core/file.h"
#include "support_program.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <yajl/yajl_tree.h>

/* ---- a dataset made here ------------------------------------------------------------------------------ */

/*
 * v1.0-mini with scene-0103 (3 samples), scene-0916 (1 sample, so no velocities) and scene-0061 (another split). Cars: one
 * through all of scene-0103, one in its first sample only, one in scene-0916; a cone without points; a bicycle in a rack.
 * The last sample of scene-0103 has nothing but the first car; none of the second.
 */
static const char *tok(int kind, int number)
{
    static char text[16][40];
    static int next;
    char *out = text[next++ % 16];
    snprintf(out, 40, "%08x%08x%08x%08x", kind, number, 0x5a5a5a5a, kind * 1000 + number);
    return out;
}
enum { SCENE = 1, SAMPLE, DATA, CALIBRATION, SENSOR, INSTANCE, ANNOTATION, CATEGORY, ATTRIBUTE };

static char root[600];
static FILE *table(const char *name)
{
    char path[800];
    snprintf(path, sizeof path, "%s/v1.0-mini/%s.json", root, name);
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    return file;
}

typedef struct thing {
    int sample, instance, category, attribute, previous, next, points;
    double x, y, size[3];
} thing;
static const char *const categories[] = {"vehicle.car", "movable_object.trafficcone", "vehicle.bicycle",
                                         "static_object.bicycle_rack", "animal"};
static const thing things[] = {
    {0, 0, 0, 0, -1, 1, 9, 10, 2, {1.9, 4.5, 1.6}},  {1, 0, 0, 0, 0, 2, 8, 12, 2, {1.9, 4.5, 1.6}},
    {2, 0, 0, 0, 1, -1, 7, 14, 2, {1.9, 4.5, 1.6}},  {0, 1, 0, 1, -1, -1, 5, -8, 3, {2, 5, 1.5}},
    {3, 2, 0, -1, -1, -1, 4, 20, -5, {2, 5, 1.5}},   {0, 3, 1, -1, -1, -1, 0, 5, 5, {0.4, 0.4, 1}},
    {1, 4, 2, 0, -1, -1, 3, 6, -6, {0.6, 1.7, 1.3}}, {1, 5, 3, -1, -1, -1, 30, 6, -6, {3, 4, 4}},
    {0, 6, 4, -1, -1, -1, 2, 3, 3, {0.5, 0.5, 0.5}}};
enum { THINGS = sizeof things / sizeof *things, SAMPLES = 4 };
static const int64_t sample_times[SAMPLES + 1] = {1000000, 1500000, 2000000, 9000000, 20000000};
static const double ego_x[SAMPLES + 1] = {0, 1, 2, 3, 4};

/* 4 key frames and one sweep before each. */
static void make_points(int sample, int sweep)
{
    char path[900];
    test_rng rng = {(uint64_t)(sample * 2 + sweep + 1)};
    static float points[300][5];
    for (int i = 0; i < 300; i++) {
        for (int k = 0; k < 3; k++) points[i][k] = (float)rng_uniform(&rng, 2, 20);
        points[i][3] = (float)(i % 256);
        points[i][4] = (float)(i % 32);
    }
    points[0][0] = 0.5f, points[0][1] = -0.9f; /* the vehicle */
    points[1][0] = 0.5f, points[1][1] = -1.0f; /* just outside */
    points[2][2] = NAN;
    snprintf(path, sizeof path, "%s/%s/LIDAR_TOP/%d-%d.pcd.bin", root, sweep ? "sweeps" : "samples", sample,
             sweep);
    write_file(path, points, sizeof points);
}

static void make_dataset(const char *name)
{
    static const char *const folders[] = {"",        "/v1.0-mini",         "/samples",
                                          "/sweeps", "/samples/LIDAR_TOP", "/sweeps/LIDAR_TOP"};
    static const char *const scenes[] = {"scene-0103", "scene-0916", "scene-0061"};
    static const int scene_of[SAMPLES + 1] = {0, 0, 0, 1, 2};
    snprintf(root, sizeof root, "%s", test_path(name));
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char path[800];
        snprintf(path, sizeof path, "%s%s", root, folders[i]);
        mkdir(path, 0777);
    }
    FILE *f = table("scene");
    for (int i = 0; i < 3; i++)
        fprintf(f, "%c{\"token\": \"%s\", \"name\": \"%s\", \"description\": \"\"}", i ? ',' : '[',
                tok(SCENE, i), scenes[i]);
    fprintf(f, "]"), fclose(f);
    f = table("category");
    for (int i = 0; i < 5; i++)
        fprintf(f, "%c{\"token\": \"%s\", \"name\": \"%s\"}", i ? ',' : '[', tok(CATEGORY, i), categories[i]);
    fprintf(f, "]"), fclose(f);
    f = table("attribute");
    fprintf(f,
            "[{\"token\": \"%s\", \"name\": \"vehicle.moving\"}, {\"token\": \"%s\", \"name\": "
            "\"vehicle.parked\"}]",
            tok(ATTRIBUTE, 0), tok(ATTRIBUTE, 1));
    fclose(f);
    f = table("sensor");
    fprintf(f, "[{\"token\": \"%s\", \"channel\": \"LIDAR_TOP\", \"modality\": \"lidar\"}]", tok(SENSOR, 0));
    fclose(f);
    f = table("calibrated_sensor");
    fprintf(f,
            "[{\"token\": \"%s\", \"sensor_token\": \"%s\", \"translation\": [0.9, 0, 1.8], \"rotation\": "
            "[0.7071067811865476, 0, 0, -0.7071067811865476], \"camera_intrinsic\": []}]",
            tok(CALIBRATION, 0), tok(SENSOR, 0));
    fclose(f);
    f = table("sample");
    for (int i = SAMPLES; i >= 0; i--)
        fprintf(f,
                "%c{\"token\": \"%s\", \"timestamp\": %lld, \"prev\": \"\", \"next\": \"\", \"scene_token\": "
                "\"%s\"}",
                i < SAMPLES ? ',' : '[', tok(SAMPLE, i), (long long)sample_times[i], tok(SCENE, scene_of[i]));
    fprintf(f, "]"), fclose(f);
    f = table("sample_data");
    FILE *poses = table("ego_pose");
    for (int i = 0; i < 2 * (SAMPLES + 1); i++) {
        const int sample = i / 2, sweep = 1 - i % 2;
        fprintf(f,
                "%c{\"token\": \"%s\", \"sample_token\": \"%s\", \"ego_pose_token\": \"%s\", "
                "\"calibrated_sensor_token\": "
                "\"%s\", \"timestamp\": %lld, \"fileformat\": \"pcd\", \"is_key_frame\": %s, \"height\": 0, "
                "\"width\": 0, "
                "\"filename\": \"%s/LIDAR_TOP/%d-%d.pcd.bin\", \"prev\": \"%s\", \"next\": \"\"}",
                i ? ',' : '[', tok(DATA, 2 * sample + sweep), tok(SAMPLE, sample),
                tok(DATA, 2 * sample + sweep), tok(CALIBRATION, 0),
                (long long)(sample_times[sample] - 50000 * sweep), sweep ? "false" : "true",
                sweep ? "sweeps" : "samples", sample, sweep, sweep == 0 ? tok(DATA, 2 * sample + 1) : "");
        fprintf(poses,
                "%c{\"token\": \"%s\", \"timestamp\": 1, \"rotation\": [1, 0, 0, 0], \"translation\": [%g, "
                "0, 0]}",
                i ? ',' : '[', tok(DATA, 2 * sample + sweep), ego_x[sample] - 0.25 * sweep);
        make_points(sample, sweep);
    }
    fprintf(f, "]"), fclose(f);
    fprintf(poses, "]"), fclose(poses);
    f = table("instance");
    for (int i = 0; i < 7; i++) {
        int category = 0;
        for (int k = 0; k < THINGS; k++)
            if (things[k].instance == i) category = things[k].category;
        fprintf(f, "%c{\"token\": \"%s\", \"category_token\": \"%s\", \"nbr_annotations\": 1}", i ? ',' : '[',
                tok(INSTANCE, i), tok(CATEGORY, category));
    }
    fprintf(f, "]"), fclose(f);
    f = table("sample_annotation");
    for (int i = THINGS - 1; i >= 0; i--) {
        const thing *t = &things[i];
        char attribute[48] = "";
        if (t->attribute >= 0) snprintf(attribute, sizeof attribute, "\"%s\"", tok(ATTRIBUTE, t->attribute));
        fprintf(f,
                "%c{\"token\": \"%s\", \"sample_token\": \"%s\", \"instance_token\": \"%s\", "
                "\"visibility_token\": \"4\", "
                "\"attribute_tokens\": [%s], \"translation\": [%g, %g, 1], \"size\": [%g, %g, %g], "
                "\"rotation\": [1, 0, 0, "
                "0], \"prev\": \"%s\", \"next\": \"%s\", \"num_lidar_pts\": %d, \"num_radar_pts\": 0}",
                i < THINGS - 1 ? ',' : '[', tok(ANNOTATION, i), tok(SAMPLE, t->sample),
                tok(INSTANCE, t->instance), attribute, t->x, t->y, t->size[0], t->size[1], t->size[2],
                t->previous >= 0 ? tok(ANNOTATION, t->previous) : "",
                t->next >= 0 ? tok(ANNOTATION, t->next) : "", t->points);
    }
    fprintf(f, "]"), fclose(f);
}

/* The first 'from' in a file becomes 'to'; NULL: the file ends there. */
static void spoil_file(const char *path, const char *from, const char *to)
{
    size_t size;
    char *text = read_file(path, &size);
    ck_assert_ptr_nonnull(text);
    char *at = strstr(text, from);
    ck_assert_msg(at != NULL, "%s lacks %s", path, from);
    FILE *file = fopen(path, "w");
    fwrite(text, 1, (size_t)(at - text), file);
    if (to) fprintf(file, "%s%s", to, at + strlen(from));
    fclose(file);
    free(text);
}
static void spoil(const char *name, const char *from, const char *to)
{
    char path[800];
    snprintf(path, sizeof path, "%s/v1.0-mini/%s.json", root, name);
    spoil_file(path, from, to);
}

static sv_status open_split(sv_ctx *c, const char *split, sv_dataset **out)
{
    sv_dataset_def def = sv_dataset_def_default("nuscenes", root);
    def.split = split;
    return sv_dataset_open(c, &def, out);
}

START_TEST(samples_of_a_split)
{
    sv_ctx *c = test_context(1);
    make_dataset("plain");
    sv_dataset *d;
    assert_ok(c, open_split(c, NULL, &d));
    ck_assert_str_eq(sv_dataset_split(d), "mini_val");
    ck_assert_str_eq(sv_dataset_layout(d), "xyzit");
    ck_assert_int_eq(sv_dataset_count(d), SAMPLES);
    ck_assert_int_eq(sv_dataset_sequence_count(d), 2);
    ck_assert_str_eq(sv_dataset_sequence(d, 0)->name, "scene-0103");
    ck_assert_int_eq(sv_dataset_sequence(d, 0)->count, 3);
    for (int i = 0; i < SAMPLES; i++) ck_assert_str_eq(sv_dataset_id(d, i), tok(SAMPLE, i));
    sv_sample s = {0};
    assert_ok(c, sv_dataset_read(c, d, 1, SV_READ_LABELS | SV_READ_CAMERAS, &s));
    ck_assert(s.has_labels && s.has_pose && s.camera_count == 0 && !s.first);
    ck_assert_double_eq_tol(s.time, 1.5, 1e-12);
    ck_assert_int_eq(s.label_count, 3);
    /* the table is backwards: rack, bicycle, car */
    ck_assert_str_eq(s.labels[0].type, "static_object.bicycle_rack");
    ck_assert_int_eq(s.labels[0].box.label, 0);
    const sv_label *car = &s.labels[2];
    ck_assert_int_eq(car->box.label, 1);
    /* ego at x 1, LiDAR 0.9 before it, turned by -90 degrees: its x looks right, its y forward */
    ck_assert_double_eq_tol((double)car->box.x, -2, 1e-6);
    ck_assert_double_eq_tol((double)car->box.y, 12 - 1 - 0.9, 1e-6);
    ck_assert_double_eq_tol((double)car->box.z, 1 - 1.8, 1e-6);
    ck_assert_double_eq_tol((double)car->box.dx, 4.5, 1e-6);
    ck_assert_double_eq_tol((double)car->box.dy, 1.9, 1e-6);
    ck_assert_double_eq_tol((double)car->box.heading, 1.5707963, 1e-6);
    /* 4 m in 1 s */
    ck_assert(car->has_velocity);
    ck_assert_double_eq_tol((double)car->box.vx, 0, 1e-5);
    ck_assert_double_eq_tol((double)car->box.vy, 4, 1e-5);
    assert_ok(c, sv_dataset_read(c, d, 3, SV_READ_LABELS, &s));
    ck_assert(s.first && s.label_count == 1 && !s.labels[0].has_velocity);
    sv_sample_free(&s);
    sv_dataset_close(d);
    assert_fails(c, open_split(c, "test", &d), SV_BAD_INPUT, "mini_val (2), mini_train (1)");
    assert_fails(c, open_split(c, "nonsense", &d), SV_USAGE, "has no split 'nonsense'");
    sv_dataset_def def = sv_dataset_def_default(NULL, root);
    const char *const scene[] = {"scene-0916"};
    def.sequences = scene, def.sequence_count = 1;
    assert_ok(c, sv_dataset_open(c, &def, &d));
    ck_assert_str_eq(sv_dataset_name(d), "nuscenes");
    ck_assert_int_eq(sv_dataset_count(d), 1);
    sv_dataset_close(d);
    def.version = "v1.0-trainval";
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_BAD_INPUT, "no tables of the version v1.0-trainval");
    sv_ctx_close(c);
}
END_TEST

START_TEST(two_rules_of_sweeps)
{
    sv_ctx *c = test_context(1);
    make_dataset("sweeps");
    static const struct {
        const char *rule;
        int sweeps, points;
    } cases[] = {{"training", 1, 299},
                 {"devkit", 1, 298},
                 {"training", 4, 299 + 3 * 298}, /* the last one repeated */
                 {"devkit", 4, 2 * 298},
                 {NULL, 0, 299 + 9 * 298}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sv_dataset_def def = sv_dataset_def_default("nuscenes", root);
        def.sweeps = cases[i].sweeps;
        def.sweep_rule = cases[i].rule;
        sv_dataset *d;
        sv_sample s = {0};
        assert_ok(c, sv_dataset_open(c, &def, &d));
        assert_ok(c, sv_dataset_read(c, d, 1, SV_READ_POINTS, &s));
        ck_assert_int_eq(s.frame->count, cases[i].points);
        ck_assert_int_eq(s.frame->columns, 5);
        const float *key = s.frame->points, *last = key + 5 * (s.frame->count - 1);
        ck_assert_float_eq(key[4], 0);
        if (cases[i].sweeps != 1) ck_assert_double_eq_tol((double)last[4], 0.05, 1e-6);
        sv_sample_free(&s);
        sv_dataset_close(d);
    }
    char path[800];
    sv_dataset *d;
    sv_sample s = {0};
    assert_ok(c, open_split(c, NULL, &d));
    snprintf(path, sizeof path, "%s/sweeps/LIDAR_TOP/1-1.pcd.bin", root);
    write_file(path, "abc", 3);
    assert_fails(c, sv_dataset_read(c, d, 1, SV_READ_POINTS, &s), SV_BAD_INPUT, "no whole number of points");
    unlink(path);
    assert_fails(c, sv_dataset_read(c, d, 1, SV_READ_POINTS, &s), SV_IO, "is not there; the sample");
    write_file(path, "", 0);
    assert_ok(c, sv_dataset_read(c, d, 1, SV_READ_POINTS, &s));
    ck_assert_int_eq(s.frame->count, 299);
    sv_sample_free(&s);
    sv_dataset_close(d);
    sv_dataset_def def = sv_dataset_def_default("nuscenes", root);
    def.sweeps = 1000;
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_USAGE, "1000 sweeps");
    def.sweeps = 2, def.sweep_rule = "other";
    assert_fails(c, sv_dataset_open(c, &def, &d), SV_USAGE, "'other' is no rule for sweeps");
    sv_ctx_close(c);
}
END_TEST

START_TEST(spoiled_tables)
{
    sv_ctx *c = test_context(1);
    enum { SCENE0, SCENE1, DATA1, DATA3, ANNOTATION8, CATEGORY0, NAMED };
    char named[NAMED][40];
    const char *const tokens[NAMED] = {tok(SCENE, 0), tok(SCENE, 1),      tok(DATA, 1),
                                       tok(DATA, 3),  tok(ANNOTATION, 8), tok(CATEGORY, 0)};
    for (int i = 0; i < NAMED; i++) memcpy(named[i], tokens[i], 33);
    static const char nobody[] = "ffffffffffffffffffffffffffffffff";
    const struct {
        const char *table, *from, *to, *message;
    } cases[] = {
        {"sample", "scene_token\": \"0", "scene_token\": \"f", "which is not in scene.json"},
        {"sample", "\"timestamp\"", "\"time\"", "the field \"timestamp\" is missing"},
        {"sample", "timestamp\": 2", "timestamp\": 2.5e3, \"y\": 2", "whole number"},
        {"sample", "]", NULL, "ends in the middle of entry 5"},
        {"sample", "\"prev\"", NULL, "ends in the middle of entry 0"},
        {"sample", "[{", "{", "a list [ is expected"},
        {"sample", "]", "] x", "something follows behind the list"},
        {"sample_data", "sample_token\": \"0", "sample_token\": \"f", "which is not in sample.json"},
        {"sample_data", "ego_pose_token\": \"0", "ego_pose_token\": \"f", "which is not in ego_pose.json"},
        {"sample_data", "calibrated_sensor_token\": \"0", "calibrated_sensor_token\": \"f",
         "which is not in calibrated_sensor.json"},
        {"sample_data", "prev\": \"0", "prev\": \"f", "follows (prev)"},
        {"sample_data", "filename\": \"", "filename\": \"../", "no path below the dataset's folder"},
        {"sample_data", "filename\": \"", "filename\": \"/", "no path below the dataset's folder"},
        {"sample_data", "\"is_key_frame\": true", "\"is_key_frame\": false", "has no key frame of LIDAR_TOP"},
        {"sample_data", "\"is_key_frame\": false", "\"is_key_frame\": true",
         "is a second key frame of LIDAR_TOP"},
        {"sample_data", "\"is_key_frame\": false", "\"is_key_frame\": 1", "true or false is expected"},
        {"sample_data", "\"height\": 0", "\"height\": 99999999", "picture of 0 x 99999999"},
        {"sample_data", "\"height\": 0", "\"height\": 0, \"height\": 0", "a field stands twice"},
        {"ego_pose", "[1, 0, 0, 0]", "[NaN, 0, 0, 0]", "the rotation holds nan"},
        {"ego_pose", "[1, 0, 0, 0]", "[0, 0, 0, 0]", "no unit quaternion"},
        {"ego_pose", "[1, 0, 0, 0]", "[1, 0, 0]", "another number of numbers"},
        {"ego_pose", "\"translation\": [", "\"translation\": [1e400, ", "another number"},
        {"sample_annotation", "instance_token\": \"0", "instance_token\": \"f",
         "which is not in instance.json"},
        {"sample_annotation", "\"next\": \"0", "\"next\": \"f", "as its next"},
        {"sample_annotation", "attribute_tokens\": []",
         "attribute_tokens\": [\"ffffffffffffffffffffffffffffffff\"]", "which is not in attribute.json"},
        {"sample_annotation", "num_lidar_pts\": ", "num_lidar_pts\": -1", "counts -1"},
        {"sample_annotation", "num_lidar_pts\": ", "num_lidar_pts\": 99999999999999999999",
         "at most 18 digits"},
        {"sample_annotation", "\"size\": [", "\"size\": [0, 1, 1], \"z\": [", "has the size 0 x 1 x 1"},
        {"sample_annotation", "\"translation\": [3, 3, 1]", "\"translation\": [3, Infinity, 1]", "holds inf"},
        {"calibrated_sensor", "[0.9, 0, 1.8]", "[0.9, NaN, 1.8]", "holds nan"},
        {"scene", named[SCENE1], named[SCENE0], "stands twice"},
        {"ego_pose", named[DATA3], named[DATA1], "stands twice"},
        {"sample_annotation", named[ANNOTATION8], "xyz", "'xyz', which is no token"},
        {"category", named[CATEGORY0], nobody, "which is not in category.json"},
        {"category", "[", "[]", "something follows"},
        {"category", "vehicle.car", "", "has a name of 0 letters"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sv_dataset *d = NULL;
        make_dataset("spoiled");
        spoil(cases[i].table, cases[i].from, cases[i].to);
        const sv_status status = open_split(c, "all", &d);
        ck_assert_msg(status == SV_BAD_INPUT && strstr(sv_error_message(c), cases[i].message),
                      "%s, %s: '%s' lacks '%s'", cases[i].table, cases[i].from, sv_error_message(c),
                      cases[i].message);
        ck_assert_msg(strstr(sv_error_message(c), ".json") != NULL, "no file in '%s'", sv_error_message(c));
        sv_error_clear(c);
    }
    make_dataset("spoiled");
    char path[800];
    sv_dataset *d;
    snprintf(path, sizeof path, "%s/v1.0-mini/ego_pose.json", root);
    unlink(path);
    assert_fails(c, open_split(c, NULL, &d), SV_IO, "ego_pose.json: cannot be opened");
    write_file(path, "", 0);
    assert_fails(c, open_split(c, NULL, &d), SV_BAD_INPUT, "ego_pose.json: is empty");
    make_dataset("unlabelled");
    snprintf(path, sizeof path, "%s/v1.0-mini/sample_annotation.json", root);
    write_file(path, "[]", 2);
    sv_sample s = {0};
    assert_ok(c, open_split(c, NULL, &d));
    assert_ok(c, sv_dataset_read(c, d, 0, SV_READ_LABELS, &s));
    ck_assert(!s.has_labels && s.label_count == 0);
    sv_sample_free(&s);
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

START_TEST(splits_are_the_official_ones)
{
    static const struct {
        const char *name;
        int scenes;
    } counts[] = {{"mini_val", 2}, {"mini_train", 8}, {"val", 150}, {"train", 700}, {"test", 150}};
    int in[1200] = {0};
    for (int i = 0; i < SV_NUSCENES_SPLITS; i++) {
        int found = 0;
        ck_assert_str_eq(sv_nuscenes_splits[i].name, counts[i].name);
        for (int n = 0; n < 1200; n++) {
            char scene[16];
            snprintf(scene, sizeof scene, "scene-%04d", n);
            const bool has = sv_nuscenes_split_has(&sv_nuscenes_splits[i], scene);
            found += has;
            if (i >= 2) in[n] += has; /* val, train and test have nothing in common */
            ck_assert_int_le(in[n], 1);
        }
        ck_assert_int_eq(found, counts[i].scenes);
        ck_assert(!sv_nuscenes_split_has(&sv_nuscenes_splits[i], "scene-12a4"));
        ck_assert(!sv_nuscenes_split_has(&sv_nuscenes_splits[i], "0103"));
    }
    ck_assert_int_eq(sv_nuscenes_attribute_guess(SV_NUSCENES_CAR, 0.2), 6);
    ck_assert_int_eq(sv_nuscenes_attribute_guess(SV_NUSCENES_BUS, 0.1), 7);
    ck_assert_int_eq(sv_nuscenes_attribute_guess(SV_NUSCENES_PEDESTRIAN, 0.3), 2);
    ck_assert_int_eq(sv_nuscenes_attribute_guess(SV_NUSCENES_PEDESTRIAN, 0), 4);
    ck_assert_int_eq(sv_nuscenes_attribute_guess(SV_NUSCENES_BICYCLE, 0.3), 0);
    ck_assert_int_eq(sv_nuscenes_attribute_guess(SV_NUSCENES_BARRIER, 9), -1);
}
END_TEST

/* ---- submissions -------------------------------------------------------------------------------------- */

static sv_nuscenes_token token_of(const char *text)
{
    sv_nuscenes_token token;
    ck_assert(sv_nuscenes_token_parse(text, strlen(text), &token));
    return token;
}

static sv_nuscenes_box some_box(const char *sample, int detection_class, double x, double y, double score)
{
    return (sv_nuscenes_box){.sample = token_of(sample),
                             .translation = {x, y, 1},
                             .size = {1.9, 4.5, 1.6},
                             .rotation = {1, 0, 0, 0},
                             .velocity = {0.1, 0.2},
                             .score = score,
                             .order = -1,
                             .detection_class = (signed char)detection_class,
                             .attribute = 6};
}

static const char *write_submission(sv_ctx *c, const char *name, int boxes_each)
{
    const char *path = test_path(name);
    sv_nuscenes_writer w;
    assert_ok(c, sv_nuscenes_writer_open(c, path, true, &w));
    for (int i = 0; i < SAMPLES; i++) {
        sv_nuscenes_box *boxes = calloc((size_t)boxes_each + 1, sizeof *boxes);
        for (int k = 0; k < boxes_each; k++)
            boxes[k] = some_box(tok(SAMPLE, i), k % SV_NUSCENES_CLASSES, 10 + 0.1 * k, 2, 1.0 / (k + 1));
        assert_ok(c, sv_nuscenes_writer_add(c, &w, token_of(tok(SAMPLE, i)), boxes, i == 2 ? 0 : boxes_each));
        free(boxes);
    }
    assert_ok(c, sv_nuscenes_writer_close(c, &w));
    return path;
}

/* Opens and reads everything. */
static sv_status read_all(sv_ctx *c, const char *path, int *count)
{
    sv_nuscenes_submission s;
    SV_TRY(sv_nuscenes_submission_open(c, path, &s));
    sv_status status = SV_OK;
    *count = 0;
    for (int i = 0; i < s.count && status == SV_OK; i++) {
        sv_nuscenes_boxes boxes;
        status = sv_nuscenes_submission_read(c, &s, i, &boxes);
        *count += boxes.count;
        free(boxes.data);
    }
    sv_nuscenes_submission_close(&s);
    return status;
}

START_TEST(submissions_round_trip)
{
    sv_ctx *c = test_context(1);
    sv_nuscenes_submission s;
    sv_nuscenes_boxes boxes;
    const char *path = write_submission(c, "round.json", 500);
    char meta[200] = {0};
    FILE *file = fopen(path, "r");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_gt(fread(meta, 1, sizeof meta - 1, file), 100);
    fclose(file);
    ck_assert_ptr_nonnull(strstr(meta, "\"use_camera\": true, \"use_lidar\": true, \"use_radar\": false"));
    assert_ok(c, sv_nuscenes_submission_open(c, path, &s));
    ck_assert_int_eq(s.count, SAMPLES);
    ck_assert_int_eq(s.slices[2].boxes, 0);
    assert_ok(c, sv_nuscenes_submission_read(c, &s, 1, &boxes));
    ck_assert_int_eq(boxes.count, 500);
    for (int k = 0; k < 500; k++) {
        sv_nuscenes_box want = some_box(tok(SAMPLE, 1), k % 10, 10 + 0.1 * k, 2, 1.0 / (k + 1));
        const sv_nuscenes_box *got = &boxes.data[k];
        ck_assert(memcmp(got->translation, want.translation, sizeof want.translation) == 0);
        ck_assert(got->score == want.score && got->detection_class == want.detection_class);
        ck_assert(got->attribute == 6 && got->order == (1 << 16 | k));
    }
    free(boxes.data);
    sv_nuscenes_submission_close(&s);
    sv_nuscenes_submission_close(&s);
    sv_ctx_close(c);
}
END_TEST

START_TEST(spoiled_submissions)
{
    sv_ctx *c = test_context(1);
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"\"detection_score\": 1,", "\"detection_score\": NaN,", "box 0: its detection_score is NaN"},
        {"\"detection_score\": 0.5,", "\"detection_score\": 1e999,",
         "box 1: its detection_score is infinite"},
        {"\"detection_score\": 0.5,", "\"detection_score\": \"0.5\",", "box 1: a number is expected"},
        {"\"detection_name\": \"truck\"", "\"detection_name\": \"lorry\"", "none of the ten classes"},
        {"vehicle.parked", "vehicle.asleep", "none of the eight attributes"},
        {"\"size\": [1.8999999999999999, ", "\"size\": [", "another number of numbers"},
        {"\"translation\": [10, ", "\"translation\": [NaN, ", "its translation is not finite"},
        {"\"velocity\": [0.10000000000000001", "\"velocity\": [Infinity", "its velocity is infinite"},
        {"\"velocity\": [", "\"speed\": [", "a box lacks one of"},
        {"{\"sample_token\": \"0", "{\"sample_token\": \"f", "its sample_token is another sample's"},
        {"\"results\"", "\"result\"", "no \"results\""},
        {"\"results\": {", "\"results\": [{", "\"results\" is no object"},
        {"\"results\": {", "\"results\": {\"12\": [],", "'12', before byte"},
        {"\"results\": {", "\"results\": {\"\": [],", "no token of a sample"},
        {": [\n", ": {\n", "boxes are no list"},
        {"\"velocity\"", NULL, "ends too early"},
        {"{", "[{", "does not begin with {"},
        {"meta\": {", "meta\" {", "a key, a colon or a comma is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = write_submission(c, "spoiled.json", 3);
        int count;
        spoil_file(path, cases[i].from, cases[i].to);
        const sv_status status = read_all(c, path, &count);
        ck_assert_msg(status == SV_BAD_INPUT && strstr(sv_error_message(c), cases[i].message),
                      "%s: '%s' lacks '%s'", cases[i].from, sv_error_message(c), cases[i].message);
        sv_error_clear(c);
    }
    int count;
    char twice[200];
    const char *path = write_submission(c, "twice.json", 1);
    snprintf(twice, sizeof twice, "\"results\": {\"%s\": [],", tok(SAMPLE, 3));
    spoil_file(path, "\"results\": {", twice);
    assert_fails(c, read_all(c, path, &count), SV_BAD_INPUT, "stands twice");
    /* 501 boxes */
    path = write_submission(c, "many.json", 500);
    spoil_file(path, "{\"sample_token\"", "{}, {\"sample_token\"");
    assert_fails(c, read_all(c, path, &count), SV_BAD_INPUT, "has 501 boxes; 500 at most are allowed");
    /* a velocity may be unknown */
    path = write_submission(c, "unknown.json", 1);
    spoil_file(path, "\"velocity\": [0.10000000000000001", "\"velocity\": [NaN");
    assert_ok(c, read_all(c, path, &count));
    ck_assert_int_eq(count, 3);
    sv_nuscenes_writer w;
    sv_nuscenes_box box = some_box(tok(SAMPLE, 0), 0, NAN, 0, 1);
    assert_ok(c, sv_nuscenes_writer_open(c, test_path("never.json"), false, &w));
    assert_fails(c, sv_nuscenes_writer_add(c, &w, box.sample, &box, 1), SV_BAD_INPUT, "not finite");
    sv_nuscenes_writer_discard(&w);
    size_t size;
    ck_assert_ptr_null(read_file(test_path("never.json"), &size));
    sv_ctx_close(c);
}
END_TEST

START_TEST(boxes_of_a_detector)
{
    sv_ctx *c = test_context(1);
    make_dataset("detected");
    sv_dataset *d;
    assert_ok(c, open_split(c, NULL, &d));
    const sv_nuscenes_tables *t = sv_nuscenes_tables_of(d);
    static const char *const classes[] = {"Car", "Cyclist", "bus"};
    sv_box *boxes = calloc(700, sizeof *boxes);
    for (int i = 0; i < 700; i++)
        boxes[i] = (sv_box){.x = 1,
                            .y = 10,
                            .z = -1,
                            .dx = 4,
                            .dy = 2,
                            .dz = 1.5f,
                            .heading = 0.3f,
                            .vx = 0.1f,
                            .vy = 3,
                            .score = (float)(i % 350) / 350,
                            .label = 1 + (i % 7 == 6)};
    boxes[0].label = 3, boxes[0].vy = 0, boxes[0].score = 1;
    sv_nuscenes_boxes out;
    int other, beyond;
    assert_ok(c, sv_nuscenes_boxes_of(c, t, &t->samples[1], classes, boxes, 700, &out, &other, &beyond));
    ck_assert_int_eq(out.count, 500);
    ck_assert_int_eq(other, 100);
    ck_assert_int_eq(beyond, 100);
    /* x right is -y of the vehicle, y forward its x */
    const sv_nuscenes_box *b = &out.data[0];
    ck_assert_int_eq(b->detection_class, SV_NUSCENES_BUS);
    ck_assert_int_eq(b->attribute, 7); /* stands: vehicle.stopped */
    ck_assert_double_eq_tol(b->translation[0], 1 + 0.9 + 10, 1e-6);
    ck_assert_double_eq_tol(b->translation[1], -1, 1e-6);
    ck_assert_double_eq_tol(b->translation[2], 0.8, 1e-6);
    ck_assert_double_eq_tol(b->size[0], 2, 1e-6);
    ck_assert_double_eq_tol(b->size[1], 4, 1e-6);
    const double yaw = 2 * atan2(b->rotation[3], b->rotation[0]);
    ck_assert_double_eq_tol(sv_wrap_angle(yaw), (double)0.3f - 1.5707963267948966, 1e-6);
    ck_assert_double_eq_tol(out.data[1].velocity[0], 3, 1e-6);
    ck_assert_double_eq_tol(out.data[1].velocity[1], -0.1, 1e-6);
    for (int i = 0; i < out.count; i++) ck_assert(out.data[i].score >= 0.14); /* the best ones */
    free(out.data);
    /* there and back */
    sv_nuscenes_annotation a = {.sample = 1};
    assert_ok(c, sv_nuscenes_boxes_of(c, t, &t->samples[1], classes, boxes, 1, &out, &other, &beyond));
    memcpy(a.translation, out.data[0].translation, sizeof a.translation);
    memcpy(a.size, out.data[0].size, sizeof a.size);
    memcpy(a.rotation, out.data[0].rotation, sizeof a.rotation);
    double back[7], velocity[3];
    sv_nuscenes_lidar_box(t, &a, back, velocity);
    const float *given = &boxes[0].x;
    for (int i = 0; i < 7; i++) ck_assert_double_eq_tol(back[i], (double)given[i], 1e-6);
    free(out.data);
    free(boxes);
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

/* ---- the measure -------------------------------------------------------------------------------------- */

/* Straight from the definition, on one class: every step over all samples, as the rules are written. */
enum { ORACLE = 400 };
typedef struct oracle {
    sv_nuscenes_annotation labels[ORACLE];
    sv_nuscenes_box boxes[ORACLE];
    int label_sample[ORACLE], box_sample[ORACLE], label_count, box_count;
} oracle;

static double oracle_ap(const oracle *o, double distance, int detection_class)
{
    int order[ORACLE], count = 0, total = 0, right = 0;
    bool taken[ORACLE] = {false};
    double recall[ORACLE], precision[ORACLE];
    for (int i = 0; i < o->label_count; i++) total += o->labels[i].detection_class == detection_class;
    for (int i = 0; i < o->box_count; i++)
        if (o->boxes[i].detection_class == detection_class) order[count++] = i;
    for (int i = 0; i < count; i++) /* by score; of equal ones the later first */
        for (int k = i + 1; k < count; k++)
            if (o->boxes[order[k]].score > o->boxes[order[i]].score ||
                (o->boxes[order[k]].score == o->boxes[order[i]].score && order[k] > order[i])) {
                const int swap = order[i];
                order[i] = order[k], order[k] = swap;
            }
    for (int i = 0; i < count; i++) {
        const int b = order[i];
        int nearest = -1;
        double least = INFINITY;
        for (int k = 0; k < o->label_count; k++) {
            if (o->labels[k].detection_class != detection_class || o->label_sample[k] != o->box_sample[b] ||
                taken[k])
                continue;
            const double d = hypot(o->boxes[b].translation[0] - o->labels[k].translation[0],
                                   o->boxes[b].translation[1] - o->labels[k].translation[1]);
            if (d < least) least = d, nearest = k;
        }
        if (least < distance) taken[nearest] = true, right++;
        recall[i] = (double)right / total;
        precision[i] = (double)right / (i + 1);
    }
    double sum = 0;
    for (int p = 11; p <= 100 && right > 0; p++) {
        const double r = p == 100 ? 1.0 : p * 0.01;
        double value = 0;
        int last = -1;
        for (int i = 0; i < count; i++)
            if (recall[i] <= r) last = i;
        if (last < 0)
            value = precision[0];
        else if (recall[last] == r)
            value = precision[last];
        else if (last < count - 1)
            value = precision[last] + (precision[last + 1] - precision[last]) /
                                          (recall[last + 1] - recall[last]) * (r - recall[last]);
        sum += fmax(value - 0.1, 0);
    }
    return sum / 90 / 0.9;
}

static void fill_oracle(oracle *o, uint64_t seed, int samples)
{
    test_rng rng = {seed};
    o->label_count = o->box_count = 0;
    for (int s = 0; s < samples; s++) {
        const int labels = (int)rng_uniform(&rng, 0, 14), boxes = (int)rng_uniform(&rng, 0, 18);
        const int first = o->label_count;
        for (int i = 0; i < labels; i++) {
            o->label_sample[o->label_count] = s;
            o->labels[o->label_count++] = (sv_nuscenes_annotation){
                .translation = {rng_uniform(&rng, -20, 20), rng_uniform(&rng, -20, 20), 0},
                .size = {1, 2, 1},
                .rotation = {1, 0, 0, 0},
                .velocity = {NAN, NAN, NAN},
                .lidar_points = 1,
                .detection_class = (signed char)(i % 3),
                .attribute = -1};
        }
        for (int i = 0; i < boxes; i++) {
            const bool near = labels > 0 && rng_uniform(&rng, 0, 1) < 0.7;
            const sv_nuscenes_annotation *l =
                &o->labels[first + (int)rng_uniform(&rng, 0, labels ? labels : 1)];
            sv_nuscenes_box b =
                some_box(tok(SAMPLE, 0), near ? l->detection_class : i % 3,
                         near ? l->translation[0] + rng_normal(&rng) : rng_uniform(&rng, -20, 20),
                         near ? l->translation[1] + rng_normal(&rng) : rng_uniform(&rng, -20, 20),
                         floor(rng_uniform(&rng, 0, 12)) / 12); /* many ties */
            o->box_sample[o->box_count] = s;
            o->boxes[o->box_count++] = b;
        }
    }
}

static void score_oracle(sv_ctx *c, const oracle *o, int samples, sv_nuscenes_scores *out)
{
    sv_nuscenes_eval *e;
    assert_ok(c, sv_nuscenes_eval_open(c, &e));
    for (int s = 0, label = 0, box = 0; s < samples; s++) {
        sv_nuscenes_frame f = {.labels = o->labels + label, .boxes = o->boxes + box, .name = "sample"};
        while (label < o->label_count && o->label_sample[label] == s) label++, f.label_count++;
        while (box < o->box_count && o->box_sample[box] == s) box++, f.box_count++;
        assert_ok(c, sv_nuscenes_eval_add(c, e, &f));
    }
    assert_ok(c, sv_nuscenes_eval_finish(c, e, out));
    sv_nuscenes_eval_close(e);
}

START_TEST(precision_is_what_the_rules_say)
{
    sv_ctx *c = test_context(1), *three = test_context(3);
    static oracle o;
    static sv_nuscenes_scores s, again;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        const int samples = 1 + (int)seed % 20;
        fill_oracle(&o, seed, samples);
        score_oracle(c, &o, samples, &s);
        score_oracle(three, &o, samples, &again);
        ck_assert_int_eq(memcmp(&s, &again, sizeof s), 0);
        for (int k = 0; k < 3; k++)
            for (int d = 0; d < SV_NUSCENES_DISTANCES; d++) {
                const double want = s.label_count[k] ? oracle_ap(&o, sv_nuscenes_distances[d], k) : 0;
                ck_assert_msg(fabs(s.curve[k][d].ap - want) < 1e-12,
                              "seed %d class %d at %g: %.15g instead of %.15g", (int)seed, k,
                              sv_nuscenes_distances[d], s.curve[k][d].ap, want);
            }
    }
    sv_ctx_close(c);
    sv_ctx_close(three);
}
END_TEST

START_TEST(odd_frames)
{
    sv_ctx *c = test_context(1);
    sv_nuscenes_eval *e;
    static sv_nuscenes_scores s;
    /* nothing at all */
    assert_ok(c, sv_nuscenes_eval_open(c, &e));
    assert_ok(c, sv_nuscenes_eval_finish(c, e, &s));
    ck_assert_double_eq(s.mean_ap, 0);
    ck_assert_double_eq(s.nds, 0);
    sv_nuscenes_eval_close(e);
    /* detections only; a size of 0 matters when it is compared */
    sv_nuscenes_annotation label = {
        .size = {1, 2, 1}, .rotation = {1, 0, 0, 0}, .lidar_points = 1, .attribute = -1};
    sv_nuscenes_box box = some_box(tok(SAMPLE, 0), SV_NUSCENES_CAR, 30, 0, 0.5);
    box.size[1] = 0;
    sv_nuscenes_frame f = {.labels = &label, .boxes = &box, .box_count = 1, .name = "x"};
    assert_ok(c, sv_nuscenes_eval_open(c, &e));
    assert_ok(c, sv_nuscenes_eval_add(c, e, &f));
    f.label_count = 1;
    assert_ok(c, sv_nuscenes_eval_add(c, e, &f));
    box.translation[0] = 0;
    assert_fails(c, sv_nuscenes_eval_add(c, e, &f), SV_BAD_INPUT, "has the size 1.9 x 0 x 1.6");
    label.attributes = 2;
    assert_fails(c, sv_nuscenes_eval_add(c, e, &f), SV_BAD_INPUT, "has 2 attributes");
    sv_nuscenes_eval_close(e);
    sv_ctx_close(c);
}
END_TEST

/* ---- the program -------------------------------------------------------------------------------------- */

START_TEST(evaluating_files)
{
    sv_ctx *c = test_context(1);
    make_dataset("program");
    assert_says(savanna("eval --root %s --self-check", root), 0, "every score is what the labels allow");
    ck_assert_ptr_null(strstr(output, "NOT REACHED"));
    /* one class of ten has objects that count; velocities are known of one car, attributes of two */
    ck_assert_msg(strstr(output, "mAP           0.100000   0.100000") != NULL, "%s", output);
    const char *path = write_submission(c, "results.json", 3);
    assert_says(savanna("eval --root %s --results %s -o %s/metrics.json --curves %s/curves.png", root, path,
                        root, root),
                0, "mAP");
    assert_says(savanna("eval --root %s --split mini_train --results %s", root, path), 3,
                "4 results belong to no sample of nuScenes v1.0-mini, split mini_train");
    spoil_file(path, "\": []", "\": [], \"ffffffffffffffffffffffffffffffff\": []");
    assert_says(savanna("eval --root %s --results %s", root, path), 3,
                "(first: ffffffffffffffffffffffffffffffff)");
    assert_says(savanna("eval --root %s --results %s --allow-missing", root, path), 0, "mAP");
    path = write_submission(c, "results.json", 3);
    char token[64];
    snprintf(token, sizeof token, "\"%s\": []", tok(SAMPLE, 2));
    spoil_file(path, token, "\"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\": []");
    spoil_file(path, "\"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\": [],", "");
    assert_says(savanna("eval --root %s --results %s", root, path), 3, "1 of 4 samples have no results");
    assert_says(savanna("eval --root %s --results %s --allow-missing", root, path), 0,
                "samples without detections");
    path = write_submission(c, "results.json", 3);
    spoil_file(path, "\"detection_score\": 0.5,", "\"detection_score\": NaN,");
    assert_says(savanna("eval --root %s --results %s", root, path), 3, "its detection_score is NaN");
    assert_says(savanna("eval --root %s --results %s/nothing.json", root, root), 3,
                "nothing.json: cannot be opened");
    assert_says(savanna("inspect %s", root), 0, "3 scenes, 5 samples, 9 annotations");
    sv_ctx_close(c);
}
END_TEST

static char *metrics(const char *name)
{
    size_t size;
    char *text = read_file(test_path(name), &size);
    ck_assert_ptr_nonnull(text);
    return text;
}

START_TEST(detecting_and_scoring_agree)
{
    make_dataset("agree");
    const char *folder = test_folder();
    assert_says(
        savanna("eval --root %s -c cluster --save-results %s/saved -o %s/direct.json", root, folder, folder),
        0, "mAP");
    assert_says(savanna("eval --root %s --results %s/saved -o %s/saved.json", root, folder, folder), 0,
                "mAP");
    assert_says(savanna("eval --root %s -c cluster --save-results %s/saved --resume -o %s/resumed.json", root,
                        folder, folder),
                0, "4 of 4 samples are done already");
    assert_says(savanna("detect --dataset nuscenes --root %s -c cluster --format nuscenes -o %s/sub.json",
                        root, folder),
                0, "");
    assert_says(
        savanna("eval --root %s --results %s/sub.json --threads 1 -o %s/file.json", root, folder, folder), 0,
        "mAP");
    char *direct = metrics("direct.json");
    const char *const others[] = {"saved.json", "resumed.json", "file.json"};
    for (int i = 0; i < 3; i++) {
        char *other = metrics(others[i]);
        ck_assert_str_eq(direct, other);
        free(other);
    }
    free(direct);
    assert_says(savanna("detect --dataset nuscenes --root %s -c cluster --format nuscenes", root), 2,
                "-o FILE.json");
    assert_says(
        savanna("detect --dataset nuscenes --root %s -c cluster --frame %s --format nuscenes -o %s/one.json",
                root, tok(SAMPLE, 1), folder),
        0, "holds 1 of the 4 samples of the split");
    assert_says(savanna("detect x.bin -c cluster --format nuscenes -o x.json"), 2, "needs the poses");
    assert_says(savanna("detect x.bin -c cluster --sweeps 3"), 2, "--sweeps belongs to a dataset");
}
END_TEST

/* ---- recorded data ------------------------------------------------------------------------------------ */

static yajl_val parse(const char *path)
{
    size_t size;
    char message[200], *text = read_file(path, &size);
    ck_assert_msg(text != NULL, "%s", path);
    yajl_val value = yajl_tree_parse(text, message, sizeof message);
    ck_assert_msg(value != NULL, "%s: %s", path, message);
    free(text);
    return value;
}

START_TEST(recorded_boxes_and_pictures)
{
    const char *reference = reference_folder();
    if (!reference) return;
    sv_ctx *c = test_context(1);
    char path[700];
    snprintf(root, sizeof root, "%s/data/nuscenes", reference);
    snprintf(path, sizeof path, "%s/expected_lidar_boxes.json", root);
    yajl_val file = parse(path), list = yajl_tree_get(file, (const char *[]){"boxes", NULL}, yajl_t_array);
    sv_dataset *d;
    sv_sample s = {0};
    assert_ok(c, open_split(c, "mini_train", &d));
    assert_ok(
        c, sv_dataset_read(c, d, 0, sv_image_has_jpeg() ? SV_READ_ALL : SV_READ_ALL & ~SV_READ_IMAGES, &s));
    ck_assert_int_eq(s.label_count, (int)YAJL_GET_ARRAY(list)->len);
    for (int i = 0; i < s.label_count; i++) {
        yajl_val want = YAJL_GET_ARRAY(list)->values[i];
        const sv_nuscenes_annotation *a = s.labels[i].record;
        char token[SV_NUSCENES_TOKEN_TEXT];
        sv_nuscenes_token_text(a->token, token);
        ck_assert_str_eq(token, YAJL_GET_STRING(yajl_tree_get(
                                    want, (const char *[]){"annotation_token", NULL}, yajl_t_string)));
        yajl_val numbers = yajl_tree_get(want, (const char *[]){"lidar_box_xyzlwh_yaw", NULL}, yajl_t_array);
        double box[7], velocity[3];
        sv_nuscenes_lidar_box(sv_nuscenes_tables_of(d), a, box, velocity);
        for (int k = 0; k < 7; k++)
            ck_assert_double_eq_tol(box[k], YAJL_GET_DOUBLE(YAJL_GET_ARRAY(numbers)->values[k]), 1e-11);
        ck_assert_int_eq(s.labels[i].points,
                         (int)YAJL_GET_INTEGER(
                             yajl_tree_get(want, (const char *[]){"num_lidar_pts", NULL}, yajl_t_number)));
    }
    ck_assert_int_eq(s.camera_count, 6);
    ck_assert_str_eq(s.cameras[0].name, "CAM_FRONT");
    /* what lies 20 m before the vehicle is in the middle of the front camera */
    const double *p = s.cameras[0].projection, w = p[9] * 20 + p[11];
    ck_assert_double_eq_tol((p[1] * 20 + p[3]) / w, 800, 60);
    ck_assert(w > 17 && w < 21);
    if (sv_image_has_jpeg()) ck_assert(s.cameras[5].image.width == 1600 && s.cameras[5].image.height == 900);
    yajl_tree_free(file);
    sv_sample_free(&s);
    sv_dataset_close(d);
    sv_ctx_close(c);
}
END_TEST

static void compare_sweeps(sv_ctx *c, const char *rule)
{
    sv_dataset_def def = sv_dataset_def_default("nuscenes", root);
    def.split = "all";
    def.sweep_rule = rule;
    def.sweeps = 10;
    sv_dataset *d;
    sv_sample s = {0};
    assert_ok(c, sv_dataset_open(c, &def, &d));
    ck_assert_int_eq(sv_dataset_count(d), 3);
    for (int i = 0; i < 3; i++) {
        char path[800];
        size_t size;
        snprintf(path, sizeof path, "%s/expected_%s_10sweeps_sample%d.bin", root,
                 strcmp(rule, "devkit") == 0 ? "devkit" : "training_style", i);
        float *want = read_file(path, &size);
        ck_assert_ptr_nonnull(want);
        assert_ok(c, sv_dataset_read(c, d, i, SV_READ_POINTS, &s));
        ck_assert_uint_eq(size, (size_t)s.frame->count * 20);
        assert_close(path, s.frame->points, want, (size_t)s.frame->count * 5, 1e-5, 1e-6);
        free(want);
    }
    sv_sample_free(&s);
    sv_dataset_close(d);
}

START_TEST(recorded_sweeps)
{
    const char *reference = reference_folder();
    if (!reference) return;
    sv_ctx *c = test_context(1);
    snprintf(root, sizeof root, "%s/data/nuscenes/synthetic_sweeps", reference);
    compare_sweeps(c, "devkit");
    compare_sweeps(c, "training");
    sv_ctx_close(c);
}
END_TEST

START_TEST(recorded_scores)
{
    const char *reference = reference_folder();
    if (!reference) return;
    assert_says(savanna("check %s/golden/eval/nuscenes --strict", reference), 0, " 0 failed, 0 not covered");
    assert_says(savanna("eval --root %s/golden/eval/nuscenes --self-check", reference), 0,
                "every score is what the labels allow");
    assert_says(savanna("eval --root %s/data/nuscenes --split mini_train --self-check", reference), 0,
                "vel_err");
}
END_TEST

/* ---- damaged pictures --------------------------------------------------------------------------------- */

START_TEST(damaged_pictures)
{
    const char *reference = reference_folder();
    if (!reference || !sv_image_has_jpeg()) return;
    sv_ctx *c = test_context(1);
    char path[700];
    size_t size;
    sv_image image;
    snprintf(
        path, sizeof path,
        "%s/data/nuscenes/samples/CAM_FRONT/n015-2018-07-24-11-22-45+0800__CAM_FRONT__1532402927612460.jpg",
        reference);
    unsigned char *bytes = read_file(path, &size);
    ck_assert_ptr_nonnull(bytes);
    assert_fails(c, sv_image_parse_jpeg(c, bytes, size / 2, "half", &image), SV_BAD_INPUT,
                 "half: the picture is damaged");
    assert_fails(c, sv_image_parse_jpeg(c, bytes, 20, "start", &image), SV_BAD_INPUT, "damaged");
    assert_fails(c, sv_image_parse_jpeg(c, "\x89PNG", 4, "png", &image), SV_BAD_INPUT, "is no JPEG");
    ck_assert_ptr_null(image.rgb);
    free(bytes);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nuscenes");
    TCase *made = tcase_create("made"), *recorded = tcase_create("recorded");
    tcase_add_test(made, samples_of_a_split);
    tcase_add_test(made, two_rules_of_sweeps);
    tcase_add_test(made, spoiled_tables);
    tcase_add_test(made, splits_are_the_official_ones);
    tcase_add_test(made, submissions_round_trip);
    tcase_add_test(made, spoiled_submissions);
    tcase_add_test(made, boxes_of_a_detector);
    tcase_add_test(made, precision_is_what_the_rules_say);
    tcase_add_test(made, odd_frames);
    tcase_add_test(made, evaluating_files);
    tcase_add_test(made, detecting_and_scoring_agree);
    tcase_add_test(recorded, recorded_boxes_and_pictures);
    tcase_add_test(recorded, recorded_sweeps);
    tcase_add_test(recorded, recorded_scores);
    tcase_add_test(recorded, damaged_pictures);
    TCase *const cases[] = {made, recorded};
    for (int i = 0; i < 2; i++) {
        tcase_set_timeout(cases[i], 300);
        suite_add_tcase(suite, cases[i]);
    }
    return run_suite(suite, true);
}
