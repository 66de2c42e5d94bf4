/* SPDX-License-Identifier: Apache-2.0
 *
 * The classical detector, stage by stage against what was built, and as a model like others.
 */
#include "heads/cluster.h"
#include "perception/detector.h"
#include "perception/geometry/rotated_iou.h"
#include "perception/points.h"
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const sv_cluster_rules rules = {.range = {-40, -40, -8, 40, 40, 8},
                                       .ground = {0.5f, 0.2f, 0.15f, 0.12f, 0.25f},
                                       .segment = {.cell = 0.2f,
                                                   .gap = {0.2f, 0.004f},
                                                   .depth = {0.3f, 0.015f},
                                                   .top = 2.4f,
                                                   .hanging = 1.75f,
                                                   .overhang = 0.75f,
                                                   .largest = 7,
                                                   .least_points = 4}};

/* ---- a scene and its scan ----------------------------------------------------------------------------- */

typedef struct solid {
    double x, y, z, dx, dy, dz, heading; /* z of the bottom */
} solid;

typedef struct world {
    double rise_x, rise_y; /* slope of the ground */
    double curb;           /* height of what lies beyond |y| > 6 */
    const solid *solids;
    int count;
} world;

static double ground_height(const world *w, double x, double y)
{
    return -1.73 + w->rise_x * x + w->rise_y * y + (fabs(y) > 6 ? w->curb : 0);
}

/* Distance along the ray from the origin, or 1e9. */
static double hit_solid(const solid *b, const double d[3])
{
    const double c = cos(b->heading), s = sin(b->heading);
    const double from[3] = {-(b->x * c + b->y * s), b->x * s - b->y * c, -(b->z + b->dz / 2)};
    const double along[3] = {d[0] * c + d[1] * s, -d[0] * s + d[1] * c, d[2]},
                 half[3] = {b->dx / 2, b->dy / 2, b->dz / 2};
    double near = 0, far = 1e9;
    for (int i = 0; i < 3; i++) {
        const double inverse = 1 / (fabs(along[i]) > 1e-12 ? along[i] : 1e-12);
        const double t0 = (-half[i] - from[i]) * inverse, t1 = (half[i] - from[i]) * inverse;
        near = fmax(near, fmin(t0, t1));
        far = fmin(far, fmax(t0, t1));
    }
    return near <= far && near > 0 ? near : 1e9;
}

/* The street, the raised sides where they are, and the faces of the curbs. */
static double hit_ground(const world *w, const double d[3])
{
    double nearest = 1e9;
    const double fall = w->rise_x * d[0] + w->rise_y * d[1] - d[2]; /* of the plane over the ray, per metre */
    for (int side = 0; side < 2; side++) {
        const double t = fall > 1e-9 ? (1.73 - (side ? w->curb : 0)) / fall : 1e9;
        if ((fabs(d[1] * t) > 6) == side) nearest = fmin(nearest, t);
    }
    const double t = fabs(d[1]) > 1e-9 ? 6 / fabs(d[1]) : 1e9,
                 over = d[2] * t + 1.73 - (w->rise_x * d[0] + w->rise_y * d[1]) * t;
    return over > 0 && over < w->curb ? fmin(nearest, t) : nearest;
}

/* 64 beams from +2 to -24.8 degrees, a fifth of a degree apart in azimuth. */
static int scan(const world *w, test_rng *rng, float *xyzi, int room)
{
    int n = 0;
    for (int beam = 0; beam < 64; beam++)
        for (int turn = 0; turn < 1800; turn++) {
            const double e = (2 - beam * 26.8 / 63) * 0.017453292519943, a = turn * 0.2 * 0.017453292519943;
            const double d[3] = {cos(e) * cos(a), cos(e) * sin(a), sin(e)};
            double t = hit_ground(w, d);
            for (int i = 0; i < w->count; i++) t = fmin(t, hit_solid(&w->solids[i], d));
            if (t > 70 || n == room) continue;
            t += 0.01 * rng_normal(rng);
            for (int k = 0; k < 3; k++) xyzi[4 * n + k] = (float)(d[k] * t);
            xyzi[4 * n++ + 3] = 0.5f;
        }
    return n;
}

enum { ROOM = 64 * 1800 };
static float cloud[4 * ROOM];

/* ---- ground ------------------------------------------------------------------------------------------- */

