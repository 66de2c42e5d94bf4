/* SPDX-License-Identifier: Apache-2.0
 *
 * Titans' perceptron memory on the GPU for chunks of up to 16 tokens, heads of up to 32 channels and up to
 * 128 inside (deep_memory.simd.c has the formulas). Gradients x g' of a chunk's tokens are of its start, so
 * no token's memory has to be written out: with the momentum S and the memory M at the start,
 *
 *     S_t = P_t S - sum_(u<=t) p_tu x_u g_u',    M_t = K_t M + B_t S - sum_(u<=t) c_tu x_u g_u'
 *     P_t = eta_t P_(t-1),     p_tu = theta_u times the etas of u+1..t
 *     K_t = keep_t K_(t-1),    B_t = keep_t B_(t-1) + P_t,    c_tu = keep_t c_(t-1)u + p_tu
 *     q M_t = K_t q M + B_t q S - sum c_tu (q.x_u) g_u
 *
 * A block has a head of a group, its four matrices in shared memory, in double. A warp has two tokens of a
 * chunk.
 */
#include "backbones/deep_memory_walk.cuh"
#include "perception/core/launch.cuh"

namespace {

enum {
    WARPS = 8,
    THREADS = WARPS * SV_WARP,
    WIDTH = SV_DEEP_WIDTH,
    HIDDEN = SV_DEEP_HIDDEN,
    TOKENS = SV_DEEP_TOKENS
};
enum {
    EACH = TOKENS / WARPS,
    PARTS = HIDDEN / SV_WARP,
    PITCH = WIDTH + 1,
    NARROW = WIDTH + 2,
    WIDE = HIDDEN + 2,
    ROWS1 = WIDTH / WARPS,
    ROWS2 = HIDDEN / WARPS
};

/* What a chunk's tokens make of its start. */
struct shares {
    double theta[TOKENS], keep[TOKENS], eta[TOKENS];
    double k[TOKENS], b[TOKENS];                                     /* K_t and B_t */
    double c[TOKENS][TOKENS], last_p[TOKENS], last_c[TOKENS], all_p; /* of the last token */
};

struct alignas(16) chunk {
    double w1[WIDTH][HIDDEN], s1[WIDTH][HIDDEN], w2[HIDDEN][PITCH], s2[HIDDEN][PITCH];
    double a[TOKENS][WIDE], asked[TOKENS][WIDE],
        g[TOKENS][WIDE]; /* inside: of the keys, of the queries; gradients */
    double k[TOKENS][NARROW], q[TOKENS][NARROW], e[TOKENS][WIDTH], mix[TOKENS][TOKENS];
    shares share;
};

struct place {
    int64_t group;
    int head, width, hidden, warp, lane;
};

__device__ __forceinline__ float *token(const sv_deep_walk_job &job, const place &p, const sv_tensor &t,
                                        int step)
{
    return sv_walk_row(t, job.walk, p.group, step) + p.head * p.width;
}
__device__ __forceinline__ double number(const sv_deep_walk_job &job, const place &p, const sv_tensor &t,
                                         int step)
{
    return (double)sv_walk_row(t, job.walk, p.group, step)[p.head];
}

/* GELU, tanh form, and its derivative. */
__device__ __forceinline__ double gelu(double x, double *slope)
{
    const double t = tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
    *slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
    return 0.5 * x * (1 + t);
}

/* ---- the state ----------------------------------------------------------------------------------------- */

template <int ROWS, int COLUMNS, int PITCHED>
__device__ void load_matrix(double *to, const float *from, int rows, int columns)
{
    for (int i = threadIdx.x; i < ROWS * COLUMNS; i += THREADS) {
        const int row = i / COLUMNS, column = i % COLUMNS;
        to[row * PITCHED + column] =
            row < rows && column < columns ? (double)from[row * columns + column] : 0.0;
    }
}
template <int PITCHED> __device__ void store_matrix(float *to, const double *from, int rows, int columns)
{
    for (int i = threadIdx.x; i < rows * columns; i += THREADS)
        to[i] = (float)from[i / columns * PITCHED + i % columns];
}

/* ---- a chunk ------------------------------------------------------------------------------------------- */

/* Keys and queries, and by the first threads the shares. */
__device__ void begin_chunk(const sv_deep_walk_job &job, chunk *m, const place &p, int first, int tokens)
{
    for (int i = threadIdx.x; i < TOKENS * WIDTH; i += THREADS) {
        const int t = i / WIDTH, at = i % WIDTH;
        const bool there = t < tokens && at < p.width;
        m->k[t][at] = there ? (double)token(job, p, job.in.k, first + t)[at] : 0.0;
        m->q[t][at] = there ? (double)token(job, p, job.in.q, first + t)[at] : 0.0;
    }
    shares *s = &m->share;
    const int u = threadIdx.x;
    if (u < TOKENS) {
        const bool there = u < tokens;
        s->theta[u] = there ? number(job, p, job.in.theta, first + u) : 0.0;
        s->keep[u] = there ? 1 - number(job, p, job.in.alpha, first + u) : 1.0;
        s->eta[u] = there ? number(job, p, job.in.eta, first + u) : 1.0;
    }
    __syncthreads();
    if (u < TOKENS) {
        double part = s->theta[u], c = 0;
        for (int t = 0; t < TOKENS; t++) {
            if (t > u && t < tokens) part *= s->eta[t];
            if (t >= u && t < tokens) c = s->keep[t] * c + part;
            s->c[t][u] = t >= u ? c : 0.0;
        }
        s->last_p[u] = part;
        s->last_c[u] = c;
    } else if (u == SV_WARP) {
        double all = 1, k = 1, b = 0;
        for (int t = 0; t < TOKENS; t++) {
            if (t < tokens) {
                all *= s->eta[t];
                k *= s->keep[t];
                b = s->keep[t] * b + all;
            }
            s->k[t] = k;
            s->b[t] = b;
        }
        s->all_p = all;
    }
    __syncthreads();
}

/* a = gelu(k W1), its slope, and of q what the start makes: K q W1 + B q S1. */
__device__ __forceinline__ void enter(chunk *m, const place &p, double (&slope)[EACH][PARTS],
                                      double (&asked)[EACH][PARTS])
{
    const int t = p.warp * EACH;
    double of_k[EACH][PARTS] = {}, of_s[EACH][PARTS] = {};
#pragma unroll
    for (int e = 0; e < EACH; e++)
#pragma unroll
        for (int i = 0; i < PARTS; i++) asked[e][i] = 0;
#pragma unroll 2
    for (int j = 0; j < WIDTH; j++)
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const double w = m->w1[j][p.lane + i * SV_WARP], s = m->s1[j][p.lane + i * SV_WARP];
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                of_k[e][i] = fma(m->k[t + e][j], w, of_k[e][i]);
                asked[e][i] = fma(m->q[t + e][j], w, asked[e][i]);
                of_s[e][i] = fma(m->q[t + e][j], s, of_s[e][i]);
            }
        }
