/* SPDX-License-Identifier: Apache-2.0 */
#include "support_model.h"

#include <stdio.h>
#include <string.h>

static const char yaml[] =
    "CLASS_NAMES: [Car, Pedestrian, Cyclist]\n"
    "DATA_CONFIG:\n"
    "  POINT_CLOUD_RANGE: [0, -6.4, -3, 12.8, 6.4, 1]\n"
    "  POINT_FEATURE_ENCODING:\n"
    "    encoding_type: absolute_coordinates_encoding\n"
    "    used_feature_list: [x, y, z, intensity]\n"
    "    src_feature_list: [x, y, z, intensity]\n"
    "  DATA_PROCESSOR:\n"
    "  - {NAME: mask_points_and_boxes_outside_range, REMOVE_OUTSIDE_BOXES: true}\n"
    "  - {NAME: transform_points_to_voxels, VOXEL_SIZE: [0.2, 0.2, 0.125]}\n"
    "MODEL:\n"
    "  NAME: SECONDNet\n"
    "  VFE: {NAME: DynamicVoxelVFE, NUM_FILTERS: [16, 16]}\n"
    "  BACKBONE_3D:\n"
    "    NAME: LION3DBackboneOneStride\n"
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
    "    OPERATOR: {NAME: Mamba, CFG: {d_state: 16, d_conv: 4, expand: 2, drop_path: 0.2}}\n"
    "  MAP_TO_BEV: {NAME: HeightCompression, NUM_BEV_FEATURES: 32}\n"
    "  BACKBONE_2D:\n"
    "    NAME: BaseBEVBackbone\n"
    "    LAYER_NUMS: [1, 1]\n"
    "    LAYER_STRIDES: [1, 2]\n"
    "    NUM_FILTERS: [16, 32]\n"
    "    UPSAMPLE_STRIDES: [1, 2]\n"
    "    NUM_UPSAMPLE_FILTERS: [16, 16]\n"
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

const char *small_config(void)
{
    const char *path = test_path("small.yaml");
    write_file(path, yaml, sizeof yaml - 1);
    return path;
}

const char *small_weights(uint64_t seed)
{
    char name[40];
    snprintf(name, sizeof name, "small-%llu.h5", (unsigned long long)seed);
    const char *path = test_path(name);
    sv_ctx *c = test_context(1);
    sv_weights *w = sv_weights_new();
    const sv_model_def def = {.config = small_config()};
    assert_ok(c, sv_model_init(c, &def, seed, w));
    assert_ok(c, sv_weights_write(c, w, path));
    sv_weights_free(w);
    sv_ctx_close(c);
    return path;
}

sv_model *small_model(sv_ctx *c, uint64_t seed)
{
    sv_model *model = NULL;
    const sv_model_def def = {.weights = small_weights(seed)};
    assert_ok(c, sv_model_open(c, &def, &model));
    return model;
}

sv_frame *small_cloud(test_rng *rng, int points)
{
    sv_frame *frame = sv_frame_new(&sv_device_cpu, points, 4);
    ck_assert_ptr_nonnull(frame);
    const double block_x = rng_uniform(rng, 2, 10), block_y = rng_uniform(rng, -4, 4);
    for (int i = 0; i < points; i++) {
        float *p = frame->points + 4 * (size_t)i;
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
        p[3] = (float)rng_uniform(rng, 0, 1);
    }
    frame->count = points;
    snprintf(frame->id, sizeof frame->id, "small");
    return frame;
}
