/* SPDX-License-Identifier: Apache-2.0
 *
 * Suites of the delta rule: every form, decay and shape, short groups (walked in one go) and long ones (cut into chunks).
 */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { Q, K, V, DECAY, BETA, A, B, WEIGHT, INPUTS };

typedef struct delta_case {
    sv_delta_rule rule;
    int keys, values, groups, batch, count; /* live slots */
    int in[INPUTS], state_in, state_out, y;
    bool pair, weighed;
} delta_case;

static sv_status run_delta(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const delta_case *k = t->more;
    const int *in = k->in;
    const sv_delta_inputs inputs = {.q = v[in[Q]],
                                    .k = v[in[K]],
                                    .v = v[in[V]],
                                    .decay = k->rule.decay == SV_DECAY_NONE ? SV_NONE : v[in[DECAY]],
                                    .beta = k->pair ? SV_NONE : v[in[BETA]],
                                    .a = k->pair ? v[in[A]] : SV_NONE,
                                    .b = k->pair ? v[in[B]] : SV_NONE,
                                    .weight = k->weighed ? v[in[WEIGHT]] : SV_NONE};
    const sv_sequence seq = {.index = SV_NONE,
                             .length = t->length,
                             .reverse = t->reverse,
                             .state_in = t->jobs & 1 ? v[k->state_in] : SV_NONE,
                             .state_out = t->jobs & 2 ? v[k->state_out] : SV_NONE};
    return sv_delta_scan(c, v[k->y], &inputs, &k->rule, &seq);
}

/* Rows of unit length, in parts of 'width' columns. */
static void make_units(float *p, int rows, int columns, int width)
{
    for (int part = 0; part < rows * columns / width; part++, p += width) {
        float squares = 1e-6f;
        for (int i = 0; i < width; i++) squares += p[i] * p[i];
        for (int i = 0; i < width; i++) p[i] /= sqrtf(squares);
    }
}

/* Logarithms of decay, from nearly nothing to everything forgotten. */
static float any_decay(void)
{
    switch (below(8)) {
    case 0:
        return -20 * uniform(0.5f, 1);
    case 1:
        return below(2) ? 0.0f : -1e-4f;
    default:
        return -expf(uniform(-5, 0));
    }
}

static int add_rows(test_case *t, const delta_case *k, const char *name, int columns)
{
    return add_floats(t, name, k->groups * t->length, k->count, columns, 0.5f);
}

static void add_inputs(test_case *t, delta_case *k)
{
    const int heads = k->rule.heads, steps = k->rule.steps, keys = heads * k->keys,
              values = heads * k->values;
    k->in[Q] = add_rows(t, k, "q", keys);
    k->in[K] = add_rows(t, k, "k", steps * keys);
    k->in[V] = add_rows(t, k, "v", steps * values);
    k->in[BETA] = add_rows(t, k, "beta", steps * heads);
    k->in[A] = add_rows(t, k, "a", keys);
    k->in[B] = add_rows(t, k, "b", keys);
    k->in[WEIGHT] = add_rows(t, k, "weight", 1);
    const int columns = k->rule.decay == SV_DECAY_CHANNEL ? keys : heads;
    const bool constant = k->rule.decay == SV_DECAY_HEAD;
    k->in[DECAY] = constant ? add_floats(t, "decay", 1, 1, columns, 1) : add_rows(t, k, "decay", columns);
    for (int i = 0; i < (constant ? 1 : k->count) * columns; i++) floats(t, k->in[DECAY])[i] = any_decay();
    make_units(floats(t, k->in[K]), k->count, steps * keys, k->keys);
    make_units(floats(t, k->in[A]), k->count, keys, k->keys);
    for (int i = 0; i < k->count * steps * heads; i++) floats(t, k->in[BETA])[i] = uniform(0, 1.9f);
    for (int i = 0; i < k->count * keys; i++) /* what keeps the transition's norm */
        floats(t, k->in[B])[i] = -floats(t, k->in[A])[i] * uniform(0, 1);
    for (int i = 0; i < k->count; i++) floats(t, k->in[WEIGHT])[i] = below(3) ? uniform(0.1f, 1) : 0.0f;
}

static void check_one(bench *b, const int *shape, int length, int number)
{
    test_case t = {.run = run_delta, .length = length, .reverse = below(2) == 0, .jobs = below(4)};
    delta_case k = {.keys = shape[1], .values = shape[2], .groups = 1 + below(3), .batch = 1 + below(3)};
    k.pair = number % 3 == 2;
    k.weighed = below(3) == 0;
    k.rule = (sv_delta_rule){.heads = shape[0],
                             .steps = k.pair || below(2) ? 1 : 2 + below(2),
                             .decay = (sv_decay)below(4),
                             .scale = 0.5f,
                             .accumulate = below(3) == 0};
    const int capacity = k.groups * length, offsets = add_offsets(&t, capacity, k.batch, length);
    k.count = live(&t, offsets);
    add_inputs(&t, &k);
    const int state = k.rule.heads * k.keys * k.values, alive = k.count / length;
    k.state_in = add_floats(&t, "state in", k.groups, alive, state, 0.5f);
    k.state_out = add(&t, "state out", SV_F32, k.groups, state);
    t.buffers[k.state_out].tolerance = 5e-5;
    if (!(t.jobs & 1)) /* the GPU empties rows of groups that are not there with the others */
        memset(floats(&t, k.state_out) + (size_t)alive * (size_t)state, 0,
               (size_t)(k.groups - alive) * (size_t)state * sizeof(float));
    k.y = add_floats(&t, "y", capacity, k.rule.accumulate ? k.count : 0, k.rule.heads * k.values, 1);
    with_offsets(&t, k.y, offsets, k.batch);
    t.buffers[k.y].tolerance = 5e-5;
    t.more = &k;
    snprintf(t.label, sizeof t.label,
             "%d of %d slots, length %d, %d heads of %d and %d, decay %d, %d steps%s%s%s%s, states %d",
             k.count, capacity, length, shape[0], k.keys, k.values, (int)k.rule.decay, k.rule.steps,
             k.pair ? ", pair" : "", k.weighed ? ", weighed" : "", k.rule.accumulate ? ", accumulate" : "",
             t.reverse ? ", reverse" : "", t.jobs);
    check(b, &t);
}

static void check_lengths(bench *b, const int *lengths, int count)
{
    static const int shapes[][3] = {{1, 8, 8},    {4, 32, 32},  {3, 7, 5},   {2, 16, 32},
                                    {2, 64, 64},  {2, 20, 12},  {2, 48, 36}, {1, 100, 20},
                                    {1, 128, 50}, {1, 200, 36}, {1, 256, 16}};
    enum { SHAPES = sizeof shapes / sizeof *shapes };
    for (int i = 0; i < count * SHAPES; i++) check_one(b, shapes[i % SHAPES], lengths[i / SHAPES], i);
}

void check_delta_scan(bench *b)
{
    static const int lengths[] = {1, 5, 16, 33, 64, 130, 256};
    check_lengths(b, lengths, sizeof lengths / sizeof *lengths);
}

void check_delta_chunks(bench *b)
{
    static const int lengths[] = {257, 300, 512, 777, 1024, 1025, 1500};
    check_lengths(b, lengths, sizeof lengths / sizeof *lengths);
}
