/* SPDX-License-Identifier: Apache-2.0
 *
 * What memory_train.cu's two memories share: the rows of a mini-batch, which come while the one before is worked on, norms of rows
 * that eight lanes have, and matrices filled up with zeros.
 */
#ifndef SV_MEMORY_BATCH_CUH
#define SV_MEMORY_BATCH_CUH

#include "backbones/memory_walk.cuh"

namespace {

enum {
    WIDTH = SV_MEMORY_WIDTH,
    TOKENS = SV_MEMORY_TOKENS,
    HIDDEN = SV_MEMORY_HIDDEN,
    THREADS = 256,
    HALF = THREADS / 2
};
enum { PITCH = WIDTH + 4, WIDE = HIDDEN + 4 }; /* neighbouring rows begin in other banks */

/* ---- tokens -------------------------------------------------------------------------------------------- */

struct batch_rows {
    float q[TOKENS][PITCH], k[TOKENS][PITCH], target[TOKENS][PITCH];
    float row[TOKENS], column[TOKENS];
    float step[TOKENS]; /* of the memory, for each token's gradient */
};

struct place {
    int64_t group;
    int head;
};

/* A thread's numbers of a mini-batch: channel threadIdx.x % WIDTH of every eighth token. */
struct next_rows {
    static constexpr int EACH = TOKENS * WIDTH / THREADS;
    float q[EACH], k[EACH], v[EACH], row, column, last;

    __device__ __forceinline__ void fetch(const sv_memory_job &job, const place &p, int first)
    {
        const int at = threadIdx.x % WIDTH, tokens = min(job.rule.batch, job.walk.length - first);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int t = threadIdx.x / WIDTH + i * (THREADS / WIDTH);
            const bool there = at < job.width && t < tokens;
            q[i] = there ? sv_memory_row(job, job.in.q, p.group, first + t, p.head)[at] : 0.0f;
            k[i] = there ? sv_memory_row(job, job.in.k, p.group, first + t, p.head)[at] : 0.0f;
            v[i] = there ? sv_memory_row(job, job.in.v, p.group, first + t, p.head)[at] : 0.0f;
        }
        row = column = last = 0;
        if (threadIdx.x >= TOKENS || tokens <= 0) return;
        last = sv_memory_number(job, job.in.row, p.group, first + tokens - 1, p.head);
        if ((int)threadIdx.x < tokens) {
            row = sv_memory_number(job, job.in.row, p.group, first + threadIdx.x, p.head);
            column = sv_memory_number(job, job.in.column, p.group, first + threadIdx.x, p.head);
        } else if (job.rule.padded && (int)threadIdx.x < job.rule.batch) {
            column = 1;
        }
    }
    __device__ __forceinline__ void put(batch_rows *to, float scale) const
    {
        const int at = threadIdx.x % WIDTH;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int t = threadIdx.x / WIDTH + i * (THREADS / WIDTH);
            to->q[t][at] = scale * q[i];
            to->k[t][at] = k[i];
            to->target[t][at] = v[i] - k[i];
        }
        if (threadIdx.x >= TOKENS) return;
        to->row[threadIdx.x] = row;
        to->column[threadIdx.x] = column;
        to->step[threadIdx.x] = -last * column;
    }
};

/* ---- rows of four numbers a lane ----------------------------------------------------------------------- */

__device__ __forceinline__ void load4(float (&to)[4], const float *from)
{
    *(float4 *)to = *(const float4 *)from;
}
__device__ __forceinline__ void add4(float (&sum)[4], float by, const float *row)
{
    float r[4];
    load4(r, row);
#pragma unroll
    for (int n = 0; n < 4; n++) sum[n] = fmaf(by, r[n], sum[n]);
}
__device__ __forceinline__ float dot(const float *a, const float *b, int count)
{
    float sum[4] = {};
#pragma unroll 4
    for (int i = 0; i < count; i += 4) {
        float x[4], y[4];
        load4(x, a + i);
        load4(y, b + i);
#pragma unroll
        for (int n = 0; n < 4; n++) sum[n] = fmaf(x[n], y[n], sum[n]);
    }
    return sum[0] + sum[1] + (sum[2] + sum[3]);
}

