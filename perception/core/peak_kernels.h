/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SV_PEAK_KERNELS_H
#define SV_PEAK_KERNELS_H

/* 'rounds' rounds of SV_PEAK_CHAINS dependent multiply-adds on full vectors; returns a value that depends on all of them. */
enum { SV_PEAK_CHAINS = 12 };
typedef struct sv_peak_kernels {
    float (*multiply_add)(int rounds, float seed);
    int lanes;
} sv_peak_kernels;

/* The same on matrix tiles: 'rounds' rounds of SV_PEAK_TILE_FLOP of bfloat16 products. NULL without such tiles. */
enum { SV_PEAK_TILE_FLOP = 4 * 2 * 16 * 16 * 32 };
typedef float (*sv_peak_tiles_fn)(int rounds, float seed);
sv_peak_tiles_fn sv_peak_tiles(void);

#endif
