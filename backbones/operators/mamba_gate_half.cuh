/* SPDX-License-Identifier: Apache-2.0
 *
 * Last kernel of a Mamba block (mamba.cu) in half floats, where shared memory holds the weights of both
 * products:
 *
 *     y of both directions; in_proj, the z half -> y SiLU(z) -> out_proj -> LayerNorm -> added to x's rows
 *
 * One warp of a block fetches x's rows and both walks' y of 16 slots after another; the others take such
 * tiles in turn and carry them to the end in registers: y SiLU(z) lies there as the next product takes it,
 * and a row's sums lie in four lanes. A row that lies in several slots is written by the one that row_slot
 * names.
 */
#ifndef SV_MAMBA_GATE_HALF_CUH
#define SV_MAMBA_GATE_HALF_CUH

#include "mamba_half.cuh"

namespace {

template <int C> struct gate_half_shape {
    enum {
        INNER = 2 * C,
        TOKENS = 16,             /* of a tile */
        WARPS = C > 64 ? 7 : 15, /* and one that fetches */
        STAGES = C > 64 ? 4 : 8, /* tiles in shared memory */
        THREADS = 32 * (WARPS + 1),
        STEPS = C / SV_MATRIX_K,
        INNER_STEPS = INNER / SV_MATRIX_K,
        WEIGHT_BYTES = INNER * C * 2, /* of either product */
        X_PITCH = C + 4,
        X_BYTES = TOKENS * X_PITCH * 4,
        OCTET_BYTES = INNER * 16, /* y of eight tokens of a direction */
        STAGE_BYTES = X_BYTES + 4 * OCTET_BYTES,
        FILLED = TOKENS * C * 4 + 4 * OCTET_BYTES,
        BYTES = 2 * WEIGHT_BYTES + STAGES * STAGE_BYTES + (2 * STAGES + 2) * 8,
    };
};

/* The first slot of a tile in walking order of the backward direction, by eights. */
__device__ __forceinline__ int64_t back_octet(const block_job &job, int slot0, int tokens)
{
    const int first = slot0 % job.length;
    return (job.tiles * TILE + slot0 - 2 * first + job.length - tokens) / 8;
}

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ void copy_long(uint32_t to, const void *from, int bytes, uint32_t barrier)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(to),
        "l"(from), "r"(bytes), "r"(barrier)
        : "memory");
}
#endif

/* By one warp: a block's tiles into its stages. Only Hopper and later have as much shared memory. */
template <int C>
__device__ __forceinline__ void fetch_tiles(const block_job &job, int tiles, uint32_t stages, uint64_t *full,
                                            uint64_t *empty)
{
#if __CUDA_ARCH__ >= 900
    using shape = gate_half_shape<C>;
    const int lane = threadIdx.x % 32, step = (int)gridDim.x;
    const int32_t *slot_row = (const int32_t *)job.slots.data + lane % shape::TOKENS;
    asm volatile("fence.proxy.async;\n" ::: "memory"); /* what the walks wrote */
    int next_row = (int)blockIdx.x < tiles ? slot_row[blockIdx.x * shape::TOKENS] : 0, filled = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += step, filled++) {
        const int row = next_row, stage = filled % shape::STAGES, slot0 = tile * shape::TOKENS;
        if (tile + step < tiles) next_row = slot_row[slot0 + step * shape::TOKENS];
        if (filled >= shape::STAGES) sv_stage_wait(empty + stage, (filled / shape::STAGES - 1) & 1);
        const uint32_t to = stages + stage * shape::STAGE_BYTES, arrived = sv_shared_address(full + stage);
        if (lane == 0)
            asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;\n" ::"r"(arrived),
                         "r"((int)shape::FILLED)
                         : "memory");
        __syncwarp();
        if (lane < shape::TOKENS) {
            copy_long(to + lane * shape::X_PITCH * 4, (const float *)job.x.data + (int64_t)row * job.x.pitch,
                      C * 4, arrived);
        } else if (lane < shape::TOKENS + 4) {
            const int part = lane % 4;
            const int64_t octet =
                part < 2 ? slot0 / 8 + part : back_octet(job, slot0, shape::TOKENS) + part - 2;
            copy_long(to + shape::X_BYTES + part * shape::OCTET_BYTES,
                      (const uint4 *)job.pairs + octet * 2 * shape::INNER, shape::OCTET_BYTES, arrived);
        }
    }
