/* SPDX-License-Identifier: Apache-2.0
 *
 * Operators that train while they run, the bare recurrences (formulas in memory.simd.c):
 *
 *     TTTLinear, TTTMLP   Sun et al. 2024, as the official dual form: eta_ij = token_eta_i lr_j, y = q + LN(o), and a memory that
 *                         begins with trained weights (LION's TTT block, with rotary positions and gates, is ttt.c)
 *     TTTLinearFLA        the variant of flash-linear-attention: eta_i alone, y = o + LN(o), a padded last mini-batch
 *     Titans              Behrouz et al. 2024, the linear form of flash-linear-attention
 *
 * Mini-batches have 16 tokens; states lie between them, so streams are split at multiples of 16.
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 16 };
static const float EPS = 1e-6f;

/* ---- official TTT ------------------------------------------------------------------------------------ */

enum { Q, K, V, ROW, COLUMN, NORM_W, NORM_B, W1, B1, W2, B2, S_W1, S_B1, S_W2, S_B2 };
enum { LINEAR_S_W = W2, LINEAR_S_B };

typedef struct start {
    sv_tensor memory; /* [1, columns] of the state */
} start;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    const bool mlp = self->type->ports[W2].kind == SV_PORT_WEIGHT;
    const int parts[] = {W1, B1, W2, B2}, count = mlp ? 4 : 2, columns = sv_state_columns(self);
    float *row = malloc(sizeof *row * (size_t)columns), *to = row;
    SV_CHECK(c, row, SV_NO_MEMORY, "no memory for a memory's start");
    for (int i = 0; i < count; i++) {
        const size_t size = (size_t)sv_port_columns(self, parts[i]);
        memcpy(to, self->host[parts[i]].data, size * sizeof *to);
        to += size;
    }
    const sv_status status = sv_prepare_row(c, &SV_PREPARED(start, self)->memory, row, columns);
    free(row);
    return status;
}

