/* SPDX-License-Identifier: Apache-2.0 */
#include "oracle_decay.h"

#include "support.h"

#include <math.h>
#include <stdlib.h>

static double *numbers(size_t count)
{
    double *y = calloc(count + 1, sizeof *y);
    ck_assert_ptr_nonnull(y);
    return y;
}

/* ---- primitives ---------------------------------------------------------------------------------- */

/* Element of the row that walking step t of group g reads. */
static double at(const oracle_decay *in, const double *x, int width, int g, int t, int column)
{
    const int slot = g * in->length + (in->reverse ? in->length - 1 - t : t);
    const int row = in->index ? in->index[slot] : slot;
    return row < 0 ? 0 : x[row * width + column];
}

static void head_of_group(double *y, const oracle_decay *in, int g, int h)
{
    const int keys = in->keys, values = in->values, width = in->heads * keys, depth = in->heads * values;
    const double *start = in->state_in ? in->state_in + ((ptrdiff_t)g * in->heads + h) * keys * values : NULL;
    /* sum of the logarithms of steps 0..t-1, per key channel */
    double *sums = numbers(((size_t)in->length + 1) * (size_t)keys);
    for (int t = 0; t < in->length; t++)
        for (int j = 0; j < keys; j++) {
            const double log =
                in->always ? in->log[h * keys + j] : at(in, in->log, width, g, t, h * keys + j);
            sums[(t + 1) * keys + j] = sums[t * keys + j] + log;
        }
    for (int t = 0; t < in->length; t++) {
        const int slot = g * in->length + (in->reverse ? in->length - 1 - t : t);
        double *out = y + (ptrdiff_t)slot * depth + h * values;
        for (int i = 0; i < values; i++) out[i] = 0;
        /* steps whose decay lies between a state's making and its reading end here */
        const double *now = sums + (in->read == SV_READ_BEFORE ? t : t + 1) * keys;
        for (int s = 0; s < in->length; s++) {
            const bool same = in->read == SV_READ_CHUNK && s / in->chunk == t / in->chunk;
            double weight = 0;
            if (s > t && !same) continue;
            for (int j = 0; j < keys; j++) {
                const double pair =
                    at(in, in->q, width, g, t, h * keys + j) * at(in, in->k, width, g, s, h * keys + j);
                if (s > t)
                    weight += pair * exp(sums[(s + 1) * keys + j] - sums[(t + 1) * keys + j]);
                else if (s == t && in->read == SV_READ_BEFORE)
                    weight += in->bonus ? pair * in->bonus[h * keys + j] : 0;
                else
                    weight += pair * exp(now[j] - sums[(s + 1) * keys + j]);
            }
            for (int i = 0; i < values; i++) out[i] += weight * at(in, in->v, depth, g, s, h * values + i);
        }
        for (int j = 0; j < keys && start; j++)
            for (int i = 0; i < values; i++)
                out[i] += at(in, in->q, width, g, t, h * keys + j) * exp(now[j]) * start[j * values + i];
        for (int i = 0; i < values; i++) out[i] *= in->scale;
    }
    for (int j = 0; j < keys && in->state_out; j++)
        for (int i = 0; i < values; i++) {
            const double *last = sums + in->length * keys;
            double sum = start ? exp(last[j]) * start[j * values + i] : 0;
            for (int s = 0; s < in->length; s++)
                sum += exp(last[j] - sums[(s + 1) * keys + j]) * at(in, in->k, width, g, s, h * keys + j) *
                       at(in, in->v, depth, g, s, h * values + i);
            in->state_out[(((ptrdiff_t)g * in->heads + h) * keys + j) * values + i] = sum;
        }
    free(sums);
}

void oracle_decay_scan(double *y, const oracle_decay *in)
{
    for (int g = 0; g < in->groups; g++)
        for (int h = 0; h < in->heads; h++) head_of_group(y, in, g, h);
}

