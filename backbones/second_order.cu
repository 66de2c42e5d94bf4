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

namespace {

constexpr int THREADS = 256, CHUNK = 32;
constexpr int AHEAD = 32; /* chunks read before the first is replaced */
constexpr int HELD_BYTES = 200 << 10;

struct second_job {
    sv_tensor y, q, k, v, state_in, state_out;
    float *sums; /* [groups, chunks, heads, keys, keys + 2 values] S, C, G: of a chunk, then before it */
    sv_second_order rule;
    sv_walk walk;
    int32_t keys, values, chunks;
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
__device__ __forceinline__ int width_of(const second_job &job)
{
    return job.keys + 2 * job.values;
}
__device__ __forceinline__ float *sums_of(const second_job &job)
{
    return job.sums + (int64_t)blockIdx.x * job.keys * width_of(job);
}
/* Where element [row][column] of a head's sums lies in a state. */
__device__ __forceinline__ int64_t state_place(const second_job &job, int head, int row, int column)
{
    const int64_t block = (int64_t)job.keys * job.values, c = (int64_t)job.rule.heads * job.keys * job.keys;
    if (column < job.keys) return ((int64_t)head * job.keys + row) * job.keys + column;
    column -= job.keys;
    const int64_t first = column < job.values ? c : c + job.rule.heads * block;
    return first + head * block + (int64_t)row * job.values + column % job.values;
}

/* ---- a chunk in shared memory -------------------------------------------------------------------------- */

struct chunk {
    float *q, *k, *z; /* [tokens][pitch] */
    float *v, *u;     /* [tokens][values] */
    float *match;     /* [tokens][CHUNK + 1] products of tokens */
    float *power;     /* [2][CHUNK + 1] of the decays */
    int pitch;        /* odd: no banks collide */
};

size_t chunk_floats(int keys, int values)
{
    return (size_t)CHUNK * (3 * (size_t)(keys | 1) + 2 * (size_t)values + CHUNK + 1) + 2 * (CHUNK + 1);
}
__device__ chunk open_chunk(const second_job &job, const place &p, float *room)
{
    chunk t;
    t.pitch = job.keys | 1;
    t.q = room;
    t.k = t.q + CHUNK * t.pitch;
    t.z = t.k + CHUNK * t.pitch;
    t.v = t.z + CHUNK * t.pitch;
    t.u = t.v + CHUNK * job.values;
    t.match = t.u + CHUNK * job.values;
    t.power = t.match + CHUNK * (CHUNK + 1);
    for (int i = threadIdx.x; i < p.count * job.keys; i += THREADS) {
        const int step = i / job.keys, at = i % job.keys, column = p.head * job.keys + at;
        t.q[step * t.pitch + at] = sv_walk_row(job.q, job.walk, p.group, p.begin + step)[column];
        t.k[step * t.pitch + at] = sv_walk_row(job.k, job.walk, p.group, p.begin + step)[column];
    }
    for (int i = threadIdx.x; i < p.count * job.values; i += THREADS)
        t.v[i] = sv_walk_row(job.v, job.walk, p.group,
                             p.begin + i / job.values)[p.head * job.values + i % job.values];
    if (threadIdx.x <= CHUNK) {
        t.power[threadIdx.x] = powf(job.rule.decay, (float)threadIdx.x);
        t.power[CHUNK + 1 + threadIdx.x] = powf(job.rule.decay_g, (float)threadIdx.x);
    }
    __syncthreads();
    return t;
}

/* match[t][s] = a_t.b_s for s <= t */
__device__ void match_tokens(const chunk &t, const float *a, const float *b, int keys, int count)
{
    __syncthreads();
    for (int i = threadIdx.x; i < count * count; i += THREADS) {
        const int row = i / count, column = i % count;
        if (column > row) continue;
        float sum = 0;
        for (int n = 0; n < keys; n++) sum = fmaf(a[row * t.pitch + n], b[column * t.pitch + n], sum);
        t.match[row * (CHUNK + 1) + column] = sum;
    }
    __syncthreads();
}
/* x_t.M[][column] of a matrix in a chunk's sums */
__device__ __forceinline__ float ask(const float *x, const float *matrix, int pitch, int keys, int column)
{
    float sum[2] = {};
    for (int i = 0; i < keys; i++) sum[i & 1] = fmaf(x[i], matrix[(int64_t)i * pitch + column], sum[i & 1]);
    return sum[0] + sum[1];
}
/* sum over s < end of power[first - s] match[t][s] x_s[column] */
__device__ __forceinline__ float gather(const chunk &t, int row, int end, const float *power, int first,
                                        const float *x, int pitch, int column)
{
    float sum = 0;
    for (int s = 0; s < end; s++)
        sum = fmaf(power[first - s] * t.match[row * (CHUNK + 1) + s], x[s * pitch + column], sum);
    return sum;
}

__device__ void find_u(const second_job &job, const chunk &t, const place &p, const float *sums)
{
    const int wide = width_of(job), values = job.values;
    match_tokens(t, t.k, t.q, job.keys, p.count);
    for (int i = threadIdx.x; i < p.count * values; i += THREADS) {
        const int row = i / values, column = i % values;
        t.u[i] = fmaf(t.power[row], ask(t.k + row * t.pitch, sums + job.keys, wide, job.keys, column),
                      gather(t, row, row, t.power, row - 1, t.v, values, column));
    }
    __syncthreads();
}

/* Columns first..end-1 of what a chunk leaves if it begins with 'start' (may be NULL): f(row, column,
 * number). */
template <typename F>
__device__ void end_chunk(const second_job &job, const chunk &t, const place &p, const float *start,
                          int first, int end, F f)
{
    const int keys = job.keys, values = job.values, wide = width_of(job), columns = end - first;
    for (int i = threadIdx.x; i < keys * columns; i += THREADS) {
        const int row = i / columns, column = first + i % columns, part = column - keys;
        const bool s = part < 0, c = !s && part < values;
        const float *left = (c ? t.q : t.k) + row, *power = t.power + (s || c ? 0 : CHUNK + 1),
                    *right = s   ? t.k + column
                             : c ? t.v + part
                                 : t.u + part - values;
        const int pitch = s ? t.pitch : values;
        float sum = 0;
        for (int n = 0; n < p.count; n++)
            sum = fmaf(power[p.count - 1 - n] * left[n * t.pitch], right[n * pitch], sum);
        if (!s && !c) sum *= job.rule.share;
        if (start) sum = fmaf(power[p.count], start[(int64_t)row * wide + column], sum);
        f(row, column, sum);
    }
}

/* ---- kernels ------------------------------------------------------------------------------------------- */

/* Of each chunk but the last, by itself: S and C, or, once these are carried, G. */
__global__ void __launch_bounds__(THREADS)
    end_chunks(const __grid_constant__ second_job job, bool corrections)
{
    extern __shared__ float room[];
    const place p = place_of(job);
    if (p.group >= sv_walk_groups(job.y, job.walk) || p.chunk == job.chunks - 1) return;
    const chunk t = open_chunk(job, p, room);
    float *sums = sums_of(job);
    const int wide = width_of(job), both = job.keys + job.values;
    if (corrections) find_u(job, t, p, sums);
    end_chunk(job, t, p, NULL, corrections ? both : 0, corrections ? wide : both,
              [&](int row, int column, float x) { sums[(int64_t)row * wide + column] = x; });
}

/* A thread has a number of a head's S and C, or G. Afterwards 'sums' holds what each chunk begins with. */
__global__ void carry_chunks(const __grid_constant__ second_job job, bool corrections)
{
    const int wide = width_of(job), both = job.keys + job.values, first = corrections ? both : 0,
              columns = corrections ? job.values : both, count = job.keys * columns;
    const int64_t item = sv_thread(), group = item / count / job.rule.heads;
    const int row = (int)(item % count / columns), column = first + (int)(item % columns),
              head = (int)(item / count % job.rule.heads);
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const float fade = powf(corrections ? job.rule.decay_g : job.rule.decay, (float)CHUNK);
    const int64_t step = (int64_t)job.rule.heads * job.keys * wide;
    float *sums =
        job.sums + group * job.chunks * step + (int64_t)head * job.keys * wide + (int64_t)row * wide + column;
    float sum =
        job.state_in.data ? sv_walk_group(job.state_in, group)[state_place(job, head, row, column)] : 0.0f;
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
    extern __shared__ float room[];
    const place p = place_of(job);
    if (p.group >= sv_walk_groups(job.y, job.walk)) return;
    const int keys = job.keys, values = job.values, wide = width_of(job);
    const chunk t = open_chunk(job, p, room);
    const float *sums = sums_of(job), *power_g = t.power + CHUNK + 1;
    find_u(job, t, p, sums);
    match_tokens(t, t.q, t.k, keys, p.count);
    for (int i = threadIdx.x; i < p.count * keys; i += THREADS) {
        const int row = i / keys, column = i % keys;
        t.z[row * t.pitch + column] =
            fmaf(t.power[row + 1], ask(t.q + row * t.pitch, sums, wide, keys, column),
                 gather(t, row, row + 1, t.power, row, t.k, t.pitch, column));
    }
    for (int i = threadIdx.x; i < p.count * values; i += THREADS) { /* what is taken off waits in y */
        const int row = i / values, column = i % values;
        const float less =
            fmaf(power_g[row + 1], ask(t.q + row * t.pitch, sums + keys + values, wide, keys, column),
                 job.rule.share * gather(t, row, row + 1, power_g, row, t.u, values, column));
        sv_walk_row(job.y, job.walk, p.group, p.begin + row)[p.head * values + column] = less;
    }
    match_tokens(t, t.z, t.q, keys, p.count);
    for (int i = threadIdx.x; i < p.count * values; i += THREADS) {
        const int row = i / values, column = i % values;
        float *y = sv_walk_row(job.y, job.walk, p.group, p.begin + row) + p.head * values + column;
        *y = fmaf(t.power[row + 1], ask(t.z + row * t.pitch, sums + keys, wide, keys, column),
                  gather(t, row, row + 1, t.power, row, t.v, values, column)) -
             *y;
    }
    if (!job.state_out.data || p.chunk < job.chunks - 1) return;
    float *state = sv_walk_group(job.state_out, p.group);
    end_chunk(job, t, p, sums, 0, wide,
              [&](int row, int column, float x) { state[state_place(job, p.head, row, column)] = x; });
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
    const unsigned blocks = (unsigned)(groups * job.chunks * heads);
    const size_t bytes = chunk_floats(job.keys, job.values) * sizeof(float);
    SV_CHECK(c, bytes <= HELD_BYTES, SV_UNSUPPORTED,
             "%s: heads of %d keys and %d values are too wide for a GPU", op, job.keys, job.values);
    void *sums = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "second moments before chunks",
                          sizeof(float) * blocks * (size_t)job.keys * (size_t)(job.keys + 2 * job.values),
                          &sums));
    job.sums = (float *)sums;
    SV_CUDA_TRY(c, op,
                cudaFuncSetAttribute(end_chunks, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    SV_CUDA_TRY(c, op,
                cudaFuncSetAttribute(answer_chunks, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    for (int corrections = 0; corrections < 2; corrections++) {
        const int64_t numbers =
            (int64_t)groups * heads * job.keys * (corrections ? job.values : job.keys + job.values);
        if (job.chunks > 1) end_chunks<<<blocks, THREADS, bytes, stream>>>(job, corrections != 0);
        carry_chunks<<<sv_cuda_blocks(numbers), SV_CUDA_THREADS, 0, stream>>>(job, corrections != 0);
    }
    answer_chunks<<<blocks, THREADS, bytes, stream>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, op);
}