/* Over eight neighbouring lanes, in all of them. */
__device__ __forceinline__ float sum8(float x)
{
#pragma unroll
    for (int d = 1; d < 8; d *= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

/* The layer norm of a row, four numbers in each of eight lanes. */
struct row_norm {
    float gamma[4], beta[4], eps, width;
    bool used[4];

    __device__ void begin(const sv_memory_job &job, int head, int first)
    {
        eps = job.rule.eps;
        width = (float)job.width;
#pragma unroll
        for (int n = 0; n < 4; n++) {
            used[n] = first + n < job.width;
            gamma[n] =
                used[n] ? ((const float *)job.in.norm_weight.data)[head * job.width + first + n] : 0.0f;
            beta[n] = used[n] ? ((const float *)job.in.norm_bias.data)[head * job.width + first + n] : 0.0f;
        }
    }
    /* z becomes (z - mean) / deviation, 0 where there is no channel; 1 / deviation. */
    __device__ __forceinline__ float normalise(float (&z)[4]) const
    {
        float sum = 0, squares = 0;
#pragma unroll
        for (int n = 0; n < 4; n++) sum += used[n] ? z[n] : 0.0f;
        const float mean = sum8(sum) / width;
#pragma unroll
        for (int n = 0; n < 4; n++) {
            z[n] = used[n] ? z[n] - mean : 0.0f;
            squares = fmaf(z[n], z[n], squares);
        }
        const float rate = 1.0f / sqrtf(sum8(squares) / width + eps);
#pragma unroll
        for (int n = 0; n < 4; n++) z[n] *= rate;
        return rate;
    }
    /* z becomes d/dz |LN(z) - target|^2 / 2 */
    __device__ __forceinline__ void differentiate(float (&z)[4], const float *target) const
    {
        const float rate = normalise(z);
        float g[4], sum = 0, along = 0, aim[4];
        load4(aim, target);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            g[n] = (fmaf(gamma[n], z[n], beta[n]) - aim[n]) * gamma[n];
            sum += g[n];
            along = fmaf(g[n], z[n], along);
        }
        sum = sum8(sum);
        along = sum8(along);
#pragma unroll
        for (int n = 0; n < 4; n++) z[n] = used[n] ? rate * (g[n] - (sum + along * z[n]) / width) : 0.0f;
    }
};

/* y = q or o, plus LN(o); q is scaled already. */
__device__ __forceinline__ void write_result(const sv_memory_job &job, const place &p, int step, int first,
                                             const row_norm &norm, const float (&o)[4], const float *q)
{
    float hat[4] = {o[0], o[1], o[2], o[3]}, base[4];
    norm.normalise(hat);
    load4(base, q + first);
    if (step >= job.walk.length) return;
    float *y = sv_memory_row(job, job.y, p.group, step, p.head) + first;
#pragma unroll
    for (int n = 0; n < 4; n++)
        if (norm.used[n])
            y[n] = (job.rule.query_residual ? base[n] : o[n]) + fmaf(norm.gamma[n], hat[n], norm.beta[n]);
}

/* What token t takes of the gradient of token s. */
__device__ __forceinline__ float weight_of(const batch_rows &m, int t, int s, float match)
{
    return s <= t ? -m.row[t] * m.column[s] * (match + 1) : 0.0f;
}

/* A matrix of the state, [rows, columns], to rows of PITCHED numbers with zeros around it, and back. */
template <int ROWS, int COLUMNS, int PITCHED>
__device__ void load_matrix(float *to, const float *from, int rows, int columns)
{
    for (int i = threadIdx.x; i < ROWS * COLUMNS; i += THREADS) {
        const int row = i / COLUMNS, column = i % COLUMNS;
        to[row * PITCHED + column] = row < rows && column < columns ? from[row * columns + column] : 0.0f;
    }
}
template <int PITCHED> __device__ void store_matrix(float *to, const float *from, int rows, int columns)
{
    for (int i = threadIdx.x; i < rows * columns; i += THREADS)
        to[i] = from[i / columns * PITCHED + i % columns];
}

} // namespace

#endif
