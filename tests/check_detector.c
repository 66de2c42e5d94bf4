/* SPDX-License-Identifier: Apache-2.0
 *
 * The promise of sv_detect(): the same frame gives the same bytes, whatever surrounds it.
 */
#include "support_model.h"

#include "perception/points.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS = 6000, MOST = 100 };

typedef struct result {
    int count;
    sv_box boxes[MOST];
} result;

static sv_detector *open_detector(sv_model *model, int threads)
{
    sv_detector_def def = sv_detector_def_default();
    def.ctx.threads = threads;
    sv_detector *d = NULL;
    const sv_status status = sv_detector_open(&def, model, &d);
    ck_assert_msg(status == SV_OK, "%s", sv_detector_error(d));
    ck_assert_int_eq(sv_model_max_boxes(model), MOST);
    return d;
}

static result detect(sv_detector *d, sv_frame *frame)
{
    result r;
    memset(&r, 0, sizeof r);
    const sv_status status = sv_detect(d, &frame, 1, NULL, r.boxes, &r.count);
    ck_assert_msg(status == SV_OK, "%s", sv_detector_error(d));
    return r;
}

static void assert_same(const result *a, const result *b)
{
    ck_assert_int_eq(a->count, b->count);
    ck_assert_mem_eq(a->boxes, b->boxes, sizeof(sv_box) * (size_t)a->count);
}

static void shuffle(test_rng *rng, sv_frame *frame)
{
    const size_t columns = (size_t)frame->columns, bytes = sizeof(float) * columns;
    for (int i = frame->count - 1; i > 0; i--) {
        const int j = (int)(rng_u64(rng) % (uint64_t)(i + 1));
        float swap[8], *a = frame->points + columns * (size_t)i, *b = frame->points + columns * (size_t)j;
        memcpy(swap, a, bytes);
        memmove(a, b, bytes);
        memcpy(b, swap, bytes);
    }
}

