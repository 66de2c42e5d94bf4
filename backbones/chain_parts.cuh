/* SPDX-License-Identifier: Apache-2.0
 *
 * What a step of a chain writes (chain.cu): its parts, from sums to numbers of the maps, and the copies of the response to an
 * empty map around the tiles that are computed.
 */
#ifndef SV_CHAIN_PARTS_CUH
#define SV_CHAIN_PARTS_CUH

#include "chain_lists.cuh"
#include "perception/core/tile.cuh"

#include <type_traits>

namespace {

enum { THREADS = 256, MOST_KERNEL = 16 };
constexpr uint32_t MOST_KERNEL_BIT = 1u << MOST_KERNEL;

struct part_job {
    void *store; /* [batch][cells][planes][pitch] or, of sums, [batch][cells][pitch]; NULL: nobody reads it */
    const void *add;   /* of the same layouts; NULL: none. May be 'store' itself */
    const void *empty; /* NULL with a whole run */
    const float *empty_dense;
    float *dense; /* the caller's map; NULL: not wanted */
    const int32_t *ring;
    int pitch, add_pitch, dense_pitch, empty_pitch;
    int out_first, dense_first, channels, column;
    sv_plan_axis y, x;         /* of the slot written */
    bool relu, sums, add_sums; /* sums: float32 */
};

struct conv_job {
    const void *in, *w;
    const float *bias, *scale;
    const int32_t *live; /* list of the tiles of work */
    int in_height, in_width, in_channels, in_pitch;
    int work_height, work_width, work_tiles_x, work_tiles; /* of one sample */
    int kernel, stride, pad, taps, slabs, n_tiles, phases, up;
    int parts;
    part_job part[SV_PLAN_PARTS];
};

__device__ __forceinline__ int small_cell(const sv_plan_axis &a, int cell)
{
    if (cell < a.first) return cell;
    return cell < a.first + a.period + a.removed ? a.first + (cell - a.first) % a.period : cell - a.removed;
}

/* A line of a tile: of which cells of a part's maps, and of the small map that the response to an empty map lies on. */
struct tile_line {
    int64_t to, from;
    int x, cells;
};
__device__ __forceinline__ tile_line find_line(const part_job &p, int tile, int line)
{
    const int tiles_x = (p.x.size + TILE_X - 1) / TILE_X, count = (p.y.size + TILE_Y - 1) / TILE_Y * tiles_x;
    const int sample = tile / count, place = tile - sample * count;
    const int y = place / tiles_x * TILE_Y + line, x = place % tiles_x * TILE_X;
    return {((int64_t)sample * p.y.size + y) * p.x.size + x, (int64_t)small_cell(p.y, y) * p.x.small, x,
            y < p.y.size ? min(TILE_X, p.x.size - x) : 0};
}

/* A warp copies 'units' pieces of every cell of a line: to[cell * to_pitch + piece] = read(small cell, piece). A lane knows
 * where a cell is copied from. */
template <typename V, typename F>
__device__ __forceinline__ void copy_line(const part_job &p, const tile_line &line, V *to, int to_pitch,
                                          int units, F read)
{
    constexpr int AT_ONCE = 4;
    const int lane = threadIdx.x % 32, count = line.cells * units;
    const int source = small_cell(p.x, line.x + min(lane, TILE_X - 1));
    const uint32_t inverse = 0xffffffffu / units + 1; /* of 2^32; units > 1 or one cell after the other */
#pragma unroll 1 /* short code: instructions come from a small cache */
    for (int first = lane; first - lane < count; first += 32 * AT_ONCE) {
        V values[AT_ONCE];
        int cell[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            const int item = first + 32 * k;
            cell[k] = units > 1 ? (int)__umulhi(item, inverse) : item;
            const int from = __shfl_sync(0xffffffffu, source, cell[k] & 31);
            if (item < count) values[k] = read(line.from + from, item - cell[k] * units);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            const int item = first + 32 * k;
            if (item < count) to[(line.to + cell[k]) * to_pitch + item - cell[k] * units] = values[k];
        }
    }
}
template <typename V>
__device__ __forceinline__ void copy_line(const part_job &p, const tile_line &line, V *to, int to_pitch,
                                          const V *from, int from_pitch, int units)
{
    copy_line(p, line, to, to_pitch, units,
              [=](int64_t cell, int piece) { return from[cell * from_pitch + piece]; });
}

/* Copies a line of the response to an empty map. */
template <typename T, int PLANES>
__device__ __forceinline__ void fill_line(const part_job &p, const tile_line &line)
{
    if (PLANES > 1 && p.store && p.sums) {
        copy_line(p, line, (float *)p.store + p.out_first, p.pitch, (const float *)p.empty + p.out_first,
                  p.pitch, p.channels);
    } else if (p.store) {
#pragma unroll 1
        for (int plane = 0; plane < PLANES; plane++) {
            T *to = (T *)p.store + plane * p.pitch + p.out_first;
            const T *from = (const T *)p.empty + plane * p.pitch + p.out_first;
            if (p.channels % 8 == 0 && p.out_first % 8 == 0) /* a pitch is a multiple of eight */
                copy_line(p, line, (uint4 *)to, PLANES * p.pitch / 8, (const uint4 *)from,
                          PLANES * p.pitch / 8, p.channels / 8);
            else
                copy_line(p, line, to, PLANES * p.pitch, from, PLANES * p.pitch, p.channels);
        }
    }
    if (!p.dense) return;
    float *to = p.dense + p.dense_first;
    const float *from = p.empty_dense + p.out_first;
    if (!p.empty_dense)
        copy_line(p, line, to, p.dense_pitch, p.channels, [&](int64_t cell, int piece) {
            const T *empty = (const T *)p.empty + cell * PLANES * p.pitch + p.out_first + piece;
            return PLANES > 1 ? sv_widen(empty[0]) + sv_widen(empty[p.pitch]) : sv_widen(empty[0]);
        });
    else if ((p.dense_pitch | p.dense_first | p.empty_pitch | p.out_first | p.channels) % 2 == 0)
        copy_line(p, line, (float2 *)to, p.dense_pitch / 2, (const float2 *)from, p.empty_pitch / 2,
                  p.channels / 2);
    else
        copy_line(p, line, to, p.dense_pitch, from, p.empty_pitch, p.channels);
}

/* The block's share of the ring tiles of all parts. Warps take a line each as soon as they are free; 'next' in shared memory
 * counts the lines taken. */
template <typename T, int PLANES> __device__ __forceinline__ void fill_ring(const conv_job &job, int *next)
{
    const int first = blockIdx.x, step = gridDim.x;
    for (int q = -1, before = 0, lines = 0;;) {
        int item = 0;
        if (threadIdx.x % 32 == 0) item = atomicAdd(next, 1);
        item = __shfl_sync(0xffffffffu, item, 0);
        while (item >= before + lines) {
            if (++q == job.parts) return;
            const int ring = job.part[q].ring ? job.part[q].ring[1] : 0;
            before += lines;
            lines = ring > first ? ((ring - first - 1) / step + 1) * TILE_Y : 0;
        }
        const part_job &p = job.part[q];
        const int line = item - before;
        const int tile = ring_tile(p.ring, first + line / TILE_Y * step);
        fill_line<T, PLANES>(p, find_line(p, tile, line % TILE_Y));
    }
}

/* COUNT numbers, one or eight, as vectors of sixteen bytes where there are eight. */
template <int COUNT, typename V> __device__ __forceinline__ void load_numbers(V *to, const V *from)
{
    if constexpr (COUNT == 1)
        to[0] = from[0];
    else
#pragma unroll
        for (int i = 0; i < COUNT * (int)sizeof(V) / 16; i++) ((uint4 *)to)[i] = ((const uint4 *)from)[i];
}
__device__ __forceinline__ void store_numbers(float *to, const float (&from)[8])
{
    ((float4 *)to)[0] = make_float4(from[0], from[1], from[2], from[3]);
    ((float4 *)to)[1] = make_float4(from[4], from[5], from[6], from[7]);
}
__device__ __forceinline__ void store_numbers(float *to, const float (&from)[1])
{
    to[0] = from[0];
}

/* Two numbers narrowed by one instruction, the first in the low half; as sv_narrow() does it. */
template <typename T> __device__ __forceinline__ uint32_t narrow_two(float a, float b);
template <> __device__ __forceinline__ uint32_t narrow_two<__nv_bfloat16>(float a, float b)
{
    uint32_t both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(both) : "f"(b), "f"(a));
    return both;
}
template <> __device__ __forceinline__ uint32_t narrow_two<__half>(float a, float b)
{
    uint32_t both;
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;\n" : "=r"(both) : "f"(b), "f"(a));
    return both;
}
/* The greater of two numbers each; not a number is passed on. */
template <typename T> __device__ __forceinline__ uint32_t greater_two(uint32_t a, uint32_t b);
template <> __device__ __forceinline__ uint32_t greater_two<__nv_bfloat16>(uint32_t a, uint32_t b)
{
    uint32_t both;
    asm("max.NaN.bf16x2 %0, %1, %2;\n" : "=r"(both) : "r"(a), "r"(b));
    return both;
}
template <> __device__ __forceinline__ uint32_t greater_two<__half>(uint32_t a, uint32_t b)
{
    uint32_t both;
    asm("max.NaN.f16x2 %0, %1, %2;\n" : "=r"(both) : "r"(a), "r"(b));
    return both;
}
/* The least numbers that a map may hold, twice: zero behind a ReLU, or minus infinity. */
template <typename T> __device__ __forceinline__ uint32_t least_two(bool relu)
{
    return relu ? 0 : std::is_same<T, __half>::value ? 0xfc00fc00u : 0xff80ff80u;
}
template <typename T> __device__ __forceinline__ float widen_low(uint32_t both)
{
    const uint16_t bits = (uint16_t)both;
    return sv_widen(*(const T *)&bits);
}

