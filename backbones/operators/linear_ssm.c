/* SPDX-License-Identifier: Apache-2.0
 *
 * LRU (Orvieto et al. 2023) and S5 (Smith et al. 2023): one complex diagonal state for all channels between two products.
 *
 *     h_t = lambda h_(t-1) + B u_t,   y = Re(C h) + D u      LRU: lambda = e^(-e^nu + i e^theta), B times e^gamma
 *                                     2 Re(C h) + D u        S5: lambda = e^(Lambda dt), B times (lambda - 1) / Lambda
 *
 * Products are of real numbers: B's parts are stacked, C's stand side by side, the imaginary one negative.
 */
#include "backbones/block.h"

#include <complex.h>
#include <math.h>
#include <stdlib.h>

enum { U, B_RE, B_IM, C_RE, C_IM, SKIP, RE, IM, FIRST_OWN };
enum { NU = FIRST_OWN, THETA, GAMMA }; /* LRU */
enum { L_RE = FIRST_OWN, L_IM, STEP }; /* S5 */

typedef struct system {
    sv_tensor lambda;          /* [1, 2N] */
    sv_linear_weights in, out; /* D -> 2N -> D */
} system_weights;

/* From lambda and the factor of B of each state, and the factor of C. */
static sv_status prepare_system(sv_ctx *c, sv_instance *self, const double complex *lambda,
                                const double complex *factor, double read)
{
    system_weights *m = SV_PREPARED(system_weights, self);
    const int n = self->size['N'], d = self->size['D'];
    float *row = malloc(sizeof *row * 2 * (size_t)n), *in = malloc(sizeof *in * 2 * (size_t)n * (size_t)d),
          *out = malloc(sizeof *out * 2 * (size_t)n * (size_t)d);
    sv_status status = SV_OK;
    if (!row || !in || !out) status = SV_FAIL(c, SV_NO_MEMORY, "no memory for a state space");
    for (int i = 0; i < n && status == SV_OK; i++) {
        row[i] = (float)creal(lambda[i]);
        row[n + i] = (float)cimag(lambda[i]);
        for (int j = 0; j < d; j++) {
            const double complex b = factor[i] * ((double)sv_f32(self->host[B_RE])[i * d + j] +
                                                  I * (double)sv_f32(self->host[B_IM])[i * d + j]);
            in[i * d + j] = (float)creal(b);
            in[(n + i) * d + j] = (float)cimag(b);
            out[j * 2 * n + i] = (float)(read * (double)sv_f32(self->host[C_RE])[j * n + i]);
            out[j * 2 * n + n + i] = (float)(-read * (double)sv_f32(self->host[C_IM])[j * n + i]);
        }
    }
    if (status == SV_OK) status = sv_prepare_row(c, &m->lambda, row, 2 * n);
    if (status == SV_OK) status = sv_linear_prepare(c, &m->in, sv_view(in, SV_F32, 2 * n, d), SV_NONE);
    if (status == SV_OK) status = sv_linear_prepare(c, &m->out, sv_view(out, SV_F32, d, 2 * n), SV_NONE);
    free(row), free(in), free(out);
    return status;
}

static sv_status prepare_either(sv_ctx *c, sv_instance *self, bool lru)
{
    const int n = self->size['N'];
    double complex *lambda = malloc(sizeof *lambda * (size_t)n), *factor = malloc(sizeof *factor * (size_t)n);
    sv_status status = lambda && factor ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "no memory for a state space");
    for (int i = 0; i < n && status == SV_OK; i++) {
        const double one = sv_f32(self->host[FIRST_OWN])[i], two = sv_f32(self->host[FIRST_OWN + 1])[i],
                     three = sv_f32(self->host[FIRST_OWN + 2])[i];
        if (lru) {
            lambda[i] = cexp(-exp(one) + I * exp(two));
            factor[i] = exp(three);
        } else {
            const double complex l = one + I * two;
            lambda[i] = cexp(l * exp(three));
            factor[i] = cabs(l) > 0 ? (lambda[i] - 1) / l : exp(three);
        }
    }
    if (status == SV_OK) status = prepare_system(c, self, lambda, factor, lru ? 1 : 2);
    free(lambda), free(factor);
    return status;
}

