/* SPDX-License-Identifier: Apache-2.0
 *
 * Average precision of boxes in space at 50 places of recall, overall and by distance: the measure of the ONCE
 * benchmark (its published evaluation.py; the rules are below), with any classes and overlaps, so that it also scores
 * custom data.
 *
 *   - A label and a detection overlap by the volume that their upright boxes share, divided by that of both together; by
 *     nothing when their headings differ by more than 90 degrees. They may match when the overlap is greater than the
 *     class's.
 *   - Ranges of the distance of the box's centre from the sensor: all, [0, 30), [30, 50), [50, ...) metres. In a range,
 *     everything outside it is ignored: it may match, and is then neither right nor wrong. That goes for objects of
 *     other classes, too, as in the official program.
 *   - Pass 1 gives every label in turn the free detection of the highest score; the scores of true matches, descending,
 *     are sampled at steps of 1/50 of recall. Pass 2 matches anew at each of these thresholds, each label with the free
 *     detection of the largest overlap, those inside the range before others.
 *   - Precision at place i is the greatest at i or beyond; AP is the mean of places 1..50, in percent.
 *
 * One thing differs: where a threshold leaves neither right nor wrong detections the official program divides by zero
 * and gives no number; here precision is 0 there.
 */
#ifndef SV_OBJECT_EVAL_H
#define SV_OBJECT_EVAL_H

#include "perception/core/context.h"

enum {
    SV_OBJECT_CLASSES = 64,
    SV_OBJECT_RANGES = 4,
    SV_OBJECT_POINTS = 51,
    SV_OBJECT_MOST = 1 << 16, /* labels, and detections, of a frame */
};
extern const char *const sv_object_range_names[SV_OBJECT_RANGES];

typedef struct sv_object_measure {
    char names[SV_OBJECT_CLASSES][32];
    double overlaps[SV_OBJECT_CLASSES]; /* a match needs more */
    int count;
} sv_object_measure;

typedef struct sv_object {
    double x, y, z, dx, dy, dz, heading;
    double score; /* of detections */
    int kind;     /* number of its class in the measure; -1: none of them, not scored */
} sv_object;

typedef struct sv_object_curve {
    int64_t labels, detections; /* of the class in the range */
    double ap;                  /* percent */
    int points;                 /* thresholds that were reached */
    double precision[SV_OBJECT_POINTS], recall[SV_OBJECT_POINTS], threshold[SV_OBJECT_POINTS];
} sv_object_curve;

typedef struct sv_object_scores {
    int64_t frames, labels, detections;
    double mean[SV_OBJECT_RANGES]; /* of the classes' AP */
    sv_object_curve curve[SV_OBJECT_CLASSES][SV_OBJECT_RANGES];
} sv_object_scores;

typedef struct sv_object_eval sv_object_eval;
sv_status sv_object_eval_open(sv_ctx *c, const sv_object_measure *measure, sv_object_eval **out);
void sv_object_eval_close(sv_object_eval *eval); /* NULL is fine */
/* Only overlaps are kept. 'name' stands for the frame in messages. */
sv_status sv_object_eval_add(sv_ctx *c, sv_object_eval *eval, const char *name, const sv_object *labels,
                             int label_count, const sv_object *detections, int detection_count);
/* The pool of 'c' shares the classes and ranges. */
sv_status sv_object_eval_finish(sv_ctx *c, const sv_object_eval *eval, sv_object_scores *out);
/* One frame at one threshold, over all distances: which labels are found, and which detections are right. Detections
 * below the threshold are not right. */
sv_status sv_object_eval_verdicts(sv_ctx *c, const sv_object_measure *measure, const sv_object *labels,
                                  int label_count, const sv_object *detections, int detection_count,
                                  double threshold, bool *found, bool *right);
/* The AP of a perfect detector: 50 places of recall are all reached when there is a label. */
double sv_object_attainable(int64_t labels);

double sv_object_overlap(const sv_object *a, const sv_object *b);

#endif
