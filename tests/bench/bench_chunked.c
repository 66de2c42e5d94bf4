/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_chunked [CHANNELS] [LENGTH] [GROUPS] [REPEATS]: for every family of cores the recurrence as its
 * formula reads, one token after the other in plain C, beside the core that operators use (vectors, blocks of
 * steps, chunks), which runs with one thread, too. Printed: the best time of each in nanoseconds per token,
 * their ratio, and how far the results are apart. 4 heads. SAVANNA_ISA=scalar shows what blocks and chunks
 * alone give.
 */
#include "perception/core/context.h"
#include "perception/core/ops.h"
#include "perception/core/simd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 4, STATES = 16, BATCH = 16, MOST = 256 };

typedef struct inputs {
    int channels, width, length, groups, slots;
    float *q, *k, *v, *a, *b, *log, *beta, *gate, *x, *head_log, *matrix, *ones, *zeros;
    float *want, *got, *state;
} inputs;

static uint64_t seed = 1;
static float *filled(size_t count, double from, double to)
{
    float *values = malloc(count * sizeof *values);
    if (!values) exit(4);
    for (size_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        values[i] = (float)(from + (to - from) * (double)(seed >> 40) * 0x1p-24);
    }
    return values;
}

static float *unit_rows(size_t rows, int width)
{
    float *values = filled(rows * (size_t)width, -1, 1);
    for (size_t i = 0; i < rows; i++) {
        float square = 0, *row = values + i * (size_t)width;
        for (int j = 0; j < width; j++) square += row[j] * row[j];
        for (int j = 0; j < width; j++) row[j] /= sqrtf(square);
    }
    return values;
}

static sv_tensor tokens(const inputs *in, float *x, int columns)
{
    return sv_view(x, SV_F32, in->slots, columns);
}

/* ---- the formulas, a head of a group at a time; row(t) is a token's part of 'of' ----------------------- */

#define ROW(of, t) (in->of + ((size_t)(group * in->length + (t)) * HEADS + (size_t)head) * (size_t)in->width)
#define ONE(of, t) (in->of[(size_t)(group * in->length + (t)) * HEADS + (size_t)head])
typedef void (*naive_head)(const inputs *in, int group, int head, float *s);

static void answer(const float *s, const float *q, float *y, int width)
{
    for (int j = 0; j < width; j++) {
        float sum = 0;
        for (int i = 0; i < width; i++) sum += q[i] * s[i * width + j];
        y[j] = sum;
    }
}

static void naive_diagonal(const inputs *in, int group, int head, float *s)
{
    for (int t = 0; t < in->length; t++)
        for (int i = 0; i < in->width; i++) ROW(want, t)[i] = s[i] = ROW(gate, t)[i] * s[i] + ROW(x, t)[i];
}

static void naive_selective(const inputs *in, int group, int head, float *s)
{
    for (int t = 0; t < in->length; t++) {
        const float *row = in->q + (size_t)(group * in->length + t) * (size_t)in->channels;
        const float *b = row, *c = row + STATES;
        for (int i = 0; i < in->width; i++) {
            const float delta = ROW(gate, t)[i], u = ROW(x, t)[i];
            const float *a = in->matrix + (head * in->width + i) * STATES;
            float sum = 0;
            for (int n = 0; n < STATES; n++) {
                s[i * STATES + n] = expf(delta * a[n]) * s[i * STATES + n] + delta * b[n] * u;
                sum += c[n] * s[i * STATES + n];
            }
            ROW(want, t)[i] = sum;
        }
    }
}

static void naive_decay(const inputs *in, int group, int head, float *s)
{
    const int width = in->width;
    for (int t = 0; t < in->length; t++) {
        for (int i = 0; i < width; i++) {
            const float keep = expf(ROW(log, t)[i]), k = ROW(k, t)[i];
            for (int j = 0; j < width; j++) s[i * width + j] = keep * s[i * width + j] + k * ROW(v, t)[j];
        }
        answer(s, ROW(q, t), ROW(want, t), width);
    }
}

