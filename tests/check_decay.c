/* SPDX-License-Identifier: Apache-2.0
 *
 * decay_scan and token_mix against double-precision oracles, for every instruction set the processor has.
 */
#include "oracle_decay.h"
#include "support.h"
#include "support_h5.h"

#include "perception/core/simd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- random problems ------------------------------------------------------------------------------ */

/* Inputs lie in wider rows, to test pitches; the outputs have capacity beyond the live slots. */
typedef struct problem {
    int groups, length, heads, keys, values, rows, slots, capacity, pad;
    bool indexed, reverse, with_bonus;
    sv_decay_rule rule;
    float *q, *k, *v, *decay, *bonus, *state;
    int32_t *index;
    int32_t offsets[2];
} problem;

static int pick(test_rng *rng, int from, int to)
{
    return from + (int)(rng_u64(rng) % (uint64_t)(to - from + 1));
}
#define ANY(rng, list) list[rng_u64(rng) % (sizeof list / sizeof list[0])]

static float *random_floats(test_rng *rng, int rows, int pitch, double from, double to)
{
    float *values = malloc(((size_t)rows * (size_t)pitch + 1) * sizeof *values);
    ck_assert_ptr_nonnull(values);
    for (int i = 0; i < rows * pitch; i++) values[i] = (float)rng_uniform(rng, from, to);
    return values;
}

static int decay_rows(const problem *p)
{
    return p->rule.decay == SV_DECAY_HEAD ? 1 : p->rows;
}
static int decay_columns(const problem *p)
{
    return p->rule.decay == SV_DECAY_CHANNEL ? p->heads * p->keys : p->heads;
}
static int state_size(const problem *p)
{
    return p->heads * p->keys * p->values;
}

static const int lengths[] = {1, 2, 5, 63, 64, 65, 128, 130, 200};
static const int key_counts[] = {1, 3, 4, 7, 8, 9, 16, 16, 32, 40};
static const int value_counts[] = {1, 5, 8, 15, 16, 17, 32, 33, 64, 70};

static problem make(test_rng *rng, int groups, int length)
{
    problem p = {.groups = groups, .length = length};
    p.heads = pick(rng, 1, 3);
    p.keys = ANY(rng, key_counts);
    p.values = ANY(rng, value_counts);
    p.indexed = rng_u64(rng) % 3 != 0;
    p.reverse = rng_u64(rng) % 2 != 0;
    p.pad = pick(rng, 0, 1) * 5;
    p.rule.heads = p.heads;
    p.rule.read = (sv_decay_read)pick(rng, 0, 2);
    p.rule.decay = (sv_decay)pick(rng, 0, p.rule.read == SV_READ_CHUNK ? 1 : 3);
    p.rule.chunk = p.rule.read == SV_READ_CHUNK ? pick(rng, 0, 2) ? 64 : pick(rng, 1, 64) : 0;
    p.rule.scale = (float)rng_uniform(rng, 0.1, 1);
    p.with_bonus = p.rule.read == SV_READ_BEFORE && rng_u64(rng) % 4 != 0;
    p.slots = groups * length;
    p.capacity = p.slots + 2 * length;
    p.rows = p.indexed ? pick(rng, 1, p.slots + 3) : p.capacity;
    p.offsets[1] = p.slots;
    p.q = random_floats(rng, p.rows, p.heads * p.keys + p.pad, -1, 1);
    p.k = random_floats(rng, p.rows, p.heads * p.keys + p.pad, -1, 1);
    p.v = random_floats(rng, p.rows, p.heads * p.values + p.pad, -1, 1);
    p.decay = random_floats(rng, decay_rows(&p), decay_columns(&p) + p.pad, -9, 1);
    for (int i = 0; i < decay_rows(&p) * (decay_columns(&p) + p.pad); i++) p.decay[i] = -expf(p.decay[i]);
    p.bonus = random_floats(rng, 1, p.heads * p.keys, -1, 1);
    p.state = random_floats(rng, groups, state_size(&p), -1, 1);
    p.index = malloc((size_t)p.capacity * sizeof *p.index);
    ck_assert_ptr_nonnull(p.index);
    for (int i = 0; i < p.capacity; i++) p.index[i] = pick(rng, rng_u64(rng) % 8 ? 0 : -1, p.rows - 1);
    return p;
}

