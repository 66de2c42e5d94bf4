/* SPDX-License-Identifier: Apache-2.0
 *
 * The convolution of a chain on Hopper, for maps of one 16-bit number: the same products in the same order as
 * conv_kernel (chain_conv.cuh), fed by a warp that does nothing else.
 *
 *     one thread block per multiprocessor      a pass: up to four units of 8 x 8 cells by N output channels
 *
 *     producer warp          ring of patches: (8 + kernel - 1)^2 cells x 64 channels of each unit
 *       tensor copies  --->  ring of weights: one tap, 64 channels x N
 *                                     |   "full" / "empty" barriers
 *     two warpgroups         unit 0, 2 | unit 1, 3: for each slab of 64 channels, for each tap
 *                              sums += patch shifted by the tap x weights
 *
 * A patch is copied once per slab and read by all taps: a tap's 64 rows are eight lines of eight neighbouring cells, which
 * the tensor cores find from where the first begins and how far apart the lines lie. Swizzling follows from the bits of the
 * address in shared memory, so that any cell can be the first. Where the stride is not one, or the patch too large, a patch
 * holds the 8 x 8 cells of one tap. What lies outside the map the copy fills with zeros.
 *
 * Weights are shared by the units of a pass: a multiprocessor reads 16 KB of them for 256 x 128 x 64 products. Warpgroups
 * wait for each other only through the rings; the second one starts some steps behind, so that one multiplies while the
 * other writes its sums out.
 */
#ifndef SV_CHAIN_STREAM_CUH
#define SV_CHAIN_STREAM_CUH

#include "chain_conv.cuh"

#include <cudaTypedefs.h>

#include <type_traits>

#ifndef BASE_MODE
#define BASE_MODE 0
#endif
namespace {

enum {
    UNIT_EDGE = 8,
    UNIT_ROWS = UNIT_EDGE * UNIT_EDGE,
    TILE_UNITS = TILE_ROWS / UNIT_ROWS,
    STREAM_COLUMNS = 128,
    GROUPS = 2,           /* warpgroups that multiply */
    UNITS = 2 * GROUPS,   /* of a pass */
    GROUP_THREADS = 128,
    STREAM_THREADS = THREADS + GROUP_THREADS, /* the last warpgroup copies */
    CHUNK = 32,           /* columns that a warp writes out at once */
    CHUNK_PITCH = CHUNK + 8,
    SKEW = 3,
    MOST_PATCHES = 4,     /* slots of the ring of patches */
};

/* How patches lie in shared memory. */
struct patch_shape {
    int edge;   /* cells */
    int bytes;  /* of a unit's patch ... */
    int room;   /* ... and from one to the next */
    int slots;  /* of the ring, each with the patches of a pass */
    int taps;   /* that one patch serves: all or one */
    int skew;  /* steps that the second warpgroup starts behind */
};

template <int N> struct stream_shape {
    enum {
        PATCH_BYTES = 104 * 1024,
        WEIGHT_BYTES = N * SV_TILE_ROW_BYTES,
        WEIGHT_SLOTS = 6,
        SUM_BYTES = THREADS / 32 * 16 * CHUNK_PITCH * 4,
        BYTES = 1024 + PATCH_BYTES + WEIGHT_SLOTS * WEIGHT_BYTES + SUM_BYTES,
    };
};

patch_shape shape_patches(int kernel, int stride, int ring_bytes)
{
    patch_shape s = {};
    for (int whole = 1; whole >= 0; whole--) {
        s.edge = whole ? UNIT_EDGE + kernel - 1 : UNIT_EDGE;
        s.taps = whole ? kernel * kernel : 1;
        s.bytes = s.edge * s.edge * SV_TILE_ROW_BYTES;
        s.room = (s.bytes + 1023) & ~1023;
        s.slots = ring_bytes / (UNITS * s.room);
        if (s.slots > MOST_PATCHES) s.slots = MOST_PATCHES;
        if (stride == 1 && s.slots >= 2) break;
    }
    const int steps = s.slots * s.taps;
    s.skew = steps < SKEW ? steps : SKEW;
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

/* A block's units lie behind each other: all of the first columns, then all of the next. */
struct pass_range {
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

/* A place in a ring and the phase of its barriers. */
struct ring_place {
    int slot;
    uint32_t turn;
    __device__ __forceinline__ void step(int slots)
    {
        if (++slot == slots) {
            slot = 0;
            turn ^= 1;
        }
    }
};

#ifdef SV_TILE_WGMMA

__device__ __forceinline__ void open_barrier(uint64_t *barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;\n" ::"r"(sv_shared_address(barrier)), "r"(arrivals)
                 : "memory");
}
__device__ __forceinline__ void arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];\n" ::"r"(sv_shared_address(barrier)) : "memory");
}
__device__ __forceinline__ void expect(uint64_t *barrier, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;\n" ::"r"(sv_shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void copy_weights(uint32_t to, const void *from, int bytes, uint64_t *barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
                     to),
                 "l"(from), "r"(bytes), "r"(sv_shared_address(barrier))
                 : "memory");
}
__device__ __forceinline__ void copy_patch(uint32_t to, const CUtensorMap *map, int channel, int x, int y,
                                           int sample, uint64_t *barrier)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, "
                 "{%2, %3, %4, %5}], [%6];\n" ::"r"(to),
                 "l"(map), "r"(channel), "r"(x), "r"(y), "r"(sample), "r"(sv_shared_address(barrier))
                 : "memory");
}

