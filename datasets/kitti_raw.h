/* SPDX-License-Identifier: Apache-2.0
 *
 * Raw KITTI recordings: a day has its calibration and its drives; a drive is a sequence.
 *
 *   DATE/calib_cam_to_cam.txt, calib_velo_to_cam.txt, calib_imu_to_velo.txt (optional)
 *   DATE/DRIVE/velodyne_points/data/NNNNNNNNNN.bin, velodyne_points/timestamps.txt (optional; 0.1 s a frame
 *   without)
 *   DATE/DRIVE/image_02/data/NNNNNNNNNN.png        the rectified left colour camera
 *   DATE/DRIVE/oxts/data/NNNNNNNNNN.txt            position and attitude of the inertial unit (optional)
 *
 * An id is DRIVE_NNNNNNNNNN. Poses are metres east, north and up of the drive's first frame (Mercator, as the
 * recording's own tools have it); the ego frame is that of the inertial unit.
 */
#ifndef SV_KITTI_RAW_H
#define SV_KITTI_RAW_H

#include "dataset_type.h"
#include "kitti.h"

typedef struct sv_kitti_raw sv_kitti_raw;

/* The folder of days, a day, or a drive. */
bool sv_kitti_is_raw(const char *root);
sv_status sv_kitti_raw_open(sv_ctx *c, const sv_dataset_def *def, sv_dataset *dataset, sv_kitti_raw **out);
void sv_kitti_raw_close(sv_kitti_raw *raw); /* NULL is fine */
/* The scan and the picture of a sample, each of 'room' letters. */
sv_status sv_kitti_raw_paths(sv_ctx *c, const sv_kitti_raw *raw, const sv_sample *sample, char *scan,
                             char *picture, size_t room);
/* The day's calibration, and the pose of the sample where the drive has oxts. */
sv_status sv_kitti_raw_pose(sv_ctx *c, const sv_kitti_raw *raw, sv_sample *sample,
                            sv_kitti_calibration *calibration);
sv_status sv_kitti_raw_inspect(sv_ctx *c, const char *root, sv_findings *findings);

/* ---- its text files in memory ---- */

typedef struct sv_kitti_text {
    const char *name; /* for messages */
    const char *data;
    size_t size;
} sv_kitti_text;

/* sv_kitti_read_raw_calibration(); the last may be NULL. */
sv_status sv_kitti_parse_raw_calibration(sv_ctx *c, const sv_kitti_text *cam_to_cam,
                                         const sv_kitti_text *velo_to_cam, const sv_kitti_text *imu_to_velo,
                                         sv_kitti_calibration *out);
/* The lines of timestamps.txt in seconds since 1970, taken as UTC. malloc'ed; NULL after an error. */
sv_status sv_kitti_parse_times(sv_ctx *c, const sv_kitti_text *text, double **out, int *count);
/* Latitude, longitude, altitude, roll, pitch, yaw. */
sv_status sv_kitti_parse_oxts(sv_ctx *c, const sv_kitti_text *text, double out[6]);

#endif