START_TEST(ground_follows_slopes_and_curbs)
{
    static const solid cars[] = {{12, 3, 0, 4, 1.7, 1.5, 0},
                                 {20, -3, 0, 4, 1.7, 1.5, 0.3},
                                 {-9, 2, 0, 4, 1.7, 1.5, 1.2},
                                 {25, 12, 0, 20, 0.4, 4, 0.1}};
    static const double slopes[][3] = {{0, 0, 0}, {0.1, 0, 0.15}, {-0.12, 0.03, 0.12}, {0.02, -0.08, 0}};
    solid placed[4];
    sv_ctx *c = test_context(1);
    test_rng rng = {1};
    const double *slope = slopes[_i];
    world w = {slope[0], slope[1], slope[2], placed, 4};
    for (int i = 0; i < 4; i++) {
        placed[i] = cars[i];
        placed[i].z = ground_height(&w, cars[i].x, cars[i].y);
    }
    int n = scan(&w, &rng, cloud, ROOM - 10);
    for (int i = 0; i < 10; i++) { /* reflections from below */
        const float *p = cloud + 4 * (rng_u64(&rng) % (uint64_t)(n - 10));
        memcpy(cloud + 4 * n, p, 4 * sizeof *p);
        cloud[4 * n++ + 2] -= 1.5f;
    }
    sv_cluster_ground g;
    assert_ok(c, sv_cluster_find_ground(c, &rules, cloud, n, 4, &g));
    /* the ground where it was seen: points that lie on it */
    int looked = 0, poor = 0;
    for (int i = 0; i < n - 10; i++) {
        const double x = (double)cloud[4 * i], y = (double)cloud[4 * i + 1], z = (double)cloud[4 * i + 2];
        const double truth = ground_height(&w, x, y);
        if (fabs(x) > 35 || fabs(y) > 35 || fabs(z - truth) > 0.04) continue;
        const double error = (double)sv_cluster_ground_at(&g, cloud[4 * i], cloud[4 * i + 1]) - truth;
        looked++;
        poor += fabs(error) > 0.1;
        ck_assert_msg(error < 0.25 && error > -0.35, "%.2f m off at %.1f %.1f", error, x, y);
    }
    ck_assert_int_gt(looked, 20000);
    ck_assert_msg(poor < looked / 25, "%d of %d points are more than 0.1 m off", poor, looked);
    /* and beneath the cars, where it was not */
    for (int i = 0; i < 3; i++)
        ck_assert_double_eq_tol((double)sv_cluster_ground_at(&g, (float)placed[i].x, (float)placed[i].y),
                                placed[i].z, 0.2);
    sv_ctx_close(c);
}
END_TEST

START_TEST(ground_of_next_to_nothing)
{
    sv_ctx *c = test_context(1);
    sv_cluster_ground g;
    assert_ok(c, sv_cluster_find_ground(c, &rules, NULL, 0, 4, &g));
    ck_assert(sv_cluster_ground_at(&g, 1, 2) == 0);
    float points[] = {5, 5, -2, 0, NAN, NAN, NAN, NAN, 1e30f, 0, 0, 0, 5, INFINITY, 0, 0};
    assert_ok(c, sv_cluster_find_ground(c, &rules, points, 4, 4, &g));
    ck_assert_double_eq_tol((double)sv_cluster_ground_at(&g, 5, 5), -2, 1e-6);
    ck_assert(isfinite(sv_cluster_ground_at(&g, -1e9f, 1e9f)));
    sv_ctx_close(c);
}
END_TEST

/* ---- obstacles ---------------------------------------------------------------------------------------- */

static sv_cluster_ground flat(sv_ctx *c, float height)
{
    sv_cluster_ground g = {.nx = 160, .ny = 160, .x0 = -40, .y0 = -40, .cell = 0.5f, .inverse = 2};
    void *memory = NULL;
    assert_ok(c, sv_arena_alloc(c, &c->scratch, "test ground", 160 * 160 * sizeof(float), &memory));
    g.height = memory;
    for (int i = 0; i < 160 * 160; i++) g.height[i] = height;
    return g;
}

