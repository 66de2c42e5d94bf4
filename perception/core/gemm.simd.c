/* SPDX-License-Identifier: Apache-2.0
 *
 * Register tiles of ROWS x (VECTORS vectors) of y, held in registers over a run of k (see gemm.h):
 *
 *     B packed:  panel 0 [k][PANEL]  panel 1 [k][PANEL] ...      PANEL = VECTORS * SV_VL columns, zero-padded
 *     x:         read in place through ROWS pointers, which do the gathering; missing rows point at zeros
 *     per k:     VECTORS loads of B, ROWS broadcasts of x, ROWS * VECTORS multiply-adds
 *
 * A block of BLOCK rows takes k in runs of at most DEPTH: a panel's part of a run (32 KB with AVX-512) stays
 * in L1 while the block's rows of x come from L2. Between runs the sums go through y, which rounds nothing, so
 * the cuts change no bits.
 */
#include "gemm_cpu.h"

#include "map_cpu.h"

#if SV_SIMD_ISA == 2
enum { ROWS = 6, VECTORS = 4 }; /* 24 of 32 registers hold sums */
#elif SV_SIMD_ISA == 1
enum { ROWS = 6, VECTORS = 2 }; /* 12 of 16 */
#else
enum { ROWS = 4, VECTORS = 8 }; /* the compiler makes SSE2 of the inner loop */
#endif
enum { PANEL = VECTORS * SV_VL, BLOCK = 16 * ROWS, DEPTH = 128, PIECES = 16 };

/* A run of k for BLOCK rows: 'pieces' pieces of 'length' floats; rows beyond the last repeat the first. */
typedef struct run_rows {
    int rows, pieces, length;
    const float *x[PIECES][BLOCK];
    float *y[BLOCK];
    const float *start[BLOCK]; /* what the sums begin with beside the bias; all NULL: nothing */
} run_rows;

static const float zeros[DEPTH];

static size_t count(int k, int n)
{
    return (size_t)(n + PANEL - 1) / PANEL * PANEL * (size_t)k;
}

static void pack(float *packed, int k, int n, const float *b, int64_t k_step, int64_t n_step)
{
    for (int first = 0; first < n; first += PANEL)
        for (int p = 0; p < k; p++)
            for (int j = first; j < first + PANEL; j++) *packed++ = j < n ? b[p * k_step + j * n_step] : 0.0f;
}

/* Lanes of vector v that lie within 'left' columns. */
static inline int lanes_of(int left, int v)
{
    const int lanes = left - v * SV_VL;
    return lanes < 0 ? 0 : lanes > SV_VL ? SV_VL : lanes;
}

/*
 * One register tile: rows first .. first + ROWS - 1, columns column .. column + left - 1. 'vectors' is a
 * constant where this is inlined.
 */
static inline __attribute__((always_inline)) void tile(const run_rows *t, int first, int column, int left,
                                                       const float *b, const float *bias, const int vectors)
{
    vf sum[ROWS][VECTORS];
    SV_UNROLL
    for (int v = 0; v < vectors; v++) {
        const int lanes = lanes_of(left, v);
        const vf constant = bias ? vf_load_n(bias + column + v * SV_VL, lanes) : m_set(0.0f);
        SV_UNROLL
        for (int r = 0; r < ROWS; r++) sum[r][v] = constant;
    }
    if (t->start[first]) {
        SV_UNROLL
        for (int r = 0; r < ROWS; r++) SV_UNROLL
        for (int v = 0; v < vectors; v++)
            sum[r][v] = vf_load_n(t->start[first + r] + column + v * SV_VL, lanes_of(left, v)) + sum[r][v];
    }
    const int64_t length = t->length;
    for (int piece = 0; piece < t->pieces; piece++) {
        const float *const *x = &t->x[piece][first];
        const float *row[ROWS];
        SV_UNROLL
        for (int r = 0; r < ROWS; r++) row[r] = x[r];
        for (int64_t p = 0; p < length; p++) {
            vf row_of_b[VECTORS];
            SV_UNROLL
            for (int v = 0; v < vectors; v++) row_of_b[v] = vf_load(b + v * SV_VL);
            b += PANEL;
            SV_UNROLL
            for (int r = 0; r < ROWS; r++) {
                const vf element = m_set(row[r][p]);
                SV_UNROLL
                for (int v = 0; v < vectors; v++) sum[r][v] = m_fma(element, row_of_b[v], sum[r][v]);
            }
        }
    }
    SV_UNROLL
    for (int r = 0; r < ROWS; r++) {
        if (first + r >= t->rows) break;
        SV_UNROLL
        for (int v = 0; v < vectors; v++) {
            float *to = t->y[first + r] + column + v * SV_VL;
            const int lanes = lanes_of(left, v);
            if (lanes == SV_VL)
                vf_store(to, sum[r][v]);
            else if (lanes > 0)
                vf_store_n(to, sum[r][v], lanes);
        }
    }
}

