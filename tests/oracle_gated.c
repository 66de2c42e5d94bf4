/* SPDX-License-Identifier: Apache-2.0 */
#include "oracle_gated.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double *numbers(size_t count)
{
    double *values = calloc(count + 1, sizeof *values);
    if (!values) abort();
    return values;
}

static int row_of(const oracle_sequence *seq, int group, int t)
{
    const int slot = group * seq->length + (seq->reverse ? seq->length - 1 - t : t);
    return seq->index ? seq->index[slot] : slot;
}
static int slot_of(const oracle_sequence *seq, int group, int t)
{
    return group * seq->length + (seq->reverse ? seq->length - 1 - t : t);
}

/* Columns first..first+count-1 of the group's rows in walking order; rows below zero are zeros. */
static double *walk(const double *x, int pitch, int first, int count, int group, const oracle_sequence *seq)
{
    double *out = numbers((size_t)seq->length * (size_t)count);
    for (int t = 0; t < seq->length; t++)
        for (int i = 0; i < count; i++) {
            const int row = row_of(seq, group, t);
            out[t * count + i] = row < 0 ? 0 : x[(size_t)row * (size_t)pitch + (size_t)(first + i)];
        }
    return out;
}

/* ---- mLSTM ----------------------------------------------------------------------------------------- */

/* Logarithm of what is left at step t of what entered at step s (s = -1: the state), before the maximum is taken off. */
static double log_weight(const double *log_forget, const double *igate, const double *m0, int s, int t)
{
    double sum = s < 0 ? *m0 : igate[s];
    for (int r = s + 1; r <= t; r++) sum += log_forget[r];
    return sum;
}

static void mlstm_head(double *y, double *noise, int pitch, const double *q, const double *k, const double *v,
                       const double *igate, const double *log_forget, oracle_heads size, double eps,
                       const double *state_in, double *state_out, const oracle_sequence *seq, int group)
{
    const int keys = size.keys, values = size.values, length = seq->length;
    const double *c0 = state_in, *n0 = state_in ? state_in + keys * values : NULL,
                 *m0 = state_in ? n0 + keys : NULL;
    const int from = state_in ? -1 : 0;
    double *weight = numbers((size_t)length + 1);
    for (int t = 0; t < length; t++) {
        double m = -INFINITY, sum = 0, size_of_sum = 0, largest = 0, reach = 0;
        for (int s = from; s <= t; s++) m = fmax(m, log_weight(log_forget, igate, m0, s, t));
        double *out = numbers((size_t)values);
        for (int s = from; s <= t; s++) {
            weight[s + 1] = exp(log_weight(log_forget, igate, m0, s, t) - m);
            double product = 0, length_of_product = 0;
            for (int i = 0; i < keys; i++) {
                const double key = s < 0 ? n0[i] : k[s * keys + i], term = q[t * keys + i] * key / sqrt(keys);
                product += term, length_of_product += fabs(term);
            }
            sum += weight[s + 1] * product, size_of_sum += weight[s + 1] * length_of_product;
            for (int j = 0; j < values; j++) {
                if (s < 0)
                    for (int i = 0; i < keys; i++) {
                        const double term = weight[0] * q[t * keys + i] / sqrt(keys) * c0[i * values + j];
                        out[j] += term, reach = fmax(reach, fabs(term) * keys);
                    }
                else
                    out[j] += weight[s + 1] * product * v[s * values + j];
                if (s >= 0) largest = fmax(largest, fabs(v[s * values + j]));
            }
        }
        const double divisor = fmax(fabs(sum), exp(-m)) + eps;
        double most = 0;
        for (int j = 0; j < values; j++) {
            y[slot_of(seq, group, t) * pitch + j] = out[j] / divisor;
            most = fmax(most, fabs(out[j] / divisor));
        }
        if (noise)
            *(noise + (size_t)slot_of(seq, group, t) * (size_t)size.heads) =
                (size_of_sum * (largest + most) + reach) / divisor;
        free(out);
    }
    if (state_out) {
        double m = -INFINITY;
        const int last = length - 1;
        for (int s = from; s <= last; s++) m = fmax(m, log_weight(log_forget, igate, m0, s, last));
        for (int i = 0; i < keys; i++) {
            double n = 0;
            for (int j = 0; j < values; j++) state_out[i * values + j] = 0;
            for (int s = from; s <= last; s++) {
                const double share = exp(log_weight(log_forget, igate, m0, s, last) - m);
                n += share * (s < 0 ? n0[i] : k[s * keys + i]);
                for (int j = 0; j < values; j++)
                    state_out[i * values + j] +=
                        share * (s < 0 ? c0[i * values + j] : k[s * keys + i] * v[s * values + j]);
            }
            state_out[keys * values + i] = n;
        }
        state_out[keys * values + keys] = m;
    }
    free(weight);
}

