/* SPDX-License-Identifier: Apache-2.0
 *
 * The KITTI evaluator: small cases worked out by hand, random ones against a plain program that matches every
 * frame at every threshold from the beginning, recorded results of the official programs, and the same bytes
 * for any threads.
 */
#include "support.h"

#include "datasets/kitti_ranges.h"
#include "perception/geometry/rotated_iou.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/wait.h>

/* ---- objects and scenes ------------------------------------------------------------------------------- */

/* An object in lane 'lane': neither in the picture nor on the ground does it touch those of other lanes. 60
 * pixels high. */
static sv_kitti_object object(const char *type, int lane, double score)
{
    sv_kitti_object o = {
        .x1 = 100.0 * lane, .y1 = 100, .x2 = 100.0 * lane + 50, .y2 = 160, .h = 1.5, .w = 2, .l = 4};
    o.x = 10.0 * lane;
    o.y = 1.7;
    o.z = 20;
    o.score = score;
    snprintf(o.type, sizeof o.type, "%s", type);
    return o;
}

static sv_kitti_object of_height(sv_kitti_object o, double height)
{
    o.y2 = o.y1 + height;
    return o;
}

enum { MOST = 128 };
typedef struct scene {
    sv_kitti_object label[MOST], detection[MOST];
    int labels, detections;
} scene;

static void add_label(scene *s, sv_kitti_object o)
{
    s->label[s->labels++] = o;
}
static void add_detection(scene *s, sv_kitti_object o)
{
    s->detection[s->detections++] = o;
}

static sv_kitti_eval_frame frame_of(const scene *s)
{
    return (sv_kitti_eval_frame){s->label, s->detection, s->labels, s->detections};
}

/* 'step' frames a call; 0: all at once */
static void evaluate(sv_ctx *c, sv_kitti_rule rule, const scene *scenes, int count, int step,
                     sv_kitti_scores *out)
{
    sv_kitti_eval *e = NULL;
    assert_ok(c, sv_kitti_eval_open(c, rule, &e));
    sv_kitti_eval_frame *frames = calloc((size_t)count + 1, sizeof *frames);
    for (int i = 0; i < count; i++) frames[i] = frame_of(&scenes[i]);
    for (int i = 0; i < count; i += step ? step : count) {
        const int more = step && step < count - i ? step : count - i;
        assert_ok(c, sv_kitti_eval_add(c, e, frames + i, more));
    }
    assert_ok(c, sv_kitti_eval_finish(c, e, out));
    sv_kitti_eval_close(e);
    free(frames);
}

static sv_kitti_scores scores;
static const sv_kitti_curve *curve(int kitti_class, int metric, int difficulty)
{
    return &scores.curve[0][kitti_class][metric][difficulty];
}
static void run_scene(sv_kitti_rule rule, const scene *s)
{
    sv_ctx *c = test_context(1);
    evaluate(c, rule, s, 1, 0, &scores);
    sv_ctx_close(c);
}

enum { CAR, PEDESTRIAN, CYCLIST };
enum { EASY, MODERATE, HARD };

/* ---- by hand ------------------------------------------------------------------------------------------ */

START_TEST(precision_follows_the_scores)
{
    /* found 0.9, false 0.8, found 0.7; both thresholds are kept: precision 1 and 2/3 */
    scene s = {0};
    add_label(&s, object("Car", 0, 0));
    add_label(&s, object("Car", 1, 0));
    add_detection(&s, object("Car", 0, 0.9));
    add_detection(&s, object("Car", 5, 0.8));
    add_detection(&s, object("Car", 1, 0.7));
    run_scene(SV_KITTI_DEVKIT, &s);
    for (int m = 0; m < SV_KITTI_METRICS; m++) {
        const sv_kitti_curve *k = curve(CAR, m, MODERATE);
        ck_assert_int_eq(k->points, 2);
        ck_assert_double_eq(k->value[0], 1);
        ck_assert_double_eq_tol(k->value[1], 2.0 / 3, 1e-15);
        ck_assert_double_eq(k->value[2], 0);
        ck_assert_double_eq(k->recall[0], 0.5);
        ck_assert_double_eq(k->recall[1], 1);
        ck_assert_double_eq(k->threshold[1], 0.7);
        ck_assert_double_eq_tol(k->r11, 100.0 / 11, 1e-12);
        ck_assert_double_eq_tol(k->r40, 100 * 2.0 / 3 / 40, 1e-12);
        ck_assert_double_eq(curve(PEDESTRIAN, m, EASY)->r40, 0);
    }
    ck_assert_int_eq(scores.valid[CAR][EASY], 2);
    ck_assert(scores.detected[CAR][SV_KITTI_3D] && !scores.detected[CYCLIST][SV_KITTI_BBOX]);
}
END_TEST

START_TEST(precision_is_carried_to_the_left)
{
    /* false 0.9, found 0.8, found 0.7: 1/2 and 2/3, so 2/3 at both */
    scene s = {0};
    for (int i = 0; i < 2; i++) add_label(&s, object("Cyclist", i, 0));
    add_detection(&s, object("Cyclist", 5, 0.9));
    add_detection(&s, object("Cyclist", 0, 0.8));
    add_detection(&s, object("Cyclist", 1, 0.7));
    run_scene(SV_KITTI_DEVKIT, &s);
    ck_assert_double_eq_tol(curve(CYCLIST, SV_KITTI_BEV, EASY)->value[0], 2.0 / 3, 1e-15);
    ck_assert_double_eq_tol(curve(CYCLIST, SV_KITTI_BEV, EASY)->value[1], 2.0 / 3, 1e-15);
}
END_TEST

