/* SPDX-License-Identifier: Apache-2.0
 *
 * MesaNet on the GPU (moments.simd.c has the formula). Only the sums M and N are recurrent, and linearly
 * so; solving for a token needs nothing of the others. So a group is cut into chunks of 32 tokens:
 *
 *     1  each chunk but the last, by itself: the sum of e^(g of what follows) beta k (k, v)', a product
 *     2  along the chunks of a group: what each begins with
 *     3  all chunks at once: M, N and the answer of token after token
 *
 * Heads of up to 32 channels: a warp has eight tokens of a chunk. Lane i has row i of M, and of A = M +
 * diag(lamb) as it is eliminated below and above its diagonal at once, and column i of N, all in
 * registers; the pivot's row travels through shared memory as its column, which by symmetry it is. Wider
 * heads: a block has a chunk, its matrices in shared memory where they fit.
 */
#include "backbones/walk.cuh"
#include "perception/core/launch.cuh"

namespace {

constexpr int CHUNK = 32, WARPS = 4, EACH = CHUNK / WARPS; /* tokens: of a chunk, of a warp */
constexpr int NARROW = 32;                                 /* channels that a warp's lanes have */
constexpr int THREADS = 256, WARP_THREADS = WARPS * SV_WARP;
constexpr int ROWS = 32, COLUMNS = 64; /* of a chunk's sums, a block's */
constexpr int AHEAD = 32;              /* chunks read before the first is replaced */
constexpr int HELD_BYTES = 200 << 10;

struct mesa_job {
    sv_tensor y, q, k, v, g, beta, state_in, state_out;
    const float *lamb;
    float *sums;  /* [groups, chunks, heads, keys, keys + values] M, N: of a chunk, then before it */
    float *fades; /* [groups, chunks, heads] */
    sv_walk walk;
    int32_t heads, keys, values, chunks;
    bool held; /* the sums are copied to shared memory */
};

/* A head of a chunk; blocks are numbered [groups, chunks, heads]. */
struct place {
    int64_t group;
    int chunk, head, begin, count;
};
__device__ __forceinline__ place place_of(const mesa_job &job)
{
    place p;
    p.head = blockIdx.x % job.heads;
    p.chunk = blockIdx.x / job.heads % job.chunks;
    p.group = blockIdx.x / job.heads / job.chunks;
    p.begin = p.chunk * CHUNK;
    p.count = min(job.walk.length - p.begin, CHUNK);
    return p;
}
__device__ __forceinline__ const float *row_of(const mesa_job &job, const sv_tensor &t, const place &p,
                                               int step)
{
    return sv_walk_row(t, job.walk, p.group, p.begin + step);
}
/* Where element [row][column] of a head's sums lies in a state. */
__device__ __forceinline__ int64_t state_place(const mesa_job &job, int head, int row, int column)
{
    const int64_t n = (int64_t)job.heads * job.keys * job.keys;
    return column < job.keys ? ((int64_t)head * job.keys + row) * job.keys + column
                             : n + ((int64_t)head * job.keys + row) * job.values + column - job.keys;
}

/* ---- sums of chunks ------------------------------------------------------------------------------------ */

__global__ void __launch_bounds__(THREADS) sum_chunks(const __grid_constant__ mesa_job job)
{
    __shared__ __align__(16) float left[CHUNK][ROWS], right[CHUNK][COLUMNS];
    __shared__ float g[CHUNK], weight[CHUNK];
    const place p = place_of(job);
    const int keys = job.keys, wide = keys + job.values, column_tiles = (wide + COLUMNS - 1) / COLUMNS,
              row0 = (int)blockIdx.y / column_tiles * ROWS,
              column0 = (int)blockIdx.y % column_tiles * COLUMNS;
    if (p.group >= sv_walk_groups(job.y, job.walk) || p.chunk == job.chunks - 1) return;
    if (threadIdx.x < CHUNK) g[threadIdx.x] = row_of(job, job.g, p, threadIdx.x)[p.head];
    __syncthreads();
    if (threadIdx.x <= CHUNK) { /* the last of these sums everything */
        float sum = 0;
        for (int t = (int)threadIdx.x < CHUNK ? threadIdx.x + 1 : 0; t < CHUNK; t++) sum += g[t];
        if (threadIdx.x < CHUNK)
            weight[threadIdx.x] = row_of(job, job.beta, p, threadIdx.x)[p.head] * expf(sum);
        else if (blockIdx.y == 0)
            job.fades[blockIdx.x] = expf(sum);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < CHUNK * ROWS; i += THREADS) {
        const int t = i / ROWS, at = row0 + i % ROWS;
        left[t][i % ROWS] = at < keys ? weight[t] * row_of(job, job.k, p, t)[p.head * keys + at] : 0.0f;
    }
    for (int i = threadIdx.x; i < CHUNK * COLUMNS; i += THREADS) {
        const int t = i / COLUMNS, at = column0 + i % COLUMNS;
        right[t][i % COLUMNS] = at < keys   ? row_of(job, job.k, p, t)[p.head * keys + at]
                                : at < wide ? row_of(job, job.v, p, t)[p.head * job.values + at - keys]
                                            : 0.0f;
    }
    __syncthreads();
    const int row = threadIdx.x / 16 * 2, column = threadIdx.x % 16 * 4;
    float sums[2][4] = {};
#pragma unroll 8
    for (int t = 0; t < CHUNK; t++) {
        const float2 a = *(const float2 *)&left[t][row];
        const float4 b = *(const float4 *)&right[t][column];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float x = i ? a.y : a.x;
            sums[i][0] = fmaf(x, b.x, sums[i][0]);
            sums[i][1] = fmaf(x, b.y, sums[i][1]);
            sums[i][2] = fmaf(x, b.z, sums[i][2]);
            sums[i][3] = fmaf(x, b.w, sums[i][3]);
        }
    }
    float *to = job.sums + (int64_t)blockIdx.x * keys * wide;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (row0 + row + i < keys && column0 + column + j < wide)
                to[(int64_t)(row0 + row + i) * wide + column0 + column + j] = sums[i][j];
}

