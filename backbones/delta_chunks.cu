/* SPDX-License-Identifier: Apache-2.0
 *
 * What the chunks of a long group begin with. A chunk's tokens make of any state S before them
 *
 *     P S + N        P [keys,keys]: the product of their decays and corrections,  N: what they make of an empty state
 *
 * whatever the rule. So
 *
 *     1  all chunks but the last at once: the walk of an empty state and of the unit matrix's columns with v = 0, which are N and P
 *     2  along the chunks of a group: S(0) = state, S(i+1) = P(i) S(i) + N(i)
 *
 * and delta.cu walks all chunks again, from S(i). P is made by the same multiplications that the state itself would meet, without a
 * division or a difference of logarithms: nothing can overflow or vanish in it that would not in the walk.
 */
#include "backbones/delta_walk.cuh"

namespace {

enum { AHEAD = 3 }; /* of four buffers */

/* Columns from job.values on are those of P. */
template <int KEYS, sv_delta_kind KIND>
__global__ void __launch_bounds__(SV_DELTA_THREADS) walk_ends(const __grid_constant__ sv_delta_job job)
{
    constexpr int ROWS = sv_delta_shape<KEYS>::ROWS, LANES = sv_delta_shape<KEYS>::LANES,
                  COLUMNS = sv_delta_shape<KEYS>::COLUMNS;
    extern __shared__ __align__(16) float buffers[];
    const int chunk = blockIdx.x % (job.chunks - 1), warp = threadIdx.x / SV_WARP,
              lane = threadIdx.x % SV_WARP, part = lane % LANES,
              column = warp * sv_delta_shape<KEYS>::WIDE + lane / LANES * COLUMNS;
    sv_delta_span s;
    const int walker = blockIdx.x / (job.chunks - 1);
    s.group = walker / job.rule.heads;
    s.head = walker % job.rule.heads;
    s.column = blockIdx.y << job.column_bits;
    s.first = chunk * job.chunk;
    s.filler = threadIdx.x - (blockDim.x - SV_DELTA_FILLERS * SV_WARP);
    sv_delta_announce();
    sv_delta_clear(job, buffers);
    __syncthreads();
    sv_wait_before();
    if (s.group >= sv_walk_groups(job.y, job.walk)) return;
    sv_delta_state<KEYS> state;
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
            state.at[i][c] =
                s.column + column + c - job.values == 4 * (i / 4 * LANES + part) + i % 4 ? 1.0f : 0.0f;
    sv_delta_walk_all<KEYS, KIND, false>(job, s, s.first + job.chunk, buffers, part, column, state);
    if (s.filler >= 0) return;
    const int64_t cell = (int64_t)walker * job.chunks + chunk;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        const int value = s.column + column + c, key = value - job.values;
        if (key >= job.keys) continue;
        float *to = key < 0 ? job.ends + (cell * job.values + value) * KEYS
                            : job.passes + (cell * job.keys + key) * KEYS;
#pragma unroll
        for (int i = 0; i < ROWS; i += 4)
            *(float4 *)(to + 4 * (i / 4 * LANES + part)) =
                make_float4(state.at[i][c], state.at[i + 1][c], state.at[i + 2][c], state.at[i + 3][c]);
    }
}

/* ---- along the chunks ---------------------------------------------------------------------------------- */

template <int KEYS> struct carry_shape {
    static constexpr bool STAGED = KEYS <= 64; /* P goes through shared memory */
    static constexpr int LANES = KEYS < SV_WARP ? KEYS : SV_WARP, ROWS = KEYS / LANES,
                         THREADS = KEYS < 128 ? 128 : KEYS, SLICES = THREADS / LANES, COLUMNS = 4,
                         NUMBERS = KEYS * COLUMNS, OWN = NUMBERS > THREADS ? NUMBERS / THREADS : 1,
                         PASS = KEYS * KEYS, PASSES = STAGED ? (AHEAD + 1) * PASS : 0,
                         BYTES = (PASSES + (1 + SLICES) * NUMBERS) * (int)sizeof(float);
};

