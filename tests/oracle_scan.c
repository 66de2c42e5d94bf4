/* SPDX-License-Identifier: Apache-2.0 */
#include "oracle_scan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double oracle_silu(double x)
{
    return x / (1 + exp(-x));
}
double oracle_softplus(double x)
{
    return x > 20 ? x : log1p(exp(x));
}

static double *numbers(size_t count)
{
    double *values = calloc(count + 1, sizeof *values);
    if (!values) abort();
    return values;
}

/* The row behind walking step t of a group; -1: zeros. */
static int row_of(const oracle_sequence *seq, int group, int t)
{
    const int slot = group * seq->length + (seq->reverse ? seq->length - 1 - t : t);
    return seq->index ? seq->index[slot] : slot;
}

void oracle_causal_conv(double *y, const double *x, const double *w, const double *bias, int channels,
                        int taps, const oracle_sequence *seq)
{
    const int history = taps - 1;
    for (int g = 0; g < seq->groups; g++) {
        /* the whole input of the group in walking order, history first */
        double *in = numbers((size_t)(history + seq->length) * (size_t)channels);
        for (int t = 0; t < history + seq->length; t++)
            for (int i = 0; i < channels; i++) {
                double value = 0;
                if (t < history && seq->state_in) value = seq->state_in[(g * history + t) * channels + i];
                if (t >= history && row_of(seq, g, t - history) >= 0)
                    value = x[row_of(seq, g, t - history) * channels + i];
                in[t * channels + i] = value;
            }
        for (int t = 0; t < seq->length; t++) {
            const int slot = g * seq->length + (seq->reverse ? seq->length - 1 - t : t);
            for (int i = 0; i < channels; i++) {
                double sum = bias[i];
                for (int j = 0; j < taps; j++) sum += w[i * taps + j] * in[(t + j) * channels + i];
                y[slot * channels + i] = sum;
            }
        }
        if (seq->state_out)
            memcpy(seq->state_out + g * history * channels, in + seq->length * channels,
                   (size_t)history * (size_t)channels * sizeof *in);
        free(in);
    }
}

void oracle_selective_scan(double *y, const double *u, const double *delta, const double *a, const double *b,
                           const double *c, const double *d, const double *z, int channels, int states,
                           const oracle_sequence *seq)
{
    double *h = numbers((size_t)states);
    for (int g = 0; g < seq->groups; g++)
        for (int i = 0; i < channels; i++) {
            for (int s = 0; s < states; s++)
                h[s] = seq->state_in ? seq->state_in[(g * channels + i) * states + s] : 0;
            for (int t = 0; t < seq->length; t++) {
                const int slot = g * seq->length + (seq->reverse ? seq->length - 1 - t : t);
                const double step = delta[slot * channels + i], in = u[slot * channels + i];
                double sum = d[i] * in;
                for (int s = 0; s < states; s++) {
                    h[s] = exp(step * a[i * states + s]) * h[s] + step * b[slot * states + s] * in;
                    sum += c[slot * states + s] * h[s];
                }
                if (z) {
                    const int row = row_of(seq, g, t);
                    sum *= row < 0 ? 0 : oracle_silu(z[row * channels + i]);
                }
                y[slot * channels + i] = sum;
            }
            for (int s = 0; s < states && seq->state_out; s++)
                seq->state_out[(g * channels + i) * states + s] = h[s];
        }
    free(h);
}

static double *product(const double *x, int rows, int k, const float *w, int n)
{
    double *y = numbers((size_t)rows * (size_t)n);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < n; i++)
            for (int j = 0; j < k; j++) y[r * n + i] += (double)w[i * k + j] * x[r * k + j];
    return y;
}

static double *columns(const double *x, int rows, int width, int first, int count)
{
    double *y = numbers((size_t)rows * (size_t)count);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < count; i++) y[r * count + i] = x[r * width + first + i];
    return y;
}

static double *widened(const float *x, int count)
{
    double *y = numbers((size_t)count);
    for (int i = 0; i < count; i++) y[i] = x[i];
    return y;
}

/* out[slot][inner] += one direction */
static void direction(double *out, const double *u, const double *z, const oracle_mamba *m,
                      const oracle_direction *w, const oracle_sequence *seq)
{
    const int slots = seq->groups * seq->length, inner = m->inner, states = m->states,
              wide = m->rank + 2 * states;
    double *conv = numbers((size_t)slots * (size_t)inner), *y = numbers((size_t)slots * (size_t)inner);
    double *conv_weight = widened(w->conv_weight, inner * m->taps), *conv_bias = widened(w->conv_bias, inner);
    oracle_causal_conv(conv, u, conv_weight, conv_bias, inner, m->taps, seq);
    for (int i = 0; i < slots * inner; i++) conv[i] = oracle_silu(conv[i]);
    double *projected = product(conv, slots, inner, w->x_proj, wide);
    double *dt = columns(projected, slots, wide, 0, m->rank);
    double *b = columns(projected, slots, wide, m->rank, states),
           *c = columns(projected, slots, wide, m->rank + states, states);
    double *delta = product(dt, slots, m->rank, w->dt_weight, inner);
    for (int i = 0; i < slots * inner; i++)
        delta[i] = oracle_softplus(delta[i] + (double)w->dt_bias[i % inner]);
    double *a = widened(w->a_log, inner * states), *d = widened(w->d, inner);
    for (int i = 0; i < inner * states; i++) a[i] = -exp(a[i]);
    oracle_selective_scan(y, conv, delta, a, b, c, d, z, inner, states, seq);
    for (int i = 0; i < slots * inner; i++) out[i] += y[i];
    double *all[] = {conv, y, conv_weight, conv_bias, projected, dt, b, c, delta, a, d};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
}

void oracle_mamba_block(double *y, const double *x, const oracle_mamba *m, int groups, int length)
{
    const int slots = groups * length, width = m->width;
    double *xz = product(x, slots, width, m->in_proj, 2 * m->inner);
    double *u = columns(xz, slots, 2 * m->inner, 0, m->inner),
           *z = columns(xz, slots, 2 * m->inner, m->inner, m->inner);
    double *out = numbers((size_t)slots * (size_t)m->inner);
    for (int backward = 0; backward < 2; backward++) {
        const oracle_sequence seq = {.groups = groups, .length = length, .reverse = backward != 0};
        direction(out, u, z, m, &m->direction[backward], &seq);
    }
    double *mixed = product(out, slots, m->inner, m->out_proj, width);
    for (int r = 0; r < slots; r++) {
        double mean = 0, variance = 0;
        for (int i = 0; i < width; i++) mean += mixed[r * width + i] / width;
        for (int i = 0; i < width; i++)
            variance += (mixed[r * width + i] - mean) * (mixed[r * width + i] - mean) / width;
        for (int i = 0; i < width; i++)
            y[r * width + i] =
                x[r * width + i] +
                (mixed[r * width + i] - mean) / sqrt(variance + 1e-5) * (double)m->norm_weight[i] +
                (double)m->norm_bias[i];
    }
    double *all[] = {xz, u, z, out, mixed};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
}
