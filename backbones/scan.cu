/* SPDX-License-Identifier: Apache-2.0
 *
 * The sequence primitives of Mamba on the GPU: the short causal convolution and the selective scan
 *
 *     h = exp(delta a) h + (delta u) B;   y = (sum over states of C h + D u) * SiLU(z)
 *
 * (Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023). Groups are few
 * and long, so a group is cut into chunks of 64 walking steps, all of which are walked at once:
 *
 *     1  each chunk, from h = 0:   its last h, and the sum of its delta  | 0 -> e0 | 0 -> e1 | 0 -> e2 |
 *     2  along the chunks of a group: h0 = state, h(i+1) = exp(a sum_i) h(i) + e(i)
 *     3  each chunk, from h(i):    the outputs                           | h0 ->   | h1 ->   | h2 ->   |
 *
 * A decay over a chunk is the exponential of a sum, never a quotient, so nothing overflows. A thread is one
 * channel with its states in registers; B and C of a chunk lie in shared memory. Chunks are cut by the
 * group length alone.
 */
#include "backbones/sequence.cuh"
#include "perception/core/maps.cuh"

/* ---- causal convolution -------------------------------------------------------------------------------- */

typedef struct conv_job {
    sv_tensor y, x, w, state_in, state_out;
    const float *bias;
    const int32_t *index;
    int32_t length;
    bool reverse;
} conv_job;

/* Steps before the group come from the state, whose rows are the last taps-1 inputs, oldest first. */
static __device__ __forceinline__ float input_of(const conv_job &job, int64_t group, int step, int channel)
{
    const int history = job.w.dim[1] - 1, channels = job.y.dim[1];
    if (step < 0) {
        if (!job.state_in.data) return 0.0f;
        return ((const float *)job.state_in
                    .data)[group * job.state_in.pitch + (int64_t)(step + history) * channels + channel];
    }
    const int64_t row = sv_row_of(job.index, sv_slot_of(group, job.length, step, job.reverse));
    return row < 0 ? 0.0f : ((const float *)job.x.data)[row * job.x.pitch + channel];
}

static __global__ void conv_kernel(const __grid_constant__ conv_job job, sv_map map)
{
    const int64_t item = sv_thread();
    const int channels = job.y.dim[1], taps = job.w.dim[1];
    const int64_t slot = item / channels;
    const int channel = (int)(item % channels);
    const int64_t group = slot / job.length;
    if (group >= sv_rows(job.y) / job.length) return;
    const int place = (int)(slot % job.length), step = job.reverse ? job.length - 1 - place : place;
    const float *w = (const float *)job.w.data + (int64_t)channel * job.w.pitch;
    float sum = job.bias[channel];
    for (int j = 0; j < taps; j++)
        sum = fmaf(w[j], input_of(job, group, step - (taps - 1) + j, channel), sum);
    ((float *)job.y.data)[slot * job.y.pitch + channel] = sv_map_value(map, sum, 0.0f);
}

/* One thread per channel of a group, in ascending order, so that the state may be updated in place. */
static __global__ void keep_inputs(const __grid_constant__ conv_job job)
{
    const int64_t item = sv_thread();
    const int channels = job.y.dim[1], history = job.w.dim[1] - 1;
    const int64_t group = item / channels;
    const int channel = (int)(item % channels);
    if (group >= sv_rows(job.y) / job.length) return;
    float *out = (float *)job.state_out.data + group * job.state_out.pitch + channel;
    for (int j = 0; j < history; j++)
        out[(int64_t)j * channels] = input_of(job, group, job.length - history + j, channel);
}