/* The compiler would make four stores of an array of small numbers, each of a part of a sector. */
__device__ __forceinline__ void store_vector(void *to, const uint32_t (&words)[4])
{
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"l"(to), "r"(words[0]), "r"(words[1]),
                 "r"(words[2]), "r"(words[3])
                 : "memory");
}

/* Numbers to a cell as maps hold them, in one or two planes; 'value' becomes what the next layer sees. */
template <typename T, int PLANES>
__device__ __forceinline__ void store_narrow(T *to, int pitch, float (&value)[8])
{
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        high[i] = narrow_two<T>(value[2 * i], value[2 * i + 1]);
        float even = widen_low<T>(high[i]), odd = widen_low<T>(high[i] >> 16);
        if (PLANES > 1) {
            low[i] = narrow_two<T>(value[2 * i] - even, value[2 * i + 1] - odd);
            even += widen_low<T>(low[i]);
            odd += widen_low<T>(low[i] >> 16);
        }
        value[2 * i] = even;
        value[2 * i + 1] = odd;
    }
    store_vector(to, high);
    if (PLANES > 1) store_vector(to + pitch, low);
}
template <typename T, int PLANES>
__device__ __forceinline__ void store_narrow(T *to, int pitch, float (&value)[1])
{
    const T high = sv_narrow<T>(value[0]);
    to[0] = high;
    if (PLANES > 1) {
        const T low = sv_narrow<T>(value[0] - sv_widen(high));
        to[pitch] = low;
        value[0] = sv_widen(high) + sv_widen(low);
    } else {
        value[0] = sv_widen(high);
    }
}

