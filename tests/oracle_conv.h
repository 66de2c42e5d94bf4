/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolution chains by the definition, in double precision.
 */
#ifndef ORACLE_CONV_H
#define ORACLE_CONV_H

#include "perception/core/ops.h"

typedef struct oracle_map {
    int height, width, channels;
    double *values; /* [batch][height][width][channels] */
} oracle_map;

/* All slots of a chain; maps[slot] is malloc'ed for slots 0..(result)-1. */
int oracle_chain(const sv_chain_def *def, int batch, const float *in, oracle_map *maps);
void oracle_chain_free(oracle_map *maps, int slots);

#endif