static void discard(problem *p)
{
    float *all[] = {p->q, p->k, p->v, p->decay, p->bonus, p->state};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    free(p->index);
}

static sv_tensor view(float *data, int rows, int columns, int pad)
{
    sv_tensor t = sv_view(data, SV_F32, rows, columns);
    t.pitch = columns + pad;
    return t;
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

static sv_status run(sv_ctx *c, const problem *p, float *y, const sv_sequence *seq, bool accumulate)
{
    const sv_tensor decay =
        p->rule.decay == SV_DECAY_NONE
            ? SV_NONE
            : view(p->decay, decay_rows(p), decay_columns(p), p->rule.decay == SV_DECAY_HEAD ? 0 : p->pad);
    return sv_decay_scan(c, live(sv_view(y, SV_F32, p->capacity, p->heads * p->values), p),
                         view(p->q, p->rows, p->heads * p->keys, p->pad),
                         view(p->k, p->rows, p->heads * p->keys, p->pad),
                         view(p->v, p->rows, p->heads * p->values, p->pad), decay,
                         p->with_bonus ? sv_view(p->bonus, SV_F32, 1, p->heads * p->keys) : SV_NONE, &p->rule,
                         seq, accumulate);
}

/* ---- comparing ------------------------------------------------------------------------------------- */

static double *widen(const float *x, int rows, int columns, int pitch)
{
    double *y = malloc(((size_t)rows * (size_t)columns + 1) * sizeof *y);
    ck_assert_ptr_nonnull(y);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < columns; i++) y[r * columns + i] = x[r * pitch + i];
    return y;
}

/* Logarithms per row and key channel, whatever the problem's form. */
static double *widen_decay(const problem *p)
{
    const int width = p->heads * p->keys, pitch = decay_columns(p) + p->pad;
    double *y = calloc((size_t)p->rows * (size_t)width + 1, sizeof *y);
    ck_assert_ptr_nonnull(y);
    for (int r = 0; r < p->rows; r++)
        for (int i = 0; i < width; i++) {
            if (p->rule.decay == SV_DECAY_HEAD) y[r * width + i] = p->decay[i / p->keys];
            if (p->rule.decay == SV_DECAY_TOKEN) y[r * width + i] = p->decay[r * pitch + i / p->keys];
            if (p->rule.decay == SV_DECAY_CHANNEL) y[r * width + i] = p->decay[r * pitch + i];
        }
    return y;
}

/* Difference at most 'share' of the largest expected value. */
static void assert_near(const char *what, const float *y, const double *expected, int count, double share)
{
    double largest = 1e-3;
    float *narrow = malloc(((size_t)count + 1) * sizeof *narrow);
    ck_assert_ptr_nonnull(narrow);
    for (int i = 0; i < count; i++) {
        narrow[i] = (float)expected[i];
        if (fabs(expected[i]) > largest) largest = fabs(expected[i]);
    }
    assert_close(what, y, narrow, (size_t)count, share * largest, 0);
    free(narrow);
}

enum { UNTOUCHED = 0x55 };
static void assert_untouched(const float *y, size_t count)
{
    size_t same = 0;
    while (same < count * sizeof *y && ((const unsigned char *)y)[same] == UNTOUCHED) same++;
    ck_assert_uint_eq(same, count * sizeof *y);
}

static float *output(size_t count)
{
    float *y = malloc((count + 1) * sizeof *y);
    ck_assert_ptr_nonnull(y);
    memset(y, UNTOUCHED, (count + 1) * sizeof *y);
    return y;
}

/* Tests run in processes of their own, so that each can have its instruction set. */
static void use_isa(int isa)
{
    ck_assert_int_eq(setenv("SAVANNA_ISA", sv_isa_name((sv_isa)isa), 1), 0);
    if ((int)sv_simd_isa() != isa)
        printf("SKIPPED %s: this process runs %s\n", sv_isa_name((sv_isa)isa), sv_isa_name(sv_simd_isa()));
}

/* ---- decay_scan ------------------------------------------------------------------------------------ */

