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

namespace {

constexpr int MOST = 256;        /* channels of a head */
constexpr int SUM_THREADS = 256; /* of a block that sums a head's decays */
constexpr float LOG2_E = 1.44269504088896341f;

struct attention_job {
    sv_tensor y;
    const void *q, *k, *v; /* copies */
    const float2 *since;   /* [groups, heads, length]: sums of decay; NULL: none */
    sv_walk walk;
    int32_t heads, keys, values, window, stride; /* keys: whole channels */
    bool causal;
};

/* ---- sums of decay
 * -------------------------------------------------------------------------------------- */

/* A block has a head of a group, a thread a run of its tokens. */
__global__ void __launch_bounds__(SUM_THREADS)
    sum_decays(float2 *since, sv_tensor decay, sv_tensor y, sv_walk walk, int heads)
{
    __shared__ double totals[SUM_THREADS];
    const int64_t group = blockIdx.x / heads;
    const int head = blockIdx.x % heads, each = (walk.length + SUM_THREADS - 1) / SUM_THREADS,
              begin = threadIdx.x * each, end = min(begin + each, walk.length);
    if (group >= sv_walk_groups(y, walk)) return;
    since += (int64_t)blockIdx.x * walk.length;
    double sum = 0;
    for (int t = begin; t < end; t++) sum += (double)sv_walk_row(decay, walk, group, t)[head];
    totals[threadIdx.x] = sum;
    for (int distance = 1; distance < SUM_THREADS; distance *= 2) {
        __syncthreads();
        const double other = (int)threadIdx.x >= distance ? totals[threadIdx.x - distance] : 0;
        __syncthreads();
        totals[threadIdx.x] += other;
    }
    __syncthreads();
    sum = threadIdx.x > 0 ? totals[threadIdx.x - 1] : 0;
    for (int t = begin; t < end; t++) {
        sum += (double)sv_walk_row(decay, walk, group, t)[head];
        const double scaled = sum * 1.4426950408889634;
        const float high = (float)scaled;
        since[t] = make_float2(high, (float)(scaled - (double)high));
    }
}

/* ---- tiles of keys
 * -------------------------------------------------------------------------------------- */

/* Keys of a tile: places first, first + step ... */
struct places {
    int first, step, count;
    bool own; /* queries see themselves only */
};

/*
 * What the queries of a block see. With a stride, that is every stride-th place from stride-1 on, and
 * then, in tiles of their own, the queries themselves.
 */
template <int KEYS> struct sight {
    int query, queries; /* first place, count */
    int begin, end;     /* of the places stride-1, 2 stride-1 ... */
    int far, tiles;     /* tiles of those, and in all */

    __device__ __forceinline__ sight(const attention_job &job, int first)
    {
        const int stride = job.stride;
        query = first;
        queries = min(job.walk.length - first, (int)SV_TILE_QUERIES);
        begin = job.window > 0 ? max(first - job.window + 1, 0) / stride : 0;
        end = (job.causal ? first + queries : job.walk.length) / stride;
        far = end > begin ? (end - begin + KEYS - 1) / KEYS : 0;
        tiles = far + (stride > 1 ? (queries + KEYS - 1) / KEYS : 0);
    }
    __device__ __forceinline__ places at(int tile, int stride) const
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
__device__ __forceinline__ range seen_by(const attention_job &job, const places &tile, int t)
{
    if (tile.own) return {t, t};
    return {job.window > 0 ? t - job.window + 1 : 0, !job.causal      ? job.walk.length - 1
                                                     : job.stride > 1 ? t - 1
                                                                      : t};
}

__device__ __forceinline__ void copy_sum(float2 *to, const float2 *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;\n" ::"r"(sv_shared_address(to)), "l"(from)
                 : "memory");
}

/* ---- softmax
 * -------------------------------------------------------------------------------------------- */

/* Of a thread's two queries. */
struct softmax {
    float most[2], sum[2];
};

/* Scores to weights; 'o' is rescaled. */
template <int KEYS, int D>
__device__ __forceinline__ void weigh(softmax &m, float (&s)[KEYS / 8][4], float (&o)[D / 8][4])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = m.most[h];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) most = fmaxf(most, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
        const float base = most == -INFINITY ? 0.0f : most, fade = sv_power(m.most[h] - base);
        float sum = 0;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                s[n][2 * h + e] = sv_power(s[n][2 * h + e] - base);
                sum += s[n][2 * h + e];
            }
        m.most[h] = most;
        m.sum[h] = fmaf(m.sum[h], fade, sum);
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            o[n][2 * h] *= fade;
            o[n][2 * h + 1] *= fade;
        }
    }
}

/* Scores lose what was forgotten since. */
template <int KEYS>
__device__ __forceinline__ void forget(float (&s)[KEYS / 8][4], const float2 (&own)[2], const float2 *since)
{
    const int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
        const float4 two = *(const float4 *)(since + 8 * n + column);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            s[n][2 * h] += (own[h].x - two.x) + (own[h].y - two.y);
            s[n][2 * h + 1] += (own[h].x - two.z) + (own[h].y - two.w);
        }
    }
}

