/* SPDX-License-Identifier: Apache-2.0 */
#include "ops_check.h"

#include "room.h"

#include <string.h>

static sv_status is_matrix(sv_ctx *c, const char *op, const char *what, sv_tensor t, sv_dtype dtype, int rows,
                           int columns)
{
    SV_CHECK(c, !sv_is_none(t), SV_BAD_SHAPE, "%s: '%s' is missing", op, what);
    SV_CHECK(c, t.ndim == 2 && t.dtype == dtype && t.dim[0] >= rows && (columns < 0 || t.dim[1] == columns),
             SV_BAD_SHAPE, "%s: '%s' is [%d,%d] of type %d, expected [>=%d,%d] of type %d", op, what,
             t.dim[0], t.dim[1], t.dtype, rows, columns, dtype);
    return SV_OK;
}

static sv_status is_vector(sv_ctx *c, const char *op, const char *what, sv_tensor t, int n)
{
    SV_CHECK(c, !sv_is_none(t) && t.dtype == SV_F32 && (int64_t)t.dim[0] * sv_row_elements(t) == n,
             SV_BAD_SHAPE, "%s: '%s' holds %lld numbers, expected %d", op, what,
             (long long)((int64_t)t.dim[0] * sv_row_elements(t)), n);
    return SV_OK;
}

static sv_status is_index(sv_ctx *c, const char *op, const char *what, sv_tensor t, int rows)
{
    SV_CHECK(c, !sv_is_none(t) && t.dtype == SV_I32 && t.dim[0] >= rows, SV_BAD_SHAPE,
             "%s: index '%s' has %d rows of type %d, expected %d", op, what, t.dim[0], t.dtype, rows);
    return SV_OK;
}

static sv_status is_coords(sv_ctx *c, const char *op, sv_tensor t)
{
    SV_TRY(is_matrix(c, op, "coords", t, SV_I32, 0, 4));
    SV_CHECK(c, t.offsets && t.pitch == 4, SV_BAD_SHAPE, "%s: coords need per-sample offsets and dense rows",
             op);
    return SV_OK;
}

sv_status sv_check_map1(sv_ctx *c, sv_tensor y, sv_tensor a, sv_map map)
{
    (void)map;
    SV_TRY(is_matrix(c, "map1", "y", y, SV_F32, 0, -1));
    return is_matrix(c, "map1", "a", a, SV_F32, y.dim[0], y.dim[1]);
}

sv_status sv_check_map2(sv_ctx *c, sv_tensor y, sv_tensor a, sv_tensor b, sv_map map)
{
    SV_TRY(sv_check_map1(c, y, a, map));
    return is_matrix(c, "map2", "b", b, SV_F32, y.dim[0], y.dim[1]);
}

sv_status sv_check_linear_prepare(sv_ctx *c, sv_linear_weights *out, sv_tensor w, sv_tensor bias)
{
    (void)out;
    SV_TRY(is_matrix(c, "linear_prepare", "w", w, SV_F32, 1, -1));
    return sv_is_none(bias) ? SV_OK : is_vector(c, "linear_prepare", "bias", bias, w.dim[0]);
}

sv_status sv_check_linear(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, const sv_linear_weights *w,
                          sv_map map)
{
    (void)map;
    SV_TRY(is_matrix(c, "linear", "y", y, SV_F32, 0, w->n));
    SV_TRY(is_matrix(c, "linear", "x", x, SV_F32, sv_is_none(index) ? y.dim[0] : 0, w->k));
    return sv_is_none(index) ? SV_OK : is_index(c, "linear", "index", index, y.dim[0]);
}

sv_status sv_check_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor weight, sv_tensor bias, float eps,
                        sv_map map, sv_tensor residual)
{
    (void)eps, (void)map;
    SV_TRY(is_matrix(c, "norm", "y", y, SV_F32, 0, -1));
    SV_TRY(is_matrix(c, "norm", "x", x, SV_F32, y.dim[0], y.dim[1]));
    SV_TRY(is_vector(c, "norm", "weight", weight, y.dim[1]));
    SV_TRY(is_vector(c, "norm", "bias", bias, y.dim[1]));
    return sv_is_none(residual) ? SV_OK
                                : is_matrix(c, "norm", "residual", residual, SV_F32, y.dim[0], y.dim[1]);
}

sv_status sv_check_head_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index,
                             const sv_head_norm_spec *how)
{
    SV_TRY(is_matrix(c, "head_norm", "y", y, SV_F32, 0, -1));
    const int channels = y.dim[1], rows = sv_is_none(index) ? y.dim[0] : 0;
    SV_CHECK(c, how->groups >= 1 && channels % how->groups == 0, SV_BAD_SHAPE,
             "head_norm: %d channels in %d groups", channels, how->groups);
    SV_TRY(is_matrix(c, "head_norm", "x", x, SV_F32, rows, channels));
    SV_TRY(is_vector(c, "head_norm", "weight", how->weight, channels));
    if (!sv_is_none(how->bias)) SV_TRY(is_vector(c, "head_norm", "bias", how->bias, channels));
    if (!sv_is_none(how->skip)) {
        SV_TRY(is_matrix(c, "head_norm", "skip", how->skip, SV_F32, rows, channels));
        SV_TRY(is_vector(c, "head_norm", "skip_weight", how->skip_weight, channels));
    }
    const bool gathered = !sv_is_none(how->gate_index);
    if (gathered) SV_TRY(is_index(c, "head_norm", "gate_index", how->gate_index, y.dim[0]));
    if (!sv_is_none(how->gate))
        SV_TRY(is_matrix(c, "head_norm", "gate", how->gate, SV_F32, gathered ? 0 : y.dim[0], channels));
    return sv_is_none(index) ? SV_OK : is_index(c, "head_norm", "index", index, y.dim[0]);
}

sv_status sv_check_block_linear(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, sv_tensor w,
                                sv_tensor bias)
{
    SV_TRY(is_matrix(c, "block_linear", "y", y, SV_F32, 0, -1));
    const int n = y.dim[1];
    SV_TRY(is_matrix(c, "block_linear", "x", x, SV_F32, sv_is_none(index) ? y.dim[0] : 0, n));
    SV_TRY(is_matrix(c, "block_linear", "w", w, SV_F32, n, -1));
    SV_CHECK(c, w.dim[0] == n && w.dim[1] >= 1 && n % w.dim[1] == 0, SV_BAD_SHAPE,
             "block_linear: %d channels in blocks of %d, weights of %d channels", n, w.dim[1], w.dim[0]);
    if (!sv_is_none(bias)) SV_TRY(is_vector(c, "block_linear", "bias", bias, n));
    return sv_is_none(index) ? SV_OK : is_index(c, "block_linear", "index", index, y.dim[0]);
}