START_TEST(the_overlap_must_be_more_than_the_minimum)
{
    /* a pedestrian with exactly half of the label's picture and ground: overlap 0.5, not more */
    scene s = {0};
    sv_kitti_object half = object("Pedestrian", 0, 0.9);
    add_label(&s, half);
    half.x2 = 25;
    half.l = 2;
    add_detection(&s, half);
    run_scene(SV_KITTI_DEVKIT, &s);
    ck_assert_int_eq(curve(PEDESTRIAN, SV_KITTI_BBOX, EASY)->points, 0);
    ck_assert_int_eq(curve(PEDESTRIAN, SV_KITTI_BEV, EASY)->points, 0);
    ck_assert_int_eq(scores.curve[1][PEDESTRIAN][SV_KITTI_BEV][EASY].points, 1); /* loose: 0.25 */
    s.detection[0].x2 = 26;
    s.detection[0].l = 2.01;
    run_scene(SV_KITTI_DEVKIT, &s);
    ck_assert_int_eq(curve(PEDESTRIAN, SV_KITTI_BBOX, EASY)->points, 1);
    ck_assert_int_eq(curve(PEDESTRIAN, SV_KITTI_3D, EASY)->points, 1);
    /* the same ground, but the box hangs too high */
    s.detection[0].y = 0.9;
    run_scene(SV_KITTI_DEVKIT, &s);
    ck_assert_int_eq(curve(PEDESTRIAN, SV_KITTI_BEV, EASY)->points, 1);
    ck_assert_int_eq(curve(PEDESTRIAN, SV_KITTI_3D, EASY)->points, 0);
}
END_TEST

START_TEST(height_limits_differ_between_the_programs)
{
    scene s = {0};
    add_label(&s, of_height(object("Car", 0, 0), 25));
    add_label(&s, of_height(object("Car", 1, 0), 40));
    add_label(&s, of_height(object("Car", 2, 0), 24.5));
    run_scene(SV_KITTI_DEVKIT, &s);
    ck_assert_int_eq(scores.valid[CAR][EASY], 1);
    ck_assert_int_eq(scores.valid[CAR][MODERATE], 2);
    run_scene(SV_KITTI_PYTHON, &s);
    ck_assert_int_eq(scores.valid[CAR][EASY], 0);
    ck_assert_int_eq(scores.valid[CAR][MODERATE], 1);
    /* occlusion 0, 1, 2 and truncation 0.15, 0.30, 0.50 are still inside their limits */
    for (int d = 0; d < 3; d++) {
        s = (scene){0};
        add_label(&s, object("Car", 0, 0));
        s.label[0].occluded = d;
        s.label[0].truncated = (const double[]){0.15, 0.30, 0.50}[d];
        run_scene(SV_KITTI_DEVKIT, &s);
        for (int k = 0; k < 3; k++) ck_assert_int_eq(scores.valid[CAR][k], k >= d);
        s.label[0].truncated += 0.01;
        run_scene(SV_KITTI_DEVKIT, &s);
        for (int k = 0; k < 3; k++) ck_assert_int_eq(scores.valid[CAR][k], k > d);
    }
}
END_TEST

START_TEST(neighbours_and_ignored_labels_count_neither_way)
{
    scene s = {0};
    add_label(&s, object("Car", 0, 0));
    add_label(&s, object("Van", 1, 0));
    add_label(&s, object("Car", 2, 0));
    s.label[2].occluded = 3;
    add_label(&s, object("Truck", 3, 0));
    for (int i = 0; i < 4; i++) add_detection(&s, object("Car", i, 0.9));
    run_scene(SV_KITTI_DEVKIT, &s);
    /* found: lane 0; ignored: lanes 1 and 2; false: lane 3, a truck is another class */
    ck_assert_double_eq(curve(CAR, SV_KITTI_3D, HARD)->value[0], 0.5);
    ck_assert_int_eq(scores.valid[CAR][HARD], 1);
}
END_TEST

START_TEST(dont_care_takes_false_detections_out_of_bbox_only)
{
    scene s = {0};
    add_label(&s, object("Car", 0, 0));
    sv_kitti_object area = object("DontCare", 3, 0);
    area.h = area.w = area.l = -1;
    area.x = area.y = area.z = -1000;
    area.ry = area.alpha = -10;
    add_label(&s, area);
    add_detection(&s, object("Car", 0, 0.5));
    add_detection(&s, object("Car", 3, 0.9));
    run_scene(SV_KITTI_DEVKIT, &s);
    ck_assert_double_eq(curve(CAR, SV_KITTI_BBOX, EASY)->value[0], 1);
    ck_assert_double_eq(curve(CAR, SV_KITTI_BEV, EASY)->value[0], 0.5);
    /* 70 % of the detection must be more than covered */
    s.label[1].x2 = s.label[1].x1 + 0.69 * 50;
    run_scene(SV_KITTI_DEVKIT, &s);
    ck_assert_double_eq(curve(CAR, SV_KITTI_BBOX, EASY)->value[0], 0.5);
    s.label[1].x2 = s.label[1].x1 + 0.71 * 50;
    run_scene(SV_KITTI_DEVKIT, &s);
    ck_assert_double_eq(curve(CAR, SV_KITTI_BBOX, EASY)->value[0], 1);
}
END_TEST

