/* SPDX-License-Identifier: Apache-2.0
 *
 * The decayed outer-product scan and the token shift on the GPU (formulas: decay.simd.c).
 *
 * Groups are few and long, so a group is cut into chunks of up to 64 walking steps, all of which are walked
 * at once:
 *
 *     1  each chunk but the last, from an empty state: its last state, and the sum of its logarithms of decay
 *     2  along the chunks of a group: S0 = state, S(i+1) = e^sum_i S(i) + end_i
 *     3  each chunk, from S(i): the outputs
 *
 * A thread is one value channel of a head with its column of the state in registers; q, k and decays of a
 * few tokens lie in shared memory. The decay of a chunk is the exponential of a sum, never a quotient.
 */
#include "backbones/decay_values.cuh"
#include "backbones/sequence.cuh"

namespace {

enum {
    CHUNK = 64,
    TOKENS = 8, /* in shared memory at a time */
    SIDE = 256, /* most key channels of a block's heads together */
    MOST_COLUMNS = 128,
};

struct scan_job {
    sv_tensor y, q, k, v, decay, state_in, state_out;
    const float *bonus;
    const int32_t *index;
    float *ends; /* [groups, chunks, keys, columns] */
    float *sums; /* [groups, chunks, heads*keys] */
    int32_t length, chunk, chunks, heads, keys, values, columns;
    int32_t heads_per_block, value_tiles;
    sv_decay kind;
    sv_decay_read read;
    float scale;
    bool reverse, accumulate;
};

/* The heads and the value channel of this thread. */
struct place {
    int first_head, heads, head, value, column; /* head counts within the block; column over all heads */
    bool used;
};

__device__ __forceinline__ place place_of(const scan_job &job)
{
    place p;
    const int tile = blockIdx.y % job.value_tiles, width = min(job.values, (int)MOST_COLUMNS);
    p.first_head = blockIdx.y / job.value_tiles * job.heads_per_block;
    p.heads = min(job.heads_per_block, job.heads - p.first_head);
    p.head = threadIdx.x / width;
    p.value = tile * MOST_COLUMNS + threadIdx.x % width;
    p.used = p.head < p.heads && p.value < job.values;
    p.column = (p.first_head + p.head) * job.values + p.value;
    return p;
}

struct tokens {
    float q[TOKENS][SIDE], k[TOKENS][SIDE],
        e[TOKENS][SIDE]; /* e: e^decay - 1, or the logarithm in phase 1's sums */
    float bonus[TOKENS][SIDE];
    int64_t row[TOKENS];
};

/* Steps first.. of a group to shared memory; decays as e^decay - 1. */
__device__ __forceinline__ void load_tokens(const scan_job &job, tokens *t, const place &p, int64_t group,
                                            int first, int count)
{
    const int side = p.heads * job.keys;
    __syncthreads();
    if ((int)threadIdx.x < count)
        t->row[threadIdx.x] =
            sv_row_of(job.index, sv_slot_of(group, job.length, first + threadIdx.x, job.reverse));
    __syncthreads();
    for (int i = threadIdx.x; i < count * side; i += blockDim.x) {
        const int token = i / side, at = i % side, channel = p.first_head * job.keys + at;
        const int64_t row = t->row[token];
        float q = 0, k = 0, log = 0;
        if (row >= 0) {
            q = ((const float *)job.q.data)[row * job.q.pitch + channel];
            k = ((const float *)job.k.data)[row * job.k.pitch + channel];
            if (job.kind == SV_DECAY_CHANNEL)
                log = ((const float *)job.decay.data)[row * job.decay.pitch + channel];
            else if (job.kind == SV_DECAY_TOKEN)
                log = ((const float *)job.decay.data)[row * job.decay.pitch + channel / job.keys];
        }
        if (job.kind == SV_DECAY_HEAD) log = ((const float *)job.decay.data)[channel / job.keys];
        t->q[token][at] = q;
        t->k[token][at] = k;
        t->e[token][at] = log;
    }
    __syncthreads();
    if (job.bonus)
        for (int i = threadIdx.x; i < count * p.heads; i += blockDim.x) {
            const int token = i / p.heads, head = i % p.heads;
            float sum = 0;
            for (int j = 0; j < job.keys; j++) {
                const int at = head * job.keys + j;
                sum = fmaf(t->q[token][at] * job.bonus[p.first_head * job.keys + at], t->k[token][at], sum);
            }
            t->bonus[token][head] = sum;
        }
}

__device__ __forceinline__ float value_at(const scan_job &job, const tokens *t, int token, const place &p)
{
    const int64_t row = t->row[token];
    return p.used && row >= 0 ? ((const float *)job.v.data)[row * job.v.pitch + p.column] : 0.0f;
}

/* Phase 1. */
template <int KEYS>
__global__ void __launch_bounds__(MOST_COLUMNS) end_chunks(const __grid_constant__ scan_job job)
{
    constexpr int UNROLLED = KEYS > 64 ? 1 : KEYS; /* wide heads keep their state in local memory */
    __shared__ tokens t;
    const int64_t group = blockIdx.x / job.chunks;
    const int chunk = blockIdx.x % job.chunks;
    if (group >= sv_rows(job.y) / job.length || chunk == job.chunks - 1) return;
    const place p = place_of(job);
    const int begin = chunk * job.chunk, end = min(begin + job.chunk, job.length), side = p.heads * job.keys;
    float s[KEYS], sum[2] = {0, 0}; /* sums of at most two channels each */
#pragma unroll(UNROLLED)
    for (int j = 0; j < KEYS; j++) s[j] = 0;
    for (int first = begin; first < end; first += TOKENS) {
        const int count = min((int)TOKENS, end - first);
        load_tokens(job, &t, p, group, first, count);
        __syncthreads();
#pragma unroll
        for (int half = 0; half < 2; half++) /* each thread reads and replaces its own channels */
            for (int token = 0; token < count; token++) {
                const int at = threadIdx.x + half * blockDim.x;
                if (at >= side) break;
                sum[half] += t.e[token][at];
                t.e[token][at] = expm1f(t.e[token][at]);
            }
        for (int at = threadIdx.x + 2 * blockDim.x; at < side; at += blockDim.x)
            for (int token = 0; token < count; token++) t.e[token][at] = expm1f(t.e[token][at]);
        __syncthreads();
        for (int token = 0; token < count; token++) {
            const float v = value_at(job, &t, token, p);
            const float *k = &t.k[token][p.head * job.keys], *e = &t.e[token][p.head * job.keys];
            if (!p.used) continue;
#pragma unroll(UNROLLED)
            for (int j = 0; j < KEYS; j++)
                if (j < job.keys) s[j] = fmaf(k[j], v, fmaf(e[j], s[j], s[j]));
        }
    }
    if (p.value == 0 || blockIdx.y % job.value_tiles == 0) {
        float *sums = job.sums + (int64_t)blockIdx.x * job.heads * job.keys + p.first_head * job.keys;
        for (int half = 0; half < 2; half++) {
            const int at = threadIdx.x + half * blockDim.x;
            if (at < side) sums[at] = sum[half];
        }
        /* Few threads and many key channels: the rest is summed again, in the same order. */
        for (int at = threadIdx.x + 2 * blockDim.x; at < side; at += blockDim.x) {
            float rest = 0;
            const int channel = p.first_head * job.keys + at;
            for (int step = begin; step < end; step++) {
                const int64_t row = sv_row_of(job.index, sv_slot_of(group, job.length, step, job.reverse));
                if (job.kind == SV_DECAY_HEAD)
                    rest += ((const float *)job.decay.data)[channel / job.keys];
                else if (row >= 0 && job.kind != SV_DECAY_NONE)
                    rest +=
                        ((const float *)
                             job.decay.data)[row * job.decay.pitch +
                                             (job.kind == SV_DECAY_CHANNEL ? channel : channel / job.keys)];
            }
            sums[at] = rest;
        }
    }
    if (!p.used) return;
    float *ends = job.ends + (int64_t)blockIdx.x * job.keys * job.columns + p.column;
#pragma unroll(UNROLLED)
    for (int j = 0; j < KEYS; j++)
        if (j < job.keys) ends[(int64_t)j * job.columns] = s[j];
}

/* Phase 2: one thread per group, key channel and column. Afterwards 'ends' holds what each chunk starts
 * from. */
__global__ void carry_chunks(const __grid_constant__ scan_job job)
{
    const int64_t item = sv_thread();
    const int column = (int)(item % job.columns), key = (int)(item / job.columns % job.keys);
    const int64_t group = item / job.columns / job.keys;
    if (group >= sv_rows(job.y) / job.length) return;
    const int head = column / job.values, channel = head * job.keys + key;
    float s =
        job.state_in.data
            ? ((const float *)job.state_in
                   .data)[group * job.state_in.pitch + (int64_t)channel * job.values + column % job.values]
            : 0.0f;
    for (int chunk = 0; chunk < job.chunks; chunk++) {
        const int64_t at = group * job.chunks + chunk;
        float *end = job.ends + (at * job.keys + key) * job.columns + column;
        const float last = chunk < job.chunks - 1 ? *end : 0.0f;
        *end = s;
        if (chunk < job.chunks - 1)
            s = fmaf(expm1f(job.sums[at * job.heads * job.keys + channel]), s, s) + last;
    }
}

/* Phase 3. */
template <int KEYS>
__global__ void __launch_bounds__(MOST_COLUMNS) walk_chunks(const __grid_constant__ scan_job job)
{
    constexpr int UNROLLED = KEYS > 64 ? 1 : KEYS;
    __shared__ tokens t;
    const int64_t group = blockIdx.x / job.chunks;
    const int chunk = blockIdx.x % job.chunks;
    if (group >= sv_rows(job.y) / job.length) return;
    const place p = place_of(job);
    const int begin = chunk * job.chunk, end = min(begin + job.chunk, job.length), side = p.heads * job.keys;
    const int64_t state = ((int64_t)(p.first_head + p.head) * job.keys) * job.values + p.value; /* of key 0 */
    float s[KEYS];
#pragma unroll(UNROLLED)
    for (int j = 0; j < KEYS; j++) {
        s[j] = 0;
        if (!p.used || j >= job.keys) continue;
        if (job.chunks > 1)
            s[j] = job.ends[((int64_t)blockIdx.x * job.keys + j) * job.columns + p.column];
        else if (job.state_in.data)
            s[j] = ((const float *)
                        job.state_in.data)[group * job.state_in.pitch + state + (int64_t)j * job.values];
    }
    for (int first = begin; first < end; first += TOKENS) {
        const int count = min((int)TOKENS, end - first);
        load_tokens(job, &t, p, group, first, count);
        for (int i = threadIdx.x; i < count * side; i += blockDim.x)
            t.e[i / side][i % side] = expm1f(t.e[i / side][i % side]);
        __syncthreads();
        for (int token = 0; token < count; token++) {
            const float v = value_at(job, &t, token, p);
            const int at = p.head * job.keys;
            const float *q = &t.q[token][at], *k = &t.k[token][at], *e = &t.e[token][at];
            if (!p.used) continue;
            float y = job.bonus ? t.bonus[token][p.head] * v : 0.0f;
            if (job.read == SV_READ_BEFORE) {
#pragma unroll(UNROLLED)
                for (int j = 0; j < KEYS; j++)
                    if (j < job.keys) {
                        y = fmaf(q[j], s[j], y);
                        s[j] = fmaf(k[j], v, fmaf(e[j], s[j], s[j]));
                    }
            } else {
#pragma unroll(UNROLLED)
                for (int j = 0; j < KEYS; j++)
                    if (j < job.keys) {
                        s[j] = fmaf(k[j], v, fmaf(e[j], s[j], s[j]));
                        y = fmaf(q[j], s[j], y);
                    }
            }
            float *out = (float *)job.y.data +
                         sv_slot_of(group, job.length, first + token, job.reverse) * job.y.pitch + p.column;
            *out = job.accumulate ? fmaf(job.scale, y, *out) : job.scale * y;
        }
    }
    if (p.used && chunk == job.chunks - 1 && job.state_out.data) {
        float *out = (float *)job.state_out.data + group * job.state_out.pitch + state;
#pragma unroll(UNROLLED)
        for (int j = 0; j < KEYS; j++)
            if (j < job.keys) out[(int64_t)j * job.values] = s[j];
    }
    if (job.read != SV_READ_CHUNK) return;

        /* Again from the chunk's end, for the later tokens that each token sees too. */
#pragma unroll(UNROLLED)
    for (int j = 0; j < KEYS; j++) s[j] = 0;
    for (int last = end; last > begin; last -= TOKENS) {
        const int first = max(last - (int)TOKENS, begin), count = last - first;
        load_tokens(job, &t, p, group, first, count);
        for (int i = threadIdx.x; i < count * side; i += blockDim.x)
            t.e[i / side][i % side] = expm1f(t.e[i / side][i % side]);
        __syncthreads();
        for (int token = count - 1; token >= 0; token--) {
            const float v = value_at(job, &t, token, p);
            const int at = p.head * job.keys;
            const float *q = &t.q[token][at], *k = &t.k[token][at], *e = &t.e[token][at];
            if (!p.used) continue;
            float y = 0;
#pragma unroll(UNROLLED)
            for (int j = 0; j < KEYS; j++)
                if (j < job.keys) {
                    s[j] = fmaf(e[j], s[j], s[j]);
                    y = fmaf(q[j], s[j], y);
                    s[j] = fmaf(k[j], v, s[j]);
                }
            float *out = (float *)job.y.data +
                         sv_slot_of(group, job.length, first + token, job.reverse) * job.y.pitch + p.column;
            *out = fmaf(job.scale, y, *out);
        }
    }
}

template <int KEYS> void run_scan(const scan_job &job, int64_t groups, cudaStream_t stream)
{
    const int width = job.values < MOST_COLUMNS ? job.values : (int)MOST_COLUMNS;
    const int threads = (job.heads_per_block * width + 31) / 32 * 32;
    const int head_tiles = (job.heads + job.heads_per_block - 1) / job.heads_per_block;
    const dim3 grid((unsigned)(groups * job.chunks), (unsigned)(head_tiles * job.value_tiles));
    if (job.chunks > 1) {
        end_chunks<KEYS><<<grid, threads, 0, stream>>>(job);
        carry_chunks<<<sv_cuda_blocks(groups * job.keys * job.columns), SV_CUDA_THREADS, 0, stream>>>(job);
    }
    walk_chunks<KEYS><<<grid, threads, 0, stream>>>(job);
}

} // namespace

