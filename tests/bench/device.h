/* SPDX-License-Identifier: Apache-2.0
 *
 * Options "--device D --precision P" in front of a benchmark's other arguments, and frames that a GPU replays.
 */
#ifndef BENCH_DEVICE_H
#define BENCH_DEVICE_H

#include "perception/core/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Takes the options out of the arguments; a word that is none ends them. */
static inline sv_ctx_def bench_device(int *count, char ***arguments)
{
    sv_ctx_def def = sv_ctx_def_default();
    while (*count > 2 && strncmp((*arguments)[1], "--", 2) == 0) {
        const char *option = (*arguments)[1], *value = (*arguments)[2];
        const bool known =
            strcmp(option, "--device") == 0
                ? sv_device_parse(value, &def.device, &def.device_index)
                : strcmp(option, "--precision") == 0 && sv_precision_parse(value, &def.precision);
        if (!known) {
            fprintf(stderr, "%s %s: --device cpu|cuda and --precision fp32|tf32|bf16|fp16 are known\n",
                    option, value);
            exit(2);
        }
        *arguments += 2;
        *count -= 2;
    }
    return def;
}

/* What 'run' enqueues, recorded; its memory must have been used before. NULL where a device records nothing. */
static inline sv_status bench_capture(sv_ctx *c, sv_status (*run)(void *), void *user, sv_graph **graph)
{
    *graph = NULL;
    if (!c->device->capture_begin) return SV_OK;
    SV_TRY(sv_arena_reset(c, &c->frame));
    SV_TRY(sv_arena_reset(c, &c->scratch));
    SV_TRY(c->device->queue_wait(c));
    c->frame.sealed = c->scratch.sealed = c->capturing = true;
    sv_status status = c->device->capture_begin(c);
    if (status == SV_OK) {
        status = run(user);
        const sv_status ended = c->device->capture_end(c, graph);
        if (status == SV_OK) status = ended;
    }
    c->frame.sealed = c->scratch.sealed = c->capturing = false;
    return status;
}

#endif
