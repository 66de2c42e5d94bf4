/* SPDX-License-Identifier: Apache-2.0
 *
 * What is around TTT-Linear in a block of LION on the GPU, by tiles of 64 rows (formulas: ttt.c):
 *
 *     1  x -> RMSNorm -> q, k, v, rate
 *     2  sv_ttt_linear()
 *     3  the slot each row keeps -> LayerNorm -> o_proj, residual -> RMSNorm -> gate, up -> down, residual
 */
#include "backbones/warp_product.cuh"
#include "perception/core/maps.cuh"

namespace {

enum {
    CHANNELS = 64,
    HEADS = 4,
    HIDDEN = 2 * CHANNELS,
    ROWS = 64,
    THREADS = 256,
    WARPS = THREADS / 32,
    PITCH = CHANNELS + 4,
};

struct row_job {
    sv_tensor x, y, out; /* rows, rows, slots */
    float *qkv, *rate;   /* [rows][3C], [rows][heads] */
    const int32_t *row_slot;
    const float *seq_norm, *rate_bias, *post_weight, *post_bias, *ffn_norm;
    const void *qkv_weight, *rate_weight, *o_proj, *gate_up, *down;
    float eps;
};

template <typename T> struct shape {
    enum {
        EXACT = sizeof(T) == sizeof(float),
        ROW_PITCH = sv_row_pitch<T>(CHANNELS),
        HIDDEN_PITCH = sv_row_pitch<T>(HIDDEN),
        FIRST_BYTES = ROWS * ROW_PITCH * (int)sizeof(T),
        LAST_BYTES = ROWS * PITCH * 4 + ROWS * (ROW_PITCH + HIDDEN_PITCH) * (int)sizeof(T),
    };
};

__device__ __forceinline__ float warp_sum(float value)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2) value += __shfl_xor_sync(0xffffffffu, value, d);
    return value;
}

/* RMSNorm of a row of which a lane has channels 2 lane and 2 lane + 1. */
__device__ __forceinline__ float2 normalise(float2 x, const float *weight, float eps)
{
    const float2 w = sv_get(weight + threadIdx.x % 32 * 2);
    const float scale = 1.0f / sqrtf(warp_sum(x.x * x.x + x.y * x.y) / (float)CHANNELS + eps);
    return make_float2(x.x * scale * w.x, x.y * scale * w.y);
}

__device__ __forceinline__ const float *row_at(const sv_tensor &t, int64_t row)
{
    return (const float *)t.data + row * t.pitch;
}

/* ---- 1 ------------------------------------------------------------------------------------------------- */

template <typename T> __global__ void __launch_bounds__(THREADS) project(const __grid_constant__ row_job job)
{
    using s = shape<T>;
    extern __shared__ float4 dynamic[];
    T *normed = (T *)dynamic;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row0 = blockIdx.x * ROWS;
    sv_wait_before();
    const int rows = sv_rows(job.x);
    if (row0 >= rows) return;
    constexpr int EACH = ROWS / WARPS;
    float2 value[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int row = row0 + warp + i * WARPS;
        value[i] = row < rows ? sv_get(row_at(job.x, row) + 2 * lane) : make_float2(0, 0);
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        value[i] = normalise(value[i], job.seq_norm, job.eps);
        sv_put(normed + (warp + i * WARPS) * s::ROW_PITCH + 2 * lane, value[i].x, value[i].y);
    }
    __syncthreads();
    constexpr int NT = 3, COLUMNS = 8 * NT;
    float sums[ROWS / 16][NT][4] = {};
    sv_warp_product<3 * CHANNELS, CHANNELS>(sums, normed, job.qkv_weight, warp * COLUMNS, s::ROW_PITCH);
    sv_matrix_each(sums, [&](int row, int column, float a, float b) {
        if (row0 + row < rows)
            *(float2 *)&job.qkv[(int64_t)(row0 + row) * (3 * CHANNELS) + warp * COLUMNS + column] =
                make_float2(a, b);
    });
    if (warp >= ROWS / 16) return;
    float rates[1][1][4] = {};
    sv_warp_product<HEADS, CHANNELS>(rates, normed + 16 * warp * s::ROW_PITCH, job.rate_weight, 0,
                                     s::ROW_PITCH);
    sv_matrix_each(rates, [&](int row, int column, float a, float b) {
        const int64_t at = row0 + 16 * warp + row;
        if (at < rows && column < HEADS)
            *(float2 *)&job.rate[at * HEADS + column] =
                make_float2(m_sigmoid(a + job.rate_bias[column]), m_sigmoid(b + job.rate_bias[column + 1]));
    });
}

