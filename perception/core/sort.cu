/* SPDX-License-Identifier: Apache-2.0
 *
 * Radix sort and running sum by CUB, kept in one file (its templates compile slowly). Both work on
 * integers, whose result does not depend on the order of the work, and take their workspace from the
 * scratch arena.
 */
#include "cuda.cuh"

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

sv_status sv_cuda_pairs_alloc(sv_ctx *c, sv_cuda_pairs *out, int count)
{
    void *keys = NULL, *values = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "sort keys", (size_t)count * sizeof(uint64_t), &keys));
    SV_TRY(sv_arena_alloc(c, &c->scratch, "sort values", (size_t)count * sizeof(int32_t), &values));
    out->keys = (uint64_t *)keys;
    out->values = (int32_t *)values;
    out->count = count;
    return SV_OK;
}

sv_status sv_cuda_sort(sv_ctx *c, sv_cuda_pairs *out, sv_cuda_pairs in, int bits)
{
    SV_TRY(sv_cuda_pairs_alloc(c, out, in.count));
    if (in.count == 0) return SV_OK;
    size_t bytes = 0;
    SV_CUDA_TRY(c, "sort",
                cub::DeviceRadixSort::SortPairs(nullptr, bytes, in.keys, out->keys, in.values, out->values,
                                                in.count, 0, bits));
    void *workspace = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "sort workspace", bytes, &workspace));
    SV_CUDA_TRY(c, "sort",
                cub::DeviceRadixSort::SortPairs(workspace, bytes, in.keys, out->keys, in.values, out->values,
                                                in.count, 0, bits, sv_cuda_stream(c)));
    return SV_OK;
}

sv_status sv_cuda_running_sum(sv_ctx *c, int32_t *sums, const int32_t *values, int count)
{
    if (count == 0) return SV_OK;
    size_t bytes = 0;
    SV_CUDA_TRY(c, "running sum", cub::DeviceScan::InclusiveSum(nullptr, bytes, values, sums, count));
    void *workspace = NULL;
    SV_TRY(sv_arena_alloc(c, &c->scratch, "scan workspace", bytes, &workspace));
    SV_CUDA_TRY(c, "running sum",
                cub::DeviceScan::InclusiveSum(workspace, bytes, values, sums, count, sv_cuda_stream(c)));
    return SV_OK;
}
