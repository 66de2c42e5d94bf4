/* SPDX-License-Identifier: Apache-2.0
 *
 * Fixed points of a recurrence whose mixer is a product of reflections, on the GPU; cells.simd.c has the
 * formulas. With Q = I - sum u_k w_k', p_k = (1 - lam) u_k and A = I - w'p a step is
 *
 *     t = lam h + c,   c = (1 - lam) Q b x;      h = t + p z,   z = A^-1 w't
 *
 * of which c, p and v = A^-1 w' know nothing of h: a warp makes them for each token. Then a warp walks a
 * group, the next tokens' rows (lam, c, v, p) on their way to shared memory.
 */
#include "backbones/walk.cuh"
#include "perception/core/tile.cuh"
#include "perception/core/launch.cuh"

namespace {

enum {
    WARPS = 4,
    THREADS = WARPS * SV_WARP,
    MIXERS = 16,
    MOST_STAGES = 8,
    ROW_BYTES = 200 << 10,
    LANE_CHANNELS = 32
};

struct mixer_job {
    sv_tensor y, x, b, lam, u, alpha, states;
    float *rows; /* [slots in walking order, pitch]: lam, c, v [rank], p [rank] */
    sv_walk walk;
    int32_t pitch, stages;
};

struct system_of {
    float gram[MIXERS][MIXERS], along[MIXERS];
    double a[MIXERS][2 * MIXERS]; /* A beside what becomes its inverse */
};

/* Gauss and Jordan with row pivots. */
__device__ void invert(double (*a)[2 * MIXERS], int n)
{
    for (int i = 0; i < n; i++) {
        int best = i;
        for (int r = i + 1; r < n; r++)
            if (fabs(a[r][i]) > fabs(a[best][i])) best = r;
        for (int j = 0; j < 2 * n; j++) {
            const double t = a[i][j];
            a[i][j] = a[best][j];
            a[best][j] = t;
        }
        const double by = 1 / a[i][i];
        for (int j = 0; j < 2 * n; j++) a[i][j] *= by;
        for (int r = 0; r < n; r++) {
            const double share = a[r][i];
            for (int j = 0; r != i && j < 2 * n; j++) a[r][j] -= share * a[i][j];
        }
    }
}

__global__ void __launch_bounds__(THREADS) make_rows(const __grid_constant__ mixer_job job)
{
    __shared__ system_of systems[WARPS];
    system_of *s = &systems[threadIdx.x / SV_WARP];
    const int64_t token = sv_thread() / SV_WARP, group = token / job.walk.length;
    const int step = (int)(token % job.walk.length), lane = threadIdx.x % SV_WARP, channels = job.y.dim[1],
              rank = job.alpha.dim[1];
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const float *u = sv_walk_row(job.u, job.walk, group, step),
                *alpha = sv_walk_row(job.alpha, job.walk, group, step),
                *keep = sv_walk_row(job.lam, job.walk, group, step),
                *x = sv_walk_row(job.x, job.walk, group, step),
                *b = sv_walk_row(job.b, job.walk, group, step);
    float *lam = job.rows + token * job.pitch, *in = lam + channels, *v = in + channels,
          *p = v + rank * channels;
    for (int i = 0; i < rank; i++)
        for (int j = 0; j < i; j++) {
            const float dot = sv_warp_dot(u + i * channels, u + j * channels, channels);
            if (lane == 0) s->gram[i][j] = dot;
        }
    __syncwarp();
    for (int c = lane; c < channels; c += SV_WARP) { /* v holds w for now */
        lam[c] = keep[c];
        in[c] = x[c] * b[c];
        for (int k = 0; k < rank; k++) {
            float sum = u[k * channels + c];
            p[k * channels + c] = (1 - keep[c]) * sum;
            for (int j = 0; j < k; j++) sum = fmaf(-s->gram[k][j], v[j * channels + c], sum);
            v[k * channels + c] = 2 * alpha[k] * sum;
        }
    }
    __syncwarp();
    for (int k = 0; k < rank; k++) {
        const float along = sv_warp_dot(v + k * channels, in, channels);
        if (lane == 0) s->along[k] = along;
        for (int j = 0; j < rank; j++) {
            const float dot = sv_warp_dot(v + k * channels, p + j * channels, channels);
            if (lane == 0) s->a[k][j] = (k == j ? 1.0 : 0.0) - (double)dot;
            if (lane == 0) s->a[k][rank + j] = k == j ? 1 : 0;
        }
    }
    if (lane == 0) invert(s->a, rank);
    __syncwarp();
    for (int c = lane; c < channels; c += SV_WARP) {
        float sum = (1 - lam[c]) * in[c], w[MIXERS];
        for (int k = 0; k < rank; k++) sum = fmaf(-s->along[k], p[k * channels + c], sum);
        in[c] = sum;
#pragma unroll
        for (int k = 0; k < MIXERS; k++) w[k] = k < rank ? v[k * channels + c] : 0.0f;
        for (int k = 0; k < rank; k++) {
            double share = 0;
#pragma unroll
            for (int j = 0; j < MIXERS; j++)
                if (j < rank) share += s->a[k][rank + j] * (double)w[j];
            v[k * channels + c] = (float)share;
        }
    }
}

/* Row 'step' of a group to its place in the ring. */
__device__ __forceinline__ void fetch_row(const mixer_job &job, float *ring, int64_t group, int step)
{
    if (step < job.walk.length) {
        const float *from = job.rows + (group * job.walk.length + step) * job.pitch;
        float *to = ring + step % job.stages * job.pitch;
        for (int i = threadIdx.x * 4; i < job.pitch; i += SV_WARP * 4)
            sv_copy_far(sv_shared_address(to + i), from + i);
    }
    sv_copies_end();
}

/* A lane has up to LANES channels: four that lie together, or every 32nd. */
template <int LANES, bool FOURS> struct lane_channels {
    int channels, lane;
    __device__ __forceinline__ int at(int i) const { return FOURS ? 4 * lane + i : lane + i * SV_WARP; }
    __device__ __forceinline__ void read(float (&to)[LANES], const float *row) const
    {
        if constexpr (FOURS) {
            *(float4 *)to = 4 * lane < channels ? *(const float4 *)(row + 4 * lane) : make_float4(0, 0, 0, 0);
        } else {
#pragma unroll
            for (int i = 0; i < LANES; i++) to[i] = at(i) < channels ? row[at(i)] : 0.0f;
        }
    }
    __device__ __forceinline__ void write(float *row, const float (&from)[LANES]) const
    {
#pragma unroll
        for (int i = 0; i < LANES; i++)
            if (at(i) < channels) row[at(i)] = from[i];
    }
};

template <int LANES, bool FOURS>
__global__ void __launch_bounds__(SV_WARP) walk_rows(const __grid_constant__ mixer_job job)
{
    extern __shared__ float4 shared[];
    float *ring = (float *)shared;
    const int64_t group = blockIdx.x;
    const int channels = job.y.dim[1], rank = job.alpha.dim[1];
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const lane_channels<LANES, FOURS> mine = {channels, (int)threadIdx.x};
    float h[LANES], *state = sv_walk_group(job.states, group);
#pragma unroll
    for (int i = 0; i < LANES; i++) h[i] = mine.at(i) < channels ? state[mine.at(i)] : 0.0f;
    for (int step = 0; step < MOST_STAGES - 1; step++) /* as many groups of copies as are waited for */
        fetch_row(job, ring, group, step < job.stages - 1 ? step : job.walk.length);
#pragma unroll 1
    for (int step = 0; step < job.walk.length; step++) {
        fetch_row(job, ring, group, step + job.stages - 1);
        if (job.stages == MOST_STAGES)
            sv_copies_wait<MOST_STAGES - 1>();
        else
            sv_copies_wait<1>();
        __syncwarp();
        const float *row = ring + step % job.stages * job.pitch, *v = row + 2 * channels,
                    *p = v + rank * channels;
        float keep[LANES], in[LANES], t[LANES];
        mine.read(keep, row);
        mine.read(in, row + channels);
#pragma unroll
        for (int i = 0; i < LANES; i++) h[i] = t[i] = fmaf(keep[i], h[i], in[i]);
#pragma unroll 1
        for (int k = 0; k < rank; k += 2) { /* two sums over the warp at once */
            float first[LANES], second[LANES] = {}, z[2] = {};
            const bool both = k + 1 < rank;
            mine.read(first, v + k * channels);
            if (both) mine.read(second, v + (k + 1) * channels);
#pragma unroll
            for (int i = 0; i < LANES; i++) {
                z[0] = fmaf(first[i], t[i], z[0]);
                z[1] = fmaf(second[i], t[i], z[1]);
            }
            z[0] = sv_warp_sum(z[0]);
            z[1] = sv_warp_sum(z[1]);
            mine.read(first, p + k * channels);
            if (both) mine.read(second, p + (k + 1) * channels);
#pragma unroll
            for (int i = 0; i < LANES; i++) h[i] = fmaf(z[1], second[i], fmaf(z[0], first[i], h[i]));
        }
        mine.write(sv_walk_row(job.y, job.walk, group, step), h);
        __syncwarp();
    }
    mine.write(state, h);
}

template <int LANES, bool FOURS> sv_status run_rows(sv_ctx *c, const mixer_job &job, int groups)
{
    const size_t bytes = sizeof(float) * (size_t)job.pitch * (size_t)job.stages;
    SV_TRY(sv_cuda_reserve(c, "mixer_scan", walk_rows<LANES, FOURS>, bytes));
    walk_rows<LANES, FOURS><<<(unsigned)groups, SV_WARP, bytes, sv_cuda_stream(c)>>>(job);
    return SV_OK;
}

} // namespace

