/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU's convolution chain beyond ops.h: choices that tests and benchmarks compare.
 */
#ifndef SV_CHAIN_CPU_H
#define SV_CHAIN_CPU_H

#include "perception/core/ops.h"

typedef struct sv_chain_options {
    bool winograd; /* F(4x4,3x3) where it applies, else products of gathered patches */
    bool matrix;   /* matrix tiles (AMX) where the processor has them */
    bool skip;     /* leave out tiles known to equal the response to an empty map */
} sv_chain_options;

/* sv_cpu_chain_prepare() with other choices than all of them. */
sv_status sv_chain_cpu_prepare(sv_ctx *c, sv_chain **out, const sv_chain_def *def, sv_chain_options options);

#endif
