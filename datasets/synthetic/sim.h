/* SPDX-License-Identifier: Apache-2.0
 *
 * A simulator of streets as LiDARs and cameras see them. A world is an endless
 * street drawn from a seed; a scene is that street around one place at one
 * moment, made of simple solids; sensors cast rays at a scene.
 *
 *     sv_sim_world world = sv_sim_world_make(seed);
 *     sv_sim_scene scene = {0};
 *     SV_TRY(sv_sim_scene_at(c, &world, time, &scene));
 *     sv_sim_scan scan = {0};
 *     SV_TRY(sv_sim_lidar(c, &scene, &sensor, &pose, key, &scan));
 *     sv_sim_scan_free(&scan);
 *     sv_sim_scene_free(&scene);
 *
 * World frame: x along the street, y to its left, z up, metres. Traffic keeps right. All functions are pure: any
 * number of threads may use a world or a scene that is not being changed, and the same arguments give the same bytes.
 */
#ifndef SV_SIM_H
#define SV_SIM_H

#include "perception/core/context.h"
#include "perception/geometry/pose.h"
#include "perception/image.h"

/* ---- scenes ---- */

typedef enum sv_sim_kind {
    SV_SIM_CAR,
    SV_SIM_VAN,
    SV_SIM_TRUCK,
    SV_SIM_PEDESTRIAN,
    SV_SIM_SITTING,
    SV_SIM_CYCLIST,
    SV_SIM_MISC,   /* what traffic meets and no class covers: a trailer, a container */
    SV_SIM_STATIC, /* buildings, trees, poles, fences: never labelled */
    SV_SIM_KINDS
} sv_sim_kind;

typedef enum sv_sim_material {
    SV_SIM_ASPHALT,
    SV_SIM_PAVING,
    SV_SIM_GRASS,
    SV_SIM_PLASTER,
    SV_SIM_BRICK,
    SV_SIM_GLASS,
    SV_SIM_PAINT, /* of cars */
    SV_SIM_RUBBER,
    SV_SIM_METAL,
    SV_SIM_LEAVES,
    SV_SIM_BARK,
    SV_SIM_WOOD,
    SV_SIM_CLOTH,
    SV_SIM_SKIN,
    SV_SIM_MIRROR, /* retro-reflecting: plates, signs, lamps of vehicles */
    SV_SIM_MATERIALS
} sv_sim_material;

typedef enum sv_sim_shape {
    SV_SIM_CONVEX,    /* the points with normal . p <= offset for every plane */
    SV_SIM_ELLIPSOID, /* half axes size[0..2] */
    SV_SIM_CAPSULE,   /* along z: radius size[0], half length of the straight part size[2] */
    SV_SIM_CYLINDER,  /* along z: radius size[0], half length size[2], flat ends */
} sv_sim_shape;

enum { SV_SIM_PLANES = 6 };

/* A solid. Its own frame has the origin in its middle. */
typedef struct sv_sim_part {
    sv_sim_shape shape;
    sv_sim_material material;
    uint32_t colour; /* 0xRRGGBB */
    int object;
    float porosity; /* share of the rays that pass through; of the others some are stopped inside */
    sv_pose pose;   /* part to world */
    float size[3];
    float plane[SV_SIM_PLANES][4]; /* convex: normal (of length one), offset */
    float reach;                   /* radius of a ball about the origin that holds it */
} sv_sim_part;

typedef struct sv_sim_object {
    sv_sim_kind kind;
    uint64_t id;                  /* the same in every scene of a world */
    sv_pose pose;                 /* of the middle of the bottom; x is the length, z the height */
    double length, width, height; /* of the box that holds it, metres */
    double velocity[3];           /* world, m/s */
    int first_part, part_count;
} sv_sim_object;

/* The street's surface about the scene's middle, sampled along x. */
enum { SV_SIM_PROFILE = 1200 };
typedef struct sv_sim_profile {
    double start, step; /* x of the first sample, metres between them */
    struct {
        float height, middle, cross; /* of the middle line; its y; slope to the left */
    } at[SV_SIM_PROFILE];
    float steepest; /* in any direction, without the kerb */
    float curb, pavement, bank[2],
        rise; /* |distance from the middle| of kerb and of the pavement's end; slopes beyond it, left and
                                            right; height of the kerb */
} sv_sim_profile;

