/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector code of the mLSTM cell (Beck et al., "xLSTM: Extended Long Short-Term Memory", 2024). Per head, with
 * lf = log sigmoid(fgate) and the running maximum m that keeps every exponential at or below one:
 *
 *     m' = max(lf + m, igate);  f = e^(lf + m - m');  i = e^(igate - m')
 *     C = f C + i k v';  n = f n + i k;  h = C' q / (max(|n.q|, e^-m') + eps)         q scaled by keys^-1/2
 *
 * Tokens go in chunks of 16. Within a chunk the recurrence is two small matrix products: with W[s][t] = i_s
 * f_(s+1) .. f_t (0 for t < s) and g[t] = f_0 .. f_t
 *
 *     P[s][t] = (k_s . q_t) W[s][t];   n.q = sum_s P[s][t] + g[t] (n.q_t)
 *     C' q    = [P | g q] [V ; C]      one product of depth 16 + keys, V and C one behind the other
 *     C       = g[15] C + (W[:,15] K)' V
 *
 * The factors f and i come from differences of m taken in double precision, so that rounding m, which only
 * scales C, n and the floor, costs no accuracy however large the gates are. Lanes are tokens for P and value
 * channels for C. A chunk that ends early goes on with tokens of f = 1 and i = 0, which change nothing.
 */
#include "perception/core/simd.h"

#include "backbones/denormals.h"
#include "backbones/mlstm_kernels.h"
#include "backbones/small_product.h"

enum {
    TOKENS = SV_MLSTM_TOKENS,
    WIDTH = SV_MLSTM_WIDTH,
    VALUES = SV_MLSTM_VALUES,
};

typedef struct gates {
    float forget[TOKENS], input[TOKENS]; /* f and i */
    float floor[TOKENS];                 /* e^-m */
    float last[TOKENS];                  /* W[s][15] */
    float decay[TOKENS];                 /* g */
} gates;

typedef struct workspace {
    gates gate;
    float q[WIDTH][TOKENS];           /* scaled queries, a key channel's tokens together */
    float k[TOKENS][WIDTH];           /* later times W[s][15] */
    float p[TOKENS + WIDTH][TOKENS];  /* P, then g q */
    float vc[TOKENS + WIDTH][VALUES]; /* V, then C */
    float n[WIDTH];
    float y[TOKENS][VALUES];
    float factor[TOKENS]; /* of y: 1 / (max(|n.q|, e^-m) + eps) */
} workspace;

static inline int least(int a, int b)
{
    return a < b ? a : b;
}

static inline int round_up(int n, int step)
{
    return (n + step - 1) / step * step;
}

/* The input row of walking step 'step', -1: zeros. */
static inline ptrdiff_t row_of(const sv_mlstm_job *job, int group, int step)
{
    const ptrdiff_t slot = (ptrdiff_t)group * job->length + (job->reverse ? job->length - 1 - step : step);
    return job->index ? job->index[slot] : slot;
}

/* ---- gates ---------------------------------------------------------------------------------------- */

/* Returns the maximum after the chunk. */
static float prepare_gates(const sv_mlstm_job *job, gates *g, const ptrdiff_t *rows, int tokens, int head,
                           float m)
{
    float log_forget[TOKENS] = {0}, input[TOKENS];
    for (int t = 0; t < tokens; t++) {
        log_forget[t] = rows[t] < 0 ? 0.0f : -job->fgate[rows[t] * job->fgate_pitch + head];
        input[t] = rows[t] < 0 ? 0.0f : job->igate[rows[t] * job->igate_pitch + head];
    }
    for (int t = 0; t < TOKENS; t += SV_VL) /* log sigmoid(x) = -softplus(-x) */
        vf_store(log_forget + t, m_set(0.0f) - m_softplus(vf_load(log_forget + t)));
    for (int t = 0; t < TOKENS; t++) {
        if (t >= tokens) {
            g->forget[t] = 0.0f;
            g->input[t] = -INFINITY;
            g->floor[t] = 0.0f;
            continue;
        }
        const float kept = m + log_forget[t], next = kept > input[t] ? kept : input[t];
        g->forget[t] = (float)((double)m + (double)log_forget[t] - (double)next);
        g->input[t] = (float)((double)input[t] - (double)next);
        g->floor[t] = -next;
        m = next;
    }
    for (int t = 0; t < TOKENS; t += SV_VL) {
        vf_store(g->forget + t, m_exp(vf_load(g->forget + t)));
        vf_store(g->input + t, m_exp(vf_load(g->input + t)));
        vf_store(g->floor + t, m_exp(vf_load(g->floor + t)));
    }
    return m;
}

/* ---- loading and storing -------------------------------------------------------------------------- */

static inline void copy(float *to, const float *from, int n)
{
    int i = 0;
    for (; i + SV_VL <= n; i += SV_VL) vf_store(to + i, vf_load(from + i));
    if (i < n) vf_store_n(to + i, vf_load_n(from + i, n - i), n - i);
}

static void load_chunk(const sv_mlstm_job *job, workspace *w, const ptrdiff_t *rows, int tokens, int head,
                       int first, int count)
{
    for (int t = 0; t < tokens; t++) {
        if (rows[t] < 0) {
            for (int i = 0; i < job->keys; i++) w->q[i][t] = w->k[t][i] = 0.0f;
            for (int i = 0; i < count; i++) w->vc[t][i] = 0.0f;
            continue;
        }
        const float *q = job->q + rows[t] * job->q_pitch + (ptrdiff_t)head * job->keys;
        const float *k = job->k + rows[t] * job->k_pitch + (ptrdiff_t)head * job->keys;
        const float *v = job->v + rows[t] * job->v_pitch + (ptrdiff_t)head * job->values + first;
        for (int i = 0; i < job->keys; i++) w->q[i][t] = q[i] * job->scale;
        copy(w->k[t], k, job->keys);
        copy(w->vc[t], v, count);
    }
    for (int t = tokens; t < TOKENS; t++) { /* they must be finite, nothing else */
        for (int i = 0; i < job->keys; i++) w->q[i][t] = w->k[t][i] = 0.0f;
        for (int i = 0; i < count; i++) w->vc[t][i] = 0.0f;
    }
}

static void store_chunk(const sv_mlstm_job *job, const workspace *w, int group, int step, int tokens,
                        int head, int first, int count)
{
    for (int t = 0; t < tokens; t++) {
        const int at = job->reverse ? job->length - 1 - step - t : step + t;
        float *y = job->y + ((ptrdiff_t)group * job->length + at) * job->y_pitch +
                   (ptrdiff_t)head * job->values + first;
        const vf factor = m_set(w->factor[t]);
        for (int i = 0; i < count; i += SV_VL)
            vf_store_n(y + i, vf_load(w->y[t] + i) * factor, least(SV_VL, count - i));
    }
}

/* ---- a chunk -------------------------------------------------------------------------------------- */

static const float unit[TOKENS][TOKENS] = {
    {1},
    {0, 1},
    {0, 0, 1},
    {0, 0, 0, 1},
    {0, 0, 0, 0, 1},
    {0, 0, 0, 0, 0, 1},
    {0, 0, 0, 0, 0, 0, 1},
    {0, 0, 0, 0, 0, 0, 0, 1},
    {0, 0, 0, 0, 0, 0, 0, 0, 1},
    {0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
    {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
    {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
    {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
    {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
    {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
    {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1},
};

/* P from k.q, in place; the gates' 'decay' and 'last'; the factor of each token. */
static void weigh(workspace *w, int keys, float eps)
{
    gates *g = &w->gate;
    for (int t = 0; t < TOKENS; t += SV_VL) {
        vf passed = m_set(0.0f), sum = passed; /* f_(s+1) .. f_t per lane t */
        for (int s = TOKENS - 1; s >= 0; s--) {
            const float forget = s + 1 < TOKENS ? g->forget[s + 1] : 1.0f;
            passed = m_fma(passed, m_set(forget), vf_load(unit[s] + t));
            const vf p = vf_load(w->p[s] + t) * (m_set(g->input[s]) * passed);
            vf_store(w->p[s] + t, p);
            sum = sum + p;
        }
        const vf decay = passed * m_set(g->forget[0]);
        vf_store(g->decay + t, decay);
        vf carried = m_set(0.0f);
        for (int i = 0; i < keys; i++) {
            const vf q = vf_load(w->q[i] + t);
            carried = m_fma(q, m_set(w->n[i]), carried);
            vf_store(w->p[TOKENS + i] + t, q * decay);
        }
        sum = m_fma(carried, decay, sum);
        vf_store(w->factor + t, m_set(1.0f) / (m_max(vf_load(g->floor + t), m_abs(sum)) + m_set(eps)));
    }
    float passed = 1.0f;
    for (int s = TOKENS - 1; s >= 0; s--) {
        g->last[s] = passed * g->input[s];
        passed *= g->forget[s];
    }
}

/* C and n take the chunk's tokens in. */
static void remember(workspace *w, int keys, int padded_keys, int columns)
{
    const gates *g = &w->gate;
    const float keep = g->decay[TOKENS - 1];
    for (int s = 0; s < TOKENS; s++) {
        const vf weight = m_set(g->last[s]);
        for (int i = 0; i < keys; i += SV_VL) vf_store(w->k[s] + i, vf_load(w->k[s] + i) * weight);
    }
    for (int i = 0; i < keys; i += SV_VL) {
        vf sum = vf_load(w->n + i) * m_set(keep);
        for (int s = 0; s < TOKENS; s++) sum = sum + vf_load(w->k[s] + i);
        vf_store(w->n + i, sum);
    }
    const left_side weighted = {w->k[0], 1, WIDTH};
    small_product(w->vc[TOKENS], VALUES, padded_keys, columns, keep, weighted, w->vc[0], VALUES, TOKENS);
}

/* ---- a group -------------------------------------------------------------------------------------- */

static size_t head_state(const sv_mlstm_job *job)
{
    return (size_t)job->keys * (size_t)job->values + (size_t)job->keys + 1;
}

/* Returns the running maximum. */
static float load_state(const sv_mlstm_job *job, workspace *w, int group, int head, int first, int count)
{
    if (!job->state_in) return -INFINITY;
    const float *from =
        job->state_in + group * job->in_pitch + (ptrdiff_t)((size_t)head * head_state(job)) + first;
    for (int i = 0; i < job->keys; i++)
        memcpy(w->vc[TOKENS + i], from + (ptrdiff_t)i * job->values, (size_t)count * sizeof *from);
    const float *normaliser = job->normaliser + ((ptrdiff_t)group * job->heads + head) * (job->keys + 1);
    memcpy(w->n, normaliser, (size_t)job->keys * sizeof *normaliser);
    return normaliser[job->keys];
}

static void store_state(const sv_mlstm_job *job, const workspace *w, int group, int head, int first,
                        int count, float m)
{
    float *to = job->state_out + group * job->out_pitch + (ptrdiff_t)((size_t)head * head_state(job));
    for (int i = 0; i < job->keys; i++)
        memcpy(to + (ptrdiff_t)i * job->values + first, w->vc[TOKENS + i], (size_t)count * sizeof *to);
    if (first > 0) return;
    to += (ptrdiff_t)job->keys * job->values;
    memcpy(to, w->n, (size_t)job->keys * sizeof *to);
    to[job->keys] = m;
}

static void run(const sv_mlstm_job *job, int group, int head, int first, int count)
{
    const unsigned before = sv_flush_denormals();
    const int keys = job->keys, padded_keys = round_up(keys, PRODUCT_ROWS), columns = round_up(count, SV_VL);
    workspace w;
    /* What lies between a size and its padding enters the products and stays zero; so does the memory at the start. */
    for (int i = keys; i < round_up(keys, 16); i++)
        for (int t = 0; t < TOKENS; t++) w.k[t][i] = 0.0f;
    memset(w.vc, 0, sizeof w.vc[0] * (size_t)(TOKENS + padded_keys));
    memset(w.n, 0, sizeof w.n[0] * (size_t)round_up(keys, 16));
    float m = load_state(job, &w, group, head, first, count);

    for (int step = 0; step < job->length; step += TOKENS) {
        const int tokens = least(TOKENS, job->length - step);
        ptrdiff_t rows[TOKENS];
        for (int t = 0; t < tokens; t++) rows[t] = row_of(job, group, step + t);
        load_chunk(job, &w, rows, tokens, head, first, count);
        m = prepare_gates(job, &w.gate, rows, tokens, head, m);
        const left_side k = {w.k[0], WIDTH, 1}, p = {w.p[0], 1, TOKENS};
        small_product(w.p[0], TOKENS, TOKENS, TOKENS, 0, k, w.q[0], TOKENS, keys);
        weigh(&w, keys, job->eps);
        small_product(w.y[0], VALUES, TOKENS, columns, 0, p, w.vc[0], VALUES, TOKENS + keys);
        store_chunk(job, &w, group, step, tokens, head, first, count);
        remember(&w, keys, padded_keys, columns);
    }
    if (job->state_out) store_state(job, &w, group, head, first, count, m);
    sv_restore_denormals(before);
}

extern const sv_mlstm_kernels SV_SIMD(sv_mlstm_kernels);
const sv_mlstm_kernels SV_SIMD(sv_mlstm_kernels) = {.run = run};
