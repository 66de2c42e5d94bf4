/* SPDX-License-Identifier: Apache-2.0
 *
 * Softmax attention within groups on the GPU: among all tokens (dense_attention), or of each token with
 * those before it (attention_scan; moments.simd.c has the formula), by tiles of 64 queries and up to 64
 * keys (attention_tile.cuh). The softmax runs along: what was summed is rescaled when a greater score
 * comes. Tiles that no query of a block sees are passed over.
 *
 * Scores are kept in units of ln 2. Sums of decay are found in double and kept as two floats, so that
 * their differences are as good as a float can be however much was forgotten before.
 */
#include "backbones/attention_tile.cuh"
#include "perception/core/launch.cuh"

namespace {

constexpr int MOST = 256;         /* channels of a head */
constexpr int SUM_THREADS = 1024; /* of a block that sums a head's decays */
constexpr int SPAN = 64;          /* tokens that no tile of stride 1 crosses a multiple of */
constexpr float LOG2_E = 1.44269504088896341f;

struct attention_job {
    sv_tensor y;
    const void *q, *k, *v; /* copies */
    const float2 *since;   /* [groups, heads, length]: sums of decay; NULL: none */
    const float *owed;     /* the same: sums from there back to the last multiple of SPAN */
    sv_walk walk;
    int32_t heads, keys, values, window, stride; /* keys: whole channels */
    bool causal;
};

/* ---- sums of decay ------------------------------------------------------------------------------------- */

/* A block has a head of a group, a thread a run of its tokens. */
__global__ void __launch_bounds__(SUM_THREADS)
    sum_decays(float2 *since, float *owed, sv_tensor decay, sv_tensor y, sv_walk walk, int heads)
{
    __shared__ double totals[SV_WARP];
    const int64_t group = blockIdx.x / heads;
    const int head = blockIdx.x % heads, each = (walk.length + SUM_THREADS - 1) / SUM_THREADS,
              begin = threadIdx.x * each, end = min(begin + each, walk.length), lane = threadIdx.x % SV_WARP,
              warp = threadIdx.x / SV_WARP;
    if (group >= sv_walk_groups(y, walk)) return;
    since += (int64_t)blockIdx.x * walk.length;
    owed += (int64_t)blockIdx.x * walk.length;
    double sum = 0;
#pragma unroll 4
    for (int t = begin; t < end; t++) sum += (double)sv_walk_row(decay, walk, group, t)[head];
    double before = sum; /* the sum up to this thread's, at first within its warp */
    for (int distance = 1; distance < SV_WARP; distance *= 2) {
        const double other = __shfl_up_sync(0xffffffffu, before, distance);
        if (lane >= distance) before += other;
    }
    if (lane == SV_WARP - 1) totals[warp] = before;
    before = __shfl_up_sync(0xffffffffu, before, 1);
    if (lane == 0) before = 0;
    __syncthreads();
    for (int i = 0; i < warp; i++) before += totals[i];
    sum = 0;
#pragma unroll 4
    for (int t = begin; t < end; t++) {
        sum += (double)sv_walk_row(decay, walk, group, t)[head];
        const double scaled = (before + sum) * 1.4426950408889634;
        const float high = (float)scaled;
        since[t] = make_float2(high, (float)(scaled - (double)high));
    }
    __syncthreads();
#pragma unroll 4
    for (int t = threadIdx.x; t < walk.length; t += SUM_THREADS) {
        const float2 start = since[t / SPAN * SPAN], here = since[t];
        owed[t] = (start.x - here.x) + (start.y - here.y);
    }
}

/* ---- tiles of keys ------------------------------------------------------------------------------------- */

/*
 * What the queries of a block see. With a stride, that is every stride-th place from stride-1 on, and
 * then, in tiles of their own, the queries themselves. Tiles of stride 1 begin at multiples of KEYS.
 */
template <int KEYS> struct sight {
    int query, queries; /* first place, count */
    int begin, end;     /* of the places stride-1, 2 stride-1 ... */
    int far, tiles;     /* tiles of those, and in all */
    int stride;

    __device__ __forceinline__ sight(const attention_job &job, int first)
    {
        stride = job.stride;
        query = first;
        queries = min(job.walk.length - first, (int)SV_TILE_QUERIES);
        begin = job.window > 0 ? max(first - job.window + 1, 0) / stride / KEYS * KEYS : 0;
        end = (job.causal ? first + queries : job.walk.length) / stride;
        far = end > begin ? (end - begin + KEYS - 1) / KEYS : 0;
        tiles = far + (stride > 1 ? (queries + KEYS - 1) / KEYS : 0);
    }
    __device__ __forceinline__ sv_places at(int tile) const
    {
        const int number = begin + tile * KEYS, offset = (tile - far) * KEYS;
        if (tile < far) return {(number + 1) * stride - 1, stride, min(end - number, KEYS), false};
        return {query + offset, 1, min(queries - offset, KEYS), true};
    }
};

/* The places that the query at place 't' sees of a tile, from low to high. */
struct range {
    int low, high;
};
__device__ __forceinline__ range seen_by(const attention_job &job, const sv_places &tile, int t)
{
    if (tile.own) return {t, t};
    return {job.window > 0 ? t - job.window + 1 : 0, !job.causal      ? job.walk.length - 1
                                                     : job.stride > 1 ? t - 1
                                                                      : t};
}

/* Scores of what the warp's queries from place 'first' on do not see vanish. */
template <int KEYS>
__device__ __forceinline__ void hide(const attention_job &job, float (&s)[KEYS / 8][4], const sv_places &tile,
                                     int first)
{
    const int lane = threadIdx.x % 32, last = tile.first + (KEYS - 1) * tile.step;
    const range early = seen_by(job, tile, first), late = seen_by(job, tile, first + 15);
    if (tile.first >= late.low && last <= early.high) return;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const range seen = seen_by(job, tile, first + lane / 4 + 8 * h);
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int place = tile.first + (8 * n + lane % 4 * 2 + e) * tile.step;
                if (place < seen.low || place > seen.high) s[n][2 * h + e] = -INFINITY;
            }
    }
}

