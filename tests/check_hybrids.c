/* SPDX-License-Identifier: Apache-2.0
 *
 * Operators that nobody recorded, against double-precision forms derived independently of how they are
 * composed: attention to quantised keys instead of sums over codewords, gradients by differences instead of
 * formulas, convolutions as sums.
 */
#include "support_walk.h"

#include "backbones/operator.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 24, WIDE = 64 };

/* An operator's recurrence with a random tensor for every port. */
typedef struct hybrid {
    const char *name;
    sv_instance self;
    sv_tensor in[SV_MAX_PORTS];
    float *data[SV_MAX_PORTS];
} hybrid;

static int port_of(const hybrid *k, const char *name)
{
    for (int i = 0; k->self.type->ports[i].kind != SV_PORT_END; i++)
        if (k->self.type->ports[i].name && strcmp(k->self.type->ports[i].name, name) == 0) return i;
    ck_abort_msg("%s has no port '%s'", k->name, name);
    return -1;
}

static const float *weight(const hybrid *k, const char *name)
{
    return k->data[port_of(k, name)];
}

static double *rows(const problem *p, const hybrid *k, const char *name, int group)
{
    const int port = port_of(k, name);
    return walked(p, k->data[port], group, sv_port_columns(&k->self, port));
}

static sv_status call_hybrid(sv_ctx *c, const void *arg, sv_tensor y, const sv_sequence *seq)
{
    const hybrid *k = arg;
    const sv_call call = {.of = &k->self, .in = k->in, .y = y, .seq = *seq};
    return sv_recurrence_run(c, &call);
}

static void fill_ports(problem *p, hybrid *k, double from, double to)
{
    const sv_port *ports = k->self.type->ports;
    for (int i = 0; ports[i].kind != SV_PORT_END; i++) {
        if (ports[i].kind == SV_PORT_NUMBER) k->self.number[i] = ports[i].value;
        if (ports[i].kind != SV_PORT_TOKEN && ports[i].kind != SV_PORT_WEIGHT) continue;
        const int columns = sv_port_columns(&k->self, i);
        const bool share = ports[i].make.map == SV_MAP_sigmoid || ports[i].make.map == SV_MAP_elu_one;
        const double gain = ports[i].make.gain != 0 ? (double)ports[i].make.gain : 1;
        if (ports[i].kind == SV_PORT_TOKEN)
            k->in[i] = slots(
                p, k->data[i] = per_slot(p, columns, share ? 0.05 * gain : from, share ? gain : to), columns);
        if (ports[i].kind != SV_PORT_WEIGHT) continue;
        const char *core = sv_port_core(&ports[i]);
        const int first = core[0] >= 'A' ? k->self.size[(int)core[0]] : core[0] - '0';
        k->data[i] = uniform(p, (size_t)columns, -1, 1);
        k->in[i] = k->self.host[i] = k->self.weight[i] = view(k->data[i], first, columns / first);
    }
}

/* ---- shared formulas ----------------------------------------------------------------------------------- */

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}
static double silu(double x)
{
    return x * sigmoid(x);
}

/* out[t] = w x[t], w [rows, columns] */
static double *times(const float *w, const double *x, int length, int count, int columns)
{
    double *out = calloc((size_t)(length * count) + 1, sizeof *out);
    ck_assert_ptr_nonnull(out);
    for (int t = 0; t < length; t++)
        for (int r = 0; r < count; r++)
            for (int i = 0; i < columns; i++)
                out[t * count + r] += (double)w[r * columns + i] * x[t * columns + i];
    return out;
}

/* y = softmax over the 'count' tokens seen[] of scale q_t.k_s, of v; nothing seen: 0 */
static void softmax_of(double *y, const double *q, const double *k, const double *v, int heads, int keys,
                       int values, int head, int t, const int *seen, int count)
{
    double below = 0;
    for (int j = 0; j < values; j++) y[j] = 0;
    for (int i = 0; i < count; i++) {
        const double share = exp(match(q, k, heads, keys, head, t, seen[i]) / sqrt(keys));
        below += share;
        for (int j = 0; j < values; j++) y[j] += share * v[(seen[i] * heads + head) * values + j];
    }
    for (int j = 0; j < values && count > 0; j++) y[j] /= below;
}

