/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector code of recurrences that are no scan; lanes are channels.
 *
 * sLSTM (Beck et al. 2024), per head with its own y fed back, R its weights:
 *     i, f, z, o = x + R y;  l = log sigmoid(f) + m;  m = max(l, i), and i where n is empty throughout
 *     c = e^(l-m) c + e^(i-m) tanh(z),  n = e^(l-m) n + e^(i-m),  y = sigmoid(o) c / n      both factors at most 1
 * ParaGRU and ParaLSTM (ParaRNN, Danieli et al. 2025), whose state comes back through diagonals a:
 *     z = s(x_z + a_z h), r = s(x_r + a_r h), g = tanh(x_h + a_h h r);  h = z g + (1 - z) h
 *     f = s(x_f + a_f h + p_f c), g = tanh(x_c + a_c h), c' = f c + (1 - f) g, o = s(x_o + a_o h + p_o c'), h = o tanh c'
 *   A Newton iteration replaces the unknown states by those of the last one and solves what is left, which is linear:
 *     h_t = F(h_old) + J (h_(t-1) - h_old),  J = dF/dh at h_old = the last iteration's h_(t-1)
 * Fixed-point RNN (Movahedi et al. 2025): I - Q = U W' has the rank of its factors, so that
 *     (I - diag(1-lam) U W') h = lam h_before + (1-lam) Q b x    is solved by a system of that size (Woodbury).
 */
#include "backbones/cells_kernels.h"
#include "backbones/row_math.h"
#include "backbones/walk.h"

/* ---- sLSTM ------------------------------------------------------------------------------------------ */

static void slstm_step(const float *gates, float *y, float *c, float *n, float *m, int width, bool empty)
{
    const vf zero = m_set(0.0f), one = m_set(1.0f);
    SV_LANES(j, k, width)
    {
        const vf i = row_load(gates + j, k), f = row_load(gates + width + j, k),
                 z = row_load(gates + 2 * width + j, k), o = row_load(gates + 3 * width + j, k);
        const vf l = row_load(m + j, k) - m_softplus(zero - f);
        vf top = m_max(l, i);
        if (empty) top = i;
        const vf take = m_min(one, m_exp(i - top)), keep = m_min(one, m_exp(l - top));
        const vf cell = m_fma(keep, row_load(c + j, k), take * m_tanh(z)),
                 sum = m_fma(keep, row_load(n + j, k), take);
        row_store(c + j, cell, k);
        row_store(n + j, sum, k);
        row_store(m + j, top, k);
        row_store(y + j, m_sigmoid(o) * cell / sum, k);
    }
}

static bool is_zero(const float *x, int count)
{
    for (int i = 0; i < count; i++)
        if (x[i] != 0) return false;
    return true;
}

static void slstm(const sv_cell_job *job, int group, int head, float *gates)
{
    const int channels = job->y.dim[1], width = channels / job->rule->heads;
    float *state = sv_walk_group(job->states, group);
    float *y = state + (ptrdiff_t)head * width, *c = y + channels, *n = c + channels, *m = n + channels;
    const float *own = sv_f32(job->rule->own) + (ptrdiff_t)head * width * 4 * width;
    /* the reference asks whether n is zero in all heads of all its sequences; states of groups are alike in that */
    bool empty = is_zero(n, width);
    for (int step = 0; step < job->seq->length; step++, empty = false) {
        const float *x = sv_walk_row(job->x, job->seq, group, step) + (ptrdiff_t)head * width;
        for (int g = 0; g < 4; g++)
            memcpy(gates + g * width, x + (ptrdiff_t)g * channels, (size_t)width * sizeof *gates);
        for (int i = 0; i < width; i++) row_add(gates, y[i], own + (ptrdiff_t)i * 4 * width, 4 * width);
        slstm_step(gates, y, c, n, m, width, empty);
        memcpy(sv_walk_row(job->y, job->seq, group, step) + (ptrdiff_t)head * width, y,
               (size_t)width * sizeof *y);
    }
}

/* ---- ParaGRU ---------------------------------------------------------------------------------------- */

typedef struct answer {
    vf value, slope;
} answer;

/* F(h) and its derivative. */
static inline answer gru_at(vf h, const float *x, const float *a, ptrdiff_t channels, int n)
{
    const vf one = m_set(1.0f), az = row_load(a, n), ar = row_load(a + channels, n),
             ah = row_load(a + 2 * channels, n);
    const vf z = m_sigmoid(m_fma(az, h, row_load(x, n))),
             r = m_sigmoid(m_fma(ar, h, row_load(x + channels, n)));
    const vf g = m_tanh(m_fma(ah, h * r, row_load(x + 2 * channels, n)));
    const vf dg = (one - g * g) * ah * (r + h * r * (one - r) * ar), dz = z * (one - z) * az;
    return (answer){m_fma(z, g - h, h), dz * (g - h) + z * dg + (one - z)};
}

static void gru(const sv_cell_job *job, int group, int first, int count)
{
    const ptrdiff_t channels = job->y.dim[1];
    float *state = sv_walk_group(job->states, group) + first;
    const float *a = sv_f32(job->rule->own) + first;
    SV_LANES(i, n, count)
    {
        vf h = row_load(state + i, n);
        for (int pass = 0; pass <= job->rule->newton; pass++) {
            vf old = m_set(0.0f); /* of the last iteration, one token back */
            if (job->rule->newton > 0) h = m_set(0.0f);
            for (int step = 0; step < job->seq->length; step++) {
                const float *x = sv_walk_row(job->x, job->seq, group, step) + first + i;
                float *y = sv_walk_row(job->y, job->seq, group, step) + first + i;
                if (job->rule->newton == 0) {
                    h = gru_at(h, x, a + i, channels, n).value;
                } else if (pass == 0) {
                    h = gru_at(m_set(0.0f), x, a + i, channels, n).value;
                } else {
                    const answer at = gru_at(old, x, a + i, channels, n);
                    h = m_fma(at.slope, h - old, at.value);
                    old = row_load(y, n);
                }
                row_store(y, h, n);
            }
        }
        row_store(state + i, h, n);
    }
}

/* ---- ParaLSTM --------------------------------------------------------------------------------------- */

typedef struct pair {
    vf h, c;
} pair;
typedef struct pair_answer {
    pair value, by_h, by_c; /* and its derivatives */
} pair_answer;

static inline pair_answer lstm_at(pair at, const float *x, const float *a, const float *p, ptrdiff_t channels,
                                  int n)
{
    const vf one = m_set(1.0f), af = row_load(a, n), ao = row_load(a + channels, n),
             ac = row_load(a + 2 * channels, n), pf = row_load(p, n), po = row_load(p + channels, n);
    const vf f = m_sigmoid(m_fma(pf, at.c, m_fma(af, at.h, row_load(x, n))));
    const vf g = m_tanh(m_fma(ac, at.h, row_load(x + 2 * channels, n)));
    const vf c = m_fma(f, at.c - g, g);
    const vf o = m_sigmoid(m_fma(po, c, m_fma(ao, at.h, row_load(x + channels, n)))), t = m_tanh(c);
    const vf df = f * (one - f), doo = o * (one - o), dt = o * (one - t * t);
    pair_answer out = {.value = {o * t, c}};
    out.by_h.c = df * af * (at.c - g) + (one - f) * (one - g * g) * ac;
    out.by_c.c = f + df * pf * (at.c - g);
    out.by_h.h = doo * (ao + po * out.by_h.c) * t + dt * out.by_h.c;
    out.by_c.h = doo * po * out.by_c.c * t + dt * out.by_c.c;
    return out;
}

static void lstm(const sv_cell_job *job, int group, int first, int count)
{
    const ptrdiff_t channels = job->y.dim[1];
    float *state = sv_walk_group(job->states, group) + first;
    const float *a = sv_f32(job->rule->own) + first, *p = sv_f32(job->rule->peephole) + first;
    const int newton = job->rule->newton;
    const pair zero = {m_set(0.0f), m_set(0.0f)};
    SV_LANES(i, n, count)
    {
        pair s = {row_load(state + i, n), row_load(state + channels + i, n)};
        for (int pass = 0; pass <= newton; pass++) {
            pair old = zero;
            if (newton > 0) s = zero;
            for (int step = 0; step < job->seq->length; step++) {
                const float *x = sv_walk_row(job->x, job->seq, group, step) + first + i;
                float *y = sv_walk_row(job->y, job->seq, group, step) + first + i;
                float *cell =
                    sv_is_none(job->cell) ? NULL : sv_walk_row(job->cell, job->seq, group, step) + first + i;
                if (newton == 0 || pass == 0) {
                    s = lstm_at(newton > 0 ? zero : s, x, a + i, p + i, channels, n).value;
                } else {
                    const pair_answer at = lstm_at(old, x, a + i, p + i, channels, n);
                    const vf dh = s.h - old.h, dc = s.c - old.c;
                    s.h = at.value.h + at.by_h.h * dh + at.by_c.h * dc;
                    s.c = at.value.c + at.by_h.c * dh + at.by_c.c * dc;
                    old = (pair){row_load(y, n), row_load(cell, n)};
                }
                row_store(y, s.h, n);
                if (cell) row_store(cell, s.c, n);
            }
        }
        row_store(state + i, s.h, n);
        row_store(state + channels + i, s.c, n);
    }
}

/* ---- fixed points ----------------------------------------------------------------------------------- */

/* x of a small system, Gauss with row pivots, in double. */
static void solve_small(double a[SV_MIXERS][SV_MIXERS], double *x, int n)
{
    for (int i = 0; i < n; i++) {
        int best = i;
        for (int r = i + 1; r < n; r++)
            if (fabs(a[r][i]) > fabs(a[best][i])) best = r;
        for (int j = 0; j < n; j++) {
            const double t = a[i][j];
            a[i][j] = a[best][j], a[best][j] = t;
        }
        const double t = x[i];
        x[i] = x[best], x[best] = t;
        for (int r = i + 1; r < n; r++) {
            const double by = a[r][i] / a[i][i];
            for (int j = i; j < n; j++) a[r][j] -= by * a[i][j];
            x[r] -= by * x[i];
        }
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int j = i + 1; j < n; j++) x[i] -= a[i][j] * x[j];
        x[i] /= a[i][i];
    }
}

