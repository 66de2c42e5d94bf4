/* SPDX-License-Identifier: Apache-2.0
 *
 * What a GPU can do at most (peak.h): multiply-adds from registers, the tile product that linear layers and
 * convolutions are made of (tile.cuh) on tiles that stay where they are, and a copy.
 */
#include "tile.cuh"
#include "launch.cuh"

#include "peak.h"

enum { CHAINS = 8, ROUNDS = 4096, TILE_ROUNDS = 512, TILE_EACH = 4, TILE_THREADS = 128, RUNS = 6 };
enum { LEFT = 64, RIGHT = 128, SHARED_BYTES = (LEFT + RIGHT) * SV_TILE_ROW_BYTES + 1024 };
enum { BLOCKS_EACH = 8 }; /* of a multiprocessor */

namespace {

__global__ void __launch_bounds__(SV_CUDA_THREADS) multiply_add(float *out, float factor, float step)
{
    float x[CHAINS], sum = 0;
#pragma unroll
    for (int k = 0; k < CHAINS; k++) x[k] = (float)(threadIdx.x + k);
    for (int i = 0; i < ROUNDS; i++)
#pragma unroll
        for (int k = 0; k < CHAINS; k++) x[k] = fmaf(x[k], factor, step);
#pragma unroll
    for (int k = 0; k < CHAINS; k++) sum += x[k];
    if (sum == -1.0f) *out = sum; /* never, which the compiler cannot know */
}

/* 64 x 128 sums of TILE_EACH x 64 products a round. */
template <typename T> __global__ void __launch_bounds__(TILE_THREADS) multiply_tiles(float *out)
{
    extern __shared__ __align__(16) unsigned char memory[];
    const uint32_t base = (sv_shared_address(memory) + 1023) & ~1023u;
    T *numbers = (T *)(memory + (base - sv_shared_address(memory)));
    for (int i = threadIdx.x; i < (LEFT + RIGHT) * SV_TILE_K; i += TILE_THREADS) {
        const uint32_t mixed = ((uint32_t)i + 1) * 2654435761u; /* -1 to 1: zeros would cost less power */
        numbers[i] = sv_narrow<T>((float)(mixed >> 8) * 0x1p-23f - 1.0f);
    }
    sv_tile_publish();
    __syncthreads();
    float sums[RIGHT / 2] = {};
    for (int i = 0; i < TILE_ROUNDS; i++) {
        sv_tile_begin();
#pragma unroll
        for (int k = 0; k < TILE_EACH; k++)
            sv_tile_multiply<T, RIGHT>(sums, base, base + LEFT * SV_TILE_ROW_BYTES);
        sv_tile_end();
        sv_tile_wait<0>();
    }
    float sum = 0;
#pragma unroll
    for (int i = 0; i < RIGHT / 2; i++) sum += sums[i];
    if (sum == 0x1p-100f) *out = sum;
}

/* Seconds of the fastest run of what 'enqueue' enqueues. */
template <typename F> sv_status fastest(sv_ctx *c, double *seconds, F enqueue)
{
    *seconds = 0;
    for (int i = 0; i <= RUNS; i++) { /* the first one loads the code */
        SV_TRY(c->device->stamp(c, 0));
        SV_TRY(enqueue());
        SV_TRY(c->device->stamp(c, 1));
        SV_TRY(c->device->queue_wait(c));
        const double took = 1e-3 * c->device->stamp_ms(c, 0, 1);
        if (i > 0 && (i == 1 || took < *seconds)) *seconds = took;
    }
    return SV_OK;
}

sv_status measure(sv_ctx *c, sv_ceilings *out, unsigned char *from, unsigned char *to)
{
    int multiprocessors = 0;
    double seconds = 0;
    SV_CUDA_TRY(c, "multiprocessors",
                cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, c->device_index));
    const unsigned blocks = (unsigned)(BLOCKS_EACH * multiprocessors);
    SV_TRY(fastest(c, &seconds, [&] {
        multiply_add<<<blocks, SV_CUDA_THREADS, 0, sv_cuda_stream(c)>>>((float *)to, 0.999f, 1e-3f);
        return SV_CUDA_LAUNCHED(c, "multiply-adds");
    }));
    out->vector_gflops = 2e-9 * CHAINS * ROUNDS * SV_CUDA_THREADS * blocks / seconds;

    const auto tiles = c->precision == SV_BF16_MATH ? multiply_tiles<__nv_bfloat16> : multiply_tiles<__half>;
    SV_TRY(sv_cuda_reserve(c, "tile products", tiles, SHARED_BYTES));
    SV_TRY(fastest(c, &seconds, [&] {
        tiles<<<blocks, TILE_THREADS, SHARED_BYTES, sv_cuda_stream(c)>>>((float *)to);
        return SV_CUDA_LAUNCHED(c, "tile products");
    }));
    out->matrix_products = c->precision == SV_FP32 ? 3 : 1;
    out->matrix_gflops =
        2e-9 * LEFT * RIGHT * SV_TILE_K * TILE_EACH * TILE_ROUNDS * blocks / seconds / out->matrix_products;

    SV_TRY(c->device->fill(c, from, 1, SV_PEAK_BYTES));
    SV_TRY(fastest(c, &seconds, [&] { return c->device->copy(c, to, from, SV_PEAK_BYTES); }));
    out->copy_gb = 2e-9 * SV_PEAK_BYTES / seconds;
    return SV_OK;
}

} // namespace

sv_status sv_cuda_ceilings(sv_ctx *c, sv_ceilings *out)
{
    *out = sv_ceilings{};
    unsigned char *from = (unsigned char *)c->device->alloc(SV_PEAK_BYTES),
                  *to = (unsigned char *)c->device->alloc(SV_PEAK_BYTES);
    const sv_status status = from && to ? measure(c, out, from, to)
                                        : SV_FAIL(c, SV_NO_MEMORY, "no memory for a copy of %d MiB on %s",
                                                  SV_PEAK_BYTES >> 20, c->device->name);
    c->device->free(from);
    c->device->free(to);
    return status;
}
