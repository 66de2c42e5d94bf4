/* SPDX-License-Identifier: Apache-2.0
 *
 * Titans' perceptron memory and ATLAS' memory over monomials (sv_deep_memory has the formulas), a head of a
 * group at a time. All of it in double: Newton-Schulz steps blow up what a small singular value has of
 * rounding, and a memory that corrects itself walks on with it. Loops add whole rows, so that the compiler
 * vectorises them and every instruction set gives the same bytes.
 */
#include "backbones/deep_memory_kernels.h"
#include "backbones/denormals.h"
#include "backbones/walk.h"
#include "perception/core/simd.h"

static inline void add_row(double *y, double s, const double *x, int count)
{
    for (int i = 0; i < count; i++) y[i] += s * x[i];
}

/* out = x'W, W [from,to] */
static void product(double *out, const double *x, const double *w, int from, int to)
{
    for (int j = 0; j < to; j++) out[j] = 0;
    for (int i = 0; i < from; i++) add_row(out, x[i], w + (ptrdiff_t)i * to, to);
}

static void widen(double *to, const float *from, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++) to[i] = (double)from[i];
}
static void narrow(float *to, const double *from, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++) to[i] = (float)from[i];
}

static const float *token(const sv_deep_job *job, sv_tensor t, int group, int head, int step)
{
    return sv_walk_row(t, job->seq, group, step) + (ptrdiff_t)head * job->width;
}
static double number(const sv_deep_job *job, sv_tensor t, int group, int head, int step)
{
    return (double)sv_walk_row(t, job->seq, group, step)[head];
}

/* ---- Titans' perceptron -------------------------------------------------------------------------------- */

/* GELU, tanh form, and its derivative. */
static double gelu(double x, double *slope)
{
    const double t = tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
    *slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
    return 0.5 * x * (1 + t);
}

/* M = keep M + S after S = eta S + by x g' */
static void carry(double *m, double *s, double eta, double keep, double by, const double *x, const double *g,
                  int from, int to)
{
    for (int i = 0; i < from; i++) {
        double *row = s + (ptrdiff_t)i * to, *memory = m + (ptrdiff_t)i * to;
        const double share = by * x[i];
        for (int j = 0; j < to; j++) {
            row[j] = eta * row[j] + share * g[j];
            memory[j] = keep * memory[j] + row[j];
        }
    }
}

static void perceptron(const sv_deep_job *job, int group, int head, double *work)
{
    const int width = job->width, hidden = job->rule->hidden, heads = job->rule->heads;
    const ptrdiff_t size = (ptrdiff_t)width * hidden;
    double *memory = work, *start = memory + 4 * size, *a = start + 2 * size, *slope = a + hidden,
           *g = slope + hidden, *x = g + hidden, *e = x + width;
    float *parts[4];
    for (int i = 0; i < 4; i++) {
        parts[i] = sv_walk_group(job->states, group) + (i * (ptrdiff_t)heads + head) * size;
        widen(memory + i * size, parts[i], size);
    }
    for (int step = 0; step < job->seq->length; step++) {
        if (step % job->rule->batch == 0) memcpy(start, memory, sizeof *start * 2 * (size_t)size);
        const double theta = number(job, job->in->theta, group, head, step),
                     keep = 1 - number(job, job->in->alpha, group, head, step),
                     eta = number(job, job->in->eta, group, head, step);
        const float *v = token(job, job->in->v, group, head, step);
        widen(x, token(job, job->in->k, group, head, step), width);
        product(a, x, start, width, hidden);
        for (int i = 0; i < hidden; i++) a[i] = gelu(a[i], &slope[i]);
        product(e, a, start + size, hidden, width);
        for (int j = 0; j < width; j++) e[j] -= (double)v[j];
        for (int i = 0; i < hidden; i++) {
            const double *row = start + size + (ptrdiff_t)i * width;
            double sum = 0;
            for (int j = 0; j < width; j++) sum += row[j] * e[j];
            g[i] = sum * slope[i];
        }
        carry(memory, memory + 2 * size, eta, keep, -theta, x, g, width, hidden);
        carry(memory + size, memory + 3 * size, eta, keep, -theta, a, e, hidden, width);
        widen(x, token(job, job->in->q, group, head, step), width);
        product(a, x, memory, width, hidden);
        for (int i = 0; i < hidden; i++) a[i] = gelu(a[i], &slope[i]);
        product(e, a, memory + size, hidden, width);
        narrow(sv_walk_row(job->y, job->seq, group, step) + (ptrdiff_t)head * width, e, width);
    }
    for (int i = 0; i < 4; i++) narrow(parts[i], memory + i * size, size);
}

