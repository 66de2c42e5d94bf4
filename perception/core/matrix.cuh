/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of float32 matrices on tensor cores, for one warp: sums[16 MT x 8 NT] += A B' with A in shared
 * memory and B a weight, packed at load so that a lane reads what it needs as 16 bytes.
 *
 * PRODUCTS 3: each number is split into two TF32 numbers (22 bits of mantissa together) and multiplied as
 * low high, high low, high high, in this order. Tensor cores cut their sums off instead of rounding them, always towards
 * zero: a long sum would drift. So they add up eight columns only, small products first, and the rest is added as usual:
 * float32 accuracy. PRODUCTS 1: plain TF32, rounded to nearest.
 *
 * Packed weights [n,k]: for each 8 rows j and 16 columns s of W, 32 lanes of {W[r][c], W[r][c+4],
 * W[r][c+8], W[r][c+12]}, r = 8j + lane/4, c = 16s + lane%4; beyond n and k zeros.
 */
#ifndef SV_MATRIX_CUH
#define SV_MATRIX_CUH

#include "cuda.cuh"

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
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
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
    const float *row = a + (lane / 4) * pitch + lane % 4;
    b += lane;
    float4 next[NT]; /* the step after this one is on its way */
#pragma unroll
    for (int n = 0; n < NT; n++) next[n] = b[n * b_step];
    for (int s = 0; s < steps; s++, row += 16) {
        float4 weight[NT];
        b += 32;
#pragma unroll
        for (int n = 0; n < NT; n++) {
            weight[n] = next[n];
            if (s + 1 < steps) next[n] = b[n * b_step];
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t high[MT][4], low[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float x = row[(16 * m + i % 2 * 8) * pitch + 8 * half + i / 2 * 4];
                    high[m][i] = sv_tf32(x);
                    if (PRODUCTS > 1) low[m][i] = sv_tf32(x - __uint_as_float(high[m][i]));
                }
#pragma unroll
            for (int n = 0; n < NT; n++) {
                const float w0 = half ? weight[n].z : weight[n].x, w1 = half ? weight[n].w : weight[n].y;
                const uint32_t h0 = sv_tf32(w0), h1 = sv_tf32(w1);
                if (PRODUCTS > 1) {
                    const uint32_t l0 = sv_tf32(w0 - __uint_as_float(h0)),
                                   l1 = sv_tf32(w1 - __uint_as_float(h1));
#pragma unroll
                    for (int m = 0; m < MT; m++) {
                        float part[4] = {};
                        sv_mma_tf32(part, low[m], h0, h1);
                        sv_mma_tf32(part, high[m], l0, l1);
                        sv_mma_tf32(part, high[m], h0, h1);
#pragma unroll
                        for (int i = 0; i < 4; i++) sums[m][n][i] += part[i];
                    }
                } else {
#pragma unroll
                    for (int m = 0; m < MT; m++) sv_mma_tf32(sums[m][n], high[m], h0, h1);
                }
            }
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