static void delta_step(const inputs *in, float *s, const float *k, const float *v, float beta)
{
    const int width = in->width;
    float e[MOST];
    answer(s, k, e, width);
    for (int j = 0; j < width; j++) e[j] = beta * (v[j] - e[j]);
    for (int i = 0; i < width; i++)
        for (int j = 0; j < width; j++) s[i * width + j] += k[i] * e[j];
}

static void naive_delta(const inputs *in, int group, int head, float *s)
{
    for (int t = 0; t < in->length; t++) {
        delta_step(in, s, ROW(k, t), ROW(v, t), ONE(beta, t));
        answer(s, ROW(q, t), ROW(want, t), in->width);
    }
}

static void naive_gated_delta(const inputs *in, int group, int head, float *s)
{
    for (int t = 0; t < in->length; t++) {
        const float keep = expf(ONE(head_log, t));
        for (int i = 0; i < in->width * in->width; i++) s[i] *= keep;
        delta_step(in, s, ROW(k, t), ROW(v, t), ONE(beta, t));
        answer(s, ROW(q, t), ROW(want, t), in->width);
    }
}

static void naive_kda(const inputs *in, int group, int head, float *s)
{
    const int width = in->width;
    for (int t = 0; t < in->length; t++) {
        for (int i = 0; i < width; i++) {
            const float keep = expf(ROW(log, t)[i]);
            for (int j = 0; j < width; j++) s[i * width + j] *= keep;
        }
        delta_step(in, s, ROW(k, t), ROW(v, t), ONE(beta, t));
        answer(s, ROW(q, t), ROW(want, t), width);
    }
}

/* Two steps with the keys k and a, the values v and x; the core's rows: pair_rows(). */
static void naive_product(const inputs *in, int group, int head, float *s)
{
    for (int t = 0; t < in->length; t++) {
        const float keep = expf(ONE(head_log, t));
        for (int i = 0; i < in->width * in->width; i++) s[i] *= keep;
        delta_step(in, s, ROW(k, t), ROW(v, t), ONE(beta, t));
        delta_step(in, s, ROW(a, t), ROW(x, t), ONE(beta, t));
        answer(s, ROW(q, t), ROW(want, t), in->width);
    }
}

static void naive_dplr(const inputs *in, int group, int head, float *s)
{
    const int width = in->width;
    float p[MOST];
    for (int t = 0; t < in->length; t++) {
        answer(s, ROW(a, t), p, width);
        for (int i = 0; i < width; i++) {
            const float keep = expf(ROW(log, t)[i]), k = ROW(k, t)[i], b = ROW(b, t)[i];
            for (int j = 0; j < width; j++)
                s[i * width + j] = keep * s[i * width + j] + k * ROW(v, t)[j] + b * p[j];
        }
        answer(s, ROW(q, t), ROW(want, t), width);
    }
}

/* S = S + k k', C = C + q v', G = G + k (k'C before), y = q'(S C - G) */
static void naive_second(const inputs *in, int group, int head, float *s)
{
    const int width = in->width, size = width * width;
    float *c = s + size, *g = c + size, line[MOST], other[MOST];
    for (int t = 0; t < in->length; t++) {
        const float *q = ROW(q, t), *k = ROW(k, t);
        answer(c, k, line, width);
        for (int i = 0; i < width; i++)
            for (int j = 0; j < width; j++) {
                g[i * width + j] += k[i] * line[j];
                s[i * width + j] += k[i] * k[j];
                c[i * width + j] += q[i] * ROW(v, t)[j];
            }
        answer(s, q, line, width);
        answer(c, line, other, width);
        answer(g, q, line, width);
        for (int j = 0; j < width; j++) ROW(want, t)[j] = other[j] - line[j];
    }
}

