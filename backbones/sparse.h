/* SPDX-License-Identifier: Apache-2.0
 *
 * A sparse voxel tensor: what travels between the stages of the 3-D backbone.
 */
#ifndef SV_SPARSE_H
#define SV_SPARSE_H

#include "perception/core/tensor.h"

typedef struct sv_sparse {
    sv_tensor x;      /* f32 [N,C] */
    sv_tensor coords; /* i32 [N,4] (b,z,y,x), the same live rows */
    int32_t shape[3]; /* z, y, x */
} sv_sparse;

#endif
