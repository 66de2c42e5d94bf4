/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector code of the delta rule (Schlag et al. 2021; Yang et al. 2024) and of diagonal plus rank one in general. Columns
 * (value channels) know nothing of each other: lanes are values. Per token and vector of values two passes over the keys:
 *
 *     s_i = e^decay_i S_i,  p = sum_i a_i s_i           a = k for the delta rule; the undecayed S for the general form
 *     e = beta (v - p)                                  the general form has p itself, written by b, and v by k
 *     S_i = s_i + k_i e,  y = sum_i q_i S_i
 *
 * The sums over keys are four chains, which hide the latency of a multiply-add; their number does not depend on where a
 * value lies, so neither do results.
 */
#include "backbones/delta_kernels.h"
#include "backbones/denormals.h"
#include "backbones/row_math.h"
#include "backbones/walk.h"

enum { CHAINS = 4 };

/* A token of a head: keys, decays and what is read. */
typedef struct token {
    const float *q, *k, *v, *a, *b;
    const float *factor; /* of the keys; NULL: nothing decays here */
    float beta;
    bool last; /* y is read after this step */
} token;

/* a'S, S decayed on the way: the delta rule reads the decayed state, the general form the one before. */
static inline vf read_and_decay(float *s, ptrdiff_t pitch, const token *t, const float *reader, int keys,
                                int n, bool undecayed)
{
    vf sum[CHAINS] = {m_set(0.0f), m_set(0.0f), m_set(0.0f), m_set(0.0f)};
    for (int i = 0; i < keys; i++, s += pitch) {
        vf h = row_load(s, n);
        const vf before = h, by = m_set(reader[i]);
        if (t->factor) {
            h = m_set(t->factor[i]) * h;
            row_store(s, h, n);
        }
        sum[i % CHAINS] = m_fma(by, undecayed ? before : h, sum[i % CHAINS]);
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static inline vf write_and_read(float *s, ptrdiff_t pitch, const token *t, vf value, vf extra, int keys,
                                int n)
{
    vf sum[CHAINS] = {m_set(0.0f), m_set(0.0f), m_set(0.0f), m_set(0.0f)};
    for (int i = 0; i < keys; i++, s += pitch) {
        vf h = m_fma(m_set(t->k[i]), value, row_load(s, n));
        if (t->b) h = m_fma(m_set(t->b[i]), extra, h);
        row_store(s, h, n);
        if (t->last) sum[i % CHAINS] = m_fma(m_set(t->q[i]), h, sum[i % CHAINS]);
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static inline void step(const sv_delta_job *job, float *s, const token *t, float *y, float weight, int count)
{
    const vf scale = m_set(job->rule.scale * weight);
    SV_LANES(i, n, count)
    {
        const vf v = row_load(t->v + i, n);
        const vf read = read_and_decay(s + i, job->values, t, t->a, job->keys, n, t->b != NULL);
        vf value = v;
        if (!t->b) value = m_set(t->beta) * (v - read);
        vf out = scale * write_and_read(s + i, job->values, t, value, read, job->keys, n);
        if (!t->last) continue;
        if (job->rule.accumulate) out = row_load(y + i, n) + out;
        row_store(y + i, out, n);
    }
}

static void find_factors(const sv_delta_job *job, int group, int head, int at, float *factor)
{
    const float *row = sv_walk_row(job->in.decay, job->seq, group, at);
    if (job->rule.decay == SV_DECAY_CHANNEL) {
        SV_LANES(i, n, job->keys)
        row_store(factor + i, m_exp(row_load(row + (ptrdiff_t)head * job->keys + i, n)), n);
        return;
    }
    float value[SV_VL];
    vf_store(value, m_exp(m_set(row[head])));
    for (int i = 0; i < job->keys; i++) factor[i] = value[0];
}

static void pass_over(const sv_delta_job *job, float *y, int count)
{
    if (job->rule.accumulate) return;
    for (int i = 0; i < count; i++) y[i] = 0;
}

static void scan(const sv_delta_job *job, int group, int head, int first, int count)
{
    const unsigned before = sv_flush_denormals();
    const sv_delta_inputs *in = &job->in;
    const int heads = job->rule.heads, keys = job->keys, steps = job->rule.steps;
    float factor[SV_DELTA_KEYS];
    float *s = sv_walk_group(job->states, group) + (ptrdiff_t)head * keys * job->values + first;
    for (int at = 0; at < job->seq->length; at++) {
        float *y = sv_walk_row(job->y, job->seq, group, at) + (ptrdiff_t)head * job->values + first;
        const float weight = sv_is_none(in->weight) ? 1.0f : sv_walk_row(in->weight, job->seq, group, at)[0];
        if (weight == 0.0f) {
            pass_over(job, y, count);
            continue;
        }
        if (job->rule.decay != SV_DECAY_NONE) find_factors(job, group, head, at, factor);
        const float *q = sv_walk_row(in->q, job->seq, group, at) + (ptrdiff_t)head * keys;
        for (int j = 0; j < steps; j++) {
            const ptrdiff_t part = (ptrdiff_t)j * heads + head;
            token t = {.q = q, .last = j == steps - 1};
            t.factor = j == 0 && job->rule.decay != SV_DECAY_NONE ? factor : NULL;
            t.k = sv_walk_row(in->k, job->seq, group, at) + part * keys;
            t.v = sv_walk_row(in->v, job->seq, group, at) + part * job->values + first;
            t.a = t.k;
            if (!sv_is_none(in->b)) {
                t.a = sv_walk_row(in->a, job->seq, group, at) + part * keys;
                t.b = sv_walk_row(in->b, job->seq, group, at) + part * keys;
            } else {
                t.beta = sv_walk_row(in->beta, job->seq, group, at)[part];
            }
            step(job, s, &t, y, weight, count);
        }
    }
    sv_restore_denormals(before);
}

const sv_delta_kernels SV_SIMD(sv_delta_kernels) = {.scan = scan};
