/* SPDX-License-Identifier: Apache-2.0
 *
 * A turning LiDAR. How bright a return is: reflectance of the material times
 * how squarely the beam meets it, corrected for distance as sensors report it.
 * Whether there is one: the light that comes back falls with the square of the
 * distance, against a threshold with noise. At an edge a beam meets two
 * surfaces, and now and then the farther one answers, or a point between.
 */
#include "cast.h"
#include "random.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const double turn = 6.283185307179586;

/* ---- sensors ------------------------------------------------------------------------------------------ */

/* Elevations in degrees from 'top' in two blocks of equal steps. */
static void beams(sv_sim_lidar_def *d, double top, double step, int first, double second_step)
{
    double at = top;
    for (int k = 0; k < d->beams; k++) {
        d->elevation[k] = (float)(at * turn / 360);
        at -= k + 1 < first ? step : second_step;
    }
}

enum { SENSORS = 5 };
static sv_sim_lidar_def sensors[SENSORS];
static const char *const names[SENSORS] = {"hdl64", "hdl32", "os128", "roof64", "side200"};

static pthread_once_t made = PTHREAD_ONCE_INIT; /* by whichever thread comes first */

static void make_sensors(void)
{
    /* 64 beams, a third of a degree apart above and half a degree below, 10 turns a second: the sensor of KITTI, on a car
     * whose roof hides up to half of the lowest rows */
    sensors[0] = (sv_sim_lidar_def){.name = names[0],
                                    .beams = 64,
                                    .columns = 2083,
                                    .range = 120,
                                    .noise = 0.009f,
                                    .nearest = 0.9f,
                                    .roof = {0.33f, 1.25f, 0.75f}};
    beams(&sensors[0], 2.4, 0.329, 32, 0.492);
    /* 32 beams over 41 degrees, 20 turns a second: the kind nuScenes carries */
    sensors[1] = (sv_sim_lidar_def){
        .name = names[1], .beams = 32, .columns = 1084, .range = 100, .noise = 0.02f, .nearest = 0.9f};
    beams(&sensors[1], 10.67, 4.0 / 3, 32, 4.0 / 3);
    /* 128 beams over 45 degrees */
    sensors[2] = (sv_sim_lidar_def){
        .name = names[2], .beams = 128, .columns = 2048, .range = 120, .noise = 0.02f, .nearest = 0.8f};
    beams(&sensors[2], 22.5, 45.0 / 127, 128, 45.0 / 127);
    /* 64 beams over 20 degrees, the lower half farther apart, and 200 that see what is near the vehicle, down to the
     * ground at its side: the two kinds that Waymo's cars carry */
    sensors[3] = (sv_sim_lidar_def){
        .name = names[3], .beams = 64, .columns = 2650, .range = 75, .noise = 0.015f, .nearest = 0.9f};
    beams(&sensors[3], 2.4, 0.21, 32, 0.42);
    sensors[4] = (sv_sim_lidar_def){
        .name = names[4], .beams = 200, .columns = 600, .range = 20, .noise = 0.02f, .nearest = 0.3f};
    beams(&sensors[4], 29.7, 0.6, 200, 0.6);
}

const sv_sim_lidar_def *sv_sim_lidar_find(const char *name)
{
    pthread_once(&made, make_sensors);
    for (int k = 0; k < SENSORS; k++)
        if (strcmp(names[k], name) == 0) return &sensors[k];
    return NULL;
}

const char *sv_sim_lidar_name(int index)
{
    return index >= 0 && index < SENSORS ? names[index] : NULL;
}

/* ---- rays --------------------------------------------------------------------------------------------- */

