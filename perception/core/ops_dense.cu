/* SPDX-License-Identifier: Apache-2.0
 *
 * Dense primitives on the GPU: elementwise maps, linear layers, LayerNorm, row means. All but the factors of
 * linear layers are float32.
 *
 * linear: y[i] = map(W x[index[i]] + b) by tiles of 64 rows x 64 columns on tensor cores (matrix.cuh). A
 * block puts 64 columns of its rows, gathered, into shared memory at a time; weights are packed at load:
 *
 *            n ->            Each element is one chain of sums in ascending k, whatever the number of
 *         +---W---+          rows: a row's bytes do not depend on its place, batch or capacity.
 *      k  |64 x 64|
 *         +-------+
 *    +-x-+ +------+
 *    |   | | y    |  m
 *    +-k-+ +------+
 *
 * fp32 multiplies float32 numbers split in two (matrix.cuh), the others 16-bit numbers (tile.cuh): bfloat16,
 * or half, whose mantissa is TF32's (and whose largest number, 65504, stands for larger ones).
 */
#include "launch.cuh"
#include "maps.cuh"
#include "matrix.cuh"
#include "tile.cuh"

#include <stdlib.h>

enum { TILE = 64, SLAB = 64, PITCH = SLAB + 4, LINEAR_THREADS = 128, WARP = 32 };
enum { FEW_SIDE = 32, FEW_WARPS = 12, FEW_BLOCKS = 264 };

/* ---- maps ---------------------------------------------------------------------------------------------- */

/* Where a thread has many numbers, a switch over all maps at each of them is more code than instruction caches hold: the
 * most frequent ones are there, the others a call. */
static __device__ __noinline__ float rare_map(sv_map map, float x)
{
    return sv_map_value(map, x, 0.0f);
}
static __device__ __forceinline__ float mapped(sv_map map, float x)
{
    if (map == SV_MAP_identity) return x;
    return map == SV_MAP_relu ? m_max(0.0f, x) : rare_map(map, x);
}
/* Of four numbers: one call, one look at the switch. */
static __device__ __noinline__ float4 rare_maps(sv_map map, float4 v)
{
    switch (map) {
#define MAP(name, expression)                                                                                \
    case SV_MAP_##name: {                                                                                    \
        const auto f = [](float a, float b) -> float {                                                       \
            (void)a, (void)b;                                                                                \
            return expression;                                                                               \
        };                                                                                                   \
        return make_float4(f(v.x, 0.0f), f(v.y, 0.0f), f(v.z, 0.0f), f(v.w, 0.0f));                          \
    }
#include "maps.def"
#undef MAP
    default:
        return v;
    }
}
template <int V> static __device__ __forceinline__ void map_numbers(sv_map map, sv_numbers<V> *v)
{
    if (V == 4 && map != SV_MAP_identity && map != SV_MAP_relu) {
        *(float4 *)v->at = rare_maps(map, *(const float4 *)v->at);
        return;
    }
#pragma unroll
    for (int e = 0; e < V; e++) v->at[e] = mapped(map, v->at[e]);
}

template <int V> static __global__ void map_kernel(sv_tensor y, sv_tensor a, sv_tensor b, sv_map map)
{
    sv_each_piece<V>(sv_rows(y), y.dim[1], [&](int row, int channel) {
        const sv_numbers<V> left = sv_read<V>((const float *)a.data + (int64_t)row * a.pitch + channel);
        sv_numbers<V> right = {}, out;
        if (b.data) right = sv_read<V>((const float *)b.data + (int64_t)row * b.pitch + channel);
#pragma unroll
        for (int i = 0; i < V; i++) out.at[i] = sv_map_value(map, left.at[i], right.at[i]);
        sv_write<V>((float *)y.data + (int64_t)row * y.pitch + channel, out);
    });
}

