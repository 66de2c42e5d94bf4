/* SPDX-License-Identifier: Apache-2.0
 *
 * The catalogue's cores against naive double-precision forms written from their definitions, on random shapes, both ways,
 * with and without states, with one thread and three.
 */
#include "support_walk.h"

#include "backbones/operator.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 24 };

/* ---- delta rule ------------------------------------------------------------------------------------- */

typedef struct delta_case {
    sv_delta_inputs in;
    sv_delta_rule rule;
    int keys, values;
} delta_case;

static sv_status call_delta(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq)
{
    const delta_case *k = arg;
    return sv_delta_scan(c, y, &k->in, &k->rule, seq);
}

static void naive_delta(const problem *p, const void *arg, int group, double *want, double *state)
{
    const delta_case *k = arg;
    const int heads = k->rule.heads, keys = k->keys, values = k->values, steps = k->rule.steps;
    const bool general = !sv_is_none(k->in.a);
    double *q = walked(p, k->in.q.data, group, heads * keys),
           *kk = walked(p, k->in.k.data, group, steps * heads * keys),
           *v = walked(p, k->in.v.data, group, steps * heads * values);
    double *beta = general ? NULL : walked(p, k->in.beta.data, group, steps * heads);
    double *a = general ? walked(p, k->in.a.data, group, heads * keys) : NULL,
           *b = general ? walked(p, k->in.b.data, group, heads * keys) : NULL;
    double *weight = sv_is_none(k->in.weight) ? NULL : walked(p, k->in.weight.data, group, 1);
    const int of_decay = k->rule.decay == SV_DECAY_CHANNEL ? heads * keys : heads;
    double *decay = k->rule.decay == SV_DECAY_TOKEN || k->rule.decay == SV_DECAY_CHANNEL
                        ? walked(p, k->in.decay.data, group, of_decay)
                        : NULL;
    for (int t = 0; t < p->length; t++)
        for (int h = 0; h < heads; h++) {
            double *s = state + h * keys * values, *y = want + (t * heads + h) * values;
            for (int j = 0; j < values; j++) y[j] = 0;
            if (weight && weight[t] == 0) continue;
            double before[20][40];
            for (int i = 0; i < keys; i++)
                for (int j = 0; j < values; j++) {
                    before[i][j] = s[i * values + j];
                    double e = 0;
                    if (k->rule.decay == SV_DECAY_HEAD) e = (double)sv_f32(k->in.decay)[h];
                    if (k->rule.decay == SV_DECAY_TOKEN) e = decay[t * heads + h];
                    if (k->rule.decay == SV_DECAY_CHANNEL) e = decay[(t * heads + h) * keys + i];
                    s[i * values + j] *= exp(e);
                }
            for (int step = 0; step < steps; step++) {
                const int part = (t * steps + step) * heads + h;
                double read[40] = {0};
                for (int i = 0; i < keys; i++)
                    for (int j = 0; j < values; j++)
                        read[j] += general ? a[(t * heads + h) * keys + i] * before[i][j]
                                           : kk[part * keys + i] * s[i * values + j];
                for (int i = 0; i < keys; i++)
                    for (int j = 0; j < values; j++)
                        s[i * values + j] +=
                            general ? b[(t * heads + h) * keys + i] * read[j] +
                                          kk[part * keys + i] * v[part * values + j]
                                    : kk[part * keys + i] * beta[part] * (v[part * values + j] - read[j]);
            }
            for (int i = 0; i < keys; i++)
                for (int j = 0; j < values; j++)
                    y[j] += (double)k->rule.scale * (weight ? weight[t] : 1) * q[(t * heads + h) * keys + i] *
                            s[i * values + j];
        }
    free(q), free(kk), free(v), free(beta), free(a), free(b), free(weight), free(decay);
}

START_TEST(delta_rule)
{
    problem p = begin(_i);
    delta_case k = {.keys = p.keys, .values = p.values};
    const bool general = pick(&p, 0, 2) == 0;
    const double size = 1 / sqrt(p.keys);
    k.rule = (sv_delta_rule){.heads = p.heads,
                             .steps = general ? 1 : pick(&p, 1, 3),
                             .decay = (sv_decay)pick(&p, 0, 3),
                             .scale = 0.7f};
    const int steps = k.rule.steps, heads = p.heads;
    k.in.q = slots(&p, per_slot(&p, heads * p.keys, -1, 1), heads * p.keys);
    k.in.k = slots(&p, per_slot(&p, steps * heads * p.keys, -size, size), steps * heads * p.keys);
    k.in.v = slots(&p, per_slot(&p, steps * heads * p.values, -1, 1), steps * heads * p.values);
    if (general) {
        k.in.a = slots(&p, per_slot(&p, heads * p.keys, -size, size), heads * p.keys);
        k.in.b = slots(&p, per_slot(&p, heads * p.keys, -size, size), heads * p.keys);
    } else {
        k.in.beta = slots(&p, per_slot(&p, steps * heads, 0, 2), steps * heads);
    }
    const int columns = k.rule.decay == SV_DECAY_CHANNEL ? heads * p.keys : heads;
    if (k.rule.decay == SV_DECAY_HEAD)
        k.in.decay = view(uniform(&p, (size_t)heads, -1, 0), 1, heads);
    else if (k.rule.decay != SV_DECAY_NONE)
        k.in.decay = slots(&p, per_slot(&p, columns, -1, 0), columns);
    if (pick(&p, 0, 1)) {
        float *weight = per_slot(&p, 1, -1, 1);
        for (int i = 0; i < p.slots; i++) weight[i] = weight[i] < 0 ? 0 : weight[i];
        k.in.weight = slots(&p, weight, 1);
    }
    compare(&p, "delta_scan", call_delta, naive_delta, &k, heads * p.values, heads * p.keys * p.values, -1, 1,
            1e-5);
    finish(&p);
}
END_TEST

/* ---- diagonal scans ---------------------------------------------------------------------------------- */

typedef struct diagonal_case {
    float *x, *a;
    int columns;
    bool log, complex_numbers, constant, whole;
} diagonal_case;

static sv_status call_diagonal(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq)
{
    const diagonal_case *k = arg;
    return sv_diagonal_scan(c, y, view(k->x, y.dim[0], k->columns),
                            view(k->a, k->constant ? 1 : y.dim[0], k->columns), k->log, k->complex_numbers,
                            seq);
}

static void naive_diagonal(const problem *p, const void *arg, int group, double *want, double *h)
{
    const diagonal_case *k = arg;
    const int n = k->columns, half = n / 2;
    double *x = walked(p, k->x, group, n), *a = k->constant ? NULL : walked(p, k->a, group, n);
    for (int t = 0; t < p->length; t++) {
        double factor[128];
        for (int i = 0; i < n; i++) {
            factor[i] = a ? a[t * n + i] : (double)k->a[i];
            if (k->log) factor[i] = exp(factor[i]);
        }
        for (int i = 0; i < (k->complex_numbers ? half : n); i++) {
            if (k->complex_numbers) {
                const double re = factor[i] * h[i] - factor[half + i] * h[half + i] + x[t * n + i];
                h[half + i] = factor[i] * h[half + i] + factor[half + i] * h[i] + x[t * n + half + i];
                h[i] = re;
            } else {
                h[i] = factor[i] * h[i] + x[t * n + i];
            }
        }
        memcpy(want + t * n, h, sizeof *h * (size_t)n);
    }
    free(x), free(a);
}

START_TEST(diagonal)
{
    problem p = begin(_i);
    diagonal_case k = {.columns = 2 * pick(&p, 1, 50)};
    k.log = pick(&p, 0, 2) == 0;
    k.complex_numbers = !k.log && pick(&p, 0, 1);
    k.constant = pick(&p, 0, 1);
    k.x = per_slot(&p, k.columns, -1, 1);
    k.a = k.constant ? uniform(&p, (size_t)k.columns, k.log ? -1 : -0.7, k.log ? 0 : 0.7)
                     : per_slot(&p, k.columns, k.log ? -1 : -0.7, k.log ? 0 : 0.7);
    compare(&p, "diagonal_scan", call_diagonal, naive_diagonal, &k, k.columns, k.columns, -1, 1, 1e-5);
    finish(&p);
}
END_TEST

/* [weight | decay] side by side */
static sv_status call_log_sum(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq)
{
    const diagonal_case *k = arg;
    SV_TRY(sv_log_sum_scan(c, sv_columns(y, 0, k->columns),
                           k->whole ? SV_NONE : sv_columns(y, k->columns, k->columns),
                           view(k->x, y.dim[0], k->columns), seq, k->whole));
    return SV_OK;
}

static void naive_log_sum(const problem *p, const void *arg, int group, double *want, double *state)
{
    const diagonal_case *k = arg;
    const int n = k->columns;
    double *x = walked(p, k->x, group, n);
    for (int i = 0; i < n; i++) {
        double sum = state[n + i] * exp(state[i]), most = state[n + i] > 0 ? state[i] : -INFINITY;
        for (int t = 0; t < p->length; t++) {
            const double before = sum;
            sum += exp(x[t * n + i]);
            most = fmax(most, x[t * n + i]);
            want[t * 2 * n + i] = exp(x[t * n + i]) / sum;
            want[t * 2 * n + n + i] = before > 0 ? log(before / sum) : -1e30;
        }
        for (int t = 0; k->whole && t < p->length; t++) {
            want[t * 2 * n + i] = exp(x[t * n + i]) / sum;
            want[t * 2 * n + n + i] = 0;
        }
        state[i] = most;
        state[n + i] = sum / exp(most);
    }
    free(x);
}