/* SiLU of the moving averages as a convolution, and omega x. */
static double *averages(const hybrid *k, const double *x, int length)
{
    const int d = k->self.size['D'], n = k->self.size['N'];
    const float *delta = weight(k, "delta"), *alpha = weight(k, "alpha"), *beta = weight(k, "beta"),
                *gamma = weight(k, "gamma"), *omega = weight(k, "omega");
    double *h = calloc((size_t)(length * d) + 1, sizeof *h);
    ck_assert_ptr_nonnull(h);
    for (int i = 0; i < d; i++)
        for (int t = 0; t < length; t++) {
            double sum = (double)omega[i] * x[t * d + i];
            for (int s = 0; s <= t; s++)
                for (int m = 0; m < n; m++) {
                    const double p = sigmoid((double)delta[i * n + m]),
                                 keep = 1 - p * sigmoid((double)alpha[i * n + m]);
                    sum += (double)gamma[i * n + m] / sqrt(n) * pow(keep, t - s) * p *
                           (double)beta[i * n + m] * x[s * d + i];
                }
            h[t * d + i] = silu(sum);
        }
    return h;
}

/* ---- the operators ------------------------------------------------------------------------------------- */

static void naive_agalite(const problem *p, const void *arg, int group, double *want, double *state)
{
    const hybrid *m = arg;
    const int heads = p->heads, n = m->self.size['K'], all = heads * n, waves = m->self.size['R'];
    double *q = rows(p, m, "q", group), *k = rows(p, m, "k", group), *v = rows(p, m, "v", group),
           *gamma = rows(p, m, "gamma", group), *beta = rows(p, m, "beta", group);
    (void)state;
    for (int h = 0; h < heads; h++)
        for (int t = 0; t < p->length; t++) { /* sums over what every earlier token left, no recurrence */
            double below = 1e-10, y[WIDE] = {0};
            for (int r = -1; r < waves; r++) {
                double match_r = 0, value[WIDE] = {0};
                for (int i = 0; i < n; i++) {
                    double left = 1, kept = 1, sum = 0;
                    for (int s = t; s >= 0; s--) {
                        const int at = s * all + h * n + i;
                        const double wave =
                            r < 0 ? 1
                                  : cos((s + 1) *
                                        (waves > 1 ? 2 * acos(-1) * r / (waves - 1) - acos(-1) : -acos(-1)));
                        sum += left * wave * gamma[at] * k[at];
                        value[i] += kept * wave * beta[at] * v[at];
                        left *= 1 - gamma[at], kept *= 1 - beta[at];
                    }
                    match_r += sum * q[t * all + h * n + i];
                }
                if (r < 0) below += 2 * waves * match_r;
                for (int i = 0; i < n && r >= 0; i++) y[i] += value[i] * match_r;
            }
            for (int i = 0; i < n; i++) want[t * all + h * n + i] = y[i] / below;
        }
    free(q), free(k), free(v), free(gamma), free(beta);
}

static void naive_scout(const problem *p, const void *arg, int group, double *want, double *state)
{
    const hybrid *m = arg;
    const int heads = p->heads, n = m->self.size['K'], e = heads * n, d = m->self.size['D'],
              length = p->length;
    double *x = rows(p, m, "x", group), *q = rows(p, m, "q", group), *k = rows(p, m, "k", group),
           *v = rows(p, m, "v", group), *mixed = calloc((size_t)(length * e) + 1, sizeof *mixed);
    int *seen = calloc((size_t)length + 1, sizeof *seen);
    ck_assert(mixed && seen);
    (void)state;
    for (int t = 0; t < length; t++) {
        int count = 0;
        for (int s = t > 31 ? t - 31 : 0; s <= t; s++) seen[count++] = s;
        for (int h = 0; h < heads; h++)
            softmax_of(mixed + (t * heads + h) * n, q, k, v, heads, n, n, h, t, seen, count);
    }
    double *out = times(weight(m, "W_o"), mixed, length, d, e);
    for (int i = 0; i < length * d; i++) x[i] += out[i];
    double *q2 = times(weight(m, "W_q"), x, length, e, d), *k2 = times(weight(m, "W_k"), x, length, e, d),
           *v2 = times(weight(m, "W_v"), x, length, e, d);
    for (int t = 0; t < length; t++) {
        int count = 0;
        for (int s = 31; s < t; s += 32) seen[count++] = s;
        seen[count++] = t;
        for (int h = 0; h < heads; h++)
            softmax_of(want + (t * heads + h) * n, q2, k2, v2, heads, n, n, h, t, seen, count);
    }
    free(x), free(q), free(k), free(v), free(mixed), free(seen), free(out), free(q2), free(k2), free(v2);
}

