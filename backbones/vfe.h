/* SPDX-License-Identifier: Apache-2.0
 *
 * DynamicVoxelVFE: points to voxel features, all points of a voxel used.
 *
 *   per point  [x y z extras | xyz - mean of its voxel | xyz - voxel centre]          P x (F+6)
 *   layer l    Linear (no bias) -> BatchNorm (eps 1e-3) -> ReLU                       P x d_l
 *              voxel maximum; all but the last layer give [point | its voxel's max]   P x 2 d_l
 *   result     voxel maximum of the last layer                                        N x d
 *
 * [point | max] is never made: W [p; m] = Wp p + Wm m, and Wm m + bias is one row per voxel. In the last layer it
 * is added after the maximum, which it does not change, and ReLU follows.
 *
 * Source: pcdet/models/backbones_3d/vfe/dynamic_voxel_vfe.py of the official repository.
 */
#ifndef SV_VFE_H
#define SV_VFE_H

#include "perception/core/ops.h"
#include "perception/model/binder.h"
#include "perception/model/config.h"
#include "sparse.h"

enum { SV_VFE_LAYERS = 4 };

typedef struct sv_vfe {
    int point_columns;    /* F */
    int layers, channels; /* d */
    sv_linear_weights of_point[SV_VFE_LAYERS],
        of_voxel[SV_VFE_LAYERS]; /* BatchNorm folded; of_voxel from 1 on */
} sv_vfe;

/* Below the binder's prefix: vfe.pfn_layers.{l}.{linear,norm}. 'cfg' is MODEL.VFE. */
sv_status sv_vfe_bind(sv_binder *b, sv_vfe *vfe, const sv_node *cfg, int point_columns);

/*
 * points f32 [P,F] with per-sample offsets -> voxels in the frame arena, at most 'capacity' of them; '*needed' (device)
 * receives how many there are.
 */
sv_status sv_vfe_forward(sv_ctx *c, const sv_vfe *vfe, sv_sparse *out, sv_tensor points, const sv_grid *grid,
                         int capacity, int32_t *needed);

#endif