static void scan_case(sv_ctx *c, test_rng *rng, bool carried, bool accumulate)
{
    problem p = make(rng, pick(rng, 0, 3), ANY(rng, lengths));
    const int width = p.heads * p.keys, depth = p.heads * p.values, live_count = p.slots * depth,
              total = p.groups * state_size(&p);
    float *y = output((size_t)p.capacity * (size_t)depth), *state = output((size_t)total);
    for (int i = 0; i < live_count && accumulate; i++) y[i] = (float)rng_uniform(rng, -1, 1);
    double *before = widen(y, p.slots, depth, depth), *expected = widen(y, p.slots, depth, depth),
           *expected_state = widen(state, 1, total, total), *q = widen(p.q, p.rows, width, width + p.pad),
           *k = widen(p.k, p.rows, width, width + p.pad), *v = widen(p.v, p.rows, depth, depth + p.pad),
           *log = widen_decay(&p), *bonus = widen(p.bonus, 1, width, width),
           *in = widen(p.state, 1, total, total);

    sv_sequence seq = sequence(&p);
    if (carried && p.groups > 0) {
        seq.state_in = sv_view(p.state, SV_F32, p.capacity / p.length, state_size(&p));
        seq.state_out = sv_view(state, SV_F32, p.capacity / p.length, state_size(&p));
    }
    const oracle_decay plain = {.groups = p.groups,
                                .length = p.length,
                                .heads = p.heads,
                                .keys = p.keys,
                                .values = p.values,
                                .index = p.indexed ? p.index : NULL,
                                .reverse = p.reverse,
                                .read = p.rule.read,
                                .chunk = p.rule.chunk,
                                .scale = p.rule.scale,
                                .q = q,
                                .k = k,
                                .v = v,
                                .log = log,
                                .always = p.rule.decay == SV_DECAY_HEAD,
                                .bonus = p.with_bonus ? bonus : NULL,
                                .state_in = sv_is_none(seq.state_in) ? NULL : in,
                                .state_out = sv_is_none(seq.state_out) ? NULL : expected_state};
    oracle_decay_scan(expected, &plain);
    for (int i = 0; i < live_count && accumulate; i++) expected[i] += before[i];
    assert_ok(c, run(c, &p, y, &seq, accumulate));
    assert_near("decay_scan", y, expected, live_count, 3e-6);
    assert_untouched(y + live_count, (size_t)(p.capacity * depth - live_count));
    if (!sv_is_none(seq.state_out)) assert_near("scan state", state, expected_state, total, 3e-6);
    void *all[] = {y, state, before, expected, expected_state, q, k, v, log, bonus, in};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    discard(&p);
}

START_TEST(scan_equals_the_oracle)
{
    use_isa(_i);
    sv_ctx *c = test_context(1);
    test_rng rng = {31};
    for (int i = 0; i < 60; i++) scan_case(c, &rng, i % 2 != 0, i % 3 == 0);
    sv_ctx_close(c);
}
END_TEST

/* Four thousand steps of a slow decay: rounding each factor to float would be off by 1e-4 at the end. */
START_TEST(slow_decays_are_exact)
{
    use_isa(_i);
    enum { LENGTH = 4096 };
    sv_ctx *c = test_context(1);
    for (int kind = SV_DECAY_HEAD; kind <= SV_DECAY_CHANNEL; kind++) {
        const float log = -2.3456789e-4f;
        float *ones = malloc(LENGTH * sizeof *ones), *y = malloc(LENGTH * sizeof *y);
        float *v = calloc(LENGTH, sizeof *v), *decay = malloc(LENGTH * sizeof *decay);
        ck_assert(ones && y && v && decay);
        for (int t = 0; t < LENGTH; t++) ones[t] = 1, decay[t] = log;
        v[0] = 1;
        const sv_decay_rule rule = {.heads = 1, .decay = (sv_decay)kind, .read = SV_READ_AFTER, .scale = 1};
        const sv_sequence seq = {.length = LENGTH};
        const sv_tensor one = sv_view(ones, SV_F32, LENGTH, 1);
        assert_ok(c, sv_decay_scan(c, sv_view(y, SV_F32, LENGTH, 1), one, one, sv_view(v, SV_F32, LENGTH, 1),
                                   sv_view(decay, SV_F32, kind == SV_DECAY_HEAD ? 1 : LENGTH, 1), SV_NONE,
                                   &rule, &seq, false));
        for (int t = 0; t < LENGTH; t += 105)
            ck_assert_double_eq_tol((double)y[t], exp((double)log * t), 4e-6);
        free(ones), free(y), free(v), free(decay);
    }
    sv_ctx_close(c);
}
END_TEST

