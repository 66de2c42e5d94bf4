/* SPDX-License-Identifier: Apache-2.0
 *
 * The scores of the KITTI object benchmark: average precision of image boxes (bbox), of boxes seen from above
 * (bev), of boxes in space (3d), and average orientation similarity (aos), for cars, pedestrians and cyclists
 * at three difficulties.
 *
 *   sv_kitti_eval_open(c, SV_KITTI_DEVKIT, &e);
 *   sv_kitti_eval_add(c, e, frames, count);      ... as often as there are frames; nothing given is kept
 *   sv_kitti_eval_finish(c, e, &scores);
 *
 * The rules are those of the official development kit (evaluate_object.cpp, offline variant); kitti_eval.c
 * explains them. Rotated boxes are clipped as polygons in double precision. The scores depend on the frames
 * and their order only, not on threads or on how many frames a call adds.
 */
#ifndef SV_KITTI_EVAL_H
#define SV_KITTI_EVAL_H

#include "kitti.h"

/*
 * Two programs that are both in use and differ where a label is exactly as high as the limit of its
 * difficulty (25 or 40 pixels): the development kit counts it, the Python program (kitti_object_eval_python)
 * ignores it. Orientation similarity is left out by the first when any detection has no angle (alpha -10), by
 * the second when the first detection of the first frame that has one has none.
 */
typedef enum sv_kitti_rule { SV_KITTI_DEVKIT, SV_KITTI_PYTHON } sv_kitti_rule;

enum {
    SV_KITTI_CLASSES = 3,      /* Car, Pedestrian, Cyclist */
    SV_KITTI_DIFFICULTIES = 3, /* easy, moderate, hard */
    SV_KITTI_METRICS = 4,      /* bbox, bev, 3d, aos */
    SV_KITTI_OVERLAPS = 2,     /* official, loose */
    SV_KITTI_POINTS = 41       /* places of a curve */
};
enum { SV_KITTI_BBOX, SV_KITTI_BEV, SV_KITTI_3D, SV_KITTI_AOS };

extern const char *const sv_kitti_class_names[SV_KITTI_CLASSES];
extern const char *const sv_kitti_difficulty_names[SV_KITTI_DIFFICULTIES];
extern const char *const sv_kitti_metric_names[SV_KITTI_METRICS];
extern const char *const sv_kitti_overlap_names[SV_KITTI_OVERLAPS];
/* A match needs more than this overlap. The loose set is that of the Python program; its bbox and aos are the
 * official ones. */
double sv_kitti_min_overlap(int overlaps, int kitti_class, int metric);

typedef struct sv_kitti_curve {
    /* Precision (aos: similarity) at the 41 score thresholds, at least as large as all further right; 0
     * behind the last threshold. */
    double value[SV_KITTI_POINTS];
    double recall[SV_KITTI_POINTS];    /* found / (found + missed) there */
    double threshold[SV_KITTI_POINTS]; /* the scores */
    int points;                        /* thresholds there are */
    double r11, r40;                   /* average precision, percent, at 11 and at 40 places */
} sv_kitti_curve;

typedef struct sv_kitti_scores {
    int64_t frames, labels, detections;
    int64_t valid[SV_KITTI_CLASSES][SV_KITTI_DIFFICULTIES]; /* labels that count */
    bool detected[SV_KITTI_CLASSES]
                 [SV_KITTI_METRICS]; /* the development kit prints a class that was found once */
    bool aos;                        /* false: a detection had no angle, aos is 0 */
    sv_kitti_curve curve[SV_KITTI_OVERLAPS][SV_KITTI_CLASSES][SV_KITTI_METRICS][SV_KITTI_DIFFICULTIES];
} sv_kitti_scores;

typedef struct sv_kitti_eval_frame {
    const sv_kitti_object *labels, *detections;
    int label_count, detection_count;
} sv_kitti_eval_frame;

typedef struct sv_kitti_eval sv_kitti_eval;

sv_status sv_kitti_eval_open(sv_ctx *c, sv_kitti_rule rule, sv_kitti_eval **out);
void sv_kitti_eval_close(sv_kitti_eval *e); /* NULL is fine */
/* Scores must be finite. After a failure the evaluator can only be closed. */
sv_status sv_kitti_eval_add(sv_ctx *c, sv_kitti_eval *e, const sv_kitti_eval_frame *frames, int count);
/* More frames may be added afterwards, and the scores taken again. */
sv_status sv_kitti_eval_finish(sv_ctx *c, sv_kitti_eval *e, sv_kitti_scores *out);

/*
 * The best score that detections can reach where 'valid' labels count. A curve has one threshold for each
 * place (0, 1/40 ... 1) of recall that the found objects tell apart, so fewer than 41 objects leave places of
 * the curve empty: 20 perfect detections score 47.5 at 40 places, none 0.
 */
void sv_kitti_attainable(int64_t valid, double *r11, double *r40);

/* What became of a label or detection in one frame. */
typedef enum sv_kitti_verdict {
    SV_KITTI_OTHER,   /* no class that is scored */
    SV_KITTI_FOUND,   /* a label with its detection, a detection with its label */
    SV_KITTI_MISSED,  /* a label without a detection */
    SV_KITTI_FALSE,   /* a detection without a label */
    SV_KITTI_IGNORED, /* counts neither way: too small, hidden or cut, a neighbouring class, or matched with
                         such */
} sv_kitti_verdict;
/*
 * The matching behind one point of the curves, for pictures: detections with at least 'score', overlap by
 * 'metric' (not aos). label_verdicts[label_count] and detection_verdicts[detection_count] are written;
 * partner[detection_count] (may be NULL) receives the label of a found detection, else -1.
 */
sv_status sv_kitti_eval_verdicts(sv_ctx *c, sv_kitti_rule rule, const sv_kitti_eval_frame *frame,
                                 int overlaps, int metric, int difficulty, double score,
                                 sv_kitti_verdict *label_verdicts, sv_kitti_verdict *detection_verdicts,
                                 int *partner);

#endif
