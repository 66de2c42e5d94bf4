/* SPDX-License-Identifier: Apache-2.0
 *
 * A leaky average of every channel: h = keep h + (1 - keep) x, keep a weight between 0 and 1.
 */
#include "backbones/block.h"

enum { X, KEEP, H };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor share, rest;
    SV_TRY(sv_scratch_alloc(c, &share, "leaky share", SV_F32, 1, call->y.dim[1], SV_NONE));
    SV_TRY(sv_call_scratch(c, call, &rest, "leaky input", call->y.dim[1]));
    SV_TRY(sv_map1(c, share, call->in[KEEP], SV_MAP_one_minus));
    SV_TRY(sv_column_scale(c, rest, call->in[X], share, SV_NONE));
    SV_TRY(sv_diagonal_scan(c, call->y, rest, call->in[KEEP], false, false, &call->seq));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [X] = SV_TOKEN("x", "BTD", .map = SV_MAP_identity),
    [KEEP] = SV_WEIGHT("keep", "D", NULL, "1D", .init = {SV_INIT_UNIFORM, 0.5f, 0.99f}),
    [H] = SV_STATE("h0", "BD", "h"),
    SV_RESULT(0, "o", "BTD"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_SHARE, 'D', "expand", 1}, {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("leaky"), .ports = ports, .letters = letters, .run = run};
SV_CATALOGUE(leaky, "Leaky", &recurrence);
