/* SPDX-License-Identifier: Apache-2.0
 *
 * The scores of the Waymo Open Dataset's 3D detection benchmark: average precision (AP) and average precision
 * weighted with heading (APH) of vehicles, pedestrians, signs and cyclists, at two levels of difficulty, of
 * all objects and of those in three ranges.
 *
 *   sv_waymo_eval_open(c, &e);
 *   sv_waymo_eval_add(c, e, frames, count);      ... as often as there are frames; nothing given is kept
 *   sv_waymo_eval_finish(c, e, &scores);
 *
 * The rules are those of the official metrics library (compute_detection_metrics_main); waymo_eval.c explains
 * them. The scores depend on the frames and their order only, not on threads or on how many frames a
 * call adds.
 */
#ifndef SV_WAYMO_EVAL_H
#define SV_WAYMO_EVAL_H

#include "waymo_objects.h"

enum {
    SV_WAYMO_CLASSES = 4, /* Vehicle, Pedestrian, Sign, Cyclist: types 1..4 */
    SV_WAYMO_RANGES = 4,  /* all, [0, 30) m, [30, 50) m, [50, inf) */
    SV_WAYMO_LEVELS = 2,  /* LEVEL_1, LEVEL_2 (which is both) */
    SV_WAYMO_CUTOFFS = 101,
};
extern const char *const sv_waymo_range_names[SV_WAYMO_RANGES]; /* "", "[0, 30)" ... */
/* The cutoffs of the score: 0, 0.01 ... 1 as floats. */
float sv_waymo_cutoff(int k);
/* A match needs at least this overlap in space. */
float sv_waymo_min_overlap(int waymo_class);

/* At one cutoff. */
typedef struct sv_waymo_counts {
    int64_t found, false_alarms, missed[SV_WAYMO_LEVELS];
    float heading; /* sum of the found ones' 1 - |difference of heading| / pi */
} sv_waymo_counts;

typedef struct sv_waymo_curve {
    sv_waymo_counts at[SV_WAYMO_CUTOFFS];
    float ap[SV_WAYMO_LEVELS], aph[SV_WAYMO_LEVELS];
} sv_waymo_curve;

typedef struct sv_waymo_scores {
    int64_t frames, labels, detections; /* labels: with points inside */
    int64_t valid[SV_WAYMO_CLASSES][SV_WAYMO_RANGES][SV_WAYMO_LEVELS];
    sv_waymo_curve curve[SV_WAYMO_CLASSES][SV_WAYMO_RANGES];
} sv_waymo_scores;

typedef struct sv_waymo_eval_frame {
    const sv_waymo_object *labels, *detections;
    int label_count, detection_count;
} sv_waymo_eval_frame;

typedef struct sv_waymo_eval sv_waymo_eval;

sv_status sv_waymo_eval_open(sv_ctx *c, sv_waymo_eval **out);
void sv_waymo_eval_close(sv_waymo_eval *e); /* NULL is fine */
/* Scores must be finite. After a failure the evaluator can only be closed. The pool of 'c' shares the
 * frames. */
sv_status sv_waymo_eval_add(sv_ctx *c, sv_waymo_eval *e, const sv_waymo_eval_frame *frames, int count);
/* More frames may be added afterwards, and the scores taken again. */
sv_status sv_waymo_eval_finish(sv_ctx *c, sv_waymo_eval *e, sv_waymo_scores *out);
/* Precision (or with 'heading' its weighted kind) and recall at a cutoff. */
float sv_waymo_precision(const sv_waymo_counts *n, bool heading);
float sv_waymo_recall(const sv_waymo_counts *n, int level);

/*
 * The matching at the score 'score', all ranges: partner[detection_count] receives the label that a detection
 * found, else -1; label_found[label_count] whether it was. For pictures.
 */
sv_status sv_waymo_eval_match(sv_ctx *c, const sv_waymo_eval_frame *frame, float score, int *partner,
                              bool *label_found);

#endif
