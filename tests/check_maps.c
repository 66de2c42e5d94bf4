/* SPDX-License-Identifier: Apache-2.0
 *
 * The primitives on maps against plain double precision: odd sizes, tails, several maps, one and three threads.
 */
#include "oracle_dense.h"
#include "support.h"

#include "backbones/video/convs5.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static sv_ctx *contexts[2];

static void setup(void)
{
    contexts[0] = test_context(1);
    contexts[1] = test_context(3);
}

static void teardown(void)
{
    for (int i = 0; i < 2; i++) sv_ctx_close(contexts[i]);
}

static sv_tensor random_rows(sv_ctx *c, test_rng *rng, int rows, int columns)
{
    sv_tensor t;
    assert_ok(c, sv_frame_alloc(c, &t, "test", SV_F32, rows, columns, SV_NONE));
    rng_fill(rng, t.data, (size_t)rows * (size_t)columns, 1);
    return t;
}

static sv_tensor blank(sv_ctx *c, int rows, int columns)
{
    sv_tensor t;
    assert_ok(c, sv_frame_alloc(c, &t, "test", SV_F32, rows, columns, SV_NONE));
    memset(t.data, 0x7f, sizeof(float) * (size_t)rows * (size_t)columns);
    return t;
}

static size_t count_of(sv_tensor t)
{
    return (size_t)t.dim[0] * (size_t)t.dim[1];
}

static void assert_same(sv_tensor a, sv_tensor b)
{
    ck_assert_mem_eq(a.data, b.data, sizeof(float) * count_of(a));
}

static void assert_near(const char *what, sv_tensor got, const double *want, double tolerance)
{
    float *rounded = malloc(sizeof *rounded * count_of(got));
    for (size_t i = 0; i < count_of(got); i++) rounded[i] = (float)want[i];
    assert_close(what, sv_f32(got), rounded, count_of(got), tolerance, tolerance);
    free(rounded);
}

/* ---- convolution ---------------------------------------------------------------------------------------- */

static const struct {
    int maps, height, width, in, out, kernel;
} shapes[] = {{1, 5, 7, 3, 5, 3},   {3, 16, 16, 33, 40, 3}, {2, 9, 4, 1, 64, 3},
              {2, 6, 11, 17, 1, 5}, {1, 1, 1, 4, 3, 3},     {2, 20, 24, 64, 128, 3}};

START_TEST(convolution)
{
    test_rng rng = {(uint64_t)_i + 3};
    sv_ctx *c = contexts[0];
    const int maps = shapes[_i].maps, h = shapes[_i].height, w = shapes[_i].width, in = shapes[_i].in,
              out = shapes[_i].out, k = shapes[_i].kernel, rows = maps * h * w;
    sv_tensor x = random_rows(c, &rng, rows, in), weight = random_rows(c, &rng, k * k * in, out),
              bias = random_rows(c, &rng, 1, out), add = random_rows(c, &rng, rows, out), y[3];
    double *want = calloc((size_t)rows * (size_t)out, sizeof *want);
    for (int m = 0; m < maps; m++)
        for (int r = 0; r < h; r++)
            for (int q = 0; q < w; q++)
                for (int o = 0; o < out; o++) {
                    const int row = (m * h + r) * w + q;
                    double sum = (double)sv_f32(bias)[o] + (double)sv_f32(add)[row * out + o];
                    for (int tap = 0; tap < k * k; tap++) {
                        const int yy = r + tap / k - k / 2, xx = q + tap % k - k / 2;
                        if (yy < 0 || yy >= h || xx < 0 || xx >= w) continue;
                        for (int i = 0; i < in; i++)
                            sum += (double)sv_f32(x)[((m * h + yy) * w + xx) * in + i] *
                                   (double)sv_f32(weight)[(tap * in + i) * out + o];
                    }
                    want[row * out + o] = oracle_map(SV_MAP_gelu_tanh, sum, 0);
                }
    sv_arena arena;
    sv_arena_init(&arena, "test", c->device);
    for (int t = 0; t < 2; t++) {
        sv_map_conv_weights prepared;
        contexts[t]->weights = &arena;
        assert_ok(contexts[t], sv_map_conv_prepare(contexts[t], &prepared, weight, bias, k, h, w));
        y[t] = blank(c, rows, out);
        assert_ok(contexts[t], sv_map_conv(contexts[t], y[t], x, &prepared, add, SV_MAP_gelu_tanh));
    }
    /* sums of up to 576 products */
    assert_near("map_conv", y[0], want, 5e-5);
    assert_same(y[0], y[1]);
    /* by way of sv_video_conv, added in place */
    sv_video_conv conv;
    assert_ok(c, sv_video_conv_prepare(c, &conv, weight, bias, k, h, w));
    y[2] = blank(c, rows, out);
    memcpy(y[2].data, add.data, sizeof(float) * count_of(add));
    contexts[0]->weights = contexts[1]->weights = NULL;
    assert_ok(c, sv_video_conv_run(c, &conv, y[2], x, y[2], SV_MAP_gelu_tanh));
    assert_near("sv_video_conv", y[2], want, 5e-5);
    sv_arena_free(&arena);
    free(want);
}
END_TEST

