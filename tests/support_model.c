/* SPDX-License-Identifier: Apache-2.0 */
#include "support_model.h"

#include <stdio.h>
#include <string.h>

/* What all kinds share. */
static const char backbone[] =
    "MODEL:\n"
    "  VFE: {NAME: DynamicVoxelVFE, NUM_FILTERS: [16, 16]}\n"
    "  BACKBONE_3D:\n"
    "    FEATURE_DIM: 16\n"
    "    LAYER_DIM: [16, 16, 16, 16]\n"
    "    NUM_LAYERS: 4\n"
    "    DEPTHS: [2, 2, 2, 2]\n"
    "    LAYER_DOWN_SCALES:\n"
    "    - [[2, 2, 2], [2, 2, 2]]\n"
    "    - [[2, 2, 2], [2, 2, 2]]\n"
    "    - [[2, 2, 2], [2, 2, 2]]\n"
    "    - [[2, 2, 2], [2, 2, 2]]\n"
    "    WINDOW_SHAPE: [[13, 13, 32], [13, 13, 16], [13, 13, 8], [13, 13, 4]]\n"
    "    GROUP_SIZE: [256, 128, 64, 32]\n"
    "    DIRECTION: [x, y]\n"
    "    DIFF_SCALE: 0.2\n"
    "    DIFFUSION: true\n"
    "    SHIFT: true\n"
    "    OPERATOR: {NAME: Mamba, CFG: {d_state: 16, d_conv: 4, expand: 2, drop_path: 0.2}}\n";

static const char dense[] = "    NAME: LION3DBackboneOneStride\n"
                            "  MAP_TO_BEV: {NAME: HeightCompression, NUM_BEV_FEATURES: 32}\n";
static const char sparse[] = "    NAME: LION3DBackboneOneStride_Sparse\n";

static const char plain_levels[] = "  BACKBONE_2D:\n"
                                   "    NAME: BaseBEVBackbone\n"
                                   "    LAYER_NUMS: [1, 1]\n"
                                   "    LAYER_STRIDES: [1, 2]\n"
                                   "    NUM_FILTERS: [16, 32]\n"
                                   "    UPSAMPLE_STRIDES: [1, 2]\n"
                                   "    NUM_UPSAMPLE_FILTERS: [16, 16]\n";

static const char anchor_head[] =
    "  NAME: SECONDNet\n"
    "  DENSE_HEAD:\n"
    "    NAME: AnchorHeadSingle\n"
    "    CLASS_AGNOSTIC: false\n"
    "    USE_DIRECTION_CLASSIFIER: true\n"
    "    DIR_OFFSET: 0.78539\n"
    "    DIR_LIMIT_OFFSET: 0.0\n"
    "    NUM_DIR_BINS: 2\n"
    "    ANCHOR_GENERATOR_CONFIG:\n"
    "    - {class_name: Car, anchor_sizes: [[3.9, 1.6, 1.56]], anchor_rotations: [0, 1.57], "
    "anchor_bottom_heights: [-1.78]}\n"
    "    - {class_name: Pedestrian, anchor_sizes: [[0.8, 0.6, 1.73]], anchor_rotations: [0, 1.57], "
    "anchor_bottom_heights: [-0.6]}\n"
    "    - {class_name: Cyclist, anchor_sizes: [[1.76, 0.6, 1.73]], anchor_rotations: [0, 1.57], "
    "anchor_bottom_heights: [-0.6]}\n"
    "  POST_PROCESSING:\n"
    "    SCORE_THRESH: 0.1\n"
    "    NMS_CONFIG: {MULTI_CLASSES_NMS: false, NMS_TYPE: nms_gpu, NMS_THRESH: 0.1, NMS_PRE_MAXSIZE: 512, "
    "NMS_POST_MAXSIZE: 100}\n";

