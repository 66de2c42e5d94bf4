/* SPDX-License-Identifier: Apache-2.0
 *
 * ConvS5: discretisation, spectrum, layers and whole models; a clip is its frames one by one, a sample does not depend on its
 * batch. And flax checkpoints: what a file may be, and what happens to files that are not.
 */
#include "support.h"

#include "backbones/video/convs5.h"
#include "support_pth.h"

#include <complex.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- layers --------------------------------------------------------------------------------------------- */

static sv_convs5_spec spec_of(sv_convs5_output output, bool squeeze)
{
    return (sv_convs5_spec){.layers = 2,
                            .width = 12,
                            .states = 5,
                            .height = 7,
                            .width_cells = 9,
                            .kernel_b = 3,
                            .kernel_c = 3,
                            .kernel_d = 5,
                            .groups = 4,
                            .blocks = 1,
                            .dt_min = 0.01,
                            .dt_max = 0.3,
                            .output = output,
                            .activation = SV_MAP_gelu_tanh,
                            .clip_eigenvalues = true,
                            .squeeze_excite = squeeze,
                            .norm = true,
                            .norm_first = squeeze,
                            .skip = true};
}

typedef struct stack {
    sv_arena arena;
    sv_weights *weights;
    sv_binder *binder;
    sv_convs5_stack model;
} stack;

static stack *make_stack(sv_ctx *c, sv_convs5_spec spec)
{
    stack *s = calloc(1, sizeof *s);
    sv_arena_init(&s->arena, "test", c->device);
    c->weights = &s->arena;
    s->weights = sv_weights_new();
    assert_ok(c, sv_binder_open_init(c, s->weights, 3, &s->binder));
    assert_ok(c, sv_convs5_stack_bind(s->binder, &s->model, &spec));
    c->weights = NULL;
    return s;
}

static void free_stack(stack *s)
{
    sv_binder_close(s->binder);
    sv_weights_free(s->weights);
    sv_arena_free(&s->arena);
    free(s);
}

static sv_tensor rows_of(sv_ctx *c, int rows, int columns)
{
    sv_tensor t;
    assert_ok(c, sv_frame_alloc(c, &t, "test", SV_F32, rows, columns, SV_NONE));
    memset(t.data, 0, sizeof(float) * (size_t)rows * (size_t)columns);
    return t;
}

static sv_tensor part(sv_tensor t, int first, int rows)
{
    t.data = sv_f32(t) + (size_t)first * (size_t)t.pitch;
    t.dim[0] = rows;
    return t;
}

enum { T = 7, B = 2 };

START_TEST(clips_are_their_frames)
{
    sv_ctx *c = test_context(1), *three = test_context(3);
    const sv_convs5_spec spec = spec_of((sv_convs5_output)(_i % 4), _i >= 4);
    stack *s = make_stack(c, spec);
    test_rng rng = {4};
    const int cells = spec.height * spec.width_cells, frame = B * cells;
    sv_tensor u = rows_of(c, T * frame, spec.width), y[4], state[4];
    rng_fill(&rng, u.data, (size_t)u.dim[0] * (size_t)u.dim[1], 1);
    for (int i = 0; i < 4; i++) {
        y[i] = rows_of(c, T * frame, spec.width);
        state[i] = rows_of(c, spec.layers * frame, 2 * spec.states);
    }
    assert_ok(c, sv_convs5_stack_run(c, &s->model, y[0], u, T, 1, SV_NONE, state[0]));
    assert_ok(three, sv_convs5_stack_run(three, &s->model, y[1], u, T, 1, SV_NONE, state[1]));
    for (int t = 0; t < T; t++)
        assert_ok(three, sv_convs5_stack_run(three, &s->model, part(y[2], t * frame, frame),
                                             part(u, t * frame, frame), 1, 1, state[2], state[2]));
    const size_t size = sizeof(float) * (size_t)y[0].dim[0] * (size_t)y[0].dim[1],
                 state_size = sizeof(float) * (size_t)state[0].dim[0] * (size_t)state[0].dim[1];
    for (int i = 1; i < 3; i++) {
        ck_assert_mem_eq(y[0].data, y[i].data, size);
        ck_assert_mem_eq(state[0].data, state[i].data, state_size);
    }
    /* parallel in time: other roundings, no other result */
    assert_ok(c, sv_convs5_stack_run(c, &s->model, y[3], u, T, 3, SV_NONE, state[3]));
    assert_close("stretches", y[3].data, y[0].data, size / sizeof(float), 2e-5, 1e-5);
    assert_fails(c, sv_convs5_stack_run(c, &s->model, y[3], u, T, 0, SV_NONE, state[3]), SV_USAGE,
                 "stretches");
    /* the first frame of the first sample alone */
    const sv_tensor alone = rows_of(c, cells, spec.width);
    assert_ok(c, sv_convs5_stack_run(c, &s->model, alone, part(u, 0, cells), 1, 1, SV_NONE, SV_NONE));
    ck_assert_mem_eq(alone.data, y[0].data, sizeof(float) * (size_t)cells * (size_t)spec.width);
    free_stack(s);
    sv_ctx_close(three);
    sv_ctx_close(c);
}
END_TEST