/* ---- ATLAS --------------------------------------------------------------------------------------------- */

static void monomials(double *phi, const float *x, int width)
{
    *phi++ = 1;
    for (int i = 0; i < width; i++) *phi++ = (double)x[i];
    for (int i = 0; i < width; i++)
        for (int j = i; j < width; j++) *phi++ = (double)x[i] * (double)x[j];
}

/* Five Newton-Schulz steps, coefficients of Jordan et al. (2024): x [rows,width] of norm 1 becomes orthogonal, nearly. */
static void orthogonalise(double *x, double *gram, double *line, int rows, int width)
{
    const double a = 3.4445, b = -4.7750, c = 2.0315;
    double *square = gram + width * width;
    for (int turn = 0; turn < 5; turn++) {
        memset(gram, 0, sizeof *gram * 2 * (size_t)(width * width));
        for (int r = 0; r < rows; r++) {
            const double *row = x + (ptrdiff_t)r * width;
            for (int i = 0; i < width; i++) add_row(gram + i * width, row[i], row, width);
        }
        for (int i = 0; i < width; i++)
            for (int j = 0; j < width; j++)
                add_row(square + i * width, c * gram[i * width + j], gram + j * width, width);
        for (int i = 0; i < width * width; i++) gram[i] = b * gram[i] + square[i];
        for (int r = 0; r < rows; r++) {
            double *row = x + (ptrdiff_t)r * width;
            for (int j = 0; j < width; j++) line[j] = a * row[j];
            for (int i = 0; i < width; i++) add_row(line, row[i], gram + i * width, width);
            memcpy(row, line, sizeof *row * (size_t)width);
        }
    }
}

/* The last tokens of a head, as monomials, values and gates; entry t % batch is that of step t. */
typedef struct window {
    double *phi, *v, *gamma;
    int features, width, batch;
} window;

static void remember(const window *w, int at, const float *k, const float *v, double gamma)
{
    monomials(w->phi + (ptrdiff_t)at * w->features, k, w->width);
    widen(w->v + (ptrdiff_t)at * w->width, v, w->width);
    w->gamma[at] = gamma;
}

/* s = theta s + the gradient of the window's loss at m */
static void learn(const window *w, double *s, const double *m, double theta, int step, double *e)
{
    for (ptrdiff_t i = 0; i < (ptrdiff_t)w->features * w->width; i++) s[i] *= theta;
    for (int back = w->batch - 1; back >= 0; back--) {
        const int at = (step - back + w->batch) % w->batch;
        if (w->gamma[at] == 0) continue;
        const double *phi = w->phi + (ptrdiff_t)at * w->features, *v = w->v + (ptrdiff_t)at * w->width;
        product(e, phi, m, w->features, w->width);
        for (int j = 0; j < w->width; j++) e[j] = w->gamma[at] * (e[j] - v[j]);
        for (int i = 0; i < w->features; i++) add_row(s + (ptrdiff_t)i * w->width, phi[i], e, w->width);
    }
}

