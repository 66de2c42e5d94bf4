/* SPDX-License-Identifier: Apache-2.0
 *
 * An RWKV-6 block of LION on the GPU in four kernels (formulas: rwkv.c). Groups are cut into chunks of 32 or
 * 64 tokens, which all run at once:
 *
 *     1  chunk          gather x -> LayerNorm, token shift -> the five mixtures -> r, k, v, decay, gate, which are
 *                       kept; what the chunk adds to the states behind it, of both walks, as a product of matrices
 *     2  along chunks   S(i+1) = e^(sum of the chunk's logarithms of decay) S(i) + end_i, both ways
 *     3  chunk, heads   both walks from S(i) -> GroupNorm, gate; kept
 *     4  chunk          output, residual -> LayerNorm, token shift -> the feed-forward layers -> rows
 *
 * A warp of a walk is a head in one direction with its state in registers, and products of matrices take it 16
 * tokens further. Factors of decay are exponentials of sums, never quotients. The last kernel makes the token before
 * its chunk a second time from what kernels 1 and 3 kept, for its row may have been written by then. What is kept
 * are floats in fp32, half floats otherwise. Nothing here depends on the number of slots, groups or samples.
 */
#include "backbones/warp_product.cuh"
#include "perception/core/maps.cuh"

namespace {

enum { HEADS = 4, MIX_RANK = 32, DECAY_RANK = 64, MIXTURES = 5, MIX_COLUMNS = MIXTURES * MIX_RANK };
enum { MIX_W, MIX_K, MIX_V, MIX_R, MIX_G };
enum { WALKED = 64, TILE = 16 }; /* channels of a block of kernel 3; tokens that it takes at a time */
constexpr float MOST_DECAY =
    -80.0f; /* e^-80 of a state is as good as nothing, and sums of such stay exact enough */
constexpr float MILD_DECAY =
    60.0f; /* e^60 of a tile's key is a number, and e^-60 is one with all its digits */

/* How numbers are kept between kernels. */
template <typename T> struct kept {
    using type = __half;
};
template <> struct kept<float> {
    using type = float;
};

struct norm_vectors {
    const float *weight, *bias; /* none: the identity */
};

struct block_job {
    sv_tensor x, y, slots; /* slots: slot -> row, with offsets */
    const int32_t *row_slot;
    norm_vectors ln0, ln1, ln2, ln_x;
    const float *mix_x, *mix_key, *mix_receptance, *bonus; /* [C,2] taps; [C] */
    const float *mix_bias[MIXTURES], *decay_bias;
    const void *mix_down, *mix_up[MIXTURES],
        *projection[MIXTURES]; /* of MIX_W: the way down to the decay's rank */
    const void *decay_up, *output, *ffn_key, *ffn_receptance, *ffn_value;
    void *r, *k, *v, *decay, *gate, *gated; /* [slots][C] */
    float *ends;                            /* [chunks][2][heads][keys][values] */
    float *sums, *last; /* [chunks][C]: logarithms of decay; the last token as it enters */
    int32_t length, chunks;
    float eps;
};

template <int C, typename T> struct shape {
    enum {
        EXACT = sizeof(T) == sizeof(float),
        CHUNK = C <= 64 || EXACT ? 32 : 64,
        KEYS = C / HEADS,
        STATE = C * KEYS,
        NT = C / 32, /* a warp multiplies 32 rows by 8 NT columns at a time */
        COLUMNS = 8 * NT,
        PITCH = C + 4,
        ROW_PITCH = sv_row_pitch<T>(C),
        LOW_PITCH = sv_row_pitch<T>(MIX_COLUMNS),
        RANK_PITCH = sv_row_pitch<T>(DECAY_RANK),
    };
};

template <int CHUNK> __device__ __forceinline__ int live_chunks(const block_job &job)
{
    return sv_rows(job.slots) / CHUNK;
}

/* The sum over 'lanes' neighbouring lanes, in all of them. */
template <int lanes> __device__ __forceinline__ float sum_of(float value)
{
#pragma unroll
    for (int d = lanes / 2; d > 0; d /= 2) value += __shfl_xor_sync(0xffffffffu, value, d);
    return value;
}

/* A row's LayerNorm; lane l has channels l, l + 32, ... */
template <int N>
__device__ __forceinline__ void normalise(float (&value)[N], const norm_vectors &w, float eps, int lane)
{
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < N; i++) sum += value[i];
    const float mean = sum_of<32>(sum) / (float)(32 * N);
#pragma unroll
    for (int i = 0; i < N; i++) squares += (value[i] - mean) * (value[i] - mean);
    const float scale = 1.0f / sqrtf(sum_of<32>(squares) / (float)(32 * N) + eps);
#pragma unroll
    for (int i = 0; i < N; i++)
        value[i] = (value[i] - mean) * scale * w.weight[lane + 32 * i] + w.bias[lane + 32 * i];
}