/* A, its powers and B' of a layer against the formulas in complex double precision. */
START_TEST(discretisation)
{
    sv_ctx *c = test_context(1);
    sv_convs5_spec spec = spec_of(SV_CONVS5_DIAG_RESNET, false);
    spec.layers = 1;
    spec.kernel_c = 1;
    sv_weights *w = sv_weights_new();
    test_rng rng = {8};
    /* clipped from above; a phase of thousands; zero, where (A - 1) / Lambda is dt */
    float re[5] = {-0.5f, 0.3f, -1e-5f, 0, -20}, im[5] = {-20860, 3, 0, 0, 1},
          step[5] = {-2.3f, -4, -1, -3, -6};
    float b[5 * 12 * 9 * 2], cc[5 * 12 * 2];
    rng_fill(&rng, b, sizeof b / sizeof *b, 1);
    rng_fill(&rng, cc, sizeof cc / sizeof *cc, 1);
    assert_ok(c,
              sv_weights_add(c, w, "Lambda_re", (sv_tensor){.data = re, .ndim = 1, .dim = {5}, .pitch = 1}));
    assert_ok(c,
              sv_weights_add(c, w, "Lambda_im", (sv_tensor){.data = im, .ndim = 1, .dim = {5}, .pitch = 1}));
    assert_ok(c, sv_weights_add(c, w, "log_step", sv_view(step, SV_F32, 5, 1)));
    assert_ok(c,
              sv_weights_add(c, w, "B", (sv_tensor){.data = b, .ndim = 3, .dim = {5, 108, 2}, .pitch = 216}));
    assert_ok(c, sv_weights_add(c, w, "C",
                                (sv_tensor){.data = cc, .ndim = 5, .dim = {1, 1, 5, 12, 2}, .pitch = 120}));
    for (int clip = 0; clip < 2; clip++) {
        spec.clip_eigenvalues = clip == 1;
        sv_arena arena;
        sv_binder *binder = NULL;
        sv_convs5_layer layer = {0};
        sv_arena_init(&arena, "test", c->device);
        c->weights = &arena;
        assert_ok(c, sv_binder_open(c, w, &binder));
        assert_ok(c, sv_convs5_layer_bind(binder, &layer, &spec));
        assert_ok(c, sv_binder_finish(binder));
        for (int p = 0; p < 5; p++) {
            const double real = clip && re[p] > -1e-4f ? -1e-4 : (double)re[p];
            const double complex lambda = real + I * (double)im[p];
            const double dt = exp((double)step[p]);
            const double complex a = cexp(lambda * dt), gain = cabs(lambda) > 0 ? (a - 1) / lambda : dt;
            ck_assert_double_eq_tol(sv_f32(layer.host_a)[2 * p], creal(a), 1e-7);
            ck_assert_double_eq_tol(sv_f32(layer.host_a)[2 * p + 1], cimag(a), 1e-7);
            const double complex fourth = a * a * a * a;
            ck_assert_double_eq_tol(sv_f32(layer.powers)[3 * 10 + p], creal(fourth),
                                    1e-6 * fmax(1, cabs(fourth)));
            for (int u = 0; u < 12; u++)
                for (int tap = 0; tap < 9; tap++) {
                    const float *from = b + ((p * 12 + u) * 9 + tap) * 2,
                                *got = sv_f32(layer.host_b) + (tap * 12 + u) * 10 + p;
                    const double complex want = gain * ((double)from[0] + I * (double)from[1]);
                    ck_assert_double_eq_tol(got[0], creal(want), 1e-6);
                    ck_assert_double_eq_tol(got[5], cimag(want), 1e-6);
                }
        }
        sv_binder_close(binder);
        c->weights = NULL;
        sv_arena_free(&arena);
    }
    sv_weights_free(w);
    sv_ctx_close(c);
}
END_TEST

