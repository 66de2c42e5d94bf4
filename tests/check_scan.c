/* SPDX-License-Identifier: Apache-2.0
 *
 * causal_conv and selective_scan against double-precision oracles, for every instruction set there is.
 */
#include "oracle_scan.h"
#include "support.h"

#include "perception/core/simd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A random problem, dense copies in double beside it. Inputs lie in wider rows, to test pitches. */
typedef struct problem {
    int groups, length, channels, states, taps, rows, slots, capacity;
    bool indexed, gated, skew; /* skew: pitches larger than the channels */
    float *x, *u, *delta, *b, *c, *z, *a, *d, *w, *bias, *scan_state, *conv_state;
    int pad;
    int32_t *index;
    int32_t offsets[2];
} problem;

static float *random_floats(test_rng *rng, int rows, int pitch, double from, double to)
{
    float *values = malloc(((size_t)rows * (size_t)pitch + 1) * sizeof *values);
    ck_assert_ptr_nonnull(values);
    for (int i = 0; i < rows * pitch; i++) values[i] = (float)rng_uniform(rng, from, to);
    return values;
}

static int pick(test_rng *rng, int from, int to)
{
    return from + (int)(rng_u64(rng) % (uint64_t)(to - from + 1));
}

static problem make(test_rng *rng, int groups, int length, int channels, int states, int taps)
{
    problem p = {.groups = groups, .length = length, .channels = channels, .states = states, .taps = taps};
    p.indexed = rng_u64(rng) % 4 != 0;
    p.gated = rng_u64(rng) % 4 != 0;
    p.pad = (int)(rng_u64(rng) % 2) * 5;
    p.slots = groups * length;
    p.capacity = p.slots + 2 * length;
    p.rows = p.indexed ? pick(rng, 1, p.slots + 3) : p.capacity;
    p.offsets[1] = p.slots;
    p.x = random_floats(rng, p.rows, channels + p.pad, -2, 2);
    p.z = random_floats(rng, p.rows, channels + p.pad, -4, 4);
    p.u = random_floats(rng, p.capacity, channels + p.pad, -2, 2);
    p.delta = random_floats(rng, p.capacity, channels + p.pad, 0, 1);
    for (int i = 0; i < p.capacity * (channels + p.pad); i++) p.delta[i] *= p.delta[i] * p.delta[i];
    p.b = random_floats(rng, p.capacity, states + p.pad, -1, 1);
    p.c = random_floats(rng, p.capacity, states + p.pad, -1, 1);
    p.a = random_floats(rng, channels, states, -3, 3);
    for (int i = 0; i < channels * states; i++) p.a[i] = -expf(p.a[i]);
    p.d = random_floats(rng, 1, channels, -1, 1);
    p.w = random_floats(rng, channels, taps, -1, 1);
    p.bias = random_floats(rng, 1, channels, -1, 1);
    p.scan_state = random_floats(rng, groups, channels * states, -1, 1);
    p.conv_state = random_floats(rng, groups, channels * (taps - 1), -2, 2);
    p.index = malloc((size_t)p.capacity * sizeof *p.index);
    ck_assert_ptr_nonnull(p.index);
    for (int i = 0; i < p.capacity; i++) p.index[i] = pick(rng, -1, p.rows - 1);
    return p;
}

static const int lengths[] = {1, 2, 3, 5, 63, 64, 65, 127, 128, 129, 200, 300};
static const int widths[] = {1, 3, 7, 8, 9, 15, 16, 17, 33, 64};
static const int state_sizes[] = {1, 2, 3, 4, 5, 7, 8, 16, 16, 16, 31, 64};
#define ANY(rng, list) list[rng_u64(rng) % (sizeof list / sizeof list[0])]

/* Drawn one after the other, so that every compiler sees the same cases. 'length' 0: one of the list. */
static problem make_any(test_rng *rng, int groups_from, int groups_to, int length, int taps_from)
{
    const int groups = pick(rng, groups_from, groups_to);
    if (length == 0) length = ANY(rng, lengths);
    const int channels = ANY(rng, widths), states = ANY(rng, state_sizes);
    return make(rng, groups, length, channels, states, pick(rng, taps_from, 8));
}