/* A thread has a number of a head's sums. Afterwards 'sums' holds what each chunk begins with. */
__global__ void carry_chunks(const __grid_constant__ mesa_job job)
{
    const int wide = job.keys + job.values, square = job.keys * wide;
    const int64_t item = sv_thread(), group = item / square / job.heads;
    const int at = (int)(item % square), head = (int)(item / square % job.heads);
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    float sum = job.state_in.data
                    ? sv_walk_group(job.state_in, group)[state_place(job, head, at / wide, at % wide)]
                    : 0.0f;
    const int64_t first = group * job.chunks * job.heads + head;
    for (int chunk = 0; chunk < job.chunks; chunk += AHEAD) {
        float end[AHEAD], fade[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int64_t number = first + (int64_t)(chunk + i) * job.heads;
            const bool there = chunk + i < job.chunks - 1;
            end[i] = there ? job.sums[number * square + at] : 0.0f;
            fade[i] = there ? job.fades[number] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (chunk + i < job.chunks)
                job.sums[(first + (int64_t)(chunk + i) * job.heads) * square + at] = sum;
            sum = fmaf(fade[i], sum, end[i]);
        }
    }
}

/* ---- narrow heads -------------------------------------------------------------------------------------- */

/* A chunk's tokens, heads widened by zeros. */
template <int N> struct tokens {
    float q[CHUNK][N], k[CHUNK][N], v[CHUNK][N];
    float beta[CHUNK], keep[CHUNK];
    float pivot[WARPS][2][SV_WARP], x[WARPS][SV_WARP];
};

template <int N>
__device__ __forceinline__ void load_tokens(tokens<N> *t, const mesa_job &job, const place &p)
{
    for (int i = threadIdx.x; i < p.count * N; i += WARP_THREADS) {
        const int step = i / N, at = i % N;
        const bool key = at < job.keys;
        t->q[step][at] = key ? row_of(job, job.q, p, step)[p.head * job.keys + at] : 0.0f;
        t->k[step][at] = key ? row_of(job, job.k, p, step)[p.head * job.keys + at] : 0.0f;
        t->v[step][at] = at < job.values ? row_of(job, job.v, p, step)[p.head * job.values + at] : 0.0f;
    }
    if ((int)threadIdx.x < p.count) {
        t->beta[threadIdx.x] = row_of(job, job.beta, p, threadIdx.x)[p.head];
        t->keep[threadIdx.x] = expf(row_of(job, job.g, p, threadIdx.x)[p.head]);
    }
}

/* A lane's row of M and column of N. */
template <int N> struct moments {
    float m[N], n[N];
};

template <int N> __device__ __forceinline__ void add_token(moments<N> &own, const tokens<N> *t, int step)
{
    const int lane = threadIdx.x % SV_WARP;
    const float keep = t->keep[step], beta = t->beta[step], k = lane < N ? beta * t->k[step][lane] : 0.0f,
                v = lane < N ? beta * t->v[step][lane] : 0.0f;
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const float4 four = *(const float4 *)&t->k[step][i];
        const float x[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            own.m[i + j] = fmaf(x[j], k, keep * own.m[i + j]);
            own.n[i + j] = fmaf(x[j], v, keep * own.n[i + j]);
        }
    }
}

