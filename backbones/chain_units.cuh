/* SPDX-License-Identifier: Apache-2.0
 *
 * How a step of a chain falls into units of 8 x 8 cells on Hopper (chain_stream.cuh): what lies where in shared memory, and
 * which units a block takes, pass by pass.
 */
#ifndef SV_CHAIN_UNITS_CUH
#define SV_CHAIN_UNITS_CUH

#include "chain_parts.cuh"

namespace {

enum {
    UNIT_EDGE = 8,
    UNIT_ROWS = UNIT_EDGE * UNIT_EDGE,
    TILE_UNITS = TILE_ROWS / UNIT_ROWS,
    GROUPS = 2, /* warpgroups that multiply */
    GROUP_THREADS = THREADS / GROUPS,
    STREAM_THREADS = THREADS + GROUP_THREADS, /* the last warpgroup copies */
    CHUNK = 32,                               /* columns that a warp writes out at once */
    CHUNK_PITCH = CHUNK + 4,
    MOST_PATCHES = 4,  /* slots of the ring of patches ... */
    MOST_WEIGHTS = 10, /* ... and of weights */
    PASS_SLOTS = 8,    /* of the ring of passes' units: more than passes can be begun while one is written */
};

/* Where a column lies in its tile of weights: such that each lane gets eight neighbouring columns of a chunk from the tensor
 * cores, two by two from four octets. */
inline int column_place(int column)
{
    return column / CHUNK * CHUNK + column % 8 / 2 * 8 + column % CHUNK / 8 * 2 + column % 2;
}

/* How patches lie in shared memory. */
struct patch_shape {
    int edge;  /* cells */
    int bytes; /* of a plane of a unit's patch ... */
    int room;  /* ... and from one to the next */
    int slots; /* of the ring, each with the patches of a pass */
    int taps;  /* that one patch serves: all or one */
    int skew;  /* steps that the second warpgroup starts behind */
};

template <int PLANES, int N> struct stream_shape {
    enum {
        UNITS = 2 * GROUPS / PLANES, /* of a pass */
        OWN = UNITS / GROUPS,        /* of a warpgroup */
        PATCH_BYTES = 104 * 1024,
        WEIGHT_BYTES = PLANES * N * SV_TILE_ROW_BYTES,
        WEIGHT_SLOTS = PLANES > 1 ? 3
                       : N > 64   ? MOST_WEIGHTS / 2
                                  : MOST_WEIGHTS,
        /* Of a warp: what is added to 16 rows of narrow numbers, or the sums of a chunk. */
        RESULT_BYTES = PLANES == 1 && N > 64 ? 16 * N * 2 : 16 * CHUNK_PITCH * 4,
        BYTES = 1024 + PATCH_BYTES + WEIGHT_SLOTS * WEIGHT_BYTES + THREADS / 32 * RESULT_BYTES,
    };
};

template <int PLANES, int N> patch_shape shape_patches(const conv_job &job)
{
    using shape = stream_shape<PLANES, N>;
    patch_shape s = {};
    for (int whole = 1; whole >= 0; whole--) {
        s.edge = whole ? UNIT_EDGE + job.kernel - 1 : UNIT_EDGE;
        s.taps = whole ? job.taps : 1;
        s.bytes = s.edge * s.edge * SV_TILE_ROW_BYTES;
        s.room = (s.bytes + 1023) & ~1023;
        s.slots = shape::PATCH_BYTES / (shape::UNITS * PLANES * s.room);
        if (s.slots > MOST_PATCHES) s.slots = MOST_PATCHES;
        if (job.stride == 1 && s.slots >= 2) break;
    }
    s.skew = PLANES > 1 ? 1 : (shape::WEIGHT_SLOTS + 1) / 2; /* or what the rings hold, or all */
    if (s.skew > s.slots * s.taps) s.skew = s.slots * s.taps;
    if (s.skew > job.taps * job.slabs) s.skew = job.taps * job.slabs;
    return s;
}

struct unit_place {
    int sample, y, x;
};
__device__ __forceinline__ unit_place find_unit(const conv_job &job, int unit)
{
    const int tile = job.live[LIST_HEAD + unit / TILE_UNITS], place = tile % job.work_tiles;
    return {tile / job.work_tiles, place / job.work_tiles_x * TILE_Y,
            place % job.work_tiles_x * TILE_X + unit % TILE_UNITS * UNIT_EDGE};
}

/* Where a unit's results begin in the maps that a step writes, and how much of it lies inside. */
struct __align__(16) unit_cells
{
    int64_t first;
    int lines, wide;
    __device__ __forceinline__ void find(const conv_job &job, const unit_place &place, int phase)
    {
        const sv_plan_axis &height = job.part[0].y, &width = job.part[0].x; /* alike in all parts */
        const int y = place.y * job.up + phase / job.up, x = place.x * job.up + phase % job.up;
        first = ((int64_t)place.sample * height.size + y) * width.size + x;
        lines = job.work_height - place.y;
        wide = min(UNIT_EDGE, job.work_width - place.x);
    }
};

/* A block's units lie behind each other: all of the first columns, then all of the next. */
template <int UNITS> struct pass_range {
    int at, last, units; /* 'units': of each n tile and phase */
    int column, first, count;
    __device__ __forceinline__ pass_range(const conv_job &job)
    {
        units = job.live[0] * TILE_UNITS;
        const int64_t all = (int64_t)units * job.n_tiles * job.phases;
        at = (int)(all * blockIdx.x / gridDim.x);
        last = (int)(all * (blockIdx.x + 1) / gridDim.x);
    }
    __device__ __forceinline__ bool next()
    {
        if (at >= last) return false;
        column = at / units;
        first = at - column * units;
        const int left = min(last - at, units - first), passes = (left + UNITS - 1) / UNITS;
        count = (left + passes - 1) / passes;
        at += count;
        return true;
    }
};

} // namespace

#endif