START_TEST(spectrum)
{
    sv_ctx *c = test_context(1);
    double values[40], twice[8];
    assert_ok(c, sv_convs5_hippo(c, 1, 1, values));
    ck_assert_double_eq_tol(values[0], -sqrt(3) / 2, 1e-14); /* K is 2 x 2 */
    assert_ok(c, sv_convs5_hippo(c, 40, 1, values));
    /* squares of all entries of K = twice the sum of squared singular values of the half */
    double entries = 0, squares = 0;
    for (int i = 0; i < 80; i++)
        for (int j = 0; j < 80; j++)
            if (i != j) entries += 0.25 * (2 * i + 1) * (2 * j + 1);
    for (int i = 0; i < 40; i++) {
        squares += 2 * values[i] * values[i];
        if (i > 0) ck_assert(values[i] > values[i - 1] && values[i] < 0);
    }
    ck_assert_double_eq_tol(squares / entries, 1, 1e-12);
    assert_ok(c, sv_convs5_hippo(c, 4, 1, values));
    assert_ok(c, sv_convs5_hippo(c, 8, 2, twice));
    ck_assert_mem_eq(values, twice, sizeof *values * 4);
    ck_assert_mem_eq(values, twice + 4, sizeof *values * 4);
    assert_fails(c, sv_convs5_hippo(c, 5, 2, values), SV_BAD_INPUT, "blocks");
    sv_ctx_close(c);
}
END_TEST

/* ---- the whole model ------------------------------------------------------------------------------------ */

static const char small[] =
    "MODEL: {NAME: ConvS5, IMAGE_SIZE: 16, CHANNELS: 2, D_MODEL: 32,\n"
    " ENCODER: {DEPTHS: [32, 64], BLOCKS: 2}, DECODER: {DEPTHS: [32, 64], BLOCKS: 1},\n"
    " SEQ_MODEL: {N_LAYERS: 2, LAYER_ACTIVATION: gelu, USE_NORM: true, PRENORM: false,\n"
    "  PER_LAYER_SKIP: true, NUM_GROUPS: 8},\n"
    " SSM: {SSM_SIZE: 12, CLIP_EIGS: true, B_KERNEL_SIZE: 3, C_KERNEL_SIZE: 3,\n"
    "  D_KERNEL_SIZE: 3, C_D_CONFIG: resnet}}\n";

static sv_convs5 *small_model(sv_ctx *c, sv_weights **weights, sv_config **config)
{
    sv_convs5 *m = NULL;
    assert_ok(c, sv_config_parse(c, small, sizeof small - 1, "small", NULL, 0, config));
    *weights = sv_weights_new();
    assert_ok(c, sv_convs5_init(c, *config, 5, *weights));
    assert_ok(c, sv_convs5_open(c, *config, *weights, &m));
    ck_assert_int_gt((int)m->parameters, 1000);
    return m;
}