START_TEST(a_small_detection_of_another_class_absorbs_a_label)
{
    /* 39.9 pixels: ignored at easy whatever its class, so the label is neither found nor missed there */
    scene s = {0};
    add_label(&s, of_height(object("Pedestrian", 0, 0), 41));
    add_label(&s, object("Pedestrian", 1, 0));
    add_detection(&s, of_height(object("Cyclist", 0, 0.9), 39.9));
    add_detection(&s, object("Pedestrian", 1, 0.8));
    run_scene(SV_KITTI_DEVKIT, &s);
    ck_assert_double_eq(curve(PEDESTRIAN, SV_KITTI_BBOX, EASY)->recall[0], 1);
    ck_assert_double_eq(curve(PEDESTRIAN, SV_KITTI_BBOX, MODERATE)->recall[0], 0.5);
}
END_TEST

START_TEST(passes_choose_differently)
{
    /* Two detections of a label: pass 1 takes the higher score as its threshold, pass 2 the larger overlap
     * where both are in; the other one is false. */
    scene s = {0};
    add_label(&s, object("Car", 0, 0));
    sv_kitti_object worse = object("Car", 0, 0.9);
    worse.x2 -= 10;
    worse.l = 3.2;
    worse.x -= 0.4;
    add_detection(&s, object("Car", 0, 0.6));
    add_detection(&s, worse);
    add_label(&s, object("Car", 2, 0));
    add_detection(&s, object("Car", 2, 0.5));
    run_scene(SV_KITTI_DEVKIT, &s);
    const sv_kitti_curve *k = curve(CAR, SV_KITTI_3D, EASY);
    ck_assert_int_eq(k->points, 2);
    ck_assert_double_eq(k->threshold[0], 0.9);
    ck_assert_double_eq(k->threshold[1], 0.5);
    ck_assert_double_eq(k->value[0], 1);
    ck_assert_double_eq_tol(k->value[1], 2.0 / 3, 1e-15);
}
END_TEST

START_TEST(orientation_is_half_the_cosine)
{
    scene s = {0};
    for (int i = 0; i < 3; i++) {
        add_label(&s, object("Car", i, 0));
        add_detection(&s, object("Car", i, 0.9));
        s.label[i].alpha = 0.4;
        s.detection[i].alpha = 0.4 + i * 1.5707963267948966;
    }
    run_scene(SV_KITTI_DEVKIT, &s);
    ck_assert(scores.aos);
    ck_assert_double_eq_tol(curve(CAR, SV_KITTI_AOS, EASY)->value[0], (1 + 0.5 + 0) / 3, 1e-11);
    ck_assert_double_eq(curve(CAR, SV_KITTI_BBOX, EASY)->value[0], 1);
    /* a missing angle switches it off: anywhere, or in the first place only */
    s.detection[1].alpha = -10;
    run_scene(SV_KITTI_DEVKIT, &s);
    ck_assert(!scores.aos && curve(CAR, SV_KITTI_AOS, EASY)->r40 == 0);
    run_scene(SV_KITTI_PYTHON, &s);
    ck_assert(scores.aos);
    s.detection[0].alpha = -10;
    run_scene(SV_KITTI_PYTHON, &s);
    ck_assert(!scores.aos);
}
END_TEST

START_TEST(nothing_is_not_an_error)
{
    sv_ctx *c = test_context(1);
    evaluate(c, SV_KITTI_DEVKIT, NULL, 0, 0, &scores);
    ck_assert_int_eq(scores.frames, 0);
    scene s[3] = {0};
    evaluate(c, SV_KITTI_DEVKIT, s, 3, 0, &scores);
    ck_assert_int_eq(scores.frames, 3);
    add_detection(&s[1], object("Car", 0, 0.9));  /* no labels at all */
    add_label(&s[2], object("Pedestrian", 0, 0)); /* no detections */
    evaluate(c, SV_KITTI_DEVKIT, s, 3, 0, &scores);
    for (int k = 0; k < SV_KITTI_CLASSES; k++)
        for (int m = 0; m < SV_KITTI_METRICS; m++)
            for (int d = 0; d < SV_KITTI_DIFFICULTIES; d++)
                ck_assert(curve(k, m, d)->r11 == 0 && curve(k, m, d)->r40 == 0 &&
                          curve(k, m, d)->points == 0);
    /* boxes of no size match nothing and break nothing */
    s[0] = (scene){0};
    sv_kitti_object flat = object("Car", 0, 0.5);
    flat.w = flat.l = flat.h = 0;
    flat.x2 = flat.x1;
    add_label(&s[0], flat);
    add_detection(&s[0], flat);
    evaluate(c, SV_KITTI_DEVKIT, s, 1, 0, &scores);
    ck_assert_int_eq(scores.valid[CAR][EASY], 1);
    ck_assert(curve(CAR, SV_KITTI_BBOX, EASY)->points == 0 && curve(CAR, SV_KITTI_BEV, EASY)->points == 0);
    s[1].detection[0].score = NAN;
    sv_kitti_eval *e = NULL;
    assert_ok(c, sv_kitti_eval_open(c, SV_KITTI_DEVKIT, &e));
    const sv_kitti_eval_frame frames[2] = {frame_of(&s[2]), frame_of(&s[1])};
    assert_fails(c, sv_kitti_eval_add(c, e, frames, 2), SV_BAD_INPUT, "frame 1");
    sv_kitti_eval_close(e);
    sv_ctx_close(c);
}
END_TEST

