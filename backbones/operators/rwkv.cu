/* SPDX-License-Identifier: Apache-2.0
 *
 * An RWKV-6 block of LION on the GPU in four kernels (formulas: rwkv.c). Groups are cut into chunks of 32 or
 * 64 tokens, which all run at once:
 *
 *     1  chunk          gather x -> LayerNorm, token shift -> the five mixtures -> r, k, v, decay, gate, which are
 *                       kept; what the chunk adds to the states behind it, of both walks, as a product of matrices
 *     2  along chunks   S(i+1) = e^(sum of the chunk's logarithms of decay) S(i) + end_i, both ways
 *     3  chunk, heads   both walks from S(i) -> GroupNorm, gate; kept
 *     4  chunk          output, residual -> LayerNorm, token shift -> the feed-forward layers -> rows
 *
 * A warp of a walk is a head in one direction with its state in registers, and products of matrices take it 16
 * tokens further. Factors of decay are exponentials of sums, never quotients. The last kernel makes the token before
 * its chunk a second time from what kernels 1 and 3 kept, for its row may have been written by then. What is kept
 * are floats in fp32, half floats otherwise. Nothing here depends on the number of slots, groups or samples.
 */
#include "backbones/operators/rwkv_mix.cuh"
#include "backbones/operators/rwkv_walk.cuh"

namespace {

/* ---- 4 ------------------------------------------------------------------------------------------------- */

template <int C, typename T> struct last_shape : shape<C, T> {
    using s = shape<C, T>;
    enum {
        WARPS = C / 8,
        THREADS = 32 * WARPS,
        HIDDEN = 4 * C,
        HIDDEN_PITCH = sv_row_pitch<T>(HIDDEN),
        LOADED = s::CHUNK + 16, /* behind the chunk the token before it, and what fills up a tile */
        ENTERED = (s::CHUNK + 1) * s::PITCH,
        MIXED = s::CHUNK * s::ROW_PITCH,
        BYTES = ENTERED * 4 + (s::CHUNK + 1) * 8 + s::CHUNK * 4 + 12 +
                (2 * MIXED + s::CHUNK * HIDDEN_PITCH) * (int)sizeof(T),
    };
    static_assert(LOADED * s::ROW_PITCH <= s::CHUNK * HIDDEN_PITCH, "gated rows lie where hidden ones will");
};

/* Rows as they enter the block to 'entered', the token before the chunk behind them; rows[t] is the row that keeps
 * token t's result, -1 where none does. */
template <int C, typename T>
__device__ __forceinline__ void load_entered(const block_job &job, float *entered, int *rows, int chunk,
                                             int64_t slot0)
{
    using s = last_shape<C, T>;
    constexpr int N = C / 32, ROWS = s::CHUNK / s::WARPS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int row[ROWS];
    float value[ROWS][N];
#pragma unroll
    for (int i = 0; i < ROWS; i++) row[i] = ((const int32_t *)job.slots.data)[slot0 + warp + i * s::WARPS];
#pragma unroll
    for (int i = 0; i < ROWS; i++)
        if (job.row_slot[row[i]] != slot0 + warp + i * s::WARPS) row[i] = -1;
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            value[i][j] = row[i] < 0
                              ? 0.0f
                              : ((const float *)job.x.data)[(int64_t)row[i] * job.x.pitch + lane + 32 * j];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int t = warp + i * s::WARPS;
        if (row[i] >= 0 && job.ln0.weight) normalise<N>(value[i], job.ln0, job.eps, lane);
#pragma unroll
        for (int j = 0; j < N; j++) entered[t * s::PITCH + lane + 32 * j] = value[i][j];
        if (lane == 0) rows[t] = row[i];
    }
    if (warp == 0)
#pragma unroll
        for (int j = 0; j < N; j++)
            entered[s::CHUNK * s::PITCH + lane + 32 * j] =
                chunk > 0 ? job.last[(int64_t)(blockIdx.x - 1) * C + lane + 32 * j] : 0.0f;
}

