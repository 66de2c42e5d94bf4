/* SPDX-License-Identifier: Apache-2.0
 *
 * Weighted sums of four rows: a feature between the centres of four tokens.
 */
#include "camera_kernels.h"

static void add(float *y, int n, const float *const row[4], const float share[4])
{
    const vf a = m_set(share[0]), b = m_set(share[1]), c = m_set(share[2]), d = m_set(share[3]);
    for (int i = 0; i < n; i += SV_VL) {
        const int lanes = n - i < SV_VL ? n - i : SV_VL;
        vf sum = a * vf_load_n(row[0] + i, lanes);
        sum = m_fma(b, vf_load_n(row[1] + i, lanes), sum);
        sum = m_fma(c, vf_load_n(row[2] + i, lanes), sum);
        sum = m_fma(d, vf_load_n(row[3] + i, lanes), sum);
        vf_store_n(y + i, vf_load_n(y + i, lanes) + sum, lanes);
    }
}

const sv_camera_kernels SV_SIMD(sv_camera_kernels) = {.add = add};
