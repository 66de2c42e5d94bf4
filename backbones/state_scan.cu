/* SPDX-License-Identifier: Apache-2.0
 *
 * Channels with several states on the GPU; diagonal.simd.c has the formulas. As in diagonal.cu a group is cut
 * into chunks of 64 walking steps: their ends from nothing, the states along the chunks, the outputs. A
 * thread has a channel of a chunk and all its states in registers. What a chunk keeps of a state is a power
 * of a constant (in double), or the product of the tokens' factors. Above 16 states a warp has a channel and
 * walks the whole group.
 */
#include "backbones/walk.cuh"

namespace {

enum { THREADS = 128, CHUNK = 64, SQUARINGS = 6, AT_ONCE = 8, CARRIED_AT_ONCE = 16, MOST_HELD = 16 };
enum { LANE_STATES = 8, CARRY_THREADS = 64 };
static_assert(1 << SQUARINGS == CHUNK, "a chunk keeps a power of two");

/* ---- several states of a channel ----------------------------------------------------------------------- */

struct state_job {
    sv_tensor y, u, states;
    sv_state_rule rule;
    sv_walk walk;
    int32_t chunks;
    float *ends, *kept; /* [groups, chunks, states (twice where complex), channels]; kept: SELECTIVE only */
};

/* A chunk of a channel. */
struct piece {
    int64_t group, part;
    int chunk, begin, count, channel;
    bool used;
};

__device__ __forceinline__ piece piece_of(const state_job &job)
{
    const int channels = job.y.dim[1], tiles = (channels + THREADS - 1) / THREADS;
    piece p;
    p.part = blockIdx.x / tiles;
    p.group = p.part / job.chunks;
    p.chunk = (int)(p.part % job.chunks);
    p.begin = p.chunk * CHUNK;
    p.count = min((int)CHUNK, job.walk.length - p.begin);
    p.channel = (int)(blockIdx.x % tiles) * THREADS + threadIdx.x;
    p.used = p.channel < channels;
    return p;
}

/* N states in registers, with what makes them. */
template <sv_state_kind KIND, int N> struct held_states {
    static constexpr int WIDE = KIND == SV_STATE_COMPLEX ? 2 * N : N;
    float h[WIDE], a[WIDE], b[KIND == SV_STATE_SELECTIVE ? 1 : WIDE];

    __device__ void begin(const state_job &job, const piece &p)
    {
        const int states = job.rule.states;
        const float *from_a = (const float *)job.rule.a.data + (int64_t)p.channel * job.rule.a.pitch,
                    *from_b = (const float *)job.rule.b.data + (int64_t)p.channel * job.rule.b.pitch;
#pragma unroll
        for (int i = 0; i < WIDE; i++) {
            const int s = i < N ? i : states + i - N;
            const bool there = p.used && i % N < states;
            h[i] = 0;
            a[i] = there ? from_a[s] : 0.0f;
            if (KIND != SV_STATE_SELECTIVE) b[i] = there ? from_b[s] : 0.0f;
        }
    }
    /* A token; 'row' has its b. factor(i, f): what state i keeps. */
    template <typename F>
    __device__ void turn(const state_job &job, float u, float delta, const float *row, F factor)
    {
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (KIND == SV_STATE_SELECTIVE) {
                const float keep = fmaf(job.rule.scale, expf(delta * a[i]), job.rule.shift);
                factor(i, keep);
                h[i] = fmaf(keep, h[i], delta * u * row[i]);
            } else if (KIND == SV_STATE_REAL) {
                h[i] = fmaf(a[i], h[i], b[i] * u);
            } else {
                const float r = fmaf(a[i], h[i], b[i] * u) - a[N + i] * h[N + i];
                h[N + i] = fmaf(a[i], h[N + i], fmaf(a[N + i], h[i], b[N + i] * u));
                h[i] = r;
            }
        }
    }
};

