/* SPDX-License-Identifier: Apache-2.0
 *
 * SparseCenterHead (Argoverse 2): heat and box codes in the occupied cells only. One head for each group of
 * classes of CLASS_NAMES_EACH_HEAD, each with branches of its own over the same cells:
 *
 *   branch   sub-manifold conv3x3 -> BatchNorm -> ReLU -> linear
 *
 *   heatmap: classes of the group; center 2, center_z 1, dim 3, rot 2 (cosine, sine)
 *
 * The MAX_OBJ_PER_SAMPLE best of all cells and classes of a group are decoded (center_decode_cpu.c) and
 * suppress each other, whatever their class; groups do not. A sample's boxes come group by group, each in
 * descending score. The official code computes codes for every cell; here they are computed for the picked
 * ones, which gives the same numbers at a fraction of the work: the four branches and all samples of a group together.
 *
 * Samples and groups stand side by side: B samples of G groups are B*G samples to the primitives, and as
 * their boxes lie one behind the other, the boxes of a sample are those of its G groups.
 *
 * Source: pcdet/models/dense_heads/sparse_center_head.py, decode_bbox_from_sparse_heatmap of
 * model_utils/centernet_utils.py.
 */
#include "center_post.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum branch { CENTER, CENTER_Z, DIM, ROT, CODES, HEAT = CODES, BRANCHES };
static const struct {
    const char *name;
    int channels; /* 0: one per class */
} branches[BRANCHES] = {{"center", 2}, {"center_z", 1}, {"dim", 3}, {"rot", 2}, {"heatmap", 0}};

enum { MOST_GROUPS = 8, CODE_CHANNELS = 8 };

/* Branches side by side: one convolution and one norm for all of them, and a product whose matrix has a block of each
 * branch and zeros elsewhere. */
typedef struct layer {
    sv_subm_weights conv;
    sv_tensor scale, shift; /* of the BatchNorm */
    sv_linear_weights out;
} layer;

typedef struct sparse_center_head {
    int channels;
    sv_channel_groups groups; /* of classes */
    layer codes[MOST_GROUPS], heat[MOST_GROUPS];
    sv_center_post post;
    sv_tensor
        first_group; /* i32 [SV_MAX_BATCH+1]: number of each sample's first group among those of all samples */
    /* For each batch B, behind those of smaller ones: sample * groups + group of the B * groups parts that go group by
     * group, and group * B + sample of those that go sample by sample. */
    sv_tensor by_group, by_sample;
} sparse_center_head;

/* ---- binding ------------------------------------------------------------------------------------------ */

/* Groups that name all classes one after the other, as LION's models have it: channel = class. */
static sv_status read_groups(sv_ctx *c, sparse_center_head *head, const sv_head_spec *spec)
{
    const sv_node *groups = NULL;
    SV_TRY(sv_node_require(c, spec->cfg, "CLASS_NAMES_EACH_HEAD", &groups));
    head->groups.count = sv_node_count(groups);
    SV_CHECK(c, head->groups.count >= 1 && head->groups.count <= MOST_GROUPS, SV_UNSUPPORTED,
             "%s: %d groups; 1 to %d are supported", sv_node_path(groups), head->groups.count,
             (int)MOST_GROUPS);
    int channel = 0;
    for (int g = 0; g < head->groups.count; g++) {
        const sv_node *names = sv_node_item(groups, g);
        SV_CHECK(c, sv_node_count(names) >= 1, SV_BAD_INPUT, "%s: a group without classes",
                 sv_node_path(names));
        for (int i = 0; i < sv_node_count(names); i++, channel++) {
            const char *name = sv_node_text(sv_node_item(names, i));
            SV_CHECK(
                c, channel < spec->class_count && strcmp(name, spec->classes[channel]) == 0, SV_UNSUPPORTED,
                "%s: '%s' stands where CLASS_NAMES has '%s'; the same order is supported",
                sv_node_path(names), name, channel < spec->class_count ? spec->classes[channel] : "nothing");
        }
        head->groups.end[g] = channel;
    }
    SV_CHECK(c, channel == spec->class_count, SV_UNSUPPORTED, "%s: %d of %d classes are in no group",
             sv_node_path(groups), spec->class_count - channel, spec->class_count);
    return SV_OK;
}

