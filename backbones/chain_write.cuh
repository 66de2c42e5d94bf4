/* SPDX-License-Identifier: Apache-2.0
 *
 * From the sums that the tensor cores left in a warp's registers to the maps (chain_stream.cuh). Weights lie so that a
 * lane has eight neighbouring columns of a cell in each chunk (column_place()), sixteen bytes of narrow numbers. Only
 * two warps share a scheduler here, which makes every instruction felt: the common cases have their own, short ways.
 *
 *     own number 2 i + e of chunk m, line h:   d[4 (4 m + i) + 2 h + e] = column 32 m + 8 (lane % 4) + 2 i + e
 */
#ifndef SV_CHAIN_WRITE_CUH
#define SV_CHAIN_WRITE_CUH

#include "chain_units.cuh"

namespace {

/* Where the 16 cells of a warp lie, two lines of eight, in the maps that a step writes. */
struct warp_cells {
    int64_t first;
    int next, next_line; /* from one to the next */
    int lines, wide;     /* inside the map */
    __device__ __forceinline__ warp_cells(const conv_job &job, const unit_cells &unit)
    {
        const int before = threadIdx.x / 32 % 4 * 2;
        next = job.up;
        next_line = job.up * job.part[0].x.size;
        first = unit.first + before * next_line;
        lines = min(2, unit.lines - before);
        wide = unit.wide;
    }
};

/* A warp's 16 rows by CHUNK columns, from 'column' on, to a part's maps. 'sums' has rows of CHUNK_PITCH; 'rules' are those of
 * the chunk's columns. */
template <typename T, int PLANES>
__device__ __forceinline__ void put_chunk(const part_job &p, const float *sums, const column_rule *rules,
                                          const warp_cells &cells, int column)
{
    const int lane = threadIdx.x % 32;
    /* A lane writes eight columns of two cells; with one plane this is not worth its registers and instructions. */
    if (PLANES > 1 && (p.channels | p.out_first) % 8 == 0) {
        const int own = lane % 4 * 8, at = column + own - p.column;
        if (at < 0 || at >= p.channels || lane / 4 >= cells.wide) return;
        const int64_t cell = cells.first + lane / 4 * cells.next;
        addend<T, PLANES, 8> added[2];
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (h < cells.lines) added[h].read(p, cell + h * cells.next_line, at);
        const scaling<8> rule(rules, own);
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (h < cells.lines)
                put<T, PLANES, 8>(p, sums + (lane / 4 + 8 * h) * CHUNK_PITCH + own, rule, added[h],
                                  cell + h * cells.next_line, at);
        return;
    }
    /* Lanes go along the part's columns and then from cell to cell. */
    const int first = max(p.column - column, 0), columns = min(p.column + p.channels - column, CHUNK) - first;
    const int at = column + first - p.column;                 /* in the part */
    const uint32_t inverse = (65536 + columns - 1) / columns; /* exact below 512 */
#pragma unroll 1
    for (int i = lane; i < 16 * columns; i += 32) {
        const int row = (int)(i * inverse >> 16), own = i - row * columns, line = row / UNIT_EDGE,
                  x = row % UNIT_EDGE;
        if (line >= cells.lines || x >= cells.wide) continue;
        const int64_t cell = cells.first + line * cells.next_line + x * cells.next;
        addend<T, PLANES, 1> added;
        added.read(p, cell, at + own);
        put<T, PLANES, 1>(p, sums + row * CHUNK_PITCH + first + own, scaling<1>(rules, first + own), added,
                          cell, at + own);
    }
}

/* The sums of a unit to the maps of all parts: through a little shared memory, since registers have no index at run time. */
template <typename T, int PLANES, int N>
__device__ __forceinline__ void write_parts(const float (&d)[N / 2], const conv_job &job,
                                            const warp_cells &cells, const column_rule *rules,
                                            int first_column, float *sums)
{
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int chunk = 0; chunk < N / CHUNK; chunk++) {
        const int column = first_column + chunk * CHUNK;
#pragma unroll
        for (int i = 0; i < N / CHUNK; i++)
            if (i == chunk)
#pragma unroll
                for (int j = 0; j < CHUNK / 8; j++)
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        const float *from = &d[4 * (i * (CHUNK / 8) + j) + 2 * h];
                        *(float2 *)&sums[(lane / 4 + 8 * h) * CHUNK_PITCH + lane % 4 * 8 + 2 * j] =
                            make_float2(from[0], from[1]);
                    }
        __syncwarp();
#pragma unroll 1
        for (int q = 0; q < job.parts; q++) {
            const part_job &p = job.part[q];
            if (p.column + p.channels <= column || p.column >= column + CHUNK) continue;
            put_chunk<T, PLANES>(p, sums, rules + chunk * (CHUNK / 2), cells, column);
        }
        __syncwarp();
    }
}

