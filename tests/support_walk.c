/* SPDX-License-Identifier: Apache-2.0 */
#include "support_walk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int pick(problem *p, int from, int to)
{
    return from + (int)(rng_u64(&p->rng) % (uint64_t)(to - from + 1));
}

float *uniform(problem *p, size_t count, double from, double to)
{
    float *x = malloc((count + 1) * sizeof *x);
    ck_assert_ptr_nonnull(x);
    for (size_t i = 0; i < count; i++) x[i] = (float)rng_uniform(&p->rng, from, to);
    ck_assert_int_lt(p->used, 64);
    return p->pool[p->used++] = x;
}

float *per_slot(problem *p, int columns, double from, double to)
{
    return uniform(p, (size_t)p->slots * (size_t)columns, from, to);
}

problem begin(int round)
{
    static const int lengths[] = {1, 2, 7, 16, 33, 64, 70};
    problem p = {.rng = {(uint64_t)round * 977 + 5}};
    p.groups = pick(&p, 0, 3);
    if (round == 0) p.groups = 2;
    p.length = lengths[pick(&p, 0, 6)];
    p.heads = pick(&p, 1, 3);
    p.keys = pick(&p, 1, 20);
    p.values = pick(&p, 1, 40);
    p.reverse = pick(&p, 0, 1);
    p.with_state = pick(&p, 0, 1);
    p.slots = p.groups * p.length;
    p.one = test_context(1);
    p.three = test_context(3);
    return p;
}

void finish(problem *p)
{
    for (int i = 0; i < p->used; i++) free(p->pool[i]);
    sv_ctx_close(p->one);
    sv_ctx_close(p->three);
}

sv_tensor view(float *x, int rows, int columns)
{
    return sv_view(x, SV_F32, rows, columns);
}
sv_tensor slots(const problem *p, float *x, int columns)
{
    return view(x, p->slots, columns);
}

double *walked(const problem *p, const float *x, int group, int columns)
{
    double *out = malloc(((size_t)p->length * (size_t)columns + 1) * sizeof *out);
    ck_assert_ptr_nonnull(out);
    for (int t = 0; t < p->length; t++)
        for (int i = 0; i < columns; i++) {
            const int slot = group * p->length + (p->reverse ? p->length - 1 - t : t);
            out[t * columns + i] = (double)x[slot * columns + i];
        }
    return out;
}

static void close_enough(const char *what, const problem *p, double got, double want, double most,
                         double tolerance, int at)
{
    ck_assert_msg(
        fabs(got - want) <= tolerance * most,
        "%s: %d is %.9g, expected %.9g (%d groups of %d, %d heads, %d keys, %d values, reverse %d, state %d)",
        what, at, got, want, p->groups, p->length, p->heads, p->keys, p->values, p->reverse, p->with_state);
}

void compare(problem *p, const char *what, caller call, oracle naive, const void *arg, int columns,
             int states, double state_from, double state_to, double tolerance)
{
    const size_t count = (size_t)p->slots * (size_t)columns, state_count = (size_t)p->groups * (size_t)states;
    float *y = per_slot(p, columns, 0, 0), *again = per_slot(p, columns, 0, 0);
    float *before = uniform(p, state_count, state_from, state_to), *after = uniform(p, state_count, 0, 0),
          *inplace = uniform(p, state_count, 0, 0);
    memcpy(inplace, before, state_count * sizeof *inplace);
    sv_sequence seq = {.length = p->length, .reverse = p->reverse};
    if (states > 0 && p->with_state) seq.state_in = view(before, p->groups, states);
    if (states > 0) seq.state_out = view(after, p->groups, states);
    assert_ok(p->one, call(p->one, arg, slots(p, y, columns), &seq));
    if (states > 0 && p->with_state) seq.state_in = seq.state_out = view(inplace, p->groups, states);
    assert_ok(p->three, call(p->three, arg, slots(p, again, columns), &seq));
    ck_assert_msg(memcmp(y, again, count * sizeof *y) == 0, "%s: bytes depend on the threads", what);
    if (p->with_state)
        ck_assert_msg(memcmp(after, inplace, state_count * sizeof *y) == 0, "%s: state in place", what);
    double *want = malloc(((size_t)p->length * (size_t)columns + 1) * sizeof *want),
           *state = malloc(((size_t)states + 1) * sizeof *state);
    ck_assert(want && state);
    for (int g = 0; g < p->groups; g++) {
        for (int i = 0; i < states; i++) state[i] = p->with_state ? (double)before[g * states + i] : 0;
        naive(p, arg, g, want, state);
        double *ours = walked(p, y, g, columns), most = 1e-3, most_state = 1e-3;
        for (int i = 0; i < p->length * columns; i++) most = fmax(most, fabs(want[i]));
        for (int i = 0; i < states; i++) most_state = fmax(most_state, fabs(state[i]));
        for (int i = 0; i < p->length * columns; i++)
            close_enough(what, p, ours[i], want[i], most, tolerance, i);
        for (int i = 0; i < states; i++)
            close_enough("state", p, (double)after[g * states + i], state[i], most_state, tolerance, i);
        free(ours);
    }
    free(want), free(state);
}

double match(const double *q, const double *k, int heads, int keys, int head, int i, int j)
{
    double sum = 0;
    for (int c = 0; c < keys; c++) sum += q[(i * heads + head) * keys + c] * k[(j * heads + head) * keys + c];
    return sum;
}
