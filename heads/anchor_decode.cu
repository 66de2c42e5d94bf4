/* SPDX-License-Identifier: Apache-2.0
 *
 * Anchor head outputs to scored boxes on the GPU (formulas: anchor_decode_cpu.c).
 *
 *   keys of anchors that pass the score threshold, collected in any order; a count of each score bin
 *   -> the bin that the last wanted key falls into -> keys up to that bin -> exactly the wanted ones -> sorted -> decoded
 *
 * A key is the score, turned so that smaller is better, above the anchor: all keys differ, so the order in which they were
 * collected leaves no trace.
 */
#include "perception/core/cuda.cuh"

namespace {

enum { BINS = 8192, BIN_SHIFT = 13, SORT_THREADS = 1024, SORT_SHARED = 8192, COLLECT_BLOCKS = 128 };

struct decode_job {
    sv_tensor cls, box, dir;
    sv_candidates out;
    float min_score, min_logit;
    int anchors, batch, most; /* anchors of a sample; candidates kept of a sample */
    int32_t *bins;            /* [batch][BINS] */
    int32_t *passed, *limit, *near; /* [batch] keys that pass; last bin; keys up to that bin */
    uint64_t *keys, *best;          /* [batch][anchors] */
};

__device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* Best sigmoid of an anchor's classes; '*label' 0-based. */
__device__ __forceinline__ float best_class(const float *logit, int classes, int *label)
{
    float best = sigmoid(logit[0]);
    *label = 0;
    for (int k = 1; k < classes; k++) {
        const float score = sigmoid(logit[k]);
        if (score > best) {
            best = score;
            *label = k;
        }
    }
    return best;
}

/* 0 for a score of 1; all scores below 2^-8 share the last bin. */
__device__ __forceinline__ int bin_of(uint64_t key)
{
    const uint32_t bits = ~(uint32_t)(key >> 32);
    return min((int)((0x3f800000u - min(bits, 0x3f800000u)) >> BIN_SHIFT), BINS - 1);
}

/* The place of each thread with 'wanted' in a list that grows by a shared counter; one addition per block. */
__device__ __forceinline__ int take_place(bool wanted, int32_t *counter)
{
    __shared__ int counts[32], first;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const uint32_t who = __ballot_sync(0xffffffffu, wanted);
    if (lane == 0) counts[warp] = __popc(who);
    __syncthreads();
    int before = 0, all = 0;
    for (int w = 0; w < warps; w++) {
        if (w < warp) before += counts[w];
        all += counts[w];
    }
    if (threadIdx.x == 0) first = all > 0 ? atomicAdd(counter, all) : 0;
    __syncthreads();
    const int place = first + before + __popc(who & ((1u << lane) - 1));
    __syncthreads(); /* the counts may be used again */
    return place;
}

/* Blocks take many anchors each, so that their counts of bins are worth collecting. */
__global__ void __launch_bounds__(SORT_THREADS)
    collect(const __grid_constant__ decode_job job, const __grid_constant__ sv_anchor_grid grid)
{
    __shared__ int32_t bins[BINS];
    const int b = blockIdx.y;
    for (int i = threadIdx.x; i < BINS; i += SORT_THREADS) bins[i] = 0;
    __syncthreads();
    for (int start = blockIdx.x * SORT_THREADS; start < job.anchors; start += gridDim.x * SORT_THREADS) {
        const int anchor = start + threadIdx.x;
        uint64_t key = 0;
        bool passes = false;
        if (anchor < job.anchors) {
            const int64_t cell = (int64_t)b * (job.anchors / grid.per_cell) + anchor / grid.per_cell;
            const float *logit =
                (const float *)job.cls.data + cell * job.cls.pitch + anchor % grid.per_cell * grid.classes;
            float most = logit[0];
            for (int k = 1; k < grid.classes; k++) most = logit[k] > most ? logit[k] : most;
            if (most >= job.min_logit) {
                int label;
                const float score = best_class(logit, grid.classes, &label);
                passes = score >= job.min_score;
                key = (uint64_t)~__float_as_uint(score) << 32 | (uint32_t)anchor;
            }
        }
        const int place = take_place(passes, &job.passed[b]);
        if (!passes) continue;
        job.keys[(int64_t)b * job.anchors + place] = key;
        atomicAdd(&bins[bin_of(key)], 1);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < BINS; i += SORT_THREADS)
        if (bins[i] > 0) atomicAdd(&job.bins[b * BINS + i], bins[i]);
}

/* One block per sample: the first bin with which enough keys have been seen. */
__global__ void find_limit(const __grid_constant__ decode_job job)
{
    __shared__ int sums[32];
    const int b = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32, per = BINS / SORT_THREADS;
    const int32_t *bins = job.bins + b * BINS + threadIdx.x * per;
    int own = 0;
    for (int i = 0; i < per; i++) own += bins[i];
    int sum = own;
    for (int d = 1; d < 32; d *= 2) {
        const int before = __shfl_up_sync(0xffffffffu, sum, d);
        if (lane >= d) sum += before;
    }
    if (lane == 31) sums[warp] = sum;
    __syncthreads();
    int before = sum - own;
    for (int w = 0; w < warp; w++) before += sums[w];
    if (threadIdx.x == 0) job.limit[b] = BINS - 1;
    __syncthreads();
    if (before < job.most && before + own >= job.most) {
        int i = 0;
        for (int seen = before + bins[0]; seen < job.most; seen += bins[i]) i++;
        job.limit[b] = threadIdx.x * per + i;
    }
    if (b > 0 || threadIdx.x > 0) return;
    job.out.offsets[0] = 0;
    for (int s = 0; s < job.batch; s++)
        job.out.offsets[s + 1] = job.out.offsets[s] + min(job.passed[s], job.most);
}

__global__ void keep_near(const __grid_constant__ decode_job job)
{
    const int i = (int)sv_thread(), b = blockIdx.y, count = job.passed[b];
    if (i - (int)threadIdx.x >= count) return; /* the whole block */
    const uint64_t key = i < count ? job.keys[(int64_t)b * job.anchors + i] : 0;
    const bool near = i < count && bin_of(key) <= job.limit[b];
    const int place = take_place(near, &job.near[b]);
    if (near) job.best[(int64_t)b * job.anchors + place] = key;
}

/* The key that 'most' of 'count' keys do not exceed: its bytes from the highest to the lowest. */
__device__ uint64_t threshold(const uint64_t *keys, int count, int most, int32_t *bins)
{
    uint64_t prefix = 0;
    __shared__ int digit, left;
    int wanted = most;
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += SORT_THREADS) bins[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += SORT_THREADS)
            if (shift == 56 || keys[i] >> (shift + 8) == prefix >> (shift + 8))
                atomicAdd(&bins[keys[i] >> shift & 255], 1);
        __syncthreads();
        if (threadIdx.x == 0) {
            int d = 0, seen = 0;
            while (seen + bins[d] < wanted) seen += bins[d++];
            digit = d;
            left = wanted - seen;
        }
        __syncthreads();
        prefix |= (uint64_t)digit << shift;
        wanted = left;
        __syncthreads();
    }
    return prefix;
}

