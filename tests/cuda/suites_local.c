/* SPDX-License-Identifier: Apache-2.0
 *
 * Suites of attention among the last tokens, states that blocks rewrite, dilated convolutions, deep memories.
 */
#include "harness.h"

#include <math.h>
#include <stdio.h>

static const int lengths[] = {1, 5, 32, 33, 64, 100, 300};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

/* Buffer 0: offsets in slots. */
typedef struct slot_set {
    int offsets, batch, capacity, count, groups;
} slot_set;

static slot_set add_slots(test_case *t)
{
    slot_set s = {.batch = 1 + below(3), .groups = 1 + below(4)};
    s.capacity = s.groups * t->length;
    s.offsets = add_offsets(t, s.capacity, s.batch, t->length);
    s.count = live(t, s.offsets);
    return s;
}
static int add_tokens(test_case *t, const slot_set *s, const char *name, int columns, float deviation)
{
    const int i = add_floats(t, name, s->capacity, s->count, columns, deviation);
    with_offsets(t, i, s->offsets, s->batch);
    return i;
}
/* Numbers in (0, 1) times 'most'. */
static int add_gates(test_case *t, const slot_set *s, const char *name, int columns, float most)
{
    const int i = add_tokens(t, s, name, columns, 1.5f);
    for (int n = 0; n < s->count * columns; n++) floats(t, i)[n] = most / (1 + expf(-floats(t, i)[n]));
    return i;
}
/* State in, state out. 'jobs' bit 0: there is one before; bit 1: one is wanted; bit 2: in the same place. */
static int add_states(test_case *t, const slot_set *s, int columns, float deviation, double tolerance)
{
    const int in = add_floats(t, "state in", s->groups, s->count / t->length, columns, deviation);
    if ((t->jobs & 7) == 7) t->buffers[in].tolerance = tolerance;
    const int out = add(t, "state out", SV_F32, s->groups, columns);
    t->buffers[out].tolerance = tolerance;
    return in;
}
static sv_sequence sequence_of(const test_case *t, const sv_tensor *v, int in)
{
    return (sv_sequence){.length = t->length,
                         .reverse = t->reverse,
                         .state_in = t->jobs & 1 ? v[in] : SV_NONE,
                         .state_out = !(t->jobs & 2)       ? SV_NONE
                                      : (t->jobs & 7) == 7 ? v[in]
                                                           : v[in + 1]};
}
static void describe(test_case *t, const slot_set *s, const char *shape)
{
    snprintf(t->label, sizeof t->label, "%d of %d slots, length %d, %s, states %d%s", s->count, s->capacity,
             t->length, shape, t->jobs, t->reverse ? ", reverse" : "");
}

/* buffers: offsets, q, k, v, weight, state in, state out, y */
static sv_status run_local(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_sequence seq = sequence_of(t, v, 5);
    return sv_local_attention(c, v[7], v[1], v[2], v[3], t->flag ? v[4] : SV_NONE, t->more, &seq);
}
void check_local_attention(bench *k)
{
    static const int shapes[][3] = {{2, 16, 16}, {1, 64, 64}, {4, 5, 9}, {2, 40, 100}, {3, 8, 200}};
    for (int i = 0; i < 8 * LENGTHS; i++) {
        const int *shape = shapes[i % 5];
        const sv_local_rule rule = {.heads = shape[0],
                                    .window = below(4) ? 1 + below(80) : 1,
                                    .chunked = below(2) == 0,
                                    .scale = 0.3f};
        test_case t = {.run = run_local,
                       .more = &rule,
                       .length = lengths[i / 8],
                       .flag = below(2) == 0,
                       .reverse = below(2) == 0,
                       .jobs = below(8)};
        const slot_set s = add_slots(&t);
        add_tokens(&t, &s, "q", shape[0] * shape[1], 1.0f);
        add_tokens(&t, &s, "k", shape[0] * shape[1], 1.0f);
        add_tokens(&t, &s, "v", shape[0] * shape[2], 1.0f);
        const int weight = add_tokens(&t, &s, "weight", 1, 1.0f);
        const int share = below(4); /* of tokens that count */
        for (int n = 0; n < s.count; n++)
            if (below(4) >= share) floats(&t, weight)[n] = 0;
        const int carried = rule.window * shape[0] * (shape[1] + shape[2]), columns = carried + shape[0];
        const int in = add_states(&t, &s, columns, 1.0f, 1e-6);
        for (int g = 0; g < s.count / t.length; g++) {
            const float lived = (float)below(rule.window + 1);
            for (int h = 0; h < shape[0]; h++) floats(&t, in)[g * columns + carried + h] = lived;
        }
        add_output(&t, "y", s.capacity, shape[0] * shape[2], s.offsets, s.batch, 1e-5);
        char text[100];
        snprintf(text, sizeof text, "%d heads of %d and %d, window %d%s%s", shape[0], shape[1], shape[2],
                 rule.window, rule.chunked ? " in chunks" : "", t.flag ? ", weights" : "");
        describe(&t, &s, text);
        check(k, &t);
    }
}

