/* SPDX-License-Identifier: Apache-2.0
 *
 * A detector on a device with the frame that is timed.
 */
#ifndef SV_BENCH_SIDE_H
#define SV_BENCH_SIDE_H

#include "app.h"

#include "perception/detector.h"

typedef struct sv_bench_frame {
    const char *config, *weights;
    const char *points, *layout; /* NULL: the model's */
    const char *until;           /* vfe, backbone_3d, bev or head */
    int batch;                   /* copies in one call */
} sv_bench_frame;

typedef struct sv_bench_side {
    sv_ctx *c; /* opened before; loads the model and holds the failures */
    sv_model *model;
    sv_detector *detector;
    sv_frame *frame[SV_MAX_BATCH];
    sv_box *boxes;
    int counts[SV_MAX_BATCH], batch, points;
} sv_bench_side;

/* 'ctx' describes the detector's own context. Close it in any case. */
sv_status sv_bench_side_open(const sv_app *app, const sv_ctx_def *ctx, const sv_bench_frame *frame,
                             sv_bench_side *side);
void sv_bench_side_close(sv_bench_side *side);
sv_status sv_bench_side_detect(sv_bench_side *side);

#endif
