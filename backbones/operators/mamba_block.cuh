/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kernels of a Mamba block share (mamba.cu): the job, how numbers are kept between the kernels, and
 * fast functions.
 */
#ifndef SV_MAMBA_BLOCK_CUH
#define SV_MAMBA_BLOCK_CUH

#include "backbones/sequence.cuh"
#include "perception/core/launch.cuh"
#include "perception/core/maps.cuh"
#include "perception/core/matrix.cuh"

#include <cuda_fp16.h>

namespace {

enum {
    HISTORY = 3, /* tokens that the convolution looks back */
    STATES = 16,
    MOST_RANK = 8,
    WIDE = 2 * STATES + MOST_RANK, /* B, C, dt of a token */
    WIDE_PITCH = WIDE + 4,
    TILE = 32,              /* tokens that lie together in what is kept */
    OCTET = 8 * 2 * STATES, /* B and C of eight tokens: B [STATES][8], C [2][8][STATES / 2] */
    CUT_GROUPS = 64,
};

/* Tokens of a chunk: few where blocks are small, so that they fill the GPU, and where numbers are long. */
constexpr int chunk_of(int channels, int products)
{
    return channels <= 64 || products > 1 ? 32 : 64;
}
/* Threads of 1 and 3 that a multiprocessor must hold: enough that all chunks of a small model run at once. */
constexpr int resident_threads(int channels, int products)
{
    return channels > 64 ? 512 : products > 1 ? 768 : 1024;
}

/* What is kept of a token and channel: v and delta from 1 to 2, y, in v's place, from 2 to 3. */
template <int PRODUCTS> struct kept;
template <> struct kept<3> {
    using number = float;
    using two = float2;
    enum { ALIGN = 4 }; /* that rows are longer than a multiple of 32 banks, in numbers */
    static __device__ __forceinline__ float2 pair(float x, float y) { return make_float2(x, y); }
    static __device__ __forceinline__ float narrow(float x) { return x; }
    static __device__ __forceinline__ float widen(float x) { return x; }
    static __device__ __forceinline__ float2 widen(float2 x) { return x; }
};
template <> struct kept<1> {
    using number = __half;
    using two = __half2;
    enum { ALIGN = 8 };
    static __device__ __forceinline__ __half2 pair(float x, float y)
    {
        const uint32_t bits = sv_halves(x, y);
        return *(const __half2 *)&bits;
    }
    static __device__ __forceinline__ __half narrow(float x) { return __low2half(pair(x, 0.0f)); }
    static __device__ __forceinline__ float widen(__half x) { return __half2float(x); }
    static __device__ __forceinline__ float2 widen(__half2 x) { return __half22float2(x); }
};

/* 16 bytes of numbers, which may be written two at a time. */
template <int PRODUCTS> union piece {
    enum { COUNT = 16 / sizeof(typename kept<PRODUCTS>::number) };
    uint4 bits;
    typename kept<PRODUCTS>::number at[COUNT];
    typename kept<PRODUCTS>::two pairs[COUNT / 2];
    __device__ __forceinline__ piece() {}
};

struct weights {
    const float *conv_weight, *conv_bias, *dt_weight, *dt_bias, *a, *d;
    const void *x_proj;
};

/* How the groups of a sample are walked: these whole, all others in segments of 'tiles' (mamba_cut.cuh). */
struct cut {
    uint16_t whole, segments, tiles;
};

struct block_job {
    sv_tensor x, y, slots; /* slots: slot -> row, with offsets */
    const int32_t *row_slot;
    const void *in_proj, *out_proj; /* packed: floats for 3 products, else halves */
    weights direction[2];
    const float *norm_weight, *norm_bias;
    void *pairs;          /* [2][tiles] tiles of v and delta; from 2 on y lies where v was */
    float *ends, *sums;   /* of segments: [samples][most_pieces][2] of [2 C][STATES], [2 C] */
    float *wide;          /* [2][tiles] tiles of B and C */
    int64_t tiles;        /* capacity; in walking order within a group */
    int32_t length, rank; /* 'length': tokens of a group */
    float eps;
    int32_t most_pieces;  /* segments of a sample but for the last of each group */
    cut cuts[CUT_GROUPS]; /* for as many groups a sample; those of more are walked whole */
};

/* Slots that are used, whole groups. */
__device__ __forceinline__ int live_slots(const block_job &job)
{
    return min(job.slots.offsets[job.slots.batch], job.slots.dim[0]);
}

/* 2^x to two units in the last place; 0 where the result is denormal. */
__device__ __forceinline__ float power(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/* 1 / (1 + e^-x) to a few units in the last place. */
__device__ __forceinline__ float fast_sigmoid(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(1.0f + power(-1.44269504088896341f * x)));
    return y;
}

/* log(1 + e^x); 'exact' to a few units in the last place, else to 2^-23. */
template <bool exact> __device__ __forceinline__ float softplus(float x)
{
    if (exact) return m_softplus(x);
    float log2;
    asm("lg2.approx.ftz.f32 %0, %1;\n" : "=f"(log2) : "f"(1.0f + power(1.44269504088896341f * x)));
    return x > 20.0f ? x : log2 * 0.693147180559945309f;
}

/* A factor of a product on tensor cores: TF32 to nearest, or two of them that make up 22 bits. */
template <int PRODUCTS> struct split {
    uint32_t high, low;
    __device__ __forceinline__ split() {}
    __device__ __forceinline__ explicit split(float x)
    {
        if (PRODUCTS > 1) {
            high = __float_as_uint(x) & 0xffffe000u;
            low = __float_as_uint(x - __uint_as_float(high));
        } else {
            high = __float_as_uint(x) + 0x1000u; /* what lies below is not read */
            low = 0;
        }
    }
    /* this where all bits are set, or zero */
    __device__ __forceinline__ split only(uint32_t here) const
    {
        split out;
        out.high = high & here;
        out.low = low & here;
        return out;
    }
};

/* sums += a W', W's rows from 8 FIRST on; packed for as many products. */
template <int MT, int NT, int STEPS>
__device__ __forceinline__ void multiply(float (&sums)[MT][NT][4], const float *a, int pitch,
                                         const void *weight, int first)
{
    sv_matrix_multiply<MT, NT, 3>(sums, a, pitch, (const float4 *)weight + first * STEPS * 32, STEPS * 32,
                                  STEPS);
}
template <int MT, int NT, int STEPS>
__device__ __forceinline__ void multiply(float (&sums)[MT][NT][4], const __half *a, int pitch,
                                         const void *weight, int first)
{
    sv_matrix_multiply_half<MT, NT, STEPS>(sums, a, pitch, (const uint2 *)weight + first * STEPS * 32);
}

} // namespace

#endif