#pragma unroll
    for (int e = 0; e < EACH; e++)
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            m->a[t + e][p.lane + i * SV_WARP] = gelu(of_k[e][i], &slope[e][i]);
            asked[e][i] = m->share.k[t + e] * asked[e][i] + m->share.b[t + e] * of_s[e][i];
        }
}

/* e = a W2 - v, then g = slope (W2 e), of this warp's tokens. */
__device__ __forceinline__ void go_back(const sv_deep_walk_job &job, chunk *m, const place &p, int first,
                                        int tokens, const double (&slope)[EACH][PARTS])
{
    const int t = p.warp * EACH;
    double e[EACH] = {}, back[EACH][PARTS] = {};
#pragma unroll 8
    for (int i = 0; i < HIDDEN; i++)
#pragma unroll
        for (int n = 0; n < EACH; n++) e[n] = fma(m->a[t + n][i], m->w2[i][p.lane], e[n]);
#pragma unroll
    for (int n = 0; n < EACH; n++) {
        const bool there = t + n < tokens && p.lane < p.width;
        m->e[t + n][p.lane] = there ? e[n] - (double)token(job, p, job.in.v, first + t + n)[p.lane] : 0.0;
    }
    __syncwarp();
#pragma unroll 4
    for (int j = 0; j < WIDTH; j++)
#pragma unroll
        for (int i = 0; i < PARTS; i++)
#pragma unroll
            for (int n = 0; n < EACH; n++)
                back[n][i] = fma(m->w2[p.lane + i * SV_WARP][j], m->e[t + n][j], back[n][i]);
#pragma unroll
    for (int n = 0; n < EACH; n++)
#pragma unroll
        for (int i = 0; i < PARTS; i++) m->g[t + n][p.lane + i * SV_WARP] = slope[n][i] * back[n][i];
}

