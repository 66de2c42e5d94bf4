/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector code of the delta rule (Schlag et al. 2021; Yang et al. 2024) and of diagonal plus rank one in
 * general. Columns (value channels) know nothing of each other: lanes are values. Step by step
 *
 *     s_i = e^decay_i S_i,  p = sum_i a_i s_i      a = k in the delta rule; undecayed S in the general form
 *     e = beta (v - p)                             the general form has p itself, written by b, and v by k
 *     S_i = s_i + k_i e,  y = sum_i q_i S_i
 *
 * and four steps in one go (the chunked or WY form; Yang et al. 2024): everything is read from the state S_0
 * before them, what the steps write into each other's reading goes through dot products of their keys,
 * decayed from writer to reader,
 *
 *     p_t = (a_t c_t)'S_0 + sum_(s<t) (a_t . k_s d_st) e_s    c_t: decay of steps ..t, d_st: of s+1..t
 *     y_t = (q_t c_t)'S_0 + sum_(s<=t) (q_t . k_s d_st) e_s    S = c S_0 + sum_s (k_s d_s) e_s'
 *
 * so the state passes through the registers twice in four steps, and eight independent sums hide the latency
 * of a multiply-add. Longer chunks win nothing here: at these sizes their products of keys cost more than
 * they save (they are what matrix units want). Decays are only ever multiplied, never divided by: none of
 * them can overflow.
 */
#include "backbones/delta_kernels.h"
#include "backbones/denormals.h"
#include "backbones/row_math.h"
#include "backbones/walk.h"

enum { STEPS = 4 };
#if SV_SIMD_ISA == 2
enum { VECTORS = 2 }; /* 16 of 32 registers hold sums */
#elif SV_SIMD_ISA == 1
enum { VECTORS = 1 }; /* 8 of 16 */
#else
enum { VECTORS = 8 }; /* the compiler makes SSE2 of the inner loop */
#endif

/* One correction; a token has one or several of them. */
typedef struct step {
    const float *k, *a, *b, *v; /* b NULL: the delta rule */
    const float *q;             /* NULL: y is not read after this one */
    const float *factor;        /* of the keys; NULL: nothing decays here */
    float beta, weight;
    float *y;
} step;

/* Steps in walking order, and what they do to each other. */
typedef struct block {
    int steps, keys;
    bool general, decays;
    step step[STEPS];
    const float *read[STEPS], *ask[STEPS], *write[STEPS], *write_b[STEPS]; /* a c, q c, k d, b d */
    float seen[STEPS][STEPS], seen_b[STEPS][STEPS];   /* a_t . k_s d_st and a_t . b_s d_st, s < t */
    float asked[STEPS][STEPS], asked_b[STEPS][STEPS]; /* q_t . k_s d_st and q_t . b_s d_st, s <= t */
    float total[SV_DELTA_KEYS];                       /* decay of all steps */
    float factor[STEPS][SV_DELTA_KEYS], own[4][STEPS][SV_DELTA_KEYS];
} block;

/* What a step that is not read asks. */
static const float nothing[SV_DELTA_KEYS];

/* ---- what steps do to each other ----------------------------------------------------------------------- */

static inline void multiply(float *y, const float *a, const float *b, int count)
{
    SV_LANES(i, n, count) row_store(y + i, row_load(a + i, n) * row_load(b + i, n), n);
}

/* Readings of 'row' (a_t or q_t) of what the steps before 'end' have written so far. */
static inline void meet(const block *m, float *seen, float *seen_b, const float *row, int end)
{
    for (int s = 0; s < end; s++) {
        seen[s] = row_dot(row, m->write[s], m->keys);
        if (m->general) seen_b[s] = row_dot(row, m->write_b[s], m->keys);
    }
}

/* The decay of step t comes over everything before it. */
static inline void age(block *m, int t)
{
    const float *factor = m->step[t].factor;
    for (int s = 0; s < t; s++) {
        multiply(m->own[2][s], m->write[s], factor, m->keys);
        m->write[s] = m->own[2][s];
        if (!m->general) continue;
        multiply(m->own[3][s], m->write_b[s], factor, m->keys);
        m->write_b[s] = m->own[3][s];
    }
    if (m->decays)
        multiply(m->total, m->total, factor, m->keys);
    else
        SV_LANES(i, n, m->keys) row_store(m->total + i, row_load(factor + i, n), n);
    m->decays = true;
}

