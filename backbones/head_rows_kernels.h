/* SPDX-License-Identifier: Apache-2.0
 *
 * What head_rows_cpu.c hands to the vector code of head_rows.simd.c.
 */
#ifndef SV_HEAD_ROWS_KERNELS_H
#define SV_HEAD_ROWS_KERNELS_H

#include "perception/core/ops.h"

typedef struct sv_head_job {
    sv_tensor y, x, s;
    sv_tensor base; /* the other factor of a dot product */
    int heads;
    sv_head_rule rule;
    bool divide;
    float number;
} sv_head_job;

/* Each works on rows 'from' .. 'to'-1. */
typedef struct sv_head_kernels {
    void (*map)(const sv_head_job *job, int from, int to);
    void (*scale)(const sv_head_job *job, int from, int to);
    void (*columns)(const sv_head_job *job, int from, int to);
    void (*dots)(const sv_head_job *job, int from, int to);
} sv_head_kernels;

#endif
