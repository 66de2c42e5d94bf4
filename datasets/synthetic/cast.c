/* SPDX-License-Identifier: Apache-2.0 */
#include "cast.h"

#include "perception/core/simd.h"
#include "random.h"

#include <stdlib.h>
#include <string.h>

SV_SIMD_TABLE(sim_kernels);

/* ---- solids ------------------------------------------------------------------------------------------- */

static sim_solid solid_of(const sv_sim_part *part, const sv_pose *to_sensor, double centre[3])
{
    const sv_pose seen =
        sv_pose_compose(to_sensor, &part->pose); /* part to sensor; its transpose turns back */
    sim_solid s;
    for (int i = 0; i < 3; i++) {
        centre[i] = seen.t[i];
        s.origin[i] = (float)-(seen.r[i] * seen.t[0] + seen.r[3 + i] * seen.t[1] + seen.r[6 + i] * seen.t[2]);
        for (int k = 0; k < 3; k++) s.turn[3 * i + k] = (float)seen.r[3 * k + i];
    }
    memcpy(s.size, part->size, sizeof s.size);
    memcpy(s.plane, part->plane, sizeof s.plane);
    return s;
}

enum { SPAN = 256 }; /* rays a kernel takes at a time */

typedef struct caster {
    const sv_sim_scene *scene;
    const sim_rays *rays;
    const sim_kernels *kernels;
    sim_hits *hits;
    uint64_t key;
} caster;

/* Fences have slats, wheels of bicycles a rim with spokes: which rays pass depends on where they meet. */
static bool passes_pattern(const sv_sim_part *part, const sim_solid *s, const sim_rays *rays, size_t ray,
                           float t)
{
    const float d[3] = {rays->x[ray], rays->y[ray], rays->z[ray]};
    float p[3];
    for (int i = 0; i < 3; i++)
        p[i] = s->origin[i] +
               t * (s->turn[3 * i] * d[0] + s->turn[3 * i + 1] * d[1] + s->turn[3 * i + 2] * d[2]);
    if (part->material == SV_SIM_WOOD) {
        const float slat = p[0] / 0.15f;
        return slat - floorf(slat) < part->porosity && fabsf(fabsf(p[2]) - 0.7f * part->plane[4][3]) > 0.04f;
    }
    if (part->shape != SV_SIM_CYLINDER) return false;
    const float round = sqrtf(p[0] * p[0] + p[1] * p[1]), spoke = atan2f(p[1], p[0]) * 2.5465f;
    return round < 0.88f * part->size[0] && round > 0.1f * part->size[0] && spoke - floorf(spoke) > 0.12f;
}

/* One span of a row against a solid. */
static void cast_span(const caster *k, int index, sim_kernel kernel, const sim_solid *s, size_t first, int n)
{
    const sv_sim_part *part = &k->scene->parts[index];
    float near[SPAN], far[SPAN];
    kernel(s, k->rays->x + first, k->rays->y + first, k->rays->z + first, n, near, far);
    float *range = k->hits->range + first;
    int32_t *owner = k->hits->part + first, *touched = k->hits->touched + first;
    for (int i = 0; i < n; i++) {
        if (!(near[i] < far[i]) || !(near[i] > k->rays->nearest)) continue;
        float t = near[i];
        if (part->porosity > 0) {
            if (passes_pattern(part, s, k->rays, first + (size_t)i, t)) continue;
            uint64_t draw = sim_key(k->key, (uint64_t)index, first + (size_t)i);
            if (part->material == SV_SIM_LEAVES) { /* most are stopped by the outer leaves */
                if (sim_uniform(&draw) < (double)part->porosity) continue;
                const float u = (float)sim_uniform(&draw);
                t += u * u * (far[i] - near[i]) * 0.7f;
            }
        }
        if (touched[i] != part->object) {
            touched[i] = part->object;
            k->hits->alone[part->object]++;
        }
        if (t < range[i]) {
            range[i] = t;
            owner[i] = index;
        }
    }
}