sv_status sv_cuda_causal_conv(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor w, sv_tensor bias,
                              const sv_sequence *seq, sv_map map)
{
    const cudaStream_t stream = sv_cuda_stream(c);
    const int channels = y.dim[1];
    if (channels == 0) return SV_OK;
    conv_job job;
    job.y = y;
    job.x = x;
    job.w = w;
    job.state_in = seq->state_in;
    job.state_out = seq->state_out;
    job.bias = (const float *)bias.data;
    job.index = (const int32_t *)seq->index.data;
    job.length = seq->length;
    job.reverse = seq->reverse;
    conv_kernel<<<sv_cuda_blocks((int64_t)y.dim[0] * channels), SV_CUDA_THREADS, 0, stream>>>(job, map);
    if (!sv_is_none(seq->state_out))
        keep_inputs<<<sv_cuda_blocks((int64_t)(y.dim[0] / seq->length) * channels), SV_CUDA_THREADS, 0,
                      stream>>>(job);
    return SV_CUDA_LAUNCHED(c, "causal_conv");
}

/* ---- selective scan ------------------------------------------------------------------------------------ */

enum { CHUNK = 64, CHANNELS = 128 }; /* steps of a chunk, threads of a block */

typedef struct scan_job {
    sv_tensor y, u, delta, a, b, c, z, state_in, state_out;
    const float *d;
    const int32_t *index;
    float *ends; /* [groups, chunks, states, C]: last h of each chunk; then the h each chunk starts from */
    float *sums; /* [groups, chunks, C]: sum of delta */
    int32_t length, chunks, states;
    bool reverse, accumulate;
} scan_job;

/* a log2(e), so that exp(delta a) is a power of two. */
static __device__ __forceinline__ float decay_rate(const scan_job &job, int channel, int state)
{
    return ((const float *)job.a.data)[(int64_t)channel * job.a.pitch + state] * 1.44269504088896341f;
}

static __device__ __forceinline__ float element(const sv_tensor &t, int64_t row, int column)
{
    return ((const float *)t.data)[row * t.pitch + column];
}

/* Phases 1 and 3. STATES may exceed the states there are: the rest stays zero. */
template <int STATES, bool output> static __global__ void walk_chunks(const __grid_constant__ scan_job job)
{
    const int64_t group = blockIdx.x / job.chunks;
    const int chunk = blockIdx.x % job.chunks, channel = blockIdx.y * CHANNELS + threadIdx.x;
    if (group >= sv_rows(job.y) / job.length) return;
    const int first = chunk * CHUNK, steps = min(CHUNK, job.length - first);

    __shared__ float b[CHUNK][STATES], c[output ? CHUNK : 1][STATES];
    for (int i = threadIdx.x; i < steps * STATES; i += CHANNELS) {
        const int step = i / STATES, state = i % STATES;
        const int64_t slot = sv_slot_of(group, job.length, first + step, job.reverse);
        b[step][state] = state < job.states ? element(job.b, slot, state) : 0.0f;
        if (output) c[step][state] = state < job.states ? element(job.c, slot, state) : 0.0f;
    }
    __syncthreads();
    const int channels = job.y.dim[1];
    if (channel >= channels) return;

    float *ends = job.ends + (int64_t)blockIdx.x * job.states * channels + channel;
    float h[STATES], rate[STATES], sum = 0.0f;
#pragma unroll
    for (int state = 0; state < STATES; state++) {
        const bool used = state < job.states;
        rate[state] = used ? decay_rate(job, channel, state) : 0.0f;
        h[state] = used && output ? ends[(int64_t)state * channels] : 0.0f;
    }
    const float skip = output ? job.d[channel] : 0.0f;
    for (int step = 0; step < steps; step++) {
        const int64_t slot = sv_slot_of(group, job.length, first + step, job.reverse);
        const float delta = element(job.delta, slot, channel), u = element(job.u, slot, channel);
        const float in = delta * u;
        float y = skip * u;
#pragma unroll
        for (int state = 0; state < STATES; state++) {
            h[state] = fmaf(exp2f(delta * rate[state]), h[state], in * b[step][state]);
            if (output) y = fmaf(h[state], c[step][state], y);
        }
        if (output) {
            if (job.z.data) {
                const int64_t row = sv_row_of(job.index, slot);
                const float z = row < 0 ? 0.0f : element(job.z, row, channel);
                y *= z * m_sigmoid(z);
            }
            float *out = (float *)job.y.data + slot * job.y.pitch + channel;
            *out = job.accumulate ? *out + y : y;
        } else {
            sum += delta;
        }
    }
    if (output) return;
    job.sums[(int64_t)blockIdx.x * channels + channel] = sum;
#pragma unroll
    for (int state = 0; state < STATES; state++)
        if (state < job.states) ends[(int64_t)state * channels] = h[state];
}

