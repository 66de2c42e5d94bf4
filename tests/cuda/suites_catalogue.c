/* SPDX-License-Identifier: Apache-2.0
 *
 * Suites of the catalogue's cores: scans, cells and memories, and what stands around them. Inputs lie in
 * slots.
 */
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const int lengths[] = {1, 5, 17, 33, 64, 130, 300};
enum { LENGTHS = sizeof lengths / sizeof *lengths, MOST_INPUTS = 8, LONG = 1000 };

typedef enum core {
    HEAD_MAP,
    HEAD_SCALE,
    FILL,
    PLACE_ROWS,
    COLUMN_SCALE,
    HEAD_DOT,
    POSITION_POWER,
    ROUTE,
    DIAGONAL_SCAN,
    ROOT_GATES,
    LOG_SUM_SCAN,
    STATE_SCAN,
    DENSE_SCAN,
    SECOND_ORDER_SCAN,
    TAYLOR_SCAN,
    MESA_SCAN,
    MIXER_SCAN,
    CELL_SCAN,
    MEMORY_SCAN,
    ATTENTION_SCAN,
} core;

/* What random numbers look like. */
typedef enum numbers {
    NORMAL,
    SHARE,  /* 0..1 */
    FORGET, /* logarithms of 0..1 */
    UNIT,   /* rows of unit length */
} numbers;

typedef struct core_case {
    core core;
    int batch, groups, capacity, count; /* slots, and live ones */
    int heads, width, kind; /* width: of a head's keys, and of its values unless a suite says otherwise */
    int in[MOST_INPUTS], inputs; /* numbers of the buffers */
    int state_in, state_out, y, second;
    bool flag;
} core_case;

/* ---- data ---------------------------------------------------------------------------------------------- */

static int add_numbers(test_case *t, const char *name, int capacity, int rows, int columns, numbers kind)
{
    const int i = add_floats(t, name, capacity, rows, columns, kind == NORMAL ? 0.5f : 1.0f);
    float *p = floats(t, i);
    for (int row = 0; row < rows; row++, p += columns) {
        float squares = 1e-6f;
        for (int n = 0; n < columns; n++) {
            const float share = 1.0f / (1.0f + expf(-p[n]));
            squares += p[n] * p[n];
            if (kind == SHARE) p[n] = share;
            if (kind == FORGET) p[n] = logf(0.5f + 0.49f * share);
        }
        for (int n = 0; n < columns && kind == UNIT; n++) p[n] /= sqrtf(squares);
    }
    return i;
}
/* Of the tokens, and of all. */
static void tokens(test_case *t, core_case *k, const char *name, int columns, numbers kind)
{
    k->in[k->inputs++] = add_numbers(t, name, k->capacity, k->count, columns, kind);
}
static void constant(test_case *t, core_case *k, const char *name, int rows, int columns, numbers kind)
{
    k->in[k->inputs++] = add_numbers(t, name, rows, rows, columns, kind);
}

static core_case begin_as(test_case *t, core which, int number, int length, int heads, int width)
{
    core_case k = {.core = which,
                   .batch = 1 + below(3),
                   .groups = 1 + below(4),
                   .kind = number,
                   .heads = heads,
                   .width = width};
    t->length = length;
    t->reverse = below(2) == 0;
    t->jobs = below(4);
    k.capacity = k.groups * t->length;
    const int offsets = add_offsets(t, k.capacity, k.batch, t->length);
    k.count = live(t, offsets);
    k.flag = below(2) == 0;
    return k;
}
static core_case begin(test_case *t, core which, int number)
{
    static const int shapes[][2] = {{1, 8}, {2, 16}, {3, 7}, {4, 32}};
    const bool scan =
        (which >= DIAGONAL_SCAN && which <= DENSE_SCAN) || which == CELL_SCAN || which == MEMORY_SCAN;
    const int length = scan && number % (2 * LENGTHS) == 2 * LENGTHS - 1 ? LONG : lengths[number % LENGTHS];
    return begin_as(t, which, number, length, shapes[number % 4][0], shapes[number % 4][1]);
}

