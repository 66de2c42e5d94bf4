/* SPDX-License-Identifier: Apache-2.0
 *
 * Non-maximum suppression on the GPU, first half: which rows overlap by more than the threshold. Included
 * by nms.cu.
 *
 *   come_near()      pairs that may overlap at all, by half diagonals and then by the rectangles' sides
 *   overlap_shared() the official overlap of such a pair by 16 threads
 *   find_overlaps()  of all pairs i < j of the rows of a walk a bit
 *   filter_rows()    rows that no row kept so far suppresses
 */
#ifndef SV_NMS_PAIRS_CUH
#define SV_NMS_PAIRS_CUH

#include "perception/core/early.cuh"

#define SV_IOU_PUBLIC     static __device__
#define SV_IOU_HELPER     static __device__
#define SV_IOU_NAME(name) device_##name
#define SV_IOU_ROLLED     _Pragma("unroll 1")
#include "perception/geometry/rotated_iou_rules.h"

namespace {

enum { BLOCK = 64, PAIR_THREADS = 256, MOST_ROWS = 1 << 16, MOST_WORDS = MOST_ROWS / BLOCK };
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

/* ---- one pair by 16 threads ---------------------------------------------------------------------------- */

enum { SHARING = 16, SHARES = PAIR_THREADS / SHARING };
struct shared_pair {
    point corner[SHARING], sorted[SHARING];
    float angle[SHARING], term[SHARING];
};

__device__ __noinline__ float iou_alone(const sv_rectangle *a, const sv_rectangle *b, float margin,
                                        bool exact)
{
    return device_iou_bev(a, b, margin, exact);
}

__device__ __forceinline__ point corner_of(const sv_rectangle &r, int k)
{
    point p;
    p.x = r.corner[k % 4][0];
    p.y = r.corner[k % 4][1];
    return p;
}

/*
 * device_overlap_official() by the threads of 'mask', number for number: all crossings and corners at
 * once, listed in the order of its loops; sums one after the other; places by angle are counted.
 * Negative: it is not known (more corners than threads, or angles without an order).
 */
__device__ __forceinline__ float overlap_shared(shared_pair &with, const sv_rectangle &a,
                                                const sv_rectangle &b, float margin, uint32_t mask)
{
    const int lane = threadIdx.x % SHARING, first = threadIdx.x % 32 - lane;
    const uint32_t below = (1u << lane) - 1;
    point cross;
    const bool crosses = crossing(corner_of(a, lane / 4), corner_of(a, lane / 4 + 1), corner_of(b, lane % 4),
                                  corner_of(b, lane % 4 + 1), &cross);
    const bool of_a = lane % 2;
    const point corner = corner_of(of_a ? a : b, lane / 2);
    const bool within = lane < 8 && inside(of_a ? &b : &a, corner, margin);
    const uint32_t crossings = __ballot_sync(mask, crosses) >> first & 0xffff,
                   corners = __ballot_sync(mask, within) >> first & 0xffff;
    const int count = __popc(crossings) + __popc(corners);
    if (count > SHARING) return -1;
    if (crosses) with.corner[__popc(crossings & below)] = cross;
    if (within) with.corner[__popc(crossings) + __popc(corners & below)] = corner;
    __syncwarp(mask);
    point mean = {0, 0};
    for (int k = 0; k < count; k++) {
        mean.x += with.corner[k].x;
        mean.y += with.corner[k].y;
    }
    mean.x /= (float)count;
    mean.y /= (float)count;
    const point own = with.corner[lane];
    const float angle = atan2f(own.y - mean.y, own.x - mean.x);
    with.angle[lane] = angle;
    if (__ballot_sync(mask, lane < count && isnan(angle))) return -1;
    int place = 0;
    for (int k = 0; k < count; k++) place += with.angle[k] < angle || (with.angle[k] == angle && k < lane);
    if (lane < count) with.sorted[place] = own;
    __syncwarp(mask);
    if (lane < count - 1) {
        const point o = with.sorted[0], p = with.sorted[lane], q = with.sorted[lane + 1];
        const point u = {p.x - o.x, p.y - o.y}, v = {q.x - o.x, q.y - o.y};
        with.term[lane] = u.x * v.y - u.y * v.x;
    }
    __syncwarp(mask);
    float area = 0;
    for (int k = 0; k < count - 1; k++) area += with.term[k];
    __syncwarp(mask); /* the next pair may be written */
    return fabsf(area) / 2.0f;
}

/* f(n, overlap over union) for the pairs near[0..count-1], rows of 'a' times 'wide' + rows of 'b'. */
template <typename F>
__device__ __forceinline__ void each_pair(const uint16_t *near, int count, const sv_rectangle *a,
                                          const sv_rectangle *b, int wide, float margin, bool exact,
                                          shared_pair *shared, F f)
{
    if (exact) {
        for (int n = threadIdx.x; n < count; n += PAIR_THREADS)
            f(near[n], iou_alone(&a[near[n] / wide], &b[near[n] % wide], margin, true));
        return;
    }
    const int share = threadIdx.x / SHARING;
    const uint32_t mask = 0xffffu << (threadIdx.x & SHARING);
    for (int n = share; n < count; n += SHARES) {
        const sv_rectangle &own = a[near[n] / wide], &other = b[near[n] % wide];
        const float overlap = overlap_shared(shared[share], own, other, margin, mask);
        if (threadIdx.x % SHARING == 0) {
            const float both = own.dx * own.dy + other.dx * other.dy;
            f(near[n],
              overlap < 0 ? iou_alone(&own, &other, margin, false) : overlap / fmaxf(both - overlap, 1e-8f));
        }
        __syncwarp(mask);
    }
}

/* The rows of tile y, 64 or 16 of them, against the 64 of block x: first which pairs come near each other,
 * then those, evenly shared. */
__global__ void __launch_bounds__(PAIR_THREADS) find_overlaps(const __grid_constant__ nms_job job)
{
    __shared__ sv_rectangle own[BLOCK], others[BLOCK];
    __shared__ int own_label[BLOCK], label[BLOCK];
    __shared__ unsigned long long bits[BLOCK];
    __shared__ uint16_t near[BLOCK * BLOCK];
    __shared__ shared_pair shared[SHARES];
    __shared__ int count;
    sv_begin_early();
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
    each_pair(near, count, own, others, BLOCK, margin, rule.exact, shared, [&](int pair, float iou) {
        const int kind = own_label[pair / BLOCK];
        const float threshold = !by_class                           ? rule.threshold[0]
                                : kind >= 1 && kind <= rule.classes ? rule.threshold[kind - 1]
                                                                    : 0.0f;
        if (iou > threshold) atomicOr(&bits[pair % BLOCK], 1ull << pair / BLOCK);
    });
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
    __shared__ shared_pair shared[SHARES];
    __shared__ int count, sums[PAIR_THREADS / 32];
    __shared__ uint32_t suppressed;
    __shared__ bool last;
    sv_begin_early();
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
        each_pair(near, count, own, others, FILTER_ROWS, margin, job.rule.exact, shared,
                  [&](int pair, float iou) {
                      if (iou > job.rule.threshold[0]) atomicOr(&suppressed, 1u << pair % FILTER_ROWS);
                  });
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