/* Columns and cells against a plain count in double precision. */
START_TEST(columns_hold_what_lies_above_them)
{
    enum { N = 20000, PLACES = 400 * 400 };
    sv_ctx *c = test_context(1);
    test_rng rng = {2};
    for (int i = 0; i < N; i++) { /* kept off the borders between columns, where rounding decides */
        cloud[4 * i] = -5 + 0.05f * (float)(rng_u64(&rng) % 200) + (float)rng_uniform(&rng, 0.01, 0.04);
        cloud[4 * i + 1] = 3 + 0.05f * (float)(rng_u64(&rng) % 200) + (float)rng_uniform(&rng, 0.01, 0.04);
        cloud[4 * i + 2] = -1.7f + (float)rng_uniform(&rng, 0, 1.6);
    }
    const sv_cluster_ground g = flat(c, -1.7f);
    sv_cluster_scene s;
    assert_ok(c, sv_cluster_find_obstacles(c, &rules, cloud, N, 4, &g, &s));
    int points = 0;
    for (int k = 0; k < s.column_count; k++) {
        const sv_cluster_column *column = &s.columns[k];
        double x = 0, y = 0, low = 1e9, high = -1e9;
        int n = 0;
        const double cx = floor(((double)column->x + 40) / 0.05), cy = floor(((double)column->y + 40) / 0.05);
        for (int i = 0; i < N; i++) {
            const double h = (double)cloud[4 * i + 2] + 1.7;
            if (floor(((double)cloud[4 * i] + 40) / 0.05) != cx ||
                floor(((double)cloud[4 * i + 1] + 40) / 0.05) != cy)
                continue;
            if (h < 0.25) continue;
            x += (double)cloud[4 * i], y += (double)cloud[4 * i + 1], n++;
            low = fmin(low, h), high = fmax(high, h);
        }
        points += n;
        ck_assert_int_eq(column->points, n);
        ck_assert_double_eq_tol((double)column->x, x / n, 1e-3);
        ck_assert_double_eq_tol((double)column->y, y / n, 1e-3);
        ck_assert_double_eq_tol((double)column->low, low, 1e-3);
        ck_assert_double_eq_tol((double)column->high, high, 1e-3);
        const sv_cluster_cell *cell = &s.cells[column->cell];
        ck_assert(cell->columns[0] <= k && k < cell->columns[1]);
        ck_assert_int_eq(s.row[cell->place], column->cell);
        ck_assert_int_eq(s.kind[cell->place], SV_CLUSTER_OBSTACLE);
        if (k % 20) k += 3; /* a sample of them is enough */
    }
    ck_assert_int_gt(points, 3000);
    int all = 0;
    for (int i = 0; i < s.cell_count; i++) {
        all += s.cells[i].points;
        if (i) ck_assert_int_lt(s.cells[i - 1].place, s.cells[i].place);
    }
    int above = 0;
    for (int i = 0; i < N; i++) above += (double)cloud[4 * i + 2] + 1.7 >= 0.25;
    ck_assert_int_le(abs(all - above), 2); /* rounding at the clearance */
    sv_ctx_close(c);
}
END_TEST

START_TEST(walls_crowns_and_roofs)
{
    sv_ctx *c = test_context(1);
    int n = 0;
    const struct {
        float x, from, to;
    } stacks[] = {{0.1f, 0.3f, 3.5f} /* wall */,
                  {2.1f, 0.3f, 1.4f} /* car ... */,
                  {2.1f, 2.6f, 3.5f} /* ... under a crown */,
                  {4.1f, 2.2f, 3.0f} /* crown alone */,
                  {6.1f, 1.4f, 1.5f} /* a roof without sides */};
    for (int k = 0; k < 5; k++)
        for (float h = stacks[k].from; h <= stacks[k].to; h += 0.1f) {
            cloud[4 * n] = stacks[k].x, cloud[4 * n + 1] = 0.1f, cloud[4 * n + 2] = h;
            n++;
        }
    const sv_cluster_ground g = flat(c, 0);
    sv_cluster_scene s;
    assert_ok(c, sv_cluster_find_obstacles(c, &rules, cloud, n, 4, &g, &s));
    const int y = 200 * s.nx;
    ck_assert_int_eq(s.kind[y + 200], SV_CLUSTER_TALL);
    ck_assert_int_eq(s.kind[y + 210], SV_CLUSTER_OBSTACLE);
    ck_assert(s.cells[s.row[y + 210]].high < 1.5f);
    ck_assert_int_eq(s.kind[y + 220], SV_CLUSTER_EMPTY);
    ck_assert_int_eq(s.kind[y + 230], SV_CLUSTER_OBSTACLE);
    ck_assert_int_eq(s.cell_count, 3);
    sv_ctx_close(c);
}
END_TEST

/* ---- segments ----------------------------------------------------------------------------------------- */

static int find(int *parent, int i)
{
    while (parent[i] != i) i = parent[i];
    return i;
}

