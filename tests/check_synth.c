/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulator: solids against a search along the ray, windows against all rays, labels against points and
 * pictures, drives against the clock, the same bytes for any number of threads.
 */
#include "support.h"

#include "datasets/dataset.h"
#include "datasets/kitti.h"
#include "datasets/synthetic/cast.h"
#include "datasets/synthetic/models.h"
#include "datasets/synthetic/synth.h"
#include "perception/core/simd.h"
#include "perception/geometry/box.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- solids ------------------------------------------------------------------------------------------- */

/* How far outside a solid a point is; negative inside. Not a distance, but of its sign. */
static double outside(const sv_sim_part *part, const double world[3])
{
    sv_pose inverse;
    sv_pose_invert(&part->pose, &inverse);
    double p[3], out = -1e9;
    sv_pose_apply(&inverse, world, p);
    const double a = (double)part->size[0], b = (double)part->size[1], h = (double)part->size[2];
    switch (part->shape) {
    case SV_SIM_CONVEX:
        for (int k = 0; k < SV_SIM_PLANES; k++)
            out = fmax(out, (double)part->plane[k][0] * p[0] + (double)part->plane[k][1] * p[1] +
                                (double)part->plane[k][2] * p[2] - (double)part->plane[k][3]);
        return out;
    case SV_SIM_ELLIPSOID:
        return p[0] * p[0] / (a * a) + p[1] * p[1] / (b * b) + p[2] * p[2] / (h * h) - 1;
    case SV_SIM_CAPSULE: {
        const double z = p[2] - fmax(-h, fmin(h, p[2]));
        return sqrt(p[0] * p[0] + p[1] * p[1] + z * z) - a;
    }
    default:
        return fmax(sqrt(p[0] * p[0] + p[1] * p[1]) - a, fabs(p[2]) - h);
    }
}

enum { ROWS = 40, COLUMNS = 60 };

static bool everything(const void *sensor, const double centre[3], double reach, sim_window *out)
{
    (void)sensor, (void)centre, (void)reach;
    *out = (sim_window){0, ROWS, 0, COLUMNS};
    return true;
}

/* One of each shape, turned anyhow, before a sensor that is turned anyhow: the first point of the ray that lies inside. */
START_TEST(solids_are_hit_where_a_search_finds_them)
{
    ck_assert_int_eq(setenv("SAVANNA_ISA", sv_isa_name((sv_isa)_i), 1), 0);
    sv_ctx *c = test_context(1);
    test_rng rng = {71};
    int all_hit = 0;
    for (int round = 0; round < 8; round++) {
        sv_sim_scene scene = {0};
        scene.ground = (sv_sim_profile){.start = -150, .step = 0.25, .curb = 1e6f, .pavement = 1e6f};
        for (int i = 0; i < SV_SIM_PROFILE; i++) scene.ground.at[i].height = -1000; /* out of the way */
        sv_pose turned = {.r = {0.36, 0.48, -0.8, -0.8, 0.6, 0, 0.48, 0.64, 0.6}, .t = {6, 0.4, 0.3}};
        const sv_pose yaw = sv_pose_from_yaw(rng_uniform(&rng, -3, 3), 0, 0, 0);
        turned = sv_pose_compose(&turned, &yaw);
        sim_object(&scene, SV_SIM_CAR, 1, &turned, 4, 1.7, 1.5);
        static void (*const makers[])(sv_sim_scene *, uint64_t) = {sim_car, sim_truck, sim_sitting,
                                                                   sim_house};
        makers[round % 4](&scene, rng_u64(&rng));
        ck_assert(!scene.failed && scene.part_count > 0);
        static float x[ROWS * COLUMNS], y[ROWS * COLUMNS], z[ROWS * COLUMNS];
        for (int i = 0; i < ROWS * COLUMNS; i++) {
            const double u = (i % COLUMNS - COLUMNS / 2) * 0.03, v = (i / COLUMNS - ROWS / 2) * 0.03,
                         n = sqrt(1 + u * u + v * v);
            x[i] = (float)(1 / n), y[i] = (float)(u / n), z[i] = (float)(v / n);
        }
        const sim_rays rays = {ROWS, COLUMNS, x, y, z, NULL, everything, 0.01f, 60};
        const sv_pose sensor = sv_pose_from_yaw(0.05, -0.5, 0.2, 0.1);
        sim_hits hits;
        assert_ok(c, sim_cast(c, &scene, &sensor, &rays, 3, &hits));
        int hit = 0, wrong = 0, unowned = 0;
        for (int i = 0; i < ROWS * COLUMNS; i += 7) {
            const double d[3] = {(double)x[i], (double)y[i], (double)z[i]};
            double way[3], found = 60;
            sv_pose_rotate(&sensor, d, way);
            for (double t = 0.01; t < 20 && found == 60; t += 0.01)
                for (int k = 0; k < scene.part_count && found == 60; k++) {
                    const double p[3] = {sensor.t[0] + t * way[0], sensor.t[1] + t * way[1],
                                         sensor.t[2] + t * way[2]};
                    if (outside(&scene.parts[k], p) <= 0) found = t;
                }
            hit += found < 60;
            /* a search by centimetres may step over an edge */
            wrong += fabs((double)hits.range[i] - found) > 0.03 && !(found == 60 && hits.range[i] < 60);
            unowned += (hits.part[i] == SIM_NOTHING) != (hits.range[i] >= 60);
        }
        ck_assert_int_gt(hit, 0);
        ck_assert_int_eq(unowned, 0);
        all_hit += hit;
        ck_assert_msg(wrong == 0, "round %d: %d of %d rays end elsewhere", round, wrong, hit);
        sim_hits_free(&hits);
        sv_sim_scene_free(&scene);
    }
    ck_assert_int_gt(all_hit, 200);
    sv_ctx_close(c);
}
END_TEST

