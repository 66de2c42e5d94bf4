/* SPDX-License-Identifier: Apache-2.0
 *
 * The spatial half of TRecViT: a vision transformer's block over the n tokens of a frame.
 *
 *     x += MHA(LN0(x));  x += Dense1(GELU(Dense0(LN1(x))))
 *
 * LayerNorm with eps 1e-6, scale and bias; heads of c/H channels, scores scaled by (c/H)^-1/2, no mask; GELU in its tanh form.
 * Source: trecvit/modules.py (Encoder1DBlock), which has it from big_vision.
 */
#ifndef SV_SPATIAL_H
#define SV_SPATIAL_H

#include "flax.h"

typedef struct sv_spatial {
    int width, heads, mlp;
    sv_tensor norm[2], norm_bias[2]; /* [1, width] */
    sv_linear_weights qkv;           /* query, key and value one behind the other */
    sv_linear_weights out, dense[2];
} sv_spatial;

/*
 * How the tokens of a frame lie in the rows of x. none: frame by frame. Otherwise (sequences in time together, as the
 * temporal half wants them) by_frame i32 [S]: the row of each slot in frame order, and by_row i32 [S], its inverse.
 */
typedef struct sv_frame_order {
    int tokens; /* n */
    sv_tensor by_frame, by_row;
} sv_frame_order;

sv_status sv_spatial_bind(sv_binder *b, sv_spatial *block, int width, int heads, int mlp);
/* x [S, width] in place; S a multiple of n. */
sv_status sv_spatial_forward(sv_ctx *c, const sv_spatial *block, sv_tensor x, const sv_frame_order *order);
/* scale and bias of a LayerNorm below "NAME". */
sv_status sv_bind_layer_norm(sv_binder *b, sv_tensor *scale, sv_tensor *bias, const char *name, int n);

#endif
