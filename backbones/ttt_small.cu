/* SPDX-License-Identifier: Apache-2.0
 *
 * TTT-Linear on the GPU for heads of 16 channels and mini-batches of 16 tokens (formulas: ttt.simd.c), in two
 * kernels:
 *
 *     1  a warp per group and head walks the mini-batches, for they depend on each other: Z = W k + b, gradients g,
 *        W and b one step further; another puts the next mini-batch in place. W and b before each step, and g, are kept
 *     2  a warp per mini-batch and head: the outputs, from W, b and g
 *
 * The model lies in the first warp's registers as the result of a product of matrices, channels by inputs. Since sums
 * over k may be taken in any order, what is the result of one product is an operand of the next without moving: lane
 * (r, q) of 8 x 4 has columns 8n + 2q and 8n + 2q + 1 of rows r and r + 8, as an operand their k is q and q + 4.
 *
 *     Z [channels, tokens] = W [channels, inputs] K' + b      W += g [channels, tokens] (step K) [tokens, inputs]
 *
 * Norms are of centred numbers, so Z is centred; gradients of a norm are. With c = (beta - target) gamma the other sums
 * of a step over channels need Z alone, and are made at once:
 *
 *     s = 1 / sqrt(sum Z^2 / 16 + eps);   g = s (x gamma^2 + c - m - x l),  x = s Z
 *     m = (s sum Z gamma^2 + sum c) / 16,   l = (s^2 sum Z^2 gamma^2 + s sum Z c) / 16
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
struct alignas(16) square {
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
            scale[n][e] = rsqrtf(sum[n][e] / (float)WIDTH + eps);
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

/* The same in the places where a step wants it: pieces of 16 bytes of a lane. */
enum {
    PIECE_K,
    PIECE_STEPPED = PIECE_K + 2,
    PIECE_C = PIECE_STEPPED + 2,
    PIECE_STEP = PIECE_C + 2,
    PIECE_SUM,
    PIECES
};

/* What products take: TF32 numbers unless they are to be split. */
template <bool exact> __device__ __forceinline__ float operand(float x)
{
    return exact ? x : __uint_as_float(sv_tf32(x));
}

/* 'lines': [TOKENS][PITCH] twice and steps, for this warp alone. */
template <bool exact>
__device__ __forceinline__ void arrange(float4 *place, raw_batch raw, const rows &angles, float last_token,
                                        const float (&gamma)[2], const float (&beta)[2], float *lines)
{
    const int lane = threadIdx.x % WARP, r = lane / 4, q = lane % 4;
    float *target = lines + TOKENS * PITCH, *steps = target + TOKENS * PITCH;
    turn(&raw.k, angles);
    place += lane;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < 2; n++) {
        const float2 k0 = raw.k.part[n][0], k1 = raw.k.part[n][1];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float2 k = raw.k.part[n][i], v = raw.v.part[n][i];
            const int at = (r + 8 * n) * PITCH + 8 * i + 2 * q;
            *(float2 *)&lines[at] = k;
            *(float2 *)&target[at] = raw.used[n] ? make_float2(v.x - k.x, v.y - k.y) : make_float2(0, 0);
        }
        place[(PIECE_K + n) * WARP] = make_float4(operand<exact>(k0.x), operand<exact>(k0.y),
                                                  operand<exact>(k1.x), operand<exact>(k1.y));
        if (q == 0) steps[r + 8 * n] = -last_token * raw.rate[n];
    }
    __syncwarp();
    float step[2][2], sum[2][2]; /* of tokens 8n + 2q + e */
#pragma unroll
    for (int n = 0; n < 2; n++) {
        float c[4];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int token = 8 * n + 2 * q + e;
            step[n][e] = steps[token];
#pragma unroll
            for (int h = 0; h < 2; h++)
                c[2 * h + e] = (beta[h] - target[token * PITCH + r + 8 * h]) * gamma[h];
            sum[n][e] = c[e] + c[2 + e];
        }
        place[(PIECE_C + n) * WARP] = make_float4(c[0], c[1], c[2], c[3]);
    }
    sum_rows(sum);
    place[PIECE_STEP * WARP] = make_float4(step[0][0], step[0][1], step[1][0], step[1][1]);
    place[PIECE_SUM * WARP] = make_float4(sum[0][0], sum[0][1], sum[1][0], sum[1][1]);
#pragma unroll
    for (int n = 0; n < 2; n++) {
        float k[4]; /* step k of tokens 8i + 2q and the next at input 8n + r */
#pragma unroll
        for (int i = 0; i < 4; i++)
            k[i] =
                operand<exact>(step[i / 2][i % 2] * lines[(8 * (i / 2) + 2 * q + i % 2) * PITCH + 8 * n + r]);
        place[(PIECE_STEPPED + n) * WARP] = make_float4(k[0], k[1], k[2], k[3]);
    }
}

