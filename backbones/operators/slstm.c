/* SPDX-License-Identifier: Apache-2.0
 *
 * sLSTM, the scalar memory of xLSTM (Beck et al. 2024): exponential gates, and each head's own result fed back. Strictly
 * sequential; formulas in cells.simd.c.
 */
#include "backbones/block.h"

#include <stdlib.h>

enum { X, R, B, S };

typedef struct weights {
    sv_tensor own; /* [H*K, 4K] */
    sv_tensor ones;
} slstm_weights;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    slstm_weights *m = SV_PREPARED(slstm_weights, self);
    const int heads = self->size['H'], width = self->size['K'], channels = self->size['D'];
    SV_CHECK(c, heads * width == channels, SV_BAD_SHAPE, "%d channels are not %d heads of %d", channels,
             heads, width);
    const size_t count = (size_t)channels * 4 * (size_t)width;
    float *turned = malloc(sizeof *turned * (count > 4 * (size_t)channels ? count : 4 * (size_t)channels));
    SV_CHECK(c, turned, SV_NO_MEMORY, "no memory for recurrent weights");
    for (int h = 0; h < heads; h++)
        for (int o = 0; o < 4 * width; o++)
            for (int i = 0; i < width; i++)
                turned[(h * width + i) * 4 * width + o] =
                    sv_f32(self->host[R])[(h * 4 * width + o) * width + i];
    sv_status status = sv_weight_upload(c, &m->own, sv_view(turned, SV_F32, channels, 4 * width));
    for (int i = 0; i < 4 * channels; i++) turned[i] = 1;
    if (status == SV_OK) status = sv_weight_upload(c, &m->ones, sv_view(turned, SV_F32, 4 * channels, 1));
    free(turned);
    return status;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const slstm_weights *m = SV_PREPARED_CONST(slstm_weights, call->of);
    const sv_cell rule = {.kind = SV_CELL_SLSTM, .heads = call->of->size['H'], .own = m->own};
    const sv_sequence seq = {.length = call->seq.length};
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor gates;
    SV_TRY(sv_call_scratch(c, call, &gates, "slstm gates", call->in[X].dim[1]));
    SV_TRY(sv_causal_conv(c, gates, call->in[X], m->ones, call->in[B], &seq, SV_MAP_identity)); /* + bias */
    SV_TRY(sv_cell_scan(c, call->y, SV_NONE, gates, &rule, &call->seq));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [X] = SV_TOKEN("Wx", "TB(4D)", .map = SV_MAP_identity),
    [R] = SV_WEIGHT("R", "H(4K)K", NULL, "H4KK", .fan_in = true),
    [B] = SV_WEIGHT("b", "(4D)", NULL, "14D", .init = {SV_INIT_CONSTANT, 0, 0}),
    [S] = SV_STATE("states", "4BD", "final_states"),
    SV_RESULT(0, "o", "TBD"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand", 1},
                                    {SV_LETTER_SHARE, 'D', "expand", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("slstm"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .prepare = prepare,
                                         .run = run};
SV_CATALOGUE(slstm, "sLSTM", &recurrence);
