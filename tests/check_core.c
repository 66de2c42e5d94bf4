/* SPDX-License-Identifier: Apache-2.0
 *
 * Status, context, arenas, pool, profile and dispatch.
 */
#include "support.h"

#include <stdatomic.h>
#include <string.h>

START_TEST(first_failure_is_kept)
{
    sv_ctx *c = test_context(1);
    ck_assert_int_eq(SV_FAIL(c, SV_BAD_INPUT, "value %d", 7), SV_BAD_INPUT);
    ck_assert_int_eq(SV_FAIL(c, SV_IO, "later"), SV_IO);
    ck_assert_str_eq(sv_error_message(c), "value 7");
    ck_assert_int_eq(c->error.status, SV_BAD_INPUT);
    ck_assert_int_eq(sv_status_exit_code(SV_BAD_INPUT), 3);
    sv_error_clear(c);
    ck_assert_str_eq(sv_error_message(c), "");
    sv_ctx_close(c);
}
END_TEST

START_TEST(same_calls_give_same_addresses)
{
    sv_ctx *c = test_context(1);
    void *first[5], *again[5];
    static const size_t sizes[5] = {100, 3000000, 1, 0, 700000};
    for (int round = 0; round < 3; round++) {
        assert_ok(c, sv_arena_reset(c, &c->frame));
        for (int i = 0; i < 5; i++) {
            void **out = round == 1 ? &first[i] : &again[i];
            assert_ok(c, sv_arena_alloc(c, &c->frame, "x", sizes[i], out));
            ck_assert_uint_eq((uintptr_t)*out % 256, 0);
            memset(*out, i, sizes[i]);
        }
    }
    for (int i = 0; i < 5; i++) ck_assert_ptr_eq(first[i], again[i]);
    ck_assert_int_eq(c->frame.name_count, 1);
    ck_assert_uint_eq(c->frame.names[0].bytes, 3000000);
    sv_ctx_close(c);
}
END_TEST

START_TEST(scratch_rewinds_and_sealed_arena_refuses)
{
    sv_ctx *c = test_context(1);
    void *a = NULL, *b = NULL, *d = NULL;
    assert_ok(c, sv_arena_alloc(c, &c->scratch, "a", 1000, &a));
    const sv_mark mark = sv_arena_mark(&c->scratch);
    assert_ok(c, sv_arena_alloc(c, &c->scratch, "b", 1000, &b));
    sv_arena_rewind(&c->scratch, mark);
    assert_ok(c, sv_arena_alloc(c, &c->scratch, "d", 1000, &d));
    ck_assert_ptr_eq(b, d);
    c->scratch.sealed = true;
    assert_fails(c, sv_arena_alloc(c, &c->scratch, "huge", (size_t)1 << 30, &a), SV_NO_MEMORY, "'huge'");
    sv_ctx_close(c);
}
END_TEST

static void count(void *arg, int task, int worker)
{
    (void)worker;
    atomic_fetch_add(&((atomic_int *)arg)[task], 1);
}

START_TEST(pool_runs_each_task_once)
{
    sv_pool *pool = sv_pool_open(_i);
    ck_assert_ptr_nonnull(pool);
    ck_assert_int_eq(sv_pool_threads(pool), _i);
    static atomic_int seen[1000];
    memset(seen, 0, sizeof seen);
    for (int round = 0; round < 200; round++) sv_pool_run(pool, count, seen, round * 5);
    for (int i = 0; i < 1000; i++) ck_assert_int_eq(atomic_load(&seen[i]), 199 - i / 5);
    sv_pool_close(pool);
}
END_TEST

START_TEST(missing_kernel_and_wrong_shape_are_named)
{
    sv_ctx *c = test_context(1);
    sv_ops none = {0};
    sv_device device = *c->device;
    device.ops = &none;
    c->device = &device;
    float values[4] = {0};
    sv_tensor t = sv_view(values, SV_F32, 2, 2), wrong = sv_view(values, SV_F32, 2, 1);
    assert_fails(c, sv_map1(c, t, t, SV_MAP_relu), SV_NO_KERNEL, "map1");
    assert_fails(c, sv_map1(c, t, wrong, SV_MAP_relu), SV_BAD_SHAPE, "[2,1]");
    c->device = &sv_device_cpu;
    sv_ctx_close(c);
}
END_TEST

START_TEST(stages_nest_and_count)
{
    sv_ctx *c = test_context(1);
    c->profile.on = true;
    for (int frame = 0; frame < 2; frame++) {
        sv_profile_frame_begin(c);
        assert_ok(c, sv_stage_begin(c, "a"));
        for (int i = 0; i < 3; i++) {
            assert_ok(c, sv_stage_begin(c, "b"));
            ck_assert_str_eq(c->stage_path, "a/b");
            sv_count_work(c, 10, 1);
            assert_ok(c, sv_stage_end(c));
        }
        assert_ok(c, sv_stage_end(c));
        assert_ok(c, sv_profile_frame_end(c));
    }
    ck_assert_int_eq(c->profile.stage_count, 2);
    ck_assert_str_eq(c->profile.stages[1].name, "a/b");
    ck_assert_int_eq(c->profile.stages[1].calls, 3);
    ck_assert(c->profile.stages[0].flops == 30.0);
    ck_assert(c->profile.stages[0].ms >= c->profile.stages[1].ms);
    sv_ctx_close(c);
}
END_TEST

START_TEST(devices_parse)
{
    sv_device_kind kind;
    int index;
    ck_assert(sv_device_parse("cuda:3", &kind, &index) && kind == SV_CUDA && index == 3);
    ck_assert(sv_device_parse("cpu", &kind, &index) && kind == SV_CPU);
    ck_assert(!sv_device_parse("cuda:", &kind, &index));
    ck_assert(!sv_device_parse("cuda:1x", &kind, &index));
    ck_assert(!sv_device_parse("gpu", &kind, &index));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("core");
    TCase *tests = tcase_create("core");
    tcase_add_test(tests, first_failure_is_kept);
    tcase_add_test(tests, same_calls_give_same_addresses);
    tcase_add_test(tests, scratch_rewinds_and_sealed_arena_refuses);
    tcase_add_loop_test(tests, pool_runs_each_task_once, 1, 5);
    tcase_add_test(tests, missing_kernel_and_wrong_shape_are_named);
    tcase_add_test(tests, stages_nest_and_count);
    tcase_add_test(tests, devices_parse);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
