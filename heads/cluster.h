/* SPDX-License-Identifier: Apache-2.0
 *
 * The classical detector: boxes from geometry alone, no weights. A baseline, and a first answer on any cloud.
 *
 *   points -> ground (cluster_ground.c) -> obstacles: what stands above it, in 5 cm columns and 20 cm cells
 *          -> segments of connected cells (cluster_segment.c) -> oriented boxes with class and score (cluster_box.c)
 *          -> suppression of overlaps
 *
 * Every sum over points is one of integers (millimetres), so neither their order nor the number of threads changes a
 * byte. README.md of this folder tells what the detector can and cannot do; what each setting means stands here and,
 * with its value, in perception/model/configs/cluster.yaml.
 */
#ifndef SV_CLUSTER_H
#define SV_CLUSTER_H

#include "direct.h"

enum { SV_CLUSTER_CLASSES = 8 };

/* What objects of a class look like. Metres. */
typedef struct sv_cluster_class {
    float size[3];    /* SIZE: usual length, width, height */
    float spread[3];  /* SPREAD: their usual deviation */
    float longest[2]; /* LONG: what may be seen of it along its longer side, at least and at most */
    float widest[2];  /* SHORT: the same along its shorter side */
    float tallest[2]; /* TALL: top above the ground, at least and at most */
    float upper[2];   /* UPPER: the longer side of what reaches into its upper third: a roof, shoulders */
    float face;   /* FACE: share of its columns on the sides that face the sensor; 0: it has no such sides */
    float weight; /* WEIGHT: how far its score is trusted, 0..1 */
} sv_cluster_class;

typedef struct sv_cluster_rules {
    float range[6];  /* DATA_CONFIG.POINT_CLOUD_RANGE */
    float sensor[3]; /* MODEL.SENSOR: where the rays start, in the frame of the points */

    struct {             /* MODEL.GROUND */
        float cell;      /* CELL: side of a cell */
        float slope;     /* SLOPE: steepest rise between neighbouring cells, metres per metre */
        float grade;     /* GRADE: steepest rise or fall on the whole way from the sensor */
        float step;      /* STEP: a cell may lie so much above what its neighbours allow (curbs, noise) */
        float clearance; /* CLEARANCE: obstacles begin so high above the ground */
    } ground;

    struct {              /* MODEL.SEGMENT */
        float cell;       /* CELL: side of a cell; a column is a quarter of it */
        float gap[2];     /* GAP: cells so far apart across the rays belong together, and more per metre */
        float depth[2];   /* DEPTH: the same along the rays, where sides are seen at a sharp angle */
        float top;        /* TOP: what reaches higher without a break is a wall, a trunk, a pole */
        float hanging;    /* HANGING: what begins higher than this, ... */
        float overhang;   /* OVERHANG: ... above a break of this height, hangs over free space */
        float largest;    /* LARGEST: a longer segment is taken apart once, then left out */
        int least_points; /* LEAST_POINTS: fewer are noise */
    } segment;

    int class_count;
    sv_cluster_class classes[SV_CLUSTER_CLASSES];

    float least_score; /* POST_PROCESSING.SCORE_THRESH */
    float overlap;     /* POST_PROCESSING.NMS_THRESH */
    int most_boxes;    /* POST_PROCESSING.MAX_BOXES */
} sv_cluster_rules;

/* fminf() and fmaxf() take care of NaN, in a function call; there is none here. */
static inline float lesser(float a, float b)
{
    return a < b ? a : b;
}
static inline float greater(float a, float b)
{
    return a > b ? a : b;
}

/* Height of the ground on a grid over the range. */
typedef struct sv_cluster_ground {
    int nx, ny;
    float x0, y0, cell, inverse; /* inverse: 1 / cell */
    float *height;               /* [ny][nx], at the cells' centres */
} sv_cluster_ground;

/* What lies above one little square of the ground, where there is anything. */
typedef struct sv_cluster_column {
    float x, y;      /* mean of its points */
    float low, high; /* above the ground */
    int32_t points;
    int32_t cell; /* row of sv_cluster_scene.cells */
} sv_cluster_column;

typedef struct sv_cluster_cell {
    int32_t place;      /* iy * nx + ix */
    int32_t columns[2]; /* first, and one behind the last */
    int32_t points;
    int32_t segment; /* -1: none */
    float low, high;
    uint32_t levels; /* bit i: something between i and i+1 times SV_CLUSTER_LEVEL above the ground */
} sv_cluster_cell;

