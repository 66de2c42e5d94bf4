/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of the convolution chain on matrix tiles (Intel AMX, bfloat16).
 *
 * A float32 number is the sum of three bfloat16 numbers of 8 bits each, x = x0 + x1 + x2 with |x1| <= 2^-8
 * |x| and |x2| <= 2^-17 |x|. Of the nine products of two such sums those above 2^-24 are taken,
 *
 *     a w  =  a0 w2 + a1 w1 + a2 w0 + a0 w1 + a1 w0 + a0 w0,     accumulated in float32,
 *
 * as exact as float32 products and two to three times as fast. With two parts, x = x0 + x1 + at most 2^-17
 * |x|, and the last three products: half the work for 16 bits of accuracy (the 10 bits of TF32 are the least
 * 'tf32' promises).
 *
 * A tile register holds 16 rows of 64 bytes. A block of 32 x 32 results takes four registers, two take the
 * rows of A, two the columns of W. Products go in steps of 128 k, so that those columns of A stay in the
 * first-level cache while W streams by: W is packed [k/128][n/32][4 (or what is left) x 32 k][part][2][16
 * pairs of k][16 columns][2]. Everything else (gather, transforms) is the AVX-512 code of
 * chain_kernels.simd.c.
 */
#include "backbones/chain_kernels.h"
#include "perception/core/simd.h"

#include <string.h>

#if defined(__x86_64__) && defined(__linux__)
#include <immintrin.h>

#define AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16")))

enum { TILE_ROWS = 16, TILE_NUMBERS = 512, BLOCK = 32, STEP = 128 };

static int step_of(int k, int from)
{
    return k - from < STEP ? k - from : STEP;
}