sv_status sv_check_gather(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, sv_tensor base)
{
    SV_CHECK(c,
             y.ndim == 2 && x.ndim == 2 && y.dtype == x.dtype && sv_dtype_bytes((sv_dtype)y.dtype) == 4 &&
                 y.dim[1] == x.dim[1],
             SV_BAD_SHAPE, "gather: y has %d columns of type %d, x %d of type %d", y.dim[1], y.dtype,
             x.dim[1], x.dtype);
    SV_TRY(is_index(c, "gather", "index", index, y.dim[0]));
    return sv_is_none(base) ? SV_OK : is_matrix(c, "gather", "base", base, SV_F32, y.dim[0], y.dim[1]);
}

static sv_status check_row_norm(sv_ctx *c, const char *op, const sv_row_norm *norm, int channels)
{
    if (!norm || sv_is_none(norm->weight)) return SV_OK;
    SV_TRY(is_vector(c, op, "norm weight", norm->weight, channels));
    return is_vector(c, op, "norm bias", norm->bias, channels);
}

sv_status sv_check_gather_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, sv_tensor base,
                               const sv_row_norm *norm)
{
    SV_TRY(is_matrix(c, "gather_norm", "y", y, SV_F32, 0, -1));
    SV_TRY(check_row_norm(c, "gather_norm", norm, y.dim[1]));
    return sv_check_gather(c, y, x, index, base);
}

static sv_status check_segments(sv_ctx *c, const char *op, sv_tensor y, sv_tensor x, sv_tensor start)
{
    SV_TRY(is_matrix(c, op, "y", y, SV_F32, 0, -1));
    SV_TRY(is_matrix(c, op, "x", x, SV_F32, 0, y.dim[1]));
    return is_index(c, op, "start", start, y.dim[0] + 1);
}

sv_status sv_check_segment_sum(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor start, sv_tensor rows,
                               const sv_row_norm *norm)
{
    (void)rows;
    SV_TRY(check_row_norm(c, "segment_sum", norm, y.dim[1]));
    return check_segments(c, "segment_sum", y, x, start);
}

sv_status sv_check_segment_max(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor start, sv_tensor rows)
{
    (void)rows;
    return check_segments(c, "segment_max", y, x, start);
}

sv_status sv_check_row_mean(sv_ctx *c, sv_tensor y, sv_tensor x)
{
    SV_TRY(is_matrix(c, "row_mean", "y", y, SV_F32, 0, 1));
    return is_matrix(c, "row_mean", "x", x, SV_F32, y.dim[0], -1);
}

sv_status sv_check_top_rows(sv_ctx *c, sv_tensor picks, int32_t *picks_offsets, sv_tensor scores,
                            double share)
{
    SV_TRY(is_matrix(c, "top_rows", "scores", scores, SV_F32, 0, 1));
    SV_CHECK(c, scores.offsets && picks_offsets && picks.offsets == picks_offsets, SV_BAD_SHAPE,
             "top_rows: scores and picks need per-sample offsets");
    SV_CHECK(c, picks.batch == scores.batch, SV_BAD_SHAPE, "top_rows: %d samples of scores, offsets for %d",
             scores.batch, picks.batch);
    SV_CHECK(c, share >= 0 && share <= 1, SV_BAD_SHAPE, "top_rows: share %g is not within 0..1", share);
    return is_index(c, "top_rows", "picks", picks, (int)(scores.dim[0] * share));
}

sv_status sv_check_voxelize(sv_ctx *c, const sv_point_groups *out, sv_tensor points, const sv_grid *grid,
                            int32_t *needed)
{
    SV_TRY(is_matrix(c, "voxelize", "points", points, SV_F32, 0, -1));
    SV_CHECK(c, points.dim[1] >= 3 && points.offsets, SV_BAD_SHAPE,
             "voxelize: points have %d columns; x, y, z and offsets are needed", points.dim[1]);
    /* of a sample at most 2^21 (sv_fixed), which the caller sees to: offsets may lie on the device */
    SV_CHECK(c, points.dim[0] <= SV_MAX_BATCH << 21, SV_BAD_INPUT,
             "voxelize: %d points; at most %d are possible", points.dim[0], SV_MAX_BATCH << 21);
    for (int axis = 0; axis < 3; axis++) {
        SV_CHECK(c, grid->cells[axis] >= 1 && grid->cells[axis] <= 1 << 14 && grid->size[axis] > 0,
                 SV_BAD_SHAPE, "voxelize: axis %d has %d cells of %g m", axis, grid->cells[axis],
                 (double)grid->size[axis]);
        /* bound of the fixed-point sums: 2^9 m * 2^32 steps * 2^21 points < 2^63 */
        const double end = (double)grid->min[axis] + (double)grid->size[axis] * grid->cells[axis];
        SV_CHECK(c, grid->min[axis] >= -512.0f && end <= 512.0, SV_UNSUPPORTED,
                 "voxelize: range %g..%g m exceeds +-512 m", (double)grid->min[axis], end);
    }
    SV_TRY(is_coords(c, "voxelize", out->coords));
    SV_TRY(is_index(c, "voxelize", "start", out->start, out->coords.dim[0] + 1));
    SV_TRY(is_index(c, "voxelize", "rows", out->rows, points.dim[0]));
    SV_TRY(is_index(c, "voxelize", "voxel", out->voxel, points.dim[0]));
    SV_CHECK(c,
             needed && out->coords.offsets == out->coords_offsets && out->rows.offsets == out->rows_offsets,
             SV_BAD_SHAPE, "voxelize: a counter and offsets are needed");
    SV_CHECK(c, out->coords.batch == points.batch && out->rows.batch == points.batch, SV_BAD_SHAPE,
             "voxelize: %d samples of points, offsets for %d and %d", points.batch, out->coords.batch,
             out->rows.batch);
    return SV_OK;
}

