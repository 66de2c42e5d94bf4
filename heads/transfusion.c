/* SPDX-License-Identifier: Apache-2.0
 *
 * TransFusionHead: the best cells of a heat map become queries, one transformer decoder layer lets each look
 * around itself, and small heads read a box from each. The official code works on the map with x and y
 * exchanged; here the map stays [y][x], the kernels of the 3x3 convolutions are turned instead, and ties go
 * column by column.
 *
 *   f       conv3x3 of the BEV features, bias, no norm                                     [cells, d]
 *   heat    conv3x3 -> BatchNorm -> ReLU -> conv3x3, sigmoid; cells below a neighbour become  [cells, classes]
 *           0 (but for the classes that 'alone' lists), and so does the border of the map
 *   query   the NUM_PROPOSALS best of all cells and classes: f + class embedding;
 *           p = embedding of (x + 0.5, y + 0.5)
 *   decoder every query is a sequence of its own, so self-attention passes its value through:
 *             q = LN1(q + Wo (Wv (q + p)))                       [Wo Wv folded]
 *             q = LN2(q + Wo' attention(q + p; cells around))    keys and values W (f + p') once for each cell
 *             q = LN3(q + W2 relu(W1 q))
 *   codes   per branch Linear -> BatchNorm -> ReLU -> Linear; the first layers of all branches are one
 *           product, and the second ones another with a block-diagonal matrix
 *   box     center_decode_cpu.c: 'height' is the top face, 'rot' is sine, cosine;
 *           score = sigmoid(heatmap) * heat of the query's class
 *
 * Suppression is fixed for each dataset by the official code: its overlaps, and which classes suppress at
 * all. Of NMS_CONFIG only NMS_PRE_MAXSIZE and NMS_POST_MAXSIZE count, for those classes. Boxes come in the
 * order of the queries.
 *
 * Key of our own: NMS_CONFIG.EXACT (default false) takes exact polygon overlaps.
 *
 * Source: pcdet/models/dense_heads/transfusion_head.py, model_utils/transfusion_utils.py.
 */
#include "head.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const float BATCHNORM_EPS = 1e-5f, NORM_EPS = 1e-5f;
enum { WINDOW_RADIUS = 20, BRANCH_CHANNELS = 64, MOST_PICKS = 4096 };

enum branch { CENTER, HEIGHT, DIM, ROT, HEATMAP, IOU, VEL, BRANCHES };
static const struct {
    const char *name;
    int channels; /* 0: one per class */
} branches[BRANCHES] = {{"center", 2},  {"height", 1}, {"dim", 3}, {"rot", 2},
                        {"heatmap", 0}, {"iou", 1},    {"vel", 2}};

/* What the official code fixes for each dataset. */
typedef struct dataset_rule {
    const char *name;
    int classes;
    uint32_t alone; /* classes whose peaks are not looked for: small objects stand close together */
    float threshold[SV_NMS_CLASSES]; /* 0: the class does not suppress */
} dataset_rule;

static const dataset_rule datasets[] = {
    {"nuScenes", 10, 1u << 8 | 1u << 9, {[8] = 0.175f, [9] = 0.175f}},
    {"Waymo", 3, 1u << 1 | 1u << 2, {0.7f, 0.7f, 0.7f}},
};

typedef struct transfusion_head {
    int channels, classes, picks, feed_forward, cells;
    sv_map activation;
    sv_peak_rule peaks;
    sv_cell_order order;
    sv_cell_window window;
    sv_tensor class_embedding; /* [classes, d], bias included */
    sv_linear_weights position[2];
    sv_tensor key_position; /* [cells, d] */
    sv_linear_weights self_attention, query, key_value, attended, wide, narrow, codes[2];
    sv_tensor norm[3][2];
    int first[BRANCHES]; /* column of the branch's codes; -1: none */
    sv_center_rule rule;
    sv_nms_rule nms;
} transfusion_head;

/* ---- configuration ------------------------------------------------------------------------------------ */

