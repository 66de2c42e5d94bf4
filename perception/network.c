/* SPDX-License-Identifier: Apache-2.0 */
#include "network.h"

#include "backbones/bev.h"
#include "backbones/lion.h"
#include "backbones/vfe.h"
#include "heads/direct.h"
#include "heads/head.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sv_model {
    atomic_int references;
    const sv_device *device;
    sv_arena weights;
    sv_config *config;
    char *config_text, *name, *operator_name;
    int class_count;
    const char *classes[SV_MAX_CLASSES]; /* owned by config */
    int point_columns;
    char point_layout[16];
    sv_grid grid;
    int64_t parameters;

    sv_vfe vfe;
    sv_lion lion;
    sv_chain *chain;
    sv_chain_def chain_def; /* shapes only once bound; weights are the device's */
    int features_slot, features_channels;
    int bev_height, bev_width;
    sv_bev_memory memory;
    sv_camera_branch camera;
    const sv_head_type *head_type;
    void *head; /* of head_type, or of direct */
    sv_head_maps maps;

    const sv_direct_type
        *direct; /* a detector without network: nothing above is used but 'head'; NULL: a network */
};

/* ---- configuration ------------------------------------------------------------------------------------ */

static sv_status read_classes(sv_ctx *c, sv_model *m, const sv_node *root)
{
    const sv_node *list = NULL;
    SV_TRY(sv_node_require(c, root, "CLASS_NAMES", &list));
    m->class_count = sv_node_count(list);
    SV_CHECK(c, m->class_count >= 1 && m->class_count <= SV_MAX_CLASSES, SV_BAD_INPUT,
             "CLASS_NAMES: %d classes; 1 to %d are possible", m->class_count, SV_MAX_CLASSES);
    for (int i = 0; i < m->class_count; i++) m->classes[i] = sv_node_text(sv_node_item(list, i));
    return SV_OK;
}

/* Point columns by feature name, in the order the network takes them. */
static sv_status read_point_features(sv_ctx *c, sv_model *m, const sv_node *data)
{
    static const struct {
        const char *name;
        char letter;
    } features[] = {{"x", 'x'},         {"y", 'y'},         {"z", 'z'},
                    {"intensity", 'i'}, {"timestamp", 't'}, {"elongation", 'e'}};
    const sv_node *used = NULL;
    const char *encoding = NULL;
    SV_TRY(sv_node_string_or(c, data, "POINT_FEATURE_ENCODING.encoding_type", &encoding,
                             "absolute_coordinates_encoding"));
    SV_CHECK(c, strcmp(encoding, "absolute_coordinates_encoding") == 0, SV_UNSUPPORTED,
             "DATA_CONFIG.POINT_FEATURE_ENCODING.encoding_type: '%s' is not supported", encoding);
    SV_TRY(sv_node_require(c, data, "POINT_FEATURE_ENCODING.used_feature_list", &used));
    m->point_columns = sv_node_count(used);
    SV_CHECK(c, m->point_columns >= 3 && m->point_columns < (int)sizeof m->point_layout, SV_BAD_INPUT,
             "%s: %d features", sv_node_path(used), m->point_columns);
    for (int i = 0; i < m->point_columns; i++) {
        const char *name = sv_node_text(sv_node_item(used, i));
        char letter = 0;
        for (size_t k = 0; k < sizeof features / sizeof *features; k++)
            if (strcmp(name, features[k].name) == 0) letter = features[k].letter;
        SV_CHECK(c, letter, SV_UNSUPPORTED, "%s: point feature '%s' is not supported", sv_node_path(used),
                 name);
        SV_CHECK(c, i >= 3 || letter == "xyz"[i], SV_UNSUPPORTED, "%s: the features must begin with x, y, z",
                 sv_node_path(used));
        m->point_layout[i] = letter;
    }
    sv_node_ignore(c, data, "POINT_FEATURE_ENCODING.src_feature_list", NULL);
    return SV_OK;
}

