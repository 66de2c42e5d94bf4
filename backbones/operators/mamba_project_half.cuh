/* SPDX-License-Identifier: Apache-2.0
 *
 * First kernel of a Mamba block (mamba.cu) in half floats, where shared memory holds the weights of both
 * products:
 *
 *     gather x -> in_proj, the u half -> both ways: short convolution, SiLU -> x_proj -> dt_proj, softplus
 *
 * v, delta, B and C are kept in walking order, so that the walks of both directions are one code. A block
 * has teams of threads that take chunks of 32 tokens each: while one waits, another works. A warp has 16 or
 * 32 channels of its team's chunk. Products are made transposed, channels by tokens, and which token a
 * column is is chosen such that a lane's sums are eight tokens in a row of two channels: the convolution
 * happens in registers, with three tokens of the next lane on either side, and v and delta leave as 16
 * bytes.
 */
#ifndef SV_MAMBA_PROJECT_HALF_CUH
#define SV_MAMBA_PROJECT_HALF_CUH

#include "mamba_block.cuh"
#include "perception/core/tile.cuh"

namespace {

template <int C> struct project_half_shape {
    enum {
        INNER = 2 * C,
        SLABS = C > 64 ? 2 : 1, /* of 16 channels, of a warp */
        WARPS = INNER / 16 / SLABS,
        TEAM = 32 * WARPS,
        TEAMS = 4 - C / 64, /* as registers allow */
        THREADS = TEAMS * TEAM,
        TOKENS = 32, /* of a chunk */
        OCTETS = TOKENS / 8,
        STEPS = C / SV_MATRIX_K,
        INNER_STEPS = INNER / SV_MATRIX_K,
        ROWS = TOKENS + 16, /* of x; token t lies in row t + 8 */
        X_PITCH = C + 8,
        X_BYTES = (ROWS * X_PITCH + ROWS / 8 * 16) * 2,
        V_OCTET = INNER + 2, /* pieces of 16 bytes; what a warp writes meets no bank twice */
        V_BYTES = 2 * OCTETS * V_OCTET * 16,
        WIDE_BYTES = 2 * TOKENS * (WIDE_PITCH + 1) * 4,
        TEAM_BYTES = V_BYTES + WIDE_BYTES + X_BYTES,
        IN_BYTES = INNER * C * 2,
        X_PROJ_BYTES = WIDE * INNER * 2, /* of a direction */
        WEIGHT_BYTES = IN_BYTES + 2 * X_PROJ_BYTES,
        BYTES = WEIGHT_BYTES + TEAMS * TEAM_BYTES + 3 * 8,
        FETCHED = ((TOKENS + 2 * HISTORY) * (C / 4) + TEAM - 1) / TEAM, /* fours of x of a thread */
    };
};

/* x / (1 + e^-x), to 2^-11 of x: as much as a half float loses. */
__device__ __forceinline__ float half_silu(float x)
{
    const float half = 0.5f * x;
    float t;
    asm("tanh.approx.f32 %0, %1;\n" : "=f"(t) : "f"(half));
    return fmaf(half, t, half);
}

/* As sv_matrix_load(), each 8 by 8 halves transposed: r[i] is number lane/4 of rows 2 (lane%4) and the
 * next. */
__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/* Waits for the threads of a team. */
template <int THREADS> __device__ __forceinline__ void team_sync(int team)
{
    asm volatile("bar.sync %0, %1;\n" ::"r"(team + 1), "n"(THREADS) : "memory");
}

/* Where row 'row' of x, and token 'token' of B, C and dt begin: eights lie some banks apart. */
template <int C> __device__ __forceinline__ int row_place(int row)
{
    return row * project_half_shape<C>::X_PITCH + row / 8 * 16;
}
__device__ __forceinline__ int wide_place(int token)
{
    return token * WIDE_PITCH + token / 8 * 8;
}
/* Token of column 'column' of tile 'tile' of a product: of every 32, the lanes q have 8 q to 8 q + 7. */
__device__ __forceinline__ int token_of(int tile, int column)
{
    return column / 2 * 8 + tile * 2 + column % 2;
}
/* Eight tokens of a channel in walking order. */
__device__ __forceinline__ uint4 eight_halves(const float (&x)[8], bool back)
{
    return back ? make_uint4(sv_halves(x[7], x[6]), sv_halves(x[5], x[4]), sv_halves(x[3], x[2]),
                             sv_halves(x[1], x[0]))
                : make_uint4(sv_halves(x[0], x[1]), sv_halves(x[2], x[3]), sv_halves(x[4], x[5]),
                             sv_halves(x[6], x[7]));
}

/* x's rows of a chunk on their way: a thread's fours. */
template <int C> struct rows_ahead {
    using shape = project_half_shape<C>;
    int row[shape::FETCHED]; /* -1: zeros */
    float4 value[shape::FETCHED];

    __device__ __forceinline__ void find(const block_job &job, int slot0)
    {
        const int first = slot0 % job.length;
        const int32_t *slot_row = (const int32_t *)job.slots.data + slot0;
#pragma unroll
        for (int i = 0; i < shape::FETCHED; i++) {
            const int at = (threadIdx.x % shape::TEAM + i * shape::TEAM) / (C / 4) - HISTORY;
            row[i] = -1;
            if (at < shape::TOKENS + HISTORY && first + at >= 0 && first + at < job.length)
                row[i] = slot_row[at];
        }
    }
    __device__ __forceinline__ void fetch(const block_job &job)
    {
#pragma unroll
        for (int i = 0; i < shape::FETCHED; i++) {
            const int column = (threadIdx.x % shape::TEAM + i * shape::TEAM) % (C / 4) * 4;
            value[i] = make_float4(0, 0, 0, 0);
            if (row[i] >= 0)
                value[i] =
                    *(const float4 *)((const float *)job.x.data + (int64_t)row[i] * job.x.pitch + column);
        }
    }
    __device__ __forceinline__ void put(__half *x) const
    {
#pragma unroll
        for (int i = 0; i < shape::FETCHED; i++) {
            const int item = threadIdx.x % shape::TEAM + i * shape::TEAM, at = item / (C / 4) + 8 - HISTORY;
            if (at < shape::ROWS)
                *(uint2 *)&x[row_place<C>(at) + item % (C / 4) * 4] =
                    make_uint2(sv_halves(value[i].x, value[i].y), sv_halves(value[i].z, value[i].w));
        }
    }
};

/* u of a warp's channels: tiles 0 to 3 are the chunk's tokens, 4 is three after it, for q = 0, and three
 * before it, for q = 3. */
template <int C, int SLABS>
__device__ __forceinline__ void make_u(float (&u)[SLABS][5][4], const __half *x, const uint2 *in_weight)
{
    using shape = project_half_shape<C>;
    constexpr int STEPS = shape::STEPS;
    const int lane = threadIdx.x % 32, column = lane % 8;
    const uint32_t first = sv_shared_address(x) + lane / 8 * 16,
                   from = first + 2 * row_place<C>(8 + token_of(0, column)),
                   ends = first + 2 * row_place<C>(column < 4   ? shape::TOKENS + 8 + min(column, 2)
                                                   : column < 6 ? 7
                                                                : column - 1);
    in_weight += threadIdx.x % shape::TEAM / 32 * SLABS * 2 * STEPS * 32 + lane;
#pragma unroll
    for (int s = 0; s < STEPS; s += 2) {
        uint32_t w[SLABS][2][4]; /* 16 channels: the packed weight's 8 rows twice */
#pragma unroll
        for (int m = 0; m < SLABS; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint2 low = in_weight[(2 * m * STEPS + s + i) * 32],
                            high = in_weight[((2 * m + 1) * STEPS + s + i) * 32];
                w[m][i][0] = low.x;
                w[m][i][1] = high.x;
                w[m][i][2] = low.y;
                w[m][i][3] = high.y;
            }
#pragma unroll
        for (int n = 0; n < 5; n++) {
            uint32_t part[4];
            sv_matrix_load(part, (n < 4 ? from + n * 2 * shape::X_PITCH * 2 : ends) + s * 32);
#pragma unroll
            for (int m = 0; m < SLABS; m++) {
                sv_mma_half(u[m][n], w[m][0], make_uint2(part[0], part[1]));
                sv_mma_half(u[m][n], w[m][1], make_uint2(part[2], part[3]));
            }
        }
    }
}

/* v of a lane's two channels both ways, for x_proj and to be kept. */
template <int C>
__device__ __forceinline__ void make_v(const block_job &job, uint4 *const (&pairs)[2], uint4 *v,
                                       const float (&u)[5][4], int channel0)
{
    using shape = project_half_shape<C>;
    const int lane = threadIdx.x % 32, q = lane % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int channel = channel0 + 8 * h;
        const float end[3] = {u[4][2 * h], u[4][2 * h + 1], __shfl_xor_sync(0xffffffffu, u[4][2 * h], 1)};
        float t[8 + 2 * HISTORY]; /* the lane's tokens, and those on either side */
#pragma unroll
        for (int j = 0; j < 8; j++) t[HISTORY + j] = u[j / 2][2 * h + j % 2];
#pragma unroll
        for (int k = 0; k < HISTORY; k++) {
            t[k] = __shfl_sync(0xffffffffu, q == 3 ? end[k] : t[8 + k], (lane & 28) | ((q + 3) & 3));
            t[11 + k] = __shfl_sync(0xffffffffu, q == 0 ? end[k] : t[3 + k], (lane & 28) | ((q + 1) & 3));
        }
#pragma unroll
        for (int direction = 0; direction < 2; direction++) {
            const weights &w = job.direction[direction];
            const float4 tap = __ldg((const float4 *)(w.conv_weight + 4 * channel));
            const float bias = __ldg(w.conv_bias + channel);
            float sums[8];
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const float *now = &t[HISTORY + j];
                const int step = direction ? 1 : -1;
                sums[j] = half_silu(fmaf(
                    tap.w, now[0],
                    fmaf(tap.z, now[step], fmaf(tap.y, now[2 * step], fmaf(tap.x, now[3 * step], bias)))));
            }
            const uint4 eight = eight_halves(sums, direction);
            const int octet = direction ? shape::OCTETS - 1 - q : q;
            v[(direction * shape::OCTETS + octet) * shape::V_OCTET + channel] = eight;
            pairs[direction][octet * 2 * shape::INNER + channel] = eight;
        }
    }
}