START_TEST(log_sum)
{
    problem p = begin(_i);
    diagonal_case k = {.columns = pick(&p, 1, 70), .whole = pick(&p, 0, 3) == 0};
    p.with_state = true; /* sums above 0, so that no decay is infinite */
    k.x = per_slot(&p, k.columns, -6, 6);
    compare(&p, "log_sum_scan", call_log_sum, naive_log_sum, &k, 2 * k.columns, 2 * k.columns, 0.5, 2, 1e-5);
    finish(&p);
}
END_TEST

START_TEST(log_sum_begins_empty)
{
    float x[] = {-300, 2, 1}, weight[3], decay[3];
    const sv_sequence seq = {.length = 3};
    sv_ctx *c = test_context(1);
    assert_ok(c, sv_log_sum_scan(c, view(weight, 3, 1), view(decay, 3, 1), view(x, 3, 1), &seq, false));
    ck_assert(weight[0] == 1 && isinf(decay[0]) && decay[0] < 0); /* the first token is all there is */
    ck_assert_float_eq_tol(weight[1], 1, 1e-7f);
    ck_assert_float_eq_tol(weight[2], (float)(1 / (1 + exp(1.0))), 1e-7f);
    sv_ctx_close(c);
}
END_TEST

typedef struct state_case {
    sv_state_rule rule;
    float *u;
    int channels;
} state_case;

static sv_status call_state(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq)
{
    const state_case *k = arg;
    return sv_state_scan(c, y, view(k->u, y.dim[0], k->channels), &k->rule, seq);
}

static void naive_state(const problem *p, const void *arg, int group, double *want, double *h)
{
    const state_case *k = arg;
    const int d = k->channels, n = k->rule.states, all = d * n,
              pitch = k->rule.kind == SV_STATE_COMPLEX ? 2 * n : n;
    const bool selective = k->rule.kind == SV_STATE_SELECTIVE;
    double *u = walked(p, k->u, group, d), *delta = NULL, *b = NULL, *read = NULL;
    if (selective) {
        delta = walked(p, k->rule.delta.data, group, d);
        b = walked(p, k->rule.b.data, group, n);
        read = walked(p, k->rule.c.data, group, n);
    }
    for (int t = 0; t < p->length; t++)
        for (int i = 0; i < d; i++) {
            double y = sv_is_none(k->rule.d) ? 0 : (double)sv_f32(k->rule.d)[i] * u[t * d + i];
            for (int s = 0; s < n; s++) {
                double *re = h + i * n + s;
                const float *a = sv_f32(k->rule.a) + i * pitch + s;
                if (selective) {
                    const double dt = delta[t * d + i];
                    *re = ((double)k->rule.scale * exp(dt * (double)*a) + (double)k->rule.shift) * *re +
                          dt * b[t * n + s] * u[t * d + i];
                    y += *re * read[t * n + s];
                    continue;
                }
                const float *bs = sv_f32(k->rule.b) + i * pitch + s, *cs = sv_f32(k->rule.c) + i * pitch + s;
                if (k->rule.kind == SV_STATE_REAL) {
                    *re = (double)*a * *re + (double)*bs * u[t * d + i];
                    y += *re * (double)*cs;
                    continue;
                }
                double *im = re + all;
                const double r = (double)a[0] * *re - (double)a[n] * *im + (double)bs[0] * u[t * d + i];
                *im = (double)a[0] * *im + (double)a[n] * *re + (double)bs[n] * u[t * d + i];
                *re = r;
                y += *re * (double)cs[0] - *im * (double)cs[n];
            }
            want[t * d + i] = y;
        }
    free(u), free(delta), free(b), free(read);
}

START_TEST(states)
{
    problem p = begin(_i);
    state_case k = {.channels = pick(&p, 1, 70)};
    k.rule.kind = (sv_state_kind)(_i % 3);
    k.rule.states = pick(&p, 1, 9);
    k.rule.scale = 2, k.rule.shift = -1;
    const int d = k.channels, n = k.rule.states, columns = k.rule.kind == SV_STATE_COMPLEX ? 2 * n : n;
    const size_t count = (size_t)d * (size_t)columns;
    const bool selective = k.rule.kind == SV_STATE_SELECTIVE;
    k.u = per_slot(&p, d, -1, 1);
    k.rule.a = view(uniform(&p, count, selective ? -8 : -0.6, selective ? -0.1 : 0.6), d, columns);
    if (selective) {
        k.rule.delta = slots(&p, per_slot(&p, d, 0, 0.5), d);
        k.rule.b = slots(&p, per_slot(&p, n, -1, 1), n);
        k.rule.c = slots(&p, per_slot(&p, n, -1, 1), n);
    } else {
        k.rule.b = view(uniform(&p, count, -1, 1), d, columns);
        k.rule.c = view(uniform(&p, count, -1, 1), d, columns);
    }
    if (pick(&p, 0, 1)) k.rule.d = view(uniform(&p, (size_t)d, -1, 1), 1, d);
    compare(&p, "state_scan", call_state, naive_state, &k, d, d * columns, -1, 1, 1e-5);
    finish(&p);
}
END_TEST

typedef struct dense_case {
    float *u, *a, *b;
    int channels, n;
} dense_case;

static sv_status call_dense(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq)
{
    const dense_case *k = arg;
    return sv_dense_scan(c, y, view(k->u, y.dim[0], k->channels), view(k->a, k->channels * k->n, k->n),
                         view(k->b, k->channels, k->n), seq);
}

static void naive_dense(const problem *p, const void *arg, int group, double *want, double *h)
{
    const dense_case *k = arg;
    const int n = k->n, d = k->channels;
    double *u = walked(p, k->u, group, d);
    for (int t = 0; t < p->length; t++)
        for (int ch = 0; ch < d; ch++) {
            double *y = want + (t * d + ch) * n;
            for (int i = 0; i < n; i++) {
                y[i] = (double)k->b[ch * n + i] * u[t * d + ch];
                for (int j = 0; j < n; j++) y[i] += (double)k->a[(ch * n + i) * n + j] * h[ch * n + j];
            }
            memcpy(h + ch * n, y, sizeof *y * (size_t)n);
        }
    free(u);
}

START_TEST(dense)
{
    problem p = begin(_i);
    dense_case k = {.channels = pick(&p, 1, 9), .n = pick(&p, 1, 20)};
    const size_t n = (size_t)k.n, d = (size_t)k.channels;
    k.u = per_slot(&p, k.channels, -1, 1);
    k.a = uniform(&p, d * n * n, -0.8 / k.n, 0.8 / k.n);
    k.b = uniform(&p, d * n, -1, 1);
    compare(&p, "dense_scan", call_dense, naive_dense, &k, k.channels * k.n, k.channels * k.n, -1, 1, 1e-5);
    finish(&p);
}
END_TEST

/* ---- attention forms: sums over all pairs ------------------------------------------------------------ */

typedef struct pairs_case {
    float *q, *k, *v, *g, *beta, *lamb;
    int heads, keys, values, window, stride;
    float scale;
    sv_second_order second;
    sv_taylor taylor;
} pairs_case;

static pairs_case make_pairs(problem *p, double size)
{
    pairs_case k = {.heads = p->heads, .keys = p->keys, .values = p->values, .scale = 0.4f};
    k.q = per_slot(p, k.heads * k.keys, -size, size);
    k.k = per_slot(p, k.heads * k.keys, -size, size);
    k.v = per_slot(p, k.heads * k.values, -1, 1);
    k.g = per_slot(p, k.heads, -0.3, 0);
    k.beta = per_slot(p, k.heads, 0.1, 1);
    k.lamb = uniform(p, (size_t)(k.heads * k.keys), 0.5, 1.5);
    p->with_state = false;
    return k;
}

typedef struct walked_pairs {
    double *q, *k, *v, *g, *beta;
} walked_pairs;

static walked_pairs walk_pairs(const problem *p, const pairs_case *k, int group)
{
    return (walked_pairs){walked(p, k->q, group, k->heads * k->keys),
                          walked(p, k->k, group, k->heads * k->keys),
                          walked(p, k->v, group, k->heads * k->values), walked(p, k->g, group, k->heads),
                          walked(p, k->beta, group, k->heads)};
}
static void free_pairs(walked_pairs *w)
{
    free(w->q), free(w->k), free(w->v), free(w->g), free(w->beta);
}

static sv_status call_second(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq)
{
    const pairs_case *k = arg;
    const int rows = y.dim[0];
    return sv_second_order_scan(c, y, view(k->q, rows, k->heads * k->keys),
                                view(k->k, rows, k->heads * k->keys), view(k->v, rows, k->heads * k->values),
                                &k->second, seq);
}

