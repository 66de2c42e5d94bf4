/* SPDX-License-Identifier: Apache-2.0
 *
 * Titans' and Miras' memories of up to 32 x 32 numbers on the GPU; memory.simd.c has the formulas and why two
 * of them are double. The memory stays in registers:
 *
 *     YAAD, MONETA   a warp has a head, a lane a column (a value) with its rows
 *     MEMORA         columns know nothing of each other: a warp has eight, four lanes share one
 *     Titans         gradients of a chunk's tokens are of its start and made at once, two tokens a warp; then
 *                    each thread carries four numbers through the chunk
 */
#include "backbones/memory_walk.cuh"
#include "perception/core/tile.cuh"
#include "perception/core/launch.cuh"

namespace {

enum { WIDTH = SV_MEMORY_WIDTH, TOKENS = SV_MEMORY_TOKENS, AHEAD = 8 };

/* ---- tokens ahead -------------------------------------------------------------------------------------- */

/* The next tokens on their way to shared memory, and those that a warp works on. Loops over tokens stay
 * loops: unrolled, their instructions would have to be fetched anew all the time. */
template <typename T> struct token_stages {
    float v[2][AHEAD][WIDTH], numbers[2][AHEAD][4]; /* row, column, third */
    __align__(16) T q[AHEAD][WIDTH], k[AHEAD][WIDTH];
    float raw_q[2][AHEAD][WIDTH], raw_k[2][AHEAD][WIDTH];

    static __device__ __forceinline__ void copy(float *to, const float *from, bool there)
    {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(sv_shared_address(to)), "l"(from),
                     "r"(there ? 4 : 0)
                     : "memory");
    }
    __device__ __forceinline__ void fetch(const sv_memory_job &job, int64_t group, int first, int head)
    {
        const int lane = threadIdx.x, side = first / AHEAD % 2;
        const bool used = lane < job.width;
#pragma unroll 1
        for (int i = 0; i < AHEAD && first + i < job.walk.length; i++) {
            const int at = used ? lane : 0;
            copy(&raw_q[side][i][lane], sv_memory_row(job, job.in.q, group, first + i, head) + at, used);
            copy(&raw_k[side][i][lane], sv_memory_row(job, job.in.k, group, first + i, head) + at, used);
            copy(&v[side][i][lane], sv_memory_row(job, job.in.v, group, first + i, head) + at, used);
            if (lane == 0)
                copy(&numbers[side][i][0], sv_walk_row(job.in.row, job.walk, group, first + i) + head, true);
            if (lane == 1)
                copy(&numbers[side][i][1], sv_walk_row(job.in.column, job.walk, group, first + i) + head,
                     true);
            if (lane == 2 && job.in.third.data)
                copy(&numbers[side][i][2], sv_walk_row(job.in.third, job.walk, group, first + i) + head,
                     true);
        }
        sv_copies_end();
    }
    /* The stage has arrived, its keys and queries as numbers of type T. */
    __device__ __forceinline__ void arrive(int first)
    {
        const int lane = threadIdx.x, side = first / AHEAD % 2;
        sv_copies_wait<1>();
        __syncwarp();
#pragma unroll 2
        for (int i = 0; i < AHEAD; i++) {
            q[i][lane] = (T)raw_q[side][i][lane];
            k[i][lane] = (T)raw_k[side][i][lane];
        }
        __syncwarp();
    }
};

/* sum x_i w_i */
template <typename T> __device__ __forceinline__ T ask(const T (&x)[WIDTH], const T (&w)[WIDTH])
{
    T sum[4] = {};
#pragma unroll
    for (int i = 0; i < WIDTH; i++) sum[i % 4] = fma(x[i], w[i], sum[i % 4]);
    return sum[0] + sum[1] + (sum[2] + sum[3]);
}

/* ---- YAAD ---------------------------------------------------------------------------------------------- */

/* A token's turn on column 'lane'; what q reads. */
struct huber {
    using number = float;
    __device__ void begin(const float (&)[WIDTH]) {}
    __device__ float turn(float (&w)[WIDTH], const float (&k)[WIDTH], const float (&q)[WIDTH], float v,
                          float eta, float alpha, float delta)
    {
        float e = ask(k, w) - v;
        const float length = sqrtf(sv_warp_sum(e * e));
        if (length > delta) e = delta * (e > 0 ? 1.0f : e < 0 ? -1.0f : 0.0f);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) w[i] = fmaf(-eta * k[i], e, alpha * w[i]);
        return ask(q, w);
    }
};

/* ---- MONETA: W = A / |A|_4^2, and 0 for A = 0 ---------------------------------------------------------- */

