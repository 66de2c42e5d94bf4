/* SPDX-License-Identifier: Apache-2.0
 *
 * The Mamba operator: recordings of the official code, a double-precision oracle on random shapes, binding.
 */
#include "oracle_scan.h"
#include "support_operator.h"

#include <math.h>
#include <string.h>

static const char *const names[] = {
    "mamba.in_proj.weight",
    "mamba.out_proj.weight",
    "mamba.conv1d.weight",
    "mamba.conv1d.bias",
    "mamba.conv1d_b.weight",
    "mamba.conv1d_b.bias",
    "mamba.x_proj.weight",
    "mamba.x_proj_b.weight",
    "mamba.dt_proj.weight",
    "mamba.dt_proj_b.weight",
    "mamba.dt_proj.bias",
    "mamba.dt_proj_b.bias",
    "mamba.A_log",
    "mamba.A_b_log",
    "mamba.D",
    "mamba.D_b",
    "norm.weight",
    "norm.bias",
};
enum { NAMES = sizeof names / sizeof names[0] };

static const operator_setting mamba = {
    "Mamba", "{d_state: 16, d_conv: 4, expand: 2, drop_path: 0.2, with_cp: True}", 64, 1, 0};

/* ---- recordings ---------------------------------------------------------------------------------- */

static recorded_as mamba_layout(const char *name)
{
    return (recorded_as){.reversed = strncmp(name, "bwd", 3) == 0,
                         .channels_first = strncmp(name, "mixer", 5) != 0};
}

START_TEST(official_recordings)
{
    operator_equals_recordings("mamba", &mamba, 13, mamba_layout);
}
END_TEST

/* ---- random shapes ------------------------------------------------------------------------------- */

static void mamba_oracle(double *y, const double *x, const sv_weights *weights,
                         const operator_setting *setting, int groups, int length)
{
    const sv_tensor a_log = sv_weights_find(weights, "mamba.A_log"),
                    taps = sv_weights_find(weights, "mamba.conv1d.weight");
    const int width = setting->channels;
    const float *w[NAMES];
    for (int i = 0; i < NAMES; i++) {
        w[i] = sv_weights_find(weights, names[i]).data;
        ck_assert_msg(w[i] != NULL, "no %s", names[i]);
    }
    oracle_mamba m = {.width = width,
                      .inner = a_log.dim[0],
                      .rank = (width + 15) / 16,
                      .states = a_log.dim[1],
                      .taps = taps.dim[2]};
    m.in_proj = w[0], m.out_proj = w[1], m.norm_weight = w[16], m.norm_bias = w[17];
    for (int i = 0; i < 2; i++)
        m.direction[i] = (oracle_direction){.conv_weight = w[2 + 2 * i],
                                            .conv_bias = w[3 + 2 * i],
                                            .x_proj = w[6 + i],
                                            .dt_weight = w[8 + i],
                                            .dt_bias = w[10 + i],
                                            .a_log = w[12 + i],
                                            .d = w[14 + i]};
    oracle_mamba_block(y, x, &m, groups, length);
}

START_TEST(random_shapes_equal_the_oracle)
{
    static const struct {
        operator_setting setting;
        int length;
    } shapes[] = {
        {{"Mamba", "{d_state: 16, d_conv: 4, expand: 2, drop_path: 0.2, with_cp: True}", 64, 1, 0}, 32},
        {{"Mamba", "{d_state: 16, d_conv: 4, expand: 2}", 8, 1, 0}, 100},
        {{"Mamba", "{d_state: 5, d_conv: 3, expand: 1}", 17, 1, 0}, 70},
        {{"Mamba", "{d_state: 1, d_conv: 1, expand: 3}", 33, 1, 0}, 9},
        {{"Mamba", "{d_state: 64, d_conv: 8, expand: 2}", 4, 1, 0}, 1},
        {{"Mamba", "{d_state: 3, d_conv: 2, expand: 2}", 24, 1, 0}, 65},
    };
    test_rng rng = {21};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        operator_equals_oracle(&shapes[i].setting, shapes[i].length, mamba_oracle, 2e-5, &rng);
}
END_TEST

/* ---- binding ------------------------------------------------------------------------------------- */

START_TEST(init_follows_the_paper)
{
    test_operator op = operator_open(&mamba, 1);
    sv_weights *weights = sv_weights_new();
    operator_bind(&op, weights, 5);
    const float *a_log = sv_weights_find(weights, "mamba.A_b_log").data,
                *d = sv_weights_find(weights, "mamba.D").data;
    const sv_tensor bias = sv_weights_find(weights, "mamba.dt_proj.bias");
    ck_assert_int_eq(bias.dim[0], 128);
    int slow = 0;
    for (int i = 0; i < 128; i++) {
        ck_assert_double_eq_tol((double)a_log[i * 16 + i % 16], log(1.0 + i % 16), 1e-6);
        ck_assert_float_eq(d[i], 1);
        const double step = oracle_softplus((double)sv_f32(bias)[i]);
        ck_assert(step > 0.000999 && step < 0.1001);
        slow += step < 0.01; /* half of them, on a logarithmic scale */
    }
    ck_assert(slow > 40 && slow < 88);
    ck_assert_int_eq(sv_weights_find(weights, "mamba.conv1d.weight").ndim, 3);
    sv_weights_free(weights);
    operator_close(&op);
}
END_TEST

START_TEST(missing_tensors_are_counted)
{
    operator_misses_tensors(&mamba, "18 ");
}
END_TEST

START_TEST(settings_are_checked)
{
    operator_refuses(&(operator_setting){"Mamba", "{d_state: 65}", 16, 1, 0}, SV_UNSUPPORTED,
                     "d_state is 65");
    operator_refuses(&(operator_setting){"Mamba", "{d_conv: 0}", 16, 1, 0}, SV_UNSUPPORTED, "d_conv is 0");
    operator_refuses(&(operator_setting){"Mamba", "{expand: many}", 16, 1, 0}, SV_BAD_INPUT, "expand");
}
END_TEST

START_TEST(operators_are_found_by_name)
{
    ck_assert_ptr_eq(sv_operator_find("Mamba"), &sv_operator_mamba);
    ck_assert_ptr_null(sv_operator_find("mamba2"));
    int count = 0;
    while (sv_operator_at(count)) count++;
    ck_assert_int_ge(count, 1);
    ck_assert_ptr_null(sv_operator_at(-1));
    ck_assert_ptr_null(sv_operator_at(count + 1));
}
END_TEST

START_TEST(carried_state_is_refused)
{
    operator_refuses_state(&mamba, "no state");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mamba");
    TCase *cases = tcase_create("operator");
    tcase_set_timeout(cases, 300);
    tcase_add_test(cases, official_recordings);
    tcase_add_test(cases, random_shapes_equal_the_oracle);
    tcase_add_test(cases, init_follows_the_paper);
    tcase_add_test(cases, missing_tensors_are_counted);
    tcase_add_test(cases, settings_are_checked);
    tcase_add_test(cases, operators_are_found_by_name);
    tcase_add_test(cases, carried_state_is_refused);
    suite_add_tcase(suite, cases);
    return run_suite(suite, true);
}