/* sum over l <= j <= i of gamma^(i-l) gamma^(i-j) (q_i.k_l)(q_j.k_l) v_j: both sums decay, under the exact causal mask. */
static void naive_second(const problem *p, const void *arg, int group, double *want, double *state)
{
    const pairs_case *k = arg;
    walked_pairs w = walk_pairs(p, k, group);
    const double gamma = k->second.decay;
    (void)state;
    for (int h = 0; h < k->heads; h++)
        for (int i = 0; i < p->length; i++) {
            double *y = want + (i * k->heads + h) * k->values;
            for (int c = 0; c < k->values; c++) y[c] = 0;
            for (int j = 0; j <= i; j++) {
                double weight = 0;
                for (int l = 0; l <= j; l++)
                    weight += pow(gamma, i - l) * match(w.q, w.k, k->heads, k->keys, h, i, l) *
                              pow(gamma, i - j) * match(w.q, w.k, k->heads, k->keys, h, j, l);
                for (int c = 0; c < k->values; c++) y[c] += weight * w.v[(j * k->heads + h) * k->values + c];
            }
        }
    free_pairs(&w);
}

START_TEST(second_order)
{
    problem p = begin(_i);
    pairs_case k = make_pairs(&p, 1 / sqrt(p.keys));
    const float gamma = _i % 2 ? 1.0f : 0.9f;
    k.second = (sv_second_order){.heads = k.heads, .decay = gamma, .decay_g = gamma * gamma, .share = gamma};
    compare(&p, "second_order_scan", call_second, naive_second, &k, k.heads * k.values, 0, 0, 0, 3e-5);
    finish(&p);
}
END_TEST

static sv_status call_taylor(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq)
{
    const pairs_case *k = arg;
    const int rows = y.dim[0];
    return sv_taylor_scan(c, y, view(k->q, rows, k->heads * k->keys), view(k->k, rows, k->heads * k->keys),
                          view(k->v, rows, k->heads * k->values), &k->taylor, seq);
}

static void naive_taylor(const problem *p, const void *arg, int group, double *want, double *state)
{
    const pairs_case *k = arg;
    const sv_taylor *r = &k->taylor;
    walked_pairs w = walk_pairs(p, k, group);
    (void)state;
    for (int h = 0; h < k->heads; h++)
        for (int i = 0; i < p->length; i++) {
            double *y = want + (i * k->heads + h) * k->values, total = 0;
            for (int c = 0; c < k->values; c++) y[c] = 0;
            for (int j = 0; j <= i; j++) {
                const double s = (double)r->scale * match(w.q, w.k, k->heads, k->keys, h, i, j);
                const double weight = (double)r->c0 + (double)r->c1 * s + (double)r->c2 * s * s;
                total += weight;
                for (int c = 0; c < k->values; c++) y[c] += weight * w.v[(j * k->heads + h) * k->values + c];
            }
            for (int c = 0; r->normalise && c < k->values; c++) y[c] /= total + (double)r->eps;
        }
    free_pairs(&w);
}

START_TEST(taylor)
{
    problem p = begin(_i);
    pairs_case k = make_pairs(&p, 1);
    k.taylor = (sv_taylor){
        .heads = k.heads, .scale = 0.3f, .c0 = 1, .c1 = 1, .c2 = 0.5f, .eps = 1e-6f, .normalise = _i % 2};
    compare(&p, "taylor_scan", call_taylor, naive_taylor, &k, k.heads * k.values, 0, 0, 0, 2e-5);
    finish(&p);
}
END_TEST

static sv_status call_attention(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq)
{
    const pairs_case *k = arg;
    const int rows = y.dim[0];
    return sv_attention_scan(c, y, view(k->q, rows, k->heads * k->keys), view(k->k, rows, k->heads * k->keys),
                             view(k->v, rows, k->heads * k->values), view(k->g, rows, k->heads), k->heads,
                             k->scale, k->window, k->stride, seq);
}

static void naive_attention(const problem *p, const void *arg, int group, double *want, double *state)
{
    const pairs_case *k = arg;
    walked_pairs w = walk_pairs(p, k, group);
    (void)state;
    for (int h = 0; h < k->heads; h++)
        for (int i = 0; i < p->length; i++) {
            double *y = want + (i * k->heads + h) * k->values, total = 0, decay = 0;
            for (int c = 0; c < k->values; c++) y[c] = 0;
            for (int j = i; j >= 0 && (k->window == 0 || i - j < k->window); j--) {
                const double weight =
                    exp((double)k->scale * match(w.q, w.k, k->heads, k->keys, h, i, j) + decay);
                decay += w.g[j * k->heads + h];
                if (j != i && (j + 1) % k->stride != 0) continue;
                total += weight;
                for (int c = 0; c < k->values; c++) y[c] += weight * w.v[(j * k->heads + h) * k->values + c];
            }
            for (int c = 0; c < k->values; c++) y[c] /= total;
        }
    free_pairs(&w);
}

START_TEST(attention)
{
    problem p = begin(_i);
    pairs_case k = make_pairs(&p, 1);
    k.window = _i % 2 ? pick(&p, 1, 20) : 0;
    k.stride = _i % 4 < 2 ? 1 : pick(&p, 2, 9);
    compare(&p, "attention_scan", call_attention, naive_attention, &k, k.heads * k.values, 0, 0, 0, 1e-5);
    finish(&p);
}
END_TEST

static sv_status call_mesa(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq)
{
    const pairs_case *k = arg;
    const int rows = y.dim[0];
    return sv_mesa_scan(c, y, view(k->q, rows, k->heads * k->keys), view(k->k, rows, k->heads * k->keys),
                        view(k->v, rows, k->heads * k->values), view(k->g, rows, k->heads),
                        view(k->beta, rows, k->heads), view(k->lamb, k->heads, k->keys), k->heads, seq);
}

/* Gauss-Jordan with pivots. */
static void solve(double *a, double *x, int n)
{
    for (int i = 0; i < n; i++) {
        int best = i;
        for (int r = i + 1; r < n; r++)
            if (fabs(a[r * n + i]) > fabs(a[best * n + i])) best = r;
        for (int j = 0; j < n; j++) {
            const double t = a[i * n + j];
            a[i * n + j] = a[best * n + j], a[best * n + j] = t;
        }
        const double t = x[i];
        x[i] = x[best], x[best] = t;
        for (int r = 0; r < n; r++) {
            if (r == i) continue;
            const double by = a[r * n + i] / a[i * n + i];
            for (int j = 0; j < n; j++) a[r * n + j] -= by * a[i * n + j];
            x[r] -= by * x[i];
        }
    }
    for (int i = 0; i < n; i++) x[i] /= a[i * n + i];
}

static void naive_mesa(const problem *p, const void *arg, int group, double *want, double *state)
{
    const pairs_case *k = arg;
    walked_pairs w = walk_pairs(p, k, group);
    const int keys = k->keys, heads = k->heads;
    (void)state;
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < p->length; i++) {
            double m[400] = {0}, x[20], *y = want + (i * heads + h) * k->values, decay = 0;
            for (int c = 0; c < keys; c++)
                m[c * keys + c] = (double)k->lamb[h * keys + c], x[c] = w.q[(i * heads + h) * keys + c];
            for (int j = i; j >= 0; j--) {
                const double weight = exp(decay) * w.beta[j * heads + h], *kj = w.k + (j * heads + h) * keys;
                for (int a = 0; a < keys; a++)
                    for (int b = 0; b < keys; b++) m[a * keys + b] += weight * kj[a] * kj[b];
                decay += w.g[j * heads + h];
            }
            solve(m, x, keys);
            decay = 0;
            for (int c = 0; c < k->values; c++) y[c] = 0;
            for (int j = i; j >= 0; j--) {
                const double weight = exp(decay) * w.beta[j * heads + h], *kj = w.k + (j * heads + h) * keys;
                double along = 0;
                for (int a = 0; a < keys; a++) along += x[a] * kj[a];
                for (int c = 0; c < k->values; c++)
                    y[c] += weight * along * w.v[(j * heads + h) * k->values + c];
                decay += w.g[j * heads + h];
            }
        }
    free_pairs(&w);
}

START_TEST(mesa)
{
    problem p = begin(_i);
    pairs_case k = make_pairs(&p, 1);
    compare(&p, "mesa_scan", call_mesa, naive_mesa, &k, k.heads * k.values, 0, 0, 0, 3e-5);
    finish(&p);
}
END_TEST

/* ---- cells and fixed points --------------------------------------------------------------------------- */

typedef struct cell_case {
    sv_cell rule;
    float *x, *b, *lam, *u, *alpha; /* the last four: mixer */
    int channels, gates, rank;
} cell_case;

