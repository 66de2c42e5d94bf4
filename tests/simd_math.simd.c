/* SPDX-License-Identifier: Apache-2.0
 *
 * The m_* functions on arrays, compiled for each instruction set like the library's kernels, for
 * check_simd.c.
 */
#include "simd_math_table.h"

#define FUNCTION(name)                                                                                       \
    static void run_##name(float *y, const float *x, int n)                                                  \
    {                                                                                                        \
        for (int i = 0; i < n; i += SV_VL) vf_store_n(y + i, m_##name(vf_load_n(x + i, n - i)), n - i);      \
    }
SIMD_MATH_FUNCTIONS(FUNCTION)

#define ENTRY(name) .name = run_##name,
const simd_math_table SV_SIMD(simd_math_table) = {SIMD_MATH_FUNCTIONS(ENTRY)};