/* What a part adds to its sums, as it lies in memory: to be read before it is needed. */
template <typename T, int PLANES, int COUNT> struct addend {
    __align__(16) T high[COUNT], low[COUNT];
    __align__(16) float sums[COUNT];
    __device__ __forceinline__ void read(const part_job &p, int64_t cell, int channel)
    {
        if (!p.add) return;
        if (PLANES > 1 && p.add_sums) { /* with one plane nothing is split, and there are no sums */
            load_numbers<COUNT>(sums, (const float *)p.add + cell * p.add_pitch + channel);
        } else {
            const T *from = (const T *)p.add + cell * PLANES * p.add_pitch + channel;
            load_numbers<COUNT>(high, from);
            if (PLANES > 1) load_numbers<COUNT>(low, from + p.add_pitch);
        }
    }
    __device__ __forceinline__ void add_to(const part_job &p, float (&value)[COUNT]) const
    {
        if (!p.add) return;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            if (PLANES > 1 && p.add_sums) {
                value[i] += sums[i];
                continue;
            }
            value[i] += sv_widen(high[i]);
            if (PLANES > 1) value[i] += sv_widen(low[i]);
        }
    }
};

/* The rules of two columns as they lie in shared memory. */
struct __align__(16) column_rule {
    float scale[2], bias[2];
};

