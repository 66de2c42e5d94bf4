/* SPDX-License-Identifier: Apache-2.0
 *
 * Second moments of keys on the GPU; moments.simd.c has the formulas. A block has a head of a group and walks it token by
 * token; its matrices lie in shared memory where they fit, else where the state lies.
 */
#include "backbones/walk.cuh"

namespace {

enum { THREADS = 256, HELD_BYTES = 200 << 10 };

struct moments_job {
    sv_tensor y, q, k, v, states;
    sv_second_order second;
    sv_walk walk;
    int32_t heads, keys, values;
    bool held; /* the state's matrices are copied to shared memory */
};

/* A part of the state as the block works on it: a copy in shared memory ('room' moves on), or itself. */
__device__ float *open_part(const moments_job &job, float *state, int count, float *&room)
{
    if (!job.held) return state;
    float *copy = room;
    room += count;
    for (int i = threadIdx.x; i < count; i += THREADS) copy[i] = state[i];
    return copy;
}
__device__ void close_part(const moments_job &job, float *state, const float *part, int count)
{
    for (int i = threadIdx.x; job.held && i < count; i += THREADS) state[i] = part[i];
}

/* out[j] (+)= factor * sum_i x_i M[i][j]; a thread per column, which then reads its own 'out' only. */
__device__ __forceinline__ float column_times(const float *x, const float *matrix, int from, int to, int j)
{
    float sum[2] = {};
    for (int i = 0; i < from; i++) sum[i & 1] = fmaf(x[i], matrix[i * to + j], sum[i & 1]);
    return sum[0] + sum[1];
}

__device__ void copy_row(float *to, const float *from, int count)
{
    for (int i = threadIdx.x; i < count; i += THREADS) to[i] = from[i];
}

/* ---- second order ----------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(THREADS) walk_second(const __grid_constant__ moments_job job)
{
    extern __shared__ float shared[];
    const int64_t group = blockIdx.x;
    const int head = blockIdx.y, keys = job.keys, values = job.values, square = keys * keys,
              block = keys * values;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    float *q = shared, *k = q + keys, *qs = k + keys, *v = qs + keys, *kc = v + values, *room = kc + values;
    float *state = sv_walk_group(job.states, group), *state_s = state + head * square,
          *state_c = state + job.heads * square + head * block, *state_g = state_c + job.heads * block;
    float *s = open_part(job, state_s, square, room), *c = open_part(job, state_c, block, room),
          *g = open_part(job, state_g, block, room);
    for (int step = 0; step < job.walk.length; step++) {
        __syncthreads();
        copy_row(q, sv_walk_row(job.q, job.walk, group, step) + head * keys, keys);
        copy_row(k, sv_walk_row(job.k, job.walk, group, step) + head * keys, keys);
        copy_row(v, sv_walk_row(job.v, job.walk, group, step) + head * values, values);
        __syncthreads();
        for (int j = threadIdx.x; j < values; j += THREADS) kc[j] = column_times(k, c, keys, values, j);
        __syncthreads();
        for (int i = threadIdx.x; i < block; i += THREADS) {
            const int row = i / values, j = i % values;
            g[i] = fmaf(job.second.share * k[row], kc[j], job.second.decay_g * g[i]);
            c[i] = fmaf(q[row], v[j], job.second.decay * c[i]);
        }
        for (int i = threadIdx.x; i < square; i += THREADS)
            s[i] = fmaf(k[i / keys], k[i % keys], job.second.decay * s[i]);
        __syncthreads();
        for (int j = threadIdx.x; j < keys; j += THREADS) qs[j] = column_times(q, s, keys, keys, j);
        __syncthreads();
        float *y = sv_walk_row(job.y, job.walk, group, step) + head * values;
        for (int j = threadIdx.x; j < values; j += THREADS)
            y[j] = column_times(qs, c, keys, values, j) - column_times(q, g, keys, values, j);
    }
    __syncthreads();
    close_part(job, state_s, s, square);
    close_part(job, state_c, c, block);
    close_part(job, state_g, g, block);
}

/* ---- launching ---------------------------------------------------------------------------------------- */

moments_job job_of(sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, int heads, const sv_sequence *seq)
{
    moments_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.heads = heads;
    job.keys = q.dim[1] / heads;
    job.values = y.dim[1] / heads;
    job.walk = sv_walk_of(seq);
    return job;
}

/* 'rows': floats a block works with; 'matrices': those of its part of the state. */
sv_status run_heads(sv_ctx *c, const char *op, void (*kernel)(moments_job), moments_job *job,
                    const sv_sequence *seq, int state, int rows, int matrices)
{
    const int groups = job->y.dim[0] / seq->length;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    SV_TRY(sv_cuda_walk_states(c, seq, groups, state, &job->states));
    job->held = matrices > 0 && (size_t)(rows + matrices) * sizeof(float) <= HELD_BYTES;
    const size_t bytes = (size_t)(rows + (job->held ? matrices : 0)) * sizeof(float);
    SV_CHECK(c, bytes <= HELD_BYTES, SV_UNSUPPORTED,
             "%s: heads of %d keys and %d values are too wide for a GPU", op, job->keys, job->values);
    SV_CUDA_TRY(
        c, op,
        cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    kernel<<<dim3((unsigned)groups, (unsigned)job->heads), THREADS, bytes, sv_cuda_stream(c)>>>(*job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, op);
}

} // namespace

sv_status sv_cuda_second_order_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v,
                                    const sv_second_order *rule, const sv_sequence *seq)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    moments_job job = job_of(y, q, k, v, rule->heads, seq);
    job.second = *rule;
    const int matrices = job.keys * (job.keys + 2 * job.values);
    return run_heads(c, "second_order_scan", walk_second, &job, seq, job.heads * matrices,
                     3 * job.keys + 2 * job.values, matrices);
}
