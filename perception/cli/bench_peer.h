/* SPDX-License-Identifier: Apache-2.0
 *
 * Another implementation to be timed beside ours: a folder with an executable 'run' that takes options and
 * prints, as its last line, one JSON object. 'savanna help bench' has the options and keys.
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

#endif
