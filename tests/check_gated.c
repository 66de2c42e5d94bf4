/* SPDX-License-Identifier: Apache-2.0
 *
 * mlstm, ttt_linear, head_norm and block_linear against double-precision oracles, for every instruction set the
 * processor has, and the first two against recordings of their authors' code.
 */
#include "oracle_gated.h"
#include "support.h"
#include "support_h5.h"

#include "perception/core/simd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- random problems ------------------------------------------------------------------------------- */

static int pick(test_rng *rng, int from, int to)
{
    return from + (int)(rng_u64(rng) % (uint64_t)(to - from + 1));
}
#define ANY(rng, list) list[rng_u64(rng) % (sizeof list / sizeof list[0])]

static float *random_floats(test_rng *rng, size_t count, double from, double to)
{
    float *values = malloc((count + 1) * sizeof *values);
    ck_assert_ptr_nonnull(values);
    for (size_t i = 0; i < count; i++) values[i] = (float)rng_uniform(rng, from, to);
    return values;
}

enum { UNTOUCHED = 0x55 };
static float *output(size_t count)
{
    float *y = malloc((count + 1) * sizeof *y);
    ck_assert_ptr_nonnull(y);
    memset(y, UNTOUCHED, (count + 1) * sizeof *y);
    return y;
}
static void assert_untouched(const float *y, size_t count)
{
    size_t same = 0;
    while (same < count * sizeof *y && ((const unsigned char *)y)[same] == UNTOUCHED) same++;
    ck_assert_uint_eq(same, count * sizeof *y);
}

static double *widen(const float *x, int rows, int columns, int pitch)
{
    double *y = malloc(((size_t)rows * (size_t)columns + 1) * sizeof *y);
    ck_assert_ptr_nonnull(y);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < columns; i++) y[r * columns + i] = (double)x[r * pitch + i];
    return y;
}

/* Tests run in processes of their own, so that each can have its instruction set. */
static void use_isa(int isa)
{
    ck_assert_int_eq(setenv("SAVANNA_ISA", sv_isa_name((sv_isa)isa), 1), 0);
    if ((int)sv_simd_isa() != isa)
        printf("SKIPPED %s: this process runs %s\n", sv_isa_name((sv_isa)isa), sv_isa_name(sv_simd_isa()));
}

/*
 * q, k, v and the gates (for TTT-Linear the first of them is the rate) lie side by side in rows of 'pitch'
 * floats; what is around them is never to be read.
 */
typedef struct problem {
    int groups, length, heads, keys, values; /* of a head */
    int rows, slots, capacity, pitch, state;
    bool indexed, reverse;
    float *all, *state_in;
    int32_t *index, offsets[2];
} problem;

static problem make(test_rng *rng, int groups, int length, int heads, int keys, int values)
{
    problem p = {.groups = groups, .length = length, .heads = heads, .keys = keys, .values = values};
    p.indexed = rng_u64(rng) % 3 != 0;
    p.reverse = rng_u64(rng) % 2 != 0;
    p.slots = groups * length;
    p.capacity = p.slots + 2 * length;
    p.rows = p.indexed ? pick(rng, 1, p.slots + 3) : p.capacity;
    p.offsets[1] = p.slots;
    p.pitch = heads * (2 * keys + values + 2) + pick(rng, 0, 5);
    p.all = random_floats(rng, (size_t)p.rows * (size_t)p.pitch, -1.5, 1.5);
    p.index = malloc((size_t)p.capacity * sizeof *p.index);
    ck_assert_ptr_nonnull(p.index);
    for (int i = 0; i < p.capacity; i++) p.index[i] = pick(rng, -1, p.rows - 1);
    return p;
}

static void discard(problem *p)
{
    free(p->all), free(p->state_in), free(p->index);
}

/* Columns first..first+count-1. */
static sv_tensor part(const problem *p, int first, int count)
{
    sv_tensor t = sv_view(p->all + first, SV_F32, p->rows, count);
    t.pitch = p->pitch;
    return t;
}
static sv_tensor q_of(const problem *p)
{
    return part(p, 0, p->heads * p->keys);
}
static sv_tensor k_of(const problem *p)
{
    return part(p, p->heads * p->keys, p->heads * p->keys);
}
static sv_tensor v_of(const problem *p)
{
    return part(p, 2 * p->heads * p->keys, p->heads * p->values);
}
static sv_tensor gate_of(const problem *p, int i)
{
    return part(p, p->heads * (2 * p->keys + p->values + i), p->heads);
}

static void fill_gate(test_rng *rng, problem *p, int gate, double from, double to)
{
    const sv_tensor t = gate_of(p, gate);
    for (int r = 0; r < p->rows; r++)
        for (int h = 0; h < p->heads; h++) sv_f32(t)[r * p->pitch + h] = (float)rng_uniform(rng, from, to);
}

static sv_tensor live(sv_tensor t, const problem *p)
{
    t.offsets = p->offsets;
    t.batch = 1;
    return t;
}

static sv_sequence sequence(const problem *p)
{
    sv_sequence seq = {.length = p->length, .reverse = p->reverse};
    if (p->indexed) seq.index = live(sv_view(p->index, SV_I32, p->capacity, 1), p);
    return seq;
}

static sv_tensor result(const problem *p, float *y)
{
    return live(sv_view(y, SV_F32, p->capacity, p->heads * p->values), p);
}