static const char center_head[] = "  NAME: CenterPoint\n"
                                  "  BACKBONE_2D:\n"
                                  "    NAME: BaseBEVResBackbone\n"
                                  "    LAYER_NUMS: [1, 1, 2]\n"
                                  "    LAYER_STRIDES: [1, 2, 2]\n"
                                  "    NUM_FILTERS: [16, 16, 32]\n"
                                  "    UPSAMPLE_STRIDES: [1, 2, 4]\n"
                                  "    NUM_UPSAMPLE_FILTERS: [16, 16, 16]\n"
                                  "  DENSE_HEAD:\n"
                                  "    NAME: CenterHead\n"
                                  "    CLASS_AGNOSTIC: false\n"
                                  "    CLASS_NAMES_EACH_HEAD: [[Vehicle, Pedestrian, Cyclist]]\n"
                                  "    SHARED_CONV_CHANNEL: 16\n"
                                  "    USE_BIAS_BEFORE_NORM: false\n"
                                  "    NUM_HM_CONV: 2\n"
                                  "    BN_EPS: 0.001\n"
                                  "    SEPARATE_HEAD_CFG:\n"
                                  "      HEAD_ORDER: [center, center_z, dim, rot]\n"
                                  "      HEAD_DICT:\n"
                                  "        center: {out_channels: 2, num_conv: 2}\n"
                                  "        center_z: {out_channels: 1, num_conv: 2}\n"
                                  "        dim: {out_channels: 3, num_conv: 2}\n"
                                  "        rot: {out_channels: 2, num_conv: 2}\n"
                                  "        iou: {out_channels: 1, num_conv: 2}\n"
                                  "    TARGET_ASSIGNER_CONFIG: {FEATURE_MAP_STRIDE: 1}\n"
                                  "    POST_PROCESSING:\n"
                                  "      SCORE_THRESH: 0.1\n"
                                  "      POST_CENTER_LIMIT_RANGE: [-1, -8, -10.0, 14, 8, 10.0]\n"
                                  "      MAX_OBJ_PER_SAMPLE: 100\n"
                                  "      USE_IOU_TO_RECTIFY_SCORE: true\n"
                                  "      IOU_RECTIFIER: [0.68, 0.71, 0.65]\n"
                                  "      NMS_CONFIG:\n"
                                  "        NMS_TYPE: multi_class_nms\n"
                                  "        NMS_THRESH: [0.75, 0.6, 0.55]\n"
                                  "        NMS_PRE_MAXSIZE: [4096, 4096, 4096]\n"
                                  "        NMS_POST_MAXSIZE: [500, 500, 500]\n";

/* As ONCE differs: biases, a longer branch, the norm's usual eps, no overlap branch, one suppression for all
 * classes. */
static const char once_head[] =
    "  NAME: CenterPoint\n"
    "  DENSE_HEAD:\n"
    "    NAME: CenterHead\n"
    "    CLASS_NAMES_EACH_HEAD: [[Car, Bus, Truck, Pedestrian, Cyclist]]\n"
    "    SHARED_CONV_CHANNEL: 16\n"
    "    USE_BIAS_BEFORE_NORM: true\n"
    "    NUM_HM_CONV: 1\n"
    "    SEPARATE_HEAD_CFG:\n"
    "      HEAD_ORDER: [center, center_z, dim, rot]\n"
    "      HEAD_DICT:\n"
    "        center: {out_channels: 2, num_conv: 3}\n"
    "        center_z: {out_channels: 1, num_conv: 2}\n"
    "        dim: {out_channels: 3, num_conv: 2}\n"
    "        rot: {out_channels: 2, num_conv: 2}\n"
    "    TARGET_ASSIGNER_CONFIG: {FEATURE_MAP_STRIDE: 1}\n"
    "    POST_PROCESSING:\n"
    "      SCORE_THRESH: 0.1\n"
    "      POST_CENTER_LIMIT_RANGE: [-1, -8, -10.0, 14, 8, 10.0]\n"
    "      MAX_OBJ_PER_SAMPLE: 200\n"
    "      NMS_CONFIG: {MULTI_CLASSES_NMS: false, NMS_TYPE: nms_gpu, NMS_THRESH: 0.3, NMS_PRE_MAXSIZE: 150, "
    "NMS_POST_MAXSIZE: 100}\n";