template <typename T> __device__ __forceinline__ float hyperbolic(float x)
{
    if (sizeof(T) == sizeof(float)) return tanhf(x);
    float y;
    asm("tanh.approx.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}
template <typename T> __device__ __forceinline__ float sigmoid(float x)
{
    return sizeof(T) == sizeof(float) ? m_sigmoid(x) : sv_fast_sigmoid(x);
}

/* Weighted sums of two neighbouring tokens, two channels. 'taps': of the token before, of the token. */
template <typename T>
__device__ __forceinline__ void put_mixed(T *to, const float *taps, int channel, float2 before, float2 own)
{
    const float4 w = *(const float4 *)(taps + 2 * channel);
    sv_put(to, fmaf(w.x, before.x, w.y * own.x), fmaf(w.z, before.y, w.w * own.y));
}

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

/* A stream's numbers of the warp's tile to where the next kernels read them and, with 'near', to shared memory. */
template <int C, typename T, int MT, int NT>
__device__ __forceinline__ void keep(const float (&sums)[MT][NT][4], void *stream, float *near, int64_t slot0,
                                     int row0, int column0)
{
    using s = shape<C, T>;
    using number = typename kept<T>::type;
    sv_matrix_each(sums, [&](int row, int column, float a, float b) {
        const int t = row0 + row, at = column0 + column;
        sv_put((number *)stream + (slot0 + t) * C + at, a, b);
        if (near) *(float2 *)&near[t * s::PITCH + at] = make_float2(a, b);
    });
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
    using number = typename kept<T>::type;
    constexpr int CHUNK = s::CHUNK, PITCH = s::PITCH, NT = s::NT, MS = CHUNK / 32,
                  PER = MS * (C / s::COLUMNS);
    extern __shared__ float4 dynamic[];
    float *normed = (float *)dynamic, *values = normed + s::NORMED, *keys = normed;
    T *low = (T *)(values + s::VALUES), *mixed = low + CHUNK * s::LOW_PITCH;
    const int tid = threadIdx.x, warp = tid / 32;
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
    for (int item = warp; item < MS * (MIX_COLUMNS / s::COLUMNS); item += s::WARPS) {
        const int row0 = item % MS * 32, column0 = item / MS * s::COLUMNS;
        float sums[2][NT][4] = {};
        sv_warp_product<MIX_COLUMNS, C>(sums, mixed + row0 * s::ROW_PITCH, job.mix_down, column0,
                                        s::ROW_PITCH);
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            sv_put(low + (row0 + row) * s::LOW_PITCH + column0 + column, hyperbolic<T>(a), hyperbolic<T>(b));
        });
    }
    __syncthreads();
    for (int item = warp; item < MIXTURES * PER; item += s::WARPS) {
        const int mixture = item / PER, row0 = item % MS * 32, column0 = item % PER / MS * s::COLUMNS;
        const float *bias = job.mix_bias[mixture];
        float sums[2][NT][4] = {};
        sv_warp_product<C, MIX_RANK>(sums, low + row0 * s::LOW_PITCH + MIX_RANK * mixture,
                                     job.mix_up[mixture], column0, s::LOW_PITCH);
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            const int t = row0 + row, at = column0 + column;
            const float2 before = sv_get(normed + t * PITCH + at),
                         own = sv_get(normed + (t + 1) * PITCH + at);
            sv_put(mixed + (mixture * CHUNK + t) * s::ROW_PITCH + at,
                   fmaf(before.x - own.x, a + bias[at], own.x),
                   fmaf(before.y - own.y, b + bias[at + 1], own.y));
        });
    }
    __syncthreads(); /* 'low' and 'normed' have been read */
    for (int item = warp; item < MIXTURES * PER; item += s::WARPS) {
        const int mixture = item / PER, row0 = item % MS * 32, column0 = item % PER / MS * s::COLUMNS;
        const T *rows = mixed + (mixture * CHUNK + row0) * s::ROW_PITCH;
        float sums[2][NT][4] = {};
        if (mixture == MIX_W) {
            if (column0 >= DECAY_RANK) continue;
            sv_warp_product<DECAY_RANK, C>(sums, rows, job.projection[MIX_W], column0, s::ROW_PITCH);
            sv_matrix_each(sums, [&](int row, int column, float a, float b) {
                sv_put(low + (row0 + row) * s::RANK_PITCH + column0 + column, hyperbolic<T>(a),
                       hyperbolic<T>(b));
            });
        } else {
            sv_warp_product<C, C>(sums, rows, job.projection[mixture], column0, s::ROW_PITCH);
            keep<C, T>(sums,
                       mixture == MIX_K   ? job.k
                       : mixture == MIX_V ? job.v
                       : mixture == MIX_R ? job.r
                                          : job.gate,
                       mixture == MIX_K   ? keys
                       : mixture == MIX_V ? values
                                          : NULL,
                       slot0, row0, column0);
        }
    }
    __syncthreads(); /* 'mixed' has been read */
    float *decay = (float *)mixed, *scaled = decay + s::VALUES;
    for (int item = warp; item < PER; item += s::WARPS) {
        const int row0 = item % MS * 32, column0 = item / MS * s::COLUMNS;
        float sums[2][NT][4] = {};
        sv_warp_product<C, DECAY_RANK>(sums, low + row0 * s::RANK_PITCH, job.decay_up, column0,
                                       s::RANK_PITCH);
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            const int t = row0 + row, at = column0 + column;
            number *to = (number *)job.decay + (slot0 + t) * C + at;
            sv_put(to, fmaxf(-expf(a + job.decay_bias[at]), MOST_DECAY),
                   fmaxf(-expf(b + job.decay_bias[at + 1]), MOST_DECAY));
            *(float2 *)&decay[t * PITCH + at] = sv_get(to); /* what is kept is what both kernels use */
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

/* ---- 3 ------------------------------------------------------------------------------------------------- */

template <int C, typename T> struct walk_shape : shape<C, T> {
    using s = shape<C, T>;
    using number = typename kept<T>::type;
    enum {
        WALKED_HEADS = WALKED / s::KEYS,
        WARPS = 2 * WALKED_HEADS, /* a head and direction each */
        THREADS = 32 * WARPS,
        STREAM_PITCH = WALKED + (s::EXACT ? 4 : 8),
        STREAM = s::CHUNK * STREAM_PITCH, /* numbers */
        OUT_PITCH = WALKED + 4,
        TILES = s::CHUNK / TILE,
        SUM_ROWS = TILE + 1, /* the sums before each token of a tile, and of all */
        BYTES = 3 * STREAM * (int)sizeof(number) +
                ((TILES * SUM_ROWS + s::CHUNK) * OUT_PITCH + s::CHUNK * WALKED_HEADS) * 4,
    };
};

/* r, k and v of the chunk and the block's channels, and the sums of logarithms of decay before each token of a tile. */
template <int C, typename T>
__device__ __forceinline__ void load_streams(const block_job &job, typename kept<T>::type *streams,
                                             float *sums, int64_t slot0, int channel0)
{
    using s = walk_shape<C, T>;
    using number = typename kept<T>::type;
    constexpr int PIECE = 16 / (int)sizeof(number), PIECES = WALKED / PIECE;
    const number *const from[3] = {(const number *)job.r, (const number *)job.k, (const number *)job.v};
#pragma unroll
    for (int stream = 0; stream < 3; stream++)
#pragma unroll 4
        for (int i = threadIdx.x; i < s::CHUNK * PIECES; i += s::THREADS) {
            const int t = i / PIECES, at = i % PIECES * PIECE;
            *(uint4 *)&streams[stream * s::STREAM + t * s::STREAM_PITCH + at] =
                *(const uint4 *)(from[stream] + (slot0 + t) * C + channel0 + at);
        }
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
}

template <bool exact> __device__ __forceinline__ float exponential(float x)
{
    return exact ? expf(x) : sv_fast_exp(x);
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
__device__ __forceinline__ void walk(const block_job &job, const typename kept<T>::type *streams,
                                     const float *sums, const float *own, float *out, int channel0)
{
    using s = walk_shape<C, T>;
    using number = typename kept<T>::type;
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
    using number = typename kept<T>::type;
    constexpr int CHUNK = s::CHUNK, KEYS = s::KEYS, PITCH = s::STREAM_PITCH;
    extern __shared__ float4 dynamic[];
    number *streams = (number *)dynamic;
    float *sums = (float *)(streams + 3 * s::STREAM), *out = sums + s::TILES * s::SUM_ROWS * s::OUT_PITCH,
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
        const float2 gate = sv_get((const number *)job.gate + place);
        float2 value = sv_get(out + t * s::OUT_PITCH + at);
        const float mean = sum_of<KEYS / 2>(value.x + value.y) / (float)KEYS;
        value.x -= mean;
        value.y -= mean;
        const float variance = sum_of<KEYS / 2>(value.x * value.x + value.y * value.y) / (float)KEYS,
                    scale = 1.0f / sqrtf(variance + job.eps);
        sv_put((T *)job.gated + place,
               fmaf(value.x * scale, weight.x, bias.x) * (gate.x * sigmoid<T>(gate.x)),
               fmaf(value.y * scale, weight.y, bias.y) * (gate.y * sigmoid<T>(gate.y)));
    }
}

/* ---- 4 ------------------------------------------------------------------------------------------------- */

template <int C, typename T> struct last_shape : shape<C, T> {
    using s = shape<C, T>;
    enum {
        WARPS = C / 8,
        THREADS = 32 * WARPS,
        HIDDEN = 4 * C,
        HIDDEN_PITCH = sv_row_pitch<T>(HIDDEN),
        LOADED = s::CHUNK + 16, /* behind the chunk the token before it, and what fills up a tile */
        ENTERED = (s::CHUNK + 1) * s::PITCH,
        MIXED = s::CHUNK * s::ROW_PITCH,
        BYTES = ENTERED * 4 + (s::CHUNK + 1) * 8 + s::CHUNK * 4 + 12 +
                (2 * MIXED + s::CHUNK * HIDDEN_PITCH) * (int)sizeof(T),
    };
    static_assert(LOADED * s::ROW_PITCH <= s::CHUNK * HIDDEN_PITCH, "gated rows lie where hidden ones will");
};

/* Rows as they enter the block to 'entered', the token before the chunk behind them; rows[t] is the row that keeps
 * token t's result, -1 where none does. */
template <int C, typename T>
__device__ __forceinline__ void load_entered(const block_job &job, float *entered, int *rows, int chunk,
                                             int64_t slot0)
{
    using s = last_shape<C, T>;
    constexpr int N = C / 32, ROWS = s::CHUNK / s::WARPS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int row[ROWS];
    float value[ROWS][N];
#pragma unroll
    for (int i = 0; i < ROWS; i++) row[i] = ((const int32_t *)job.slots.data)[slot0 + warp + i * s::WARPS];
#pragma unroll
    for (int i = 0; i < ROWS; i++)
        if (job.row_slot[row[i]] != slot0 + warp + i * s::WARPS) row[i] = -1;
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
        if (row[i] >= 0 && job.ln0.weight) normalise<N>(value[i], job.ln0, job.eps, lane);
#pragma unroll
        for (int j = 0; j < N; j++) entered[t * s::PITCH + lane + 32 * j] = value[i][j];
        if (lane == 0) rows[t] = row[i];
    }
    if (warp == 0)
#pragma unroll
        for (int j = 0; j < N; j++)
            entered[s::CHUNK * s::PITCH + lane + 32 * j] =
                chunk > 0 ? job.last[(int64_t)(blockIdx.x - 1) * C + lane + 32 * j] : 0.0f;
}

