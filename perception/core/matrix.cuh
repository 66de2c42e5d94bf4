/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of float32 matrices on tensor cores, for one warp: sums[16 MT x 8 NT] += A B' with A in shared
 * memory and B a weight, packed at load so that a lane reads what it needs as 16 bytes.
 *
 * PRODUCTS 3: each number is split into two TF32 numbers (22 bits of mantissa together) and multiplied as
 * low high, high low, high high, in this order. Tensor cores cut their sums off instead of rounding them, always towards
 * zero: a long sum would drift. So they add up eight columns only, small products first, and the rest is added as usual:
 * float32 accuracy. PRODUCTS 1: plain TF32, rounded to nearest. Half floats, with as many bits of mantissa, take half as
 * long (sv_matrix_multiply_half()).
 *
 * Packed weights [n,k]: for each 8 rows j and 16 columns s of W, 32 lanes of {W[r][c], W[r][c+4],
 * W[r][c+8], W[r][c+12]}, r = 8j + lane/4, c = 16s + lane%4; beyond n and k zeros.
 */
#ifndef SV_MATRIX_CUH
#define SV_MATRIX_CUH

#include "cuda.cuh"

#include <cuda_fp16.h>

enum { SV_MATRIX_K = 16, SV_MATRIX_N = 8 };

/* Steps of 16 along k. */
static inline __host__ __device__ int sv_matrix_steps(int k)
{
    return (k + SV_MATRIX_K - 1) / SV_MATRIX_K;
}
/* Floats of a packed weight. */
static inline __host__ __device__ size_t sv_matrix_floats(int n, int k)
{
    return (size_t)((n + SV_MATRIX_N - 1) / SV_MATRIX_N) * (size_t)sv_matrix_steps(k) * 128;
}
/* 'w' row-major with 'pitch' between rows and 'stride' between columns. */
static inline void sv_matrix_pack(float *out, const float *w, int n, int k, ptrdiff_t pitch, ptrdiff_t stride)
{
    const int rows = (n + SV_MATRIX_N - 1) / SV_MATRIX_N, steps = sv_matrix_steps(k);
    for (int j = 0; j < rows; j++)
        for (int s = 0; s < steps; s++)
            for (int lane = 0; lane < 32; lane++)
                for (int i = 0; i < 4; i++) {
                    const int row = 8 * j + lane / 4, column = 16 * s + lane % 4 + 4 * i;
                    *out++ = row < n && column < k ? w[row * pitch + column * stride] : 0.0f;
                }
}

#ifdef __CUDACC__

/* The nearest TF32 number, as the tensor cores take it. */
static __device__ __forceinline__ uint32_t sv_tf32(float x)
{
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(x));
    return bits;
}

static __device__ __forceinline__ void sv_mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                   uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* The same with 4 numbers along k. */
static __device__ __forceinline__ void sv_mma_tf32_k4(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b)
{
    asm("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, "
        "%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(b));
}

/* Two half floats, x in the low bits; the largest ones for what lies beyond. */
static __device__ __forceinline__ uint32_t sv_halves(float x, float y)
{
    uint32_t bits;
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;\n" : "=r"(bits) : "f"(y), "f"(x));
    return bits;
}

/* 16 rows by 4 numbers twice: r[0] row lane/4, column lane%4; r[1] 8 rows on; r[2] and r[3] 4 columns on.
 * 'address': of the row and columns that this lane names, rows 16-byte aligned. */
static __device__ __forceinline__ void sv_matrix_load(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/*
 * 'a': row 0 of the warp's rows; 'pitch' floats between rows, 4 more than a multiple of 32 so that no banks
 * collide. 'b': the packed weight at the warp's first 8 columns; 'b_step' 16-byte pieces from 8 columns to
 * the next. 'steps' of 16 along k. A thread's sums[m][n][2h + e] are row 16 m + lane/4 + 8 h, column 8 n +
 * 2 (lane%4) + e.
 */
template <int MT, int NT, int PRODUCTS>
static __device__ __forceinline__ void sv_matrix_multiply(float (&sums)[MT][NT][4], const float *a, int pitch,
                                                          const float4 *b, int b_step, int steps)
{
    const int lane = threadIdx.x % 32;
    uint32_t row = (uint32_t)__cvta_generic_to_shared(a + (lane % 16) * pitch + lane / 16 * 4);
    b += lane;
    float4 next[NT]; /* the step after this one is on its way */
#pragma unroll
    for (int n = 0; n < NT; n++) next[n] = b[n * b_step];
    for (int s = 0; s < steps; s++, row += 16 * sizeof(float)) {
        float4 weight[NT];
        b += 32;
#pragma unroll
        for (int n = 0; n < NT; n++) {
            weight[n] = next[n];
            if (s + 1 < steps) next[n] = b[n * b_step];
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t w_high[NT][2], w_low[NT][2];
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const float w = half ? (i ? weight[n].w : weight[n].z) : (i ? weight[n].y : weight[n].x);
                    w_high[n][i] = sv_tf32(w);
                    if (PRODUCTS > 1) w_low[n][i] = sv_tf32(w - __uint_as_float(w_high[n][i]));
                }
#pragma unroll
            for (int m = 0; m < MT; m++) {
                uint32_t high[4], low[4];
                sv_matrix_load(high, row + (uint32_t)(16 * m * pitch + 8 * half) * sizeof(float));
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float x = __uint_as_float(high[i]);
                    high[i] = sv_tf32(x);
                    if (PRODUCTS > 1) low[i] = sv_tf32(x - __uint_as_float(high[i]));
                }
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    if (PRODUCTS > 1) {
                        float part[4] = {};
                        sv_mma_tf32(part, low, w_high[n][0], w_high[n][1]);
                        sv_mma_tf32(part, high, w_low[n][0], w_low[n][1]);
                        sv_mma_tf32(part, high, w_high[n][0], w_high[n][1]);
#pragma unroll
                        for (int i = 0; i < 4; i++) sums[m][n][i] += part[i];
                    } else {
                        sv_mma_tf32(sums[m][n], high, w_high[n][0], w_high[n][1]);
                    }
                }
            }
        }
    }
}