/* Some cases of scans have heads that are wider than what the usual kernels hold, or a longer walk. */
static void widen(core_case *k, bool wide, int width)
{
    if (!wide) return;
    k->heads = 2;
    k->width = width;
}

static void states(test_case *t, core_case *k, int columns, numbers kind, double tolerance)
{
    k->state_in = add_numbers(t, "state in", k->groups, k->count / t->length, columns, kind);
    k->state_out = add(t, "state out", SV_F32, k->groups, columns);
    t->buffers[k->state_out].tolerance = tolerance;
    /* Rows of groups that are not there: the GPU empties them with the others. */
    const size_t live_rows = (size_t)(k->count / t->length), rows = (size_t)k->groups - live_rows;
    if (!(t->jobs & 1))
        memset(floats(t, k->state_out) + live_rows * (size_t)columns, 0,
               rows * (size_t)columns * sizeof(float));
}

static void finish(bench *b, test_case *t, core_case *k, int columns, double tolerance)
{
    k->y = add_output(t, "y", k->capacity, columns, 0, k->batch, tolerance);
    t->more = k;
    snprintf(t->label, sizeof t->label, "%d of %d slots, length %d, %d heads of %d, kind %d, states %d%s%s",
             k->count, k->capacity, t->length, k->heads, k->width, k->kind, t->jobs,
             t->reverse ? ", reverse" : "", k->flag ? ", flag" : "");
    check(b, t);
}

/* ---- running ------------------------------------------------------------------------------------------- */

static sv_status run_around(sv_ctx *c, const core_case *k, const sv_tensor *v, sv_tensor y,
                            const sv_sequence *seq)
{
    const sv_tensor x = v[k->in[0]], other = v[k->in[1]];
    switch (k->core) {
    case HEAD_MAP:
        return sv_head_map(c, y, x, k->heads, (sv_head_rule)(k->kind % 4), 0.7f);
    case HEAD_SCALE:
        return sv_head_scale(c, y, x, other, k->flag, 1e-3f);
    case FILL:
        return sv_fill(c, y, 1.25f);
    case PLACE_ROWS:
        return sv_place_rows(c, y, x, seq);
    case COLUMN_SCALE:
        return sv_column_scale(c, y, x, other, k->flag ? v[k->in[2]] : SV_NONE);
    case HEAD_DOT:
        return sv_head_dot(c, y, x, k->kind % 3 ? other : SV_NONE, k->flag ? v[k->in[2]] : SV_NONE);
    case POSITION_POWER:
        return sv_position_power(c, y, x, k->flag && !(k->kind & 1), seq);
    default:
        return sv_route(c, y, k->flag ? v[k->second] : SV_NONE, x, 1 + k->kind % 3);
    }
}

static sv_status run_state(sv_ctx *c, const core_case *k, const sv_tensor *v, sv_tensor y,
                           const sv_sequence *seq)
{
    const int *in = k->in;
    const sv_state_kind kind = (sv_state_kind)(k->kind % 3);
    const sv_state_rule rule = {.kind = kind,
                                .states = 4 + k->kind,
                                .a = v[in[1]],
                                .b = v[in[2]],
                                .c = v[in[3]],
                                .d = k->flag ? v[in[4]] : SV_NONE,
                                .delta = kind == SV_STATE_SELECTIVE ? v[in[5]] : SV_NONE,
                                .scale = 0.9f};
    return sv_state_scan(c, y, v[in[0]], &rule, seq);
}

