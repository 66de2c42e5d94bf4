/* SPDX-License-Identifier: Apache-2.0
 *
 * The other primitives of video blocks on the GPU; maps_cpu.c and ops.def have the formulas. Moments are
 * summed in double by one block for each map and group of channels; a channel of a cell is walked through the
 * frames by one thread. Nothing depends on how many maps there are.
 */
#include "perception/core/cuda.cuh"
#include "perception/core/maps.cuh"

namespace {

enum { NORM_THREADS = 512, WARP = 32, MEAN_COLUMNS = 32, MEAN_ROWS = 16 };

__device__ __forceinline__ float *row_of(const sv_tensor &t, int64_t row)
{
    return (float *)t.data + row * t.pitch;
}

/* ---- GroupNorm, means ---------------------------------------------------------------------------------- */

/* Over the block, in every thread; 'parts' has room for a double of each warp and is free again. */
__device__ double block_sum(double value, double *parts)
{
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = value;
    __syncthreads();
    double sum = 0;
    for (int i = 0; i < (int)blockDim.x / WARP; i++) sum += parts[i];
    __syncthreads();
    return sum;
}

struct norm_job {
    sv_tensor y, x;
    const float *weight, *bias;
    int32_t cells, groups;
    float eps;
    sv_map map;
};

__global__ void __launch_bounds__(NORM_THREADS) group_norm(const __grid_constant__ norm_job job)
{
    __shared__ double parts[NORM_THREADS / WARP];
    const int width = job.y.dim[1] / job.groups, first = blockIdx.x % job.groups * width;
    const int64_t row0 = (int64_t)(blockIdx.x / job.groups) * job.cells, count = (int64_t)job.cells * width;
    double sum = 0, squares = 0;
    for (int64_t i = threadIdx.x; i < count; i += NORM_THREADS)
        sum += (double)row_of(job.x, row0 + i / width)[first + i % width];
    const double mean = block_sum(sum, parts) / (double)count;
    for (int64_t i = threadIdx.x; i < count; i += NORM_THREADS) {
        const double off = (double)row_of(job.x, row0 + i / width)[first + i % width] - mean;
        squares += off * off;
    }
    const double scale = 1.0 / sqrt(block_sum(squares, parts) / (double)count + (double)job.eps);
    for (int64_t i = threadIdx.x; i < count; i += NORM_THREADS) {
        const int channel = first + (int)(i % width);
        const float factor = (float)(scale * (double)job.weight[channel]),
                    centred = row_of(job.x, row0 + i / width)[channel] - (float)mean,
                    value = fmaf(centred, factor, job.bias[channel]);
        row_of(job.y, row0 + i / width)[channel] = sv_map_value(job.map, value, value);
    }
}

/* 32 channels of a map by 16 threads each. */
__global__ void __launch_bounds__(MEAN_COLUMNS *MEAN_ROWS) mean_columns(sv_tensor y, sv_tensor x, int cells)
{
    __shared__ double parts[MEAN_ROWS][MEAN_COLUMNS];
    const int lane = threadIdx.x % MEAN_COLUMNS, line = threadIdx.x / MEAN_COLUMNS,
              channel = blockIdx.y * MEAN_COLUMNS + lane;
    double sum = 0;
    for (int i = line; i < cells && channel < x.dim[1]; i += MEAN_ROWS)
        sum += (double)row_of(x, (int64_t)blockIdx.x * cells + i)[channel];
    parts[line][lane] = sum;
    __syncthreads();
    if (line > 0 || channel >= x.dim[1]) return;
    for (int i = 1; i < MEAN_ROWS; i++) sum += parts[i][lane];
    row_of(y, blockIdx.x)[channel] = (float)(sum / cells);
}

/* ---- a thread per number of y --------------------------------------------------------------------------- */

struct item {
    int64_t row;
    int channel;
    bool used;
};
__device__ __forceinline__ item find_item(const sv_tensor &y)
{
    const int64_t number = sv_thread();
    return {number / y.dim[1], (int)(number % y.dim[1]), number < (int64_t)y.dim[0] * y.dim[1]};
}

__global__ void gate_maps(sv_tensor y, sv_tensor x, sv_tensor gate, int cells)
{
    const item at = find_item(y);
    if (!at.used) return;
    row_of(y, at.row)[at.channel] = row_of(x, at.row)[at.channel] * row_of(gate, at.row / cells)[at.channel];
}

/* 'width' of y's maps. */
__global__ void halve_maps(sv_tensor y, sv_tensor x, int width)
{
    const item at = find_item(y);
    if (!at.used) return;
    const int64_t from = at.row / width * 4 * width + at.row % width * 2;
    float sum = 0.25f * row_of(x, from)[at.channel];
    sum = fmaf(0.25f, row_of(x, from + 1)[at.channel], sum);
    sum = fmaf(0.25f, row_of(x, from + 2 * width)[at.channel], sum);
    row_of(y, at.row)[at.channel] = fmaf(0.25f, row_of(x, from + 2 * width + 1)[at.channel], sum);
}

__global__ void double_maps(sv_tensor y, sv_tensor x, int width)
{
    const item at = find_item(y);
    if (!at.used) return;
    const int64_t line = at.row / width, column = at.row % width;
    row_of(y, at.row)[at.channel] = row_of(x, line / 2 * (width / 2) + column / 2)[at.channel];
}

__global__ void warp_maps(sv_tensor y, sv_tensor x, sv_tensor motion, int height, int width)
{
    const item at = find_item(y);
    if (!at.used) return;
    const int64_t line = at.row / width, sample = line / height;
    const float *m = row_of(motion, sample), q = (float)(at.row % width), r = (float)(line % height);
    /* Rounded as on the CPU, so that both agree about what lies outside. */
    const float column = __fadd_rn(__fadd_rn(__fmul_rn(m[0], q), __fmul_rn(m[1], r)), m[2]),
                row = __fadd_rn(__fadd_rn(__fmul_rn(m[3], q), __fmul_rn(m[4], r)), m[5]);
    float sum = 0;
    /* The comparison also leaves out what is not a number. */
    if (m[6] != 0.0f && column > -1.0f && column < (float)width && row > -1.0f && row < (float)height) {
        const int left = (int)floorf(column), top = (int)floorf(row);
        const float dx = column - (float)left, dy = row - (float)top;
        for (int k = 0; k < 4; k++) {
            const int across = left + k % 2, down = top + k / 2;
            const float share = m[6] * (k % 2 ? dx : 1.0f - dx) * (k / 2 ? dy : 1.0f - dy);
            if (share != 0.0f && across >= 0 && across < width && down >= 0 && down < height)
                sum = fmaf(share, row_of(x, (sample * height + down) * width + across)[at.channel], sum);
        }
    }
    row_of(y, at.row)[at.channel] = sum;
}

/* ---- scan over frames ----------------------------------------------------------------------------------- */

struct scan_job {
    sv_tensor y, x, powers, state_in, state_out;
    int32_t frames, rows, stretch, stretches;
};

/* (re, im) = a before + x, the real parts 'half' columns in front of the imaginary ones. */
__device__ __forceinline__ void advance(float &re, float &im, const float *a, const float *x, int half)
{
    const float r = fmaf(-a[half], im, fmaf(a[0], re, x[0]));
    im = fmaf(a[half], re, fmaf(a[0], im, x[half]));
    re = r;
}

/* A stretch of frames of one number; the first one goes on from the state, the others from zero. */
__global__ void scan_stretches(const __grid_constant__ scan_job job)
{
    const int half = job.y.dim[1] / 2;
    const int64_t number = sv_thread(), each = (int64_t)job.rows * half, stretch = number / each;
    if (stretch >= job.stretches) return;
    const int row = (int)(number % each / half), p = (int)(number % half);
    const int first = (int)stretch * job.stretch, last = min(first + job.stretch, job.frames);
    const float *a = row_of(job.powers, 0) + p;
    float re = 0, im = 0;
    if (first == 0 && job.state_in.data) {
        re = row_of(job.state_in, row)[p];
        im = row_of(job.state_in, row)[half + p];
    }
    for (int t = first; t < last; t++) {
        float *y = row_of(job.y, (int64_t)t * job.rows + row) + p;
        advance(re, im, a, row_of(job.x, (int64_t)t * job.rows + row) + p, half);
        y[0] = re;
        y[half] = im;
    }
    if (job.stretches > 1 || !job.state_out.data) return;
    row_of(job.state_out, row)[p] = re;
    row_of(job.state_out, row)[half + p] = im;
}

/* y_t += a^k (y before the stretch), stretch by stretch. */
__global__ void join_stretches(const __grid_constant__ scan_job job)
{
    const int half = job.y.dim[1] / 2;
    const int64_t number = sv_thread(), row = number / half;
    const int p = (int)(number % half);
    if (row >= job.rows) return;
    const float *before = row_of(job.y, (int64_t)(job.stretch - 1) * job.rows + row) + p;
    float re = before[0], im = before[half];
    for (int first = job.stretch; first < job.frames; first += job.stretch) {
        float last[2] = {re, im};
        for (int t = first; t < job.frames && t < first + job.stretch; t++) {
            float *y = row_of(job.y, (int64_t)t * job.rows + row) + p;
            last[0] = re, last[1] = im;
            advance(last[0], last[1], row_of(job.powers, t - first) + p, y, half);
            y[0] = last[0];
            y[half] = last[1];
        }
        re = last[0];
        im = last[1];
    }
    if (!job.state_out.data) return;
    row_of(job.state_out, row)[p] = re;
    row_of(job.state_out, row)[half + p] = im;
}

unsigned blocks_of(sv_tensor y)
{
    return sv_cuda_blocks((int64_t)y.dim[0] * y.dim[1]);
}

} // namespace

