/* SPDX-License-Identifier: Apache-2.0
 *
 * A pinhole camera with the eyes of the LiDAR: one ray a pixel, the sun from
 * one side, a bright sky, dark ground below vehicles, haze far away.
 */
#include "cast.h"
#include "random.h"

#include <stdlib.h>
#include <string.h>

static bool bounds(const void *sensor, const double centre[3], double reach, sim_window *out)
{
    const sv_sim_camera_def *d = sensor;
    *out = (sim_window){0, d->height, 0, d->width};
    const double x = centre[0], y = centre[1], z = centre[2], near = z - reach, far = z + reach;
    if (far < 0.05) return false;
    if (near < 0.05) return true;
    const double left = (x - reach) / (x - reach < 0 ? near : far),
                 right = (x + reach) / (x + reach > 0 ? near : far),
                 top = (y - reach) / (y - reach < 0 ? near : far),
                 bottom = (y + reach) / (y + reach > 0 ? near : far);
    const double c0 = d->cx + d->fx * left - 1, c1 = d->cx + d->fx * right + 2, r0 = d->cy + d->fy * top - 1,
                 r1 = d->cy + d->fy * bottom + 2;
    if (c1 <= 0 || r1 <= 0 || c0 >= d->width || r0 >= d->height) return false;
    if (c0 > 0) out->c0 = (int)c0;
    if (r0 > 0) out->r0 = (int)r0;
    if (c1 < d->width) out->c1 = (int)c1;
    if (r1 < d->height) out->r1 = (int)r1;
    return true;
}

/* Pixel (0, 0) is the middle of the first one. */
static void make_rays(const sv_sim_camera_def *d, float *x, float *y, float *z)
{
    for (int r = 0; r < d->height; r++)
        for (int k = 0; k < d->width; k++) {
            const double u = (k - d->cx) / d->fx, v = (r - d->cy) / d->fy, n = sqrt(u * u + v * v + 1);
            const size_t i = (size_t)r * (size_t)d->width + (size_t)k;
            x[i] = (float)(u / n), y[i] = (float)(v / n), z[i] = (float)(1 / n);
        }
}

/* ---- shading ------------------------------------------------------------------------------------------ */

typedef struct colour {
    double r, g, b;
} colour;

static colour rgb(uint32_t c)
{
    return (colour){(double)(c >> 16 & 255) / 255, (double)(c >> 8 & 255) / 255, (double)(c & 255) / 255};
}

static colour mix(colour a, colour b, double share)
{
    return (colour){a.r + share * (b.r - a.r), a.g + share * (b.g - a.g), a.b + share * (b.b - a.b)};
}

static colour shade_of(colour c, double light)
{
    return (colour){c.r * light, c.g * light, c.b * light};
}

typedef struct shader {
    const sv_sim_scene *scene;
    double sun[3];
    uint64_t key;
} shader;

/* Grain that belongs to a place: 'size' metres, -1..1. */
static double grain(double x, double y, double z, double size)
{
    uint64_t k = sim_key((uint64_t)(int64_t)floor(x / size), (uint64_t)(int64_t)floor(y / size),
                         (uint64_t)(int64_t)floor(z / size));
    return 2 * sim_uniform(&k) - 1;
}

static colour sky(const double way[3])
{
    const double up = way[2] < 0 ? 0 : way[2];
    return mix(rgb(0xdfe7ee), rgb(0x6f9fd8), 1 - 1 / (1 + 4 * up));
}

