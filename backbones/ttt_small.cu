/* SPDX-License-Identifier: Apache-2.0
 *
 * TTT-Linear on the GPU for heads of 16 channels and mini-batches of 16 tokens (formulas: ttt.simd.c), in two
 * kernels:
 *
 *     1  a warp per group and head walks the mini-batches, for they depend on each other: Z = W k + b, gradients g,
 *        W and b one step further. W and b before each step, and g, are kept
 *     2  a warp per mini-batch and head: the outputs, from W, b and g
 *
 * The model lies in the first warp's registers as the result of a product of matrices, channels by inputs. Since sums over k
 * may be taken in any order, what is the result of one product is an operand of the next without moving: lane (r, q) of 8 x 4
 * has columns 8n + 2q and 8n + 2q + 1 of rows r and r + 8, as an operand their k is q and q + 4.
 *
 *     Z [channels, tokens] = W [channels, inputs] K' + b        W += g [channels, tokens] (step K) [tokens, inputs]
 */
#include "backbones/ttt_small.cuh"
#include "backbones/warp_product.cuh"

namespace {

enum { WIDTH = 16, TOKENS = 16, PITCH = WIDTH + 2, WARP = 32, OUTPUT_WARPS = 4, AHEAD = 2 };
constexpr unsigned ALL = 0xffffffffu;

struct small_job {
    sv_tensor y, q, k, v, rate, state_in, state_out;
    const float *w, *b, *norm_weight, *norm_bias, *token, *rotary;
    const int32_t *index;
    float4 *models, *gradients; /* [groups][heads][mini-batches][2][lanes] */
    float2 *biases;             /* [groups][heads][mini-batches][8]: channels r, r + 8 */
    int32_t length, heads, batches;
    float eps;
    bool reverse;
};

/* Columns 8n + 2q + e of rows r + 8h of a matrix of 16 x 16: cell[n][2h + e]. */
struct square {
    float cell[2][4];
};

/* out += left right'; 'left' as a result lies, right[n][i] = columns 8i + 2q, 8i + 2q + 1 of row 8n + r. */
template <bool exact>
__device__ __forceinline__ void multiply(square *out, const square &left, const float2 (&right)[2][2])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float a[4] = {left.cell[i][0], left.cell[i][2], left.cell[i][1], left.cell[i][3]};
#pragma unroll
        for (int n = 0; n < 2; n++) sv_mma_float<exact>(out->cell[n], a, right[n][i].x, right[n][i].y);
    }
}

/* The sum over the rows of each column, in all lanes of the column. */
__device__ __forceinline__ void sum_rows(float (&sum)[2][2])
{
#pragma unroll
    for (int d = 4; d < WARP; d *= 2)
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) sum[n][e] += __shfl_xor_sync(ALL, sum[n][e], d);
}

/* The columns of z minus their means over their deviations; scale: 1 / deviation. */
__device__ __forceinline__ void normalise(square *z, float (&scale)[2][2], float eps)
{
    float sum[2][2];
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) sum[n][e] = z->cell[n][e] + z->cell[n][2 + e];
    sum_rows(sum);
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const float mean = sum[n][e] / (float)WIDTH;
            z->cell[n][e] -= mean;
            z->cell[n][2 + e] -= mean;
            sum[n][e] = fmaf(z->cell[n][e], z->cell[n][e], z->cell[n][2 + e] * z->cell[n][2 + e]);
        }
    sum_rows(sum);
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            scale[n][e] = 1.0f / sqrtf(sum[n][e] / (float)WIDTH + eps);
            z->cell[n][e] *= scale[n][e];
            z->cell[n][2 + e] *= scale[n][e];
        }
}

