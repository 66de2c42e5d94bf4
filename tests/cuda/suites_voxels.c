/* SPDX-License-Identifier: Apache-2.0
 *
 * Voxels: points to voxels, windows, merges, positions, neighbours, sub-manifold convolution, rows to the map; and what happens
 * where a capacity is too small.
 */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

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
void check_voxelize(bench *k)
{
    check_voxels(k, false);
}
void check_point_features(bench *k)
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
void check_window_orders(bench *k)
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
void check_merge_map(bench *k)
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
void check_positions(bench *k)
{
    check_coords_op(k, run_positions, SV_F32, 3, 2);
}
void check_neighbours(bench *k)
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
void check_subm_conv(bench *k)
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
void check_bev_scatter(bench *k)
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
void check_outside(bench *k)
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

void check_cut_voxels(bench *k)
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
void check_cut_merge(bench *k)
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