template <int C, typename T>
__global__ void __launch_bounds__(last_shape<C, T>::THREADS)
    feed_forward(const __grid_constant__ block_job job)
{
    using s = last_shape<C, T>;
    constexpr int CHUNK = s::CHUNK, PITCH = s::PITCH, ROW_PITCH = s::ROW_PITCH, MT = CHUNK / 32, N = C / 32;
    extern __shared__ float4 dynamic[];
    T *gated = (T *)dynamic, *hidden = gated, *mixed_key = hidden + CHUNK * s::HIDDEN_PITCH,
      *mixed_receptance = mixed_key + s::MIXED;
    float *entered = (float *)(mixed_receptance + s::MIXED);
    float2 *moments = (float2 *)(entered + s::ENTERED); /* mean, 1 / deviation */
    int *rows = (int *)(moments + CHUNK + 1);
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
    sv_wait_before();
    if ((int)blockIdx.x >= live_chunks<CHUNK>(job)) return;
    const int chunk = blockIdx.x % job.chunks;
    const int64_t slot0 = (int64_t)blockIdx.x * CHUNK;

    constexpr int PIECES = C * (int)sizeof(T) / 16;
    for (int i = tid; i < s::LOADED * PIECES; i += s::THREADS) {
        const int t = i / PIECES, at = i % PIECES;
        const bool used = t < CHUNK || (t == CHUNK && chunk > 0);
        const int64_t slot = t < CHUNK ? slot0 + t : slot0 - 1;
        *((uint4 *)(gated + t * ROW_PITCH) + at) =
            used ? *((const uint4 *)((const T *)job.gated + slot * C) + at) : make_uint4(0, 0, 0, 0);
    }
    load_entered<C, T>(job, entered, rows, chunk, slot0);
    __syncthreads();
    /* a warp's part of C outputs: half of the tokens by 16 columns */
    const int row0 = warp / (s::WARPS / 2) * (CHUNK / 2), column0 = warp % (s::WARPS / 2) * 16;
    {
        float sums[MT][2][4] = {}, before[1][1][4] = {};
        sv_warp_product<C, C>(sums, gated + row0 * ROW_PITCH, job.output, column0, ROW_PITCH);
        sv_warp_product<C, C>(before, gated + CHUNK * ROW_PITCH, job.output, 8 * warp, ROW_PITCH);
        sv_matrix_each(sums, [&](int row, int column, float a, float b) {
            float2 *to = (float2 *)&entered[(row0 + row) * PITCH + column0 + column];
            *to = make_float2(to->x + a, to->y + b);
        });
        sv_matrix_each(before, [&](int row, int column, float a, float b) {
            float2 *to = (float2 *)&entered[CHUNK * PITCH + 8 * warp + column];
            if (row == 0) *to = make_float2(to->x + a, to->y + b);
        });
    }
    __syncthreads();
    for (int t = warp; t <= CHUNK; t += s::WARPS) {
        float value[N], sum = 0, squares = 0;
#pragma unroll
        for (int i = 0; i < N; i++) sum += value[i] = entered[t * PITCH + lane + 32 * i];
        const float mean = sv_sum_of<32>(sum) / (float)C;
#pragma unroll
        for (int i = 0; i < N; i++) squares += (value[i] - mean) * (value[i] - mean);
        const float scale = rsqrtf(sv_sum_of<32>(squares) / (float)C + job.eps);
        if (lane == 0) moments[t] = make_float2(mean, scale);
    }
    __syncthreads();
    for (int i = tid; i < CHUNK * (C / 2); i += s::THREADS) {
        const int t = i / (C / 2), at = i % (C / 2) * 2, last = t == 0 ? CHUNK : t - 1;
        const float2 weight = sv_get(job.ln2.weight + at), bias = sv_get(job.ln2.bias + at);
        float2 own = sv_get(entered + t * PITCH + at), before = sv_get(entered + last * PITCH + at);
        const float2 mine = moments[t], its = moments[last];
        own = make_float2((own.x - mine.x) * mine.y * weight.x + bias.x,
                          (own.y - mine.x) * mine.y * weight.y + bias.y);
        before = t == 0 && chunk == 0 ? make_float2(0, 0)
                                      : make_float2((before.x - its.x) * its.y * weight.x + bias.x,
                                                    (before.y - its.x) * its.y * weight.y + bias.y);
        put_mixed(mixed_key + t * ROW_PITCH + at, job.mix_key, at, before, own);
        put_mixed(mixed_receptance + t * ROW_PITCH + at, job.mix_receptance, at, before, own);
    }
    __syncthreads();
    for (int item = warp; item < s::HIDDEN / s::COLUMNS; item += s::WARPS) {
        const int column = item * s::COLUMNS;
        float sums[s::MT][s::NT][4] = {};
        sv_warp_product<s::HIDDEN, C>(sums, mixed_key, job.ffn_key, column, ROW_PITCH);
        sv_matrix_each(sums, [&](int t, int at, float a, float b) {
            a = fmaxf(a, 0.0f);
            b = fmaxf(b, 0.0f);
            sv_put(hidden + t * s::HIDDEN_PITCH + column + at, a * a, b * b);
        });
    }
    float gate[MT][2][4] = {}, sums[MT][2][4] = {};
    sv_warp_product<C, C>(gate, mixed_receptance + row0 * ROW_PITCH, job.ffn_receptance, column0, ROW_PITCH);
    __syncthreads();
    sv_warp_product<C, s::HIDDEN>(sums, hidden + row0 * s::HIDDEN_PITCH, job.ffn_value, column0,
                                  s::HIDDEN_PITCH);
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) sums[m][n][i] *= sigmoid<T>(gate[m][n][i]);
    sv_matrix_each(sums, [&](int row, int column, float a, float b) {
        const int t = row0 + row, to = rows[t];
        const float2 in = sv_get(entered + t * PITCH + column0 + column);
        if (to >= 0)
            *(float2 *)((float *)job.y.data + (int64_t)to * job.y.pitch + column0 + column) =
                make_float2(in.x + a, in.y + b);
    });
}

