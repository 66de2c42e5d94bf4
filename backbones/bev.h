/* SPDX-License-Identifier: Apache-2.0
 *
 * 2-D backbones over the bird's-eye-view map, as nodes of a convolution chain.
 *
 * BaseBEVBackbone: level i = conv3x3(stride_i) + LAYER_NUMS[i] x conv3x3, each
 * with BatchNorm (eps 1e-3) and ReLU; each level is brought to the map's first
 * stride by a transposed convolution (kernel = stride; stride below 1: a
 * convolution of kernel 1/stride) with BatchNorm and ReLU; the results are
 * concatenated. Source: pcdet/models/backbones_2d/base_bev_backbone.py.
 *
 * BaseBEVResBackbone: levels of 1 + LAYER_NUMS[i] residual blocks instead,
 *     y = ReLU(BN(conv3x3(ReLU(BN(conv3x3_stride(x))))) + x)
 * where x is BN(conv1x1_stride(x)) in the first block of a level, even when its
 * stride is 1. Source: base_bev_res_backbone.py.
 */
#ifndef SV_BEV_H
#define SV_BEV_H

#include "perception/core/ops.h"
#include "perception/model/binder.h"
#include "perception/model/config.h"

typedef struct sv_bev_result {
    int slot, channels, height, width;
} sv_bev_result;

/* Adds the backbone's nodes to 'chain' (whose input map is set); keys below backbone_2d. 'cfg' is MODEL.BACKBONE_2D.
 * '*next_slot' is the next unused slot of the chain. */
sv_status sv_bev_bind(sv_binder *b, const sv_node *cfg, sv_chain_def *chain, int *next_slot,
                      sv_bev_result *result);

#endif
