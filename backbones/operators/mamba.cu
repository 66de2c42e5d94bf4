/* SPDX-License-Identifier: Apache-2.0
 *
 * A Mamba block of LION on the GPU in three kernels (formulas: mamba.c). Groups are cut into chunks of 32
 * or 64 tokens, which all run at once; each chunk's scan begins from zero first, then from what the chunks
 * before it leave:
 *
 *     1  chunk, direction   gather x -> in_proj (the u half) -> short convolution, SiLU -> x_proj ->
 * dt_proj, softplus
 *                           -> scan from h = 0: its last h and the sum of delta; v, delta, B and C are kept
 *     2  along the chunks   h(i+1) = exp(a sum_i) h(i) + end_i
 *     3  chunk              both directions from h(i) -> in_proj (the z half), gate -> out_proj ->
 * LayerNorm, residual
 *                           -> rows
 *
 * In 1 rows lie in walking order, so that both directions are one code; three tokens before the chunk come
 * along for the convolution. Products run on tensor cores (perception/core/matrix.cuh). A thread of a scan
 * is one channel of one direction with its 16 states in registers. Its exponentials are what takes the time:
 * most go to the special-function units, some are made by multiply-adds beside them. What the first kernel
 * keeps for the third, v and delta, are floats in fp32 and half floats otherwise. Nothing here depends on the
 * number of slots, groups or samples.
 */
#include "backbones/sequence.cuh"
#include "perception/core/maps.cuh"
#include "perception/core/matrix.cuh"

#include <cuda_fp16.h>

