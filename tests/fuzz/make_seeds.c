/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes small valid inputs for every fuzz target into FOLDER/TARGET/. Usage: make_seeds FOLDER
 */
#include "datasets/cache_part.h"
#include "datasets/waymo_objects.h"
#include "perception/image.h"
#include "perception/model/weights.h"
#include "perception/points.h"
#include "support_feather.h"
#include "support_pth.h"
#include "support_waymo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *root;

static const char *seed_path(const char *target, const char *name)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", root, target);
    mkdir(path, 0755); /* may be there */
    snprintf(path, sizeof path, "%s/%s/%s", root, target, name);
    return path;
}

static void save(const char *target, const char *name, const void *data, size_t size)
{
    FILE *file = fopen(seed_path(target, name), "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) {
        fprintf(stderr, "make_seeds: cannot write %s\n", seed_path(target, name));
        exit(1);
    }
}

static void save_and_free(const char *target, const char *name, bytes data)
{
    save(target, name, data.data, data.size);
    free(data.data);
}

static void make_checkpoints(void)
{
    save_and_free("fuzz_pth", "openpcdet",
                  pth_small(&(pth_options){.optimizer = true, .byteorder = "little"}));
    save_and_free("fuzz_pth", "plain", pth_small(&(pth_options){.plain = true, .prefix = "x"}));
    save_and_free("fuzz_pth", "deflated", pth_small(&(pth_options){.deflate = true}));
    save_and_free("fuzz_pth", "old", pth_small(&(pth_options){.legacy = true, .optimizer = true}));
    save_and_free("fuzz_pth", "old_plain", pth_small(&(pth_options){.legacy = true, .plain = true}));
    save_and_free("fuzz_pth", "protocol4", pth_small(&(pth_options){.protocol = 4, .optimizer = true}));
    /* The pickle alone: 'P', protocol, a state with a transposed view and a parameter in the same storage. */
    const pth_tensor view = {.name = "v",
                             .type = "FloatStorage",
                             .key = "0",
                             .numbers = 6,
                             .ndim = 2,
                             .size = {2, 3},
                             .stride = {1, 2}};
    pth_tensor half = {.name = "h",
                       .type = "HalfStorage",
                       .key = "0",
                       .numbers = 12,
                       .offset = 2,
                       .ndim = 1,
                       .size = {4},
                       .stride = {2}};
    half.parameter = true;
    bytes p = {0};
    put_text(&p, "P\x80\x02}(");
    pickle_text(&p, "epoch");
    pickle_float(&p, 0.5);
    pickle_text(&p, "model_state");
    put_text(&p, "}q\x01(");
    pickle_text(&p, view.name);
    pickle_tensor(&p, &view);
    pickle_text(&p, half.name);
    pickle_tensor(&p, &half);
    put_text(&p, "uu.");
    save_and_free("fuzz_pth", "pickle", p);
}

static void make_arrays(void)
{
    static const char *const headers[] = {
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2), }\n",
        "{'descr': '<f2', 'fortran_order': False, 'shape': (12,), }\n",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (), }\n",
    };
    static const char numbers[24] = "0123456789abcdefghijklm";
    zip_writer zip = {0};
    for (int i = 0; i < 4; i++) {
        char name[16];
        bytes b = {0};
        put_text(&b, "\x93NUMPY");
        put_le(&b, 1, 2);
        put_le(&b, strlen(headers[i]), 2);
        put_text(&b, headers[i]);
        put(&b, numbers, i == 3 ? 8 : sizeof numbers);
        snprintf(name, sizeof name, "layer/%d.npy", i);
        zip_put(&zip, &(zip_member){.name = name, .data = b.data, .size = b.size, .deflate = i == 1});
        snprintf(name, sizeof name, "array%d", i);
        save_and_free("fuzz_npz", name, b);
    }
    save_and_free("fuzz_npz", "archive", zip_end(&zip, true));
}