/* ---- forgetting ---------------------------------------------------------------------------------------- */

template <int BYTES> __device__ __forceinline__ void copy_note(void *to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;\n" ::"r"(sv_shared_address(to)), "l"(from),
                 "n"(BYTES)
                 : "memory");
}

/* Sums of a head's decays, and of this thread's two queries. */
struct sums_of_head {
    const float2 *since;
    const float *owed;
    float2 own[2];
};

/*
 * Floats: the notes of a tile are its keys' sums. 16-bit numbers, whose scores are not that good: what its
 * keys owe, of tiles of stride 1, and then the sum that this is counted from.
 */
template <typename S>
__device__ __forceinline__ void note(const sums_of_head &sums, const sv_places &tile, char *notes)
{
    const int thread = threadIdx.x % SV_TEAM;
    if (!sums.since || thread >= tile.count) return;
    if constexpr (sv_in_floats<typename S::N>) {
        copy_note<8>((float2 *)notes + thread, sums.since + tile.first + thread * tile.step);
    } else {
        copy_note<4>((float *)notes + thread, sums.owed + tile.first + thread);
        if (thread == 0) copy_note<8>(notes + S::KEYS * 4, sums.since + tile.first / SPAN * SPAN);
    }
}
/* What scores are added to. */
template <typename S>
__device__ __forceinline__ void begin(const sums_of_head &sums, float (&s)[S::KEYS / 8][4], const char *notes)
{
    const bool owed = !sv_in_floats<typename S::N> && sums.since;
    const float *from = (const float *)notes + threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < S::KEYS / 8; n++) {
        const float2 two = owed ? *(const float2 *)(from + 8 * n) : make_float2(0, 0);
        s[n][0] = s[n][2] = two.x;
        s[n][1] = s[n][3] = two.y;
    }
}
/* Scores of floats lose what was forgotten since; of others, what the two queries' still have to lose. */
template <typename S>
__device__ __forceinline__ void forget(const sums_of_head &sums, float (&s)[S::KEYS / 8][4],
                                       float (&still)[2], const char *notes)
{
    still[0] = still[1] = 0;
    if (!sums.since) return;
    if constexpr (sv_in_floats<typename S::N>) {
#pragma unroll
        for (int n = 0; n < S::KEYS / 8; n++) {
            const float4 two = *(const float4 *)((const float2 *)notes + 8 * n + threadIdx.x % 4 * 2);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                s[n][2 * h] += (sums.own[h].x - two.x) + (sums.own[h].y - two.y);
                s[n][2 * h + 1] += (sums.own[h].x - two.z) + (sums.own[h].y - two.w);
            }
        }
    } else {
        const float2 start = *(const float2 *)(notes + S::KEYS * 4);
#pragma unroll
        for (int h = 0; h < 2; h++) still[h] = (sums.own[h].x - start.x) + (sums.own[h].y - start.y);
    }
}

/* ---- softmax ------------------------------------------------------------------------------------------- */

/* Of a thread's two queries, h: sum[2h], of its own weights (floats) or of all. */
struct softmax {
    float most[2], sum[4];
};