static sv_status run_memory(sv_ctx *c, const core_case *k, const sv_tensor *v, sv_tensor y,
                            const sv_sequence *seq)
{
    const int *in = k->in;
    const sv_memory_kind kind = (sv_memory_kind)(k->kind % 6);
    const sv_memory_inputs inputs = {.q = v[in[0]],
                                     .k = v[in[1]],
                                     .v = v[in[2]],
                                     .row = v[in[3]],
                                     .column = v[in[4]],
                                     .third = v[in[5]],
                                     .norm_weight = v[in[6]],
                                     .norm_bias = v[in[7]]};
    const sv_memory rule = {.kind = kind,
                            .heads = k->heads,
                            .hidden = 2 * k->width,
                            .batch = kind <= SV_MEMORY_MOMENTUM ? 8 : 1,
                            .scale = 0.5f,
                            .eps = 1e-5f,
                            .query_residual = k->flag};
    return sv_memory_scan(c, y, &inputs, &rule, seq);
}

static sv_status run_core(sv_ctx *c, test_case *t, const sv_tensor *v)
{
    const core_case *k = t->more;
    const int *in = k->in, heads = k->heads;
    const sv_tensor y = v[k->y];
    const sv_sequence seq = {.index = SV_NONE,
                             .length = t->length,
                             .reverse = t->reverse,
                             .state_in = t->jobs & 1 && k->state_in ? v[k->state_in] : SV_NONE,
                             .state_out = t->jobs & 2 && k->state_out ? v[k->state_out] : SV_NONE};
    static const int windows[] = {0, 7, 90}, strides[] = {1, 4, 1, 32}; /* of attention */
    const sv_second_order second = {.heads = heads, .decay = 0.95f, .decay_g = 0.9025f, .share = 0.95f};
    const sv_taylor taylor = {
        .heads = heads, .scale = 0.4f, .c0 = 1, .c1 = 1, .c2 = 0.5f, .eps = 1e-3f, .normalise = k->flag};
    const sv_cell cell = {.kind = (sv_cell_kind)(k->kind % 3),
                          .heads = heads,
                          .own = k->core == CELL_SCAN ? v[in[1]] : SV_NONE,
                          .peephole = k->core == CELL_SCAN ? v[in[2]] : SV_NONE};
    switch (k->core) {
    case DIAGONAL_SCAN:
        return sv_diagonal_scan(c, y, v[in[0]], v[in[1]], k->flag, !k->flag && k->kind % 2, &seq);
    case ROOT_GATES:
        return sv_root_gates(c, v[k->second], y, v[in[0]], v[in[1]], SV_NONE, &seq);
    case LOG_SUM_SCAN:
        return sv_log_sum_scan(c, y, k->flag ? SV_NONE : v[k->second], v[in[0]], &seq, k->flag);
    case STATE_SCAN:
        return run_state(c, k, v, y, &seq);
    case DENSE_SCAN:
        return sv_dense_scan(c, y, v[in[0]], v[in[1]], v[in[2]], &seq);
    case SECOND_ORDER_SCAN:
        return sv_second_order_scan(c, y, v[in[0]], v[in[1]], v[in[2]], &second, &seq);
    case TAYLOR_SCAN:
        return sv_taylor_scan(c, y, v[in[0]], v[in[1]], v[in[2]], &taylor, &seq);
    case MESA_SCAN:
        return sv_mesa_scan(c, y, v[in[0]], v[in[1]], v[in[2]], v[in[3]], v[in[4]], v[in[5]], heads, &seq);
    case MIXER_SCAN:
        return sv_mixer_scan(c, y, v[in[0]], v[in[1]], v[in[2]], v[in[3]], v[in[4]], &seq);
    case CELL_SCAN:
        return sv_cell_scan(c, y, k->flag ? v[k->second] : SV_NONE, v[in[0]], &cell, &seq);
    case MEMORY_SCAN:
        return run_memory(c, k, v, y, &seq);
    case ATTENTION_SCAN:
        return sv_attention_scan(c, y, v[in[0]], v[in[1]], v[in[2]], k->flag ? v[in[3]] : SV_NONE, heads,
                                 0.4f, windows[k->kind % 3], strides[k->kind % 4], &seq);
    default:
        return run_around(c, k, v, y, &seq);
    }
}