typedef struct sv_sim_scene {
    double time;
    sv_pose ego;            /* of the vehicle on the ground below its LiDAR */
    double velocity[3];     /* of the ego vehicle, world */
    sv_sim_object *objects; /* malloc'ed */
    sv_sim_part *parts;     /* of objects, in their order; malloc'ed */
    int object_count, part_count, object_room, part_room;
    sv_sim_profile ground;
    uint64_t seed;
    bool failed; /* no memory for all of it */
} sv_sim_scene;

typedef struct sv_sim_world {
    uint64_t seed;
    double speed[2];         /* of our lane and of the oncoming one, m/s */
    double begin;            /* x at time 0 */
    double hill[2], bend[2]; /* height and length of waves of the street: metres */
    double phase[2];
    double parked, houses, trees, walkers, riders, traffic; /* densities, 0..1 */
    double bank[2], cross;
} sv_sim_world;

sv_sim_world sv_sim_world_make(uint64_t seed);
/* Replaces what 'scene' held (zeroed or from an earlier call), using its memory again. */
sv_status sv_sim_scene_at(sv_ctx *c, const sv_sim_world *world, double time, sv_sim_scene *scene);
void sv_sim_scene_free(sv_sim_scene *scene); /* may be called twice */

/* Height of the ground. */
double sv_sim_ground(const sv_sim_profile *ground, double x, double y);

/* ---- LiDAR ---- */

enum { SV_SIM_BEAMS = 200 };

typedef struct sv_sim_lidar_def {
    const char *name;
    int beams, columns;            /* rays of a turn: beams x columns */
    float elevation[SV_SIM_BEAMS]; /* radians, highest first */
    float range;                   /* farthest return, metres */
    float noise;                   /* standard deviation of ranges, metres */
    float nearest;                 /* closer things give no return */
    float roof[3]; /* of the vehicle: metres below the sensor, behind it and to each side; 0: none */
} sv_sim_lidar_def;

/* "hdl64", "hdl32", "os128", "roof64", "side200"; NULL when there is none of this name. */
const sv_sim_lidar_def *sv_sim_lidar_find(const char *name);
/* Their names, NULL beyond the last. */
const char *sv_sim_lidar_name(int index);

/* Returns in the sensor's frame, beam by beam, each beam in turning order (clockwise seen from above, from the rear). */
typedef struct sv_sim_return {
    float x, y, z;
    float intensity; /* 0..1 */
    int16_t beam, column;
    int32_t object; /* -1: the ground */
} sv_sim_return;

typedef struct sv_sim_scan {
    sv_sim_return *returns; /* malloc'ed */
    int count, room;
    int *per_object; /* returns of every object of the scene; malloc'ed */
    int objects;
} sv_sim_scan;

/* 'pose' is sensor to world. 'key' makes the noise. The whole turn is taken at the scene's moment, as recordings with
 * compensated motion have it. */
sv_status sv_sim_lidar(sv_ctx *c, const sv_sim_scene *scene, const sv_sim_lidar_def *sensor,
                       const sv_pose *pose, uint64_t key, sv_sim_scan *scan);
void sv_sim_scan_free(sv_sim_scan *scan);

/* ---- cameras ---- */

typedef struct sv_sim_camera_def {
    int width, height;
    double fx, fy, cx, cy; /* pixels */
    bool blind;            /* depth and objects only, no picture */
} sv_sim_camera_def;

typedef struct sv_sim_view {
    sv_image image;
    float *depth;      /* [height, width] distance before the camera, metres; 0: sky */
    int32_t *object;   /* [height, width] -1 ground, -2 sky */
    int *seen, *alone; /* pixels of every object: that show it, and that would if it were alone */
    int objects;
} sv_sim_view;

/* 'pose' is camera to world; camera frame: x right, y down, z forward. */
sv_status sv_sim_camera(sv_ctx *c, const sv_sim_scene *scene, const sv_sim_camera_def *camera,
                        const sv_pose *pose, uint64_t key, sv_sim_view *view);
void sv_sim_view_free(sv_sim_view *view);

#endif
