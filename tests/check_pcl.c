/* SPDX-License-Identifier: Apache-2.0
 *
 * Beside the Point Cloud Library: its files and ours, its voxel grid and clusters and ours, and what only it can do here.
 */
#include "heads/cluster.h"
#include "perception/detector.h"
#include "perception/points.h"
#include "support.h"
#include "voxel/pcl.h"

#ifdef SAVANNA_PCL_IO
#include "pcl_io.h"
#endif

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef SAVANNA_PCL_IO

enum { POINTS = 2000 };

static void fill(test_rng *rng, float *xyzi, int count)
{
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < 3; k++) xyzi[4 * i + k] = (float)rng_uniform(rng, -80, 80);
        xyzi[4 * i + 3] = (float)rng_uniform(rng, 0, 1);
    }
}

/* ---- files -------------------------------------------------------------------------------------------- */

START_TEST(pcl_reads_what_we_write)
{
    static const struct {
        const char *name;
        sv_points_encoding encoding;
    } files[] = {{"a.pcd", SV_POINTS_BINARY},
                 {"b.pcd", SV_POINTS_ASCII},
                 {"c.pcd", SV_POINTS_COMPRESSED},
                 {"a.ply", SV_POINTS_BINARY},
                 {"b.ply", SV_POINTS_ASCII}};
    static float ours[4 * POINTS], theirs[4 * POINTS];
    test_rng rng = {1};
    sv_ctx *c = test_context(1);
    fill(&rng, ours, POINTS);
    const sv_points p = {.data = ours, .count = POINTS, .columns = 4, .layout = "xyzi"};
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        assert_ok(c, sv_points_write(c, test_path(files[f].name), &p, files[f].encoding));
        ck_assert_int_eq(pcl_io_load(test_path(files[f].name), theirs, POINTS), POINTS);
        ck_assert_msg(memcmp(ours, theirs, sizeof ours) == 0, "%s", files[f].name);
    }
    sv_ctx_close(c);
}
END_TEST

START_TEST(we_read_what_pcl_writes)
{
    static const char *const kinds[] = {"ascii.pcd", "binary.pcd", "compressed.pcd", "ascii.ply",
                                        "binary.ply"};
    static float theirs[4 * POINTS];
    test_rng rng = {2};
    sv_ctx *c = test_context(1);
    fill(&rng, theirs, POINTS);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const char *path = test_path(kinds[k]);
        sv_points p;
        ck_assert_int_eq(pcl_io_save(path, kinds[k], theirs, POINTS), 0);
        assert_ok(c, sv_points_read(c, path, NULL, &p));
        ck_assert_str_eq(p.layout, "xyzi");
        ck_assert_int_eq(p.count, POINTS);
        for (int i = 0; i < 4 * POINTS; i++) {
            /* its ascii PLY has eight digits */
            const double tolerance =
                strcmp(kinds[k], "ascii.ply") == 0 ? 1e-6 * fabs((double)theirs[i]) + 1e-7 : 0;
            ck_assert_msg(fabs((double)p.data[i] - (double)theirs[i]) <= tolerance, "%s: %.9g, not %.9g",
                          kinds[k], (double)p.data[i], (double)theirs[i]);
        }
        sv_points_free(&p);
    }
    sv_ctx_close(c);
}
END_TEST

/* ---- filters ------------------------------------------------------------------------------------------ */

static int by_place(const void *a, const void *b)
{
    const float *p = a, *q = b;
    for (int k = 0; k < 3; k++)
        if (p[k] != q[k]) return p[k] < q[k] ? -1 : 1;
    return 0;
}

