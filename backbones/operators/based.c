/* SPDX-License-Identifier: Apache-2.0
 *
 * Based and ReBased (Arora et al. 2024; Aksenov et al. 2024): attention whose exponential is cut after the second order, which
 * makes it linear attention over second-order features of q and k. With s = K^-1/2 q.k:
 *
 *     Based: weight 1 + s + s^2/2;   ReBased: s^2;    o = sum weight v / (sum weight + 1e-6)
 *
 * which becomes a state of 1 + K + K(K+1)/2 features per value channel.
 */
#include "backbones/block.h"

#include <math.h>

enum { Q, K, V, S, Z };
enum { BASED, NOT_NORMALISED, REBASED };

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    const int keys = self->size['K'];
    (void)c;
    self->size['F'] = 1 + keys + keys * (keys + 1) / 2;
    return SV_OK;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const bool square = call->form == REBASED;
    const sv_taylor rule = {.heads = call->of->size['H'],
                            .scale = (float)(1 / sqrt(call->of->size['K'])),
                            .c0 = square ? 0 : 1,
                            .c1 = square ? 0 : 1,
                            .c2 = square ? 1 : 0.5f,
                            .eps = 1e-6f,
                            .normalise = call->form != NOT_NORMALISED};
    return sv_taylor_scan(c, call->y, call->in[Q], call->in[K], call->in[V], &rule, &call->seq);
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BHTK", .map = SV_MAP_identity),
    [K] = SV_TOKEN("k", "BHTK", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BHTV", .map = SV_MAP_identity),
    [S] = SV_STATE(NULL, "BHFV", NULL),
    [Z] = SV_STATE(NULL, "BHF", NULL),
    SV_RESULT(BASED, "o", "BHTV"),
    SV_RESULT(NOT_NORMALISED, "o_nonorm", "BHTV"),
    SV_RESULT(REBASED, "o_rebased", "BHTV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_COUNT, 'K', "feature_dim", 16},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence based = {.recordings = SV_RECORDED("based"),
                                    .ports = ports,
                                    .letters = letters,
                                    .heads = "H",
                                    .prepare = prepare,
                                    .run = run};
static const sv_recurrence rebased = {
    .ports = ports, .letters = letters, .heads = "H", .form = REBASED, .prepare = prepare, .run = run};
SV_CATALOGUE(based, "Based", &based);
SV_CATALOGUE(rebased, "ReBased", &rebased);