/* The voxel grid; and the processors that only training or the overwritten voxelizer use. */
static sv_status read_grid(sv_ctx *c, sv_model *m, const sv_node *data)
{
    double range[6], size[3] = {0};
    SV_TRY(sv_node_numbers(c, data, "POINT_CLOUD_RANGE", range, 6));
    const sv_node *processors = NULL;
    SV_TRY(sv_node_require(c, data, "DATA_PROCESSOR", &processors));
    bool found = false;
    for (int i = 0; i < sv_node_count(processors); i++) {
        const sv_node *item = sv_node_item(processors, i);
        const char *name = NULL;
        SV_TRY(sv_node_string(c, item, "NAME", &name));
        if (strcmp(name, "mask_points_and_boxes_outside_range") == 0) {
            sv_node_ignore(c, item, "REMOVE_OUTSIDE_BOXES", NULL);
            sv_node_ignore(c, item, "MASK_Z", NULL); /* the voxel grid test cuts all three axes */
        } else if (strcmp(name, "shuffle_points") == 0) {
            sv_node_ignore(c, item, "SHUFFLE_ENABLED", NULL); /* any order gives the same result */
        } else if (strncmp(name, "transform_points_to_voxels", 26) == 0) {
            SV_TRY(sv_node_numbers(c, item, "VOXEL_SIZE", size, 3));
            sv_node_ignore(c, item, "MAX_POINTS_PER_VOXEL",
                           "MAX_POINTS_PER_VOXEL has no effect: the dynamic VFE uses every point");
            sv_node_ignore(c, item, "MAX_NUMBER_OF_VOXELS",
                           "MAX_NUMBER_OF_VOXELS has no effect: the dynamic VFE keeps every voxel");
            found = true;
        } else if (strcmp(name, "calculate_grid_size") == 0) {
            SV_TRY(sv_node_numbers(c, item, "VOXEL_SIZE", size, 3));
            found = true;
        } else {
            return SV_FAIL(c, SV_UNSUPPORTED, "%s.NAME: data processor '%s' is not supported",
                           sv_node_path(item), name);
        }
    }
    SV_CHECK(c, found, SV_BAD_INPUT, "%s: no transform_points_to_voxels gives the VOXEL_SIZE",
             sv_node_path(processors));
    for (int axis = 0; axis < 3; axis++) {
        SV_CHECK(c, size[axis] > 0 && range[axis + 3] > range[axis], SV_BAD_INPUT,
                 "the voxel grid of axis %d is %g..%g m by %g m", axis, range[axis], range[axis + 3],
                 size[axis]);
        const double cells = nearbyint((range[axis + 3] - range[axis]) / size[axis]);
        SV_CHECK(c, cells >= 1 && cells <= 1 << 14, SV_BAD_INPUT, "the voxel grid of axis %d has %g cells",
                 axis, cells);
        m->grid.min[axis] = (float)range[axis];
        m->grid.max[axis] = (float)range[axis + 3];
        m->grid.size[axis] = (float)size[axis];
        m->grid.cells[axis] = (int32_t)cells;
    }
    return SV_OK;
}

/* Keys of the official files that only training, the dataset readers or the evaluation use. */
static void ignore_training_keys(sv_ctx *c, const sv_node *root)
{
    static const char *const keys[] = {"OPTIMIZATION",
                                       "HOOK",
                                       "MODEL.POST_PROCESSING.RECALL_THRESH_LIST",
                                       "MODEL.POST_PROCESSING.EVAL_METRIC",
                                       "MODEL.BACKBONE_3D.INPUT_TYPE",
                                       "DATA_CONFIG.DATA_AUGMENTOR",
                                       "DATA_CONFIG.DATASET",
                                       "DATA_CONFIG.DATA_PATH",
                                       "DATA_CONFIG.DATA_SPLIT",
                                       "DATA_CONFIG.CLOUD_DATA_PATH",
                                       "DATA_CONFIG.POINTS_TANH_DIM",
                                       "DATA_CONFIG.INFO_PATH",
                                       "DATA_CONFIG.GET_ITEM_LIST",
                                       "DATA_CONFIG.FOV_POINTS_ONLY",
                                       "DATA_CONFIG.VERSION",
                                       "DATA_CONFIG.PROCESSED_DATA_TAG",
                                       "DATA_CONFIG.SAMPLED_INTERVAL",
                                       "DATA_CONFIG.BALANCED_RESAMPLING",
                                       "DATA_CONFIG.FILTER_EMPTY_BOXES_FOR_TRAIN",
                                       "DATA_CONFIG.DISABLE_NLZ_FLAG_ON_POINTS",
                                       "DATA_CONFIG.USE_SHARED_MEMORY",
                                       "DATA_CONFIG.SHARED_MEMORY_FILE_LIMIT",
                                       "DATA_CONFIG.MAX_SWEEPS",
                                       "DATA_CONFIG.PRED_VELOCITY",
                                       "DATA_CONFIG.SET_NAN_VELOCITY_TO_ZEROS",
                                       "DATA_CONFIG.FILTER_MIN_POINTS_IN_GT",
                                       "DATA_CONFIG.EVALUATOR",
                                       "DATA_CONFIG._BASE_CONFIG_"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) sv_node_ignore(c, root, keys[i], NULL);
}

