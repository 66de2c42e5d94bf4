/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear attention (Katharopoulos et al. 2020), phi = elu + 1 applied to q and k beforehand:
 *
 *     S_t = S_(t-1) + k_t v_t',  z_t = z_(t-1) + k_t;   o = K^-1/2 q'S   or   o = q'S K^-1/2 / (K^-1/2 q'z + 1e-10)
 */
#include "backbones/block.h"

#include <math.h>

enum { Q, K, V, S, Z };
enum { PLAIN, NORMALISED };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const int heads = call->of->size['H'];
    const sv_decay_rule rule = {.heads = heads, .scale = (float)(1 / sqrt(call->of->size['K']))};
    const sv_sequence memory = sv_part_of(call, S), sums = sv_part_of(call, Z);
    const sv_tensor *in = call->in;
    SV_TRY(sv_decay_scan(c, call->y, in[Q], in[K], in[V], SV_NONE, SV_NONE, &rule, &memory, false));
    if (call->form == PLAIN && sv_is_none(sums.state_out)) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor ones, sum;
    SV_TRY(sv_call_ones(c, call, &ones, heads));
    SV_TRY(sv_call_scratch(c, call, &sum, "sums of weights", heads));
    SV_TRY(sv_decay_scan(c, sum, in[Q], in[K], ones, SV_NONE, SV_NONE, &rule, &sums, false));
    if (call->form == NORMALISED) SV_TRY(sv_head_scale(c, call->y, call->y, sum, true, 1e-10f));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .map = SV_MAP_elu_one),
    [K] = SV_TOKEN("k", "BTHK", .map = SV_MAP_elu_one),
    [V] = SV_TOKEN("v", "BTHV", .map = SV_MAP_identity),
    [S] = SV_STATE("initial_state", "BHKV", "final_state"),
    [Z] = SV_STATE(NULL, "BHK", NULL),
    SV_RESULT(PLAIN, "o", "BTHV"),
    SV_RESULT(NORMALISED, "o_normalized_zero_init", "BTHV", .fresh = true),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("linear_attn"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .form = NORMALISED,
                                         .run = run};
SV_CATALOGUE(linear_attention, "LinearAttention", &recurrence);