/* ---- the four of them ---------------------------------------------------------------------------------- */

sv_status alloc(sv_ctx *c, const char *name, size_t bytes, void **out)
{
    return sv_arena_alloc(c, &c->scratch, name, bytes, out);
}

norm_vectors vectors_of(const sv_rwkv_norm &norm)
{
    return {(const float *)norm.weight.data, (const float *)norm.bias.data};
}

template <typename T> void set_weights(block_job *job, const sv_rwkv_weights *w)
{
    const sv_linear_weights *const projections[MIXTURES] = {&w->decay_down, &w->key, &w->value,
                                                            &w->receptance, &w->gate};
    job->ln0 = vectors_of(w->ln0);
    job->ln1 = vectors_of(w->ln1);
    job->ln2 = vectors_of(w->ln2);
    job->ln_x = vectors_of(w->ln_x);
    job->mix_x = (const float *)w->mix_x.data;
    job->mix_key = (const float *)w->mix_key.data;
    job->mix_receptance = (const float *)w->mix_receptance.data;
    job->bonus = (const float *)w->bonus.data;
    job->mix_down = sv_factor<T>(w->mix_down);
    for (int i = 0; i < MIXTURES; i++) {
        job->mix_up[i] = sv_factor<T>(w->mix_up[i]);
        job->mix_bias[i] = (const float *)w->mix_up[i].bias.data;
        job->projection[i] = sv_factor<T>(*projections[i]);
    }
    job->decay_up = sv_factor<T>(w->decay_up);
    job->decay_bias = (const float *)w->decay_up.bias.data;
    job->output = sv_factor<T>(w->output);
    job->ffn_key = sv_factor<T>(w->ffn_key);
    job->ffn_receptance = sv_factor<T>(w->ffn_receptance);
    job->ffn_value = sv_factor<T>(w->ffn_value);
    job->eps = w->eps;
}

