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

static bool is_reversed(const char *name)
{
    return strncmp(name, "rowwise_from_bot_right/", 23) == 0 && strstr(name, "layer_out") == NULL;
}

START_TEST(official_recordings)
{
    use_isa(_i);
    const char *folder = reference_folder();
    if (!folder) return;
    char path[512];
    snprintf(path, sizeof path, "%s/golden/lion/operators/xlstm.h5", folder);
    operator_equals_recordings(path, "xLSTM", "{" XLSTM "}", 14, is_reversed);
    snprintf(path, sizeof path, "%s/golden/lion/operators/ttt.h5", folder);
    operator_equals_recordings(path, "TTT", "{n_head: 4, " TTT "}", 6, NULL);
}
END_TEST

/* ---- random shapes --------------------------------------------------------------------------------- */

START_TEST(random_shapes_equal_the_oracles)
{
    use_isa(_i);
    static const struct {
        const char *name, *cfg;
        int channels, length;
        operator_oracle oracle;
    } shapes[] = {
        {"xLSTM", "{" XLSTM "}", 64, 50, oracle_xlstm_block},
        {"xLSTM", "{" XLSTM "}", 16, 64, oracle_xlstm_block},
        {"xLSTM", "{d_model: 64, conv_kernel_size: 3}", 6, 33, oracle_xlstm_block},
        {"xLSTM", "{conv_kernel_size: 8, proj_bias: True, norm_bias: True}", 2, 17, oracle_xlstm_block},
        {"xLSTM", "{" XLSTM "}", 32, 1, oracle_xlstm_block},
        {"TTT", "{n_head: 4, " TTT "}", 64, 50, oracle_ttt_block},
        {"TTT", "{n_head: 2, " TTT "}", 16, 64, oracle_ttt_block},
        {"TTT", "{n_head: 4, " TTT "}", 128, 31, oracle_ttt_block},
        {"TTT", "{n_head: 3}", 6, 17, oracle_ttt_block},
        {"TTT", "{n_head: 1}", 10, 1, oracle_ttt_block},
    };
    test_rng rng = {51};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        operator_equals_oracle(shapes[i].name, shapes[i].cfg, shapes[i].channels, shapes[i].length,
                               shapes[i].oracle, 3e-5, &rng);
}
END_TEST

/* ---- binding --------------------------------------------------------------------------------------- */

/* Damped: a block of random weights changes a random input, but not by much. */
START_TEST(init_is_damped)
{
    static const struct {
        const char *name, *cfg;
    } blocks[] = {{"xLSTM", "{" XLSTM "}"}, {"TTT", "{n_head: 4, " TTT "}"}};
    enum { ROWS = 256, CHANNELS = 64 };
    static float x[ROWS * CHANNELS], y[ROWS * CHANNELS];
    static int32_t slots[ROWS];
    for (int i = 0; i < 2; i++) {
        test_operator op = operator_open(blocks[i].name, blocks[i].cfg, CHANNELS, 1);
        sv_weights *weights = sv_weights_new();
        operator_bind(&op, weights, 9);
        test_rng rng = {42};
        rng_fill(&rng, x, ROWS * CHANNELS, 1);
        for (int k = 0; k < ROWS; k++) slots[k] = k;
        const sv_order order = {.slot_row = sv_view(slots, SV_I32, ROWS, 1),
                                .row_slot = sv_view(slots, SV_I32, ROWS, 1)};
        assert_ok(op.c, op.type->forward(op.c, op.self, sv_view(y, SV_F32, ROWS, CHANNELS),
                                         sv_view(x, SV_F32, ROWS, CHANNELS), &order, 128, NULL));
        double change = 0;
        for (int k = 0; k < ROWS * CHANNELS; k++)
            change += ((double)y[k] - (double)x[k]) * ((double)y[k] - (double)x[k]);
        change = sqrt(change / (ROWS * CHANNELS));
        ck_assert_msg(change > 0.005 && change < 0.7, "%s changes its input by %g", blocks[i].name, change);
        sv_weights_free(weights);
        operator_close(&op);
    }
}
END_TEST

