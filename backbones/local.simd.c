/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector code of attention among a few: the last tokens (sv_local_rule), and states that blocks of tokens
 * rewrite (sv_block_states). Scores are sums over the channels of a head, lanes are channels.
 */
#include "backbones/local_kernels.h"
#include "backbones/denormals.h"
#include "backbones/row_math.h"
#include "backbones/walk.h"

#include <math.h>

/* score[j] = e^(score[j] - the greatest); gives their sum. */
static float soften(float *score, int count)
{
    float most = score[0], sum = 0;
    for (int j = 1; j < count; j++) most = fmaxf(most, score[j]);
    SV_LANES(j, n, count) row_store(score + j, m_exp(row_load(score + j, n) - m_set(most)), n);
    for (int j = 0; j < count; j++) sum += score[j];
    return sum;
}

static void clear(float *y, int count)
{
    for (int i = 0; i < count; i++) y[i] = 0;
}

/* ---- the last tokens ----------------------------------------------------------------------------------- */

/* A head's tokens that count: those carried, then those of this walk by their steps. */
typedef struct past {
    const sv_local_job *job;
    int group, head, window;
    float *keys, *values; /* carried, [window], the last ones at the end */
    const float *steps;   /* as floats: exact up to 2^24 */
    int lived;            /* of this walk */
} past;

/* The key or value 'back' tokens ago, 0 being the last of this walk. */
static const float *row_of(const past *p, sv_tensor t, const float *carried, int width, int back)
{
    if (back < p->lived)
        return sv_walk_row(t, p->job->seq, p->group, (int)p->steps[p->lived - 1 - back]) +
               (ptrdiff_t)p->head * width;
    return carried + (ptrdiff_t)(p->window - 1 - (back - p->lived)) * width;
}

static void carry_on(const past *p, float *work)
{
    const int keys = p->job->keys, values = p->job->values, window = p->window;
    float *new_keys = work, *new_values = work + (ptrdiff_t)window * keys;
    for (int back = 0; back < window; back++) {
        const ptrdiff_t at = window - 1 - back;
        if (back >= p->lived + window) break;
        memcpy(new_keys + at * keys, row_of(p, p->job->k, p->keys, keys, back), sizeof(float) * (size_t)keys);
        memcpy(new_values + at * values, row_of(p, p->job->v, p->values, values, back),
               sizeof(float) * (size_t)values);
    }
    memcpy(p->keys, new_keys, sizeof(float) * (size_t)window * (size_t)keys);
    memcpy(p->values, new_values, sizeof(float) * (size_t)window * (size_t)values);
}

static void attend(const sv_local_job *job, int group, int head, float *work)
{
    const unsigned before = sv_flush_denormals();
    const int keys = job->keys, values = job->values, window = job->local->window, heads = job->heads;
    float *const state = sv_walk_group(job->states, group), *score = work, *steps = score + window,
                 *fresh = steps + job->seq->length;
    past p = {.job = job, .group = group, .head = head, .window = window, .steps = steps};
    p.keys = state + (ptrdiff_t)head * window * keys;
    p.values = state + (ptrdiff_t)window * heads * keys + (ptrdiff_t)head * window * values;
    float *const total = state + (ptrdiff_t)window * heads * (keys + values) + head;
    double count = (double)*total; /* of the whole stream, or enough of it */
    for (int step = 0; step < job->seq->length; step++) {
        float *y = sv_walk_row(job->y, job->seq, group, step) + (ptrdiff_t)head * values;
        const float weight =
            sv_is_none(job->weight) ? 1.0f : sv_walk_row(job->weight, job->seq, group, step)[0];
        clear(y, values);
        if (weight == 0.0f) continue;
        steps[p.lived++] = (float)step;
        if (job->local->chunked && count >= window) count = 0;
        count += 1;
        const int seen = count < window ? (int)count : window;
        const float *q = sv_walk_row(job->q, job->seq, group, step) + (ptrdiff_t)head * keys;
        for (int back = 0; back < seen; back++)
            score[back] = job->local->scale * row_dot(q, row_of(&p, job->k, p.keys, keys, back), keys);
        const float share = weight / soften(score, seen);
        for (int back = 0; back < seen; back++)
            row_add(y, share * score[back], row_of(&p, job->v, p.values, values, back), values);
    }
    *total = (float)(count < window ? count : window);
    carry_on(&p, fresh);
    sv_restore_denormals(before);
}

/* ---- states and blocks --------------------------------------------------------------------------------- */

