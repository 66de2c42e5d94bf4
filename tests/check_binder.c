/* SPDX-License-Identifier: Apache-2.0
 *
 * Binding: what is asked for arrives, folded and counted; what does not fit is listed.
 */
#include "support.h"
#include "support_pth.h"

#include "perception/model/binder.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sv_ctx *c;
static sv_arena arena;
static sv_weights *weights;
static test_rng rng;
static char logged[16384];

static void keep_log(void *user, sv_log_level level, const char *sentence)
{
    (void)user, (void)level;
    const size_t used = strlen(logged);
    snprintf(logged + used, sizeof logged - used, "%s\n", sentence);
}

static void setup(void)
{
    c = test_context(1);
    c->log = keep_log;
    logged[0] = '\0';
    sv_arena_init(&arena, "model", c->device);
    c->weights = &arena;
    weights = sv_weights_new();
    ck_assert_ptr_nonnull(weights);
    rng.state = 11;
}

static void teardown(void)
{
    sv_weights_free(weights);
    sv_arena_free(&arena);
    sv_ctx_close(c);
}

/* Random numbers under 'name', in [low, high). */
static sv_tensor add(const char *name, int ndim, const int32_t *dims, double low, double high)
{
    sv_tensor t = {.ndim = (uint8_t)ndim, .dtype = SV_F32};
    for (int i = 0; i < ndim; i++) t.dim[i] = dims[i];
    t.pitch = (int32_t)sv_row_elements(t);
    const int64_t count = (int64_t)t.dim[0] * t.pitch;
    float *values = malloc((size_t)count * sizeof *values);
    ck_assert_ptr_nonnull(values);
    for (int64_t i = 0; i < count; i++) values[i] = (float)rng_uniform(&rng, low, high);
    t.data = values;
    assert_ok(c, sv_weights_add(c, weights, name, t));
    free(values);
    return sv_weights_find(weights, name);
}
#define DIMS(...)                                                                                            \
    (int)(sizeof(int32_t[]){__VA_ARGS__} / sizeof(int32_t)), (const int32_t[])                               \
    {                                                                                                        \
        __VA_ARGS__                                                                                          \
    }

static void add_counter(const char *name)
{
    int64_t one = 1;
    assert_ok(c, sv_weights_add(c, weights, name, sv_view(&one, SV_I64, 1, 1)));
}

/* 'prefix'.weight, .bias, .running_mean, .running_var of n channels; scale and shift by the textbook. */
static void add_norm(const char *prefix, int n, double eps, double *scale, double *shift)
{
    static const char *const parts[4] = {"weight", "bias", "running_mean", "running_var"};
    sv_tensor t[4];
    for (int i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.%s", prefix, parts[i]);
        t[i] = add(name, DIMS(n), i == 3 ? 0.1 : -2, 2);
    }
    for (int i = 0; i < n; i++) {
        scale[i] = (double)sv_f32(t[0])[i] / sqrt((double)sv_f32(t[3])[i] + eps);
        shift[i] = (double)sv_f32(t[1])[i] - (double)sv_f32(t[2])[i] * scale[i];
    }
    char name[64];
    snprintf(name, sizeof name, "%s.num_batches_tracked", prefix);
    add_counter(name);
}