/* Phase 2: one thread per group, state and channel. */
static __global__ void carry_chunks(const __grid_constant__ scan_job job)
{
    const int64_t item = sv_thread();
    const int channels = job.y.dim[1], channel = (int)(item % channels),
              state = (int)(item / channels % job.states);
    const int64_t group = item / channels / job.states;
    if (group >= sv_rows(job.y) / job.length) return;
    const float rate = decay_rate(job, channel, state);
    const int place = channel * job.states + state; /* in the state's own layout */
    float h = job.state_in.data ? element(job.state_in, group, place) : 0.0f;
    for (int chunk = 0; chunk < job.chunks; chunk++) {
        const int64_t row = group * job.chunks + chunk;
        float *end = job.ends + (row * job.states + state) * channels + channel;
        const float last = *end;
        *end = h;
        h = fmaf(exp2f(rate * job.sums[row * channels + channel]), h, last);
    }
    if (job.state_out.data) ((float *)job.state_out.data)[group * job.state_out.pitch + place] = h;
}

template <int STATES> static void run_scan(const scan_job &job, int64_t groups, cudaStream_t stream)
{
    const int channels = job.y.dim[1];
    const dim3 grid((unsigned)(groups * job.chunks), (unsigned)(channels + CHANNELS - 1) / CHANNELS);
    walk_chunks<STATES, false><<<grid, CHANNELS, 0, stream>>>(job);
    carry_chunks<<<sv_cuda_blocks(groups * job.states * channels), SV_CUDA_THREADS, 0, stream>>>(job);
    walk_chunks<STATES, true><<<grid, CHANNELS, 0, stream>>>(job);
}

sv_status sv_cuda_selective_scan(sv_ctx *c, sv_tensor y, sv_tensor u, sv_tensor delta, sv_tensor a,
                                 sv_tensor bmat, sv_tensor cmat, sv_tensor d, sv_tensor z,
                                 const sv_sequence *seq, bool accumulate)
{
    const int channels = y.dim[1];
    const int64_t groups = y.dim[0] / seq->length;
    if (groups == 0 || channels == 0) return SV_OK;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    scan_job job;
    job.y = y;
    job.u = u;
    job.delta = delta;
    job.a = a;
    job.b = bmat;
    job.c = cmat;
    job.z = z;
    job.state_in = seq->state_in;
    job.state_out = seq->state_out;
    job.d = (const float *)d.data;
    job.index = (const int32_t *)seq->index.data;
    job.length = seq->length;
    job.chunks = (seq->length + CHUNK - 1) / CHUNK;
    job.states = a.dim[1];
    job.reverse = seq->reverse;
    job.accumulate = accumulate;
    const size_t rows = (size_t)groups * (size_t)job.chunks * (size_t)channels;
    void *ends = NULL, *sums = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "scan chunk states", rows * (size_t)job.states * sizeof(float),
                          &ends));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "scan chunk decays", rows * sizeof(float), &sums));
    job.ends = (float *)ends;
    job.sums = (float *)sums;
    if (job.states <= 16)
        run_scan<16>(job, groups, sv_cuda_stream(c));
    else
        run_scan<64>(job, groups, sv_cuda_stream(c));
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "selective_scan");
}
