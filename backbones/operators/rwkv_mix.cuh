/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels 1 and 2 of an RWKV-6 block (rwkv.cu): everything in front of the walks, and what goes along the chunks.
 */
#ifndef SV_RWKV_MIX_CUH
#define SV_RWKV_MIX_CUH

#include "backbones/operators/rwkv_job.cuh"

namespace {

/* ---- 1 ------------------------------------------------------------------------------------------------- */

template <int C, typename T> struct first_shape : shape<C, T> {
    using s = shape<C, T>;
    enum {
        WARPS = C <= 64 ? 10 : 20,
        THREADS = 32 * WARPS,
        ROWS_PER_WARP = (s::CHUNK + WARPS) / WARPS, /* of CHUNK + 1 */
        NORMED = (s::CHUNK + 1) * s::PITCH,         /* floats */
        VALUES = s::CHUNK * s::PITCH,
        BYTES = (NORMED + VALUES) * 4 + s::CHUNK * (s::LOW_PITCH + MIXTURES * s::ROW_PITCH) * (int)sizeof(T),
    };
    static_assert(3 * VALUES * 4 <= s::CHUNK * MIXTURES * s::ROW_PITCH * (int)sizeof(T),
                  "decays and scaled keys lie where mixtures were");
    static_assert(2 * C <= THREADS, "a thread per channel and direction");
};

/* Rows of the chunk and of the token before it, normalised, to 'normed'; zeros where there is none. */
template <int C, typename T>
__device__ __forceinline__ void load_rows(const block_job &job, float *normed, int chunk, int64_t slot0)
{
    using s = first_shape<C, T>;
    constexpr int N = C / 32, ROWS = s::ROWS_PER_WARP;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = chunk == 0 ? 1 : 0;
    const int32_t *slot_row = (const int32_t *)job.slots.data;
    int row[ROWS];
    float value[ROWS][N];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int t = warp + i * s::WARPS;
        row[i] = t >= first && t <= s::CHUNK ? slot_row[slot0 + t - 1] : -1;
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            value[i][j] = row[i] < 0
                              ? 0.0f
                              : ((const float *)job.x.data)[(int64_t)row[i] * job.x.pitch + lane + 32 * j];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int t = warp + i * s::WARPS;
        if (t > s::CHUNK) continue;
        if (row[i] >= 0) {
            if (job.ln0.weight) normalise<N>(value[i], job.ln0, job.eps, lane);
            if (t == s::CHUNK)
#pragma unroll
                for (int j = 0; j < N; j++) job.last[(int64_t)blockIdx.x * C + lane + 32 * j] = value[i][j];
            normalise<N>(value[i], job.ln1, job.eps, lane);
        }
#pragma unroll
        for (int j = 0; j < N; j++) normed[t * s::PITCH + lane + 32 * j] = value[i][j];
    }
}

/* What the chunk adds to the state behind it: per direction and head (scaled keys)' values. */
template <int C, typename T>
__device__ __forceinline__ void add_up(const block_job &job, const float *scaled, const float *values)
{
    using s = first_shape<C, T>;
    constexpr int KEYS = s::KEYS, MT = KEYS / 16, NT = 2, PARTS = KEYS / 8 / NT, PITCH = s::PITCH;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    for (int item = warp; item < 2 * HEADS * PARTS; item += s::WARPS) {
        const int direction = item / (HEADS * PARTS), head = item / PARTS % HEADS, part = item % PARTS;
        const float *k = scaled + direction * s::CHUNK * PITCH + q * PITCH + head * KEYS + g,
                    *v = values + q * PITCH + head * KEYS + part * 8 * NT + g;
        float sums[MT][NT][4] = {};
#pragma unroll 4
        for (int t = 0; t < s::CHUNK; t += 8)
#pragma unroll
            for (int m = 0; m < MT; m++) {
                const float a[4] = {k[t * PITCH + 16 * m], k[t * PITCH + 16 * m + 8],
                                    k[(t + 4) * PITCH + 16 * m], k[(t + 4) * PITCH + 16 * m + 8]};
#pragma unroll
                for (int n = 0; n < NT; n++)
                    sv_mma_float<s::EXACT>(sums[m][n], a, v[t * PITCH + 8 * n], v[(t + 4) * PITCH + 8 * n]);
            }
        float *to =
            job.ends + (((int64_t)blockIdx.x * 2 + direction) * HEADS + head) * KEYS * KEYS + part * 8 * NT;
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            *(float2 *)&to[row * KEYS + column] = make_float2(a, b);
        });
    }
}