static void naive_long_vq(const problem *p, const void *arg, int group, double *want, double *state)
{
    const hybrid *m = arg;
    const int heads = p->heads, n = m->self.size['K'], values = m->self.size['V'], d = m->self.size['D'],
              e = heads * n, codes = m->self.size['M'], length = p->length;
    const float *book = weight(m, "codebook");
    double *x = rows(p, m, "x", group), *v = rows(p, m, "v", group), *h = averages(m, x, length),
           *q = times(weight(m, "W_q"), h, length, e, d), *k = times(weight(m, "W_k"), h, length, e, d);
    int *seen = calloc((size_t)length + 1, sizeof *seen);
    ck_assert_ptr_nonnull(seen);
    (void)state;
    for (int t = 0; t < length; t++) {
        seen[t] = t;
        for (int head = 0; head < heads; head++) {
            double nearest = INFINITY, *key = k + (t * heads + head) * n;
            int best = 0;
            for (int c = 0; c < codes; c++) {
                double square = 0;
                for (int i = 0; i < n; i++)
                    square += pow(key[i] - (double)book[(head * codes + c) * n + i], 2);
                if (square < nearest) nearest = square, best = c;
            }
            for (int i = 0; i < n; i++) key[i] = (double)book[(head * codes + best) * n + i];
        }
        for (int head = 0; head < heads; head++)
            softmax_of(want + (t * heads + head) * values, q, k, v, heads, n, values, head, t, seen, t + 1);
    }
    free(x), free(v), free(h), free(q), free(k), free(seen);
}

static void naive_tcnca(const problem *p, const void *arg, int group, double *want, double *state)
{
    const hybrid *m = arg;
    const int heads = p->heads, n = m->self.size['K'], values = m->self.size['V'], d = m->self.size['D'],
              e = heads * n, taps = m->self.size['P'], chunk = m->self.size['W'], length = p->length;
    const float *w = weight(m, "conv"), *bias = weight(m, "conv_bias");
    double *x = rows(p, m, "x", group), *v = rows(p, m, "v", group);
    int *seen = calloc((size_t)length + 1, sizeof *seen);
    ck_assert_ptr_nonnull(seen);
    (void)state;
    for (int layer = 0; layer < m->self.size['N']; layer++)
        for (int t = length - 1; t >= 0; t--) /* from the end: earlier rows are still the layer's input */
            for (int i = 0; i < d; i++) {
                double sum = (double)bias[layer * d + i];
                for (int j = 0; j < taps; j++)
                    if (t - (j << layer) >= 0)
                        sum +=
                            (double)w[(layer * d + i) * taps + taps - 1 - j] * x[(t - (j << layer)) * d + i];
                x[t * d + i] += silu(sum);
            }
    double *q = times(weight(m, "W_q"), x, length, e, d), *k = times(weight(m, "W_k"), x, length, e, d);
    for (int t = 0; t < length; t++) {
        int count = 0;
        for (int s = t / chunk * chunk; s <= t; s++) seen[count++] = s;
        for (int h = 0; h < heads; h++)
            softmax_of(want + (t * heads + h) * values, q, k, v, heads, n, values, h, t, seen, count);
    }
    free(x), free(v), free(q), free(k), free(seen);
}

