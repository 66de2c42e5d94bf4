/* SPDX-License-Identifier: Apache-2.0
 *
 * MODEL.TEMPORAL: what earlier sweeps saw, added to the bird's-eye-view map in front of the 2-D backbone.
 *
 *     x = state of the last sweep, moved by the sensor's motion (ego_motion.h, bilinear, zero where nothing is known)
 *     u = W_in map + b_in;  (y, x') = layers of ConvS5 (u, x);  map += W_out y + b_out;  x' is the new state
 *
 * W_out and b_out begin at zero, so that a detector without them gives exactly its result. A sweep is one step of the state
 * space model whatever time has passed since the last; gaps and jumps start afresh. The design is this project's own: the
 * ConvS5 paper has neither vehicles nor motion.
 *
 *     MODEL:
 *         TEMPORAL:
 *             NAME: ConvS5
 *             CHANNELS: 32      of u and y
 *             SSM_SIZE: 64      real numbers of state per cell and layer (half as many complex ones)
 *             LAYERS: 1
 *             C_D_CONFIG: resnet    LAYER_ACTIVATION: gelu    NUM_GROUPS: 8    KERNEL_SIZE: 3
 *             MAX_GAP: 1.0      seconds between sweeps     MAX_STEP: 20.0  metres     MAX_TURN: 45.0  degrees
 *
 * The values are the defaults; only NAME must be there. Tensors: temporal.in, temporal.layers_N (names as in ConvS5's
 * checkpoints), temporal.out. A checkpoint without any of them is accepted: the branch then does nothing.
 */
#ifndef SV_BEV_MEMORY_H
#define SV_BEV_MEMORY_H

#include "convs5.h"
#include "ego_motion.h"

typedef struct sv_bev_memory {
    bool active; /* false: there is no such branch, or the weights have none of it */
    bool adds;   /* W_out or b_out is not zero: cells without voxels may get something, too */
    sv_convs5_stack stack;
    sv_linear_weights in, out;
    sv_motion_rule rule;
} sv_bev_memory;

/* 'cfg' is MODEL.TEMPORAL; maps of height x width cells with so many channels. Names below 'temporal'. */
sv_status sv_bev_memory_bind(sv_binder *b, sv_bev_memory *m, const sv_node *cfg, int channels, int height,
                             int width);
int sv_bev_memory_rows(const sv_bev_memory *m, int batch); /* of the state */
int sv_bev_memory_columns(const sv_bev_memory *m);
/* 'map' [B*H*W, channels] in place. 'now' and 'next' [rows, columns], 'motion' [B,8]; all three may be none: a sweep alone. */
sv_status sv_bev_memory_run(sv_ctx *c, const sv_bev_memory *m, int batch, sv_tensor map, sv_tensor now,
                            sv_tensor motion, sv_tensor next);

#endif
