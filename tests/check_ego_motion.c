/* SPDX-License-Identifier: Apache-2.0
 *
 * How a map moves with its sensor: the direction, by worlds that stand still, and what starts afresh.
 */
#include "support_drive.h"

#include "backbones/video/ego_motion.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FRAMES = DRIVE_FRAMES, SIDE = 64, CELLS = SIDE * SIDE };

/* ---- the direction of motion ----------------------------------------------------------------------------- */

enum { LANDMARKS = 3, STEPS = 12 };

/* A vehicle on a curve. */
static sv_whereabouts on_curve(int t)
{
    const double turn = 0.06 * t;
    return (sv_whereabouts){.known = true,
                            .time = 5 + 0.1 * t,
                            .to_world = sv_pose_from_yaw(0.4 + turn, 100 + 0.5 * t, -40 + 0.2 * t, 3)};
}

/* Landmarks of the world as bumps of about a metre, as the vehicle sees them at step t; where they are, in
 * cells. */
static void draw_world(int t, float *map, double at[LANDMARKS][2])
{
    static const double world[LANDMARKS][2] = {{104, -34}, {108, -38}, {101, -32}};
    const sv_whereabouts now = on_curve(t);
    sv_pose back;
    sv_pose_invert(&now.to_world, &back);
    memset(map, 0, sizeof *map * CELLS);
    for (int i = 0; i < LANDMARKS; i++) {
        double p[3] = {world[i][0], world[i][1], 3};
        sv_pose_apply(&back, p, p);
        at[i][0] = p[0] / 0.2 - 0.5;
        at[i][1] = (p[1] + 6.4) / 0.2 - 0.5;
        for (int k = 0; k < CELLS; k++) {
            const double x = k % SIDE - at[i][0], y = k / SIDE - at[i][1];
            map[k] += (float)exp(-(x * x + y * y) / 12);
        }
    }
}

/* Sum over 'state' of a bump of the same width about each landmark, over what it would be if nothing was ever
 * out of place. */
static double in_place(const float *state, double at[LANDMARKS][2], double ideal)
{
    double sum = 0, own = 0;
    for (int i = 0; i < LANDMARKS; i++)
        for (int k = 0; k < CELLS; k++) {
            const double x = k % SIDE - at[i][0], y = k / SIDE - at[i][1], bump = exp(-(x * x + y * y) / 12);
            sum += bump * (double)state[k];
            own += bump * bump;
        }
    return sum / (own * ideal);
}

typedef enum direction { RIGHT, WRONG, NEITHER } direction;

/* The share of a decaying sum of the maps that lies where the landmarks are now. */
static double remember(sv_ctx *c, direction how)
{
    static const sv_motion_rule rule = {1, 20, 45};
    static const sv_map_place place = {0, -6.4, 0.2, 0.2};
    float rows[8], map[CELLS], *state = calloc(2 * CELLS, sizeof *state),
                               *next = malloc(2 * CELLS * sizeof *next);
    double at[LANDMARKS][2], ideal = 0;
    for (int t = 0; t < STEPS; t++) {
        const sv_whereabouts last = on_curve(t - 1), now = on_curve(t),
                             later = {true, now.time + 0.1, last.to_world};
        if (t > 0)
            ck_assert(sv_ego_motion(how == WRONG ? &now : &last, how == WRONG ? &later : &now, &rule, &place,
                                    rows));
        if (t == 0) sv_ego_motion(&(sv_whereabouts){.known = false}, &now, &rule, &place, rows);
        if (t > 0 && how == NEITHER) memcpy(rows, (float[8]){1, 0, 0, 0, 1, 0, 1, 0}, sizeof rows);
        assert_ok(c, sv_map_warp(c, sv_view(next, SV_F32, CELLS, 2), sv_view(state, SV_F32, CELLS, 2),
                                 sv_view(rows, SV_F32, 1, 8), SIDE, SIDE));
        draw_world(t, map, at);
        for (int k = 0; k < CELLS; k++)
            for (int part = 0; part < 2; part++) state[2 * k + part] = 0.9f * next[2 * k + part] + map[k];
        ideal = 0.9 * ideal + 1;
    }
    for (int k = 0; k < CELLS; k++) next[k] = state[2 * k];
    const double share = in_place(next, at, ideal);
    free(state);
    free(next);
    return share;
}

START_TEST(a_static_world_stays_put)
{
    sv_ctx *c = test_context(1);
    const double right = remember(c, RIGHT), wrong = remember(c, WRONG), neither = remember(c, NEITHER);
    ck_assert_msg(right > 0.9, "only %.2f of the state is where the world is", right);
    ck_assert_msg(wrong < 0.55 && neither < 0.75,
                  "moved backwards %.2f and not at all %.2f are too good: the test sees nothing", wrong,
                  neither);
    sv_ctx_close(c);
}
END_TEST

