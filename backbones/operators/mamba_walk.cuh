/* SPDX-License-Identifier: Apache-2.0
 *
 * The scan of a Mamba block (mamba.cu), token after token:
 *
 *     h = exp(a delta) h + delta v B        y = C h + D v
 *
 * It costs one exponential for each token, channel and state, and instructions beside them: the fewer, the
 * faster. A warp walks 8 channels and their 16 states; a lane's h are one channel by four states. Tensor
 * cores lay out sums of 16 by 8, which are 8 channels at two tokens by 8 states: (delta v) B' of two tokens
 * is a product that arrives where it is added, and h of two tokens is at once a factor of the product that
 * sums C h over the states.
 *
 * A block fills a multiprocessor: teams of 128 threads, of which each goes from item to item, an item being
 * 32 channels, one way, of a stretch of tokens. So few items share no multiprocessor; many blocks, of which
 * most find nothing to do, are placed with no regard to those that do.
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
        TEAM = 128,                   /* threads */
        TEAMS = PRODUCTS > 1 ? 3 : 4, /* of a block, as many as registers allow */
        THREADS = TEAM * TEAMS,
        CHANNELS = TEAM / 4, /* of a team; a warp walks 8 of them */
        SLABS = INNER / CHANNELS,
        STEP = 16,  /* tokens that are fetched at once */
        STAGES = 4, /* steps: one walked, one that has arrived, two on their way */
        AHEAD = 3,  /* tokens whose decays are found before they are needed */
        COUNT = piece<PRODUCTS>::COUNT,
        PAIR_ROWS = STEP / COUNT * 2, /* of a step: pieces of v and of delta in turn */
        PAIR_PIECES = PAIR_ROWS * CHANNELS,
        WIDE_PIECES = STEP / 8 * OCTET / 4,
        STAGE_PIECES = PAIR_PIECES + WIDE_PIECES,
        TEAM_PIECES = STAGES * STAGE_PIECES,
        BYTES = TEAMS * TEAM_PIECES * 16,
    };
};

__device__ __forceinline__ void copy_piece(uint4 *to, const uint4 *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"((uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from)
                 : "memory");
}

/* What a lane reads for eight tokens: channel r of its warp's, r = lane / 4, q = lane % 4. */
template <int PRODUCTS> struct octet {
    uint4 delta[8 / piece<PRODUCTS>::COUNT];
    float2 v, own_delta; /* tokens 2q, 2q + 1 */
    float2 b[2];         /* tokens 2q, 2q + 1 of states r, r + 8 */
    float2 c[2];         /* states 2q, 2q + 1 of token r, and eight states on */
};

/* 'wide', 'pairs': the step's, at this lane's numbers of the first octet. */
template <int C, int PRODUCTS, bool ENDS>
__device__ __forceinline__ void load_octet(octet<PRODUCTS> &o, const float *wide, const uint4 *pairs,
                                           int number)
{
    using shape = walk_shape<C, PRODUCTS>;
    using store = kept<PRODUCTS>;
    using two = typename store::two;
    constexpr int COUNT = shape::COUNT, CHANNELS = shape::CHANNELS;
    const int q = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        o.b[i] = *(const float2 *)(wide + number * OCTET + i * 64);
        if (!ENDS) o.c[i] = *(const float2 *)(wide + number * OCTET + 8 * STATES + i * 64);
    }
    const uint4 *from = pairs + number * (8 / COUNT) * 2 * CHANNELS;
#pragma unroll
    for (int i = 0; i < 8 / COUNT; i++) o.delta[i] = from[(2 * i + 1) * CHANNELS];
    const two *v = (const two *)(from + 2 * q / COUNT * 2 * CHANNELS) + 2 * q % COUNT / 2;
    o.v = store::widen(*v);
    o.own_delta = store::widen(v[CHANNELS * (COUNT / 2)]);
}

/* A lane's part of a walk: channel r, states 2q, 2q + 1, 2q + 8, 2q + 9. */
struct walker {
    float h[4], rate[4], sum, skip; /* 'skip': D of the channel */
    float decay[8][4]; /* exp(a delta) of the tokens that come next, each at its place in its octet */
    uint32_t here[4];  /* all bits where q is this number */
    uint32_t pair[4];  /* all bits where r / 2 is */

