/* SPDX-License-Identifier: Apache-2.0
 *
 * Voxel features to a BEV map on the GPU: channel c*Z + z of cell (b,y,x). Voxels are distinct, so no two
 * threads write one element. Rows outside the map, which the CPU refuses, are counted in
 * SV_COUNTER_OUTSIDE: the owner of the frame refuses them when the frame has ended.
 */
#include "voxel.h"

#include "perception/core/cuda.cuh"

static __global__ void scatter_kernel(sv_tensor map, sv_tensor x, sv_tensor coords, int depth, int height,
                                      int width, int32_t *outside)
{
    const int64_t item = sv_thread();
    const int channels = x.dim[1];
    const int64_t row = item / channels;
    const int channel = (int)(item % channels);
    if (row >= sv_rows(coords)) return;
    const int32_t *at = (const int32_t *)coords.data + 4 * row;
    if (at[0] >= coords.batch || at[1] >= depth || at[2] >= height ||
        at[3] >= width) { /* uneven grids, voxel.h */
        if (channel == 0) atomicAdd(outside, 1);
        return;
    }
    const int64_t cell = ((int64_t)at[0] * height + at[2]) * width + at[3];
    ((float *)map.data)[cell * map.pitch + channel * depth + at[1]] =
        ((const float *)x.data)[row * x.pitch + channel];
}

sv_status sv_cuda_bev_scatter(sv_ctx *c, sv_tensor map, sv_tensor x, sv_tensor coords, const int32_t *shape)
{
    const cudaStream_t stream = sv_cuda_stream(c);
    const size_t rows = (size_t)coords.batch * (size_t)shape[1] * (size_t)shape[2];
    SV_CUDA_TRY(c, "bev_scatter",
                cudaMemset2DAsync(map.data, (size_t)map.pitch * sizeof(float), 0,
                                  (size_t)map.dim[1] * sizeof(float), rows, stream));
    if (x.dim[1] == 0) return SV_OK;
    scatter_kernel<<<sv_cuda_blocks((int64_t)coords.dim[0] * x.dim[1]), SV_CUDA_THREADS, 0, stream>>>(
        map, x, coords, shape[0], shape[1], shape[2], &c->counters[SV_COUNTER_OUTSIDE]);
    return SV_CUDA_LAUNCHED(c, "bev_scatter");
}
