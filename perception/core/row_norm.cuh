/* SPDX-License-Identifier: Apache-2.0
 *
 * LayerNorm of a row at the end of the kernel that makes it (sv_row_norm, ops.h).
 */
#ifndef SV_ROW_NORM_CUH
#define SV_ROW_NORM_CUH

#include "maps.cuh"

struct sv_row_norm_job {
    const float *weight, *bias; /* NULL: no norm */
    float eps;
    sv_map map;
};

static inline sv_row_norm_job sv_cuda_row_norm(const sv_row_norm *norm)
{
    sv_row_norm_job job = {};
    if (!norm || sv_is_none(norm->weight)) return job;
    job.weight = (const float *)norm->weight.data;
    job.bias = (const float *)norm->bias.data;
    job.eps = norm->eps;
    job.map = norm->map;
    return job;
}

#ifdef __CUDACC__
/* The sum over 'lanes' (a power of two) neighbouring lanes, the same bits in all of them. */
static __device__ __forceinline__ float sv_sum_lanes(float value, int lanes, uint32_t mask)
{
    for (int distance = lanes / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(mask, value, distance);
    return value;
}

/* A row that 'lanes' neighbouring lanes have, K numbers each: number k of a lane is of channel channel_of(k), and zero
 * behind the last channel. The map is known when the kernel is compiled: there are many. */
template <sv_map map, int K, typename F>
static __device__ __forceinline__ void sv_norm_row(float (&value)[K], const sv_row_norm_job &norm,
                                                   int channels, int lanes, F channel_of)
{
    const uint32_t mask = (0xffffffffu >> (32 - lanes)) << (threadIdx.x % 32 / lanes * lanes);
    float sum = 0, squares = 0;
#pragma unroll
    for (int k = 0; k < K; k++) sum += value[k];
    const float mean = sv_sum_lanes(sum, lanes, mask) / (float)channels;
#pragma unroll
    for (int k = 0; k < K; k++)
        if (channel_of(k) < channels) squares += (value[k] - mean) * (value[k] - mean);
    const float scale = 1.0f / sqrtf(sv_sum_lanes(squares, lanes, mask) / (float)channels + norm.eps);
#pragma unroll
    for (int k = 0; k < K; k++) {
        const int at = channel_of(k);
        if (at < channels)
            value[k] = sv_map_value(
                map, (value[k] - mean) * scale * __ldg(norm.weight + at) + __ldg(norm.bias + at), 0.0f);
    }
}
#endif

#endif
