/* SPDX-License-Identifier: Apache-2.0
 *
 * The decayed outer-product scan and the token shift on the GPU (formulas: decay.simd.c).
 *
 * Groups are few and long, so a group is cut into chunks of 32 walking steps (or what the rule says), all of
 * which are walked at once:
 *
 *     1  each chunk but the last, from an empty state: its last state, and what it keeps of the state before
 *     2  along the chunks of a group: S0 = state, S(i+1) = kept_i S(i) + end_i
 *     3  each chunk, from S(i): the outputs
 *
 * A warp walks 16 value columns of a head (decay_walk.cuh), more than 32 key channels one part after the
 * other. What a chunk keeps is the exponential of a sum of logarithms or a product of factors, never a
 * quotient; factors travel less 1.
 */
#include "backbones/decay_walk.cuh"

#include <stddef.h>

namespace {

enum { WARPS = 4, THREADS = WARPS * SV_WARP, TOGETHER = 2, AT_ONCE = 16, CARRY_THREADS = 64 };

/* ---- one token ----------------------------------------------------------------------------------------- */

/* A token's turn on this lane's part of the state; its part of q'S for READ, else 0. */
template <int KEYS, sv_spread SPREAD, bool READ, bool BEFORE>
__device__ __forceinline__ float turn(const typename sv_decay_tokens<KEYS>::stage &at,
                                      const sv_decay_place &p, int token, int own, float (&s)[KEYS / 2],
                                      const float (&u)[BEFORE ? KEYS / 2 : 1])
{
    const float v = at.v[token][p.lane % SV_DECAY_COLUMNS],
                of_column = SPREAD == SV_SPREAD_KEY ? 0.0f : at.own[token][own];
    float sum[4] = {};
#pragma unroll
    for (int i = 0; i < KEYS / 8; i++) {
        float q[4] = {}, k[4], e[4] = {};
        *(float4 *)k = sv_decay_four<KEYS>(at.k[token], p, i);
        if (READ) *(float4 *)q = sv_decay_four<KEYS>(at.q[token], p, i);
        if (SPREAD != SV_SPREAD_COLUMN) *(float4 *)e = sv_decay_four<KEYS>(at.e[token], p, i);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            float &h = s[4 * i + n];
            if (BEFORE) sum[n] = fmaf(q[n], fmaf(u[4 * i + n] * k[n], v, h), sum[n]);
            h = fmaf(k[n], v, fmaf(sv_decay_factor<SPREAD>(e[n], of_column), h, h));
            if (READ && !BEFORE) sum[n] = fmaf(q[n], h, sum[n]);
        }
    }
    return sum[0] + sum[1] + (sum[2] + sum[3]);
}

/* A token's turn where the later ones have been: decayed and read before its own is added. */
template <int KEYS>
__device__ __forceinline__ float turn_later(const typename sv_decay_tokens<KEYS>::stage &at,
                                            const sv_decay_place &p, int token, int own, float (&s)[KEYS / 2])
{
    const float v = at.v[token][p.lane % SV_DECAY_COLUMNS], e = at.own[token][own];
    float sum[2] = {};
#pragma unroll
    for (int i = 0; i < KEYS / 8; i++) {
        float q[4], k[4];
        *(float4 *)q = sv_decay_four<KEYS>(at.q[token], p, i);
        *(float4 *)k = sv_decay_four<KEYS>(at.k[token], p, i);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            float &h = s[4 * i + n];
            h = fmaf(e, h, h);
            sum[n % 2] = fmaf(q[n], h, sum[n % 2]);
            h = fmaf(k[n], v, h);
        }
    }
    return sum[0] + sum[1];
}

/* ---- phase 1 ------------------------------------------------------------------------------------------- */

