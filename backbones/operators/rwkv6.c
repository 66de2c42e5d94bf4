/* SPDX-License-Identifier: Apache-2.0
 *
 * RWKV-6 ("Finch", Peng et al. 2024), the bare recurrence one way: a token meets its own k v' through the bonus u alone.
 *
 *     o_t = K^-1/2 q'(S_(t-1) + diag(u) k_t v_t'),  S_t = diag(e^w_t) S_(t-1) + k_t v_t',  w = -e^(low rank of x)
 *
 * (LION's bidirectional RWKV block, with its token shift and official weights, is rwkv.c.)
 */
#include "backbones/block.h"

#include <math.h>

enum { Q, K, V, W, U, S };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_decay_rule rule = {.heads = call->of->size['H'],
                                .decay = SV_DECAY_CHANNEL,
                                .read = SV_READ_BEFORE,
                                .scale = (float)(1 / sqrt(call->of->size['K']))};
    const sv_tensor *in = call->in;
    return sv_decay_scan(c, call->y, in[Q], in[K], in[V], in[W], in[U], &rule, &call->seq, false);
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BHTK", .map = SV_MAP_identity),
    [K] = SV_TOKEN("k", "BHTK", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BHTV", .map = SV_MAP_identity),
    [W] = SV_TOKEN("w", "BHTK", .rank = 64, .inner = SV_MAP_tanh, .bias = true,
                   .start = {SV_INIT_UNIFORM, -6, -1}, .map = SV_MAP_neg_exp),
    [U] = SV_WEIGHT("u", "HK", .init = {SV_INIT_UNIFORM, 0, 1}),
    [S] = SV_STATE("initial_state", "BHKV", "final_state"),
    SV_RESULT(0, "o", "BHTV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("rwkv6"), .ports = ports, .letters = letters, .heads = "H", .run = run};
SV_CATALOGUE(rwkv6, "RWKV6", &recurrence);
