/* SPDX-License-Identifier: Apache-2.0
 *
 * RAT (Wei et al. 2025), between recurrence and attention: inside chunks of 16 tokens keys and values are gated averages, and
 * a token asks, by softmax, the last average of every earlier chunk and its own:
 *
 *     k~_t = g k~_(t-1) + (1 - g) k_t,  v~ alike; both begin anew at every chunk
 *     o_t = softmax(K^-1/2 q.[k~ at the ends of earlier chunks, k~_t]) [v~ ..., v~_t]
 *
 * A sixteenth of attention's cost, still quadratic; no state is carried.
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>

enum { Q, K, V, G };
enum { CHUNK = 16 };

typedef struct chunk {
    sv_tensor keep; /* [16, heads * width]: 0 for the first token of a chunk, else 1 */
} chunk;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    const int columns = self->size['H'] * self->size['K'];
    float *keep = malloc(sizeof *keep * CHUNK * (size_t)columns);
    SV_CHECK(c, keep, SV_NO_MEMORY, "no memory for a chunk");
    for (int i = 0; i < CHUNK * columns; i++) keep[i] = i < columns ? 0 : 1;
    const sv_status status =
        sv_weight_upload(c, &SV_PREPARED(chunk, self)->keep, sv_view(keep, SV_F32, CHUNK, columns));
    free(keep);
    return status;
}

/* y = averages of x within chunks; 'rest' is working space. */
static sv_status average(sv_ctx *c, const sv_call *call, sv_tensor y, sv_tensor x, sv_tensor g,
                         sv_tensor keep, sv_tensor rest)
{
    SV_TRY(sv_map1(c, rest, g, SV_MAP_one_minus));
    SV_TRY(sv_map2(c, rest, rest, x, SV_MAP_mul));
    return sv_diagonal_scan(c, y, rest, keep, false, false, &call->seq);
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_tensor *in = call->in;
    const int columns = in[K].dim[1];
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor k, v, keep, rest;
    SV_TRY(sv_call_scratch(c, call, &k, "rat keys", columns));
    SV_TRY(sv_call_scratch(c, call, &v, "rat values", columns));
    SV_TRY(sv_call_scratch(c, call, &keep, "rat keep", columns));
    SV_TRY(sv_call_scratch(c, call, &rest, "rat rest", columns));
    SV_TRY(sv_place_rows(c, keep, SV_PREPARED_CONST(chunk, call->of)->keep, &call->seq));
    SV_TRY(sv_map2(c, keep, keep, in[G], SV_MAP_mul));
    SV_TRY(average(c, call, k, in[K], in[G], keep, rest));
    SV_TRY(average(c, call, v, in[V], in[G], keep, rest));
    SV_TRY(sv_attention_scan(c, call->y, in[Q], k, v, SV_NONE, call->of->size['H'],
                             (float)(1 / sqrt(call->of->size['K'])), 0, CHUNK, &call->seq));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BTHK", .map = SV_MAP_identity),
    [K] = SV_TOKEN("k", "BTHK", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BTHK", .map = SV_MAP_identity),
    [G] = SV_TOKEN("g", "BTHK", .bias = true, .start = {SV_INIT_UNIFORM, 0, 3}, .map = SV_MAP_sigmoid),
    SV_RESULT(0, "o", "BTHK"),
    SV_END,
};
static const sv_letter letters[] = {
    {SV_LETTER_COUNT, 'H', "n_head", 4}, {SV_LETTER_PER_HEAD, 'K', "expand", 1}, {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("rat"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .quadratic = true,
                                         .prepare = prepare,
                                         .run = run};
SV_CATALOGUE(rat, "RAT", &recurrence);
