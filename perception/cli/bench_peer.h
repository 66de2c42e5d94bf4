/* SPDX-License-Identifier: Apache-2.0
 *
 * "savanna bench --peer": another implementation in the same run, beside ours. It is a folder with an executable 'run'
 * that takes options and prints, as its last line, one JSON object: 'savanna help bench' has both.
 */
#ifndef SV_BENCH_PEER_H
#define SV_BENCH_PEER_H

#include "app.h"

#include <yajl/yajl_tree.h>

/* "cpu", "cuda", "cuda:1": as --device takes it. */
void sv_peer_device(const sv_app *app, char out[32]);

/* Runs FOLDER/run with 'arguments' (option, value, ... NULL) and waits; yajl_tree_free() frees the object. */
sv_status sv_peer_run(sv_ctx *c, const char *folder, const char *const *arguments, yajl_val *out);

/* The number of this key of an object; 0 where there is none. */
double sv_peer_number(yajl_val object, const char *key);

typedef struct sv_bench_peer {
    const char *folder; /* with the executable 'run' */
    const char *config, *weights, *points, *layout, *precision;
    int threads, repeats;
    /* ours */
    double frame_ms, device_mib; /* 0: it runs on the CPU */
    long peak_kib;
    int boxes;
} sv_bench_peer;

/* Runs a whole frame's peer and prints both. */
sv_status sv_bench_beside_peer(const sv_app *app, sv_ctx *c, const sv_bench_peer *peer);

#endif
