/* SPDX-License-Identifier: Apache-2.0
 *
 * The xLSTM and TTT operators: recordings of the official code, double-precision oracles on random shapes,
 * binding and settings.
 */
#include "oracle_gated.h"
#include "support_operator.h"

#include "perception/core/simd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XLSTM "conv_kind: causal1d, drop_path: 0.2, with_cp: True, d_model: 64"
#define TTT   "use_gate: False, drop_path: 0.2, with_cp: True, d_model: 64"

/* Tests run in processes of their own, so that each can have its instruction set. */
static void use_isa(int isa)
{
    ck_assert_int_eq(setenv("SAVANNA_ISA", sv_isa_name((sv_isa)isa), 1), 0);
    if ((int)sv_simd_isa() != isa)
        printf("SKIPPED %s: this process runs %s\n", sv_isa_name((sv_isa)isa), sv_isa_name(sv_simd_isa()));
}

/* ---- recordings ------------------------------------------------------------------------------------ */

static recorded_as xlstm_layout(const char *name)
{
    return (recorded_as){.reversed = strncmp(name, "rowwise_from_bot_right/", 23) == 0 &&
                                     strstr(name, "layer_out") == NULL};
}

static const operator_setting blocks[] = {{"xLSTM", "{" XLSTM "}", 64, 1, 0},
                                          {"TTT", "{n_head: 4, " TTT "}", 64, 1, 0}};
enum { BLOCKS = sizeof blocks / sizeof blocks[0] };

START_TEST(official_recordings)
{
    use_isa(_i);
    operator_equals_recordings("xlstm", &blocks[0], 14, xlstm_layout);
    operator_equals_recordings("ttt", &blocks[1], 6, NULL);
}
END_TEST

/* ---- random shapes --------------------------------------------------------------------------------- */

static void xlstm_oracle(double *y, const double *x, const sv_weights *weights,
                         const operator_setting *setting, int groups, int length)
{
    oracle_xlstm_block(y, x, weights, groups, length, setting->channels);
}

static void ttt_oracle(double *y, const double *x, const sv_weights *weights, const operator_setting *setting,
                       int groups, int length)
{
    oracle_ttt_block(y, x, weights, groups, length, setting->channels);
}

START_TEST(random_shapes_equal_the_oracles)
{
    use_isa(_i);
    static const struct {
        operator_setting setting;
        int length;
        operator_oracle oracle;
    } shapes[] = {
        {{"xLSTM", "{" XLSTM "}", 64, 1, 0}, 50, xlstm_oracle},
        {{"xLSTM", "{" XLSTM "}", 16, 1, 0}, 64, xlstm_oracle},
        {{"xLSTM", "{d_model: 64, conv_kernel_size: 3}", 6, 1, 0}, 33, xlstm_oracle},
        {{"xLSTM", "{conv_kernel_size: 8, proj_bias: True, norm_bias: True}", 2, 1, 0}, 17, xlstm_oracle},
        {{"xLSTM", "{" XLSTM "}", 32, 1, 0}, 1, xlstm_oracle},
        {{"TTT", "{n_head: 4, " TTT "}", 64, 1, 0}, 50, ttt_oracle},
        {{"TTT", "{n_head: 2, " TTT "}", 16, 1, 0}, 64, ttt_oracle},
        {{"TTT", "{n_head: 4, " TTT "}", 128, 1, 0}, 31, ttt_oracle},
        {{"TTT", "{n_head: 3}", 6, 1, 0}, 17, ttt_oracle},
        {{"TTT", "{n_head: 1}", 10, 1, 0}, 1, ttt_oracle},
    };
    test_rng rng = {51};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        operator_equals_oracle(&shapes[i].setting, shapes[i].length, shapes[i].oracle, 3e-5, &rng);
}
END_TEST

/* ---- binding --------------------------------------------------------------------------------------- */

START_TEST(init_is_damped)
{
    for (int i = 0; i < BLOCKS; i++) operator_init_is_damped(&blocks[i]);
}
END_TEST