START_TEST(predictions)
{
    sv_ctx *c = test_context(2);
    sv_weights *w = NULL;
    sv_config *config = NULL;
    sv_convs5 *m = small_model(c, &w, &config);
    test_rng rng = {6};
    enum { PICTURE = 16 * 16 };
    sv_tensor x = rows_of(c, T * B * PICTURE, 2), clip = rows_of(c, T * B * PICTURE, 2),
              one = rows_of(c, T * B * PICTURE, 2), last[2];
    rng_fill(&rng, x.data, (size_t)x.dim[0] * 2, 0.5);
    for (int i = 0; i < 2; i++) last[i] = rows_of(c, sv_convs5_state_rows(m, B), sv_convs5_state_columns(m));
    assert_ok(c, sv_convs5_predict(c, m, clip, x, T, B, 1, SV_NONE, last[0]));
    for (int t = 0; t < T; t++)
        assert_ok(c, sv_convs5_predict(c, m, part(one, t * B * PICTURE, B * PICTURE),
                                       part(x, t * B * PICTURE, B * PICTURE), 1, B, 1, last[1], last[1]));
    ck_assert_mem_eq(clip.data, one.data, sizeof(float) * (size_t)clip.dim[0] * 2);
    ck_assert_mem_eq(last[0].data, last[1].data,
                     sizeof(float) * (size_t)last[0].dim[0] * (size_t)last[0].dim[1]);
    float most = 0;
    for (int i = 0; i < clip.dim[0] * 2; i++) most = fmaxf(most, fabsf(sv_f32(clip)[i]));
    ck_assert(most > 1e-3f && most <= 1);
    /* the state alone, without pictures */
    assert_ok(c, sv_convs5_predict(c, m, SV_NONE, x, T, B, 1, SV_NONE, last[1]));
    ck_assert_mem_eq(last[0].data, last[1].data,
                     sizeof(float) * (size_t)last[0].dim[0] * (size_t)last[0].dim[1]);
    assert_fails(c, sv_convs5_predict(c, m, clip, part(x, 0, 100), T, B, 1, SV_NONE, SV_NONE), SV_BAD_SHAPE,
                 "announced");
    sv_convs5_close(m);
    sv_weights_free(w);
    sv_config_free(config);
    sv_ctx_close(c);
}
END_TEST

START_TEST(configurations_are_checked)
{
    static const struct {
        const char *key, *value, *says;
        sv_status status;
    } wrong[] = {{"MODEL.NAME", "ConvS6", "ConvS5 is", SV_UNSUPPORTED},
                 {"MODEL.IMAGE_SIZE", "15", "do not fit together", SV_BAD_INPUT},
                 {"MODEL.SSM.SSM_SIZE", "13", "pairs", SV_BAD_INPUT},
                 {"MODEL.SSM.C_D_CONFIG", "other", "half_glu", SV_UNSUPPORTED},
                 {"MODEL.SSM.B_KERNEL_SIZE", "2", "odd", SV_UNSUPPORTED},
                 {"MODEL.SEQ_MODEL.LAYER_ACTIVATION", "sine", "swish", SV_UNSUPPORTED},
                 {"MODEL.SEQ_MODEL.NUM_GROUPS", "7", "num_groups = 7", SV_BAD_INPUT},
                 {"MODEL.SEQ_MODEL.N_LAYERS", "99", "1 to 32", SV_UNSUPPORTED},
                 {"MODEL.ENCODER.DEPTHS", "[32, 33]", "multiples of 32", SV_BAD_INPUT},
                 {"MODEL.DECODER.BLOCKS", "2", "1 to 1", SV_UNSUPPORTED}};
    sv_ctx *c = test_context(1);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *sets[2] = {wrong[i].key, wrong[i].value};
        sv_config *config = NULL;
        sv_weights *w = sv_weights_new();
        assert_ok(c, sv_config_parse(c, small, sizeof small - 1, "small", sets, 1, &config));
        assert_fails(c, sv_convs5_init(c, config, 5, w), wrong[i].status, wrong[i].says);
        sv_config_free(config);
        sv_weights_free(w);
    }
    sv_ctx_close(c);
}
END_TEST

