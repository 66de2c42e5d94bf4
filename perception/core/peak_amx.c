/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of matrix tiles from registers, as many as go.
 */
#include "peak_kernels.h"

#include "simd.h"

#if defined(__x86_64__) && defined(__linux__)
#include "amx.h"

static SV_AMX float multiply(int rounds, float seed)
{
    _Alignas(64) uint16_t numbers[4][SV_AMX_NUMBERS];
    _Alignas(64) float sums[4][SV_AMX_SIDE * SV_AMX_SIDE];
    uint32_t state = 1 + (uint32_t)(seed * 1e6f);
    for (int i = 0; i < 4 * SV_AMX_NUMBERS; i++) { /* either sign, 1/2 to 2 */
        state = state * 1664525u + 1013904223u;
        numbers[i / SV_AMX_NUMBERS][i % SV_AMX_NUMBERS] = (uint16_t)(0x3f00u | (state >> 16 & 0x80ffu));
    }
    sv_amx_begin();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, numbers[0], 64);
    _tile_loadd(5, numbers[1], 64);
    _tile_loadd(6, numbers[2], 64);
    _tile_loadd(7, numbers[3], 64);
    for (int i = 0; i < rounds; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    sv_amx_end();
    return sums[0][0] + sums[1][1] + sums[2][2] + sums[3][3];
}

sv_peak_tiles_fn sv_peak_tiles(void)
{
    return sv_simd_matrix() ? multiply : 0;
}
#else
sv_peak_tiles_fn sv_peak_tiles(void)
{
    return 0;
}
#endif
