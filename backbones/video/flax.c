/* SPDX-License-Identifier: Apache-2.0 */
#include "flax.h"

#include <stdlib.h>

enum { MOST_JOINED = 4, TILE = 32 };

/* to [n, k] = from [k, n], tile by tile: a whole column would miss the cache at every step. */
static void turn(float *to, const float *from, int k, int n)
{
    for (int i0 = 0; i0 < k; i0 += TILE)
        for (int j0 = 0; j0 < n; j0 += TILE)
            for (int j = j0; j < j0 + TILE && j < n; j++)
                for (int i = i0; i < i0 + TILE && i < k; i++)
                    to[(size_t)j * (size_t)k + (size_t)i] = from[(size_t)i * (size_t)n + (size_t)j];
}

sv_status sv_flax_prepare(sv_ctx *c, sv_linear_weights *out, const float *const *kernels, int count, int k,
                          int n, const float *bias)
{
    float *w = malloc(sizeof *w * (size_t)count * (size_t)k * (size_t)n);
    SV_CHECK(c, w, SV_NO_MEMORY, "no memory for a layer of %d x %d numbers", k, count * n);
    for (int i = 0; i < count; i++) turn(w + (size_t)i * (size_t)k * (size_t)n, kernels[i], k, n);
    const sv_tensor none = SV_NONE;
    const sv_status status =
        sv_linear_prepare(c, out, sv_view(w, SV_F32, count * n, k),
                          bias ? sv_view((void *)(uintptr_t)bias, SV_F32, 1, count * n) : none);
    free(w);
    return status;
}

static int product(const int32_t *dims, int count)
{
    int all = 1;
    for (int i = 0; i < count; i++) all *= dims[i];
    return all;
}

/* Kernel and bias on the host. */
static sv_status find(sv_binder *b, sv_tensor *kernel, sv_tensor *bias, const char *name,
                      const sv_flax_dense *s)
{
    const int k = product(s->dim, s->inputs), outputs = s->ndim - s->inputs;
    sv_binder_push(b, "%s", name);
    SV_TRY(sv_bind_host(b, kernel, s->kernel ? s->kernel : "kernel", sv_init_fan_in(k), s->ndim, s->dim));
    SV_TRY(sv_bind_host(b, bias, s->bias ? s->bias : "bias", sv_init_fan_in(k), outputs, s->dim + s->inputs));
    sv_binder_pop(b);
    return SV_OK;
}

sv_status sv_flax_bind_joined(sv_binder *b, sv_linear_weights *out, const char *const *names, int count,
                              const sv_flax_dense *shape)
{
    sv_ctx *c = sv_binder_ctx(b);
    const int k = product(shape->dim, shape->inputs),
              n = product(shape->dim + shape->inputs, shape->ndim - shape->inputs);
    assert(count <= MOST_JOINED);
    const float *kernels[MOST_JOINED];
    float *biases = NULL;
    SV_TRY(sv_bind_memory(b, &biases, (int64_t)count * n));
    for (int i = 0; i < count; i++) {
        sv_tensor kernel, bias;
        SV_TRY(find(b, &kernel, &bias, names[i], shape));
        kernels[i] = sv_f32(kernel);
        for (int j = 0; j < n; j++) biases[i * n + j] = sv_f32(bias)[j];
    }
    return sv_flax_prepare(c, out, kernels, count, k, n, biases);
}

sv_status sv_flax_bind(sv_binder *b, sv_linear_weights *out, const char *name, const sv_flax_dense *shape)
{
    return sv_flax_bind_joined(b, out, &name, 1, shape);
}

sv_status sv_flax_bind_dense(sv_binder *b, sv_linear_weights *out, const char *name, int in, int outputs)
{
    const sv_flax_dense shape = {.ndim = 2, .inputs = 1, .dim = {in, outputs}};
    return sv_flax_bind(b, out, name, &shape);
}

sv_status sv_flax_bind_blocks(sv_binder *b, sv_linear_weights *out, const char *name, int blocks, int in,
                              int outputs)
{
    sv_tensor w, bias;
    const int32_t w_dim[3] = {blocks, in, outputs}, b_dim[2] = {blocks, outputs};
    if (name) sv_binder_push(b, "%s", name);
    SV_TRY(sv_bind_host(b, &w, "w", sv_init_fan_in(in), 3, w_dim));
    SV_TRY(sv_bind_host(b, &bias, "b", SV_INIT(0), 2, b_dim));
    if (name) sv_binder_pop(b);
    for (int i = 0; i < blocks; i++) {
        const float *kernel = sv_f32(w) + (size_t)i * (size_t)in * (size_t)outputs;
        SV_TRY(sv_flax_prepare(sv_binder_ctx(b), &out[i], &kernel, 1, in, outputs,
                               sv_f32(bias) + (size_t)i * (size_t)outputs));
    }
    return SV_OK;
}

sv_status sv_flax_bind_diagonal(sv_binder *b, sv_tensor *w, sv_tensor *bias, const char *name, int blocks,
                                int size)
{
    sv_ctx *c = sv_binder_ctx(b);
    sv_tensor kernels, offset;
    float *turned = NULL;
    const int32_t w_dim[3] = {blocks, size, size}, b_dim[2] = {blocks, size};
    const size_t each = (size_t)size * (size_t)size;
    sv_binder_push(b, "%s", name);
    SV_TRY(sv_bind_host(b, &kernels, "w", sv_init_fan_in(size), 3, w_dim));
    SV_TRY(sv_bind_host(b, &offset, "b", SV_INIT(0), 2, b_dim));
    sv_binder_pop(b);
    SV_TRY(sv_bind_memory(b, &turned, (int64_t)blocks * (int64_t)each));
    for (int i = 0; i < blocks; i++)
        turn(turned + (size_t)i * each, sv_f32(kernels) + (size_t)i * each, size, size);
    SV_TRY(sv_weight_upload(c, w, sv_view(turned, SV_F32, blocks * size, size)));
    return sv_weight_upload(c, bias, sv_view(sv_f32(offset), SV_F32, 1, blocks * size));
}

sv_status sv_flax_bind_vector(sv_binder *b, sv_tensor *out, const char *name, sv_init init, int n, float add)
{
    sv_tensor host;
    float *sum = NULL;
    const int32_t dim = n;
    SV_TRY(sv_bind_host(b, &host, name, init, 1, &dim));
    SV_TRY(sv_bind_memory(b, &sum, n));
    for (int i = 0; i < n; i++) sum[i] = sv_f32(host)[i] + add;
    return sv_weight_upload(sv_binder_ctx(b), out, sv_view(sum, SV_F32, 1, n));
}
