/* SPDX-License-Identifier: Apache-2.0
 *
 * A RetNet block of LION on the GPU in three kernels (formulas: retnet.c). The chunks of 64 tokens within which
 * every token sees every other all run at once:
 *
 *     1  chunk          gather x -> LayerNorm -> q, k, v, which are kept; what the chunk adds to the state behind it
 *     2  along chunks   S(i+1) = g^64 S(i) + end_i
 *     3  chunk          o_t = g^(t+1) S'q_t + sum over s of g^|t-s| (q_t.k_s) v_s -> o_proj, residual
 *                       -> LayerNorm -> fc1, GELU, fc2, residual -> rows
 *
 * All sums over tokens and keys are products of matrices. What is kept are floats in fp32, half floats otherwise.
 */
#include "backbones/warp_product.cuh"
#include "perception/core/maps.cuh"

namespace {

enum {
    CHANNELS = 64,
    HEADS = 2,
    KEYS = 32,   /* of a head */
    VALUES = 64, /* of a head */
    ALL_KEYS = HEADS * KEYS,
    ALL_VALUES = HEADS * VALUES,
    QKV = 2 * ALL_KEYS + ALL_VALUES,
    HIDDEN = 4 * CHANNELS,
    CHUNK = 64,
    THREADS = 256,
    WARPS = THREADS / 32,
    KEY_PITCH = ALL_KEYS + 4,
    VALUE_PITCH = ALL_VALUES + 4,
    KEY_TILE = CHUNK * KEY_PITCH,
    VALUE_TILE = CHUNK * VALUE_PITCH,
    PITCH = CHANNELS + 4,
    STATE = HEADS * KEYS * VALUES,
};

struct block_job {
    sv_tensor x, y, slots; /* slots: slot -> row, with offsets */
    const int32_t *row_slot;
    const float *decay, *norm_weight, *norm_bias, *final_weight, *final_bias, *hidden_bias, *last_bias;
    const void *qkv_weight, *o_proj, *fc1, *fc2;
    void *qkv;   /* [slots][QKV] */
    float *ends; /* [chunks][heads][keys][values] */
    int32_t length, chunks;
    float eps, scale;
};

template <typename T> struct shape {
    enum {
        EXACT = sizeof(T) == sizeof(float),
        ROW_PITCH = sv_row_pitch<T>(CHANNELS),
        MIXED_PITCH = sv_row_pitch<T>(ALL_VALUES),
        HIDDEN_PITCH = sv_row_pitch<T>(HIDDEN),
        FIRST_BYTES = (KEY_TILE + VALUE_TILE) * 4 + CHUNK * ROW_PITCH * (int)sizeof(T),
        TILES = 2 * KEY_TILE + VALUE_TILE, /* q, k, v */
        LAST_BYTES = (TILES + CHUNK * PITCH + CHUNK) * 4 + CHUNK * MIXED_PITCH * (int)sizeof(T),
    };
    static_assert(CHUNK * HIDDEN_PITCH * sizeof(T) <= TILES * 4, "hidden rows lie where q, k and v were");
    static_assert(ROW_PITCH <= MIXED_PITCH, "normed rows lie where results were");
};

__device__ __forceinline__ int live_chunks(const block_job &job)
{
    return sv_rows(job.slots) / CHUNK;
}

/* LayerNorm of a row of which a lane has channels 2 lane and 2 lane + 1. */
__device__ __forceinline__ float2 normalise(float2 x, const float *weight, const float *bias, float eps)
{
    const int at = threadIdx.x % 32 * 2;
    const float2 w = sv_get(weight + at), b = sv_get(bias + at);
    const float mean = sv_sum_of<32>(x.x + x.y) / (float)CHANNELS;
    const float first = x.x - mean, second = x.y - mean;
    const float scale = rsqrtf(sv_sum_of<32>(first * first + second * second) / (float)CHANNELS + eps);
    return make_float2(fmaf(first * scale, w.x, b.x), fmaf(second * scale, w.y, b.y));
}

/* ---- 1 ------------------------------------------------------------------------------------------------- */

template <typename T>
__global__ void __launch_bounds__(THREADS, 2) project(const __grid_constant__ block_job job)
{
    using s = shape<T>;
    using number = typename sv_kept<T>::type;
    extern __shared__ float4 dynamic[];
    float *keys = (float *)dynamic, *values = keys + KEY_TILE;
    T *normed = (T *)(values + VALUE_TILE);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    sv_wait_before();
    if ((int)blockIdx.x >= live_chunks(job)) return;
    const int64_t slot0 = (int64_t)blockIdx.x * CHUNK;
    {
        constexpr int ROWS = CHUNK / WARPS;
        const int32_t *slot_row = (const int32_t *)job.slots.data + slot0;
        float2 value[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            value[i] = sv_get((const float *)job.x.data + (int64_t)slot_row[warp + i * WARPS] * job.x.pitch +
                              2 * lane);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            value[i] = normalise(value[i], job.norm_weight, job.norm_bias, job.eps);
            sv_put(normed + (warp + i * WARPS) * s::ROW_PITCH + 2 * lane, value[i].x, value[i].y);
        }
    }
    __syncthreads();
    for (int half = 0; half < 2; half++) {
        const int row0 = 32 * half, column0 = 32 * warp;
        float sums[2][4][4] = {};
        sv_warp_product<QKV, CHANNELS>(sums, normed + row0 * s::ROW_PITCH, job.qkv_weight, column0,
                                       s::ROW_PITCH);
        sv_keep_sums((number *)job.qkv + (slot0 + row0) * QKV + column0, QKV, sums);
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            const int t = row0 + row, at = column0 + column;
            if (at >= 2 * ALL_KEYS) {
                *(float2 *)&values[t * VALUE_PITCH + at - 2 * ALL_KEYS] = make_float2(a, b);
            } else if (at >= ALL_KEYS) {
                const float weight = expf((float)(CHUNK - 1 - t) * job.decay[(at - ALL_KEYS) / KEYS]);
                *(float2 *)&keys[t * KEY_PITCH + at - ALL_KEYS] = make_float2(weight * a, weight * b);
            }
        });
    }
    __syncthreads();
    /* 16 keys by 32 values a warp */
    const int head = warp / 4, key0 = warp / 2 % 2 * 16, value0 = warp % 2 * 32;
    const float *k = keys + q * KEY_PITCH + head * KEYS + key0 + g,
                *v = values + q * VALUE_PITCH + head * VALUES + value0 + g;
    float sums[1][4][4] = {};