static colour ground_colour(const shader *s, const double p[3])
{
    const sv_sim_profile *g = &s->scene->ground;
    double at = (p[0] - g->start) / g->step;
    at = at < 0 ? 0 : at > SV_SIM_PROFILE - 2 ? SV_SIM_PROFILE - 2 : at;
    const int i = (int)at;
    const double side = p[1] - ((double)g->at[i].middle +
                                (at - i) * (double)(g->at[i + 1].middle - g->at[i].middle)),
                 away = fabs(side);
    colour c;
    if (away > (double)g->pavement) {
        c = shade_of(rgb(0x64783c), 1 + 0.25 * grain(p[0], p[1], 0, 0.12) + 0.12 * grain(p[0], p[1], 1, 1.1));
    } else if (away > (double)g->curb) {
        const bool joint = fmod(fabs(p[0]), 0.6) < 0.025 || fmod(away, 0.6) < 0.025;
        c = shade_of(rgb(joint                           ? 0x7a7872
                         : away < (double)g->curb + 0.15 ? 0xb4b0a8
                                                         : 0x9c9890),
                     1 + 0.06 * grain(p[0], p[1], 0, 0.6));
    } else {
        c = shade_of(rgb(0x5b5c5f), 1 + 0.10 * grain(p[0], p[1], 0, 0.05) + 0.05 * grain(p[0], p[1], 1, 2.3));
        if ((away < 0.07 && fmod(fabs(p[0]), 6) < 3) || fabs(away - 3.5) < 0.06) c = rgb(0xd6d6d0);
    }
    /* shade below and beside vehicles and people */
    double dark = 1;
    for (int k = 0; k < s->scene->object_count; k++) {
        const sv_sim_object *o = &s->scene->objects[k];
        if (o->kind == SV_SIM_STATIC) continue;
        const double dx = p[0] - o->pose.t[0], dy = p[1] - o->pose.t[1];
        if (dx * dx + dy * dy > 40) continue;
        const double lx = fabs(o->pose.r[0] * dx + o->pose.r[3] * dy) - o->length / 2,
                     ly = fabs(o->pose.r[1] * dx + o->pose.r[4] * dy) - o->width / 2, out = fmax(lx, ly);
        if (out < 0.35) dark = fmin(dark, out < 0 ? 0.38 : 0.38 + 0.62 * out / 0.35);
    }
    return shade_of(c, dark);
}

static colour part_colour(const sv_sim_part *part, const double p[3], const double n[3], const double way[3])
{
    colour c = rgb(part->colour);
    switch (part->material) {
    case SV_SIM_BRICK:
        if (fmod(fabs(p[2]), 0.16) < 0.025) c = shade_of(c, 1.25);
        return shade_of(c, 1 + 0.15 * grain(p[0], p[1], p[2], 0.3));
    case SV_SIM_PLASTER:
        return shade_of(c, 1 + 0.05 * grain(p[0], p[1], p[2], 0.4));
    case SV_SIM_LEAVES:
        return shade_of(c, 1 + 0.4 * grain(p[0], p[1], p[2], 0.11));
    case SV_SIM_BARK:
    case SV_SIM_WOOD:
        return shade_of(c, 1 + 0.15 * grain(p[0], p[1], p[2], 0.09));
    case SV_SIM_GLASS:
    case SV_SIM_PAINT: {
        /* what lies behind the viewer, mirrored */
        const double square = way[0] * n[0] + way[1] * n[1] + way[2] * n[2];
        const double up[3] = {way[0] - 2 * square * n[0], way[1] - 2 * square * n[1],
                              way[2] - 2 * square * n[2]};
        const double graze = 1 - fabs(square), strength = part->material == SV_SIM_GLASS
                                                              ? 0.25 + 0.5 * graze
                                                              : 0.08 + 0.25 * graze * graze;
        return mix(c, up[2] > 0 ? sky(up) : rgb(0x55554f), strength);
    }
    default:
        return c;
    }
}

static colour shade(const shader *s, int owner, const double way[3], const double p[3], double range)
{
    double n[3];
    colour c;
    if (owner >= 0) {
        const sv_sim_part *part = &s->scene->parts[owner];
        sim_part_normal(part, p, n);
        c = part_colour(part, p, n, way);
    } else {
        sim_ground_normal(&s->scene->ground, p[0], p[1], n);
        c = ground_colour(s, p);
    }
    const double sun = n[0] * s->sun[0] + n[1] * s->sun[1] + n[2] * s->sun[2];
    const double light = 0.42 + 0.12 * n[2] + 0.62 * (sun > 0 ? sun : 0);
    return mix(shade_of(c, light), rgb(0xd3dde6), 1 - exp(-range / 260));
}

