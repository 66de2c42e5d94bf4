/* SPDX-License-Identifier: Apache-2.0
 *
 * A frame through a small model with random weights, and what its stages showed on the way.
 */
#ifndef SUPPORT_SHOWN_H
#define SUPPORT_SHOWN_H

#include "support_model.h"

enum { SHOWN_BOXES = 100, SHOWN_TENSORS = 48, SHOWN_POINTS = 6000 };

typedef struct shown {
    char name[96];
    int rows, channels;
    float *values; /* integers as they are */
} shown;

typedef struct shown_frame {
    shown tensors[SHOWN_TENSORS];
    int tensor_count, count;
    sv_box boxes[SHOWN_BOXES];
    sv_weights *weights;
} shown_frame;

/* 'more' as in small_config_of(). Tensors of the head, of the 2-D backbone, and of the 3-D one from dow4 on. */
shown_frame shown_run(small_kind kind, const char *more, uint64_t seed);
void shown_free(shown_frame *frame);
/* By its path or the end of it behind a '/'. */
const shown *shown_tensor(const shown_frame *frame, const char *name);
int32_t shown_integer(const shown *tensor, int i);
/* The model's weights "dense_head.NAME", or of "backbone_3d.NAME" when such are there. */
const float *shown_weight(const shown_frame *frame, const char *name);

#endif
