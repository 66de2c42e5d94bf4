/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementary functions on vf, included by simd.h only. Each states its range
 * reduction and polynomial; the polynomials are minimax (Remez exchange on
 * the relative error of the function), their coefficients rounded to float.
 * The errors in ulp are asserted by tests/check_simd.c against long double, for
 * every instruction set. NaN gives NaN, infinities give the limits.
 *
 * Argument order of m_min and m_max matters: they return their second argument
 * when either is NaN.
 */

/* e^x (1.0 ulp): x = n ln2 + r, |r| <= ln2/2; e^r = 1 + r + r^2 q(r), q of degree 4 (2^-28). ln2 in two
 * parts, n times the first is exact. Gradual underflow; 0 below -103.98, infinity above 88.73. */
static inline vf m_exp(vf x)
{
    x = m_max(m_set(-105.0f), m_min(m_set(89.5f), x));
    const vf n = m_round(x * m_set(1.44269504088896341f));
    vf r = m_fma(n, m_set(-0.693359375f), x);
    r = m_fma(n, m_set(2.12194440e-4f), r);
    vf q = m_set(1.3814467238262296e-3f);
    q = m_fma(q, r, m_set(8.368780836462975e-3f));
    q = m_fma(q, r, m_set(4.166839271783829e-2f));
    q = m_fma(q, r, m_set(1.666651964187622e-1f));
    q = m_fma(q, r, m_set(4.999999403953552e-1f));
    return m_scale2(m_fma(q * r, r, r) + m_set(1.0f), n);
}

/* 1 / (1 + e^-x) (2 ulp); 0 below -88.73, where the exact value is denormal. */
static inline vf m_sigmoid(vf x)
{
    return m_set(1.0f) / (m_set(1.0f) + m_exp(m_set(0.0f) - x));
}

/* tanh (1.5 ulp): |x| < 0.625: x + x^3 P(x^2), P of degree 4 (2^-27.8); else 1 - 2 / (e^2|x| + 1) with the
 * sign of x. */
static inline vf m_tanh(vf x)
{
    const vf size = m_abs(x), z = x * x;
    vf p = m_set(-5.704986397176981e-3f);
    p = m_fma(p, z, m_set(2.063908614218235e-2f));
    p = m_fma(p, z, m_set(-5.373971536755562e-2f));
    p = m_fma(p, z, m_set(1.3331441581249237e-1f));
    p = m_fma(p, z, m_set(-3.333328068256378e-1f));
    const vf near = m_fma(p * z, x, x);
    const vf far = m_set(1.0f) - m_set(2.0f) / (m_exp(size + size) + m_set(1.0f));
    return m_copysign(m_if_less(size, m_set(0.625f), near, far), x);
}

/* erf (1.25 ulp): |x| < 0.92: x + x P(x^2), P of degree 6 (2^-31); else 1 - e^-G(|x|) with the sign of x, G
 * of degree 6 fitted to -log erfc on 0.92..3.95 (2^-29); beyond, erf rounds to 1. */
static inline vf m_erf(vf x)
{
    const vf size = m_min(m_set(4.0f), m_abs(x)), z = size * size;
    vf p = m_set(8.382391388295218e-5f);
    p = m_fma(p, z, m_set(-8.145598112605512e-4f));
    p = m_fma(p, z, m_set(5.201286170631647e-3f));
    p = m_fma(p, z, m_set(-2.6859499514102936e-2f));
    p = m_fma(p, z, m_set(1.1283697187900543e-1f));
    p = m_fma(p, z, m_set(-3.7612634897232056e-1f));
    p = m_fma(p, z, m_set(1.2837916612625122e-1f));
    const vf near = m_fma(p, x, x);
    vf g = m_set(-1.9593717297539115e-4f);
    g = m_fma(g, size, m_set(3.043216885998845e-3f));
    g = m_fma(g, size, m_set(-2.222691848874092e-2f));
    g = m_fma(g, size, m_set(1.0393159091472626e-1f));
    g = m_fma(g, size, m_set(6.371822357177734e-1f));
    g = m_fma(g, size, m_set(1.1276756525039673f));
    g = m_fma(g, size, m_set(1.956760388566181e-4f));
    const vf far = m_set(1.0f) - m_exp(m_set(0.0f) - g);
    return m_copysign(m_if_less(size, m_set(0.92f), near, far), x);
}

/* Natural logarithm (1 ulp): x = 2^e m, sqrt(1/2) <= m < sqrt(2), f = m - 1; log m = f - f^2/2 + f^3 P(f), P
 * of degree 7 (2^-27). log 0 = -infinity, log of a negative number = NaN; denormals are scaled first. */
