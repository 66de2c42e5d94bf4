/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kernels of an RWKV-6 block (rwkv.cu) share: their argument, the shapes of a width, norms and activations.
 */
#ifndef SV_RWKV_JOB_CUH
#define SV_RWKV_JOB_CUH

#include "backbones/warp_product.cuh"
#include "perception/core/maps.cuh"

namespace {

enum { HEADS = 4, MIX_RANK = 32, DECAY_RANK = 64, MIXTURES = 5, MIX_COLUMNS = MIXTURES * MIX_RANK };
enum { MIX_W, MIX_K, MIX_V, MIX_R, MIX_G };
enum { WALKED = 64, TILE = 16 }; /* channels of a block of kernel 3; tokens that it takes at a time */
/* Logarithms of decay end here: e^-40 of a state is as good as nothing, and sums of such stay exact. */
constexpr float MOST_DECAY = -40.0f;
/* e^60 of a tile's key is a number, and e^-60 is one with all its digits. */
constexpr float MILD_DECAY = 60.0f;

struct norm_vectors {
    const float *weight, *bias; /* none: the identity */
};

struct block_job {
    sv_tensor x, y, slots; /* slots: slot -> row, with offsets */
    const int32_t *row_slot;
    norm_vectors ln0, ln1, ln2, ln_x;
    const float *mix_x, *mix_key, *mix_receptance, *bonus; /* [C,2] taps; [C] */
    const float *mix_bias[MIXTURES], *decay_bias;
    const void *mix_down, *mix_up[MIXTURES],
        *projection[MIXTURES]; /* of MIX_W: the way down to the decay's rank */
    const void *decay_up, *output, *ffn_key, *ffn_receptance, *ffn_value;
    void *r, *k, *v, *decay, *gate, *gated; /* [slots][C] */
    float *ends;                            /* [chunks][2][heads][keys][values] */
    float *sums, *last; /* [chunks][C]: logarithms of decay; the last token as it enters */
    int32_t length, chunks;
    float eps;
};

template <int C, typename T> struct shape {
    enum {
        EXACT = sizeof(T) == sizeof(float),
        CHUNK = C <= 64 || EXACT ? 32 : 64,
        KEYS = C / HEADS,
        STATE = C * KEYS,
        MT = CHUNK /
             16, /* a warp multiplies all rows by 16 columns at a time, so that a block reads weights once */
        NT = 2,
        COLUMNS = 8 * NT,
        PITCH = C + 4,
        ROW_PITCH = sv_row_pitch<T>(C),
        LOW_PITCH = sv_row_pitch<T>(MIX_COLUMNS),
        RANK_PITCH = sv_row_pitch<T>(DECAY_RANK),
    };
};

template <int CHUNK> __device__ __forceinline__ int live_chunks(const block_job &job)
{
    return sv_rows(job.slots) / CHUNK;
}

/* A row's LayerNorm; lane l has channels l, l + 32, ... */
template <int N>
__device__ __forceinline__ void normalise(float (&value)[N], const norm_vectors &w, float eps, int lane)
{
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < N; i++) sum += value[i];
    const float mean = sv_sum_of<32>(sum) / (float)(32 * N);
#pragma unroll
    for (int i = 0; i < N; i++) squares += (value[i] - mean) * (value[i] - mean);
    const float scale = rsqrtf(sv_sum_of<32>(squares) / (float)(32 * N) + eps);
#pragma unroll
    for (int i = 0; i < N; i++)
        value[i] = (value[i] - mean) * scale * w.weight[lane + 32 * i] + w.bias[lane + 32 * i];
}

template <bool exact> __device__ __forceinline__ float exponential(float x)
{
    return exact ? expf(x) : sv_fast_exp(x);
}

template <typename T> __device__ __forceinline__ float hyperbolic(float x)
{
    if (sizeof(T) == sizeof(float)) return tanhf(x);
    float y;
    asm("tanh.approx.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}
template <typename T> __device__ __forceinline__ float sigmoid(float x)
{
    return sizeof(T) == sizeof(float) ? m_sigmoid(x) : sv_fast_sigmoid(x);
}

/* Weighted sums of two neighbouring tokens, two channels. 'taps': of the token before, of the token. */
template <typename T>
__device__ __forceinline__ void put_mixed(T *to, const float *taps, int channel, float2 before, float2 own)
{
    const float4 w = *(const float4 *)(taps + 2 * channel);
    sv_put(to, fmaf(w.x, before.x, w.y * own.x), fmaf(w.z, before.y, w.w * own.y));
}

} // namespace

#endif
