/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector code of the decayed outer-product scan and of the token shift.
 *
 * The scan is a recurrence whose columns (value channels) know nothing of each other: lanes are values, and
 * q, k and the decay of a token and key channel are broadcasts. Per token, key channel and vector of values
 *
 *     s = s + e s;   s = s + k v;   y = y + q s            e = e^decay - 1
 *
 * three multiply-adds. The matrix form of a chunk of 64 tokens (products of all its pairs beside the state's
 * own) would need about as many at these sizes, and exponentials of differences. Carrying e instead of
 * e^decay keeps slow decays exact: what rounding 1 - 2^-12 to float loses, four thousand steps would add up.
 *
 * Tokens go in blocks; a few key channels at a time pass over a block with their part of the state in
 * registers. Each y is one chain of multiply-adds over the key channels, so a result depends neither on the
 * block nor on the task it falls into. A chunk whose tokens all see each other (SV_READ_CHUNK; LION's
 * retention kernel, Sun et al. 2023 in its block-wise non-causal form) is walked a second time from its end,
 * with a state of its own that begins empty.
 */
#include "perception/core/simd.h"

#include "backbones/decay_kernels.h"
#include "backbones/denormals.h"
#include "backbones/row_math.h"

enum { TOKENS = SV_DECAY_TOKENS, VALUES = SV_DECAY_VALUES };
#if SV_SIMD_ISA == 2
enum { ROWS = 8, VECTORS = 2 }; /* 16 of 32 registers hold the state */
#elif SV_SIMD_ISA == 1
enum { ROWS = 4, VECTORS = 2 }; /* 8 of 16 */
#else
enum { ROWS = 2, VECTORS = 4 }; /* the compiler makes SSE2 of the inner loop */
#endif

/* When y is read: what READ_AFTER and READ_BEFORE say, and between decay and the token's own k v. */
typedef enum order { AFTER, BEFORE, BETWEEN } order;

/* Which decays a token has: one, one per key channel, one per lane, or products of the last two (keys, then lanes). */
typedef enum spread { ONE, PER_KEY, PER_LANE, PAIRS } spread;

/* The tokens of a block in walking order. */
typedef struct block {
    int tokens, keys;
    ptrdiff_t slot, step; /* the first token's slot, and the way to the next */
    const float *q[TOKENS], *k[TOKENS];
    ptrdiff_t e_step; /* between tokens of 'e': keys, VALUES, 1 (of the token) or 0 (of the head) */
    const float *e;
    float v[TOKENS][VALUES], y[TOKENS][VALUES]; /* zero behind the task's values */
    float own_e[TOKENS * (SV_DECAY_KEYS + VALUES)];
} block;

static inline int least(int a, int b)
{
    return a < b ? a : b;
}

/* The slot that walking step 'step' of a group visits. */
static inline ptrdiff_t slot_of(int group, int length, int step, bool reverse)
{
    return (ptrdiff_t)group * length + (reverse ? length - 1 - step : step);
}

/* ---- decayed outer-product scan ------------------------------------------------------------------ */

static void decays(float *e, const float *log, int count)
{
    for (int i = 0; i < count; i += SV_VL) {
        const int n = least(SV_VL, count - i);
        vf_store_n(e + i, decay_less_one(vf_load_n(log + i, n)), n);
    }
}

/* sum_j q_j u_j k_j */
static inline float bonus_of(const float *q, const float *u, const float *k, int keys)
{
    vf sum = m_set(0.0f);
    for (int i = 0; i < keys; i += SV_VL) {
        const int n = least(SV_VL, keys - i); /* lanes beyond are loaded as zeros */
        sum = m_fma(vf_load_n(q + i, n) * vf_load_n(u + i, n), vf_load_n(k + i, n), sum);
    }
    return vf_sum(sum);
}

/* -a of the keys, then b of the task's values. */
static void load_pairs(float *e, const float *row, const sv_decay_job *job, int head, int first, int count)
{
    for (int i = 0; i < job->keys; i++) e[i] = row ? -row[(ptrdiff_t)head * job->keys + i] : 0;
    for (int i = 0; i < count; i++)
        e[job->keys + i] =
            row ? row[(ptrdiff_t)job->heads * job->keys + (ptrdiff_t)head * job->values + first + i] : 0;
}

