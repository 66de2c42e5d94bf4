/* SPDX-License-Identifier: Apache-2.0 */
#include "bev.h"

#include <stdio.h>
#include <string.h>

enum { LEVELS = 4 };
static const float BATCHNORM_EPS = 1e-3f, BRANCH_DAMPING = 0.2f;

static sv_status add_node(sv_ctx *c, sv_chain_def *chain, sv_chain_node **node)
{
    SV_CHECK(c, chain->node_count < SV_CHAIN_NODES, SV_UNSUPPORTED,
             "more than %d convolutions in the 2-D part", SV_CHAIN_NODES);
    *node = &chain->nodes[chain->node_count++];
    **node = (sv_chain_node){.kernel = 1, .stride = 1, .add = -1};
    return SV_OK;
}

/* [ReLU](BatchNorm(convolution) [+ slot 'add']) into a slot of its own; names below the binder's prefix. */
typedef struct convolution {
    const char *conv, *norm;
    int in, in_channels, channels, kernel, stride;
    int add; /* -1: none */
    bool relu;
} convolution;

static sv_status add_convolution(sv_binder *b, sv_chain_def *chain, int *next_slot, const convolution *k,
                                 int *out)
{
    sv_chain_node *node = NULL;
    SV_TRY(add_node(sv_binder_ctx(b), chain, &node));
    node->kind = SV_CHAIN_CONV;
    node->in = k->in;
    node->out = *out = (*next_slot)++;
    node->kernel = k->kernel;
    node->stride = k->stride;
    node->in_channels = k->in_channels;
    node->out_channels = k->channels;
    node->add = k->add;
    node->relu = k->relu;
    return sv_bind_conv(b, &node->w, &node->bias, k->conv, k->norm, BATCHNORM_EPS, k->channels,
                        k->in_channels, k->kernel, false, false);
}

/* One layer of BaseBEVBackbone: modules index, index+1 and (a ReLU) index+2 of its level. */
static sv_status add_plain(sv_binder *b, sv_chain_def *chain, int *next_slot, int *slot, int in_channels,
                           int channels, int stride, int index)
{
    char conv[12], norm[12];
    snprintf(conv, sizeof conv, "%d", index);
    snprintf(norm, sizeof norm, "%d", index + 1);
    const convolution k = {.conv = conv,
                           .norm = norm,
                           .in = *slot,
                           .in_channels = in_channels,
                           .channels = channels,
                           .kernel = 3,
                           .stride = stride,
                           .add = -1,
                           .relu = true};
    return add_convolution(b, chain, next_slot, &k, slot);
}

/* One block of BaseBEVResBackbone; the first of a level brings its input to the new width and stride. */
static sv_status add_residual(sv_binder *b, sv_chain_def *chain, int *next_slot, int *slot, int in_channels,
                              int channels, int stride, bool first)
{
    int aside = *slot, inner = -1;
    convolution k = {.in = *slot,
                     .in_channels = in_channels,
                     .channels = channels,
                     .kernel = 1,
                     .stride = stride,
                     .add = -1};
    if (first) {
        k.conv = "downsample_layer.0";
        k.norm = "downsample_layer.1";
        SV_TRY(add_convolution(b, chain, next_slot, &k, &aside));
    }
    k.conv = "conv1";
    k.norm = "bn1";
    k.kernel = 3;
    k.relu = true;
    SV_TRY(add_convolution(b, chain, next_slot, &k, &inner));
    k.conv = "conv2";
    k.norm = "bn2";
    k.in = inner;
    k.in_channels = channels;
    k.stride = 1;
    k.add = aside;
    sv_binder_damp(b, BRANCH_DAMPING);
    SV_TRY(add_convolution(b, chain, next_slot, &k, slot));
    sv_binder_damp(b, 1);
    return SV_OK;
}

