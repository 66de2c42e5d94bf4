/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations on rows whose channels fall into heads, on the GPU: norms within each head, with a skip and a
 * gate behind them, and products with a block-diagonal matrix. A row below 0 is a row of zeros.
 */
#include "cuda.cuh"
#include "maps.cuh"

enum { WARP = 32 };

static __device__ __forceinline__ float warp_sum(float value)
{
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

static __device__ __forceinline__ float element(const sv_tensor &t, int64_t row, int channel)
{
    return row < 0 ? 0.0f : ((const float *)t.data)[row * t.pitch + channel];
}

/* ---- norm ---------------------------------------------------------------------------------------------- */

/* A warp per row and group. A lane reads and writes its own channels only, so y may be x. */
static __global__ void head_norm_kernel(sv_tensor y, sv_tensor x, const int32_t *index, int index_pitch,
                                        const __grid_constant__ sv_head_norm_spec how)
{
    const int64_t item = sv_thread() / WARP, row = item / how.groups;
    const int lane = threadIdx.x % WARP, width = y.dim[1] / how.groups,
              first = (int)(item % how.groups) * width;
    if (row >= sv_rows(y)) return;
    const int64_t from = index ? index[row * index_pitch] : row;
    float mean = 0, squares = 0;
    if (how.centred) {
        float sum = 0;
        for (int i = lane; i < width; i += WARP) sum += element(x, from, first + i);
        mean = warp_sum(sum) / (float)width;
    }
    for (int i = lane; i < width; i += WARP) {
        const float d = element(x, from, first + i) - mean;
        squares = fmaf(d, d, squares);
    }
    const float scale = 1.0f / sqrtf(warp_sum(squares) / (float)width + how.eps);
    const int64_t gate_row =
        how.gate_index.data ? ((const int32_t *)how.gate_index.data)[row * how.gate_index.pitch] : row;
    for (int i = lane; i < width; i += WARP) {
        const int channel = first + i;
        float value = (element(x, from, channel) - mean) * scale * ((const float *)how.weight.data)[channel];
        if (how.bias.data) value += ((const float *)how.bias.data)[channel];
        if (how.skip.data)
            value =
                fmaf(((const float *)how.skip_weight.data)[channel], element(how.skip, from, channel), value);
        if (how.gate.data) {
            const float gate = element(how.gate, gate_row, channel);
            value *= gate * m_sigmoid(gate);
        }
        ((float *)y.data)[row * y.pitch + channel] = value;
    }
}

sv_status sv_cuda_head_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index,
                            const sv_head_norm_spec *how)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    head_norm_kernel<<<sv_cuda_blocks((int64_t)y.dim[0] * how->groups * WARP), SV_CUDA_THREADS, 0,
                       sv_cuda_stream(c)>>>(y, x, (const int32_t *)index.data, index.pitch, *how);
    return SV_CUDA_LAUNCHED(c, "head_norm");
}

/* ---- block-diagonal product
 * ------------------------------------------------------------------------------ */

static __global__ void block_linear_kernel(sv_tensor y, sv_tensor x, const int32_t *index, int index_pitch,
                                           sv_tensor w, const float *bias)
{
    const int64_t item = sv_thread();
    const int n = y.dim[1], size = w.dim[1], channel = (int)(item % n);
    const int64_t row = item / n;
    if (row >= sv_rows(y)) return;
    const int64_t from = index ? index[row * index_pitch] : row;
    const float *weight = (const float *)w.data + (int64_t)channel * w.pitch;
    float sum = bias ? bias[channel] : 0.0f;
    for (int j = 0; j < size; j++) sum = fmaf(weight[j], element(x, from, channel - channel % size + j), sum);
    ((float *)y.data)[row * y.pitch + channel] = sum;
}

