/* SPDX-License-Identifier: Apache-2.0
 *
 * Input of the learned position embedding on the GPU, with the float32 roundings of position_cpu.c: each
 * step is one operation that the compiler cannot fuse with the next. And the whole embedding in one kernel:
 *
 *     x += W2 relu(W1 p + b1) + b2
 *
 * 64 rows a block: the hidden layer, three multiply-adds a number, is made where the tensor cores read it.
 */
#include "perception/core/launch.cuh"
#include "perception/core/matrix.cuh"
#include "perception/core/tile.cuh"

namespace {

struct grid_shape {
    int32_t size[3]; /* z, y, x */
};

/* axis: x, y, z */
__device__ __forceinline__ float position(const grid_shape &shape, const int32_t *coords, int axis)
{
    const float size = (float)shape.size[2 - axis];
    const float centred = (float)coords[3 - axis] - size / 2.0f;
    return centred / size * 2.0f * 3.1415f;
}

__global__ void positions_kernel(sv_tensor y, sv_tensor coords, grid_shape shape)
{
    const int64_t item = sv_thread();
    const int64_t row = item / 3;
    const int axis = (int)(item % 3);
    if (row >= sv_rows(coords)) return;
    ((float *)y.data)[row * y.pitch + axis] = position(shape, (const int32_t *)coords.data + 4 * row, axis);
}

struct embedding {
    sv_tensor x, coords;
    grid_shape shape;
    const float *w1, *b1, *b2; /* [C,3], [C], [C] */
    const void *w2;            /* packed for the kernel */
};

enum { ROWS = 64, THREADS = 128 };

/* f(row, k, hidden number k of the row) for the block's rows; a thread makes some columns of all rows. */
template <int C, typename F>
__device__ __forceinline__ void make_hidden(const embedding &e, int row0, int rows, F f)
{
    __shared__ float p[ROWS][4];
    for (int i = threadIdx.x; i < ROWS * 3; i += THREADS) {
        const int row = row0 + i / 3;
        p[i / 3][i % 3] =
            row < rows ? position(e.shape, (const int32_t *)e.coords.data + 4 * (int64_t)row, i % 3) : 0.0f;
    }
    const int k = threadIdx.x % C;
    const float wx = e.w1[3 * k], wy = e.w1[3 * k + 1], wz = e.w1[3 * k + 2], bias = e.b1[k];
    __syncthreads();
#pragma unroll 8
    for (int row = threadIdx.x / C; row < ROWS; row += THREADS / C)
        f(row, k, fmaxf(0.0f, fmaf(wz, p[row][2], fmaf(wy, p[row][1], fmaf(wx, p[row][0], bias)))));
}

__device__ __forceinline__ void add_pair(const embedding &e, int row, int column, float first, float second)
{
    float2 *to = (float2 *)((float *)e.x.data + (int64_t)row * e.x.pitch + column);
    const float2 before = *to;
    *to = make_float2(before.x + (first + e.b2[column]), before.y + (second + e.b2[column + 1]));
}

/* Warps 0 and 1 have the upper 32 rows, 2 and 3 the lower; even ones the left half of the columns. */
template <int C> __global__ void __launch_bounds__(THREADS) embed_wide(const __grid_constant__ embedding e)
{
    enum { PITCH = C + 4, NT = C / 16, STEPS = C / SV_MATRIX_K, SLAB = 64 };
    __shared__ __align__(16) float hidden[ROWS * PITCH];
    const int rows = sv_rows(e.x), row0 = blockIdx.x * ROWS, warp = threadIdx.x / 32;
    if (row0 >= rows) return;
    make_hidden<C>(e, row0, rows, [&](int row, int k, float value) { hidden[row * PITCH + k] = value; });
    __syncthreads();
    const int at_row = warp / 2 * 32, at_column = warp % 2 * (C / 2);
    float sums[2][NT][4] = {};
#pragma unroll
    for (int slab = 0; slab < C / SLAB; slab++) {
        float part[2][NT][4] = {}; /* tensor cores cut long sums off: a slab's is added here */
        sv_matrix_multiply<2, NT, 3>(part, hidden + at_row * PITCH + slab * SLAB, PITCH,
                                     (const float4 *)e.w2 +
                                         (at_column / 8 * STEPS + slab * (SLAB / SV_MATRIX_K)) * 32,
                                     STEPS * 32, SLAB / SV_MATRIX_K);
#pragma unroll
        for (int i = 0; i < 8 * NT; i++)
            sums[i / (4 * NT)][i / 4 % NT][i % 4] += part[i / (4 * NT)][i / 4 % NT][i % 4];
    }
    sv_matrix_each(sums, [&](int r, int column, float first, float second) {
        const int row = row0 + at_row + r;
        if (row < rows) add_pair(e, row, at_column + column, first, second);
    });
}

template <typename T, int C>
__global__ void __launch_bounds__(THREADS) embed_narrow(const __grid_constant__ embedding e)
{
    enum { SLABS = C / SV_TILE_K, A_BYTES = ROWS * SV_TILE_ROW_BYTES, B_BYTES = C * SV_TILE_ROW_BYTES };
    sv_wait_before();
    const int rows = sv_rows(e.x), row0 = blockIdx.x * ROWS, tid = threadIdx.x;
    if (row0 >= rows) return;
    extern __shared__ __align__(16) unsigned char memory[];
    const uint32_t base = (sv_shared_address(memory) + 1023) & ~1023u;
    unsigned char *const a = memory + (base - sv_shared_address(memory));
    const uint32_t b = base + SLABS * A_BYTES;
    for (int i = tid; i < SLABS * C * 8; i += THREADS) sv_copy_far(b + 16 * i, (const T *)e.w2 + 8 * i);
    sv_copies_end();
    make_hidden<C>(e, row0, rows, [&](int row, int k, float value) {
        const int at = k % SV_TILE_K;
        *(T *)(a + k / SV_TILE_K * A_BYTES + row * SV_TILE_ROW_BYTES + ((at / 8 ^ (row & 7)) << 4) +
               at % 8 * 2) = sv_narrow<T>(value);
    });
    sv_copies_wait<0>();
    sv_tile_publish();
    __syncthreads();
    float sums[C / 2] = {};
    sv_tile_begin();
#pragma unroll
    for (int slab = 0; slab < SLABS; slab++)
        sv_tile_multiply<T, C>(sums, base + slab * A_BYTES, b + slab * B_BYTES);
    sv_tile_end();
    sv_tile_wait<0>();
    const int lane = tid % 32, row = row0 + tid / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < C / 8; j++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (row + 8 * h < rows)
                add_pair(e, row + 8 * h, 8 * j + lane % 4 * 2, sums[4 * j + 2 * h], sums[4 * j + 2 * h + 1]);
}

template <typename T, int C> sv_status run_narrow(sv_ctx *c, embedding e, const sv_linear_weights *second)
{
    const int bytes =
        C / SV_TILE_K * (ROWS + C) * SV_TILE_ROW_BYTES + 1024; /* tiles begin at multiples of 1024 */
    e.w2 = second->narrow;
    return sv_launch_early(c, "position_embed", embed_narrow<T, C>, e,
                           dim3((unsigned)(e.x.dim[0] + ROWS - 1) / ROWS), THREADS, bytes);
}

template <int C> sv_status run(sv_ctx *c, embedding e, const sv_linear_weights *second)
{
    if (second->narrow && c->precision == SV_BF16_MATH) return run_narrow<__nv_bfloat16, C>(c, e, second);
    if (second->narrow && c->precision != SV_FP32) return run_narrow<__half, C>(c, e, second);
    e.w2 = second->packed;
    embed_wide<C><<<(unsigned)(e.x.dim[0] + ROWS - 1) / ROWS, THREADS, 0, sv_cuda_stream(c)>>>(e);
    return SV_CUDA_LAUNCHED(c, "position_embed");
}

} // namespace

