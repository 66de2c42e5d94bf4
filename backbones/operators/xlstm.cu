/* SPDX-License-Identifier: Apache-2.0
 *
 * An xLSTM block of LION on the GPU: for each of its two walks three kernels (formulas: xlstm.c). Groups are cut
 * into chunks of 64 tokens in walking order, which all run at once:
 *
 *     1  chunk          gather -> LayerNorm -> proj_up -> short convolution -> q, k, v, gates, which are kept; what
 *                       the chunk leaves from nothing: C, n and their maximum m
 *     2  along chunks   m' = max(F + m, m_end);  C' = e^(F + m - m') C + e^(m_end - m') C_end, n alike
 *     3  chunk          the cell from its C, n, m -> GroupNorm, skip, gate -> proj_down, residual
 *
 * Within a chunk F_t is the sum of logarithms of forget gates up to token t, G_s = igate_s - F_s, and
 * M_t = max(m, G_s of s <= t); then m_t = F_t + M_t, and all of
 *
 *     h_t = (e^(m - M_t) C'q_t + sum over s <= t of e^(G_s - M_t) (q_t.k_s) v_s)
 *           / (max(|the same of n|, e^(-m_t)) + eps)
 *
 * are products of matrices with factors of at most one. Three tokens before the chunk come along for the
 * convolution. What is kept are floats in fp32, half floats otherwise. The first walk goes from rows to slots,
 * the second back.
 */
#include "backbones/warp_product.cuh"
#include "perception/core/maps.cuh"

namespace {

enum {
    CHANNELS = 64,
    INNER = 128,
    HEADS = 4,
    KEYS = INNER / HEADS,
    CHUNK = 64,
    HISTORY = 3, /* tokens that the convolution looks back */
    LOADED = CHUNK + HISTORY,
    LOADED_ROWS = (LOADED + 15) / 16 * 16,
    THREADS = 256,
    WARPS = THREADS / 32,
    PITCH = INNER + 4,
    TILE = CHUNK * PITCH,
    STATE = KEYS * KEYS + KEYS, /* C by key rows, n */
    GATES = 2 * HEADS,
};

struct cell_job {
    sv_tensor x, y, slots; /* rows; slot -> row, with offsets */
    const int32_t *row_slot;
    float *between; /* [slots][C]: from the first walk to the second */
    const float *norm_weight, *norm_bias, *up_bias, *conv_weight, *conv_bias;
    const float *block_weight[3], *block_bias[3]; /* q, k, v */
    const float *gate_bias, *outnorm_weight, *outnorm_bias, *skip, *down_bias;
    const void *proj_up, *gates, *proj_down;
    void *qkv, *s, *z; /* [slots][3 inner], [slots][inner] */
    float2 *places;    /* [chunks][heads][CHUNK]: F, G */
    float *ends;       /* [chunks][heads][STATE] */
    float *sums;       /* [chunks][heads]: F of the whole chunk */
    float *most;       /* [chunks][heads]: m at the end of a chunk, from nothing */
    float *starts;     /* [chunks][heads]: m at its start */
    int32_t length, chunks;
    float norm_eps, cell_eps;
    bool backwards;
};

template <typename T> struct shape {
    enum {
        EXACT = sizeof(T) == sizeof(float),
        ROW_PITCH = sv_row_pitch<T>(CHANNELS),
        QKV_PITCH = sv_row_pitch<T>(3 * INNER),
        MIXED_PITCH = sv_row_pitch<T>(INNER),
        FIRST_BYTES =
            (LOADED_ROWS * PITCH + CHUNK * GATES + HEADS * CHUNK) * 4 + CHUNK * QKV_PITCH * (int)sizeof(T),
        LAST_BYTES = (3 * TILE + 3 * HEADS * CHUNK + CHUNK) * 4,
    };
    static_assert(LOADED_ROWS * ROW_PITCH <= CHUNK * QKV_PITCH, "normed rows lie where q, k and v will");
    static_assert(CHUNK * MIXED_PITCH * sizeof(T) <= TILE * 4, "gated rows lie where keys were");
};

__device__ __forceinline__ int live_chunks(const cell_job &job)
{
    return sv_rows(job.slots) / CHUNK;
}

/* The input row of a slot. */
__device__ __forceinline__ const float *row_of(const cell_job &job, int64_t slot)
{
    if (job.backwards) return job.between + slot * CHANNELS;
    return (const float *)job.x.data + (int64_t)((const int32_t *)job.slots.data)[slot] * job.x.pitch;
}

__device__ __forceinline__ float log_sigmoid(float x)
{
    return -(-x > 20.0f ? -x : log1pf(expf(-x)));
}
template <bool exact> __device__ __forceinline__ float silu(float x)
{
    return x * (exact ? m_sigmoid(x) : sv_fast_sigmoid(x));
}
/* e^x, x <= 0 */
template <bool exact> __device__ __forceinline__ float shrink(float x)
{
    return exact ? expf(x) : sv_fast_exp(x);
}

__device__ __forceinline__ float dot4(float4 w, float4 x, float bias)
{
    return fmaf(w.w, x.w, fmaf(w.z, x.z, fmaf(w.y, x.y, fmaf(w.x, x.x, bias))));
}
template <typename T> __device__ __forceinline__ void put4(T *to, float4 value)
{
    sv_put(to, value.x, value.y);
    sv_put(to + 2, value.z, value.w);
}

/* ---- 1 ------------------------------------------------------------------------------------------------- */

/* Normalised rows of the chunk and of what comes before it, in walking order. */
template <typename T>
__device__ __forceinline__ void load_rows(const cell_job &job, T *normed, int64_t group, int begin)
{
    constexpr int ROWS = LOADED_ROWS / WARPS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float2 value[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int at = warp + i * WARPS, step = begin + at - HISTORY;
        const bool used = at < LOADED && step >= 0;
        value[i] = used ? *(const float2 *)(row_of(job, sv_slot_of(group, job.length, step, job.backwards)) +
                                            2 * lane)
                        : make_float2(0, 0);
    }
    const float2 weight = sv_get(job.norm_weight + 2 * lane), bias = sv_get(job.norm_bias + 2 * lane);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const float mean = sv_sum_of<32>(value[i].x + value[i].y) / (float)CHANNELS;
        const float a = value[i].x - mean, b = value[i].y - mean;
        const float scale = rsqrtf(sv_sum_of<32>(a * a + b * b) / (float)CHANNELS + job.norm_eps);
        sv_put(normed + (warp + i * WARPS) * shape<T>::ROW_PITCH + 2 * lane,
               fmaf(a * scale, weight.x, bias.x), fmaf(b * scale, weight.y, bias.y));
    }
}

