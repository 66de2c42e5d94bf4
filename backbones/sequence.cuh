/* SPDX-License-Identifier: Apache-2.0
 *
 * What the sequence primitives on the GPU share: the rows and slots that a walk visits.
 */
#ifndef SV_SEQUENCE_CUH
#define SV_SEQUENCE_CUH

#include "perception/core/cuda.cuh"

/* The row an input of slot 'slot' lies in; negative: a row of zeros. */
static __device__ __forceinline__ int64_t sv_row_of(const int32_t *index, int64_t slot)
{
    return index ? index[slot] : slot;
}

/* The slot that walking step 'step' of a group visits. */
static __device__ __forceinline__ int64_t sv_slot_of(int64_t group, int length, int step, bool reverse)
{
    return group * length + (reverse ? length - 1 - step : step);
}

#endif
