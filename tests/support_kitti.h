/* SPDX-License-Identifier: Apache-2.0
 *
 * KITTI's small files, made in the test folder.
 */
#ifndef SUPPORT_KITTI_H
#define SUPPORT_KITTI_H

#include "datasets/kitti_dataset.h"
#include "support.h"

/* Lines of a calibration: a camera before the LiDAR. */
#define KITTI_P2_LINE   "P2: 700 0 600 45 0 700 180 -0.3 0 0 1 0.003\n"
#define KITTI_R0_LINE   "R0_rect: 1 0 0 0 1 0 0 0 1\n"
#define KITTI_VELO_LINE "Tr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\n"

/* The same in the files of raw recordings. */
extern const char kitti_cam_to_cam[], kitti_velo_to_cam[];

void kitti_text(const char *name, const char *text);
/* A folder and those above it. */
const char *kitti_folder(const char *name);
/* [P2] [R0 0; 0 1] [Tr; 0 0 0 1] [x; 1] as products of whole matrices, in long double. */
void kitti_oracle_pixel(const sv_kitti_calibration *k, const double lidar[3], double out[3],
                        double rect_out[3]);

#endif
