/* SPDX-License-Identifier: Apache-2.0
 *
 * The nuScenes detection measure (configuration detection_cvpr_2019), equal to the official development kit.
 *
 * A detection takes the nearest object of its class that none has taken, by the distance of centres in the plane, in
 * the order of scores; it is right when that is nearer than 0.5, 1, 2 or 4 m. Who takes what is decided within a
 * sample, so samples are matched when they come and forgotten: a detection leaves its score, its place and a bit per
 * threshold, a match at 2 m its five errors.
 *
 * Average precision is the mean over recalls 0.11 .. 1.00 of what precision exceeds 0.1, divided by 0.9. Errors of
 * matches at 2 m: translation, scale (1 - overlap of the aligned boxes), orientation, velocity, attribute; each is
 * averaged cumulatively in the order of scores, read off at the confidences of the recalls, and averaged from recall
 * 0.11 to the highest that is reached. Score NDS = (5 mAP + sum of max(0, 1 - mean error)) / 10.
 */
#ifndef SV_NUSCENES_EVAL_H
#define SV_NUSCENES_EVAL_H

#include "nuscenes.h"

/* A detection as submissions have it: global, size is width, length, height, rotation w x y z. */
typedef struct sv_nuscenes_box {
    sv_nuscenes_token sample;
    double translation[3], size[3], rotation[4], velocity[2], score;
    int64_t order; /* place in its file, which decides between equal scores; -1: in the order of adding */
    signed char detection_class, attribute;
} sv_nuscenes_box;

enum {
    SV_NUSCENES_DISTANCES = 4,
    SV_NUSCENES_ERRORS = 5,
    SV_NUSCENES_POINTS = 101,
    SV_NUSCENES_MOST_BOXES = 500
};
enum { SV_NUSCENES_ERROR_DISTANCE = 2 }; /* number of the distance (2 m) at which errors are measured */
extern const double sv_nuscenes_distances[SV_NUSCENES_DISTANCES];
extern const char *const sv_nuscenes_error_names[SV_NUSCENES_ERRORS]; /* "trans_err" ... */

typedef struct sv_nuscenes_curve {
    double precision[SV_NUSCENES_POINTS], confidence[SV_NUSCENES_POINTS]; /* at recall 0, 0.01 .. 1 */
    double ap;
} sv_nuscenes_curve;

typedef struct sv_nuscenes_scores {
    int64_t samples, labels, detections; /* of the ten classes, before anything is left out */
    int64_t label_count[SV_NUSCENES_CLASSES], detection_count[SV_NUSCENES_CLASSES];  /* after */
    int64_t with_velocity[SV_NUSCENES_CLASSES], with_attribute[SV_NUSCENES_CLASSES]; /* labels, after */
    sv_nuscenes_curve curve[SV_NUSCENES_CLASSES][SV_NUSCENES_DISTANCES];
    double error_curve[SV_NUSCENES_CLASSES][SV_NUSCENES_ERRORS][SV_NUSCENES_POINTS];
    double class_ap[SV_NUSCENES_CLASSES];
    double class_error[SV_NUSCENES_CLASSES][SV_NUSCENES_ERRORS]; /* NaN: not defined for the class */
    double mean_ap, mean_error[SV_NUSCENES_ERRORS], error_score[SV_NUSCENES_ERRORS], nds;
} sv_nuscenes_scores;

typedef struct sv_nuscenes_frame {
    const sv_nuscenes_annotation *labels;
    const sv_nuscenes_box *boxes;
    int label_count, box_count;
    double ego[2]; /* where the vehicle is, global */
    const char *name;
} sv_nuscenes_frame;

typedef struct sv_nuscenes_eval sv_nuscenes_eval;
sv_status sv_nuscenes_eval_open(sv_ctx *c, sv_nuscenes_eval **out);
void sv_nuscenes_eval_close(sv_nuscenes_eval *e); /* NULL is fine */
sv_status sv_nuscenes_eval_add(sv_ctx *c, sv_nuscenes_eval *e, const sv_nuscenes_frame *frame);
/* Same bytes for any number of threads. */
sv_status sv_nuscenes_eval_finish(sv_ctx *c, sv_nuscenes_eval *e, sv_nuscenes_scores *out);

/* The score of labels as detections, with equal scores: 1 for a class with objects, and an error of 1 where no label
 * says what is right. Fills the class and mean fields. */
void sv_nuscenes_attainable(const sv_nuscenes_scores *scores, sv_nuscenes_scores *out);

/* One frame at 2 m, detections of at least 'score'. */
typedef enum sv_nuscenes_verdict {
    SV_NUSCENES_IGNORED,
    SV_NUSCENES_FOUND,
    SV_NUSCENES_MISSED,
    SV_NUSCENES_FALSE
} sv_nuscenes_verdict;
sv_status sv_nuscenes_eval_verdicts(sv_ctx *c, const sv_nuscenes_frame *frame, double score,
                                    sv_nuscenes_verdict *labels, sv_nuscenes_verdict *boxes);

/* Mean means of 'scores' from its class fields. */
void sv_nuscenes_sum_up(sv_nuscenes_scores *scores);

#endif
