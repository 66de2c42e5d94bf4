/* SPDX-License-Identifier: Apache-2.0
 *
 * Recurrences that are no scan, on the GPU; cells.simd.c has the formulas. sLSTM: a block has a head of a
 * group, a thread a gate's channel. ParaGRU and ParaLSTM: a thread has a channel. Fixed points: mixer.cu.
 */
#include "backbones/walk.cuh"
#include "perception/core/maps.cuh"
#include "perception/core/tile.cuh"

namespace {

enum { THREADS = 256, CELL_THREADS = 32, AHEAD = 8 };

struct cell_job {
    sv_tensor y, cell, x, states;
    const float *own, *peephole;
    sv_walk walk;
    int32_t heads, newton;
};

/* 1 / (1 + e^-x) and tanh x with the hardware's reciprocal (an ulp): divisions would take most of a token's
 * time. */
__device__ __forceinline__ float reciprocal(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float sigmoid(float x)
{
    return reciprocal(1.0f + expf(-x));
}
__device__ __forceinline__ float tangent(float x)
{
    return fmaf(-2.0f, reciprocal(1.0f + expf(2 * x)), 1.0f);
}

/* A number of the input on its way to shared memory, which this thread alone reads. */
__device__ __forceinline__ void fetch_number(float *to, const float *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(sv_shared_address(to)), "l"(from)
                 : "memory");
}

/* ---- sLSTM --------------------------------------------------------------------------------------------- */

/* A head of up to WIDTH channels: four threads have a channel, one for each gate, with its recurrent weights
 * in registers. */
template <int WIDTH>
__global__ void __launch_bounds__(4 * WIDTH) walk_narrow(const __grid_constant__ cell_job job)
{
    __shared__ __align__(16) float y[2][WIDTH];
    __shared__ float ahead[AHEAD][4 * WIDTH];
    const int64_t group = blockIdx.x;
    const int channels = job.y.dim[1], width = channels / job.heads, first_channel = blockIdx.y * width,
              length = job.walk.length;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    const int unit = threadIdx.x / 4, gate = threadIdx.x % 4, channel = first_channel + unit;
    const bool used = unit < width;
    float *state = sv_walk_group(job.states, group), w[WIDTH];
#pragma unroll
    for (int i = 0; i < WIDTH; i++)
        w[i] = used && i < width ? job.own[(int64_t)(first_channel + i) * 4 * width + gate * width + unit]
                                 : 0.0f;
    float c = 0, n = 0, m = 0;
    if (used) {
        c = state[channels + channel];
        n = state[2 * channels + channel];
        m = state[3 * channels + channel];
    }
    if (gate == 0) y[0][unit] = used ? state[channel] : 0.0f;
    const int direction = job.walk.reverse ? -1 : 1;
    const int64_t x_step = direction * (int64_t)job.x.pitch, y_step = direction * (int64_t)job.y.pitch;
    const float *x = sv_walk_row(job.x, job.walk, group, 0) + (used ? gate * channels + channel : 0);
    float *to = sv_walk_row(job.y, job.walk, group, 0) + channel;
    for (int step = 0; step < AHEAD - 1; step++, x += x_step) {
        if (step < length) fetch_number(&ahead[step][threadIdx.x], x);
        sv_copies_end();
    }
    bool empty = !__syncthreads_or(n != 0);
    float result = 0;
#pragma unroll 1
    for (int step = 0; step < length; step++, x += x_step, to += y_step) {
        if (step + AHEAD - 1 < length) fetch_number(&ahead[(step + AHEAD - 1) % AHEAD][threadIdx.x], x);
        sv_copies_end();
        sv_copies_wait<AHEAD - 1>();
        float sum[4] = {ahead[step % AHEAD][threadIdx.x]};
#pragma unroll
        for (int j = 0; j < WIDTH; j += 4) {
            const float4 before = *(const float4 *)&y[step % 2][j];
            sum[0] = fmaf(before.x, w[j], sum[0]);
            sum[1] = fmaf(before.y, w[j + 1], sum[1]);
            sum[2] = fmaf(before.z, w[j + 2], sum[2]);
            sum[3] = fmaf(before.w, w[j + 3], sum[3]);
        }
        const float own = sum[0] + sum[1] + (sum[2] + sum[3]);
        const float in = __shfl_sync(0xffffffffu, own, 0, 4), forget = __shfl_sync(0xffffffffu, own, 1, 4),
                    value = __shfl_sync(0xffffffffu, own, 2, 4), out = __shfl_sync(0xffffffffu, own, 3, 4);
        const float l = m - m_softplus(-forget), top = empty ? in : fmaxf(l, in),
                    take = fminf(1.0f, expf(in - top)), keep = fminf(1.0f, expf(l - top));
        c = fmaf(keep, c, take * tangent(value));
        n = fmaf(keep, n, take);
        m = top;
        empty = false;
        result = sigmoid(out) * c * reciprocal(n);
        if (gate == 0) {
            y[(step + 1) % 2][unit] = used ? result : 0.0f;
            if (used) *to = result;
        }
        __syncthreads();
    }
    if (!used || gate > 0) return;
    state[channel] = result;
    state[channels + channel] = c;
    state[2 * channels + channel] = n;
    state[3 * channels + channel] = m;
}

/* Wider heads: the weights are read from memory. */
__global__ void __launch_bounds__(THREADS) walk_wide(const __grid_constant__ cell_job job)
{
    extern __shared__ float shared[];
    const int64_t group = blockIdx.x;
    const int channels = job.y.dim[1], width = channels / job.heads, head = blockIdx.y;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    float *y = shared, *c = y + width, *n = c + width, *m = n + width, *gates = m + width;
    float *state = sv_walk_group(job.states, group) + head * width;
    const float *own = job.own + (int64_t)head * width * 4 * width;
    int full = 0;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        y[i] = state[i];
        c[i] = state[channels + i];
        n[i] = state[2 * channels + i];
        m[i] = state[3 * channels + i];
        full |= n[i] != 0;
    }
    bool empty = !__syncthreads_or(full);
    for (int step = 0; step < job.walk.length; step++, empty = false) {
        const float *x = sv_walk_row(job.x, job.walk, group, step) + head * width;
        for (int g = threadIdx.x; g < 4 * width; g += THREADS) {
            float sum[2] = {x[g / width * channels + g % width], 0};
            for (int i = 0; i < width; i++)
                sum[i & 1] = fmaf(y[i], own[(int64_t)i * 4 * width + g], sum[i & 1]);
            gates[g] = sum[0] + sum[1];
        }
        __syncthreads();
        float *out = sv_walk_row(job.y, job.walk, group, step) + head * width;
        for (int j = threadIdx.x; j < width; j += THREADS) {
            const float i = gates[j], l = m[j] - m_softplus(-gates[width + j]);
            const float top = empty ? i : fmaxf(l, i), take = fminf(1.0f, expf(i - top)),
                        keep = fminf(1.0f, expf(l - top));
            c[j] = fmaf(keep, c[j], take * tanhf(gates[2 * width + j]));
            n[j] = fmaf(keep, n[j], take);
            m[j] = top;
            out[j] = y[j] = m_sigmoid(gates[3 * width + j]) * c[j] / n[j];
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < width; i += THREADS) {
        state[i] = y[i];
        state[channels + i] = c[i];
        state[2 * channels + i] = n[i];
        state[3 * channels + i] = m[i];
    }
}

/* ---- ParaGRU ------------------------------------------------------------------------------------------- */

struct answer {
    float value, slope;
};

/* F(h) and its derivative. */
__device__ __forceinline__ answer gru_at(float h, float xz, float xr, float xh, const float (&a)[3])
{
    const float az = a[0], ar = a[1], ah = a[2];
    const float z = sigmoid(fmaf(az, h, xz)), r = sigmoid(fmaf(ar, h, xr)), g = tangent(fmaf(ah, h * r, xh));
    const float dg = (1 - g * g) * ah * (r + h * r * (1 - r) * ar), dz = z * (1 - z) * az;
    answer out;
    out.value = fmaf(z, g - h, h);
    out.slope = dz * (g - h) + z * dg + (1 - z);
    return out;
}

/* Newton's iterations over a group, a token's last iterate standing in y. */
__device__ void iterate_gru(const cell_job &job, int64_t group, int channel, const float (&a)[3], float *h)
{
    const int channels = job.y.dim[1];
    for (int pass = 0; pass <= job.newton; pass++) {
        float old = 0; /* of the last iteration, one token back */
        *h = 0;
        for (int step = 0; step < job.walk.length; step++) {
            const float *x = sv_walk_row(job.x, job.walk, group, step) + channel;
            float *y = sv_walk_row(job.y, job.walk, group, step) + channel;
            const answer at = gru_at(pass == 0 ? 0 : old, x[0], x[channels], x[2 * channels], a);
            if (pass == 0) {
                *h = at.value;
            } else {
                *h = fmaf(at.slope, *h - old, at.value);
                old = *y;
            }
            *y = *h;
        }
    }
}

/* A channel's three gates of the tokens to come, in the shared memory of its thread. */
struct gate_inputs {
    float (*at)[3][CELL_THREADS];
    const float *x;
    int64_t step;
    int channels, left;