/* What turns the sums of some columns into numbers. */
template <int COUNT> struct scaling {
    __align__(16) float scale[COUNT], bias[COUNT];
    __device__ __forceinline__ scaling(const conv_job &job, int column)
    {
        load_numbers<COUNT>(scale, job.scale + column);
        load_numbers<COUNT>(bias, job.bias + column);
    }
    __device__ __forceinline__ scaling(const column_rule *rules, int column)
    {
        if constexpr (COUNT == 1) {
            scale[0] = rules[column / 2].scale[column % 2];
            bias[0] = rules[column / 2].bias[column % 2];
        } else {
#pragma unroll
            for (int i = 0; i < COUNT; i += 2) {
                const column_rule two = rules[(column + i) / 2];
                scale[i] = two.scale[0], scale[i + 1] = two.scale[1];
                bias[i] = two.bias[0], bias[i + 1] = two.bias[1];
            }
        }
    }
};

/* One number or eight at once from the sums to a part's maps. */
template <typename T, int PLANES, int COUNT>
__device__ __forceinline__ void put(const part_job &p, const float *sums, const scaling<COUNT> &rule,
                                    const addend<T, PLANES, COUNT> &added, int64_t cell, int channel)
{
    __align__(16) float value[COUNT];
    load_numbers<COUNT>(value, sums);
#pragma unroll
    for (int i = 0; i < COUNT; i++) value[i] = fmaf(value[i], rule.scale[i], rule.bias[i]);
    added.add_to(p, value);
    if (p.relu) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) value[i] = 0.0f > value[i] ? 0.0f : value[i]; /* passes NaN on */
    }
    if (PLANES > 1 && p.store && p.sums)
        store_numbers((float *)p.store + cell * p.pitch + p.out_first + channel, value);
    else if (p.store)
        store_narrow<T, PLANES>((T *)p.store + cell * PLANES * p.pitch + p.out_first + channel, p.pitch,
                                value);
    if (!p.dense) return;
    float *out = p.dense + cell * p.dense_pitch + p.dense_first + channel;
    if ((p.dense_pitch | p.dense_first) % 4 == 0)
        store_numbers(out, value);
    else
#pragma unroll
        for (int i = 0; i < COUNT; i++) out[i] = value[i];
}

template <typename T, int PLANES, int COUNT>
__device__ __forceinline__ void put_at(const conv_job &job, const part_job &p, const float *sums,
                                       int64_t cell, int column)
{
    addend<T, PLANES, COUNT> added;
    added.read(p, cell, column - p.column);
    put<T, PLANES, COUNT>(p, sums, scaling<COUNT>(job, column), added, cell, column - p.column);
}

} // namespace

#endif
