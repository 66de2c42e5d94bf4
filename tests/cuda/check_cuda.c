/* SPDX-License-Identifier: Apache-2.0
 *
 * Compares the GPU's primitives with the CPU's on random inputs of many shapes (harness.h). A plain program without a
 * test framework, so that it also runs on machines that have only a GPU.
 *
 *     check_cuda [--small] [--precision P] [primitive ...]
 *
 * --small      two small cases of each primitive, once, for tools that slow everything down
 * --precision  of the GPU (fp32); the CPU's is always fp32
 *
 * Exit code: 0 equal, 1 not, 2 wrong arguments, 77 no GPU.
 */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- maps ---------------------------------------------------------------------------------------------- */

static const int row_counts[] = {1, 3, 31, 64, 65, 300, 5000};
enum { ROW_COUNTS = sizeof row_counts / sizeof *row_counts };

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
static void check_map1(bench *k)
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
static void check_map2(bench *k)
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
static void check_linear(bench *k)
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
static void check_norm(bench *k)
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
static void check_row_mean(bench *k)
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
static void check_gather(bench *k)
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
static void check_segment_sum(bench *k)
{
    check_segments(k, run_segment_sum, 1e-6);
}
static void check_segment_max(bench *k)
{
    check_segments(k, run_segment_max, EXACT);
}

