/* SPDX-License-Identifier: Apache-2.0
 *
 * MODEL.CAMERA: what cameras see, added to the features of the voxels in front of LION.
 *
 *     F_k = TRecViT(picture of camera k)                  tokens of its grid, every camera with a state of its own
 *     x_i += mean over the cameras k that see voxel i of  (W F_k + b) at the projection of the voxel's centre (bilinear)
 *
 * W and b begin at zero, so that a detector without them gives exactly its result. A camera sees a voxel when the centre's
 * projection lies in the part of the picture that the model takes, its distance before the camera is within RANGE, and no other
 * voxel in the same small cell of the picture is nearer by more than HIDDEN. The design is this project's own.
 *
 *     MODEL:
 *         CAMERA:
 *             NAME: TRecViT
 *             CAMERAS: [CAM_FRONT, CAM_BACK]    names as the dataset has them; at most 8
 *             VARIANT: Ti                       and the other keys of trecvit_b.yaml's MODEL that concern the encoder
 *             INPUT:                            as in trecvit_b.yaml; RESIZE: stretch keeps the whole picture in view
 *                 SIZE: [224, 224]
 *                 RESIZE: stretch
 *             RANGE: [0.5, 80.0]                metres before the camera
 *             HIDDEN: 1.0                       metres; 0: nothing hides anything
 *             MAX_GAP: 1.0                      seconds without a picture after which a camera's state starts afresh
 *
 * Only NAME and CAMERAS must be there. Tensors: camera.tokenizer, camera.encoder (names as in TRecViT's checkpoints),
 * camera.projection. A checkpoint without any of them is accepted: the branch then does nothing.
 *
 * A camera that brings no picture adds nothing, and its state waits; after MAX_GAP, or when its pictures have other sides than
 * before, it starts afresh. A picture without calibration, or with other sides than the calibration speaks of, is an error.
 */
#ifndef SV_CAMERA_H
#define SV_CAMERA_H

#include "perception/frame.h"
#include "perception/picture.h"
#include "trecvit.h"

enum { SV_CAMERA_SLOTS = 8 };

typedef struct sv_camera_branch {
    bool active; /* false: there is no such branch, or the weights have none of it */
    sv_trecvit model;
    sv_picture_rule picture;
    sv_linear_weights projection;
    int slots; /* cameras */
    char names[SV_CAMERA_SLOTS][32];
    sv_camera_rule rule;
    double max_gap;
} sv_camera_branch;

/* 'cfg' is MODEL.CAMERA; 'channels' of the voxel features. Names below 'camera'. */
sv_status sv_camera_bind(sv_binder *b, sv_camera_branch *branch, const sv_node *cfg, int channels);

/* What the cameras bring to one frame, prepared on the host; place b * slots + k is camera k of sample b. */
typedef struct sv_camera_input {
    sv_tensor patches; /* [places * patches, numbers] on the device */
    sv_tensor views;   /* [places, SV_CAMERA_VIEW] on the device, for sv_camera_sample() */
    bool *seen;        /* [places] a picture came */
    bool *fresh;       /* [places] its state starts afresh */
} sv_camera_input;

/* Numbers of a place's patches. */
size_t sv_camera_patch_numbers(const sv_camera_branch *branch);
/*
 * Host: one frame's pictures into 'patches' [slots, patch numbers] and 'views' [slots, SV_CAMERA_VIEW]; what is not seen keeps
 * its content in 'patches' and has a view of zeros. 'work' has room for patch numbers. 'last' and 'next' [slots] are the stream's (both NULL: a frame on its own).
 */
sv_status sv_camera_stage(sv_ctx *c, const sv_camera_branch *branch, const sv_frame *frame, float *patches,
                          float *views, bool *seen, bool *fresh, float *work, const sv_camera_seen *last,
                          sv_camera_seen *next);

/* x [N, channels] in place, voxels at 'coords' [N,4] of 'grid'. 'state' may be NULL: every picture is a first frame. */
sv_status sv_camera_run(sv_ctx *c, const sv_camera_branch *branch, int batch, const sv_camera_input *input,
                        sv_state *state, sv_tensor x, sv_tensor coords, const sv_grid *grid);

#endif
