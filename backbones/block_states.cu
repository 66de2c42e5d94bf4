/* SPDX-License-Identifier: Apache-2.0
 *
 * States that are asked and rewritten by blocks (sv_block_states has the formulas), for up to 16 states,
 * blocks of up to 16 tokens and up to 128 channels: a block of threads walks a group with the states, a
 * block's tokens and what is made of them in shared memory, filled up with zeros. Products with weights are
 * TF32 products, three of them for one where float32 is asked for; half a warp asks the keys, a lane each.
 */
#include "backbones/block_states.cuh"
#include "backbones/warp_product.cuh"
#include "perception/core/launch.cuh"

namespace {

enum { THREADS = 256, WARPS = THREADS / SV_WARP, ROWS = SV_BLOCK_ROWS, MOST = SV_BLOCK_CHANNELS, STEP = 16 };
enum { PITCH = MOST + 4, STATE_PITCH = MOST + STEP, BOTH_PITCH = 2 * MOST + STEP };
constexpr unsigned ALL = 0xffffffffu;

struct meeting {
    float s[ROWS][STATE_PITCH], both[ROWS][BOTH_PITCH];
    float made[4][ROWS][PITCH];   /* of the states: self and cross queries, keys, values */
    float tokens[3][ROWS][PITCH]; /* q, k, v */
};
enum { SELF, CROSS, KEY, VALUE };

/* Four numbers of a row of a weight. */
__device__ __forceinline__ void load_weight(float (&to)[4], const sv_tensor &w, int row, int at, bool fours)
{
    const float *from = (const float *)w.data + (int64_t)row * w.pitch + at;
    if (fours && row < w.dim[0] && at < w.dim[1]) {
        *(float4 *)to = *(const float4 *)from;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = row < w.dim[0] && at + i < w.dim[1] ? from[i] : 0.0f;
}
__device__ __forceinline__ bool in_fours(const sv_tensor &w)
{
    return w.pitch % 4 == 0 && w.dim[1] % 4 == 0 && (uintptr_t)w.data % 16 == 0;
}

/* sums[2h + e] = sum over k of x[lane/4 + 8h][k] w[first + 2 (lane%4) + e][k]; a lane has k = 16 step + 4
 * (lane%4) .. */
template <bool exact>
__device__ __forceinline__ void project(float (&sums)[4], const float *x, int pitch, const sv_tensor &w,
                                        int first)
{
    const int lane = threadIdx.x % SV_WARP, r = lane / 4, q = lane % 4 * 4;
    const bool fours = in_fours(w);
#pragma unroll
    for (int i = 0; i < 4; i++) sums[i] = 0;
#pragma unroll 4
    for (int k = 0; k < w.dim[1]; k += STEP) {
        float upper[4], lower[4], b[4];
        load_weight(b, w, first + r, k + q, fours);
        *(float4 *)upper = *(const float4 *)(x + r * pitch + k + q);
        *(float4 *)lower = *(const float4 *)(x + (r + 8) * pitch + k + q);
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            const float a[4] = {upper[i], lower[i], upper[i + 1], lower[i + 1]};
            sv_mma_float<exact>(sums, a, b[i], b[i + 1]);
        }
    }
}

struct place {
    int64_t group;
    int first, count; /* the block's tokens */
};

__device__ __forceinline__ void fetch_tokens(const sv_block_job &job, meeting *m, const place &p)
{
    const int inner = job.y.dim[1];
    const sv_tensor *const from[] = {&job.q, &job.k, &job.v};
#pragma unroll
    for (int n = 0; n < 3; n++)
#pragma unroll 2
        for (int i = threadIdx.x; i < ROWS * MOST; i += THREADS) {
            const int t = i / MOST, at = i % MOST;
            const bool there = t < p.count && at < inner;
            const float *number = (const float *)from[n]->data;
            if (there) number = sv_walk_row(*from[n], job.walk, p.group, p.first + t) + at;
            asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(
                             sv_shared_address(&m->tokens[n][t][at])),
                         "l"(number), "r"(there ? 4 : 0)
                         : "memory");
        }
    sv_copies_end();
}

__device__ __forceinline__ float half_warp_most(float x)
{
#pragma unroll
    for (int d = 8; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, d));
    return x;
}
__device__ __forceinline__ float half_warp_sum(float x)
{
#pragma unroll
    for (int d = 8; d > 0; d /= 2) x += __shfl_xor_sync(ALL, x, d);
    return x;
}

/* Softmax attention of a head's query by half a warp: channels lane and lane + 16 of the result. */
__device__ __forceinline__ void ask(float (&out)[2], const float *q, const float (*keys)[PITCH],
                                    const float (*values)[PITCH], int at, int width, int count, float scale)
{
    const int lane = threadIdx.x % ROWS;
    float score = 0;
#pragma unroll 8
    for (int n = 0; n < width; n++) score = fmaf(q[at + n], keys[lane][at + n], score);
    score = lane < count ? score * scale : -INFINITY;
    const float e = expf(score - half_warp_most(score)), share = e / half_warp_sum(e);
    out[0] = out[1] = 0;
#pragma unroll
    for (int j = 0; j < ROWS; j++) {
        const float by = __shfl_sync(ALL, share, j, ROWS);
        out[0] = fmaf(by, values[j][min(at + lane, PITCH - 1)], out[0]);
        if (width > ROWS) out[1] = fmaf(by, values[j][min(at + lane + ROWS, PITCH - 1)], out[1]);
    }
}

