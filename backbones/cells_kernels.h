/* SPDX-License-Identifier: Apache-2.0
 *
 * What cells_cpu.c hands to the vector code of cells.simd.c: recurrences that are no scan.
 */
#ifndef SV_CELLS_KERNELS_H
#define SV_CELLS_KERNELS_H

#include "perception/core/ops.h"

enum { SV_CELL_CHANNELS = 32, SV_MIXERS = 16 }; /* channels of one task; factors of a mixer */

typedef struct sv_cell_job {
    sv_tensor y, cell, x, states;
    sv_tensor b, lam, u, alpha; /* of the mixer */
    sv_tensor work;             /* a row per worker */
    const sv_cell *rule;
    const sv_sequence *seq;
} sv_cell_job;

typedef struct sv_cell_kernels {
    void (*slstm)(const sv_cell_job *job, int group, int head, float *work);
    /* Channels first .. first+count-1, count <= SV_CELL_CHANNELS. */
    void (*gru)(const sv_cell_job *job, int group, int first, int count);
    void (*lstm)(const sv_cell_job *job, int group, int first, int count);
    void (*mixer)(const sv_cell_job *job, int group, float *work);
} sv_cell_kernels;

#endif
