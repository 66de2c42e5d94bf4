/* SPDX-License-Identifier: Apache-2.0
 *
 * The street: where its surface lies, and what stands and moves on it. Nothing
 * is stored between scenes: things along the kerbs belong to stretches of
 * STRETCH metres, moving things to slots of streams that travel with one
 * speed, and both are drawn from the seed and their number.
 *
 * Across, from the middle line: lanes to 3.5 m, a strip for bicycles, parked
 * cars at 5.3, the kerb at 6.4, pavement to 9.4, gardens, houses.
 */
#include "models.h"
#include "random.h"

#include <stdlib.h>
#include <string.h>

#define STRETCH  12.0
#define AHEAD    110.0 /* how far from the middle of a scene things are */
#define LANE     1.75
#define CYCLING  3.85
#define PARKING  5.3
#define CURB     6.4
#define PAVEMENT 9.4
#define CLEAR    9.0 /* nothing is put nearer to the ego vehicle in its lane */

sv_sim_world sv_sim_world_make(uint64_t seed)
{
    uint64_t key = sim_key(seed, 0x57, 0);
    sv_sim_world w = {.seed = seed};
    w.speed[0] = sim_between(&key, 5, 12);
    w.speed[1] = sim_between(&key, 6, 13);
    w.begin = sim_between(&key, -5000, 5000);
    w.hill[0] = sim_between(&key, 0, 1.3);
    w.hill[1] = sim_between(&key, 150, 280);
    w.bend[0] = sim_between(&key, 2, 14);
    w.bend[1] = sim_between(&key, 260, 500);
    w.phase[0] = sim_between(&key, 0, 6.28);
    w.phase[1] = sim_between(&key, 0, 6.28);
    w.parked = sim_between(&key, 0.15, 0.85);
    w.houses = sim_between(&key, 0.5, 1);
    w.trees = sim_between(&key, 0.2, 0.95);
    w.walkers = sim_between(&key, 0.25, 0.9);
    w.riders = sim_between(&key, 0.25, 0.8);
    w.traffic = sim_between(&key, 0.3, 0.9);
    w.bank[0] = sim_between(&key, -0.02, 0.08);
    w.bank[1] = sim_between(&key, -0.02, 0.08);
    w.cross = sim_between(&key, -0.015, 0.015);
    return w;
}

/* ---- the surface -------------------------------------------------------------------------------------- */

static const double turn = 6.283185307179586;

static double middle(const sv_sim_world *w, double x)
{
    return w->bend[0] * sin(turn * x / w->bend[1] + w->phase[1]);
}

static double heading(const sv_sim_world *w, double x)
{
    return atan(w->bend[0] * turn / w->bend[1] * cos(turn * x / w->bend[1] + w->phase[1]));
}

static double height(const sv_sim_world *w, double x)
{
    return w->hill[0] * sin(turn * x / w->hill[1] + w->phase[0]) +
           0.2 * w->hill[0] * sin(3.1 * turn * x / w->hill[1] + w->phase[1]);
}

static void make_profile(const sv_sim_world *w, double x, sv_sim_profile *out)
{
    *out = (sv_sim_profile){.step = 0.25, .curb = CURB, .pavement = PAVEMENT, .rise = 0.12f};
    out->start = x - out->step * (SV_SIM_PROFILE / 2);
    out->bank[0] = (float)w->bank[0], out->bank[1] = (float)w->bank[1];
    for (int i = 0; i < SV_SIM_PROFILE; i++) {
        const double at = out->start + i * out->step;
        out->at[i].height = (float)height(w, at);
        out->at[i].middle = (float)middle(w, at);
        out->at[i].cross = (float)w->cross;
    }
    double rise = 0;
    for (int i = 1; i < SV_SIM_PROFILE; i++)
        rise = fmax(rise, fabs((double)(out->at[i].height - out->at[i - 1].height)) / out->step);
    const double side = fabs(w->cross) + fmax(fabs(w->bank[0]), fabs(w->bank[1]));
    out->steepest = (float)(1.2 * sqrt(rise * rise + side * side) +
                            0.01); /* the street's bends turn one into the other */
}