void oracle_mlstm(double *y, double *noise, const double *q, const double *k, const double *v,
                  const double *igate, const double *fgate, oracle_heads size, double eps,
                  const oracle_sequence *seq)
{
    const int state = size.keys * size.values + size.keys + 1;
    for (int g = 0; g < seq->groups; g++)
        for (int h = 0; h < size.heads; h++) {
            double *one[] = {walk(q, size.heads * size.keys, h * size.keys, size.keys, g, seq),
                             walk(k, size.heads * size.keys, h * size.keys, size.keys, g, seq),
                             walk(v, size.heads * size.values, h * size.values, size.values, g, seq),
                             walk(igate, size.heads, h, 1, g, seq), walk(fgate, size.heads, h, 1, g, seq)};
            for (int t = 0; t < seq->length; t++) /* log sigmoid */
                one[4][t] = one[4][t] < 0 ? one[4][t] - log1p(exp(one[4][t])) : -log1p(exp(-one[4][t]));
            const size_t at = (size_t)(g * size.heads + h) * (size_t)state;
            mlstm_head(y + h * size.values, noise ? noise + h : NULL, size.heads * size.values, one[0],
                       one[1], one[2], one[3], one[4], size, eps, seq->state_in ? seq->state_in + at : NULL,
                       seq->state_out ? seq->state_out + at : NULL, seq, g);
            for (size_t i = 0; i < sizeof one / sizeof one[0]; i++) free(one[i]);
        }
}

/* ---- TTT-Linear ------------------------------------------------------------------------------------ */

/* (x - mean) / sqrt(variance + eps); returns the divisor. */
static double standardise(double *out, const double *x, int n, double eps)
{
    double mean = 0, variance = 0;
    for (int i = 0; i < n; i++) mean += x[i] / n;
    for (int i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean) / n;
    for (int i = 0; i < n; i++) out[i] = (x[i] - mean) / sqrt(variance + eps);
    return sqrt(variance + eps);
}

static void turn(double *x, int width, const double *angle)
{
    for (int i = 0; angle && i < width / 2; i++) {
        const double a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos(angle[i]) - b * sin(angle[i]);
        x[2 * i + 1] = a * sin(angle[i]) + b * cos(angle[i]);
    }
}

/* Gradient of |weight * standardise(z) + bias - target|^2 / 2 with respect to z, by the chain rule through mean and deviation. */
static void gradient(double *g, const double *z, const double *target, const double *weight,
                     const double *bias, int n, double eps)
{
    double *x = numbers((size_t)n), mean = 0;
    const double deviation = standardise(x, z, n, eps);
    for (int i = 0; i < n; i++) mean += z[i] / n;
    for (int i = 0; i < n; i++) {
        g[i] = 0;
        for (int j = 0; j < n; j++) {
            /* dx_j/dz_i = (delta_ij - 1/n) / s - (z_j - mean) (z_i - mean) / (n s^3) */
            const double slope = ((i == j) - 1.0 / n) / deviation -
                                 (z[j] - mean) * (z[i] - mean) / (n * deviation * deviation * deviation);
            g[i] += (weight[j] * x[j] + bias[j] - target[j]) * weight[j] * slope;
        }
    }
    free(x);
}

static void times_model(double *z, const double *x, const double *w, const double *b, int n)
{
    for (int j = 0; j < n; j++) {
        z[j] = b[j];
        for (int i = 0; i < n; i++) z[j] += x[i] * w[i * n + j];
    }
}

