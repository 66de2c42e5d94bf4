/* SPDX-License-Identifier: Apache-2.0
 *
 * The dense primitives of the CPU against oracle_dense.h: shapes with tails, gaps between rows, live rows,
 * gathered rows; the same bytes for one and three threads and wherever a row lies; nothing written outside the result.
 */
#include "oracle_dense.h"
#include "perception/core/gemm.h"
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Every test has two contexts, of one and three threads; memory comes from their frame and weights arenas. */
static sv_ctx *contexts[2];
static sv_arena weights[2];
static test_rng rng;

static void setup(void)
{
    rng = (test_rng){.state = 42};
    for (int i = 0; i < 2; i++) {
        contexts[i] = test_context(i == 0 ? 1 : 3);
        sv_arena_init(&weights[i], "weights", contexts[i]->device);
        contexts[i]->weights = &weights[i];
    }
}

static void teardown(void)
{
    for (int i = 0; i < 2; i++) {
        sv_arena_free(&weights[i]);
        sv_ctx_close(contexts[i]);
    }
}

static int pick(int from, int to)
{
    return from + (int)(rng_u64(&rng) % (uint64_t)(to - from + 1));
}

/* Begin a case: forget what the last one allocated. */
static void fresh(void)
{
    for (int i = 0; i < 2; i++) assert_ok(contexts[i], sv_arena_reset(contexts[i], &contexts[i]->frame));
}

static const float SENTINEL = -12345.5f;

/* A matrix with 'gap' columns between its rows that must not be touched, filled with the sentinel. */
static sv_tensor blank(sv_ctx *c, int rows, int columns, int gap)
{
    sv_tensor t;
    assert_ok(c, sv_frame_alloc(c, &t, "matrix", SV_F32, rows, columns + gap, SV_NONE));
    for (int64_t i = 0; i < (int64_t)rows * (columns + gap); i++) sv_f32(t)[i] = SENTINEL;
    return sv_columns(t, gap / 2, columns);
}

static sv_tensor random_matrix(int rows, int columns, int gap, double deviation)
{
    sv_tensor t = blank(contexts[0], rows, columns, gap);
    for (int i = 0; i < rows; i++)
        rng_fill(&rng, sv_f32(t) + (int64_t)i * t.pitch, (size_t)columns, deviation);
    return t;
}

/* 'rows' entries in lowest..highest, in the first column of 'width' */
static sv_tensor random_index(int rows, int lowest, int highest, int width)
{
    sv_tensor t;
    assert_ok(contexts[0], sv_frame_alloc(contexts[0], &t, "index", SV_I32, rows, width, SV_NONE));
    for (int i = 0; i < rows * width; i++) sv_i32(t)[i] = pick(lowest, highest);
    return sv_columns(t, 0, 1);
}

static sv_tensor ascending_starts(int segments, int total)
{
    sv_tensor t;
    assert_ok(contexts[0], sv_frame_alloc(contexts[0], &t, "start", SV_I32, segments + 1, 1, SV_NONE));
    int32_t *start = sv_i32(t);
    start[0] = 0;
    for (int i = 1; i <= segments; i++) start[i] = pick(0, 3) ? pick(0, total) : start[i - 1];
    for (int i = 1; i <= segments; i++)
        for (int j = i; j > 1 && start[j] < start[j - 1]; j--) {
            const int32_t swap = start[j];
            start[j] = start[j - 1];
            start[j - 1] = swap;
        }
    return t;
}

/* Give 't' live rows, in two samples, fewer than it has. */
static int32_t live_offsets[3];
static sv_tensor with_live_rows(sv_tensor t, int live)
{
    live_offsets[1] = live / 3;
    live_offsets[2] = live;
    t.offsets = live_offsets;
    t.batch = 2;
    return t;
}

/*
 * The live rows lie within tolerance of 'expected', everything else still holds the sentinel. A ck_assert is a
 * system call, so elements are compared without one.
 */
