/* SPDX-License-Identifier: Apache-2.0
 *
 * Second moments of keys, and the attention they are compared with, on the GPU; moments.simd.c has the formulas. A block
 * has a head of a group and walks it token by token; its matrices lie in shared memory where they fit, else where the
 * state lies. Attention has a warp per query: 32 keys at a time with a running maximum.
 */
#include "backbones/walk.cuh"

namespace {

enum { THREADS = 256, WARPS = THREADS / SV_WARP, HELD_BYTES = 200 << 10, TAYLOR_TOKENS = 64, COLUMNS = 8 };

struct moments_job {
    sv_tensor y, q, k, v, g, beta, states;
    const float *lamb;
    sv_second_order second;
    sv_taylor taylor;
    sv_walk walk;
    int32_t heads, keys, values;
    bool held; /* the state's matrices are copied to shared memory */
};

/* A part of the state as the block works on it: a copy in shared memory ('room' moves on), or itself. */
__device__ float *open_part(const moments_job &job, float *state, int count, float *&room)
{
    if (!job.held) return state;
    float *copy = room;
    room += count;
    for (int i = threadIdx.x; i < count; i += THREADS) copy[i] = state[i];
    return copy;
}
__device__ void close_part(const moments_job &job, float *state, const float *part, int count)
{
    for (int i = threadIdx.x; job.held && i < count; i += THREADS) state[i] = part[i];
}

/* out[j] (+)= factor * sum_i x_i M[i][j]; a thread per column, which then reads its own 'out' only. */
__device__ __forceinline__ float column_times(const float *x, const float *matrix, int from, int to, int j)
{
    float sum[2] = {};
    for (int i = 0; i < from; i++) sum[i & 1] = fmaf(x[i], matrix[i * to + j], sum[i & 1]);
    return sum[0] + sum[1];
}

__device__ void copy_row(float *to, const float *from, int count)
{
    for (int i = threadIdx.x; i < count; i += THREADS) to[i] = from[i];
}

/* ---- second order ----------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(THREADS) walk_second(const __grid_constant__ moments_job job)
{
    extern __shared__ float shared[];
    const int64_t group = blockIdx.x;
    const int head = blockIdx.y, keys = job.keys, values = job.values, square = keys * keys,
              block = keys * values;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    float *q = shared, *k = q + keys, *qs = k + keys, *v = qs + keys, *kc = v + values, *room = kc + values;
    float *state = sv_walk_group(job.states, group), *state_s = state + head * square,
          *state_c = state + job.heads * square + head * block, *state_g = state_c + job.heads * block;
    float *s = open_part(job, state_s, square, room), *c = open_part(job, state_c, block, room),
          *g = open_part(job, state_g, block, room);
    for (int step = 0; step < job.walk.length; step++) {
        __syncthreads();
        copy_row(q, sv_walk_row(job.q, job.walk, group, step) + head * keys, keys);
        copy_row(k, sv_walk_row(job.k, job.walk, group, step) + head * keys, keys);
        copy_row(v, sv_walk_row(job.v, job.walk, group, step) + head * values, values);
        __syncthreads();
        for (int j = threadIdx.x; j < values; j += THREADS) kc[j] = column_times(k, c, keys, values, j);
        __syncthreads();
        for (int i = threadIdx.x; i < block; i += THREADS) {
            const int row = i / values, j = i % values;
            g[i] = fmaf(job.second.share * k[row], kc[j], job.second.decay_g * g[i]);
            c[i] = fmaf(q[row], v[j], job.second.decay * c[i]);
        }
        for (int i = threadIdx.x; i < square; i += THREADS)
            s[i] = fmaf(k[i / keys], k[i % keys], job.second.decay * s[i]);
        __syncthreads();
        for (int j = threadIdx.x; j < keys; j += THREADS) qs[j] = column_times(q, s, keys, keys, j);
        __syncthreads();
        float *y = sv_walk_row(job.y, job.walk, group, step) + head * values;
        for (int j = threadIdx.x; j < values; j += THREADS)
            y[j] = column_times(qs, c, keys, values, j) - column_times(q, g, keys, values, j);
    }
    __syncthreads();
    close_part(job, state_s, s, square);
    close_part(job, state_c, c, block);
    close_part(job, state_g, g, block);
}

/* ---- Taylor ----------------------------------------------------------------------------------------- */

/* The channels j <= l whose product is feature 'f' of the second order. */
__device__ __forceinline__ void pair_of(int f, int keys, int *j, int *l)
{
    int row = 0;
    for (; f >= keys - row; row++) f -= keys - row;
    *j = row;
    *l = row + f;
}

/* Features of x; weighed: for the query's side, pairs of different channels count twice. */
__device__ void make_features(float *f, const float *x, const sv_taylor &rule, int keys, int count,
                              bool weighed)
{
    for (int i = threadIdx.x; i < count; i += THREADS) {
        if (i <= keys) {
            f[i] = i == 0 ? (weighed ? rule.c0 : 1.0f) : (weighed ? rule.c1 : 1.0f) * x[i - 1];
            continue;
        }
        int j, l;
        pair_of(i - 1 - keys, keys, &j, &l);
        f[i] = x[j] * x[l] * (!weighed ? 1.0f : j == l ? rule.c2 : 2 * rule.c2);
    }
}

/*
 * Tokens of the own chunk are weighed one by one (see moments.simd.c); earlier chunks come from the sums, which stay where
 * the state lies.
 */
__global__ void __launch_bounds__(THREADS) walk_taylor(const __grid_constant__ moments_job job)
{
    extern __shared__ float shared[];
    __shared__ float match[TAYLOR_TOKENS], total;
    const int64_t group = blockIdx.x;
    const int head = blockIdx.y, keys = job.keys, values = job.values, warp = threadIdx.x / SV_WARP,
              features = 1 + keys + keys * (keys + 1) / 2;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    float *x = shared, *f = x + keys;
    float *state = sv_walk_group(job.states, group), *sums = state + (int64_t)head * features * values,
          *weights = state + (int64_t)job.heads * features * values + (int64_t)head * features;
    for (int begin = 0; begin < job.walk.length; begin += TAYLOR_TOKENS) {
        const int end = min(begin + TAYLOR_TOKENS, job.walk.length);
        for (int t = begin; t < end; t++) {
            __syncthreads();
            for (int i = threadIdx.x; i < keys; i += THREADS)
                x[i] = job.taylor.scale * sv_walk_row(job.q, job.walk, group, t)[head * keys + i];
            __syncthreads();
            make_features(f, x, job.taylor, keys, features, true);
            for (int s = begin + warp; s <= t; s += WARPS) {
                const float dot = sv_warp_dot(x, sv_walk_row(job.k, job.walk, group, s) + head * keys, keys);
                match[s - begin] = job.taylor.c0 + dot * (job.taylor.c1 + dot * job.taylor.c2);
            }
            __syncthreads();
            if (warp == 0) {
                const float sum = sv_warp_dot(f, weights, features);
                float own = 0;
                for (int s = begin; s <= t; s++) own += match[s - begin];
                if (threadIdx.x == 0) total = sum + own;
            }
            __syncthreads();
            float *y = sv_walk_row(job.y, job.walk, group, t) + head * values;
            const float rate = job.taylor.normalise ? 1.0f / (total + job.taylor.eps) : 1.0f;
            for (int j = threadIdx.x; j < values; j += THREADS) {
                float sum = column_times(f, sums, features, values, j);
                for (int s = begin; s <= t; s++)
                    sum = fmaf(match[s - begin], sv_walk_row(job.v, job.walk, group, s)[head * values + j],
                               sum);
                y[j] = sum * rate;
            }
        }
        for (int t = begin; t < end; t++) {
            __syncthreads();
            copy_row(x, sv_walk_row(job.k, job.walk, group, t) + head * keys, keys);
            __syncthreads();
            make_features(f, x, job.taylor, keys, features, false);
            __syncthreads();
            const float *v = sv_walk_row(job.v, job.walk, group, t) + head * values;
            for (int i = threadIdx.x; i < features; i += THREADS) weights[i] += f[i];
            for (int i = threadIdx.x; i < features * values; i += THREADS)
                sums[i] = fmaf(f[i / values], v[i % values], sums[i]);
        }
    }
}

/* ---- MesaNet ---------------------------------------------------------------------------------------- */

/* x = A^-1 x for positive definite A (upper triangle, destroyed), by elimination without pivots. */
__device__ void solve(float *x, float *a, int n)
{
    for (int i = 0; i < n; i++) {
        __syncthreads();
        const float *pivot = a + i * n;
        const float rate = 1.0f / pivot[i];
        const int rest = n - i - 1;
        for (int at = threadIdx.x; at < rest * rest; at += THREADS) {
            const int row = i + 1 + at / rest, column = i + 1 + at % rest;
            if (column >= row)
                a[row * n + column] = fmaf(-pivot[row] * rate, pivot[column], a[row * n + column]);
        }
        for (int row = i + 1 + threadIdx.x; row < n; row += THREADS)
            x[row] = fmaf(-pivot[row] * rate, x[i], x[row]);
    }
    __syncthreads();
    if (threadIdx.x < SV_WARP)
        for (int i = n - 1; i >= 0; i--) {
            const float known = sv_warp_dot(a + i * n + i + 1, x + i + 1, n - i - 1);
            if (threadIdx.x == 0) x[i] = (x[i] - known) / a[i * n + i];
            __syncwarp();
        }
    __syncthreads();
}

__global__ void __launch_bounds__(THREADS) walk_mesa(const __grid_constant__ moments_job job)
{
    extern __shared__ float shared[];
    const int64_t group = blockIdx.x;
    const int head = blockIdx.y, keys = job.keys, values = job.values, square = keys * keys,
              block = keys * values;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    float *k = shared, *x = k + keys, *v = x + keys, *a = v + values, *room = a + square;
    float *state = sv_walk_group(job.states, group), *state_m = state + head * square,
          *state_n = state + job.heads * square + head * block;
    float *m = open_part(job, state_m, square, room), *n = open_part(job, state_n, block, room);
    for (int step = 0; step < job.walk.length; step++) {
        __syncthreads();
        copy_row(k, sv_walk_row(job.k, job.walk, group, step) + head * keys, keys);
        copy_row(x, sv_walk_row(job.q, job.walk, group, step) + head * keys, keys);
        copy_row(v, sv_walk_row(job.v, job.walk, group, step) + head * values, values);
        __syncthreads();
        const float beta = sv_walk_row(job.beta, job.walk, group, step)[head],
                    keep = expf(sv_walk_row(job.g, job.walk, group, step)[head]);
        for (int i = threadIdx.x; i < square; i += THREADS) {
            const int row = i / keys, column = i % keys;
            m[i] = fmaf(beta * k[row], k[column], keep * m[i]);
            a[i] = m[i] + (row == column ? job.lamb[head * keys + row] : 0.0f);
        }
        for (int i = threadIdx.x; i < block; i += THREADS)
            n[i] = fmaf(beta * k[i / values], v[i % values], keep * n[i]);
        solve(x, a, keys);
        float *y = sv_walk_row(job.y, job.walk, group, step) + head * values;
        for (int j = threadIdx.x; j < values; j += THREADS) y[j] = column_times(x, n, keys, values, j);
    }
    __syncthreads();
    close_part(job, state_m, m, square);
    close_part(job, state_n, n, block);
}

/* ---- attention --------------------------------------------------------------------------------------- */

struct attention_job {
    sv_tensor y, q, k, v;
    const double *since; /* [groups, heads, length]: sums of decay; NULL: none */
    sv_walk walk;
    int32_t heads, keys, values, window, stride;
    float scale;
};

/* In double: their differences are what counts. */
__global__ void sum_decays(double *sums, sv_tensor decay, sv_tensor y, sv_walk walk, int heads)
{
    const int64_t item = sv_thread(), group = item / heads;
    const int head = (int)(item % heads);
    if (group >= sv_walk_groups(y, walk)) return;
    double sum = 0;
    for (int t = 0; t < walk.length; t++)
        sums[item * walk.length + t] = sum += (double)sv_walk_row(decay, walk, group, t)[head];
}

__global__ void __launch_bounds__(THREADS) attend(const __grid_constant__ attention_job job)
{
    const int64_t item = sv_thread() / SV_WARP;
    const int lane = threadIdx.x % SV_WARP, t = (int)(item % job.walk.length),
              head = (int)(item / job.walk.length % job.heads);
    const int64_t group = item / job.walk.length / job.heads;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const double *since = job.since ? job.since + (group * job.heads + head) * job.walk.length : NULL;
    const float *q = sv_walk_row(job.q, job.walk, group, t) + head * job.keys;
    const int begin = job.window > 0 ? max(t - job.window + 1, 0) : 0;
    /* places seen: from + n stride, then t itself */
    const int from = begin + (job.stride - 1 - begin % job.stride + job.stride) % job.stride;
    const int earlier = t > from ? (t - from + job.stride - 1) / job.stride : 0;
    float most = -INFINITY, total = 0, sums[COLUMNS] = {};
    for (int first = 0; first <= earlier; first += SV_WARP) {
        const int n = first + lane, s = n < earlier ? from + n * job.stride : t;
        float score = -INFINITY;
        if (n <= earlier) {
            const float *k = sv_walk_row(job.k, job.walk, group, s) + head * job.keys;
            float dot = 0;
            for (int i = 0; i < job.keys; i++) dot = fmaf(q[i], k[i], dot);
            score = job.scale * dot + (since ? (float)(since[t] - since[s]) : 0.0f);
        }
        const float top = fmaxf(most, sv_warp_most(score)), keep = most == top ? 1.0f : expf(most - top);
        const float share = n <= earlier ? expf(score - top) : 0.0f;
        total = fmaf(total, keep, sv_warp_sum(share));
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) sums[i] *= keep;
        most = top;
        for (int other = 0; other < SV_WARP && first + other <= earlier; other++) {
            const float by = __shfl_sync(0xffffffffu, share, other);
            const int place = __shfl_sync(0xffffffffu, s, other);
            const float *v = sv_walk_row(job.v, job.walk, group, place) + head * job.values;
#pragma unroll
            for (int i = 0; i < COLUMNS; i++)
                if (lane + SV_WARP * i < job.values) sums[i] = fmaf(by, v[lane + SV_WARP * i], sums[i]);
        }
    }
    float *y = sv_walk_row(job.y, job.walk, group, t) + head * job.values;
#pragma unroll
    for (int i = 0; i < COLUMNS; i++)
        if (lane + SV_WARP * i < job.values) y[lane + SV_WARP * i] = sums[i] / total;
}

