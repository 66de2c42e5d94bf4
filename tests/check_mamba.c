/* SPDX-License-Identifier: Apache-2.0
 *
 * The Mamba operator: recordings of the official code, a double-precision oracle on random shapes, binding.
 */
#include "oracle_scan.h"
#include "support.h"
#include "support_h5.h"

#include "backbones/operator.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
    "mamba.in_proj.weight",
    "mamba.out_proj.weight",
    "mamba.conv1d.weight",
    "mamba.conv1d.bias",
    "mamba.conv1d_b.weight",
    "mamba.conv1d_b.bias",
    "mamba.x_proj.weight",
    "mamba.x_proj_b.weight",
    "mamba.dt_proj.weight",
    "mamba.dt_proj_b.weight",
    "mamba.dt_proj.bias",
    "mamba.dt_proj_b.bias",
    "mamba.A_log",
    "mamba.A_b_log",
    "mamba.D",
    "mamba.D_b",
    "norm.weight",
    "norm.bias",
};
enum { NAMES = sizeof names / sizeof names[0] };

/* ---- set-up ------------------------------------------------------------------------------------- */

typedef struct bound {
    sv_ctx *c;
    sv_arena arena;
    void *self;
    const sv_operator *type;
} bound;

static bound open_operator(int threads)
{
    bound op = {.c = test_context(threads), .type = sv_operator_find("Mamba")};
    ck_assert_ptr_nonnull(op.type);
    op.self = calloc(1, op.type->bytes);
    ck_assert_ptr_nonnull(op.self);
    return op;
}

/* The arena must not move once it is in use. */
static sv_binder *start_binding(bound *op, sv_weights *weights, bool init)
{
    sv_arena_init(&op->arena, "model", op->c->device);
    op->c->weights = &op->arena;
    sv_binder *b = NULL;
    assert_ok(op->c, init ? sv_binder_open_init(op->c, weights, 5, &b) : sv_binder_open(op->c, weights, &b));
    return b;
}

static void close_operator(bound *op)
{
    free(op->self);
    sv_arena_free(&op->arena);
    sv_ctx_close(op->c);
}

static void bind_all(bound *op, sv_weights *weights, bool init, int channels, const sv_node *cfg)
{
    sv_binder *b = start_binding(op, weights, init);
    const sv_operator_spec spec = {.channels = channels, .layers = 1, .cfg = cfg};
    assert_ok(op->c, op->type->bind(b, op->self, &spec));
    assert_ok(op->c, sv_binder_finish(b));
    sv_binder_close(b);
}

/* ---- recordings ---------------------------------------------------------------------------------- */

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

/* Recorded [G, channels, L], the backward direction in reversed time; ours [G*L, channels] in slot order. */
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
    const int channels = tensor.dim[1];
    ck_assert_int_eq(rows, r->groups * r->length);
    ck_assert_uint_eq(theirs.count, (size_t)rows * (size_t)channels);
    const bool transposed = strncmp(name, "mixer", 5) != 0, reversed = strncmp(name, "bwd", 3) == 0;
    const double tolerance = fmax(10 * r->difference, 1e-5 * largest(&theirs));
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < channels; i++) {
            const int g = row / r->length, t = reversed ? r->length - 1 - row % r->length : row % r->length;
            const float expected =
                theirs.f[transposed ? (g * channels + i) * r->length + t : row * channels + i];
            if (!(fabs((double)ours[row * channels + i] - (double)expected) <= tolerance))
                ck_abort_msg("%s: slot %d channel %d is %.9g, recorded %.9g (tolerance %g)", path, row, i,
                             (double)ours[row * channels + i], (double)expected, tolerance);
        }
    r->seen++;
    h5_free(&theirs);
    free(values);
    return SV_OK;
}