static sv_status call_cell(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq)
{
    const cell_case *k = arg;
    return sv_cell_scan(c, y, SV_NONE, view(k->x, y.dim[0], k->gates * k->channels), &k->rule, seq);
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static void naive_cell(const problem *p, const void *arg, int group, double *want, double *state)
{
    const cell_case *k = arg;
    const int d = k->channels;
    double *x = walked(p, k->x, group, k->gates * d);
    for (int t = 0; t < p->length; t++) {
        const double *row = x + t * k->gates * d;
        double old[64];
        memcpy(old, state, sizeof *old * (size_t)d);
        for (int i = 0; i < d; i++) {
            const float *own = sv_f32(k->rule.own);
            if (k->rule.kind == SV_CELL_PARA_GRU) {
                const double z = sigmoid(row[i] + (double)own[i] * old[i]),
                             r = sigmoid(row[d + i] + (double)own[d + i] * old[i]);
                state[i] = z * tanh(row[2 * d + i] + (double)own[2 * d + i] * old[i] * r) + (1 - z) * old[i];
            } else if (k->rule.kind == SV_CELL_PARA_LSTM) {
                const float *peep = sv_f32(k->rule.peephole);
                const double c = state[d + i],
                             f = sigmoid(row[i] + (double)own[i] * old[i] + (double)peep[i] * c);
                const double g = tanh(row[2 * d + i] + (double)own[2 * d + i] * old[i]),
                             next = f * c + (1 - f) * g;
                const double o =
                    sigmoid(row[d + i] + (double)own[d + i] * old[i] + (double)peep[d + i] * next);
                state[d + i] = next;
                state[i] = o * tanh(next);
            } else {
                const int width = d / k->rule.heads, head = i / width, lane = i % width;
                double gate[4];
                for (int g = 0; g < 4; g++) {
                    gate[g] = row[g * d + i];
                    for (int j = 0; j < width; j++)
                        gate[g] +=
                            old[head * width + j] * (double)own[((head * width + j) * 4 + g) * width + lane];
                }
                double *c = state + d, *n = c + d, *m = n + d;
                const double kept = m[i] - log1p(exp(-gate[1])),
                             top = n[i] == 0 ? gate[0] : fmax(kept, gate[0]);
                const double in = exp(gate[0] - top), keep = fmin(1, exp(kept - top));
                c[i] = keep * c[i] + in * tanh(gate[2]);
                n[i] = keep * n[i] + in;
                m[i] = top;
                state[i] = sigmoid(gate[3]) * c[i] / n[i];
            }
            want[t * d + i] = state[i];
        }
    }
    free(x);
}

static cell_case make_cell(problem *p, sv_cell_kind kind)
{
    static const int gates[] = {4, 3, 3};
    cell_case k = {.gates = gates[kind]};
    k.rule = (sv_cell){.kind = kind, .heads = p->heads};
    const int width = pick(p, 1, 20);
    k.channels = p->heads * width;
    k.x = per_slot(p, k.gates * k.channels, -2, 2);
    const size_t d = (size_t)k.channels;
    k.rule.own = kind == SV_CELL_SLSTM
                     ? view(uniform(p, d * 4 * (size_t)width, -0.5, 0.5), k.channels, 4 * width)
                     : view(uniform(p, 3 * d, -1, 1), 3, k.channels);
    if (kind == SV_CELL_PARA_LSTM) k.rule.peephole = view(uniform(p, 2 * d, -1, 1), 2, k.channels);
    return k;
}

START_TEST(cells)
{
    static const int parts[] = {4, 1, 2};
    problem p = begin(_i);
    const sv_cell_kind kind = (sv_cell_kind)(_i % 3);
    cell_case k = make_cell(&p, kind);
    compare(&p, "cell_scan", call_cell, naive_cell, &k, k.channels, parts[kind] * k.channels, 0.1, 0.9, 2e-5);
    finish(&p);
}
END_TEST

static sv_status call_mixer(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq)
{
    const cell_case *k = arg;
    const int rows = y.dim[0], d = k->channels;
    return sv_mixer_scan(c, y, view(k->x, rows, d), view(k->b, rows, d), view(k->lam, rows, d),
                         view(k->u, rows, k->rank * d), view(k->alpha, rows, k->rank), seq);
}

/* The paper's own iteration, to its end. */
static void naive_mixer(const problem *p, const void *arg, int group, double *want, double *h)
{
    const cell_case *k = arg;
    const int d = k->channels;
    double *x = walked(p, k->x, group, d), *b = walked(p, k->b, group, d), *lam = walked(p, k->lam, group, d),
           *u = walked(p, k->u, group, k->rank * d), *alpha = walked(p, k->alpha, group, k->rank);
    for (int t = 0; t < p->length; t++) {
        double y[64] = {0};
        for (int iteration = 0; iteration < 400; iteration++) {
            double z[64];
            for (int i = 0; i < d; i++) z[i] = b[t * d + i] * x[t * d + i] - y[i];
            for (int r = 0; r < k->rank; r++) {
                const double *unit = u + (t * k->rank + r) * d;
                double along = 0;
                for (int i = 0; i < d; i++) along += unit[i] * z[i];
                for (int i = 0; i < d; i++) z[i] -= 2 * alpha[t * k->rank + r] * unit[i] * along;
            }
            for (int i = 0; i < d; i++) y[i] = lam[t * d + i] * h[i] + (1 - lam[t * d + i]) * (z[i] + y[i]);
        }
        memcpy(h, y, sizeof *h * (size_t)d);
        memcpy(want + t * d, y, sizeof *y * (size_t)d);
    }
    free(x), free(b), free(lam), free(u), free(alpha);
}

START_TEST(mixer)
{
    problem p = begin(_i);
    cell_case k = {.channels = pick(&p, 1, 40), .rank = pick(&p, 1, 3)};
    k.x = per_slot(&p, k.channels, -1, 1);
    k.b = per_slot(&p, k.channels, 0, 1);
    k.lam = per_slot(&p, k.channels, 0.3, 0.95);
    k.u = per_slot(&p, k.rank * k.channels, -1, 1);
    k.alpha = per_slot(&p, k.rank, 0, 0.45);
    for (int row = 0; row < p.slots * k.rank; row++) {
        double square = 0;
        for (int i = 0; i < k.channels; i++) square += pow((double)k.u[row * k.channels + i], 2);
        for (int i = 0; i < k.channels; i++) k.u[row * k.channels + i] /= (float)sqrt(square);
    }
    compare(&p, "mixer_scan", call_mixer, naive_mixer, &k, k.channels, k.channels, -1, 1, 2e-5);
    finish(&p);
}
END_TEST

START_TEST(newton_reaches_the_walk)
{
    problem p = begin(_i);
    p.groups = 2, p.length = 200, p.slots = 400, p.reverse = _i % 2;
    const sv_cell_kind kind = _i % 4 < 2 ? SV_CELL_PARA_GRU : SV_CELL_PARA_LSTM;
    cell_case k = make_cell(&p, kind);
    float *walk = per_slot(&p, k.channels, 0, 0), *newton = per_slot(&p, k.channels, 0, 0);
    const sv_sequence seq = {.length = p.length, .reverse = p.reverse};
    assert_ok(p.one, call_cell(p.one, &k, slots(&p, walk, k.channels), &seq));
    double before = INFINITY;
    for (k.rule.newton = 1; k.rule.newton <= 8; k.rule.newton++) {
        assert_ok(p.three, call_cell(p.three, &k, slots(&p, newton, k.channels), &seq));
        double error = 0;
        for (int i = 0; i < p.slots * k.channels; i++)
            error = fmax(error, fabs((double)newton[i] - (double)walk[i]));
        if (k.rule.newton >= 3) ck_assert_double_lt(error, fmax(before, 2e-6));
        before = error;
    }
    ck_assert_double_lt(before, 2e-6);
    finish(&p);
}
END_TEST

/* ---- memories that learn --------------------------------------------------------------------------------- */

typedef struct memory_case {
    sv_memory_inputs in;
    sv_memory rule;
    int width;
} memory_case;

static sv_status call_memory(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq)
{
    const memory_case *k = arg;
    return sv_memory_scan(c, y, &k->in, &k->rule, seq);
}

/* One head's layers: [width|hidden] sizes. */
typedef struct layers {
    double w1[20 * 40], b1[40], w2[40 * 20], b2[20];
} layers;

static void normalise(double *z, int width, double eps)
{
    double mean = 0, variance = 0;
    for (int i = 0; i < width; i++) mean += z[i] / width;
    for (int i = 0; i < width; i++) variance += pow(z[i] - mean, 2) / width;
    for (int i = 0; i < width; i++) z[i] = (z[i] - mean) / sqrt(variance + eps);
}

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(0.79788456 * (x + 0.044715 * x * x * x)));
}

static void apply(const layers *m, const double *x, double *low, double *z, int width, int hidden)
{
    const int first = hidden ? hidden : width;
    for (int j = 0; j < first; j++) {
        low[j] = m->b1[j];
        for (int i = 0; i < width; i++) low[j] += x[i] * m->w1[i * first + j];
    }
    if (!hidden) {
        memcpy(z, low, sizeof *z * (size_t)width);
        return;
    }
    for (int j = 0; j < width; j++) {
        z[j] = m->b2[j];
        for (int i = 0; i < hidden; i++) z[j] += gelu(low[i]) * m->w2[i * width + j];
    }
}

static double loss(const double *z, const double *target, const float *w, const float *b, int width,
                   double eps)
{
    double hat[20], sum = 0;
    memcpy(hat, z, sizeof *hat * (size_t)width);
    normalise(hat, width, eps);
    for (int i = 0; i < width; i++) sum += 0.5 * pow((double)w[i] * hat[i] + (double)b[i] - target[i], 2);
    return sum;
}