/* Occupancy of the walls and cars of a simulated street, seen from two places. */
static void occupancy(const sv_frame *frame, float *map)
{
    memset(map, 0, sizeof *map * CELLS);
    for (int i = 0; i < frame->count; i++) {
        const float *p = frame->points + (size_t)i * (size_t)frame->columns;
        const int q = (int)floorf(p[0] / 0.2f), r = (int)floorf((p[1] + 6.4f) / 0.2f);
        if (q >= 0 && q < SIDE && r >= 0 && r < SIDE && p[2] > -1.3f && p[2] < 1) map[r * SIDE + q] = 1;
    }
}

static double likeness(const float *a, const float *b)
{
    double ab = 0, aa = 1e-9, bb = 1e-9;
    for (int i = 0; i < CELLS; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb);
}

START_TEST(a_simulated_street_stays_put)
{
    static const sv_motion_rule rule = {1, 20, 45};
    static const sv_map_place place = {0, -6.4, 0.2, 0.2};
    sv_ctx *c = test_context(1);
    sv_frame *frames[FRAMES];
    drive_simulate(c, 6, 4, frames);
    double moved = 0, still = 0, backwards = 0;
    for (int t = 2; t < FRAMES; t++) {
        const sv_whereabouts last = {true, frames[t - 2]->time, frames[t - 2]->to_world},
                             now = {true, frames[t]->time, frames[t]->to_world},
                             then = {true, now.time + 0.2, last.to_world};
        static float before[CELLS], after[CELLS], warped[CELLS], rows[8];
        occupancy(frames[t - 2], before);
        occupancy(frames[t], after);
        still += likeness(before, after);
        for (int way = 0; way < 2; way++) {
            ck_assert(sv_ego_motion(way ? &now : &last, way ? &then : &now, &rule, &place, rows));
            assert_ok(c, sv_map_warp(c, sv_view(warped, SV_F32, CELLS, 1), sv_view(before, SV_F32, CELLS, 1),
                                     sv_view(rows, SV_F32, 1, 8), SIDE, SIDE));
            *(way ? &backwards : &moved) += likeness(warped, after);
        }
    }
    ck_assert_msg(moved > 1.3 * still && moved > 1.3 * backwards,
                  "likeness moved %.2f, still %.2f, backwards %.2f", moved, still, backwards);
    drive_release(frames);
    sv_ctx_close(c);
}
END_TEST

/* ---- gaps and jumps ------------------------------------------------------------------------------------- */

START_TEST(what_starts_afresh)
{
    static const sv_motion_rule rule = {1, 20, 45};
    static const sv_map_place place = {0, -6.4, 0.2, 0.2};
    const double radian = 3.14159265358979323846 / 180;
    const sv_whereabouts last = {true, 10, sv_pose_from_yaw(1, 100, 50, 2)};
    static const struct {
        bool known, carried;
        double time, step, turn, rise;
    } cases[] = {{true, true, 10.1, 1, 2, 0},   {true, true, 11, 19, 44, 0},   {false, false, 10.1, 1, 2, 0},
                 {true, false, 11.01, 1, 2, 0}, {true, false, 10, 1, 2, 0},    {true, false, 9.9, 1, 2, 0},
                 {true, false, 10.1, 21, 2, 0}, {true, false, 10.1, 1, 46, 0}, {true, false, 10.1, 1, 2, 21},
                 {true, false, NAN, 1, 2, 0},   {true, false, 10.1, NAN, 2, 0}};
    float rows[8];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const sv_whereabouts now = {
            cases[i].known, cases[i].time,
            sv_pose_from_yaw(1 + cases[i].turn * radian, 100 + cases[i].step, 50, 2 + cases[i].rise)};
        ck_assert_msg(sv_ego_motion(&last, &now, &rule, &place, rows) == cases[i].carried, "case %zu", i);
        ck_assert(rows[6] == (cases[i].carried ? 1.0f : 0.0f));
    }
    /* at rest: exactly the same map; without times: no rule of time */
    const sv_whereabouts rest = {true, 10.1, last.to_world}, untimed = {true, 0, last.to_world};
    static const float same[8] = {1, 0, 0, 0, 1, 0, 1, 0};
    ck_assert(sv_ego_motion(&last, &rest, &rule, &place, rows));
    ck_assert_mem_eq(rows, same, sizeof rows);
    ck_assert(sv_ego_motion(&untimed, &untimed, &rule, &place, rows));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ego motion");
    TCase *tests = tcase_create("ego motion");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, a_static_world_stays_put);
    tcase_add_test(tests, a_simulated_street_stays_put);
    tcase_add_test(tests, what_starts_afresh);
    suite_add_tcase(s, tests);
    return run_suite(s, true);
}