/* Decays that forget everything, and channels with numbers that are none, leave the others as they were. */
START_TEST(scan_survives_extremes)
{
    use_isa(_i);
    enum { LENGTH = 150, KEYS = 9, VALUES = 20 };
    sv_ctx *c = test_context(1);
    test_rng rng = {32};
    float *q = random_floats(&rng, LENGTH, KEYS, -1, 1), *k = random_floats(&rng, LENGTH, KEYS, -1, 1),
          *v = random_floats(&rng, LENGTH, VALUES, -1, 1), *decay = random_floats(&rng, LENGTH, KEYS, -1, 0);
    float *y = output(LENGTH * VALUES), *again = output(LENGTH * VALUES);
    for (int t = 0; t < LENGTH; t++) {
        decay[t * KEYS + 2] = t % 7 ? -1e30f : -80;
        decay[t * KEYS + 5] = -INFINITY;
        decay[t * KEYS + 8] = 0;
    }
    const sv_decay_rule rule = {.heads = 1, .decay = SV_DECAY_CHANNEL, .read = SV_READ_AFTER, .scale = 1};
    const sv_sequence seq = {.length = LENGTH};
    const sv_tensor tq = sv_view(q, SV_F32, LENGTH, KEYS), tk = sv_view(k, SV_F32, LENGTH, KEYS),
                    tv = sv_view(v, SV_F32, LENGTH, VALUES), td = sv_view(decay, SV_F32, LENGTH, KEYS);
    assert_ok(
        c, sv_decay_scan(c, sv_view(y, SV_F32, LENGTH, VALUES), tq, tk, tv, td, SV_NONE, &rule, &seq, false));
    for (int i = 0; i < VALUES; i++) {
        double s[KEYS] = {0};
        for (int t = 0; t < LENGTH; t++) {
            double sum = 0;
            for (int j = 0; j < KEYS; j++) {
                s[j] = exp((double)decay[t * KEYS + j]) * s[j] +
                       (double)k[t * KEYS + j] * (double)v[t * VALUES + i];
                sum += (double)q[t * KEYS + j] * s[j];
            }
            ck_assert_double_eq_tol((double)y[t * VALUES + i], sum, 3e-5);
        }
    }
    v[40 * VALUES + 3] = INFINITY;
    v[60 * VALUES + 17] = NAN;
    assert_ok(c, sv_decay_scan(c, sv_view(again, SV_F32, LENGTH, VALUES), tq, tk, tv, td, SV_NONE, &rule,
                               &seq, false));
    for (int t = 0; t < LENGTH; t++)
        for (int i = 0; i < VALUES; i++) {
            const float now = again[t * VALUES + i];
            const bool spoilt = (i == 3 && t >= 40) || (i == 17 && t >= 60);
            if (spoilt)
                ck_assert(!isfinite(now));
            else
                ck_assert_mem_eq(&now, &y[t * VALUES + i], sizeof now);
        }
    void *all[] = {q, k, v, decay, y, again};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    sv_ctx_close(c);
}
END_TEST

static float *tokens_of(const float *from, int groups, int length, int pitch, int first, int count)
{
    float *to = malloc(((size_t)groups * (size_t)count * (size_t)pitch + 1) * sizeof *to);
    ck_assert_ptr_nonnull(to);
    for (int g = 0; g < groups; g++)
        memcpy(to + (size_t)(g * count) * (size_t)pitch, from + (size_t)(g * length + first) * (size_t)pitch,
               (size_t)(count * pitch) * sizeof *to);
    return to;
}

/* 'tokens' tokens of each group of 'p' from 'first' on; inputs are copied when they lie in slots. */
static problem piece_of(const problem *p, int first, int tokens)
{
    problem q = *p;
    const int width = p->heads * p->keys + p->pad, depth = p->heads * p->values + p->pad;
    q.length = tokens;
    q.slots = q.capacity = q.offsets[1] = p->groups * tokens;
    q.index = malloc(((size_t)q.slots + 1) * sizeof *q.index);
    ck_assert_ptr_nonnull(q.index);
    for (int i = 0; i < q.slots; i++) q.index[i] = p->index[i / tokens * p->length + first + i % tokens];
    if (!p->indexed) {
        q.rows = q.slots;
        q.q = tokens_of(p->q, p->groups, p->length, width, first, tokens);
        q.k = tokens_of(p->k, p->groups, p->length, width, first, tokens);
        q.v = tokens_of(p->v, p->groups, p->length, depth, first, tokens);
        if (p->rule.decay == SV_DECAY_TOKEN || p->rule.decay == SV_DECAY_CHANNEL)
            q.decay = tokens_of(p->decay, p->groups, p->length, decay_columns(p) + p->pad, first, tokens);
    }
    return q;
}