#endif
}

/* x + y, to the largest half float where it is beyond. */
__device__ __forceinline__ uint32_t add_halves(uint32_t x, uint32_t y)
{
    const __half2 most = __half2half2(__ushort_as_half(0x7bff)),
                  sum = __hmin2_nan(
                      __hmax2_nan(__hadd2(*(const __half2 *)&x, *(const __half2 *)&y), __hneg2(most)), most);
    return *(const uint32_t *)&sum;
}

/* A tile as products take their left factors: x, and y of both directions. */
template <int C> struct gate_tile {
    using shape = gate_half_shape<C>;
    uint32_t x[shape::STEPS][4], y[shape::INNER_STEPS][4];

    __device__ __forceinline__ void load(const char *stage)
    {
        const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
        const float *from = (const float *)stage + r * shape::X_PITCH + 2 * q;
#pragma unroll
        for (int s = 0; s < shape::STEPS; s++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float2 two = *(const float2 *)(from + i % 2 * 8 * shape::X_PITCH + 16 * s + i / 2 * 8);
                x[s][i] = sv_halves(two.x, two.y);
            }
        /* the backward walk met these tokens from the end: its eights in turn, a row's mirror 28 lanes off */
        const uint32_t at = sv_shared_address(stage + shape::X_BYTES) + (lane / 16 * 8 + lane % 8) * 16,
                       one = at + lane / 8 % 2 * shape::OCTET_BYTES,
                       other = at + (3 - lane / 8 % 2) * shape::OCTET_BYTES;
#pragma unroll
        for (int s = 0; s < shape::INNER_STEPS; s++) {
            uint32_t back[4];
            load_transposed(y[s], one + s * 256);
            load_transposed(back, other + s * 256);
#pragma unroll
            for (int i = 0; i < 4; i++)
                y[s][i] = add_halves(y[s][i], __shfl_xor_sync(0xffffffffu, back[i], 28));
        }
    }
    /* out_proj of y SiLU(z); weights as they are packed */
    __device__ __forceinline__ void multiply(float (&out)[C / 8][4], const uint2 *z_weight,
                                             const uint2 *out_weight) const
    {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int j = 0; j < shape::INNER / 32; j++) { /* 32 channels */
            float z[4][4] = {};
            const uint2 *w = z_weight + j * 4 * shape::STEPS * 32 + lane;
#pragma unroll
            for (int s = 0; s < shape::STEPS; s++)
#pragma unroll
                for (int n = 0; n < 4; n++) sv_mma_half(z[n], x[s], w[(n * shape::STEPS + s) * 32]);
#pragma unroll
            for (int s = 2 * j; s < 2 * j + 2; s++) {
                uint32_t gated[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float2 both = __half22float2(*(const __half2 *)&y[s][i]);
                    const float *gate = &z[s % 2 * 2 + i / 2][i % 2 * 2];
                    gated[i] = sv_halves(both.x * half_silu(gate[0]), both.y * half_silu(gate[1]));
                }
                w = out_weight + s * 32 + lane;
#pragma unroll
                for (int n = 0; n < C / 8; n++) sv_mma_half(out[n], gated, w[n * shape::INNER_STEPS * 32]);
            }
        }
    }
};

