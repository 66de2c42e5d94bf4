/* SPDX-License-Identifier: Apache-2.0
 *
 * mLSTM, the matrix memory of xLSTM (Beck et al. 2024), the bare cell one way (LION's two-way xLSTM block is xlstm.c):
 *
 *     m' = max(log sigmoid(f) + m, i),  C = f' C + i' k v',  n = f' n + i' k      f' = e^(log sigmoid(f) + m - m'), i' = e^(i - m')
 *     o = (K^-1/2 C'q) / (max(|K^-1/2 n.q|, e^-m') + 1e-6),  m = 0 at first
 */
#include "backbones/block.h"

enum { Q, K, V, I, F, C, N, M };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    sv_sequence seq = call->seq;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    if (sv_is_none(seq.state_in)) SV_TRY(sv_call_zero_states(c, call, &seq.state_in));
    SV_TRY(sv_mlstm(c, call->y, in[Q], in[K], in[V], in[I], in[F], call->of->size['H'], 1e-6f, &seq));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BHTK", .conv = true),
    [K] = SV_TOKEN("k", "BHTK", .conv = true),
    [V] = SV_TOKEN("v", "BHTV", .map = SV_MAP_identity),
    [I] = SV_TOKEN("i", "BHT", .bias = true, .start = {SV_INIT_NORMAL, 0, 0.1f}),
    [F] = SV_TOKEN("f", "BHT", .bias = true, .start = {SV_INIT_UNIFORM, 3, 6}),
    [C] = SV_STATE("C0", "BHKV", "C"),
    [N] = SV_STATE("n0", "BHK", "n"),
    [M] = SV_STATE("m0", "BH1", "m"),
    SV_RESULT(0, "o", "BHTV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 1},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("mlstm"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .state_per_head = true,
                                         .run = run};
SV_CATALOGUE(mlstm, "mLSTM", &recurrence);
