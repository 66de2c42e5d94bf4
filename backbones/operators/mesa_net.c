/* SPDX-License-Identifier: Apache-2.0
 *
 * MesaNet (von Oswald et al. 2025): the least-squares read-out of everything seen, regularised by lamb per key channel.
 *
 *     M = e^g M + beta k k',  N = e^g N + beta k v',  o = N'(M + diag(lamb))^-1 q
 */
#include "backbones/block.h"

enum { Q, K, V, BETA, G, LAMB, M, N };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    return sv_mesa_scan(c, call->y, in[Q], in[K], in[V], in[G], in[BETA], in[LAMB], call->of->size['H'],
                        &call->seq);
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .conv = true, .unit = true),
    [K] = SV_TOKEN("k", "BTHK", .conv = true, .unit = true),
    [V] = SV_TOKEN("v", "BTHV", .conv = true),
    [BETA] = SV_TOKEN("beta", "BTH", .map = SV_MAP_sigmoid),
    [G] = SV_TOKEN("g", "BTH", .bias = true, .start = {SV_INIT_UNIFORM, -6.9f, -2.25f},
                   .map = SV_MAP_softplus, .rate = true),
    [LAMB] = SV_WEIGHT("lamb", "HK", .init = {SV_INIT_UNIFORM, 0.75f, 1.25f}),
    [M] = SV_STATE(NULL, "BHKK", "h_kk"),
    [N] = SV_STATE(NULL, "BHKV", "h_kv"),
    SV_RESULT(0, "o", "BTHV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("mesa_net"), .ports = ports, .letters = letters, .heads = "H", .run = run};
SV_CATALOGUE(mesa_net, "MesaNet", &recurrence);