START_TEST(everything_asked_for_arrives)
{
    const sv_tensor w = add("net.layer_3.lin.weight", DIMS(5, 7), -1, 1),
                    bias = add("net.layer_3.lin.bias", DIMS(5), -1, 1);
    const sv_tensor taps = add("net.layer_3.taps", DIMS(6, 1, 4), -1, 1),
                    gamma = add("net.g", DIMS(1, 1, 8), -1, 1);
    const sv_tensor kernel = add("net.k", DIMS(2, 3, 3, 3, 4), -1, 1);
    add_counter("global_step");
    sv_binder *b = NULL;
    assert_ok(c, sv_binder_open(c, weights, &b));
    ck_assert_ptr_eq(sv_binder_ctx(b), c);
    sv_binder_push(b, "net");
    sv_binder_push(b, "layer_%d", 3);
    sv_linear_weights linear;
    assert_ok(c, sv_bind_linear(b, &linear, "lin", 5, 7, true));
    ck_assert(linear.n == 5 && linear.k == 7);
    ck_assert_int_eq(memcmp(linear.w.data, w.data, 35 * sizeof(float)), 0);
    ck_assert_int_eq(memcmp(linear.bias.data, bias.data, 5 * sizeof(float)), 0);
    sv_tensor matrix, vector, host, none;
    assert_ok(c, sv_bind_matrix(b, &matrix, "taps", SV_INIT(0), 6, 4)); /* the size of 1 does not matter */
    ck_assert(matrix.ndim == 2 && matrix.dim[0] == 6 && matrix.dim[1] == 4 && matrix.pitch == 4 &&
              matrix.data != taps.data);
    ck_assert_int_eq(memcmp(matrix.data, taps.data, 24 * sizeof(float)), 0);
    sv_binder_pop(b);
    assert_ok(c, sv_bind_vector(b, &vector, "g", SV_INIT(0), 8));
    ck_assert(vector.ndim == 1 && vector.dim[0] == 8);
    ck_assert_int_eq(memcmp(vector.data, gamma.data, 8 * sizeof(float)), 0);
    assert_ok(c, sv_bind_host(b, &host, "k", SV_INIT(0), DIMS(2, 3, 3, 3, 4)));
    ck_assert(host.data == kernel.data && host.ndim == 5);
    assert_ok(c, sv_bind_host_optional(b, &none, "absent", true, SV_INIT(0), DIMS(2)));
    ck_assert(sv_is_none(none));
    assert_ok(c, sv_bind_host_optional(b, &host, "g", false, SV_INIT(0), DIMS(1, 1, 8)));
    ck_assert(host.data == gamma.data);
    sv_binder_pop(b);
    assert_ok(c, sv_binder_finish(b));
    ck_assert_int_eq(sv_binder_parameters(b),
                     35 + 5 + 24 + 8 + 216); /* 'g' was asked for twice and counts once */
    ck_assert_str_eq(logged, "");
    sv_binder_close(b);
}
END_TEST

START_TEST(all_that_does_not_fit_is_listed_at_once)
{
    add("a.weight", DIMS(4, 3), -1, 1);
    add("flat", DIMS(12), -1, 1);
    add("extra.one", DIMS(2), 0, 1);
    add("extra.two", DIMS(2), 0, 1);
    add_counter("x.num_batches_tracked");
    add_counter("num_batches_tracked");
    add_counter("x.not_num_batches_tracked");
    add_counter("counted");
    const sv_tensor odd = add("odd", DIMS(3), 0, 1), low = add("n.running_var", DIMS(2), -3, -2);
    sv_f32(odd)[1] = NAN;
    (void)low;
    add("n.weight", DIMS(2), 0, 1), add("n.bias", DIMS(2), 0, 1), add("n.running_mean", DIMS(2), 0, 1);
    add("lin.weight", DIMS(2, 2), 0, 1);
    sv_binder *b = NULL;
    assert_ok(c, sv_binder_open(c, weights, &b));
    sv_tensor t;
    sv_linear_weights linear;
    assert_ok(c, sv_bind_linear(b, &linear, "a", 3, 4, true)); /* transposed, and no bias */
    for (int i = 0; i < 12; i++) ck_assert(((float *)linear.w.data)[i] == 0);
    assert_ok(c, sv_bind_matrix(b, &t, "flat", SV_INIT(0), 3, 4)); /* equal counts are not enough */
    assert_ok(c, sv_bind_host(b, &t, "flat", SV_INIT(0), DIMS(1, 12)));
    assert_ok(c, sv_bind_vector(b, &t, "counted", SV_INIT(0), 1)); /* integers are no weights */
    assert_ok(c, sv_bind_vector(b, &t, "odd", SV_INIT(0), 3));
    for (int i = 0; i < 5; i++) {
        sv_binder_push(b, "deep.%d", i);
        assert_ok(c, sv_bind_host(b, &t, "w", SV_INIT(3), DIMS(2, 2)));
        ck_assert(t.ndim == 2 && sv_f32(t)[3] == 0);
        sv_binder_pop(b);
    }
    assert_ok(c, sv_bind_linear_batchnorm(b, &linear, "lin", "n", 1e-3f, 2, 2, false));
    ck_assert_int_eq(sv_binder_finish(b), SV_BAD_INPUT);
    const char *message = sv_error_message(c);
    ck_assert_ptr_nonnull(strstr(message, "6 missing (a.bias [3], deep.0.w [2,2], deep.1.w [2,2], ...)"));
    ck_assert_ptr_nonnull(
        strstr(message, "3 of another shape (a.weight [4,3], expected [3,4], flat [12], expected [3,4]"));
    ck_assert_ptr_nonnull(
        strstr(message, "2 with NaN or infinite numbers (odd, n.running_var (a variance below 0))"));
    ck_assert_ptr_nonnull(strstr(
        message, "3 that the configuration does not use (extra.one, extra.two, x.not_num_batches_tracked)"));
    ck_assert_ptr_nonnull(strstr(logged, "missing: deep.4.w [2,2]\n"));
    ck_assert_ptr_nonnull(strstr(logged, "of another shape: counted [1,1] of integers, expected [1]\n"));
    ck_assert_ptr_nonnull(strstr(logged, "not used by the configuration: extra.two\n"));
    ck_assert_ptr_null(strstr(logged, "global_step"));
    sv_error_clear(c);
    sv_binder_close(b);
}
END_TEST

