/* SPDX-License-Identifier: Apache-2.0
 *
 * The text files of the KITTI object benchmark, and the geometry between its
 * LiDAR, camera and image frames.
 *
 * LiDAR frame: x forward, y left, z up. Rectified camera frame ("rect"): x right, y down, z forward.
 *   rect  = R0_rect * (Tr_velo_to_cam * [lidar; 1])
 *   pixel = P2 * [rect; 1], divided by its third component w (w is not the depth: P2[2][3] is not zero)
 *
 * Every reader takes whole files or memory, says file, line and value when something is wrong, and leaves its
 * result empty then.
 */
#ifndef SV_KITTI_H
#define SV_KITTI_H

#include "perception/core/context.h"
#include "perception/geometry/pose.h"
#include "perception/results.h"

/* ---- calibration ---- */

typedef struct sv_kitti_calibration {
    double p0[12], p1[12], p2[12],
        p3[12]; /* 3x4, row-major; only p2 has to be in the file, others default to p2 */
    double r0_rect[9];
    double velo_to_cam[12];
    double imu_to_velo[12];               /* identity when the file has none */
    sv_pose lidar_to_rect, rect_to_lidar; /* made of the above */
} sv_kitti_calibration;

sv_status sv_kitti_read_calibration(sv_ctx *c, const char *path, sv_kitti_calibration *out);
sv_status sv_kitti_parse_calibration(sv_ctx *c, const char *text, size_t size, const char *name,
                                     sv_kitti_calibration *out);
/* The three files of a raw recording's day: calib_cam_to_cam.txt, calib_velo_to_cam.txt and, where it is,
 * calib_imu_to_velo.txt. */
sv_status sv_kitti_read_raw_calibration(sv_ctx *c, const char *folder, sv_kitti_calibration *out);
/* lidar_to_rect and rect_to_lidar from the matrices; an error when these cannot be inverted. */
sv_status sv_kitti_derive_calibration(sv_ctx *c, const char *name, sv_kitti_calibration *calibration);
/* The official layout with its twelve decimals, written whole or not at all. */
sv_status sv_kitti_write_calibration(sv_ctx *c, const char *path, const sv_kitti_calibration *calibration);

/* ---- labels and results ---- */

/* One line of label_2 or of a result file. */
typedef struct sv_kitti_object {
    char type[24];         /* Car, Van, Truck, Pedestrian, Person_sitting, Cyclist, Tram, Misc, DontCare */
    double truncated;      /* 0..1; -1 in results */
    int occluded;          /* 0 fully visible .. 2 largely occluded, 3 unknown; -1 in results */
    double alpha;          /* observation angle, -pi..pi; -10: none */
    double x1, y1, x2, y2; /* image box, pixels */
    double h, w, l;        /* metres */
    double x, y, z;        /* bottom centre in the rectified camera frame */
    double ry;             /* about the camera's y axis */
    double score;          /* 0 for labels */
    bool has_score;
} sv_kitti_object;

typedef struct sv_kitti_objects {
    sv_kitti_object *data; /* malloc'ed */
    int count;
} sv_kitti_objects;

/* Labels (15 columns; a score column is accepted) or results (16 columns). An empty file is an empty list. */
sv_status sv_kitti_read_objects(sv_ctx *c, const char *path, bool with_score, sv_kitti_objects *out);
sv_status sv_kitti_parse_objects(sv_ctx *c, const char *text, size_t size, const char *name, bool with_score,
                                 sv_kitti_objects *out);
void sv_kitti_free_objects(sv_kitti_objects *objects); /* may be called twice */
/* Written whole or not at all, two decimals for labels as the official files have them; results with the
 * digits that read back to the same float32. */
sv_status sv_kitti_write_objects(sv_ctx *c, const char *path, const sv_kitti_object *objects, int count);

/* Names of a list file (ImageSets/val.txt), one per line; blank lines are skipped. */
typedef struct sv_kitti_ids {
    char (*data)[32]; /* malloc'ed */
    int count;
} sv_kitti_ids;
sv_status sv_kitti_read_ids(sv_ctx *c, const char *path, sv_kitti_ids *out);
sv_status sv_kitti_parse_ids(sv_ctx *c, const char *text, size_t size, const char *name, sv_kitti_ids *out);
void sv_kitti_free_ids(sv_kitti_ids *ids);

/* ---- between the frames ---- */

/* Rectified camera coordinates to a pixel of the left colour camera; false behind the camera (w <= 0). */
bool sv_kitti_project(const sv_kitti_calibration *calibration, const double rect[3], double pixel[2]);
/* A labelled object as a box in the LiDAR frame; label and score are the caller's (score copied). */
sv_box sv_kitti_box_of_object(const sv_kitti_calibration *calibration, const sv_kitti_object *object);
/* A LiDAR box as a line of a label or result file: camera-frame box, alpha, and the image box of its eight
 * projected corners clipped to width x height (pixel = x / z_rect, as the training framework writes results;
 * what is behind the camera is cut off). truncated and occluded are -1; type is copied. False when no part
 * of the box is before the camera (the image box is then 0, 0, 0, 0). */
bool sv_kitti_object_of_box(const sv_kitti_calibration *calibration, const sv_box *box, const char *type,
                            int width, int height, sv_kitti_object *out);

/* Points [count, columns] in a labelled box, its faces included. The box is the label's, upright in the
 * camera frame: in the LiDAR frame it is not quite upright, and the box above holds a few points more or
 * less. */
int sv_kitti_points_in_object(const sv_kitti_calibration *calibration, const sv_kitti_object *object,
                              const float *points, int count, int columns);

/* Which points the left colour camera sees: 0 <= u < width, 0 <= v < height, depth >= 0. */
typedef enum sv_kitti_fov {
    SV_KITTI_FOV_TRAINING, /* pixel = x / z_rect: the filter of the framework that trains the models */
    SV_KITTI_FOV_DEVKIT,   /* pixel = x / w: gives the published reduced scans */
    SV_KITTI_FOV_ALL,      /* no filter */
} sv_kitti_fov;
/* Keep the visible points of [count, columns] in place and in order; returns how many. */
int sv_kitti_filter_fov(const sv_kitti_calibration *calibration, sv_kitti_fov rule, int width, int height,
                        float *points, int count, int columns);

#endif
