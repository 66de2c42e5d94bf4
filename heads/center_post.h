/* SPDX-License-Identifier: Apache-2.0
 *
 * What heads with center codes have in common behind their branches: DENSE_HEAD.POST_PROCESSING, how many
 * cells are picked, how their codes become boxes, and which boxes suppress which.
 */
#ifndef SV_CENTER_POST_H
#define SV_CENTER_POST_H

#include "head.h"

typedef struct sv_center_post {
    int picks;     /* MAX_OBJ_PER_SAMPLE */
    int max_boxes; /* that picks and suppression leave */
    sv_center_rule rule;
    sv_nms_rule nms;
} sv_center_post;

/* 'post' is DENSE_HEAD.POST_PROCESSING; 'has_overlap': there is a branch that predicts it. */
sv_status sv_center_post_read(sv_ctx *c, sv_center_post *out, const sv_head_spec *spec, const sv_node *post,
                              bool has_overlap);

#endif
