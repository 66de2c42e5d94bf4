/* SPDX-License-Identifier: Apache-2.0
 *
 * Greedy non-maximum suppression on the GPU (rules: nms_cpu.c).
 *
 *   for each pair i < j that comes near each other a bit: j overlaps i by more than the threshold
 *   -> one block per sample walks the rows 64 at a time: whom do rows kept before suppress, and which of the others survive
 *   -> the block that ends last: survivors in order, class by class
 *
 * A row that is not kept suppresses nothing, so pairs of it need not be looked at. Of many rows (without classes) the first 256
 * are walked alone, then what the kept ones of them suppress is left out (filter_rows), then the others are walked. This
 * file is compiled without fused multiply-adds, as the CPU's rule is.
 */
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
 * A side of one of them parts the rectangles, by more than the margin and all rounding: no edges cross and no corner lies in
 * the other, so that their overlap is 0. Of the pairs that come near each other this leaves half.
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
 * device_overlap_official() by the threads of 'mask', number for number: all crossings and corners at once, listed in the order of
 * its loops; sums one after the other; places by angle are counted. Negative: it is not known (more corners than threads,
 * or angles without an order).
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

/* The rows of tile y, 64 or 16 of them, against the 64 of block x: first which pairs come near each other, then those, evenly
 * shared. */
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

/* Behind the first rows, which have been walked: those that no kept one suppresses. A block has FILTER_ROWS of them; that which
 * ends last lists what is left, in order. */
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

/* The lowest 'most' of the rows. */
__device__ __forceinline__ uint64_t lowest(uint64_t rows, int most)
{
    while (__popcll((long long)rows) > most) rows &= ~(1ull << (63 - __clzll((long long)rows)));
    return rows;
}
__device__ __forceinline__ uint64_t ballot_of_rows(bool low, bool high)
{
    const uint32_t first = __ballot_sync(0xffffffffu, low), second = __ballot_sync(0xffffffffu, high);
    return first | (uint64_t)second << 32;
}
__device__ __forceinline__ uint64_t or_of_lanes(uint64_t rows)
{
    const uint32_t low = __reduce_or_sync(0xffffffffu, (uint32_t)rows),
                   high = __reduce_or_sync(0xffffffffu, (uint32_t)(rows >> 32));
    return low | (uint64_t)high << 32;
}

/* A lane of warp 0: of class 'lane' how many rows may still be looked at, and kept. */
struct class_room {
    int unseen, unkept;
};

/* What a walk knows of a block of rows. */
struct block_notes {
    uint32_t gone[2];                    /* rows that a kept row of earlier blocks suppresses, in halves */
    uint32_t members[SV_NMS_CLASSES][2]; /* rows of each class, in halves */
    bool full;                           /* all classes have their boxes */
    int total;                           /* in the end */
};

/* Warp 0: rows that survive of a block, in which row 'lane' and row 'lane' + 32 are this lane's: 'low' and 'high' say which rows of
 * the block suppress them. */
__device__ uint64_t resolve(block_notes &notes, uint64_t low, uint64_t high, int classes, class_room &room)
{
    const int lane = threadIdx.x;
    uint64_t mine = 0;
    if (lane < classes) {
        mine = notes.members[lane][0] | (uint64_t)notes.members[lane][1] << 32;
        const int seen = __popcll((long long)mine);
        mine = lowest(mine, room.unseen); /* beyond pre_max: nobody looks at them */
        room.unseen -= min(room.unseen, seen);
    }
    uint64_t left = or_of_lanes(mine) & ~(notes.gone[0] | (uint64_t)notes.gone[1] << 32), kept = 0;
    while (left) { /* those that no undecided row may suppress are kept */
        const bool free_low = (left >> lane & 1) && !(low & left),
                   free_high = (left >> lane >> 32 & 1) && !(high & left);
        const uint64_t more = ballot_of_rows(free_low, free_high);
        kept |= more;
        left &= ~(more | ballot_of_rows(low & more, high & more));
    }
    mine = lowest(kept & mine, room.unkept);
    room.unkept -= __popcll((long long)mine);
    notes.full = __all_sync(0xffffffffu, room.unkept <= 0);
    return or_of_lanes(mine);
}

/* Where a block's words begin in shared memory. */
__device__ __forceinline__ int held_before(int block)
{
    return block * (block + 1) / 2 * BLOCK;
}

