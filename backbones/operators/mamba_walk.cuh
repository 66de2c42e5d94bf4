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
 * Segments of groups (mamba_cut.cuh) are first walked from h = 0 for their ends, then from what the segments
 * before them leave: h(i+1) = exp(a sum of delta(i)) h(i) + end(i).
 */
#ifndef SV_MAMBA_WALK_CUH
#define SV_MAMBA_WALK_CUH

#include "mamba_cut.cuh"

namespace {

template <int C, int PRODUCTS> struct walk_shape {
    enum {
        INNER = 2 * C,
        THREADS = 128,
        CHANNELS = 32, /* of a block; a warp walks 16 of them and 8 of their states */
        SLABS = INNER / CHANNELS,
        STAGES = 4,                    /* tiles: one that is being kept, one walked, two on their way */
        PART_TILES = 3,                /* tiles whose y has room: walked, waiting, being kept */
        BLOCKS = PRODUCTS > 1 ? 3 : 4, /* of a multiprocessor, at least */
        COUNT = piece<PRODUCTS>::COUNT,
        PAIR_ROWS = TILE / COUNT * 2, /* of a tile: pieces of v and of delta in turn */
        PAIR_PIECES = PAIR_ROWS * CHANNELS,
        WIDE_PIECES = WIDE_TILE / 4,
        STAGE_PIECES = PAIR_PIECES + WIDE_PIECES,
        AHEAD = 3,               /* tokens whose decays are found before they are needed */
        PARTS = TILE * CHANNELS, /* y of a tile from 8 states: [TILE / 8][CHANNELS][8] */
        BYTES = STAGES * STAGE_PIECES * 16 + PART_TILES * 2 * PARTS * 4,
    };
};

__device__ __forceinline__ void copy_piece(uint4 *to, const uint4 *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from)
                 : "memory");
}

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
    float skip[2];       /* D of the channels; zero in the warp of the other states */
    float decay[8][4];   /* exp(a delta) of the tokens that come next, each at its place in its octet */
    uint32_t in_pair[4]; /* all bits where q is this number; the lanes whose k are a product's tokens */
    uint32_t of_pair[4]; /* all bits where r / 2 is */

    __device__ __forceinline__ void open(const weights &w, int channel, int half)
    {
        const int lane = threadIdx.x % 32, r = lane / 4, q = lane % 4;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            h[i] = 0.0f;
            rate[i] =
                w.a[(channel + r + i / 2 * 8) * STATES + half * 8 + 2 * q + i % 2] * 1.44269504088896341f;
            in_pair[i] = q == i ? 0xffffffffu : 0;
            of_pair[i] = r / 2 == i ? 0xffffffffu : 0;
            asm volatile("" : "+r"(in_pair[i]), "+r"(of_pair[i])); /* else they are compared each time */
        }
#pragma unroll
        for (int row = 0; row < 2; row++) {
            sum[row] = 0.0f;
            skip[row] = half == 0 ? w.d[channel + r + 8 * row] : 0.0f;
        }
    }
};

template <int PRODUCTS> __device__ __forceinline__ float delta_of(const octet<PRODUCTS> &o, int row, int t)
{
    piece<PRODUCTS> numbers;
    numbers.bits = o.delta[row][t / piece<PRODUCTS>::COUNT];
    return kept<PRODUCTS>::widen(numbers.at[t % piece<PRODUCTS>::COUNT]);
}
template <int PRODUCTS>
__device__ __forceinline__ void find_decay(walker &walk, const octet<PRODUCTS> &o, int t)
{
#pragma unroll
    for (int i = 0; i < 4; i++) walk.decay[t][i] = power(delta_of(o, i / 2, t) * walk.rate[i]);
}

/*
 * Eight tokens, 'now'. What a token adds to h, in B', is a product in which all other tokens' B are zero; y of all
 * of them grows by products of each token's h with C' in which all other tokens' C are zero. Decays are found AHEAD
 * tokens before they are needed, the last ones here those of 'next': more would wait at a tile's end, where nothing
 * is left to do beside them.
 */