static void make_models(void)
{
    sv_ctx_def def = sv_ctx_def_default();
    def.threads = 1;
    sv_ctx *c = NULL;
    sv_weights *w = sv_weights_new();
    float numbers[12] = {1, 2, 3};
    int64_t counter = 7;
    bool good = sv_ctx_open(&def, &c) == SV_OK && w;
    good = good && sv_weights_add(c, w, "a.weight", sv_view(numbers, SV_F32, 3, 4)) == SV_OK;
    good = good && sv_weights_add(c, w, "a.bias", sv_view(numbers, SV_F32, 1, 3)) == SV_OK;
    good = good && sv_weights_add(c, w, "steps", sv_view(&counter, SV_I64, 1, 1)) == SV_OK;
    good = good && sv_weights_set_meta(c, w, "config", "MODEL:\n  NAME: \"x\"\n") == SV_OK;
    good = good && sv_weights_write(c, w, seed_path("fuzz_safetensors", "small.safetensors")) == SV_OK;
    good = good && sv_weights_write(c, w, seed_path("fuzz_hdf5_model", "small.h5")) == SV_OK;
    for (int i = 0; good && i < 30; i++) { /* enough for several blocks */
        char name[32];
        snprintf(name, sizeof name, "layer.%d.weight", i);
        good = sv_weights_add(c, w, name, sv_view(numbers, SV_F32, 1, 2)) == SV_OK &&
               sv_weights_set_meta(c, w, name, "some text") == SV_OK;
    }
    good = good && sv_weights_write(c, w, seed_path("fuzz_hdf5_model", "many.h5")) == SV_OK;
    if (!good) {
        fprintf(stderr, "make_seeds: %s\n", c ? sv_error_message(c) : "out of memory");
        exit(1);
    }
    sv_weights_free(w);
    sv_ctx_close(c);
    static const char header[] = "{\"a\":{\"dtype\":\"F16\",\"shape\":[2,1],\"data_offsets\":[0,4]},"
                                 "\"__metadata__\":{\"format\":\"pt\"}}\0"
                                 "1234";
    save("fuzz_safetensors", "header", header, sizeof header - 1);
}

static void make_flax(void)
{
    /* a tensor, one in chunks whose lists are maps, and a state of the optimizer */
    static const char checkpoint[] = "\x84\xa4step\x05\xa6params\x82\xa1"
                                     "a\x81\xa6kernel\xc7\x16\x01\x93\x92\x01\x02\xa7"
                                     "float32\xc4\x08"
                                     "12345678\xa1"
                                     "b\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x81\xa1\x30\x01\xa6"
                                     "chunks\x91\xc7\x11\x01\x93\x91\x01\xa7"
                                     "float32\xc4\x04"
                                     "1234\xa9opt_state\x92\xc0\xcb"
                                     "12345678\xabmodel_state\x80";
    save("fuzz_flax", "checkpoint", checkpoint, sizeof checkpoint - 1);
    static const char half[] = "\xff\x81\xa1"
                               "a\xc7\x0e\x01\x93\x90\xa7"
                               "float16\xc4\x02"
                               "12";
    save("fuzz_flax", "half", half, sizeof half - 1);
}

static void make_others(void)
{
    static const char yaml[] =
        "_BASE_CONFIG_: other.yaml\nCLASS_NAMES: ['Car', Pedestrian]\nMODEL:\n    NAME: X # note\n"
        "    LIST: [1, 2.5e-3, [a, {B: ~}]]\n    TEXT: |\n        several\n        lines\n";
    save("fuzz_yaml", "config", yaml, sizeof yaml - 1);
    static const float points[10] = {1, 2, 3, 0.5f, -4, 5, -0.5f, 0.25f, 1e9f, -1};
    uint8_t file[1 + sizeof points];
    for (uint8_t layout = 0; layout < 4; layout++) {
        char name[16];
        snprintf(name, sizeof name, "layout%d", layout);
        file[0] = layout;
        memcpy(file + 1, points, sizeof points);
        save("fuzz_points", name, file, sizeof file);
    }
}

