/* SPDX-License-Identifier: Apache-2.0
 *
 * Results of ONCE in one JSON file: the list that the benchmark's server takes as a pickle, entry by entry,
 *
 *   [{"frame_id": "1616343527200", "name": ["Car", ...], "score": [0.9, ...],
 *     "boxes_3d": [[x, y, z, l, w, h, heading], ...]}]
 *
 * with boxes in the frame of the LiDAR. datasets/README.md has the lines of Python that make the pickle.
 */
#ifndef SV_ONCE_RESULTS_H
#define SV_ONCE_RESULTS_H

#include "evaluator_type.h"
#include "perception/core/file.h"

/* open_submission() of the evaluator; object_submission.h has the rest. */
sv_status sv_once_submission_open(sv_ctx *c, const sv_evaluator *e, const char *path, sv_submission *out);

typedef struct sv_once_writer {
    sv_output file;
    sv_json json;
} sv_once_writer;

sv_status sv_once_writer_open(sv_ctx *c, const char *path, sv_once_writer *out);
/* A frame with its boxes, of the detector's 'classes'. Boxes of classes that ONCE has not are left out and
 * counted. */
sv_status sv_once_writer_add(sv_ctx *c, sv_once_writer *writer, const sv_dataset *dataset, int sample,
                             const char *const *classes, const sv_box *boxes, int count, int *other_class);
sv_status sv_once_writer_close(sv_ctx *c, sv_once_writer *writer); /* renames the file into place */
void sv_once_writer_discard(sv_once_writer *writer);               /* harmless after closing */

#endif