/* NT times 8 columns of x_proj from column 8 'first' on, of 16 tokens, to their places in 'wide': B, C,
 * dt. */
template <int C, int NT>
__device__ __forceinline__ void make_wide(int rank, float *wide, const uint4 *v, const uint2 *weight,
                                          int first)
{
    using shape = project_half_shape<C>;
    const int lane = threadIdx.x % 32;
    const uint32_t from = sv_shared_address(v + lane / 8 % 2 * shape::V_OCTET + lane / 16 * 8 + lane % 8);
    float sums[1][NT][4] = {};
    weight += first * shape::INNER_STEPS * 32 + lane;
#pragma unroll 8
    for (int s = 0; s < shape::INNER_STEPS; s++) {
        uint32_t part[4];
        load_transposed(part, from + s * 16 * sizeof(uint4));
#pragma unroll
        for (int n = 0; n < NT; n++) sv_mma_half(sums[0][n], part, weight[(n * shape::INNER_STEPS + s) * 32]);
    }
    sv_matrix_each(sums, [&](int row, int column, float a, float b) {
        for (int e = 0; e < 2; e++) {
            const int at = 8 * first + column + e;
            /* what lies behind the last is zero, and fills up dt */
            const int to = at < rank ? 2 * STATES + at : at < rank + 2 * STATES ? at - rank : at;
            wide[wide_place(row) + to] = e ? b : a;
        }
    });
}