START_TEST(old_spconv_layout_is_rearranged)
{
    static const int32_t shapes[][2] = {{8, 5}, {8, 8}, {3, 3}, {3, 8}, {1, 4}};
    for (size_t n = 0; n < sizeof shapes / sizeof shapes[0]; n++) {
        const int out = shapes[n][0], in = shapes[n][1];
        const bool equal = out == 3 && in == 3; /* both layouts have the same shape: read as spconv 2.x */
        char name[16];
        snprintf(name, sizeof name, "conv%zu", n);
        const sv_tensor old = add(name, DIMS(3, 3, 3, in, out), -1, 1);
        sv_binder *b = NULL;
        assert_ok(c, sv_binder_open(c, weights, &b));
        sv_tensor t;
        assert_ok(c, sv_bind_host(b, &t, name, SV_INIT(0), DIMS(out, 3, 3, 3, in)));
        ck_assert(t.ndim == 5 && t.dim[0] == out && t.dim[4] == in && t.pitch == 27 * in);
        for (int o = 0; o < out; o++) {
            for (int k = 0; k < 27; k++) {
                for (int i = 0; i < in; i++) {
                    const int from = equal ? (o * 27 + k) * in + i : (k * in + i) * out + o;
                    ck_assert(sv_f32(t)[(o * 27 + k) * in + i] == sv_f32(old)[from]);
                }
            }
        }
        logged[0] = '\0';
        (void)sv_binder_finish(b); /* the tensors of earlier rounds are left over */
        sv_error_clear(c);
        ck_assert_int_eq(strstr(logged, "1 convolution weights of spconv 1.x layout were rearranged") != NULL,
                         !equal);
        sv_binder_close(b);
    }
}
END_TEST