sv_status sv_check_point_features(sv_ctx *c, sv_tensor y, sv_tensor points, const sv_point_groups *groups,
                                  const sv_grid *grid)
{
    (void)grid;
    return is_matrix(c, "point_features", "y", y, SV_F32, groups->rows.dim[0], points.dim[1] + 6);
}

static sv_status check_order(sv_ctx *c, const sv_order *order, sv_tensor coords, int group)
{
    SV_TRY(is_index(c, "window_orders", "slot_row", order->slot_row,
                    sv_window_slots(coords.dim[0], coords.batch, group)));
    SV_TRY(is_index(c, "window_orders", "row_slot", order->row_slot, coords.dim[0]));
    SV_CHECK(c, order->slot_offsets && order->slot_row.offsets == order->slot_offsets, SV_BAD_SHAPE,
             "window_orders: slots need offsets");
    return SV_OK;
}

sv_status sv_check_window_orders(sv_ctx *c, sv_window_job *jobs, int count)
{
    for (int i = 0; i < count; i++) {
        SV_TRY(is_coords(c, "window_orders", jobs[i].coords));
        const sv_window *w = &jobs[i].window;
        for (int axis = 0; axis < 3; axis++)
            SV_CHECK(c,
                     w->window[axis] >= 1 && w->window[axis] <= 1 << 14 && w->grid[axis] >= 1 &&
                         w->grid[axis] <= 1 << 14,
                     SV_BAD_SHAPE, "window_orders: window %d of a grid of %d", w->window[axis],
                     w->grid[axis]);
        SV_CHECK(c, w->group >= 1, SV_BAD_SHAPE, "window_orders: groups of %d", w->group);
        SV_TRY(check_order(c, &jobs[i].x, jobs[i].coords, w->group));
        SV_TRY(check_order(c, &jobs[i].y, jobs[i].coords, w->group));
    }
    return SV_OK;
}

sv_status sv_check_merge_map(sv_ctx *c, const sv_merge *out, sv_tensor coords, const int32_t *shape,
                             const int32_t *scale, sv_tensor picks, int32_t *needed)
{
    SV_TRY(is_coords(c, "merge_map", coords));
    SV_TRY(is_coords(c, "merge_map", out->coords));
    const int copies = sv_is_none(picks) ? 0 : 4 * picks.dim[0];
    SV_TRY(is_index(c, "merge_map", "inverse", out->inverse, coords.dim[0] + copies));
    SV_TRY(is_index(c, "merge_map", "start", out->start, out->coords.dim[0] + 1));
    SV_TRY(is_index(c, "merge_map", "rows", out->rows, coords.dim[0]));
    SV_CHECK(c, needed && out->coords.offsets == out->offsets, SV_BAD_SHAPE,
             "merge_map: a counter and offsets are needed");
    for (int axis = 0; axis < 3; axis++)
        SV_CHECK(c,
                 shape[axis] >= 1 && shape[axis] <= 1 << 14 && scale[axis] >= 1 &&
                     shape[2 - axis] >= scale[axis],
                 SV_BAD_SHAPE, "merge_map: grid %d,%d,%d (z,y,x) by %d,%d,%d (x,y,z)", shape[0], shape[1],
                 shape[2], scale[0], scale[1], scale[2]);
    SV_CHECK(c, sv_is_none(picks) || picks.offsets, SV_BAD_SHAPE, "merge_map: picks need per-sample offsets");
    SV_CHECK(c, out->coords.batch == coords.batch && (sv_is_none(picks) || picks.batch == coords.batch),
             SV_BAD_SHAPE, "merge_map: %d samples of coords, offsets for %d and %d", coords.batch,
             out->coords.batch, picks.batch);
    return SV_OK;
}

sv_status sv_check_positions(sv_ctx *c, sv_tensor y, sv_tensor coords, const int32_t *shape)
{
    SV_TRY(is_coords(c, "positions", coords));
    SV_CHECK(c, shape[0] > 1, SV_UNSUPPORTED,
             "positions: a grid with one z cell has no z position (shape %d,%d,%d)", shape[0], shape[1],
             shape[2]);
    return is_matrix(c, "positions", "y", y, SV_F32, coords.dim[0], 3);
}

bool sv_position_embed_fits(const sv_ctx *c, const sv_linear_weights *mlp)
{
    const int channels = mlp[1].n;
    return c->device->ops->position_embed && (channels == 64 || channels == 128) && mlp[0].k == 3 &&
           mlp[0].n == channels && mlp[1].k == channels && !sv_is_none(mlp[0].bias) &&
           !sv_is_none(mlp[1].bias);
}

sv_status sv_check_position_embed(sv_ctx *c, sv_tensor x, sv_tensor coords, const int32_t *shape,
                                  const sv_linear_weights *mlp)
{
    SV_CHECK(c, sv_position_embed_fits(c, mlp), SV_UNSUPPORTED, "position_embed: layers of %d to %d to %d",
             mlp[0].k, mlp[0].n, mlp[1].n);
    SV_CHECK(c, shape[0] > 0 && shape[1] > 0 && shape[2] > 0, SV_BAD_SHAPE,
             "position_embed: a grid of %d x %d x %d cells", shape[0], shape[1], shape[2]);
    SV_TRY(is_matrix(c, "position_embed", "x", x, SV_F32, coords.dim[0], mlp[1].n));
    return is_matrix(c, "position_embed", "coords", coords, SV_I32, 0, 4);
}

bool sv_point_maxima_fits(const sv_ctx *c, const sv_linear_weights *w, int layers)
{
    if (!c->device->ops->point_maxima || c->precision == SV_FP32) return false; /* fp32: layer by layer */
    if (w[0].k > 16 || w[0].n > 64 || sv_is_none(w[0].bias)) return false;
    return layers == 1 || (layers == 2 && w[1].k == w[0].n && w[1].n <= 128 && sv_is_none(w[1].bias));
}

sv_status sv_check_point_maxima(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor voxel,
                                const sv_linear_weights *w, int layers)
{
    SV_CHECK(c, sv_point_maxima_fits(c, w, layers), SV_UNSUPPORTED,
             "point_maxima: %d layers, the first of %d to %d", layers, w[0].k, w[0].n);
    SV_TRY(is_matrix(c, "point_maxima", "x", x, SV_F32, 0, w[0].k));
    SV_TRY(is_matrix(c, "point_maxima", "y", y, SV_F32, 0, w[layers - 1].n));
    return is_index(c, "point_maxima", "voxel", voxel, x.dim[0]);
}

