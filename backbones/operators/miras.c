/* SPDX-License-Identifier: Apache-2.0
 *
 * Miras (Behrouz et al. 2025), three memories by what they mind and how they forget (formulas in memory.simd.c): YAAD's Huber
 * loss, MONETA's third power with a fourth-norm, MEMORA's softmax. Matrix memories, one step per token.
 */
#include "backbones/block.h"

enum { Q, K, V, ETA, ALPHA, DELTA, S };
enum { YAAD, MONETA, MEMORA };

static sv_status run(sv_ctx *c, const sv_call *call)
{
    static const sv_memory_kind kinds[] = {SV_MEMORY_HUBER, SV_MEMORY_NORM, SV_MEMORY_SOFTMAX};
    const sv_tensor *in = call->in;
    const sv_memory_inputs inputs = {
        .q = in[Q], .k = in[K], .v = in[V], .row = in[ETA], .column = in[ALPHA], .third = in[DELTA]};
    const sv_memory rule = {.kind = kinds[call->form], .heads = call->of->size['H'], .batch = 1, .scale = 1};
    return sv_memory_scan(c, call->y, &inputs, &rule, &call->seq);
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .conv = true, .unit = true),
    [K] = SV_TOKEN("k", "BTHK", .conv = true, .unit = true),
    [V] = SV_TOKEN("v", "BTHK", .conv = true),
    [ETA] = SV_TOKEN("eta", "BTH1", .map = SV_MAP_sigmoid, .gain = 0.02f),
    [ALPHA] =
        SV_TOKEN("alpha", "BTH1", .bias = true, .start = {SV_INIT_UNIFORM, 2, 5}, .map = SV_MAP_sigmoid),
    [DELTA] = SV_TOKEN("delta", "BTH1", .map = SV_MAP_softplus),
    [S] = SV_STATE(NULL, "BHKK"),
    SV_RESULT(YAAD, "o", "BTHK"),
    SV_RESULT(MONETA, "o_moneta_p3_q4", "BTHK"),
    SV_RESULT(MEMORA, "o_memora", "BTHK"),
    SV_END,
};
static const sv_letter letters[] = {
    {SV_LETTER_COUNT, 'H', "n_head", 4}, {SV_LETTER_PER_HEAD, 'K', "expand", 1}, {.rule = SV_LETTER_END}};
static const sv_recurrence yaad = {.recordings = SV_RECORDED("miras_matrix"),
                                   .ports = ports,
                                   .letters = letters,
                                   .heads = "H",
                                   .form = YAAD,
                                   .run = run};
static const sv_recurrence moneta = {
    .ports = ports, .letters = letters, .heads = "H", .form = MONETA, .run = run};
static const sv_recurrence memora = {
    .ports = ports, .letters = letters, .heads = "H", .form = MEMORA, .run = run};
SV_CATALOGUE(yaad, "YAAD", &yaad);
SV_CATALOGUE(moneta, "MONETA", &moneta);
SV_CATALOGUE(memora, "MEMORA", &memora);
