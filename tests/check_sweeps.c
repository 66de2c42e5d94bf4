/* SPDX-License-Identifier: Apache-2.0
 *
 * MODEL.TEMPORAL: a state over the bird's-eye-view map that is carried from sweep to sweep and moved with the
 * sensor.
 */
#include "support_sweeps.h"

#include "datasets/dataset.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FRAMES = DRIVE_FRAMES, MOST = 100, CELLS = SWEEP_CELLS, MAP = SWEEP_MAP };

static const char branch[] =
    "MODEL: {TEMPORAL: {NAME: ConvS5, CHANNELS: 8, SSM_SIZE: 12, LAYERS: 2, NUM_GROUPS: 4}}\n";

/* ---- models, drives ------------------------------------------------------------------------------------- */

typedef enum ends { ABSENT, ZERO, RANDOM } ends; /* of the branch's last layer */

static sv_model *model_with(sv_ctx *c, small_kind kind, const char *more, ends last)
{
    sv_weights *w = sv_weights_new();
    sv_model *model = NULL;
    const sv_model_def plain_def = {.config = small_config_of(kind, NULL)};
    if (last == ABSENT) assert_ok(c, sv_model_init(c, &plain_def, 5, w));
    const sv_model_def def = {.config = small_config_of(kind, more)};
    if (last != ABSENT) assert_ok(c, sv_model_init(c, &def, 5, w));
    if (last == RANDOM) sweep_numbers(w);
    assert_ok(c, sv_model_open_weights(c, &def, w, &model));
    sv_weights_free(w);
    return model;
}

static sv_detector *open_detector(sv_model *model, int threads)
{
    sv_detector_def def = sv_detector_def_default();
    def.ctx.threads = threads;
    sv_detector *d = NULL;
    ck_assert_msg(sv_detector_open(&def, model, &d) == SV_OK, "%s", sv_detector_error(d));
    return d;
}

typedef struct result {
    int count;
    sv_box boxes[MOST];
} result;

static void detect(sv_detector *d, sv_frame *frame, sv_state *state, result *r)
{
    memset(r, 0, sizeof *r);
    ck_assert_msg(sv_detect(d, &frame, 1, state, r->boxes, &r->count) == SV_OK, "%s", sv_detector_error(d));
}

static void assert_same(const result *a, const result *b)
{
    ck_assert_int_eq(a->count, b->count);
    ck_assert_mem_eq(a->boxes, b->boxes, sizeof(sv_box) * (size_t)a->count);
}

static sv_state *stream_of(sv_detector *d)
{
    sv_state *state = NULL;
    ck_assert_int_eq(sv_detector_stream(d, &state), SV_OK);
    return state;
}

/* ---- a branch that does nothing -------------------------------------------------------------------------- */

/* On dense maps. */
START_TEST(a_branch_of_zeros_changes_no_byte)
{
    const small_kind kind = (small_kind)_i;
    sv_ctx *c = test_context(1);
    sv_model *without = small_model_of(c, kind, 5), *zero = model_with(c, kind, branch, ZERO),
             *absent = model_with(c, kind, branch, ABSENT), *random = model_with(c, kind, branch, RANDOM);
    sv_detector *d[4] = {open_detector(without, 2), open_detector(zero, 2), open_detector(absent, 2),
                         open_detector(random, 2)};
    sv_state *state[4];
    for (int i = 0; i < 4; i++) state[i] = stream_of(d[i]);
    ck_assert(!state[0] && state[1] && !state[2] && state[3]); /* nothing to carry where there is no branch */
    sv_frame *frames[FRAMES];
    static result r[4];
    drive_simulate(c, 6, sv_model_point_columns(without), frames);
    int boxes = 0, others = 0;
    for (int t = 0; t < 4; t++) {
        for (int i = 0; i < 4; i++) detect(d[i], frames[t], state[i], &r[i]);
        assert_same(&r[0], &r[1]);
        assert_same(&r[0], &r[2]);
        boxes += r[0].count;
        others += r[0].count != r[3].count ||
                  memcmp(r[0].boxes, r[3].boxes, sizeof(sv_box) * (size_t)r[0].count) != 0;
    }
    ck_assert_int_gt(boxes, 0);
    ck_assert_int_gt(others, 0); /* the same with numbers in it does something */
    drive_release(frames);
    for (int i = 0; i < 4; i++) {
        sv_state_close(state[i]);
        sv_detector_close(d[i]);
    }
    sv_model_release(without);
    sv_model_release(zero);
    sv_model_release(absent);
    sv_model_release(random);
    sv_ctx_close(c);
}
END_TEST

