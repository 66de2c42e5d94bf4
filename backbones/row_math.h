/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector loops over short rows of any length, for *.simd.c: the last lanes are masked, nothing is padded.
 */
#ifndef SV_ROW_MATH_H
#define SV_ROW_MATH_H

#include "perception/core/simd.h"

#include <stddef.h>

/* A loop over 'count' floats, SV_VL at a time: 'i' is the first, 'n' how many. */
#define SV_LANES(i, n, count)                                                                                \
    for (int i = 0, n = (count) < SV_VL ? (count) : SV_VL; i < (count);                                      \
         i += SV_VL, n = (count)-i < SV_VL ? (count)-i : SV_VL)

static inline vf row_load(const float *x, int n)
{
    return n == SV_VL ? vf_load(x) : vf_load_n(x, n);
}
static inline void row_store(float *x, vf value, int n)
{
    if (n == SV_VL)
        vf_store(x, value);
    else
        vf_store_n(x, value, n);
}

/* e^x - 1 for x <= 0, of full relative accuracy near 0: there r + r^2 q(r) with m_exp()'s polynomial. */
static inline vf decay_less_one(vf x)
{
    vf q = m_set(1.3814467238262296e-3f);
    q = m_fma(q, x, m_set(8.368780836462975e-3f));
    q = m_fma(q, x, m_set(4.166839271783829e-2f));
    q = m_fma(q, x, m_set(1.666651964187622e-1f));
    q = m_fma(q, x, m_set(4.999999403953552e-1f));
    const vf near = m_fma(q * x, x, x);
    return m_if_less(m_abs(x), m_set(0.34f), near, m_exp(x) - m_set(1.0f));
}

static inline float row_dot(const float *a, const float *b, int count)
{
    vf sum = m_set(0.0f);
    SV_LANES(i, n, count) sum = m_fma(row_load(a + i, n), row_load(b + i, n), sum);
    return vf_sum(sum);
}

static inline float row_sum(const float *a, int count)
{
    vf sum = m_set(0.0f);
    SV_LANES(i, n, count) sum = sum + row_load(a + i, n);
    return vf_sum(sum);
}

/* y += s x */
static inline void row_add(float *y, float s, const float *x, int count)
{
    const vf factor = m_set(s);
    SV_LANES(i, n, count) row_store(y + i, m_fma(factor, row_load(x + i, n), row_load(y + i, n)), n);
}

/* y = s x */
static inline void row_scale(float *y, float s, const float *x, int count)
{
    const vf factor = m_set(s);
    SV_LANES(i, n, count) row_store(y + i, factor * row_load(x + i, n), n);
}

#endif
