/* SPDX-License-Identifier: Apache-2.0
 *
 * One source, three instruction sets. A file NAME.simd.c is compiled three
 * times, with SV_SIMD_ISA = 0 (scalar), 1 (AVX2+FMA) and 2 (AVX-512 F/BW/DQ/VL);
 * its functions are named with SV_SIMD(name) and gathered in one table
 *
 *     const my_kernels SV_SIMD(my_kernels) = {...};
 *
 * Ordinary code declares the three tables with SV_SIMD_TABLE(my_kernels) and
 * takes the one the processor supports with SV_SIMD_PICK(my_kernels). The
 * environment variable SAVANNA_ISA=scalar|avx2|avx512 caps the choice.
 *
 * 'vf' is a vector of SV_VL floats; + - * / work on it and on float alike, so
 * that code (and maps.def) reads the same for every instruction set. Partial
 * vectors: vf_load_n / vf_store_n touch only the first n lanes.
 * The m_* functions are accurate to about 2 ulp (see simd_math.h) and give the
 * same bits in every lane, so a value never depends on its position.
 */
#ifndef SV_SIMD_H
#define SV_SIMD_H

#include <stdbool.h>

typedef enum sv_isa { SV_ISA_SCALAR, SV_ISA_AVX2, SV_ISA_AVX512 } sv_isa;
/* Best instruction set of this processor, capped by SAVANNA_ISA; constant during a run. */
sv_isa sv_simd_isa(void);
const char *sv_isa_name(sv_isa isa);
/*
 * Whether matrix tiles with bfloat16 products (Intel AMX) are there and the system grants them to this process. A cap
 * in SAVANNA_ISA excludes them. Code for them stands in ordinary files, in functions with a target attribute.
 */
bool sv_simd_matrix(void);

#define SV_SIMD_TABLE(type) extern const type type##_scalar, type##_avx2, type##_avx512
#define SV_SIMD_PICK(type)                                                                                   \
    (sv_simd_isa() == SV_ISA_AVX512 ? &type##_avx512                                                         \
     : sv_simd_isa() == SV_ISA_AVX2 ? &type##_avx2                                                           \
                                    : &type##_scalar)

#ifdef SV_SIMD_ISA
#include <math.h>
#include <stdint.h>
#include <string.h>

#if SV_SIMD_ISA == 2
#include <immintrin.h>
#define SV_SIMD(name) name##_avx512
enum { SV_VL = 16 };
typedef __m512 vf;
static inline vf m_set(float x)
{
    return _mm512_set1_ps(x);
}
static inline vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
static inline void vf_store(float *p, vf x)
{
    _mm512_storeu_ps(p, x);
}
static inline __mmask16 vf_mask(int n)
{
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1u);
}
static inline vf vf_load_n(const float *p, int n)
{
    return _mm512_maskz_loadu_ps(vf_mask(n), p);
}
static inline void vf_store_n(float *p, vf x, int n)
{
    _mm512_mask_storeu_ps(p, vf_mask(n), x);
}
static inline vf m_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline vf m_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
} /* b when either is NaN; so for m_min */
static inline vf m_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
static inline vf m_abs(vf a)
{
    return _mm512_abs_ps(a);
}
static inline vf m_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}
static inline vf m_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a < b ? x : y per lane */
static inline vf m_if_less(vf a, vf b, vf x, vf y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
/* a * 2^n for integral n in the float exponent's range */
static inline vf m_scale2(vf a, vf n)
{
    return _mm512_scalef_ps(a, n);
}
static inline vf m_copysign(vf magnitude, vf sign)
{
    const __m512i bit = _mm512_set1_epi32((int)0x80000000u);
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_andnot_si512(bit, _mm512_castps_si512(magnitude)),
                                               _mm512_and_si512(bit, _mm512_castps_si512(sign))));
}
/* exponent (floor(log2|a|)) and mantissa in [1,2) of positive normal numbers */
static inline vf m_exponent(vf a)
{
    return _mm512_getexp_ps(a);
}
static inline vf m_mantissa(vf a)
{
    return _mm512_getmant_ps(a, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero);
}
/* sum of all lanes in a fixed order */
static inline float vf_sum(vf a)
{
    return _mm512_reduce_add_ps(a);
}
static inline float vf_max(vf a)
{
    return _mm512_reduce_max_ps(a);
}

