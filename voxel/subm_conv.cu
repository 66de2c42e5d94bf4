/* SPDX-License-Identifier: Apache-2.0
 *
 * 3x3x3 sub-manifold convolution on the GPU: y[i] = sum over k of x[table[i][k]] W[k], W [27, in, out].
 *
 * A block makes 128 rows x 64 outputs on tensor cores (perception/core/matrix.cuh). For each offset k, and
 * up to 64 inputs at a time, it copies its rows' neighbours and W[k] into shared memory and adds their
 * product, while the next ones are on their way. Offsets that none of its rows has a neighbour at are left
 * out, which changes no sum. Each element adds in ascending k, then input.
 */
#include "voxel.h"

#include "perception/core/matrix.cuh"

#include <stdlib.h>

enum { TILE = 128, COLUMNS = 64, SLAB = 64, PITCH = SLAB + 4, THREADS = 256 };
enum {
    A_FLOATS = TILE * PITCH,
    B_FLOATS = COLUMNS / 8 * (SLAB / SV_MATRIX_K) * 128,
    STAGE = A_FLOATS + B_FLOATS, /* floats of a stage; there are two */
};

/* Per offset the packed [out, in] weight, padded to 64 outputs. */
static size_t offset_floats(int out, int in)
{
    return sv_matrix_floats((out + COLUMNS - 1) / COLUMNS * COLUMNS, in);
}

sv_status sv_cuda_subm_prepare(sv_ctx *c, sv_subm_weights *out, sv_tensor w)
{
    *out = sv_subm_weights{};
    out->out = w.dim[0];
    out->in = w.dim[4];
    const size_t each = offset_floats(out->out, out->in), bytes = SV_SUBM_OFFSETS * each * sizeof(float);
    float *packed = (float *)calloc(bytes + 1, 1);
    SV_CHECK(c, packed, SV_NO_MEMORY, "subm_prepare: no memory for %d x %d weights", out->in, out->out);
    for (int k = 0; k < SV_SUBM_OFFSETS; k++)
        sv_matrix_pack(packed + k * each, (const float *)w.data + (size_t)k * out->in, out->out, out->in,
                       (ptrdiff_t)SV_SUBM_OFFSETS * out->in, 1);
    sv_status status = sv_arena_alloc(c, c->weights, "packed convolution", bytes, &out->packed);
    if (status == SV_OK) status = c->device->upload(c, out->packed, packed, bytes);
    free(packed); /* pageable memory: copied on return */
    return status;
}

/* 16 bytes, or 'bytes' of them and zeros. */
static __device__ __forceinline__ void copy_piece(float *to, const float *from, int bytes)
{
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
        "l"(from), "r"(bytes)
        : "memory");
}