namespace {

enum {
    HISTORY = 3, /* tokens that the convolution looks back */
    STATES = 16,
    MOST_RANK = 8,
    WIDE = 2 * STATES + MOST_RANK, /* B, C, dt of a token */
    WIDE_PITCH = WIDE + 4,
};

/* Tokens of a chunk: few where blocks are small, so that they fill the GPU. */
constexpr int chunk_of(int channels)
{
    return channels <= 64 ? 32 : 64;
}

/* v and delta of a token and channel, kept from the first kernel for the third. */
template <int PRODUCTS> struct kept_pair;
template <> struct kept_pair<3> {
    using type = float2;
    static __device__ __forceinline__ float2 close(float v, float delta) { return make_float2(v, delta); }
    static __device__ __forceinline__ float2 open(float2 pair) { return pair; }
};
template <> struct kept_pair<1> {
    using type = __half2;
    static __device__ __forceinline__ __half2 close(float v, float delta)
    {
        return __floats2half2_rn(v, delta);
    }
    static __device__ __forceinline__ float2 open(__half2 pair) { return __half22float2(pair); }
};

struct weights {
    const float *conv_weight, *conv_bias, *dt_weight, *dt_bias, *a, *d;
    const float4 *x_proj;
};

struct block_job {
    sv_tensor x, y, slots; /* slots: slot -> row, with offsets */
    const int32_t *row_slot;
    const float4 *in_proj, *out_proj;
    weights direction[2];
    const float *norm_weight, *norm_bias;
    void *kept;  /* [2][slots][inner] pairs of v and delta */
    float *wide; /* [2][slots][WIDE]: B, C */
    float *ends; /* [chunks of all groups][2][states][inner] */
    float *sums; /* [chunks of all groups][2][inner] */
    int64_t slot_count;
    int32_t length, chunks, rank;
    float eps;
};

__device__ __forceinline__ int live_chunks(const block_job &job, int chunk)
{
    return min(job.slots.offsets[job.slots.batch], job.slots.dim[0]) / chunk;
}

/* 2^x to two units in the last place; 0 where the result is denormal. */
__device__ __forceinline__ float power(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/* 2^x by multiply-adds: 1e-7 of the result, exact at 0, and 2^-126 below that. */
__device__ __forceinline__ float power_by_terms(float x)
{
    const float clamped = fmaxf(x, -126.0f), shifted = clamped + 12582912.0f; /* rounds to a whole number */
    const float f = clamped - (shifted - 12582912.0f);
    float p = fmaf(1.3300267401e-3f, f, 9.6697091148e-3f);
    p = fmaf(p, f, 5.5505599901e-2f);
    p = fmaf(p, f, 2.4022281594e-1f);
    p = fmaf(p, f, 6.9314718056e-1f);
    p = fmaf(p, f, 1.0f);
    return __int_as_float(__float_as_int(p) + (__float_as_int(shifted) << 23));
}

/* The decay of state 's': one in eight by multiply-adds, so that both kinds of units are busy. */
__device__ __forceinline__ float decay(int s, float x)
{
    return s % 8 == 7 ? power_by_terms(x) : power(x);
}

/* Lets the next kernel of the stream be launched while this one drains; everything the kernels before it wrote is
 * there after this. */
__device__ __forceinline__ void wait_for_kernels_before()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

/* 1 / (1 + e^-x) to a few units in the last place. */
__device__ __forceinline__ float fast_sigmoid(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(1.0f + power(-1.44269504088896341f * x)));
    return y;
}

/* log(1 + e^x); 'exact' where small results must keep their relative accuracy, else to 2^-24 and the like. */
template <bool exact> __device__ __forceinline__ float softplus(float x)
{
    if (exact) return m_softplus(x);
    float log2;
    asm("lg2.approx.ftz.f32 %0, %1;\n" : "=f"(log2) : "f"(1.0f + power(1.44269504088896341f * x)));
    return x > 20.0f ? x
                     : fmaxf(log2 * 0.693147180559945309f, power(1.44269504088896341f * fminf(x, -12.0f)));
}

/* ---- 1 ------------------------------------------------------------------------------------------------- */

template <int C> struct first_shape {
    enum {
        INNER = 2 * C,
        THREADS = INNER,
        WARPS = THREADS / 32,
        X_PITCH = C + 4,
        U_PITCH = INNER + 4,
        CHUNK = chunk_of(C),
        LOADED = CHUNK + HISTORY,
        LOADED_ROWS = (LOADED + 15) / 16 * 16,
        BYTES = (LOADED_ROWS * U_PITCH + CHUNK * WIDE_PITCH) * 4, /* x lies where u will */
    };
};

template <int C, int PRODUCTS>
__global__ void __launch_bounds__(2 * C, (PRODUCTS > 1 && C < 128 ? 384 : 512) / (2 * C))
    walk_from_zero(const __grid_constant__ block_job job)
{
    using shape = first_shape<C>;
    using pair = kept_pair<PRODUCTS>;
    constexpr int INNER = shape::INNER, THREADS = shape::THREADS, WARPS = shape::WARPS, CHUNK = shape::CHUNK,
                  LOADED = shape::LOADED, LOADED_ROWS = shape::LOADED_ROWS;
    extern __shared__ float4 dynamic[];
    float *u = (float *)dynamic, *x = u, *wide = u + LOADED_ROWS * shape::U_PITCH;
    const int direction = blockIdx.y, tid = threadIdx.x, warp = tid / 32;
    wait_for_kernels_before();
    if ((int)blockIdx.x >= live_chunks(job, chunk_of(C))) return;
    const int64_t group = blockIdx.x / job.chunks;
    const int chunk = blockIdx.x % job.chunks, first = chunk * CHUNK;
    const weights &w = job.direction[direction];
    const int32_t *slot_row = (const int32_t *)job.slots.data;

    for (int i = tid; i < LOADED_ROWS * (C / 4); i += THREADS) {
        const int row = i / (C / 4), at = i % (C / 4) * 4, step = first + row - HISTORY;
        float4 value = make_float4(0, 0, 0, 0);
        if (row < LOADED && step >= 0) {
            const int64_t source = slot_row[sv_slot_of(group, job.length, step, direction == 1)];
            value = *(const float4 *)((const float *)job.x.data + source * job.x.pitch + at);
        }
        *(float4 *)&x[row * shape::X_PITCH + at] = value;
    }
    __syncthreads();
    {
        float sums[LOADED_ROWS / 16][4][4] = {};
        constexpr int STEPS = C / SV_MATRIX_K;
        sv_matrix_multiply<LOADED_ROWS / 16, 4, PRODUCTS>(
            sums, x, shape::X_PITCH, job.in_proj + (int64_t)warp * 4 * STEPS * 32, STEPS * 32, STEPS);
        __syncthreads(); /* x has been read */
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            *(float2 *)&u[row * shape::U_PITCH + warp * 32 + column] = make_float2(a, b);
        });
    }
    __syncthreads();

    const int channel = tid;
    {
        const float w0 = w.conv_weight[4 * channel], w1 = w.conv_weight[4 * channel + 1],
                    w2 = w.conv_weight[4 * channel + 2], w3 = w.conv_weight[4 * channel + 3],
                    bias = w.conv_bias[channel];
        float u0 = u[channel], u1 = u[shape::U_PITCH + channel], u2 = u[2 * shape::U_PITCH + channel];
#pragma unroll 8
        for (int t = 0; t < CHUNK; t++) {
            const float u3 = u[(t + HISTORY) * shape::U_PITCH + channel];
            const float sum = fmaf(w3, u3, fmaf(w2, u2, fmaf(w1, u1, fmaf(w0, u0, bias))));
            const float v = sum * fast_sigmoid(sum);
            u[t * shape::U_PITCH + channel] = v; /* read already */
            u0 = u1;
            u1 = u2;
            u2 = u3;
        }
    }
    __syncthreads();
    { /* dt, B, C by tiles of 16 tokens */
        constexpr int STEPS = INNER / SV_MATRIX_K, TILES = CHUNK / 16,
                      MT = WARPS >= TILES ? 1 : TILES / WARPS, NT = (WIDE + 7) / 8;
        if (warp < TILES / MT) {
            float sums[MT][NT][4] = {};
            const int row0 = warp * MT * 16;
            sv_matrix_multiply<MT, NT, PRODUCTS>(sums, u + row0 * shape::U_PITCH, shape::U_PITCH, w.x_proj,
                                                 STEPS * 32, STEPS);
            sv_matrix_each(sums, [&](int row, int column, float a, float b) {
                for (int e = 0; e < 2;
                     e++) { /* dt goes behind B and C, whose places are then multiples of 16 bytes */
                    const int from = column + e;
                    /* what lies behind the last is zero, and fills up dt */
                    const int to = from < job.rank                ? 2 * STATES + from
                                   : from < job.rank + 2 * STATES ? from - job.rank
                                                                  : from;
                    wide[(row0 + row) * WIDE_PITCH + to] = e ? b : a;
                }
            });
        }
    }
    __syncthreads();
    float *kept_wide = job.wide + (int64_t)direction * job.slot_count * (2 * STATES);
    for (int i = tid; i < CHUNK * (2 * STATES / 4); i += THREADS) {
        const int t = i / (2 * STATES / 4), at = i % (2 * STATES / 4) * 4;
        *(float4 *)(kept_wide + sv_slot_of(group, job.length, first + t, direction == 1) * (2 * STATES) +
                    at) = *(const float4 *)&wide[t * WIDE_PITCH + at];
    }

    float h[STATES], rate[STATES], dt_weight[MOST_RANK], sum = 0.0f;
