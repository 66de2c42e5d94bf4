/* SPDX-License-Identifier: Apache-2.0
 *
 * Reference data of TRecViT: check_trecvit.c has single blocks, check_trecvit_model.c whole models. A group is told by the
 * weights it holds, so that any name and shape will do.
 */
#ifndef SV_CHECK_TRECVIT_H
#define SV_CHECK_TRECVIT_H

#include "check_video.h"

#include "backbones/video/trecvit.h"

/* A group under test, with its weights bound from what lies below "GROUP/w/", or from 'weights' where that is not NULL. */
typedef struct trecvit_case {
    check_run *run;
    check_file *file;
    sv_ctx *c;
    const char *group;
    sv_weights *weights;
    sv_binder *binder;
    sv_arena arena;
} trecvit_case;

typedef sv_status (*trecvit_body)(trecvit_case *k);
/* Bind, run, close. Takes 'weights' over. */
sv_status trecvit_with_weights(check_run *run, check_file *file, const char *group, sv_weights *weights,
                               trecvit_body body);
/* Forget the tensors of the last forward pass. */
sv_status trecvit_rewind(trecvit_case *k);
/* A size of a weight, 0 when it is not there. */
int trecvit_size(const trecvit_case *k, const char *weight, int dim);
/* A reference input as rows of its last dimension, on the device; integers become floats. 'array' is freed with
 * sv_h5_array_free(). */
sv_status trecvit_input(trecvit_case *k, const char *name, sv_h5_array *array, sv_tensor *out);
/* Copy to the host; free() it. */
sv_status trecvit_download(trecvit_case *k, sv_tensor t, float **out);
/* The live rows of 'got' against a dataset. */
sv_status trecvit_compare(trecvit_case *k, const char *name, sv_tensor got);
/* [a, b, width] as [b, a, width]; malloc'ed. */
float *trecvit_swapped(const float *x, int a, int b, int width);

/* Groups "model" and "clips". */
bool trecvit_is_model(check_file *file, const char *group);
sv_status trecvit_run_model(check_run *run, check_file *file);

#endif
