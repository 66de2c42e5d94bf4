/* SPDX-License-Identifier: Apache-2.0
 *
 * The diagonal scans on the GPU; diagonal.simd.c has the formulas. A group is cut into chunks of 64 walking
 * steps, a thread has a channel of a chunk, the inputs of several tokens on their way at once:
 *
 *     1  each chunk but the last by itself: what it makes of nothing, what it keeps of the state before it
 *     2  along the chunks of a group: the state that each chunk starts from
 *     3  each chunk from there: the outputs
 */
#include "backbones/walk.cuh"

namespace {

enum { THREADS = 128, CARRY_THREADS = 64, CHUNK = 64, CARRIED_AT_ONCE = 8 };

struct diagonal_job {
    sv_tensor y, x, a, decay, position, states;
    float *parts; /* [groups, chunks, numbers of a scan, lanes]: of a chunk, then what it starts from */
    sv_walk walk;
    int32_t chunks, lanes; /* lanes: numbers (or pairs of them) that are scanned side by side */
    bool whole, fresh;
};

/* ---- h = a h + x --------------------------------------------------------------------------------------- */

/* A scan: a state h, what is kept of the one before, and the inputs of a token. NUMBERS are h's, then those
 * kept. */
template <bool LOG> struct real_scan {
    static constexpr int NUMBERS = 2, STATE = 1, AT_ONCE = 8;
    struct token {
        float a, x;
    };
    float h = 0, kept = 1;

    static __device__ token read(const diagonal_job &, const float *a, const float *x) { return {*a, *x}; }
    __device__ void take(const token &t)
    {
        const float a = LOG ? expf(t.a) : t.a;
        h = fmaf(a, h, t.x);
        kept *= a;
    }
    __device__ void follow(const real_scan &next) { h = fmaf(next.kept, h, next.h); }
    __device__ void write(const diagonal_job &, const token &, float *y, float *) const { *y = h; }
    __device__ float &number(int i) { return i == 0 ? h : kept; }
};

struct complex_scan {
    static constexpr int NUMBERS = 4, STATE = 2, AT_ONCE = 8;
    struct token {
        float ar, ai, xr, xi;
    };
    float hr = 0, hi = 0, kr = 1, ki = 0;

    static __device__ token read(const diagonal_job &job, const float *a, const float *x)
    {
        return {a[0], a[job.lanes], x[0], x[job.lanes]};
    }
    __device__ void take(const token &t)
    {
        const float r = fmaf(t.ar, hr, t.xr) - t.ai * hi, k = t.ar * kr - t.ai * ki;
        hi = fmaf(t.ar, hi, fmaf(t.ai, hr, t.xi));
        hr = r;
        ki = fmaf(t.ar, ki, t.ai * kr);
        kr = k;
    }
    __device__ void follow(const complex_scan &next)
    {
        const float r = fmaf(next.kr, hr, next.hr) - next.ki * hi;
        hi = fmaf(next.kr, hi, fmaf(next.ki, hr, next.hi));
        hr = r;
    }
    __device__ void write(const diagonal_job &job, const token &, float *y, float *) const
    {
        y[0] = hr;
        y[job.lanes] = hi;
    }
    __device__ float &number(int i) { return i == 0 ? hr : i == 1 ? hi : i == 2 ? kr : ki; }
};

/* ---- log-sum-exp --------------------------------------------------------------------------------------- */

/* A maximum and the sum of e^(x - maximum); a sum of 0 is empty. */
struct log_sum_scan {
    static constexpr int NUMBERS = 2, STATE = 2, AT_ONCE = 4;
    struct token {
        float x;
    };
    float most = 0, sum = 0;

