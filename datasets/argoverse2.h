/* SPDX-License-Identifier: Apache-2.0
 *
 * Argoverse 2: its classes, and its detection measure (src/av2/evaluation/detection of its official tools).
 *
 *   - Labels with points inside and detections count within 150 m of the vehicle's origin (in space); of a
 *     class and sweep the 100 best detections. By the rule 'roi' those of them count that have a corner in
 *     the region of interest (argoverse2_roi.h).
 *   - In every sweep each detection belongs to the nearest label of its class (distance of centres in space);
 *     of those that belong to a label the one with the highest score is right at a threshold (0.5, 1, 2, 4 m)
 *     when it is nearer than that, and all others are wrong.
 *   - AP is the mean over 101 places of recall of the precision, the greatest at this recall or beyond,
 *     linear between the places of detections, 0 beyond the last. A class's AP is the mean over thresholds.
 *   - Of the right ones at 2 m: ATE the distance, ASE 1 - overlap of the aligned boxes, AOE the difference of
 *     headings (0..pi); 2, 1 and pi where there are none.
 *   - CDS = AP times the mean of 1 - ATE / 2, 1 - ASE, 1 - AOE / pi. All are averaged over the 26 classes; a
 *     class without labels has AP 0 and the errors above.
 */
#ifndef SV_ARGOVERSE2_H
#define SV_ARGOVERSE2_H

#include "dataset.h"

enum {
    SV_ARGOVERSE2_CLASSES = 26,
    SV_ARGOVERSE2_THRESHOLDS = 4,
    SV_ARGOVERSE2_ERRORS = 3,
    SV_ARGOVERSE2_POINTS = 101,
    SV_ARGOVERSE2_MOST = 100 /* detections of a class in a sweep */
};
extern const char *const sv_argoverse2_class_names[SV_ARGOVERSE2_CLASSES];
extern const double sv_argoverse2_thresholds[SV_ARGOVERSE2_THRESHOLDS];

/* The heading of a box: the last of the angles about x, y, z; 0 where it points straight up or down and has
 * none. */
double sv_argoverse2_heading(const sv_pose *pose);
/* Nanoseconds. */
int64_t sv_argoverse2_time(const sv_dataset *dataset, int sample);

typedef struct sv_argoverse2_object {
    double centre[3], size[3], heading, score;
    int kind; /* class, -1 none */
    int points;
    bool outside; /* of the region of interest: does not count */
} sv_argoverse2_object;

typedef struct sv_argoverse2_class {
    int64_t labels, detections; /* that count */
    double ap[SV_ARGOVERSE2_THRESHOLDS], mean_ap, error[SV_ARGOVERSE2_ERRORS], cds;
    double precision[SV_ARGOVERSE2_THRESHOLDS][SV_ARGOVERSE2_POINTS];
} sv_argoverse2_class;

typedef struct sv_argoverse2_scores {
    int64_t sweeps, labels, detections;
    sv_argoverse2_class of[SV_ARGOVERSE2_CLASSES], mean; /* mean: its curves are empty */
} sv_argoverse2_scores;

typedef struct sv_argoverse2_eval sv_argoverse2_eval;
sv_status sv_argoverse2_eval_open(sv_ctx *c, sv_argoverse2_eval **out);
void sv_argoverse2_eval_close(sv_argoverse2_eval *eval); /* NULL is fine */
/* One sweep. 'found' and 'right' (of labels and detections at 2 m) may be NULL. 'name' is for messages. */
sv_status sv_argoverse2_eval_add(sv_ctx *c, sv_argoverse2_eval *eval, const char *name,
                                 const sv_argoverse2_object *labels, int label_count,
                                 const sv_argoverse2_object *detections, int detection_count, bool *found,
                                 bool *right);
sv_status sv_argoverse2_eval_finish(sv_ctx *c, sv_argoverse2_eval *eval, sv_argoverse2_scores *out);

#endif