static bool bounds(const void *sensor, const double centre[3], double reach, sim_window *out)
{
    const sv_sim_lidar_def *d = sensor;
    const double flat = sqrt(centre[0] * centre[0] + centre[1] * centre[1]),
                 distance = sqrt(flat * flat + centre[2] * centre[2]);
    *out = (sim_window){0, d->beams, 0, d->columns};
    if (distance <= reach * 1.001) return true;
    const double up = atan2(centre[2], flat), cone = asin(reach / distance) + 1e-4;
    while (out->r0 < d->beams && (double)d->elevation[out->r0] > up + cone) out->r0++;
    while (out->r1 > out->r0 && (double)d->elevation[out->r1 - 1] < up - cone) out->r1--;
    if (out->r0 >= out->r1) return false;
    if (flat > reach * 1.001) {
        const double angle = atan2(centre[1], centre[0]), wide = asin(reach / flat) + 1e-4,
                     step = turn / d->columns;
        out->c0 = (int)floor((turn / 2 - angle - wide) / step - 0.5);
        out->c1 = (int)ceil((turn / 2 - angle + wide) / step - 0.5) + 1;
        if (out->c1 - out->c0 > d->columns) out->c1 = out->c0 + d->columns;
    }
    return true;
}

static bool make_rays(const sv_sim_lidar_def *d, float *x, float *y, float *z)
{
    for (int r = 0; r < d->beams; r++)
        for (int k = 0; k < d->columns; k++) {
            const double azimuth = turn / 2 - (k + 0.5) * turn / d->columns, up = (double)d->elevation[r];
            const size_t i = (size_t)r * (size_t)d->columns + (size_t)k;
            x[i] = (float)(cos(azimuth) * cos(up));
            y[i] = (float)(sin(azimuth) * cos(up));
            z[i] = (float)sin(up);
        }
    return true;
}

/* ---- returns ------------------------------------------------------------------------------------------ */

/* Reflectance of near-infrared light, and how much of it depends on the angle. */
static const struct {
    double reflectance, spread, gloss;
} surface[SV_SIM_MATERIALS] = {
    [SV_SIM_ASPHALT] = {0.32, 0.06, 0.2}, [SV_SIM_PAVING] = {0.38, 0.07, 0.25},
    [SV_SIM_GRASS] = {0.50, 0.12, 0.2},   [SV_SIM_PLASTER] = {0.50, 0.15, 0.6},
    [SV_SIM_BRICK] = {0.42, 0.14, 0.6},   [SV_SIM_GLASS] = {0.06, 0.05, 1},
    [SV_SIM_PAINT] = {0.30, 0.22, 0.9},   [SV_SIM_RUBBER] = {0.08, 0.04, 0.6},
    [SV_SIM_METAL] = {0.30, 0.12, 0.9},   [SV_SIM_LEAVES] = {0.38, 0.18, 0.3},
    [SV_SIM_BARK] = {0.27, 0.08, 0.6},    [SV_SIM_WOOD] = {0.33, 0.10, 0.7},
    [SV_SIM_CLOTH] = {0.30, 0.16, 0.6},   [SV_SIM_SKIN] = {0.44, 0.08, 0.6},
    [SV_SIM_MIRROR] = {0.95, 0.05, 0.1},
};

/* Lasers differ, and calibration leaves some of it: in range, in brightness, and in the least light they answer to. */
typedef struct laser {
    double range, gain, dark;
} laser;

static laser laser_of(int beam)
{
    uint64_t draw = sim_key((uint64_t)beam, 0x1A5E, 0);
    laser l = {.range = 0.008 * sim_normal(&draw), .gain = 1 + 0.10 * sim_normal(&draw)};
    l.dark = fmax(0, 0.02 + 0.02 * sim_normal(&draw)) + (sim_uniform(&draw) < 0.3 ? 0.16 : 0);
    return l;
}

typedef struct shot {
    const sv_sim_scene *scene;
    const sv_sim_lidar_def *d;
    const sv_pose *pose;
    const sim_hits *hits;
    const float *x, *y, *z;
    laser lasers[SV_SIM_BEAMS];
    uint64_t key;
} shot;