static sv_status prepare_lru(sv_ctx *c, sv_instance *self)
{
    return prepare_either(c, self, true);
}
static sv_status prepare_s5(sv_ctx *c, sv_instance *self)
{
    return prepare_either(c, self, false);
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const system_weights *m = SV_PREPARED_CONST(system_weights, call->of);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor h;
    SV_TRY(sv_call_scratch(c, call, &h, "complex states", m->in.n));
    SV_TRY(sv_linear(c, h, call->in[U], SV_NONE, &m->in, SV_MAP_identity));
    SV_TRY(sv_diagonal_scan(c, h, h, m->lambda, false, true, &call->seq));
    SV_TRY(sv_linear(c, call->y, h, SV_NONE, &m->out, SV_MAP_identity));
    SV_TRY(sv_column_scale(c, call->y, call->in[U], call->in[SKIP], call->y));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port lru_ports[] = {
    [U] = SV_TOKEN("u", "BTD", .map = SV_MAP_identity),
    [B_RE] = SV_WEIGHT("B_re", "ND", .fan_in = true),
    [B_IM] = SV_WEIGHT("B_im", "ND", .fan_in = true),
    [C_RE] = SV_WEIGHT("C_re", "DN", .fan_in = true),
    [C_IM] = SV_WEIGHT("C_im", "DN", .fan_in = true),
    [SKIP] = SV_WEIGHT("D", "D", NULL, "1D", .init = {SV_INIT_NORMAL, 0, 1}),
    [RE] = SV_STATE(NULL, "BN"),
    [IM] = SV_STATE(NULL, "BN"),
    /* |lambda| in 0.9..0.999, angles up to pi/10 and gamma in between */
    [NU] = SV_WEIGHT("nu_log", "N", NULL, "1N", .init = {SV_INIT_UNIFORM, -6.9f, -2.25f}),
    [THETA] = SV_WEIGHT("theta_log", "N", NULL, "1N", .init = {SV_INIT_UNIFORM, -5, -1.16f}),
    [GAMMA] = SV_WEIGHT("gamma_log", "N", NULL, "1N", .init = {SV_INIT_UNIFORM, -3, -0.8f}),
    SV_RESULT(0, "o", "BTD"),
    SV_END,
};
static const sv_port s5_ports[] = {
    [U] = SV_TOKEN("u", "BTD", .map = SV_MAP_identity),
    [B_RE] = SV_WEIGHT("Bre", "ND", .fan_in = true),
    [B_IM] = SV_WEIGHT("Bim", "ND", .fan_in = true),
    [C_RE] = SV_WEIGHT("Cre", "DN", .fan_in = true),
    [C_IM] = SV_WEIGHT("Cim", "DN", .fan_in = true),
    [SKIP] = SV_WEIGHT("D", "D", NULL, "1D", .init = {SV_INIT_NORMAL, 0, 1}),
    [RE] = SV_STATE(NULL, "BN"),
    [IM] = SV_STATE(NULL, "BN"),
    [L_RE] = SV_WEIGHT("Lre", "N", NULL, "1N", .init = {SV_INIT_CONSTANT, -0.5f, 0}),
    [L_IM] = SV_WEIGHT("Lim", "N", NULL, "1N", .init = {SV_INIT_UNIFORM, 0, 100}),
    [STEP] = SV_WEIGHT("log_step", "N", NULL, "1N", .init = {SV_INIT_UNIFORM, -6.9f, -2.3f}),
    SV_RESULT(0, "o", "BTD"),
    SV_END,
};
static const sv_letter letters[] = {
    {SV_LETTER_SHARE, 'D', "expand", 1}, {SV_LETTER_COUNT, 'N', "d_state", 64}, {.rule = SV_LETTER_END}};
static const sv_recurrence lru = {.recordings = SV_RECORDED("lru"),
                                  .ports = lru_ports,
                                  .letters = letters,
                                  .prepare = prepare_lru,
                                  .run = run};
static const sv_recurrence s5 = {.recordings = SV_RECORDED("s5"),
                                 .ports = s5_ports,
                                 .letters = letters,
                                 .prepare = prepare_s5,
                                 .run = run};
SV_CATALOGUE(lru, "LRU", &lru);
SV_CATALOGUE(s5, "S5", &s5);