static void assert_result(const char *what, sv_tensor y, const double *expected, double abs, double rel)
{
    const int live = sv_live_rows(y), columns = y.dim[1];
    for (int i = 0; i < live; i++)
        for (int j = 0; j < columns; j++) {
            const double a = (double)sv_f32(y)[(int64_t)i * y.pitch + j],
                         b = expected[(int64_t)i * columns + j];
            if (!(fabs(a - b) <= abs + rel * fabs(b)))
                ck_abort_msg("%s: [%d,%d] is %.9g instead of %.9g", what, i, j, a, b);
        }
    const int gap = y.pitch - columns;
    const float *all = sv_f32(y) - gap / 2;
    for (int64_t i = 0; i < (int64_t)y.dim[0] * y.pitch; i++) {
        const int64_t row = i / y.pitch, column = i % y.pitch - gap / 2;
        if ((row >= live || column < 0 || column >= columns) && all[i] != SENTINEL)
            ck_abort_msg("%s: wrote outside the result at row %lld, column %lld", what, (long long)row,
                         (long long)column);
    }
}

static void assert_same_bytes(const char *what, sv_tensor a, sv_tensor b)
{
    for (int64_t i = 0; i < sv_live_rows(a); i++)
        if (memcmp(sv_f32(a) + i * a.pitch, sv_f32(b) + i * b.pitch, sizeof(float) * (size_t)a.dim[1]) != 0)
            ck_abort_msg("%s: row %lld differs", what, (long long)i);
}

static double *expected_for(sv_tensor y)
{
    void *memory = NULL;
    assert_ok(contexts[0], sv_arena_alloc(contexts[0], &contexts[0]->frame, "expected",
                                          sizeof(double) * (size_t)(y.dim[0] * y.dim[1]), &memory));
    return memory;
}

static sv_tensor vector_of(int n, double deviation)
{
    return random_matrix(1, n, 0, deviation);
}

static bool unary(sv_map map)
{
    switch (map) {
    case SV_MAP_add:
    case SV_MAP_add_relu:
    case SV_MAP_mul:
    case SV_MAP_mul_silu:
    case SV_MAP_sub:
    case SV_MAP_power:
    case SV_MAP_mul_sigmoid:
    case SV_MAP_neg_mul:
    case SV_MAP_div:
        return false;
    default:
        return true;
    }
}

/* ---- maps --------------------------------------------------------------------------------------------- */

START_TEST(maps)
{
    const sv_map map = (sv_map)_i;
    static const int rows[] = {1, 0, 7, 1100, 2100}, columns[] = {1, 16, 37, 64, 33};
    for (int shape = 0; shape < 5; shape++)
        for (int gap = 0; gap <= 5; gap += 5) {
            fresh();
            const sv_tensor a = random_matrix(rows[shape], columns[shape], gap, 4);
            const sv_tensor b = random_matrix(rows[shape], columns[shape], gap / 2, 4);
            for (int i = 0; map == SV_MAP_power && i < rows[shape]; i++) /* of what is positive */
                for (int j = 0; j < columns[shape]; j++) {
                    float *base = sv_f32(a) + (int64_t)i * a.pitch + j;
                    *base = fabsf(*base) + 0.01f;
                }
            sv_tensor y[2];
            for (int t = 0; t < 2; t++) {
                sv_ctx *c = contexts[t];
                y[t] =
                    with_live_rows(blank(c, rows[shape], columns[shape], gap), rows[shape] - rows[shape] / 4);
                assert_ok(c, unary(map) ? sv_map1(c, y[t], a, map) : sv_map2(c, y[t], a, b, map));
            }
            double *e = expected_for(y[0]);
            for (int i = 0; i < rows[shape]; i++)
                for (int j = 0; j < columns[shape]; j++)
                    e[i * columns[shape] + j] = oracle_map(map, (double)sv_f32(a)[(int64_t)i * a.pitch + j],
                                                           (double)sv_f32(b)[(int64_t)i * b.pitch + j]);
            /* gelu's 1 + erf cancels below 0 by definition of the exact form in float32, and so does 1 - e^a near 0;
             * a power is as exact as its exponent, up to 50 here, in float32 */
            const bool cancels = map == SV_MAP_gelu || map == SV_MAP_gelu_tanh ||
                                 map == SV_MAP_one_minus_exp || map == SV_MAP_elu_one || map == SV_MAP_elu ||
                                 map == SV_MAP_sin || map == SV_MAP_cos;
            assert_result(sv_map_name(map), y[0], e, cancels ? 5e-7 : 1e-37,
                          map == SV_MAP_power ? 5e-6 : 4e-7);
            assert_same_bytes(sv_map_name(map), y[0], y[1]);
            const sv_tensor in_place = sv_with_rows_of(a, y[0]);
            assert_ok(contexts[0], unary(map) ? sv_map1(contexts[0], in_place, in_place, map)
                                              : sv_map2(contexts[0], in_place, in_place, b, map));
            assert_same_bytes("in place", y[0], in_place);
        }
}
END_TEST