sv_status sv_cuda_positions(sv_ctx *c, sv_tensor y, sv_tensor coords, const int32_t *shape)
{
    const grid_shape grid = {{shape[0], shape[1], shape[2]}};
    positions_kernel<<<sv_cuda_blocks((int64_t)coords.dim[0] * 3), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(
        y, coords, grid);
    return SV_CUDA_LAUNCHED(c, "positions");
}

sv_status sv_cuda_position_embed(sv_ctx *c, sv_tensor x, sv_tensor coords, const int32_t *shape,
                                 const sv_linear_weights *mlp)
{
    if (x.dim[0] == 0) return SV_OK;
    SV_CHECK(c, x.pitch % 2 == 0 && (uintptr_t)x.data % 8 == 0, SV_BAD_SHAPE,
             "position_embed: rows of %d numbers lie %d apart", x.dim[1], x.pitch);
    embedding e = {};
    e.x = x;
    e.coords = coords;
    e.shape = {{shape[0], shape[1], shape[2]}};
    e.w1 = (const float *)mlp[0].w.data;
    e.b1 = (const float *)mlp[0].bias.data;
    e.b2 = (const float *)mlp[1].bias.data;
    return x.dim[1] == 64 ? run<64>(c, e, &mlp[1]) : run<128>(c, e, &mlp[1]);
}