START_TEST(equal_scores_and_copies)
{
    /* Three labels, each detected twice at one score: the first of a pair is found, the second false. */
    scene s = {0};
    for (int i = 0; i < 3; i++) {
        add_label(&s, object("Car", i, 0));
        add_detection(&s, object("Car", i, 0.5));
        add_detection(&s, object("Car", i, 0.5));
    }
    run_scene(SV_KITTI_DEVKIT, &s);
    const sv_kitti_curve *k = curve(CAR, SV_KITTI_3D, EASY);
    ck_assert_int_eq(k->points, 3);
    for (int i = 0; i < 3; i++) ck_assert_double_eq(k->value[i], 0.5);
}
END_TEST

/* ---- what can be reached ------------------------------------------------------------------------------ */

START_TEST(perfect_detections_reach_the_attainable_score)
{
    static const int counts[] = {0, 1, 2, 11, 20, 39, 40, 41, 42, 57, 100, 128};
    for (size_t n = 0; n < sizeof counts / sizeof *counts; n++) {
        scene s = {0};
        double r11, r40;
        for (int i = 0; i < counts[n]; i++) {
            add_label(&s, object("Pedestrian", i, 0));
            add_detection(&s, object("Pedestrian", i, 1));
        }
        run_scene(SV_KITTI_DEVKIT, &s);
        sv_kitti_attainable(counts[n], &r11, &r40);
        for (int m = 0; m < SV_KITTI_METRICS; m++) {
            ck_assert_double_eq(curve(PEDESTRIAN, m, EASY)->r11, r11);
            ck_assert_double_eq(curve(PEDESTRIAN, m, EASY)->r40, r40);
        }
        const int points = counts[n] < 41 ? counts[n] : 41;
        ck_assert_double_eq_tol(r40, points > 1 ? (points - 1) * 2.5 : 0, 1e-12);
        ck_assert_double_eq_tol(r11, (points + 3) / 4 * 100.0 / 11, 1e-12);
    }
    for (int64_t many = 41; many < 100000; many = many * 3 / 2) {
        double r11, r40;
        sv_kitti_attainable(many, &r11, &r40);
        ck_assert_double_eq_tol(r11, 100, 1e-12);
        ck_assert_double_eq_tol(r40, 100, 1e-12);
    }
}
END_TEST

/* ---- random scenes against a plain program ------------------------------------------------------------ */

static const char *const types[] = {"Car",      "Pedestrian", "Cyclist", "Van",  "Person_sitting",
                                    "DontCare", "Truck",      "car",     "Misc", "CYCLIST"};

static sv_kitti_object random_object(test_rng *rng, const char *type)
{
    const double u = rng_uniform(rng, 0, 400), v = rng_uniform(rng, 0, 60);
    sv_kitti_object o = {.x1 = floor(u),
                         .y1 = floor(v),
                         .x2 = floor(u + rng_uniform(rng, 20, 80)),
                         .y2 = floor(v + rng_uniform(rng, 18, 60)),
                         .h = rng_uniform(rng, 1.2, 1.8),
                         .w = rng_uniform(rng, 0.6, 2),
                         .l = rng_uniform(rng, 0.8, 4),
                         .x = rng_uniform(rng, -10, 10),
                         .y = rng_uniform(rng, 1.4, 1.8),
                         .z = rng_uniform(rng, 5, 25),
                         .ry = rng_uniform(rng, -3.2, 3.2),
                         .alpha = rng_uniform(rng, -3.2, 3.2)};
    snprintf(o.type, sizeof o.type, "%s", type);
    return o;
}

