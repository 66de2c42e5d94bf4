/* SPDX-License-Identifier: Apache-2.0
 *
 * The classical detector as a model: its configuration, and the way from a sample's points to its candidates.
 */
#include "cluster.h"

#include "head.h"

#include <math.h>
#include <string.h>

/* ---- configuration ------------------------------------------------------------------------------------ */

sv_status sv_cluster_number(sv_ctx *c, const sv_node *node, const char *key, float *out, double least,
                            double most)
{
    double value = 0;
    SV_TRY(sv_node_number(c, node, key, &value));
    SV_CHECK(c, value >= least && value <= most, SV_BAD_INPUT, "%s.%s: %g is not within %g and %g",
             sv_node_path(node), key, value, least, most);
    *out = (float)value;
    return SV_OK;
}

static sv_status read_numbers(sv_ctx *c, const sv_node *node, const char *key, float *out, int count,
                              double least, double most)
{
    double values[6];
    SV_TRY(sv_node_numbers(c, node, key, values, count));
    for (int i = 0; i < count; i++) {
        SV_CHECK(c, values[i] >= least && values[i] <= most, SV_BAD_INPUT,
                 "%s.%s: %g is not within %g and %g", sv_node_path(node), key, values[i], least, most);
        out[i] = (float)values[i];
    }
    return SV_OK;
}

static sv_status read_class(sv_ctx *c, const sv_node *entry, const char *class_name, sv_cluster_class *out)
{
    const char *name = NULL;
    SV_TRY(sv_node_string(c, entry, "NAME", &name));
    SV_CHECK(c, strcmp(name, class_name) == 0, SV_BAD_INPUT,
             "%s.NAME: '%s' stands where CLASS_NAMES has '%s'", sv_node_path(entry), name, class_name);
    SV_TRY(read_numbers(c, entry, "SIZE", out->size, 3, 0.05, 30));
    SV_TRY(read_numbers(c, entry, "SPREAD", out->spread, 3, 0.01, 10));
    SV_TRY(read_numbers(c, entry, "LONG", out->longest, 2, 0, 30));
    SV_TRY(read_numbers(c, entry, "SHORT", out->widest, 2, 0, 30));
    SV_TRY(read_numbers(c, entry, "TALL", out->tallest, 2, 0, 4));
    SV_TRY(read_numbers(c, entry, "UPPER", out->upper, 2, 0, 30));
    SV_TRY(sv_cluster_number(c, entry, "FACE", &out->face, 0, 1));
    return sv_cluster_number(c, entry, "WEIGHT", &out->weight, 0, 1);
}

