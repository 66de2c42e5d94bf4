/* SPDX-License-Identifier: Apache-2.0
 *
 * The scan of a Mamba block (mamba.cu), token after token:
 *
 *     h = exp(a delta) h + delta v B        y = C h + D v
 *
 * One exponential for each token, channel and state is what it costs, 16 of them a clock and
 * multiprocessor; all else keeps out of those units' way. A warp walks 16 channels and 8 of their 16
 * states; a lane's h are two channels by two states, as tensor cores lay out sums of 16 by 8. So (delta v)
 * B' of a token is a product of tensor cores that arrives where it is added, and h of a token is at once a
 * factor of the product that sums C h over the states. The two halves of the states meet in shared memory
 * once in 32 tokens.
 *
 * Long groups are cut into segments that are walked at once: first all but the last from h = 0 for their ends
 * alone, then all from what the segments before them leave: h(i+1) = exp(a sum of delta(i)) h(i) + end(i).
 */
#ifndef SV_MAMBA_WALK_CUH
#define SV_MAMBA_WALK_CUH

#include "mamba_block.cuh"

namespace {

template <int C, int PRODUCTS> struct walk_shape {
    enum {
        INNER = 2 * C,
        THREADS = 128,
        CHANNELS = 32, /* of a block; a warp walks 16 of them and 8 of their states */
        SLABS = INNER / CHANNELS,
        STAGES = 3,
        COUNT = piece<PRODUCTS>::COUNT,
        PAIR_ROWS = TILE / COUNT * 2, /* of a tile: pieces of v and of delta in turn */
        PAIR_PIECES = PAIR_ROWS * CHANNELS,
        WIDE_PIECES = WIDE_TILE / 4,
        STAGE_PIECES = PAIR_PIECES + WIDE_PIECES,
        PARTS = TILE * CHANNELS, /* y of a tile from 8 states: [TILE / 8][CHANNELS][8] */
        BYTES = STAGES * STAGE_PIECES * 16 + 2 * 2 * PARTS * 4,
    };
};

__device__ __forceinline__ void copy_piece(uint4 *to, const uint4 *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from)
                 : "memory");
}

/* A factor of a product on tensor cores: TF32 to nearest, or two of them that make up 22 bits. */
template <int PRODUCTS> struct split {
    uint32_t high, low;
    __device__ __forceinline__ split() {}
    __device__ __forceinline__ explicit split(float x)
    {
        if (PRODUCTS > 1) {
            high = __float_as_uint(x) & 0xffffe000u;
            low = __float_as_uint(x - __uint_as_float(high));
        } else {
            high = __float_as_uint(x) + 0x1000u; /* what lies below is not read */
            low = 0;
        }
    }
    /* this, or zero */
    __device__ __forceinline__ split only(bool here) const
    {
        split out;
        out.high = here ? high : 0;
        out.low = here ? low : 0;
        return out;
    }
};

/* What a lane reads for eight tokens: rows r and r + 8 of its warp's channels, r = lane / 4, q = lane % 4. */
template <int PRODUCTS> struct octet {
    uint4 delta[2][8 / piece<PRODUCTS>::COUNT];
    float2 v[2], own_delta[2]; /* tokens 2q, 2q + 1 */
    float2 b;                  /* tokens 2q, 2q + 1 of state r */
    float2 c;                  /* states 2q, 2q + 1 of token r */
};

/* 'wide', 'pairs': the tile's, at this lane's numbers of the first octet. */
template <int C, int PRODUCTS, bool ENDS>
__device__ __forceinline__ void load_octet(octet<PRODUCTS> &o, const float *wide, const uint4 *pairs,
                                           int number)
{
    using shape = walk_shape<C, PRODUCTS>;
    using store = kept<PRODUCTS>;
    using two = typename store::two;
    constexpr int COUNT = shape::COUNT, CHANNELS = shape::CHANNELS;
    const int q = threadIdx.x % 4;
    o.b = *(const float2 *)(wide + number * OCTET);
    if (!ENDS) o.c = *(const float2 *)(wide + number * OCTET + 8 * STATES);
#pragma unroll
    for (int row = 0; row < 2; row++) {
        const uint4 *from = pairs + number * (8 / COUNT) * 2 * CHANNELS + 8 * row;
#pragma unroll
        for (int i = 0; i < 8 / COUNT; i++) o.delta[row][i] = from[(2 * i + 1) * CHANNELS];
        const two *v = (const two *)(from + 2 * q / COUNT * 2 * CHANNELS) + 2 * q % COUNT / 2;
        o.v[row] = store::widen(*v);
        o.own_delta[row] = store::widen(v[CHANNELS * (COUNT / 2)]);
    }
}

/* A lane's part of a walk: channels r and r + 8, states 2q and 2q + 1 of its warp's. */
struct walker {
    float h[4], rate[4], sum[2];
};

/*
 * Eight tokens. What a token adds to h, in B', is a product in which all other tokens' B are zero; y of all
 * of them grows by products of each token's h with C' in which all other tokens' C are zero.
 */
