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
    __device__ __forceinline__ void find(const conv_job &job, const part_job &p, int unit, int phase)
    {
        const unit_place place = find_unit(job, unit);
        const int line = place.y + threadIdx.x / 32 % 4 * 2;
        const int y = line * job.up + phase / job.up, x = place.x * job.up + phase % job.up;
        first = ((int64_t)place.sample * p.y.size + y) * p.x.size + x;
        next = job.up;
        next_line = job.up * p.x.size;
        lines = min(2, job.work_height - line);
        wide = min(UNIT_EDGE, job.work_width - place.x);
    }
};

/* A warp's 16 rows by CHUNK columns, from 'column' on, to a part's maps. 'sums' has rows of CHUNK_PITCH. */
template <typename T, int PLANES>
__device__ __forceinline__ void put_chunk(const conv_job &job, const part_job &p, const float *sums,
                                          const warp_cells &cells, int column)
{
    const int lane = threadIdx.x % 32;
    if ((p.channels | p.out_first) % 8 == 0) { /* a lane writes eight columns of two cells */
        const int own = column + lane % 4 * 8, at = own - p.column;
        if (at < 0 || at >= p.channels || lane / 4 >= cells.wide) return;
        const int64_t cell = cells.first + lane / 4 * cells.next;
        addend<T, PLANES, 8> added[2];
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (h < cells.lines) added[h].read(p, cell + h * cells.next_line, at);
        const scaling<8> rule(job, own);
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (h < cells.lines)
                put<T, PLANES, 8>(p, sums + (lane / 4 + 8 * h) * CHUNK_PITCH + lane % 4 * 8, rule, added[h],
                                  cell + h * cells.next_line, at);
    } else { /* a lane writes a column */
        const int own = column + lane, at = own - p.column;
        if (at < 0 || at >= p.channels) return;
        const scaling<1> rule(job, own);
        if (!p.store && !p.add) { /* the maps of a head */
            float *out = p.dense + cells.first * p.dense_pitch + p.dense_first + at;
#pragma unroll
            for (int row = 0; row < 16; row++) {
                const int line = row / UNIT_EDGE, x = row % UNIT_EDGE;
                float value = fmaf(sums[row * CHUNK_PITCH + lane], rule.scale[0], rule.bias[0]);
                if (p.relu) value = 0.0f > value ? 0.0f : value;
                if (line < cells.lines && x < cells.wide)
                    out[(line * cells.next_line + x * cells.next) * p.dense_pitch] = value;
            }
            return;
        }
        for (int row = 0; row < 16; row++) {
            const int line = row / UNIT_EDGE, x = row % UNIT_EDGE;
            if (line >= cells.lines || x >= cells.wide) continue;
            const int64_t cell = cells.first + line * cells.next_line + x * cells.next;
            addend<T, PLANES, 1> added;
            added.read(p, cell, at);
            put<T, PLANES, 1>(p, sums + row * CHUNK_PITCH + lane, rule, added, cell, at);
        }
    }
}

/* The sums of a pass to a part's maps: warp by warp, through a little shared memory, so that neighbouring columns of a cell
 * are written together. */
template <typename T, int PLANES, int N, int OWN>
__device__ __forceinline__ void
write_part(const float (&d)[OWN][N / 2], const conv_job &job, const part_job &p,
           const pass_range<stream_shape<PLANES, N>::UNITS> &range, float *sums)
{
    const int lane = threadIdx.x % 32, group = threadIdx.x / GROUP_THREADS;
    const int first_column = range.column % job.n_tiles * N, phase = range.column / job.n_tiles;
    constexpr int chunks = N / CHUNK;
    warp_cells cells;
#pragma unroll 1
    for (int piece = 0; piece < OWN * chunks; piece++) {
        const int chunk = piece % chunks, column = first_column + chunk * CHUNK;
        if (chunk == 0) cells.find(job, p, range.first + group + piece / chunks * GROUPS, phase);
        if (p.column + p.channels <= column || p.column >= column + CHUNK) continue;
#pragma unroll
        for (int i = 0; i < OWN * chunks; i++) /* registers have no index at run time */
            if (i == piece)
#pragma unroll
                for (int j = 0; j < CHUNK / 8; j++)
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        const float *from = &d[i / chunks][4 * (i % chunks * (CHUNK / 8) + j) + 2 * h];
                        *(float2 *)&sums[(lane / 4 + 8 * h) * CHUNK_PITCH + 8 * j + lane % 4 * 2] =
                            make_float2(from[0], from[1]);
                    }
        __syncwarp();
        put_chunk<T, PLANES>(job, p, sums, cells, column);
        __syncwarp();
    }
}