template <int C, typename T>
__global__ void __launch_bounds__(first_shape<C, T>::THREADS)
    mix_and_project(const __grid_constant__ block_job job)
{
    using s = first_shape<C, T>;
    using number = typename sv_kept<T>::type;
    constexpr int CHUNK = s::CHUNK, PITCH = s::PITCH, MT = s::MT, NT = s::NT, PER = C / s::COLUMNS;
    extern __shared__ float4 dynamic[];
    float *normed = (float *)dynamic, *values = normed + s::NORMED, *keys = normed;
    T *low = (T *)(values + s::VALUES), *mixed = low + CHUNK * s::LOW_PITCH;
    const int tid = threadIdx.x, warp = tid / 32, pair = tid % 4 * 2;
    sv_wait_before();
    if ((int)blockIdx.x >= live_chunks<CHUNK>(job)) return;
    const int chunk = blockIdx.x % job.chunks;
    const int64_t slot0 = (int64_t)blockIdx.x * CHUNK;

    load_rows<C, T>(job, normed, chunk, slot0);
    __syncthreads();
    for (int i = tid; i < CHUNK * (C / 2); i += s::THREADS) {
        const int t = i / (C / 2), at = i % (C / 2) * 2;
        put_mixed(mixed + t * s::ROW_PITCH + at, job.mix_x, at, sv_get(normed + t * PITCH + at),
                  sv_get(normed + (t + 1) * PITCH + at));
    }
    __syncthreads();
    for (int item = warp; item < MIX_COLUMNS / s::COLUMNS; item += s::WARPS) {
        const int column0 = item * s::COLUMNS;
        float sums[MT][NT][4] = {};
        sv_warp_product<MIX_COLUMNS, C>(sums, mixed, job.mix_down, column0, s::ROW_PITCH);
        sv_matrix_each(sums, [&](int t, int column, float a, float b) {
            sv_put(low + t * s::LOW_PITCH + column0 + column, hyperbolic<T>(a), hyperbolic<T>(b));
        });
    }
    __syncthreads();
    for (int item = warp; item < MIXTURES * PER; item += s::WARPS) {
        const int mixture = item / PER, column0 = item % PER * s::COLUMNS;
        const float2 bias[NT] = {__ldg((const float2 *)(job.mix_bias[mixture] + column0 + pair)),
                                 __ldg((const float2 *)(job.mix_bias[mixture] + column0 + 8 + pair))};
        float sums[MT][NT][4] = {};
        sv_warp_product<C, MIX_RANK>(sums, low + MIX_RANK * mixture, job.mix_up[mixture], column0,
                                     s::LOW_PITCH);
        sv_matrix_each(sums, [&](int t, int column, float a, float b) {
            const int at = column0 + column;
            const float2 before = sv_get(normed + t * PITCH + at),
                         own = sv_get(normed + (t + 1) * PITCH + at), add = bias[column / 8];
            sv_put(mixed + (mixture * CHUNK + t) * s::ROW_PITCH + at,
                   fmaf(before.x - own.x, a + add.x, own.x), fmaf(before.y - own.y, b + add.y, own.y));
        });
    }
    __syncthreads(); /* 'low' and 'normed' have been read */
    for (int item = warp; item < MIXTURES * PER; item += s::WARPS) {
        const int mixture = item / PER, column0 = item % PER * s::COLUMNS;
        const T *rows = mixed + mixture * CHUNK * s::ROW_PITCH;
        float sums[MT][NT][4] = {};
        if (mixture == MIX_W) {
            if (column0 >= DECAY_RANK) continue;
            sv_warp_product<DECAY_RANK, C>(sums, rows, job.projection[MIX_W], column0, s::ROW_PITCH);
            sv_matrix_each(sums, [&](int t, int column, float a, float b) {
                sv_put(low + t * s::RANK_PITCH + column0 + column, hyperbolic<T>(a), hyperbolic<T>(b));
            });
        } else {
            void *const stream = mixture == MIX_K   ? job.k
                                 : mixture == MIX_V ? job.v
                                 : mixture == MIX_R ? job.r
                                                    : job.gate;
            float *const near = mixture == MIX_K ? keys : mixture == MIX_V ? values : NULL;
            sv_warp_product<C, C>(sums, rows, job.projection[mixture], column0, s::ROW_PITCH);
            sv_keep_sums((number *)stream + slot0 * C + column0, C, sums);
            if (near)
                sv_matrix_each(sums, [&](int t, int column, float a, float b) {
                    *(float2 *)&near[t * PITCH + column0 + column] = make_float2(a, b);
                });
        }
    }
    __syncthreads(); /* 'mixed' has been read */
    float *decay = (float *)mixed, *scaled = decay + s::VALUES;
    for (int item = warp; item < PER; item += s::WARPS) {
        const int column0 = item * s::COLUMNS;
        const float2 bias[NT] = {__ldg((const float2 *)(job.decay_bias + column0 + pair)),
                                 __ldg((const float2 *)(job.decay_bias + column0 + 8 + pair))};
        float sums[MT][NT][4] = {};
        sv_warp_product<C, DECAY_RANK>(sums, low, job.decay_up, column0, s::RANK_PITCH);
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) { /* what is kept is what both kernels use */
                    const float log = -exponential<s::EXACT>(sums[m][n][i] + (i % 2 ? bias[n].y : bias[n].x));
                    sums[m][n][i] = (float)(number)fmaxf(log, MOST_DECAY);
                }
        sv_keep_sums((number *)job.decay + slot0 * C + column0, C, sums);
        sv_matrix_each(sums, [&](int t, int column, float a, float b) {
            *(float2 *)&decay[t * PITCH + column0 + column] = make_float2(a, b);
        });
    }
    __syncthreads();
    if (tid < 2 * C) {
        const int direction = tid / C, channel = tid % C;
        float sum = 0;
#pragma unroll 8
        for (int i = 0; i < CHUNK; i++) {
            const int t = direction ? i : CHUNK - 1 - i;
            scaled[(direction * CHUNK + t) * PITCH + channel] = keys[t * PITCH + channel] * sv_fast_exp(sum);
            sum += decay[t * PITCH + channel];
        }
        if (direction == 0) job.sums[(int64_t)blockIdx.x * C + channel] = sum;
    }
    __syncthreads();
    add_up<C, T>(job, scaled, values);
}