sv_status sv_cuda_map_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor weight, sv_tensor bias, int cells,
                           int groups, float eps, sv_map map)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    norm_job job = {};
    job.y = y;
    job.x = x;
    job.weight = (const float *)weight.data;
    job.bias = (const float *)bias.data;
    job.cells = cells;
    job.groups = groups;
    job.eps = eps;
    job.map = map;
    group_norm<<<(unsigned)(y.dim[0] / cells * groups), NORM_THREADS, 0, sv_cuda_stream(c)>>>(job);
    return SV_CUDA_LAUNCHED(c, "map_norm");
}

sv_status sv_cuda_map_mean(sv_ctx *c, sv_tensor y, sv_tensor x, int cells)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    const dim3 grid((unsigned)y.dim[0], (unsigned)(y.dim[1] + MEAN_COLUMNS - 1) / MEAN_COLUMNS);
    mean_columns<<<grid, MEAN_COLUMNS * MEAN_ROWS, 0, sv_cuda_stream(c)>>>(y, x, cells);
    return SV_CUDA_LAUNCHED(c, "map_mean");
}

sv_status sv_cuda_map_gate(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor gate, int cells)
{
    if (y.dim[1] == 0) return SV_OK;
    gate_maps<<<blocks_of(y), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(y, x, gate, cells);
    return SV_CUDA_LAUNCHED(c, "map_gate");
}