static inline vf m_log(vf x)
{
    const vf zero = m_set(0.0f), tiny = m_set(1.17549435e-38f);
    const vf normal = m_if_less(x, tiny, x * m_set(16777216.0f), x);
    vf e = m_exponent(normal) - m_if_less(x, tiny, m_set(24.0f), zero);
    vf m = m_mantissa(normal);
    const vf large = m_set(1.41421356f);
    e = m_if_less(large, m, e + m_set(1.0f), e);
    m = m_if_less(large, m, m * m_set(0.5f), m);
    const vf f = m - m_set(1.0f), square = f * f;
    vf p = m_set(-7.634494453668594e-2f);
    p = m_fma(p, f, m_set(1.2761574983596802e-1f));
    p = m_fma(p, f, m_set(-1.3160182535648346e-1f));
    p = m_fma(p, f, m_set(1.4201758801937103e-1f));
    p = m_fma(p, f, m_set(-1.6623356938362122e-1f));
    p = m_fma(p, f, m_set(2.0001226663589478e-1f));
    p = m_fma(p, f, m_set(-2.500081956386566e-1f));
    p = m_fma(p, f, m_set(3.333333134651184e-1f));
    vf r = m_fma(p * f, square, e * m_set(-2.12194440e-4f));
    r = m_fma(square, m_set(-0.5f), r) + f;
    r = m_fma(e, m_set(0.693359375f), r);
    r = m_if_less(x, m_set(INFINITY), r, x); /* infinity and NaN */
    r = m_if_less(x, zero, m_set(NAN), r);
    return m_if_less(m_abs(x), m_set(1e-45f), m_set(-INFINITY), r);
}

/* log(1 + t) for 0 <= t <= 1 (1.25 ulp): s = t / (2 + t), log(1 + t) = 2 atanh(s) = t - s (t - s^2 Q(s^2)), Q
 * of degree 3 (2^-27.7). */
static inline vf m_log1p_unit(vf t)
{
    const vf s = t / (t + m_set(2.0f)), z = s * s;
    vf q = m_set(2.801198959350586e-1f);
    q = m_fma(q, z, m_set(2.8001806139945984e-1f));
    q = m_fma(q, z, m_set(4.002152681350708e-1f));
    q = m_fma(q, z, m_set(6.66664183139801e-1f));
    return t - s * (t - z * q);
}

/* log(1 + x), x > -1 (1.5 ulp): log(u) of u = fl(1 + x), plus what the rounding of u lost, relative to u. */
static inline vf m_log1p(vf x)
{
    const vf one = m_set(1.0f), u = one + x;
    const vf lost = (x - (u - one)) / u;
    return m_if_less(m_abs(x), m_set(1e30f), m_if_less(m_set(-1.0f), x, m_log(u) + lost, m_log(u)), m_log(u));
}

/* log(1 + e^x) (1.75 ulp) as max(x, 0) + log1p(e^-|x|); x itself above 20. */
static inline vf m_softplus(vf x)
{
    const vf y = m_max(m_set(0.0f), x) + m_log1p_unit(m_exp(m_set(0.0f) - m_abs(x)));
    return m_if_less(m_set(20.0f), x, x, y);
}

/* sin(r) for |r| <= pi/2, negated where the whole number 'turns' is odd: r + r^3 P(r^2), P of degree 4 (2^-35). */
static inline vf m_half_turns(vf r, vf turns)
{
    const vf z = r * r, odd = m_abs(turns - m_set(2.0f) * m_round(m_set(0.5f) * turns));
    vf p = m_set(-2.3886585154286877e-8f);
    p = m_fma(p, z, m_set(2.752525460891775e-6f));
    p = m_fma(p, z, m_set(-1.9840865570586175e-4f));
    p = m_fma(p, z, m_set(8.333330973982811e-3f));
    p = m_fma(p, z, m_set(-1.666666716337204e-1f));
    return m_fma(p * z, r, r) * (m_set(1.0f) - m_set(2.0f) * odd);
}

/* x - n pi, pi in three parts of which n times the first is exact for |n| < 2^14. */
static inline vf m_less_half_turns(vf x, vf n)
{
    x = m_fma(n, m_set(-3.140625f), x);
    x = m_fma(n, m_set(-9.67502593994140625e-4f), x);
    return m_fma(n, m_set(-1.50995799097837e-7f), x);
}

/* sin and cos, for |x| < 10^4: errors below 2e-7 (of 1), which is 2 ulp but near the zeros beyond the first. */
static inline vf m_sin(vf x)
{
    const vf n = m_round(x * m_set(0.318309886183790672f));
    return m_half_turns(m_less_half_turns(x, n), n);
}
static inline vf m_cos(vf x)
{
    const vf n = m_round(m_fma(x, m_set(0.318309886183790672f), m_set(0.5f)));
    return m_half_turns(m_less_half_turns(x, n - m_set(0.5f)), n);
}