/* The same partition as comparing every cell with every other one. */
START_TEST(segments_are_the_connected_components)
{
    sv_ctx *c = test_context(1);
    test_rng rng = {(uint64_t)_i + 3};
    int n = 0;
    for (int b = 0; b < 60; b++) {
        const double x = rng_uniform(&rng, -30, 30), y = rng_uniform(&rng, -30, 30),
                     size = rng_uniform(&rng, 0.2, 1.2);
        for (int i = 0; i < 60; i++, n++) {
            cloud[4 * n] = (float)(x + size * rng_uniform(&rng, -1, 1));
            cloud[4 * n + 1] = (float)(y + size * rng_uniform(&rng, -1, 1));
            cloud[4 * n + 2] = (float)rng_uniform(&rng, 0.3, 1.4);
        }
    }
    const sv_cluster_ground g = flat(c, 0);
    sv_cluster_scene s;
    sv_cluster_rules all = rules;
    all.segment.largest = 45; /* nothing is taken apart here */
    all.segment.least_points = 1;
    assert_ok(c, sv_cluster_find_obstacles(c, &all, cloud, n, 4, &g, &s));
    assert_ok(c, sv_cluster_find_segments(c, &all, &s));
    /* twice, with a little less and a little more reach: where these differ, rounding may decide */
    int *parent[2];
    for (int k = 0; k < 2; k++) {
        parent[k] = malloc(sizeof(int) * (size_t)s.cell_count);
        for (int i = 0; i < s.cell_count; i++) parent[k][i] = i;
    }
    for (int i = 0; i < s.cell_count; i++)
        for (int j = i + 1; j < s.cell_count; j++) {
            const int xi = s.cells[i].place % s.nx, yi = s.cells[i].place / s.nx,
                      xj = s.cells[j].place % s.nx, yj = s.cells[j].place / s.nx;
            const double x = -40 + (xi + 0.5) * 0.2, y = -40 + (yi + 0.5) * 0.2, range = hypot(x, y);
            const double across = (0.2 + 0.004 * range) / 0.2 + 1, along = (0.3 + 0.015 * range) / 0.2 + 1;
            const double dx = xj - xi, dy = yj - yi;
            const double u = (dx * x + dy * y) / range / along, v = (dy * x - dx * y) / range / across;
            for (int k = 0; k < 2; k++)
                if (u * u + v * v < (k ? 1 + 1e-5 : 1 - 1e-5))
                    parent[k][find(parent[k], j)] = find(parent[k], i);
        }
    for (int i = 0; i < s.cell_count; i++)
        for (int j = 0; j < i; j++) {
            const bool same = s.cells[i].segment == s.cells[j].segment;
            ck_assert_msg(same ? find(parent[1], i) == find(parent[1], j)
                               : find(parent[0], i) != find(parent[0], j),
                          "cells %d and %d", i, j);
        }
    /* listed by segment, numbered by their first cell */
    int next = 0;
    for (int k = 0; k < s.segment_count; k++)
        for (int m = s.segments[k]; m < s.segments[k + 1]; m++)
            ck_assert_int_eq(s.cells[s.members[m]].segment, k);
    for (int i = 0; i < s.cell_count; i++) {
        ck_assert_int_le(s.cells[i].segment, next);
        if (s.cells[i].segment == next) next++;
    }
    ck_assert_int_eq(next, s.segment_count);
    free(parent[0]);
    free(parent[1]);
    sv_ctx_close(c);
}
END_TEST

START_TEST(long_segments_are_taken_apart_once)
{
    sv_ctx *c = test_context(1);
    int n = 0;
    /* two cars bumper to bumper, 0.4 m between them; and a wall of 20 m */
    for (int k = 0; k < 3; k++)
        for (float x = 0; x < (k == 2 ? 20.0f : 4.0f); x += 0.05f)
            for (float h = 0.3f; h < 1.4f; h += 0.2f, n++) {
                cloud[4 * n] = (k == 1 ? 14.41f : k == 0 ? 10.01f : 5.01f) + x;
                cloud[4 * n + 1] = k == 2 ? -10.1f : 5.1f;
                cloud[4 * n + 2] = h;
            }
    const sv_cluster_ground g = flat(c, 0);
    sv_cluster_scene s;
    assert_ok(c, sv_cluster_find_obstacles(c, &rules, cloud, n, 4, &g, &s));
    assert_ok(c, sv_cluster_find_segments(c, &rules, &s));
    ck_assert_int_eq(s.segment_count, 2);
    for (int k = 0; k < 2; k++) {
        const sv_cluster_cell *cell = &s.cells[s.members[s.segments[k]]];
        ck_assert_int_eq(cell->place / s.nx, (int)((5.1 + 40) / 0.2));
    }
    sv_ctx_close(c);
}
END_TEST

