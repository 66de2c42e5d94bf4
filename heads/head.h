/* SPDX-License-Identifier: Apache-2.0
 *
 * The interface of a detection head: one file here and one line in heads.def.
 * A head adds its convolutions to the BEV chain of the 2-D backbone and turns
 * the chain's outputs into scored boxes; or, a sparse one, works on the cells
 * that the 3-D backbone leaves, and there is no chain.
 */
#ifndef SV_HEAD_H
#define SV_HEAD_H

#include "backbones/sparse.h"
#include "perception/core/ops.h"
#include "perception/model/binder.h"
#include "perception/model/config.h"

enum { SV_HEAD_MAPS = 16 };

typedef struct sv_head_spec {
    const sv_node *cfg;  /* MODEL.DENSE_HEAD */
    const sv_node *post; /* MODEL.POST_PROCESSING; NULL when absent */
    int class_count;
    const char *const *classes;
    sv_grid grid;
    int in_slot,
        in_channels;   /* the slot of the chain that the 2-D backbone produced; sparse heads: no slot */
    int height, width; /* of that slot, or of the sparse map */
} sv_head_spec;

/* Maps the head wants from the chain: filled by bind(). */
typedef struct sv_head_maps {
    int count, height, width;
    struct {
        const char *name; /* as official code names it, "cls_preds": shown to probes as head/<name> */
        int slot, channels;
    } map[SV_HEAD_MAPS];
} sv_head_maps;

typedef struct sv_head_type {
    const char *name; /* DENSE_HEAD.NAME */
    size_t bytes;
    sv_status (*bind)(sv_binder *b, void *self, const sv_head_spec *spec, sv_chain_def *chain, int *next_slot,
                      sv_head_maps *maps);
    /* 'maps' in the order of sv_head_maps; 'out' has capacity for max_boxes(self) boxes per sample. */
    sv_status (*forward)(sv_ctx *c, const void *self, int batch, const sv_tensor *maps,
                         const sv_candidates *out);
    /* Sparse heads have these two instead of bind() and forward(): x is a map of one z cell. */
    sv_status (*bind_sparse)(sv_binder *b, void *self, const sv_head_spec *spec);
    sv_status (*forward_sparse)(sv_ctx *c, const void *self, const sv_sparse *x, const sv_candidates *out);
    int (*max_boxes)(const void *self);
    /* Whether boxes carry a velocity; NULL: they do not. */
    bool (*has_velocity)(const void *self);
    /* Anchor 'index' of a sample as x, y, z, dx, dy, dz, heading; NULL for heads without anchors. */
    void (*anchor)(const void *self, int index, float out[7]);
} sv_head_type;

const sv_head_type *sv_head_find(const char *name);

/* A convolution of stride 1 for sv_head_conv_bind(). */
typedef struct sv_head_conv {
    const char *conv, *norm; /* names below the binder's prefix; norm NULL: none */
    float eps;               /* of the norm */
    int in, in_channels, channels, kernel;
    bool bias, relu;
    bool turned; /* the model sees the map with x and y exchanged: so are the kernel's rows and columns */
} sv_head_conv;

/* Add it to the chain; '*slot' is where its result stands. */
sv_status sv_head_conv_bind(sv_binder *b, sv_chain_def *chain, int *next_slot, const sv_head_conv *conv,
                            int *slot);
/* Ask for a slot of the chain as a map. 'name' lives as long as the model. */
sv_status sv_head_map_add(sv_ctx *c, sv_head_maps *maps, const char *name, int slot, int channels);

/* Candidates, all but their index, in one piece of memory: offsets, boxes, scores, labels. */
size_t sv_candidates_bytes(int capacity, int batch);
void sv_candidates_place(sv_candidates *out, void *memory, int capacity, int batch);
/* Candidates in the frame arena with room for 'capacity' boxes in all. */
sv_status sv_candidates_alloc(sv_ctx *c, sv_candidates *out, const char *name, int capacity, int batch);
/* Picks in the frame arena, 'rows' of all samples together. */
sv_status sv_cell_picks_alloc(sv_ctx *c, sv_cell_picks *out, int rows);

#endif
