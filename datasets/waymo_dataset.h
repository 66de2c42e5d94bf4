/* SPDX-License-Identifier: Apache-2.0
 *
 * The Waymo Open Dataset as a dataset, straight from its TFRecords; nothing is prepared or unpacked to disk.
 *
 *   ROOT/{training,validation,testing}/segment-NAME_with_camera_labels.tfrecord    as it is downloaded
 *   ROOT/NAME.tfrecord                                                             some files in a folder
 *   ROOT/raw_data/NAME.tfrecord, ROOT/ImageSets/SPLIT.txt                             OpenPCDet's folder
 *
 * A split is a folder, or a list of files in ImageSets; the default is validation where it is there. A
 * sequence is a drive of 20 s. Ids are those of the official metrics: the context's name, '_', microseconds.
 * The LiDAR frame is the vehicle's (x forward). Frames have the columns x, y, z, tanh(intensity) and
 * tanh(elongation) of both returns of all five lasers, points in no-label zones included, which is what
 * LION's models take. With several sweeps, those of earlier frames follow, moved to where they are now.
 */
#ifndef SV_WAYMO_DATASET_H
#define SV_WAYMO_DATASET_H

#include "dataset.h"
#include "waymo.h"

/* sv_sample.record of a Waymo sample; sv_label.record is the sv_waymo_label. */
typedef struct sv_waymo_sample {
    sv_waymo_frame frame;
    char name[1200];                               /* "FILE, record 3" */
    int points[SV_WAYMO_LASERS][SV_WAYMO_RETURNS]; /* with SV_READ_POINTS; of this frame */
} sv_waymo_sample;

static inline const sv_waymo_sample *sv_waymo_sample_of(const sv_sample *sample)
{
    return sample->record;
}

/* What results are keyed by. */
const char *sv_waymo_context(const sv_dataset *dataset, int sample);
int64_t sv_waymo_timestamp(const sv_dataset *dataset, int sample);
/* The sample of this frame; -1 when there is none. */
int sv_waymo_find(const sv_dataset *dataset, const char *context, int64_t timestamp);

#endif
