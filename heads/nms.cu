/* SPDX-License-Identifier: Apache-2.0
 *
 * Greedy non-maximum suppression on the GPU (rules: nms_cpu.c).
 *
 *   rectangles -> for each pair i < j that comes near each other a bit: j overlaps i by more than the
 * threshold
 *   -> one block per sample walks the rows 64 at a time: which of them survive, then what the survivors
 * suppress
 *   -> survivors in order, class by class
 *
 * All pairs are looked at, as in the official code; a row that is not kept suppresses nothing, so the list
 * is that of comparing with kept rows only. This file is compiled without fused multiply-adds, as the CPU's
 * rule is.
 */
#include "perception/core/cuda.cuh"

#define SV_IOU_PUBLIC     static __device__
#define SV_IOU_HELPER     static __device__
#define SV_IOU_NAME(name) device_##name
#define SV_IOU_ROLLED     _Pragma("unroll 1")
#include "perception/geometry/rotated_iou_rules.h"

namespace {

enum { BLOCK = 64, PAIR_THREADS = 128, WALK_THREADS = 256, HELD = 4096 };

struct nms_job {
    sv_candidates in, out;
    sv_rectangle *boxes; /* [batch][rows] */
    uint64_t *mask;      /* [batch][words][rows]: what a row suppresses of 64 others */
    int32_t *kept;       /* [batch][most] rows within the sample */
    int32_t *chosen;     /* [batch][most] candidate rows, as they come out */
    int32_t *counts;     /* [batch] */
    int rows, words;     /* most rows of a sample that are looked at */
    int most;            /* most boxes kept of a sample */
};

__device__ __forceinline__ int rows_of(const nms_job &job, int b)
{
    return min(job.in.boxes.offsets[b + 1] - job.in.boxes.offsets[b], job.rows);
}
__device__ __forceinline__ int label_of(const nms_job &job, int b, int row)
{
    return ((const int32_t *)job.in.labels.data)[job.in.boxes.offsets[b] + row];
}

__global__ void make_rectangles(const __grid_constant__ nms_job job, bool quarter_turn)
{
    const int row = (int)sv_thread(), b = blockIdx.y;
    if (row >= rows_of(job, b)) return;
    const float *f =
        (const float *)job.in.boxes.data + (int64_t)(job.in.boxes.offsets[b] + row) * SV_BOX_FIELDS;
    const float heading = quarter_turn ? f[6] - 1.57079632679489662f : f[6];
    job.boxes[(int64_t)b * job.rows + row] = device_rectangle_make(f[0], f[1], f[3], f[4], heading);
}

/* The 64 rows of block y against the 64 of block x: first which pairs come near each other, then those,
 * evenly shared. */
__global__ void __launch_bounds__(PAIR_THREADS)
    find_overlaps(const __grid_constant__ nms_job job, const __grid_constant__ sv_nms_rule rule)
{
    __shared__ sv_rectangle own[BLOCK], others[BLOCK];
    __shared__ int own_label[BLOCK], label[BLOCK];
    __shared__ unsigned long long bits[BLOCK];
    __shared__ uint16_t near[BLOCK * BLOCK];
    __shared__ int count;
    const int b = blockIdx.z, rows = rows_of(job, b), above = blockIdx.y * BLOCK, first = blockIdx.x * BLOCK;
    if (blockIdx.x < blockIdx.y || first >= rows) return;
    const int high = min((int)BLOCK, rows - above), wide = min((int)BLOCK, rows - first);
    const bool by_class = rule.classes > 0;
    const float margin = rule.quarter_turn ? SV_NMS_BEV_MARGIN : SV_NMS_MARGIN;
    for (int i = threadIdx.x; i < BLOCK; i += PAIR_THREADS) {
        if (i < high) own[i] = job.boxes[(int64_t)b * job.rows + above + i];
        if (i < wide) others[i] = job.boxes[(int64_t)b * job.rows + first + i];
        own_label[i] = i < high ? label_of(job, b, above + i) : 0;
        label[i] = i < wide ? label_of(job, b, first + i) : 0;
        bits[i] = 0;
    }
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    const int k = threadIdx.x % BLOCK; /* the other row is this thread's own for all of them */
    const sv_rectangle other = others[k];
    for (int i = threadIdx.x / BLOCK; i < high && k < wide; i += PAIR_THREADS / BLOCK) {
        if (first + k <= above + i || (by_class && own_label[i] != label[k])) continue;
        if (device_rectangles_near(&own[i], &other, margin))
            near[atomicAdd(&count, 1)] = (uint16_t)(i * BLOCK + k);
    }
    __syncthreads();
    for (int n = threadIdx.x; n < count; n += PAIR_THREADS) {
        const int i = near[n] / BLOCK, with = near[n] % BLOCK;
        const int kind = own_label[i];
        const float threshold = !by_class                           ? rule.threshold[0]
                                : kind >= 1 && kind <= rule.classes ? rule.threshold[kind - 1]
                                                                    : 0.0f;
        if (device_iou_bev(&own[i], &others[with], margin, rule.exact) > threshold)
            atomicOr(&bits[i], 1ull << with);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < high; i += PAIR_THREADS)
        job.mask[((int64_t)b * job.words + blockIdx.x) * job.rows + above + i] = bits[i];
}

/* A thread's rows of a class within a block of rows: which of them are kept. 'own' says what each row suppresses in the block. */
__device__ uint64_t resolve(uint64_t rows, uint64_t removed, const uint64_t *own, int unseen, int unkept)
{
    while (__popcll((long long)rows) > unseen) /* beyond pre_max: nobody looks at them */
        rows &= ~(1ull << (63 - __clzll((long long)rows)));
    uint64_t left = rows & ~removed, kept = 0;
    for (; left && unkept > 0; unkept--) {
        const int k = __ffsll((long long)left) - 1;
        kept |= 1ull << k;
        left &= ~(own[k] | 1ull << k);
    }
    return kept;
}

/*
 * One block per sample. While a warp resolves 64 rows, a thread to each class, the others load what the rows kept so far
 * suppress in the next 64, and what the present ones would.
 */
__global__ void __launch_bounds__(WALK_THREADS)
    walk(const __grid_constant__ nms_job job, const __grid_constant__ sv_nms_rule rule)
{
    __shared__ uint64_t own[2][BLOCK];                     /* of the present and the next rows */
    __shared__ uint32_t members[2][SV_NMS_CLASSES + 1][2]; /* bits of their classes' rows, in halves */
    __shared__ uint32_t removed[2][2], survivors[2];
    __shared__ uint16_t held[HELD]; /* the first rows kept */
    __shared__ int full;
    const int b = blockIdx.x, rows = rows_of(job, b), words = (rows + BLOCK - 1) / BLOCK;
    const int lanes = max(rule.classes, 1), lane = threadIdx.x % 32;
    const int k = (int)threadIdx.x - (WALK_THREADS - BLOCK); /* the last threads: a row of a block each */
    const uint64_t *mask = job.mask + (int64_t)b * job.words * job.rows;
    int32_t *list = job.kept + (int64_t)b * job.rows;
    /* Of this thread's class. */
    int unseen = 0, unkept = 0, total = 0;
    if ((int)threadIdx.x < lanes) {
        unseen = rule.pre_max[threadIdx.x];
        unkept = min(rule.post_max[threadIdx.x], job.most);
    }
    auto load_own = [&](int block) {
        const int row = block * BLOCK + k;
        return k >= 0 && row < rows ? mask[(int64_t)block * job.rows + row] : 0;
    };
    auto load_label = [&](int block) {
        const int row = block * BLOCK + k;
        return k < 0 || row >= rows ? 0 : rule.classes > 0 ? label_of(job, b, row) : 1;
    };
    auto keep = [&](int buffer, uint64_t bits,
                    int label) { /* whole warps */
                                 if (k < 0) return;
                                 own[buffer][k] = bits;
                                 for (int c = 0; c < lanes; c++) {
                                     const uint32_t who = __ballot_sync(0xffffffffu, label == c + 1);
                                     if (lane == 0) members[buffer][c][k / 32] = who;
                                 }
    };
    keep(0, load_own(0), load_label(0));
    if (threadIdx.x < 2) removed[0][threadIdx.x] = 0;
    __syncthreads();
    for (int block = 0; block < words; block++) {
        const int now = block & 1, first = block * BLOCK, row = first + k;
        const uint64_t *next = mask + (int64_t)(block + 1) * job.rows;
        const bool more = block + 1 < words;
        uint64_t gone = 0, ahead = 0;
        if (threadIdx.x < 32) {
            uint64_t kept = 0;
            if ((int)threadIdx.x < lanes) {
                const uint64_t mine = members[now][lane][0] | (uint64_t)members[now][lane][1] << 32;
                kept = resolve(mine, removed[now][0] | (uint64_t)removed[now][1] << 32, own[now], unseen,
                               unkept);
                unseen -= min(unseen, __popcll((long long)mine));
                unkept -= __popcll((long long)kept);
            }
            const uint32_t low = __reduce_or_sync(0xffffffffu, (uint32_t)kept),
                           high = __reduce_or_sync(0xffffffffu, (uint32_t)(kept >> 32));
            const bool done = __all_sync(0xffffffffu, unkept <= 0);
            if (lane == 0) {
                survivors[0] = low;
                survivors[1] = high;
                full = done;
            }
        } else if (more) {
            if (k >= 0 && row < rows) ahead = next[row];
            const uint64_t next_own = load_own(block + 1);
            const int label = load_label(block + 1);
            for (int i = (int)threadIdx.x - 32; i < total; i += WALK_THREADS - 32)
                gone |= next[i < HELD ? held[i] : list[i]];
            keep(now ^ 1, next_own, label);
            if (threadIdx.x < 34) removed[now ^ 1][threadIdx.x - 32] = 0;
        }
        __syncthreads();
        const uint64_t who = survivors[0] | (uint64_t)survivors[1] << 32;
        if (k >= 0 && who >> k & 1) {
            const int place = total + __popcll((long long)(who & ((1ull << k) - 1)));
            list[place] = row;
            if (place < HELD) held[place] = (uint16_t)row;
            gone |= ahead;
        }
        total += __popcll((long long)who);
        if (full) break;
        const uint32_t low = __reduce_or_sync(0xffffffffu, (uint32_t)gone),
                       high = __reduce_or_sync(0xffffffffu, (uint32_t)(gone >> 32));
        if (lane == 0 && low) atomicOr(&removed[now ^ 1][0], low);
        if (lane == 0 && high) atomicOr(&removed[now ^ 1][1], high);
        __syncthreads();
    }
    if (threadIdx.x == 0) job.counts[b] = total;
}

/* One block: offsets, then the kept rows of every sample to their places, class by class. */
__global__ void __launch_bounds__(WALK_THREADS)
    write_kept(const __grid_constant__ nms_job job, const __grid_constant__ sv_nms_rule rule)
{
    __shared__ int places[WALK_THREADS / 32 + 1];
    const int batch = job.in.boxes.batch, classes = rule.classes;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int row = 0;
    if (threadIdx.x == 0) job.out.offsets[0] = 0;
    for (int b = 0; b < batch; b++) {
        const int32_t *list = job.kept + (int64_t)b * job.rows;
        const int first = row, in_first = job.in.boxes.offsets[b];
        for (int label = classes > 0 ? 1 : 0; label <= classes; label++) {
            for (int start = 0; start < job.counts[b]; start += WALK_THREADS) {
                const int i = start + threadIdx.x;
                const int from = i < job.counts[b] ? in_first + list[i] : -1;
                const bool wanted =
                    from >= 0 && (label == 0 || ((const int32_t *)job.in.labels.data)[from] == label);
                const uint32_t who = __ballot_sync(0xffffffffu, wanted);
                if (lane == 0) places[warp] = __popc(who);
                __syncthreads();
                int place = row + __popc(who & ((1u << lane) - 1)), all = 0;
                for (int w = 0; w < WALK_THREADS / 32; w++) {
                    if (w < warp) place += places[w];
                    all += places[w];
                }
                if (wanted && place - first < job.most)
                    job.chosen[(int64_t)b * job.most + place - first] = from;
                row += all;
                __syncthreads();
            }
        }
        row = min(row, first + job.most);
        if (threadIdx.x == 0) job.out.offsets[b + 1] = row;
        const int32_t *chosen = job.chosen + (int64_t)b * job.most,
                      *numbers = (const int32_t *)job.in.index.data;
        for (int i = threadIdx.x; i < row - first; i += WALK_THREADS) {
            const int from = chosen[i];
            int place = first + i;
            if (rule.by_index) { /* as many before it as have a smaller number */
                const int own = numbers ? numbers[from] : from;
                place = first;
                for (int k = 0; k < row - first; k++) {
                    const int other = numbers ? numbers[chosen[k]] : chosen[k];
                    place += other < own || (other == own && k < i);
                }
            }
            for (int k = 0; k < SV_BOX_FIELDS; k++)
                ((float *)job.out.boxes.data)[(int64_t)place * SV_BOX_FIELDS + k] =
                    ((const float *)job.in.boxes.data)[(int64_t)from * SV_BOX_FIELDS + k];
            ((float *)job.out.scores.data)[place] = ((const float *)job.in.scores.data)[from];
            ((int32_t *)job.out.labels.data)[place] = ((const int32_t *)job.in.labels.data)[from];
            if (job.out.index.data) ((int32_t *)job.out.index.data)[place] = numbers ? numbers[from] : from;
        }
        __syncthreads();
    }
}

} // namespace

