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

#include <type_traits>

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
    if (!sv_delta_open(job, s, buffers)) return;
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

/* ---- along the chunks: up to 64 keys --------------------------------------------------------------------- */

template <int KEYS> struct carry_shape {
    static constexpr int ROWS = KEYS > SV_WARP ? KEYS / SV_WARP : 1, LANES = KEYS / ROWS, COLUMNS = 4,
                         WIDE = SV_WARP / LANES * COLUMNS, /* columns of a warp */
        PASS = KEYS * KEYS, STATE = KEYS * WIDE, PASSES = (AHEAD + 1) * PASS,
                         BYTES = (PASSES + 2 * STATE) * (int)sizeof(float);
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
    for (int i = 0; i < shape::PASS; i += SV_WARP * 4) {
        const int at = i + (int)threadIdx.x * 4;
        if (at < count) sv_copy_far(sv_shared_address(to + at), from + at);
    }
    sv_copies_end();
}

/* A warp has a few columns: a lane the key rows p, p + LANES, .. of four; what the others have goes through shared memory. */
template <int KEYS> __global__ void __launch_bounds__(SV_WARP) carry(const __grid_constant__ sv_delta_job job)
{
    using shape = carry_shape<KEYS>;
    constexpr int LANES = shape::LANES, ROWS = shape::ROWS, COLUMNS = shape::COLUMNS;
    extern __shared__ __align__(16) float buffers[];
    const int lane = threadIdx.x, part = lane % LANES,
              value = blockIdx.y * shape::WIDE + lane / LANES * COLUMNS, head = blockIdx.x % job.rule.heads;
    const int64_t group = blockIdx.x / job.rule.heads, cell = (int64_t)blockIdx.x * job.chunks,
                  one = (int64_t)job.values * KEYS;
    sv_announce();
    for (int i = lane * 4; i < shape::PASSES && job.keys < KEYS; i += SV_WARP * 4)
        *(float4 *)(buffers + i) = make_float4(0, 0, 0, 0);
    __syncwarp();
    sv_wait_before();
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    auto each = [&](auto f) {
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
                if (value + c < job.values) f(i, c, part + i * LANES);
    };
#pragma unroll
    for (int i = 0; i < AHEAD; i++) fetch<KEYS>(job, cell, i, buffers);
    float state[ROWS][COLUMNS] = {}, next[ROWS][COLUMNS] = {};
    float *ends = job.ends + (cell * job.values + value) * KEYS;
    each([&](int i, int c, int key) {
        next[i][c] = ends[c * KEYS + key];
        if (job.before.data && key < job.keys)
            state[i][c] =
                sv_walk_group(job.before, group)[((int64_t)head * job.keys + key) * job.values + value + c];
    });
    for (int chunk = 0;; chunk++, ends += one) {
        each([&](int i, int c, int key) { ends[c * KEYS + key] = state[i][c]; });
        if (chunk == job.chunks - 1) break;
        const float *pass = buffers + chunk % (AHEAD + 1) * shape::PASS + part;
        sv_numbers<COLUMNS> *all =
            (sv_numbers<COLUMNS> *)(buffers + shape::PASSES + chunk % 2 * shape::STATE) + lane / LANES * KEYS;
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                all[part + i * LANES].at[c] = state[i][c];
                state[i][c] = next[i][c];
            }
        sv_copies_wait<AHEAD - 1>();
        __syncwarp(); /* everyone's copies are there, and all are done with the buffer that is filled now */
        fetch<KEYS>(job, cell, chunk + AHEAD, buffers);
        if (chunk + 1 < job.chunks - 1) /* the last one's is not known, nor needed */
            each([&](int i, int c, int key) { next[i][c] = ends[one + c * KEYS + key]; });
#pragma unroll 32
        for (int j = 0; j < KEYS; j++) {
            const sv_numbers<COLUMNS> x = all[j];
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                const float p = pass[j * KEYS + i * LANES];
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) state[i][c] = fmaf(p, x.at[c], state[i][c]);
            }
        }
    }
}

