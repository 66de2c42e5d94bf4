/* SPDX-License-Identifier: Apache-2.0
 *
 * Suites of the primitives behind the gated operators: scans, token shift, norms and products of heads.
 */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int lengths[] = {1, 3, 16, 63, 64, 65, 200, 512, 2048};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

/* Slots of a case and what indexes them. */
typedef struct slot_set {
    int offsets, batch, capacity, count, rows, groups;
} slot_set;

/* Buffers 0 and 1: offsets and index. With 'flag' inputs are rows behind the index. */
static slot_set add_slots(test_case *t)
{
    slot_set s = {.batch = 1 + below(3), .groups = 1 + below(4)};
    s.capacity = s.groups * t->length;
    s.offsets = add_offsets(t, s.capacity, s.batch, t->length);
    s.count = live(t, s.offsets);
    s.rows = s.count + 1;
    const int index = add_index(t, "index", s.capacity, s.count, s.rows, true);
    with_offsets(t, index, s.offsets, s.batch);
    return s;
}
static int add_input(test_case *t, const slot_set *s, const char *name, int columns, float deviation)
{
    return add_floats(t, name, t->flag ? s->rows : s->capacity, t->flag ? s->rows : s->count, columns,
                      deviation);
}
static sv_sequence sequence_of(const test_case *t, const sv_tensor *v, sv_tensor in, sv_tensor out)
{
    return (sv_sequence){.index = t->flag ? v[1] : SV_NONE,
                         .length = t->length,
                         .reverse = t->reverse,
                         .state_in = t->jobs & 1 ? in : SV_NONE,
                         .state_out = t->jobs & 2 ? out : SV_NONE};
}
static void describe(test_case *t, const slot_set *s, const char *shape)
{
    snprintf(t->label, sizeof t->label, "%d of %d slots, length %d, %s, states %d%s%s", s->count, s->capacity,
             t->length, shape, t->jobs, t->reverse ? ", reverse" : "", t->flag ? ", indexed" : "");
}

/* ---- Mamba block
 * ------------------------------------------------------------------------------------------ */

enum { BLOCK_STATES = 16, BLOCK_TAPS = 4 };

/* Host weights of a block, and what the device made of them. */
typedef struct block_case {
    int channels, inner, rank, length;
    float *host[2][7], *in_proj, *out_proj, *norm[2];
    sv_mamba_weights w;
} block_case;

static float *random_numbers(int count, float deviation)
{
    float *p = malloc(sizeof *p * (size_t)count);
    if (!p) abort();
    for (int i = 0; i < count; i++) p[i] = deviation * normal();
    return p;
}

static sv_status prepare_block(sv_ctx *c, test_case *t)
{
    block_case *k = (block_case *)(uintptr_t)t->more;
    const int inner = k->inner, channels = k->channels, wide = k->rank + 2 * BLOCK_STATES;
    sv_mamba_weights *w = &k->w;
    *w = (sv_mamba_weights){.inner = inner, .rank = k->rank, .states = BLOCK_STATES, .eps = 1e-5f};
    SV_TRY(sv_linear_prepare(c, &w->in_proj, sv_view(k->in_proj, SV_F32, 2 * inner, channels), SV_NONE));
    SV_TRY(sv_linear_prepare(c, &w->out_proj, sv_view(k->out_proj, SV_F32, channels, inner), SV_NONE));
    SV_TRY(sv_weight_upload(c, &w->norm_weight, sv_view(k->norm[0], SV_F32, 1, channels)));
    SV_TRY(sv_weight_upload(c, &w->norm_bias, sv_view(k->norm[1], SV_F32, 1, channels)));
    for (int d = 0; d < 2; d++) {
        float **h = k->host[d];
        SV_TRY(sv_weight_upload(c, &w->direction[d].conv_weight, sv_view(h[0], SV_F32, inner, BLOCK_TAPS)));
        SV_TRY(sv_weight_upload(c, &w->direction[d].conv_bias, sv_view(h[1], SV_F32, 1, inner)));
        SV_TRY(sv_linear_prepare(c, &w->direction[d].x_proj, sv_view(h[2], SV_F32, wide, inner), SV_NONE));
        SV_TRY(sv_linear_prepare(c, &w->direction[d].dt_proj, sv_view(h[3], SV_F32, inner, k->rank),
                                 sv_view(h[4], SV_F32, 1, inner)));
        SV_TRY(sv_weight_upload(c, &w->direction[d].a, sv_view(h[5], SV_F32, inner, BLOCK_STATES)));
        SV_TRY(sv_weight_upload(c, &w->direction[d].d, sv_view(h[6], SV_F32, 1, inner)));
    }
    return c->device->ops->mamba_prepare ? sv_mamba_prepare(c, w) : SV_OK;
}

