/* SPDX-License-Identifier: Apache-2.0
 *
 * HGRN (Qin et al. 2023), a gated linear recurrence of every channel on its own:
 *
 *     h_t = f_t h_(t-1) + x_t,  f = e^g           layer: f = sigmoid(W x), x = (1 - f) SiLU(W' x)
 */
#include "backbones/block.h"

enum { X, G, S };
enum { BARE, GATED }; /* GATED: times 1 - f here, as the layer does */

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor x = call->in[X];
    if (call->form == GATED) {
        sv_tensor rest;
        SV_TRY(sv_call_scratch(c, call, &rest, "hgrn input", x.dim[1]));
        SV_TRY(sv_map1(c, rest, call->in[G], SV_MAP_one_minus_exp));
        SV_TRY(sv_map2(c, rest, rest, x, SV_MAP_mul));
        x = rest;
    }
    SV_TRY(sv_diagonal_scan(c, call->y, x, call->in[G], true, false, &call->seq));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [X] = SV_TOKEN("x", "BTD", .map = SV_MAP_silu),
    [G] = SV_TOKEN("g", "BTD", .bias = true, .start = {SV_INIT_UNIFORM, 0, 5}, .map = SV_MAP_log_sigmoid),
    [S] = SV_STATE("initial_state", "BD", "final_state"),
    SV_RESULT(BARE, "o", "BTD"),
    SV_RESULT(GATED, NULL, "BTD"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_SHARE, 'D', "expand", 1}, {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("hgrn"), .ports = ports, .letters = letters, .form = GATED, .run = run};
SV_CATALOGUE(hgrn, "HGRN", &recurrence);