static void naive_mlstm(const inputs *in, int group, int head, float *s)
{
    const int width = in->width;
    float *n = s + width * width, m = -INFINITY;
    const float scale = 1 / sqrtf((float)width);
    for (int t = 0; t < in->length; t++) {
        const float forget = -log1pf(expf(-ONE(head_log, t))), input = ONE(beta, t);
        const float most = fmaxf(forget + m, input), f = expf(forget + m - most), i = expf(input - most);
        const float *q = ROW(q, t), *k = ROW(k, t);
        float sum = 0;
        m = most;
        for (int a = 0; a < width; a++) {
            n[a] = f * n[a] + i * k[a];
            sum += n[a] * q[a] * scale;
            for (int j = 0; j < width; j++) s[a * width + j] = f * s[a * width + j] + i * k[a] * ROW(v, t)[j];
        }
        answer(s, q, ROW(want, t), width);
        const float below = fmaxf(fabsf(sum), expf(-m)) + 1e-6f;
        for (int j = 0; j < width; j++) ROW(want, t)[j] *= scale / below;
    }
}

/* TTT-Linear, the memory written out after every token (the primal form). */
static void naive_ttt(const inputs *in, int group, int head, float *s)
{
    const int width = in->width, size = width * width;
    float *b = s + size, *now = b + width, *now_b = now + size, z[MOST], hat[MOST];
    for (int t = 0; t < in->length; t++) {
        const int place = t % BATCH;
        if (place == 0) memcpy(now, s, sizeof *s * (size_t)(size + width));
        const float *q = ROW(q, t), *k = ROW(k, t), *v = ROW(v, t);
        float mean = 0, square = 0, sum = 0, along = 0;
        answer(s, k, z, width);
        for (int j = 0; j < width; j++) z[j] += b[j], mean += z[j] / (float)width;
        for (int j = 0; j < width; j++) square += (z[j] - mean) * (z[j] - mean) / (float)width;
        const float deviation = sqrtf(square + 1e-6f);
        for (int j = 0; j < width; j++) {
            hat[j] = (z[j] - mean) / deviation;
            z[j] = hat[j] - (v[j] - k[j]);
            sum += z[j], along += z[j] * hat[j];
        }
        for (int j = 0; j < width; j++)
            z[j] = (z[j] - sum / (float)width - along * hat[j] / (float)width) / deviation;
        const float eta = ONE(beta, t);
        for (int i = 0; i < width; i++)
            for (int j = 0; j < width; j++) now[i * width + j] -= eta * k[i] * z[j];
        for (int j = 0; j < width; j++) now_b[j] -= eta * z[j];
        answer(now, q, z, width);
        mean = square = 0;
        for (int j = 0; j < width; j++) z[j] += now_b[j], mean += z[j] / (float)width;
        for (int j = 0; j < width; j++) square += (z[j] - mean) * (z[j] - mean) / (float)width;
        for (int j = 0; j < width; j++) ROW(want, t)[j] = q[j] + (z[j] - mean) / sqrtf(square + 1e-6f);
        if (place == BATCH - 1) memcpy(s, now, sizeof *s * (size_t)(size + width));
    }
}

static float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

/* ParaGRU: gates z, r, h beside each other; each channel's own weight is 0.5. */
static void naive_cell(const inputs *in, int group, int head, float *s)
{
    for (int t = 0; t < in->length; t++)
        for (int i = 0; i < in->width; i++) {
            const float h = s[i], z = sigmoid(0.5f * h + ROW(x, t)[i]), r = sigmoid(0.5f * h + ROW(v, t)[i]);
            ROW(want, t)[i] = s[i] = z * tanhf(0.5f * h * r + ROW(q, t)[i]) + (1 - z) * h;
        }
}

/* ---- the cores ----------------------------------------------------------------------------------------- */

typedef sv_status (*shipped)(sv_ctx *c, const inputs *in, sv_tensor y, const sv_sequence *seq);

static sv_status run_diagonal(sv_ctx *c, const inputs *in, sv_tensor y, const sv_sequence *seq)
{
    return sv_diagonal_scan(c, y, tokens(in, in->x, in->channels), tokens(in, in->gate, in->channels), false,
                            false, seq);
}

static sv_status run_selective(sv_ctx *c, const inputs *in, sv_tensor y, const sv_sequence *seq)
{
    const sv_tensor bc = tokens(in, in->q, in->channels);
    return sv_selective_scan(c, y, tokens(in, in->x, in->channels), tokens(in, in->gate, in->channels),
                             sv_view(in->matrix, SV_F32, in->channels, STATES), sv_columns(bc, 0, STATES),
                             sv_columns(bc, STATES, STATES), sv_view(in->zeros, SV_F32, 1, in->channels),
                             SV_NONE, seq, false);
}

