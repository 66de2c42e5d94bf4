/* SPDX-License-Identifier: Apache-2.0
 *
 * AnchorHeadSingle: three 1x1 convolutions over the BEV features, one anchor per class and rotation in each cell.
 *
 *   conv_cls  A x classes logits     conv_box  A x 7 codes     conv_dir_cls  A x bins     A = classes x rotations
 *
 * Anchors: centres from the range's first to its last metre, both included (step range / (cells - 1)), z = bottom height +
 * half the height. Decoding is in anchor_decode_cpu.c. Post-processing: the best NMS_PRE_MAXSIZE boxes with score >=
 * SCORE_THRESH, class-agnostic suppression, the first NMS_POST_MAXSIZE, in descending score.
 *
 * Key of our own: POST_PROCESSING.NMS_CONFIG.EXACT (default false) takes exact polygon overlaps instead of the official
 * kernel's, whose corners reach a centimetre too far.
 *
 * Source: pcdet/models/dense_heads/anchor_head_single.py, target_assigner/anchor_generator.py, detector3d_template.py.
 */
#include "head.h"

#include <math.h>
#include <string.h>

typedef struct anchor_head {
    sv_anchor_grid grid;
    float min_score;
    sv_nms_rule nms;
} anchor_head;

/* One class's entry of ANCHOR_GENERATOR_CONFIG; its anchors become kinds first..first+rotations-1. */
static sv_status read_anchors(sv_ctx *c, const sv_node *entry, const char *class_name, sv_anchor_grid *grid,
                              int first, int *rotations)
{
    const char *name = NULL;
    bool centred = false;
    SV_TRY(sv_node_string(c, entry, "class_name", &name));
    SV_CHECK(c, strcmp(name, class_name) == 0, SV_BAD_INPUT,
             "%s.class_name: '%s' stands where CLASS_NAMES has '%s'", sv_node_path(entry), name, class_name);
    SV_TRY(sv_node_bool_or(c, entry, "align_center", &centred, false));
    SV_CHECK(c, !centred, SV_UNSUPPORTED, "%s.align_center: true is not supported", sv_node_path(entry));
    int stride = 1;
    SV_TRY(sv_node_int_or(c, entry, "feature_map_stride", &stride, 1));
    const sv_node *sizes = NULL, *turns = NULL, *bottoms = NULL;
    SV_TRY(sv_node_require(c, entry, "anchor_sizes", &sizes));
    SV_TRY(sv_node_require(c, entry, "anchor_rotations", &turns));
    SV_TRY(sv_node_require(c, entry, "anchor_bottom_heights", &bottoms));
    SV_CHECK(c, sv_node_count(sizes) == 1 && sv_node_count(bottoms) == 1, SV_UNSUPPORTED,
             "%s: %d sizes and %d heights; one of each is supported", sv_node_path(entry),
             sv_node_count(sizes), sv_node_count(bottoms));
    *rotations = sv_node_count(turns);
    SV_CHECK(c, *rotations >= 1 && first + *rotations <= SV_MAX_ANCHORS, SV_UNSUPPORTED, "%s: %d rotations",
             sv_node_path(turns), *rotations);
    double size[3], bottom = 0, turn[SV_MAX_ANCHORS];
    SV_TRY(sv_node_numbers(c, entry, "anchor_sizes.0", size, 3));
    SV_TRY(sv_node_numbers(c, entry, "anchor_bottom_heights", &bottom, 1));
    SV_TRY(sv_node_numbers(c, entry, "anchor_rotations", turn, *rotations));
    for (int r = 0; r < *rotations; r++) {
        for (int i = 0; i < 3; i++) grid->size[first + r][i] = (float)size[i];
        grid->z[first + r] = (float)bottom + (float)size[2] / 2;
        grid->rotation[first + r] = (float)turn[r];
    }
    sv_node_ignore(c, entry, "matched_threshold", NULL);
    sv_node_ignore(c, entry, "unmatched_threshold", NULL);
    return SV_OK;
}