/* Scores, to which 'still' is due, to weights; 'o' is rescaled. */
template <typename S>
__device__ __forceinline__ void weigh(softmax &m, float (&s)[S::KEYS / 8][4], float (&o)[S::D / 8][4],
                                      const float (&still)[2])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = -INFINITY;
#pragma unroll
        for (int n = 0; n < S::KEYS / 8; n++) top = fmaxf(top, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        const float most = fmaxf(m.most[h], top + still[h]), base = most == -INFINITY ? 0.0f : most,
                    fade = sv_power(m.most[h] - base), less = base - still[h];
        float sum = 0;
#pragma unroll
        for (int n = 0; n < S::KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                s[n][2 * h + e] = sv_power(s[n][2 * h + e] - less);
                if (sv_in_floats<typename S::N>) sum += s[n][2 * h + e];
            }
        m.most[h] = most;
        m.sum[2 * h] = fmaf(m.sum[2 * h], fade, sum);
        m.sum[2 * h + 1] *= fade;
        if (!__any_sync(0xffffffffu, fade != 1.0f)) continue; /* no greater one than before */
#pragma unroll
        for (int n = 0; n < S::D / 8; n++) {
            o[n][2 * h] *= fade;
            o[n][2 * h + 1] *= fade;
        }
    }
}

/* What another team found. */
template <int D>
__device__ __forceinline__ void join(softmax &m, float (&o)[D / 8][4], const float (&other)[D / 8][4],
                                     const float (&more)[4])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float most = fmaxf(m.most[h], more[h]), base = most == -INFINITY ? 0.0f : most,
                    fade = sv_power(m.most[h] - base), share = sv_power(more[h] - base);
        m.most[h] = most;
        m.sum[2 * h] = fmaf(m.sum[2 * h], fade, share * more[2 + h]);
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                o[n][2 * h + e] = fmaf(o[n][2 * h + e], fade, share * other[n][2 * h + e]);
    }
}

