/* SPDX-License-Identifier: Apache-2.0
 *
 * The diagonal scans on the GPU; diagonal.simd.c has the formulas. A thread walks a channel of a group, eight tokens'
 * inputs on their way at once; with several states a warp has a channel and its lanes the states; with a full matrix a
 * block has a channel and holds the matrix in shared memory where it fits.
 */
#include "backbones/walk.cuh"

namespace {

enum { AT_ONCE = 8, LANE_STATES = 8, DENSE_THREADS = 256, DENSE_BYTES = 200 << 10 };

struct diagonal_job {
    sv_tensor y, x, a, decay, position, states;
    sv_walk walk;
    bool log, complex_numbers, whole, fresh;
};

/* ---- h = a h + x ---------------------------------------------------------------------------------- */

/* False when there is no such channel. */
__device__ __forceinline__ bool find_channel(const diagonal_job &job, int channels, int64_t *group,
                                             int *channel)
{
    const int64_t item = sv_thread();
    *group = item / channels;
    *channel = (int)(item % channels);
    return *group < sv_walk_groups(job.y, job.walk);
}

__global__ void scan_real(const __grid_constant__ diagonal_job job)
{
    int64_t group;
    int channel;
    if (!find_channel(job, job.y.dim[1], &group, &channel)) return;
    float *state = sv_walk_group(job.states, group) + channel, h = *state;
    for (int first = 0; first < job.walk.length; first += AT_ONCE) {
        float a[AT_ONCE], x[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int step = min(first + i, job.walk.length - 1);
            a[i] = sv_walk_row(job.a, job.walk, group, step)[channel];
            x[i] = sv_walk_row(job.x, job.walk, group, step)[channel];
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (first + i >= job.walk.length) break;
            h = fmaf(job.log ? expf(a[i]) : a[i], h, x[i]);
            sv_walk_row(job.y, job.walk, group, first + i)[channel] = h;
        }
    }
    *state = h;
}

__global__ void scan_complex(const __grid_constant__ diagonal_job job)
{
    const int half = job.y.dim[1] / 2;
    int64_t group;
    int channel;
    if (!find_channel(job, half, &group, &channel)) return;
    float *state = sv_walk_group(job.states, group) + channel, hr = state[0], hi = state[half];
    for (int step = 0; step < job.walk.length; step++) {
        const float *a = sv_walk_row(job.a, job.walk, group, step) + channel,
                    *x = sv_walk_row(job.x, job.walk, group, step) + channel;
        float *y = sv_walk_row(job.y, job.walk, group, step) + channel;
        const float ar = a[0], ai = a[half], r = fmaf(ar, hr, x[0]) - ai * hi;
        hi = fmaf(ar, hi, fmaf(ai, hr, x[half]));
        hr = r;
        y[0] = hr;
        y[half] = hi;
    }
    state[0] = hr;
    state[half] = hi;
}

/* A thread per token and channel. */
__global__ void make_gates(const __grid_constant__ diagonal_job job)
{
    const int64_t item = sv_thread(), row = item / job.y.dim[1], group = row / job.walk.length;
    const int channel = (int)(item % job.y.dim[1]), step = (int)(row % job.walk.length);
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const bool begins =
        job.position.data ? sv_walk_row(job.position, job.walk, group, step)[0] == 0 : step == 0 && job.fresh;
    const float log = sv_walk_row(job.a, job.walk, group, step)[channel],
                x = sv_walk_row(job.x, job.walk, group, step)[channel];
    sv_walk_row(job.decay, job.walk, group, step)[channel] = begins ? 0.0f : expf(log);
    sv_walk_row(job.y, job.walk, group, step)[channel] = begins ? x : x * sqrtf(-expm1f(log + log));
}

/* ---- log-sum-exp ---------------------------------------------------------------------------------- */

__global__ void scan_log_sums(const __grid_constant__ diagonal_job job)
{
    const int channels = job.y.dim[1];
    int64_t group;
    int channel;
    if (!find_channel(job, channels, &group, &channel)) return;
    float *state = sv_walk_group(job.states, group) + channel, m = state[0], sum = state[channels];
    for (int step = 0; step < job.walk.length; step++) {
        const float x = sv_walk_row(job.x, job.walk, group, step)[channel];
        const float most = sum > 0 ? fmaxf(m, x) : x;
        sum = (sum > 0 ? sum * expf(m - most) : 0.0f) + expf(x - most);
        m = most;
        if (job.whole) continue;
        const float share = expf(x - m) / sum;
        sv_walk_row(job.y, job.walk, group, step)[channel] = share;
        if (job.decay.data)
            sv_walk_row(job.decay, job.walk, group, step)[channel] = share < 1 ? log1pf(-share) : -INFINITY;
    }
    for (int step = 0; job.whole && step < job.walk.length; step++)
        sv_walk_row(job.y, job.walk, group, step)[channel] =
            expf(sv_walk_row(job.x, job.walk, group, step)[channel] - m) / sum;
    state[0] = m;
    state[channels] = sum;
}

/* ---- several states of a channel ------------------------------------------------------------------- */

struct state_job {
    sv_tensor y, u, states;
    sv_state_rule rule;
    sv_walk walk;
};

/* One state's turn; what it adds to y. */
__device__ __forceinline__ float turn_state(const state_job &job, float &hr, float &hi, const float *a,
                                            const float *b, const float *c, int at, float u, float delta)
{
    const int states = job.rule.states;
    if (job.rule.kind == SV_STATE_SELECTIVE) {
        hr = fmaf(fmaf(job.rule.scale, expf(delta * a[at]), job.rule.shift), hr, delta * u * b[at]);
        return hr * c[at];
    }
    if (job.rule.kind == SV_STATE_REAL) {
        hr = fmaf(a[at], hr, b[at] * u);
        return hr * c[at];
    }
    const float ar = a[at], ai = a[states + at], r = fmaf(ar, hr, b[at] * u) - ai * hi;
    hi = fmaf(ar, hi, fmaf(ai, hr, b[states + at] * u));
    hr = r;
    return hr * c[at] - hi * c[states + at];
}

__global__ void scan_states(const __grid_constant__ state_job job)
{
    const int64_t item = sv_thread() / SV_WARP;
    const int channels = job.y.dim[1], states = job.rule.states, lane = threadIdx.x % SV_WARP;
    const int64_t group = item / channels;
    const int channel = (int)(item % channels);
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const bool selective = job.rule.kind == SV_STATE_SELECTIVE;
    float *real = sv_walk_group(job.states, group) + (int64_t)channel * states,
          *imaginary = real + (int64_t)channels * states;
    float hr[LANE_STATES] = {}, hi[LANE_STATES] = {};
#pragma unroll
    for (int i = 0; i < LANE_STATES; i++) {
        const int s = lane + SV_WARP * i;
        if (s >= states) break;
        hr[i] = real[s];
        if (job.rule.kind == SV_STATE_COMPLEX) hi[i] = imaginary[s];
    }
    const float *a = (const float *)job.rule.a.data + (int64_t)channel * job.rule.a.pitch;
    const float *b = selective ? NULL : (const float *)job.rule.b.data + (int64_t)channel * job.rule.b.pitch;
    const float *c = selective ? NULL : (const float *)job.rule.c.data + (int64_t)channel * job.rule.c.pitch;
    const float skip = job.rule.d.data ? ((const float *)job.rule.d.data)[channel] : 0.0f;
    for (int step = 0; step < job.walk.length; step++) {
        const float u = sv_walk_row(job.u, job.walk, group, step)[channel];
        float delta = 0, sum = 0;
        if (selective) {
            delta = sv_walk_row(job.rule.delta, job.walk, group, step)[channel];
            b = sv_walk_row(job.rule.b, job.walk, group, step);
            c = sv_walk_row(job.rule.c, job.walk, group, step);
        }
#pragma unroll
        for (int i = 0; i < LANE_STATES; i++) {
            const int s = lane + SV_WARP * i;
            if (s < states) sum += turn_state(job, hr[i], hi[i], a, b, c, s, u, delta);
        }
        sum = sv_warp_sum(sum);
        if (lane == 0) sv_walk_row(job.y, job.walk, group, step)[channel] = fmaf(skip, u, sum);
    }
#pragma unroll
    for (int i = 0; i < LANE_STATES; i++) {
        const int s = lane + SV_WARP * i;
        if (s >= states) break;
        real[s] = hr[i];
        if (job.rule.kind == SV_STATE_COMPLEX) imaginary[s] = hi[i];
    }
}

/* ---- a full matrix ---------------------------------------------------------------------------------- */

/* 'held': the matrix lies in shared memory, too. */
__global__ void __launch_bounds__(DENSE_THREADS)
    scan_dense(sv_tensor y, sv_tensor u, sv_tensor a, const float *b, sv_tensor states, sv_walk walk,
               bool held)
{
    extern __shared__ float shared[];
    const int64_t group = blockIdx.x;
    const int channel = blockIdx.y, n = a.dim[1];
    if (group >= sv_walk_groups(y, walk)) return;
    float *now = shared, *next = shared + n, *copy = shared + 2 * n;
    const float *matrix = (const float *)a.data + (int64_t)channel * n * a.pitch;
    int64_t pitch = a.pitch;
    if (held) {
        for (int i = threadIdx.x; i < n * n; i += DENSE_THREADS)
            copy[i / n * (n + 1) + i % n] = matrix[i / n * pitch + i % n];
        matrix = copy;
        pitch = n + 1;
    }
    float *state = sv_walk_group(states, group) + (int64_t)channel * n;
    for (int i = threadIdx.x; i < n; i += DENSE_THREADS) now[i] = state[i];
    for (int step = 0; step < walk.length; step++) {
        __syncthreads();
        const float in = sv_walk_row(u, walk, group, step)[channel];
        float *out = sv_walk_row(y, walk, group, step) + (int64_t)channel * n;
        for (int i = threadIdx.x; i < n; i += DENSE_THREADS) {
            float sum[2] = {};
            for (int j = 0; j < n; j++) sum[j & 1] = fmaf(matrix[i * pitch + j], now[j], sum[j & 1]);
            out[i] = next[i] = sum[0] + sum[1] + b[(int64_t)channel * n + i] * in;
        }
        float *swap = now;
        now = next;
        next = swap;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += DENSE_THREADS) state[i] = now[i];
}

diagonal_job job_of(sv_tensor y, sv_tensor x, sv_tensor a, const sv_sequence *seq)
{
    diagonal_job job = {};
    job.y = y;
    job.x = x;
    job.a = a.dim[0] == 1 && y.dim[0] != 1 ? sv_walk_constant(a) : a;
    job.walk = sv_walk_of(seq);
    job.fresh = sv_is_none(seq->state_in);
    return job;
}

} // namespace