/* ---- binding ------------------------------------------------------------------------------------------ */

/* A detector without network: classes, point columns and range as always; the rest of MODEL is its own. */
static sv_status bind_direct(sv_ctx *c, sv_model *m, const sv_node *data, const sv_node *model)
{
    SV_CHECK(c, m->device->kind == SV_CPU, SV_UNSUPPORTED,
             "MODEL.NAME: %s computes on the CPU only; leave --device out", m->name);
    sv_direct_spec spec = {.cfg = model, .class_count = m->class_count, .classes = m->classes};
    SV_TRY(sv_node_numbers(c, data, "POINT_CLOUD_RANGE", spec.range, 6));
    for (int axis = 0; axis < 3; axis++) {
        SV_CHECK(c, spec.range[axis + 3] > spec.range[axis], SV_BAD_INPUT,
                 "DATA_CONFIG.POINT_CLOUD_RANGE: axis %d goes from %g to %g m", axis, spec.range[axis],
                 spec.range[axis + 3]);
        m->grid.min[axis] = (float)spec.range[axis];
        m->grid.max[axis] = (float)spec.range[axis + 3];
        m->grid.size[axis] = m->grid.max[axis] - m->grid.min[axis];
        m->grid.cells[axis] = 1;
    }
    m->operator_name = strdup(m->direct->method);
    m->head = calloc(1, m->direct->bytes);
    SV_CHECK(c, m->head && m->operator_name, SV_NO_MEMORY, "no memory for the detector");
    SV_TRY(m->direct->bind(c, m->head, &spec));
    return sv_config_check_used(c, m->config);
}

/* The dense map, and the 2-D backbone on it. */
static sv_status bind_bev(sv_ctx *c, sv_model *m, const sv_node *model, sv_binder *b, const int32_t *shape,
                          int *next_slot, sv_bev_result *bev)
{
    const sv_node *node = NULL;
    const char *name = NULL;
    int z = shape[0];
    for (int k = 0; k < m->lion.blocks; k++) z = (z + 1) / 2;
    SV_TRY(sv_node_require(c, model, "MAP_TO_BEV", &node));
    SV_TRY(sv_node_string(c, node, "NAME", &name));
    SV_CHECK(c, strcmp(name, "HeightCompression") == 0, SV_UNSUPPORTED,
             "MODEL.MAP_TO_BEV.NAME: %s is not supported; HeightCompression is", name);
    int channels = 0;
    SV_TRY(sv_node_int(c, node, "NUM_BEV_FEATURES", &channels));
    SV_CHECK(c, channels == z * m->lion.channels, SV_BAD_INPUT,
             "MODEL.MAP_TO_BEV.NUM_BEV_FEATURES: %d, but the backbone gives %d", channels,
             z * m->lion.channels);

    m->chain_def =
        (sv_chain_def){.in_channels = channels, .height = shape[1], .width = shape[2], .reuse_input = true};
    const sv_node *temporal = sv_node_find(model, "TEMPORAL");
    if (temporal) SV_TRY(sv_bev_memory_bind(b, &m->memory, temporal, channels, shape[1], shape[2]));
    SV_TRY(sv_node_require(c, model, "BACKBONE_2D", &node));
    SV_TRY(sv_bev_bind(b, node, &m->chain_def, next_slot, bev));
    m->features_slot = bev->slot;
    m->features_channels = bev->channels;
    return SV_OK;
}

