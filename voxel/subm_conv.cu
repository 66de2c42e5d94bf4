/* SPDX-License-Identifier: Apache-2.0
 *
 * 3x3x3 sub-manifold convolution on the GPU: y[i] = sum over k of x[table[i][k]] W[k], W [27, in, out].
 *
 * A block makes 64 or 128 rows x 64 or 128 outputs on tensor cores. For each offset k, and up to 64
 * inputs at a time, it loads its rows' neighbours and W[k] and adds their product, while the next ones
 * are on their way. Offsets that none of its rows has a neighbour at are left out, which changes no sum.
 * Each element adds in ascending k, then input.
 *
 * fp32 multiplies float32 numbers split in two (perception/core/matrix.cuh). The others multiply 16-bit
 * numbers (perception/core/tile_rows.cuh) of which the features are narrowed first: bfloat16, or half,
 * whose mantissa is TF32's.
 */
#include "voxel.h"

#include "perception/core/launch.cuh"
#include "perception/core/matrix.cuh"
#include "subm_narrow.cuh"

#include <stdlib.h>

enum { TILE = 128, COLUMNS = 64, SLAB = 64, PITCH = SLAB + 4, THREADS = 256 };
enum {
    A_FLOATS = TILE * PITCH,
    B_FLOATS = COLUMNS / 8 * (SLAB / SV_MATRIX_K) * 128,
    STAGE = A_FLOATS + B_FLOATS, /* floats of a stage; there are two, or one where shared memory is small */
};

enum { KEPT_BYTES = 16 << 10 }; /* at least what a kernel keeps beside its stages */

/* Per offset the packed [out, in] weight, padded to 64 outputs. */
static size_t offset_floats(int out, int in)
{
    return sv_matrix_floats((out + COLUMNS - 1) / COLUMNS * COLUMNS, in);
}

