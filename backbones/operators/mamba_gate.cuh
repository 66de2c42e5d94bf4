/* SPDX-License-Identifier: Apache-2.0
 *
 * Last kernel of a Mamba block (mamba.cu): a block of threads takes a chunk of slots,
 *
 *     y of both directions; in_proj, the z half -> y SiLU(z) -> out_proj -> LayerNorm -> added to x's rows
 *
 * A row that lies in several slots is written by the one that row_slot names.
 */
#ifndef SV_MAMBA_GATE_CUH
#define SV_MAMBA_GATE_CUH

#include "mamba_block.cuh"

namespace {

template <int C, int PRODUCTS> struct gate_shape {
    enum {
        INNER = 2 * C,
        THREADS = C >= 64 ? 256 : 128,
        WARPS = THREADS / 32,
        BLOCKS = resident_threads(C, PRODUCTS) / THREADS, /* of a multiprocessor, at least */
        CHUNK = chunk_of(C, PRODUCTS),
        ALIGN = kept<PRODUCTS>::ALIGN,
        X_PITCH = C + ALIGN,
        Y_PITCH = INNER + ALIGN,
        MIXED_PITCH = C + 4,
        NUMBER = sizeof(typename kept<PRODUCTS>::number),
        X_BYTES = CHUNK * MIXED_PITCH * 4, /* as many as what lies there afterwards */
        BYTES = X_BYTES + CHUNK * Y_PITCH * NUMBER + CHUNK * 4,
    };
};

template <int C, int PRODUCTS>
__device__ __forceinline__ void gate_chunk(const block_job &job, int place, void *shared)
{
    using shape = gate_shape<C, PRODUCTS>;
    using store = kept<PRODUCTS>;
    using number = typename store::number;
    using number_piece = piece<PRODUCTS>;
    constexpr int INNER = shape::INNER, THREADS = shape::THREADS, CHUNK = shape::CHUNK, MT = CHUNK / 16,
                  COUNT = number_piece::COUNT, PIECES = CHUNK / COUNT, PITCH = shape::MIXED_PITCH;
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
    const int64_t slot0 = (int64_t)place * CHUNK;
    number *x = (number *)shared, *y = (number *)((char *)shared + shape::X_BYTES);
    float *mixed = (float *)shared; /* where x was */
    int *rows = (int *)((char *)shared + shape::BYTES) - CHUNK;

    constexpr int FOURS_OF_X = CHUNK * (C / 4) / THREADS;
    const int32_t *slot_row = (const int32_t *)job.slots.data + slot0;
    float4 value[FOURS_OF_X]; /* read before y, which takes as long: a row's number must come first */
#pragma unroll
    for (int i = 0; i < FOURS_OF_X; i++) {
        const int at = tid + i * THREADS;
        value[i] = *(const float4 *)((const float *)job.x.data +
                                     (int64_t)slot_row[at / (C / 4)] * job.x.pitch + at % (C / 4) * 4);
    }
    { /* both walks' results of a channel; the backward walk meets the group's tokens from the end */
        const int channel = tid % INNER;
        const int64_t group0 = slot0 / job.length * job.length,
                      back0 = job.tiles * TILE + group0 + job.length - (slot0 - group0) - CHUNK;
        const uint4 *from = (const uint4 *)job.pairs + slot0 / COUNT * 2 * INNER + channel,
                    *from_back = (const uint4 *)job.pairs + back0 / COUNT * 2 * INNER + channel;
#pragma unroll
        for (int p = tid / INNER; p < PIECES; p += THREADS / INNER) {
            number_piece one, other;
            one.bits = from[p * 2 * INNER];
            other.bits = from_back[(PIECES - 1 - p) * 2 * INNER];
#pragma unroll
            for (int i = 0; i < COUNT; i++)
                y[(p * COUNT + i) * shape::Y_PITCH + channel] =
                    store::narrow(store::widen(one.at[i]) + store::widen(other.at[COUNT - 1 - i]));
        }
    }
#pragma unroll
    for (int i = 0; i < FOURS_OF_X; i++) {
        const int at = tid + i * THREADS;
        typename store::two *to = (typename store::two *)&x[at / (C / 4) * shape::X_PITCH + at % (C / 4) * 4];
        to[0] = store::pair(value[i].x, value[i].y);
        to[1] = store::pair(value[i].z, value[i].w);
    }
    if (tid < CHUNK) { /* the row that keeps a slot's result; -1: padding */
        const int row = slot_row[tid];
        rows[tid] = job.row_slot[row] == slot0 + tid ? row : -1;
    }
    __syncthreads();
    { /* gate: all tokens by as many channels a warp as there are to share */
        constexpr int COLUMNS = INNER / shape::WARPS, NT = COLUMNS / 8;
        float sums[MT][NT][4] = {};
        multiply<MT, NT, C / SV_MATRIX_K>(sums, x, shape::X_PITCH, job.in_proj, INNER / 8 + warp * NT);
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            typename store::two *at =
                (typename store::two *)&y[row * shape::Y_PITCH + warp * COLUMNS + column];
            const float2 both = store::widen(*at);
            *at = store::pair(both.x * (a * fast_sigmoid(a)), both.y * (b * fast_sigmoid(b)));
        });
    }
    __syncthreads();
    {
        constexpr int COLUMNS = C / shape::WARPS, NT = COLUMNS / 8;
        float sums[MT][NT][4] = {};
        multiply<MT, NT, INNER / SV_MATRIX_K>(sums, y, shape::Y_PITCH, job.out_proj, warp * NT);
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            *(float2 *)&mixed[row * PITCH + warp * COLUMNS + column] = make_float2(a, b);
        });
    }
    __syncthreads();
    constexpr int FOURS = C / 32; /* eight lanes a token */
