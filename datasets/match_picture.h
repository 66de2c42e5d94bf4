/* SPDX-License-Identifier: Apache-2.0
 *
 * A sample with its labels, found and missed, and its detections, right and false: the picture of all
 * evaluators.
 */
#ifndef SV_MATCH_PICTURE_H
#define SV_MATCH_PICTURE_H

#include "dataset.h"

typedef enum sv_match_look {
    SV_LABEL_FOUND,
    SV_LABEL_MISSED,
    SV_DETECTION_RIGHT,
    SV_DETECTION_FALSE,
    SV_LABEL_IGNORED, /* does not count, as the next */
    SV_DETECTION_IGNORED,
    SV_MATCH_LOOKS
} sv_match_look;

typedef struct sv_match_box {
    sv_box box;
    const char *type;
    sv_match_look look;
} sv_match_box;

typedef struct sv_match_view {
    const char *title;
    float x_min, x_max, y_min, y_max;
    bool ignored; /* the legend has what does not count, too */
} sv_match_view;

/* 'reach' metres to all sides. */
sv_match_view sv_match_view_around(const sv_sample *sample, float reach, bool ignored);
/* Labels before detections, so that these lie above. */
sv_status sv_match_picture(sv_ctx *c, const sv_sample *sample, const sv_match_box *boxes, int count,
                           const sv_match_view *view, sv_image *out);

#endif