START_TEST(xlstm_init_forgets_slowly)
{
    test_operator op = operator_open(&blocks[0], 1);
    sv_weights *weights = sv_weights_new();
    operator_bind(&op, weights, 3);
    const sv_tensor bias = sv_weights_find(weights, "rowwise_from_bot_right.layer.mlstm_cell.fgate.bias");
    ck_assert_int_eq(bias.ndim, 1);
    ck_assert_int_eq(bias.dim[0], 4);
    for (int i = 0; i < 4; i++) ck_assert(sv_f32(bias)[i] >= 3 && sv_f32(bias)[i] <= 6);
    const sv_tensor q = sv_weights_find(weights, "rowwise_from_top_left.layer.q_proj.weight");
    ck_assert(q.ndim == 3 && q.dim[0] == 32 && q.dim[1] == 4 && q.dim[2] == 4);
    sv_weights_free(weights);
    operator_close(&op);
}
END_TEST

START_TEST(settings_are_checked)
{
    static const struct {
        operator_setting setting;
        sv_status status;
        const char *text;
    } wrong[] = {
        {{"xLSTM", "{conv_kind: 2d}", 64, 1, 0}, SV_UNSUPPORTED, "conv_kind is '2d'"},
        {{"xLSTM", "{conv_kernel_size: 1}", 64, 1, 0}, SV_UNSUPPORTED, "conv_kernel_size is 1"},
        {{"xLSTM", "{conv_kernel_size: 9}", 64, 1, 0}, SV_UNSUPPORTED, "conv_kernel_size is 9"},
        {{"xLSTM", "{proj_bias: False}", 64, 1, 0}, SV_UNSUPPORTED, "proj_bias"},
        {{"xLSTM", "{norm_bias: False}", 64, 1, 0}, SV_UNSUPPORTED, "norm_bias"},
        {{"xLSTM", "{d_model: 7}", 7, 1, 0}, SV_UNSUPPORTED, "7 channels"},
        {{"TTT", "{use_gate: False}", 64, 1, 0}, SV_BAD_INPUT, "n_head"},
        {{"TTT", "{n_head: 0}", 64, 1, 0}, SV_BAD_INPUT, "n_head is 0"},
        {{"TTT", "{n_head: 5}", 64, 1, 0}, SV_BAD_INPUT, "n_head is 5"},
        {{"TTT", "{n_head: 2}", 6, 1, 0}, SV_UNSUPPORTED, "heads of 3"},
        {{"TTT", "{n_head: 1}", 256, 1, 0}, SV_UNSUPPORTED, "heads of 256"},
        {{"TTT", "{n_head: 4, use_gate: True}", 64, 1, 0}, SV_UNSUPPORTED, "use_gate"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        operator_refuses(&wrong[i].setting, wrong[i].status, wrong[i].text);
}
END_TEST

START_TEST(missing_tensors_are_counted)
{
    operator_misses_tensors(&blocks[0], "42 ");
    operator_misses_tensors(&blocks[1], "18 ");
}
END_TEST

START_TEST(carried_state_is_refused)
{
    for (int i = 0; i < BLOCKS; i++) operator_refuses_state(&blocks[i], "no state");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gated blocks");
    TCase *cases = tcase_create("xLSTM and TTT");
    tcase_set_timeout(cases, 300);
    /* the processor itself is asked in the tests, once they have set their cap */
    tcase_add_loop_test(cases, official_recordings, 0, SV_ISA_AVX512 + 1);
    tcase_add_loop_test(cases, random_shapes_equal_the_oracles, 0, SV_ISA_AVX512 + 1);
    tcase_add_test(cases, init_is_damped);
    tcase_add_test(cases, xlstm_init_forgets_slowly);
    tcase_add_test(cases, settings_are_checked);
    tcase_add_test(cases, missing_tensors_are_counted);
    tcase_add_test(cases, carried_state_is_refused);
    suite_add_tcase(suite, cases);
    return run_suite(suite, true);
}