static sv_status run_map(sv_ctx *c, const char *op, sv_tensor y, sv_tensor a, sv_tensor b, sv_map map)
{
    if (y.dim[1] == 0) return SV_OK;
    const cudaStream_t stream = sv_cuda_stream(c);
    if (sv_cuda_in_fours(y) && sv_cuda_in_fours(a) && (sv_is_none(b) || sv_cuda_in_fours(b)))
        map_kernel<4>
            <<<sv_cuda_row_blocks(y.dim[0], y.dim[1] / 4), SV_CUDA_THREADS, 0, stream>>>(y, a, b, map);
    else
        map_kernel<1><<<sv_cuda_row_blocks(y.dim[0], y.dim[1]), SV_CUDA_THREADS, 0, stream>>>(y, a, b, map);
    return SV_CUDA_LAUNCHED(c, op);
}

sv_status sv_cuda_map1(sv_ctx *c, sv_tensor y, sv_tensor a, sv_map map)
{
    return run_map(c, "map1", y, a, SV_NONE, map);
}

sv_status sv_cuda_map2(sv_ctx *c, sv_tensor y, sv_tensor a, sv_tensor b, sv_map map)
{
    return run_map(c, "map2", y, a, b, map);
}

/* ---- linear -------------------------------------------------------------------------------------------- */

static int padded(int channels)
{
    return (channels + SV_TILE_K - 1) / SV_TILE_K * SV_TILE_K;
}
/* Outputs of a block of 16-bit products. */
static int tile_outputs(int n)
{
    return padded(n) % 128 == 0 ? 128 : 64;
}

/* Float32, by eight rows and 16 columns; a warp multiplies 32 columns at once, whether there are that many or not. */
static sv_status pack_wide(sv_ctx *c, sv_linear_weights *out, sv_tensor w)
{
    const size_t bytes = sv_matrix_floats(padded(out->n), out->k) * sizeof(float);
    float *packed = (float *)calloc(bytes + 1, 1);
    SV_CHECK(c, packed, SV_NO_MEMORY, "linear_prepare: no memory for %d x %d weights", out->n, out->k);
    sv_matrix_pack(packed, (const float *)w.data, out->n, out->k, w.pitch, 1);
    sv_status status = sv_arena_alloc(c, c->weights, "packed weights", bytes, &out->packed);
    if (status == SV_OK) status = c->device->upload(c, out->packed, packed, bytes);
    free(packed); /* pageable memory: copied on return */
    return status;
}

/* Per tile of outputs and 64 inputs the swizzled tile, as it lies in shared memory. */
template <typename T> static sv_status pack_narrow(sv_ctx *c, sv_linear_weights *out, sv_tensor w)
{
    const int tile = tile_outputs(out->n), slabs = padded(out->k) / SV_TILE_K;
    const size_t count = (size_t)padded(out->n) * (size_t)slabs * SV_TILE_K;
    T *packed = (T *)calloc(count + 1, sizeof(T));
    SV_CHECK(c, packed, SV_NO_MEMORY, "linear_prepare: no memory for %d x %d weights", out->n, out->k);
    for (int row = 0; row < out->n; row++)
        for (int at = 0; at < out->k; at++) {
            const int r = row % tile, k = at % SV_TILE_K;
            const size_t first = ((size_t)(row / tile) * slabs + at / SV_TILE_K) * tile * SV_TILE_K;
            packed[first + r * SV_TILE_K + ((k / 8) ^ (r & 7)) * 8 + k % 8] =
                sv_narrow<T>(((const float *)w.data)[(size_t)row * w.pitch + at]);
        }
    sv_status status =
        sv_arena_alloc(c, c->weights, "narrow packed weights", count * sizeof(T), &out->narrow);
    if (status == SV_OK) status = c->device->upload(c, out->narrow, packed, count * sizeof(T));
    free(packed); /* pageable memory: copied on return */
    return status;
}

