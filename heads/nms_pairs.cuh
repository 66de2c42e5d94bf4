/* SPDX-License-Identifier: Apache-2.0
 *
 * Non-maximum suppression on the GPU, first half: which rows overlap by more than the threshold. Included
 * by nms.cu.
 *
 *   come_near()      pairs that may overlap at all, by half diagonals and then by the rectangles' sides
 *   find_overlaps()  of all pairs i < j of the rows of a walk a bit
 *   filter_rows()    rows that no row kept so far suppresses
 */
#ifndef SV_NMS_PAIRS_CUH
#define SV_NMS_PAIRS_CUH

#include "perception/core/launch.cuh"

#define SV_IOU_PUBLIC     static __device__
#define SV_IOU_HELPER     static __device__
#define SV_IOU_NAME(name) device_##name
#define SV_IOU_ROLLED     _Pragma("unroll 1")
#include "perception/geometry/rotated_iou_rules.h"

namespace {

enum { BLOCK = 64, PAIR_THREADS = 128, MOST_ROWS = 1 << 16, MOST_WORDS = MOST_ROWS / BLOCK };
/* Rows that are walked first where there may be more than MANY. */
enum { FIRST = 256, MANY = 1024, FILTER_ROWS = 32 };
/* The walk: so many threads to each of 64 rows; the bits of so many blocks of rows are held in shared memory
 * at most, as many as have room. */
enum { PARTS = 8, WALK_THREADS = PARTS * BLOCK, WALK_WARPS = WALK_THREADS / 32, HELD_WORDS = 25 };

struct nms_job {
    sv_candidates in, out;
    sv_nms_rule rule;
    uint64_t *mask;  /* [batch][words][rows]: which of 64 rows before it suppress a row, if they are kept */
    int32_t *kept;   /* [batch][rows] rows within the sample, in order */
    int32_t *chosen; /* [batch][most] candidate rows, as they come out */
    int32_t *counts; /* [batch] of the kept */
    int32_t *left;   /* [batch][rows] rows behind the first that those do not suppress */
    int32_t *left_count; /* [batch] */
    uint32_t *alive;     /* [batch][parts of FILTER_ROWS rows] bits of the rows that are left */
    uint32_t *filtered;  /* [batch] parts that are done */
    uint32_t *walked;    /* samples that are done */
    int rows, words;     /* most rows of a sample that are looked at */
    int most;            /* most boxes kept of a sample */
    /* of one walk */
    int end;   /* rows behind it are not looked at */
    int high;  /* rows of a tile of pairs: 64 or 16 */
    bool rest; /* of the rows that are left */
    int held_words;
};

__device__ __forceinline__ int rows_of(const nms_job &job, int b)
{
    return min(job.in.boxes.offsets[b + 1] - job.in.boxes.offsets[b], job.rows);
}
__device__ __forceinline__ int label_of(const nms_job &job, int b, int row)
{
    return ((const int32_t *)job.in.labels.data)[job.in.boxes.offsets[b] + row];
}
/* The rows of a walk, and which they are. */
__device__ __forceinline__ int walked_rows(const nms_job &job, int b)
{
    return job.rest ? job.left_count[b] : min(rows_of(job, b), job.end);
}
__device__ __forceinline__ int row_at(const nms_job &job, int b, int i)
{
    return job.rest ? job.left[(int64_t)b * job.rows + i] : i;
}
__device__ __forceinline__ sv_rectangle rectangle_of(const nms_job &job, int b, int row)
{
    const float *f =
        (const float *)job.in.boxes.data + (int64_t)(job.in.boxes.offsets[b] + row) * SV_BOX_FIELDS;
    const float heading = job.rule.quarter_turn ? f[6] - 1.57079632679489662f : f[6];
    return device_rectangle_make(f[0], f[1], f[3], f[4], heading);
}
__device__ __forceinline__ float margin_of(const nms_job &job)
{
    return job.rule.quarter_turn ? SV_NMS_BEV_MARGIN : SV_NMS_MARGIN;
}

/* Half of what a rectangle covers along the direction (x, y). */
__device__ __forceinline__ float half_extent(const sv_rectangle &r, float x, float y)
{
    return 0.5f * (fabsf(r.dx * (r.cosine * x + r.sine * y)) + fabsf(r.dy * (r.cosine * y - r.sine * x)));
}
/*
 * A side of one of them parts the rectangles, by more than the margin and all rounding: no edges cross
 * and no corner lies in the other, so that their overlap is 0. Of the pairs that come near each other
 * this leaves half.
 */
__device__ bool apart(const sv_rectangle &a, const sv_rectangle &b, float margin)
{
    const float x = b.x - a.x, y = b.y - a.y;
    const float least = 2 * margin + 1e-3f + 1e-4f * (a.reach + b.reach) +
                        1e-6f * (fabsf(a.x) + fabsf(a.y) + fabsf(b.x) + fabsf(b.y));
    const auto parts = [&](float along_x, float along_y) {
        return fabsf(x * along_x + y * along_y) - half_extent(a, along_x, along_y) -
                   half_extent(b, along_x, along_y) >
               least;
    };
    return parts(a.cosine, a.sine) || parts(-a.sine, a.cosine) || parts(b.cosine, b.sine) ||
           parts(-b.sine, b.cosine);
}

__device__ __forceinline__ bool come_near(const sv_rectangle &a, const sv_rectangle &b, float margin)
{
    return device_rectangles_near(&a, &b, margin) && !apart(a, b, margin);
}

/* The rows of tile y, 64 or 16 of them, against the 64 of block x: first which pairs come near each other,
 * then those, evenly shared. */
__global__ void __launch_bounds__(PAIR_THREADS) find_overlaps(const __grid_constant__ nms_job job)
{
    __shared__ sv_rectangle own[BLOCK], others[BLOCK];
    __shared__ int own_label[BLOCK], label[BLOCK];
    __shared__ unsigned long long bits[BLOCK];
    __shared__ uint16_t near[BLOCK * BLOCK];
    __shared__ int count;
    sv_wait_before();
    const int b = blockIdx.z, above = blockIdx.y * job.high, first = blockIdx.x * BLOCK;
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
        if (b == 0) *job.walked = 0;
        job.filtered[b] = 0;
    }
    if (above / BLOCK > (int)blockIdx.x) return;
    const int rows = walked_rows(job, b);
    if (first >= rows) return;
    const sv_nms_rule &rule = job.rule;
    const int high = min(job.high, rows - above), wide = min((int)BLOCK, rows - first);
    const bool by_class = rule.classes > 0;
    const float margin = margin_of(job);
    for (int i = threadIdx.x; i < 2 * BLOCK; i += PAIR_THREADS) {
        const bool mine = i < BLOCK;
        const int k = i % BLOCK, at = (mine ? above : first) + k;
        if (k < (mine ? high : wide)) {
            const int row = row_at(job, b, at);
            (mine ? own : others)[k] = rectangle_of(job, b, row);
            (mine ? own_label : label)[k] = by_class ? label_of(job, b, row) : 0;
        }
        if (mine) bits[k] = 0;
    }
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    const int k = threadIdx.x % BLOCK; /* the other row is this thread's own for all of them */
    const sv_rectangle other = others[k];
    for (int i = threadIdx.x / BLOCK; i < high && k < wide; i += PAIR_THREADS / BLOCK) {
        if (first + k <= above + i || own_label[i] != label[k]) continue;
        if (come_near(own[i], other, margin)) near[atomicAdd(&count, 1)] = (uint16_t)(i * BLOCK + k);
    }
    __syncthreads();
    for (int n = threadIdx.x; n < count; n += PAIR_THREADS) {
        const int i = near[n] / BLOCK, with = near[n] % BLOCK, kind = own_label[i];
        const float threshold = !by_class                           ? rule.threshold[0]
                                : kind >= 1 && kind <= rule.classes ? rule.threshold[kind - 1]
                                                                    : 0.0f;
        if (device_iou_bev(&own[i], &others[with], margin, rule.exact) > threshold)
            atomicOr(&bits[with], 1ull << i);
    }
    __syncthreads();
    uint64_t *to = job.mask + ((int64_t)b * job.words + above / BLOCK) * job.rows + first;
    for (int i = threadIdx.x; i < wide; i += PAIR_THREADS) {
        if (job.high == BLOCK)
            to[i] = bits[i];
        else
            ((uint16_t *)&to[i])[above % BLOCK / 16] = (uint16_t)bits[i];
    }
}

