/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector code of TTT-Linear (Sun et al., "Learning to (Learn at Test Time): RNNs with Expressive Hidden
 * States", 2024), dual form. The state of a head is a linear model W [f,f], b [f] that learns v - k from k by
 * gradient steps, one per mini-batch of up to 16 tokens; every gradient of a mini-batch is taken at its start:
 *
 *     Z = k W + b;  x = LN(Z) without its weights;  d = (x * gamma + beta - (v - k)) * gamma
 *     g = (d - mean(d) - x mean(d x)) / sqrt(var(Z) + eps)             the gradient of |LN(Z) - (v - k)|^2 / 2
 *     Zbar_t = q_t W + b - sum_(s<=t) token_t rate_s (q_t.k_s + 1) g_s;   y_t = q_t + LN(Zbar_t)
 *     W -= sum_s token_last rate_s k_s' g_s;   b -= sum_s token_last rate_s g_s
 *
 * Lanes are the tokens of the mini-batch, rows are channels, so that both normalisations are sums over rows.
 * Only the update of W, which is kept transposed, has channels in its lanes. Missing tokens of the last
 * mini-batch are zeros with a rate of zero.
 */
#include "perception/core/simd.h"

#include "backbones/denormals.h"
#include "backbones/small_product.h"
#include "backbones/ttt_kernels.h"

enum {
    TOKENS = SV_TTT_TOKENS,
    WIDTH = SV_TTT_WIDTH,
};

typedef struct workspace {
    float w[WIDTH][WIDTH]; /* W transposed */
    float b[WIDTH];
    float q[WIDTH][TOKENS], k[WIDTH][TOKENS], target[WIDTH][TOKENS]; /* a channel's tokens together */
    float k_rows[TOKENS][WIDTH];
    float z[WIDTH][TOKENS]; /* Z, then g, then Zbar, then y */
    float g[WIDTH][TOKENS];
    float mix[TOKENS][TOKENS];                       /* [s][t]: -token_t rate_s (q_t.k_s + 1), 0 for t < s */
    float rate[TOKENS], token[TOKENS], step[TOKENS]; /* step: -token_last rate */
} workspace;

static inline int round_up(int n, int step)
{
    return (n + step - 1) / step * step;
}

/* ---- loading and storing -------------------------------------------------------------------------- */

static inline ptrdiff_t slot_of(const sv_ttt_job *job, int group, int step)
{
    return (ptrdiff_t)group * job->length + (job->reverse ? job->length - 1 - step : step);
}

/* One row of q or k: rotated by its position, then to its token's column. */
static void place(float (*columns)[TOKENS], int t, const float *row, int width, const float *rotary)
{
    if (!rotary) {
        for (int i = 0; i < width; i++) columns[i][t] = row[i];
        return;
    }
    for (int i = 0; i + 1 < width; i += 2) { /* adjacent channels are a plane, turned by an angle */
        const float c = rotary[i], s = rotary[i + 1];
        columns[i][t] = row[i] * c - row[i + 1] * s;
        columns[i + 1][t] = row[i + 1] * c + row[i] * s;
    }
}

static void load_batch(const sv_ttt_job *job, workspace *m, int group, int head, int step, int tokens)
{
    const int width = job->width;
    const ptrdiff_t first = (ptrdiff_t)head * width;
    for (int t = 0; t < TOKENS; t++) {
        ptrdiff_t row = -1;
        if (t < tokens) {
            row = slot_of(job, group, step + t);
            if (job->index) row = job->index[row];
        }
        m->token[t] = t < tokens ? job->token[t] : 0.0f;
        m->rate[t] = 0.0f;
        if (row < 0) {
            for (int i = 0; i < width; i++)
                m->q[i][t] = m->k[i][t] = m->target[i][t] = m->k_rows[t][i] = 0.0f;
            continue;
        }
        const float *turn = job->rotary ? job->rotary + (ptrdiff_t)t * width : NULL;
        const float *v = job->v + row * job->v_pitch + first;
        place(m->q, t, job->q + row * job->q_pitch + first, width, turn);
        place(m->k, t, job->k + row * job->k_pitch + first, width, turn);
        for (int i = 0; i < width; i++) {
            m->k_rows[t][i] = m->k[i][t];
            m->target[i][t] = v[i] - m->k[i][t];
        }
        m->rate[t] = job->rate[row * job->rate_pitch + head];
    }
    for (int t = 0; t < TOKENS; t++) m->step[t] = -job->token[tokens - 1] * m->rate[t];
}

static void store_batch(const sv_ttt_job *job, const workspace *m, int group, int head, int step, int tokens)
{
    for (int t = 0; t < tokens; t++) {
        float *y = job->y + slot_of(job, group, step + t) * job->y_pitch + (ptrdiff_t)head * job->width;
        for (int i = 0; i < job->width; i++) y[i] = m->z[i][t];
    }
}

/* ---- a mini-batch --------------------------------------------------------------------------------- */

/* Mean over the channels of z + b, and 1 / sqrt(variance + eps); z + b is left in z. */
static inline void moments(workspace *m, int width, float eps, int t, vf *mean, vf *scale)
{
    vf sum = m_set(0.0f), squares = sum;
    for (int i = 0; i < width; i++) {
        const vf z = vf_load(m->z[i] + t) + m_set(m->b[i]);
        vf_store(m->z[i] + t, z);
        sum = sum + z;
    }
    *mean = sum * m_set(1.0f / (float)width);
    for (int i = 0; i < width; i++) {
        const vf d = vf_load(m->z[i] + t) - *mean;
        squares = m_fma(d, d, squares);
    }
    *scale = m_set(1.0f) / m_sqrt(m_fma(squares, m_set(1.0f / (float)width), m_set(eps)));
}

/* g from Z. */
static void gradients(workspace *m, int width, float eps, const float *gamma, const float *beta)
{
    const vf share = m_set(1.0f / (float)width);
    for (int t = 0; t < TOKENS; t += SV_VL) {
        vf mean, scale, sum = m_set(0.0f), along = sum;
        moments(m, width, eps, t, &mean, &scale);
        for (int i = 0; i < width; i++) {
            const vf x = (vf_load(m->z[i] + t) - mean) * scale, weight = m_set(gamma[i]);
            const vf d = (m_fma(x, weight, m_set(beta[i])) - vf_load(m->target[i] + t)) * weight;
            vf_store(m->z[i] + t, x);
            vf_store(m->g[i] + t, d);
            sum = sum + d;
            along = m_fma(d, x, along);
        }
        sum = sum * share;
        along = along * share;
        for (int i = 0; i < width; i++) {
            const vf d = vf_load(m->g[i] + t) - sum - vf_load(m->z[i] + t) * along;
            vf_store(m->g[i] + t, d * scale);
        }
    }
}

/* q.k becomes the weights of the gradients. */
static void mix_weights(workspace *m)
{
    for (int s = 0; s < TOKENS; s++) {
        const vf rate = m_set(-m->rate[s]);
        for (int t = 0; t < TOKENS; t += SV_VL) {
            const vf x = (vf_load(m->mix[s] + t) + m_set(1.0f)) * (rate * vf_load(m->token + t));
            vf_store(m->mix[s] + t, x);
        }
        for (int t = 0; t < s; t++) m->mix[s][t] = 0.0f;
    }
}

/* y = q + LN(Zbar), in place. */
static void finish(workspace *m, int width, float eps, const float *gamma, const float *beta)
{
    for (int t = 0; t < TOKENS; t += SV_VL) {
        vf mean, scale;
        moments(m, width, eps, t, &mean, &scale);
        for (int i = 0; i < width; i++) {
            const vf x = (vf_load(m->z[i] + t) - mean) * scale;
            vf_store(m->z[i] + t, vf_load(m->q[i] + t) + m_fma(x, m_set(gamma[i]), m_set(beta[i])));
        }
    }
}

/* The step of gradient descent; g becomes its part of the update. */
static void learn(workspace *m, int width, int padded)
{
    for (int i = 0; i < width; i++) {
        vf sum = m_set(0.0f);
        for (int t = 0; t < TOKENS; t += SV_VL) {
            const vf g = vf_load(m->g[i] + t) * vf_load(m->step + t);
            vf_store(m->g[i] + t, g);
            sum = sum + g;
        }
        m->b[i] += vf_sum(sum);
    }
    const left_side g = {m->g[0], TOKENS, 1};
    small_product(m->w[0], WIDTH, round_up(width, PRODUCT_ROWS), padded, 1, g, m->k_rows[0], WIDTH, TOKENS);
}

/* ---- a group -------------------------------------------------------------------------------------- */

static void load_state(const sv_ttt_job *job, workspace *m, int group, int head)
{
    const ptrdiff_t width = job->width;
    const float *w = job->w + head * width * width, *b = job->b + head * width;
    if (job->state_in) {
        w = job->state_in + group * job->in_pitch + head * (width * width + width);
        b = w + width * width;
    }
    for (ptrdiff_t i = 0; i < width; i++) {
        for (ptrdiff_t j = 0; j < width; j++) m->w[j][i] = w[i * width + j];
        m->b[i] = b[i];
    }
}

static void store_state(const sv_ttt_job *job, const workspace *m, int group, int head)
{
    const ptrdiff_t width = job->width;
    float *w = job->state_out + group * job->out_pitch + head * (width * width + width),
          *b = w + width * width;
    for (ptrdiff_t i = 0; i < width; i++) {
        for (ptrdiff_t j = 0; j < width; j++) w[i * width + j] = m->w[j][i];
        b[i] = m->b[i];
    }
}

static void run(const sv_ttt_job *job, int group, int head)
{
    const unsigned before = sv_flush_denormals();
    const int width = job->width, rows = round_up(width, PRODUCT_ROWS), padded = round_up(width, SV_VL);
    const float *gamma = job->norm_weight + (ptrdiff_t)head * width,
                *beta = job->norm_bias + (ptrdiff_t)head * width;
    workspace m;
    /* What lies between a width and its padding enters the products and must stay zero. */
    const int all = round_up(width, 16);
    for (int i = 0; i < all; i++) {
        memset(m.w[i], 0, sizeof m.w[0][0] * (size_t)all);
        memset(m.g[i], 0, sizeof m.g[0]);
    }
    for (int t = 0; t < TOKENS; t++) memset(m.k_rows[t], 0, sizeof m.k_rows[0][0] * (size_t)all);
    load_state(job, &m, group, head);

    const left_side w = {m.w[0], WIDTH, 1}, g = {m.g[0], TOKENS, 1}, k = {m.k_rows[0], WIDTH, 1};
    for (int step = 0; step < job->length; step += job->batch) {
        const int left = job->length - step, tokens = left < job->batch ? left : job->batch;
        load_batch(job, &m, group, head, step, tokens);
        small_product(m.z[0], TOKENS, rows, TOKENS, 0, w, m.k[0], TOKENS, width);
        gradients(&m, width, job->eps, gamma, beta);
        small_product(m.mix[0], TOKENS, TOKENS, TOKENS, 0, k, m.q[0], TOKENS, width);
        mix_weights(&m);
        small_product(m.z[0], TOKENS, rows, TOKENS, 0, w, m.q[0], TOKENS, width);
        small_product(m.z[0], TOKENS, rows, TOKENS, 1, g, m.mix[0], TOKENS, TOKENS);
        finish(&m, width, job->eps, gamma, beta);
        store_batch(job, &m, group, head, step, tokens);
        learn(&m, width, padded);
    }
    if (job->state_out) store_state(job, &m, group, head);
    sv_restore_denormals(before);
}

extern const sv_ttt_kernels SV_SIMD(sv_ttt_kernels);
const sv_ttt_kernels SV_SIMD(sv_ttt_kernels) = {.run = run};
