/* SPDX-License-Identifier: Apache-2.0
 *
 * The voxel operations once more, as plainly as they can be said: maps by linear search, sorts by qsort, sums
 * in double. Written from the description of the model, not from voxel/. Arrays are malloc'ed by the caller.
 */
#ifndef ORACLE_VOXEL_H
#define ORACLE_VOXEL_H

#include "perception/core/ops.h"

typedef struct oracle_voxels {
    int count, points;
    int32_t *coords; /* [count,4] */
    int32_t *voxel;  /* [points] voxel of each kept point, in the order (voxel, row) */
    int32_t *row;    /* [points] */
} oracle_voxels;

/* points [n,columns] of samples that begin at offsets[b]. */
oracle_voxels oracle_voxelize(const float *points, int columns, const int32_t *offsets, int batch,
                              const sv_grid *grid);
void oracle_voxels_free(oracle_voxels *v);
/* features [points, columns+6], mean in double */
void oracle_point_features(float *y, const oracle_voxels *v, const float *points, int columns,
                           const sv_grid *grid);

/* Rows of sample after sample in sequence order ('direction' 0: x, 1: y). */
void oracle_window_order(int32_t *order, const int32_t *coords, int rows, const sv_window *w, int direction);
/* flat2win of one sample of n rows: the rank each of the padded slots reads; returns the number of slots. */
int oracle_slots(int32_t *ranks, int n, int group);

/* The K best of the rows first..first+rows-1, ascending, by repeated search. */
void oracle_top(int32_t *picks, int k, const float *scores, int first, int rows);

/* inputs [n,4] (copies included) to merged coords [*,4] and inverse [n]; returns the number of merged rows.
 */
int oracle_merge(int32_t *merged, int32_t *inverse, const int32_t *inputs, int n, const int32_t shape[3],
                 const int32_t scale[3]);

/* row of the voxel at these coordinates or -1 */
int oracle_find(const int32_t *coords, int rows, int b, int z, int y, int x);
/* y [rows,out] in double from w [out,3,3,3,in] */
void oracle_subm(double *y, const float *x, const int32_t *coords, int rows, const float *w, int in, int out);

#endif