/* Factors of a chunk: of the columns, of the keys (by the warps of a head's first columns), or of both. */
template <int KEYS, sv_spread SPREAD>
__device__ void store_lost(const sv_decay_scan_job &job, const sv_decay_place &p, const float *lost,
                           float sum)
{
    const int first = p.half * (KEYS / 2) + job.first_key;
    if (SPREAD == SV_SPREAD_COLUMN && p.used && p.half == 0)
        job.lost[p.part * job.columns + p.column] = lost[0];
    if (SPREAD == SV_SPREAD_KEY) {
        if (KEYS < SV_WARP) sum += __shfl_xor_sync(0xffffffffu, sum, KEYS);
        if (p.tile == 0 && p.lane < KEYS && job.first_key + p.lane < job.keys)
            job.lost[(p.part * job.heads + p.head) * job.keys + job.first_key + p.lane] = expm1f(sum);
    }
    if (SPREAD == SV_SPREAD_PAIR && p.used)
#pragma unroll
        for (int j = 0; j < KEYS / 2; j++)
            if (first + j < job.keys)
                job.lost[(p.part * job.keys + first + j) * job.columns + p.column] = lost[j];
}

template <int KEYS, sv_spread SPREAD>
__global__ void __launch_bounds__(THREADS) end_chunks(const __grid_constant__ sv_decay_scan_job job)
{
    __shared__ sv_decay_tokens<KEYS> shared[WARPS];
    const sv_decay_place p = sv_decay_place_of(job);
    if ((int)p.group >= sv_rows(job.y) / job.length || p.chunk == (int)job.chunks - 1) return;
    sv_decay_tokens<KEYS> *t = &shared[threadIdx.x / SV_WARP];
    const int own = sv_decay_own(job, p);
    constexpr int LOST = SPREAD == SV_SPREAD_PAIR ? KEYS / 2 : 1;
    float s[KEYS / 2] = {}, lost[LOST] = {}, sum = 0;
    const float none[1] = {};
    sv_decay_rows(job, t, p);
    for (int first = -SV_DECAY_STAGE; first < p.count; first += SV_DECAY_STAGE) {
        const bool last = first + SV_DECAY_STAGE >= p.count;
        if (!last) sv_decay_load<KEYS>(job, t, p, first + SV_DECAY_STAGE, false);
        if (first < 0) continue;
        sv_decay_arrive<KEYS, SPREAD>(job, t, p, first, last, &sum);
        const auto &at = t->stages[first / SV_DECAY_STAGE % 2];
#pragma unroll 2
        for (int token = 0; token < SV_DECAY_STAGE; token++) {
            turn<KEYS, SPREAD, false, false>(at, p, token, own, s, none);
            if (SPREAD == SV_SPREAD_COLUMN)
                lost[0] = fmaf(at.own[token][own], lost[0], lost[0] + at.own[token][own]);
            if (SPREAD == SV_SPREAD_PAIR) {
#pragma unroll
                for (int i = 0; i < KEYS / 8; i++) {
                    float e[4];
                    *(float4 *)e = sv_decay_four<KEYS>(at.e[token], p, i);
#pragma unroll
                    for (int n = 0; n < 4; n++) {
                        const float f = sv_decay_factor<SPREAD>(e[n], at.own[token][own]);
                        float &kept = lost[(4 * i + n) % LOST];
                        kept = fmaf(f, kept, kept + f);
                    }
                }
            }
        }
        __syncwarp();
    }
    store_lost<KEYS, SPREAD>(job, p, lost, sum);
    if (!p.used) return;
    const int key = job.first_key + p.half * (KEYS / 2);
    float *ends = job.ends + (p.part * job.keys + key) * job.columns + p.column;
#pragma unroll
    for (int j = 0; j < KEYS / 2; j++, ends += job.columns)
        if (key + j < job.keys) *ends = s[j];
}

/* ---- phase 2 ------------------------------------------------------------------------------------------- */