/* [a | z] of the rows: a to shared memory, z of the chunk's tokens is kept. */
template <typename T>
__device__ __forceinline__ void project_up(const cell_job &job, const T *normed, float *a, int64_t group,
                                           int begin)
{
    using s = shape<T>;
    using number = typename sv_kept<T>::type;
    const int warp = threadIdx.x / 32, column0 = warp * 16;
    {
        float sums[LOADED_ROWS / 16][2][4] = {};
        sv_warp_product<2 * INNER, CHANNELS>(sums, normed, job.proj_up, column0, s::ROW_PITCH);
        sv_matrix_each(sums, [&](int row, int column, float first, float second) {
            const float2 bias = sv_get(job.up_bias + column0 + column);
            const bool used = begin + row >= HISTORY; /* nothing is before a group's first token */
            *(float2 *)&a[row * PITCH + column0 + column] =
                used ? make_float2(first + bias.x, second + bias.y) : make_float2(0, 0);
        });
    }
    float sums[CHUNK / 16][2][4] = {};
    sv_warp_product<2 * INNER, CHANNELS>(sums, normed + HISTORY * s::ROW_PITCH, job.proj_up, INNER + column0,
                                         s::ROW_PITCH);
#pragma unroll
    for (int n = 0; n < 2; n++) {
        const float2 bias = sv_get(job.up_bias + INNER + column0 + 8 * n + threadIdx.x % 4 * 2);
#pragma unroll
        for (int m = 0; m < CHUNK / 16; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) sums[m][n][i] += i % 2 ? bias.y : bias.x;
    }
    const int64_t slot = sv_slot_of(group, job.length, begin, job.backwards);
    sv_keep_sums((number *)job.z + slot * INNER + column0, job.backwards ? -INNER : INNER, sums);
}

