/* SPDX-License-Identifier: Apache-2.0
 *
 * The toy operator of backbones/README.md: the page shows toy_operator.c as it is, and it runs as a block.
 */
#include "support.h"

#include "toy_operator.c"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

START_TEST(page_shows_the_file)
{
    size_t count = 0;
    char *page = read_file(SAVANNA_SOURCE "/backbones/README.md", &count),
         *file = read_file(SAVANNA_SOURCE "/tests/toy_operator.c", &count);
    ck_assert(page && file);
    char *shown = malloc(2 * count + 1);
    ck_assert_ptr_nonnull(shown);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || file[i - 1] == '\n') shown[used++] = '+';
        shown[used++] = file[i];
    }
    shown[used] = '\0';
    ck_assert_msg(strstr(page, shown) != NULL,
                  "backbones/README.md does not show tests/toy_operator.c as it is");
    ck_assert_ptr_nonnull(strstr(page, "+OPERATOR(leaky)\n"));
    free(page), free(file), free(shown);
}
END_TEST

/* keep 0.5 and an impulse: 1/2, 1/4, 1/8 ... by the recurrence, and the block as a whole runs. */
START_TEST(it_runs)
{
    enum { TOKENS = 6, CHANNELS = 8 };
    sv_ctx *c = test_context(1);
    float x[TOKENS] = {1}, y[TOKENS], keep = 0.5f;
    sv_tensor in[4] = {[X] = sv_view(x, SV_F32, TOKENS, 1), [KEEP] = sv_view(&keep, SV_F32, 1, 1)};
    sv_instance self = {.type = &recurrence, .size = {['D'] = 1}};
    const sv_call call = {
        .of = &self, .in = in, .y = sv_view(y, SV_F32, TOKENS, 1), .seq = {.length = TOKENS}};
    assert_ok(c, sv_recurrence_run(c, &call));
    for (int t = 0; t < TOKENS; t++) ck_assert_float_eq(y[t], ldexpf(1, -1 - t));

    sv_operator_facts facts;
    assert_ok(c, sv_operator_measure(c, &sv_operator_leaky, NULL, CHANNELS, 64, &facts));
    /* norm, two directions of x and keep, norm of the result, gate and out */
    ck_assert_int_eq(facts.parameters, 2 * CHANNELS + 2 * (CHANNELS * CHANNELS + CHANNELS) + CHANNELS +
                                           2 * CHANNELS * CHANNELS);
    ck_assert_double_gt(facts.flops, 2 * 4 * CHANNELS * CHANNELS);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("toy");
    TCase *toy = tcase_create("toy");
    tcase_add_test(toy, page_shows_the_file);
    tcase_add_test(toy, it_runs);
    suite_add_tcase(suite, toy);
    return run_suite(suite, true);
}
