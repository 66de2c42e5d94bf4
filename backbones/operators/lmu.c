/* SPDX-License-Identifier: Apache-2.0
 *
 * LMU as in LMUFormer (Voelker et al. 2019; Liu et al. 2024): a sliding window of theta tokens of U scalars is held by its
 * projections on M Legendre polynomials.
 *
 *     u = relu(W_u x + b_u),  m = Abar m + Bbar u,  h = relu(W_h [m; x] + b_h)
 *     A_ij = (2i+1)/theta (-1 for i < j, else (-1)^(i-j+1)),  B_i = (2i+1)(-1)^i/theta,  held constant over a step of 1
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { X, W_U, B_U, W_H, B_H, THETA, S };
enum { MOST = 64 };

typedef struct memory {
    sv_tensor a, b; /* [U*M, M], [U, M] */
    sv_linear_weights in, out;
} memory;

static void multiply(double *out, const double *a, const double *b, int n)
{
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int k = 0; k < n; k++) sum += a[i * n + k] * b[k * n + j];
            out[i * n + j] = sum;
        }
}

/* e^x of an n x n matrix: Taylor's series of x / 2^20, squared 20 times. 'work': 3 n^2. */
static void exponential(double *out, const double *x, int n, double *work)
{
    enum { SQUARINGS = 20, TERMS = 12 };
    double *scaled = work, *term = work + n * n, *next = term + n * n;
    for (int i = 0; i < n * n; i++) scaled[i] = ldexp(x[i], -SQUARINGS);
    for (int i = 0; i < n * n; i++) term[i] = i % (n + 1) == 0 ? 1 : 0, out[i] = 0;
    for (int k = 1; k <= TERMS;
         k++) { /* the series without its 1: squared as 2 e + e^2 it keeps the digits of a small e */
        multiply(next, term, scaled, n);
        for (int i = 0; i < n * n; i++) out[i] += term[i] = next[i] / k;
    }
    for (int s = 0; s < SQUARINGS; s++) {
        multiply(next, out, out, n);
        for (int i = 0; i < n * n; i++) out[i] = 2 * out[i] + next[i];
    }
    for (int i = 0; i < n; i++) out[i * (n + 1)] += 1;
}

/* e^[A B; 0 0] = [Abar Bbar; 0 1] */
static void discretise(float *abar, float *bbar, int m, double theta, double *work)
{
    const int n = m + 1;
    double *x = work, *e = x + n * n;
    memset(x, 0, sizeof *x * (size_t)(n * n));
    for (int i = 0; i < m; i++) {
        const double scale = (2 * i + 1) / theta;
        for (int j = 0; j < m; j++) x[i * n + j] = scale * (i < j ? -1 : (i - j) % 2 == 0 ? -1 : 1);
        x[i * n + m] = scale * (i % 2 == 0 ? 1 : -1);
    }
    exponential(e, x, n, e + n * n);
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < m; j++) abar[i * m + j] = (float)e[i * n + j];
        bbar[i] = (float)e[i * n + m];
    }
}

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    memory *p = SV_PREPARED(memory, self);
    const int u = self->size['U'], all = self->size['J'] - self->size['D'], m = all / (u > 0 ? u : 1);
    SV_CHECK(
        c, m >= 1 && m <= MOST && m * u == all, SV_UNSUPPORTED,
        "LMU: W_h has %d columns for %d inputs and %d windows; 1 to %d polynomials of each are supported",
        self->size['J'], self->size['D'], u, MOST);
    SV_CHECK(c, self->number[THETA] >= 1, SV_BAD_INPUT, "LMU: theta is %g; a window has at least one token",
             self->number[THETA]);
    self->size['M'] = all;
    const size_t square = (size_t)m * (size_t)m, n = (size_t)m + 1;
    float *a = malloc(sizeof *a * (size_t)u * (square + (size_t)m)), *b = a + (size_t)u * square;
    double *work = malloc(sizeof *work * 5 * n * n);
    sv_status status = a && work ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "no memory for Legendre polynomials");
    for (int i = 0; i < u && status == SV_OK; i++)
        discretise(a + (size_t)i * square, b + i * m, m, self->number[THETA], work);
    if (status == SV_OK) status = sv_weight_upload(c, &p->a, sv_view(a, SV_F32, u * m, m));
    if (status == SV_OK) status = sv_weight_upload(c, &p->b, sv_view(b, SV_F32, u, m));
    free(a), free(work);
    SV_TRY(status);
    SV_TRY(sv_prepare_port(c, self, &p->in, W_U, B_U, false));
    return sv_prepare_port(c, self, &p->out, W_H, B_H, false);
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const memory *p = SV_PREPARED_CONST(memory, call->of);
    const int m = call->of->size['M'], d = call->of->size['D'];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor u, both;
    SV_TRY(sv_call_scratch(c, call, &u, "lmu input", p->in.n));
    SV_TRY(sv_call_scratch(c, call, &both, "lmu memory and input", m + d));
    if (sv_probing(c)) {
        const int order = m / p->in.n;
        SV_TRY(sv_probe(c, "Abar", sv_view(p->a.data, SV_F32, order, order)));
        SV_TRY(sv_probe(c, "Bbar", sv_view(p->b.data, SV_F32, order, 1)));
    }
    SV_TRY(sv_linear(c, u, call->in[X], SV_NONE, &p->in, SV_MAP_relu));
    SV_TRY(sv_dense_scan(c, sv_columns(both, 0, m), u, p->a, p->b, &call->seq));
    SV_TRY(sv_map1(c, sv_columns(both, m, d), call->in[X], SV_MAP_identity));
    SV_TRY(sv_linear(c, call->y, both, SV_NONE, &p->out, SV_MAP_relu));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [X] = SV_TOKEN("x", "BTD", .input = true),
    [W_U] = SV_WEIGHT("W_u", "UD", .fan_in = true),
    [B_U] = SV_WEIGHT("b_u", "U", NULL, "1U", .init = {SV_INIT_CONSTANT, 0, 0}),
    [W_H] = SV_WEIGHT("W_h", "OJ", .fan_in = true),
    [B_H] = SV_WEIGHT("b_h", "O", NULL, "1O", .init = {SV_INIT_CONSTANT, 0, 0}),
    [THETA] = SV_NUMBER("theta", 512),
    [S] = SV_STATE("m0", "BM", "m_last"),
    SV_RESULT(0, "o", "BTO"),
    SV_SHOWN(0, "Abar", "MM"),
    SV_SHOWN(0, "Bbar", "M1"),
    SV_END,
};
/* block: U windows of M / U polynomials */
static const sv_letter letters[] = {
    {SV_LETTER_SHARE, 'D', NULL, 1},      {SV_LETTER_SHARE, 'O', NULL, 1},
    {SV_LETTER_COUNT, 'U', "windows", 4}, {SV_LETTER_COUNT, 'M', "d_state", 64},
    {SV_LETTER_SUM, 'J', "DM", 0},        {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("lmu"), .ports = ports, .letters = letters, .prepare = prepare, .run = run};
SV_CATALOGUE(lmu, "LMU", &recurrence);