sv_status sv_cuda_decay_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor decay,
                             sv_tensor bonus, const sv_decay_rule *rule, const sv_sequence *seq,
                             bool accumulate)
{
    const int64_t groups = y.dim[0] / seq->length;
    if (rule->decay == SV_DECAY_VALUE || rule->decay == SV_DECAY_PAIR)
        return sv_cuda_decay_values(c, y, q, k, v, decay, bonus, rule, seq, accumulate);
    if (groups == 0 || y.dim[1] == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    scan_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.decay = decay;
    job.state_in = seq->state_in;
    job.state_out = seq->state_out;
    job.bonus = (const float *)bonus.data;
    job.index = (const int32_t *)seq->index.data;
    job.length = seq->length;
    job.chunk = rule->read == SV_READ_CHUNK ? rule->chunk : (int)CHUNK;
    job.chunks = (seq->length + job.chunk - 1) / job.chunk;
    job.heads = rule->heads;
    job.keys = q.dim[1] / rule->heads;
    job.values = y.dim[1] / rule->heads;
    job.columns = y.dim[1];
    job.kind = rule->decay;
    job.read = rule->read;
    job.scale = rule->scale;
    job.reverse = seq->reverse;
    job.accumulate = accumulate;
    const int by_values = MOST_COLUMNS / job.values, by_keys = SIDE / job.keys;
    job.heads_per_block = by_values < by_keys ? by_values : by_keys;
    if (job.heads_per_block > job.heads) job.heads_per_block = job.heads;
    if (job.heads_per_block < 1) job.heads_per_block = 1;
    job.value_tiles = (job.values + MOST_COLUMNS - 1) / MOST_COLUMNS;
    if (job.chunks > 1) {
        void *ends = NULL, *sums = NULL;
        const size_t cells = (size_t)groups * (size_t)job.chunks * (size_t)job.keys;
        SV_TRY(sv_arena_alloc(c, &c->scratch, "decay chunk states",
                              cells * (size_t)job.columns * sizeof(float), &ends));
        SV_TRY(sv_arena_alloc(c, &c->scratch, "decay chunk sums", cells * (size_t)job.heads * sizeof(float),
                              &sums));
        job.ends = (float *)ends;
        job.sums = (float *)sums;
    }
    const cudaStream_t stream = sv_cuda_stream(c);
    if (job.keys <= 16)
        run_scan<16>(job, groups, stream);
    else if (job.keys <= 32)
        run_scan<32>(job, groups, stream);
    else if (job.keys <= 64)
        run_scan<64>(job, groups, stream);
    else
        run_scan<256>(job, groups, stream);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "decay_scan");
}

