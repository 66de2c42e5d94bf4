/* SPDX-License-Identifier: Apache-2.0
 *
 * What the KITTI measure keeps of its frames: between kitti_frames.c, which compares labels with detections
 * frame by frame, and kitti_eval.c, which matches and scores.
 */
#ifndef SV_KITTI_FRAMES_H
#define SV_KITTI_FRAMES_H

#include "kitti_eval.h"
#include "perception/geometry/rotated_iou.h"

enum {
    FRAMES = 32, /* of a chunk */
    SETS = 5,    /* metric and overlaps of a curve: bbox; bev, 3d; bev, 3d loose */
    CURVES = SV_KITTI_CLASSES * SV_KITTI_DIFFICULTIES * SETS,
    POINTS = SV_KITTI_POINTS,
    PADDED = 64, /* thresholds, with -infinity behind the last */
    OTHER_CLASS = SV_KITTI_CLASSES,
};

#define SIMILARITY_ONE 0x1p40

/* Labels and detections of a unit are those that have a pair; 'index' is their place in the frame. */
typedef struct label {
    uint32_t index;
    uint8_t ignored; /* bit d: at difficulty d */
} label;

typedef struct detection {
    double score;
    uint32_t index;
    uint8_t own;   /* of the unit's class */
    uint8_t small; /* bit d: too low at difficulty d */
    uint8_t stuff; /* covered by a DontCare area */
} detection;

typedef struct pair {
    uint32_t label, detection; /* within the unit; sorted by both */
    double overlap[3];         /* bbox, bev, 3d; 0 when it can never matter */
    int64_t similarity;        /* of the angles, in 1 / SIMILARITY_ONE */
} pair;

/* One class of one frame that has any pair. */
typedef struct unit {
    uint32_t label, labels, detection, detections, pair, pairs;
} unit;

/* A detection of the class, with or without pairs. */
typedef struct scored {
    double score;
    uint8_t small, stuff;
} scored;

typedef struct list {
    void *data;
    size_t count, room;
} list;

typedef struct part { /* one class of a chunk */
    list units, labels, detections, pairs, scoreds;
    int64_t valid[SV_KITTI_DIFFICULTIES];
} part;

typedef struct chunk {
    part part[SV_KITTI_CLASSES];
    int frames;
    bool detected[SV_KITTI_CLASSES][3];
    bool without_angle;       /* any detection has none */
    int first_has_angle;      /* of the first frame with detections: 1 yes, 0 no; -1: no detections yet */
    uint32_t most_detections; /* of a unit */
    list found;               /* pass 1: scores, curve by curve */
    size_t found_begin[CURVES + 1];
    sv_status status; /* of the last call */
    int bad_frame, bad_detection;
} chunk;

typedef struct box {
    double left, top, right, bottom, area; /* image */
    double x, z, reach_x, reach_z, ground; /* upright hull seen from above, and the box's own area */
    double low, high, volume;              /* y - h and y */
    sv_rectangle64 rectangle;
} box;

/* A label's class in whose scores it takes part, and at which difficulties it is ignored there. */
typedef struct sorted_label {
    int kitti_class;
    uint8_t ignored;
} sorted_label;

/* Prepared detections of a frame. */
typedef struct candidate {
    box box;
    int kitti_class;
    uint8_t small, stuff;
    uint32_t place; /* in the unit of the class at work, +1; 0: not there yet */
} candidate;

typedef struct workspace {
    list candidates, labels; /* of candidate, of sorted_label */
} workspace;

/* Room for 'more' elements of 'size' bytes behind those there are. */
bool sv_kitti_list_grow(list *l, size_t more, size_t size);
void sv_kitti_chunk_free(chunk *k); /* NULL is fine */
/* SV_BAD_INPUT with k->bad_detection for a score that is not finite. The workspace keeps what was made of the
 * frame until the next one. */
sv_status sv_kitti_chunk_add(chunk *k, sv_kitti_rule rule, const sv_kitti_eval_frame *frame, workspace *w);
void sv_kitti_workspace_free(workspace *w);

#endif