static sv_status read_shape(sv_ctx *c, transfusion_head *head, const sv_head_spec *spec)
{
    const sv_node *cfg = spec->cfg;
    const char *path = sv_node_path(cfg), *activation = NULL;
    int classes = 0, kernel = 0, hm_convs = 0;
    bool sigmoid = true;
    SV_TRY(sv_node_int(c, cfg, "NUM_PROPOSALS", &head->picks));
    SV_TRY(sv_node_int(c, cfg, "HIDDEN_CHANNEL", &head->channels));
    SV_TRY(sv_node_int(c, cfg, "FFN_CHANNEL", &head->feed_forward));
    SV_TRY(sv_node_int(c, cfg, "NUM_HEADS", &head->window.heads));
    SV_TRY(sv_node_int(c, cfg, "NUM_CLASSES", &classes));
    SV_TRY(sv_node_int(c, cfg, "NMS_KERNEL_SIZE", &kernel));
    SV_TRY(sv_node_int(c, cfg, "NUM_HM_CONV", &hm_convs));
    SV_TRY(sv_node_string_or(c, cfg, "ACTIVATION", &activation, "relu"));
    SV_TRY(sv_node_bool_or(c, cfg, "LOSS_CONFIG.LOSS_CLS.use_sigmoid", &sigmoid, true));
    SV_CHECK(c, head->picks >= 1 && head->picks <= MOST_PICKS, SV_UNSUPPORTED,
             "%s.NUM_PROPOSALS: %d; 1 to %d are supported", path, head->picks, (int)MOST_PICKS);
    SV_CHECK(c,
             head->channels >= 1 && head->channels <= 4096 && head->feed_forward >= 1 &&
                 head->feed_forward <= 1 << 14,
             SV_BAD_INPUT, "%s: HIDDEN_CHANNEL %d, FFN_CHANNEL %d", path, head->channels, head->feed_forward);
    SV_CHECK(c,
             head->window.heads >= 1 && head->window.heads <= SV_ATTENTION_HEADS &&
                 head->channels % head->window.heads == 0,
             SV_BAD_INPUT, "%s.NUM_HEADS: %d for %d channels", path, head->window.heads, head->channels);
    SV_CHECK(c, classes == spec->class_count, SV_BAD_INPUT, "%s.NUM_CLASSES: %d, but CLASS_NAMES has %d",
             path, classes, spec->class_count);
    SV_CHECK(c, kernel >= 1 && kernel <= 33 && kernel % 2 == 1, SV_UNSUPPORTED,
             "%s.NMS_KERNEL_SIZE: %d is no odd number up to 33", path, kernel);
    SV_CHECK(c, hm_convs == 2 && sigmoid, SV_UNSUPPORTED,
             "%s: only NUM_HM_CONV 2 and LOSS_CONFIG.LOSS_CLS.use_sigmoid true are supported", path);
    head->activation = strcmp(activation, "gelu") == 0 ? SV_MAP_gelu : SV_MAP_relu;
    SV_CHECK(c, head->activation == SV_MAP_gelu || strcmp(activation, "relu") == 0, SV_UNSUPPORTED,
             "%s.ACTIVATION: '%s' is not supported; relu and gelu are", path, activation);
    head->classes = classes;
    head->peaks.radius = kernel / 2;
    static const char *const unused[] = {"CLASS_AGNOSTIC", "USE_BIAS_BEFORE_NORM",
                                         "DROPOUT",        "BN_MOMENTUM",
                                         "LOSS_CONFIG",    "SEPARATE_HEAD_CFG.HEAD_ORDER"};
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++) sv_node_ignore(c, cfg, unused[i], NULL);
    return SV_OK;
}

static sv_status read_place(sv_ctx *c, transfusion_head *head, const sv_head_spec *spec,
                            const dataset_rule **dataset)
{
    const char *name = NULL, *path = sv_node_path(spec->cfg);
    int stride = 0;
    SV_TRY(sv_node_int(c, spec->cfg, "TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE", &stride));
    SV_TRY(sv_node_string_or(c, spec->cfg, "TARGET_ASSIGNER_CONFIG.DATASET", &name, "nuScenes"));
    sv_node_ignore(c, spec->cfg, "TARGET_ASSIGNER_CONFIG", NULL); /* the rest assigns training targets */
    *dataset = NULL;
    for (size_t i = 0; i < sizeof datasets / sizeof *datasets; i++)
        if (strcmp(datasets[i].name, name) == 0 && datasets[i].classes == head->classes)
            *dataset = &datasets[i];
    SV_CHECK(c, *dataset, SV_UNSUPPORTED,
             "%s.TARGET_ASSIGNER_CONFIG.DATASET: '%s' with %d classes is not supported; nuScenes with 10 and "
             "Waymo with 3 are",
             path, name, head->classes);
    SV_CHECK(c, spec->height == spec->width, SV_UNSUPPORTED,
             "%s on a map of %d x %d cells: only square maps are supported", path, spec->height, spec->width);
    SV_CHECK(
        c,
        stride >= 1 && spec->grid.cells[0] / stride == spec->width &&
            spec->grid.cells[1] / stride == spec->height,
        SV_BAD_INPUT,
        "%s.TARGET_ASSIGNER_CONFIG.FEATURE_MAP_STRIDE: %d, but the map has %d cells where the grid has %d",
        path, stride, spec->width, spec->grid.cells[0]);
    const int width = spec->width;
    head->cells = width * width;
    head->peaks.height = head->peaks.width = width;
    head->peaks.alone = (*dataset)->alone;
    head->order = (sv_cell_order){.height = width, .width = width, .by_column = true, .middle = 0.5f};
    head->window.radius = WINDOW_RADIUS;
    head->window.width = width;
    head->window.scale = 1.0f / sqrtf((float)(head->channels / head->window.heads));
    if (head->picks > head->cells * head->classes) head->picks = head->cells * head->classes;
    sv_center_rule *rule = &head->rule;
    *rule = (sv_center_rule){
        .channels = head->classes, .stride = (float)stride, .sine_first = true, .top_face = true};
    for (int i = 0; i < 2; i++) {
        rule->cell[i] = spec->grid.size[i];
        rule->origin[i] = spec->grid.min[i];
    }
    return SV_OK;
}