#pragma unroll
    for (int s = 0; s < STATES; s++) {
        h[s] = 0.0f;
        rate[s] = w.a[channel * STATES + s] * 1.44269504088896341f;
    }
#pragma unroll
    for (int r = 0; r < MOST_RANK; r++)
        dt_weight[r] = r < job.rank ? w.dt_weight[channel * job.rank + r] : 0.0f;
    const float dt_bias = w.dt_bias[channel];
    typename pair::type *kept = (typename pair::type *)job.kept +
                                (int64_t)direction * job.slot_count * INNER + channel +
                                sv_slot_of(group, job.length, first, direction == 1) * INNER;
    const int step = direction == 1 ? -INNER : INNER;
    const bool last = chunk == job.chunks - 1; /* nobody needs its end */
    enum { AT_ONCE = 4 };
    for (int t0 = 0; t0 < CHUNK; t0 += AT_ONCE) {
        float v[AT_ONCE], delta[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const float4 first_four = *(const float4 *)&wide[(t0 + i) * WIDE_PITCH + 2 * STATES];
            float dt =
                fmaf(dt_weight[3], first_four.w,
                     fmaf(dt_weight[2], first_four.z,
                          fmaf(dt_weight[1], first_four.y, fmaf(dt_weight[0], first_four.x, dt_bias))));
            if (C > 64) {
                const float4 second_four = *(const float4 *)&wide[(t0 + i) * WIDE_PITCH + 2 * STATES + 4];
                dt = fmaf(dt_weight[7], second_four.w,
                          fmaf(dt_weight[6], second_four.z,
                               fmaf(dt_weight[5], second_four.y, fmaf(dt_weight[4], second_four.x, dt))));
            }
            delta[i] = softplus<(PRODUCTS > 1)>(dt);
            /* what is kept is what both walks use */
            const typename pair::type both = pair::close(u[(t0 + i) * shape::U_PITCH + channel], delta[i]);
            *kept = both;
            kept += step;
            v[i] = pair::open(both).x;
            delta[i] = pair::open(both).y;
        }
        if (last) continue;
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const float *token = &wide[(t0 + i) * WIDE_PITCH];
            const float in = delta[i] * v[i];
            sum += delta[i];
#pragma unroll
            for (int q = 0; q < STATES / 4; q++) {
                const float4 b = *(const float4 *)&token[4 * q];
                h[4 * q] = fmaf(decay(4 * q, delta[i] * rate[4 * q]), h[4 * q], in * b.x);
                h[4 * q + 1] = fmaf(decay(4 * q + 1, delta[i] * rate[4 * q + 1]), h[4 * q + 1], in * b.y);
                h[4 * q + 2] = fmaf(decay(4 * q + 2, delta[i] * rate[4 * q + 2]), h[4 * q + 2], in * b.z);
                h[4 * q + 3] = fmaf(decay(4 * q + 3, delta[i] * rate[4 * q + 3]), h[4 * q + 3], in * b.w);
            }
        }
    }
    if (last) return;
    const int64_t place = (int64_t)blockIdx.x * 2 + direction;
    job.sums[place * INNER + channel] = sum;