static void random_scene(test_rng *rng, scene *s)
{
    *s = (scene){0};
    const int labels = (int)rng_uniform(rng, 0, 12), detections = (int)rng_uniform(rng, 0, 40);
    for (int i = 0; i < labels; i++) {
        sv_kitti_object o = random_object(rng, types[rng_u64(rng) % 10]);
        o.occluded = (int)(rng_u64(rng) % 4);
        o.truncated = rng_u64(rng) % 3 ? 0 : rng_uniform(rng, 0, 0.6);
        if (strcmp(o.type, "DontCare") == 0) o.x = o.y = o.z = -1000;
        add_label(s, o);
    }
    for (int j = 0; j < detections; j++) {
        sv_kitti_object o = random_object(rng, types[rng_u64(rng) % 5]);
        const uint64_t kind = rng_u64(rng) % 10;
        if (labels > 0 && kind < 7) { /* near a label, often of its class */
            const char *own = o.type;
            sv_kitti_object near = s->label[rng_u64(rng) % (uint64_t)labels];
            if (kind < 6) own = near.type;
            if (strcmp(own, "DontCare") == 0) own = "Car";
            snprintf(o.type, sizeof o.type, "%s", own);
            const double wide = near.x2 - near.x1, spread = kind < 4 ? 0.05 : 0.2;
            o.x1 = near.x1 + spread * wide * rng_normal(rng);
            o.x2 = near.x2 + spread * wide * rng_normal(rng);
            o.y1 = near.y1 + spread * 20 * rng_normal(rng);
            o.y2 = near.y2 + spread * 20 * rng_normal(rng);
            o.x = near.x + spread * rng_normal(rng);
            o.y = near.y + spread * rng_normal(rng);
            o.z = near.z + spread * rng_normal(rng);
            o.h = near.h, o.w = near.w, o.l = near.l;
            o.ry = near.ry + spread * rng_normal(rng);
        }
        if (j > 0 && kind == 9) o = s->detection[j - 1];
        o.score = floor(rng_uniform(rng, 0, 1) * 50) / 50; /* many ties */
        add_detection(s, o);
    }
}

static double plain_overlap(int metric, const sv_kitti_object *a, const sv_kitti_object *b, bool of_b)
{
    if (metric == SV_KITTI_BBOX) {
        const double w = fmin(a->x2, b->x2) - fmax(a->x1, b->x1), h = fmin(a->y2, b->y2) - fmax(a->y1, b->y1);
        if (w <= 0 || h <= 0) return 0;
        const double area_a = (a->x2 - a->x1) * (a->y2 - a->y1), area_b = (b->x2 - b->x1) * (b->y2 - b->y1);
        return w * h / (of_b ? area_b : area_a + area_b - w * h);
    }
    const sv_rectangle64 p = {a->x, a->z, a->l, a->w, cos(a->ry), -sin(a->ry)},
                         q = {b->x, b->z, b->l, b->w, cos(b->ry), -sin(b->ry)};
    const double ground = sv_overlap_exact64(&p, &q);
    if (metric == SV_KITTI_BEV) return ground / (a->l * a->w + b->l * b->w - ground);
    const double h = fmin(a->y, b->y) - fmax(a->y - a->h, b->y - b->h);
    return h <= 0 ? 0 : ground * h / (a->l * a->w * a->h + b->l * b->w * b->h - ground * h);
}

/* Labels: 0 counts, 1 ignored, -1 other; detections likewise. */
static int label_flag(sv_kitti_rule rule, const sv_kitti_object *o, int k, int d)
{
    static const double heights[3] = {40, 25, 25}, truncations[3] = {0.15, 0.3, 0.5};
    static const char *const neighbours[3] = {"Van", "Person_sitting", "-"};
    const double height = o->y2 - o->y1;
    if (strcasecmp(o->type, neighbours[k]) == 0) return 1;
    if (strcasecmp(o->type, sv_kitti_class_names[k]) != 0) return -1;
    return height < heights[d] || (rule == SV_KITTI_PYTHON && height == heights[d]) || o->occluded > d ||
           o->truncated > truncations[d];
}
static int detection_flag(const sv_kitti_object *o, int k, int d)
{
    if (fabs(o->y2 - o->y1) < (d == 0 ? 40 : 25)) return 1;
    return strcasecmp(o->type, sv_kitti_class_names[k]) == 0 ? 0 : -1;
}

typedef struct plain_result {
    double tp, fp, similarity;
} plain_result;

/* One frame; with 'found' pass 1, which adds scores to it, else pass 2 at 'threshold'. */
static plain_result plain_frame(sv_kitti_rule rule, const scene *s, int k, int d, int metric, double min,
                                double threshold, double *found, int *found_count)
{
    plain_result out = {0};
    bool taken[MOST] = {false};
    for (int i = 0; i < s->labels; i++) {
        const int flag = label_flag(rule, &s->label[i], k, d);
        if (flag < 0) continue;
        int chosen = -1;
        bool small = false;
        double best = 0;
        for (int j = 0; j < s->detections; j++) {
            const int its = detection_flag(&s->detection[j], k, d);
            if (its < 0 || taken[j]) continue;
            const double overlap = plain_overlap(metric, &s->label[i], &s->detection[j], false);
            if (!(overlap > min)) continue;
            if (found) {
                if (chosen < 0 || s->detection[j].score > s->detection[chosen].score) chosen = j;
                continue;
            }
            if (s->detection[j].score < threshold) continue;
            if (its == 0 && (overlap > best || small)) {
                chosen = j, best = overlap, small = false;
            } else if (its == 1 && chosen < 0) {
                chosen = j, small = true;
            }
        }
        if (chosen < 0) continue;
        taken[chosen] = true;
        if (flag == 1 || detection_flag(&s->detection[chosen], k, d) == 1) continue;
        if (found) found[(*found_count)++] = s->detection[chosen].score;
        out.tp++;
        out.similarity += (1 + cos(s->label[i].alpha - s->detection[chosen].alpha)) / 2;
    }
    for (int j = 0; j < s->detections && !found; j++) {
        const sv_kitti_object *o = &s->detection[j];
        if (taken[j] || detection_flag(o, k, d) != 0 || o->score < threshold) continue;
        bool stuff = false;
        for (int i = 0; i < s->labels && metric == SV_KITTI_BBOX; i++)
            if (strcmp(s->label[i].type, "DontCare") == 0)
                stuff |= plain_overlap(SV_KITTI_BBOX, &s->label[i], o, true) > min;
        out.fp += !stuff;
    }
    return out;
}

