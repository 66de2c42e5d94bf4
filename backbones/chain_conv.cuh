/* SPDX-License-Identifier: Apache-2.0
 *
 * The convolution of a chain on tensor cores (chain.cu; Hopper's is in chain_stream.cuh), and the conversion of its input.
 */
#ifndef SV_CHAIN_CONV_CUH
#define SV_CHAIN_CONV_CUH

#include "chain_parts.cuh"

namespace {

template <typename T, int PLANES, int N> struct conv_shape {
    enum {
        A_BYTES = PLANES * TILE_ROWS * SV_TILE_ROW_BYTES,
        B_BYTES = PLANES * N * SV_TILE_ROW_BYTES,
        STAGES = 3,
        AHEAD = STAGES - 1, /* stages that are loaded before they are needed */
        SUM_PITCH = N + 4,
        STAGE_BYTES = A_BYTES + B_BYTES,
        PIPE_BYTES = STAGES * STAGE_BYTES,
        SUM_BYTES = TILE_ROWS * SUM_PITCH * 4,
        BYTES = (PIPE_BYTES > SUM_BYTES ? PIPE_BYTES : SUM_BYTES) + 1024,
    };
};

/* The three products of numbers in two planes, small ones first, of some sixteens of the inputs. */
template <typename T, int N, int FROM, int TO>
__device__ __forceinline__ void multiply_planes(float (&d)[N / 2], uint32_t a, uint32_t a_low, uint32_t b,
                                                uint32_t b_low)
{
    sv_tile_begin();
    sv_tile_multiply<T, N, FROM, TO>(d, a, b_low);
    sv_tile_multiply<T, N, FROM, TO>(d, a_low, b);
    sv_tile_multiply<T, N, FROM, TO>(d, a, b);
    sv_tile_end();
}
template <int N> __device__ __forceinline__ void move_sums(float (&total)[N / 2], float (&d)[N / 2])
{
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        total[i] += d[i];
        d[i] = 0.0f;
    }
}

template <typename T, int PLANES, int N>
__global__ void __launch_bounds__(THREADS, PLANES > 1 ? 1 : 2)
    conv_kernel(const __grid_constant__ conv_job job)
{
#ifndef SV_TILE_WGMMA /* there conv_stream does it all */
    using shape = conv_shape<T, PLANES, N>;
    extern __shared__ unsigned char dynamic[];
    const uint32_t unaligned = sv_shared_address(dynamic), base = (unaligned + 1023) & ~1023u;
    float *sums = (float *)(dynamic + (base - unaligned));
    const int tid = threadIdx.x, group = tid / 128;
    const int piece = tid % 8, first_row = tid / 8; /* loading: rows first_row + 32 i */
    const uint32_t to_a = first_row * SV_TILE_ROW_BYTES + ((piece ^ (first_row & 7)) << 4);
    const int cell_pieces = PLANES * job.in_pitch / 8;
    const int per_tile = job.n_tiles * job.phases, steps = job.taps * job.slabs;
    const int live = job.live[0] * per_tile;

    __shared__ uint64_t arrived[shape::STAGES];
    __shared__ int lines_taken;
    int filled = 0, used = 0; /* the stages that are filled and used next, from tile to tile */
    uint32_t turn = 0;        /* of the barriers */
    if (tid < shape::STAGES) sv_stage_open(&arrived[tid]);
    if (tid == 0) lines_taken = 0;
    __syncthreads();
    for (int item = blockIdx.x; item < live; item += gridDim.x) {
        const int tile = job.live[LIST_HEAD + item / per_tile], n_tile = item % per_tile % job.n_tiles,
                  phase = item % per_tile / job.n_tiles;
        const int sample = tile / job.work_tiles, place = tile % job.work_tiles;
        const int y0 = place / job.work_tiles_x * TILE_Y, x0 = place % job.work_tiles_x * TILE_X;
        const uint4 *in = (const uint4 *)((const T *)job.in + (int64_t)sample * job.in_height * job.in_width *
                                                                  PLANES * job.in_pitch);
        const unsigned char *w =
            (const unsigned char *)job.w + (int64_t)(phase * job.n_tiles + n_tile) * steps * shape::B_BYTES;
        /* Of this thread's rows: the piece that the first tap reads, and bits of the columns and rows of taps that lie
         * inside the map. */
        int row_at[4];
        uint32_t row_taps[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = first_row + 32 * i, y = (y0 + row / TILE_X) * job.stride - job.pad,
                      x = (x0 + row % TILE_X) * job.stride - job.pad;
            row_at[i] = (y * job.in_width + x) * cell_pieces + piece;
            row_taps[i] = 0;
            for (int k = 0; k < job.kernel; k++)
                row_taps[i] |= ((unsigned)(x + k) < (unsigned)job.in_width ? 1u << k : 0) |
                               ((unsigned)(y + k) < (unsigned)job.in_height ? MOST_KERNEL_BIT << k : 0);
        }
        /* Of the next stage to load: its taps' place, the bytes of a piece. */
        int slab = 0, ky = 0, kx = 0, loaded = 0, tap_at = 0,
            wanted = min(max((job.in_channels - piece * 8) * 2, 0), 16);
        auto load = [&]() {
            if (loaded < steps) {
                const uint32_t to = base + filled * shape::STAGE_BYTES;
                sv_stage_fill<THREADS>(to + shape::A_BYTES, w, shape::B_BYTES, &arrived[filled]);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const bool inside = row_taps[i] >> kx & row_taps[i] >> (MOST_KERNEL + ky) & 1;
                    const uint4 *from = in + (inside ? row_at[i] + tap_at : 0);
#pragma unroll
                    for (int p = 0; p < PLANES; p++)
                        sv_copy_near(to + to_a + (p * TILE_ROWS + 32 * i) * SV_TILE_ROW_BYTES,
                                     from + p * (job.in_pitch / 8), inside ? wanted : 0);
                }
                w += shape::B_BYTES;
                loaded++;
                filled = filled + 1 == shape::STAGES ? 0 : filled + 1;
                tap_at += cell_pieces;
                if (++kx == job.kernel) {
                    kx = 0;
                    tap_at += (job.in_width - job.kernel) * cell_pieces;
                    if (++ky == job.kernel) {
                        ky = 0;
                        slab++;
                        tap_at = slab * (SV_TILE_K / 8);
                        wanted = min(max((job.in_channels - slab * SV_TILE_K - piece * 8) * 2, 0), 16);
                    }
                }
            }
            sv_copies_end();
        };

        float d[N / 2], total[PLANES > 1 ? N / 2 : 1];
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            d[i] = 0.0f;
            if constexpr (PLANES > 1) total[i] = 0.0f;
        }