START_TEST(official_recordings)
{
    const char *folder = reference_folder();
    if (!folder) return;
    char path[512];
    snprintf(path, sizeof path, "%s/golden/lion/operators/mamba.h5", folder);
    h5_file *file = h5_open(path, true);
    bound op = open_operator(2);
    sv_weights *weights = sv_weights_new();
    for (int i = 0; i < NAMES; i++) {
        snprintf(path, sizeof path, "weights/%s", names[i]);
        h5_array values = h5_floats(file, path);
        sv_tensor t = {.data = values.f, .ndim = (uint8_t)values.ndim, .dtype = SV_F32};
        for (int k = 0; k < values.ndim; k++) t.dim[k] = values.dim[k];
        t.pitch = (int32_t)sv_row_elements(t);
        assert_ok(op.c, sv_weights_add(op.c, weights, names[i], t));
        h5_free(&values);
    }
    bind_all(&op, weights, false, 64, NULL);

    static const struct {
        const char *name;
        int groups, length, probes;
    } cases[] = {{"G1_L5", 1, 5, 13}, {"G1_L77", 1, 77, 13}, {"G2_L192", 2, 192, 0}};
    for (int k = 0; k < 3; k++) {
        recording r = {
            .file = file, .name = cases[k].name, .groups = cases[k].groups, .length = cases[k].length};
        snprintf(path, sizeof path, "%s_maxabs_f64_f32", r.name);
        r.difference = h5_number(file, path);
        snprintf(path, sizeof path, "%s/input", r.name);
        h5_array input = h5_floats(file, path);
        snprintf(path, sizeof path, "%s/output", r.name);
        h5_array output = h5_floats(file, path);
        const int rows = r.groups * r.length;
        ck_assert_uint_eq(input.count, (size_t)rows * 64);
        int32_t slots[384];
        for (int i = 0; i < rows; i++) slots[i] = i;
        const sv_order order = {.slot_row = sv_view(slots, SV_I32, rows, 1),
                                .row_slot = sv_view(slots, SV_I32, rows, 1)};
        if (cases[k].probes > 0) {
            op.c->probe = compare_probe;
            op.c->probe_user = &r;
        } else {
            op.c->probe = NULL;
        }
        const sv_tensor x = sv_view(input.f, SV_F32, rows, 64);
        assert_ok(op.c, op.type->forward(op.c, op.self, x, x, &order, r.length, NULL));
        ck_assert_int_eq(r.seen, cases[k].probes);
        assert_close(r.name, input.f, output.f, output.count,
                     fmax(10 * r.difference, 1e-5 * largest(&output)), 0);
        h5_free(&input);
        h5_free(&output);
    }
    sv_weights_free(weights);
    h5_close(file);
    close_operator(&op);
}
END_TEST

/* ---- random shapes ------------------------------------------------------------------------------- */

/* Init weights with the constant ones made random, so that every tensor matters. */
static void disturb(sv_weights *weights, test_rng *rng)
{
    for (int i = 0; i < sv_weights_count(weights); i++) {
        const sv_tensor t = sv_weights_tensor(weights, i);
        const int count = t.dim[0] * (int)sv_row_elements(t);
        for (int k = 0; k < count; k++) sv_f32(t)[k] += (float)rng_uniform(rng, -0.2, 0.2);
    }
}

static oracle_mamba oracle_of(const sv_weights *weights, int width, int inner, int states, int taps)
{
    const float *w[NAMES];
    for (int i = 0; i < NAMES; i++) {
        w[i] = sv_weights_find(weights, names[i]).data;
        ck_assert_msg(w[i] != NULL, "no %s", names[i]);
    }
    oracle_mamba m = {
        .width = width, .inner = inner, .rank = (width + 15) / 16, .states = states, .taps = taps};
    m.in_proj = w[0], m.out_proj = w[1], m.norm_weight = w[16], m.norm_bias = w[17];
    for (int i = 0; i < 2; i++)
        m.direction[i] = (oracle_direction){.conv_weight = w[2 + 2 * i],
                                            .conv_bias = w[3 + 2 * i],
                                            .x_proj = w[6 + i],
                                            .dt_weight = w[8 + i],
                                            .dt_bias = w[10 + i],
                                            .a_log = w[12 + i],
                                            .d = w[14 + i]};
    return m;
}

static int count_scalars(sv_weights *weights)
{
    int total = 0;
    for (int i = 0; i < sv_weights_count(weights); i++)
        total += sv_weights_tensor(weights, i).dim[0] * (int)sv_row_elements(sv_weights_tensor(weights, i));
    return total;
}

/*
 * Two samples; a shuffled order; the tail of each sample's last group repeats rows, as the window orders do.
 * The results of repeats are dropped, yet they take part in the backward walk.
 */