sv_status sv_cuda_linear_prepare(sv_ctx *c, sv_linear_weights *out, sv_tensor w, sv_tensor bias)
{
    *out = sv_linear_weights{};
    out->n = w.dim[0];
    out->k = w.dim[1];
    if (!c->packed_only) SV_TRY(sv_weight_upload(c, &out->w, w));
    SV_TRY(pack_wide(c, out, w));
    if (c->precision == SV_BF16_MATH) SV_TRY(pack_narrow<__nv_bfloat16>(c, out, w));
    if (c->precision == SV_TF32 || c->precision == SV_FP16_MATH) SV_TRY(pack_narrow<__half>(c, out, w));
    return sv_is_none(bias) ? SV_OK : sv_weight_upload(c, &out->bias, bias);
}

/* Warps 0 and 1 have the upper 32 rows, 2 and 3 the lower; even ones the left 32 columns. */
static __global__ void __launch_bounds__(LINEAR_THREADS)
    linear_wide(sv_tensor y, sv_tensor x, const int32_t *index, const float4 *w, const float *bias, int k,
                sv_map map)
{
    const int rows = sv_rows(y), n = y.dim[1];
    const int row0 = blockIdx.x * TILE, column0 = blockIdx.y * TILE;
    if (row0 >= rows) return;
    __shared__ __align__(16) float slab[TILE * PITCH];
    __shared__ int from[TILE];
    if (threadIdx.x < TILE) {
        const int row = row0 + threadIdx.x;
        from[threadIdx.x] = row >= rows ? -1 : index ? index[row] : row;
    }
    const int warp = threadIdx.x / WARP, at_row = warp / 2 * 32, at_column = warp % 2 * 32;
    const int steps = sv_matrix_steps(k);
    const float4 *b = w + (int64_t)(column0 + at_column) / 8 * steps * 32;
    const bool used = column0 + at_column < n,
               wide = x.pitch % 4 == 0 && k % 4 == 0 && (uintptr_t)x.data % 16 == 0;
    float sums[2][4][4] = {};
    for (int k0 = 0; k0 < k; k0 += SLAB) {
        const int padded = min((k - k0 + SV_MATRIX_K - 1) / SV_MATRIX_K * SV_MATRIX_K, (int)SLAB);
        __syncthreads();
        if (wide) {
            const int pieces = padded / 4;
            for (int i = threadIdx.x; i < TILE * pieces; i += LINEAR_THREADS) {
                const int row = i / pieces, at = i % pieces * 4, source = from[row];
                *(float4 *)&slab[row * PITCH + at] =
                    source >= 0 && k0 + at < k
                        ? *(const float4 *)((const float *)x.data + (int64_t)source * x.pitch + k0 + at)
                        : make_float4(0, 0, 0, 0);
            }
        } else {
            for (int i = threadIdx.x; i < TILE * padded; i += LINEAR_THREADS) {
                const int row = i / padded, at = i % padded, source = from[row];
                slab[row * PITCH + at] = source >= 0 && k0 + at < k
                                             ? ((const float *)x.data)[(int64_t)source * x.pitch + k0 + at]
                                             : 0.0f;
            }
        }
        __syncthreads();
        if (!used) continue;
        float part[2][4][4] = {}; /* tensor cores cut long sums off: a slab's is added here */
        sv_matrix_multiply<2, 4, 3>(part, slab + at_row * PITCH, PITCH, b + k0 / SV_MATRIX_K * 32, steps * 32,
                                    padded / SV_MATRIX_K);
#pragma unroll
        for (int i = 0; i < 32; i++) sums[i / 16][i / 4 % 4][i % 4] += part[i / 16][i / 4 % 4][i % 4];
    }
    if (!used) return;
    sv_matrix_each(sums, [&](int r, int column, float first, float second) {
        const int row = row0 + at_row + r, at = column0 + at_column + column;
        if (row >= rows || at >= n) return;
        float *out = (float *)y.data + (int64_t)row * y.pitch + at;
        out[0] = mapped(map, first + (bias ? bias[at] : 0.0f));
        if (at + 1 < n) out[1] = mapped(map, second + (bias ? bias[at + 1] : 0.0f));
    });
}

