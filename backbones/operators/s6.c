/* SPDX-License-Identifier: Apache-2.0
 *
 * Mamba's selective scan (Gu and Dao 2023), the bare recurrence, and its form with negative eigenvalues (Grazzi et al. 2025),
 * where every factor is stretched from (0,1) to (-1,1):
 *
 *     dt = softplus(delta + bias),  h = f(e^(dt A)) h + dt B u,  y = C.h + D u  (times SiLU(z));   f(a) = a or 2a - 1
 *
 * (LION's Mamba block, with its official weights, is mamba.c.) Block: u, B, C and delta are all made from the input.
 */
#include "backbones/block.h"

#include <stdlib.h>

enum { U, DELTA, A, B, C, SKIP, BIAS, Z, S };

typedef struct step {
    sv_tensor ones; /* [D, 1] */
} step;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    const int d = self->size['D'];
    float *ones = malloc((size_t)d * sizeof *ones);
    SV_CHECK(c, ones, SV_NO_MEMORY, "no memory for a step");
    for (int i = 0; i < d; i++) ones[i] = 1;
    const sv_status status = sv_weight_upload(c, &SV_PREPARED(step, self)->ones, sv_view(ones, SV_F32, d, 1));
    free(ones);
    return status;
}

/* softplus(delta + bias), as a convolution with a single tap */
static sv_status find_steps(sv_ctx *c, const sv_call *call, sv_tensor *out)
{
    const sv_sequence seq = {.length = call->seq.length};
    SV_TRY(sv_call_scratch(c, call, out, "selective steps", call->y.dim[1]));
    return sv_causal_conv(c, *out, call->in[DELTA], SV_PREPARED_CONST(step, call->of)->ones, call->in[BIAS],
                          &seq, SV_MAP_softplus);
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor delta;
    SV_TRY(find_steps(c, call, &delta));
    SV_TRY(
        sv_selective_scan(c, call->y, in[U], delta, in[A], in[B], in[C], in[SKIP], in[Z], &call->seq, false));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static sv_status run_negative(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_state_rule rule = {.kind = SV_STATE_SELECTIVE,
                          .states = call->of->size['N'],
                          .a = in[A],
                          .b = in[B],
                          .c = in[C],
                          .d = in[SKIP],
                          .scale = 2,
                          .shift = -1};
    SV_TRY(find_steps(c, call, &rule.delta));
    SV_TRY(sv_state_scan(c, call->y, in[U], &rule, &call->seq));
    if (!sv_is_none(in[Z])) SV_TRY(sv_map2(c, call->y, call->y, in[Z], SV_MAP_mul_silu));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [U] = SV_TOKEN("u", "BDT", .conv = true),
    [DELTA] = SV_TOKEN("delta", "BDT", .rank = 8),
    [A] = SV_WEIGHT("A", "DN", .init = {SV_INIT_UNIFORM, -16, -1}),
    [B] = SV_TOKEN("B", "BNT", .map = SV_MAP_identity),
    [C] = SV_TOKEN("C", "BNT", .map = SV_MAP_identity),
    [SKIP] = SV_WEIGHT("D", "D", NULL, "1D", .init = {SV_INIT_CONSTANT, 1, 0}),
    [BIAS] = SV_WEIGHT("delta_bias", "D", NULL, "1D", .init = {SV_INIT_UNIFORM, -6.9f, -2.25f}),
    [Z] = {.kind = SV_PORT_TOKEN, .name = "z", .layout = "BDT", .optional = true},
    [S] = SV_STATE(NULL, "BDN", "last_state"),
    SV_RESULT(0, "o", "BDT"),
    SV_END,
};
static const sv_letter letters[] = {
    {SV_LETTER_SHARE, 'D', "expand", 2}, {SV_LETTER_COUNT, 'N', "d_state", 16}, {.rule = SV_LETTER_END}};
static const sv_recurrence plain = {.recordings = SV_RECORDED("mamba_selective_scan"),
                                    .ports = ports,
                                    .letters = letters,
                                    .prepare = prepare,
                                    .run = run};
static const sv_recurrence negative = {.recordings = SV_RECORDED("mamba_negeig"),
                                       .ports = ports,
                                       .letters = letters,
                                       .prepare = prepare,
                                       .run = run_negative};
SV_CATALOGUE(s6, "S6", &plain);
SV_CATALOGUE(s6_negative, "S6Negative", &negative);