static sv_status read_grid(sv_ctx *c, anchor_head *head, const sv_head_spec *spec)
{
    sv_anchor_grid *grid = &head->grid;
    const sv_node *generator = NULL;
    SV_TRY(sv_node_require(c, spec->cfg, "ANCHOR_GENERATOR_CONFIG", &generator));
    SV_CHECK(c, sv_node_count(generator) == spec->class_count, SV_BAD_INPUT, "%s: %d entries for %d classes",
             sv_node_path(generator), sv_node_count(generator), spec->class_count);
    SV_CHECK(c, spec->width > 1 && spec->height > 1, SV_UNSUPPORTED, "an anchor map of %d x %d cells",
             spec->height, spec->width);
    grid->classes = spec->class_count;
    for (int k = 0; k < spec->class_count; k++) {
        int rotations = 0;
        SV_TRY(
            read_anchors(c, sv_node_item(generator, k), spec->classes[k], grid, grid->per_cell, &rotations));
        grid->per_cell += rotations;
    }
    grid->height = spec->height;
    grid->width = spec->width;
    grid->x_min = spec->grid.min[0];
    grid->y_min = spec->grid.min[1];
    grid->x_step = (float)(((double)spec->grid.max[0] - (double)spec->grid.min[0]) / (spec->width - 1));
    grid->y_step = (float)(((double)spec->grid.max[1] - (double)spec->grid.min[1]) / (spec->height - 1));

    bool direction = false;
    SV_TRY(sv_node_bool_or(c, spec->cfg, "USE_DIRECTION_CLASSIFIER", &direction, false));
    if (direction) {
        double offset = 0, limit = 0;
        SV_TRY(sv_node_number(c, spec->cfg, "DIR_OFFSET", &offset));
        SV_TRY(sv_node_number(c, spec->cfg, "DIR_LIMIT_OFFSET", &limit));
        SV_TRY(sv_node_int(c, spec->cfg, "NUM_DIR_BINS", &grid->direction_bins));
        SV_CHECK(c, grid->direction_bins >= 1 && grid->direction_bins <= 16, SV_UNSUPPORTED,
                 "%s.NUM_DIR_BINS: %d", sv_node_path(spec->cfg), grid->direction_bins);
        grid->direction_offset = (float)offset;
        grid->direction_limit = (float)limit;
    }
    return SV_OK;
}

static sv_status read_post_processing(sv_ctx *c, anchor_head *head, const sv_node *post)
{
    double score = 0, threshold = 0;
    bool raw = false, multi_class = false;
    const char *type = NULL;
    sv_nms_rule *nms = &head->nms;
    SV_CHECK(c, post, SV_BAD_INPUT,
             "MODEL.POST_PROCESSING is missing: this head takes its thresholds from there");
    SV_TRY(sv_node_number(c, post, "SCORE_THRESH", &score));
    SV_TRY(sv_node_bool_or(c, post, "OUTPUT_RAW_SCORE", &raw, false));
    SV_TRY(sv_node_bool_or(c, post, "NMS_CONFIG.MULTI_CLASSES_NMS", &multi_class, false));
    SV_TRY(sv_node_string(c, post, "NMS_CONFIG.NMS_TYPE", &type));
    SV_CHECK(c, !raw && !multi_class && strcmp(type, "nms_gpu") == 0, SV_UNSUPPORTED,
             "%s: only OUTPUT_RAW_SCORE false, MULTI_CLASSES_NMS false and NMS_TYPE nms_gpu are supported "
             "with this head",
             sv_node_path(post));
    SV_TRY(sv_node_number(c, post, "NMS_CONFIG.NMS_THRESH", &threshold));
    SV_TRY(sv_node_int(c, post, "NMS_CONFIG.NMS_PRE_MAXSIZE", &nms->pre_max[0]));
    SV_TRY(sv_node_int(c, post, "NMS_CONFIG.NMS_POST_MAXSIZE", &nms->post_max[0]));
    SV_TRY(sv_node_bool_or(c, post, "NMS_CONFIG.EXACT", &nms->exact, false));
    SV_CHECK(c,
             nms->pre_max[0] >= 1 && nms->pre_max[0] <= 1 << 16 && nms->post_max[0] >= 1 &&
                 nms->post_max[0] <= 1 << 16,
             SV_BAD_INPUT, "%s.NMS_CONFIG: the best %d of %d boxes", sv_node_path(post), nms->post_max[0],
             nms->pre_max[0]);
    nms->threshold[0] = (float)threshold;
    head->min_score = (float)score;
    return SV_OK;
}

