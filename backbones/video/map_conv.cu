/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolutions of maps on the GPU. A block makes 32 cells x 32 outputs; each of its nine warps multiplies the
 * cells under its own taps (tap w, w + 9, ...) by their weights on tensor cores (matrix.cuh), 64 inputs at a
 * time, and the nine parts are added in their order:
 *
 *     y[cell][o] = map(add + bias + sum_taps sum_i W_tap[o][i] x[cell under the tap][i])
 *
 * so that even a single 16 x 16 map feeds many warps, and a cell's bytes depend on nothing but its map. fp32
 * multiplies numbers split in two; every other precision plain TF32 numbers.
 */
#include "perception/core/launch.cuh"
#include "perception/core/maps.cuh"
#include "perception/core/matrix.cuh"

#include <stdlib.h>

namespace {

enum { SIDE = 32, WAYS = 9, WARP = 32, THREADS = WAYS * WARP, SLAB = 64, PITCH = SLAB + 4 };

struct conv_job {
    sv_tensor y, x, add;
    const float *packed, *bias;
    int64_t tap_floats; /* weights of a tap */
    int32_t in, kernel, height, width, steps;
    sv_map map;
};

/* The row of x under a tap of output row 'row', or -1. */
__device__ __forceinline__ int64_t row_under(const conv_job &job, int64_t row, int tap)
{
    const int cells = job.height * job.width, cell = (int)(row % cells);
    const int y = cell / job.width + tap / job.kernel - job.kernel / 2,
              x = cell % job.width + tap % job.kernel - job.kernel / 2;
    if (y < 0 || y >= job.height || x < 0 || x >= job.width) return -1;
    return row - cell + (int64_t)y * job.width + x;
}

/* 'count' inputs from 'first' on of a warp's 32 cells; lane i knows in 'from' the row of cell i. */
__device__ __forceinline__ void load_slab(const conv_job &job, float *slab, int64_t from, int first,
                                          int count, bool wide)
{
    const int lane = threadIdx.x % WARP;
    if (wide) { /* 16 lanes take a row's 64 inputs */
        for (int r = 0; r < SIDE; r += 2) {
            const int row = r + lane / 16, at = lane % 16 * 4;
            const int64_t source = __shfl_sync(0xffffffffu, from, row);
            if (at >= count) continue;
            *(float4 *)&slab[row * PITCH + at] =
                source >= 0 && first + at < job.in
                    ? *(const float4 *)((const float *)job.x.data + source * job.x.pitch + first + at)
                    : make_float4(0, 0, 0, 0);
        }
        return;
    }
    for (int row = 0; row < SIDE; row++) {
        const int64_t source = __shfl_sync(0xffffffffu, from, row);
        for (int at = lane; at < count; at += WARP)
            slab[row * PITCH + at] = source >= 0 && first + at < job.in
                                         ? ((const float *)job.x.data)[source * job.x.pitch + first + at]
                                         : 0.0f;
    }
}

template <int PRODUCTS>
__global__ void __launch_bounds__(THREADS) convolve(const __grid_constant__ conv_job job)
{
    extern __shared__ __align__(16) float shared[];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, column0 = blockIdx.y * SIDE;
    const int64_t row0 = (int64_t)blockIdx.x * SIDE;
    float *slab = shared + warp * SIDE * PITCH;
    const bool wide = job.x.pitch % 4 == 0 && job.in % 4 == 0 && (uintptr_t)job.x.data % 16 == 0;
    float sums[2][4][4] = {};
    for (int tap = warp; tap < job.kernel * job.kernel; tap += WAYS) {
        const int64_t row = row0 + lane, from = row < job.y.dim[0] ? row_under(job, row, tap) : -1;
        if (__ballot_sync(0xffffffffu, from >= 0) == 0) continue;
        const float4 *b = (const float4 *)(job.packed + tap * job.tap_floats) +
                          (int64_t)column0 / SV_MATRIX_N * job.steps * 32;
        for (int k0 = 0; k0 < job.in; k0 += SLAB) {
            const int padded = min((job.in - k0 + SV_MATRIX_K - 1) / SV_MATRIX_K * SV_MATRIX_K, (int)SLAB);
            __syncwarp();
            load_slab(job, slab, from, k0, padded, wide);
            __syncwarp();
            float part[2][4][4] = {}; /* tensor cores cut long sums off: a slab's is added here */
            sv_matrix_multiply<2, 4, PRODUCTS>(part, slab, PITCH, b + k0 / SV_MATRIX_K * 32, job.steps * 32,
                                               padded / SV_MATRIX_K);
#pragma unroll
            for (int i = 0; i < 32; i++) sums[i / 16][i / 4 % 4][i % 4] += part[i / 16][i / 4 % 4][i % 4];
        }
    }
    __syncwarp();
    sv_matrix_each(sums, [&](int r, int column, float first, float second) {
        slab[r * (SIDE + 1) + column] = first;
        slab[r * (SIDE + 1) + column + 1] = second;
    });
    __syncthreads();
    for (int i = threadIdx.x; i < SIDE * SIDE; i += THREADS) {
        const int64_t row = row0 + i / SIDE;
        const int column = column0 + i % SIDE;
        if (row >= job.y.dim[0] || column >= job.y.dim[1]) continue;
        float sum = 0;
        for (int way = 0; way < WAYS; way++)
            sum += shared[way * SIDE * PITCH + i / SIDE * (SIDE + 1) + i % SIDE];
        if (job.bias) sum += job.bias[column];
        if (job.add.data) sum += ((const float *)job.add.data)[row * job.add.pitch + column];
        ((float *)job.y.data)[row * job.y.pitch + column] = sv_map_value(job.map, sum, sum);
    }
}

} // namespace

