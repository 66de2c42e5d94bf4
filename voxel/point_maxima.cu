/* SPDX-License-Identifier: Apache-2.0
 *
 * One or two layers over the points and the maxima of voxels in one kernel (formulas: ops.def):
 *
 *     64 points' features -> W0, bias, ReLU -> W1 -> maxima along the points, a thread per channel
 *
 * The points' activations never leave the multiprocessor: they are ten times the voxels'. Points of a voxel follow each other, in one
 * run. A block has EACH points; of runs that reach beyond them it leaves its part of the maximum, and a second kernel puts the
 * parts together. Numbers and sums are those of linear layers of 16-bit products (ops_dense.cu), so the bytes are the same as
 * layer by layer.
 */
#include "perception/core/cuda.cuh"
#include "perception/core/tile.cuh"

namespace {

enum {
    ROWS = 64,
    EACH = 256,
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
/* Where a block's maximum of the run of 'voxel' belongs: the run came from the block before, goes on in the next. */
__device__ __forceinline__ float *place_of(const maxima_job &job, int voxel, bool came, bool goes_on)
{
    if (came || goes_on) return job.parts + ((int64_t)blockIdx.x * 2 + !came) * MOST_OUT;
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

/* N: outputs of the second layer (up to), 0: there is none. */
template <typename T, int N>
__global__ void __launch_bounds__(THREADS) find_maxima(const __grid_constant__ maxima_job job)
{
    using shape = maxima_shape<N>;
    const int rows = sv_rows(job.x), k = job.x.dim[1], tid = threadIdx.x, lane = tid % 32;
    const int begin = blockIdx.x * EACH, end = min(begin + (int)EACH, rows);
    if (begin >= end) return;
    extern __shared__ __align__(16) unsigned char memory[];
    const uint32_t base = (sv_shared_address(memory) + 1023) & ~1023u;
    unsigned char *const a0 = memory + (base - sv_shared_address(memory)), *const a1 = a0 + A_BYTES;
    const uint32_t w0 = base + (shape::TWO ? 2 : 1) * A_BYTES, w1 = w0 + W0_BYTES;
    float *const sums = (float *)(a0 + (w1 + shape::W1_BYTES - base));
    __shared__ float bias[HIDDEN];
    __shared__ int voxel[2][ROWS];
    __shared__ uint32_t first_of[2][ROWS / 32]; /* bits of the rows where a voxel begins */

    for (int i = tid; i < W0_BYTES / 16; i += THREADS) sv_copy_far(w0 + 16 * i, (const uint4 *)job.w0 + i);
    for (int i = tid; i < shape::W1_BYTES / 16; i += THREADS)
        sv_copy_far(w1 + 16 * i, (const uint4 *)job.w1 + i);
    sv_copies_end();
    for (int i = tid; i < A_BYTES / 16; i += THREADS) ((uint4 *)a0)[i] = make_uint4(0, 0, 0, 0);
    if (tid < HIDDEN) bias[tid] = tid < job.hidden ? job.bias[tid] : 0.0f;

    /* Features of 64 points lie together; a thread has every 128th. */
    float next[FEATURES];
    const float *x = (const float *)job.x.data;
    auto load = [&](int row0) {
#pragma unroll
        for (int i = 0; i < FEATURES; i++) {
            const int at = tid + i * THREADS, row = row0 + at / k;
            next[i] = at < ROWS * k && row < end ? x[(int64_t)row * job.x.pitch + at % k] : 0.0f;
        }
    };
    load(begin);
    float best = 0;
    int own = 0; /* the run's voxel */
    bool came = false;
    for (int row0 = begin, turn = 0; row0 < end; row0 += ROWS, turn ^= 1) {
        const int count = min(end - row0, (int)ROWS);
        __syncthreads(); /* the zeros are there; everyone is done with the features before */
#pragma unroll
        for (int i = 0; i < FEATURES; i++) {
            const int at = tid + i * THREADS, row = at / k, column = at % k;
            if (at < ROWS * k)
                *(T *)(a0 + row * SV_TILE_ROW_BYTES + ((column / 8 ^ (row & 7)) << 4) + column % 8 * 2) =
                    sv_narrow<T>(next[i]);
        }
        if (tid < ROWS) {
            voxel[turn][tid] = tid < count ? job.voxel[row0 + tid] : -1;
            const uint32_t who = __ballot_sync(0xffffffffu, tid < count && begins(job, row0 + tid, rows));
            if (lane == 0) first_of[turn][tid / 32] = who;
        }
        sv_copies_wait<0>();
        sv_tile_publish();
        __syncthreads();
        if (row0 + ROWS < end) load(row0 + ROWS);
        float hidden[HIDDEN / 2] = {};
        sv_tile_begin();
        sv_tile_multiply<T, HIDDEN, 0, MOST_IN / 16>(hidden, base, w0);
        sv_tile_end();
        sv_tile_wait<0>();
        const int at_row = tid / 32 * 16 + lane / 4, at_column = lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < HIDDEN / 8; j++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int row = at_row + 8 * h, column = 8 * j + at_column;
                float pair[2];
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const float value = hidden[4 * j + 2 * h + e] + bias[column + e];
                    pair[e] = 0.0f > value ? 0.0f : value; /* passes NaN on */
                }
                if constexpr (shape::TWO) {
                    T *to = (T *)(a1 + row * SV_TILE_ROW_BYTES + ((j ^ (row & 7)) << 4) + at_column * 2);
                    to[0] = sv_narrow<T>(pair[0]);
                    to[1] = sv_narrow<T>(pair[1]);
                } else {
                    *(float2 *)&sums[row * shape::PITCH + column] = make_float2(pair[0], pair[1]);
                }
            }
        if constexpr (shape::TWO) {
            sv_tile_publish();
            __syncthreads();
            float d[N / 2] = {};
            sv_tile_begin();
            sv_tile_multiply<T, N>(d, base + A_BYTES, w1);
            sv_tile_end();
            sv_tile_wait<0>();
#pragma unroll
            for (int j = 0; j < N / 8; j++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    *(float2 *)&sums[(at_row + 8 * h) * shape::PITCH + 8 * j + at_column] =
                        make_float2(d[4 * j + 2 * h], d[4 * j + 2 * h + 1]);
        }
        __syncthreads();
        if (tid < job.y.dim[1]) {
            const uint64_t first = first_of[turn][0] | (uint64_t)first_of[turn][1] << 32;
            const float *column = sums + tid;
            for (int row = 0; row < count; row += AT_ONCE) {
                float value[AT_ONCE];
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) value[i] = column[(row + i) * shape::PITCH];
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) {
                    const int at = row0 + row + i;
                    const bool new_run = first >> (row + i) & 1;
                    if (at >= end) break;
                    if (new_run || at == begin) {
                        if (at > begin) place_of(job, own, came, false)[tid] = best;
                        own = voxel[turn][row + i];
                        came = !new_run;
                    }
                    best = new_run || at == begin || value[i] > best ? value[i] : best;
                }
            }
        }
    }
    if (tid < job.y.dim[1]) place_of(job, own, came, !begins(job, end, rows))[tid] = best;
}

/* The maxima of runs that began in block blockIdx.x and went on. */
__global__ void __launch_bounds__(MOST_OUT) join_parts(const __grid_constant__ maxima_job job)
{
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
    SV_CUDA_TRY(
        c, "point_maxima",
        cudaFuncSetAttribute(find_maxima<T, N>, cudaFuncAttributeMaxDynamicSharedMemorySize, shape::BYTES));
    find_maxima<T, N><<<blocks, THREADS, shape::BYTES, sv_cuda_stream(c)>>>(job);
    join_parts<<<blocks, MOST_OUT, 0, sv_cuda_stream(c)>>>(job);
    return SV_CUDA_LAUNCHED(c, "point_maxima");
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