/* ---- maps of a head ---------------------------------------------------------------------------------------- */

/* Which part eight columns belong to, that all parts' columns begin at multiples of; 'job.parts' behind the last. */
__device__ __forceinline__ int find_part(const conv_job &job, int column)
{
    int q = 0;
    while (q < job.parts && column >= job.part[q].column + job.part[q].channels) q++;
    return q;
}

/* Sums to the caller's maps, straight from where the tensor cores left them: here columns lie in order, so that four lanes write
 * eight of a cell at once. */
template <int N>
__device__ __forceinline__ void write_head(const float (&d)[N / 2], const conv_job &job,
                                           const warp_cells &cells, const column_rule *rules,
                                           int first_column)
{
    const int lane = threadIdx.x % 32;
    if (lane / 4 >= cells.wide) return;
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        const int column = first_column + 8 * j, q = find_part(job, column);
        if (q == job.parts) return;
        const part_job &p = job.part[q];
        const int at = column + lane % 4 * 2 - p.column;
        const bool vector = (p.channels | p.dense_pitch | p.dense_first) % 2 == 0;
        const column_rule rule = rules[4 * j + lane % 4];
        if (at >= p.channels || !p.dense) continue;
        float *to = p.dense + (cells.first + lane / 4 * cells.next) * p.dense_pitch + p.dense_first + at;
#pragma unroll
        for (int h = 0; h < 2; h++, to += (int64_t)cells.next_line * p.dense_pitch) {
            if (h >= cells.lines) continue;
            float even = fmaf(d[4 * j + 2 * h], rule.scale[0], rule.bias[0]),
                  odd = fmaf(d[4 * j + 2 * h + 1], rule.scale[1], rule.bias[1]);
            if (p.relu) { /* passes NaN on */
                even = 0.0f > even ? 0.0f : even;
                odd = 0.0f > odd ? 0.0f : odd;
            }
            if (vector) {
                *(float2 *)to = make_float2(even, odd);
            } else {
                to[0] = even;
                if (at + 1 < p.channels) to[1] = odd;
            }
        }
    }
}

/* ---- in one plane, where only the chain reads them -------------------------------------------------------- */

/* Several parts only where nothing is added. */
template <int PLANES> __device__ __forceinline__ bool is_narrow(const conv_job &job)
{
    bool all = PLANES == 1;
    for (int q = 0; q < job.parts; q++) {
        const part_job &p = job.part[q];
        all &= p.store && !p.dense && (p.channels | p.out_first) % 8 == 0 && p.relu == job.part[0].relu &&
               !(p.add && job.parts > 1);
    }
    return all;
}

/* Where eight narrow numbers of a row lie in a warp's shared memory: without bank conflicts by chunks and by rows. */
template <int N> __device__ __forceinline__ int result_place(int row, int piece)
{
    return (row * (N / 8) + (N > CHUNK ? piece ^ (row & 1) << 2 : piece)) * 16;
}

/* What is added to a unit, on its way to where the results will be: a lane's own columns. */
template <typename T, int N>
__device__ __forceinline__ void fetch_added(const conv_job &job, const warp_cells &cells, int first_column,
                                            unsigned char *results)
{
    const part_job &p = job.part[0];
    const int lane = threadIdx.x % 32;
    const T *from = (const T *)p.add + (cells.first + lane / 4 * cells.next) * p.add_pitch + first_column;
#pragma unroll
    for (int m = 0; m < N / CHUNK; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int own = m * CHUNK + lane % 4 * 8;
            if (h < cells.lines && lane / 4 < cells.wide && first_column + own < p.channels)
                sv_copy_far(sv_shared_address(results) + result_place<N>(lane / 4 + 8 * h, own / 8),
                            from + (int64_t)h * cells.next_line * p.add_pitch + own);
        }
    sv_copies_end();
}

