/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "simd.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static sv_isa supported(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("fma"))
        return SV_ISA_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return SV_ISA_AVX2;
#endif
    return SV_ISA_SCALAR;
}

sv_isa sv_simd_isa(void)
{
    static int chosen = -1; /* every thread computes the same value */
    int isa = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
    if (isa < 0) {
        isa = supported();
        const char *cap = getenv("SAVANNA_ISA");
        if (cap && strcmp(cap, "scalar") == 0) isa = SV_ISA_SCALAR;
        if (cap && strcmp(cap, "avx2") == 0 && isa > SV_ISA_AVX2) isa = SV_ISA_AVX2;
        __atomic_store_n(&chosen, isa, __ATOMIC_RELAXED);
    }
    return (sv_isa)isa;
}

#if defined(__x86_64__) && defined(__linux__)
/* The processor has the tiles, the system saves them, and this process may use them (asked for once; threads inherit). */
static bool matrix_granted(void)
{
    enum {
        AMX_BF16 = 1 << 22,
        AMX_TILE = 1 << 24,
        OSXSAVE = 1 << 27,
        TILE_STATE = 3 << 17,
        REQUEST = 0x1023,
        TILE_DATA = 18
    };
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & OSXSAVE)) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (AMX_BF16 | AMX_TILE)) != (AMX_BF16 | AMX_TILE))
        return false;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    if ((a & TILE_STATE) != TILE_STATE) return false;
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}
#else
static bool matrix_granted(void)
{
    return false;
}
#endif

bool sv_simd_matrix(void)
{
    static int known = -1; /* every thread computes the same value */
    int matrix = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (matrix < 0) {
        const char *cap = getenv("SAVANNA_ISA");
        const bool capped =
            cap && (strcmp(cap, "scalar") == 0 || strcmp(cap, "avx2") == 0 || strcmp(cap, "avx512") == 0);
        matrix = !capped && sv_simd_isa() == SV_ISA_AVX512 && matrix_granted();
        __atomic_store_n(&known, matrix, __ATOMIC_RELAXED);
    }
    return matrix != 0;
}

const char *sv_isa_name(sv_isa isa)
{
    static const char *const names[] = {"scalar", "avx2", "avx512"};
    return names[isa];
}