static void cast_part(const caster *k, int index, const sv_pose *to_sensor)
{
    const sv_sim_part *part = &k->scene->parts[index];
    double centre[3];
    const sim_solid s = solid_of(part, to_sensor, centre);
    const double distance = sqrt(centre[0] * centre[0] + centre[1] * centre[1] + centre[2] * centre[2]);
    if (distance - (double)part->reach > (double)k->rays->farthest) return;
    sim_window w;
    if (!k->rays->bounds(k->rays->sensor, centre, (double)part->reach, &w)) return;
    const sim_kernel kernel = part->shape == SV_SIM_CONVEX      ? k->kernels->convex
                              : part->shape == SV_SIM_ELLIPSOID ? k->kernels->ellipsoid
                              : part->shape == SV_SIM_CAPSULE   ? k->kernels->capsule
                                                                : k->kernels->cylinder;
    const int columns = k->rays->columns;
    for (int r = w.r0; r < w.r1; r++)
        for (int c = w.c0; c < w.c1;) {
            const int from = (c % columns + columns) % columns;
            int n = w.c1 - c < SPAN ? w.c1 - c : SPAN;
            if (n > columns - from) n = columns - from;
            cast_span(k, index, kernel, &s, (size_t)r * (size_t)columns + (size_t)from, n);
            c += n;
        }
}

/* ---- ground ------------------------------------------------------------------------------------------- */

typedef struct ground_ray {
    const sv_sim_profile *g;
    double o[3], d[3]; /* world */
} ground_ray;

typedef struct ground_place {
    double smooth; /* height without the kerb */
    double away;   /* from the middle of the street */
} ground_place;

static ground_place ground_at(const ground_ray *ray, double t)
{
    const sv_sim_profile *g = ray->g;
    const double x = ray->o[0] + t * ray->d[0], y = ray->o[1] + t * ray->d[1];
    double at = (x - g->start) / g->step;
    at = at < 0 ? 0 : at > SV_SIM_PROFILE - 2 ? SV_SIM_PROFILE - 2 : at;
    const int i = (int)at;
    const double share = at - i, rise = (double)(g->at[i + 1].height - g->at[i].height),
                 bend = (double)(g->at[i + 1].middle - g->at[i].middle),
                 side = y - ((double)g->at[i].middle + share * bend), away = fabs(side);
    ground_place p = {(double)g->at[i].height + share * rise + (double)g->at[i].cross * side, away};
    if (away > (double)g->pavement) p.smooth += (double)g->bank[side < 0] * (away - (double)g->pavement);
    return p;
}

/*
 * Where the ray meets the smooth surface raised by 'lift', from 'start' on; 0: nowhere before 'limit'. Steps are as long as
 * the height above the surface allows, so that no crest is jumped over.
 */
static double meet(const ground_ray *ray, double lift, double start, double limit, ground_place *place)
{
    const double closing = (double)ray->g->steepest - ray->d[2];
    double t = start;
    for (int k = 0; k < 200 && t < limit; k++) {
        *place = ground_at(ray, t);
        const double above = ray->o[2] + t * ray->d[2] - (place->smooth + lift);
        if (above < 5e-4) return t;
        t += above / closing;
    }
    return 0;
}

static double cast_ground(const ground_ray *ray, double limit)
{
    const sv_sim_profile *g = ray->g;
    if (ray->d[2] > (double)g->steepest - 1e-3) return 0;
    ground_place high, low;
    const double raised = meet(ray, (double)g->rise, 0, limit, &high);
    if (raised > 0 && high.away > (double)g->curb) return raised;
    if (raised <= 0) return 0;
    const double street = meet(ray, 0, raised, limit, &low);
    if (street <= 0) return 0;
    if (low.away <= (double)g->curb) return street;
    /* over the street at the kerb's height, and beyond the kerb below it: the kerb's face */
    double before = raised, behind = street;
    for (int k = 0; k < 20; k++) {
        const double t = 0.5 * (before + behind);
        if (ground_at(ray, t).away > (double)g->curb)
            behind = t;
        else
            before = t;
    }
    return behind;
}

/* After the solids, so that rays they stop need not be followed farther. */
static void cast_grounds(const caster *k, const sv_pose *pose)
{
    const sim_rays *rays = k->rays;
    for (size_t i = 0; i < (size_t)rays->rows * (size_t)rays->columns; i++) {
        const double d[3] = {(double)rays->x[i], (double)rays->y[i], (double)rays->z[i]};
        ground_ray ray = {&k->scene->ground, {pose->t[0], pose->t[1], pose->t[2]}, {0}};
        sv_pose_rotate(pose, d, ray.d);
        const double t = cast_ground(&ray, (double)k->hits->range[i]);
        if (t > (double)rays->nearest && t < (double)k->hits->range[i]) {
            k->hits->range[i] = (float)t;
            k->hits->part[i] = SIM_GROUND;
        }
    }
}

