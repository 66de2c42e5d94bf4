/* SPDX-License-Identifier: Apache-2.0
 *
 * Tiles of queries, keys and values in shared memory, and the two products of every attention on tensor
 * cores:
 *
 *     s = Q K'   [queries, keys]     o += w V   [queries, values]     w = f(s), in the registers where s was
 *
 * A block has 64 queries of a head, 16 to a warp of each of its teams of four warps, and a team every so
 * many-th tile of keys: where groups are few their tiles are walked at once. What tiles are made of is
 * chosen by the precision:
 *
 *     sv_exact   floats, as three products of TF32 numbers (perception/core/matrix.cuh): float32 accuracy
 *     sv_plain   floats, rounded to TF32 numbers
 *     sv_half, sv_bf16
 *
 * Inputs are copied first, converted, in walking order, with heads widened by zeros to 16, 32, 64 ...
 * channels, so that tiles come in pieces of 16 bytes whatever the widths. A thread's sums s[n][2h + e] are
 * query lane/4 + 8h and key 8n + 2 (lane%4) + e.
 */
#ifndef SV_ATTENTION_TILE_CUH
#define SV_ATTENTION_TILE_CUH

#include "backbones/walk.cuh"
#include "backbones/warp_product.cuh"

/* Channels of a head in a copy. */
static SV_CUDA_BOTH inline int sv_whole_channels(int width)
{
    int whole = 16;
    while (whole < width) whole *= 2;
    return whole;
}

/* Rows of heads to be copied. */
typedef struct sv_tile_copy {
    sv_tensor from;
    void *to;    /* [slots][heads][whole channels] */
    float scale; /* what they are multiplied by */
    int32_t width;
    bool fours; /* read in fours */
} sv_tile_copy;

enum { SV_TILE_COPIES = 3, SV_TILE_QUERIES = 64, SV_TEAM = 128 /* threads */ };

typedef struct sv_tile_copies {
    sv_tile_copy of[SV_TILE_COPIES];
    sv_tensor y; /* its live rows count */
    sv_walk walk;
    int32_t heads;
} sv_tile_copies;

#ifdef __CUDACC__

struct sv_exact {
    using number = float;
    enum { PRODUCTS = 3 };
};
struct sv_plain {
    using number = float;
    enum { PRODUCTS = 1 };
};
struct sv_half {
    using number = __half;
    enum { PRODUCTS = 1 };
};
struct sv_bf16 {
    using number = __nv_bfloat16;
    enum { PRODUCTS = 1 };
};
template <typename N> static constexpr bool sv_in_floats = sizeof(typename N::number) == sizeof(float);

/* ---- copies -------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ void sv_put_four(sv_exact, void *to, float4 x)
{
    *(float4 *)to = x;
}
static __device__ __forceinline__ void sv_put_four(sv_plain, void *to, float4 x)
{
    *(uint4 *)to = make_uint4(sv_tf32(x.x), sv_tf32(x.y), sv_tf32(x.z), sv_tf32(x.w));
}
static __device__ __forceinline__ void sv_put_four(sv_half, void *to, float4 x)
{
    *(uint2 *)to = make_uint2(sv_halves(x.x, x.y), sv_halves(x.z, x.w));
}
static __device__ __forceinline__ void sv_put_four(sv_bf16, void *to, float4 x)
{
    const __nv_bfloat162 low = __floats2bfloat162_rn(x.x, x.y), high = __floats2bfloat162_rn(x.z, x.w);
    *(uint2 *)to = make_uint2(*(const unsigned *)&low, *(const unsigned *)&high);
}

/* Blocks are numbered [., copies]. */
template <typename N> static __global__ void sv_copy_heads(const __grid_constant__ sv_tile_copies job)
{
    const sv_tile_copy &copy = job.of[blockIdx.y];
    const int whole = sv_whole_channels(copy.width), shift = __ffs(whole) - 1, wide = whole * job.heads,
              rows = sv_walk_groups(job.y, job.walk) * job.walk.length;
    sv_each_piece<4>(rows, wide, [&](int row, int first) {
        const int group = row / job.walk.length, step = row - group * job.walk.length,
                  at = first & (whole - 1), left = copy.width - at;
        const float *from =
            sv_walk_row(copy.from, job.walk, group, step) + (first >> shift) * copy.width + at;
        float4 x = make_float4(0, 0, 0, 0);
        if (copy.fours) {
            if (left > 0) x = *(const float4 *)from;
        } else {
            if (left > 0) x.x = from[0];
            if (left > 1) x.y = from[1];
            if (left > 2) x.z = from[2];
            if (left > 3) x.w = from[3];
        }
        x.x *= copy.scale, x.y *= copy.scale, x.z *= copy.scale, x.w *= copy.scale;
        sv_put_four(N(), (typename N::number *)copy.to + (int64_t)row * wide + first, x);
    });
}

