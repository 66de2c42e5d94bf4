/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of tiles (tile.cuh) whose rows lie in registers, as memory gave them: 128 threads (four
 * warps) add 64 x N products of their 64 rows of 64 numbers with a tile of N rows in shared memory. A
 * thread holds 16 numbers of each of the rows lane/4 and lane/4 + 8 of its warp's sixteen, in two pieces
 * of eight that lie together in memory:
 *
 *     piece p of lane l: numbers 32 p + 8 (l%4) ... + 7
 *
 * which is another order than tensor cores count in. So the tile in shared memory has its numbers in the
 * order sv_tile_column().
 *
 * And barriers in shared memory by which one warp hands stages of such tiles to the others.
 */
#ifndef SV_TILE_ROWS_CUH
#define SV_TILE_ROWS_CUH

#include "tile.cuh"

#include <type_traits>

/* The number of a row's 64 that column 'at' of a tile in shared memory has. */
static inline int sv_tile_column(int at)
{
    const int step = at / 16, half = at / 8 % 2, quarter = at / 2 % 4;
    return step / 2 * 32 + quarter * 8 + step % 2 * 4 + half * 2 + at % 2;
}

#ifdef __CUDACC__

/* ---- products ------------------------------------------------------------------------------------------ */

/* Of rows lane/4 and lane/4 + 8: two pieces each. */
struct sv_tile_rows {
    uint4 piece[2][2];
};

/* What the tensor cores take for the step'th sixteen numbers. */
static __device__ __forceinline__ void sv_tile_step(uint32_t (&a)[4], const sv_tile_rows &rows, int step)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint4 &piece = rows.piece[h][step / 2];
        a[h] = step % 2 ? piece.z : piece.x;
        a[2 + h] = step % 2 ? piece.w : piece.y;
    }
}

#ifdef SV_TILE_WGMMA
#define SV_SUMS_8(i)                                                                                         \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),              \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define SV_SUMS_32(i) SV_SUMS_8(i), SV_SUMS_8(i + 8), SV_SUMS_8(i + 16), SV_SUMS_8(i + 24)
#define SV_PLACES_32                                                                                         \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "        \
    "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SV_PLACES_64                                                                                         \
    SV_PLACES_32                                                                                             \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, "      \
    "%51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SV_ROWS_PRODUCT(kinds, n, places, a0, sums)                                                          \
    asm volatile("{\n.reg .pred p;\nsetp.eq.u32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n" n               \
                 "k16.f32." kinds " {" places "}, " a0 ", p, 1, 1, 0;\n}\n"                                  \
                 : sums                                                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

template <typename T>
static __device__ __forceinline__ void sv_rows_product(float (&d)[32], const uint32_t (&a)[4], uint64_t b)
{
    if constexpr (std::is_same<T, __half>::value)
        SV_ROWS_PRODUCT("f16.f16", "64", SV_PLACES_32, "{%32, %33, %34, %35}, %36", SV_SUMS_32(0));
    else
        SV_ROWS_PRODUCT("bf16.bf16", "64", SV_PLACES_32, "{%32, %33, %34, %35}, %36", SV_SUMS_32(0));
}
#define SV_SUMS_64 SV_SUMS_32(0), SV_SUMS_32(32)
template <typename T>
static __device__ __forceinline__ void sv_rows_product(float (&d)[64], const uint32_t (&a)[4], uint64_t b)
{
    if constexpr (std::is_same<T, __half>::value)
        SV_ROWS_PRODUCT("f16.f16", "128", SV_PLACES_64, "{%64, %65, %66, %67}, %68", SV_SUMS_64);
    else
        SV_ROWS_PRODUCT("bf16.bf16", "128", SV_PLACES_64, "{%64, %65, %66, %67}, %68", SV_SUMS_64);
}

/* d += rows B'; 'b': as in sv_tile_multiply(). Between sv_tile_begin() and sv_tile_end(); the rows stay as
 * they are until sv_tile_wait(). */
template <typename T, int N>
static __device__ __forceinline__ void sv_tile_multiply_rows(float (&d)[N / 2], const sv_tile_rows &rows,
                                                             uint32_t b)
{
    const uint32_t right = sv_tile_place(b);
#pragma unroll
    for (int k = 0; k < SV_TILE_K / 16; k++) {
        uint32_t a[4];
        sv_tile_step(a, rows, k);
        sv_rows_product<T>(d, a, sv_tile_descriptor(right + 2 * k));
    }
}
#else
template <typename T, int N>
static __device__ __forceinline__ void sv_tile_multiply_rows(float (&d)[N / 2], const sv_tile_rows &rows,
                                                             uint32_t b)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < SV_TILE_K / 16; k++) {
        uint32_t a[4];
        sv_tile_step(a, rows, k);
#pragma unroll
        for (int j = 0; j < N / 16; j++) {
            uint32_t right[4];
            sv_load_matrices(right,
                             sv_tile_piece(b, 16 * j + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
            sv_mma<T>(&d[8 * j], a, right[0], right[1]);
            sv_mma<T>(&d[8 * j + 4], a, right[2], right[3]);
        }
    }
}
#endif

/* ---- stages -------------------------------------------------------------------------------------------- */

/* How many arrivals fill a stage: Hopper's long copies arrive once, elsewhere every lane of the copying
 * warp does. */
#if __CUDA_ARCH__ >= 900
enum { SV_FILL_ARRIVALS = 1 };
#else
enum { SV_FILL_ARRIVALS = 32 };
#endif

static __device__ __forceinline__ void sv_barrier_open(uint64_t *barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;\n" ::"r"(sv_shared_address(barrier)), "r"(arrivals)
                 : "memory");
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
#endif
}
static __device__ __forceinline__ void sv_barrier_arrive(uint64_t *barrier)
{
    asm volatile(
        "{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}\n" ::"r"(sv_shared_address(barrier))
        : "memory");
}
/* Until the phase (0, then 1, 0, ...) is over. */
static __device__ __forceinline__ void sv_barrier_wait(uint64_t *barrier, uint32_t phase)
{
    uint32_t over = 0;
    while (!over) {
#if __CUDA_ARCH__ >= 900
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, "
                     "p;\n}\n"
                     : "=r"(over)
                     : "r"(sv_shared_address(barrier)), "r"(phase)
                     : "memory");
#else
        asm volatile("{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\nselp.u32 %0, 1, "
                     "0, p;\n}\n"
                     : "=r"(over)
                     : "r"(sv_shared_address(barrier)), "r"(phase)
                     : "memory");
#endif
    }
}
/* By a whole warp: 'bytes' (a multiple of 512) to a stage; the barrier's phase is over when they have
 * arrived. */
static __device__ __forceinline__ void sv_barrier_fill(uint32_t to, const void *from, int bytes,
                                                       uint64_t *barrier)
{
    const uint32_t at = sv_shared_address(barrier);
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x % 32 == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;\n" ::"r"(at), "r"(bytes) : "memory");
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
                to),
            "l"(from), "r"(bytes), "r"(at)
            : "memory");
    }
#else
    for (int i = threadIdx.x % 32 * 16; i < bytes; i += 32 * 16) sv_copy_far(to + i, (const char *)from + i);
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];\n" ::"r"(at) : "memory");
#endif
}

#endif
#endif