START_TEST(same_bytes_for_any_order_threads_batch_and_history)
{
    test_rng rng = {11};
    sv_ctx *c = test_context(1);
    sv_model *model = small_model_of(c, (small_kind)_i, 5);
    const int columns = sv_model_point_columns(model);
    sv_frame *frame = small_cloud_of(&rng, POINTS, columns),
             *other = small_cloud_of(&rng, 2 * POINTS, columns),
             *none = sv_frame_new(&sv_device_cpu, 0, columns);
    sv_detector *one = open_detector(model, 1), *three = open_detector(model, 3);
    const result first = detect(one, frame);
    ck_assert_int_gt(first.count, 0);

    result r = detect(one, frame);
    assert_same(&first, &r);
    r = detect(three, frame);
    assert_same(&first, &r);
    for (int i = 0; i < 3; i++) {
        shuffle(&rng, frame);
        r = detect(three, frame);
        assert_same(&first, &r);
    }
    /* behind a larger frame (grown capacities), behind an empty one, and as each part of a batch */
    r = detect(one, other);
    const result second = r;
    r = detect(one, frame);
    assert_same(&first, &r);
    r = detect(one, none);
    ck_assert_int_eq(r.count, 0);
    r = detect(one, frame);
    assert_same(&first, &r);
    static sv_box boxes[3 * MOST];
    int counts[3];
    for (int place = 0; place < 3; place++) {
        sv_frame *batch[3] = {other, other, other};
        batch[place] = frame;
        if (place != 1) batch[1] = none;
        ck_assert_msg(sv_detect(three, batch, 3, NULL, boxes, counts) == SV_OK, "%s",
                      sv_detector_error(three));
        for (int b = 0; b < 3; b++) {
            const result *want = batch[b] == frame ? &first : &second;
            memset(&r, 0, sizeof r);
            r.count = counts[b];
            memcpy(r.boxes, boxes + b * MOST, sizeof(sv_box) * (size_t)r.count);
            if (batch[b] == none)
                ck_assert_int_eq(r.count, 0);
            else
                assert_same(want, &r);
        }
    }
    sv_detector_close(one);
    sv_detector_close(three);
    sv_frame_release(frame);
    sv_frame_release(other);
    sv_frame_release(none);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

START_TEST(overflow_is_rerun_with_the_same_bytes)
{
    test_rng rng = {12};
    sv_ctx *c = test_context(1);
    sv_model *model = small_model(c, 5);
    sv_frame *frame = small_cloud(&rng, POINTS);
    sv_detector *fits = open_detector(model, 2);
    const result want = detect(fits, frame);
    for (int which = SV_CAP_VOXELS; which < sv_model_capacities(model); which++) {
        sv_detector *d = open_detector(model, 2);
        sv_detector_set_capacity(d, (sv_capacity)which, 17);
        const result r = detect(d, frame);
        assert_same(&want, &r);
        ck_assert_int_ge(sv_detector_reruns(d), 1);
        ck_assert_int_gt(sv_detector_capacity(d, (sv_capacity)which), 17);
        ck_assert_int_eq(sv_detector_needed(d, (sv_capacity)which),
                         sv_detector_needed(fits, (sv_capacity)which));
        sv_detector_close(d);
    }
    sv_detector_close(fits);
    sv_frame_release(frame);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

/* A carried state: a decaying sum of the BEV map, and a way to fail on purpose. */
typedef struct memory_step {
    bool fail;
    int runs;
} memory_step;

static sv_status run_memory(void *user, sv_ctx *c, sv_state *state, int batch, sv_tensor bev)
{
    (void)batch;
    memory_step *step = user;
    const sv_state_entry *entry = NULL;
    SV_TRY(sv_state_entry_get(c, state, "bev memory", bev.dim[0], bev.dim[1], &entry));
    SV_TRY(sv_map2(c, entry->next, entry->now, bev, SV_MAP_add));
    step->runs++;
    SV_CHECK(c, !step->fail, SV_BAD_INPUT, "a failure on purpose");
    return SV_OK;
}

START_TEST(state_is_committed_only_by_frames_that_succeed)
{
    test_rng rng = {13};
    sv_ctx *c = test_context(1);
    sv_model *model = small_model(c, 5);
    sv_frame *frame = small_cloud(&rng, POINTS);
    memory_step step = {false, 0};
    sv_detector_def def = sv_detector_def_default();
    def.ctx.threads = 2;
    def.step = (sv_bev_step){run_memory, &step};
    sv_detector *d = NULL;
    ck_assert_int_eq(sv_detector_open(&def, model, &d), SV_OK);
    sv_state *state = NULL;
    assert_ok(c, sv_state_open(sv_detector_ctx(d), &state));
    static sv_box boxes[MOST];
    int count = 0;
    const sv_state_entry *entry = NULL;

    ck_assert_int_eq(sv_detect(d, &frame, 1, state, boxes, &count), SV_OK);
    ck_assert_int_eq(sv_state_frames(state), 1);
    assert_ok(c, sv_state_entry_get(sv_detector_ctx(d), state, "bev memory", 64 * 64, 32, &entry));
    const size_t numbers = (size_t)64 * 64 * 32;
    float *once = malloc(sizeof *once * numbers);
    memcpy(once, entry->now.data, sizeof *once * numbers);
    double sum = 0;
    for (size_t i = 0; i < numbers; i++) sum += once[i] * once[i];
    ck_assert(sum > 0);

    /* a failing frame, and one that overflows behind the state's step, leave it as it was */
    step.fail = true;
    ck_assert_int_eq(sv_detect(d, &frame, 1, state, boxes, &count), SV_BAD_INPUT);
    ck_assert_int_eq(count, 0);
    ck_assert_str_eq(sv_detector_error(d), "a failure on purpose");
    ck_assert_mem_eq(once, entry->now.data, sizeof *once * numbers);
    ck_assert_int_eq(sv_state_frames(state), 1);
    step.fail = false;
    sv_detector_set_capacity(d, SV_CAP_DOW4, 5);
    ck_assert_int_eq(sv_detect(d, &frame, 1, state, boxes, &count), SV_OK);
    ck_assert_int_ge(sv_detector_reruns(d), 1);
    ck_assert_int_eq(sv_state_frames(state), 2);
    for (size_t i = 0; i < numbers; i++) ck_assert(((float *)entry->now.data)[i] == once[i] + once[i]);

    assert_ok(c, sv_state_reset(sv_detector_ctx(d), state));
    ck_assert(((float *)entry->now.data)[0] == 0 && sv_state_frames(state) == 0);
    ck_assert_uint_eq(sv_state_bytes(state), 2 * sizeof(float) * numbers);
    free(once);
    sv_state_close(state);
    sv_detector_close(d);
    sv_frame_release(frame);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

START_TEST(wrong_frames_are_refused_and_the_detector_goes_on)
{
    test_rng rng = {14};
    sv_ctx *c = test_context(1);
    sv_model *model = small_model(c, 5);
    sv_detector *d = open_detector(model, 1);
    sv_frame *frame = small_cloud(&rng, 500), *wide = sv_frame_new(&sv_device_cpu, 10, 5);
    const result want = detect(d, frame);
    static sv_box boxes[MOST];
    int count = 7;
    ck_assert_int_eq(sv_detect(d, &wide, 1, NULL, boxes, &count), SV_BAD_INPUT);
    ck_assert_int_eq(count, 0);
    ck_assert_ptr_nonnull(strstr(sv_detector_error(d), "5 point columns"));
    ck_assert_int_eq(sv_detect(d, &frame, 0, NULL, boxes, &count), SV_USAGE);
    const result r = detect(d, frame);
    assert_same(&want, &r);
    /* points that are not finite are nowhere */
    frame->points[0] = NAN;
    frame->points[5] = INFINITY;
    const result holes = detect(d, frame);
    memmove(frame->points, frame->points + 8, sizeof(float) * 4 * (size_t)(frame->count - 2));
    frame->count -= 2;
    const result without = detect(d, frame);
    assert_same(&holes, &without);
    sv_frame_release(frame);
    sv_frame_release(wide);
    sv_detector_close(d);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

/* What bounds a cloud are sums within its voxels: together, clouds may have more points. */
START_TEST(a_batch_has_more_points_than_a_cloud_may)
{
    test_rng rng = {15};
    sv_ctx *c = test_context(1);
    sv_model *model = small_model(c, 5);
    sv_detector *d = open_detector(model, 3);
    sv_frame *small = small_cloud(&rng, 3000), *large = sv_frame_new(&sv_device_cpu, SV_POINTS_MAX + 1, 4);
    for (int i = 0; i <= SV_POINTS_MAX; i++)
        memcpy(large->points + 4 * (size_t)i, small->points + 4 * (size_t)(i % 3000), 4 * sizeof(float));
    static sv_box boxes[2 * MOST];
    int counts[2];
    large->count = SV_POINTS_MAX + 1;
    ck_assert_int_eq(sv_detect(d, &large, 1, NULL, boxes, counts), SV_BAD_INPUT);
    ck_assert_ptr_nonnull(strstr(sv_detector_error(d), "has 2097153 points; at most 2097152"));
    large->count = SV_POINTS_MAX;
    const result want[2] = {detect(d, large), detect(d, small)};
    sv_frame *both[2] = {large, small};
    ck_assert_msg(sv_detect(d, both, 2, NULL, boxes, counts) == SV_OK, "%s", sv_detector_error(d));
    for (int b = 0; b < 2; b++) {
        ck_assert_int_eq(counts[b], want[b].count);
        ck_assert_mem_eq(boxes + b * MOST, want[b].boxes, sizeof(sv_box) * (size_t)counts[b]);
    }
    sv_frame_release(small);
    sv_frame_release(large);
    sv_detector_close(d);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

START_TEST(steady_frames_allocate_nothing)
{
    test_rng rng = {15};
    sv_ctx *c = test_context(1);
    sv_model *model = small_model_of(c, (small_kind)_i, 5);
    sv_detector *d = open_detector(model, 2);
    sv_frame *frame = small_cloud_of(&rng, POINTS, sv_model_point_columns(model));
    for (int i = 0; i < 3; i++) detect(d, frame);
    const size_t frame_bytes = sv_detector_ctx(d)->frame.reserved,
                 scratch_bytes = sv_detector_ctx(d)->scratch.reserved;
    /* sealed arenas fail when they would have to grow */
    sv_detector_ctx(d)->frame.sealed = sv_detector_ctx(d)->scratch.sealed = true;
    for (int i = 0; i < 3; i++) detect(d, frame);
    ck_assert_uint_eq(sv_detector_ctx(d)->frame.reserved, frame_bytes);
    ck_assert_uint_eq(sv_detector_ctx(d)->scratch.reserved, scratch_bytes);
    sv_frame_release(frame);
    sv_detector_close(d);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

/* The CPU has no clock of its own: a timed detector gives the same bytes and tells nothing. */
START_TEST(only_devices_with_a_clock_tell_spans)
{
    test_rng rng = {16};
    sv_ctx *c = test_context(1);
    sv_model *model = small_model_of(c, (small_kind)0, 5);
    sv_detector *plain = open_detector(model, 1), *timed = NULL;
    sv_detector_def def = sv_detector_def_default();
    def.timed = true;
    ck_assert_int_eq(sv_detector_open(&def, model, &timed), SV_OK);
    sv_frame *frame = small_cloud_of(&rng, POINTS, sv_model_point_columns(model));
    const result want = detect(plain, frame), got = detect(timed, frame);
    assert_same(&want, &got);
    sv_device_spans spans;
    ck_assert(!sv_detector_spans(timed, &spans));
    sv_frame_release(frame);
    sv_detector_close(plain);
    sv_detector_close(timed);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("detector");
    TCase *tests = tcase_create("detector");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, same_bytes_for_any_order_threads_batch_and_history, 0, SMALL_KINDS);
    tcase_add_test(tests, overflow_is_rerun_with_the_same_bytes);
    tcase_add_test(tests, state_is_committed_only_by_frames_that_succeed);
    tcase_add_test(tests, wrong_frames_are_refused_and_the_detector_goes_on);
    tcase_add_test(tests, a_batch_has_more_points_than_a_cloud_may);
    tcase_add_loop_test(tests, steady_frames_allocate_nothing, 0, SMALL_KINDS);
    tcase_add_test(tests, only_devices_with_a_clock_tell_spans);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
