/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernel 3 of an RWKV-6 block (rwkv.cu): both walks of a chunk, their norm and gate.
 */
#ifndef SV_RWKV_WALK_CUH
#define SV_RWKV_WALK_CUH

#include "backbones/operators/rwkv_job.cuh"

namespace {

/* ---- 3 ------------------------------------------------------------------------------------------------- */

template <int C, typename T> struct walk_shape : shape<C, T> {
    using s = shape<C, T>;
    using number = typename sv_kept<T>::type;
    enum {
        WALKED_HEADS = WALKED / s::KEYS,
        WARPS = 2 * WALKED_HEADS, /* a head and direction each */
        THREADS = 32 * WARPS,
        STREAM_PITCH = WALKED + (s::EXACT ? 4 : 8),
        STREAM = s::CHUNK * STREAM_PITCH, /* numbers */
        OUT_PITCH = WALKED + 4,
        TILES = s::CHUNK / TILE,
        SUM_ROWS = TILE + 1, /* the sums before each token of a tile, and of all */
        BYTES = 4 * STREAM * (int)sizeof(number) +
                ((TILES * SUM_ROWS + s::CHUNK) * OUT_PITCH + s::CHUNK * WALKED_HEADS) * 4,
    };
};

/* r, k, v and the gate of the chunk and the block's channels, and the sums of logarithms of decay before each token of a tile. */
template <int C, typename T>
__device__ __forceinline__ void load_streams(const block_job &job, typename sv_kept<T>::type *streams,
                                             float *sums, int64_t slot0, int channel0)
{
    using s = walk_shape<C, T>;
    using number = typename sv_kept<T>::type;
    constexpr int PIECE = 16 / (int)sizeof(number), PIECES = WALKED / PIECE;
    const number *const from[4] = {(const number *)job.r, (const number *)job.k, (const number *)job.v,
                                   (const number *)job.gate};
#pragma unroll
    for (int stream = 0; stream < 4; stream++)
        for (int i = threadIdx.x; i < s::CHUNK * PIECES; i += s::THREADS) {
            const int t = i / PIECES, at = i % PIECES * PIECE;
            sv_copy_far(sv_shared_address(&streams[stream * s::STREAM + t * s::STREAM_PITCH + at]),
                        from[stream] + (slot0 + t) * C + channel0 + at);
        }
    sv_copies_end();
    for (int i = threadIdx.x; i < s::TILES * WALKED; i += s::THREADS) {
        const int tile = i / WALKED, channel = i % WALKED;
        const number *decay = (const number *)job.decay + (slot0 + tile * TILE) * C + channel0 + channel;
        float log[TILE], sum = 0;
#pragma unroll
        for (int t = 0; t < TILE; t++) log[t] = (float)decay[t * C];
        float *to = sums + tile * s::SUM_ROWS * s::OUT_PITCH + channel;
#pragma unroll
        for (int t = 0; t < TILE; t++) {
            to[t * s::OUT_PITCH] = sum;
            sum += log[t];
        }
        to[TILE * s::OUT_PITCH] = sum;
    }
    sv_copies_wait<0>();
}

/* r_t.k_s with the decay between them, channel by channel. */
template <bool exact, int KEYS, typename number>
__device__ __forceinline__ float pair_product(const number *r, const number *k, const float *later,
                                              const float *earlier)
{
    float sum = 0;
    for (int j = 0; j < KEYS; j++)
        sum = fmaf((float)r[j] * exponential<exact>(later[j] - earlier[j]), (float)k[j], sum);
    return sum;
}

/*
 * A head in one direction along the chunk, by one warp, a tile of 16 tokens at a time. With X_t the sum of logarithms of decay
 * before token t of the tile and X_16 = E, forward a_t = X_t and b_s = X_(s+1), backward a_t = E - X_(t+1) and b_s = E - X_s:
 *
 *     o_t += (r_t e^(a_t))'S + sum over s < t (s > t) of (r_t e^(a_t)).(k_s e^(-b_s)) v_s
 *     S = e^E S + sum of (k_s e^(E - b_s)) v_s'
 *
 * Where -E is so large that e^(-b_s) might not be a number, the tile's own products are made pair by pair, from
 * e^(a_t - b_s). S lies as a result of products does, values by keys.
 */
template <int C, typename T>
__device__ __forceinline__ void walk(const block_job &job, const typename sv_kept<T>::type *streams,
                                     const float *sums, const float *own, float *out, int channel0)
{
    using s = walk_shape<C, T>;
    using number = typename sv_kept<T>::type;
    constexpr bool exact = s::EXACT;
    constexpr int KEYS = s::KEYS, STEPS = KEYS / 8, VALUE_TILES = KEYS / 16, PITCH = s::STREAM_PITCH,
                  SUM = s::OUT_PITCH;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    const int head = warp / 2, direction = warp % 2;
    const float *from = job.ends + ((int64_t)blockIdx.x * 2 + direction) * s::STATE +
                        (int64_t)(channel0 / KEYS + head) * KEYS * KEYS + g;
    float state[VALUE_TILES][STEPS][4];
#pragma unroll
    for (int m = 0; m < VALUE_TILES; m++)
#pragma unroll
        for (int i = 0; i < STEPS; i++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                state[m][i][e] = from[(8 * i + 2 * q + e % 2) * KEYS + 16 * m + e / 2 * 8];
    for (int walked = 0; walked < s::TILES; walked++) {
        if (walked == s::TILES / 2)
            __syncthreads(); /* from here on the other direction's results are there */
        const int tile = direction ? s::TILES - 1 - walked : walked;
        const number *r = streams + tile * TILE * PITCH + head * KEYS, *k = r + s::STREAM, *v = k + s::STREAM;
        const float *x = sums + tile * s::SUM_ROWS * SUM + head * KEYS;
        float2 total[STEPS];
        bool mild = true;
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            total[i] = sv_get(x + TILE * SUM + 8 * i + 2 * q);
            mild = mild && total[i].x > -MILD_DECAY && total[i].y > -MILD_DECAY;
        }
        mild = __all_sync(0xffffffffu, mild);
        float a[STEPS][4], y[STEPS][4] = {}, values[2][STEPS][2];
#pragma unroll
        for (int i = 0; i < STEPS; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int t = g + 8 * h, at = 8 * i + 2 * q;
                const float2 in = sv_get(r + t * PITCH + at), sum = sv_get(x + (t + direction) * SUM + at);
                a[i][h] = in.x * exponential<exact>(direction ? total[i].x - sum.x : sum.x);
                a[i][2 + h] = in.y * exponential<exact>(direction ? total[i].y - sum.y : sum.y);
            }
#pragma unroll
        for (int i = 0; i < STEPS; i++)
#pragma unroll
            for (int n = 0; n < STEPS; n++)
                sv_mma_float<exact>(y[n], a[i], state[n / 2][i][n % 2 * 2], state[n / 2][i][n % 2 * 2 + 1]);
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int n = 0; n < STEPS; n++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    values[j][n][e] = (float)v[(8 * j + 2 * q + e) * PITCH + 8 * n + g];
#pragma unroll
        for (int j = 0; j < 2; j++) { /* eight tokens s */
            float product[4] = {};
            if (mild) {
                const int seen = 8 * j + g;
#pragma unroll
                for (int i = 0; i < STEPS; i++) {
                    const int at = 8 * i + 2 * q;
                    const float2 in = sv_get(k + seen * PITCH + at),
                                 sum = sv_get(x + (seen + 1 - direction) * SUM + at);
                    sv_mma_float<exact>(product, a[i],
                                        in.x * exponential<exact>(direction ? sum.x - total[i].x : -sum.x),
                                        in.y * exponential<exact>(direction ? sum.y - total[i].y : -sum.y));
                }
            } else {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int t = g + e / 2 * 8, seen = 8 * j + 2 * q + e % 2;
                    if (direction ? seen > t : seen < t)
                        product[e] = pair_product<exact, KEYS>(r + t * PITCH, k + seen * PITCH,
                                                               x + (direction ? seen : t) * SUM,
                                                               x + (direction ? t + 1 : seen + 1) * SUM);
                }
            }
            float p[4]; /* an operand: lane q's k are tokens 2q and 2q + 1 */
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int t = g + e / 2 * 8, seen = 8 * j + 2 * q + e % 2;
                const float bonus =
                    seen == t && !direction ? own[(tile * TILE + t) * s::WALKED_HEADS + head] : 0.0f;
                p[e % 2 * 2 + e / 2] = (direction ? seen > t : seen < t) ? product[e] : bonus;
            }
#pragma unroll
            for (int n = 0; n < STEPS; n++) sv_mma_float<exact>(y[n], p, values[j][n][0], values[j][n][1]);
        }
#pragma unroll
        for (int n = 0; n < STEPS; n++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float2 *to = (float2 *)&out[(tile * TILE + g + 8 * h) * SUM + head * KEYS + 8 * n + 2 * q];
                float2 result = make_float2(y[n][2 * h], y[n][2 * h + 1]);
                if (walked >= s::TILES / 2) result = make_float2(result.x + to->x, result.y + to->y);
                *to = result;
            }
        if (walked == s::TILES - 1) break; /* nobody needs the last state */
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const float kept_x = exponential<exact>(total[i].x), kept_y = exponential<exact>(total[i].y),
                        all = x[TILE * SUM + 8 * i + g];
#pragma unroll
            for (int m = 0; m < VALUE_TILES; m++) {
                state[m][i][0] *= kept_x;
                state[m][i][1] *= kept_y;
                state[m][i][2] *= kept_x;
                state[m][i][3] *= kept_y;
            }
#pragma unroll
            for (int j = 0; j < 2; j++) {
                float b[2];
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int seen = 8 * j + 2 * q + e;
                    const float sum = x[(seen + 1 - direction) * SUM + 8 * i + g];
                    b[e] =
                        (float)k[seen * PITCH + 8 * i + g] * exponential<exact>(direction ? sum : all - sum);
                }
#pragma unroll
                for (int m = 0; m < VALUE_TILES; m++) {
                    const float left[4] = {values[j][2 * m][0], values[j][2 * m + 1][0], values[j][2 * m][1],
                                           values[j][2 * m + 1][1]};
                    sv_mma_float<exact>(state[m][i], left, b[0], b[1]);
                }
            }
        }
    }
}

