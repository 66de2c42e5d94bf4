/* SPDX-License-Identifier: Apache-2.0
 *
 * TRecViT: its primitives and the whole model against naive double-precision forms written from the definitions, on random
 * shapes; and that clips, streams, batches and threads give the same bytes.
 */
#include "support.h"

#include "backbones/video/trecvit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sv_ctx *contexts[2]; /* 1 and 3 threads */

static void open_contexts(void)
{
    contexts[0] = test_context(1);
    contexts[1] = test_context(3);
}
static void close_contexts(void)
{
    for (int i = 0; i < 2; i++) sv_ctx_close(contexts[i]);
}

static float *random_numbers(test_rng *rng, size_t count, double deviation)
{
    float *x = malloc(sizeof *x * (count + 1));
    ck_assert_ptr_nonnull(x);
    rng_fill(rng, x, count, deviation);
    return x;
}

static int pick(test_rng *rng, int from, int to)
{
    return from + (int)(rng_u64(rng) % (uint64_t)(to - from + 1));
}

/* ---- attention ---------------------------------------------------------------------------------------- */

/* y [length, heads*values] of one group in double; pitch of the inputs in floats. */
static void naive_attention(double *y, const float *q, const float *k, const float *v, int pitch, int v_pitch,
                            int length, int heads, int keys, int values, double scale)
{
    double *s = malloc(sizeof *s * (size_t)length);
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < length; i++) {
            double most = -INFINITY, sum = 0;
            for (int j = 0; j < length; j++) {
                s[j] = 0;
                for (int d = 0; d < keys; d++)
                    s[j] += (double)q[i * pitch + h * keys + d] * (double)k[j * pitch + h * keys + d];
                s[j] *= scale;
                most = fmax(most, s[j]);
            }
            for (int j = 0; j < length; j++) sum += s[j] = exp(s[j] - most);
            for (int d = 0; d < values; d++) {
                double out = 0;
                for (int j = 0; j < length; j++) out += s[j] / sum * (double)v[j * v_pitch + h * values + d];
                y[(i * heads + h) * values + d] = out;
            }
        }
    free(s);
}

START_TEST(attention_among_all_tokens)
{
    static const int lengths[] = {1, 2, 15, 17, 64, 65, 130, 197};
    test_rng rng = {(uint64_t)_i * 31 + 7};
    const int heads = pick(&rng, 1, 5), keys = pick(&rng, 1, 70), values = pick(&rng, 1, 40),
              length = lengths[pick(&rng, 0, 7)], groups = _i == 0 ? 0 : pick(&rng, 1, 30),
              rows = groups * length, wide = 2 * heads * keys + heads * values, n = heads * values;
    float *in = random_numbers(&rng, (size_t)rows * (size_t)wide, 1);
    float *y[2];
    const sv_tensor all = sv_view(in, SV_F32, rows, wide);
    const sv_tensor q = sv_columns(all, 0, heads * keys), k = sv_columns(all, heads * keys, heads * keys),
                    v = sv_columns(all, 2 * heads * keys, n);
    const float scale = (float)rng_uniform(&rng, 0.05, 1.5);
    for (int t = 0; t < 2; t++) {
        y[t] = random_numbers(&rng, (size_t)rows * (size_t)n, 1);
        assert_ok(contexts[t], sv_dense_attention(contexts[t], sv_view(y[t], SV_F32, rows, n), q, k, v, heads,
                                                  scale, length));
    }
    ck_assert_msg(memcmp(y[0], y[1], sizeof(float) * (size_t)rows * (size_t)n) == 0,
                  "bytes depend on threads");
    double *want = malloc(sizeof *want * (size_t)length * (size_t)n);
    for (int g = 0; g < groups; g++) {
        const ptrdiff_t row = (ptrdiff_t)g * length;
        naive_attention(want, sv_f32(q) + row * wide, sv_f32(k) + row * wide, sv_f32(v) + row * wide, wide,
                        wide, length, heads, keys, values, (double)scale);
        for (int i = 0; i < length * n; i++)
            ck_assert_msg(fabs((double)y[0][row * n + i] - want[i]) <= 2e-5,
                          "%d tokens, %d heads of %d and %d: %g instead of %g", length, heads, keys, values,
                          (double)y[0][row * n + i], want[i]);
    }
    assert_fails(contexts[0],
                 sv_dense_attention(contexts[0], sv_view(y[0], SV_F32, rows, n), q, k, v, heads, 0, length),
                 SV_BAD_SHAPE, "scaled by 0");
    free(want);
    free(in);
    free(y[0]);
    free(y[1]);
}
END_TEST