/* out += left right', 'right' as arrange() left it. */
template <bool exact>
__device__ __forceinline__ void multiply_pieces(square *out, const square &left, const float4 *right)
{
    float4 b[2];
#pragma unroll
    for (int n = 0; n < 2; n++) b[n] = right[n * WARP];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float a[4] = {left.cell[i][0], left.cell[i][2], left.cell[i][1], left.cell[i][3]};
        uint32_t bits[4];
#pragma unroll
        for (int e = 0; e < 4; e++) bits[e] = sv_tf32(a[e]);
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const float b0 = i ? b[n].z : b[n].x, b1 = i ? b[n].w : b[n].y;
            if (exact)
                sv_mma_float<true>(out->cell[n], a, b0, b1);
            else
                sv_mma_tf32(out->cell[n], bits, __float_as_uint(b0), __float_as_uint(b1));
        }
    }
}

/* Both warps, each from its own code. */
__device__ __forceinline__ void meet()
{
    asm volatile("barrier.sync 1, %0;\n" ::"n"(2 * WARP) : "memory");
}

/* One mini-batch further; *g receives its gradients. */
template <bool exact>
__device__ __forceinline__ void step_on(square *model, float (&bias)[2], square *g, const float4 *place,
                                        const float (&square_gamma)[2], float eps)
{
    place += threadIdx.x % WARP;
    square z;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) z.cell[n][i] = bias[i / 2];
    multiply_pieces<exact>(&z, *model, place + PIECE_K * WARP);
    float mean_z[2][2]; /* next to nothing, but it would grow from step to step */
#pragma unroll
    for (int i = 0; i < 4; i++) mean_z[i / 2][i % 2] = z.cell[i / 2][i % 2] + z.cell[i / 2][2 + i % 2];
    sum_rows(mean_z);
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) z.cell[n][i] = fmaf(mean_z[n][i % 2], -1.0f / WIDTH, z.cell[n][i]);
    const float4 steps = place[PIECE_STEP * WARP], all = place[PIECE_SUM * WARP];
    const float step[2][2] = {{steps.x, steps.y}, {steps.z, steps.w}},
                sum_c[2][2] = {{all.x, all.y}, {all.z, all.w}};
    float c[2][4], squares[2][2], weighed[2][2], weighed_squares[2][2], along[2][2];
#pragma unroll
    for (int n = 0; n < 2; n++) {
        const float4 piece = place[(PIECE_C + n) * WARP];
        c[n][0] = piece.x;
        c[n][1] = piece.y;
        c[n][2] = piece.z;
        c[n][3] = piece.w;
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const float z0 = z.cell[n][e], z1 = z.cell[n][2 + e], w0 = z0 * square_gamma[0],
                        w1 = z1 * square_gamma[1];
            squares[n][e] = fmaf(z0, z0, z1 * z1);
            weighed[n][e] = w0 + w1;
            weighed_squares[n][e] = fmaf(z0, w0, z1 * w1);
            along[n][e] = fmaf(z0, c[n][e], z1 * c[n][2 + e]);
        }
    }
    sum_rows(squares);
    sum_rows(weighed);
    sum_rows(weighed_squares);
    sum_rows(along);
    float moved[2] = {0, 0};
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const float scale = rsqrtf(fmaf(squares[n][e], 1.0f / WIDTH, eps)),
                        mean = fmaf(scale, weighed[n][e], sum_c[n][e]) * (1.0f / WIDTH),
                        slope = scale * fmaf(scale, weighed_squares[n][e], along[n][e]) * (1.0f / WIDTH);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float x = scale * z.cell[n][2 * h + e];
                const float gradient = scale * (fmaf(x, square_gamma[h] - slope, c[n][2 * h + e]) - mean);
                g->cell[n][2 * h + e] = gradient;
                moved[h] = fmaf(step[n][e], gradient, moved[h]);
            }
        }
    multiply_pieces<exact>(model, *g, place + PIECE_STEPPED * WARP);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        moved[h] += __shfl_xor_sync(ALL, moved[h], 1);
        moved[h] += __shfl_xor_sync(ALL, moved[h], 2);
        bias[h] += moved[h];
    }
}

/* Puts the mini-batches in place, one ahead of the walk. Rows are known two steps before their numbers are asked for, and these
 * come two steps before they are put in place. */
template <bool exact>
__device__ __forceinline__ void serve(const small_job &job, float4 (&places)[2][PIECES * WARP], float *lines,
                                      int64_t group, int head, const float (&gamma)[2],
                                      const float (&beta)[2])
{
    const rows angles = load_angles(job);
    const int short_batch = job.length - (job.batches - 1) * TOKENS; /* tokens of the last one */
    const float full = job.token[TOKENS - 1], rest = job.token[short_batch - 1];
    raw_batch coming[AHEAD];
    row_pair asked[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) { /* zeros behind the last */
        coming[i] = load_batch(job, load_places(job, group, i), head);
        asked[i] = load_places(job, group, AHEAD + i);
    }
#pragma unroll 2
    for (int at = 0; at < job.batches; at++) {
        arrange<exact>(places[at % 2], coming[0], angles, at == job.batches - 1 ? rest : full, gamma, beta,
                       lines);
        meet(); /* this one is there, and the walk is done with the one before */
#pragma unroll
        for (int i = 0; i + 1 < AHEAD; i++) coming[i] = coming[i + 1];
        coming[AHEAD - 1] = load_batch(job, asked[0], head);
#pragma unroll
        for (int i = 0; i + 1 < AHEAD; i++) asked[i] = asked[i + 1];
        asked[AHEAD - 1] = load_places(job, group, at + 2 * AHEAD);
    }
}