/* ---- launching ---------------------------------------------------------------------------------------- */

moments_job job_of(sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, int heads, const sv_sequence *seq)
{
    moments_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.heads = heads;
    job.keys = q.dim[1] / heads;
    job.values = y.dim[1] / heads;
    job.walk = sv_walk_of(seq);
    return job;
}

/* 'rows': floats a block works with; 'matrices': those of its part of the state. */
sv_status run_heads(sv_ctx *c, const char *op, void (*kernel)(moments_job), moments_job *job,
                    const sv_sequence *seq, int state, int rows, int matrices)
{
    const int groups = job->y.dim[0] / seq->length;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    SV_TRY(sv_cuda_walk_states(c, seq, groups, state, &job->states));
    job->held = matrices > 0 && (size_t)(rows + matrices) * sizeof(float) <= HELD_BYTES;
    const size_t bytes = (size_t)(rows + (job->held ? matrices : 0)) * sizeof(float);
    SV_CHECK(c, bytes <= HELD_BYTES, SV_UNSUPPORTED,
             "%s: heads of %d keys and %d values are too wide for a GPU", op, job->keys, job->values);
    SV_CUDA_TRY(
        c, op,
        cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    kernel<<<dim3((unsigned)groups, (unsigned)job->heads), THREADS, bytes, sv_cuda_stream(c)>>>(*job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, op);
}

} // namespace

