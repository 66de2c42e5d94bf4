/* SPDX-License-Identifier: Apache-2.0
 *
 * The LION 3-D backbone (LION3DBackboneOneStride): four U-shaped blocks of
 * linear group RNN layers, each followed by a merge of z with voxel
 * generation, and one closing layer.
 *
 *   linear_1 -> dow1 -> linear_2 -> dow2 -> linear_3 -> dow3 -> linear_4 -> dow4 -> linear_out
 *
 * LION3DBackboneOneStride_Sparse (Argoverse 2) goes on until z has one cell; out comes a sparse map:
 *
 *   ... linear_out -> dow_out -> linear_bev1 -> linear_bev2 -> linear_bev3
 *
 * A block: encoder i (position embedding, layer) and PatchMerging down to the
 * coarsest level, then decoder i (layer), expanding with the skip of the level
 * above, LayerNorm. A layer: one operator block per direction on the window
 * order of that direction. Everything a block needs to know about positions
 * (window orders, merge maps, neighbour tables) follows from its entry
 * coordinates and is made at its start.
 *
 * Source: pcdet/models/backbones_3d/lion_backbone_one_stride.py of the
 * official repository; paper: LION, NeurIPS 2024.
 */
#ifndef SV_LION_H
#define SV_LION_H

#include "operator.h"
#include "sparse.h"

enum { SV_LION_BLOCKS = 4, SV_LION_DEPTH = 2, SV_LION_DIRECTIONS = 4, SV_LION_CLOSING = 4 };

/* PatchMerging3D: GELU(LayerNorm(SubM(x))), optional voxel generation, rows of equal coarse coordinates summed, LayerNorm. */
typedef struct sv_patch_merging {
    sv_subm_weights conv;
    sv_row_norm norm; /* of the merged rows */
    int32_t scale[3]; /* x, y, z */
    double diffusion; /* share of voxels that spawn neighbours; 0: none */
} sv_patch_merging;

/* Operator blocks, one per direction. */
typedef struct sv_lion_layer {
    const sv_operator *type;
    int directions;
    bool along_y[SV_LION_DIRECTIONS];
    void *self[SV_LION_DIRECTIONS]; /* bound operators, owned */
} sv_lion_layer;

typedef struct sv_lion_block {
    int depth, channels;
    int32_t window[3], group; /* x, y, z */
    bool shift[SV_LION_DEPTH];
    sv_lion_layer encoder[SV_LION_DEPTH], decoder[SV_LION_DEPTH];
    sv_linear_weights position[SV_LION_DEPTH][2];
    sv_patch_merging down[SV_LION_DEPTH];
    sv_row_norm decoder_norm[SV_LION_DEPTH];
} sv_lion_block;

/* A layer behind the blocks. */
typedef struct sv_lion_closing {
    const char *name;
    sv_lion_layer layer;
    sv_window window; /* grid is filled per call */
} sv_lion_closing;

typedef struct sv_lion {
    int channels, blocks;
    bool flat; /* the sparse variant: ends with one z cell */
    sv_lion_block block[SV_LION_BLOCKS];
    sv_patch_merging dow[SV_LION_BLOCKS], dow_out; /* dow_out: when flat */
    sv_lion_closing closing[SV_LION_CLOSING];      /* linear_out; when flat linear_bev1..3, behind dow_out */
    int closing_count;
} sv_lion;

/* Names below the binder's prefix: backbone_3d.*. 'cfg' is MODEL.BACKBONE_3D. 'shape' z,y,x of the voxel grid. */
sv_status sv_lion_bind(sv_binder *b, sv_lion *lion, const sv_node *cfg, const int32_t *shape);
void sv_lion_free(sv_lion *lion);

/* Voxel rows the block results may need, given the rows of the block before: x1.8 always suffices. */
/* 'x' is taken over (its features change in place); 'capacity[k]' rows for the result of dow k+1 ([4]: of
 * dow_out), '*needed' counters (device) behind 'needed[k]'. Frame arena. */
sv_status sv_lion_forward(sv_ctx *c, const sv_lion *lion, sv_sparse *x, const int32_t *capacity,
                          int32_t *needed);

/* The parts, for tests and reference checks. Names below the binder's prefix as in the official modules. */
sv_status sv_lion_layer_bind(sv_binder *b, sv_lion_layer *layer, const sv_node *operator_cfg,
                             const sv_node *direction, int channels, int layer_id, int layer_count);
void sv_lion_layer_free(sv_lion_layer *layer);
/* In place on x [N,C]. */
sv_status sv_lion_layer_forward(sv_ctx *c, const sv_lion_layer *layer, sv_tensor x,
                                const sv_window_job *orders);
sv_status sv_lion_block_bind(sv_binder *b, sv_lion_block *block, const sv_node *operator_cfg,
                             const sv_node *direction, int channels, int layer_id, int layer_count);
void sv_lion_block_free(sv_lion_block *block);
sv_status sv_lion_block_forward(sv_ctx *c, const sv_lion_block *block, sv_sparse *x);
sv_status sv_patch_merging_bind(sv_binder *b, sv_patch_merging *merging, int channels);
/* 'out' in the frame arena with room for 'capacity' rows. */
sv_status sv_patch_merging_forward(sv_ctx *c, const sv_patch_merging *merging, sv_sparse *out,
                                   const sv_sparse *x, const sv_neighbourhood *neighbours, int capacity,
                                   int32_t *needed);
/* The neighbours of all voxels, in the scratch arena. */
sv_status sv_neighbourhood_find(sv_ctx *c, sv_neighbourhood *out, sv_tensor coords, const int32_t *shape);
/* Window orders of one partition, in the scratch arena. */
sv_status sv_window_job_alloc(sv_ctx *c, sv_window_job *job, sv_tensor coords, const int32_t *shape,
                              const int32_t *window, int group, bool shift);

#endif