#pragma unroll
        for (int i = 0; i < shape::AHEAD; i++) load();
        for (int s = 0; s < steps; s++) {
            sv_copies_wait<shape::AHEAD - 1>();
            sv_stage_wait(&arrived[used], turn);
            sv_tile_publish();
            __syncthreads(); /* also: everyone's products of the stage before are done, its room is free */
            const uint32_t stage = base + used * shape::STAGE_BYTES,
                           a = stage + group * 64 * SV_TILE_ROW_BYTES, b = stage + shape::A_BYTES;
            if (++used == shape::STAGES) {
                used = 0;
                turn ^= 1;
            }
            if constexpr (PLANES > 1) {
                /* Tensor cores cut their sums off, always towards zero: they add up half a stage only, small products
                 * first, and the rest is added as usual. */
                const uint32_t a_low = a + TILE_ROWS * SV_TILE_ROW_BYTES, b_low = b + N * SV_TILE_ROW_BYTES;
                multiply_planes<T, N, 0, 2>(d, a, a_low, b, b_low);
                sv_tile_wait<0>();
                move_sums<N>(total, d);
                multiply_planes<T, N, 2, 4>(d, a, a_low, b, b_low);
                load(); /* while the tensor cores work */
                sv_tile_wait<0>();
                move_sums<N>(total, d);
            } else {
                sv_tile_begin();
                sv_tile_multiply<T, N>(d, a, b);
                sv_tile_end();
                load();
                sv_tile_wait<0>();
            }
        }
        if constexpr (PLANES > 1) {
#pragma unroll
            for (int i = 0; i < N / 2; i++) d[i] = total[i];
        }
        sv_copies_wait<0>();
        __syncthreads();

        const int lane = tid % 32, at_row = group * 64 + tid / 32 % 4 * 16 + lane / 4,
                  at_column = lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                *(float2 *)&sums[(at_row + 8 * h) * shape::SUM_PITCH + 8 * j + at_column] =
                    make_float2(d[4 * j + 2 * h], d[4 * j + 2 * h + 1]);
        __syncthreads();
        const int column0 = n_tile * N;
        for (int q = 0; q < job.parts; q++) {
            const part_job &p = job.part[q];
            const int first = max(p.column, column0), last = min(p.column + p.channels, column0 + N);
            if (first >= last) continue;
            const int pieces = (last - first) / 8;
            const bool aligned = p.channels % 8 == 0 && p.out_first % 8 == 0;
            const int units = aligned ? pieces : last - first;
            for (int i = tid; i < TILE_ROWS * units; i += THREADS) {
                const int row = i / units, unit = i % units;
                int y = y0 + row / TILE_X, x = x0 + row % TILE_X;
                if (y >= job.work_height || x >= job.work_width) continue;
                y = y * job.up + phase / job.up;
                x = x * job.up + phase % job.up;
                const int64_t cell = ((int64_t)sample * p.y.size + y) * p.x.size + x;
                const int column = first + (aligned ? 8 * unit : unit);
                const float *from = &sums[row * shape::SUM_PITCH + column - column0];
                if (aligned)
                    put_at<T, PLANES, 8>(job, p, from, cell, column);
                else
                    put_at<T, PLANES, 1>(job, p, from, cell, column);
            }
        }
        sv_tile_publish(); /* the sums lay where stages are filled next */
        __syncthreads();
    }

    fill_ring<T, PLANES>(job, &lines_taken);
