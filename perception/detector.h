/* SPDX-License-Identifier: Apache-2.0
 *
 * sv_detector: a model at work. It owns the arenas, buffers and captured
 * graphs of its frames; one thread at a time may use it. Any number of
 * detectors share one model.
 *
 *     sv_detector_def def = sv_detector_def_default();
 *     sv_detector *detector;
 *     if (sv_detector_open(&def, model, &detector) != SV_OK) puts(sv_detector_error(detector));
 *     int count;
 *     sv_box *boxes = malloc(sizeof *boxes * sv_model_max_boxes(model));
 *     if (sv_detect(detector, &frame, 1, NULL, boxes, &count) != SV_OK) puts(sv_detector_error(detector));
 *     sv_detector_close(detector);
 *
 * The same frame gives the same bytes for any thread count, order of its
 * points, batch it is part of, and history of the detector.
 */
#ifndef SV_DETECTOR_H
#define SV_DETECTOR_H

#include "frame.h"
#include "network.h"
#include "results.h"
#include "state.h"

typedef struct sv_detector sv_detector;

typedef struct sv_detector_def {
    sv_ctx_def ctx;        /* device (the model's), threads, precision, log */
    bool replay;           /* CUDA: capture the frame and replay it; true */
    sv_network_stage last; /* stop after this stage (boxes only with SV_STAGE_HEAD, the default) */
    sv_bev_step step;      /* see network.h; none by default */
    bool timed;            /* a GPU: time stamps around every frame, for sv_detector_spans(); false */
    uint32_t cookie;       /* set by sv_detector_def_default() */
} sv_detector_def;

sv_detector_def sv_detector_def_default(void);
/* On failure '*out' holds the error where memory sufficed; close it in any case. Retains the model. */
sv_status sv_detector_open(const sv_detector_def *def, sv_model *model, sv_detector **out);
void sv_detector_close(sv_detector *detector);              /* NULL is fine */
const char *sv_detector_error(const sv_detector *detector); /* sentence of the last failed call */
sv_ctx *sv_detector_ctx(sv_detector *detector);             /* profile, probe, arena figures */

/*
 * Detect objects in 'batch' frames (each with the model's columns). boxes: room for batch x sv_model_max_boxes(); those of
 * frame b start at b * sv_model_max_boxes(), counts[b] of them, in the order of the official post-processing (heads/README.md).
 * 'state' may be NULL; it is committed only when the whole call succeeded. A frame whose voxels exceed the capacities is run
 * again with larger ones, state untouched, with the same result as if it had fitted. After an error every count is 0 and the
 * detector can be used again.
 */
sv_status sv_detect(sv_detector *detector, sv_frame *const *frames, int batch, sv_state *state, sv_box *boxes,
                    int *counts);

/* A state for a new stream of frames when the model carries one (MODEL.TEMPORAL, MODEL.CAMERA), else NULL in '*out'. Frames then come one by
 * one, in order of time; a batch of several has a stream for each of its samples. Close it before the detector. */
sv_status sv_detector_stream(sv_detector *detector, sv_state **out);

/* Rows each capacity has and the last frame needed; reruns since the detector was opened. */
int sv_detector_capacity(const sv_detector *detector, sv_capacity which);
int sv_detector_needed(const sv_detector *detector, sv_capacity which);
int sv_detector_reruns(const sv_detector *detector);
/* Set a capacity by hand (tests, known workloads). */
void sv_detector_set_capacity(sv_detector *detector, sv_capacity which, int rows);
/* Frames that were replayed from a captured graph. */
int sv_detector_replays(const sv_detector *detector);
int sv_detector_kernels(const sv_detector *detector); /* launches of a captured frame; 0 without one */

/* Milliseconds of the last frame on a device with a clock of its own; the rest of a call is the host's. */
typedef struct sv_device_spans {
    double upload; /* of points and offsets */
    double frame;  /* from the first kernel to the end of the boxes' download */
} sv_device_spans;
/* False where there is no such clock, where frames are not 'timed', and of a frame that was profiled or captured. */
bool sv_detector_spans(const sv_detector *detector, sv_device_spans *out);

#endif
