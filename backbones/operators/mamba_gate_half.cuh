/* SPDX-License-Identifier: Apache-2.0
 *
 * Last kernel of a Mamba block (mamba.cu) in half floats, where shared memory holds the weights of both
 * products:
 *
 *     y of both directions; in_proj, the z half -> y SiLU(z) -> out_proj -> LayerNorm -> added to x's rows
 *
 * A warp carries 16 slots from the first load to the last store by itself: y SiLU(z) lies in registers as the
 * next product takes it, and a row's sums lie in four lanes. A row that lies in several slots is written by
 * the one that row_slot names.
 */
#ifndef SV_MAMBA_GATE_HALF_CUH
#define SV_MAMBA_GATE_HALF_CUH

#include "mamba_half.cuh"

namespace {

template <int C> struct gate_half_shape {
    enum {
        INNER = 2 * C,
        TOKENS = 16, /* of a warp */
        WARPS = C > 64 ? 12 : 8,
        THREADS = 32 * WARPS,
        BLOCKS = C > 64 ? 1 : 2, /* of a multiprocessor, at least */
        STEPS = C / SV_MATRIX_K,
        INNER_STEPS = INNER / SV_MATRIX_K,
        WEIGHT_BYTES = INNER * C * 2, /* of either product */
        Y_BYTES = TOKENS * INNER * 2, /* of a warp */
        AHEAD = INNER < 128 ? 2 : 4,  /* pieces of y on their way, of a lane, eight tokens and direction */
        BYTES = 2 * WEIGHT_BYTES + WARPS * Y_BYTES + 2 * 8,
    };
};

/* x + y, to the largest half float where it is beyond. */
__device__ __forceinline__ __half2 add_halves(__half2 x, __half2 y)
{
    const __half2 most = __half2half2(__ushort_as_half(0x7bff));
    return __hmin2_nan(__hmax2_nan(__hadd2(x, y), __hneg2(most)), most);
}

/* y of 16 tokens, both walks' results added, to shared memory; the backward walk met them from the end. */
template <int C> __device__ __forceinline__ void add_walks(const block_job &job, int slot0, uint4 *y)
{
    using shape = gate_half_shape<C>;
    constexpr int INNER = shape::INNER, AHEAD = shape::AHEAD;
    const int lane = threadIdx.x % 32, first = slot0 % job.length;
    const int64_t back0 = job.tiles * TILE + slot0 - 2 * first + job.length - shape::TOKENS;
    const uint4 *from = (const uint4 *)job.pairs + (int64_t)(slot0 / 8) * 2 * INNER + lane,
                *from_back = (const uint4 *)job.pairs + back0 / 8 * 2 * INNER + lane;
#pragma unroll
    for (int channel = 0; channel < INNER; channel += AHEAD * 32) {
        piece<1> one[AHEAD][2], other[AHEAD][2];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int o = 0; o < 2; o++) {
                one[i][o].bits = from[o * 2 * INNER + channel + i * 32];
                other[i][o].bits = from_back[(1 - o) * 2 * INNER + channel + i * 32];
            }
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int o = 0; o < 2; o++) {
                piece<1> sum;
#pragma unroll
                for (int e = 0; e < 4; e++)
                    sum.pairs[e] =
                        add_halves(one[i][o].pairs[e], __lowhigh2highlow(other[i][o].pairs[3 - e]));
                y[o * INNER + channel + i * 32 + lane] = sum.bits;
            }
    }
}

/* LayerNorm of a lane's part of a row, numbers 2h and 2h + 1 of each sum, added to x's. */
template <int C>
__device__ __forceinline__ void keep_row(const block_job &job, float (&out)[C / 8][4], int h, int row,
                                         bool keeps)
{
    constexpr int NT = C / 8;
    const int at = threadIdx.x % 4 * 2;
    float sum = 0, squares = 0;
#pragma unroll
    for (int n = 0; n < NT; n++) sum += out[n][2 * h] + out[n][2 * h + 1];
    for (int d = 2; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    const float mean = sum / (float)C;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        out[n][2 * h] -= mean;
        out[n][2 * h + 1] -= mean;
        squares += out[n][2 * h] * out[n][2 * h] + out[n][2 * h + 1] * out[n][2 * h + 1];
    }
    for (int d = 2; d > 0; d /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, d);
    const float scale = 1.0f / sqrtf(squares / (float)C + job.eps);
    if (!keeps) return;
    const float *in = (const float *)job.x.data + (int64_t)row * job.x.pitch + at;
    float *to = (float *)job.y.data + (int64_t)row * job.y.pitch + at;
    float2 residual[NT]; /* all before the first is written: y may be x */
#pragma unroll
    for (int n = 0; n < NT; n++) residual[n] = *(const float2 *)(in + 8 * n);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        const float2 weight = __ldg((const float2 *)(job.norm_weight + 8 * n + at)),
                     bias = __ldg((const float2 *)(job.norm_bias + 8 * n + at));
        *(float2 *)(to + 8 * n) =
            make_float2(residual[n].x + (out[n][2 * h] * scale * weight.x + bias.x),
                        residual[n].y + (out[n][2 * h + 1] * scale * weight.y + bias.y));
    }
}