sv_status sv_check_neighbours(sv_ctx *c, const sv_neighbourhood *out, sv_tensor coords, const int32_t *shape)
{
    SV_TRY(is_coords(c, "neighbours", coords));
    for (int axis = 0; axis < 3; axis++)
        SV_CHECK(c, shape[axis] >= 1 && shape[axis] <= 1 << 14, SV_BAD_SHAPE, "neighbours: grid %d,%d,%d",
                 shape[0], shape[1], shape[2]);
    if (!sv_is_none(out->order)) SV_TRY(is_index(c, "neighbours", "order", out->order, coords.dim[0]));
    return is_matrix(c, "neighbours", "table", out->table, SV_I32, coords.dim[0], 27);
}

sv_status sv_check_subm_prepare(sv_ctx *c, sv_subm_weights *out, sv_tensor w)
{
    (void)out;
    SV_CHECK(c, w.ndim == 5 && w.dtype == SV_F32 && w.dim[1] == 3 && w.dim[2] == 3 && w.dim[3] == 3,
             SV_BAD_SHAPE, "subm_prepare: weight is not [out,3,3,3,in]");
    return SV_OK;
}

sv_status sv_check_subm_conv(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_neighbourhood *around,
                             const sv_subm_weights *w)
{
    SV_TRY(is_matrix(c, "subm_conv", "y", y, SV_F32, 0, w->out));
    SV_TRY(is_matrix(c, "subm_conv", "x", x, SV_F32, 0, w->in));
    SV_TRY(check_row_norm(c, "subm_conv", &w->norm, w->out));
    if (!sv_is_none(around->order)) SV_TRY(is_index(c, "subm_conv", "order", around->order, y.dim[0]));
    return is_matrix(c, "subm_conv", "table", around->table, SV_I32, y.dim[0], 27);
}

sv_status sv_check_bev_scatter(sv_ctx *c, sv_tensor map, sv_tensor x, sv_tensor coords, const int32_t *shape)
{
    SV_TRY(is_coords(c, "bev_scatter", coords));
    SV_TRY(is_matrix(c, "bev_scatter", "x", x, SV_F32, coords.dim[0], -1));
    return is_matrix(c, "bev_scatter", "map", map, SV_F32, coords.batch * shape[1] * shape[2],
                     x.dim[1] * shape[0]);
}

static sv_status check_sequence(sv_ctx *c, const char *op, sv_tensor y, const sv_sequence *seq)
{
    SV_TRY(is_matrix(c, op, "y", y, SV_F32, 0, -1));
    SV_CHECK(c, seq->length >= 1 && y.dim[0] % seq->length == 0, SV_BAD_SHAPE,
             "%s: %d slots are no whole number of groups of %d", op, y.dim[0], seq->length);
    return sv_is_none(seq->index) ? SV_OK : is_index(c, op, "index", seq->index, y.dim[0]);
}

/* Carried state, one row of 'columns' numbers per group. */
static sv_status check_states(sv_ctx *c, const char *op, sv_tensor y, const sv_sequence *seq, int columns)
{
    const int groups = y.dim[0] / seq->length;
    if (!sv_is_none(seq->state_in))
        SV_TRY(is_matrix(c, op, "state_in", seq->state_in, SV_F32, groups, columns));
    return sv_is_none(seq->state_out)
               ? SV_OK
               : is_matrix(c, op, "state_out", seq->state_out, SV_F32, groups, columns);
}

sv_status sv_check_causal_conv(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor w, sv_tensor bias,
                               const sv_sequence *seq, sv_map map)
{
    (void)map;
    SV_TRY(check_sequence(c, "causal_conv", y, seq));
    SV_TRY(is_matrix(c, "causal_conv", "x", x, SV_F32, sv_is_none(seq->index) ? y.dim[0] : 0, y.dim[1]));
    SV_TRY(is_matrix(c, "causal_conv", "w", w, SV_F32, y.dim[1], -1));
    SV_CHECK(c, w.dim[1] >= 1 && w.dim[1] <= 8, SV_UNSUPPORTED, "causal_conv: %d taps; 1 to 8 are supported",
             w.dim[1]);
    SV_TRY(is_vector(c, "causal_conv", "bias", bias, y.dim[1]));
    return check_states(c, "causal_conv", y, seq, y.dim[1] * (w.dim[1] - 1));
}

sv_status sv_check_mlstm(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor igate,
                         sv_tensor fgate, int heads, float eps, const sv_sequence *seq)
{
    (void)eps;
    SV_TRY(check_sequence(c, "mlstm", y, seq));
    const int rows = sv_is_none(seq->index) ? y.dim[0] : 0;
    SV_TRY(is_matrix(c, "mlstm", "q", q, SV_F32, rows, -1));
    SV_CHECK(c, heads >= 1 && q.dim[1] % heads == 0 && y.dim[1] % heads == 0, SV_BAD_SHAPE,
             "mlstm: %d keys and %d values in %d heads", q.dim[1], y.dim[1], heads);
    const int keys = q.dim[1] / heads, values = y.dim[1] / heads;
    SV_CHECK(c, keys >= 1 && keys <= 256 && values >= 1 && values <= 256, SV_UNSUPPORTED,
             "mlstm: heads of %d keys and %d values; 1 to 256 are supported", keys, values);
    SV_TRY(is_matrix(c, "mlstm", "k", k, SV_F32, rows, q.dim[1]));
    SV_TRY(is_matrix(c, "mlstm", "v", v, SV_F32, rows, y.dim[1]));
    SV_TRY(is_matrix(c, "mlstm", "igate", igate, SV_F32, rows, heads));
    SV_TRY(is_matrix(c, "mlstm", "fgate", fgate, SV_F32, rows, heads));
    return check_states(c, "mlstm", y, seq, heads * (keys * values + keys + 1));
}