template <int C, typename T>
__global__ void __launch_bounds__(last_shape<C, T>::THREADS)
    feed_forward(const __grid_constant__ block_job job)
{
    using s = last_shape<C, T>;
    constexpr int CHUNK = s::CHUNK, PITCH = s::PITCH, ROW_PITCH = s::ROW_PITCH, MT = CHUNK / 32, N = C / 32;
    extern __shared__ float4 dynamic[];
    T *gated = (T *)dynamic, *hidden = gated, *mixed_key = hidden + CHUNK * s::HIDDEN_PITCH,
      *mixed_receptance = mixed_key + s::MIXED;
    float *entered = (float *)(mixed_receptance + s::MIXED);
    float2 *moments = (float2 *)(entered + s::ENTERED); /* mean, 1 / deviation */
    int *rows = (int *)(moments + CHUNK + 1);
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
    sv_wait_before();
    if ((int)blockIdx.x >= live_chunks<CHUNK>(job)) return;
    const int chunk = blockIdx.x % job.chunks;
    const int64_t slot0 = (int64_t)blockIdx.x * CHUNK;

    constexpr int PIECES = C * (int)sizeof(T) / 16;
    for (int i = tid; i < s::LOADED * PIECES; i += s::THREADS) {
        const int t = i / PIECES, at = i % PIECES;
        const bool used = t < CHUNK || (t == CHUNK && chunk > 0);
        const int64_t slot = t < CHUNK ? slot0 + t : slot0 - 1;
        *((uint4 *)(gated + t * ROW_PITCH) + at) =
            used ? *((const uint4 *)((const T *)job.gated + slot * C) + at) : make_uint4(0, 0, 0, 0);
    }
    load_entered<C, T>(job, entered, rows, chunk, slot0);
    __syncthreads();
    /* a warp's part of C outputs: half of the tokens by 16 columns */
    const int row0 = warp / (s::WARPS / 2) * (CHUNK / 2), column0 = warp % (s::WARPS / 2) * 16;
    {
        float sums[MT][2][4] = {}, before[1][1][4] = {};
        sv_warp_product<C, C>(sums, gated + row0 * ROW_PITCH, job.output, column0, ROW_PITCH);
        sv_warp_product<C, C>(before, gated + CHUNK * ROW_PITCH, job.output, 8 * warp, ROW_PITCH);
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            float2 *to = (float2 *)&entered[(row0 + row) * PITCH + column0 + column];
            *to = make_float2(to->x + a, to->y + b);
        });
        sv_matrix_each(before, [&](int row, int column, float a, float b) {
            float2 *to = (float2 *)&entered[CHUNK * PITCH + 8 * warp + column];
            if (row == 0) *to = make_float2(to->x + a, to->y + b);
        });
    }
    __syncthreads();
    for (int t = warp; t <= CHUNK; t += s::WARPS) {
        float value[N], sum = 0, squares = 0;
#pragma unroll
        for (int i = 0; i < N; i++) sum += value[i] = entered[t * PITCH + lane + 32 * i];
        const float mean = sum_of<32>(sum) / (float)C;
#pragma unroll
        for (int i = 0; i < N; i++) squares += (value[i] - mean) * (value[i] - mean);
        const float scale = 1.0f / sqrtf(sum_of<32>(squares) / (float)C + job.eps);
        if (lane == 0) moments[t] = make_float2(mean, scale);
    }
    __syncthreads();
    for (int i = tid; i < CHUNK * (C / 2); i += s::THREADS) {
        const int t = i / (C / 2), at = i % (C / 2) * 2, last = t == 0 ? CHUNK : t - 1;
        const float2 weight = sv_get(job.ln2.weight + at), bias = sv_get(job.ln2.bias + at);
        float2 own = sv_get(entered + t * PITCH + at), before = sv_get(entered + last * PITCH + at);
        const float2 mine = moments[t], its = moments[last];
        own = make_float2((own.x - mine.x) * mine.y * weight.x + bias.x,
                          (own.y - mine.x) * mine.y * weight.y + bias.y);
        before = t == 0 && chunk == 0 ? make_float2(0, 0)
                                      : make_float2((before.x - its.x) * its.y * weight.x + bias.x,
                                                    (before.y - its.x) * its.y * weight.y + bias.y);
        put_mixed(mixed_key + t * ROW_PITCH + at, job.mix_key, at, before, own);
        put_mixed(mixed_receptance + t * ROW_PITCH + at, job.mix_receptance, at, before, own);
    }
    __syncthreads();
    for (int item = warp; item < MT * (s::HIDDEN / 32); item += s::WARPS) {
        const int first = item % MT * 32, column = item / MT * 32;
        float sums[2][4][4] = {};
        sv_warp_product<s::HIDDEN, C>(sums, mixed_key + first * ROW_PITCH, job.ffn_key, column, ROW_PITCH);
        sv_matrix_each(sums, [&](int row, int at, float a, float b) {
            a = fmaxf(a, 0.0f);
            b = fmaxf(b, 0.0f);
            sv_put(hidden + (first + row) * s::HIDDEN_PITCH + column + at, a * a, b * b);
        });
    }
    float gate[MT][2][4] = {}, sums[MT][2][4] = {};
    sv_warp_product<C, C>(gate, mixed_receptance + row0 * ROW_PITCH, job.ffn_receptance, column0, ROW_PITCH);
    __syncthreads();
    sv_warp_product<C, s::HIDDEN>(sums, hidden + row0 * s::HIDDEN_PITCH, job.ffn_value, column0,
                                  s::HIDDEN_PITCH);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) sums[m][n][i] *= sigmoid<T>(gate[m][n][i]);
    sv_matrix_each(sums, [&](int row, int column, float a, float b) {
        const int t = row0 + row, to = rows[t];
        const float2 in = sv_get(entered + t * PITCH + column0 + column);
        if (to >= 0)
            *(float2 *)((float *)job.y.data + (int64_t)to * job.y.pitch + column0 + column) =
                make_float2(in.x + a, in.y + b);
    });
}

