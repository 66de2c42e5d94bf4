/* SPDX-License-Identifier: Apache-2.0
 *
 * Titans with the paper's deep memory (Behrouz et al. 2025, equations 11-14): a perceptron of one hidden
 * layer that learns v from k by gradient steps with momentum and forgetting, gradients taken at the start of
 * chunks of 16 tokens, so streams are split there:
 *
 *     f(x) = gelu(x W1) W2;   S = eta S - theta grad |f(k) - v|^2/2,  M = (1 - alpha) M + S,  y = f_M(q)
 *
 * M begins with trained weights. The linear form, with a public library's layer norm and gradient, is Titans
 * in test_time.c.
 */
#include "backbones/block.h"

#include <stdlib.h>
#include <string.h>

enum { Q, K, V, THETA, ALPHA, ETA, W1, W2, M1, M2, S1, S2 };
enum { CHUNK = 16 };

typedef struct start {
    sv_tensor memory; /* [1, columns of the state] */
} start;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    const size_t size = (size_t)sv_port_columns(self, W1);
    float *row = calloc(4 * size, sizeof *row);
    SV_CHECK(c, row, SV_NO_MEMORY, "no memory for a memory's start");
    memcpy(row, self->host[W1].data, size * sizeof *row);
    memcpy(row + size, self->host[W2].data, size * sizeof *row);
    const sv_status status = sv_prepare_row(c, &SV_PREPARED(start, self)->memory, row, (int)(4 * size));
    free(row);
    return status;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    sv_sequence seq = call->seq;
    const sv_deep_inputs inputs = {
        .q = in[Q], .k = in[K], .v = in[V], .theta = in[THETA], .alpha = in[ALPHA], .eta = in[ETA]};
    const sv_deep_memory rule = {.kind = SV_DEEP_PERCEPTRON,
                                 .heads = call->of->size['H'],
                                 .hidden = call->of->size['F'],
                                 .batch = CHUNK};
    const sv_mark mark = sv_arena_mark(&c->scratch);
    if (sv_is_none(seq.state_in)) {
        SV_TRY(sv_call_zero_states(c, call, &seq.state_in));
        SV_TRY(sv_fill(c, seq.state_in, 1));
        SV_TRY(sv_column_scale(c, seq.state_in, seq.state_in, SV_PREPARED_CONST(start, call->of)->memory,
                               SV_NONE));
    }
    SV_TRY(sv_deep_memory_scan(c, call->y, &inputs, &rule, &seq));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .conv = true, .unit = true),
    [K] = SV_TOKEN("k", "BTHK", .conv = true, .unit = true),
    [V] = SV_TOKEN("v", "BTHK", .conv = true),
    [THETA] = SV_TOKEN("theta", "BTH", .map = SV_MAP_sigmoid, .gain = 0.1f),
    [ALPHA] =
        SV_TOKEN("alpha", "BTH", .bias = true, .start = {SV_INIT_UNIFORM, -5, -2}, .map = SV_MAP_sigmoid),
    [ETA] = SV_TOKEN("eta", "BTH", .map = SV_MAP_sigmoid),
    [W1] = SV_WEIGHT("W1", "HKF", .init = {SV_INIT_NORMAL, 0, 0.25f}),
    [W2] = SV_WEIGHT("W2", "HFK", .init = {SV_INIT_NORMAL, 0, 0.125f}),
    [M1] = SV_STATE("initial_W1", "BHKF", "final_W1"),
    [M2] = SV_STATE("initial_W2", "BHFK", "final_W2"),
    [S1] = SV_STATE("initial_S1", "BHKF", "final_S1"),
    [S2] = SV_STATE("initial_S2", "BHFK", "final_S2"),
    SV_RESULT(0, "o", "BTHK"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand", 1},
                                    {SV_LETTER_PER_HEAD, 'F', "hidden_rate", 4},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("titans_mlp"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .prepare = prepare,
                                         .run = run};
SV_CATALOGUE(titans_mlp, "TitansMLP", &recurrence);
