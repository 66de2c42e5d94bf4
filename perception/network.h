/* SPDX-License-Identifier: Apache-2.0
 *
 * sv_model: a network bound to its weights on one device. Immutable once
 * open, shared by any number of detectors on that device, reference-counted.
 */
#ifndef SV_NETWORK_H
#define SV_NETWORK_H

#include "perception/core/context.h"
#include "perception/core/ops.h"
#include "perception/model/config.h"
#include "perception/model/weights.h"
#include "state.h"
#include "backbones/video/bev_memory.h"
#include "backbones/video/camera.h"

typedef struct sv_model sv_model;

enum { SV_MAX_CLASSES = 32 };

/* Stages of the network, in order; a detector may stop after one of them. */
typedef enum sv_network_stage {
    SV_STAGE_VFE,
    SV_STAGE_BACKBONE_3D,
    SV_STAGE_BEV,
    SV_STAGE_HEAD
} sv_network_stage;

typedef struct sv_model_def {
    const char *config;      /* YAML file; NULL: the configuration inside the weights file */
    const char *weights;     /* .pth, .safetensors or model file; NULL for MODEL.NAME Cluster and its kind */
    const char *const *sets; /* KEY, VAL, ... */
    int set_count;
} sv_model_def;

/* Load onto c's device. The context is only used during the call. */
sv_status sv_model_open(sv_ctx *c, const sv_model_def *def, sv_model **out);
/* The same from weights in memory (kept by the caller, not needed afterwards; NULL: none). */
sv_status sv_model_open_weights(sv_ctx *c, const sv_model_def *def, const sv_weights *weights,
                                sv_model **out);
sv_model *sv_model_retain(sv_model *model);
void sv_model_release(sv_model *model); /* NULL is fine */

/* Whether the configuration (from 'def', not from a weights file) describes a network, which has weights. */
sv_status sv_model_needs_weights(sv_ctx *c, const sv_model_def *def, bool *out);
/* Fill 'weights' (new, empty) with seeded random tensors that fit the configuration, and its metadata. */
sv_status sv_model_init(sv_ctx *c, const sv_model_def *def, uint64_t seed, sv_weights *weights);
/* Metadata that makes a weights file self-describing: resolved configuration, classes, box convention, point features. */
sv_status sv_model_describe(sv_ctx *c, const sv_model *model, sv_weights *weights);

const char *sv_model_name(const sv_model *model); /* MODEL.NAME */
int sv_model_class_count(const sv_model *model);
const char *const *sv_model_classes(const sv_model *model);
const sv_grid *sv_model_grid(const sv_model *model);
int sv_model_point_columns(const sv_model *model); /* x, y, z, ... */
/* Columns that a frame must at least have: all of them for a network; x, y, z for a detector without one, which passes
 * over whatever else a frame brings. */
int sv_model_least_columns(const sv_model *model);
const char *sv_model_point_layout(const sv_model *model); /* "xyzi": the layout of point files by default */
int64_t sv_model_parameters(const sv_model *model);
const char *sv_model_config_text(const sv_model *model);                /* resolved YAML */
const char *sv_model_operator(const sv_model *model);                   /* OPERATOR.NAME */
int sv_model_max_boxes(const sv_model *model);                          /* per frame */
bool sv_model_has_velocity(const sv_model *model);                      /* boxes carry vx, vy */
void sv_model_map_size(const sv_model *model, int *height, int *width); /* cells of the head's maps */
size_t sv_model_weight_bytes(const sv_model *model);                    /* on the device */
/* Anchors of the head by number, count x 7 (x, y, z, dx, dy, dz, heading); false for a head without anchors. */
bool sv_model_anchors(const sv_model *model, const int32_t *index, int count, float *out);
sv_device_kind sv_model_device(const sv_model *model);

/* MODEL.TEMPORAL, when it is there and does something (a model that wants a state per stream, and frames one after the
 * other); else NULL. 'place' receives where its map lies. */
const sv_bev_memory *sv_model_memory(const sv_model *model, sv_map_place *place);

/* MODEL.CAMERA, when it is there and does something (frames then bring pictures); else NULL. */
const sv_camera_branch *sv_model_camera(const sv_model *model);

/* Row capacities of a frame: what the network needs to know before it runs. */
enum { SV_CAPACITIES = 7 };
typedef enum sv_capacity {
    SV_CAP_POINTS,
    SV_CAP_VOXELS,
    SV_CAP_DOW1,
    SV_CAP_DOW2,
    SV_CAP_DOW3,
    SV_CAP_DOW4,
    SV_CAP_DOW_OUT /* of models whose map stays sparse */
} sv_capacity;
/* How many of them the model has: the first ones. */
int sv_model_capacities(const sv_model *model);
const char *sv_capacity_name(sv_capacity capacity);

/*
 * A step between the BEV map and the 2-D backbone, part of the frame (and of its captured graph): the place of blocks that
 * carry state. 'bev' f32 [B*H*W, C] may be changed in place; read state entries' 'now', write every 'next'.
 */
typedef struct sv_bev_step {
    sv_status (*run)(void *user, sv_ctx *c, sv_state *state, int batch, sv_tensor bev);
    void *user;
} sv_bev_step;

/* What a frame leaves behind, in device memory of the frame arena. */
typedef struct sv_network_result {
    const int32_t *voxel_offsets; /* [B+1] voxels per sample: a sample without any has nothing to detect */
    sv_candidates boxes;          /* when 'last' was SV_STAGE_HEAD */
} sv_network_result;

/*
 * The network on one batch: points f32 [P,F] with per-sample offsets, in c's frame and scratch arenas (the caller resets
 * them). Writes to c->counters[SV_CAP_*] how many rows each capacity needed. 'step', 'state' and 'cameras' may be NULL.
 */
sv_status sv_network_forward(sv_ctx *c, const sv_model *model, sv_tensor points,
                             const int32_t capacity[SV_CAPACITIES], sv_network_stage last,
                             const sv_bev_step *step, const sv_camera_input *cameras, sv_state *state,
                             sv_network_result *result);

#endif
