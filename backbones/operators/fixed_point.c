/* SPDX-License-Identifier: Apache-2.0
 *
 * Fixed-point RNN (Movahedi et al. 2025): a diagonal recurrence and a dense channel mixer Q, product of generalised
 * Householder factors, iterated to their common fixed point
 *
 *     h_t = lam h_(t-1) + (1 - lam)(Q_t (b x - h_t) + h_t)
 *
 * which is solved here directly (cells.simd.c): no iteration count that results would depend on. Steps alpha below 1/2 keep
 * the fixed point unique and the recurrence stable.
 */
#include "backbones/block.h"

enum { X, B, LAM, U, ALPHA, S };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    return sv_mixer_scan(c, call->y, in[X], in[B], in[LAM], in[U], in[ALPHA], &call->seq);
}

static const sv_port ports[] = {
    [X] = SV_TOKEN("x", "BTD", .conv = true),
    [B] = SV_TOKEN("b", "BTD", .map = SV_MAP_sigmoid),
    [LAM] = SV_TOKEN("lam", "BTD", .bias = true, .start = {SV_INIT_UNIFORM, 1, 5}, .map = SV_MAP_sigmoid),
    [U] = SV_TOKEN("u", "BTRD", .unit = true),
    [ALPHA] = SV_TOKEN("alpha", "BTR", .map = SV_MAP_sigmoid, .gain = 0.45f),
    [S] = SV_STATE(NULL, "BD"),
    SV_RESULT(0, "o", "BTD"),
    SV_END,
};
static const sv_letter letters[] = {
    {SV_LETTER_SHARE, 'D', "expand", 1}, {SV_LETTER_COUNT, 'R', "rank", 2}, {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {
    .recordings = SV_RECORDED("fixed_point_rnn"), .ports = ports, .letters = letters, .run = run};
SV_CATALOGUE(fixed_point, "FixedPointRNN", &recurrence);
