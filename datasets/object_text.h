/* SPDX-License-Identifier: Apache-2.0
 *
 * Objects in text files, one a line: labels of custom data, and results of any dataset that has no format of its own.
 *
 *   label     CLASS x y z dx dy dz heading [vx vy]
 *   result    CLASS score x y z dx dy dz heading [vx vy]
 *
 * Metres, radians and m/s in the LiDAR frame; x, y, z is the centre, dx the length along the heading. Lines that are
 * empty or begin with # are skipped.
 */
#ifndef SV_OBJECT_TEXT_H
#define SV_OBJECT_TEXT_H

#include "kitti_text.h"
#include "perception/results.h"

typedef struct sv_object_line {
    char type[32];
    sv_box box; /* label: 0 */
    bool has_velocity;
} sv_object_line;

typedef struct sv_object_lines {
    sv_object_line *data; /* malloc'ed */
    int count;
} sv_object_lines;

/* The line that 'lines' stands on. The sentence names file and line. */
sv_status sv_object_line_parse(sv_ctx *c, sv_kitti_lines *lines, bool result, sv_object_line *out);
/* True unless it is a comment; nothing is taken of it. */
bool sv_object_line_counts(const sv_kitti_lines *lines);
sv_status sv_object_lines_parse(sv_ctx *c, const char *name, const char *text, size_t size, bool result,
                                sv_object_lines *out);
sv_status sv_object_lines_read(sv_ctx *c, const char *path, bool result, sv_object_lines *out);
void sv_object_lines_free(sv_object_lines *lines); /* may be called twice */
/* Results, written whole or not at all; numbers read back to the same floats. */
sv_status sv_object_lines_write(sv_ctx *c, const char *path, const sv_object_line *lines, int count);

#endif