/* Large maps go through Winograd's transform, which must agree. */
START_TEST(convolution_of_large_maps)
{
    test_rng rng = {9};
    sv_ctx *c = contexts[1];
    enum { H = 97, W = 101, IN = 8, OUT = 12, MAPS = 2 };
    sv_tensor x = random_rows(c, &rng, MAPS * H * W, IN), weight = random_rows(c, &rng, 9 * IN, OUT),
              bias = random_rows(c, &rng, 1, OUT), y[2];
    sv_arena arena;
    sv_arena_init(&arena, "test", c->device);
    c->weights = &arena;
    sv_map_conv_weights direct;
    sv_video_conv conv;
    assert_ok(c, sv_map_conv_prepare(c, &direct, weight, bias, 3, H, W));
    assert_ok(c, sv_video_conv_prepare(c, &conv, weight, bias, 3, H, W));
    ck_assert(conv.chain != NULL);
    c->weights = NULL;
    for (int add = 0; add < 2; add++) {
        for (int i = 0; i < 2; i++) y[i] = blank(c, MAPS * H * W, OUT);
        for (int i = 0; i < 2 && add; i++) memset(y[i].data, 0, sizeof(float) * count_of(y[i]));
        assert_ok(c, sv_map_conv(c, y[0], x, &direct, add ? y[0] : SV_NONE, SV_MAP_relu));
        assert_ok(c, sv_video_conv_run(c, &conv, y[1], x, add ? y[1] : SV_NONE, SV_MAP_relu));
        assert_close("large map", sv_f32(y[1]), sv_f32(y[0]), count_of(y[0]), 1e-4, 1e-5);
    }
    sv_arena_free(&arena);
}
END_TEST

/* ---- norms, means, sizes -------------------------------------------------------------------------------- */

START_TEST(group_norm)
{
    static const struct {
        int maps, cells, channels, groups;
    } of[] = {{1, 35, 6, 3}, {3, 256, 32, 32}, {2, 480, 33, 11}, {1, 64, 128, 8}, {2, 1, 4, 1}};
    test_rng rng = {(uint64_t)_i + 30};
    sv_ctx *c = contexts[0];
    const int maps = of[_i].maps, cells = of[_i].cells, channels = of[_i].channels, groups = of[_i].groups;
    const int width = channels / groups;
    sv_tensor x = random_rows(c, &rng, maps * cells, channels), weight = random_rows(c, &rng, 1, channels),
              bias = random_rows(c, &rng, 1, channels), y[2];
    for (size_t i = 0; i < count_of(x); i++)
        sv_f32(x)[i] += 30; /* a mean far from zero must not cost digits */
    double *want = malloc(sizeof *want * count_of(x));
    for (int m = 0; m < maps; m++)
        for (int g = 0; g < groups; g++) {
            double sum = 0, squares = 0;
            const double n = (double)cells * width;
            for (int pass = 0; pass < 2; pass++)
                for (int i = 0; i < cells; i++)
                    for (int k = g * width; k < (g + 1) * width; k++) {
                        const double v = (double)sv_f32(x)[(m * cells + i) * channels + k];
                        if (pass == 0) sum += v;
                        if (pass == 1) squares += (v - sum / n) * (v - sum / n);
                    }
            for (int i = 0; i < cells; i++)
                for (int k = g * width; k < (g + 1) * width; k++) {
                    const int at = (m * cells + i) * channels + k;
                    const double unit = ((double)sv_f32(x)[at] - sum / n) / sqrt(squares / n + 1e-6);
                    want[at] =
                        oracle_map(SV_MAP_elu, unit * (double)sv_f32(weight)[k] + (double)sv_f32(bias)[k], 0);
                }
        }
    for (int t = 0; t < 2; t++) {
        y[t] = blank(c, maps * cells, channels);
        assert_ok(contexts[t],
                  sv_map_norm(contexts[t], y[t], x, weight, bias, cells, groups, 1e-6f, SV_MAP_elu));
    }
    /* a float32 of 30 has 2e-6 */
    assert_near("map_norm", y[0], want, cells * width > 1 ? 1e-5 : 2e-3);
    assert_same(y[0], y[1]);
    assert_ok(c, sv_map_norm(c, x, x, weight, bias, cells, groups, 1e-6f, SV_MAP_elu));
    assert_same(x, y[0]);
    free(want);
}
END_TEST