/* ---- more keys ----------------------------------------------------------------------------------------- */

template <int KEYS> struct carry_wide_shape {
    static constexpr int ROWS = KEYS / SV_WARP, COLUMNS = 4, WIDE = COLUMNS, THREADS = KEYS,
                         BYTES = (1 + ROWS) * KEYS * COLUMNS * (int)sizeof(float);
};

/*
 * A thread has a key row of four columns. A warp multiplies 32 columns of P, which is read as it is, by the rows that belong to them;
 * what the warps find for a row is added up in their order.
 */
template <int KEYS>
__global__ void __launch_bounds__(KEYS) carry_wide(const __grid_constant__ sv_delta_job job)
{
    using shape = carry_wide_shape<KEYS>;
    using numbers = sv_numbers<shape::COLUMNS>;
    constexpr int ROWS = shape::ROWS, COLUMNS = shape::COLUMNS, BATCH = 64 / ROWS;
    extern __shared__ __align__(16) float buffers[];
    numbers *all = (numbers *)buffers, *shares = all + KEYS;
    const int key = threadIdx.x, lane = key % SV_WARP, from = key / SV_WARP * SV_WARP;
    const int value = blockIdx.y * COLUMNS, head = blockIdx.x % job.rule.heads;
    const int64_t group = blockIdx.x / job.rule.heads, cell = (int64_t)blockIdx.x * job.chunks;
    sv_announce();
    sv_wait_before();
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    numbers state = {};
    for (int c = 0; c < COLUMNS; c++)
        if (job.before.data && key < job.keys && value + c < job.values)
            state.at[c] =
                sv_walk_group(job.before, group)[((int64_t)head * job.keys + key) * job.values + value + c];
    for (int chunk = 0;; chunk++) {
        float *ends = job.ends + ((cell + chunk) * job.values + value) * KEYS + key;
        numbers sum = {};
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            if (value + c >= job.values) break;
            if (chunk < job.chunks - 1) sum.at[c] = ends[c * KEYS];
            ends[c * KEYS] = state.at[c];
        }
        if (chunk == job.chunks - 1) break;
        all[key] = state;
        __syncthreads();
        const float *pass = job.passes + (cell + chunk) * job.keys * KEYS + lane;
        numbers share[ROWS] = {};
#pragma unroll 1
        for (int first = from; first < from + SV_WARP; first += BATCH) {
            float p[BATCH][ROWS];
#pragma unroll
            for (int j = 0; j < BATCH; j++)
#pragma unroll
                for (int i = 0; i < ROWS; i++)
                    p[j][i] = first + j < job.keys ? pass[(first + j) * KEYS + i * SV_WARP] : 0.0f;
#pragma unroll
            for (int j = 0; j < BATCH; j++) {
                const numbers x = all[first + j];
#pragma unroll
                for (int i = 0; i < ROWS; i++)
#pragma unroll
                    for (int c = 0; c < COLUMNS; c++) share[i].at[c] = fmaf(p[j][i], x.at[c], share[i].at[c]);
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) shares[from * ROWS + i * SV_WARP + lane] = share[i];
        __syncthreads();
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const numbers x = shares[i * KEYS + key];
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) sum.at[c] += x.at[c];
        }
        state = sum;
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
    using shape = std::conditional_t<(KEYS <= 64), carry_shape<KEYS>, carry_wide_shape<KEYS>>;
    const int each = shape::WIDE;
    const dim3 grid(walkers, (unsigned)((job->values + each - 1) / each));
    if constexpr (KEYS <= 64)
        return sv_launch_early(c, "delta_scan", carry<KEYS>, *job, grid, SV_WARP, shape::BYTES);
    else
        return sv_launch_early(c, "delta_scan", carry_wide<KEYS>, *job, grid, shape::THREADS, shape::BYTES);
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
