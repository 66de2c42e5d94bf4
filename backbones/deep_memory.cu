/* SPDX-License-Identifier: Apache-2.0
 *
 * Deep memories on the GPU, in double as on the CPU; deep_memory.simd.c has the formulas and the reason. A block has a
 * head of a group, whose memory lies in scratch while it is walked.
 */
#include "backbones/deep_memory_kernels.h"
#include "backbones/deep_memory_walk.cuh"

namespace {

enum { THREADS = 256, WARPS = THREADS / SV_WARP };

/* A head of a group. */
struct head_of {
    const sv_deep_walk_job *job;
    int64_t group;
    int head;
    double *parts; /* [THREADS] shared: of sums that several threads make */
};

__device__ __forceinline__ float *token(const head_of &h, const sv_tensor &t, int step)
{
    return sv_walk_row(t, h.job->walk, h.group, step) + h.head * h.job->width;
}
__device__ __forceinline__ double number(const head_of &h, const sv_tensor &t, int step)
{
    return (double)sv_walk_row(t, h.job->walk, h.group, step)[h.head];
}

/* ---- rows of a block; each ends with everyone seeing the result ------------------------------------------ */

__device__ void widen(double *to, const float *from, int64_t count)
{
    for (int64_t i = threadIdx.x; i < count; i += THREADS) to[i] = (double)from[i];
    __syncthreads();
}
__device__ void narrow(float *to, const double *from, int64_t count)
{
    for (int64_t i = threadIdx.x; i < count; i += THREADS) to[i] = (float)from[i];
    __syncthreads();
}

/* out = x'W, W [from,to]; where 'to' is small, several threads share a sum. */
__device__ void product(const head_of &h, double *out, const double *x, const double *w, int from, int to)
{
    const int ways = to >= THREADS ? 1 : THREADS / to, way = threadIdx.x / to;
    if (ways == 1) {
        for (int j = threadIdx.x; j < to; j += THREADS) {
            double sum = 0;
            for (int i = 0; i < from; i++) sum += x[i] * w[(int64_t)i * to + j];
            out[j] = sum;
        }
    } else {
        double sum = 0;
        for (int i = way; way < ways && i < from; i += ways)
            sum += x[i] * w[(int64_t)i * to + threadIdx.x % to];
        h.parts[threadIdx.x] = sum;
        __syncthreads();
        for (int j = threadIdx.x; j < to; j += THREADS) {
            sum = 0;
            for (int i = 0; i < ways; i++) sum += h.parts[i * to + j];
            out[j] = sum;
        }
    }
    __syncthreads();
}

/* ---- Titans' perceptron ---------------------------------------------------------------------------------- */

/* GELU, tanh form, and its derivative. */
__device__ void gelu(double *a, double *slope, int count)
{
    for (int i = threadIdx.x; i < count; i += THREADS) {
        const double x = a[i], t = tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
        slope[i] = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
        a[i] = 0.5 * x * (1 + t);
    }
    __syncthreads();
}

/* M = keep M + S after S = eta S + by x g' */
__device__ void carry(double *m, double *s, double eta, double keep, double by, const double *x,
                      const double *g, int from, int to)
{
    for (int64_t i = threadIdx.x; i < (int64_t)from * to; i += THREADS) {
        s[i] = eta * s[i] + by * x[i / to] * g[i % to];
        m[i] = keep * m[i] + s[i];
    }
    __syncthreads();
}

__device__ void walk_perceptron(const head_of &h, double *work)
{
    const sv_deep_walk_job &job = *h.job;
    const int width = job.width, hidden = job.rule.hidden, heads = job.rule.heads;
    const int64_t size = (int64_t)width * hidden;
    double *memory = work, *start = memory + 4 * size, *a = start + 2 * size, *slope = a + hidden,
           *g = slope + hidden, *x = g + hidden, *e = x + width;
    for (int i = 0; i < 4; i++)
        widen(memory + i * size, sv_walk_group(job.before, h.group) + ((int64_t)i * heads + h.head) * size,
              size);
    for (int step = 0; step < job.walk.length; step++) {
        if (step % job.rule.batch == 0)
            for (int64_t i = threadIdx.x; i < 2 * size; i += THREADS) start[i] = memory[i];
        const double theta = number(h, job.in.theta, step), keep = 1 - number(h, job.in.alpha, step),
                     eta = number(h, job.in.eta, step);
        const float *v = token(h, job.in.v, step);
        widen(x, token(h, job.in.k, step), width);
        product(h, a, x, start, width, hidden);
        gelu(a, slope, hidden);
        product(h, e, a, start + size, hidden, width);
        for (int j = threadIdx.x; j < width; j += THREADS) e[j] -= (double)v[j];
        __syncthreads();
        for (int i = threadIdx.x / SV_WARP; i < hidden; i += WARPS) {
            double sum = 0;
            for (int j = threadIdx.x % SV_WARP; j < width; j += SV_WARP)
                sum += start[size + (int64_t)i * width + j] * e[j];
            sum = sv_warp_sum(sum);
            if (threadIdx.x % SV_WARP == 0) g[i] = sum * slope[i];
        }
        __syncthreads();
        carry(memory, memory + 2 * size, eta, keep, -theta, x, g, width, hidden);
        carry(memory + size, memory + 3 * size, eta, keep, -theta, a, e, hidden, width);
        widen(x, token(h, job.in.q, step), width);
        product(h, a, x, memory, width, hidden);
        gelu(a, slope, hidden);
        product(h, e, a, memory + size, hidden, width);
        narrow(token(h, job.y, step), e, width);
    }
    for (int i = 0; i < 4 && job.after.data; i++)
        narrow(sv_walk_group(job.after, h.group) + ((int64_t)i * heads + h.head) * size, memory + i * size,
               size);
}

/* ---- ATLAS ----------------------------------------------------------------------------------------------- */

/* 1, x_i, then x_i x_j with i <= j. */
__device__ void monomials(double *phi, const float *x, int width)
{
    for (int i = threadIdx.x; i < width * (width + 1); i += THREADS) {
        const int row = i / (width + 1), column = i % (width + 1); /* the last column: x_row itself */
        if (column == width)
            phi[1 + row] = (double)x[row];
        else if (column >= row)
            phi[1 + width + row * width - row * (row - 1) / 2 + column - row] =
                (double)x[row] * (double)x[column];
    }
    if (threadIdx.x == 0) phi[0] = 1;
    __syncthreads();
}

/* Five Newton-Schulz steps, coefficients of Jordan et al. (2024); 'other' is as large as x. The result is in x. */
__device__ void orthogonalise(double *x, double *other, double *gram, int rows, int width)
{
    const double a = 3.4445, b = -4.7750, c = 2.0315;
    double *square = gram + width * width;
    for (int turn = 0; turn < 5; turn++) {
        for (int i = threadIdx.x; i < width * width; i += THREADS) {
            double sum = 0;
            for (int r = 0; r < rows; r++)
                sum += x[(int64_t)r * width + i / width] * x[(int64_t)r * width + i % width];
            gram[i] = sum;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < width * width; i += THREADS) {
            double sum = 0;
            for (int j = 0; j < width; j++) sum += gram[i / width * width + j] * gram[j * width + i % width];
            square[i] = b * gram[i] + c * sum;
        }
        __syncthreads();
        for (int64_t i = threadIdx.x; i < (int64_t)rows * width; i += THREADS) {
            double sum = a * x[i];
            for (int j = 0; j < width; j++) sum += x[i / width * width + j] * square[j * width + i % width];
            other[i] = sum;
        }
        __syncthreads();
        for (int64_t i = threadIdx.x; i < (int64_t)rows * width; i += THREADS) x[i] = other[i];
        __syncthreads();
    }
}

/* The last tokens of a head, as monomials, values and gates; entry t % batch is that of step t. */
struct window {
    double *phi, *v, *gamma;
    int features, width, batch;
};

__device__ void remember(const window &w, int at, const float *k, const float *v, double gamma)
{
    monomials(w.phi + (int64_t)at * w.features, k, w.width);
    if (threadIdx.x == 0) w.gamma[at] = gamma;
    widen(w.v + (int64_t)at * w.width, v, w.width);
}

/* s = theta s + the gradient of the window's loss at m */
__device__ void learn(const head_of &h, const window &w, double *s, const double *m, double theta, int step,
                      double *e)
{
    const int64_t size = (int64_t)w.features * w.width;
    for (int64_t i = threadIdx.x; i < size; i += THREADS) s[i] *= theta;
    __syncthreads();
    for (int back = w.batch - 1; back >= 0; back--) {
        const int at = (step - back + w.batch) % w.batch;
        const double gamma = w.gamma[at], *phi = w.phi + (int64_t)at * w.features;
        if (gamma == 0) continue; /* all threads alike */
        product(h, e, phi, m, w.features, w.width);
        for (int64_t i = threadIdx.x; i < size; i += THREADS) {
            const int j = (int)(i % w.width);
            s[i] += phi[i / w.width] * (gamma * (e[j] - w.v[(int64_t)at * w.width + j]));
        }
        __syncthreads();
    }
}

__device__ double norm_of(const head_of &h, const double *s, int64_t size)
{
    double sum = 0;
    for (int64_t i = threadIdx.x; i < size; i += THREADS) sum += s[i] * s[i];
    sum = sv_warp_sum(sum);
    if (threadIdx.x % SV_WARP == 0) h.parts[threadIdx.x / SV_WARP] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < WARPS; i++) sum += h.parts[i];
    __syncthreads();
    return sqrt(sum);
}