/* One thread per group, key channel and column. Afterwards 'ends' holds what each chunk starts from. */
template <sv_spread SPREAD>
__global__ void __launch_bounds__(CARRY_THREADS)
    carry_chunks(const __grid_constant__ sv_decay_scan_job job, int keys)
{
    const unsigned blocks = (keys * job.columns + CARRY_THREADS - 1) / CARRY_THREADS,
                   group = blockIdx.x / blocks;
    const int item = (int)(blockIdx.x % blocks * CARRY_THREADS + threadIdx.x), column = item % job.columns,
              key = job.first_key + item / job.columns;
    const int64_t part = (int64_t)group * job.chunks;
    if (item >= keys * job.columns) return;
    if ((int)group >= sv_rows(job.y) / job.length) return;
    const int head = column / job.values, channel = head * job.keys + key;
    const int64_t step = (int64_t)job.keys * job.columns;
    float *end = job.ends + (part * job.keys + key) * job.columns + column;
    const int64_t lost_step = SPREAD == SV_SPREAD_COLUMN ? job.columns
                              : SPREAD == SV_SPREAD_KEY  ? (int64_t)job.heads * job.keys
                                                         : step;
    const float *lost = job.lost + part * lost_step +
                        (SPREAD == SV_SPREAD_COLUMN ? column
                         : SPREAD == SV_SPREAD_KEY  ? channel
                                                    : (int64_t)key * job.columns + column);
    float s = 0;
    if (job.state_in.data)
        s = sv_walk_group(job.state_in, group)[(int64_t)channel * job.values + column % job.values];
    const auto fetch = [&](int first, float(&ends)[AT_ONCE], float(&kept)[AT_ONCE]) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const bool there = first + i < (int)job.chunks - 1;
            ends[i] = there ? end[(first + i) * step] : 0.0f;
            kept[i] = there ? lost[(first + i) * lost_step] : 0.0f;
        }
    };
    const auto carry = [&](int first, const float(&ends)[AT_ONCE], const float(&kept)[AT_ONCE]) {
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            if (first + i >= (int)job.chunks) break;
            end[(first + i) * step] = s;
            s = fmaf(kept[i], s, s) + ends[i];
        }
    };
    float even[2][AT_ONCE], odd[2][AT_ONCE]; /* the next ones come while these are carried */
    fetch(0, even[0], even[1]);
    for (int first = 0; first < (int)job.chunks; first += 2 * AT_ONCE) {
        fetch(first + AT_ONCE, odd[0], odd[1]);
        carry(first, even[0], even[1]);
        fetch(first + 2 * AT_ONCE, even[0], even[1]);
        carry(first + AT_ONCE, odd[0], odd[1]);
    }
}

/* ---- phase 3 ------------------------------------------------------------------------------------------- */

/* Where a lane's results lie: those of its column, a walking step apart. */
struct results {
    float *first;
    int64_t step;
};
__device__ __forceinline__ results results_of(const sv_decay_scan_job &job, const sv_decay_place &p)
{
    float *y =
        (float *)job.y.data + sv_slot_of(p.group, job.length, p.begin, job.reverse) * job.y.pitch + p.column;
    return {y, job.reverse ? -(int64_t)job.y.pitch : (int64_t)job.y.pitch};
}

/* The tokens of a stage, ascending or, with the later ones only, descending; 'add': to what is there. */
template <int KEYS, sv_spread SPREAD, bool BEFORE, bool LATER>
__device__ __forceinline__ void read_stage(const sv_decay_scan_job &job, const sv_decay_tokens<KEYS> *t,
                                           const sv_decay_place &p, int first, const results &to, bool add,
                                           float (&s)[KEYS / 2], const float (&u)[BEFORE ? KEYS / 2 : 1])
{
    const auto &at = t->stages[first / SV_DECAY_STAGE % 2];
    const int own = sv_decay_own(job, p), count = p.used && p.half == 0 ? p.count - first : 0;
#pragma unroll 1
    for (int some = 0; some < SV_DECAY_STAGE; some += TOGETHER) {
        float before[TOGETHER];
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
            const int token = LATER ? SV_DECAY_STAGE - 1 - some - i : some + i;
            before[i] = add && token < count ? to.first[(first + token) * to.step] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < TOGETHER; i++) {
            const int token = LATER ? SV_DECAY_STAGE - 1 - some - i : some + i;
            float sum = LATER ? turn_later<KEYS>(at, p, token, own, s)
                              : turn<KEYS, SPREAD, true, BEFORE>(at, p, token, own, s, u);
            sum += __shfl_xor_sync(0xffffffffu, sum, SV_DECAY_COLUMNS);
            if (token < count) to.first[(first + token) * to.step] = fmaf(job.scale, sum, before[i]);
        }
    }
}