static void discard_piece(problem *q, const problem *p)
{
    if (q->q != p->q) free(q->q);
    if (q->k != p->k) free(q->k);
    if (q->v != p->v) free(q->v);
    if (q->decay != p->decay) free(q->decay);
    free(q->index);
}

/* Any split of a sequence (of chunks: at their ends), in walking order, with the state handed on in place,
 * gives the bytes of one pass. */
START_TEST(streaming_equals_one_pass)
{
    use_isa(_i);
    sv_ctx *c = test_context(1);
    test_rng rng = {33};
    for (int round = 0; round < 30; round++) {
        problem p = make(&rng, pick(&rng, 1, 3), pick(&rng, 1, 220));
        const int depth = p.heads * p.values, size = state_size(&p);
        const size_t room = (size_t)p.capacity * (size_t)depth;
        float *whole = output(room), *pieces = output(room);
        float *states = calloc((size_t)(p.groups * size), sizeof *states),
              *ends = output((size_t)(p.groups * size));
        sv_sequence seq = sequence(&p);
        seq.state_out = sv_view(ends, SV_F32, p.capacity / p.length, size);
        assert_ok(c, run(c, &p, whole, &seq, false));
        for (int done = 0; done < p.length;) {
            const int unit = p.rule.read == SV_READ_CHUNK ? p.rule.chunk : 1;
            int tokens = unit * pick(&rng, 1, 1 + 100 / unit);
            if (tokens > p.length - done) tokens = p.length - done;
            const int first = p.reverse ? p.length - done - tokens : done;
            problem q = piece_of(&p, first, tokens);
            float *y = output((size_t)(q.slots * depth));
            sv_sequence part = sequence(&q);
            part.state_in = part.state_out = sv_view(states, SV_F32, p.groups, size);
            assert_ok(c, run(c, &q, y, &part, false));
            for (int g = 0; g < p.groups; g++)
                memcpy(pieces + (g * p.length + first) * depth, y + g * tokens * depth,
                       (size_t)(tokens * depth) * sizeof *y);
            free(y);
            discard_piece(&q, &p);
            done += tokens;
        }
        ck_assert_mem_eq(whole, pieces, (size_t)(p.slots * depth) * sizeof *whole);
        ck_assert_mem_eq(states, ends, (size_t)(p.groups * size) * sizeof *states);
        free(whole), free(pieces), free(states), free(ends);
        discard(&p);
    }
    sv_ctx_close(c);
}
END_TEST

/* Bytes do not depend on threads, nor on the groups beside a group. */
START_TEST(same_bytes_for_threads_and_neighbours)
{
    sv_ctx *one = test_context(1), *three = test_context(3);
    test_rng rng = {34};
    for (int round = 0; round < 12; round++) {
        problem p = make(&rng, pick(&rng, 2, 5), pick(&rng, 1, 200));
        const int depth = p.heads * p.values, before = (p.groups - 1) * p.length;
        const sv_sequence seq = sequence(&p);
        float *a = output((size_t)(p.capacity * depth)), *b = output((size_t)(p.capacity * depth));
        assert_ok(one, run(one, &p, a, &seq, false));
        assert_ok(three, run(three, &p, b, &seq, false));
        ck_assert_mem_eq(a, b, (size_t)(p.capacity * depth) * sizeof *a);
        problem last = p; /* the last group alone */
        last.groups = 1;
        last.slots = last.capacity = last.offsets[1] = p.length;
        last.index += before;
        if (!p.indexed) {
            last.rows = p.length;
            last.q += before * (p.heads * p.keys + p.pad), last.k += before * (p.heads * p.keys + p.pad);
            last.v += before * (depth + p.pad);
            if (p.rule.decay >= SV_DECAY_TOKEN) last.decay += before * (decay_columns(&p) + p.pad);
        }
        const sv_sequence alone = sequence(&last);
        assert_ok(one, run(one, &last, b, &alone, false));
        ck_assert_mem_eq(a + before * depth, b, (size_t)(p.length * depth) * sizeof *a);
        free(a), free(b);
        discard(&p);
    }
    sv_ctx_close(one);
    sv_ctx_close(three);
}
END_TEST

