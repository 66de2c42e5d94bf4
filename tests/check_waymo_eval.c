/* SPDX-License-Identifier: Apache-2.0
 *
 * The Waymo evaluator against the plainest form of its rules, results files, and savanna eval on small drives.
 */
#include "support_program.h"
#include "support_waymo.h"

#include "datasets/evaluator.h"
#include "datasets/waymo_dataset.h"
#include "datasets/waymo_eval.h"
#include "datasets/waymo_overlap.h"
#include "perception/geometry/rotated_iou.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const double pi = 3.14159265358979323846;

/* ---- overlaps ----------------------------------------------------------------------------------------- */

START_TEST(shared_areas)
{
    test_rng rng = {3};
    for (int i = 0; i < 20000; i++) {
        double v[2][5];
        for (int k = 0; k < 2; k++) {
            v[k][0] = rng_uniform(&rng, -2, 2), v[k][1] = rng_uniform(&rng, -2, 2);
            v[k][2] = rng_uniform(&rng, 0.1, 4), v[k][3] = rng_uniform(&rng, 0.1, 2),
            v[k][4] = rng_uniform(&rng, -4, 4);
        }
        const sv_waymo_quad p = sv_waymo_quad_make(v[0][0], v[0][1], v[0][2], v[0][3], v[0][4]),
                            q = sv_waymo_quad_make(v[1][0], v[1][1], v[1][2], v[1][3], v[1][4]);
        const sv_rectangle64 a = {v[0][0], v[0][1], v[0][2], v[0][3], cos(v[0][4]), sin(v[0][4])},
                             b = {v[1][0], v[1][1], v[1][2], v[1][3], cos(v[1][4]), sin(v[1][4])};
        ck_assert_double_eq_tol(sv_waymo_shared_area(&p, &q), sv_overlap_exact64(&a, &b), 2e-10);
    }
    /* one within the other, the same twice, side by side, apart */
    const sv_waymo_quad big = sv_waymo_quad_make(1, 2, 4, 2, 0.3),
                        small = sv_waymo_quad_make(1.1, 2, 1, 0.5, 1.3),
                        beside = sv_waymo_quad_make(1 + 4 * cos(0.3), 2 + 4 * sin(0.3), 4, 2, 0.3),
                        far = sv_waymo_quad_make(9, 2, 1, 1, 0);
    ck_assert_double_eq_tol(sv_waymo_shared_area(&big, &small), 0.5, 1e-12);
    ck_assert_double_eq_tol(sv_waymo_shared_area(&small, &big), 0.5, 1e-12);
    ck_assert_double_eq_tol(sv_waymo_shared_area(&big, &big), 8, 1e-12);
    ck_assert_double_eq_tol(sv_waymo_shared_area(&big, &beside), 0, 1e-9);
    ck_assert_double_eq(sv_waymo_shared_area(&big, &far), 0);
}
END_TEST

/* ---- the plain rules ---------------------------------------------------------------------------------- */

enum { MOST = 9 };

static float plain_overlap(const sv_waymo_object *p, const sv_waymo_object *q)
{
    const sv_rectangle64 a = {p->x, p->y, p->length, p->width, cos(p->heading), sin(p->heading)},
                         b = {q->x, q->y, q->length, q->width, cos(q->heading), sin(q->heading)};
    const double low = fmax(p->z - p->height / 2, q->z - q->height / 2),
                 high = fmin(p->z + p->height / 2, q->z + q->height / 2);
    if (high < low) return 0;
    const double both = sv_overlap_exact64(&a, &b) * (high - low);
    return (float)(both / (p->length * p->width * p->height + q->length * q->width * q->height - both));
}

/* Every assignment is tried: detection i takes a free label or none. */
typedef struct trial {
    int weight[MOST][MOST], detections, labels;
    int now[MOST], best[MOST];
    long best_sum;
} trial;