    __device__ __forceinline__ void open(const weights &w, int channel)
    {
        const int r = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            h[i] = 0.0f;
            rate[i] = w.a[channel * STATES + i / 2 * 8 + 2 * q + i % 2] * 1.44269504088896341f;
            here[i] = q == i ? 0xffffffffu : 0;
            pair[i] = r / 2 == i ? 0xffffffffu : 0;
            asm volatile("" : "+r"(here[i]), "+r"(pair[i])); /* else they are compared each time */
        }
        sum = 0.0f;
        skip = w.d[channel];
    }
};

template <int PRODUCTS> __device__ __forceinline__ float delta_of(const octet<PRODUCTS> &o, int t)
{
    piece<PRODUCTS> numbers;
    numbers.bits = o.delta[t / piece<PRODUCTS>::COUNT];
    return kept<PRODUCTS>::widen(numbers.at[t % piece<PRODUCTS>::COUNT]);
}
template <int PRODUCTS>
__device__ __forceinline__ void find_decay(walker &walk, const octet<PRODUCTS> &o, int t)
{
    const float delta = delta_of(o, t);
#pragma unroll
    for (int i = 0; i < 4; i++) walk.decay[t][i] = power(delta * walk.rate[i]);
}

/* What four tokens from 4 HALF on add to h: push[t % 2][state / 8], of tokens t and t + 2 each. */
template <int PRODUCTS>
__device__ __forceinline__ void find_push(float (&push)[2][2][4], const split<PRODUCTS> (&in)[2],
                                          const split<PRODUCTS> (&b)[2][2], const walker &walk, int half)
{
    using factor = split<PRODUCTS>;
#pragma unroll
    for (int odd = 0; odd < 2; odd++) {
        const factor one = in[odd].only(walk.here[2 * half]), other = in[odd].only(walk.here[2 * half + 1]);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float(&sums)[4] = push[odd][i];
            for (int k = 0; k < 4; k++) sums[k] = 0.0f;
            if (PRODUCTS > 1) {
                sv_mma_tf32_k4(sums, one.low, other.low, b[i][odd].high);
                sv_mma_tf32_k4(sums, one.high, other.high, b[i][odd].low);
            }
            sv_mma_tf32_k4(sums, one.high, other.high, b[i][odd].high);
        }
    }
}

/* y grows by C h of two tokens, rows of their columns in C'; all other columns are zero. */
template <int PRODUCTS>
__device__ __forceinline__ void add_outputs(float (&y)[4], const float (&h)[2][4], const float2 (&c)[2],
                                            const uint32_t (&c_halves)[2], uint32_t here)
{
    using factor = split<PRODUCTS>;
    if (PRODUCTS > 1) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t high[4], low[4];
#pragma unroll
            for (int k = 0; k < 4; k++) { /* as the product takes its left factor */
                const factor left(h[k % 2][2 * i + k / 2]);
                high[k] = left.high;
                low[k] = left.low;
            }
            const factor c0 = factor(c[i].x).only(here), c1 = factor(c[i].y).only(here);
            sv_mma_tf32(y, low, c0.high, c1.high);
            sv_mma_tf32(y, high, c0.low, c1.low);
            sv_mma_tf32(y, high, c0.high, c1.high);
        }
    } else {
        const uint32_t left[4] = {sv_halves(h[0][0], h[0][1]), sv_halves(h[1][0], h[1][1]),
                                  sv_halves(h[0][2], h[0][3]), sv_halves(h[1][2], h[1][3])};
        sv_mma_half(y, left, make_uint2(c_halves[0] & here, c_halves[1] & here));
    }
}

/*
 * Eight tokens, 'now'; y of tokens 2q and 2q + 1. Decays are found AHEAD tokens before they are needed, the
 * last ones here those of 'next': more would wait at a step's end, where nothing is left to do beside them.
 */