/* Primal TTT: gradients by central differences at the mini-batch's start, every intermediate memory written out. */
static void naive_ttt(const problem *p, const void *arg, int group, double *want, double *state)
{
    const memory_case *k = arg;
    const int width = k->width, heads = k->rule.heads,
              hidden = k->rule.kind == SV_MEMORY_MLP ? k->rule.hidden : 0;
    const int first = hidden ? hidden : width, all = heads * width;
    const double eps = (double)k->rule.eps;
    double *q = walked(p, k->in.q.data, group, all), *kk = walked(p, k->in.k.data, group, all),
           *v = walked(p, k->in.v.data, group, all), *row = walked(p, k->in.row.data, group, heads),
           *column = walked(p, k->in.column.data, group, heads);
    double *w1 = state, *b1 = w1 + heads * width * first, *w2 = b1 + heads * first,
           *b2 = w2 + heads * hidden * width;
    for (int h = 0; h < heads; h++) {
        const float *nw = sv_f32(k->in.norm_weight) + h * width, *nb = sv_f32(k->in.norm_bias) + h * width;
        static layers start, now;
        memcpy(start.w1, w1 + h * width * first, sizeof(double) * (size_t)(width * first));
        memcpy(start.b1, b1 + h * first, sizeof(double) * (size_t)first);
        if (hidden) memcpy(start.w2, w2 + h * hidden * width, sizeof(double) * (size_t)(hidden * width));
        if (hidden) memcpy(start.b2, b2 + h * width, sizeof(double) * (size_t)width);
        for (int begin_at = 0; begin_at < p->length; begin_at += k->rule.batch) {
            const int end = begin_at + k->rule.batch < p->length ? begin_at + k->rule.batch : p->length;
            static double g[64][20], g1[64][40], low[64][40];
            for (int t = begin_at; t < end; t++) {
                double z[20], target[20], *x = kk + t * all + h * width;
                const int at = t - begin_at;
                apply(&start, x, low[at], z, width, hidden);
                for (int i = 0; i < width; i++) target[i] = v[t * all + h * width + i] - x[i];
                for (int i = 0; i < width; i++) {
                    const double step = 1e-5, kept = z[i];
                    z[i] = kept + step;
                    const double up = loss(z, target, nw, nb, width, eps);
                    z[i] = kept - step;
                    g[at][i] = (up - loss(z, target, nw, nb, width, eps)) / (2 * step);
                    z[i] = kept;
                }
                for (int i = 0; i < hidden; i++) {
                    double sum = 0;
                    for (int j = 0; j < width; j++) sum += start.w2[i * width + j] * g[at][j];
                    g1[at][i] = sum * (gelu(low[at][i] + 1e-5) - gelu(low[at][i] - 1e-5)) / 2e-5;
                }
            }
            for (int t = begin_at; t < end; t++) {
                now = start;
                for (int s = begin_at; s <= t; s++) {
                    const double eta = row[t * heads + h] * column[s * heads + h],
                                 *x = kk + s * all + h * width;
                    const double *gradient = hidden ? g1[s - begin_at] : g[s - begin_at];
                    for (int i = 0; i < width; i++)
                        for (int j = 0; j < first; j++) now.w1[i * first + j] -= eta * x[i] * gradient[j];
                    for (int j = 0; j < first; j++) now.b1[j] -= eta * gradient[j];
                    for (int i = 0; i < hidden; i++)
                        for (int j = 0; j < width; j++)
                            now.w2[i * width + j] -= eta * gelu(low[s - begin_at][i]) * g[s - begin_at][j];
                    for (int j = 0; hidden && j < width; j++) now.b2[j] -= eta * g[s - begin_at][j];
                }
                double scaled[20], wide[40], o[20], hat[20];
                for (int i = 0; i < width; i++)
                    scaled[i] = (double)k->rule.scale * q[t * all + h * width + i];
                apply(&now, scaled, wide, o, width, hidden);
                memcpy(hat, o, sizeof hat);
                normalise(hat, width, eps);
                for (int i = 0; i < width; i++)
                    want[t * all + h * width + i] =
                        (k->rule.query_residual ? scaled[i] : o[i]) + (double)nw[i] * hat[i] + (double)nb[i];
            }
            start = now;
        }
        memcpy(w1 + h * width * first, start.w1, sizeof(double) * (size_t)(width * first));
        memcpy(b1 + h * first, start.b1, sizeof(double) * (size_t)first);
        if (hidden) memcpy(w2 + h * hidden * width, start.w2, sizeof(double) * (size_t)(hidden * width));
        if (hidden) memcpy(b2 + h * width, start.b2, sizeof(double) * (size_t)width);
    }
    free(q), free(kk), free(v), free(row), free(column);
}

static memory_case make_memory(problem *p, sv_memory_kind kind, double rate)
{
    memory_case k = {.width = pick(p, 2, 20)};
    k.rule = (sv_memory){.kind = kind,
                         .heads = p->heads,
                         .hidden = pick(p, 1, 40),
                         .batch = pick(p, 1, 3) * 8,
                         .scale = 1,
                         .eps = 1e-3f,
                         .query_residual = pick(p, 0, 1)};
    const int all = p->heads * k.width;
    k.in.q = slots(p, per_slot(p, all, -1, 1), all);
    k.in.k = slots(p, per_slot(p, all, -0.5, 0.5), all);
    k.in.v = slots(p, per_slot(p, all, -1, 1), all);
    k.in.row = slots(p, per_slot(p, p->heads, 0, rate), p->heads);
    k.in.column = slots(p, per_slot(p, p->heads, 0.5, 1), p->heads);
    k.in.third = slots(p, per_slot(p, p->heads, 0.2, 0.8), p->heads);
    k.in.norm_weight = view(uniform(p, (size_t)all, 0.5, 1.5), p->heads, k.width);
    k.in.norm_bias = view(uniform(p, (size_t)all, -0.5, 0.5), p->heads, k.width);
    return k;
}

START_TEST(test_time_training)
{
    problem p = begin(_i);
    const bool mlp = _i % 2;
    memory_case k = make_memory(&p, mlp ? SV_MEMORY_MLP : SV_MEMORY_GRADIENT, 0.02);
    const int w = k.width, f = k.rule.hidden;
    p.with_state = true; /* LN of a memory of zeros is steep */
    compare(&p, "memory_scan (TTT)", call_memory, naive_ttt, &k, p.heads * w,
            p.heads * (mlp ? 2 * w * f + f + w : w * w + w), -0.5, 0.5, 1e-4);
    finish(&p);
}
END_TEST

/* Miras with W as published, [values][keys]. */
static void naive_miras(const problem *p, const void *arg, int group, double *want, double *state)
{
    const memory_case *k = arg;
    const int n = k->width, heads = k->rule.heads, all = heads * n;
    double *q = walked(p, k->in.q.data, group, all), *kk = walked(p, k->in.k.data, group, all),
           *v = walked(p, k->in.v.data, group, all), *eta = walked(p, k->in.row.data, group, heads),
           *alpha = walked(p, k->in.column.data, group, heads),
           *delta = walked(p, k->in.third.data, group, heads);
    for (int h = 0; h < heads; h++) {
        double a[20][20], w[20][20];
        for (int j = 0; j < n; j++)
            for (int i = 0; i < n; i++) a[j][i] = state[(h * n + i) * n + j];
        for (int t = -1; t < p->length; t++) {
            double e[20], size = 0, norm = 0;
            for (int j = 0; t >= 0 && j < n; j++) {
                e[j] = -v[t * all + h * n + j];
                for (int i = 0; i < n; i++) e[j] += w[j][i] * kk[t * all + h * n + i];
                size += e[j] * e[j];
            }
            for (int j = 0; t >= 0 && j < n; j++) {
                const double sign = (e[j] > 0) - (e[j] < 0);
                if (k->rule.kind == SV_MEMORY_HUBER && sqrt(size) > delta[t * heads + h])
                    e[j] = delta[t * heads + h] * sign;
                if (k->rule.kind == SV_MEMORY_NORM) e[j] = 3 * sign * e[j] * e[j];
                for (int i = 0; i < n; i++) {
                    const double old = k->rule.kind == SV_MEMORY_SOFTMAX ? log(w[j][i]) : a[j][i];
                    a[j][i] =
                        alpha[t * heads + h] * old - eta[t * heads + h] * e[j] * kk[t * all + h * n + i];
                }
            }
            for (int j = 0; j < n; j++)
                for (int i = 0; i < n; i++) norm += pow(a[j][i], 4);
            for (int j = 0; j < n; j++) {
                double sum = 0;
                for (int i = 0; i < n; i++) sum += exp(a[j][i]);
                for (int i = 0; i < n; i++)
                    w[j][i] = k->rule.kind == SV_MEMORY_SOFTMAX ? exp(a[j][i]) / sum
                              : k->rule.kind == SV_MEMORY_HUBER ? a[j][i]
                              : norm > 0                        ? a[j][i] / sqrt(norm)
                                                                : 0;
                if (k->rule.kind == SV_MEMORY_SOFTMAX)
                    for (int i = 0; i < n; i++) a[j][i] -= log(sum);
            }
            for (int j = 0; t >= 0 && j < n; j++) {
                want[t * all + h * n + j] = 0;
                for (int i = 0; i < n; i++) want[t * all + h * n + j] += w[j][i] * q[t * all + h * n + i];
            }
        }
        for (int j = 0; j < n; j++)
            for (int i = 0; i < n; i++) state[(h * n + i) * n + j] = a[j][i];
    }
    free(q), free(kk), free(v), free(eta), free(alpha), free(delta);
}