/* ---- sensors ------------------------------------------------------------------------------------------ */

/* A sensor's own windows lose no ray: the same scene cast with windows that hold everything. */
START_TEST(windows_lose_nothing)
{
    sv_ctx *c = test_context(1);
    const sv_sim_world world = sv_sim_world_make(5);
    sv_sim_scene scene = {0};
    assert_ok(c, sv_sim_scene_at(c, &world, 1.5, &scene));
    const sv_pose up = sv_pose_from_yaw(0, 0, 0, 1.73), pose = sv_pose_compose(&scene.ego, &up);
    sv_sim_scan scan = {0}, whole = {0};
    sv_sim_lidar_def few = *sv_sim_lidar_find("hdl32");
    few.columns = 180;
    few.noise = 0;
    assert_ok(c, sv_sim_lidar(c, &scene, &few, &pose, 9, &scan));
    for (int i = 0; i < scene.part_count; i++) scene.parts[i].reach = 1e4f; /* balls about everything */
    assert_ok(c, sv_sim_lidar(c, &scene, &few, &pose, 9, &whole));
    ck_assert_int_gt(scan.count, 2000);
    ck_assert_int_eq(scan.count, whole.count);
    ck_assert_mem_eq(scan.returns, whole.returns, sizeof *scan.returns * (size_t)scan.count);
    sv_sim_scan_free(&scan);
    sv_sim_scan_free(&whole);
    sv_sim_scene_free(&scene);
    sv_ctx_close(c);
}
END_TEST

START_TEST(rings_are_ordered_and_ranges_lie_on_surfaces)
{
    sv_ctx *c = test_context(1);
    const sv_sim_world world = sv_sim_world_make(6);
    sv_sim_scene scene = {0};
    assert_ok(c, sv_sim_scene_at(c, &world, 0, &scene));
    const sv_pose up = sv_pose_from_yaw(0, 0, 0, 1.73), pose = sv_pose_compose(&scene.ego, &up);
    sv_sim_scan scan = {0};
    const sv_sim_lidar_def *sensor = sv_sim_lidar_find("hdl64");
    assert_ok(c, sv_sim_lidar(c, &scene, sensor, &pose, 1, &scan));
    ck_assert_int_gt(scan.count, 60000);
    int ground = 0, near_ground = 0, off_beam = 0, dark = 0, unordered = 0;
    for (int i = 0; i < scan.count; i++) {
        const sv_sim_return *r = &scan.returns[i];
        const double flat = hypot((double)r->x, (double)r->y);
        off_beam += !(fabs(atan2((double)r->z, flat) - (double)sensor->elevation[r->beam]) < 1e-4);
        dark += !(r->intensity >= 0 && r->intensity < 1);
        unordered += i > 0 && !(r->beam > r[-1].beam || (r->beam == r[-1].beam && r->column > r[-1].column));
        if (r->object >= 0) continue;
        const double local[3] = {(double)r->x, (double)r->y, (double)r->z};
        double p[3];
        sv_pose_apply(&pose, local, p);
        ground++;
        near_ground += fabs(p[2] - sv_sim_ground(&scene.ground, p[0], p[1])) < 0.08;
    }
    ck_assert_int_eq(off_beam, 0);
    ck_assert_int_eq(dark, 0);
    ck_assert_int_eq(unordered, 0);
    ck_assert_int_gt(ground, 10000);
    ck_assert_msg(near_ground > 0.98 * ground, "%d of %d returns of the ground lie on it", near_ground,
                  ground);
    sv_sim_scan_free(&scan);
    sv_sim_scene_free(&scene);
    sv_ctx_close(c);
}
END_TEST