sv_status sv_cuda_mixer_scan(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor b, sv_tensor lam, sv_tensor u,
                             sv_tensor alpha, const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length, channels = y.dim[1], rank = alpha.dim[1];
    if (groups == 0 || channels == 0) return SV_OK;
    const int pitch = (2 * (1 + rank) * channels + 3) / 4 * 4, bytes = pitch * (int)sizeof(float);
    SV_CHECK(c, rank <= MIXERS && channels <= LANE_CHANNELS * SV_WARP && 2 * bytes <= ROW_BYTES,
             SV_UNSUPPORTED, "mixer_scan: %d factors of %d channels are too many for a GPU", rank, channels);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    mixer_job job = {};
    job.y = y;
    job.x = x;
    job.b = b;
    job.lam = lam;
    job.u = u;
    job.alpha = alpha;
    job.walk = sv_walk_of(seq);
    job.pitch = pitch;
    job.stages = MOST_STAGES * bytes <= ROW_BYTES ? (int)MOST_STAGES : 2;
    const int64_t tokens = (int64_t)groups * seq->length;
    SV_TRY(sv_cuda_walk_states(c, seq, groups, channels, &job.states));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "mixer rows", (size_t)bytes * (size_t)tokens, (void **)&job.rows));
    make_rows<<<(unsigned)((tokens + WARPS - 1) / WARPS), THREADS, 0, sv_cuda_stream(c)>>>(job);
    if (channels <= 4 * SV_WARP && channels % 4 == 0)
        SV_TRY((run_rows<4, true>(c, job, groups)));
    else
        SV_TRY((run_rows<LANE_CHANNELS, false>(c, job, groups)));
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "mixer_scan");
}
