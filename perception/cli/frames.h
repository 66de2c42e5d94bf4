/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the frames of a command come from: point files, or samples of a dataset. Commands put
 * SV_FRAMES_OPTIONS in their table of options and read samples by number.
 */
#ifndef SV_FRAMES_H
#define SV_FRAMES_H

#include "app.h"

#include "datasets/dataset.h"

/* What the options say. */
typedef struct sv_frames_def {
    const char *layout; /* of point files; NULL: 'model_layout' of sv_frames_open() */
    const char *dataset, *root, *split, *fov, *version, *sweep_rule, *cache;
    int sweeps; /* 0: the dataset's default */
    sv_texts frames, sequences;
} sv_frames_def;

#define SV_FRAMES_OPTIONS(def)                                                                               \
    {"--dataset",                                                                                            \
     0,                                                                                                      \
     SV_OPTION_TEXT,                                                                                         \
     &(def).dataset,                                                                                         \
     "kitti|nuscenes|waymo|once|argoverse2|custom",                                                          \
     "Take the frames from a dataset: kitti (object benchmark or raw recordings), nuscenes, waymo, or your " \
     "own data in the custom layout."},                                                                      \
        {"--cache",      0,                                                                                  \
         SV_OPTION_TEXT, &(def).cache,                                                                       \
         "FOLDER",       "Take their points from this cache of the split, which 'savanna cache' made."},     \
        {"--root", 0, SV_OPTION_TEXT, &(def).root, "DIR", "Folder of the dataset."},                         \
        {"--split",                                                                                          \
         0,                                                                                                  \
         SV_OPTION_TEXT,                                                                                     \
         &(def).split,                                                                                       \
         "S",                                                                                                \
         "KITTI: a list in ImageSets (train, val, trainval, test, ...), or 'training' or 'testing' for "     \
         "every scan there is. nuScenes: val, train, test, mini_val, mini_train, or all. Default val. "      \
         "Waymo: a folder of "                                                                               \
         "TFRecords, default validation."},                                                                  \
        {"--frame",                                                                                          \
         0,                                                                                                  \
         SV_OPTION_TEXTS,                                                                                    \
         &(def).frames,                                                                                      \
         "ID...",                                                                                            \
         "Only this frame, such as 000134 (the end of its id is enough where only one has it); more may "    \
         "follow. Default: all frames of the split."},                                                       \
        {"--sequence",     0,      SV_OPTION_TEXTS,                                                          \
         &(def).sequences, "NAME", "Only this drive or scene; may be repeated."},                            \
        {"--version", 0, SV_OPTION_TEXT, &(def).version, "V", "nuScenes: which tables, v1.0-mini for one."}, \
        {"--sweeps",                                                                                         \
         0,                                                                                                  \
         SV_OPTION_INT,                                                                                      \
         &(def).sweeps,                                                                                      \
         "N",                                                                                                \
         "Frames gathered into one, with the last: nuScenes' sweeps (default 10), Waymo's frames (1)."},     \
        {"--sweep-rule",                                                                                     \
         0,                                                                                                  \
         SV_OPTION_TEXT,                                                                                     \
         &(def).sweep_rule,                                                                                  \
         "training|devkit",                                                                                  \
         "nuScenes: training (default) repeats the last sweep where some are missing and keeps returns of "  \
         "the vehicle in the key frame, as models are trained; devkit does neither."},                       \
    {                                                                                                        \
        "--fov", 0, SV_OPTION_TEXT, &(def).fov, "training|devkit|all",                                       \
            "KITTI: which points are kept of a full scan. training: those in the picture by the rule of "    \
            "the framework that models are trained with (default); devkit: by the rule of the published "    \
            "reduced scans; all: every point (for scans that are reduced already, or without pictures)."     \
    }

typedef struct sv_frames {
    sv_frames_def def;
    char **files; /* point files; NULL for a dataset */
    sv_dataset *dataset;
    int *samples; /* numbers in the dataset; NULL: all of them */
    int count;
    int least; /* columns of the layout that a point file must have */
} sv_frames;

/* Usage errors that need nothing opened: 0, or the exit code after the message. */
int sv_frames_check(const sv_app *app, const sv_frames_def *def, int input_count);
/* 'inputs' are point files, or with a dataset further frames. 'layout': what the reader of the frames takes
 * ("xyzi"), and how many columns of it a file must name at least. */
sv_status sv_frames_open(sv_ctx *c, const sv_frames_def *def, char **inputs, int input_count,
                         const char *layout, int least, sv_frames *out);
void sv_frames_close(sv_frames *frames); /* may be called twice */
/* Frame 'index' of 'count'; a point file is a sample with points only. 'c' decides where its points lie. */
sv_status sv_frames_read(sv_ctx *c, const sv_frames *frames, int index, unsigned parts, sv_sample *out);

#endif