    static __device__ token read(const diagonal_job &, const float *, const float *x) { return {*x}; }
    __device__ void take(const token &t)
    {
        const float m = sum > 0 ? fmaxf(most, t.x) : t.x;
        sum = (sum > 0 ? sum * expf(most - m) : 0.0f) + expf(t.x - m);
        most = m;
    }
    __device__ void follow(const log_sum_scan &next)
    {
        if (!(next.sum > 0)) return;
        const float m = sum > 0 ? fmaxf(most, next.most) : next.most;
        sum = (sum > 0 ? sum * expf(most - m) : 0.0f) + next.sum * expf(next.most - m);
        most = m;
    }
    __device__ void write(const diagonal_job &, const token &t, float *y, float *decay) const
    {
        const float share = expf(t.x - most) / sum;
        *y = share;
        if (decay) *decay = share < 1 ? log1pf(-share) : -INFINITY;
    }
    __device__ float &number(int i) { return i == 0 ? most : sum; }
};

/* ---- chunks -------------------------------------------------------------------------------------------- */

/* What a thread has. */
struct piece {
    int64_t group, part;
    int chunk, begin, count, lane;
};

/* False when there is no such piece. */
__device__ __forceinline__ bool find_piece(const diagonal_job &job, piece *p)
{
    const int64_t item = sv_thread();
    p->lane = (int)(item % job.lanes);
    p->part = item / job.lanes;
    p->group = p->part / job.chunks;
    p->chunk = (int)(p->part % job.chunks);
    p->begin = p->chunk * CHUNK;
    p->count = min((int)CHUNK, job.walk.length - p->begin);
    return p->group < sv_walk_groups(job.y, job.walk);
}

/* This lane's numbers of 't' at the first step of a piece; a step of the walk is step_of() further. */
__device__ __forceinline__ float *lane_of(const sv_tensor &t, const diagonal_job &job, const piece &p)
{
    return t.data ? sv_walk_row(t, job.walk, p.group, p.begin) + p.lane : NULL;
}
__device__ __forceinline__ int64_t step_of(const sv_tensor &t, const diagonal_job &job)
{
    return job.walk.reverse ? -(int64_t)t.pitch : (int64_t)t.pitch;
}

/* each(step, token) for all of a piece's tokens */
template <typename S, typename F>
__device__ __forceinline__ void walk_piece(const diagonal_job &job, const piece &p, F each)
{
    const float *a = lane_of(job.a, job, p), *x = lane_of(job.x, job, p);
    const int64_t a_step = step_of(job.a, job), x_step = step_of(job.x, job);
    for (int first = 0; first < p.count; first += S::AT_ONCE) {
        typename S::token tokens[S::AT_ONCE];
#pragma unroll
        for (int i = 0; i < S::AT_ONCE; i++) {
            const int step = min(first + i, p.count - 1);
            tokens[i] = S::read(job, a + step * a_step, x + step * x_step);
        }
#pragma unroll
        for (int i = 0; i < S::AT_ONCE; i++)
            if (first + i < p.count) each(first + i, tokens[i]);
    }
}

template <typename S>
__device__ __forceinline__ float *numbers_of(const diagonal_job &job, int64_t part, int lane)
{
    return job.parts + part * S::NUMBERS * job.lanes + lane;
}

template <typename S>
__global__ void __launch_bounds__(THREADS) end_chunks(const __grid_constant__ diagonal_job job)
{
    piece p;
    if (!find_piece(job, &p) || (p.chunk == job.chunks - 1 && !job.whole)) return;
    S s;
    walk_piece<S>(job, p, [&](int, const typename S::token &t) { s.take(t); });
    float *to = numbers_of<S>(job, p.part, p.lane);
#pragma unroll
    for (int i = 0; i < S::NUMBERS; i++) to[i * job.lanes] = s.number(i);
}

template <typename S>
__global__ void __launch_bounds__(CARRY_THREADS) carry_chunks(const __grid_constant__ diagonal_job job)
{
    const int64_t item = sv_thread(), group = item / job.lanes;
    const int lane = (int)(item % job.lanes), last = job.whole ? job.chunks : job.chunks - 1;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    float *state = sv_walk_group(job.states, group) + lane;
    S s;
#pragma unroll
    for (int i = 0; i < S::STATE; i++) s.number(i) = state[i * job.lanes];
    for (int first = 0; first < job.chunks; first += CARRIED_AT_ONCE) {
        S next[CARRIED_AT_ONCE];
#pragma unroll
        for (int n = 0; n < CARRIED_AT_ONCE; n++) {
            const float *from = numbers_of<S>(job, group * job.chunks + first + n, lane);
            if (first + n < last)
#pragma unroll
                for (int i = 0; i < S::NUMBERS; i++) next[n].number(i) = from[i * job.lanes];
        }
#pragma unroll
        for (int n = 0; n < CARRIED_AT_ONCE; n++) {
            if (first + n >= job.chunks) break;
            float *to = numbers_of<S>(job, group * job.chunks + first + n, lane);
#pragma unroll
            for (int i = 0; i < S::STATE; i++) to[i * job.lanes] = s.number(i);
            if (first + n < last) s.follow(next[n]);
        }
    }
    if (job.whole)
#pragma unroll
        for (int i = 0; i < S::STATE; i++) state[i * job.lanes] = s.number(i);
}

template <typename S>
__global__ void __launch_bounds__(THREADS) walk_chunks(const __grid_constant__ diagonal_job job)
{
    piece p;
    if (!find_piece(job, &p)) return;
    float *state = sv_walk_group(job.states, p.group) + p.lane, *y = lane_of(job.y, job, p),
          *decay = lane_of(job.decay, job, p);
    const float *from = job.chunks > 1 && !job.whole ? numbers_of<S>(job, p.part, p.lane) : state;
    const int64_t y_step = step_of(job.y, job), decay_step = step_of(job.decay, job);
    S s;
#pragma unroll
    for (int i = 0; i < S::STATE; i++) s.number(i) = from[i * job.lanes];
    walk_piece<S>(job, p, [&](int step, const typename S::token &t) {
        if (!job.whole) s.take(t);
        s.write(job, t, y + step * y_step, decay ? decay + step * decay_step : NULL);
    });
    if (p.chunk == job.chunks - 1 && !job.whole)
#pragma unroll
        for (int i = 0; i < S::STATE; i++) state[i * job.lanes] = s.number(i);
}

template <typename S> sv_status run_scan(sv_ctx *c, diagonal_job job, int groups, const sv_sequence *seq)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    job.chunks = (seq->length + CHUNK - 1) / CHUNK;
    SV_TRY(sv_cuda_walk_states(c, seq, groups, S::STATE * job.lanes, &job.states));
    const int64_t lanes = (int64_t)groups * job.lanes, pieces = lanes * job.chunks;
    const unsigned blocks = (unsigned)((pieces + THREADS - 1) / THREADS);
    const cudaStream_t stream = sv_cuda_stream(c);
    if (job.chunks > 1 || job.whole) {
        SV_TRY(sv_arena_alloc(c, &c->scratch, "scan chunks", sizeof(float) * S::NUMBERS * (size_t)pieces,
                              (void **)&job.parts));
        end_chunks<S><<<blocks, THREADS, 0, stream>>>(job);
        carry_chunks<S>
            <<<(unsigned)((lanes + CARRY_THREADS - 1) / CARRY_THREADS), CARRY_THREADS, 0, stream>>>(job);
    }
    walk_chunks<S><<<blocks, THREADS, 0, stream>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* ---- RG-LRU's gates ------------------------------------------------------------------------------------ */

/* A thread per token and channel. */
__global__ void make_gates(const __grid_constant__ diagonal_job job)
{
    const int64_t item = sv_thread(), row = item / job.y.dim[1], group = row / job.walk.length;
    const int channel = (int)(item % job.y.dim[1]), step = (int)(row % job.walk.length);
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const bool begins =
        job.position.data ? sv_walk_row(job.position, job.walk, group, step)[0] == 0 : step == 0 && job.fresh;
    const float log = sv_walk_row(job.a, job.walk, group, step)[channel],
                x = sv_walk_row(job.x, job.walk, group, step)[channel];
    sv_walk_row(job.decay, job.walk, group, step)[channel] = begins ? 0.0f : expf(log);
    sv_walk_row(job.y, job.walk, group, step)[channel] = begins ? x : x * sqrtf(-expm1f(log + log));
}

diagonal_job job_of(sv_tensor y, sv_tensor x, sv_tensor a, const sv_sequence *seq)
{
    diagonal_job job = {};
    job.y = y;
    job.x = x;
    job.a = a.dim[0] == 1 && y.dim[0] != 1 ? sv_walk_constant(a) : a;
    job.walk = sv_walk_of(seq);
    job.fresh = sv_is_none(seq->state_in);
    job.lanes = y.dim[1];
    return job;
}

} // namespace