/* ---- a sensor ----------------------------------------------------------------------------------------- */

sv_status sim_cast(sv_ctx *c, const sv_sim_scene *scene, const sv_pose *pose, const sim_rays *rays,
                   uint64_t key, sim_hits *hits)
{
    const size_t count = (size_t)rays->rows * (size_t)rays->columns;
    *hits = (sim_hits){.range = malloc(count * sizeof *hits->range),
                       .part = malloc(count * sizeof *hits->part),
                       .alone = calloc((size_t)scene->object_count + 1, sizeof *hits->alone),
                       .touched = malloc(count * sizeof *hits->touched)};
    sv_pose to_sensor;
    const bool rigid = sv_pose_invert(pose, &to_sensor);
    if (!rigid || !hits->range || !hits->part || !hits->alone || !hits->touched) {
        sim_hits_free(hits);
        SV_CHECK(c, rigid, SV_INTERNAL, "the pose of a sensor cannot be inverted");
        return SV_FAIL(c, SV_NO_MEMORY, "no memory for %d x %d rays", rays->rows, rays->columns);
    }
    for (size_t i = 0; i < count; i++) {
        hits->range[i] = rays->farthest;
        hits->part[i] = SIM_NOTHING;
        hits->touched[i] = -1;
    }
    const caster k = {scene, rays, SV_SIMD_PICK(sim_kernels), hits, key};
    for (int i = 0; i < scene->part_count; i++) cast_part(&k, i, &to_sensor);
    cast_grounds(&k, pose);
    return SV_OK;
}

void sim_hits_free(sim_hits *hits)
{
    free(hits->range);
    free(hits->part);
    free(hits->alone);
    free(hits->touched);
    *hits = (sim_hits){0};
}

/* ---- surfaces ----------------------------------------------------------------------------------------- */

void sim_part_normal(const sv_sim_part *part, const double point[3], double normal[3])
{
    sv_pose inverse;
    sv_pose_invert(&part->pose, &inverse);
    double p[3], n[3] = {0, 0, 1};
    sv_pose_apply(&inverse, point, p);
    const double half = (double)part->size[2];
    if (part->shape == SV_SIM_CONVEX) {
        double nearest = -1e30;
        for (int k = 0; k < SV_SIM_PLANES; k++) {
            const float *plane = part->plane[k];
            const double out = (double)plane[0] * p[0] + (double)plane[1] * p[1] + (double)plane[2] * p[2] -
                               (double)plane[3];
            if (out > nearest) {
                nearest = out;
                for (int i = 0; i < 3; i++) n[i] = (double)plane[i];
            }
        }
    } else if (part->shape == SV_SIM_ELLIPSOID) {
        for (int i = 0; i < 3; i++) n[i] = p[i] / ((double)part->size[i] * (double)part->size[i]);
    } else {
        const double round = sqrt(p[0] * p[0] + p[1] * p[1]), beyond = fabs(p[2]) - half;
        const bool flat = part->shape == SV_SIM_CYLINDER && beyond > round - (double)part->size[0];
        n[0] = flat ? 0 : p[0];
        n[1] = flat ? 0 : p[1];
        n[2] = flat                                          ? copysign(1, p[2])
               : part->shape == SV_SIM_CAPSULE && beyond > 0 ? copysign(beyond, p[2])
                                                             : 0;
    }
    const double length = sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]);
    for (int i = 0; i < 3; i++) n[i] = length > 0 ? n[i] / length : i == 2;
    sv_pose_rotate(&part->pose, n, normal);
}

void sim_ground_normal(const sv_sim_profile *ground, double x, double y, double normal[3])
{
    const double e = 0.3, dx = (sv_sim_ground(ground, x + e, y) - sv_sim_ground(ground, x - e, y)) / (2 * e),
                 dy = (sv_sim_ground(ground, x, y + 0.02) - sv_sim_ground(ground, x, y - 0.02)) / 0.04;
    const double length = sqrt(dx * dx + dy * dy + 1);
    normal[0] = -dx / length, normal[1] = -dy / length, normal[2] = 1 / length;
}
