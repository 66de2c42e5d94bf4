/* SPDX-License-Identifier: Apache-2.0
 *
 * CenterHead: a heat map per class over the BEV features, and box codes in every cell.
 *
 *   shared   conv3x3 -> BatchNorm -> ReLU                              SHARED_CONV_CHANNEL channels
 *   branch   (NUM_CONV - 1) x [conv3x3 -> BatchNorm -> ReLU], conv3x3  center 2, center_z 1, dim 3, rot 2, hm
 *                                                                      classes; iou 1 and vel 2 as configured
 *
 * The MAX_OBJ_PER_SAMPLE best of all classes and cells are decoded (center_decode_cpu.c; 'rot' is cosine,
 * sine). The official code takes as many of every class first, which changes nothing. Suppression: NMS_TYPE
 * multi_class_nms goes class by class, with every box turned by a quarter (see sv_nms_rule); nms_gpu takes
 * all boxes together.
 *
 * Key of our own: NMS_CONFIG.EXACT (default false) takes exact polygon overlaps and, class by class, leaves
 * out that turn.
 *
 * Source: pcdet/models/dense_heads/center_head.py, model_utils/centernet_utils.py,
 * model_utils/model_nms_utils.py.
 */
#include "center_post.h"

#include <stdio.h>
#include <string.h>

/* Branches in the order of their maps. */
enum branch { CENTER, CENTER_Z, DIM, ROT, HM, IOU, VEL, BRANCHES };
static const struct {
    const char *name;
    int channels; /* 0: one per class */
} branches[BRANCHES] = {{"center", 2}, {"center_z", 1}, {"dim", 3}, {"rot", 2},
                        {"hm", 0},     {"iou", 1},      {"vel", 2}};

enum { MOST_CONVS = 4 };

typedef struct center_head {
    int place[BRANCHES]; /* of the branch's map; -1: none */
    sv_cell_order order;
    sv_center_post post;
} center_head;

/* ---- binding ------------------------------------------------------------------------------------------ */

/* One group of classes, all of them in order: what LION's models have. */
static sv_status check_classes(sv_ctx *c, const sv_head_spec *spec)
{
    const sv_node *groups = NULL;
    SV_TRY(sv_node_require(c, spec->cfg, "CLASS_NAMES_EACH_HEAD", &groups));
    const sv_node *names = sv_node_item(groups, 0);
    bool same = sv_node_count(groups) == 1 && sv_node_count(names) == spec->class_count;
    for (int i = 0; same && i < spec->class_count; i++)
        same = strcmp(sv_node_text(sv_node_item(names, i)), spec->classes[i]) == 0;
    SV_CHECK(c, same, SV_UNSUPPORTED, "%s: only one group with all CLASS_NAMES in their order is supported",
             sv_node_path(groups));
    sv_node_ignore(c, spec->cfg, "CLASS_NAMES_EACH_HEAD", NULL);
    return SV_OK;
}

typedef struct layers {
    int shared_slot, channels;
    float eps;
    bool bias; /* of the convolutions in front of a norm */
} layers;

static sv_status bind_branch(sv_binder *b, center_head *head, const layers *l, enum branch which,
                             int channels, int convs, sv_chain_def *chain, int *next_slot, sv_head_maps *maps)
{
    sv_ctx *c = sv_binder_ctx(b);
    SV_CHECK(c, convs >= 1 && convs <= MOST_CONVS, SV_UNSUPPORTED,
             "branch '%s' of %d convolutions; 1 to %d are supported", branches[which].name, convs,
             (int)MOST_CONVS);
    sv_binder_push(b, "%s", branches[which].name);
    int slot = l->shared_slot;
    for (int i = 0; i < convs; i++) {
        const bool last = i == convs - 1;
        char conv[16], norm[16];
        snprintf(conv, sizeof conv, last ? "%d" : "%d.0", i);
        snprintf(norm, sizeof norm, "%d.1", i);
        const sv_head_conv k = {.conv = conv,
                                .norm = last ? NULL : norm,
                                .eps = l->eps,
                                .in = slot,
                                .in_channels = l->channels,
                                .channels = last ? channels : l->channels,
                                .kernel = 3,
                                .bias = last || l->bias,
                                .relu = !last};
        SV_TRY(sv_head_conv_bind(b, chain, next_slot, &k, &slot));
    }
    sv_binder_pop(b);
    head->place[which] = maps->count;
    return sv_head_map_add(c, maps, branches[which].name, slot, channels);
}