/* y = norm(W x + b) of random x, by the definition and by the folded weights. */
START_TEST(batchnorm_is_folded_into_linear)
{
    enum { N = 6, K = 9 };
    const bool bias = _i == 1;
    const float eps = 1e-3f;
    double scale[N], shift[N];
    const sv_tensor w = add("l.weight", DIMS(N, K, 1, 1), -1, 1);
    const sv_tensor offset = bias ? add("l.bias", DIMS(N), -1, 1) : SV_NONE;
    add_norm("bn", N, (double)eps, scale, shift);
    sv_binder *b = NULL;
    assert_ok(c, sv_binder_open(c, weights, &b));
    sv_linear_weights linear;
    assert_ok(c, sv_bind_linear_batchnorm(b, &linear, "l", "bn", eps, N, K, bias));
    assert_ok(c, sv_binder_finish(b));
    ck_assert_int_eq(sv_binder_parameters(b), N * K + 2 * N + (bias ? N : 0)); /* statistics do not count */
    for (int o = 0; o < N; o++) {
        double expected = bias ? (double)sv_f32(offset)[o] : 0,
               folded = (double)((float *)linear.bias.data)[o];
        for (int k = 0; k < K; k++) {
            const double x = rng_normal(&rng);
            expected += x * (double)sv_f32(w)[o * K + k];
            folded += x * (double)((float *)linear.w.data)[o * K + k];
        }
        ck_assert_double_eq_tol(folded, expected * scale[o] + shift[o], 1e-5);
    }
    sv_binder_close(b);
}
END_TEST

START_TEST(batchnorm_is_folded_into_convolutions)
{
    enum { OUT = 4, IN = 3, K = 2 };
    const bool transposed = _i & 1, bias = _i & 2, norm = _i & 4;
    double scale[OUT] = {1, 1, 1, 1}, shift[OUT] = {0};
    const sv_tensor w = transposed ? add("c.weight", DIMS(IN, OUT, K, K), -1, 1)
                                   : add("c.weight", DIMS(OUT, IN, K, K), -1, 1);
    const sv_tensor offset = bias ? add("c.bias", DIMS(OUT), -1, 1) : SV_NONE;
    if (norm) add_norm("bn", OUT, 1e-5, scale, shift);
    sv_binder *b = NULL;
    assert_ok(c, sv_binder_open(c, weights, &b));
    const float *got = NULL, *got_bias = NULL;
    assert_ok(c,
              sv_bind_conv(b, &got, &got_bias, "c", norm ? "bn" : NULL, 1e-5f, OUT, IN, K, transposed, bias));
    assert_ok(c, sv_binder_finish(b));
    ck_assert_int_eq(got_bias != NULL, bias || norm);
    for (int o = 0; o < OUT; o++) {
        for (int i = 0; i < IN; i++) {
            for (int k = 0; k < K * K; k++) {
                const int at = (transposed ? i * OUT + o : o * IN + i) * K * K + k;
                ck_assert_double_eq_tol((double)got[at], (double)sv_f32(w)[at] * scale[o],
                                        1e-6 * fabs(scale[o]));
            }
        }
        if (got_bias)
            ck_assert_double_eq_tol((double)got_bias[o],
                                    shift[o] + (bias ? (double)sv_f32(offset)[o] * scale[o] : 0), 1e-5);
    }
    sv_binder_close(b);
}
END_TEST

static void ask(sv_binder *b, bool backwards)
{
    sv_tensor t;
    sv_linear_weights linear;
    const float *w, *bias;
    for (int i = 0; i < 6; i++) {
        switch (backwards ? 5 - i : i) {
        case 0:
            assert_ok(c, sv_bind_host(b, &t, "range", (sv_init){SV_INIT_LOG_RANGE, 0, 0}, DIMS(3, 16)));
            break;
        case 1:
            assert_ok(c, sv_bind_vector(b, &t, "normal", (sv_init){SV_INIT_NORMAL, 2, 0.5f}, 10000));
            break;
        case 2:
            assert_ok(c, sv_bind_linear(b, &linear, "lin", 40, 100, true));
            break;
        case 3:
            assert_ok(c, sv_bind_conv(b, &w, &bias, "conv", "bn", 1e-3f, 32, 16, 3, false, false));
            break;
        case 4:
            assert_ok(c, sv_bind_host_optional(b, &t, "maybe", true, SV_INIT(0.25f), DIMS(5)));
            break;
        default:
            assert_ok(c, sv_bind_host_optional(b, &t, "never", false, SV_INIT(0), DIMS(5)));
            break;
        }
    }
}