/* ---- the whole model ---------------------------------------------------------------------------------- */

/* A model with random weights in memory. */
typedef struct random_model {
    sv_weights *weights;
    sv_arena arena;
    sv_trecvit model;
} random_model;

static random_model *make_model(sv_ctx *c, const sv_trecvit_spec *spec, uint64_t seed)
{
    random_model *m = calloc(1, sizeof *m);
    sv_binder *b = NULL;
    m->weights = sv_weights_new();
    sv_arena_init(&m->arena, "test model", c->device);
    c->weights = &m->arena;
    assert_ok(c, sv_binder_open_init(c, m->weights, seed, &b));
    assert_ok(c, sv_trecvit_bind(b, &m->model, spec));
    sv_binder_close(b);
    /* larger than 'savanna init' makes them, so that mistakes show; and no norm is the identity */
    test_rng rng = {seed + 99};
    for (int i = 0; i < sv_weights_count(m->weights); i++) {
        const sv_tensor t = sv_weights_tensor(m->weights, i);
        const char *name = sv_weights_name(m->weights, i);
        for (int64_t k = 0; k < (int64_t)t.dim[0] * t.pitch; k++)
            sv_f32(t)[k] = strstr(name, "a_param") ? (float)rng_uniform(&rng, -7, 0)
                                                   : sv_f32(t)[k] * 2 + (float)rng_uniform(&rng, -0.2, 0.2);
    }
    assert_ok(c, sv_binder_open(c, m->weights, &b));
    assert_ok(c, sv_trecvit_bind(b, &m->model, spec));
    assert_ok(c, sv_binder_finish(b));
    sv_binder_close(b);
    c->weights = NULL;
    return m;
}

static void free_model(random_model *m)
{
    sv_weights_free(m->weights);
    sv_arena_free(&m->arena);
    free(m);
}

static sv_trecvit_spec random_spec(test_rng *rng)
{
    const int heads = pick(rng, 1, 3), width = 4 * heads * pick(rng, 1, 4);
    return (sv_trecvit_spec){.width = width,
                             .depth = pick(rng, 1, 2),
                             .mlp = pick(rng, 5, 40),
                             .heads = heads,
                             .patch = {pick(rng, 1, 2), pick(rng, 2, 5), pick(rng, 2, 5)},
                             .grid = {pick(rng, 1, 3), pick(rng, 1, 4)},
                             .class_token = pick(rng, 0, 1),
                             .sines = pick(rng, 0, 1),
                             .lru_width = width * pick(rng, 1, 2),
                             .taps = pick(rng, 1, 5),
                             .gated_mlp = pick(rng, 0, 1),
                             .complex_numbers = pick(rng, 0, 1),
                             .rep = pick(rng, 3, 20),
                             .classes = pick(rng, 2, 9),
                             .frames_per_clip = 8};
}

static float *random_video(test_rng *rng, const sv_trecvit_spec *s, int clips, int length)
{
    const size_t count = 3 * (size_t)(clips * length * s->patch[0]) * (size_t)(s->grid[0] * s->patch[1]) *
                         (size_t)(s->grid[1] * s->patch[2]);
    float *video = malloc(sizeof *video * count);
    for (size_t i = 0; i < count; i++) video[i] = (float)rng_uniform(rng, 0, 1);
    return video;
}

static sv_tensor upload(sv_ctx *c, const random_model *m, const float *video, int steps)
{
    const sv_tokenizer *t = &m->model.tokenizer;
    sv_tensor patches;
    assert_ok(c, sv_frame_alloc(c, &patches, "patches", SV_F32, steps * t->grid[0] * t->grid[1],
                                sv_tokenizer_patch_numbers(t), SV_NONE));
    sv_tokenizer_patches(t, video, steps * t->patch[0], sv_f32(patches));
    return patches;
}

