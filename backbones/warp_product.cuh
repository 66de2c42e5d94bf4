/* SPDX-License-Identifier: Apache-2.0
 *
 * What the operators that are a few kernels share: products of rows in shared memory with weights that
 * sv_linear_prepare() made, and launches that begin early.
 *
 * Rows are of type T: float, multiplied as three TF32 products (perception/core/matrix.cuh), or __half and
 * __nv_bfloat16, multiplied as they are. A warp reads 16-bit weights from the tiles of
 * perception/core/tile.cuh; since sums over k may be taken in any order, lane q of four has the eight numbers
 * k = 8q.. of both operands at once:
 *
 *     k        0..7    8..15   16..23  24..31       one 16-byte load each for a row of A and for a row of W
 *     lane%4     0       1        2       3         its halves are the operands of two m16n8k16 products
 */
#ifndef SV_WARP_PRODUCT_CUH
#define SV_WARP_PRODUCT_CUH

#include "backbones/sequence.cuh"
#include "perception/core/launch.cuh"
#include "perception/core/matrix.cuh"
#include "perception/core/tile.cuh"

/* A weight in the layout that rows of type T are multiplied by. */
template <typename T> static inline const void *sv_factor(const sv_linear_weights &w)
{
    return sizeof(T) == sizeof(float) ? w.packed : w.narrow;
}

#ifdef __CUDACC__

/* ---- numbers ------------------------------------------------------------------------------------------- */

/* 2^x to two units in the last place; 0 where the result is denormal. */
static __device__ __forceinline__ float sv_power(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}
static __device__ __forceinline__ float sv_fast_exp(float x)
{
    return sv_power(1.44269504088896341f * x);
}
/* 1 / (1 + e^-x) to a few units in the last place. */
static __device__ __forceinline__ float sv_fast_sigmoid(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(1.0f + sv_fast_exp(-x)));
    return y;
}

/* How numbers are kept between kernels: floats where rows are, else half floats. */
template <typename T> struct sv_kept {
    using type = __half;
};
template <> struct sv_kept<float> {
    using type = float;
};

/* The sum over 'lanes' neighbouring lanes, in all of them. The pairing is fixed, so that all get the same bits. */
template <int lanes> static __device__ __forceinline__ float sv_sum_of(float value)
{
#pragma unroll
    for (int d = lanes / 2; d > 0; d /= 2) value += __shfl_xor_sync(0xffffffffu, value, d);
    return value;
}

/* Rows of 'k' numbers in shared memory lie this far apart, so that no banks collide; k is a multiple of 32. */
template <typename T> static constexpr __host__ __device__ int sv_row_pitch(int k)
{
    return sizeof(T) == sizeof(float) ? k + 4 : k % 64 == 0 ? k + 32 : k;
}

static __device__ __forceinline__ void sv_put(float *to, float a, float b)
{
    *(float2 *)to = make_float2(a, b);
}
static __device__ __forceinline__ void sv_put(__half *to, float a, float b)
{
    *(uint32_t *)to = sv_halves(a, b);
}
static __device__ __forceinline__ void sv_put(__nv_bfloat16 *to, float a, float b)
{
    *(__nv_bfloat162 *)to = __floats2bfloat162_rn(a, b);
}
static __device__ __forceinline__ float2 sv_get(const float *from)
{
    return *(const float2 *)from;
}
static __device__ __forceinline__ float2 sv_get(const __half *from)
{
    return __half22float2(*(const __half2 *)from);
}
/* Four numbers. */
static __device__ __forceinline__ float4 sv_get4(const float *from)
{
    return *(const float4 *)from;
}
static __device__ __forceinline__ float4 sv_get4(const __half *from)
{
    const uint2 bits = *(const uint2 *)from;
    const float2 low = __half22float2(*(const __half2 *)&bits.x),
                 high = __half22float2(*(const __half2 *)&bits.y);
    return make_float4(low.x, low.y, high.x, high.y);
}

/* ---- products ------------------------------------------------------------------------------------------ */