template <typename S>
__global__ void __launch_bounds__(S::THREADS) attend(const __grid_constant__ attention_job job)
{
    extern __shared__ __align__(16) char shared[];
    const int64_t group = blockIdx.x / job.heads;
    const int head = blockIdx.x % job.heads, lane = threadIdx.x % 32;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const sight<S::KEYS> see(job,
                             (int)(gridDim.y - 1 - blockIdx.y) * SV_TILE_QUERIES); /* the longest first */
    const int first = see.query + (int)threadIdx.x % SV_TEAM / 32 * 16; /* the warp's first query */
    sums_of_head sums = {};
    if (job.since) {
        sums.since = job.since + (int64_t)blockIdx.x * job.walk.length;
        sums.owed = job.owed + (int64_t)blockIdx.x * job.walk.length;
        for (int h = 0; h < 2; h++)
            sums.own[h] = sums.since[min(first + lane / 4 + 8 * h, job.walk.length - 1)];
    }
    softmax m = {{-INFINITY, -INFINITY}, {}};
    float o[S::D / 8][4] = {};
    const sv_tile_heads of = {job.q,     job.k, job.v,    group * job.walk.length,
                              job.heads, head,  job.keys, sv_whole_channels(job.values)};
    sv_tile_walk<S>(
        o, m.sum, shared, of, see, [&](const sv_places &tile, char *notes) { note<S>(sums, tile, notes); },
        [&](float(&s)[S::KEYS / 8][4], const sv_places &, const char *notes) { begin<S>(sums, s, notes); },
        [&](float(&s)[S::KEYS / 8][4], const sv_places &tile, const char *notes) {
            float still[2];
            forget<S>(sums, s, still, notes);
            hide<S::KEYS>(job, s, tile, first);
            weigh<S>(m, s, o, still);
        });
    if (sv_in_floats<typename S::N>)
        for (int h = 0; h < 2; h++) m.sum[2 * h] = sv_sum_of<4>(m.sum[2 * h]);
    if (S::TEAMS > 1) {
        sv_tile_hand_over<S>(shared, o, {m.most[0], m.most[1], m.sum[0], m.sum[2]});
        if (threadIdx.x >= SV_TEAM) return;
#pragma unroll
        for (int team = 1; team < S::TEAMS; team++) {
            float other[S::D / 8][4], more[4];
            sv_tile_take<S>(other, more, shared, team);
            join<S::D>(m, o, other, more);
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float rate = 1.0f / m.sum[2 * h];
#pragma unroll
        for (int n = 0; n < S::D / 8; n++) {
            o[n][2 * h] *= rate;
            o[n][2 * h + 1] *= rate;
        }
    }
    sv_tile_store<S::D>(job.y, job.walk, group, first, see.query + see.queries - first, head * job.values,
                        job.values, o);
}

/* ---- launching ----------------------------------------------------------------------------------------- */

template <typename S> sv_status run_width(sv_ctx *c, const char *op, const attention_job &job, int groups)
{
    const int tiles = (job.walk.length + SV_TILE_QUERIES - 1) / SV_TILE_QUERIES;
    SV_TRY(sv_cuda_reserve(c, op, attend<S>, S::BYTES));
    attend<S>
        <<<dim3((unsigned)(groups * job.heads), (unsigned)tiles), S::THREADS, S::BYTES, sv_cuda_stream(c)>>>(
            job);
    return SV_CUDA_LAUNCHED(c, op);
}

/* A block takes less than 100 KB. */
template <typename N> sv_status run(sv_ctx *c, const char *op, attention_job &job, sv_tile_copies *copies)
{
    constexpr bool floats = sv_in_floats<N>;
    const int groups = job.y.dim[0] / job.walk.length, wide = job.keys > job.values ? job.keys : job.values;
    copies->y = job.y;
    copies->walk = job.walk;
    copies->heads = job.heads;
    SV_TRY(sv_make_tiles<N>(c, op, copies));
    job.q = copies->of[0].to;
    job.k = copies->of[1].to;
    job.v = copies->of[2].to;
    if (wide <= 32) return run_width<sv_tile_shape<N, 32, floats ? 32 : 64, 4, 2>>(c, op, job, groups);
    if (wide <= 64) return run_width<sv_tile_shape<N, 64, floats ? 32 : 64, 2, 2>>(c, op, job, groups);
    if (wide <= 128)
        return run_width<sv_tile_shape<N, 128, floats ? 16 : 32, floats ? 1 : 2, 2>>(c, op, job, groups);
    return run_width<sv_tile_shape<N, 256, 16, 1, floats ? 1 : 2>>(c, op, job, groups);
}

sv_status run_attention(sv_ctx *c, const char *op, attention_job &job, sv_tensor q, sv_tensor k, sv_tensor v,
                        float scale)
{
    const int keys = q.dim[1] / job.heads;
    job.keys = sv_whole_channels(keys);
    job.values = job.y.dim[1] / job.heads;
    SV_CHECK(c, keys <= MOST && job.values <= MOST, SV_UNSUPPORTED,
             "%s: heads of %d and %d channels; the GPU takes up to %d", op, keys, job.values, MOST);
    sv_tile_copies copies = {};
    copies.of[0] = {q, NULL, scale * LOG2_E, keys, false};
    copies.of[1] = {k, NULL, 1, keys, false};
    copies.of[2] = {v, NULL, 1, job.values, false};
    /* what keys owe is counted for stride 1 only */
    if (c->precision == SV_FP32 || (job.since && job.stride > 1)) return run<sv_exact>(c, op, job, &copies);
    if (c->precision == SV_BF16_MATH) return run<sv_bf16>(c, op, job, &copies);
    return run<sv_half>(c, op, job, &copies); /* half floats have as many bits of mantissa as TF32 */
}

} // namespace

sv_status sv_cuda_attention_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                 sv_tensor decay, int heads, float scale, int window, int stride,
                                 const sv_sequence *seq)
{
    static const char op[] = "attention_scan";
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    attention_job job = {};
    job.y = y;
    job.walk = sv_walk_of(seq);
    job.heads = heads;
    job.window = window;
    job.stride = stride;
    job.causal = true;
    if (!sv_is_none(decay)) {
        void *since = NULL, *owed = NULL;
        const size_t count = (size_t)y.dim[0] * (size_t)heads;
        SV_TRY(sv_arena_alloc(c, &c->scratch, "decay sums", sizeof(float2) * count, &since));
        SV_TRY(sv_arena_alloc(c, &c->scratch, "decay sums of spans", sizeof(float) * count, &owed));
        job.since = (const float2 *)since;
        job.owed = (const float *)owed;
        sum_decays<<<(unsigned)(y.dim[0] / seq->length * heads), SUM_THREADS, 0, sv_cuda_stream(c)>>>(
            (float2 *)since, (float *)owed, decay, y, job.walk, heads);
        SV_TRY(SV_CUDA_LAUNCHED(c, op));
    }
    SV_TRY(run_attention(c, op, job, q, k, v, scale));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

sv_status sv_cuda_dense_attention(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, int heads,
                                  float scale, int length)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    attention_job job = {};
    job.y = y;
    job.walk.length = length;
    job.heads = heads;
    job.stride = 1;
    SV_TRY(run_attention(c, "dense_attention", job, q, k, v, scale));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