static void ttt_head(double *y, int pitch, double *q, double *k, const double *v, const double *rate,
                     const oracle_ttt_model *m, const double *weight, const double *bias, double *w,
                     double *b, const oracle_sequence *seq, int group)
{
    const int n = m->width;
    double *g = numbers((size_t)(m->batch * n)), *z = numbers((size_t)n), *target = numbers((size_t)n);
    double *now = numbers((size_t)(n * n)), *offset = numbers((size_t)n);
    for (int first = 0; first < seq->length; first += m->batch) {
        const int tokens = seq->length - first < m->batch ? seq->length - first : m->batch;
        for (int t = 0; t < tokens; t++) {
            const double *angle = m->angle ? m->angle + t * (n / 2) : NULL;
            turn(q + (first + t) * n, n, angle);
            turn(k + (first + t) * n, n, angle);
            for (int i = 0; i < n; i++) target[i] = v[(first + t) * n + i] - k[(first + t) * n + i];
            times_model(z, k + (first + t) * n, w, b, n);
            gradient(g + t * n, z, target, weight, bias, n, m->eps);
        }
        for (int t = 0; t < tokens; t++) {
            /* the model as token t sees it */
            memcpy(now, w, (size_t)(n * n) * sizeof *w);
            memcpy(offset, b, (size_t)n * sizeof *b);
            for (int s = 0; s <= t; s++) {
                const double step = m->token[t] * rate[first + s];
                for (int i = 0; i < n; i++)
                    for (int j = 0; j < n; j++)
                        now[i * n + j] -= step * k[(first + s) * n + i] * g[s * n + j];
                for (int j = 0; j < n; j++) offset[j] -= step * g[s * n + j];
            }
            times_model(z, q + (first + t) * n, now, offset, n);
            standardise(z, z, n, m->eps);
            for (int i = 0; i < n; i++)
                y[slot_of(seq, group, first + t) * pitch + i] =
                    q[(first + t) * n + i] + weight[i] * z[i] + bias[i];
        }
        memcpy(w, now, (size_t)(n * n) * sizeof *w);
        memcpy(b, offset, (size_t)n * sizeof *b);
    }
    free(g), free(z), free(target), free(now), free(offset);
}

void oracle_ttt(double *y, const double *q, const double *k, const double *v, const double *rate,
                const oracle_ttt_model *m, const oracle_sequence *seq)
{
    const int n = m->width, size = n * n, pitch = m->heads * n;
    double *w = numbers((size_t)size), *b = numbers((size_t)n);
    for (int g = 0; g < seq->groups; g++)
        for (int h = 0; h < m->heads; h++) {
            const size_t at = (size_t)(g * m->heads + h) * (size_t)(size + n);
            memcpy(w, seq->state_in ? seq->state_in + at : m->w + h * size, (size_t)size * sizeof *w);
            memcpy(b, seq->state_in ? seq->state_in + at + size : m->b + h * n, (size_t)n * sizeof *b);
            double *one[] = {walk(q, pitch, h * n, n, g, seq), walk(k, pitch, h * n, n, g, seq),
                             walk(v, pitch, h * n, n, g, seq), walk(rate, m->heads, h, 1, g, seq)};
            ttt_head(y + h * n, pitch, one[0], one[1], one[2], one[3], m, m->norm_weight + h * n,
                     m->norm_bias + h * n, w, b, seq, g);
            if (seq->state_out) {
                memcpy(seq->state_out + at, w, (size_t)size * sizeof *w);
                memcpy(seq->state_out + at + size, b, (size_t)n * sizeof *b);
            }
            for (size_t i = 0; i < sizeof one / sizeof one[0]; i++) free(one[i]);
        }
    free(w), free(b);
}

/* ---- blocks ---------------------------------------------------------------------------------------- */

void oracle_head_norm(double *x, int rows, int channels, int groups, bool centred, double eps,
                      const double *weight, const double *bias)
{
    const int width = channels / groups;
    for (int part = 0; part < rows * groups; part++) {
        double *p = x + part * width, squares = 0;
        const int first = part % groups * width;
        if (centred) standardise(p, p, width, eps);
        for (int i = 0; i < width; i++) squares += p[i] * p[i] / width;
        for (int i = 0; i < width; i++) {
            if (!centred) p[i] /= sqrt(squares + eps);
            p[i] = p[i] * weight[first + i] + (bias ? bias[first + i] : 0);
        }
    }
}

/* The tensor 'prefix''name' in double. */
static double *tensor(const sv_weights *weights, const char *prefix, const char *name)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const sv_tensor t = sv_weights_find(weights, full);
    if (sv_is_none(t)) abort();
    const size_t count = (size_t)t.dim[0] * (size_t)sv_row_elements(t);
    double *values = numbers(count);
    for (size_t i = 0; i < count; i++) values[i] = (double)((const float *)t.data)[i];
    return values;
}

/* x [rows][k] times the transpose of the named weight [n][k], plus the named bias (NULL: none). */
static double *linear(const double *x, int rows, int k, int n, const sv_weights *weights, const char *prefix,
                      const char *weight, const char *bias)
{
    double *w = tensor(weights, prefix, weight), *b = bias ? tensor(weights, prefix, bias) : NULL;
    double *y = numbers((size_t)rows * (size_t)n);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < n; i++) {
            y[r * n + i] = b ? b[i] : 0;
            for (int j = 0; j < k; j++) y[r * n + i] += w[i * k + j] * x[r * k + j];
        }
    free(w), free(b);
    return y;
}