static int descending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

static void plain_curve(sv_kitti_rule rule, const scene *scenes, int count, int k, int d, int metric,
                        double min, double precision[41], double similarity[41])
{
    double *found = calloc((size_t)count * MOST, sizeof *found), threshold[64];
    int found_count = 0, points = 0, valid = 0;
    for (int f = 0; f < count; f++) {
        plain_frame(rule, &scenes[f], k, d, metric, min, 0, found, &found_count);
        for (int i = 0; i < scenes[f].labels; i++) valid += label_flag(rule, &scenes[f].label[i], k, d) == 0;
    }
    qsort(found, (size_t)found_count, sizeof *found, descending);
    double recall = 0;
    for (int i = 0; i < found_count; i++) {
        const double l = (i + 1.0) / valid, r = i + 1 < found_count ? (i + 2.0) / valid : l;
        if (r - recall < recall - l && i + 1 < found_count) continue;
        threshold[points++] = found[i];
        recall += 1 / 40.0;
    }
    free(found);
    ck_assert_int_le(points, 41);
    memset(precision, 0, 41 * sizeof *precision);
    memset(similarity, 0, 41 * sizeof *similarity);
    for (int t = 0; t < points; t++) {
        plain_result sum = {0};
        for (int f = 0; f < count; f++) {
            const plain_result one =
                plain_frame(rule, &scenes[f], k, d, metric, min, threshold[t], NULL, NULL);
            sum.tp += one.tp;
            sum.fp += one.fp;
            sum.similarity += one.similarity;
        }
        precision[t] = sum.tp + sum.fp > 0 ? sum.tp / (sum.tp + sum.fp) : 0;
        similarity[t] = sum.tp + sum.fp > 0 ? sum.similarity / (sum.tp + sum.fp) : 0;
    }
    for (int t = points - 2; t >= 0; t--) {
        precision[t] = fmax(precision[t], precision[t + 1]);
        similarity[t] = fmax(similarity[t], similarity[t + 1]);
    }
}

static void assert_curve(const char *what, const double *want, const sv_kitti_curve *got)
{
    for (int t = 0; t < 41; t++)
        ck_assert_msg(fabs(want[t] - got->value[t]) < 1e-11, "%s at %d: %.17g instead of %.17g", what, t,
                      got->value[t], want[t]);
}

START_TEST(random_scenes_agree_with_the_plain_program)
{
    enum { SCENES = 90 };
    scene *scenes = calloc(SCENES, sizeof *scenes);
    sv_ctx *c = test_context(1);
    for (uint64_t seed = 1; seed <= 4; seed++) {
        test_rng rng = {seed};
        const int count = seed == 1 ? 7 : SCENES;
        for (int i = 0; i < count; i++) random_scene(&rng, &scenes[i]);
        for (int rule = 0; rule < 2; rule++) {
            evaluate(c, (sv_kitti_rule)rule, scenes, count, 0, &scores);
            for (int k = 0; k < 3; k++)
                for (int d = 0; d < 3; d++)
                    for (int m = 0; m < 3; m++)
                        for (int o = 0; o < 2; o++) {
                            double precision[41], similarity[41];
                            char what[80];
                            snprintf(what, sizeof what,
                                     "seed %d rule %d class %d difficulty %d metric %d set %d", (int)seed,
                                     rule, k, d, m, o);
                            plain_curve((sv_kitti_rule)rule, scenes, count, k, d, m,
                                        sv_kitti_min_overlap(o, k, m), precision, similarity);
                            assert_curve(what, precision, &scores.curve[o][k][m][d]);
                            if (m == SV_KITTI_BBOX)
                                assert_curve(what, similarity, &scores.curve[o][k][SV_KITTI_AOS][d]);
                        }
        }
        /* something was found at all */
        ck_assert(count < SCENES || scores.curve[0][CAR][SV_KITTI_3D][HARD].points > 10);
        ck_assert(count < SCENES || scores.curve[0][CYCLIST][SV_KITTI_BBOX][HARD].points > 10);
    }
    sv_ctx_close(c);
    free(scenes);
}
END_TEST

START_TEST(threads_and_batches_do_not_change_a_byte)
{
    enum { SCENES = 150 };
    scene *scenes = calloc(SCENES, sizeof *scenes);
    test_rng rng = {77};
    for (int i = 0; i < SCENES; i++) random_scene(&rng, &scenes[i]);
    sv_kitti_scores *first = calloc(2, sizeof *first), *other = first + 1;
    static const int threads[] = {1, 3, 4, 2}, steps[] = {0, 1, 7, 64};
    for (int i = 0; i < 4; i++) {
        sv_ctx *c = test_context(threads[i]);
        evaluate(c, SV_KITTI_DEVKIT, scenes, SCENES, steps[i], i ? other : first);
        sv_ctx_close(c);
        ck_assert(i == 0 || memcmp(first, other, sizeof *first) == 0);
    }
    free(first);
    free(scenes);
}
END_TEST