template <int AHEAD, int PRODUCTS, bool ENDS>
__device__ __forceinline__ void walk_octet(walker &walk, float (&y)[4], const octet<PRODUCTS> &now,
                                           const octet<PRODUCTS> &next)
{
    using factor = split<PRODUCTS>;
    const int r = threadIdx.x % 32 / 4;
    factor in[2][2], b[2] = {factor(now.b.x), factor(now.b.y)}, c[2] = {factor(now.c.x), factor(now.c.y)};
#pragma unroll
    for (int row = 0; row < 2; row++) {
        in[0][row] = factor(now.v[row].x * now.own_delta[row].x);
        in[1][row] = factor(now.v[row].y * now.own_delta[row].y);
    }
    const uint32_t c_halves = sv_halves(now.c.x, now.c.y), c_even = r % 2 == 0 ? c_halves : 0,
                   c_odd = r % 2 == 1 ? c_halves : 0;
    uint32_t h_halves[4] = {};
#pragma unroll
    for (int t = 0; t < 8; t++) {
        const factor b_here = b[t % 2].only(walk.in_pair[t / 2]);
        float push[4] = {};
        if (PRODUCTS > 1) {
            sv_mma_tf32_k4(push, in[t % 2][0].low, in[t % 2][1].low, b_here.high);
            sv_mma_tf32_k4(push, in[t % 2][0].high, in[t % 2][1].high, b_here.low);
        }
        sv_mma_tf32_k4(push, in[t % 2][0].high, in[t % 2][1].high, b_here.high);
#pragma unroll
        for (int i = 0; i < 4; i++) walk.h[i] = fmaf(walk.decay[t][i], walk.h[i], push[i]);
        find_decay(walk, t + AHEAD < 8 ? now : next, (t + AHEAD) % 8);
        if (ENDS) {
#pragma unroll
            for (int row = 0; row < 2; row++) walk.sum[row] += delta_of(now, row, t);
            continue;
        }
        if (PRODUCTS > 1) {
            uint32_t high[4] = {}, low[4] = {};
#pragma unroll
            for (int i = 0; i < 4; i++) { /* as the product takes its left factor */
                const factor h(walk.h[i]);
                high[i / 2 + i % 2 * 2] = h.high;
                low[i / 2 + i % 2 * 2] = h.low;
            }
            const uint32_t here = r == t ? 0xffffffffu : 0;
            const factor c0 = c[0].only(here), c1 = c[1].only(here);
            sv_mma_tf32(y, low, c0.high, c1.high);
            sv_mma_tf32(y, high, c0.low, c1.low);
            sv_mma_tf32(y, high, c0.high, c1.high);
        } else { /* two tokens' states at once */
#pragma unroll
            for (int row = 0; row < 2; row++)
                h_halves[t % 2 * 2 + row] = sv_halves(walk.h[2 * row], walk.h[2 * row + 1]);
            if (t % 2 == 1)
                sv_mma_half(y, h_halves,
                            make_uint2(c_even & walk.of_pair[t / 2], c_odd & walk.of_pair[t / 2]));
        }
    }
}