/* ---- recordings of public references ---------------------------------------------------------------- */

/* [B, T, H, D] or, heads_first, [B, H, T, D] as rows [B*T, H*D]. */
static float *rows_of(const h5_array *a, bool heads_first)
{
    float *rows = malloc((a->count + 1) * sizeof *rows);
    ck_assert_ptr_nonnull(rows);
    const int second = a->dim[1], third = a->dim[2], width = a->ndim > 3 ? a->dim[3] : 1;
    const int heads = heads_first ? second : third, length = heads_first ? third : second;
    for (int b = 0; b < a->dim[0]; b++)
        for (int h = 0; h < heads; h++)
            for (int t = 0; t < length; t++)
                for (int i = 0; i < width; i++) {
                    const int from =
                        heads_first ? (b * heads + h) * length + t : (b * length + t) * heads + h;
                    rows[((b * length + t) * heads + h) * width + i] = a->f[from * width + i];
                }
    return rows;
}

typedef struct recorded {
    const char *file, *decay, *bonus;
    sv_decay form;
    sv_decay_read read;
    bool heads_first;
} recorded;

static h5_array dataset(h5_file *file, const char *part, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "%s/%s", part, name);
    return h5_has(file, path) ? h5_floats(file, path) : (h5_array){.count = 0};
}

static void recorded_case(sv_ctx *c, h5_file *file, const recorded *r, const char *part)
{
    h5_array in[] = {dataset(file, part, "in/q"),
                     dataset(file, part, "in/k"),
                     dataset(file, part, "in/v"),
                     dataset(file, part, "in/initial_state"),
                     dataset(file, part, "out/o"),
                     dataset(file, part, "out/final_state"),
                     dataset(file, part, r->decay ? r->decay : "none"),
                     dataset(file, part, r->bonus ? r->bonus : "none")};
    const int groups = in[0].dim[0], heads = in[0].dim[r->heads_first ? 1 : 2],
              length = in[0].dim[r->heads_first ? 2 : 1], keys = in[0].dim[3], values = in[2].dim[3],
              slots = groups * length, size = heads * keys * values;
    float *q = rows_of(&in[0], r->heads_first), *k = rows_of(&in[1], r->heads_first),
          *v = rows_of(&in[2], r->heads_first), *o = rows_of(&in[4], r->heads_first),
          *decay = in[6].count ? rows_of(&in[6], r->heads_first) : NULL;
    float *y = output((size_t)(slots * heads * values)), *state = output((size_t)(groups * size));
    float gammas[8];
    for (int h = 0; h < heads; h++) gammas[h] = (float)log1p(-exp2(-5 - h));
    const int columns = r->form == SV_DECAY_CHANNEL ? heads * keys : heads;
    const sv_decay_rule rule = {
        .heads = heads, .decay = r->form, .read = r->read, .scale = 1 / sqrtf((float)keys)};
    sv_sequence seq = {.length = length, .state_out = sv_view(state, SV_F32, groups, size)};
    if (in[3].count) seq.state_in = sv_view(in[3].f, SV_F32, groups, size);
    assert_ok(c, sv_decay_scan(
                     c, sv_view(y, SV_F32, slots, heads * values), sv_view(q, SV_F32, slots, heads * keys),
                     sv_view(k, SV_F32, slots, heads * keys), sv_view(v, SV_F32, slots, heads * values),
                     decay ? sv_view(decay, SV_F32, slots, columns) : sv_view(gammas, SV_F32, 1, heads),
                     in[7].count ? sv_view(in[7].f, SV_F32, 1, heads * keys) : SV_NONE, &rule, &seq, false));
    double most = 0;
    for (int i = 0; i < slots * heads * values; i++) most = fmax(most, fabs((double)o[i]));
    assert_close(r->file, y, o, (size_t)(slots * heads * values), 1e-6 * most, 0);
    if (in[5].count) assert_close(r->file, state, in[5].f, in[5].count, 1e-6 * fmax(most, 1), 1e-6);
    void *all[] = {q, k, v, o, decay, y, state};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    for (size_t i = 0; i < sizeof in / sizeof in[0]; i++) h5_free(&in[i]);
}

