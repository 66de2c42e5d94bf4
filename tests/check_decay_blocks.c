/* SPDX-License-Identifier: Apache-2.0
 *
 * The RetNet and RWKV operators: recordings of the official code, double-precision oracles on random shapes,
 * binding and settings.
 */
#include "oracle_decay.h"
#include "support.h"
#include "support_h5.h"

#include "backbones/operator.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- set-up ---------------------------------------------------------------------------------------- */

typedef struct bound {
    sv_ctx *c;
    sv_arena arena;
    void *self;
    const sv_operator *type;
} bound;

static bound open_operator(const char *name, int threads)
{
    bound op = {.c = test_context(threads), .type = sv_operator_find(name)};
    ck_assert_ptr_nonnull(op.type);
    op.self = calloc(1, op.type->bytes);
    ck_assert_ptr_nonnull(op.self);
    return op;
}

static void close_operator(bound *op)
{
    free(op->self);
    sv_arena_free(&op->arena);
    sv_ctx_close(op->c);
}

/* The arena must not move once it is in use. 'seed' 0 binds from 'weights'. */
static sv_binder *start_binding(bound *op, sv_weights *weights, uint64_t seed)
{
    sv_arena_init(&op->arena, "model", op->c->device);
    op->c->weights = &op->arena;
    sv_binder *b = NULL;
    assert_ok(op->c,
              seed ? sv_binder_open_init(op->c, weights, seed, &b) : sv_binder_open(op->c, weights, &b));
    return b;
}

static void bind_all(bound *op, sv_weights *weights, uint64_t seed, int channels, int layer,
                     const sv_node *cfg)
{
    sv_binder *b = start_binding(op, weights, seed);
    const sv_operator_spec spec = {.channels = channels, .layer = layer, .layers = 34, .cfg = cfg};
    assert_ok(op->c, op->type->bind(b, op->self, &spec));
    assert_ok(op->c, sv_binder_finish(b));
    sv_binder_close(b);
}

static sv_config *settings(sv_ctx *c, const char *text)
{
    sv_config *config = NULL;
    assert_ok(c, sv_config_parse(c, text, strlen(text), "test", NULL, 0, &config));
    return config;
}

#define RETNET                                                                                               \
    "mode: chunk, expand_k: 1, expand_v: 2, hidden_rate: 4, used_MLP: True, with_cp: True, drop_path: 0.2"
#define RWKV                                                                                                 \
    "shift_pixel: 1, shift_mode: time_shift, hidden_rate: 4, drop_path: 0.2, init_mode: fancy, with_cp: "    \
    "True"

/* ---- recordings ------------------------------------------------------------------------------------ */

static double largest(const h5_array *a)
{
    double most = 0;
    for (size_t i = 0; i < a->count; i++) most = fmax(most, fabs((double)a->f[i]));
    return most;
}

typedef struct recording {
    h5_file *file;
    const char *name; /* of the case */
    int groups, length, seen;
    double difference; /* float32 against float64 */
} recording;

/* Ours [G*L, heads*width] in slot order; recorded alike, or with ndim 4 as [G, heads, L, width]. */
static sv_status compare_probe(void *user, sv_ctx *c, const char *name, sv_tensor tensor)
{
    recording *r = user;
    char path[128];
    snprintf(path, sizeof path, "%s/%s", r->name, name);
    void *values = NULL;
    int rows = 0;
    assert_ok(c, sv_download_rows(c, tensor, &values, &rows));
    const float *ours = values;
    h5_array theirs = h5_floats(r->file, path);
    const int channels = tensor.dim[1], heads = theirs.ndim == 4 ? theirs.dim[1] : 1,
              width = channels / heads;
    ck_assert_int_eq(rows, r->groups * r->length);
    ck_assert_uint_eq(theirs.count, (size_t)rows * (size_t)channels);
    const double tolerance = fmax(10 * r->difference, 1e-5 * largest(&theirs));
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < channels; i++) {
            const int g = row / r->length, t = row % r->length, h = i / width;
            const float expected = theirs.f[((g * heads + h) * r->length + t) * width + i % width];
            ck_assert_msg(fabs((double)ours[row * channels + i] - (double)expected) <= tolerance,
                          "%s: slot %d channel %d is %.9g, recorded %.9g (tolerance %g)", path, row, i,
                          (double)ours[row * channels + i], (double)expected, tolerance);
        }
    r->seen++;
    h5_free(&theirs);
    free(values);
    return SV_OK;
}

