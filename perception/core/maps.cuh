/* SPDX-License-Identifier: Apache-2.0
 *
 * The elementwise maps of maps.def for the GPU: the m_* functions of simd.h for one float, by CUDA's own
 * library functions (1 to 2 ulp).
 */
#ifndef SV_MAPS_CUH
#define SV_MAPS_CUH

#include "ops.h"

static __device__ __forceinline__ float m_set(float x)
{
    return x;
}
static __device__ __forceinline__ float m_max(float a, float b)
{
    return a > b ? a : b;
}
static __device__ __forceinline__ float m_exp(float x)
{
    return expf(x);
}
static __device__ __forceinline__ float m_log(float x)
{
    return logf(x);
}
static __device__ __forceinline__ float m_tanh(float x)
{
    return tanhf(x);
}
static __device__ __forceinline__ float m_sin(float x)
{
    return sinf(x);
}
static __device__ __forceinline__ float m_cos(float x)
{
    return cosf(x);
}
static __device__ __forceinline__ float m_erf(float x)
{
    return erff(x);
}
static __device__ __forceinline__ float m_sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}
static __device__ __forceinline__ float m_softplus(float x)
{
    return x > 20.0f ? x : log1pf(expf(x));
}

/* The same for all threads of a launch, so the switch costs little. */
static __device__ __forceinline__ float sv_map_value(sv_map map, float a, float b)
{
    switch (map) {
#define MAP(name, expression)                                                                                \
    case SV_MAP_##name:                                                                                      \
        return expression;
#include "maps.def"
#undef MAP
    default:
        return a;
    }
}

#endif
