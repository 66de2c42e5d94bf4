/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows of numbers: maps, linear layers, norms, means, rows by index, sums of segments, best rows.
 */
#include "harness.h"

#include <math.h>
#include <stdio.h>

/* ---- maps ---------------------------------------------------------------------------------------------- */

static const sv_map maps_of_two[] = {SV_MAP_add,         SV_MAP_add_relu, SV_MAP_mul,
                                     SV_MAP_mul_silu,    SV_MAP_sub,      SV_MAP_power,
                                     SV_MAP_mul_sigmoid, SV_MAP_neg_mul,  SV_MAP_div};
enum { MAPS_OF_TWO = sizeof maps_of_two / sizeof *maps_of_two };

static bool takes_two(sv_map map)
{
    for (int i = 0; i < MAPS_OF_TWO; i++)
        if (maps_of_two[i] == map) return true;
    return false;
}

static sv_status run_map1(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_tensor y = t->flag ? sv_columns(v[2], 1, v[1].dim[1]) : v[2];
    return sv_map1(c, y, v[1], t->map);
}
void check_map1(bench *k)
{
    for (int map = 0; map < SV_MAP_COUNT; map++) {
        if (takes_two((sv_map)map)) continue;
        for (int i = 0; i < ROW_COUNTS; i++) {
            test_case t = {.run = run_map1, .map = (sv_map)map, .flag = i % 2 == 1};
            const int capacity = row_counts[i] + below(20), batch = 1 + i % 3, columns = 1 + below(70);
            const int offsets = add_offsets(&t, capacity, batch, 1);
            const int a = add_floats(&t, "a", capacity, live(&t, offsets), columns, 4.0f);
            with_offsets(&t, a, offsets, batch);
            if (i % 3 == 0 && live(&t, offsets) > 2)
                floats(&t, a)[0] = NAN, floats(&t, a)[columns] = 30.0f, floats(&t, a)[2 * columns] = -200.0f;
            /* with 'flag' y is a range of columns of something wider */
            add_output(&t, "y", capacity, columns + (t.flag ? 3 : 0), offsets, batch, 1e-6);
            snprintf(t.label, sizeof t.label, "%s, %d of %d rows, %d columns", sv_map_name(t.map),
                     live(&t, offsets), capacity, columns);
            check(k, &t);
        }
    }
}

static sv_status run_map2(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    return sv_map2(c, v[3], v[1], v[2], t->map);
}
void check_map2(bench *k)
{
    for (int i = 0; i < MAPS_OF_TWO * ROW_COUNTS; i++) {
        test_case t = {.run = run_map2, .map = maps_of_two[i % MAPS_OF_TWO]};
        const int capacity = row_counts[i / MAPS_OF_TWO] + below(20), batch = 1 + below(3),
                  columns = 1 + below(70);
        const int offsets = add_offsets(&t, capacity, batch, 1);
        add_floats(&t, "a", capacity, live(&t, offsets), columns, 3.0f);
        add_floats(&t, "b", capacity, live(&t, offsets), columns, 3.0f);
        /* a power's relative error is that of its exponent, times the exponent */
        add_output(&t, "y", capacity, columns, offsets, batch, t.map == SV_MAP_power ? 2e-5 : 1e-6);
        snprintf(t.label, sizeof t.label, "%s, %d of %d rows", sv_map_name(t.map), live(&t, offsets),
                 capacity);
        check(k, &t);
    }
}

/* ---- linear, norm, means ------------------------------------------------------------------------------- */

static sv_status prepare_linear(sv_ctx *c, test_case *t)
{
    return sv_linear_prepare(c, &t->linear, t->host_w, t->host_bias);
}
/* buffers: offsets, x, index, y, w, bias */
static sv_status run_linear(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    return sv_linear(c, v[3], v[1], t->flag ? v[2] : SV_NONE, &t->linear, t->map);
}
void check_linear(bench *k)
{
    static const int shapes[][2] = {{1, 1},    {64, 3},  {128, 64}, {36, 128}, {5, 130},
                                    {64, 256}, {200, 7}, {128, 4},  {512, 128}};
    static const sv_map maps[] = {SV_MAP_identity, SV_MAP_relu, SV_MAP_gelu, SV_MAP_softplus, SV_MAP_silu};
    for (int i = 0; i < 9; i++) {
        for (int j = 0; j < ROW_COUNTS + 1; j++) {
            test_case t = {.prepare = prepare_linear,
                           .run = run_linear,
                           .map = maps[(i + j) % 5],
                           .flag = (i + j) % 2 == 0};
            const int capacity = (j < ROW_COUNTS ? row_counts[j] : 30000) + below(70), batch = 1 + below(3);
            if (j == ROW_COUNTS && i != 2 && i != 8) continue;
            const int n = shapes[i][0], inputs = shapes[i][1];
            const int offsets = add_offsets(&t, capacity, batch, 1), rows = live(&t, offsets);
            const int x = add_floats(&t, "x", capacity, rows, inputs, 1.0f);
            with_offsets(&t, x, offsets, batch);
            add_index(&t, "index", capacity, rows, rows, true);
            add_output(&t, "y", capacity, n, offsets, batch, 5e-6); /* tensor cores cut their sums off */
            const int w = add_floats(&t, "w", n, n, inputs, 0.3f),
                      bias = add_floats(&t, "bias", 1, 1, n, 0.3f);
            t.host_w = sv_view(at(&t, w), SV_F32, n, inputs);
            t.host_bias = j % 3 == 0 ? SV_NONE : sv_view(at(&t, bias), SV_F32, n, 1);
            snprintf(t.label, sizeof t.label, "%d -> %d, %d of %d rows, %s%s%s", inputs, n, rows, capacity,
                     sv_map_name(t.map), t.flag ? ", indexed" : "", j % 3 == 0 ? "" : ", bias");
            check(k, &t);
        }
    }
}