START_TEST(means_gates_and_sizes)
{
    test_rng rng = {50};
    enum { MAPS = 3, H = 6, W = 10, C = 37, CELLS = H * W };
    sv_tensor x = random_rows(contexts[0], &rng, MAPS * CELLS, C), mean[2], gated[2], half[2], twice[2];
    for (int t = 0; t < 2; t++) {
        sv_ctx *c = contexts[t];
        mean[t] = blank(c, MAPS, C);
        gated[t] = blank(c, MAPS * CELLS, C);
        half[t] = blank(c, MAPS * CELLS / 4, C);
        twice[t] = blank(c, MAPS * CELLS * 4, C);
        assert_ok(c, sv_map_mean(c, mean[t], x, CELLS));
        assert_ok(c, sv_map_gate(c, gated[t], x, mean[t], CELLS));
        assert_ok(c, sv_map_half(c, half[t], x, H, W));
        assert_ok(c, sv_map_double(c, twice[t], x, H, W));
    }
    for (int m = 0; m < MAPS; m++)
        for (int k = 0; k < C; k++) {
            double sum = 0;
            for (int i = 0; i < CELLS; i++) sum += (double)sv_f32(x)[(m * CELLS + i) * C + k];
            ck_assert_double_eq_tol(sv_f32(mean[0])[m * C + k], sum / CELLS, 1e-6);
            for (int r = 0; r < H; r++)
                for (int q = 0; q < W; q++) {
                    const float *cell = sv_f32(x) + ((m * H + r) * W + q) * C + k;
                    ck_assert(sv_f32(gated[0])[((m * H + r) * W + q) * C + k] ==
                              *cell * sv_f32(mean[0])[m * C + k]);
                    for (int d = 0; d < 4; d++)
                        ck_assert(
                            sv_f32(twice[0])[((m * 2 * H + 2 * r + d / 2) * 2 * W + 2 * q + d % 2) * C + k] ==
                            *cell);
                    if (r % 2 == 0 && q % 2 == 0)
                        ck_assert_double_eq_tol(
                            sv_f32(half[0])[((m * H / 2 + r / 2) * W / 2 + q / 2) * C + k],
                            ((double)cell[0] + (double)cell[C] + (double)cell[W * C] +
                             (double)cell[W * C + C]) /
                                4,
                            1e-6);
                }
        }
    assert_same(mean[0], mean[1]);
    assert_same(gated[0], gated[1]);
    assert_same(half[0], half[1]);
    assert_same(twice[0], twice[1]);
    assert_fails(contexts[0], sv_map_half(contexts[0], half[0], x, 5, 12), SV_BAD_SHAPE, "halved");
}
END_TEST

/* ---- scan ----------------------------------------------------------------------------------------------- */

