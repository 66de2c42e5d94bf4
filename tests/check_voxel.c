/* SPDX-License-Identifier: Apache-2.0 */
#include "oracle_voxel.h"
#include "support.h"
#include "support_h5.h"
#include "voxel/sort.h"
#include "voxel/voxel.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every result is made by 1 and by 3 threads. */
static const int thread_counts[2] = {1, 3};

static void *copy_of(const void *bytes, size_t count)
{
    void *copy = malloc(count + 1);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, bytes, count);
    return copy;
}

/* For the inside of long loops: Check's own assertions report each success to the parent process. */
#define assert_each(condition)                                                                               \
    do {                                                                                                     \
        if (!(condition)) ck_abort_msg("%s does not hold", #condition);                                      \
    } while (0)

static void assert_ints(const char *what, const int32_t *a, const int32_t *b, int count)
{
    for (int i = 0; i < count; i++) {
        if (a[i] != b[i]) ck_abort_msg("%s: [%d] is %d, expected %d", what, i, a[i], b[i]);
    }
}

/* A tensor in the frame arena that holds these values. */
static sv_tensor filled(sv_ctx *c, sv_dtype dtype, const void *values, int rows, int columns,
                        const int32_t *offsets, int batch)
{
    sv_tensor t;
    assert_ok(c, sv_frame_alloc(c, &t, "test input", dtype, rows, columns, SV_NONE));
    if (rows * columns > 0) memcpy(t.data, values, (size_t)rows * (size_t)columns * 4);
    if (offsets) {
        int32_t *own = NULL;
        assert_ok(c, sv_frame_offsets(c, &own, batch));
        memcpy(own, offsets, sizeof *own * ((size_t)batch + 1));
        t.offsets = own;
        t.batch = (int16_t)batch;
    }
    return t;
}

/* An output with offsets of its own. */
static sv_tensor output(sv_ctx *c, sv_dtype dtype, int rows, int columns, int batch, int32_t **offsets)
{
    sv_tensor t;
    assert_ok(c, sv_frame_alloc(c, &t, "test output", dtype, rows, columns, SV_NONE));
    memset(t.data, 0x55, (size_t)rows * (size_t)columns * sv_dtype_bytes(dtype));
    if (offsets) {
        assert_ok(c, sv_frame_offsets(c, offsets, batch));
        t.offsets = *offsets;
        t.batch = (int16_t)batch;
    }
    return t;
}

/* Distinct random coordinates, sorted by (b,x,y,z); the share of cells taken varies over the grid. */
typedef struct voxel_set {
    int batch, rows;
    int32_t shape[3];
    int32_t offsets[SV_MAX_BATCH + 1];
    int32_t *coords;
} voxel_set;

static voxel_set random_voxels(test_rng *rng, int batch, const int32_t shape[3], const int *rows)
{
    voxel_set set = {.batch = batch, .shape = {shape[0], shape[1], shape[2]}};
    const size_t cells = (size_t)shape[0] * (size_t)shape[1] * (size_t)shape[2];
    bool *taken = malloc(cells);
    int total = 0;
    for (int b = 0; b < batch; b++) total += rows[b];
    set.coords = malloc(sizeof(int32_t) * 4 * (size_t)(total + 1));
    for (int b = 0; b < batch; b++) {
        memset(taken, 0, cells);
        for (int n = 0; n < rows[b];) {
            /* half of the voxels cluster beside an earlier one */
            int z = (int)rng_uniform(rng, 0, shape[0]), y = (int)rng_uniform(rng, 0, shape[1]);
            int x = (int)rng_uniform(rng, 0, shape[2]);
            if (n > 0 && rng_u64(rng) % 2) {
                y = y % 5 + shape[1] / 3;
                x = x % 7 + shape[2] / 2;
                if (y >= shape[1] || x >= shape[2]) continue;
            }
            bool *cell = taken + ((size_t)x * (size_t)shape[1] + (size_t)y) * (size_t)shape[0] + (size_t)z;
            n += !*cell || cells < 4000; /* a small grid may fill up */
            *cell = true;
        }
        for (size_t i = 0; i < cells; i++) {
            if (!taken[i]) continue;
            int32_t *at = set.coords + 4 * (size_t)set.rows++;
            at[0] = b;
            at[1] = (int32_t)(i % (size_t)shape[0]);
            at[2] = (int32_t)(i / (size_t)shape[0] % (size_t)shape[1]);
            at[3] = (int32_t)(i / (size_t)shape[0] / (size_t)shape[1]);
        }
        set.offsets[b + 1] = set.rows;
    }
    free(taken);
    return set;
}

/* Exchange rows within each sample. */
static void shuffle_rows(test_rng *rng, void *rows, size_t row_bytes, const int32_t *offsets, int batch)
{
    char *bytes = rows, *spare = malloc(row_bytes);
    for (int b = 0; b < batch; b++) {
        for (int i = offsets[b + 1] - 1; i > offsets[b]; i--) {
            const int j = offsets[b] + (int)(rng_u64(rng) % (uint64_t)(i - offsets[b] + 1));
            memcpy(spare, bytes + (size_t)i * row_bytes, row_bytes);
            memcpy(bytes + (size_t)i * row_bytes, bytes + (size_t)j * row_bytes, row_bytes);
            memcpy(bytes + (size_t)j * row_bytes, spare, row_bytes);
        }
    }
    free(spare);
}

static sv_tensor coords_tensor(sv_ctx *c, const voxel_set *set)
{
    return filled(c, SV_I32, set->coords, set->rows, 4, set->offsets, set->batch);
}

/* ---- sorting ------------------------------------------------------------------------------------------ */

START_TEST(pairs_sort_stably)
{
    test_rng rng = {.state = (uint64_t)_i};
    sv_ctx *c = test_context(1);
    static const int sizes[] = {0, 1, 2, 7, 1000, 30000};
    const int bits = 1 + _i * 9, n = sizes[_i % 6];
    sv_sort_space *space = NULL;
    assert_ok(c, sv_sort_spaces(c, &space, 1, n));
    uint64_t *key = malloc(sizeof *key * (size_t)(n + 1));
    for (int i = 0; i < n; i++) {
        key[i] = space->a.key[i] = rng_u64(&rng) >> (64 - bits);
        space->a.row[i] = i;
    }
    const sv_pairs sorted = sv_sort_pairs(space, n);
    for (int i = 0; i < n; i++) {
        assert_each(sorted.key[i] == key[sorted.row[i]]);
        if (i == 0) continue;
        assert_each(sorted.key[i - 1] <= sorted.key[i]);
        if (sorted.key[i - 1] == sorted.key[i]) assert_each(sorted.row[i - 1] < sorted.row[i]);
    }
    free(key);
    sv_ctx_close(c);
}
END_TEST

/* ---- points ------------------------------------------------------------------------------------------- */

static const sv_grid test_grid = {
    .min = {0, -4, -3}, .max = {7.04f, 4, 1}, .size = {0.2f, 0.2f, 0.125f}, .cells = {35, 40, 32}};

typedef struct cloud {
    int batch, columns;
    int32_t offsets[SV_MAX_BATCH + 1];
    float *points;
} cloud;

static cloud random_cloud(test_rng *rng, int batch, const int *rows, int columns, const sv_grid *grid)
{
    cloud cl = {.batch = batch, .columns = columns};
    for (int b = 0; b < batch; b++) cl.offsets[b + 1] = cl.offsets[b] + rows[b];
    cl.points = malloc(sizeof(float) * (size_t)(cl.offsets[batch] * columns + 1));
    for (int i = 0; i < cl.offsets[batch]; i++) {
        float *p = cl.points + (size_t)i * (size_t)columns;
        for (int column = 0; column < columns; column++) p[column] = (float)rng_normal(rng);
        for (int axis = 0; axis < 3; axis++) {
            const double min = (double)grid->min[axis], max = (double)grid->max[axis],
                         wide = (max - min) / 10;
            p[axis] = (float)rng_uniform(rng, min - wide, max + wide);
            if (rng_u64(rng) % 4 == 0) /* exactly on a cell's border */
                p[axis] = grid->min[axis] + grid->size[axis] * (float)(rng_u64(rng) % 40);
        }
        const uint64_t odd = rng_u64(rng) % 60;
        if (odd == 0) p[rng_u64(rng) % 3] = NAN;
        if (odd == 1) p[rng_u64(rng) % 3] = INFINITY;
        if (odd == 2) p[rng_u64(rng) % 3] = -INFINITY;
        if (odd == 3) p[rng_u64(rng) % 3] = -1e30f;
        if (odd == 4) p[0] = -0.0f;
    }
    return cl;
}

static sv_tensor cloud_tensor(sv_ctx *c, const cloud *cl)
{
    return filled(c, SV_F32, cl->points, cl->offsets[cl->batch], cl->columns, cl->offsets, cl->batch);
}

static sv_point_groups groups_alloc(sv_ctx *c, int capacity, int points, int batch)
{
    sv_point_groups out = {0};
    out.coords = output(c, SV_I32, capacity, 4, batch, &out.coords_offsets);
    out.start = output(c, SV_I32, capacity + 1, 1, 0, NULL);
    out.rows = output(c, SV_I32, points, 1, batch, &out.rows_offsets);
    out.voxel = sv_with_rows_of(output(c, SV_I32, points, 1, 0, NULL), out.rows);
    return out;
}

static void assert_groups(const sv_point_groups *out, const oracle_voxels *v, const cloud *cl)
{
    ck_assert_int_eq(out->coords_offsets[cl->batch], v->count);
    ck_assert_int_eq(out->rows_offsets[cl->batch], v->points);
    assert_ints("coords", sv_i32(out->coords), v->coords, 4 * v->count);
    assert_ints("rows", sv_i32(out->rows), v->row, v->points);
    assert_ints("voxel", sv_i32(out->voxel), v->voxel, v->points);
    const int32_t *start = sv_i32(out->start);
    ck_assert_int_eq(start[0], 0);
    ck_assert_int_eq(start[v->count], v->points);
    for (int i = 0; i < v->points; i++) assert_each(start[v->voxel[i]] <= i && i < start[v->voxel[i] + 1]);
    for (int b = 0; b <= cl->batch; b++) {
        int voxels = 0, points = 0;
        for (int i = 0; i < v->count; i++) voxels += v->coords[4 * i] < b;
        for (int i = 0; i < v->points; i++) points += v->coords[4 * v->voxel[i]] < b;
        ck_assert_int_eq(out->coords_offsets[b], voxels);
        ck_assert_int_eq(out->rows_offsets[b], points);
    }
}

static const int cloud_sizes[][3] = {{0, 0, 0}, {1, 0, 0}, {0, 700, 3}, {20000, 5, 9000}, {500, 0, 400}};

START_TEST(points_become_the_oracles_voxels)
{
    test_rng rng = {.state = 11 + (uint64_t)_i};
    const int batch = 1 + _i % 3, columns = 3 + _i % 4;
    cloud cl = random_cloud(&rng, batch, cloud_sizes[_i % 5], columns, &test_grid);
    const int points = cl.offsets[batch];
    oracle_voxels v = oracle_voxelize(cl.points, columns, cl.offsets, batch, &test_grid);
    float *expected = malloc(sizeof(float) * (size_t)(v.points * (columns + 6) + 1)), *first = NULL;
    oracle_point_features(expected, &v, cl.points, columns, &test_grid);
    for (int t = 0; t < 2; t++) {
        sv_ctx *c = test_context(thread_counts[t]);
        sv_point_groups out = groups_alloc(c, v.count, points, batch);
        sv_tensor input = cloud_tensor(c, &cl);
        int32_t needed = -1;
        assert_ok(c, sv_voxelize(c, &out, input, &test_grid, &needed));
        ck_assert_int_eq(needed, v.count);
        assert_groups(&out, &v, &cl);
        sv_tensor y = sv_with_rows_of(output(c, SV_F32, points, columns + 6, 0, NULL), out.rows);
        assert_ok(c, sv_point_features(c, y, input, &out, &test_grid));
        const size_t count = (size_t)v.points * (size_t)(columns + 6);
        assert_close("features", sv_f32(y), expected, count, 1.5e-6, 0);
        if (t == 0)
            first = copy_of(y.data, count * sizeof(float));
        else
            ck_assert_mem_eq(y.data, first, count * sizeof(float));
        sv_ctx_close(c);
    }
    free(first);
    free(expected);
    oracle_voxels_free(&v);
    free(cl.points);
}
END_TEST

START_TEST(order_of_points_changes_nothing)
{
    test_rng rng = {.state = 77};
    static const int sizes[2] = {5000, 3000};
    cloud cl = random_cloud(&rng, 2, sizes, 5, &test_grid);
    const int points = cl.offsets[2];
    for (int i = 0; i < points; i++) cl.points[i * 5 + 4] = (float)i; /* who is who */
    float *features = NULL;
    int32_t *coords = NULL;
    int voxels = 0;
    for (int round = 0; round < 3; round++) {
        sv_ctx *c = test_context(1);
        sv_point_groups out = groups_alloc(c, points, points, 2);
        sv_tensor input = cloud_tensor(c, &cl), y;
        int32_t needed = 0;
        assert_ok(c, sv_voxelize(c, &out, input, &test_grid, &needed));
        y = sv_with_rows_of(output(c, SV_F32, points, 11, 0, NULL), out.rows);
        assert_ok(c, sv_point_features(c, y, input, &out, &test_grid));
        if (round == 0) {
            voxels = needed;
            coords = copy_of(out.coords.data, sizeof(int32_t) * 4 * (size_t)needed);
            features = calloc((size_t)points * 11, sizeof(float));
        }
        ck_assert_int_eq(needed, voxels);
        ck_assert_mem_eq(out.coords.data, coords, sizeof(int32_t) * 4 * (size_t)needed);
        for (int i = 0; i < out.rows_offsets[2]; i++) {
            const float *row = sv_f32(y) + (size_t)i * 11;
            float *same = features + (size_t)row[4] * 11;
            if (round == 0) memcpy(same, row, sizeof(float) * 11);
            assert_each(memcmp(row, same, sizeof(float) * 11) == 0);
        }
        shuffle_rows(&rng, cl.points, sizeof(float) * 5, cl.offsets, 2);
        sv_ctx_close(c);
    }
    free(coords);
    free(features);
    free(cl.points);
}
END_TEST

START_TEST(too_many_voxels_are_named)
{
    test_rng rng = {.state = 5};
    static const int sizes[1] = {2000};
    cloud cl = random_cloud(&rng, 1, sizes, 4, &test_grid);
    oracle_voxels v = oracle_voxelize(cl.points, 4, cl.offsets, 1, &test_grid);
    sv_ctx *c = test_context(1);
    sv_point_groups out = groups_alloc(c, v.count - 1, cl.offsets[1], 1);
    int32_t needed = 0;
    assert_fails(c, sv_voxelize(c, &out, cloud_tensor(c, &cl), &test_grid, &needed), SV_OVERFLOW, "capacity");
    ck_assert_int_eq(needed, v.count);
    sv_grid far = test_grid;
    far.cells[1] = 8000; /* cells up to 1600 m would overflow the fixed-point sums */
    assert_fails(c, sv_voxelize(c, &out, cloud_tensor(c, &cl), &far, &needed), SV_UNSUPPORTED, "512");
    oracle_voxels_free(&v);
    free(cl.points);
    sv_ctx_close(c);
}
END_TEST

/* ---- windows ------------------------------------------------------------------------------------------ */

static sv_order order_alloc(sv_ctx *c, sv_tensor coords, int group, bool all)
{
    sv_order order = {0};
    const int rows = coords.dim[0];
    order.slot_row =
        output(c, SV_I32, sv_window_slots(rows, coords.batch, group), 1, coords.batch, &order.slot_offsets);
    order.row_slot = output(c, SV_I32, rows, 1, 0, NULL);
    if (all) {
        order.order = output(c, SV_I32, rows, 1, 0, NULL);
        order.key = output(c, SV_I64, rows, 1, 0, NULL);
    }
    return order;
}

static void assert_order(const sv_order *order, const voxel_set *set, const sv_window *w, int direction)
{
    int32_t *expected = malloc(sizeof(int32_t) * (size_t)(set->rows + 1));
    int32_t *ranks = malloc(sizeof(int32_t) * (size_t)(set->rows + w->group + 1));
    oracle_window_order(expected, set->coords, set->rows, w, direction);
    int slot = 0;
    for (int b = 0; b < set->batch; b++) {
        ck_assert_int_eq(order->slot_offsets[b], slot);
        const int first = set->offsets[b], n = set->offsets[b + 1] - first,
                  slots = oracle_slots(ranks, n, w->group);
        for (int i = 0; i < slots; i++)
            assert_each(sv_i32(order->slot_row)[slot + i] == expected[first + ranks[i]]);
        for (int i = 0; i < n; i++) assert_each(sv_i32(order->row_slot)[expected[first + i]] == slot + i);
        slot += slots;
    }
    ck_assert_int_eq(order->slot_offsets[set->batch], slot);
    if (!sv_is_none(order->order)) {
        assert_ints("order", sv_i32(order->order), expected, set->rows);
        for (int i = 0; i < set->rows; i++)
            assert_each(((int64_t *)order->key.data)[i] ==
                        sv_window_key(w, direction, set->coords + 4 * (size_t)i));
    }
    free(expected);
    free(ranks);
}

START_TEST(window_orders_are_the_oracles)
{
    test_rng rng = {.state = 100 + (uint64_t)_i};
    static const int rows[][3] = {{3000, 1, 512}, {0, 0, 700}, {100, 256, 255}, {0, 0, 0}, {1024, 1025, 0}};
    static const int32_t shape[3] = {32, 50, 61};
    enum { JOBS = 3 };
    voxel_set sets[JOBS];
    sv_window windows[JOBS];
    for (int j = 0; j < JOBS; j++) {
        sets[j] = random_voxels(&rng, 1 + (_i + j) % 3, shape, rows[(_i + j) % 5]);
        if (j == 1) shuffle_rows(&rng, sets[j].coords, 16, sets[j].offsets, sets[j].batch);
        windows[j] = (sv_window){.window = {13, 1 + 12 * (j != 2), 4 << j},
                                 .grid = {shape[0], shape[1], shape[2]},
                                 .group = j == 0 ? 256 : 100,
                                 .shift = (_i + j) % 2};
    }
    for (int t = 0; t < 2; t++) {
        sv_ctx *c = test_context(thread_counts[t]);
        sv_window_job jobs[JOBS];
        for (int j = 0; j < JOBS; j++) {
            sv_tensor coords = coords_tensor(c, &sets[j]);
            const int group = windows[j].group;
            jobs[j] = (sv_window_job){coords, windows[j], order_alloc(c, coords, group, true),
                                      order_alloc(c, coords, group, j == 0)};
        }
        assert_ok(c, sv_window_orders(c, jobs, JOBS));
        for (int j = 0; j < JOBS; j++) {
            assert_order(&jobs[j].x, &sets[j], &windows[j], SV_DIRECTION_X);
            assert_order(&jobs[j].y, &sets[j], &windows[j], SV_DIRECTION_Y);
        }
        sv_ctx_close(c);
    }
    for (int j = 0; j < JOBS; j++) free(sets[j].coords);
}
END_TEST

/* ---- scores ------------------------------------------------------------------------------------------- */

START_TEST(top_rows_are_the_oracles)
{
    test_rng rng = {.state = 200 + (uint64_t)_i};
    static const int rows[][3] = {{900, 4, 1}, {0, 333, 5}, {10, 0, 0}, {2000, 1500, 7}};
    const int batch = 1 + _i % 3;
    const double share = _i == 0 ? 1.0 : 0.2;
    int32_t offsets[4] = {0}, picks_expected[4000];
    for (int b = 0; b < batch; b++) offsets[b + 1] = offsets[b] + rows[_i % 4][b];
    float scores[4000];
    for (int i = 0; i < offsets[batch]; i++) {
        scores[i] = (float)rng_normal(&rng);
        const uint64_t odd = rng_u64(&rng) % 12;
        if (odd < 4) scores[i] = roundf(scores[i]); /* ties, among them -0 and +0 */
        if (odd == 4) scores[i] = rng_u64(&rng) % 2 ? NAN : -NAN;
        if (odd == 5) scores[i] = rng_u64(&rng) % 2 ? INFINITY : -INFINITY;
    }
    int total = 0;
    for (int b = 0; b < batch; b++) {
        const int n = offsets[b + 1] - offsets[b], k = (int)(n * share);
        oracle_top(picks_expected + total, k, scores, offsets[b], n);
        total += k;
    }
    for (int t = 0; t < 2; t++) {
        sv_ctx *c = test_context(thread_counts[t]);
        int32_t *picks_offsets = NULL;
        sv_tensor picks = output(c, SV_I32, (int)(offsets[batch] * share), 1, batch, &picks_offsets);
        assert_ok(c, sv_top_rows(c, picks, picks_offsets,
                                 filled(c, SV_F32, scores, offsets[batch], 1, offsets, batch), share));
        ck_assert_int_eq(picks_offsets[batch], total);
        assert_ints("picks", sv_i32(picks), picks_expected, total);
        sv_ctx_close(c);
    }
}
END_TEST

/* ---- merging ------------------------------------------------------------------------------------------ */

static sv_merge merge_alloc(sv_ctx *c, int capacity, int inputs, int rows, int batch)
{
    sv_merge out = {0};
    out.coords = output(c, SV_I32, capacity, 4, batch, &out.offsets);
    out.inverse = output(c, SV_I32, inputs, 1, 0, NULL);
    out.start = output(c, SV_I32, capacity + 1, 1, 0, NULL);
    out.rows = output(c, SV_I32, rows, 1, 0, NULL);
    return out;
}

/* The inputs of a merge written out: originals, then four blocks of copies per sample. */
static int32_t *with_copies(const voxel_set *set, const int32_t *picks, const int32_t *picks_offsets,
                            int *inputs)
{
    static const int dx[4] = {-1, 1, -1, 1}, dy[4] = {1, 1, -1, -1};
    const int copies = picks ? 4 * picks_offsets[set->batch] : 0;
    int32_t *all = malloc(16 * (size_t)(set->rows + copies + 1));
    memcpy(all, set->coords, 16 * (size_t)set->rows);
    *inputs = set->rows;
    for (int b = 0; picks && b < set->batch; b++) {
        for (int block = 0; block < 4; block++) {
            for (int i = picks_offsets[b]; i < picks_offsets[b + 1]; i++) {
                const int32_t *from = set->coords + 4 * (size_t)picks[i];
                int32_t *to = all + 4 * (size_t)(*inputs)++;
                to[0] = from[0], to[1] = from[1];
                to[2] = (int32_t)fmin(fmax(from[2] + dy[block], 0), set->shape[1] - 1);
                to[3] = (int32_t)fmin(fmax(from[3] + dx[block], 0), set->shape[2] - 1);
            }
        }
    }
    return all;
}

/* The originals of each merged row: exactly those that 'inverse' sends there, ascending. */
static void assert_segments(const sv_merge *out, int merged, int rows)
{
    const int32_t *start = sv_i32(out->start), *list = sv_i32(out->rows), *inverse = sv_i32(out->inverse);
    ck_assert_int_eq(start[0], 0);
    ck_assert_int_eq(start[merged], rows);
    for (int m = 0; m < merged; m++) {
        assert_each(start[m] <= start[m + 1]);
        for (int i = start[m]; i < start[m + 1]; i++) {
            assert_each(inverse[list[i]] == m);
            if (i > start[m]) assert_each(list[i - 1] < list[i]);
        }
    }
}

static void check_merge(const voxel_set *set, const int32_t scale[3], const int32_t *picks,
                        const int32_t *picks_offsets)
{
    int inputs = 0;
    int32_t *all = with_copies(set, picks, picks_offsets, &inputs);
    int32_t *coords = malloc(16 * (size_t)(inputs + 1)), *inverse = malloc(4 * (size_t)(inputs + 1));
    const int merged = oracle_merge(coords, inverse, all, inputs, set->shape, scale);
    for (int t = 0; t < 2; t++) {
        sv_ctx *c = test_context(thread_counts[t]);
        sv_tensor in = coords_tensor(c, set);
        sv_tensor chosen =
            picks ? filled(c, SV_I32, picks, picks_offsets[set->batch], 1, picks_offsets, set->batch)
                  : SV_NONE;
        sv_merge out = merge_alloc(c, merged, inputs, set->rows, set->batch);
        int32_t needed = -1;
        assert_ok(c, sv_merge_map(c, &out, in, set->shape, scale, chosen, &needed));
        ck_assert_int_eq(needed, merged);
        assert_ints("merged coords", sv_i32(out.coords), coords, 4 * merged);
        assert_ints("inverse", sv_i32(out.inverse), inverse, inputs);
        assert_segments(&out, merged, set->rows);
        ck_assert_int_eq(out.offsets[set->batch], merged);
        for (int b = 0; b < set->batch; b++) {
            int before = 0;
            for (int m = 0; m < merged; m++) before += coords[4 * m] < b;
            ck_assert_int_eq(out.offsets[b], before);
        }
        if (merged > 0) {
            out = merge_alloc(c, merged - 1, inputs, set->rows, set->batch);
            assert_fails(c, sv_merge_map(c, &out, in, set->shape, scale, chosen, &needed), SV_OVERFLOW,
                         "capacity");
            ck_assert_int_eq(needed, merged);
        }
        sv_ctx_close(c);
    }
    free(all);
    free(coords);
    free(inverse);
}

START_TEST(merge_maps_are_the_oracles)
{
    test_rng rng = {.state = 300 + (uint64_t)_i};
    static const int rows[][3] = {{700, 300, 500}, {0, 0, 60}, {1, 0, 900}, {0, 0, 0}, {5000, 200, 1}};
    static const int32_t shapes[][3] = {{8, 20, 30}, {32, 80, 112}, {9, 21, 31}, {1, 1, 1}, {5, 2, 3}};
    static const int32_t scales[][3] = {{2, 2, 2}, {1, 1, 2}, {1, 1, 1}, {3, 2, 1}};
    const int32_t *shape = shapes[_i % 5], *scale = scales[_i % 4];
    for (int axis = 0; axis < 3; axis++) {
        if (shape[2 - axis] < scale[axis]) scale = scales[2];
    }
    voxel_set set = random_voxels(&rng, 1 + _i % 3, shape, rows[_i / 2 % 5]);
    if (_i % 2) shuffle_rows(&rng, set.coords, 16, set.offsets, set.batch);
    check_merge(&set, scale, NULL, NULL);
    int32_t picks_offsets[4] = {0}, *picks = malloc(4 * (size_t)(set.rows + 1));
    for (int b = 0; b < set.batch; b++) {
        int k = picks_offsets[b];
        for (int i = set.offsets[b + 1] - 1; i >= set.offsets[b]; i--) {
            if (rng_u64(&rng) % 5 == 0) picks[k++] = i;
        }
        picks_offsets[b + 1] = k;
    }
    check_merge(&set, scale, picks, picks_offsets);
    free(picks);
    free(set.coords);
}
END_TEST

/* ---- neighbours and convolution ----------------------------------------------------------------------- */

START_TEST(neighbours_are_the_oracles)
{
    test_rng rng = {.state = 400 + (uint64_t)_i};
    static const int rows[][3] = {{400, 0, 300}, {1000, 700, 0}, {0, 1, 1}, {30, 30, 30}};
    static const int32_t shapes[][3] = {{4, 9, 11}, {32, 40, 35}, {1, 1, 1}, {2, 3, 1}, {1, 64, 64}};
    voxel_set set = random_voxels(&rng, 1 + _i % 3, shapes[_i % 5], rows[_i % 4]);
    if (_i % 2) shuffle_rows(&rng, set.coords, 16, set.offsets, set.batch);
    for (int t = 0; t < 2; t++) {
        sv_ctx *c = test_context(thread_counts[t]);
        sv_tensor table = output(c, SV_I32, set.rows, 27, 0, NULL);
        assert_ok(c,
                  sv_neighbours(c, &(sv_neighbourhood){.table = table}, coords_tensor(c, &set), set.shape));
        for (int i = 0; i < set.rows; i++) {
            const int32_t *at = set.coords + 4 * (size_t)i;
            for (int k = 0; k < 27; k++) {
                const int expected = oracle_find(set.coords, set.rows, at[0], at[1] + k / 9 - 1,
                                                 at[2] + k / 3 % 3 - 1, at[3] + k % 3 - 1);
                assert_each(sv_i32(table)[27 * i + k] == expected);
            }
            assert_each(sv_i32(table)[27 * i + SV_SUBM_CENTRE] == i);
        }
        sv_ctx_close(c);
    }
    free(set.coords);
}
END_TEST

/* Prepare w [out,27,in], convolve and copy the result. */
static float *convolve(sv_ctx *c, const voxel_set *set, const float *x, float *w, int in, int out)
{
    sv_arena weights;
    sv_arena_init(&weights, "weights", c->device);
    c->weights = &weights;
    sv_subm_weights prepared = {0};
    sv_tensor host = {.data = w, .dim = {out, 3, 3, 3, in}, .pitch = 27 * in, .ndim = 5, .dtype = SV_F32};
    assert_ok(c, sv_subm_prepare(c, &prepared, host));
    ck_assert(prepared.in == in && prepared.out == out);
    for (int k = 0; k < 27; k++)
        assert_each(sv_f32(prepared.w)[(k * in + in - 1) * out] == w[k * in + in - 1]);
    sv_tensor coords = coords_tensor(c, set), table = output(c, SV_I32, set->rows, 27, 0, NULL);
    const sv_neighbourhood around = {.table = table};
    assert_ok(c, sv_neighbours(c, &around, coords, set->shape));
    sv_tensor y = sv_with_rows_of(output(c, SV_F32, set->rows, out, 0, NULL), coords);
    assert_ok(c, sv_subm_conv(c, y, filled(c, SV_F32, x, set->rows, in, NULL, 0), &around, &prepared));
    float *result = copy_of(y.data, sizeof(float) * (size_t)(set->rows * out));
    c->weights = NULL;
    sv_arena_free(&weights);
    return result;
}

static const char *const isa_names[] = {"scalar", "avx2", "avx512"};
static const int channel_pairs[][2] = {{64, 64}, {16, 16}, {1, 1}, {20, 37}, {128, 128}, {32, 5}, {3, 70}};

START_TEST(convolution_is_the_oracles)
{
    setenv("SAVANNA_ISA", isa_names[_i % 3], 1);
    test_rng rng = {.state = 500 + (uint64_t)_i};
    const int in = channel_pairs[_i / 3][0], out = channel_pairs[_i / 3][1];
    static const int32_t shape[3] = {5, 14, 17};
    static const int rows[2] = {260, 199};
    voxel_set set = random_voxels(&rng, 2, shape, rows);
    if (_i % 2) shuffle_rows(&rng, set.coords, 16, set.offsets, set.batch);
    float *x = malloc(sizeof(float) * (size_t)(set.rows * in)),
          *w = malloc(sizeof(float) * (size_t)(27 * in * out));
    rng_fill(&rng, x, (size_t)(set.rows * in), 1);
    rng_fill(&rng, w, (size_t)(27 * in * out), 0.2);
    double *exact = malloc(sizeof(double) * (size_t)(set.rows * out));
    float *expected = malloc(sizeof(float) * (size_t)(set.rows * out)), *result[2];
    oracle_subm(exact, x, set.coords, set.rows, w, in, out);
    for (int i = 0; i < set.rows * out; i++) expected[i] = (float)exact[i];
    for (int t = 0; t < 2; t++) {
        sv_ctx *c = test_context(thread_counts[t]);
        result[t] = convolve(c, &set, x, w, in, out);
        assert_close("convolution", result[t], expected, (size_t)(set.rows * out), 4e-6 + 1e-6 * in, 2e-6);
        sv_ctx_close(c);
    }
    ck_assert_mem_eq(result[0], result[1], sizeof(float) * (size_t)(set.rows * out));
    free(result[0]);
    free(result[1]);
    free(exact);
    free(expected);
    free(x);
    free(w);
    free(set.coords);
}
END_TEST

/* A voxel set alone and behind another sample: the same bytes. */
START_TEST(convolution_ignores_the_place_in_the_batch)
{
    test_rng rng = {.state = 600};
    static const int32_t shape[3] = {5, 14, 17};
    static const int rows[2] = {301, 450};
    voxel_set both = random_voxels(&rng, 2, shape, rows), second = both;
    const int first = both.offsets[1];
    second.batch = 1;
    second.rows = both.rows - first;
    second.offsets[1] = second.rows;
    second.coords = copy_of(both.coords + 4 * first, 16 * (size_t)second.rows);
    for (int i = 0; i < second.rows; i++) second.coords[4 * i] = 0;
    float *x = malloc(sizeof(float) * (size_t)both.rows * 64), *w = malloc(sizeof(float) * 27 * 64 * 64);
    rng_fill(&rng, x, (size_t)both.rows * 64, 1);
    rng_fill(&rng, w, 27 * 64 * 64, 0.2);
    sv_ctx *c = test_context(1);
    float *whole = convolve(c, &both, x, w, 64, 64),
          *part = convolve(c, &second, x + (size_t)first * 64, w, 64, 64);
    ck_assert_mem_eq(whole + (size_t)first * 64, part, sizeof(float) * (size_t)second.rows * 64);
    sv_ctx_close(c);
    free(whole);
    free(part);
    free(x);
    free(w);
    free(both.coords);
    free(second.coords);
}
END_TEST

/* ---- the map from above ------------------------------------------------------------------------------- */

START_TEST(rows_land_on_the_map)
{
    test_rng rng = {.state = 700 + (uint64_t)_i};
    static const int32_t shape[3] = {2, 70, 65};
    static const int rows[3] = {900, 0, 300};
    enum { CHANNELS = 5 };
    voxel_set set = random_voxels(&rng, 1 + _i, shape, rows);
    float *x = malloc(sizeof(float) * (size_t)(set.rows * CHANNELS));
    rng_fill(&rng, x, (size_t)(set.rows * CHANNELS), 1);
    const int cells = set.batch * shape[1] * shape[2], channels = CHANNELS * shape[0];
    float *expected = calloc((size_t)(cells * channels), sizeof(float));
    for (int i = 0; i < set.rows; i++) {
        const int32_t *at = set.coords + 4 * (size_t)i;
        for (int channel = 0; channel < CHANNELS; channel++)
            expected[((at[0] * shape[1] + at[2]) * shape[2] + at[3]) * channels + channel * shape[0] +
                     at[1]] = x[i * CHANNELS + channel];
    }
    for (int t = 0; t < 2; t++) {
        sv_ctx *c = test_context(thread_counts[t]);
        sv_tensor map = output(c, SV_F32, cells, channels, 0, NULL), coords = coords_tensor(c, &set);
        sv_tensor input = filled(c, SV_F32, x, set.rows, CHANNELS, NULL, 0);
        assert_ok(c, sv_bev_scatter(c, map, input, coords, shape));
        ck_assert_mem_eq(map.data, expected, sizeof(float) * (size_t)(cells * channels));
        /* a map wider than the channels keeps what is beside them */
        sv_tensor wide = output(c, SV_F32, cells, channels + 3, 0, NULL);
        assert_ok(c, sv_bev_scatter(c, sv_columns(wide, 1, channels), input, coords, shape));
        for (int i = 0; i < cells; i++) {
            const float *row = sv_f32(wide) + (size_t)i * (size_t)(channels + 3);
            assert_each(memcmp(row + 1, expected + (size_t)i * (size_t)channels,
                               sizeof(float) * (size_t)channels) == 0);
            assert_each(memcmp(row, "UUUU", 4) == 0 && memcmp(row + channels + 1, "UUUUUUUU", 8) == 0);
        }
        sv_i32(coords)[4 * (set.rows / 2)] = set.batch;
        assert_fails(c, sv_bev_scatter(c, map, input, coords, shape), SV_UNSUPPORTED, "outside");
        sv_ctx_close(c);
    }
    free(expected);
    free(x);
    free(set.coords);
}
END_TEST

/* ---- recorded reference data -------------------------------------------------------------------------- */

static const char *reference_path(const char *folder, const char *name)
{
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/golden/lion/%s", folder, name);
    return path;
}

/* Recorded coordinates as a set; rows of a batch lie together. */
static voxel_set recorded_voxels(h5_array *coords, int batch, h5_file *file)
{
    voxel_set set = {.batch = batch, .rows = coords->dim[0], .coords = coords->i};
    double shape[3];
    h5_numbers(file, "sparse_shape_zyx", shape, 3);
    for (int axis = 0; axis < 3; axis++) set.shape[axis] = (int32_t)shape[axis];
    for (int b = 0; b <= batch; b++) {
        int before = 0;
        for (int i = 0; i < set.rows; i++) before += set.coords[4 * i] < b;
        set.offsets[b] = b == batch ? set.rows : before;
    }
    return set;
}

static void check_recorded_order(const sv_order *order, h5_file *file, const char *name,
                                 const h5_array *flat2win, const h5_array *win2flat)
{
    h5_array recorded = h5_ints(file, name);
    const int rows = (int)recorded.count;
    assert_ints(name, sv_i32(order->order), recorded.i, rows);
    for (size_t slot = 0; slot < flat2win->count; slot++)
        assert_each(sv_i32(order->slot_row)[slot] == recorded.i[flat2win->i[slot]]);
    for (int rank = 0; rank < rows; rank++)
        assert_each(sv_i32(order->row_slot)[recorded.i[rank]] == win2flat->i[rank]);
    h5_free(&recorded);
}

static void check_recorded_window(const char *path)
{
    h5_file *file = h5_open(path, true);
    h5_array coords = h5_ints(file, "coords_bzyx"), flat2win = h5_ints(file, "flat2win"),
             win2flat = h5_ints(file, "win2flat");
    h5_array window_x = h5_ints(file, "win_index_x"), window_y = h5_ints(file, "win_index_y"),
             inside = h5_ints(file, "coors_in_win_zyx");
    const voxel_set set = recorded_voxels(&coords, (int)h5_number(file, "batch_size"), file);
    double size[3];
    h5_numbers(file, "window_shape_xyz", size, 3);
    const sv_window w = {.window = {(int32_t)size[0], (int32_t)size[1], (int32_t)size[2]},
                         .grid = {set.shape[0], set.shape[1], set.shape[2]},
                         .group = (int32_t)h5_number(file, "group_size"),
                         .shift = h5_number(file, "shift") != 0};
    sv_ctx *c = test_context(2);
    sv_tensor in = coords_tensor(c, &set);
    sv_window_job job = {in, w, order_alloc(c, in, w.group, true), order_alloc(c, in, w.group, true)};
    assert_ok(c, sv_window_orders(c, &job, 1));
    ck_assert_int_eq(job.x.slot_offsets[set.batch], (int)flat2win.count);
    check_recorded_order(&job.x, file, "order_x", &flat2win, &win2flat);
    check_recorded_order(&job.y, file, "order_y", &flat2win, &win2flat);
    const int64_t volume = (int64_t)w.window[0] * w.window[1] * w.window[2];
    for (int i = 0; i < set.rows; i++) {
        const int32_t *at = inside.i + 3 * (size_t)i; /* z, y, x */
        const int64_t place_x = ((int64_t)at[2] * w.window[1] + at[1]) * w.window[2] + at[0];
        const int64_t place_y = ((int64_t)at[1] * w.window[0] + at[2]) * w.window[2] + at[0];
        assert_each(((int64_t *)job.x.key.data)[i] == window_x.i[i] * volume + place_x);
        assert_each(((int64_t *)job.y.key.data)[i] == window_y.i[i] * volume + place_y);
    }
    sv_ctx_close(c);
    h5_free(&coords);
    h5_free(&flat2win);
    h5_free(&win2flat);
    h5_free(&window_x);
    h5_free(&window_y);
    h5_free(&inside);
    h5_close(file);
}

/* Calls 'check' with every recording of a folder whose name begins with 'prefix'; returns how many there
 * were. */
static int for_each_recording(const char *folder, const char *part, const char *prefix,
                              void (*check)(const char *path))
{
    DIR *list = opendir(reference_path(folder, part));
    ck_assert_msg(list != NULL, "no folder golden/lion/%s", part);
    int count = 0;
    for (const struct dirent *entry = readdir(list); entry; entry = readdir(list)) {
        const size_t length = strlen(entry->d_name);
        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0 || length < 3 ||
            strcmp(entry->d_name + length - 3, ".h5") != 0)
            continue;
        char name[300];
        snprintf(name, sizeof name, "%s/%s", part, entry->d_name);
        check(reference_path(folder, name));
        count++;
    }
    closedir(list);
    return count;
}