/* ---- what stands around the scans ---------------------------------------------------------------------- */

/* The first input of 'columns', and a second of these columns. */
static void check_around(bench *b, core which, bool by_heads)
{
    for (int i = 0; i < 2 * LENGTHS; i++) {
        test_case t = {.run = run_core};
        core_case k = begin(&t, which, i);
        const int wide = k.heads * k.width;
        tokens(&t, &k, "x", wide, NORMAL);
        tokens(&t, &k, "second", which == HEAD_SCALE ? k.heads : wide, SHARE);
        tokens(&t, &k, "base", wide, NORMAL);
        if (which == COLUMN_SCALE) k.in[1] = add_numbers(&t, "w", 1, 1, wide, NORMAL);
        if (which == HEAD_DOT) k.in[2] = add_numbers(&t, "w", 1, 1, wide, NORMAL);
        if (which == PLACE_ROWS) k.in[0] = add_numbers(&t, "table", 1 + below(9), 1, wide, NORMAL);
        if (which == PLACE_ROWS) t.buffers[k.in[0]].rows = 1;
        if (which == ROUTE) {
            k.second = add(&t, "picks", SV_I32, k.capacity, 1 + k.kind % 3);
            with_offsets(&t, k.second, 0, k.batch);
        }
        finish(b, &t, &k, by_heads ? k.heads : wide, 2e-6);
    }
}
void check_head_map(bench *b)
{
    check_around(b, HEAD_MAP, false);
}
void check_head_scale(bench *b)
{
    check_around(b, HEAD_SCALE, false);
}
void check_fill(bench *b)
{
    check_around(b, FILL, false);
}
void check_place_rows(bench *b)
{
    check_around(b, PLACE_ROWS, false);
}
void check_column_scale(bench *b)
{
    check_around(b, COLUMN_SCALE, false);
}
void check_head_dot(bench *b)
{
    check_around(b, HEAD_DOT, true);
}
void check_route(bench *b)
{
    check_around(b, ROUTE, false);
}

void check_position_power(bench *b)
{
    for (int i = 0; i < LENGTHS; i++) {
        test_case t = {.run = run_core};
        core_case k = begin(&t, POSITION_POWER, i);
        constant(&t, &k, "exponent", 1, k.heads, SHARE);
        k.in[1] = k.in[0];
        states(&t, &k, 1, SHARE, 1e-6);
        for (int g = 0; g < k.count / t.length; g++) floats(&t, k.state_in)[g] = (float)below(50);
        finish(b, &t, &k, k.heads, 2e-6);
    }
}

/* ---- scans --------------------------------------------------------------------------------------------- */

void check_diagonal_scan(bench *b)
{
    for (int i = 0; i < 2 * LENGTHS; i++) {
        test_case t = {.run = run_core};
        core_case k = begin(&t, DIAGONAL_SCAN, i);
        const int wide = 2 * k.heads * k.width;
        tokens(&t, &k, "x", wide, NORMAL);
        if (i % 3)
            tokens(&t, &k, "a", wide, k.flag ? FORGET : SHARE);
        else
            constant(&t, &k, "a", 1, wide, k.flag ? FORGET : SHARE);
        for (int n = 0; n < t.buffers[k.in[1]].columns && !k.flag && k.kind % 2; n++)
            for (int row = 0; row < (i % 3 ? k.count : 1); row++) floats(&t, k.in[1])[row * wide + n] *= 0.6f;
        states(&t, &k, wide, NORMAL, 2e-5);
        finish(b, &t, &k, wide, 2e-5);
    }
}

void check_root_gates(bench *b)
{
    for (int i = 0; i < LENGTHS; i++) {
        test_case t = {.run = run_core};
        core_case k = begin(&t, ROOT_GATES, i);
        const int wide = k.heads * k.width;
        tokens(&t, &k, "log a", wide, FORGET);
        tokens(&t, &k, "x", wide, NORMAL);
        k.second = add_output(&t, "a", k.capacity, wide, 0, k.batch, 2e-6);
        finish(b, &t, &k, wide, 2e-6);
    }
}

