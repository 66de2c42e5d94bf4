/* SPDX-License-Identifier: Apache-2.0
 *
 * ConvS5 (Smith et al., "Convolutional State Space Models for Long-Range Spatiotemporal Modeling", arXiv 2310.19694): a
 * diagonal complex state per cell and channel, with convolutions in front of and behind it. Implemented from the paper's
 * formulas and recorded runs of the official program.
 *
 *     A = exp(Lambda dt), B' = (A - 1) / Lambda B          once, in double, when the weights are bound (dt = exp(log_step))
 *     x_t = A x_(t-1) + conv(u_t, B')                      x [H,W,P] complex, u [H,W,U] real
 *     y_t = 2 Re conv(x_t, C)                              then the output block of C_D_config, per frame
 *
 *     resnet     act(y + conv(act(GN(conv(act(GN(y)))))))  (squeeze_excite: the branch times a gate per channel)
 *     standard   act(GN(y + conv(u)))                      (squeeze_excite likewise)
 *     half_glu   q = gelu(LN(y)); q * sigmoid(Dense(q))
 *     diag_resnet   y
 *
 * Layer: block(u) [+ u], LayerNorm over channels behind it (or in front: prenorm). Rows of every tensor are frame, sample,
 * cell; states [B*H*W, 2P] hold real parts, then imaginary ones. Everything but the scan treats frames alone, and the scan
 * walks: a clip gives the same bytes as its frames one by one. With 'stretch' > 1 the scan is parallel in time.
 *
 * Tensor names are those of the flax checkpoint with '.' for '/'.
 */
#ifndef SV_CONVS5_H
#define SV_CONVS5_H

#include "perception/core/ops.h"
#include "perception/model/binder.h"
#include "perception/model/config.h"

enum { SV_CONVS5_LAYERS = 32, SV_CONVS5_STRETCH = 32, SV_CONVS5_DEPTHS = 6, SV_CONVS5_BLOCKS = 4 };

/* ---- convolutions, norms ---------------------------------------------------------------------------------- */

/* Stride 1, zeros outside. Large maps go through a convolution chain (Winograd), small ones through sv_map_conv(). */
typedef struct sv_video_conv {
    int in, out, height, width;
    sv_map_conv_weights direct;
    sv_chain *chain;          /* NULL: direct */
    sv_linear_weights linear; /* kernel 1 */
    bool pointwise;
} sv_video_conv;

/* 'w' host [k*k*in, out], bias [out] or none. */
sv_status sv_video_conv_prepare(sv_ctx *c, sv_video_conv *conv, sv_tensor w, sv_tensor bias, int kernel,
                                int height, int width);
/* name.kernel [k,k,in,out] and, when 'bias', name.bias; 'extra': name.bias comes as another tensor of this name (AddBias). */
sv_status sv_video_conv_bind(sv_binder *b, sv_video_conv *conv, const char *name, const char *bias,
                             int kernel, int in, int out, int height, int width, float scale);
/* y = map(add + conv(x)); add may be none or y. */
sv_status sv_video_conv_run(sv_ctx *c, const sv_video_conv *conv, sv_tensor y, sv_tensor x, sv_tensor add,
                            sv_map map);

/* name.scale, name.bias of a LayerNorm or GroupNorm. */
typedef struct sv_video_norm {
    sv_tensor scale, bias;
} sv_video_norm;
sv_status sv_video_norm_bind(sv_binder *b, sv_video_norm *norm, const char *name, int channels);
extern const float SV_VIDEO_EPS; /* of every norm */

/* ---- the layer -------------------------------------------------------------------------------------------- */

typedef enum sv_convs5_output {
    SV_CONVS5_RESNET,
    SV_CONVS5_STANDARD,
    SV_CONVS5_HALF_GLU,
    SV_CONVS5_DIAG_RESNET
} sv_convs5_output;
/* "resnet", ...; false when it is none of these. */
bool sv_convs5_output_parse(const char *text, sv_convs5_output *output);
/* "gelu", "swish", "relu", "elu"; false otherwise. */
bool sv_convs5_activation_parse(const char *text, sv_map *map);

/* What all layers of a stack have in common. */
typedef struct sv_convs5_spec {
    int layers, width, states; /* U, P */
    int height, width_cells;   /* of a map */
    int kernel_b, kernel_c, kernel_d, groups, blocks;
    double dt_min, dt_max; /* of random weights */
    sv_convs5_output output;
    sv_map activation;
    bool clip_eigenvalues, squeeze_excite;
    bool norm, norm_first, skip, long_skips;
} sv_convs5_spec;

typedef struct sv_convs5_layer {
    const sv_convs5_spec *spec;
    sv_video_conv in, out;                    /* B', C */
    sv_tensor powers;                         /* [SV_CONVS5_STRETCH,2P]: A, A^2, ... */
    sv_video_norm group[2], glu;              /* of the output block */
    sv_video_conv d[2];                       /* of the output block */
    sv_linear_weights dense, squeeze, expand; /* half_glu; squeeze_excite */
    sv_video_norm norm;                       /* of the layer */
    sv_tensor host_a, host_b;                 /* discretised, host, until the binder is closed */
} sv_convs5_layer;