static void try_all(trial *t, int i, unsigned taken, long sum)
{
    if (i == t->detections) {
        if (sum <= t->best_sum) return;
        t->best_sum = sum;
        memcpy(t->best, t->now, sizeof t->now);
        return;
    }
    for (int j = 0; j < t->labels; j++) {
        if (taken >> j & 1 || t->weight[i][j] == 0) continue;
        t->now[i] = j;
        try_all(t, i + 1, taken | 1u << j, sum + t->weight[i][j]);
    }
    t->now[i] = -1;
    try_all(t, i + 1, taken, sum);
}

static int plain_range(const sv_waymo_object *o)
{
    const double d = sqrt(o->x * o->x + o->y * o->y + o->z * o->z);
    return d < 30 ? 1 : d < 50 ? 2 : 3;
}

static sv_waymo_counts plain_counts(const sv_waymo_eval_frame *f, int waymo_class, int range, float cutoff)
{
    const sv_waymo_object *detections[MOST], *labels[MOST];
    trial t = {.best_sum = -1};
    sv_waymo_counts n = {0};
    bool taken[MOST] = {false};
    for (int i = 0; i < f->detection_count; i++) {
        const sv_waymo_object *o = &f->detections[i];
        if (o->type == waymo_class + 1 && o->score >= cutoff && (!range || plain_range(o) == range))
            detections[t.detections++] = o;
    }
    for (int i = 0; i < f->label_count; i++) {
        const sv_waymo_object *o = &f->labels[i];
        if (o->type == waymo_class + 1 && o->points > 0 && (!range || plain_range(o) == range))
            labels[t.labels++] = o;
    }
    for (int i = 0; i < t.detections; i++)
        for (int j = 0; j < t.labels; j++) {
            const float iou = plain_overlap(detections[i], labels[j]);
            t.weight[i][j] = iou >= (waymo_class ? 0.5f : 0.7f) ? (int)roundf(iou * 1e6f) : 0;
        }
    try_all(&t, 0, 0, 0);
    for (int i = 0; i < t.detections; i++) {
        if (t.best[i] < 0) {
            n.false_alarms += !detections[i]->in_zone;
            continue;
        }
        double turn = fabs(fmod(fabs(detections[i]->heading - labels[t.best[i]]->heading), 2 * pi));
        if (turn > pi) turn = 2 * pi - turn;
        taken[t.best[i]] = true;
        n.found++;
        n.heading += (float)(1 - turn / pi);
    }
    for (int j = 0; j < t.labels; j++) {
        const int level = labels[j]->level ? labels[j]->level : labels[j]->points <= 5 ? 2 : 1;
        if (taken[j]) continue;
        n.missed[0] += level == 1;
        n.missed[1]++;
    }
    return n;
}

static sv_waymo_object random_object(test_rng *rng, const sv_waymo_object *near)
{
    sv_waymo_object o = {.length = rng_uniform(rng, 1.5, 4.5),
                         .width = rng_uniform(rng, 1, 2),
                         .height = rng_uniform(rng, 1, 2),
                         .heading = rng_uniform(rng, -9, 9),
                         .type = 1 + (int)rng_uniform(rng, 0, 2),
                         .points = (int)rng_uniform(rng, -1, 12),
                         .level = (int)rng_uniform(rng, 0, 3)};
    o.x = rng_uniform(rng, -1, 1) * (rng_u64(rng) % 3 ? 20 : 45);
    o.y = rng_uniform(rng, -1, 1) * 30;
    if (near) {
        o = *near;
        o.x += rng_uniform(rng, -0.3, 0.3), o.y += rng_uniform(rng, -0.3, 0.3),
            o.z += rng_uniform(rng, -0.1, 0.1);
        o.heading += rng_uniform(rng, -0.2, 0.2) + (rng_u64(rng) % 5 == 0 ? 3 : 0);
    }
    /* on the cutoffs, between them, below and above all of them */
    const int where = (int)(rng_u64(rng) % 8);
    o.score = where == 0   ? (float)((int)rng_uniform(rng, 0, 101) * 0.01)
              : where == 1 ? -0.5f
              : where == 2 ? 1.5f
                           : (float)rng_uniform(rng, 0, 1);
    o.in_zone = rng_u64(rng) % 6 == 0;
    return o;
}