void check_log_sum_scan(bench *b)
{
    for (int i = 0; i < 2 * LENGTHS; i++) {
        test_case t = {.run = run_core};
        core_case k = begin(&t, LOG_SUM_SCAN, i);
        const int wide = k.heads * k.width;
        tokens(&t, &k, "x", wide, NORMAL);
        states(&t, &k, 2 * wide, SHARE, 2e-5); /* a maximum, and a sum that is positive */
        k.second = add_output(&t, "decay", k.capacity, wide, 0, k.batch, 2e-5);
        if (k.flag) t.jobs = 0;
        finish(b, &t, &k, wide, 2e-5);
    }
}

void check_state_scan(bench *b)
{
    for (int i = 0; i < 2 * LENGTHS; i++) {
        test_case t = {.run = run_core};
        core_case k = begin(&t, STATE_SCAN, i);
        const int wide = k.heads * k.width, count = 4 + i, parts = i % 3 == SV_STATE_COMPLEX ? 2 : 1;
        const bool selective = i % 3 == SV_STATE_SELECTIVE;
        tokens(&t, &k, "u", wide, NORMAL);
        constant(&t, &k, "a", wide, parts * count, selective ? FORGET : SHARE);
        for (int n = 0; n < wide * parts * count && !selective; n++) floats(&t, k.in[1])[n] *= 0.6f;
        if (selective) {
            tokens(&t, &k, "b", count, NORMAL);
            tokens(&t, &k, "c", count, NORMAL);
        } else {
            constant(&t, &k, "b", wide, parts * count, NORMAL);
            constant(&t, &k, "c", wide, parts * count, NORMAL);
        }
        constant(&t, &k, "d", 1, wide, NORMAL);
        tokens(&t, &k, "delta", wide, SHARE);
        states(&t, &k, wide * parts * count, NORMAL, 2e-5);
        finish(b, &t, &k, wide, 2e-5);
    }
}

void check_dense_scan(bench *b)
{
    for (int i = 0; i < 2 * LENGTHS; i++) {
        test_case t = {.run = run_core};
        core_case k = begin(&t, DENSE_SCAN, i);
        widen(&k, i % 5 == 4, 40);
        const int wide = k.heads * k.width;
        tokens(&t, &k, "u", k.heads, NORMAL);
        constant(&t, &k, "A", wide, k.width, NORMAL);
        for (int n = 0; n < wide * k.width; n++) floats(&t, k.in[1])[n] /= (float)k.width;
        constant(&t, &k, "b", 1, wide, NORMAL);
        states(&t, &k, wide, NORMAL, 2e-5);
        finish(b, &t, &k, wide, 2e-5);
    }
}

/* Logarithms of gates: mild ones, ones of which every fifth leaves nothing, ones that leave next to
 * nothing at all. */
static void gates(test_case *t, core_case *k, const char *name, int strength)
{
    tokens(t, k, name, k->heads, FORGET);
    float *p = floats(t, k->in[k->inputs - 1]);
    for (int i = 0; i < k->count * k->heads; i++)
        if (strength % 3 == 2 || (strength % 3 == 1 && i / k->heads % 5 == 0)) p[i] = 40 * p[i] - 10;
}

/* From random numbers a state that tokens could have left: sums of weights are positive, second moments
 * positive definite. */
static void possible_state(const core_case *k, float *state, int values)
{
    const int keys = k->width, features = 1 + keys + keys * (keys + 1) / 2;
    if (k->core == TAYLOR_SCAN) {
        float *weights = state + k->heads * features * values;
        for (int n = 0; n < k->heads * features; n++) weights[n] = n % features == 0 ? 5 : 0;
        for (int n = 0; n < k->heads * features * values; n++) state[n] *= 0.1f;
    }
    for (int head = 0; head < k->heads && k->core == MESA_SCAN; head++) {
        float *moments = state + head * keys * keys;
        for (int i = 0; i < keys; i++)
            for (int j = 0; j < keys; j++)
                moments[i * keys + j] = i == j ? 0.7f : 0.3f / (float)(1 + (i > j ? i - j : j - i));
    }
}