template <int AHEAD, int PRODUCTS, bool ENDS>
__device__ __forceinline__ float2 walk_octet(walker &walk, const octet<PRODUCTS> &now,
                                             const octet<PRODUCTS> &next)
{
    using factor = split<PRODUCTS>;
    const factor in[2] = {factor(now.v.x * now.own_delta.x), factor(now.v.y * now.own_delta.y)},
                 b[2][2] = {{factor(now.b[0].x), factor(now.b[0].y)},
                            {factor(now.b[1].x), factor(now.b[1].y)}};
    const uint32_t c_halves[2] = {sv_halves(now.c[0].x, now.c[0].y), sv_halves(now.c[1].x, now.c[1].y)};
    float y[4] = {}, push[2][2][4], h[2][4];
#pragma unroll
    for (int t = 0; t < 8; t++) {
        if (t % 4 == 0) find_push(push, in, b, walk, t / 4);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            walk.h[i] = fmaf(walk.decay[t][i], walk.h[i], push[t % 2][i / 2][t / 2 % 2 * 2 + i % 2]);
            h[t % 2][i] = walk.h[i];
        }
        find_decay(walk, t + AHEAD < 8 ? now : next, (t + AHEAD) % 8);
        if (ENDS)
            walk.sum += delta_of(now, t);
        else if (t % 2 == 1)
            add_outputs<PRODUCTS>(y, h, now.c, c_halves, walk.pair[t / 2]);
    }
    /* rows of the first of two tokens hold what is wanted in even columns, those of the second in odd ones */
    return make_float2(fmaf(walk.skip, now.v.x, y[0]), fmaf(walk.skip, now.v.y, y[3]));
}

/* A block's slab of a stretch: its steps on their way to shared memory. */
template <int C, int PRODUCTS> struct tile_stream {
    using shape = walk_shape<C, PRODUCTS>;
    const uint4 *wide, *pairs; /* this thread's first pieces of the next step */
    uint4 *stages;
    int steps;

    /* All threads of the team are here. */
    static __device__ __forceinline__ void meet()
    {
        asm volatile("bar.sync %0, %1;\n" ::"r"((int)threadIdx.x / shape::TEAM + 1), "r"((int)shape::TEAM)
                     : "memory");
    }

    __device__ __forceinline__ const uint4 *stage(int step) const
    {
        return stages + step % shape::STAGES * shape::STAGE_PIECES;
    }
    __device__ __forceinline__ void fetch(int step)
    {
        if (step < steps) {
            uint4 *to = (uint4 *)stage(step) + threadIdx.x % shape::TEAM;
#pragma unroll
            for (int i = 0; i < shape::WIDE_PIECES; i += shape::TEAM) copy_piece(to + i, wide + i);
#pragma unroll
            for (int i = 0; i < shape::PAIR_PIECES; i += shape::TEAM)
                copy_piece(to + shape::WIDE_PIECES + i, pairs + i / shape::CHANNELS * shape::INNER);
            wide += shape::WIDE_PIECES;
            pairs += shape::PAIR_ROWS * shape::INNER;
        }
        asm volatile("cp.async.commit_group;\n" ::: "memory");
    }
};

/* All of a stretch; the first three steps are on their way. 'out': where this lane's two tokens of the first
 * octet belong. */
template <int C, int PRODUCTS, bool ENDS>
__device__ __forceinline__ void walk_steps(walker &walk, tile_stream<C, PRODUCTS> &stream,
                                           typename kept<PRODUCTS>::two *out)
{
    using shape = walk_shape<C, PRODUCTS>;
    const int lane = threadIdx.x % 32;
    const auto load = [&](octet<PRODUCTS> &o, int step, int number) {
        const uint4 *stage = stream.stage(step);
        load_octet<C, PRODUCTS, ENDS>(o, (const float *)stage + 2 * lane,
                                      stage + shape::WIDE_PIECES + threadIdx.x % shape::TEAM / 4, number);
    };
    octet<PRODUCTS> next;
    asm volatile("cp.async.wait_group 2;\n" ::: "memory");
    stream.meet();
    load(next, 0, 0);
#pragma unroll
    for (int t = 0; t < shape::AHEAD; t++) find_decay(walk, next, t);
    for (int step = 0; step < stream.steps; step++) {
#pragma unroll
        for (int i = 0; i < shape::STEP / 8; i++) {
            const octet<PRODUCTS> now = next;
            if (i + 1 < shape::STEP / 8) {
                load(next, step, i + 1);
            } else {
                asm volatile("cp.async.wait_group 1;\n" ::: "memory");
                stream.meet(); /* the next step has arrived, and all are done with the one before this */
                stream.fetch(step + 3);
                load(next, min(step + 1, stream.steps - 1), 0); /* behind the last, numbers that do no harm */
            }
            const float2 y = walk_octet<shape::AHEAD, PRODUCTS, ENDS>(walk, now, next);
            if (!ENDS)
                out[i * (8 / shape::COUNT) * 2 * shape::INNER * (shape::COUNT / 2)] =
                    kept<PRODUCTS>::pair(y.x, y.y);
        }
        out += shape::PAIR_ROWS * shape::INNER * (shape::COUNT / 2);
    }
}