static void pack(void *to, const float *w, int k, int n, int parts)
{
    uint16_t *out = to;
    for (int from = 0; from < k; from += STEP)
        for (int column = 0; column < n; column += BLOCK)
            for (int slab = from; slab < from + step_of(k, from);
                 slab += CHAIN_SLAB, out += parts * 2 * TILE_NUMBERS)
                for (int p = 0; p < CHAIN_SLAB; p++)
                    for (int j = 0; j < BLOCK; j++) {
                        uint16_t *at = out + j / 16 * TILE_NUMBERS + p / 2 * CHAIN_SLAB + j % 16 * 2 + p % 2;
                        float rest = w[(size_t)(slab + p) * (size_t)n + (size_t)(column + j)];
                        for (int i = 0; i < parts; i++, at += 2 * TILE_NUMBERS) {
                            uint32_t bits;
                            memcpy(&bits, &rest, sizeof bits);
                            bits = (bits + 0x8000u) & 0xffff0000u;
                            float part;
                            memcpy(&part, &bits, sizeof part);
                            rest -= part;
                            *at = (uint16_t)(bits >> 16);
                        }
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

static AMX void begin(void)
{
    _tile_loadconfig(&tiles);
}

static AMX void end(void)
{
    _tile_release();
}

/* Registers 0..3: C; 4, 5: rows of A; 6, 7: columns of W. */
#define LOAD_A(part)                                                                                         \
    do {                                                                                                     \
        _tile_loadd(4, a + (part)*rows, 64);                                                                 \
        if (full) _tile_loadd(5, a + (part)*rows + TILE_NUMBERS, 64);                                        \
    } while (0)
#define LOAD_W(part)                                                                                         \
    do {                                                                                                     \
        _tile_loadd(6, w + (part)*2 * TILE_NUMBERS, 64);                                                     \
        _tile_loadd(7, w + ((part)*2 + 1) * TILE_NUMBERS, 64);                                               \
    } while (0)
#define MULTIPLY                                                                                             \
    do {                                                                                                     \
        _tile_dpbf16ps(0, 4, 6);                                                                             \
        _tile_dpbf16ps(1, 4, 7);                                                                             \
        if (full) {                                                                                          \
            _tile_dpbf16ps(2, 5, 6);                                                                         \
            _tile_dpbf16ps(3, 5, 7);                                                                         \
        }                                                                                                    \
    } while (0)

/* 32 (or, unless full, 16) x 32 of C, or added to C. 'rows' is the distance between the parts of A, in
 * numbers; 'next' is brought nearer, as much of it as W is read here. */
static inline __attribute__((always_inline)) AMX void block(float *c, int ldc, const uint16_t *a, size_t rows,
                                                            const uint16_t *w, int k, bool more,
                                                            const uint16_t *next, int parts, bool full)
{
    const size_t line = (size_t)ldc * sizeof(float);
    float *below = c + (size_t)TILE_ROWS * (size_t)ldc;
    if (more) {
        _tile_loadd(0, c, line);
        _tile_loadd(1, c + 16, line);
        if (full) {
            _tile_loadd(2, below, line);
            _tile_loadd(3, below + 16, line);
        }
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int s = 0; s < k; s += CHAIN_SLAB, a += (size_t)parts * rows, w += parts * 2 * TILE_NUMBERS) {
        for (int i = 0; i < parts * 16; i++, next += 32) __builtin_prefetch(next, 0, 2);
        LOAD_A(0);
        if (parts == 3) {
            LOAD_W(2);
            MULTIPLY;
        }
        LOAD_W(1);
        MULTIPLY;
        if (parts == 3) {
            LOAD_A(1);
            MULTIPLY;
            LOAD_W(0);
            MULTIPLY;
            LOAD_A(2);
            MULTIPLY;
            LOAD_A(0);
            MULTIPLY;
        } else {
            LOAD_W(0);
            MULTIPLY;
            LOAD_A(1);
            MULTIPLY;
        }
    }
    _tile_stored(0, c, line);
    _tile_stored(1, c + 16, line);
    if (!full) return;
    _tile_stored(2, below, line);
    _tile_stored(3, below + 16, line);
}

static inline __attribute__((always_inline)) AMX void product(float *c, int ldc, const void *a, const void *w,
                                                              int m, int n, int k, int parts)
{
    const size_t rows = (size_t)m * CHAIN_SLAB;
    const uint16_t *panel = w, *columns = a;
    for (int from = 0; from < k; from += STEP) {
        const int step = step_of(k, from);
        const size_t size = (size_t)(step / CHAIN_SLAB * parts) * 2 * TILE_NUMBERS;
        for (int j = 0; j < n; j += BLOCK, panel += size) {
            const uint16_t *next = panel + size; /* two blocks of rows bring the next panel */
            for (int i = 0; i < m; i += BLOCK, next += size / 2) {
                const uint16_t *at = columns + (size_t)i * CHAIN_SLAB;
                float *to = c + (size_t)i * (size_t)ldc + j;
                if (i + BLOCK <= m)
                    block(to, ldc, at, rows, panel, step, from > 0, next, parts, true);
                else
                    block(to, ldc, at, rows, panel, step, from > 0, next, parts, false);
            }
        }
        columns += (size_t)(step / CHAIN_SLAB * parts) * rows;
    }
}

static AMX void product_two(float *c, int ldc, const void *a, const void *w, int m, int n, int k)
{
    product(c, ldc, a, w, m, n, k, 2);
}

static AMX void product_three(float *c, int ldc, const void *a, const void *w, int m, int n, int k)
{
    product(c, ldc, a, w, m, n, k, 3);
}

static void pack_two(void *to, const float *w, int k, int n)
{
    pack(to, w, k, n, 2);
}
static void pack_three(void *to, const float *w, int k, int n)
{
    pack(to, w, k, n, 3);
}

extern const sv_chain_kernels sv_chain_kernels_avx512;

bool sv_chain_matrix_kernels(sv_chain_kernels *kernels, int parts)
{
    if (!sv_simd_matrix()) return false;
    *kernels = sv_chain_kernels_avx512;
    kernels->rows = TILE_ROWS;
    kernels->columns = BLOCK;
    kernels->bytes = parts * (int)sizeof(uint16_t);
    kernels->begin = begin;
    kernels->end = end;
    kernels->pack = parts == 2 ? pack_two : pack_three;
    kernels->product = parts == 2 ? product_two : product_three;
    kernels->stage = sv_chain_stage_parts[parts - 2];
    return true;
}
#else
bool sv_chain_matrix_kernels(sv_chain_kernels *kernels, int parts)
{
    (void)kernels, (void)parts;
    return false;
}
#endif
