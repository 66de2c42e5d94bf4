/* SPDX-License-Identifier: Apache-2.0
 *
 * The RetNet and RWKV operators: recordings of the official code, double-precision oracles on random shapes,
 * binding and settings.
 */
#include "oracle_decay.h"
#include "support_operator.h"

#define RETNET                                                                                               \
    "mode: chunk, expand_k: 1, expand_v: 2, hidden_rate: 4, used_MLP: True, with_cp: True, drop_path: 0.2"
#define RWKV                                                                                                 \
    "shift_pixel: 1, shift_mode: time_shift, hidden_rate: 4, drop_path: 0.2, init_mode: fancy, with_cp: "    \
    "True"

static const operator_setting retnet = {"RetNet", "{n_head: 2, " RETNET "}", 64, 1, 2},
                              rwkv = {"RWKV", "{n_head: 4, init_values: 1.0e-05, " RWKV "}", 64, 1, 4},
                              rwkv_first = {"RWKV", "{n_head: 4, init_values: 1.0e-05, " RWKV "}", 64, 0, 4};

START_TEST(official_recordings)
{
    operator_equals_recordings("retnet", &retnet, 6, NULL);
    operator_equals_recordings("rwkv", &rwkv, 7, NULL);
    operator_equals_recordings("rwkv_layer0", &rwkv_first, 7, NULL);
}
END_TEST

static void retnet_oracle(double *y, const double *x, const sv_weights *weights,
                          const operator_setting *setting, int groups, int length)
{
    oracle_retnet_block(y, x, weights, setting->heads, groups, length, setting->channels);
}

static void rwkv_oracle(double *y, const double *x, const sv_weights *weights,
                        const operator_setting *setting, int groups, int length)
{
    oracle_rwkv_block(y, x, weights, setting->heads, groups, length, setting->channels);
}

START_TEST(random_shapes_equal_the_oracles)
{
    static const struct {
        operator_setting setting;
        int length;
        operator_oracle oracle;
    } shapes[] = {
        {{"RetNet", "{n_head: 2, " RETNET "}", 64, 1, 2}, 100, retnet_oracle},
        {{"RetNet", "{n_head: 4, " RETNET "}", 128, 0, 4}, 70, retnet_oracle},
        {{"RetNet", "{n_head: 3, mode: chunk, expand_k: 2, expand_v: 1, hidden_rate: 1, d_model: 7}", 9, 1,
          3},
         64,
         retnet_oracle},
        {{"RetNet", "{n_head: 1, mode: chunk, expand_k: 0.5, expand_v: 1.5, hidden_rate: 3}", 10, 1, 1},
         131,
         retnet_oracle},
        {{"RetNet", "{n_head: 2}", 16, 1, 2}, 1, retnet_oracle},
        {{"RWKV", "{n_head: 4, init_values: 1.0e-05, " RWKV "}", 64, 0, 4}, 48, rwkv_oracle},
        {{"RWKV", "{n_head: 4, init_values: 1.0e-05, " RWKV "}", 128, 1, 4}, 30, rwkv_oracle},
        {{"RWKV", "{n_head: 2, " RWKV "}", 32, 1, 2}, 70, rwkv_oracle},
        {{"RWKV", "{n_head: 3, shift_mode: time_shift, hidden_rate: 1}", 15, 0, 3}, 65, rwkv_oracle},
        {{"RWKV", "{n_head: 1, shift_mode: time_shift, key_norm: False}", 7, 5, 1}, 1, rwkv_oracle},
    };
    test_rng rng = {41};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        operator_equals_oracle(&shapes[i].setting, shapes[i].length, shapes[i].oracle, 2e-5, &rng);
}
END_TEST

START_TEST(init_is_damped)
{
    operator_init_is_damped(&retnet);
    operator_init_is_damped(&rwkv);
}
END_TEST

START_TEST(settings_are_checked)
{
    static const struct {
        operator_setting setting;
        sv_status status;
        const char *text;
    } wrong[] = {
        {{"RetNet", "{mode: chunk}", 64, 1, 0}, SV_BAD_INPUT, "n_head"},
        {{"RetNet", "{n_head: 3}", 64, 1, 0}, SV_BAD_INPUT, "n_head is 3"},
        {{"RetNet", "{n_head: 2, mode: parallel}", 64, 1, 0}, SV_UNSUPPORTED, "'parallel'"},
        {{"RetNet", "{n_head: 2, used_MLP: False}", 64, 1, 0}, SV_UNSUPPORTED, "used_MLP"},
        {{"RetNet", "{n_head: 2, layerscale: True}", 64, 1, 0}, SV_UNSUPPORTED, "layerscale"},
        {{"RetNet", "{n_head: 2, expand_v: 0}", 64, 1, 0}, SV_UNSUPPORTED, "expand_v"},
        {{"RetNet", "{n_head: 2, hidden_rate: 0}", 64, 1, 0}, SV_UNSUPPORTED, "hidden_rate"},
        {{"RWKV", "{shift_mode: time_shift}", 64, 1, 0}, SV_BAD_INPUT, "n_head"},
        {{"RWKV", "{n_head: 0, shift_mode: time_shift}", 64, 1, 0}, SV_BAD_INPUT, "n_head is 0"},
        {{"RWKV", "{n_head: 5, shift_mode: time_shift}", 64, 1, 0}, SV_BAD_INPUT, "n_head is 5"},
        {{"RWKV", "{n_head: 4}", 64, 1, 0}, SV_BAD_INPUT, "shift_mode"},
        {{"RWKV", "{n_head: 4, shift_mode: q_shift_multihead}", 64, 1, 0},
         SV_UNSUPPORTED,
         "'q_shift_multihead'"},
        {{"RWKV", "{n_head: 4, shift_mode: time_shift, post_norm: True}", 64, 1, 0},
         SV_UNSUPPORTED,
         "post_norm"},
        {{"RWKV", "{n_head: 4, shift_mode: time_shift, init_mode: plain}", 64, 1, 0},
         SV_BAD_INPUT,
         "'plain'"},
        {{"RWKV", "{n_head: 4, shift_mode: time_shift, init_values: small}", 64, 1, 0},
         SV_BAD_INPUT,
         "init_values"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        operator_refuses(&wrong[i].setting, wrong[i].status, wrong[i].text);
}
END_TEST

START_TEST(streaming_is_refused)
{
    operator_refuses_state(&retnet, "state");
    operator_refuses_state(&rwkv, "state");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("decay blocks");
    TCase *cases = tcase_create("RetNet and RWKV");
    tcase_set_timeout(cases, 300);
    tcase_add_test(cases, official_recordings);
    tcase_add_test(cases, random_shapes_equal_the_oracles);
    tcase_add_test(cases, init_is_damped);
    tcase_add_test(cases, settings_are_checked);
    tcase_add_test(cases, streaming_is_refused);
    suite_add_tcase(suite, cases);
    return run_suite(suite, true);
}