/* Where a head's parts of the state lie. */
struct omega_state {
    float *memory, *momentum, *k, *v, *gamma;
};
__device__ omega_state state_of(const head_of &h, const sv_tensor &states, int features)
{
    const int width = h.job->width, heads = h.job->rule.heads, kept = h.job->rule.batch - 1;
    const int64_t size = (int64_t)features * width;
    float *state = sv_walk_group(states, h.group), *rows = state + 2 * heads * size;
    return {state + h.head * size, state + (heads + h.head) * size, rows + (int64_t)h.head * kept * width,
            rows + (int64_t)(heads + h.head) * kept * width,
            rows + 2 * (int64_t)heads * kept * width + (int64_t)h.head * kept};
}

/* What of the state before and of this walk the next one's window begins with. */
__device__ void keep_window(const head_of &h, const omega_state &before, const omega_state &after)
{
    const sv_deep_walk_job &job = *h.job;
    const int kept = job.rule.batch - 1, width = job.width, length = job.walk.length;
    for (int i = threadIdx.x; i < kept * width; i += THREADS) {
        const int step = length - kept + i / width, at = i % width;
        const int64_t row = (int64_t)(kept + step) * width + at; /* of the state, where the walk is short */
        after.k[i] = step < 0 ? before.k[row] : token(h, job.in.k, step)[at];
        after.v[i] = step < 0 ? before.v[row] : token(h, job.in.v, step)[at];
    }
    for (int i = threadIdx.x; i < kept; i += THREADS) {
        const int step = length - kept + i;
        after.gamma[i] = step < 0 ? before.gamma[kept + step] : (float)number(h, job.in.gamma, step);
    }
}

