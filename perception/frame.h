/* SPDX-License-Identifier: Apache-2.0
 *
 * sv_frame: one moment of a sensor, as a reference-counted slot of its
 * source's pool. Point memory is taken where the device copies from fastest
 * (pinned for CUDA). A frame may be handed between threads; its content is
 * written by its source before the first detector sees it and only read after.
 */
#ifndef SV_FRAME_H
#define SV_FRAME_H

#include "perception/core/device.h"
#include "perception/geometry/pose.h"
#include "perception/image.h"

/* A camera as the LiDAR frame of the sample sees it. (u w, v w, w) = projection [x, y, z, 1], w the distance
 * before the camera; both exposures are brought to the sample's time where poses are known. */
typedef struct sv_camera_view {
    char name[32];         /* "image_2", "CAM_FRONT" */
    double projection[12]; /* as a pinhole camera would see it */
    double lens
        [9]; /* fx, fy, cx, cy in pixels, k1, k2, p1, p2, k3 (backbones/video/camera_lens.h); fx 0: a pinhole */
    int width, height;
    sv_image image; /* empty where it was not read */
} sv_camera_view;

typedef struct sv_frame sv_frame;
struct sv_frame {
    char id[64]; /* file stem, dataset token or topic sequence number */
    double time; /* seconds; 0 when unknown */
    bool has_pose;
    sv_pose to_world; /* of the sensor, when the pose is known */
    float *
        points; /* [count, columns] x, y, z (metres, sensor frame: x forward, y left, z up), then the model's extras */
    int count, columns;
    int capacity; /* points the slot has room for */
    const sv_camera_view
        *cameras; /* of whoever hands the frame to a detector, for as long as that call; NULL: none */
    int camera_count;

    /* pool */
    const sv_device *device;
    int references;                   /* atomic */
    void (*recycle)(sv_frame *frame); /* called with the last reference; NULL: the memory is freed */
    void *pool;
};

/* A frame of its own (not pooled) with one reference. NULL without memory. */
sv_frame *sv_frame_new(const sv_device *device, int capacity, int columns);
sv_frame *sv_frame_retain(sv_frame *frame);
void sv_frame_release(sv_frame *frame); /* NULL is fine */

#endif