/* ---- time --------------------------------------------------------------------------------------------- */

START_TEST(things_move_as_their_velocity_says)
{
    sv_ctx *c = test_context(1);
    const sv_sim_world world = sv_sim_world_make(7);
    sv_sim_scene before = {0}, after = {0};
    const double dt = 0.1;
    assert_ok(c, sv_sim_scene_at(c, &world, 3, &before));
    assert_ok(c, sv_sim_scene_at(c, &world, 3 + dt, &after));
    int moving = 0, still = 0;
    for (int i = 0; i < before.object_count; i++)
        for (int k = 0; k < after.object_count; k++) {
            const sv_sim_object *a = &before.objects[i], *b = &after.objects[k];
            if (a->id != b->id) continue;
            ck_assert_int_eq(a->kind, b->kind);
            const double speed = hypot(a->velocity[0], a->velocity[1]);
            for (int n = 0; n < 2; n++)
                ck_assert_msg(fabs(b->pose.t[n] - a->pose.t[n] - dt * a->velocity[n]) < 0.02,
                              "object %d of kind %d", i, (int)a->kind);
            moving += speed > 0.5;
            still += speed == 0;
        }
    ck_assert_int_gt(moving, 5);
    ck_assert_int_gt(still, 50);
    for (int n = 0; n < 2; n++)
        ck_assert_double_eq_tol(after.ego.t[n] - before.ego.t[n], dt * before.velocity[n], 0.01);
    sv_sim_scene_free(&before);
    sv_sim_scene_free(&after);
    sv_ctx_close(c);
}
END_TEST

/* ---- drives ------------------------------------------------------------------------------------------- */

static sv_synth_def drive(const char *folder)
{
    return (sv_synth_def){
        .format = "kitti", .folder = folder, .frames = 3, .drives = 1, .seed = 11, .images = true};
}

static const char *const folders[] = {"velodyne", "image_2", "calib", "label_2"};
static const char *const extensions[] = {"bin", "png", "txt", "txt"};

static void assert_same(const char *a, const char *b, int frames)
{
    for (int f = 0; f < frames; f++)
        for (int k = 0; k < 4; k++) {
            char path[2][600];
            size_t size[2];
            snprintf(path[0], sizeof path[0], "%s/training/%s/%06d.%s", a, folders[k], f, extensions[k]);
            snprintf(path[1], sizeof path[1], "%s/training/%s/%06d.%s", b, folders[k], f, extensions[k]);
            void *one = read_file(path[0], &size[0]), *two = read_file(path[1], &size[1]);
            ck_assert_msg(one && two && size[0] == size[1] && memcmp(one, two, size[0]) == 0,
                          "%s and %s differ", path[0], path[1]);
            free(one), free(two);
        }
}