static sv_status bind_branches(sv_binder *b, center_head *head, const sv_head_spec *spec, const layers *l,
                               sv_chain_def *chain, int *next_slot, sv_head_maps *maps)
{
    sv_ctx *c = sv_binder_ctx(b);
    const sv_node *dict = NULL, *order = NULL;
    SV_TRY(sv_node_require(c, spec->cfg, "SEPARATE_HEAD_CFG.HEAD_DICT", &dict));
    SV_TRY(sv_node_require(c, spec->cfg, "SEPARATE_HEAD_CFG.HEAD_ORDER", &order));
    bool ordered_velocity = false; /* the official code uses the branch only when it is listed here too */
    for (int i = 0; i < sv_node_count(order); i++)
        ordered_velocity |= strcmp(sv_node_text(sv_node_item(order, i)), "vel") == 0;
    sv_node_ignore(c, spec->cfg, "SEPARATE_HEAD_CFG.HEAD_ORDER", NULL);
    sv_binder_push(b, "heads_list.0");
    for (int which = 0; which < BRANCHES; which++) {
        int channels = spec->class_count, convs = 0;
        head->place[which] = -1;
        if (which == HM) {
            SV_TRY(sv_node_int(c, spec->cfg, "NUM_HM_CONV", &convs));
        } else {
            const sv_node *entry = sv_node_find(dict, branches[which].name);
            if (!entry && which >= IOU) continue;
            SV_CHECK(c, entry, SV_BAD_INPUT, "%s.%s is missing", sv_node_path(dict), branches[which].name);
            SV_TRY(sv_node_int(c, entry, "out_channels", &channels));
            SV_TRY(sv_node_int(c, entry, "num_conv", &convs));
            SV_CHECK(c, channels == branches[which].channels, SV_UNSUPPORTED,
                     "%s.out_channels: %d instead of %d", sv_node_path(entry), channels,
                     branches[which].channels);
        }
        SV_TRY(bind_branch(b, head, l, (enum branch)which, channels, convs, chain, next_slot, maps));
    }
    sv_binder_pop(b);
    SV_CHECK(c, ordered_velocity == (head->place[VEL] >= 0), SV_UNSUPPORTED,
             "%s: 'vel' is named by only one of HEAD_ORDER and HEAD_DICT", sv_node_path(dict));
    return SV_OK;
}

