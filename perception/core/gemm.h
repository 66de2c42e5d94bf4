/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products on the CPU, one thread, for use inside a pool task:
 *
 *     y[out(i)] = map(add[out(i)] + bias + x[in(i)] B),      i = first .. first + rows - 1
 *
 * B [k, n] is packed once. A row of the left side is 'parts' pieces of k / parts consecutive floats, piece p
 * of row i being x + index[i * index_pitch + p] * x_pitch; an index below zero stands for zeros. One piece is
 * a matrix product with gathered rows, 9 or 27 pieces are a convolution without an intermediate matrix.
 *
 * A row's result depends on nothing but its inputs: not on its place, not on how the rows are split into calls. Vector
 * code adds the products of a row in ascending k by one chain of multiply-adds that begins with add + bias; matrix
 * tiles (amx.h), where there are any and k and n fill them, add runs of k of the same accuracy.
 */
#ifndef SV_GEMM_H
#define SV_GEMM_H

#include "ops.h"

typedef struct sv_gemm {
    int k, n;
    const float *b;       /* from sv_gemm_pack() */
    const float *x;       /* left side */
    int64_t x_pitch;      /* floats between rows of x */
    int parts;            /* pieces of a row; divides k; 0 means 1 */
    const int32_t *index; /* rows of x; NULL (one piece only): row i itself */
    int64_t index_pitch;  /* entries between rows of index */
    float *y;
    int64_t y_pitch;
    const int32_t *y_index; /* out(i); distinct; NULL: i */
    const float *add;       /* rows of y's numbering, may be y itself (accumulate); NULL: 0 */
    int64_t add_pitch;
    const float *bias; /* [n]; NULL: 0 */
    sv_map map;        /* a unary map */
} sv_gemm;

/* Floats that B takes when packed. */
size_t sv_gemm_packed_count(int k, int n);
/* Element (p, j) of B is b[p * k_step + j * n_step]. 'packed' is 64-byte aligned. */
void sv_gemm_pack(float *packed, int k, int n, const float *b, int64_t k_step, int64_t n_step);
/* Compute rows first .. first + rows - 1. Numbers of rows in multiples of sv_gemm_row_block() run best. */
void sv_gemm_run(const sv_gemm *g, int first, int rows);
int sv_gemm_row_block(int k, int n);

#endif
