/* SPDX-License-Identifier: Apache-2.0
 *
 * A detector that goes through samples of a dataset: alone, or as one of several ranks (ranks.h).
 */
#ifndef SV_BOX_FINDER_H
#define SV_BOX_FINDER_H

#include "frame_loader.h"
#include "ranks.h"

#include "perception/detector.h"

typedef struct box_finder {
    sv_ctx *c;
    sv_model *model;
    sv_detector *detector;
    sv_state *state; /* of a model with MODEL.TEMPORAL */
    int batch, most; /* samples of a call, boxes of a sample */
    sv_box *boxes;   /* [batch, most] */
} box_finder;

sv_status box_finder_open(sv_ctx *c, const sv_app *app, const char *config, const char *weights, int batch,
                          box_finder *out);
void box_finder_close(box_finder *f); /* also after a failure */

/* What a sample must have read of it. */
unsigned box_finder_parts(const box_finder *f);
/* Into f->boxes; 'counts' has a number for each slot. */
sv_status box_finder_run(box_finder *f, frame_slot *const *slots, int count, int *counts);

/* A rank's share, from start to end: boxes of its samples, in order, to rank 0. */
sv_status box_finder_share(box_finder *f, const sv_app *app, ranks *team, const sv_dataset *dataset);

#endif