static const char transfusion_head[] =
    "  NAME: TransFusion\n"
    "  BACKBONE_2D:\n"
    "    NAME: BaseBEVResBackbone\n"
    "    LAYER_NUMS: [1, 2, 1]\n"
    "    LAYER_STRIDES: [1, 2, 2]\n"
    "    NUM_FILTERS: [16, 16, 32]\n"
    "    UPSAMPLE_STRIDES: [0.5, 1, 2]\n"
    "    NUM_UPSAMPLE_FILTERS: [16, 16, 16]\n"
    "  DENSE_HEAD:\n"
    "    NAME: TransFusionHead\n"
    "    CLASS_AGNOSTIC: false\n"
    "    NUM_PROPOSALS: 100\n"
    "    HIDDEN_CHANNEL: 32\n"
    "    NUM_CLASSES: 10\n"
    "    NUM_HEADS: 4\n"
    "    NMS_KERNEL_SIZE: 3\n"
    "    FFN_CHANNEL: 48\n"
    "    ACTIVATION: relu\n"
    "    NUM_HM_CONV: 2\n"
    "    SEPARATE_HEAD_CFG:\n"
    "      HEAD_ORDER: [center, height, dim, rot, vel]\n"
    "      HEAD_DICT:\n"
    "        center: {out_channels: 2, num_conv: 2}\n"
    "        height: {out_channels: 1, num_conv: 2}\n"
    "        dim: {out_channels: 3, num_conv: 2}\n"
    "        rot: {out_channels: 2, num_conv: 2}\n"
    "        vel: {out_channels: 2, num_conv: 2}\n"
    "        iou: {out_channels: 1, num_conv: 2}\n"
    "    TARGET_ASSIGNER_CONFIG: {FEATURE_MAP_STRIDE: 2, DATASET: nuScenes}\n"
    "    POST_PROCESSING:\n"
    "      SCORE_THRESH: 0.0\n"
    "      POST_CENTER_RANGE: [-1, -8, -10.0, 14, 8, 10.0]\n"
    "      USE_IOU_TO_RECTIFY_SCORE: true\n"
    "      IOU_RECTIFIER: [0.5]\n"
    "      NMS_CONFIG: {NMS_TYPE: nms_gpu, NMS_THRESH: 0.2, NMS_PRE_MAXSIZE: 1000, NMS_POST_MAXSIZE: 100, "
    "SCORE_THRES: 0.0}\n"
    "  POST_PROCESSING: {SCORE_THRESH: 0.1, OUTPUT_RAW_SCORE: false}\n";

static const char sparse_head[] =
    "  NAME: CenterPoint\n"
    "  DENSE_HEAD:\n"
    "    NAME: SparseCenterHead\n"
    "    CLASS_AGNOSTIC: false\n"
    "    CLASS_NAMES_EACH_HEAD: [[Regular_vehicle], [Pedestrian, Bicyclist], [Bollard, Sign, Stop_sign], "
    "[Dog]]\n"
    "    INPUT_FEATURES: 16\n"
    "    HEAD_CONV_TYPE: subm\n"
    "    USE_BIAS_BEFORE_NORM: false\n"
    "    NUM_HM_CONV: 2\n"
    "    BN_EPS: 0.001\n"
    "    SEPARATE_HEAD_CFG:\n"
    "      HEAD_ORDER: [center, center_z, dim, rot]\n"
    "      HEAD_DICT:\n"
    "        center: {out_channels: 2, num_conv: 2}\n"
    "        center_z: {out_channels: 1, num_conv: 2}\n"
    "        dim: {out_channels: 3, num_conv: 2}\n"
    "        rot: {out_channels: 2, num_conv: 2}\n"
    "    TARGET_ASSIGNER_CONFIG: {FEATURE_MAP_STRIDE: 1}\n"
    "    POST_PROCESSING:\n"
    "      SCORE_THRESH: 0.1\n"
    "      POST_CENTER_LIMIT_RANGE: [-1, -8, -10.0, 14, 8, 10.0]\n"
    "      MAX_OBJ_PER_SAMPLE: 60\n"
    "      NMS_CONFIG: {NMS_TYPE: nms_gpu, NMS_THRESH: 0.2, NMS_PRE_MAXSIZE: 50, NMS_POST_MAXSIZE: 25}\n";

static const struct {
    const char *name, *classes, *features, *map, *levels, *head; /* levels empty: the head's text has them */
} kinds[SMALL_KINDS] = {
    [SMALL_KITTI] = {"kitti", "Car, Pedestrian, Cyclist", "", dense, plain_levels, anchor_head},
    [SMALL_WAYMO] = {"waymo", "Vehicle, Pedestrian, Cyclist", ", elongation", dense, "", center_head},
    [SMALL_ONCE] = {"once", "Car, Bus, Truck, Pedestrian, Cyclist", "", dense, plain_levels, once_head},
    [SMALL_ARGOVERSE2] = {"argoverse2",
                          "Regular_vehicle, Pedestrian, Bicyclist, Bollard, Sign, Stop_sign, Dog", "", sparse,
                          "", sparse_head},
    [SMALL_NUSCENES] = {"nuscenes",
                        "car, truck, construction_vehicle, bus, trailer, barrier, motorcycle, bicycle, "
                        "pedestrian, traffic_cone",
                        ", timestamp", dense, "", transfusion_head},
};