START_TEST(matching_at_every_cutoff)
{
    enum { FRAMES = 60 };
    static sv_waymo_object labels[FRAMES][MOST], detections[FRAMES][MOST];
    sv_waymo_eval_frame frames[FRAMES];
    sv_waymo_scores *first = NULL;
    test_rng rng = {11};
    for (int k = 0; k < FRAMES; k++) {
        const int n = (int)(rng_u64(&rng) % (MOST - 2)), m = (int)(rng_u64(&rng) % MOST);
        for (int i = 0; i < n; i++) /* crowds: labels that overlap, too */
            labels[k][i] = random_object(&rng, i && rng_u64(&rng) % 3 == 0 ? &labels[k][i - 1] : NULL);
        for (int i = 0; i < m; i++)
            detections[k][i] =
                random_object(&rng, n && rng_u64(&rng) % 4 ? &labels[k][rng_u64(&rng) % (unsigned)n] : NULL);
        frames[k] = (sv_waymo_eval_frame){labels[k], detections[k], n, m};
    }
    for (int threads = 1; threads <= 3; threads += 2) {
        sv_ctx *c = test_context(threads);
        sv_waymo_eval *e;
        sv_waymo_scores *s = calloc(1, sizeof *s);
        assert_ok(c, sv_waymo_eval_open(c, &e));
        assert_ok(c, sv_waymo_eval_add(c, e, frames, 7));
        assert_ok(c, sv_waymo_eval_add(c, e, frames + 7, FRAMES - 7));
        assert_ok(c, sv_waymo_eval_finish(c, e, s));
        ck_assert_int_eq(s->frames, FRAMES);
        if (first) {
            ck_assert_mem_eq(first, s, sizeof *s);
            free(s);
        } else {
            first = s;
        }
        sv_waymo_eval_close(e);
        sv_ctx_close(c);
    }
    int64_t found = 0;
    for (int k = 0; k < SV_WAYMO_CLASSES; k++)
        for (int r = 0; r < SV_WAYMO_RANGES; r++)
            for (int i = 0; i < SV_WAYMO_CUTOFFS; i++) {
                sv_waymo_counts sum = {0};
                const sv_waymo_counts *n = &first->curve[k][r].at[i];
                for (int j = 0; j < FRAMES && k < 2; j++) {
                    const sv_waymo_counts one = plain_counts(&frames[j], k, r, sv_waymo_cutoff(i));
                    sum.found += one.found;
                    sum.false_alarms += one.false_alarms;
                    sum.missed[0] += one.missed[0];
                    sum.missed[1] += one.missed[1];
                    sum.heading += one.heading;
                }
                ck_assert_msg(
                    n->found == sum.found && n->false_alarms == sum.false_alarms &&
                        n->missed[0] == sum.missed[0] && n->missed[1] == sum.missed[1],
                    "class %d range %d cutoff %d: %lld %lld %lld %lld instead of %lld %lld %lld %lld", k, r,
                    i, (long long)n->found, (long long)n->false_alarms, (long long)n->missed[0],
                    (long long)n->missed[1], (long long)sum.found, (long long)sum.false_alarms,
                    (long long)sum.missed[0], (long long)sum.missed[1]);
                ck_assert_float_eq_tol(n->heading, sum.heading, 1e-3f);
                found += n->found;
            }
    ck_assert_int_gt(found, 5000);
    free(first);
}
END_TEST

