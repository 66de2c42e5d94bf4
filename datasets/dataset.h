/* SPDX-License-Identifier: Apache-2.0
 *
 * One way to read all datasets. A dataset is a list of samples (a LiDAR frame with what belongs to it) in
 * sequences, in the order of time within each; detection, evaluation, simulation, streams and the viewer go
 * through this interface alike. A new dataset is one file with an sv_dataset_type (dataset_type.h) and one
 * line in datasets.def.
 *
 *     sv_dataset_def def = sv_dataset_def_default("kitti", "/data/kitti");
 *     sv_dataset *dataset;
 *     SV_TRY(sv_dataset_open(c, &def, &dataset));
 *     sv_sample sample = {0};
 *     for (int i = 0; status == SV_OK && i < sv_dataset_count(dataset); i++)
 *         status = sv_dataset_read(c, dataset, i, SV_READ_POINTS | SV_READ_LABELS, &sample);
 *     sv_sample_free(&sample);
 *     sv_dataset_close(dataset);
 *
 * Opening reads lists and tables, never points or pictures; memory stays bounded by the tables and one
 * sample.
 */
#ifndef SV_DATASET_H
#define SV_DATASET_H

#include "perception/frame.h"
#include "perception/geometry/pose.h"
#include "perception/image.h"
#include "perception/results.h"

typedef struct sv_dataset sv_dataset;

enum { SV_DATASET_MAX_CAMERAS = 8 };

typedef struct sv_dataset_def {
    const char *name; /* "kitti"; NULL: whichever recognises the folder */
    const char *root;
    const char *split;            /* "val"; NULL: the dataset's default */
    const char *version;          /* nuScenes: "v1.0-mini"; NULL: the only one there */
    const char *const *sequences; /* only these, by name; NULL: all */
    int sequence_count;
    const char *fov;        /* KITTI: "training" (default), "devkit" or "all" */
    int sweeps;             /* sweeps gathered into a frame; 0: the dataset's default */
    const char *sweep_rule; /* nuScenes: "training" (default) or "devkit" */
    const char *cache;      /* a folder that sv_cache_make() filled (cache.h): points come from there; NULL: none */
    uint32_t cookie;        /* set by sv_dataset_def_default() */
} sv_dataset_def;

sv_dataset_def sv_dataset_def_default(const char *name, const char *root);

/* An option the dataset does not know (a fov for nuScenes), a missing folder, file or split is an error that
 * names what is there instead. */
sv_status sv_dataset_open(sv_ctx *c, const sv_dataset_def *def, sv_dataset **out);
void sv_dataset_close(sv_dataset *dataset); /* NULL is fine */

/* ---- what there is: all of it known after opening, in memory of the dataset ---- */

const char *sv_dataset_name(const sv_dataset *dataset);    /* "kitti" */
const char *sv_dataset_summary(const sv_dataset *dataset); /* "KITTI object benchmark, split val" */
const char *sv_dataset_root(const sv_dataset *dataset);
const char *sv_dataset_split(const sv_dataset *dataset);  /* the one in use; "" where there are none */
const char *sv_dataset_layout(const sv_dataset *dataset); /* columns of the frames: "xyzi", see points.h */
/* The classes that detectors of this dataset are trained and measured on. */
int sv_dataset_class_count(const sv_dataset *dataset);
const char *const *sv_dataset_classes(const sv_dataset *dataset);

int sv_dataset_count(const sv_dataset *dataset); /* samples */
/* Unique, one word without '/': "000134". */
const char *sv_dataset_id(const sv_dataset *dataset, int sample);
/* The sample with this id, or with this end of an id if only one has it; -1 when there is none. */
int sv_dataset_find(const sv_dataset *dataset, const char *id);

/* Samples of a sequence are neighbours, in the order of time: state is carried from one to the next, and
 * reset between sequences. Frames that were taken on their own are a sequence each. */