static int channels_of(int branch, int classes)
{
    return branches[branch].channels ? branches[branch].channels : classes;
}

/* What the branches are made of; only what LION's models have. */
static sv_status check_branches(sv_ctx *c, const sv_head_spec *spec)
{
    const sv_node *dict = NULL, *order = NULL;
    const char *kind = NULL;
    bool bias = false;
    int channels = 0, convs = 0;
    SV_TRY(sv_node_string_or(c, spec->cfg, "HEAD_CONV_TYPE", &kind, "spconv"));
    SV_CHECK(c, strcmp(kind, "subm") == 0, SV_UNSUPPORTED, "%s.HEAD_CONV_TYPE: %s is not supported; subm is",
             sv_node_path(spec->cfg), kind);
    SV_TRY(sv_node_bool_or(c, spec->cfg, "USE_BIAS_BEFORE_NORM", &bias, false));
    SV_CHECK(c, !bias, SV_UNSUPPORTED, "%s.USE_BIAS_BEFORE_NORM: true is not supported",
             sv_node_path(spec->cfg));
    SV_TRY(sv_node_require(c, spec->cfg, "SEPARATE_HEAD_CFG.HEAD_ORDER", &order));
    sv_node_ignore(c, spec->cfg, "SEPARATE_HEAD_CFG.HEAD_ORDER", NULL); /* of training targets */
    SV_TRY(sv_node_require(c, spec->cfg, "SEPARATE_HEAD_CFG.HEAD_DICT", &dict));
    SV_CHECK(c, sv_node_count(dict) == CODES, SV_UNSUPPORTED,
             "%s: %d branches; center, center_z, dim and rot are supported", sv_node_path(dict),
             sv_node_count(dict));
    for (int which = 0; which < BRANCHES; which++) {
        if (which == HEAT) {
            SV_TRY(sv_node_int(c, spec->cfg, "NUM_HM_CONV", &convs));
        } else {
            const sv_node *entry = NULL;
            SV_TRY(sv_node_require(c, dict, branches[which].name, &entry));
            SV_TRY(sv_node_int(c, entry, "out_channels", &channels));
            SV_TRY(sv_node_int(c, entry, "num_conv", &convs));
            SV_CHECK(c, channels == branches[which].channels, SV_UNSUPPORTED,
                     "%s.out_channels: %d instead of %d", sv_node_path(entry), channels,
                     branches[which].channels);
        }
        SV_CHECK(c, convs == 2, SV_UNSUPPORTED,
                 "branch '%s' of %d convolutions; 2, the second 1x1, are supported", branches[which].name,
                 convs);
    }
    return SV_OK;
}

