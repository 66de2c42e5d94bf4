/* SPDX-License-Identifier: Apache-2.0
 *
 * The core of all products on matrix tiles (Intel AMX, bfloat16), for the files that hold such code and nobody else.
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
 * A tile register holds 16 rows of 64 bytes: of A 16 rows of 32 k, of W 16 pairs of k by 16 columns, of C 16 rows by 16
 * columns. A pair is k and k + 16 of a slab of 32 k: which numbers make a pair does not matter as long as A and W agree,
 * and these two are the same lane of two vectors, so that splitting shuffles nothing.
 *
 *     A staged   slab of 32 k: [part][rows][32]
 *     W packed   slab of 32 k: [part][columns / 16][16 pairs][16 columns][2]
 */
#ifndef SV_AMX_H
#define SV_AMX_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SV_AMX        __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16")))
#define SV_AMX_INLINE static inline __attribute__((always_inline)) SV_AMX

enum {
    SV_AMX_SIDE = 16,     /* rows, and columns of C, of a tile */
    SV_AMX_SLAB = 32,     /* k of a tile of A or W */
    SV_AMX_NUMBERS = 512, /* bfloat16 numbers of a tile */
};

/* Eight registers of 16 rows of 64 bytes. In memory for good: gcc 12 takes only the first bytes for used. */
static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} sv_amx_tiles = {
    .palette = 1, .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

/* Around the products of a task, on its thread. */
SV_AMX_INLINE void sv_amx_begin(void)
{
    _tile_loadconfig(&sv_amx_tiles);
}
SV_AMX_INLINE void sv_amx_end(void)
{
    _tile_release();
}

/*
 * 16 pairs (x[i], y[i]) to 'parts' bfloat16 numbers each, 'apart' numbers apart: the first the nearest, so that what is
 * dropped has either sign; of what it leaves the leading bits, then the rest, which fits when there are three.
 */
SV_AMX_INLINE void sv_amx_split(uint16_t *to, size_t apart, __m512 x, __m512 y, const int parts)
{
    const __m512i half = _mm512_set1_epi32(0x8000), keep = _mm512_set1_epi32((int)0xffff0000u);
    for (int part = 0; part < parts; part++) {
        __m512i bx = _mm512_castps_si512(x), by = _mm512_castps_si512(y);
        if (part == 0 || (part + 1 == parts && parts < 3)) {
            bx = _mm512_add_epi32(bx, half);
            by = _mm512_add_epi32(by, half);
        }
        /* (y & keep) | (x >> 16) */
        _mm512_storeu_si512(to + (size_t)part * apart,
                            _mm512_ternarylogic_epi32(by, keep, _mm512_srli_epi32(bx, 16), 0xea));
        x = _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_and_si512(bx, keep)));
        y = _mm512_sub_ps(y, _mm512_castsi512_ps(_mm512_and_si512(by, keep)));
    }
}

/*
 * c [32 or 16 rows][32 or 16 columns] = start + A W over 'slabs' slabs; rows of c and of 'start' (NULL: zeros) lie 'ldc' and
 * 'start_pitch' (0: one row for all) apart. 'apart': numbers between the parts of A, whose slabs follow each other. 'next' is
 * brought nearer, as much of it as W is read here. parts, tall and wide are constants where this is inlined.
 * Registers 0..3: C; 4, 5: rows of A; 6, 7: columns of W.
 */
SV_AMX_INLINE void sv_amx_block(float *c, int64_t ldc, const float *start, int64_t start_pitch,
                                const uint16_t *a, size_t apart, const uint16_t *w, int slabs,
                                const uint16_t *next, const int parts, const bool tall, const bool wide)
{
    const size_t line = (size_t)ldc * sizeof(float);
    const int columns = wide ? 2 : 1;
    float *below = c + SV_AMX_SIDE * ldc;
    if (start) {
        const size_t start_line = (size_t)start_pitch * sizeof(float);
        const float *start_below = start + SV_AMX_SIDE * start_pitch;
        _tile_loadd(0, start, start_line);
        if (wide) _tile_loadd(1, start + SV_AMX_SIDE, start_line);
        if (tall) _tile_loadd(2, start_below, start_line);
        if (tall && wide) _tile_loadd(3, start_below + SV_AMX_SIDE, start_line);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
#define LOAD_A(part)                                                                                         \
    do {                                                                                                     \
        _tile_loadd(4, a + (part)*apart, 64);                                                                \
        if (tall) _tile_loadd(5, a + (part)*apart + SV_AMX_NUMBERS, 64);                                     \
    } while (0)
#define LOAD_W(part)                                                                                         \
    do {                                                                                                     \
        _tile_loadd(6, w + (part)*columns * SV_AMX_NUMBERS, 64);                                             \
        if (wide) _tile_loadd(7, w + ((part)*columns + 1) * SV_AMX_NUMBERS, 64);                             \
    } while (0)
#define MULTIPLY                                                                                             \
    do {                                                                                                     \
        _tile_dpbf16ps(0, 4, 6);                                                                             \
        if (wide) _tile_dpbf16ps(1, 4, 7);                                                                   \
        if (tall) _tile_dpbf16ps(2, 5, 6);                                                                   \
        if (tall && wide) _tile_dpbf16ps(3, 5, 7);                                                           \
    } while (0)
    for (int s = 0; s < slabs; s++, a += (size_t)parts * apart, w += parts * columns * SV_AMX_NUMBERS) {
        if (next)
            for (int i = 0; i < parts * columns * 8; i++, next += 32) __builtin_prefetch(next, 0, 2);
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
#undef LOAD_A
#undef LOAD_W
#undef MULTIPLY
    _tile_stored(0, c, line);
    if (wide) _tile_stored(1, c + SV_AMX_SIDE, line);
    if (tall) _tile_stored(2, below, line);
    if (tall && wide) _tile_stored(3, below + SV_AMX_SIDE, line);
}

/* The compiler does not know what tile instructions read and write in memory: between them and ordinary code. */
#define SV_AMX_FENCE() __asm__ volatile("" ::: "memory")

#endif
