/* SPDX-License-Identifier: Apache-2.0 */
#include "vfe.h"

#include <string.h>

static const float BATCHNORM_EPS = 1e-3f;

/* From the second layer on a point's input is its own activations and its voxel's maxima, and so are the weights'
 * columns. */
static sv_status bind_layer(sv_binder *b, sv_vfe *vfe, int i, int out, int in)
{
    sv_ctx *c = sv_binder_ctx(b);
    const float *w = NULL, *bias = NULL;
    SV_TRY(sv_bind_linear_host(b, &w, &bias, "linear", "norm", BATCHNORM_EPS, out, in, false));
    const sv_tensor offset = sv_view((void *)(uintptr_t)bias, SV_F32, 1, out);
    if (i == 0)
        return sv_linear_prepare(c, &vfe->of_point[0], sv_view((void *)(uintptr_t)w, SV_F32, out, in),
                                 offset);
    const int half = in / 2;
    float *part = NULL;
    SV_TRY(sv_bind_memory(b, &part, (int64_t)out * half));
    for (int first = 0; first < in; first += half) {
        for (int row = 0; row < out; row++)
            memcpy(part + (ptrdiff_t)row * half, w + (ptrdiff_t)row * in + first,
                   sizeof *part * (size_t)half);
        SV_TRY(sv_linear_prepare(c, first == 0 ? &vfe->of_point[i] : &vfe->of_voxel[i],
                                 sv_view(part, SV_F32, out, half), first == 0 ? SV_NONE : offset));
    }
    return SV_OK;
}

sv_status sv_vfe_bind(sv_binder *b, sv_vfe *vfe, const sv_node *cfg, int point_columns)
{
    sv_ctx *c = sv_binder_ctx(b);
    const char *name = NULL;
    bool with_distance = false, absolute = true, use_norm = true;
    SV_TRY(sv_node_string(c, cfg, "NAME", &name));
    SV_CHECK(c, strcmp(name, "DynamicVoxelVFE") == 0, SV_UNSUPPORTED,
             "%s.NAME: %s is not supported; DynamicVoxelVFE is", sv_node_path(cfg), name);
    SV_TRY(sv_node_bool_or(c, cfg, "WITH_DISTANCE", &with_distance, false));
    SV_TRY(sv_node_bool_or(c, cfg, "USE_ABSLOTE_XYZ", &absolute, true)); /* the official key's spelling */
    SV_TRY(sv_node_bool_or(c, cfg, "USE_NORM", &use_norm, true));
    SV_CHECK(c, !with_distance && absolute && use_norm, SV_UNSUPPORTED,
             "%s: only WITH_DISTANCE false, USE_ABSLOTE_XYZ true and USE_NORM true are supported",
             sv_node_path(cfg));

    const sv_node *filters = NULL;
    SV_TRY(sv_node_require(c, cfg, "NUM_FILTERS", &filters));
    vfe->layers = sv_node_count(filters);
    SV_CHECK(c, vfe->layers >= 1 && vfe->layers <= SV_VFE_LAYERS, SV_UNSUPPORTED,
             "%s: %d layers; 1 to %d are supported", sv_node_path(filters), vfe->layers, SV_VFE_LAYERS);
    int width[SV_VFE_LAYERS];
    SV_TRY(sv_node_ints(c, cfg, "NUM_FILTERS", width, vfe->layers));
    vfe->point_columns = point_columns;
    sv_binder_push(b, "vfe");
    int in = point_columns + 6;
    for (int i = 0; i < vfe->layers; i++) {
        const bool last = i == vfe->layers - 1;
        SV_CHECK(c, width[i] >= 2 && width[i] <= 4096 && width[i] % 2 == 0, SV_BAD_INPUT,
                 "%s: width %d is not even within 2..4096", sv_node_path(filters), width[i]);
        const int out = last ? width[i] : width[i] / 2;
        sv_binder_push(b, "pfn_layers.%d", i);
        SV_TRY(bind_layer(b, vfe, i, out, in));
        sv_binder_pop(b);
        in = 2 * out;
        vfe->channels = out;
    }
    sv_binder_pop(b);
    return SV_OK;
}

/*
 * A layer's input from the second on is [own activations | its voxel's maxima]: what the maxima contribute is computed once a voxel.
 * Nobody asks for the points' own results of the last layer: what is the same for all points of a voxel, and ReLU, can follow
 * the maximum there.
 */