/* 'bev' is what the head gets: of the 2-D backbone, or the sparse map of the 3-D one. */
static sv_status bind_head(sv_ctx *c, sv_model *m, const sv_node *model, sv_binder *b,
                           const sv_bev_result *bev, int *next_slot)
{
    const sv_node *node = NULL;
    const char *name = NULL;
    SV_TRY(sv_node_require(c, model, "DENSE_HEAD", &node));
    SV_TRY(sv_node_string(c, node, "NAME", &name));
    m->head_type = sv_head_find(name);
    SV_CHECK(c, m->head_type, SV_UNSUPPORTED, "MODEL.DENSE_HEAD.NAME: %s is not supported", name);
    const bool sparse = m->head_type->bind_sparse != NULL;
    SV_CHECK(c, sparse == m->lion.flat, SV_UNSUPPORTED,
             "MODEL.DENSE_HEAD.NAME: %s works on a %s map; MODEL.BACKBONE_3D gives a %s one", name,
             sparse ? "sparse" : "dense", sparse ? "dense" : "sparse");
    m->head = calloc(1, m->head_type->bytes);
    SV_CHECK(c, m->head && m->operator_name, SV_NO_MEMORY, "no memory for the head");
    const sv_head_spec spec = {.cfg = node,
                               .post = sv_node_find(model, "POST_PROCESSING"),
                               .class_count = m->class_count,
                               .classes = m->classes,
                               .grid = m->grid,
                               .in_slot = bev->slot,
                               .in_channels = bev->channels,
                               .height = bev->height,
                               .width = bev->width};
    sv_binder_push(b, "dense_head");
    if (sparse) {
        m->maps.height = bev->height;
        m->maps.width = bev->width;
        SV_TRY(m->head_type->bind_sparse(b, m->head, &spec));
    } else {
        SV_TRY(m->head_type->bind(b, m->head, &spec, &m->chain_def, next_slot, &m->maps));
    }
    sv_binder_pop(b);
    return SV_OK;
}

static sv_status bind_network(sv_ctx *c, sv_model *m, const sv_node *data, const sv_node *model, sv_binder *b)
{
    const sv_node *node = NULL;
    const char *name = NULL;
    SV_TRY(read_grid(c, m, data));
    SV_TRY(sv_node_require(c, model, "VFE", &node));
    SV_TRY(sv_vfe_bind(b, &m->vfe, node, m->point_columns));
    const sv_node *camera = sv_node_find(model, "CAMERA");
    if (camera) SV_TRY(sv_camera_bind(b, &m->camera, camera, m->vfe.channels));
    const int32_t shape[3] = {m->grid.cells[2], m->grid.cells[1], m->grid.cells[0]};
    SV_TRY(sv_node_require(c, model, "BACKBONE_3D", &node));
    SV_TRY(sv_lion_bind(b, &m->lion, node, shape));
    SV_CHECK(c, m->vfe.channels == m->lion.channels, SV_BAD_INPUT,
             "MODEL.VFE gives %d channels, MODEL.BACKBONE_3D takes %d", m->vfe.channels, m->lion.channels);
    SV_TRY(sv_node_string(c, node, "OPERATOR.NAME", &name));
    m->operator_name = strdup(name);

    sv_bev_result bev = {.channels = m->lion.channels, .height = shape[1], .width = shape[2]};
    int next_slot = 1;
    m->bev_height = shape[1];
    m->bev_width = shape[2];
    SV_CHECK(c, !m->lion.flat || !sv_node_find(model, "TEMPORAL"), SV_UNSUPPORTED,
             "MODEL.TEMPORAL works on a dense map; MODEL.BACKBONE_3D gives a sparse one");
    if (!m->lion.flat) SV_TRY(bind_bev(c, m, model, b, shape, &next_slot, &bev));
    SV_TRY(bind_head(c, m, model, b, &bev, &next_slot));
    SV_TRY(sv_config_check_used(c, m->config));
    SV_TRY(sv_binder_finish(b));
    m->parameters = sv_binder_parameters(b);
    return SV_OK;
}

