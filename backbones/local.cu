/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention among the last tokens, states rewritten by blocks, and dilated convolutions on the GPU; local.simd.c
 * and ops.h (sv_local_rule, sv_block_states) have the formulas.
 *
 * Attention: a warp first numbers a group's tokens that count; then every token of every head has a warp of its
 * own, whose lanes have keys for the scores and channels for the values. Blocks: a block of threads walks a group
 * (few states and channels: block_states.cu).
 */
#include "backbones/block_states.cuh"

namespace {

enum { THREADS = 256, WARPS = THREADS / SV_WARP, MOST = 256, AHEAD = 8 };

/* ---- the last tokens ----------------------------------------------------------------------------------- */

struct local_job {
    sv_tensor y, q, k, v, weight, before, after; /* states */
    sv_walk walk;
    int32_t heads, keys, values, window;
    bool chunked;
    float scale;
    int32_t *steps; /* [groups, length]: of the tokens that count; NULL: all do */
    int32_t *rank;  /* [groups, length]: how many of those come before a step */
    int32_t *lived; /* [groups] */
};

__global__ void number_tokens(const __grid_constant__ local_job job)
{
    const int64_t group = blockIdx.x;
    const int lane = threadIdx.x, length = job.walk.length;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    int count = 0;
    for (int first = 0; first < length; first += SV_WARP * AHEAD) {
        bool here[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int step = first + i * SV_WARP + lane;
            here[i] = step < length && sv_walk_row(job.weight, job.walk, group, step)[0] != 0.0f;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int step = first + i * SV_WARP + lane;
            const unsigned all = __ballot_sync(0xffffffffu, here[i]);
            const int before = count + __popc(all & ((1u << lane) - 1));
            if (step < length) job.rank[group * length + step] = before;
            if (here[i]) job.steps[group * length + before] = step;
            count += __popc(all);
        }
    }
    if (lane == 0) job.lived[group] = count;
}

/* Tokens seen by the one that 'before' others of the walk precede; the stream had 'count' of them (or enough). */
__device__ __forceinline__ int seen_by(const local_job &job, int count, int before)
{
    return job.chunked ? (count % job.window + before) % job.window + 1 : min(count + before + 1, job.window);
}

struct head_states {
    const float *keys, *values, *count;
};
__device__ __forceinline__ head_states states_of(const local_job &job, float *state, int head)
{
    const int64_t window = job.window;
    return {state + head * window * job.keys,
            state + window * job.heads * job.keys + head * window * job.values,
            state + window * job.heads * (job.keys + job.values) + head};
}

/* The key or value 'back' tokens before the one of rank 'rank', which is itself 0 back. */
__device__ __forceinline__ const float *row_of(const local_job &job, const sv_tensor &t, const float *carried,
                                               int64_t group, int head, int width, int rank, int back)
{
    if (back > rank) return carried + (int64_t)(job.window - (back - rank)) * width;
    const int step = job.steps ? job.steps[group * job.walk.length + rank - back] : rank - back;
    return sv_walk_row(t, job.walk, group, step) + head * width;
}

template <int PARTS> __global__ void attend(const __grid_constant__ local_job job)
{
    const int lane = threadIdx.x % SV_WARP, length = job.walk.length;
    const int64_t number = sv_thread() / SV_WARP, group = number / length / job.heads;
    const int head = (int)(number / length % job.heads), step = (int)(number % length);
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    float *y = sv_walk_row(job.y, job.walk, group, step) + head * job.values, out[PARTS] = {};
    const float weight = job.weight.data ? sv_walk_row(job.weight, job.walk, group, step)[0] : 1.0f;
    float most = -INFINITY, sum = 0;
    if (weight != 0.0f) {
        const head_states before = states_of(job, sv_walk_group(job.before, group), head);
        const int rank = job.rank ? job.rank[group * length + step] : step;
        const int seen = seen_by(job, (int)*before.count, rank);
        const float *q = sv_walk_row(job.q, job.walk, group, step) + head * job.keys;
        for (int first = 0; first < seen; first += SV_WARP) {
            const int count = min(seen - first, (int)SV_WARP);
            float score = -INFINITY;
            if (lane < count) {
                const float *key = row_of(job, job.k, before.keys, group, head, job.keys, rank, first + lane);
                score = 0;
                for (int n = 0; n < job.keys; n++) score = fmaf(q[n], key[n], score);
                score *= job.scale;
            }
            const float now = fmaxf(most, sv_warp_most(score)), fade = expf(most - now);
            score = expf(score - now);
            sum = fmaf(sum, fade, sv_warp_sum(score));
            most = now;
#pragma unroll
            for (int part = 0; part < PARTS; part++) out[part] *= fade;
            for (int j = 0; j < count; j++) {
                const float share = __shfl_sync(0xffffffffu, score, j);
                const float *value =
                    row_of(job, job.v, before.values, group, head, job.values, rank, first + j);
#pragma unroll
                for (int part = 0; part < PARTS; part++)
                    if (part * SV_WARP + lane < job.values)
                        out[part] = fmaf(share, value[part * SV_WARP + lane], out[part]);
            }
        }
    }
#pragma unroll
    for (int part = 0; part < PARTS; part++)
        if (part * SV_WARP + lane < job.values)
            y[part * SV_WARP + lane] = weight != 0.0f ? weight / sum * out[part] : 0.0f;
}

/* A block keeps the last rows of a head. */
__global__ void keep_last(const __grid_constant__ local_job job)
{
    const int64_t group = blockIdx.x / job.heads;
    const int head = (int)(blockIdx.x % job.heads), window = job.window;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const head_states before = states_of(job, sv_walk_group(job.before, group), head),
                      after = states_of(job, sv_walk_group(job.after, group), head);
    const int lived = job.lived ? job.lived[group] : job.walk.length, count = (int)*before.count;
    for (int64_t i = threadIdx.x; i < (int64_t)window * job.keys; i += THREADS)
        ((float *)after.keys)[i] = row_of(job, job.k, before.keys, group, head, job.keys, lived - 1,
                                          window - 1 - (int)(i / job.keys))[i % job.keys];
    for (int64_t i = threadIdx.x; i < (int64_t)window * job.values; i += THREADS)
        ((float *)after.values)[i] = row_of(job, job.v, before.values, group, head, job.values, lived - 1,
                                            window - 1 - (int)(i / job.values))[i % job.values];
    if (threadIdx.x == 0)
        *(float *)after.count = (float)(lived == 0 ? min(count, window) : seen_by(job, count, lived - 1));
}

sv_status run_attention(sv_ctx *c, const local_job &job, int groups)
{
    const cudaStream_t stream = sv_cuda_stream(c);
    const unsigned blocks = sv_cuda_blocks((int64_t)groups * job.heads * job.walk.length * SV_WARP);
    if (job.steps) number_tokens<<<(unsigned)groups, SV_WARP, 0, stream>>>(job);
    if (job.values <= 32)
        attend<1><<<blocks, SV_CUDA_THREADS, 0, stream>>>(job);
    else if (job.values <= 64)
        attend<2><<<blocks, SV_CUDA_THREADS, 0, stream>>>(job);
    else
        attend<8><<<blocks, SV_CUDA_THREADS, 0, stream>>>(job);
    if (job.after.data) keep_last<<<(unsigned)(groups * job.heads), THREADS, 0, stream>>>(job);
    return SV_CUDA_LAUNCHED(c, "local_attention");
}

/* ---- states and blocks --------------------------------------------------------------------------------- */

/* What a group works with. Each part [states, E], 'both' [states, 2E], 'line' [states, D]. */
struct meeting {
    const sv_block_job *job;
    int64_t group;
    int first, count; /* the block's tokens */
    float *s, *self, *cross, *key, *value, *both, *line;
};

__host__ __device__ inline int64_t meeting_floats(int64_t states, int64_t inner, int64_t channels)
{
    return states * (6 * inner + channels);
}

/* to[n] = w s[n] for all states, w [rows,width]; a warp per number. */
__device__ void project(float *to, const sv_tensor &w, const float *s, int states)
{
    const int rows = w.dim[0], width = w.dim[1], lane = threadIdx.x % SV_WARP;
    for (int64_t i = threadIdx.x / SV_WARP; i < (int64_t)states * rows; i += WARPS) {
        const float sum =
            sv_warp_dot((const float *)w.data + i % rows * w.pitch, s + i / rows * width, width);
        if (lane == 0) to[i] = sum;
    }
}

/* Softmax attention of one query of a head by a warp: row(j) has the key, row(j) of 'value' the value. */
template <typename K, typename V>
__device__ void ask(float *y, const float *q, float scale, int count, int width, K key, V value)
{
    const int lane = threadIdx.x % SV_WARP;
    float most = -INFINITY, sum = 0;
    for (int i = lane; i < width; i += SV_WARP) y[i] = 0;
    for (int first = 0; first < count; first += SV_WARP) {
        const int here = min(count - first, (int)SV_WARP);
        float score = -INFINITY;
        if (lane < here) {
            const float *row = key(first + lane);
            score = 0;
            for (int n = 0; n < width; n++) score = fmaf(q[n], row[n], score);
            score *= scale;
        }
        const float now = fmaxf(most, sv_warp_most(score)), fade = expf(most - now);
        score = expf(score - now);
        sum = fmaf(sum, fade, sv_warp_sum(score));
        most = now;
        for (int i = lane; i < width; i += SV_WARP) y[i] *= fade;
        for (int j = 0; j < here; j++) {
            const float share = __shfl_sync(0xffffffffu, score, j);
            for (int i = lane; i < width; i += SV_WARP) y[i] = fmaf(share, value(first + j)[i], y[i]);
        }
    }
    for (int i = lane; i < width; i += SV_WARP) y[i] /= sum;
}

__device__ void read_states(const meeting &m, float *y, const float *q, int head)
{
    const int width = m.job->width, inner = m.job->y.dim[1];
    ask(
        y, q, m.job->rule.scale, m.job->rule.states, width,
        [&](int n) { return m.key + (int64_t)n * inner + head * width; },
        [&](int n) { return m.value + (int64_t)n * inner + head * width; });
}

__device__ void read_tokens(const meeting &m, float *y, const float *q, int head)
{
    const sv_block_job &job = *m.job;
    ask(
        y, q, job.rule.scale, m.count, job.width,
        [&](int t) { return sv_walk_row(job.k, job.walk, m.group, m.first + t) + head * job.width; },
        [&](int t) { return sv_walk_row(job.v, job.walk, m.group, m.first + t) + head * job.width; });
}

/* The tokens of a block ask the states; then the states ask each other and the tokens. */
__device__ void meet(const meeting &m)
{
    const sv_block_job &job = *m.job;
    const int heads = job.rule.heads, width = job.width, inner = job.y.dim[1], states = job.rule.states,
              warp = threadIdx.x / SV_WARP;
    for (int i = warp; i < m.count * heads; i += WARPS) {
        const int step = m.first + i / heads, at = i % heads * width;
        read_states(m, sv_walk_row(job.y, job.walk, m.group, step) + at,
                    sv_walk_row(job.q, job.walk, m.group, step) + at, i % heads);
    }
    for (int i = warp; i < states * heads; i += WARPS) {
        const int64_t at = (int64_t)(i / heads) * inner + i % heads * width;
        float *both = m.both + (int64_t)(i / heads) * 2 * inner + i % heads * width;
        read_states(m, both, m.self + at, i % heads);
        read_tokens(m, both + inner, m.cross + at, i % heads);
    }
}

__global__ void __launch_bounds__(THREADS) walk_blocks(const __grid_constant__ sv_block_job job)
{
    const int64_t group = blockIdx.x;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const int states = job.rule.states, channels = job.rule.self.dim[1];
    const int64_t size = (int64_t)states * job.y.dim[1];
    meeting m;
    m.job = &job;
    m.group = group;
    m.s = sv_walk_group(job.states, group);
    m.self = job.work + group * job.work_floats;
    m.cross = m.self + size, m.key = m.cross + size, m.value = m.key + size, m.both = m.value + size;
    m.line = m.both + 2 * size;
    for (m.first = 0; m.first < job.walk.length; m.first += job.rule.block) {
        m.count = min(job.walk.length - m.first, job.rule.block);
        project(m.self, job.rule.self, m.s, states);
        project(m.cross, job.rule.cross, m.s, states);
        project(m.key, job.rule.key, m.s, states);
        project(m.value, job.rule.value, m.s, states);
        __syncthreads();
        meet(m);
        __syncthreads();
        project(m.line, job.rule.out, m.both, states);
        __syncthreads();
        for (int64_t i = threadIdx.x; i < (int64_t)states * channels; i += THREADS) {
            const float gate = ((const float *)job.rule.gate.data)[i % channels],
                        bias = ((const float *)job.rule.bias.data)[i % channels];
            m.s[i] = gate * m.s[i] + (1 - gate) * (m.line[i] + bias);
        }
        __syncthreads();
    }
    if (!job.after.data) return;
    for (int64_t i = threadIdx.x; i < (int64_t)states * channels; i += THREADS)
        sv_walk_group(job.after, group)[i] = m.s[i];
}

/* ---- dilated convolution ------------------------------------------------------------------------------- */

struct dilated_job {
    sv_tensor y, x, w, bias, before, after;
    sv_walk walk;
    int32_t dilation, kept; /* rows of the state */
};

/* A channel of the input at a step; those before the walk come from the state. */
__device__ __forceinline__ float input(const dilated_job &job, int64_t group, int step, int channel)
{
    if (step >= 0) return sv_walk_row(job.x, job.walk, group, step)[channel];
    return sv_walk_group(job.before, group)[(int64_t)(job.kept + step) * job.y.dim[1] + channel];
}

__global__ void convolve(const __grid_constant__ dilated_job job)
{
    const int channels = job.y.dim[1], taps = job.w.dim[1];
    const int64_t number = sv_thread(), row = number / channels, group = row / job.walk.length;
    const int channel = (int)(number % channels), step = (int)(row % job.walk.length);
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const float *w = (const float *)job.w.data + (int64_t)channel * job.w.pitch;
    float sum = ((const float *)job.bias.data)[channel];
    for (int j = 0; j < taps; j++)
        sum = fmaf(w[j], input(job, group, step - (taps - 1 - j) * job.dilation, channel), sum);
    sv_walk_row(job.y, job.walk, group, step)[channel] = sum;
}

__global__ void keep_rows(const __grid_constant__ dilated_job job)
{
    const int channels = job.y.dim[1];
    const int64_t number = sv_thread(), row = number / channels, group = row / job.kept;
    const int channel = (int)(number % channels), at = (int)(row % job.kept);
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    sv_walk_group(job.after, group)[(int64_t)at * channels + channel] =
        input(job, group, job.walk.length - job.kept + at, channel);
}

} // namespace