/* ---- token shift --------------------------------------------------------------------------------------- */

namespace {

struct mix_job {
    sv_tensor y, x, m, state_in, state_out;
    const int32_t *index;
    int32_t length;
    bool reverse;
};

__device__ __forceinline__ float input_at(const mix_job &job, int64_t group, int step, int channel)
{
    if (step < 0)
        return job.state_in.data ? ((const float *)job.state_in.data)[group * job.state_in.pitch + channel]
                                 : 0.0f;
    const int64_t row = sv_row_of(job.index, sv_slot_of(group, job.length, step, job.reverse));
    return row < 0 ? 0.0f : ((const float *)job.x.data)[row * job.x.pitch + channel];
}

__global__ void mix_tokens(const __grid_constant__ mix_job job)
{
    const int64_t item = sv_thread();
    const int columns = job.y.dim[1], channels = job.x.dim[1];
    const int64_t slot = item / columns, group = slot / job.length;
    const int column = (int)(item % columns), channel = column % channels;
    if (group >= sv_rows(job.y) / job.length) return;
    const int place = (int)(slot % job.length), step = job.reverse ? job.length - 1 - place : place;
    const float x = input_at(job, group, step, channel), before = input_at(job, group, step - 1, channel);
    ((float *)job.y.data)[slot * job.y.pitch + column] =
        fmaf(before - x, ((const float *)job.m.data)[slot * job.m.pitch + column], x);
}

__global__ void keep_last(const __grid_constant__ mix_job job)
{
    const int64_t item = sv_thread(), group = item / job.x.dim[1];
    const int channel = (int)(item % job.x.dim[1]);
    if (group >= sv_rows(job.y) / job.length) return;
    ((float *)job.state_out.data)[group * job.state_out.pitch + channel] =
        input_at(job, group, job.length - 1, channel);
}

} // namespace

sv_status sv_cuda_token_mix(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor m, const sv_sequence *seq)
{
    if (y.dim[1] == 0) return SV_OK;
    const cudaStream_t stream = sv_cuda_stream(c);
    mix_job job = {};
    job.y = y;
    job.x = x;
    job.m = m;
    job.state_in = seq->state_in;
    job.state_out = seq->state_out;
    job.index = (const int32_t *)seq->index.data;
    job.length = seq->length;
    job.reverse = seq->reverse;
    mix_tokens<<<sv_cuda_blocks((int64_t)y.dim[0] * y.dim[1]), SV_CUDA_THREADS, 0, stream>>>(job);
    if (!sv_is_none(seq->state_out))
        keep_last<<<sv_cuda_blocks((int64_t)(y.dim[0] / seq->length) * x.dim[1]), SV_CUDA_THREADS, 0,
                    stream>>>(job);
    return SV_CUDA_LAUNCHED(c, "token_mix");
}
