/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna bench operators: the exchangeable operators beside each other.
 */
#ifndef SV_BENCH_OPERATORS_H
#define SV_BENCH_OPERATORS_H

#include "app.h"

typedef struct sv_bench_grid {
    sv_texts only;                           /* names; none: all */
    const char *channels, *lengths, *groups; /* lists of whole numbers */
    bool full;                               /* every combination */
    int rounds, stream;                      /* tokens of the long stream; 0: none */
    const char *direction;                   /* of those with a choice; NULL: as shipped, both ways */
    const char *csv, *plot, *peer;           /* NULL: none */
} sv_bench_grid;

/* Exit code. */
int sv_bench_operators(const sv_app *app, const sv_bench_grid *grid);

#endif