START_TEST(miras)
{
    static const sv_memory_kind kinds[] = {SV_MEMORY_HUBER, SV_MEMORY_NORM, SV_MEMORY_SOFTMAX};
    problem p = begin(_i);
    memory_case k = make_memory(&p, kinds[_i % 3], 0.05);
    p.with_state = true;
    compare(&p, "memory_scan (Miras)", call_memory, naive_miras, &k, p.heads * k.width,
            p.heads * k.width * k.width, 0.2, 0.9, 1e-4);
    finish(&p);
}
END_TEST

/* ---- rows of heads ------------------------------------------------------------------------------------- */

START_TEST(rows_of_heads)
{
    problem p = begin(_i);
    const int width = p.values, all = p.heads * width, rows = p.slots;
    float *x = per_slot(&p, all, -2, 2), *s = per_slot(&p, p.heads, 0.5, 2),
          *w = uniform(&p, (size_t)all, -1, 1), *base = per_slot(&p, all, -1, 1),
          *y = per_slot(&p, all, 0, 0), *few = per_slot(&p, p.heads, 0, 0);
    sv_ctx *c = p.three;
    for (int rule = SV_HEAD_UNIT; rule <= SV_HEAD_TIMES; rule++) {
        const float number = rule == SV_HEAD_SOFTMAX ? 0.7f : rule == SV_HEAD_TIMES ? -3 : 0.01f;
        assert_ok(c,
                  sv_head_map(c, slots(&p, y, all), slots(&p, x, all), p.heads, (sv_head_rule)rule, number));
        for (int h = 0; h < rows * p.heads; h++) {
            double square = 0, sum = 0;
            for (int i = 0; i < width; i++)
                square += pow((double)x[h * width + i], 2), sum += exp(0.7 * (double)x[h * width + i]);
            for (int i = 0; i < width; i++) {
                const double in = (double)x[h * width + i];
                const double want = rule == SV_HEAD_UNIT      ? in / sqrt(square + (double)number)
                                    : rule == SV_HEAD_LIMITED ? in / fmax(sqrt(square), (double)number)
                                    : rule == SV_HEAD_SOFTMAX ? exp(0.7 * in) / sum
                                                              : -3 * in;
                ck_assert_double_eq_tol((double)y[h * width + i], want, 1e-5);
            }
        }
    }
    assert_ok(c, sv_head_scale(c, slots(&p, y, all), slots(&p, x, all), slots(&p, s, p.heads), _i % 2, 0.5f));
    for (int i = 0; i < rows * all; i++) {
        const double by = (double)s[i / width], want = (double)x[i] * (_i % 2 ? 1 / (by + 0.5) : by);
        ck_assert_double_eq_tol((double)y[i], want, 1e-5);
    }
    assert_ok(c, sv_column_scale(c, slots(&p, y, all), slots(&p, x, all), view(w, 1, all),
                                 _i % 2 ? slots(&p, base, all) : SV_NONE));
    for (int i = 0; i < rows * all; i++)
        ck_assert_double_eq_tol((double)y[i],
                                (_i % 2 ? (double)base[i] : 0) + (double)x[i] * (double)w[i % all], 1e-5);
    assert_ok(c, sv_head_dot(c, slots(&p, few, p.heads), slots(&p, x, all),
                             _i % 2 ? slots(&p, base, all) : SV_NONE, view(w, 1, all)));
    for (int h = 0; h < rows * p.heads; h++) {
        double want = 0;
        for (int i = h * width; i < (h + 1) * width; i++)
            want += (double)x[i] * (double)w[i % all] * (_i % 2 ? (double)base[i] : 1);
        ck_assert_double_eq_tol((double)few[h], want, 2e-5);
    }
    finish(&p);
}
END_TEST

START_TEST(routes_places_and_gates)
{
    sv_ctx *c = test_context(1);
    float scores[] = {1, 3, 3, 2, -1, -1, -1, -1}, share[8];
    int32_t picks[4];
    assert_ok(c, sv_route(c, view(share, 2, 4), sv_view(picks, SV_I32, 2, 2), view(scores, 2, 4), 2));
    ck_assert(picks[0] == 1 && picks[1] == 2 && picks[2] == 0 && picks[3] == 1); /* ties: the lower column */
    ck_assert(share[0] == 0 && share[1] == 0.5f && share[2] == 0.5f && share[3] == 0);
    ck_assert(share[4] == 0.5f && share[5] == 0.5f && share[6] == 0 && share[7] == 0);

    float exponent[] = {0.5f, 1}, power[12], walked_before[] = {3, 0}, table[] = {1, 2}, place[6];
    sv_sequence seq = {.length = 3,
                       .reverse = true,
                       .state_in = view(walked_before, 2, 1),
                       .state_out = view(walked_before, 2, 1)};
    assert_ok(c, sv_position_power(c, view(power, 6, 2), view(exponent, 1, 2), false, &seq));
    for (int t = 0; t < 3; t++)
        for (int h = 0; h < 2; h++) {
            ck_assert_float_eq_tol(power[(2 - t) * 2 + h], (float)pow(4 + t, -(double)exponent[h]), 1e-6f);
            ck_assert_float_eq_tol(power[(5 - t) * 2 + h], (float)pow(1 + t, -(double)exponent[h]), 1e-6f);
        }
    ck_assert(walked_before[0] == 6 && walked_before[1] == 3);
    seq.state_in = seq.state_out = SV_NONE;
    assert_ok(c, sv_place_rows(c, view(place, 6, 1), view(table, 2, 1), &seq));
    ck_assert(place[2] == 1 && place[1] == 2 && place[0] == 1 && place[5] == 1);

    float log_a[] = {-1e-4f, -0.5f, -2, -0.1f}, x[] = {1, 2, 3, 4}, a[4], y[4], position[] = {5, 6, 0, 1};
    seq = (sv_sequence){.length = 4};
    assert_ok(c, sv_root_gates(c, view(a, 4, 1), view(y, 4, 1), view(log_a, 4, 1), view(x, 4, 1),
                               view(position, 4, 1), &seq));
    for (int t = 0; t < 4; t++) {
        ck_assert_double_eq_tol((double)a[t], t == 2 ? 0 : exp((double)log_a[t]), 1e-6);
        ck_assert_double_eq_tol((double)y[t],
                                (t == 2 ? 1 : sqrt(-expm1(2 * (double)log_a[t]))) * (double)x[t], 1e-5);
    }
    assert_ok(
        c, sv_root_gates(c, view(a, 4, 1), view(y, 4, 1), view(log_a, 4, 1), view(x, 4, 1), SV_NONE, &seq));
    ck_assert(a[0] == 0 && y[0] == 1 && a[2] > 0); /* a group begins */
    sv_ctx_close(c);
}
END_TEST

/* ---- operators without recordings: their definitions over all pairs of tokens ------------------------------ */

/* Runs a recurrence of the catalogue; 'in' by port, sizes as letters and numbers. */
typedef struct named_case {
    const char *name;
    sv_instance self;
    sv_tensor in[8];
    float *token[5];
    float *weight[2];
} named_case;

static sv_status call_named(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq)
{
    const named_case *k = arg;
    const sv_call call = {.of = &k->self, .in = k->in, .y = y, .seq = *seq};
    return sv_recurrence_run(c, &call);
}

static named_case make_named(problem *p, sv_arena *arena, const char *name, int tokens, int columns)
{
    named_case k = {.name = name, .self = {.type = sv_operator_find(name)->recurrence}};
    k.self.size['H'] = p->heads, k.self.size['K'] = k.self.size['V'] = columns / p->heads;
    k.self.size['D'] = columns, k.self.size['N'] = 2;
    for (int i = 0; i < tokens; i++) k.in[i] = slots(p, k.token[i] = per_slot(p, columns, 0.05, 1), columns);
    sv_arena_init(arena, "test", p->one->device);
    p->one->weights = arena;
    p->with_state = false;
    return k;
}

static void naive_galite(const problem *p, const void *arg, int group, double *want, double *state)
{
    const named_case *k = arg;
    const int heads = p->heads, n = k->self.size['K'], all = heads * n;
    double *in[5];
    for (int i = 0; i < 5; i++) in[i] = walked(p, k->token[i], group, all);
    (void)state;
    for (int h = 0; h < heads; h++) {
        double c[40][40] = {{0}}, s[40] = {0};
        for (int t = 0; t < p->length; t++) {
            const int at = t * all + h * n;
            double below = 1e-10, y[40] = {0};
            for (int i = 0; i < n; i++) {
                const double gamma = in[3][at + i], key = in[1][at + i];
                s[i] = (1 - gamma) * s[i] + gamma * key;
                below += in[0][at + i] * s[i];
                for (int j = 0; j < n; j++) {
                    const double gate = gamma * in[4][at + j];
                    c[i][j] = (1 - gate) * c[i][j] + gate * key * in[2][at + j];
                    y[j] += in[0][at + i] * c[i][j];
                }
            }
            for (int j = 0; j < n; j++) want[at + j] = y[j] / below;
        }
    }
    for (int i = 0; i < 5; i++) free(in[i]);
}