START_TEST(voxel_grids_agree)
{
    enum { N = 3000 };
    static float points[4 * N], theirs[3 * N], ours[3 * N];
    sv_ctx *c = test_context(1);
    test_rng rng = {3};
    for (int i = 0; i < 4 * N; i++) points[i] = (float)rng_uniform(&rng, -3, 3);
    int count = 0;
    assert_ok(c, sv_pcl_voxel_grid(c, (sv_pcl_cloud){points, N, 4}, 0.5f, theirs, &count));
    /* ours: the groups of the voxelizer, on cells at the same places */
    const sv_grid grid = {{-4, -4, -4}, {4, 4, 4}, {0.5f, 0.5f, 0.5f}, {16, 16, 16}};
    int32_t offsets[2] = {0, N}, coords[4 * N], start[N + 1], rows[N], voxel[N], made[2], placed[2],
            needed = 0;
    sv_tensor in = sv_view(points, SV_F32, N, 4);
    in.offsets = offsets, in.batch = 1;
    sv_point_groups groups = {.coords = sv_view(coords, SV_I32, N, 4),
                              .start = sv_view(start, SV_I32, N + 1, 1),
                              .rows = sv_view(rows, SV_I32, N, 1),
                              .voxel = sv_view(voxel, SV_I32, N, 1),
                              .coords_offsets = made,
                              .rows_offsets = placed};
    groups.coords.offsets = made, groups.coords.batch = 1;
    groups.rows.offsets = placed, groups.rows.batch = 1;
    assert_ok(c, sv_voxelize(c, &groups, in, &grid, &needed));
    ck_assert_int_eq(count, needed);
    for (int v = 0; v < needed; v++)
        for (int k = 0; k < 3; k++) {
            double sum = 0;
            for (int j = start[v]; j < start[v + 1]; j++) sum += (double)points[4 * rows[j] + k];
            ours[3 * v + k] = (float)(sum / (start[v + 1] - start[v]));
        }
    qsort(ours, (size_t)count, 3 * sizeof(float), by_place);
    qsort(theirs, (size_t)count, 3 * sizeof(float), by_place);
    assert_close("means", ours, theirs, 3 * (size_t)count, 2e-6, 0);
    sv_ctx_close(c);
}
END_TEST

START_TEST(outliers_are_found)
{
    enum { N = 500 };
    float points[3 * N];
    uint8_t keep[N];
    sv_ctx *c = test_context(1);
    test_rng rng = {4};
    for (int i = 0; i < 3 * N; i++) points[i] = (float)rng_uniform(&rng, 0, 2);
    const int lonely[] = {7, 250, 499};
    for (int i = 0; i < 3; i++) points[3 * lonely[i]] = 50 + 20 * (float)i;
    for (int method = 0; method < 2; method++) {
        const sv_pcl_cloud cloud = {points, N, 3};
        if (method == 0)
            assert_ok(c, sv_pcl_statistical_outliers(c, cloud, 10, 3, keep));
        else
            assert_ok(c, sv_pcl_radius_outliers(c, cloud, 1.0, 2, keep));
        int kept = 0;
        for (int i = 0; i < N; i++) kept += keep[i];
        ck_assert_int_eq(kept, N - 3);
        for (int i = 0; i < 3; i++) ck_assert_int_eq(keep[lonely[i]], 0);
    }
    sv_ctx_close(c);
}
END_TEST

START_TEST(ground_plane)
{
    enum { N = 4000 };
    static float points[4 * N];
    static uint8_t inlier[N];
    float plane[4];
    sv_ctx *c = test_context(1);
    test_rng rng = {5};
    /* z = 0.05 x - 0.02 y - 1.7, and a quarter of the points above it */
    for (int i = 0; i < N; i++) {
        float *p = points + 4 * i;
        p[0] = (float)rng_uniform(&rng, -40, 40);
        p[1] = (float)rng_uniform(&rng, -40, 40);
        p[2] = 0.05f * p[0] - 0.02f * p[1] - 1.7f + (float)(0.02 * rng_normal(&rng));
        if (i % 4 == 0) p[2] += (float)rng_uniform(&rng, 0.5, 3);
    }
    assert_ok(c, sv_pcl_ground_plane(c, (sv_pcl_cloud){points, N, 4}, 0.15, 0.2, 200, plane, inlier));
    ck_assert_double_eq_tol((double)(-plane[0] / plane[2]), 0.05, 2e-3);
    ck_assert_double_eq_tol((double)(-plane[1] / plane[2]), -0.02, 2e-3);
    ck_assert_double_eq_tol((double)(-plane[3] / plane[2]), -1.7, 0.02);
    for (int i = 0; i < N; i++) ck_assert_int_eq(inlier[i], i % 4 != 0);
    assert_fails(c, sv_pcl_ground_plane(c, (sv_pcl_cloud){points, 2, 4}, 0.15, 0.2, 200, plane, inlier),
                 SV_BAD_INPUT, "2 points are too few");
    /* a wall is no ground */
    for (int i = 0; i < N; i++) points[4 * i] = 5;
    assert_fails(c, sv_pcl_ground_plane(c, (sv_pcl_cloud){points, N, 4}, 0.01, 0.01, 50, plane, NULL),
                 SV_BAD_INPUT, "no plane was found");
    points[5] = NAN;
    assert_fails(c, sv_pcl_ground_plane(c, (sv_pcl_cloud){points, N, 4}, 0.15, 0.2, 200, plane, NULL),
                 SV_BAD_INPUT, "point 1 is not finite");
    sv_ctx_close(c);
}
END_TEST