START_TEST(xlstm_init_forgets_slowly)
{
    test_operator op = operator_open("xLSTM", "{" XLSTM "}", 64, 1);
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
    operator_refuses("xLSTM", "{conv_kind: 2d}", 64, SV_UNSUPPORTED, "conv_kind is '2d'");
    operator_refuses("xLSTM", "{conv_kernel_size: 1}", 64, SV_UNSUPPORTED, "conv_kernel_size is 1");
    operator_refuses("xLSTM", "{conv_kernel_size: 9}", 64, SV_UNSUPPORTED, "conv_kernel_size is 9");
    operator_refuses("xLSTM", "{proj_bias: False}", 64, SV_UNSUPPORTED, "proj_bias");
    operator_refuses("xLSTM", "{norm_bias: False}", 64, SV_UNSUPPORTED, "norm_bias");
    operator_refuses("xLSTM", "{d_model: 7}", 7, SV_UNSUPPORTED, "7 channels");
    operator_refuses("TTT", "{use_gate: False}", 64, SV_BAD_INPUT, "n_head");
    operator_refuses("TTT", "{n_head: 0}", 64, SV_BAD_INPUT, "n_head is 0");
    operator_refuses("TTT", "{n_head: 5}", 64, SV_BAD_INPUT, "n_head is 5");
    operator_refuses("TTT", "{n_head: 2}", 6, SV_UNSUPPORTED, "heads of 3");
    operator_refuses("TTT", "{n_head: 1}", 256, SV_UNSUPPORTED, "heads of 256");
    operator_refuses("TTT", "{n_head: 4, use_gate: True}", 64, SV_UNSUPPORTED, "use_gate");
}
END_TEST

START_TEST(missing_tensors_are_counted)
{
    static const struct {
        const char *name, *cfg, *count;
    } blocks[] = {{"xLSTM", "{" XLSTM "}", "42 "}, {"TTT", "{n_head: 4, " TTT "}", "18 "}};
    for (int i = 0; i < 2; i++) {
        test_operator op = operator_open(blocks[i].name, blocks[i].cfg, 64, 1);
        sv_weights *weights = sv_weights_new();
        sv_arena_init(&op.arena, "model", op.c->device);
        op.c->weights = &op.arena;
        sv_binder *b = NULL;
        assert_ok(op.c, sv_binder_open(op.c, weights, &b));
        const sv_operator_spec spec = {.channels = 64, .layers = 1, .cfg = sv_config_root(op.config)};
        assert_ok(op.c, op.type->bind(b, op.self, &spec));
        assert_fails(op.c, sv_binder_finish(b), SV_BAD_INPUT, blocks[i].count);
        sv_binder_close(b);
        sv_weights_free(weights);
        operator_close(&op);
    }
}
END_TEST

START_TEST(carried_state_is_refused)
{
    static const struct {
        const char *name, *cfg;
    } blocks[] = {{"xLSTM", "{" XLSTM "}"}, {"TTT", "{n_head: 4, " TTT "}"}};
    for (int i = 0; i < 2; i++) {
        test_operator op = operator_open(blocks[i].name, blocks[i].cfg, 16, 1);
        sv_weights *weights = sv_weights_new();
        operator_bind(&op, weights, 1);
        static float x[16 * 16];
        static int32_t slots[16];
        const sv_order order = {.slot_row = sv_view(slots, SV_I32, 16, 1),
                                .row_slot = sv_view(slots, SV_I32, 16, 1)};
        const sv_operator_state state = {.in = sv_view(x, SV_F32, 1, 256)};
        const sv_tensor v = sv_view(x, SV_F32, 16, 16);
        assert_fails(op.c, op.type->forward(op.c, op.self, v, v, &order, 16, &state), SV_UNSUPPORTED,
                     "no state");
        sv_weights_free(weights);
        operator_close(&op);
    }
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