struct stream_barriers {
    uint64_t patch_full[MOST_PATCHES], patch_empty[MOST_PATCHES], weight_full[8], weight_empty[8], lead;
};

/* The copying warp. Lanes below UNITS each copy the patches of one unit. */
template <int N>
__device__ __forceinline__ void feed(const conv_job &job, const patch_shape &patches, const CUtensorMap *map,
                                     stream_barriers *barriers, uint32_t patch_base, uint32_t weight_base)
{
    using shape = stream_shape<N>;
    const int lane = threadIdx.x % 32, steps = job.taps * job.slabs, loads = steps / patches.taps;
    ring_place patch = {0, 1}, weight = {0, 1}; /* nothing to wait for in the first turn */
    pass_range range(job);
    while (range.next()) {
        const unsigned char *w =
            (const unsigned char *)job.w + (int64_t)range.column * steps * shape::WEIGHT_BYTES;
        const bool own = lane < range.count;
        const unit_place place = find_unit(job, range.first + (own ? lane : 0));
        int ky = 0, kx = 0, channel = 0;
        for (int load = 0; load < loads; load++) {
            sv_stage_wait(&barriers->patch_empty[patch.slot], patch.turn);
            if (lane == 0) expect(&barriers->patch_full[patch.slot], range.count * patches.bytes);
            __syncwarp();
            if (own)
                copy_patch(patch_base + (patch.slot * UNITS + lane) * patches.room, map, channel,
                           place.x * job.stride - job.pad + kx, place.y * job.stride - job.pad + ky,
                           place.sample, &barriers->patch_full[patch.slot]);
            patch.step(patches.slots);
            if (patches.taps > 1) {
                channel += SV_TILE_K;
            } else if (++kx == job.kernel) {
                kx = 0;
                if (++ky == job.kernel) {
                    ky = 0;
                    channel += SV_TILE_K;
                }
            }
            for (int tap = 0; tap < patches.taps; tap++) {
                sv_stage_wait(&barriers->weight_empty[weight.slot], weight.turn);
                if (lane == 0) {
                    expect(&barriers->weight_full[weight.slot], shape::WEIGHT_BYTES);
                    copy_weights(weight_base + weight.slot * shape::WEIGHT_BYTES, w, shape::WEIGHT_BYTES,
                                 &barriers->weight_full[weight.slot]);
                }
                w += shape::WEIGHT_BYTES;
                weight.step(shape::WEIGHT_SLOTS);
            }
        }
    }
}

