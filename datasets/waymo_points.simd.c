/* SPDX-License-Identifier: Apache-2.0 */
#include "waymo_points.h"

#include "perception/core/simd.h"

static void squash(float *points, int count)
{
    float values[SV_VL < 16 ? 16 : SV_VL];
    for (int i = 0; i < 2 * count; i += SV_VL) {
        const int n = 2 * count - i < SV_VL ? 2 * count - i : SV_VL;
        for (int k = 0; k < n; k++) values[k] = points[5 * ((i + k) / 2) + 3 + (i + k) % 2];
        vf_store_n(values, m_tanh(vf_load_n(values, n)), n);
        for (int k = 0; k < n; k++) points[5 * ((i + k) / 2) + 3 + (i + k) % 2] = values[k];
    }
}

extern const sv_waymo_kernels SV_SIMD(sv_waymo_kernels);
const sv_waymo_kernels SV_SIMD(sv_waymo_kernels) = {squash};
