/* SPDX-License-Identifier: Apache-2.0
 *
 * Detections and their JSON file:
 *
 *   {"frames": [
 *     {"frame": "000134", "boxes": [
 *       {"label": "Car", "score": 0.91, "box": [x, y, z, dx, dy, dz, heading], "velocity": [vx, vy]}]}]}
 *
 * "velocity" only from models that predict it. Numbers read back to the same
 * float32; the same boxes give the same bytes.
 */
#ifndef SV_RESULTS_H
#define SV_RESULTS_H

#include "perception/core/file.h"
#include "json.h"

/*
 * A box in the LiDAR frame of its sample (x forward, y left, z up), metres and radians. x, y, z is the
 * centre, also in height; dx is the length along the heading, dy the width, dz the height; the heading turns
 * counter-clockwise from the x axis, seen from above. Velocity in m/s in the same frame.
 */
typedef struct sv_box {
    float x, y, z, dx, dy, dz, heading;
    float vx, vy; /* 0 when the model predicts none */
    float score;
    int label; /* 1-based, into the model's class names */
} sv_box;

typedef struct sv_results {
    sv_output file;
    sv_json json;
    const char *const *classes;
    int class_count;
} sv_results;

/* Start a file; 'classes' must stay valid until the end. */
sv_status sv_results_open(sv_ctx *c, sv_results *r, const char *path, const char *const *classes,
                          int class_count);
/* The same to a stream that stays the caller's. */
void sv_results_begin(sv_results *r, FILE *stream, const char *const *classes, int class_count);
/* A box with a value that is not finite or a label that is no class is an error: it would be read as
 * something else. */
sv_status sv_results_add(sv_ctx *c, sv_results *r, const char *frame, const sv_box *boxes, int count,
                         bool has_velocity);
/* End, and rename the file into place. The stream of sv_results_begin() is flushed and checked. */
sv_status sv_results_close(sv_ctx *c, sv_results *r);
/* Give up: an opened file leaves nothing behind. Harmless after sv_results_close(). */
void sv_results_discard(sv_results *r);

#endif