/* The state space model and its output block, without the layer's norm and skip. */
sv_status sv_convs5_layer_bind(sv_binder *b, sv_convs5_layer *layer, const sv_convs5_spec *spec);
/* y [T*B*H*W, U] from u likewise; y shares no memory with u. States may be none. stretch: frames that are scanned as one. */
sv_status sv_convs5_layer_run(sv_ctx *c, const sv_convs5_layer *layer, sv_tensor y, sv_tensor u, int frames,
                              int stretch, sv_tensor state_in, sv_tensor state_out);

typedef struct sv_convs5_stack {
    sv_convs5_spec spec;
    sv_convs5_layer layer[SV_CONVS5_LAYERS];
} sv_convs5_stack;

sv_status sv_convs5_stack_bind(sv_binder *b, sv_convs5_stack *stack, const sv_convs5_spec *spec);
/* y may be u. States [layers*B*H*W, 2P], layer by layer. */
sv_status sv_convs5_stack_run(sv_ctx *c, const sv_convs5_stack *stack, sv_tensor y, sv_tensor u, int frames,
                              int stretch, sv_tensor state_in, sv_tensor state_out);

/* Imaginary parts of Lambda of the HiPPO-LegS matrix, negative half, ascending: states = half of N, 'blocks' times the
 * spectrum of N / blocks. The real parts are -1/2. */
sv_status sv_convs5_hippo(sv_ctx *c, int states, int blocks, double *imaginary);

/* ---- encoder, decoder ------------------------------------------------------------------------------------- */

/* out = skip(x) + 0.1 (conv(elu(GN(conv(elu(GN(x)))))) + bias) */
typedef struct sv_video_block {
    int in, out, cells;
    sv_video_norm norm[2];
    sv_video_conv conv[2], skip;
    bool has_skip;
} sv_video_block;
sv_status sv_video_block_bind(sv_binder *b, sv_video_block *block, int in, int out, int height, int width);
sv_status sv_video_block_run(sv_ctx *c, const sv_video_block *block, sv_tensor y, sv_tensor x);

typedef struct sv_video_codec {
    int depths, depth[SV_CONVS5_DEPTHS], blocks; /* blocks: after each halving of the encoder */
    int height, width, channels, d_model;        /* of a picture; of the latent map */
    sv_video_conv first;
    sv_video_block block[SV_CONVS5_DEPTHS * SV_CONVS5_BLOCKS + 1];
    sv_video_norm norm; /* decoder */
    sv_linear_weights dense;
} sv_video_codec;

sv_status sv_video_encoder_bind(sv_binder *b, sv_video_codec *e);
sv_status sv_video_decoder_bind(sv_binder *b, sv_video_codec *d);
/* pictures [N*H*W, channels] -> [N*h*w, last depth] */
sv_status sv_video_encode(sv_ctx *c, const sv_video_codec *e, sv_tensor y, sv_tensor pictures);
/* [N*h*w, d_model] -> pictures [N*H*W, channels] in -1..1 */
sv_status sv_video_decode(sv_ctx *c, const sv_video_codec *d, sv_tensor pictures, sv_tensor x);

/* ---- the model without quantisation ----------------------------------------------------------------------- */

typedef struct sv_convs5 {
    sv_arena weights;
    int height, width, channels; /* of a picture */
    int latent_height, latent_width;
    sv_video_codec encoder, decoder;
    sv_linear_weights action; /* action_conv with the embedding of "no action" in its bias */
    sv_convs5_stack stack;
    int64_t parameters;
} sv_convs5;

/* On c's device. Configuration: the official keys (d_model, seq_model.n_layers, ...) at the root, or the same in capitals below
 * MODEL. Weights that do not fit are refused with a list. */
sv_status sv_convs5_open(sv_ctx *c, const sv_config *config, const sv_weights *weights, sv_convs5 **out);
void sv_convs5_close(sv_convs5 *m); /* NULL is fine */
/* Fill 'weights' (new, empty) with seeded random tensors. */
sv_status sv_convs5_init(sv_ctx *c, const sv_config *config, uint64_t seed, sv_weights *weights);
/* Rows and columns of the state for a batch. */
int sv_convs5_state_rows(const sv_convs5 *m, int batch);
int sv_convs5_state_columns(const sv_convs5 *m);
/* frames x batch pictures (rows: frame, sample, cell) in -1..1 to the predictions of the frames after each. 'predicted' may be
 * none: only the state is wanted. */
sv_status sv_convs5_predict(sv_ctx *c, const sv_convs5 *m, sv_tensor predicted, sv_tensor pictures,
                            int frames, int batch, int stretch, sv_tensor state_in, sv_tensor state_out);

#endif