static inline const float *decayed(const block *m, float *own, const float *row)
{
    if (!m->decays) return row;
    multiply(own, row, m->total, m->keys);
    return own;
}

static void prepare(block *m)
{
    m->decays = false;
    for (int t = 0; t < m->steps; t++) {
        const step *now = &m->step[t];
        if (m->general) { /* reads the state before it decays */
            meet(m, m->seen[t], m->seen_b[t], now->a, t);
            m->read[t] = decayed(m, m->own[0][t], now->a);
        }
        if (now->factor) age(m, t);
        if (!m->general) {
            meet(m, m->seen[t], NULL, now->a, t);
            m->read[t] = decayed(m, m->own[0][t], now->a);
        }
        m->write[t] = now->k;
        m->write_b[t] = now->b;
        m->ask[t] = nothing;
        if (!now->q) continue;
        meet(m, m->asked[t], m->asked_b[t], now->q, t + 1);
        m->ask[t] = decayed(m, m->own[1][t], now->q);
    }
}

/* ---- the state ----------------------------------------------------------------------------------------- */

/* p[t] += read[t]'S and y[t] += ask[t]'S. All but the pointers are constants where this is inlined. */
static inline __attribute__((always_inline)) void read_state(const block *m, const float *s, ptrdiff_t pitch,
                                                             vf (*p)[VECTORS], vf (*y)[VECTORS], int n,
                                                             const int steps, const int vectors)
{
    for (int i = 0; i < m->keys; i++, s += pitch) {
        vf h[VECTORS];
        SV_UNROLL
        for (int v = 0; v < vectors; v++)
            h[v] = v == vectors - 1 ? row_load(s + v * SV_VL, n) : vf_load(s + v * SV_VL);
        SV_UNROLL
        for (int t = 0; t < steps; t++) {
            const vf read = m_set(m->read[t][i]), ask = m_set(m->ask[t][i]);
            SV_UNROLL
            for (int v = 0; v < vectors; v++) {
                p[t][v] = m_fma(read, h[v], p[t][v]);
                y[t][v] = m_fma(ask, h[v], y[t][v]);
            }
        }
    }
}

static inline __attribute__((always_inline)) void write_state(const block *m, float *s, ptrdiff_t pitch,
                                                              vf (*e)[VECTORS], vf (*extra)[VECTORS], int n,
                                                              const int steps, const int vectors)
{
    for (int i = 0; i < m->keys; i++, s += pitch) {
        vf h[VECTORS];
        SV_UNROLL
        for (int v = 0; v < vectors; v++) {
            h[v] = v == vectors - 1 ? row_load(s + v * SV_VL, n) : vf_load(s + v * SV_VL);
            if (m->decays) h[v] = h[v] * m_set(m->total[i]);
        }
        SV_UNROLL
        for (int t = 0; t < steps; t++) {
            const vf k = m_set(m->write[t][i]);
            SV_UNROLL
            for (int v = 0; v < vectors; v++) h[v] = m_fma(k, e[t][v], h[v]);
            if (!m->general) continue;
            const vf b = m_set(m->write_b[t][i]);
            SV_UNROLL
            for (int v = 0; v < vectors; v++) h[v] = m_fma(b, extra[t][v], h[v]);
        }
        SV_UNROLL
        for (int v = 0; v < vectors; v++) {
            if (v == vectors - 1)
                row_store(s + v * SV_VL, h[v], n);
            else
                vf_store(s + v * SV_VL, h[v]);
        }
    }
}