static sv_tensor states(const problem *p, float *data)
{
    return sv_view(data, SV_F32, p->capacity / p->length, p->heads * p->state);
}

static double *wide(sv_tensor t)
{
    return widen(sv_f32(t), t.dim[0], t.dim[1], t.pitch);
}

static oracle_sequence plain_sequence(const problem *p)
{
    return (oracle_sequence){.groups = p->groups,
                             .length = p->length,
                             .index = p->indexed ? p->index : NULL,
                             .reverse = p->reverse};
}

static const int lengths[] = {1, 2, 15, 16, 17, 31, 32, 33, 48, 75};
static const int head_counts[] = {1, 2, 3, 4};

/* ---- mLSTM ------------------------------------------------------------------------------------------ */

static const float EPS = 1e-6f;

static sv_status run_mlstm(sv_ctx *c, const problem *p, float *y, const sv_sequence *seq)
{
    return sv_mlstm(c, result(p, y), q_of(p), k_of(p), v_of(p), gate_of(p, 0), gate_of(p, 1), p->heads, EPS,
                    seq);
}

static problem mlstm_problem(test_rng *rng, int groups, int length)
{
    static const int key_counts[] = {1, 3, 8, 16, 20, 32, 33, 64},
                     value_counts[] = {1, 5, 8, 12, 16, 32, 40, 65};
    const int heads = ANY(rng, head_counts), keys = ANY(rng, key_counts), values = ANY(rng, value_counts);
    problem p = make(rng, groups, length ? length : ANY(rng, lengths), heads, keys, values);
    p.state = keys * values + keys + 1;
    p.state_in = random_floats(rng, (size_t)(p.capacity / p.length * heads * p.state), -1, 1);
    fill_gate(rng, &p, 0, -3, 3);
    fill_gate(rng, &p, 1, -2, 6);
    return p;
}

/*
 * Errors are measured against what a relative error of 1 in every term would do ('noise'): where terms cancel in
 * the normaliser, no float32 result can be better.
 */
static void mlstm_equals_oracle(sv_ctx *c, problem *p, bool carried, double tolerance)
{
    const int wide_values = p->heads * p->values, total = p->groups * p->heads * p->state;
    float *y = output((size_t)(p->capacity * wide_values)),
          *state = output((size_t)(p->capacity / p->length * p->heads * p->state));
    double *q = wide(q_of(p)), *k = wide(k_of(p)), *v = wide(v_of(p)), *igate = wide(gate_of(p, 0)),
           *fgate = wide(gate_of(p, 1)), *in = widen(p->state_in, 1, total, total);
    double *expected = calloc((size_t)(p->slots * wide_values) + 1, sizeof *expected),
           *noise = calloc((size_t)(p->slots * p->heads) + 1, sizeof *noise),
           *expected_state = calloc((size_t)total + 1, sizeof *expected_state);
    ck_assert(expected && noise && expected_state);
    sv_sequence seq = sequence(p);
    oracle_sequence plain = plain_sequence(p);
    plain.state_out = expected_state;
    seq.state_out = states(p, state);
    if (carried) {
        seq.state_in = states(p, p->state_in);
        plain.state_in = in;
    }
    oracle_mlstm(expected, noise, q, k, v, igate, fgate, (oracle_heads){p->heads, p->keys, p->values},
                 (double)EPS, &plain);
    assert_ok(c, run_mlstm(c, p, y, &seq));
    for (int i = 0; i < p->slots * wide_values; i++) {
        const double allowed = 1e-9 + tolerance * noise[i / p->values];
        if (!(fabs((double)y[i] - expected[i]) <= allowed))
            ck_abort_msg("%d tokens, %d keys, %d values: slot %d value %d is %.9g, expected %.9g (+-%g)",
                         p->length, p->keys, p->values, i / wide_values, i % wide_values, (double)y[i],
                         expected[i], allowed);
    }
    assert_untouched(y + p->slots * wide_values, (size_t)((p->capacity - p->slots) * wide_values));
    for (int head = 0; head < p->groups * p->heads; head++) {
        const float *ours = state + head * p->state;
        const double *theirs = expected_state + head * p->state, m = theirs[p->state - 1];
        ck_assert_double_eq_tol((double)ours[p->state - 1], m, 2e-7 * fabs(m) + 1e-6);
        /* C and n belong to our m, which is a float */
        const double scale = exp(m - (double)ours[p->state - 1]);
        for (int i = 0; i + 1 < p->state; i++)
            if (!(fabs((double)ours[i] - scale * theirs[i]) <= 2e-6 * fmax(4, fabs(theirs[i]))))
                ck_abort_msg("state %d is %.9g, expected %.9g", i, (double)ours[i], scale * theirs[i]);
    }
    void *all[] = {y, state, q, k, v, igate, fgate, in, expected, noise, expected_state};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
}

START_TEST(mlstm_equals_the_oracle)
{
    use_isa(_i);
    sv_ctx *c = test_context(1);
    test_rng rng = {61};
    for (int i = 0; i < 40; i++) {
        problem p = mlstm_problem(&rng, pick(&rng, 0, 3), 0);
        mlstm_equals_oracle(c, &p, i % 2 != 0, 1e-6);
        discard(&p);
    }
    sv_ctx_close(c);
}
END_TEST