/* Rows b and c of a chunk's tokens, with zeros behind the states there are; by the whole block. */
template <int N> struct token_rows {
    float b[CHUNK][N], c[CHUNK][N];
};
template <int N> __device__ void fetch_rows(token_rows<N> *to, const state_job &job, const piece &p)
{
    for (int i = threadIdx.x; i < p.count * N; i += THREADS) {
        const int step = i / N, s = i % N;
        const bool there = s < job.rule.states;
        to->b[step][s] = there ? sv_walk_row(job.rule.b, job.walk, p.group, p.begin + step)[s] : 0.0f;
        to->c[step][s] = there ? sv_walk_row(job.rule.c, job.walk, p.group, p.begin + step)[s] : 0.0f;
    }
    __syncthreads();
}

/* each(step, u, delta) for the tokens of a piece, several of which are on their way at once */
template <typename F> __device__ __forceinline__ void walk_piece(const state_job &job, const piece &p, F each)
{
    const int64_t step = job.walk.reverse ? -1 : 1, u_step = step * job.u.pitch,
                  d_step = step * job.rule.delta.pitch;
    const float *u = sv_walk_row(job.u, job.walk, p.group, p.begin) + p.channel, *d = NULL;
    if (job.rule.delta.data) d = sv_walk_row(job.rule.delta, job.walk, p.group, p.begin) + p.channel;
    for (int first = 0; first < p.count; first += AT_ONCE) {
        float in[AT_ONCE], delta[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int at = min(first + i, p.count - 1);
            in[i] = p.used ? u[at * u_step] : 0.0f;
            delta[i] = p.used && d ? d[at * d_step] : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (first + i < p.count) each(first + i, in[i], delta[i]);
    }
}

/* Number i of a piece's states in 'ends' and 'kept'; a state that is there. */
template <int N>
__device__ __forceinline__ int64_t place_of(const state_job &job, const piece &p, int wide, int i)
{
    const int s = i < N ? i : job.rule.states + i - N;
    return (p.part * wide + s) * job.y.dim[1] + p.channel;
}

template <sv_state_kind KIND, int N>
__global__ void __launch_bounds__(THREADS) end_states(const __grid_constant__ state_job job)
{
    __shared__ token_rows<KIND == SV_STATE_SELECTIVE ? N : 1> rows;
    const piece p = piece_of(job);
    if (p.group >= sv_walk_groups(job.y, job.walk) || p.chunk == job.chunks - 1) return;
    if constexpr (KIND == SV_STATE_SELECTIVE) fetch_rows<N>(&rows, job, p);
    held_states<KIND, N> m;
    float kept[N];
#pragma unroll
    for (int i = 0; i < N; i++) kept[i] = 1;
    m.begin(job, p);
    walk_piece(job, p, [&](int step, float u, float delta) {
        m.turn(job, u, delta, rows.b[step], [&](int i, float f) { kept[i] *= f; });
    });
    if (!p.used) return;
    const int wide = job.rule.states * (KIND == SV_STATE_COMPLEX ? 2 : 1);
#pragma unroll
    for (int i = 0; i < m.WIDE; i++) {
        if (i % N >= job.rule.states) continue;
        const int64_t at = place_of<N>(job, p, wide, i);
        job.ends[at] = m.h[i];
        if (KIND == SV_STATE_SELECTIVE) job.kept[at] = kept[i % N];
    }
}

/* The power of a state's constant that a chunk keeps. */
template <sv_state_kind KIND>
__device__ void power(const state_job &job, int channel, int s, float *real, float *imaginary)
{
    const float *a = (const float *)job.rule.a.data + (int64_t)channel * job.rule.a.pitch + s;
    double r = (double)a[0], i = KIND == SV_STATE_COMPLEX ? (double)a[job.rule.states] : 0.0;
    for (int n = 0; n < SQUARINGS; n++) {
        const double square = r * r - i * i;
        i = 2 * r * i;
        r = square;
    }
    *real = (float)r;
    *imaginary = (float)i;
}

/* A thread per group, state and channel. Afterwards 'ends' holds what each chunk starts from. */
template <sv_state_kind KIND>
__global__ void __launch_bounds__(CARRY_THREADS) carry_states(const __grid_constant__ state_job job)
{
    const int64_t item = sv_thread();
    const int channels = job.y.dim[1], states = job.rule.states, channel = (int)(item % channels),
              s = (int)(item / channels % states);
    const int64_t group = item / channels / states;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    constexpr int PARTS = KIND == SV_STATE_COMPLEX ? 2 : 1;
    const int64_t step = (int64_t)PARTS * states * channels, other = (int64_t)states * channels,
                  first_at = group * job.chunks * step + (int64_t)s * channels + channel;
    const float *before = sv_walk_group(job.states, group) + (int64_t)channel * states + s;
    float r = before[0], i = PARTS == 2 ? before[other] : 0.0f, keep_r = 0, keep_i = 0;
    if (KIND != SV_STATE_SELECTIVE) power<KIND>(job, channel, s, &keep_r, &keep_i);
    for (int first = 0; first < job.chunks; first += CARRIED_AT_ONCE) {
        float next[CARRIED_AT_ONCE], more[CARRIED_AT_ONCE]; /* more: imaginary parts, or factors */
#pragma unroll
        for (int n = 0; n < CARRIED_AT_ONCE; n++) {
            const int64_t at = first_at + (first + n) * step;
            const bool there = first + n < job.chunks - 1;
            next[n] = there ? job.ends[at] : 0.0f;
            more[n] = there && KIND == SV_STATE_SELECTIVE ? job.kept[at] : 0.0f;
            if (there && PARTS == 2) more[n] = job.ends[at + other];
        }
#pragma unroll
        for (int n = 0; n < CARRIED_AT_ONCE; n++) {
            if (first + n >= job.chunks) break;
            const int64_t at = first_at + (first + n) * step;
            job.ends[at] = r;
            if (PARTS == 2) job.ends[at + other] = i;
            const float now = fmaf(KIND == SV_STATE_SELECTIVE ? more[n] : keep_r, r, next[n]) - keep_i * i;
            if (PARTS == 2) i = fmaf(keep_r, i, fmaf(keep_i, r, more[n]));
            r = now;
        }
    }
}

template <sv_state_kind KIND, int N>
__global__ void __launch_bounds__(THREADS) walk_states(const __grid_constant__ state_job job)
{
    __shared__ token_rows<KIND == SV_STATE_SELECTIVE ? N : 1> rows;
    const piece p = piece_of(job);
    if (p.group >= sv_walk_groups(job.y, job.walk)) return;
    if constexpr (KIND == SV_STATE_SELECTIVE) fetch_rows<N>(&rows, job, p);
    held_states<KIND, N> m;
    m.begin(job, p);
    const int states = job.rule.states, channels = job.y.dim[1],
              wide = states * (KIND == SV_STATE_COMPLEX ? 2 : 1);
    float *state = sv_walk_group(job.states, p.group) + (int64_t)p.channel * states;
    float c[KIND == SV_STATE_SELECTIVE ? 1 : m.WIDE];
    const float *from_c = (const float *)job.rule.c.data + (int64_t)p.channel * job.rule.c.pitch;
#pragma unroll
    for (int i = 0; i < m.WIDE; i++) {
        const bool there = p.used && i % N < states;
        if (KIND != SV_STATE_SELECTIVE) c[i] = there ? from_c[i < N ? i : states + i - N] : 0.0f;
        if (!there) continue;
        m.h[i] = job.chunks > 1 ? job.ends[place_of<N>(job, p, wide, i)]
                                : state[i < N ? i : (int64_t)channels * states + i - N];
    }
    const float skip = p.used && job.rule.d.data ? ((const float *)job.rule.d.data)[p.channel] : 0.0f;
    const int64_t y_step = job.walk.reverse ? -(int64_t)job.y.pitch : (int64_t)job.y.pitch;
    float *y = sv_walk_row(job.y, job.walk, p.group, p.begin) + p.channel;
    walk_piece(job, p, [&](int step, float u, float delta) {
        m.turn(job, u, delta, rows.b[step], [](int, float) {});
        float sum[2] = {skip * u, 0};
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (KIND == SV_STATE_SELECTIVE)
                sum[i & 1] = fmaf(m.h[i], rows.c[step][i], sum[i & 1]);
            else
                sum[i & 1] = fmaf(m.h[i], c[i], sum[i & 1]);
            if (KIND == SV_STATE_COMPLEX)
                sum[i & 1] = fmaf(-m.h[m.WIDE - N + i], c[m.WIDE - N + i], sum[i & 1]);
        }
        if (p.used) y[step * y_step] = sum[0] + sum[1];
    });
    if (!p.used || p.chunk < job.chunks - 1) return;
#pragma unroll
    for (int i = 0; i < m.WIDE; i++)
        if (i % N < states) state[i < N ? i : (int64_t)channels * states + i - N] = m.h[i];
}

