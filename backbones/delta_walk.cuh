/* SPDX-License-Identifier: Apache-2.0
 *
 * Walking a head's state through tokens in registers; see sv_delta_rule and delta.simd.c. A warp has some columns (value channels)
 * of a head's state with all their key rows:
 *
 *     lane        p = lane % LANES has the key rows 4 (j LANES + p) + 0..3, j = 0..ROWS/4-1
 *                 of the columns COLUMNS (lane / LANES) + 0..COLUMNS-1
 *
 * so that what a column sums over the keys is added up by a few shuffles, and nobody waits for other warps. What a step does is
 *
 *     s = f S,  p = a's  (a'S in the general form),  e = beta (v - p),  S = s + k e  (S = s + k v + b p),
 *     y = q's + (q'k) e  (y = q'(s + k v) + (q'b) p)
 *
 * where y's sums fill the time that p's shuffles take, and are themselves added up for four steps at once. A step is one
 * correction of a token; the first of a token decays, the last is read. Two more warps of a block copy the rows of the next few
 * tokens to shared memory meanwhile, and make factors of their decays.
 */
#ifndef SV_DELTA_WALK_CUH
#define SV_DELTA_WALK_CUH

#include "backbones/walk.cuh"
#include "backbones/warp_product.cuh"

enum {
    SV_DELTA_MOST_KEYS = 256, /* of a head */
    SV_DELTA_TOKENS = 16,     /* most in shared memory at a time */
    SV_DELTA_WARPS = 4,       /* most of a block that walk */
    SV_DELTA_FILLERS = 2,     /* and how many warps fill buffers for them */
    SV_DELTA_BATCH = 4,       /* steps whose outputs are added up together */
    SV_DELTA_THREADS = (SV_DELTA_WARPS + SV_DELTA_FILLERS) * 32,
};

typedef enum sv_delta_kind {
    SV_DELTA_ONE,  /* a decay of all keys, or none */
    SV_DELTA_KEYS, /* one of each key */
    SV_DELTA_PAIR, /* the general form */
} sv_delta_kind;

/* Where rows lie in shared memory, in floats from its beginning. There is a row for every step, whether it needs it or not. */
typedef struct sv_delta_rows {
    int32_t q, k, a, b, factor, v, before, beta, weight;
    int32_t size; /* of a buffer; there are two */
} sv_delta_rows;

typedef struct sv_delta_job {
    sv_tensor y, before, after; /* states, may be none */
    sv_delta_inputs in;
    sv_delta_rule rule;
    sv_walk walk;
    int32_t keys, values, chunk, chunks;
    int32_t tokens;      /* in shared memory at a time */
    int32_t column_bits; /* a block has 1 << column_bits columns */
    bool fours;          /* rows are made of 16-byte pieces */
    sv_delta_rows rows;
    float *ends;   /* [groups, heads, chunks, values, padded keys]: see delta_chunks.cu */
    float *passes; /* [groups, heads, chunks, keys, padded keys] */
} sv_delta_job;

/* What chunks begin with, to job->ends, which it allocates. */
sv_status sv_cuda_delta_begin_chunks(sv_ctx *c, sv_delta_job *job, int groups);
/* Fills in how blocks are made for 'columns' of each head, and returns how many a head has. */
int sv_delta_lay_out(sv_delta_job *job, int columns, bool outputs);

static inline int sv_delta_padded(int keys)
{
    int padded = 16;
    while (padded < keys) padded *= 2;
    return padded;
}
static inline sv_delta_kind sv_delta_kind_of(const sv_delta_job *job)
{
    return !sv_is_none(job->in.b)                ? SV_DELTA_PAIR
           : job->rule.decay == SV_DECAY_CHANNEL ? SV_DELTA_KEYS
                                                 : SV_DELTA_ONE;
}

template <int KEYS> struct sv_delta_shape {
    static constexpr int ROWS = KEYS <= 32 ? 8 : 16, LANES = KEYS / ROWS, COLUMNS = 2,
                         WIDE = SV_WARP / LANES * COLUMNS; /* columns of a warp */
};

#ifdef __CUDACC__

/* ---- rows of a few tokens to shared memory ------------------------------------------------------------- */