/* Gates far beyond what e^x holds in float32: the running maximum takes them all. */
START_TEST(mlstm_survives_extreme_gates)
{
    use_isa(_i);
    sv_ctx *c = test_context(1);
    test_rng rng = {62};
    for (int i = 0; i < 12; i++) {
        problem p = mlstm_problem(&rng, 1, 50);
        fill_gate(&rng, &p, 0, -400, i % 2 ? 400 : -80);
        fill_gate(&rng, &p, 1, i % 3 ? -300 : -2, i % 3 == 1 ? -100 : 300);
        mlstm_equals_oracle(c, &p, i % 4 > 1, 3e-6);
        discard(&p);
    }
    sv_ctx_close(c);
}
END_TEST

/* ---- TTT-Linear ------------------------------------------------------------------------------------- */

typedef struct model {
    sv_ttt_weights weights;
    oracle_ttt_model plain;
    float *w, *b, *norm_weight, *norm_bias, *token, *rotary;
    double *angle;
} model;

static model make_model(test_rng *rng, const problem *p, int batch, bool rotary)
{
    const int width = p->keys, wide_width = p->heads * width;
    model m = {0};
    m.w = random_floats(rng, (size_t)(wide_width * width), -0.5, 0.5);
    m.b = random_floats(rng, (size_t)wide_width, -0.5, 0.5);
    m.norm_weight = random_floats(rng, (size_t)wide_width, 0.5, 1.5);
    m.norm_bias = random_floats(rng, (size_t)wide_width, -0.5, 0.5);
    m.token = random_floats(rng, (size_t)batch, 0, 1);
    m.rotary = output((size_t)(batch * width));
    m.angle = malloc((size_t)(batch * width + 1) * sizeof *m.angle);
    ck_assert_ptr_nonnull(m.angle);
    for (int i = 0; i < batch * (width / 2); i++) {
        m.angle[i] = rng_uniform(rng, -4, 4);
        m.rotary[2 * i] = (float)cos(m.angle[i]), m.rotary[2 * i + 1] = (float)sin(m.angle[i]);
    }
    m.weights = (sv_ttt_weights){.heads = p->heads,
                                 .eps = EPS,
                                 .w = sv_view(m.w, SV_F32, wide_width, width),
                                 .b = sv_view(m.b, SV_F32, p->heads, width),
                                 .norm_weight = sv_view(m.norm_weight, SV_F32, p->heads, width),
                                 .norm_bias = sv_view(m.norm_bias, SV_F32, p->heads, width),
                                 .token = sv_view(m.token, SV_F32, 1, batch)};
    if (rotary) m.weights.rotary = sv_view(m.rotary, SV_F32, batch, width);
    m.plain = (oracle_ttt_model){.heads = p->heads,
                                 .width = width,
                                 .batch = batch,
                                 .eps = (double)EPS,
                                 .w = widen(m.w, wide_width, width, width),
                                 .b = widen(m.b, 1, wide_width, wide_width),
                                 .norm_weight = widen(m.norm_weight, 1, wide_width, wide_width),
                                 .norm_bias = widen(m.norm_bias, 1, wide_width, wide_width),
                                 .token = widen(m.token, 1, batch, batch),
                                 .angle = rotary ? m.angle : NULL};
    return m;
}

static void discard_model(model *m)
{
    void *all[] = {m->w, m->b, m->norm_weight, m->norm_bias, m->token, m->rotary, m->angle};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    const double *plain[] = {m->plain.w, m->plain.b, m->plain.norm_weight, m->plain.norm_bias,
                             m->plain.token};
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) free((void *)(uintptr_t)plain[i]);
}

static problem ttt_problem(test_rng *rng, int groups, int length)
{
    static const int widths[] = {1, 2, 5, 8, 16, 16, 20, 32, 33};
    const int heads = ANY(rng, head_counts), width = ANY(rng, widths);
    problem p = make(rng, groups, length ? length : ANY(rng, lengths), heads, width, width);
    p.state = width * width + width;
    p.state_in = random_floats(rng, (size_t)(p.capacity / p.length * heads * p.state), -0.5, 0.5);
    fill_gate(rng, &p, 0, 0, 0.5 / width); /* rates as the official gate gives them */
    return p;
}

static sv_status run_ttt(sv_ctx *c, const problem *p, const model *m, float *y, const sv_sequence *seq)
{
    return sv_ttt_linear(c, result(p, y), q_of(p), k_of(p), v_of(p), gate_of(p, 0), &m->weights, seq);
}

static void assert_relative(const char *what, const float *y, const double *expected, int count, double share)
{
    double most = 1;
    for (int i = 0; i < count; i++) most = fmax(most, fabs(expected[i]));
    for (int i = 0; i < count; i++)
        if (!(fabs((double)y[i] - expected[i]) <= share * most))
            ck_abort_msg("%s %d is %.9g, expected %.9g (+-%g)", what, i, (double)y[i], expected[i],
                         share * most);
}