/* ---- the four of them ---------------------------------------------------------------------------------- */

sv_status alloc(sv_ctx *c, const char *name, size_t bytes, void **out)
{
    return sv_arena_alloc(c, &c->scratch, name, bytes, out);
}

norm_vectors vectors_of(const sv_rwkv_norm &norm)
{
    return {(const float *)norm.weight.data, (const float *)norm.bias.data};
}

template <typename T> void set_weights(block_job *job, const sv_rwkv_weights *w)
{
    const sv_linear_weights *const projections[MIXTURES] = {&w->decay_down, &w->key, &w->value,
                                                            &w->receptance, &w->gate};
    job->ln0 = vectors_of(w->ln0);
    job->ln1 = vectors_of(w->ln1);
    job->ln2 = vectors_of(w->ln2);
    job->ln_x = vectors_of(w->ln_x);
    job->mix_x = (const float *)w->mix_x.data;
    job->mix_key = (const float *)w->mix_key.data;
    job->mix_receptance = (const float *)w->mix_receptance.data;
    job->bonus = (const float *)w->bonus.data;
    job->mix_down = sv_factor<T>(w->mix_down);
    for (int i = 0; i < MIXTURES; i++) {
        job->mix_up[i] = sv_factor<T>(w->mix_up[i]);
        job->mix_bias[i] = (const float *)w->mix_up[i].bias.data;
        job->projection[i] = sv_factor<T>(*projections[i]);
    }
    job->decay_up = sv_factor<T>(w->decay_up);
    job->decay_bias = (const float *)w->decay_up.bias.data;
    job->output = sv_factor<T>(w->output);
    job->ffn_key = sv_factor<T>(w->ffn_key);
    job->ffn_receptance = sv_factor<T>(w->ffn_receptance);
    job->ffn_value = sv_factor<T>(w->ffn_value);
    job->eps = w->eps;
}

