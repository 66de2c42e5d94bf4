/* SPDX-License-Identifier: Apache-2.0
 *
 * Second-order linear attention on the GPU; ops.h (sv_second_order) has the recurrence of S, C and G. A
 * group is cut into chunks of 32 tokens. With d, e the two decays, S0, C0, G0 what a chunk begins with,
 * and tokens numbered from 0, its tokens give
 *
 *     u_t = d^t C0'k_t + sum_(j<t) d^(t-1-j) (k_t.q_j) v_j                   what G gathers: k_t u_t'
 *     z_t = d^(t+1) S0'q_t + sum_(l<=t) d^(t-l) (q_t.k_l) k_l
 *     y_t = d^(t+1) C0'z_t + sum_(j<=t) d^(t-j) (z_t.q_j) v_j
 *           - e^(t+1) G0'q_t - share sum_(l<=t) e^(t-l) (q_t.k_l) u_l
 *
 * S and C of every chunk by itself are found at once, then carried along the chunks; with these u and G,
 * carried too; then all y.
 */
#include "backbones/walk.cuh"
#include "perception/core/launch.cuh"

namespace {

constexpr int THREADS = 256, CHUNK = 32;
constexpr int AHEAD = 32; /* chunks read before the first is replaced */
constexpr int HELD_BYTES = 200 << 10;

struct second_job {
    sv_tensor y, q, k, v, state_in, state_out;
    float *sums; /* [groups, chunks, heads, keys, wide] S, C, G: of a chunk, then before it */
    sv_second_order rule;
    sv_walk walk;
    int32_t keys, values, chunks;
    int32_t key_columns, value_columns, wide; /* in whole fours; key_columns + 2 value_columns */
};

/* A head of a chunk; blocks are numbered [groups, chunks, heads]. */
struct place {
    int64_t group;
    int chunk, head, begin, count;
};
__device__ __forceinline__ place place_of(const second_job &job)
{
    place p;
    p.head = blockIdx.x % job.rule.heads;
    p.chunk = blockIdx.x / job.rule.heads % job.chunks;
    p.group = blockIdx.x / job.rule.heads / job.chunks;
    p.begin = p.chunk * CHUNK;
    p.count = min(job.walk.length - p.begin, CHUNK);
    return p;
}
__device__ __forceinline__ float *sums_of(const second_job &job)
{
    return job.sums + (int64_t)blockIdx.x * job.keys * job.wide;
}
/* Where element [row][column] of a head's sums lies in a state; -1: nowhere, the column only fills a four. */
__device__ __forceinline__ int64_t state_place(const second_job &job, int head, int row, int column)
{
    const int64_t keys = job.keys, values = job.values, heads = job.rule.heads;
    if (column < job.key_columns) return column < keys ? (head * keys + row) * keys + column : -1;
    column -= job.key_columns;
    const bool g = column >= job.value_columns;
    if (g) column -= job.value_columns;
    if (column >= values) return -1;
    return heads * keys * keys + ((g ? heads + head : head) * keys + row) * values + column;
}

/* ---- a chunk in shared memory -------------------------------------------------------------------------- */

struct chunk {
    float *q, *k, *z;     /* [tokens][pitch], zeros beyond the keys */
    float *v, *u;         /* [tokens][value_columns] */
    float *match, *other; /* [tokens][MATCH] weights of tokens by tokens */
    float *power;         /* [2][CHUNK + 1] of the decays */
    int pitch;
};
constexpr int MATCH = CHUNK + 4;

/* An odd number of fours: no banks collide. */
SV_CUDA_BOTH int pitch_of(int key_columns)
{
    return key_columns / 4 % 2 ? key_columns : key_columns + 4;
}
size_t chunk_floats(int key_columns, int value_columns)
{
    return (size_t)CHUNK * (size_t)(3 * pitch_of(key_columns) + 2 * value_columns + 2 * MATCH) +
           2 * (CHUNK + 1);
}
__device__ chunk open_chunk(const second_job &job, const place &p, float *room)
{
    chunk t;
    const int columns = job.value_columns;
    t.pitch = pitch_of(job.key_columns);
    t.q = room;
    t.k = t.q + CHUNK * t.pitch;
    t.z = t.k + CHUNK * t.pitch;
    t.v = t.z + CHUNK * t.pitch;
    t.u = t.v + CHUNK * columns;
    t.match = t.u + CHUNK * columns;
    t.other = t.match + CHUNK * MATCH;
    t.power = t.other + CHUNK * MATCH;
    for (int i = threadIdx.x; i < p.count * job.key_columns; i += THREADS) {
        const int step = i / job.key_columns, at = i % job.key_columns, column = p.head * job.keys + at;
        const bool there = at < job.keys;
        t.q[step * t.pitch + at] =
            there ? sv_walk_row(job.q, job.walk, p.group, p.begin + step)[column] : 0.0f;
        t.k[step * t.pitch + at] =
            there ? sv_walk_row(job.k, job.walk, p.group, p.begin + step)[column] : 0.0f;
    }
    for (int i = threadIdx.x; i < p.count * columns; i += THREADS) {
        const int step = i / columns, at = i % columns;
        t.v[i] = at < job.values
                     ? sv_walk_row(job.v, job.walk, p.group, p.begin + step)[p.head * job.values + at]
                     : 0.0f;
    }
    if (threadIdx.x <= CHUNK) {
        t.power[threadIdx.x] = powf(job.rule.decay, (float)threadIdx.x);
        t.power[CHUNK + 1 + threadIdx.x] = powf(job.rule.decay_g, (float)threadIdx.x);
    }
    __syncthreads();
    return t;
}

/* f(t, s, a_t.b_s) for all tokens s <= t, f(t, s, 0) for later ones, in fours of them. */
template <typename F>
__device__ __forceinline__ void match_tokens(const chunk &t, const float *a, const float *b, int columns,
                                             int count, F f)
{
    const int whole = (count + 3) / 4 * 4;
    for (int i = threadIdx.x; i < count * whole; i += THREADS) {
        const int row = i / whole, column = i % whole;
        float sum[4] = {};
        for (int n = 0; n < columns && column <= row; n += 4) {
            const float4 x = *(const float4 *)(a + row * t.pitch + n),
                         y = *(const float4 *)(b + column * t.pitch + n);
            sum[0] = fmaf(x.x, y.x, sum[0]);
            sum[1] = fmaf(x.y, y.y, sum[1]);
            sum[2] = fmaf(x.z, y.z, sum[2]);
            sum[3] = fmaf(x.w, y.w, sum[3]);
        }
        f(row, column, (sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
    __syncthreads();
}

__device__ __forceinline__ void add(float4 &sum, float x, const float4 &y)
{
    sum.x = fmaf(x, y.x, sum.x);
    sum.y = fmaf(x, y.y, sum.y);
    sum.z = fmaf(x, y.z, sum.z);
    sum.w = fmaf(x, y.w, sum.w);
}
/* sum + scale x M for four columns of the matrix M; x has n numbers. */
__device__ __forceinline__ float4 times(const float4 &sum, float scale, const float *x, const float *matrix,
                                        int pitch, int n)
{
    float4 all = make_float4(0, 0, 0, 0), out = sum;
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        const float4 four = *(const float4 *)(x + i);
        add(all, four.x, *(const float4 *)(matrix + (int64_t)i * pitch));
        add(all, four.y, *(const float4 *)(matrix + (int64_t)(i + 1) * pitch));
        add(all, four.z, *(const float4 *)(matrix + (int64_t)(i + 2) * pitch));
        add(all, four.w, *(const float4 *)(matrix + (int64_t)(i + 3) * pitch));
    }
    for (; i < n; i++) add(all, x[i], *(const float4 *)(matrix + (int64_t)i * pitch));
    add(out, scale, all);
    return out;
}

__device__ void find_u(const second_job &job, const chunk &t, const place &p, const float *sums)
{
    const int columns = job.value_columns, fours = columns / 4;
    const float4 none = make_float4(0, 0, 0, 0);
    match_tokens(t, t.k, t.q, job.key_columns, p.count, [&](int row, int column, float x) {
        t.match[row * MATCH + column] = column < row ? t.power[row - 1 - column] * x : 0.0f;
    });
    for (int i = threadIdx.x; i < p.count * fours; i += THREADS) {
        const int row = i / fours, column = i % fours * 4;
        const float4 before = times(none, t.power[row], t.k + row * t.pitch, sums + job.key_columns + column,
                                    job.wide, job.keys);
        *(float4 *)(t.u + row * columns + column) =
            times(before, 1, t.match + row * MATCH, t.v + column, columns, row);
    }
    __syncthreads();
}

/* Columns first..end-1, in fours, of what a chunk leaves if it begins with 'start' (may be NULL): f(row,
 * column, numbers). */
template <typename F>
__device__ __forceinline__ void end_chunk(const second_job &job, const chunk &t, const place &p,
                                          const float *start, int first, int end, F f)
{
    const int fours = (end - first) / 4;
    for (int i = threadIdx.x; i < job.keys * fours; i += THREADS) {
        const int row = i / fours, column = first + i % fours * 4, part = column - job.key_columns;
        const bool s = part < 0, c = !s && part < job.value_columns;
        const float *left = (c ? t.q : t.k) + row, *power = t.power + (s || c ? 0 : CHUNK + 1),
                    *right = s   ? t.k + column
                             : c ? t.v + part
                                 : t.u + part - job.value_columns;
        const int pitch = s ? t.pitch : job.value_columns;
        float4 sum = make_float4(0, 0, 0, 0), out = sum;
        for (int n = 0; n < p.count; n++)
            add(sum, power[p.count - 1 - n] * left[n * t.pitch], *(const float4 *)(right + n * pitch));
        if (start) add(out, power[p.count], *(const float4 *)(start + (int64_t)row * job.wide + column));
        add(out, s || c ? 1.0f : job.rule.share, sum);
        f(row, column, out);
    }
}

/* ---- kernels ------------------------------------------------------------------------------------------- */

/* Of each chunk but the last, by itself: S and C, or, once these are carried, G. */
__global__ void __launch_bounds__(THREADS)
    end_chunks(const __grid_constant__ second_job job, bool corrections)
{
    extern __shared__ __align__(16) float room[];
    const place p = place_of(job);
    if (p.group >= sv_walk_groups(job.y, job.walk) || p.chunk == job.chunks - 1) return;
    const chunk t = open_chunk(job, p, room);
    float *sums = sums_of(job);
    const int both = job.key_columns + job.value_columns;
    if (corrections) find_u(job, t, p, sums);
    end_chunk(job, t, p, NULL, corrections ? both : 0, corrections ? job.wide : both,
              [&](int row, int column, const float4 &x) {
                  *(float4 *)(sums + (int64_t)row * job.wide + column) = x;
              });
}

/* A thread has a number of a head's S and C, or G. Afterwards 'sums' holds what each chunk begins with. */
__global__ void carry_chunks(const __grid_constant__ second_job job, bool corrections)
{
    const int both = job.key_columns + job.value_columns, first = corrections ? both : 0,
              columns = corrections ? job.value_columns : both, count = job.keys * columns;
    const int64_t item = sv_thread(), group = item / count / job.rule.heads;
    const int row = (int)(item % count / columns), column = first + (int)(item % columns),
              head = (int)(item / count % job.rule.heads);
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const float fade = powf(corrections ? job.rule.decay_g : job.rule.decay, (float)CHUNK);
    const int64_t step = (int64_t)job.rule.heads * job.keys * job.wide,
                  at = state_place(job, head, row, column);
    float *sums = job.sums + group * job.chunks * step + (int64_t)head * job.keys * job.wide +
                  (int64_t)row * job.wide + column;
    float sum = job.state_in.data && at >= 0 ? sv_walk_group(job.state_in, group)[at] : 0.0f;
    for (int chunk = 0; chunk < job.chunks; chunk += AHEAD) {
        float end[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) end[i] = chunk + i < job.chunks - 1 ? sums[(chunk + i) * step] : 0.0f;
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (chunk + i < job.chunks) sums[(chunk + i) * step] = sum;
            sum = fmaf(fade, sum, end[i]);
        }
    }
}

__global__ void __launch_bounds__(THREADS) answer_chunks(const __grid_constant__ second_job job)
{
    extern __shared__ __align__(16) float room[];
    const place p = place_of(job);
    if (p.group >= sv_walk_groups(job.y, job.walk)) return;
    const int keys = job.keys, values = job.values, columns = job.value_columns;
    const chunk t = open_chunk(job, p, room);
    const float *sums = sums_of(job), *power_g = t.power + CHUNK + 1, *c = sums + job.key_columns,
                *g = c + columns;
    const float4 none = make_float4(0, 0, 0, 0);
    find_u(job, t, p, sums);
    match_tokens(t, t.q, t.k, job.key_columns, p.count, [&](int row, int column, float x) {
        t.match[row * MATCH + column] = column <= row ? t.power[row - column] * x : 0.0f;
        t.other[row * MATCH + column] = column <= row ? power_g[row - column] * x : 0.0f;
    });
    for (int i = threadIdx.x; i < p.count * (job.key_columns / 4); i += THREADS) {
        const int row = i / (job.key_columns / 4), column = i % (job.key_columns / 4) * 4;
        float4 z = times(none, t.power[row + 1], t.q + row * t.pitch, sums + column, job.wide, keys);
        z = times(z, 1, t.match + row * MATCH, t.k + column, t.pitch, row + 1);
        if (column + 1 >= keys) z.y = 0;
        if (column + 2 >= keys) z.z = 0;
        if (column + 3 >= keys) z.w = 0;
        *(float4 *)(t.z + row * t.pitch + column) = z;
    }
    __syncthreads();
    match_tokens(t, t.z, t.q, job.key_columns, p.count, [&](int row, int column, float x) {
        t.match[row * MATCH + column] = column <= row ? t.power[row - column] * x : 0.0f;
    });
    for (int i = threadIdx.x; i < p.count * (columns / 4); i += THREADS) {
        const int row = i / (columns / 4), column = i % (columns / 4) * 4;
        float4 y = times(none, t.power[row + 1], t.z + row * t.pitch, c + column, job.wide, keys),
               less = times(none, power_g[row + 1], t.q + row * t.pitch, g + column, job.wide, keys);
        y = times(y, 1, t.match + row * MATCH, t.v + column, columns, row + 1);
        less = times(less, job.rule.share, t.other + row * MATCH, t.u + column, columns, row + 1);
        float *to = sv_walk_row(job.y, job.walk, p.group, p.begin + row) + p.head * values + column;
        const float four[4] = {y.x - less.x, y.y - less.y, y.z - less.z, y.w - less.w};
#pragma unroll
        for (int n = 0; n < 4; n++)
            if (column + n < values) to[n] = four[n];
    }
    if (!job.state_out.data || p.chunk < job.chunks - 1) return;
    float *state = sv_walk_group(job.state_out, p.group);
    end_chunk(job, t, p, sums, 0, job.wide, [&](int row, int column, const float4 &x) {
        const float four[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const int64_t at = state_place(job, p.head, row, column + n);
            if (at >= 0) state[at] = four[n];
        }
    });
}

} // namespace

sv_status sv_cuda_second_order_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                    const sv_second_order *rule, const sv_sequence *seq)
{
    static const char op[] = "second_order_scan";
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const cudaStream_t stream = sv_cuda_stream(c);
    const int groups = y.dim[0] / seq->length, heads = rule->heads;
    second_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.state_in = seq->state_in;
    job.state_out = seq->state_out;
    job.rule = *rule;
    job.walk = sv_walk_of(seq);
    job.keys = q.dim[1] / heads;
    job.values = y.dim[1] / heads;
    job.chunks = (seq->length + CHUNK - 1) / CHUNK;
    job.key_columns = (job.keys + 3) / 4 * 4;
    job.value_columns = (job.values + 3) / 4 * 4;
    job.wide = job.key_columns + 2 * job.value_columns;
    const unsigned blocks = (unsigned)(groups * job.chunks * heads);
    const size_t bytes = chunk_floats(job.key_columns, job.value_columns) * sizeof(float);
    SV_CHECK(c, bytes <= HELD_BYTES, SV_UNSUPPORTED,
             "%s: heads of %d keys and %d values are too wide for a GPU", op, job.keys, job.values);
    void *sums = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "second moments before chunks",
                          sizeof(float) * blocks * (size_t)job.keys * (size_t)job.wide, &sums));
    job.sums = (float *)sums;
    SV_TRY(sv_cuda_reserve(c, op, end_chunks, bytes));
    SV_TRY(sv_cuda_reserve(c, op, answer_chunks, bytes));
    for (int corrections = 0; corrections < 2; corrections++) {
        const int64_t numbers = (int64_t)groups * heads * job.keys *
                                (corrections ? job.value_columns : job.key_columns + job.value_columns);
        if (job.chunks > 1) end_chunks<<<blocks, THREADS, bytes, stream>>>(job, corrections != 0);
        carry_chunks<<<sv_cuda_blocks(numbers), SV_CUDA_THREADS, 0, stream>>>(job, corrections != 0);
    }
    answer_chunks<<<blocks, THREADS, bytes, stream>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, op);
}