/* Blocks of S channels; a thread block has 32 rows of one of them. The sum of each number is the one above. */
enum { DIAGONAL_ROWS = 32, DIAGONAL_THREADS = 256, DIAGONAL_STEP = 32 };
template <int S>
static __global__ void __launch_bounds__(DIAGONAL_THREADS)
    diagonal_linear(sv_tensor y, sv_tensor x, const int32_t *index, int index_pitch, sv_tensor w,
                    const float *bias)
{
    enum { EACH = DIAGONAL_ROWS * S / DIAGONAL_THREADS, APART = DIAGONAL_THREADS / S };
    __shared__ __align__(16) float in[DIAGONAL_ROWS][DIAGONAL_STEP];
    __shared__ float weight[S][DIAGONAL_STEP + 1];
    const int row0 = blockIdx.x * DIAGONAL_ROWS, first = blockIdx.y * S, rows = sv_rows(y);
    const int own = threadIdx.x % S, line = threadIdx.x / S;
    if (row0 >= rows) return;
    float sums[EACH];
    for (int i = 0; i < EACH; i++) sums[i] = bias ? bias[first + own] : 0.0f;
    for (int j0 = 0; j0 < S; j0 += DIAGONAL_STEP) {
        __syncthreads();
        for (int i = threadIdx.x; i < DIAGONAL_ROWS * DIAGONAL_STEP; i += DIAGONAL_THREADS) {
            const int row = row0 + i / DIAGONAL_STEP;
            const int64_t from = row >= rows ? -1 : index ? index[(int64_t)row * index_pitch] : row;
            in[i / DIAGONAL_STEP][i % DIAGONAL_STEP] = element(x, from, first + j0 + i % DIAGONAL_STEP);
        }
        for (int i = threadIdx.x; i < S * DIAGONAL_STEP; i += DIAGONAL_THREADS)
            weight[i / DIAGONAL_STEP][i % DIAGONAL_STEP] =
                ((const float *)
                     w.data)[(int64_t)(first + i / DIAGONAL_STEP) * w.pitch + j0 + i % DIAGONAL_STEP];
        __syncthreads();
        for (int j = 0; j < DIAGONAL_STEP; j += 4) {
            const float a = weight[own][j], b = weight[own][j + 1], c = weight[own][j + 2],
                        d = weight[own][j + 3];
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                const float4 piece = *(const float4 *)&in[line + i * APART][j];
                sums[i] = fmaf(d, piece.w, fmaf(c, piece.z, fmaf(b, piece.y, fmaf(a, piece.x, sums[i]))));
            }
        }
    }
    for (int i = 0; i < EACH; i++) {
        const int row = row0 + line + i * APART;
        if (row < rows) ((float *)y.data)[(int64_t)row * y.pitch + first + own] = sums[i];
    }
}

/* Blocks of one channel: y = w x + bias, channel by channel. */
template <int V>
static __global__ void scale_kernel(sv_tensor y, sv_tensor x, const int32_t *index, int index_pitch,
                                    const float *w, const float *bias)
{
    sv_each_piece<V>(sv_rows(y), y.dim[1], [&](int row, int channel) {
        const int64_t from = index ? index[(int64_t)row * index_pitch] : row;
        sv_numbers<V> numbers = {}, offset = {};
        if (from >= 0) numbers = sv_read<V>((const float *)x.data + from * x.pitch + channel);
        if (bias) offset = sv_read<V>(bias + channel);
        const sv_numbers<V> weight = sv_read<V>(w + channel);
#pragma unroll
        for (int i = 0; i < V; i++) numbers.at[i] = fmaf(weight.at[i], numbers.at[i], offset.at[i]);
        sv_write<V>((float *)y.data + (int64_t)row * y.pitch + channel, numbers);
    });
}
static sv_status run_scale(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, sv_tensor w, sv_tensor bias)
{
    const bool fours =
        sv_cuda_in_fours(y) && sv_cuda_in_fours(x) && ((uintptr_t)w.data | (uintptr_t)bias.data) % 16 == 0;
    const unsigned blocks = sv_cuda_row_blocks(y.dim[0], y.dim[1] / (fours ? 4 : 1));
    const auto kernel = fours ? scale_kernel<4> : scale_kernel<1>;
    kernel<<<blocks, SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(
        y, x, (const int32_t *)index.data, index.pitch, (const float *)w.data, (const float *)bias.data);
    return SV_CUDA_LAUNCHED(c, "block_linear");
}

template <int S>
static sv_status run_diagonal(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, sv_tensor w,
                              sv_tensor bias)
{
    const dim3 grid((unsigned)(y.dim[0] + DIAGONAL_ROWS - 1) / DIAGONAL_ROWS, (unsigned)(y.dim[1] / S));
    diagonal_linear<S><<<grid, DIAGONAL_THREADS, 0, sv_cuda_stream(c)>>>(
        y, x, (const int32_t *)index.data, index.pitch, w, (const float *)bias.data);
    return SV_CUDA_LAUNCHED(c, "block_linear");
}

sv_status sv_cuda_block_linear(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, sv_tensor w,
                               sv_tensor bias)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    if (w.dim[1] == 1 && w.pitch == 1) return run_scale(c, y, x, index, w, bias);
    switch (w.dim[1]) {
    case 32:
        return run_diagonal<32>(c, y, x, index, w, bias);
    case 64:
        return run_diagonal<64>(c, y, x, index, w, bias);
    case 128:
        return run_diagonal<128>(c, y, x, index, w, bias);
    case 256:
        return run_diagonal<256>(c, y, x, index, w, bias);
    }
    block_linear_kernel<<<sv_cuda_blocks((int64_t)y.dim[0] * y.dim[1]), SV_CUDA_THREADS, 0,
                          sv_cuda_stream(c)>>>(y, x, (const int32_t *)index.data, index.pitch, w,
                                               (const float *)bias.data);
    return SV_CUDA_LAUNCHED(c, "block_linear");
}
