/* SPDX-License-Identifier: Apache-2.0
 *
 * MEGA's moving averages (operators/ema.c), for operators that begin with them. Their weights are five ports
 * in a row, SV_EMA_PORTS(first): delta, alpha, beta, gamma [D,N], omega [D]. Letters: D channels, N averages.
 */
#ifndef SV_EMA_H
#define SV_EMA_H

#include "backbones/block.h"

enum { SV_EMA_DELTA, SV_EMA_ALPHA, SV_EMA_BETA, SV_EMA_GAMMA, SV_EMA_OMEGA };

typedef struct sv_ema {
    sv_tensor a, b, c; /* [D, N] */
} sv_ema;

#define SV_EMA_PORTS(first)                                                                                  \
    [(first) +                                                                                               \
        SV_EMA_DELTA] = SV_WEIGHT("delta", "DN1", NULL, "DN", .init = {SV_INIT_NORMAL, 0, 0.2f}),            \
        [(first) + SV_EMA_ALPHA] = SV_WEIGHT("alpha", "DN1", NULL, "DN", .init = {SV_INIT_NORMAL, 0, 0.2f}), \
        [(first) + SV_EMA_BETA] = SV_WEIGHT("beta", "DN1", NULL, "DN", .init = {SV_INIT_NORMAL, 0, 1}),      \
        [(first) + SV_EMA_GAMMA] = SV_WEIGHT("gamma", "DN", .init = {SV_INIT_NORMAL, 0, 1}),                 \
        [(first) + SV_EMA_OMEGA] = SV_WEIGHT("omega", "D", NULL, "1D", .init = {SV_INIT_NORMAL, 0, 1})

sv_status sv_ema_prepare(sv_ctx *c, const sv_instance *self, int first, sv_ema *out);
/* y = SiLU(averages of x, read out, + omega x); 'seq' with the averages' own state. */
sv_status sv_ema_run(sv_ctx *c, const sv_call *call, int first, const sv_ema *m, sv_tensor y, sv_tensor x,
                     const sv_sequence *seq);

#endif
