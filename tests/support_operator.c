/* SPDX-License-Identifier: Apache-2.0 */
#include "support_operator.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

test_operator operator_open(const operator_setting *setting, int threads)
{
    test_operator op = {
        .c = test_context(threads), .type = sv_operator_find(setting->name), .setting = *setting};
    ck_assert_msg(op.type != NULL, "no operator %s", setting->name);
    op.self = calloc(1, op.type->bytes);
    ck_assert_ptr_nonnull(op.self);
    assert_ok(op.c, sv_config_parse(op.c, setting->cfg, strlen(setting->cfg), "test", NULL, 0, &op.config));
    return op;
}

void operator_close(test_operator *op)
{
    free(op->self);
    sv_config_free(op->config);
    sv_arena_free(&op->arena);
    sv_ctx_close(op->c);
}

/* The arena must not move once it is in use. */
static sv_binder *start_binding(test_operator *op, sv_weights *weights, uint64_t seed)
{
    sv_arena_init(&op->arena, "model", op->c->device);
    op->c->weights = &op->arena;
    sv_binder *b = NULL;
    assert_ok(op->c,
              seed ? sv_binder_open_init(op->c, weights, seed, &b) : sv_binder_open(op->c, weights, &b));
    return b;
}

static sv_operator_spec spec_of(const test_operator *op)
{
    return (sv_operator_spec){.channels = op->setting.channels,
                              .layer = op->setting.layer,
                              .layers = 34,
                              .cfg = sv_config_root(op->config),
                              .type = op->type};
}

void operator_bind(test_operator *op, sv_weights *weights, uint64_t seed)
{
    sv_binder *b = start_binding(op, weights, seed);
    const sv_operator_spec spec = spec_of(op);
    assert_ok(op->c, op->type->bind(b, op->self, &spec));
    assert_ok(op->c, sv_binder_finish(b));
    assert_ok(op->c, sv_config_check_used(op->c, op->config));
    sv_binder_close(b);
}

void operator_refuses(const operator_setting *setting, sv_status status, const char *text)
{
    test_operator op = operator_open(setting, 1);
    sv_weights *weights = sv_weights_new();
    sv_binder *b = start_binding(&op, weights, 1);
    const sv_operator_spec spec = spec_of(&op);
    assert_fails(op.c, op.type->bind(b, op.self, &spec), status, text);
    sv_binder_close(b);
    sv_weights_free(weights);
    operator_close(&op);
}

void operator_misses_tensors(const operator_setting *setting, const char *text)
{
    test_operator op = operator_open(setting, 1);
    sv_weights *weights = sv_weights_new();
    sv_binder *b = start_binding(&op, weights, 0);
    const sv_operator_spec spec = spec_of(&op);
    assert_ok(op.c, op.type->bind(b, op.self, &spec));
    assert_fails(op.c, sv_binder_finish(b), SV_BAD_INPUT, text);
    sv_binder_close(b);
    sv_weights_free(weights);
    operator_close(&op);
}

/* Every slot its own row. */
static sv_order plain_order(int32_t *slots, int rows)
{
    for (int i = 0; i < rows; i++) slots[i] = i;
    return (sv_order){.slot_row = sv_view(slots, SV_I32, rows, 1),
                      .row_slot = sv_view(slots, SV_I32, rows, 1)};
}

void operator_refuses_state(const operator_setting *setting, const char *text)
{
    enum { ROWS = 16 };
    test_operator op = operator_open(setting, 1);
    sv_weights *weights = sv_weights_new();
    operator_bind(&op, weights, 1);
    float *x = calloc(ROWS * (size_t)setting->channels, sizeof *x);
    ck_assert_ptr_nonnull(x);
    int32_t slots[ROWS];
    const sv_order order = plain_order(slots, ROWS);
    const sv_operator_state state = {.in = sv_view(x, SV_F32, 1, ROWS)};
    const sv_tensor v = sv_view(x, SV_F32, ROWS, setting->channels);
    assert_fails(op.c, op.type->forward(op.c, op.self, v, v, &order, ROWS, &state), SV_UNSUPPORTED, text);
    free(x);
    sv_weights_free(weights);
    operator_close(&op);
}