/* A chunk again from its end, for the later tokens that each token sees too. */
template <int KEYS>
__device__ void read_later(const sv_decay_scan_job &job, sv_decay_tokens<KEYS> *t, const sv_decay_place &p,
                           const results &to)
{
    float s[KEYS / 2] = {};
    const float none[1] = {};
    const int end = (p.count - 1) / SV_DECAY_STAGE * SV_DECAY_STAGE;
    for (int first = end + SV_DECAY_STAGE; first >= 0; first -= SV_DECAY_STAGE) {
        if (first > 0) sv_decay_load<KEYS>(job, t, p, first - SV_DECAY_STAGE, true);
        if (first > end) continue;
        sv_decay_arrive<KEYS, SV_SPREAD_COLUMN>(job, t, p, first, first == 0, NULL);
        read_stage<KEYS, SV_SPREAD_COLUMN, false, true>(job, t, p, first, to, true, s, none);
        __syncwarp();
    }
}

template <int KEYS, sv_spread SPREAD, bool BEFORE>
__global__ void __launch_bounds__(THREADS) walk_chunks(const __grid_constant__ sv_decay_scan_job job)
{
    __shared__ sv_decay_tokens<KEYS> shared[WARPS];
    const sv_decay_place p = sv_decay_place_of(job);
    if ((int)p.group >= sv_rows(job.y) / job.length) return;
    sv_decay_tokens<KEYS> *t = &shared[threadIdx.x / SV_WARP];
    sv_decay_rows(job, t, p);
    const int key = job.first_key + p.half * (KEYS / 2),
              keys = p.used ? job.keys - key : 0; /* from this lane's first on */
    const int64_t state = (int64_t)(p.head * job.keys + key) * job.values + p.value;
    const float *from = NULL;
    int apart = job.values;
    if (job.chunks > 1) {
        from = job.ends + (p.part * job.keys + key) * job.columns + p.column;
        apart = job.columns;
    } else if (job.state_in.data) {
        from = sv_walk_group(job.state_in, p.group) + state;
    }
    float s[KEYS / 2], u[BEFORE ? KEYS / 2 : 1] = {};
#pragma unroll
    for (int j = 0; j < KEYS / 2; j++) {
        s[j] = from && j < keys ? *from : 0.0f;
        from += from ? apart : 0;
        if (BEFORE && job.bonus && j < keys)
            u[j % (BEFORE ? KEYS / 2 : 1)] = job.bonus[p.head * job.keys + key + j];
    }
    const results to = results_of(job, p);
    for (int first = -SV_DECAY_STAGE; first < p.count; first += SV_DECAY_STAGE) {
        const bool last = first + SV_DECAY_STAGE >= p.count;
        if (!last) sv_decay_load<KEYS>(job, t, p, first + SV_DECAY_STAGE, true);
        if (first < 0) continue;
        sv_decay_arrive<KEYS, SPREAD>(job, t, p, first, last, NULL);
        read_stage<KEYS, SPREAD, BEFORE, false>(job, t, p, first, to, job.accumulate, s, u);
        __syncwarp();
    }
    if (p.used && p.chunk == (int)job.chunks - 1 && job.state_out.data) {
        float *out = sv_walk_group(job.state_out, p.group) + state;
#pragma unroll
        for (int j = 0; j < KEYS / 2; j++, out += job.values)
            if (j < keys) *out = s[j];
    }
    if constexpr (SPREAD == SV_SPREAD_COLUMN && !BEFORE)
        if (job.read == SV_READ_CHUNK) read_later<KEYS>(job, t, p, to);
}

/* ---- launches ------------------------------------------------------------------------------------------ */

/* What a stage is fetched from. */
template <int KEYS> void add_sources(sv_decay_scan_job *job)
{
    using stage = typename sv_decay_tokens<KEYS>::stage;
    const auto add = [&](const sv_tensor &t, int first, int count, size_t to, bool of_keys) {
        sv_decay_source *source = &job->source[job->sources++];
        source->data = (const float *)t.data;
        source->pitch = t.pitch;
        source->first = first;
        source->count = count;
        source->to = (int32_t)(to / sizeof(float));
        source->of_keys = of_keys;
    };
    job->sources = 0;
    add(job->q, 0, job->keys, offsetof(stage, q), true);
    add(job->k, 0, job->keys, offsetof(stage, k), true);
    add(job->v, 0, job->values, offsetof(stage, v), false);
    if (job->kind == SV_DECAY_CHANNEL || job->kind == SV_DECAY_PAIR)
        add(job->decay, 0, job->keys, offsetof(stage, e), true);
    if (job->kind == SV_DECAY_PAIR)
        add(job->decay, (int)job->heads * job->keys, job->values, offsetof(stage, own), false);
    if (job->kind == SV_DECAY_VALUE) add(job->decay, 0, job->values, offsetof(stage, own), false);
}

