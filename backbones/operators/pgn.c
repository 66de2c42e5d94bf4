/* SPDX-License-Identifier: Apache-2.0
 *
 * PGN, the parallel gated network (Jia et al. 2024): the W tokens before make a hidden row in one product, one gate mixes it.
 *
 *     hid_t = b_h + sum_w x_(t-W+w) W_h[w]  (w = 0 is the oldest; zeros before the first token)
 *     [s, g] = W_g [x_t; hid_t] + b_g,  o = sigmoid(s) hid + (1 - sigmoid(s)) tanh(g)
 *
 * The window is made by shifting W times by one token, each shift with a row of state.
 */
#include "backbones/block.h"

#include <stdlib.h>

enum { X, W_H, B_H, W_G, B_G, S };

typedef struct network {
    sv_linear_weights window, gate;
    sv_tensor shift, zeros; /* [D,2]: of the token before 1, of the token 0 */
} network;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    network *m = SV_PREPARED(network, self);
    const int d = self->size['D'], lags = self->size['W'], columns = lags * d;
    float *w = malloc(sizeof *w * (size_t)d * (size_t)columns + 1),
          *shift = calloc(3 * (size_t)d, sizeof *shift);
    sv_status status = w && shift ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "no memory for a window");
    for (int lag = 0; lag < lags && status == SV_OK; lag++)
        for (int i = 0; i < d; i++)
            for (int o = 0; o < d; o++)
                w[o * columns + lag * d + i] = sv_f32(self->host[W_H])[(lag * d + i) * d + o];
    for (int i = 0; i < d && status == SV_OK; i++) shift[2 * i] = 1;
    if (status == SV_OK)
        status = sv_linear_prepare(c, &m->window, sv_view(w, SV_F32, d, columns),
                                   sv_view(self->host[B_H].data, SV_F32, 1, d));
    if (status == SV_OK) status = sv_weight_upload(c, &m->shift, sv_view(shift, SV_F32, d, 2));
    if (status == SV_OK) status = sv_prepare_row(c, &m->zeros, shift + 2 * d, d);
    free(w), free(shift);
    SV_TRY(status);
    return sv_prepare_port(c, self, &m->gate, W_G, B_G, false);
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const network *m = SV_PREPARED_CONST(network, call->of);
    const int d = call->of->size['D'], lags = call->of->size['W'];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor window, both, gates;
    SV_TRY(sv_call_scratch(c, call, &window, "pgn window", lags * d));
    SV_TRY(sv_call_scratch(c, call, &both, "pgn input and hidden", 2 * d));
    SV_TRY(sv_call_scratch(c, call, &gates, "pgn gates", 2 * d));
    sv_tensor before = call->in[X];
    for (int lag = 1; lag <= lags; lag++) {
        const sv_tensor shifted = sv_columns(window, (lags - lag) * d, d);
        sv_sequence seq = call->seq;
        if (!sv_is_none(seq.state_in)) seq.state_in = sv_columns(seq.state_in, (lag - 1) * d, d);
        if (!sv_is_none(seq.state_out)) seq.state_out = sv_columns(seq.state_out, (lag - 1) * d, d);
        SV_TRY(sv_causal_conv(c, shifted, before, m->shift, m->zeros, &seq, SV_MAP_identity));
        before = shifted;
    }
    const sv_tensor hidden = sv_columns(both, d, d), s = sv_columns(gates, 0, d), g = sv_columns(gates, d, d);
    SV_TRY(sv_map1(c, sv_columns(both, 0, d), call->in[X], SV_MAP_identity));
    SV_TRY(sv_linear(c, hidden, window, SV_NONE, &m->window, SV_MAP_identity));
    SV_TRY(sv_linear(c, gates, both, SV_NONE, &m->gate, SV_MAP_identity));
    SV_TRY(sv_map1(c, g, g, SV_MAP_tanh)); /* o = g + sigmoid(s) (hidden - g) */
    SV_TRY(sv_map2(c, call->y, hidden, g, SV_MAP_sub));
    SV_TRY(sv_map2(c, call->y, call->y, s, SV_MAP_mul_sigmoid));
    SV_TRY(sv_map2(c, call->y, call->y, g, SV_MAP_add));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [X] = SV_TOKEN("x", "BTD", .input = true),
    [W_H] = SV_WEIGHT("W_h", "WDD", .fan_in = true),
    [B_H] = SV_WEIGHT("b_h", "D", NULL, "1D", .init = {SV_INIT_CONSTANT, 0, 0}),
    [W_G] = SV_WEIGHT("W_g", "EE", .fan_in = true),
    [B_G] = SV_WEIGHT("b_g", "E", NULL, "1E", .init = {SV_INIT_CONSTANT, 0, 0}),
    [S] = SV_STATE(NULL, "BWD"),
    SV_RESULT(0, "o", "BTD"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_SHARE, 'D', NULL, 1},
                                    {SV_LETTER_SHARE, 'E', NULL, 2},
                                    {SV_LETTER_COUNT, 'W', "window", 8},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("pgn"), .ports = ports, .letters = letters, .prepare = prepare, .run = run};
SV_CATALOGUE(pgn, "PGN", &recurrence);