__device__ void walk_omega(const head_of &h, double *work)
{
    const sv_deep_walk_job &job = *h.job;
    const int width = job.width, batch = job.rule.batch, kept = batch - 1,
              features = 1 + width + width * (width + 1) / 2;
    const int64_t size = (int64_t)features * width;
    double *m = work, *s = m + size, *x = s + size, *other = x + size, *gram = other + size,
           *phi = gram + 2 * width * width, *e = phi + features;
    window w = {e + width, NULL, NULL, features, width, batch};
    w.v = w.phi + (int64_t)batch * features, w.gamma = w.v + (int64_t)batch * width;
    const omega_state state = state_of(h, job.before, features);
    widen(m, state.memory, size);
    widen(s, state.momentum, size);
    if (threadIdx.x == 0) w.gamma[batch - 1] = 0;
    for (int i = 0; i < kept; i++) /* steps -kept .. -1 */
        remember(w, (batch + i - kept) % batch, state.k + (int64_t)i * width, state.v + (int64_t)i * width,
                 (double)state.gamma[i]);
    for (int step = 0; step < job.walk.length; step++) {
        remember(w, step % batch, token(h, job.in.k, step), token(h, job.in.v, step),
                 number(h, job.in.gamma, step));
        learn(h, w, s, m, number(h, job.in.theta, step), step, e);
        const double norm = norm_of(h, s, size), by = norm > 0 ? 1 / norm : 0,
                     eta = number(h, job.in.eta, step), keep = 1 - number(h, job.in.alpha, step);
        for (int64_t i = threadIdx.x; i < size; i += THREADS) x[i] = by * s[i];
        __syncthreads();
        orthogonalise(x, other, gram, features, width);
        for (int64_t i = threadIdx.x; i < size; i += THREADS) m[i] = keep * m[i] - eta * x[i];
        monomials(phi, token(h, job.in.q, step), width);
        product(h, e, phi, m, features, width);
        narrow(token(h, job.y, step), e, width);
    }
    if (!job.after.data) return;
    const omega_state after = state_of(h, job.after, features);
    narrow(after.memory, m, size);
    narrow(after.momentum, s, size);
    keep_window(h, state, after);
}