/* ---- checkpoints ---------------------------------------------------------------------------------------- */

static void put_word(bytes *p, const char *text)
{
    const uint8_t head = (uint8_t)(0xa0 | strlen(text));
    put(p, &head, 1);
    put(p, text, strlen(text));
}

/* An array of 'count' float32 numbers 1, 2, ... as an extension; 'type' instead of "float32" for wrong ones. */
static void put_array(bytes *p, int rows, int columns, const char *type, int count)
{
    bytes in = {0};
    const uint8_t list[] = {0x93, 0x92, (uint8_t)rows, (uint8_t)columns};
    put(&in, list, sizeof list);
    put_word(&in, type);
    const uint8_t blob[] = {0xc4, (uint8_t)(4 * count)};
    put(&in, blob, sizeof blob);
    for (int i = 0; i < count; i++) {
        const float value = (float)(i + 1);
        put(&in, &value, sizeof value);
    }
    const uint8_t head[] = {0xc7, (uint8_t)in.size, 1};
    put(p, head, sizeof head);
    put(p, in.data, in.size);
    free(in.data);
}

static bytes checkpoint(const char *type, int count, const char *extra)
{
    bytes p = {0};
    put(&p, "\x84", 1);
    put_word(&p, "step");
    put(&p, "\xcd\x07\xd0", 3);
    put_word(&p, "params");
    put(&p, "\x82", 1);
    put_word(&p, "a");
    put(&p, "\x81", 1);
    put_word(&p, "kernel");
    put_array(&p, 2, 3, type, count);
    put_word(&p, "b");
    put(&p, "\x83", 1); /* in chunks, lists as maps */
    put(&p, "\xb9__msgpack_chunked_array__\xc3", 27);
    put_word(&p, "shape");
    put(&p, "\x82\xa1\x30\x01\xa1\x31\x04", 7);
    put_word(&p, "chunks");
    put(&p, "\x82\xa1\x30", 3);
    for (int i = 0; i < 2; i++) {
        if (i == 1) put(&p, "\xa1\x31", 2);
        const uint8_t flat[] = {0xc7, 3 + 8 + 2 + 8, 1, 0x93, 0x91, 2};
        put(&p, flat, sizeof flat);
        put_word(&p, "float32");
        const float two[2] = {10.0f + (float)i, 20.0f + (float)i};
        put(&p, "\xc4\x08", 2);
        put(&p, two, sizeof two);
    }
    put_word(&p, "opt_state");
    put(&p, "\x92\x81\xa1x\x92\x01\xcb\0\0\0\0\0\0\0\0\xc0", 16);
    put_word(&p, extra);
    put(&p, "\x80", 1);
    return p;
}

