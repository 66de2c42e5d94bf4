/* SPDX-License-Identifier: Apache-2.0
 *
 * What the two halves of the check of ConvS5 share: check_convs5.c runs layers and stacks, check_convs5_model.c whole models.
 */
#ifndef SV_CHECK_CONVS5_H
#define SV_CHECK_CONVS5_H

#include "check_video.h"

#include "backbones/video/convs5.h"

typedef struct convs5_case {
    check_run *run;
    check_file *file;
    char group[96];
    const char *sub; /* below the group, of what runs now: "zero/", "seq/", "tf/", ... */
    int frames, batch;
    bool showing; /* intermediate tensors are compared */
} convs5_case;

/* States [rows, 2P] against the file's (re, im) pairs, of as many leading ones as it has; absent: passed over. */
sv_status convs5_compare_states(convs5_case *k, const char *name, const float *host, size_t rows, int states);
sv_status convs5_compare_state_tensor(convs5_case *k, const char *name, sv_tensor t);
sv_status convs5_check_model(convs5_case *k);

#endif