sv_status sv_cluster_read(sv_ctx *c, const sv_direct_spec *spec, sv_cluster_rules *r)
{
    const sv_node *ground = NULL, *segment = NULL, *classes = NULL, *post = NULL;
    for (int i = 0; i < 6; i++) r->range[i] = (float)spec->range[i];
    SV_TRY(read_numbers(c, spec->cfg, "SENSOR", r->sensor, 3, -1000, 1000));
    SV_TRY(sv_node_require(c, spec->cfg, "GROUND", &ground));
    SV_TRY(sv_cluster_number(c, ground, "CELL", &r->ground.cell, 0.1, 10));
    SV_TRY(sv_cluster_number(c, ground, "CLEARANCE", &r->ground.clearance, 0.02, 2));
    SV_TRY(sv_node_require(c, spec->cfg, "SEGMENT", &segment));
    SV_TRY(sv_cluster_number(c, segment, "CELL", &r->segment.cell, 0.05, 1));
    SV_TRY(sv_cluster_number(c, segment, "TOP", &r->segment.top, 0.5, 4));
    SV_TRY(sv_cluster_number(c, segment, "HANGING", &r->segment.hanging, 0.25, 4));
    SV_TRY(sv_cluster_number(c, segment, "OVERHANG", &r->segment.overhang, 0.25, 4));
    SV_TRY(sv_cluster_number(c, segment, "LARGEST", &r->segment.largest, 0.5, 50));
    SV_TRY(sv_node_int(c, segment, "LEAST_POINTS", &r->segment.least_points));

    SV_TRY(sv_node_require(c, spec->cfg, "CLASSES", &classes));
    r->class_count = spec->class_count;
    SV_CHECK(c, spec->class_count <= SV_CLUSTER_CLASSES && sv_node_count(classes) == spec->class_count,
             SV_BAD_INPUT, "%s: %d entries for %d CLASS_NAMES; at most %d are possible",
             sv_node_path(classes), sv_node_count(classes), spec->class_count, SV_CLUSTER_CLASSES);
    for (int k = 0; k < spec->class_count; k++)
        SV_TRY(read_class(c, sv_node_item(classes, k), spec->classes[k], &r->classes[k]));

    SV_TRY(sv_node_require(c, spec->cfg, "POST_PROCESSING", &post));
    SV_TRY(sv_cluster_number(c, post, "SCORE_THRESH", &r->least_score, 0, 1));
    SV_TRY(sv_cluster_number(c, post, "NMS_THRESH", &r->overlap, 0, 1));
    SV_TRY(sv_node_int(c, post, "MAX_BOXES", &r->most_boxes));
    SV_CHECK(c, r->most_boxes >= 1 && r->most_boxes <= 4096, SV_BAD_INPUT,
             "%s.MAX_BOXES: %d is not within 1 and 4096", sv_node_path(post), r->most_boxes);

    const double cells = (spec->range[3] - spec->range[0]) * (spec->range[4] - spec->range[1]);
    SV_CHECK(c,
             cells / ((double)r->segment.cell * (double)r->segment.cell) <= 1 << 24 &&
                 cells / ((double)r->ground.cell * (double)r->ground.cell) <= 1 << 24,
             SV_BAD_INPUT,
             "DATA_CONFIG.POINT_CLOUD_RANGE: %g m x %g m are too many cells of GROUND.CELL and SEGMENT.CELL",
             spec->range[3] - spec->range[0], spec->range[4] - spec->range[1]);
    return SV_OK;
}

/* ---- from points to candidates ------------------------------------------------------------------------ */

/* Best first; ties by place, which no order of the points changes. */
static bool before(const sv_cluster_box *a, const sv_cluster_box *b)
{
    if (a->score != b->score) return a->score > b->score;
    return a->segment < b->segment;
}

static void sift(sv_cluster_box *heap, int count, int at)
{
    for (;;) {
        int last = at;
        for (int child = 2 * at + 1; child <= 2 * at + 2 && child < count; child++)
            if (before(&heap[last], &heap[child])) last = child;
        if (last == at) return;
        const sv_cluster_box swap = heap[at];
        heap[at] = heap[last];
        heap[last] = swap;
        at = last;
    }
}

static void sort_boxes(sv_cluster_box *boxes, int count)
{
    for (int i = count / 2; i-- > 0;) sift(boxes, count, i);
    for (int i = count; i-- > 1;) {
        const sv_cluster_box swap = boxes[0];
        boxes[0] = boxes[i];
        boxes[i] = swap;
        sift(boxes, i, 0);
    }
}

static void append(const sv_candidates *found, int row, const sv_cluster_box *b)
{
    const float fields[SV_BOX_FIELDS] = {b->x, b->y, b->z, b->dx, b->dy, b->dz, b->heading};
    memcpy(sv_f32(found->boxes) + (size_t)row * SV_BOX_FIELDS, fields, sizeof fields);
    sv_f32(found->scores)[row] = b->score;
    sv_i32(found->labels)[row] = b->label;
    sv_i32(found->index)[row] = b->segment;
}