/* s, q, k, v of every token: a thread has four channels. */
template <typename T>
__device__ __forceinline__ void convolve(const cell_job &job, const float *a, T *qkv, int64_t group,
                                         int begin)
{
    using s = shape<T>;
    using number = typename sv_kept<T>::type;
    const int channel = threadIdx.x % 32 * 4;
    float4 taps[4], weight[3][4], bias[3];
#pragma unroll
    for (int i = 0; i < 4; i++) taps[i] = *(const float4 *)(job.conv_weight + 4 * (channel + i));
#pragma unroll
    for (int b = 0; b < 3; b++) {
        bias[b] = *(const float4 *)(job.block_bias[b] + channel);
#pragma unroll
        for (int i = 0; i < 4; i++) weight[b][i] = *(const float4 *)(job.block_weight[b] + 4 * (channel + i));
    }
    const float4 conv_bias = *(const float4 *)(job.conv_bias + channel);
#pragma unroll 2
    for (int t = threadIdx.x / 32; t < CHUNK; t += WARPS) {
        float4 x[4];
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = *(const float4 *)&a[(t + i) * PITCH + channel];
        const float4 v = x[3];
        const float4 mixed = make_float4(
            silu<s::EXACT>(dot4(taps[0], make_float4(x[0].x, x[1].x, x[2].x, x[3].x), conv_bias.x)),
            silu<s::EXACT>(dot4(taps[1], make_float4(x[0].y, x[1].y, x[2].y, x[3].y), conv_bias.y)),
            silu<s::EXACT>(dot4(taps[2], make_float4(x[0].z, x[1].z, x[2].z, x[3].z), conv_bias.z)),
            silu<s::EXACT>(dot4(taps[3], make_float4(x[0].w, x[1].w, x[2].w, x[3].w), conv_bias.w)));
        const int64_t slot = sv_slot_of(group, job.length, begin + t, job.backwards);
        put4((number *)job.s + slot * INNER + channel, mixed);
#pragma unroll
        for (int b = 0; b < 3; b++) {
            const float4 in = b < 2 ? mixed : v;
            const float4 out =
                make_float4(dot4(weight[b][0], in, bias[b].x), dot4(weight[b][1], in, bias[b].y),
                            dot4(weight[b][2], in, bias[b].z), dot4(weight[b][3], in, bias[b].w));
            put4((number *)job.qkv + slot * (3 * INNER) + b * INNER + channel, out);
            put4(qkv + t * s::QKV_PITCH + b * INNER + channel, out);
        }
    }
}

/* F and G of a head's tokens, by one warp; 'weight' is what each token's k v' weighs at the chunk's end. */
__device__ __forceinline__ void add_gates(const cell_job &job, const float *gates, float *weight, int head)
{
    const int lane = threadIdx.x % 32;
    const int64_t place = (int64_t)blockIdx.x * HEADS + head;
    const float *first = gates + 2 * lane * GATES + head, *second = first + GATES;
    const float log0 = log_sigmoid(first[HEADS]), log1 = log_sigmoid(second[HEADS]);
    float sum = log0 + log1;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const float before = __shfl_up_sync(0xffffffffu, sum, d);
        if (lane >= d) sum += before;
    }
    float before = __shfl_up_sync(0xffffffffu, sum, 1);
    if (lane == 0) before = 0;
    const float f0 = before + log0, f1 = sum, g0 = first[0] - f0, g1 = second[0] - f1;
    float most = fmaxf(g0, g1);
#pragma unroll
    for (int d = 16; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, d));
    *(float2 *)&weight[head * CHUNK + 2 * lane] = make_float2(expf(g0 - most), expf(g1 - most));
    *(float4 *)&job.places[place * CHUNK + 2 * lane] = make_float4(f0, g0, f1, g1);
    if (lane == 31) {
        job.sums[place] = f1;
        job.most[place] = f1 + most;
    }
}