__global__ void __launch_bounds__(THREADS) walk_memory(const __grid_constant__ sv_deep_walk_job job)
{
    __shared__ double parts[THREADS];
    const head_of h = {&job, blockIdx.x / job.rule.heads, (int)(blockIdx.x % job.rule.heads), parts};
    if (h.group >= sv_walk_groups(job.y, job.walk)) return;
    double *work = job.work + blockIdx.x * job.work_doubles;
    if (job.rule.kind == SV_DEEP_PERCEPTRON)
        walk_perceptron(h, work);
    else
        walk_omega(h, work);
}

} // namespace

sv_status sv_cuda_deep_memory_scan(sv_ctx *c, sv_tensor y, const sv_deep_inputs *in,
                                   const sv_deep_memory *rule, const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length, heads = rule->heads, width = y.dim[1] / heads;
    const bool omega = rule->kind == SV_DEEP_OMEGA;
    const int64_t memory = omega ? sv_deep_monomials(width) * width : 2 * (int64_t)width * rule->hidden,
                  state = 2 * memory + (omega ? (rule->batch - 1) * (2 * (int64_t)width + 1) : 0);
    if (groups == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_deep_walk_job job = {};
    job.y = y;
    job.in = *in;
    job.rule = *rule;
    job.walk = sv_walk_of(seq);
    job.width = width;
    job.work_doubles = sv_deep_work(rule, width) + (omega ? memory : 0);
    job.after = seq->state_out;
    SV_TRY(sv_cuda_walk_before(c, seq, groups, (int)(heads * state), &job.before));
    const bool narrow = sv_cuda_deep_window_fits(rule, width);
    if (narrow || sv_cuda_deep_fits(rule, width)) {
        const sv_status status = narrow ? sv_cuda_deep_window(c, &job, groups, sv_cuda_stream(c))
                                        : sv_cuda_deep_chunks(c, &job, groups, sv_cuda_stream(c));
        sv_arena_rewind(&c->scratch, mark);
        return status;
    }
    SV_TRY(sv_arena_alloc(c, &c->scratch, "deep memory work",
                          sizeof(double) * (size_t)(groups * heads * job.work_doubles), (void **)&job.work));
    walk_memory<<<(unsigned)(groups * heads), THREADS, 0, sv_cuda_stream(c)>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "deep_memory_scan");
}