void operator_init_is_damped(const operator_setting *setting)
{
    enum { ROWS = 256 };
    test_operator op = operator_open(setting, 1);
    sv_weights *weights = sv_weights_new();
    operator_bind(&op, weights, 9);
    const size_t count = ROWS * (size_t)setting->channels;
    float *x = malloc(count * sizeof *x), *y = malloc(count * sizeof *y);
    ck_assert(x && y);
    test_rng rng = {42};
    rng_fill(&rng, x, count, 1);
    int32_t slots[ROWS];
    const sv_order order = plain_order(slots, ROWS);
    assert_ok(op.c, op.type->forward(op.c, op.self, sv_view(y, SV_F32, ROWS, setting->channels),
                                     sv_view(x, SV_F32, ROWS, setting->channels), &order, ROWS / 2, NULL));
    double change = 0;
    for (size_t k = 0; k < count; k++)
        change += ((double)y[k] - (double)x[k]) * ((double)y[k] - (double)x[k]);
    change = sqrt(change / (double)count);
    ck_assert_msg(change > 0.005 && change < 0.7, "%s changes its input by %g", setting->name, change);
    free(x), free(y);
    sv_weights_free(weights);
    operator_close(&op);
}

sv_weights *operator_random_weights(const operator_setting *setting, test_rng *rng)
{
    test_operator op = operator_open(setting, 1);
    sv_weights *weights = sv_weights_new();
    operator_bind(&op, weights, 5);
    ck_assert_int_gt(sv_weights_count(weights), 0);
    for (int i = 0; i < sv_weights_count(weights); i++) {
        const sv_tensor t = sv_weights_tensor(weights, i);
        const int count = t.dim[0] * (int)sv_row_elements(t);
        for (int k = 0; k < count; k++) sv_f32(t)[k] += (float)rng_uniform(rng, -0.2, 0.2);
    }
    operator_close(&op);
    return weights;
}

/* ---- recordings ------------------------------------------------------------------------------------ */

static double largest(const h5_array *a)
{
    double most = 0;
    for (size_t i = 0; i < a->count; i++) most = fmax(most, fabs((double)a->f[i]));
    return most;
}

/* The recorded weights, under the names of 'like'. */
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

typedef struct recording {
    h5_file *file;
    const char *name; /* of the case */
    int groups, length, seen;
    double difference; /* float32 against float64 */
    recorded_as (*layout)(const char *intermediate);
} recording;

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
    const recorded_as as = r->layout ? r->layout(name) : (recorded_as){0};
    const int channels = tensor.dim[1],
              heads = theirs.ndim == 4    ? theirs.dim[1]
                      : as.channels_first ? channels
                                          : 1,
              width = channels / heads;
    ck_assert_int_eq(rows, r->groups * r->length);
    ck_assert_uint_eq(theirs.count, (size_t)rows * (size_t)channels);
    const double tolerance = fmax(10 * r->difference, 1e-5 * largest(&theirs));
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < channels; i++) {
            const int g = row / r->length,
                      t = as.reversed ? r->length - 1 - row % r->length : row % r->length;
            const double one = (double)ours[row * channels + i],
                         two =
                             (double)theirs.f[((g * heads + i / width) * r->length + t) * width + i % width];
            if (!(fabs(one - two) <= tolerance))
                ck_abort_msg("%s: slot %d channel %d is %.9g, recorded %.9g (tolerance %g)", path, row, i,
                             one, two, tolerance);
        }
    r->seen++;
    h5_free(&theirs);
    free(values);
    return SV_OK;
}

static void recorded_case(test_operator *op, recording r, int probes)
{
    char path[128];
    snprintf(path, sizeof path, "%s_maxabs_f64_f32", r.name);
    r.difference = h5_number(r.file, path);
    snprintf(path, sizeof path, "%s/input", r.name);
    h5_array input = h5_floats(r.file, path);
    snprintf(path, sizeof path, "%s/output", r.name);
    h5_array output = h5_floats(r.file, path);
    const int rows = r.groups * r.length;
    ck_assert_uint_eq(input.count, (size_t)rows * (size_t)op->setting.channels);
    int32_t slots[384];
    const sv_order order = plain_order(slots, rows);
    op->c->probe = probes > 0 ? compare_probe : NULL;
    op->c->probe_user = &r;
    const sv_tensor x = sv_view(input.f, SV_F32, rows, op->setting.channels);
    assert_ok(op->c, op->type->forward(op->c, op->self, x, x, &order, r.length, NULL));
    ck_assert_int_eq(r.seen, probes);
    assert_close(r.name, input.f, output.f, output.count, fmax(10 * r.difference, 1e-5 * largest(&output)),
                 0);
    h5_free(&input);
    h5_free(&output);
}

