/* SPDX-License-Identifier: Apache-2.0
 *
 * Rays against solids, many rays at a time. Plain loops without calls or branches, which compilers turn into vector code; no
 * fused multiply-add is used, so that every instruction set gives the same bits.
 */
#include "cast.h"

#include "perception/core/simd.h"

#include <math.h>

#define BIG 1e30f

static inline float least(float a, float b)
{
    return a < b ? a : b;
}

static inline float most(float a, float b)
{
    return a > b ? a : b;
}

static void convex(const sim_solid *s, const float *x, const float *y, const float *z, int n, float *near,
                   float *far)
{
    float room[SV_SIM_PLANES], nx[SV_SIM_PLANES], ny[SV_SIM_PLANES], nz[SV_SIM_PLANES];
    for (int k = 0; k < SV_SIM_PLANES; k++) {
        const float *p = s->plane[k];
        room[k] = p[3] - (p[0] * s->origin[0] + p[1] * s->origin[1] + p[2] * s->origin[2]);
        /* the plane's normal against directions of the sensor's frame */
        nx[k] = p[0] * s->turn[0] + p[1] * s->turn[3] + p[2] * s->turn[6];
        ny[k] = p[0] * s->turn[1] + p[1] * s->turn[4] + p[2] * s->turn[7];
        nz[k] = p[0] * s->turn[2] + p[1] * s->turn[5] + p[2] * s->turn[8];
    }
    for (int i = 0; i < n; i++) near[i] = -BIG, far[i] = BIG;
    for (int k = 0; k < SV_SIM_PLANES; k++)
        for (int i = 0; i < n; i++) {
            const float along = nx[k] * x[i] + ny[k] * y[i] + nz[k] * z[i], t = room[k] / along;
            near[i] = along < 0 ? most(near[i], t) : near[i];
            far[i] = along < 0 ? far[i] : least(far[i], t);
        }
}

static void ellipsoid(const sim_solid *s, const float *x, const float *y, const float *z, int n, float *near,
                      float *far)
{
    const float ux = 1 / s->size[0], uy = 1 / s->size[1], uz = 1 / s->size[2];
    const float ox = s->origin[0] * ux, oy = s->origin[1] * uy, oz = s->origin[2] * uz;
    const float c = ox * ox + oy * oy + oz * oz - 1;
    const float *r = s->turn;
    for (int i = 0; i < n; i++) {
        const float dx = (r[0] * x[i] + r[1] * y[i] + r[2] * z[i]) * ux,
                    dy = (r[3] * x[i] + r[4] * y[i] + r[5] * z[i]) * uy,
                    dz = (r[6] * x[i] + r[7] * y[i] + r[8] * z[i]) * uz;
        const float a = dx * dx + dy * dy + dz * dz, b = dx * ox + dy * oy + dz * oz, inside = b * b - a * c;
        const float root = sqrtf(most(inside, 0));
        near[i] = inside > 0 ? (-b - root) / a : BIG;
        far[i] = inside > 0 ? (-b + root) / a : -BIG;
    }
}

static void capsule(const sim_solid *s, const float *x, const float *y, const float *z, int n, float *near,
                    float *far)
{
    const float *r = s->turn, ox = s->origin[0], oy = s->origin[1], oz = s->origin[2];
    const float radius = s->size[0], half = s->size[2], c = ox * ox + oy * oy - radius * radius;
    for (int i = 0; i < n; i++) {
        const float dx = r[0] * x[i] + r[1] * y[i] + r[2] * z[i],
                    dy = r[3] * x[i] + r[4] * y[i] + r[5] * z[i],
                    dz = r[6] * x[i] + r[7] * y[i] + r[8] * z[i];
        /* the round side, and the end's ball that lies on this side of it */
        const float a = most(dx * dx + dy * dy, 1e-12f), b = dx * ox + dy * oy, inside = b * b - a * c;
        const float t = (-b - sqrtf(most(inside, 0))) / a, at = oz + t * dz;
        const float end = at > 0 ? half : -half, bz = oz - end;
        const float bb = b + dz * bz, bc = c + bz * bz, ball = bb * bb - bc, root = sqrtf(most(ball, 0));
        const bool side = inside > 0 && at <= half && at >= -half, round = inside > 0 && ball > 0;
        near[i] = side ? t : round ? -bb - root : BIG;
        far[i] = side ? t + 0.01f : round ? -bb + root : -BIG;
    }
}

static void cylinder(const sim_solid *s, const float *x, const float *y, const float *z, int n, float *near,
                     float *far)
{
    const float *r = s->turn, ox = s->origin[0], oy = s->origin[1], oz = s->origin[2];
    const float radius = s->size[0], half = s->size[2], c = ox * ox + oy * oy - radius * radius;
    for (int i = 0; i < n; i++) {
        const float dx = r[0] * x[i] + r[1] * y[i] + r[2] * z[i],
                    dy = r[3] * x[i] + r[4] * y[i] + r[5] * z[i],
                    dz = r[6] * x[i] + r[7] * y[i] + r[8] * z[i];
        const float a = most(dx * dx + dy * dy, 1e-12f), b = dx * ox + dy * oy, inside = b * b - a * c;
        const float root = sqrtf(most(inside, 0)), steep = dz < 0 ? least(dz, -1e-12f) : most(dz, 1e-12f);
        const float t0 = (-half - oz) / steep, t1 = (half - oz) / steep;
        const float in = most((-b - root) / a, least(t0, t1)), out = least((-b + root) / a, most(t0, t1));
        near[i] = inside > 0 ? in : BIG;
        far[i] = inside > 0 ? out : -BIG;
    }
}

extern const sim_kernels SV_SIMD(sim_kernels);
const sim_kernels SV_SIMD(sim_kernels) = {convex, ellipsoid, capsule, cylinder};