static void discard(problem *p)
{
    float *all[] = {p->x, p->u, p->delta, p->b,    p->c,          p->z,
                    p->a, p->d, p->w,     p->bias, p->scan_state, p->conv_state};
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

static sv_sequence sequence(const problem *p, bool reverse)
{
    sv_sequence seq = {.length = p->length, .reverse = reverse};
    if (p->indexed) seq.index = live(sv_view(p->index, SV_I32, p->capacity, 1), p);
    return seq;
}

static sv_status run_conv(sv_ctx *c, const problem *p, float *y, const sv_sequence *seq, sv_map map)
{
    return sv_causal_conv(
        c, live(sv_view(y, SV_F32, p->capacity, p->channels), p), view(p->x, p->rows, p->channels, p->pad),
        sv_view(p->w, SV_F32, p->channels, p->taps), sv_view(p->bias, SV_F32, 1, p->channels), seq, map);
}

static sv_status run_scan(sv_ctx *c, const problem *p, float *y, const sv_sequence *seq, bool accumulate)
{
    return sv_selective_scan(
        c, live(sv_view(y, SV_F32, p->capacity, p->channels), p),
        view(p->u, p->capacity, p->channels, p->pad), view(p->delta, p->capacity, p->channels, p->pad),
        sv_view(p->a, SV_F32, p->channels, p->states), view(p->b, p->capacity, p->states, p->pad),
        view(p->c, p->capacity, p->states, p->pad), sv_view(p->d, SV_F32, 1, p->channels),
        p->gated ? view(p->z, p->rows, p->channels, p->pad) : SV_NONE, seq, accumulate);
}

static double *widen(const float *x, int rows, int columns, int pitch)
{
    double *y = malloc(((size_t)rows * (size_t)columns + 1) * sizeof *y);
    ck_assert_ptr_nonnull(y);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < columns; i++) y[r * columns + i] = x[r * pitch + i];
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

static void conv_case(sv_ctx *c, test_rng *rng, bool carried)
{
    problem p = make_any(rng, 0, 4, 0, 1);
    const bool reverse = rng_u64(rng) % 2 != 0, silu = rng_u64(rng) % 2 != 0;
    const int live_count = p.slots * p.channels, history = p.groups * p.channels * (p.taps - 1);
    float *y = output((size_t)p.capacity * (size_t)p.channels), *state = output((size_t)history);
    double *x = widen(p.x, p.rows, p.channels, p.channels + p.pad),
           *w = widen(p.w, p.channels, p.taps, p.taps);
    double *bias = widen(p.bias, 1, p.channels, p.channels), *in = widen(p.conv_state, 1, history, history);
    double *expected = widen(y, p.slots, p.channels, p.channels),
           *expected_state = widen(state, 1, history, history);

    sv_sequence seq = sequence(&p, reverse);
    if (carried && p.taps > 1) {
        seq.state_in = sv_view(p.conv_state, SV_F32, p.groups, p.channels * (p.taps - 1));
        seq.state_out = sv_view(state, SV_F32, p.groups, p.channels * (p.taps - 1));
        if (p.groups == 0) seq.state_in = seq.state_out = SV_NONE;
        seq.state_in.dim[0] = seq.state_out.dim[0] = p.capacity / p.length; /* capacity, as for y */
    }
    const oracle_sequence plain = {.groups = p.groups,
                                   .length = p.length,
                                   .index = p.indexed ? p.index : NULL,
                                   .reverse = reverse,
                                   .state_in = sv_is_none(seq.state_in) ? NULL : in,
                                   .state_out = sv_is_none(seq.state_out) ? NULL : expected_state};
    oracle_causal_conv(expected, x, w, bias, p.channels, p.taps, &plain);
    for (int i = 0; i < live_count && silu; i++) expected[i] = oracle_silu(expected[i]);
    assert_ok(c, run_conv(c, &p, y, &seq, silu ? SV_MAP_silu : SV_MAP_identity));
    assert_near("causal_conv", y, expected, live_count, 1e-6);
    assert_untouched(y + live_count, (size_t)(p.capacity * p.channels - live_count));
    if (!sv_is_none(seq.state_out)) assert_near("conv state", state, expected_state, history, 0);
    void *all[] = {y, state, x, w, bias, in, expected, expected_state};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    discard(&p);
}

START_TEST(conv_equals_the_oracle)
{
    use_isa(_i);
    sv_ctx *c = test_context(1);
    test_rng rng = {7};
    for (int i = 0; i < 80; i++) conv_case(c, &rng, i % 2 != 0);
    sv_ctx_close(c);
}
END_TEST

START_TEST(conv_applies_any_map)
{
    sv_ctx *c = test_context(1);
    test_rng rng = {8};
    problem p = make(&rng, 2, 70, 20, 1, 4);
    const sv_sequence seq = sequence(&p, false);
    const size_t count = (size_t)p.capacity * (size_t)p.channels;
    float *plain = output(count), *mapped = output(count);
    assert_ok(c, run_conv(c, &p, plain, &seq, SV_MAP_identity));
    assert_ok(c, run_conv(c, &p, mapped, &seq, SV_MAP_tanh));
    for (int i = 0; i < p.slots * p.channels; i++)
        ck_assert_double_eq_tol((double)mapped[i], tanh((double)plain[i]), 1e-6);
    free(plain), free(mapped);
    discard(&p);
    sv_ctx_close(c);
}
END_TEST

static void scan_case(sv_ctx *c, test_rng *rng, bool carried, bool accumulate)
{
    problem p = make_any(rng, 0, 3, 0, 1);
    const bool reverse = rng_u64(rng) % 2 != 0;
    const int live_count = p.slots * p.channels, states = p.channels * p.states, total = p.groups * states;
    float *y = output((size_t)p.capacity * (size_t)p.channels), *state = output((size_t)total);
    if (accumulate)
        for (int i = 0; i < live_count; i++) y[i] = (float)rng_uniform(rng, -1, 1);
    double *before = widen(y, p.slots, p.channels, p.channels),
           *expected = widen(y, p.slots, p.channels, p.channels);
    double *u = widen(p.u, p.slots, p.channels, p.channels + p.pad),
           *delta = widen(p.delta, p.slots, p.channels, p.channels + p.pad);
    double *b = widen(p.b, p.slots, p.states, p.states + p.pad),
           *cmat = widen(p.c, p.slots, p.states, p.states + p.pad);
    double *a = widen(p.a, p.channels, p.states, p.states), *d = widen(p.d, 1, p.channels, p.channels);
    double *z = widen(p.z, p.rows, p.channels, p.channels + p.pad),
           *in = widen(p.scan_state, 1, total, total);
    double *expected_state = widen(state, 1, total, total);

    sv_sequence seq = sequence(&p, reverse);
    if (carried && p.groups > 0) {
        seq.state_in = sv_view(p.scan_state, SV_F32, p.capacity / p.length, states);
        seq.state_out = sv_view(state, SV_F32, p.capacity / p.length, states);
    }
    const oracle_sequence plain = {.groups = p.groups,
                                   .length = p.length,
                                   .index = p.indexed ? p.index : NULL,
                                   .reverse = reverse,
                                   .state_in = sv_is_none(seq.state_in) ? NULL : in,
                                   .state_out = sv_is_none(seq.state_out) ? NULL : expected_state};
    oracle_selective_scan(expected, u, delta, a, b, cmat, d, p.gated ? z : NULL, p.channels, p.states,
                          &plain);
    for (int i = 0; i < live_count && accumulate; i++) expected[i] += before[i];
    assert_ok(c, run_scan(c, &p, y, &seq, accumulate));
    assert_near("selective_scan", y, expected, live_count, 3e-6);
    assert_untouched(y + live_count, (size_t)(p.capacity * p.channels - live_count));
    if (!sv_is_none(seq.state_out)) assert_near("scan state", state, expected_state, total, 3e-6);
    void *all[] = {y, state, before, expected, u, delta, b, cmat, a, d, z, in, expected_state};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    discard(&p);
}

START_TEST(scan_equals_the_oracle)
{
    use_isa(_i);
    sv_ctx *c = test_context(1);
    test_rng rng = {9};
    for (int i = 0; i < 60; i++) scan_case(c, &rng, i % 2 != 0, i % 3 == 0);
    sv_ctx_close(c);
}
END_TEST

/* Decays from none at all to beyond what a float can hold; a channel whose numbers overflow leaves the others
 * as they were. */
START_TEST(scan_survives_extreme_decays)
{
    use_isa(_i);
    sv_ctx *c = test_context(1);
    test_rng rng = {10};
    problem p = make(&rng, 1, 150, 20, 6, 1);
    p.gated = false;
    const int pitch = p.channels + p.pad, count = p.slots * p.channels;
    static const float rates[] = {0, -1e-6f, -1e-3f, -16, -1e4f, -1e30f};
    for (int i = 0; i < p.channels * p.states; i++) p.a[i] = rates[rng_u64(&rng) % 6];
    for (int t = 0; t < p.slots; t++) {
        p.delta[t * pitch + 3] = 12 + (float)(t % 3); /* decays of e^-200 */
        p.delta[t * pitch + 5] = t % 2 ? 1e9f : 0;
    }
    const sv_sequence seq = sequence(&p, false);
    const oracle_sequence plain = {.groups = 1, .length = p.length};
    double *u = widen(p.u, p.slots, p.channels, pitch), *delta = widen(p.delta, p.slots, p.channels, pitch);
    double *b = widen(p.b, p.slots, p.states, p.states + p.pad),
           *cmat = widen(p.c, p.slots, p.states, p.states + p.pad);
    double *a = widen(p.a, p.channels, p.states, p.states), *d = widen(p.d, 1, p.channels, p.channels);
    double *expected = malloc((size_t)count * sizeof *expected);
    ck_assert_ptr_nonnull(expected);
    oracle_selective_scan(expected, u, delta, a, b, cmat, d, NULL, p.channels, p.states, &plain);
    float *y = output((size_t)p.capacity * (size_t)p.channels),
          *again = output((size_t)p.capacity * (size_t)p.channels);
    assert_ok(c, run_scan(c, &p, y, &seq, false));
    for (int i = 0; i < count; i++) {
        const double scale = i % p.channels == 5 ? 1e10 : 100; /* what the inputs of that channel reach */
        if (!(fabs((double)y[i] - expected[i]) <= 3e-6 * scale))
            ck_abort_msg("channel %d: %.9g, expected %.9g", i % p.channels, (double)y[i], expected[i]);
    }

    for (int t = 0; t < p.slots; t++) {
        p.delta[t * pitch + 1] = INFINITY;
        p.delta[t * pitch + 2] = t == 60 ? NAN : 1;
        p.delta[t * pitch + 3] = -5;
    }
    for (int s = 0; s < p.states; s++) p.a[1 * p.states + s] = p.a[2 * p.states + s] = -1;
    for (int s = 0; s < p.states; s++) p.a[3 * p.states + s] = -100; /* e^500 */
    assert_ok(c, run_scan(c, &p, again, &seq, false));
    for (int t = 0; t < p.slots; t++)
        for (int i = 0; i < p.channels; i++) {
            const float now = again[t * p.channels + i];
            if (i == 1 || i == 3) ck_assert(!isfinite(now) || t < 3);
            if (i == 2) ck_assert_int_eq(isnan(now), t >= 60);
            if (i == 0 || i > 3) ck_assert_mem_eq(&now, &y[t * p.channels + i], sizeof now);
        }
    void *all[] = {u, delta, b, cmat, a, d, expected, y, again};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    discard(&p);
    sv_ctx_close(c);
}
END_TEST

static void copy_tokens(float *to, const float *from, int groups, int length, int pitch, int first, int count)
{
    for (int g = 0; g < groups; g++)
        memcpy(to + (size_t)(g * count) * (size_t)pitch, from + (size_t)(g * length + first) * (size_t)pitch,
               (size_t)(count * pitch) * sizeof *to);
}

/* Any split of a sequence, in walking order, with the state handed on in place, gives the same bytes. */
START_TEST(streaming_equals_one_pass)
{
    use_isa(_i);
    sv_ctx *c = test_context(1);
    test_rng rng = {11};
    for (int round = 0; round < 24; round++) {
        problem p = make_any(&rng, 1, 3, round * 11 + 1, 2);
        const bool reverse = round % 2 != 0;
        const int conv_width = p.channels * (p.taps - 1), scan_width = p.channels * p.states,
                  count = p.slots * p.channels;
        const size_t room = (size_t)(p.capacity + 3) * (size_t)(p.channels + p.pad);
        float *whole[2] = {output(room), output(room)}, *pieces[2] = {output(room), output(room)};
        float *states[2] = {calloc((size_t)p.groups * (size_t)conv_width, sizeof(float)),
                            calloc((size_t)p.groups * (size_t)scan_width, sizeof(float))};
        float *ends[2] = {output((size_t)p.groups * (size_t)conv_width),
                          output((size_t)p.groups * (size_t)scan_width)};
        sv_sequence seq = sequence(&p, reverse);
        seq.state_out = sv_view(ends[0], SV_F32, p.capacity / p.length, conv_width);
        assert_ok(c, run_conv(c, &p, whole[0], &seq, SV_MAP_silu));
        seq.state_out = sv_view(ends[1], SV_F32, p.capacity / p.length, scan_width);
        assert_ok(c, run_scan(c, &p, whole[1], &seq, false));

        for (int done = 0; done < p.length;) {
            problem q = p; /* 'tokens' tokens of each group */
            const int rest = p.length - done, most = round % 3 == 0 && rest > 4 ? 4 : rest;
            const int tokens = pick(&rng, 1, most);
            const int first = reverse ? p.length - done - tokens : done, pitch = p.channels + p.pad;
            q.length = tokens;
            q.slots = q.capacity = q.offsets[1] = p.groups * tokens;
            q.u = output(room), q.delta = output(room), q.x = output(room), q.z = output(room);
            q.b = output((size_t)q.slots * (size_t)(p.states + p.pad)),
            q.c = output((size_t)q.slots * (size_t)(p.states + p.pad));
            q.index = malloc((size_t)q.slots * sizeof *q.index);
            copy_tokens(q.u, p.u, p.groups, p.length, pitch, first, tokens);
            copy_tokens(q.delta, p.delta, p.groups, p.length, pitch, first, tokens);
            copy_tokens(q.b, p.b, p.groups, p.length, p.states + p.pad, first, tokens);
            copy_tokens(q.c, p.c, p.groups, p.length, p.states + p.pad, first, tokens);
            if (p.indexed) {
                for (int i = 0; i < q.slots; i++)
                    q.index[i] = p.index[i / tokens * p.length + first + i % tokens];
                memcpy(q.x, p.x, (size_t)p.rows * (size_t)pitch * sizeof(float));
                memcpy(q.z, p.z, (size_t)p.rows * (size_t)pitch * sizeof(float));
            } else {
                copy_tokens(q.x, p.x, p.groups, p.length, pitch, first, tokens);
                copy_tokens(q.z, p.z, p.groups, p.length, pitch, first, tokens);
            }
            for (int op = 0; op < 2; op++) {
                float *y = output((size_t)q.slots * (size_t)p.channels);
                sv_sequence piece = sequence(&q, reverse);
                piece.state_in = piece.state_out =
                    sv_view(states[op], SV_F32, p.groups, op ? scan_width : conv_width);
                assert_ok(c,
                          op ? run_scan(c, &q, y, &piece, false) : run_conv(c, &q, y, &piece, SV_MAP_silu));
                for (int g = 0; g < p.groups; g++)
                    memcpy(pieces[op] + (g * p.length + first) * p.channels, y + g * tokens * p.channels,
                           (size_t)(tokens * p.channels) * sizeof *y);
                free(y);
            }
            free(q.u), free(q.delta), free(q.b), free(q.c), free(q.x), free(q.z), free(q.index);
            done += tokens;
        }
        for (int op = 0; op < 2; op++) {
            const size_t bytes = (size_t)p.groups * (size_t)(op ? scan_width : conv_width) * sizeof(float);
            ck_assert_mem_eq(whole[op], pieces[op], (size_t)count * sizeof(float));
            ck_assert_mem_eq(states[op], ends[op], bytes);
            free(whole[op]), free(pieces[op]), free(states[op]), free(ends[op]);
        }
        discard(&p);
    }
    sv_ctx_close(c);
}
END_TEST

/* Bytes do not depend on threads, nor on the groups beside a group. */
START_TEST(same_bytes_for_threads_and_neighbours)
{
    sv_ctx *one = test_context(1), *three = test_context(3);
    test_rng rng = {12};
    for (int round = 0; round < 10; round++) {
        problem p = make_any(&rng, 2, 6, 1 + 30 * round, 1);
        p.indexed = true;
        for (int i = 0; i < p.capacity; i++) p.index[i] %= p.rows;
        const sv_sequence seq = sequence(&p, round % 2 != 0);
        const size_t count = (size_t)p.capacity * (size_t)p.channels;
        float *a[2] = {output(count), output(count)}, *b[2] = {output(count), output(count)};
        assert_ok(one, run_conv(one, &p, a[0], &seq, SV_MAP_silu));
        assert_ok(three, run_conv(three, &p, b[0], &seq, SV_MAP_silu));
        assert_ok(one, run_scan(one, &p, a[1], &seq, false));
        assert_ok(three, run_scan(three, &p, b[1], &seq, false));
        for (int op = 0; op < 2; op++) ck_assert_mem_eq(a[op], b[op], count * sizeof(float));

        problem last = p; /* the last group alone */
        const int before = (p.groups - 1) * p.length, pitch = p.channels + p.pad;
        last.groups = 1;
        last.slots = last.capacity = last.offsets[1] = p.length;
        last.u += before * pitch, last.delta += before * pitch, last.index += before;
        last.b += before * (p.states + p.pad), last.c += before * (p.states + p.pad);
        const sv_sequence alone = sequence(&last, seq.reverse);
        assert_ok(one, run_conv(one, &last, b[0], &alone, SV_MAP_silu));
        assert_ok(one, run_scan(one, &last, b[1], &alone, false));
        for (int op = 0; op < 2; op++) {
            ck_assert_mem_eq(a[op] + before * p.channels, b[op],
                             (size_t)(p.length * p.channels) * sizeof(float));
            free(a[op]), free(b[op]);
        }
        discard(&p);
    }
    sv_ctx_close(one);
    sv_ctx_close(three);
}
END_TEST

START_TEST(wrong_shapes_are_named)
{
    sv_ctx *c = test_context(1);
    test_rng rng = {13};
    problem p = make(&rng, 2, 10, 8, 4, 4);
    float *y = output((size_t)p.capacity * 8);
    sv_sequence seq = sequence(&p, false);
    seq.state_in = sv_view(p.scan_state, SV_F32, 1, 8 * 4);
    assert_fails(c, run_scan(c, &p, y, &seq, false), SV_BAD_SHAPE, "'state_in'");
    seq.state_in = SV_NONE;
    seq.state_out = sv_view(p.conv_state, SV_F32, 4, 8 * 4);
    assert_fails(c, run_conv(c, &p, y, &seq, SV_MAP_identity), SV_BAD_SHAPE, "'state_out'");
    seq = sequence(&p, false);
    seq.length = 7;
    assert_fails(c, run_scan(c, &p, y, &seq, false), SV_BAD_SHAPE, "groups of 7");
    free(y);
    discard(&p);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("scan");
    TCase *cases = tcase_create("causal_conv and selective_scan");
    tcase_set_timeout(cases, 300);
    const int isas =
        SV_ISA_AVX512 + 1; /* the processor itself is asked in the tests, once they have set their cap */
    tcase_add_loop_test(cases, conv_equals_the_oracle, 0, isas);
    tcase_add_test(cases, conv_applies_any_map);
    tcase_add_loop_test(cases, scan_equals_the_oracle, 0, isas);
    tcase_add_loop_test(cases, scan_survives_extreme_decays, 0, isas);
    tcase_add_loop_test(cases, streaming_equals_one_pass, 0, isas);
    tcase_add_test(cases, same_bytes_for_threads_and_neighbours);
    tcase_add_test(cases, wrong_shapes_are_named);
    suite_add_tcase(suite, cases);
    return run_suite(suite, true);
}
