/* SPDX-License-Identifier: Apache-2.0
 *
 * ATLAS (Behrouz et al. 2025): a memory that learns from the last W tokens at once (the Omega rule), sees
 * keys as monomials of degree up to two, and takes Muon's steps, gradients with momentum made orthogonal by
 * Newton-Schulz iterations:
 *
 *     S = theta S + grad over the window of sum_i gamma_i |phi(k_i)'M - v_i|^2/2
 *     M = (1 - alpha) M - eta NS(S),  y = phi(q)'M
 *
 * A matrix memory, one step per token (the paper's deep memories learn by chunks); no official code. Keys are
 * a quarter of a head wide, which keeps their monomials few. The last W - 1 tokens are carried.
 */
#include "backbones/block.h"

#include <math.h>

enum { Q, K, V, THETA, ALPHA, ETA, GAMMA, M, S, KEYS, VALUES, GATES };

static void follow(sv_instance *self)
{
    const int width = self->size['K'];
    self->size['P'] = 1 + width + width * (width + 1) / 2;
    self->size['L'] = self->size['W'] - 1;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const sv_deep_inputs inputs = {.q = in[Q],
                                   .k = in[K],
                                   .v = in[V],
                                   .theta = in[THETA],
                                   .alpha = in[ALPHA],
                                   .eta = in[ETA],
                                   .gamma = in[GAMMA]};
    const sv_deep_memory rule = {
        .kind = SV_DEEP_OMEGA, .heads = call->of->size['H'], .batch = call->of->size['W']};
    return sv_deep_memory_scan(c, call->y, &inputs, &rule, &call->seq);
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .conv = true, .unit = true),
    [K] = SV_TOKEN("k", "BTHK", .conv = true, .unit = true),
    [V] = SV_TOKEN("v", "BTHK", .conv = true),
    [THETA] = SV_TOKEN("theta", "BTH", .map = SV_MAP_sigmoid),
    [ALPHA] =
        SV_TOKEN("alpha", "BTH", .bias = true, .start = {SV_INIT_UNIFORM, -5, -2}, .map = SV_MAP_sigmoid),
    [ETA] = SV_TOKEN("eta", "BTH", .map = SV_MAP_sigmoid, .gain = 0.01f),
    [GAMMA] = SV_TOKEN("gamma", "BTH", .map = SV_MAP_sigmoid),
    [M] = SV_STATE("initial_state", "BHPK", "final_state"),
    [S] = SV_STATE("initial_momentum", "BHPK", "final_momentum"),
    [KEYS] = SV_STATE("initial_keys", "BHLK", "final_keys"),
    [VALUES] = SV_STATE("initial_values", "BHLK", "final_values"),
    [GATES] = SV_STATE("initial_gates", "BHL", "final_gates"),
    SV_RESULT(0, "o", "BTHK"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand", 0.25},
                                    {SV_LETTER_COUNT, 'W', "window", 4},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("atlas"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .follow = follow,
                                         .run = run};
SV_CATALOGUE(atlas, "ATLAS", &recurrence);
