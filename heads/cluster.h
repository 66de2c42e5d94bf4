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
    float weight;     /* WEIGHT: how far its score is trusted, 0..1 */
} sv_cluster_class;

typedef struct sv_cluster_rules {
    float range[6];  /* DATA_CONFIG.POINT_CLOUD_RANGE */
    float sensor[3]; /* MODEL.SENSOR: where the rays start, in the frame of the points */

    struct {             /* MODEL.GROUND */
        float cell;      /* CELL: side of a cell */
        float slope;     /* SLOPE: steepest rise between neighbouring cells, metres per metre */
        float grade;     /* GRADE: steepest rise or fall on the whole way from the sensor */
        float step;      /* STEP: what a cell may lie above what its neighbours allow (curbs, noise) */
        float clearance; /* CLEARANCE: obstacles begin so high above the ground */
    } ground;

    struct {                 /* MODEL.SEGMENT */
        float cell;          /* CELL: side of a cell; a column is a quarter of it */
        float gap;           /* GAP: cells so far apart still belong together ... */
        float gap_per_metre; /* GAP_PER_METRE: ... and so much more per metre from the sensor */
        float top; /* TOP: what reaches higher without a break is no object but a wall, a trunk, a pole */
        float
            overhang; /* OVERHANG: a break of this height under it makes it a roof or crown above free space */
        float largest;    /* LARGEST: a longer segment is taken apart once, then left out */
        int least_points; /* LEAST_POINTS: fewer are noise */
    } segment;

    int class_count;
    sv_cluster_class classes[SV_CLUSTER_CLASSES];

    float least_score; /* POST_PROCESSING.SCORE_THRESH */
    float overlap;     /* POST_PROCESSING.NMS_THRESH */
    int most_boxes;    /* POST_PROCESSING.MAX_BOXES */
} sv_cluster_rules;

/* Height of the ground on a grid over the range. */
typedef struct sv_cluster_ground {
    int nx, ny;
    float x0, y0, cell;
    float *height; /* [ny][nx], at the cells' centres */
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
    int32_t *members;           /* rows of 'cells', segment by segment */
    int32_t *segments;          /* [segment_count+1] into 'members' */
    int cell_count, column_count, segment_count;
} sv_cluster_scene;

/* The keys of MODEL, in the form of 'rules'. */
sv_status sv_cluster_read(sv_ctx *c, const sv_direct_spec *spec, sv_cluster_rules *rules);

/* The stages. 'points' [count, columns], x, y, z first. */
sv_status sv_cluster_find_ground(sv_ctx *c, const sv_cluster_rules *rules, const float *points, int count,
                                 int columns, sv_cluster_ground *out);
float sv_cluster_ground_at(const sv_cluster_ground *ground, float x, float y);
sv_status sv_cluster_find_obstacles(sv_ctx *c, const sv_cluster_rules *rules, const float *points, int count,
                                    int columns, const sv_cluster_ground *ground, sv_cluster_scene *out);
sv_status sv_cluster_find_segments(sv_ctx *c, const sv_cluster_rules *rules, sv_cluster_scene *scene);
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
