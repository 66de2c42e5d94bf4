/* SPDX-License-Identifier: Apache-2.0
 *
 * The contract of the primitives of video blocks: rows are whole maps.
 */
#include "ops_check.h"

static sv_status is_rows(sv_ctx *c, const char *op, const char *what, sv_tensor t, int rows, int columns)
{
    SV_CHECK(c,
             !sv_is_none(t) && t.ndim == 2 && t.dtype == SV_F32 && !t.offsets && t.dim[0] == rows &&
                 t.dim[1] == columns,
             SV_BAD_SHAPE, "%s: '%s' is [%d,%d] of type %d, expected floats [%d,%d]", op, what, t.dim[0],
             t.dim[1], t.dtype, rows, columns);
    return SV_OK;
}

static sv_status has(sv_ctx *c, const char *op, const char *what, sv_tensor t, int n)
{
    SV_CHECK(c, !sv_is_none(t) && t.dtype == SV_F32 && t.dim[0] * sv_row_elements(t) == n, SV_BAD_SHAPE,
             "%s: '%s' holds %lld numbers, expected %d", op, what, (long long)(t.dim[0] * sv_row_elements(t)),
             n);
    return SV_OK;
}

static sv_status whole_maps(sv_ctx *c, const char *op, sv_tensor t, int64_t cells)
{
    SV_CHECK(c, cells >= 1 && t.dim[0] % cells == 0, SV_BAD_SHAPE,
             "%s: %d rows are no whole number of maps of %lld cells", op, t.dim[0], (long long)cells);
    return SV_OK;
}

sv_status sv_check_map_conv_prepare(sv_ctx *c, sv_map_conv_weights *out, sv_tensor w, sv_tensor bias,
                                    int kernel, int height, int width)
{
    (void)out;
    SV_CHECK(c, kernel >= 1 && kernel <= 15 && kernel % 2 == 1, SV_UNSUPPORTED,
             "map_conv: kernel size %d; odd sizes up to 15 are supported", kernel);
    SV_CHECK(c, height >= 1 && width >= 1 && (int64_t)height * width <= 1 << 24, SV_BAD_SHAPE,
             "map_conv: maps of %d x %d cells", height, width);
    SV_CHECK(c, w.ndim == 2 && w.dtype == SV_F32 && w.dim[0] % (kernel * kernel) == 0 && w.dim[0] > 0,
             SV_BAD_SHAPE, "map_conv: weights are [%d,%d] for a kernel of %d x %d", w.dim[0], w.dim[1],
             kernel, kernel);
    return sv_is_none(bias) ? SV_OK : has(c, "map_conv", "bias", bias, w.dim[1]);
}

sv_status sv_check_map_conv(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_map_conv_weights *w, sv_tensor add,
                            sv_map map)
{
    (void)map;
    SV_TRY(whole_maps(c, "map_conv", y, (int64_t)w->height * w->width));
    SV_TRY(is_rows(c, "map_conv", "y", y, y.dim[0], w->out));
    SV_TRY(is_rows(c, "map_conv", "x", x, y.dim[0], w->in));
    SV_CHECK(c, y.data != x.data, SV_BAD_SHAPE, "map_conv: y and x share memory");
    return sv_is_none(add) ? SV_OK : is_rows(c, "map_conv", "add", add, y.dim[0], w->out);
}

sv_status sv_check_map_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor weight, sv_tensor bias, int cells,
                            int groups, float eps, sv_map map)
{
    (void)eps, (void)map;
    SV_TRY(whole_maps(c, "map_norm", y, cells));
    SV_TRY(is_rows(c, "map_norm", "y", y, y.dim[0], y.dim[1]));
    SV_TRY(is_rows(c, "map_norm", "x", x, y.dim[0], y.dim[1]));
    SV_CHECK(c, groups >= 1 && y.dim[1] % groups == 0, SV_BAD_SHAPE, "map_norm: %d channels in %d groups",
             y.dim[1], groups);
    SV_TRY(has(c, "map_norm", "weight", weight, y.dim[1]));
    return has(c, "map_norm", "bias", bias, y.dim[1]);
}