    __device__ void begin(const cell_job &job, float (*shared)[3][CELL_THREADS], int64_t group, int channel)
    {
        at = shared;
        x = sv_walk_row(job.x, job.walk, group, 0) + channel;
        step = job.walk.reverse ? -(int64_t)job.x.pitch : (int64_t)job.x.pitch;
        channels = job.y.dim[1];
        left = job.walk.length;
        for (int i = 0; i < AHEAD - 1; i++) fetch(i);
    }
    __device__ __forceinline__ void fetch(int slot)
    {
        if (left-- > 0)
            for (int n = 0; n < 3; n++) fetch_number(&at[slot][n][threadIdx.x], x + n * channels);
        x += step;
        sv_copies_end();
    }
    __device__ __forceinline__ void next(int now, float (&in)[3])
    {
        fetch((now + AHEAD - 1) % AHEAD);
        sv_copies_wait<AHEAD - 1>();
        for (int n = 0; n < 3; n++) in[n] = at[now % AHEAD][n][threadIdx.x];
    }
};

__global__ void walk_gru(const __grid_constant__ cell_job job)
{
    const int64_t item = sv_thread();
    const int channels = job.y.dim[1], channel = (int)(item % channels);
    const int64_t group = item / channels;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    float *state = sv_walk_group(job.states, group) + channel, h = *state;
    const float *own = job.own + channel, a[3] = {own[0], own[channels], own[2 * channels]};
    if (job.newton > 0) iterate_gru(job, group, channel, a, &h);
    if (job.newton == 0) {
        __shared__ float shared[AHEAD][3][CELL_THREADS];
        gate_inputs inputs;
        float x[3];
        inputs.begin(job, shared, group, channel);
#pragma unroll 1
        for (int step = 0; step < job.walk.length; step++) {
            inputs.next(step, x);
            h = gru_at(h, x[0], x[1], x[2], a).value;
            sv_walk_row(job.y, job.walk, group, step)[channel] = h;
        }
    }
    *state = h;
}

/* ---- ParaLSTM ------------------------------------------------------------------------------------------ */

struct pair {
    float h, c;
};
struct pair_answer {
    pair value, by_h, by_c; /* and its derivatives */
};

__device__ __forceinline__ pair_answer lstm_at(pair at, float xf, float xo, float xc, const float (&a)[3],
                                               const float (&p)[2])
{
    const float af = a[0], ao = a[1], ac = a[2], pf = p[0], po = p[1];
    const float f = sigmoid(fmaf(pf, at.c, fmaf(af, at.h, xf))), g = tangent(fmaf(ac, at.h, xc)),
                c = fmaf(f, at.c - g, g);
    const float o = sigmoid(fmaf(po, c, fmaf(ao, at.h, xo))), t = tangent(c);
    const float df = f * (1 - f), slope_o = o * (1 - o), dt = o * (1 - t * t);
    pair_answer out;
    out.value.h = o * t;
    out.value.c = c;
    out.by_h.c = df * af * (at.c - g) + (1 - f) * (1 - g * g) * ac;
    out.by_c.c = f + df * pf * (at.c - g);
    out.by_h.h = slope_o * (ao + po * out.by_h.c) * t + dt * out.by_h.c;
    out.by_c.h = slope_o * po * out.by_c.c * t + dt * out.by_c.c;
    return out;
}

__device__ void iterate_lstm(const cell_job &job, int64_t group, int channel, const float (&a)[3],
                             const float (&p)[2], pair *s)
{
    const int channels = job.y.dim[1];
    const pair zero = {0, 0};
    for (int pass = 0; pass <= job.newton; pass++) {
        pair old = zero;
        *s = zero;
        for (int step = 0; step < job.walk.length; step++) {
            const float *x = sv_walk_row(job.x, job.walk, group, step) + channel;
            float *y = sv_walk_row(job.y, job.walk, group, step) + channel,
                  *cell = sv_walk_row(job.cell, job.walk, group, step) + channel;
            const pair_answer at = lstm_at(pass == 0 ? zero : old, x[0], x[channels], x[2 * channels], a, p);
            if (pass == 0) {
                *s = at.value;
            } else {
                const float dh = s->h - old.h, dc = s->c - old.c;
                s->h = at.value.h + at.by_h.h * dh + at.by_c.h * dc;
                s->c = at.value.c + at.by_h.c * dh + at.by_c.c * dc;
                old.h = *y;
                old.c = *cell;
            }
            *y = s->h;
            *cell = s->c;
        }
    }
}

__global__ void walk_lstm(const __grid_constant__ cell_job job)
{
    const int64_t item = sv_thread();
    const int channels = job.y.dim[1], channel = (int)(item % channels);
    const int64_t group = item / channels;
    if (group >= sv_walk_groups(job.y, job.walk)) return;
    float *state = sv_walk_group(job.states, group) + channel;
    pair s = {state[0], state[channels]};
    const float *own = job.own + channel, *peephole = job.peephole + channel,
                a[3] = {own[0], own[channels], own[2 * channels]}, p[2] = {peephole[0], peephole[channels]};
    if (job.newton > 0) iterate_lstm(job, group, channel, a, p, &s);
    if (job.newton == 0) {
        __shared__ float shared[AHEAD][3][CELL_THREADS];
        gate_inputs inputs;
        float x[3];
        inputs.begin(job, shared, group, channel);
#pragma unroll 1
        for (int step = 0; step < job.walk.length; step++) {
            inputs.next(step, x);
            s = lstm_at(s, x[0], x[1], x[2], a, p).value;
            sv_walk_row(job.y, job.walk, group, step)[channel] = s.h;
            if (job.cell.data) sv_walk_row(job.cell, job.walk, group, step)[channel] = s.c;
        }
    }
    state[0] = s.h;
    state[channels] = s.c;
}

void run_slstm(const cell_job &job, int groups, cudaStream_t stream)
{
    const int width = job.y.dim[1] / job.heads;
    const dim3 grid((unsigned)groups, (unsigned)job.heads);
    if (width <= 8)
        walk_narrow<8><<<grid, 32, 0, stream>>>(job);
    else if (width <= 16)
        walk_narrow<16><<<grid, 64, 0, stream>>>(job);
    else if (width <= 32)
        walk_narrow<32><<<grid, 128, 0, stream>>>(job);
    else if (width <= 64)
        walk_narrow<64><<<grid, 256, 0, stream>>>(job);
    else
        walk_wide<<<grid, THREADS, 8 * sizeof(float) * (size_t)width, stream>>>(job);
}

} // namespace