sv_status sv_cuda_second_order_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                    const sv_second_order *rule, const sv_sequence *seq)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    moments_job job = job_of(y, q, k, v, rule->heads, seq);
    job.second = *rule;
    const int matrices = job.keys * (job.keys + 2 * job.values);
    return run_heads(c, "second_order_scan", walk_second, &job, seq, job.heads * matrices,
                     3 * job.keys + 2 * job.values, matrices);
}

sv_status sv_cuda_taylor_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                              const sv_taylor *rule, const sv_sequence *seq)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    moments_job job = job_of(y, q, k, v, rule->heads, seq);
    job.taylor = *rule;
    const int features = 1 + job.keys + job.keys * (job.keys + 1) / 2;
    return run_heads(c, "taylor_scan", walk_taylor, &job, seq, job.heads * features * (job.values + 1),
                     job.keys + features, 0);
}

sv_status sv_cuda_mesa_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor g,
                            sv_tensor beta, sv_tensor lamb, int heads, const sv_sequence *seq)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    moments_job job = job_of(y, q, k, v, heads, seq);
    job.g = g;
    job.beta = beta;
    job.lamb = (const float *)lamb.data;
    const int matrices = job.keys * (job.keys + job.values);
    return run_heads(c, "mesa_scan", walk_mesa, &job, seq, heads * matrices,
                     2 * job.keys + job.values + job.keys * job.keys, matrices);
}

sv_status sv_cuda_attention_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                 sv_tensor decay, int heads, float scale, int window, int stride,
                                 const sv_sequence *seq)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    const int groups = y.dim[0] / seq->length;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    attention_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.walk = sv_walk_of(seq);
    job.heads = heads;
    job.keys = q.dim[1] / heads;
    job.values = y.dim[1] / heads;
    job.window = window;
    job.stride = stride;
    job.scale = scale;
    SV_CHECK(c, job.values <= COLUMNS * SV_WARP, SV_UNSUPPORTED,
             "attention_scan: %d value channels of a head; at most %d", job.values, COLUMNS * SV_WARP);
    if (!sv_is_none(decay)) {
        void *sums = NULL;
        SV_TRY(sv_arena_alloc(c, &c->scratch, "decay sums", sizeof(double) * (size_t)y.dim[0] * (size_t)heads,
                              &sums));
        job.since = (const double *)sums;
        sum_decays<<<sv_cuda_blocks((int64_t)groups * heads), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(
            (double *)sums, decay, y, job.walk, heads);
    }
    attend<<<sv_cuda_blocks((int64_t)groups * seq->length * heads * SV_WARP), THREADS, 0,
             sv_cuda_stream(c)>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "attention_scan");
}
