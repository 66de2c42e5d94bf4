/* SPDX-License-Identifier: Apache-2.0
 *
 * Rays of one sensor against a scene. A sensor's rays start in one point and
 * form a grid of rows and columns; a solid touches a small rectangle of the
 * grid, so that each solid is tested against the rays of its rectangle only
 * and the nearest surface is kept, as in a depth buffer.
 */
#ifndef SV_SIM_CAST_H
#define SV_SIM_CAST_H

#include "sim.h"

/* Parts of the grid that a ball may touch: rows r0..r1 and columns c0..c1 (exclusive ends; a turning sensor may give
 * columns below 0 or beyond the last, which wrap round). False: none. */
typedef struct sim_window {
    int r0, r1, c0, c1;
} sim_window;
typedef bool (*sim_bounds)(const void *sensor, const double centre[3], double reach, sim_window *out);

typedef struct sim_rays {
    int rows, columns;
    const float *x, *y, *z; /* [rows, columns] unit directions in the sensor's frame */
    const void *sensor;
    sim_bounds bounds;
    float nearest, farthest;
} sim_rays;

enum { SIM_GROUND = -1, SIM_NOTHING = -2 };

typedef struct sim_hits {
    float *range;     /* [rows, columns]; farthest where nothing was hit */
    int32_t *part;    /* [rows, columns] solid, SIM_GROUND or SIM_NOTHING */
    int *alone;       /* per object: rays that meet it, whatever is before it */
    int32_t *touched; /* [rows, columns] workspace */
} sim_hits;

/* 'pose' is sensor to world; 'key' decides which rays pass through porous solids. 'hits' gets memory of its own. */
sv_status sim_cast(sv_ctx *c, const sv_sim_scene *scene, const sv_pose *pose, const sim_rays *rays,
                   uint64_t key, sim_hits *hits);
void sim_hits_free(sim_hits *hits);

/* Outward normal, in the world, of the solid's surface nearest to a point of the world. */
void sim_part_normal(const sv_sim_part *part, const double point[3], double normal[3]);
/* The same of the ground. */
void sim_ground_normal(const sv_sim_profile *ground, double x, double y, double normal[3]);

/* ---- kernels ---- */

/* A solid as seen from the sensor: the sensor's place and the directions' turn in the solid's frame. */
typedef struct sim_solid {
    float origin[3], turn[9];
    float size[3];
    float plane[SV_SIM_PLANES][4];
} sim_solid;

/* Distances along n rays at which they enter and leave a solid; near >= far: they miss it. */
typedef void (*sim_kernel)(const sim_solid *s, const float *x, const float *y, const float *z, int n,
                           float *near, float *far);
typedef struct sim_kernels {
    sim_kernel convex, ellipsoid, capsule, cylinder;
} sim_kernels;

#endif