sv_status sv_cuda_map_conv_prepare(sv_ctx *c, sv_map_conv_weights *out, sv_tensor w, sv_tensor bias,
                                   int kernel, int height, int width)
{
    const int taps = kernel * kernel, in = w.dim[0] / taps, n = (w.dim[1] + SIDE - 1) / SIDE * SIDE;
    const size_t each = sv_matrix_floats(n, in);
    *out = sv_map_conv_weights{};
    out->in = in;
    out->out = w.dim[1];
    out->kernel = kernel;
    out->height = height;
    out->width = width;
    float *packed = (float *)calloc((size_t)taps * each, sizeof(float));
    SV_CHECK(c, packed, SV_NO_MEMORY, "map_conv: no memory for weights [%d,%d]", w.dim[0], w.dim[1]);
    for (int tap = 0; tap < taps; tap++) /* the columns beyond w's stay zero */
        sv_matrix_pack(packed + (size_t)tap * each, (const float *)w.data + (size_t)tap * in * w.pitch,
                       w.dim[1], in, 1, w.pitch);
    const size_t bytes = (size_t)taps * each * sizeof(float);
    sv_status status = sv_arena_alloc(c, c->weights, "packed map convolution", bytes, &out->packed);
    if (status == SV_OK) status = c->device->upload(c, out->packed, packed, bytes);
    free(packed); /* pageable memory: copied on return */
    SV_TRY(status);
    return sv_is_none(bias) ? SV_OK : sv_weight_upload(c, &out->bias, bias);
}

template <int PRODUCTS> static sv_status run_conv(sv_ctx *c, const conv_job &job)
{
    const int bytes = WAYS * SIDE * PITCH * (int)sizeof(float);
    const dim3 grid((unsigned)(job.y.dim[0] + SIDE - 1) / SIDE, (unsigned)(job.y.dim[1] + SIDE - 1) / SIDE);
    SV_TRY(sv_cuda_reserve(c, "map_conv", convolve<PRODUCTS>, bytes));
    convolve<PRODUCTS><<<grid, THREADS, bytes, sv_cuda_stream(c)>>>(job);
    return SV_CUDA_LAUNCHED(c, "map_conv");
}

sv_status sv_cuda_map_conv(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_map_conv_weights *w, sv_tensor add,
                           sv_map map)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    conv_job job = {};
    job.y = y;
    job.x = x;
    job.add = add;
    job.packed = (const float *)w->packed;
    job.bias = (const float *)w->bias.data;
    job.tap_floats = (int64_t)sv_matrix_floats((w->out + SIDE - 1) / SIDE * SIDE, w->in);
    job.in = w->in;
    job.kernel = w->kernel;
    job.height = w->height;
    job.width = w->width;
    job.steps = sv_matrix_steps(w->in);
    job.map = map;
    return c->precision == SV_FP32 ? run_conv<3>(c, job) : run_conv<1>(c, job);
}