static sv_status pack_wide(sv_ctx *c, sv_subm_weights *out, sv_tensor w)
{
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
template <int STAGES>
static __global__ void __launch_bounds__(THREADS)
    subm_wide(sv_tensor y, sv_tensor x, const __grid_constant__ sv_neighbourhood around, const float4 *w,
              int64_t w_step, int in, int outputs)
{
    const int rows = sv_rows(y), row0 = blockIdx.x * TILE, column0 = blockIdx.y * COLUMNS;
    if (row0 >= rows) return;
    extern __shared__ float4 dynamic[];
    float *stages = (float *)dynamic;
    __shared__ int32_t from[SV_SUBM_OFFSETS][TILE];
    __shared__ int32_t own[TILE];
    __shared__ int taps[SV_SUBM_OFFSETS], used;
    const int warp = threadIdx.x / 32;
    find_own<TILE>(own, around, row0, rows);
    __syncthreads();
    for (int i = threadIdx.x; i < TILE * SV_SUBM_OFFSETS; i += THREADS) {
        const int row = i / SV_SUBM_OFFSETS, k = i % SV_SUBM_OFFSETS;
        from[k][row] = neighbour_of(own[row], around, k);
    }
    __syncthreads();
    for (int k = warp; k < SV_SUBM_OFFSETS; k += THREADS / 32) {
        bool any = false;
        for (int row = threadIdx.x % 32; row < TILE; row += 32) any |= from[k][row] >= 0;
        any = __any_sync(0xffffffffu, any);
        if (threadIdx.x % 32 == 0) taps[k] = any;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        used = 0;
        for (int k = 0; k < SV_SUBM_OFFSETS; k++)
            if (taps[k]) taps[used++] = k;
    }
    __syncthreads();
    const int slabs = (in + SLAB - 1) / SLAB, steps = sv_matrix_steps(in), total = used * slabs;
    const int at_row = warp / 2 * 32, at_column = warp % 2 * 32;
    const bool wide = x.pitch % 4 == 0 && in % 4 == 0 && (uintptr_t)x.data % 16 == 0;
    auto load = [&](int item) {
        float *a = stages + item % STAGES * STAGE, *b = a + A_FLOATS;
        const int k = taps[item / slabs], k0 = item % slabs * SLAB;
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
            w + taps[item / slabs] * w_step + (int64_t)column0 / 8 * steps * 32 + k0 / SV_MATRIX_K * 32;
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
        if (STAGES > 1 && item + 1 < total) load(item + 1);
        asm volatile("cp.async.commit_group;\n" ::: "memory");
        const float *a = stages + item % STAGES * STAGE;
        const int k0 = item % slabs * SLAB, count = min(steps * SV_MATRIX_K - k0, (int)SLAB) / SV_MATRIX_K;
        float part[2][4][4] = {}; /* tensor cores cut long sums off: a stage's is added here */
        sv_matrix_multiply<2, 4, 3>(part, a + at_row * PITCH, PITCH,
                                    (const float4 *)(a + A_FLOATS) + at_column / 8 * count * 32, count * 32,
                                    count);
#pragma unroll
        for (int i = 0; i < 32; i++) sums[i / 16][i / 4 % 4][i % 4] += part[i / 16][i / 4 % 4][i % 4];
        if (STAGES == 1) {
            __syncthreads(); /* everyone is done with it */
            if (item + 1 < total) load(item + 1);
            asm volatile("cp.async.commit_group;\n" ::: "memory");
        }
    }
    sv_matrix_each(sums, [&](int r, int column, float first, float second) {
        const int row = own[at_row + r], at = column0 + at_column + column;
        if (row < 0) return;
        float *out = (float *)y.data + (int64_t)row * y.pitch + at;
        if (at < outputs) out[0] = first;
        if (at + 1 < outputs) out[1] = second;
    });
}

template <int STAGES>
static sv_status run_wide(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_neighbourhood *around,
                          const sv_subm_weights *w)
{
    const dim3 grid((unsigned)(y.dim[0] + TILE - 1) / TILE, (unsigned)(w->out + COLUMNS - 1) / COLUMNS);
    const int64_t step = (int64_t)offset_floats(w->out, w->in) / 4;
    const size_t bytes = STAGES * STAGE * sizeof(float);
    SV_TRY(sv_cuda_reserve(c, "subm_conv", subm_wide<STAGES>, bytes));
    subm_wide<STAGES><<<grid, THREADS, bytes, sv_cuda_stream(c)>>>(y, x, *around, (const float4 *)w->packed,
                                                                   step, w->in, w->out);
    return SV_CUDA_LAUNCHED(c, "subm_conv");
}

/* ---- 16-bit numbers ------------------------------------------------------------------------------------ */

static int padded(int channels)
{
    return (channels + SV_TILE_K - 1) / SV_TILE_K * SV_TILE_K;
}
/* Outputs of a block. */
static int tile_outputs(int out)
{
    return padded(out) % 128 == 0 ? 128 : 64;
}

/* Per offset, tile of outputs and 64 inputs the swizzled tile, as it lies in shared memory. */
template <typename T> static sv_status pack_narrow(sv_ctx *c, sv_subm_weights *out, sv_tensor w)
{
    const int n = tile_outputs(out->out), outputs = padded(out->out), slabs = padded(out->in) / SV_TILE_K;
    const size_t count = (size_t)SV_SUBM_OFFSETS * outputs * slabs * SV_TILE_K;
    T *packed = (T *)calloc(count + 1, sizeof(T)), *tile = packed;
    SV_CHECK(c, packed, SV_NO_MEMORY, "subm_prepare: no memory for %d x %d weights", out->in, out->out);
    const float *from = (const float *)w.data;
    for (int k = 0; k < SV_SUBM_OFFSETS; k++)
        for (int first = 0; first < outputs; first += n)
            for (int slab = 0; slab < slabs; slab++, tile += n * SV_TILE_K)
                for (int i = 0; i < n * SV_TILE_K; i++) {
                    const int row = i / SV_TILE_K, at = i % SV_TILE_K,
                              input = slab * SV_TILE_K + sv_tile_column(at);
                    if (first + row >= out->out || input >= out->in) continue;
                    tile[row * SV_TILE_K + ((at / 8) ^ (row & 7)) * 8 + at % 8] =
                        sv_narrow<T>(from[((size_t)(first + row) * SV_SUBM_OFFSETS + k) * out->in + input]);
                }
    sv_status status = sv_arena_alloc(c, c->weights, "packed convolution", count * sizeof(T), &out->packed);
    if (status == SV_OK) status = c->device->upload(c, out->packed, packed, count * sizeof(T));
    free(packed); /* pageable memory: copied on return */
    return status;
}

template <typename T, int N>
static sv_status launch_narrow(sv_ctx *c, sv_tensor y, const T *x, int pitch, const sv_neighbourhood *around,
                               const sv_subm_weights *w, bool *normed)
{
    using shape = narrow_shape<N>;
    const dim3 grid((unsigned)(y.dim[0] + shape::ROWS - 1) / shape::ROWS, (unsigned)(padded(w->out) / N));
    const sv_row_norm_job norm = sv_cuda_row_norm(&w->norm), none = {};
    *normed =
        grid.y == 1 && (norm.map == SV_MAP_gelu || norm.map == SV_MAP_identity); /* a block has whole rows */
    return sv_launch_next(c, "subm_conv", subm_narrow<T, N>, grid, shape::ALL, shape::BYTES, y, x, pitch,
                          *around, (const T *)w->packed, *normed ? norm : none);
}

template <typename T>
static sv_status run_narrow(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_neighbourhood *around,
                            const sv_subm_weights *w, bool *normed)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int pitch = padded(w->in);
    void *rows = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "narrowed features", sizeof(T) * (size_t)x.dim[0] * (size_t)pitch,
                          &rows));
    SV_TRY(sv_launch_next(c, "subm_conv", narrow_rows<T>,
                          dim3(sv_cuda_blocks((int64_t)x.dim[0] * (pitch / 8))), SV_CUDA_THREADS, 0,
                          (T *)rows, pitch, x));
    const sv_status status = tile_outputs(w->out) == 128
                                 ? launch_narrow<T, 128>(c, y, (const T *)rows, pitch, around, w, normed)
                                 : launch_narrow<T, 64>(c, y, (const T *)rows, pitch, around, w, normed);
    sv_arena_rewind(&c->scratch, mark);
    return status;
}

