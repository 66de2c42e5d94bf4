/* SPDX-License-Identifier: Apache-2.0
 *
 * The m_* functions of simd_math.h against long double: the worst error over dense samples, in units of the
 * last place of the exact result, for every instruction set the processor has.
 */
#include "simd_math_table.h"
#include "support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { SAMPLES = 1 << 16 };

static const simd_math_table *const tables[] = {&simd_math_table_scalar, &simd_math_table_avx2,
                                                &simd_math_table_avx512};

static long double exact_sigmoid(long double x)
{
    return 1 / (1 + expl(-x));
}
static long double exact_softplus(long double x)
{
    return x > 20 ? x : log1pl(expl(x));
}

typedef struct function {
    const char *name;
    size_t field;
    long double (*exact)(long double x);
    float from, to;   /* sampled range */
    bool logarithmic; /* sample the exponent evenly as well; for ranges on one side of 0 */
    double bound;     /* ulp */
} function;

#define FIELD(name) offsetof(simd_math_table, name)
static const function functions[] = {
    {"exp", FIELD(exp), expl, -87.0f, 88.7f, false, 1.0},
    {"exp, denormal results", FIELD(exp), expl, -103.9f, -87.0f, false, 1.0},
    {"exp, small", FIELD(exp), expl, 1e-10f, 1.0f, true, 1.0},
    {"sigmoid", FIELD(sigmoid), exact_sigmoid, -87.0f, 100.0f, false, 2.0},
    {"tanh", FIELD(tanh), tanhl, -12.0f, 12.0f, false, 1.5},
    {"tanh, small", FIELD(tanh), tanhl, 1e-30f, 1.0f, true, 1.5},
    {"erf", FIELD(erf), erfl, -6.0f, 6.0f, false, 1.25},
    {"erf, small", FIELD(erf), erfl, 1e-30f, 1.0f, true, 1.25},
    {"log", FIELD(log), logl, 1e-44f, 3e38f, true, 1.0},
    {"log, near 1", FIELD(log), logl, 0.5f, 2.0f, false, 1.0},
    {"log1p", FIELD(log1p), log1pl, 1e-30f, 3e38f, true, 1.5},
    {"log1p, below 0", FIELD(log1p), log1pl, -0.99999f, 0.0f, false, 1.5},
    {"log1p_unit", FIELD(log1p_unit), log1pl, 1e-30f, 1.0f, true, 1.25},
    {"softplus", FIELD(softplus), exact_softplus, -86.0f, 25.0f, false, 1.75},
};

/* Distance of neighbouring floats at 'exact'. */
static long double ulp(long double exact)
{
    int exponent;
    frexpl(exact, &exponent);
    return ldexpl(1.0L, exponent - 24 < -149 ? -149 : exponent - 24);
}

static void call(const simd_math_table *table, size_t field, float *y, const float *x, int n)
{
    void (*run)(float *, const float *, int);
    memcpy(&run, (const char *)table + field, sizeof run);
    run(y, x, n);
}

START_TEST(errors_stay_within_their_bounds)
{
    static float x[SAMPLES], y[SAMPLES];
    const function *f = &functions[_i];
    test_rng rng = {.state = (uint64_t)_i};
    for (int i = 0; i < SAMPLES; i++) {
        const double even = rng_uniform(&rng, (double)f->from, (double)f->to);
        const double steps = f->logarithmic ? rng_uniform(&rng, log((double)f->from), log((double)f->to)) : 0;
        x[i] = (float)(f->logarithmic ? exp(steps) : even);
    }
    x[0] = f->from;
    x[1] = f->to;
    for (int isa = 0; isa <= (int)sv_simd_isa(); isa++) {
        call(tables[isa], f->field, y, x, SAMPLES);
        double worst = 0;
        int at = 0;
        for (int i = 0; i < SAMPLES; i++) {
            const long double exact = f->exact((long double)x[i]);
            const double error = (double)(fabsl((long double)y[i] - exact) / ulp(exact));
            if (!(error <= worst)) {
                worst = error;
                at = i;
            }
        }
        printf("%-22s %-7s %.2f ulp at %.9g\n", f->name, sv_isa_name((sv_isa)isa), worst, (double)x[at]);
        ck_assert_msg(worst <= f->bound, "%s (%s): %.2f ulp at %.9g: %.9g instead of %.9Lg", f->name,
                      sv_isa_name((sv_isa)isa), worst, (double)x[at], (double)y[at],
                      f->exact((long double)x[at]));
    }
}
END_TEST

