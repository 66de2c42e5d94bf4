/* SPDX-License-Identifier: Apache-2.0
 *
 * An operator on trial: bound to seeded random weights and run over groups of random tokens, to measure what
 * it costs and what it keeps.
 */
#ifndef SV_TRIAL_H
#define SV_TRIAL_H

#include "backbones/operator.h"

typedef struct sv_trial {
    const sv_operator *type;
    void *self;
    int channels;
    int64_t parameters;
    sv_weights *weights;
    sv_binder *binder;
    sv_arena arena; /* the prepared weights; 'used' counts their bytes */
} sv_trial;

/* Close it in any case. Must not move while it is open. */
sv_status sv_trial_open(sv_ctx *c, sv_trial *trial, const sv_operator *type, const sv_node *cfg, int channels,
                        uint64_t seed);
void sv_trial_close(sv_trial *trial);

/* Tokens one group after the other, in the order of their rows. */
typedef struct sv_trial_tokens {
    sv_tensor x, y, rows;
    int groups, length;
} sv_trial_tokens;

/* In the frame arena. */
sv_status sv_trial_tokens_alloc(sv_ctx *c, sv_trial_tokens *out, int channels, int groups, int length);
/* Uniform numbers of variance one, the same for the same seed; 'equal': the same ones in every group. */
sv_status sv_trial_tokens_fill(sv_ctx *c, const sv_trial_tokens *tokens, uint32_t seed, bool equal);
/* y from x. 'state' as in sv_operator.forward(). */
sv_status sv_trial_run(sv_ctx *c, const sv_trial *trial, const sv_trial_tokens *tokens,
                       const sv_operator_state *state);

#endif