/* The same where a step has one part, in one plane, that only the chain reads: numbers are finished where the tensor cores
 * left them, two of a row, and pass through shared memory narrowed. */
template <typename T, int N>
__device__ __forceinline__ void write_unit(const float (&d)[N / 2], const conv_job &job,
                                           const warp_cells &cells, int first_column, unsigned char *results)
{
    constexpr int PIECES = N / 8, ROWS = 32 / PIECES; /* pieces of a row, rows written at once */
    constexpr int BATCH = 4;                          /* pieces */
    const part_job &p = job.part[0];
    const int lane = threadIdx.x % 32, pitch = stream_shape<1, N>::RESULT_PITCH;
    const int column = first_column + lane % 4 * 2,
              columns = p.channels - first_column; /* left of the part */
    const bool here = lane / 4 < cells.wide;
    const T *add = (const T *)p.add + (cells.first + lane / 4 * cells.next) * p.add_pitch + column;
#pragma unroll
    for (int first = 0; first < PIECES;
         first += BATCH) { /* loads of a batch before its stores, so that they overlap */
        if (8 * first >= columns) break;
        float2 scale[BATCH], bias[BATCH];
        uint32_t added[BATCH][2];
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            const int j = first + k;
            scale[k] = __ldg((const float2 *)&job.scale[column + 8 * j]);
            bias[k] = __ldg((const float2 *)&job.bias[column + 8 * j]);
#pragma unroll
            for (int h = 0; h < 2; h++)
                added[k][h] = p.add && here && h < cells.lines && 8 * j < columns
                                  ? *(const uint32_t *)&add[h * cells.next_line * p.add_pitch + 8 * j]
                                  : 0;
        }
#pragma unroll
        for (int k = 0; k < BATCH; k++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int j = first + k;
                float even = fmaf(d[4 * j + 2 * h], scale[k].x, bias[k].x),
                      odd = fmaf(d[4 * j + 2 * h + 1], scale[k].y, bias[k].y);
                if (p.add) {
                    even += widen_low<T>(added[k][h]);
                    odd += widen_low<T>(added[k][h] >> 16);
                }
                if (p.relu) { /* passes NaN on */
                    even = 0.0f > even ? 0.0f : even;
                    odd = 0.0f > odd ? 0.0f : odd;
                }
                *(uint32_t *)&results[(lane / 4 + 8 * h) * pitch + 16 * j + lane % 4 * 4] =
                    narrow_two<T>(even, odd);
            }
    }
    __syncwarp();
    const int piece = lane % PIECES;
    T *out = (T *)p.store + cells.first * p.pitch + p.out_first + first_column + 8 * piece;
#pragma unroll
    for (int i = 0; i < 16 / ROWS; i++) {
        const int row = i * ROWS + lane / PIECES, line = row / UNIT_EDGE, x = row % UNIT_EDGE;
        if (line < cells.lines && x < cells.wide && 8 * piece < columns)
            *(uint4 *)&out[(line * cells.next_line + x * cells.next) * p.pitch] =
                *(const uint4 *)&results[row * pitch + 16 * piece];
    }
    __syncwarp();
}

template <typename T, int PLANES, int N, int OWN>
__device__ __forceinline__ void write_pass(const float (&d)[OWN][N / 2], const conv_job &job,
                                           const pass_range<stream_shape<PLANES, N>::UNITS> &range,
                                           float *sums)
{
    if constexpr (PLANES == 1) {
        const part_job &p = job.part[0];
        if (job.parts == 1 && p.store && !p.dense && (p.channels | p.out_first) % 8 == 0) {
            warp_cells cells;
#pragma unroll
            for (int u = 0; u < OWN; u++) {
                cells.find(job, p, range.first + threadIdx.x / GROUP_THREADS + u * GROUPS,
                           range.column / job.n_tiles);
                write_unit<T, N>(d[u], job, cells, range.column % job.n_tiles * N, (unsigned char *)sums);
            }
            return;
        }
    }
#pragma unroll 1
    for (int q = 0; q < job.parts; q++) write_part<T, PLANES, N, OWN>(d, job, job.part[q], range, sums);
}

} // namespace

#endif