static sv_status run_decay(sv_ctx *c, const inputs *in, sv_tensor y, const sv_sequence *seq)
{
    const sv_decay_rule rule = {.heads = HEADS, .decay = SV_DECAY_CHANNEL, .scale = 1};
    return sv_decay_scan(c, y, tokens(in, in->q, in->channels), tokens(in, in->k, in->channels),
                         tokens(in, in->v, in->channels), tokens(in, in->log, in->channels), SV_NONE, &rule,
                         seq, false);
}

static sv_status run_delta_with(sv_ctx *c, const inputs *in, sv_tensor y, const sv_sequence *seq,
                                sv_decay decay, bool general)
{
    const sv_tensor log = decay == SV_DECAY_CHANNEL ? tokens(in, in->log, in->channels)
                          : decay == SV_DECAY_TOKEN ? tokens(in, in->head_log, HEADS)
                                                    : SV_NONE;
    const sv_delta_inputs of = {.q = tokens(in, in->q, in->channels),
                                .k = tokens(in, in->k, in->channels),
                                .v = tokens(in, in->v, in->channels),
                                .decay = log,
                                .beta = general ? SV_NONE : tokens(in, in->beta, HEADS),
                                .a = general ? tokens(in, in->a, in->channels) : SV_NONE,
                                .b = general ? tokens(in, in->b, in->channels) : SV_NONE};
    const sv_delta_rule rule = {.heads = HEADS, .steps = 1, .decay = decay, .scale = 1};
    return sv_delta_scan(c, y, &of, &rule, seq);
}
static sv_status run_delta(sv_ctx *c, const inputs *in, sv_tensor y, const sv_sequence *seq)
{
    return run_delta_with(c, in, y, seq, SV_DECAY_NONE, false);
}
static sv_status run_gated_delta(sv_ctx *c, const inputs *in, sv_tensor y, const sv_sequence *seq)
{
    return run_delta_with(c, in, y, seq, SV_DECAY_TOKEN, false);
}
static sv_status run_kda(sv_ctx *c, const inputs *in, sv_tensor y, const sv_sequence *seq)
{
    return run_delta_with(c, in, y, seq, SV_DECAY_CHANNEL, false);
}
static sv_status run_dplr(sv_ctx *c, const inputs *in, sv_tensor y, const sv_sequence *seq)
{
    return run_delta_with(c, in, y, seq, SV_DECAY_CHANNEL, true);
}

/* The rows of both steps beside each other; made outside the clock. */
static float *pairs_k, *pairs_v, *pairs_beta;
static void pair_rows(const inputs *in)
{
    const size_t slots = (size_t)in->slots, row = (size_t)in->channels;
    pairs_k = filled(2 * slots * row, 0, 0);
    pairs_v = filled(2 * slots * row, 0, 0);
    pairs_beta = filled(2 * slots * HEADS, 0, 0);
    for (size_t t = 0; t < slots; t++) {
        memcpy(pairs_k + 2 * t * row, in->k + t * row, row * sizeof(float));
        memcpy(pairs_k + (2 * t + 1) * row, in->a + t * row, row * sizeof(float));
        memcpy(pairs_v + 2 * t * row, in->v + t * row, row * sizeof(float));
        memcpy(pairs_v + (2 * t + 1) * row, in->x + t * row, row * sizeof(float));
        for (size_t j = 0; j < 2; j++)
            memcpy(pairs_beta + (2 * t + j) * HEADS, in->beta + t * HEADS, HEADS * sizeof(float));
    }
}

static sv_status run_product(sv_ctx *c, const inputs *in, sv_tensor y, const sv_sequence *seq)
{
    const sv_delta_inputs of = {.q = tokens(in, in->q, in->channels),
                                .k = tokens(in, pairs_k, 2 * in->channels),
                                .v = tokens(in, pairs_v, 2 * in->channels),
                                .decay = tokens(in, in->head_log, HEADS),
                                .beta = tokens(in, pairs_beta, 2 * HEADS)};
    const sv_delta_rule rule = {.heads = HEADS, .steps = 2, .decay = SV_DECAY_TOKEN, .scale = 1};
    return sv_delta_scan(c, y, &of, &rule, seq);
}