/* to[n] = w s[n] for all states; w [rows,width] */
static void project(float *to, sv_tensor w, const float *s, int states)
{
    const int rows = w.dim[0], width = w.dim[1];
    for (int n = 0; n < states; n++)
        for (int r = 0; r < rows; r++)
            to[(ptrdiff_t)n * rows + r] =
                row_dot(sv_f32(w) + (ptrdiff_t)r * w.pitch, s + (ptrdiff_t)n * width, width);
}

/* What the states and a block of tokens know of each other. */
typedef struct meeting {
    const sv_local_job *job;
    int group, first, count; /* the block's tokens */
    float *s, *self, *cross, *key, *value, *both, *score;
} meeting;

static void read_states(const meeting *m, float *y, const float *q, int head)
{
    const int width = m->job->keys, states = m->job->blocks->states;
    const ptrdiff_t inner = (ptrdiff_t)m->job->heads * width;
    for (int n = 0; n < states; n++)
        m->score[n] = m->job->blocks->scale * row_dot(q, m->key + n * inner + head * width, width);
    const float share = 1 / soften(m->score, states);
    clear(y, width);
    for (int n = 0; n < states; n++)
        row_add(y, share * m->score[n], m->value + n * inner + head * width, width);
}

static void read_tokens(const meeting *m, float *y, const float *q, int head)
{
    const sv_local_job *job = m->job;
    const int width = job->keys;
    const ptrdiff_t at = (ptrdiff_t)head * width;
    for (int t = 0; t < m->count; t++)
        m->score[t] = job->blocks->scale *
                      row_dot(q, sv_walk_row(job->k, job->seq, m->group, m->first + t) + at, width);
    const float share = 1 / soften(m->score, m->count);
    clear(y, width);
    for (int t = 0; t < m->count; t++)
        row_add(y, share * m->score[t], sv_walk_row(job->v, job->seq, m->group, m->first + t) + at, width);
}

static void rewrite(const meeting *m, float *line)
{
    const sv_block_states *rule = m->job->blocks;
    const int width = m->job->keys, heads = m->job->heads, channels = rule->self.dim[1];
    const ptrdiff_t inner = (ptrdiff_t)heads * width;
    for (int n = 0; n < rule->states; n++)
        for (int h = 0; h < heads; h++) {
            float *both = m->both + 2 * n * inner + (ptrdiff_t)h * width;
            read_states(m, both, m->self + n * inner + (ptrdiff_t)h * width, h);
            read_tokens(m, both + inner, m->cross + n * inner + (ptrdiff_t)h * width, h);
        }
    for (int n = 0; n < rule->states; n++) {
        project(line, rule->out, m->both + 2 * n * inner, 1);
        for (int d = 0; d < channels; d++) {
            const float gate = sv_f32(rule->gate)[d];
            float *s = m->s + (ptrdiff_t)n * channels + d;
            *s = gate * *s + (1 - gate) * (line[d] + sv_f32(rule->bias)[d]);
        }
    }
}

static void blocks(const sv_local_job *job, int group, float *work)
{
    const unsigned before = sv_flush_denormals();
    const sv_block_states *rule = job->blocks;
    const int width = job->keys, heads = job->heads;
    const ptrdiff_t size = (ptrdiff_t)rule->states * heads * width;
    meeting m = {.job = job, .group = group, .s = sv_walk_group(job->states, group)};
    m.self = work, m.cross = m.self + size, m.key = m.cross + size, m.value = m.key + size;
    m.both = m.value + size, m.score = m.both + 2 * size;
    float *line = m.score + (rule->states > rule->block ? rule->states : rule->block);
    for (m.first = 0; m.first < job->seq->length; m.first += rule->block) {
        const int left = job->seq->length - m.first;
        m.count = left < rule->block ? left : rule->block;
        project(m.self, rule->self, m.s, rule->states);
        project(m.cross, rule->cross, m.s, rule->states);
        project(m.key, rule->key, m.s, rule->states);
        project(m.value, rule->value, m.s, rule->states);
        for (int t = 0; t < m.count; t++)
            for (int h = 0; h < heads; h++)
                read_states(&m, sv_walk_row(job->y, job->seq, group, m.first + t) + (ptrdiff_t)h * width,
                            sv_walk_row(job->q, job->seq, group, m.first + t) + (ptrdiff_t)h * width, h);
        rewrite(&m, line);
    }
    sv_restore_denormals(before);
}

const sv_local_kernels SV_SIMD(sv_local_kernels) = {.attend = attend, .blocks = blocks};