/* The products of a pass for OWN units of a warpgroup. */
template <typename T, int N, int OWN>
__device__ __forceinline__ void multiply_pass(float (&d)[UNITS / GROUPS][N / 2], const conv_job &job,
                                              const patch_shape &patches, stream_barriers *barriers,
                                              uint32_t patch_base, uint32_t weight_base, ring_place &patch,
                                              ring_place &weight, bool &leads)
{
    using shape = stream_shape<N>;
    const int group = threadIdx.x / GROUP_THREADS, loads = job.taps * job.slabs / patches.taps;
    const bool speaks = threadIdx.x % 32 == 0;
    const uint32_t high = 1u << 30 | (uint32_t)(patches.edge * SV_TILE_ROW_BYTES) >> 4;
    uint64_t *used_weight = NULL, *used_patch = NULL; /* by the products before */
    int steps = 0;
#pragma unroll
    for (int u = 0; u < OWN; u++)
#pragma unroll
        for (int i = 0; i < N / 2; i++) d[u][i] = 0.0f;
    for (int load = 0; load < loads; load++) {
        sv_stage_wait(&barriers->patch_full[patch.slot], patch.turn);
        const uint32_t slot = patch_base + (patch.slot * UNITS + group) * patches.room;
        int kx = 0;
        uint32_t shift = 0;
        for (int tap = 0; tap < patches.taps; tap++) {
            sv_stage_wait(&barriers->weight_full[weight.slot], weight.turn);
            if constexpr (OWN > 0) {
                const uint32_t right = sv_tile_place(weight_base + weight.slot * shape::WEIGHT_BYTES);
                sv_tile_begin();
#pragma unroll
                for (int k = 0; k < SV_TILE_K / 16; k++)
#pragma unroll
                    for (int u = 0; u < OWN; u++) {
                        const uint32_t at = slot + u * GROUPS * patches.room + shift + 32 * k;
                        const uint32_t more = BASE_MODE ? (at >> 7 & 7) << 17 : 0;
                        wgmma<N, T>::multiply(d[u], (uint64_t)(high | more) << 32 | sv_tile_place(at),
                                              sv_tile_descriptor(right + 2 * k));
                    }
                sv_tile_end();
                sv_tile_wait<1>();
            }
            if (speaks && used_weight) arrive(used_weight);
            if (speaks && used_patch) arrive(used_patch);
            used_weight = &barriers->weight_empty[weight.slot];
            used_patch = NULL;
            weight.step(shape::WEIGHT_SLOTS);
            shift += SV_TILE_ROW_BYTES;
            if (++kx == job.kernel) {
                kx = 0;
                shift += (patches.edge - job.kernel) * SV_TILE_ROW_BYTES;
            }
            if (leads && ++steps >= patches.skew) {
                leads = false;
                if (threadIdx.x == 0) arrive(&barriers->lead);
            }
        }
        used_patch = &barriers->patch_empty[patch.slot];
        patch.step(patches.slots);
    }
    if constexpr (OWN > 0) sv_tile_wait<0>();
    if (speaks) {
        arrive(used_weight);
        arrive(used_patch);
    }
    if (leads) {
        leads = false;
        if (threadIdx.x == 0) arrive(&barriers->lead);
    }
}