static sv_status run_official(sv_ctx *c, const sv_call *call, sv_memory_kind kind)
{
    const sv_tensor *in = call->in;
    sv_sequence seq = call->seq;
    const sv_memory_inputs inputs = {.q = in[Q],
                                     .k = in[K],
                                     .v = in[V],
                                     .row = in[ROW],
                                     .column = in[COLUMN],
                                     .norm_weight = in[NORM_W],
                                     .norm_bias = in[NORM_B]};
    const sv_memory rule = {.kind = kind,
                            .heads = call->of->size['H'],
                            .hidden = call->of->size['F'],
                            .batch = call->of->size['t'] > 0 ? call->of->size['t'] : BATCH,
                            .scale = 1,
                            .eps = EPS,
                            .query_residual = true};
    const sv_mark mark = sv_arena_mark(&c->scratch);
    if (sv_is_none(seq.state_in)) {
        SV_TRY(sv_call_zero_states(c, call, &seq.state_in));
        SV_TRY(sv_fill(c, seq.state_in, 1));
        SV_TRY(sv_column_scale(c, seq.state_in, seq.state_in, SV_PREPARED_CONST(start, call->of)->memory,
                               SV_NONE));
    }
    SV_TRY(sv_memory_scan(c, call->y, &inputs, &rule, &seq));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static sv_status run_linear(sv_ctx *c, const sv_call *call)
{
    return run_official(c, call, SV_MEMORY_GRADIENT);
}
static sv_status run_mlp(sv_ctx *c, const sv_call *call)
{
    return run_official(c, call, SV_MEMORY_MLP);
}

/* Block: learning rates sigmoid(.) / width; the row factor max(0, 1/(place+1) + learned) of the official layer is 'places'. */
#define OFFICIAL_PORTS                                                                                       \
    [Q] = SV_TOKEN("XQ", "BHTtK", .conv = true), [K] = SV_TOKEN("XK", "BHTtK", .conv = true),                \
    [V] = SV_TOKEN("XV", "BHTtK", .map = SV_MAP_identity),                                                   \
    [ROW] = SV_TOKEN("token_eta", "BHTt1", .places = BATCH),                                                 \
    [COLUMN] = SV_TOKEN("ttt_lr_eta", "BHT1t", .map = SV_MAP_sigmoid, .gain = 1.0f / 16),                    \
    [NORM_W] = SV_WEIGHT("w", "HK", .init = {SV_INIT_CONSTANT, 1, 0}),                                       \
    [NORM_B] = SV_WEIGHT("b", "HK", .init = {SV_INIT_CONSTANT, 0, 0})

static const sv_port linear_ports[] = {
    OFFICIAL_PORTS,
    [W1] = SV_WEIGHT("W1", "HKK", .init = {SV_INIT_NORMAL, 0, 0.02f}),
    [B1] = SV_WEIGHT("b1", "H1K", .init = {SV_INIT_CONSTANT, 0, 0}),
    [LINEAR_S_W] = SV_STATE(NULL, "BHKK", "final_W1_states"),
    [LINEAR_S_B] = SV_STATE(NULL, "BH1K", "final_b1_states"),
    SV_RESULT(0, "o", "B(Tt)(HK)"),
    SV_END,
};
static const sv_port mlp_ports[] = {
    OFFICIAL_PORTS,
    [W1] = SV_WEIGHT("W1", "HKF", .init = {SV_INIT_NORMAL, 0, 0.02f}),
    [B1] = SV_WEIGHT("b1", "H1F", .init = {SV_INIT_CONSTANT, 0, 0}),
    [W2] = SV_WEIGHT("W2", "HFK", .init = {SV_INIT_NORMAL, 0, 0.02f}),
    [B2] = SV_WEIGHT("b2", "H1K", .init = {SV_INIT_CONSTANT, 0, 0}),
    [S_W1] = SV_STATE(NULL, "BHKF", "final_W1_states"),
    [S_B1] = SV_STATE(NULL, "BH1F", "final_b1_states"),
    [S_W2] = SV_STATE(NULL, "BHFK", "final_W2_states"),
    [S_B2] = SV_STATE(NULL, "BH1K", "final_b2_states"),
    SV_RESULT(0, "o", "B(Tt)(HK)"),
    SV_END,
};

/* ---- flash-linear-attention's -------------------------------------------------------------------------- */

enum { F_Q, F_K, F_V, F_ETA, F_W, F_B, F_MATRIX, F_BIAS };

static sv_status run_fla(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor ones;
    SV_TRY(sv_call_ones(c, call, &ones, call->of->size['H']));
    const sv_memory_inputs inputs = {.q = in[F_Q],
                                     .k = in[F_K],
                                     .v = in[F_V],
                                     .row = in[F_ETA],
                                     .column = ones,
                                     .norm_weight = in[F_W],
                                     .norm_bias = in[F_B]};
    const sv_memory rule = {.kind = SV_MEMORY_GRADIENT,
                            .heads = call->of->size['H'],
                            .batch = BATCH,
                            .scale = (float)(1 / sqrt(call->of->size['K'])),
                            .eps = EPS,
                            .padded = true};
    SV_TRY(sv_memory_scan(c, call->y, &inputs, &rule, &call->seq));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port fla_ports[] = {
    [F_Q] = SV_TOKEN("q", "BTHK", .conv = true, .unit = true),
    [F_K] = SV_TOKEN("k", "BTHK", .conv = true, .unit = true),
    [F_V] = SV_TOKEN("v", "BTHK", .map = SV_MAP_identity),
    [F_ETA] = SV_TOKEN("eta", "BTH1", .map = SV_MAP_sigmoid, .gain = 1.0f / 16),
    [F_W] = SV_WEIGHT("w", "HK", .init = {SV_INIT_CONSTANT, 1, 0}),
    [F_B] = SV_WEIGHT("b", "HK", .init = {SV_INIT_CONSTANT, 0, 0}),
    [F_MATRIX] = SV_STATE("initial_state", "BHKK", "final_state"),
    [F_BIAS] = SV_STATE("initial_state_bias", "BH1K", "final_state_bias"),
    SV_RESULT(0, "o", "BTHK"),
    SV_END,
};

/* ---- Titans -------------------------------------------------------------------------------------------- */

enum { T_Q, T_K, T_V, T_THETA, T_ALPHA, T_ETA, T_W, T_B, T_MEMORY, T_MOMENTUM };

static sv_status run_titans(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const sv_memory_inputs inputs = {.q = in[T_Q],
                                     .k = in[T_K],
                                     .v = in[T_V],
                                     .row = in[T_THETA],
                                     .column = in[T_ALPHA],
                                     .third = in[T_ETA],
                                     .norm_weight = in[T_W],
                                     .norm_bias = in[T_B]};
    const sv_memory rule = {
        .kind = SV_MEMORY_MOMENTUM, .heads = call->of->size['H'], .batch = BATCH, .scale = 1, .eps = EPS};
    return sv_memory_scan(c, call->y, &inputs, &rule, &call->seq);
}

static const sv_port titans_ports[] = {
    [T_Q] = SV_TOKEN("q", "BHTK", .conv = true, .unit = true),
    [T_K] = SV_TOKEN("k", "BHTK", .conv = true, .unit = true),
    [T_V] = SV_TOKEN("v", "BHTK", .map = SV_MAP_identity),
    [T_THETA] = SV_TOKEN("theta", "BHT1", .map = SV_MAP_sigmoid, .gain = 0.01f),
    [T_ALPHA] =
        SV_TOKEN("alpha", "BHT1", .bias = true, .start = {SV_INIT_UNIFORM, -5, -2}, .map = SV_MAP_sigmoid),
    [T_ETA] = SV_TOKEN("eta", "BHT1", .map = SV_MAP_sigmoid),
    [T_W] = SV_WEIGHT("w", "HK", .init = {SV_INIT_CONSTANT, 1, 0}),
    [T_B] = SV_WEIGHT("b", "HK", .init = {SV_INIT_CONSTANT, 0, 0}),
    [T_MEMORY] = SV_STATE("initial_state", "BHKK", "final_state"),
    [T_MOMENTUM] = SV_STATE(NULL, "BHKK"),
    SV_RESULT(0, "o", "BHTK"),
    SV_END,
};

/* ---- the operators ------------------------------------------------------------------------------------- */

static const sv_letter letters[] = {
    {SV_LETTER_COUNT, 'H', "n_head", 4}, {SV_LETTER_PER_HEAD, 'K', "expand", 1}, {.rule = SV_LETTER_END}};
static const sv_letter mlp_letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                        {SV_LETTER_PER_HEAD, 'K', "expand", 1},
                                        {SV_LETTER_PER_HEAD, 'F', "hidden_rate", 4},
                                        {.rule = SV_LETTER_END}};
static const sv_recurrence linear = {.recordings = SV_RECORDED("ttt_linear_official"),
                                     .ports = linear_ports,
                                     .letters = letters,
                                     .heads = "H",
                                     .prepare = prepare,
                                     .run = run_linear};
static const sv_recurrence mlp = {.recordings = SV_RECORDED("ttt_mlp_official"),
                                  .ports = mlp_ports,
                                  .letters = mlp_letters,
                                  .heads = "H",
                                  .prepare = prepare,
                                  .run = run_mlp};
static const sv_recurrence fla = {.recordings = SV_RECORDED("ttt_linear_fla"),
                                  .ports = fla_ports,
                                  .letters = letters,
                                  .heads = "H",
                                  .run = run_fla};
static const sv_recurrence titans = {.recordings = SV_RECORDED("titans_linear_fla"),
                                     .ports = titans_ports,
                                     .letters = letters,
                                     .heads = "H",
                                     .run = run_titans};
SV_CATALOGUE(ttt_linear, "TTTLinear", &linear);
SV_CATALOGUE(ttt_mlp, "TTTMLP", &mlp);
SV_CATALOGUE(ttt_linear_fla, "TTTLinearFLA", &fla);
SV_CATALOGUE(titans, "Titans", &titans);
