/* SPDX-License-Identifier: Apache-2.0
 *
 * Dense primitives on the GPU: elementwise maps, linear layers, LayerNorm, row means. All in float32.
 *
 * linear: y[i] = map(W x[index[i]] + b) by 64 x 64 tiles of y. A block walks k in steps of 16; in each step
 * it puts a 16 x 64 slice of x (rows gathered) and of W into shared memory, transposed, and every thread
 * adds 4 x 4 products:
 *
 *            n ->            Each element is one chain of fused multiply-adds in ascending k, whatever the
 *         +---W---+          number of rows: a row's bytes do not depend on its place, batch or capacity.
 *      k  |16 x 64|
 *         +-------+
 *    +-x-+ +------+
 *    |   | | y    |  m
 *    +-k-+ +------+
 */
#include "cuda.cuh"
#include "maps.cuh"

enum { TILE = 64, STEP = 16, SIDE = 4, WARP = 32 };

/* ---- maps ---------------------------------------------------------------------------------------------- */

static __global__ void map_kernel(sv_tensor y, sv_tensor a, sv_tensor b, sv_map map)
{
    const int64_t item = sv_thread();
    const int channels = y.dim[1];
    const int64_t row = item / channels;
    const int channel = (int)(item % channels);
    if (row >= sv_rows(y)) return;
    const float left = ((const float *)a.data)[row * a.pitch + channel];
    const float right = b.data ? ((const float *)b.data)[row * b.pitch + channel] : 0.0f;
    ((float *)y.data)[row * y.pitch + channel] = sv_map_value(map, left, right);
}

static sv_status run_map(sv_ctx *c, const char *op, sv_tensor y, sv_tensor a, sv_tensor b, sv_map map)
{
    if (y.dim[1] == 0) return SV_OK;
    map_kernel<<<sv_cuda_blocks((int64_t)y.dim[0] * y.dim[1]), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(
        y, a, b, map);
    return SV_CUDA_LAUNCHED(c, op);
}

sv_status sv_cuda_map1(sv_ctx *c, sv_tensor y, sv_tensor a, sv_map map)
{
    return run_map(c, "map1", y, a, SV_NONE, map);
}

sv_status sv_cuda_map2(sv_ctx *c, sv_tensor y, sv_tensor a, sv_tensor b, sv_map map)
{
    return run_map(c, "map2", y, a, b, map);
}

/* ---- linear -------------------------------------------------------------------------------------------- */

sv_status sv_cuda_linear_prepare(sv_ctx *c, sv_linear_weights *out, sv_tensor w, sv_tensor bias)
{
    *out = sv_linear_weights{};
    out->n = w.dim[0];
    out->k = w.dim[1];
    SV_TRY(sv_weight_upload(c, &out->w, w));
    return sv_is_none(bias) ? SV_OK : sv_weight_upload(c, &out->bias, bias);
}

static __global__ void linear_kernel(sv_tensor y, sv_tensor x, const int32_t *index, const float *w,
                                     const float *bias, int k, sv_map map)
{
    const int rows = sv_rows(y), n = y.dim[1];
    const int row0 = blockIdx.x * TILE, column0 = blockIdx.y * TILE;
    if (row0 >= rows) return;

    __shared__ float x_slice[STEP][TILE + SIDE], w_slice[STEP][TILE + SIDE];
    /* Loading: each thread brings four neighbours in k of one row of x and of one row of W. */
    const int load = threadIdx.x / SIDE, load_k = threadIdx.x % SIDE * SIDE;
    const float *x_row = NULL, *w_row = NULL;
    if (row0 + load < rows) {
        const int row = index ? index[row0 + load] : row0 + load;
        if (row >= 0) x_row = (const float *)x.data + (int64_t)row * x.pitch;
    }
    if (column0 + load < n) w_row = w + (int64_t)(column0 + load) * k;

    const int at_row = threadIdx.x / (TILE / SIDE) * SIDE, at_column = threadIdx.x % (TILE / SIDE) * SIDE;
    float sum[SIDE][SIDE] = {};
    for (int k0 = 0; k0 < k; k0 += STEP) {
        for (int i = 0; i < SIDE; i++) {
            const int at = k0 + load_k + i;
            x_slice[load_k + i][load] = x_row && at < k ? x_row[at] : 0.0f;
            w_slice[load_k + i][load] = w_row && at < k ? w_row[at] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int step = 0; step < STEP; step++) {
            float left[SIDE], right[SIDE];
#pragma unroll
            for (int i = 0; i < SIDE; i++) {
                left[i] = x_slice[step][at_row + i];
                right[i] = w_slice[step][at_column + i];
            }
#pragma unroll
            for (int i = 0; i < SIDE; i++)
#pragma unroll
                for (int j = 0; j < SIDE; j++) sum[i][j] = fmaf(left[i], right[j], sum[i][j]);
        }
        __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < SIDE; i++) {
        const int row = row0 + at_row + i;
        if (row >= rows) break;
        float *out = (float *)y.data + (int64_t)row * y.pitch;
#pragma unroll
        for (int j = 0; j < SIDE; j++) {
            const int column = column0 + at_column + j;
            if (column < n) out[column] = sv_map_value(map, sum[i][j] + (bias ? bias[column] : 0.0f), 0.0f);
        }
    }
}

