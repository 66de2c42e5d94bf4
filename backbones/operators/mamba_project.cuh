/* SPDX-License-Identifier: Apache-2.0
 *
 * First kernel of a Mamba block (mamba.cu): a block of threads takes a chunk of a group's tokens,
 *
 *     gather x -> in_proj, the u half -> both ways: short convolution, SiLU -> x_proj -> dt_proj, softplus
 *
 * u is made once for both directions, with three tokens more on either side for the convolutions. v, delta, B
 * and C are kept in walking order, so that the walks of both directions are one code. Blocks stay on the GPU
 * and go from chunk to chunk: what lies beyond the live slots costs nothing.
 */
#ifndef SV_MAMBA_PROJECT_CUH
#define SV_MAMBA_PROJECT_CUH

#include "mamba_block.cuh"

namespace {

template <int C, int PRODUCTS> struct project_shape {
    enum {
        INNER = 2 * C,
        THREADS = C >= 64 ? 256 : 128,
        WARPS = THREADS / 32,
        BLOCKS = resident_threads(C, PRODUCTS) / THREADS, /* of a multiprocessor, at least */
        CHUNK = chunk_of(C, PRODUCTS),
        LOADED = CHUNK + 2 * HISTORY, /* three more on either side */
        ROW_TILES = (LOADED + 15) / 16,
        ALIGN = kept<PRODUCTS>::ALIGN,
        X_PITCH = C + ALIGN,
        V_PITCH = INNER + ALIGN,
        NUMBER = sizeof(typename kept<PRODUCTS>::number),
        X_BYTES = ROW_TILES * 16 * X_PITCH * NUMBER,
        U_BYTES = LOADED * V_PITCH * NUMBER,
        WIDE_BYTES = 2 * CHUNK * WIDE_PITCH * 4,
        FIRST_BYTES = X_BYTES > U_BYTES ? (X_BYTES > WIDE_BYTES ? X_BYTES : WIDE_BYTES)
                                        : (U_BYTES > WIDE_BYTES ? U_BYTES : WIDE_BYTES),
        BYTES = (FIRST_BYTES + 15) / 16 * 16 + 2 * CHUNK * V_PITCH * NUMBER,
    };
};

/* NT times 8 columns of x_proj from column 8 FIRST on, of 16 tokens, to their places in 'wide': B, C, dt. */
template <int C, int PRODUCTS, int FIRST, int NT>
__device__ __forceinline__ void project_wide(const block_job &job, const weights &w, float *wide,
                                             const typename kept<PRODUCTS>::number *v)
{
    using shape = project_shape<C, PRODUCTS>;
    float sums[1][NT][4] = {};
    multiply<1, NT, shape::INNER / SV_MATRIX_K>(sums, v, shape::V_PITCH, w.x_proj, FIRST);
    sv_matrix_each(sums, [&](int row, int column, float a, float b) {
        for (int e = 0; e < 2; e++) {
            const int from = 8 * FIRST + column + e;
            /* what lies behind the last is zero, and fills up dt */
            const int to = from < job.rank                ? 2 * STATES + from
                           : from < job.rank + 2 * STATES ? from - job.rank
                                                          : from;
            wide[row * WIDE_PITCH + to] = e ? b : a;
        }
    });
}

/*
 * v of two channels for 'count' tokens from 'first' on, in walking order: convolution and SiLU of their u. They stay in
 * shared memory, for x_proj, and are kept. 'out': the chunk's first tokens.
 */
template <int C, int PRODUCTS>
__device__ __forceinline__ void convolve(const weights &w, typename kept<PRODUCTS>::number *v, uint4 *out,
                                         const typename kept<PRODUCTS>::number *u, int direction, int channel,
                                         int first, int count)
{
    using shape = project_shape<C, PRODUCTS>;
    using store = kept<PRODUCTS>;
    using two = typename store::two;
    constexpr int INNER = shape::INNER, COUNT = piece<PRODUCTS>::COUNT, PITCH = shape::V_PITCH / 2;
    const float4 tap[2] = {*(const float4 *)(w.conv_weight + 4 * channel),
                           *(const float4 *)(w.conv_weight + 4 * channel + 4)};
    const float2 bias = *(const float2 *)(w.conv_bias + channel);
    const int step = direction ? -PITCH : PITCH;
    const two *from =
        (const two *)(u + channel) + (direction ? (shape::LOADED - 1) * PITCH : 0) + first * step;
    two *to = (two *)(v + channel) + first * PITCH;
    float2 u0 = store::widen(from[0]), u1 = store::widen(from[step]), u2 = store::widen(from[2 * step]);
    from += HISTORY * step;
#pragma unroll 1
    for (int t = first; t < first + count; t += COUNT) {
        piece<PRODUCTS> kept_v[2];
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const float2 u3 = store::widen(*from);
            const float x = fmaf(tap[0].w, u3.x,
                                 fmaf(tap[0].z, u2.x, fmaf(tap[0].y, u1.x, fmaf(tap[0].x, u0.x, bias.x)))),
                        y = fmaf(tap[1].w, u3.y,
                                 fmaf(tap[1].z, u2.y, fmaf(tap[1].y, u1.y, fmaf(tap[1].x, u0.y, bias.y))));
            const two both = store::pair(x * fast_sigmoid(x), y * fast_sigmoid(y));
            *to = both;
            kept_v[0].at[i] = both.x;
            kept_v[1].at[i] = both.y;
            u0 = u1;
            u1 = u2;
            u2 = u3;
            from += step;
            to += PITCH;
        }
        uint4 *at = out + t / COUNT * 2 * INNER + channel;
        at[0] = kept_v[0].bits;
        at[1] = kept_v[1].bits;
    }
}

