/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of the convolution chain on matrix tiles (perception/core/amx.h has the arithmetic), with float32 numbers as
 * two or three bfloat16 parts.
 *
 * Products go in steps of 128 k, so that a panel of W, [k/128][n/32][4 (or what is left) slabs of 32 k][part][2 or 1][512],
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

/* Columns of the panel that begins at 'column'. */
static int width_of(int n, int column)
{
    return n - column < BLOCK ? n - column : BLOCK;
}

SV_AMX_INLINE void pack(void *to, const float *w, int k, int n, const int parts)
{
    uint16_t *out = to;
    for (int from = 0; from < k; from += STEP)
        for (int column = 0; column < n; column += BLOCK) {
            const int tiles = width_of(n, column) / SV_AMX_SIDE;
            for (int slab = from; slab < from + step_of(k, from);
                 slab += CHAIN_SLAB, out += parts * tiles * SV_AMX_NUMBERS)
                for (int tile = 0; tile < tiles; tile++)
                    for (int pair = 0; pair < 16; pair++) {
                        const float *row =
                            w + (size_t)(slab + pair) * (size_t)n + (size_t)(column + tile * SV_AMX_SIDE);
                        sv_amx_split(out + tile * SV_AMX_NUMBERS + pair * 32, (size_t)tiles * SV_AMX_NUMBERS,
                                     _mm512_loadu_ps(row), _mm512_loadu_ps(row + 16 * (size_t)n), parts);
                    }
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
        for (int j = 0; j < n; j += BLOCK) {
            const bool wide = width_of(n, j) == BLOCK;
            const size_t size = (size_t)(slabs * parts) * (wide ? 2 : 1) * SV_AMX_NUMBERS;
            const uint16_t *next = panel + size; /* two blocks of rows bring the next panel */
            for (int i = 0; i < m; i += BLOCK, next += size / 2) {
                const uint16_t *at = columns + (size_t)i * CHAIN_SLAB;
                float *to = c + (size_t)i * (size_t)ldc + j;
                const float *start = from > 0 ? to : NULL;
                if (i + BLOCK <= m && wide)
                    sv_amx_block(to, ldc, start, ldc, at, apart, panel, slabs, next, parts, true, true);
                else if (i + BLOCK <= m)
                    sv_amx_block(to, ldc, start, ldc, at, apart, panel, slabs, next, parts, true, false);
                else if (wide)
                    sv_amx_block(to, ldc, start, ldc, at, apart, panel, slabs, next, parts, false, true);
                else
                    sv_amx_block(to, ldc, start, ldc, at, apart, panel, slabs, next, parts, false, false);
            }
            panel += size;
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
    kernels->columns = SV_AMX_SIDE;
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
