/* SPDX-License-Identifier: Apache-2.0
 *
 * The convolution of a chain on Hopper: the same products in the same order as conv_kernel (chain_conv.cuh), fed by a warp
 * that does nothing else (chain_pipe.cuh).
 *
 *     one block per multiprocessor      a pass: up to four units (fp32: two) of 8 x 8 cells by N output channels
 *
 *     copying warp           ring of patches: (8 + kernel - 1)^2 cells x 64 channels of each unit
 *       tensor copies  --->  ring of weights: one tap, 64 channels x N
 *                                     |
 *     two warpgroups         units 0, 2 | 1, 3: for each 64 input channels, for each tap
 *                              sums += patch shifted by the tap x weights
 *
 * A patch is copied once per slab of 64 channels and read by all taps: a tap's 64 rows are eight lines of eight neighbouring
 * cells, which the tensor cores find from where the first begins and how far apart the lines lie. Swizzling follows the bits
 * of the address in shared memory, so that any cell can be the first. Where the stride is not one, or the patch too large, it
 * holds the 8 x 8 cells of one tap. What lies outside the map the copy fills with zeros.
 *
 * Weights are shared by the units of a pass: 16 KiB of them for 256 x 128 x 64 products, since neither the second-level cache
 * nor shared memory could feed the tensor cores otherwise. Warpgroups wait for each other only through the rings; the second
 * starts some steps behind, so that one multiplies while the other writes its sums out. Units are spread over the blocks
 * evenly and in order: a block has as many as any other, or one more.
 *
 * A layer's blocks come as soon as those of the layer before leave room, find their units and copy their first weights; only
 * then they wait for its maps (griddepcontrol).
 */
#ifndef SV_CHAIN_STREAM_CUH
#define SV_CHAIN_STREAM_CUH

#include "chain_pipe.cuh"
#include "chain_write.cuh"

#include <cudaTypedefs.h>

#include <type_traits>

