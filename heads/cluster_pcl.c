/* SPDX-License-Identifier: Apache-2.0
 *
 * The cross-check of the classical detector: the same boxes, classes and scores, but ground and segments found by the Point
 * Cloud Library: a plane by RANSAC, what stands above it thinned by a voxel grid, Euclidean clusters. One plane does not
 * follow slopes, and the clusters take tens to hundreds of milliseconds.
 *
 * PCL's results follow the order of its input, so the points are sorted first: any order of them gives the same bytes here,
 * too.
 */
#include "cluster.h"

#include "voxel/pcl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct cluster_pcl {
    sv_cluster_rules rules; /* first: it is what the common parts take */
    float distance,
        tilt; /* MODEL.GROUND: DISTANCE of a point from the plane it lies on; TILT of the plane, radians */
    int iterations;        /* MODEL.GROUND.ITERATIONS */
    float leaf, tolerance; /* MODEL.SEGMENT: LEAF of the voxel grid, TOLERANCE between points of a cluster */
} cluster_pcl;

static int by_place(const void *a, const void *b)
{
    const float *p = a, *q = b;
    for (int k = 0; k < 3; k++)
        if (p[k] != q[k]) return p[k] < q[k] ? -1 : 1;
    return 0;
}

static sv_status take_floats(sv_ctx *c, size_t count, float **out)
{
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "PCL points", (count > 0 ? count : 1) * sizeof(float), &memory));
    *out = memory;
    return SV_OK;
}

/* The plane as a grid of heights, which the other stages read. */
static sv_status find_plane(sv_ctx *c, const cluster_pcl *k, const float *sorted, int count,
                            sv_cluster_ground *out)
{
    const sv_cluster_rules *r = &k->rules;
    *out = (sv_cluster_ground){
        .x0 = r->range[0], .y0 = r->range[1], .cell = r->ground.cell, .inverse = 1 / r->ground.cell};
    out->nx = (int)ceilf((r->range[3] - r->range[0]) / out->cell);
    out->ny = (int)ceilf((r->range[4] - r->range[1]) / out->cell);
    SV_TRY(take_floats(c, (size_t)out->nx * (size_t)out->ny, &out->height));
    float plane[4] = {0, 0, 1, 0};
    const sv_pcl_cloud cloud = {sorted, count, 3};
    if (count >= 3)
        SV_TRY(
            sv_pcl_ground_plane(c, cloud, (double)k->distance, (double)k->tilt, k->iterations, plane, NULL));
    for (int y = 0; y < out->ny; y++)
        for (int x = 0; x < out->nx; x++)
            out->height[y * out->nx + x] =
                -(plane[0] * (out->x0 + ((float)x + 0.5f) * out->cell) +
                  plane[1] * (out->y0 + ((float)y + 0.5f) * out->cell) + plane[3]) /
                plane[2];
    return SV_OK;
}