struct fourth_norm {
    using number = double;
    double by; /* 1 / |A|_4^2 */
    __device__ void begin(const double (&a)[WIDTH])
    {
        double sum[2] = {};
#pragma unroll
        for (int i = 0; i < WIDTH; i++) sum[i % 2] = fma(a[i] * a[i], a[i] * a[i], sum[i % 2]);
        const double norm = sv_warp_sum(sum[0] + sum[1]);
        by = norm > 0 ? rsqrt(norm) : 0;
    }
    __device__ float turn(double (&a)[WIDTH], const double (&k)[WIDTH], const double (&q)[WIDTH], float v,
                          float eta, float alpha, float)
    {
        const double error = by * ask(k, a) - (double)v, step = -(double)eta * error * (3 * fabs(error)),
                     keep = alpha;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) a[i] = fma(step, k[i], keep * a[i]);
        begin(a);
        return (float)(by * ask(q, a));
    }
};

template <typename M>
__global__ void __launch_bounds__(SV_WARP) walk_columns(const __grid_constant__ sv_memory_job job)
{
    using T = typename M::number;
    __shared__ token_stages<T> tokens;
    const int64_t group = blockIdx.x;
    const int head = blockIdx.y, lane = threadIdx.x, width = job.width;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    float *state = sv_walk_group(job.states, group) + (int64_t)head * width * width + lane;
    const bool used = lane < width;
    T w[WIDTH];
#pragma unroll
    for (int i = 0; i < WIDTH; i++) w[i] = used && i < width ? (T)state[i * width] : (T)0;
    M memory;
    memory.begin(w);
    tokens.fetch(job, group, 0, head);
    for (int first = 0; first < job.walk.length; first += AHEAD) {
        tokens.fetch(job, group, first + AHEAD, head);
        tokens.arrive(first);
        const int side = first / AHEAD % 2, count = min(job.walk.length - first, (int)AHEAD);
#pragma unroll 1
        for (int i = 0; i < count; i++) {
            const float *numbers = tokens.numbers[side][i];
            const float y = memory.turn(w, tokens.k[i], tokens.q[i], tokens.v[side][i][lane], numbers[0],
                                        numbers[1], numbers[2]);
            if (used) sv_memory_row(job, job.y, group, first + i, head)[lane] = y;
        }
        __syncwarp();
    }
#pragma unroll
    for (int i = 0; i < WIDTH; i++)
        if (used && i < width) state[i * width] = (float)w[i];
}

/* ---- MEMORA -------------------------------------------------------------------------------------------- */

enum { SHARERS = 4, ROWS = WIDTH / SHARERS, COLUMNS = SV_WARP / SHARERS };

/* A value's logarithms of shares and the shares themselves, ROWS of them in each of its four lanes. */
struct shares {
    float w[ROWS], p[ROWS];
    int rows; /* that there are in this lane */

    static __device__ __forceinline__ float most(float x)
    {
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, COLUMNS));
        return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2 * COLUMNS));
    }
    static __device__ __forceinline__ float total(float x)
    {
        x += __shfl_xor_sync(0xffffffffu, x, COLUMNS);
        return x + __shfl_xor_sync(0xffffffffu, x, 2 * COLUMNS);
    }
    __device__ __forceinline__ float read(const float *x) const
    {
        float sum[2] = {};
#pragma unroll
        for (int i = 0; i < ROWS; i++) sum[i % 2] = fmaf(x[i], p[i], sum[i % 2]);
        return total(sum[0] + sum[1]);
    }
    __device__ __forceinline__ void normalise()
    {
        float top = -INFINITY, sum = 0;
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (i < rows) top = fmaxf(top, w[i]);
        top = most(top);
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            p[i] = i < rows ? expf(w[i] - top) : 0.0f;
            sum += p[i];
        }
        sum = total(sum);
        const float shift = top + logf(sum), by = 1.0f / sum;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            w[i] -= shift;
            p[i] *= by;
        }
    }
};

__global__ void __launch_bounds__(SV_WARP) walk_shares(const __grid_constant__ sv_memory_job job)
{
    __shared__ token_stages<float> tokens;
    const int64_t group = blockIdx.x;
    const int head = blockIdx.y, lane = threadIdx.x, width = job.width,
              value = blockIdx.z * COLUMNS + lane % COLUMNS, key = lane / COLUMNS * ROWS;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    float *state = sv_walk_group(job.states, group) + (int64_t)head * width * width + value;
    const bool used = value < width;
    shares m;
    m.rows = min(max(width - key, 0), (int)ROWS);
#pragma unroll
    for (int i = 0; i < ROWS; i++) m.w[i] = used && i < m.rows ? state[(key + i) * width] : 0.0f;
    m.normalise();
    tokens.fetch(job, group, 0, head);
    for (int first = 0; first < job.walk.length; first += AHEAD) {
        tokens.fetch(job, group, first + AHEAD, head);
        tokens.arrive(first);
        const int side = first / AHEAD % 2, count = min(job.walk.length - first, (int)AHEAD);
#pragma unroll 1
        for (int i = 0; i < count; i++) {
            const float *k = tokens.k[i] + key, *numbers = tokens.numbers[side][i],
                        e = m.read(k) - (used ? tokens.v[side][i][value] : 0.0f), by = -numbers[0] * e;
#pragma unroll
            for (int n = 0; n < ROWS; n++)
                if (n < m.rows) m.w[n] = fmaf(by, k[n], numbers[1] * m.w[n]);
            m.normalise();
            const float y = m.read(tokens.q[i] + key);
            if (used && key == 0) sv_memory_row(job, job.y, group, first + i, head)[value] = y;
        }
        __syncwarp();
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++)
        if (used && i < m.rows) state[(key + i) * width] = m.w[i];
}