/* buffers: offsets, scores, picks, picks' offsets */
static sv_status run_top_rows(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    return sv_top_rows(c, v[2], v[3].data, v[1], t->share);
}
static void check_top_rows(bench *k)
{
    static const double shares[] = {0.2, 0, 1, 0.37, 0.5};
    for (int i = 0; i < 3 * ROW_COUNTS; i++) {
        test_case t = {.run = run_top_rows, .share = shares[i % 5]};
        const int capacity = row_counts[i / 3] + below(9), batch = 1 + below(3);
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

/* ---- voxels -------------------------------------------------------------------------------------------- */

/* buffers: offsets, points, coords, coords' offsets, start, rows, rows' offsets, voxel, needed, features */
static sv_point_groups groups_of(const sv_tensor *v)
{
    return (sv_point_groups){.coords = v[2],
                             .start = v[4],
                             .rows = v[5],
                             .voxel = v[7],
                             .coords_offsets = v[3].data,
                             .rows_offsets = v[6].data};
}
static sv_status run_voxelize(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_point_groups groups = groups_of(v);
    SV_TRY(sv_voxelize(c, &groups, v[1], &t->grid, v[8].data));
    return t->flag ? sv_point_features(c, v[9], v[1], &groups, &t->grid) : SV_OK;
}
/* Few cells make crowded voxels. */
static void make_points(test_case *t, int capacity, int voxels, int batch, int columns, bool crowded)
{
    t->run = run_voxelize;
    t->grid = (sv_grid){
        .min = {0, -40, -3}, .max = {70.4f, 40, 1}, .size = {0.2f, 0.2f, 0.125f}, .cells = {352, 400, 32}};
    if (crowded)
        t->grid = (sv_grid){
            .min = {-3, -4, -2}, .max = {3, 4, 1}, .size = {0.5f, 0.8f, 1.5f}, .cells = {12, 10, 2}};
    const int offsets = add_offsets(t, capacity, batch, 1), rows = live(t, offsets);
    const int points = add_floats(t, "points", capacity, rows, columns, 1.0f);
    with_offsets(t, points, offsets, batch);
    for (int r = 0; r < rows; r++) {
        for (int axis = 0; axis < 3; axis++) {
            const float margin = 0.05f * (t->grid.max[axis] - t->grid.min[axis]);
            float p = uniform(t->grid.min[axis] - margin, t->grid.max[axis] + margin);
            if (below(3) == 0)
                p = t->grid.min[axis] +
                    (float)below(t->grid.cells[axis] + 1) * t->grid.size[axis]; /* on an edge */
            if (below(200) == 0) p = below(2) ? NAN : -INFINITY;
            floats(t, points)[r * columns + axis] = p;
        }
    }
    const int coords = add(t, "coords", SV_I32, voxels, 4);
    with_offsets(t, coords, add(t, "coords' offsets", SV_I32, 1, batch + 1), batch);
    add(t, "start", SV_I32, voxels + 1, 1);
    const int places = add(t, "rows", SV_I32, capacity, 1);
    with_offsets(t, places, add(t, "rows' offsets", SV_I32, 1, batch + 1), batch);
    add(t, "voxel", SV_I32, capacity, 1);
    add(t, "needed", SV_I32, 1, 1);
}
static void check_voxels(bench *k, bool features)
{
    for (int i = 0; i < 3 * ROW_COUNTS + 1; i++) {
        test_case t = {.flag = features};
        const int capacity = i < 3 * ROW_COUNTS ? row_counts[i / 3] + below(9) : 200000, columns = 3 + i % 4;
        make_points(&t, capacity, capacity + below(5), 1 + i % 3, columns, i % 2 == 0);
        add_output(&t, "features", capacity, columns + 6, 6, 1 + i % 3, 0);
        snprintf(t.label, sizeof t.label, "%d of %d points, %d samples, %d columns", live(&t, 0), capacity,
                 1 + i % 3, columns);
        check(k, &t);
    }
}
static void check_voxelize(bench *k)
{
    check_voxels(k, false);
}
static void check_point_features(bench *k)
{
    check_voxels(k, true);
}

/* buffers: offsets, coords, then per job and direction slot_row, slot_offsets, row_slot; last the order
 * and key of job 0 */
enum { JOB_BUFFERS = 6 };
static sv_status run_window_orders(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    sv_window_job jobs[8];
    for (int j = 0; j < t->jobs; j++) {
        const sv_tensor *w = v + 2 + j * JOB_BUFFERS;
        sv_order x = {
            .slot_row = w[0], .slot_offsets = w[1].data, .row_slot = w[2], .order = SV_NONE, .key = SV_NONE};
        const sv_order y = {
            .slot_row = w[3], .slot_offsets = w[4].data, .row_slot = w[5], .order = SV_NONE, .key = SV_NONE};
        if (j == 0) x.order = v[2 + t->jobs * JOB_BUFFERS], x.key = v[3 + t->jobs * JOB_BUFFERS];
        jobs[j] = (sv_window_job){.coords = v[1], .window = t->window[j], .x = x, .y = y};
    }
    return sv_window_orders(c, jobs, t->jobs);
}
static void check_window_orders(bench *k)
{
    for (int i = 0; i < 2 * ROW_COUNTS + 1; i++) {
        const bool large = i == 2 * ROW_COUNTS;
        test_case t = {.run = run_window_orders,
                       .jobs = 1 + i % 3,
                       .shape = {large ? 32 : 4, large ? 400 : 26, large ? 352 : 33}};
        const int capacity = large ? 30000 : (row_counts[i / 2] < 3000 ? row_counts[i / 2] : 3000) + below(9),
                  batch = 1 + below(3);
        const int offsets = add_offsets(&t, capacity, batch, 1);
        add_coords(&t, capacity, offsets, batch, t.shape);
        for (int j = 0; j < t.jobs; j++) {
            sv_window *w = &t.window[j];
            *w = (sv_window){
                .window = {large ? 13 : 1 + below(9), large ? 13 : 1 + below(9), large ? 32 : 1 + below(5)},
                .shift = below(2) == 1};
            w->group = large ? 4096 : 1 + below(below(2) ? 60 : 4000);
            memcpy(w->grid, t.shape, sizeof w->grid);
            const int slots = sv_window_slots(capacity, batch, w->group);
            for (int direction = 0; direction < 2; direction++) {
                const int slot_row = add(&t, "slot_row", SV_I32, slots, 1);
                with_offsets(&t, slot_row, add(&t, "slot_offsets", SV_I32, 1, batch + 1), batch);
                add(&t, "row_slot", SV_I32, capacity, 1);
            }
        }
        add(&t, "order", SV_I32, capacity, 1);
        add(&t, "key", SV_I64, capacity, 1);
        snprintf(t.label, sizeof t.label, "%d of %d rows, %d samples, %d jobs, group %d", live(&t, offsets),
                 capacity, batch, t.jobs, t.window[0].group);
        check(k, &t);
    }
}

/* buffers: offsets, coords, picks, picks' offsets, merged, merged offsets, inverse, start, rows, needed */
static sv_merge merge_of(const sv_tensor *v)
{
    return (sv_merge){.coords = v[4], .offsets = v[5].data, .inverse = v[6], .start = v[7], .rows = v[8]};
}
static sv_status run_merge_map(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_merge merge = merge_of(v);
    return sv_merge_map(c, &merge, v[1], t->shape, t->scale, t->flag ? v[2] : SV_NONE, v[9].data);
}
static void make_merge(test_case *t, int capacity, int merged, int batch)
{
    t->run = run_merge_map;
    const int offsets = add_offsets(t, capacity, batch, 1);
    add_coords(t, capacity, offsets, batch, t->shape);
    const int most = capacity / 4 + 1, picks = add(t, "picks", SV_I32, most, 1),
              picks_offsets = add(t, "picks' offsets", SV_I32, 1, batch + 1);
    with_offsets(t, picks, picks_offsets, batch);
    int count = 0;
    ints(t, picks_offsets)[0] = 0;
    for (int b = 0; b < batch; b++) {
        const int first = ints(t, offsets)[b], rows = ints(t, offsets)[b + 1] - first;
        for (int i = 0; i < rows / 5; i++) ints(t, picks)[count++] = first + below(rows);
        ints(t, picks_offsets)[b + 1] = count;
    }
    const int coords = add(t, "merged coords", SV_I32, merged, 4);
    with_offsets(t, coords, add(t, "merged offsets", SV_I32, 1, batch + 1), batch);
    add(t, "inverse", SV_I32, capacity + 4 * most, 1);
    add(t, "start", SV_I32, merged + 1, 1);
    add(t, "rows", SV_I32, capacity, 1);
    add(t, "needed", SV_I32, 1, 1);
    snprintf(t->label, sizeof t->label, "%d of %d rows, %d samples, %d copies, grid %d,%d,%d by %d,%d,%d",
             live(t, offsets), capacity, batch, t->flag ? 4 * count : 0, t->shape[0], t->shape[1],
             t->shape[2], t->scale[0], t->scale[1], t->scale[2]);
}
static void check_merge_map(bench *k)
{
    static const int32_t grids[][6] = {{4, 26, 32, 2, 2, 2},
                                       {4, 27, 33, 2, 2, 2},
                                       {5, 27, 31, 1, 1, 2},
                                       {6, 20, 20, 1, 1, 2},
                                       {8, 30, 30, 3, 1, 2}};
    for (int i = 0; i < 5 * ROW_COUNTS + 1; i++) {
        const bool large = i == 5 * ROW_COUNTS;
        const int32_t *g = grids[i % 5];
        test_case t = {.flag = i % 3 != 0, .shape = {g[0], g[1], g[2]}, .scale = {g[3], g[4], g[5]}};
        if (large) t.shape[0] = 32, t.shape[1] = 400, t.shape[2] = 352;
        const int rows = row_counts[i / 5 % ROW_COUNTS] < 2300 ? row_counts[i / 5 % ROW_COUNTS] : 2300;
        const int capacity = large ? 30000 : rows + below(9);
        make_merge(&t, capacity, 2 * capacity + 8, 1 + i % 3);
        check(k, &t);
    }
}

/* ---- sparse convolution and BEV ------------------------------------------------------------------------ */

/* buffers: offsets, coords, y */
static sv_status run_positions(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    return sv_positions(c, v[2], v[1], t->shape);
}
static sv_status run_neighbours(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    return sv_neighbours(c, &(sv_neighbourhood){.table = v[2]}, v[1], t->shape);
}

static void check_coords_op(bench *k, sv_status (*run)(sv_ctx *, test_case *, const sv_tensor *),
                            sv_dtype dtype, int columns, int least_height)
{
    for (int i = 0; i < 3 * ROW_COUNTS + 1; i++) {
        const bool large = i == 3 * ROW_COUNTS;
        test_case t = {.run = run,
                       .shape = {large ? 32 : least_height + below(5), large ? 400 : 23, large ? 352 : 29}};
        const int cells = t.shape[0] * t.shape[1] * t.shape[2], rows = large ? 30000 : row_counts[i / 3];
        const int capacity = (rows < cells / 2 ? rows : cells / 2) + below(9), batch = 1 + i % 3;
        const int offsets = add_offsets(&t, capacity, batch, 1);
        add_coords(&t, capacity, offsets, batch, t.shape);
        const int y = add(&t, "y", dtype, capacity, columns);
        with_offsets(&t, y, offsets, batch);
        snprintf(t.label, sizeof t.label, "%d of %d rows, %d samples, grid %d,%d,%d", live(&t, offsets),
                 capacity, batch, t.shape[0], t.shape[1], t.shape[2]);
        check(k, &t);
    }
}
static void check_positions(bench *k)
{
    check_coords_op(k, run_positions, SV_F32, 3, 2);
}
static void check_neighbours(bench *k)
{
    check_coords_op(k, run_neighbours, SV_I32, 27, 1);
}

static sv_status prepare_subm(sv_ctx *c, test_case *t)
{
    return sv_subm_prepare(c, &t->subm, t->host_w);
}
/* buffers: offsets, coords, table, x, y, w */
static sv_status run_subm_conv(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_neighbourhood around = {.table = v[2]};
    if (t->share > 0) SV_TRY(sv_scratch_alloc(c, &around.order, "order", SV_I32, v[1].dim[0], 1, v[1]));
    SV_TRY(sv_neighbours(c, &around, v[1], t->shape));
    if (t->flag) t->subm.norm = (sv_row_norm){.weight = v[6], .bias = v[7], .eps = 1e-3f, .map = SV_MAP_gelu};
    SV_TRY(sv_subm_conv(c, v[4], v[3], &around, &t->subm));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
static void check_subm_conv(bench *k)
{
    static const int widths[][2] = {{64, 64}, {3, 5}, {17, 70}, {128, 128}, {130, 33}};
    for (int i = 0; i < 2 * ROW_COUNTS; i++) {
        test_case t = {
            .prepare = prepare_subm, .run = run_subm_conv, .flag = i % 3 == 1, .shape = {4, 33, 39}};
        t.share = i % 4 != 3; /* with an order of the rows */
        const int capacity = row_counts[i / 2] + below(70), batch = 1 + i % 3;
        const int in = widths[i % 5][0], out = widths[i % 5][1];
        const int offsets = add_offsets(&t, capacity, batch, 1), rows = live(&t, offsets);
        add_coords(&t, capacity, offsets, batch, t.shape);
        add(&t, "table", SV_I32, capacity, 27);
        add_floats(&t, "x", capacity, rows, in, 1.0f);
        add_output(&t, "y", capacity, out, offsets, batch, 1e-5);
        const int w = add_floats(&t, "w", out, out, 27 * in, 0.2f);
        t.host_w = (sv_tensor){
            .data = at(&t, w), .dim = {out, 3, 3, 3, in}, .pitch = 27 * in, .ndim = 5, .dtype = SV_F32};
        add_floats(&t, "weight", 1, 1, out, 1.0f);
        add_floats(&t, "bias", 1, 1, out, 1.0f);
        snprintf(t.label, sizeof t.label, "%d -> %d, %d of %d rows%s", in, out, rows, capacity,
                 t.share > 0 ? ", in order" : "");
        check(k, &t);
    }
}

/* buffers: offsets, coords, x, map */
static sv_status run_bev_scatter(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    return sv_bev_scatter(c, t->flag ? sv_columns(v[3], 2, v[2].dim[1] * t->shape[0]) : v[3], v[2], v[1],
                          t->shape);
}
static void check_bev_scatter(bench *k)
{
    for (int i = 0; i < 2 * ROW_COUNTS; i++) {
        test_case t = {.run = run_bev_scatter, .flag = i % 2 == 1, .shape = {1 + below(3), 23, 29}};
        const int cells = t.shape[0] * 23 * 29,
                  capacity = (row_counts[i / 2] < cells ? row_counts[i / 2] : cells) + below(9);
        const int batch = 1 + i % 3, channels = 1 + below(70);
        const int offsets = add_offsets(&t, capacity < cells ? capacity : cells, batch, 1),
                  rows = live(&t, offsets);
        add_coords(&t, capacity, offsets, batch, t.shape);
        add_floats(&t, "x", capacity, rows, channels, 1.0f);
        add(&t, "map", SV_F32, batch * 23 * 29, channels * t.shape[0] + (t.flag ? 5 : 0));
        snprintf(t.label, sizeof t.label, "%d of %d rows, %d channels", rows, capacity, channels);
        check(k, &t);
    }
}

/* Rows without a place in the map leave it as it is and are counted; the CPU refuses them. */
static void check_outside(bench *k)
{
    test_case t = {.run = run_bev_scatter, .shape = {2, 23, 29}};
    run_result full = {.status = SV_OK}, outside = {.status = SV_OK};
    const int offsets = add_offsets(&t, 60, 1, 1);
    ints(&t, offsets)[1] = 50;
    const int coords = add_coords(&t, 60, offsets, 1, t.shape);
    const int x = add_floats(&t, "x", 60, 50, 3, 1.0f), map = add(&t, "map", SV_F32, 23 * 29, 6);
    for (int i = 0; i < 3; i++) floats(&t, x)[3 * 49 + i] = 0; /* the last row is as good as absent */
    snprintf(t.label, sizeof t.label, "a row of the sample behind the last");
    if (!takes_turn(k, &t)) {
        free_case(&t);
        return;
    }
    int32_t count = -1;
    bool ok = device_ok(&t, k->gpu, run_eagerly(k->gpu, &t, &full), "GPU");
    ints(&t, coords)[4 * 49] = 1;
    ok =
        ok &&
        device_ok(&t, k->gpu,
                  k->gpu->device->fill(k->gpu, k->gpu->counters, 0, sizeof(int32_t) * SV_COUNTERS), "fill") &&
        device_ok(&t, k->gpu, run_eagerly(k->gpu, &t, &outside), "GPU") &&
        device_ok(
            &t, k->gpu,
            k->gpu->device->download(k->gpu, &count, &k->gpu->counters[SV_COUNTER_OUTSIDE], sizeof count),
            "download");
    if (ok && count != 1) fail(&t, "%s rows were not counted%s", "outside", "");
    if (ok && memcmp(full.bytes[map], outside.bytes[map], buffer_bytes(&t.buffers[map]) + 2 * GUARD) != 0)
        fail(&t, "'%s' differs%s", "map", "");
    k->cases++;
    free_result(&full);
    free_result(&outside);
    free_case(&t);
}

/* ---- sequences ----------------------------------------------------------------------------------------- */

static const int lengths[] = {1, 2, 7, 63, 64, 65, 200, 512, 4096};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

/* buffers: slot offsets, index, x, w, bias, state in, state out, y */
static sv_status run_causal_conv(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_sequence seq = {.index = t->flag ? v[1] : SV_NONE,
                             .length = t->length,
                             .reverse = t->reverse,
                             .state_in = t->jobs & 1 ? v[5] : SV_NONE,
                             .state_out = t->jobs & 2 ? v[6] : SV_NONE};
    return sv_causal_conv(c, v[7], v[2], v[3], v[4], &seq, t->map);
}
static void check_causal_conv(bench *k)
{
    static const sv_map maps[] = {SV_MAP_silu, SV_MAP_identity, SV_MAP_relu};
    for (int i = 0; i < 4 * LENGTHS; i++) {
        test_case t = {.run = run_causal_conv,
                       .length = lengths[i / 4],
                       .flag = i % 2 == 0,
                       .reverse = i / 2 % 2 == 0,
                       .map = maps[i % 3]};
        const int taps = i % 4 == 3 ? 1 + below(8) : 4, channels = 1 + below(140), batch = 1 + below(3);
        const int groups = 1 + below(4), capacity = groups * t.length;
        t.jobs = taps > 1 ? below(4) : 0;
        const int offsets = add_offsets(&t, capacity, batch, t.length), slots = live(&t, offsets),
                  rows = slots + 1;
        const int index = add_index(&t, "index", capacity, slots, rows, true);
        with_offsets(&t, index, offsets, batch);
        add_floats(&t, "x", t.flag ? rows : capacity, t.flag ? rows : slots, channels, 1.0f);
        add_floats(&t, "w", channels, channels, taps, 0.5f);
        add_floats(&t, "bias", 1, 1, channels, 0.5f);
        add_floats(&t, "state in", groups, slots / t.length, channels * (taps - 1) + (taps == 1), 1.0f);
        add(&t, "state out", SV_F32, groups, channels * (taps - 1) + (taps == 1));
        add_output(&t, "y", capacity, channels, offsets, batch, 2e-6);
        snprintf(t.label, sizeof t.label, "%d of %d slots, length %d, %d channels, %d taps, states %d%s%s",
                 slots, capacity, t.length, channels, taps, t.jobs, t.reverse ? ", reverse" : "",
                 t.flag ? ", indexed" : "");
        check(k, &t);
    }
}

/* buffers: slot offsets, index, u, delta, A, B, C, D, z, state in, state out, y */
static sv_status run_selective_scan(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_sequence seq = {.index = t->flag ? v[1] : SV_NONE,
                             .length = t->length,
                             .reverse = t->reverse,
                             .state_in = t->jobs & 1 ? v[9] : SV_NONE,
                             .state_out = t->jobs & 2 ? v[10] : SV_NONE};
    return sv_selective_scan(c, v[11], v[2], v[3], v[4], v[5], v[6], v[7], t->jobs & 4 ? v[8] : SV_NONE, &seq,
                             (t->jobs & 8) != 0);
}
static void check_selective_scan(bench *k)
{
    for (int i = 0; i < 4 * LENGTHS; i++) {
        test_case t = {.run = run_selective_scan,
                       .length = lengths[i / 4],
                       .flag = i % 2 == 0,
                       .reverse = i / 2 % 2 == 0,
                       .jobs = below(16)};
        const int states = i % 4 < 2    ? 16
                           : i % 4 == 2 ? 1 + below(15)
                                        : 17 + below(48),
                  channels = 1 + below(300), batch = 1 + below(3);
        const int groups = 1 + below(4), capacity = groups * t.length;
        const int offsets = add_offsets(&t, capacity, batch, t.length), slots = live(&t, offsets),
                  rows = slots + 1;
        const int index = add_index(&t, "index", capacity, slots, rows, true);
        with_offsets(&t, index, offsets, batch);
        add_floats(&t, "u", capacity, slots, channels, 1.0f);
        const int delta = add_floats(&t, "delta", capacity, slots, channels, 1.0f);
        for (int s = 0; s < slots * channels; s++)
            floats(&t, delta)[s] = log1pf(expf(floats(&t, delta)[s] - 3.0f));
        const int a = add(&t, "A", SV_F32, channels, states);
        for (int s = 0; s < channels * states; s++) floats(&t, a)[s] = -uniform(0.01f, 16.0f);
        add_floats(&t, "B", capacity, slots, states, 1.0f);
        add_floats(&t, "C", capacity, slots, states, 1.0f);
        add_floats(&t, "D", 1, 1, channels, 1.0f);
        add_floats(&t, "z", t.flag ? rows : capacity, t.flag ? rows : slots, channels, 1.0f);
        add_floats(&t, "state in", groups, slots / t.length, channels * states, 1.0f);
        const int out = add(&t, "state out", SV_F32, groups, channels * states);
        t.buffers[out].tolerance = 4e-5; /* the slowest states remember two thousand tokens' roundings */
        const int y = add_floats(&t, "y", capacity, t.jobs & 8 ? slots : 0, channels, 1.0f);
        with_offsets(&t, y, offsets, batch);
        t.buffers[y].tolerance = 4e-5;
        snprintf(t.label, sizeof t.label, "%d of %d slots, length %d, %d channels, %d states, variant %d%s%s",
                 slots, capacity, t.length, channels, states, t.jobs, t.reverse ? ", reverse" : "",
                 t.flag ? ", indexed" : "");
        check(k, &t);
    }
}

/* ---- capacities that are too small --------------------------------------------------------------------- */

/*
 * The GPU cannot stop in the middle of a frame: it counts what was needed, cuts, and stays within bounds.
 * 'full' has room for everything, 'cut' for 'capacity' rows; both start from the same input.
 */
static void check_cut(bench *k, test_case *full, test_case *cut, int capacity, int coords, int offsets,
                      int start, int lists, int needed)
{
    run_result all = {.status = SV_OK}, part = {.status = SV_OK};
    if (!takes_turn(k, full)) {
        free_case(full);
        free_case(cut);
        return;
    }
    k->cases++;
    if (device_ok(full, k->gpu, run_eagerly(k->gpu, full, &all), "GPU") &&
        device_ok(cut, k->gpu, run_eagerly(k->gpu, cut, &part), "GPU, cut")) {
        for (int i = 0; i < cut->count; i++)
            if (!is_pattern(part.bytes[i], GUARD) ||
                !is_pattern(part.bytes[i] + GUARD + buffer_bytes(&cut->buffers[i]), GUARD))
                fail(cut, "the GPU wrote outside '%s'%s", cut->buffers[i].name, "");
#define OF(result, i) ((const int32_t *)(void *)((result).bytes[i] + GUARD))
        const int wanted = OF(all, needed)[0], rows = wanted < capacity ? wanted : capacity;
        if (OF(part, needed)[0] != wanted) fail(cut, "%s was not counted in full%s", "what is needed", "");
        if (memcmp(OF(part, coords), OF(all, coords), (size_t)rows * 16) != 0)
            fail(cut, "'%s' is no prefix%s", "coords", "");
        if (memcmp(OF(part, start), OF(all, start), ((size_t)rows + 1) * 4) != 0)
            fail(cut, "'%s' is no prefix%s", "start", "");
        if (memcmp(OF(part, lists), OF(all, lists), (size_t)OF(all, start)[rows] * 4) != 0)
            fail(cut, "'%s' is no prefix%s", "rows", "");
        for (int b = 0; b < cut->buffers[offsets].columns; b++) {
            const int whole = OF(all, offsets)[b];
            if (OF(part, offsets)[b] != (whole < capacity ? whole : capacity))
                fail(cut, "%s are not clamped%s", "offsets", "");
        }
#undef OF
    }
    free_result(&all);
    free_result(&part);
    free_case(full);
    free_case(cut);
}

static void check_cut_voxels(bench *k)
{
    for (int i = 0; i < 12; i++) {
        const uint64_t seed = rng();
        const int points = 600, capacity = 1 + below(250);
        test_case full = {.flag = false}, cut = {.flag = false};
        seed_rng(seed);
        make_points(&full, points, points, 1 + i % 3, 4, i % 2 == 0);
        seed_rng(seed);
        make_points(&cut, points, capacity, 1 + i % 3, 4, i % 2 == 0);
        snprintf(cut.label, sizeof cut.label, "voxels cut to %d", capacity);
        check_cut(k, &full, &cut, capacity, 2, 3, 4, 5, 8);
    }
}
static void check_cut_merge(bench *k)
{
    for (int i = 0; i < 12; i++) {
        const uint64_t seed = rng();
        const int rows = 500, capacity = 1 + below(250);
        test_case full = {.flag = i % 2 == 0, .shape = {4, 26, 32}, .scale = {2, 2, 2}}, cut = full;
        seed_rng(seed);
        make_merge(&full, rows, 3 * rows, 1 + i % 3);
        seed_rng(seed);
        make_merge(&cut, rows, capacity, 1 + i % 3);
        snprintf(cut.label, sizeof cut.label, "merged rows cut to %d", capacity);
        check_cut(k, &full, &cut, capacity, 4, 5, 7, 8, 9);
    }
}

/* ---- program ------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*check)(bench *k);
} suites[] = {
    {"map1", check_map1},
    {"map2", check_map2},
    {"linear", check_linear},
    {"norm", check_norm},
    {"row_mean", check_row_mean},
    {"gather", check_gather},
    {"segment_sum", check_segment_sum},
    {"segment_max", check_segment_max},
    {"top_rows", check_top_rows},
    {"voxelize", check_voxelize},
    {"voxelize_cut", check_cut_voxels},
    {"point_features", check_point_features},
    {"window_orders", check_window_orders},
    {"merge_map", check_merge_map},
    {"merge_map_cut", check_cut_merge},
    {"positions", check_positions},
    {"position_embed", check_position_embed},
    {"point_maxima", check_point_maxima},
    {"neighbours", check_neighbours},
    {"subm_conv", check_subm_conv},
    {"bev_scatter", check_bev_scatter},
    {"bev_outside", check_outside},
    {"causal_conv", check_causal_conv},
    {"selective_scan", check_selective_scan},
    {"mamba_block", check_mamba_block},
    {"decay_scan", check_decay_scan},
    {"token_mix", check_token_mix},
    {"mlstm", check_mlstm},
    {"ttt_linear", check_ttt_linear},
    {"head_norm", check_head_norm},
    {"block_linear", check_block_linear},
    {"rwkv_operator", check_rwkv_operator},
    {"xlstm_operator", check_xlstm_operator},
    {"retnet_operator", check_retnet_operator},
    {"ttt_operator", check_ttt_operator},
    {"chain", check_chain},
    {"anchor_decode", check_anchor_decode},
    {"nms", check_nms},
    {"local_peaks", check_local_peaks},
    {"top_cells", check_top_cells},
    {"top_sparse", check_top_sparse},
    {"window_attention", check_window_attention},
    {"center_decode", check_center_decode},
    {"map_conv", check_map_conv},
    {"map_norm", check_map_norm},
    {"map_sizes", check_map_sizes},
    {"map_scan", check_map_scan},
    {"map_warp", check_map_warp},
    {"dense_attention", check_dense_attention},
    {"camera_sample", check_camera_sample},
    {"local_attention", check_local_attention},
    {"dilated_conv", check_dilated_conv},
    {"block_state_scan", check_block_state_scan},
    {"deep_memory_scan", check_deep_memory_scan},
    {"linear_few", check_linear_few},
    {"block_gates", check_block_gates},
    {"head_map", check_head_map},
    {"head_scale", check_head_scale},
    {"fill", check_fill},
    {"place_rows", check_place_rows},
    {"column_scale", check_column_scale},
    {"head_dot", check_head_dot},
    {"position_power", check_position_power},
    {"route", check_route},
    {"diagonal_scan", check_diagonal_scan},
    {"root_gates", check_root_gates},
    {"log_sum_scan", check_log_sum_scan},
    {"state_scan", check_state_scan},
    {"dense_scan", check_dense_scan},
    {"delta_scan", check_delta_scan},
    {"delta_chunks", check_delta_chunks},
    {"second_order_scan", check_second_order_scan},
    {"taylor_scan", check_taylor_scan},
    {"mesa_scan", check_mesa_scan},
    {"mixer_scan", check_mixer_scan},
    {"cell_scan", check_cell_scan},
    {"memory_scan", check_memory_scan},
    {"attention_scan", check_attention_scan},
};

/* Relative to a buffer's largest number: inputs are rounded to 11 (bfloat16: 8) bits, and recurrences carry that on. */
static double tolerance_of(sv_precision precision)
{
    return precision == SV_FP32 ? 0 : precision == SV_BF16_MATH ? 3e-2 : 4e-3;
}

typedef struct arguments {
    bool small;
    sv_precision precision; /* of the GPU */
    int names;              /* those behind the options; none: all suites */
    char **name;
} arguments;

static bool parse(arguments *a, int argc, char **argv)
{
    *a = (arguments){.precision = SV_FP32};
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--small") == 0)
            a->small = true;
        else if (strcmp(argv[i], "--precision") != 0 || ++i == argc ||
                 !sv_precision_parse(argv[i], &a->precision))
            return false;
    }
    a->names = argc - i;
    a->name = argv + i;
    return true;
}

static bool wanted(const arguments *a, const char *name)
{
    for (int i = 0; i < a->names; i++)
        if (strcmp(a->name[i], name) == 0) return true;
    return a->names == 0;
}

int main(int argc, char **argv)
{
    arguments a;
    if (!parse(&a, argc, argv)) {
        printf("usage: check_cuda [--small] [--precision fp32|tf32|bf16|fp16] [primitive ...]\n");
        return 2;
    }
    bench k = {.least_tolerance = tolerance_of(a.precision)};
    sv_ctx_def def = sv_ctx_def_default();
    if (sv_ctx_open(&def, &k.cpu) != SV_OK) {
        printf("the CPU context cannot be opened: %s\n", k.cpu ? sv_error_message(k.cpu) : "no memory");
        return 1;
    }
    def.device = SV_CUDA;
    def.precision = a.precision;
    const sv_status opened = sv_ctx_open(&def, &k.gpu);
    if (opened != SV_OK) {
        printf("skipped: %s\n", k.gpu ? sv_error_message(k.gpu) : "no memory");
        sv_ctx_close(k.gpu);
        sv_ctx_close(k.cpu);
        return opened == SV_DEVICE || opened == SV_NO_KERNEL ? 77 : 1;
    }
    sv_arena_init(&k.cpu_weights, "weights", k.cpu->device);
    sv_arena_init(&k.gpu_weights, "weights", k.gpu->device);
    k.cpu->weights = &k.cpu_weights;
    k.gpu->weights = &k.gpu_weights;

    for (size_t i = 0; i < sizeof suites / sizeof *suites; i++) {
        if (!wanted(&a, suites[i].name)) continue;
        current_op = suites[i].name;
        k.worst = 0;
        k.cases = 0;
        const int before = failures;
        if (a.small) {
            begin_suite(&k, current_op, MEASURE);
            suites[i].check(&k);
        }
        begin_suite(&k, current_op, a.small ? CHOSEN_CASES : EVERY_CASE);
        suites[i].check(&k);
        printf("%-16s %4d cases  %s  largest relative difference %.2g\n", current_op, k.cases,
               failures == before ? "ok    " : "FAILED", k.worst);
        fflush(stdout);
        passes += failures == before;
    }
    printf("%d primitives equal, %d differences\n", passes, failures);
    sv_arena_free(&k.cpu_weights);
    sv_arena_free(&k.gpu_weights);
    sv_ctx_close(k.gpu);
    sv_ctx_close(k.cpu);
    return failures > 0;
}