START_TEST(recorded_windows)
{
    const char *folder = reference_folder();
    if (folder) ck_assert_int_ge(for_each_recording(folder, "window", "", check_recorded_window), 1);
}
END_TEST

static void layer_norm(float *rows, int count, int channels, const float *weight, const float *bias)
{
    for (int i = 0; i < count; i++) {
        float *row = rows + (size_t)i * (size_t)channels;
        double mean = 0, square = 0;
        for (int k = 0; k < channels; k++) mean += (double)row[k] / channels;
        for (int k = 0; k < channels; k++)
            square += ((double)row[k] - mean) * ((double)row[k] - mean) / channels;
        for (int k = 0; k < channels; k++)
            row[k] =
                (float)(((double)row[k] - mean) / sqrt(square + 1e-5) * (double)weight[k] + (double)bias[k]);
    }
}

/* Recordings have their copies in the order of descending scores. */
static void descend(int32_t *picks, int count, const float *scores)
{
    for (int i = 1; i < count; i++)
        for (int at = i; at > 0 && scores[picks[at]] > scores[picks[at - 1]]; at--) {
            const int32_t swap = picks[at];
            picks[at] = picks[at - 1];
            picks[at - 1] = swap;
        }
}

static void check_recorded_merge(const char *path)
{
    h5_file *file = h5_open(path, true);
    h5_array coords = h5_ints(file, "in_coords_bzyx"), x = h5_floats(file, "in_features"),
             unq_inv = h5_ints(file, "unq_inv");
    h5_array out_coords = h5_ints(file, "out_coords_bzyx"), out_x = h5_floats(file, "out_features"),
             out_shape = h5_ints(file, "out_shape_zyx");
    h5_array activated = h5_floats(file, "after_subconv_norm_gelu"),
             w = h5_floats(file, "weights/sub_conv.0.weight");
    h5_array weight1 = h5_floats(file, "weights/sub_conv.1.weight"),
             bias1 = h5_floats(file, "weights/sub_conv.1.bias");
    h5_array weight2 = h5_floats(file, "weights/norm.weight"), bias2 = h5_floats(file, "weights/norm.bias");
    const voxel_set set = recorded_voxels(&coords, (int)h5_number(file, "batch_size"), file);
    const int channels = x.dim[1], merged = out_coords.dim[0];
    sv_ctx *c = test_context(2);

    /* f = GELU(LayerNorm(SubM(x))) */
    float *f = convolve(c, &set, x.f, w.f, channels, channels),
          *scores = malloc(sizeof(float) * (size_t)set.rows);
    layer_norm(f, set.rows, channels, weight1.f, bias1.f);
    for (int i = 0; i < set.rows; i++) {
        double sum = 0;
        for (int k = 0; k < channels; k++) {
            float *value = f + (size_t)i * (size_t)channels + k;
            *value = (float)(0.5 * (double)*value * (1 + erf((double)*value / sqrt(2.0))));
            sum += (double)*value;
        }
        scores[i] = (float)(sum / channels);
    }
    assert_close("after_subconv_norm_gelu", f, activated.f, activated.count, 1e-5, 0);

    sv_tensor picks = SV_NONE;
    int32_t *picks_offsets = NULL;
    int copies = 0;
    if (h5_number(file, "diffusion") != 0) {
        const double share = h5_number(file, "diff_scale");
        picks = output(c, SV_I32, (int)(set.rows * share), 1, set.batch, &picks_offsets);
        assert_ok(c, sv_top_rows(c, picks, picks_offsets,
                                 filled(c, SV_F32, scores, set.rows, 1, set.offsets, set.batch), share));
        copies = 4 * picks_offsets[set.batch];
        for (int b = 0; b < set.batch; b++)
            descend(sv_i32(picks) + picks_offsets[b], picks_offsets[b + 1] - picks_offsets[b], scores);
    }
    ck_assert_int_eq(set.rows + copies, (int)unq_inv.count);
    double down[3];
    h5_numbers(file, "down_scale_xyz", down, 3);
    const int32_t scale[3] = {(int32_t)down[0], (int32_t)down[1], (int32_t)down[2]};
    sv_merge out = merge_alloc(c, merged, set.rows + copies, set.rows, set.batch);
    int32_t needed = 0;
    assert_ok(c, sv_merge_map(c, &out, coords_tensor(c, &set), set.shape, scale, picks, &needed));
    ck_assert_int_eq(needed, merged);
    assert_ints("out_coords_bzyx", sv_i32(out.coords), out_coords.i, 4 * merged);
    assert_ints("unq_inv", sv_i32(out.inverse), unq_inv.i, (int)unq_inv.count);
    assert_segments(&out, merged, set.rows);
    for (int axis = 0; axis < 3; axis++)
        ck_assert_int_eq(sv_merged_size(set.shape[axis], scale[2 - axis]), out_shape.i[axis]);

    float *sum = calloc(out_x.count, sizeof(float));
    for (int m = 0; m < merged; m++) {
        for (int i = sv_i32(out.start)[m]; i < sv_i32(out.start)[m + 1]; i++) {
            for (int k = 0; k < channels; k++) sum[m * channels + k] += f[sv_i32(out.rows)[i] * channels + k];
        }
    }
    layer_norm(sum, merged, channels, weight2.f, bias2.f);
    assert_close("out_features", sum, out_x.f, out_x.count, 1.2e-5, 1e-6);

    free(sum);
    free(f);
    free(scores);
    sv_ctx_close(c);
    h5_array *const all[] = {&coords,    &x, &unq_inv, &out_coords, &out_x,   &out_shape,
                             &activated, &w, &weight1, &bias1,      &weight2, &bias2};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) h5_free(all[i]);
    h5_close(file);
}