/* mix[t][u] = c_tu (x_t.y_u), a thread for each pair. */
__device__ __forceinline__ void weigh(chunk *m, const double *x, const double *y, int count)
{
    const int t = threadIdx.x / TOKENS, u = threadIdx.x % TOKENS;
    double sum[2] = {};
#pragma unroll 4
    for (int i = 0; i < count; i += 2) {
        const double2 left = *(const double2 *)(x + i), right = *(const double2 *)(y + i);
        sum[0] = fma(left.x, right.x, sum[0]);
        sum[1] = fma(left.y, right.y, sum[1]);
    }
    m->mix[t][u] = m->share.c[t][u] * (sum[0] + sum[1]);
}

/* y of this warp's tokens. */
__device__ __forceinline__ void leave(const sv_deep_walk_job &job, const chunk *m, const place &p, int first,
                                      int tokens)
{
    const int t = p.warp * EACH;
    double of_m[EACH] = {}, of_s[EACH] = {};
#pragma unroll 8
    for (int i = 0; i < HIDDEN; i++)
#pragma unroll
        for (int n = 0; n < EACH; n++) {
            of_m[n] = fma(m->asked[t + n][i], m->w2[i][p.lane], of_m[n]);
            of_s[n] = fma(m->asked[t + n][i], m->s2[i][p.lane], of_s[n]);
        }
#pragma unroll
    for (int n = 0; n < EACH; n++) {
        double y = m->share.k[t + n] * of_m[n] + m->share.b[t + n] * of_s[n];
#pragma unroll
        for (int u = 0; u < TOKENS; u++) y = fma(-m->mix[t + n][u], m->e[u][p.lane], y);
        if (t + n < tokens && p.lane < p.width) token(job, p, job.y, first + t + n)[p.lane] = (float)y;
    }
}

