/* SPDX-License-Identifier: Apache-2.0
 *
 * Memories that learn while they are read, on the GPU; memory.simd.c has the formulas. Here are memories of
 * any size: a block has a head of a group, whose memory stays where the state lies (a few dozen kilobytes,
 * near the block in the caches), what it works with in scratch. Memories of the usual sizes are walked in
 * registers (memory_columns.cu, memory_train.cu).
 */
#include "backbones/memory_walk.cuh"

namespace {

enum { THREADS = 256, WARPS = THREADS / SV_WARP };

/* A head's tokens and memory. */
struct head_memory {
    const sv_memory_job *job;
    int64_t group;
    int head, width, hidden;
    const float *weight, *bias;  /* of the layer norm */
    float *w1, *b1, *w2, *b2;    /* w2 NULL: one layer */
    float *g, *low, *slope, *g1; /* [batch][width], [batch][hidden] */
    float *line[4], *wide[2];
};

__device__ __forceinline__ const float *token(const head_memory &m, const sv_tensor &t, int step)
{
    return sv_walk_row(t, m.job->walk, m.group, step) + m.head * m.width;
}
__device__ __forceinline__ float number(const head_memory &m, const sv_tensor &t, int step)
{
    return sv_walk_row(t, m.job->walk, m.group, step)[m.head];
}

/* ---- rows of a block; each ends with everyone seeing the result ---------------------------------------- */

/* out = b + factor * x W; b NULL: 0. */
__device__ void affine(float *out, const float *x, float factor, const float *w, const float *b, int from,
                       int to)
{
    for (int j = threadIdx.x; j < to; j += THREADS) {
        float sum[2] = {b ? b[j] : 0.0f, 0};
        for (int i = 0; i < from; i++) sum[i & 1] = fmaf(factor * x[i], w[(int64_t)i * to + j], sum[i & 1]);
        out[j] = sum[0] + sum[1];
    }
    __syncthreads();
}

/* Mean and deviation of a row, found by every warp for itself. */
__device__ void find_moments(const float *z, int width, float eps, float *mean, float *deviation)
{
    const int lane = threadIdx.x % SV_WARP;
    float sum = 0, squares = 0;
    for (int i = lane; i < width; i += SV_WARP) sum += z[i];
    *mean = sv_warp_sum(sum) / (float)width;
    for (int i = lane; i < width; i += SV_WARP) squares = fmaf(z[i] - *mean, z[i] - *mean, squares);
    *deviation = sqrtf(sv_warp_sum(squares) / (float)width + eps);
}

/* g = d/dz |LN(z) - (v - k)|^2 / 2; k NULL: a target of zeros. g and 'hat' are not z. */
__device__ void norm_gradient(const head_memory &m, float *g, float *hat, const float *z, const float *k,
                              const float *v)
{
    const int width = m.width;
    float mean, deviation;
    find_moments(z, width, m.job->rule.eps, &mean, &deviation);
    for (int i = threadIdx.x; i < width; i += THREADS) {
        hat[i] = (z[i] - mean) / deviation;
        g[i] = (fmaf(m.weight[i], hat[i], m.bias[i]) - (k ? v[i] - k[i] : 0.0f)) * m.weight[i];
    }
    __syncthreads();
    const int lane = threadIdx.x % SV_WARP;
    float sum = 0;
    for (int i = lane; i < width; i += SV_WARP) sum += g[i];
    sum = sv_warp_sum(sum);
    const float along = sv_warp_dot(g, hat, width);
    __syncthreads();
    for (int i = threadIdx.x; i < width; i += THREADS)
        g[i] = g[i] / deviation - (sum + along * hat[i]) / (deviation * (float)width);
    __syncthreads();
}

/* y = factor * base + LN(o) */
__device__ void norm_output(const head_memory &m, float *y, const float *base, float factor, const float *o)
{
    float mean, deviation;
    find_moments(o, m.width, m.job->rule.eps, &mean, &deviation);
    for (int i = threadIdx.x; i < m.width; i += THREADS)
        y[i] = fmaf(factor, base[i], fmaf(m.weight[i], (o[i] - mean) / deviation, m.bias[i]));
    __syncthreads();
}

/* GELU, tanh form, and its derivative (NULL: not wanted). */
__device__ void gelu(float *y, float *slope, const float *x, int count)
{
    for (int i = threadIdx.x; i < count; i += THREADS) {
        const float v = x[i], square = v * v, t = tanhf(0.79788456f * v * fmaf(0.044715f, square, 1.0f));
        y[i] = 0.5f * v * (1 + t);
        if (slope)
            slope[i] = 0.5f * v * (1 - t * t) * fmaf(0.1070322243f, square, 0.79788456f) + 0.5f * (1 + t);
    }
    __syncthreads();
}

/* ---- TTT ----------------------------------------------------------------------------------------------- */

/* Gradients of token j of the mini-batch at its start. k NULL: a token of zeros. */
__device__ void find_gradient(const head_memory &m, int j, const float *k, const float *v)
{
    const int width = m.width, hidden = m.hidden;
    float *g = m.g + j * width, *z = m.line[0];
    if (!m.w2) {
        affine(z, k, 1, m.w1, m.b1, k ? width : 0, width);
        norm_gradient(m, g, m.line[1], z, k, v);
        return;
    }
    float *low = m.low + j * hidden, *slope = m.slope + j * hidden;
    affine(m.wide[0], k, 1, m.w1, m.b1, k ? width : 0, hidden);
    gelu(low, slope, m.wide[0], hidden);
    affine(z, low, 1, m.w2, m.b2, hidden, width);
    norm_gradient(m, g, m.line[1], z, k, v);
    for (int i = threadIdx.x / SV_WARP; i < hidden; i += WARPS) {
        const float back = slope[i] * sv_warp_dot(m.w2 + (int64_t)i * width, g, width);
        if (threadIdx.x % SV_WARP == 0) m.g1[j * hidden + i] = back;
    }
    __syncthreads();
}

/* z -= eta (x.x_j + 1) g_j for the tokens j <= i; x is scaled by 'factor', x_j lies 'step' apart or is a
 * token's key. */
__device__ void step_back(const head_memory &m, float *z, const float *x, float factor, const float *rows,
                          const float *gradients, int first, int i, int from, int columns)
{
    const float row = number(m, m.job->in.row, first + i);
    for (int j = 0; j <= i; j++) {
        const float *other = rows ? rows + j * from : token(m, m.job->in.k, first + j);
        const float match = factor * sv_warp_dot(x, other, from); /* by every warp */
        const float eta = row * number(m, m.job->in.column, first + j);
        for (int at = threadIdx.x; at < columns; at += THREADS)
            z[at] = fmaf(-eta * (match + 1), gradients[j * columns + at], z[at]);
    }
    __syncthreads();
}

/* y of token i: q through the memory after the steps of the tokens up to i. */
__device__ void ask(const head_memory &m, int first, int i)
{
    const sv_memory_job &job = *m.job;
    const int width = m.width, hidden = m.hidden;
    const float *q = token(m, job.in.q, first + i);
    float *o = m.line[1], *z = m.w2 ? m.wide[0] : o;
    const int columns = m.w2 ? hidden : width;
    affine(z, q, job.rule.scale, m.w1, m.b1, width, columns);
    step_back(m, z, q, job.rule.scale, NULL, m.w2 ? m.g1 : m.g, first, i, width, columns);
    if (m.w2) {
        gelu(m.wide[1], NULL, z, hidden);
        affine(o, m.wide[1], 1, m.w2, m.b2, hidden, width);
        step_back(m, o, m.wide[1], 1, m.low, m.g, first, i, hidden, width);
    }
    float *y = sv_walk_row(job.y, job.walk, m.group, first + i) + m.head * width;
    norm_output(m, y, job.rule.query_residual ? q : o, job.rule.query_residual ? job.rule.scale : 1.0f, o);
}

/* The memory after token j's step of size eta. */
__device__ void learn(const head_memory &m, int j, float eta, const float *k)
{
    const int width = m.width, hidden = m.hidden, columns = m.w2 ? hidden : width;
    const float *g = m.g + j * width, *g1 = m.w2 ? m.g1 + j * hidden : g, *low = m.low + j * hidden;
    for (int i = threadIdx.x; k && i < width * columns; i += THREADS)
        m.w1[i] = fmaf(-eta * k[i / columns], g1[i % columns], m.w1[i]);
    for (int i = threadIdx.x; i < columns; i += THREADS) m.b1[i] = fmaf(-eta, g1[i], m.b1[i]);
    for (int i = threadIdx.x; m.w2 && i < hidden * width; i += THREADS)
        m.w2[i] = fmaf(-eta * low[i / width], g[i % width], m.w2[i]);
    for (int i = threadIdx.x; m.w2 && i < width; i += THREADS) m.b2[i] = fmaf(-eta, g[i], m.b2[i]);
}

__device__ void train(const head_memory &m)
{
    const sv_memory_job &job = *m.job;
    const int batch = job.rule.batch, length = job.walk.length;
    for (int first = 0; first < length; first += batch) {
        const int tokens = min(length - first, batch);
        for (int j = 0; j < tokens; j++)
            find_gradient(m, j, token(m, job.in.k, first + j), token(m, job.in.v, first + j));
        for (int i = 0; i < tokens; i++) ask(m, first, i);
        const float last = number(m, job.in.row, first + tokens - 1);
        const bool pads = job.rule.padded && tokens < batch;
        if (pads) find_gradient(m, tokens, NULL, NULL); /* before the memory moves */
        for (int j = 0; j < tokens; j++)
            learn(m, j, last * number(m, job.in.column, first + j), token(m, job.in.k, first + j));
        if (pads) learn(m, tokens, last * (float)(batch - tokens), NULL);
        __syncthreads();
    }
}

/* ---- Titans and MONETA, in double (see memory.simd.c) -------------------------------------------------- */

/* out = x W */
__device__ void affine_double(double *out, const float *x, const double *w, int width)
{
    for (int j = threadIdx.x; j < width; j += THREADS) {
        double sum = 0;
        for (int i = 0; i < width; i++) sum = fma((double)x[i], w[i * width + j], sum);
        out[j] = sum;
    }
    __syncthreads();
}

/* By every warp for itself. */
__device__ void find_moments_double(const double *z, int width, double eps, double *mean, double *deviation)
{
    double sum = 0, squares = 0;
    for (int i = threadIdx.x % SV_WARP; i < width; i += SV_WARP) sum += z[i];
    *mean = sv_warp_sum(sum) / width;
    for (int i = threadIdx.x % SV_WARP; i < width; i += SV_WARP) squares += (z[i] - *mean) * (z[i] - *mean);
    *deviation = sqrt(sv_warp_sum(squares) / width + eps);
}

/* The gradient as the reference has it: D g is not divided by the deviation, the other two terms are. */
__device__ void literal_gradient(const head_memory &m, double *g, double *hat, const double *z,
                                 const float *k, const float *v)
{
    const int width = m.width;
    double mean, deviation, sum = 0, along = 0;
    find_moments_double(z, width, (double)m.job->rule.eps, &mean, &deviation);
    for (int j = threadIdx.x; j < width; j += THREADS) {
        const double w = m.weight[j];
        hat[j] = (z[j] - mean) / deviation;
        g[j] = (w * hat[j] + (double)m.bias[j] - ((double)v[j] - (double)k[j])) * w;
    }
    __syncthreads();
    for (int j = threadIdx.x % SV_WARP; j < width; j += SV_WARP) {
        sum += g[j];
        along += g[j] * hat[j];
    }
    sum = sv_warp_sum(sum);
    along = sv_warp_sum(along);
    __syncthreads();
    for (int j = threadIdx.x; j < width; j += THREADS)
        g[j] = width * g[j] - (sum + along * hat[j]) / (deviation * width);
    __syncthreads();
}

__device__ void carry_momentum(const head_memory &m, float *kept_memory, float *kept_momentum, double *work)
{
    const sv_memory_job &job = *m.job;
    const int width = m.width, size = width * width;
    double *memory = work, *momentum = memory + size, *start = momentum + size, *z = start + size,
           *g = z + width, *hat = g + width, *o = hat + width;
    for (int i = threadIdx.x; i < size; i += THREADS) {
        memory[i] = (double)kept_memory[i];
        momentum[i] = (double)kept_momentum[i];
    }
    for (int step = 0; step < job.walk.length; step++) {
        __syncthreads();
        for (int i = threadIdx.x; step % job.rule.batch == 0 && i < size; i += THREADS) start[i] = memory[i];
        __syncthreads();
        const float *k = token(m, job.in.k, step);
        const double theta = number(m, job.in.row, step), keep = 1 - (double)number(m, job.in.column, step),
                     eta = number(m, job.in.third, step);
        affine_double(z, k, start, width);
        literal_gradient(m, g, hat, z, k, token(m, job.in.v, step));
        for (int i = threadIdx.x; i < size; i += THREADS) {
            momentum[i] = eta * momentum[i] - 2 * theta * (double)k[i / width] * g[i % width];
            memory[i] = keep * memory[i] + momentum[i];
        }
        __syncthreads();
        affine_double(o, token(m, job.in.q, step), memory, width);
        double mean, deviation;
        find_moments_double(o, width, (double)job.rule.eps, &mean, &deviation);
        float *y = sv_walk_row(job.y, job.walk, m.group, step) + m.head * width;
        for (int j = threadIdx.x; j < width; j += THREADS)
            y[j] = (float)(o[j] + (o[j] - mean) / deviation * (double)m.weight[j] + (double)m.bias[j]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += THREADS) {
        kept_memory[i] = (float)memory[i];
        kept_momentum[i] = (float)momentum[i];
    }
}

/* By every warp for itself. */
__device__ double squared_norm(const double *a, int count)
{
    double sum = 0;
    for (int i = threadIdx.x % SV_WARP; i < count; i += SV_WARP) sum += (a[i] * a[i]) * (a[i] * a[i]);
    return sqrt(sv_warp_sum(sum));
}

/* MONETA; W = A / |A|_4^2, and 0 for A = 0. */
__device__ void remember_norm(const head_memory &m, float *kept, double *a)
{
    const sv_memory_job &job = *m.job;
    const int width = m.width, size = width * width;
    double *e = a + size;
    for (int i = threadIdx.x; i < size; i += THREADS) a[i] = (double)kept[i];
    __syncthreads();
    double norm = squared_norm(a, size);
    for (int step = 0; step < job.walk.length; step++) {
        const float *k = token(m, job.in.k, step), *v = token(m, job.in.v, step);
        const double eta = number(m, job.in.row, step), alpha = number(m, job.in.column, step);
        affine_double(e, k, a, width);
        for (int j = threadIdx.x; j < width; j += THREADS) {
            const double error = (norm > 0 ? e[j] / norm : 0) - (double)v[j];
            e[j] = error * (3 * fabs(error));
        }
        __syncthreads();
        for (int i = threadIdx.x; i < size; i += THREADS)
            a[i] = alpha * a[i] - eta * (double)k[i / width] * e[i % width];
        __syncthreads();
        norm = squared_norm(a, size);
        affine_double(e, token(m, job.in.q, step), a, width);
        float *y = sv_walk_row(job.y, job.walk, m.group, step) + m.head * width;
        for (int j = threadIdx.x; j < width; j += THREADS) y[j] = (float)(norm > 0 ? e[j] / norm : 0);
        __syncthreads();
    }
    for (int i = threadIdx.x; i < size; i += THREADS) kept[i] = (float)a[i];
}

/* ---- YAAD and MEMORA ----------------------------------------------------------------------------------- */

/* Logarithms of shares: sums of e^x over keys become 1. 'y' receives sum_i e^x_i q_i. */
__device__ void normalise_shares(float *w, const float *q, float *y, int width)
{
    for (int j = threadIdx.x; j < width; j += THREADS) {
        float most = w[j], sum = 0, out = 0;
        for (int i = 1; i < width; i++) most = fmaxf(most, w[i * width + j]);
        for (int i = 0; i < width; i++) {
            const float e = expf(w[i * width + j] - most);
            sum += e;
            out = fmaf(q[i], e, out);
        }
        const float shift = most + logf(sum);
        for (int i = 0; i < width; i++) w[i * width + j] -= shift;
        y[j] = out / sum;
    }
    __syncthreads();
}

__device__ void remember(const head_memory &m, float *w)
{
    const sv_memory_job &job = *m.job;
    const bool huber = job.rule.kind == SV_MEMORY_HUBER;
    const int width = m.width;
    float *e = m.line[0];
    for (int step = 0; step < job.walk.length; step++) {
        const float *k = token(m, job.in.k, step), *q = token(m, job.in.q, step),
                    *v = token(m, job.in.v, step);
        const float eta = number(m, job.in.row, step), alpha = number(m, job.in.column, step);
        if (huber)
            affine(e, k, 1, w, NULL, width, width);
        else
            normalise_shares(w, k, e, width);
        for (int j = threadIdx.x; j < width; j += THREADS) e[j] -= v[j];
        __syncthreads();
        if (huber) { /* an error that is long is limited */
            const float delta = number(m, job.in.third, step), length = sqrtf(sv_warp_dot(e, e, width));
            __syncthreads();
            for (int j = threadIdx.x; length > delta && j < width; j += THREADS)
                e[j] = delta * (e[j] > 0 ? 1.0f : e[j] < 0 ? -1.0f : 0.0f);
            __syncthreads();
        }
        for (int i = threadIdx.x; i < width * width; i += THREADS)
            w[i] = fmaf(-eta * k[i / width], e[i % width], alpha * w[i]);
        __syncthreads();
        float *y = sv_walk_row(job.y, job.walk, m.group, step) + m.head * width;
        if (huber)
            affine(y, q, 1, w, NULL, width, width);
        else
            normalise_shares(w, q, y, width);
    }
}

/* ---- one head ------------------------------------------------------------------------------------------ */

/* Numbers of working memory that lie in front as doubles. */
__host__ __device__ int64_t working_doubles(const sv_memory &rule, int64_t width)
{
    return rule.kind == SV_MEMORY_MOMENTUM ? 3 * width * width + 4 * width
           : rule.kind == SV_MEMORY_NORM   ? width * width + width
                                           : 0;
}

__global__ void __launch_bounds__(THREADS) run_head(const __grid_constant__ sv_memory_job job)
{
    const sv_memory &rule = job.rule;
    const int64_t width = job.width, heads = rule.heads, group = blockIdx.x, at = blockIdx.y;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    head_memory m = {};
    m.job = &job;
    m.group = group;
    m.head = (int)at;
    m.width = job.width;
    m.hidden = rule.kind == SV_MEMORY_MLP ? rule.hidden : 0;
    const int64_t hidden = m.hidden;
    if (rule.kind <= SV_MEMORY_MOMENTUM) {
        m.weight = (const float *)job.in.norm_weight.data + at * width;
        m.bias = (const float *)job.in.norm_bias.data + at * width;
    }
    float *state = sv_walk_group(job.states, group),
          *work = job.work + (group * heads + at) * job.work_floats;
    double *const precise = (double *)work;
    work += 2 * working_doubles(rule, width);
    for (int i = 0; i < 4; i++, work += width) m.line[i] = work;
    m.g = work;
    work += rule.batch * width;
    for (int i = 0; i < 2; i++, work += hidden) m.wide[i] = work;
    m.low = work;
    m.slope = m.low + rule.batch * hidden;
    m.g1 = m.slope + rule.batch * hidden;
    switch (rule.kind) {
    case SV_MEMORY_GRADIENT:
        m.w1 = state + at * width * width;
        m.b1 = state + heads * width * width + at * width;
        train(m);
        break;
    case SV_MEMORY_MLP:
        m.w1 = state + at * width * hidden;
        state += heads * width * hidden;
        m.b1 = state + at * hidden;
        state += heads * hidden;
        m.w2 = state + at * hidden * width;
        state += heads * hidden * width;
        m.b2 = state + at * width;
        train(m);
        break;
    case SV_MEMORY_MOMENTUM:
        carry_momentum(m, state + at * width * width, state + (heads + at) * width * width, precise);
        break;
    case SV_MEMORY_NORM:
        remember_norm(m, state + at * width * width, precise);
        break;
    default:
        remember(m, state + at * width * width);
    }
}

} // namespace

sv_status sv_cuda_memory_scan(sv_ctx *c, sv_tensor y, const sv_memory_inputs *in, const sv_memory *rule,
                              const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length;
    if (groups == 0 || y.dim[1] == 0) return SV_OK;
    const int64_t width = y.dim[1] / rule->heads, hidden = rule->kind == SV_MEMORY_MLP ? rule->hidden : 0;
    const int64_t parts[] = {width * width + width, 2 * width * hidden + hidden + width, 2 * width * width};
    const int64_t state =
        rule->heads * (rule->kind <= SV_MEMORY_MOMENTUM ? parts[rule->kind] : width * width);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_memory_job job = {};
    job.y = y;
    job.in = *in;
    job.rule = *rule;
    job.walk = sv_walk_of(seq);
    job.width = (int32_t)width;
    job.work_floats = (2 * working_doubles(*rule, width) + (rule->batch + 4) * width +
                       (3 * rule->batch + 2) * hidden + 15) /
                      16 * 16;
    SV_TRY(sv_cuda_walk_states(c, seq, groups, (int)state, &job.states));
    if (width <= SV_MEMORY_WIDTH && hidden <= SV_MEMORY_HIDDEN && rule->batch <= SV_MEMORY_TOKENS) {
        const cudaStream_t stream = sv_cuda_stream(c);
        const bool trains = rule->kind == SV_MEMORY_GRADIENT || rule->kind == SV_MEMORY_MLP;
        const sv_status status = trains ? sv_cuda_memory_train(c, &job, groups, stream)
                                        : sv_cuda_memory_columns(c, &job, groups, stream);
        sv_arena_rewind(&c->scratch, mark);
        return status;
    }
    void *work = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "memory work",
                          sizeof(float) * (size_t)job.work_floats * (size_t)groups * (size_t)rule->heads,
                          &work));
    job.work = (float *)work;
    run_head<<<dim3((unsigned)groups, (unsigned)rule->heads), THREADS, 0, sv_cuda_stream(c)>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "memory_scan");
}