/* To the last place but one. */
__device__ __forceinline__ float reciprocal(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/* This lane's number of (M + diag(lamb))^-1 q. */
template <int N>
__device__ __forceinline__ float solve(const float (&m)[N], float x, float lamb, float (*pivots)[SV_WARP])
{
    const int lane = threadIdx.x % SV_WARP;
    float a[N], mine = 1;
#pragma unroll
    for (int i = 0; i < N; i++) a[i] = m[i];
#pragma unroll
    for (int i = 0; i < N; i++) {
        float *row = pivots[i % 2];
        const float own = lane == i ? a[i] + lamb : a[i], other = __shfl_sync(0xffffffffu, x, i);
        row[lane] = own;
        __syncwarp();
        const float rate = reciprocal(row[i]), by = lane == i ? 0.0f : -own * rate;
        mine = lane == i ? rate : mine;
        x = fmaf(by, other, x);
#pragma unroll
        for (int from = (i + 1) / 4 * 4; from < N; from += 4) {
            const float4 four = *(const float4 *)(row + from);
            const float y[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (from + j > i) a[from + j] = fmaf(by, y[j], a[from + j]);
        }
    }
    return x * mine;
}

template <int N>
__global__ void __launch_bounds__(WARP_THREADS, 4) walk_narrow(const __grid_constant__ mesa_job job)
{
    __shared__ __align__(16) tokens<N> t;
    const place p = place_of(job);
    const int keys = job.keys, values = job.values, wide = keys + values, lane = threadIdx.x % SV_WARP,
              warp = threadIdx.x / SV_WARP;
    if (p.group >= sv_walk_groups(job.y, job.walk)) return;
    load_tokens(&t, job, p);
    __syncthreads();
    const int first = warp * EACH, end = min(first + EACH, p.count);
    if (first >= p.count) return;
    moments<N> own;
    const float *sums = job.sums + (int64_t)blockIdx.x * keys * wide;
#pragma unroll
    for (int i = 0; i < N; i++) {
        own.m[i] = i < keys && lane < keys ? sums[i * wide + lane] : 0.0f;
        own.n[i] = i < keys && lane < values ? sums[i * wide + keys + lane] : 0.0f;
    }
    const float lamb = lane < keys ? job.lamb[p.head * keys + lane] : 1.0f;
    for (int step = 0; step < first; step++) add_token(own, &t, step);
    for (int step = first; step < end; step++) {
        add_token(own, &t, step);
        const float x = solve<N>(own.m, lane < N ? t.q[step][lane] : 0.0f, lamb, t.pivot[warp]);
        t.x[warp][lane] = x;
        __syncwarp();
        float y[2] = {};
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const float4 four = *(const float4 *)&t.x[warp][i];
            y[0] = fmaf(four.x, own.n[i], y[0]);
            y[1] = fmaf(four.y, own.n[i + 1], y[1]);
            y[0] = fmaf(four.z, own.n[i + 2], y[0]);
            y[1] = fmaf(four.w, own.n[i + 3], y[1]);
        }
        if (lane < values)
            sv_walk_row(job.y, job.walk, p.group, p.begin + step)[p.head * values + lane] = y[0] + y[1];
        __syncwarp();
    }
    if (!job.state_out.data || p.begin + end < job.walk.length) return;
    float *state = sv_walk_group(job.state_out, p.group);
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (i < keys && lane < keys) state[state_place(job, p.head, i, lane)] = own.m[i];
        if (i < keys && lane < values) state[state_place(job, p.head, i, keys + lane)] = own.n[i];
    }
}

/* ---- wide heads ---------------------------------------------------------------------------------------- */

/* x = A^-1 x for positive definite A (upper triangle, destroyed), by elimination without pivots. */
__device__ void solve_wide(float *x, float *a, int n)
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