/* The same bytes for few rows: a block has 32 x 32 results and as many warps as there are slabs on their way, each warp
 * multiplies a slab, and the slabs are added in their order. */
static __global__ void __launch_bounds__(FEW_WARPS *WARP)
    linear_few(sv_tensor y, sv_tensor x, const int32_t *index, const float4 *w, const float *bias, int k,
               sv_map map)
{
    enum { EACH = (FEW_SIDE * FEW_SIDE + FEW_WARPS * WARP - 1) / (FEW_WARPS * WARP), OWN = FEW_SIDE * PITCH };
    extern __shared__ __align__(16) float slabs[];
    const int rows = sv_rows(y), n = y.dim[1], row0 = blockIdx.x * FEW_SIDE, column0 = blockIdx.y * FEW_SIDE;
    if (row0 >= rows) return;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, steps = sv_matrix_steps(k);
    const int row = row0 + lane, source = row >= rows ? -1 : index ? index[row] : row;
    const bool wide = x.pitch % 4 == 0 && k % 4 == 0 && (uintptr_t)x.data % 16 == 0;
    const float4 *b = w + (int64_t)column0 / 8 * steps * 32;
    float *own = slabs + warp * OWN, sums[EACH] = {};
    const int count = (k + SLAB - 1) / SLAB;
    for (int first = 0; first < count; first += FEW_WARPS) {
        const int k0 = (first + warp) * SLAB;
        if (k0 < k) {
            const int padded = min((k - k0 + SV_MATRIX_K - 1) / SV_MATRIX_K * SV_MATRIX_K, (int)SLAB);
            for (int r = 0; r < FEW_SIDE; r += 2) { /* 16 lanes take a row */
                const int at = lane % 16 * 4, from = __shfl_sync(0xffffffffu, source, r + lane / 16);
                const float *in = (const float *)x.data + (int64_t)from * x.pitch + k0 + at;
                float4 piece = make_float4(0, 0, 0, 0);
                if (from >= 0 && wide && k0 + at < k) piece = *(const float4 *)in;
                if (from >= 0 && !wide) {
                    if (k0 + at < k) piece.x = in[0];
                    if (k0 + at + 1 < k) piece.y = in[1];
                    if (k0 + at + 2 < k) piece.z = in[2];
                    if (k0 + at + 3 < k) piece.w = in[3];
                }
                *(float4 *)&own[(r + lane / 16) * PITCH + at] = piece;
            }
            __syncwarp();
            float part[2][4][4] = {};
            sv_matrix_multiply<2, 4, 3>(part, own, PITCH, b + k0 / SV_MATRIX_K * 32, steps * 32,
                                        padded / SV_MATRIX_K);
            __syncwarp();
            sv_matrix_each(part, [&](int r, int column, float left, float right) {
                own[r * (FEW_SIDE + 1) + column] = left;
                own[r * (FEW_SIDE + 1) + column + 1] = right;
            });
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int item = i * FEW_WARPS * WARP + threadIdx.x,
                      at = item / FEW_SIDE * (FEW_SIDE + 1) + item % FEW_SIDE;
            for (int s = 0; s < FEW_WARPS && first + s < count && item < FEW_SIDE * FEW_SIDE; s++)
                sums[i] += slabs[s * OWN + at];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int item = i * FEW_WARPS * WARP + threadIdx.x, to = row0 + item / FEW_SIDE,
                  column = column0 + item % FEW_SIDE;
        if (item >= FEW_SIDE * FEW_SIDE || to >= rows || column >= n) continue;
        ((float *)y.data)[(int64_t)to * y.pitch + column] =
            mapped(map, sums[i] + (bias ? bias[column] : 0.0f));
    }
}

/* Eight inputs of a row as 16-bit numbers. */
template <typename T>
static __device__ __forceinline__ uint4 narrow_piece(const float *row, int at, int k, bool wide)
{
    __align__(16) T numbers[8];
    __align__(16) float from[8] = {};
    if (row && wide) {
        if (at < k) *(float4 *)from = *(const float4 *)(row + at);
        if (at + 4 < k) *(float4 *)(from + 4) = *(const float4 *)(row + at + 4);
    } else if (row) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (at + i < k) from[i] = row[at + i];
    }
#pragma unroll
    for (int i = 0; i < 8; i++) numbers[i] = sv_narrow<T>(from[i]);
    return *(const uint4 *)numbers;
}

