/* SPDX-License-Identifier: Apache-2.0
 *
 * Verdicts of single frames, added up by class and distance.
 */
#include "kitti_ranges.h"

#include <math.h>
#include <stdlib.h>
#include <strings.h>

const double sv_kitti_range_from[SV_KITTI_RANGES + 1] = {0, 30, 50, INFINITY};

static sv_kitti_range_counts *place(const sv_kitti_object *o,
                                    sv_kitti_range_counts counts[SV_KITTI_CLASSES][SV_KITTI_RANGES])
{
    const double distance = hypot(o->x, o->z);
    int range = 0;
    while (range + 1 < SV_KITTI_RANGES && distance >= sv_kitti_range_from[range + 1]) range++;
    for (int k = 0; k < SV_KITTI_CLASSES; k++)
        if (strcasecmp(o->type, sv_kitti_class_names[k]) == 0) return &counts[k][range];
    return NULL;
}

sv_status sv_kitti_count_ranges(sv_ctx *c, sv_kitti_rule rule, const sv_kitti_eval_frame *frame, double score,
                                sv_kitti_range_counts counts[SV_KITTI_CLASSES][SV_KITTI_RANGES])
{
    enum { LOOSE = 1, HARD = SV_KITTI_DIFFICULTIES - 1 };
    const size_t all = (size_t)frame->label_count + (size_t)frame->detection_count;
    sv_kitti_verdict *above = malloc((2 * all + 1) * sizeof *above);
    SV_CHECK(c, above, SV_NO_MEMORY, "no memory for %zu verdicts", all);
    sv_kitti_verdict *detections = above + frame->label_count, *image = above + all,
                     *image_detections = image + frame->label_count;
    sv_status status =
        sv_kitti_eval_verdicts(c, rule, frame, LOOSE, SV_KITTI_BEV, HARD, score, above, detections, NULL);
    /* only image boxes know of areas without labels */
    if (status == SV_OK)
        status = sv_kitti_eval_verdicts(c, rule, frame, LOOSE, SV_KITTI_BBOX, HARD, score, image,
                                        image_detections, NULL);
    for (int i = 0; status == SV_OK && i < frame->label_count; i++) {
        sv_kitti_range_counts *at = place(&frame->labels[i], counts);
        if (at) at->found += above[i] == SV_KITTI_FOUND, at->missed += above[i] == SV_KITTI_MISSED;
    }
    for (int i = 0; status == SV_OK && i < frame->detection_count; i++) {
        sv_kitti_range_counts *at = place(&frame->detections[i], counts);
        if (at) at->wrong += detections[i] == SV_KITTI_FALSE && image_detections[i] != SV_KITTI_IGNORED;
    }
    free(above);
    return status;
}