/* buffers: offsets, x, weight, bias, residual, y; share says what the residual is: 0 none, 1 a buffer, 2 y
 * itself and x in place */
static sv_status run_norm(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    if (t->share == 2) return sv_norm(c, v[4], v[1], v[2], v[3], 1e-5f, t->map, v[4]);
    if (t->share == 3) return sv_norm(c, v[1], v[1], v[2], v[3], 1e-5f, t->map, SV_NONE);
    return sv_norm(c, v[5], v[1], v[2], v[3], 1e-5f, t->map, t->share == 1 ? v[4] : SV_NONE);
}
void check_norm(bench *k)
{
    static const int widths[] = {1, 7, 32, 64, 128, 300};
    for (int i = 0; i < 6 * ROW_COUNTS; i++) {
        test_case t = {.run = run_norm, .map = i % 2 ? SV_MAP_gelu : SV_MAP_identity, .share = i % 4};
        const int channels = widths[i % 6], capacity = row_counts[i / 6] + below(9), batch = 1 + below(3);
        const int offsets = add_offsets(&t, capacity, batch, 1), rows = live(&t, offsets);
        const int x = add_floats(&t, "x", capacity, rows, channels, 2.0f);
        add_floats(&t, "weight", 1, 1, channels, 1.0f);
        add_floats(&t, "bias", 1, 1, channels, 1.0f);
        const int residual = add_floats(&t, "residual", capacity, rows, channels, 1.0f);
        with_offsets(&t, x, offsets, batch);
        with_offsets(&t, residual, offsets, batch);
        t.buffers[x].tolerance = t.buffers[residual].tolerance = 3e-6;
        add_output(&t, "y", capacity, channels, offsets, batch, 3e-6);
        /* one channel: the variance is rounding noise beside eps */
        snprintf(t.label, sizeof t.label, "%d of %d rows, %d channels, variant %g", rows, capacity, channels,
                 t.share);
        check(k, &t);
    }
}

static sv_status run_row_mean(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    (void)t;
    return sv_row_mean(c, v[2], v[1]);
}
void check_row_mean(bench *k)
{
    for (int i = 0; i < 3 * ROW_COUNTS; i++) {
        test_case t = {.run = run_row_mean};
        const int channels = 1 + below(200), capacity = row_counts[i / 3] + below(9), batch = 1 + below(3);
        const int offsets = add_offsets(&t, capacity, batch, 1);
        add_floats(&t, "x", capacity, live(&t, offsets), channels, 2.0f);
        /* of single rows the mean may be a hundredth of what it is the mean of */
        add_output(&t, "y", capacity, 1, offsets, batch, 1e-5);
        snprintf(t.label, sizeof t.label, "%d of %d rows, %d channels", live(&t, offsets), capacity,
                 channels);
        check(k, &t);
    }
}

/* ---- index primitives ---------------------------------------------------------------------------------- */