/* As operators/mamba.c composes it. */
static sv_status compose_block(sv_ctx *c, const block_case *k, sv_tensor y, sv_tensor x,
                               const sv_order *order)
{
    const sv_mamba_weights *w = &k->w;
    const int slots = order->slot_row.dim[0];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor xz, conv, wide, delta, out, mixed;
    SV_TRY(sv_scratch_alloc(c, &xz, "xz", SV_F32, x.dim[0], 2 * k->inner, x));
    SV_TRY(sv_scratch_alloc(c, &conv, "conv", SV_F32, slots, k->inner, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &wide, "wide", SV_F32, slots, k->rank + 2 * BLOCK_STATES, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &delta, "delta", SV_F32, slots, k->inner, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &out, "out", SV_F32, slots, k->inner, order->slot_row));
    SV_TRY(sv_scratch_alloc(c, &mixed, "mixed", SV_F32, x.dim[0], k->channels, x));
    SV_TRY(sv_linear(c, xz, x, SV_NONE, &w->in_proj, SV_MAP_identity));
    for (int d = 0; d < 2; d++) {
        const sv_sequence seq = {.index = order->slot_row, .length = k->length, .reverse = d == 1};
        SV_TRY(sv_causal_conv(c, conv, sv_columns(xz, 0, k->inner), w->direction[d].conv_weight,
                              w->direction[d].conv_bias, &seq, SV_MAP_silu));
        SV_TRY(sv_linear(c, wide, conv, SV_NONE, &w->direction[d].x_proj, SV_MAP_identity));
        SV_TRY(sv_linear(c, delta, sv_columns(wide, 0, k->rank), SV_NONE, &w->direction[d].dt_proj,
                         SV_MAP_softplus));
        SV_TRY(sv_selective_scan(c, out, conv, delta, w->direction[d].a,
                                 sv_columns(wide, k->rank, BLOCK_STATES),
                                 sv_columns(wide, k->rank + BLOCK_STATES, BLOCK_STATES), w->direction[d].d,
                                 sv_columns(xz, k->inner, k->inner), &seq, d == 1));
    }
    SV_TRY(sv_linear(c, mixed, out, order->row_slot, &w->out_proj, SV_MAP_identity));
    SV_TRY(sv_norm(c, y, mixed, w->norm_weight, w->norm_bias, w->eps, SV_MAP_identity, x));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* buffers: row offsets, slot offsets, slot rows, row slots, x; in place */
static sv_status run_block(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const block_case *k = t->more;
    const sv_order order = {.slot_row = v[2], .row_slot = v[3]};
    return sv_mamba_block_fits(c, &k->w, k->length) ? sv_mamba_block(c, v[4], v[4], &k->w, &order, k->length)
                                                    : compose_block(c, k, v[4], v[4], &order);
}

void check_mamba_block(bench *k)
{
    static const int widths[] = {32, 64, 128}, block_lengths[] = {64, 128, 256, 1024, 4096};
    static const int many[] = {35, 18, 10}; /* groups of which the GPU walks some whole and cuts the others */
    for (int i = 0; i < 18; i++) {
        block_case b = {.channels = widths[i % 3],
                        .inner = 2 * widths[i % 3],
                        .length = i < 15 ? block_lengths[i / 3] : 1024};
        b.rank = b.channels / 16;
        const int inner = b.inner, batch = 1 + i % 2,
                  most = i < 15 ? 2 * b.length + 100 : many[i % 3] * b.length;
        b.in_proj = random_numbers(2 * inner * b.channels, 1.0f / sqrtf((float)b.channels));
        b.out_proj = random_numbers(inner * b.channels, 1.0f / sqrtf((float)inner));
        for (int n = 0; n < 2; n++) b.norm[n] = random_numbers(b.channels, 0.5f);
        for (int d = 0; d < 2; d++) {
            b.host[d][0] = random_numbers(inner * BLOCK_TAPS, 0.5f);
            b.host[d][1] = random_numbers(inner, 0.3f);
            b.host[d][2] = random_numbers((b.rank + 2 * BLOCK_STATES) * inner, 1.0f / sqrtf((float)inner));
            b.host[d][3] = random_numbers(inner * b.rank, 0.5f);
            b.host[d][4] = random_numbers(inner, 0.5f);
            for (int n = 0; n < inner; n++) b.host[d][4][n] -= 3.0f;
            b.host[d][5] = random_numbers(inner * BLOCK_STATES, 1.0f);
            for (int n = 0; n < inner * BLOCK_STATES; n++) b.host[d][5][n] = -uniform(0.01f, 16.0f);
            b.host[d][6] = random_numbers(inner, 1.0f);
        }
        test_case t = {.prepare = prepare_block, .run = run_block, .more = &b, .length = b.length};
        const order_case order = add_order(&t, batch, b.length, most);
        const int offsets = order.offsets, rows = order.rows;
        const int x = add_floats(&t, "x", order.capacity, rows, b.channels, 1.0f);
        with_offsets(&t, x, offsets, batch);
        t.buffers[x].tolerance = 2e-5;
        snprintf(t.label, sizeof t.label, "%d channels, %d rows, groups of %d, batch %d", b.channels, rows,
                 b.length, batch);
        check(k, &t);
        free(b.in_proj), free(b.out_proj), free(b.norm[0]), free(b.norm[1]);
        for (int d = 0; d < 2; d++)
            for (int n = 0; n < 7; n++) free(b.host[d][n]);
    }
}

/* ---- decayed outer product
 * ------------------------------------------------------------------------------- */

/* buffers: offsets, index, q, k, v, decay, bonus, state in, state out, y */
static sv_status run_decay_scan(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_decay_rule *rule = t->more;
    const sv_sequence seq = sequence_of(t, v, v[7], v[8]);
    return sv_decay_scan(c, v[9], v[2], v[3], v[4], rule->decay == SV_DECAY_NONE ? SV_NONE : v[5],
                         t->jobs & 4 ? v[6] : SV_NONE, rule, &seq, (t->jobs & 8) != 0);
}
void check_decay_scan(bench *k)
{
    static const int shapes[][3] = {{4, 16, 16}, {2, 32, 64}, {1, 100, 5}, {3, 7, 150}, {8, 64, 64}};
    for (int i = 0; i < 5 * LENGTHS; i++) {
        const int *shape = shapes[i % 5];
        sv_decay_rule rule = {.heads = shape[0],
                              .decay = (sv_decay)below(6),
                              .read = (sv_decay_read)below(3),
                              .chunk = below(2) ? 64 : 1 + below(64),
                              .scale = 0.3f};
        if (rule.read == SV_READ_CHUNK) rule.decay = below(2) ? SV_DECAY_NONE : SV_DECAY_HEAD;
        const bool pair = rule.decay == SV_DECAY_PAIR;
        if (pair) rule.read = SV_READ_AFTER;
        test_case t = {.run = run_decay_scan,
                       .more = &rule,
                       .length = lengths[i / 5],
                       .flag = below(2) == 0,
                       .reverse = below(2) == 0,
                       .jobs = below(16)};
        if (rule.read != SV_READ_BEFORE) t.jobs &= ~4;
        const int keys = shape[0] * shape[1], values = shape[0] * shape[2];
        const slot_set s = add_slots(&t);
        add_input(&t, &s, "q", keys, 0.5f);
        add_input(&t, &s, "k", keys, 0.5f);
        add_input(&t, &s, "v", values, 0.5f);
        int decay = 0;
        if (rule.decay == SV_DECAY_NONE || rule.decay == SV_DECAY_HEAD)
            decay = add_floats(&t, "decay", 1, 1, shape[0], 1.0f);
        else
            decay = add_input(&t, &s, "decay",
                              pair                             ? keys + values
                              : rule.decay == SV_DECAY_TOKEN   ? shape[0]
                              : rule.decay == SV_DECAY_CHANNEL ? keys
                                                               : values,
                              1.0f);
        const buffer *b = &t.buffers[decay];
        const int numbers = (b->rows == 1 ? 1 : t.flag ? s.rows : s.count) * b->columns;
        for (int n = 0; n < numbers; n++)
            floats(&t, decay)[n] = pair
                                       ? 1 / (1 + expf(1 - floats(&t, decay)[n]))
                                       : -expf(floats(&t, decay)[n] * 1.5f - 3.0f) - (rule.decay ? 1e-4f : 0);
        add_floats(&t, "bonus", 1, 1, keys, 0.5f);
        add_floats(&t, "state in", s.groups, s.count / t.length, keys * shape[2], 0.5f);
        const int out = add(&t, "state out", SV_F32, s.groups, keys * shape[2]);
        t.buffers[out].tolerance = 2e-5;
        const int y = add_floats(&t, "y", s.capacity, t.jobs & 8 ? s.count : 0, values, 1.0f);
        with_offsets(&t, y, s.offsets, s.batch);
        t.buffers[y].tolerance = 2e-5;
        char text[80];
        snprintf(text, sizeof text, "%d heads of %d and %d, decay %d, read %d, chunk %d", shape[0], shape[1],
                 shape[2], rule.decay, rule.read, rule.chunk);
        describe(&t, &s, text);
        check(k, &t);
    }
}

/* buffers: offsets, index, x, m, state in, state out, y */
static sv_status run_token_mix(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_sequence seq = sequence_of(t, v, v[4], v[5]);
    return sv_token_mix(c, t->share > 0 ? v[3] : v[6], v[2], v[3], &seq);
}
void check_token_mix(bench *k)
{
    for (int i = 0; i < 3 * LENGTHS; i++) {
        test_case t = {.run = run_token_mix,
                       .length = lengths[i / 3],
                       .flag = below(2) == 0,
                       .reverse = below(2) == 0,
                       .jobs = below(4),
                       .share = i % 3 == 2};
        const int channels = 1 + below(70), mixtures = 1 + below(5);
        const slot_set s = add_slots(&t);
        add_input(&t, &s, "x", channels, 1.0f);
        const int m = add_floats(&t, "m", s.capacity, s.count, mixtures * channels, 1.0f);
        with_offsets(&t, m, s.offsets, s.batch);
        t.buffers[m].tolerance = 1e-6; /* y may be m */
        add_floats(&t, "state in", s.groups, s.count / t.length, channels, 1.0f);
        add(&t, "state out", SV_F32, s.groups, channels);
        add_output(&t, "y", s.capacity, mixtures * channels, s.offsets, s.batch, 1e-6);
        char text[80];
        snprintf(text, sizeof text, "%d mixtures of %d", mixtures, channels);
        describe(&t, &s, text);
        check(k, &t);
    }
}

/* ---- mLSTM and test-time training
 * ------------------------------------------------------------------------ */

/* buffers: offsets, index, q, k, v, igate, fgate, state in, state out, y */
static sv_status run_mlstm(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_sequence seq = sequence_of(t, v, v[7], v[8]);
    return sv_mlstm(c, v[9], v[2], v[3], v[4], v[5], v[6], (int)t->scale[0], 1e-6f, &seq);
}
void check_mlstm(bench *k)
{
    static const int shapes[][3] = {{4, 16, 16}, {4, 32, 32}, {2, 64, 64}, {1, 90, 130}, {3, 5, 7}};
    for (int i = 0; i < 4 * LENGTHS; i++) {
        const int *shape = shapes[i % 5], heads = shape[0];
        test_case t = {.run = run_mlstm,
                       .length = lengths[i / 4],
                       .flag = below(2) == 0,
                       .reverse = below(2) == 0,
                       .jobs = below(4),
                       .scale = {heads}};
        const slot_set s = add_slots(&t);
        const int state = heads * (shape[1] * shape[2] + shape[1] + 1);
        add_input(&t, &s, "q", heads * shape[1], 1.0f);
        add_input(&t, &s, "k", heads * shape[1], 1.0f);
        add_input(&t, &s, "v", heads * shape[2], 1.0f);
        add_input(&t, &s, "igate", heads, 1.5f);
        const int f = add_input(&t, &s, "fgate", heads, 1.5f);
        for (int n = 0; n < (t.flag ? s.rows : s.count) * heads; n++) floats(&t, f)[n] += 2.0f;
        add_floats(&t, "state in", s.groups, s.count / t.length, state, 0.5f);
        const int out = add(&t, "state out", SV_F32, s.groups, state);
        t.buffers[out].tolerance = 5e-5;
        add_output(&t, "y", s.capacity, heads * shape[2], s.offsets, s.batch, 5e-5);
        char text[80];
        snprintf(text, sizeof text, "%d heads of %d and %d", heads, shape[1], shape[2]);
        describe(&t, &s, text);
        check(k, &t);
    }
}

/* buffers: offsets, index, q, k, v, rate, w, b, norm weight, norm bias, token, rotary, state in, state out,
 * y */
static sv_status run_ttt(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_sequence seq = sequence_of(t, v, v[12], v[13]);
    const sv_ttt_weights w = {.heads = t->scale[0],
                              .eps = 1e-6f,
                              .w = v[6],
                              .b = v[7],
                              .norm_weight = v[8],
                              .norm_bias = v[9],
                              .token = v[10],
                              .rotary = t->jobs & 4 ? v[11] : SV_NONE};
    return sv_ttt_linear(c, v[14], v[2], v[3], v[4], v[5], &w, &seq);
}
void check_ttt_linear(bench *k)
{
    static const int shapes[][2] = {{4, 4}, {4, 16}, {2, 32}, {1, 128}, {3, 6}};
    for (int i = 0; i < 3 * LENGTHS; i++) {
        const int heads = shapes[i % 5][0], width = shapes[i % 5][1], channels = heads * width,
                  tokens = i % 3 ? 16 : 1 + below(16);
        /* Steps of descent feed back rounding over the whole group. A change of the keys by one unit in the last place
         * moves y by 5e-7 of its largest with heads of 16, over 2048 tokens, but by 1e-4 with heads of four, whose
         * LayerNorm may divide by next to nothing. */
        const double tolerance = width < 8 ? 1e-2 : 1e-4;
        test_case t = {.run = run_ttt,
                       .length = lengths[i / 3],
                       .flag = below(2) == 0,
                       .reverse = below(2) == 0,
                       .jobs = below(8),
                       .scale = {heads}};
        const slot_set s = add_slots(&t);
        add_input(&t, &s, "q", channels, 0.5f);
        add_input(&t, &s, "k", channels, 0.5f);
        add_input(&t, &s, "v", channels, 0.5f);
        const int rate = add_input(&t, &s, "rate", heads, 1.0f);
        for (int n = 0; n < (t.flag ? s.rows : s.count) * heads; n++)
            floats(&t, rate)[n] = 1.0f / (1.0f + expf(-floats(&t, rate)[n]));
        add_floats(&t, "w", channels, channels, width, 0.1f);
        add_floats(&t, "b", heads, heads, width, 0.1f);
        const int gamma = add_floats(&t, "norm weight", heads, heads, width, 0.1f);
        for (int n = 0; n < channels; n++) floats(&t, gamma)[n] += 1.0f;
        add_floats(&t, "norm bias", heads, heads, width, 0.1f);
        const int token = add(&t, "token", SV_F32, 1, tokens);
        for (int n = 0; n < tokens; n++) floats(&t, token)[n] = 1.0f / (float)((n + 1) * width);
        const int rotary = add(&t, "rotary", SV_F32, tokens, width);
        for (int n = 0; n < tokens * width / 2; n++) {
            floats(&t, rotary)[2 * n] = cosf((float)n);
            floats(&t, rotary)[2 * n + 1] = sinf((float)n);
        }
        const int state = heads * (width * width + width);
        add_floats(&t, "state in", s.groups, s.count / t.length, state, 0.1f);
        const int out = add(&t, "state out", SV_F32, s.groups, state);
        t.buffers[out].tolerance = tolerance;
        add_output(&t, "y", s.capacity, channels, s.offsets, s.batch, tolerance);
        char text[80];
        snprintf(text, sizeof text, "%d heads of %d, batches of %d", heads, width, tokens);
        describe(&t, &s, text);
        check(k, &t);
    }
}

/* ---- rows of heads
 * --------------------------------------------------------------------------------------- */

/* buffers: offsets, x, index, weight, bias, skip, skip weight, gate, gate index, y */
static sv_status run_head_norm(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const sv_head_norm_spec how = {.groups = t->scale[0],
                                   .centred = t->reverse,
                                   .eps = 1e-5f,
                                   .weight = v[3],
                                   .bias = t->jobs & 1 ? v[4] : SV_NONE,
                                   .skip = t->jobs & 2 ? v[5] : SV_NONE,
                                   .skip_weight = t->jobs & 2 ? v[6] : SV_NONE,
                                   .gate = t->jobs & 4 ? v[7] : SV_NONE,
                                   .gate_index = t->jobs & 8 ? v[8] : SV_NONE};
    return sv_head_norm(c, v[9], v[1], t->flag ? v[2] : SV_NONE, &how);
}
void check_head_norm(bench *k)
{
    for (int i = 0; i < 60; i++) {
        const int groups = 1 + below(5), channels = groups * (1 + below(40)), batch = 1 + below(3);
        test_case t = {.run = run_head_norm,
                       .flag = below(2) == 0,
                       .reverse = below(2) == 0,
                       .jobs = below(16),
                       .scale = {groups}};
        if (!(t.jobs & 4)) t.jobs &= ~8;
        const int capacity = 1 + below(i % 10 == 9 ? 3000 : 200),
                  offsets = add_offsets(&t, capacity, batch, 1), rows = live(&t, offsets);
        add_floats(&t, "x", capacity, capacity, channels, 2.0f);
        add_index(&t, "index", capacity, rows, capacity, true);
        add_floats(&t, "weight", 1, 1, channels, 1.0f);
        add_floats(&t, "bias", 1, 1, channels, 1.0f);
        add_floats(&t, "skip", capacity, capacity, channels, 1.0f);
        add_floats(&t, "skip weight", 1, 1, channels, 1.0f);
        add_floats(&t, "gate", capacity, capacity, channels, 2.0f);
        add_index(&t, "gate index", capacity, rows, capacity, true);
        add_output(&t, "y", capacity, channels, offsets, batch, 5e-6);
        snprintf(t.label, sizeof t.label, "%d of %d rows, %d groups of %d, variant %d%s%s", rows, capacity,
                 groups, channels / groups, t.jobs, t.reverse ? ", centred" : "", t.flag ? ", indexed" : "");
        check(k, &t);
    }
}

/* buffers: offsets, x, index, w, bias, y */
static sv_status run_block_linear(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    return sv_block_linear(c, v[5], v[1], t->flag ? v[2] : SV_NONE, v[3], t->jobs ? v[4] : SV_NONE);
}
void check_block_linear(bench *k)
{
    for (int i = 0; i < 40; i++) {
        const int size = 1 + below(8), channels = size * (1 + below(40)), batch = 1 + below(3);
        test_case t = {.run = run_block_linear, .flag = below(2) == 0, .jobs = below(2)};
        const int capacity = 1 + below(i % 10 == 9 ? 3000 : 200),
                  offsets = add_offsets(&t, capacity, batch, 1), rows = live(&t, offsets);
        add_floats(&t, "x", capacity, capacity, channels, 1.0f);
        add_index(&t, "index", capacity, rows, capacity, true);
        add_floats(&t, "w", channels, channels, size, 1.0f);
        add_floats(&t, "bias", 1, 1, channels, 1.0f);
        add_output(&t, "y", capacity, channels, offsets, batch, 1e-6);
        snprintf(t.label, sizeof t.label, "%d of %d rows, %d blocks of %d%s", rows, capacity, channels / size,
                 size, t.flag ? ", indexed" : "");
        check(k, &t);
    }
}