/* delta of a warp's channels, 16 at once: dt_proj on tensor cores, eight tokens at a time, and softplus. */
template <int C, int PRODUCTS>
__device__ __forceinline__ void keep_delta(const block_job &job, const weights &w, uint4 *out,
                                           const float *wide, int channel0)
{
    using shape = project_shape<C, PRODUCTS>;
    using store = kept<PRODUCTS>;
    using factor = split<PRODUCTS>;
    constexpr int COUNT = piece<PRODUCTS>::COUNT, TILES = shape::INNER * 2 / 16 / shape::WARPS,
                  FOURS = C > 64 ? 2 : 1; /* of dt's rank */
    const int r = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
    factor left[TILES][2 * FOURS];
    float bias[TILES][2];
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int row = 0; row < 2; row++) {
            const int channel = channel0 + 16 * m + r + 8 * row;
            bias[m][row] = w.dt_bias[channel];
#pragma unroll
            for (int f = 0; f < FOURS; f++)
                left[m][2 * f + row] =
                    factor(4 * f + q < job.rank ? w.dt_weight[channel * job.rank + 4 * f + q] : 0.0f);
        }
#pragma unroll 1
    for (int t = 0; t < shape::CHUNK; t += 8) {
        factor right[FOURS];
#pragma unroll
        for (int f = 0; f < FOURS; f++)
            right[f] = factor(wide[(t + r) * WIDE_PITCH + 2 * STATES + 4 * f + q]);
        uint4 *at = out + ((t + 2 * q) / COUNT * 2 + 1) * shape::INNER + channel0 + r;
#pragma unroll
        for (int m = 0; m < TILES; m++) {
            float dt[4] = {};
#pragma unroll
            for (int f = 0; f < FOURS; f++) {
                const factor &one = left[m][2 * f], &other = left[m][2 * f + 1];
                if (PRODUCTS > 1) {
                    sv_mma_tf32_k4(dt, one.low, other.low, right[f].high);
                    sv_mma_tf32_k4(dt, one.high, other.high, right[f].low);
                }
                sv_mma_tf32_k4(dt, one.high, other.high, right[f].high);
            }
#pragma unroll
            for (int row = 0; row < 2; row++)
                ((typename store::two *)(at + 16 * m + 8 * row))[2 * q % COUNT / 2] =
                    store::pair(softplus<(PRODUCTS > 1)>(dt[2 * row] + bias[m][row]),
                                softplus<(PRODUCTS > 1)>(dt[2 * row + 1] + bias[m][row]));
        }
    }
}