/* ---- Titans -------------------------------------------------------------------------------------------- */

enum { TITANS_WARPS = 8, OWN = WIDTH / TITANS_WARPS, EACH = TOKENS / TITANS_WARPS };

struct titans_chunk {
    double start[WIDTH][WIDTH + 1];
    double part[TOKENS][TITANS_WARPS][WIDTH]; /* of q M, by the rows of each warp */
    double g[TOKENS][WIDTH];
    float k[TOKENS][WIDTH], q[TOKENS][WIDTH], v[TOKENS][WIDTH];
    double theta[TOKENS], keep[TOKENS], eta[TOKENS];
};

/* Mean and 1 / deviation of the first 'width' lanes' numbers. */
__device__ __forceinline__ void find_moments(double x, bool used, int width, double eps, double *mean,
                                             double *rate)
{
    *mean = sv_warp_sum(used ? x : 0.0) / width;
    const double apart = used ? x - *mean : 0.0;
    *rate = rsqrt(sv_warp_sum(apart * apart) / width + eps);
}

/* Gradients of this warp's tokens, at the chunk's start; as the reference has them (memory.simd.c). */
__device__ void find_gradients(const sv_memory_job &job, titans_chunk *m, double weight, double bias)
{
    const int warp = threadIdx.x / SV_WARP, lane = threadIdx.x % SV_WARP, width = job.width;
    const bool used = lane < width;
#pragma unroll
    for (int n = 0; n < EACH; n++) {
        const int t = warp * EACH + n;
        double z[2] = {};
#pragma unroll 8
        for (int i = 0; i < WIDTH; i++) z[i % 2] = fma((double)m->k[t][i], m->start[i][lane], z[i % 2]);
        double mean, rate;
        find_moments(z[0] + z[1], used, width, (double)job.rule.eps, &mean, &rate);
        const double hat = (z[0] + z[1] - mean) * rate;
        const double v = (double)m->v[t][lane];
        const double g = used ? (weight * hat + bias - (v - (double)m->k[t][lane])) * weight : 0.0;
        const double sum = sv_warp_sum(g), along = sv_warp_sum(used ? g * hat : 0.0);
        m->g[t][lane] = used ? width * g - (sum + along * hat) * rate / width : 0.0;
    }
}

/* The next chunk on its way: a lane's numbers of its warp's tokens, and by the first threads numbers of a
 * token. */
struct next_chunk {
    float k[EACH], q[EACH], v[EACH], row, column, third;

    __device__ __forceinline__ void fetch(const sv_memory_job &job, int64_t group, int head, int first)
    {
        const int lane = threadIdx.x % SV_WARP, tokens = min(job.rule.batch, job.walk.length - first),
                  t0 = threadIdx.x / SV_WARP * EACH;
#pragma unroll
        for (int n = 0; n < EACH; n++) {
            const bool there = t0 + n < tokens && lane < job.width;
            k[n] = there ? sv_memory_row(job, job.in.k, group, first + t0 + n, head)[lane] : 0.0f;
            q[n] = there ? sv_memory_row(job, job.in.q, group, first + t0 + n, head)[lane] : 0.0f;
            v[n] = there ? sv_memory_row(job, job.in.v, group, first + t0 + n, head)[lane] : 0.0f;
        }
        const bool mine = (int)threadIdx.x < tokens;
        row = mine ? sv_memory_number(job, job.in.row, group, first + threadIdx.x, head) : 0.0f;
        column = mine ? sv_memory_number(job, job.in.column, group, first + threadIdx.x, head) : 0.0f;
        third = mine ? sv_memory_number(job, job.in.third, group, first + threadIdx.x, head) : 0.0f;
    }
    __device__ __forceinline__ void put(titans_chunk *m) const
    {
        const int lane = threadIdx.x % SV_WARP, t0 = threadIdx.x / SV_WARP * EACH;
#pragma unroll
        for (int n = 0; n < EACH; n++) {
            m->k[t0 + n][lane] = k[n];
            m->q[t0 + n][lane] = q[n];
            m->v[t0 + n][lane] = v[n];
        }
        if (threadIdx.x >= TOKENS) return;
        m->theta[threadIdx.x] = -2 * (double)row;
        m->keep[threadIdx.x] = 1 - (double)column;
        m->eta[threadIdx.x] = (double)third;
    }
};