static bool same(float a, float b)
{
    return isnan(b) ? isnan(a) : a == b && signbit(a) == signbit(b);
}

START_TEST(special_values_are_exact)
{
    static const float in = INFINITY, nan_ = NAN;
    static const struct {
        size_t field;
        float x, y;
    } cases[] = {
        {FIELD(exp), in, in},
        {FIELD(exp), -in, 0},
        {FIELD(exp), nan_, nan_},
        {FIELD(exp), 0, 1},
        {FIELD(exp), 89, in},
        {FIELD(exp), -104, 0},
        {FIELD(exp), 1e38f, in},
        {FIELD(exp), -1e38f, 0},
        {FIELD(sigmoid), in, 1},
        {FIELD(sigmoid), -in, 0},
        {FIELD(sigmoid), nan_, nan_},
        {FIELD(sigmoid), 0, 0.5f},
        {FIELD(tanh), in, 1},
        {FIELD(tanh), -in, -1},
        {FIELD(tanh), nan_, nan_},
        {FIELD(tanh), 0, 0},
        {FIELD(tanh), -0.0f, -0.0f},
        {FIELD(tanh), 3e38f, 1},
        {FIELD(erf), in, 1},
        {FIELD(erf), -in, -1},
        {FIELD(erf), nan_, nan_},
        {FIELD(erf), 0, 0},
        {FIELD(erf), -0.0f, -0.0f},
        {FIELD(erf), -3e38f, -1},
        {FIELD(log), 0, -in},
        {FIELD(log), 1, 0},
        {FIELD(log), -1, nan_},
        {FIELD(log), in, in},
        {FIELD(log), nan_, nan_},
        {FIELD(log), -in, nan_},
        {FIELD(log1p), -1, -in},
        {FIELD(log1p), 0, 0},
        {FIELD(log1p), in, in},
        {FIELD(log1p), nan_, nan_},
        {FIELD(log1p), -2, nan_},
        {FIELD(log1p), 1e-30f, 1e-30f},
        {FIELD(softplus), in, in},
        {FIELD(softplus), -in, 0},
        {FIELD(softplus), nan_, nan_},
        {FIELD(softplus), 20.5f, 20.5f},
        {FIELD(softplus), 1e38f, 1e38f},
    };
    for (int isa = 0; isa <= (int)sv_simd_isa(); isa++)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            float y;
            call(tables[isa], cases[i].field, &y, &cases[i].x, 1);
            ck_assert_msg(same(y, cases[i].y), "case %zu (%s): f(%g) = %g instead of %g", i,
                          sv_isa_name((sv_isa)isa), (double)cases[i].x, (double)y, (double)cases[i].y);
        }
}
END_TEST

START_TEST(lanes_agree)
{
    /* a value must not depend on the lane or on how full the vector is */
    float x[37], whole[37], single;
    test_rng rng = {.state = 5};
    rng_fill(&rng, x, 37, 3);
    for (int i = 0; i < 37; i++) x[i] = fabsf(x[i]);
    for (int isa = 0; isa <= (int)sv_simd_isa(); isa++)
        for (size_t f = 0; f < sizeof functions / sizeof functions[0]; f++) {
            call(tables[isa], functions[f].field, whole, x, 37);
            for (int i = 0; i < 37; i++) {
                call(tables[isa], functions[f].field, &single, &x[i], 1);
                ck_assert_mem_eq(&single, &whole[i], sizeof single);
            }
        }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("simd");
    TCase *tests = tcase_create("simd");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, errors_stay_within_their_bounds, 0, sizeof functions / sizeof functions[0]);
    tcase_add_test(tests, special_values_are_exact);
    tcase_add_test(tests, lanes_agree);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