START_TEST(maps_pass_nan_on)
{
    for (int map = 0; map < SV_MAP_COUNT; map++) {
        float value[2] = {NAN, NAN}, one[2] = {1, 1};
        const sv_tensor a = sv_view(value, SV_F32, 2, 1), b = sv_view(one, SV_F32, 2, 1);
        assert_ok(contexts[0], unary((sv_map)map) ? sv_map1(contexts[0], a, a, (sv_map)map)
                                                  : sv_map2(contexts[0], a, b, a, (sv_map)map));
        ck_assert_msg(isnan(value[0]) && isnan(value[1]), "%s hides NaN", sv_map_name((sv_map)map));
    }
}
END_TEST

/* ---- linear ------------------------------------------------------------------------------------------- */

typedef struct linear_case {
    int rows, k, n, gap;
    bool indexed, bias;
} linear_case;

static const linear_case linear_cases[] = {
    {1, 64, 64, 0, false, true},     {0, 64, 64, 0, true, true},      {13, 1, 1, 3, false, false},
    {100, 16, 40, 0, true, true},    {333, 129, 65, 7, true, true},   {97, 10, 33, 2, false, true},
    {1000, 64, 128, 0, true, false}, {250, 700, 31, 4, true, true},   {61, 1152, 18, 1, false, true},
    {500, 128, 256, 16, true, true}, {24, 512, 512, 0, false, false}, {25, 513, 49, 0, true, true},
    {37, 700, 650, 2, true, true}, /* in stripes of outputs, the last one narrower */
};

static void run_linear(const linear_case *q, sv_map map)
{
    const sv_tensor w = random_matrix(q->n, q->k, 0, 1 / sqrt(q->k));
    const sv_tensor bias = q->bias ? vector_of(q->n, 1) : SV_NONE;
    const sv_tensor x = random_matrix(q->indexed ? q->rows / 2 + 3 : q->rows, q->k, q->gap, 1);
    const sv_tensor index = q->indexed ? random_index(q->rows, -1, x.dim[0] - 1, 1 + q->gap) : SV_NONE;
    const int live = q->rows - q->rows / 5;
    sv_tensor y[2];
    for (int t = 0; t < 2; t++) {
        sv_ctx *c = contexts[t];
        sv_linear_weights prepared;
        assert_ok(c, sv_linear_prepare(c, &prepared, w, bias));
        y[t] = with_live_rows(blank(c, q->rows, q->n, q->gap), live);
        assert_ok(c, sv_linear(c, y[t], x, index, &prepared, map));
    }
    double *e = expected_for(y[0]);
    oracle_linear(e, live, x, index, w, bias, map);
    assert_result("linear", y[0], e, 4e-6, 4e-6);
    assert_same_bytes("linear on three threads", y[0], y[1]);
}

START_TEST(linear_shapes)
{
    run_linear(&linear_cases[_i], SV_MAP_identity);
}
END_TEST

START_TEST(linear_maps)
{
    for (int map = 0; map < SV_MAP_COUNT; map++)
        if (unary((sv_map)map)) run_linear(&(linear_case){100, 48, 70, 3, true, true}, (sv_map)map);
}
END_TEST

START_TEST(linear_rows_do_not_depend_on_their_place)
{
    enum { ROWS = 301 };
    static const int shapes[][2] = {{64, 64}, {600, 48}, {33, 19}};
    for (int s = 0; s < 3; s++) {
        const int k = shapes[s][0], n = shapes[s][1];
        sv_ctx *c = contexts[1];
        sv_linear_weights w;
        assert_ok(c, sv_linear_prepare(c, &w, random_matrix(n, k, 0, 1), vector_of(n, 1)));
        const sv_tensor x = random_matrix(ROWS, k, 0, 1);
        const sv_tensor straight = blank(c, ROWS, n, 0), single = blank(c, 1, n, 0);
        assert_ok(c, sv_linear(c, straight, x, SV_NONE, &w, SV_MAP_silu));
        const sv_tensor index = random_index(1000, 0, ROWS - 1, 1), y = blank(c, 1000, n, 0);
        assert_ok(c, sv_linear(c, y, x, index, &w, SV_MAP_silu));
        for (int i = 0; i < 1000; i++)
            ck_assert_mem_eq(sv_f32(y) + i * n, sv_f32(straight) + sv_i32(index)[i] * n,
                             sizeof(float) * (size_t)n);
        for (int i = 0; i < ROWS; i += 50) {
            const sv_tensor row = sv_view(sv_f32(x) + i * k, SV_F32, 1, k);
            assert_ok(c, sv_linear(c, single, row, SV_NONE, &w, SV_MAP_silu));
            ck_assert_mem_eq(sv_f32(single), sv_f32(straight) + i * n, sizeof(float) * (size_t)n);
        }
    }
}
END_TEST