sv_status sv_check_map_mean(sv_ctx *c, sv_tensor y, sv_tensor x, int cells)
{
    SV_TRY(whole_maps(c, "map_mean", x, cells));
    SV_TRY(is_rows(c, "map_mean", "x", x, x.dim[0], x.dim[1]));
    return is_rows(c, "map_mean", "y", y, x.dim[0] / cells, x.dim[1]);
}

sv_status sv_check_map_gate(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor gate, int cells)
{
    SV_TRY(sv_check_map_mean(c, gate, x, cells));
    return is_rows(c, "map_gate", "y", y, x.dim[0], x.dim[1]);
}

sv_status sv_check_map_half(sv_ctx *c, sv_tensor y, sv_tensor x, int height, int width)
{
    SV_CHECK(c, height >= 2 && width >= 2 && height % 2 == 0 && width % 2 == 0, SV_BAD_SHAPE,
             "map_half: maps of %d x %d cells cannot be halved", height, width);
    SV_TRY(whole_maps(c, "map_half", x, (int64_t)height * width));
    SV_TRY(is_rows(c, "map_half", "x", x, x.dim[0], x.dim[1]));
    return is_rows(c, "map_half", "y", y, x.dim[0] / 4, x.dim[1]);
}

sv_status sv_check_map_double(sv_ctx *c, sv_tensor y, sv_tensor x, int height, int width)
{
    SV_CHECK(c, height >= 1 && width >= 1, SV_BAD_SHAPE, "map_double: maps of %d x %d cells", height, width);
    SV_TRY(whole_maps(c, "map_double", x, (int64_t)height * width));
    SV_TRY(is_rows(c, "map_double", "x", x, x.dim[0], x.dim[1]));
    return is_rows(c, "map_double", "y", y, x.dim[0] * 4, x.dim[1]);
}

sv_status sv_check_map_scan(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor powers, int frames,
                            sv_tensor state_in, sv_tensor state_out)
{
    SV_CHECK(c, frames >= 1 && y.dim[0] % frames == 0 && y.dim[1] % 2 == 0, SV_BAD_SHAPE,
             "map_scan: [%d,%d] holds no complex numbers of %d frames", y.dim[0], y.dim[1], frames);
    SV_TRY(is_rows(c, "map_scan", "y", y, y.dim[0], y.dim[1]));
    SV_TRY(is_rows(c, "map_scan", "x", x, y.dim[0], y.dim[1]));
    SV_CHECK(c, powers.dim[0] >= 1, SV_BAD_SHAPE, "map_scan: no powers");
    SV_TRY(is_rows(c, "map_scan", "powers", powers, powers.dim[0], y.dim[1]));
    const int rows = y.dim[0] / frames;
    if (!sv_is_none(state_in)) SV_TRY(is_rows(c, "map_scan", "state_in", state_in, rows, y.dim[1]));
    return sv_is_none(state_out) ? SV_OK : is_rows(c, "map_scan", "state_out", state_out, rows, y.dim[1]);
}

sv_status sv_check_map_warp(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor motion, int height, int width)
{
    SV_CHECK(c, height >= 1 && width >= 1, SV_BAD_SHAPE, "map_warp: maps of %d x %d cells", height, width);
    SV_TRY(whole_maps(c, "map_warp", y, (int64_t)height * width));
    SV_TRY(is_rows(c, "map_warp", "y", y, y.dim[0], y.dim[1]));
    SV_TRY(is_rows(c, "map_warp", "x", x, y.dim[0], y.dim[1]));
    SV_CHECK(c, y.data != x.data, SV_BAD_SHAPE, "map_warp: y and x share memory");
    SV_CHECK(c, motion.ndim == 2 && motion.dim[0] >= y.dim[0] / (height * width), SV_BAD_SHAPE,
             "map_warp: %d rows of motion for %d samples", motion.dim[0], y.dim[0] / (height * width));
    return is_rows(c, "map_warp", "motion", motion, motion.dim[0], 8);
}