START_TEST(areas_under_curves)
{
    sv_ctx *c = test_context(1);
    sv_waymo_eval *e;
    sv_waymo_scores *s = calloc(1, sizeof *s);
    sv_waymo_object car = {.length = 4, .width = 2, .height = 1.5, .score = 0.6f, .type = 1, .points = 9};
    sv_waymo_object labels[2] = {car, car}, detections[2] = {car, car};
    labels[1].x = detections[1].x = 20;
    detections[1].y = 8; /* beside its label */
    detections[1].score = 0.9f;
    detections[0].heading = pi / 2 * 2; /* the wrong way */
    detections[0].y = 0.01;
    assert_ok(c, sv_waymo_eval_open(c, &e));
    const sv_waymo_eval_frame frame = {labels, detections, 2, 2};
    assert_ok(c, sv_waymo_eval_add(c, e, &frame, 1));
    assert_ok(c, sv_waymo_eval_finish(c, e, s));
    /* (recall 1/2, precision 1/2), then recall 0: a half of a half; turned round, heading gives nothing */
    ck_assert_float_eq_tol(s->curve[0][0].ap[0], 0.25f, 1e-6f);
    ck_assert_float_eq_tol(s->curve[0][0].aph[0], 0, 1e-6f);
    ck_assert_float_eq(s->curve[3][0].ap[1], 0);
    sv_waymo_eval_close(e);
    /* frames without labels, without detections, without both */
    assert_ok(c, sv_waymo_eval_open(c, &e));
    const sv_waymo_eval_frame few[3] = {{NULL, detections, 0, 1}, {labels, NULL, 1, 0}, {NULL, NULL, 0, 0}};
    assert_ok(c, sv_waymo_eval_add(c, e, few, 3));
    assert_ok(c, sv_waymo_eval_finish(c, e, s));
    ck_assert_float_eq(s->curve[0][0].ap[0], 0);
    ck_assert_int_eq(s->curve[0][0].at[0].false_alarms, 1);
    ck_assert_int_eq(s->curve[0][0].at[0].missed[0], 1);
    detections[0].score = NAN;
    const sv_waymo_eval_frame bad = {labels, detections, 2, 2};
    assert_fails(c, sv_waymo_eval_add(c, e, &bad, 1), SV_BAD_INPUT, "not finite");
    sv_waymo_eval_close(e);
    free(s);
    sv_ctx_close(c);
}
END_TEST

/* ---- files of results --------------------------------------------------------------------------------- */

START_TEST(objects_read_back)
{
    sv_ctx *c = test_context(1);
    test_rng rng = {5};
    sv_wire_out bytes = {0}, whole = {0};
    sv_waymo_object wrote[40];
    /* frames that alternate: their objects are not neighbours */
    for (int i = 0; i < 40; i++) {
        wrote[i] = random_object(&rng, NULL);
        sv_waymo_put_object(&bytes, &wrote[i], i % 3 ? "a" : "b", 1000 + i % 2);
    }
    sv_wire_put_int(&whole, 1, 2);
    sv_wire_put_bytes(&whole, 2, "method", 6);
    sv_wire_put_bytes(&whole, 11, bytes.data, bytes.size);
    const char *paths[2] = {test_path("objects.bin"), test_path("submission.bin")};
    write_file(paths[0], bytes.data, bytes.size);
    write_file(paths[1], whole.data, whole.size);
    for (int k = 0; k < 2; k++) {
        sv_waymo_file file;
        sv_waymo_keys keys = {0};
        int order[4], next[4] = {0};
        assert_ok(c, sv_waymo_file_open(c, paths[k], sv_waymo_keys_number, &keys, &file));
        ck_assert_int_eq(keys.count, 4);
        ck_assert_int_eq(file.objects, 40);
        ck_assert(sv_waymo_keys_sort(&keys, order));
        ck_assert_str_eq(keys.data[order[0]].context, "a");
        ck_assert_int_eq(keys.data[order[1]].timestamp, 1001);
        sv_waymo_object *read[4];
        int counts[4];
        for (int f = 0; f < 4; f++) assert_ok(c, sv_waymo_file_read(c, &file, f, &read[f], &counts[f]));
        for (int i = 0; i < 40; i++) {
            const sv_waymo_key key = {.context = {i % 3 ? 'a' : 'b'}, .timestamp = 1000 + i % 2};
            const int f = sv_waymo_keys_number(&keys, &key);
            const sv_waymo_object *o = &read[f][next[f]++];
            ck_assert(o->x == wrote[i].x && o->heading == wrote[i].heading && o->score == wrote[i].score &&
                      o->type == wrote[i].type && o->points == wrote[i].points &&
                      o->level == wrote[i].level && o->in_zone == wrote[i].in_zone &&
                      o->length == wrote[i].length && o->width == wrote[i].width);
        }
        for (int f = 0; f < 4; f++) {
            ck_assert_int_eq(next[f], counts[f]);
            free(read[f]);
        }
        sv_waymo_file_close(&file);
        sv_waymo_keys_free(&keys);
    }
    sv_wire_free(&bytes);
    sv_wire_free(&whole);
    sv_ctx_close(c);
}
END_TEST