START_TEST(ttt_equals_the_oracle)
{
    use_isa(_i);
    sv_ctx *c = test_context(1);
    test_rng rng = {63};
    for (int round = 0; round < 40; round++) {
        problem p = ttt_problem(&rng, pick(&rng, 0, 3), 0);
        model m = make_model(&rng, &p, round % 3 ? 16 : pick(&rng, 1, 16), p.keys % 2 == 0 && round % 4 != 0);
        const int wide_values = p.heads * p.values, total = p.groups * p.heads * p.state;
        float *y = output((size_t)(p.capacity * wide_values)),
              *state = output((size_t)(p.capacity / p.length * p.heads * p.state));
        double *q = wide(q_of(&p)), *k = wide(k_of(&p)), *v = wide(v_of(&p)), *rate = wide(gate_of(&p, 0)),
               *in = widen(p.state_in, 1, total, total);
        double *expected = calloc((size_t)(p.slots * wide_values) + 1, sizeof *expected),
               *expected_state = calloc((size_t)total + 1, sizeof *expected_state);
        ck_assert(expected && expected_state);
        sv_sequence seq = sequence(&p);
        oracle_sequence plain = plain_sequence(&p);
        seq.state_out = states(&p, state);
        plain.state_out = expected_state;
        if (round % 2) {
            seq.state_in = states(&p, p.state_in);
            plain.state_in = in;
        }
        oracle_ttt(expected, q, k, v, rate, &m.plain, &plain);
        assert_ok(c, run_ttt(c, &p, &m, y, &seq));
        assert_relative("ttt_linear", y, expected, p.slots * wide_values, p.keys < 3 ? 2e-4 : 2e-5);
        assert_relative("ttt_linear state", state, expected_state, total, p.keys < 3 ? 2e-4 : 1e-5);
        assert_untouched(y + p.slots * wide_values, (size_t)((p.capacity - p.slots) * wide_values));
        void *all[] = {y, state, q, k, v, rate, in, expected, expected_state};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
        discard_model(&m);
        discard(&p);
    }
    sv_ctx_close(c);
}
END_TEST

/* ---- recordings of the authors' code ------------------------------------------------------------------ */

/* [B,H,L,n] as [B*L][H*n], beginning at column 'first' of rows of 'pitch'. */
static void place(float *to, int pitch, int first, const h5_array *from, int n)
{
    const int batch = from->dim[0], heads = from->dim[1],
              length = (int)(from->count / (size_t)(batch * heads * n));
    for (int b = 0; b < batch; b++)
        for (int h = 0; h < heads; h++)
            for (int t = 0; t < length; t++)
                for (int i = 0; i < n; i++)
                    to[(b * length + t) * pitch + first + h * n + i] =
                        from->f[((b * heads + h) * length + t) * n + i];
}

static h5_array recorded(h5_file *file, const char *name, const char *what)
{
    char path[64];
    snprintf(path, sizeof path, "%s/%s", name, what);
    return h5_floats(file, path);
}

static double largest(const h5_array *a)
{
    double most = 0;
    for (size_t i = 0; i < a->count; i++) most = fmax(most, fabs((double)a->f[i]));
    return most;
}

static void mlstm_recording(h5_file *file, const char *name, double tolerance)
{
    sv_ctx *c = test_context(2);
    h5_array q = recorded(file, name, "in/q"), k = recorded(file, name, "in/k"),
             v = recorded(file, name, "in/v"), igate = recorded(file, name, "in/i"),
             fgate = recorded(file, name, "in/f"), o = recorded(file, name, "out/o"),
             last = recorded(file, name, "out/C"), normaliser = recorded(file, name, "out/n"),
             maximum = recorded(file, name, "out/m");
    problem p = {
        .groups = q.dim[0], .heads = q.dim[1], .length = q.dim[2], .keys = q.dim[3], .values = v.dim[3]};
    p.slots = p.rows = p.capacity = p.offsets[1] = p.groups * p.length;
    p.pitch = p.heads * (2 * p.keys + p.values + 2);
    p.all = output((size_t)(p.rows * p.pitch));
    const int gates = p.heads * (2 * p.keys + p.values), memory = p.keys * p.values;
    place(p.all, p.pitch, 0, &q, p.keys);
    place(p.all, p.pitch, p.heads * p.keys, &k, p.keys);
    place(p.all, p.pitch, 2 * p.heads * p.keys, &v, p.values);
    place(p.all, p.pitch, gates, &igate, 1);
    place(p.all, p.pitch, gates + p.heads, &fgate, 1);
    p.state = memory + p.keys + 1;
    p.state_in =
        calloc((size_t)(p.groups * p.heads * p.state), sizeof *p.state_in); /* the authors begin with m = 0 */
    ck_assert_ptr_nonnull(p.state_in);
    char path[64];
    snprintf(path, sizeof path, "%s/in/C0", name);
    if (h5_has(file, path)) {
        h5_array c0 = recorded(file, name, "in/C0"), n0 = recorded(file, name, "in/n0"),
                 m0 = recorded(file, name, "in/m0");
        for (int i = 0; i < p.groups * p.heads; i++) {
            memcpy(p.state_in + i * p.state, c0.f + i * memory, (size_t)memory * sizeof(float));
            memcpy(p.state_in + i * p.state + memory, n0.f + i * p.keys, (size_t)p.keys * sizeof(float));
            p.state_in[i * p.state + memory + p.keys] = m0.f[i];
        }
        h5_free(&c0), h5_free(&n0), h5_free(&m0);
    }
    sv_sequence seq = {.length = p.length};
    seq.state_in = seq.state_out = states(&p, p.state_in);
    float *y = output((size_t)(p.slots * p.heads * p.values)), *expected = output(o.count);
    assert_ok(c, run_mlstm(c, &p, y, &seq));
    place(expected, p.heads * p.values, 0, &o, p.values);
    assert_close(name, y, expected, o.count, tolerance * largest(&o), 0);
    for (int i = 0; i < p.groups * p.heads; i++) {
        const float *state = p.state_in + i * p.state;
        assert_close("C", state, last.f + i * memory, (size_t)memory, 3e-6 * largest(&last), 0);
        assert_close("n", state + memory, normaliser.f + i * p.keys, (size_t)p.keys,
                     3e-6 * largest(&normaliser), 0);
        assert_close("m", state + memory + p.keys, maximum.f + i, 1, 1e-5, 0);
    }
    h5_array *arrays[] = {&q, &k, &v, &igate, &fgate, &o, &last, &normaliser, &maximum};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) h5_free(arrays[i]);
    free(y), free(expected);
    discard(&p);
    sv_ctx_close(c);
}