/* ---- clusters ----------------------------------------------------------------------------------------- */

/* Ground and blocks of 0.6 to 1.5 m on it, at least 2 m apart. 'block' [count]: which one, -1 for the ground. */
static int make_scene(test_rng *rng, float *xyzi, int *block)
{
    int n = 0;
    for (int y = -60; y < 60; y++)
        for (int x = -60; x < 60; x++) {
            float *p = xyzi + 4 * n;
            p[0] = 0.5f * (float)x + 0.25f, p[1] = 0.5f * (float)y + 0.25f;
            p[2] = -1.7f + (float)(0.01 * rng_normal(rng)), p[3] = 0;
            block[n++] = -1;
        }
    for (int b = 0; b < 25; b++) {
        const double cx = 10 * (b % 5) - 20 + rng_uniform(rng, -2, 2),
                     cy = 10 * (b / 5) - 20 + rng_uniform(rng, -2, 2), half = rng_uniform(rng, 0.3, 2),
                     high = rng_uniform(rng, 0.6, 1.5);
        for (int i = 0; i < 400; i++) { /* its sides */
            const double u = rng_uniform(rng, -half, half);
            const int side = (int)(rng_u64(rng) % 4);
            float *p = xyzi + 4 * n;
            p[0] = (float)(cx + (side == 0 ? -half : side == 1 ? half : u));
            p[1] = (float)(cy + (side == 2 ? -half : side == 3 ? half : u));
            p[2] = (float)(-1.7 + rng_uniform(rng, 0.3, high)), p[3] = 0;
            block[n++] = b;
        }
    }
    return n;
}

enum { SCENE = 120 * 120 + 25 * 400 };
static float scene_points[4 * SCENE];
static int scene_block[SCENE];

START_TEST(clusters_agree_with_our_segments)
{
    static float above[3 * SCENE];
    static int32_t label[SCENE], of_block[25];
    sv_ctx *c = test_context(1);
    test_rng rng = {6};
    const int n = make_scene(&rng, scene_points, scene_block);
    /* theirs */
    int high = 0, clusters = 0;
    static int block_above[SCENE];
    for (int i = 0; i < n; i++)
        if (scene_points[4 * i + 2] > -1.45f) {
            memcpy(above + 3 * high, scene_points + 4 * i, 3 * sizeof(float));
            block_above[high++] = scene_block[i];
        }
    assert_ok(c, sv_pcl_clusters(c, (sv_pcl_cloud){above, high, 3}, 0.6, 5, high, label, &clusters));
    ck_assert_int_eq(clusters, 25);
    for (int b = 0; b < 25; b++) of_block[b] = -1;
    for (int i = 0; i < high; i++) {
        if (of_block[block_above[i]] < 0) of_block[block_above[i]] = label[i];
        ck_assert_int_eq(label[i], of_block[block_above[i]]);
    }
    /* ours: the same partition */
    sv_cluster_rules r = {.range = {-40, -40, -5, 40, 40, 5},
                          .ground = {0.5f, 0.2f, 0.15f, 0.12f, 0.25f},
                          .segment = {0.2f, {0.4f, 0}, {0.4f, 0}, 2.4f, 1.75f, 0.75f, 7, 5}};
    sv_cluster_ground ground;
    sv_cluster_scene scene;
    assert_ok(c, sv_cluster_find_ground(c, &r, scene_points, n, 4, &ground));
    assert_ok(c, sv_cluster_find_obstacles(c, &r, scene_points, n, 4, &ground, &scene));
    assert_ok(c, sv_cluster_find_segments(c, &r, &scene));
    ck_assert_int_eq(scene.segment_count, 25);
    for (int b = 0; b < 25; b++) of_block[b] = -1;
    for (int i = 0; i < n; i++) {
        const float x = scene_points[4 * i], y = scene_points[4 * i + 1];
        const float height = scene_points[4 * i + 2] - sv_cluster_ground_at(&ground, x, y);
        if (scene_block[i] < 0) {
            ck_assert(fabsf(height) < 0.15f);
            continue;
        }
        if (height < 0.26f) continue;
        const int32_t row = scene.row[(int)((y + 40) * (1 / 0.2f)) * scene.nx + (int)((x + 40) * (1 / 0.2f))];
        ck_assert_int_ge(row, 0);
        if (of_block[scene_block[i]] < 0) of_block[scene_block[i]] = scene.cells[row].segment;
        ck_assert_int_ge(scene.cells[row].segment, 0);
        ck_assert_int_eq(scene.cells[row].segment, of_block[scene_block[i]]);
    }
    sv_ctx_close(c);
}
END_TEST