START_TEST(scores_may_be_taken_in_between)
{
    enum { SCENES = 40 };
    scene *scenes = calloc(SCENES, sizeof *scenes);
    test_rng rng = {5};
    for (int i = 0; i < SCENES; i++) random_scene(&rng, &scenes[i]);
    sv_ctx *c = test_context(2);
    sv_kitti_scores *s = calloc(2, sizeof *s);
    sv_kitti_eval *e = NULL;
    assert_ok(c, sv_kitti_eval_open(c, SV_KITTI_DEVKIT, &e));
    for (int i = 0; i < SCENES; i++) {
        const sv_kitti_eval_frame frame = frame_of(&scenes[i]);
        assert_ok(c, sv_kitti_eval_add(c, e, &frame, 1));
        if (i == 20) assert_ok(c, sv_kitti_eval_finish(c, e, &s[0]));
    }
    assert_ok(c, sv_kitti_eval_finish(c, e, &s[0]));
    sv_kitti_eval_close(e);
    evaluate(c, SV_KITTI_DEVKIT, scenes, SCENES, 0, &s[1]);
    ck_assert(memcmp(&s[0], &s[1], sizeof s[0]) == 0);
    sv_ctx_close(c);
    free(s);
    free(scenes);
}
END_TEST

/* ---- verdicts ----------------------------------------------------------------------------------------- */

START_TEST(verdicts_of_a_frame)
{
    scene s = {0};
    add_label(&s, object("Car", 0, 0));                      /* found */
    add_label(&s, object("Car", 1, 0));                      /* missed */
    add_label(&s, object("Van", 2, 0));                      /* ignored */
    add_label(&s, object("Tram", 3, 0));                     /* no class */
    add_label(&s, object("Pedestrian", 4, 0));               /* its detection is below the score */
    add_detection(&s, object("Car", 2, 0.9));                /* matched with a van */
    add_detection(&s, object("Car", 7, 0.9));                /* false */
    add_detection(&s, object("Car", 0, 0.8));                /* found */
    add_detection(&s, object("Pedestrian", 4, 0.2));         /* below the score */
    add_detection(&s, object("Tram", 3, 0.9));               /* no class */
    add_detection(&s, of_height(object("Car", 9, 0.9), 20)); /* too small */
    sv_kitti_verdict label[8], detection[8];
    int partner[8];
    sv_ctx *c = test_context(1);
    const sv_kitti_eval_frame frame = frame_of(&s);
    assert_ok(c, sv_kitti_eval_verdicts(c, SV_KITTI_DEVKIT, &frame, 0, SV_KITTI_3D, MODERATE, 0.3, label,
                                        detection, partner));
    static const sv_kitti_verdict labels[] = {SV_KITTI_FOUND, SV_KITTI_MISSED, SV_KITTI_IGNORED,
                                              SV_KITTI_OTHER, SV_KITTI_MISSED},
                                  detections[] = {SV_KITTI_IGNORED, SV_KITTI_FALSE, SV_KITTI_FOUND,
                                                  SV_KITTI_OTHER,   SV_KITTI_OTHER, SV_KITTI_IGNORED};
    for (int i = 0; i < s.labels; i++) ck_assert_int_eq(label[i], labels[i]);
    for (int j = 0; j < s.detections; j++) {
        ck_assert_int_eq(detection[j], detections[j]);
        ck_assert_int_eq(partner[j], j == 2 ? 0 : -1);
    }
    sv_ctx_close(c);
}
END_TEST

START_TEST(recall_and_precision_by_distance)
{
    scene s = {0};
    add_label(&s, object("Car", 0, 0));        /* found */
    add_label(&s, object("Car", 1, 0));        /* missed */
    add_label(&s, object("Van", 2, 0));        /* counts for nobody */
    add_label(&s, object("Pedestrian", 4, 0)); /* its detection is below the score */
    add_detection(&s, object("Car", 0, 0.8));
    add_detection(&s, object("Car", 2, 0.9));
    add_detection(&s, object("Car", 7, 0.9)); /* false, beyond the first range */
    add_detection(&s, object("Pedestrian", 4, 0.2));
    s.label[1].z = 35, s.detection[2].z = 60;
    sv_ctx *c = test_context(1);
    sv_kitti_range_counts counts[SV_KITTI_CLASSES][SV_KITTI_RANGES] = {{{0}}};
    const sv_kitti_eval_frame frame = frame_of(&s);
    for (int pass = 1; pass <= 2; pass++) { /* frames add up */
        assert_ok(c, sv_kitti_count_ranges(c, SV_KITTI_DEVKIT, &frame, 0.3, counts));
        for (int k = 0; k < SV_KITTI_CLASSES; k++)
            for (int r = 0; r < SV_KITTI_RANGES; r++) {
                ck_assert_int_eq(counts[k][r].found, pass * (k == 0 && r == 0));
                ck_assert_int_eq(counts[k][r].missed, pass * ((k == 0 && r == 1) || (k == 1 && r == 1)));
                ck_assert_int_eq(counts[k][r].wrong, pass * (k == 0 && r == 2));
            }
    }
    sv_ctx_close(c);
}
END_TEST

/* ---- overlaps ----------------------------------------------------------------------------------------- */