/* C and n that the chunk leaves, from nothing and divided by e^m: half of a head's keys a warp. */
template <typename T>
__device__ __forceinline__ void add_up(const cell_job &job, const T *qkv, const float *weight)
{
    using s = shape<T>;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const int head = warp / 2, key0 = warp % 2 * 16;
    const T *k = qkv + q * s::QKV_PITCH + INNER + head * KEYS + key0 + g,
            *v = qkv + q * s::QKV_PITCH + 2 * INNER + head * KEYS + g;
    constexpr int NT = KEYS / 8 + 1; /* the last: a column of ones, for n */
    float sums[1][NT][4] = {};
#pragma unroll 2
    for (int t = 0; t < CHUNK; t += 8) {
        const float w0 = weight[head * CHUNK + t + q], w1 = weight[head * CHUNK + t + q + 4];
        const T *k0 = k + t * s::QKV_PITCH, *k1 = k0 + 4 * s::QKV_PITCH, *v0 = v + t * s::QKV_PITCH,
                *v1 = v0 + 4 * s::QKV_PITCH;
        const float a[4] = {(float)k0[0], (float)k0[8], (float)k1[0], (float)k1[8]};
#pragma unroll
        for (int n = 0; n < NT - 1; n++)
            sv_mma_float<s::EXACT>(sums[0][n], a, w0 * (float)v0[8 * n], w1 * (float)v1[8 * n]);
        sv_mma_float<s::EXACT>(sums[0][NT - 1], a, g == 0 ? w0 : 0.0f, g == 0 ? w1 : 0.0f);
    }
    float *to = job.ends + ((int64_t)blockIdx.x * HEADS + head) * STATE;
    sv_matrix_each(sums, [&](int row, int column, float first, float second) {
        if (column < KEYS)
            *(float2 *)&to[(key0 + row) * KEYS + column] = make_float2(first, second);
        else if (column == KEYS)
            to[KEYS * KEYS + key0 + row] = first;
    });
}

template <typename T>
__global__ void __launch_bounds__(THREADS, shape<T>::EXACT ? 1 : 2)
    project(const __grid_constant__ cell_job job)
{
    using s = shape<T>;
    extern __shared__ float4 dynamic[];
    T *qkv = (T *)dynamic, *normed = qkv;
    float *a = (float *)(qkv + CHUNK * s::QKV_PITCH), *gates = a + LOADED_ROWS * PITCH,
          *weight = gates + CHUNK * GATES;
    const int warp = threadIdx.x / 32;
    sv_wait_before();
    if ((int)blockIdx.x >= live_chunks(job)) return;
    const int64_t group = blockIdx.x / job.chunks;
    const int begin = blockIdx.x % job.chunks * CHUNK;
    load_rows<T>(job, normed, group, begin);
    __syncthreads();
    project_up<T>(job, normed, a, group, begin);
    __syncthreads(); /* 'normed' has been read */
    convolve<T>(job, a, qkv, group, begin);
    __syncthreads();
    if (warp < CHUNK / 16) {
        float sums[1][1][4] = {};
        sv_warp_product<GATES, 3 * INNER>(sums, qkv + 16 * warp * s::QKV_PITCH, job.gates, 0, s::QKV_PITCH);
        sv_matrix_each(sums, [&](int row, int column, float first, float second) {
            const float2 bias = sv_get(job.gate_bias + column);
            *(float2 *)&gates[(16 * warp + row) * GATES + column] =
                make_float2(first + bias.x, second + bias.y);
        });
    }
    __syncthreads();
    if (warp < HEADS) add_gates(job, gates, weight, warp);
    __syncthreads();
    add_up<T>(job, qkv, weight);
}

/* ---- 2 ------------------------------------------------------------------------------------------------- */