/* encoded rows (clip, token, step), malloc'ed. */
static float *encode(sv_ctx *c, const random_model *m, const float *video, int clips, int length,
                     const sv_trecvit_streams *streams, int first, bool fresh)
{
    sv_tensor x;
    const sv_tensor patches = upload(c, m, video, clips * length);
    assert_ok(c, sv_trecvit_encode(c, &m->model, &x, patches, clips, length, streams, first, fresh));
    const size_t bytes = sizeof(float) * (size_t)x.dim[0] * (size_t)x.dim[1];
    float *out = malloc(bytes);
    memcpy(out, x.data, bytes);
    assert_ok(c, sv_arena_reset(c, &c->frame));
    assert_ok(c, sv_arena_reset(c, &c->scratch));
    return out;
}

START_TEST(streams_batches_and_threads_give_the_bytes_of_a_clip)
{
    test_rng rng = {(uint64_t)_i * 17 + 3};
    const sv_trecvit_spec spec = random_spec(&rng);
    sv_ctx *c = contexts[0];
    random_model *m = make_model(c, &spec, (uint64_t)_i);
    const int length = pick(&rng, 3, 9), n = m->model.tokenizer.tokens;
    const size_t row = sizeof(float) * (size_t)spec.width;
    float *video = random_video(&rng, &spec, 2, length);
    const size_t step =
        3 * (size_t)(spec.patch[0] * spec.grid[0] * spec.patch[1] * spec.grid[1] * spec.patch[2]);
    float *clip = encode(c, m, video, 1, length, NULL, 0, false),
          *threads = encode(contexts[1], m, video, 1, length, NULL, 0, false),
          *both = encode(c, m, video, 2, length, NULL, 0, false);
    const size_t bytes = row * (size_t)n * (size_t)length;
    ck_assert(memcmp(clip, threads, bytes) == 0);
    ck_assert(memcmp(clip, both, bytes) == 0);

    /* stream 1 of three, in steps of one and more frames; then afresh */
    sv_state *state = NULL;
    sv_trecvit_streams streams;
    assert_ok(c, sv_state_open(c, &state));
    assert_ok(c, sv_trecvit_streams_of(c, &m->model, state, 3, &streams));
    for (int round = 0; round < 2; round++) {
        for (int t = 0, count; t < length; t += count) {
            count = round == 0 ? 1 : pick(&rng, 1, length - t);
            float *part = encode(c, m, video + (size_t)t * step, 1, count, &streams, 1, t == 0 && round == 1);
            assert_ok(c, sv_trecvit_keep(c, &m->model, &streams, 0));
            assert_ok(c, sv_trecvit_keep(c, &m->model, &streams, 2));
            assert_ok(c, sv_state_commit(c, state));
            for (int i = 0; i < n; i++)
                ck_assert_msg(memcmp((char *)part + row * (size_t)(i * count),
                                     (char *)clip + row * (size_t)(i * length + t), row * (size_t)count) == 0,
                              "frame %d, token %d of %d: the stream has other bytes than the clip", t, i, n);
            free(part);
        }
    }
    const sv_tensor position = streams.position[0];
    for (int i = 0; i < 3 * n; i++) ck_assert(sv_f32(position)[i] == (i / n == 1 ? (float)length : 0.0f));
    sv_state_close(state);
    free(clip);
    free(threads);
    free(both);
    free(video);
    free_model(m);
}
END_TEST

/* ---- a naive model in double -------------------------------------------------------------------------- */

static const float *weight(const random_model *m, const char *format, int layer, const char *name)
{
    char full[160];
    int used = snprintf(full, sizeof full, format, layer);
    snprintf(full + used, sizeof full - (size_t)used, "%s", name);
    const sv_tensor t = sv_weights_find(m->weights, full);
    ck_assert_msg(!sv_is_none(t), "no weight %s", full);
    return sv_f32(t);
}