static sv_status read_post_processing(sv_ctx *c, transfusion_head *head, const sv_head_spec *spec,
                                      const dataset_rule *dataset)
{
    const sv_node *post = NULL, *rectifiers = NULL;
    sv_center_rule *rule = &head->rule;
    sv_nms_rule *nms = &head->nms;
    double score = 0, range[6], least = 0;
    bool rescore = false;
    const char *type = NULL;
    int pre_max = 0, post_max = 0;
    SV_TRY(sv_node_require(c, spec->cfg, "POST_PROCESSING", &post));
    SV_TRY(sv_node_number(c, post, "SCORE_THRESH", &score));
    SV_TRY(sv_node_numbers(c, post, "POST_CENTER_RANGE", range, 6));
    rule->min_score = (float)score;
    for (int i = 0; i < 3; i++) {
        rule->range_min[i] = (float)range[i];
        rule->range_max[i] = (float)range[i + 3];
    }
    SV_TRY(sv_node_bool_or(c, post, "USE_IOU_TO_RECTIFY_SCORE", &rescore, false));
    rule->rescore = rescore && head->first[IOU] >= 0;
    if (rescore) {
        double rectifier[SV_HEAT_CHANNELS];
        SV_TRY(sv_node_require(c, post, "IOU_RECTIFIER", &rectifiers));
        const bool one = sv_node_count(rectifiers) == 1; /* for all classes */
        SV_TRY(sv_node_numbers(c, post, "IOU_RECTIFIER", rectifier, one ? 1 : head->classes));
        for (int i = 0; i < head->classes; i++) rule->rectifier[i] = (float)rectifier[one ? 0 : i];
    } else {
        sv_node_ignore(c, post, "IOU_RECTIFIER",
                       "IOU_RECTIFIER has no effect without USE_IOU_TO_RECTIFY_SCORE");
    }

    SV_TRY(sv_node_string(c, post, "NMS_CONFIG.NMS_TYPE", &type));
    SV_CHECK(c, strcmp(type, "nms_gpu") == 0, SV_UNSUPPORTED,
             "%s.NMS_CONFIG.NMS_TYPE: %s is not supported with this head", sv_node_path(post), type);
    sv_node_ignore(
        c, post, "NMS_CONFIG.NMS_THRESH",
        "NMS_CONFIG.NMS_THRESH has no effect: the official head has a fixed overlap for each dataset");
    SV_TRY(sv_node_number_or(c, post, "NMS_CONFIG.SCORE_THRES", &least, 0));
    SV_CHECK(c, least <= 0, SV_UNSUPPORTED, "%s.NMS_CONFIG.SCORE_THRES: %g; only 0 is supported",
             sv_node_path(post), least);
    SV_TRY(sv_node_int(c, post, "NMS_CONFIG.NMS_PRE_MAXSIZE", &pre_max));
    SV_TRY(sv_node_int(c, post, "NMS_CONFIG.NMS_POST_MAXSIZE", &post_max));
    SV_CHECK(c, pre_max >= 1 && post_max >= 1, SV_BAD_INPUT, "%s.NMS_CONFIG: the best %d of %d boxes",
             sv_node_path(post), post_max, pre_max);
    SV_TRY(sv_node_bool_or(c, post, "NMS_CONFIG.EXACT", &nms->exact, false));
    nms->classes = head->classes;
    nms->by_index = true;
    for (int i = 0; i < head->classes; i++) {
        const bool suppresses = dataset->threshold[i] > 0;
        nms->threshold[i] = suppresses ? dataset->threshold[i] : INFINITY;
        nms->pre_max[i] = suppresses ? pre_max : INT_MAX;
        nms->post_max[i] = suppresses ? post_max : INT_MAX;
    }
    if (spec->post) {
        static const char *const outer[] = {"SCORE_THRESH", "OUTPUT_RAW_SCORE", "NMS_CONFIG"};
        for (size_t i = 0; i < sizeof outer / sizeof *outer; i++)
            sv_node_ignore(
                c, spec->post, outer[i],
                "it has no effect: this head has a POST_PROCESSING of its own, DENSE_HEAD.POST_PROCESSING");
    }
    return SV_OK;
}