template <int KEYS, sv_spread SPREAD>
void run_spread(const sv_decay_scan_job &job, int64_t groups, cudaStream_t stream)
{
    const int keys = job.keys - job.first_key < KEYS ? job.keys - job.first_key : KEYS;
    const int64_t tasks = groups * job.chunks * job.heads * job.tiles,
                  carriers = (keys * job.columns + CARRY_THREADS - 1) / CARRY_THREADS * groups;
    const unsigned blocks = (unsigned)((tasks + WARPS - 1) / WARPS);
    if (job.chunks > 1) {
        end_chunks<KEYS, SPREAD><<<blocks, THREADS, 0, stream>>>(job);
        carry_chunks<SPREAD><<<(unsigned)carriers, CARRY_THREADS, 0, stream>>>(job, keys);
    }
    if constexpr (SPREAD != SV_SPREAD_PAIR) /* pairs are read after the token only */
        if (job.read == SV_READ_BEFORE) {
            walk_chunks<KEYS, SPREAD, true><<<blocks, THREADS, 0, stream>>>(job);
            return;
        }
    walk_chunks<KEYS, SPREAD, false><<<blocks, THREADS, 0, stream>>>(job);
}

template <int KEYS> void run_keys(sv_decay_scan_job job, int64_t groups, cudaStream_t stream)
{
    add_sources<KEYS>(&job);
    if (job.kind == SV_DECAY_CHANNEL)
        run_spread<KEYS, SV_SPREAD_KEY>(job, groups, stream);
    else if (job.kind == SV_DECAY_PAIR)
        run_spread<KEYS, SV_SPREAD_PAIR>(job, groups, stream);
    else
        run_spread<KEYS, SV_SPREAD_COLUMN>(job, groups, stream);
}

bool in_fours(sv_tensor t, int width)
{
    return t.pitch % 4 == 0 && width % 4 == 0 && (uintptr_t)t.data % 16 == 0;
}

sv_decay_scan_job job_of(sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor decay, sv_tensor bonus,
                         const sv_decay_rule *rule, const sv_sequence *seq, bool accumulate)
{
    sv_decay_scan_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.decay = decay;
    job.state_in = seq->state_in;
    job.state_out = seq->state_out;
    job.bonus = (const float *)bonus.data;
    job.index = (const int32_t *)seq->index.data;
    job.length = seq->length;
    job.chunk = rule->read == SV_READ_CHUNK ? rule->chunk : (int)SV_DECAY_CHUNK;
    job.chunks = (uint32_t)((seq->length + job.chunk - 1) / job.chunk);
    job.heads = (uint32_t)rule->heads;
    job.keys = q.dim[1] / rule->heads;
    job.values = y.dim[1] / rule->heads;
    job.columns = y.dim[1];
    job.tiles = (uint32_t)((job.values + SV_DECAY_COLUMNS - 1) / SV_DECAY_COLUMNS);
    job.kind = rule->decay;
    job.read = rule->read;
    job.scale = rule->scale;
    job.reverse = seq->reverse;
    job.accumulate = accumulate;
    const bool of_rows =
        rule->decay == SV_DECAY_CHANNEL || rule->decay == SV_DECAY_VALUE || rule->decay == SV_DECAY_PAIR;
    job.fours = in_fours(q, job.keys) && in_fours(k, job.keys) && in_fours(v, job.values) &&
                (!of_rows || in_fours(decay, 4));
    return job;
}

} // namespace