template <int N> static __device__ __forceinline__ void sv_delta_copy(float *to, const float *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;\n" ::"r"(sv_shared_address(to)), "l"(from),
                 "n"(4 * N)
                 : "memory");
}

/* Some tokens of a group, and what of them a block needs. */
struct sv_delta_span {
    int64_t group;
    int head, first, count, column; /* first token and how many; first column */
    int filler; /* the number of this thread among those that fill buffers; negative: it walks */
};

/* f(token, place) for this thread's pieces of N of 'width' numbers of each token. */
template <int N, typename F>
static __device__ __forceinline__ void sv_delta_pieces(const sv_delta_span &s, int width, int bits, F f)
{
    const int shift = bits - (N == 4 ? 2 : 0), count = s.count << shift;
#pragma unroll 1
    for (int i = s.filler; i < count; i += SV_DELTA_FILLERS * SV_WARP) {
        const int at = (i & ((1 << shift) - 1)) * N;
        if (at < width) f(i >> shift, at);
    }
}

/* The row of a span's first token, and how far the next token's is. */
struct sv_delta_way {
    float *first;
    int step;
};
static __device__ __forceinline__ sv_delta_way sv_delta_way_of(const sv_delta_job &job,
                                                               const sv_delta_span &s, const sv_tensor &t)
{
    return sv_delta_way{sv_walk_row(t, job.walk, s.group, s.first), job.walk.reverse ? -t.pitch : t.pitch};
}

/* A row of 'width' numbers of each token, 'stride' apart; 1 << bits >= width. Not inlined: what walks should stay small. */
template <int N>
static __device__ __noinline__ void sv_delta_take_pieces(float *to, int stride, const float *from, int step,
                                                         int count, int width, int bits, int filler)
{
    const int shift = bits - (N == 4 ? 2 : 0);
    for (int i = filler; i < count << shift; i += SV_DELTA_FILLERS * SV_WARP) {
        const int at = (i & ((1 << shift) - 1)) * N, token = i >> shift;
        if (at < width) sv_delta_copy<N>(to + token * stride + at, from + (int64_t)token * step + at);
    }
}
static __device__ __forceinline__ void sv_delta_take(const sv_delta_job &job, const sv_delta_span &s,
                                                     float *to, int stride, const sv_tensor &t, int column,
                                                     int width, int bits)
{
    const sv_delta_way way = sv_delta_way_of(job, s, t);
    if (job.fours && bits >= 2)
        sv_delta_take_pieces<4>(to, stride, way.first + column, way.step, s.count, width, bits, s.filler);
    else
        sv_delta_take_pieces<1>(to, stride, way.first + column, way.step, s.count, width, bits, s.filler);
}

template <int KEYS> static constexpr __device__ int sv_delta_bits()
{
    return KEYS == 16 ? 4 : KEYS == 32 ? 5 : KEYS == 64 ? 6 : KEYS == 128 ? 7 : 8;
}

/* Starts the copies of a buffer. */
template <int KEYS, sv_delta_kind KIND, bool OUTPUTS>
static __device__ __forceinline__ void sv_delta_fetch(const sv_delta_job &job, const sv_delta_span &s,
                                                      float *to)
{
    const sv_delta_rows &at = job.rows;
    const int keys = job.keys, steps = job.rule.steps, bits = sv_delta_bits<KEYS>();
    const int wide = 1 << job.column_bits, width = min(wide, job.values - s.column);
    for (int j = 0; j < steps; j++) {
        const int part = j * job.rule.heads + s.head;
        sv_delta_take(job, s, to + at.k + j * KEYS, steps * KEYS, job.in.k, part * keys, keys, bits);
        sv_delta_take(job, s, to + at.v + j * wide, steps * wide, job.in.v, part * job.values + s.column,
                      width, job.column_bits);
        if (KIND != SV_DELTA_PAIR) sv_delta_take(job, s, to + at.beta + j, steps, job.in.beta, part, 1, 0);
        if (job.in.weight.data) sv_delta_take(job, s, to + at.weight + j, steps, job.in.weight, 0, 1, 0);
    }
    if (KIND == SV_DELTA_PAIR) {
        sv_delta_take(job, s, to + at.a, KEYS, job.in.a, s.head * keys, keys, bits);
        sv_delta_take(job, s, to + at.b, KEYS, job.in.b, s.head * keys, keys, bits);
    }
    if (job.rule.decay == SV_DECAY_CHANNEL)
        sv_delta_take(job, s, to + at.factor, steps * KEYS, job.in.decay, s.head * keys, keys, bits);
    else if (KIND == SV_DELTA_ONE && job.rule.decay != SV_DECAY_NONE)
        sv_delta_take(job, s, to + at.factor, steps, job.in.decay, s.head, 1, 0);
    if (!OUTPUTS) return;
    const int last = steps - 1;
    sv_delta_take(job, s, to + at.q + last * KEYS, steps * KEYS, job.in.q, s.head * keys, keys, bits);
    if (job.rule.accumulate)
        sv_delta_take(job, s, to + at.before + last * wide, steps * wide, job.y,
                      s.head * job.values + s.column, width, job.column_bits);
}