/* y = map(sums + bias) of a block's tile, pieces of V numbers at a time. */
template <int V>
static __device__ __forceinline__ void write_sums(float *y, int y_pitch, const float *sums, int pitch,
                                                  const float *bias, int rows, int columns, sv_map map)
{
    const int pieces = columns / V;
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * pieces; i += LINEAR_THREADS) {
        const int row = i / pieces, at = i % pieces * V;
        sv_numbers<V> value = sv_read<V>(sums + row * pitch + at);
#pragma unroll
        for (int e = 0; e < V; e++) value.at[e] += bias ? bias[at + e] : 0.0f;
        map_numbers<V>(map, &value);
        sv_write<V>(y + (int64_t)row * y_pitch + at, value);
    }
}

/* Four warps multiply 64 rows by N outputs, 64 inputs at a time, while the next ones are on their way. */
template <typename T, int N>
static __global__ void __launch_bounds__(LINEAR_THREADS)
    linear_narrow(sv_tensor y, sv_tensor x, const int32_t *index, const T *w, const float *bias, int k,
                  sv_map map)
{
    enum { A_BYTES = TILE * SV_TILE_ROW_BYTES, STAGE_BYTES = A_BYTES + N * SV_TILE_ROW_BYTES, PIECES = 4 };
    sv_wait_before();
    const int rows = sv_rows(y), n = y.dim[1], row0 = blockIdx.x * TILE, tid = threadIdx.x;
    if (row0 >= rows) return;
    extern __shared__ __align__(16) unsigned char stages[];
    const uint32_t base = (sv_shared_address(stages) + 1023) & ~1023u;
    unsigned char *const first_stage = stages + (base - sv_shared_address(stages));
    const int slabs = (k + SV_TILE_K - 1) / SV_TILE_K, piece = tid % 8;
    const bool wide = x.pitch % 4 == 0 && k % 4 == 0 && (uintptr_t)x.data % 16 == 0;
    const float *source[PIECES]; /* rows tid/8, tid/8 + 16, ... */
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        const int row = row0 + tid / 8 + 16 * i, from = row >= rows ? -1 : index ? index[row] : row;
        source[i] = from < 0 ? NULL : (const float *)x.data + (int64_t)from * x.pitch;
    }
    uint4 next[PIECES];
    auto load = [&](int slab) {
        const T *tile = w + ((int64_t)blockIdx.y * slabs + slab) * N * SV_TILE_K;
        const uint32_t b = base + slab % 2 * STAGE_BYTES + A_BYTES;
        for (int i = tid; i < N * 8; i += LINEAR_THREADS) sv_copy_far(b + 16 * i, tile + 8 * i);
        sv_copies_end();
#pragma unroll
        for (int i = 0; i < PIECES; i++)
            next[i] = narrow_piece<T>(source[i], slab * SV_TILE_K + piece * 8, k, wide);
    };
    float sums[N / 2] = {};
    load(0);
    for (int slab = 0; slab < slabs; slab++) {
        const int stage = slab % 2 * STAGE_BYTES;
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const int row = tid / 8 + 16 * i;
            *(uint4 *)(first_stage + stage + row * SV_TILE_ROW_BYTES + ((piece ^ (row & 7)) << 4)) = next[i];
        }
        sv_copies_wait<0>();
        sv_tile_publish();
        __syncthreads(); /* this stage is there, and everyone is done with the other */
        if (slab + 1 < slabs) load(slab + 1);
        sv_tile_begin();
        sv_tile_multiply<T, N>(sums, base + stage, base + stage + A_BYTES);
        sv_tile_end();
        sv_tile_wait<0>();
    }
    __syncthreads(); /* nobody reads the stages any more: they take the sums, and threads whole pieces of rows */
    enum { SUM_PITCH = N + 8 };
    float *const tile = (float *)first_stage;
    const int lane = tid % 32, at_row = tid / 32 * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            *(float2 *)&tile[(at_row + 8 * h) * SUM_PITCH + 8 * j + lane % 4 * 2] =
                make_float2(sums[4 * j + 2 * h], sums[4 * j + 2 * h + 1]);
    __syncthreads();
    const int column0 = blockIdx.y * N, columns = min(n - column0, N), last = min(rows - row0, (int)TILE);
    float *const out = (float *)y.data + (int64_t)row0 * y.pitch + column0;
    if (y.pitch % 4 == 0 && columns % 4 == 0 && (uintptr_t)y.data % 16 == 0)
        write_sums<4>(out, y.pitch, tile, SUM_PITCH, bias ? bias + column0 : NULL, last, columns, map);
    else
        write_sums<1>(out, y.pitch, tile, SUM_PITCH, bias ? bias + column0 : NULL, last, columns, map);
}