/* Whether a ray ends on the roof of its own vehicle; such returns are never recorded. */
static bool roofed(const sv_sim_lidar_def *d, float x, float y, float z)
{
    if (d->roof[0] <= 0 || z >= 0) return false;
    const float away = d->roof[0] / -z;
    return x < 0 && -x * away < d->roof[1] && fabsf(y) * away < d->roof[2];
}

/* The return of ray i from what ray j met: j is i, or its neighbour over an edge. */
static bool answer(const shot *s, size_t i, size_t j, double range, uint64_t *draw, sv_sim_return *out)
{
    const int part = s->hits->part[j];
    const double d[3] = {(double)s->x[i], (double)s->y[i], (double)s->z[i]};
    const double local[3] = {d[0] * range, d[1] * range, d[2] * range};
    double way[3], point[3], normal[3];
    sv_pose_rotate(s->pose, d, way);
    sv_pose_apply(s->pose, local, point);
    sv_sim_material material = SV_SIM_ASPHALT;
    if (part >= 0) {
        material = s->scene->parts[part].material;
        sim_part_normal(&s->scene->parts[part], point, normal);
    } else {
        sim_ground_normal(&s->scene->ground, point[0], point[1], normal);
        const sv_sim_profile *g = &s->scene->ground;
        int at = (int)((point[0] - g->start) / g->step);
        at = at < 0 ? 0 : at > SV_SIM_PROFILE - 1 ? SV_SIM_PROFILE - 1 : at;
        const double away = fabs(point[1] - (double)g->at[at].middle);
        if (away > (double)g->pavement)
            material = SV_SIM_GRASS;
        else if (away > (double)g->curb)
            material = SV_SIM_PAVING;
    }
    const double square = fabs(way[0] * normal[0] + way[1] * normal[1] + way[2] * normal[2]);
    /* every thing and patch has a shade of its own */
    uint64_t shade = part >= 0 ? sim_key(s->scene->objects[s->scene->parts[part].object].id,
                                         (uint64_t)material, s->scene->parts[part].colour)
                               : sim_key((uint64_t)(int64_t)floor(point[0] / 7),
                                         (uint64_t)(int64_t)floor(point[1] / 3), 3);
    double reflectance =
        surface[material].reflectance + surface[material].spread * (2 * sim_uniform(&shade) - 1);
    if (part < 0 && material == SV_SIM_ASPHALT) { /* painted lines */
        const sv_sim_profile *g = &s->scene->ground;
        const int at = (int)fmin(fmax((point[0] - g->start) / g->step, 0), SV_SIM_PROFILE - 1);
        const double side = fabs(point[1] - (double)g->at[at].middle);
        if ((side < 0.07 && fmod(fabs(point[0]), 6) < 3) || fabs(side - 3.5) < 0.06) reflectance = 0.55;
    }
    if (part >= 0 && s->scene->objects[s->scene->parts[part].object].kind <= SV_SIM_TRUCK &&
        material == SV_SIM_PAINT) {
        const uint32_t rgb = s->scene->parts[part].colour; /* dark cars are dark in the near infrared too */
        reflectance = 0.08 + 0.4 * (double)((rgb >> 16 & 255) + (rgb >> 8 & 255) + (rgb & 255)) / 765;
    }
    const double gloss = surface[material].gloss, lit = reflectance * (1 - gloss + gloss * square);
    /* received against what is needed: dark or grazed surfaces are lost far away, glass nearly everywhere */
    const double received =
        reflectance * (0.15 + 0.85 * square) * (50 / fmax(range, 8)) * (50 / fmax(range, 8));
    const double needed = 0.05 * (0.5 + sim_uniform(draw));
    if (material == SV_SIM_GLASS ? sim_uniform(draw) < 0.75 : received < needed) return false;
    if (sim_uniform(draw) < 0.004) return false;

    const laser *own = &s->lasers[i / (size_t)s->d->columns];
    const double measured = range + own->range + (double)s->d->noise * sim_normal(draw);
    double intensity = own->gain * lit * (1 + 0.12 * sim_normal(draw)) - own->dark;
    if (material != SV_SIM_MIRROR) intensity *= range > 60 ? 60 / range : 1;
    intensity = intensity < 0 ? 0 : intensity > 0.99 ? 0.99 : intensity;
    *out = (sv_sim_return){.x = (float)(d[0] * measured),
                           .y = (float)(d[1] * measured),
                           .z = (float)(d[2] * measured),
                           .intensity = (float)(floor(intensity * 100 + 0.5) / 100),
                           .object = part >= 0 ? s->scene->parts[part].object : -1};
    return true;
}