static void load_block(block *b, const sv_decay_job *job, int group, int head, int first, int count, int step)
{
    const int keys = job->keys;
    b->tokens = least(job->block, job->length - step);
    b->keys = keys;
    b->slot = slot_of(group, job->length, step, job->reverse);
    b->step = job->reverse ? -1 : 1;
    b->e = b->own_e;
    b->e_step = job->kind == SV_DECAY_CHANNEL ? keys
                : job->kind == SV_DECAY_VALUE ? VALUES
                : job->kind == SV_DECAY_PAIR  ? keys + VALUES
                : job->kind == SV_DECAY_TOKEN ? 1
                                              : 0;
    if (b->e_step == 0) b->e = job->decay + head;
    for (int t = 0; t < b->tokens; t++) {
        ptrdiff_t row = b->slot + t * b->step;
        if (job->index) row = job->index[row];
        const bool none = row < 0;
        b->q[t] = none ? job->zeros : job->q + row * job->q_pitch + (ptrdiff_t)head * keys;
        b->k[t] = none ? job->zeros : job->k + row * job->k_pitch + (ptrdiff_t)head * keys;
        const float *v =
            none ? job->zeros : job->v + row * job->v_pitch + (ptrdiff_t)head * job->values + first;
        for (int i = 0; i < count; i += SV_VL) {
            const int n = least(SV_VL, count - i); /* lanes beyond are loaded as zeros */
            vf_store(b->v[t] + i, vf_load_n(v + i, n));
        }
        if (job->kind == SV_DECAY_CHANNEL)
            decays(b->own_e + t * keys,
                   none ? job->zeros : job->decay + row * job->decay_pitch + (ptrdiff_t)head * keys, keys);
        else if (job->kind == SV_DECAY_VALUE)
            decays(b->own_e + t * VALUES,
                   none ? job->zeros
                        : job->decay + row * job->decay_pitch + (ptrdiff_t)head * job->values + first,
                   count);
        else if (job->kind == SV_DECAY_PAIR)
            load_pairs(b->own_e + t * (keys + VALUES), none ? NULL : job->decay + row * job->decay_pitch, job,
                       head, first, count);
        else if (job->kind == SV_DECAY_TOKEN)
            b->own_e[t] = none ? 0 : job->decay[row * job->decay_pitch + head];
        if (!job->bonus) {
            memset(b->y[t], 0, sizeof b->y[t]);
            continue;
        }
        const float own = bonus_of(b->q[t], job->bonus + (ptrdiff_t)head * keys, b->k[t], keys);
        for (int i = 0; i < VALUES; i += SV_VL) vf_store(b->y[t] + i, m_set(own) * vf_load(b->v[t] + i));
    }
    if (job->kind == SV_DECAY_TOKEN) decays(b->own_e, b->own_e, b->tokens);
}

static void store_block(const block *b, const sv_decay_job *job, int head, int first, int count)
{
    float *y = job->y + b->slot * job->y_pitch + (ptrdiff_t)head * job->values + first;
    const ptrdiff_t step = b->step * job->y_pitch;
    const vf scale = m_set(job->scale);
    for (int t = 0; t < b->tokens; t++, y += step)
        for (int i = 0; i < count; i += SV_VL) {
            const int n = least(SV_VL, count - i);
            vf result = scale * vf_load(b->y[t] + i);
            if (job->accumulate) result = vf_load_n(y + i, n) + result;
            vf_store_n(y + i, result, n);
        }
}

/*
 * 'rows' key channels from 'key' on pass over the block with 'vectors' vectors of values; 'state' is the
 * first one's, VALUES floats a key channel. All but the pointers are constants where this is inlined.
 */
static inline __attribute__((always_inline)) void pass(block *b, float *state, int key, int at,
                                                       const int rows, const int vectors, const spread form,
                                                       const order when)
{
    vf s[ROWS][VECTORS];
    SV_UNROLL
    for (int r = 0; r < rows; r++) SV_UNROLL
    for (int i = 0; i < vectors; i++) s[r][i] = vf_load(state + r * VALUES + i * SV_VL);
    for (int step = 0; step < b->tokens; step++) {
        const int t = when == BETWEEN ? b->tokens - 1 - step : step;
        const float *q = b->q[t] + key, *k = b->k[t] + key,
                    *e = b->e + t * b->e_step +
                         (form == PER_KEY || form == PAIRS ? key
                          : form == PER_LANE               ? at
                                                           : 0);
        float *values = b->v[t] + at, *sums = b->y[t] + at;
        vf v[VECTORS], y[VECTORS];
        SV_UNROLL
        for (int i = 0; i < vectors; i++) {
            v[i] = vf_load(values + i * SV_VL);
            y[i] = vf_load(sums + i * SV_VL);
        }
        const vf of_token = m_set(e[0]);
        vf of_lane[VECTORS];
        SV_UNROLL
        for (int i = 0; i < vectors; i++) {
            of_lane[i] = of_token;
            if (form == PER_LANE) of_lane[i] = vf_load(e + i * SV_VL);
            if (form == PAIRS) of_lane[i] = vf_load(b->e + t * b->e_step + b->keys + at + i * SV_VL);
        }
        SV_UNROLL
        for (int r = 0; r < rows; r++) {
            const vf of_key = m_set(form == PER_KEY || form == PAIRS ? e[r] : e[0]), key_r = m_set(k[r]),
                     query = m_set(q[r]);
            SV_UNROLL
            for (int i = 0; i < vectors; i++) {
                if (when == BEFORE) y[i] = m_fma(query, s[r][i], y[i]);
                vf decay = of_key;
                if (form == PER_LANE) decay = of_lane[i];
                if (form == PAIRS) decay = of_key * of_lane[i];
                s[r][i] = m_fma(decay, s[r][i], s[r][i]);
                if (when == BETWEEN) y[i] = m_fma(query, s[r][i], y[i]);
                s[r][i] = m_fma(key_r, v[i], s[r][i]);
                if (when == AFTER) y[i] = m_fma(query, s[r][i], y[i]);
            }
        }
        SV_UNROLL
        for (int i = 0; i < vectors; i++) vf_store(sums + i * SV_VL, y[i]);
    }
    SV_UNROLL
    for (int r = 0; r < rows; r++) SV_UNROLL
    for (int i = 0; i < vectors; i++) vf_store(state + r * VALUES + i * SV_VL, s[r][i]);
}