static void compare_recorded(sv_ctx *c, small_kind kind, const char *name, const char *root,
                             const char *split, int most)
{
    sv_model *without = small_model_of(c, kind, 5), *zero = model_with(c, kind, branch, ZERO);
    sv_detector *a = open_detector(without, 2), *b = open_detector(zero, 2);
    sv_state *state = stream_of(b);
    sv_dataset_def def = sv_dataset_def_default(name, root);
    def.split = split;
    sv_dataset *dataset = NULL;
    sv_sample sample = {0};
    static result r[2];
    assert_ok(c, sv_dataset_open(c, &def, &dataset));
    int done = 0;
    for (int i = 0; i < sv_dataset_count(dataset) && i < most; i++, done++) {
        assert_ok(c, sv_dataset_read(c, dataset, i, SV_READ_POINTS, &sample));
        detect(a, sample.frame, NULL, &r[0]);
        detect(b, sample.frame, state, &r[1]);
        assert_same(&r[0], &r[1]);
    }
    ck_assert_int_gt(done, 0);
    sv_sample_free(&sample);
    sv_dataset_close(dataset);
    sv_state_close(state);
    sv_detector_close(a);
    sv_detector_close(b);
    sv_model_release(without);
    sv_model_release(zero);
}

START_TEST(a_branch_of_zeros_on_recorded_frames)
{
    const char *reference = reference_folder();
    if (!reference) return;
    sv_ctx *c = test_context(1);
    char root[700];
    snprintf(root, sizeof root, "%s/data/nuscenes", reference);
    compare_recorded(c, SMALL_NUSCENES, "nuscenes", root, "mini_train", 3);
    snprintf(root, sizeof root, "%s/data/kitti", reference);
    compare_recorded(c, SMALL_KITTI, "kitti", root, "training", 3);
    sv_ctx_close(c);
}
END_TEST

/* ---- streaming is batch processing ----------------------------------------------------------------------- */

static sv_status keep(void *user, sv_ctx *c, const char *name, sv_tensor t)
{
    (void)c;
    sweep_maps_keep(user, name, t);
    return SV_OK;
}

START_TEST(a_stream_is_its_drive)
{
    sv_ctx *c = test_context(2);
    char text[200];
    snprintf(text, sizeof text, "MODEL: {%s}\n", sweep_branch);
    sv_weights *w = sv_weights_new();
    const sv_model_def def = {.config = small_config_of(SMALL_KITTI, text)};
    sv_model *model = NULL;
    assert_ok(c, sv_model_init(c, &def, 5, w));
    sweep_numbers(w);
    assert_ok(c, sv_model_open_weights(c, &def, w, &model));
    sv_detector *d = open_detector(model, 2);
    sv_state *state = stream_of(d);
    sv_frame *frames[FRAMES];
    drive_simulate(c, 6, 4, frames);
    const size_t count = (size_t)FRAMES * CELLS * MAP;
    sweep_maps k = sweep_maps_new();
    float *want = malloc(sizeof *want * count);
    static result r;
    sv_detector_ctx(d)->probe = keep;
    sv_detector_ctx(d)->probe_user = &k;
    for (k.frame = 0; k.frame < FRAMES; k.frame++) detect(d, frames[k.frame], state, &r);
    ck_assert_int_eq(sv_state_frames(state), FRAMES);
    sweep_batch(c, def.config, w, frames, k.before, want);
    assert_close("a drive of 20 frames", k.behind, want, count, 2e-3, 1e-4);
    /* and the state matters: the last frame on its own is another map */
    k.frame = 0;
    detect(d, frames[FRAMES - 1], NULL, &r);
    double off = 0;
    for (size_t i = 0; i < (size_t)CELLS * MAP; i++)
        off = fmax(off, fabs((double)k.behind[i] - (double)want[(FRAMES - 1) * (size_t)CELLS * MAP + i]));
    ck_assert_msg(off > 0.1, "without its state the map differs by %g only", off);
    sweep_maps_free(&k);
    free(want);
    drive_release(frames);
    sv_state_close(state);
    sv_detector_close(d);
    sv_model_release(model);
    sv_weights_free(w);
    sv_ctx_close(c);
}
END_TEST

