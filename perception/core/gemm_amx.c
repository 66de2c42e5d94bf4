/* SPDX-License-Identifier: Apache-2.0
 *
 * gemm.h on matrix tiles (amx.h). A block of ROWS rows takes k in runs of DEPTH slabs of 32:
 *
 *     x          gathered and split into three bfloat16 parts, [slab][part][rows][32]
 *     B packed   [run][n / 32][slab of the run][part][2 or 1][512]
 *     sums       of a run and 32 x 32 of the results, then added to bias, 'add' or what the run before left in y
 */
#include "perception/core/gemm_cpu.h"

#include "perception/core/map_cpu.h"

#include <string.h>

#if defined(__x86_64__) && defined(__linux__)
#include "perception/core/amx.h"

enum { ROWS = 64, DEPTH = 4, PARTS = 3, WIDE = 2 * SV_AMX_SIDE };

static const float zeros[SV_AMX_SLAB];

static int slabs_of(int k)
{
    return (k + SV_AMX_SLAB - 1) / SV_AMX_SLAB;
}
static int columns_of(int n)
{
    return (n + SV_AMX_SIDE - 1) / SV_AMX_SIDE * SV_AMX_SIDE;
}
static int least(int a, int b)
{
    return a < b ? a : b;
}

static SV_AMX __mmask16 lanes(int left)
{
    return (__mmask16)(left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1u);
}
static int64_t row_of_y(const sv_gemm *g, int row)
{
    return g->y_index ? g->y_index[row] : row;
}

static size_t count(int k, int n)
{
    return (size_t)slabs_of(k) * SV_AMX_SLAB * (size_t)columns_of(n) * PARTS * sizeof(uint16_t) /
           sizeof(float);
}

static SV_AMX void pack(float *packed, int k, int n, const float *b, int64_t k_step, int64_t n_step)
{
    uint16_t *to = (uint16_t *)(void *)packed;
    const int slabs = slabs_of(k), columns = columns_of(n);
    for (int run = 0; run < slabs; run += DEPTH)
        for (int panel = 0; panel < columns; panel += WIDE) {
            const int wide = least(columns - panel, WIDE);
            for (int slab = run; slab < least(run + DEPTH, slabs); slab++) {
                for (int pair = 0; pair < 16; pair++)
                    for (int column = panel; column < panel + wide; column += SV_AMX_SIDE) {
                        float lane[2][SV_AMX_SIDE] = {{0}};
                        for (int half = 0; half < 2; half++) {
                            const int p = slab * SV_AMX_SLAB + half * 16 + pair;
                            for (int j = 0; j < SV_AMX_SIDE && p < k; j++)
                                if (column + j < n) lane[half][j] = b[p * k_step + (column + j) * n_step];
                        }
                        sv_amx_split(to + (column - panel) / SV_AMX_SIDE * SV_AMX_NUMBERS + pair * 32,
                                     (size_t)(wide / SV_AMX_SIDE) * SV_AMX_NUMBERS, _mm512_loadu_ps(lane[0]),
                                     _mm512_loadu_ps(lane[1]), PARTS);
                    }
                to += PARTS * wide / SV_AMX_SIDE * SV_AMX_NUMBERS;
            }
        }
}

/* Columns 'from' .. 'from' + 31 of a row of the left side that is made of short pieces; zeros behind its end. */
static void collect(float *out, const sv_gemm *g, int row, int from, int piece)
{
    for (int j = 0; j < SV_AMX_SLAB; j++) {
        const int p = from + j;
        out[j] = 0;
        if (p >= g->k) continue;
        const int64_t i = g->index ? g->index[row * g->index_pitch + p / piece] : row;
        if (i >= 0) out[j] = g->x[i * g->x_pitch + p % piece];
    }
}

/* Rows first .. first + rows - 1, slabs 'slab' .. of the left side, to [slab][part][m][32]; rows behind the last: anything. */
static SV_AMX void stage(uint16_t *to, const sv_gemm *g, int first, int rows, int m, int slab, int slabs)
{
    const int piece = g->parts > 1 ? g->k / g->parts : g->k;
    const size_t apart = (size_t)m * SV_AMX_SLAB;
    for (int s = slab; s < slab + slabs; s++, to += PARTS * apart) {
        const int from = s * SV_AMX_SLAB, part = from / piece, offset = from % piece;
        const int left = piece - offset;
        const bool short_pieces = g->parts > 1 && left < SV_AMX_SLAB;
        const __mmask16 low = lanes(short_pieces ? 16 : left), high = lanes(short_pieces ? 16 : left - 16);
        for (int r = 0; r < rows; r++) {
            float buffer[SV_AMX_SLAB];
            const float *x = buffer;
            if (short_pieces) {
                collect(buffer, g, first + r, from, piece);
            } else {
                const int64_t i = g->index ? g->index[(first + r) * g->index_pitch + part] : first + r;
                x = i < 0 ? zeros : g->x + i * g->x_pitch + offset;
            }
            sv_amx_split(to + r * SV_AMX_SLAB, apart, _mm512_maskz_loadu_ps(low, x),
                         _mm512_maskz_loadu_ps(high, x + 16), PARTS);
        }
    }
}

