/* SPDX-License-Identifier: Apache-2.0
 *
 * "savanna bench --peer": another implementation in the same run, beside ours.
 */
#ifndef SV_BENCH_PEER_H
#define SV_BENCH_PEER_H

#include "perception/core/context.h"

typedef struct sv_bench_peer {
    const char *folder; /* with the executable 'run' */
    const char *config, *weights, *points, *layout;
    int threads, repeats;
    /* ours */
    double frame_ms;
    long peak_kib;
    int boxes;
} sv_bench_peer;

/* Runs it and prints both. */
sv_status sv_bench_beside_peer(sv_ctx *c, const sv_bench_peer *peer);

#endif