static inline __attribute__((always_inline)) void walk(block *b, float (*state)[VALUES], int count,
                                                       const spread form, const order when)
{
    for (int at = 0; at < count;) {
        const bool wide = count - at > (VECTORS - 1) * SV_VL;
        int key = 0;
        for (; key + ROWS <= b->keys; key += ROWS) {
            if (wide)
                pass(b, state[key] + at, key, at, ROWS, VECTORS, form, when);
            else
                pass(b, state[key] + at, key, at, ROWS, 1, form, when);
        }
        for (; key < b->keys; key++) {
            if (wide)
                pass(b, state[key] + at, key, at, 1, VECTORS, form, when);
            else
                pass(b, state[key] + at, key, at, 1, 1, form, when);
        }
        at += (wide ? VECTORS : 1) * SV_VL;
    }
}

static void scan(const sv_decay_job *job, int group, int head, int first, int count)
{
    const unsigned before = sv_flush_denormals();
    const size_t bytes = (size_t)count * sizeof(float);
    const spread form = job->kind == SV_DECAY_CHANNEL ? PER_KEY
                        : job->kind == SV_DECAY_VALUE ? PER_LANE
                        : job->kind == SV_DECAY_PAIR  ? PAIRS
                                                      : ONE;
    float state[SV_DECAY_KEYS][VALUES], later[SV_DECAY_KEYS][VALUES];
    block b;
    memset(state, 0, (size_t)job->keys * sizeof state[0]);
    memset(b.v, 0, sizeof b.v);
    if (form == PER_LANE || form == PAIRS) memset(b.own_e, 0, sizeof b.own_e);
    const ptrdiff_t place = (ptrdiff_t)head * job->keys * job->values + first;
    if (job->state_in)
        for (int j = 0; j < job->keys; j++)
            memcpy(state[j], job->state_in + group * job->in_pitch + place + (ptrdiff_t)j * job->values,
                   bytes);

    for (int step = 0; step < job->length; step += job->block) {
        load_block(&b, job, group, head, first, count, step);
        if (job->read == SV_READ_BEFORE && form == PER_KEY)
            walk(&b, state, count, PER_KEY, BEFORE);
        else if (job->read == SV_READ_BEFORE && form == PER_LANE)
            walk(&b, state, count, PER_LANE, BEFORE);
        else if (job->read == SV_READ_BEFORE)
            walk(&b, state, count, ONE, BEFORE);
        else if (form == PAIRS)
            walk(&b, state, count, PAIRS, AFTER);
        else if (form == PER_KEY)
            walk(&b, state, count, PER_KEY, AFTER);
        else if (form == PER_LANE)
            walk(&b, state, count, PER_LANE, AFTER);
        else
            walk(&b, state, count, ONE, AFTER);
        if (job->read == SV_READ_CHUNK) {
            memset(later, 0, (size_t)job->keys * sizeof later[0]);
            walk(&b, later, count, ONE, BETWEEN);
        }
        store_block(&b, job, head, first, count);
    }

    if (job->state_out)
        for (int j = 0; j < job->keys; j++)
            memcpy(job->state_out + group * job->out_pitch + place + (ptrdiff_t)j * job->values, state[j],
                   bytes);
    sv_restore_denormals(before);
}

/* ---- token shift --------------------------------------------------------------------------------- */

/* The input row of walking step 'step'; the step before the group comes from the state. */
static inline const float *input_row(const sv_mix_job *job, int group, int step)
{
    if (step < 0) return job->state ? job->state + group * job->state_pitch : job->zeros;
    ptrdiff_t row = slot_of(group, job->length, step, job->reverse);
    if (job->index) row = job->index[row];
    return row < 0 ? job->zeros : job->x + row * job->x_pitch;
}

static void mix(const sv_mix_job *job, int group, int first, int count)
{
    const float *past = input_row(job, group, first - 1);
    for (int step = first; step < first + count; step++) {
        const float *now = input_row(job, group, step);
        const ptrdiff_t slot = slot_of(group, job->length, step, job->reverse);
        for (int i = 0; i < job->channels; i += SV_VL) {
            const int n = least(SV_VL, job->channels - i);
            const vf x = vf_load_n(now + i, n), change = vf_load_n(past + i, n) - x;
            for (int k = 0; k < job->mixtures; k++) {
                const ptrdiff_t column = (ptrdiff_t)k * job->channels + i;
                const vf m = vf_load_n(job->m + slot * job->m_pitch + column, n);
                vf_store_n(job->y + slot * job->y_pitch + column, m_fma(change, m, x), n);
            }
        }
        past = now;
    }
}

const sv_decay_kernels SV_SIMD(sv_decay_kernels) = {.scan = scan, .mix = mix};
