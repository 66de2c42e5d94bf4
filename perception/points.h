/* SPDX-License-Identifier: Apache-2.0
 *
 * Point clouds in files. Raw '.bin' and NumPy '.npy' have no header that explains their columns: a layout names them, one
 * letter per column, and they are never guessed:
 *
 *   xyz    x, y, z (metres, LiDAR frame: x forward, y left, z up)
 *   xyzi   ... and intensity                                                    KITTI, ONCE
 *   xyzir  ... and ring (laser number)                                          nuScenes files
 *   xyzit  ... and time lag in seconds, 0 for the newest sweep                  nuScenes with sweeps
 *   xyzie  ... and elongation                                                   Waymo
 *   with ':f16' behind it: half floats (raw files; an .npy says so itself)
 *
 * PCD and PLY files name their columns themselves; for them the layout says which ones are wanted. All kinds but raw are
 * known by their content, whatever the file is called.
 */
#ifndef SV_POINTS_H
#define SV_POINTS_H

#include "perception/core/context.h"

enum { SV_POINTS_MAX = 1 << 21, SV_POINTS_COLUMNS = 5 };

typedef struct sv_points {
    float *data; /* [count, columns], malloc'ed; columns in the file's order */
    int count, columns;
    int dropped;    /* points left out because a value was NaN or infinite */
    char layout[8]; /* what the columns are, "xyzi"; may be empty in clouds that were not read from a file */
} sv_points;

/* Columns and half floats of 'layout'; SV_USAGE naming the layouts when it is none of them. 'half' may be
 * NULL. */
sv_status sv_points_layout(sv_ctx *c, const char *layout, int *columns, bool *half);

/*
 * Read 'path'. What does not start as an .npy, PCD or PLY file does is raw little-endian floats. An empty file is an empty
 * cloud. 'layout' NULL: what the file says of itself (PCD and PLY: x, y, z, and what is there of the other columns). A size
 * that is no whole number of points, more than SV_POINTS_MAX points, an .npy of another type, width or order, and a PCD or
 * PLY file without a wanted column are errors, after which '*out' is empty.
 */
sv_status sv_points_read(sv_ctx *c, const char *path, const char *layout, sv_points *out);
/* The same for who can do with the first 'least' columns of 'layout': a PCD or PLY file may lack the others, which become
 * zero. Raw files and .npy have all of them. */
sv_status sv_points_read_least(sv_ctx *c, const char *path, const char *layout, int least, sv_points *out);
/* The same from memory; 'name' stands for the file in messages. */
sv_status sv_points_parse(sv_ctx *c, const void *bytes, size_t size, const char *name, const char *layout,
                          sv_points *out);
void sv_points_free(sv_points *points); /* may be called twice */

typedef enum sv_points_encoding {
    SV_POINTS_BINARY,
    SV_POINTS_ASCII,
    SV_POINTS_COMPRESSED
} sv_points_encoding;
/* Whether the name ends as that of a point file: .bin, .npy, .pcd, .ply. */
bool sv_points_name(const char *path);
/*
 * Write points (whose layout is known) to a file of the kind its name ends with: .bin, .npy (float32), .pcd (all
 * encodings), .ply (binary little-endian, ascii). Ascii has nine digits, which read back to the same floats. Written whole
 * or not at all.
 */
sv_status sv_points_write(sv_ctx *c, const char *path, const sv_points *points, sv_points_encoding encoding);

#endif