typedef struct sv_sample_sequence {
    char name[80];
    int first, count; /* samples */
} sv_sample_sequence;
int sv_dataset_sequence_count(const sv_dataset *dataset);
const sv_sample_sequence *sv_dataset_sequence(const sv_dataset *dataset, int sequence);
int sv_dataset_sequence_of(const sv_dataset *dataset, int sample);

/* ---- a sample ---- */

typedef enum sv_read {
    SV_READ_POINTS = 1,
    SV_READ_IMAGES = 2,  /* decoded pictures; without it the views have no picture */
    SV_READ_CAMERAS = 4, /* projections and sizes; part of SV_READ_IMAGES */
    SV_READ_LABELS = 8,
    SV_READ_ALL = 15,
} sv_read;

typedef struct sv_label {
    sv_box box;           /* LiDAR frame; label: 1-based class of the dataset, 0: none of them */
    bool has_box;         /* false for what is only marked in the picture (KITTI's DontCare) */
    bool has_velocity;    /* box.vx, box.vy are known */
    int points;           /* LiDAR points inside as the dataset counts them; -1: it does not say */
    const char *type;     /* as the dataset names it: "Person_sitting", "vehicle.bus.bendy" */
    const char *instance; /* the same object in other samples; NULL: the dataset does not say */
    const void *record;   /* what else the dataset knows, see its header (KITTI: sv_kitti_object) */
} sv_label;

/* Zero it, read into it as often as wanted (memory is used again), free it once. Texts and records live
 * until the next read into it. */
typedef struct sv_sample {
    int index, sequence;
    char id[64];
    double time; /* seconds; since the sequence began where the dataset knows no more */
    bool first;  /* of its sequence */

    sv_frame
        *frame;  /* points; a new reference is needed to keep it beyond the next read. NULL when not read */
    int dropped; /* points left out because a value was NaN or infinite */
    /* The ego frame has x forward, y left, z up; the LiDAR frame of some datasets has not (nuScenes: y
     * forward). */
    sv_pose lidar_to_ego, ego_to_world;
    bool has_pose; /* ego_to_world is known */

    sv_camera_view cameras[SV_DATASET_MAX_CAMERAS];
    int camera_count;

    sv_label *labels;
    int label_count;
    bool has_labels; /* false when the split has none (a test set); an empty street has some, of count 0 */

    const void *record; /* the sample as its dataset knows it (KITTI: sv_kitti_sample) */
    void *memory;       /* of the dataset's reader, for texts and records */
    void (*free_memory)(void *memory);
} sv_sample;

/*
 * Read 'parts' (of sv_read) of a sample. The frame's memory is that of c's device. May be called from
 * several threads at a time with a context and an sv_sample each. After an error the sample holds nothing,
 * and can be read into again.
 */
sv_status sv_dataset_read(sv_ctx *c, const sv_dataset *dataset, int sample, unsigned parts, sv_sample *out);
void sv_sample_free(sv_sample *sample); /* may be called twice */

/* For whoever fills samples: room for points in the sample's frame; its memory is used again unless someone
 * holds it. */
sv_status sv_sample_frame(sv_ctx *c, sv_sample *sample, int capacity, int columns);

/* ---- looking at a folder ---- */

/* Findings in order: a few words and a value; 'bad' ones say what is wrong. */
typedef struct sv_finding {
    char key[32];
    char text[240];
    bool bad;
} sv_finding;
typedef struct sv_findings {
    const char *dataset; /* its name in datasets.def */
    sv_finding *data;    /* malloc'ed */
    int count, bad;
} sv_findings;

/* Which dataset lies in this folder; NULL: none that is known. */
const char *sv_dataset_recognise(const char *root);
/* What is there and what is missing. An error only when the folder cannot be looked at. */
sv_status sv_dataset_inspect(sv_ctx *c, const char *root, sv_findings *out);
void sv_findings_free(sv_findings *findings);

/* Names and one-line summaries of the known datasets, for help texts. */
int sv_dataset_type_count(void);
const char *sv_dataset_type_name(int type);
const char *sv_dataset_type_summary(int type);

#endif
