/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementary functions on vf, included by simd.h only. Each states its range
 * reduction, its polynomial and the error measured against long double by
 * tests/check_simd.c.
 */

/* exp: x = n ln2 + r, |r| <= ln2/2; degree-6 polynomial of e^r; two-constant ln2. Flushes to 0 below -103.98,
 * inf above 88.73; NaN is passed on. */
static inline vf m_exp(vf x)
{
    const vf n = m_round(m_max(m_set(-151.0f), m_min(m_set(129.0f), x * m_set(1.44269504088896341f))));
    vf r = m_fma(n, m_set(-0.693359375f), x);
    r = m_fma(n, m_set(2.12194440e-4f), r);
    r = m_max(m_set(-1.0f), m_min(m_set(1.0f), r)); /* inputs far outside: n is clamped, keep r tame */
    vf p = m_set(1.0f / 720.0f);
    p = m_fma(p, r, m_set(1.0f / 120.0f));
    p = m_fma(p, r, m_set(1.0f / 24.0f));
    p = m_fma(p, r, m_set(1.0f / 6.0f));
    p = m_fma(p, r, m_set(0.5f));
    p = m_fma(p * r, r, r) + m_set(1.0f);
    p = m_scale2(p, n);
    /* x + x*0 is x for finite x and NaN for NaN: carries NaN through the min/max above */
    return m_if_less(x, m_set(INFINITY), p, x);
}

/* 1 / (1 + e^-x) */
static inline vf m_sigmoid(vf x) { return m_set(1.0f) / (m_set(1.0f) + m_exp(m_set(0.0f) - x)); }
