/* SPDX-License-Identifier: Apache-2.0
 *
 * LSSL (Gu et al. 2021): a full matrix, HiPPO-LegS, per channel with a step of its own, discretised bilinearly.
 *
 *     A_nm = -sqrt((2n+1)(2m+1)) for n > m, -(n+1) for n = m, else 0;  B_n = sqrt(2n+1)
 *     Abar = (I - dt/2 A)^-1 (I + dt/2 A),  Bbar = (I - dt/2 A)^-1 dt B,   h = Abar h + Bbar u,  y = C.h + D u
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>

enum { U, C, SKIP, LOG_DT, S };
enum { MOST = 64 };

typedef struct system {
    sv_tensor a, b; /* [D*N, N], [D, N] */
} system_weights;

/* Both sides of a channel. I - dt/2 A is lower triangular: columns are solved forwards. */
static void discretise(float *abar, float *bbar, int n, double dt)
{
    for (int column = 0; column <= n; column++) { /* the last is B */
        double x[MOST];
        for (int i = 0; i < n; i++) {
            double sum = column == n ? dt * sqrt(2.0 * i + 1) : i == column ? 1 : 0;
            if (column < i && column < n) sum -= dt / 2 * sqrt((2.0 * i + 1) * (2.0 * column + 1));
            if (column == i) sum -= dt / 2 * (i + 1);
            for (int k = 0; k < i; k++) sum -= dt / 2 * sqrt((2.0 * i + 1) * (2.0 * k + 1)) * x[k];
            x[i] = sum / (1 + dt / 2 * (i + 1));
        }
        for (int i = 0; i < n; i++) {
            if (column == n)
                bbar[i] = (float)x[i];
            else
                abar[i * n + column] = (float)x[i];
        }
    }
}

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    system_weights *m = SV_PREPARED(system_weights, self);
    const int d = self->size['D'], n = self->size['N'];
    SV_CHECK(c, n <= MOST, SV_UNSUPPORTED, "LSSL: %d states; 1 to %d are supported", n, MOST);
    float *a = malloc(sizeof *a * (size_t)d * (size_t)n * (size_t)(n + 1));
    SV_CHECK(c, a, SV_NO_MEMORY, "no memory for a state space");
    float *b = a + (size_t)d * (size_t)n * (size_t)n;
    for (int i = 0; i < d; i++)
        discretise(a + (size_t)i * (size_t)(n * n), b + (size_t)i * (size_t)n, n,
                   exp((double)sv_f32(self->host[LOG_DT])[i]));
    sv_status status = sv_weight_upload(c, &m->a, sv_view(a, SV_F32, d * n, n));
    if (status == SV_OK) status = sv_weight_upload(c, &m->b, sv_view(b, SV_F32, d, n));
    free(a);
    return status;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const system_weights *m = SV_PREPARED_CONST(system_weights, call->of);
    const int d = call->of->size['D'], n = call->of->size['N'];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor h;
    SV_TRY(sv_call_scratch(c, call, &h, "lssl states", d * n));
    SV_TRY(sv_probe(c, "Abar", m->a));
    SV_TRY(sv_probe(c, "Bbar", m->b));
    SV_TRY(sv_dense_scan(c, h, call->in[U], m->a, m->b, &call->seq));
    SV_TRY(sv_head_dot(c, call->y, h, SV_NONE, call->in[C]));
    SV_TRY(sv_column_scale(c, call->y, call->in[U], call->in[SKIP], call->y));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [U] = SV_TOKEN("u", "BTD", .map = SV_MAP_identity),
    [C] = SV_WEIGHT("C", "DN", .init = {SV_INIT_NORMAL, 0, 0.5f}),
    [SKIP] = SV_WEIGHT("D", "D", NULL, "1D", .init = {SV_INIT_NORMAL, 0, 1}),
    [LOG_DT] = SV_WEIGHT("log_dt", "D", NULL, "1D", .init = {SV_INIT_UNIFORM, -6.9f, -2.3f}),
    [S] = SV_STATE(NULL, "BDN"),
    SV_RESULT(0, "o", "BTD"),
    SV_SHOWN(0, "Abar", "DNN"),
    SV_SHOWN(0, "Bbar", "DN"),
    SV_END,
};
static const sv_letter letters[] = {
    {SV_LETTER_SHARE, 'D', "expand", 1}, {SV_LETTER_COUNT, 'N', "d_state", 8}, {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("lssl"), .ports = ports, .letters = letters, .prepare = prepare, .run = run};
SV_CATALOGUE(lssl, "LSSL", &recurrence);