template <typename T>
static __device__ __forceinline__ void sv_mma_16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                 uint32_t a3, uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void sv_mma_16<__half>(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                  uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void sv_mma_16<__nv_bfloat16>(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                         uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* 16-bit rows by a weight of N outputs and K inputs, from output 'column0' on. */
template <int N, int K, int MT, int NT, typename T>
static __device__ __forceinline__ void sv_multiply_narrow(float (&sums)[MT][NT][4], const T *a, int pitch,
                                                          const T *weight, int column0)
{
    constexpr int PADDED = (N + 63) / 64 * 64, TILE = PADDED % 128 == 0 ? 128 : 64, SLABS = (K + 63) / 64,
                  STEPS = K / 32, MOST = 8 / NT, AHEAD = STEPS < MOST ? STEPS : MOST;
    const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const T *row = a + g * pitch + 8 * q;
    const uint4 *from[NT];
#pragma unroll
    for (int n = 0; n < NT; n++) {
        const int column = column0 + 8 * n;
        from[n] = (const uint4 *)(weight +
                                  ((int64_t)(column / TILE) * SLABS * TILE + column % TILE + g) * SV_TILE_K);
    }
    auto load = [&](int n, int step) {
        return __ldg(from[n] + (step / 2) * (TILE * SV_TILE_K / 8) + ((step % 2 * 4 + q) ^ g));
    };
    uint4 next[AHEAD][NT]; /* the next steps are on their way */
#pragma unroll
    for (int s = 0; s < AHEAD; s++)
#pragma unroll
        for (int n = 0; n < NT; n++) next[s][n] = load(n, s);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        uint4 b[NT];
#pragma unroll
        for (int n = 0; n < NT; n++) {
            b[n] = next[s % AHEAD][n];
            if (s + AHEAD < STEPS) next[s % AHEAD][n] = load(n, s + AHEAD);
        }
#pragma unroll
        for (int m = 0; m < MT; m++) {
            const uint4 high = *(const uint4 *)(row + 16 * m * pitch + 32 * s),
                        low = *(const uint4 *)(row + (16 * m + 8) * pitch + 32 * s);
#pragma unroll
            for (int n = 0; n < NT; n++)
                sv_mma_16<T>(sums[m][n], high.x, low.x, high.y, low.y, b[n].x, b[n].y);
#pragma unroll
            for (int n = 0; n < NT; n++)
                sv_mma_16<T>(sums[m][n], high.z, low.z, high.w, low.w, b[n].z, b[n].w);
        }
    }
}

/*
 * sums += the warp's rows 'a' times the weight's outputs column0 .. column0 + 8 NT - 1; 'weight' is sv_factor<T>() of N outputs and
 * K inputs, K a multiple of 32. sv_matrix_each() visits the sums.
 */
template <int N, int K, int MT, int NT, typename T>
static __device__ __forceinline__ void sv_warp_product(float (&sums)[MT][NT][4], const T *a,
                                                       const void *weight, int column0, int pitch)
{
    sv_multiply_narrow<N, K, MT, NT, T>(sums, a, pitch, (const T *)weight, column0);
}
template <int N, int K, int MT, int NT>
static __device__ __forceinline__ void sv_warp_product(float (&sums)[MT][NT][4], const float *a,
                                                       const void *weight, int column0, int pitch)
{
    constexpr int STEPS = K / SV_MATRIX_K, SLAB = STEPS < 4 ? STEPS : 4;
    const float4 *b = (const float4 *)weight + (int64_t)column0 / 8 * STEPS * 32;
    for (int s = 0; s < STEPS; s += SLAB) { /* tensor cores cut long sums off: a slab's is added here */
        float part[MT][NT][4] = {};
        sv_matrix_multiply<MT, NT, 3>(part, a + s * SV_MATRIX_K, pitch, b + s * 32, STEPS * 32, SLAB);
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) sums[m][n][i] += part[m][n][i];
    }
}

/* Sums of pairs of neighbouring tiles of eight columns to rows 'pitch' numbers apart in device memory: pieces of 32 bytes. */
template <int MT, int NT>
static __device__ __forceinline__ void sv_keep_sums(__half *to, int64_t pitch, const float (&sums)[MT][NT][4])
{
    static_assert(NT % 2 == 0, "tiles in pairs");
    const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const bool odd = q % 2;
    to += g * pitch + q % 2 * 8 + q / 2 * 4;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int n = 0; n < NT;
                 n += 2) { /* an even lane takes four columns of the first tile, an odd one of the second */
                const uint32_t first = sv_halves(sums[m][n][2 * h], sums[m][n][2 * h + 1]),
                               second = sv_halves(sums[m][n + 1][2 * h], sums[m][n + 1][2 * h + 1]);
                const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? first : second, 1);
                *(uint2 *)(to + (16 * m + 8 * h) * pitch + 8 * n) =
                    make_uint2(odd ? other : first, odd ? second : other);
            }
}
template <int MT, int NT>
static __device__ __forceinline__ void sv_keep_sums(float *to, int64_t pitch, const float (&sums)[MT][NT][4])
{
    sv_matrix_each(sums,
                   [&](int row, int column, float a, float b) { sv_put(to + row * pitch + column, a, b); });
}

/* d += a b of TF32 numbers, or of float32 numbers split in two. */
template <bool exact>
static __device__ __forceinline__ void sv_mma_float(float (&d)[4], const float (&a)[4], float b0, float b1)
{
    uint32_t high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        high[i] = sv_tf32(a[i]);
        low[i] = exact ? sv_tf32(a[i] - __uint_as_float(high[i])) : 0;
    }
    const uint32_t h0 = sv_tf32(b0), h1 = sv_tf32(b1);
    if (exact) {
        sv_mma_tf32(d, low, h0, h1);
        sv_mma_tf32(d, high, sv_tf32(b0 - __uint_as_float(h0)), sv_tf32(b1 - __uint_as_float(h1)));
    }
    sv_mma_tf32(d, high, h0, h1);
}

#endif
#endif
