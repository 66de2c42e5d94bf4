/* SPDX-License-Identifier: Apache-2.0
 *
 * Launching kernels that wait for those before them themselves (griddepcontrol on Hopper), so that their blocks stand ready
 * when the one before ends, and kernels whose blocks go from item to item.
 */
#ifndef SV_LAUNCH_CUH
#define SV_LAUNCH_CUH

#include "cuda.cuh"
#include "room.h"

#include <utility>

#ifdef __CUDACC__

/* Everything the kernels before this one wrote is there after this. Nothing but a kernel's arguments and weights may be read
 * before, and nothing be written. */
static __device__ __forceinline__ void sv_wait_before()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}
/* The blocks of the next kernel may come as soon as there is room. What that one reads before it waits itself must be older than
 * this kernel. */
static __device__ __forceinline__ void sv_announce()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}
/* Both; only where the next kernel's blocks and this one's are few: blocks that wait slow those down that work. */
static __device__ __forceinline__ void sv_wait_before_of_few()
{
    sv_announce();
    sv_wait_before();
}

/* That no kernel of a block takes more than what its ..._fits() asks for. */
constexpr bool sv_within(int room, int first, int second, int third = 0)
{
    return first <= room && second <= room && third <= room;
}

/* Lets 'kernel' be launched with so much shared memory; an error that names both figures where the GPU has less. */
template <typename function>
static sv_status sv_cuda_reserve(sv_ctx *c, const char *what, function *kernel, size_t bytes)
{
    const int most = sv_cuda_block_bytes(c);
    SV_CHECK(c, bytes <= (size_t)most, SV_UNSUPPORTED,
             "%s: takes %zu bytes of shared memory, of which a block on this GPU has %d; use --device cpu",
             what, bytes, most);
    SV_CUDA_TRY(c, what,
                cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    return SV_OK;
}

/* A kernel that waits for those before it (sv_wait_before), and so may be launched while those drain. */
template <typename... Parameters, typename... Arguments>
static sv_status sv_launch_next(sv_ctx *c, const char *what, void (*kernel)(Parameters...), dim3 grid,
                                int threads, int bytes, Arguments &&...arguments)
{
    SV_TRY(sv_cuda_reserve(c, what, kernel, (size_t)bytes));
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = (size_t)bytes;
    config.stream = sv_cuda_stream(c);
    config.attrs = &early;
    config.numAttrs = 1;
    SV_CUDA_TRY(c, what, cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
    return SV_OK;
}
/* The same of a kernel with one argument, a job. */
template <typename job>
static sv_status sv_launch_early(sv_ctx *c, const char *what, void (*kernel)(job), const job &argument,
                                 dim3 grid, int threads, int bytes)
{
    return sv_launch_next(c, what, kernel, grid, threads, bytes, argument);
}

/* As sv_launch_early(), with as many blocks as the GPU holds at once, or 'items' if those are fewer: blocks go from item to item. */
template <typename job>
static sv_status sv_launch_resident(sv_ctx *c, const char *what, void (*kernel)(job), const job &argument,
                                    int items, int threads, int bytes)
{
    int processors = 0, blocks = 0;
    SV_TRY(sv_cuda_reserve(c, what, kernel, (size_t)bytes));
    SV_CUDA_TRY(c, what,
                cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, c->device_index));
    SV_CUDA_TRY(c, what,
                cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, (size_t)bytes));
    const int resident = processors * blocks;
    return sv_launch_early(c, what, kernel, argument, dim3((unsigned)(items < resident ? items : resident)),
                           threads, bytes);
}

#endif
#endif