static void random_case(test_rng *rng, int width, int states, int taps, int expand, int length)
{
    char text[96];
    snprintf(text, sizeof text, "{d_state: %d, d_conv: %d, expand: %d, drop_path: 0.2, with_cp: True}",
             states, taps, expand);
    bound op = open_operator(1), other = open_operator(3);
    sv_weights *weights = sv_weights_new();
    sv_config *config = NULL;
    assert_ok(op.c, sv_config_parse(op.c, text, strlen(text), "test", NULL, 0, &config));
    bind_all(&op, weights, true, width, sv_config_root(config));
    assert_ok(op.c, sv_config_check_used(op.c, config));
    disturb(weights, rng);
    ck_assert_int_gt(count_scalars(weights), 0);
    sv_arena_free(&op.arena);
    bind_all(&op, weights, false, width, sv_config_root(config));
    bind_all(&other, weights, false, width, sv_config_root(config));

    int32_t offsets[3] = {0}, slot_offsets[3] = {0};
    for (int b = 0; b < 2; b++) {
        const int n = (int)(rng_u64(rng) % (uint64_t)(3 * length));
        offsets[b + 1] = offsets[b] + n;
        slot_offsets[b + 1] = slot_offsets[b] + (n + length - 1) / length * length;
    }
    const int rows = offsets[2], slots = slot_offsets[2], spare = 3; /* capacity beyond the live rows */
    int32_t *slot_row = calloc((size_t)(slots + length), sizeof *slot_row),
            *row_slot = calloc((size_t)(rows + spare), sizeof *row_slot);
    ck_assert(slot_row && row_slot);
    for (int b = 0; b < 2; b++) {
        const int n = offsets[b + 1] - offsets[b];
        for (int i = 0; i < slot_offsets[b + 1] - slot_offsets[b]; i++) {
            slot_row[slot_offsets[b] + i] = offsets[b] + i % n;
            if (i < n) row_slot[offsets[b] + i] = slot_offsets[b] + i;
        }
        for (int i = n - 1; i > 0; i--) { /* shuffle the ranks */
            const int k = (int)(rng_u64(rng) % (uint64_t)(i + 1));
            const int32_t one = slot_row[slot_offsets[b] + i], two = slot_row[slot_offsets[b] + k];
            slot_row[slot_offsets[b] + i] = two, slot_row[slot_offsets[b] + k] = one;
            row_slot[one] = slot_offsets[b] + k, row_slot[two] = slot_offsets[b] + i;
        }
    }
    const size_t count = (size_t)(rows + spare) * (size_t)width;
    float *x = malloc(count * sizeof *x), *y = malloc(count * sizeof *y),
          *again = malloc(count * sizeof *again);
    float *wanted = malloc(count * sizeof *wanted);
    double *in = malloc(((size_t)(slots * width) + 1) * sizeof *in),
           *out = malloc(((size_t)(slots * width) + 1) * sizeof *out);
    ck_assert(x && y && again && wanted && in && out);
    rng_fill(rng, x, count, 1);
    memcpy(again, x, count * sizeof *x);
    for (int s = 0; s < slots; s++)
        for (int i = 0; i < width; i++) in[s * width + i] = x[slot_row[s] * width + i];
    const oracle_mamba m = oracle_of(weights, width, expand * width, states, taps);
    oracle_mamba_block(out, in, &m, slots / length, length);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < width; i++) wanted[r * width + i] = (float)out[row_slot[r] * width + i];

    sv_order order = {.slot_row = sv_view(slot_row, SV_I32, slots + length, 1),
                      .row_slot = sv_view(row_slot, SV_I32, rows + spare, 1)};
    order.slot_row.offsets = slot_offsets, order.slot_row.batch = 2;
    sv_tensor vx = sv_view(x, SV_F32, rows + spare, width), vy = vx, vagain = vx;
    vx.offsets = offsets, vx.batch = 2;
    vy = vagain = vx;
    vy.data = y, vagain.data = again;
    assert_ok(op.c, op.type->forward(op.c, op.self, vy, vx, &order, length, NULL));
    assert_close("Mamba", y, wanted, (size_t)(rows * width), 5e-5, 0); /* LayerNorm makes the values O(1) */
    assert_ok(other.c, other.type->forward(other.c, other.self, vagain, vagain, &order, length, NULL));
    ck_assert_mem_eq(again, y, (size_t)(rows * width) * sizeof *y); /* three threads, in place */
    ck_assert_mem_eq(again + rows * width, x + rows * width, (size_t)(spare * width) * sizeof *x);

    free(slot_row), free(row_slot), free(x), free(y), free(again), free(wanted), free(in), free(out);
    sv_config_free(config);
    sv_weights_free(weights);
    close_operator(&op);
    close_operator(&other);
}

START_TEST(random_shapes_equal_the_oracle)
{
    test_rng rng = {21};
    random_case(&rng, 64, 16, 4, 2, 32);
    random_case(&rng, 8, 16, 4, 2, 100);
    random_case(&rng, 17, 5, 3, 1, 70);
    random_case(&rng, 33, 1, 1, 3, 9);
    random_case(&rng, 4, 64, 8, 2, 1);
    random_case(&rng, 24, 3, 2, 2, 65);
}
END_TEST