template <bool exact>
__device__ __forceinline__ void walk(const small_job &job, const float4 (&places)[2][PIECES * WARP],
                                     int64_t group, int head, const float (&square_gamma)[2])
{
    const int lane = threadIdx.x % WARP, r = lane / 4, q = lane % 4, state_size = WIDTH * WIDTH + WIDTH;
    const float *w = job.w + (int64_t)head * WIDTH * WIDTH, *b = job.b + head * WIDTH;
    if (job.state_in.data) {
        w = (const float *)job.state_in.data + group * job.state_in.pitch + (int64_t)head * state_size;
        b = w + WIDTH * WIDTH;
    }
    square model; /* channels by inputs; 'w' is by inputs */
    float bias[2] = {b[r], b[r + 8]}, means[2][2], bias_mean = bias[0] + bias[1];
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) model.cell[n][i] = w[(8 * n + 2 * q + i % 2) * WIDTH + r + i / 2 * 8];
#pragma unroll
    for (int i = 0; i < 4; i++) means[i / 2][i % 2] = model.cell[i / 2][i % 2] + model.cell[i / 2][2 + i % 2];
    sum_rows(means);
#pragma unroll
    for (int d = 4; d < WARP; d *= 2) bias_mean += __shfl_xor_sync(ALL, bias_mean, d);
    bias_mean *= 1.0f / WIDTH;
#pragma unroll
    for (int h = 0; h < 2; h++) bias[h] -= bias_mean;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        means[i / 2][i % 2] *= 1.0f / WIDTH;
        model.cell[i / 2][i % 2] -= means[i / 2][i % 2];
        model.cell[i / 2][2 + i % 2] -= means[i / 2][i % 2];
    }
    const int64_t place = (group * job.heads + head) * job.batches;
    float4 *models = job.models + place * 2 * WARP + lane,
           *gradients = job.gradients + place * 2 * WARP + lane;
    float2 *biases = job.biases + place * 8 + r;
    for (int at = 0; at < job.batches; at++) {
#pragma unroll
        for (int n = 0; n < 2; n++) models[n * WARP] = *(const float4 *)model.cell[n];
        if (q == 0) *biases = make_float2(bias[0], bias[1]);
        square g;
        meet(); /* the mini-batch is there */
        step_on<exact>(&model, bias, &g, places[at % 2], square_gamma, job.eps);
#pragma unroll
        for (int n = 0; n < 2; n++) gradients[n * WARP] = *(const float4 *)g.cell[n];
        models += 2 * WARP;
        gradients += 2 * WARP;
        biases += 8;
    }
    if (!job.state_out.data) return;
    float *out = (float *)job.state_out.data + group * job.state_out.pitch + (int64_t)head * state_size;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            out[(8 * n + 2 * q + i % 2) * WIDTH + r + i / 2 * 8] = model.cell[n][i] + means[n][i % 2];
    if (q == 0) {
        out[WIDTH * WIDTH + r] = bias[0] + bias_mean;
        out[WIDTH * WIDTH + r + 8] = bias[1] + bias_mean;
    }
}

/* The first warp walks, the second serves it: in front of each step both meet. */
template <bool exact> __global__ void __launch_bounds__(2 * WARP) learn(const __grid_constant__ small_job job)
{
    __shared__ float4 places[2][PIECES * WARP];
    __shared__ __align__(16) float lines[2 * TOKENS * PITCH + TOKENS];
    const int r = threadIdx.x % WARP / 4, head = blockIdx.y, channel = head * WIDTH + r;
    const int64_t group = blockIdx.x;
    if (group >= sv_rows(job.y) / job.length) return;
    const float gamma[2] = {job.norm_weight[channel], job.norm_weight[channel + 8]},
                beta[2] = {job.norm_bias[channel], job.norm_bias[channel + 8]},
                square_gamma[2] = {gamma[0] * gamma[0], gamma[1] * gamma[1]};
    if (threadIdx.x < WARP)
        walk<exact>(job, places, group, head, square_gamma);
    else
        serve<exact>(job, places, lines, group, head, gamma, beta);
}

/* ---- 2 ------------------------------------------------------------------------------------------------- */

template <bool exact>
__global__ void __launch_bounds__(OUTPUT_WARPS *WARP) answer(const __grid_constant__ small_job job)
{
    __shared__ __align__(16) float lines[OUTPUT_WARPS][TOKENS * PITCH];
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
        learn<true><<<walks, 2 * WARP, 0, stream>>>(job);
        answer<true><<<blocks, OUTPUT_WARPS * WARP, 0, stream>>>(job);
    } else {
        learn<false><<<walks, 2 * WARP, 0, stream>>>(job);
        answer<false><<<blocks, OUTPUT_WARPS * WARP, 0, stream>>>(job);
    }
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "ttt_linear");
}