/* ---- the detector ------------------------------------------------------------------------------------- */

enum { MOST = 200 };
typedef struct result {
    int count;
    sv_box boxes[MOST];
} result;

static sv_model *open_model(sv_ctx *c, const char *const *sets, int set_count)
{
    sv_model *model = NULL;
    const sv_model_def def = {.config = "cluster", .sets = sets, .set_count = set_count};
    assert_ok(c, sv_model_open(c, &def, &model));
    ck_assert_int_eq(sv_model_max_boxes(model), MOST);
    return model;
}

static sv_detector *open_detector(sv_model *model, int threads)
{
    sv_detector_def def = sv_detector_def_default();
    def.ctx.threads = threads;
    sv_detector *d = NULL;
    ck_assert_msg(sv_detector_open(&def, model, &d) == SV_OK, "%s", sv_detector_error(d));
    return d;
}

static sv_frame *make_frame(const float *points, int count, int columns)
{
    sv_frame *frame = sv_frame_new(&sv_device_cpu, count, columns);
    if (count > 0) memcpy(frame->points, points, sizeof(float) * (size_t)count * (size_t)columns);
    frame->count = count;
    return frame;
}

static result detect(sv_detector *d, sv_frame *frame)
{
    result r;
    memset(&r, 0, sizeof r);
    ck_assert_msg(sv_detect(d, &frame, 1, NULL, r.boxes, &r.count) == SV_OK, "%s", sv_detector_error(d));
    return r;
}

static void assert_same(const result *a, const result *b)
{
    ck_assert_int_eq(a->count, b->count);
    ck_assert_mem_eq(a->boxes, b->boxes, sizeof(sv_box) * (size_t)a->count);
}

/* A street: cars near and far at all angles, people, a wall, a pole, a crown, on a slope. */
static const solid street[] = {
    {9, 4, 0, 3.9, 1.65, 1.5, 0.05},    {15, -4, 0, 4.2, 1.7, 1.5, 3.1},  {-14, 3.5, 0, 3.8, 1.6, 1.5, -0.1},
    {24, 4.2, 0, 3.9, 1.65, 1.55, 0.3}, {-8, -7, 0, 4.0, 1.7, 1.5, 1.5},  {18, 12, 0, 4.1, 1.7, 1.6, 0.8},
    {-25, -4, 0, 3.9, 1.7, 1.5, 0.02},  {10, -8, 0, 0.5, 0.6, 1.75, 0.4}, {-12, 9, 0, 0.5, 0.55, 1.7, 0},
    {0, 17, 0, 60, 0.3, 3.5, 0},        {5, -14, 0, 40, 0.8, 1.2, 0.02},  {14, 8, 0, 0.2, 0.2, 4.5, 0},
    {-5, 12, 2.5, 3, 3, 2, 0}};
enum { CARS = 7, PEOPLE = 2, THINGS = sizeof street / sizeof *street };

static int scan_street(uint64_t seed, solid placed[THINGS])
{
    test_rng rng = {seed};
    world w = {0.05, -0.03, 0.12, placed, THINGS};
    for (int i = 0; i < THINGS; i++) {
        placed[i] = street[i];
        placed[i].z += ground_height(&w, placed[i].x, placed[i].y);
    }
    return scan(&w, &rng, cloud, ROOM);
}