sv_status sv_cuda_decay_scan(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor decay,
                             sv_tensor bonus, const sv_decay_rule *rule, const sv_sequence *seq,
                             bool accumulate)
{
    const int64_t groups = y.dim[0] / seq->length;
    if (groups == 0 || y.dim[1] == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_decay_scan_job job = job_of(y, q, k, v, decay, bonus, rule, seq, accumulate);
    if (job.chunks > 1) {
        void *ends = NULL, *lost = NULL;
        const size_t parts = (size_t)groups * (size_t)job.chunks,
                     cells = (size_t)job.keys * (size_t)job.columns,
                     factors = job.kind == SV_DECAY_CHANNEL ? (size_t)job.heads * (size_t)job.keys
                               : job.kind == SV_DECAY_PAIR  ? cells
                                                            : (size_t)job.columns;
        SV_TRY(sv_arena_alloc(c, &c->scratch, "decay chunk states", parts * cells * sizeof(float), &ends));
        SV_TRY(sv_arena_alloc(c, &c->scratch, "decay chunk factors", parts * factors * sizeof(float), &lost));
        job.ends = (float *)ends;
        job.lost = (float *)lost;
    }
    const cudaStream_t stream = sv_cuda_stream(c);
    for (; job.first_key < job.keys; job.first_key += SV_DECAY_MOST, job.accumulate = true) {
        if (job.keys <= 16)
            run_keys<16>(job, groups, stream);
        else
            run_keys<SV_DECAY_MOST>(job, groups, stream);
    }
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "decay_scan");
}

/* ---- token shift --------------------------------------------------------------------------------------- */

namespace {

struct mix_job {
    sv_tensor y, x, m, state_in, state_out;
    const int32_t *index;
    int32_t length;
    bool reverse;
};

__device__ __forceinline__ float input_at(const mix_job &job, int64_t group, int step, int channel)
{
    if (step < 0)
        return job.state_in.data ? ((const float *)job.state_in.data)[group * job.state_in.pitch + channel]
                                 : 0.0f;
    const int64_t row = sv_row_of(job.index, sv_slot_of(group, job.length, step, job.reverse));
    return row < 0 ? 0.0f : ((const float *)job.x.data)[row * job.x.pitch + channel];
}

__global__ void mix_tokens(const __grid_constant__ mix_job job)
{
    const int64_t item = sv_thread();
    const int columns = job.y.dim[1], channels = job.x.dim[1];
    const int64_t slot = item / columns, group = slot / job.length;
    const int column = (int)(item % columns), channel = column % channels;
    if (group >= sv_rows(job.y) / job.length) return;
    const int place = (int)(slot % job.length), step = job.reverse ? job.length - 1 - place : place;
    const float x = input_at(job, group, step, channel), before = input_at(job, group, step - 1, channel);
    ((float *)job.y.data)[slot * job.y.pitch + column] =
        fmaf(before - x, ((const float *)job.m.data)[slot * job.m.pitch + column], x);
}

__global__ void keep_last(const __grid_constant__ mix_job job)
{
    const int64_t item = sv_thread(), group = item / job.x.dim[1];
    const int channel = (int)(item % job.x.dim[1]);
    if (group >= sv_rows(job.y) / job.length) return;
    ((float *)job.state_out.data)[group * job.state_out.pitch + channel] =
        input_at(job, group, job.length - 1, channel);
}

} // namespace

sv_status sv_cuda_token_mix(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor m, const sv_sequence *seq)
{
    if (y.dim[1] == 0) return SV_OK;
    const cudaStream_t stream = sv_cuda_stream(c);
    mix_job job = {};
    job.y = y;
    job.x = x;
    job.m = m;
    job.state_in = seq->state_in;
    job.state_out = seq->state_out;
    job.index = (const int32_t *)seq->index.data;
    job.length = seq->length;
    job.reverse = seq->reverse;
    mix_tokens<<<sv_cuda_blocks((int64_t)y.dim[0] * y.dim[1]), SV_CUDA_THREADS, 0, stream>>>(job);
    if (!sv_is_none(seq->state_out))
        keep_last<<<sv_cuda_blocks((int64_t)(y.dim[0] / seq->length) * x.dim[1]), SV_CUDA_THREADS, 0,
                    stream>>>(job);
    return SV_CUDA_LAUNCHED(c, "token_mix");
}
