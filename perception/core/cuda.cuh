/* SPDX-License-Identifier: Apache-2.0
 *
 * What every .cu file shares. The rules of a primitive on the GPU, so that a frame can be recorded once and
 * replayed:
 *
 *   - no host read, no wait, no memory but the arenas';
 *   - a kernel is launched over the capacity and reads the live rows itself (sv_rows()); what lies beyond
 *     leaves at once and is neither read nor written;
 *   - the same bytes whatever the capacity, batch and history: no float atomics, sums in an order that the
 *     row fixes.
 *
 * Work is not counted (sv_count_work()): the host does not know the live rows.
 */
#ifndef SV_CUDA_CUH
#define SV_CUDA_CUH

#include "ops_cuda.h"

#include <cuda_runtime.h>

/* The context's stream. Also makes its GPU current: a context may have moved to a thread that used
 * another. */
cudaStream_t sv_cuda_stream(sv_ctx *c);
/* SV_OK for cudaSuccess, else SV_DEVICE with a sentence: "linear: cudaErrorX: what that means". */
sv_status sv_cuda_check(sv_ctx *c, cudaError_t error, const char *what, const char *file, int line);
#define SV_CUDA_TRY(c, what, call) SV_TRY(sv_cuda_check((c), (call), (what), __FILE__, __LINE__))
/* After a primitive's launches. */
#define SV_CUDA_LAUNCHED(c, what) sv_cuda_check((c), cudaGetLastError(), (what), __FILE__, __LINE__)

/* ---- launching ----------------------------------------------------------------------------------------- */

enum { SV_CUDA_THREADS = 256 };

#ifdef __CUDACC__
#define SV_CUDA_BOTH __host__ __device__
#else
#define SV_CUDA_BOTH
#endif

/* Blocks for one thread per item; at least one, since an empty grid is an error. */
static inline unsigned sv_cuda_blocks(int64_t items)
{
    const int64_t blocks = (items + SV_CUDA_THREADS - 1) / SV_CUDA_THREADS;
    return blocks < 1 ? 1u : (unsigned)blocks;
}

/*
 * Kernels over rows of numbers: a thread has every so many-th row and, of each, pieces of V numbers (4 where rows are
 * made of 16-byte pieces, else 1). Capacities are mostly empty, so there are at most as many blocks as a GPU holds a
 * few times, and each goes on through the live rows.
 */
enum { SV_CUDA_ROW_BLOCKS = 2048 };

static inline bool sv_cuda_in_fours(sv_tensor t)
{
    return t.pitch % 4 == 0 && t.dim[1] % 4 == 0 && (uintptr_t)t.data % 16 == 0;
}
/* Threads that share a row of 'pieces', and blocks for 'rows' of them. */
static SV_CUDA_BOTH inline int sv_row_lanes(int pieces)
{
    return pieces < SV_CUDA_THREADS ? pieces : (int)SV_CUDA_THREADS;
}
static inline unsigned sv_cuda_row_blocks(int rows, int pieces)
{
    const int each = SV_CUDA_THREADS / sv_row_lanes(pieces);
    const int blocks = (rows + each - 1) / each;
    return blocks < 1 ? 1u : blocks < SV_CUDA_ROW_BLOCKS ? (unsigned)blocks : (unsigned)SV_CUDA_ROW_BLOCKS;
}

#ifdef __CUDACC__
/* f(row, first number) for this thread's pieces of rows 0..rows-1 of 'channels' numbers. */
template <int V, typename F> static __device__ __forceinline__ void sv_each_piece(int rows, int channels, F f)
{
    const int pieces = channels / V, lanes = sv_row_lanes(pieces), each = SV_CUDA_THREADS / lanes;
    const int own = (int)threadIdx.x / lanes;
    if (own >= each) return;
    for (int row = (int)blockIdx.x * each + own; row < rows; row += (int)gridDim.x * each)
        for (int piece = (int)threadIdx.x % lanes; piece < pieces; piece += lanes) f(row, piece * V);
}

/* V numbers that lie together. */
template <int V> struct alignas(4 * V) sv_numbers {
    float at[V];
};
template <int V> static __device__ __forceinline__ sv_numbers<V> sv_read(const float *from)
{
    sv_numbers<V> n;
    if (V == 4)
        *(float4 *)n.at = *(const float4 *)from;
    else
        for (int i = 0; i < V; i++) n.at[i] = from[i];
    return n;
}
template <int V> static __device__ __forceinline__ void sv_write(float *to, const sv_numbers<V> &n)
{
    if (V == 4)
        *(float4 *)to = *(const float4 *)n.at;
    else
        for (int i = 0; i < V; i++) to[i] = n.at[i];
}

/* Live rows, never more than the capacity. */
static __device__ __forceinline__ int sv_rows(const sv_tensor &t)
{
    return t.offsets ? min(t.offsets[t.batch], t.dim[0]) : t.dim[0];
}

/* The number of this thread in a one-dimensional launch. */
static __device__ __forceinline__ int64_t sv_thread()
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

/* The sample b with offsets[b] <= row < offsets[b+1]; 'row' must be live. */
static __device__ __forceinline__ int sv_sample_of(const int32_t *offsets, int batch, int row)
{
    int low = 0, high = batch - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (offsets[middle] <= row)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* First place in sorted[0..count-1] whose value is not below 'value'. */
template <typename T>
static __device__ __forceinline__ int sv_lower_bound(const T *sorted, int count, T value)
{
    int low = 0, high = count;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (sorted[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}
#endif

#endif
