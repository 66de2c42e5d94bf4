/* SPDX-License-Identifier: Apache-2.0
 *
 * What is done to the heads of a row, on the GPU: unit length, softmax, one factor per head or column, dot products;
 * routing and powers of a position. A warp has one head of a row, a thread one number where numbers know nothing of
 * each other.
 */
#include "backbones/walk.cuh"

namespace {

enum { NARROW = 16 };

/* The head of a row that this warp has; false when there is none. */
struct head_of_row {
    int64_t row;
    int head, lane;
};
__device__ __forceinline__ bool find_head(head_of_row *at, const sv_tensor &y, int heads)
{
    const int64_t item = sv_thread() / SV_WARP;
    at->row = item / heads;
    at->head = (int)(item % heads);
    at->lane = threadIdx.x % SV_WARP;
    return at->row < sv_rows(y);
}

__global__ void map_heads(sv_tensor y, sv_tensor x, int heads, sv_head_rule rule, float number)
{
    head_of_row at;
    if (!find_head(&at, y, heads)) return;
    const int width = y.dim[1] / heads;
    const float *in = (const float *)x.data + at.row * x.pitch + at.head * width;
    float *out = (float *)y.data + at.row * y.pitch + at.head * width, by = number;
    if (rule == SV_HEAD_SOFTMAX) {
        float most = -INFINITY, sum = 0;
        for (int i = at.lane; i < width; i += SV_WARP) most = fmaxf(most, number * in[i]);
        most = sv_warp_most(most);
        for (int i = at.lane; i < width; i += SV_WARP) sum += out[i] = expf(fmaf(number, in[i], -most));
        by = 1.0f / sv_warp_sum(sum);
        in = out;
    } else if (rule != SV_HEAD_TIMES) {
        const float square = sv_warp_dot(in, in, width), length = sqrtf(square);
        by = 1.0f / (rule == SV_HEAD_UNIT ? sqrtf(square + number) : length > number ? length : number);
    }
    for (int i = at.lane; i < width; i += SV_WARP) out[i] = by * in[i];
}

__global__ void scale_heads(sv_tensor y, sv_tensor x, sv_tensor s, bool divide, float eps)
{
    const int64_t item = sv_thread(), row = item / y.dim[1];
    const int channel = (int)(item % y.dim[1]);
    if (row >= sv_rows(y)) return;
    const float by = ((const float *)s.data)[row * s.pitch + channel / (y.dim[1] / s.dim[1])];
    ((float *)y.data)[row * y.pitch + channel] =
        ((const float *)x.data)[row * x.pitch + channel] * (divide ? 1.0f / (by + eps) : by);
}

__global__ void fill_rows(sv_tensor y, float value)
{
    const int64_t item = sv_thread(), row = item / y.dim[1];
    if (row < sv_rows(y)) ((float *)y.data)[row * y.pitch + item % y.dim[1]] = value;
}

__global__ void scale_columns(sv_tensor y, sv_tensor x, sv_tensor w, sv_tensor base)
{
    const int64_t item = sv_thread(), row = item / y.dim[1];
    const int channel = (int)(item % y.dim[1]);
    if (row >= sv_rows(y)) return;
    const float product = ((const float *)x.data)[row * x.pitch + channel] * ((const float *)w.data)[channel];
    ((float *)y.data)[row * y.pitch + channel] =
        base.data ? ((const float *)base.data)[row * base.pitch + channel] + product : product;
}

__global__ void dot_heads(sv_tensor y, sv_tensor a, sv_tensor b, sv_tensor w)
{
    head_of_row at;
    if (!find_head(&at, y, y.dim[1])) return;
    const int width = a.dim[1] / y.dim[1], first = at.head * width;
    const float *left = (const float *)a.data + at.row * a.pitch + first;
    const float *right = b.data ? (const float *)b.data + at.row * b.pitch + first : NULL;
    const float *weight = w.data ? (const float *)w.data + first : NULL;
    float sum = 0;
    for (int i = at.lane; i < width; i += SV_WARP)
        sum += left[i] * (right ? right[i] : 1.0f) * (weight ? weight[i] : 1.0f);
    sum = sv_warp_sum(sum);
    if (at.lane == 0) ((float *)y.data)[at.row * y.pitch + at.head] = sum;
}

/* Narrow heads: a thread has one. */
__global__ void dot_narrow_heads(sv_tensor y, sv_tensor a, sv_tensor b, sv_tensor w)
{
    const int64_t item = sv_thread(), row = item / y.dim[1];
    const int head = (int)(item % y.dim[1]), width = a.dim[1] / y.dim[1], first = head * width;
    if (row >= sv_rows(y)) return;
    const float *left = (const float *)a.data + row * a.pitch + first,
                *right = b.data ? (const float *)b.data + row * b.pitch + first : NULL,
                *weight = w.data ? (const float *)w.data + first : NULL;
    float sum[2] = {};
#pragma unroll 4
    for (int i = 0; i < width; i++)
        sum[i & 1] += left[i] * (right ? right[i] : 1.0f) * (weight ? weight[i] : 1.0f);
    ((float *)y.data)[row * y.pitch + head] = sum[0] + sum[1];
}

/* A thread per token and head. */
__global__ void power_places(sv_tensor y, const float *exponent, bool whole, sv_tensor state_in, sv_walk walk)
{
    const int64_t item = sv_thread(), row = item / y.dim[1];
    const int head = (int)(item % y.dim[1]);
    const int64_t group = row / walk.length;
    if (group >= sv_walk_groups(y, walk)) return;
    const int step = (int)(row % walk.length);
    const double before = state_in.data ? (double)*sv_walk_group(state_in, group) : 0.0,
                 place = before + (whole ? walk.length : step + 1);
    sv_walk_row(y, walk, group, step)[head] = (float)pow(place, -(double)exponent[head]);
}
__global__ void count_tokens(sv_tensor y, sv_tensor state_in, sv_tensor state_out, sv_walk walk)
{
    const int64_t group = sv_thread();
    if (group >= sv_walk_groups(y, walk)) return;
    *sv_walk_group(state_out, group) =
        (state_in.data ? *sv_walk_group(state_in, group) : 0.0f) + (float)walk.length;
}

__global__ void repeat_rows(sv_tensor y, sv_tensor table, sv_walk walk)
{
    const int64_t item = sv_thread(), row = item / y.dim[1], group = row / walk.length;
    const int channel = (int)(item % y.dim[1]), step = (int)(row % walk.length);
    if (group >= sv_walk_groups(y, walk)) return;
    sv_walk_row(y, walk, group, step)[channel] =
        ((const float *)table.data)[(int64_t)(step % table.dim[0]) * table.pitch + channel];
}

/* A thread per row; there are few columns. */
__global__ void route_rows(sv_tensor y, sv_tensor picks, sv_tensor x, int count)
{
    const int64_t row = sv_thread();
    if (row >= sv_rows(y)) return;
    const float *in = (const float *)x.data + row * x.pitch;
    float *out = (float *)y.data + row * y.pitch, first = 0, sum = 0;
    for (int i = 0; i < y.dim[1]; i++) out[i] = 0;
    for (int k = 0; k < count; k++) {
        int best = -1;
        for (int i = 0; i < y.dim[1]; i++)
            if (out[i] == 0 && (best < 0 || in[i] > in[best])) best = i;
        if (k == 0) first = in[best];
        out[best] = 1;
        if (picks.data) ((int32_t *)picks.data)[row * picks.pitch + k] = best;
    }
    for (int i = 0; i < y.dim[1]; i++)
        if (out[i] != 0) sum += expf(in[i] - first);
    for (int i = 0; i < y.dim[1]; i++)
        if (out[i] != 0) out[i] = expf(in[i] - first) / sum;
}

unsigned blocks_of(sv_tensor y)
{
    return sv_cuda_blocks((int64_t)y.dim[0] * y.dim[1]);
}

} // namespace