static void naive_jrt(const problem *p, const void *arg, int group, double *want, double *state)
{
    const named_case *k = arg;
    const int heads = p->heads, n = k->self.size['K'], all = heads * n;
    double *in[5];
    for (int i = 0; i < 5; i++) in[i] = walked(p, k->token[i], group, all);
    (void)state;
    for (int h = 0; h < heads; h++)
        for (int t = 0; t < p->length; t++) {
            double below = 1e-10, y[40] = {0};
            for (int s = 0; s < p->length; s++) {
                const double read = match(in[0], in[3], heads, n, h, t, s),
                             causal = s <= t ? match(in[0], in[1], heads, n, h, t, s) : 0;
                below += read + causal;
                for (int j = 0; j < n; j++)
                    y[j] += read * in[4][s * all + h * n + j] + causal * in[2][s * all + h * n + j];
            }
            for (int j = 0; j < n; j++) want[t * all + h * n + j] = y[j] / below;
        }
    for (int i = 0; i < 5; i++) free(in[i]);
}

static void naive_rat(const problem *p, const void *arg, int group, double *want, double *state)
{
    const named_case *k = arg;
    const int heads = p->heads, n = k->self.size['K'], all = heads * n;
    double *q = walked(p, k->token[0], group, all), *kk = walked(p, k->token[1], group, all),
           *v = walked(p, k->token[2], group, all), *g = walked(p, k->token[3], group, all);
    (void)state;
    for (int t = 0; t < p->length; t++)
        for (int i = 0; i < all; i++) {
            const int at = t * all + i;
            const double before_k = t % 16 ? kk[at - all] : 0, before_v = t % 16 ? v[at - all] : 0;
            kk[at] = g[at] * before_k + (1 - g[at]) * kk[at];
            v[at] = g[at] * before_v + (1 - g[at]) * v[at];
        }
    for (int h = 0; h < heads; h++)
        for (int t = 0; t < p->length; t++) {
            double below = 0, y[40] = {0};
            for (int s = 0; s <= t; s++) {
                if (s != t && s % 16 != 15) continue;
                const double weight = exp(match(q, kk, heads, n, h, t, s) / sqrt(n));
                below += weight;
                for (int j = 0; j < n; j++) y[j] += weight * v[s * all + h * n + j];
            }
            for (int j = 0; j < n; j++) want[t * all + h * n + j] = y[j] / below;
        }
    free(q), free(kk), free(v), free(g);
}

static void naive_re_wkv(const problem *p, const void *arg, int group, double *want, double *state)
{
    const named_case *k = arg;
    const int d = k->self.size['D'], length = p->length;
    double *kk = walked(p, k->token[0], group, d), *v = walked(p, k->token[1], group, d),
           *r = walked(p, k->token[2], group, d);
    (void)state;
    for (int repeat = 0; repeat < 2; repeat++) {
        for (int t = 0; t < length; t++)
            for (int i = 0; i < d; i++) {
                const double w = (double)k->weight[0][repeat * d + i],
                             u = (double)k->weight[1][repeat * d + i];
                double above = 0, below = 0;
                for (int s = 0; s < length; s++) {
                    const double weight = exp(kk[s * d + i] + (s == t ? u : -w * (abs(t - s) - 1)) / length);
                    above += weight * v[s * d + i];
                    below += weight;
                }
                want[t * d + i] = above / below;
            }
        memcpy(v, want, sizeof *v * (size_t)(length * d));
    }
    for (int i = 0; i < length * d; i++) want[i] *= r[i];
    free(kk), free(v), free(r);
}

START_TEST(operators_without_recordings)
{
    static const struct {
        const char *name;
        int tokens;
        oracle naive;
    } cases[] = {{"GaLiTe", 5, naive_galite},
                 {"JRT", 5, naive_jrt},
                 {"RAT", 4, naive_rat},
                 {"ReWKV", 3, naive_re_wkv}};
    problem p = begin(_i);
    sv_arena arena;
    const int columns = p.heads * pick(&p, 1, 40), which = _i % 4;
    named_case k = make_named(&p, &arena, cases[which].name, cases[which].tokens, columns);
    if (which == 3) {
        for (int i = 0; i < 2; i++) {
            k.weight[i] = uniform(&p, 2 * (size_t)columns, 0, 4);
            k.in[3 + i] = view(k.weight[i], 2, columns);
        }
    }
    if (k.self.type->prepare) assert_ok(p.one, k.self.type->prepare(p.one, &k.self));
    p.one->weights = NULL;
    compare(&p, k.name, call_named, cases[which].naive, &k, columns, 0, 0, 0, 2e-5);
    sv_arena_free(&arena);
    finish(&p);
}
END_TEST

/* ---- the papers' bars ------------------------------------------------------------------------------------- */

static int random_bits(test_rng *rng, float *bits, int count)
{
    int ones = 0;
    for (int i = 0; i < count; i++) ones += (bits[i] = (float)(rng_u64(rng) % 2)) > 0;
    return ones;
}

/* One state, k = 1, v = 0: S = (1 - beta) S. A bit of 1 has the steepest beta there is. */
static void run_parity(sv_ctx *c, const float *bits, float steepest, int count, float *y)
{
    float *ones = malloc(sizeof *ones * (size_t)count), *zeros = calloc((size_t)count, sizeof *zeros),
          *beta = malloc(sizeof *beta * (size_t)count), start = 1;
    ck_assert(ones && zeros && beta);
    for (int i = 0; i < count; i++) ones[i] = 1, beta[i] = steepest * bits[i];
    const sv_delta_inputs in = {.q = view(ones, count, 1),
                                .k = view(ones, count, 1),
                                .v = view(zeros, count, 1),
                                .beta = view(beta, count, 1)};
    const sv_delta_rule rule = {.heads = 1, .steps = 1, .scale = 1};
    const sv_sequence seq = {.length = count, .state_in = view(&start, 1, 1)};
    assert_ok(c, sv_delta_scan(c, view(y, count, 1), &in, &rule, &seq));
    free(ones), free(zeros), free(beta);
}

START_TEST(negative_eigenvalues_solve_parity)
{
    enum { COUNT = 4096 };
    static float bits[COUNT], y[COUNT], delta[COUNT], one[COUNT], zero[COUNT];
    test_rng rng = {3};
    sv_ctx *c = test_context(1);
    random_bits(&rng, bits, COUNT);
    run_parity(c, bits, 2, COUNT, y);
    for (int i = 0, parity = 0; i < COUNT; i++) {
        parity ^= bits[i] > 0;
        ck_assert_float_eq(y[i], parity ? -1 : 1);
    }
    /* with beta in (0,1) the state never changes its sign: after two ones it is not what it was after none */
    for (float steepest = 0.05f; steepest < 1; steepest += 0.05f) {
        run_parity(c, bits, steepest, COUNT, y);
        for (int i = 0; i < COUNT; i++) ck_assert_float_ge(y[i], 0);
    }
    /* Mamba: factors 2 e^(dt A) - 1 reach -1, factors e^(dt A) stay above 0 */
    float a = -30, b[COUNT], start = 1;
    for (int i = 0; i < COUNT; i++) delta[i] = bits[i], one[i] = 1, zero[i] = 0, b[i] = 0;
    for (int negative = 0; negative <= 1; negative++) {
        const sv_state_rule rule = {.kind = SV_STATE_SELECTIVE,
                                    .states = 1,
                                    .a = view(&a, 1, 1),
                                    .b = view(b, COUNT, 1),
                                    .c = view(one, COUNT, 1),
                                    .delta = view(delta, COUNT, 1),
                                    .scale = negative ? 2 : 1,
                                    .shift = negative ? -1 : 0};
        const sv_sequence seq = {.length = COUNT, .state_in = view(&start, 1, 1)};
        assert_ok(c, sv_state_scan(c, view(y, COUNT, 1), view(zero, COUNT, 1), &rule, &seq));
        for (int i = 0, parity = 0; i < COUNT; i++) {
            parity ^= bits[i] > 0;
            if (negative)
                ck_assert_float_eq_tol(y[i], parity ? -1 : 1, 1e-3f);
            else
                ck_assert_float_ge(y[i], 0);
        }
    }
    sv_ctx_close(c);
}
END_TEST

/* A state of two numbers, R reflections at 'angles' per bit of 1; y: its two numbers after each token. */
static void run_reflections(sv_ctx *c, const float *bits, int count, int steps, const double *angles,
                            const double *beta, float *y)
{
    float *q = malloc(sizeof *q * 4 * (size_t)count), *k = malloc(sizeof *k * 4 * (size_t)(count * steps)),
          *v = calloc(2 * (size_t)(count * steps), sizeof *v),
          *b = malloc(sizeof *b * 2 * (size_t)(count * steps)), start[] = {1, 0, 1, 0};
    ck_assert(q && k && v && b);
    for (int i = 0; i < count; i++) {
        q[4 * i] = 1, q[4 * i + 1] = 0, q[4 * i + 2] = 0,
              q[4 * i + 3] = 1; /* two heads read one number each */
        for (int s = 0; s < steps; s++)
            for (int h = 0; h < 2; h++) {
                float *key = k + ((i * steps + s) * 2 + h) * 2;
                key[0] = (float)cos(angles[s]), key[1] = (float)sin(angles[s]);
                b[(i * steps + s) * 2 + h] = (float)beta[s] * bits[i];
            }
    }
    const sv_delta_inputs in = {.q = view(q, count, 4),
                                .k = view(k, count, 4 * steps),
                                .v = view(v, count, 2 * steps),
                                .beta = view(b, count, 2 * steps)};
    const sv_delta_rule rule = {.heads = 2, .steps = steps, .scale = 1};
    const sv_sequence seq = {.length = count, .state_in = view(start, 1, 4)};
    assert_ok(c, sv_delta_scan(c, view(y, count, 2), &in, &rule, &seq));
    free(q), free(k), free(v), free(b);
}

