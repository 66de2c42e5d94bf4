/* SPDX-License-Identifier: Apache-2.0
 *
 * The sub-manifold convolution's kernel of 16-bit numbers (subm_conv.cu): groups of four warps have 64
 * rows each, whose neighbours go from memory straight to the registers that tensor cores read
 * (perception/core/tile_rows.cuh). One more warp copies the weights of the offsets that some row has a
 * neighbour at, stage by stage.
 */
#ifndef SV_SUBM_NARROW_CUH
#define SV_SUBM_NARROW_CUH

#include "voxel.h"

#include "perception/core/launch.cuh"
#include "perception/core/row_norm.cuh"
#include "perception/core/tile_rows.cuh"

/* The rows of y that a block makes, -1 where there are no more. */
template <int ROWS>
static __device__ __forceinline__ void find_own(int32_t *own, const sv_neighbourhood &around, int row0,
                                                int rows)
{
    const int at = row0 + threadIdx.x;
    if (threadIdx.x >= ROWS) return;
    own[threadIdx.x] = at >= rows ? -1 : around.order.data ? ((const int32_t *)around.order.data)[at] : at;
}
/* The row of x at an offset, or negative. */
static __device__ __forceinline__ int neighbour_of(int row, const sv_neighbourhood &around, int k)
{
    return row < 0 ? -1 : ((const int32_t *)around.table.data)[(int64_t)row * around.table.pitch + k];
}

/* Rows of 'pitch' 16-bit numbers, zeros behind the channels; a thread makes eight. */
template <typename T> static __global__ void narrow_rows(T *to, int pitch, sv_tensor x)
{
    sv_wait_before();
    const int64_t item = sv_thread(), row = item / (pitch / 8);
    const int first = (int)(item % (pitch / 8)) * 8, channels = x.dim[1];
    if (row >= sv_rows(x)) return;
    const float *from = (const float *)x.data + row * x.pitch + first;
    __align__(16) T numbers[8];
    if (first + 8 <= channels && x.pitch % 4 == 0) {
        __align__(16) float wide[8];
        *(float4 *)wide = *(const float4 *)from;
        *(float4 *)(wide + 4) = *(const float4 *)(from + 4);
#pragma unroll
        for (int i = 0; i < 8; i++) numbers[i] = sv_narrow<T>(wide[i]);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) numbers[i] = sv_narrow<T>(first + i < channels ? from[i] : 0.0f);
    }
    *(uint4 *)(to + row * pitch + first) = *(const uint4 *)numbers;
}

/*
 * GROUPS groups of four warps: 64 rows each, whose neighbours go from memory straight to the registers
 * that tensor cores read. One more warp copies the weights of the offsets that some row has a neighbour
 * at, stage by stage.
 */
template <int N> struct narrow_shape {
    enum {
        GROUPS = N == 64 ? 1 : 2,
        ROWS = GROUPS * 64,
        WORKERS = GROUPS * 128,
        ALL = WORKERS + 32,
        STAGE_BYTES = N * SV_TILE_ROW_BYTES,
        STAGES = N == 64 ? 6 : 5,
        SUM_PITCH = N + 8,                   /* floats of a row of sums, which lie where the stages were */
        BYTES = STAGES * STAGE_BYTES + 1024, /* tiles begin at multiples of 1024 */
        AHEAD = 3,                           /* tiles of rows that are on their way */
    };
    static_assert(ROWS * SUM_PITCH * 4 <= STAGES * STAGE_BYTES, "the sums have room");
};

/* A block's sums, with the norm if there is one, to N columns of y. In a loop: unrolled over all numbers
 * of a thread the norm's map would be more code than instruction caches hold. */
template <int N>
static __device__ __forceinline__ void write_rows(sv_tensor y, const int32_t *own, int rows, int column0,
                                                  const float *sums, int pitch, const sv_row_norm_job &norm)
{
    enum { LANES = N / 4, AT_ONCE = narrow_shape<N>::WORKERS / LANES };
    const int column = column0 + threadIdx.x % LANES * 4, channels = y.dim[1];
    const bool whole = y.pitch % 4 == 0 && channels % 4 == 0 && (uintptr_t)y.data % 16 == 0;
    const auto channel_of = [&](int i) { return column + i; };
#pragma unroll 2 /* two rows on their way */
    for (int row = threadIdx.x / LANES; row < rows; row += AT_ONCE) {
        sv_numbers<4> value = sv_read<4>(sums + row * pitch + column - column0);
        if (norm.weight && norm.map == SV_MAP_gelu)
            sv_norm_row<SV_MAP_gelu>(value.at, norm, channels, LANES, channel_of);
        else if (norm.weight)
            sv_norm_row<SV_MAP_identity>(value.at, norm, channels, LANES, channel_of);
        float *out = (float *)y.data + (int64_t)own[row] * y.pitch + column;
        if (whole && column < channels) {
            sv_write<4>(out, value);
        } else {
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (column + i < channels) out[i] = value.at[i];
        }
    }
}