template <int C, typename T>
__global__ void __launch_bounds__(walk_shape<C, T>::THREADS)
    walk_both_ways(const __grid_constant__ block_job job)
{
    using s = walk_shape<C, T>;
    using number = typename sv_kept<T>::type;
    constexpr int CHUNK = s::CHUNK, KEYS = s::KEYS, PITCH = s::STREAM_PITCH;
    extern __shared__ float4 dynamic[];
    number *streams = (number *)dynamic;
    float *sums = (float *)(streams + 4 * s::STREAM), *out = sums + s::TILES * s::SUM_ROWS * s::OUT_PITCH,
          *own = out + CHUNK * s::OUT_PITCH;
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, channel0 = blockIdx.y * WALKED;
    sv_wait_before();
    if ((int)blockIdx.x >= live_chunks<CHUNK>(job)) return;
    const int64_t slot0 = (int64_t)blockIdx.x * CHUNK;
    load_streams<C, T>(job, streams, sums, slot0, channel0);
    __syncthreads();
    for (int i = tid; i < CHUNK * s::WALKED_HEADS;
         i += s::THREADS) { /* a token's own share, through the bonus */
        const int t = i / s::WALKED_HEADS, first = i % s::WALKED_HEADS * KEYS;
        const number *r = streams + t * PITCH + first, *k = r + s::STREAM;
        const float *bonus = job.bonus + channel0 + first;
        float sum = 0;
#pragma unroll
        for (int j = 0; j < KEYS; j++) sum = fmaf((float)r[j] * bonus[j], (float)k[j], sum);
        own[i] = sum;
    }
    __syncthreads();
    walk<C, T>(job, streams, sums, own, out, channel0);
    __syncthreads();
    const int at = 2 * lane;
    const float2 weight = sv_get(job.ln_x.weight + channel0 + at),
                 bias = sv_get(job.ln_x.bias + channel0 + at);
#pragma unroll 4
    for (int t = warp; t < CHUNK; t += s::WARPS) {
        const int64_t place = (slot0 + t) * C + channel0 + at;
        const float2 gate = sv_get(streams + 3 * s::STREAM + t * PITCH + at);
        float2 value = sv_get(out + t * s::OUT_PITCH + at);
        const float mean = sv_sum_of<KEYS / 2>(value.x + value.y) / (float)KEYS;
        value.x -= mean;
        value.y -= mean;
        const float variance = sv_sum_of<KEYS / 2>(value.x * value.x + value.y * value.y) / (float)KEYS,
                    scale = rsqrtf(variance + job.eps);
        sv_put((T *)job.gated + place,
               fmaf(value.x * scale, weight.x, bias.x) * (gate.x * sigmoid<T>(gate.x)),
               fmaf(value.y * scale, weight.y, bias.y) * (gate.y * sigmoid<T>(gate.y)));
    }
}

} // namespace

#endif
