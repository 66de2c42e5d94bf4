/* SPDX-License-Identifier: Apache-2.0
 *
 * What a device can do at most, measured on it. Benchmarks state their rates as shares of it.
 *
 *     vector   float32 multiply-adds from registers, with the widest instructions in use, everywhere at once
 *     matrix   products on matrix units in the context's precision: on the CPU tiles (amx.h), on a GPU tensor cores
 *              (tile.cuh). float32 and what lies between are made of several 16-bit products there, six or three, and
 *              count as that much less. 0 where there are no such units
 *     copy     within the device's memory, much more than its caches hold; bytes read and bytes written
 */
#ifndef SV_PEAK_H
#define SV_PEAK_H

#include "context.h"

#ifdef __cplusplus
extern "C" {
#endif

struct sv_ceilings {
    double vector_gflops, matrix_gflops; /* 2 per multiply-add */
    double copy_gb;                      /* 1e9 bytes per second */
    int matrix_products;                 /* that make one of the precision's; 0: no matrix units */
};

/* The best of several short runs each; takes less than a second, and SV_PEAK_BYTES of the device's memory twice. */
enum { SV_PEAK_BYTES = 256 << 20 };
sv_status sv_measure_ceilings(sv_ctx *c, sv_ceilings *out);

/* The higher of both rates. */
static inline double sv_ceiling_gflops(const sv_ceilings *ceilings)
{
    return ceilings->matrix_gflops > ceilings->vector_gflops ? ceilings->matrix_gflops
                                                             : ceilings->vector_gflops;
}

/* The devices' own (sv_device.ceilings). */
sv_status sv_cpu_ceilings(sv_ctx *c, sv_ceilings *out);
sv_status sv_cuda_ceilings(sv_ctx *c, sv_ceilings *out);

#ifdef __cplusplus
}
#endif

#endif
