/* SPDX-License-Identifier: Apache-2.0
 *
 * MODEL.TEMPORAL of a small detector, computed another way: all frames of a drive at once, the state moved by
 * way of the world.
 */
#ifndef SUPPORT_SWEEPS_H
#define SUPPORT_SWEEPS_H

#include "support_drive.h"
#include "support_model.h"

/* The small models' map: 0..12.8 by -6.4..6.4 metres. */
enum { SWEEP_SIDE = 64, SWEEP_CELLS = SWEEP_SIDE * SWEEP_SIDE, SWEEP_MAP = 32 };

/* MODEL.TEMPORAL with one layer whose output block is nothing, so that a few lines say what it does. */
extern const char sweep_branch[];

/* Numbers in the branch's last layer, which begins with zeros. */
void sweep_numbers(sv_weights *w);
/* The branch of 'config' with weights 'w' on the maps [DRIVE_FRAMES * CELLS, MAP] of a drive; 'out' likewise. */
void sweep_batch(sv_ctx *c, const char *config, const sv_weights *w, sv_frame *const *frames,
                 const float *maps, float *out);

/* What a detector's probe keeps of the frames of a drive: maps before and behind the branch. */
typedef struct sweep_maps {
    float *before, *behind; /* [DRIVE_FRAMES, CELLS, MAP] */
    int frame;
} sweep_maps;
sweep_maps sweep_maps_new(void);
void sweep_maps_free(sweep_maps *maps);
/* For probes: the tensor, if it is one of them. */
void sweep_maps_keep(sweep_maps *maps, const char *name, sv_tensor t);

#endif