/* Channels 8i + 2q and 8i + 2q + 1 of tokens r + 8n of a mini-batch, as they come. */
struct rows {
    float2 part[2][2]; /* [n][i] */
};
__device__ __forceinline__ int64_t row_of(const small_job &job, int64_t group, int step)
{
    return step < job.length ? sv_row_of(job.index, sv_slot_of(group, job.length, step, job.reverse)) : -1;
}
__device__ __forceinline__ rows load_rows(const sv_tensor &from, const int64_t (&row)[2], int first)
{
    rows out;
    const int q = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            out.part[n][i] = row[n] < 0 ? make_float2(0, 0)
                                        : *(const float2 *)((const float *)from.data + row[n] * from.pitch +
                                                            first + 8 * i + 2 * q);
    return out;
}
/* Cosines and sines of the planes that the lane's numbers are. */
__device__ __forceinline__ rows load_angles(const small_job &job)
{
    rows out;
    const int r = threadIdx.x % WARP / 4, q = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            out.part[n][i] = job.rotary ? *(const float2 *)(job.rotary + (r + 8 * n) * WIDTH + 8 * i + 2 * q)
                                        : make_float2(1, 0);
    return out;
}
__device__ __forceinline__ void turn(rows *x, const rows &angles)
{
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float2 p = x->part[n][i], a = angles.part[n][i];
            x->part[n][i] = make_float2(p.x * a.x - p.y * a.y, p.y * a.x + p.x * a.y);
        }
}

/* ---- 1 ------------------------------------------------------------------------------------------------- */

/* What a step needs of a mini-batch, before it is turned. */
struct raw_batch {
    rows k, v;
    float rate[2]; /* of tokens r, r + 8 */
    bool used[2];
};
struct row_pair {
    int64_t row[2];
};
__device__ __forceinline__ row_pair load_places(const small_job &job, int64_t group, int batch)
{
    const int step = batch * TOKENS + threadIdx.x % WARP / 4;
    return {{row_of(job, group, step), row_of(job, group, step + 8)}};
}
__device__ __forceinline__ raw_batch load_batch(const small_job &job, const row_pair &from, int head)
{
    raw_batch out;
    out.k = load_rows(job.k, from.row, head * WIDTH);
    out.v = load_rows(job.v, from.row, head * WIDTH);
#pragma unroll
    for (int n = 0; n < 2; n++) {
        const int64_t row = from.row[n];
        out.used[n] = row >= 0;
        out.rate[n] = row < 0 ? 0.0f : ((const float *)job.rate.data)[row * job.rate.pitch + head];
    }
    return out;
}

/* The same in the places where the products want it. */
struct batch {
    float2 k[2][2];       /* inputs 8i + 2q .. of token 8n + r */
    float2 stepped[2][2]; /* [n][i]: step k of tokens 8i + 2q .. at input 8n + r */
    square target;        /* v - k, channels by tokens */
    float step[2][2];     /* of tokens 8n + 2q + e */
};

/* By way of 'lines', [TOKENS][PITCH] twice and steps, of this warp. */
__device__ __forceinline__ batch arrange(raw_batch raw, const rows &angles, float last_token, float *lines)
{
    const int r = threadIdx.x % WARP / 4, q = threadIdx.x % 4;
    float *target = lines + TOKENS * PITCH, *steps = target + TOKENS * PITCH;
    batch out;
    turn(&raw.k, angles);
    __syncwarp();
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float2 k = raw.k.part[n][i], v = raw.v.part[n][i];
            const int at = (r + 8 * n) * PITCH + 8 * i + 2 * q;
            out.k[n][i] = k;
            *(float2 *)&lines[at] = k;
            *(float2 *)&target[at] = raw.used[n] ? make_float2(v.x - k.x, v.y - k.y) : make_float2(0, 0);
        }
        if (q == 0) steps[r + 8 * n] = -last_token * raw.rate[n];
    }
    __syncwarp();
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int token = 8 * n + 2 * q + e;
            out.step[n][e] = steps[token];
            out.target.cell[n][e] = target[token * PITCH + r];
            out.target.cell[n][2 + e] = target[token * PITCH + r + 8];
        }
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float *at = lines + (8 * i + 2 * q) * PITCH + 8 * n + r;
            out.stepped[n][i] = make_float2(out.step[i][0] * at[0], out.step[i][1] * at[PITCH]);
        }
    return out;
}