/* A thread per group, head and number of a state; 'ends' becomes what each chunk starts from. */
__global__ void carry(const __grid_constant__ cell_job job)
{
    enum { AT_ONCE = 16 };
    const int64_t item = sv_thread(), group = item / (HEADS * STATE);
    const int cell = (int)(item % STATE), head = (int)(item / STATE % HEADS);
    sv_wait_before();
    if (group * job.chunks >= live_chunks(job)) return;
    float state = 0.0f, m = -INFINITY;
    for (int first = 0; first < job.chunks; first += AT_ONCE) {
        float end[AT_ONCE], sum[AT_ONCE], most[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int64_t place = (group * job.chunks + min(first + i, job.chunks - 1)) * HEADS + head;
            end[i] = job.ends[place * STATE + cell];
            sum[i] = job.sums[place];
            most[i] = job.most[place];
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (first + i >= job.chunks) break;
            const int64_t place = (group * job.chunks + first + i) * HEADS + head;
            job.ends[place * STATE + cell] = state;
            if (cell == 0) job.starts[place] = m;
            const float kept_most = sum[i] + m, next = fmaxf(kept_most, most[i]);
            state = fmaf(sv_fast_exp(kept_most - next), state, sv_fast_exp(most[i] - next) * end[i]);
            m = next;
        }
    }
}

/* ---- 3 ------------------------------------------------------------------------------------------------- */

/* Of a chunk's tokens, by head: G, M and e^-m. */
struct maxima {
    float *g, *m, *floor;
};

__device__ __forceinline__ void load_maxima(const cell_job &job, const maxima &to, int head)
{
    const int lane = threadIdx.x % 32;
    const int64_t place = (int64_t)blockIdx.x * HEADS + head;
    const float4 both = *(const float4 *)&job.places[place * CHUNK + 2 * lane]; /* F, G, F, G */
    float most = fmaxf(both.y, both.w);
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const float other = __shfl_up_sync(0xffffffffu, most, d);
        if (lane >= d) most = fmaxf(most, other);
    }
    float before = __shfl_up_sync(0xffffffffu, most, 1);
    const float start = job.starts[place];
    before = lane == 0 ? start : fmaxf(before, start);
    const float m0 = fmaxf(before, both.y), m1 = fmaxf(m0, both.w);
    const int at = head * CHUNK + 2 * lane;
    *(float2 *)&to.g[at] = make_float2(both.y, both.w);
    *(float2 *)&to.m[at] = make_float2(m0, m1);
    *(float2 *)&to.floor[at] = make_float2(expf(-(both.x + m0)), expf(-(both.z + m1)));
}

/* q (scaled), k, v of the chunk as floats. */
template <typename T>
__device__ __forceinline__ void load_streams(const cell_job &job, float *tiles, int64_t group, int begin)
{
    using number = typename sv_kept<T>::type;
    constexpr float scale = 0.17677669529663687f; /* 32^-1/2 */
    static_assert(KEYS == 32, "what queries are multiplied by");
#pragma unroll 8
    for (int i = threadIdx.x; i < CHUNK * (3 * INNER / 4); i += THREADS) {
        const int t = i / (3 * INNER / 4), at = i % (3 * INNER / 4) * 4;
        const int64_t slot = sv_slot_of(group, job.length, begin + t, job.backwards);
        float4 value = sv_get4((const number *)job.qkv + slot * (3 * INNER) + at);
        if (at < INNER)
            value = make_float4(scale * value.x, scale * value.y, scale * value.z, scale * value.w);
        *(float4 *)&tiles[at / INNER * TILE + t * PITCH + at % INNER] = value;
    }
}

/* The cell for 16 tokens of a head, by one warp; h takes the place of their q. */
template <bool exact>
__device__ __forceinline__ void run_cell(const cell_job &job, float *tiles, const maxima &gates, int head,
                                         int tile)
{
    constexpr int STEPS = KEYS / 8, NT = KEYS / 8;
    const int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, row = 16 * tile + g;
    float *queries = tiles + row * PITCH + head * KEYS;
    const float *k = tiles + TILE + head * KEYS, *v = tiles + 2 * TILE + head * KEYS;
    const float *state = job.ends + ((int64_t)blockIdx.x * HEADS + head) * STATE, *n0 = state + KEYS * KEYS;
    const float m0 = gates.m[head * CHUNK + row], m1 = gates.m[head * CHUNK + row + 8];
    const float start = job.starts[(int64_t)blockIdx.x * HEADS + head];
    float a[STEPS][4], sums[NT][4] = {}, below0 = 0, below1 = 0;
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        const float *at = queries + 8 * i + q;
        a[i][0] = at[0];
        a[i][1] = at[8 * PITCH];
        a[i][2] = at[4];
        a[i][3] = at[8 * PITCH + 4];
    }
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        const int key = 8 * i + q;
        below0 = fmaf(a[i][0], n0[key], fmaf(a[i][2], n0[key + 4], below0));
        below1 = fmaf(a[i][1], n0[key], fmaf(a[i][3], n0[key + 4], below1));
