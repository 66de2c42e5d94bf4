/* SPDX-License-Identifier: Apache-2.0
 *
 * Named stages of a frame: time, work and memory, gathered only when switched
 * on. Stages nest; a stage's time includes its children. The same name in a
 * later frame adds a sample to the same stage.
 */
#ifndef SV_PROFILE_H
#define SV_PROFILE_H

#include "status.h"
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SV_PROFILE_STAGES = 160, SV_PROFILE_DEPTH = 8 };

typedef struct sv_profile_stage {
    char name[56]; /* path, "backbone_3d/linear_1" */
    int depth;     /* 0: top level */
    int calls;     /* in the last frame */
    double ms;     /* sum over the calls of the last frame */
    double flops;  /* counted by the operations themselves (2 per multiply-add), last frame */
    double bytes;  /* least traffic: inputs read and outputs written once, last frame */
} sv_profile_stage;

typedef struct sv_profile {
    bool on;
    int stage_count;
    sv_profile_stage stages[SV_PROFILE_STAGES];
    int depth, open[SV_PROFILE_DEPTH];
    double began[SV_PROFILE_DEPTH]; /* CPU clock, ms */
    int stamps, pair_count;         /* device time stamps taken in this frame */
    struct {
        int16_t stage, from, to;
    } pairs[256];
    int open_stamp[SV_PROFILE_DEPTH];
} sv_profile;

double sv_clock_ms(void); /* monotonic */

void sv_profile_frame_begin(sv_ctx *c);    /* clears the figures of the last frame */
sv_status sv_profile_frame_end(sv_ctx *c); /* collects device stamps (waits for the queue) */

/* Open and close a stage; 'name' is copied and put below the open stages' names. */
sv_status sv_stage_begin(sv_ctx *c, const char *name);
sv_status sv_stage_end(sv_ctx *c);
/* Counted work of the innermost open stage and all above it. */
void sv_count_work(sv_ctx *c, double flops, double bytes);

#ifdef __cplusplus
}
#endif

#endif
