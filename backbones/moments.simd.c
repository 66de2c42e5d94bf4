/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector code of heads that carry second moments of their keys, and of the quadratic attention they are compared with.
 *
 * Second order (higher-order linear attention, Zhang et al. 2025): see sv_second_order; lanes are keys, then values.
 * Taylor (Based, Arora et al. 2024; ReBased, Aksenov et al. 2024): see sv_taylor_scan.
 * MesaNet (von Oswald et al. 2025): y = N' (M + diag(lamb))^-1 q, solved per token by elimination without pivoting, which a
 *   positive definite matrix allows.
 */
#include "backbones/denormals.h"
#include "backbones/moments_kernels.h"
#include "backbones/row_math.h"
#include "backbones/walk.h"

static const float *token(const sv_moments_job *job, sv_tensor t, int group, int head, int step, int width)
{
    return sv_walk_row(t, job->seq, group, step) + (ptrdiff_t)head * width;
}

/* row = keep row + s x */
static inline void row_blend(float *row, float keep, float s, const float *x, int count)
{
    const vf old = m_set(keep), factor = m_set(s);
    SV_LANES(i, n, count)
    row_store(row + i, m_fma(factor, row_load(x + i, n), old * row_load(row + i, n)), n);
}

/* out = x'M of a [from][to] matrix. */
static inline void row_times(float *out, const float *x, const float *matrix, int from, int to)
{
    SV_LANES(j, n, to)
    {
        vf sum[2] = {m_set(0.0f), m_set(0.0f)};
        for (int i = 0; i < from; i++)
            sum[i & 1] = m_fma(m_set(x[i]), row_load(matrix + (ptrdiff_t)i * to + j, n), sum[i & 1]);
        row_store(out + j, sum[0] + sum[1], n);
    }
}

static void second_order(const sv_moments_job *job, int group, int head, float *work)
{
    const unsigned before = sv_flush_denormals();
    const int keys = job->keys, values = job->values;
    const sv_second_order *rule = job->second;
    const ptrdiff_t square = (ptrdiff_t)keys * keys, block = (ptrdiff_t)keys * values;
    float *state = sv_walk_group(job->states, group);
    float *s = state + head * square, *c = state + job->heads * square + head * block,
          *g = c + job->heads * block;
    float *kc = work, *qs = kc + values, *less = qs + keys;
    for (int step = 0; step < job->seq->length; step++) {
        const float *q = token(job, job->q, group, head, step, keys),
                    *k = token(job, job->k, group, head, step, keys),
                    *v = token(job, job->v, group, head, step, values);
        row_times(kc, k, c, keys, values);
        for (int i = 0; i < keys; i++) {
            row_blend(g + i * (ptrdiff_t)values, rule->decay_g, rule->share * k[i], kc, values);
            row_blend(s + i * (ptrdiff_t)keys, rule->decay, k[i], k, keys);
            row_blend(c + i * (ptrdiff_t)values, rule->decay, q[i], v, values);
        }
        float *y = sv_walk_row(job->y, job->seq, group, step) + (ptrdiff_t)head * values;
        row_times(qs, q, s, keys, keys);
        row_times(y, qs, c, keys, values);
        row_times(less, q, g, keys, values);
        row_add(y, -1, less, values);
    }
    sv_restore_denormals(before);
}

/* 1, x_j, x_j x_l for j <= l */
static void find_features(float *f, const float *x, int keys)
{
    *f++ = 1;
    memcpy(f, x, (size_t)keys * sizeof *f);
    f += keys;
    for (int j = 0; j < keys; f += keys - j, j++) row_scale(f, x[j], x + j, keys - j);
}

/* What turns features of scale q and k into c0 + c1 s + c2 s^2: pairs of different channels count twice. */
static void weigh_features(float *f, const sv_taylor *rule, int keys)
{
    *f++ *= rule->c0;
    row_scale(f, rule->c1, f, keys);
    f += keys;
    for (int j = 0; j < keys; f += keys - j, j++) {
        row_scale(f, 2 * rule->c2, f, keys - j);
        f[0] *= 0.5f;
    }
}

/*
 * Tokens of the own chunk are weighed one by one: their features would cancel where s is small, and while few tokens are
 * there nothing larger hides that. Earlier chunks come from the sums.
 */
static void taylor_token(const sv_moments_job *job, int group, int head, int begin, int t, const float *sums,
                         const float *weights, float *work)
{
    const sv_taylor *rule = job->taylor;
    const int keys = job->keys, values = job->values, features = 1 + keys + keys * (keys + 1) / 2;
    float *q = work, *f = q + keys, *past = f + features;
    float *y = sv_walk_row(job->y, job->seq, group, t) + (ptrdiff_t)head * values;
    row_scale(q, rule->scale, token(job, job->q, group, head, t, keys), keys);
    find_features(f, q, keys);
    weigh_features(f, rule, keys);
    row_times(past, f, sums, features, values);
    float total = row_dot(f, weights, features);
    for (int s = begin; s <= t; s++) {
        const float match = row_dot(q, token(job, job->k, group, head, s, keys), keys);
        const float w = rule->c0 + match * (rule->c1 + match * rule->c2);
        row_add(past, w, token(job, job->v, group, head, s, values), values);
        total += w;
    }
    row_scale(y, rule->normalise ? 1 / (total + rule->eps) : 1, past, values);
}

