/* SPDX-License-Identifier: Apache-2.0
 *
 * From the sums that the tensor cores left in a warp's registers to the maps (chain_stream.cuh): through a little shared memory,
 * so that neighbouring columns of a cell are written together. Only two warps share a scheduler here, which makes every
 * instruction felt: the common case has its own, short way.
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

/* The sums of a unit to the maps of all parts: through a little shared memory, so that neighbouring columns of a cell are written
 * together. */
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
        for (int i = 0; i < N / CHUNK; i++) /* registers have no index at run time */
            if (i == chunk)
#pragma unroll
                for (int j = 0; j < CHUNK / 8; j++)
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        const float *from = &d[4 * (i * (CHUNK / 8) + j) + 2 * h];
                        *(float2 *)&sums[(lane / 4 + 8 * h) * CHUNK_PITCH + 8 * j + lane % 4 * 2] =
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

/* Sums to the caller's maps, straight from where the tensor cores left them: parts begin at multiples of eight columns, and
 * four lanes have eight columns of a cell. */
template <int N>
__device__ __forceinline__ void write_dense(const float (&d)[N / 2], const conv_job &job,
                                            const warp_cells &cells, const column_rule *rules,
                                            int first_column)
{
    const int lane = threadIdx.x % 32;
    if (lane / 4 >= cells.wide) return;
    int q = 0;
#pragma unroll
    for (int j = 0; j < N / 8; j++) {
        const int column = first_column + 8 * j;
        while (q < job.parts && column >= job.part[q].column + job.part[q].channels) q++;
        if (q == job.parts) return;
        const part_job &p = job.part[q];
        const int at = column + lane % 4 * 2 - p.column;
        const bool vector = (p.channels | p.dense_pitch | p.dense_first) % 2 == 0;
        const column_rule rule = rules[4 * j + lane % 4];
        if (at >= p.channels) continue;
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

/* Which sixteen bytes of a row of results a lane moves, and in which rows. */
template <int N> struct result_piece {
    enum { PIECES = N / 8, ROWS = 32 / PIECES, COUNT = 16 / ROWS };
    int piece, row, part, at; /* 'at': first channel in the part */
    bool here;                /* a part has these columns */
    __device__ __forceinline__ result_piece(const conv_job &job, int first_column)
    {
        const int lane = threadIdx.x % 32;
        piece = lane % PIECES;
        row = lane / PIECES;
        const int column = first_column + 8 * piece;
        part = 0;
        while (part + 1 < job.parts && job.part[part + 1].column <= column) part++;
        at = column - job.part[part].column;
        here = at < job.part[part].channels;
    }
    __device__ __forceinline__ bool inside(const warp_cells &cells, int i) const
    {
        const int own = i * ROWS + row;
        return here && own / UNIT_EDGE < cells.lines && own % UNIT_EDGE < cells.wide;
    }
    __device__ __forceinline__ int cell(const warp_cells &cells, int i) const
    {
        const int own = i * ROWS + row;
        return own / UNIT_EDGE * cells.next_line + own % UNIT_EDGE * cells.next;
    }
    __device__ __forceinline__ int place(int i) const
    {
        return (i * ROWS + row) * stream_shape<1, N>::RESULT_PITCH + 16 * piece;
    }
};

/* What a warp's first unit adds, on its way to where the results will be; and that of a later unit, to registers. */
template <typename T, int N>
__device__ __forceinline__ void fetch_added(const conv_job &job, const warp_cells &cells, int first_column,
                                            unsigned char *results)
{
    const part_job &p = job.part[0];
    const result_piece<N> lane(job, first_column);
    const T *add = (const T *)p.add + cells.first * p.add_pitch + lane.at;
#pragma unroll
    for (int i = 0; i < result_piece<N>::COUNT; i++)
        if (lane.inside(cells, i))
            sv_copy_far(sv_shared_address(results) + lane.place(i), add + lane.cell(cells, i) * p.add_pitch);
    sv_copies_end();
}
template <typename T, int N>
__device__ __forceinline__ void read_added(uint4 (&held)[result_piece<N>::COUNT], const conv_job &job,
                                           const result_piece<N> &lane, const warp_cells &cells)
{
    const part_job &p = job.part[0];
    const T *add = (const T *)p.add + cells.first * p.add_pitch + lane.at;
#pragma unroll
    for (int i = 0; i < result_piece<N>::COUNT; i++)
        held[i] = lane.inside(cells, i) ? *(const uint4 *)(add + lane.cell(cells, i) * p.add_pitch)
                                        : make_uint4(0, 0, 0, 0);
}

/* Numbers are finished where the tensor cores left them, two of a row, and go to the rows of results narrowed; what is added
 * lies there. */
template <typename T, int N, bool ADD>
__device__ __forceinline__ void finish_unit(const float (&d)[N / 2], const column_rule *rules, bool relu,
                                            unsigned char *results)
{
    const int lane = threadIdx.x % 32, pitch = stream_shape<1, N>::RESULT_PITCH;
    unsigned char *own = results + lane / 4 * pitch + lane % 4 * 4;
    const uint32_t floor = least_two<T>(relu);
    rules += lane % 4;
    constexpr int BATCH = 4; /* loads before stores, which the compiler leaves in order */
#pragma unroll
    for (int first = 0; first < N / 8; first += BATCH) {
        column_rule rule[BATCH];
        uint32_t both[BATCH][2];
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            rule[k] = rules[4 * (first + k)];
#pragma unroll
            for (int h = 0; h < 2; h++)
                if (ADD) both[k][h] = *(const uint32_t *)(own + 8 * h * pitch + 16 * (first + k));
        }
#pragma unroll
        for (int k = 0; k < BATCH; k++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float *sum = &d[4 * (first + k) + 2 * h];
                float even = fmaf(sum[0], rule[k].scale[0], rule[k].bias[0]),
                      odd = fmaf(sum[1], rule[k].scale[1], rule[k].bias[1]);
                if (ADD) {
                    even += widen_low<T>(both[k][h]);
                    odd += widen_low<T>(both[k][h] >> 16);
                }
                *(uint32_t *)(own + 8 * h * pitch + 16 * (first + k)) =
                    greater_two<T>(narrow_two<T>(even, odd), floor);
            }
    }
}
template <typename T, int N>
__device__ __forceinline__ void store_unit(const conv_job &job, const result_piece<N> &lane,
                                           const warp_cells &cells, const unsigned char *results)
{
    const part_job &p = job.part[lane.part];
    T *out = (T *)p.store + cells.first * p.pitch + p.out_first + lane.at;
#pragma unroll
    for (int i = 0; i < result_piece<N>::COUNT; i++)
        if (lane.inside(cells, i))
            *(uint4 *)(out + lane.cell(cells, i) * p.pitch) = *(const uint4 *)(results + lane.place(i));
}

/* 'next': the warp's next unit in this pass, NULL behind the last. */
template <typename T, int N, bool ADD>
__device__ __forceinline__ void write_narrow(const float (&d)[N / 2], const conv_job &job,
                                             const warp_cells &cells, const unit_cells *next,
                                             const column_rule *rules, int first_column,
                                             unsigned char *results)
{
    const result_piece<N> lane(job, first_column);
    uint4 held[result_piece<N>::COUNT];
    if (ADD) {
        sv_copies_wait<0>();
        __syncwarp();
    }
    finish_unit<T, N, ADD>(d, rules, job.part[0].relu, results);
    if (ADD && next) read_added<T, N>(held, job, lane, warp_cells(job, *next));
    __syncwarp();
    store_unit<T, N>(job, lane, cells, results);
    __syncwarp();
    if (ADD && next) {
#pragma unroll
        for (int i = 0; i < result_piece<N>::COUNT; i++) *(uint4 *)(results + lane.place(i)) = held[i];
        __syncwarp();
    }
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