/* Behind the first rows, which have been walked: those that no kept one suppresses. A block has
 * FILTER_ROWS of them; that which ends last lists what is left, in order. */
__global__ void __launch_bounds__(PAIR_THREADS) filter_rows(const __grid_constant__ nms_job job)
{
    __shared__ sv_rectangle own[BLOCK], others[FILTER_ROWS];
    __shared__ uint16_t near[BLOCK * FILTER_ROWS];
    __shared__ int count, sums[PAIR_THREADS / 32];
    __shared__ uint32_t suppressed;
    __shared__ bool last;
    sv_wait_before();
    const int b = blockIdx.y, rows = rows_of(job, b), first = FIRST + blockIdx.x * FILTER_ROWS,
              wide = min((int)FILTER_ROWS, rows - first), kept = job.counts[b];
    const bool more = kept < min(job.rule.post_max[0], job.most);
    const float margin = margin_of(job);
    if ((int)threadIdx.x < wide) others[threadIdx.x] = rectangle_of(job, b, first + (int)threadIdx.x);
    if (threadIdx.x == 0) suppressed = 0;
    for (int start = 0; start < kept && more && wide > 0; start += BLOCK) {
        const int high = min((int)BLOCK, kept - start);
        __syncthreads();
        if ((int)threadIdx.x < high)
            own[threadIdx.x] = rectangle_of(job, b, job.kept[(int64_t)b * job.rows + start + threadIdx.x]);
        if (threadIdx.x == 0) count = 0;
        __syncthreads();
        const int k = threadIdx.x % FILTER_ROWS;
        for (int i = threadIdx.x / FILTER_ROWS; i < high && k < wide; i += PAIR_THREADS / FILTER_ROWS)
            if (come_near(own[i], others[k], margin))
                near[atomicAdd(&count, 1)] = (uint16_t)(i * FILTER_ROWS + k);
        __syncthreads();
        for (int n = threadIdx.x; n < count; n += PAIR_THREADS)
            if (device_iou_bev(&own[near[n] / FILTER_ROWS], &others[near[n] % FILTER_ROWS], margin,
                               job.rule.exact) > job.rule.threshold[0])
                atomicOr(&suppressed, 1u << near[n] % FILTER_ROWS);
    }
    __syncthreads();
    uint32_t *alive = job.alive + (int64_t)b * gridDim.x;
    if (threadIdx.x == 0) {
        const uint32_t all = wide >= FILTER_ROWS ? ~0u : wide > 0 ? (1u << wide) - 1 : 0;
        alive[blockIdx.x] = more ? all & ~suppressed : 0;
        __threadfence();
        last = atomicAdd(&job.filtered[b], 1u) + 1 == gridDim.x;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int before = 0; /* of the parts that have been listed */
    for (int start = 0; start < (int)gridDim.x; start += PAIR_THREADS) {
        const int part = start + threadIdx.x;
        uint32_t who = part < (int)gridDim.x ? ((volatile uint32_t *)alive)[part] : 0;
        int place = __popc(who);
        for (int d = 1; d < 32; d *= 2) {
            const int other = __shfl_up_sync(0xffffffffu, place, d);
            if (lane >= d) place += other;
        }
        if (lane == 31) sums[warp] = place;
        __syncthreads();
        place += before - __popc(who);
        for (int w = 0; w < PAIR_THREADS / 32; w++) {
            if (w < warp) place += sums[w];
            before += sums[w];
        }
        for (; who; who &= who - 1)
            job.left[(int64_t)b * job.rows + place++] = FIRST + part * FILTER_ROWS + __ffs((int)who) - 1;
        __syncthreads();
    }
    if (threadIdx.x == 0) job.left_count[b] = before;
}

} // namespace

#endif