/* B and C of both directions to where they are kept; 'octet0': the chunk's first eight tokens of either. */
template <int C>
__device__ __forceinline__ void keep_wide(const block_job &job, const int64_t (&octet0)[2], const float *wide)
{
    using shape = project_half_shape<C>;
    for (int i = threadIdx.x % shape::TEAM; i < 2 * shape::TOKENS * STATES / 4; i += shape::TEAM) {
        const int octet = i / (2 * STATES), s = i / 2 % STATES, four = i % 2 * 4, t = i / 2 % 8,
                  part = i / 16 % 2;
        const float *from = &wide[wide_place(8 * octet + four) + s]; /* four tokens of a state of B */
        float *to = job.wide + (octet0[octet / shape::OCTETS] + octet % shape::OCTETS) * OCTET;
        *(float4 *)&to[s * 8 + four] =
            make_float4(from[0], from[WIDE_PITCH], from[2 * WIDE_PITCH], from[3 * WIDE_PITCH]);
        *(float4 *)&to[8 * STATES + i % (2 * STATES) * 4] =
            *(const float4 *)&wide[wide_place(8 * octet + t) + STATES + part * 8 + four];
    }
}

/* delta of a lane's two channels in a direction: dt_proj on tensor cores, and softplus. */
template <int C>
__device__ __forceinline__ void keep_half_delta(const weights &w, int rank, uint4 *out, const float *wide,
                                                int channel)
{
    using shape = project_half_shape<C>;
    constexpr int FOURS = C > 64 ? 2 : 1; /* of dt's rank */
    const int r = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
    float dt[4][4] = {};
#pragma unroll
    for (int f = 0; f < FOURS; f++) {
        split<1> left[2];
#pragma unroll
        for (int h = 0; h < 2; h++)
            left[h] =
                split<1>(4 * f + q < rank ? __ldg(w.dt_weight + (channel + 8 * h) * rank + 4 * f + q) : 0.0f);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const split<1> right(wide[wide_place(token_of(n, r)) + 2 * STATES + 4 * f + q]);
            sv_mma_tf32_k4(dt[n], left[0].high, left[1].high, right.high);
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float bias = __ldg(w.dt_bias + channel + 8 * h);
        float delta[8];
#pragma unroll
        for (int j = 0; j < 8; j++) delta[j] = softplus<false>(dt[j / 2][2 * h + j % 2] + bias);
        out[(q * 2 + 1) * shape::INNER + channel + 8 * h] = eight_halves(delta, false);
    }
}