static void ttt_recording(h5_file *file, const char *name)
{
    sv_ctx *c = test_context(2);
    h5_array q = recorded(file, name, "in/XQ"), k = recorded(file, name, "in/XK"),
             v = recorded(file, name, "in/XV"), w = recorded(file, name, "in/W1"),
             b = recorded(file, name, "in/b1"), norm_weight = recorded(file, name, "in/w"),
             norm_bias = recorded(file, name, "in/b"), token = recorded(file, name, "in/token_eta"),
             rate = recorded(file, name, "in/ttt_lr_eta"), o = recorded(file, name, "out/o"),
             last_w = recorded(file, name, "out/final_W1_states"),
             last_b = recorded(file, name, "out/final_b1_states");
    const int width = q.dim[4];
    problem p = {
        .groups = q.dim[0], .heads = q.dim[1], .length = q.dim[2] * q.dim[3], .keys = width, .values = width};
    p.slots = p.rows = p.capacity = p.offsets[1] = p.groups * p.length;
    p.pitch = p.heads * (3 * width + 2);
    p.all = output((size_t)(p.rows * p.pitch));
    place(p.all, p.pitch, 0, &q, width);
    place(p.all, p.pitch, p.heads * width, &k, width);
    place(p.all, p.pitch, 2 * p.heads * width, &v, width);
    place(p.all, p.pitch, 3 * p.heads * width, &rate, 1);
    p.state = width * width + width;
    model m = {.weights = {.heads = p.heads,
                           .eps = EPS,
                           .w = sv_view(w.f, SV_F32, p.heads * width, width),
                           .b = sv_view(b.f, SV_F32, p.heads, width),
                           .norm_weight = sv_view(norm_weight.f, SV_F32, p.heads, width),
                           .norm_bias = sv_view(norm_bias.f, SV_F32, p.heads, width),
                           .token = sv_view(token.f, SV_F32, 1,
                                            16)}}; /* those of the first mini-batch stand for all */
    float *y = output(o.count), *state = output((size_t)(p.groups * p.heads * p.state));
    sv_sequence seq = {.length = p.length, .state_out = states(&p, state)};
    assert_ok(c, run_ttt(c, &p, &m, y, &seq));
    assert_close(name, y, o.f, o.count, 2e-5 * largest(&o), 0);
    for (int i = 0; i < p.groups * p.heads; i++) {
        assert_close("W", state + i * p.state, last_w.f + i * width * width, (size_t)(width * width),
                     2e-5 * largest(&last_w), 0);
        assert_close("b", state + i * p.state + width * width, last_b.f + i * width, (size_t)width,
                     2e-5 * largest(&last_b), 0);
    }
    h5_array *arrays[] = {&q, &k, &v, &w, &b, &norm_weight, &norm_bias, &token, &rate, &o, &last_w, &last_b};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) h5_free(arrays[i]);
    free(y), free(state);
    discard(&p);
    sv_ctx_close(c);
}

START_TEST(authors_recordings)
{
    static const char *const cases[] = {"small", "odd", "long"};
    use_isa(_i);
    const char *folder = reference_folder();
    if (!folder) return;
    char path[512];
    snprintf(path, sizeof path, "%s/golden/operators/mlstm.h5", folder);
    h5_file *file = h5_open(path, true);
    for (int i = 0; i < 3; i++) mlstm_recording(file, cases[i], 1e-4); /* their float32 is at 3.5e-5 */
    h5_close(file);
    snprintf(path, sizeof path, "%s/golden/operators/ttt_linear_official.h5", folder);
    file = h5_open(path, true);
    for (int i = 0; i < 3; i++) ttt_recording(file, cases[i]);
    h5_close(file);
}
END_TEST

/* ---- bytes ------------------------------------------------------------------------------------------- */