sv_status sv_cuda_local_attention(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                  sv_tensor weight, const sv_local_rule *rule, const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    local_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.weight = weight;
    job.after = seq->state_out;
    job.walk = sv_walk_of(seq);
    job.heads = rule->heads;
    job.keys = q.dim[1] / rule->heads;
    job.values = y.dim[1] / rule->heads;
    job.window = rule->window;
    job.chunked = rule->chunked;
    job.scale = rule->scale;
    SV_CHECK(c, job.values <= MOST, SV_UNSUPPORTED,
             "local_attention: heads of %d value channels; the GPU takes up to %d", job.values, MOST);
    if (groups == 0) return SV_OK;
    SV_TRY(
        sv_cuda_walk_before(c, seq, groups, rule->window * (q.dim[1] + y.dim[1]) + rule->heads, &job.before));
    if (!sv_is_none(weight)) {
        sv_tensor numbers;
        const int each = groups * seq->length;
        SV_TRY(sv_scratch_alloc(c, &numbers, "tokens that count", SV_I32, 2 * each + groups, 1, SV_NONE));
        job.steps = (int32_t *)numbers.data;
        job.rank = job.steps + each;
        job.lived = job.rank + each;
    }
    const sv_status status = run_attention(c, job, groups);
    sv_arena_rewind(&c->scratch, mark);
    return status;
}