#pragma unroll
    for (int s = 0; s < STATES; s++) job.ends[(place * STATES + s) * INNER + channel] = h[s];
}

/* ---- 2 ------------------------------------------------------------------------------------------------- */

/* A thread per group, direction, state and channel; 'ends' becomes what each chunk starts from. */
template <int C> __global__ void carry(const __grid_constant__ block_job job)
{
    enum { INNER = 2 * C, AT_ONCE = 512 / chunk_of(C) };
    const int64_t item = sv_thread();
    const int channel = (int)(item % INNER), state = (int)(item / INNER % STATES),
              direction = (int)(item / (INNER * STATES) % 2);
    const int64_t group = item / (INNER * STATES * 2);
    wait_for_kernels_before();
    if (group * job.chunks >= live_chunks(job, chunk_of(C))) return;
    const float rate = job.direction[direction].a[channel * STATES + state] * 1.44269504088896341f;
    float h = 0.0f;
    for (int first = 0; first < job.chunks; first += AT_ONCE) {
        float end[AT_ONCE], sum[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int64_t place = (group * job.chunks + first + i) * 2 + direction;
            const bool used = first + i < job.chunks - 1;
            end[i] = used ? job.ends[(place * STATES + state) * INNER + channel] : 0.0f;
            sum[i] = used ? job.sums[place * INNER + channel] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (first + i >= job.chunks) break;
            const int64_t place = (group * job.chunks + first + i) * 2 + direction;
            job.ends[(place * STATES + state) * INNER + channel] = h;
            h = fmaf(power(rate * sum[i]), h, end[i]);
        }
    }
}

/* ---- 3 ------------------------------------------------------------------------------------------------- */

template <int C> struct second_shape {
    enum {
        INNER = 2 * C,
        THREADS = 2 * INNER,
        WARPS = THREADS / 32,
        X_PITCH = C + 4,
        Y_PITCH = INNER + 4,
        CHUNK = chunk_of(C),
        WIDE_FLOATS = 2 * CHUNK * 2 * STATES,
        BYTES = (WIDE_FLOATS + CHUNK * X_PITCH + 2 * CHUNK * Y_PITCH) * 4 + CHUNK * 4,
    };
};