/* Ask for the rows of a tile that is due next: gathered rows defeat the hardware's prefetcher. */
static inline void prefetch_rows(const run_rows *t, int first)
{
    if (first >= t->rows) return;
    for (int piece = 0; piece < t->pieces; piece++)
        for (int r = first; r < first + ROWS; r++)
            for (int p = 0; p < t->length; p += 16) __builtin_prefetch(t->x[piece][r] + p);
}

/* All columns of the rows for one run of k. */
static void multiply(const run_rows *t, const sv_gemm *g, int from, const float *bias)
{
    for (int column = 0; column < g->n; column += PANEL) {
        const float *b = g->b + (int64_t)column * g->k + (int64_t)from * PANEL;
        const int left = g->n - column < PANEL ? g->n - column : PANEL;
        for (int first = 0; first < t->rows; first += ROWS) {
            if (column == 0) prefetch_rows(t, first + ROWS);
            if (left > 3 * PANEL / 4)
                tile(t, first, column, left, b, bias, VECTORS);
            else if (left > PANEL / 2)
                tile(t, first, column, left, b, bias, (3 * VECTORS + 3) / 4);
            else if (left > PANEL / 4)
                tile(t, first, column, left, b, bias, (VECTORS + 1) / 2);
            else
                tile(t, first, column, left, b, bias, (VECTORS + 3) / 4);
        }
    }
}

/* The rows' pointers for columns from .. from + pieces * length - 1 of the left side. */
static void point_at_rows(run_rows *t, const sv_gemm *g, int first, int piece, int from)
{
    const int part = from / piece, offset = from - part * piece;
    for (int p = 0; p < t->pieces; p++)
        for (int r = 0; r < (t->rows + ROWS - 1) / ROWS * ROWS; r++) {
            const int row = first + (r < t->rows ? r : 0);
            const int64_t i = g->index ? g->index[row * g->index_pitch + part + p] : row;
            t->x[p][r] = i < 0 ? zeros : g->x + i * g->x_pitch + offset;
        }
}

static void run_block(const sv_gemm *g, int first, int rows)
{
    run_rows t;
    t.rows = rows;
    for (int r = 0; r < (rows + ROWS - 1) / ROWS * ROWS; r++) {
        const int row = first + (r < rows ? r : 0);
        const int64_t out = g->y_index ? g->y_index[row] : row;
        t.y[r] = g->y + out * g->y_pitch;
        t.start[r] = g->add ? g->add + out * g->add_pitch : NULL;
    }
    const int piece = g->parts > 1 ? g->k / g->parts : g->k;
    for (int from = 0; from < g->k; from += t.pieces * t.length) {
        const int left = piece - from % piece; /* of the piece at 'from' */
        const int whole = DEPTH / piece < PIECES ? DEPTH / piece : PIECES, remaining = (g->k - from) / piece;
        t.pieces = whole < 1 ? 1 : whole < remaining ? whole : remaining;
        t.length = whole >= 1 ? piece : left < DEPTH ? left : DEPTH;
        point_at_rows(&t, g, first, piece, from);
        multiply(&t, g, from, from == 0 ? g->bias : NULL);
        for (int r = 0; r < BLOCK; r++) t.start[r] = t.y[r];
    }
    if (g->map != SV_MAP_identity)
        for (int r = 0; r < rows; r++) SV_SIMD(sv_map_kernels).run[g->map](t.y[r], t.y[r], NULL, g->n);
}

static void run(const sv_gemm *g, int first, int rows)
{
    for (int i = 0; i < rows; i += BLOCK) run_block(g, first + i, rows - i < BLOCK ? rows - i : BLOCK);
}

const sv_gemm_kernels SV_SIMD(sv_gemm_kernels) = {
    .row_block = BLOCK, .count = count, .pack = pack, .run = run};