/* One block per sample: the wanted keys, ascending, to the front of 'keys' (which is free again). */
__global__ void __launch_bounds__(SORT_THREADS) sort_best(const __grid_constant__ decode_job job)
{
    extern __shared__ uint64_t shared[]; /* [SORT_SHARED] */
    __shared__ int32_t bins[256], taken;
    const int b = blockIdx.x, count = job.near[b];
    const uint64_t *best = job.best + (int64_t)b * job.anchors;
    uint64_t *out = job.keys + (int64_t)b * job.anchors;
    /* a few more than wanted are sorted along, which is quicker than telling them apart first */
    const int kept = count <= SORT_SHARED ? count : min(count, job.most), written = min(count, job.most);
    const uint64_t last = count > kept ? threshold(best, count, kept, bins) : UINT64_MAX;
    if (threadIdx.x == 0) taken = 0;
    int size = 1;
    while (size < kept) size *= 2;
    uint64_t *list = size <= SORT_SHARED ? shared : out;
    const int room = size <= SORT_SHARED ? size : kept; /* 'out' may be no longer than the keys it gets */
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += SORT_THREADS)
        if (best[i] <= last) list[atomicAdd(&taken, 1)] = best[i];
    for (int i = kept + threadIdx.x; i < room; i += SORT_THREADS) list[i] = UINT64_MAX;
    __syncthreads();
    /* Bitonic, in the form whose exchanges all go upwards, so that what lies behind 'room' counts as largest. */
    for (int half = 1; half < size; half *= 2) {
        for (int distance = half; distance > 0; distance /= 2) {
            for (int i = threadIdx.x; i < size / 2; i += SORT_THREADS) {
                const int low = i / distance * 2 * distance + i % distance;
                const int high = distance == half ? i / distance * 2 * distance + 2 * distance - 1 - i % distance
                                                  : low + distance;
                if (high >= room) continue;
                const uint64_t x = list[low], y = list[high];
                if (x > y) {
                    list[low] = y;
                    list[high] = x;
                }
            }
            __syncthreads();
        }
    }
    if (list != out)
        for (int i = threadIdx.x; i < written; i += SORT_THREADS) out[i] = list[i];
}