sv_status sv_cuda_linear(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor index, const sv_linear_weights *w,
                         sv_map map)
{
    if (y.dim[0] == 0 || w->n == 0) return SV_OK;
    const dim3 grid((unsigned)(y.dim[0] + TILE - 1) / TILE, (unsigned)(w->n + TILE - 1) / TILE);
    linear_kernel<<<grid, TILE * TILE / (SIDE * SIDE), 0, sv_cuda_stream(c)>>>(
        y, x, (const int32_t *)index.data, (const float *)w->w.data, (const float *)w->bias.data, w->k, map);
    return SV_CUDA_LAUNCHED(c, "linear");
}

/* ---- rows by warps: LayerNorm and means ---------------------------------------------------------------- */

/* The sum over the warp, in every lane. The pairing is fixed and symmetric, so that all lanes get the same
 * bits. */
static __device__ __forceinline__ float warp_sum(float value)
{
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

static __device__ __forceinline__ float row_sum(const float *row, int channels, int lane)
{
    float sum = 0;
    for (int i = lane; i < channels; i += WARP) sum += row[i];
    return warp_sum(sum);
}

static __global__ void norm_kernel(sv_tensor y, sv_tensor x, const float *weight, const float *bias,
                                   float eps, sv_map map, sv_tensor residual)
{
    const int64_t row = sv_thread() / WARP;
    const int lane = threadIdx.x % WARP, channels = y.dim[1];
    if (row >= sv_rows(y)) return;
    const float *in = (const float *)x.data + row * x.pitch;
    const float mean = row_sum(in, channels, lane) / (float)channels;
    float squares = 0;
    for (int i = lane; i < channels; i += WARP) squares += (in[i] - mean) * (in[i] - mean);
    const float scale = 1.0f / sqrtf(warp_sum(squares) / (float)channels + eps);
    float *out = (float *)y.data + row * y.pitch;
    const float *add = residual.data ? (const float *)residual.data + row * residual.pitch : NULL;
    /* A lane reads and writes its own channels only, so y may be x or the residual. */
    for (int i = lane; i < channels; i += WARP) {
        const float value = sv_map_value(map, (in[i] - mean) * scale * weight[i] + bias[i], 0.0f);
        out[i] = add ? add[i] + value : value;
    }
}

sv_status sv_cuda_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor weight, sv_tensor bias, float eps,
                       sv_map map, sv_tensor residual)
{
    norm_kernel<<<sv_cuda_blocks((int64_t)y.dim[0] * WARP), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(
        y, x, (const float *)weight.data, (const float *)bias.data, eps, map, residual);
    return SV_CUDA_LAUNCHED(c, "norm");
}

static __global__ void row_mean_kernel(sv_tensor y, sv_tensor x)
{
    const int64_t row = sv_thread() / WARP;
    const int lane = threadIdx.x % WARP, channels = x.dim[1];
    if (row >= sv_rows(y)) return;
    const float sum = row_sum((const float *)x.data + row * x.pitch, channels, lane);
    if (lane == 0) ((float *)y.data)[row * y.pitch] = sum / (float)channels;
}

sv_status sv_cuda_row_mean(sv_ctx *c, sv_tensor y, sv_tensor x)
{
    row_mean_kernel<<<sv_cuda_blocks((int64_t)y.dim[0] * WARP), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(y,
                                                                                                         x);
    return SV_CUDA_LAUNCHED(c, "row_mean");
}
