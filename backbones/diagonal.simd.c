/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector code of the diagonal scans; lanes are channels.
 *
 *     diagonal   h = a h + x, real or complex
 *     log_sum    z = log(e^z + e^x), kept as a maximum m and the sum c of e^(x - m): z = m + log c. The share of the new
 *                token is w = e^(x - m) / c, what the older ones keep is 1 - w: its logarithm is taken of w, not of a
 *                difference of two z, which would lose what thousands of small shares add up to
 *     states     N states of a channel: constant (S4D, EMA) or made of the token (Mamba's with negative eigenvalues)
 *     dense      h = A h + b u with a full matrix per channel (LSSL) or for all (LMU)
 */
#include "backbones/denormals.h"
#include "backbones/diagonal_kernels.h"
#include "backbones/row_math.h"
#include "backbones/walk.h"

/* ---- h = a h + x ---------------------------------------------------------------------------------- */

static void real_scan(const sv_diagonal_job *job, int group, int first, int count)
{
    float *state = sv_walk_group(job->states, group) + first;
    SV_LANES(i, n, count)
    {
        vf h = row_load(state + i, n);
        for (int step = 0; step < job->seq->length; step++) {
            vf a = row_load(sv_walk_row(job->a, job->seq, group, step) + first + i, n);
            if (job->log) a = m_exp(a);
            h = m_fma(a, h, row_load(sv_walk_row(job->x, job->seq, group, step) + first + i, n));
            row_store(sv_walk_row(job->y, job->seq, group, step) + first + i, h, n);
        }
        row_store(state + i, h, n);
    }
}

static void complex_scan(const sv_diagonal_job *job, int group, int first, int count)
{
    const int half = job->y.dim[1] / 2;
    float *state = sv_walk_group(job->states, group) + first;
    SV_LANES(i, n, count)
    {
        vf hr = row_load(state + i, n), hi = row_load(state + half + i, n);
        for (int step = 0; step < job->seq->length; step++) {
            const float *a = sv_walk_row(job->a, job->seq, group, step) + first + i,
                        *x = sv_walk_row(job->x, job->seq, group, step) + first + i;
            float *y = sv_walk_row(job->y, job->seq, group, step) + first + i;
            const vf ar = row_load(a, n), ai = row_load(a + half, n);
            const vf r = m_fma(ar, hr, row_load(x, n)) - ai * hi;
            hi = m_fma(ar, hi, m_fma(ai, hr, row_load(x + half, n)));
            hr = r;
            row_store(y, hr, n);
            row_store(y + half, hi, n);
        }
        row_store(state + i, hr, n);
        row_store(state + half + i, hi, n);
    }
}

static void diagonal(const sv_diagonal_job *job, int group, int first, int count)
{
    const unsigned before = sv_flush_denormals();
    if (job->complex_numbers)
        complex_scan(job, group, first, count);
    else
        real_scan(job, group, first, count);
    sv_restore_denormals(before);
}

/* ---- RG-LRU's gates -------------------------------------------------------------------------------- */

static void gates(const sv_diagonal_job *job, int group, int first, int count)
{
    const vf zero = m_set(0.0f);
    for (int step = 0; step < job->seq->length; step++) {
        const bool begins = sv_is_none(job->position)
                                ? step == 0 && sv_is_none(job->seq->state_in)
                                : sv_walk_row(job->position, job->seq, group, step)[0] == 0;
        const float *log = sv_walk_row(job->a, job->seq, group, step) + first,
                    *x = sv_walk_row(job->x, job->seq, group, step) + first;
        float *a = sv_walk_row(job->decay, job->seq, group, step) + first,
              *y = sv_walk_row(job->y, job->seq, group, step) + first;
        SV_LANES(i, n, count)
        {
            const vf l = row_load(log + i, n), in = row_load(x + i, n);
            vf keep = zero, take = in;
            if (!begins) keep = m_exp(l), take = in * m_sqrt(zero - decay_less_one(l + l));
            row_store(a + i, keep, n);
            row_store(y + i, take, n);
        }
    }
}

/* ---- log-sum-exp ---------------------------------------------------------------------------------- */

/* m and c with x added; c 0 is empty. */
static inline void add_exponential(vf *m, vf *c, vf x)
{
    const vf zero = m_set(0.0f), most = m_if_less(zero, *c, m_max(*m, x), x);
    *c = m_if_less(zero, *c, *c * m_exp(*m - most), zero) + m_exp(x - most);
    *m = most;
}

/* log(1 - w), 0 <= w <= 1 */
static inline vf log_rest(vf w)
{
    return m_if_less(w, m_set(1.0f), m_log1p(m_set(0.0f) - w), m_set(-INFINITY));
}

static void log_sum(const sv_diagonal_job *job, int group, int first, int count)
{
    const int channels = job->y.dim[1], length = job->seq->length;
    float *state = sv_walk_group(job->states, group) + first;
    SV_LANES(i, n, count)
    {
        vf m = row_load(state + i, n), c = row_load(state + channels + i, n);
        for (int step = 0; step < length; step++) {
            const vf x = row_load(sv_walk_row(job->x, job->seq, group, step) + first + i, n);
            add_exponential(&m, &c, x);
            if (job->whole) continue;
            const vf w = m_exp(x - m) / c;
            row_store(sv_walk_row(job->y, job->seq, group, step) + first + i, w, n);
            if (!sv_is_none(job->decay))
                row_store(sv_walk_row(job->decay, job->seq, group, step) + first + i, log_rest(w), n);
        }
        for (int step = 0; job->whole && step < length; step++) {
            const vf x = row_load(sv_walk_row(job->x, job->seq, group, step) + first + i, n);
            row_store(sv_walk_row(job->y, job->seq, group, step) + first + i, m_exp(x - m) / c, n);
        }
        row_store(state + i, m, n);
        row_store(state + channels + i, c, n);
    }
}

/* ---- several states of a channel ------------------------------------------------------------------- */

static inline vf state_step(const sv_diagonal_job *job, float *h, int s, ptrdiff_t at, ptrdiff_t imaginary,
                            vf u, vf delta, const float *b, const float *c, int n)
{
    const ptrdiff_t channels = job->y.dim[1], k = s * channels + at;
    const vf hr = row_load(h + k, n);
    if (job->rule->kind == SV_STATE_SELECTIVE) {
        const vf a =
            m_fma(m_set(job->rule->scale), m_exp(delta * row_load(job->ar + k, n)), m_set(job->rule->shift));
        const vf next = m_fma(a, hr, delta * u * m_set(b[s]));
        row_store(h + k, next, n);
        return next * m_set(c[s]);
    }
    const vf ar = row_load(job->ar + k, n), br = row_load(job->br + k, n), cr = row_load(job->cr + k, n);
    if (job->rule->kind == SV_STATE_REAL) {
        const vf next = m_fma(ar, hr, br * u);
        row_store(h + k, next, n);
        return next * cr;
    }
    const vf ai = row_load(job->ai + k, n), bi = row_load(job->bi + k, n), ci = row_load(job->ci + k, n);
    const vf hi = row_load(h + imaginary + k, n);
    const vf next_r = m_fma(ar, hr, br * u) - ai * hi, next_i = m_fma(ar, hi, m_fma(ai, hr, bi * u));
    row_store(h + k, next_r, n);
    row_store(h + imaginary + k, next_i, n);
    return next_r * cr - next_i * ci;
}

static void states(const sv_diagonal_job *job, int group, int first, int count)
{
    const unsigned before = sv_flush_denormals();
    const sv_state_rule *rule = job->rule;
    const bool selective = rule->kind == SV_STATE_SELECTIVE;
    const ptrdiff_t imaginary = (ptrdiff_t)rule->states * job->y.dim[1];
    float *h = sv_walk_group(job->work, group);
    for (int step = 0; step < job->seq->length; step++) {
        const float *b = selective ? sv_walk_row(rule->b, job->seq, group, step) : NULL,
                    *c = selective ? sv_walk_row(rule->c, job->seq, group, step) : NULL;
        const float *x = sv_walk_row(job->x, job->seq, group, step) + first;
        const float *d = selective ? sv_walk_row(rule->delta, job->seq, group, step) + first : NULL;
        float *y = sv_walk_row(job->y, job->seq, group, step) + first;
        SV_LANES(i, n, count)
        {
            const vf u = row_load(x + i, n);
            vf delta = u, sum = m_set(0.0f);
            if (selective) delta = row_load(d + i, n);
            if (!sv_is_none(rule->d)) sum = u * row_load(sv_f32(rule->d) + first + i, n);
            for (int s = 0; s < rule->states; s++)
                sum = sum + state_step(job, h, s, first + i, imaginary, u, delta, b, c, n);
            row_store(y + i, sum, n);
        }
    }
    sv_restore_denormals(before);
}

/* ---- a full matrix ---------------------------------------------------------------------------------- */

static void dense(const sv_diagonal_job *job, int group, int channel)
{
    const int n = job->a.dim[1];
    const float *a = sv_f32(job->a) + (ptrdiff_t)channel * n * job->a.pitch,
                *b = job->br + (ptrdiff_t)channel * n;
    float *h = sv_walk_group(job->states, group) + (ptrdiff_t)channel * n;
    for (int step = 0; step < job->seq->length; step++) {
        const float u = sv_walk_row(job->x, job->seq, group, step)[channel];
        float *y = sv_walk_row(job->y, job->seq, group, step) + (ptrdiff_t)channel * n;
        for (int i = 0; i < n; i++) y[i] = row_dot(a + (ptrdiff_t)i * job->a.pitch, h, n) + b[i] * u;
        memcpy(h, y, (size_t)n * sizeof *h);
    }
}

const sv_diagonal_kernels SV_SIMD(sv_diagonal_kernels) = {
    .diagonal = diagonal, .gates = gates, .log_sum = log_sum, .states = states, .dense = dense};
