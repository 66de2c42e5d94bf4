/* SPDX-License-Identifier: Apache-2.0
 *
 * ParaGRU and ParaLSTM (Danieli et al. 2025): non-linear cells whose state comes back through diagonals only, so that Newton
 * iterations over a whole sequence are linear scans; formulas in cells.simd.c. B is block-diagonal by heads. 'newton': 0
 * walks token by token, else the number of iterations (4 to 5 reach float32's accuracy).
 */
#include "backbones/block.h"

#include <stdlib.h>

enum { X, A, B, BIAS, PEEPHOLE, NEWTON, H_STATE, C_STATE };

typedef struct weights {
    sv_linear_weights in; /* D -> 3D, gates in blocks */
} para_weights;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    const int heads = self->size['H'], inputs = self->size['I'], outputs = self->size['O'],
              d = self->size['D'];
    SV_CHECK(c, heads * inputs == self->size['E'] && heads * outputs == d, SV_BAD_SHAPE,
             "%d heads of %d to %d channels do not make %d channels", heads, inputs, outputs, d);
    const int columns = self->size['E'];
    float *w = calloc(3 * (size_t)d * (size_t)columns, sizeof *w);
    SV_CHECK(c, w, SV_NO_MEMORY, "no memory for a cell's weights");
    for (int h = 0; h < heads; h++)
        for (int i = 0; i < inputs; i++)
            for (int g = 0; g < 3; g++)
                for (int o = 0; o < outputs; o++)
                    w[(ptrdiff_t)(g * d + h * outputs + o) * columns + h * inputs + i] =
                        sv_f32(self->host[B])[((h * inputs + i) * 3 + g) * outputs + o];
    const sv_status status =
        sv_linear_prepare(c, &SV_PREPARED(para_weights, self)->in, sv_view(w, SV_F32, 3 * d, columns),
                          sv_view(self->host[BIAS].data, SV_F32, 1, 3 * d));
    free(w);
    return status;
}

static sv_status run_cell(sv_ctx *c, const sv_call *call, sv_cell_kind kind)
{
    const double newton = call->of->number[NEWTON];
    SV_CHECK(c, newton >= 0 && newton <= 64, SV_UNSUPPORTED, "%g Newton iterations; 0 to 64 are supported",
             newton);
    const sv_cell rule = {
        .kind = kind, .newton = (int)newton, .own = call->in[A], .peephole = call->in[PEEPHOLE]};
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor gates, cell = SV_NONE;
    SV_TRY(sv_call_scratch(c, call, &gates, "cell gates", 3 * call->y.dim[1]));
    if (kind == SV_CELL_PARA_LSTM && sv_probing(c))
        SV_TRY(sv_call_scratch(c, call, &cell, "cell", call->y.dim[1]));
    SV_TRY(sv_linear(c, gates, call->in[X], SV_NONE, &SV_PREPARED_CONST(para_weights, call->of)->in,
                     SV_MAP_identity));
    SV_TRY(sv_cell_scan(c, call->y, cell, gates, &rule, &call->seq));
    if (!sv_is_none(cell)) SV_TRY(sv_probe(c, "c", cell));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static sv_status run_gru(sv_ctx *c, const sv_call *call)
{
    return run_cell(c, call, SV_CELL_PARA_GRU);
}
static sv_status run_lstm(sv_ctx *c, const sv_call *call)
{
    return run_cell(c, call, SV_CELL_PARA_LSTM);
}

static const sv_port gru_ports[] = {
    [X] = SV_TOKEN("x", "BTE", .input = true),
    [A] = SV_WEIGHT("A", "3D", .init = {SV_INIT_NORMAL, 0, 0.5f}),
    [B] = SV_WEIGHT("B", "HI3O", .init = {SV_INIT_NORMAL, 0, 0.15f}),
    [BIAS] = SV_WEIGHT("b", "3D", .init = {SV_INIT_CONSTANT, 0, 0}),
    [PEEPHOLE] =
        SV_WEIGHT("C", "2D", .optional = true), /* recorded with the GRU too, which has no use for it */
    [NEWTON] = SV_NUMBER("newton", 0),
    [H_STATE] = SV_STATE(NULL, "BD"),
    SV_RESULT(0, "o", "BTD"),
    SV_END,
};
static const sv_port lstm_ports[] = {
    [X] = SV_TOKEN("x", "BTE", .input = true),
    [A] = SV_WEIGHT("A", "3D", .init = {SV_INIT_NORMAL, 0, 0.5f}),
    [B] = SV_WEIGHT("B", "HI3O", .init = {SV_INIT_NORMAL, 0, 0.15f}),
    [BIAS] = SV_WEIGHT("b", "3D", .init = {SV_INIT_CONSTANT, 0, 0}),
    [PEEPHOLE] = SV_WEIGHT("C", "2D", .init = {SV_INIT_NORMAL, 0, 0.5f}),
    [NEWTON] = SV_NUMBER("newton", 0),
    [H_STATE] = SV_STATE(NULL, "BD"),
    [C_STATE] = SV_STATE(NULL, "BD"),
    SV_RESULT(0, "o", "BTD"),
    SV_SHOWN(0, "c", "BTD"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4}, {SV_LETTER_SHARE, 'D', NULL, 1},
                                    {SV_LETTER_SHARE, 'E', NULL, 1},     {SV_LETTER_PER_HEAD, 'I', NULL, 1},
                                    {SV_LETTER_PER_HEAD, 'O', NULL, 1},  {.rule = SV_LETTER_END}};
static const sv_recurrence gru = {.recordings = SV_RECORDED("paragru"),
                                  .ports = gru_ports,
                                  .letters = letters,
                                  .prepare = prepare,
                                  .run = run_gru};
static const sv_recurrence lstm = {.recordings = SV_RECORDED("paralstm_cifg"),
                                   .ports = lstm_ports,
                                   .letters = letters,
                                   .prepare = prepare,
                                   .run = run_lstm};
SV_CATALOGUE(para_gru, "ParaGRU", &gru);
SV_CATALOGUE(para_lstm, "ParaLSTM", &lstm);
