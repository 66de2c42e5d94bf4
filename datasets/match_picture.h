/* SPDX-License-Identifier: Apache-2.0
 *
 * A sample with its labels, found and missed, and its detections, right and false: the picture of evaluators that tell no
 * more kinds apart.
 */
#ifndef SV_MATCH_PICTURE_H
#define SV_MATCH_PICTURE_H

#include "dataset.h"

typedef struct sv_match_box {
    sv_box box;
    const char *type;
    bool label; /* of the dataset; else a detection */
    bool good;  /* found, or right */
} sv_match_box;

/* Labels before detections, so that these lie above. */
sv_status sv_match_picture(sv_ctx *c, const sv_sample *sample, const sv_match_box *boxes, int count,
                           float reach, sv_image *out);

#endif