/* Copies of the three into the scratch arena. */
template <typename N> static sv_status sv_make_tiles(sv_ctx *c, const char *op, sv_tile_copies *job)
{
    int pieces = 0; /* of the widest */
    for (sv_tile_copy *copy = job->of; copy < job->of + SV_TILE_COPIES; copy++) {
        const int wide = sv_whole_channels(copy->width) * job->heads;
        SV_TRY(sv_arena_alloc(c, &c->scratch, "attention tiles",
                              sizeof(typename N::number) * (size_t)job->y.dim[0] * (size_t)wide, &copy->to));
        copy->fours = copy->width % 4 == 0 && sv_cuda_in_fours(copy->from);
        if (wide / 4 > pieces) pieces = wide / 4;
    }
    sv_copy_heads<N><<<dim3(sv_cuda_row_blocks(job->y.dim[0], pieces), SV_TILE_COPIES), SV_CUDA_THREADS, 0,
                       sv_cuda_stream(c)>>>(*job);
    return SV_CUDA_LAUNCHED(c, op);
}

/* ---- tiles --------------------------------------------------------------------------------------------- */

/* Of a kernel for heads of up to WIDTH channels. */
template <typename NUMBERS, int WIDTH, int TILE_KEYS, int COUNT, int DEPTH> struct sv_tile_shape {
    using N = NUMBERS;
    static constexpr int D = WIDTH, KEYS = TILE_KEYS, TEAMS = COUNT, THREADS = TEAMS * SV_TEAM;
    static constexpr int STAGES = DEPTH; /* of a team: tiles that are there or on their way */
    static constexpr int PITCH = D * (int)sizeof(typename N::number) + 16; /* of rows: no banks collide */
    static constexpr int NOTES = KEYS * 8 + 16; /* bytes that a kernel may keep with a tile */
    static constexpr int STAGE = 2 * KEYS * PITCH + NOTES, QUERY_BYTES = SV_TILE_QUERIES * PITCH;
    static constexpr int BYTES = QUERY_BYTES + TEAMS * STAGES * STAGE;
    static constexpr int HANDED = D / 2 + 4; /* numbers of a thread that a team hands over */
    static_assert(BYTES <= 99 << 10, "what every GPU from sm_80 on lets a block have");
    static_assert((TEAMS - 1) * HANDED * SV_TEAM * 4 <= TEAMS * STAGES * STAGE,
                  "room for what teams hand over");
};

/* Where a head's copies lie; 'base': row of its group's first token. */
struct sv_tile_heads {
    const void *q, *k, *v;
    int64_t base;
    int heads, head, keys, values; /* whole channels */
};

/* Keys of a tile: as many as 'count' from place 'first' on, 'step' apart. */
struct sv_places {
    int first, step, count;
    bool own; /* queries see themselves only */
};

/* How a thread of 'threads' copies its pieces of tiles of a head. */
template <typename S> struct sv_tile_mover {
    const char *from; /* of the group's first token */
    int pitch;        /* bytes from token to token */
    int row, each;    /* its rows of a tile: the first, steps */
    uint32_t at;      /* within a row of a tile */

    __device__ __forceinline__ sv_tile_mover(const sv_tile_heads &of, const void *copy, int whole, int thread,
                                             int threads)
    {
        const int bytes = whole * (int)sizeof(typename S::N::number), shift = __ffs(bytes / 16) - 1;
        at = (thread & ((1 << shift) - 1)) * 16;
        pitch = of.heads * bytes;
        from = (const char *)copy + of.base * pitch + of.head * bytes + at;
        row = thread >> shift;
        each = threads >> shift;
    }
    /* 'rows' rows, of which those of 'places' are there and the others zero. */
    __device__ __forceinline__ void load(uint32_t to, const sv_places &places, int rows) const
    {
        const char *source = from + (int64_t)(places.first + row * places.step) * pitch;
        const int64_t jump = (int64_t)each * places.step * pitch;
        to += at + row * S::PITCH;
        for (int i = row; i < rows; i += each, source += jump, to += each * S::PITCH)
            sv_copy_some(to, i < places.count ? source : from, i < places.count ? 16 : 0);
    }
};