/* LayerNorm of a lane's part of a row, added to x's: numbers 2h and 2h + 1 of each sum. */
template <int C>
__device__ __forceinline__ void keep_row(const block_job &job, const float (&out)[C / 8][4], int h, int row,
                                         bool keeps)
{
    constexpr int NT = C / 8;
    const int at = threadIdx.x % 4 * 2;
    const float *in = (const float *)job.x.data + (int64_t)row * job.x.pitch + at;
    float2 residual[NT]; /* all before the first is written: y may be x */
    float sum = 0, squares = 0;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        residual[n] = *(const float2 *)(in + 8 * n);
        sum += out[n][2 * h] + out[n][2 * h + 1];
    }
    for (int d = 2; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    const float mean = sum / (float)C;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        const float x = out[n][2 * h] - mean, y = out[n][2 * h + 1] - mean;
        squares += x * x + y * y;
    }
    for (int d = 2; d > 0; d /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, d);
    const float scale = 1.0f / sqrtf(squares / (float)C + job.eps);
    if (!keeps) return;
    float *to = (float *)job.y.data + (int64_t)row * job.y.pitch + at;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        const float2 weight = __ldg((const float2 *)(job.norm_weight + 8 * n + at)),
                     bias = __ldg((const float2 *)(job.norm_bias + 8 * n + at));
        *(float2 *)(to + 8 * n) =
            make_float2(residual[n].x + ((out[n][2 * h] - mean) * scale * weight.x + bias.x),
                        residual[n].y + ((out[n][2 * h + 1] - mean) * scale * weight.y + bias.y));
    }
}

template <int C>
__global__ void __launch_bounds__(gate_half_shape<C>::THREADS, 1)
    gate_half(const __grid_constant__ block_job job)
{
    using shape = gate_half_shape<C>;
    static_assert(shape::WARPS < 2 * shape::STAGES,
                  "a warp waits for its stage's filling and the one before");
    extern __shared__ float4 dynamic[];
    const uint2 *z_weight = (const uint2 *)dynamic, *out_weight = z_weight + shape::WEIGHT_BYTES / 8;
    char *stages = (char *)dynamic + 2 * shape::WEIGHT_BYTES;
    uint64_t *full = (uint64_t *)(stages + shape::STAGES * shape::STAGE_BYTES), *empty = full + shape::STAGES,
             *weights_full = empty + shape::STAGES;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0)
        for (int i = 0; i < 2 * shape::STAGES + 2; i++) sv_stage_open(full + i);
    __syncthreads();
    sv_stage_fill<shape::THREADS>(sv_shared_address(z_weight),
                                  (const uint2 *)job.in_proj + shape::WEIGHT_BYTES / 8, shape::WEIGHT_BYTES,
                                  weights_full); /* no kernel of a frame writes weights */
    sv_stage_fill<shape::THREADS>(sv_shared_address(out_weight), job.out_proj, shape::WEIGHT_BYTES,
                                  weights_full + 1);
    wait_for_kernels_before();
    announce();
    const int tiles = live_slots(job) / shape::TOKENS;
    if (warp == shape::WARPS) {
        fetch_tiles<C>(job, tiles, sv_shared_address(stages), full, empty);
        return;
    }
    for (int i = 0; i < 2; i++) sv_stage_wait(weights_full + i, 0);
    for (int taken = warp, tile = blockIdx.x + gridDim.x * warp; tile < tiles;
         taken += shape::WARPS, tile += gridDim.x * shape::WARPS) {
        const int stage = taken % shape::STAGES, slot = tile * shape::TOKENS + lane / 4;
        const int filling = taken / shape::STAGES;
        gate_tile<C> part;
        /* a wait only tells a filling from the next; the last but one was before this warp's last tile */
        if (filling > 0) sv_stage_wait(full + stage, (filling - 1) & 1);
        sv_stage_wait(full + stage, filling & 1);
        part.load(stages + stage * shape::STAGE_BYTES);
        __syncwarp();
#if __CUDA_ARCH__ >= 900
        if (lane == 0)
            asm volatile("mbarrier.arrive.shared.b64 _, [%0];\n" ::"r"(sv_shared_address(empty + stage))
                         : "memory");
#endif
        const int32_t *slot_row = (const int32_t *)job.slots.data;
        const int row[2] = {slot_row[slot], slot_row[slot + 8]};
        const bool keeps[2] = {job.row_slot[row[0]] == slot, job.row_slot[row[1]] == slot + 8};
        float out[C / 8][4] = {};
        part.multiply(out, z_weight, out_weight);
#pragma unroll
        for (int h = 0; h < 2; h++) keep_row<C>(job, out, h, row[h], keeps[h]);
    }
}

} // namespace

#endif