/* 'b' is NULL where no weights were named. */
static sv_status bind_model(sv_ctx *c, sv_model *m, sv_binder *b)
{
    const sv_node *root = sv_config_root(m->config), *data = NULL, *model = NULL;
    const char *name = NULL;
    SV_TRY(read_classes(c, m, root));
    SV_TRY(sv_node_require(c, root, "DATA_CONFIG", &data));
    SV_TRY(sv_node_require(c, root, "MODEL", &model));
    SV_TRY(sv_node_string(c, model, "NAME", &name));
    m->name = strdup(name);
    SV_CHECK(c, m->name, SV_NO_MEMORY, "no memory for the model's name");
    m->direct = sv_direct_find(name);
    SV_CHECK(c, m->direct || b, SV_USAGE,
             "a model needs weights: -w FILE ('savanna init' makes random ones); only MODEL.NAME Cluster and "
             "its kind do without");
    SV_CHECK(c, !m->direct || !b, SV_USAGE,
             "MODEL.NAME: %s has no weights: nothing to name with -w, to import or to make", name);
    SV_TRY(read_point_features(c, m, data));
    ignore_training_keys(c, root);
    return m->direct ? bind_direct(c, m, data, model) : bind_network(c, m, data, model, b);
}

static sv_status load_config(sv_ctx *c, const sv_model_def *def, const sv_weights *weights, sv_config **out)
{
    if (def->config) return sv_config_load(c, def->config, def->sets, def->set_count, out);
    const char *text = weights ? sv_weights_meta(weights, "config") : NULL;
    SV_CHECK(c, text, SV_USAGE, "%s holds no configuration: name one with -c CFG.yaml",
             weights ? sv_weights_path(weights) : "the request");
    return sv_config_parse(c, text, strlen(text), sv_weights_path(weights), def->sets, def->set_count, out);
}

/* Bind with 'b'; 'chain' is prepared only when the device copies are wanted. */
static sv_status build(sv_ctx *c, sv_model *m, sv_binder *b, bool prepare_chain)
{
    sv_arena *before = c->weights;
    c->weights = &m->weights;
    sv_status status = bind_model(c, m, b);
    if (status == SV_OK && prepare_chain && !m->direct && !m->lion.flat && c->device->ops->chain_prepare)
        status = sv_chain_prepare(c, &m->chain, &m->chain_def);
    if (status == SV_OK) status = c->device->queue_wait(c);
    c->weights = before;
    /* The host weights go with the binder. */
    for (int i = 0; i < m->chain_def.node_count; i++)
        m->chain_def.nodes[i].w = m->chain_def.nodes[i].bias = NULL;
    return status;
}

static sv_status new_model(sv_ctx *c, sv_model **out)
{
    sv_model *m = calloc(1, sizeof *m);
    *out = m;
    SV_CHECK(c, m, SV_NO_MEMORY, "no memory for a model");
    atomic_init(&m->references, 1);
    m->device = c->device;
    sv_arena_init(&m->weights, "model", c->device);
    return SV_OK;
}

sv_status sv_model_open_weights(sv_ctx *c, const sv_model_def *def, const sv_weights *weights, sv_model **out)
{
    *out = NULL;
    sv_model *m = NULL;
    sv_binder *b = NULL;
    sv_status status = new_model(c, &m);
    if (status == SV_OK) status = load_config(c, def, weights, &m->config);
    if (status == SV_OK && weights) status = sv_binder_open(c, weights, &b);
    if (status == SV_OK) status = build(c, m, b, true);
    if (status == SV_OK) status = sv_config_text(c, m->config, &m->config_text);
    sv_binder_close(b);
    if (status != SV_OK) {
        sv_model_release(m);
        return status;
    }
    *out = m;
    return SV_OK;
}

sv_status sv_model_open(sv_ctx *c, const sv_model_def *def, sv_model **out)
{
    *out = NULL;
    sv_weights *weights = NULL;
    sv_status status = def->weights ? sv_weights_open(c, def->weights, &weights) : SV_OK;
    if (status == SV_OK) status = sv_model_open_weights(c, def, weights, out);
    sv_weights_free(weights);
    return status;
}

