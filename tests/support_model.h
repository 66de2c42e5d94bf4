/* SPDX-License-Identifier: Apache-2.0
 *
 * A small LION detector and clouds for it: all parts of the real one, few channels and cells.
 */
#ifndef SUPPORT_MODEL_H
#define SUPPORT_MODEL_H

#include "perception/detector.h"
#include "support.h"

/* A YAML file in the test folder (KITTI layout, 64 x 64 x 32 cells, 16 channels). */
const char *small_config(void);
/* Random weights of 'seed', in a model file in the test folder. */
const char *small_weights(uint64_t seed);
/* The two above, loaded. */
sv_model *small_model(sv_ctx *c, uint64_t seed);
/* Ground, walls and some blocks within the small model's range; some points fall outside. */
sv_frame *small_cloud(test_rng *rng, int points);

#endif