template <sv_state_kind KIND, int N> sv_status run_held(sv_ctx *c, state_job job, int groups)
{
    const int channels = job.y.dim[1], states = job.rule.states, tiles = (channels + THREADS - 1) / THREADS;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    job.chunks = (job.walk.length + CHUNK - 1) / CHUNK;
    const unsigned blocks = (unsigned)(groups * job.chunks * tiles);
    const cudaStream_t stream = sv_cuda_stream(c);
    if (job.chunks > 1) {
        const int64_t cells = (int64_t)groups * channels * states;
        const size_t bytes = sizeof(float) * (size_t)cells * (size_t)job.chunks;
        SV_TRY(sv_arena_alloc(c, &c->scratch, "chunks of states",
                              KIND == SV_STATE_COMPLEX ? 2 * bytes : bytes, (void **)&job.ends));
        if (KIND == SV_STATE_SELECTIVE)
            SV_TRY(sv_arena_alloc(c, &c->scratch, "factors of chunks", bytes, (void **)&job.kept));
        end_states<KIND, N><<<blocks, THREADS, 0, stream>>>(job);
        carry_states<KIND>
            <<<(unsigned)((cells + CARRY_THREADS - 1) / CARRY_THREADS), CARRY_THREADS, 0, stream>>>(job);
    }
    walk_states<KIND, N><<<blocks, THREADS, 0, stream>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

template <sv_state_kind KIND> sv_status run_kind(sv_ctx *c, const state_job &job, int groups)
{
    if (job.rule.states <= 8) return run_held<KIND, 8>(c, job, groups);
    return run_held<KIND, MOST_HELD>(c, job, groups);
}

/* ---- very many states of a channel --------------------------------------------------------------------- */

/* One state's turn; what it adds to y. */
__device__ __forceinline__ float turn_state(const state_job &job, float &hr, float &hi, const float *a,
                                            const float *b, const float *c, int at, float u, float delta)
{
    const int states = job.rule.states;
    if (job.rule.kind == SV_STATE_SELECTIVE) {
        hr = fmaf(fmaf(job.rule.scale, expf(delta * a[at]), job.rule.shift), hr, delta * u * b[at]);
        return hr * c[at];
    }
    if (job.rule.kind == SV_STATE_REAL) {
        hr = fmaf(a[at], hr, b[at] * u);
        return hr * c[at];
    }
    const float ar = a[at], ai = a[states + at], r = fmaf(ar, hr, b[at] * u) - ai * hi;
    hi = fmaf(ar, hi, fmaf(ai, hr, b[states + at] * u));
    hr = r;
    return hr * c[at] - hi * c[states + at];
}

__global__ void scan_many(const __grid_constant__ state_job job)
{
    const int64_t item = sv_thread() / SV_WARP;
    const int channels = job.y.dim[1], states = job.rule.states, lane = threadIdx.x % SV_WARP;
    const int64_t group = item / channels;
    const int channel = (int)(item % channels);
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const bool selective = job.rule.kind == SV_STATE_SELECTIVE;
    float *real = sv_walk_group(job.states, group) + (int64_t)channel * states,
          *imaginary = real + (int64_t)channels * states;
    float hr[LANE_STATES] = {}, hi[LANE_STATES] = {};
#pragma unroll
    for (int i = 0; i < LANE_STATES; i++) {
        const int s = lane + SV_WARP * i;
        if (s >= states) break;
        hr[i] = real[s];
        if (job.rule.kind == SV_STATE_COMPLEX) hi[i] = imaginary[s];
    }
    const float *a = (const float *)job.rule.a.data + (int64_t)channel * job.rule.a.pitch;
    const float *b = selective ? NULL : (const float *)job.rule.b.data + (int64_t)channel * job.rule.b.pitch;
    const float *c = selective ? NULL : (const float *)job.rule.c.data + (int64_t)channel * job.rule.c.pitch;
    const float skip = job.rule.d.data ? ((const float *)job.rule.d.data)[channel] : 0.0f;
    for (int step = 0; step < job.walk.length; step++) {
        const float u = sv_walk_row(job.u, job.walk, group, step)[channel];
        float delta = 0, sum = 0;
        if (selective) {
            delta = sv_walk_row(job.rule.delta, job.walk, group, step)[channel];
            b = sv_walk_row(job.rule.b, job.walk, group, step);
            c = sv_walk_row(job.rule.c, job.walk, group, step);
        }
#pragma unroll
        for (int i = 0; i < LANE_STATES; i++) {
            const int s = lane + SV_WARP * i;
            if (s < states) sum += turn_state(job, hr[i], hi[i], a, b, c, s, u, delta);
        }
        sum = sv_warp_sum(sum);
        if (lane == 0) sv_walk_row(job.y, job.walk, group, step)[channel] = fmaf(skip, u, sum);
    }
#pragma unroll
    for (int i = 0; i < LANE_STATES; i++) {
        const int s = lane + SV_WARP * i;
        if (s >= states) break;
        real[s] = hr[i];
        if (job.rule.kind == SV_STATE_COMPLEX) imaginary[s] = hi[i];
    }
}

} // namespace