static double *copy(const double *x, size_t count)
{
    double *y = numbers(count);
    memcpy(y, x, count * sizeof *y);
    return y;
}

/* weight [n/4][4][4] */
static double *fours(const double *x, int rows, int n, const sv_weights *weights, const char *prefix,
                     const char *weight, const char *bias)
{
    double *w = tensor(weights, prefix, weight), *b = tensor(weights, prefix, bias);
    double *y = numbers((size_t)rows * (size_t)n);
    for (int r = 0; r < rows; r++)
        for (int block = 0; block < n / 4; block++)
            for (int o = 0; o < 4; o++) {
                double sum = b[block * 4 + o];
                for (int d = 0; d < 4; d++) sum += w[(block * 4 + o) * 4 + d] * x[r * n + block * 4 + d];
                y[r * n + block * 4 + o] = sum;
            }
    free(w), free(b);
    return y;
}

/* x += layer(LN(x)), flipped before and back after when 'reverse'. */
static void vision_lstm(double *x, const sv_weights *weights, const char *prefix, bool reverse, int groups,
                        int length, int width)
{
    const int rows = groups * length, inner = 2 * width;
    const oracle_sequence seq = {.groups = groups, .length = length, .reverse = reverse};
    double *weight = tensor(weights, prefix, "norm.weight"), *bias = tensor(weights, prefix, "norm.bias");
    for (int i = 0; i < width; i++) weight[i] += 1;
    double *normed = copy(x, (size_t)(rows * width));
    oracle_head_norm(normed, rows, width, 1, true, 1e-5, weight, bias);
    double *up =
        linear(normed, rows, width, 2 * inner, weights, prefix, "layer.proj_up.weight", "layer.proj_up.bias");
    double *a = numbers((size_t)(rows * inner)), *z = numbers((size_t)(rows * inner));
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < inner; i++) {
            a[r * inner + i] = up[r * 2 * inner + i];
            z[r * inner + i] = up[r * 2 * inner + inner + i];
        }
    double *taps = tensor(weights, prefix, "layer.conv.conv.weight"),
           *conv_bias = tensor(weights, prefix, "layer.conv.conv.bias");
    char name[256];
    snprintf(name, sizeof name, "%slayer.conv.conv.weight", prefix);
    double *conv = numbers((size_t)(rows * inner));
    oracle_causal_conv(conv, a, taps, conv_bias, inner, sv_weights_find(weights, name).dim[2], &seq);
    for (int i = 0; i < rows * inner; i++) conv[i] = oracle_silu(conv[i]);
    double *q = fours(conv, rows, inner, weights, prefix, "layer.q_proj.weight", "layer.q_proj.bias");
    double *k = fours(conv, rows, inner, weights, prefix, "layer.k_proj.weight", "layer.k_proj.bias");
    double *v = fours(a, rows, inner, weights, prefix, "layer.v_proj.weight", "layer.v_proj.bias");
    double *all = numbers((size_t)(rows * 3 * inner));
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < inner; i++) {
            all[r * 3 * inner + i] = q[r * inner + i];
            all[r * 3 * inner + inner + i] = k[r * inner + i];
            all[r * 3 * inner + 2 * inner + i] = v[r * inner + i];
        }
    double *igate = linear(all, rows, 3 * inner, 4, weights, prefix, "layer.mlstm_cell.igate.weight",
                           "layer.mlstm_cell.igate.bias");
    double *fgate = linear(all, rows, 3 * inner, 4, weights, prefix, "layer.mlstm_cell.fgate.weight",
                           "layer.mlstm_cell.fgate.bias");
    double *h = numbers((size_t)(rows * inner));
    oracle_mlstm(h, NULL, q, k, v, igate, fgate, (oracle_heads){4, inner / 4, inner / 4}, 1e-6, &seq);
    double *out_weight = tensor(weights, prefix, "layer.mlstm_cell.outnorm.weight"),
           *out_bias = tensor(weights, prefix, "layer.mlstm_cell.outnorm.bias"),
           *skip = tensor(weights, prefix, "layer.learnable_skip");
    for (int i = 0; i < inner; i++) out_weight[i] += 1;
    oracle_head_norm(h, rows, inner, 4, true, 1e-5, out_weight, out_bias);
    for (int i = 0; i < rows * inner; i++) h[i] = (h[i] + skip[i % inner] * conv[i]) * oracle_silu(z[i]);
    double *down =
        linear(h, rows, inner, width, weights, prefix, "layer.proj_down.weight", "layer.proj_down.bias");
    for (int i = 0; i < rows * width; i++) x[i] += down[i];
    double *used[] = {weight, bias, normed, up,    a,     z, taps,       conv_bias, conv, q,
                      k,      v,    all,    igate, fgate, h, out_weight, out_bias,  skip, down};
    for (size_t i = 0; i < sizeof used / sizeof used[0]; i++) free(used[i]);
}

