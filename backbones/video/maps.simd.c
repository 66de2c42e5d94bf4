/* SPDX-License-Identifier: Apache-2.0 */
#include "maps_kernels.h"

static void moments(const float *x, int64_t pitch, int rows, int channels, float *mean, float *squares)
{
    const vf share = m_set(1.0f / (float)rows);
    for (int i = 0; i < channels; i += SV_VL) {
        const int lanes = channels - i < SV_VL ? channels - i : SV_VL;
        vf a = m_set(0.0f);
        for (int r = 0; r < rows; r++) a = a + vf_load_n(x + r * pitch + i, lanes);
        const vf centre = a * share;
        a = m_set(0.0f);
        for (int r = 0; r < rows; r++) {
            const vf p = vf_load_n(x + r * pitch + i, lanes) - centre;
            a = m_fma(p, p, a);
        }
        vf_store_n(mean + i, centre, lanes);
        vf_store_n(squares + i, a, lanes);
    }
}

#define MAP(name, expression)                                                                                \
    static void apply_##name(float *y, const float *x, int channels, const float *mean, const float *scale,  \
                             const float *shift)                                                             \
    {                                                                                                        \
        for (int i = 0; i < channels; i += SV_VL) {                                                          \
            const int lanes = channels - i < SV_VL ? channels - i : SV_VL;                                   \
            const vf centred = vf_load_n(x + i, lanes) - vf_load_n(mean + i, lanes);                         \
            const vf a = m_fma(centred, vf_load_n(scale + i, lanes), vf_load_n(shift + i, lanes)), b = a;    \
            (void)b;                                                                                         \
            vf_store_n(y + i, (expression), lanes);                                                          \
        }                                                                                                    \
    }
#include "perception/core/maps.def"
#undef MAP

static void advance(float *y, const float *x, const float *a, const float *before, int half)
{
    for (int i = 0; i < half; i += SV_VL) {
        const int lanes = half - i < SV_VL ? half - i : SV_VL;
        vf re = vf_load_n(x + i, lanes), im = vf_load_n(x + half + i, lanes);
        if (before) {
            const vf a_re = vf_load_n(a + i, lanes), a_im = vf_load_n(a + half + i, lanes);
            const vf b_re = vf_load_n(before + i, lanes), b_im = vf_load_n(before + half + i, lanes);
            re = m_fma(m_set(0.0f) - a_im, b_im, m_fma(a_re, b_re, re));
            im = m_fma(a_im, b_re, m_fma(a_re, b_im, im));
        }
        vf_store_n(y + i, re, lanes);
        vf_store_n(y + half + i, im, lanes);
    }
}

static void blend(float *y, const float *const *x, const float *w, int channels)
{
    for (int i = 0; i < channels; i += SV_VL) {
        const int lanes = channels - i < SV_VL ? channels - i : SV_VL;
        vf sum = m_set(0.0f);
        for (int k = 0; k < 4; k++)
            if (x[k]) sum = m_fma(m_set(w[k]), vf_load_n(x[k] + i, lanes), sum);
        vf_store_n(y + i, sum, lanes);
    }
}

static void multiply(float *y, const float *x, const float *gate, int channels)
{
    for (int i = 0; i < channels; i += SV_VL) {
        const int lanes = channels - i < SV_VL ? channels - i : SV_VL;
        vf_store_n(y + i, vf_load_n(x + i, lanes) * vf_load_n(gate + i, lanes), lanes);
    }
}

const sv_maps_kernels SV_SIMD(sv_maps_kernels) = {.moments = moments,
                                                  .advance = advance,
                                                  .blend = blend,
                                                  .multiply = multiply,
                                                  .apply = {
#define MAP(name, expression) [SV_MAP_##name] = apply_##name,
#include "perception/core/maps.def"
#undef MAP
                                                  }};