sv_status sv_check_ttt_linear(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor rate,
                              const sv_ttt_weights *w, const sv_sequence *seq)
{
    SV_TRY(check_sequence(c, "ttt_linear", y, seq));
    const int rows = sv_is_none(seq->index) ? y.dim[0] : 0, channels = y.dim[1], heads = w->heads;
    SV_CHECK(c, heads >= 1 && channels % heads == 0, SV_BAD_SHAPE, "ttt_linear: %d channels in %d heads",
             channels, heads);
    const int width = channels / heads;
    SV_CHECK(c, width >= 1 && width <= 128, SV_UNSUPPORTED,
             "ttt_linear: heads of %d channels; 1 to 128 are supported", width);
    SV_TRY(is_matrix(c, "ttt_linear", "q", q, SV_F32, rows, channels));
    SV_TRY(is_matrix(c, "ttt_linear", "k", k, SV_F32, rows, channels));
    SV_TRY(is_matrix(c, "ttt_linear", "v", v, SV_F32, rows, channels));
    SV_TRY(is_matrix(c, "ttt_linear", "rate", rate, SV_F32, rows, heads));
    SV_TRY(is_vector(c, "ttt_linear", "w", w->w, channels * width));
    SV_TRY(is_vector(c, "ttt_linear", "b", w->b, channels));
    SV_TRY(is_vector(c, "ttt_linear", "norm_weight", w->norm_weight, channels));
    SV_TRY(is_vector(c, "ttt_linear", "norm_bias", w->norm_bias, channels));
    SV_TRY(is_matrix(c, "ttt_linear", "token", w->token, SV_F32, 1, -1));
    const int tokens = w->token.dim[1];
    SV_CHECK(c, tokens >= 1 && tokens <= 16, SV_UNSUPPORTED,
             "ttt_linear: mini-batches of %d tokens; 1 to 16 are supported", tokens);
    if (!sv_is_none(w->rotary)) {
        SV_TRY(is_vector(c, "ttt_linear", "rotary", w->rotary, tokens * width));
        SV_CHECK(c, width % 2 == 0, SV_BAD_SHAPE,
                 "ttt_linear: heads of %d channels cannot be turned in pairs", width);
    }
    return check_states(c, "ttt_linear", y, seq, heads * (width * width + width));
}

sv_status sv_check_mamba_prepare(sv_ctx *c, sv_mamba_weights *w)
{
    const int numbers = w->rank + 2 * w->states;
    SV_CHECK(c, w->inner >= 1 && w->rank >= 1 && w->states >= 1 && w->states <= 64, SV_UNSUPPORTED,
             "mamba: %d inner channels, rank %d, state of %d", w->inner, w->rank, w->states);
    SV_CHECK(c, w->in_proj.n == 2 * w->inner && w->out_proj.k == w->inner && w->out_proj.n == w->in_proj.k,
             SV_BAD_SHAPE, "mamba: in_proj is [%d,%d] and out_proj [%d,%d] for %d inner channels",
             w->in_proj.n, w->in_proj.k, w->out_proj.n, w->out_proj.k, w->inner);
    for (int i = 0; i < 2; i++) {
        const sv_mamba_direction *d = &w->direction[i];
        SV_TRY(is_matrix(c, "mamba", "conv1d", d->conv_weight, SV_F32, w->inner, -1));
        const int taps = d->conv_weight.dim[1];
        SV_CHECK(c, taps >= 1 && taps <= 8 && taps == w->direction[0].conv_weight.dim[1], SV_UNSUPPORTED,
                 "mamba: %d taps; 1 to 8, the same both ways, are supported", taps);
        SV_TRY(is_vector(c, "mamba", "conv1d.bias", d->conv_bias, w->inner));
        SV_CHECK(c, d->x_proj.n == numbers && d->x_proj.k == w->inner, SV_BAD_SHAPE,
                 "mamba: x_proj is [%d,%d], expected [%d,%d]", d->x_proj.n, d->x_proj.k, numbers, w->inner);
        SV_CHECK(c, d->dt_proj.n == w->inner && d->dt_proj.k == w->rank, SV_BAD_SHAPE,
                 "mamba: dt_proj is [%d,%d], expected [%d,%d]", d->dt_proj.n, d->dt_proj.k, w->inner,
                 w->rank);
        SV_TRY(is_vector(c, "mamba", "dt_proj.bias", d->dt_proj.bias, w->inner));
        SV_TRY(is_matrix(c, "mamba", "A", d->a, SV_F32, w->inner, w->states));
        SV_TRY(is_vector(c, "mamba", "D", d->d, w->inner));
    }
    return SV_OK;
}

sv_status sv_check_selective_scan(sv_ctx *c, sv_tensor y, sv_tensor u, sv_tensor delta, sv_tensor a,
                                  sv_tensor bmat, sv_tensor cmat, sv_tensor d, sv_tensor z,
                                  const sv_sequence *seq, bool accumulate)
{
    (void)accumulate;
    SV_TRY(check_sequence(c, "selective_scan", y, seq));
    SV_TRY(is_matrix(c, "selective_scan", "u", u, SV_F32, y.dim[0], y.dim[1]));
    SV_TRY(is_matrix(c, "selective_scan", "delta", delta, SV_F32, y.dim[0], y.dim[1]));
    SV_TRY(is_matrix(c, "selective_scan", "A", a, SV_F32, y.dim[1], -1));
    SV_CHECK(c, a.dim[1] >= 1 && a.dim[1] <= 64, SV_UNSUPPORTED,
             "selective_scan: state of %d; 1 to 64 are supported", a.dim[1]);
    SV_TRY(is_matrix(c, "selective_scan", "B", bmat, SV_F32, y.dim[0], a.dim[1]));
    SV_TRY(is_matrix(c, "selective_scan", "C", cmat, SV_F32, y.dim[0], a.dim[1]));
    SV_TRY(is_vector(c, "selective_scan", "D", d, y.dim[1]));
    SV_TRY(check_states(c, "selective_scan", y, seq, y.dim[1] * a.dim[1]));
    return sv_is_none(z) ? SV_OK
                         : is_matrix(c, "selective_scan", "z", z, SV_F32,
                                     sv_is_none(seq->index) ? y.dim[0] : 0, y.dim[1]);
}

static bool has_room(const sv_ctx *c, int bytes)
{
#ifdef SAVANNA_CUDA
    return c->device->kind != SV_CUDA || sv_cuda_block_bytes(c) >= bytes;
#else
    (void)c, (void)bytes;
    return true;
#endif
}

bool sv_mamba_block_fits(const sv_ctx *c, const sv_mamba_weights *w, int length)
{
    if (c->device->kind == SV_CPU) return true;
    const int channels = w->out_proj.n, taps = w->direction[0].conv_weight.dim[1];
    return c->device->ops->mamba_block && (channels == 32 || channels == 64 || channels == 128) &&
           w->inner == 2 * channels && w->states == 16 && w->rank <= 8 && taps == 4 && length % 64 == 0 &&
           (channels < 128 || has_room(c, SV_ROOM_MAMBA_128));
}