/* What of the state before and of this walk the next one's window begins with; steps may be negative. */
static void keep_window(const sv_deep_job *job, int group, int head, float *k, float *v, float *gamma)
{
    const int kept = job->rule->batch - 1, width = job->width, length = job->seq->length;
    for (int i = 0; i < kept; i++) {
        const int step = length - kept + i;
        if (step < 0) { /* rows move towards the front */
            memmove(k + (ptrdiff_t)i * width, k + (ptrdiff_t)(kept + step) * width,
                    sizeof *k * (size_t)width);
            memmove(v + (ptrdiff_t)i * width, v + (ptrdiff_t)(kept + step) * width,
                    sizeof *v * (size_t)width);
            gamma[i] = gamma[kept + step];
            continue;
        }
        memcpy(k + (ptrdiff_t)i * width, token(job, job->in->k, group, head, step),
               sizeof *k * (size_t)width);
        memcpy(v + (ptrdiff_t)i * width, token(job, job->in->v, group, head, step),
               sizeof *v * (size_t)width);
        gamma[i] = sv_walk_row(job->in->gamma, job->seq, group, step)[head];
    }
}

static void omega(const sv_deep_job *job, int group, int head, double *work)
{
    const int width = job->width, heads = job->rule->heads, batch = job->rule->batch, kept = batch - 1,
              features = (int)sv_deep_monomials(width);
    const ptrdiff_t size = (ptrdiff_t)features * width;
    double *m = work, *s = m + size, *x = s + size, *gram = x + size, *phi = gram + 2 * width * width,
           *e = phi + features;
    window w = {.phi = e + width, .features = features, .width = width, .batch = batch};
    w.v = w.phi + (ptrdiff_t)batch * features, w.gamma = w.v + (ptrdiff_t)batch * width;
    float *state = sv_walk_group(job->states, group), *memory = state + head * size,
          *momentum = state + (heads + head) * size,
          *k = state + 2 * heads * size + (ptrdiff_t)head * kept * width,
          *v = k + (ptrdiff_t)heads * kept * width,
          *gamma = state + 2 * heads * size + 2 * (ptrdiff_t)heads * kept * width + (ptrdiff_t)head * kept;
    widen(m, memory, size), widen(s, momentum, size);
    w.gamma[batch - 1] = 0;
    for (int i = 0; i < kept; i++) /* steps -kept .. -1 */
        remember(&w, (batch + i - kept) % batch, k + (ptrdiff_t)i * width, v + (ptrdiff_t)i * width,
                 (double)gamma[i]);
    for (int step = 0; step < job->seq->length; step++) {
        remember(&w, step % batch, token(job, job->in->k, group, head, step),
                 token(job, job->in->v, group, head, step), number(job, job->in->gamma, group, head, step));
        learn(&w, s, m, number(job, job->in->theta, group, head, step), step, e);
        double norm = 0;
        for (ptrdiff_t i = 0; i < size; i++) norm += s[i] * s[i];
        const double by = norm > 0 ? 1 / sqrt(norm) : 0, eta = number(job, job->in->eta, group, head, step),
                     keep = 1 - number(job, job->in->alpha, group, head, step);
        for (ptrdiff_t i = 0; i < size; i++) x[i] = by * s[i];
        orthogonalise(x, gram, e, features, width);
        for (ptrdiff_t i = 0; i < size; i++) m[i] = keep * m[i] - eta * x[i];
        monomials(phi, token(job, job->in->q, group, head, step), width);
        product(e, phi, m, features, width);
        narrow(sv_walk_row(job->y, job->seq, group, step) + (ptrdiff_t)head * width, e, width);
    }
    narrow(memory, m, size), narrow(momentum, s, size);
    keep_window(job, group, head, k, v, gamma);
}

static void run(const sv_deep_job *job, int group, int head, double *work)
{
    const unsigned before = sv_flush_denormals();
    if (job->rule->kind == SV_DEEP_PERCEPTRON)
        perceptron(job, group, head, work);
    else
        omega(job, group, head, work);
    sv_restore_denormals(before);
}

const sv_deep_kernels SV_SIMD(sv_deep_kernels) = {.run = run};