/* Scores of what the warp's queries from place 'first' on do not see vanish. */
template <int KEYS>
__device__ __forceinline__ void hide(const attention_job &job, float (&s)[KEYS / 8][4], const places &tile,
                                     int first)
{
    const int lane = threadIdx.x % 32;
    const int last = tile.first + (KEYS - 1) * tile.step;
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

template <typename N, int D, int KEYS>
__global__ void __launch_bounds__(SV_TILE_THREADS) attend(const __grid_constant__ attention_job job)
{
    constexpr int PITCH = sv_tile_pitch<N, D>;
    extern __shared__ __align__(16) char shared[];
    __shared__ __align__(16) float2 since[2][KEYS];
    const int64_t group = blockIdx.x / job.heads;
    const int head = blockIdx.x % job.heads, warp = threadIdx.x / 32, lane = threadIdx.x % 32,
              values = sv_whole_channels(job.values);
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const sight<KEYS> see(job, (int)(gridDim.y - 1 - blockIdx.y) * SV_TILE_QUERIES); /* the longest first */
    const int64_t base = group * job.walk.length;
    const float2 *sums = job.since ? job.since + (int64_t)blockIdx.x * job.walk.length : NULL;
    const uint32_t q = sv_shared_address(shared), k = q + SV_TILE_QUERIES * PITCH, v = k + KEYS * PITCH;
    const auto load_keys = [&](int number) {
        if (number < see.tiles) {
            const places tile = see.at(number, job.stride);
            sv_tile_load<N, D>(k, job.k, job.keys, job.heads, head, base + tile.first, tile.step, KEYS,
                               tile.count);
            if (sums && (int)threadIdx.x < tile.count)
                copy_sum(&since[number % 2][threadIdx.x], sums + tile.first + (int)threadIdx.x * tile.step);
        }
        sv_copies_end();
    };
    const auto load_values = [&](int number) {
        if (number < see.tiles) {
            const places tile = see.at(number, job.stride);
            sv_tile_load<N, D>(v, job.v, values, job.heads, head, base + tile.first, tile.step, KEYS,
                               tile.count);
        }
        sv_copies_end();
    };
    sv_tile_load<N, D>(q, job.q, job.keys, job.heads, head, base + see.query, 1, SV_TILE_QUERIES,
                       see.queries);
    load_keys(0);
    load_values(0);
    const int first = see.query + 16 * warp; /* the warp's first query */
    float2 own[2] = {};
    for (int h = 0; sums && h < 2; h++) own[h] = sums[min(first + lane / 4 + 8 * h, job.walk.length - 1)];
    softmax m = {{-INFINITY, -INFINITY}, {0, 0}};
    float o[D / 8][4] = {};
    for (int number = 0; number < see.tiles; number++) {
        float s[KEYS / 8][4];
        sv_copies_wait<1>();
        __syncthreads();
        sv_tile_scores<N, D, KEYS>(s, q + 16 * warp * PITCH, k, job.keys);
        __syncthreads();
        load_keys(number + 1);
        if (sums) forget<KEYS>(s, own, since[number % 2]);
        hide<KEYS>(job, s, see.at(number, job.stride), first);
        weigh<KEYS, D>(m, s, o);
        sv_copies_wait<1>();
        __syncthreads();
        sv_tile_gather<N, D, KEYS>(o, s, v, shared + SV_TILE_QUERIES * PITCH + KEYS * PITCH, values);
        __syncthreads();
        load_values(number + 1);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float rate = 1.0f / sv_sum_of<4>(m.sum[h]);
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            o[n][2 * h] *= rate;
            o[n][2 * h + 1] *= rate;
        }
    }
    sv_tile_store<D>(job.y, job.walk, group, first, see.query + see.queries - first, head * job.values,
                     job.values, o);
}

/* ---- launching
 * ------------------------------------------------------------------------------------------ */

template <typename N, int D, int KEYS>
sv_status run_width(sv_ctx *c, const char *op, const attention_job &job, int groups)
{
    const int bytes = (SV_TILE_QUERIES + 2 * KEYS) * sv_tile_pitch<N, D>;
    const int tiles = (job.walk.length + SV_TILE_QUERIES - 1) / SV_TILE_QUERIES;
    SV_CUDA_TRY(c, op,
                cudaFuncSetAttribute(attend<N, D, KEYS>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    attend<N, D, KEYS><<<dim3((unsigned)(groups * job.heads), (unsigned)tiles), SV_TILE_THREADS, bytes,
                         sv_cuda_stream(c)>>>(job);
    return SV_CUDA_LAUNCHED(c, op);
}

/* Keys of a tile: as many as three blocks of wide heads leave room for. */
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
    if (wide <= 32) return run_width<N, 32, 64>(c, op, job, groups);
    if (wide <= 64) return run_width<N, 64, 64>(c, op, job, groups);
    if (wide <= 128) return run_width < N, 128, floats ? 32 : 64 > (c, op, job, groups);
    return run_width < N, 256, floats ? 16 : 32 > (c, op, job, groups);
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
    if (c->precision == SV_FP32) return run<sv_exact>(c, op, job, &copies);
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
        void *since = NULL;
        SV_TRY(sv_arena_alloc(c, &c->scratch, "decay sums", sizeof(float2) * (size_t)y.dim[0] * (size_t)heads,
                              &since));
        job.since = (const float2 *)since;
        sum_decays<<<(unsigned)(y.dim[0] / seq->length * heads), SUM_THREADS, 0, sv_cuda_stream(c)>>>(
            (float2 *)since, decay, y, job.walk, heads);
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