#define SV_CLUSTER_LEVEL 0.25f /* metres a bit of 'levels' stands for */

/* Directions around the sensor, for what hides what. */
enum { SV_CLUSTER_RAYS = 1440 };

enum { SV_CLUSTER_EMPTY, SV_CLUSTER_FLOOR, SV_CLUSTER_OBSTACLE, SV_CLUSTER_TALL };

/* Obstacles of a sample. Memory: scratch arena. */
typedef struct sv_cluster_scene {
    sv_cluster_ground ground;
    int nx, ny;
    float x0, y0, cell;
    uint8_t *kind;              /* [ny][nx] one of the above: what was seen there */
    int32_t *row;               /* [ny][nx] row of 'cells', -1: none */
    sv_cluster_cell *cells;     /* in order of place */
    sv_cluster_column *columns; /* in order of cell, then place in it */
    float *farthest;            /* [SV_CLUSTER_RAYS] range of the last thing seen near the ground, 0: none */
    float ceiling;     /* the steepest ray upwards, metres per metre: what is higher was not looked at */
    int32_t *members;  /* rows of 'cells', segment by segment */
    int32_t *segments; /* [segment_count+1] into 'members' */
    int cell_count, column_count, segment_count;
} sv_cluster_scene;

/* Between the centres of the cells around x, y. */
static inline float sv_cluster_ground_at(const sv_cluster_ground *g, float x, float y)
{
    const float fx = lesser(greater((x - g->x0) * g->inverse - 0.5f, 0), (float)(g->nx - 1)),
                fy = lesser(greater((y - g->y0) * g->inverse - 0.5f, 0), (float)(g->ny - 1));
    const int x0 = (int)fx, y0 = (int)fy, right = x0 + 1 < g->nx;
    const float tx = fx - (float)x0, ty = fy - (float)y0;
    const float *p = g->height + (size_t)y0 * (size_t)g->nx + (size_t)x0, *q = y0 + 1 < g->ny ? p + g->nx : p;
    const float near = p[0] + (p[right] - p[0]) * tx, far = q[0] + (q[right] - q[0]) * tx;
    return near + (far - near) * ty;
}

/* The keys of MODEL that do not depend on how ground and segments are found, in the form of 'rules'. */
sv_status sv_cluster_read(sv_ctx *c, const sv_direct_spec *spec, sv_cluster_rules *rules);
/* A number that must be there and within least..most. */
sv_status sv_cluster_number(sv_ctx *c, const sv_node *node, const char *key, float *out, double least,
                            double most);

/* The stages. 'points' [count, columns], x, y, z first. */
sv_status sv_cluster_find_ground(sv_ctx *c, const sv_cluster_rules *rules, const float *points, int count,
                                 int columns, sv_cluster_ground *out);
/* Number of the direction of x, y as seen from the sensor. */
int sv_cluster_ray(float x, float y);
sv_status sv_cluster_find_obstacles(sv_ctx *c, const sv_cluster_rules *rules, const float *points, int count,
                                    int columns, const sv_cluster_ground *ground, sv_cluster_scene *out);
sv_status sv_cluster_find_segments(sv_ctx *c, const sv_cluster_rules *rules, sv_cluster_scene *scene);
/* The end of the last: cells carry the number of their segment (any below 'numbers', or -1). Segments with too few points or
 * too long are left out, the others numbered by their first cell and listed. */
sv_status sv_cluster_list_segments(sv_ctx *c, const sv_cluster_rules *rules, sv_cluster_scene *scene,
                                   int numbers);
/* Boxes of all segments in 'boxes' (room for one per segment and class), their number in '*count', in order of the
 * segments. */
typedef struct sv_cluster_box {
    float x, y, z, dx, dy, dz, heading, score;
    int32_t label, segment;
} sv_cluster_box;
sv_status sv_cluster_find_boxes(sv_ctx *c, const sv_cluster_rules *rules, const sv_cluster_scene *scene,
                                sv_cluster_box **boxes, int *count);
/* Best first, at most rules->most_boxes per sample, overlaps suppressed: the common end of this head and of the one that
 * has its segments from elsewhere. */
sv_status
sv_cluster_forward(sv_ctx *c, const sv_cluster_rules *rules, sv_tensor points, const sv_candidates *out,
                   sv_status (*segment)(sv_ctx *c, const sv_cluster_rules *rules, const float *points,
                                        int count, int columns, sv_cluster_scene *scene));

#endif
