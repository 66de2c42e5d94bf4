/* SPDX-License-Identifier: Apache-2.0
 *
 * Greedy non-maximum suppression on the GPU (rules: nms_cpu.c).
 *
 *   for each pair i < j that comes near each other a bit: j overlaps i by more than the threshold
 *   -> one block per sample walks the rows 64 at a time: whom do rows kept before suppress, and which of the others survive
 *   -> the block that ends last: survivors in order, class by class
 *
 * All pairs are looked at, as in the official code; a row that is not kept suppresses nothing, so the list
 * is that of comparing with kept rows only. This file is compiled without fused multiply-adds, as the CPU's
 * rule is.
 */
#include "perception/core/early.cuh"

#define SV_IOU_PUBLIC     static __device__
#define SV_IOU_HELPER     static __device__
#define SV_IOU_NAME(name) device_##name
#define SV_IOU_ROLLED     _Pragma("unroll 1")
#include "perception/geometry/rotated_iou_rules.h"

namespace {

enum { BLOCK = 64, PAIR_THREADS = 128 };
/*
 * The walk: warp 0 decides, the others look HELPER_PARTS threads to a row what rows before it do to it. What they read
 * is on its way for AHEAD blocks of rows, as many words of a row as a thread holds.
 */
enum {
    HELPER_PARTS = 8,
    HELPERS = HELPER_PARTS * BLOCK,
    WALK_THREADS = 32 + HELPERS,
    WALK_WARPS = WALK_THREADS / 32
};
enum { AHEAD = 3, HELD = 8, MOST_ROWS = 1 << 16, MOST_WORDS = MOST_ROWS / BLOCK };

struct nms_job {
    sv_candidates in, out;
    sv_nms_rule rule;
    uint64_t *mask;   /* [batch][words][rows]: which of 64 rows before it suppress a row, if they are kept */
    int32_t *kept;    /* [batch][rows] rows within the sample */
    int32_t *chosen;  /* [batch][most] candidate rows, as they come out */
    int32_t *counts;  /* [batch] */
    uint32_t *walked; /* samples that are done */
    int rows, words;  /* most rows of a sample that are looked at */
    int most;         /* most boxes kept of a sample */
};

__device__ __forceinline__ int rows_of(const nms_job &job, int b)
{
    return min(job.in.boxes.offsets[b + 1] - job.in.boxes.offsets[b], job.rows);
}
__device__ __forceinline__ int label_of(const nms_job &job, int b, int row)
{
    return ((const int32_t *)job.in.labels.data)[job.in.boxes.offsets[b] + row];
}
__device__ __forceinline__ sv_rectangle rectangle_of(const nms_job &job, int b, int row)
{
    const float *f =
        (const float *)job.in.boxes.data + (int64_t)(job.in.boxes.offsets[b] + row) * SV_BOX_FIELDS;
    const float heading = job.rule.quarter_turn ? f[6] - 1.57079632679489662f : f[6];
    return device_rectangle_make(f[0], f[1], f[3], f[4], heading);
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

/* The 64 rows of block y against the 64 of block x: first which pairs come near each other, then those,
 * evenly shared. */
__global__ void __launch_bounds__(PAIR_THREADS) find_overlaps(const __grid_constant__ nms_job job)
{
    __shared__ sv_rectangle own[BLOCK], others[BLOCK];
    __shared__ int own_label[BLOCK], label[BLOCK];
    __shared__ unsigned long long bits[BLOCK];
    __shared__ uint16_t near[BLOCK * BLOCK];
    __shared__ int count;
    sv_begin_early();
    if (blockIdx.x + blockIdx.y + blockIdx.z == 0 && threadIdx.x == 0) *job.walked = 0;
    const sv_nms_rule &rule = job.rule;
    const int b = blockIdx.z, rows = rows_of(job, b), above = blockIdx.y * BLOCK, first = blockIdx.x * BLOCK;
    if (blockIdx.x < blockIdx.y || first >= rows) return;
    const int high = min((int)BLOCK, rows - above), wide = min((int)BLOCK, rows - first);
    const bool by_class = rule.classes > 0;
    const float margin = rule.quarter_turn ? SV_NMS_BEV_MARGIN : SV_NMS_MARGIN;
    for (int i = threadIdx.x; i < 2 * BLOCK; i += PAIR_THREADS) {
        const int k = i % BLOCK, row = (i < BLOCK ? above : first) + k;
        if (row < rows) (i < BLOCK ? own : others)[k] = rectangle_of(job, b, row);
        (i < BLOCK ? own_label : label)[k] = by_class && row < rows ? label_of(job, b, row) : 0;
        if (i < BLOCK) bits[k] = 0;
    }
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    const int k = threadIdx.x % BLOCK; /* the other row is this thread's own for all of them */
    const sv_rectangle other = others[k];
    for (int i = threadIdx.x / BLOCK; i < high && k < wide; i += PAIR_THREADS / BLOCK) {
        if (first + k <= above + i || own_label[i] != label[k]) continue;
        if (device_rectangles_near(&own[i], &other, margin) && !apart(own[i], other, margin))
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
            atomicOr(&bits[with], 1ull << i);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < wide; i += PAIR_THREADS)
        job.mask[((int64_t)b * job.words + blockIdx.y) * job.rows + first + i] = bits[i];
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

/* What the walk's warps tell each other of a block of rows; those of the present block and of the next one exist. */
struct block_notes {
    uint64_t before[2][BLOCK];           /* a row's bits: in the block before, and in its own */
    uint32_t gone[2];                    /* rows that a kept row of earlier blocks suppresses, in halves */
    uint32_t members[SV_NMS_CLASSES][2]; /* rows of each class, in halves */
    bool full;                           /* all classes have their boxes */
};

/* A lane of warp 0: of class 'lane' how many rows may still be looked at, and kept. */
struct class_room {
    int unseen, unkept;
};

/* Warp 0: rows that survive of a block, in which row 'lane' and row 'lane' + 32 are this lane's; 'kept_before': of the block before. */
__device__ uint64_t resolve(block_notes &notes, uint64_t kept_before, int classes, class_room &room)
{
    const int lane = threadIdx.x;
    uint64_t mine = 0;
    if (lane < classes) {
        mine = notes.members[lane][0] | (uint64_t)notes.members[lane][1] << 32;
        const int seen = __popcll((long long)mine);
        mine = lowest(mine, room.unseen); /* beyond pre_max: nobody looks at them */
        room.unseen -= min(room.unseen, seen);
    }
    const uint64_t low = notes.before[1][lane], high = notes.before[1][lane + 32];
    uint64_t left = or_of_lanes(mine) & ~(notes.gone[0] | (uint64_t)notes.gone[1] << 32), kept = 0;
    left &= ~ballot_of_rows(notes.before[0][lane] & kept_before, notes.before[0][lane + 32] & kept_before);
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

/* What a helper reads of its row of a block. */
struct row_words {
    uint64_t at[HELD], near; /* every so many-th word of blocks before the last; a word of the last two */
    int label;
};

__device__ __forceinline__ void load_row(row_words &out, const nms_job &job, int b, int rows, int block,
                                         int part, int k)
{
    const int row = block * BLOCK + k;
    const uint64_t *mask = job.mask + (int64_t)b * job.words * job.rows + row;
    const bool live = row < rows;
#pragma unroll
    for (int i = 0; i < HELD; i++) {
        const int word = i * HELPER_PARTS + part;
        out.at[i] = live && word < block - 1 ? mask[(int64_t)word * job.rows] : 0;
    }
    out.near = live && part < 2 && block - 1 + part >= 0 ? mask[(int64_t)(block - 1 + part) * job.rows] : 0;
    out.label = !live ? -1 : job.rule.classes == 0 ? 0 : part == 2 ? label_of(job, b, row) - 1 : -1;
}

/* Notes of the block that the words are of; 'kept': of the blocks but the last two. */
__device__ __forceinline__ void note_row(block_notes &notes, const row_words &own, const nms_job &job, int b,
                                         int rows, int block, int part, int k, const uint64_t *kept,
                                         int classes)
{
    const int row = block * BLOCK + k, half = k / 32;
    uint64_t hit = 0;
#pragma unroll
    for (int i = 0; i < HELD; i++)
        if (i * HELPER_PARTS + part < block - 1) hit |= own.at[i] & kept[i * HELPER_PARTS + part];
    for (int word = HELD * HELPER_PARTS + part; word < block - 1 && row < rows; word += HELPER_PARTS)
        hit |= job.mask[((int64_t)b * job.words + word) * job.rows + row] & kept[word];
    const uint32_t gone = __ballot_sync(0xffffffffu, hit != 0);
    if (k % 32 == 0 && gone) atomicOr(&notes.gone[half], gone);
    if (part < 2) notes.before[part][k] = own.near;
    if (part == 2)
        for (int c = 0; c < classes; c++) {
            const uint32_t who = __ballot_sync(0xffffffffu, own.label == c);
            if (k % 32 == 0) notes.members[c][half] = who;
        }
}

/* The rows kept of a sample, in order; returns how many. */
__device__ int walk_rows(const nms_job &job, int b, uint64_t *kept, block_notes *notes)
{
    const int rows = rows_of(job, b), words = (rows + BLOCK - 1) / BLOCK, classes = max(job.rule.classes, 1);
    const int lane = threadIdx.x % 32, helper = (int)threadIdx.x - 32, part = helper / BLOCK,
              k = helper % BLOCK;
    int32_t *list = job.kept + (int64_t)b * job.rows;
    int total = 0;
    bool full = false;
    class_room room = {0, 0};
    if ((int)threadIdx.x < classes)
        room = {job.rule.pre_max[threadIdx.x], min(job.rule.post_max[threadIdx.x], job.most)};
    if (threadIdx.x < 4) notes[threadIdx.x / 2].gone[threadIdx.x % 2] = 0;
    __syncthreads();
    row_words held[AHEAD];
    for (int start = -AHEAD; start < words && !full; start += AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int block = start + i;
            if (block >= words || full) continue;
            block_notes &now = notes[block & 1], &next = notes[(block + 1) & 1];
            if (helper >= 0) {
                if (block + AHEAD < words) load_row(held[i], job, b, rows, block + AHEAD, part, k);
                if (block >= -1 && block + 1 < words)
                    note_row(next, held[(i + 1) % AHEAD], job, b, rows, block + 1, part, k, kept, classes);
            } else if (block >= 0) {
                const uint64_t who = resolve(now, block > 0 ? kept[block - 1] : 0, classes, room);
                for (int r = lane; r < BLOCK; r += 32)
                    if (who >> r & 1)
                        list[total + __popcll((long long)(who & ((1ull << r) - 1)))] = block * BLOCK + r;
                total += __popcll((long long)who);
                if (lane == 0) kept[block] = who;
                __syncwarp();
                if (lane < 2) now.gone[lane] = 0; /* for the block after the next */
            }
            if (block < -1) continue;
            __syncthreads();
            full = block >= 0 && now.full;
        }
    }
    return total; /* warp 0's */
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
    __shared__ uint64_t kept[MOST_WORDS];
    __shared__ block_notes notes[2];
    __shared__ int places[WALK_WARPS];
    __shared__ bool last;
    sv_begin_early();
    const int total = walk_rows(job, blockIdx.x, kept, notes);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        job.counts[blockIdx.x] = total;
        __threadfence();
        last = atomicAdd(job.walked, 1u) + 1 == gridDim.x;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    write_kept(job, places);
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
    void *bits = NULL, *kept = NULL, *chosen = NULL, *counts = NULL;
    const size_t rows = (size_t)batch * (size_t)job.rows;
    SV_TRY(
        sv_arena_alloc(c, &c->scratch, "overlap bits", rows * (size_t)job.words * sizeof(uint64_t), &bits));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "kept rows", rows * sizeof(int32_t), &kept));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "chosen rows", sizeof(int32_t) * (size_t)batch * (size_t)job.most,
                          &chosen));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "kept counts", ((size_t)batch + 1) * sizeof(int32_t), &counts));
    job.mask = (uint64_t *)bits;
    job.kept = (int32_t *)kept;
    job.chosen = (int32_t *)chosen;
    job.counts = (int32_t *)counts;
    job.walked = (uint32_t *)counts + batch;
    const unsigned tiles = job.words > 0 ? (unsigned)job.words : 1;
    SV_TRY(
        sv_launch_early(c, "nms", find_overlaps, job, dim3(tiles, tiles, (unsigned)batch), PAIR_THREADS, 0));
    SV_TRY(sv_launch_early(c, "nms", walk, job, dim3((unsigned)batch), WALK_THREADS, 0));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}