sv_status sv_cuda_diagonal_scan(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor a, bool log,
                                bool complex_numbers, const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length, channels = y.dim[1];
    if (groups == 0 || channels == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    diagonal_job job = job_of(y, x, a, seq);
    job.log = log;
    SV_TRY(sv_cuda_walk_states(c, seq, groups, channels, &job.states));
    const unsigned blocks = (unsigned)(((int64_t)groups * channels + 63) / 64);
    if (complex_numbers)
        scan_complex<<<blocks, 64, 0, sv_cuda_stream(c)>>>(job);
    else
        scan_real<<<blocks, 64, 0, sv_cuda_stream(c)>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "diagonal_scan");
}

sv_status sv_cuda_root_gates(sv_ctx *c, sv_tensor a, sv_tensor y, sv_tensor log_a, sv_tensor x,
                             sv_tensor position, const sv_sequence *seq)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    diagonal_job job = job_of(y, x, log_a, seq);
    job.decay = a;
    job.position = position;
    make_gates<<<sv_cuda_blocks((int64_t)y.dim[0] * y.dim[1]), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(job);
    return SV_CUDA_LAUNCHED(c, "root_gates");
}

sv_status sv_cuda_log_sum_scan(sv_ctx *c, sv_tensor weight, sv_tensor decay, sv_tensor x,
                               const sv_sequence *seq, bool whole)
{
    const int groups = weight.dim[0] / seq->length, channels = weight.dim[1];
    if (groups == 0 || channels == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    diagonal_job job = job_of(weight, x, SV_NONE, seq);
    job.decay = decay;
    job.whole = whole;
    SV_TRY(sv_cuda_walk_states(c, seq, groups, 2 * channels, &job.states));
    scan_log_sums<<<(unsigned)(((int64_t)groups * channels + 63) / 64), 64, 0, sv_cuda_stream(c)>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "log_sum_scan");
}