/* Numbers are finished and narrowed where the tensor cores left them, and pass through shared memory, so that whole rows are
 * written at once. 'next': the warp's next unit in this pass, NULL behind the last. */
template <typename T, int N, bool ADD>
__device__ __forceinline__ void
write_narrow(const float (&d)[N / 2], const conv_job &job, const warp_cells &cells, const unit_cells *next,
             const column_rule *rules, int first_column, unsigned char *results)
{
    constexpr int PIECES = N / 8, ROWS = 32 / PIECES; /* pieces of a row, rows written at once */
    const int lane = threadIdx.x % 32;
    const uint32_t least = least_two<T>(job.part[0].relu);
    if (ADD) sv_copies_wait<0>(); /* a lane reads what it copied itself */
#pragma unroll
    for (int m = 0; m < N / CHUNK; m++) {
        const int own = m * CHUNK + lane % 4 * 8;
        const scaling<8> rule(rules, own);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint4 *at = (uint4 *)(results + result_place<N>(lane / 4 + 8 * h, own / 8));
            __align__(16) uint32_t more[4], words[4];
            if (ADD) *(uint4 *)more = *at;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *sum = &d[4 * (4 * m + i) + 2 * h];
                float even = fmaf(sum[0], rule.scale[2 * i], rule.bias[2 * i]),
                      odd = fmaf(sum[1], rule.scale[2 * i + 1], rule.bias[2 * i + 1]);
                if (ADD) {
                    even += widen_low<T>(more[i]);
                    odd += widen_low<T>(more[i] >> 16);
                }
                words[i] = greater_two<T>(narrow_two<T>(even, odd), least);
            }
            *at = *(const uint4 *)words;
        }
    }
    __syncwarp();
    const int piece = lane % PIECES, column = first_column + 8 * piece, q = find_part(job, column);
    const part_job &p = job.part[q < job.parts ? q : 0];
    T *out = (T *)p.store + cells.first * p.pitch + p.out_first + column - p.column;
#pragma unroll
    for (int i = 0; i < 16 / ROWS; i++) {
        const int row = i * ROWS + lane / PIECES, line = row / UNIT_EDGE, x = row % UNIT_EDGE;
        if (q < job.parts && line < cells.lines && x < cells.wide)
            *(uint4 *)(out + (int64_t)(line * cells.next_line + x * cells.next) * p.pitch) =
                *(const uint4 *)(results + result_place<N>(row, piece));
    }
    __syncwarp();
    if (ADD && next) fetch_added<T, N>(job, warp_cells(job, *next), first_column, results);
}

/* The sums of a pass to the maps. One code for all units, whose sums move up: instructions come from a small cache. */
template <typename T, int PLANES, int N, int MOST>
__device__ __forceinline__ void write_pass(float (&d)[MOST][N / 2], int own, const conv_job &job,
                                           const unit_cells *units, const column_rule *rules,
                                           int first_column, float *sums)
{
    const bool narrow = is_narrow<PLANES>(job);
#pragma unroll 1
    for (int u = 0;; units += GROUPS) {
        const warp_cells cells(job, *units);
        u++;
        if (job.head) {
            write_head<N>(d[0], job, cells, rules, first_column);
        } else if (PLANES == 1 && narrow) {
            const unit_cells *next = u < own ? units + GROUPS : NULL;
            unsigned char *results = (unsigned char *)sums;
            if constexpr (PLANES == 1)
                job.part[0].add
                    ? write_narrow<T, N, true>(d[0], job, cells, next, rules, first_column, results)
                    : write_narrow<T, N, false>(d[0], job, cells, next, rules, first_column, results);
        } else {
            write_parts<T, PLANES, N>(d[0], job, cells, rules, first_column, sums);
        }
        if (u >= own) return;
#pragma unroll
        for (int i = 0; i < N / 2; i++) d[0][i] = d[MOST - 1][i];
    }
}

} // namespace

#endif
