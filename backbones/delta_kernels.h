/* SPDX-License-Identifier: Apache-2.0
 *
 * What delta_cpu.c hands to the vector code of delta.simd.c.
 */
#ifndef SV_DELTA_KERNELS_H
#define SV_DELTA_KERNELS_H

#include "perception/core/ops.h"

enum {
    SV_DELTA_KEYS = 256,  /* most key channels of a head */
    SV_DELTA_VALUES = 32, /* value channels of one task, for every instruction set */
};

typedef struct sv_delta_job {
    sv_tensor y, states;
    sv_delta_inputs in; /* a constant decay of the heads has a pitch of 0 */
    sv_delta_rule rule;
    const sv_sequence *seq;
    int keys, values;
} sv_delta_job;

typedef struct sv_delta_kernels {
    /* All tokens of a group, one head, its values first .. first+count-1, count <= SV_DELTA_VALUES. */
    void (*scan)(const sv_delta_job *job, int group, int head, int first, int count);
} sv_delta_kernels;

#endif