START_TEST(scan_over_frames)
{
    test_rng rng = {70};
    enum { T = 11, M = 50, P = 19, K = 4 };
    sv_ctx *c = contexts[0];
    sv_tensor x = random_rows(c, &rng, T * M, 2 * P), state = random_rows(c, &rng, M, 2 * P),
              powers = blank(c, K, 2 * P), y[5], last[5];
    double a[P][2], *want = malloc(sizeof *want * count_of(x)), h[M][P][2];
    for (int p = 0; p < P; p++) {
        const double size = rng_uniform(&rng, 0.5, 1), angle = rng_uniform(&rng, -3, 3);
        for (int k = 0; k < K; k++) {
            sv_f32(powers)[k * 2 * P + p] = (float)(pow(size, k + 1) * cos(angle * (k + 1)));
            sv_f32(powers)[k * 2 * P + P + p] = (float)(pow(size, k + 1) * sin(angle * (k + 1)));
        }
        a[p][0] = (double)sv_f32(powers)[p];
        a[p][1] = (double)sv_f32(powers)[P + p];
    }
    for (int t = 0; t < T; t++)
        for (int i = 0; i < M; i++)
            for (int p = 0; p < P; p++) {
                const float *u = sv_f32(x) + (t * M + i) * 2 * P, *s = sv_f32(state) + i * 2 * P;
                const double re = t ? h[i][p][0] : (double)s[p], im = t ? h[i][p][1] : (double)s[P + p];
                h[i][p][0] = a[p][0] * re - a[p][1] * im + (double)u[p];
                h[i][p][1] = a[p][0] * im + a[p][1] * re + (double)u[P + p];
                want[(t * M + i) * 2 * P + p] = h[i][p][0];
                want[(t * M + i) * 2 * P + P + p] = h[i][p][1];
            }
    sv_tensor first = powers;
    first.dim[0] = 1;
    for (int k = 0; k < 4; k++) {
        sv_ctx *on = contexts[k % 2];
        y[k] = blank(c, T * M, 2 * P);
        last[k] = blank(c, M, 2 * P);
        assert_ok(on, sv_map_scan(on, y[k], x, k < 2 ? first : powers, T, state, last[k]));
        assert_near("map_scan", y[k], want, 3e-6);
        ck_assert_mem_eq(last[k].data, sv_f32(y[k]) + (T - 1) * M * 2 * P, sizeof(float) * M * 2 * P);
    }
    assert_same(y[0], y[1]);
    assert_same(y[2], y[3]);
    /* walked, a clip is its frames one by one, in place and with the state in place */
    sv_tensor frame = x, carried = state;
    for (int t = 0; t < T; t++) {
        frame = sv_view(sv_f32(x) + (size_t)t * M * 2 * P, SV_F32, M, 2 * P);
        assert_ok(c, sv_map_scan(c, frame, frame, first, 1, carried, carried));
    }
    assert_same(x, y[0]);
    assert_same(carried, last[0]);
    free(want);
}
END_TEST

/* ---- warp ----------------------------------------------------------------------------------------------- */

static double cell_at(sv_tensor x, int h, int w, int sample, int row, int column, int k)
{
    if (row < 0 || row >= h || column < 0 || column >= w) return 0;
    return (double)sv_f32(x)[((sample * h + row) * w + column) * x.dim[1] + k];
}

START_TEST(warp)
{
    test_rng rng = {90};
    enum { B = 3, H = 9, W = 14, C = 21 };
    sv_ctx *c = contexts[0];
    sv_tensor x = random_rows(c, &rng, B * H * W, C), motion = blank(c, B, 8), y[2];
    const float rows[B][8] = {{0.9f, -0.2f, 1.7f, 0.2f, 0.9f, -2.3f, 1, 0},
                              {1, 0, 3, 0, 1, -2, 1, 0}, /* whole cells: exact copies */
                              {1, 0, 0, 0, 1, 0, 0, 0}}; /* afresh, whatever the state holds */
    memcpy(motion.data, rows, sizeof rows);
    for (int i = 0; i < H * W * C; i++) sv_f32(x)[2 * H * W * C + i] = NAN;
    for (int t = 0; t < 2; t++) {
        y[t] = blank(c, B * H * W, C);
        assert_ok(contexts[t], sv_map_warp(contexts[t], y[t], x, motion, H, W));
    }
    assert_same(y[0], y[1]);
    for (int r = 0; r < H; r++)
        for (int q = 0; q < W; q++)
            for (int k = 0; k < C; k++) {
                const double column = (double)(rows[0][0] * (float)q + rows[0][1] * (float)r + rows[0][2]),
                             row = (double)(rows[0][3] * (float)q + rows[0][4] * (float)r + rows[0][5]);
                const int left = (int)floor(column), top = (int)floor(row);
                double want = 0;
                for (int d = 0; d < 4; d++)
                    want += (d % 2 ? column - left : left + 1 - column) *
                            (d / 2 ? row - top : top + 1 - row) *
                            cell_at(x, H, W, 0, top + d / 2, left + d % 2, k);
                ck_assert_double_eq_tol(sv_f32(y[0])[(r * W + q) * C + k], want, 1e-5);
                ck_assert(sv_f32(y[0])[((H + r) * W + q) * C + k] ==
                          (float)cell_at(x, H, W, 1, r - 2, q + 3, k));
                ck_assert(sv_f32(y[0])[((2 * H + r) * W + q) * C + k] == 0);
            }
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("maps");
    TCase *tests = tcase_create("maps");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, convolution, 0, sizeof shapes / sizeof *shapes);
    tcase_add_test(tests, convolution_of_large_maps);
    tcase_add_loop_test(tests, group_norm, 0, 5);
    tcase_add_test(tests, means_gates_and_sizes);
    tcase_add_test(tests, scan_over_frames);
    tcase_add_test(tests, warp);
    suite_add_tcase(s, tests);
    return s;
}

int main(void)
{
    return run_suite(suite(), true);
}