void oracle_xlstm_block(double *y, const double *x, const sv_weights *weights, int groups, int length,
                        int width)
{
    memcpy(y, x, (size_t)(groups * length * width) * sizeof *y);
    vision_lstm(y, weights, "rowwise_from_top_left.", false, groups, length, width);
    vision_lstm(y, weights, "rowwise_from_bot_right.", true, groups, length, width);
}

void oracle_ttt_block(double *y, const double *x, const sv_weights *weights, int groups, int length,
                      int width)
{
    const char *const inside = "seq_modeling_block.";
    const int rows = groups * length, hidden = 2 * width;
    const int heads = sv_weights_find(weights, "seq_modeling_block.learnable_ttt_lr_bias").dim[0],
              f = width / heads;
    const oracle_sequence seq = {.groups = groups, .length = length};
    double *normed = copy(x, (size_t)(rows * width)), *norm = tensor(weights, "", "seq_norm.weight");
    oracle_head_norm(normed, rows, width, 1, false, 1e-6, norm, NULL);
    double *q = linear(normed, rows, width, width, weights, inside, "q_proj.weight", NULL);
    double *k = linear(normed, rows, width, width, weights, inside, "k_proj.weight", NULL);
    double *v = linear(normed, rows, width, width, weights, inside, "v_proj.weight", NULL);
    double *rate = linear(normed, rows, width, heads, weights, inside, "learnable_ttt_lr_weight",
                          "learnable_ttt_lr_bias");
    for (int i = 0; i < rows * heads; i++) rate[i] = 1 / (1 + exp(-rate[i])) / f;
    double *token = tensor(weights, inside, "learnable_token_idx"), *angle = numbers((size_t)(16 * f));
    for (int t = 0; t < 16; t++) {
        token[t] = fmax(1.0 / (t + 1) + token[t], 0);
        for (int i = 0; i < f / 2; i++) angle[t * (f / 2) + i] = t * pow(10000, -2.0 * i / f);
    }
    double *w = tensor(weights, inside, "W1"), *b = tensor(weights, inside, "b1"),
           *weight = tensor(weights, inside, "ttt_norm_weight"),
           *bias = tensor(weights, inside, "ttt_norm_bias");
    const oracle_ttt_model model = {heads, f, 16, 1e-6, w, b, weight, bias, token, angle};
    double *out = numbers((size_t)(rows * width));
    oracle_ttt(out, q, k, v, rate, &model, &seq);
    double *post = tensor(weights, inside, "post_norm.weight"),
           *post_bias = tensor(weights, inside, "post_norm.bias");
    oracle_head_norm(out, rows, width, 1, true, 1e-6, post, post_bias);
    double *mixed = linear(out, rows, width, width, weights, inside, "o_proj.weight", NULL);
    for (int i = 0; i < rows * width; i++) y[i] = x[i] + mixed[i];

    double *again = copy(y, (size_t)(rows * width)), *ffn = tensor(weights, "", "ffn_norm.weight");
    oracle_head_norm(again, rows, width, 1, false, 1e-6, ffn, NULL);
    double *gate = linear(again, rows, width, hidden, weights, "mlp.", "gate_proj.weight", NULL);
    double *up = linear(again, rows, width, hidden, weights, "mlp.", "up_proj.weight", NULL);
    for (int i = 0; i < rows * hidden; i++) up[i] *= oracle_silu(gate[i]);
    double *down = linear(up, rows, hidden, width, weights, "mlp.", "down_proj.weight", NULL);
    for (int i = 0; i < rows * width; i++) y[i] += down[i];
    double *used[] = {normed, norm, q,    k,         v,     rate,  token, angle, w,  b,   weight,
                      bias,   out,  post, post_bias, mixed, again, ffn,   gate,  up, down};
    for (size_t i = 0; i < sizeof used / sizeof used[0]; i++) free(used[i]);
}