/* ---- binding ------------------------------------------------------------------------------------------ */

static sv_tensor host_matrix(const float *w, int rows, int columns)
{
    return sv_view((void *)(uintptr_t)w, SV_F32, rows, columns);
}

/* Weights as PyTorch's MultiheadAttention keeps them: queries, keys and values in one matrix. */
typedef struct attention {
    const float *in, *in_bias;   /* [3d, d], [3d] */
    const float *out, *out_bias; /* [d, d], [d] */
} attention;

static sv_status bind_attention(sv_binder *b, attention *a, const char *name, int d)
{
    sv_tensor w, bias;
    sv_binder_push(b, "%s", name);
    SV_TRY(sv_bind_host(b, &w, "in_proj_weight", sv_init_fan_in(d), 2, (const int32_t[]){3 * d, d}));
    SV_TRY(sv_bind_host(b, &bias, "in_proj_bias", sv_init_fan_in(d), 1, (const int32_t[]){3 * d}));
    a->in = sv_f32(w);
    a->in_bias = sv_f32(bias);
    SV_TRY(sv_bind_linear_host(b, &a->out, &a->out_bias, "out_proj", NULL, 0, d, d, true));
    sv_binder_pop(b);
    return SV_OK;
}

/* Attention over a single token: its value, projected. Wo (Wv x + bv) + bo as one product, folded in double
 * precision. */
static sv_status fold_self_attention(sv_binder *b, sv_linear_weights *out, const attention *a, int d)
{
    const float *value = a->in + (size_t)(2 * d) * (size_t)d, *value_bias = a->in_bias + 2 * d;
    float *w = NULL, *bias = NULL;
    SV_TRY(sv_bind_memory(b, &w, (int64_t)d * d));
    SV_TRY(sv_bind_memory(b, &bias, d));
    double *row = calloc((size_t)d, sizeof *row);
    SV_CHECK(sv_binder_ctx(b), row, SV_NO_MEMORY, "no memory to fold the self-attention");
    for (int o = 0; o < d; o++) {
        double sum = (double)a->out_bias[o];
        memset(row, 0, sizeof *row * (size_t)d);
        for (int k = 0; k < d; k++) {
            const double factor = (double)a->out[(size_t)o * (size_t)d + (size_t)k];
            sum += factor * (double)value_bias[k];
            for (int i = 0; i < d; i++) row[i] += factor * (double)value[(size_t)k * (size_t)d + (size_t)i];
        }
        for (int i = 0; i < d; i++) w[(size_t)o * (size_t)d + (size_t)i] = (float)row[i];
        bias[o] = (float)sum;
    }
    free(row);
    return sv_linear_prepare(sv_binder_ctx(b), out, host_matrix(w, d, d), host_matrix(bias, 1, d));
}

/* position_embedding_head: Linear(2, d) -> BatchNorm -> ReLU -> Linear(d, d) */
static sv_status bind_position(sv_binder *b, sv_linear_weights position[2], const char *name, int d)
{
    sv_binder_push(b, "%s.position_embedding_head", name);
    SV_TRY(sv_bind_linear_batchnorm(b, &position[0], "0", "1", BATCHNORM_EPS, d, 2, true));
    SV_TRY(sv_bind_linear(b, &position[1], "3", d, d, true));
    sv_binder_pop(b);
    return SV_OK;
}

