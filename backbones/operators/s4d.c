/* SPDX-License-Identifier: Apache-2.0
 *
 * S4D (Gu et al. 2022): N complex states of each channel, the same for every token, of which one of each conjugate pair is kept.
 *
 *     A = -e^log_A_real + i A_imag,  dt = e^log_dt,  h_t = e^(dt A) h_(t-1) + (e^(dt A) - 1)/A u,  y = 2 Re(C h) + D u
 *
 * The reference convolves by FFT; this is the recurrence it equals. The kernel is shown as the answer to one impulse.
 */
#include "backbones/block.h"

#include <complex.h>
#include <math.h>
#include <stdlib.h>

enum { U, LOG_A, A_IMAG, LOG_DT, C, SKIP, RE, IM };

typedef struct constants {
    sv_tensor a, b, c; /* [D, 2N] */
} constants;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    constants *m = SV_PREPARED(constants, self);
    const int d = self->size['D'], n = self->size['N'];
    const size_t count = 2 * (size_t)d * (size_t)n;
    float *all = malloc(sizeof *all * 3 * count);
    SV_CHECK(c, all, SV_NO_MEMORY, "no memory for S4D's states");
    float *a = all, *b = a + count, *out = b + count;
    for (int i = 0; i < d; i++)
        for (int j = 0; j < n; j++) {
            const double dt = exp((double)sv_f32(self->host[LOG_DT])[i]);
            const double complex pole = -exp((double)sv_f32(self->host[LOG_A])[i * n + j]) +
                                        I * (double)sv_f32(self->host[A_IMAG])[i * n + j];
            const double complex keep = cexp(dt * pole), take = cabs(pole) > 0 ? (keep - 1) / pole : dt;
            const float *read = sv_f32(self->host[C]) + 2 * (i * n + j);
            const double complex write = 2 * take * ((double)read[0] + I * (double)read[1]);
            a[i * 2 * n + j] = (float)creal(keep), a[i * 2 * n + n + j] = (float)cimag(keep);
            b[i * 2 * n + j] = 1, b[i * 2 * n + n + j] = 0;
            out[i * 2 * n + j] = (float)creal(write), out[i * 2 * n + n + j] = (float)cimag(write);
        }
    sv_status status = sv_weight_upload(c, &m->a, sv_view(a, SV_F32, d, 2 * n));
    if (status == SV_OK) status = sv_weight_upload(c, &m->b, sv_view(b, SV_F32, d, 2 * n));
    if (status == SV_OK) status = sv_weight_upload(c, &m->c, sv_view(out, SV_F32, d, 2 * n));
    free(all);
    return status;
}

static sv_status show(sv_ctx *c, const sv_call *call, sv_state_rule rule)
{
    const int channels = call->y.dim[1], length = call->seq.length;
    const sv_sequence seq = {.length = length};
    sv_tensor impulse, kernel;
    SV_TRY(sv_scratch_alloc(c, &impulse, "impulse", SV_F32, length, channels, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &kernel, "impulse response", SV_F32, length, channels, SV_NONE));
    SV_TRY(sv_fill(c, impulse, 0));
    SV_TRY(sv_fill(c, sv_view(impulse.data, SV_F32, 1, channels), 1));
    rule.d = SV_NONE;
    SV_TRY(sv_state_scan(c, kernel, impulse, &rule, &seq));
    return sv_probe(c, "kernel", kernel);
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const constants *m = SV_PREPARED_CONST(constants, call->of);
    const sv_state_rule rule = {.kind = SV_STATE_COMPLEX,
                                .states = call->of->size['N'],
                                .a = m->a,
                                .b = m->b,
                                .c = m->c,
                                .d = call->in[SKIP]};
    const sv_mark mark = sv_arena_mark(&c->scratch);
    if (sv_probing(c)) SV_TRY(show(c, call, rule));
    sv_arena_rewind(&c->scratch, mark);
    return sv_state_scan(c, call->y, call->in[U], &rule, &call->seq);
}

static const sv_port ports[] = {
    [U] = SV_TOKEN("u", "BDT", .map = SV_MAP_identity),
    [LOG_A] = SV_WEIGHT("log_A_real", "DN", .init = {SV_INIT_CONSTANT, -0.6931472f, 0}),
    [A_IMAG] = SV_WEIGHT("A_imag", "DN", .init = {SV_INIT_UNIFORM, 0, 25}),
    [LOG_DT] = SV_WEIGHT("log_dt", "D", NULL, "1D", .init = {SV_INIT_UNIFORM, -6.9f, -2.3f}),
    [C] = SV_WEIGHT("C", "DN2", .init = {SV_INIT_NORMAL, 0, 0.7f}),
    [SKIP] = SV_WEIGHT("D", "D", NULL, "1D", .init = {SV_INIT_NORMAL, 0, 1}),
    [RE] = SV_STATE(NULL, "BDN"),
    [IM] = SV_STATE(NULL, "BDN"),
    SV_RESULT(0, "o", "BDT"),
    SV_SHOWN(0, "kernel", "DT"),
    SV_END,
};
static const sv_letter letters[] = {
    {SV_LETTER_SHARE, 'D', "expand", 1}, {SV_LETTER_COUNT, 'N', "d_state", 8}, {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("s4d"), .ports = ports, .letters = letters, .prepare = prepare, .run = run};
SV_CATALOGUE(s4d, "S4D", &recurrence);