double sv_sim_ground(const sv_sim_profile *g, double x, double y)
{
    double place = (x - g->start) / g->step;
    place = place < 0 ? 0 : place > SV_SIM_PROFILE - 2 ? SV_SIM_PROFILE - 2 : place;
    const int i = (int)place;
    const double share = place - i, base = g->at[i].height + share * (g->at[i + 1].height - g->at[i].height),
                 from_middle = y - (g->at[i].middle + share * (g->at[i + 1].middle - g->at[i].middle)),
                 away = fabs(from_middle);
    double z = base + g->at[i].cross * from_middle;
    if (away > g->curb) z += g->rise;
    if (away > g->pavement) z += g->bank[from_middle < 0] * (away - g->pavement);
    return z;
}

/* On the surface at x along the street and 'across' to the left of its middle, facing 'facing' from its direction. */
static sv_pose place(const sv_sim_world *w, const sv_sim_profile *ground, double x, double across,
                     double facing)
{
    const double y = middle(w, x) + across, yaw = heading(w, x) + facing;
    const double slope = (height(w, x + 1) - height(w, x - 1)) / 2;
    const sv_pose level = sv_pose_from_yaw(yaw, x, y, sv_sim_ground(ground, x, y));
    /* wheels stay on the ground: turned about the own y axis by the slope in the direction of the x axis */
    const double tilt = atan(slope) * cos(facing), c = cos(tilt), s = sin(tilt);
    const sv_pose pitch = {.r = {c, 0, -s, 0, 1, 0, s, 0, c}};
    return sv_pose_compose(&level, &pitch);
}

/* ---- things ------------------------------------------------------------------------------------------- */

typedef struct builder {
    const sv_sim_world *w;
    sv_sim_scene *scene;
    double ego_x;
} builder;

/* Houses, trees and poles stand upright on any slope. */
static sv_pose upright(const builder *b, double x, double across, double facing)
{
    const double y = middle(b->w, x) + across;
    return sv_pose_from_yaw(heading(b->w, x) + facing, x, y, sv_sim_ground(&b->scene->ground, x, y));
}

static void vehicle(builder *b, uint64_t key, uint64_t id, double x, double across, double facing)
{
    const double kind = sim_uniform(&key);
    const sv_pose pose = place(b->w, &b->scene->ground, x, across, facing);
    if (kind < 0.82) {
        sim_object(b->scene, SV_SIM_CAR, id, &pose, sim_between(&key, 3.5, 4.7),
                   sim_between(&key, 1.58, 1.84), sim_between(&key, 1.40, 1.66));
        sim_car(b->scene, key);
    } else if (kind < 0.94) {
        sim_object(b->scene, SV_SIM_VAN, id, &pose, sim_between(&key, 4.4, 5.6), sim_between(&key, 1.8, 2.0),
                   sim_between(&key, 1.9, 2.5));
        sim_van(b->scene, key);
    } else {
        sim_object(b->scene, SV_SIM_TRUCK, id, &pose, sim_between(&key, 6.2, 9.8),
                   sim_between(&key, 2.3, 2.5), sim_between(&key, 2.9, 3.6));
        sim_truck(b->scene, key);
    }
}

static void houses(builder *b, uint64_t key, uint64_t id, double x, double side)
{
    sv_pose pose;
    if (sim_uniform(&key) < b->w->houses) {
        const double depth = sim_between(&key, 8, 13), high = sim_between(&key, 5.5, 13),
                     back = sim_between(&key, 0.2, 5);
        pose = upright(b, x, side * (PAVEMENT + 0.6 + back + depth / 2), side > 0 ? turn / 2 : 0);
        pose.t[2] -= 0.3; /* into a slope rather than above it */
        sim_object(b->scene, SV_SIM_STATIC, id, &pose, sim_between(&key, 8.5, STRETCH), depth, high);
        sim_house(b->scene, key);
        return;
    }
    /* a garden in its place */
    const int trees = 3 + (int)(4 * sim_uniform(&key));
    for (int k = 0; k < trees; k++) {
        pose = upright(b, x + sim_between(&key, -5, 5), side * sim_between(&key, 12.5, 26),
                       sim_between(&key, 0, 6));
        sim_object(b->scene, SV_SIM_STATIC, id + 1 + (uint64_t)k, &pose, 1, 1, sim_between(&key, 4.5, 10));
        sim_tree(b->scene, sim_mix(key + (uint64_t)k));
    }
}

