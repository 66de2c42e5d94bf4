/* SPDX-License-Identifier: Apache-2.0
 *
 * Greedy non-maximum suppression on the GPU (rules: nms_cpu.c).
 *
 *   for each pair i < j that comes near each other a bit: j overlaps i by more than the threshold
 *   -> one block per sample walks the rows 64 at a time: whom do rows kept before suppress, who survives
 *   -> the block that ends last: survivors in order, class by class
 *
 * A row that is not kept suppresses nothing, so pairs of it need not be looked at. Of many rows (without
 * classes) the first 256 are walked alone, then what the kept ones of them suppress is left out
 * (filter_rows), then the others are walked. This file is compiled without fused multiply-adds, as the
 * CPU's rule is.
 */
#include "nms_pairs.cuh"

namespace {

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

/* Warp 0: rows that survive of a block, in which row 'lane' and row 'lane' + 32 are this lane's: 'low' and
 * 'high' say which rows of the block suppress them. */
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
    sv_wait_before();
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
    int bytes = 0;
    SV_CUDA_TRY(c, "nms", cudaFuncGetAttributes(&kernel, walk));
    const int room = sv_cuda_block_bytes(c) - (int)kernel.sharedSizeBytes;
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
