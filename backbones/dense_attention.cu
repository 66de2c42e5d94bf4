/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention among all tokens of a group, on the GPU. A block has 16 queries of a head, four to a warp; 32 keys
 * and values at a time lie in shared memory, a lane has a key for the scores and every 32nd channel for the
 * values. The softmax runs along: what was summed is rescaled when a greater score comes.
 */
#include "backbones/walk.cuh"

namespace {

enum { WARPS = 4, THREADS = WARPS * SV_WARP, EACH = 4, QUERIES = WARPS * EACH, KEYS = 32, MOST = 256 };

struct attention_job {
    sv_tensor y, q, k, v;
    int32_t heads, length, keys, values, blocks; /* blocks of queries in a group */
    float scale;
};

/* 'count' rows of a head from 'row' on; beyond 'rows' zeros. */
__device__ void load_rows(float *to, int pitch, const sv_tensor &t, int64_t row, int rows, int count,
                          int first, int width)
{
    for (int i = threadIdx.x; i < count * width; i += THREADS) {
        const int r = i / width, at = i % width;
        to[r * pitch + at] = r < rows ? ((const float *)t.data)[(row + r) * t.pitch + first + at] : 0.0f;
    }
}

template <int PARTS>
__global__ void __launch_bounds__(THREADS) attend(const __grid_constant__ attention_job job)
{
    extern __shared__ float shared[];
    const int keys = job.keys, values = job.values, lane = threadIdx.x % SV_WARP,
              warp = threadIdx.x / SV_WARP;
    const int block = blockIdx.x % job.blocks, head = blockIdx.x / job.blocks % job.heads;
    const int64_t base = (int64_t)(blockIdx.x / job.blocks / job.heads) * job.length;
    const int start = block * QUERIES, left = min(job.length - start, (int)QUERIES);
    if (base + job.length > sv_rows(job.y)) return;
    float *q = shared, *key = q + QUERIES * keys, *value = key + KEYS * (keys + 1);
    load_rows(q, keys, job.q, base + start, left, QUERIES, head * keys, keys);
    float most[EACH], sum[EACH] = {}, out[EACH][PARTS] = {};
    for (int i = 0; i < EACH; i++) most[i] = -INFINITY;
    for (int first = 0; first < job.length; first += KEYS) {
        const int count = min(job.length - first, (int)KEYS);
        __syncthreads();
        load_rows(key, keys + 1, job.k, base + first, count, KEYS, head * keys, keys);
        load_rows(value, values, job.v, base + first, count, KEYS, head * values, values);
        __syncthreads();
        float score[EACH] = {};
        const float *own = key + lane * (keys + 1), *ask = q + warp * EACH * keys;
        for (int n = 0; n < keys; n++) {
#pragma unroll
            for (int i = 0; i < EACH; i++) score[i] = fmaf(ask[i * keys + n], own[n], score[i]);
        }
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            score[i] = lane < count ? score[i] * job.scale : -INFINITY;
            const float now = fmaxf(most[i], sv_warp_most(score[i])), fade = expf(most[i] - now);
            score[i] = expf(score[i] - now);
            sum[i] = fmaf(sum[i], fade, sv_warp_sum(score[i]));
            most[i] = now;
#pragma unroll
            for (int part = 0; part < PARTS; part++) out[i][part] *= fade;
        }
        for (int j = 0; j < count; j++) {
            float weight[EACH];
#pragma unroll
            for (int i = 0; i < EACH; i++) weight[i] = __shfl_sync(0xffffffffu, score[i], j);
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                const int at = part * SV_WARP + lane;
                const float x = at < values ? value[j * values + at] : 0.0f;
#pragma unroll
                for (int i = 0; i < EACH; i++) out[i][part] = fmaf(weight[i], x, out[i][part]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        if (warp * EACH + i >= left) break;
        float *y = (float *)job.y.data + (base + start + warp * EACH + i) * job.y.pitch + head * values;
#pragma unroll
        for (int part = 0; part < PARTS; part++)
            if (part * SV_WARP + lane < values) y[part * SV_WARP + lane] = out[i][part] / sum[i];
    }
}

template <int PARTS> sv_status run(sv_ctx *c, const attention_job &job, int groups)
{
    const int bytes = (int)sizeof(float) * (QUERIES * job.keys + KEYS * (job.keys + 1) + KEYS * job.values);
    SV_CUDA_TRY(c, "dense_attention",
                cudaFuncSetAttribute(attend<PARTS>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    attend<PARTS><<<(unsigned)(groups * job.heads * job.blocks), THREADS, bytes, sv_cuda_stream(c)>>>(job);
    return SV_CUDA_LAUNCHED(c, "dense_attention");
}

} // namespace

sv_status sv_cuda_dense_attention(sv_ctx *c, sv_tensor y, sv_tensor q, sv_tensor k, sv_tensor v, int heads,
                                  float scale, int length)
{
    attention_job job = {};
    job.y = y;
    job.q = q;
    job.k = k;
    job.v = v;
    job.heads = heads;
    job.length = length;
    job.keys = q.dim[1] / heads;
    job.values = y.dim[1] / heads;
    job.blocks = (length + QUERIES - 1) / QUERIES;
    job.scale = scale;
    SV_CHECK(c, job.keys <= MOST && job.values <= MOST, SV_UNSUPPORTED,
             "dense_attention: heads of %d and %d channels; the GPU takes up to %d", job.keys, job.values,
             MOST);
    const int groups = y.dim[0] / length;
    if (groups == 0 || job.values == 0) return SV_OK;
    if (job.values <= 32) return run<1>(c, job, groups);
    if (job.values <= 64) return run<2>(c, job, groups);
    return job.values <= 128 ? run<4>(c, job, groups) : run<8>(c, job, groups);
}