/* A chunk whose rows of x lie in shared memory; those of the next, if there is one, are on their way
 * afterwards. */
template <int C>
__device__ __forceinline__ void project_half_chunk(const block_job &job, int slot0, const uint2 *in_weight,
                                                   char *shared, rows_ahead<C> &ahead, int next)
{
    using shape = project_half_shape<C>;
    constexpr int SPLIT = shape::WARPS / 4, /* warps that share 16 tokens of a direction */
        SLABS = shape::SLABS;
    const int team = threadIdx.x / shape::TEAM, warp = threadIdx.x % shape::TEAM / 32,
              first = slot0 % job.length, channel = warp * SLABS * 16 + threadIdx.x % 32 / 4;
    const uint2 *x_proj = in_weight + shape::IN_BYTES / sizeof(uint2);
    uint4 *v = (uint4 *)shared;
    float *wide = (float *)(shared + shape::V_BYTES);
    const int64_t octet0[2] = {slot0 / 8,
                               (job.tiles * TILE + slot0 - 2 * first + job.length - shape::TOKENS) / 8};
    uint4 *const pairs[2] = {(uint4 *)job.pairs + octet0[0] * 2 * shape::INNER,
                             (uint4 *)job.pairs + octet0[1] * 2 * shape::INNER};
    {
        float u[SLABS][5][4] = {};
        make_u<C, SLABS>(u, (const __half *)(shared + shape::V_BYTES + shape::WIDE_BYTES), in_weight);
#pragma unroll
        for (int m = 0; m < SLABS; m++) make_v<C>(job, pairs, v, u[m], channel + 16 * m);
    }
    if (next >= 0) ahead.find(job, next);
    team_sync<shape::TEAM>(team);
    {
        const int tile = warp / SPLIT, part = warp % SPLIT; /* tiles 0 and 1 are the first direction's */
        const uint4 *from = v + 2 * tile * shape::V_OCTET;
        const uint2 *weight = x_proj + tile / 2 * (shape::X_PROJ_BYTES / sizeof(uint2));
        float *to = wide + wide_place(16 * tile);
        if (SPLIT == 1)
            make_wide<C, 5>(job.rank, to, from, weight, 0);
        else if (SPLIT == 2 && part == 0)
            make_wide<C, 3>(job.rank, to, from, weight, 0);
        else if (SPLIT == 2 || part == 0)
            make_wide<C, 2>(job.rank, to, from, weight, SPLIT == 2 ? 3 : 0);
        else
            make_wide<C, 1>(job.rank, to, from, weight, part + 1);
    }
    if (next >= 0) ahead.fetch(job);
    team_sync<shape::TEAM>(team);
    keep_wide<C>(job, octet0, wide);
#pragma unroll 1
    for (int i = 0; i < 2 * SLABS; i++)
        keep_half_delta<C>(job.direction[i % 2], job.rank, pairs[i % 2],
                           wide + i % 2 * wide_place(shape::TOKENS), channel + i / 2 * 16);
}