sv_status sv_cuda_cell_scan(sv_ctx *c, sv_tensor y, sv_tensor cell, sv_tensor x, const sv_cell *rule,
                            const sv_sequence *seq)
{
    static const int parts[] = {4, 1, 2};
    const int groups = y.dim[0] / seq->length, channels = y.dim[1];
    if (groups == 0 || channels == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const cudaStream_t stream = sv_cuda_stream(c);
    cell_job job = {};
    job.y = y;
    job.cell = cell;
    job.x = x;
    job.own = (const float *)rule->own.data;
    job.peephole = (const float *)rule->peephole.data;
    job.walk = sv_walk_of(seq);
    job.heads = rule->heads;
    job.newton = rule->newton;
    SV_TRY(sv_cuda_walk_states(c, seq, groups, parts[rule->kind] * channels, &job.states));
    /* Newton iterations look at the cell's last iterate, wanted or not */
    if (rule->newton > 0 && rule->kind == SV_CELL_PARA_LSTM && sv_is_none(cell))
        SV_TRY(sv_scratch_alloc(c, &job.cell, "cell iterate", SV_F32, y.dim[0], channels, y));
    const unsigned blocks = (unsigned)(((int64_t)groups * channels + CELL_THREADS - 1) / CELL_THREADS);
    if (rule->kind == SV_CELL_SLSTM)
        run_slstm(job, groups, stream);
    else if (rule->kind == SV_CELL_PARA_GRU)
        walk_gru<<<blocks, CELL_THREADS, 0, stream>>>(job);
    else
        walk_lstm<<<blocks, CELL_THREADS, 0, stream>>>(job);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "cell_scan");
}