/* A head of 'keys' and 'values' channels in groups of 'length'. */
typedef struct product_shape {
    int length, heads, keys, values;
} product_shape;

/* q, k and v, and what else there is. */
static void check_product(bench *b, core which, int number, const product_shape *shape, double tolerance)
{
    test_case t = {.run = run_core};
    core_case k = begin_as(&t, which, number, shape->length, shape->heads, shape->keys);
    const int wide = k.heads * k.width, values = shape->values,
              features = 1 + k.width + k.width * (k.width + 1) / 2;
    tokens(&t, &k, "q", wide, UNIT);
    tokens(&t, &k, "k", wide, UNIT);
    tokens(&t, &k, "v", k.heads * values, NORMAL);
    if (which == MESA_SCAN) {
        gates(&t, &k, "g", number);
        tokens(&t, &k, "beta", k.heads, SHARE);
        constant(&t, &k, "lamb", 1, wide, SHARE);
        for (int n = 0; n < wide; n++) floats(&t, k.in[5])[n] += 0.5f;
    }
    if (which == ATTENTION_SCAN) gates(&t, &k, "decay", number / 2);
    const int columns = which == SECOND_ORDER_SCAN ? wide * (k.width + 2 * values)
                        : which == TAYLOR_SCAN     ? k.heads * features * (values + 1)
                                                   : wide * (k.width + values);
    t.jobs = which == ATTENTION_SCAN ? 0 : (t.jobs & 2) | number % 2; /* what carries a state */
    if (which != ATTENTION_SCAN) states(&t, &k, columns, NORMAL, tolerance);
    for (int group = 0; group < k.count / t.length && t.jobs & 1; group++)
        possible_state(&k, floats(&t, k.state_in) + (size_t)group * (size_t)columns, values);
    finish(b, &t, &k, k.heads * values, tolerance);
}

/* Short and long, narrow and wide; 'wide': also heads for which states would be many. */
static void check_products(bench *b, core which, double tolerance, bool wide)
{
    static const product_shape shapes[] = {
        {1, 1, 8, 8},      {5, 2, 16, 16},   {16, 3, 7, 7},   {17, 4, 32, 32},  {33, 1, 8, 20},
        {63, 2, 16, 32},   {64, 3, 5, 3},    {65, 4, 32, 32}, {130, 2, 16, 16}, {300, 4, 32, 32},
        {1000, 2, 16, 32}, {257, 1, 24, 40}, {90, 2, 40, 24}, {128, 1, 1, 1},
    };
    static const product_shape wide_shapes[] = {
        {200, 2, 64, 64}, {65, 1, 128, 100}, {150, 2, 33, 130}, {70, 1, 256, 256}, {1000, 3, 64, 16}};
    int number = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int again = 0; again < 2; again++) check_product(b, which, number++, &shapes[i], tolerance);
    static const product_shape segments = {4500, 1, 4, 5}; /* longer than what is taken at once */
    if (which == TAYLOR_SCAN) check_product(b, which, number++, &segments, tolerance);
    for (size_t i = 0; wide && i < sizeof wide_shapes / sizeof *wide_shapes; i++)
        for (int again = 0; again < 2; again++) check_product(b, which, number++, &wide_shapes[i], tolerance);
}
void check_second_order_scan(bench *b)
{
    check_products(b, SECOND_ORDER_SCAN, 1e-4, false);
}
void check_taylor_scan(bench *b)
{
    check_products(b, TAYLOR_SCAN, 1e-4, false);
}
void check_mesa_scan(bench *b)
{
    check_products(b, MESA_SCAN, 5e-4, false);
}
void check_attention_scan(bench *b)
{
    check_products(b, ATTENTION_SCAN, 2e-5, true);
}