/* A warp's 16 rows by CHUNK columns, from 'column' on, to the maps. 'sums' has rows of CHUNK_PITCH. */
template <typename T>
__device__ __forceinline__ void put_chunk(const conv_job &job, const float *sums, unit_place place, int phase,
                                          int column)
{
    const int lane = threadIdx.x % 32, line = threadIdx.x / 32 % 4 * 2; /* of the unit */
    auto cell_of = [&](const part_job &p, int row, int64_t &cell) {
        int y = place.y + line + row / UNIT_EDGE, x = place.x + row % UNIT_EDGE;
        if (y >= job.work_height || x >= job.work_width) return false;
        y = y * job.up + phase / job.up;
        x = x * job.up + phase % job.up;
        cell = ((int64_t)place.sample * p.y.size + y) * p.x.size + x;
        return true;
    };
    for (int q = 0; q < job.parts; q++) {
        const part_job &p = job.part[q];
        int64_t cell;
        if (p.column + p.channels <= column || p.column >= column + CHUNK) continue;
        if (p.channels % 8 == 0 && p.out_first % 8 == 0) {
            const int own = column + lane % 4 * 8;
            if (own < p.column || own >= p.column + p.channels) continue;
            __align__(16) float bias[8], scale[8], value[8];
#pragma unroll
            for (int i = 0; i < 8; i += 4) {
                *(float4 *)&bias[i] = *(const float4 *)&job.bias[own + i];
                *(float4 *)&scale[i] = *(const float4 *)&job.scale[own + i];
            }
#pragma unroll
            for (int row = lane / 4; row < 16; row += 8) {
                if (!cell_of(p, row, cell)) continue;
                *(float4 *)&value[0] = *(const float4 *)&sums[row * CHUNK_PITCH + lane % 4 * 8];
                *(float4 *)&value[4] = *(const float4 *)&sums[row * CHUNK_PITCH + lane % 4 * 8 + 4];
                put<T, 1, 8>(p, value, bias, scale, cell, own - p.column);
            }
        } else {
            const int own = column + lane;
            if (own < p.column || own >= p.column + p.channels) continue;
            const float bias = job.bias[own], scale = job.scale[own];
            for (int row = 0; row < 16; row++)
                if (cell_of(p, row, cell))
                    put<T, 1, 1>(p, &sums[row * CHUNK_PITCH + lane], &bias, &scale, cell, own - p.column);
        }
    }
}

template <typename T, int N, int OWN>
__device__ __forceinline__ void write_pass(const float (&d)[UNITS / GROUPS][N / 2], const conv_job &job,
                                           const pass_range &range, float *sums)
{
    const int lane = threadIdx.x % 32, group = threadIdx.x / GROUP_THREADS;
    const int n_tile = range.column % job.n_tiles, phase = range.column / job.n_tiles;
    unit_place place = {};
#pragma unroll 1
    for (int piece = 0; piece < OWN * (N / CHUNK); piece++) {
        const int own = piece / (N / CHUNK), chunk = piece % (N / CHUNK);
        if (chunk == 0) place = find_unit(job, range.first + group + own * GROUPS);
#pragma unroll
        for (int u = 0; u < OWN; u++)
#pragma unroll
            for (int c = 0; c < N / CHUNK; c++)
                if (u == own && c == chunk)
#pragma unroll
                    for (int j = 0; j < CHUNK / 8; j++)
#pragma unroll
                        for (int h = 0; h < 2; h++) {
                            const float *from = &d[u][4 * (c * (CHUNK / 8) + j) + 2 * h];
                            *(float2 *)&sums[(lane / 4 + 8 * h) * CHUNK_PITCH + 8 * j + lane % 4 * 2] =
                                make_float2(from[0], from[1]);
                        }
        __syncwarp();
        put_chunk<T>(job, sums, place, phase, n_tile * N + chunk * CHUNK);
        __syncwarp();
    }
}

#endif