START_TEST(random_weights_follow_seed_and_name)
{
    sv_weights *made[4];
    static const uint64_t seeds[4] = {1, 1, 2, 1};
    for (int i = 0; i < 4; i++) {
        made[i] = sv_weights_new();
        sv_binder *b = NULL;
        assert_ok(c, sv_binder_open_init(c, made[i], seeds[i], &b));
        ask(b, i == 1);
        if (i == 3) ask(b, false); /* asking twice changes nothing */
        assert_ok(c, sv_binder_finish(b));
        ck_assert_int_eq(sv_binder_parameters(b), 48 + 10000 + 4040 + 32 * 16 * 9 + 64 + 5);
        sv_binder_close(b);
    }
    ck_assert_int_eq(sv_weights_count(made[0]), 10);
    for (int k = 0; k < sv_weights_count(made[0]); k++) {
        const sv_tensor t = sv_weights_tensor(made[0], k);
        const char *name = sv_weights_name(made[0], k);
        const size_t count = (size_t)t.dim[0] * (size_t)t.pitch;
        for (int i = 1; i < 4; i++) {
            const bool same = memcmp(t.data, sv_weights_find(made[i], name).data, count * sizeof(float)) == 0;
            ck_assert_msg(same == (i != 2 || strcmp(name, "range") == 0 || strcmp(name, "maybe") == 0),
                          "%s, %d", name, i);
        }
    }
    const float *range = sv_f32(sv_weights_find(made[0], "range")),
                *normal = sv_f32(sv_weights_find(made[0], "normal"));
    for (int i = 0; i < 48; i++) ck_assert_double_eq_tol((double)range[i], log(i % 16 + 1), 1e-6);
    double mean = 0, square = 0;
    for (int i = 0; i < 10000; i++) mean += (double)normal[i] / 10000;
    for (int i = 0; i < 10000; i++) square += ((double)normal[i] - mean) * ((double)normal[i] - mean) / 10000;
    ck_assert_double_eq_tol(mean, 2, 0.02);
    ck_assert_double_eq_tol(sqrt(square), 0.5, 0.02);
    const sv_tensor lin = sv_weights_find(made[0], "lin.weight");
    float low = 0, high = 0;
    for (int i = 0; i < 4000; i++) {
        low = fminf(low, sv_f32(lin)[i]);
        high = fmaxf(high, sv_f32(lin)[i]);
    }
    ck_assert(low >= -0.1f && low < -0.099f && high <= 0.1f && high > 0.099f);

    /* What was made can be bound, and a container with something in it is not filled. */
    sv_binder *b = NULL;
    assert_ok(c, sv_binder_open(c, made[0], &b));
    ask(b, false);
    assert_ok(c, sv_binder_finish(b));
    sv_binder_close(b);
    assert_fails(c, sv_binder_open_init(c, made[0], 1, &b), SV_USAGE, "weights already");
    ck_assert_ptr_null(b);
    for (int i = 0; i < 4; i++) sv_weights_free(made[i]);
}
END_TEST

START_TEST(a_long_list_is_shortened)
{
    sv_binder *b = NULL;
    sv_tensor t;
    assert_ok(c, sv_binder_open(c, weights, &b));
    char name[200];
    for (int i = 0; i < 5; i++) {
        memset(name, 'a' + i, 199);
        name[199] = '\0';
        assert_ok(c, sv_bind_host(b, &t, name, SV_INIT(0), DIMS(1, 2, 3, 4, 5)));
    }
    assert_fails(c, sv_binder_finish(b), SV_BAD_INPUT, "5 missing (aaaa");
    sv_binder_close(b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("binder");
    TCase *tests = tcase_create("binder");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, everything_asked_for_arrives);
    tcase_add_test(tests, all_that_does_not_fit_is_listed_at_once);
    tcase_add_test(tests, old_spconv_layout_is_rearranged);
    tcase_add_loop_test(tests, batchnorm_is_folded_into_linear, 0, 2);
    tcase_add_loop_test(tests, batchnorm_is_folded_into_convolutions, 0, 8);
    tcase_add_test(tests, random_weights_follow_seed_and_name);
    tcase_add_test(tests, a_long_list_is_shortened);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