/*
 * Logarithms of decay become factors, each by the thread that has copied it. Tokens of weight 0 and what the last batch of steps has
 * too many are made to do nothing: they do not decay and write nothing.
 */
template <int KEYS, sv_delta_kind KIND>
static __device__ __forceinline__ void sv_delta_factors(const sv_delta_job &job, const sv_delta_span &s,
                                                        float *to)
{
    const sv_delta_rows &at = job.rows;
    const int steps = job.rule.steps, bits = sv_delta_bits<KEYS>(), have = s.count * steps;
    const sv_delta_way weight = sv_delta_way_of(job, s, job.in.weight),
                       decay = sv_delta_way_of(job, s, job.in.decay);
    const bool weighed = job.in.weight.data != NULL;
    auto passed = [&](int token) { return weighed && weight.first[(int64_t)token * weight.step] == 0.0f; };
    /* One number of a row of keys. */
    auto finish = [&](int token, int place) {
        float *factor = to + at.factor + token * steps * KEYS + place;
        const bool none = passed(token);
        if (KIND == SV_DELTA_PAIR && none)
            to[at.k + token * KEYS + place] = to[at.b + token * KEYS + place] = 0;
        if (job.rule.decay == SV_DECAY_CHANNEL)
            *factor = none ? 1.0f : expf(*factor);
        else if (job.rule.decay != SV_DECAY_NONE)
            *factor = none ? 1.0f : expf(decay.first[(int64_t)token * decay.step + s.head]);
    };
    if (KIND != SV_DELTA_ONE && job.fours)
        sv_delta_pieces<4>(s, job.keys, bits, [&](int token, int place) {
            for (int i = 0; i < 4; i++) finish(token, place + i);
        });
    else if (KIND != SV_DELTA_ONE)
        sv_delta_pieces<1>(s, job.keys, bits, finish);
    if (KIND != SV_DELTA_PAIR)
        sv_delta_pieces<1>(s, 1, 0, [&](int token, int) {
            const bool none = passed(token);
            float *factor = to + at.factor + token * steps;
            if (KIND == SV_DELTA_ONE && job.rule.decay != SV_DECAY_NONE)
                *factor = none ? 1.0f : expf(*factor);
            for (int j = 0; j < steps && none; j++) to[at.beta + token * steps + j] = 0;
        });
    const int more = (SV_DELTA_BATCH - have % SV_DELTA_BATCH) % SV_DELTA_BATCH;
    if (KIND != SV_DELTA_PAIR && s.filler < more) to[at.beta + have + s.filler] = 0;
    if (KIND == SV_DELTA_ONE && s.filler < more) to[at.factor + have + s.filler] = 1;
    for (int i = have * KEYS + s.filler; i < (have + more) * KEYS && KIND != SV_DELTA_ONE;
         i += SV_DELTA_FILLERS * SV_WARP) {
        to[at.factor + i] = 1;
        if (KIND == SV_DELTA_PAIR) to[at.k + i] = to[at.b + i] = 0;
    }
}