sv_status sv_cluster_forward(sv_ctx *c, const sv_cluster_rules *r, sv_tensor points, const sv_candidates *out,
                             sv_status (*segment)(sv_ctx *c, const sv_cluster_rules *rules,
                                                  const float *points, int count, int columns,
                                                  sv_cluster_scene *scene))
{
    const int batch = points.batch, columns = points.dim[1];
    sv_candidates found;
    SV_TRY(sv_candidates_alloc(c, &found, "cluster boxes", batch * r->most_boxes, batch));
    found.offsets[0] = 0;
    for (int b = 0; b < batch; b++) {
        const float *first = sv_f32(points) + (size_t)points.offsets[b] * (size_t)columns;
        const sv_mark mark = sv_arena_mark(&c->scratch);
        sv_cluster_scene scene;
        SV_TRY(segment(c, r, first, points.offsets[b + 1] - points.offsets[b], columns, &scene));
        sv_cluster_box *boxes = NULL;
        int count = 0;
        SV_TRY(sv_stage_begin(c, "boxes"));
        SV_TRY(sv_cluster_find_boxes(c, r, &scene, &boxes, &count));
        sort_boxes(boxes, count);
        if (count > r->most_boxes) count = r->most_boxes;
        for (int i = 0; i < count; i++) append(&found, found.offsets[b] + i, &boxes[i]);
        found.offsets[b + 1] = found.offsets[b] + count;
        SV_TRY(sv_stage_end(c));
        sv_arena_rewind(&c->scratch, mark);
    }
    const sv_nms_rule nms = {
        .threshold = {r->overlap}, .pre_max = {r->most_boxes}, .post_max = {r->most_boxes}, .exact = true};
    return sv_nms(c, out, &found, &nms);
}

static sv_status segment_by_grid(sv_ctx *c, const sv_cluster_rules *r, const float *points, int count,
                                 int columns, sv_cluster_scene *scene)
{
    sv_cluster_ground ground;
    SV_TRY(sv_stage_begin(c, "ground"));
    SV_TRY(sv_cluster_find_ground(c, r, points, count, columns, &ground));
    SV_TRY(sv_stage_end(c));
    SV_TRY(sv_stage_begin(c, "obstacles"));
    SV_TRY(sv_cluster_find_obstacles(c, r, points, count, columns, &ground, scene));
    SV_TRY(sv_stage_end(c));
    SV_TRY(sv_stage_begin(c, "segments"));
    SV_TRY(sv_cluster_find_segments(c, r, scene));
    return sv_stage_end(c);
}

/* ---- the type ----------------------------------------------------------------------------------------- */

static sv_status bind(sv_ctx *c, void *self, const sv_direct_spec *spec)
{
    sv_cluster_rules *r = self;
    const sv_node *ground = NULL, *segment = NULL;
    SV_TRY(sv_cluster_read(c, spec, r));
    SV_TRY(sv_node_require(c, spec->cfg, "GROUND", &ground));
    SV_TRY(sv_cluster_number(c, ground, "SLOPE", &r->ground.slope, 0, 10));
    SV_TRY(sv_cluster_number(c, ground, "GRADE", &r->ground.grade, 0, 10));
    SV_TRY(sv_cluster_number(c, ground, "STEP", &r->ground.step, 0, 2));
    SV_TRY(sv_node_require(c, spec->cfg, "SEGMENT", &segment));
    SV_TRY(read_numbers(c, segment, "GAP", r->segment.gap, 2, 0, 3));
    return read_numbers(c, segment, "DEPTH", r->segment.depth, 2, 0, 3);
}

static sv_status forward(sv_ctx *c, const void *self, sv_tensor points, const sv_candidates *out)
{
    return sv_cluster_forward(c, self, points, out, segment_by_grid);
}

static int max_boxes(const void *self)
{
    return ((const sv_cluster_rules *)self)->most_boxes;
}

const sv_direct_type sv_direct_cluster = {.name = "Cluster",
                                          .method = "grid components",
                                          .bytes = sizeof(sv_cluster_rules),
                                          .bind = bind,
                                          .forward = forward,
                                          .max_boxes = max_boxes};