/* The embedding of every cell of the map: it depends on the weights alone. */
static sv_status make_key_position(sv_binder *b, transfusion_head *head, const sv_linear_weights position[2])
{
    sv_ctx *c = sv_binder_ctx(b);
    const int width = head->window.width, d = head->channels;
    float *places = NULL;
    void *memory = NULL;
    SV_TRY(sv_bind_memory(b, &places, 2 * (int64_t)head->cells));
    for (int i = 0; i < head->cells; i++) {
        places[2 * i] = (float)(i % width) + head->order.middle;
        places[2 * i + 1] = (float)(i / width) + head->order.middle;
    }
    SV_TRY(sv_arena_alloc(c, c->weights, "key positions", sizeof(float) * (size_t)head->cells * (size_t)d,
                          &memory));
    head->key_position = sv_view(memory, SV_F32, head->cells, d);
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor place, hidden;
    SV_TRY(sv_scratch_alloc(c, &place, "cell places", SV_F32, head->cells, 2, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &hidden, "cell positions", SV_F32, head->cells, d, SV_NONE));
    SV_TRY(c->device->upload(c, place.data, places, sizeof *places * 2 * (size_t)head->cells));
    SV_TRY(sv_linear(c, hidden, place, SV_NONE, &position[0], SV_MAP_relu));
    SV_TRY(sv_linear(c, head->key_position, hidden, SV_NONE, &position[1], SV_MAP_identity));
    SV_TRY(c->device->queue_wait(c));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static sv_status bind_decoder(sv_binder *b, transfusion_head *head)
{
    sv_ctx *c = sv_binder_ctx(b);
    const int d = head->channels;
    attention self, cross;
    sv_linear_weights key_position[2];
    sv_binder_push(b, "decoder");
    SV_TRY(bind_attention(b, &self, "self_attn", d));
    SV_TRY(fold_self_attention(b, &head->self_attention, &self, d));
    SV_TRY(bind_attention(b, &cross, "multihead_attn", d));
    SV_TRY(sv_linear_prepare(c, &head->query, host_matrix(cross.in, d, d), host_matrix(cross.in_bias, 1, d)));
    SV_TRY(sv_linear_prepare(c, &head->key_value, host_matrix(cross.in + (size_t)d * (size_t)d, 2 * d, d),
                             host_matrix(cross.in_bias + d, 1, 2 * d)));
    SV_TRY(sv_linear_prepare(c, &head->attended, host_matrix(cross.out, d, d),
                             host_matrix(cross.out_bias, 1, d)));
    SV_TRY(sv_bind_linear(b, &head->wide, "linear1", head->feed_forward, d, true));
    SV_TRY(sv_bind_linear(b, &head->narrow, "linear2", d, head->feed_forward, true));
    static const char *const norms[3][2] = {
        {"norm1.weight", "norm1.bias"}, {"norm2.weight", "norm2.bias"}, {"norm3.weight", "norm3.bias"}};
    for (int i = 0; i < 3; i++) {
        SV_TRY(sv_bind_vector(b, &head->norm[i][0], norms[i][0], SV_INIT(1), d));
        SV_TRY(sv_bind_vector(b, &head->norm[i][1], norms[i][1], SV_INIT(0), d));
    }
    SV_TRY(bind_position(b, head->position, "self_posembed", d));
    SV_TRY(bind_position(b, key_position, "cross_posembed", d));
    sv_binder_pop(b);
    return make_key_position(b, head, key_position);
}

/* A query of class k begins with column k of the (bias included) class encoding. */
static sv_status bind_classes(sv_binder *b, transfusion_head *head)
{
    const float *w = NULL, *bias = NULL;
    float *table = NULL;
    const int d = head->channels;
    SV_TRY(sv_bind_linear_host(b, &w, &bias, "class_encoding", NULL, 0, d, head->classes, true));
    SV_TRY(sv_bind_memory(b, &table, (int64_t)head->classes * d));
    for (int k = 0; k < head->classes; k++)
        for (int i = 0; i < d; i++) table[k * d + i] = w[i * head->classes + k] + bias[i];
    return sv_weight_upload(sv_binder_ctx(b), &head->class_embedding, host_matrix(table, head->classes, d));
}

static int branch_channels(const transfusion_head *head, int which)
{
    return branches[which].channels > 0 ? branches[which].channels : head->classes;
}

/* Which branches there are; their columns among the codes. */
static sv_status read_branches(sv_ctx *c, transfusion_head *head, const sv_head_spec *spec, int *count,
                               int *columns)
{
    const sv_node *dict = NULL;
    *count = *columns = 0;
    SV_TRY(sv_node_require(c, spec->cfg, "SEPARATE_HEAD_CFG.HEAD_DICT", &dict));
    for (int which = 0; which < BRANCHES; which++) {
        head->first[which] = -1;
        if (which != HEATMAP) {
            const sv_node *entry = sv_node_find(dict, branches[which].name);
            int channels = 0, convs = 0;
            if (!entry && which >= IOU) continue;
            SV_CHECK(c, entry, SV_BAD_INPUT, "%s.%s is missing", sv_node_path(dict), branches[which].name);
            SV_TRY(sv_node_int(c, entry, "out_channels", &channels));
            SV_TRY(sv_node_int(c, entry, "num_conv", &convs));
            SV_CHECK(c, channels == branches[which].channels && convs == 2, SV_UNSUPPORTED,
                     "%s: %d channels after %d convolutions instead of %d after 2", sv_node_path(entry),
                     channels, convs, branches[which].channels);
        }
        head->first[which] = *columns;
        *columns += branch_channels(head, which);
        ++*count;
    }
    return SV_OK;
}

static sv_status bind_branches(sv_binder *b, transfusion_head *head, int count, int columns)
{
    sv_ctx *c = sv_binder_ctx(b);
    const int d = head->channels, wide = BRANCH_CHANNELS * count;
    float *w[2], *bias[2];
    SV_TRY(sv_bind_memory(b, &w[0], (int64_t)wide * d));
    SV_TRY(sv_bind_memory(b, &w[1], (int64_t)columns * wide));
    SV_TRY(sv_bind_memory(b, &bias[0], wide));
    SV_TRY(sv_bind_memory(b, &bias[1], columns));
    sv_binder_push(b, "prediction_head");
    for (int which = 0, place = 0; which < BRANCHES; which++) {
        if (head->first[which] < 0) continue;
        const float *part = NULL, *part_bias = NULL;
        const int channels = branch_channels(head, which);
        sv_binder_push(b, "%s", branches[which].name);
        SV_TRY(
            sv_bind_linear_host(b, &part, &part_bias, "0.0", "0.1", BATCHNORM_EPS, BRANCH_CHANNELS, d, true));
        memcpy(w[0] + (size_t)place * (size_t)d, part, sizeof(float) * (size_t)(BRANCH_CHANNELS * d));
        memcpy(bias[0] + place, part_bias, sizeof(float) * BRANCH_CHANNELS);
        SV_TRY(sv_bind_linear_host(b, &part, &part_bias, "1", NULL, 0, channels, BRANCH_CHANNELS, true));
        for (int i = 0; i < channels; i++)
            memcpy(w[1] + (size_t)(head->first[which] + i) * (size_t)wide + (size_t)place,
                   part + i * BRANCH_CHANNELS, sizeof(float) * BRANCH_CHANNELS);
        memcpy(bias[1] + head->first[which], part_bias, sizeof(float) * (size_t)channels);
        sv_binder_pop(b);
        place += BRANCH_CHANNELS;
    }
    sv_binder_pop(b);
    SV_TRY(sv_linear_prepare(c, &head->codes[0], host_matrix(w[0], wide, d), host_matrix(bias[0], 1, wide)));
    return sv_linear_prepare(c, &head->codes[1], host_matrix(w[1], columns, wide),
                             host_matrix(bias[1], 1, columns));
}

static sv_status bind_maps(sv_binder *b, transfusion_head *head, const sv_head_spec *spec,
                           sv_chain_def *chain, int *next_slot, sv_head_maps *maps)
{
    sv_ctx *c = sv_binder_ctx(b);
    int features = 0, hidden = 0, heat = 0;
    sv_head_conv k = {.conv = "shared_conv",
                      .in = spec->in_slot,
                      .in_channels = spec->in_channels,
                      .channels = head->channels,
                      .kernel = 3,
                      .bias = true,
                      .turned = true};
    SV_TRY(sv_head_conv_bind(b, chain, next_slot, &k, &features));
    k.conv = "heatmap_head.0.conv";
    k.norm = "heatmap_head.0.bn";
    k.eps = BATCHNORM_EPS;
    k.in = features;
    k.in_channels = head->channels;
    k.relu = true;
    SV_TRY(sv_head_conv_bind(b, chain, next_slot, &k, &hidden));
    k.conv = "heatmap_head.1";
    k.norm = NULL;
    k.in = hidden;
    k.channels = head->classes;
    k.relu = false;
    SV_TRY(sv_head_conv_bind(b, chain, next_slot, &k, &heat));
    maps->height = spec->height;
    maps->width = spec->width;
    SV_TRY(sv_head_map_add(c, maps, "shared_features", features, head->channels));
    return sv_head_map_add(c, maps, "dense_heatmap", heat, head->classes);
}

static sv_status bind(sv_binder *b, void *self, const sv_head_spec *spec, sv_chain_def *chain, int *next_slot,
                      sv_head_maps *maps)
{
    sv_ctx *c = sv_binder_ctx(b);
    transfusion_head *head = self;
    const dataset_rule *dataset = NULL;
    int count = 0, columns = 0;
    SV_TRY(read_shape(c, head, spec));
    SV_TRY(read_place(c, head, spec, &dataset));
    SV_TRY(read_branches(c, head, spec, &count, &columns));
    SV_TRY(read_post_processing(c, head, spec, dataset));
    SV_TRY(bind_maps(b, head, spec, chain, next_slot, maps));
    SV_TRY(bind_classes(b, head));
    SV_TRY(bind_decoder(b, head));
    return bind_branches(b, head, count, columns);
}

/* ---- forward ------------------------------------------------------------------------------------------ */

/* The best cells and their classes; 'peaks' [cells, classes] stays for whoever looks. */
static sv_status choose(sv_ctx *c, const transfusion_head *head, int batch, sv_tensor logits,
                        sv_cell_picks *picks)
{
    sv_tensor peaks, heat, scores;
    SV_TRY(sv_cell_picks_alloc(c, picks, head->picks * batch));
    const sv_mark mark = sv_arena_mark(&c->scratch);
    SV_TRY(sv_scratch_alloc(c, &heat, "heat map", SV_F32, logits.dim[0], head->classes, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &peaks, "heat map peaks", SV_F32, logits.dim[0], head->classes, SV_NONE));
    SV_TRY(sv_map1(c, heat, logits, SV_MAP_sigmoid));
    SV_TRY(sv_local_peaks(c, peaks, heat, batch, &head->peaks));
    SV_TRY(sv_top_cells(c, picks, peaks, batch, &head->order));
    SV_TRY(sv_probe(c, "query_labels", picks->channel));
    SV_TRY(sv_probe(c, "query_heat", picks->score));
    SV_TRY(sv_probe(c, "query_cells", picks->row));
    if (sv_probing(c)) {
        SV_TRY(sv_scratch_alloc(c, &scores, "query heat of all classes", SV_F32, picks->row.dim[0],
                                head->classes, SV_NONE));
        SV_TRY(sv_gather(c, scores, peaks, picks->row, SV_NONE));
        SV_TRY(sv_probe(c, "query_heatmap_score", scores));
    }
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

/* q = LayerNorm(q + part), through 'sum'. */
static sv_status add_norm(sv_ctx *c, sv_tensor q, sv_tensor part, sv_tensor sum, const sv_tensor norm[2])
{
    SV_TRY(sv_map2(c, sum, q, part, SV_MAP_add));
    return sv_norm(c, q, sum, norm[0], norm[1], NORM_EPS, SV_MAP_identity, SV_NONE);
}

/* Keys and values of every cell, [cells, 2d]. */
static sv_status project_cells(sv_ctx *c, const transfusion_head *head, int batch, sv_tensor features,
                               sv_tensor *out)
{
    const int d = head->channels;
    SV_TRY(sv_scratch_alloc(c, out, "keys and values", SV_F32, features.dim[0], 2 * d, SV_NONE));
    const sv_mark mark = sv_arena_mark(&c->scratch);
    sv_tensor placed;
    SV_TRY(sv_scratch_alloc(c, &placed, "features with positions", SV_F32, features.dim[0], d, SV_NONE));
    for (int b = 0; b < batch; b++) {
        const size_t first = (size_t)b * (size_t)head->cells * (size_t)d;
        SV_TRY(sv_map2(c, sv_view(sv_f32(placed) + first, SV_F32, head->cells, d),
                       sv_view(sv_f32(features) + first, SV_F32, head->cells, d), head->key_position,
                       SV_MAP_add));
    }
    SV_TRY(sv_linear(c, *out, placed, SV_NONE, &head->key_value, SV_MAP_identity));
    sv_arena_rewind(&c->scratch, mark);
    return SV_OK;
}

static sv_status decode_queries(sv_ctx *c, const transfusion_head *head, int batch, sv_tensor features,
                                const sv_cell_picks *picks, sv_tensor q)
{
    const int d = head->channels, rows = q.dim[0];
    sv_tensor position, part, sum, wide, cells;
    SV_TRY(sv_scratch_alloc(c, &position, "query positions", SV_F32, rows, d, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &part, "query parts", SV_F32, rows, d, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &sum, "query sums", SV_F32, rows, d, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &wide, "query activations", SV_F32, rows, head->feed_forward, SV_NONE));
    SV_TRY(project_cells(c, head, batch, features, &cells));

    SV_TRY(sv_gather(c, part, head->class_embedding, picks->channel, SV_NONE));
    SV_TRY(sv_gather(c, q, features, picks->row, part));
    SV_TRY(sv_linear(c, part, picks->place, SV_NONE, &head->position[0], SV_MAP_relu));
    SV_TRY(sv_linear(c, position, part, SV_NONE, &head->position[1], SV_MAP_identity));

    SV_TRY(sv_map2(c, sum, q, position, SV_MAP_add));
    SV_TRY(sv_linear(c, part, sum, SV_NONE, &head->self_attention, SV_MAP_identity));
    SV_TRY(add_norm(c, q, part, sum, head->norm[0]));

    SV_TRY(sv_map2(c, sum, q, position, SV_MAP_add));
    SV_TRY(sv_linear(c, part, sum, SV_NONE, &head->query, SV_MAP_identity));
    SV_TRY(sv_window_attention(c, sum, part, sv_columns(cells, 0, d), sv_columns(cells, d, d), picks->row,
                               &head->window));
    SV_TRY(sv_linear(c, part, sum, SV_NONE, &head->attended, SV_MAP_identity));
    SV_TRY(add_norm(c, q, part, sum, head->norm[1]));

    SV_TRY(sv_linear(c, wide, q, SV_NONE, &head->wide, head->activation));
    SV_TRY(sv_linear(c, part, wide, SV_NONE, &head->narrow, SV_MAP_identity));
    return add_norm(c, q, part, sum, head->norm[2]);
}

static sv_tensor code(const transfusion_head *head, sv_tensor codes, int which)
{
    return head->first[which] < 0 ? SV_NONE
                                  : sv_columns(codes, head->first[which], branch_channels(head, which));
}

/* Codes as the official code names them; there the centre counts from the map's corner. */
static sv_status show_codes(sv_ctx *c, const transfusion_head *head, sv_tensor codes,
                            const sv_cell_picks *picks)
{
    for (int which = 0; which < BRANCHES; which++) {
        sv_tensor shown = code(head, codes, which);
        if (sv_is_none(shown)) continue;
        if (which == CENTER) {
            SV_TRY(sv_scratch_alloc(c, &shown, "query centres", SV_F32, codes.dim[0], 2, SV_NONE));
            SV_TRY(sv_map2(c, shown, code(head, codes, CENTER), picks->place, SV_MAP_add));
        }
        SV_TRY(sv_probe(c, branches[which].name, shown));
    }
    return SV_OK;
}

static sv_status forward(sv_ctx *c, const void *self, int batch, const sv_tensor *maps,
                         const sv_candidates *out)
{
    const transfusion_head *head = self;
    sv_cell_picks picks;
    sv_candidates candidates;
    sv_tensor q, hidden, codes;
    SV_TRY(sv_candidates_alloc(c, &candidates, "candidates", head->picks * batch, batch));
    SV_TRY(choose(c, head, batch, maps[1], &picks));

    const sv_mark mark = sv_arena_mark(&c->scratch);
    const int rows = picks.row.dim[0];
    SV_TRY(sv_scratch_alloc(c, &q, "queries", SV_F32, rows, head->channels, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &hidden, "hidden codes", SV_F32, rows, head->codes[0].n, SV_NONE));
    SV_TRY(sv_scratch_alloc(c, &codes, "codes", SV_F32, rows, head->codes[1].n, SV_NONE));
    SV_TRY(sv_stage_begin(c, "decoder"));
    SV_TRY(decode_queries(c, head, batch, maps[0], &picks, q));
    SV_TRY(sv_linear(c, hidden, q, SV_NONE, &head->codes[0], SV_MAP_relu));
    SV_TRY(sv_linear(c, codes, hidden, SV_NONE, &head->codes[1], SV_MAP_identity));
    SV_TRY(sv_stage_end(c));
    if (sv_probing(c)) SV_TRY(show_codes(c, head, codes, &picks));

    SV_TRY(sv_stage_begin(c, "decode"));
    const sv_center_codes read = {.gathered = true,
                                  .center = code(head, codes, CENTER),
                                  .z = code(head, codes, HEIGHT),
                                  .size = code(head, codes, DIM),
                                  .rotation = code(head, codes, ROT),
                                  .velocity = code(head, codes, VEL),
                                  .overlap = code(head, codes, IOU),
                                  .confidence = code(head, codes, HEATMAP)};
    SV_TRY(sv_center_decode(c, &candidates, &picks, &read, batch, &head->rule));
    SV_TRY(sv_stage_end(c));
    sv_arena_rewind(&c->scratch, mark);
    SV_TRY(sv_stage_begin(c, "nms"));
    SV_TRY(sv_nms(c, out, &candidates, &head->nms));
    return sv_stage_end(c);
}

static int max_boxes(const void *self)
{
    return ((const transfusion_head *)self)->picks;
}

static bool has_velocity(const void *self)
{
    return ((const transfusion_head *)self)->first[VEL] >= 0;
}

const sv_head_type sv_head_transfusion = {
    .name = "TransFusionHead",
    .bytes = sizeof(transfusion_head),
    .bind = bind,
    .forward = forward,
    .max_boxes = max_boxes,
    .has_velocity = has_velocity,
};
