/* SPDX-License-Identifier: Apache-2.0
 *
 * What 'savanna bench operators' has measured, for the files that print, draw and compare it.
 */
#ifndef SV_BENCH_REPORT_H
#define SV_BENCH_REPORT_H

#include "bench_operators.h"

#include "backbones/operator.h"

enum {
    SV_BENCH_MOST = 8,
    SV_BENCH_POINTS = SV_BENCH_MOST * SV_BENCH_MOST * SV_BENCH_MOST,
    SV_BENCH_LOOKS = 3
};

typedef struct sv_bench_list {
    int value[SV_BENCH_MOST], count;
} sv_bench_list;

typedef struct sv_bench_point {
    int channels, length, groups;
    double ms, work_ms, flops; /* on the clock; of all threads together */
    double launched_ms;        /* a GPU's, launched call by call; 0: 'ms' is no replay of a captured graph */
    double peer_ms, peer_launched_ms; /* 0: unknown */
    size_t work_bytes;                /* beside input, output and weights */
} sv_bench_point;

typedef struct sv_bench_report {
    const sv_operator *type;
    bool quadratic;
    int64_t parameters[SV_BENCH_MOST];
    int memory; /* floats of a group's recurrent state */
    sv_bench_point points[SV_BENCH_POINTS];
    int point_count;
    double exponent[SV_BENCH_MOST]; /* by number of channels */
    int seen[SV_BENCH_LOOKS];       /* tokens of the stream at each look; 0: no stream */
    double norm[SV_BENCH_LOOKS], outlier[SV_BENCH_LOOKS],
        kept[SV_BENCH_LOOKS]; /* root mean square; largest over it; left of the first tokens */
    double growth;            /* exponent of the norm between the last two looks */
} sv_bench_report;

typedef struct sv_bench_run {
    const sv_app *app;
    const sv_bench_grid *grid;
    sv_ctx *c;
    sv_bench_list channels, lengths, groups;
    sv_bench_report *reports;
    int count;
    char peer_name[256];
} sv_bench_run;

double sv_bench_token_us(const sv_bench_point *p);

/* bench_operators_peer.c: asks the peer for the shapes that were measured; prints what both have. */
sv_status sv_bench_ask_peer(sv_bench_run *b);
void sv_bench_print_peer(const sv_bench_run *b);

/* bench_plot.c: the picture of --plot. */
sv_status sv_bench_plot(sv_bench_run *b);

#endif