/* ---- the primitive ------------------------------------------------------------------------------------- */

sv_status sv_cuda_subm_prepare(sv_ctx *c, sv_subm_weights *out, sv_tensor w)
{
    *out = sv_subm_weights{};
    out->out = w.dim[0];
    out->in = w.dim[4];
    out->precision = c->precision;
    if (c->precision == SV_FP32) return pack_wide(c, out, w);
    return c->precision == SV_BF16_MATH ? pack_narrow<__nv_bfloat16>(c, out, w)
                                        : pack_narrow<__half>(c, out, w);
}

sv_status sv_cuda_subm_conv(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_neighbourhood *around,
                            const sv_subm_weights *w)
{
    if (y.dim[0] == 0 || w->out == 0) return SV_OK;
    bool normed = false;
    const size_t wide = 2 * STAGE * sizeof(float) + KEPT_BYTES;
    if (w->precision == SV_FP32)
        SV_TRY((size_t)sv_cuda_block_bytes(c) < wide ? run_wide<1>(c, y, x, around, w)
                                                     : run_wide<2>(c, y, x, around, w));
    else if (w->precision == SV_BF16_MATH)
        SV_TRY(run_narrow<__nv_bfloat16>(c, y, x, around, w, &normed));
    else
        SV_TRY(run_narrow<__half>(c, y, x, around, w, &normed));
    const sv_row_norm *norm = &w->norm;
    if (normed || sv_is_none(norm->weight)) return SV_OK;
    return sv_cuda_norm(c, y, y, norm->weight, norm->bias, norm->eps, norm->map, SV_NONE);
}