static void border(builder *b, uint64_t key, uint64_t id, double x, double side)
{
    const double kind = sim_uniform(&key);
    if (kind > 0.6) return;
    const sv_pose pose = upright(b, x, side * (PAVEMENT + 0.35), 0);
    sim_object(b->scene, SV_SIM_STATIC, id, &pose, sim_between(&key, 7, STRETCH),
               kind < 0.3 ? sim_between(&key, 0.5, 0.9) : 0.25,
               kind < 0.3 ? sim_between(&key, 0.8, 2) : sim_between(&key, 0.8, 1.7));
    if (kind < 0.3)
        sim_hedge(b->scene, key);
    else
        sim_fence(b->scene, key);
}

static void furniture(builder *b, uint64_t key, uint64_t id, double x, double side, bool lamp)
{
    sv_pose pose;
    if (lamp) {
        pose = upright(b, x - 5.5, side * (CURB + 0.45), side > 0 ? turn / 2 : 0);
        sim_object(b->scene, SV_SIM_STATIC, id, &pose, 0.3, 1, sim_between(&key, 6, 8.5));
        sim_lamp(b->scene, key);
    }
    if (sim_uniform(&key) < 0.25) {
        pose = upright(b, x + sim_between(&key, -3, 3), side * (CURB + 0.4), side > 0 ? 0 : turn / 2);
        sim_object(b->scene, SV_SIM_STATIC, id + 1, &pose, 0.3, 0.6, sim_between(&key, 2.2, 3));
        sim_sign(b->scene, key);
    }
    if (sim_uniform(&key) < b->w->trees * 0.8) {
        pose = upright(b, x + sim_between(&key, -2, 2), side * (PAVEMENT - 0.6), sim_between(&key, 0, 6));
        sim_object(b->scene, SV_SIM_STATIC, id + 2, &pose, 1, 1, sim_between(&key, 4, 8));
        sim_tree(b->scene, key);
    }
    if (sim_uniform(&key) < 0.3) {
        pose =
            upright(b, x + sim_between(&key, -5, 5), side * (PAVEMENT - 0.35), sim_between(&key, -0.3, 0.3));
        sim_object(b->scene, SV_SIM_STATIC, id + 3, &pose, sim_between(&key, 0.5, 1.2),
                   sim_between(&key, 0.5, 0.8), sim_between(&key, 0.9, 1.4));
        sim_bin(b->scene, key);
    }
    if (sim_uniform(&key) < 0.10 * b->w->walkers) {
        pose = upright(b, x + 3, side * (PAVEMENT - 0.6), side > 0 ? -turn / 4 : turn / 4);
        sim_object(b->scene, SV_SIM_STATIC, id + 4, &pose, 0.5, 1.6, 0.86);
        sim_bench(b->scene, key);
        sim_object(b->scene, SV_SIM_SITTING, id + 5, &pose, 0.85, 0.6, sim_between(&key, 1.2, 1.32));
        sim_sitting(b->scene, key);
    }
}

