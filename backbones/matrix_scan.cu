/* SPDX-License-Identifier: Apache-2.0
 *
 * Channels with a full matrix on the GPU: h = A h + b u (diagonal.simd.c). As many lanes as a channel has
 * states, each with its row of the matrix in registers, ask each other for the states. A group is cut into
 * chunks of 64 walking steps as in diagonal.cu; they are joined by the matrix' 64th power, which is taken in
 * double. Above 32 states a block has a channel and walks the whole group, with the matrix in shared memory
 * where it fits.
 */
#include "backbones/walk.cuh"
#include "perception/core/launch.cuh"

namespace {

enum { THREADS = 128, CHUNK = 64, SQUARINGS = 6, AT_ONCE = 8, CARRIED_AT_ONCE = 16, MOST_HELD = 32 };
enum { DENSE_THREADS = 256, DENSE_BYTES = 200 << 10 };
static_assert(1 << SQUARINGS == CHUNK, "a chunk keeps a power of two");

struct dense_job {
    sv_tensor y, u, a, states;
    const float *b;
    sv_walk walk;
    int32_t chunks;
    float *ends, *power; /* [groups, chunks, channels*n]; [channels, n, n], its columns */
};

/* Lanes of a channel: N of them, of which n have a state. */
template <int N> struct dense_place {
    int64_t group, part;
    int chunk, begin, count, channel, row;
    bool used;
};
template <int N> __device__ __forceinline__ dense_place<N> dense_place_of(const dense_job &job, int chunks)
{
    const int n = job.a.dim[1], channels = job.y.dim[1] / n;
    const int64_t item = sv_thread() / N;
    dense_place<N> p;
    p.channel = (int)(item % channels);
    p.part = item / channels;
    p.group = p.part / chunks;
    p.chunk = (int)(p.part % chunks);
    p.begin = p.chunk * CHUNK;
    p.count = min((int)CHUNK, job.walk.length - p.begin);
    p.row = threadIdx.x % N;
    p.used = p.group < sv_walk_groups(job.y, job.walk) && p.row < n;
    if (p.group >= sv_walk_groups(job.y, job.walk)) p.count = 0;
    return p;
}

/* a h, a being this lane's row and h spread over the channel's lanes. */
template <int N> __device__ __forceinline__ float ask_lanes(const float (&a)[N], float h)
{
    float sum[2] = {};
#pragma unroll
    for (int j = 0; j < N; j++) sum[j & 1] = fmaf(a[j], __shfl_sync(0xffffffffu, h, j, N), sum[j & 1]);
    return sum[0] + sum[1];
}

/* The 64th power of a channel's matrix, transposed; a block has a channel. */
__global__ void __launch_bounds__(THREADS) raise_matrix(const __grid_constant__ dense_job job)
{
    __shared__ double m[2][MOST_HELD * MOST_HELD];
    const int n = job.a.dim[1], channel = blockIdx.x;
    const float *a = (const float *)job.a.data + (int64_t)channel * n * job.a.pitch;
    for (int i = threadIdx.x; i < n * n; i += THREADS)
        m[0][i] = (double)a[(int64_t)(i / n) * job.a.pitch + i % n];
    for (int turn = 0; turn < SQUARINGS; turn++) {
        const double *from = m[turn & 1];
        __syncthreads();
        for (int i = threadIdx.x; i < n * n; i += THREADS) {
            double sum = 0;
            for (int j = 0; j < n; j++) sum = fma(from[i / n * n + j], from[j * n + i % n], sum);
            m[(turn + 1) & 1][i] = sum;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n * n; i += THREADS)
        job.power[(int64_t)channel * n * n + i % n * n + i / n] = (float)m[SQUARINGS & 1][i];
}

template <int N, bool READ>
__global__ void __launch_bounds__(THREADS) walk_matrix(const __grid_constant__ dense_job job)
{
    const dense_place<N> p = dense_place_of<N>(job, job.chunks);
    const int n = job.a.dim[1], column = p.channel * n + p.row;
    const bool skipped = !READ && p.chunk == job.chunks - 1;
    float a[N], h = 0, *state = sv_walk_group(job.states, p.group) + column;
#pragma unroll
    for (int j = 0; j < N; j++)
        a[j] = p.used && j < n ? ((const float *)job.a.data)[(int64_t)column * job.a.pitch + j] : 0.0f;
    const float b = p.used ? job.b[column] : 0.0f;
    if (READ && p.used) h = job.chunks > 1 ? job.ends[p.part * job.y.dim[1] + column] : *state;
    for (int first = 0; first < CHUNK;
         first += AT_ONCE) { /* the lanes of a warp walk together, whatever they have */
        float in[AT_ONCE];
        if (__all_sync(0xffffffffu, first >= p.count || skipped)) break;
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            in[i] = p.used && first + i < p.count
                        ? sv_walk_row(job.u, job.walk, p.group, p.begin + first + i)[p.channel]
                        : 0.0f;
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const float next = ask_lanes<N>(a, h) + b * in[i];
            if (first + i >= p.count) continue;
            h = next;
            if (READ && p.used) sv_walk_row(job.y, job.walk, p.group, p.begin + first + i)[column] = h;
        }
    }
    if (!p.used || skipped) return;
    if (!READ)
        job.ends[p.part * job.y.dim[1] + column] = h;
    else if (p.chunk == job.chunks - 1)
        *state = h;
}

/* Afterwards 'ends' holds what each chunk starts from. */
template <int N>
__global__ void __launch_bounds__(SV_WARP) carry_matrix(const __grid_constant__ dense_job job)
{
    const dense_place<N> p = dense_place_of<N>(job, 1);
    const int n = job.a.dim[1], column = p.channel * n + p.row;
    float a[N], h = p.used ? sv_walk_group(job.states, p.group)[column] : 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++)
        a[j] = p.used && j < n ? job.power[((int64_t)p.channel * n + j) * n + p.row] : 0.0f;
    for (int first = 0; first < job.chunks; first += CARRIED_AT_ONCE) {
        float next[CARRIED_AT_ONCE];
        float *ends = job.ends + (p.group * job.chunks + first) * job.y.dim[1] + column;
#pragma unroll
        for (int i = 0; i < CARRIED_AT_ONCE; i++)
            next[i] = p.used && first + i < job.chunks - 1 ? ends[(int64_t)i * job.y.dim[1]] : 0.0f;
#pragma unroll
        for (int i = 0; i < CARRIED_AT_ONCE; i++) {
            if (first + i >= job.chunks) break;
            if (p.used) ends[(int64_t)i * job.y.dim[1]] = h;
            h = ask_lanes<N>(a, h) + next[i];
        }
    }
}

