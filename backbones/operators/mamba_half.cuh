/* SPDX-License-Identifier: Apache-2.0
 *
 * What the first and the last kernel of a Mamba block (mamba.cu) share where numbers are half floats and a
 * multiprocessor's shared memory holds their weights.
 */
#ifndef SV_MAMBA_HALF_CUH
#define SV_MAMBA_HALF_CUH

#include "mamba_block.cuh"
#include "perception/core/tile.cuh"

namespace {

/* x / (1 + e^-x), to 2^-11 of x: as much as a half float loses. */
__device__ __forceinline__ float half_silu(float x)
{
    const float half = 0.5f * x;
    float t;
    asm("tanh.approx.f32 %0, %1;\n" : "=f"(t) : "f"(half));
    return fmaf(half, t, half);
}

/* As sv_matrix_load(), each 8 by 8 halves transposed: r[i] is number lane/4 of rows 2 (lane%4) and the
 * next. */
__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

} // namespace

#endif
