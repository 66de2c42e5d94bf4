/* SPDX-License-Identifier: Apache-2.0
 *
 * TTT on the GPU, for mini-batches of up to 16 tokens and heads of up to 32 channels (and up to 128 inside a
 * perceptron); memory.simd.c has the formulas. A block has a head of a group and walks the mini-batches,
 * whose tokens come while the one before is worked on. Rows and matrices are filled up with zeros; missing
 * tokens have zeros for rows and no step, but with 'padded' a step, as the reference has it that pads.
 *
 *     linear       threads 0..127: Z = k W + b, gradients | W, b
 *                  threads 128..:  q W + b, the weights of the gradients | o, y
 *     perceptron   k W1, q W1, low W2, gradients g, g1 | q W1 - ..., W1 | active W2, the weights of g |
 *                  o, y, W2
 */
#include "backbones/memory_batch.cuh"
#include "perception/core/launch.cuh"

namespace {

/* ---- a linear memory ----------------------------------------------------------------------------------- */

struct linear_memory {
    batch_rows rows[2];
    float w[WIDTH][WIDTH], g[TOKENS][PITCH], mix[TOKENS][TOKENS + 1], b[WIDTH];
};

/* W and b after the mini-batch: eight numbers of a row of W a thread, of the first half of them. */
__device__ __forceinline__ void learn_linear(linear_memory *m, const batch_rows &now)
{
    const int row = threadIdx.x / 4, column = threadIdx.x % 4 * 8;
    float w[2][4];
    load4(w[0], &m->w[row][column]);
    load4(w[1], &m->w[row][column + 4]);
#pragma unroll 4
    for (int t = 0; t < TOKENS; t++) {
        const float by = now.step[t] * now.k[t][row];
        add4(w[0], by, &m->g[t][column]);
        add4(w[1], by, &m->g[t][column + 4]);
    }
    *(float4 *)&m->w[row][column] = *(const float4 *)w[0];
    *(float4 *)&m->w[row][column + 4] = *(const float4 *)w[1];
    if (threadIdx.x >= WIDTH) return;
    float b = m->b[threadIdx.x];
#pragma unroll 4
    for (int t = 0; t < TOKENS; t++) b = fmaf(now.step[t], m->g[t][threadIdx.x], b);
    m->b[threadIdx.x] = b;
}

__global__ void __launch_bounds__(THREADS) train_linear(const __grid_constant__ sv_memory_job job)
{
    __shared__ __align__(16) linear_memory shared;
    linear_memory *m = &shared;
    const place p = {blockIdx.x, (int)blockIdx.y};
    const int width = job.width;
    if (p.group >= sv_walk_groups(job.y, job.walk)) return;
    float *state = sv_walk_group(job.states, p.group), *w = state + (int64_t)p.head * width * width,
          *b = state + (int64_t)job.rule.heads * width * width + p.head * width;
    load_matrix<WIDTH, WIDTH, WIDTH>(m->w[0], w, width, width);
    load_matrix<1, WIDTH, WIDTH>(m->b, b, 1, width);
    const bool asks = threadIdx.x >= HALF;
    const int own = threadIdx.x % HALF, t = own / 8, first = own % 8 * 4;
    row_norm norm;
    norm.begin(job, p.head, first);
    next_rows next;
    next.fetch(job, p, 0);
    next.put(&m->rows[0], job.rule.scale);
    __syncthreads();
    for (int begin = 0, turn = 0; begin < job.walk.length; begin += job.rule.batch, turn ^= 1) {
        const batch_rows &now = m->rows[turn];
        next.fetch(job, p, begin + job.rule.batch);
        float z[4];
        load4(z, &m->b[first]);
        const float *x = asks ? now.q[t] : now.k[t];
#pragma unroll 4
        for (int i = 0; i < WIDTH; i += 4) {
            float four[4];
            load4(four, x + i);
#pragma unroll
            for (int n = 0; n < 4; n++) add4(z, four[n], &m->w[i + n][first]);
        }
        if (asks) {
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const int s = own % 8 * 2 + n;
                m->mix[t][s] = weight_of(now, t, s, dot(now.q[t], now.k[s], WIDTH));
            }
        } else {
            norm.differentiate(z, &now.target[t][first]);
            *(float4 *)&m->g[t][first] = *(const float4 *)z;
        }
        __syncthreads();
        if (asks) {
#pragma unroll 4
            for (int s = 0; s < TOKENS; s++) add4(z, m->mix[t][s], &m->g[s][first]);
            write_result(job, p, t < job.rule.batch ? begin + t : job.walk.length, first, norm, z, now.q[t]);
        } else {
            learn_linear(m, now);
        }
        next.put(&m->rows[turn ^ 1], job.rule.scale);
        __syncthreads();
    }
    store_matrix<WIDTH>(w, m->w[0], width, width);
    store_matrix<WIDTH>(b, m->b, 1, width);
}

