/* SPDX-License-Identifier: Apache-2.0
 *
 * TTT-Linear on the GPU (formulas: ttt.simd.c). A head of a group is one block: mini-batches depend on each
 * other and are walked in order, with the model and one mini-batch in shared memory. Each mini-batch is
 * four phases:
 *
 *     Z = k W + b, q W + b and the weights of the gradients | gradients, a warp per token
 *     Zbar and the step of gradient descent                  | y = q + LN(Zbar), a warp per token
 */
#include "backbones/sequence.cuh"
#include "backbones/ttt_small.cuh"
#include "perception/core/launch.cuh"

namespace {

enum { TOKENS = 16, THREADS = 256, WARP = 32, WIDTH = 128 };

struct ttt_job {
    sv_tensor y, q, k, v, rate, state_in, state_out;
    const float *w, *b, *norm_weight, *norm_bias, *token, *rotary;
    const int32_t *index;
    int32_t length, heads, width, batch;
    float eps;
    bool reverse;
};

/* In dynamic shared memory, rows of 'pitch' floats. */
struct workspace {
    float *w;                           /* [width][pitch] by input rows */
    float *q, *k, *target, *z, *zq, *g; /* [TOKENS][pitch] */
    float *b, *gamma, *beta;            /* [width] */
    float *mix;                         /* [TOKENS][TOKENS] of s, t */
    float *rate, *step;                 /* [TOKENS] */
};

__device__ __forceinline__ float warp_sum(float value)
{
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

/* Mean and 1 / sqrt(variance + eps) of a row; the same in all lanes. */
__device__ __forceinline__ void moments(const float *z, int width, float eps, float *mean, float *scale)
{
    const int lane = threadIdx.x % WARP;
    float sum = 0, squares = 0;
    for (int i = lane; i < width; i += WARP) sum += z[i];
    *mean = warp_sum(sum) / (float)width;
    for (int i = lane; i < width; i += WARP) squares = fmaf(z[i] - *mean, z[i] - *mean, squares);
    *scale = 1.0f / sqrtf(warp_sum(squares) / (float)width + eps);
}

__device__ __forceinline__ void load_batch(const ttt_job &job, const workspace &m, int64_t group, int head,
                                           int first, int tokens, int pitch)
{
    const int width = job.width;
    for (int i = threadIdx.x; i < TOKENS * width; i += THREADS) {
        const int t = i / width, at = i % width, channel = head * width + at;
        int64_t row = -1;
        if (t < tokens) row = sv_row_of(job.index, sv_slot_of(group, job.length, first + t, job.reverse));
        float q = 0, k = 0, v = 0;
        if (row >= 0) {
            const float *from_q = (const float *)job.q.data + row * job.q.pitch + channel,
                        *from_k = (const float *)job.k.data + row * job.k.pitch + channel;
            q = from_q[0];
            k = from_k[0];
            if (job.rotary) { /* adjacent channels are a plane, turned by an angle */
                const int even = at & ~1, other = at % 2 ? -1 : 1;
                const float c = job.rotary[t * width + even], s = job.rotary[t * width + even + 1];
                const float side = at % 2 ? s : -s;
                q = q * c + from_q[other] * side;
                k = k * c + from_k[other] * side;
            }
            v = ((const float *)job.v.data)[row * job.v.pitch + channel];
        }
        m.q[t * pitch + at] = q;
        m.k[t * pitch + at] = k;
        m.target[t * pitch + at] = row >= 0 ? v - k : 0.0f;
        if (at == 0) {
            const float rate = row < 0 ? 0.0f : ((const float *)job.rate.data)[row * job.rate.pitch + head];
            m.rate[t] = rate;
            m.step[t] = -job.token[tokens - 1] * rate;
        }
    }
}

__global__ void __launch_bounds__(THREADS) walk(const __grid_constant__ ttt_job job)
{
    extern __shared__ float shared[];
    const int width = job.width, pitch = width + 1, head = blockIdx.y;
    const int64_t group = blockIdx.x;
    if (group >= sv_rows(job.y) / job.length) return;
    workspace m;
    m.w = shared;
    m.q = m.w + width * pitch;
    m.k = m.q + TOKENS * pitch;
    m.target = m.k + TOKENS * pitch;
    m.z = m.target + TOKENS * pitch;
    m.zq = m.z + TOKENS * pitch;
    m.g = m.zq + TOKENS * pitch;
    m.b = m.g + TOKENS * pitch;
    m.gamma = m.b + width;
    m.beta = m.gamma + width;
    m.mix = m.beta + width;
    m.rate = m.mix + TOKENS * TOKENS;
    m.step = m.rate + TOKENS;

    const int state_size = width * width + width;
    const float *w = job.w + (int64_t)head * width * width, *b = job.b + head * width;
    if (job.state_in.data) {
        w = (const float *)job.state_in.data + group * job.state_in.pitch + (int64_t)head * state_size;
        b = w + width * width;
    }
    for (int i = threadIdx.x; i < width * width; i += THREADS) m.w[i / width * pitch + i % width] = w[i];
    for (int i = threadIdx.x; i < width; i += THREADS) {
        m.b[i] = b[i];
        m.gamma[i] = job.norm_weight[head * width + i];
        m.beta[i] = job.norm_bias[head * width + i];
    }
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    for (int first = 0; first < job.length; first += job.batch) {
        const int tokens = min(job.batch, job.length - first);
        __syncthreads();
        load_batch(job, m, group, head, first, tokens, pitch);
        __syncthreads();
        for (int i = threadIdx.x; i < TOKENS * width; i += THREADS) {
            const int t = i / width, at = i % width;
            float z = m.b[at], zq = z;
            for (int j = 0; j < width; j++) {
                const float weight = m.w[j * pitch + at];
                z = fmaf(m.k[t * pitch + j], weight, z);
                zq = fmaf(m.q[t * pitch + j], weight, zq);
            }
            m.z[t * pitch + at] = z;
            m.zq[t * pitch + at] = zq;
        }
        for (int i = threadIdx.x; i < TOKENS * TOKENS; i += THREADS) {
            const int s = i / TOKENS, t = i % TOKENS;
            float sum = 1.0f;
            for (int j = 0; j < width; j++) sum = fmaf(m.q[t * pitch + j], m.k[s * pitch + j], sum);
            m.mix[i] = t < s || t >= tokens ? 0.0f : -sum * job.token[t] * m.rate[s];
        }
        __syncthreads();
        for (int t = warp; t < TOKENS; t += THREADS / WARP) {
            float mean, scale, sum = 0, along = 0;
            const float *z = m.z + t * pitch;
            moments(z, width, job.eps, &mean, &scale);
            for (int i = lane; i < width; i += WARP) {
                const float x = (z[i] - mean) * scale;
                const float d = (fmaf(x, m.gamma[i], m.beta[i]) - m.target[t * pitch + i]) * m.gamma[i];
                m.g[t * pitch + i] = d;
                sum += d;
                along = fmaf(d, x, along);
            }
            sum = warp_sum(sum) / (float)width;
            along = warp_sum(along) / (float)width;
            for (int i = lane; i < width; i += WARP) {
                const float x = (z[i] - mean) * scale;
                m.g[t * pitch + i] = (m.g[t * pitch + i] - sum - x * along) * scale;
            }
        }
        __syncthreads();
        for (int i = threadIdx.x; i < TOKENS * width; i += THREADS) {
            const int t = i / width, at = i % width;
            float sum = m.zq[t * pitch + at];
            for (int s = 0; s <= t; s++) sum = fmaf(m.mix[s * TOKENS + t], m.g[s * pitch + at], sum);
            m.zq[t * pitch + at] = sum;
        }
        for (int i = threadIdx.x; i < width * width; i += THREADS) {
            const int j = i / width, at = i % width;
            float sum = m.w[j * pitch + at];
            for (int s = 0; s < tokens; s++)
                sum = fmaf(m.step[s] * m.k[s * pitch + j], m.g[s * pitch + at], sum);
            m.w[j * pitch + at] = sum;
        }
        for (int at = threadIdx.x; at < width; at += THREADS) {
            float sum = m.b[at];
            for (int s = 0; s < tokens; s++) sum = fmaf(m.step[s], m.g[s * pitch + at], sum);
            m.b[at] = sum;
        }
        __syncthreads();
        for (int t = warp; t < tokens; t += THREADS / WARP) {
            float mean, scale;
            const float *z = m.zq + t * pitch;
            moments(z, width, job.eps, &mean, &scale);
            float *y = (float *)job.y.data +
                       sv_slot_of(group, job.length, first + t, job.reverse) * job.y.pitch + head * width;
            for (int i = lane; i < width; i += WARP)
                y[i] = m.q[t * pitch + i] + fmaf((z[i] - mean) * scale, m.gamma[i], m.beta[i]);
        }
    }
    if (!job.state_out.data) return;
    __syncthreads();
    float *out = (float *)job.state_out.data + group * job.state_out.pitch + (int64_t)head * state_size;
    for (int i = threadIdx.x; i < width * width; i += THREADS) out[i] = m.w[i / width * pitch + i % width];
    for (int i = threadIdx.x; i < width; i += THREADS) out[width * width + i] = m.b[i];
}

} // namespace

sv_status sv_cuda_ttt_linear(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor rate,
                             const sv_ttt_weights *weights, const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length;
    if (groups == 0 || y.dim[1] == 0) return SV_OK;
    const sv_tensor even[] = {q, k, v};
    if (sv_cuda_ttt_is_small(weights, y.dim[1] / weights->heads, even, 3))
        return sv_cuda_ttt_small(c, y, q, k, v, rate, weights, seq);
    ttt_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.rate = rate;
    job.state_in = seq->state_in;
    job.state_out = seq->state_out;
    job.w = (const float *)weights->w.data;
    job.b = (const float *)weights->b.data;
    job.norm_weight = (const float *)weights->norm_weight.data;
    job.norm_bias = (const float *)weights->norm_bias.data;
    job.token = (const float *)weights->token.data;
    job.rotary = (const float *)weights->rotary.data;
    job.index = (const int32_t *)seq->index.data;
    job.length = seq->length;
    job.heads = weights->heads;
    job.width = y.dim[1] / weights->heads;
    job.batch = weights->token.dim[1];
    job.eps = weights->eps;
    job.reverse = seq->reverse;
    const int pitch = job.width + 1;
    const size_t bytes = sizeof(float) * (size_t)(job.width * pitch + 6 * TOKENS * pitch + 3 * job.width +
                                                  TOKENS * TOKENS + 2 * TOKENS);
    SV_TRY(sv_cuda_reserve(c, "ttt_linear", walk, bytes));
    walk<<<dim3((unsigned)groups, (unsigned)job.heads), THREADS, bytes, sv_cuda_stream(c)>>>(job);
    return SV_CUDA_LAUNCHED(c, "ttt_linear");
}
