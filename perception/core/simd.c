/* SPDX-License-Identifier: Apache-2.0 */
#include "simd.h"

#include <stdlib.h>
#include <string.h>

static sv_isa supported(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
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

const char *sv_isa_name(sv_isa isa)
{
    static const char *const names[] = {"scalar", "avx2", "avx512"};
    return names[isa];
}