template <bool exact> __global__ void __launch_bounds__(WARP) learn(const __grid_constant__ small_job job)
{
    __shared__ float lines[2 * TOKENS * PITCH + TOKENS];
    const int lane = threadIdx.x, r = lane / 4, q = lane % 4, head = blockIdx.y;
    const int64_t group = blockIdx.x;
    if (group >= sv_rows(job.y) / job.length) return;
    const int state_size = WIDTH * WIDTH + WIDTH;
    const float *w = job.w + (int64_t)head * WIDTH * WIDTH, *b = job.b + head * WIDTH;
    if (job.state_in.data) {
        w = (const float *)job.state_in.data + group * job.state_in.pitch + (int64_t)head * state_size;
        b = w + WIDTH * WIDTH;
    }
    square model; /* channels by inputs; 'w' is by inputs */
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) model.cell[n][i] = w[(8 * n + 2 * q + i % 2) * WIDTH + r + i / 2 * 8];
    float bias[2] = {b[r], b[r + 8]};
    const float gamma[2] = {job.norm_weight[head * WIDTH + r], job.norm_weight[head * WIDTH + r + 8]},
                beta[2] = {job.norm_bias[head * WIDTH + r], job.norm_bias[head * WIDTH + r + 8]};
    const rows angles = load_angles(job);
    const int64_t place = (group * job.heads + head) * job.batches;
    const int short_batch = job.length - (job.batches - 1) * TOKENS; /* tokens of the last one */
    const float full = job.token[TOKENS - 1], rest = job.token[short_batch - 1];

    /* Rows are known two steps before their numbers are asked for, and these come two steps before they are used. */
    batch now = arrange(load_batch(job, load_places(job, group, 0), head), angles,
                        job.batches == 1 ? rest : full, lines);
    raw_batch coming[AHEAD];
    row_pair asked[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) { /* zeros behind the last */
        coming[i] = load_batch(job, load_places(job, group, 1 + i), head);
        asked[i] = load_places(job, group, 1 + AHEAD + i);
    }
#pragma unroll 2
    for (int at = 0; at < job.batches; at++) {
        const batch next = arrange(coming[0], angles, at + 1 == job.batches - 1 ? rest : full, lines);
#pragma unroll
        for (int i = 0; i + 1 < AHEAD; i++) coming[i] = coming[i + 1];
        coming[AHEAD - 1] = load_batch(job, asked[0], head);
#pragma unroll
        for (int i = 0; i + 1 < AHEAD; i++) asked[i] = asked[i + 1];
        asked[AHEAD - 1] = load_places(job, group, at + 1 + 2 * AHEAD);
        float4 *kept = job.models + (place + at) * 2 * WARP + lane;
#pragma unroll
        for (int n = 0; n < 2; n++)
            kept[n * WARP] =
                make_float4(model.cell[n][0], model.cell[n][1], model.cell[n][2], model.cell[n][3]);
        if (q == 0) job.biases[(place + at) * 8 + r] = make_float2(bias[0], bias[1]);

        square z;
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) z.cell[n][i] = bias[i / 2];
        multiply<exact>(&z, model, now.k);
        float scale[2][2], sum[2][2], along[2][2];
        normalise(&z, scale, job.eps);
        square g;
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const float x0 = z.cell[n][e], x1 = z.cell[n][2 + e];
                const float d0 = (fmaf(x0, gamma[0], beta[0]) - now.target.cell[n][e]) * gamma[0],
                            d1 = (fmaf(x1, gamma[1], beta[1]) - now.target.cell[n][2 + e]) * gamma[1];
                g.cell[n][e] = d0;
                g.cell[n][2 + e] = d1;
                sum[n][e] = d0 + d1;
                along[n][e] = fmaf(d0, x0, d1 * x1);
            }
        sum_rows(sum);
        sum_rows(along);
        float moved[2] = {0, 0};
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const float mean = sum[n][e] / (float)WIDTH, slope = along[n][e] / (float)WIDTH;
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float *cell = &g.cell[n][2 * h + e];
                    *cell = (*cell - mean - z.cell[n][2 * h + e] * slope) * scale[n][e];
                    moved[h] = fmaf(now.step[n][e], *cell, moved[h]);
                }
            }
        multiply<exact>(&model, g, now.stepped);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            moved[h] += __shfl_xor_sync(ALL, moved[h], 1);
            moved[h] += __shfl_xor_sync(ALL, moved[h], 2);
            bias[h] += moved[h];
        }
        kept = job.gradients + (place + at) * 2 * WARP + lane;