START_TEST(recorded_merges)
{
    const char *folder = reference_folder();
    if (folder)
        ck_assert_int_ge(for_each_recording(folder, "merge", "patch_merging", check_recorded_merge), 1);
}
END_TEST

START_TEST(recorded_convolution)
{
    const char *folder = reference_folder();
    if (!folder) return;
    h5_file *file = h5_open(reference_path(folder, "merge/subm_conv3d.h5"), true);
    h5_array coords = h5_ints(file, "in_coords_bzyx"), x = h5_floats(file, "in_features");
    h5_array w = h5_floats(file, "weights/weight"), expected = h5_floats(file, "out_features");
    const voxel_set set = recorded_voxels(&coords, (int)h5_number(file, "batch_size"), file);
    sv_ctx *c = test_context(2);
    float *y = convolve(c, &set, x.f, w.f, x.dim[1], w.dim[0]);
    assert_close("out_features", y, expected.f, expected.count, 8.6e-6, 0);
    free(y);
    sv_ctx_close(c);
    h5_free(&coords);
    h5_free(&x);
    h5_free(&w);
    h5_free(&expected);
    h5_close(file);
}
END_TEST

/* pos_in_0: x, y, z of the entry coordinates as the position embedding reads them. */
static void check_recorded_positions(const char *path)
{
    h5_file *file = h5_open(path, true);
    h5_array coords = h5_ints(file, "in_coords_bzyx"), expected = h5_floats(file, "pos_in_0");
    const voxel_set set = recorded_voxels(&coords, (int)h5_number(file, "batch_size"), file);
    sv_ctx *c = test_context(2);
    sv_tensor in = coords_tensor(c, &set), y = sv_with_rows_of(output(c, SV_F32, set.rows, 3, 0, NULL), in);
    assert_ok(c, sv_positions(c, y, in, set.shape));
    assert_close("pos_in_0", sv_f32(y), expected.f, expected.count, 1e-6, 0);
    sv_ctx_close(c);
    h5_free(&coords);
    h5_free(&expected);
    h5_close(file);
}

