/* SPDX-License-Identifier: Apache-2.0
 *
 * Input of the learned position embedding on the GPU, with the float32 roundings of position_cpu.c: each
 * step is one operation that the compiler cannot fuse with the next.
 */
#include "perception/core/cuda.cuh"

typedef struct grid_shape {
    int32_t size[3]; /* z, y, x */
} grid_shape;

static __global__ void positions_kernel(sv_tensor y, sv_tensor coords, grid_shape shape)
{
    const int64_t item = sv_thread();
    const int64_t row = item / 3;
    const int axis = (int)(item % 3); /* x, y, z */
    if (row >= sv_rows(coords)) return;
    const float size = (float)shape.size[2 - axis];
    const float centred = (float)((const int32_t *)coords.data)[4 * row + 3 - axis] - size / 2.0f;
    ((float *)y.data)[row * y.pitch + axis] = centred / size * 2.0f * 3.1415f;
}

sv_status sv_cuda_positions(sv_ctx *c, sv_tensor y, sv_tensor coords, const int32_t *shape)
{
    const grid_shape grid = {{shape[0], shape[1], shape[2]}};
    positions_kernel<<<sv_cuda_blocks((int64_t)coords.dim[0] * 3), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(
        y, coords, grid);
    return SV_CUDA_LAUNCHED(c, "positions");
}
