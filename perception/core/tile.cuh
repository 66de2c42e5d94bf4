/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of tiles on tensor cores from 16-bit numbers, summed in float32. A tile is rows of 64 numbers
 * (128 bytes) in shared memory whose 16-byte pieces are swizzled: piece c of row r lies at c ^ (r & 7), so
 * that neither the tensor cores nor ldmatrix meet a bank conflict. 128 threads (four warps) add 64 x N
 * products:
 *
 *     d[row][column] += sum over the 64 numbers k of A[row][k] B[column][k]
 *
 * On Hopper (sm_90a) by wgmma, which reads both tiles itself; elsewhere by mma.sync. Both keep the sums of
 * a thread at the same places: d[4j + 2h + e] is row 16 warp + lane/4 + 8h, column 8j + 2 (lane%4) + e.
 *
 * float32 numbers may travel as two 16-bit numbers (value and remainder) and be multiplied by three
 * products: high high, high low, low high.
 */
#ifndef SV_TILE_CUH
#define SV_TILE_CUH

#include "cuda.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

enum { SV_TILE_K = 64, SV_TILE_ROW_BYTES = 128 };

#ifdef __CUDACC__

/* ---- numbers ------------------------------------------------------------------------------------------- */

template <typename T> static __host__ __device__ __forceinline__ T sv_narrow(float x);
template <> __host__ __device__ __forceinline__ __nv_bfloat16 sv_narrow<__nv_bfloat16>(float x)
{
    return __float2bfloat16(x);
}
/* What lies beyond 65504 becomes that: an infinity would be a NaN in the next layer, and no box be left of the frame. */
template <> __host__ __device__ __forceinline__ __half sv_narrow<__half>(float x)
{
#ifdef __CUDA_ARCH__
    uint16_t bits;
    asm("cvt.rn.satfinite.f16.f32 %0, %1;\n" : "=h"(bits) : "f"(x));
    return __ushort_as_half(bits);
#else
    return __float2half(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x);
#endif
}
static __host__ __device__ __forceinline__ float sv_widen(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}
static __host__ __device__ __forceinline__ float sv_widen(__half x)
{
    return __half2float(x);
}

/* ---- asynchronous copies ------------------------------------------------------------------------------- */

static __device__ __forceinline__ uint32_t sv_shared_address(const void *pointer)
{
    return (uint32_t)__cvta_generic_to_shared(pointer);
}
/* 16 bytes, of which the first 'bytes' are read and the others zero. 'near' keeps a copy in the first-level
 * cache. */
static __device__ __forceinline__ void sv_copy_near(uint32_t to, const void *from, int bytes)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
}
static __device__ __forceinline__ void sv_copy_some(uint32_t to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
}
static __device__ __forceinline__ void sv_copy_far(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(from) : "memory");
}
static __device__ __forceinline__ void sv_copies_end()
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}
/* All but the last 'pending' groups have arrived. */
template <int pending> static __device__ __forceinline__ void sv_copies_wait()
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
}

/*
 * A stage of shared memory that a block fills with one long copy. Hopper copies by itself and counts the
 * bytes that arrive at the stage's barrier; elsewhere all threads copy, and the stage arrives with their other
 * copies. A barrier's phases alternate: 'phase' is 0 for the first filling of a stage, then 1, 0, ...
 */
static __device__ __forceinline__ void sv_stage_open(uint64_t *barrier)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.init.shared.b64 [%0], 1;\n" ::"r"(sv_shared_address(barrier)) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
#endif
}
/* By all threads of the block; 'bytes': a multiple of 16. */
template <int THREADS>
static __device__ __forceinline__ void sv_stage_fill(uint32_t to, const void *from, int bytes,
                                                     uint64_t *barrier)
{
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
        const uint32_t at = sv_shared_address(barrier);
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;\n" ::"r"(at), "r"(bytes) : "memory");
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
                to),
            "l"(from), "r"(bytes), "r"(at)
            : "memory");
    }
#else
    for (int i = threadIdx.x * 16; i < bytes; i += THREADS * 16) sv_copy_far(to + i, (const char *)from + i);
#endif
}
static __device__ __forceinline__ void sv_stage_wait(uint64_t *barrier, uint32_t phase)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .pred there;\nagain:\nmbarrier.try_wait.parity.shared.b64 there, [%0], "
                 "%1;\n@!there bra again;\n}\n" ::"r"(sv_shared_address(barrier)),
                 "r"(phase)
                 : "memory");
#endif
}

/* ---- products ------------------------------------------------------------------------------------------ */

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define SV_TILE_WGMMA 1
#endif