/* What no copy ever writes: zeros, but ones for factors and weights. */
static __device__ __forceinline__ void sv_delta_clear(const sv_delta_job &job, float *buffers)
{
    const sv_delta_rows &at = job.rows; /* all of them multiples of four */
    for (int i = threadIdx.x * 4; i < at.size; i += blockDim.x * 4) {
        const float x = (i >= at.factor && i < at.v) || i >= at.weight ? 1.0f : 0.0f;
        *(float4 *)(buffers + i) = *(float4 *)(buffers + at.size + i) = make_float4(x, x, x, x);
    }
}

/* ---- steps --------------------------------------------------------------------------------------------- */

/* A lane's numbers of a row; 'row': its first one. */
template <int ROWS, int LANES>
static __device__ __forceinline__ void sv_delta_row(float (&out)[ROWS], const float *row)
{
#pragma unroll
    for (int j = 0; j < ROWS / 4; j++) {
        const float4 x = *(const float4 *)(row + 4 * j * LANES);
        out[4 * j] = x.x;
        out[4 * j + 1] = x.y;
        out[4 * j + 2] = x.z;
        out[4 * j + 3] = x.w;
    }
}

/* x[i] summed over 2 D lanes: lane p of them then has those from p * COUNT / (2 D) on first of all, at least one. */
template <int COUNT, int D, int ALL>
static __device__ __forceinline__ void sv_delta_add(float (&x)[ALL], int part)
{
    constexpr int HALF = COUNT / 2;
    if constexpr (D > 0 && COUNT > 1) {
        const bool upper = part & D;
#pragma unroll
        for (int i = 0; i < HALF; i++) {
            const float kept = upper ? x[i + HALF] : x[i], given = upper ? x[i] : x[i + HALF];
            x[i] = kept + __shfl_xor_sync(0xffffffffu, given, D);
        }
        sv_delta_add<HALF, D / 2>(x, part);
    } else if constexpr (D > 0) {
        x[0] += __shfl_xor_sync(0xffffffffu, x[0], D);
        sv_delta_add<1, D / 2>(x, part);
    }
}

/* This lane's rows of its columns. */
template <int KEYS> struct sv_delta_state {
    static constexpr int ROWS = sv_delta_shape<KEYS>::ROWS, COLUMNS = sv_delta_shape<KEYS>::COLUMNS;
    float at[ROWS][COLUMNS];
};

/* Where a lane reads a batch of steps. */
struct sv_delta_place {
    const float *read, *factor, *beta, *v, *q, *b, *k;
};

/* What a step begins with, on its way from shared memory while the step before it is done. */
template <int KEYS, sv_delta_kind KIND> struct sv_delta_ahead {
    static constexpr int ROWS = sv_delta_shape<KEYS>::ROWS, LANES = sv_delta_shape<KEYS>::LANES,
                         FACTORS = KIND == SV_DELTA_ONE ? 1 : ROWS;
    float read[ROWS]; /* of a (k in the delta rule) */
    float factor[FACTORS], beta;
    sv_numbers<sv_delta_shape<KEYS>::COLUMNS> v;

    /* Of step 'i' of the batch at 'at'; 'wide': columns of the block. */
    __device__ __forceinline__ void load(const sv_delta_place &at, int i, int wide)
    {
        sv_delta_row<ROWS, LANES>(read, at.read + i * KEYS);
        if constexpr (KIND == SV_DELTA_ONE)
            factor[0] = at.factor[i];
        else
            sv_delta_row<ROWS, LANES>(factor, at.factor + i * KEYS);
        beta = KIND == SV_DELTA_PAIR ? 0.0f : at.beta[i];
        v = *(const sv_numbers<sv_delta_shape<KEYS>::COLUMNS> *)(at.v + i * wide);
    }
};