sv_status sv_cuda_diagonal_scan(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor a, bool log,
                                bool complex_numbers, const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length;
    if (groups == 0 || y.dim[1] == 0) return SV_OK;
    diagonal_job job = job_of(y, x, a, seq);
    if (complex_numbers) {
        job.lanes /= 2;
        SV_TRY(run_scan<complex_scan>(c, job, groups, seq));
    } else if (log) {
        SV_TRY(run_scan<real_scan<true>>(c, job, groups, seq));
    } else {
        SV_TRY(run_scan<real_scan<false>>(c, job, groups, seq));
    }
    return SV_CUDA_LAUNCHED(c, "diagonal_scan");
}

sv_status sv_cuda_root_gates(sv_ctx *c, sv_tensor a, sv_tensor y, sv_tensor log_a, sv_tensor x,
                             sv_tensor position, const sv_sequence *seq)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    diagonal_job job = job_of(y, x, log_a, seq);
    job.decay = a;
    job.position = position;
    make_gates<<<sv_cuda_blocks((int64_t)y.dim[0] * y.dim[1]), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(job);
    return SV_CUDA_LAUNCHED(c, "root_gates");
}

sv_status sv_cuda_log_sum_scan(sv_ctx *c, sv_tensor weight, sv_tensor decay, sv_tensor x,
                               const sv_sequence *seq, bool whole)
{
    const int groups = weight.dim[0] / seq->length;
    if (groups == 0 || weight.dim[1] == 0) return SV_OK;
    diagonal_job job = job_of(weight, x, x, seq);
    job.decay = whole ? sv_tensor{} : decay;
    job.whole = whole;
    SV_TRY(run_scan<log_sum_scan>(c, job, groups, seq));
    return SV_CUDA_LAUNCHED(c, "log_sum_scan");
}