static __device__ __forceinline__ void sv_mma_half(float (&d)[4], const uint32_t (&a)[4], uint2 b)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

/* A lane's halves of 8 rows and 16 columns: {W[r][2q], W[r][2q+1]}, {W[r][2q+8], W[r][2q+9]}, r = lane/4,
 * q = lane%4; 'packed': the same rows and columns as sv_matrix_pack() lays them. */
static __device__ __forceinline__ uint2 sv_matrix_halves(const float *packed, int lane)
{
    union {
        uint2 bits;
        __half at[4];
    } out;
    for (int i = 0; i < 4; i++) {
        const int column = lane % 4 * 2 + i % 2 + i / 2 * 8;
        out.at[i] = __float2half_rn(packed[(lane / 4 * 4 + column % 4) * 4 + column / 4]);
    }
    return out.bits;
}

/* As sv_matrix_multiply() with half floats for both, one product: rows of A lie 'pitch' apart, 8 more than a
 * multiple of 64; 'b' is of sv_matrix_halves(), STEPS pieces for each 8 columns. */
template <int MT, int NT, int STEPS>
static __device__ __forceinline__ void sv_matrix_multiply_half(float (&sums)[MT][NT][4], const __half *a,
                                                               int pitch, const uint2 *b)
{
    enum { AHEAD = STEPS < 2 ? STEPS : 2 }; /* steps whose weights are on their way */
    const int lane = threadIdx.x % 32;
    const uint32_t row = (uint32_t)__cvta_generic_to_shared(a + (lane % 16) * pitch + lane / 16 * 8);
    uint2 next[AHEAD][NT];
    b += lane;
#pragma unroll
    for (int s = 0; s < AHEAD; s++)
#pragma unroll
        for (int n = 0; n < NT; n++) next[s][n] = b[(n * STEPS + s) * 32];
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        uint2 weight[NT];
#pragma unroll
        for (int n = 0; n < NT; n++) {
            weight[n] = next[s % AHEAD][n];
            if (s + AHEAD < STEPS) next[s % AHEAD][n] = b[(n * STEPS + s + AHEAD) * 32];
        }
#pragma unroll
        for (int m = 0; m < MT; m++) {
            uint32_t part[4];
            sv_matrix_load(part, row + (uint32_t)(16 * m * pitch + 16 * s) * sizeof(__half));
#pragma unroll
            for (int n = 0; n < NT; n++) sv_mma_half(sums[m][n], part, weight[n]);
        }
    }
}

/* f(row, column, two sums side by side) for each pair of a thread's sums. */
template <int MT, int NT, typename F>
static __device__ __forceinline__ void sv_matrix_each(const float (&sums)[MT][NT][4], F f)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                f(16 * m + lane / 4 + 8 * h, 8 * n + lane % 4 * 2, sums[m][n][2 * h], sums[m][n][2 * h + 1]);
}

#endif
#endif
