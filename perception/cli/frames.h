/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the frames of a command come from: point files, or samples of a dataset. Commands include frame_options.def
 * in their table of options and read samples by number.
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
