/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention with a polynomial for an exponential (Based, ReBased) on the GPU; ops.def has the formula.
 * Within a segment of up to 4096 tokens weights are taken pair by pair, c0 + c1 s + c2 s^2 of a product on
 * tensor cores (attention_tile.cuh), which is faster there than sums over features and has no such sums to
 * round. What came before a segment, or with the state, is asked by its features, and the segment's tokens
 * are added to the sums if anyone reads them.
 */
#include "backbones/attention_tile.cuh"
#include "perception/core/launch.cuh"

namespace {

constexpr int MOST = 256; /* channels of a head */
constexpr int SEGMENT = 4096;
constexpr int THREADS = 256, WARPS = THREADS / SV_WARP;
constexpr int ASKING = 16, SLICE = 32;       /* tokens of a block that asks, features at a time */
constexpr int ADDED = 32, FEATURES = WARPS;  /* tokens at a time, features of a block that adds */
constexpr int COLUMN_PARTS = MOST / SV_WARP; /* of a lane that asks */
constexpr int ASKING_EACH = ASKING / WARPS;  /* tokens of its warp */

struct taylor_job {
    sv_tensor y, q, k, v, states;
    const void *q_tiles, *k_tiles, *v_tiles;
    float *before; /* [slots, heads]: sums of weights of what came before; NULL: nothing did */
    sv_taylor rule;
    sv_walk walk;
    int32_t keys, values, features, begin, end; /* end: of the segment */
};

/* ---- features ------------------------------------------------------------------------------------------ */

/* The factors of a feature: channels, or -1 for one. */
struct factors {
    int first, second;
};
__device__ factors factors_of(int feature, int keys)
{
    if (feature <= keys) return {feature - 1, -1};
    int row = 0;
    for (feature -= 1 + keys; feature >= keys - row; row++) feature -= keys - row;
    return {row, row + feature};
}
__device__ __forceinline__ float feature_of(const factors &of, const float *x)
{
    return (of.first >= 0 ? x[of.first] : 1.0f) * (of.second >= 0 ? x[of.second] : 1.0f);
}
/* What makes a feature of a query's: pairs of different channels count twice. */
__device__ __forceinline__ float weight_of(const factors &of, const sv_taylor &rule)
{
    return of.first < 0 ? rule.c0 : of.second < 0 ? rule.c1 : of.first == of.second ? rule.c2 : 2 * rule.c2;
}

__device__ __forceinline__ float *sums_of(const taylor_job &job, int64_t group, int head)
{
    return sv_walk_group(job.states, group) + (int64_t)head * job.features * job.values;
}
__device__ __forceinline__ float *weights_of(const taylor_job &job, int64_t group, int head)
{
    return sv_walk_group(job.states, group) + (int64_t)job.rule.heads * job.features * job.values +
           (int64_t)head * job.features;
}

/* y and job.before of a segment's tokens: what the sums answer. A warp has some tokens, a lane every 32nd
 * column. */
__global__ void __launch_bounds__(THREADS) ask_sums(const __grid_constant__ taylor_job job)
{
    __shared__ float q[ASKING][MOST], f[ASKING][SLICE];
    __shared__ factors of[SLICE];
    const int64_t group = blockIdx.x / job.rule.heads;
    const int head = blockIdx.x % job.rule.heads, lane = threadIdx.x % SV_WARP, warp = threadIdx.x / SV_WARP,
              first = job.begin + (int)blockIdx.y * ASKING, count = min(job.end - first, ASKING),
              keys = job.keys, values = job.values;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const float *sums = sums_of(job, group, head), *weights = weights_of(job, group, head);
    for (int i = threadIdx.x; i < count * keys; i += THREADS)
        q[i / keys][i % keys] =
            job.rule.scale * sv_walk_row(job.q, job.walk, group, first + i / keys)[head * keys + i % keys];
    float out[ASKING_EACH][COLUMN_PARTS] = {}, total[ASKING_EACH] = {};
    for (int slice = 0; slice < job.features; slice += SLICE) {
        const int here = min(job.features - slice, SLICE);
        __syncthreads();
        if ((int)threadIdx.x < here) of[threadIdx.x] = factors_of(slice + threadIdx.x, keys);
        __syncthreads();
        for (int i = threadIdx.x; i < count * SLICE; i += THREADS)
            if (i % SLICE < here)
                f[i / SLICE][i % SLICE] =
                    weight_of(of[i % SLICE], job.rule) * feature_of(of[i % SLICE], q[i / SLICE]);
        __syncthreads();
        for (int n = 0; n < here; n++) {
            const float *row = sums + (int64_t)(slice + n) * values;
#pragma unroll
            for (int i = 0; i < ASKING_EACH; i++)
                total[i] = fmaf(f[warp * ASKING_EACH + i][n], weights[slice + n], total[i]);
#pragma unroll
            for (int part = 0; part < COLUMN_PARTS; part++) {
                const int column = part * SV_WARP + lane;
                if (column >= values) break;
                const float x = row[column];
#pragma unroll
                for (int i = 0; i < ASKING_EACH; i++)
                    out[i][part] = fmaf(f[warp * ASKING_EACH + i][n], x, out[i][part]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < ASKING_EACH; i++) {
        const int step = first + warp * ASKING_EACH + i;
        if (step >= job.end) break;
        float *y = sv_walk_row(job.y, job.walk, group, step) + head * values;
        if (lane == 0) job.before[(group * job.walk.length + step) * job.rule.heads + head] = total[i];
#pragma unroll
        for (int part = 0; part < COLUMN_PARTS; part++)
            if (part * SV_WARP + lane < values) y[part * SV_WARP + lane] = out[i][part];
    }
}

/* A segment's tokens to the sums. A warp has a feature, a lane a column; one column beyond v is of ones,
 * for the weights. */
__global__ void __launch_bounds__(THREADS) add_tokens(const __grid_constant__ taylor_job job)
{
    __shared__ float k[ADDED][MOST + 1], v[ADDED][SV_WARP];
    const int64_t group = blockIdx.x / job.rule.heads;
    const int head = blockIdx.x % job.rule.heads, lane = threadIdx.x % SV_WARP,
              feature = (int)blockIdx.y * FEATURES + (int)threadIdx.x / SV_WARP,
              column0 = (int)blockIdx.z * SV_WARP, column = column0 + lane, keys = job.keys,
              values = job.values;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const bool used = feature < job.features && column <= values;
    const factors of = factors_of(min(feature, job.features - 1), keys);
    float *sum = column < values ? sums_of(job, group, head) + (int64_t)feature * values + column
                                 : weights_of(job, group, head) + feature;
    float value = used ? *sum : 0.0f;
    for (int first = job.begin; first < job.end; first += ADDED) {
        const int count = min(job.end - first, ADDED);
        __syncthreads();
        for (int i = threadIdx.x; i < count * keys; i += THREADS)
            k[i / keys][i % keys] =
                sv_walk_row(job.k, job.walk, group, first + i / keys)[head * keys + i % keys];
        for (int i = threadIdx.x; i < count * SV_WARP; i += THREADS)
            v[i / SV_WARP][lane] = column < values ? sv_walk_row(job.v, job.walk, group,
                                                                 first + i / SV_WARP)[head * values + column]
                                                   : 1.0f;
        __syncthreads();
        for (int t = 0; t < count; t++) value = fmaf(feature_of(of, k[t]), v[t][lane], value);
    }
    if (used) *sum = value;
}

/* ---- pairs --------------------------------------------------------------------------------------------- */

/* What the queries of a block see: all of the segment up to themselves. */
template <int KEYS> struct sight {
    int query, queries, begin, tiles;

    __device__ __forceinline__ sight(const taylor_job &job, int first)
    {
        query = first;
        queries = min(job.end - first, (int)SV_TILE_QUERIES);
        begin = job.begin;
        tiles = (query + queries - begin + KEYS - 1) / KEYS;
    }
    __device__ __forceinline__ sv_places at(int tile) const
    {
        const int first = begin + tile * KEYS;
        return {first, 1, min(query + queries - first, KEYS), false};
    }
};

/* Scores to weights, zero for what the warp's queries from place 'first' on do not see; their sums. */
template <int KEYS>
__device__ __forceinline__ void weigh(const sv_taylor &rule, float (&s)[KEYS / 8][4], float (&total)[4],
                                      int tile, int first)
{
    const int lane = threadIdx.x % 32;
    const bool all = tile + KEYS - 1 <= first;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int place = tile + 8 * n + lane % 4 * 2 + i % 2, query = first + lane / 4 + i / 2 * 8;
            const float w = rule.c0 + s[n][i] * (rule.c1 + s[n][i] * rule.c2);
            s[n][i] = all || place <= query ? w : 0.0f;
            total[i / 2] += s[n][i];
        }
}

/* The sums of a warp's queries from place 'first' on to its rows of y, with what came before. */
template <typename S>
__device__ __forceinline__ void answer(const taylor_job &job, int64_t group, int head, int first,
                                       float (&o)[S::D / 8][4], const float (&total)[4])
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int step = first + lane / 4 + 8 * h;
        if (step >= job.end) continue;
        const float *y = sv_walk_row(job.y, job.walk, group, step) + head * job.values;
        float sum = total[h];
        if (job.before) sum += job.before[(group * job.walk.length + step) * job.rule.heads + head];
        const float rate = job.rule.normalise ? 1.0f / (sum + job.rule.eps) : 1.0f;
#pragma unroll
        for (int n = 0; n < S::D / 8; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int column = 8 * n + lane % 4 * 2 + e;
                if (job.before && column < job.values) o[n][2 * h + e] += y[column];
                o[n][2 * h + e] *= rate;
            }
    }
    sv_tile_store<S::D>(job.y, job.walk, group, first, job.end - first, head * job.values, job.values, o);
}

template <typename S>
__global__ void __launch_bounds__(S::THREADS) attend(const __grid_constant__ taylor_job job)
{
    extern __shared__ __align__(16) char shared[];
    const int heads = job.rule.heads, head = blockIdx.x % heads;
    const int64_t group = blockIdx.x / heads;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const sight<S::KEYS> see(job, job.begin + (int)(gridDim.y - 1 - blockIdx.y) *
                                                  SV_TILE_QUERIES);     /* the longest first */
    const int first = see.query + (int)threadIdx.x % SV_TEAM / 32 * 16; /* the warp's first query */
    const sv_tile_heads of = {job.q_tiles,
                              job.k_tiles,
                              job.v_tiles,
                              group * job.walk.length,
                              heads,
                              head,
                              sv_whole_channels(job.keys),
                              sv_whole_channels(job.values)};
    float o[S::D / 8][4] = {}, total[4] = {};
    sv_tile_walk<S>(
        o, total, shared, of, see, [](const sv_places &, char *) {},
        [](float(&s)[S::KEYS / 8][4], const sv_places &, const char *) {
#pragma unroll
            for (int n = 0; n < S::KEYS / 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
        },
        [&](float(&s)[S::KEYS / 8][4], const sv_places &tile, const char *) {
            weigh<S::KEYS>(job.rule, s, total, tile.first, first);
        });
    for (int h = 0; h < 2; h++) total[h] = sv_sum_of<4>(total[h]);
    if (S::TEAMS > 1) {
        sv_tile_hand_over<S>(shared, o, total);
        if (threadIdx.x >= SV_TEAM) return;
#pragma unroll
        for (int team = 1; team < S::TEAMS; team++) {
            float other[S::D / 8][4], more[4];
            sv_tile_take<S>(other, more, shared, team);
            for (int h = 0; h < 2; h++) total[h] += more[h];
#pragma unroll
            for (int n = 0; n < S::D / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) o[n][i] += other[n][i];
        }
    }
    answer<S>(job, group, head, first, o, total);
}

/* ---- launching ----------------------------------------------------------------------------------------- */

template <typename S> sv_status attend_width(sv_ctx *c, const taylor_job &job, unsigned heads)
{
    const int tiles = (job.end - job.begin + SV_TILE_QUERIES - 1) / SV_TILE_QUERIES;
    SV_TRY(sv_cuda_reserve(c, "taylor_scan", attend<S>, S::BYTES));
    attend<S><<<dim3(heads, (unsigned)tiles), S::THREADS, S::BYTES, sv_cuda_stream(c)>>>(job);
    return SV_CUDA_LAUNCHED(c, "taylor_scan");
}

/* A block takes less than 100 KB. */
template <typename N> sv_status attend_segment(sv_ctx *c, const taylor_job &job, unsigned heads)
{
    const int wide = job.keys > job.values ? job.keys : job.values;
    if (wide <= 32) return attend_width<sv_tile_shape<N, 32, 32, 4, 2>>(c, job, heads);
    if (wide <= 64) return attend_width<sv_tile_shape<N, 64, 32, 2, 2>>(c, job, heads);
    if (wide <= 128) return attend_width<sv_tile_shape<N, 128, 16, 1, 2>>(c, job, heads);
    return attend_width<sv_tile_shape<N, 256, 16, 1, 1>>(c, job, heads);
}

/* 'heads': of all groups; 'kept': the sums after the last segment are wanted. */
template <typename N> sv_status run(sv_ctx *c, taylor_job &job, unsigned heads, bool carried, bool kept)
{
    sv_tile_copies copies = {};
    copies.y = job.y;
    copies.walk = job.walk;
    copies.heads = job.rule.heads;
    copies.of[0] = {job.q, NULL, job.rule.scale, job.keys, false};
    copies.of[1] = {job.k, NULL, 1, job.keys, false};
    copies.of[2] = {job.v, NULL, 1, job.values, false};
    SV_TRY(sv_make_tiles<N>(c, "taylor_scan", &copies));
    job.q_tiles = copies.of[0].to;
    job.k_tiles = copies.of[1].to;
    job.v_tiles = copies.of[2].to;
    float *const before = job.before;
    const cudaStream_t stream = sv_cuda_stream(c);
    for (job.begin = 0; job.begin < job.walk.length; job.begin = job.end) {
        job.end = job.walk.length - job.begin < SEGMENT ? job.walk.length : job.begin + SEGMENT;
        job.before = carried || job.begin > 0 ? before : NULL;
        if (job.before) {
            const unsigned blocks = (unsigned)((job.end - job.begin + ASKING - 1) / ASKING);
            ask_sums<<<dim3(heads, blocks), THREADS, 0, stream>>>(job);
        }
        SV_TRY(attend_segment<N>(c, job, heads));
        if (kept || job.end < job.walk.length)
            add_tokens<<<dim3(heads, (unsigned)((job.features + FEATURES - 1) / FEATURES),
                              (unsigned)((job.values + SV_WARP) / SV_WARP)),
                         THREADS, 0, stream>>>(job);
    }
    return SV_CUDA_LAUNCHED(c, "taylor_scan");
}

} // namespace

sv_status sv_cuda_taylor_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                              const sv_taylor *rule, const sv_sequence *seq)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    const bool carried = !sv_is_none(seq->state_in), kept = !sv_is_none(seq->state_out);
    const int groups = y.dim[0] / seq->length;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    taylor_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.rule = *rule;
    job.walk = sv_walk_of(seq);
    job.keys = q.dim[1] / rule->heads;
    job.values = y.dim[1] / rule->heads;
    job.features = 1 + job.keys + job.keys * (job.keys + 1) / 2;
    SV_CHECK(c, job.keys <= MOST && job.values <= MOST, SV_UNSUPPORTED,
             "taylor_scan: heads of %d keys and %d values; the GPU takes up to %d", job.keys, job.values,
             MOST);
    if (carried || kept || seq->length > SEGMENT) {
        void *before = NULL;
        SV_TRY(
            sv_cuda_walk_states(c, seq, groups, rule->heads * job.features * (job.values + 1), &job.states));
        SV_TRY(sv_arena_alloc(c, &c->scratch, "sums of weights before",
                              sizeof(float) * (size_t)y.dim[0] * (size_t)rule->heads, &before));
        job.before = (float *)before;
    }
    const unsigned heads = (unsigned)(groups * rule->heads);
    /* Half floats have no room for the squares of small scores. */
    SV_TRY(c->precision == SV_FP32 ? run<sv_exact>(c, job, heads, carried, kept)
                                   : run<sv_plain>(c, job, heads, carried, kept));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