#ifdef SV_TILE_WGMMA
template <int N, typename T> struct wgmma;
template <> struct wgmma<64, __nv_bfloat16> {
    static __device__ __forceinline__ void multiply(float (&d)[32], uint64_t a, uint64_t b)
    {
        asm volatile(
            "{\n.reg .pred p;\nsetp.eq.u32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
            "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
            "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, 0, 0;\n}\n"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
              "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),
              "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),
              "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),
              "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
            : "l"(a), "l"(b));
    }
};
template <> struct wgmma<64, __half> {
    static __device__ __forceinline__ void multiply(float (&d)[32], uint64_t a, uint64_t b)
    {
        asm volatile(
            "{\n.reg .pred p;\nsetp.eq.u32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0, "
            "%1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
            "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, 0, 0;\n}\n"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
              "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),
              "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),
              "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),
              "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
            : "l"(a), "l"(b));
    }
};
template <> struct wgmma<128, __nv_bfloat16> {
    static __device__ __forceinline__ void multiply(float (&d)[64], uint64_t a, uint64_t b)
    {
        asm volatile(
            "{\n.reg .pred p;\nsetp.eq.u32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
            "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
            "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "
            "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "
            "%59, %60, %61, %62, %63}, %64, %65, p, 1, 1, 0, 0;\n}\n"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
              "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),
              "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),
              "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),
              "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
              "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]),
              "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]),
              "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),
              "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
            : "l"(a), "l"(b));
    }
};
template <> struct wgmma<128, __half> {
    static __device__ __forceinline__ void multiply(float (&d)[64], uint64_t a, uint64_t b)
    {
        asm volatile(
            "{\n.reg .pred p;\nsetp.eq.u32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
            "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
            "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "
            "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "
            "%59, %60, %61, %62, %63}, %64, %65, p, 1, 1, 0, 0;\n}\n"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
              "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),
              "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),
              "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),
              "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
              "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]),
              "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]),
              "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),
              "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
            : "l"(a), "l"(b));
    }
};

/* Rows of 128 bytes, eight of them 1024 bytes from the next eight, swizzled by 128 bytes. Only the low half of
 * a descriptor depends on the address. */
static __device__ __forceinline__ uint32_t sv_tile_place(uint32_t address)
{
    return (address & 0x3ffff) >> 4 | 1u << 16;
}
static __device__ __forceinline__ uint64_t sv_tile_descriptor(uint32_t place)
{
    return (uint64_t)(1u << 30 | 1024 >> 4) << 32 | place;
}
/* Before the tensor cores read what this thread wrote or copied; a barrier must follow. */
static __device__ __forceinline__ void sv_tile_publish()
{
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}
static __device__ __forceinline__ void sv_tile_begin()
{
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
static __device__ __forceinline__ void sv_tile_end()
{
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
/* All but the last 'pending' products between begin and end are done. */
template <int pending> static __device__ __forceinline__ void sv_tile_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(pending) : "memory");
}
/* d += A B'; 'a' and 'b' are shared addresses of 64 and N rows, multiples of 1024. Of the 64 numbers of a row the
 * sixteens from FROM to before TO take part. */
template <typename T, int N, int FROM = 0, int TO = SV_TILE_K / 16>
static __device__ __forceinline__ void sv_tile_multiply(float (&d)[N / 2], uint32_t a, uint32_t b)
{
    const uint32_t left = sv_tile_place(a), right = sv_tile_place(b);
#pragma unroll
    for (int k = FROM; k < TO; k++)
        wgmma<N, T>::multiply(d, sv_tile_descriptor(left + 2 * k), sv_tile_descriptor(right + 2 * k));
}

#else /* any other architecture from sm_80 on */

static __device__ __forceinline__ void sv_tile_publish() {}
static __device__ __forceinline__ void sv_tile_begin() {}
static __device__ __forceinline__ void sv_tile_end() {}
template <int pending> static __device__ __forceinline__ void sv_tile_wait() {}

static __device__ __forceinline__ void sv_load_matrices(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
static __device__ __forceinline__ uint32_t sv_tile_piece(uint32_t base, int row, int piece)
{
    return base + row * SV_TILE_ROW_BYTES + ((piece ^ (row & 7)) << 4);
}
template <typename T>
static __device__ __forceinline__ void sv_mma(float *d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void sv_mma<__nv_bfloat16>(float *d, const uint32_t (&a)[4], uint32_t b0,
                                                      uint32_t b1)
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void sv_mma<__half>(float *d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <typename T, int N, int FROM = 0, int TO = SV_TILE_K / 16>
static __device__ __forceinline__ void sv_tile_multiply(float (&d)[N / 2], uint32_t a, uint32_t b)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
#pragma unroll
    for (int k = FROM; k < TO; k++) {
        uint32_t left[4];
        sv_load_matrices(left, sv_tile_piece(a, warp * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (int j = 0; j < N / 16; j++) {
            uint32_t right[4];
            sv_load_matrices(right,
                             sv_tile_piece(b, 16 * j + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
            sv_mma<T>(&d[8 * j], left, right[0], right[1]);
            sv_mma<T>(&d[8 * j + 4], left, right[2], right[3]);
        }
    }
}
#endif

#endif
#endif
