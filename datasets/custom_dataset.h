/* SPDX-License-Identifier: Apache-2.0
 *
 * Anybody's own data as a dataset: points, labels and poses in plain files.
 *
 *     ROOT/dataset.txt            what it is (below)
 *     ROOT/points/NAME.bin        a frame's points (also .npy, .pcd, .ply)
 *     ROOT/labels/NAME.txt        its objects, a line each (object_text.h); an empty file: there are none
 *     ROOT/poses.txt              NAME SEQUENCE TIME and 12 numbers: LiDAR to world, the rows of [R | t]
 *     ROOT/splits/SPLIT.txt       names, one a line
 *
 * Only dataset.txt and points/ must be there. Lines of dataset.txt:
 *
 *     layout xyzi                 columns of the points (points.h)
 *     class Car 0.7               a class, and the overlap that scoring asks for (0.5 when it is left out)
 */
#ifndef SV_CUSTOM_DATASET_H
#define SV_CUSTOM_DATASET_H

#include "dataset_type.h"
#include "kitti_text.h"
#include "object_eval.h"

/* The file dataset.txt. */
typedef struct sv_custom_description {
    char layout[8];
    sv_object_measure measure; /* a class of its own for every class */
} sv_custom_description;
sv_status sv_custom_parse_description(sv_ctx *c, const char *name, const char *text, size_t size,
                                      sv_custom_description *out);

/* A line of poses.txt. */
typedef struct sv_custom_pose {
    char name[64], sequence[80];
    double time;
    sv_pose to_world;
} sv_custom_pose;
typedef struct sv_custom_poses {
    sv_custom_pose *data; /* malloc'ed */
    int count;
} sv_custom_poses;
/* The line that 'lines' stands on. */
sv_status sv_custom_parse_pose(sv_ctx *c, sv_kitti_lines *lines, sv_custom_pose *out);
sv_status sv_custom_parse_poses(sv_ctx *c, const char *name, const char *text, size_t size,
                                sv_custom_poses *out);
void sv_custom_free_poses(sv_custom_poses *poses); /* may be called twice */

/* Names, one a line. */
sv_status sv_custom_parse_names(sv_ctx *c, const char *name, const char *text, size_t size, sv_names *out);

/* Everything that is wrong with the folder, file by file and line by line. */
sv_status sv_custom_inspect(sv_ctx *c, const char *root, sv_findings *findings);

/* Of a dataset that this is. */
const sv_object_measure *sv_custom_measure_of(const sv_dataset *dataset);

#endif
