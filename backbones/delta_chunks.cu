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
__global__ void __launch_bounds__(SV_DELTA_WARPS *SV_WARP) walk_ends(const __grid_constant__ sv_delta_job job)
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

/* x[i] summed over LANES lanes; lane p then has x[p], x[p + LANES], .. first of all. */
template <int COUNT, int LANES> __device__ __forceinline__ void share_out(float (&x)[COUNT], int part)
{
#pragma unroll
    for (int d = LANES / 2; d > 0; d /= 2) {
        const bool upper = part & d;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            if (i % LANES >= d) continue; /* lower ones of pairs that are d apart */
            const float kept = upper ? x[i + d] : x[i], given = upper ? x[i] : x[i + d];
            x[i] = kept + __shfl_xor_sync(0xffffffffu, given, d);
        }
    }
}

template <int KEYS> struct carry_shape {
    static constexpr int ROWS = 4, LANES = KEYS / ROWS, COLUMNS = SV_WARP / LANES, PITCH = KEYS + 4,
                         BUFFER = KEYS * PITCH, BYTES = (AHEAD + 1) * BUFFER * (int)sizeof(float);
};

/* A warp has a few columns, one of a few lanes; lane p of them the key rows p, p + LANES, .. */
template <int KEYS> __global__ void __launch_bounds__(SV_WARP) carry(const __grid_constant__ sv_delta_job job)
{
    using shape = carry_shape<KEYS>;
    constexpr int LANES = shape::LANES, ROWS = shape::ROWS, PITCH = shape::PITCH;
    extern __shared__ __align__(16) float buffers[];
    const int lane = threadIdx.x, part = lane % LANES, value = blockIdx.y * shape::COLUMNS + lane / LANES;
    const int head = blockIdx.x % job.rule.heads;
    const int64_t group = blockIdx.x / job.rule.heads, cell = (int64_t)blockIdx.x * job.chunks;
    const bool used = value < job.values;
    for (int i = lane; i < (AHEAD + 1) * shape::BUFFER; i += SV_WARP) buffers[i] = 0;
    __syncwarp();
    sv_wait_before();
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    auto fetch = [&](int chunk) {
        const float *from = job.passes + (cell + chunk) * job.keys * KEYS;
        float *to = buffers + chunk % (AHEAD + 1) * shape::BUFFER;
        if (chunk < job.chunks - 1)
            for (int i = lane; i < job.keys * (KEYS / 4); i += SV_WARP)
                sv_copy_far(sv_shared_address(to + i / (KEYS / 4) * PITCH + i % (KEYS / 4) * 4),
                            from + 4 * i);
        sv_copies_end();
    };
#pragma unroll
    for (int i = 0; i < AHEAD; i++) fetch(i);
    float state[ROWS], next[ROWS] = {};
    float *ends = job.ends + (cell * job.values + (used ? value : 0)) * KEYS;
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int key = part + i * LANES;
        state[i] =
            job.before.data && used && key < job.keys
                ? sv_walk_group(job.before, group)[((int64_t)head * job.keys + key) * job.values + value]
                : 0.0f;
        next[i] = used ? ends[key] : 0.0f;
    }
    for (int chunk = 0; chunk < job.chunks; chunk++, ends += (int64_t)job.values * KEYS) {
        const float *pass = buffers + chunk % (AHEAD + 1) * shape::BUFFER;
        float sum[KEYS] = {}, now[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            now[i] = next[i];
            if (used) ends[part + i * LANES] = state[i];
        }
        if (chunk == job.chunks - 1) break;
        sv_copies_wait<AHEAD - 1>();
        __syncwarp(); /* everyone's copies are there, and all are done with the buffer that is filled now */
        fetch(chunk + AHEAD);
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (used && chunk + 1 < job.chunks - 1)
                next[i] = ends[(int64_t)job.values * KEYS + part + i * LANES];
#pragma unroll
        for (int j = 0; j < KEYS; j += 4)
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                const float4 x = *(const float4 *)(pass + (part + i * LANES) * PITCH + j);
                sum[j] = fmaf(x.x, state[i], sum[j]);
                sum[j + 1] = fmaf(x.y, state[i], sum[j + 1]);
                sum[j + 2] = fmaf(x.z, state[i], sum[j + 2]);
                sum[j + 3] = fmaf(x.w, state[i], sum[j + 3]);
            }
        share_out<KEYS, LANES>(sum, part);
#pragma unroll
        for (int i = 0; i < ROWS; i++) state[i] = now[i] + sum[i * LANES];
    }
}

template <int KEYS> sv_status begin_chunks(sv_ctx *c, sv_delta_job *job, int groups)
{
    const sv_delta_kind kind = sv_delta_kind_of(job);
    const int blocks = sv_delta_lay_out(job, job->values + job->keys, false),
              threads = (1 << job->column_bits) / sv_delta_shape<KEYS>::WIDE * SV_WARP,
              bytes = 2 * job->rows.size * (int)sizeof(float);
    const unsigned walkers = (unsigned)(groups * job->rule.heads);
    SV_TRY(sv_launch_early(c, "delta_scan",
                           kind == SV_DELTA_ONE    ? walk_ends<KEYS, SV_DELTA_ONE>
                           : kind == SV_DELTA_KEYS ? walk_ends<KEYS, SV_DELTA_KEYS>
                                                   : walk_ends<KEYS, SV_DELTA_PAIR>,
                           *job, dim3(walkers * (unsigned)(job->chunks - 1), (unsigned)blocks), threads,
                           bytes));
    const int each = carry_shape<KEYS>::COLUMNS;
    return sv_launch_early(c, "delta_scan", carry<KEYS>, *job,
                           dim3(walkers, (unsigned)((job->values + each - 1) / each)), SV_WARP,
                           carry_shape<KEYS>::BYTES);
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
    default:
        return begin_chunks<64>(c, job, groups);
    }
}