START_TEST(public_references)
{
    static const recorded files[] = {
        {"gla", "in/gk", NULL, SV_DECAY_CHANNEL, SV_READ_AFTER, false},
        {"simple_gla", "in/g", NULL, SV_DECAY_TOKEN, SV_READ_AFTER, false},
        {"retention", NULL, NULL, SV_DECAY_HEAD, SV_READ_AFTER, true},
        {"rwkv6", "in/w", "in/u", SV_DECAY_CHANNEL, SV_READ_BEFORE, true},
    };
    const char *folder = reference_folder();
    if (!folder) return;
    use_isa(_i);
    sv_ctx *c = test_context(1);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/golden/operators/%s.h5", folder, files[i].file);
        h5_file *file = h5_open(path, true);
        recorded_case(c, file, &files[i], "small");
        recorded_case(c, file, &files[i], "odd");
        recorded_case(c, file, &files[i], "long");
        h5_close(file);
    }
    sv_ctx_close(c);
}
END_TEST

/* ---- token_mix ------------------------------------------------------------------------------------- */

static void mix_case(sv_ctx *one, sv_ctx *three, test_rng *rng, bool carried)
{
    static const int widths[] = {1, 7, 8, 15, 16, 17, 40};
    const int groups = pick(rng, 0, 3), length = pick(rng, 0, 2) ? ANY(rng, lengths) : pick(rng, 120, 300);
    const int channels = ANY(rng, widths), mixtures = pick(rng, 1, 5), wide = channels * mixtures;
    const int slots = groups * length, capacity = slots + length, rows = pick(rng, 1, slots + 2);
    const bool reverse = rng_u64(rng) % 2 != 0;
    const int32_t offsets[2] = {0, slots};
    float *x = random_floats(rng, rows, channels + 3, -2, 2),
          *m = random_floats(rng, capacity, wide + 2, -1, 2);
    float *start = random_floats(rng, groups, channels, -2, 2), *state = output((size_t)(groups * channels));
    int32_t *index = malloc((size_t)capacity * sizeof *index);
    ck_assert_ptr_nonnull(index);
    for (int i = 0; i < capacity; i++) index[i] = pick(rng, -1, rows - 1);
    float *y = output((size_t)(capacity * wide)), *again = output((size_t)(capacity * wide));
    double *dx = widen(x, rows, channels, channels + 3), *dm = widen(m, slots, wide, wide + 2),
           *in = widen(start, groups, channels, channels), *expected = widen(y, slots, wide, wide),
           *expected_state = widen(state, groups, channels, channels);
    carried = carried && groups > 0;
    oracle_token_mix(expected, dx, dm, channels, mixtures, groups, length, index, reverse,
                     carried ? in : NULL, carried ? expected_state : NULL);
    sv_sequence seq = {.index = sv_view(index, SV_I32, capacity, 1), .length = length, .reverse = reverse};
    if (carried) {
        seq.state_in = sv_view(start, SV_F32, capacity / length, channels);
        seq.state_out = sv_view(state, SV_F32, capacity / length, channels);
    }
    sv_tensor ty = sv_view(y, SV_F32, capacity, wide);
    ty.offsets = offsets, ty.batch = 1;
    assert_ok(one, sv_token_mix(one, ty, view(x, rows, channels, 3), view(m, capacity, wide, 2), &seq));
    assert_near("token_mix", y, expected, slots * wide, 1e-6);
    assert_untouched(y + slots * wide, (size_t)((capacity - slots) * wide));
    if (carried) assert_near("mix state", state, expected_state, groups * channels, 0);
    /* in place, with three threads */
    for (int r = 0; r < slots; r++) memcpy(again + r * wide, m + r * (wide + 2), (size_t)wide * sizeof *m);
    ty.data = again;
    assert_ok(three, sv_token_mix(three, ty, view(x, rows, channels, 3), ty, &seq));
    ck_assert_mem_eq(y, again, (size_t)(slots * wide) * sizeof *y);
    void *all[] = {x, m, start, state, index, y, again, dx, dm, in, expected, expected_state};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
}