#pragma unroll 4
    for (int t = 0; t < CHUNK; t += 8) {
        const float a[4] = {k[t * KEY_PITCH], k[t * KEY_PITCH + 8], k[(t + 4) * KEY_PITCH],
                            k[(t + 4) * KEY_PITCH + 8]};
#pragma unroll
        for (int n = 0; n < 4; n++)
            sv_mma_float<s::EXACT>(sums[0][n], a, v[t * VALUE_PITCH + 8 * n],
                                   v[(t + 4) * VALUE_PITCH + 8 * n]);
    }
    float *to = job.ends + (int64_t)blockIdx.x * STATE + (head * KEYS + key0) * VALUES + value0;
    sv_matrix_each(sums, [&](int row, int column, float a, float b) {
        *(float2 *)&to[row * VALUES + column] = make_float2(a, b);
    });
}

/* ---- 2 ------------------------------------------------------------------------------------------------- */

/* A thread per group and number of a state; 'ends' becomes what each chunk starts from. */
__global__ void carry(const __grid_constant__ block_job job)
{
    enum { AT_ONCE = 16 };
    const int64_t item = sv_thread(), group = item / STATE;
    const int cell = (int)(item % STATE);
    sv_wait_before();
    if (group * job.chunks >= live_chunks(job)) return;
    const float factor = expf((float)CHUNK * job.decay[cell / (KEYS * VALUES)]);
    float state = 0.0f;
    for (int first = 0; first < job.chunks; first += AT_ONCE) {
        float end[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            end[i] = job.ends[(group * job.chunks + min(first + i, job.chunks - 1)) * STATE + cell];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (first + i >= job.chunks) break;
            job.ends[(group * job.chunks + first + i) * STATE + cell] = state;
            state = fmaf(factor, state, end[i]);
        }
    }
}

/* ---- 3 ------------------------------------------------------------------------------------------------- */

/* The result of 16 tokens of a head, by one warp. */
template <typename T>
__device__ __forceinline__ void retain(const block_job &job, const float *tiles, T *out, int head, int tile)
{
    constexpr bool exact = shape<T>::EXACT;
    constexpr int STEPS = KEYS / 8, NT = VALUES / 8;
    const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, row = 16 * tile + g;
    const float *queries = tiles + row * KEY_PITCH + head * KEYS, *k = tiles + KEY_TILE + head * KEYS,
                *v = tiles + 2 * KEY_TILE + head * VALUES;
    const float *state = job.ends + (int64_t)blockIdx.x * STATE + head * KEYS * VALUES;
    const float log = job.decay[head], before0 = expf((float)(row + 1) * log),
                before1 = expf((float)(row + 9) * log);
    float a[STEPS][4], sums[1][NT][4] = {};
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        const float *at = queries + 8 * i + q;
        a[i][0] = at[0];
        a[i][1] = at[8 * KEY_PITCH];
        a[i][2] = at[4];
        a[i][3] = at[8 * KEY_PITCH + 4];
    }
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        const float *at = state + (8 * i + q) * VALUES + g;
#pragma unroll
        for (int n = 0; n < NT; n++) sv_mma_float<exact>(sums[0][n], a[i], at[8 * n], at[4 * VALUES + 8 * n]);
    }