/* What the sums of columns column .. of row 'row' begin with, and where they go. */
static SV_AMX __m512 begin_sums(const sv_gemm *g, int64_t out, int column, __mmask16 mask, bool later)
{
    if (later) return _mm512_maskz_loadu_ps(mask, g->y + out * g->y_pitch + column);
    __m512 sum = g->bias ? _mm512_maskz_loadu_ps(mask, g->bias + column) : _mm512_setzero_ps();
    if (g->add) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, g->add + out * g->add_pitch + column), sum);
    return sum;
}

/* Rows first .. and columns column .., at most 32 of each, for one run of k; 'later' runs go on with what y holds. */
static SV_AMX void run_tile(const sv_gemm *g, const uint16_t *a, size_t apart, const uint16_t *w, int slabs,
                            int first, int rows, int column, bool later)
{
    const int left = least(g->n - column, WIDE);
    const bool tall = rows > SV_AMX_SIDE, wide = left > SV_AMX_SIDE;
    /* Whole tiles are read and written where they lie, others through c. */
    const bool whole = rows == (tall ? WIDE : SV_AMX_SIDE) && left == (wide ? WIDE : SV_AMX_SIDE) &&
                       !g->y_index && !(g->add && g->bias && !later);
    _Alignas(64) float c[WIDE * WIDE];
    float *to = c;
    const float *start = c;
    int64_t pitch = WIDE, start_pitch = WIDE;
    if (whole) {
        to = g->y + first * g->y_pitch + column;
        pitch = start_pitch = g->y_pitch;
        start = to;
        if (!later) {
            start = g->add ? g->add + first * g->add_pitch + column : g->bias ? g->bias + column : NULL;
            start_pitch = g->add ? g->add_pitch : 0;
        }
    } else {
        for (int half = 0; half < left; half += SV_AMX_SIDE) {
            const __mmask16 mask = lanes(left - half);
            for (int r = 0; r < rows; r++)
                _mm512_store_ps(c + r * WIDE + half,
                                begin_sums(g, row_of_y(g, first + r), column + half, mask, later));
        }
        SV_AMX_FENCE();
    }
    if (tall && wide)
        sv_amx_block(to, pitch, start, start_pitch, a, apart, w, slabs, NULL, PARTS, true, true);
    else if (tall)
        sv_amx_block(to, pitch, start, start_pitch, a, apart, w, slabs, NULL, PARTS, true, false);
    else if (wide)
        sv_amx_block(to, pitch, start, start_pitch, a, apart, w, slabs, NULL, PARTS, false, true);
    else
        sv_amx_block(to, pitch, start, start_pitch, a, apart, w, slabs, NULL, PARTS, false, false);
    SV_AMX_FENCE();
    if (whole) return;
    for (int half = 0; half < left; half += SV_AMX_SIDE)
        for (int r = 0; r < rows; r++)
            _mm512_mask_storeu_ps(g->y + row_of_y(g, first + r) * g->y_pitch + column + half,
                                  lanes(left - half), _mm512_load_ps(c + r * WIDE + half));
}

static SV_AMX void run_block(const sv_gemm *g, int first, int rows)
{
    _Alignas(64) uint16_t staged[DEPTH * PARTS * ROWS * SV_AMX_SLAB];
    const int m = (rows + SV_AMX_SIDE - 1) / SV_AMX_SIDE * SV_AMX_SIDE, slabs = slabs_of(g->k);
    const size_t apart = (size_t)m * SV_AMX_SLAB;
    const uint16_t *w = (const uint16_t *)(const void *)g->b;
    for (int slab = 0; slab < slabs; slab += DEPTH) {
        const int run = least(slabs - slab, DEPTH);
        stage(staged, g, first, rows, m, slab, run);
        SV_AMX_FENCE();
        for (int column = 0; column < g->n; column += WIDE) {
            for (int i = 0; i < m; i += WIDE)
                run_tile(g, staged + i * SV_AMX_SLAB, apart, w, run, first + i, least(rows - i, WIDE), column,
                         slab > 0);
            w += (size_t)run * PARTS * (g->n - column > SV_AMX_SIDE ? 2 : 1) * SV_AMX_NUMBERS;
        }
    }
    extern const sv_map_kernels sv_map_kernels_avx512;
    if (g->map != SV_MAP_identity)
        for (int r = 0; r < rows; r++) {
            float *y = g->y + row_of_y(g, first + r) * g->y_pitch;
            sv_map_kernels_avx512.run[g->map](y, y, NULL, g->n);
        }
}

static SV_AMX void run(const sv_gemm *g, int first, int rows)
{
    sv_amx_begin();
    for (int i = 0; i < rows; i += ROWS) run_block(g, first + i, least(rows - i, ROWS));
    sv_amx_end();
}
const sv_gemm_kernels *sv_gemm_matrix_kernels(void)
{
    static const sv_gemm_kernels kernels = {.row_block = ROWS, .count = count, .pack = pack, .run = run};
    return sv_simd_matrix() ? &kernels : NULL;
}
#else
const sv_gemm_kernels *sv_gemm_matrix_kernels(void)
{
    return NULL;
}
#endif
