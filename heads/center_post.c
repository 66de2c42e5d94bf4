/* SPDX-License-Identifier: Apache-2.0 */
#include "center_post.h"

#include <string.h>

enum { MOST_PICKS = 4096 };

static sv_status read_rule(sv_ctx *c, sv_center_post *out, const sv_head_spec *spec, const sv_node *post,
                           bool has_overlap)
{
    sv_center_rule *rule = &out->rule;
    int stride = 1;
    double range[6], score = 0;
    bool rescore = false;
    SV_TRY(sv_node_int(c, spec->cfg, "TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE", &stride));
    sv_node_ignore(c, spec->cfg, "TARGET_ASSIGNER_CONFIG", NULL); /* the rest assigns training targets */
    SV_CHECK(c, stride >= 1 && stride <= 64, SV_BAD_INPUT, "%s.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE: %d",
             sv_node_path(spec->cfg), stride);
    SV_TRY(sv_node_numbers(c, post, "POST_CENTER_LIMIT_RANGE", range, 6));
    SV_TRY(sv_node_number(c, post, "SCORE_THRESH", &score));
    SV_TRY(sv_node_int(c, post, "MAX_OBJ_PER_SAMPLE", &out->picks));
    SV_CHECK(c, out->picks >= 1 && out->picks <= MOST_PICKS, SV_UNSUPPORTED,
             "%s.MAX_OBJ_PER_SAMPLE: %d; 1 to %d are supported", sv_node_path(post), out->picks,
             (int)MOST_PICKS);
    *rule =
        (sv_center_rule){.channels = spec->class_count, .stride = (float)stride, .min_score = (float)score};
    for (int i = 0; i < 3; i++) {
        rule->range_min[i] = (float)range[i];
        rule->range_max[i] = (float)range[i + 3];
    }
    for (int i = 0; i < 2; i++) {
        rule->cell[i] = spec->grid.size[i];
        rule->origin[i] = spec->grid.min[i];
    }
    SV_TRY(sv_node_bool_or(c, post, "USE_IOU_TO_RECTIFY_SCORE", &rescore, false));
    rule->rescore = rescore && has_overlap;
    if (rescore) {
        double rectifier[SV_HEAT_CHANNELS];
        SV_TRY(sv_node_numbers(c, post, "IOU_RECTIFIER", rectifier, spec->class_count));
        for (int i = 0; i < spec->class_count; i++) rule->rectifier[i] = (float)rectifier[i];
    } else {
        sv_node_ignore(c, post, "IOU_RECTIFIER",
                       "IOU_RECTIFIER has no effect without USE_IOU_TO_RECTIFY_SCORE");
    }
    return SV_OK;
}

static sv_status read_suppression(sv_ctx *c, sv_center_post *out, const sv_head_spec *spec,
                                  const sv_node *post)
{
    sv_nms_rule *nms = &out->nms;
    const char *type = NULL;
    SV_TRY(sv_node_string(c, post, "NMS_CONFIG.NMS_TYPE", &type));
    const bool class_wise = strcmp(type, "multi_class_nms") == 0;
    SV_CHECK(c, class_wise || strcmp(type, "nms_gpu") == 0, SV_UNSUPPORTED,
             "%s.NMS_CONFIG.NMS_TYPE: %s is not supported; multi_class_nms and nms_gpu are",
             sv_node_path(post), type);
    double threshold[SV_NMS_CLASSES];
    const int entries = class_wise ? spec->class_count : 1;
    if (class_wise) {
        SV_TRY(sv_node_numbers(c, post, "NMS_CONFIG.NMS_THRESH", threshold, entries));
        SV_TRY(sv_node_ints(c, post, "NMS_CONFIG.NMS_PRE_MAXSIZE", nms->pre_max, entries));
        SV_TRY(sv_node_ints(c, post, "NMS_CONFIG.NMS_POST_MAXSIZE", nms->post_max, entries));
    } else {
        SV_TRY(sv_node_number(c, post, "NMS_CONFIG.NMS_THRESH", threshold));
        SV_TRY(sv_node_int(c, post, "NMS_CONFIG.NMS_PRE_MAXSIZE", nms->pre_max));
        SV_TRY(sv_node_int(c, post, "NMS_CONFIG.NMS_POST_MAXSIZE", nms->post_max));
        sv_node_ignore(c, post, "NMS_CONFIG.MULTI_CLASSES_NMS",
                       NULL); /* not looked at by the official head */
    }
    SV_TRY(sv_node_bool_or(c, post, "NMS_CONFIG.EXACT", &nms->exact, false));
    nms->classes = class_wise ? entries : 0;
    nms->quarter_turn = class_wise && !nms->exact;
    int64_t kept = 0;
    for (int i = 0; i < entries; i++) {
        nms->threshold[i] = (float)threshold[i];
        SV_CHECK(c, nms->pre_max[i] >= 1 && nms->post_max[i] >= 1, SV_BAD_INPUT,
                 "%s.NMS_CONFIG: the best %d of %d boxes", sv_node_path(post), nms->post_max[i],
                 nms->pre_max[i]);
        kept += nms->post_max[i];
    }
    out->max_boxes = kept < out->picks ? (int)kept : out->picks;
    return SV_OK;
}

sv_status sv_center_post_read(sv_ctx *c, sv_center_post *out, const sv_head_spec *spec, const sv_node *post,
                              bool has_overlap)
{
    static const char *const outer[] = {"SCORE_THRESH", "OUTPUT_RAW_SCORE", "NMS_CONFIG"};
    SV_TRY(read_rule(c, out, spec, post, has_overlap));
    SV_TRY(read_suppression(c, out, spec, post));
    for (size_t i = 0; spec->post && i < sizeof outer / sizeof *outer; i++)
        sv_node_ignore(
            c, spec->post, outer[i],
            "it has no effect: this head has a POST_PROCESSING of its own, DENSE_HEAD.POST_PROCESSING");
    return SV_OK;
}