/* y [rows, n] = x [rows, k] w [k, n] + b */
static void dense(double *y, const double *x, const float *w, const float *b, int rows, int k, int n)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < n; j++) {
            double sum = (double)b[j];
            for (int p = 0; p < k; p++) sum += x[i * k + p] * (double)w[p * n + j];
            y[i * n + j] = sum;
        }
}

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}
static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static void rms_norm(double *y, const double *x, const float *scale, int rows, int n)
{
    for (int i = 0; i < rows; i++) {
        double square = 0;
        for (int j = 0; j < n; j++) square += x[i * n + j] * x[i * n + j] / n;
        for (int j = 0; j < n; j++)
            y[i * n + j] = x[i * n + j] / sqrt(square + 1e-6) * (1 + (double)scale[j]);
    }
}

static void layer_norm(double *y, const double *x, const float *scale, const float *bias, int rows, int n)
{
    for (int i = 0; i < rows; i++) {
        double mean = 0, variance = 0;
        for (int j = 0; j < n; j++) mean += x[i * n + j] / n;
        for (int j = 0; j < n; j++) variance += (x[i * n + j] - mean) * (x[i * n + j] - mean) / n;
        for (int j = 0; j < n; j++)
            y[i * n + j] = (x[i * n + j] - mean) / sqrt(variance + 1e-6) * (double)scale[j] + (double)bias[j];
    }
}

static void block_gate(double *y, const double *x, const float *w, const float *b, int heads, int in, int out)
{
    for (int h = 0; h < heads; h++)
        for (int o = 0; o < out; o++) {
            double sum = (double)b[h * out + o];
            for (int i = 0; i < in; i++) sum += x[h * in + i] * (double)w[(h * in + i) * out + o];
            y[h * out + o] = sigmoid(sum);
        }
}

enum { MOST_WIDTH = 256, MOST_LENGTH = 16, MOST_TOKENS = 16 };

/* x [length, width] of one token, in place. */
static void naive_temporal(const random_model *m, int layer, double *x, int length)
{
    static double norm[MOST_LENGTH * MOST_WIDTH], u[MOST_LENGTH * MOST_WIDTH], v[MOST_LENGTH * MOST_WIDTH],
        g[MOST_LENGTH * MOST_WIDTH], z[MOST_LENGTH * MOST_WIDTH];
    const sv_trecvit_spec *s = &m->model.spec;
    const char *at = "encoder.residualblock_%02d.";
    const int c = s->width, inner = s->lru_width, gates = s->complex_numbers ? inner / 2 : inner;
#define W(name) weight(m, at, layer, name)
    rms_norm(norm, x, W("temporal_pre_norm.scale"), length, c);
    dense(g, norm, W("recurrent_block.linear_y.kernel"), W("recurrent_block.linear_y.bias"), length, c,
          inner);
    dense(u, norm, W("recurrent_block.linear_x.kernel"), W("recurrent_block.linear_x.bias"), length, c,
          inner);
    const float *taps = W("recurrent_block.conv_1d.w"), *bias = W("recurrent_block.conv_1d.b");
    for (int t = 0; t < length; t++)
        for (int i = 0; i < inner; i++) {
            v[t * inner + i] = (double)bias[i];
            for (int k = 0; k < s->taps && k <= t; k++)
                v[t * inner + i] += (double)taps[(s->taps - 1 - k) * inner + i] * u[(t - k) * inner + i];
        }
    const float *a_param = W("recurrent_block.rg_lru.a_param");
    const float *turn = s->complex_numbers ? W("recurrent_block.rg_lru.a_imag_param") : NULL;
    double h[MOST_WIDTH] = {0}, open[MOST_WIDTH], close[MOST_WIDTH];
    for (int t = 0; t < length; t++) {
        const double *in = v + t * inner;
        block_gate(open, in, W("recurrent_block.rg_lru.input_gate.w"),
                   W("recurrent_block.rg_lru.input_gate.b"), s->heads, inner / s->heads, gates / s->heads);
        block_gate(close, in, W("recurrent_block.rg_lru.a_gate.w"), W("recurrent_block.rg_lru.a_gate.b"),
                   s->heads, inner / s->heads, gates / s->heads);
        for (int i = 0; i < gates; i++) {
            const double size = exp(-8 * close[i] * log1p(exp((double)a_param[i])));
            const double root = t == 0 ? 1 : sqrt(1 - size * size), keep = t == 0 ? 0 : size;
            if (turn) {
                const double angle = close[i] * (double)turn[i], re = keep * cos(angle),
                             im = keep * sin(angle);
                const double r = re * h[i] - im * h[gates + i] + root * open[i] * in[i];
                h[gates + i] = re * h[gates + i] + im * h[i] + root * open[i] * in[gates + i];
                h[i] = r;
            } else {
                h[i] = keep * h[i] + root * open[i] * in[i];
            }
        }
        for (int i = 0; i < inner; i++) z[t * inner + i] = h[i] * gelu(g[t * inner + i]);
    }
    dense(norm, z, W("recurrent_block.linear_out.kernel"), W("recurrent_block.linear_out.bias"), length,
          inner, c);
    for (int i = 0; i < length * c; i++) x[i] += norm[i];
    if (!s->gated_mlp) return;
    const float *up = W("mlp_block.ffw_up.w"), *up_bias = W("mlp_block.ffw_up.b");
    rms_norm(norm, x, W("channel_pre_norm.scale"), length, c);
    dense(u, norm, up, up_bias, length, c, s->mlp);
    dense(v, norm, up + c * s->mlp, up_bias + s->mlp, length, c, s->mlp);
    for (int i = 0; i < length * s->mlp; i++) u[i] = gelu(u[i]) * v[i];
    dense(norm, u, W("mlp_block.ffw_down.kernel"), W("mlp_block.ffw_down.bias"), length, s->mlp, c);
    for (int i = 0; i < length * c; i++) x[i] += norm[i];
#undef W
}

