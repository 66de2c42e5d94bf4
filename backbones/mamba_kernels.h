/* SPDX-License-Identifier: Apache-2.0
 *
 * What mamba_cpu.c hands to the vector code of mamba.simd.c. 'width' is the number of inner channels rounded up to blocks of
 * SV_SCAN_CHANNELS, zero behind the last. Results of slots lie in blocks of channels, [block][slots][SV_SCAN_CHANNELS], so
 * that a scan, which takes one block, reads and writes memory in one go.
 */
#ifndef SV_MAMBA_KERNELS_H
#define SV_MAMBA_KERNELS_H

#include <stddef.h>
#include <stdint.h>

typedef struct sv_mamba_conv {
    const float
        *u; /* rows of 'width': taps - 1 before the first output, or behind it for a walk from the end */
    const float *w, *bias; /* [taps][width] in the order of the rows of u, [width] */
    float *rows, *blocks;  /* the result twice: rows of 'width', and this slot of block 0 */
    ptrdiff_t block_step;  /* floats between blocks */
    int width, taps, count;
} sv_mamba_conv;

typedef struct sv_mamba_gate {
    float *z;             /* rows of 'width', replaced by y SiLU(z) */
    const float *blocks;  /* y: slot 0 of block 0 */
    const int32_t *slots; /* of each row; below 0: zeros */
    ptrdiff_t block_step;
    int width, count;
} sv_mamba_gate;

typedef struct sv_mamba_kernels {
    /* rows[t] = SiLU(bias + sum_j w[j] u[t + j]), t < count */
    void (*conv)(const sv_mamba_conv *job);
    void (*gate)(const sv_mamba_gate *job);
} sv_mamba_kernels;

#endif