/* Official weight names of a block, from random ones of the same settings. */
static sv_weights *recorded_weights(sv_ctx *c, h5_file *file, const sv_weights *like)
{
    sv_weights *weights = sv_weights_new();
    for (int i = 0; i < sv_weights_count(like); i++) {
        char path[256];
        snprintf(path, sizeof path, "weights/%s", sv_weights_name(like, i));
        h5_array values = h5_floats(file, path);
        sv_tensor t = {.data = values.f, .ndim = (uint8_t)values.ndim, .dtype = SV_F32};
        for (int k = 0; k < values.ndim; k++) t.dim[k] = values.dim[k];
        t.pitch = (int32_t)sv_row_elements(t);
        assert_ok(c, sv_weights_add(c, weights, sv_weights_name(like, i), t));
        h5_free(&values);
    }
    return weights;
}

static void recorded_case(bound *op, h5_file *file, const char *name, int groups, int length, int probes)
{
    recording r = {.file = file, .name = name, .groups = groups, .length = length};
    char path[128];
    snprintf(path, sizeof path, "%s_maxabs_f64_f32", name);
    r.difference = h5_number(file, path);
    snprintf(path, sizeof path, "%s/input", name);
    h5_array input = h5_floats(file, path);
    snprintf(path, sizeof path, "%s/output", name);
    h5_array output = h5_floats(file, path);
    const int rows = groups * length;
    ck_assert_uint_eq(input.count, (size_t)rows * 64);
    int32_t slots[384];
    for (int i = 0; i < rows; i++) slots[i] = i;
    const sv_order order = {.slot_row = sv_view(slots, SV_I32, rows, 1),
                            .row_slot = sv_view(slots, SV_I32, rows, 1)};
    op->c->probe = probes > 0 ? compare_probe : NULL;
    op->c->probe_user = &r;
    const sv_tensor x = sv_view(input.f, SV_F32, rows, 64);
    assert_ok(op->c, op->type->forward(op->c, op->self, x, x, &order, length, NULL));
    ck_assert_int_eq(r.seen, probes);
    assert_close(name, input.f, output.f, output.count, fmax(10 * r.difference, 1e-5 * largest(&output)), 0);
    h5_free(&input);
    h5_free(&output);
}

START_TEST(official_recordings)
{
    static const struct {
        const char *file, *operator_name, *cfg;
        int layer, probes;
    } blocks[] = {{"retnet", "RetNet", "{n_head: 2, " RETNET "}", 1, 6},
                  {"rwkv", "RWKV", "{n_head: 4, init_values: 1.0e-05, " RWKV "}", 1, 7},
                  {"rwkv_layer0", "RWKV", "{n_head: 4, init_values: 1.0e-05, " RWKV "}", 0, 7}};
    const char *folder = reference_folder();
    if (!folder) return;
    for (int i = 0; i < 3; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/golden/lion/operators/%s.h5", folder, blocks[i].file);
        h5_file *file = h5_open(path, true);
        bound op = open_operator(blocks[i].operator_name, 2);
        sv_config *config = settings(op.c, blocks[i].cfg);
        sv_weights *random = sv_weights_new();
        bind_all(&op, random, 1, 64, blocks[i].layer, sv_config_root(config));
        sv_weights *weights = recorded_weights(op.c, file, random);
        sv_arena_free(&op.arena);
        bind_all(&op, weights, 0, 64, blocks[i].layer, sv_config_root(config));
        recorded_case(&op, file, "G1_L5", 1, 5, blocks[i].probes);
        recorded_case(&op, file, "G1_L77", 1, 77, blocks[i].probes);
        recorded_case(&op, file, "G2_L192", 2, 192, 0);
        sv_weights_free(random);
        sv_weights_free(weights);
        sv_config_free(config);
        h5_close(file);
        close_operator(&op);
    }
}
END_TEST

/* ---- random shapes --------------------------------------------------------------------------------- */