static sv_status open_bytes(sv_ctx *c, const void *bytes, size_t size)
{
    const char *path = test_path("lies.bin");
    sv_waymo_file file;
    sv_waymo_keys keys = {0};
    write_file(path, bytes, size);
    const sv_status status = sv_waymo_file_open(c, path, sv_waymo_keys_number, &keys, &file);
    sv_waymo_file_close(&file);
    sv_waymo_keys_free(&keys);
    return status;
}

START_TEST(objects_that_lie)
{
    sv_ctx *c = test_context(1);
    sv_wire_out bytes = {0};
    sv_waymo_object car = {.length = 4, .width = 2, .height = 1.5, .score = 0.5f, .type = 1};
    sv_waymo_put_object(&bytes, &car, "a", 1);
    const size_t one = bytes.size;
    assert_ok(c, open_bytes(c, bytes.data, bytes.size));
    assert_ok(c, open_bytes(c, "", 0));
    for (size_t n = 1; n < one; n++) {
        ck_assert_int_ne(open_bytes(c, bytes.data, n), SV_OK);
        sv_error_clear(c);
    }
    car.score = NAN;
    sv_waymo_put_object(&bytes, &car, "a", 1);
    assert_fails(c, open_bytes(c, bytes.data, bytes.size), SV_BAD_INPUT, "object 1: its score is nan");
    bytes.size = one;
    car.score = 1;
    car.x = INFINITY;
    sv_waymo_put_object(&bytes, &car, "a", 1);
    assert_fails(c, open_bytes(c, bytes.data, bytes.size), SV_BAD_INPUT, "box is not finite");
    bytes.size = one;
    sv_wire_put_bytes(&bytes, 1, "\x22\x01z", 3);
    assert_fails(c, open_bytes(c, bytes.data, bytes.size), SV_BAD_INPUT, "object 1: has no label");
    assert_fails(c, open_bytes(c, bytes.data, one - 2), SV_BAD_INPUT, "the file is cut off");
    assert_fails(c, open_bytes(c, "hello, world", 12), SV_BAD_INPUT, "no Objects message");
    sv_wire_free(&bytes);
    sv_ctx_close(c);
}
END_TEST

/* ---- savanna eval ------------------------------------------------------------------------------------- */

static bool same_file(const char *a, const char *b)
{
    size_t n = 0, m = 0;
    char *x = read_file(a, &n), *y = read_file(b, &m);
    const bool same = x && y && n == m && memcmp(x, y, n) == 0;
    free(x);
    free(y);
    return same;
}

/* Three frames: with objects, with objects without speed or points, and without any. */
static const char *drive(void)
{
    static const small_box boxes[] = {{10, 2, 1, 4.5, 2, 1.6, 0.3, SV_WAYMO_VEHICLE, 120, 0, true},
                                      {-8, 6, 0.9, 0.8, 0.7, 1.8, -2, SV_WAYMO_PEDESTRIAN, 3, 0, false},
                                      {35, -4, 1.5, 0.2, 0.9, 0.9, 1, SV_WAYMO_SIGN, 9, 2, false},
                                      {60, -4, 1, 1.8, 0.8, 1.7, 1, SV_WAYMO_CYCLIST, 0, 0, false}};
    const char *root = test_path("drive");
    struct stat info;
    if (stat(root, &info) == 0) return root;
    ck_assert_int_eq(mkdir(root, 0777), 0);
    sv_wire_out file = {0};
    for (int k = 0; k < 3; k++) {
        small_frame f = {
            .context = "x_1", .timestamp = 1000 + k, .boxes = boxes, .box_count = k == 2 ? 0 : 4};
        small_pose(0.1, 100, 200, f.pose);
        sv_wire_out message = {0};
        small_message(&f, &message);
        small_record(&file, message.data, message.size);
        sv_wire_free(&message);
    }
    char path[600];
    snprintf(path, sizeof path, "%s/segment-x_1_with_camera_labels.tfrecord", root);
    write_file(path, file.data, file.size);
    sv_wire_free(&file);
    return root;
}

