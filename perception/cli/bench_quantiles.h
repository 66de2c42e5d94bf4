/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SV_BENCH_QUANTILES_H
#define SV_BENCH_QUANTILES_H

#include <stdlib.h>

typedef struct sv_quantiles {
    double p50, p90, p99;
} sv_quantiles;

static inline int sv_by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nearest-rank quantiles of at least one value; sorts 'values'. */
static inline sv_quantiles sv_quantiles_of(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, sv_by_value);
    const int p90 = (count * 90 + 99) / 100 - 1, p99 = (count * 99 + 99) / 100 - 1;
    return (sv_quantiles){values[(count - 1) / 2], values[p90], values[p99]};
}

#endif