/* ---- 2 ------------------------------------------------------------------------------------------------- */

/* A thread per group, direction and number of a state; 'ends' becomes what each chunk starts from. */
template <int C, int CHUNK> __global__ void carry(const __grid_constant__ block_job job)
{
    enum { KEYS = C / HEADS, STATE = C * KEYS, AT_ONCE = 16 };
    const int64_t item = sv_thread(), group = item / (2 * STATE);
    const int cell = (int)(item % STATE), direction = (int)(item / STATE % 2), channel = cell / KEYS;
    sv_wait_before();
    if (group * job.chunks >= live_chunks<CHUNK>(job)) return;
    float state = 0.0f;
    for (int first = 0; first < job.chunks; first += AT_ONCE) {
        float end[AT_ONCE], sum[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int walked = min(first + i, job.chunks - 1);
            const int64_t at = group * job.chunks + (direction ? job.chunks - 1 - walked : walked);
            end[i] = job.ends[(at * 2 + direction) * STATE + cell];
            sum[i] = job.sums[at * C + channel];
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int walked = first + i;
            if (walked >= job.chunks) break;
            const int64_t at = group * job.chunks + (direction ? job.chunks - 1 - walked : walked);
            job.ends[(at * 2 + direction) * STATE + cell] = state;
            state = fmaf(sv_fast_exp(sum[i]), state, end[i]);
        }
    }
}

} // namespace

#endif
