/* SPDX-License-Identifier: Apache-2.0
 *
 * The interface of a detector that goes from points to boxes by itself: no network, no weights. One file here and one
 * line in direct.def; MODEL.NAME of a configuration chooses it. For everything behind sv_model it is a model like
 * others: the same files, frames, batches, boxes and commands.
 */
#ifndef SV_DIRECT_H
#define SV_DIRECT_H

#include "perception/core/ops.h"
#include "perception/model/config.h"

typedef struct sv_direct_spec {
    const sv_node *cfg; /* MODEL */
    int class_count;
    const char *const *classes; /* valid as long as the model */
    double range[6];            /* DATA_CONFIG.POINT_CLOUD_RANGE: least x, y, z, greatest x, y, z */
} sv_direct_spec;

typedef struct sv_direct_type {
    const char *name;   /* MODEL.NAME */
    const char *method; /* what stands for the operator in listings */
    size_t bytes;
    /* Read every key; may allocate in 'self' only what needs no freeing. */
    sv_status (*bind)(sv_ctx *c, void *self, const sv_direct_spec *spec);
    /* points f32 [P,F] (x, y, z first) with offsets per sample, in memory of the CPU; 'out' has capacity for
     * max_boxes(self) boxes per sample and is written in descending score. Working memory: c's frame and scratch
     * arenas. */
    sv_status (*forward)(sv_ctx *c, const void *self, sv_tensor points, const sv_candidates *out);
    int (*max_boxes)(const void *self);
} sv_direct_type;

const sv_direct_type *sv_direct_find(const char *name); /* NULL: it is none, so a network */

#endif
