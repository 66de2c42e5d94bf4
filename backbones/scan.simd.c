/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector code of the sequence primitives of Mamba (Gu and Dao, "Mamba:
 * Linear-Time Sequence Modeling with Selective State Spaces", 2023).
 *
 * Lanes are channels, so that a token's channels are one load, and B and C of a
 * token are broadcasts. The selective scan spends its time in
 *
 *     h[s] = 2^(delta * a[s]) h[s] + (delta*u) B[s];   y += C[s] h[s]      a = A log2(e)
 *
 * with one power of two per channel, token and state. Tokens go in blocks: the
 * rows of a block are brought into a small buffer once (in walking order, so
 * that a reversed walk differs only there), then the states pass over it a few
 * at a time with h and a in registers.
 */
#include "backbones/scan_core.h"

#include "backbones/denormals.h"
#include "backbones/scan_kernels.h"

enum {
    TOKENS = 64, /* of a block */
    LANES = SV_SCAN_CHANNELS,
};

static inline vf load(const float *p, int n, bool full)
{
    return full ? vf_load(p) : vf_load_n(p, n);
}
static inline void store(float *p, vf x, int n, bool full)
{
    if (full)
        vf_store(p, x);
    else
        vf_store_n(p, x, n);
}

static inline int least(int a, int b)
{
    return a < b ? a : b;
}

/* The slot that walking step 'step' of a group visits. */
static inline ptrdiff_t slot_of(int group, int length, int step, bool reverse)
{
    return (ptrdiff_t)group * length + (reverse ? length - 1 - step : step);
}

/* ---- causal convolution ------------------------------------------------------------------------- */

/* The input row of walking step 'step'; steps before the group come from the state. */
static inline const float *input_row(const sv_conv_job *job, int group, int step)
{
    if (step < 0) {
        if (!job->state) return job->zeros;
        return job->state + group * job->state_pitch + (ptrdiff_t)(step + job->taps - 1) * job->channels;
    }
    ptrdiff_t row = slot_of(group, job->length, step, job->reverse);
    if (job->index) row = job->index[row];
    return row < 0 ? job->zeros : job->x + row * job->x_pitch;
}

/*
 * One vector of channels; rows[] are the inputs from taps-1 steps before the first output on. They slide
 * through registers when 'taps' is a constant.
 */
static inline __attribute__((always_inline)) void conv_lanes(const sv_conv_job *job, const float *const *rows,
                                                             float *y, ptrdiff_t y_step, int count, int at,
                                                             int n, bool full, int taps)
{
    vf w[SV_CONV_TAPS], past[SV_CONV_TAPS];
    for (int j = 0; j < taps; j++) {
        float lane[SV_VL] = {0};
        for (int i = 0; i < n; i++) lane[i] = job->w[(at + i) * job->w_pitch + j];
        w[j] = vf_load(lane);
        if (j > 0) past[j] = load(rows[j - 1] + at, n, full);
    }
    const vf bias = load(job->bias + at, n, full);
    for (int t = 0; t < count; t++) {
        for (int j = 0; j + 1 < taps; j++) past[j] = past[j + 1];
        past[taps - 1] = load(rows[t + taps - 1] + at, n, full);
        vf sum = bias;
        for (int j = 0; j < taps; j++) sum = m_fma(w[j], past[j], sum);
        if (job->silu) sum = sv_scan_silu(sum);
        store(y + t * y_step + at, sum, n, full);
    }
}

static void conv(const sv_conv_job *job, int group, int first, int count)
{
    const float *rows[SV_CONV_TOKENS + SV_CONV_TAPS - 1];
    for (int i = 0; i < count + job->taps - 1; i++)
        rows[i] = input_row(job, group, first - (job->taps - 1) + i);
    float *y = job->y + slot_of(group, job->length, first, job->reverse) * job->y_pitch;
    const ptrdiff_t y_step = job->reverse ? -job->y_pitch : job->y_pitch;
    for (int at = 0; at < job->channels; at += SV_VL) {
        const int n = least(SV_VL, job->channels - at);
        if (job->taps == 4 && n == SV_VL)
            conv_lanes(job, rows, y, y_step, count, at, n, true, 4);
        else if (job->taps == 2 && n == SV_VL) /* RWKV's token shift */
            conv_lanes(job, rows, y, y_step, count, at, n, true, 2);
        else
            conv_lanes(job, rows, y, y_step, count, at, n, false, job->taps);
    }
}

/* ---- selective scan ----------------------------------------------------------------------------- */

/* A block of tokens of one vector of channels. */
typedef struct block {
    float delta[TOKENS][SV_VL];
    float input[TOKENS][SV_VL]; /* delta * u */
    float y[TOKENS][SV_VL];
} block;

/* 'states' states (a constant) from state 'from' on pass over a block. */
static inline __attribute__((always_inline)) void pass(block *k, int tokens, const float *b, const float *c,
                                                       ptrdiff_t b_step, ptrdiff_t c_step, const float *a,
                                                       ptrdiff_t a_pitch, float (*h)[SV_VL], int states,
                                                       bool guard)
{
    vf decay[4], hidden[4];
    SV_UNROLL
    for (int s = 0; s < states; s++) {
        decay[s] = vf_load(a + s * a_pitch);
        hidden[s] = vf_load(h[s]);
    }
    for (int t = 0; t < tokens; t++) {
        const vf delta = vf_load(k->delta[t]), u = vf_load(k->input[t]);
        vf y = vf_load(k->y[t]);
        vf power[4];
        SV_UNROLL
        for (int s = 0; s < states; s++) power[s] = sv_scan_power(delta, decay[s], guard);
        SV_UNROLL
        for (int s = 0; s < states; s++) {
            hidden[s] = m_fma(power[s], hidden[s], u * m_set(b[s]));
            y = m_fma(hidden[s], m_set(c[s]), y);
        }
        vf_store(k->y[t], y);
        b += b_step;
        c += c_step;
    }
    SV_UNROLL
    for (int s = 0; s < states; s++) vf_store(h[s], hidden[s]);
}

static inline __attribute__((always_inline)) void passes(const sv_scan_job *job, block *k, int tokens,
                                                         ptrdiff_t row, int at, float (*h)[SV_VL], bool guard)
{
    const ptrdiff_t a_pitch = (job->channels + LANES - 1) / LANES * LANES;
    const ptrdiff_t b_step = job->reverse ? -job->b_pitch : job->b_pitch;
    const ptrdiff_t c_step = job->reverse ? -job->c_pitch : job->c_pitch;
    const float *a = job->a + at, *b = job->b + row * job->b_pitch, *c = job->c + row * job->c_pitch;
    int s = 0;
    for (; s + 4 <= job->states; s += 4)
        pass(k, tokens, b + s, c + s, b_step, c_step, a + s * a_pitch, a_pitch, h + s, 4, guard);
    for (; s < job->states; s++)
        pass(k, tokens, b + s, c + s, b_step, c_step, a + s * a_pitch, a_pitch, h + s, 1, guard);
}

/* The step of slot 'row': stored, or softplus(bias + its 'rank' numbers through W). */
static inline __attribute__((always_inline)) vf step_of(const sv_scan_job *job, ptrdiff_t row, int at, int n,
                                                        bool full)
{
    if (job->delta) return load(job->delta + row * job->delta_pitch + at, n, full);
    const ptrdiff_t pitch = (job->channels + LANES - 1) / LANES * LANES;
    const float *dt = job->dt + row * job->dt_pitch, *w = job->dt_weight + at;
    vf sum = vf_load(job->dt_bias + at);
    for (int r = 0; r < job->rank; r++, w += pitch) sum = m_fma(m_set(dt[r]), vf_load(w), sum);
    return sv_scan_softplus(sum);
}

/* y of slot 'to', gated and added as the job says. */
static inline __attribute__((always_inline)) void put(const sv_scan_job *job, ptrdiff_t to, int at, int n,
                                                      bool full, vf y)
{
    if (job->z) {
        const ptrdiff_t from = job->index ? job->index[to] : to;
        const vf z = from < 0 ? m_set(0.0f) : load(job->z + from * job->z_pitch + at, n, full);
        y = y * sv_scan_silu(z);
    }
    float *out = job->y + to * job->y_pitch + at;
    if (job->accumulate) y = load(out, n, full) + y;
    store(out, y, n, full);
}

/* All tokens of a group for one vector of channels, token by token in blocks. */
static inline __attribute__((always_inline)) void walk_blocks(const sv_scan_job *job, int group, int at,
                                                              int n, bool full, float (*h)[SV_VL])
{
    block k;
    const vf d = load(job->d + at, n, full), reach = vf_load(job->reach + at),
             limit = m_set(sv_scan_tame_reach);
    for (int done = 0; done < job->length; done += TOKENS) {
        const int tokens = least(TOKENS, job->length - done);
        vf wild = m_set(0.0f); /* lanes with a token beyond the limit, NaN included */
        for (int t = 0; t < tokens; t++) {
            const ptrdiff_t row = slot_of(group, job->length, done + t, job->reverse);
            const vf delta = step_of(job, row, at, n, full);
            const vf u = load(job->u + row * job->u_pitch + at, n, full);
            vf_store(k.delta[t], delta);
            vf_store(k.input[t], delta * u);
            vf_store(k.y[t], d * u);
            if (!SV_SCAN_ALWAYS_TAME) wild = m_if_less(m_abs(delta) * reach, limit, wild, m_set(1.0f));
        }
        const ptrdiff_t row = slot_of(group, job->length, done, job->reverse);
        if (!SV_SCAN_ALWAYS_TAME && vf_max(wild) > 0.0f)
            passes(job, &k, tokens, row, at, h, true);
        else
            passes(job, &k, tokens, row, at, h, false);
        for (int t = 0; t < tokens; t++)
            put(job, slot_of(group, job->length, done + t, job->reverse), at, n, full, vf_load(k.y[t]));
    }
}

#if SV_SIMD_ISA == 2
/* The same bits for STATES states: that many registers hold them, and nothing but the steps goes through memory. */
enum { STATES = 16 };
static void walk_registers(const sv_scan_job *job, int group, int at, float (*h)[SV_VL])
{
    const ptrdiff_t a_pitch = (job->channels + LANES - 1) / LANES * LANES;
    const float *a = job->a + at;
    const vf d = vf_load(job->d + at);
    float steps[TOKENS][SV_VL];
    for (int done = 0; done < job->length; done += TOKENS) {
        const int tokens = least(TOKENS, job->length - done);
        for (int t = 0; t < tokens; t++)
            vf_store(steps[t],
                     step_of(job, slot_of(group, job->length, done + t, job->reverse), at, SV_VL, true));
        vf hidden[STATES];
        SV_UNROLL
        for (int s = 0; s < STATES; s++) hidden[s] = vf_load(h[s]);
        for (int t = 0; t < tokens; t++) {
            const ptrdiff_t row = slot_of(group, job->length, done + t, job->reverse);
            const float *b = job->b + row * job->b_pitch, *c = job->c + row * job->c_pitch;
            const vf u = vf_load(job->u + row * job->u_pitch + at), delta = vf_load(steps[t]);
            const vf input = delta * u;
            vf y = d * u;
            SV_UNROLL
            for (int first = 0; first < STATES; first += 4) {
                vf power[4];
                SV_UNROLL
                for (int s = 0; s < 4; s++)
                    power[s] = sv_scan_power(delta, vf_load(a + (first + s) * a_pitch), false);
                SV_UNROLL
                for (int s = 0; s < 4; s++) {
                    hidden[first + s] = m_fma(power[s], hidden[first + s], input * m_set(b[first + s]));
                    y = m_fma(hidden[first + s], m_set(c[first + s]), y);
                }
            }
            put(job, row, at, SV_VL, true, y);
        }
        SV_UNROLL
        for (int s = 0; s < STATES; s++) vf_store(h[s], hidden[s]);
    }
}
#endif

/* One vector of channels of a group. */
static inline __attribute__((always_inline)) void scan_lanes(const sv_scan_job *job, int group, int at, int n,
                                                             bool full)
{
    float h[SV_SCAN_STATES][SV_VL];
    const int states = job->states;
    memset(h, 0, (size_t)states * sizeof h[0]);
    if (job->state_in) {
        const float *in = job->state_in + group * job->in_pitch + (ptrdiff_t)at * states;
        for (int i = 0; i < n; i++)
            for (int s = 0; s < states; s++) h[s][i] = in[i * states + s];
    }
#if SV_SIMD_ISA == 2
    if (full && states == STATES)
        walk_registers(job, group, at, h);
    else
#endif
        walk_blocks(job, group, at, n, full, h);
    if (job->state_out) {
        float *out = job->state_out + group * job->out_pitch + (ptrdiff_t)at * states;
        for (int i = 0; i < n; i++)
            for (int s = 0; s < states; s++) out[i * states + s] = h[s][i];
    }
}

static void scan(const sv_scan_job *job, int group, int first, int count)
{
    const unsigned before = sv_flush_denormals();
    for (int at = first; at < first + count; at += SV_VL) {
        const int n = least(SV_VL, first + count - at);
        if (n == SV_VL)
            scan_lanes(job, group, at, n, true);
        else
            scan_lanes(job, group, at, n, false);
    }
    sv_restore_denormals(before);
}

extern const sv_scan_kernels SV_SIMD(sv_scan_kernels);
const sv_scan_kernels SV_SIMD(sv_scan_kernels) = {.conv = conv, .scan = scan};
