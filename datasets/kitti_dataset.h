/* SPDX-License-Identifier: Apache-2.0
 *
 * KITTI as a dataset. Two layouts are told apart by themselves:
 *
 *   object benchmark   ROOT/{training,testing}/{velodyne,image_2,calib,label_2}/NNNNNN.*,
 *   ROOT/ImageSets/SPLIT.txt
 *   raw recordings     DATE/calib_*.txt, DATE/DATE_drive_XXXX_sync/{velodyne_points,image_02,oxts}/data;
 *   ROOT is the folder of
 *                      the dates, a date or a drive
 *
 * Splits of the object benchmark are the lists in ImageSets, and "training" and "testing" for every scan
 * there is; the default is val. Frames of "test" and "testing" lie in testing/, all others in training/.
 */
#ifndef SV_KITTI_DATASET_H
#define SV_KITTI_DATASET_H

#include "dataset.h"
#include "kitti.h"

/* sv_sample.record of a KITTI sample; sv_label.record is the sv_kitti_object. */
typedef struct sv_kitti_sample {
    sv_kitti_calibration calibration;
    int width, height; /* of the left colour image; 0 when its folder is not there or it was not read */
    sv_kitti_objects objects; /* every line of the label file, in its order */
} sv_kitti_sample;

static inline const sv_kitti_sample *sv_kitti_sample_of(const sv_sample *sample)
{
    return sample->record;
}

#endif
