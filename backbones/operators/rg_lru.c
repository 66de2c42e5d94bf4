/* SPDX-License-Identifier: Apache-2.0
 *
 * RG-LRU, the recurrence of Griffin and Hawk (De et al. 2024). Its two gates are block-diagonal in the input:
 *
 *     log a = -8 sigmoid(A x + b_a) softplus(Lambda),  h_t = a h_(t-1) + sqrt(1 - a^2) sigmoid(I x + b_i) x
 *
 * Where a sequence begins (segment_pos 0) the old state is dropped and the root is left out.
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>

enum { X, POSITION, IN_W, IN_B, A_W, A_B, LAMBDA, S };

typedef struct gates {
    sv_tensor in, a;     /* [W, K] each output's weights */
    sv_tensor in_b, a_b; /* [1, W] */
    sv_tensor speed;     /* [1, W] -8 softplus(Lambda) */
} gates;

/* x @ w per head, w [H,K,K], as rows of outputs. */
static sv_status prepare_gate(sv_ctx *c, sv_tensor *out, sv_tensor w, int heads, int width)
{
    float *rows = malloc((size_t)heads * (size_t)width * (size_t)width * sizeof *rows);
    SV_CHECK(c, rows, SV_NO_MEMORY, "no memory for gates");
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < width; i++)
            for (int o = 0; o < width; o++)
                rows[(h * width + o) * width + i] = sv_f32(w)[(h * width + i) * width + o];
    const sv_status status = sv_weight_upload(c, out, sv_view(rows, SV_F32, heads * width, width));
    free(rows);
    return status;
}

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    gates *m = SV_PREPARED(gates, self);
    const int heads = self->size['H'], width = self->size['K'], channels = self->size['W'];
    SV_CHECK(c, heads * width == channels, SV_BAD_SHAPE, "%d channels are not %d heads of %d", channels,
             heads, width);
    SV_TRY(prepare_gate(c, &m->in, self->host[IN_W], heads, width));
    SV_TRY(prepare_gate(c, &m->a, self->host[A_W], heads, width));
    SV_TRY(sv_prepare_row(c, &m->in_b, sv_f32(self->host[IN_B]), channels));
    SV_TRY(sv_prepare_row(c, &m->a_b, sv_f32(self->host[A_B]), channels));
    float *speed = malloc((size_t)channels * sizeof *speed);
    SV_CHECK(c, speed, SV_NO_MEMORY, "no memory for decays");
    for (int i = 0; i < channels; i++) {
        const double x = sv_f32(self->host[LAMBDA])[i];
        speed[i] = (float)(-8 * (fmax(x, 0) + log1p(exp(-fabs(x)))));
    }
    const sv_status status = sv_prepare_row(c, &m->speed, speed, channels);
    free(speed);
    return status;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const gates *m = SV_PREPARED_CONST(gates, call->of);
    const sv_tensor x = call->in[X];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor a, in;
    SV_TRY(sv_call_scratch(c, call, &a, "rg-lru decay", x.dim[1]));
    SV_TRY(sv_call_scratch(c, call, &in, "rg-lru input", x.dim[1]));
    SV_TRY(sv_block_linear(c, a, x, SV_NONE, m->a, m->a_b));
    SV_TRY(sv_map1(c, a, a, SV_MAP_sigmoid));
    SV_TRY(sv_column_scale(c, a, a, m->speed, SV_NONE));
    SV_TRY(sv_block_linear(c, in, x, SV_NONE, m->in, m->in_b));
    SV_TRY(sv_map2(c, in, x, in, SV_MAP_mul_sigmoid));
    SV_TRY(sv_root_gates(c, a, in, a, in, call->in[POSITION], &call->seq));
    SV_TRY(sv_diagonal_scan(c, call->y, in, a, false, false, &call->seq));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [X] = SV_TOKEN("x", "BTW", .conv = true),
    [POSITION] = {.kind = SV_PORT_TOKEN, .name = "segment_pos", .layout = "BT", .optional = true},
    [IN_W] = SV_WEIGHT("in_w", "HKK", .fan_in = true),
    [IN_B] = SV_WEIGHT("in_b", "HK", .init = {SV_INIT_CONSTANT, 0, 0}),
    [A_W] = SV_WEIGHT("a_w", "HKK", .fan_in = true),
    [A_B] = SV_WEIGHT("a_b", "HK", .init = {SV_INIT_CONSTANT, 0, 0}),
    [LAMBDA] =
        SV_WEIGHT("a_param", "W", NULL, "1W", .init = {SV_INIT_UNIFORM, -8, -4.3f}), /* a^8 in 0.9..0.999 */
    [S] = SV_STATE("h0", "BW", "last_h"),
    SV_RESULT(0, "o", "BTW"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand", 1},
                                    {SV_LETTER_SHARE, 'W', "expand", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("rglru"), .ports = ports, .letters = letters, .prepare = prepare, .run = run};
SV_CATALOGUE(rg_lru, "RGLRU", &recurrence);
