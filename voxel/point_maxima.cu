/* SPDX-License-Identifier: Apache-2.0
 *
 * One or two layers over the points and the maxima of voxels in one kernel (formulas: ops.def):
 *
 *     64 points' features -> W0, bias, ReLU -> W1 -> maxima along the points, a thread per channel
 *
 * The points' activations never leave the multiprocessor: they are ten times the voxels'. Points of a voxel follow each other, in one
 * run. A block takes EACH points at a time; of runs that reach beyond them it leaves a part of the maximum, and a second kernel puts the
 * parts together. Numbers and sums are those of linear layers of 16-bit products (ops_dense.cu), so the bytes are the same as
 * layer by layer.
 */
#include "perception/core/launch.cuh"
#include "perception/core/tile.cuh"

namespace {

enum {
    ROWS = 64,
    EACH = 128,
    THREADS = 128,
    MOST_IN = 16,
    MOST_OUT = 128,
    HIDDEN = SV_TILE_K,
    A_BYTES = ROWS * SV_TILE_ROW_BYTES,
    W0_BYTES = HIDDEN * SV_TILE_ROW_BYTES,
    AT_ONCE = 8,                         /* rows of a column on their way together */
    FEATURES = ROWS * MOST_IN / THREADS, /* of a thread at most */
};

struct maxima_job {
    sv_tensor y, x;
    const int32_t *voxel; /* of each point */
    const void *w0, *w1;
    const float *bias; /* [hidden] */
    float *
        parts; /* [blocks][2][MOST_OUT]: of the run that came from the block before; of the one that goes on */
    int hidden;
};

/* Whether a run begins at this row; the end counts as one. */
__device__ __forceinline__ bool begins(const maxima_job &job, int row, int rows)
{
    return row == 0 || row >= rows || job.voxel[row] != job.voxel[row - 1];
}
/* Where a part's maximum of the run of 'voxel' belongs: the run came from the part before, goes on in the next. */
__device__ __forceinline__ float *place_of(const maxima_job &job, int part, int voxel, bool came,
                                           bool goes_on)
{
    if (came || goes_on) return job.parts + ((int64_t)part * 2 + !came) * MOST_OUT;
    return (float *)job.y.data + (int64_t)voxel * job.y.pitch;
}

template <int N> struct maxima_shape {
    enum {
        TWO = N > 0,
        WIDTH = TWO ? N : (int)HIDDEN, /* of the result */
        PITCH = WIDTH + 8,             /* a warp's pairs of sums lie in different banks */
        W1_BYTES = N * SV_TILE_ROW_BYTES,
        SUM_BYTES = ROWS * PITCH * 4,
        BYTES = (TWO ? 2 : 1) * A_BYTES + W0_BYTES + W1_BYTES + SUM_BYTES + 1024,
    };
};

/* What a block knows of 64 points, twice: of those whose maxima are being looked for, and of the next. */
struct point_runs {
    int voxel[2][ROWS];
    uint32_t first[2][ROWS / 32]; /* bits of the rows where a run begins */
};

/* What a thread loads of 64 points: every 128th of their features, which lie together, and a point's voxel. */
struct loaded {
    int from[FEATURES], to[FEATURES]; /* within the points' numbers, -1: none; within the tile */
    float feature[FEATURES];
    int voxel;
    bool first;
};

template <typename T> __device__ __forceinline__ void place_loads(loaded &next, const maxima_job &job)
{
    const int k = job.x.dim[1];
#pragma unroll
    for (int i = 0; i < FEATURES; i++) {
        const int at = threadIdx.x + i * THREADS, row = at / k, column = at % k;
        next.from[i] = row < ROWS ? row * job.x.pitch + column : -1;
        next.to[i] = row * SV_TILE_ROW_BYTES + ((column / 8 ^ (row & 7)) << 4) + column % 8 * (int)sizeof(T);
    }
}
__device__ __forceinline__ void load_points(loaded &next, const maxima_job &job, int row0, int end, int rows)
{
    const float *x = (const float *)job.x.data + (int64_t)row0 * job.x.pitch;
    const int beyond = (end - row0) * job.x.pitch, row = row0 + threadIdx.x;
#pragma unroll
    for (int i = 0; i < FEATURES; i++)
        next.feature[i] = next.from[i] >= 0 && next.from[i] < beyond ? x[next.from[i]] : 0.0f;
    const bool there = threadIdx.x < ROWS && row < end;
    next.voxel = there ? job.voxel[row] : -1;
    next.first = there && begins(job, row, rows);
}
template <typename T>
__device__ __forceinline__ void store_points(unsigned char *tile, point_runs &runs, int turn,
                                             const loaded &next)
{
#pragma unroll
    for (int i = 0; i < FEATURES; i++)
        if (next.from[i] >= 0) *(T *)(tile + next.to[i]) = sv_narrow<T>(next.feature[i]);
    const uint32_t who = __ballot_sync(0xffffffffu, next.first);
    if (threadIdx.x >= ROWS) return;
    runs.voxel[turn][threadIdx.x] = next.voxel;
    if (threadIdx.x % 32 == 0) runs.first[turn][threadIdx.x / 32] = who;
}

/* f(row, column, the two numbers from there) of this thread's sums (tile.cuh). */
template <int N, typename F> __device__ __forceinline__ void each_pair(const float (&d)[N / 2], F f)
{
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, column = lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < N / 8; j++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            f(row + 8 * h, 8 * j + column, make_float2(d[4 * j + 2 * h], d[4 * j + 2 * h + 1]));
}
__device__ __forceinline__ float relu(float x)
{
    return 0.0f > x ? 0.0f : x; /* passes NaN on */
}

/* The run that a thread is in, and its channel's maximum so far. */
struct open_run {
    float best;
    int voxel;
    bool came;
};

/* A thread's channel of 64 points in their order; runs that end are written. */
__device__ __forceinline__ void follow_runs(open_run &run, const maxima_job &job, int part,
                                            const float *column, int pitch, const int *voxel, uint64_t first,
                                            int count, bool opens)
{
    for (int row0 = 0; row0 < count; row0 += AT_ONCE) {
        float value[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) value[i] = column[(row0 + i) * pitch];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int row = row0 + i;
            if (row >= count) break;
            const bool begins_here = first >> row & 1, opens_here = opens && row == 0;
            if (begins_here || opens_here) {
                if (!opens_here) place_of(job, part, run.voxel, run.came, false)[threadIdx.x] = run.best;
                run.voxel = voxel[row];
                run.came = !begins_here;
            }
            run.best = begins_here || opens_here || value[i] > run.best ? value[i] : run.best;
        }
    }
}