/* The first byte says which kind of text it is. */
static void make_kitti(void)
{
    static const char *const texts[][2] = {
        {"calibration", "0P2: 7.2e+02 0 6.1e+02 4.5e+01 0 7.2e+02 1.7e+02 2.2e-01 0 0 1 2.7e-03\n"
                        "R0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\n"},
        {"tracking", "0P2: 700 0 600 45 0 700 180 0 0 0 1 0\r\nR_rect 1 0 0 0 1 0 0 0 1\r\n"
                     "Tr_velo_cam 0 -1 0 0 0 0 -1 0 1 0 0 0\r\nTr_imu_velo 1 0 0 5 0 1 0 0 0 0 1 0"},
        {"labels", "1Car 0.88 3 -0.69 0.00 192.37 402.31 374.00 1.60 1.57 3.23 -2.70 1.74 3.68 -1.29\n"
                   "DontCare -1 -1 -10 800.38 163.67 825.45 184.07 -1 -1 -1 -1000 -1000 -1000 -10\n"},
        {"results", "1Cyclist -1 -1 1.5 10 20 30 40 1.7 0.6 1.8 -2 1.5 20 -1.5 0.75\n"},
        {"list", "2000001\n000134\n"},
        {"raw", "3calib_time: 09-Jan-2012 13:57:47\nR_rect_00: 1 0 0 0 1 0 0 0 1\n"
                "P_rect_02: 700 0 600 45 0 700 180 0 0 0 1 0\n|R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n|"
                "R: 1 0 0 0 1 0 0 0 1\nT: 0 0 0\n"},
        {"times", "42011-09-26 13:02:25.594360375\n2012-02-29 23:59:60\n"},
        {"oxts", "549.015 8.43 112.8 0.02 0.01 -1.2 3 4 5\n"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        save("fuzz_kitti_text", texts[i][0], texts[i][1], strlen(texts[i][1]));
}

static void make_picture(void)
{
    sv_ctx_def def = sv_ctx_def_default();
    def.threads = 1;
    sv_ctx *c = NULL;
    sv_image image = {0};
    bool good = sv_ctx_open(&def, &c) == SV_OK && sv_image_new(c, &image, 7, 5, 0x336699) == SV_OK;
    good = good && sv_image_write_png(c, &image, seed_path("fuzz_png", "small.png")) == SV_OK;
    if (!good) {
        fprintf(stderr, "make_seeds: %s\n", c ? sv_error_message(c) : "out of memory");
        exit(1);
    }
    sv_image_free(&image);
    sv_ctx_close(c);
}

/* Two points in every kind of file that we write, and headers with what we do not. */
static void make_named_points(void)
{
    sv_ctx_def def = sv_ctx_def_default();
    sv_ctx *c = NULL;
    float values[20];
    for (int i = 0; i < 20; i++) values[i] = i < 12 ? (float)i / 4 : -7;
    const sv_points points = {.data = values, .count = 4, .columns = 5, .layout = "xyzir"};
    static const struct {
        const char *name;
        sv_points_encoding encoding;
    } files[] = {{"binary.pcd", SV_POINTS_BINARY},
                 {"ascii.pcd", SV_POINTS_ASCII},
                 {"compressed.pcd", SV_POINTS_COMPRESSED},
                 {"binary.ply", SV_POINTS_BINARY},
                 {"ascii.ply", SV_POINTS_ASCII}};
    bool good = sv_ctx_open(&def, &c) == SV_OK;
    for (size_t i = 0; good && i < sizeof files / sizeof *files; i++) {
        good =
            sv_points_write(c, seed_path("fuzz_pcd_ply", files[i].name), &points, files[i].encoding) == SV_OK;
        FILE *file = good ? fopen(seed_path("fuzz_pcd_ply", files[i].name), "rb") : NULL;
        char bytes[4096];
        bytes[0] = (char)i;
        const size_t size = file ? fread(bytes + 1, 1, sizeof bytes - 1, file) : 0;
        if (file) fclose(file);
        good = good && size > 0;
        if (good) save("fuzz_pcd_ply", files[i].name, bytes, size + 1);
    }
    if (!good) {
        fprintf(stderr, "make_seeds: %s\n", c ? sv_error_message(c) : "out of memory");
        exit(1);
    }
    sv_ctx_close(c);
    static const char ply[] =
        "\0ply\nformat binary_big_endian 1.0\nelement a 1\nproperty list uchar short b\n"
        "element vertex 1\nproperty double x\nproperty uchar y\nproperty list int int c\n"
        "property short z\nend_header\n\2abcd\100\0\0\0\0\0\0\0\1\0\0\0\1\0\0\0\1\0\2";
    save("fuzz_pcd_ply", "big.ply", ply, sizeof ply - 1);
    static const char pcd[] =
        "\0VERSION .7\nFIELDS _ x y z\nSIZE 2 8 1 4\nTYPE U F I U\nCOUNT 2 1 1 1\nWIDTH 1\n"
        "HEIGHT 1\nDATA binary\nabcd\0\0\0\0\0\0\0\100\1\2\0\0\0";
    save("fuzz_pcd_ply", "mixed.pcd", pcd, sizeof pcd - 1);
}

/* The first byte chooses what the rest is. */
static void make_waymo(void)
{
    static const small_box boxes[] = {{10, 2, 1, 4.5, 2, 1.6, 0.3, SV_WAYMO_VEHICLE, 120, 0, true},
                                      {-8, 6, 0.9, 0.8, 0.7, 1.8, -2, SV_WAYMO_PEDESTRIAN, 3, 2, false}};
    sv_wire_out message = {0}, file = {0}, results = {0}, all = {0};
    small_frame f = {.context = "seed", .timestamp = 1, .boxes = boxes, .box_count = 2};
    small_pose(0.4, -25000, 42000, f.pose);
    small_message(&f, &message);
    small_record(&file, message.data, message.size);
    for (int i = 0; i < 6; i++) {
        const sv_waymo_object object = {.x = i / 2 * 20,
                                        .length = 4,
                                        .width = 2,
                                        .height = 1.5,
                                        .heading = i,
                                        .score = 0.2f * (float)i,
                                        .type = 1 + i % 2,
                                        .points = 4 * i};
        sv_waymo_put_object(&results, &object, "seed", i % 2);
    }
    sv_wire_put_int(&all, 1, 2);
    sv_wire_put_bytes(&all, 11, results.data, results.size);
    const struct {
        const char *name;
        const sv_wire_out *bytes;
        char first;
    } seeds[] = {
        {"records", &file, 0}, {"frame", &message, 1}, {"results", &results, 2}, {"submission", &all, 2}};
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
        char *bytes = malloc(seeds[i].bytes->size + 1);
        if (!bytes) abort();
        bytes[0] = seeds[i].first;
        memcpy(bytes + 1, seeds[i].bytes->data, seeds[i].bytes->size);
        save("fuzz_waymo", seeds[i].name, bytes, seeds[i].bytes->size + 1);
        free(bytes);
    }
    sv_wire_free(&message);
    sv_wire_free(&file);
    sv_wire_free(&results);
    sv_wire_free(&all);
}

/* A list of boxes, a submission with it, and a table; the first byte chooses (fuzz_nuscenes.c). */
static void make_nuscenes(void)
{
#define TOKEN "0123456789abcdef0123456789abcdef"
#define BOXES                                                                                                \
    "[{\"sample_token\": \"" TOKEN                                                                           \
    "\", \"translation\": [1.5, 2e1, -3], \"size\": [1, 2, 3], \"rotation\": "                               \
    "[1, 0, 0, 0], \"velocity\": [NaN, 0.1], \"detection_name\": \"car\", \"detection_score\": 0.5, "        \
    "\"attribute_name\": \"\"}]"
    static const char
        boxes[] = "\0" BOXES,
        submission[] = "\1{\"meta\": {\"use_lidar\": true}, \"results\": {\"" TOKEN "\": " BOXES "}}",
        poses[] = "\11[{\"token\": \"00000000000000000000000000000001\", \"rotation\": [0.6, 0, 0, 0.8], "
                  "\"translation\": [600.25, 1e3, 0.0], \"more\": {\"a\": [null, \"\\u00e9\"]}}]";
    save("fuzz_nuscenes", "boxes", boxes, sizeof boxes - 1);
    save("fuzz_nuscenes", "submission", submission, sizeof submission - 1);
    save("fuzz_nuscenes", "poses", poses, sizeof poses - 1);
#undef BOXES
#undef TOKEN
}

/* One of each kind of fuzz_custom.c. */
static void make_custom(void)
{
    static const char *const seeds[][2] = {
        {"description", "\a# set\nlayout xyzi\nclass Car 0.7\nclass Walker\n"},
        {"poses", "\1b2 north 1700000000.25 1 0 0 5 0 1 0 6 0 0 1 7\n"},
        {"names", "\2a1\n# b\nc3\n"},
        {"labels", "\3Car 10 1 -0.5 4 2 1.5 0.1 3 -1\nWalker 5 5 0 .6 6e-1 1.8 0\n"},
        {"results", "\4Car 0.5 10 1 -0.5 4 2 1.5 0.1 3 -1\n"},
        {"once", "\5{\"meta_info\": {}, \"calib\": {\"cam01\": {\"cam_to_velo\": [[1, 0, 0, 1], [0, 1, 0, "
                 "2], [0, 0, 1, 3], "
                 "[0, 0, 0, 1]], \"cam_intrinsic\": [[900, 0, 960], [0, 900, 540], [0, 0, 1]], "
                 "\"distortion\": [0]}}, "
                 "\"frames\": [{\"frame_id\": \"1616343527200\", \"pose\": [0, 0, 0, 1, 5, 6, 7], \"annos\": "
                 "{\"names\": "
                 "[\"Car\"], \"boxes_3d\": [[1, 2, 3, 4, 2, 1.5, 0.1]], \"boxes_2d\": {}}}]}"}};
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++)
        save("fuzz_custom", seeds[i][0], seeds[i][1], strlen(seeds[i][1]));
    static float points[3 * 100];
    sv_cache_chunk chunk;
    char packed[3 + 4096];
    for (int i = 0; i < 300; i++) points[i] = (float)(i / 40);
    if (sv_cache_pack(NULL, points, 100, 3, 1, &chunk) != SV_OK || chunk.size > 4096) exit(1);
    memcpy(packed, "\6\0\3", 3);
    memcpy(packed + 3, chunk.bytes, chunk.size);
    save("fuzz_custom", "chunk", packed, 3 + chunk.size);
    free(chunk.bytes);
}