static void write_results(const char *path, bool foreign)
{
    sv_wire_out bytes = {0};
    sv_waymo_object car = {.x = 10,
                           .y = 2,
                           .z = 1,
                           .length = 4.5,
                           .width = 2,
                           .height = 1.6,
                           .heading = 0.3,
                           .score = 0.5f,
                           .type = 1};
    sv_waymo_put_object(&bytes, &car, foreign ? "y_2" : "x_1", 1001);
    sv_waymo_put_object(&bytes, &car, "z_9", 1001);
    write_file(path, bytes.data, bytes.size);
    sv_wire_free(&bytes);
}

START_TEST(scores_of_a_drive)
{
    const char *root = drive(), *results = test_path("results.bin"), *foreign = test_path("foreign.bin"),
               *json = test_path("scores.json");
    assert_says(savanna("eval --root %s --self-check", root), 0, "every score is what its objects allow");
    ck_assert_ptr_nonnull(strstr(output, "attainable"));
    write_results(results, false);
    assert_says(savanna("eval --dataset waymo --root %s --results %s -o %s --curves %s", root, results, json,
                        test_path("curves.png")),
                0, "1 results belong to no sample");
    ck_assert_ptr_nonnull(strstr(output, "3 frames, 6 labels with points, 1 detections"));
    size_t size;
    char *text = read_file(json, &size);
    ck_assert_ptr_nonnull(text);
    ck_assert_ptr_nonnull(strstr(text, "\"mean_APH_LEVEL_2\""));
    free(text);
    write_results(foreign, true);
    assert_says(savanna("eval --root %s --results %s", root, foreign), 3, "holds no results");
    assert_says(savanna("eval --root %s --results %s", root, test_path("nothing.bin")), 3,
                "cannot be opened");
}
END_TEST

START_TEST(detections_of_a_drive)
{
    const char *root = drive(), *saved = test_path("saved"), *one = test_path("one.json"),
               *two = test_path("two.json"), *three = test_path("three.json"),
               *bin = test_path("detected.bin");
    assert_says(savanna("detect -c cluster --dataset waymo --root %s --format waymo", root), 2,
                "-o FILE.bin");
    assert_says(savanna("detect -c cluster --format waymo a.bin"), 2, "--dataset waymo");
    ck_assert_msg(savanna("detect -q -c cluster --dataset waymo --root %s --format waymo -o %s", root, bin) ==
                      0,
                  "%s", output);
    ck_assert_msg(
        savanna("eval -q --root %s -c cluster --save-results %s -o %s --threads 1", root, saved, one) == 0,
        "%s", output);
    ck_assert_msg(savanna("eval -q --root %s --results %s -o %s --threads 3", root, saved, two) == 0, "%s",
                  output);
    ck_assert(same_file(one, two));
    /* too few points for detections make an empty file, which holds no results of the drive */
    struct stat info;
    ck_assert_int_eq(stat(bin, &info), 0);
    if (info.st_size == 0) return;
    ck_assert_msg(savanna("eval -q --root %s --results %s -o %s", root, bin, three) == 0, "%s", output);
    ck_assert(same_file(one, three));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("waymo_eval");
    TCase *t = tcase_create("waymo_eval");
    tcase_set_timeout(t, 240);
    tcase_add_test(t, shared_areas);
    tcase_add_test(t, matching_at_every_cutoff);
    tcase_add_test(t, areas_under_curves);
    tcase_add_test(t, objects_read_back);
    tcase_add_test(t, objects_that_lie);
    tcase_add_test(t, scores_of_a_drive);
    tcase_add_test(t, detections_of_a_drive);
    suite_add_tcase(suite, t);
    return run_suite(suite, false);
}