START_TEST(two_householder_steps_count_modulo_3)
{
    enum { COUNT = 3000 };
    static float bits[COUNT], y[2 * COUNT];
    const double third = 2 * acos(-1.0) / 3, angles[] = {0, third / 2}, beta[] = {2, 2};
    test_rng rng = {9};
    sv_ctx *c = test_context(1);
    random_bits(&rng, bits, COUNT);
    run_reflections(c, bits, COUNT, 2, angles, beta, y);
    for (int i = 0, sum = 0; i < COUNT; i++) {
        sum = (sum + (bits[i] > 0)) % 3;
        /* the state stands at one of three angles */
        ck_assert_double_eq_tol((double)y[2 * i], cos(sum * third), 1e-3);
        ck_assert_double_eq_tol(fabs((double)y[2 * i + 1]), fabs(sin(sum * third)), 1e-3);
    }
    /* One step is a symmetric matrix: where three of them bring the state back, one already does. */
    float ones[3] = {1, 1, 1};
    int returns = 0;
    for (double angle = 0; angle < 3.15; angle += 0.05)
        for (double steep = 0; steep <= 2; steep += 0.05) {
            run_reflections(c, ones, 3, 1, &angle, &steep, y);
            const double one = hypot((double)y[0] - 1, (double)y[1]),
                         three = hypot((double)y[4] - 1, (double)y[5]);
            if (three < 1e-4) {
                ck_assert_double_lt(one, 1e-4);
                returns++;
            }
        }
    ck_assert_int_gt(returns, 0);
    sv_ctx_close(c);
}
END_TEST

/* o = (W . mask) V with W_ij = q_i.k_j e^(c_i - c_j): the attention matrix a gated linear RNN implies. */
START_TEST(implicit_attention_matrix)
{
    problem p = begin(_i);
    const int heads = p.heads, keys = p.keys, values = p.values;
    float *q = per_slot(&p, heads * keys, -1, 1), *k = per_slot(&p, heads * keys, -1, 1),
          *v = per_slot(&p, heads * values, -1, 1), *g = per_slot(&p, heads * keys, -1, 0),
          *y = per_slot(&p, heads * values, 0, 0);
    const sv_decay_rule rule = {.heads = heads, .decay = SV_DECAY_CHANNEL, .scale = 1};
    const sv_sequence seq = {.length = p.length};
    assert_ok(p.one, sv_decay_scan(p.one, slots(&p, y, heads * values), slots(&p, q, heads * keys),
                                   slots(&p, k, heads * keys), slots(&p, v, heads * values),
                                   slots(&p, g, heads * keys), SV_NONE, &rule, &seq, false));
    for (int group = 0; group < p.groups; group++)
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < p.length; i++) {
                double out[40] = {0}, since[20] = {0};
                for (int j = i; j >= 0; j--) {
                    const int a = group * p.length + i, b = group * p.length + j;
                    double weight = 0;
                    for (int c = 0; c < keys; c++) {
                        weight += (double)q[(a * heads + h) * keys + c] *
                                  (double)k[(b * heads + h) * keys + c] * exp(since[c]);
                        since[c] += (double)g[(b * heads + h) * keys + c];
                    }
                    for (int c = 0; c < values; c++)
                        out[c] += weight * (double)v[(b * heads + h) * values + c];
                }
                for (int c = 0; c < values; c++)
                    ck_assert_double_eq_tol((double)y[((group * p.length + i) * heads + h) * values + c],
                                            out[c], 1e-4);
            }
    finish(&p);
}
END_TEST

/* 65 536 tokens: means stay means, a delta memory of unit keys settles, a sum without decay does not. */
START_TEST(states_stay_bounded)
{
    enum { COUNT = 65536, KEYS = 8 };
    test_rng rng = {21};
    float *q = malloc(sizeof *q * COUNT * KEYS), *v = malloc(sizeof *v * COUNT * KEYS),
          *beta = malloc(sizeof *beta * COUNT), *y = malloc(sizeof *y * COUNT * KEYS),
          *x = malloc(sizeof *x * COUNT), *share = malloc(sizeof *share * COUNT),
          *decay = malloc(sizeof *decay * COUNT), *mean = malloc(sizeof *mean * COUNT),
          *one = malloc(sizeof *one * COUNT);
    ck_assert(q && v && beta && y && x && share && decay && mean && one);
    for (int i = 0; i < COUNT; i++) {
        double square = 0;
        for (int j = 0; j < KEYS; j++) {
            q[i * KEYS + j] = (float)rng_normal(&rng);
            v[i * KEYS + j] = (float)rng_uniform(&rng, -1, 1);
            square += pow((double)q[i * KEYS + j], 2);
        }
        for (int j = 0; j < KEYS; j++) q[i * KEYS + j] /= (float)sqrt(square);
        beta[i] = (float)rng_uniform(&rng, 0, 1);
        x[i] = (float)rng_uniform(&rng, -5, 5);
        one[i] = 1;
    }
    sv_ctx *c = test_context(1);
    float half[KEYS * KEYS], end[KEYS * KEYS];
    const sv_delta_inputs in = {.q = view(q, COUNT, KEYS),
                                .k = view(q, COUNT, KEYS),
                                .v = view(v, COUNT, KEYS),
                                .beta = view(beta, COUNT, 1)};
    const sv_delta_rule rule = {.heads = 1, .steps = 1, .scale = 1};
    sv_sequence seq = {.length = 1024, .state_out = view(half, 1, KEYS * KEYS)};
    sv_delta_inputs first = in;
    first.q.dim[0] = first.k.dim[0] = first.v.dim[0] = first.beta.dim[0] = 1024;
    assert_ok(c, sv_delta_scan(c, view(y, 1024, KEYS), &first, &rule, &seq));
    seq = (sv_sequence){.length = COUNT, .state_out = view(end, 1, KEYS * KEYS)};
    assert_ok(c, sv_delta_scan(c, view(y, COUNT, KEYS), &in, &rule, &seq));
    double norm[2] = {0, 0};
    for (int i = 0; i < KEYS * KEYS; i++)
        norm[0] += pow((double)half[i], 2), norm[1] += pow((double)end[i], 2);
    ck_assert_double_lt(norm[1], 4 * norm[0]);

    seq = (sv_sequence){.length = COUNT};
    const sv_decay_rule head = {.heads = 1, .decay = SV_DECAY_TOKEN, .scale = 1};
    assert_ok(
        c, sv_log_sum_scan(c, view(share, COUNT, 1), view(decay, COUNT, 1), view(x, COUNT, 1), &seq, false));
    sv_tensor values = view(v, COUNT, KEYS);
    values = sv_columns(values, 0, 1);
    assert_ok(c, sv_decay_scan(c, view(mean, COUNT, 1), view(one, COUNT, 1), view(share, COUNT, 1), values,
                               view(decay, COUNT, 1), SV_NONE, &head, &seq, false));
    double sum = 0, weights = 0;
    for (int i = 0; i < COUNT; i++) {
        sum += exp((double)x[i]) * (double)v[i * KEYS];
        weights += exp((double)x[i]);
        ck_assert_double_eq_tol((double)mean[i], sum / weights, 2e-5);
    }
    free(q), free(v), free(beta), free(y), free(x), free(share), free(decay), free(mean), free(one);
    sv_ctx_close(c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cores");
    TCase *cores = tcase_create("cores"), *bars = tcase_create("bars");
    tcase_add_loop_test(cores, delta_rule, 0, 2 * ROUNDS);
    tcase_add_loop_test(cores, diagonal, 0, ROUNDS);
    tcase_add_loop_test(cores, log_sum, 0, ROUNDS);
    tcase_add_test(cores, log_sum_begins_empty);
    tcase_add_loop_test(cores, states, 0, ROUNDS);
    tcase_add_loop_test(cores, dense, 0, ROUNDS);
    tcase_add_loop_test(cores, second_order, 0, ROUNDS);
    tcase_add_loop_test(cores, taylor, 0, ROUNDS);
    tcase_add_loop_test(cores, attention, 0, ROUNDS);
    tcase_add_loop_test(cores, mesa, 0, ROUNDS);
    tcase_add_loop_test(cores, cells, 0, ROUNDS);
    tcase_add_loop_test(cores, mixer, 0, ROUNDS);
    tcase_add_loop_test(cores, test_time_training, 0, ROUNDS);
    tcase_add_loop_test(cores, miras, 0, ROUNDS);
    tcase_add_loop_test(cores, rows_of_heads, 0, ROUNDS);
    tcase_add_test(cores, routes_places_and_gates);
    tcase_add_loop_test(cores, operators_without_recordings, 0, 2 * ROUNDS);
    tcase_add_loop_test(bars, newton_reaches_the_walk, 0, 8);
    tcase_add_test(bars, negative_eigenvalues_solve_parity);
    tcase_add_test(bars, two_householder_steps_count_modulo_3);
    tcase_add_loop_test(bars, implicit_attention_matrix, 0, ROUNDS);
    tcase_add_test(bars, states_stay_bounded);
    tcase_set_timeout(cores, 120);
    tcase_set_timeout(bars, 120);
    suite_add_tcase(suite, cores);
    suite_add_tcase(suite, bars);
    return run_suite(suite, true);
}