sv_status sv_cuda_block_state_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                   const sv_block_states *rule, const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length, channels = rule->self.dim[1];
    if (groups == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_block_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.rule = *rule;
    job.walk = sv_walk_of(seq);
    job.width = y.dim[1] / rule->heads;
    job.work_floats = meeting_floats(rule->states, y.dim[1], channels);
    job.after = seq->state_out;
    SV_TRY(sv_cuda_walk_before(c, seq, groups, rule->states * channels, &job.states));
    if (sv_cuda_block_fits(&job)) {
        const sv_status status = sv_cuda_block_walk(c, &job, groups);
        sv_arena_rewind(&c->scratch, mark);
        return status;
    }
    SV_TRY(sv_arena_alloc(c, &c->scratch, "block states", sizeof(float) * (size_t)(groups * job.work_floats),
                          (void **)&job.work));
    walk_blocks<<<(unsigned)groups, THREADS, 0, sv_cuda_stream(c)>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "block_state_scan");
}

sv_status sv_cuda_dilated_conv(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor w, sv_tensor bias, int dilation,
                               const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length, channels = y.dim[1];
    if (groups == 0 || channels == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    dilated_job job = {};
    job.y = y;
    job.x = x;
    job.w = w;
    job.bias = bias;
    job.after = seq->state_out;
    job.walk = sv_walk_of(seq);
    job.dilation = dilation;
    job.kept = (w.dim[1] - 1) * dilation;
    const cudaStream_t stream = sv_cuda_stream(c);
    if (job.kept > 0) SV_TRY(sv_cuda_walk_before(c, seq, groups, channels * job.kept, &job.before));
    convolve<<<sv_cuda_blocks((int64_t)y.dim[0] * channels), SV_CUDA_THREADS, 0, stream>>>(job);
    if (!sv_is_none(seq->state_out) && job.kept > 0)
        keep_rows<<<sv_cuda_blocks((int64_t)groups * job.kept * channels), SV_CUDA_THREADS, 0, stream>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "dilated_conv");
}
