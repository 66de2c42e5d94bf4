/* SPDX-License-Identifier: Apache-2.0
 *
 * Which tiles of a chain's maps are computed and which are copied (chain.cu), found on the GPU for every frame:
 *
 *     bits of voxel cells -> live tiles of every slot, by the rectangles they depend on -> ring tiles, lists
 */
#ifndef SV_CHAIN_LISTS_CUH
#define SV_CHAIN_LISTS_CUH

#include "chain_cuda_plan.h"
#include "perception/core/cuda.cuh"

namespace {

enum {
    SLOTS = SV_PLAN_SLOTS,
    TILE_Y = SV_PLAN_TILE_Y,
    TILE_X = SV_PLAN_TILE_X,
    TILE_ROWS = TILE_Y * TILE_X,
    LIST_HEAD =
        3, /* counts of live, of ring and of all tiles; then live tiles in order, and ring tiles from the end on */
    LIST_THREADS = 1024,
};

/* The tiles of a slot in a run. */
struct grid_job {
    int tiles_y, tiles_x;
    int first;  /* of its tiles among all slots' flags */
    int list;   /* where its list begins among all lists */
    bool whole; /* every tile that is not live is wanted */
    int reach, readers;
    int touch[SV_PLAN_READERS], reader[SV_PLAN_READERS];
};

/*
 * Tiles of work of a transposed convolution lie on its input's grid, but it must make what its result's
 * live tiles need, and those may be live through another writer of the slot.
 */
struct work_job {
    int slot, touch, reader,
        list; /* of whose tiles; ranges of the reader's tiles; the slot written; where the list begins */
};

struct list_job {
    bool all; /* every tile is live and of work */
    int works;
    work_job work[SV_PLAN_NODES];
    int slots, batch, words, height, width, flags;
    const int16_t *ranges; /* the plan's */
    const uint32_t *bits;  /* [batch][height][words] */
    uint8_t *live;         /* [batch][flags] */
    int32_t *lists;
    grid_job grid[SLOTS]; /* some 22 KiB of kernel parameters */
};

__global__ void mark_cells(uint32_t *bits, sv_tensor coords, int height, int width, int words)
{
    const int64_t row = sv_thread();
    if (row >= sv_rows(coords)) return;
    const int32_t *at = (const int32_t *)coords.data + row * coords.pitch;
    if (at[0] < 0 || at[0] >= coords.batch || at[2] < 0 || at[2] >= height || at[3] < 0 || at[3] >= width)
        return; /* counted when the map was made */
    atomicOr(&bits[((size_t)at[0] * height + at[2]) * words + at[3] / 32], 1u << at[3] % 32);
}

/* Without coordinates every cell that is not zero counts; a warp looks at one cell. */
__global__ void mark_values(uint32_t *bits, sv_tensor in, int height, int width, int words)
{
    const int64_t cell = sv_thread() / 32;
    if (cell >= in.dim[0]) return;
    const float *values = (const float *)in.data + cell * in.pitch;
    bool any = false;
    for (int i = threadIdx.x % 32; i < in.dim[1]; i += 32) any |= values[i] != 0.0f;
    if (!__any_sync(0xffffffffu, any) || threadIdx.x % 32) return;
    const int x = (int)(cell % width);
    atomicOr(&bits[cell / width * words + x / 32], 1u << x % 32);
}

/* A warp looks at the cells that a tile depends on, a word of 32 per lane, until it sees a voxel. */
__global__ void find_live(const __grid_constant__ list_job job)
{
    const int item = (int)(sv_thread() / 32), lane = threadIdx.x % 32, sample = blockIdx.y;
    if (item >= job.flags) return;
    int v = 0, behind = job.slots; /* the slot is v or between */
    while (behind - v > 1) {
        const int middle = (v + behind) / 2;
        if (job.grid[middle].first <= item)
            v = middle;
        else
            behind = middle;
    }
    const grid_job *g = &job.grid[v];
    const int tile = item - g->first;
    const int16_t *y = job.ranges + g->reach + 2 * (tile / g->tiles_x),
                  *x = job.ranges + g->reach + 2 * (g->tiles_y + tile % g->tiles_x);
    const uint32_t *bits = job.bits + (size_t)sample * job.height * job.words;
    const int first = x[0] / 32, last = x[1] / 32;
    const uint32_t head = 0xffffffffu << x[0] % 32, tail = 0xffffffffu >> (31 - x[1] % 32);
    const int wide = last - first + 1, count = (y[1] - y[0] + 1) * wide;
    const uint32_t inverse = 0xffffffffu / wide + 1; /* of 2^32; wide > 1 */
    bits += (size_t)y[0] * job.words + first;
    bool any = false;
    for (int start = 0; start < count && !any; start += 64) {
        uint32_t seen = 0;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const int at = start + 32 * k + lane, row = wide > 1 ? (int)__umulhi(at, inverse) : at,
                      w = at - row * wide;
            if (at < count)
                seen |= bits[(size_t)row * job.words + w] & (w == 0 ? head : 0xffffffffu) &
                        (w == wide - 1 ? tail : 0xffffffffu);
        }
        any = __any_sync(0xffffffffu, seen != 0);
    }
    if (lane == 0) job.live[(size_t)sample * job.flags + item] = any;
}