/* ---- a perceptron -------------------------------------------------------------------------------------- */

struct perceptron {
    batch_rows rows[2];
    float w1[WIDTH][HIDDEN], w2[HIDDEN][PITCH];
    float low[TOKENS][WIDE], active[TOKENS][WIDE],
        g1[TOKENS][WIDE]; /* of the keys; of the queries; gradients */
    float g[TOKENS][PITCH], mix[TOKENS][TOKENS + 1], b1[HIDDEN], b2[WIDTH];
};

/* Two tokens of a warp, and of them the channels lane, lane + 32 ... inside. */
enum { EACH = 2, PARTS = HIDDEN / SV_WARP, QUARTER = HIDDEN / 4 };

/* GELU, tanh form, and its derivative. */
__device__ __forceinline__ float gelu(float x, float *slope)
{
    const float square = x * x, t = tanhf(0.79788456f * x * fmaf(0.044715f, square, 1.0f));
    *slope = 0.5f * x * (1 - t * t) * fmaf(0.1070322243f, square, 0.79788456f) + 0.5f * (1 + t);
    return 0.5f * x * (1 + t);
}

/* b2 + x W2 of this warp's tokens: four channels in each of eight lanes, which the quarters of the sum end in
 * all. */
__device__ __forceinline__ void leave(const perceptron *m, const float (&x)[TOKENS][WIDE], int t,
                                      float (&z)[EACH][4])
{
    const int lane = threadIdx.x % SV_WARP, first = lane % 8 * 4, begin = lane / 8 * QUARTER;
#pragma unroll
    for (int e = 0; e < EACH; e++)
#pragma unroll
        for (int n = 0; n < 4; n++) z[e][n] = 0;
#pragma unroll 2
    for (int i = begin; i < begin + QUARTER; i += 4) {
        float a[EACH][4];
#pragma unroll
        for (int e = 0; e < EACH; e++) load4(a[e], &x[t + e][i]);
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int e = 0; e < EACH; e++) add4(z[e], a[e][n], &m->w2[i + n][first]);
    }
#pragma unroll
    for (int e = 0; e < EACH; e++)
#pragma unroll
        for (int n = 0; n < 4; n++) {
            z[e][n] += __shfl_xor_sync(0xffffffffu, z[e][n], 8);
            z[e][n] += __shfl_xor_sync(0xffffffffu, z[e][n], 16);
            z[e][n] += m->b2[first + n];
        }
}

/* W1 and b1 after the mini-batch: four rows a warp. */
__device__ __forceinline__ void learn_first(perceptron *m, const batch_rows &now)
{
    const int lane = threadIdx.x % SV_WARP, row = threadIdx.x / SV_WARP * 4;
    float w[PARTS][4];
#pragma unroll
    for (int i = 0; i < PARTS; i++)
#pragma unroll
        for (int n = 0; n < 4; n++) w[i][n] = m->w1[row + n][lane + i * SV_WARP];
#pragma unroll 4
    for (int t = 0; t < TOKENS; t++) {
        float k[4];
        load4(k, &now.k[t][row]);
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const float g = now.step[t] * m->g1[t][lane + i * SV_WARP];
#pragma unroll
            for (int n = 0; n < 4; n++) w[i][n] = fmaf(k[n], g, w[i][n]);
        }
    }
#pragma unroll
    for (int i = 0; i < PARTS; i++)