sv_status sv_cuda_head_map(sv_ctx *c, sv_tensor y, sv_tensor x, int heads, sv_head_rule rule, float number)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    map_heads<<<sv_cuda_blocks((int64_t)y.dim[0] * heads * SV_WARP), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(
        y, x, heads, rule, number);
    return SV_CUDA_LAUNCHED(c, "head_map");
}

sv_status sv_cuda_head_scale(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor s, bool divide, float eps)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    scale_heads<<<blocks_of(y), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(y, x, s, divide, eps);
    return SV_CUDA_LAUNCHED(c, "head_scale");
}

sv_status sv_cuda_fill(sv_ctx *c, sv_tensor y, float value)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    fill_rows<<<blocks_of(y), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(y, value);
    return SV_CUDA_LAUNCHED(c, "fill");
}

sv_status sv_cuda_column_scale(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor w, sv_tensor base)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    scale_columns<<<blocks_of(y), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(y, x, w, base);
    return SV_CUDA_LAUNCHED(c, "column_scale");
}

sv_status sv_cuda_head_dot(sv_ctx *c, sv_tensor y, sv_tensor a, sv_tensor b, sv_tensor w)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    if (a.dim[1] / y.dim[1] <= NARROW)
        dot_narrow_heads<<<blocks_of(y), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(y, a, b, w);
    else
        dot_heads<<<sv_cuda_blocks((int64_t)y.dim[0] * y.dim[1] * SV_WARP), SV_CUDA_THREADS, 0,
                    sv_cuda_stream(c)>>>(y, a, b, w);
    return SV_CUDA_LAUNCHED(c, "head_dot");
}

sv_status sv_cuda_position_power(sv_ctx *c, sv_tensor y, sv_tensor exponent, bool whole,
                                 const sv_sequence *seq)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    const sv_walk walk = sv_walk_of(seq);
    power_places<<<blocks_of(y), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(y, (const float *)exponent.data,
                                                                          whole, seq->state_in, walk);
    if (!sv_is_none(seq->state_out))
        count_tokens<<<sv_cuda_blocks(y.dim[0] / seq->length), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(
            y, seq->state_in, seq->state_out, walk);
    return SV_CUDA_LAUNCHED(c, "position_power");
}

sv_status sv_cuda_place_rows(sv_ctx *c, sv_tensor y, sv_tensor table, const sv_sequence *seq)
{
    if (y.dim[0] == 0 || y.dim[1] == 0) return SV_OK;
    repeat_rows<<<blocks_of(y), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(y, table, sv_walk_of(seq));
    return SV_CUDA_LAUNCHED(c, "place_rows");
}

sv_status sv_cuda_route(sv_ctx *c, sv_tensor y, sv_tensor picks, sv_tensor x, int count)
{
    if (y.dim[0] == 0) return SV_OK;
    route_rows<<<sv_cuda_blocks(y.dim[0]), SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>(y, picks, x, count);
    return SV_CUDA_LAUNCHED(c, "route");
}