__device__ bool is_looked_at(const list_job &job, const grid_job *g, int touch, int reader,
                             const uint8_t *live, int tile)
{
    const grid_job *to = &job.grid[reader];
    const int16_t *y = job.ranges + touch + 2 * (tile / g->tiles_x),
                  *x = job.ranges + touch + 2 * (g->tiles_y + tile % g->tiles_x);
    const int left = x[0], right = x[1], bottom = y[1];
    uint32_t any = 0; /* loads do not wait for each other */
    for (int i = y[0]; i <= bottom; i++)
        for (int j = left; j <= right; j++) any |= live[to->first + i * to->tiles_x + j];
    return any != 0;
}

__device__ bool in_ring(const list_job &job, const grid_job *g, const uint8_t *live, int tile)
{
    if (g->whole) return true;
    bool any = false;
    for (int k = 0; k < g->readers; k++) any |= is_looked_at(job, g, g->touch[k], g->reader[k], live, tile);
    return any;
}

/* One block per slot: its live tiles in order and its ring tiles. A tile's number counts over the batch. Then one block per
 * transposed convolution: its tiles of work. */
__global__ void __launch_bounds__(LIST_THREADS) list_tiles(const __grid_constant__ list_job job)
{
    __shared__ int2 sums[LIST_THREADS / 32], all;
    const work_job *work = (int)blockIdx.x < job.slots ? NULL : &job.work[blockIdx.x - job.slots];
    const grid_job *g = &job.grid[work ? work->slot : blockIdx.x];
    const int count = g->tiles_y * g->tiles_x, total = count * job.batch, lane = threadIdx.x % 32,
              warp = threadIdx.x / 32;
    int32_t *list = job.lists + (work ? work->list : g->list);
    int2 base = make_int2(0, 0); /* live, ring */
    for (int first = 0; first < total; first += LIST_THREADS) {
        const int item = first + threadIdx.x;
        bool alive = false, ring = false;
        if (item < total) {
            const uint8_t *live = job.live + (size_t)(item / count) * job.flags;
            alive = job.all ? true
                    : work  ? is_looked_at(job, g, work->touch, work->reader, live, item % count)
                            : live[g->first + item % count];
            ring = !alive && !work && in_ring(job, g, live, item % count);
        }
        const uint32_t alive_here = __ballot_sync(0xffffffffu, alive),
                       ring_here = __ballot_sync(0xffffffffu, ring), before = (1u << lane) - 1;
        if (lane == 0) sums[warp] = make_int2(__popc(alive_here), __popc(ring_here));
        __syncthreads();
        if (warp == 0) {
            const int2 own = sums[lane];
            int2 sum = own;
            for (int d = 1; d < 32; d *= 2) {
                const int x = __shfl_up_sync(0xffffffffu, sum.x, d),
                          y = __shfl_up_sync(0xffffffffu, sum.y, d);
                if (lane >= d) sum.x += x, sum.y += y;
            }
            sums[lane] = make_int2(sum.x - own.x, sum.y - own.y);
            if (lane == 31) all = sum;
        }
        __syncthreads();
        if (alive) list[LIST_HEAD + base.x + sums[warp].x + __popc(alive_here & before)] = item;
        if (ring) list[LIST_HEAD + total - 1 - (base.y + sums[warp].y + __popc(ring_here & before))] = item;
        base.x += all.x;
        base.y += all.y;
        __syncthreads();
    }
    if (threadIdx.x == 0) list[0] = base.x, list[1] = base.y, list[2] = total;
}
/* A ring tile of a list. */
__device__ __forceinline__ int ring_tile(const int32_t *list, int number)
{
    return list[LIST_HEAD + list[2] - 1 - number];
}

} // namespace

#endif