#pragma unroll
        for (int n = 0; n < NT; n++)
            sv_mma_float<exact>(sums[n], a[i], state[key * KEYS + 8 * n + g],
                                state[(key + 4) * KEYS + 8 * n + g]);
    }
    const float scale0 = shrink<exact>(start - m0), scale1 = shrink<exact>(start - m1);
    below0 *= scale0;
    below1 *= scale1;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        sums[n][0] *= scale0;
        sums[n][1] *= scale0;
        sums[n][2] *= scale1;
        sums[n][3] *= scale1;
    }
    for (int j = 0; j < 2 * tile + 2; j++) { /* eight earlier tokens, or the tile's own */
        float product[4] = {};
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const float *at = k + (8 * j + g) * PITCH + 8 * i + q;
            sv_mma_float<exact>(product, a[i], at[0], at[4]);
        }
        const int token = 8 * j + 2 * q;
        const float2 log = *(const float2 *)&gates.g[head * CHUNK + token];
        /* as an operand of the next product: sums over k may be taken in any order, so lane q has tokens 2q, 2q + 1 */
        const float p[4] = {token <= row ? product[0] * shrink<exact>(log.x - m0) : 0.0f,
                            token <= row + 8 ? product[2] * shrink<exact>(log.x - m1) : 0.0f,
                            token + 1 <= row ? product[1] * shrink<exact>(log.y - m0) : 0.0f,
                            token + 1 <= row + 8 ? product[3] * shrink<exact>(log.y - m1) : 0.0f};
        below0 += p[0] + p[2];
        below1 += p[1] + p[3];
#pragma unroll
        for (int n = 0; n < NT; n++) {
            const float *at = v + token * PITCH + 8 * n + g;
            sv_mma_float<exact>(sums[n], p, at[0], at[PITCH]);
        }
    }
    below0 = 1.0f / (fmaxf(fabsf(sv_sum_of<4>(below0)), gates.floor[head * CHUNK + row]) + job.cell_eps);
    below1 = 1.0f / (fmaxf(fabsf(sv_sum_of<4>(below1)), gates.floor[head * CHUNK + row + 8]) + job.cell_eps);
    __syncwarp(); /* everyone has its q */
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float *to = queries + 8 * n + 2 * q;
        *(float2 *)to = make_float2(sums[n][0] * below0, sums[n][1] * below0);
        *(float2 *)(to + 8 * PITCH) = make_float2(sums[n][2] * below1, sums[n][3] * below1);
    }
}