template <int C, int PRODUCTS>
__global__ void __launch_bounds__(4 * C) walk_and_project(const __grid_constant__ block_job job)
{
    using shape = second_shape<C>;
    using pair = kept_pair<PRODUCTS>;
    constexpr int INNER = shape::INNER, THREADS = shape::THREADS, CHUNK = shape::CHUNK;
    extern __shared__ float4 dynamic[];
    float *wide = (float *)dynamic, *x = wide + shape::WIDE_FLOATS, *y = x + CHUNK * shape::X_PITCH;
    int *rows = (int *)(y + 2 * CHUNK * shape::Y_PITCH);
    wait_for_kernels_before();
    if ((int)blockIdx.x >= live_chunks(job, chunk_of(C))) return;
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
    const int64_t group = blockIdx.x / job.chunks, slot0 = (int64_t)blockIdx.x * CHUNK;
    const int chunk = blockIdx.x % job.chunks;

    if (tid < CHUNK) { /* the row that keeps a slot's result; -1: padding */
        const int row = ((const int32_t *)job.slots.data)[slot0 + tid];
        rows[tid] = job.row_slot[row] == slot0 + tid ? row : -1;
    }
    for (int i = tid; i < 2 * CHUNK * (2 * STATES / 4); i += THREADS) {
        const int direction = i / (CHUNK * (2 * STATES / 4)), at = i % (CHUNK * (2 * STATES / 4)) * 4;
        *(float4 *)&wide[direction * CHUNK * 2 * STATES + at] =
            *(const float4 *)&job.wide[((int64_t)direction * job.slot_count + slot0) * (2 * STATES) + at];
    }
    __syncthreads();
    for (int i = tid; i < CHUNK * (C / 4); i += THREADS) {
        const int row = i / (C / 4), at = i % (C / 4) * 4, source = rows[row];
        *(float4 *)&x[row * shape::X_PITCH + at] =
            source >= 0 ? *(const float4 *)((const float *)job.x.data + (int64_t)source * job.x.pitch + at)
                        : make_float4(0, 0, 0, 0);
    }

    { /* the scan; backward, the walk's chunk is counted from the group's end and its tokens are these */
        const int direction = tid / INNER, channel = tid % INNER;
        const int walked = direction ? job.chunks - 1 - chunk : chunk;
        const weights &w = job.direction[direction];
        const int64_t place = (group * job.chunks + walked) * 2 + direction;
        float h[STATES], rate[STATES];
#pragma unroll
        for (int s = 0; s < STATES; s++) {
            h[s] = job.ends[(place * STATES + s) * INNER + channel];
            rate[s] = w.a[channel * STATES + s] * 1.44269504088896341f;
        }
        const float skip = w.d[channel];
        const typename pair::type *kept = (const typename pair::type *)job.kept +
                                          ((int64_t)direction * job.slot_count + slot0) * INNER + channel;
        float *out = y + direction * CHUNK * shape::Y_PITCH + channel;
        enum { AT_ONCE = 8 };
        const int step = direction ? -INNER : INNER;
        kept += direction ? (CHUNK - 1) * INNER : 0;
        typename pair::type next[AT_ONCE]; /* on their way while the ones before are walked */
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) next[i] = kept[i * step];
        for (int first = 0; first < CHUNK; first += AT_ONCE) {
            float step_v[AT_ONCE], step_delta[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const float2 both = pair::open(next[i]);
                step_v[i] = both.x;
                step_delta[i] = both.y;
                if (first + AT_ONCE < CHUNK) next[i] = kept[(first + AT_ONCE + i) * step];
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int at = direction ? CHUNK - 1 - first - i : first + i;
                const float *token = &wide[(direction * CHUNK + at) * 2 * STATES];
                const float in = step_delta[i] * step_v[i];
                float sum = skip * step_v[i];
#pragma unroll
                for (int q = 0; q < STATES / 4; q++) {
                    const float4 b = *(const float4 *)&token[4 * q],
                                 c = *(const float4 *)&token[STATES + 4 * q];
                    h[4 * q] = fmaf(decay(4 * q, step_delta[i] * rate[4 * q]), h[4 * q], in * b.x);
                    sum = fmaf(h[4 * q], c.x, sum);
                    h[4 * q + 1] =
                        fmaf(decay(4 * q + 1, step_delta[i] * rate[4 * q + 1]), h[4 * q + 1], in * b.y);
                    sum = fmaf(h[4 * q + 1], c.y, sum);
                    h[4 * q + 2] =
                        fmaf(decay(4 * q + 2, step_delta[i] * rate[4 * q + 2]), h[4 * q + 2], in * b.z);
                    sum = fmaf(h[4 * q + 2], c.z, sum);
                    h[4 * q + 3] =
                        fmaf(decay(4 * q + 3, step_delta[i] * rate[4 * q + 3]), h[4 * q + 3], in * b.w);
                    sum = fmaf(h[4 * q + 3], c.w, sum);
                }
                out[at * shape::Y_PITCH] = sum;
            }
        }
    }
    __syncthreads();
    { /* gate: half of the tokens by 32 channels a warp */
        constexpr int STEPS = C / SV_MATRIX_K, COLUMN_WARPS = INNER / 32, MT = CHUNK / 32;
        const int row0 = warp / COLUMN_WARPS * (CHUNK / 2), column0 = warp % COLUMN_WARPS * 32;
        float sums[MT][4][4] = {};
        sv_matrix_multiply<MT, 4, PRODUCTS>(sums, x + row0 * shape::X_PITCH, shape::X_PITCH,
                                            job.in_proj + (int64_t)(INNER + column0) / 8 * STEPS * 32,
                                            STEPS * 32, STEPS);
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            float2 *forth = (float2 *)&y[(row0 + row) * shape::Y_PITCH + column0 + column],
                   *back = (float2 *)&y[(CHUNK + row0 + row) * shape::Y_PITCH + column0 + column];
            *forth = make_float2((forth->x + back->x) * (a * fast_sigmoid(a)),
                                 (forth->y + back->y) * (b * fast_sigmoid(b)));
        });
    }
    __syncthreads();
    float *mixed = y + CHUNK * shape::Y_PITCH; /* [CHUNK][X_PITCH], where the backward results were */
    {
        constexpr int STEPS = INNER / SV_MATRIX_K, COLUMNS = CHUNK / 2, NT = COLUMNS / 8,
                      COLUMN_WARPS = C / COLUMNS;
        const int row0 = warp / COLUMN_WARPS * 16, column0 = warp % COLUMN_WARPS * COLUMNS;
        float sums[1][NT][4] = {};
        sv_matrix_multiply<1, NT, PRODUCTS>(sums, y + row0 * shape::Y_PITCH, shape::Y_PITCH,
                                            job.out_proj + (int64_t)column0 / 8 * STEPS * 32, STEPS * 32,
                                            STEPS);
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            *(float2 *)&mixed[(row0 + row) * shape::X_PITCH + column0 + column] = make_float2(a, b);
        });
    }
    __syncthreads();
    constexpr int PER_LANE = C / 32;
    for (int t = warp; t < CHUNK; t += THREADS / 32) {
        const int row = rows[t];
        if (row < 0) continue;
        float value[PER_LANE], sum = 0, squares = 0;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) sum += value[i] = mixed[t * shape::X_PITCH + lane + 32 * i];
        for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
        const float mean = sum / (float)C;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) squares += (value[i] - mean) * (value[i] - mean);
        for (int d = 16; d > 0; d /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, d);
        const float scale = 1.0f / sqrtf(squares / (float)C + job.eps);
        float *out = (float *)job.y.data + (int64_t)row * job.y.pitch;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            const int at = lane + 32 * i;
            out[at] = x[t * shape::X_PITCH + at] +
                      ((value[i] - mean) * scale * job.norm_weight[at] + job.norm_bias[at]);
        }
    }
}