/* ---- binding ------------------------------------------------------------------------------------- */

START_TEST(init_follows_the_paper)
{
    bound op = open_operator(1);
    sv_weights *weights = sv_weights_new();
    bind_all(&op, weights, true, 64, NULL);
    const float *a_log = sv_weights_find(weights, "mamba.A_b_log").data,
                *d = sv_weights_find(weights, "mamba.D").data;
    const sv_tensor bias = sv_weights_find(weights, "mamba.dt_proj.bias");
    ck_assert_int_eq(bias.dim[0], 128);
    int slow = 0;
    for (int i = 0; i < 128; i++) {
        ck_assert_double_eq_tol((double)a_log[i * 16 + i % 16], log(1.0 + i % 16), 1e-6);
        ck_assert_float_eq(d[i], 1);
        const double step = oracle_softplus((double)sv_f32(bias)[i]);
        ck_assert(step > 0.000999 && step < 0.1001);
        slow += step < 0.01; /* half of them, on a logarithmic scale */
    }
    ck_assert(slow > 40 && slow < 88);
    ck_assert_int_eq(sv_weights_find(weights, "mamba.conv1d.weight").ndim, 3);
    sv_weights_free(weights);
    close_operator(&op);
}
END_TEST

START_TEST(missing_tensors_and_bad_settings_are_named)
{
    bound op = open_operator(1);
    sv_weights *weights = sv_weights_new();
    sv_binder *b = start_binding(&op, weights, false);
    const sv_operator_spec spec = {.channels = 16, .layers = 1};
    assert_ok(op.c, op.type->bind(b, op.self, &spec));
    assert_fails(op.c, sv_binder_finish(b), SV_BAD_INPUT, "18 ");
    static const char *const settings[] = {"{d_state: 65}", "{d_conv: 0}", "{expand: many}"};
    static const char *const words[] = {"d_state is 65", "d_conv is 0", "expand"};
    for (int i = 0; i < 3; i++) {
        sv_config *config = NULL;
        assert_ok(op.c, sv_config_parse(op.c, settings[i], strlen(settings[i]), "test", NULL, 0, &config));
        const sv_operator_spec wrong = {.channels = 16, .layers = 1, .cfg = sv_config_root(config)};
        const sv_status status = op.type->bind(b, op.self, &wrong);
        ck_assert(status == SV_UNSUPPORTED || status == SV_BAD_INPUT);
        assert_fails(op.c, status, status, words[i]);
        sv_config_free(config);
    }
    sv_binder_close(b);
    sv_weights_free(weights);
    close_operator(&op);
}
END_TEST

START_TEST(operators_are_found_by_name)
{
    ck_assert_ptr_eq(sv_operator_find("Mamba"), &sv_operator_mamba);
    ck_assert_ptr_null(sv_operator_find("mamba2"));
    int count = 0;
    while (sv_operator_at(count)) count++;
    ck_assert_int_ge(count, 1);
    ck_assert_ptr_null(sv_operator_at(-1));
    ck_assert_ptr_null(sv_operator_at(count + 1));
}
END_TEST

START_TEST(carried_state_is_refused)
{
    bound op = open_operator(1);
    sv_weights *weights = sv_weights_new();
    bind_all(&op, weights, true, 16, NULL);
    float x[4 * 16] = {0};
    int32_t slots[4] = {0, 1, 2, 3};
    const sv_order order = {.slot_row = sv_view(slots, SV_I32, 4, 1),
                            .row_slot = sv_view(slots, SV_I32, 4, 1)};
    const sv_operator_state state = {.in = sv_view(x, SV_F32, 1, 64)};
    const sv_tensor rows = sv_view(x, SV_F32, 4, 16);
    assert_fails(op.c, op.type->forward(op.c, op.self, rows, rows, &order, 4, &state), SV_UNSUPPORTED,
                 "no state");
    sv_weights_free(weights);
    close_operator(&op);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mamba");
    TCase *cases = tcase_create("operator");
    tcase_set_timeout(cases, 300);
    tcase_add_test(cases, official_recordings);
    tcase_add_test(cases, random_shapes_equal_the_oracle);
    tcase_add_test(cases, init_follows_the_paper);
    tcase_add_test(cases, missing_tensors_and_bad_settings_are_named);
    tcase_add_test(cases, operators_are_found_by_name);
    tcase_add_test(cases, carried_state_is_refused);
    suite_add_tcase(suite, cases);
    return run_suite(suite, true);
}