START_TEST(products_of_pieces_scatter_and_accumulate)
{
    /* gemm.h beyond what linear uses: several pieces a row, y rows by index, added rows */
    enum { ROWS = 50, OUT = 70 };
    static const struct {
        int parts, piece, n;
    } shapes[] = {{9, 64, 48}, {27, 16, 33}, {3, 600, 20}, {9, 7, 5}, {1, 40, 64}};
    for (int s = 0; s < 5; s++) {
        const int parts = shapes[s].parts, piece = shapes[s].piece, n = shapes[s].n, k = parts * piece;
        const sv_tensor b = random_matrix(k, n, 0, 1 / sqrt(k)), x = random_matrix(30, piece, 3, 1);
        const sv_tensor index = random_index(ROWS, -1, 29, parts), bias = vector_of(n, 1);
        sv_tensor y = random_matrix(OUT, n, 2, 1), before = blank(contexts[0], OUT, n, 2);
        memcpy(sv_f32(before) - 1, sv_f32(y) - 1, sizeof(float) * (size_t)(OUT * y.pitch));
        int32_t out[ROWS];
        for (int i = 0; i < ROWS; i++) out[i] = OUT - 1 - i;
        float *packed = aligned_alloc(64, (sv_gemm_packed_count(k, n) * sizeof(float) + 63) / 64 * 64);
        sv_gemm_pack(packed, k, n, sv_f32(b), n, 1);
        const sv_gemm g = {.k = k,
                           .n = n,
                           .b = packed,
                           .x = sv_f32(x),
                           .x_pitch = x.pitch,
                           .parts = parts,
                           .index = sv_i32(index),
                           .index_pitch = parts,
                           .y = sv_f32(y),
                           .y_pitch = y.pitch,
                           .y_index = out,
                           .add = sv_f32(y),
                           .add_pitch = y.pitch,
                           .bias = sv_f32(bias),
                           .map = SV_MAP_relu};
        sv_gemm_run(&g, 3, ROWS - 3);
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < n; j++) {
                double sum = (double)sv_f32(before)[out[i] * before.pitch + j];
                if (i >= 3) {
                    sum += (double)sv_f32(bias)[j];
                    for (int p = 0; p < k; p++) {
                        const int row = sv_i32(index)[i * parts + p / piece];
                        if (row >= 0)
                            sum +=
                                (double)sv_f32(x)[row * x.pitch + p % piece] * (double)sv_f32(b)[p * n + j];
                    }
                    sum = sum > 0 ? sum : 0;
                }
                const double got = (double)sv_f32(y)[out[i] * y.pitch + j];
                if (!(fabs(got - sum) < 1e-5))
                    ck_abort_msg("shape %d, row %d, column %d: %.9g instead of %.9g", s, i, j, got, sum);
            }
        free(packed);
    }
}
END_TEST

/* ---- norm --------------------------------------------------------------------------------------------- */