void operator_equals_recordings(const char *file_name, const operator_setting *setting, int probes,
                                recorded_as (*layout)(const char *intermediate))
{
    const char *folder = reference_folder();
    if (!folder) return;
    char path[512];
    snprintf(path, sizeof path, "%s/golden/lion/operators/%s.h5", folder, file_name);
    h5_file *file = h5_open(path, true);
    test_rng rng = {1};
    ck_assert_int_eq((int)h5_number(file, "d_model"), setting->channels);
    test_operator op = operator_open(setting, 2);
    sv_weights *like = operator_random_weights(setting, &rng), *weights = recorded_weights(op.c, file, like);
    operator_bind(&op, weights, 0);
    recorded_case(&op, (recording){file, "G1_L5", 1, 5, 0, 0, layout}, probes);
    recorded_case(&op, (recording){file, "G1_L77", 1, 77, 0, 0, layout}, probes);
    recorded_case(&op, (recording){file, "G2_L192", 2, 192, 0, 0, layout}, 0);
    sv_weights_free(like);
    sv_weights_free(weights);
    operator_close(&op);
    h5_close(file);
}

/* ---- random layouts -------------------------------------------------------------------------------- */

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

void operator_equals_oracle(const operator_setting *setting, int length, operator_oracle oracle,
                            double tolerance, test_rng *rng)
{
    test_operator op = operator_open(setting, 1), other = operator_open(setting, 3);
    sv_weights *weights = operator_random_weights(setting, rng);
    const int channels = setting->channels;
    operator_bind(&op, weights, 0);
    operator_bind(&other, weights, 0);

    layout l = random_layout(rng, length);
    const size_t count = (size_t)(l.rows + SPARE) * (size_t)channels,
                 slot_count = (size_t)(l.slots * channels);
    float *x = malloc(count * sizeof *x), *y = malloc(count * sizeof *y),
          *again = malloc(count * sizeof *again), *wanted = malloc(count * sizeof *wanted);
    double *in = malloc((slot_count + 1) * sizeof *in), *out = malloc((slot_count + 1) * sizeof *out);
    ck_assert(x && y && again && wanted && in && out);
    rng_fill(rng, x, count, 1);
    memcpy(again, x, count * sizeof *x);
    for (int k = 0; k < l.slots; k++)
        for (int i = 0; i < channels; i++) in[k * channels + i] = x[l.slot_row[k] * channels + i];
    oracle(out, in, weights, setting, l.slots / length, length);
    double most = 1;
    for (int r = 0; r < l.rows; r++)
        for (int i = 0; i < channels; i++) {
            wanted[r * channels + i] = (float)out[l.row_slot[r] * channels + i];
            most = fmax(most, fabs((double)wanted[r * channels + i]));
        }

    sv_order order = {.slot_row = sv_view(l.slot_row, SV_I32, l.slots + length, 1),
                      .row_slot = sv_view(l.row_slot, SV_I32, l.rows + SPARE, 1)};
    order.slot_row.offsets = l.slot_offsets, order.slot_row.batch = 2;
    sv_tensor vx = sv_view(x, SV_F32, l.rows + SPARE, channels), vy, vagain;
    vx.offsets = l.offsets, vx.batch = 2;
    vy = vagain = vx;
    vy.data = y, vagain.data = again;
    assert_ok(op.c, op.type->forward(op.c, op.self, vy, vx, &order, length, NULL));
    assert_close(setting->name, y, wanted, (size_t)(l.rows * channels), tolerance * most, 0);
    assert_ok(other.c, other.type->forward(other.c, other.self, vagain, vagain, &order, length, NULL));
    ck_assert_mem_eq(again, y, (size_t)(l.rows * channels) * sizeof *y); /* three threads, in place */
    ck_assert_mem_eq(again + l.rows * channels, x + l.rows * channels,
                     (size_t)(SPARE * channels) * sizeof *x);

    free(l.slot_row), free(l.row_slot), free(x), free(y), free(again), free(wanted), free(in), free(out);
    sv_weights_free(weights);
    operator_close(&op);
    operator_close(&other);
}
