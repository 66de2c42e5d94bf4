/* SPDX-License-Identifier: Apache-2.0
 *
 * Stages of a frame in a roofline diagram (Williams, Waterman and Patterson 2009).
 */
#ifndef SV_BENCH_ROOFLINE_H
#define SV_BENCH_ROOFLINE_H

#include "perception/core/peak.h"

typedef struct sv_roofline_stage {
    const char *name; /* path, "backbone_3d/linear_1" */
    double ms, flops, bytes;
} sv_roofline_stage;

typedef struct sv_roofline {
    const char *title, *precision, *matrix_units; /* "tensor cores" */
    const sv_ceilings *ceilings;
    sv_roofline_stage stages[SV_PROFILE_STAGES];
    int count;
} sv_roofline;

/* "6 products of 16 bits each": what a product of the precision is made of on matrix units. */
const char *sv_roofline_products(const sv_ceilings *ceilings);
sv_status sv_roofline_write(sv_ctx *c, const sv_roofline *roofline, const char *path);

#endif