/* Pieces of whole chunks, in walking order, with the state handed on in place, give the bytes of one pass. */
static void stream(sv_ctx *c, test_rng *rng, problem *p, const model *m)
{
    const int wide_values = p->heads * p->values, state_size = p->heads * p->state;
    const size_t count = (size_t)(p->slots * wide_values);
    float *whole = output((size_t)(p->capacity * wide_values)), *pieces = output(count),
          *end = output((size_t)(p->capacity / p->length * state_size)),
          *state = output((size_t)(p->groups * state_size));
    memcpy(state, p->state_in, (size_t)(p->groups * state_size) * sizeof *state);
    sv_sequence seq = sequence(p);
    seq.state_in = states(p, p->state_in);
    seq.state_out = states(p, end);
    assert_ok(c, m ? run_ttt(c, p, m, whole, &seq) : run_mlstm(c, p, whole, &seq));
    for (int done = 0; done < p->length;) {
        const int rest = p->length - done, chunks = pick(rng, 1, 3),
                  tokens = rest < 16 * chunks ? rest : 16 * chunks;
        const int first = p->reverse ? p->length - done - tokens : done;
        problem piece = *p;
        piece.length = tokens;
        piece.slots = piece.capacity = piece.offsets[1] = p->groups * tokens;
        piece.indexed = true;
        piece.index = malloc((size_t)piece.slots * sizeof *piece.index);
        ck_assert_ptr_nonnull(piece.index);
        for (int i = 0; i < piece.slots; i++) {
            const int slot = i / tokens * p->length + first + i % tokens;
            piece.index[i] = p->indexed ? p->index[slot] : slot;
        }
        float *y = output((size_t)(piece.slots * wide_values));
        sv_sequence walk = sequence(&piece);
        walk.state_in = walk.state_out = sv_view(state, SV_F32, p->groups, state_size);
        assert_ok(c, m ? run_ttt(c, &piece, m, y, &walk) : run_mlstm(c, &piece, y, &walk));
        for (int g = 0; g < p->groups; g++)
            memcpy(pieces + (g * p->length + first) * wide_values, y + g * tokens * wide_values,
                   (size_t)(tokens * wide_values) * sizeof *y);
        free(y), free(piece.index);
        done += tokens;
    }
    ck_assert_mem_eq(pieces, whole, count * sizeof *whole);
    ck_assert_mem_eq(state, end, (size_t)(p->groups * state_size) * sizeof *state);
    free(whole), free(pieces), free(end), free(state);
}

START_TEST(streaming_equals_one_pass)
{
    use_isa(_i);
    sv_ctx *c = test_context(2);
    test_rng rng = {64};
    for (int round = 0; round < 10; round++) {
        problem p = mlstm_problem(&rng, pick(&rng, 1, 3), 20 + 17 * round);
        stream(c, &rng, &p, NULL);
        discard(&p);
        problem other = ttt_problem(&rng, pick(&rng, 1, 3), 20 + 17 * round);
        model m = make_model(&rng, &other, 16, other.keys % 2 == 0);
        stream(c, &rng, &other, &m);
        discard_model(&m);
        discard(&other);
    }
    sv_ctx_close(c);
}
END_TEST

/* Bytes do not depend on threads, nor on the groups beside a group. */
START_TEST(same_bytes_for_threads_and_neighbours)
{
    sv_ctx *one = test_context(1), *three = test_context(3);
    test_rng rng = {65};
    for (int round = 0; round < 10; round++) {
        const bool ttt = round % 2 != 0;
        problem p = ttt ? ttt_problem(&rng, pick(&rng, 2, 5), 1 + 13 * round)
                        : mlstm_problem(&rng, pick(&rng, 2, 5), 1 + 13 * round);
        if (!p.indexed) {
            p.indexed = true;
            for (int i = 0; i < p.capacity; i++) p.index[i] = i;
        }
        model m = {0};
        if (ttt) m = make_model(&rng, &p, 16, false);
        const int wide_values = p.heads * p.values;
        const size_t count = (size_t)(p.capacity * wide_values);
        float *a = output(count), *b = output(count), *alone = output(count);
        const sv_sequence seq = sequence(&p);
        assert_ok(one, ttt ? run_ttt(one, &p, &m, a, &seq) : run_mlstm(one, &p, a, &seq));
        assert_ok(three, ttt ? run_ttt(three, &p, &m, b, &seq) : run_mlstm(three, &p, b, &seq));
        ck_assert_mem_eq(a, b, count * sizeof *a);
        problem last = p;
        const int before = (p.groups - 1) * p.length;
        last.groups = 1;
        last.slots = last.capacity = last.offsets[1] = p.length;
        last.index += before;
        const sv_sequence short_walk = sequence(&last);
        assert_ok(one, ttt ? run_ttt(one, &last, &m, alone, &short_walk)
                           : run_mlstm(one, &last, alone, &short_walk));
        ck_assert_mem_eq(alone, a + before * wide_values, (size_t)(p.length * wide_values) * sizeof *a);
        free(a), free(b), free(alone);
        if (ttt) discard_model(&m);
        discard(&p);
    }
    sv_ctx_close(one);
    sv_ctx_close(three);
}
END_TEST

/* ---- rows of heads ------------------------------------------------------------------------------------ */

typedef struct rows_problem {
    int rows, capacity, sources, channels, groups, size;
    int32_t *index, *gate_index, offsets[2];
    float *x, *skip, *gate, *weight, *bias, *skip_weight, *blocks;
} rows_problem;

static rows_problem make_rows(test_rng *rng, int round)
{
    static const int widths[] = {1, 3, 4, 8, 12, 16, 17, 32, 64};
    rows_problem p = {0}; /* drawn one after the other, so that every compiler sees the same cases */
    p.rows = round == 0 ? 0 : pick(rng, 1, 400);
    p.groups = pick(rng, 1, 5);
    p.size = ANY(rng, widths);
    p.channels = p.groups * p.size;
    p.capacity = p.rows + 3;
    p.sources = pick(rng, 1, 300) + p.capacity;
    p.offsets[1] = p.rows;
    const size_t source_count = (size_t)(p.sources * (p.channels + 2)), n = (size_t)p.channels;
    p.x = random_floats(rng, source_count, -2, 2), p.skip = random_floats(rng, source_count, -2, 2);
    p.gate = random_floats(rng, source_count, -6, 6), p.weight = random_floats(rng, n, -2, 2);
    p.bias = random_floats(rng, n, -1, 1), p.skip_weight = random_floats(rng, n, -2, 2);
    p.blocks = random_floats(rng, n * (size_t)p.size, -1, 1);
    p.index = malloc((size_t)p.capacity * sizeof *p.index);
    p.gate_index = malloc((size_t)p.capacity * sizeof *p.gate_index);
    ck_assert(p.index && p.gate_index);
    for (int i = 0; i < p.capacity; i++) { /* sometimes -1: a row of zeros */
        p.index[i] = pick(rng, i % 7 ? 0 : -1, i % 7 ? p.sources - 1 : 0);
        p.gate_index[i] = pick(rng, i % 5 ? 0 : -1, i % 5 ? p.sources - 1 : 0);
    }
    return p;
}