sv_status sv_cuda_state_scan(sv_ctx *c, sv_tensor y, sv_tensor u, const sv_state_rule *rule,
                             const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length, channels = y.dim[1];
    SV_CHECK(c, rule->states <= LANE_STATES * SV_WARP, SV_UNSUPPORTED,
             "state_scan: %d states of a channel; on the GPU there are at most %d", rule->states,
             LANE_STATES * SV_WARP);
    if (groups == 0 || channels == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    state_job job = {};
    job.y = y;
    job.u = u;
    job.rule = *rule;
    job.walk = sv_walk_of(seq);
    const int parts = rule->kind == SV_STATE_COMPLEX ? 2 : 1;
    SV_TRY(sv_cuda_walk_states(c, seq, groups, parts * channels * rule->states, &job.states));
    scan_states<<<(unsigned)(((int64_t)groups * channels + 1) / 2), 2 * SV_WARP, 0, sv_cuda_stream(c)>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "state_scan");
}

sv_status sv_cuda_dense_scan(sv_ctx *c, sv_tensor y, sv_tensor u, sv_tensor a, sv_tensor b,
                             const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length, n = a.dim[1];
    if (groups == 0 || y.dim[1] == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor states;
    SV_TRY(sv_cuda_walk_states(c, seq, groups, y.dim[1], &states));
    const size_t vectors = 2 * sizeof(float) * (size_t)n,
                 matrix = sizeof(float) * (size_t)n * (size_t)(n + 1);
    const bool held = vectors + matrix <= DENSE_BYTES;
    const size_t bytes = held ? vectors + matrix : vectors;
    SV_CUDA_TRY(c, "dense_scan",
                cudaFuncSetAttribute(scan_dense, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    scan_dense<<<dim3((unsigned)groups, (unsigned)(y.dim[1] / n)), DENSE_THREADS, bytes, sv_cuda_stream(c)>>>(
        y, u, a, (const float *)b.data, states, sv_walk_of(seq), held);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "dense_scan");
}