#pragma unroll
        for (int n = 0; n < 2; n++)
            kept[n * WARP] = make_float4(g.cell[n][0], g.cell[n][1], g.cell[n][2], g.cell[n][3]);
        now = next;
    }
    if (!job.state_out.data) return;
    float *out = (float *)job.state_out.data + group * job.state_out.pitch + (int64_t)head * state_size;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) out[(8 * n + 2 * q + i % 2) * WIDTH + r + i / 2 * 8] = model.cell[n][i];
    if (q == 0) {
        out[WIDTH * WIDTH + r] = bias[0];
        out[WIDTH * WIDTH + r + 8] = bias[1];
    }
}

/* ---- 2 ------------------------------------------------------------------------------------------------- */

template <bool exact>
__global__ void __launch_bounds__(OUTPUT_WARPS *WARP) answer(const __grid_constant__ small_job job)
{
    __shared__ float lines[OUTPUT_WARPS][TOKENS * PITCH];
    const int lane = threadIdx.x % WARP, r = lane / 4, q = lane % 4;
    const int64_t place = (int64_t)blockIdx.x * OUTPUT_WARPS + threadIdx.x / WARP;
    const int at = (int)(place % job.batches), head = (int)(place / job.batches % job.heads);
    const int64_t group = place / job.batches / job.heads;
    if (group >= sv_rows(job.y) / job.length) return;
    float *line = lines[threadIdx.x / WARP];
    const int first = at * TOKENS, tokens = min((int)TOKENS, job.length - first);
    const int64_t row[2] = {row_of(job, group, first + r), row_of(job, group, first + r + 8)};
    const rows angles = load_angles(job);
    rows queries = load_rows(job.q, row, head * WIDTH), keys = load_rows(job.k, row, head * WIDTH);
    square model, g, z, weights = {};
#pragma unroll
    for (int n = 0; n < 2; n++) {
        *(float4 *)model.cell[n] = job.models[(place * 2 + n) * WARP + lane];
        *(float4 *)g.cell[n] = job.gradients[(place * 2 + n) * WARP + lane];
    }
    const float2 bias = job.biases[place * 8 + r];
    float rate[2][2]; /* of tokens 8n + 2q + e */
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int64_t from = row_of(job, group, first + 8 * n + 2 * q + e);
            rate[n][e] = from < 0 ? 0.0f : ((const float *)job.rate.data)[from * job.rate.pitch + head];
        }
    turn(&queries, angles);
    turn(&keys, angles);
    /* weights[t][s] = -(1 + q_t.k_s) token_t rate_s of s <= t; the queries lie as a result does, tokens by inputs */
    square left;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int n = 0; n < 2; n++) {
            left.cell[i][2 * n] = queries.part[n][i].x;
            left.cell[i][2 * n + 1] = queries.part[n][i].y;
        }
    multiply<exact>(&weights, left, keys.part);
    float2 mix[2][2]; /* [n][i]: tokens s = 8i + 2q .. for token t = 8n + r */
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int t = 8 * n + r, s = 8 * i + 2 * q;
            const float token = t < tokens ? job.token[t] : 0.0f;
            mix[n][i] =
                make_float2(s <= t ? -(1.0f + weights.cell[i][2 * n]) * token * rate[i][0] : 0.0f,
                            s + 1 <= t ? -(1.0f + weights.cell[i][2 * n + 1]) * token * rate[i][1] : 0.0f);
        }
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) z.cell[n][i] = i / 2 ? bias.y : bias.x;
    multiply<exact>(&z, model, queries.part);
    multiply<exact>(&z, g, mix);
    float scale[2][2];
    normalise(&z, scale, job.eps);
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int channel = head * WIDTH + r + i / 2 * 8;
            line[(8 * n + 2 * q + i % 2) * PITCH + r + i / 2 * 8] =
                fmaf(z.cell[n][i], job.norm_weight[channel], job.norm_bias[channel]);
        }
    __syncwarp();
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int t = r + 8 * n, channel = 8 * i + 2 * q;
            if (t >= tokens) continue;
            const float2 add = *(const float2 *)&line[t * PITCH + channel], own = queries.part[n][i];
            float *to = (float *)job.y.data +
                        sv_slot_of(group, job.length, first + t, job.reverse) * job.y.pitch + head * WIDTH +
                        channel;
            to[0] = own.x + add.x;
            to[1] = own.y + add.y;
        }
}

} // namespace