static void discard_rows(rows_problem *p)
{
    void *all[] = {p->index,  p->gate_index, p->x,           p->skip,  p->gate,
                   p->weight, p->bias,       p->skip_weight, p->blocks};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
}

static sv_tensor source(const rows_problem *p, float *data)
{
    sv_tensor t = sv_view(data, SV_F32, p->sources, p->channels);
    t.pitch += 2;
    return t;
}
static double number_at(const rows_problem *p, const float *data, int row, int channel)
{
    return row < 0 ? 0 : (double)data[row * (p->channels + 2) + channel];
}
static sv_tensor rows_index(const rows_problem *p, int32_t *data)
{
    return sv_view(data, SV_I32, p->capacity, 1);
}

START_TEST(head_norm_equals_the_oracle)
{
    use_isa(_i);
    sv_ctx *c = test_context(1), *three = test_context(3);
    test_rng rng = {66};
    for (int round = 0; round < 32; round++) {
        rows_problem p = make_rows(&rng, round);
        const bool indexed = round & 1, skip = round & 2, gate = round & 4, centred = round & 8,
                   biased = round & 16;
        const int n = p.channels, count = p.rows * n;
        sv_head_norm_spec how = {
            .groups = p.groups, .centred = centred, .eps = 1e-5f, .weight = sv_view(p.weight, SV_F32, 1, n)};
        if (biased) how.bias = sv_view(p.bias, SV_F32, 1, n);
        if (skip) how.skip = source(&p, p.skip), how.skip_weight = sv_view(p.skip_weight, SV_F32, 1, n);
        if (gate) how.gate = source(&p, p.gate);
        if (gate && indexed) how.gate_index = rows_index(&p, p.gate_index);
        double *expected = calloc((size_t)count + 1, sizeof *expected), *weight = widen(p.weight, 1, n, n),
               *bias = widen(p.bias, 1, n, n);
        ck_assert_ptr_nonnull(expected);
        for (int i = 0; i < count; i++)
            expected[i] = number_at(&p, p.x, indexed ? p.index[i / n] : i / n, i % n);
        oracle_head_norm(expected, p.rows, n, p.groups, centred, 1e-5, weight, biased ? bias : NULL);
        for (int i = 0; i < count; i++) {
            const int from = indexed ? p.index[i / n] : i / n, gated = indexed ? p.gate_index[i / n] : i / n;
            if (skip) expected[i] += (double)p.skip_weight[i % n] * number_at(&p, p.skip, from, i % n);
            if (gate) expected[i] *= oracle_silu(number_at(&p, p.gate, gated, i % n));
        }
        float *y = output((size_t)(p.capacity * n)), *again = output((size_t)(p.capacity * n));
        sv_tensor vy = sv_view(y, SV_F32, p.capacity, n);
        vy.offsets = p.offsets, vy.batch = 1;
        const sv_tensor index = indexed ? rows_index(&p, p.index) : SV_NONE;
        assert_ok(c, sv_head_norm(c, vy, source(&p, p.x), index, &how));
        /* two equal numbers have no deviation to speak of: the result is as good as sqrt(eps) allows */
        assert_relative("head_norm", y, expected, count, 5e-6);
        assert_untouched(y + count, (size_t)((p.capacity - p.rows) * n));
        vy.data = again;
        assert_ok(three, sv_head_norm(three, vy, source(&p, p.x), index, &how));
        ck_assert_mem_eq(y, again, (size_t)(p.capacity * n) * sizeof *y);
        free(expected), free(weight), free(bias), free(y), free(again);
        discard_rows(&p);
    }
    sv_ctx_close(c);
    sv_ctx_close(three);
}
END_TEST