static sv_status add_map(sv_binder *b, const sv_head_spec *spec, sv_chain_def *chain, int *next_slot,
                         sv_head_maps *maps, const char *conv, const char *name, int channels)
{
    const sv_head_conv k = {.conv = conv,
                            .in = spec->in_slot,
                            .in_channels = spec->in_channels,
                            .channels = channels,
                            .kernel = 1,
                            .bias = true};
    int slot = 0;
    SV_TRY(sv_head_conv_bind(b, chain, next_slot, &k, &slot));
    return sv_head_map_add(sv_binder_ctx(b), maps, name, slot, channels);
}

static sv_status bind(sv_binder *b, void *self, const sv_head_spec *spec, sv_chain_def *chain, int *next_slot,
                      sv_head_maps *maps)
{
    sv_ctx *c = sv_binder_ctx(b);
    anchor_head *head = self;
    bool agnostic = false;
    const char *coder = NULL;
    SV_TRY(sv_node_bool_or(c, spec->cfg, "CLASS_AGNOSTIC", &agnostic, false));
    SV_CHECK(c, !agnostic, SV_UNSUPPORTED, "%s.CLASS_AGNOSTIC: true is not supported",
             sv_node_path(spec->cfg));
    SV_TRY(sv_node_string_or(c, spec->cfg, "TARGET_ASSIGNER_CONFIG.BOX_CODER", &coder, "ResidualCoder"));
    SV_CHECK(c, strcmp(coder, "ResidualCoder") == 0, SV_UNSUPPORTED,
             "%s.TARGET_ASSIGNER_CONFIG.BOX_CODER: %s is not supported", sv_node_path(spec->cfg), coder);
    sv_node_ignore(c, spec->cfg, "TARGET_ASSIGNER_CONFIG", NULL); /* the rest assigns training targets */
    sv_node_ignore(c, spec->cfg, "LOSS_CONFIG", NULL);
    SV_TRY(read_grid(c, head, spec));
    SV_TRY(read_post_processing(c, head, spec->post));
    const sv_anchor_grid *grid = &head->grid;
    maps->height = spec->height;
    maps->width = spec->width;
    SV_TRY(add_map(b, spec, chain, next_slot, maps, "conv_cls", "cls_preds", grid->per_cell * grid->classes));
    SV_TRY(add_map(b, spec, chain, next_slot, maps, "conv_box", "box_preds", grid->per_cell * 7));
    if (grid->direction_bins > 0)
        SV_TRY(add_map(b, spec, chain, next_slot, maps, "conv_dir_cls", "dir_cls_preds",
                       grid->per_cell * grid->direction_bins));
    return SV_OK;
}

static sv_status forward(sv_ctx *c, const void *self, int batch, const sv_tensor *maps,
                         const sv_candidates *out)
{
    const anchor_head *head = self;
    sv_candidates candidates;
    SV_TRY(sv_candidates_alloc(c, &candidates, "candidates", head->nms.pre_max[0] * batch, batch));
    SV_TRY(sv_stage_begin(c, "decode"));
    SV_TRY(sv_anchor_decode(c, &candidates, maps[0], maps[1],
                            head->grid.direction_bins > 0 ? maps[2] : SV_NONE, batch, &head->grid,
                            head->min_score, head->nms.pre_max[0]));
    SV_TRY(sv_stage_end(c));
    SV_TRY(sv_probe(c, "candidate_boxes", candidates.boxes));
    SV_TRY(sv_probe(c, "candidate_scores", candidates.scores));
    SV_TRY(sv_probe(c, "candidate_labels", candidates.labels));
    SV_TRY(sv_probe(c, "candidate_index", candidates.index));
    SV_TRY(sv_stage_begin(c, "nms"));
    SV_TRY(sv_nms(c, out, &candidates, &head->nms));
    return sv_stage_end(c);
}

static int max_boxes(const void *self)
{
    return ((const anchor_head *)self)->nms.post_max[0];
}

static void anchor(const void *self, int index, float out[7])
{
    const sv_anchor_grid *grid = &((const anchor_head *)self)->grid;
    sv_anchor_at(grid, index, out);
}

const sv_head_type sv_head_anchor = {
    .name = "AnchorHeadSingle",
    .bytes = sizeof(anchor_head),
    .bind = bind,
    .forward = forward,
    .max_boxes = max_boxes,
    .anchor = anchor,
};
