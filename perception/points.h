/* SPDX-License-Identifier: Apache-2.0
 *
 * Point clouds in files without a header that explains them: raw '.bin' and
 * NumPy '.npy'. What the columns mean is named by a layout, one letter per
 * column, and never guessed:
 *
 *   xyzi   x, y, z (metres, LiDAR frame: x forward, y left, z up), intensity    KITTI, ONCE
 *   xyzir  ... and ring (laser number)                                          nuScenes files
 *   xyzit  ... and time lag in seconds, 0 for the newest sweep                  nuScenes with sweeps
 *   xyzie  ... and elongation                                                   Waymo
 *   with ':f16' behind it: half floats (raw files; an .npy says so itself)
 */
#ifndef SV_POINTS_H
#define SV_POINTS_H

#include "perception/core/context.h"

enum { SV_POINTS_MAX = 1 << 21, SV_POINTS_COLUMNS = 5 };

typedef struct sv_points {
    float *data; /* [count, columns], malloc'ed; columns in the file's order */
    int count, columns;
    int dropped; /* points left out because a value was NaN or infinite */
} sv_points;

/* Columns and half floats of 'layout'; SV_USAGE naming the layouts when it is none of them. 'half' may be
 * NULL. */
sv_status sv_points_layout(sv_ctx *c, const char *layout, int *columns, bool *half);

/*
 * Read 'path'. A file that starts like an .npy is one, whatever its name; everything else is raw
 * little-endian floats. An empty file is an empty cloud. A size that is no whole number of points, more than
 * SV_POINTS_MAX points, and an .npy of another type, width or order are errors, after which '*out' is empty.
 */
sv_status sv_points_read(sv_ctx *c, const char *path, const char *layout, sv_points *out);
/* The same from memory; 'name' stands for the file in messages. */
sv_status sv_points_parse(sv_ctx *c, const void *bytes, size_t size, const char *name, const char *layout,
                          sv_points *out);
void sv_points_free(sv_points *points); /* may be called twice */

#endif
