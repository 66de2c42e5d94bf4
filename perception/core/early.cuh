/* SPDX-License-Identifier: Apache-2.0
 *
 * Chains of small kernels: each is launched by sv_launch_early() and begins with sv_begin_early(), so that its blocks stand ready
 * when the one before it ends.
 */
#ifndef SV_EARLY_CUH
#define SV_EARLY_CUH

#include "launch.cuh"

#ifdef __CUDACC__

/* Lets the next kernel of the stream take its place, then waits: everything the kernels before wrote is there after this. Nothing
 * but a kernel's arguments may be read or written before. */
static __device__ __forceinline__ void sv_begin_early()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n"
                 "griddepcontrol.wait;\n" ::
                     : "memory");
#endif
}

#endif
#endif