template <typename T, int N>
static sv_status run_narrow(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, const sv_linear_weights *w,
                            sv_map map)
{
    const int bytes = 2 * (TILE + N) * SV_TILE_ROW_BYTES + 1024; /* tiles begin at multiples of 1024 */
    const dim3 grid((unsigned)(y.dim[0] + TILE - 1) / TILE, (unsigned)(padded(w->n) / N));
    return sv_launch_next(c, "linear", linear_narrow<T, N>, grid, LINEAR_THREADS, bytes, y, x,
                          (const int32_t *)index.data, (const T *)w->narrow, (const float *)w->bias.data,
                          w->k, map);
}

sv_status sv_cuda_linear(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, const sv_linear_weights *w,
                         sv_map map)
{
    if (y.dim[0] == 0 || w->n == 0) return SV_OK;
    const bool more = tile_outputs(w->n) == 128;
    if (w->narrow && c->precision == SV_BF16_MATH)
        return more ? run_narrow<__nv_bfloat16, 128>(c, y, x, index, w, map)
                    : run_narrow<__nv_bfloat16, 64>(c, y, x, index, w, map);
    if (w->narrow && c->precision != SV_FP32)
        return more ? run_narrow<__half, 128>(c, y, x, index, w, map)
                    : run_narrow<__half, 64>(c, y, x, index, w, map);
    const dim3 grid((unsigned)(y.dim[0] + TILE - 1) / TILE, (unsigned)(w->n + TILE - 1) / TILE);
    const int few_bytes = FEW_WARPS * FEW_SIDE * PITCH * (int)sizeof(float);
    if (grid.x * grid.y < FEW_BLOCKS && sv_cuda_block_bytes(c) >= few_bytes) {
        const dim3 small((unsigned)(y.dim[0] + FEW_SIDE - 1) / FEW_SIDE,
                         (unsigned)(w->n + FEW_SIDE - 1) / FEW_SIDE);
        SV_TRY(sv_cuda_reserve(c, "linear", linear_few, few_bytes));
        linear_few<<<small, FEW_WARPS * WARP, few_bytes, sv_cuda_stream(c)>>>(
            y, x, (const int32_t *)index.data, (const float4 *)w->packed, (const float *)w->bias.data, w->k,
            map);
        return SV_CUDA_LAUNCHED(c, "linear");
    }
    linear_wide<<<grid, LINEAR_THREADS, 0, sv_cuda_stream(c)>>>(
        y, x, (const int32_t *)index.data, (const float4 *)w->packed, (const float *)w->bias.data, w->k, map);
    return SV_CUDA_LAUNCHED(c, "linear");
}