/* x [n, width] of one frame, in place. */
static void naive_spatial(const random_model *m, int layer, double *x, int n)
{
    static double norm[MOST_TOKENS * MOST_WIDTH], part[3][MOST_TOKENS * MOST_WIDTH],
        out[MOST_TOKENS * MOST_WIDTH];
    static float single[3][MOST_TOKENS * MOST_WIDTH];
    const sv_trecvit_spec *s = &m->model.spec;
    const char *at = "encoder.encoderblock_%d.";
    const char *names[3][2] = {
        {"MultiHeadDotProductAttention_0.query.kernel", "MultiHeadDotProductAttention_0.query.bias"},
        {"MultiHeadDotProductAttention_0.key.kernel", "MultiHeadDotProductAttention_0.key.bias"},
        {"MultiHeadDotProductAttention_0.value.kernel", "MultiHeadDotProductAttention_0.value.bias"}};
    const int c = s->width, d = c / s->heads;
#define W(name) weight(m, at, layer, name)
    layer_norm(norm, x, W("LayerNorm_0.scale"), W("LayerNorm_0.bias"), n, c);
    for (int p = 0; p < 3; p++) {
        dense(part[p], norm, W(names[p][0]), W(names[p][1]), n, c, c);
        for (int i = 0; i < n * c; i++) single[p][i] = (float)part[p][i];
    }
    naive_attention(out, single[0], single[1], single[2], c, c, n, s->heads, d, d, 1 / sqrt(d));
    dense(norm, out, W("MultiHeadDotProductAttention_0.out.kernel"),
          W("MultiHeadDotProductAttention_0.out.bias"), n, c, c);
    for (int i = 0; i < n * c; i++) x[i] += norm[i];
    layer_norm(norm, x, W("LayerNorm_1.scale"), W("LayerNorm_1.bias"), n, c);
    dense(out, norm, W("MlpBlock_0.Dense_0.kernel"), W("MlpBlock_0.Dense_0.bias"), n, c, s->mlp);
    for (int i = 0; i < n * s->mlp; i++) out[i] = gelu(out[i]);
    dense(norm, out, W("MlpBlock_0.Dense_1.kernel"), W("MlpBlock_0.Dense_1.bias"), n, s->mlp, c);
    for (int i = 0; i < n * c; i++) x[i] += norm[i];
#undef W
}

