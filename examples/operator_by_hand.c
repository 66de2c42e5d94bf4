/* SPDX-License-Identifier: Apache-2.0
 *
 * Primitives without a network: a tensor of random rows goes through a linear layer, LayerNorm and GELU on the CPU. This is
 * how operators and tests use the core.
 */
#include "perception/core/ops.h"

#include <stdio.h>

enum { ROWS = 1000, IN = 32, OUT = 16 };

static sv_status run(sv_ctx *c, sv_arena *weights, double *mean_square)
{
    static float x_host[ROWS * IN], w_host[OUT * IN], one[OUT], zero[OUT];
    uint32_t state = 1;
    for (int i = 0; i < ROWS * IN; i++)
        x_host[i] = (float)((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-24f - 0.5f;
    for (int i = 0; i < OUT * IN; i++)
        w_host[i] = (float)((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-24f - 0.5f;
    for (int i = 0; i < OUT; i++) one[i] = 1;

    sv_linear_weights linear;
    sv_tensor norm_weight, norm_bias, x, y;
    c->weights = weights; /* where prepared weights go */
    SV_TRY(sv_linear_prepare(c, &linear, sv_view(w_host, SV_F32, OUT, IN), SV_NONE));
    SV_TRY(sv_weight_upload(c, &norm_weight, sv_view(one, SV_F32, 1, OUT)));
    SV_TRY(sv_weight_upload(c, &norm_bias, sv_view(zero, SV_F32, 1, OUT)));
    c->weights = NULL;

    SV_TRY(sv_frame_alloc(c, &x, "input", SV_F32, ROWS, IN, SV_NONE));
    SV_TRY(sv_frame_alloc(c, &y, "output", SV_F32, ROWS, OUT, SV_NONE));
    SV_TRY(c->device->upload(c, x.data, x_host, sizeof x_host));
    SV_TRY(sv_linear(c, y, x, SV_NONE, &linear, SV_MAP_identity));
    SV_TRY(sv_norm(c, y, y, norm_weight, norm_bias, 1e-5f, SV_MAP_gelu, SV_NONE));

    static float y_host[ROWS * OUT];
    SV_TRY(c->device->download(c, y_host, y.data, sizeof y_host));
    *mean_square = 0;
    for (int i = 0; i < ROWS * OUT; i++) *mean_square += (double)y_host[i] * (double)y_host[i] / (ROWS * OUT);
    return SV_OK;
}

int main(void)
{
    sv_ctx_def def = sv_ctx_def_default();
    sv_ctx *c = NULL;
    if (sv_ctx_open(&def, &c) != SV_OK)
        return fprintf(stderr, "%s\n", c ? sv_error_message(c) : "no memory"), 1;
    sv_arena weights;
    sv_arena_init(&weights, "weights", c->device);
    double mean_square = 0;
    const sv_status status = run(c, &weights, &mean_square);
    if (status == SV_OK)
        printf("mean square of GELU(LayerNorm(W x)): %.4f (0.425 for normal values)\n", mean_square);
    else
        fprintf(stderr, "%s\n", sv_error_message(c));
    sv_arena_free(&weights);
    sv_ctx_close(c);
    return status != SV_OK;
}