/* 'vectors' vectors of values from 'at' on, the last of 'n' values, through all steps of the block. */
static inline __attribute__((always_inline)) void pass(const sv_delta_job *job, const block *m, float *s,
                                                       int at, int n, const int steps, const int vectors)
{
    vf p[STEPS][VECTORS], y[STEPS][VECTORS], e[STEPS][VECTORS];
    SV_UNROLL
    for (int t = 0; t < steps; t++) SV_UNROLL
    for (int v = 0; v < vectors; v++) p[t][v] = y[t][v] = m_set(0.0f);
    read_state(m, s + at, job->values, p, y, n, steps, vectors);
    SV_UNROLL
    for (int t = 0; t < steps; t++) {
        const step *now = &m->step[t];
        SV_UNROLL
        for (int v = 0; v < vectors; v++) {
            const int lanes = v == vectors - 1 ? n : SV_VL;
            for (int k = 0; k < t; k++) {
                p[t][v] = m_fma(m_set(m->seen[t][k]), e[k][v], p[t][v]);
                if (m->general) p[t][v] = m_fma(m_set(m->seen_b[t][k]), p[k][v], p[t][v]);
            }
            const vf value = row_load(now->v + at + v * SV_VL, lanes);
            e[t][v] = value;
            if (!m->general) e[t][v] = m_set(now->beta) * (value - p[t][v]);
            if (!now->q) continue;
            for (int k = 0; k <= t; k++) {
                y[t][v] = m_fma(m_set(m->asked[t][k]), e[k][v], y[t][v]);
                if (m->general) y[t][v] = m_fma(m_set(m->asked_b[t][k]), p[k][v], y[t][v]);
            }
            vf out = m_set(job->rule.scale * now->weight) * y[t][v];
            float *to = now->y + at + v * SV_VL;
            if (job->rule.accumulate) out = row_load(to, lanes) + out;
            row_store(to, out, lanes);
        }
    }
    write_state(m, s + at, job->values, e, p, n, steps, vectors);
}

static inline __attribute__((always_inline)) void pass_values(const sv_delta_job *job, const block *m,
                                                              float *s, int count, const int steps)
{
    for (int at = 0; at < count;) {
        const int left = count - at;
        const bool wide = left > (VECTORS - 1) * SV_VL;
        const int most = (wide ? VECTORS : 1) * SV_VL, taken = left < most ? left : most;
        const int n = taken - (wide ? VECTORS - 1 : 0) * SV_VL;
        if (wide)
            pass(job, m, s, at, n, steps, VECTORS);
        else
            pass(job, m, s, at, n, steps, 1);
        at += taken;
    }
}

static void run_block(const sv_delta_job *job, block *m, float *s, int count)
{
    prepare(m);
    if (m->steps == STEPS)
        pass_values(job, m, s, count, STEPS);
    else if (m->steps == 1)
        pass_values(job, m, s, count, 1);
    else if (m->steps == 2)
        pass_values(job, m, s, count, 2);
    else
        pass_values(job, m, s, count, 3);
    m->steps = 0;
}

/* ---- the walk ------------------------------------------------------------------------------------------ */

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
    block m;
    m.steps = 0, m.keys = keys, m.general = !sv_is_none(in->b);
    float *s = sv_walk_group(job->states, group) + (ptrdiff_t)head * keys * job->values + first;
    for (int at = 0; at < job->seq->length; at++) {
        float *y = sv_walk_row(job->y, job->seq, group, at) + (ptrdiff_t)head * job->values + first;
        const float weight = sv_is_none(in->weight) ? 1.0f : sv_walk_row(in->weight, job->seq, group, at)[0];
        if (weight == 0.0f) {
            pass_over(job, y, count);
            continue;
        }
        for (int j = 0; j < steps; j++) {
            const ptrdiff_t part = (ptrdiff_t)j * heads + head;
            const bool decays = j == 0 && job->rule.decay != SV_DECAY_NONE;
            step *now = &m.step[m.steps];
            *now = (step){.y = y, .weight = weight};
            if (decays) find_factors(job, group, head, at, m.factor[m.steps]);
            now->factor = decays ? m.factor[m.steps] : NULL;
            if (j == steps - 1) now->q = sv_walk_row(in->q, job->seq, group, at) + (ptrdiff_t)head * keys;
            now->a = now->k = sv_walk_row(in->k, job->seq, group, at) + part * keys;
            now->v = sv_walk_row(in->v, job->seq, group, at) + part * job->values + first;
            if (m.general) {
                now->a = sv_walk_row(in->a, job->seq, group, at) + part * keys;
                now->b = sv_walk_row(in->b, job->seq, group, at) + part * keys;
            } else {
                now->beta = sv_walk_row(in->beta, job->seq, group, at)[part];
            }
            if (++m.steps == STEPS) run_block(job, &m, s, count);
        }
    }
    if (m.steps > 0) run_block(job, &m, s, count);
    sv_restore_denormals(before);
}

const sv_delta_kernels SV_SIMD(sv_delta_kernels) = {.scan = scan};