/* tokens [n, length, width] of a video, from its pixels. */
static void naive_tokens(const random_model *m, double *x, const float *video, int length)
{
    const sv_trecvit_spec *s = &m->model.spec;
    const int c = s->width, first = s->class_token ? 1 : 0, gy = s->grid[0], gx = s->grid[1],
              width = gx * s->patch[2], height = gy * s->patch[1];
    const float *kernel = weight(m, "tokenizer.", 0, "embedding.kernel"),
                *bias = weight(m, "tokenizer.", 0, "embedding.bias"),
                *learned = s->sines ? NULL : weight(m, "tokenizer.", 0, "pos_embedding");
    for (int t = 0; t < length && first; t++)
        for (int j = 0; j < c; j++) x[t * c + j] = (double)weight(m, "tokenizer.", 0, "cls")[j];
    for (int i = 0; i < gy * gx; i++)
        for (int t = 0; t < length; t++)
            for (int j = 0; j < c; j++) {
                double sum = (double)bias[j];
                int k = 0;
                for (int dt = 0; dt < s->patch[0]; dt++)
                    for (int dy = 0; dy < s->patch[1]; dy++)
                        for (int dx = 0; dx < s->patch[2]; dx++)
                            for (int channel = 0; channel < 3; channel++, k++) {
                                const int row = i / gx * s->patch[1] + dy, column = i % gx * s->patch[2] + dx;
                                const int frame = t * s->patch[0] + dt;
                                sum +=
                                    (double)video[((frame * height + row) * width + column) * 3 + channel] *
                                    (double)kernel[k * c + j];
                            }
                if (learned) {
                    sum += (double)learned[i * c + j];
                } else {
                    const int quarter = c / 4, k4 = j % quarter;
                    const double omega = pow(10000, quarter > 1 ? -(double)k4 / (quarter - 1) : 0);
                    const double at = (j < c / 2 ? i % gx : i / gx) * omega;
                    sum += j / quarter % 2 == 0 ? sin(at) : cos(at);
                }
                x[((i + first) * length + t) * c + j] = sum;
            }
}

START_TEST(whole_models_against_a_naive_form)
{
    static double x[MOST_TOKENS * MOST_LENGTH * MOST_WIDTH], frame[MOST_TOKENS * MOST_WIDTH];
    test_rng rng = {(uint64_t)_i * 29 + 11};
    const sv_trecvit_spec spec = random_spec(&rng);
    sv_ctx *c = contexts[0];
    random_model *m = make_model(c, &spec, (uint64_t)_i + 500);
    const int length = pick(&rng, 1, 7), n = m->model.tokenizer.tokens, width = spec.width;
    ck_assert(n <= MOST_TOKENS && spec.lru_width <= MOST_WIDTH);
    float *video = random_video(&rng, &spec, 1, length);
    float *got = encode(c, m, video, 1, length, NULL, 0, false);
    naive_tokens(m, x, video, length);
    for (int layer = 0; layer < spec.depth; layer++) {
        for (int i = 0; i < n; i++) naive_temporal(m, layer, x + i * length * width, length);
        for (int t = 0; t < length; t++) {
            for (int i = 0; i < n; i++)
                memcpy(frame + i * width, x + (i * length + t) * width, sizeof *frame * (size_t)width);
            naive_spatial(m, layer, frame, n);
            for (int i = 0; i < n; i++)
                memcpy(x + (i * length + t) * width, frame + i * width, sizeof *frame * (size_t)width);
        }
    }
    static double want[MOST_TOKENS * MOST_LENGTH * MOST_WIDTH];
    layer_norm(want, x, weight(m, "encoder.", 0, "encoder_norm.scale"),
               weight(m, "encoder.", 0, "encoder_norm.bias"), n * length, width);
    for (int i = 0; i < n * length * width; i++)
        ck_assert_msg(
            fabs((double)got[i] - want[i]) <= 2e-4 * (1 + fabs(want[i])),
            "width %d, %d heads, depth %d, %d taps, %d frames, complex %d, mlp %d: %d is %g instead of %g",
            width, spec.heads, spec.depth, spec.taps, length, spec.complex_numbers, spec.gated_mlp, i,
            (double)got[i], want[i]);

    /* the head: class token or mean, tanh, mean over frames, logits */
    sv_tensor encoded, rep, pooled, logits;
    assert_ok(c, sv_frame_alloc(c, &encoded, "encoded", SV_F32, n * length, width, SV_NONE));
    memcpy(encoded.data, got, sizeof *got * (size_t)(n * length * width));
    assert_ok(c, sv_video_head_frames(c, &m->model.head, &rep, encoded, 1, length));
    assert_ok(c, sv_video_head_clips(c, &m->model.head, &pooled, &logits, rep, 1, length));
    double mean[32] = {0}, out[16], hidden[32];
    for (int t = 0; t < length; t++) {
        for (int j = 0; j < width; j++) {
            frame[j] = 0;
            for (int i = 0; i < n; i++)
                frame[j] += spec.class_token ? (i == 0 ? want[t * width + j] : 0)
                                             : want[(i * length + t) * width + j] / n;
        }
        dense(hidden, frame, weight(m, "decoder.", 0, "pre_logits.kernel"),
              weight(m, "decoder.", 0, "pre_logits.bias"), 1, width, spec.rep);
        for (int j = 0; j < spec.rep; j++) mean[j] += tanh(hidden[j]) / length;
    }
    dense(out, mean, weight(m, "decoder.", 0, "cls_head.kernel"), weight(m, "decoder.", 0, "cls_head.bias"),
          1, spec.rep, spec.classes);
    for (int j = 0; j < spec.classes; j++) ck_assert_double_eq_tol((double)sv_f32(logits)[j], out[j], 2e-4);
    free(got);
    free(video);
    free_model(m);
    assert_ok(c, sv_arena_reset(c, &c->frame));
}
END_TEST