static sv_status bind_layer(sv_binder *b, layer *l, int first, int count, int in, int classes, float eps)
{
    sv_ctx *c = sv_binder_ctx(b);
    const int hidden = count * in;
    float *conv = NULL, *scale = NULL, *shift = NULL, *product = NULL, *bias = NULL;
    int outputs = 0;
    for (int i = 0; i < count; i++) outputs += channels_of(first + i, classes);
    SV_TRY(sv_bind_memory(b, &conv, (int64_t)hidden * 27 * in));
    SV_TRY(sv_bind_memory(b, &scale, hidden));
    SV_TRY(sv_bind_memory(b, &shift, hidden));
    SV_TRY(sv_bind_memory(b, &product, (int64_t)outputs * hidden));
    SV_TRY(sv_bind_memory(b, &bias, outputs));
    for (int i = 0, row = 0; i < count; i++) {
        const int out = channels_of(first + i, classes), column = i * in;
        sv_tensor w, offset; /* a convolution of one tap: [out,1,1,in] */
        sv_binder_push(b, "%s", branches[first + i].name);
        SV_TRY(sv_bind_subm_plane(b, conv + (ptrdiff_t)column * 27 * in, "0.0", in, in));
        SV_TRY(sv_bind_batchnorm(b, scale + column, shift + column, "0.1", eps, in));
        SV_TRY(sv_bind_host(b, &w, "1.weight", sv_init_fan_in(in), 4, (const int32_t[]){out, 1, 1, in}));
        SV_TRY(sv_bind_host(b, &offset, "1.bias", sv_init_fan_in(in), 1, &out));
        sv_binder_pop(b);
        for (int o = 0; o < out; o++, row++) {
            memcpy(product + (ptrdiff_t)row * hidden + column, sv_f32(w) + (ptrdiff_t)o * in,
                   sizeof *product * (size_t)in);
            bias[row] = sv_f32(offset)[o];
        }
    }
    const sv_tensor planes = {
        .data = conv, .ndim = 5, .dtype = SV_F32, .dim = {hidden, 3, 3, 3, in}, .pitch = 27 * in};
    SV_TRY(sv_subm_prepare(c, &l->conv, planes));
    SV_TRY(sv_weight_upload(c, &l->scale, sv_view(scale, SV_F32, hidden, 1)));
    SV_TRY(sv_weight_upload(c, &l->shift, sv_view(shift, SV_F32, hidden, 1)));
    return sv_linear_prepare(c, &l->out, sv_view(product, SV_F32, outputs, hidden),
                             sv_view(bias, SV_F32, outputs, 1));
}

/* Numbers of samples and of parts, for batches of any size. */
static sv_status bind_orders(sv_binder *b, sparse_center_head *head)
{
    sv_ctx *c = sv_binder_ctx(b);
    const int groups = head->groups.count, count = groups * SV_MAX_BATCH * (SV_MAX_BATCH + 1) / 2;
    int32_t *numbers = calloc((size_t)count * 2 + SV_MAX_BATCH + 1, sizeof *numbers);
    SV_CHECK(c, numbers, SV_NO_MEMORY, "no memory for %d numbers of groups", count);
    int32_t *by_group = numbers, *by_sample = numbers + count, *first = numbers + 2 * (ptrdiff_t)count;
    for (int i = 0; i <= SV_MAX_BATCH; i++) first[i] = i * groups;
    for (int batch = 1, at = 0; batch <= SV_MAX_BATCH; at += batch++ * groups)
        for (int part = 0; part < batch * groups; part++) {
            by_group[at + part] = part % batch * groups + part / batch;
            by_sample[at + part] = part % groups * batch + part / groups;
        }
    sv_status status = sv_weight_upload(c, &head->by_group, sv_view(by_group, SV_I32, count, 1));
    if (status == SV_OK) status = sv_weight_upload(c, &head->by_sample, sv_view(by_sample, SV_I32, count, 1));
    if (status == SV_OK)
        status = sv_weight_upload(c, &head->first_group, sv_view(first, SV_I32, SV_MAX_BATCH + 1, 1));
    if (status == SV_OK) status = c->device->queue_wait(c);
    free(numbers);
    return status;
}

static sv_status bind_sparse(sv_binder *b, void *self, const sv_head_spec *spec)
{
    sv_ctx *c = sv_binder_ctx(b);
    sparse_center_head *head = self;
    const sv_node *post = NULL;
    double eps = 0;
    int in = 0;
    SV_TRY(read_groups(c, head, spec));
    SV_TRY(check_branches(c, spec));
    SV_TRY(sv_node_int_or(c, spec->cfg, "INPUT_FEATURES", &in, spec->in_channels));
    SV_CHECK(c, in == spec->in_channels, SV_BAD_INPUT, "%s.INPUT_FEATURES: %d, but the backbone gives %d",
             sv_node_path(spec->cfg), in, spec->in_channels);
    SV_TRY(sv_node_number_or(c, spec->cfg, "BN_EPS", &eps, 1e-5));
    static const char *const unused[] = {"CLASS_AGNOSTIC", "BN_MOM", "LOSS_CONFIG"};
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++) sv_node_ignore(c, spec->cfg, unused[i], NULL);
    head->channels = in;
    for (int g = 0; g < head->groups.count; g++) {
        const int classes = head->groups.end[g] - (g ? head->groups.end[g - 1] : 0);
        sv_binder_push(b, "heads_list.%d", g);
        SV_TRY(bind_layer(b, &head->codes[g], 0, CODES, in, classes, (float)eps));
        SV_TRY(bind_layer(b, &head->heat[g], HEAT, 1, in, classes, (float)eps));
        sv_binder_pop(b);
    }
    SV_TRY(sv_node_require(c, spec->cfg, "POST_PROCESSING", &post));
    SV_TRY(sv_center_post_read(c, &head->post, spec, post, false));
    SV_CHECK(c, head->post.nms.classes == 0, SV_UNSUPPORTED,
             "%s.NMS_CONFIG.NMS_TYPE: this head supports nms_gpu, each group of classes by itself",
             sv_node_path(post));
    return bind_orders(b, head);
}