static void naive_seq_boat(const problem *p, const void *arg, int group, double *want, double *state)
{
    const hybrid *m = arg;
    const int heads = p->heads, n = m->self.size['K'], values = m->self.size['V'], d = m->self.size['D'],
              e = heads * n, f = heads * values, window = m->self.size['W'], length = p->length;
    const float *bias = weight(m, "b_active");
    double *x = rows(p, m, "x", group), *v = rows(p, m, "v", group), *h = averages(m, x, length),
           *q = times(weight(m, "W_q"), h, length, e, d), *k = times(weight(m, "W_k"), h, length, e, d),
           *skip = times(weight(m, "W_h"), h, length, f, d),
           *score = times(weight(m, "W_active"), h, length, 2, d);
    int *active = calloc((size_t)length + 1, sizeof *active), count = 0;
    ck_assert_ptr_nonnull(active);
    (void)state;
    for (int t = 0; t < length; t++) {
        const double share = sigmoid(score[2 * t + 1] + (double)bias[1] - score[2 * t] - (double)bias[0]);
        if (share > 0.5) active[count++] = t;
        const int first = count > window ? count - window : 0;
        for (int head = 0; head < heads; head++) {
            double *y = want + (t * heads + head) * values;
            softmax_of(y, q, k, v, heads, n, values, head, t, active + first,
                       share > 0.5 ? count - first : 0);
            for (int j = 0; j < values; j++)
                y[j] = silu(share * y[j] + skip[(t * heads + head) * values + j]);
        }
    }
    free(x), free(v), free(h), free(q), free(k), free(skip), free(score), free(active);
}

static void naive_block_recurrent(const problem *p, const void *arg, int group, double *want, double *state)
{
    const hybrid *m = arg;
    const int heads = p->heads, n = m->self.size['K'], e = heads * n, d = m->self.size['D'],
              count = m->self.size['N'], window = m->self.size['W'], length = p->length;
    const float *start = weight(m, "states"), *wz = weight(m, "W_z"), *bias = weight(m, "b_z"),
                *gate = weight(m, "gate");
    double *q = rows(p, m, "q", group), *cross = rows(p, m, "q_cross", group), *k = rows(p, m, "k", group),
           *v = rows(p, m, "v", group), *s = calloc((size_t)(count * d) + 1, sizeof *s);
    int *seen = calloc((size_t)(length + count) + 1, sizeof *seen),
        *all = calloc((size_t)count + 1, sizeof *all);
    ck_assert(s && seen && all);
    (void)state;
    for (int i = 0; i < count * d; i++) s[i] = (double)start[i];
    for (int i = 0; i < count; i++) all[i] = i;
    for (int first = 0; first < length; first += 16) {
        const int end = first + 16 < length ? first + 16 : length;
        double *own = times(weight(m, "W_self"), s, count, e, d),
               *ask = times(weight(m, "W_cross"), s, count, e, d),
               *key = times(weight(m, "W_k"), s, count, e, d),
               *value = times(weight(m, "W_v"), s, count, e, d);
        for (int t = first; t < end; t++)
            for (int h = 0; h < heads; h++) {
                int near = 0;
                for (int j = t >= window ? t - window + 1 : 0; j <= t; j++) seen[near++] = j;
                softmax_of(want + (t * 2 * heads + h) * n, q, k, v, heads, n, n, h, t, seen, near);
                softmax_of(want + ((t * 2 + 1) * heads + h) * n, cross, key, value, heads, n, n, h, t, all,
                           count);
            }
        int near = 0;
        for (int t = first; t < end; t++) seen[near++] = t;
        for (int i = 0; i < count; i++) {
            double both[2 * WIDE];
            for (int h = 0; h < heads; h++) {
                softmax_of(both + h * n, own, key, value, heads, n, n, h, i, all, count);
                softmax_of(both + e + h * n, ask, k, v, heads, n, n, h, i, seen, near);
            }
            for (int j = 0; j < d; j++) {
                double z = (double)bias[j];
                for (int c = 0; c < 2 * e; c++) z += (double)wz[j * 2 * e + c] * both[c];
                const double keep = sigmoid((double)gate[j]);
                s[i * d + j] = keep * s[i * d + j] + (1 - keep) * z;
            }
        }
        free(own), free(ask), free(key), free(value);
    }
    free(q), free(cross), free(k), free(v), free(s), free(seen), free(all);
}

/* ---- memories: gradients by differences ---------------------------------------------------------------- */

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}

static void ask_perceptron(const double *w, const double *x, double *y, int n, int hidden)
{
    for (int j = 0; j < n; j++) y[j] = 0;
    for (int f = 0; f < hidden; f++) {
        double z = 0;
        for (int i = 0; i < n; i++) z += x[i] * w[i * hidden + f];
        for (int j = 0; j < n; j++) y[j] += gelu(z) * w[n * hidden + f * n + j];
    }
}

