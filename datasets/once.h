/* SPDX-License-Identifier: Apache-2.0
 *
 * A sequence of the ONCE dataset: the file data/SEQ/SEQ.json with cameras, poses and annotations.
 *
 * The LiDAR has x to the left, y to the rear, z up. Boxes are x, y, z, length, width, height, heading in its frame, the
 * centre in their middle. A pose is a quaternion x, y, z, w and a translation, LiDAR to world.
 */
#ifndef SV_ONCE_H
#define SV_ONCE_H

#include "perception/core/context.h"
#include "perception/geometry/pose.h"

enum { SV_ONCE_CAMERAS = 7, SV_ONCE_CLASSES = 5, SV_ONCE_ID = 24 };
extern const char *const sv_once_cameras[SV_ONCE_CAMERAS];     /* cam01, cam03, cam05 ... cam09 */
extern const char *const sv_once_class_names[SV_ONCE_CLASSES]; /* in the order of the models */
enum { SV_ONCE_WIDTH = 1920, SV_ONCE_HEIGHT = 1080 };

typedef struct sv_once_camera {
    bool there;
    sv_pose to_lidar;
    double intrinsic[9];
} sv_once_camera;

typedef struct sv_once_box {
    double value[7];
    char type[24];
} sv_once_box;

typedef struct sv_once_frame {
    char id[SV_ONCE_ID]; /* milliseconds */
    sv_pose to_world;    /* of the LiDAR */
    bool annotated;
    int first, count; /* boxes */
} sv_once_frame;

typedef struct sv_once_sequence {
    sv_once_camera cameras[SV_ONCE_CAMERAS];
    sv_once_frame *frames; /* malloc'ed, as the next */
    sv_once_box *boxes;
    int frame_count, box_count, frame_room, box_room;
} sv_once_sequence;

/* 'name' stands for the file in messages. After a failure the sequence is empty. */
sv_status sv_once_parse(sv_ctx *c, const char *name, const void *bytes, size_t size, sv_once_sequence *out);
void sv_once_free(sv_once_sequence *sequence); /* may be called twice */

#endif