START_TEST(a_street_is_seen_as_it_is)
{
    sv_ctx *c = test_context(1);
    sv_model *model = open_model(c, NULL, 0);
    sv_detector *d = open_detector(model, 1);
    solid placed[THINGS];
    sv_frame *frame = make_frame(cloud, scan_street(5, placed), 4);
    const result r = detect(d, frame);
    bool used[MOST] = {false};
    for (int i = 0; i < CARS + PEOPLE; i++) {
        const solid *t = &placed[i];
        int best = -1;
        for (int k = 0; k < r.count; k++)
            if (best < 0 || hypot((double)r.boxes[k].x - t->x, (double)r.boxes[k].y - t->y) <
                                hypot((double)r.boxes[best].x - t->x, (double)r.boxes[best].y - t->y))
                best = k;
        ck_assert_int_ge(best, 0);
        const sv_box *b = &r.boxes[best];
        used[best] = true;
        ck_assert_msg(hypot((double)b->x - t->x, (double)b->y - t->y) < 0.4,
                      "object %d: %.2f %.2f, not %.2f %.2f", i, (double)b->x, (double)b->y, t->x, t->y);
        ck_assert_int_eq(b->label, i < CARS ? 1 : 2);
        ck_assert_msg(b->score > (i < CARS ? 0.4f : 0.3f), "object %d: score %.2f", i, (double)b->score);
        ck_assert_double_eq_tol((double)(b->z - b->dz / 2), t->z, 0.2);
        if (i >= CARS) continue;
        double turn = fabs((double)b->heading - t->heading);
        turn = fmin(fmod(turn, 3.14159265), 3.14159265 - fmod(turn, 3.14159265));
        ck_assert_msg(turn < 0.1, "car %d: heading %.2f, not %.2f", i, (double)b->heading, t->heading);
        const sv_rectangle a = sv_rectangle_make(b->x, b->y, b->dx, b->dy, b->heading),
                           truth = sv_rectangle_make((float)t->x, (float)t->y, (float)t->dx, (float)t->dy,
                                                     (float)t->heading);
        ck_assert_msg(sv_iou_bev(&a, &truth, 0, true) > 0.6f, "car %d: overlap %.2f", i,
                      (double)sv_iou_bev(&a, &truth, 0, true));
    }
    /* what else is claimed is claimed quietly */
    for (int k = 0; k < r.count; k++) {
        ck_assert_msg(used[k] || r.boxes[k].score < 0.4f, "label %d with score %.2f at %.1f %.1f",
                      r.boxes[k].label, (double)r.boxes[k].score, (double)r.boxes[k].x, (double)r.boxes[k].y);
        if (k) ck_assert(r.boxes[k - 1].score >= r.boxes[k].score);
    }
    sv_frame_release(frame);
    sv_detector_close(d);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

static void shuffle(test_rng *rng, sv_frame *frame)
{
    for (int i = frame->count - 1; i > 0; i--) {
        const int j = (int)(rng_u64(rng) % (uint64_t)(i + 1));
        float swap[4];
        memcpy(swap, frame->points + 4 * i, sizeof swap);
        memcpy(frame->points + 4 * i, frame->points + 4 * j, sizeof swap);
        memcpy(frame->points + 4 * j, swap, sizeof swap);
    }
}

START_TEST(same_bytes_for_any_order_threads_batch_and_history)
{
    sv_ctx *c = test_context(1);
    test_rng rng = {8};
    sv_model *model = open_model(c, NULL, 0);
    sv_detector *one = open_detector(model, 1), *three = open_detector(model, 3);
    solid placed[THINGS];
    sv_frame *other = make_frame(cloud, scan_street(6, placed) / 2, 4),
             *frame = make_frame(cloud, scan_street(7, placed), 4), *none = make_frame(NULL, 0, 4);
    const result first = detect(one, frame), second = detect(one, other);
    ck_assert_int_gt(first.count, 5);
    result r = detect(one, frame);
    assert_same(&first, &r);
    r = detect(one, none);
    ck_assert_int_eq(r.count, 0);
    for (int i = 0; i < 3; i++) {
        shuffle(&rng, frame);
        r = detect(i ? three : one, frame);
        assert_same(&first, &r);
    }
    static sv_box boxes[3 * MOST];
    int counts[3];
    for (int place = 0; place < 3; place++) {
        sv_frame *batch[3] = {other, other, other};
        batch[place] = frame;
        batch[(place + 1) % 3] = none;
        ck_assert_msg(sv_detect(three, batch, 3, NULL, boxes, counts) == SV_OK, "%s",
                      sv_detector_error(three));
        for (int b = 0; b < 3; b++) {
            const result *want = batch[b] == frame ? &first : &second;
            ck_assert_int_eq(counts[b], batch[b] == none ? 0 : want->count);
            ck_assert_mem_eq(boxes + b * MOST, want->boxes, sizeof(sv_box) * (size_t)counts[b]);
        }
    }
    /* further columns, and missing ones that are not looked at, make no difference */
    for (int columns = 3; columns <= 5; columns += 2) {
        sv_frame *same = sv_frame_new(&sv_device_cpu, frame->count, columns);
        for (int i = 0; i < frame->count; i++)
            for (int k = 0; k < columns; k++)
                same->points[columns * i + k] = k < 3 ? frame->points[4 * i + k] : 7;
        same->count = frame->count;
        r = detect(three, same);
        assert_same(&first, &r);
        sv_frame_release(same);
    }
    sv_frame *flat_frame = sv_frame_new(&sv_device_cpu, 10, 2);
    flat_frame->count = 10;
    ck_assert_int_eq(sv_detect(one, &flat_frame, 1, NULL, r.boxes, &r.count), SV_BAD_INPUT);
    ck_assert_ptr_nonnull(strstr(sv_detector_error(one), "has 2 point columns"));
    /* after warm-up nothing is allocated */
    r = detect(one, frame);
    const size_t scratch = sv_detector_ctx(one)->scratch.reserved,
                 held = sv_detector_ctx(one)->frame.reserved;
    for (int i = 0; i < 3; i++) r = detect(one, i == 1 ? other : frame);
    ck_assert(sv_detector_ctx(one)->scratch.reserved == scratch &&
              sv_detector_ctx(one)->frame.reserved == held);
    assert_same(&first, &r);
    sv_frame_release(flat_frame);
    sv_frame_release(frame);
    sv_frame_release(other);
    sv_frame_release(none);
    sv_detector_close(one);
    sv_detector_close(three);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

START_TEST(nonsense_does_no_harm)
{
    sv_ctx *c = test_context(1);
    test_rng rng = {9};
    sv_model *model = open_model(c, NULL, 0);
    sv_detector *d = open_detector(model, 2);
    for (int kind = 0; kind < 6; kind++) {
        const int n = kind == 0 ? 1 : 20000;
        for (int i = 0; i < n; i++)
            for (int k = 0; k < 4; k++) {
                float *v = &cloud[4 * i + k];
                const uint32_t bits = (uint32_t)rng_u64(&rng);
                switch (kind) {
                case 1:
                    *v = (float)rng_uniform(&rng, -80, 80);
                    break; /* a fog */
                case 2:
                    *v = 0;
                    break; /* all in the sensor */
                case 3:
                    memcpy(v, &bits, sizeof *v);
                    break; /* any bits: NaN, infinite, huge */
                case 4:
                    *v = k == 2 ? (float)(i % 100) * 0.03f : 10;
                    break; /* one column */
                case 5:
                    *v = k == 2 ? -1.0f : (float)rng_uniform(&rng, -3, 3);
                    break;
                default:
                    *v = 1;
                    break;
                }
            }
        sv_frame *frame = make_frame(cloud, n, 4);
        const result r = detect(d, frame);
        for (int i = 0; i < r.count; i++)
            ck_assert(isfinite(r.boxes[i].x) && isfinite(r.boxes[i].z) && isfinite(r.boxes[i].heading) &&
                      r.boxes[i].score > 0 && r.boxes[i].score <= 1 && r.boxes[i].dx > 0);
        sv_frame_release(frame);
    }
    sv_detector_close(d);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

START_TEST(configuration)
{
    sv_ctx *c = test_context(1);
    sv_model *model = NULL;
    bool needs = true;
    sv_model_def def = {.config = "cluster"};
    assert_ok(c, sv_model_needs_weights(c, &def, &needs));
    ck_assert(!needs);
    def.config = "kitti_lion_mamba";
    assert_ok(c, sv_model_needs_weights(c, &def, &needs));
    ck_assert(needs);
    assert_fails(c, sv_model_open(c, &def, &model), SV_USAGE, "a model needs weights: -w FILE");
    def.config = "cluster";
    sv_weights *w = sv_weights_new();
    assert_fails(c, sv_model_open_weights(c, &def, w, &model), SV_USAGE,
                 "MODEL.NAME: Cluster has no weights");
    assert_fails(c, sv_model_init(c, &def, 1, w), SV_USAGE, "has no weights");
    sv_weights_free(w);
    static const struct {
        const char *key, *value, *words;
    } wrong[] = {{"MODEL.GROUND.CEL", "1", "did you mean 'CELL'"},
                 {"MODEL.GROUND.CELL", "0", "MODEL.GROUND.CELL: 0 is not within 0.1 and 10"},
                 {"MODEL.GROUND.CELL", "wide", "MODEL.GROUND.CELL"},
                 {"MODEL.SEGMENT.GAP", "[1, 2, 3]", "MODEL.SEGMENT.GAP"},
                 {"MODEL.SEGMENT.DEPTH", "[1, -2]", "MODEL.SEGMENT.DEPTH: -2 is not within 0 and 3"},
                 {"MODEL.CLASSES.0.SIZE", "[4, 2]", "MODEL.CLASSES.0.SIZE"},
                 {"MODEL.CLASSES.1.NAME", "Dog", "'Dog' stands where CLASS_NAMES has 'Pedestrian'"},
                 {"CLASS_NAMES", "[Car]", "3 entries for 1 CLASS_NAMES"},
                 {"MODEL.POST_PROCESSING.MAX_BOXES", "0", "MAX_BOXES: 0 is not within 1 and 4096"},
                 {"DATA_CONFIG.POINT_CLOUD_RANGE", "[0, 0, 0, 0, 1, 1]", "axis 0 goes from 0 to 0 m"},
                 {"DATA_CONFIG.POINT_CLOUD_RANGE", "[-5000, -5000, -5, 5000, 5000, 5]", "too many cells"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *sets[] = {wrong[i].key, wrong[i].value};
        def.sets = sets, def.set_count = 1;
        assert_fails(c, sv_model_open(c, &def, &model), SV_BAD_INPUT, wrong[i].words);
        ck_assert_ptr_null(model);
    }
    /* a key of its own that nobody reads */
    static const char more[] = "_BASE_CONFIG_: cluster\nMODEL: {SPEED: 3}\n";
    write_file(test_path("more.yaml"), more, sizeof more - 1);
    def = (sv_model_def){.config = test_path("more.yaml")};
    assert_fails(c, sv_model_open(c, &def, &model), SV_BAD_INPUT, "MODEL.SPEED");
    sv_ctx_close(c);
}
END_TEST

/* Labelled frames of KITTI: cars within 30 m of the sensor, x, y, heading in the LiDAR frame. */
START_TEST(cars_of_real_frames)
{
    const char *reference = reference_folder();
    if (!reference) return;
    static const struct {
        const char *frame;
        int count;
        struct {
            double x, y, heading;
        } car[5];
    } truth[] = {
        {"000134", 1, {{13.0, 3.3, 0.0}}},
        {"000008", 4, {{8.1, 1.2, -0.33}, {6.4, -3.8, -0.26}, {14.7, -1.1, -0.32}, {20.3, -8.5, -0.32}}}};
    sv_ctx *c = test_context(1);
    sv_model *model = open_model(c, NULL, 0);
    sv_detector *d = open_detector(model, 2);
    for (size_t f = 0; f < sizeof truth / sizeof *truth; f++) {
        char path[512];
        sv_points p;
        snprintf(path, sizeof path, "%s/data/kitti/training/velodyne/%s.bin", reference, truth[f].frame);
        assert_ok(c, sv_points_read(c, path, sv_model_point_layout(model), &p));
        sv_frame *frame = make_frame(p.data, p.count, p.columns);
        const result r = detect(d, frame);
        for (int i = 0; i < truth[f].count; i++) {
            bool found = false;
            for (int k = 0; k < r.count && !found; k++) {
                const double turn = sin((double)r.boxes[k].heading - truth[f].car[i].heading);
                found = r.boxes[k].label == 1 && fabs(turn) < 0.15 &&
                        hypot((double)r.boxes[k].x - truth[f].car[i].x,
                              (double)r.boxes[k].y - truth[f].car[i].y) < 0.8;
            }
            ck_assert_msg(found, "%s: no car at %.1f %.1f", truth[f].frame, truth[f].car[i].x,
                          truth[f].car[i].y);
        }
        sv_frame_release(frame);
        sv_points_free(&p);
    }
    sv_detector_close(d);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cluster");
    TCase *tests = tcase_create("cluster");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, ground_follows_slopes_and_curbs, 0, 4);
    tcase_add_test(tests, ground_of_next_to_nothing);
    tcase_add_test(tests, columns_hold_what_lies_above_them);
    tcase_add_test(tests, walls_crowns_and_roofs);
    tcase_add_loop_test(tests, segments_are_the_connected_components, 0, 3);
    tcase_add_test(tests, long_segments_are_taken_apart_once);
    tcase_add_test(tests, a_street_is_seen_as_it_is);
    tcase_add_test(tests, same_bytes_for_any_order_threads_batch_and_history);
    tcase_add_test(tests, nonsense_does_no_harm);
    tcase_add_test(tests, configuration);
    tcase_add_test(tests, cars_of_real_frames);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