START_TEST(averages_of_clips)
{
    const float logits[2][3] = {{0, 1, 2}, {2, 2, -1}};
    float mean[3], probs[3];
    sv_video_average(logits[0], 2, 3, mean, probs);
    for (int k = 0; k < 3; k++) {
        double want = 0;
        for (int i = 0; i < 2; i++) {
            double sum = 0;
            for (int j = 0; j < 3; j++) sum += exp((double)logits[i][j]);
            want += exp((double)logits[i][k]) / sum / 2;
        }
        ck_assert_float_eq_tol(mean[k], (logits[0][k] + logits[1][k]) / 2, 1e-7f);
        ck_assert_double_eq_tol((double)probs[k], want, 1e-7);
    }
}
END_TEST

START_TEST(variants_and_configurations)
{
    sv_trecvit_spec s;
    ck_assert(sv_trecvit_variant("B", &s) && s.width == 768 && s.depth == 12 && s.mlp == 3072 &&
              s.heads == 12);
    ck_assert(sv_trecvit_variant("So400m", &s) && s.width == 1152 && s.depth == 27);
    ck_assert(!sv_trecvit_variant("XL", &s));
    static const struct {
        const char *yaml, *sentence;
    } bad[] = {{"MODEL: {VARIANT: XL}", "there is no 'XL'"},
               {"MODEL: {HEADS: 0}", "HEADS: 0 is not within"},
               {"MODEL: {POOL: both}", "'both' is not tok or gap"},
               {"MODEL: {PATCH: [1, 15, 16]}", "do not divide into patches"},
               {"MODEL: {STATE_MULTIPLIER: 99}", "STATE_MULTIPLIER: 99"}};
    sv_ctx *c = contexts[0];
    const int size[2] = {224, 224};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sv_config *config = NULL;
        assert_ok(c, sv_config_parse(c, bad[i].yaml, strlen(bad[i].yaml), "test.yaml", NULL, 0, &config));
        assert_fails(c, sv_trecvit_read_spec(c, sv_node_find(sv_config_root(config), "MODEL"), size, &s),
                     SV_BAD_INPUT, bad[i].sentence);
        sv_config_free(config);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("video");
    TCase *tests = tcase_create("trecvit");
    tcase_add_unchecked_fixture(tests, open_contexts, close_contexts);
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, attention_among_all_tokens, 0, 24);
    tcase_add_loop_test(tests, streams_batches_and_threads_give_the_bytes_of_a_clip, 0, 24);
    tcase_add_loop_test(tests, whole_models_against_a_naive_form, 0, 32);
    tcase_add_test(tests, averages_of_clips);
    tcase_add_test(tests, variants_and_configurations);
    suite_add_tcase(suite, tests);
    return run_suite(suite, false);
}