static sv_status segment_by_pcl(sv_ctx *c, const sv_cluster_rules *r, const float *points, int count,
                                int columns, sv_cluster_scene *scene)
{
    const cluster_pcl *k = (const cluster_pcl *)r;
    float *sorted = NULL, *above = NULL, *thinned = NULL;
    SV_TRY(sv_stage_begin(c, "ground"));
    SV_TRY(take_floats(c, 3 * (size_t)count, &sorted));
    int kept = 0;
    for (int i = 0; i < count; i++) {
        const float *p = points + (size_t)i * (size_t)columns;
        bool inside = true;
        for (int a = 0; a < 3; a++) inside = inside && p[a] >= r->range[a] && p[a] < r->range[a + 3];
        if (inside) memcpy(sorted + 3 * (size_t)kept++, p, 3 * sizeof *p);
    }
    qsort(sorted, (size_t)kept, 3 * sizeof *sorted, by_place);
    sv_cluster_ground ground;
    SV_TRY(find_plane(c, k, sorted, kept, &ground));
    SV_TRY(sv_stage_end(c));
    SV_TRY(sv_stage_begin(c, "obstacles"));
    SV_TRY(sv_cluster_find_obstacles(c, r, sorted, kept, 3, &ground, scene));
    SV_TRY(sv_stage_end(c));

    SV_TRY(sv_stage_begin(c, "segments"));
    SV_TRY(take_floats(c, 3 * (size_t)kept, &above));
    SV_TRY(take_floats(c, 3 * (size_t)kept, &thinned));
    int high = 0, few = 0, clusters = 0;
    for (int i = 0; i < kept; i++) {
        const float *p = sorted + 3 * (size_t)i;
        const float height = p[2] - sv_cluster_ground_at(&ground, p[0], p[1]);
        if (height >= r->ground.clearance && height <= r->segment.top)
            memcpy(above + 3 * (size_t)high++, p, 3 * sizeof *p);
    }
    SV_TRY(sv_pcl_voxel_grid(c, (sv_pcl_cloud){above, high, 3}, k->leaf, thinned, &few));
    void *memory = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "PCL labels", ((size_t)few + 1) * sizeof(int32_t), &memory));
    int32_t *label = memory;
    SV_TRY(sv_pcl_clusters(c, (sv_pcl_cloud){thinned, few, 3}, (double)k->tolerance, 1, few + 1, label,
                           &clusters));
    for (int i = 0; i < few; i++) {
        const float *p = thinned + 3 * (size_t)i;
        const int ix = (int)((p[0] - scene->x0) / scene->cell), iy = (int)((p[1] - scene->y0) / scene->cell);
        if (label[i] < 0 || ix < 0 || iy < 0 || ix >= scene->nx || iy >= scene->ny) continue;
        const int32_t row = scene->row[iy * scene->nx + ix];
        if (row < 0) continue;
        int32_t *segment = &scene->cells[row].segment;
        if (*segment < 0 || label[i] < *segment) *segment = label[i];
    }
    SV_TRY(sv_cluster_list_segments(c, r, scene, clusters));
    return sv_stage_end(c);
}

static sv_status bind(sv_ctx *c, void *self, const sv_direct_spec *spec)
{
    cluster_pcl *k = self;
    const sv_node *ground = NULL, *segment = NULL;
    if (!sv_pcl_version())
        return sv_pcl_voxel_grid(c, (sv_pcl_cloud){0}, 1, NULL, NULL); /* says what to do */
    SV_TRY(sv_cluster_read(c, spec, &k->rules));
    SV_TRY(sv_node_require(c, spec->cfg, "GROUND", &ground));
    SV_TRY(sv_cluster_number(c, ground, "DISTANCE", &k->distance, 0.01, 2));
    SV_TRY(sv_cluster_number(c, ground, "TILT", &k->tilt, 0.001, 1));
    SV_TRY(sv_node_int(c, ground, "ITERATIONS", &k->iterations));
    SV_CHECK(c, k->iterations >= 1 && k->iterations <= 100000, SV_BAD_INPUT,
             "%s.ITERATIONS: %d is not within 1 and 100000", sv_node_path(ground), k->iterations);
    SV_TRY(sv_node_require(c, spec->cfg, "SEGMENT", &segment));
    SV_TRY(sv_cluster_number(c, segment, "LEAF", &k->leaf, 0.02, 2));
    return sv_cluster_number(c, segment, "TOLERANCE", &k->tolerance, 0.05, 5);
}

static sv_status forward(sv_ctx *c, const void *self, sv_tensor points, const sv_candidates *out)
{
    return sv_cluster_forward(c, self, points, out, segment_by_pcl);
}

static int max_boxes(const void *self)
{
    return ((const cluster_pcl *)self)->rules.most_boxes;
}

const sv_direct_type sv_direct_cluster_pcl = {.name = "ClusterPCL",
                                              .method = "PCL",
                                              .bytes = sizeof(cluster_pcl),
                                              .bind = bind,
                                              .forward = forward,
                                              .max_boxes = max_boxes};