/* 16 slots, by a warp; 'y': its shared memory. */
template <int C>
__device__ __forceinline__ void gate_half_tile(const block_job &job, int slot0, const uint2 *z_weight,
                                               const uint2 *out_weight, uint4 *y)
{
    using shape = gate_half_shape<C>;
    constexpr int STEPS = shape::STEPS, INNER = shape::INNER, NT = C / 8;
    const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
    const int32_t *slot_row = (const int32_t *)job.slots.data + slot0;
    const int row[2] = {slot_row[r], slot_row[r + 8]};
    const bool keeps[2] = {job.row_slot[row[0]] == slot0 + r, job.row_slot[row[1]] == slot0 + r + 8};
    add_walks<C>(job, slot0, y);
    uint32_t x[STEPS][4]; /* as a product takes its left factor */
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 two =
                *(const float2 *)((const float *)job.x.data + (int64_t)row[i % 2] * job.x.pitch + 2 * q +
                                  16 * s + i / 2 * 8);
            x[s][i] = sv_halves(two.x, two.y);
        }
    __syncwarp();
    const uint32_t y_at = sv_shared_address(y + lane / 8 % 2 * INNER + lane / 16 * 8 + lane % 8);
    float out[NT][4] = {};
#pragma unroll 1
    for (int j = 0; j < INNER / 32; j++) { /* 32 channels */
        float z[4][4] = {};
        const uint2 *w = z_weight + j * 4 * STEPS * 32 + lane;
#pragma unroll
        for (int s = 0; s < STEPS; s++)
#pragma unroll
            for (int n = 0; n < 4; n++) sv_mma_half(z[n], x[s], w[(n * STEPS + s) * 32]);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t gated[4];
            load_transposed(gated, y_at + (32 * j + 16 * half) * sizeof(uint4));
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float2 both = __half22float2(*(const __half2 *)&gated[i]);
                const float *gate = &z[2 * half + i / 2][i % 2 * 2];
                gated[i] = sv_halves(both.x * half_silu(gate[0]), both.y * half_silu(gate[1]));
            }
            w = out_weight + (2 * j + half) * 32 + lane;
#pragma unroll
            for (int n = 0; n < NT; n++) sv_mma_half(out[n], gated, w[n * shape::INNER_STEPS * 32]);
        }
    }
    __syncwarp();
#pragma unroll
    for (int h = 0; h < 2; h++) keep_row<C>(job, out, h, row[h], keeps[h]);
}

template <int C>
__global__ void __launch_bounds__(gate_half_shape<C>::THREADS, gate_half_shape<C>::BLOCKS)
    gate_half(const __grid_constant__ block_job job)
{
    using shape = gate_half_shape<C>;
    extern __shared__ float4 dynamic[];
    const int warp = threadIdx.x / 32;
    const uint2 *z_weight = (const uint2 *)dynamic, *out_weight = z_weight + shape::WEIGHT_BYTES / 8;
    char *tiles_at = (char *)dynamic + 2 * shape::WEIGHT_BYTES;
    uint64_t *arrived = (uint64_t *)(tiles_at + shape::WARPS * shape::Y_BYTES);
    if (threadIdx.x == 0)
        for (int i = 0; i < 2; i++) sv_stage_open(arrived + i);
    __syncthreads();
    sv_stage_fill<shape::THREADS>(sv_shared_address(z_weight),
                                  (const uint2 *)job.in_proj + shape::WEIGHT_BYTES / 8, shape::WEIGHT_BYTES,
                                  arrived); /* no kernel of a frame writes weights */
    sv_stage_fill<shape::THREADS>(sv_shared_address(out_weight), job.out_proj, shape::WEIGHT_BYTES,
                                  arrived + 1);
    sv_copies_end();
    wait_for_kernels_before();
    const int tiles = live_slots(job) / shape::TOKENS, step = (int)gridDim.x * shape::WARPS;
    sv_copies_wait<0>();
    for (int i = 0; i < 2; i++) sv_stage_wait(arrived + i, 0);
    __syncthreads();
    for (int tile = blockIdx.x + gridDim.x * warp; tile < tiles; tile += step)
        gate_half_tile<C>(job, tile * shape::TOKENS, z_weight, out_weight,
                          (uint4 *)(tiles_at + warp * shape::Y_BYTES));
}

} // namespace

#endif