template <int C, int PRODUCTS>
__device__ __forceinline__ void project_chunk(const block_job &job, int place, void *shared)
{
    using shape = project_shape<C, PRODUCTS>;
    using store = kept<PRODUCTS>;
    using number = typename store::number;
    constexpr int INNER = shape::INNER, THREADS = shape::THREADS, CHUNK = shape::CHUNK,
                  V_PITCH = shape::V_PITCH;
    const int tid = threadIdx.x, warp = tid / 32, chunks = job.length / CHUNK;
    const int64_t group = place / chunks;
    const int first = place % chunks * CHUNK;
    const int32_t *slot_row = (const int32_t *)job.slots.data + group * job.length;
    number *x = (number *)shared, *u = x; /* x, then u, then B, C and dt lie there */
    float *wide = (float *)shared;
    number *v = (number *)((char *)shared + (shape::FIRST_BYTES + 15) / 16 * 16);

#pragma unroll
    for (int i = tid; i < shape::ROW_TILES * 16 * (C / 4); i += THREADS) {
        const int row = i / (C / 4), at = i % (C / 4) * 4, slot = first + row - HISTORY;
        float4 value = make_float4(0, 0, 0, 0);
        if (row < shape::LOADED && slot >= 0 && slot < job.length)
            value = *(const float4 *)((const float *)job.x.data + (int64_t)slot_row[slot] * job.x.pitch + at);
        typename store::two *to = (typename store::two *)&x[row * shape::X_PITCH + at];
        to[0] = store::pair(value.x, value.y);
        to[1] = store::pair(value.z, value.w);
    }
    __syncthreads();
    {
        constexpr int COLUMNS = INNER / shape::WARPS;
        float sums[shape::ROW_TILES][COLUMNS / 8][4] = {};
        multiply<shape::ROW_TILES, COLUMNS / 8, C / SV_MATRIX_K>(sums, x, shape::X_PITCH, job.in_proj,
                                                                 warp * (COLUMNS / 8));
        __syncthreads(); /* x has been read */
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            if (row < shape::LOADED)
                *(typename store::two *)&u[row * V_PITCH + warp * COLUMNS + column] = store::pair(a, b);
        });
    }
    __syncthreads();
    uint4 *pairs[2]; /* the chunk's first tokens, as they are walked */
    const int64_t tile[2] = {(group * job.length + first) / TILE,
                             job.tiles + (group * job.length + job.length - first - CHUNK) / TILE};
#pragma unroll
    for (int i = 0; i < 2; i++)
        pairs[i] = (uint4 *)job.pairs + tile[i] * (TILE / piece<PRODUCTS>::COUNT) * 2 * INNER;
    { /* half of the threads for either direction */
        constexpr int PARTS = THREADS / INNER;
        const int direction = tid / (THREADS / 2), of_it = tid % (THREADS / 2);
        convolve<C, PRODUCTS>(job.direction[direction], v + direction * CHUNK * V_PITCH, pairs[direction], u,
                              direction, of_it % C * 2, of_it / C * (CHUNK / PARTS), CHUNK / PARTS);
    }
    __syncthreads();
    { /* 16 tokens of a direction by one warp, or by two of them */
        constexpr int SPLIT = shape::WARPS / (2 * CHUNK / 16);
        const int row0 = warp / SPLIT * 16; /* of both directions */
        const weights &w = job.direction[row0 / CHUNK];
        const number *from = v + row0 * V_PITCH;
        float *to = wide + row0 * WIDE_PITCH;
        if (SPLIT == 1)
            project_wide<C, PRODUCTS, 0, 5>(job, w, to, from);
        else if (warp % 2 == 0)
            project_wide<C, PRODUCTS, 0, 3>(job, w, to, from);
        else
            project_wide<C, PRODUCTS, 3, 2>(job, w, to, from);
    }
    __syncthreads();
    for (int i = tid; i < 2 * CHUNK * STATES / 4; i += THREADS) { /* four tokens of a state */
        const int octet = i / (2 * STATES), s = i / 2 % STATES, four = i % 2 * 4,
                  direction = octet / (CHUNK / 8);
        const float *from = &wide[(8 * octet + four) * WIDE_PITCH + s];
        float *to = job.wide + (tile[direction] * (TILE / 8) + octet % (CHUNK / 8)) * OCTET;
        *(float4 *)&to[s * 8 + four] =
            make_float4(from[0], from[WIDE_PITCH], from[2 * WIDE_PITCH], from[3 * WIDE_PITCH]);
        const int t = i / 2 % 8, part = i / 16 % 2;
        *(float4 *)&to[8 * STATES + i % (2 * STATES) * 4] =
            *(const float4 *)&wide[(8 * octet + t) * WIDE_PITCH + STATES + part * 8 + four];
    }
    const int direction = warp / (shape::WARPS / 2);
    keep_delta<C, PRODUCTS>(job, job.direction[direction], pairs[direction],
                            wide + direction * CHUNK * WIDE_PITCH,
                            warp % (shape::WARPS / 2) * (2 * INNER / shape::WARPS));
}

template <int C, int PRODUCTS>
__global__ void __launch_bounds__(project_shape<C, PRODUCTS>::THREADS, project_shape<C, PRODUCTS>::BLOCKS)
    project(const __grid_constant__ block_job job)
{
    extern __shared__ float4 dynamic[];
    sv_wait_before();
    const int items = live_slots(job) / project_shape<C, PRODUCTS>::CHUNK;
    for (int item = blockIdx.x; item < items; item += gridDim.x) {
        project_chunk<C, PRODUCTS>(job, item, dynamic);
        __syncthreads();
    }
}

} // namespace

#endif
