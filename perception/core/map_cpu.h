/* SPDX-License-Identifier: Apache-2.0
 *
 * The elementwise maps of maps.def on contiguous floats, for the CPU's kernels.
 */
#ifndef SV_MAP_CPU_H
#define SV_MAP_CPU_H

#include "ops.h"
#include "simd.h"

typedef struct sv_map_kernels {
    /* y[i] = map(a[i], b[i]) for n elements; y may be a or b. Unary maps do not read b (NULL is fine). */
    void (*run[SV_MAP_COUNT])(float *y, const float *a, const float *b, int64_t n);
} sv_map_kernels;
SV_SIMD_TABLE(sv_map_kernels);

/* Whether the map reads b. */
static inline bool sv_map_is_binary(sv_map map)
{
    return map == SV_MAP_add || map == SV_MAP_mul || map == SV_MAP_mul_silu;
}

#endif