template <int N> sv_status run_matrix(sv_ctx *c, dense_job job, int groups)
{
    const int n = job.a.dim[1], channels = job.y.dim[1] / n;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    job.chunks = (job.walk.length + CHUNK - 1) / CHUNK;
    const int64_t lanes = (int64_t)groups * channels * N;
    const unsigned blocks = (unsigned)((lanes * job.chunks + THREADS - 1) / THREADS);
    const cudaStream_t stream = sv_cuda_stream(c);
    if (job.chunks > 1) {
        const size_t row = sizeof(float) * (size_t)job.y.dim[1];
        SV_TRY(sv_arena_alloc(c, &c->scratch, "chunks of matrices", row * (size_t)(groups * job.chunks),
                              (void **)&job.ends));
        SV_TRY(sv_arena_alloc(c, &c->scratch, "powers of matrices", row * (size_t)n, (void **)&job.power));
        raise_matrix<<<(unsigned)channels, THREADS, 0, stream>>>(job);
        walk_matrix<N, false><<<blocks, THREADS, 0, stream>>>(job);
        carry_matrix<N><<<(unsigned)((lanes + SV_WARP - 1) / SV_WARP), SV_WARP, 0, stream>>>(job);
    }
    walk_matrix<N, true><<<blocks, THREADS, 0, stream>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* ---- large matrices ------------------------------------------------------------------------------------ */

/* 'held': the matrix lies in shared memory, too. */
__global__ void __launch_bounds__(DENSE_THREADS)
    walk_dense(sv_tensor y, sv_tensor u, sv_tensor a, const float *b, sv_tensor states, sv_walk walk,
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

sv_status run_large_matrix(sv_ctx *c, const dense_job &job, int groups)
{
    const int n = job.a.dim[1];
    const size_t vectors = 2 * sizeof(float) * (size_t)n,
                 matrix = sizeof(float) * (size_t)n * (size_t)(n + 1);
    const bool held = vectors + matrix <= DENSE_BYTES;
    const size_t bytes = held ? vectors + matrix : vectors;
    SV_TRY(sv_cuda_reserve(c, "dense_scan", walk_dense, bytes));
    walk_dense<<<dim3((unsigned)groups, (unsigned)(job.y.dim[1] / n)), DENSE_THREADS, bytes,
                 sv_cuda_stream(c)>>>(job.y, job.u, job.a, job.b, job.states, job.walk, held);
    return SV_OK;
}

} // namespace

sv_status sv_cuda_dense_scan(sv_ctx *c, sv_tensor y, sv_tensor u, sv_tensor a, sv_tensor b,
                             const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length, n = a.dim[1];
    if (groups == 0 || y.dim[1] == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    dense_job job = {};
    job.y = y;
    job.u = u;
    job.a = a;
    job.b = (const float *)b.data;
    job.walk = sv_walk_of(seq);
    SV_TRY(sv_cuda_walk_states(c, seq, groups, y.dim[1], &job.states));
    if (n <= 8)
        SV_TRY(run_matrix<8>(c, job, groups));
    else if (n <= 16)
        SV_TRY(run_matrix<16>(c, job, groups));
    else if (n <= MOST_HELD)
        SV_TRY(run_matrix<MOST_HELD>(c, job, groups));
    else
        SV_TRY(run_large_matrix(c, job, groups));
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "dense_scan");
}