typedef struct shape {
    const char *operator_name, *cfg;
    int layer, heads, width, length;
} shape;

/* Two samples in a shuffled order; the tail of each sample's last group repeats rows, as in window orders. */
typedef struct layout {
    int32_t offsets[3], slot_offsets[3];
    int32_t *slot_row, *row_slot;
    int rows, slots, length;
} layout;
enum { SPARE = 3 }; /* capacity beyond the live rows */

static layout random_layout(test_rng *rng, int length)
{
    layout l = {.length = length};
    for (int b = 0; b < 2; b++) {
        const int n = (int)(rng_u64(rng) % (uint64_t)(3 * length));
        l.offsets[b + 1] = l.offsets[b] + n;
        l.slot_offsets[b + 1] = l.slot_offsets[b] + (n + length - 1) / length * length;
    }
    l.rows = l.offsets[2], l.slots = l.slot_offsets[2];
    l.slot_row = calloc((size_t)(l.slots + length), sizeof *l.slot_row);
    l.row_slot = calloc((size_t)(l.rows + SPARE), sizeof *l.row_slot);
    ck_assert(l.slot_row && l.row_slot);
    for (int b = 0; b < 2; b++) {
        const int n = l.offsets[b + 1] - l.offsets[b], first = l.slot_offsets[b];
        for (int i = 0; i < l.slot_offsets[b + 1] - first; i++) l.slot_row[first + i] = l.offsets[b] + i % n;
        for (int i = n - 1; i > 0; i--) { /* shuffle the ranks */
            const int k = (int)(rng_u64(rng) % (uint64_t)(i + 1));
            const int32_t one = l.slot_row[first + i];
            l.slot_row[first + i] = l.slot_row[first + k], l.slot_row[first + k] = one;
        }
        for (int i = 0; i < n; i++) l.row_slot[l.slot_row[first + i]] = first + i;
    }
    return l;
}

/* Init weights with the constant ones made random, so that every tensor matters. */
static void disturb(sv_weights *weights, test_rng *rng)
{
    for (int i = 0; i < sv_weights_count(weights); i++) {
        const sv_tensor t = sv_weights_tensor(weights, i);
        const int count = t.dim[0] * (int)sv_row_elements(t);
        for (int k = 0; k < count; k++) sv_f32(t)[k] += (float)rng_uniform(rng, -0.2, 0.2);
    }
}

static void random_case(test_rng *rng, const shape *s)
{
    bound op = open_operator(s->operator_name, 1), other = open_operator(s->operator_name, 3);
    sv_weights *weights = sv_weights_new();
    sv_config *config = settings(op.c, s->cfg);
    bind_all(&op, weights, 5, s->width, s->layer, sv_config_root(config));
    assert_ok(op.c, sv_config_check_used(op.c, config));
    disturb(weights, rng);
    sv_arena_free(&op.arena);
    bind_all(&op, weights, 0, s->width, s->layer, sv_config_root(config));
    bind_all(&other, weights, 0, s->width, s->layer, sv_config_root(config));

    layout l = random_layout(rng, s->length);
    const int width = s->width;
    const size_t count = (size_t)(l.rows + SPARE) * (size_t)width, slot_count = (size_t)(l.slots * width);
    float *x = malloc(count * sizeof *x), *y = malloc(count * sizeof *y),
          *again = malloc(count * sizeof *again), *wanted = malloc(count * sizeof *wanted);
    double *in = malloc((slot_count + 1) * sizeof *in), *out = malloc((slot_count + 1) * sizeof *out);
    ck_assert(x && y && again && wanted && in && out);
    rng_fill(rng, x, count, 1);
    memcpy(again, x, count * sizeof *x);
    for (int k = 0; k < l.slots; k++)
        for (int i = 0; i < width; i++) in[k * width + i] = x[l.slot_row[k] * width + i];
    if (strcmp(s->operator_name, "RetNet") == 0)
        oracle_retnet_block(out, in, weights, s->heads, l.slots / s->length, s->length, width);
    else
        oracle_rwkv_block(out, in, weights, s->heads, l.slots / s->length, s->length, width);
    double most = 1;
    for (int r = 0; r < l.rows; r++)
        for (int i = 0; i < width; i++) {
            wanted[r * width + i] = (float)out[l.row_slot[r] * width + i];
            most = fmax(most, fabs((double)wanted[r * width + i]));
        }

    sv_order order = {.slot_row = sv_view(l.slot_row, SV_I32, l.slots + s->length, 1),
                      .row_slot = sv_view(l.row_slot, SV_I32, l.rows + SPARE, 1)};
    order.slot_row.offsets = l.slot_offsets, order.slot_row.batch = 2;
    sv_tensor vx = sv_view(x, SV_F32, l.rows + SPARE, width), vy, vagain;
    vx.offsets = l.offsets, vx.batch = 2;
    vy = vagain = vx;
    vy.data = y, vagain.data = again;
    assert_ok(op.c, op.type->forward(op.c, op.self, vy, vx, &order, s->length, NULL));
    assert_close(s->operator_name, y, wanted, (size_t)(l.rows * width), 2e-5 * most, 0);
    assert_ok(other.c, other.type->forward(other.c, other.self, vagain, vagain, &order, s->length, NULL));
    ck_assert_mem_eq(again, y, (size_t)(l.rows * width) * sizeof *y); /* three threads, in place */
    ck_assert_mem_eq(again + l.rows * width, x + l.rows * width, (size_t)(SPARE * width) * sizeof *x);

    free(l.slot_row), free(l.row_slot), free(x), free(y), free(again), free(wanted), free(in), free(out);
    sv_config_free(config);
    sv_weights_free(weights);
    close_operator(&op);
    close_operator(&other);
}