static int detect_with(const char *config, const sv_frame *frame, sv_box *boxes)
{
    sv_ctx *c = test_context(1);
    sv_model *model = NULL;
    sv_detector *d = NULL;
    const sv_model_def model_def = {.config = config};
    assert_ok(c, sv_model_open(c, &model_def, &model));
    const sv_detector_def def = sv_detector_def_default();
    ck_assert_int_eq(sv_detector_open(&def, model, &d), SV_OK);
    int count = 0;
    sv_frame *in = (sv_frame *)frame;
    ck_assert_msg(sv_detect(d, &in, 1, NULL, boxes, &count) == SV_OK, "%s", sv_detector_error(d));
    sv_detector_close(d);
    sv_model_release(model);
    sv_ctx_close(c);
    return count;
}

/* On a flat street of cars both detectors see the same; and neither minds the order of the points. */
START_TEST(both_detectors_agree)
{
    enum { CARS = 6, SIDE = 1500 };
    static sv_box ours[200], theirs[200], again[200];
    test_rng rng = {7};
    sv_frame *frame = sv_frame_new(&sv_device_cpu, 120 * 120 + CARS * SIDE, 4);
    int n = 0;
    for (int y = -60; y < 60; y++)
        for (int x = -60; x < 60; x++) {
            float *p = frame->points + 4 * n++;
            p[0] = 0.5f * (float)x + 0.25f, p[1] = 0.5f * (float)y + 0.25f, p[2] = -1.7f, p[3] = 0;
        }
    for (int b = 0; b < CARS; b++) {
        const double x = 8 + 5.5 * (b / 2), y = b % 2 ? -4 : 4;
        for (int i = 0; i < SIDE; i++) { /* the sides that face the sensor: rear and inner side */
            const bool rear = i % 3 == 0;
            const double along = rear ? -1.95 : rng_uniform(&rng, -1.95, 1.95),
                         across = rear ? rng_uniform(&rng, -0.8, 0.8) : (b % 2 ? 0.8 : -0.8);
            float *p = frame->points + 4 * n++;
            p[0] = (float)(x + along), p[1] = (float)(y + across),
            p[2] = (float)(-1.7 + rng_uniform(&rng, 0.3, 1.5));
            p[3] = 0;
        }
    }
    frame->count = n;
    const int a = detect_with("cluster", frame, ours), b = detect_with("cluster-pcl", frame, theirs);
    ck_assert_int_eq(a, CARS);
    ck_assert_int_eq(b, CARS);
    for (int i = 0; i < CARS; i++) {
        int best = 0;
        for (int k = 1; k < CARS; k++)
            if (hypotf(ours[i].x - theirs[k].x, ours[i].y - theirs[k].y) <
                hypotf(ours[i].x - theirs[best].x, ours[i].y - theirs[best].y))
                best = k;
        ck_assert(ours[i].label == 1 && theirs[best].label == 1);
        ck_assert(hypotf(ours[i].x - theirs[best].x, ours[i].y - theirs[best].y) < 0.15f);
        ck_assert(fabsf(ours[i].z - theirs[best].z) < 0.1f);
    }
    for (int i = n - 1; i > 0; i--) {
        const int j = (int)(rng_u64(&rng) % (uint64_t)(i + 1));
        float swap[4];
        memcpy(swap, frame->points + 4 * i, sizeof swap);
        memcpy(frame->points + 4 * i, frame->points + 4 * j, sizeof swap);
        memcpy(frame->points + 4 * j, swap, sizeof swap);
    }
    ck_assert_int_eq(detect_with("cluster-pcl", frame, again), CARS);
    ck_assert_mem_eq(again, theirs, sizeof(sv_box) * CARS);
    sv_frame_release(frame);
}
END_TEST

/* ---- registration ------------------------------------------------------------------------------------- */