START_TEST(recorded_positions)
{
    const char *folder = reference_folder();
    if (folder)
        ck_assert_int_ge(for_each_recording(folder, "merge", "lion_block", check_recorded_positions), 1);
}
END_TEST

static const sv_grid kitti_grid = {
    .min = {0, -40, -3}, .max = {70.4f, 40, 1}, .size = {0.2f, 0.2f, 0.125f}, .cells = {352, 400, 32}};
static const sv_grid nuscenes_grid = {
    .min = {-54, -54, -5}, .max = {54, 54, 3}, .size = {0.3f, 0.3f, 0.25f}, .cells = {360, 360, 32}};
static const sv_grid waymo_grid = {.min = {-75.52f, -75.52f, -2},
                                   .max = {75.52f, 75.52f, 4},
                                   .size = {0.32f, 0.32f, 0.1875f},
                                   .cells = {472, 472, 32}};

/* Points of a recorded frame to voxels, then through the four voxel generations with the recorded choices. */
static void check_recorded_frame(const char *path)
{
    const char *name = strrchr(path, '/') + 1;
    const sv_grid *grid = strncmp(name, "kitti", 5) == 0   ? &kitti_grid
                          : strncmp(name, "waymo", 5) == 0 ? &waymo_grid
                                                           : &nuscenes_grid;
    h5_file *file = h5_open(path, true);
    h5_array points = h5_floats(file, "input/points_bxyz"), expected = h5_ints(file, "vfe/voxel_coords_bzyx");
    const int32_t offsets[2] = {0, points.dim[0]};
    sv_ctx *c = test_context(2);
    sv_tensor in = filled(c, SV_F32, points.f, points.dim[0], points.dim[1], offsets, 1);
    sv_point_groups out = groups_alloc(c, points.dim[0], points.dim[0], 1);
    int32_t needed = 0;
    assert_ok(c, sv_voxelize(c, &out, sv_columns(in, 1, points.dim[1] - 1), grid, &needed));
    ck_assert_int_eq(needed, expected.dim[0]);
    assert_ints(name, sv_i32(out.coords), expected.i, 4 * needed);
    h5_free(&expected);

    int32_t shape[3] = {grid->cells[2], grid->cells[1], grid->cells[0]};
    static const int32_t scale[3] = {1, 1, 2};
    sv_tensor coords = out.coords;
    for (int level = 1; level <= 4; level++) {
        char part[64];
        snprintf(part, sizeof part, "backbone_3d/dow%d/topk_indices", level);
        h5_array chosen = h5_ints(file, part);
        snprintf(part, sizeof part, "backbone_3d/dow%d/coords_bzyx", level);
        expected = h5_ints(file, part);
        const int k = (int)chosen.count, rows = coords.offsets[1];
        ck_assert_int_eq(k, (int)(rows * 0.2));
        const int32_t picks_offsets[2] = {0, k};
        sv_merge merge = merge_alloc(c, expected.dim[0], coords.dim[0] + 4 * k, coords.dim[0], 1);
        assert_ok(c, sv_merge_map(c, &merge, coords, shape, scale,
                                  filled(c, SV_I32, chosen.i, k, 1, picks_offsets, 1), &needed));
        ck_assert_int_eq(needed, expected.dim[0]);
        assert_ints(part, sv_i32(merge.coords), expected.i, 4 * needed);
        coords = merge.coords;
        shape[0] = sv_merged_size(shape[0], 2);
        h5_free(&chosen);
        h5_free(&expected);
    }
    sv_ctx_close(c);
    h5_free(&points);
    h5_close(file);
}