/* One step of a lane's columns; 'asked' gets its share of their q'S. */
template <int KEYS, sv_delta_kind KIND, bool OUTPUTS>
static __device__ __forceinline__ void sv_delta_step(const sv_delta_place &at, int step,
                                                     sv_delta_state<KEYS> &state,
                                                     const sv_delta_ahead<KEYS, KIND> &now, float *asked)
{
    constexpr int ROWS = sv_delta_shape<KEYS>::ROWS, LANES = sv_delta_shape<KEYS>::LANES,
                  COLUMNS = sv_delta_shape<KEYS>::COLUMNS;
    constexpr bool PAIR = KIND == SV_DELTA_PAIR;
    auto &s = state.at;
    float q[ROWS], written[ROWS], key[ROWS];
    if (OUTPUTS) sv_delta_row<ROWS, LANES>(q, at.q + step * KEYS);
    if constexpr (PAIR) sv_delta_row<ROWS, LANES>(written, at.b + step * KEYS);
    if constexpr (PAIR) sv_delta_row<ROWS, LANES>(key, at.k + step * KEYS);
    float sum[2][COLUMNS] = {}, p[COLUMNS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const float read = KIND == SV_DELTA_KEYS ? now.read[i] * now.factor[i] : now.read[i];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) sum[i % 2][c] = fmaf(read, s[i][c], sum[i % 2][c]);
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        p[c] = sum[0][c] + sum[1][c];
        if (KIND == SV_DELTA_ONE) p[c] *= now.factor[0];
    }
#pragma unroll
    for (int d = LANES / 2; d > 0; d /= 2)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) p[c] += __shfl_xor_sync(0xffffffffu, p[c], d);

    float met[2] = {}, share[2][COLUMNS] = {}; /* while the sums are on their way */
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const float factor = now.factor[KIND == SV_DELTA_ONE ? 0 : i];
        if constexpr (!PAIR) written[i] = now.read[i];
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            s[i][c] *= factor;
            if constexpr (PAIR) s[i][c] = fmaf(key[i], now.v.at[c], s[i][c]);
            if (OUTPUTS) share[i % 2][c] = fmaf(q[i], s[i][c], share[i % 2][c]);
        }
        if (OUTPUTS) met[i % 2] = fmaf(q[i], written[i], met[i % 2]);
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        const float e = PAIR ? p[c] : now.beta * (now.v.at[c] - p[c]);
#pragma unroll
        for (int i = 0; i < ROWS; i++) s[i][c] = fmaf(written[i], e, s[i][c]);
        if (OUTPUTS) asked[c] = fmaf(met[0] + met[1], e, share[0][c] + share[1][c]);
    }
}

/* Sums of a batch of steps from 'step' on to the tokens that they are the last ones of; 'y': of the first token. */
template <int LANES, int COLUMNS, int COUNT>
static __device__ __forceinline__ void sv_delta_put(const sv_delta_job &job, const sv_delta_span &s,
                                                    const sv_delta_way &y, const float *rows, int step,
                                                    int part, int column, float (&asked)[COUNT])
{
    constexpr int SHARES = LANES > COUNT ? LANES / COUNT : 1, HELD = COUNT > LANES ? COUNT / LANES : 1;
    const sv_delta_rows &at = job.rows;
    const int steps = job.rule.steps, begin = part * COUNT / LANES;
    sv_delta_add<COUNT, LANES / 2>(asked, part);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int now = step + (begin + i) / COLUMNS, own = column + (begin + i) % COLUMNS,
                  token = steps == 1 ? now : now / steps;
        const float weight = rows[at.weight + now];
        const bool last = (token + 1) * steps == now + 1, add = job.rule.accumulate;
        const float before = add ? rows[at.before + (now << job.column_bits) + own] : 0.0f,
                    out = weight == 0.0f ? 0.0f : job.rule.scale * weight * asked[i];
        if (part % SHARES == 0 && last && token < s.count && own + s.column < job.values &&
            !(add && weight == 0.0f))
            y.first[(int64_t)token * y.step + own] = add ? before + out : out;
    }
}