static sv_status run_second(sv_ctx *c, const inputs *in, sv_tensor y, const sv_sequence *seq)
{
    const sv_second_order rule = {.heads = HEADS, .decay = 1, .decay_g = 1, .share = 1};
    return sv_second_order_scan(c, y, tokens(in, in->q, in->channels), tokens(in, in->k, in->channels),
                                tokens(in, in->v, in->channels), &rule, seq);
}

static sv_status run_mlstm(sv_ctx *c, const inputs *in, sv_tensor y, const sv_sequence *seq)
{
    return sv_mlstm(c, y, tokens(in, in->q, in->channels), tokens(in, in->k, in->channels),
                    tokens(in, in->v, in->channels), tokens(in, in->beta, HEADS),
                    tokens(in, in->head_log, HEADS), HEADS, 1e-6f, seq);
}

static sv_status run_ttt(sv_ctx *c, const inputs *in, sv_tensor y, const sv_sequence *seq)
{
    const sv_memory_inputs of = {.q = tokens(in, in->q, in->channels),
                                 .k = tokens(in, in->k, in->channels),
                                 .v = tokens(in, in->v, in->channels),
                                 .row = tokens(in, in->ones, HEADS),
                                 .column = tokens(in, in->beta, HEADS),
                                 .norm_weight = sv_view(in->ones, SV_F32, HEADS, in->width),
                                 .norm_bias = sv_view(in->zeros, SV_F32, HEADS, in->width)};
    const sv_memory rule = {.kind = SV_MEMORY_GRADIENT,
                            .heads = HEADS,
                            .batch = BATCH,
                            .scale = 1,
                            .eps = 1e-6f,
                            .query_residual = true};
    return sv_memory_scan(c, y, &of, &rule, seq);
}

static float *cell_x, *cell_own;
static void cell_rows(const inputs *in)
{
    const size_t row = (size_t)in->channels;
    cell_x = filled(3 * (size_t)in->slots * row, 0, 0);
    cell_own = filled(3 * row, 0.5, 0.5);
    for (size_t t = 0; t < (size_t)in->slots; t++) {
        memcpy(cell_x + 3 * t * row, in->x + t * row, row * sizeof(float));
        memcpy(cell_x + (3 * t + 1) * row, in->v + t * row, row * sizeof(float));
        memcpy(cell_x + (3 * t + 2) * row, in->q + t * row, row * sizeof(float));
    }
}

static sv_status run_cell(sv_ctx *c, const inputs *in, sv_tensor y, const sv_sequence *seq)
{
    const sv_cell rule = {
        .kind = SV_CELL_PARA_GRU, .heads = 1, .own = sv_view(cell_own, SV_F32, 3, in->channels)};
    return sv_cell_scan(c, y, SV_NONE, tokens(in, cell_x, 3 * in->channels), &rule, seq);
}

/* ---- measuring ----------------------------------------------------------------------------------------- */

static const struct {
    const char *family, *core;
    naive_head naive;
    shipped run;
} families[] = {
    {"diagonal scan", "vectors", naive_diagonal, run_diagonal},
    {"selective scan (S6)", "vectors", naive_selective, run_selective},
    {"decayed outer product", "blocks of tokens", naive_decay, run_decay},
    {"delta rule", "chunks of 4 steps", naive_delta, run_delta},
    {"gated delta rule", "chunks of 4 steps", naive_gated_delta, run_gated_delta},
    {"KDA", "chunks of 4 steps", naive_kda, run_kda},
    {"DeltaProduct, 2 steps", "chunks of 4 steps", naive_product, run_product},
    {"diagonal plus rank 1", "chunks of 4 steps", naive_dplr, run_dplr},
    {"second order", "vectors", naive_second, run_second},
    {"mLSTM", "chunks", naive_mlstm, run_mlstm},
    {"TTT-Linear", "dual form", naive_ttt, run_ttt},
    {"ParaGRU cell", "vectors", naive_cell, run_cell},
};
enum { FAMILIES = sizeof families / sizeof families[0] };