/* ---- forward ------------------------------------------------------------------------------------------ */

/* y = linear(ReLU(BatchNorm(conv(x)))) in the rows of 'table', which are those of y; memory of its own is
 * scratch. */
static sv_status run_layer(sv_ctx *c, const layer *l, sv_tensor y, sv_tensor x, sv_tensor table)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor sums, hidden;
    SV_TRY(sv_scratch_alloc(c, &sums, "branch sums", SV_F32, y.dim[0], l->conv.out, y));
    SV_TRY(sv_scratch_alloc(c, &hidden, "branch features", SV_F32, y.dim[0], l->conv.out, y));
    SV_TRY(sv_subm_conv(c, sums, x, &(sv_neighbourhood){.table = table, .order = SV_NONE}, &l->conv));
    SV_TRY(sv_block_linear(c, hidden, sums, SV_NONE, l->scale, l->shift));
    SV_TRY(sv_map1(c, hidden, hidden, SV_MAP_relu));
    SV_TRY(sv_linear(c, y, hidden, SV_NONE, &l->out, SV_MAP_identity));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* The best cells of every sample and group. */
static sv_status pick_cells(sv_ctx *c, const sparse_center_head *head, const sv_cell_picks *picks,
                            const sv_sparse *x, sv_tensor table)
{
    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int classes = head->groups.end[head->groups.count - 1];
    sv_tensor heat;
    SV_TRY(sv_scratch_alloc(c, &heat, "heat", SV_F32, x->x.dim[0], classes, x->coords));
    for (int g = 0, first = 0; g < head->groups.count; first = head->groups.end[g++])
        SV_TRY(
            run_layer(c, &head->heat[g], sv_columns(heat, first, head->groups.end[g] - first), x->x, table));
    SV_TRY(sv_probe(c, "heatmap", heat));
    SV_TRY(sv_map1(c, heat, heat, SV_MAP_sigmoid));
    SV_TRY(sv_top_sparse(c, picks, heat, x->coords, &head->groups));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static sv_tensor rows_of(sv_tensor t, int first, int count)
{
    t.data = (char *)t.data + (size_t)first * (size_t)t.pitch * sv_dtype_bytes((sv_dtype)t.dtype);
    t.dim[0] = count;
    return t;
}

/* The codes of the picked cells, [.,CODE_CHANNELS] in the frame arena. The samples' picks of a group are worked on
 * together. */
static sv_status run_codes(sv_ctx *c, const sparse_center_head *head, sv_tensor *codes,
                           const sv_cell_picks *picks, sv_tensor x, sv_tensor table)
{
    const int rows = picks->row.dim[0], most = head->post.picks, groups = head->groups.count,
              parts = rows / most, batch = parts / groups, orders = groups * (batch * (batch - 1) / 2);
    SV_TRY(sv_frame_alloc(c, codes, "codes", SV_F32, rows, CODE_CHANNELS, SV_NONE));
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor cells, picked, grouped;
    SV_TRY(sv_scratch_alloc(c, &cells, "picks by group", SV_I32, parts, most, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &picked, "neighbours of picks", SV_I32, rows, 27, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &grouped, "codes by group", SV_F32, rows, CODE_CHANNELS, SV_NONE));
    SV_TRY(sv_gather(c, cells, sv_view(picks->row.data, SV_I32, parts, most),
                     rows_of(head->by_group, orders, parts), SV_NONE));
    SV_TRY(sv_gather(c, picked, table, sv_view(cells.data, SV_I32, rows, 1), SV_NONE));
    for (int g = 0, of_group = batch * most; g < groups; g++)
        SV_TRY(run_layer(c, &head->codes[g], rows_of(grouped, g * of_group, of_group), x,
                         rows_of(picked, g * of_group, of_group)));
    SV_TRY(sv_gather(c, sv_view(codes->data, SV_F32, parts, most * CODE_CHANNELS),
                     sv_view(grouped.data, SV_F32, parts, most * CODE_CHANNELS),
                     rows_of(head->by_sample, orders, parts), SV_NONE));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* Samples of groups become samples. */
static sv_status suppress(sv_ctx *c, const sparse_center_head *head, const sv_candidates *out,
                          const sv_candidates *in)
{
    const int batch = out->boxes.batch, parts = batch * head->groups.count;
    sv_candidates by_group = *out;
    SV_TRY(sv_frame_offsets(c, &by_group.offsets, parts));
    by_group.boxes.offsets = by_group.offsets;
    by_group.boxes.batch = (int16_t)parts;
    SV_TRY(sv_nms(c, &by_group, in, &head->post.nms));
    return sv_gather(c, sv_view(out->offsets, SV_I32, batch + 1, 1),
                     sv_view(by_group.offsets, SV_I32, parts + 1, 1), head->first_group, SV_NONE);
}

static sv_status forward_sparse(sv_ctx *c, const void *self, const sv_sparse *x, const sv_candidates *out)
{
    const sparse_center_head *head = self;
    const int parts = x->coords.batch * head->groups.count, rows = head->post.picks * parts;
    sv_cell_picks picks;
    sv_candidates candidates;
    sv_tensor table, all, codes[CODES];
    SV_TRY(sv_candidates_alloc(c, &candidates, "candidates", rows, parts));
    SV_TRY(sv_cell_picks_alloc(c, &picks, rows));
    SV_TRY(sv_stage_begin(c, "branches"));
    const sv_mark mark = sv_arena_mark(&c->scratch);
    SV_TRY(sv_scratch_alloc(c, &table, "neighbours", SV_I32, x->coords.dim[0], 27, x->coords));
    SV_TRY(sv_neighbours(c, &(sv_neighbourhood){.table = table, .order = SV_NONE}, x->coords, x->shape));
    SV_TRY(pick_cells(c, head, &picks, x, table));
    SV_TRY(run_codes(c, head, &all, &picks, x->x, table));
    sv_arena_rewind(&c->scratch, mark);
    SV_TRY(sv_stage_end(c));
    SV_TRY(sv_probe(c, "picked_scores", picks.score));
    SV_TRY(sv_probe(c, "picked_rows", picks.row));
    for (int which = 0, first = 0; which < CODES; first += branches[which++].channels) {
        codes[which] = sv_columns(all, first, branches[which].channels);
        SV_TRY(sv_probe(c, branches[which].name, codes[which]));
    }
    SV_TRY(sv_stage_begin(c, "decode"));
    const sv_center_codes decoded = {.gathered = true,
                                     .center = codes[CENTER],
                                     .z = codes[CENTER_Z],
                                     .size = codes[DIM],
                                     .rotation = codes[ROT]};
    SV_TRY(sv_center_decode(c, &candidates, &picks, &decoded, parts, &head->post.rule));
    SV_TRY(sv_stage_end(c));
    SV_TRY(sv_stage_begin(c, "nms"));
    SV_TRY(suppress(c, head, out, &candidates));
    return sv_stage_end(c);
}

static int max_boxes(const void *self)
{
    const sparse_center_head *head = self;
    return head->post.max_boxes * head->groups.count;
}

const sv_head_type sv_head_sparse_center = {
    .name = "SparseCenterHead",
    .bytes = sizeof(sparse_center_head),
    .bind_sparse = bind_sparse,
    .forward_sparse = forward_sparse,
    .max_boxes = max_boxes,
};