START_TEST(mix_equals_the_oracle)
{
    use_isa(_i);
    sv_ctx *one = test_context(1), *three = test_context(3);
    test_rng rng = {35};
    for (int i = 0; i < 60; i++) mix_case(one, three, &rng, i % 2 != 0);
    sv_ctx_close(one);
    sv_ctx_close(three);
}
END_TEST

/* ---- the contract ---------------------------------------------------------------------------------- */

START_TEST(wrong_shapes_are_named)
{
    sv_ctx *c = test_context(1);
    static float numbers[4096];
    const sv_tensor x = sv_view(numbers, SV_F32, 16, 8), y = sv_view(numbers + 2048, SV_F32, 16, 12);
    const sv_tensor decay = sv_view(numbers + 1024, SV_F32, 16, 8);
    const sv_sequence seq = {.length = 4};
    sv_decay_rule rule = {.heads = 4, .decay = SV_DECAY_CHANNEL, .read = SV_READ_AFTER, .scale = 1};
    assert_ok(c, sv_decay_scan(c, y, x, x, y, decay, SV_NONE, &rule, &seq, false));
    assert_fails(c, sv_decay_scan(c, y, x, y, y, decay, SV_NONE, &rule, &seq, false), SV_BAD_SHAPE, "'k'");
    assert_fails(c, sv_decay_scan(c, y, x, x, x, decay, SV_NONE, &rule, &seq, false), SV_BAD_SHAPE, "'v'");
    assert_fails(c, sv_decay_scan(c, y, x, x, y, y, SV_NONE, &rule, &seq, false), SV_BAD_SHAPE, "'decay'");
    assert_fails(c, sv_decay_scan(c, y, x, x, y, decay, x, &rule, &seq, false), SV_BAD_SHAPE, "'bonus'");
    rule.heads = 3;
    assert_fails(c, sv_decay_scan(c, y, x, x, y, decay, SV_NONE, &rule, &seq, false), SV_BAD_SHAPE,
                 "3 heads");
    rule.heads = 4, rule.read = SV_READ_CHUNK, rule.chunk = 64;
    assert_fails(c, sv_decay_scan(c, y, x, x, y, decay, SV_NONE, &rule, &seq, false), SV_UNSUPPORTED,
                 "constant");
    rule.decay = SV_DECAY_NONE, rule.chunk = 65;
    assert_fails(c, sv_decay_scan(c, y, x, x, y, SV_NONE, SV_NONE, &rule, &seq, false), SV_UNSUPPORTED, "65");
    rule.chunk = 64;
    assert_fails(c, sv_decay_scan(c, y, x, x, y, decay, SV_NONE, &rule, &seq, false), SV_BAD_SHAPE,
                 "'decay'");
    const sv_sequence odd = {.length = 5};
    assert_fails(c, sv_decay_scan(c, y, x, x, y, SV_NONE, SV_NONE, &rule, &odd, false), SV_BAD_SHAPE,
                 "groups of 5");
    const sv_sequence small = {.length = 4, .state_in = sv_view(numbers, SV_F32, 3, 24)};
    assert_fails(c, sv_decay_scan(c, y, x, x, y, SV_NONE, SV_NONE, &rule, &small, false), SV_BAD_SHAPE,
                 "'state_in'");
    assert_fails(c, sv_token_mix(c, y, x, y, &seq), SV_BAD_SHAPE, "12 columns");
    assert_fails(c, sv_token_mix(c, x, x, y, &seq), SV_BAD_SHAPE, "'m'");
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("decay");
    TCase *cases = tcase_create("decay_scan and token_mix");
    tcase_set_timeout(cases, 300);
    const int isas =
        SV_ISA_AVX512 + 1; /* the processor is asked in the tests, once they have set their cap */
    tcase_add_loop_test(cases, scan_equals_the_oracle, 0, isas);
    tcase_add_loop_test(cases, slow_decays_are_exact, 0, isas);
    tcase_add_loop_test(cases, scan_survives_extremes, 0, isas);
    tcase_add_loop_test(cases, streaming_equals_one_pass, 0, isas);
    tcase_add_test(cases, same_bytes_for_threads_and_neighbours);
    tcase_add_loop_test(cases, public_references, 0, isas);
    tcase_add_loop_test(cases, mix_equals_the_oracle, 0, isas);
    tcase_add_test(cases, wrong_shapes_are_named);
    suite_add_tcase(suite, cases);
    return run_suite(suite, true);
}