template <int PRODUCTS, bool ENDS>
__device__ __forceinline__ void walk_octet(walker &walk, float (&y)[4], const octet<PRODUCTS> &o)
{
    using store = kept<PRODUCTS>;
    using factor = split<PRODUCTS>;
    constexpr int COUNT = piece<PRODUCTS>::COUNT;
    const int r = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
    factor in[2][2], b[2] = {factor(o.b.x), factor(o.b.y)}, c[2] = {factor(o.c.x), factor(o.c.y)};
#pragma unroll
    for (int row = 0; row < 2; row++) {
        in[0][row] = factor(o.v[row].x * o.own_delta[row].x);
        in[1][row] = factor(o.v[row].y * o.own_delta[row].y);
    }
    const uint32_t c_halves = sv_halves(o.c.x, o.c.y);
    uint32_t h_halves[4] = {};
#pragma unroll
    for (int t = 0; t < 8; t++) {
        const factor b_here = b[t % 2].only(q == t / 2);
        float push[4] = {};
        if (PRODUCTS > 1) {
            sv_mma_tf32_k4(push, in[t % 2][0].low, in[t % 2][1].low, b_here.high);
            sv_mma_tf32_k4(push, in[t % 2][0].high, in[t % 2][1].high, b_here.low);
        }
        sv_mma_tf32_k4(push, in[t % 2][0].high, in[t % 2][1].high, b_here.high);
#pragma unroll
        for (int row = 0; row < 2; row++) {
            piece<PRODUCTS> numbers;
            numbers.bits = o.delta[row][t / COUNT];
            const float delta = store::widen(numbers.at[t % COUNT]);
            if (ENDS) walk.sum[row] += delta;
#pragma unroll
            for (int i = 2 * row; i < 2 * row + 2; i++)
                walk.h[i] = fmaf(power(delta * walk.rate[i]), walk.h[i], push[i]);
        }
        if (ENDS) continue;
        if (PRODUCTS > 1) {
            uint32_t high[4] = {}, low[4] = {};
#pragma unroll
            for (int i = 0; i < 4; i++) { /* as the product takes its left factor */
                const factor h(walk.h[i]);
                high[i / 2 + i % 2 * 2] = h.high;
                low[i / 2 + i % 2 * 2] = h.low;
            }
            const factor c0 = c[0].only(r == t), c1 = c[1].only(r == t);
            sv_mma_tf32(y, low, c0.high, c1.high);
            sv_mma_tf32(y, high, c0.low, c1.low);
            sv_mma_tf32(y, high, c0.high, c1.high);
        } else { /* two tokens' states at once */
#pragma unroll
            for (int row = 0; row < 2; row++)
                h_halves[t % 2 * 2 + row] = sv_halves(walk.h[2 * row], walk.h[2 * row + 1]);
            if (t % 2 == 1)
                sv_mma_half(y, h_halves, make_uint2(r == t - 1 ? c_halves : 0, r == t ? c_halves : 0));
        }
    }
}

template <int C, int PRODUCTS, bool ENDS>
__global__ void __launch_bounds__(128) walk(const __grid_constant__ block_job job)
{
    using shape = walk_shape<C, PRODUCTS>;
    using store = kept<PRODUCTS>;
    constexpr int INNER = shape::INNER, CHANNELS = shape::CHANNELS, STAGES = shape::STAGES,
                  COUNT = shape::COUNT, PARTS = shape::PARTS, THREADS = shape::THREADS;
    extern __shared__ float4 dynamic[];
    uint4 *stages = (uint4 *)dynamic;
    float *parts = (float *)(stages + STAGES * shape::STAGE_PIECES);
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
    const int direction = blockIdx.x % 2, channel0 = blockIdx.x / 2 * CHANNELS;
    const int segments = (job.length + job.segment - 1) / job.segment, walked = segments - (ENDS ? 1 : 0);
    const int64_t group = blockIdx.y / walked;
    const int segment = blockIdx.y % walked;
    wait_for_kernels_before();
    if (group * job.length >= live_slots(job)) return;
    const weights &w = job.direction[direction];
    const int first = segment * job.segment, tiles = min(job.segment, job.length - first) / TILE;
    const int64_t tile0 = direction * job.tiles + (group * job.length + first) / TILE;

    const uint4 *wide_from = (const uint4 *)job.wide + tile0 * shape::WIDE_PIECES + tid;
    const uint4 *pairs_from = (const uint4 *)job.pairs + (tile0 * shape::PAIR_ROWS + tid / CHANNELS) * INNER +
                              channel0 + tid % CHANNELS;
    auto fetch = [&](int tile) {
        if (tile < tiles) {
            uint4 *to = stages + tile % STAGES * shape::STAGE_PIECES + tid;
#pragma unroll
            for (int i = 0; i < shape::WIDE_PIECES; i += THREADS) copy_piece(to + i, wide_from + i);
#pragma unroll
            for (int i = 0; i < shape::PAIR_PIECES; i += THREADS)
                copy_piece(to + shape::WIDE_PIECES + i, pairs_from + i / CHANNELS * INNER);
            wide_from += shape::WIDE_PIECES;
            pairs_from += shape::PAIR_ROWS * INNER;
        }
        asm volatile("cp.async.commit_group;\n" ::: "memory");
    };
    fetch(0);

    const int half = warp % 2, channel = warp / 2 * 16, r = lane / 4, q = lane % 4;
    walker walk;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int at = (channel0 + channel + r + i / 2 * 8) * STATES + half * 8 + 2 * q + i % 2;
        walk.h[i] = 0.0f;
        walk.rate[i] = w.a[at] * 1.44269504088896341f;
        if (ENDS) continue;
        const float *end = job.ends + (group * segments * 2 + direction) * INNER * STATES + at,
                    *sum = job.sums + (group * segments * 2 + direction) * INNER + at / STATES;
#pragma unroll 4
        for (int s = 0; s < segment; s++, end += 2 * INNER * STATES, sum += 2 * INNER)
            walk.h[i] = fmaf(power(walk.rate[i] * *sum), walk.h[i], *end);
    }
