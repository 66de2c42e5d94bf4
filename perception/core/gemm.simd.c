/* SPDX-License-Identifier: Apache-2.0
 *
 * Register tiles of ROWS x (VECTORS vectors) of y, held in registers over a run of k (see gemm.h):
 *
 *     B packed:  panel 0 [k][PANEL]  panel 1 [k][PANEL] ...      PANEL = VECTORS * SV_VL columns, zero-padded
 *     A block:   ROWS x up to DEPTH columns, copied to a buffer of constant pitch in L1: the copy does the
 *                gathering, and a constant pitch lets the inner loop address all rows from one register
 *     per k:     VECTORS loads of B, ROWS broadcasts of A, ROWS * VECTORS multiply-adds
 *
 * A panel of B is read from L2 once per ROWS rows: 128 bytes per 12 cycles with AVX-512, well below what L2
 * gives. Runs longer than DEPTH are cut; the sums go through y, which rounds nothing, so the cut changes no
 * bits.
 */
#include "gemm_cpu.h"

#include "map_cpu.h"

#if SV_SIMD_ISA == 2
enum { ROWS = 12, VECTORS = 2 }; /* 24 of 32 registers hold sums */
#elif SV_SIMD_ISA == 1
enum { ROWS = 6, VECTORS = 2 }; /* 12 of 16 */
#else
enum { ROWS = 4, VECTORS = 8 }; /* the compiler makes SSE2 of the inner loop */
#endif
/* the pitch spreads the rows over the sets of a cache */
enum { PANEL = VECTORS * SV_VL, DEPTH = 512, PITCH = DEPTH + 16 };

/* The rows of y a tile works on: where they start from and where they go. Rows beyond 'count' are padding. */
typedef struct target {
    int count;
    float *y[ROWS];
    const float *start[ROWS]; /* added to bias; NULL: none */
} target;

static void pack(float *packed, int k, int n, const float *b, int64_t k_step, int64_t n_step)
{
    for (int first = 0; first < n; first += PANEL)
        for (int p = 0; p < k; p++)
            for (int j = first; j < first + PANEL; j++) *packed++ = j < n ? b[p * k_step + j * n_step] : 0.0f;
}

static inline void copy_floats(float *to, const float *from, int count)
{
    int i = 0;
    for (; i + SV_VL <= count; i += SV_VL) vf_store(to + i, vf_load(from + i));
    if (i < count) vf_store_n(to + i, vf_load_n(from + i, count - i), count - i);
}

static inline void zero_floats(float *to, int count)
{
    int i = 0;
    for (; i + SV_VL <= count; i += SV_VL) vf_store(to + i, m_set(0.0f));
    if (i < count) vf_store_n(to + i, m_set(0.0f), count - i);
}

/* Columns from..to-1 of 'count' rows of the left side. */
static void copy_rows(float *a, const sv_gemm *g, int first, int count, int from, int to)
{
    const int piece = g->parts > 1 ? g->k / g->parts : g->k;
    for (int r = 0; r < ROWS; r++) {
        float *row = a + r * PITCH;
        if (r >= count) {
            zero_floats(row, to - from);
            continue;
        }
        for (int column = from; column < to;) {
            const int p = column / piece, offset = column - p * piece;
            const int length = piece - offset < to - column ? piece - offset : to - column;
            const int64_t i = g->index ? g->index[(first + r) * g->index_pitch + p] : first + r;
            if (i >= 0)
                copy_floats(row, g->x + i * g->x_pitch + offset, length);
            else
                zero_floats(row, length);
            row += length;
            column += length;
        }
    }
}

/* Lanes of vector v that lie within 'left' columns. */
static inline int lanes_of(int left, int v)
{
    const int lanes = left - v * SV_VL;
    return lanes < 0 ? 0 : lanes > SV_VL ? SV_VL : lanes;
}

/* One register tile: columns column .. column + left - 1. 'vectors' is a constant where this is inlined. */
static inline __attribute__((always_inline)) void tile(const target *t, int column, int left, const float *a,
                                                       const float *b, int k, const float *bias,
                                                       const int vectors)
{
    vf sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) {
        const int lanes = lanes_of(left, v);
        const vf constant = bias ? vf_load_n(bias + column + v * SV_VL, lanes) : m_set(0.0f);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) sum[r][v] = constant;
    }
    if (t->start[0]) {
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++)
                sum[r][v] = vf_load_n(t->start[r] + column + v * SV_VL, lanes_of(left, v)) + sum[r][v];
    }
#pragma GCC unroll 2
    for (int p = 0; p < k; p++) {
        vf row_of_b[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) row_of_b[v] = vf_load(b + p * PANEL + v * SV_VL);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            const vf element = m_set(a[r * PITCH + p]);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) sum[r][v] = m_fma(element, row_of_b[v], sum[r][v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
        if (r >= t->count) break;
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            float *to = t->y[r] + column + v * SV_VL;
            const int lanes = lanes_of(left, v);
            if (lanes == SV_VL)
                vf_store(to, sum[r][v]);
            else if (lanes > 0)
                vf_store_n(to, sum[r][v], lanes);
        }
    }
}

/* All columns of ROWS rows for one run of k. */
static void row_block(const sv_gemm *g, const target *t, const float *a, int from, int to, const float *bias)
{
    for (int column = 0; column < g->n; column += PANEL) {
        const float *b = g->b + (int64_t)column * g->k + (int64_t)from * PANEL;
        const int left = g->n - column < PANEL ? g->n - column : PANEL;
        if (left > SV_VL)
            tile(t, column, left, a, b, to - from, bias, VECTORS);
        else
            tile(t, column, left, a, b, to - from, bias, 1);
    }
}

static void run(const sv_gemm *g, int first, int rows)
{
    float a[ROWS * PITCH] __attribute__((aligned(64)));
    const int piece = g->parts > 1 ? g->k / g->parts : g->k;
    const int depth = piece < DEPTH ? DEPTH / piece * piece : DEPTH; /* whole pieces where they fit */
    for (int i = first; i < first + rows; i += ROWS) {
        target t = {.count = first + rows - i < ROWS ? first + rows - i : ROWS};
        for (int r = 0; r < ROWS; r++) {
            const int row = i + (r < t.count ? r : 0);
            const int64_t out = g->y_index ? g->y_index[row] : row;
            t.y[r] = g->y + out * g->y_pitch;
            t.start[r] = g->add ? g->add + out * g->add_pitch : NULL;
        }
        for (int from = 0; from < g->k; from += depth) {
            const int to = g->k - from < depth ? g->k : from + depth;
            copy_rows(a, g, i, t.count, from, to);
            row_block(g, &t, a, from, to, from == 0 ? g->bias : NULL);
            for (int r = 0; r < ROWS; r++) t.start[r] = t.y[r];
        }
        if (g->map != SV_MAP_identity) {
            void (*const map)(float *, const float *, const float *, int64_t) =
                SV_SIMD(sv_map_kernels).run[g->map];
            for (int r = 0; r < t.count; r++) map(t.y[r], t.y[r], NULL, g->n);
        }
    }
}

const sv_gemm_kernels SV_SIMD(sv_gemm_kernels) = {
    .row_block = ROWS, .panel = PANEL, .pack = pack, .run = run};