static __device__ __forceinline__ void sv_matrix_load_turned(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/* Floats as the tensor cores take them: rounded, or with what rounding left. Copies for one product are
 * rounded. */
template <int PRODUCTS, int COUNT> struct sv_split_numbers {
    uint32_t high[COUNT], low[COUNT];
    __device__ __forceinline__ void set(int i, float x)
    {
        high[i] = sv_tf32(x);
        if (PRODUCTS > 1) low[i] = sv_tf32(x - __uint_as_float(high[i]));
    }
    __device__ __forceinline__ void take(int i, uint32_t copied)
    {
        if (PRODUCTS > 1)
            set(i, __uint_as_float(copied));
        else
            high[i] = copied;
    }
};
/* d += a b for two times eight columns: tensor cores cut long sums off, so only these are summed there,
 * small ones first. */
template <int PRODUCTS>
static __device__ __forceinline__ void sv_mma_split(float (&d)[4],
                                                    const sv_split_numbers<PRODUCTS, 4> (&a)[2],
                                                    const sv_split_numbers<PRODUCTS, 2> (&b)[2])
{
    if (PRODUCTS == 1) {
        sv_mma_tf32(d, a[0].high, b[0].high[0], b[0].high[1]);
        sv_mma_tf32(d, a[1].high, b[1].high[0], b[1].high[1]);
    } else {
        float part[4] = {};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            sv_mma_tf32(part, a[i].low, b[i].high[0], b[i].high[1]);
            sv_mma_tf32(part, a[i].high, b[i].low[0], b[i].low[1]);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) sv_mma_tf32(part, a[i].high, b[i].high[0], b[i].high[1]);
#pragma unroll
        for (int i = 0; i < 4; i++) d[i] += part[i];
    }
}

/* Sixteen columns of Q and of two times eight keys. */
template <typename S>
static __device__ __forceinline__ void sv_scores_of_floats(float (&s)[S::KEYS / 8][4], uint32_t q, uint32_t k)
{
    constexpr int PRODUCTS = S::N::PRODUCTS;
    sv_split_numbers<PRODUCTS, 4> left[2];
#pragma unroll
    for (int part = 0; part < 2; part++) {
        uint32_t a[4];
        sv_matrix_load(a, q + 32 * part);
#pragma unroll
        for (int i = 0; i < 4; i++) left[part].take(i, a[i]);
    }
#pragma unroll
    for (int n = 0; n < S::KEYS / 16; n++) {
        uint32_t b[2][4];
#pragma unroll
        for (int part = 0; part < 2; part++) sv_matrix_load(b[part], k + 16 * n * S::PITCH + 32 * part);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            sv_split_numbers<PRODUCTS, 2> right[2];
#pragma unroll
            for (int part = 0; part < 2; part++) {
                right[part].take(0, b[part][2 * half]);
                right[part].take(1, b[part][2 * half + 1]);
            }
            sv_mma_split(s[2 * n + half], left, right);
        }
    }
}