/* A block's slab of a segment: its tiles on their way through shared memory, and the sums that leave it. */
template <int C, int PRODUCTS> struct tile_stream {
    using shape = walk_shape<C, PRODUCTS>;
    using store = kept<PRODUCTS>;
    enum { INNER = 2 * C, CHANNELS = shape::CHANNELS, COUNT = shape::COUNT, PARTS = shape::PARTS };
    const uint4 *wide, *pairs; /* this thread's first pieces of the next tile */
    uint4 *stages, *out;       /* 'out': this thread's tokens of the next tile to be kept */
    float *parts;
    int tiles;

    __device__ __forceinline__ const uint4 *stage(int tile) const
    {
        return stages + tile % shape::STAGES * shape::STAGE_PIECES;
    }
    /* y of eight states of a tile; the block's last PART_TILES tiles have room. */
    __device__ __forceinline__ float *part(int tile, int half) const
    {
        return parts + (tile % shape::PART_TILES * 2 + half) * PARTS;
    }
    __device__ __forceinline__ void fetch(int tile)
    {
        if (tile < tiles) {
            uint4 *to = (uint4 *)stage(tile) + threadIdx.x;
#pragma unroll
            for (int i = 0; i < shape::WIDE_PIECES; i += shape::THREADS) copy_piece(to + i, wide + i);
#pragma unroll
            for (int i = 0; i < shape::PAIR_PIECES; i += shape::THREADS)
                copy_piece(to + shape::WIDE_PIECES + i, pairs + i / CHANNELS * INNER);
            wide += shape::WIDE_PIECES;
            pairs += shape::PAIR_ROWS * INNER;
        }
        asm volatile("cp.async.commit_group;\n" ::: "memory");
    }
    /* Adds both halves of a tile's y: eight tokens of a channel a thread. Without a branch, so that its
     * instructions fill gaps between others': a tile before the first writes nothing. */
    __device__ __forceinline__ void finish(int tile, bool there)
    {
        const float *one_half = part(tile + shape::PART_TILES, 0) + threadIdx.x * 8,
                    *other_half = one_half + PARTS;
#pragma unroll
        for (int i = 0; i < 8 / COUNT; i++) {
            piece<PRODUCTS> result;
#pragma unroll
            for (int t = 0; t < COUNT; t += 4) {
                const float4 one = *(const float4 *)(one_half + i * COUNT + t),
                             other = *(const float4 *)(other_half + i * COUNT + t);
                result.pairs[t / 2] = store::pair(one.x + other.x, one.y + other.y);
                result.pairs[t / 2 + 1] = store::pair(one.z + other.z, one.w + other.w);
            }
            asm volatile(
                "{\n.reg .pred there;\nsetp.ne.s32 there, %5, 0;\n@there st.global.v4.b32 [%0], {%1, %2, "
                "%3, %4};\n}\n" ::"l"(out + i * 2 * INNER),
                "r"(result.bits.x), "r"(result.bits.y), "r"(result.bits.z), "r"(result.bits.w),
                "r"((int)there)
                : "memory");
        }
        out += shape::PAIR_ROWS * INNER;
    }
};

/* All of a stretch; the first two tiles are on their way. 'half': of the states; 'channel': the warp's first of the
 * block's. */
template <int C, int PRODUCTS, bool ENDS>
__device__ __forceinline__ void walk_tiles(walker &walk, tile_stream<C, PRODUCTS> &stream, int half,
                                           int channel)
{
    using shape = walk_shape<C, PRODUCTS>;
    const int lane = threadIdx.x % 32;
    const auto load = [&](octet<PRODUCTS> &o, int tile, int number) {
        const uint4 *stage = stream.stage(tile);
        load_octet<C, PRODUCTS, ENDS>(o, (const float *)stage + half * 64 + 2 * lane,
                                      stage + shape::WIDE_PIECES + channel + lane / 4, number);
    };
    octet<PRODUCTS> next;
    asm volatile("cp.async.wait_group 1;\n" ::: "memory");
    __syncthreads();
    load(next, 0, 0);
#pragma unroll
    for (int t = 0; t < shape::AHEAD; t++) find_decay(walk, next, t);
    for (int tile = 0; tile < stream.tiles; tile++) {
        float *part = stream.part(tile, half) + channel * 8 + 2 * lane;
#pragma unroll
        for (int i = 0; i < TILE / 8; i++) {
            const octet<PRODUCTS> now = next;
            if (i + 1 < TILE / 8) {
                load(next, tile, i + 1);
            } else {
                asm volatile("cp.async.wait_group 0;\n" ::: "memory");
                __syncthreads(); /* the next tile has arrived, and all are done with the one before this */
                stream.fetch(tile + 2);
                load(next, min(tile + 1, stream.tiles - 1), 0); /* behind the last, numbers that do no harm */
                if (!ENDS) stream.finish(tile - 1, tile > 0);
            }
            float y[4] = {};
            walk_octet<shape::AHEAD, PRODUCTS, ENDS>(walk, y, now, next);
            if (!ENDS) {
#pragma unroll
                for (int row = 0; row < 2; row++)
                    *(float2 *)(part + i * shape::CHANNELS * 8 + 64 * row) =
                        make_float2(fmaf(walk.skip[row], now.v[row].x, y[2 * row]),
                                    fmaf(walk.skip[row], now.v[row].y, y[2 * row + 1]));
            }
        }
    }
    if (!ENDS) {
        __syncthreads();
        stream.finish(stream.tiles - 1, true);
    }
}