/* (GroupNorm(h) + skip s) SiLU(z), a warp per token. */
template <typename T>
__device__ __forceinline__ void gate_rows(const cell_job &job, T *mixed, const float *h, int64_t group,
                                          int begin)
{
    using number = typename sv_kept<T>::type;
    const int warp = threadIdx.x / 32, at = threadIdx.x % 32 * 4;
    const float4 weight = *(const float4 *)(job.outnorm_weight + at),
                 bias = *(const float4 *)(job.outnorm_bias + at), skip = *(const float4 *)(job.skip + at);
#pragma unroll 4
    for (int t = warp; t < CHUNK; t += WARPS) {
        const int64_t place = sv_slot_of(group, job.length, begin + t, job.backwards) * INNER + at;
        const float4 s = sv_get4((const number *)job.s + place), z = sv_get4((const number *)job.z + place);
        float4 x = *(const float4 *)&h[t * PITCH + at];
        const float mean = sv_sum_of<KEYS / 4>((x.x + x.y) + (x.z + x.w)) / (float)KEYS;
        x = make_float4(x.x - mean, x.y - mean, x.z - mean, x.w - mean);
        const float squares = sv_sum_of<KEYS / 4>((x.x * x.x + x.y * x.y) + (x.z * x.z + x.w * x.w)),
                    scale = rsqrtf(squares / (float)KEYS + job.norm_eps);
        constexpr bool exact = shape<T>::EXACT;
        put4(mixed + t * shape<T>::MIXED_PITCH + at,
             make_float4(fmaf(skip.x, s.x, fmaf(x.x * scale, weight.x, bias.x)) * silu<exact>(z.x),
                         fmaf(skip.y, s.y, fmaf(x.y * scale, weight.y, bias.y)) * silu<exact>(z.y),
                         fmaf(skip.z, s.z, fmaf(x.z * scale, weight.z, bias.z)) * silu<exact>(z.z),
                         fmaf(skip.w, s.w, fmaf(x.w * scale, weight.w, bias.w)) * silu<exact>(z.w)));
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 2) walk_and_project(const __grid_constant__ cell_job job)
{
    using s = shape<T>;
    extern __shared__ float4 dynamic[];
    float *tiles = (float *)dynamic;
    const maxima gates = {tiles + 3 * TILE, tiles + 3 * TILE + HEADS * CHUNK,
                          tiles + 3 * TILE + 2 * HEADS * CHUNK};
    int *rows = (int *)(gates.floor + HEADS * CHUNK);
    T *mixed = (T *)(tiles + TILE);
    const int tid = threadIdx.x, warp = tid / 32;
    sv_wait_before();
    if ((int)blockIdx.x >= live_chunks(job)) return;
    const int64_t group = blockIdx.x / job.chunks;
    const int begin = blockIdx.x % job.chunks * CHUNK;
    if (tid < CHUNK) { /* the row of a token; on the way back -1 where another slot's result is kept */
        const int64_t slot = sv_slot_of(group, job.length, begin + tid, job.backwards);
        const int row = ((const int32_t *)job.slots.data)[slot];
        rows[tid] = job.backwards && job.row_slot[row] != slot ? -1 : row;
    }
    if (warp >= WARPS - HEADS) load_maxima(job, gates, warp - (WARPS - HEADS));
    load_streams<T>(job, tiles, group, begin);
    __syncthreads();
    const int half = warp % 2; /* tiles 0 and 3, or 1 and 2, which is the same work */
    run_cell<s::EXACT>(job, tiles, gates, warp / 2, half);
    run_cell<s::EXACT>(job, tiles, gates, warp / 2, 3 - half);
    __syncthreads();
    gate_rows<T>(job, mixed, tiles, group, begin);
    __syncthreads();
    const int row0 = warp / 4 * 32, column0 = warp % 4 * 16;
    float sums[2][2][4] = {};
    sv_warp_product<CHANNELS, INNER>(sums, mixed + row0 * s::MIXED_PITCH, job.proj_down, column0,
                                     s::MIXED_PITCH);
    sv_matrix_each(sums, [&](int row, int column, float first, float second) {
        const int t = row0 + row, at = column0 + column, to = rows[t];
        if (to < 0) return;
        const int64_t slot = sv_slot_of(group, job.length, begin + t, job.backwards);
        const float *from = job.backwards ? job.between + slot * CHANNELS
                                          : (const float *)job.x.data + (int64_t)to * job.x.pitch;
        const float2 in = sv_get(from + at), bias = sv_get(job.down_bias + at);
        float *out =
            job.backwards ? (float *)job.y.data + (int64_t)to * job.y.pitch : job.between + slot * CHANNELS;
        *(float2 *)(out + at) = make_float2(in.x + (first + bias.x), in.y + (second + bias.y));
    });
}

/* ---- both walks ---------------------------------------------------------------------------------------- */

template <typename T> void set_weights(cell_job *job, const sv_xlstm_direction *w)
{
    const sv_tensor blocks[3] = {w->q_weight, w->k_weight, w->v_weight},
                    biases[3] = {w->q_bias, w->k_bias, w->v_bias};
    job->norm_weight = (const float *)w->norm_weight.data;
    job->norm_bias = (const float *)w->norm_bias.data;
    job->up_bias = (const float *)w->proj_up.bias.data;
    job->conv_weight = (const float *)w->conv_weight.data;
    job->conv_bias = (const float *)w->conv_bias.data;
    for (int i = 0; i < 3; i++) {
        job->block_weight[i] = (const float *)blocks[i].data;
        job->block_bias[i] = (const float *)biases[i].data;
    }
    job->gate_bias = (const float *)w->gates.bias.data;
    job->outnorm_weight = (const float *)w->outnorm_weight.data;
    job->outnorm_bias = (const float *)w->outnorm_bias.data;
    job->skip = (const float *)w->skip.data;
    job->down_bias = (const float *)w->proj_down.bias.data;
    job->proj_up = sv_factor<T>(w->proj_up);
    job->gates = sv_factor<T>(w->gates);
    job->proj_down = sv_factor<T>(w->proj_down);
}

sv_status alloc(sv_ctx *c, const char *name, size_t bytes, void *out)
{
    return sv_arena_alloc(c, &c->scratch, name, bytes, (void **)out);
}

template <typename T> sv_status run_block(sv_ctx *c, cell_job job, const sv_xlstm_weights *w)
{
    using s = shape<T>;
    const size_t slots = (size_t)job.slots.dim[0], chunks = slots / CHUNK,
                 number = sizeof(typename sv_kept<T>::type);
    const int64_t cells = (int64_t)(slots / (size_t)job.length) * HEADS * STATE;
    SV_TRY(alloc(c, "xlstm between", slots * CHANNELS * sizeof(float), &job.between));
    SV_TRY(alloc(c, "xlstm q, k, v", slots * 3 * INNER * number, &job.qkv));
    SV_TRY(alloc(c, "xlstm s", slots * INNER * number, &job.s));
    SV_TRY(alloc(c, "xlstm z", slots * INNER * number, &job.z));
    SV_TRY(alloc(c, "xlstm gates", slots * HEADS * sizeof(float2), &job.places));
    SV_TRY(alloc(c, "xlstm chunk states", chunks * HEADS * STATE * sizeof(float), &job.ends));
    SV_TRY(alloc(c, "xlstm chunk sums", chunks * HEADS * sizeof(float), &job.sums));
    SV_TRY(alloc(c, "xlstm chunk maxima", chunks * HEADS * sizeof(float), &job.most));
    SV_TRY(alloc(c, "xlstm chunk starts", chunks * HEADS * sizeof(float), &job.starts));
    static_assert(sv_within(SV_ROOM_XLSTM, s::FIRST_BYTES, s::LAST_BYTES),
                  "sv_xlstm_block_fits() knows how much shared memory is taken");
    for (int direction = 0; direction < 2; direction++) {
        job.backwards = direction == 1;
        set_weights<T>(&job, &w->direction[direction]);
        SV_TRY(sv_launch_early(c, "xlstm_block", project<T>, job, dim3((unsigned)chunks), THREADS,
                               s::FIRST_BYTES));
        SV_TRY(
            sv_launch_early(c, "xlstm_block", carry, job, dim3(sv_cuda_blocks(cells)), SV_CUDA_THREADS, 0));
        SV_TRY(sv_launch_early(c, "xlstm_block", walk_and_project<T>, job, dim3((unsigned)chunks), THREADS,
                               s::LAST_BYTES));
    }
    return SV_OK;
}

} // namespace

sv_status sv_cuda_xlstm_block(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_xlstm_weights *w,
                              const sv_order *order, int length)
{
    if (order->slot_row.dim[0] == 0) return SV_OK;
    SV_CHECK(c, x.pitch % 2 == 0 && y.pitch % 2 == 0, SV_BAD_SHAPE,
             "xlstm_block: rows of %d numbers lie %d and %d apart", x.dim[1], x.pitch, y.pitch);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    cell_job job = {};
    job.x = x;
    job.y = y;
    job.slots = order->slot_row;
    job.row_slot = (const int32_t *)order->row_slot.data;
    job.length = length;
    job.chunks = length / CHUNK;
    job.norm_eps = w->norm_eps;
    job.cell_eps = w->cell_eps;
    if (c->precision == SV_FP32)
        SV_TRY(run_block<float>(c, job, w));
    else if (c->precision == SV_BF16_MATH)
        SV_TRY(run_block<__nv_bfloat16>(c, job, w));
    else
        SV_TRY(run_block<__half>(c, job, w));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