const char *small_config_of(small_kind kind, const char *more)
{
    static char text[16384];
    char name[40];
    const int length =
        snprintf(text, sizeof text,
                 "CLASS_NAMES: [%s]\n"
                 "DATA_CONFIG:\n"
                 "  POINT_CLOUD_RANGE: [0, -6.4, -3, 12.8, 6.4, 1]\n"
                 "  POINT_FEATURE_ENCODING:\n"
                 "    encoding_type: absolute_coordinates_encoding\n"
                 "    used_feature_list: [x, y, z, intensity%s]\n"
                 "    src_feature_list: [x, y, z, intensity%s]\n"
                 "  DATA_PROCESSOR:\n"
                 "  - {NAME: mask_points_and_boxes_outside_range, REMOVE_OUTSIDE_BOXES: true}\n"
                 "  - {NAME: transform_points_to_voxels, VOXEL_SIZE: [0.2, 0.2, 0.125]}\n"
                 "%s%s%s%s",
                 kinds[kind].classes, kinds[kind].features, kinds[kind].features, backbone, kinds[kind].map,
                 kinds[kind].levels, kinds[kind].head);
    ck_assert_int_lt(length, (int)sizeof text);
    snprintf(name, sizeof name, "small-%s.yaml", kinds[kind].name);
    const char *path = test_path(name);
    write_file(path, text, (size_t)length);
    if (!more) return path;
    /* a file of its own on top, so that the keys merge */
    char base[80];
    snprintf(base, sizeof base, "_BASE_CONFIG_: small-%s.yaml\n", kinds[kind].name);
    snprintf(text, sizeof text, "%s%s", base, more);
    snprintf(name, sizeof name, "small-%s-more.yaml", kinds[kind].name);
    path = test_path(name);
    write_file(path, text, strlen(text));
    return path;
}

static const char *weights_of(small_kind kind, uint64_t seed)
{
    char name[60];
    snprintf(name, sizeof name, "small-%s-%llu.h5", kinds[kind].name, (unsigned long long)seed);
    const char *path = test_path(name);
    sv_ctx *c = test_context(1);
    sv_weights *w = sv_weights_new();
    const sv_model_def def = {.config = small_config_of(kind, NULL)};
    assert_ok(c, sv_model_init(c, &def, seed, w));
    assert_ok(c, sv_weights_write(c, w, path));
    sv_weights_free(w);
    sv_ctx_close(c);
    return path;
}

sv_model *small_model_of(sv_ctx *c, small_kind kind, uint64_t seed)
{
    sv_model *model = NULL;
    const sv_model_def def = {.weights = weights_of(kind, seed)};
    assert_ok(c, sv_model_open(c, &def, &model));
    return model;
}

const char *small_config(void)
{
    return small_config_of(SMALL_KITTI, NULL);
}

const char *small_weights(uint64_t seed)
{
    return weights_of(SMALL_KITTI, seed);
}

sv_model *small_model(sv_ctx *c, uint64_t seed)
{
    return small_model_of(c, SMALL_KITTI, seed);
}

sv_frame *small_cloud(test_rng *rng, int points)
{
    return small_cloud_of(rng, points, 4);
}

sv_frame *small_cloud_of(test_rng *rng, int points, int columns)
{
    sv_frame *frame = sv_frame_new(&sv_device_cpu, points, columns);
    ck_assert_ptr_nonnull(frame);
    const double block_x = rng_uniform(rng, 2, 10), block_y = rng_uniform(rng, -4, 4);
    for (int i = 0; i < points; i++) {
        float *p = frame->points + (size_t)columns * (size_t)i;
        const int kind = (int)(rng_u64(rng) % 4);
        p[0] = (float)rng_uniform(rng, -1, 14);
        p[1] = (float)rng_uniform(rng, -7, 7);
        p[2] = (float)(-1.7 + 0.02 * rng_normal(rng));
        if (kind == 1) { /* a block */
            p[0] = (float)(block_x + rng_uniform(rng, -1, 1));
            p[1] = (float)(block_y + rng_uniform(rng, -0.5, 0.5));
            p[2] = (float)rng_uniform(rng, -1.7, 0);
        } else if (kind == 2) { /* a wall */
            p[1] = (float)(5 + 0.03 * rng_normal(rng));
            p[2] = (float)rng_uniform(rng, -1.7, 1.5);
        }
        for (int k = 3; k < columns; k++) p[k] = (float)rng_uniform(rng, 0, 1);
    }
    frame->count = points;
    snprintf(frame->id, sizeof frame->id, "small");
    return frame;
}