/* h where a segment begins, from the ends of those before it, which begin with zeros. */
template <int INNER>
__device__ __forceinline__ void find_start(walker &walk, const float *end, const float *sum, int segment)
{
    const auto pass = [&](int before, float delta) {
        const float2 low = *(const float2 *)(end + before * 2 * INNER * STATES),
                     high = *(const float2 *)(end + before * 2 * INNER * STATES + 8);
        const float own[4] = {low.x, low.y, high.x, high.y};
#pragma unroll
        for (int i = 0; i < 4; i++) walk.h[i] = fmaf(power(walk.rate[i] * delta), walk.h[i], own[i]);
    };
    pass(0, 0.0f);
#pragma unroll 4
    for (int before = 1; before < segment; before++) pass(before, sum[before * 2 * INNER]);
}

/* A team's 'item': 32 channels, one way, of a stretch; false: there are no more. */
template <int C, int PRODUCTS, bool SECOND>
__device__ __forceinline__ bool walk_item(const block_job &job, int item, uint4 *stages)
{
    using shape = walk_shape<C, PRODUCTS>;
    using two = typename kept<PRODUCTS>::two;
    constexpr int INNER = shape::INNER, CHANNELS = shape::CHANNELS;
    const int tid = threadIdx.x % shape::TEAM, q = tid % 4, part = item % (2 * shape::SLABS),
              direction = part % 2, channel0 = part / 2 * CHANNELS, channel = channel0 + tid / 4;
    walker walk;
    walk.open(job.direction[direction], channel);
    sv_wait_before();
    stretch here;
    if (!find_stretch<SECOND>(job, item / (2 * shape::SLABS), here)) return false;
    const int64_t step0 = (direction * job.tiles + here.tile) * (TILE / shape::STEP);
    tile_stream<C, PRODUCTS> stream;
    stream.steps = here.tiles * (TILE / shape::STEP);
    stream.stages = stages;
    stream.wide = (const uint4 *)job.wide + step0 * shape::WIDE_PIECES + tid;
    stream.pairs = (const uint4 *)job.pairs + (step0 * shape::PAIR_ROWS + tid / CHANNELS) * INNER + channel0 +
                   tid % CHANNELS;
    two *out = (two *)((uint4 *)job.pairs + (step0 * shape::PAIR_ROWS + 2 * q / shape::COUNT * 2) * INNER +
                       channel) +
               2 * q % shape::COUNT / 2;
    stream.meet(); /* all are done with the item before this */
    stream.fetch(0);
    stream.fetch(1);
    stream.fetch(2);

    const int64_t place = (here.state * 2 + direction) * INNER + channel; /* of its group's first segment */
    float *end = job.ends + place * STATES + 2 * q, *sum = job.sums + place;
    if (SECOND) find_start<INNER>(walk, end, sum, here.segment);
    if (!SECOND && here.segment > 0)
        walk_steps<C, PRODUCTS, true>(walk, stream, out);
    else
        walk_steps<C, PRODUCTS, false>(walk, stream, out);
    if (SECOND || here.state < 0) return true;
    end += (int64_t)here.segment * 2 * INNER * STATES;
    *(float2 *)end = make_float2(walk.h[0], walk.h[1]);
    *(float2 *)(end + 8) = make_float2(walk.h[2], walk.h[3]);
    if (q == 0 && here.segment > 0) sum[here.segment * 2 * INNER] = walk.sum;
    return true;
}

template <int C, int PRODUCTS, bool SECOND>
__global__ void __launch_bounds__(walk_shape<C, PRODUCTS>::THREADS, 1)
    walk(const __grid_constant__ block_job job)
{
    using shape = walk_shape<C, PRODUCTS>;
    extern __shared__ float4 dynamic[];
    const int team = threadIdx.x / shape::TEAM;
    uint4 *stages = (uint4 *)dynamic + team * shape::TEAM_PIECES;
    for (int item = team * gridDim.x + blockIdx.x; walk_item<C, PRODUCTS, SECOND>(job, item, stages);)
        item += shape::TEAMS * gridDim.x;
}

} // namespace

#endif