sv_status sv_check_mamba_block(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_mamba_weights *w,
                               const sv_order *order, int length)
{
    SV_TRY(is_matrix(c, "mamba_block", "x", x, SV_F32, 0, w->out_proj.n));
    SV_TRY(is_matrix(c, "mamba_block", "y", y, SV_F32, x.dim[0], x.dim[1]));
    SV_CHECK(c, sv_mamba_block_fits(c, w, length), SV_UNSUPPORTED,
             "mamba_block: %d channels, %d inner, %d states, groups of %d", w->out_proj.n, w->inner,
             w->states, length);
    SV_TRY(is_index(c, "mamba_block", "slot_row", order->slot_row, 0));
    SV_CHECK(c, length >= 1 && order->slot_row.dim[0] % length == 0, SV_BAD_SHAPE,
             "mamba_block: %d slots are no whole number of groups of %d", order->slot_row.dim[0], length);
    return is_index(c, "mamba_block", "row_slot", order->row_slot, x.dim[0]);
}

bool sv_rwkv_block_fits(const sv_ctx *c, const sv_rwkv_weights *w, int length)
{
    const int channels = w->output.n;
    return c->device->ops->rwkv_block && (channels == 64 || channels == 128) && w->heads == 4 &&
           w->hidden == 4 * channels && length % 64 == 0 && (channels < 128 || has_room(c, SV_ROOM_RWKV_128));
}

/* Rows to rows by way of an order's slots. */
static sv_status check_block(sv_ctx *c, const char *op, sv_tensor y, sv_tensor x, int channels, bool fits,
                             const sv_order *order, int length)
{
    SV_TRY(is_matrix(c, op, "x", x, SV_F32, 0, channels));
    SV_TRY(is_matrix(c, op, "y", y, SV_F32, x.dim[0], x.dim[1]));
    SV_CHECK(c, fits, SV_UNSUPPORTED,
             "%s: this device has none for such a block of %d channels, groups of %d", op, channels, length);
    SV_TRY(is_index(c, op, "slot_row", order->slot_row, 0));
    SV_CHECK(c, length >= 1 && order->slot_row.dim[0] % length == 0, SV_BAD_SHAPE,
             "%s: %d slots are no whole number of groups of %d", op, order->slot_row.dim[0], length);
    return is_index(c, op, "row_slot", order->row_slot, x.dim[0]);
}

sv_status sv_check_rwkv_block(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_rwkv_weights *w,
                              const sv_order *order, int length)
{
    return check_block(c, "rwkv_block", y, x, w->output.n, sv_rwkv_block_fits(c, w, length), order, length);
}

bool sv_xlstm_block_fits(const sv_ctx *c, const sv_xlstm_weights *w, int length)
{
    return c->device->ops->xlstm_block && w->direction[0].proj_down.n == 64 && w->inner == 128 &&
           w->heads == 4 && w->direction[0].conv_weight.dim[1] == 4 && length % 64 == 0 &&
           has_room(c, SV_ROOM_XLSTM);
}

sv_status sv_check_xlstm_block(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_xlstm_weights *w,
                               const sv_order *order, int length)
{
    return check_block(c, "xlstm_block", y, x, w->direction[0].proj_down.n, sv_xlstm_block_fits(c, w, length),
                       order, length);
}

bool sv_retnet_block_fits(const sv_ctx *c, const sv_retnet_weights *w, int length)
{
    const int channels = w->o_proj.n;
    return c->device->ops->retnet_block && channels == 64 && w->heads == 2 && w->keys == channels &&
           w->values == 2 * channels && w->hidden == 4 * channels && w->chunk == 64 && length % 64 == 0 &&
           has_room(c, SV_ROOM_RETNET);
}

sv_status sv_check_retnet_block(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_retnet_weights *w,
                                const sv_order *order, int length)
{
    return check_block(c, "retnet_block", y, x, w->o_proj.n, sv_retnet_block_fits(c, w, length), order,
                       length);
}

bool sv_ttt_block_fits(const sv_ctx *c, const sv_ttt_block_weights *w)
{
    const int channels = w->o_proj.n;
    return c->device->ops->ttt_block && channels == 64 && w->hidden == 2 * channels && w->cell.heads == 4;
}

sv_status sv_check_ttt_block(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_ttt_block_weights *w,
                             const sv_order *order, int length)
{
    return check_block(c, "ttt_block", y, x, w->o_proj.n, sv_ttt_block_fits(c, w), order, length);
}

static sv_status check_decay(sv_ctx *c, sv_tensor decay, sv_tensor bonus, const sv_decay_rule *rule, int rows,
                             int keys, int values)
{
    SV_CHECK(c, rule->decay == SV_DECAY_NONE || rule->decay == SV_DECAY_HEAD || rule->read != SV_READ_CHUNK,
             SV_UNSUPPORTED,
             "decay_scan: tokens see their whole chunk only where a head's decay is constant");
    SV_CHECK(c, rule->read != SV_READ_CHUNK || (rule->chunk >= 1 && rule->chunk <= 64), SV_UNSUPPORTED,
             "decay_scan: chunks of %d tokens; 1 to 64 are supported", rule->chunk);
    SV_CHECK(c, rule->decay != SV_DECAY_NONE || sv_is_none(decay), SV_BAD_SHAPE,
             "decay_scan: a 'decay' where the rule has none");
    SV_CHECK(c, rule->decay != SV_DECAY_PAIR || rule->read == SV_READ_AFTER, SV_UNSUPPORTED,
             "decay_scan: decays of pairs are read after the token only");
    SV_CHECK(c, sv_is_none(bonus) || rule->read == SV_READ_BEFORE, SV_BAD_SHAPE,
             "decay_scan: a 'bonus' where the token itself is in the state already");
    if (!sv_is_none(bonus)) SV_TRY(is_vector(c, "decay_scan", "bonus", bonus, keys));
    switch (rule->decay) {
    case SV_DECAY_HEAD:
        return is_vector(c, "decay_scan", "decay", decay, rule->heads);
    case SV_DECAY_TOKEN:
        return is_matrix(c, "decay_scan", "decay", decay, SV_F32, rows, rule->heads);
    case SV_DECAY_CHANNEL:
        return is_matrix(c, "decay_scan", "decay", decay, SV_F32, rows, keys);
    case SV_DECAY_VALUE:
        return is_matrix(c, "decay_scan", "decay", decay, SV_F32, rows, values);
    case SV_DECAY_PAIR:
        return is_matrix(c, "decay_scan", "decay", decay, SV_F32, rows, keys + values);
    case SV_DECAY_NONE:
        break;
    }
    return SV_OK;
}

