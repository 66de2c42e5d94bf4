/* SPDX-License-Identifier: Apache-2.0
 *
 * Submissions: {"meta": {"use_lidar": true, ...}, "results": {SAMPLE: [BOX, ...], ...}}, a BOX being
 *
 *   {"sample_token": "...", "translation": [x, y, z], "size": [w, l, h], "rotation": [w, x, y, z], "velocity": [vx, vy],
 *    "detection_name": "car", "detection_score": 0.9, "attribute_name": "vehicle.parked"}
 *
 * in the global frame. Every key frame of the split stands there, with an empty list where nothing was found, and at
 * most 500 boxes each. A file of any size is read in two steps: one pass finds where each sample's list lies; lists are
 * read when they are asked for, by several threads at a time.
 */
#ifndef SV_NUSCENES_RESULTS_H
#define SV_NUSCENES_RESULTS_H

#include "nuscenes_eval.h"
#include "perception/results.h"

typedef struct sv_nuscenes_boxes {
    sv_nuscenes_box *data; /* malloc'ed */
    int count;
} sv_nuscenes_boxes;

/* ---- reading ------------------------------------------------------------------------------------------ */

typedef struct sv_nuscenes_slice {
    sv_nuscenes_token sample;
    int64_t offset; /* of its list in the file */
    int32_t size, boxes;
} sv_nuscenes_slice;

typedef struct sv_nuscenes_submission {
    char path[1024];
    int file;
    sv_nuscenes_slice *slices; /* in the file's order */
    int count;
} sv_nuscenes_submission;

/* More than 500 boxes, a sample that stands twice, and a file that is no submission or ends early are errors. */
sv_status sv_nuscenes_submission_open(sv_ctx *c, const char *path, sv_nuscenes_submission *out);
void sv_nuscenes_submission_close(sv_nuscenes_submission *submission); /* may be called twice */
/* The boxes of a slice, with their places in the file. What is not a number, a class or an attribute is an error that
 * names the sample and the box; velocities may be NaN (not known). */
sv_status sv_nuscenes_submission_read(sv_ctx *c, const sv_nuscenes_submission *submission, int slice,
                                      sv_nuscenes_boxes *out);
/* A list from memory. */
sv_status sv_nuscenes_parse_boxes(sv_ctx *c, const void *bytes, size_t size, const char *path,
                                  sv_nuscenes_token sample, sv_nuscenes_boxes *out);

/* ---- writing ------------------------------------------------------------------------------------------ */

typedef struct sv_nuscenes_writer {
    sv_output file;
    sv_json json;
} sv_nuscenes_writer;

/* 'camera': whether pictures had a part in the boxes, as the submission's meta says. */
sv_status sv_nuscenes_writer_open(sv_ctx *c, const char *path, bool camera, sv_nuscenes_writer *out);
sv_status sv_nuscenes_writer_add(sv_ctx *c, sv_nuscenes_writer *writer, sv_nuscenes_token sample,
                                 const sv_nuscenes_box *boxes, int count);
sv_status sv_nuscenes_writer_close(sv_ctx *c, sv_nuscenes_writer *writer); /* renames the file into place */
void sv_nuscenes_writer_discard(sv_nuscenes_writer *writer);               /* harmless after closing */

/* ---- from boxes of a detector ------------------------------------------------------------------------- */

/* LiDAR frame to global, class names to classes, attributes by class and speed, and the 500 best where there are more.
 * Boxes of other classes cannot be written:
 * they and those beyond 500 are counted. */
sv_status sv_nuscenes_boxes_of(sv_ctx *c, const sv_nuscenes_tables *tables, const sv_nuscenes_sample *sample,
                               const char *const *classes, const sv_box *boxes, int count,
                               sv_nuscenes_boxes *out, int *other_class, int *beyond);

#endif
