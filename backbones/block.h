/* SPDX-License-Identifier: Apache-2.0
 *
 * The block around a recurrence of the catalogue, the same for all of them (README.md has the whole of it):
 *
 *     n = norm(x)
 *     every token port of the recurrence from n: a projection, short convolution, map, as its table says
 *     o = recurrence(ports), in one direction or two, of one set of ports or of two
 *     y = x + out_proj(norm of heads(o) * SiLU(gate n));   with an FFN: y += down(GELU(up(norm(y))))
 */
#ifndef SV_BLOCK_H
#define SV_BLOCK_H

#include "backbones/operator.h"

sv_status sv_block_bind(sv_binder *b, void *self, const sv_operator_spec *spec);
sv_status sv_block_forward(sv_ctx *c, const void *self, sv_tensor y, sv_tensor x, const sv_order *order,
                           int length, const sv_operator_state *state);
/* Columns of the state rows that 'forward' carries where the direction allows a state; else 0. */
int sv_block_state_columns(const void *self);
/* The last columns of those: the recurrence's own state, behind what short convolutions carry. */
int sv_block_memory_columns(const void *self);

/* An operator of the catalogue: const sv_operator sv_operator_<identifier>, NAME in a configuration. */
#define SV_CATALOGUE(identifier, in_configurations, of)                                                      \
    const sv_operator sv_operator_##identifier = {.name = (in_configurations),                               \
                                                  .bytes = SV_BLOCK_BYTES,                                   \
                                                  .bind = sv_block_bind,                                     \
                                                  .forward = sv_block_forward,                               \
                                                  .recurrence = (of)}
enum { SV_BLOCK_BYTES = 65536 };

#endif