/* The offsets, 64 inputs at a time, that are left of a set. */
struct offset_walk {
    uint32_t left;
    int slab, slabs;
    __device__ int offset() const { return __ffs((int)left) - 1; }
    __device__ void next()
    {
        if (++slab < slabs) return;
        slab = 0;
        left &= left - 1;
    }
};

/* What a block knows of its rows. */
template <int N> struct narrow_block {
    int32_t from[SV_SUBM_OFFSETS]
                [narrow_shape<N>::ROWS]; /* pieces of 16 bytes before a neighbour's first, or negative */
    int32_t own[narrow_shape<N>::ROWS];
    uint32_t used[narrow_shape<N>::GROUPS]; /* offsets that some row of a group has a neighbour at */
    uint64_t filled[narrow_shape<N>::STAGES], emptied[narrow_shape<N>::STAGES];
};

/* By the whole block: its rows and their neighbours. Warp w has every so many-th offset from w on, a lane rows lane, lane + 32, ... */
template <int N>
static __device__ __forceinline__ void find_neighbours(narrow_block<N> &block, const sv_neighbourhood &around,
                                                       int row0, int rows, int pieces)
{
    using shape = narrow_shape<N>;
    enum {
        WARPS = shape::ALL / 32,
        OFFSETS = (SV_SUBM_OFFSETS + WARPS - 1) / WARPS,
        EACH = shape::ROWS / 32
    };
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    find_own<shape::ROWS>(block.own, around, row0, rows);
    __syncthreads();
    /* All are on their way before the first is looked at. */
    int32_t entry[EACH][OFFSETS];
#pragma unroll
    for (int e = 0; e < EACH; e++)
#pragma unroll
        for (int n = 0; n < OFFSETS; n++) {
            const int k = warp + n * WARPS;
            entry[e][n] = k < SV_SUBM_OFFSETS ? neighbour_of(block.own[e * 32 + lane], around, k) : -1;
        }
#pragma unroll
    for (int group = 0; group < shape::GROUPS; group++) {
        uint32_t used = 0;
#pragma unroll
        for (int n = 0; n < OFFSETS; n++) {
            const int k = warp + n * WARPS;
            if (k >= SV_SUBM_OFFSETS) break;
            bool any = false;
#pragma unroll
            for (int e = group * 2; e < group * 2 + 2; e++) {
                block.from[k][e * 32 + lane] = entry[e][n] * pieces;
                any |= entry[e][n] >= 0;
            }
            if (__any_sync(0xffffffffu, any)) used |= 1u << k;
        }
        if (lane == 0 && used) atomicOr(&block.used[group], used);
    }
    __syncthreads();
}

/* A warp's part of the sums: of the rows lane/4 and lane/4 + 8 from 'row'. */
template <typename T, int N>
static __device__ __forceinline__ void add_offsets(float (&sums)[N / 2], narrow_block<N> &block,
                                                   offset_walk all, uint32_t used, const T *x, int row,
                                                   uint32_t base)
{
    using shape = narrow_shape<N>;
    enum { HELD = shape::AHEAD + 1 };
    const int lane = threadIdx.x % 32, own = row + lane / 4;
    const uint4 *from = (const uint4 *)x + lane % 4;
    sv_tile_rows rows[HELD];
    offset_walk loads = all;
    const int total = __popc(all.left) * all.slabs;
    const auto load = [&](sv_tile_rows &to) {
        if (!loads.left) return;
        const int k = loads.offset();
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int source = used >> k & 1 ? block.from[k][own + 8 * h] : -1;
#pragma unroll
            for (int p = 0; p < 2; p++)
                to.piece[h][p] = source >= 0 ? from[source + loads.slab * (SV_TILE_K / 8) + 4 * p]
                                             : make_uint4(0, 0, 0, 0);
        }
        loads.next();
    };
