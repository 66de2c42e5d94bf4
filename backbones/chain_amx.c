/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of the convolution chain on matrix tiles (perception/core/amx.h has the arithmetic), with float32 numbers as
 * two or three bfloat16 parts.
 *
 * Products go in steps of 128 k, so that a panel of W, [k/128][n/32][4 (or what is left) slabs of 32 k][part][2][512],
 * stays in the first-level cache while the rows of A pass, and so that the next panel can be brought nearer meanwhile.
 * Everything else (gather, transforms) is the AVX-512 code of chain_kernels.simd.c.
 */
#include "backbones/chain_kernels.h"
#include "perception/core/simd.h"

#if defined(__x86_64__) && defined(__linux__)
#include "perception/core/amx.h"

enum { BLOCK = 2 * SV_AMX_SIDE, STEP = 128 };

static int step_of(int k, int from)
{
    return k - from < STEP ? k - from : STEP;
}

SV_AMX_INLINE void pack(void *to, const float *w, int k, int n, const int parts)
{
    uint16_t *out = to;
    for (int from = 0; from < k; from += STEP)
        for (int column = 0; column < n; column += BLOCK)
            for (int slab = from; slab < from + step_of(k, from);
                 slab += CHAIN_SLAB, out += parts * 2 * SV_AMX_NUMBERS)
                for (int half = 0; half < BLOCK; half += SV_AMX_SIDE)
                    for (int pair = 0; pair < 16; pair++) {
                        const float *row = w + (size_t)(slab + pair) * (size_t)n + (size_t)(column + half);
                        sv_amx_split(out + half / SV_AMX_SIDE * SV_AMX_NUMBERS + pair * 32,
                                     2 * SV_AMX_NUMBERS, _mm512_loadu_ps(row),
                                     _mm512_loadu_ps(row + 16 * (size_t)n), parts);
                    }
}

SV_AMX_INLINE void stage(void *to, const float *a, int m, int k, const int parts)
{
    uint16_t *out = to;
    const size_t apart = (size_t)m * CHAIN_SLAB;
    for (int s = 0; s < k; s += CHAIN_SLAB, out += (size_t)parts * apart)
        for (int i = 0; i < m; i++, a += CHAIN_SLAB)
            sv_amx_split(out + i * CHAIN_SLAB, apart, _mm512_loadu_ps(a), _mm512_loadu_ps(a + 16), parts);
}

SV_AMX_INLINE void product(float *c, int ldc, const void *a, const void *w, int m, int n, int k,
                           const int parts)
{
    const size_t apart = (size_t)m * CHAIN_SLAB;
    const uint16_t *panel = w, *columns = a;
    for (int from = 0; from < k; from += STEP) {
        const int slabs = step_of(k, from) / CHAIN_SLAB;
        const size_t size = (size_t)(slabs * parts) * 2 * SV_AMX_NUMBERS;
        for (int j = 0; j < n; j += BLOCK, panel += size) {
            const uint16_t *next = panel + size; /* two blocks of rows bring the next panel */
            for (int i = 0; i < m; i += BLOCK, next += size / 2) {
                const uint16_t *at = columns + (size_t)i * CHAIN_SLAB;
                float *to = c + (size_t)i * (size_t)ldc + j;
                const float *start = from > 0 ? to : NULL;
                if (i + BLOCK <= m)
                    sv_amx_block(to, ldc, start, ldc, at, apart, panel, slabs, next, parts, true, true);
                else
                    sv_amx_block(to, ldc, start, ldc, at, apart, panel, slabs, next, parts, false, true);
            }
        }
        columns += (size_t)(slabs * parts) * apart;
    }
}

static SV_AMX void begin(void)
{
    sv_amx_begin();
}
static SV_AMX void end(void)
{
    sv_amx_end();
}

static SV_AMX void product_two(float *c, int ldc, const void *a, const void *w, int m, int n, int k)
{
    product(c, ldc, a, w, m, n, k, 2);
}
static SV_AMX void product_three(float *c, int ldc, const void *a, const void *w, int m, int n, int k)
{
    product(c, ldc, a, w, m, n, k, 3);
}
static SV_AMX void pack_two(void *to, const float *w, int k, int n)
{
    pack(to, w, k, n, 2);
}
static SV_AMX void pack_three(void *to, const float *w, int k, int n)
{
    pack(to, w, k, n, 3);
}
static SV_AMX void stage_two(void *to, const float *a, int m, int k)
{
    stage(to, a, m, k, 2);
}
static SV_AMX void stage_three(void *to, const float *a, int m, int k)
{
    stage(to, a, m, k, 3);
}

extern const sv_chain_kernels sv_chain_kernels_avx512;

bool sv_chain_matrix_kernels(sv_chain_kernels *kernels, int parts)
{
    if (!sv_simd_matrix()) return false;
    *kernels = sv_chain_kernels_avx512;
    kernels->rows = SV_AMX_SIDE;
    kernels->columns = BLOCK;
    kernels->bytes = parts * (int)sizeof(uint16_t);
    kernels->begin = begin;
    kernels->end = end;
    kernels->pack = parts == 2 ? pack_two : pack_three;
    kernels->stage = parts == 2 ? stage_two : stage_three;
    kernels->product = parts == 2 ? product_two : product_three;
    return true;
}
#else
bool sv_chain_matrix_kernels(sv_chain_kernels *kernels, int parts)
{
    (void)kernels, (void)parts;
    return false;
}
#endif