void check_mixer_scan(bench *b)
{
    for (int i = 0; i < LENGTHS; i++) {
        test_case t = {.run = run_core};
        core_case k = begin(&t, MIXER_SCAN, i);
        const int wide = k.heads * k.width, factors = 1 + i % 4;
        tokens(&t, &k, "x", wide, NORMAL);
        tokens(&t, &k, "b", wide, SHARE);
        tokens(&t, &k, "lam", wide, SHARE);
        tokens(&t, &k, "u", factors * wide, UNIT);
        for (int row = 0; row < k.count * factors; row++) { /* every factor's vector has unit length */
            float *u = floats(&t, k.in[3]) + (size_t)row * (size_t)wide, squares = 1e-6f;
            for (int n = 0; n < wide; n++) squares += u[n] * u[n];
            for (int n = 0; n < wide; n++) u[n] /= sqrtf(squares);
        }
        tokens(&t, &k, "alpha", factors, SHARE);
        states(&t, &k, wide, NORMAL, 2e-4);
        finish(b, &t, &k, wide, 2e-4);
    }
}

void check_cell_scan(bench *b)
{
    static const int gates[] = {4, 3, 3}, parts[] = {4, 1, 2};
    for (int i = 0; i < 2 * LENGTHS; i++) {
        test_case t = {.run = run_core};
        core_case k = begin(&t, CELL_SCAN, i);
        widen(&k, i == 12, 72); /* sLSTM */
        const int wide = k.heads * k.width, kind = i % 3;
        tokens(&t, &k, "x", gates[kind] * wide, NORMAL);
        if (kind == SV_CELL_SLSTM)
            constant(&t, &k, "own", wide, 4 * k.width, NORMAL);
        else
            constant(&t, &k, "own", gates[kind], wide, NORMAL);
        for (int n = 0; n < wide * 4 * k.width && kind == SV_CELL_SLSTM; n++)
            floats(&t, k.in[1])[n] /= sqrtf((float)k.width);
        constant(&t, &k, "peephole", 2, wide, NORMAL);
        k.second = add_output(&t, "cell", k.capacity, wide, 0, k.batch, 1e-4);
        states(&t, &k, parts[kind] * wide, SHARE, 1e-4);
        finish(b, &t, &k, wide, 1e-4);
    }
}

void check_memory_scan(bench *b)
{
    for (int i = 0; i < 30; i++) {
        test_case t = {.run = run_core};
        core_case k = begin(&t, MEMORY_SCAN, i);
        widen(&k, i >= 24, 40);
        const int wide = k.heads * k.width, w = k.width, hidden = 2 * w;
        const int sizes[] = {w * w + w, w * hidden + hidden + hidden * w + w, 2 * w * w, w * w, w * w, w * w};
        tokens(&t, &k, "q", wide, UNIT);
        tokens(&t, &k, "k", wide, UNIT);
        tokens(&t, &k, "v", wide, NORMAL);
        for (int n = 0; n < 3; n++) {
            static const char *const names[] = {"row", "column", "third"};
            tokens(&t, &k, names[n], k.heads, SHARE);
            for (int m = 0; m < k.count * k.heads; m++) floats(&t, k.in[3 + n])[m] *= n == 2 ? 0.9f : 0.1f;
        }
        constant(&t, &k, "norm weight", 1, wide, SHARE);
        constant(&t, &k, "norm bias", 1, wide, NORMAL);
        if (i % 6 == SV_MEMORY_SOFTMAX) t.jobs = 0; /* its states count up to a constant only */
        states(&t, &k, k.heads * sizes[i % 6], NORMAL, 1e-3);
        for (int n = 0; n < k.count / t.length * k.heads * sizes[i % 6]; n++)
            floats(&t, k.state_in)[n] *= 0.1f;
        finish(b, &t, &k, wide, 1e-3);
    }
}
