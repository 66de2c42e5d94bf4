/* SPDX-License-Identifier: Apache-2.0 */
#include "peak_kernels.h"

#include "simd.h"

static float multiply_add(int rounds, float seed)
{
    const vf factor = m_set(0.999f), step = m_set(seed);
    vf x[SV_PEAK_CHAINS];
    for (int k = 0; k < SV_PEAK_CHAINS; k++) x[k] = m_set((float)k);
    for (int i = 0; i < rounds; i++)
        for (int k = 0; k < SV_PEAK_CHAINS; k++) x[k] = m_fma(x[k], factor, step);
    vf sum = x[0];
    for (int k = 1; k < SV_PEAK_CHAINS; k++) sum = sum + x[k];
    return vf_sum(sum);
}

extern const sv_peak_kernels SV_SIMD(sv_peak_kernels);
const sv_peak_kernels SV_SIMD(sv_peak_kernels) = {multiply_add, SV_VL};