#pragma unroll
    for (int t0 = warp * 4; t0 < CHUNK; t0 += shape::WARPS * 4) {
        const int t = t0 + lane / 8, row = rows[t], at = lane % 8 * 4;
        const float *in = (const float *)job.x.data + (int64_t)max(row, 0) * job.x.pitch + at;
        float4 value[FOURS], residual[FOURS];
        float sum = 0, squares = 0;
#pragma unroll
        for (int i = 0; i < FOURS; i++) {
            residual[i] = *(const float4 *)(in + 32 * i);
            value[i] = *(const float4 *)&mixed[t * PITCH + at + 32 * i];
            sum += (value[i].x + value[i].y) + (value[i].z + value[i].w);
        }
        for (int d = 4; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
        const float mean = sum / (float)C;
#pragma unroll
        for (int i = 0; i < FOURS; i++) {
            float4 &v = value[i];
            v = make_float4(v.x - mean, v.y - mean, v.z - mean, v.w - mean);
            squares += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
        }
        for (int d = 4; d > 0; d /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, d);
        const float scale = 1.0f / sqrtf(squares / (float)C + job.eps);
        if (row < 0) continue;
        float *out = (float *)job.y.data + (int64_t)row * job.y.pitch + at;
#pragma unroll
        for (int i = 0; i < FOURS; i++) {
            const float4 weight = *(const float4 *)(job.norm_weight + at + 32 * i),
                         bias = *(const float4 *)(job.norm_bias + at + 32 * i), v = value[i];
            *(float4 *)(out + 32 * i) = make_float4(residual[i].x + (v.x * scale * weight.x + bias.x),
                                                    residual[i].y + (v.y * scale * weight.y + bias.y),
                                                    residual[i].z + (v.z * scale * weight.z + bias.z),
                                                    residual[i].w + (v.w * scale * weight.w + bias.w));
        }
    }
}

template <int C, int PRODUCTS>
__global__ void __launch_bounds__(gate_shape<C, PRODUCTS>::THREADS, gate_shape<C, PRODUCTS>::BLOCKS)
    gate(const __grid_constant__ block_job job)
{
    extern __shared__ float4 dynamic[];
    sv_wait_before();
    const int items = live_slots(job) / gate_shape<C, PRODUCTS>::CHUNK;
    for (int item = blockIdx.x; item < items; item += gridDim.x) {
        gate_chunk<C, PRODUCTS>(job, item, dynamic);
        __syncthreads();
    }
}

} // namespace

#endif