/* The tokens of a buffer; 'column' is this lane's first one within the block. */
template <int KEYS, sv_delta_kind KIND, bool OUTPUTS>
static __device__ __forceinline__ void sv_delta_walk(const sv_delta_job &job, const sv_delta_span &s,
                                                     const float *rows, int part, int column,
                                                     sv_delta_state<KEYS> &state)
{
    constexpr int LANES = sv_delta_shape<KEYS>::LANES, COLUMNS = sv_delta_shape<KEYS>::COLUMNS;
    const sv_delta_rows &own = job.rows;
    const int steps = s.count * job.rule.steps, wide = 1 << job.column_bits, numbers = 4 * part;
    sv_delta_way y = sv_delta_way_of(job, s, job.y);
    y.first += s.head * job.values + s.column;
    sv_delta_place at;
    at.k = rows + own.k + numbers;
    at.b = rows + own.b + numbers;
    at.q = rows + own.q + numbers;
    at.read = KIND == SV_DELTA_PAIR ? rows + own.a + numbers : at.k;
    at.factor = rows + own.factor + (KIND == SV_DELTA_ONE ? 0 : numbers);
    at.beta = rows + own.beta;
    at.v = rows + own.v + column;
    sv_delta_ahead<KEYS, KIND> next;
    next.load(at, 0, wide);
    for (int first = 0; first < steps; first += SV_DELTA_BATCH) {
        float asked[COLUMNS * SV_DELTA_BATCH];
#pragma unroll
        for (int i = 0; i < SV_DELTA_BATCH; i++) {
            const sv_delta_ahead<KEYS, KIND> now = next;
            next.load(at, i + 1, wide); /* beyond the last one are rows that nobody uses */
            sv_delta_step<KEYS, KIND, OUTPUTS>(at, i, state, now, asked + i * COLUMNS);
        }
        if (OUTPUTS) sv_delta_put<LANES, COLUMNS>(job, s, y, rows, first, part, column, asked);
        at.k += SV_DELTA_BATCH * KEYS;
        at.b += SV_DELTA_BATCH * KEYS;
        at.q += SV_DELTA_BATCH * KEYS;
        at.read += SV_DELTA_BATCH * KEYS;
        at.factor += SV_DELTA_BATCH * (KIND == SV_DELTA_ONE ? 1 : KEYS);
        at.beta += SV_DELTA_BATCH;
        at.v += SV_DELTA_BATCH * wide;
    }
}

/* What every walk begins with, by all threads of the block; false: there is no such group. */
static __device__ __forceinline__ bool sv_delta_open(const sv_delta_job &job, sv_delta_span &s,
                                                     float *buffers)
{
    s.filler = threadIdx.x - (blockDim.x - SV_DELTA_FILLERS * SV_WARP);
    sv_announce();
    sv_delta_clear(job, buffers);
    __syncthreads();
    sv_wait_before();
    return s.group < sv_walk_groups(job.y, job.walk);
}

template <int KEYS, sv_delta_kind KIND, bool OUTPUTS>
static __device__ __forceinline__ void sv_delta_fill(const sv_delta_job &job, const sv_delta_span &s,
                                                     float *rows)
{
    sv_delta_fetch<KEYS, KIND, OUTPUTS>(job, s, rows);
    sv_copies_end();
    sv_copies_wait<0>();
    sv_delta_factors<KEYS, KIND>(job, s, rows); /* each by the thread that has copied it */
}

/* All tokens from s.first to before 'end'. By all threads of the block. */
template <int KEYS, sv_delta_kind KIND, bool OUTPUTS>
static __device__ __forceinline__ void sv_delta_walk_all(const sv_delta_job &job, sv_delta_span s, int end,
                                                         float *buffers, int part, int column,
                                                         sv_delta_state<KEYS> &state)
{
    float *rows = buffers, *ahead = buffers + job.rows.size;
    const bool fills = __shfl_sync(0xffffffffu, s.filler >= 0, 0); /* all lanes alike, as the compiler sees */
    s.count = min(job.tokens, end - s.first);
    if (fills) sv_delta_fill<KEYS, KIND, OUTPUTS>(job, s, rows);
    __syncthreads();
    while (s.count > 0) {
        sv_delta_span later = s;
        later.first += s.count;
        later.count = min(job.tokens, end - later.first);
        if (!fills)
            sv_delta_walk<KEYS, KIND, OUTPUTS>(job, s, rows, part, column, state);
        else if (later.count > 0)
            sv_delta_fill<KEYS, KIND, OUTPUTS>(job, later, ahead);
        __syncthreads(); /* everyone is done with these rows, and the next ones are there */
        float *free = rows;
        rows = ahead;
        ahead = free;
        s = later;
    }
}

#endif
#endif