/* A kernel that waits for those before it itself, and so may be launched early. */
sv_status launch(sv_ctx *c, void (*kernel)(block_job), const block_job &job, dim3 grid, int threads,
                 int bytes)
{
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = (size_t)bytes;
    config.stream = sv_cuda_stream(c);
    config.attrs = &early;
    config.numAttrs = 1;
    SV_CUDA_TRY(c, "mamba_block", cudaLaunchKernelEx(&config, kernel, job));
    return SV_OK;
}

template <int C, int PRODUCTS> sv_status run_block(sv_ctx *c, const block_job &job)
{
    const int chunks = job.slots.dim[0] / chunk_of(C), groups = job.slots.dim[0] / job.length;
    SV_CUDA_TRY(c, "mamba_block",
                cudaFuncSetAttribute(walk_from_zero<C, PRODUCTS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     first_shape<C>::BYTES));
    SV_CUDA_TRY(c, "mamba_block",
                cudaFuncSetAttribute(walk_and_project<C, PRODUCTS>,
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, second_shape<C>::BYTES));
    SV_TRY(launch(c, walk_from_zero<C, PRODUCTS>, job, dim3((unsigned)chunks, 2), first_shape<C>::THREADS,
                  first_shape<C>::BYTES));
    SV_TRY(launch(c, carry<C>, job, dim3(sv_cuda_blocks((int64_t)groups * 2 * STATES * 2 * C)),
                  SV_CUDA_THREADS, 0));
    return launch(c, walk_and_project<C, PRODUCTS>, job, dim3((unsigned)chunks), second_shape<C>::THREADS,
                  second_shape<C>::BYTES);
}

} // namespace

