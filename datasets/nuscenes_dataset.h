/* SPDX-License-Identifier: Apache-2.0
 *
 * nuScenes as a dataset: samples are key frames (2 Hz), sequences are scenes, a sample's id is its token. Points are
 * several sweeps of LIDAR_TOP in the frame of the key frame, x right, y forward, z up, with columns xyzit; see nuscenes.h
 * for the two rules of gathering.
 */
#ifndef SV_NUSCENES_DATASET_H
#define SV_NUSCENES_DATASET_H

#include "dataset.h"
#include "nuscenes.h"

/* sv_sample.record; sv_label.record is the sv_nuscenes_annotation. */
typedef struct sv_nuscenes_record {
    const sv_nuscenes_tables *tables;
    const sv_nuscenes_sample *sample;
} sv_nuscenes_record;

static inline const sv_nuscenes_record *sv_nuscenes_record_of(const sv_sample *sample)
{
    return sample->record;
}

/* Of a dataset that is nuScenes; samples have the dataset's numbers. */
const sv_nuscenes_tables *sv_nuscenes_tables_of(const sv_dataset *dataset);

#endif
