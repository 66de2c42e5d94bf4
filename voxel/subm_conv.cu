/* SPDX-License-Identifier: Apache-2.0
 *
 * 3x3x3 sub-manifold convolution on the GPU: y[i] = sum over k of x[table[i][k]] W[k], W [27, in, out].
 *
 * A block makes 64 rows x 64 outputs. For each offset k it gathers its rows' neighbours and adds their
 * product with W[k] in steps of 16 inputs, as in the linear layer (perception/core/ops_dense.cu); offsets
 * that none of its rows has a neighbour at are left out, which changes no sum. Each element adds in
 * ascending k, then input.
 */
#include "voxel.h"

#include "perception/core/cuda.cuh"

#include <stdlib.h>

enum { TILE = 64, STEP = 16, SIDE = 4 };

sv_status sv_cuda_subm_prepare(sv_ctx *c, sv_subm_weights *out, sv_tensor w)
{
    *out = sv_subm_weights{};
    out->out = w.dim[0];
    out->in = w.dim[4];
    const size_t plane = (size_t)out->in * (size_t)out->out;
    float *turned = (float *)malloc(SV_SUBM_OFFSETS * plane * sizeof(float) + 1);
    SV_CHECK(c, turned, SV_NO_MEMORY, "subm_prepare: no memory for %d x %d weights", out->in, out->out);
    const float *from = (const float *)w.data;
    for (int o = 0; o < out->out; o++)
        for (int k = 0; k < SV_SUBM_OFFSETS; k++)
            for (int i = 0; i < out->in; i++)
                turned[k * plane + (size_t)i * out->out + o] =
                    from[((size_t)o * SV_SUBM_OFFSETS + k) * out->in + i];
    sv_tensor host = sv_view(turned, SV_F32, SV_SUBM_OFFSETS, (int)plane);
    host.ndim = 3;
    host.dim[1] = out->in;
    host.dim[2] = out->out;
    const sv_status status = sv_weight_upload(c, &out->w, host); /* pageable memory: copied on return */
    free(turned);
    return status;
}

static __global__ void subm_kernel(sv_tensor y, sv_tensor x, sv_tensor table, const float *w, int in,
                                   int outputs)
{
    const int rows = sv_rows(y);
    const int row0 = blockIdx.x * TILE, column0 = blockIdx.y * TILE;
    if (row0 >= rows) return;

    __shared__ float x_slice[STEP][TILE + SIDE], w_slice[STEP][TILE];
    const int load = threadIdx.x / SIDE, load_i = threadIdx.x % SIDE * SIDE; /* of x: a row, four inputs */
    const int w_i = threadIdx.x / (TILE / SIDE),
              w_column = threadIdx.x % (TILE / SIDE) * SIDE; /* of W: an input, four outputs */
    const int at_row = threadIdx.x / (TILE / SIDE) * SIDE, at_column = threadIdx.x % (TILE / SIDE) * SIDE;
    const int32_t *neighbours =
        row0 + load < rows ? (const int32_t *)table.data + (int64_t)(row0 + load) * table.pitch : NULL;
    float sum[SIDE][SIDE] = {};
    for (int k = 0; k < SV_SUBM_OFFSETS; k++) {
        const int from = neighbours ? neighbours[k] : -1;
        if (!__syncthreads_or(from >= 0)) continue;
        const float *x_row = from >= 0 ? (const float *)x.data + (int64_t)from * x.pitch : NULL;
        for (int i0 = 0; i0 < in; i0 += STEP) {
            for (int i = 0; i < SIDE; i++) {
                const int at = i0 + load_i + i;
                x_slice[load_i + i][load] = x_row && at < in ? x_row[at] : 0.0f;
                const int column = column0 + w_column + i;
                w_slice[w_i][w_column + i] = i0 + w_i < in && column < outputs
                                                 ? w[((int64_t)k * in + i0 + w_i) * outputs + column]
                                                 : 0.0f;
            }
            __syncthreads();
#pragma unroll
            for (int step = 0; step < STEP; step++) {
                float left[SIDE], right[SIDE];
#pragma unroll
                for (int i = 0; i < SIDE; i++) {
                    left[i] = x_slice[step][at_row + i];
                    right[i] = w_slice[step][at_column + i];
                }
#pragma unroll
                for (int i = 0; i < SIDE; i++)
#pragma unroll
                    for (int j = 0; j < SIDE; j++) sum[i][j] = fmaf(left[i], right[j], sum[i][j]);
            }
            __syncthreads();
        }
    }

#pragma unroll
    for (int i = 0; i < SIDE; i++) {
        const int row = row0 + at_row + i;
        if (row >= rows) break;
        float *out = (float *)y.data + (int64_t)row * y.pitch;
#pragma unroll
        for (int j = 0; j < SIDE; j++)
            if (column0 + at_column + j < outputs) out[column0 + at_column + j] = sum[i][j];
    }
}

sv_status sv_cuda_subm_conv(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor table, const sv_subm_weights *w)
{
    if (y.dim[0] == 0 || w->out == 0) return SV_OK;
    const dim3 grid((unsigned)(y.dim[0] + TILE - 1) / TILE, (unsigned)(w->out + TILE - 1) / TILE);
    subm_kernel<<<grid, TILE * TILE / (SIDE * SIDE), 0, sv_cuda_stream(c)>>>(
        y, x, table, (const float *)w->w.data, w->in, w->out);
    return SV_CUDA_LAUNCHED(c, "subm_conv");
}