sv_status sv_model_needs_weights(sv_ctx *c, const sv_model_def *def, bool *out)
{
    sv_config *config = NULL;
    const char *name = NULL;
    SV_TRY(load_config(c, def, NULL, &config));
    const sv_status status = sv_node_string(c, sv_config_root(config), "MODEL.NAME", &name);
    *out = status != SV_OK || !sv_direct_find(name);
    sv_config_free(config);
    return status;
}

sv_status sv_model_init(sv_ctx *c, const sv_model_def *def, uint64_t seed, sv_weights *weights)
{
    sv_model *m = NULL;
    sv_binder *b = NULL;
    sv_status status = new_model(c, &m);
    if (status == SV_OK) status = load_config(c, def, NULL, &m->config);
    if (status == SV_OK) status = sv_binder_open_init(c, weights, seed, &b);
    if (status == SV_OK) status = build(c, m, b, false);
    sv_binder_close(b);
    if (status == SV_OK) status = sv_config_text(c, m->config, &m->config_text);
    if (status == SV_OK) status = sv_model_describe(c, m, weights);
    sv_model_release(m);
    return status;
}

sv_status sv_model_describe(sv_ctx *c, const sv_model *m, sv_weights *weights)
{
    char text[1024] = "";
    for (int i = 0; i < m->class_count; i++) {
        const size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "%s%s", i ? "," : "", m->classes[i]);
    }
    SV_TRY(sv_weights_set_meta(c, weights, "classes", text));
    SV_TRY(sv_weights_set_meta(c, weights, "config", m->config_text));
    SV_TRY(sv_weights_set_meta(c, weights, "point_features", m->point_layout));
    SV_TRY(sv_weights_set_meta(c, weights, "box_convention",
                               "LiDAR frame, metres: x, y, z of the box centre, dx, dy, dz, heading "
                               "(counter-clockwise from x, radians)"));
    snprintf(text, sizeof text, "%.9g,%.9g,%.9g,%.9g,%.9g,%.9g", (double)m->grid.min[0],
             (double)m->grid.min[1], (double)m->grid.min[2], (double)m->grid.max[0], (double)m->grid.max[1],
             (double)m->grid.max[2]);
    return sv_weights_set_meta(c, weights, "point_range", text);
}

sv_model *sv_model_retain(sv_model *model)
{
    atomic_fetch_add(&model->references, 1);
    return model;
}

void sv_model_release(sv_model *m)
{
    if (!m || atomic_fetch_sub(&m->references, 1) > 1) return;
    sv_lion_free(&m->lion);
    sv_arena_free(&m->weights);
    sv_config_free(m->config);
    free(m->config_text);
    free(m->name);
    free(m->operator_name);
    free(m->head);
    free(m);
}

const char *sv_model_name(const sv_model *m)
{
    return m->name;
}
int sv_model_class_count(const sv_model *m)
{
    return m->class_count;
}
const char *const *sv_model_classes(const sv_model *m)
{
    return m->classes;
}
const sv_grid *sv_model_grid(const sv_model *m)
{
    return &m->grid;
}
int sv_model_point_columns(const sv_model *m)
{
    return m->point_columns;
}
const char *sv_model_point_layout(const sv_model *m)
{
    return m->point_layout;
}
int64_t sv_model_parameters(const sv_model *m)
{
    return m->parameters;
}
const char *sv_model_config_text(const sv_model *m)
{
    return m->config_text;
}
const char *sv_model_operator(const sv_model *m)
{
    return m->operator_name;
}
int sv_model_max_boxes(const sv_model *m)
{
    return m->direct ? m->direct->max_boxes(m->head) : m->head_type->max_boxes(m->head);
}
int sv_model_least_columns(const sv_model *m)
{
    return m->direct ? 3 : m->point_columns;
}
size_t sv_model_weight_bytes(const sv_model *m)
{
    return m->weights.used;
}
sv_device_kind sv_model_device(const sv_model *m)
{
    return m->device->kind;
}

const sv_camera_branch *sv_model_camera(const sv_model *m)
{
    return !m->direct && m->camera.active ? &m->camera : NULL;
}