START_TEST(recorded_frames)
{
    const char *folder = reference_folder();
    if (folder) ck_assert_int_ge(for_each_recording(folder, "models", "", check_recorded_frame), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("voxel");
    TCase *tests = tcase_create("voxel");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, pairs_sort_stably, 0, 8);
    tcase_add_loop_test(tests, points_become_the_oracles_voxels, 0, 15);
    tcase_add_test(tests, order_of_points_changes_nothing);
    tcase_add_test(tests, too_many_voxels_are_named);
    tcase_add_loop_test(tests, window_orders_are_the_oracles, 0, 6);
    tcase_add_loop_test(tests, top_rows_are_the_oracles, 0, 6);
    tcase_add_loop_test(tests, merge_maps_are_the_oracles, 0, 20);
    tcase_add_loop_test(tests, neighbours_are_the_oracles, 0, 10);
    tcase_add_loop_test(tests, convolution_is_the_oracles, 0, 21);
    tcase_add_test(tests, convolution_ignores_the_place_in_the_batch);
    tcase_add_loop_test(tests, rows_land_on_the_map, 0, 3);
    suite_add_tcase(suite, tests);
    TCase *recorded = tcase_create("recorded");
    tcase_set_timeout(recorded, 120);
    tcase_add_test(recorded, recorded_windows);
    tcase_add_test(recorded, recorded_merges);
    tcase_add_test(recorded, recorded_convolution);
    tcase_add_test(recorded, recorded_positions);
    tcase_add_test(recorded, recorded_frames);
    suite_add_tcase(suite, recorded);
    return run_suite(suite, true);
}