bool sv_cuda_ttt_is_small(const sv_ttt_weights *weights, int width, const sv_tensor *inputs, int count)
{
    bool even = width == WIDTH && weights->token.dim[1] == TOKENS;
    for (int i = 0; i < count; i++)
        even = even && inputs[i].pitch % 2 == 0 && (uintptr_t)inputs[i].data % 8 == 0;
    return even;
}

sv_status sv_cuda_ttt_small(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, sv_tensor rate,
                            const sv_ttt_weights *weights, const sv_sequence *seq)
{
    const int groups = y.dim[0] / seq->length;
    const sv_mark mark = sv_arena_mark(&c->scratch);
    small_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.rate = rate;
    job.state_in = seq->state_in;
    job.state_out = seq->state_out;
    job.w = (const float *)weights->w.data;
    job.b = (const float *)weights->b.data;
    job.norm_weight = (const float *)weights->norm_weight.data;
    job.norm_bias = (const float *)weights->norm_bias.data;
    job.token = (const float *)weights->token.data;
    job.rotary = (const float *)weights->rotary.data;
    job.index = (const int32_t *)seq->index.data;
    job.length = seq->length;
    job.heads = weights->heads;
    job.batches = (seq->length + TOKENS - 1) / TOKENS;
    job.eps = weights->eps;
    job.reverse = seq->reverse;
    const size_t places = (size_t)groups * (size_t)job.heads * (size_t)job.batches;
    void *models = NULL, *gradients = NULL, *biases = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "ttt models", places * 2 * WARP * sizeof(float4), &models));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "ttt gradients", places * 2 * WARP * sizeof(float4), &gradients));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "ttt biases", places * 8 * sizeof(float2), &biases));
    job.models = (float4 *)models;
    job.gradients = (float4 *)gradients;
    job.biases = (float2 *)biases;
    const cudaStream_t stream = sv_cuda_stream(c);
    const dim3 walks((unsigned)groups, (unsigned)job.heads);
    const unsigned blocks = (unsigned)((places + OUTPUT_WARPS - 1) / OUTPUT_WARPS);
    if (c->precision == SV_FP32) {
        learn<true><<<walks, WARP, 0, stream>>>(job);
        answer<true><<<blocks, OUTPUT_WARPS * WARP, 0, stream>>>(job);
    } else {
        learn<false><<<walks, WARP, 0, stream>>>(job);
        answer<false><<<blocks, OUTPUT_WARPS * WARP, 0, stream>>>(job);
    }
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "ttt_linear");
}