/* ---- rows by warps: LayerNorm and means ---------------------------------------------------------------- */

/* The sum over the warp, in every lane. The pairing is fixed and symmetric, so that all lanes get the same
 * bits. */
static __device__ __forceinline__ float warp_sum(float value)
{
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

static __device__ __forceinline__ float row_sum(const float *row, int channels, int lane)
{
    float sum = 0;
    for (int i = lane; i < channels; i += WARP) sum += row[i];
    return warp_sum(sum);
}

/* A warp a row, of which a lane has numbers lane, lane + 32, ...: the first KEPT of them are read once. It reads and
 * writes its own numbers only, so y may be x or the residual. */
static __global__ void norm_kernel(sv_tensor y, sv_tensor x, const float *weight, const float *bias,
                                   float eps, sv_map map, sv_tensor residual)
{
    enum { KEPT = 4 };
    const int lane = threadIdx.x % WARP, channels = y.dim[1], rows = sv_rows(y),
              warps = SV_CUDA_THREADS / WARP;
    for (int row = (int)(blockIdx.x * warps + threadIdx.x / WARP); row < rows;
         row += (int)gridDim.x * warps) {
        const float *in = (const float *)x.data + (int64_t)row * x.pitch;
        float kept[KEPT], sum = 0, squares = 0;
#pragma unroll
        for (int k = 0; k < KEPT; k++) {
            kept[k] = lane + WARP * k < channels ? in[lane + WARP * k] : 0.0f;
            sum += kept[k];
        }
        for (int i = lane + WARP * KEPT; i < channels; i += WARP) sum += in[i];
        const float mean = warp_sum(sum) / (float)channels;
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (lane + WARP * k < channels) squares += (kept[k] - mean) * (kept[k] - mean);
        for (int i = lane + WARP * KEPT; i < channels; i += WARP) squares += (in[i] - mean) * (in[i] - mean);
        const float scale = 1.0f / sqrtf(warp_sum(squares) / (float)channels + eps);
        float *out = (float *)y.data + (int64_t)row * y.pitch;
        const float *add =
            residual.data ? (const float *)residual.data + (int64_t)row * residual.pitch : NULL;
        auto write = [&](int i, float value) {
            const float result = mapped(map, (value - mean) * scale * weight[i] + bias[i]);
            out[i] = add ? add[i] + result : result;
        };
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (lane + WARP * k < channels) write(lane + WARP * k, kept[k]);
        for (int i = lane + WARP * KEPT; i < channels; i += WARP) write(i, in[i]);
    }
}

sv_status sv_cuda_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor weight, sv_tensor bias, float eps,
                       sv_map map, sv_tensor residual)
{
    norm_kernel<<<sv_cuda_row_blocks(y.dim[0], WARP), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(
        y, x, (const float *)weight.data, (const float *)bias.data, eps, map, residual);
    return SV_CUDA_LAUNCHED(c, "norm");
}

static __global__ void row_mean_kernel(sv_tensor y, sv_tensor x)
{
    sv_wait_before();
    const int64_t row = sv_thread() / WARP;
    const int lane = threadIdx.x % WARP, channels = x.dim[1];
    if (row >= sv_rows(y)) return;
    const float sum = row_sum((const float *)x.data + row * x.pitch, channels, lane);
    if (lane == 0) ((float *)y.data)[row * y.pitch] = sum / (float)channels;
}

sv_status sv_cuda_row_mean(sv_ctx *c, sv_tensor y, sv_tensor x)
{
    return sv_launch_next(c, "row_mean", row_mean_kernel, dim3(sv_cuda_blocks((int64_t)y.dim[0] * WARP)),
                          SV_CUDA_THREADS, 0, y, x);
}