const sv_bev_memory *sv_model_memory(const sv_model *m, sv_map_place *place)
{
    if (m->direct || !m->memory.active) return NULL;
    *place = (sv_map_place){.x_min = (double)m->grid.min[0],
                            .y_min = (double)m->grid.min[1],
                            .x_step = (double)(m->grid.max[0] - m->grid.min[0]) / m->bev_width,
                            .y_step = (double)(m->grid.max[1] - m->grid.min[1]) / m->bev_height};
    return &m->memory;
}

bool sv_model_has_velocity(const sv_model *m)
{
    return !m->direct && m->head_type->has_velocity && m->head_type->has_velocity(m->head);
}

void sv_model_map_size(const sv_model *m, int *height, int *width)
{
    *height = m->maps.height;
    *width = m->maps.width;
}

bool sv_model_anchors(const sv_model *m, const int32_t *index, int count, float *out)
{
    if (!m->head_type || !m->head_type->anchor) return false;
    for (int i = 0; i < count; i++) m->head_type->anchor(m->head, index[i], out + 7 * (size_t)i);
    return true;
}

int sv_model_capacities(const sv_model *m)
{
    return !m->direct && m->lion.flat ? SV_CAPACITIES : SV_CAP_DOW_OUT;
}

const char *sv_capacity_name(sv_capacity capacity)
{
    static const char *const names[SV_CAPACITIES] = {"points",
                                                     "voxels",
                                                     "voxels after dow1",
                                                     "voxels after dow2",
                                                     "voxels after dow3",
                                                     "voxels after dow4",
                                                     "cells after dow_out"};
    return names[capacity];
}

/* ---- forward ------------------------------------------------------------------------------------------ */

static sv_status run_head(sv_ctx *c, const sv_model *m, int batch, sv_tensor bev, sv_tensor coords,
                          sv_candidates *boxes)
{
    sv_chain_output outputs[SV_HEAD_MAPS + 1];
    sv_tensor maps[SV_HEAD_MAPS];
    const int cells = batch * m->maps.height * m->maps.width;
    for (int i = 0; i < m->maps.count; i++) {
        SV_TRY(sv_frame_alloc(c, &maps[i], "head maps", SV_F32, cells, m->maps.map[i].channels, SV_NONE));
        outputs[i] = (sv_chain_output){.slot = m->maps.map[i].slot, .map = maps[i]};
    }
    int count = m->maps.count;
    if (sv_probing(c)) {
        /* The concatenated map is only made when someone looks at it. */
        sv_tensor features;
        SV_TRY(sv_frame_alloc(c, &features, "spatial_features_2d", SV_F32, cells, m->features_channels,
                              SV_NONE));
        outputs[count++] = (sv_chain_output){.slot = m->features_slot, .map = features};
    }
    SV_TRY(sv_stage_begin(c, "backbone_2d"));
    SV_TRY(sv_chain_run(c, m->chain, batch, bev, coords, outputs, count));
    if (count > m->maps.count) SV_TRY(sv_probe(c, "spatial_features_2d", outputs[count - 1].map));
    SV_TRY(sv_stage_end(c));
    SV_TRY(sv_stage_begin(c, "head"));
    for (int i = 0; i < m->maps.count; i++) SV_TRY(sv_probe(c, m->maps.map[i].name, maps[i]));
    SV_TRY(sv_candidates_alloc(c, boxes, "boxes", sv_model_max_boxes(m) * batch, batch));
    SV_TRY(m->head_type->forward(c, m->head, batch, maps, boxes));
    return sv_stage_end(c);
}

static sv_status run_sparse_head(sv_ctx *c, const sv_model *m, const sv_sparse *x, sv_candidates *boxes)
{
    const int batch = x->coords.batch;
    SV_TRY(sv_stage_begin(c, "head"));
    SV_TRY(sv_candidates_alloc(c, boxes, "boxes", sv_model_max_boxes(m) * batch, batch));
    SV_TRY(m->head_type->forward_sparse(c, m->head, x, boxes));
    return sv_stage_end(c);
}