sv_status sv_bev_bind(sv_binder *b, const sv_node *cfg, sv_chain_def *chain, int *next_slot,
                      sv_bev_result *result)
{
    sv_ctx *c = sv_binder_ctx(b);
    const char *name = NULL;
    SV_TRY(sv_node_string(c, cfg, "NAME", &name));
    const bool residual = strcmp(name, "BaseBEVResBackbone") == 0;
    SV_CHECK(c, residual || strcmp(name, "BaseBEVBackbone") == 0, SV_UNSUPPORTED,
             "%s.NAME: %s is not supported; BaseBEVBackbone and BaseBEVResBackbone are", sv_node_path(cfg),
             name);
    const sv_node *list = NULL;
    SV_TRY(sv_node_require(c, cfg, "LAYER_NUMS", &list));
    const int levels = sv_node_count(list);
    SV_CHECK(c, levels >= 1 && levels <= LEVELS, SV_UNSUPPORTED,
             "%s.LAYER_NUMS: %d levels; 1 to %d are supported", sv_node_path(cfg), levels, LEVELS);
    int layers[LEVELS], strides[LEVELS], filters[LEVELS], up_filters[LEVELS];
    double up_strides[LEVELS];
    SV_TRY(sv_node_ints(c, cfg, "LAYER_NUMS", layers, levels));
    SV_TRY(sv_node_ints(c, cfg, "LAYER_STRIDES", strides, levels));
    SV_TRY(sv_node_ints(c, cfg, "NUM_FILTERS", filters, levels));
    SV_TRY(sv_node_numbers(c, cfg, "UPSAMPLE_STRIDES", up_strides, levels));
    SV_TRY(sv_node_ints(c, cfg, "NUM_UPSAMPLE_FILTERS", up_filters, levels));

    sv_binder_push(b, "backbone_2d");
    const int concat = (*next_slot)++;
    int in = 0, in_channels = chain->in_channels, height = chain->height, width = chain->width, first = 0;
    for (int level = 0; level < levels; level++) {
        SV_CHECK(c,
                 layers[level] >= 0 && strides[level] >= 1 && strides[level] <= 4 && filters[level] >= 1 &&
                     filters[level] <= 4096 && up_filters[level] >= 1 && up_filters[level] <= 4096,
                 SV_BAD_INPUT, "%s: level %d has %d layers, stride %d, %d and %d filters", sv_node_path(cfg),
                 level, layers[level], strides[level], filters[level], up_filters[level]);
        sv_binder_push(b, "blocks.%d", level);
        for (int k = 0; k <= layers[level]; k++) {
            const int stride = k == 0 ? strides[level] : 1;
            if (residual) {
                sv_binder_push(b, "%d", k);
                SV_TRY(add_residual(b, chain, next_slot, &in, in_channels, filters[level], stride, k == 0));
                sv_binder_pop(b);
            } else {
                /* module 0 is the padding; then convolution, norm, ReLU in threes */
                SV_TRY(add_plain(b, chain, next_slot, &in, in_channels, filters[level], stride, 1 + 3 * k));
            }
            in_channels = filters[level];
            height = (height - 1) / stride + 1;
            width = (width - 1) / stride + 1;
        }
        sv_binder_pop(b);

        const bool up = up_strides[level] >= 1;
        const int stride = (int)(up ? up_strides[level] : 1.0 / up_strides[level] + 0.5);
        SV_CHECK(c, stride >= 1 && stride <= 8, SV_UNSUPPORTED, "%s.UPSAMPLE_STRIDES: %g", sv_node_path(cfg),
                 up_strides[level]);
        const int up_height = up ? height * stride : height / stride,
                  up_width = up ? width * stride : width / stride;
        if (level == 0) {
            result->height = up_height;
            result->width = up_width;
        }
        SV_CHECK(c, up_height == result->height && up_width == result->width, SV_BAD_INPUT,
                 "%s: level %d gives a map of %d x %d, level 0 one of %d x %d: they cannot be concatenated",
                 sv_node_path(cfg), level, up_height, up_width, result->height, result->width);
        sv_chain_node *node = NULL;
        SV_TRY(add_node(c, chain, &node));
        node->kind = up ? SV_CHAIN_DECONV : SV_CHAIN_CONV;
        node->in = in;
        node->out = concat;
        node->kernel = node->stride = stride;
        node->in_channels = in_channels;
        node->out_channels = up_filters[level];
        node->out_first = first;
        node->relu = true;
        sv_binder_push(b, "deblocks.%d", level);
        SV_TRY(sv_bind_conv(b, &node->w, &node->bias, "0", "1", BATCHNORM_EPS, up_filters[level], in_channels,
                            stride, up, false));
        sv_binder_pop(b);
        first += up_filters[level];
    }
    sv_binder_pop(b);
    result->slot = concat;
    result->channels = first;
    return SV_OK;
}
