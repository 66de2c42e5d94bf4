/* SPDX-License-Identifier: Apache-2.0
 *
 * Binding: a component asks for its tensors by name and shape, and says how it
 * would initialise them. The same requests load a checkpoint, list what is
 * missing, extra or mis-shaped, make random weights for 'savanna init', and
 * count parameters for 'savanna inspect'.
 */
#ifndef SV_BINDER_H
#define SV_BINDER_H

#include "perception/core/ops.h"
#include "weights.h"

/* How 'savanna init' fills a tensor. */
typedef enum sv_init_kind {
    SV_INIT_CONSTANT,  /* a */
    SV_INIT_UNIFORM,   /* a..b */
    SV_INIT_NORMAL,    /* mean a, deviation b */
    SV_INIT_LOG_RANGE, /* row-wise log(1), log(2), ... log(columns): Mamba's A_log */
} sv_init_kind;
typedef struct sv_init {
    sv_init_kind kind;
    float a, b;
} sv_init;

#define SV_INIT(value) ((sv_init){SV_INIT_CONSTANT, (value), 0})
/* Uniform within +-1/sqrt(fan_in), PyTorch's default for linear and convolution weights and biases. */
sv_init sv_init_fan_in(int fan_in);

typedef struct sv_binder sv_binder;

/* Bind from 'weights'. 'c->weights' must be set to the arena that receives the device copies. */
sv_status sv_binder_open(sv_ctx *c, const sv_weights *weights, sv_binder **out);
/* Fill 'weights' (empty) with seeded random tensors instead: the same seed gives the same bytes. */
sv_status sv_binder_open_init(sv_ctx *c, sv_weights *weights, uint64_t seed, sv_binder **out);
void sv_binder_close(sv_binder *b);
sv_ctx *sv_binder_ctx(sv_binder *b);

/*
 * After all requests: SV_BAD_INPUT when tensors were missing, had another shape, or were never asked for; the
 * message counts each kind and names the first ones, and all are logged. "global_step" and
 * "*.num_batches_tracked" may be left over.
 */
sv_status sv_binder_finish(sv_binder *b);
int64_t sv_binder_parameters(const sv_binder *b); /* trainable: BatchNorm statistics not counted */

/* Name prefixes nest: push "backbone_3d", push "linear_%d" -> "backbone_3d.linear_1." */
void sv_binder_push(sv_binder *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sv_binder_pop(sv_binder *b);

/* Random weights of convolutions that are asked for from now on are made this much smaller (1: as they are):
 * branches that are added to what they were computed from would double the activations otherwise. */
void sv_binder_damp(sv_binder *b, float factor);

/*
 * The host tensor 'name' below the prefix, which must have these dims. On a missing or mis-shaped one the
 * failure is noted and '*out' is a zero tensor of the right shape, so that binding goes on and everything
 * wrong is found at once; the sv_status only reports lack of memory. Valid until the binder is closed.
 */
sv_status sv_bind_host(sv_binder *b, sv_tensor *out, const char *name, sv_init init, int ndim,
                       const int32_t *dims);
/* The same, or none when the checkpoint does not have it (in init mode: made when 'wanted'). */
sv_status sv_bind_host_optional(sv_binder *b, sv_tensor *out, const char *name, bool wanted, sv_init init,
                                int ndim, const int32_t *dims);
/* Host copy moved to the device (weights arena). */
sv_status sv_bind_vector(sv_binder *b, sv_tensor *out, const char *name, sv_init init, int n);
sv_status sv_bind_matrix(sv_binder *b, sv_tensor *out, const char *name, sv_init init, int rows, int columns);
/* name.weight [n,k] and, when 'bias', name.bias [n], prepared. */
sv_status sv_bind_linear(sv_binder *b, sv_linear_weights *out, const char *name, int n, int k, bool bias);
/* Linear (or 1x1 convolution) without bias followed by BatchNorm 'norm', folded in double precision. */
sv_status sv_bind_linear_batchnorm(sv_binder *b, sv_linear_weights *out, const char *linear, const char *norm,
                                   float eps, int n, int k, bool bias);
/* The same on the host, valid until the binder is closed, for a component that joins or folds further before it
 * prepares them. norm NULL: plain, and '*bias' is NULL without 'has_bias'. */
sv_status sv_bind_linear_host(sv_binder *b, const float **w, const float **bias, const char *linear,
                              const char *norm, float eps, int n, int k, bool has_bias);
/* Zeros on the host that live as long as the binder: where joined or rearranged weights go. */
sv_status sv_bind_memory(sv_binder *b, float **out, int64_t count);
/* A 3x3 sub-manifold convolution without bias over cells of a plane, name.weight [out,ky,kx,in], as one over voxels whose
 * upper and lower neighbours are not looked at: 'w' is host [out,3,3,3,in], zeros (sv_bind_memory()). */
sv_status sv_bind_subm_plane(sv_binder *b, float *w, const char *name, int out_channels, int in_channels);
/* BatchNorm by itself, y = scale x + shift, to the host's [n] each. */
sv_status sv_bind_batchnorm(sv_binder *b, float *scale, float *shift, const char *name, float eps, int n);
/* Convolution weights (host, valid until the binder is closed) with BatchNorm folded in; shape as in the
 * file: conv [out][in][k][k], deconv [in][out][k][k]. norm NULL: plain, bias from name.bias when 'bias'. */
sv_status sv_bind_conv(sv_binder *b, const float **w, const float **bias, const char *name, const char *norm,
                       float eps, int out_channels, int in_channels, int kernel, bool transposed,
                       bool has_bias);

#endif