namespace {

#ifdef SV_TILE_WGMMA

struct stream_barriers {
    uint64_t patch_full[MOST_PATCHES], patch_empty[MOST_PATCHES], weight_full[MOST_WEIGHTS],
        weight_empty[MOST_WEIGHTS];
    uint64_t begun; /* the first warpgroup, by so much that the second may begin */
};

/* What else lies in shared memory: the units of the passes under way, and the rules of a warpgroup's columns. */
template <int PLANES, int N> struct stream_notes {
    unit_cells unit[PASS_SLOTS][stream_shape<PLANES, N>::UNITS];
    column_rule rule[GROUPS][N / 2];
};

/* The copying warp: its first lanes copy the patches of one unit each. Units are found and the first weights copied before the
 * maps are there. */
template <int PLANES, int N>
__device__ __forceinline__ void feed(const conv_job &job, const patch_shape &patches, const CUtensorMap *map,
                                     stream_barriers *barriers, stream_notes<PLANES, N> *notes,
                                     uint32_t patch_base, uint32_t weight_base)
{
    using shape = stream_shape<PLANES, N>;
    const int lane = threadIdx.x % 32, steps = job.taps * job.slabs, loads = steps / patches.taps;
    sv_ring patch = {0, 1}, weight = {0, 1}, pass = {0, 0}; /* nothing to wait for in the first turn */
    auto copy_weights = [&](const unsigned char *w, int slot) {
        sv_barrier_expect(&barriers->weight_full[slot], shape::WEIGHT_BYTES);
        sv_pipe_copy(weight_base + slot * shape::WEIGHT_BYTES, w, shape::WEIGHT_BYTES,
                     &barriers->weight_full[slot]);
    };
    if (lane == 0) sv_pipe_prefetch(map);
    int early = -1; /* weights that were copied before the maps were there; -1: not yet */
    pass_range<shape::UNITS> range(job);
    while (range.next()) {
        const unsigned char *w =
            (const unsigned char *)job.w + (int64_t)range.column * steps * shape::WEIGHT_BYTES;
        const bool own = lane < range.count;
        unit_place place = {};
        if (own) place = find_unit(job, range.first + lane);
        if (early < 0) {
            early = min((int)shape::WEIGHT_SLOTS, steps);
            if (lane == 0)
#pragma unroll 1
                for (int i = 0; i < early; i++) copy_weights(w + i * shape::WEIGHT_BYTES, i);
            sv_maps_wait();
        }
        int ky = 0, kx = 0, channel = 0;
#pragma unroll 1
        for (int load = 0; load < loads; load++) {
            sv_stage_wait(&barriers->patch_empty[patch.slot], patch.turn);
            if (load == 0) {
                if (own) notes->unit[pass.slot][lane].find(job, place, range.column / job.n_tiles);
                pass.step(PASS_SLOTS);
                __syncwarp();
            }
            if (lane == 0)
                sv_barrier_expect(&barriers->patch_full[patch.slot], range.count * PLANES * patches.bytes);
            __syncwarp();
            if (own)
#pragma unroll
                for (int p = 0; p < PLANES; p++)
                    sv_pipe_copy_box(
                        patch_base + ((patch.slot * shape::UNITS + lane) * PLANES + p) * patches.room, map,
                        channel, p, place.x * job.stride - job.pad + kx, place.y * job.stride - job.pad + ky,
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
#pragma unroll 1
            for (int tap = 0; tap < patches.taps; tap++) {
                if (early > 0) {
                    early--;
                } else {
                    sv_stage_wait(&barriers->weight_empty[weight.slot], weight.turn);
                    if (lane == 0) copy_weights(w, weight.slot);
                }
                w += shape::WEIGHT_BYTES;
                weight.step(shape::WEIGHT_SLOTS);
            }
        }
    }
}

/* The 64 rows of 16 numbers that the tensor cores read from 'address' on: eight lines of eight cells. */
__device__ __forceinline__ uint64_t patch_rows(uint32_t address, uint32_t line_bytes)
{
    return (uint64_t)(1u << 30 | line_bytes >> 4) << 32 | sv_tile_place(address);
}

/* Where a warpgroup that multiplies stands. */
struct reader {
    uint32_t patches, weights; /* shared addresses of the rings */
    sv_ring patch, weight, pass;
    int column; /* whose rules are there; -1: none */
    int lead;   /* steps until the second warpgroup may begin; 0: it has */
};

/* One step for OWN units: the 64 x N products of 64 channels at a tap. 'a' is where the first unit's patch begins. */
template <typename T, int N, int OWN, int MOST>
__device__ __forceinline__ void multiply_step(float (&d)[MOST][N / 2], uint32_t a, int next_unit,
                                              uint32_t lines, uint32_t b)
{
    const uint32_t right = sv_tile_place(b);
    sv_tile_begin();
#pragma unroll
    for (int k = 0; k < SV_TILE_K / 16; k++)
#pragma unroll
        for (int u = 0; u < OWN; u++)
            wgmma<N, T>::multiply(d[u], patch_rows(a + u * next_unit + 32 * k, lines),
                                  sv_tile_descriptor(right + 2 * k));
    sv_tile_end();
}

/* The same of numbers in two planes: small products first, and after half a step the sums of the tensor cores, which cut
 * off towards zero, are added as usual (chain_conv.cuh). Waits for the products. */
template <typename T, int N>
__device__ __forceinline__ void multiply_planes_step(float (&total)[N / 2], uint32_t a, int low,
                                                     uint32_t lines, uint32_t b)
{
    float d[N / 2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            d[i] = 0.0f;
            asm volatile("" : "+f"(d[i])); /* now, not behind the fence that begins the products */
        }
        sv_tile_begin();
#pragma unroll
        for (int product = 0; product < 3; product++) {
            const uint32_t left = a + (product == 1 ? low : 0),
                           right = sv_tile_place(b + (product == 0 ? N * SV_TILE_ROW_BYTES : 0));
#pragma unroll
            for (int k = 2 * half; k < 2 * half + 2; k++)
                wgmma<N, T>::multiply(d, patch_rows(left + 32 * k, lines), sv_tile_descriptor(right + 2 * k));
        }
        sv_tile_end();
        sv_tile_wait<0>();
#pragma unroll
        for (int i = 0; i < N / 2; i++) total[i] += d[i];
    }
}

/* The sums of a pass for OWN units of a warpgroup. A warp gives a slot back when its products are done: with one plane
 * those of a step are waited for behind the next one's start. */
template <typename T, int PLANES, int N, int OWN, int MOST>
__device__ __forceinline__ void multiply_pass(float (&d)[MOST][N / 2], const conv_job &job,
                                              const patch_shape &patches, stream_barriers *barriers,
                                              reader &r)
{
    using shape = stream_shape<PLANES, N>;
    const int group = threadIdx.x / GROUP_THREADS, loads = job.taps * job.slabs / patches.taps;
    const int next_unit = GROUPS * PLANES * patches.room;
    const bool speaks = threadIdx.x % 32 == 0;
    const uint32_t lines = patches.edge * SV_TILE_ROW_BYTES;
    uint64_t *used_weight = NULL, *used_patch = NULL; /* by the step before */
#pragma unroll
    for (int u = 0; u < OWN; u++)
#pragma unroll
        for (int i = 0; i < N / 2; i++) d[u][i] = 0.0f;
#pragma unroll 1
    for (int load = 0; load < loads; load++) {
        sv_stage_wait(&barriers->patch_full[r.patch.slot], r.patch.turn);
        uint32_t a = r.patches + (r.patch.slot * shape::UNITS + group) * PLANES * patches.room;
        int kx = 0;
#pragma unroll 1
        for (int tap = 0; tap < patches.taps; tap++) {
            sv_stage_wait(&barriers->weight_full[r.weight.slot], r.weight.turn);
            const uint32_t b = r.weights + r.weight.slot * shape::WEIGHT_BYTES;
            if constexpr (OWN > 0 && PLANES > 1) {
                multiply_planes_step<T, N>(d[0], a, patches.room, lines, b);
            } else if constexpr (OWN > 0) {
                multiply_step<T, N, OWN, MOST>(d, a, next_unit, lines, b);
                sv_tile_wait<1>();
            }
            if (speaks && used_weight) sv_barrier_arrive(used_weight);
            if (speaks && used_patch) sv_barrier_arrive(used_patch);
            used_weight = &barriers->weight_empty[r.weight.slot];
            used_patch = NULL;
            r.weight.step(shape::WEIGHT_SLOTS);
            a += SV_TILE_ROW_BYTES;
            if (++kx == job.kernel) {
                kx = 0;
                a += lines - job.kernel * SV_TILE_ROW_BYTES;
            }
            if (r.lead > 0 && --r.lead == 0 && threadIdx.x == 0) sv_barrier_arrive(&barriers->begun);
        }
        used_patch = &barriers->patch_empty[r.patch.slot];
        r.patch.step(patches.slots);
    }
    if constexpr (OWN > 0 && PLANES == 1) sv_tile_wait<0>();
    if (speaks) sv_barrier_arrive(used_weight);
    if (speaks) sv_barrier_arrive(used_patch);
}

/* Reads the rules of a tile of columns, by all of a warpgroup. */
template <int N>
__device__ __forceinline__ void read_rules(const conv_job &job, int first_column, column_rule *rules)
{
    const int tid = threadIdx.x % GROUP_THREADS;
    sv_group_wait<GROUP_THREADS>(1 + threadIdx.x / GROUP_THREADS); /* nobody needs those before */
    if (tid < N) {
        rules[tid / 2].scale[tid % 2] = __ldg(job.scale + first_column + tid);
        rules[tid / 2].bias[tid % 2] = __ldg(job.bias + first_column + tid);
    }
    sv_group_wait<GROUP_THREADS>(1 + threadIdx.x / GROUP_THREADS);
}

/* A pass of a warpgroup with 'own' units. */
template <typename T, int PLANES, int N>
__device__ __forceinline__ void make_pass(const conv_job &job, const patch_shape &patches,
                                          stream_barriers *barriers, stream_notes<PLANES, N> *notes, int own,
                                          int column, reader &r, float *sums)
{
    constexpr int MOST = stream_shape<PLANES, N>::OWN;
    float d[MOST][N / 2];
    if (own == 0) {
        multiply_pass<T, PLANES, N, 0, MOST>(d, job, patches, barriers, r);
        return;
    }
    const int group = threadIdx.x / GROUP_THREADS, first_column = column * N;
    const unit_cells *units = &notes->unit[r.pass.slot][group];
    column_rule *rules = notes->rule[group];
    if (column != r.column) read_rules<N>(job, first_column, rules);
    if (r.column < 0) sv_maps_wait();
    r.column = column;
    if constexpr (PLANES == 1)
        if (job.part[0].add && is_narrow<PLANES>(job)) {
            sv_stage_wait(&barriers->patch_full[r.patch.slot], r.patch.turn); /* the units are noted */
            fetch_all_added<T, N>(job, warp_cells(job, units[0]), first_column, (unsigned char *)sums);
        }
    if (MOST > 1 && own > 1)
        multiply_pass<T, PLANES, N, MOST, MOST>(d, job, patches, barriers, r);
    else
        multiply_pass<T, PLANES, N, 1, MOST>(d, job, patches, barriers, r);
    write_pass<T, PLANES, N, MOST>(d, own, job, units, rules, first_column, sums);
}

#endif

template <typename T, int PLANES, int N>
__global__ void __launch_bounds__(STREAM_THREADS, 1)
    conv_stream(const __grid_constant__ conv_job job, const __grid_constant__ patch_shape patches,
                const __grid_constant__ CUtensorMap map)
{
#ifdef SV_TILE_WGMMA
    using shape = stream_shape<PLANES, N>;
    extern __shared__ unsigned char dynamic[];
    __shared__ stream_barriers barriers;
    __shared__ stream_notes<PLANES, N> notes;
    __shared__ int lines_taken;
    const uint32_t unaligned = sv_shared_address(dynamic), patch_base = (unaligned + 1023) & ~1023u,
                   weight_base = patch_base + shape::PATCH_BYTES;
    const int tid = threadIdx.x, group = tid / GROUP_THREADS;
    if (tid == 0) {
        for (int i = 0; i < MOST_PATCHES; i++) {
            sv_barrier_open(&barriers.patch_full[i], 1);
            sv_barrier_open(&barriers.patch_empty[i], THREADS / 32);
        }
        for (int i = 0; i < shape::WEIGHT_SLOTS; i++) {
            sv_barrier_open(&barriers.weight_full[i], 1);
            sv_barrier_open(&barriers.weight_empty[i], THREADS / 32);
        }
        sv_barrier_open(&barriers.begun, 1);
        sv_barriers_publish();
        lines_taken = 0;
    }
    __syncthreads();
    if (group == GROUPS) {
        sv_registers_give<88>();
        if (tid < THREADS + 32)
            feed<PLANES, N>(job, patches, &map, &barriers, &notes, patch_base, weight_base);
        sv_maps_wait();
        fill_ring<T, PLANES>(job, &lines_taken);
    } else {
        sv_registers_take<208>();
        float *sums = (float *)(dynamic + (weight_base - unaligned) +
                                shape::WEIGHT_SLOTS * shape::WEIGHT_BYTES + tid / 32 * shape::RESULT_BYTES);
        pass_range<shape::UNITS> range(job);
        reader r = {patch_base, weight_base, {0, 0}, {0, 0}, {0, 0}, -1, group == 0 ? patches.skew : 0};
        if (group > 0 && range.at < range.last) sv_stage_wait(&barriers.begun, 0);
        while (range.next()) {
            const int own = (range.count - group + GROUPS - 1) / GROUPS, column = range.column % job.n_tiles;
            make_pass<T, PLANES, N>(job, patches, &barriers, &notes, own, column, r, sums);
            r.pass.step(PASS_SLOTS);
        }
        sv_maps_wait();
        fill_ring<T, PLANES>(job, &lines_taken);
    }
#endif
}

/* ---- on the host --------------------------------------------------------------------------------------- */

typedef PFN_cuTensorMapEncodeTiled_v12000 encode_map;

/* The driver's function for tensor maps; NULL where conv_stream has no code for this GPU. */
sv_status find_encode(sv_ctx *c, encode_map *encode)
{
    *encode = NULL;
    cudaFuncAttributes kernel;
    SV_CUDA_TRY(c, "chain_prepare", cudaFuncGetAttributes(&kernel, conv_stream<__half, 1, 128>));
    if (kernel.sharedSizeBytes == 0) return SV_OK; /* no barriers: compiled for another architecture */
    void *function = NULL;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                               cudaEnableDefault, &found);
#else
    const cudaError_t error =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
    SV_CUDA_TRY(c, "chain_prepare", error);
    SV_CHECK(c, found == cudaDriverEntryPointSuccess && function, SV_DEVICE,
             "chain: the driver has no cuTensorMapEncodeTiled; install one that knows CUDA 12");
    *encode = (encode_map)function;
    return SV_OK;
}

