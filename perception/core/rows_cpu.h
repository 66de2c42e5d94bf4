/* SPDX-License-Identifier: Apache-2.0
 *
 * The vector part of rows.c.
 */
#ifndef SV_ROWS_CPU_H
#define SV_ROWS_CPU_H

#include "simd.h"

#include <stdint.h>

/* Rows of x in the order of a list; NULL: as they lie. */
typedef struct sv_row_list {
    const float *x;
    int64_t x_pitch;
    const int32_t *rows;
    int64_t rows_pitch;
} sv_row_list;

typedef struct sv_rows_kernels {
    void (*copy)(float *y, const float *x, int n);                   /* y = x, bit by bit */
    void (*zero)(float *y, int n);                                   /* y = 0 */
    void (*add)(float *y, const float *base, const float *x, int n); /* y = base + x */
    /* y = sum or maximum of the list's entries from..to-1, in this order; 0 when there are none */
    void (*sum)(float *y, const sv_row_list *list, int64_t from, int64_t to, int n);
    void (*max)(float *y, const sv_row_list *list, int64_t from, int64_t to, int n);
} sv_rows_kernels;
SV_SIMD_TABLE(sv_rows_kernels);

#endif