/* Starts the copy of P of a chunk to its buffer, if there is one. */
template <int KEYS>
__device__ __forceinline__ void fetch(const sv_delta_job &job, int64_t cell, int chunk, float *buffers)
{
    using shape = carry_shape<KEYS>;
    const int count = chunk < job.chunks - 1 ? job.keys * KEYS : 0;
    const float *from = job.passes + (cell + chunk) * job.keys * KEYS;
    float *to = buffers + chunk % (AHEAD + 1) * shape::PASS;
#pragma unroll
    for (int i = 0; i < shape::PASS; i += shape::THREADS * 4) {
        const int at = i + (int)threadIdx.x * 4;
        if (at < count) sv_copy_far(sv_shared_address(to + at), from + at);
    }
    sv_copies_end();
}

/* This thread's share of P S: its rows of P, its slice's columns. */
template <int KEYS>
__device__ __forceinline__ void multiply(sv_numbers<4> (&share)[carry_shape<KEYS>::ROWS], const float *pass,
                                         const sv_numbers<4> *all, int first, int keys)
{
    using shape = carry_shape<KEYS>;
    constexpr int ROWS = shape::ROWS, LANES = shape::LANES, SLICE = KEYS / shape::SLICES,
                  BATCH = SLICE < 64 / ROWS ? SLICE : 64 / ROWS; /* of loads that are on their way */
#pragma unroll 1
    for (int end = first + SLICE; first < end; first += BATCH) {
        float p[BATCH][ROWS];
#pragma unroll
        for (int j = 0; j < BATCH; j++)
#pragma unroll
            for (int i = 0; i < ROWS; i++)
                p[j][i] = first + j < keys ? pass[(first + j) * KEYS + i * LANES] : 0.0f;
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            const sv_numbers<4> x = all[first + j];
#pragma unroll
            for (int i = 0; i < ROWS; i++)
#pragma unroll
                for (int c = 0; c < 4; c++) share[i].at[c] = fmaf(p[j][i], x.at[c], share[i].at[c]);
        }
    }
}

/*
 * Four columns of a head's state; number 4 i + c of them is row i of column c. A slice of threads multiplies some columns of P by the
 * rows of S that belong to them; what the slices find is added up in their order.
 */
template <int KEYS>
__global__ void __launch_bounds__(carry_shape<KEYS>::THREADS) carry(const __grid_constant__ sv_delta_job job)
{
    using shape = carry_shape<KEYS>;
    constexpr int ROWS = shape::ROWS, LANES = shape::LANES, COLUMNS = shape::COLUMNS, OWN = shape::OWN,
                  NUMBERS = shape::NUMBERS;
    extern __shared__ __align__(16) float buffers[];
    float *all = buffers + shape::PASSES, *shares = all + NUMBERS;
    const int lane = threadIdx.x % LANES, slice = threadIdx.x / LANES, value = blockIdx.y * COLUMNS,
              head = blockIdx.x % job.rule.heads;
    const int64_t group = blockIdx.x / job.rule.heads, cell = (int64_t)blockIdx.x * job.chunks;
    sv_delta_announce();
    sv_wait_before();
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    auto each = [&](auto f) { /* this thread's numbers */
#pragma unroll
                              for (int i = 0; i < OWN; i++) {
                                  const int number = threadIdx.x + i * shape::THREADS, c = number % COLUMNS;
                                  if (number < NUMBERS && value + c < job.values) f(i, number / COLUMNS, c);
                              }
    };
#pragma unroll
    for (int i = 0; shape::STAGED && i < AHEAD; i++) fetch<KEYS>(job, cell, i, buffers);
    float state[OWN] = {}, next[OWN] = {};
    float *ends = job.ends + (cell * job.values + value) * KEYS;
    each([&](int i, int key, int c) {
        next[i] = ends[c * KEYS + key];
        if (job.before.data && key < job.keys)
            state[i] =
                sv_walk_group(job.before, group)[((int64_t)head * job.keys + key) * job.values + value + c];
    });
    for (int chunk = 0;; chunk++) {
        float sum[OWN];
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const int number = threadIdx.x + i * shape::THREADS;
            if (number < NUMBERS) all[number] = state[i];
            sum[i] = next[i];
        }
        each([&](int i, int key, int c) { ends[c * KEYS + key] = state[i]; });
        if (chunk == job.chunks - 1) break;
        ends += (int64_t)job.values * KEYS;
        if (chunk + 1 < job.chunks - 1) /* the last one's is not known, nor needed */
            each([&](int i, int key, int c) { next[i] = ends[c * KEYS + key]; });
        if (shape::STAGED) sv_copies_wait<AHEAD - 1>();
        __syncthreads(); /* S and P are there, and all are done with the buffer that is filled now */
        if (shape::STAGED) fetch<KEYS>(job, cell, chunk + AHEAD, buffers);
        const float *pass = shape::STAGED ? buffers + chunk % (AHEAD + 1) * shape::PASS
                                          : job.passes + (cell + chunk) * job.keys * KEYS;
        sv_numbers<COLUMNS> share[ROWS] = {};
        multiply<KEYS>(share, pass + lane, (const sv_numbers<COLUMNS> *)all, slice * (KEYS / shape::SLICES),
                       job.keys);
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            ((sv_numbers<COLUMNS> *)(shares + slice * NUMBERS))[i * LANES + lane] = share[i];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const int number = (threadIdx.x + i * shape::THREADS) % NUMBERS;
#pragma unroll
            for (int k = 0; k < shape::SLICES; k++) sum[i] += shares[k * NUMBERS + number];
            state[i] = sum[i];
        }
    }
}

