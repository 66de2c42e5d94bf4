/* SPDX-License-Identifier: Apache-2.0
 *
 * What the frames and the tables of a simulated nuScenes folder share: when things are measured, where sensors sit,
 * what files and rows are called. A scene has key frames half a second apart and a sweep of the LiDAR every 0.05 s:
 * sweep n of a scene is the key frame n / SIM_SWEEPS where that is whole.
 */
#ifndef SV_SYNTH_NUSCENES_H
#define SV_SYNTH_NUSCENES_H

#include "datasets/nuscenes.h"
#include "synth.h"

enum {
    SIM_SWEEPS = 10, /* from one key frame to the next */
    SIM_NUSCENES_WIDTH = 800,
    SIM_NUSCENES_HEIGHT = 450, /* half of the official sides */
};

/* What happened in a frame to one object of its scene: returns of the key frame's sweep, pixels in coarse pictures. */
typedef struct sim_count {
    int32_t points, seen, alone;
} sim_count;

/* The row of 'kind' that a, b and c number; the same arguments give the same token. */
sv_nuscenes_token sim_nuscenes_token(const sv_synth_def *def, const char *kind, uint64_t a, uint64_t b,
                                     uint64_t c);
void sim_nuscenes_scene(const sv_synth_def *def, int drive, char out[20]);
/* Key frames of a drive; the last drive may have fewer. */
int sim_nuscenes_length(const sv_synth_def *def, int drive);
/* Seconds since the drive began, and microseconds as the tables have them. */
double sim_nuscenes_time(int channel, int number);
int64_t sim_nuscenes_stamp(int drive, double time);
/* Number 'number' of a channel in its drive: sweeps of the LiDAR, key frames of cameras. Below the root. */
void sim_nuscenes_file(const sv_synth_def *def, int drive, int channel, int number, char out[160]);
sv_pose sim_nuscenes_mount(int channel); /* sensor to vehicle */
sv_sim_camera_def sim_nuscenes_camera(int channel, int width);

/* Its official category; NULL: it is not labelled. */
const char *sim_nuscenes_category(sv_sim_kind kind);
bool sim_nuscenes_labelled(const sv_sim_object *object, const sim_count *count);
void sim_nuscenes_counts_file(const sv_synth_def *def, int index, char out[1200]);
/* All tables, when all frames are there. */
sv_status sim_nuscenes_write_tables(sv_ctx *c, const sv_synth_def *def);

#endif