static sv_status run_by_layers(sv_ctx *c, const sv_vfe *vfe, const sv_sparse *out, sv_tensor x,
                               const sv_point_groups *groups)
{
    sv_tensor voxel_max = SV_NONE;
    for (int i = 0; i < vfe->layers; i++) {
        const int n = vfe->of_point[i].n;
        const bool last = i == vfe->layers - 1;
        sv_tensor y, of_voxel = SV_NONE, maxima = out->x;
        SV_TRY(sv_scratch_alloc(c, &y, "point activations", SV_F32, x.dim[0], n, groups->rows));
        SV_TRY(sv_linear(c, y, x, SV_NONE, &vfe->of_point[i], i == 0 ? SV_MAP_relu : SV_MAP_identity));
        if (i > 0) {
            SV_TRY(sv_scratch_alloc(c, &of_voxel, "voxel terms", SV_F32, out->x.dim[0], n, out->coords));
            SV_TRY(sv_linear(c, of_voxel, voxel_max, SV_NONE, &vfe->of_voxel[i], SV_MAP_identity));
        }
        if (i > 0 && !last) {
            SV_TRY(sv_gather(c, y, of_voxel, groups->voxel, y));
            SV_TRY(sv_map1(c, y, y, SV_MAP_relu));
        }
        if (!last)
            SV_TRY(sv_scratch_alloc(c, &maxima, "voxel maxima", SV_F32, out->x.dim[0], n, out->coords));
        SV_TRY(sv_segment_max(c, maxima, y, groups->start, SV_NONE));
        if (i > 0 && last) SV_TRY(sv_map2(c, maxima, maxima, of_voxel, SV_MAP_add_relu));
        voxel_max = maxima;
        x = y;
    }
    return SV_OK;
}

/* The same of one or two layers: the points' activations are computed again rather than stored. */
static sv_status run_at_once(sv_ctx *c, const sv_vfe *vfe, const sv_sparse *out, sv_tensor x,
                             const sv_point_groups *groups)
{
    if (vfe->layers == 1) return sv_point_maxima(c, out->x, x, groups->voxel, vfe->of_point, 1);
    const int rows = out->x.dim[0];
    sv_tensor maxima, of_voxel;
    SV_TRY(sv_scratch_alloc(c, &maxima, "voxel maxima", SV_F32, rows, vfe->of_point[0].n, out->coords));
    SV_TRY(sv_scratch_alloc(c, &of_voxel, "voxel terms", SV_F32, rows, vfe->of_point[1].n, out->coords));
    SV_TRY(sv_point_maxima(c, maxima, x, groups->voxel, vfe->of_point, 1));
    SV_TRY(sv_linear(c, of_voxel, maxima, SV_NONE, &vfe->of_voxel[1], SV_MAP_identity));
    SV_TRY(sv_point_maxima(c, out->x, x, groups->voxel, vfe->of_point, 2));
    return sv_map2(c, out->x, out->x, of_voxel, SV_MAP_add_relu);
}

sv_status sv_vfe_forward(sv_ctx *c, const sv_vfe *vfe, sv_sparse *out, sv_tensor points, const sv_grid *grid,
                         int capacity, int32_t *needed)
{
    SV_CHECK(c, points.dim[1] == vfe->point_columns, SV_BAD_INPUT,
             "the points have %d columns, the model takes %d", points.dim[1], vfe->point_columns);
    const int places = points.dim[0];
    SV_TRY(sv_frame_alloc(c, &out->coords, "voxel coords", SV_I32, capacity, 4, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &out->x, "voxel features", SV_F32, capacity, vfe->channels, SV_NONE));
    for (int axis = 0; axis < 3; axis++) out->shape[axis] = grid->cells[2 - axis];

    sv_point_groups groups = {.coords = out->coords};
    SV_TRY(sv_frame_offsets(c, &groups.coords_offsets, points.batch));
    groups.coords.offsets = groups.coords_offsets;
    groups.coords.batch = points.batch;

    const sv_mark mark = sv_arena_mark(&c->scratch);
    void *rows_offsets = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "point offsets", sizeof(int32_t) * ((size_t)points.batch + 1),
                          &rows_offsets));
    groups.rows_offsets = rows_offsets;
    SV_TRY(sv_scratch_alloc(c, &groups.start, "voxel starts", SV_I32, capacity + 1, 1, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &groups.rows, "point order", SV_I32, places, 1, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &groups.voxel, "point voxels", SV_I32, places, 1, SV_NONE));
    groups.rows.offsets = groups.voxel.offsets = groups.rows_offsets;
    groups.rows.batch = groups.voxel.batch = points.batch;
    SV_TRY(sv_voxelize(c, &groups, points, grid, needed));
    out->coords = groups.coords;
    out->x = sv_with_rows_of(out->x, out->coords);

    sv_tensor x;
    SV_TRY(sv_scratch_alloc(c, &x, "point features", SV_F32, places, vfe->of_point[0].k, groups.rows));
    SV_TRY(sv_point_features(c, x, points, &groups, grid));
    if (sv_point_maxima_fits(c, vfe->of_point, vfe->layers))
        SV_TRY(run_at_once(c, vfe, out, x, &groups));
    else
        SV_TRY(run_by_layers(c, vfe, out, x, &groups));
    sv_arena_rewind(&c->scratch, mark);
    SV_TRY(sv_probe(c, "voxel_coords_bzyx", out->coords));
    return sv_probe(c, "voxel_features", out->x);
}
