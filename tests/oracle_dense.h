/* SPDX-License-Identifier: Apache-2.0
 *
 * The dense primitives as their definitions read, on host tensors, in double precision, element by element.
 * 'rows' is the number of live rows. Results are float64 [rows, columns of the output], dense.
 */
#ifndef ORACLE_DENSE_H
#define ORACLE_DENSE_H

#include "perception/core/ops.h"

double oracle_map(sv_map map, double a, double b);
void oracle_linear(double *y, int rows, sv_tensor x, sv_tensor index, sv_tensor w, sv_tensor bias,
                   sv_map map);
void oracle_norm(double *y, int rows, sv_tensor x, sv_tensor weight, sv_tensor bias, double eps, sv_map map,
                 sv_tensor residual);
void oracle_gather(double *y, int rows, sv_tensor x, sv_tensor index, sv_tensor base);
void oracle_segments(double *y, int segments, sv_tensor x, sv_tensor start, sv_tensor rows, bool maximum);
void oracle_row_mean(double *y, int rows, sv_tensor x);

#endif