sv_status sv_cuda_mamba_block(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_mamba_weights *w,
                              const sv_order *order, int length)
{
    const int slots = order->slot_row.dim[0], channels = x.dim[1];
    if (slots == 0) return SV_OK;
    SV_CHECK(c, order->slot_row.offsets, SV_BAD_SHAPE, "mamba_block: slots without offsets per sample");
    SV_CHECK(c, x.pitch % 4 == 0, SV_BAD_SHAPE, "mamba_block: rows of %d numbers lie %d apart", channels,
             x.pitch);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    block_job job = {};
    job.x = x;
    job.y = y;
    job.slots = order->slot_row;
    job.row_slot = (const int32_t *)order->row_slot.data;
    job.in_proj = (const float4 *)w->in_proj.packed;
    job.out_proj = (const float4 *)w->out_proj.packed;
    for (int i = 0; i < 2; i++) {
        weights *to = &job.direction[i];
        to->conv_weight = (const float *)w->direction[i].conv_weight.data;
        to->conv_bias = (const float *)w->direction[i].conv_bias.data;
        to->dt_weight = (const float *)w->direction[i].dt_proj.w.data;
        to->dt_bias = (const float *)w->direction[i].dt_proj.bias.data;
        to->a = (const float *)w->direction[i].a.data;
        to->d = (const float *)w->direction[i].d.data;
        to->x_proj = (const float4 *)w->direction[i].x_proj.packed;
    }
    job.norm_weight = (const float *)w->norm_weight.data;
    job.norm_bias = (const float *)w->norm_bias.data;
    job.slot_count = slots;
    job.length = length;
    const int chunk = chunk_of(channels);
    job.chunks = length / chunk;
    job.rank = w->rank;
    job.eps = w->eps;
    const size_t inner = (size_t)w->inner, count = (size_t)slots, chunks = count / (size_t)chunk;
    const bool exact = c->precision == SV_FP32;
    void *wide = NULL, *ends = NULL, *sums = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "mamba v, delta",
                          2 * count * inner * (exact ? sizeof(float2) : sizeof(__half2)), &job.kept));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "mamba B, C", 2 * count * 2 * STATES * sizeof(float), &wide));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "mamba chunk states", chunks * 2 * STATES * inner * sizeof(float),
                          &ends));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "mamba chunk sums", chunks * 2 * inner * sizeof(float), &sums));
    job.wide = (float *)wide;
    job.ends = (float *)ends;
    job.sums = (float *)sums;
    if (channels == 32)
        SV_TRY((exact ? run_block<32, 3>(c, job) : run_block<32, 1>(c, job)));
    else if (channels == 64)
        SV_TRY((exact ? run_block<64, 3>(c, job) : run_block<64, 1>(c, job)));
    else
        SV_TRY((exact ? run_block<128, 3>(c, job) : run_block<128, 1>(c, job)));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
