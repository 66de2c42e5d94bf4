/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector code of memories that learn while they are read; lanes are output channels, a task is one head of a group.
 *
 * TTT (Sun et al. 2024), mini-batches of b tokens whose gradients are all taken at the mini-batch's start:
 *     Z_j = f(k_j),  g_j = d/dZ |LN(Z_j) - (v_j - k_j)|^2 / 2,  f linear or a perceptron with one hidden layer (GELU, tanh form)
 *     o_i = f_i(q_i), f_i being f after the steps eta_ij g_j of the tokens j <= i;   next start: f after eta_(b-1)j of all j
 *     y = q + LN(o)  or  o + LN(o)
 *   A step of a linear layer is never written out: (W - sum eta x_j' g_j) x = W x - sum eta (x.x_j) g_j.
 * Titans (Behrouz et al. 2024), with the gradient as the public reference has it (its first term is not divided by the
 *   deviation, see there):  S = eta S - 2 theta k'g(M at the chunk's start),  M = (1 - alpha) M + S,  o = q M,  y = o + LN(o)
 * Miras (Behrouz et al. 2025) with a matrix memory, e = W k - v:
 *     YAAD    W = alpha W - eta g k',  g = e where |e| <= delta, else delta sign(e)
 *     MONETA  A = alpha A - eta 3 sign(e) e^2 k',  W = A / |A|_4^2
 *     MEMORA  W = softmax over keys (alpha log W - eta e k')                       all: y = W q
 */
#include "backbones/denormals.h"
#include "backbones/memory_kernels.h"
#include "backbones/row_math.h"
#include "backbones/walk.h"

/* out = b + sum_i x_i W[i]; b NULL: 0 */
static void affine(float *out, const float *x, const float *w, const float *b, int from, int to)
{
    SV_LANES(j, n, to)
    {
        vf sum[2] = {m_set(0.0f), m_set(0.0f)};
        if (b) sum[0] = row_load(b + j, n);
        for (int i = 0; i < from; i++)
            sum[i & 1] = m_fma(m_set(x[i]), row_load(w + (ptrdiff_t)i * to + j, n), sum[i & 1]);
        row_store(out + j, sum[0] + sum[1], n);
    }
}

typedef struct normal {
    float mean, deviation;
} normal;

static normal normal_of(const float *z, int width, float eps)
{
    const float mean = row_sum(z, width) / (float)width;
    vf sum = m_set(0.0f);
    SV_LANES(i, n, width)
    {
        vf d = row_load(z + i, n) - m_set(mean);
        if (n < SV_VL) { /* lanes beyond hold -mean */
            float lanes[SV_VL];
            vf_store(lanes, d);
            for (int k = n; k < SV_VL; k++) lanes[k] = 0;
            d = vf_load(lanes);
        }
        sum = m_fma(d, d, sum);
    }
    return (normal){mean, sqrtf(vf_sum(sum) / (float)width + eps)};
}

/* g = d/dz |LN(z) - target|^2 / 2; g may be z; 'hat' is working space. */
static void norm_gradient(float *g, float *hat, const float *z, const float *k, const float *v,
                          const float *w, const float *b, int width, float eps)
{
    const normal at = normal_of(z, width, eps);
    const vf mean = m_set(at.mean), rate = m_set(1.0f / at.deviation);
    SV_LANES(i, n, width)
    {
        const vf h = (row_load(z + i, n) - mean) * rate, scale = row_load(w + i, n);
        vf target = m_set(0.0f);
        if (k) target = row_load(v + i, n) - row_load(k + i, n);
        row_store(hat + i, h, n);
        row_store(g + i, (m_fma(scale, h, row_load(b + i, n)) - target) * scale, n);
    }
    const float sum = row_sum(g, width), along = row_dot(g, hat, width), d = (float)width;
    const vf whole = m_set(1.0f / at.deviation), share = m_set(1.0f / (at.deviation * d));
    SV_LANES(i, n, width)
    row_store(g + i, whole * row_load(g + i, n) - share * (m_set(sum) + m_set(along) * row_load(hat + i, n)),
              n);
}

/* y = base + LN(o) */
static void norm_output(float *y, const float *base, const float *o, const float *w, const float *b,
                        int width, float eps)
{
    const normal at = normal_of(o, width, eps);
    const vf mean = m_set(at.mean), rate = m_set(1.0f / at.deviation);
    SV_LANES(i, n, width)
    {
        const vf h = (row_load(o + i, n) - mean) * rate;
        row_store(y + i, row_load(base + i, n) + m_fma(row_load(w + i, n), h, row_load(b + i, n)), n);
    }
}

/* GELU, tanh form, and its derivative. */
static void gelu(float *y, float *slope, const float *x, int count)
{
    SV_LANES(i, n, count)
    {
        const vf one = m_set(1.0f), half = m_set(0.5f), v = row_load(x + i, n), square = v * v;
        const vf t = m_tanh(m_set(0.79788456f) * v * m_fma(m_set(0.044715f), square, one));
        row_store(y + i, half * v * (one + t), n);
        if (!slope) continue;
        const vf inner = m_fma(m_set(0.1070322243f), square, m_set(0.79788456f));
        row_store(slope + i, half * v * (one - t * t) * inner + half * (one + t), n);
    }
}

/* ---- TTT ------------------------------------------------------------------------------------------- */

/* A head's tokens and memory. */
typedef struct head {
    const sv_memory_job *job;
    int group, head, width, hidden;
    const float *weight, *bias;  /* of the layer norm */
    float *w1, *b1, *w2, *b2;    /* w2 NULL: one layer */
    float *g, *low, *slope, *g1; /* [batch][width], [batch][hidden] */
    float *line[4], *wide[2];
} head;

static const float *token(const head *m, sv_tensor t, int step)
{
    return sv_walk_row(t, m->job->seq, m->group, step) + (ptrdiff_t)m->head * m->width;
}
static float number(const head *m, sv_tensor t, int step)
{
    return sv_walk_row(t, m->job->seq, m->group, step)[m->head];
}

/* Gradients of token j of the mini-batch at its start. k NULL: a token of zeros. */
static void find_gradient(const head *m, int j, const float *k, const float *v)
{
    const int width = m->width, hidden = m->hidden;
    float *g = m->g + (ptrdiff_t)j * width, *z = m->line[0];
    if (!m->w2) {
        affine(z, k, m->w1, m->b1, k ? width : 0, width);
        norm_gradient(g, m->line[1], z, k, v, m->weight, m->bias, width, m->job->rule->eps);
        return;
    }
    float *low = m->low + (ptrdiff_t)j * hidden, *slope = m->slope + (ptrdiff_t)j * hidden,
          *g1 = m->g1 + (ptrdiff_t)j * hidden;
    affine(m->wide[0], k, m->w1, m->b1, k ? width : 0, hidden);
    gelu(low, slope, m->wide[0], hidden);
    affine(z, low, m->w2, m->b2, hidden, width);
    norm_gradient(g, m->line[1], z, k, v, m->weight, m->bias, width, m->job->rule->eps);
    for (int i = 0; i < hidden; i++) g1[i] = slope[i] * row_dot(m->w2 + (ptrdiff_t)i * width, g, width);
}

/* y of token i: q through the memory after the steps of the tokens up to i. */
static void ask(const head *m, int first, int i)
{
    const sv_memory_job *job = m->job;
    const int width = m->width, hidden = m->hidden;
    float *q = m->line[0], *o = m->line[1], *wide = m->wide[0], *active = m->wide[1];
    const float row = number(m, job->in->row, first + i);
    row_scale(q, job->rule->scale, token(m, job->in->q, first + i), width);
    float *z = m->w2 ? wide : o;
    const int columns = m->w2 ? hidden : width;
    const float *gradients = m->w2 ? m->g1 : m->g;
    affine(z, q, m->w1, m->b1, width, columns);
    for (int j = 0; j <= i; j++) {
        const float eta = row * number(m, job->in->column, first + j);
        const float match = row_dot(q, token(m, job->in->k, first + j), width);
        row_add(z, -eta * (match + 1), gradients + (ptrdiff_t)j * columns, columns);
    }
    if (m->w2) {
        gelu(active, NULL, wide, hidden);
        affine(o, active, m->w2, m->b2, hidden, width);
        for (int j = 0; j <= i; j++) {
            const float eta = row * number(m, job->in->column, first + j);
            const float match = row_dot(active, m->low + (ptrdiff_t)j * hidden, hidden);
            row_add(o, -eta * (match + 1), m->g + (ptrdiff_t)j * width, width);
        }
    }
    float *y = sv_walk_row(job->y, job->seq, m->group, first + i) + (ptrdiff_t)m->head * width;
    norm_output(y, job->rule->query_residual ? q : o, o, m->weight, m->bias, width, job->rule->eps);
}

/* The memory after token j's step of size eta. */
static void learn(const head *m, int j, float eta, const float *k)
{
    const int width = m->width, hidden = m->hidden;
    const float *g = m->g + (ptrdiff_t)j * width;
    const float *g1 = m->w2 ? m->g1 + (ptrdiff_t)j * hidden : g;
    const int columns = m->w2 ? hidden : width;
    for (int i = 0; k && i < width; i++) row_add(m->w1 + (ptrdiff_t)i * columns, -eta * k[i], g1, columns);
    row_add(m->b1, -eta, g1, columns);
    if (!m->w2) return;
    const float *low = m->low + (ptrdiff_t)j * hidden;
    for (int i = 0; i < hidden; i++) row_add(m->w2 + (ptrdiff_t)i * width, -eta * low[i], g, width);
    row_add(m->b2, -eta, g, width);
}

static void train(const head *m)
{
    const sv_memory_job *job = m->job;
    const int batch = job->rule->batch, length = job->seq->length;
    for (int first = 0; first < length; first += batch) {
        const int tokens = length - first < batch ? length - first : batch;
        for (int j = 0; j < tokens; j++)
            find_gradient(m, j, token(m, job->in->k, first + j), token(m, job->in->v, first + j));
        for (int i = 0; i < tokens; i++) ask(m, first, i);
        const float last = number(m, job->in->row, first + tokens - 1);
        const bool pads = job->rule->padded && tokens < batch;
        if (pads) find_gradient(m, tokens, NULL, NULL); /* before the memory moves */
        for (int j = 0; j < tokens; j++)
            learn(m, j, last * number(m, job->in->column, first + j), token(m, job->in->k, first + j));
        if (pads) learn(m, tokens, last * (float)(batch - tokens), NULL);
    }
}

/* ---- Titans ----------------------------------------------------------------------------------------- */

/*
 * Titans' literal rule and MONETA's norm amplify a rounding error with time (the former doubles it about every hundred
 * tokens), so these two are walked in double; only their states are kept as floats.
 */
static void affine_double(double *out, const float *x, const double *w, int width)
{
    for (int j = 0; j < width; j++) out[j] = 0;
    for (int i = 0; i < width; i++)
        for (int j = 0; j < width; j++) out[j] += (double)x[i] * w[(ptrdiff_t)i * width + j];
}

static void normalise_double(double *hat, double *deviation, const double *z, int width, double eps)
{
    double mean = 0, variance = 0;
    for (int j = 0; j < width; j++) mean += z[j] / width;
    for (int j = 0; j < width; j++) variance += (z[j] - mean) * (z[j] - mean) / width;
    *deviation = sqrt(variance + eps);
    for (int j = 0; j < width; j++) hat[j] = (z[j] - mean) / *deviation;
}

/* The gradient as the reference has it: D g is not divided by the deviation, the other two terms are. */
static void literal_gradient(double *g, double *hat, const head *m, const double *z, const float *k,
                             const float *v)
{
    const int width = m->width;
    double deviation, sum = 0, along = 0;
    normalise_double(hat, &deviation, z, width, (double)m->job->rule->eps);
    for (int j = 0; j < width; j++) {
        const double w = m->weight[j];
        g[j] = (w * hat[j] + (double)m->bias[j] - ((double)v[j] - (double)k[j])) * w;
        sum += g[j], along += g[j] * hat[j];
    }
    for (int j = 0; j < width; j++) g[j] = width * g[j] - (sum + along * hat[j]) / (deviation * width);
}

static void carry_momentum(const head *m, float *kept_memory, float *kept_momentum, double *work)
{
    const sv_memory_job *job = m->job;
    const int width = m->width, length = job->seq->length;
    const ptrdiff_t size = (ptrdiff_t)width * width;
    double *memory = work, *momentum = memory + size, *start = momentum + size, *z = start + size,
           *g = z + width, *hat = g + width, *o = hat + width;
    for (ptrdiff_t i = 0; i < size; i++)
        memory[i] = (double)kept_memory[i], momentum[i] = (double)kept_momentum[i];
    for (int step = 0; step < length; step++) {
        if (step % job->rule->batch == 0) memcpy(start, memory, (size_t)size * sizeof *start);
        const float *k = token(m, job->in->k, step);
        const double theta = number(m, job->in->row, step),
                     keep = 1 - (double)number(m, job->in->column, step),
                     eta = number(m, job->in->third, step);
        affine_double(z, k, start, width);
        literal_gradient(g, hat, m, z, k, token(m, job->in->v, step));
        for (int i = 0; i < width; i++) {
            const double by = -2 * theta * (double)k[i];
            double *s = momentum + (ptrdiff_t)i * width, *w = memory + (ptrdiff_t)i * width;
            for (int j = 0; j < width; j++) {
                s[j] = eta * s[j] + by * g[j];
                w[j] = keep * w[j] + s[j];
            }
        }
        affine_double(o, token(m, job->in->q, step), memory, width);
        double deviation;
        normalise_double(hat, &deviation, o, width, (double)job->rule->eps);
        float *y = sv_walk_row(job->y, job->seq, m->group, step) + (ptrdiff_t)m->head * width;
        for (int j = 0; j < width; j++)
            y[j] = (float)(o[j] + hat[j] * (double)m->weight[j] + (double)m->bias[j]);
    }
    for (ptrdiff_t i = 0; i < size; i++)
        kept_memory[i] = (float)memory[i], kept_momentum[i] = (float)momentum[i];
}

/* ---- Miras ------------------------------------------------------------------------------------------ */

static double squared_norm(const double *a, ptrdiff_t count)
{
    double sum = 0;
    for (ptrdiff_t i = 0; i < count; i++) sum += (a[i] * a[i]) * (a[i] * a[i]);
    return sqrt(sum);
}

/* MONETA; W = A / |A|_4^2, and 0 for A = 0. */
static void remember_norm(const head *m, float *kept, double *a)
{
    const sv_memory_job *job = m->job;
    const int width = m->width;
    const ptrdiff_t size = (ptrdiff_t)width * width;
    double *e = a + size;
    for (ptrdiff_t i = 0; i < size; i++) a[i] = (double)kept[i];
    double norm = squared_norm(a, size);
    for (int step = 0; step < job->seq->length; step++) {
        const float *k = token(m, job->in->k, step), *v = token(m, job->in->v, step);
        const double eta = number(m, job->in->row, step), alpha = number(m, job->in->column, step);
        affine_double(e, k, a, width);
        for (int j = 0; j < width; j++) {
            e[j] = (norm > 0 ? e[j] / norm : 0) - (double)v[j];
            e[j] *= 3 * fabs(e[j]);
        }
        for (int i = 0; i < width; i++)
            for (int j = 0; j < width; j++)
                a[(ptrdiff_t)i * width + j] = alpha * a[(ptrdiff_t)i * width + j] - eta * (double)k[i] * e[j];
        norm = squared_norm(a, size);
        affine_double(e, token(m, job->in->q, step), a, width);
        float *y = sv_walk_row(job->y, job->seq, m->group, step) + (ptrdiff_t)m->head * width;
        for (int j = 0; j < width; j++) y[j] = (float)(norm > 0 ? e[j] / norm : 0);
    }
    for (ptrdiff_t i = 0; i < size; i++) kept[i] = (float)a[i];
}

/* Rows as logarithms of shares: sums of e^x over keys become 1. 'y' receives sum_i e^x_i q_i. */
static void normalise_shares(float *w, const float *q, float *y, int width)
{
    SV_LANES(j, n, width)
    {
        vf most = row_load(w + j, n), sum = m_set(0.0f), out = m_set(0.0f);
        for (int i = 1; i < width; i++) most = m_max(most, row_load(w + (ptrdiff_t)i * width + j, n));
        for (int i = 0; i < width; i++) {
            const vf e = m_exp(row_load(w + (ptrdiff_t)i * width + j, n) - most);
            sum = sum + e;
            out = m_fma(m_set(q[i]), e, out);
        }
        const vf shift = most + m_log(sum);
        for (int i = 0; i < width; i++) {
            float *x = w + (ptrdiff_t)i * width + j;
            row_store(x, row_load(x, n) - shift, n);
        }
        row_store(y + j, out / sum, n);
    }
}

/* e = W k - v; YAAD's is limited where it is long. */
static void find_error(float *e, const float *v, int width, bool huber, float delta)
{
    SV_LANES(j, n, width) row_store(e + j, row_load(e + j, n) - row_load(v + j, n), n);
    if (!huber || sqrtf(row_dot(e, e, width)) <= delta) return;
    for (int j = 0; j < width; j++) e[j] = delta * (e[j] > 0 ? 1.0f : e[j] < 0 ? -1.0f : 0.0f);
}

static void remember(const head *m, float *w)
{
    const sv_memory_job *job = m->job;
    const bool huber = job->rule->kind == SV_MEMORY_HUBER;
    const int width = m->width, length = job->seq->length;
    float *e = m->line[0];
    for (int step = 0; step < length; step++) {
        const float *k = token(m, job->in->k, step), *q = token(m, job->in->q, step);
        const float eta = number(m, job->in->row, step), alpha = number(m, job->in->column, step);
        if (huber)
            affine(e, k, w, NULL, width, width);
        else
            normalise_shares(w, k, e, width);
        find_error(e, token(m, job->in->v, step), width, huber, huber ? number(m, job->in->third, step) : 0);
        for (int i = 0; i < width; i++) {
            float *row = w + (ptrdiff_t)i * width;
            const vf by = m_set(-eta * k[i]);
            SV_LANES(j, n, width)
            row_store(row + j, m_fma(by, row_load(e + j, n), m_set(alpha) * row_load(row + j, n)), n);
        }
        float *y = sv_walk_row(job->y, job->seq, m->group, step) + (ptrdiff_t)m->head * width;
        if (huber)
            affine(y, q, w, NULL, width, width);
        else
            normalise_shares(w, q, y, width);
    }
}

/* ---- one head --------------------------------------------------------------------------------------- */

static void run(const sv_memory_job *job, int group, int at, float *work)
{
    const unsigned before = sv_flush_denormals();
    const sv_memory *rule = job->rule;
    const ptrdiff_t width = job->width, hidden = rule->kind == SV_MEMORY_MLP ? rule->hidden : 0,
                    heads = rule->heads;
    float *state = sv_walk_group(job->states, group);
    head m = {.job = job, .group = group, .head = at, .width = job->width, .hidden = (int)hidden};
    if (rule->kind <= SV_MEMORY_MOMENTUM) {
        m.weight = sv_f32(job->in->norm_weight) + at * width;
        m.bias = sv_f32(job->in->norm_bias) + at * width;
    }
    double *const precise = (double *)(void *)work;
    work += 2 * sv_memory_doubles(rule, job->width);
    for (int i = 0; i < 4; i++, work += width) m.line[i] = work;
    m.g = work, work += rule->batch * width;
    for (int i = 0; i < 2; i++, work += hidden) m.wide[i] = work;
    m.low = work, work += rule->batch * hidden;
    m.slope = work, work += rule->batch * hidden;
    m.g1 = work, work += rule->batch * hidden;
    switch (rule->kind) {
    case SV_MEMORY_GRADIENT:
        m.w1 = state + at * width * width;
        m.b1 = state + heads * width * width + at * width;
        train(&m);
        break;
    case SV_MEMORY_MLP:
        m.w1 = state + at * width * hidden, state += heads * width * hidden;
        m.b1 = state + at * hidden, state += heads * hidden;
        m.w2 = state + at * hidden * width, state += heads * hidden * width;
        m.b2 = state + at * width;
        train(&m);
        break;
    case SV_MEMORY_MOMENTUM:
        carry_momentum(&m, state + at * width * width, state + (heads + at) * width * width, precise);
        break;
    case SV_MEMORY_NORM:
        remember_norm(&m, state + at * width * width, precise);
        break;
    default:
        remember(&m, state + at * width * width);
    }
    sv_restore_denormals(before);
}

const sv_memory_kernels SV_SIMD(sv_memory_kernels) = {.run = run};
