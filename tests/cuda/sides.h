/* SPDX-License-Identifier: Apache-2.0
 *
 * The same detector on several devices and in several precisions, for the programs that compare whole frames.
 */
#ifndef SIDES_H
#define SIDES_H

#include "perception/detector.h"
#include "perception/points.h"

extern int failures; /* of expect() */

/* "ok" or "FAILED" and the sentence. */
void expect(bool met, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Ends the program when the status is not SV_OK. */
void must(sv_status status, const char *what, const char *message);

typedef struct side {
    sv_ctx *c; /* loads the model */
    sv_model *model;
    sv_detector *detector;
    int most; /* boxes of a frame */
} side;

/* Ends the program with 77 where there is no such device. */
side open_side(sv_device_kind kind, sv_precision precision, const char *config, const char *weights);
/* With another detector than the default; its context is that of the device and precision. */
side open_side_as(sv_device_kind kind, sv_precision precision, const char *config, const char *weights,
                  sv_detector_def def);
void close_side(side *s);

typedef struct found {
    sv_box *boxes; /* malloc'ed */
    int count;
} found;

found detect(side *s, sv_frame *frame);
sv_frame *frame_of(sv_device_kind kind, const sv_points *points, int columns);

#endif