template <int C, int PRODUCTS, bool SECOND>
__global__ void __launch_bounds__(128, walk_shape<C, PRODUCTS>::BLOCKS)
    walk(const __grid_constant__ block_job job)
{
    using shape = walk_shape<C, PRODUCTS>;
    constexpr int INNER = shape::INNER, CHANNELS = shape::CHANNELS;
    extern __shared__ float4 dynamic[];
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, half = warp % 2, channel = warp / 2 * 16;
    const int direction = blockIdx.x % 2, channel0 = blockIdx.x / 2 * CHANNELS;
    walker walk;
    walk.open(job.direction[direction], channel0 + channel, half);
    wait_for_kernels_before();
    stretch here;
    if (!find_stretch<SECOND>(job, blockIdx.y, here)) return;
    const int64_t tile0 = direction * job.tiles + here.tile;
    tile_stream<C, PRODUCTS> stream;
    stream.tiles = here.tiles;
    stream.stages = (uint4 *)dynamic;
    stream.parts = (float *)(stream.stages + shape::STAGES * shape::STAGE_PIECES);
    stream.wide = (const uint4 *)job.wide + tile0 * shape::WIDE_PIECES + tid;
    stream.pairs = (const uint4 *)job.pairs + (tile0 * shape::PAIR_ROWS + tid / CHANNELS) * INNER + channel0 +
                   tid % CHANNELS;
    stream.out = (uint4 *)job.pairs +
                 ((tile0 - 1) * shape::PAIR_ROWS + warp * (8 / shape::COUNT) * 2) * INNER + channel0 + lane;
    stream.fetch(0);
    stream.fetch(1);

    /* Of this lane: h[0] of the group's first segment; h[2] 8 channels on. */
    const int64_t place = (here.state * 2 + direction) * INNER + channel0 + channel + lane / 4;
    float *ends = job.ends + place * STATES + half * 8 + lane % 4 * 2, *sums = job.sums + place;
    if (SECOND) {
#pragma unroll
        for (int row = 0; row < 2; row++) {
            const float *end = ends + row * 8 * STATES, *sum = sums + row * 8;
            const float2 first = *(const float2 *)end;
            walk.h[2 * row] = first.x;
            walk.h[2 * row + 1] = first.y;
#pragma unroll 4
            for (int s = 1; s < here.segment; s++) {
                const float2 own = *(const float2 *)(end + s * 2 * INNER * STATES);
                const float delta = sum[s * 2 * INNER];
                walk.h[2 * row] = fmaf(power(walk.rate[2 * row] * delta), walk.h[2 * row], own.x);
                walk.h[2 * row + 1] = fmaf(power(walk.rate[2 * row + 1] * delta), walk.h[2 * row + 1], own.y);
            }
        }
    }
    if (!SECOND && here.segment > 0)
        walk_tiles<C, PRODUCTS, true>(walk, stream, half, channel);
    else
        walk_tiles<C, PRODUCTS, false>(walk, stream, half, channel);
    if (SECOND || here.state < 0) return;
    ends += here.segment * 2 * INNER * STATES;
    sums += here.segment * 2 * INNER;
#pragma unroll
    for (int row = 0; row < 2; row++) {
        *(float2 *)(ends + row * 8 * STATES) = make_float2(walk.h[2 * row], walk.h[2 * row + 1]);
        if (half == 0 && lane % 4 == 0)
            sums[row * 8] = walk.sum[row]; /* the first segment's is never asked for */
    }
}

} // namespace

#endif