void oracle_token_mix(double *y, const double *x, const double *m, int channels, int mixtures, int groups,
                      int length, const int32_t *index, bool reverse, const double *state_in,
                      double *state_out)
{
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < channels; i++) {
            double before = state_in ? state_in[g * channels + i] : 0;
            for (int t = 0; t < length; t++) {
                const int slot = g * length + (reverse ? length - 1 - t : t),
                          row = index ? index[slot] : slot;
                const double now = row < 0 ? 0 : x[row * channels + i];
                for (int k = 0; k < mixtures; k++) {
                    const int place = (slot * mixtures + k) * channels + i;
                    y[place] = (1 - m[place]) * now + m[place] * before;
                }
                before = now;
            }
            if (state_out) state_out[g * channels + i] = before;
        }
}

/* ---- blocks -------------------------------------------------------------------------------------- */

static const float *weight(const sv_weights *weights, const char *name)
{
    const sv_tensor t = sv_weights_find(weights, name);
    ck_assert_msg(!sv_is_none(t), "no %s", name);
    return sv_f32(t);
}

static int rows_of(const sv_weights *weights, const char *name)
{
    return sv_weights_find(weights, name).dim[0];
}

/* y[r][n] = sum_j w[i][j] x[r][j] (+ bias) */
static double *linear(const double *x, int rows, int k, const float *w, const float *bias, int n)
{
    double *y = numbers((size_t)rows * (size_t)n);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < n; i++) {
            double sum = bias ? (double)bias[i] : 0;
            for (int j = 0; j < k; j++) sum += (double)w[i * k + j] * x[r * k + j];
            y[r * n + i] = sum;
        }
    return y;
}

/* x @ w, w [k][n] */
static double *right_product(const double *x, int rows, int k, const float *w, int n)
{
    double *y = numbers((size_t)rows * (size_t)n);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < n; i++)
            for (int j = 0; j < k; j++) y[r * n + i] += x[r * k + j] * (double)w[j * n + i];
    return y;
}

/* Each row in 'parts' parts of equal width. */
static double *normed(const double *x, int rows, int width, int parts, double eps, const float *w,
                      const float *bias)
{
    double *y = numbers((size_t)rows * (size_t)width);
    const int part = width / parts;
    for (int r = 0; r < rows * parts; r++) {
        double mean = 0, variance = 0;
        for (int i = 0; i < part; i++) mean += x[r * part + i] / part;
        for (int i = 0; i < part; i++) variance += (x[r * part + i] - mean) * (x[r * part + i] - mean) / part;
        for (int i = 0; i < part; i++) {
            const int column = r % parts * part + i;
            y[r * part + i] =
                (x[r * part + i] - mean) / sqrt(variance + eps) * (double)w[column] + (double)bias[column];
        }
    }
    return y;
}

static void release(double **all, int count)
{
    for (int i = 0; i < count; i++) free(all[i]);
}
#define RELEASE(...)                                                                                         \
    release((double *[]){__VA_ARGS__}, (int)(sizeof((double *[]){__VA_ARGS__}) / sizeof(double *)))