/* ---- launching ----------------------------------------------------------------------------------------- */

template <int KEYS> sv_status begin_chunks(sv_ctx *c, sv_delta_job *job, int groups)
{
    const sv_delta_kind kind = sv_delta_kind_of(job);
    const int blocks = sv_delta_lay_out(job, job->values + job->keys, false),
              threads =
                  (1 << job->column_bits) / sv_delta_shape<KEYS>::WIDE * SV_WARP + SV_DELTA_FILLERS * SV_WARP,
              bytes = 2 * job->rows.size * (int)sizeof(float);
    const unsigned walkers = (unsigned)(groups * job->rule.heads);
    SV_TRY(sv_launch_early(c, "delta_scan",
                           kind == SV_DELTA_ONE    ? walk_ends<KEYS, SV_DELTA_ONE>
                           : kind == SV_DELTA_KEYS ? walk_ends<KEYS, SV_DELTA_KEYS>
                                                   : walk_ends<KEYS, SV_DELTA_PAIR>,
                           *job, dim3(walkers * (unsigned)(job->chunks - 1), (unsigned)blocks), threads,
                           bytes));
    using shape = carry_shape<KEYS>;
    const int each = shape::COLUMNS;
    return sv_launch_early(c, "delta_scan", carry<KEYS>, *job,
                           dim3(walkers, (unsigned)((job->values + each - 1) / each)), shape::THREADS,
                           shape::BYTES);
}

} // namespace

sv_status sv_cuda_delta_begin_chunks(sv_ctx *c, sv_delta_job *job, int groups)
{
    const int padded = sv_delta_padded(job->keys);
    const size_t rows = (size_t)groups * (size_t)job->rule.heads * (size_t)job->chunks;
    void *ends = NULL, *passes = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "delta chunk states",
                          rows * (size_t)(job->values * padded) * sizeof(float), &ends));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "delta chunk passes",
                          rows * (size_t)(job->keys * padded) * sizeof(float), &passes));
    job->ends = (float *)ends;
    job->passes = (float *)passes;
    switch (padded) {
    case 16:
        return begin_chunks<16>(c, job, groups);
    case 32:
        return begin_chunks<32>(c, job, groups);
    case 64:
        return begin_chunks<64>(c, job, groups);
    case 128:
        return begin_chunks<128>(c, job, groups);
    default:
        return begin_chunks<256>(c, job, groups);
    }
}