/* The tokens ask the states, the states each other and the tokens: half a warp has a query of each. */
__device__ void meet(const sv_block_job &job, meeting *m, const place &p)
{
    const int own = threadIdx.x / ROWS, lane = threadIdx.x % ROWS, inner = job.y.dim[1],
              states = job.rule.states, width = job.width;
    for (int head = 0; head < job.rule.heads; head++) {
        const int at = head * width;
        float of_token[2], of_state[2], of_tokens[2];
        ask(of_token, m->tokens[0][own], m->made[KEY], m->made[VALUE], at, width, states, job.rule.scale);
        ask(of_state, m->made[SELF][own], m->made[KEY], m->made[VALUE], at, width, states, job.rule.scale);
        ask(of_tokens, m->made[CROSS][own], m->tokens[1], m->tokens[2], at, width, p.count, job.rule.scale);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int channel = at + lane + i * ROWS;
            if (lane + i * ROWS >= width) continue;
            if (own < p.count) sv_walk_row(job.y, job.walk, p.group, p.first + own)[channel] = of_token[i];
            if (own >= states) continue;
            m->both[own][channel] = of_state[i];
            m->both[own][inner + channel] = of_tokens[i];
        }
    }
}

/* What the states become, of eight channels a warp at a time. */
template <bool exact> __device__ void rewrite(const sv_block_job &job, meeting *m)
{
    const int channels = job.rule.self.dim[1], lane = threadIdx.x % SV_WARP;
    for (int first = threadIdx.x / SV_WARP * 8; first < channels; first += WARPS * 8) {
        float sums[4];
        project<exact>(sums, m->both[0], BOTH_PITCH, job.rule.out, first);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + i / 2 * 8, channel = first + lane % 4 * 2 + i % 2;
            if (row >= job.rule.states || channel >= channels) continue;
            const float gate = ((const float *)job.rule.gate.data)[channel],
                        bias = ((const float *)job.rule.bias.data)[channel];
            m->s[row][channel] = gate * m->s[row][channel] + (1 - gate) * (sums[i] + bias);
        }
    }
}

template <bool exact>
__global__ void __launch_bounds__(THREADS) walk_blocks(const __grid_constant__ sv_block_job job)
{
    extern __shared__ float4 shared[];
    meeting *m = (meeting *)shared;
    place p;
    p.group = blockIdx.x;
    if (p.group >= sv_walk_groups(job.y, job.walk)) return;
    const int states = job.rule.states, channels = job.rule.self.dim[1], lane = threadIdx.x % SV_WARP,
              tiles = (job.y.dim[1] + 7) / 8;
    for (int i = threadIdx.x; i < (int)(sizeof(meeting) / sizeof(float)); i += THREADS) m->s[0][i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < states * channels; i += THREADS)
        m->s[i / channels][i % channels] = sv_walk_group(job.states, p.group)[i];
    const sv_tensor *const weights[] = {&job.rule.self, &job.rule.cross, &job.rule.key, &job.rule.value};
    for (p.first = 0; p.first < job.walk.length; p.first += job.rule.block) {
        p.count = min(job.walk.length - p.first, job.rule.block);
        fetch_tokens(job, m, p);
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x / SV_WARP; i < 4 * tiles; i += WARPS) {
            const int which = i / tiles, first = i % tiles * 8, column = first + lane % 4 * 2;
            float sums[4];
            project<exact>(sums, m->s[0], STATE_PITCH, *weights[which], first);
            float(*to)[PITCH] = m->made[which];
            to[lane / 4][column] = sums[0];
            to[lane / 4][column + 1] = sums[1];
            to[lane / 4 + 8][column] = sums[2];
            to[lane / 4 + 8][column + 1] = sums[3];
        }
        sv_copies_wait<0>();
        __syncthreads();
        meet(job, m, p);
        __syncthreads();
        rewrite<exact>(job, m);
        __syncthreads();
    }
    if (!job.after.data) return;
    for (int i = threadIdx.x; i < states * channels; i += THREADS)
        sv_walk_group(job.after, p.group)[i] = m->s[i / channels][i % channels];
}

template <bool exact> sv_status run(sv_ctx *c, const sv_block_job *job, int groups)
{
    SV_TRY(sv_cuda_reserve(c, "block_state_scan", walk_blocks<exact>, sizeof(meeting)));
    walk_blocks<exact><<<(unsigned)groups, THREADS, sizeof(meeting), sv_cuda_stream(c)>>>(*job);
    return SV_CUDA_LAUNCHED(c, "block_state_scan");
}

} // namespace

bool sv_cuda_block_fits(const sv_block_job *job)
{
    return job->rule.states <= ROWS && job->rule.block <= ROWS && job->width <= 2 * ROWS &&
           job->y.dim[1] <= MOST && job->rule.self.dim[1] <= MOST;
}

sv_status sv_cuda_block_walk(sv_ctx *c, const sv_block_job *job, int groups)
{
    return c->precision == SV_FP32 ? run<true>(c, job, groups) : run<false>(c, job, groups);
}