static sv_status bind(sv_binder *b, void *self, const sv_head_spec *spec, sv_chain_def *chain, int *next_slot,
                      sv_head_maps *maps)
{
    sv_ctx *c = sv_binder_ctx(b);
    center_head *head = self;
    const sv_node *post = NULL;
    int upsample = 1;
    double eps = 0;
    layers l = {0};
    SV_CHECK(c, spec->class_count <= SV_HEAT_CHANNELS, SV_UNSUPPORTED, "%d classes; up to %d are supported",
             spec->class_count, SV_HEAT_CHANNELS);
    SV_TRY(check_classes(c, spec));
    SV_TRY(sv_node_int_or(c, spec->cfg, "UPSAMPLE", &upsample, 1));
    SV_CHECK(c, upsample == 1, SV_UNSUPPORTED, "%s.UPSAMPLE: %d is not supported", sv_node_path(spec->cfg),
             upsample);
    SV_TRY(sv_node_int(c, spec->cfg, "SHARED_CONV_CHANNEL", &l.channels));
    SV_CHECK(c, l.channels >= 1 && l.channels <= 4096, SV_BAD_INPUT, "%s.SHARED_CONV_CHANNEL: %d",
             sv_node_path(spec->cfg), l.channels);
    SV_TRY(sv_node_bool_or(c, spec->cfg, "USE_BIAS_BEFORE_NORM", &l.bias, false));
    SV_TRY(sv_node_number_or(c, spec->cfg, "BN_EPS", &eps, 1e-5));
    l.eps = (float)eps;
    static const char *const unused[] = {"CLASS_AGNOSTIC", "BN_MOM", "LOSS_CONFIG", "IOU_REG_LOSS"};
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++) sv_node_ignore(c, spec->cfg, unused[i], NULL);

    maps->height = spec->height;
    maps->width = spec->width;
    const sv_head_conv shared = {.conv = "shared_conv.0",
                                 .norm = "shared_conv.1",
                                 .eps = l.eps,
                                 .in = spec->in_slot,
                                 .in_channels = spec->in_channels,
                                 .channels = l.channels,
                                 .kernel = 3,
                                 .bias = l.bias,
                                 .relu = true};
    SV_TRY(sv_head_conv_bind(b, chain, next_slot, &shared, &l.shared_slot));
    SV_TRY(bind_branches(b, head, spec, &l, chain, next_slot, maps));

    SV_TRY(sv_node_require(c, spec->cfg, "POST_PROCESSING", &post));
    SV_TRY(sv_center_post_read(c, &head->post, spec, post, head->place[IOU] >= 0));
    head->order = (sv_cell_order){.height = spec->height, .width = spec->width};
    const int64_t places = (int64_t)spec->height * spec->width * spec->class_count;
    if (head->post.picks > places) head->post.picks = (int)places;
    return SV_OK;
}

/* ---- forward ------------------------------------------------------------------------------------------ */

static sv_status forward(sv_ctx *c, const void *self, int batch, const sv_tensor *maps,
                         const sv_candidates *out)
{
    const center_head *head = self;
    sv_tensor map[BRANCHES];
    for (int i = 0; i < BRANCHES; i++) map[i] = head->place[i] < 0 ? SV_NONE : maps[head->place[i]];
    sv_cell_picks picks;
    sv_candidates candidates;
    SV_TRY(sv_candidates_alloc(c, &candidates, "candidates", head->post.picks * batch, batch));
    SV_TRY(sv_cell_picks_alloc(c, &picks, head->post.picks * batch));
    SV_TRY(sv_stage_begin(c, "decode"));
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor heat;
    SV_TRY(sv_scratch_alloc(c, &heat, "heat map", SV_F32, map[HM].dim[0], map[HM].dim[1], SV_NONE));
    SV_TRY(sv_map1(c, heat, map[HM], SV_MAP_sigmoid));
    SV_TRY(sv_top_cells(c, &picks, heat, batch, &head->order));
    sv_arena_rewind(&c->scratch, mark);
    const sv_center_codes codes = {.center = map[CENTER],
                                   .z = map[CENTER_Z],
                                   .size = map[DIM],
                                   .rotation = map[ROT],
                                   .velocity = map[VEL],
                                   .overlap = map[IOU]};
    SV_TRY(sv_center_decode(c, &candidates, &picks, &codes, batch, &head->post.rule));
    SV_TRY(sv_stage_end(c));
    SV_TRY(sv_probe(c, "picked_scores", picks.score));
    SV_TRY(sv_probe(c, "picked_rows", picks.row));
    SV_TRY(sv_stage_begin(c, "nms"));
    SV_TRY(sv_nms(c, out, &candidates, &head->post.nms));
    return sv_stage_end(c);
}

static int max_boxes(const void *self)
{
    return ((const center_head *)self)->post.max_boxes;
}

static bool has_velocity(const void *self)
{
    return ((const center_head *)self)->place[VEL] >= 0;
}

const sv_head_type sv_head_center = {
    .name = "CenterHead",
    .bytes = sizeof(center_head),
    .bind = bind,
    .forward = forward,
    .max_boxes = max_boxes,
    .has_velocity = has_velocity,
};