template <int C>
__global__ void __launch_bounds__(project_half_shape<C>::THREADS, 1)
    project_half(const __grid_constant__ block_job job)
{
    using shape = project_half_shape<C>;
    extern __shared__ float4 dynamic[];
    const int team = threadIdx.x / shape::TEAM;
    char *shared = (char *)dynamic + shape::WEIGHT_BYTES + team * shape::TEAM_BYTES;
    uint64_t *arrived =
        (uint64_t *)((char *)dynamic + shape::WEIGHT_BYTES + shape::TEAMS * shape::TEAM_BYTES);
    if (threadIdx.x == 0)
        for (int i = 0; i < 3; i++) sv_stage_open(arrived + i);
    __syncthreads();
    const uint32_t to = sv_shared_address(dynamic); /* no kernel of a frame writes weights */
    sv_stage_fill<shape::THREADS>(to, job.in_proj, shape::IN_BYTES, arrived);
    for (int i = 0; i < 2; i++)
        sv_stage_fill<shape::THREADS>(to + shape::IN_BYTES + i * shape::X_PROJ_BYTES, job.direction[i].x_proj,
                                      shape::X_PROJ_BYTES, arrived + 1 + i);
    sv_copies_end();
    sv_wait_before();
    /* as many chunks for each team, or one more */
    const int64_t chunks = live_slots(job) / shape::TOKENS, teams = gridDim.x * shape::TEAMS,
                  place = blockIdx.x * shape::TEAMS + team;
    const int end = (int)(chunks * (place + 1) / teams);
    int chunk = (int)(chunks * place / teams);
    rows_ahead<C> ahead;
    if (chunk < end) {
        ahead.find(job, chunk * shape::TOKENS);
        ahead.fetch(job);
    }
    sv_copies_wait<0>();
    for (int i = 0; i < 3; i++) sv_stage_wait(arrived + i, 0);
    __syncthreads();
#pragma unroll 1
    for (; chunk < end; chunk++) {
        ahead.put((__half *)(shared + shape::V_BYTES + shape::WIDE_BYTES));
        team_sync<shape::TEAM>(team);
        project_half_chunk<C>(job, chunk * shape::TOKENS, (const uint2 *)dynamic, shared, ahead,
                              chunk + 1 < end ? (chunk + 1) * shape::TOKENS : -1);
    }
}

} // namespace

#endif
