/* SPDX-License-Identifier: Apache-2.0
 *
 * Boxes and points drawn into camera pictures, and a frame as one picture: from above, with its cameras
 * beside. A camera is a 3x4 matrix from the LiDAR frame: (u w, v w, w) = projection [x, y, z, 1], w the
 * distance before the camera in metres.
 */
#ifndef SV_OVERLAY_H
#define SV_OVERLAY_H

#include "render.h"

typedef struct sv_camera_options {
    float near_plane;    /* metres before the camera; what is nearer is cut off; 0.2 */
    bool scores;         /* class and score above each box; true */
    float dim;           /* how much the picture is darkened first, 0..1; 0 */
    const char *title;   /* NULL: none */
    const sv_box *truth; /* labelled boxes, in white beneath the others; NULL: none */
    int truth_count;
    const sv_box_style *styles; /* one per box; NULL: the colour of its class */
    const sv_points *points;    /* drawn beneath the boxes, near ones bright; NULL: none */
    float point_size;           /* pixels; 2.5 */
    uint32_t cookie;            /* set by sv_camera_options_default() */
} sv_camera_options;

sv_camera_options sv_camera_options_default(void);

/*
 * Draw into 'picture': boxes as wireframes, the farthest first; edges that the box itself hides are faint,
 * the front face is filled. What is behind the near plane is cut off exactly.
 */
sv_status sv_render_camera(sv_ctx *c, sv_image *picture, const double projection[12], const sv_box *boxes,
                           int count, const char *const *classes, int class_count,
                           const sv_camera_options *options);

/* A camera of a frame. */
typedef struct sv_camera_picture {
    const char *name;
    const sv_image *image; /* left as it is */
    const double *projection;
} sv_camera_picture;

/*
 * A new picture: the view from above, and its cameras to the right. One camera is shown twice, with boxes
 * and with the points too; several are made smaller and stand in two rows. Truth, styles and scores of 'bev'
 * serve the cameras as well, its pixels_per_metre gives way to the height of the cameras.
 */
sv_status sv_render_frame(sv_ctx *c, sv_image *out, const sv_points *points, const sv_box *boxes, int count,
                          const char *const *classes, int class_count, const sv_bev_options *bev,
                          const sv_camera_picture *cameras, int camera_count);

#endif
