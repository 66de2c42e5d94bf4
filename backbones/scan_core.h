/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementary functions of Mamba's vector code, shared by scan.simd.c and mamba.simd.c. Included by *.simd.c only.
 */
#ifndef SV_SCAN_CORE_H
#define SV_SCAN_CORE_H

#include "perception/core/simd.h"

#define SV_SCAN_INLINE static inline __attribute__((always_inline))

#if SV_SIMD_ISA == 2
/* Any exponent will do. */
enum { SV_SCAN_ALWAYS_TAME = 1 };
static const float sv_scan_tame_reach = INFINITY;

/*
 * 2^(d*a) for d*a <= 0 above all: r = d*a - floor(d*a), then p(r) 2^floor(d*a), which is what scalef does with d*a itself;
 * right for anything, infinities and NaN included. p has degree 5 and relative error 1.6e-7 (minimax under conditions): p(0) = 1,
 * and p(1) = 2 with the exact slope, so that 1 - 2^(d*a) keeps its relative accuracy when the decay is slow.
 */
SV_SCAN_INLINE vf sv_scan_power(vf d, vf a, bool guard)
{
    (void)guard;
    const vf x = d * a;
    const vf r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    vf p = m_fma(m_set(1.9354377e-3f), r, m_set(8.861951e-3f));
    p = m_fma(p, r, m_set(5.5918477e-2f));
    p = m_fma(p, r, m_set(2.401298e-1f));
    p = m_fma(p, r, m_set(6.9315434e-1f));
    p = m_fma(p, r, m_set(1.0f));
    return m_scale2(p, x);
}
#else
enum { SV_SCAN_ALWAYS_TAME = 0 };
/* Beyond this |d*a| sv_scan_power() needs its guards: what m_scale2() can reach in two steps. */
static const float sv_scan_tame_reach = 250.0f;

/*
 * 2^(d*a): n = the nearest integer, found by adding 1.5*2^23; r = d*a - n in one rounding, |r| <= 1/2; then
 * 2^n * (1 + r q(r)), q of degree 4 with relative error of the whole <= 9.2e-8 (minimax), 2 ulp after
 * rounding. The 1 is exact, so that 1 - 2^(d*a) keeps its relative accuracy when the decay is slow. guard:
 * also right when d*a is huge, infinite or NaN; otherwise |d*a| <= sv_scan_tame_reach is promised. Both give the same
 * bits where both may be used.
 */
SV_SCAN_INLINE vf sv_scan_power(vf d, vf a, bool guard)
{
    const vf magic = m_set(12582912.0f);
    vf n = m_fma(d, a, magic) - magic;
    if (guard) n = m_max(m_set(-252.0f), m_min(m_set(252.0f), n));
    vf r = m_fma(d, a, -n);
    if (guard) r = m_max(m_set(-1.0f), m_min(m_set(1.0f), r));
    vf p = m_fma(m_set(1.3264727e-3f), r, m_set(9.6715126e-3f));
    p = m_fma(p, r, m_set(5.5507337e-2f));
    p = m_fma(p, r, m_set(2.4022242e-1f));
    p = m_fma(p, r, m_set(6.9314698e-1f));
    p = m_fma(p, r, m_set(1.0f));
    return m_scale2(p, n);
}
#endif

/* x / y: 14 bits and one Newton step, 1.5 ulp at a third of a division's time. y neither 0 nor near the greatest float. */
SV_SCAN_INLINE vf sv_scan_over(vf x, vf y)
{
#if SV_SIMD_ISA == 2
    const vf guess = _mm512_rcp14_ps(y);
    return x * m_fma(m_fma(-y, guess, m_set(1.0f)), guess, guess);
#else
    return x / y;
#endif
}

/* x / (1 + e^-x). Below -87 the exponent is clamped, where the result is below 1e-34 instead of vanishing. NaN is passed on. */
SV_SCAN_INLINE vf sv_scan_silu(vf x)
{
#if SV_SIMD_ISA == 2
    const vf safe = m_max(m_set(-87.0f), x);
#else
    const vf safe = m_max(m_set(-87.0f), m_min(m_set(87.0f), x));
#endif
    const vf e = sv_scan_power(safe, m_set(-1.44269504f), false);
    return sv_scan_over(x, m_set(1.0f) + e);
}

/*
 * log(1 + e^x) = max(x, 0) + log(1 + t), t = e^-|x|; with s = t / (2 + t) log(1 + t) = 2 atanh(s) = t - s (t - s^2 Q(s^2)),
 * Q of degree 3 as in m_log1p_unit(). Relatively accurate for small results too; NaN is passed on.
 */
SV_SCAN_INLINE vf sv_scan_softplus(vf x)
{
    const vf t = sv_scan_power(m_min(m_set(87.0f), m_abs(x)), m_set(-1.44269504f), false);
    const vf s = sv_scan_over(t, m_set(2.0f) + t), z = s * s;
    vf q = m_fma(m_set(2.801198959350586e-1f), z, m_set(2.8001806139945984e-1f));
    q = m_fma(q, z, m_set(4.002152681350708e-1f));
    q = m_fma(q, z, m_set(6.66664183139801e-1f));
    return m_max(m_set(0.0f), x) + m_fma(-s, m_fma(-z, q, t), t);
}

#endif
