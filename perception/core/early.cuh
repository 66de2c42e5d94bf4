/* SPDX-License-Identifier: Apache-2.0
 *
 * Chains of small kernels: each is launched by sv_launch_next() or sv_launch_early() and begins with
 * sv_begin_early(), so that its blocks stand ready when the one before it ends.
 */
#ifndef SV_EARLY_CUH
#define SV_EARLY_CUH

#include "launch.cuh"

#include <utility>

#ifdef __CUDACC__

/* Everything the kernels before wrote is there after this. Nothing but a kernel's arguments and weights
 * may be read before, and nothing be written. */
static __device__ __forceinline__ void sv_begin_early()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

/* The same, and the next kernel of the stream takes its place meanwhile. Only where that one's blocks and
 * this one's are few: blocks that wait slow those down that work. */
static __device__ __forceinline__ void sv_begin_early_of_few()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
    sv_begin_early();
}

/* sv_launch_early() for kernels of any arguments. */
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

#endif
#endif
