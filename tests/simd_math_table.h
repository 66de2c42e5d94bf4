/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SIMD_MATH_TABLE_H
#define SIMD_MATH_TABLE_H

#include "perception/core/simd.h"

#define SIMD_MATH_FUNCTIONS(f) f(exp) f(sigmoid) f(tanh) f(erf) f(log) f(log1p) f(log1p_unit) f(softplus) f(sin) f(cos)

typedef struct simd_math_table {
#define FIELD(name) void (*name)(float *y, const float *x, int n);
    SIMD_MATH_FUNCTIONS(FIELD)
#undef FIELD
} simd_math_table;
SV_SIMD_TABLE(simd_math_table);

#endif
