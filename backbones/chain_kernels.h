/* SPDX-License-Identifier: Apache-2.0
 *
 * Vector kernels of the CPU's convolution chain (chain_cpu.c).
 *
 * Every convolution ends in products C[m,n] = A[m,k] W[k,n] on blocks that stay in the second-level cache.
 * A lies in slabs of 32 k: slab s holds rows 0..m-1, each 32 numbers wide, so that a row step is a constant
 *
 *     A:      [k/32][m][32] float32, as gathers and transforms write it
 *     staged: the same, or [k/32][parts][m][32] bfloat16 for matrix tiles, as products read it
 *     W:      [n/columns][k][columns] float32, or as chain_amx.c has it
 *
 * k is padded to 32 and n to 'columns' with zeros, m to 'rows' with anything finite or not: rows never mix.
 *
 * Winograd F(4x4,3x3): an output tile of 4x4 cells reads a patch of 6x6; Y = T' [ (B' d B) .* (G g G') ] T
 * with the points 0, +-a, +-b, infinity (Lavin and Gray 2015 with a = 1, b = 2; here a and b are chosen for
 * accuracy). The 36 elementwise products become 36 products [tiles, channels] x [channels, outputs].
 */
#ifndef SV_CHAIN_KERNELS_H
#define SV_CHAIN_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CHAIN_TILE = 4,   /* cells of a tile's side */
    CHAIN_CELLS = 16, /* of a tile */
    CHAIN_PATCH = 36, /* cells a Winograd tile reads; also its number of products */
    CHAIN_SLAB = 32,  /* k of a slab */
    CHAIN_ALIGN = 16, /* channels: a node's columns start at multiples of this */
};

/* The interpolation points of the Winograd transforms. */
#define CHAIN_POINT_A 0.6875
#define CHAIN_POINT_B 1.5

typedef struct sv_chain_kernels {
    int rows, columns; /* blocks of m and n */
    int bytes;         /* of a number of W and of staged A */
    /* Around the products of a task, on its thread; NULL: nothing to do. */
    void (*begin)(void);
    void (*end)(void);
    /* W [k,n] row-major, k and n padded already, to the packed layout. */
    void (*pack)(void *to, const float *w, int k, int n);
    /* A to staged A; NULL: products read A as it is. */
    void (*stage)(void *to, const float *a, int m, int k);
    /* c [m][ldc] = A W for all n columns, A staged. m, n multiples of rows, columns. */
    void (*product)(float *c, int ldc, const void *a, const void *w, int m, int n, int k);
    /* Columns first..first+channels-1 of rows 0..count-1 of A (m rows) from rows of 'channels'; zeros up
     * to 'padded'. */
    void (*gather)(float *a, int m, int first, const float *const *from, int count, int channels, int padded);
    /* Row t (of m) of each V[xi] (xi_step floats apart) from the 36 cells of a patch; zeros up to 'padded'
     * channels. */
    void (*winograd_in)(float *v, size_t xi_step, int m, int t, const float *const *from, int channels,
                        int padded);
    /* Cells to[0..15] (NULL: not wanted) = [relu](Y + bias [+ add]), Y from M[xi] (xi_step floats apart). */
    void (*winograd_out)(float *const *to, const float *const *add, const float *m, size_t xi_step,
                         const float *bias, bool relu, int channels);
    /* to[i] (NULL: not wanted) = [relu](c[i] + bias [+ add[i]]) for count rows. */
    void (*finish)(float *const *to, const float *const *add, const float *c, int ldc, const float *bias,
                   bool relu, int count, int channels);
} sv_chain_kernels;

/*
 * Kernels on matrix tiles (chain_amx.c), with float32 numbers as two or three bfloat16 parts; false when the
 * processor or the system has no such tiles.
 */
bool sv_chain_matrix_kernels(sv_chain_kernels *kernels, int parts);

#endif
