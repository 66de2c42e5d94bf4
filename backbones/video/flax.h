/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers as JAX's Flax keeps them: a dense kernel is [inputs..., outputs...], its bias [outputs...]; either side may have
 * several axes, as attention has heads. The '/' of names is '.' here, as everywhere in the binder.
 */
#ifndef SV_FLAX_H
#define SV_FLAX_H

#include "perception/model/binder.h"

typedef struct sv_flax_dense {
    const char *kernel, *bias; /* names; NULL: "kernel", "bias" */
    int ndim, inputs;          /* axes of the kernel; those of them that are inputs */
    int32_t dim[4];
} sv_flax_dense;

/* Below the binder's prefix. */
sv_status sv_flax_bind(sv_binder *b, sv_linear_weights *out, const char *name, const sv_flax_dense *shape);
/* [in, out] with names "kernel" and "bias". */
sv_status sv_flax_bind_dense(sv_binder *b, sv_linear_weights *out, const char *name, int in, int outputs);
/* Several dense layers with the same input, joined: the outputs of all, one behind the other. */
sv_status sv_flax_bind_joined(sv_binder *b, sv_linear_weights *out, const char *const *names, int count,
                              const sv_flax_dense *shape);
/* A block-diagonal layer as one linear layer per block: w [blocks, in, out], b [blocks, out]. name NULL: right below the prefix. */
sv_status sv_flax_bind_blocks(sv_binder *b, sv_linear_weights *out, const char *name, int blocks, int in,
                              int outputs);
/* The same with square blocks for sv_block_linear(): w [blocks * size, size] and bias on the device. */
sv_status sv_flax_bind_diagonal(sv_binder *b, sv_tensor *w, sv_tensor *bias, const char *name, int blocks,
                                int size);
/* A vector on the device, plus 'add'. */
sv_status sv_flax_bind_vector(sv_binder *b, sv_tensor *out, const char *name, sv_init init, int n, float add);

/* Prepared from host kernels [k, n] with the same input, their outputs one behind the other; bias [count * n] or NULL. */
sv_status sv_flax_prepare(sv_ctx *c, sv_linear_weights *out, const float *const *kernels, int count, int k,
                          int n, const float *bias);

#endif