/* ---- 3 ------------------------------------------------------------------------------------------------- */

template <typename T> __global__ void __launch_bounds__(THREADS) finish(const __grid_constant__ row_job job)
{
    using s = shape<T>;
    extern __shared__ float4 dynamic[];
    float *x = (float *)dynamic;
    T *normed = (T *)(x + ROWS * PITCH), *hidden = normed + ROWS * s::ROW_PITCH;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row0 = blockIdx.x * ROWS;
    sv_wait_before();
    const int rows = sv_rows(job.x);
    if (row0 >= rows) return;
    {
        constexpr int EACH = ROWS / WARPS;
        float2 value[EACH], in[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int row = row0 + warp + i * WARPS;
            in[i] = row < rows ? sv_get(row_at(job.x, row) + 2 * lane) : make_float2(0, 0);
            value[i] = row < rows ? sv_get(row_at(job.out, job.row_slot[row]) + 2 * lane) : make_float2(0, 0);
        }
        const float2 weight = sv_get(job.post_weight + 2 * lane), bias = sv_get(job.post_bias + 2 * lane);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int at = warp + i * WARPS;
            const float mean = warp_sum(value[i].x + value[i].y) / (float)CHANNELS;
            const float a = value[i].x - mean, b = value[i].y - mean;
            const float scale = 1.0f / sqrtf(warp_sum(a * a + b * b) / (float)CHANNELS + job.eps);
            *(float2 *)&x[at * PITCH + 2 * lane] = in[i];
            sv_put(normed + at * s::ROW_PITCH + 2 * lane, fmaf(a * scale, weight.x, bias.x),
                   fmaf(b * scale, weight.y, bias.y));
        }
    }
    __syncthreads();
    const int part0 = warp / 4 * 32, column0 = warp % 4 * 16; /* a warp's part of C outputs */
    {
        float sums[2][2][4] = {};
        sv_warp_product<CHANNELS, CHANNELS>(sums, normed + part0 * s::ROW_PITCH, job.o_proj, column0,
                                            s::ROW_PITCH);
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            float2 *to = (float2 *)&x[(part0 + row) * PITCH + column0 + column];
            *to = make_float2(to->x + a, to->y + b);
        });
    }
    __syncthreads();
    for (int t = warp; t < ROWS; t += WARPS) {
        const float2 value = normalise(sv_get(x + t * PITCH + 2 * lane), job.ffn_norm, job.eps);
        sv_put(normed + t * s::ROW_PITCH + 2 * lane, value.x, value.y);
    }
    __syncthreads();
    for (int half = 0; half < 2; half++) {
        const int first = 32 * half, column = 16 * warp;
        float gate[2][2][4] = {}, up[2][2][4] = {};
        sv_warp_product<2 * HIDDEN, CHANNELS>(gate, normed + first * s::ROW_PITCH, job.gate_up, column,
                                              s::ROW_PITCH);
        sv_warp_product<2 * HIDDEN, CHANNELS>(up, normed + first * s::ROW_PITCH, job.gate_up, HIDDEN + column,
                                              s::ROW_PITCH);
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const float g = gate[i / 8][i / 4 % 2][i % 4];
            up[i / 8][i / 4 % 2][i % 4] *= g * (s::EXACT ? m_sigmoid(g) : sv_fast_sigmoid(g));
        }
        sv_matrix_each(up, [&](int row, int at, float a, float b) {
            sv_put(hidden + (first + row) * s::HIDDEN_PITCH + column + at, a, b);
        });
    }
    __syncthreads();
    float sums[2][2][4] = {};
    sv_warp_product<CHANNELS, HIDDEN>(sums, hidden + part0 * s::HIDDEN_PITCH, job.down, column0,
                                      s::HIDDEN_PITCH);
    sv_matrix_each(sums, [&](int row, int column, float a, float b) {
        const int t = part0 + row, at = column0 + column;
        const float2 in = sv_get(x + t * PITCH + at);
        if (row0 + t < rows)
            *(float2 *)((float *)job.y.data + (int64_t)(row0 + t) * job.y.pitch + at) =
                make_float2(in.x + a, in.y + b);
    });
}