START_TEST(any_number_of_threads_writes_the_same_bytes)
{
    char one[300], three[300];
    snprintf(one, sizeof one, "%s", test_path("one"));
    snprintf(three, sizeof three, "%s", test_path("three"));
    sv_synth_summary summary;
    sv_ctx *c = test_context(1), *d = test_context(3);
    sv_synth_def def = drive(one);
    assert_ok(c, sv_synth_run(c, &def, &summary));
    ck_assert_int_eq(summary.written, 3);
    ck_assert_int_gt(summary.labels, 5);
    def.folder = three;
    assert_ok(d, sv_synth_run(d, &def, &summary));
    assert_same(one, three, 3);

    /* an interrupted run goes on, and ends with the same bytes */
    char path[600];
    snprintf(path, sizeof path, "%s/training/label_2/000001.txt", three);
    ck_assert_int_eq(unlink(path), 0);
    snprintf(path, sizeof path, "%s/training/image_2/000001.png", three);
    ck_assert_int_eq(unlink(path), 0);
    assert_ok(d, sv_synth_run(d, &def, &summary));
    ck_assert_int_eq(summary.written, 1);
    ck_assert_int_eq(summary.kept, 2);
    assert_same(one, three, 3);

    /* and no other one is written over it */
    def.seed = 12;
    assert_fails(d, sv_synth_run(d, &def, &summary), SV_USAGE, "--seed 11");
    def = drive(test_folder());
    assert_fails(d, sv_synth_run(d, &def, &summary), SV_USAGE, "not empty");
    def = drive(test_path("bad"));
    def.lidar = "hdl65";
    assert_fails(d, sv_synth_run(d, &def, &summary), SV_USAGE, "'hdl65'");
    sv_ctx_close(c);
    sv_ctx_close(d);
}
END_TEST

/* Read back through the dataset: what is labelled is there. */
START_TEST(labels_fit_points_and_pictures)
{
    sv_ctx *c = test_context(2);
    char folder[300];
    snprintf(folder, sizeof folder, "%s", test_path("labels"));
    sv_synth_def def = drive(folder);
    sv_synth_summary summary;
    assert_ok(c, sv_synth_run(c, &def, &summary));
    sv_dataset_def open = sv_dataset_def_default("kitti", folder);
    open.split = "trainval";
    open.fov = "all";
    sv_dataset *dataset = NULL;
    assert_ok(c, sv_dataset_open(c, &open, &dataset));
    ck_assert_int_eq(sv_dataset_count(dataset), 3);
    sv_sample sample = {0};
    int visible = 0, filled = 0;
    for (int i = 0; i < 3; i++) {
        assert_ok(c, sv_dataset_read(c, dataset, i, SV_READ_ALL, &sample));
        ck_assert_int_eq(sample.cameras[0].width, 1242);
        for (int k = 0; k < sample.label_count; k++) {
            const sv_kitti_object *o = sample.labels[k].record;
            if (!sample.labels[k].has_box) continue;
            ck_assert(o->x1 < o->x2 && o->y1 < o->y2 && o->x1 >= 0 && o->x2 <= 1241 && o->y2 <= 374);
            ck_assert(o->truncated >= 0 && o->truncated <= 1 && o->occluded >= 0 && o->occluded <= 3 &&
                      o->h > 0.8 && o->z > 0);
            if (o->occluded > 0 || o->truncated > 0.3 || o->z > 40) continue;
            visible++;
            sv_box box = sample.labels[k].box;
            box.dx += 0.2f, box.dy += 0.2f, box.dz += 0.2f; /* noise of ranges */
            filled +=
                sv_points_in_box(sample.frame->points, sample.frame->count, sample.frame->columns, &box) >= 5;
        }
    }
    ck_assert_int_gt(visible, 3);
    ck_assert_msg(filled >= visible - 1, "%d of %d visible objects have points", filled, visible);
    sv_sample_free(&sample);
    sv_dataset_close(dataset);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("synth");
    TCase *cases = tcase_create("simulator");
    tcase_set_timeout(cases, 300);
    tcase_add_loop_test(cases, solids_are_hit_where_a_search_finds_them, 0, SV_ISA_AVX512 + 1);
    tcase_add_test(cases, windows_lose_nothing);
    tcase_add_test(cases, rings_are_ordered_and_ranges_lie_on_surfaces);
    tcase_add_test(cases, things_move_as_their_velocity_says);
    tcase_add_test(cases, any_number_of_threads_writes_the_same_bytes);
    tcase_add_test(cases, labels_fit_points_and_pictures);
    suite_add_tcase(suite, cases);
    return run_suite(suite, true);
}