template <typename T, int N>
__global__ void __launch_bounds__(STREAM_THREADS, 1)
    conv_stream(const __grid_constant__ conv_job job, const __grid_constant__ patch_shape patches,
                const __grid_constant__ CUtensorMap map)
{
#ifdef SV_TILE_WGMMA
    using shape = stream_shape<N>;
    extern __shared__ unsigned char dynamic[];
    __shared__ stream_barriers barriers;
    const uint32_t unaligned = sv_shared_address(dynamic), patch_base = (unaligned + 1023) & ~1023u,
                   weight_base = patch_base + shape::PATCH_BYTES;
    const int tid = threadIdx.x;
    if (tid == 0) {
        for (int i = 0; i < MOST_PATCHES; i++) {
            open_barrier(&barriers.patch_full[i], 1);
            open_barrier(&barriers.patch_empty[i], THREADS / 32);
        }
        for (int i = 0; i < shape::WEIGHT_SLOTS; i++) {
            open_barrier(&barriers.weight_full[i], 1);
            open_barrier(&barriers.weight_empty[i], THREADS / 32);
        }
        open_barrier(&barriers.lead, 1);
        asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
    }
    __syncthreads();
    if (tid >= THREADS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;\n");
        if (tid < THREADS + 32) feed<N>(job, patches, &map, &barriers, patch_base, weight_base);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;\n");
        float *sums = (float *)(dynamic + (weight_base - unaligned) + shape::WEIGHT_SLOTS * shape::WEIGHT_BYTES) +
                      tid / 32 * 16 * CHUNK_PITCH;
        const int group = tid / GROUP_THREADS;
        ring_place patch = {0, 0}, weight = {0, 0};
        float d[UNITS / GROUPS][N / 2];
        pass_range range(job);
        bool leads = group == 0;
        if (group == 1 && range.at < range.last) sv_stage_wait(&barriers.lead, 0);
        while (range.next()) {
            const int own = (range.count - group + GROUPS - 1) / GROUPS;
            if (own == 2) {
                multiply_pass<T, N, 2>(d, job, patches, &barriers, patch_base, weight_base, patch, weight, leads);
                write_pass<T, N, 2>(d, job, range, sums);
            } else if (own == 1) {
                multiply_pass<T, N, 1>(d, job, patches, &barriers, patch_base, weight_base, patch, weight, leads);
                write_pass<T, N, 1>(d, job, range, sums);
            } else {
                multiply_pass<T, N, 0>(d, job, patches, &barriers, patch_base, weight_base, patch, weight, leads);
            }
        }
        for (int q = 0; q < job.parts; q++) {
            const part_job &p = job.part[q];
            if (!p.ring) continue;
            const int ring = p.ring[1], before = p.ring[0];
            for (int i = blockIdx.x; i < ring; i += gridDim.x)
                fill_tile<T, 1>(p, p.ring[LIST_HEAD + before + i]);
        }
    }
#endif
}

/* ---- on the host --------------------------------------------------------------------------------------- */

typedef PFN_cuTensorMapEncodeTiled_v12000 encode_map;

/* The driver's function for tensor maps; NULL where conv_stream has no code for this GPU. */
template <typename T, int N> sv_status find_stream(sv_ctx *c, encode_map *encode)
{
    *encode = NULL;
    cudaFuncAttributes kernel;
    SV_CUDA_TRY(c, "chain_prepare", cudaFuncGetAttributes(&kernel, conv_stream<T, N>));
    if (kernel.sharedSizeBytes == 0) return SV_OK; /* no barriers: compiled for another architecture */
    void *function = NULL;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t error =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
    SV_CUDA_TRY(c, "chain_prepare", error);
    SV_CHECK(c, found == cudaDriverEntryPointSuccess && function, SV_DEVICE,
             "chain: the driver has no cuTensorMapEncodeTiled; it must know CUDA 12");
    SV_CUDA_TRY(c, "chain_prepare",
                cudaFuncSetAttribute(conv_stream<T, N>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     stream_shape<N>::BYTES));
    *encode = (encode_map)function;
    return SV_OK;
}

/* The input of a job as patches are copied from it. */
template <typename T>
bool encode_patches(encode_map encode, CUtensorMap *map, const conv_job &job, const patch_shape &patches, int batch)
{
    const cuuint64_t cell = (cuuint64_t)job.in_pitch * sizeof(T), width = (cuuint64_t)job.in_width,
                     height = (cuuint64_t)job.in_height;
    const cuuint64_t size[4] = {(cuuint64_t)job.in_channels, width, height, (cuuint64_t)batch},
                     bytes[3] = {cell, cell * width, cell * width * height};
    const cuuint32_t stride = (cuuint32_t)job.stride, span = ((cuuint32_t)patches.edge - 1) * stride + 1;
    const cuuint32_t box[4] = {SV_TILE_K, span, span, 1}, step[4] = {1, stride, stride, 1};
    const CUtensorMapDataType type = std::is_same<T, __half>::value ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                                    : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    return encode(map, type, 4, (void *)job.in, size, bytes, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

} // namespace

#endif