/* What earlier sweeps saw; without a state the sweep stands alone. */
static sv_status run_memory(sv_ctx *c, const sv_model *m, sv_state *state, int batch, sv_tensor bev)
{
    const sv_state_entry none = {.now = SV_NONE}, *entry = &none;
    sv_tensor motion = SV_NONE;
    SV_TRY(sv_stage_begin(c, "temporal"));
    if (state) {
        SV_TRY(sv_state_entry_get(c, state, "temporal", sv_bev_memory_rows(&m->memory, batch),
                                  sv_bev_memory_columns(&m->memory), &entry));
        SV_TRY(sv_state_motion(c, state, &motion));
    }
    SV_TRY(sv_bev_memory_run(c, &m->memory, batch, bev, entry->now, motion, entry->next));
    return sv_stage_end(c);
}

static sv_status run_direct(sv_ctx *c, const sv_model *m, sv_tensor points, sv_network_stage last,
                            sv_network_result *result)
{
    SV_CHECK(c, last == SV_STAGE_HEAD, SV_USAGE,
             "%s has no stages of a network to stop after; ask for the boxes", m->name);
    result->voxel_offsets = points.offsets; /* a sample without points has nothing to detect */
    SV_TRY(
        sv_candidates_alloc(c, &result->boxes, "boxes", sv_model_max_boxes(m) * points.batch, points.batch));
    return m->direct->forward(c, m->head, points, &result->boxes);
}

sv_status sv_network_forward(sv_ctx *c, const sv_model *m, sv_tensor points,
                             const int32_t capacity[SV_CAPACITIES], sv_network_stage last,
                             const sv_bev_step *step, const sv_camera_input *cameras, sv_state *state,
                             sv_network_result *result)
{
    if (m->direct) return run_direct(c, m, points, last, result);
    sv_sparse x;
    SV_TRY(sv_stage_begin(c, "vfe"));
    SV_TRY(sv_vfe_forward(c, &m->vfe, &x, points, &m->grid, capacity[SV_CAP_VOXELS],
                          &c->counters[SV_CAP_VOXELS]));
    SV_TRY(sv_stage_end(c));
    if (cameras && m->camera.active) {
        SV_TRY(sv_stage_begin(c, "camera"));
        SV_TRY(sv_camera_run(c, &m->camera, points.batch, cameras, state, x.x, x.coords, &m->grid));
        SV_TRY(sv_stage_end(c));
    }
    result->voxel_offsets = x.coords.offsets;
    if (last == SV_STAGE_VFE) return SV_OK;

    SV_TRY(sv_stage_begin(c, "backbone_3d"));
    SV_TRY(sv_lion_forward(c, &m->lion, &x, &capacity[SV_CAP_DOW1], &c->counters[SV_CAP_DOW1]));
    SV_TRY(sv_stage_end(c));
    if (last == SV_STAGE_BACKBONE_3D) return SV_OK;

    if (m->lion.flat) {
        SV_CHECK(c, last == SV_STAGE_HEAD && !(step && step->run), SV_UNSUPPORTED,
                 "%s has no bird's-eye-view map to stop at or to work on: its head is sparse", m->name);
        return run_sparse_head(c, m, &x, &result->boxes);
    }
    SV_TRY(sv_stage_begin(c, "bev"));
    const int batch = points.batch;
    sv_tensor bev;
    SV_TRY(sv_frame_alloc(c, &bev, "bird's-eye-view map", SV_F32, batch * m->bev_height * m->bev_width,
                          m->chain_def.in_channels, SV_NONE));
    SV_TRY(sv_bev_scatter(c, bev, x.x, x.coords, x.shape));
    SV_TRY(sv_probe(c, "spatial_features", bev));
    if (step && step->run) SV_TRY(step->run(step->user, c, state, batch, bev));
    if (m->memory.active) SV_TRY(run_memory(c, m, state, batch, bev));
    SV_TRY(sv_stage_end(c));
    if (last == SV_STAGE_BEV) return SV_OK;

    SV_CHECK(c, m->chain, SV_NO_KERNEL, "%s has no kernel for '%s'", c->device->name, "chain_prepare");
    /* What was added to the map lies in cells without voxels, too; where nothing was, they may be left out as ever. */
    const bool whole = m->memory.active && m->memory.adds;
    return run_head(c, m, batch, bev, whole ? SV_NONE : x.coords, &result->boxes);
}