static void make_feather(void)
{
    static const int64_t times[3] = {1, -2, 3};
    static const uint16_t halves[3] = {0x3c00, 0, 0xc000};
    static const char *const texts[3] = {"BUS", "", "DOG"};
    static const feather_column columns[] = {
        {"timestamp_ns", 'i', 8, times}, {"category", 't', 0, texts}, {"x", 'f', 2, halves}};
    static const feather_def files[] = {{columns, 3, 3, 1, false, 0, 0}, {columns, 3, 3, 2, true, 0, 0}};
    static const char *const names[] = {"plain", "packed"};
    for (int i = 0; i < 2; i++) {
        size_t size;
        uint8_t *file = feather_make(&files[i], &size);
        save("fuzz_feather", names[i], file, size);
        free(file);
    }
}

static void make_submissions(void)
{
    static const char *const seeds[][2] = {
        {"map", "\2{\"lane_segments\": {}, \"drivable_areas\": {\"1\": {\"id\": 1, \"area_boundary\": "
                "[{\"x\": 1.5, \"y\": 2e1, "
                "\"z\": 0}, {\"x\": -3, \"y\": 21, \"z\": 0}, {\"x\": 4, \"y\": 30.25, \"z\": 1}]}}}"},
        {"results", "\1[{\"frame_id\": \"100\", \"name\": [\"Car\", \"Bus\"], \"score\": [0.5, 1], "
                    "\"boxes_3d\": [[1, 2, 3, 4, 5, 6, "
                    "7], [1, -2, 3.5, 4, 5, 6, -7e-1]]}, {\"frame_id\": \"7\", \"more\": [null]}]"}};
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++)
        save("fuzz_submissions", seeds[i][0], seeds[i][1], strlen(seeds[i][1]));
}

int main(int count, char **arguments)
{
    if (count != 2) {
        fprintf(stderr, "usage: make_seeds FOLDER\n");
        return 2;
    }
    root = arguments[1];
    mkdir(root, 0755);
    make_checkpoints();
    make_arrays();
    make_models();
    make_flax();
    make_others();
    make_kitti();
    make_picture();
    make_named_points();
    make_waymo();
    make_nuscenes();
    make_custom();
    make_feather();
    make_submissions();
    return 0;
}