#pragma unroll
    for (int n = 0; n < NT; n++) {
        sums[0][n][0] *= before0;
        sums[0][n][1] *= before0;
        sums[0][n][2] *= before1;
        sums[0][n][3] *= before1;
    }
#pragma unroll 2
    for (int j = 0; j < CHUNK / 8; j++) {
        float product[4] = {};
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const float *at = k + (8 * j + g) * KEY_PITCH + 8 * i + q;
            sv_mma_float<exact>(product, a[i], at[0], at[4]);
        }
        const int token = 8 * j + 2 * q;
        auto weigh = [&](float x, int t, int seen) {
            const float distance = fabsf((float)(t - seen)) * log;
            return x * (exact ? expf(distance) : sv_fast_exp(distance));
        };
        /* as an operand of the next product: sums over k may be taken in any order, so lane q has tokens 2q, 2q + 1 */
        const float p[4] = {weigh(product[0], row, token), weigh(product[2], row + 8, token),
                            weigh(product[1], row, token + 1), weigh(product[3], row + 8, token + 1)};
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const float *at = v + token * VALUE_PITCH + 8 * n + g;
            sv_mma_float<exact>(sums[0][n], p, at[0], at[VALUE_PITCH]);
        }
    }
    sv_matrix_each(sums, [&](int r, int column, float first, float second) {
        sv_put(out + (16 * tile + r) * shape<T>::MIXED_PITCH + head * VALUES + column, job.scale * first,
               job.scale * second);
    });
}

template <typename T>
__global__ void __launch_bounds__(THREADS, shape<T>::EXACT ? 1 : 2)
    retain_and_project(const __grid_constant__ block_job job)
{
    using s = shape<T>;
    using number = typename sv_kept<T>::type;
    extern __shared__ float4 dynamic[];
    float *tiles = (float *)dynamic, *x = tiles + s::TILES;
    int *rows = (int *)(x + CHUNK * PITCH);
    T *out = (T *)(rows + CHUNK), *normed = out, *hidden = (T *)dynamic;
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
    sv_wait_before();
    if ((int)blockIdx.x >= live_chunks(job)) return;
    const int64_t slot0 = (int64_t)blockIdx.x * CHUNK;
    if (tid < CHUNK) { /* the row that keeps a slot's result; -1: none */
        const int row = ((const int32_t *)job.slots.data)[slot0 + tid];
        rows[tid] = job.row_slot[row] == slot0 + tid ? row : -1;
    }
#pragma unroll 8
    for (int i = tid; i < CHUNK * (QKV / 4); i += THREADS) {
        const int t = i / (QKV / 4), at = i % (QKV / 4) * 4;
        const float4 value = sv_get4((const number *)job.qkv + (slot0 + t) * QKV + at);
        float *to = at < 2 * ALL_KEYS ? tiles + at / ALL_KEYS * KEY_TILE + t * KEY_PITCH + at % ALL_KEYS
                                      : tiles + 2 * KEY_TILE + t * VALUE_PITCH + at - 2 * ALL_KEYS;
        *(float4 *)to = value;
    }
    __syncthreads();
    retain<T>(job, tiles, out, warp / 4, warp % 4);
    __syncthreads();
    const int row0 = warp / 4 * 32, column0 = warp % 4 * 16; /* a warp's part of C outputs */
    {
        float sums[2][2][4] = {};
        sv_warp_product<CHANNELS, ALL_VALUES>(sums, out + row0 * s::MIXED_PITCH, job.o_proj, column0,
                                              s::MIXED_PITCH);
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            const int t = row0 + row, at = column0 + column, from = rows[t];
            const float2 in = from < 0 ? make_float2(0, 0)
                                       : sv_get((const float *)job.x.data + (int64_t)from * job.x.pitch + at);
            *(float2 *)&x[t * PITCH + at] = make_float2(in.x + a, in.y + b);
        });
    }
    __syncthreads();
    for (int t = warp; t < CHUNK; t += WARPS) {
        const float2 value =
            normalise(sv_get(x + t * PITCH + 2 * lane), job.final_weight, job.final_bias, job.eps);
        sv_put(normed + t * s::ROW_PITCH + 2 * lane, value.x, value.y);
    }
    __syncthreads();
    for (int half = 0; half < 2; half++) {
        const int first = 32 * half, column = 32 * warp;
        float sums[2][4][4] = {};
        sv_warp_product<HIDDEN, CHANNELS>(sums, normed + first * s::ROW_PITCH, job.fc1, column, s::ROW_PITCH);
        sv_matrix_each(sums, [&](int row, int at, float a, float b) {
            const float2 bias = sv_get(job.hidden_bias + column + at);
            sv_put(hidden + (first + row) * s::HIDDEN_PITCH + column + at,
                   sv_map_value(SV_MAP_gelu, a + bias.x, 0.0f), sv_map_value(SV_MAP_gelu, b + bias.y, 0.0f));
        });
    }
    __syncthreads();
    float sums[2][2][4] = {};
    sv_warp_product<CHANNELS, HIDDEN>(sums, hidden + row0 * s::HIDDEN_PITCH, job.fc2, column0,
                                      s::HIDDEN_PITCH);
    sv_matrix_each(sums, [&](int row, int column, float a, float b) {
        const int t = row0 + row, at = column0 + column, to = rows[t];
        const float2 in = sv_get(x + t * PITCH + at), bias = sv_get(job.last_bias + at);
        if (to >= 0)
            *(float2 *)((float *)job.y.data + (int64_t)to * job.y.pitch + at) =
                make_float2(in.x + (a + bias.x), in.y + (b + bias.y));
    });
}