/* buffers: offsets, x, w, bias, state in, state out, y */
static sv_status run_dilated(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_sequence seq = sequence_of(t, v, 4);
    return sv_dilated_conv(c, v[6], v[1], v[2], v[3], t->scale[0], &seq);
}
void check_dilated_conv(bench *k)
{
    for (int i = 0; i < 6 * LENGTHS; i++) {
        test_case t = {.run = run_dilated,
                       .length = lengths[i / 6],
                       .reverse = below(2) == 0,
                       .jobs = below(8),
                       .scale = {1 << below(6)}};
        const int channels = 1 + below(80), taps = 1 + below(i % 3 ? 4 : 17);
        const slot_set s = add_slots(&t);
        add_tokens(&t, &s, "x", channels, 1.0f);
        add_floats(&t, "w", channels, channels, taps, 0.5f);
        add_floats(&t, "bias", 1, 1, channels, 0.5f);
        const int columns = channels * (taps - 1) * t.scale[0];
        if (columns == 0) t.jobs = 0;
        add_states(&t, &s, columns > 0 ? columns : 1, 1.0f, 0);
        add_output(&t, "y", s.capacity, channels, s.offsets, s.batch, 1e-6);
        char text[80];
        snprintf(text, sizeof text, "%d channels, %d taps %d apart", channels, taps, t.scale[0]);
        describe(&t, &s, text);
        check(k, &t);
    }
}

/* buffers: offsets, q, k, v, self, cross, key, value, out, bias, gate, state in, state out, y */
static sv_status run_blocks(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_sequence seq = sequence_of(t, v, 11);
    const sv_block_states rule = {.heads = t->scale[0],
                                  .states = t->scale[1],
                                  .block = t->scale[2],
                                  .scale = 0.4f,
                                  .self = v[4],
                                  .cross = v[5],
                                  .key = v[6],
                                  .value = v[7],
                                  .out = v[8],
                                  .bias = v[9],
                                  .gate = v[10]};
    return sv_block_state_scan(c, v[13], v[1], v[2], v[3], &rule, &seq);
}
void check_block_state_scan(bench *k)
{
    static const char *const names[] = {"self", "cross", "key", "value"};
    for (int i = 0; i < 4 * LENGTHS; i++) {
        test_case t = {.run = run_blocks,
                       .length = lengths[i / 4],
                       .reverse = below(2) == 0,
                       .jobs = below(8),
                       .scale = {1 + below(4), 1 + below(40), 1 + below(70)}};
        const int inner = t.scale[0] * (1 + below(40)), channels = 1 + below(90);
        const slot_set s = add_slots(&t);
        add_tokens(&t, &s, "q", inner, 1.0f);
        add_tokens(&t, &s, "k", inner, 1.0f);
        add_tokens(&t, &s, "v", inner, 1.0f);
        for (int n = 0; n < 4; n++)
            add_floats(&t, names[n], inner, inner, channels, sqrtf(1.0f / (float)channels));
        add_floats(&t, "out", channels, channels, 2 * inner, sqrtf(0.5f / (float)inner));
        add_floats(&t, "bias", 1, 1, channels, 0.3f);
        const int gate = add_floats(&t, "gate", 1, 1, channels, 1.0f);
        for (int n = 0; n < channels; n++) floats(&t, gate)[n] = 1 / (1 + expf(-floats(&t, gate)[n]));
        add_states(&t, &s, t.scale[1] * channels, 1.0f, 5e-5);
        add_output(&t, "y", s.capacity, inner, s.offsets, s.batch, 5e-5);
        char text[100];
        snprintf(text, sizeof text, "%d heads of %d, %d states of %d, blocks of %d", t.scale[0],
                 inner / t.scale[0], t.scale[1], channels, t.scale[2]);
        describe(&t, &s, text);
        check(k, &t);
    }
}