/* Eight warps: 32 rows by 32 columns each. */
template <int PRODUCTS>
static __global__ void __launch_bounds__(THREADS)
    subm_kernel(sv_tensor y, sv_tensor x, sv_tensor table, const float4 *w, int64_t w_step, int in,
                int outputs)
{
    const int rows = sv_rows(y), row0 = blockIdx.x * TILE, column0 = blockIdx.y * COLUMNS;
    if (row0 >= rows) return;
    extern __shared__ float4 dynamic[];
    float *stages = (float *)dynamic;
    __shared__ int32_t from[SV_SUBM_OFFSETS][TILE];
    __shared__ int order[SV_SUBM_OFFSETS], used;
    const int warp = threadIdx.x / 32;
    for (int i = threadIdx.x; i < TILE * SV_SUBM_OFFSETS; i += THREADS) {
        const int row = i / SV_SUBM_OFFSETS, k = i % SV_SUBM_OFFSETS;
        from[k][row] =
            row0 + row < rows ? ((const int32_t *)table.data)[(int64_t)(row0 + row) * table.pitch + k] : -1;
    }
    __syncthreads();
    for (int k = warp; k < SV_SUBM_OFFSETS; k += THREADS / 32) {
        bool any = false;
        for (int row = threadIdx.x % 32; row < TILE; row += 32) any |= from[k][row] >= 0;
        any = __any_sync(0xffffffffu, any);
        if (threadIdx.x % 32 == 0) order[k] = any;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        used = 0;
        for (int k = 0; k < SV_SUBM_OFFSETS; k++)
            if (order[k]) order[used++] = k;
    }
    __syncthreads();
    const int slabs = (in + SLAB - 1) / SLAB, steps = sv_matrix_steps(in), total = used * slabs;
    const int at_row = warp / 2 * 32, at_column = warp % 2 * 32;
    const bool wide = x.pitch % 4 == 0 && in % 4 == 0 && (uintptr_t)x.data % 16 == 0;
    auto load = [&](int item) {
        float *a = stages + item % 2 * STAGE, *b = a + A_FLOATS;
        const int k = order[item / slabs], k0 = item % slabs * SLAB;
        const int padded = min(steps * SV_MATRIX_K - k0, (int)SLAB);
        for (int i = threadIdx.x; i < TILE * (SLAB / 4); i += THREADS) {
            const int row = i / (SLAB / 4), at = i % (SLAB / 4) * 4, source = from[k][row];
            if (at >= padded) continue;
            float *to = a + row * PITCH + at;
            const float *p = (const float *)x.data + (int64_t)max(source, 0) * x.pitch + k0 + at;
            if (wide) {
                copy_piece(to, source >= 0 && k0 + at < in ? p : (const float *)x.data,
                           source >= 0 && k0 + at < in ? 16 : 0);
            } else {
                for (int e = 0; e < 4; e++) to[e] = source >= 0 && k0 + at + e < in ? p[e] : 0.0f;
            }
        }
        /* eight columns' steps lie together */
        const int per = padded / SV_MATRIX_K * 32;
        const float4 *from_w =
            w + order[item / slabs] * w_step + (int64_t)column0 / 8 * steps * 32 + k0 / SV_MATRIX_K * 32;
        for (int i = threadIdx.x; i < COLUMNS / 8 * (SLAB / SV_MATRIX_K * 32); i += THREADS) {
            const int eight = i / (SLAB / SV_MATRIX_K * 32), at = i % (SLAB / SV_MATRIX_K * 32);
            if (at < per)
                copy_piece(b + 4 * (eight * per + at), (const float *)(from_w + eight * steps * 32 + at), 16);
        }
    };
    float sums[2][4][4] = {};
    if (total > 0) load(0);
    asm volatile("cp.async.commit_group;\n" ::: "memory");
    for (int item = 0; item < total; item++) {
        asm volatile("cp.async.wait_group 0;\n" ::: "memory");
        __syncthreads(); /* this stage has arrived, and everyone is done with the other */
        if (item + 1 < total) load(item + 1);
        asm volatile("cp.async.commit_group;\n" ::: "memory");
        const float *a = stages + item % 2 * STAGE;
        const int k0 = item % slabs * SLAB, count = min(steps * SV_MATRIX_K - k0, (int)SLAB) / SV_MATRIX_K;
        sv_matrix_multiply<2, 4, PRODUCTS>(sums, a + at_row * PITCH, PITCH,
                                           (const float4 *)(a + A_FLOATS) + at_column / 8 * count * 32,
                                           count * 32, count);
    }
    sv_matrix_each(sums, [&](int r, int column, float first, float second) {
        const int row = row0 + at_row + r, at = column0 + at_column + column;
        if (row >= rows) return;
        float *out = (float *)y.data + (int64_t)row * y.pitch + at;
        if (at < outputs) out[0] = first;
        if (at + 1 < outputs) out[1] = second;
    });
}

template <int PRODUCTS>
static sv_status run_conv(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor table, const sv_subm_weights *w)
{
    const dim3 grid((unsigned)(y.dim[0] + TILE - 1) / TILE, (unsigned)(w->out + COLUMNS - 1) / COLUMNS);
    const int64_t step = (int64_t)offset_floats(w->out, w->in) / 4;
    const int bytes = 2 * STAGE * (int)sizeof(float);
    SV_CUDA_TRY(
        c, "subm_conv",
        cudaFuncSetAttribute(subm_kernel<PRODUCTS>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    subm_kernel<PRODUCTS><<<grid, THREADS, bytes, sv_cuda_stream(c)>>>(y, x, table, (const float4 *)w->packed,
                                                                       step, w->in, w->out);
    return SV_CUDA_LAUNCHED(c, "subm_conv");
}

sv_status sv_cuda_subm_conv(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor table, const sv_subm_weights *w)
{
    if (y.dim[0] == 0 || w->out == 0) return SV_OK;
    return c->precision == SV_FP32 ? run_conv<3>(c, y, x, table, w) : run_conv<1>(c, y, x, table, w);
}
