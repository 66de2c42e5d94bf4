/* SPDX-License-Identifier: Apache-2.0
 *
 * The recurrent half of TRecViT, and of the Griffin family it comes from: every token position is a sequence in time.
 * Rows are slots: sequence by sequence, the frames of a sequence together.
 *
 *   residual block   x += RecurrentBlock(RMSNorm(x))              [; x += GatedMLP(RMSNorm(x))]
 *   RMSNorm          x / sqrt(mean x^2 + 1e-6) (1 + scale)
 *   recurrent block  (RG-LRU(conv(x Wx + bx)) * GELU(x Wy + by)) Wout + bout           width L inside
 *   conv             depthwise, causal, K taps
 *   RG-LRU           i = sigmoid(input_gate(u)), g = sigmoid(a_gate(u)), both block-diagonal; a = e^(-8 g softplus(a_param));
 *                    h = a h + sqrt(1 - a^2) i u; on the first frame of a sequence h = i u, whatever was before
 *   gated MLP        (GELU(x W0 + b0) * (x W1 + b1)) Wd + bd
 *
 * Complex RG-LRU: L/2 channels, u's first half the real, its second the imaginary part; gates have L/2 outputs,
 * a = e^(-8 g softplus(a_param) + j g a_imag_param), and |a| stands in the root. GELU is the tanh form.
 *
 * Sources: S. De et al., Griffin, 2024 (arXiv 2402.19427); recurrentgemma/jax/{layers,modules}.py.
 */
#ifndef SV_TEMPORAL_H
#define SV_TEMPORAL_H

#include "flax.h"

enum { SV_VIDEO_HEADS = 64 };

/* Block-diagonal weights [outputs, inputs of a block]; none: there are products for each block instead. */
typedef struct sv_block_gate {
    sv_tensor w, bias;
} sv_block_gate;

typedef struct sv_rg_lru {
    int width, heads;
    bool complex_numbers;
    sv_linear_weights input_gate[SV_VIDEO_HEADS], a_gate[SV_VIDEO_HEADS]; /* a product for each block */
    sv_block_gate input_blocks, a_blocks; /* or one for all, where a launch costs more than it saves */
    sv_tensor speed;                      /* [1, gates] -8 softplus(a_param) */
    sv_tensor turn;                       /* [1, gates] a_imag_param, complex numbers only */
} sv_rg_lru;

typedef struct sv_temporal_spec {
    int width, lru_width, heads, taps;
    int mlp; /* width of the gated MLP; 0: none */
    bool complex_numbers;
} sv_temporal_spec;

typedef struct sv_temporal {
    sv_temporal_spec spec;
    sv_tensor norm; /* [1, width] 1 + scale */
    sv_linear_weights linear_x, linear_y, linear_out;
    sv_tensor conv_w, conv_b; /* [L, K], [1, L] */
    sv_rg_lru rg_lru;
    sv_tensor mlp_norm;
    sv_linear_weights mlp_gate, mlp_up, mlp_down;
} sv_temporal;

/*
 * Where sequences stand. position [S,1]: the frame's number in its sequence, of which only 0, the first, matters; none: every
 * sequence begins with its first slot unless there is a state. States [sequences, .] of the layer: RG-LRU's h, and the last
 * taps - 1 inputs of the conv, oldest first; none: zero, or not wanted.
 */
typedef struct sv_temporal_walk {
    int length; /* frames of a sequence */
    sv_tensor position;
    sv_tensor h_in, h_out;       /* [G, L] */
    sv_tensor conv_in, conv_out; /* [G, (K-1) L] */
} sv_temporal_walk;

/* Below the binder's prefix: input_gate.{w,b}, a_gate.{w,b}, a_param [, a_imag_param]. */
sv_status sv_rg_lru_bind(sv_binder *b, sv_rg_lru *lru, int width, int heads, bool complex_numbers);
/* y, x [S, width]; they may be the same. */
sv_status sv_rg_lru_forward(sv_ctx *c, const sv_rg_lru *lru, sv_tensor y, sv_tensor x,
                            const sv_temporal_walk *walk);
/* w [taps, L] as in the checkpoint, "w" and "b" below the prefix. */
sv_status sv_temporal_bind_conv(sv_binder *b, sv_tensor *w, sv_tensor *bias, int width, int taps);

/* temporal_pre_norm, recurrent_block [, channel_pre_norm, mlp_block] below the prefix. */
sv_status sv_temporal_bind(sv_binder *b, sv_temporal *block, const sv_temporal_spec *spec);
/* Only what is below "recurrent_block", without norm and residual. */
sv_status sv_recurrent_bind(sv_binder *b, sv_temporal *block, const sv_temporal_spec *spec);
/* y [S, width] = the recurrent block of x, which it shares no memory with. */
sv_status sv_recurrent_forward(sv_ctx *c, const sv_temporal *block, sv_tensor y, sv_tensor x,
                               const sv_temporal_walk *walk);
/* x [S, width] in place. */
sv_status sv_temporal_forward(sv_ctx *c, const sv_temporal *block, sv_tensor x, const sv_temporal_walk *walk);
/* y = RMSNorm(x), weight = 1 + scale. */
sv_status sv_rms_norm(sv_ctx *c, sv_tensor y, sv_tensor x, sv_tensor weight);

#endif