static double perceptron_loss(const double *w, const double *k, const double *v, int n, int hidden)
{
    double y[WIDE], sum = 0;
    ask_perceptron(w, k, y, n, hidden);
    for (int j = 0; j < n; j++) sum += 0.5 * (y[j] - v[j]) * (y[j] - v[j]);
    return sum;
}

static void naive_titans(const problem *p, const void *arg, int group, double *want, double *state)
{
    const hybrid *m = arg;
    const int heads = p->heads, n = m->self.size['K'], hidden = m->self.size['F'], size = 2 * n * hidden;
    double *q = rows(p, m, "q", group), *k = rows(p, m, "k", group), *v = rows(p, m, "v", group),
           *theta = rows(p, m, "theta", group), *alpha = rows(p, m, "alpha", group),
           *eta = rows(p, m, "eta", group);
    (void)state;
    for (int h = 0; h < heads; h++) {
        double w[512], s[512] = {0}, start[512];
        ck_assert_int_le(size, 512);
        for (int i = 0; i < size; i++)
            w[i] = (double)(i < size / 2 ? weight(m, "W1")[h * n * hidden + i]
                                         : weight(m, "W2")[h * n * hidden + i - size / 2]);
        for (int t = 0; t < p->length; t++) {
            const int at = (t * heads + h) * n, one = t * heads + h;
            if (t % 16 == 0) memcpy(start, w, sizeof w);
            for (int i = 0; i < size; i++) {
                const double kept = start[i], step = 1e-4;
                double loss[4];
                for (int side = 0; side < 4; side++) {
                    start[i] = kept + (const double[]){-2, -1, 1, 2}[side] * step;
                    loss[side] = perceptron_loss(start, k + at, v + at, n, hidden);
                }
                start[i] = kept;
                const double slope = (loss[0] - 8 * loss[1] + 8 * loss[2] - loss[3]) / (12 * step);
                s[i] = eta[one] * s[i] - theta[one] * slope;
                w[i] = (1 - alpha[one]) * w[i] + s[i];
            }
            ask_perceptron(w, q + at, want + at, n, hidden);
        }
    }
    free(q), free(k), free(v), free(theta), free(alpha), free(eta);
}

static int monomials(double *phi, const double *x, int n)
{
    int count = 0;
    phi[count++] = 1;
    for (int i = 0; i < n; i++) phi[count++] = x[i];
    for (int i = 0; i < n; i++)
        for (int j = i; j < n; j++) phi[count++] = x[i] * x[j];
    return count;
}

/* x = a x + b (x x')x + c (x x')(x x')x, five times, from x / |x|; x [f,n] */
static void newton_schulz(double *x, int f, int n)
{
    double norm = 0, gram[40][40], once[40 * 8], twice[40 * 8];
    for (int i = 0; i < f * n; i++) norm += x[i] * x[i];
    for (int i = 0; i < f * n && norm > 0; i++) x[i] /= sqrt(norm);
    for (int turn = 0; turn < 5; turn++) {
        for (int i = 0; i < f; i++)
            for (int j = 0; j < f; j++) {
                gram[i][j] = 0;
                for (int c = 0; c < n; c++) gram[i][j] += x[i * n + c] * x[j * n + c];
            }
        for (int pass = 0; pass < 2; pass++)
            for (int i = 0; i < f; i++)
                for (int c = 0; c < n; c++) {
                    double sum = 0;
                    for (int j = 0; j < f; j++) sum += gram[i][j] * (pass ? once : x)[j * n + c];
                    (pass ? twice : once)[i * n + c] = sum;
                }
        for (int i = 0; i < f * n; i++) x[i] = 3.4445 * x[i] - 4.7750 * once[i] + 2.0315 * twice[i];
    }
}