START_TEST(norms)
{
    static const int columns[] = {1, 16, 64, 37, 100, 256};
    const int n = columns[_i];
    for (int map = 0; map < SV_MAP_COUNT; map++) {
        if (!unary((sv_map)map) || (map > SV_MAP_relu && n != 37)) continue; /* one width meets every map */
        for (int variant = 0; variant < 3; variant++) { /* plain, residual, residual in place */
            fresh();
            const int rows = variant == 0 ? 1 : 400, gap = variant == 1 ? 3 : 0;
            const sv_tensor weight = vector_of(n, 1), bias = vector_of(n, 1);
            sv_tensor x = random_matrix(rows, n, gap, 2);
            for (int j = 0; j < n && rows > 5; j++) {
                sv_f32(x)[5 * x.pitch + j] =
                    1000.0f + (float)j;            /* large mean: the variance must not cancel */
                sv_f32(x)[6 * x.pitch + j] = 3.0f; /* no variance */
            }
            const sv_tensor residual = variant == 0 ? SV_NONE : random_matrix(rows, n, gap, 1);
            sv_tensor y[2];
            double *e = expected_for(x);
            oracle_norm(e, rows, x, weight, bias, 1e-5, (sv_map)map, residual);
            for (int t = 0; t < 2; t++) {
                sv_ctx *c = contexts[t];
                y[t] = blank(c, rows, n, gap);
                if (variant == 2) memcpy(y[t].data, residual.data, sizeof(float) * (size_t)(rows * n));
                y[t] = with_live_rows(y[t], rows);
                assert_ok(
                    c, sv_norm(c, y[t], x, weight, bias, 1e-5f, (sv_map)map, variant == 2 ? y[t] : residual));
            }
            assert_result("norm", y[0], e, 2e-5, 2e-5);
            assert_same_bytes("norm on three threads", y[0], y[1]);
            x = sv_with_rows_of(x, y[0]);
            assert_ok(contexts[0], sv_norm(contexts[0], x, x, weight, bias, 1e-5f, (sv_map)map, residual));
            assert_same_bytes("norm in place", y[0], x);
        }
    }
}
END_TEST

/* ---- rows --------------------------------------------------------------------------------------------- */

START_TEST(gathers)
{
    static const int columns[] = {1, 4, 64, 37, 131};
    const int n = columns[_i];
    for (int variant = 0; variant < 8; variant++) {
        fresh();
        const bool based = variant & 1, in_place = based && (variant & 2);
        const int rows = variant & 4 ? 1000 : variant, gap = variant & 2 ? 5 : 0;
        const sv_tensor x = random_matrix(40, n, gap, 1), index = random_index(rows, -1, 39, 1 + gap);
        const sv_tensor base = based ? random_matrix(rows, n, gap, 1) : SV_NONE;
        sv_tensor y[2];
        for (int t = 0; t < 2; t++) {
            sv_ctx *c = contexts[t];
            y[t] = blank(c, rows, n, gap);
            for (int i = 0; in_place && i < rows; i++)
                memcpy(sv_f32(y[t]) + (int64_t)i * y[t].pitch, sv_f32(base) + (int64_t)i * base.pitch,
                       sizeof(float) * (size_t)n);
            if (!in_place) y[t] = with_live_rows(y[t], rows - rows / 3);
            assert_ok(c, sv_gather(c, y[t], x, index, in_place ? y[t] : base));
        }
        double *e = expected_for(y[0]);
        oracle_gather(e, sv_live_rows(y[0]), x, index, base);
        assert_result("gather", y[0], e, 0, 1e-7);
        assert_same_bytes("gather on three threads", y[0], y[1]);
    }
}
END_TEST

START_TEST(gather_copies_integers)
{
    sv_ctx *c = contexts[1];
    sv_tensor x, y;
    assert_ok(c, sv_frame_alloc(c, &x, "x", SV_I32, 5, 4, SV_NONE));
    assert_ok(c, sv_frame_alloc(c, &y, "y", SV_I32, 7, 4, SV_NONE));
    for (int i = 0; i < 20; i++)
        sv_i32(x)[i] = (int)(rng_u64(&rng) & 0xffffffffu); /* NaN patterns among them */
    sv_i32(x)[0] = 0x7fa00001;                             /* a signalling NaN */
    const sv_tensor index = random_index(7, 0, 4, 1);
    sv_i32(index)[0] = 0;
    assert_ok(c, sv_gather(c, y, x, index, SV_NONE));
    for (int i = 0; i < 7; i++) ck_assert_mem_eq(sv_i32(y) + i * 4, sv_i32(x) + sv_i32(index)[i] * 4, 16);
}
END_TEST

