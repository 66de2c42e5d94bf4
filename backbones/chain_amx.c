/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of the convolution chain on matrix tiles (Intel AMX, bfloat16).
 *
 * A float32 number is split in two bfloat16 parts, x = high + low + at most 2^-17 |x|, and
 *
 *     a w  =  a_high w_high + a_high w_low + a_low w_high,     accumulated in float32,
 *
 * leaving out a_low w_low (2^-18). Three products of bfloat16 cost about a third of one float32 product on vectors.
 *
 * A tile register holds 16 rows of 64 bytes. A block of 32 x 32 results takes four registers, two take the rows of A,
 * two the columns of W; W is packed [n/32][k/32][high 0, high 1, low 0, low 1][16 pairs of k][16 columns][2].
 * Everything else (gather, transforms) is the AVX-512 code of chain_kernels.simd.c.
 */
#include "backbones/chain_kernels.h"
#include "perception/core/simd.h"

#include <string.h>

#if defined(__x86_64__) && defined(__linux__)
#include <immintrin.h>

#define AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16")))

enum { TILE_ROWS = 16, TILE_NUMBERS = 512, BLOCK = 32, PIECES = 4 };

static uint16_t high_part(float x, float *rest)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x8000u) & 0xffff0000u;
    float high;
    memcpy(&high, &bits, sizeof high);
    *rest = x - high;
    return (uint16_t)(bits >> 16);
}

static void pack(void *to, const float *w, int k, int n)
{
    uint16_t *out = to;
    for (int column = 0; column < n; column += BLOCK)
        for (int slab = 0; slab < k; slab += CHAIN_SLAB, out += PIECES * TILE_NUMBERS)
            for (int p = 0; p < CHAIN_SLAB; p++)
                for (int j = 0; j < BLOCK; j++) {
                    const int at = j / 16 * TILE_NUMBERS + p / 2 * CHAIN_SLAB + j % 16 * 2 + p % 2;
                    float rest, none;
                    out[at] = high_part(w[(size_t)(slab + p) * (size_t)n + (size_t)(column + j)], &rest);
                    out[2 * TILE_NUMBERS + at] = high_part(rest, &none);
                }
}

/* Eight registers of 16 rows of 64 bytes. In memory for good: gcc 12 takes only the first bytes for used. */
static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tiles = {.palette = 1,
           .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
           .rows = {TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS}};

static AMX void begin(void) { _tile_loadconfig(&tiles); }

static AMX void end(void) { _tile_release(); }

/* 32 x 32 of C; 'low' is the distance from the high to the low parts of A, 'slab' that between slabs, in numbers. */
static AMX void block(float *c, int ldc, const uint16_t *a, size_t low, size_t slab, const uint16_t *w, int k)
{
    const size_t line = (size_t)ldc * sizeof(float);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int s = 0; s < k; s += CHAIN_SLAB, a += slab, w += PIECES * TILE_NUMBERS) {
        _tile_loadd(4, a, 64);
        _tile_loadd(6, w + 2 * TILE_NUMBERS, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a + TILE_NUMBERS, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_loadd(7, w + 3 * TILE_NUMBERS, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(6, w, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
        _tile_loadd(7, w + TILE_NUMBERS, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(4, a + low, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + low + TILE_NUMBERS, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, line);
    _tile_stored(1, c + 16, line);
    _tile_stored(2, c + (size_t)TILE_ROWS * (size_t)ldc, line);
    _tile_stored(3, c + (size_t)TILE_ROWS * (size_t)ldc + 16, line);
}

/* The same for the last 16 rows; products are added in the same order. */
static AMX void half_block(float *c, int ldc, const uint16_t *a, size_t low, size_t slab, const uint16_t *w, int k)
{
    const size_t line = (size_t)ldc * sizeof(float);
    _tile_zero(0);
    _tile_zero(1);
    for (int s = 0; s < k; s += CHAIN_SLAB, a += slab, w += PIECES * TILE_NUMBERS) {
        _tile_loadd(4, a, 64);
        _tile_loadd(6, w + 2 * TILE_NUMBERS, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, w + 3 * TILE_NUMBERS, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(6, w, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, w + TILE_NUMBERS, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(4, a + low, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
    }
    _tile_stored(0, c, line);
    _tile_stored(1, c + 16, line);
}

static AMX void product(float *c, int ldc, const void *a, const void *w, int m, int n, int k)
{
    const size_t low = (size_t)m * CHAIN_SLAB, slab = 2 * low;
    const uint16_t *panel = w;
    for (int j = 0; j < n; j += BLOCK, panel += (size_t)(k / CHAIN_SLAB) * PIECES * TILE_NUMBERS) {
        int i = 0;
        for (; i + BLOCK <= m; i += BLOCK)
            block(c + (size_t)i * (size_t)ldc + j, ldc, (const uint16_t *)a + (size_t)i * CHAIN_SLAB, low, slab, panel, k);
        if (i < m)
            half_block(c + (size_t)i * (size_t)ldc + j, ldc, (const uint16_t *)a + (size_t)i * CHAIN_SLAB, low, slab, panel, k);
    }
}

extern const sv_chain_kernels sv_chain_kernels_avx512;

bool sv_chain_matrix_kernels(sv_chain_kernels *kernels)
{
    if (!sv_simd_matrix()) return false;
    *kernels = sv_chain_kernels_avx512;
    kernels->rows = TILE_ROWS;
    kernels->columns = BLOCK;
    kernels->begin = begin;
    kernels->end = end;
    kernels->pack = pack;
    kernels->product = product;
    kernels->gather = kernels->gather_split;
    kernels->winograd_in = kernels->winograd_in_split;
    return true;
}
#else
bool sv_chain_matrix_kernels(sv_chain_kernels *kernels)
{
    (void)kernels;
    return false;
}
#endif