static void naive_atlas(const problem *p, const void *arg, int group, double *want, double *state)
{
    const hybrid *m = arg;
    const int heads = p->heads, n = m->self.size['K'], window = m->self.size['W'];
    double *q = rows(p, m, "q", group), *k = rows(p, m, "k", group), *v = rows(p, m, "v", group),
           *theta = rows(p, m, "theta", group), *alpha = rows(p, m, "alpha", group),
           *eta = rows(p, m, "eta", group), *gamma = rows(p, m, "gamma", group);
    (void)state;
    for (int h = 0; h < heads; h++) {
        double memory[40 * 8] = {0}, s[40 * 8] = {0}, x[40 * 8], phi[40];
        int f = 0;
        for (int t = 0; t < p->length; t++) {
            const int one = t * heads + h;
            double slope[40 * 8] = {0};
            for (int i = t >= window ? t - window + 1 : 0; i <= t; i++) {
                f = monomials(phi, k + (i * heads + h) * n, n);
                for (int j = 0; j < n; j++) {
                    double error = -v[(i * heads + h) * n + j];
                    for (int r = 0; r < f; r++) error += phi[r] * memory[r * n + j];
                    for (int r = 0; r < f; r++) slope[r * n + j] += gamma[i * heads + h] * phi[r] * error;
                }
            }
            for (int i = 0; i < f * n; i++) x[i] = s[i] = theta[one] * s[i] + slope[i];
            newton_schulz(x, f, n);
            for (int i = 0; i < f * n; i++) memory[i] = (1 - alpha[one]) * memory[i] - eta[one] * x[i];
            monomials(phi, q + one * n, n);
            for (int j = 0; j < n; j++) {
                want[one * n + j] = 0;
                for (int r = 0; r < f; r++) want[one * n + j] += phi[r] * memory[r * n + j];
            }
        }
    }
    free(q), free(k), free(v), free(theta), free(alpha), free(eta), free(gamma);
}

/* ---- all of them --------------------------------------------------------------------------------------- */

START_TEST(operators_nobody_recorded)
{
    static const struct {
        const char *name, *result; /* letters of the result */
        oracle naive;
        double tolerance;
    } cases[] = {
        {"AGaLiTe", "HV", naive_agalite, 2e-5},  {"SCOUT", "HK", naive_scout, 5e-5},
        {"LongVQ", "HV", naive_long_vq, 5e-5},   {"TCNCA", "HV", naive_tcnca, 1e-4},
        {"SeqBoat", "HV", naive_seq_boat, 5e-5}, {"BlockRecurrent", "F", naive_block_recurrent, 5e-5},
        {"TitansMLP", "HK", naive_titans, 2e-5}, {"ATLAS", "HK", naive_atlas, 1e-4}};
    enum { CASES = sizeof cases / sizeof cases[0] };
    const int which = _i % CASES;
    problem p = begin(_i);
    hybrid k = {.name = cases[which].name, .self = {.type = sv_operator_find(cases[which].name)->recurrence}};
    int *size = k.self.size;
    const int width = pick(&p, 1, 5);
    size['H'] = p.heads, size['K'] = size['V'] = width;
    size['E'] = p.heads * width, size['D'] = pick(&p, 1, 9), size['N'] = pick(&p, 1, 3),
    size['M'] = pick(&p, 2, 7);
    size['R'] = pick(&p, 1, 9), size['P'] = pick(&p, 1, 3), size['W'] = pick(&p, 1, 20);
    size['F'] = which == 5 ? 2 * size['E'] : which == 6 ? pick(&p, 1, 9) : p.heads * width;
    if (which == 7) size['W'] = pick(&p, 1, 5);
    if (k.self.type->follow) k.self.type->follow(&k.self);
    fill_ports(&p, &k, -1, 1);
    sv_arena arena;
    sv_arena_init(&arena, "test", p.one->device);
    p.one->weights = &arena;
    p.with_state = false;
    if (k.self.type->prepare) assert_ok(p.one, k.self.type->prepare(p.one, &k.self));
    p.one->weights = NULL;
    compare(&p, k.name, call_hybrid, cases[which].naive, &k, sv_layout_columns(&k.self, cases[which].result),
            0, 0, 0, cases[which].tolerance);
    sv_arena_free(&arena);
    finish(&p);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("hybrids");
    TCase *operators = tcase_create("operators");
    tcase_add_loop_test(operators, operators_nobody_recorded, 0, 8 * ROUNDS);
    tcase_set_timeout(operators, 120);
    suite_add_tcase(suite, operators);
    return run_suite(suite, true);
}