template <int C, typename T> sv_status run_block(sv_ctx *c, block_job job, const sv_rwkv_weights *w)
{
    using s = shape<C, T>;
    const size_t slots = (size_t)job.slots.dim[0], chunks = slots / s::CHUNK,
                 numbers = slots * C * sizeof(typename sv_kept<T>::type);
    void *ends = NULL, *sums = NULL, *last = NULL;
    set_weights<T>(&job, w);
    job.chunks = job.length / s::CHUNK;
    SV_TRY(alloc(c, "rwkv r", numbers, &job.r));
    SV_TRY(alloc(c, "rwkv k", numbers, &job.k));
    SV_TRY(alloc(c, "rwkv v", numbers, &job.v));
    SV_TRY(alloc(c, "rwkv decay", numbers, &job.decay));
    SV_TRY(alloc(c, "rwkv gate", numbers, &job.gate));
    SV_TRY(alloc(c, "rwkv gated", slots * C * sizeof(T), &job.gated));
    SV_TRY(alloc(c, "rwkv chunk states", chunks * 2 * s::STATE * sizeof(float), &ends));
    SV_TRY(alloc(c, "rwkv chunk sums", chunks * C * sizeof(float), &sums));
    SV_TRY(alloc(c, "rwkv last tokens", chunks * C * sizeof(float), &last));
    job.ends = (float *)ends;
    job.sums = (float *)sums;
    job.last = (float *)last;
    static_assert(C <= 64 || sv_within(SV_ROOM_RWKV_128, first_shape<C, T>::BYTES, walk_shape<C, T>::BYTES,
                                       last_shape<C, T>::BYTES),
                  "sv_rwkv_block_fits() knows how much shared memory is taken");
    const unsigned count = (unsigned)chunks;
    const int64_t cells = (int64_t)(slots / (size_t)job.length) * 2 * s::STATE;
    SV_TRY(sv_launch_early(c, "rwkv_block", mix_and_project<C, T>, job, dim3(count),
                           first_shape<C, T>::THREADS, first_shape<C, T>::BYTES));
    SV_TRY(sv_launch_early(c, "rwkv_block", carry<C, s::CHUNK>, job, dim3(sv_cuda_blocks(cells)),
                           SV_CUDA_THREADS, 0));
    SV_TRY(sv_launch_early(c, "rwkv_block", walk_both_ways<C, T>, job, dim3(count, C / WALKED),
                           walk_shape<C, T>::THREADS, walk_shape<C, T>::BYTES));
    return sv_launch_early(c, "rwkv_block", feed_forward<C, T>, job, dim3(count), last_shape<C, T>::THREADS,
                           last_shape<C, T>::BYTES);
}

template <typename T> sv_status run_width(sv_ctx *c, const block_job &job, const sv_rwkv_weights *w)
{
    return job.x.dim[1] == 64 ? run_block<64, T>(c, job, w) : run_block<128, T>(c, job, w);
}

} // namespace

sv_status sv_cuda_rwkv_block(sv_ctx *c, sv_tensor y, sv_tensor x, const sv_rwkv_weights *w,
                             const sv_order *order, int length)
{
    if (order->slot_row.dim[0] == 0) return SV_OK;
    SV_CHECK(c, order->slot_row.offsets, SV_BAD_SHAPE, "rwkv_block: slots without offsets per sample");
    SV_CHECK(c, y.pitch % 2 == 0, SV_BAD_SHAPE, "rwkv_block: rows of %d numbers lie %d apart", y.dim[1],
             y.pitch);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    block_job job = {};
    job.x = x;
    job.y = y;
    job.slots = order->slot_row;
    job.row_slot = (const int32_t *)order->row_slot.data;
    job.length = length;
    if (c->precision == SV_FP32)
        SV_TRY(run_width<float>(c, job, w));
    else if (c->precision == SV_BF16_MATH)
        SV_TRY(run_width<__nv_bfloat16>(c, job, w));
    else
        SV_TRY(run_width<__half>(c, job, w));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