/* N: outputs of the second layer (up to), 0: there is none. */
template <typename T, int N>
__global__ void __launch_bounds__(THREADS) find_maxima(const __grid_constant__ maxima_job job)
{
    using shape = maxima_shape<N>;
    sv_wait_before();
    const int rows = sv_rows(job.x), tid = threadIdx.x;
    if ((int)blockIdx.x * EACH >= rows) return;
    extern __shared__ __align__(16) unsigned char memory[];
    const uint32_t base = (sv_shared_address(memory) + 1023) & ~1023u, a1 = base + A_BYTES,
                   w0 = base + (shape::TWO ? 2 : 1) * A_BYTES, w1 = w0 + W0_BYTES;
    unsigned char *const tiles = memory + (base - sv_shared_address(memory));
    float *const sums = (float *)(tiles + (w1 + shape::W1_BYTES - base));
    __shared__ float bias[HIDDEN];
    __shared__ point_runs runs;

    for (int i = tid; i < W0_BYTES / 16; i += THREADS) sv_copy_far(w0 + 16 * i, (const uint4 *)job.w0 + i);
    for (int i = tid; i < shape::W1_BYTES / 16; i += THREADS)
        sv_copy_far(w1 + 16 * i, (const uint4 *)job.w1 + i);
    sv_copies_end();
    for (int i = tid; i < A_BYTES / 16; i += THREADS) ((uint4 *)tiles)[i] = make_uint4(0, 0, 0, 0);
    if (tid < HIDDEN) bias[tid] = tid < job.hidden ? job.bias[tid] : 0.0f;

    loaded next;
    place_loads<T>(next, job);
    const auto end_of = [&](int part) { return min((part + 1) * (int)EACH, rows); };
    load_points(next, job, blockIdx.x * EACH, end_of(blockIdx.x), rows);
    int turn = 0;
    for (int part = blockIdx.x; part * EACH < rows; part += gridDim.x) {
        const int begin = part * EACH, end = end_of(part), follower = part + (int)gridDim.x;
        open_run run = {};
        for (int row0 = begin; row0 < end; row0 += ROWS, turn ^= 1) {
            const int count = min(end - row0, (int)ROWS);
            __syncthreads(); /* the zeros are there; everyone is done with the features before */
            store_points<T>(tiles, runs, turn, next);
            sv_copies_wait<0>();
            sv_tile_publish();
            __syncthreads();
            if (row0 + ROWS < end)
                load_points(next, job, row0 + ROWS, end, rows);
            else if (follower * EACH < rows)
                load_points(next, job, follower * EACH, end_of(follower), rows);
            float hidden[HIDDEN / 2] = {};
            sv_tile_begin();
            sv_tile_multiply<T, HIDDEN, 0, MOST_IN / 16>(hidden, base, w0);
            sv_tile_end();
            sv_tile_wait<0>();
            each_pair<HIDDEN>(hidden, [&](int row, int column, float2 sum) {
                const float2 value = make_float2(relu(sum.x + bias[column]), relu(sum.y + bias[column + 1]));
                if constexpr (shape::TWO) {
                    T *to =
                        (T *)(tiles + A_BYTES + row * SV_TILE_ROW_BYTES + ((column / 8 ^ (row & 7)) << 4)) +
                        column % 8;
                    to[0] = sv_narrow<T>(value.x);
                    to[1] = sv_narrow<T>(value.y);
                } else {
                    *(float2 *)&sums[row * shape::PITCH + column] = value;
                }
            });
            if constexpr (shape::TWO) {
                sv_tile_publish();
                __syncthreads();
                float d[N / 2] = {};
                sv_tile_begin();
                sv_tile_multiply<T, N>(d, a1, w1);
                sv_tile_end();
                sv_tile_wait<0>();
                each_pair<N>(d, [&](int row, int column, float2 sum) {
                    *(float2 *)&sums[row * shape::PITCH + column] = sum;
                });
            }
            __syncthreads();
            if (tid < job.y.dim[1])
                follow_runs(run, job, part, sums + tid, shape::PITCH, runs.voxel[turn],
                            runs.first[turn][0] | (uint64_t)runs.first[turn][1] << 32, count, row0 == begin);
        }
        if (tid < job.y.dim[1])
            place_of(job, part, run.voxel, run.came, !begins(job, end, rows))[tid] = run.best;
    }
}