/* The input of a job as patches are copied from it. */
template <typename T, int PLANES>
bool encode_patches(encode_map encode, CUtensorMap *map, const conv_job &job, const patch_shape &patches,
                    int batch)
{
    const cuuint64_t plane = (cuuint64_t)job.in_pitch * sizeof(T), cell = PLANES * plane,
                     width = (cuuint64_t)job.in_width, height = (cuuint64_t)job.in_height;
    const cuuint64_t size[5] = {(cuuint64_t)job.in_channels, PLANES, width, height, (cuuint64_t)batch},
                     bytes[4] = {plane, cell, cell * width, cell * width * height};
    const cuuint32_t stride = (cuuint32_t)job.stride, span = ((cuuint32_t)patches.edge - 1) * stride + 1;
    const cuuint32_t box[5] = {SV_TILE_K, 1, span, span, 1}, step[5] = {1, 1, stride, stride, 1};
    const CUtensorMapDataType type =
        std::is_same<T, __half>::value ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    return encode(map, type, 5, (void *)job.in, size, bytes, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <typename K> sv_status allow(sv_ctx *c, K *kernel, int bytes)
{
    SV_CUDA_TRY(c, "chain_prepare",
                cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    return SV_OK;
}
template <typename T, int PLANES> sv_status allow_streams(sv_ctx *c)
{
    SV_TRY(allow(c, conv_stream<T, PLANES, 32>, stream_shape<PLANES, 32>::BYTES));
    SV_TRY(allow(c, conv_stream<T, PLANES, 64>, stream_shape<PLANES, 64>::BYTES));
    return allow(c, conv_stream<T, PLANES, 128>, stream_shape<PLANES, 128>::BYTES);
}

/* With 'lists_are_old' another kernel has run since the lists were made, and blocks may come before the kernel before has ended. */
template <typename T, int PLANES, int N>
sv_status stream(sv_ctx *c, encode_map encode, int multiprocessors, const conv_job &job, int batch,
                 bool lists_are_old)
{
    using shape = stream_shape<PLANES, N>;
    const patch_shape patches = shape_patches<PLANES, N>(job);
    CUtensorMap map;
    SV_CHECK(c, (encode_patches<T, PLANES>(encode, &map, job, patches, batch)), SV_DEVICE,
             "chain: the driver makes no tensor map for %d x %d x %d of kernel %d and stride %d",
             job.in_height, job.in_width, job.in_channels, job.kernel, job.stride);
    const int64_t most = (int64_t)job.work_tiles * TILE_UNITS * batch * job.n_tiles * job.phases;
    const int blocks = (int)(most < multiprocessors ? most : multiprocessors);
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = lists_are_old;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)blocks);
    config.blockDim = dim3(STREAM_THREADS);
    config.dynamicSmemBytes = shape::BYTES;
    config.stream = sv_cuda_stream(c);
    config.attrs = &early;
    config.numAttrs = 1;
    SV_CUDA_TRY(c, "chain_run", cudaLaunchKernelEx(&config, conv_stream<T, PLANES, N>, job, patches, map));
    return SV_OK;
}
template <typename T, int PLANES>
sv_status stream_columns(sv_ctx *c, encode_map encode, int multiprocessors, const conv_job &job, int batch,
                         int columns, bool lists_are_old)
{
    if (columns == 32) return stream<T, PLANES, 32>(c, encode, multiprocessors, job, batch, lists_are_old);
    if (columns == 64) return stream<T, PLANES, 64>(c, encode, multiprocessors, job, batch, lists_are_old);
    return stream<T, PLANES, 128>(c, encode, multiprocessors, job, batch, lists_are_old);
}

} // namespace

#endif