/* Two streams side by side in a batch, and each by itself with another number of threads: the same bytes. */
START_TEST(streams_do_not_see_each_other)
{
    sv_ctx *c = test_context(2);
    sv_model *model = model_with(c, SMALL_KITTI, branch, RANDOM);
    sv_detector *both = open_detector(model, 3), *one = open_detector(model, 1);
    sv_state *pair = stream_of(both), *alone[2] = {stream_of(one), stream_of(one)};
    sv_frame *frames[2][FRAMES];
    for (int i = 0; i < 2; i++) drive_simulate(c, 6 + (uint64_t)i, 4, frames[i]);
    static sv_box boxes[2 * MOST];
    static result r;
    int counts[2];
    frames[1][3]->time = 500; /* only the second one's clock runs backwards */
    for (int t = 0; t < 6; t++) {
        sv_frame *batch[2] = {frames[0][t], frames[1][t]};
        ck_assert_msg(sv_detect(both, batch, 2, pair, boxes, counts) == SV_OK, "%s", sv_detector_error(both));
        for (int i = 0; i < 2; i++) {
            detect(one, frames[i][t], alone[i], &r);
            ck_assert_int_eq(r.count, counts[i]);
            ck_assert_mem_eq(r.boxes, boxes + i * MOST, sizeof(sv_box) * (size_t)r.count);
        }
    }
    for (int i = 0; i < 2; i++) {
        drive_release(frames[i]);
        sv_state_close(alone[i]);
    }
    sv_state_close(pair);
    sv_detector_close(both);
    sv_detector_close(one);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

/* ---- gaps, and frames that fail ------------------------------------------------------------------------ */

START_TEST(frames_after_a_gap_and_frames_that_fail)
{
    sv_ctx *c = test_context(1);
    sv_model *model = model_with(c, SMALL_KITTI, branch, RANDOM);
    sv_detector *d = open_detector(model, 1);
    sv_state *state = stream_of(d);
    sv_frame *frames[FRAMES], *bad = sv_frame_new(&sv_device_cpu, 1, 7);
    static result first, second, r;
    drive_simulate(c, 6, 4, frames);
    detect(d, frames[0], NULL, &first); /* without a state: the first of a stream */
    detect(d, frames[0], state, &r);
    assert_same(&first, &r);
    detect(d, frames[1], state, &second);
    detect(d, frames[1], NULL, &r);
    ck_assert(r.count != second.count ||
              memcmp(r.boxes, second.boxes, sizeof(sv_box) * (size_t)r.count) != 0);
    /* time jumps back: afresh; a frame that fails in between leaves no trace, and neither does one that had
     * to be rerun */
    detect(d, frames[0], state, &r);
    assert_same(&first, &r);
    int count;
    ck_assert_int_ne(sv_detect(d, &bad, 1, state, r.boxes, &count), SV_OK);
    sv_detector_set_capacity(d, SV_CAP_DOW4, 5);
    const int reruns = sv_detector_reruns(d);
    detect(d, frames[1], state, &r);
    ck_assert_int_gt(sv_detector_reruns(d), reruns);
    assert_same(&second, &r);
    /* the state forgotten by hand, and a frame whose place is not known */
    ck_assert_int_eq(sv_state_reset(sv_detector_ctx(d), state), SV_OK);
    detect(d, frames[0], state, &r);
    assert_same(&first, &r);
    frames[1]->has_pose = false;
    detect(d, frames[1], NULL, &first);
    detect(d, frames[1], state, &r);
    assert_same(&first, &r);
    ck_assert_uint_eq(sv_state_bytes(state), 2 * sizeof(float) * 2 * CELLS * 12);
    sv_frame_release(bad);
    drive_release(frames);
    sv_state_close(state);
    sv_detector_close(d);
    sv_model_release(model);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sweeps");
    TCase *tests = tcase_create("sweeps");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, a_branch_of_zeros_changes_no_byte, 0, SMALL_ARGOVERSE2);
    tcase_add_test(tests, a_branch_of_zeros_on_recorded_frames);
    tcase_add_test(tests, a_stream_is_its_drive);
    tcase_add_test(tests, streams_do_not_see_each_other);
    tcase_add_test(tests, frames_after_a_gap_and_frames_that_fail);
    suite_add_tcase(s, tests);
    return run_suite(s, true);
}