#pragma unroll
    for (int row = 0; row < 2; row++) walk.sum[row] = 0.0f;

    /* Both halves of a tile's y are added, and kept, when all of the block have walked it. */
    const float skip = w.d[channel0 + lane]; /* a thread has eight tokens of a channel */
    using number_piece = piece<PRODUCTS>;
    uint4 *out =
        (uint4 *)job.results + ((tile0 - 1) * (TILE / COUNT) + warp * (8 / COUNT)) * INNER + channel0 + lane;
    auto finish = [&](int tile,
                      bool there) { /* without a branch: its instructions fill gaps between others' */
                                    const uint4 *v = stages + (tile + STAGES) % STAGES * shape::STAGE_PIECES +
                                                     shape::WIDE_PIECES + warp * (8 / COUNT) * 2 * CHANNELS +
                                                     lane;
                                    const float *part = parts + (tile + 2) % 2 * 2 * PARTS + tid * 8;
                                    float sum[8];
#pragma unroll
                                    for (int i = 0; i < 8; i += 4) {
                                        const float4 one = *(const float4 *)(part + i),
                                                     other = *(const float4 *)(part + PARTS + i);
                                        sum[i] = one.x + other.x;
                                        sum[i + 1] = one.y + other.y;
                                        sum[i + 2] = one.z + other.z;
                                        sum[i + 3] = one.w + other.w;
                                    }
#pragma unroll
                                    for (int i = 0; i < 8 / COUNT; i++) {
                                        number_piece in, result;
                                        in.bits = v[2 * i * CHANNELS];
#pragma unroll
                                        for (int t = 0; t < COUNT; t += 2) {
                                            const float *two = &sum[i * COUNT + t];
                                            result.pairs[t / 2] =
                                                store::pair(fmaf(skip, store::widen(in.at[t]), two[0]),
                                                            fmaf(skip, store::widen(in.at[t + 1]), two[1]));
                                        }
                                        if (there) out[i * INNER] = result.bits;
                                    }
                                    out += TILE / COUNT * INNER;
    };
    for (int tile = 0; tile < tiles; tile++) {
        asm volatile("cp.async.wait_group 0;\n" ::: "memory");
        __syncthreads(); /* this stage has arrived, and all are done with the one before */
        const uint4 *stage = stages + tile % STAGES * shape::STAGE_PIECES;
        const float *wide = (const float *)stage + half * 64 + 2 * lane;
        const uint4 *pairs = stage + shape::WIDE_PIECES + channel + r;
        octet<PRODUCTS> next;
        load_octet<C, PRODUCTS, ENDS>(next, wide, pairs, 0);
        fetch(tile + 1);
        if (!ENDS) finish(tile - 1, tile > 0);
        float *part = parts + (tile % 2 * 2 + half) * PARTS + channel * 8 + 2 * lane;
#pragma unroll
        for (int i = 0; i < TILE / 8; i++) {
            const octet<PRODUCTS> now = next;
            if (i + 1 < TILE / 8) load_octet<C, PRODUCTS, ENDS>(next, wide, pairs, i + 1);
            float y[4] = {};
            walk_octet<PRODUCTS, ENDS>(walk, y, now);
            if (!ENDS) {
                *(float2 *)(part + i * CHANNELS * 8) = make_float2(y[0], y[1]);
                *(float2 *)(part + i * CHANNELS * 8 + 64) = make_float2(y[2], y[3]);
            }
        }
    }
    if (ENDS) {
        const int64_t place = (group * segments + segment) * 2 + direction;
#pragma unroll
        for (int row = 0; row < 2; row++) {
            const int64_t at = place * INNER + channel0 + channel + r + 8 * row;
            *(float2 *)(job.ends + at * STATES + half * 8 + 2 * q) =
                make_float2(walk.h[2 * row], walk.h[2 * row + 1]);
            if (half == 0 && q == 0) job.sums[at] = walk.sum[row];
        }
    } else {
        __syncthreads();
        finish(tiles - 1, true);
    }
}

} // namespace

#endif
