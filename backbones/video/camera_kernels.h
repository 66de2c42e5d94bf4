/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector part of camera_sample_cpu.c.
 */
#ifndef SV_CAMERA_KERNELS_H
#define SV_CAMERA_KERNELS_H

#include "perception/core/simd.h"

typedef struct sv_camera_kernels {
    /* y += share[0] row[0] + ... + share[3] row[3] */
    void (*add)(float *y, int n, const float *const row[4], const float share[4]);
} sv_camera_kernels;
SV_SIMD_TABLE(sv_camera_kernels);

#endif