/* M = K M + B S - sum c x g' and S = P S - sum p x g' after the chunk: of COUNT rows and one column. */
template <int COUNT>
__device__ __forceinline__ void learn(const shares &share, double *m, double *s, int pitch, const double *x,
                                      int x_pitch, const double *g, int g_pitch)
{
    double memory[COUNT], momentum[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        memory[i] = share.k[TOKENS - 1] * m[i * pitch] + share.b[TOKENS - 1] * s[i * pitch];
        momentum[i] = share.all_p * s[i * pitch];
    }
#pragma unroll 2
    for (int u = 0; u < TOKENS; u++) {
        const double by_c = -share.last_c[u] * g[u * g_pitch], by_p = -share.last_p[u] * g[u * g_pitch];
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            memory[i] = fma(by_c, x[u * x_pitch + i], memory[i]);
            momentum[i] = fma(by_p, x[u * x_pitch + i], momentum[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        m[i * pitch] = memory[i];
        s[i * pitch] = momentum[i];
    }
}

__device__ void walk_chunk(const sv_deep_walk_job &job, chunk *m, const place &p, int first, int tokens)
{
    const int t = p.warp * EACH, pair_t = threadIdx.x / TOKENS, pair_u = threadIdx.x % TOKENS;
    double slope[EACH][PARTS], asked[EACH][PARTS], unused;
    begin_chunk(job, m, p, first, tokens);
    enter(m, p, slope, asked);
    weigh(m, m->q[pair_t], m->k[pair_u], WIDTH);
    __syncwarp();
    go_back(job, m, p, first, tokens, slope);
    __syncthreads();
#pragma unroll 2
    for (int u = 0; u < TOKENS; u++)
#pragma unroll
        for (int i = 0; i < PARTS; i++)
#pragma unroll
            for (int n = 0; n < EACH; n++)
                asked[n][i] = fma(-m->mix[t + n][u], m->g[u][p.lane + i * SV_WARP], asked[n][i]);
#pragma unroll
    for (int n = 0; n < EACH; n++)
#pragma unroll
        for (int i = 0; i < PARTS; i++) m->asked[t + n][p.lane + i * SV_WARP] = gelu(asked[n][i], &unused);
    __syncthreads();
    weigh(m, m->asked[pair_t], m->a[pair_u], HIDDEN);
    __syncthreads();
    leave(job, m, p, first, tokens);
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < PARTS; i++) {
        const int column = p.lane + i * SV_WARP, row = p.warp * ROWS1;
        learn<ROWS1>(m->share, &m->w1[row][column], &m->s1[row][column], HIDDEN, &m->k[0][row], NARROW,
                     &m->g[0][column], WIDE);
    }
    const int row = p.warp * ROWS2;
    learn<ROWS2>(m->share, &m->w2[row][p.lane], &m->s2[row][p.lane], PITCH, &m->a[0][row], WIDE,
                 &m->e[0][p.lane], WIDTH);
    __syncthreads();
}

__global__ void __launch_bounds__(THREADS) walk_perceptron(const __grid_constant__ sv_deep_walk_job job)
{
    extern __shared__ double2 shared[];
    chunk *m = (chunk *)shared;
    place p;
    p.group = blockIdx.x / job.rule.heads;
    p.head = (int)(blockIdx.x % job.rule.heads);
    p.width = job.width;
    p.hidden = job.rule.hidden;
    p.warp = threadIdx.x / SV_WARP;
    p.lane = threadIdx.x % SV_WARP;
    if (p.group >= sv_walk_groups(job.y, job.walk)) return;
    const int64_t size = (int64_t)p.width * p.hidden, part = job.rule.heads * size;
    const float *from = sv_walk_group(job.before, p.group) + p.head * size;
    load_matrix<WIDTH, HIDDEN, HIDDEN>(m->w1[0], from, p.width, p.hidden);
    load_matrix<HIDDEN, WIDTH, PITCH>(m->w2[0], from + part, p.hidden, p.width);
    load_matrix<WIDTH, HIDDEN, HIDDEN>(m->s1[0], from + 2 * part, p.width, p.hidden);
    load_matrix<HIDDEN, WIDTH, PITCH>(m->s2[0], from + 3 * part, p.hidden, p.width);
    for (int first = 0; first < job.walk.length; first += job.rule.batch)
        walk_chunk(job, m, p, first, min(job.rule.batch, job.walk.length - first));
    if (!job.after.data) return;
    float *to = sv_walk_group(job.after, p.group) + p.head * size;
    store_matrix<HIDDEN>(to, m->w1[0], p.width, p.hidden);
    store_matrix<PITCH>(to + part, m->w2[0], p.hidden, p.width);
    store_matrix<HIDDEN>(to + 2 * part, m->s1[0], p.width, p.hidden);
    store_matrix<PITCH>(to + 3 * part, m->s2[0], p.hidden, p.width);
}

} // namespace

sv_status sv_cuda_deep_chunks(sv_ctx *c, const sv_deep_walk_job *job, int groups, cudaStream_t stream)
{
    SV_TRY(sv_cuda_reserve(c, "deep_memory_scan", walk_perceptron, sizeof(chunk)));
    walk_perceptron<<<(unsigned)(groups * job->rule.heads), THREADS, sizeof(chunk), stream>>>(*job);
    return SV_CUDA_LAUNCHED(c, "deep_memory_scan");
}

bool sv_cuda_deep_fits(const sv_deep_memory *rule, int width)
{
    int device = 0, bytes = 0;
    if (rule->kind != SV_DEEP_PERCEPTRON || width > WIDTH || rule->hidden > HIDDEN || rule->batch > TOKENS)
        return false;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess &&
           (size_t)bytes >= sizeof(chunk);
}