static void parked(builder *b, uint64_t key, uint64_t id, double x, double side)
{
    for (int k = 0; k < 2; k++) {
        uint64_t own = sim_key(key, (uint64_t)k, 7);
        if (sim_uniform(&own) >= b->w->parked) continue;
        const double at = x + (k ? 3 : -3) + sim_between(&own, -0.3, 0.3),
                     across = side * (PARKING + sim_between(&own, -0.12, 0.12)),
                     facing = (side > 0 ? turn / 2 : 0) + sim_between(&own, -0.035, 0.035);
        if (sim_uniform(&own) < 0.03) {
            const sv_pose pose = place(b->w, &b->scene->ground, at, across, facing);
            sim_object(b->scene, SV_SIM_MISC, id + (uint64_t)k, &pose, sim_between(&own, 2.4, 3.6),
                       sim_between(&own, 1.3, 1.7), sim_between(&own, 1, 1.9));
            sim_trailer(b->scene, own);
        } else {
            /* lorries are too wide to park here */
            const uint64_t small = sim_uniform(&own) < 0.9 ? 0 : 1;
            const sv_pose pose = place(b->w, &b->scene->ground, at, across, facing);
            sim_object(b->scene, small ? SV_SIM_VAN : SV_SIM_CAR, id + (uint64_t)k, &pose,
                       sim_between(&own, small ? 4.3 : 3.5, small ? 5.2 : 4.7),
                       sim_between(&own, small ? 1.8 : 1.58, small ? 1.95 : 1.82),
                       sim_between(&own, small ? 1.9 : 1.40, small ? 2.4 : 1.66));
            if (small)
                sim_van(b->scene, own);
            else
                sim_car(b->scene, own);
        }
    }
}

static void standing(builder *b, uint64_t key, uint64_t id, double x, double side)
{
    const int count = sim_uniform(&key) < 0.18 * b->w->walkers ? 1 + (int)(3 * sim_uniform(&key)) : 0;
    for (int k = 0; k < count; k++) {
        const sv_pose pose =
            upright(b, x + 2 + sim_between(&key, -0.9, 0.9), side * (CURB + 0.5 + sim_between(&key, 0, 1.6)),
                    sim_between(&key, 0, turn));
        sim_object(b->scene, SV_SIM_PEDESTRIAN, id + (uint64_t)k, &pose, sim_between(&key, 0.45, 0.6),
                   sim_between(&key, 0.5, 0.65), sim_between(&key, 1.55, 1.92));
        sim_pedestrian(b->scene, sim_mix(key + (uint64_t)k), sim_between(&key, -0.4, 0.4));
    }
}

/* ---- what moves --------------------------------------------------------------------------------------- */

typedef struct stream {
    int number;
    double across, spread, facing, speed, spacing, share; /* share: of the slots in use */
} stream;

static void stream_item(builder *b, const stream *s, long slot)
{
    uint64_t key = sim_key(b->w->seed, 0x5000 + (uint64_t)s->number, (uint64_t)slot);
    if (sim_uniform(&key) >= s->share) return;
    const double t = b->scene->time, way = s->facing == 0 ? 1 : -1;
    /* neighbours of a stream draw a little closer and apart */
    const double swing = s->number < 2 ? 1.2 : 0.25, pace = 0.35, phase = sim_between(&key, 0, turn);
    const double x = ((double)slot + sim_between(&key, -0.3, 0.3)) * s->spacing + way * s->speed * t +
                     swing * sin(pace * t + phase),
                 v = way * s->speed + swing * pace * cos(pace * t + phase);
    if (fabs(x - b->ego_x) > AHEAD || (s->number == 0 && fabs(x - b->ego_x) < CLEAR)) return;
    const double across = s->across + sim_between(&key, -s->spread, s->spread), yaw = heading(b->w, x);
    const uint64_t id = sim_key(b->w->seed, 0x6000 + (uint64_t)s->number, (uint64_t)slot);
    const int before = b->scene->object_count;
    if (s->number < 2) {
        vehicle(b, key, id, x, across, s->facing);
    } else if (s->number < 4) {
        const sv_pose pose = place(b->w, &b->scene->ground, x, across, s->facing);
        sim_object(b->scene, SV_SIM_CYCLIST, id, &pose, sim_between(&key, 1.68, 1.85),
                   sim_between(&key, 0.55, 0.7), sim_between(&key, 1.62, 1.82));
        sim_cyclist(b->scene, key, 5 * t + phase);
    } else {
        const sv_pose pose = upright(b, x, across, s->facing + sim_between(&key, -0.15, 0.15));
        const double step = 5.6 * t + phase;
        sim_object(b->scene, SV_SIM_PEDESTRIAN, id, &pose, 0.55 + 0.4 * fabs(sin(step)), 0.62,
                   sim_between(&key, 1.5, 1.93));
        sim_pedestrian(b->scene, key, step);
    }
    if (b->scene->object_count > before) {
        sv_sim_object *o = &b->scene->objects[before];
        o->velocity[0] = v;
        o->velocity[1] = v * tan(yaw);
        o->velocity[2] = v * (height(b->w, x + 1) - height(b->w, x - 1)) / 2;
    }
}