/* The maxima of runs that began in block blockIdx.x and went on. */
__global__ void __launch_bounds__(MOST_OUT) join_parts(const __grid_constant__ maxima_job job)
{
    sv_wait_before();
    const int rows = sv_rows(job.x), channel = threadIdx.x;
    int begin = blockIdx.x * EACH, end = min(begin + (int)EACH, rows);
    if (begin >= end || channel >= job.y.dim[1] || begins(job, end, rows)) return;
    const int voxel = job.voxel[end - 1];
    if (voxel == job.voxel[begin] && !begins(job, begin, rows)) return; /* it only passes by */
    const float *part = job.parts + (int64_t)blockIdx.x * 2 * MOST_OUT + channel;
    float best = part[MOST_OUT];
    do {
        part += 2 * MOST_OUT;
        best = *part > best ? *part : best;
        begin = end;
        end = min(begin + (int)EACH, rows);
    } while (job.voxel[end - 1] == voxel && !begins(job, end, rows));
    ((float *)job.y.data)[(int64_t)voxel * job.y.pitch + channel] = best;
}

template <typename T, int N> sv_status run(sv_ctx *c, const maxima_job &job)
{
    using shape = maxima_shape<N>;
    const unsigned blocks = (unsigned)(job.x.dim[0] + EACH - 1) / EACH;
    SV_TRY(sv_launch_resident(c, "point_maxima", find_maxima<T, N>, job, (int)blocks, THREADS, shape::BYTES));
    return sv_launch_early(c, "point_maxima", join_parts, job, dim3(blocks), MOST_OUT, 0);
}

template <typename T> sv_status run_layers(sv_ctx *c, const maxima_job &job)
{
    if (!job.w1) return run<T, 0>(c, job);
    return job.y.dim[1] <= 64 ? run<T, 64>(c, job) : run<T, 128>(c, job);
}

} // namespace

sv_status sv_cuda_point_maxima(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor voxel,
                               const sv_linear_weights *w, int layers)
{
    if (x.dim[0] == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    void *parts = NULL;
    const size_t blocks = (size_t)(x.dim[0] + EACH - 1) / EACH;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "parts of maxima", sizeof(float) * 2 * MOST_OUT * blocks, &parts));
    maxima_job job = {};
    job.y = y;
    job.x = x;
    job.voxel = (const int32_t *)voxel.data;
    job.w0 = w[0].narrow;
    job.w1 = layers > 1 ? w[1].narrow : NULL;
    job.bias = (const float *)w[0].bias.data;
    job.parts = (float *)parts;
    job.hidden = w[0].n;
    SV_TRY(c->precision == SV_BF16_MATH ? run_layers<__nv_bfloat16>(c, job) : run_layers<__half>(c, job));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
