/* SPDX-License-Identifier: Apache-2.0
 *
 * From the sums that the tensor cores left in a warp's registers to the maps (chain_stream.cuh). Weights lie so that a lane has
 * eight neighbouring columns of a cell in each chunk (column_place()), and four lanes all of the chunk: sixteen bytes of a lane,
 * 64 of a cell are written at once. Only two warps share a scheduler here, which makes every instruction felt: the common
 * cases have their own, short ways.
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
    const int at = column + first - p.column; /* in the part */
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

__device__ __forceinline__ bool is_dense(const conv_job &job)
{
    bool all = true;
    for (int q = 0; q < job.parts; q++) all &= job.part[q].dense && !job.part[q].store && !job.part[q].add;
    return all;
}

/* Which part eight columns belong to, that all parts' columns begin at multiples of; 'job.parts' behind the last. */
__device__ __forceinline__ int find_part(const conv_job &job, int column)
{
    int q = 0;
    while (q < job.parts && column >= job.part[q].column + job.part[q].channels) q++;
    return q;
}

/* Sums to the caller's maps, straight from where the tensor cores left them. */
template <int N>
__device__ __forceinline__ void write_dense(const float (&d)[N / 2], const conv_job &job,
                                            const warp_cells &cells, const column_rule *rules,
                                            int first_column)
{
    const int lane = threadIdx.x % 32;
    if (lane / 4 >= cells.wide) return;
#pragma unroll
    for (int m = 0; m < N / CHUNK; m++) {
        const int own = m * CHUNK + lane % 4 * 8, q = find_part(job, first_column + own);
        if (q == job.parts) return;
        const part_job &p = job.part[q];
        const int at = first_column + own - p.column;
        const bool vector = (p.channels | p.dense_pitch | p.dense_first) % 2 == 0;
        float *to = p.dense + (cells.first + lane / 4 * cells.next) * p.dense_pitch + p.dense_first + at;
#pragma unroll
        for (int h = 0; h < 2; h++, to += (int64_t)cells.next_line * p.dense_pitch) {
            if (h >= cells.lines) continue;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (at + 2 * i >= p.channels) break;
                const column_rule rule = rules[own / 2 + i];
                const float *sum = &d[4 * (4 * m + i) + 2 * h];
                float even = fmaf(sum[0], rule.scale[0], rule.bias[0]),
                      odd = fmaf(sum[1], rule.scale[1], rule.bias[1]);
                if (p.relu) { /* passes NaN on */
                    even = 0.0f > even ? 0.0f : even;
                    odd = 0.0f > odd ? 0.0f : odd;
                }
                if (vector) {
                    *(float2 *)(to + 2 * i) = make_float2(even, odd);
                } else {
                    to[2 * i] = even;
                    if (at + 2 * i + 1 < p.channels) to[2 * i + 1] = odd;
                }
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

/* What is added to a lane's eight columns of a chunk and line, on its way to the lane's own place in shared memory. */
template <typename T, int N>
__device__ __forceinline__ void fetch_added(const conv_job &job, const warp_cells &cells, int first_column,
                                            unsigned char *added, int m, int h)
{
    const part_job &p = job.part[0];
    const int lane = threadIdx.x % 32, at = first_column + m * CHUNK + lane % 4 * 8;
    if (h >= cells.lines || lane / 4 >= cells.wide || at >= p.channels) return;
    const T *from =
        (const T *)p.add + (cells.first + h * cells.next_line + lane / 4 * cells.next) * p.add_pitch + at;
    sv_copy_far(sv_shared_address(added) + ((2 * m + h) * 32 + lane) * 16, from);
}
template <typename T, int N>
__device__ __forceinline__ void fetch_all_added(const conv_job &job, const warp_cells &cells,
                                                int first_column, unsigned char *added)
{
#pragma unroll
    for (int m = 0; m < N / CHUNK; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) fetch_added<T, N>(job, cells, first_column, added, m, h);
    sv_copies_end();
}

/* Numbers are finished and narrowed where the tensor cores left them. 'next': the warp's next unit in this pass, NULL behind the
 * last; what is added to it is fetched as soon as there is room. */
template <typename T, int N, bool ADD>
__device__ __forceinline__ void write_narrow(const float (&d)[N / 2], const conv_job &job,
                                             const warp_cells &cells, const unit_cells *next,
                                             const column_rule *rules, int first_column,
                                             unsigned char *added)
{
    const int lane = threadIdx.x % 32;
    const bool here = lane / 4 < cells.wide;
    const uint32_t least = least_two<T>(job.part[0].relu);
    if (ADD) sv_copies_wait<0>(); /* a lane reads what it copied itself */
#pragma unroll
    for (int m = 0; m < N / CHUNK; m++) {
        const int own = m * CHUNK + lane % 4 * 8, column = first_column + own, q = find_part(job, column);
        const part_job &p = job.part[q < job.parts ? q : 0];
        T *out = (T *)p.store + (cells.first + lane / 4 * cells.next) * p.pitch + p.out_first + column -
                 p.column;
        const scaling<8> rule(rules, own);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            __align__(16) uint32_t more[4], words[4];
            if (ADD) *(uint4 *)more = *(const uint4 *)(added + ((2 * m + h) * 32 + lane) * 16);
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
            if (here && h < cells.lines && q < job.parts)
                *(uint4 *)(out + (int64_t)h * cells.next_line * p.pitch) = *(const uint4 *)words;
        }
    }
    if (ADD && next) fetch_all_added<T, N>(job, warp_cells(job, *next), first_column, added);
}

/* The sums of a pass to the maps. One code for all units, whose sums move up: instructions come from a small cache. */
template <typename T, int PLANES, int N, int MOST>
__device__ __forceinline__ void write_pass(float (&d)[MOST][N / 2], int own, const conv_job &job,
                                           const unit_cells *units, const column_rule *rules,
                                           int first_column, float *sums)
{
    const bool dense = is_dense(job), narrow = is_narrow<PLANES>(job);
#pragma unroll 1
    for (int u = 0;; units += GROUPS) {
        const warp_cells cells(job, *units);
        u++;
        if (dense) {
            write_dense<N>(d[0], job, cells, rules, first_column);
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