/* w_k = 2 alpha_k Q'u_k, Q the product of the factors before: then Q = I - sum u_k w_k'. */
static void find_factors(float *w, const float *u, const float *alpha, int rank, int channels)
{
    for (int k = 0; k < rank; k++) {
        const float *unit = u + (ptrdiff_t)k * channels;
        float *row = w + (ptrdiff_t)k * channels;
        row_scale(row, 2 * alpha[k], unit, channels);
        for (int j = 0; j < k; j++)
            row_add(row, -2 * alpha[k] * row_dot(unit, u + (ptrdiff_t)j * channels, channels),
                    w + (ptrdiff_t)j * channels, channels);
    }
}

static void mixer(const sv_cell_job *job, int group, float *work)
{
    const int channels = job->y.dim[1], rank = job->alpha.dim[1];
    float *h = sv_walk_group(job->states, group), *w = work, *p = w + (ptrdiff_t)rank * channels,
          *in = p + (ptrdiff_t)rank * channels;
    for (int step = 0; step < job->seq->length; step++) {
        const float *x = sv_walk_row(job->x, job->seq, group, step),
                    *b = sv_walk_row(job->b, job->seq, group, step),
                    *lam = sv_walk_row(job->lam, job->seq, group, step),
                    *u = sv_walk_row(job->u, job->seq, group, step);
        find_factors(w, u, sv_walk_row(job->alpha, job->seq, group, step), rank, channels);
        SV_LANES(i, n, channels) row_store(in + i, row_load(x + i, n) * row_load(b + i, n), n);
        float along[SV_MIXERS];
        for (int k = 0; k < rank; k++) along[k] = row_dot(w + (ptrdiff_t)k * channels, in, channels);
        for (int k = 0; k < rank; k++) row_add(in, -along[k], u + (ptrdiff_t)k * channels, channels);
        SV_LANES(i, n, channels)
        {
            const vf l = row_load(lam + i, n), rest = m_set(1.0f) - l;
            row_store(h + i, m_fma(l, row_load(h + i, n), rest * row_load(in + i, n)), n);
            for (int k = 0; k < rank; k++)
                row_store(p + (ptrdiff_t)k * channels + i,
                          rest * row_load(u + (ptrdiff_t)k * channels + i, n), n);
        }
        double a[SV_MIXERS][SV_MIXERS], z[SV_MIXERS];
        for (int k = 0; k < rank; k++) {
            z[k] = (double)row_dot(w + (ptrdiff_t)k * channels, h, channels);
            for (int j = 0; j < rank; j++)
                a[k][j] = (k == j ? 1 : 0) -
                          (double)row_dot(w + (ptrdiff_t)k * channels, p + (ptrdiff_t)j * channels, channels);
        }
        solve_small(a, z, rank);
        for (int k = 0; k < rank; k++) row_add(h, (float)z[k], p + (ptrdiff_t)k * channels, channels);
        memcpy(sv_walk_row(job->y, job->seq, group, step), h, (size_t)channels * sizeof *h);
    }
}

const sv_cell_kernels SV_SIMD(sv_cell_kernels) = {.slstm = slstm, .gru = gru, .lstm = lstm, .mixer = mixer};