sv_status sv_cuda_map_half(sv_ctx *c, sv_tensor y, sv_tensor x, int, int width)
{
    if (y.dim[1] == 0) return SV_OK;
    halve_maps<<<blocks_of(y), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(y, x, width / 2);
    return SV_CUDA_LAUNCHED(c, "map_half");
}

sv_status sv_cuda_map_double(sv_ctx *c, sv_tensor y, sv_tensor x, int, int width)
{
    if (y.dim[1] == 0) return SV_OK;
    double_maps<<<blocks_of(y), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(y, x, 2 * width);
    return SV_CUDA_LAUNCHED(c, "map_double");
}

sv_status sv_cuda_map_scan(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor powers, int frames,
                           sv_tensor state_in, sv_tensor state_out)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    scan_job job = {};
    job.y = y;
    job.x = x;
    job.powers = powers;
    job.state_in = state_in;
    job.state_out = state_out;
    job.frames = frames;
    job.rows = y.dim[0] / frames;
    job.stretch = powers.dim[0] == 1 || powers.dim[0] > frames ? frames : powers.dim[0];
    job.stretches = (frames + job.stretch - 1) / job.stretch;
    const int64_t numbers = (int64_t)job.rows * (y.dim[1] / 2);
    scan_stretches<<<sv_cuda_blocks(numbers * job.stretches), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(job);
    if (job.stretches > 1)
        join_stretches<<<sv_cuda_blocks(numbers), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(job);
    return SV_CUDA_LAUNCHED(c, "map_scan");
}

sv_status sv_cuda_map_warp(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor motion, int height, int width)
{
    if (y.dim[1] == 0) return SV_OK;
    warp_maps<<<blocks_of(y), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(y, x, motion, height, width);
    return SV_CUDA_LAUNCHED(c, "map_warp");
}