START_TEST(block_linear_equals_the_oracle)
{
    use_isa(_i);
    sv_ctx *c = test_context(1), *three = test_context(3);
    test_rng rng = {67};
    for (int round = 0; round < 32; round++) {
        rows_problem p = make_rows(&rng, round);
        const bool indexed = round & 1, biased = round & 2;
        const int n = p.channels, count = p.rows * n;
        double *expected = calloc((size_t)count + 1, sizeof *expected);
        ck_assert_ptr_nonnull(expected);
        for (int i = 0; i < count; i++) {
            const int from = indexed ? p.index[i / n] : i / n, o = i % n;
            expected[i] = biased ? (double)p.bias[o] : 0;
            for (int j = 0; j < p.size && from >= 0; j++)
                expected[i] +=
                    (double)p.blocks[o * p.size + j] * (double)p.x[from * (n + 2) + o / p.size * p.size + j];
        }
        float *y = output((size_t)(p.capacity * n)), *again = output((size_t)(p.capacity * n));
        sv_tensor vy = sv_view(y, SV_F32, p.capacity, n);
        vy.offsets = p.offsets, vy.batch = 1;
        const sv_tensor index = indexed ? rows_index(&p, p.index) : SV_NONE,
                        bias = biased ? sv_view(p.bias, SV_F32, 1, n) : SV_NONE,
                        w = sv_view(p.blocks, SV_F32, n, p.size);
        assert_ok(c, sv_block_linear(c, vy, source(&p, p.x), index, w, bias));
        assert_relative("block_linear", y, expected, count, 2e-6);
        assert_untouched(y + count, (size_t)((p.capacity - p.rows) * n));
        vy.data = again;
        assert_ok(three, sv_block_linear(three, vy, source(&p, p.x), index, w, bias));
        ck_assert_mem_eq(y, again, (size_t)(p.capacity * n) * sizeof *y);
        free(expected), free(y), free(again);
        discard_rows(&p);
    }
    sv_ctx_close(c);
    sv_ctx_close(three);
}
END_TEST

/* ---- contract ---------------------------------------------------------------------------------------- */

START_TEST(wrong_shapes_are_named)
{
    sv_ctx *c = test_context(1);
    test_rng rng = {68};
    problem p = make(&rng, 1, 4, 2, 4, 4);
    p.state = 4 * 4 + 4;
    p.state_in = random_floats(&rng, 1000, -1, 1);
    float *y = output((size_t)(p.capacity * 8));
    sv_sequence seq = {.length = 4};
    p.rows = p.capacity = 4;
    const sv_tensor vy = sv_view(y, SV_F32, 4, 8), q = q_of(&p), k = k_of(&p), v = v_of(&p),
                    i = gate_of(&p, 0);
    assert_fails(c, sv_mlstm(c, vy, q, k, v, i, i, 3, EPS, &seq), SV_BAD_SHAPE, "3 heads");
    assert_fails(c, sv_mlstm(c, vy, q, part(&p, 0, 7), v, i, i, 2, EPS, &seq), SV_BAD_SHAPE, "'k'");
    assert_fails(c, sv_mlstm(c, vy, q, k, v, i, part(&p, 0, 1), 2, EPS, &seq), SV_BAD_SHAPE, "'fgate'");
    seq.state_in = sv_view(p.state_in, SV_F32, 1, 2 * (16 + 4));
    assert_fails(c, sv_mlstm(c, vy, q, k, v, i, i, 2, EPS, &seq), SV_BAD_SHAPE, "'state_in'");
    seq.state_in = SV_NONE;
    model m = make_model(&rng, &p, 16, true);
    seq.state_out = sv_view(p.state_in, SV_F32, 1, 3);
    assert_fails(c, sv_ttt_linear(c, vy, q, k, v, i, &m.weights, &seq), SV_BAD_SHAPE, "'state_out'");
    seq.state_out = SV_NONE;
    m.weights.token = sv_view(p.state_in, SV_F32, 1, 17);
    assert_fails(c, sv_ttt_linear(c, vy, q, k, v, i, &m.weights, &seq), SV_UNSUPPORTED, "17 tokens");
    m.weights.token = sv_view(p.state_in, SV_F32, 1, 8);
    assert_fails(c, sv_ttt_linear(c, vy, q, k, v, i, &m.weights, &seq), SV_BAD_SHAPE, "'rotary'");
    m.weights.heads = 3;
    assert_fails(c, sv_ttt_linear(c, vy, q, k, v, i, &m.weights, &seq), SV_BAD_SHAPE, "3 heads");
    sv_head_norm_spec how = {.groups = 3, .weight = sv_view(p.state_in, SV_F32, 1, 8)};
    assert_fails(c, sv_head_norm(c, vy, q, SV_NONE, &how), SV_BAD_SHAPE, "3 groups");
    how.groups = 2, how.skip = q;
    assert_fails(c, sv_head_norm(c, vy, q, SV_NONE, &how), SV_BAD_SHAPE, "'skip_weight'");
    assert_fails(c, sv_block_linear(c, vy, q, SV_NONE, sv_view(p.state_in, SV_F32, 8, 3), SV_NONE),
                 SV_BAD_SHAPE, "blocks of 3");
    discard_model(&m);
    free(y);
    discard(&p);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gated");
    TCase *cases = tcase_create("mlstm, ttt_linear, head_norm, block_linear");
    tcase_set_timeout(cases, 300);
    /* the processor itself is asked in the tests, once they have set their cap */
    const int isas = SV_ISA_AVX512 + 1;
    tcase_add_loop_test(cases, mlstm_equals_the_oracle, 0, isas);
    tcase_add_loop_test(cases, mlstm_survives_extreme_gates, 0, isas);
    tcase_add_loop_test(cases, ttt_equals_the_oracle, 0, isas);
    tcase_add_loop_test(cases, authors_recordings, 0, isas);
    tcase_add_loop_test(cases, streaming_equals_one_pass, 0, isas);
    tcase_add_test(cases, same_bytes_for_threads_and_neighbours);
    tcase_add_loop_test(cases, head_norm_equals_the_oracle, 0, isas);
    tcase_add_loop_test(cases, block_linear_equals_the_oracle, 0, isas);
    tcase_add_test(cases, wrong_shapes_are_named);
    suite_add_tcase(suite, cases);
    return run_suite(suite, true);
}