/* buffers: offsets, x, index, base, y, norm's weight and bias */
static sv_status run_gather(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_row_norm norm = {.weight = v[5], .bias = v[6], .eps = 1e-3f, .map = SV_MAP_identity};
    if (t->share > 0) return sv_gather_norm(c, v[4], v[1], v[2], t->flag ? v[3] : SV_NONE, &norm);
    return sv_gather(c, v[4], v[1], v[2], t->flag ? v[3] : SV_NONE);
}
void check_gather(bench *k)
{
    for (int i = 0; i < 3 * ROW_COUNTS; i++) {
        test_case t = {.run = run_gather, .flag = i % 3 == 0, .share = i % 3 == 1 ? 0 : i % 2};
        const int columns = i % 4 == 2 ? 16 << below(4) : 1 + below(130),
                  capacity = row_counts[i / 3] + below(9), batch = 1 + below(3), source = 1 + below(400);
        const int offsets = add_offsets(&t, capacity, batch, 1), rows = live(&t, offsets);
        const int x = add_floats(&t, "x", source, source, columns, 2.0f);
        add_index(&t, "index", capacity, rows, source, i % 2 == 0);
        add_floats(&t, "base", capacity, rows, columns, 2.0f);
        const int y = add_output(&t, "y", capacity, columns, offsets, batch, t.share > 0 ? 1e-6 : EXACT);
        add_floats(&t, "weight", 1, 1, columns, 1.0f);
        add_floats(&t, "bias", 1, 1, columns, 1.0f);
        if (i % 3 == 1) t.buffers[x].dtype = t.buffers[y].dtype = SV_I32; /* the same bits as integers */
        snprintf(t.label, sizeof t.label, "%d of %d rows from %d, %d columns%s", rows, capacity, source,
                 columns, t.flag ? ", base" : "");
        check(k, &t);
    }
}

/* buffers: offsets (segments), start, rows, x, y, norm's weight and bias */
static sv_status run_segment_sum(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_row_norm norm = {
        .weight = v[5], .bias = v[6], .eps = 1e-3f, .map = t->share > 1 ? SV_MAP_gelu : SV_MAP_identity};
    return sv_segment_sum(c, v[4], v[3], v[1], t->flag ? v[2] : SV_NONE, t->share ? &norm : NULL);
}
static sv_status run_segment_max(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    return sv_segment_max(c, v[4], v[3], v[1], t->flag ? v[2] : SV_NONE);
}
static void check_segments(bench *k, sv_status (*run)(sv_ctx *, test_case *, const sv_tensor *),
                           double tolerance)
{
    for (int i = 0; i < 3 * ROW_COUNTS; i++) {
        test_case t = {.run = run, .flag = i % 2 == 0, .share = i % 5 < 4 ? i % 3 : 0};
        const int columns = i % 4 == 1 ? 16 << below(4) : 1 + below(130),
                  capacity = row_counts[i / 3] + below(9), batch = 1 + below(3);
        const int offsets = add_offsets(&t, capacity, batch, 1), segments = live(&t, offsets);
        const int start = add(&t, "start", SV_I32, capacity + 1, 1);
        int items = 0;
        for (int s = 0; s < segments; s++) {
            ints(&t, start)[s] = items;
            items += below(4) == 0 ? 0 : below(9) == 0 ? below(90) : below(5);
        }
        ints(&t, start)[segments] = items;
        add_index(&t, "rows", items + 3, items, items, false);
        add_floats(&t, "x", items + 3, items, columns, 2.0f);
        add_output(&t, "y", capacity, columns, offsets, batch, tolerance);
        add_floats(&t, "weight", 1, 1, columns, 1.0f);
        add_floats(&t, "bias", 1, 1, columns, 1.0f);
        snprintf(t.label, sizeof t.label, "%d of %d segments, %d items, %d columns%s", segments, capacity,
                 items, columns, t.flag ? ", by rows" : "");
        check(k, &t);
    }
}
void check_segment_sum(bench *k)
{
    check_segments(k, run_segment_sum, 1e-6);
}
void check_segment_max(bench *k)
{
    check_segments(k, run_segment_max, EXACT);
}

/* buffers: offsets, scores, picks, picks' offsets */
static sv_status run_top_rows(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    return sv_top_rows(c, v[2], v[3].data, v[1], t->share);
}
void check_top_rows(bench *k)
{
    static const double shares[] = {0.2, 0, 1, 0.37, 0.5};
    for (int i = 0; i <= 3 * ROW_COUNTS; i++) { /* the last: more than shared memory has room for */
        test_case t = {.run = run_top_rows, .share = shares[i % 5]};
        const int capacity = (i < 3 * ROW_COUNTS ? row_counts[i / 3] : 60000) + below(9),
                  batch = 1 + below(3);
        const int offsets = add_offsets(&t, capacity, batch, 1), rows = live(&t, offsets);
        const int scores = add_floats(&t, "scores", capacity, rows, 1, 1.0f);
        with_offsets(&t, scores, offsets, batch);
        static const float special[] = {NAN, -NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 0.5f, -0.5f};
        for (int r = 0; r < rows; r++)
            if (below(3) == 0) floats(&t, scores)[r] = special[i % 2 ? 4 + below(4) : below(8)];
        const int picks = add(&t, "picks", SV_I32, (int)(capacity * t.share) + 1, 1);
        with_offsets(&t, picks, add(&t, "picks' offsets", SV_I32, 1, batch + 1), batch);
        snprintf(t.label, sizeof t.label, "%d of %d rows, share %g, %d samples", rows, capacity, t.share,
                 batch);
        check(k, &t);
    }
}
