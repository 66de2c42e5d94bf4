/* SPDX-License-Identifier: Apache-2.0
 *
 * What a block on Hopper needs to copy with one warp and to multiply with others (chain_stream.cuh): rings of shared memory
 * whose slots have two barriers each, "full" and "empty", and copies that arrive at a barrier by themselves. Beside it the
 * narrow product that tile.cuh has no use for.
 *
 *     copying warp:   wait(empty), expect(full, bytes), copies ... arrive by themselves
 *     other warps:    wait(full), multiply, wait for the products, arrive(empty)
 */
#ifndef SV_CHAIN_PIPE_CUH
#define SV_CHAIN_PIPE_CUH

#include "perception/core/launch.cuh"
#include "perception/core/tile.cuh"

#include <cuda.h>

/* A place in a ring, and the phase of its barriers. */
struct sv_ring {
    int slot;
    uint32_t turn;
    __device__ __forceinline__ void step(int slots)
    {
        if (++slot < slots) return;
        slot = 0;
        turn ^= 1;
    }
};

#ifdef SV_TILE_WGMMA

static __device__ __forceinline__ void sv_barrier_open(uint64_t *barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;\n" ::"r"(sv_shared_address(barrier)), "r"(arrivals)
                 : "memory");
}
/* After the last one is open, by who opened them; a barrier of the block must follow. */
static __device__ __forceinline__ void sv_barriers_publish()
{
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}
static __device__ __forceinline__ void sv_barrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];\n" ::"r"(sv_shared_address(barrier)) : "memory");
}
/* Arrives, and the barrier waits for so many bytes as well. */
static __device__ __forceinline__ void sv_barrier_expect(uint64_t *barrier, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;\n" ::"r"(sv_shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}
static __device__ __forceinline__ void sv_pipe_copy(uint32_t to, const void *from, int bytes,
                                                    uint64_t *barrier)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(to),
        "l"(from), "r"(bytes), "r"(sv_shared_address(barrier))
        : "memory");
}
static __device__ __forceinline__ void sv_pipe_prefetch(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];\n" ::"l"(map) : "memory");
}
/* A box of a tensor of channels, planes, columns, lines and samples. */
static __device__ __forceinline__ void sv_pipe_copy_box(uint32_t to, const CUtensorMap *map, int channel,
                                                        int plane, int x, int y, int sample,
                                                        uint64_t *barrier)
{
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, "
        "{%2, %3, %4, %5, %6}], [%7];\n" ::"r"(to),
        "l"(map), "r"(channel), "r"(plane), "r"(x), "r"(y), "r"(sample), "r"(sv_shared_address(barrier))
        : "memory");
}
/* Waits until the kernels before this one have ended, and lets the next one's blocks come as soon as there is room. What that one
 * reads before it waits itself must be older than this kernel. */
static __device__ __forceinline__ void sv_maps_wait()
{
    sv_wait_before();
    sv_announce();
}
/* Of so many threads that wait at one of the barriers 1 to 15. */
template <int threads> static __device__ __forceinline__ void sv_group_wait(int barrier)
{
    asm volatile("bar.sync %0, %1;\n" ::"r"(barrier), "n"(threads) : "memory");
}
/* Of all warps of a warpgroup: registers of a thread from here on. */
template <int count> static __device__ __forceinline__ void sv_registers_give()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(count));
}
template <int count> static __device__ __forceinline__ void sv_registers_take()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(count));
}

#define SV_PIPE_NARROW(type, name)                                                                           \
    template <> struct wgmma<32, type> {                                                                     \
        static __device__ __forceinline__ void multiply(float (&d)[16], uint64_t a, uint64_t b)              \
        {                                                                                                    \
            asm volatile(                                                                                    \
                "{\n.reg .pred p;\nsetp.eq.u32 p, 1, 1;\nwgmma.mma_async.sync.aligned.m64n32k16.f32." name   \
                " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, p, 1, "  \
                "1, "                                                                                        \
                "0, 0;\n}\n"                                                                                 \
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),        \
                  "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),    \
                  "+f"(d[14]), "+f"(d[15])                                                                   \
                : "l"(a), "l"(b));                                                                           \
        }                                                                                                    \
    };
SV_PIPE_NARROW(__nv_bfloat16, "bf16.bf16")
SV_PIPE_NARROW(__half, "f16.f16")
#undef SV_PIPE_NARROW

#endif
#endif