sv_status sv_check_decay_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor decay,
                              sv_tensor bonus, const sv_decay_rule *rule, const sv_sequence *seq,
                              bool accumulate)
{
    (void)accumulate;
    SV_TRY(check_sequence(c, "decay_scan", y, seq));
    const int rows = sv_is_none(seq->index) ? y.dim[0] : 0, heads = rule->heads;
    SV_TRY(is_matrix(c, "decay_scan", "q", q, SV_F32, rows, -1));
    SV_CHECK(c, heads >= 1 && q.dim[1] % heads == 0 && y.dim[1] % heads == 0, SV_BAD_SHAPE,
             "decay_scan: %d key and %d value channels do not divide into %d heads", q.dim[1], y.dim[1],
             heads);
    SV_CHECK(c, q.dim[1] / heads >= 1 && q.dim[1] / heads <= 256, SV_UNSUPPORTED,
             "decay_scan: %d key channels a head; 1 to 256 are supported", q.dim[1] / heads);
    SV_TRY(is_matrix(c, "decay_scan", "k", k, SV_F32, rows, q.dim[1]));
    SV_TRY(is_matrix(c, "decay_scan", "v", v, SV_F32, rows, y.dim[1]));
    SV_TRY(check_decay(c, decay, bonus, rule, rows, q.dim[1], y.dim[1]));
    const int64_t state = (int64_t)q.dim[1] * (y.dim[1] / heads);
    SV_CHECK(c, state <= INT32_MAX, SV_UNSUPPORTED, "decay_scan: a state of %lld numbers", (long long)state);
    return check_states(c, "decay_scan", y, seq, (int)state);
}

sv_status sv_check_token_mix(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor m, const sv_sequence *seq)
{
    SV_TRY(check_sequence(c, "token_mix", y, seq));
    SV_TRY(is_matrix(c, "token_mix", "x", x, SV_F32, sv_is_none(seq->index) ? y.dim[0] : 0, -1));
    SV_CHECK(c, x.dim[1] >= 1 && y.dim[1] % x.dim[1] == 0, SV_BAD_SHAPE,
             "token_mix: %d columns are no whole number of mixtures of %d", y.dim[1], x.dim[1]);
    SV_TRY(is_matrix(c, "token_mix", "m", m, SV_F32, y.dim[0], y.dim[1]));
    return check_states(c, "token_mix", y, seq, x.dim[1]);
}

sv_status sv_check_chain_prepare(sv_ctx *c, sv_chain **out, const sv_chain_def *def)
{
    (void)out;
    SV_CHECK(c,
             def->node_count >= 1 && def->node_count <= SV_CHAIN_NODES && def->in_channels >= 1 &&
                 def->height >= 1 && def->width >= 1,
             SV_BAD_SHAPE, "chain: %d nodes on a map of %d x %d x %d", def->node_count, def->height,
             def->width, def->in_channels);
    return SV_OK;
}

sv_status sv_check_chain_run(sv_ctx *c, const sv_chain *chain, int batch, sv_tensor in, sv_tensor coords,
                             const sv_chain_output *outputs, int count)
{
    (void)chain, (void)coords, (void)outputs;
    SV_CHECK(c, batch >= 1 && count >= 1, SV_BAD_SHAPE, "chain: batch of %d, %d outputs", batch, count);
    return is_matrix(c, "chain", "in", in, SV_F32, 1, -1);
}

sv_status sv_check_anchor_decode(sv_ctx *c, const sv_candidates *out, sv_tensor cls, sv_tensor box,
                                 sv_tensor dir, int batch, const sv_anchor_grid *grid, float min_score,
                                 int pre_max)
{
    (void)min_score;
    const int cells = batch * grid->height * grid->width;
    SV_TRY(is_matrix(c, "anchor_decode", "cls", cls, SV_F32, cells, grid->per_cell * grid->classes));
    SV_TRY(is_matrix(c, "anchor_decode", "box", box, SV_F32, cells, grid->per_cell * 7));
    if (grid->direction_bins > 0)
        SV_TRY(
            is_matrix(c, "anchor_decode", "dir", dir, SV_F32, cells, grid->per_cell * grid->direction_bins));
    SV_CHECK(c, pre_max >= 1, SV_BAD_SHAPE, "anchor_decode: the best %d candidates", pre_max);
    return is_matrix(c, "anchor_decode", "boxes", out->boxes, SV_F32, 0, SV_BOX_FIELDS);
}

/* 'batch' maps of height x width cells. */
static sv_status check_map(sv_ctx *c, const char *op, sv_tensor t, int batch, int height, int width)
{
    SV_CHECK(c, batch >= 1 && height >= 1 && width >= 1 && height <= 1 << 14 && width <= 1 << 14,
             SV_BAD_SHAPE, "%s: %d maps of %d x %d cells", op, batch, height, width);
    const int64_t cells = (int64_t)batch * height * width;
    SV_TRY(is_matrix(c, op, "map", t, SV_F32, 0, -1));
    SV_CHECK(c,
             t.dim[0] == cells && cells * t.dim[1] <= INT32_MAX && t.dim[1] >= 1 &&
                 t.dim[1] <= SV_HEAT_CHANNELS,
             SV_BAD_SHAPE, "%s: the map is [%d,%d], expected %d maps of %d x %d cells and 1 to %d channels",
             op, t.dim[0], t.dim[1], batch, height, width, SV_HEAT_CHANNELS);
    return SV_OK;
}

sv_status sv_check_local_peaks(sv_ctx *c, sv_tensor y, sv_tensor x, int batch, const sv_peak_rule *rule)
{
    SV_TRY(check_map(c, "local_peaks", x, batch, rule->height, rule->width));
    SV_CHECK(c, rule->radius >= 0 && rule->radius <= 16, SV_UNSUPPORTED,
             "local_peaks: windows of radius %d; 0 to 16 are supported", rule->radius);
    return is_matrix(c, "local_peaks", "y", y, SV_F32, x.dim[0], x.dim[1]);
}