sv_status sv_cuda_nms(sv_ctx *c, const sv_candidates *out, const sv_candidates *in, const sv_nms_rule *rule)
{
    const cudaStream_t stream = sv_cuda_stream(c);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int batch = in->boxes.batch;
    nms_job job = {};
    job.in = *in;
    job.out = *out;
    job.rows = in->boxes.dim[0];
    if (rule->classes == 0 && rule->pre_max[0] < job.rows) job.rows = rule->pre_max[0];
    job.words = (job.rows + BLOCK - 1) / BLOCK;
    job.most = out->boxes.dim[0] / batch;
    SV_CHECK(c, job.rows <= 1 << 16, SV_UNSUPPORTED, "nms: %d candidates; at most %d are possible on the GPU",
             job.rows, 1 << 16);
    void *boxes = NULL, *bits = NULL, *kept = NULL, *chosen = NULL, *counts = NULL;
    const size_t rows = (size_t)batch * (size_t)job.rows;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "candidate rectangles", rows * sizeof(sv_rectangle), &boxes));
    SV_TRY(
        sv_arena_alloc(c, &c->scratch, "overlap bits", rows * (size_t)job.words * sizeof(uint64_t), &bits));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "kept rows", rows * sizeof(int32_t), &kept));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "chosen rows", sizeof(int32_t) * (size_t)batch * (size_t)job.most,
                          &chosen));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "kept counts", (size_t)batch * sizeof(int32_t), &counts));
    job.boxes = (sv_rectangle *)boxes;
    job.mask = (uint64_t *)bits;
    job.kept = (int32_t *)kept;
    job.chosen = (int32_t *)chosen;
    job.counts = (int32_t *)counts;
    if (job.rows > 0) {
        const dim3 each(sv_cuda_blocks(job.rows), (unsigned)batch),
            pairs((unsigned)job.words, (unsigned)job.words, (unsigned)batch);
        make_rectangles<<<each, SV_CUDA_THREADS, 0, stream>>>(job, rule->quarter_turn);
        find_overlaps<<<pairs, PAIR_THREADS, 0, stream>>>(job, *rule);
    }
    walk<<<batch, WALK_THREADS, 0, stream>>>(job, *rule);
    write_kept<<<1, WALK_THREADS, 0, stream>>>(job, *rule);
    sv_arena_rewind(&c->scratch, mark);
    return SV_CUDA_LAUNCHED(c, "nms");
}