START_TEST(random_shapes_equal_the_oracles)
{
    static const shape shapes[] = {
        {"RetNet", "{n_head: 2, " RETNET "}", 1, 2, 64, 100},
        {"RetNet", "{n_head: 4, " RETNET "}", 0, 4, 128, 70},
        {"RetNet", "{n_head: 3, mode: chunk, expand_k: 2, expand_v: 1, hidden_rate: 1, d_model: 7}", 1, 3, 9,
         64},
        {"RetNet", "{n_head: 1, mode: chunk, expand_k: 0.5, expand_v: 1.5, hidden_rate: 3}", 1, 1, 10, 131},
        {"RetNet", "{n_head: 2}", 1, 2, 16, 1},
        {"RWKV", "{n_head: 4, init_values: 1.0e-05, " RWKV "}", 0, 4, 64, 48},
        {"RWKV", "{n_head: 4, init_values: 1.0e-05, " RWKV "}", 1, 4, 128, 30},
        {"RWKV", "{n_head: 2, " RWKV "}", 1, 2, 32, 70},
        {"RWKV", "{n_head: 3, shift_mode: time_shift, hidden_rate: 1}", 0, 3, 15, 65},
        {"RWKV", "{n_head: 1, shift_mode: time_shift, key_norm: False}", 5, 1, 7, 1},
    };
    test_rng rng = {41};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) random_case(&rng, &shapes[i]);
}
END_TEST

/* ---- binding --------------------------------------------------------------------------------------- */

/* Damped: a block of random weights changes a random input, but not by much. */
START_TEST(init_is_damped)
{
    static const struct {
        const char *operator_name, *cfg;
    } blocks[] = {{"RetNet", "{n_head: 2, " RETNET "}"},
                  {"RWKV", "{n_head: 4, init_values: 1.0e-05, " RWKV "}"}};
    for (int i = 0; i < 2; i++) {
        bound op = open_operator(blocks[i].operator_name, 1);
        sv_config *config = settings(op.c, blocks[i].cfg);
        sv_weights *weights = sv_weights_new();
        bind_all(&op, weights, 9, 64, 1, sv_config_root(config));
        test_rng rng = {42};
        static float x[256 * 64], y[256 * 64];
        static int32_t slots[256];
        rng_fill(&rng, x, 256 * 64, 1);
        for (int k = 0; k < 256; k++) slots[k] = k;
        const sv_order order = {.slot_row = sv_view(slots, SV_I32, 256, 1),
                                .row_slot = sv_view(slots, SV_I32, 256, 1)};
        assert_ok(op.c, op.type->forward(op.c, op.self, sv_view(y, SV_F32, 256, 64),
                                         sv_view(x, SV_F32, 256, 64), &order, 128, NULL));
        double change = 0;
        for (int k = 0; k < 256 * 64; k++)
            change += ((double)y[k] - (double)x[k]) * ((double)y[k] - (double)x[k]);
        change = sqrt(change / (256 * 64));
        ck_assert_msg(change > 0.005 && change < 0.7, "%s changes its input by %g", blocks[i].operator_name,
                      change);
        sv_weights_free(weights);
        sv_config_free(config);
        close_operator(&op);
    }
}
END_TEST