/* Adds the rows kept of a walk to those of the sample, in order; returns how many there are. */
__device__ int walk_rows(const nms_job &job, int b, uint64_t *held, uint64_t *kept, block_notes &notes)
{
    const int rows = walked_rows(job, b), words = (rows + BLOCK - 1) / BLOCK,
              classes = max(job.rule.classes, 1);
    const int lane = threadIdx.x % 32, part = threadIdx.x / BLOCK, k = threadIdx.x % BLOCK;
    const uint64_t *mask = job.mask + (int64_t)b * job.words * job.rows;
    const bool within = words <= job.held_words;
    const auto word_of = [&](int block, int word, int r) {
        if (within) return held[held_before(block) + word * BLOCK + r];
        return block * BLOCK + r < rows ? mask[(int64_t)word * job.rows + block * BLOCK + r] : 0;
    };
    const auto label_at = [&](int block) {
        const int i = block * BLOCK + k;
        return i >= rows ? -1 : job.rule.classes == 0 ? 0 : label_of(job, b, row_at(job, b, i)) - 1;
    };
    int32_t *list = job.kept + (int64_t)b * job.rows;
    const int before = job.rest ? job.counts[b] : 0;
    int total = before;
    class_room room = {0, 0};
    if ((int)threadIdx.x < classes)
        room = {job.rule.pre_max[threadIdx.x], min(job.rule.post_max[threadIdx.x], job.most) - total};
    if (within)
        for (int block = 0; block < words; block++)
            for (int word = part; word <= block; word += PARTS) {
                uint64_t *to = &held[held_before(block) + word * BLOCK + k];
                if (block * BLOCK + k < rows)
                    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;\n" ::"r"(
                                     (uint32_t)__cvta_generic_to_shared(to)),
                                 "l"(&mask[(int64_t)word * job.rows + block * BLOCK + k])
                                 : "memory");
                else
                    *to = 0;
            }
    asm volatile("cp.async.wait_all;\n" ::: "memory");
    if (threadIdx.x < 2) notes.gone[threadIdx.x] = 0;
    int label = part == 0 ? label_at(0) : 0;
    __syncthreads();
    for (int block = 0; block < words; block++) {
        uint64_t hit = 0;
        for (int word = part; word < block; word += PARTS) hit |= word_of(block, word, k) & kept[word];
        const uint32_t gone = __ballot_sync(0xffffffffu, hit != 0);
        if (lane == 0 && gone) atomicOr(&notes.gone[k / 32], gone);
        if (part == 0) {
            for (int c = 0; c < classes; c++) {
                const uint32_t who = __ballot_sync(0xffffffffu, label == c);
                if (lane == 0) notes.members[c][k / 32] = who;
            }
            label = label_at(block + 1);
        }
        __syncthreads();
        if (threadIdx.x < 32) {
            const uint64_t who =
                resolve(notes, word_of(block, block, lane), word_of(block, block, lane + 32), classes, room);
            for (int r = lane; r < BLOCK; r += 32)
                if (who >> r & 1)
                    list[total + __popcll((long long)(who & ((1ull << r) - 1)))] = block * BLOCK + r;
            total += __popcll((long long)who);
            if (lane == 0) kept[block] = who;
            __syncwarp();
            if (lane < 2) notes.gone[lane] = 0;
        }
        __syncthreads();
        if (notes.full) break;
    }
    if (threadIdx.x == 0) notes.total = total;
    __syncthreads();
    total = notes.total;
    if (job.rest)
        for (int i = before + threadIdx.x; i < total; i += WALK_THREADS) list[i] = row_at(job, b, list[i]);
    return total;
}