/* ---- the block ----------------------------------------------------------------------------------------- */

template <typename T>
sv_status run_block(sv_ctx *c, row_job job, const sv_ttt_block_weights *w, const sv_sequence *seq,
                    sv_tensor qkv, sv_tensor rate)
{
    using s = shape<T>;
    const dim3 tiles((unsigned)(job.x.dim[0] + ROWS - 1) / ROWS);
    job.qkv_weight = sv_factor<T>(w->qkv);
    job.rate_weight = sv_factor<T>(w->rate);
    job.o_proj = sv_factor<T>(w->o_proj);
    job.gate_up = sv_factor<T>(w->gate_up);
    job.down = sv_factor<T>(w->down);
    SV_TRY(sv_launch_early(c, "ttt_block", project<T>, job, tiles, THREADS, s::FIRST_BYTES));
    SV_TRY(sv_ttt_linear(c, job.out, sv_columns(qkv, 0, CHANNELS), sv_columns(qkv, CHANNELS, CHANNELS),
                         sv_columns(qkv, 2 * CHANNELS, CHANNELS), rate, &w->cell, seq));
    return sv_launch_early(c, "ttt_block", finish<T>, job, tiles, THREADS, s::LAST_BYTES);
}

} // namespace

sv_status sv_cuda_ttt_block(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_ttt_block_weights *w,
                            const sv_order *order, int length)
{
    if (order->slot_row.dim[0] == 0) return SV_OK;
    SV_CHECK(c, x.pitch % 2 == 0 && y.pitch % 2 == 0, SV_BAD_SHAPE,
             "ttt_block: rows of %d numbers lie %d and %d apart", x.dim[1], x.pitch, y.pitch);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const sv_sequence seq = {order->slot_row, length, false, SV_NONE, SV_NONE};
    sv_tensor qkv, rate, out;
    SV_TRY(sv_scratch_alloc(c, &qkv, "ttt q, k, v", SV_F32, x.dim[0], 3 * CHANNELS, x));
    SV_TRY(sv_scratch_alloc(c, &rate, "ttt rate", SV_F32, x.dim[0], HEADS, x));
    SV_TRY(sv_scratch_alloc(c, &out, "ttt out", SV_F32, order->slot_row.dim[0], CHANNELS, order->slot_row));
    row_job job = {};
    job.x = x;
    job.y = y;
    job.out = out;
    job.qkv = (float *)qkv.data;
    job.rate = (float *)rate.data;
    job.row_slot = (const int32_t *)order->row_slot.data;
    job.seq_norm = (const float *)w->seq_norm.data;
    job.rate_bias = (const float *)w->rate.bias.data;
    job.post_weight = (const float *)w->post_weight.data;
    job.post_bias = (const float *)w->post_bias.data;
    job.ffn_norm = (const float *)w->ffn_norm.data;
    job.eps = w->eps;
    if (c->precision == SV_FP32)
        SV_TRY(run_block<float>(c, job, w, &seq, qkv, rate));
    else if (c->precision == SV_BF16_MATH)
        SV_TRY(run_block<__nv_bfloat16>(c, job, w, &seq, qkv, rate));
    else
        SV_TRY(run_block<__half>(c, job, w, &seq, qkv, rate));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
