/* SPDX-License-Identifier: Apache-2.0
 *
 * Simulated drives written in a dataset's own layout, so that whatever reads
 * the dataset reads them. A format is one file with an sv_synth_format and one
 * line in formats.def.
 */
#ifndef SV_SYNTH_H
#define SV_SYNTH_H

#include "sim.h"

typedef struct sv_synth_def {
    const char *format; /* "kitti" */
    const char *folder; /* made when it is not there */
    int frames, drives; /* frames are spread evenly over drives, each 10 frames a second of its own street */
    uint64_t seed;
    const char *lidar; /* sv_sim_lidar_find(); NULL: the format's own */
    bool images;
    /* called between frames, may be NULL */
    void (*progress)(void *user, int done);
    void *user;
} sv_synth_def;

typedef struct sv_synth_summary {
    int written, kept; /* frames; kept: there already from an interrupted run with the same settings */
    long points, labels;
} sv_synth_summary;

/*
 * Write all frames, in parallel over c's threads. Every file appears whole or not at all. A folder with anything but an
 * interrupted run of the same settings in it is refused; such a run is continued, and ends with the same bytes.
 */
sv_status sv_synth_run(sv_ctx *c, const sv_synth_def *def, sv_synth_summary *out);

/* Names of the formats, NULL beyond the last. */
const char *sv_synth_format_name(int index);

/* ---- for formats ---- */

/* One frame of a drive. */
typedef struct sv_synth_frame {
    int index, drive, of_drive; /* number, its drive, and its place in it */
    double time;                /* seconds since the drive began */
    sv_sim_world world;
    uint64_t key; /* for noise */
} sv_synth_frame;
sv_synth_frame sv_synth_frame_at(const sv_synth_def *def, int index);
int sv_synth_drive_length(const sv_synth_def *def);

typedef struct sv_synth_format {
    const char *name;
    const char *lidar; /* by default */
    sv_status (*begin)(sv_ctx *c, const sv_synth_def *def);
    /* Whether the frame is complete: its last file is there. */
    bool (*have)(const sv_synth_def *def, int index);
    /* From several threads at a time, with a context each; counts points and labels. */
    sv_status (*write)(sv_ctx *c, const sv_synth_def *def, int index, long *points, long *labels);
    sv_status (*end)(sv_ctx *c, const sv_synth_def *def);
} sv_synth_format;

#define FORMAT(name) extern const sv_synth_format sv_synth_format_##name;
#include "formats.def"
#undef FORMAT

sv_status sv_synth_make_folder(sv_ctx *c, const char *root, const char *inside); /* 'inside' may be "" */
/* A whole text file. */
sv_status sv_synth_write_text(sv_ctx *c, const char *path, const char *text);

#endif
