/* SPDX-License-Identifier: Apache-2.0
 *
 * LayerNorm of one row: the mean first, then the variance about it (one pass over squares would cancel), then
 * the result; the row stays in L1. Two sums run side by side to hide the latency of an addition.
 */
#include "norm_cpu.h"

static void moments(const float *x, int n, float eps, float *mean, float *scale)
{
    vf a = m_set(0.0f), b = a;
    int i = 0;
    for (; i + 2 * SV_VL <= n; i += 2 * SV_VL) {
        a = a + vf_load(x + i);
        b = b + vf_load(x + i + SV_VL);
    }
    for (; i < n; i += SV_VL) a = a + vf_load_n(x + i, n - i);
    *mean = vf_sum(a + b) / (float)n;

    const vf centre = m_set(*mean);
    a = b = m_set(0.0f);
    for (i = 0; i + 2 * SV_VL <= n; i += 2 * SV_VL) {
        const vf p = vf_load(x + i) - centre, q = vf_load(x + i + SV_VL) - centre;
        a = m_fma(p, p, a);
        b = m_fma(q, q, b);
    }
    for (; i < n; i += SV_VL) {
        const int lanes = n - i < SV_VL ? n - i : SV_VL;
        float rest[SV_VL] = {0}; /* unused lanes must add nothing */
        vf_store_n(rest, vf_load_n(x + i, lanes) - centre, lanes);
        const vf p = vf_load(rest);
        a = m_fma(p, p, a);
    }
    *scale = 1.0f / sqrtf(vf_sum(a + b) / (float)n + eps);
}

#define MAP(name, expression)                                                                                \
    static void apply_##name(float *y, const float *x, int n, float mean, float scale, const float *weight,  \
                             const float *bias, const float *residual)                                       \
    {                                                                                                        \
        const vf centre = m_set(mean), factor = m_set(scale);                                                \
        for (int i = 0; i < n; i += SV_VL) {                                                                 \
            const int lanes = n - i < SV_VL ? n - i : SV_VL;                                                 \
            const vf unit = (vf_load_n(x + i, lanes) - centre) * factor;                                     \
            const vf a = m_fma(unit, vf_load_n(weight + i, lanes), vf_load_n(bias + i, lanes)), b = a;       \
            (void)b;                                                                                         \
            vf r = (expression);                                                                             \
            if (residual) r = vf_load_n(residual + i, lanes) + r;                                            \
            vf_store_n(y + i, r, lanes);                                                                     \
        }                                                                                                    \
    }
#include "maps.def"
#undef MAP

const sv_norm_kernels SV_SIMD(sv_norm_kernels) = {.moments = moments,
                                                  .apply = {
#define MAP(name, expression) [SV_MAP_##name] = apply_##name,
#include "maps.def"
#undef MAP
                                                  }};