void oracle_retnet_block(double *y, const double *x, const sv_weights *weights, int heads, int groups,
                         int length, int width)
{
    const int rows = groups * length, depth = rows_of(weights, "multi_scale_retention.v_proj.weight"),
              keys = rows_of(weights, "multi_scale_retention.q_proj.weight"),
              hidden = rows_of(weights, "ffn.fc1.weight");
    double *n = normed(x, rows, width, 1, 1e-6, weight(weights, "retention_layer_norm.weight"),
                       weight(weights, "retention_layer_norm.bias"));
    double *q = linear(n, rows, width, weight(weights, "multi_scale_retention.q_proj.weight"), NULL, keys);
    double *k = linear(n, rows, width, weight(weights, "multi_scale_retention.k_proj.weight"), NULL, keys);
    double *v = linear(n, rows, width, weight(weights, "multi_scale_retention.v_proj.weight"), NULL, depth);
    double *o = numbers((size_t)rows * (size_t)depth);
    /* the definition itself, without oracle_decay_scan() */
    const int key = keys / heads, value = depth / heads;
    for (int i = 0; i < rows; i++)
        for (int j = i / length * length; j < (i / length + 1) * length; j++) {
            const int ti = i % length, tj = j % length;
            if (tj > ti && tj / 64 != ti / 64) continue;
            for (int h = 0; h < heads; h++) {
                double pair = 0;
                for (int c = 0; c < key; c++) pair += q[i * keys + h * key + c] * k[j * keys + h * key + c];
                pair *= pow(1 - pow(2, -5 - h), abs(ti - tj)) / sqrt(key);
                for (int c = 0; c < value; c++)
                    o[i * depth + h * value + c] += pair * v[j * depth + h * value + c];
            }
        }
    double *branch =
        linear(o, rows, depth, weight(weights, "multi_scale_retention.o_proj.weight"), NULL, width);
    for (int i = 0; i < rows * width; i++) y[i] = x[i] + branch[i];
    double *n2 = normed(y, rows, width, 1, 1e-6, weight(weights, "final_layer_norm.weight"),
                        weight(weights, "final_layer_norm.bias"));
    double *up =
        linear(n2, rows, width, weight(weights, "ffn.fc1.weight"), weight(weights, "ffn.fc1.bias"), hidden);
    for (int i = 0; i < rows * hidden; i++) up[i] *= 0.5 * erfc(-up[i] / sqrt(2.0));
    double *down =
        linear(up, rows, hidden, weight(weights, "ffn.fc2.weight"), weight(weights, "ffn.fc2.bias"), width);
    for (int i = 0; i < rows * width; i++) y[i] += down[i];
    RELEASE(n, q, k, v, o, branch, n2, up, down);
}

/* The token before in its group, less the token itself. */
static double *shift(const double *x, int rows, int length, int width)
{
    double *y = numbers((size_t)rows * (size_t)width);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < width; i++)
            y[r * width + i] = (r % length ? x[(r - 1) * width + i] : 0) - x[r * width + i];
    return y;
}

static double *attention(const double *x, const sv_weights *w, int heads, int groups, int length, int width)
{
    enum { RANK = 32 };
    static const char *const maa[5] = {"att.time_maa_w", "att.time_maa_k", "att.time_maa_v", "att.time_maa_r",
                                       "att.time_maa_g"};
    const int rows = groups * length;
    double *xx = shift(x, rows, length, width), *start = numbers((size_t)rows * (size_t)width);
    for (int i = 0; i < rows * width; i++)
        start[i] = x[i] + xx[i] * (double)weight(w, "att.time_maa_x")[i % width];
    double *low = right_product(start, rows, width, weight(w, "att.time_maa_w1"), 5 * RANK);
    for (int i = 0; i < rows * 5 * RANK; i++) low[i] = tanh(low[i]);
    double *mixed[5];
    for (int p = 0; p < 5; p++) {
        double *part = numbers((size_t)rows * RANK);
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < RANK; i++) part[r * RANK + i] = low[(r * 5 + p) * RANK + i];
        mixed[p] = right_product(part, rows, RANK, weight(w, "att.time_maa_w2") + p * RANK * width, width);
        for (int i = 0; i < rows * width; i++)
            mixed[p][i] = x[i] + xx[i] * ((double)weight(w, maa[p])[i % width] + mixed[p][i]);
        free(part);
    }
    double *r = linear(mixed[3], rows, width, weight(w, "att.receptance.weight"), NULL, width);
    double *k = linear(mixed[1], rows, width, weight(w, "att.key.weight"), NULL, width);
    double *v = linear(mixed[2], rows, width, weight(w, "att.value.weight"), NULL, width);
    double *g = linear(mixed[4], rows, width, weight(w, "att.gate.weight"), NULL, width);
    double *rank = right_product(mixed[0], rows, width, weight(w, "att.time_decay_w1"), 64);
    for (int i = 0; i < rows * 64; i++) rank[i] = tanh(rank[i]);
    double *log = right_product(rank, rows, 64, weight(w, "att.time_decay_w2"), width);
    for (int i = 0; i < rows * width; i++)
        log[i] = -exp((double)weight(w, "att.time_decay")[i % width] + log[i]);

    /* the official kernel's two walks, state by state */
    const int size = width / heads;
    double *wkv = numbers((size_t)rows * (size_t)width), *state = numbers((size_t)size);
    for (int back = 1; back >= 0; back--)
        for (int group = 0; group < groups; group++)
            for (int column = 0; column < width; column++) {
                const int head = column / size * size;
                for (int j = 0; j < size; j++) state[j] = 0;
                for (int step = 0; step < length; step++) {
                    const int row = (group * length + (back ? length - 1 - step : step)) * width;
                    for (int j = 0; j < size; j++) {
                        const double pair = k[row + head + j] * v[row + column],
                                     u = back ? 0 : (double)weight(w, "att.time_faaaa")[head + j];
                        wkv[row + column] += r[row + head + j] * (u * pair + state[j]);
                        state[j] = state[j] * exp(log[row + head + j]) + pair;
                    }
                }
            }
    double *gated =
        normed(wkv, rows, width, heads, 1e-5, weight(w, "att.ln_x.weight"), weight(w, "att.ln_x.bias"));
    for (int i = 0; i < rows * width; i++) gated[i] *= g[i] / (1 + exp(-g[i]));
    double *out = linear(gated, rows, width, weight(w, "att.output.weight"), NULL, width);
    release(mixed, 5);
    RELEASE(xx, start, low, r, k, v, g, rank, log, wkv, state, gated);
    return out;
}