/* y of this warp's tokens. */
__device__ void write_results(const sv_memory_job &job, const titans_chunk *m, int64_t group, int head,
                              int first, int tokens, double weight, double bias)
{
    const int warp = threadIdx.x / SV_WARP, lane = threadIdx.x % SV_WARP;
#pragma unroll
    for (int n = 0; n < EACH; n++) {
        const int t = warp * EACH + n;
        double o = 0, mean, rate;
        if (t >= tokens) return;
#pragma unroll
        for (int i = 0; i < TITANS_WARPS; i++) o += m->part[t][i][lane];
        find_moments(o, lane < job.width, job.width, (double)job.rule.eps, &mean, &rate);
        if (lane < job.width)
            sv_memory_row(job, job.y, group, first + t, head)[lane] =
                (float)(o + (o - mean) * rate * weight + bias);
    }
}

__global__ void __launch_bounds__(TITANS_WARPS *SV_WARP)
    walk_momentum(const __grid_constant__ sv_memory_job job)
{
    extern __shared__ double shared[];
    titans_chunk *m = (titans_chunk *)shared;
    const int64_t group = blockIdx.x;
    const int head = blockIdx.y, warp = threadIdx.x / SV_WARP, lane = threadIdx.x % SV_WARP,
              width = job.width;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const bool used = lane < width;
    const int64_t size = (int64_t)width * width;
    float *memory = sv_walk_group(job.states, group) + head * size,
          *momentum = memory + job.rule.heads * size;
    double w[OWN], s[OWN], weight = 0, bias = 0;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const int row = warp * OWN + i;
        w[i] = used && row < width ? (double)memory[row * width + lane] : 0.0;
        s[i] = used && row < width ? (double)momentum[row * width + lane] : 0.0;
    }
    if (used) {
        weight = (double)((const float *)job.in.norm_weight.data)[head * width + lane];
        bias = (double)((const float *)job.in.norm_bias.data)[head * width + lane];
    }
    next_chunk next;
    next.fetch(job, group, head, 0);
    for (int first = 0; first < job.walk.length; first += job.rule.batch) {
        const int tokens = min(job.rule.batch, job.walk.length - first);
        next.put(m);
        next.fetch(job, group, head, first + job.rule.batch);
#pragma unroll
        for (int i = 0; i < OWN; i++) m->start[warp * OWN + i][lane] = w[i];
        __syncthreads();
        find_gradients(job, m, weight, bias);
        __syncthreads();
        for (int t = 0; t < tokens; t++) {
            const double by = m->theta[t] * m->g[t][lane], keep = m->keep[t], eta = m->eta[t];
            double o = 0;
#pragma unroll
            for (int i = 0; i < OWN; i++) {
                s[i] = fma(by, (double)m->k[t][warp * OWN + i], eta * s[i]);
                w[i] = fma(keep, w[i], s[i]);
                o = fma((double)m->q[t][warp * OWN + i], w[i], o);
            }
            m->part[t][warp][lane] = o;
        }
        __syncthreads();
        write_results(job, m, group, head, first, tokens, weight, bias);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const int row = warp * OWN + i;
        if (!used || row >= width) continue;
        memory[row * width + lane] = (float)w[i];
        momentum[row * width + lane] = (float)s[i];
    }
}

} // namespace

sv_status sv_cuda_memory_columns(sv_ctx *c, const sv_memory_job *job, int groups, cudaStream_t stream)
{
    const dim3 heads((unsigned)groups, (unsigned)job->rule.heads);
    if (job->rule.kind == SV_MEMORY_HUBER) {
        walk_columns<huber><<<heads, SV_WARP, 0, stream>>>(*job);
    } else if (job->rule.kind == SV_MEMORY_NORM) {
        walk_columns<fourth_norm><<<heads, SV_WARP, 0, stream>>>(*job);
    } else if (job->rule.kind == SV_MEMORY_SOFTMAX) {
        const unsigned tiles = (unsigned)((job->width + COLUMNS - 1) / COLUMNS);
        walk_shares<<<dim3(heads.x, heads.y, tiles), SV_WARP, 0, stream>>>(*job);
    } else {
        SV_TRY(sv_cuda_reserve(c, "memory_scan", walk_momentum, sizeof(titans_chunk)));
        walk_momentum<<<heads, TITANS_WARPS * SV_WARP, sizeof(titans_chunk), stream>>>(*job);
    }
    return SV_CUDA_LAUNCHED(c, "memory_scan");
}