/* buffers: offsets, q, k, v, theta, alpha, eta, gamma, state in, state out, y */
static sv_status run_deep(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_sequence seq = sequence_of(t, v, 8);
    const sv_deep_inputs in = {
        .q = v[1], .k = v[2], .v = v[3], .theta = v[4], .alpha = v[5], .eta = v[6], .gamma = v[7]};
    return sv_deep_memory_scan(c, v[10], &in, t->more, &seq);
}
void check_deep_memory_scan(bench *k)
{
    for (int i = 0; i < 6 * LENGTHS; i++) {
        const bool omega = i % 2 == 0;
        /* Wide and long: Newton-Schulz steps blow up what small singular values have of rounding. */
        const int widest = i % 6 == 0 && lengths[i / 6] < 100 ? 20 : 8;
        const int heads = 1 + below(3), width = 1 + below(omega ? widest : 40);
        const sv_deep_memory rule = {.kind = omega ? SV_DEEP_OMEGA : SV_DEEP_PERCEPTRON,
                                     .heads = heads,
                                     .hidden = 1 + below(i % 3 ? 60 : 400),
                                     .batch = 1 + below(i % 4 ? 8 : 33)};
        test_case t = {.run = run_deep,
                       .more = &rule,
                       .length = lengths[i / 6],
                       .reverse = below(2) == 0,
                       .jobs = below(8)};
        const slot_set s = add_slots(&t);
        const float size = 1.0f / sqrtf((float)width);
        add_tokens(&t, &s, "q", heads * width, size);
        add_tokens(&t, &s, "k", heads * width, size);
        add_tokens(&t, &s, "v", heads * width, size);
        add_gates(&t, &s, "theta", heads, omega ? 0.9f : 0.2f);
        add_gates(&t, &s, "alpha", heads, 0.1f);
        add_gates(&t, &s, "eta", heads, omega ? 0.2f : 0.8f);
        const int gamma = add_gates(&t, &s, "gamma", heads, 1.0f);
        for (int n = 0; n < s.count * heads; n++)
            if (below(5) == 0) floats(&t, gamma)[n] = 0;
        const int monomials = 1 + width + width * (width + 1) / 2;
        add_states(&t, &s,
                   heads * (omega ? 2 * monomials * width + (rule.batch - 1) * (2 * width + 1)
                                  : 4 * width * rule.hidden),
                   omega ? 0.1f : 0.3f / sqrtf((float)rule.hidden), omega ? 1e-4 : 1e-6);
        add_output(&t, "y", s.capacity, heads * width, s.offsets, s.batch, omega ? 1e-4 : 1e-6);
        char text[100];
        snprintf(text, sizeof text, "%s, %d heads of %d, %d hidden, %d at a time",
                 omega ? "monomials" : "perceptron", heads, width, rule.hidden, rule.batch);
        describe(&t, &s, text);
        check(k, &t);
    }
}
