/* SPDX-License-Identifier: Apache-2.0
 *
 * What diagonal_cpu.c hands to the vector code of diagonal.simd.c: scans whose channels know nothing of each other.
 */
#ifndef SV_DIAGONAL_KERNELS_H
#define SV_DIAGONAL_KERNELS_H

#include "perception/core/ops.h"

enum { SV_DIAGONAL_CHANNELS = 64 }; /* of one task, for every instruction set */

typedef struct sv_diagonal_job {
    sv_tensor y, x, a;  /* diagonal; y, decay, x of log_sum */
    sv_tensor decay;    /* may be none; the a that gates writes */
    sv_tensor position; /* of gates; may be none */
    sv_tensor states;   /* rows to update */
    sv_tensor work;     /* scratch of state_scan, as the states but states major: [groups][N (x2)][C] */
    const sv_sequence *seq;
    const sv_state_rule *rule;
    const float *ar, *ai, *br, *bi, *cr, *ci; /* constants of state_scan, [N][C] */
    bool log, complex_numbers, whole;
} sv_diagonal_job;

/* All tokens of a group, channels first .. first+count-1, count <= SV_DIAGONAL_CHANNELS. */
typedef struct sv_diagonal_kernels {
    void (*diagonal)(const sv_diagonal_job *job, int group, int first, int count);
    void (*gates)(const sv_diagonal_job *job, int group, int first, int count);
    void (*log_sum)(const sv_diagonal_job *job, int group, int first, int count);
    void (*states)(const sv_diagonal_job *job, int group, int first, int count);
    void (*dense)(const sv_diagonal_job *job, int group, int channel);
} sv_diagonal_kernels;

#endif