/* Lowest and highest y of the rectangle at x; false beside it. */
static bool span_at(const sv_rectangle64 *r, double x, double *low, double *high)
{
    double px[4], py[4];
    for (int k = 0; k < 4; k++) {
        const double u = (k == 0 || k == 3 ? -0.5 : 0.5) * r->dx, v = (k < 2 ? -0.5 : 0.5) * r->dy;
        px[k] = r->x + u * r->cosine - v * r->sine;
        py[k] = r->y + u * r->sine + v * r->cosine;
    }
    *low = INFINITY, *high = -INFINITY;
    for (int k = 0; k < 4; k++) {
        const int n = (k + 1) % 4;
        if ((px[k] - x) * (px[n] - x) > 0 || px[k] == px[n]) continue;
        const double y = py[k] + (py[n] - py[k]) * (x - px[k]) / (px[n] - px[k]);
        *low = fmin(*low, y), *high = fmax(*high, y);
    }
    return *high > *low;
}

START_TEST(clipped_overlaps_agree_with_slices)
{
    const double r = 0.70710678118654752;
    const sv_rectangle64 square = {3, 4, 1, 1, 1, 0}, turned = {3, 4, 1, 1, r, r}, away = {5, 4, 1, 1, r, r},
                         inside = {3, 4, 0.5, 0.25, r, -r};
    ck_assert_double_eq_tol(sv_overlap_exact64(&square, &turned), 2 * (sqrt(2) - 1), 1e-14);
    ck_assert_double_eq(sv_overlap_exact64(&square, &square), 1);
    ck_assert_double_eq(sv_overlap_exact64(&square, &away), 0);
    ck_assert_double_eq_tol(sv_overlap_exact64(&square, &inside), 0.125, 1e-15);
    test_rng rng = {9};
    for (int n = 0; n < 200; n++) {
        sv_rectangle64 p[2];
        for (int k = 0; k < 2; k++) {
            const double angle = rng_uniform(&rng, -4, 4);
            p[k] = (sv_rectangle64){rng_uniform(&rng, -1, 1),
                                    rng_uniform(&rng, -1, 1),
                                    rng_uniform(&rng, 0.1, 4),
                                    rng_uniform(&rng, 0.1, 2),
                                    cos(angle),
                                    sin(angle)};
        }
        enum { SLICES = 20000 };
        double area = 0;
        for (int i = 0; i < SLICES; i++) {
            double low[2], high[2];
            const double x = -4 + 8 * (i + 0.5) / SLICES;
            if (span_at(&p[0], x, &low[0], &high[0]) && span_at(&p[1], x, &low[1], &high[1]))
                area += fmax(0, fmin(high[0], high[1]) - fmax(low[0], low[1])) * 8 / SLICES;
        }
        ck_assert_double_eq_tol(sv_overlap_exact64(&p[0], &p[1]), area, 2e-3);
        ck_assert_double_eq_tol(sv_overlap_exact64(&p[0], &p[1]), sv_overlap_exact64(&p[1], &p[0]), 1e-12);
    }
}
END_TEST

/* ---- recorded results --------------------------------------------------------------------------------- */

START_TEST(recorded_results_of_the_official_programs)
{
    const char *folder = reference_folder(), *program = getenv("SAVANNA_PROGRAM");
    if (!folder || !program) return;
    char command[2048], text[4096];
    snprintf(command, sizeof command,
             "%s check --strict %s/golden/eval/kitti 2>&1 | tail -5; exit ${PIPESTATUS:-0}", program, folder);
    FILE *pipe = popen(command, "r");
    ck_assert_ptr_nonnull(pipe);
    text[fread(text, 1, sizeof text - 1, pipe)] = '\0';
    pclose(pipe);
    ck_assert_msg(strstr(text, " 0 failed, 0 not covered") && !strstr(text, " 0 tensors ok"), "%s", text);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kitti_eval");
    TCase *tests = tcase_create("kitti_eval");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, precision_follows_the_scores);
    tcase_add_test(tests, precision_is_carried_to_the_left);
    tcase_add_test(tests, the_overlap_must_be_more_than_the_minimum);
    tcase_add_test(tests, height_limits_differ_between_the_programs);
    tcase_add_test(tests, neighbours_and_ignored_labels_count_neither_way);
    tcase_add_test(tests, dont_care_takes_false_detections_out_of_bbox_only);
    tcase_add_test(tests, a_small_detection_of_another_class_absorbs_a_label);
    tcase_add_test(tests, passes_choose_differently);
    tcase_add_test(tests, orientation_is_half_the_cosine);
    tcase_add_test(tests, nothing_is_not_an_error);
    tcase_add_test(tests, equal_scores_and_copies);
    tcase_add_test(tests, perfect_detections_reach_the_attainable_score);
    tcase_add_test(tests, random_scenes_agree_with_the_plain_program);
    tcase_add_test(tests, threads_and_batches_do_not_change_a_byte);
    tcase_add_test(tests, scores_may_be_taken_in_between);
    tcase_add_test(tests, verdicts_of_a_frame);
    tcase_add_test(tests, recall_and_precision_by_distance);
    tcase_add_test(tests, clipped_overlaps_agree_with_slices);
    tcase_add_test(tests, recorded_results_of_the_official_programs);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
