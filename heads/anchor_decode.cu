/* SPDX-License-Identifier: Apache-2.0
 *
 * Anchor head outputs to scored boxes on the GPU (formulas: anchor_decode_cpu.c).
 *
 *   keys of anchors that pass the score threshold -> the best of them (best_keys.cuh), decoded
 *
 * A key is the score, turned so that smaller is better, above the anchor.
 */
#include "best_keys.cuh"

namespace {

enum { BIN_SHIFT = 13 };

struct decode_job {
    sv_tensor cls, box, dir;
    sv_candidates out;
    sv_anchor_grid grid;
    float min_score, min_logit;
    int anchors, batch; /* anchors of a sample */
    best_keys list;
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
struct score_bin {
    __device__ int operator()(uint64_t key) const
    {
        const uint32_t bits = ~(uint32_t)(key >> 32);
        return min((int)((0x3f800000u - min(bits, 0x3f800000u)) >> BIN_SHIFT), KEY_BINS - 1);
    }
};

enum { AT_ONCE = 2 };
/* Logits farther apart than this have sigmoids in their order. */
const float NEARLY = 1e-3f;

/* Blocks take many anchors each, so that their counts of bins are worth collecting. */
__global__ void __launch_bounds__(SORT_THREADS) collect(const __grid_constant__ decode_job job)
{
    __shared__ int32_t bins[KEY_BINS];
    const sv_anchor_grid &grid = job.grid;
    const int b = blockIdx.y;
    sv_wait_before();
    for (int i = threadIdx.x; i < KEY_BINS; i += SORT_THREADS) bins[i] = 0;
    __syncthreads();
    for (int start = blockIdx.x * SORT_THREADS; start < job.anchors;
         start += AT_ONCE * gridDim.x * SORT_THREADS) {
        uint64_t key[AT_ONCE];
        bool passes[AT_ONCE];
        int count = 0;
#pragma unroll
        for (int n = 0; n < AT_ONCE; n++) {
            const int anchor = start + n * (int)gridDim.x * SORT_THREADS + (int)threadIdx.x;
            key[n] = 0;
            passes[n] = false;
            if (anchor >= job.anchors) continue;
            const int64_t cell = (int64_t)b * (job.anchors / grid.per_cell) + anchor / grid.per_cell;
            const float *logit =
                (const float *)job.cls.data + cell * job.cls.pitch + anchor % grid.per_cell * grid.classes;
            float most = logit[0];
            for (int k = 1; k < grid.classes; k++) most = logit[k] > most ? logit[k] : most;
            if (!(most >= job.min_logit)) continue;
            float score = sigmoid(most); /* others count only where rounding may turn the order */
            for (int k = 0; k < grid.classes; k++)
                if (logit[k] < most && logit[k] >= most - NEARLY) score = fmaxf(score, sigmoid(logit[k]));
            passes[n] = score >= job.min_score;
            key[n] = (uint64_t)~__float_as_uint(score) << 32 | (uint32_t)anchor;
            count += passes[n];
        }
        int place = take_places(count, &job.list.passed[b]);
#pragma unroll
        for (int n = 0; n < AT_ONCE; n++) {
            if (!passes[n]) continue;
            job.list.keys[(int64_t)b * job.anchors + place++] = key[n];
            atomicAdd(&bins[score_bin()(key[n])], 1);
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < KEY_BINS; i += SORT_THREADS)
        if (bins[i] > 0) atomicAdd(&job.list.bins[b * KEY_BINS + i], bins[i]);
}

/* The anchor of a key to row 'rank' of its sample. */
__device__ void decode(const decode_job &job, int b, int rank, uint64_t key)
{
    const sv_anchor_grid &grid = job.grid;
    int row = rank;
    for (int s = 0; s < b; s++) row += min(job.list.passed[s], job.list.most);
    const int index = (int)(uint32_t)key, kind = index % grid.per_cell;
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
        const float *direction =
            (const float *)job.dir.data + cell * job.dir.pitch + kind * grid.direction_bins;
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
    best_class((const float *)job.cls.data + cell * job.cls.pitch + kind * grid.classes, grid.classes,
               &label);
    ((float *)job.out.scores.data)[row] = __uint_as_float(~(uint32_t)(key >> 32));
    ((int32_t *)job.out.labels.data)[row] = label + 1;
    if (job.out.index.data) ((int32_t *)job.out.index.data)[row] = index;
}

/* What follows the ordering of the keys. */
struct decode_key {
    decode_job job;
    __device__ void operator()(const best_keys &, int b, int rank, uint64_t key) const
    {
        decode(job, b, rank, key);
    }
    __device__ void before() const
    {
        if (blockIdx.x + blockIdx.y + threadIdx.x > 0) return;
        int first = job.out.offsets[0] = 0;
        for (int s = 0; s < job.batch; s++)
            job.out.offsets[s + 1] = first += min(job.list.passed[s], job.list.most);
    }
};

} // namespace

sv_status sv_cuda_anchor_decode(sv_ctx *c, const sv_candidates *out, sv_tensor cls, sv_tensor box,
                                sv_tensor dir, int batch, const sv_anchor_grid *grid, float min_score,
                                int pre_max)
{
    const cudaStream_t stream = sv_cuda_stream(c);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    decode_job job = {};
    job.cls = cls;
    job.box = box;
    job.dir = dir;
    job.out = *out;
    job.grid = *grid;
    job.batch = batch;
    job.anchors = grid->height * grid->width * grid->per_cell;
    job.min_score = min_score;
    /* a little below the exact logit: the score itself decides */
    job.min_logit = min_score <= 0   ? -INFINITY
                    : min_score >= 1 ? 15.0f
                                     : logf(min_score / (1 - min_score)) - 1e-3f;
    const int room = out->boxes.dim[0] / batch;
    SV_TRY(alloc_keys(c, &job.list, job.anchors, batch, pre_max < room ? pre_max : room,
                      (int64_t)job.anchors * batch));
    const int collectors = (job.anchors + SORT_THREADS - 1) / SORT_THREADS;
    collect<<<dim3((unsigned)(collectors < COLLECT_BLOCKS ? collectors : (int)COLLECT_BLOCKS),
                   (unsigned)batch),
              SORT_THREADS, 0, stream>>>(job);
    SV_TRY(SV_CUDA_LAUNCHED(c, "anchor_decode"));
    SV_TRY(sort_keys(c, job.list, score_bin(), decode_key{job}));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