static void walk(const inputs *in, naive_head naive)
{
    for (int group = 0; group < in->groups; group++)
        for (int head = 0; head < HEADS; head++) {
            memset(in->state, 0, sizeof(float) * (size_t)(4 * MOST * MOST));
            naive(in, group, head, in->state);
        }
}

static int number(int argc, char **argv, int at, int otherwise, int most)
{
    const int value = argc > at ? atoi(argv[at]) : otherwise;
    return value >= 1 && value <= most ? value : otherwise;
}

static inputs make_inputs(int channels, int length, int groups)
{
    const size_t slots = (size_t)length * (size_t)groups, row = (size_t)channels;
    inputs in = {.channels = channels, .width = channels / HEADS, .length = length, .groups = groups};
    in.slots = (int)slots;
    in.q = unit_rows(slots * HEADS, in.width), in.k = unit_rows(slots * HEADS, in.width);
    in.a = unit_rows(slots * HEADS, in.width), in.v = filled(slots * row, -1, 1);
    in.b = filled(slots * row, 0, 0), in.x = filled(slots * row, -1, 1);
    in.log = filled(slots * row, -1, -0.001), in.head_log = filled(slots * HEADS, -0.2, -0.001);
    in.beta = filled(slots * HEADS, 0, 0.1), in.gate = filled(slots * row, 0.1, 0.99);
    in.matrix = filled(row * STATES, -8, -0.5), in.ones = filled(slots * row, 1, 1);
    in.zeros = filled(row, 0, 0), in.want = filled(slots * row, 0, 0), in.got = filled(slots * row, 0, 0);
    in.state = filled(4 * MOST * MOST, 0, 0);
    for (size_t i = 0; i < slots * row; i++) in.b[i] = -0.5f * in.a[i];
    pair_rows(&in);
    cell_rows(&in);
    return in;
}

static double apart(const inputs *in)
{
    double most = 0, largest = 1e-30;
    for (int i = 0; i < in->slots * in->channels; i++) {
        most = fmax(most, fabs((double)in->want[i] - (double)in->got[i]));
        largest = fmax(largest, fabs((double)in->want[i]));
    }
    return most / largest;
}

int main(int argc, char **argv)
{
    const int channels = number(argc, argv, 1, 128, 512) / HEADS * HEADS,
              length = number(argc, argv, 2, 2048, 65536), groups = number(argc, argv, 3, 2, 64),
              repeats = number(argc, argv, 4, 5, 1000);
    sv_ctx_def def = sv_ctx_def_default();
    def.threads = 1;
    sv_ctx *c = NULL;
    if (channels < 2 * STATES || sv_ctx_open(&def, &c) != SV_OK) return 4;
    const inputs in = make_inputs(channels, length, groups);
    const sv_sequence seq = {.length = length};
    printf("%d channels in %d heads, %d groups of %d tokens, one thread, %s; nanoseconds per token, best of "
           "%d\n",
           channels, HEADS, groups, length, sv_isa_name(sv_simd_isa()), repeats);
    printf("  %-24s %-20s %10s %10s %8s %10s\n", "family", "core", "formula", "core", "ratio", "apart");
    for (int f = 0; f < FAMILIES; f++) {
        double best[2] = {HUGE_VAL, HUGE_VAL};
        for (int i = 0; i < repeats; i++) {
            double began = sv_clock_ms();
            walk(&in, families[f].naive);
            best[0] = fmin(best[0], sv_clock_ms() - began);
            began = sv_clock_ms();
            if (families[f].run(c, &in, tokens(&in, in.got, channels), &seq) != SV_OK) {
                fprintf(stderr, "%s: %s\n", families[f].family, sv_error_message(c));
                return 4;
            }
            best[1] = fmin(best[1], sv_clock_ms() - began);
        }
        printf("  %-24s %-20s %10.1f %10.1f %7.1fx %10.1e\n", families[f].family, families[f].core,
               1e6 * best[0] / in.slots, 1e6 * best[1] / in.slots, best[0] / best[1], apart(&in));
    }
    sv_ctx_close(c);
    return 0;
}
