/* SPDX-License-Identifier: Apache-2.0
 *
 * Retention as published (Sun et al. 2023): a constant decay per head, causal. (LION's RetNet, in retnet.c, lets tokens
 * see the whole of their chunk.)
 *
 *     S_t = g_h S_(t-1) + k_t v_t',  o = K^-1/2 q'S,  g_h = 1 - 2^(-5-h)
 */
#include "backbones/block.h"

#include <math.h>
#include <stdlib.h>

enum { Q, K, V, S };

typedef struct decays {
    sv_tensor log; /* [1, H] */
} decays;

static sv_status prepare(sv_ctx *c, sv_instance *self)
{
    const int heads = self->size['H'];
    float *log = malloc((size_t)heads * sizeof *log);
    SV_CHECK(c, log, SV_NO_MEMORY, "no memory for decays");
    for (int h = 0; h < heads; h++) log[h] = (float)log1p(-exp2(-5.0 - h));
    const sv_status status =
        sv_weight_upload(c, &SV_PREPARED(decays, self)->log, sv_view(log, SV_F32, 1, heads));
    free(log);
    return status;
}

static sv_status run(sv_ctx *c, const sv_call *call)
{
    const sv_decay_rule rule = {.heads = call->of->size['H'],
                                .decay = SV_DECAY_HEAD,
                                .scale = (float)(1 / sqrt(call->of->size['K']))};
    const sv_tensor *in = call->in;
    return sv_decay_scan(c, call->y, in[Q], in[K], in[V], SV_PREPARED_CONST(decays, call->of)->log, SV_NONE,
                         &rule, &call->seq, false);
}

static const sv_port ports[] = {
    [Q] = SV_TOKEN("q", "BHTK", .map = SV_MAP_identity),
    [K] = SV_TOKEN("k", "BHTK", .map = SV_MAP_identity),
    [V] = SV_TOKEN("v", "BHTV", .map = SV_MAP_identity),
    [S] = SV_STATE(NULL, "BHKV", NULL),
    SV_RESULT(0, "o", "BHTV"),
    SV_END,
};
static const sv_letter letters[] = {{SV_LETTER_COUNT, 'H', "n_head", 4},
                                    {SV_LETTER_PER_HEAD, 'K', "expand_k", 1},
                                    {SV_LETTER_PER_HEAD, 'V', "expand_v", 2},
                                    {.rule = SV_LETTER_END}};
static const sv_recurrence recurrence = {.recordings = SV_RECORDED("retention"),
                                         .ports = ports,
                                         .letters = letters,
                                         .heads = "H",
                                         .prepare = prepare,
                                         .run = run};
SV_CATALOGUE(retention, "Retention", &recurrence);