#pragma unroll
        for (int n = 0; n < 4; n++) m->w1[row + n][lane + i * SV_WARP] = w[i][n];
    if (threadIdx.x >= HIDDEN) return;
    float b = m->b1[threadIdx.x];
    for (int t = 0; t < TOKENS; t++) b = fmaf(now.step[t], m->g1[t][threadIdx.x], b);
    m->b1[threadIdx.x] = b;
}

/* W2 and b2: a column a lane, 16 rows a warp. */
__device__ __forceinline__ void learn_second(perceptron *m, const batch_rows &now)
{
    enum { ROWS = HIDDEN / (THREADS / SV_WARP) };
    const int lane = threadIdx.x % SV_WARP, row = threadIdx.x / SV_WARP * ROWS;
    float w[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; i++) w[i] = m->w2[row + i][lane];
#pragma unroll 4
    for (int t = 0; t < TOKENS; t++) {
        const float g = now.step[t] * m->g[t][lane];
#pragma unroll
        for (int i = 0; i < ROWS; i += 4) {
            float low[4];
            load4(low, &m->low[t][row + i]);
#pragma unroll
            for (int n = 0; n < 4; n++) w[i + n] = fmaf(low[n], g, w[i + n]);
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) m->w2[row + i][lane] = w[i];
    if (threadIdx.x >= WIDTH) return;
    float b = m->b2[threadIdx.x];
    for (int t = 0; t < TOKENS; t++) b = fmaf(now.step[t], m->g[t][threadIdx.x], b);
    m->b2[threadIdx.x] = b;
}

/* k W1 + b1 and q W1 + b1 of this warp's tokens. */
__device__ __forceinline__ void enter(const perceptron *m, const batch_rows &now, int t,
                                      float (&of_k)[EACH][PARTS], float (&of_q)[EACH][PARTS])
{
    const int lane = threadIdx.x % SV_WARP;
#pragma unroll
    for (int i = 0; i < PARTS; i++)
#pragma unroll
        for (int e = 0; e < EACH; e++) of_k[e][i] = of_q[e][i] = m->b1[lane + i * SV_WARP];
#pragma unroll 2
    for (int j = 0; j < WIDTH; j += 4) {
        float k[EACH][4], q[EACH][4];
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            load4(k[e], &now.k[t + e][j]);
            load4(q[e], &now.q[t + e][j]);
        }
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int i = 0; i < PARTS; i++) {
                const float w = m->w1[j + n][lane + i * SV_WARP];
#pragma unroll
                for (int e = 0; e < EACH; e++) {
                    of_k[e][i] = fmaf(k[e][n], w, of_k[e][i]);
                    of_q[e][i] = fmaf(q[e][n], w, of_q[e][i]);
                }
            }
    }
}

/* g1 = slope (W2 g) of this warp's tokens */
__device__ __forceinline__ void go_back(perceptron *m, int t, const float (&slope)[EACH][PARTS])
{
    const int lane = threadIdx.x % SV_WARP;
#pragma unroll
    for (int i = 0; i < PARTS; i++)
#pragma unroll
        for (int e = 0; e < EACH; e++)
            m->g1[t + e][lane + i * SV_WARP] =
                slope[e][i] * dot(m->g[t + e], m->w2[lane + i * SV_WARP], WIDTH);
}

