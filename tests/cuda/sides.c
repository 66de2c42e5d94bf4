/* SPDX-License-Identifier: Apache-2.0 */
#include "sides.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int failures;

void expect(bool met, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("%s  ", met ? "ok    " : "FAILED");
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    failures += !met;
}

void must(sv_status status, const char *what, const char *message)
{
    if (status == SV_OK) return;
    printf("FAILED  %s: %s (%s)\n", what, message, sv_status_text(status));
    exit(1);
}

side open_side(sv_device_kind kind, sv_precision precision, const char *config, const char *weights)
{
    return open_side_as(kind, precision, config, weights, sv_detector_def_default());
}

side open_side_as(sv_device_kind kind, sv_precision precision, const char *config, const char *weights,
                  sv_detector_def def)
{
    side s = {0};
    sv_ctx_def ctx = sv_ctx_def_default();
    ctx.device = kind;
    ctx.precision = precision;
    sv_status status = sv_ctx_open(&ctx, &s.c);
    if (status == SV_USAGE) {
        printf("SKIPPED: %s\n", sv_error_message(s.c));
        exit(77);
    }
    must(status, "device", s.c ? sv_error_message(s.c) : "no memory");
    const sv_model_def model = {.config = config, .weights = weights};
    must(sv_model_open(s.c, &model, &s.model), "model", sv_error_message(s.c));
    def.ctx = ctx;
    must(sv_detector_open(&def, s.model, &s.detector), "detector", sv_detector_error(s.detector));
    s.most = sv_model_max_boxes(s.model);
    return s;
}

void close_side(side *s)
{
    sv_detector_close(s->detector);
    sv_model_release(s->model);
    sv_ctx_close(s->c);
}

found detect(side *s, sv_frame *frame)
{
    found f = {.boxes = calloc((size_t)s->most, sizeof *f.boxes)};
    if (!f.boxes) exit(1);
    must(sv_detect(s->detector, &frame, 1, NULL, f.boxes, &f.count), "frame", sv_detector_error(s->detector));
    return f;
}

sv_frame *frame_of(sv_device_kind kind, const sv_points *points, int columns)
{
    sv_frame *frame = sv_frame_new(sv_device_of(kind), points->count, columns);
    if (!frame) exit(1);
    for (int i = 0; i < points->count; i++)
        memcpy(frame->points + (size_t)i * (size_t)columns,
               points->data + (size_t)i * (size_t)points->columns, sizeof(float) * (size_t)columns);
    frame->count = points->count;
    return frame;
}
