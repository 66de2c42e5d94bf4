/* SPDX-License-Identifier: Apache-2.0
 *
 * Small LION detectors and clouds for them: all parts of the real ones, few channels and cells.
 */
#ifndef SUPPORT_MODEL_H
#define SUPPORT_MODEL_H

#include "perception/detector.h"
#include "support.h"

/* By the dataset whose configuration they resemble: the 2-D backbone, the head and its suppression. */
typedef enum small_kind {
    SMALL_KITTI,
    SMALL_WAYMO,
    SMALL_ONCE,
    SMALL_NUSCENES,
    SMALL_ARGOVERSE2, /* its map stays sparse */
    SMALL_KINDS
} small_kind;

/* A YAML file in the test folder (64 x 64 x 32 cells, 16 channels, 100 boxes at most). 'more' is YAML behind
 * it: keys merge. */
const char *small_config_of(small_kind kind, const char *more);
sv_model *small_model_of(sv_ctx *c, small_kind kind, uint64_t seed);
/* The kind of KITTI. */
const char *small_config(void);
/* Random weights of 'seed', in a model file in the test folder. */
const char *small_weights(uint64_t seed);
/* The two above, loaded. */
sv_model *small_model(sv_ctx *c, uint64_t seed);
/* Ground, walls and some blocks within the small model's range; some points fall outside. */
sv_frame *small_cloud(test_rng *rng, int points);
/* The same with more columns than x, y, z, intensity, which are filled with 0..1. */
sv_frame *small_cloud_of(test_rng *rng, int points, int columns);

#endif