/* One block: offsets, then the kept rows of every sample to their places, class by class. */
__device__ void write_kept(const nms_job &job, int *places)
{
    const sv_nms_rule &rule = job.rule;
    const int batch = job.in.boxes.batch, classes = rule.classes;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int row = 0;
    if (threadIdx.x == 0) job.out.offsets[0] = 0;
    for (int b = 0; b < batch; b++) {
        const int32_t *list = job.kept + (int64_t)b * job.rows;
        const int first = row, in_first = job.in.boxes.offsets[b], count = job.counts[b];
        for (int label = classes > 0 ? 1 : 0; label <= classes; label++) {
            for (int start = 0; start < count; start += WALK_THREADS) {
                const int i = start + threadIdx.x;
                const int from = i < count ? in_first + list[i] : -1;
                const bool wanted =
                    from >= 0 && (label == 0 || ((const int32_t *)job.in.labels.data)[from] == label);
                const uint32_t who = __ballot_sync(0xffffffffu, wanted);
                if (lane == 0) places[warp] = __popc(who);
                __syncthreads();
                int place = row + __popc(who & ((1u << lane) - 1)), all = 0;
                for (int w = 0; w < WALK_WARPS; w++) {
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

__global__ void __launch_bounds__(WALK_THREADS) walk(const __grid_constant__ nms_job job)
{
    extern __shared__ uint64_t held[];
    __shared__ uint64_t kept[MOST_WORDS];
    __shared__ block_notes notes;
    __shared__ int places[WALK_WARPS];
    __shared__ bool last;
    sv_begin_early();
    const int total = walk_rows(job, blockIdx.x, held, kept, notes);
    if (threadIdx.x == 0) job.counts[blockIdx.x] = total;
    if (job.end < job.rows && !job.rest) return; /* the other rows follow */
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(job.walked, 1u) + 1 == gridDim.x;
    __syncthreads();
    if (!last) return;
    __threadfence();
    write_kept(job, places);
}

/* Pairs and walk of the rows that 'job' says. */
sv_status walk_these(sv_ctx *c, nms_job &job, int words)
{
    const int batch = job.in.boxes.batch;
    const unsigned wide = words > 0 ? (unsigned)words : 1;
    cudaFuncAttributes kernel;
    int room = 0, bytes = 0;
    SV_CUDA_TRY(c, "nms", cudaFuncGetAttributes(&kernel, walk));
    SV_CUDA_TRY(c, "nms",
                cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->device_index));
    room -= (int)kernel.sharedSizeBytes;
    for (job.held_words = 0; job.held_words < words && job.held_words < HELD_WORDS; job.held_words++) {
        const int more = (job.held_words + 1) * BLOCK * (int)sizeof(uint64_t);
        if (bytes + more > room) break;
        bytes += more;
    }
    SV_TRY(sv_launch_early(c, "nms", find_overlaps, job,
                           dim3(wide, wide * (unsigned)(BLOCK / job.high), (unsigned)batch), PAIR_THREADS,
                           0));
    return sv_launch_early(c, "nms", walk, job, dim3((unsigned)batch), WALK_THREADS, bytes);
}

} // namespace

sv_status sv_cuda_nms(sv_ctx *c, const sv_candidates *out, const sv_candidates *in, const sv_nms_rule *rule)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int batch = in->boxes.batch;
    nms_job job = {};
    job.in = *in;
    job.out = *out;
    job.rule = *rule;
    job.rows = in->boxes.dim[0];
    if (rule->classes == 0 && rule->pre_max[0] < job.rows) job.rows = rule->pre_max[0];
    job.words = (job.rows + BLOCK - 1) / BLOCK;
    job.most = out->boxes.dim[0] / batch;
    SV_CHECK(c, job.rows <= MOST_ROWS, SV_UNSUPPORTED,
             "nms: %d candidates; at most %d are possible on the GPU", job.rows, (int)MOST_ROWS);
    const int parts = job.rows > MANY ? (job.rows - FIRST + FILTER_ROWS - 1) / FILTER_ROWS : 0;
    void *bits = NULL, *kept = NULL, *left = NULL, *chosen = NULL, *counts = NULL;
    const size_t rows = (size_t)batch * (size_t)job.rows;
    SV_TRY(
        sv_arena_alloc(c, &c->scratch, "overlap bits", rows * (size_t)job.words * sizeof(uint64_t), &bits));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "kept rows", rows * sizeof(int32_t), &kept));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "rows left", rows * sizeof(int32_t), &left));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "chosen rows", sizeof(int32_t) * (size_t)batch * (size_t)job.most,
                          &chosen));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "kept counts",
                          sizeof(int32_t) * ((size_t)batch * (size_t)(3 + parts) + 1), &counts));
    job.mask = (uint64_t *)bits;
    job.kept = (int32_t *)kept;
    job.left = (int32_t *)left;
    job.chosen = (int32_t *)chosen;
    job.counts = (int32_t *)counts;
    job.left_count = job.counts + batch;
    job.filtered = (uint32_t *)(job.left_count + batch);
    job.walked = job.filtered + batch;
    job.alive = job.walked + 1;
    job.end = job.rows;
    job.high = BLOCK;
    if (parts > 0 && rule->classes == 0) {
        job.end = FIRST;
        job.high = 16;
        SV_TRY(walk_these(c, job, FIRST / BLOCK));
        SV_TRY(sv_launch_early(c, "nms", filter_rows, job, dim3((unsigned)parts, (unsigned)batch),
                               PAIR_THREADS, 0));
        job.rest = true;
        job.high = BLOCK;
        SV_TRY(walk_these(c, job, job.words - FIRST / BLOCK));
    } else {
        SV_TRY(walk_these(c, job, job.words));
    }
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
