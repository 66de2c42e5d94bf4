/* SPDX-License-Identifier: Apache-2.0
 *
 * Mamba-2 (Dao and Gu 2024), the state-space duality core: per head a state [N,P] with one decay per token.
 *
 *     h_t = e^(A dt_t) h_(t-1) + B_t (dt_t x_t)',  y = C_t'h         A < 0 per head, dt = softplus(W x + bias)
 */
#include "backbones/block.h"

enum { X, DT, A, B, C, S };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const int heads = call->of->size['H'];
    const sv_decay_rule rule = {.heads = heads, .decay = SV_DECAY_TOKEN, .scale = 1};
    const sv_tensor *in = call->in;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor input, decay;
    SV_TRY(sv_call_scratch(c, call, &input, "mamba2 input", in[X].dim[1]));
    SV_TRY(sv_call_scratch(c, call, &decay, "mamba2 decay", heads));
    SV_TRY(sv_head_scale(c, input, in[X], in[DT], false, 0));
    SV_TRY(sv_column_scale(c, decay, in[DT], in[A], SV_NONE));
    SV_TRY(sv_decay_scan(c, call->y, in[C], in[B], input, decay, SV_NONE, &rule, &call->seq, false));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [X] = SV_TOKEN("x", "BTHP", .conv = true),
    [DT] = SV_TOKEN("dt", "BTH", .bias = true, .start = {SV_INIT_UNIFORM, -6.9f, -2.25f},
                    .map = SV_MAP_softplus),
    [A] = SV_WEIGHT("A", "H", .init = {SV_INIT_UNIFORM, -16, -1}),
    [B] = SV_TOKEN("B", "BTHN", .conv = true),
    [C] = SV_TOKEN("C", "BTHN", .conv = true),
    [S] = SV_STATE("initial_states", "B1HPN", "final_state", .core = "BHNP"),
    SV_RESULT(0, "o", "BTHP"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'P', "expand", 2},
                                    {SV_LETTER_COUNT, 'N', "d_state", 16},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("mamba2_ssd"), .ports = ports, .letters = letters, .heads = "H", .run = run};
SV_CATALOGUE(mamba2, "Mamba2", &recurrence);