#elif SV_SIMD_ISA == 1
#include <immintrin.h>
#define SV_SIMD(name) name##_avx2
enum { SV_VL = 8 };
typedef __m256 vf;
static inline vf m_set(float x)
{
    return _mm256_set1_ps(x);
}
static inline vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
static inline void vf_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x);
}
static inline __m256i vf_mask(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vf vf_load_n(const float *p, int n)
{
    return _mm256_maskload_ps(p, vf_mask(n));
}
static inline void vf_store_n(float *p, vf x, int n)
{
    _mm256_maskstore_ps(p, vf_mask(n), x);
}
static inline vf m_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
static inline vf m_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
static inline vf m_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
static inline vf m_abs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
static inline vf m_sqrt(vf a)
{
    return _mm256_sqrt_ps(a);
}
static inline vf m_round(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf m_if_less(vf a, vf b, vf x, vf y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
static inline vf m_scale2(vf a, vf n)
{
    /* in two steps, so that results down to the denormals are reached */
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    const __m256i bias = _mm256_set1_epi32(127);
    const vf one = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    const vf two =
        _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23));
    return a * one * two;
}
static inline vf m_copysign(vf magnitude, vf sign)
{
    const vf bit = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign));
}
static inline vf m_exponent(vf a)
{
    const __m256i e = _mm256_srli_epi32(_mm256_castps_si256(m_abs(a)), 23);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(e, _mm256_set1_epi32(127)));
}
static inline vf m_mantissa(vf a)
{
    const __m256i m = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x007fffff));
    return _mm256_castsi256_ps(_mm256_or_si256(m, _mm256_set1_epi32(0x3f800000)));
}
static inline float vf_sum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float vf_max(vf a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

#else
#define SV_SIMD(name) name##_scalar
enum { SV_VL = 1 };
typedef float vf;
static inline vf m_set(float x)
{
    return x;
}
static inline vf vf_load(const float *p)
{
    return *p;
}
static inline void vf_store(float *p, vf x)
{
    *p = x;
}
static inline vf vf_load_n(const float *p, int n)
{
    return n > 0 ? *p : 0.0f;
}
static inline void vf_store_n(float *p, vf x, int n)
{
    if (n > 0) *p = x;
}
static inline vf m_fma(vf a, vf b, vf c)
{
    return a * b + c;
} /* two roundings: fmaf() is a slow call here */
static inline vf m_max(vf a, vf b)
{
    return a > b ? a : b;
}
static inline vf m_min(vf a, vf b)
{
    return a < b ? a : b;
}
static inline vf m_abs(vf a)
{
    return fabsf(a);
}
static inline vf m_sqrt(vf a)
{
    return sqrtf(a);
}
static inline vf m_round(vf a)
{
    return nearbyintf(a);
}
static inline vf m_if_less(vf a, vf b, vf x, vf y)
{
    return a < b ? x : y;
}
static inline vf m_scale2(vf a, vf n)
{
    const int whole = n == n ? (int)n : 0, half = whole >> 1; /* in two steps, as for AVX2 */
    const uint32_t bits[2] = {(uint32_t)(half + 127) << 23, (uint32_t)(whole - half + 127) << 23};
    float factor[2];
    memcpy(factor, bits, sizeof factor);
    return a * factor[0] * factor[1];
}
static inline vf m_copysign(vf magnitude, vf sign)
{
    return copysignf(magnitude, sign);
}
static inline vf m_exponent(vf a)
{
    uint32_t bits;
    memcpy(&bits, &a, sizeof bits);
    return (float)((int)(bits >> 23 & 255u) - 127);
}
static inline vf m_mantissa(vf a)
{
    uint32_t bits;
    memcpy(&bits, &a, sizeof bits);
    bits = (bits & 0x007fffffu) | 0x3f800000u;
    memcpy(&a, &bits, sizeof a);
    return a;
}
static inline float vf_sum(vf a)
{
    return a;
}
static inline float vf_max(vf a)
{
    return a;
}
#endif

/* Before a loop over registers (arrays of vf), which must be unrolled for them to be registers at all. */
#ifdef __clang__
#define SV_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SV_UNROLL _Pragma("GCC unroll 16")
#endif

#include "simd_math.h"

#endif /* SV_SIMD_ISA */
#endif