START_TEST(checkpoints_are_read)
{
    sv_ctx *c = test_context(1);
    sv_weights *w = NULL;
    bytes p = checkpoint("float32", 6, "model_state");
    assert_ok(c, sv_weights_parse(c, "x", p.data, p.size, &w));
    ck_assert_str_eq(sv_weights_kind(w), "flax");
    ck_assert_int_eq(sv_weights_count(w), 2);
    const sv_tensor a = sv_weights_find(w, "a.kernel"), b = sv_weights_find(w, "b");
    ck_assert(a.ndim == 2 && a.dim[0] == 2 && a.dim[1] == 3 && sv_f32(a)[5] == 6);
    ck_assert(b.ndim == 2 && b.dim[0] == 1 && b.dim[1] == 4);
    const float want[4] = {10, 20, 11, 21};
    ck_assert_mem_eq(b.data, want, sizeof want);
    sv_weights_free(w);
    /* cut anywhere, or with a byte too many, it is refused */
    for (size_t n = 3; n < p.size; n++) {
        ck_assert_int_ne(sv_weights_parse(c, "x", p.data, n, &w), SV_OK);
        ck_assert(w == NULL && strncmp(sv_error_message(c), "x", 1) == 0);
        sv_error_clear(c);
    }
    put(&p, "\0", 1);
    assert_fails(c, sv_weights_parse(c, "x", p.data, p.size, &w), SV_BAD_INPUT, "1 bytes follow");
    free(p.data);
    sv_ctx_close(c);
}
END_TEST

START_TEST(checkpoints_that_are_none)
{
    static const struct {
        const char *text, *says;
        int length;
    } wrong[] = {{"\x81\xa4step\x01", "no 'params'", 7},
                 {"\x81\xa6params\x01", "'params' is no map", 9},
                 {"\x81\xa6params\x81\xa1x\xc3", "no tensor", 12},
                 {"\x81\xa6params\x81\xa1x\xd4\x02z", "no tensor", 14},
                 {"\x81\xa6params\x81\xa0\xc0", "empty or too long", 11},
                 {"\x81\xa6params\xdf\xff\xff\xff\xff", "more entries", 13},
                 {"\x82\xa6params\x80\xa6params\x80", "twice", 17},
                 {"\x81\xa9opt_state\xdd\x7f\xff\xff\xff", "more entries", 16},
                 {"\x81\xa6params\x81\xa1x\xc6\xff\xff\xff\xff", "longer than the file", 16},
                 {"\x81\xa6params\xc1", "begins no value", 9}};
    sv_ctx *c = test_context(1);
    sv_weights *w = NULL;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const sv_status status = sv_weights_parse(c, "x", wrong[i].text, (size_t)wrong[i].length, &w);
        ck_assert_msg(status == SV_BAD_INPUT || status == SV_UNSUPPORTED, "%zu: %s", i,
                      sv_status_text(status));
        ck_assert_msg(strstr(sv_error_message(c), wrong[i].says) != NULL, "'%s' lacks '%s'",
                      sv_error_message(c), wrong[i].says);
        sv_error_clear(c);
    }
    bytes p = checkpoint("complex64", 6, "model_state");
    assert_fails(c, sv_weights_parse(c, "x", p.data, p.size, &w), SV_UNSUPPORTED, "complex64");
    free(p.data);
    p = checkpoint("float32", 5, "model_state");
    assert_fails(c, sv_weights_parse(c, "x", p.data, p.size, &w), SV_BAD_INPUT, "do not fill its shape");
    free(p.data);
    p = checkpoint("float32", 6, "rng_state");
    assert_fails(c, sv_weights_parse(c, "x", p.data, p.size, &w), SV_UNSUPPORTED, "'rng_state'");
    free(p.data);
    /* maps in maps without end */
    p = (bytes){0};
    put(&p, "\x81\xa6params", 8);
    for (int i = 0; i < 40; i++) put(&p, "\x81\xa1x", 3);
    put(&p, "\xc0", 1);
    assert_fails(c, sv_weights_parse(c, "x", p.data, p.size, &w), SV_BAD_INPUT, "deeper");
    free(p.data);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("convs5");
    TCase *tests = tcase_create("convs5");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, clips_are_their_frames, 0, 6);
    tcase_add_test(tests, discretisation);
    tcase_add_test(tests, spectrum);
    tcase_add_test(tests, predictions);
    tcase_add_test(tests, configurations_are_checked);
    tcase_add_test(tests, checkpoints_are_read);
    tcase_add_test(tests, checkpoints_that_are_none);
    suite_add_tcase(s, tests);
    return run_suite(s, true);
}