template <typename T> sv_status run_block(sv_ctx *c, block_job job, const sv_retnet_weights *w)
{
    using s = shape<T>;
    static_assert(sv_within(SV_ROOM_RETNET, s::FIRST_BYTES, s::LAST_BYTES),
                  "sv_retnet_block_fits() knows how much shared memory is taken");
    const size_t slots = (size_t)job.slots.dim[0], chunks = slots / CHUNK;
    const int64_t cells = (int64_t)(slots / (size_t)job.length) * STATE;
    void *ends = NULL;
    job.qkv_weight = sv_factor<T>(w->qkv);
    job.o_proj = sv_factor<T>(w->o_proj);
    job.fc1 = sv_factor<T>(w->fc1);
    job.fc2 = sv_factor<T>(w->fc2);
    SV_TRY(sv_arena_alloc(c, &c->scratch, "retnet q, k, v", slots * QKV * sizeof(typename sv_kept<T>::type),
                          &job.qkv));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "retnet chunk states", chunks * STATE * sizeof(float), &ends));
    job.ends = (float *)ends;
    SV_TRY(
        sv_launch_early(c, "retnet_block", project<T>, job, dim3((unsigned)chunks), THREADS, s::FIRST_BYTES));
    SV_TRY(sv_launch_early(c, "retnet_block", carry, job, dim3(sv_cuda_blocks(cells)), SV_CUDA_THREADS, 0));
    return sv_launch_early(c, "retnet_block", retain_and_project<T>, job, dim3((unsigned)chunks), THREADS,
                           s::LAST_BYTES);
}

} // namespace

sv_status sv_cuda_retnet_block(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_retnet_weights *w,
                               const sv_order *order, int length)
{
    if (order->slot_row.dim[0] == 0) return SV_OK;
    SV_CHECK(c, x.pitch % 2 == 0 && y.pitch % 2 == 0, SV_BAD_SHAPE,
             "retnet_block: rows of %d numbers lie %d and %d apart", x.dim[1], x.pitch, y.pitch);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    block_job job = {};
    job.x = x;
    job.y = y;
    job.slots = order->slot_row;
    job.row_slot = (const int32_t *)order->row_slot.data;
    job.decay = (const float *)w->decay.data;
    job.norm_weight = (const float *)w->norm_weight.data;
    job.norm_bias = (const float *)w->norm_bias.data;
    job.final_weight = (const float *)w->final_weight.data;
    job.final_bias = (const float *)w->final_bias.data;
    job.hidden_bias = (const float *)w->fc1.bias.data;
    job.last_bias = (const float *)w->fc2.bias.data;
    job.length = length;
    job.chunks = length / CHUNK;
    job.eps = w->eps;
    job.scale = w->scale;
    if (c->precision == SV_FP32)
        SV_TRY(run_block<float>(c, job, w));
    else if (c->precision == SV_BF16_MATH)
        SV_TRY(run_block<__nv_bfloat16>(c, job, w));
    else
        SV_TRY(run_block<__half>(c, job, w));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