__global__ void decode(const __grid_constant__ decode_job job, const __grid_constant__ sv_anchor_grid grid)
{
    const int i = (int)sv_thread(), b = blockIdx.y, first = job.out.offsets[b];
    if (i >= job.out.offsets[b + 1] - first) return;
    const uint64_t key = job.keys[(int64_t)b * job.anchors + i];
    const int index = (int)(uint32_t)key, kind = index % grid.per_cell, row = first + i;
    const int64_t cell = (int64_t)b * (job.anchors / grid.per_cell) + index / grid.per_cell;
    const float *code = (const float *)job.box.data + cell * job.box.pitch + kind * 7;
    float *box = (float *)job.out.boxes.data + (int64_t)row * SV_BOX_FIELDS;
    float anchor[7];
    sv_anchor_at(&grid, index, anchor);
    const float diagonal = sqrtf(anchor[3] * anchor[3] + anchor[4] * anchor[4]);
    box[0] = code[0] * diagonal + anchor[0];
    box[1] = code[1] * diagonal + anchor[1];
    box[2] = code[2] * anchor[5] + anchor[2];
    for (int k = 3; k < 6; k++) box[k] = expf(code[k]) * anchor[k];
    float heading = code[6] + anchor[6];
    if (grid.direction_bins > 0) {
        const float *direction = (const float *)job.dir.data + cell * job.dir.pitch + kind * grid.direction_bins;
        int best = 0;
        for (int n = 1; n < grid.direction_bins; n++)
            if (direction[n] > direction[best]) best = n;
        const float period = (float)(2 * 3.14159265358979323846 / grid.direction_bins);
        const float turned = heading - grid.direction_offset;
        const float limited = turned - floorf(turned / period + grid.direction_limit) * period;
        heading = limited + grid.direction_offset + period * (float)best;
    }
    box[6] = heading;
    box[7] = box[8] = 0;
    int label;
    best_class((const float *)job.cls.data + cell * job.cls.pitch + kind * grid.classes, grid.classes, &label);
    ((float *)job.out.scores.data)[row] = __uint_as_float(~(uint32_t)(key >> 32));
    ((int32_t *)job.out.labels.data)[row] = label + 1;
    if (job.out.index.data) ((int32_t *)job.out.index.data)[row] = index;
}

} // namespace

sv_status sv_cuda_anchor_decode(sv_ctx *c, const sv_candidates *out, sv_tensor cls, sv_tensor box, sv_tensor dir,
                                int batch, const sv_anchor_grid *grid, float min_score, int pre_max)
{
    const cudaStream_t stream = sv_cuda_stream(c);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    decode_job job = {};
    job.cls = cls;
    job.box = box;
    job.dir = dir;
    job.out = *out;
    job.batch = batch;
    job.anchors = grid->height * grid->width * grid->per_cell;
    const int room = out->boxes.dim[0] / batch;
    job.most = pre_max < room ? pre_max : room;
    if (job.most > job.anchors) job.most = job.anchors;
    job.min_score = min_score;
    /* a little below the exact logit: the score itself decides */
    job.min_logit = min_score <= 0   ? -INFINITY
                    : min_score >= 1 ? 15.0f
                                     : logf(min_score / (1 - min_score)) - 1e-3f;
    const int sort_bytes = SORT_SHARED * (int)sizeof(uint64_t);
    void *counts = NULL, *keys = NULL, *best = NULL;
    const size_t count_bytes = sizeof(int32_t) * (size_t)batch * (BINS + 3),
                 key_bytes = sizeof(uint64_t) * (size_t)batch * (size_t)job.anchors;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "candidate counts", count_bytes, &counts));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "candidate keys", key_bytes, &keys));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "best candidate keys", key_bytes, &best));
    job.bins = (int32_t *)counts;
    job.passed = job.bins + batch * BINS;
    job.limit = job.passed + batch;
    job.near = job.limit + batch;
    job.keys = (uint64_t *)keys;
    job.best = (uint64_t *)best;
    SV_CUDA_TRY(c, "anchor_decode", cudaMemsetAsync(counts, 0, count_bytes, stream));
    const dim3 all(sv_cuda_blocks(job.anchors), (unsigned)batch),
        kept(sv_cuda_blocks(job.most), (unsigned)batch);
    const int collectors = (job.anchors + SORT_THREADS - 1) / SORT_THREADS;
    collect<<<dim3((unsigned)(collectors < COLLECT_BLOCKS ? collectors : (int)COLLECT_BLOCKS), (unsigned)batch),
              SORT_THREADS, 0, stream>>>(job, *grid);
    find_limit<<<batch, SORT_THREADS, 0, stream>>>(job);
    keep_near<<<all, SV_CUDA_THREADS, 0, stream>>>(job);
    SV_CUDA_TRY(c, "anchor_decode",
                cudaFuncSetAttribute(sort_best, cudaFuncAttributeMaxDynamicSharedMemorySize, sort_bytes));
    sort_best<<<batch, SORT_THREADS, sort_bytes, stream>>>(job);
    decode<<<kept, SV_CUDA_THREADS, 0, stream>>>(job, *grid);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "anchor_decode");
}