#endif
}

/* Eight numbers of a cell of the caller's map from 'channel' on; zero beyond the last. */
__device__ __forceinline__ void read_eight(float (&to)[8], const sv_tensor &in, int64_t cell, int channel)
{
    const float *from = (const float *)in.data + cell * in.pitch + channel;
    if (in.pitch % 4 == 0 && channel + 8 <= in.dim[1] && (uintptr_t)in.data % 16 == 0)
        load_numbers<8>(to, from);
    else
#pragma unroll
        for (int k = 0; k < 8; k++) to[k] = channel + k < in.dim[1] ? from[k] : 0.0f;
}

/* The caller's float32 map as the chain holds it: tiles of the list 'wanted', live and ring. Cells without a voxel are zero and not
 * read: 'bits' are those that have one, in lines of 'words'. With two planes 'out' may be the map itself: whole cells are read
 * before any of them is written. */
template <typename T, int PLANES>
__global__ void __launch_bounds__(THREADS)
    convert_input(T *out, int pitch, sv_tensor in, const int32_t *wanted, const uint32_t *bits, int words,
                  int height, int width, int work_tiles, int work_tiles_x)
{
    constexpr int AT_ONCE = PLANES > 1 ? 1 : 4; /* cells of a thread */
    const int live = wanted[0], count = live + wanted[1], pieces = pitch / 8;
    const int lanes = min(pieces, THREADS), cells = THREADS / lanes; /* of one pass */
    const int lane = threadIdx.x % lanes, own = threadIdx.x / lanes;
    for (int item = blockIdx.x; item < count; item += gridDim.x) {
        const int tile = item < live ? wanted[LIST_HEAD + item] : ring_tile(wanted, item - live),
                  sample = tile / work_tiles, place = tile % work_tiles;
        const int y0 = place / work_tiles_x * TILE_Y, x0 = place % work_tiles_x * TILE_X;
        for (int first = 0; first < TILE_ROWS; first += cells * AT_ONCE) {
            int64_t cell[AT_ONCE];
            bool inside[AT_ONCE], voxel[AT_ONCE];
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) {
                const int row = first + own + k * cells, y = y0 + row / TILE_X, x = x0 + row % TILE_X;
                inside[k] = own < cells && row < TILE_ROWS && y < height && x < width;
                cell[k] = ((int64_t)sample * height + y) * width + x;
                voxel[k] = inside[k] && bits[((int64_t)sample * height + y) * words + x / 32] >> x % 32 & 1;
            }
            for (int piece = lane; piece - lane < pieces; piece += lanes) {
                __align__(16) float value[AT_ONCE][8];
#pragma unroll
                for (int k = 0; k < AT_ONCE; k++) {
#pragma unroll
                    for (int i = 0; i < 8; i++) value[k][i] = 0.0f;
                    if (voxel[k] && piece < pieces) read_eight(value[k], in, cell[k], piece * 8);
                }
                if (PLANES > 1) __syncthreads();
#pragma unroll
                for (int k = 0; k < AT_ONCE; k++)
                    if (inside[k] && piece < pieces)
                        store_narrow<T, PLANES>(out + cell[k] * PLANES * pitch + piece * 8, pitch, value[k]);
            }
        }
    }
}

} // namespace

#endif