static void taylor(const sv_moments_job *job, int group, int head, float *work)
{
    const int keys = job->keys, values = job->values, features = 1 + keys + keys * (keys + 1) / 2;
    const int length = job->seq->length;
    float *state = sv_walk_group(job->states, group);
    float *sums = state + (ptrdiff_t)head * features * values,
          *weights = state + (ptrdiff_t)job->heads * features * values + (ptrdiff_t)head * features;
    for (int begin = 0; begin < length; begin += SV_TAYLOR_TOKENS) {
        const int end = begin + SV_TAYLOR_TOKENS < length ? begin + SV_TAYLOR_TOKENS : length;
        for (int t = begin; t < end; t++) taylor_token(job, group, head, begin, t, sums, weights, work);
        for (int t = begin; t < end; t++) {
            find_features(work, token(job, job->k, group, head, t, keys), keys);
            row_add(weights, 1, work, features);
            const float *v = token(job, job->v, group, head, t, values);
            for (int i = 0; i < features; i++) row_add(sums + (ptrdiff_t)i * values, work[i], v, values);
        }
    }
}

/* x = A^-1 q, A positive definite in 'a' (upper triangle, destroyed). */
static void solve(float *x, float *a, const float *q, int n)
{
    for (int i = 0; i < n; i++) x[i] = q[i];
    for (int i = 0; i < n; i++) {
        const float *pivot = a + (ptrdiff_t)i * n;
        const float rate = 1 / pivot[i];
        for (int r = i + 1; r < n; r++) {
            const float by = pivot[r] * rate;
            row_add(a + (ptrdiff_t)r * n + r, -by, pivot + r, n - r);
            x[r] -= by * x[i];
        }
    }
    for (int i = n - 1; i >= 0; i--) {
        const float *row = a + (ptrdiff_t)i * n;
        x[i] = (x[i] - row_dot(row + i + 1, x + i + 1, n - i - 1)) / row[i];
    }
}

static void mesa(const sv_moments_job *job, int group, int head, float *work)
{
    const unsigned before = sv_flush_denormals();
    const int keys = job->keys, values = job->values;
    const ptrdiff_t square = (ptrdiff_t)keys * keys, block = (ptrdiff_t)keys * values;
    float *state = sv_walk_group(job->states, group);
    float *m = state + head * square, *n = state + job->heads * square + head * block, *a = work,
          *x = a + square;
    const float *lamb = sv_f32(job->lamb) + (ptrdiff_t)head * keys;
    for (int step = 0; step < job->seq->length; step++) {
        const float *q = token(job, job->q, group, head, step, keys),
                    *k = token(job, job->k, group, head, step, keys),
                    *v = token(job, job->v, group, head, step, values);
        const float beta = sv_walk_row(job->beta, job->seq, group, step)[head];
        float keep[SV_VL];
        vf_store(keep, m_exp(m_set(sv_walk_row(job->g, job->seq, group, step)[head])));
        for (int i = 0; i < keys; i++) {
            row_blend(m + i * (ptrdiff_t)keys, keep[0], beta * k[i], k, keys);
            row_blend(n + i * (ptrdiff_t)values, keep[0], beta * k[i], v, values);
        }
        memcpy(a, m, (size_t)square * sizeof *a);
        for (int i = 0; i < keys; i++) a[i * (ptrdiff_t)(keys + 1)] += lamb[i];
        solve(x, a, q, keys);
        row_times(sv_walk_row(job->y, job->seq, group, step) + (ptrdiff_t)head * values, x, n, keys, values);
    }
    sv_restore_denormals(before);
}

static void attention(const sv_moments_job *job, int group, int head, int first, int count, float *score)
{
    const double *since =
        job->since ? job->since + ((ptrdiff_t)group * job->heads + head) * job->seq->length : NULL;
    for (int t = first; t < first + count; t++) {
        const float *q = token(job, job->q, group, head, t, job->keys);
        const int begin = job->window > 0 && t - job->window + 1 > 0 ? t - job->window + 1 : 0;
        /* places seen: first + n stride, then t itself */
        const int from = begin + (job->stride - 1 - begin % job->stride + job->stride) % job->stride;
        const int earlier = t > from ? (t - from + job->stride - 1) / job->stride : 0;
        float most = -INFINITY;
        for (int n = 0; n <= earlier; n++) {
            const int s = n < earlier ? from + n * job->stride : t;
            score[n] = job->scale * row_dot(q, token(job, job->k, group, head, s, job->keys), job->keys);
            if (since) score[n] += (float)(since[t] - since[s]);
            if (score[n] > most) most = score[n];
        }
        SV_LANES(i, n, earlier + 1) row_store(score + i, m_exp(row_load(score + i, n) - m_set(most)), n);
        const float rate = 1 / row_sum(score, earlier + 1);
        float *y = sv_walk_row(job->y, job->seq, group, t) + (ptrdiff_t)head * job->values;
        SV_LANES(j, n, job->values)
        {
            vf sum = m_set(0.0f);
            for (int i = 0; i <= earlier; i++) {
                const int s = i < earlier ? from + i * job->stride : t;
                sum = m_fma(m_set(score[i]), row_load(token(job, job->v, group, head, s, job->values) + j, n),
                            sum);
            }
            row_store(y + j, sum * m_set(rate), n);
        }
    }
}

const sv_moments_kernels SV_SIMD(sv_moments_kernels) = {
    .second_order = second_order, .taylor = taylor, .mesa = mesa, .attention = attention};