static uint8_t level(double v)
{
    const double bent = v <= 0 ? 0 : v >= 1 ? 1 : v;
    return (uint8_t)(255 * bent + 0.5);
}

static void paint(const shader *s, const sv_pose *pose, const double d[3], int owner, double range,
                  size_t pixel, uint8_t out[3])
{
    const double local[3] = {d[0] * range, d[1] * range, d[2] * range};
    double way[3], p[3];
    sv_pose_rotate(pose, d, way);
    sv_pose_apply(pose, local, p);
    const colour seen = owner == SIM_NOTHING ? sky(way) : shade(s, owner, way, p, range);
    uint64_t noise = sim_key(s->key, 0xCA, pixel);
    const double rough = 0.02 * (sim_uniform(&noise) - 0.5);
    out[0] = level(seen.r + rough);
    out[1] = level(seen.g + rough);
    out[2] = level(seen.b + rough);
}

sv_status sv_sim_camera(sv_ctx *c, const sv_sim_scene *scene, const sv_sim_camera_def *camera,
                        const sv_pose *pose, uint64_t key, sv_sim_view *view)
{
    sv_sim_view_free(view);
    const size_t count = (size_t)camera->width * (size_t)camera->height;
    float *directions = malloc(3 * count * sizeof *directions);
    SV_CHECK(c, directions, SV_NO_MEMORY, "no memory for %zu pixels", count);
    float *x = directions, *y = x + count, *z = y + count;
    make_rays(camera, x, y, z);
    const sim_rays rays = {camera->height, camera->width, x, y, z, camera, bounds, 0.3f, 220};
    sim_hits hits = {0};
    sv_status status = sim_cast(c, scene, pose, &rays, key, &hits);
    if (status == SV_OK && !camera->blind)
        status = sv_image_new(c, &view->image, camera->width, camera->height, 0);
    if (status == SV_OK) {
        view->depth = malloc(count * sizeof *view->depth);
        view->object = malloc(count * sizeof *view->object);
        view->seen = calloc((size_t)scene->object_count + 1, sizeof *view->seen);
        view->objects = scene->object_count;
        if (!view->depth || !view->object || !view->seen)
            status = SV_FAIL(c, SV_NO_MEMORY, "no memory for a picture of %zu pixels", count);
    }
    uint64_t draw = sim_key(scene->seed, 0x50, 0);
    const double azimuth = sim_between(&draw, 0, 6.28), high = sim_between(&draw, 0.5, 1.1);
    const shader s = {scene, {cos(azimuth) * cos(high), sin(azimuth) * cos(high), sin(high)}, key};
    for (size_t i = 0; status == SV_OK && i < count; i++) {
        const double d[3] = {(double)x[i], (double)y[i], (double)z[i]}, range = (double)hits.range[i];
        const int owner = hits.part[i];
        if (!camera->blind) paint(&s, pose, d, owner, range, i, view->image.rgb + 3 * i);
        view->depth[i] = owner == SIM_NOTHING ? 0 : (float)(d[2] * range);
        view->object[i] = owner >= 0 ? scene->parts[owner].object : owner == SIM_GROUND ? -1 : -2;
        if (owner >= 0) view->seen[scene->parts[owner].object]++;
    }
    if (status == SV_OK) {
        view->alone = hits.alone;
        hits.alone = NULL;
    } else {
        sv_sim_view_free(view);
    }
    sim_hits_free(&hits);
    free(directions);
    return status;
}

void sv_sim_view_free(sv_sim_view *view)
{
    sv_image_free(&view->image);
    free(view->depth);
    free(view->object);
    free(view->seen);
    free(view->alone);
    *view = (sv_sim_view){0};
}