static double *feed_forward(const double *x, const sv_weights *w, int length, int rows, int width)
{
    const int hidden = rows_of(w, "ffn.key.weight");
    double *xx = shift(x, rows, length, width);
    double *xk = numbers((size_t)rows * (size_t)width), *xr = numbers((size_t)rows * (size_t)width);
    for (int i = 0; i < rows * width; i++) {
        const double mk = weight(w, "ffn.spatial_mix_k")[i % width],
                     mr = weight(w, "ffn.spatial_mix_r")[i % width];
        xk[i] = x[i] * mk + xx[i] * (1 - mk);
        xr[i] = x[i] * mr + xx[i] * (1 - mr);
    }
    double *up = linear(xk, rows, width, weight(w, "ffn.key.weight"), NULL, hidden);
    for (int i = 0; i < rows * hidden; i++) up[i] = up[i] > 0 ? up[i] * up[i] : 0;
    double *gate = linear(xr, rows, width, weight(w, "ffn.receptance.weight"), NULL, width);
    double *out = linear(up, rows, hidden, weight(w, "ffn.value.weight"), NULL, width);
    for (int i = 0; i < rows * width; i++) out[i] /= 1 + exp(-gate[i]);
    RELEASE(xx, xk, xr, up, gate);
    return out;
}

void oracle_rwkv_block(double *y, const double *x, const sv_weights *w, int heads, int groups, int length,
                       int width)
{
    const int rows = groups * length;
    const bool first = !sv_is_none(sv_weights_find(w, "ln0.weight")),
               scaled = !sv_is_none(sv_weights_find(w, "gamma1"));
    double *entry = first ? normed(x, rows, width, 1, 1e-5, weight(w, "ln0.weight"), weight(w, "ln0.bias"))
                          : numbers((size_t)rows * (size_t)width);
    for (int i = 0; i < rows * width && !first; i++) entry[i] = x[i];
    double *n = normed(entry, rows, width, 1, 1e-5, weight(w, "ln1.weight"), weight(w, "ln1.bias"));
    double *branch = attention(n, w, heads, groups, length, width);
    for (int i = 0; i < rows * width; i++)
        y[i] = entry[i] + branch[i] * (scaled ? (double)weight(w, "gamma1")[i % width] : 1);
    double *n2 = normed(y, rows, width, 1, 1e-5, weight(w, "ln2.weight"), weight(w, "ln2.bias"));
    double *ffn = feed_forward(n2, w, length, rows, width);
    for (int i = 0; i < rows * width; i++)
        y[i] += ffn[i] * (scaled ? (double)weight(w, "gamma2")[i % width] : 1);
    RELEASE(entry, n, branch, n2, ffn);
}