/* s += Q K' of heads of 'whole' channels; 'q' at the warp's first row. */
template <typename S>
static __device__ __forceinline__ void sv_tile_scores(float (&s)[S::KEYS / 8][4], uint32_t q, uint32_t k,
                                                      int whole)
{
    constexpr int SIXTEEN = 16 * (int)sizeof(typename S::N::number);
    const int lane = threadIdx.x % 32;
    q += lane % 16 * S::PITCH + lane / 16 * 16;
    k += (lane / 16 * 8 + lane % 8) * S::PITCH + lane / 8 % 2 * 16;
#pragma unroll
    for (int step = 0; step < S::D / 16; step++) {
        if (step * 16 >= whole) break;
        if constexpr (sv_in_floats<typename S::N>) {
            sv_scores_of_floats<S>(s, q + SIXTEEN * step, k + SIXTEEN * step);
        } else {
            uint32_t a[4];
            sv_matrix_load(a, q + SIXTEEN * step);
#pragma unroll
            for (int n = 0; n < S::KEYS / 16; n++) {
                uint32_t b[4];
                sv_matrix_load(b, k + 16 * n * S::PITCH + SIXTEEN * step);
                sv_mma_16<typename S::N::number>(s[2 * n], a[0], a[1], a[2], a[3], b[0], b[1]);
                sv_mma_16<typename S::N::number>(s[2 * n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
            }
        }
    }
}

/* Weights, none of which is beyond what half floats hold. */
static __device__ __forceinline__ uint32_t sv_two(__half, float x, float y)
{
    const __half2 both = __floats2half2_rn(x, y);
    return *(const uint32_t *)&both;
}
static __device__ __forceinline__ uint32_t sv_two(__nv_bfloat16, float x, float y)
{
    const __nv_bfloat162 both = __floats2bfloat162_rn(x, y);
    return *(const uint32_t *)&both;
}

/*
 * o += w V for values of 'whole' channels. Floats: sums over keys may be taken in any order, so the
 * numbers of two neighbouring keys that a lane has of w are those of columns lane%4 and lane%4 + 4 of the
 * left factor. 16-bit numbers: total[2h] and total[2h + 1] += the sum of a query's weights as they are
 * taken here.
 */
template <typename S>
static __device__ __forceinline__ void sv_tile_gather(float (&o)[S::D / 8][4], float (&total)[4],
                                                      const float (&w)[S::KEYS / 8][4], const char *values,
                                                      int whole)
{
    using N = typename S::N;
    constexpr int D = S::D, KEYS = S::KEYS, PITCH = S::PITCH;
    const int lane = threadIdx.x % 32;
    if constexpr (sv_in_floats<N>) {
        constexpr int PRODUCTS = N::PRODUCTS, ROW = PITCH / 4;
        const float *from = (const float *)values + lane % 4 * 2 * ROW + lane / 4;
#pragma unroll
        for (int step = 0; step < KEYS / 16; step++, from += 16 * ROW) {
            sv_split_numbers<PRODUCTS, 4> left[2];
#pragma unroll
            for (int part = 0; part < 2; part++) {
                const float(&own)[4] = w[2 * step + part];
                left[part].set(0, own[0]);
                left[part].set(1, own[2]);
                left[part].set(2, own[1]);
                left[part].set(3, own[3]);
            }
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                if (8 * n >= whole) break;
                sv_split_numbers<PRODUCTS, 2> right[2];
#pragma unroll
                for (int part = 0; part < 2; part++) {
                    right[part].take(0, __float_as_uint(from[8 * part * ROW + 8 * n]));
                    right[part].take(1, __float_as_uint(from[(8 * part + 1) * ROW + 8 * n]));
                }
                sv_mma_split(o[n], left, right);
            }
        }
    } else {
        using T = typename N::number;
        const uint32_t ones = sv_two(T(), 1.0f, 1.0f);
        const uint32_t v = sv_shared_address(values) + lane % 16 * PITCH + lane / 16 * 16;
#pragma unroll
        for (int step = 0; step < KEYS / 16; step++) {
            const float(&low)[4] = w[2 * step], (&high)[4] = w[2 * step + 1];
            const uint32_t a0 = sv_two(T(), low[0], low[1]), a1 = sv_two(T(), low[2], low[3]),
                           a2 = sv_two(T(), high[0], high[1]), a3 = sv_two(T(), high[2], high[3]);
            sv_mma_16<T>(total, a0, a1, a2, a3, ones, ones);
#pragma unroll
            for (int n = 0; n < D / 16; n++) {
                if (16 * n >= whole) break;
                uint32_t b[4];
                sv_matrix_load_turned(b, v + 16 * step * PITCH + 32 * n);
                sv_mma_16<T>(o[2 * n], a0, a1, a2, a3, b[0], b[1]);
                sv_mma_16<T>(o[2 * n + 1], a0, a1, a2, a3, b[2], b[3]);
            }
        }
    }
}

/* ---- walking ------------------------------------------------------------------------------------------- */

/* Of this thread's team. */
static __device__ __forceinline__ void sv_team_wait()
{
    asm volatile("bar.sync %0, 128;\n" ::"r"((int)threadIdx.x / SV_TEAM + 1) : "memory");
}

/*
 * A block's queries see tiles 0 .. see.tiles - 1, whose places see.at() gives. note(tile, notes) begins
 * copies to what a kernel keeps with a tile, begin(s, tile, notes) makes what scores are added to,
 * weigh(s, tile, notes) makes them weights, which 'o' is added to by, and 'total' if they are 16-bit
 * numbers.
 */
template <typename S, typename SIGHT, typename NOTE, typename BEGIN, typename WEIGH>
static __device__ __forceinline__ void sv_tile_walk(float (&o)[S::D / 8][4], float (&total)[4], char *shared,
                                                    const sv_tile_heads &of, const SIGHT &see, NOTE note,
                                                    BEGIN begin, WEIGH weigh)
{
    const int team = threadIdx.x / SV_TEAM, thread = threadIdx.x % SV_TEAM, warp = thread / 32;
    char *stage = shared + S::QUERY_BYTES + team * S::STAGES * S::STAGE;
    const sv_tile_mover<S> keys(of, of.k, of.keys, thread, SV_TEAM),
        values(of, of.v, of.values, thread, SV_TEAM);
    const auto load = [&](int number, char *to) {
        if (number < see.tiles) {
            const sv_places tile = see.at(number);
            const uint32_t at = sv_shared_address(to);
            keys.load(at, tile, S::KEYS);
            values.load(at + S::KEYS * S::PITCH, tile, S::KEYS);
            note(tile, to + 2 * S::KEYS * S::PITCH);
        }
        sv_copies_end();
    };
    const uint32_t q = sv_shared_address(shared);
    sv_tile_mover<S>(of, of.q, of.keys, threadIdx.x, S::THREADS)
        .load(q, {see.query, 1, see.queries, false}, SV_TILE_QUERIES);
    load(team, stage);
    sv_copies_wait<0>();
    __syncthreads();
    for (int number = team, turn = 0; number < see.tiles; number += S::TEAMS, turn ^= 1) {
        char *const here = stage + (S::STAGES > 1 ? turn * S::STAGE : 0);
        char *const notes = here + 2 * S::KEYS * S::PITCH;
        if (number > team) {
            sv_copies_wait<0>();
            sv_team_wait();
        }
        if (S::STAGES > 1) load(number + S::TEAMS, stage + (turn ^ 1) * S::STAGE);
        const sv_places tile = see.at(number);
        float s[S::KEYS / 8][4];
        begin(s, tile, notes);
        sv_tile_scores<S>(s, q + 16 * warp * S::PITCH, sv_shared_address(here), of.keys);
        weigh(s, tile, notes);
        sv_tile_gather<S>(o, total, s, here + S::KEYS * S::PITCH, of.values);
        if (S::STAGES == 1) {
            sv_team_wait();
            load(number + S::TEAMS, stage);
        }
    }
    __syncthreads();
}

/* What a thread of the teams but the first found, to that of the first: numbers o, and four more. */
template <typename S>
static __device__ __forceinline__ void sv_tile_hand_over(char *shared, const float (&o)[S::D / 8][4],
                                                         const float (&more)[4])
{
    float *to = (float *)(shared + S::QUERY_BYTES) + ((int)threadIdx.x / SV_TEAM - 1) * S::HANDED * SV_TEAM +
                threadIdx.x % SV_TEAM;
    if (threadIdx.x >= SV_TEAM) {
#pragma unroll
        for (int i = 0; i < S::HANDED; i++)
            to[i * SV_TEAM] = i < S::D / 2 ? o[i / 4 % (S::D / 8)][i % 4] : more[i % 4];
    }
    __syncthreads();
}
template <typename S>
static __device__ __forceinline__ void sv_tile_take(float (&o)[S::D / 8][4], float (&more)[4],
                                                    const char *shared, int team)
{
    const float *from =
        (const float *)(shared + S::QUERY_BYTES) + (team - 1) * S::HANDED * SV_TEAM + threadIdx.x;
#pragma unroll
    for (int i = 0; i < S::HANDED; i++)
        (i < S::D / 2 ? o[i / 4 % (S::D / 8)][i % 4] : more[i % 4]) = from[i * SV_TEAM];
}

/* A warp's sums to its rows of y: walking steps 'first' on, of which 'count' are there. */
template <int D>
static __device__ __forceinline__ void sv_tile_store(const sv_tensor &y, const sv_walk &walk, int64_t group,
                                                     int first, int count, int column, int width,
                                                     const float (&o)[D / 8][4])
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = lane / 4 + 8 * h;
        if (row >= count) break;
        float *to = sv_walk_row(y, walk, group, first + row) + column;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int at = 8 * n + lane % 4 * 2 + e;
                if (at < width) to[at] = o[n][2 * h + e];
            }
    }
}

#endif
#endif
