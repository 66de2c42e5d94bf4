/* SPDX-License-Identifier: Apache-2.0
 *
 * A warp's walk over a chunk of the decayed outer-product scan (decay.cu). It has 16 value columns of a head
 * and up to KEYS key channels, half of them in the first 16 lanes and half in the others, a lane's part of
 * the state in registers. Rows of eight tokens lie in shared memory while the next eight are on their way
 * there; missing tokens and channels are zeros.
 */
#ifndef SV_DECAY_WALK_CUH
#define SV_DECAY_WALK_CUH

#include "backbones/walk.cuh"
#include "perception/core/tile.cuh"

/* How the decays of a token spread over the state. */
typedef enum sv_spread {
    SV_SPREAD_COLUMN, /* a number for each column, or one for all (NONE, HEAD, TOKEN, VALUE) */
    SV_SPREAD_KEY,
    SV_SPREAD_PAIR,
} sv_spread;

enum {
    SV_CHUNK = 64,       /* most tokens of a chunk, */
    SV_DECAY_CHUNK = 32, /* and those where it is free */
    SV_DECAY_STAGE = 8,  /* tokens in shared memory at a time */
    SV_DECAY_COLUMNS = 16,
    SV_DECAY_MOST = 32, /* key channels that are walked at once */
};

/* Rows of tokens that a stage is made of: 'count' numbers a head, those of head h from first + h count on. */
struct sv_decay_source {
    const float *data;
    int64_t pitch;
    int32_t first, count;
    int32_t to;   /* floats from a stage's beginning */
    bool of_keys; /* key channels, else columns */
};

struct sv_decay_scan_job {
    sv_tensor y, q, k, v, decay, state_in, state_out;
    const float *bonus;
    const int32_t *index;
    float *ends; /* [groups, chunks, keys, columns] */
    float
        *lost; /* factors of chunks less 1: [groups, chunks, ..], by the spread columns, heads*keys or both */
    uint32_t chunks, heads;
    int32_t length, chunk, keys, values, columns;
    uint32_t tiles; /* of a head's columns */
    int32_t first_key;
    int32_t sources;
    sv_decay_source source[5]; /* queries first */
    sv_decay kind;
    sv_decay_read read;
    float scale;
    bool reverse, accumulate, fours; /* fours: rows are made of 16-byte pieces */
};

#ifdef __CUDACC__

/* What a warp walks. */
struct sv_decay_place {
    int64_t group, part; /* part: the chunk's number among those of all groups */
    int chunk, begin, count, head, tile, lane, half, column, value;
    bool used; /* this lane's column exists */
};

static __device__ __forceinline__ sv_decay_place sv_decay_place_of(const sv_decay_scan_job &job)
{
    sv_decay_place p;
    const unsigned task = (blockIdx.x * blockDim.x + threadIdx.x) / SV_WARP,
                   part = task / job.tiles / job.heads;
    p.tile = (int)(task % job.tiles);
    p.head = (int)(task / job.tiles % job.heads);
    p.part = part;
    p.group = part / job.chunks;
    p.chunk = (int)(part % job.chunks);
    p.begin = p.chunk * job.chunk;
    p.count = min(job.chunk, job.length - p.begin);
    p.lane = threadIdx.x % SV_WARP;
    p.half = p.lane / SV_DECAY_COLUMNS;
    p.value = p.tile * SV_DECAY_COLUMNS + p.lane % SV_DECAY_COLUMNS;
    p.used = p.value < job.values;
    p.column = p.head * job.values + p.value;
    return p;
}

/* The first 'bytes' (0 or 4) of 4 bytes; the others zero. */
static __device__ __forceinline__ void sv_copy_number(uint32_t to, const void *from, int bytes)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
}

/* Key channels of a token: those of the second half lie four numbers further, in other banks. */
template <int KEYS> struct sv_decay_tokens {
    static constexpr int WIDE = KEYS + 8, HALF = KEYS / 2;
    struct alignas(16) stage {
        float v[SV_DECAY_STAGE][SV_DECAY_COLUMNS], own[SV_DECAY_STAGE][SV_DECAY_COLUMNS];
        float q[SV_DECAY_STAGE][WIDE], k[SV_DECAY_STAGE][WIDE], e[SV_DECAY_STAGE][WIDE];
    } stages[2];
    int32_t row[SV_CHUNK];
    static __device__ __forceinline__ int place(int key) { return key + (key >= HALF ? 4 : 0); }
};

/* A stage's rows of a source, WIDTH numbers each with the zeros behind them; the second half of longer rows
 * lies four further. */
template <int WIDTH, int PITCH>
static __device__ __forceinline__ void sv_decay_copy(float *to, const float *data,
                                                     const sv_decay_source &from, const int32_t *row,
                                                     int count, bool fours)
{
    const int lane = threadIdx.x % SV_WARP;
    if (fours) {
#pragma unroll
        for (int i = 0; i < SV_DECAY_STAGE * WIDTH / 4 / SV_WARP; i++) {
            const int piece = i * SV_WARP + lane, token = piece / (WIDTH / 4), at = piece % (WIDTH / 4) * 4,
                      place = at + (PITCH > WIDTH && at >= WIDTH / 2 ? 4 : 0);
            const bool there = row[token] >= 0 && at < count;
            sv_copy_near(sv_shared_address(to + token * PITCH + place),
                         there ? data + row[token] * from.pitch + at : from.data, there ? 16 : 0);
        }
        return;
    }
#pragma unroll 1
    for (int i = lane; i < SV_DECAY_STAGE * WIDTH; i += SV_WARP) {
        const int token = i / WIDTH, at = i % WIDTH, place = at + (PITCH > WIDTH && at >= WIDTH / 2 ? 4 : 0);
        const bool there = row[token] >= 0 && at < count;
        sv_copy_number(sv_shared_address(to + token * PITCH + place),
                       there ? data + row[token] * from.pitch + at : from.data, there ? 4 : 0);
    }
}