template <int C, typename T> sv_status run_block(sv_ctx *c, block_job job, const sv_rwkv_weights *w)
{
    using s = shape<C, T>;
    const size_t slots = (size_t)job.slots.dim[0], chunks = slots / s::CHUNK,
                 numbers = slots * C * sizeof(typename kept<T>::type);
    void *ends = NULL, *sums = NULL, *last = NULL;
    set_weights<T>(&job, w);
    job.chunks = job.length / s::CHUNK;
    SV_TRY(alloc(c, "rwkv r", numbers, &job.r));
    SV_TRY(alloc(c, "rwkv k", numbers, &job.k));
    SV_TRY(alloc(c, "rwkv v", numbers, &job.v));
    SV_TRY(alloc(c, "rwkv decay", numbers, &job.decay));
    SV_TRY(alloc(c, "rwkv gate", numbers, &job.gate));
    SV_TRY(alloc(c, "rwkv gated", slots * C * sizeof(T), &job.gated));
    SV_TRY(alloc(c, "rwkv chunk states", chunks * 2 * s::STATE * sizeof(float), &ends));
    SV_TRY(alloc(c, "rwkv chunk sums", chunks * C * sizeof(float), &sums));
    SV_TRY(alloc(c, "rwkv last tokens", chunks * C * sizeof(float), &last));
    job.ends = (float *)ends;
    job.sums = (float *)sums;
    job.last = (float *)last;
    const unsigned count = (unsigned)chunks;
    const int64_t cells = (int64_t)(slots / (size_t)job.length) * 2 * s::STATE;
    SV_TRY(sv_launch_early(c, "rwkv_block", mix_and_project<C, T>, job, dim3(count),
                           first_shape<C, T>::THREADS, first_shape<C, T>::BYTES));
    SV_TRY(sv_launch_early(c, "rwkv_block", carry<C, s::CHUNK>, job, dim3(sv_cuda_blocks(cells)),
                           SV_CUDA_THREADS, 0));
    SV_TRY(sv_launch_early(c, "rwkv_block", walk_both_ways<C, T>, job, dim3(count, C / WALKED),
                           walk_shape<C, T>::THREADS, walk_shape<C, T>::BYTES));
    return sv_launch_early(c, "rwkv_block", feed_forward<C, T>, job, dim3(count), last_shape<C, T>::THREADS,
                           last_shape<C, T>::BYTES);
}

template <typename T> sv_status run_width(sv_ctx *c, const block_job &job, const sv_rwkv_weights *w)
{
    return job.x.dim[1] == 64 ? run_block<64, T>(c, job, w) : run_block<128, T>(c, job, w);
}

} // namespace

sv_status sv_cuda_rwkv_block(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_rwkv_weights *w,
                             const sv_order *order, int length)
{
    if (order->slot_row.dim[0] == 0) return SV_OK;
    SV_CHECK(c, order->slot_row.offsets, SV_BAD_SHAPE, "rwkv_block: slots without offsets per sample");
    SV_CHECK(c, y.pitch % 2 == 0, SV_BAD_SHAPE, "rwkv_block: rows of %d numbers lie %d apart", y.dim[1],
             y.pitch);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    block_job job = {};
    job.x = x;
    job.y = y;
    job.slots = order->slot_row;
    job.row_slot = (const int32_t *)order->row_slot.data;
    job.length = length;
    if (c->precision == SV_FP32)
        SV_TRY(run_width<float>(c, job, w));
    else if (c->precision == SV_BF16_MATH)
        SV_TRY(run_width<__nv_bfloat16>(c, job, w));
    else
        SV_TRY(run_width<__half>(c, job, w));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
