/* SPDX-License-Identifier: Apache-2.0
 *
 * minGRU (Feng et al. 2024): a gated unit whose gates do not see the state, so that it is a linear scan.
 *
 *     z = sigmoid(gate),  h_t = (1 - z) h_(t-1) + z f(hidden),  f(x) = x + 1/2 for x >= 0, else sigmoid(x)
 *
 * The reference scans in log space (f keeps states positive for that) and loses 9e-5 in float32; this scans the numbers.
 */
#include "backbones/block.h"

enum { HIDDEN, GATE, S };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int columns = call->y.dim[1];
    sv_tensor keep, take, value;
    SV_TRY(sv_call_scratch(c, call, &keep, "mingru keep", columns));
    SV_TRY(sv_call_scratch(c, call, &take, "mingru take", columns));
    SV_TRY(sv_call_scratch(c, call, &value, "mingru value", columns));
    SV_TRY(sv_map1(c, take, call->in[GATE], SV_MAP_sigmoid));
    SV_TRY(sv_head_map(c, keep, call->in[GATE], 1, SV_HEAD_TIMES, -1));
    SV_TRY(sv_map1(c, keep, keep, SV_MAP_sigmoid));
    SV_TRY(sv_map1(c, value, call->in[HIDDEN], SV_MAP_min_gru));
    SV_TRY(sv_map2(c, value, value, take, SV_MAP_mul));
    SV_TRY(sv_diagonal_scan(c, call->y, value, keep, false, false, &call->seq));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [HIDDEN] = SV_TOKEN("hidden", "BTD", .map = SV_MAP_identity),
    [GATE] = SV_TOKEN("gate", "BTD", .map = SV_MAP_identity),
    [S] = SV_STATE(NULL, "BD", NULL),
    SV_RESULT(0, "o", "BTD"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_SHARE, 'D', "expand", 1}, {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("mingru"), .ports = ports, .letters = letters, .run = run};
SV_CATALOGUE(min_gru, "MinGRU", &recurrence);