sv_status sv_cuda_state_scan(sv_ctx *c, sv_tensor y, sv_tensor u, const sv_state_rule *rule,
                             const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length, channels = y.dim[1];
    SV_CHECK(c, rule->states <= LANE_STATES * SV_WARP, SV_UNSUPPORTED,
             "state_scan: %d states of a channel; on the GPU there are at most %d", rule->states,
             LANE_STATES * SV_WARP);
    if (groups == 0 || channels == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    state_job job = {};
    job.y = y;
    job.u = u;
    job.rule = *rule;
    job.walk = sv_walk_of(seq);
    const int parts = rule->kind == SV_STATE_COMPLEX ? 2 : 1;
    SV_TRY(sv_cuda_walk_states(c, seq, groups, parts * channels * rule->states, &job.states));
    if (rule->states > MOST_HELD)
        scan_many<<<(unsigned)(((int64_t)groups * channels + 1) / 2), 2 * SV_WARP, 0, sv_cuda_stream(c)>>>(
            job);
    else if (rule->kind == SV_STATE_REAL)
        SV_TRY(run_kind<SV_STATE_REAL>(c, job, groups));
    else if (rule->kind == SV_STATE_COMPLEX)
        SV_TRY(run_kind<SV_STATE_COMPLEX>(c, job, groups));
    else
        SV_TRY(run_kind<SV_STATE_SELECTIVE>(c, job, groups));
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "state_scan");
}