static sv_status check_picks(sv_ctx *c, const char *op, const sv_cell_picks *picks, int batch)
{
    const int rows = picks->row.dim[0];
    SV_CHECK(c, batch >= 1 && rows % batch == 0, SV_BAD_SHAPE, "%s: %d picks of %d samples", op, rows, batch);
    SV_TRY(is_index(c, op, "row", picks->row, rows));
    SV_TRY(is_index(c, op, "channel", picks->channel, rows));
    SV_TRY(is_matrix(c, op, "score", picks->score, SV_F32, rows, 1));
    return is_matrix(c, op, "place", picks->place, SV_F32, rows, 2);
}

sv_status sv_check_top_cells(sv_ctx *c, const sv_cell_picks *out, sv_tensor x, int batch,
                             const sv_cell_order *order)
{
    SV_TRY(check_map(c, "top_cells", x, batch, order->height, order->width));
    SV_TRY(check_picks(c, "top_cells", out, batch));
    SV_CHECK(c, out->row.dim[0] <= (int64_t)x.dim[0] * x.dim[1], SV_BAD_SHAPE,
             "top_cells: the best %d of %d cells in %d channels", out->row.dim[0], x.dim[0], x.dim[1]);
    return SV_OK;
}

sv_status sv_check_top_sparse(sv_ctx *c, const sv_cell_picks *out, sv_tensor x, sv_tensor coords,
                              const sv_channel_groups *groups)
{
    SV_TRY(is_coords(c, "top_sparse", coords));
    SV_CHECK(c, groups->count >= 1 && groups->count <= SV_HEAT_CHANNELS, SV_BAD_SHAPE,
             "top_sparse: %d groups of channels; 1 to %d are possible", groups->count, SV_HEAT_CHANNELS);
    for (int g = 0; g < groups->count; g++)
        SV_CHECK(c, groups->end[g] > (g ? groups->end[g - 1] : 0), SV_BAD_SHAPE,
                 "top_sparse: group %d ends before channel %d", g, groups->end[g]);
    const int channels = groups->end[groups->count - 1];
    SV_TRY(is_matrix(c, "top_sparse", "x", x, SV_F32, coords.dim[0], channels));
    SV_CHECK(c, (int64_t)coords.dim[0] * channels <= INT32_MAX, SV_BAD_SHAPE,
             "top_sparse: %d rows of %d channels", coords.dim[0], channels);
    return check_picks(c, "top_sparse", out, coords.batch * groups->count);
}

sv_status sv_check_window_attention(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                    sv_tensor cell, const sv_cell_window *window)
{
    SV_TRY(is_matrix(c, "window_attention", "y", y, SV_F32, 0, -1));
    const int channels = y.dim[1], cells = window->width * window->width;
    SV_CHECK(c, window->width >= 1 && window->width <= 1 << 14 && window->radius >= 0 && window->radius <= 64,
             SV_UNSUPPORTED, "window_attention: windows of radius %d on maps of %d cells a side",
             window->radius, window->width);
    SV_CHECK(c, window->heads >= 1 && window->heads <= SV_ATTENTION_HEADS && channels % window->heads == 0,
             SV_BAD_SHAPE, "window_attention: %d channels in %d heads", channels, window->heads);
    SV_TRY(is_matrix(c, "window_attention", "q", q, SV_F32, y.dim[0], channels));
    SV_TRY(is_matrix(c, "window_attention", "k", k, SV_F32, cells, channels));
    SV_TRY(is_matrix(c, "window_attention", "v", v, SV_F32, k.dim[0], channels));
    SV_CHECK(c, k.dim[0] % cells == 0, SV_BAD_SHAPE,
             "window_attention: %d rows are no whole number of maps of %d", k.dim[0], cells);
    return is_index(c, "window_attention", "cell", cell, y.dim[0]);
}

sv_status sv_check_center_decode(sv_ctx *c, const sv_candidates *out, const sv_cell_picks *picks,
                                 const sv_center_codes *codes, int batch, const sv_center_rule *rule)
{
    SV_TRY(check_picks(c, "center_decode", picks, batch));
    const struct {
        const char *name;
        sv_tensor t;
        int columns;
        bool optional;
    } fields[] = {{"center", codes->center, 2, false},
                  {"z", codes->z, 1, false},
                  {"size", codes->size, 3, false},
                  {"rotation", codes->rotation, 2, false},
                  {"velocity", codes->velocity, 2, true},
                  {"overlap", codes->overlap, 1, true},
                  {"confidence", codes->confidence, rule->channels, true}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (!fields[i].optional || !sv_is_none(fields[i].t))
            SV_TRY(is_matrix(c, "center_decode", fields[i].name, fields[i].t, SV_F32,
                             codes->gathered ? picks->row.dim[0] : 0, fields[i].columns));
    SV_CHECK(c, rule->channels >= 1 && rule->channels <= SV_HEAT_CHANNELS, SV_BAD_SHAPE,
             "center_decode: %d channels; 1 to %d are possible", rule->channels, SV_HEAT_CHANNELS);
    SV_CHECK(c, !rule->rescore || !sv_is_none(codes->overlap), SV_BAD_SHAPE,
             "center_decode: rescoring without a predicted overlap");
    SV_CHECK(c, out->offsets && out->boxes.offsets == out->offsets, SV_BAD_SHAPE,
             "center_decode: boxes need per-sample offsets");
    return is_matrix(c, "center_decode", "boxes", out->boxes, SV_F32, picks->row.dim[0], SV_BOX_FIELDS);
}

sv_status sv_check_nms(sv_ctx *c, const sv_candidates *out, const sv_candidates *in, const sv_nms_rule *rule)
{
    SV_CHECK(c, rule->classes >= 0 && rule->classes <= SV_NMS_CLASSES, SV_BAD_SHAPE,
             "nms: %d classes; 0 to %d are possible", rule->classes, SV_NMS_CLASSES);
    SV_TRY(is_matrix(c, "nms", "in", in->boxes, SV_F32, 0, SV_BOX_FIELDS));
    SV_CHECK(c, in->boxes.offsets && out->offsets, SV_BAD_SHAPE, "nms: boxes need per-sample offsets");
    return is_matrix(c, "nms", "out", out->boxes, SV_F32, 0, SV_BOX_FIELDS);
}
