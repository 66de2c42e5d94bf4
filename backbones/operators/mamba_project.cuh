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

/* v of a channel, in walking order: convolution and SiLU of its u. */
template <int C, int PRODUCTS>
__device__ __forceinline__ void convolve(const weights &w, typename kept<PRODUCTS>::number *v,
                                         const typename kept<PRODUCTS>::number *u, int direction, int channel)
{
    using shape = project_shape<C, PRODUCTS>;
    using store = kept<PRODUCTS>;
    const float4 tap = *(const float4 *)(w.conv_weight + 4 * channel);
    const float bias = w.conv_bias[channel];
    const int step = direction ? -(int)shape::V_PITCH : (int)shape::V_PITCH;
    u += channel + (direction ? (shape::LOADED - 1) * shape::V_PITCH : 0);
    v += channel;
    float u0 = store::widen(u[0]), u1 = store::widen(u[step]), u2 = store::widen(u[2 * step]);
#pragma unroll 8
    for (int t = 0; t < shape::CHUNK; t++) {
        const float u3 = store::widen(u[(t + HISTORY) * step]);
        const float sum = fmaf(tap.w, u3, fmaf(tap.z, u2, fmaf(tap.y, u1, fmaf(tap.x, u0, bias))));
        v[t * shape::V_PITCH] = store::narrow(sum * fast_sigmoid(sum));
        u0 = u1;
        u1 = u2;
        u2 = u3;
    }
}

/* delta of two channels for some tokens; v and delta are kept. 'out': the channel's first tokens. */
template <int C, int PRODUCTS>
__device__ __forceinline__ void keep_pairs(const block_job &job, const weights &w, uint4 *out,
                                           const typename kept<PRODUCTS>::number *v, const float *wide,
                                           int channel, int part, int parts)
{
    using shape = project_shape<C, PRODUCTS>;
    using store = kept<PRODUCTS>;
    using number_piece = piece<PRODUCTS>;
    constexpr int INNER = shape::INNER, COUNT = number_piece::COUNT, RANK = C > 64 ? 8 : 4;
    float dt_weight[2][RANK], dt_bias[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
#pragma unroll
        for (int r = 0; r < RANK; r++)
            dt_weight[e][r] = r < job.rank ? w.dt_weight[(channel + e * C) * job.rank + r] : 0.0f;
        dt_bias[e] = w.dt_bias[channel + e * C];
    }
#pragma unroll 1
    for (int first = part; first < shape::CHUNK / COUNT; first += parts) {
        number_piece both_v[2], delta[2];
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const int t = first * COUNT + i;
            float dt_in[RANK];
#pragma unroll
            for (int r = 0; r < RANK; r += 4)
                *(float4 *)&dt_in[r] = *(const float4 *)&wide[t * WIDE_PITCH + 2 * STATES + r];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float dt = dt_bias[e];
#pragma unroll
                for (int r = 0; r < RANK; r++) dt = fmaf(dt_weight[e][r], dt_in[r], dt);
                both_v[e].at[i] = v[t * shape::V_PITCH + channel + e * C];
                delta[e].at[i] = store::narrow(softplus<(PRODUCTS > 1)>(dt));
            }
        }
#pragma unroll
        for (int e = 0; e < 2; e++) {
            out[first * 2 * INNER + channel + e * C] = both_v[e].bits;
            out[(first * 2 + 1) * INNER + channel + e * C] = delta[e].bits;
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
#pragma unroll 1
    for (int direction = tid / INNER; direction < 2; direction += THREADS / INNER)
        convolve<C, PRODUCTS>(job.direction[direction], v + direction * CHUNK * V_PITCH, u, direction,
                              tid % INNER);
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
    const auto tile_of = [&](int direction) { /* the chunk's first, as it is walked */
                                              return group * job.length / TILE +
                                                     (direction
                                                          ? job.tiles + (job.length - first - CHUNK) / TILE
                                                          : first / TILE);
    };
    for (int i = tid; i < 2 * CHUNK * STATES / 4; i += THREADS) { /* four tokens of a state */
        const int octet = i / (2 * STATES), s = i / 2 % STATES, four = i % 2 * 4,
                  direction = octet / (CHUNK / 8);
        const float *from = &wide[(8 * octet + four) * WIDE_PITCH + s];
        float *to = job.wide + (tile_of(direction) * (TILE / 8) + octet % (CHUNK / 8)) * OCTET;
        *(float4 *)&to[s * 8 + four] =
            make_float4(from[0], from[WIDE_PITCH], from[2 * WIDE_PITCH], from[3 * WIDE_PITCH]);
        const int t = i / 2 % 8, part = i / 16 % 2;
        *(float4 *)&to[8 * STATES + i % (2 * STATES) * 4] =
            *(const float4 *)&wide[(8 * octet + t) * WIDE_PITCH + STATES + part * 8 + four];
    }
    { /* two channels a thread; half of the threads for either direction */
        constexpr int PARTS = THREADS / C;
        const int direction = tid / C % 2;
        keep_pairs<C, PRODUCTS>(job, job.direction[direction],
                                (uint4 *)job.pairs +
                                    tile_of(direction) * (TILE / piece<PRODUCTS>::COUNT) * 2 * INNER,
                                v + direction * CHUNK * V_PITCH, wide + direction * CHUNK * WIDE_PITCH,
                                tid % C, tid / C / 2, PARTS / 2);
    }
}

template <int C, int PRODUCTS>
__global__ void __launch_bounds__(project_shape<C, PRODUCTS>::THREADS, project_shape<C, PRODUCTS>::BLOCKS)
    project(const __grid_constant__ block_job job)
{
    extern __shared__ float4 dynamic[];
    wait_for_kernels_before();
    const int items = live_slots(job) / project_shape<C, PRODUCTS>::CHUNK;
    for (int item = blockIdx.x; item < items; item += gridDim.x) {
        project_chunk<C, PRODUCTS>(job, item, dynamic);
        __syncthreads();
    }
}

} // namespace

#endif