/* Starts copies of the stage that begins with token 'first' of the chunk. 'asked': queries, too. Loops stay
 * loops: a kernel is short, and fetching its instructions would take longer than they do. */
template <int KEYS>
static __device__ __forceinline__ void sv_decay_load(const sv_decay_scan_job &job, sv_decay_tokens<KEYS> *t,
                                                     const sv_decay_place &p, int first, bool asked)
{
    float *stage = (float *)&t->stages[first / SV_DECAY_STAGE % 2];
    const int32_t *row = t->row + first;
#pragma unroll 1
    for (int n = asked ? 0 : 1; n < job.sources; n++) {
        const sv_decay_source &from = job.source[n];
        const int skipped = from.of_keys ? job.first_key : p.tile * SV_DECAY_COLUMNS,
                  count = from.count - skipped;
        const float *data = from.data + from.first + p.head * from.count + skipped;
        float *to = stage + from.to;
        if (from.of_keys)
            sv_decay_copy<KEYS, sv_decay_tokens<KEYS>::WIDE>(to, data, from, row, count, job.fours);
        else
            sv_decay_copy<SV_DECAY_COLUMNS, SV_DECAY_COLUMNS>(to, data, from, row, count, job.fours);
    }
    if (job.kind == SV_DECAY_TOKEN && p.lane < SV_DECAY_STAGE) {
        const bool there = row[p.lane] >= 0;
        const float *decay = (const float *)job.decay.data;
        sv_copy_number(sv_shared_address(&t->stages[first / SV_DECAY_STAGE % 2].own[p.lane][0]),
                       there ? decay + row[p.lane] * (int64_t)job.decay.pitch + p.head : decay,
                       there ? 4 : 0);
    }
    sv_copies_end();
}

/* Where the chunk's tokens lie. */
template <int KEYS>
static __device__ __forceinline__ void sv_decay_rows(const sv_decay_scan_job &job, sv_decay_tokens<KEYS> *t,
                                                     const sv_decay_place &p)
{
    __syncwarp();
    for (int i = p.lane; i < SV_CHUNK; i += SV_WARP)
        t->row[i] =
            i < p.count
                ? (int32_t)sv_row_of(job.index, sv_slot_of(p.group, job.length, p.begin + i, job.reverse))
                : -1;
    __syncwarp();
}

/*
 * Waits for a stage, then logarithms become e^x - 1; to 'sum' (may be NULL) the logarithms of the lane's key
 * channel are added (where there are 16 of them: those of every other token).
 */
template <int KEYS, sv_spread SPREAD>
static __device__ __forceinline__ void sv_decay_arrive(const sv_decay_scan_job &job, sv_decay_tokens<KEYS> *t,
                                                       const sv_decay_place &p, int first, bool last,
                                                       float *sum)
{
    using tokens = sv_decay_tokens<KEYS>;
    auto &at = t->stages[first / SV_DECAY_STAGE % 2];
    if (last)
        sv_copies_wait<0>();
    else
        sv_copies_wait<1>();
    __syncwarp();
    if (SPREAD == SV_SPREAD_KEY) {
#pragma unroll 2
        for (int i = 0; i < SV_DECAY_STAGE * KEYS / SV_WARP; i++) {
            const int number = i * SV_WARP + p.lane;
            float *e = &at.e[number / KEYS][tokens::place(number % KEYS)];
            if (sum) *sum += *e;
            *e = expm1f(*e);
        }
    } else if (SPREAD == SV_SPREAD_COLUMN && job.kind == SV_DECAY_VALUE) {
#pragma unroll 2
        for (int i = 0; i < SV_DECAY_STAGE * SV_DECAY_COLUMNS / SV_WARP; i++) {
            float *e = &at.own[0][0] + i * SV_WARP + p.lane;
            *e = expm1f(*e);
        }
    } else if (SPREAD == SV_SPREAD_COLUMN && p.lane < SV_DECAY_STAGE) { /* one number for all columns */
        float e = 0;
        if (job.kind == SV_DECAY_TOKEN) e = expm1f(at.own[p.lane][0]);
        if (job.kind == SV_DECAY_HEAD && first + p.lane < p.count)
            e = expm1f(((const float *)job.decay.data)[p.head]);
        at.own[p.lane][0] = e;
    }
    __syncwarp();
}

/* The number of this lane's column in a token's row of 'own'. */
static __device__ __forceinline__ int sv_decay_own(const sv_decay_scan_job &job, const sv_decay_place &p)
{
    return job.kind == SV_DECAY_VALUE || job.kind == SV_DECAY_PAIR ? p.lane % SV_DECAY_COLUMNS : 0;
}

/* A lane's numbers of one token: four key channels of its half at a time. */
template <int KEYS>
static __device__ __forceinline__ float4 sv_decay_four(const float (&row)[sv_decay_tokens<KEYS>::WIDE],
                                                       const sv_decay_place &p, int i)
{
    return *(const float4 *)(row + p.half * (KEYS / 2 + 4) + 4 * i);
}

/* The factor less 1 of a state's element. */
template <sv_spread SPREAD>
static __device__ __forceinline__ float sv_decay_factor(float of_key, float of_column)
{
    return SPREAD == SV_SPREAD_KEY ? of_key : SPREAD == SV_SPREAD_PAIR ? -of_key * of_column : of_column;
}

#endif
#endif