START_TEST(segments)
{
    static const int columns[] = {1, 4, 64, 37, 200};
    const int n = columns[_i];
    for (int variant = 0; variant < 8; variant++) {
        fresh();
        const bool maximum = variant & 1, listed = variant & 2;
        const int count = variant & 4 ? 500 : variant / 2, total = count ? 3 * count : 0;
        const sv_tensor x = random_matrix(listed ? 60 : total, n, variant, 1);
        const sv_tensor start = ascending_starts(count, total);
        const sv_tensor rows = listed ? random_index(total, 0, 59, 2) : SV_NONE;
        sv_tensor y[2];
        for (int t = 0; t < 2; t++) {
            sv_ctx *c = contexts[t];
            y[t] = with_live_rows(blank(c, count, n, variant), count - count / 4);
            assert_ok(c, maximum ? sv_segment_max(c, y[t], x, start, rows)
                                 : sv_segment_sum(c, y[t], x, start, rows, NULL));
        }
        double *e = expected_for(y[0]);
        oracle_segments(e, sv_live_rows(y[0]), x, start, rows, maximum);
        assert_result("segments", y[0], e, maximum ? 0 : 1e-4, 0);
        assert_same_bytes("segments on three threads", y[0], y[1]);
    }
}
END_TEST

/* A norm behind a gather or a sum is the norm of what they make. */
START_TEST(norms_behind)
{
    static const int columns[] = {1, 4, 64, 37, 131};
    const int n = columns[_i], rows = 300;
    fresh();
    const sv_row_norm norm = {
        .weight = vector_of(n, 1), .bias = vector_of(n, 1), .eps = 1e-5f, .map = SV_MAP_gelu};
    const sv_tensor x = random_matrix(60, n, 2, 1), base = random_matrix(rows, n, 0, 1);
    const sv_tensor index = random_index(rows, -1, 59, 1), start = ascending_starts(rows, 3 * rows),
                    listed = random_index(3 * rows, 0, 59, 1);
    for (int sum = 0; sum < 2; sum++) {
        sv_tensor plain = blank(contexts[0], rows, n, 0), y[2];
        assert_ok(contexts[0], sum ? sv_segment_sum(contexts[0], plain, x, start, listed, NULL)
                                   : sv_gather(contexts[0], plain, x, index, base));
        for (int t = 0; t < 2; t++) {
            sv_ctx *c = contexts[t];
            y[t] = blank(c, rows, n, 3);
            assert_ok(c, sum ? sv_segment_sum(c, y[t], x, start, listed, &norm)
                             : sv_gather_norm(c, y[t], x, index, base, &norm));
        }
        double *e = expected_for(y[0]);
        oracle_norm(e, rows, plain, norm.weight, norm.bias, 1e-5, SV_MAP_gelu, SV_NONE);
        assert_result("norm behind", y[0], e, 2e-5, 2e-5);
        assert_same_bytes("norm behind on three threads", y[0], y[1]);
    }
}
END_TEST

START_TEST(row_means)
{
    static const int columns[] = {1, 7, 8, 64, 129};
    const int n = columns[_i];
    const sv_tensor x = random_matrix(1500, n, 3, 100);
    sv_tensor y[2];
    for (int t = 0; t < 2; t++) {
        sv_ctx *c = contexts[t];
        y[t] = with_live_rows(blank(c, 1500, 1, 2), 1400);
        assert_ok(c, sv_row_mean(c, y[t], x));
    }
    double *e = expected_for(y[0]);
    oracle_row_mean(e, 1500, x);
    assert_result("row_mean", y[0], e, 1e-13,
                  6e-8); /* half a unit in the last place: only the final rounding */
    assert_same_bytes("row_mean on three threads", y[0], y[1]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("dense");
    TCase *tests = tcase_create("dense");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, maps, 0, SV_MAP_COUNT);
    tcase_add_test(tests, maps_pass_nan_on);
    tcase_add_loop_test(tests, linear_shapes, 0, sizeof linear_cases / sizeof linear_cases[0]);
    tcase_add_test(tests, linear_maps);
    tcase_add_test(tests, linear_rows_do_not_depend_on_their_place);
    tcase_add_test(tests, products_of_pieces_scatter_and_accumulate);
    tcase_add_loop_test(tests, norms, 0, 6);
    tcase_add_loop_test(tests, gathers, 0, 5);
    tcase_add_test(tests, gather_copies_integers);
    tcase_add_loop_test(tests, segments, 0, 5);
    tcase_add_loop_test(tests, norms_behind, 0, 5);
    tcase_add_loop_test(tests, row_means, 0, 5);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