START_TEST(a_known_motion_is_found)
{
    static float a[4 * SCENE], b[4 * SCENE];
    sv_ctx *c = test_context(1);
    test_rng rng = {8};
    const int n = make_scene(&rng, a, scene_block);
    const sv_pose truth = sv_pose_from_yaw(0.02, 0.4, -0.15, 0.02);
    for (int i = 0; i < n; i++) {
        const double in[3] = {(double)a[4 * i], (double)a[4 * i + 1], (double)a[4 * i + 2]};
        double out[3];
        sv_pose_apply(&truth, in, out);
        for (int k = 0; k < 3; k++) b[4 * i + k] = (float)out[k];
    }
    sv_pcl_registration how = {SV_PCL_ICP, 1.0, 100, sv_pose_identity()};
    for (int method = 0; method < 2; method++) {
        how.method = (sv_pcl_method)method;
        sv_pose found;
        double fitness = 0;
        bool converged = false;
        assert_ok(c, sv_pcl_register(c, (sv_pcl_cloud){a, n, 4}, (sv_pcl_cloud){b, n, 4}, &how, &found,
                                     &fitness, &converged));
        ck_assert(converged);
        ck_assert_double_eq_tol(sv_pose_yaw(&found), 0.02, 2e-3);
        for (int k = 0; k < 3; k++) ck_assert_double_eq_tol(found.t[k], truth.t[k], 0.03);
        ck_assert_double_lt(fitness, 1e-2);
    }
    sv_pose found;
    double fitness;
    bool converged;
    assert_fails(c,
                 sv_pcl_register(c, (sv_pcl_cloud){a, 5, 4}, (sv_pcl_cloud){b, n, 4}, &how, &found, &fitness,
                                 &converged),
                 SV_BAD_INPUT, "registration: 5 points are too few");
    sv_ctx_close(c);
}
END_TEST

START_TEST(what_pcl_would_not_survive)
{
    sv_ctx *c = test_context(1);
    float points[9] = {0, 0, 0, 1e6f, 1e6f, 1e6f, 1, 2, 3}, out[9];
    int count = 0;
    int32_t label[3];
    assert_fails(c, sv_pcl_voxel_grid(c, (sv_pcl_cloud){points, 3, 3}, 0.01f, out, &count), SV_BAD_INPUT,
                 "more than PCL can number");
    assert_fails(c, sv_pcl_voxel_grid(c, (sv_pcl_cloud){points, 3, 3}, 0, out, &count), SV_USAGE,
                 "cubes of 0 m");
    assert_ok(c, sv_pcl_voxel_grid(c, (sv_pcl_cloud){points, 0, 3}, 1, out, &count));
    ck_assert_int_eq(count, 0);
    assert_ok(c, sv_pcl_clusters(c, (sv_pcl_cloud){points, 0, 3}, 1, 1, 10, label, &count));
    ck_assert_int_eq(count, 0);
    points[4] = INFINITY;
    assert_fails(c, sv_pcl_clusters(c, (sv_pcl_cloud){points, 3, 3}, 1, 1, 10, label, &count), SV_BAD_INPUT,
                 "point 1 is not finite");
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pcl");
    TCase *tests = tcase_create("pcl");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, pcl_reads_what_we_write);
    tcase_add_test(tests, we_read_what_pcl_writes);
    tcase_add_test(tests, voxel_grids_agree);
    tcase_add_test(tests, outliers_are_found);
    tcase_add_test(tests, ground_plane);
    tcase_add_test(tests, clusters_agree_with_our_segments);
    tcase_add_test(tests, both_detectors_agree);
    tcase_add_test(tests, a_known_motion_is_found);
    tcase_add_test(tests, what_pcl_would_not_survive);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}

#else

/* Without PCL there is one thing to see: that it is said. */
int main(void)
{
    sv_ctx_def def = sv_ctx_def_default();
    sv_ctx *c = NULL;
    if (sv_ctx_open(&def, &c) != SV_OK) return 1;
    const sv_model_def model_def = {.config = "cluster-pcl"};
    sv_model *model = NULL;
    const sv_status status = sv_model_open(c, &model_def, &model);
    const bool told =
        status == SV_UNSUPPORTED && strstr(sv_error_message(c), "has no PCL: install libpcl-dev");
    if (status == SV_OK)
        printf("skipped: PCL is here, but not its library of readers (libpcl_io)\n");
    else if (told)
        printf("skipped: this build has no PCL (./run test --with-pcl installs it)\n");
    else
        printf("-c cluster-pcl without PCL says: '%s'\n", sv_error_message(c));
    sv_model_release(model);
    sv_ctx_close(c);
    return told || status == SV_OK ? 77 : 1;
}

#endif
