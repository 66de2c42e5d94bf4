/* SPDX-License-Identifier: Apache-2.0
 *
 * 3x3x3 sub-manifold convolution on the GPU: y[i] = sum over k of x[table[i][k]] W[k], W [27, in, out].
 *
 * A block makes 64 or 128 rows x 64 or 128 outputs on tensor cores. For each offset k, and up to 64 inputs at a time,
 * it loads its rows' neighbours and W[k] and adds their product, while the next ones are on their way. Offsets that none
 * of its rows has a neighbour at are left out, which changes no sum. Each element adds in ascending k, then input.
 *
 * fp32 multiplies float32 numbers split in two (perception/core/matrix.cuh). The others multiply 16-bit numbers
 * (perception/core/tile_rows.cuh) of which the features are narrowed first: bfloat16, or half, whose mantissa is
 * TF32's.
 */
#include "voxel.h"

#include "perception/core/early.cuh"
#include "perception/core/matrix.cuh"
#include "perception/core/row_norm.cuh"
#include "perception/core/tile_rows.cuh"

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

/* Eight warps: 32 rows by 32 columns each. */
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
        float *a = stages + item % 2 * STAGE, *b = a + A_FLOATS;
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
        if (item + 1 < total) load(item + 1);
        asm volatile("cp.async.commit_group;\n" ::: "memory");
        const float *a = stages + item % 2 * STAGE;
        const int k0 = item % slabs * SLAB, count = min(steps * SV_MATRIX_K - k0, (int)SLAB) / SV_MATRIX_K;
        float part[2][4][4] = {}; /* tensor cores cut long sums off: a stage's is added here */
        sv_matrix_multiply<2, 4, 3>(part, a + at_row * PITCH, PITCH,
                                    (const float4 *)(a + A_FLOATS) + at_column / 8 * count * 32, count * 32,
                                    count);
#pragma unroll
        for (int i = 0; i < 32; i++) sums[i / 16][i / 4 % 4][i % 4] += part[i / 16][i / 4 % 4][i % 4];
    }
    sv_matrix_each(sums, [&](int r, int column, float first, float second) {
        const int row = own[at_row + r], at = column0 + at_column + column;
        if (row < 0) return;
        float *out = (float *)y.data + (int64_t)row * y.pitch + at;
        if (at < outputs) out[0] = first;
        if (at + 1 < outputs) out[1] = second;
    });
}

static sv_status run_wide(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_neighbourhood *around,
                          const sv_subm_weights *w)
{
    const dim3 grid((unsigned)(y.dim[0] + TILE - 1) / TILE, (unsigned)(w->out + COLUMNS - 1) / COLUMNS);
    const int64_t step = (int64_t)offset_floats(w->out, w->in) / 4;
    const int bytes = 2 * STAGE * (int)sizeof(float);
    SV_CUDA_TRY(c, "subm_conv",
                cudaFuncSetAttribute(subm_wide, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    subm_wide<<<grid, THREADS, bytes, sv_cuda_stream(c)>>>(y, x, *around, (const float4 *)w->packed, step,
                                                           w->in, w->out);
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

/* Rows of 'pitch' 16-bit numbers, zeros behind the channels; a thread makes eight. */
template <typename T> static __global__ void narrow_rows(T *to, int pitch, sv_tensor x)
{
    sv_begin_early();
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
 * GROUPS groups of four warps: 64 rows each, whose neighbours go from memory straight to the registers that tensor cores read.
 * One more warp copies the weights of the offsets that some row has a neighbour at, stage by stage.
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

/* A block's sums, with the norm if there is one, to N columns of y. In a loop: unrolled over all numbers of a thread the
 * norm's map would be more code than instruction caches hold. */
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
    /* Pieces of 16 bytes before a neighbour's first, or negative. One more a row: a warp writes a column. */
    int32_t from[SV_SUBM_OFFSETS][narrow_shape<N>::ROWS + 1];
    int32_t own[narrow_shape<N>::ROWS];
    uint32_t used[narrow_shape<N>::GROUPS]; /* offsets that some row of a group has a neighbour at */
    uint64_t filled[narrow_shape<N>::STAGES], emptied[narrow_shape<N>::STAGES];
};

/* By the whole block: its rows and their neighbours. */
template <int N>
static __device__ __forceinline__ void find_neighbours(narrow_block<N> &block, const sv_neighbourhood &around,
                                                       int row0, int rows, int pieces)
{
    using shape = narrow_shape<N>;
    enum { ENTRIES = 64 * SV_SUBM_OFFSETS, EACH = (ENTRIES + shape::ALL - 1) / shape::ALL };
    find_own<shape::ROWS>(block.own, around, row0, rows);
    __syncthreads();
    /* All entries are on their way before the first is looked at. */
    int32_t entry[shape::GROUPS][EACH];
#pragma unroll
    for (int group = 0; group < shape::GROUPS; group++)
#pragma unroll
        for (int n = 0; n < EACH; n++) {
            const int i = n * shape::ALL + threadIdx.x;
            entry[group][n] = i < ENTRIES ? neighbour_of(block.own[group * 64 + i / SV_SUBM_OFFSETS], around,
                                                         i % SV_SUBM_OFFSETS)
                                          : -1;
        }
#pragma unroll
    for (int group = 0; group < shape::GROUPS; group++) {
        uint32_t mine = 0;
#pragma unroll
        for (int n = 0; n < EACH; n++) {
            const int i = n * shape::ALL + threadIdx.x, source = entry[group][n];
            if (i < ENTRIES)
                block.from[i % SV_SUBM_OFFSETS][group * 64 + i / SV_SUBM_OFFSETS] = source * pieces;
            if (source >= 0) mine |= 1u << i % SV_SUBM_OFFSETS;
        }
        mine = __reduce_or_sync(0xffffffffu, mine);
        if (threadIdx.x % 32 == 0 && mine) atomicOr(&block.used[group], mine);
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
    sv_begin_early();
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
    __syncthreads(); /* nobody reads the stages any more: they take the sums, and threads whole pieces of rows */
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
    if (w->precision == SV_FP32)
        SV_TRY(run_wide(c, y, x, around, w));
    else if (w->precision == SV_BF16_MATH)
        SV_TRY(run_narrow<__nv_bfloat16>(c, y, x, around, w, &normed));
    else
        SV_TRY(run_narrow<__half>(c, y, x, around, w, &normed));
    const sv_row_norm *norm = &w->norm;
    if (normed || sv_is_none(norm->weight)) return SV_OK;
    return sv_cuda_norm(c, y, y, norm->weight, norm->bias, norm->eps, norm->map, SV_NONE);
}
