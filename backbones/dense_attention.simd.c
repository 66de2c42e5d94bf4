/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector code of attention among all tokens of a group: the softmax of a row of scores.
 */
#include "dense_attention_kernels.h"

static float weigh(float *s, int n, float scale)
{
    float most = s[0];
    vf high = m_set(s[0]);
    int i = 0;
    for (; i + SV_VL <= n; i += SV_VL) high = m_max(high, vf_load(s + i));
    most = vf_max(high);
    for (; i < n; i++) most = most < s[i] ? s[i] : most;
    const vf centre = m_set(most), factor = m_set(scale);
    vf sum = m_set(0.0f);
    for (i = 0; i + SV_VL <= n; i += SV_VL) {
        const vf w = m_exp((vf_load(s + i) - centre) * factor);
        vf_store(s + i, w);
        sum = sum + w;
    }
    if (i < n) {
        /* unused lanes must add nothing */
        float rest[SV_VL] = {0};
        vf_store_n(rest, m_exp((vf_load_n(s + i, n - i) - centre) * factor), n - i);
        vf_store_n(s + i, vf_load(rest), n - i);
        sum = sum + vf_load(rest);
    }
    return vf_sum(sum);
}

static void scale_row(float *y, int n, float factor)
{
    const vf f = m_set(factor);
    for (int i = 0; i < n; i += SV_VL) vf_store_n(y + i, vf_load_n(y + i, n - i) * f, n - i);
}

const sv_dense_attention_kernels SV_SIMD(sv_dense_attention_kernels) = {.weigh = weigh, .scale = scale_row};