__global__ void __launch_bounds__(THREADS) train_perceptron(const __grid_constant__ sv_memory_job job)
{
    extern __shared__ float4 shared[];
    perceptron *m = (perceptron *)shared;
    const place p = {blockIdx.x, (int)blockIdx.y};
    const int width = job.width, hidden = job.rule.hidden, heads = job.rule.heads,
              lane = threadIdx.x % SV_WARP, t = threadIdx.x / SV_WARP * EACH, first = lane % 8 * 4;
    if (p.group >= sv_walk_groups(job.y, job.walk)) return;
    const int64_t size = (int64_t)width * hidden;
    float *w1 = sv_walk_group(job.states, p.group) + p.head * size,
          *b1 = w1 + (heads - p.head) * size + (int64_t)p.head * hidden,
          *w2 = b1 + (int64_t)(heads - p.head) * hidden + p.head * size,
          *b2 = w2 + (heads - p.head) * size + (int64_t)p.head * width;
    load_matrix<WIDTH, HIDDEN, HIDDEN>(m->w1[0], w1, width, hidden);
    load_matrix<1, HIDDEN, HIDDEN>(m->b1, b1, 1, hidden);
    load_matrix<HIDDEN, WIDTH, PITCH>(m->w2[0], w2, hidden, width);
    load_matrix<1, WIDTH, WIDTH>(m->b2, b2, 1, width);
    row_norm norm;
    norm.begin(job, p.head, first);
    next_rows next;
    next.fetch(job, p, 0);
    next.put(&m->rows[0], job.rule.scale);
    __syncthreads();
    for (int begin = 0, turn = 0; begin < job.walk.length; begin += job.rule.batch, turn ^= 1) {
        const batch_rows &now = m->rows[turn];
        next.fetch(job, p, begin + job.rule.batch);
        float of_k[EACH][PARTS], of_q[EACH][PARTS], slope[EACH][PARTS], z[EACH][4], unused;
        enter(m, now, t, of_k, of_q);
#pragma unroll
        for (int e = 0; e < EACH; e++)
#pragma unroll
            for (int i = 0; i < PARTS; i++)
                m->low[t + e][lane + i * SV_WARP] = gelu(of_k[e][i], &slope[e][i]);
        const int asking = threadIdx.x / TOKENS, asked = threadIdx.x % TOKENS;
        m->mix[asking][asked] = weight_of(now, asking, asked, dot(now.q[asking], now.k[asked], WIDTH));
        __syncwarp();
        leave(m, m->low, t, z);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            norm.differentiate(z[e], &now.target[t + e][first]);
            if (lane < 8) *(float4 *)&m->g[t + e][first] = *(const float4 *)z[e];
        }
        __syncwarp();
        go_back(m, t, slope);
        __syncthreads();
#pragma unroll 2
        for (int s = 0; s < TOKENS; s++)
#pragma unroll
            for (int i = 0; i < PARTS; i++) {
                const float g = m->g1[s][lane + i * SV_WARP];
#pragma unroll
                for (int e = 0; e < EACH; e++) of_q[e][i] = fmaf(m->mix[t + e][s], g, of_q[e][i]);
            }
#pragma unroll
        for (int e = 0; e < EACH; e++)
#pragma unroll
            for (int i = 0; i < PARTS; i++) m->active[t + e][lane + i * SV_WARP] = gelu(of_q[e][i], &unused);
        learn_first(m, now);
        __syncthreads();
        leave(m, m->active, t, z);
        m->mix[asking][asked] = weight_of(now, asking, asked, dot(m->active[asking], m->low[asked], HIDDEN));
        __syncthreads();
#pragma unroll
        for (int e = 0; e < EACH; e++) {
#pragma unroll 4
            for (int s = 0; s < TOKENS; s++) add4(z[e], m->mix[t + e][s], &m->g[s][first]);
            const bool there = t + e < job.rule.batch && lane < 8;
            write_result(job, p, there ? begin + t + e : job.walk.length, first, norm, z[e], now.q[t + e]);
        }
        learn_second(m, now);
        next.put(&m->rows[turn ^ 1], job.rule.scale);
        __syncthreads();
    }
    store_matrix<HIDDEN>(w1, m->w1[0], width, hidden);
    store_matrix<HIDDEN>(b1, m->b1, 1, hidden);
    store_matrix<PITCH>(w2, m->w2[0], hidden, width);
    store_matrix<WIDTH>(b2, m->b2, 1, width);
}

} // namespace

sv_status sv_cuda_memory_train(sv_ctx *c, const sv_memory_job *job, int groups, cudaStream_t stream)
{
    const dim3 heads((unsigned)groups, (unsigned)job->rule.heads);
    if (job->rule.kind == SV_MEMORY_GRADIENT) {
        train_linear<<<heads, THREADS, 0, stream>>>(*job);
    } else {
        SV_TRY(sv_cuda_reserve(c, "memory_scan", train_perceptron, sizeof(perceptron)));
        train_perceptron<<<heads, THREADS, sizeof(perceptron), stream>>>(*job);
    }
    return SV_CUDA_LAUNCHED(c, "memory_scan");
}