#pragma unroll
    for (int i = 0; i < shape::AHEAD; i++) load(rows[i]);
    int at = 0, before = 0; /* stages */
    uint32_t turn = 0;
    for (int first = 0; first < total; first += HELD) {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            if (first + i >= total) break;
            sv_barrier_wait(&block.filled[at], turn);
            sv_tile_begin();
            sv_tile_multiply_rows<T, N>(sums, rows[i], base + at * shape::STAGE_BYTES);
            sv_tile_end();
            sv_tile_wait<1>(); /* that before is done: its stage and its rows may be filled again */
            if (first + i > 0 && lane == 0) sv_barrier_arrive(&block.emptied[before]);
            load(rows[(i + shape::AHEAD) % HELD]);
            before = at;
            if (++at == shape::STAGES) {
                at = 0;
                turn ^= 1;
            }
        }
    }
    sv_tile_wait<0>();
}

/* The warp that copies weights. */
template <typename T, int N>
static __device__ __forceinline__ void fill_stages(narrow_block<N> &block, offset_walk all, const T *w,
                                                   uint32_t base)
{
    using shape = narrow_shape<N>;
    int at = 0;
    uint32_t turn = 1; /* the first filling of a stage waits for nobody */
    for (; all.left; all.next()) {
        sv_barrier_wait(&block.emptied[at], turn);
        const int64_t tile = ((int64_t)all.offset() * gridDim.y + blockIdx.y) * all.slabs + all.slab;
        sv_barrier_fill(base + at * shape::STAGE_BYTES, w + tile * N * SV_TILE_K, shape::STAGE_BYTES,
                        &block.filled[at]);
        if (++at == shape::STAGES) {
            at = 0;
            turn ^= 1;
        }
    }
}

template <typename T, int N>
static __global__ void __launch_bounds__(narrow_shape<N>::ALL)
    subm_narrow(sv_tensor y, const T *x, int pitch, const __grid_constant__ sv_neighbourhood around,
                const T *w, sv_row_norm_job norm)
{
    using shape = narrow_shape<N>;
    extern __shared__ float4 dynamic[];
    __shared__ narrow_block<N> block;
    const int row0 = blockIdx.x * shape::ROWS, warp = __shfl_sync(0xffffffffu, (int)threadIdx.x / 32, 0),
              lane = threadIdx.x % 32;
    if (threadIdx.x == 0)
        for (int i = 0; i < shape::STAGES; i++) {
            sv_barrier_open(&block.filled[i], SV_FILL_ARRIVALS);
            sv_barrier_open(&block.emptied[i], shape::WORKERS / 32);
        }
    if (threadIdx.x < shape::GROUPS) block.used[threadIdx.x] = 0;
    sv_wait_before();
    const int rows = sv_rows(y);
    if (row0 >= rows) return;
    find_neighbours<N>(block, around, row0, rows, pitch / 8);
    offset_walk all = {0, 0, pitch / SV_TILE_K};
    for (int group = 0; group < shape::GROUPS; group++) all.left |= block.used[group];
    all.left = __shfl_sync(0xffffffffu, all.left, 0); /* so the compiler knows that a warp stays together */

    const uint32_t base = (sv_shared_address(dynamic) + 1023) & ~1023u;
    float *const tile_sums = (float *)((unsigned char *)dynamic + (base - sv_shared_address(dynamic)));
    float sums[N / 2] = {};
    if (warp >= shape::WORKERS / 32)
        fill_stages<T, N>(block, all, w, base);
    else
        add_offsets<T, N>(sums, block, all, block.used[warp / 4], x, warp * 16, base);
    __syncthreads(); /* nobody reads the stages any more: they take the sums */
    if (threadIdx.x < shape::WORKERS) {
        const int at_row = warp * 16 + lane / 4;
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                *(float2 *)&tile_sums[(at_row + 8 * h) * shape::SUM_PITCH + 8 * j + lane % 4 * 2] =
                    make_float2(sums[4 * j + 2 * h], sums[4 * j + 2 * h + 1]);
    }
    __syncthreads();
    if (threadIdx.x < shape::WORKERS)
        write_rows<N>(y, block.own, min(rows - row0, (int)shape::ROWS), blockIdx.y * N, tile_sums,
                      shape::SUM_PITCH, norm);
}

#endif