static void refuses(const char *operator_name, const char *cfg, sv_status status, const char *text)
{
    bound op = open_operator(operator_name, 1);
    sv_config *config = settings(op.c, cfg);
    sv_weights *weights = sv_weights_new();
    sv_binder *b = start_binding(&op, weights, 1);
    const sv_operator_spec spec = {.channels = 64, .layer = 1, .layers = 34, .cfg = sv_config_root(config)};
    assert_fails(op.c, op.type->bind(b, op.self, &spec), status, text);
    sv_binder_close(b);
    sv_weights_free(weights);
    sv_config_free(config);
    close_operator(&op);
}

START_TEST(settings_are_checked)
{
    refuses("RetNet", "{mode: chunk}", SV_BAD_INPUT, "n_head");
    refuses("RetNet", "{n_head: 3}", SV_BAD_INPUT, "n_head is 3");
    refuses("RetNet", "{n_head: 2, mode: parallel}", SV_UNSUPPORTED, "'parallel'");
    refuses("RetNet", "{n_head: 2, used_MLP: False}", SV_UNSUPPORTED, "used_MLP");
    refuses("RetNet", "{n_head: 2, layerscale: True}", SV_UNSUPPORTED, "layerscale");
    refuses("RetNet", "{n_head: 2, expand_v: 0}", SV_UNSUPPORTED, "expand_v");
    refuses("RetNet", "{n_head: 2, hidden_rate: 0}", SV_UNSUPPORTED, "hidden_rate");
    refuses("RWKV", "{shift_mode: time_shift}", SV_BAD_INPUT, "n_head");
    refuses("RWKV", "{n_head: 0, shift_mode: time_shift}", SV_BAD_INPUT, "n_head is 0");
    refuses("RWKV", "{n_head: 5, shift_mode: time_shift}", SV_BAD_INPUT, "n_head is 5");
    refuses("RWKV", "{n_head: 4}", SV_BAD_INPUT, "shift_mode");
    refuses("RWKV", "{n_head: 4, shift_mode: q_shift_multihead}", SV_UNSUPPORTED, "'q_shift_multihead'");
    refuses("RWKV", "{n_head: 4, shift_mode: time_shift, post_norm: True}", SV_UNSUPPORTED, "post_norm");
    refuses("RWKV", "{n_head: 4, shift_mode: time_shift, init_mode: plain}", SV_BAD_INPUT, "'plain'");
    refuses("RWKV", "{n_head: 4, shift_mode: time_shift, init_values: small}", SV_BAD_INPUT, "init_values");
}
END_TEST

START_TEST(streaming_is_refused)
{
    static const char *const operators[] = {"RetNet", "RWKV"}, *const cfg[] = {"{n_head: 2, " RETNET "}",
                                                                               "{n_head: 2, " RWKV "}"};
    for (int i = 0; i < 2; i++) {
        bound op = open_operator(operators[i], 1);
        sv_config *config = settings(op.c, cfg[i]);
        sv_weights *weights = sv_weights_new();
        bind_all(&op, weights, 1, 16, 1, sv_config_root(config));
        static float x[16 * 16];
        static int32_t slots[16];
        const sv_order order = {.slot_row = sv_view(slots, SV_I32, 16, 1),
                                .row_slot = sv_view(slots, SV_I32, 16, 1)};
        const sv_operator_state state = {.in = sv_view(x, SV_F32, 1, 256)};
        const sv_tensor v = sv_view(x, SV_F32, 16, 16);
        assert_fails(op.c, op.type->forward(op.c, op.self, v, v, &order, 16, &state), SV_UNSUPPORTED,
                     "state");
        sv_weights_free(weights);
        sv_config_free(config);
        close_operator(&op);
    }
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