static void streams(builder *b)
{
    const sv_sim_world *w = b->w;
    const stream all[] = {
        {0, -LANE, 0.15, 0, w->speed[0], 22, w->traffic},
        {1, LANE, 0.15, turn / 2, w->speed[1], 24, w->traffic},
        {2, -CYCLING, 0.12, 0, 4.4, 17, w->riders},
        {3, CYCLING, 0.12, turn / 2, 4.8, 19, w->riders},
        {4, -CURB - 1.0, 0.4, 0, 1.35, 6, 0.5 * w->walkers},
        {5, -CURB - 1.9, 0.4, turn / 2, 1.2, 7, 0.5 * w->walkers},
        {6, CURB + 1.0, 0.4, turn / 2, 1.4, 6, 0.5 * w->walkers},
        {7, CURB + 1.9, 0.4, 0, 1.25, 7, 0.5 * w->walkers},
    };
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        const double moved = (all[k].facing == 0 ? 1 : -1) * all[k].speed * b->scene->time;
        const long from = lround((b->ego_x - AHEAD - moved) / all[k].spacing) - 1,
                   to = lround((b->ego_x + AHEAD - moved) / all[k].spacing) + 1;
        for (long slot = from; slot <= to; slot++) stream_item(b, &all[k], slot);
    }
}

/* ---- a scene ------------------------------------------------------------------------------------------ */

sv_status sv_sim_scene_at(sv_ctx *c, const sv_sim_world *w, double time, sv_sim_scene *scene)
{
    const double x = w->begin + w->speed[0] * time;
    scene->time = time;
    scene->seed = w->seed;
    scene->object_count = scene->part_count = 0;
    scene->failed = false;
    make_profile(w, x, &scene->ground);
    scene->ego = place(w, &scene->ground, x, -LANE, 0);
    const double yaw = heading(w, x);
    scene->velocity[0] = w->speed[0];
    scene->velocity[1] = w->speed[0] * tan(yaw);
    scene->velocity[2] = w->speed[0] * (height(w, x + 1) - height(w, x - 1)) / 2;

    builder b = {w, scene, x};
    const long from = (long)floor((x - AHEAD) / STRETCH), to = (long)floor((x + AHEAD) / STRETCH);
    for (long k = from; k <= to; k++)
        for (int side = -1; side <= 1; side += 2) {
            const uint64_t key = sim_key(w->seed, 0x100 + (uint64_t)(side > 0), (uint64_t)k),
                           id = sim_mix(key);
            const double at = ((double)k + 0.5) * STRETCH;
            houses(&b, sim_key(key, 1, 0), id, at, side);
            border(&b, sim_key(key, 2, 0), id + 16, at, side);
            furniture(&b, sim_key(key, 3, 0), id + 32, at, side, k % 2 == (side > 0));
            parked(&b, sim_key(key, 4, 0), id + 48, at, side);
            standing(&b, sim_key(key, 5, 0), id + 64, at, side);
        }
    streams(&b);
    SV_CHECK(c, !scene->failed, SV_NO_MEMORY, "no memory for a scene of %d solids", scene->part_count);
    return SV_OK;
}

void sv_sim_scene_free(sv_sim_scene *scene)
{
    free(scene->objects);
    free(scene->parts);
    *scene = (sv_sim_scene){0};
}
