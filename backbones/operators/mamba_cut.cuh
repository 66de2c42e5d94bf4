/* SPDX-License-Identifier: Apache-2.0
 *
 * How the groups of a sample are walked (mamba_walk.cuh). A group's tokens follow one another, so that a
 * walk takes as long as its group; where there are few groups most of the GPU would wait. So the last groups
 * of a sample, or all of them, are cut into segments that are walked at once, in two rounds:
 *
 *     1   whole groups; of each group that is cut the first segment, and the ends alone of those between it
 *         and the last
 *     2   all but the first segments, from what the segments before them leave
 *
 * Every segment between the first and the last costs its exponentials twice. What is cut follows from the
 * number of the sample's groups and from constants, those of an H200 on every GPU: the same sample has the
 * same bytes wherever it lies and whatever it runs on.
 */
#ifndef SV_MAMBA_CUT_CUH
#define SV_MAMBA_CUT_CUH

#include "mamba_block.cuh"

namespace {

enum {
    MULTIPROCESSORS = 132,
    LEAST_TILES = 4,      /* of a segment */
    ROUND_CYCLES = 5000,  /* what another round takes by itself */
    LONE_CYCLES = 1700,   /* a tile of an item that has a multiprocessor to itself */
    SHARED_CYCLES = 1400, /* a tile of each of several that share one */
};

int divide_up(int a, int b)
{
    return (a + b - 1) / b;
}
int larger(int a, int b)
{
    return a > b ? a : b;
}

int64_t walk_cycles(int items, int tiles)
{
    const int together = divide_up(items, MULTIPROCESSORS);
    return (int64_t)tiles * (together > 1 ? together * SHARED_CYCLES : LONE_CYCLES);
}

/* 'items', 'tiles': of a group. */
cut cut_of(int groups, int items, int tiles)
{
    cut best = {(uint16_t)groups, 0, 0};
    int64_t least = walk_cycles(groups * items, tiles);
    /* none whole, or as many as fill the multiprocessors evenly */
    const int full = groups * items / MULTIPROCESSORS * MULTIPROCESSORS / items;
    for (int i = 0; i < 2; i++) {
        const int whole = i * full, others = (groups - whole) * items;
        if (others == 0 || (i == 1 && whole == 0)) continue;
        for (int rooms = 1; rooms <= 2; rooms++) {
            const int most = 1 + rooms * MULTIPROCESSORS / others,
                      length = larger(divide_up(tiles, most), LEAST_TILES),
                      segments = divide_up(tiles, length), pieces = others * (segments - 1);
            if (segments < 3) continue; /* the first and the last are not walked at once */
            int64_t cycles = ROUND_CYCLES + walk_cycles(pieces, length);
            if (whole > 0) {
                const int idle = divide_up(whole * items, MULTIPROCESSORS) * MULTIPROCESSORS - whole * items,
                          late = larger(pieces - idle * (tiles / length), 0);
                cycles += walk_cycles(whole * items, tiles) +
                          (int64_t)divide_up(late, MULTIPROCESSORS) * length * SHARED_CYCLES;
            } else {
                cycles += walk_cycles(pieces, length);
            }
            if (cycles >= least) continue;
            least = cycles;
            best = {(uint16_t)whole, (uint16_t)segments, (uint16_t)length};
        }
    }
    return best;
}

/* For samples of 1 to CUT_GROUPS - 1 groups, and the most pieces of those that the job has room for. */
void choose_cuts(block_job *job, int channels)
{
    const int groups = job->slots.dim[0] / job->length;
    for (int i = 1; i < CUT_GROUPS; i++) {
        cut &how = job->cuts[i];
        how = cut_of(i, 2 * 2 * channels / 32, job->length / TILE);
        if (i <= groups && how.segments > 0)
            job->most_pieces = larger(job->most_pieces, (i - how.whole) * (how.segments - 1));
    }
}

/* What an item of 32 channels walks. */
struct stretch {
    int64_t tile; /* its first, of its direction */
    int tiles, segment;
    int64_t state; /* where the states of its group's segments lie; -1: the group is whole */
};

/* The stretch of a place in a round; false: there are no more. */
template <bool SECOND>
__device__ __forceinline__ bool find_stretch(const block_job &job, int place, stretch &s)
{
    int from = 0;
    for (int b = 0; b < job.slots.batch; b++) {
        const int to = min(job.slots.offsets[b + 1], job.slots.dim[0]), groups = (to - from) / job.length;
        const cut how = job.cuts[groups < CUT_GROUPS ? groups : 0];
        const int whole = groups < CUT_GROUPS ? how.whole : groups, first = SECOND ? 0 : whole,
                  more = how.segments - 1, pieces = (groups - whole) * more;
        const int64_t tile = from / TILE;
        const int group_tiles = job.length / TILE;
        if (place < first) {
            s = {tile + (int64_t)place * group_tiles, group_tiles, 0, -1};
            return true;
        }
        if (place < first + pieces) {
            const int piece = place - first, group = piece / more;
            s.segment = piece % more + SECOND;
            s.tile = tile + (int64_t)(whole + group) * group_tiles + s.segment * how.tiles;
            s.tiles = min((int)how.tiles, group_tiles - s.segment * how.tiles);
            s.state = (int64_t)b * job.most_pieces + group * more;
            return true;
        }
        place -= first + pieces;
        from = to;
    }
    return false;
}

} // namespace

#endif