static bool shoot(const shot *s, int row, int column, sv_sim_return *out)
{
    const int columns = s->d->columns;
    const size_t i = (size_t)row * (size_t)columns + (size_t)column;
    const size_t next = (size_t)row * (size_t)columns + (size_t)((column + 1) % columns);
    if (roofed(s->d, s->x[i], s->y[i], s->z[i])) return false;
    uint64_t draw = sim_key(s->key, 0x11DA, i);
    size_t j = i;
    double range = (double)s->hits->range[i];
    /* a beam is a few millimetres wide: at an edge part of it passes, and lands on what the next beam meets */
    const double gap = fabs((double)s->hits->range[next] - range);
    if (gap > 0.3 && s->hits->part[next] != SIM_NOTHING && sim_uniform(&draw) < 0.12) {
        const double share = sim_uniform(&draw);
        if (gap < 1.2) { /* too close to be told apart: one return between both */
            range += share * ((double)s->hits->range[next] - range);
        } else if (share < 0.5) {
            j = next;
            range = (double)s->hits->range[next];
        }
    }
    if (s->hits->part[j] == SIM_NOTHING) return false;
    if (!answer(s, i, j, range, &draw, out)) return false;
    out->beam = (int16_t)row;
    out->column = (int16_t)column;
    return true;
}

sv_status sv_sim_lidar(sv_ctx *c, const sv_sim_scene *scene, const sv_sim_lidar_def *sensor,
                       const sv_pose *pose, uint64_t key, sv_sim_scan *scan)
{
    const size_t count = (size_t)sensor->beams * (size_t)sensor->columns;
    float *directions = malloc(3 * count * sizeof *directions);
    SV_CHECK(c, directions, SV_NO_MEMORY, "no memory for %zu rays", count);
    float *x = directions, *y = x + count, *z = y + count;
    make_rays(sensor, x, y, z);
    const sim_rays rays = {sensor->beams,   sensor->columns, x, y, z, sensor, bounds,
                           sensor->nearest, sensor->range};
    sim_hits hits;
    sv_status status = sim_cast(c, scene, pose, &rays, key, &hits);
    sv_sim_scan_free(scan);
    if (status == SV_OK) {
        scan->returns = malloc(count * sizeof *scan->returns);
        scan->per_object = calloc((size_t)scene->object_count + 1, sizeof *scan->per_object);
        scan->room = (int)count;
        scan->objects = scene->object_count;
        if (!scan->returns || !scan->per_object) {
            sv_sim_scan_free(scan);
            status = SV_FAIL(c, SV_NO_MEMORY, "no memory for %zu returns", count);
        }
    }
    shot s = {scene, sensor, pose, &hits, x, y, z, {{0, 0, 0}}, key};
    for (int r = 0; r < sensor->beams; r++) s.lasers[r] = laser_of(r);
    for (int r = 0; status == SV_OK && r < sensor->beams; r++)
        for (int k = 0; k < sensor->columns; k++) {
            sv_sim_return *out = &scan->returns[scan->count];
            if (!shoot(&s, r, k, out)) continue;
            if (out->object >= 0) scan->per_object[out->object]++;
            scan->count++;
        }
    if (status == SV_OK || hits.range) sim_hits_free(&hits);
    free(directions);
    return status;
}

void sv_sim_scan_free(sv_sim_scan *scan)
{
    free(scan->returns);
    free(scan->per_object);
    *scan = (sv_sim_scan){0};
}