__global__ void __launch_bounds__(THREADS) walk_wide(const __grid_constant__ mesa_job job)
{
    extern __shared__ float room[];
    const place p = place_of(job);
    const int keys = job.keys, values = job.values, wide = keys + values;
    if (p.group >= sv_walk_groups(job.y, job.walk)) return;
    float *x = room, *a = x + keys, *sums = job.sums + (int64_t)blockIdx.x * keys * wide;
    if (job.held) {
        float *copy = a + keys * keys;
        for (int i = threadIdx.x; i < keys * wide; i += THREADS) copy[i] = sums[i];
        sums = copy;
    }
    for (int step = 0; step < p.count; step++) {
        const float *q = row_of(job, job.q, p, step) + p.head * keys,
                    *k = row_of(job, job.k, p, step) + p.head * keys,
                    *v = row_of(job, job.v, p, step) + p.head * values;
        const float beta = row_of(job, job.beta, p, step)[p.head],
                    keep = expf(row_of(job, job.g, p, step)[p.head]);
        __syncthreads();
        for (int i = threadIdx.x; i < keys; i += THREADS) x[i] = q[i];
        for (int i = threadIdx.x; i < keys * wide; i += THREADS) {
            const int row = i / wide, column = i % wide;
            sums[i] = fmaf(beta * k[row], column < keys ? k[column] : v[column - keys], keep * sums[i]);
            if (column < keys)
                a[row * keys + column] = sums[i] + (row == column ? job.lamb[p.head * keys + row] : 0.0f);
        }
        solve_wide(x, a, keys);
        float *y = sv_walk_row(job.y, job.walk, p.group, p.begin + step) + p.head * values;
        for (int j = threadIdx.x; j < values; j += THREADS) {
            float sum[2] = {};
            for (int i = 0; i < keys; i++) sum[i & 1] = fmaf(x[i], sums[i * wide + keys + j], sum[i & 1]);
            y[j] = sum[0] + sum[1];
        }
    }
    __syncthreads();
    if (!job.state_out.data || p.chunk < job.chunks - 1) return;
    float *state = sv_walk_group(job.state_out, p.group);
    for (int i = threadIdx.x; i < keys * wide; i += THREADS)
        state[state_place(job, p.head, i / wide, i % wide)] = sums[i];
}

/* ---- launching ----------------------------------------------------------------------------------------- */

sv_status walk_wide_heads(sv_ctx *c, mesa_job &job, unsigned blocks)
{
    const size_t own = (size_t)job.keys * (1 + job.keys) * sizeof(float),
                 sums = (size_t)job.keys * (job.keys + job.values) * sizeof(float);
    job.held = own + sums <= HELD_BYTES;
    const size_t bytes = own + (job.held ? sums : 0);
    SV_CHECK(c, bytes <= HELD_BYTES, SV_UNSUPPORTED, "mesa_scan: heads of %d keys are too wide for a GPU",
             job.keys);
    SV_TRY(sv_cuda_reserve(c, "mesa_scan", walk_wide, bytes));
    walk_wide<<<blocks, THREADS, bytes, sv_cuda_stream(c)>>>(job);
    return SV_OK;
}

} // namespace

sv_status sv_cuda_mesa_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor g,
                            sv_tensor beta, sv_tensor lamb, int heads, const sv_sequence *seq)
{
    static const char op[] = "mesa_scan";
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const cudaStream_t stream = sv_cuda_stream(c);
    const int groups = y.dim[0] / seq->length;
    mesa_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.g = g;
    job.beta = beta;
    job.state_in = seq->state_in;
    job.state_out = seq->state_out;
    job.lamb = (const float *)lamb.data;
    job.walk = sv_walk_of(seq);
    job.heads = heads;
    job.keys = q.dim[1] / heads;
    job.values = y.dim[1] / heads;
    job.chunks = (seq->length + CHUNK - 1) / CHUNK;
    const int wide = job.keys + job.values;
    const unsigned blocks = (unsigned)(groups * job.chunks * heads),
                   tiles = (unsigned)((job.keys + ROWS - 1) / ROWS * ((wide + COLUMNS - 1) / COLUMNS));
    void *sums = NULL, *fades = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "second moments before chunks",
                          sizeof(float) * blocks * (size_t)job.keys * (size_t)wide, &sums));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "decay of chunks", sizeof(float) * blocks, &fades));
    job.sums = (float *)sums;
    job.fades = (float *)fades;
    if (job.chunks > 1) sum_chunks<<<dim3(blocks, tiles), THREADS, 0, stream>>>(job);
    carry_chunks<<<sv_cuda_blocks((int64_t)groups * heads * job.keys * wide), SV_CUDA_THREADS, 0, stream>>>(
        job);
    if (job.keys <= NARROW / 2 && job.values <= NARROW / 2)
        walk_narrow<NARROW / 2><<<blocks, WARP_THREADS, 0, stream>>>(job);
    else if (job.keys <= NARROW && job.values <= NARROW)
        walk_narrow<NARROW><<<blocks, WARP_THREADS, 0, stream>>>(job);
    else
        SV_TRY(walk_wide_heads(c, job, blocks));
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, op);
}
