/* SPDX-License-Identifier: Apache-2.0
 *
 * What TRecViT is fed with: .npz archives, pictures and the rule that fits them, and the program around it.
 */
#include "support_program.h"
#include "support_pth.h"

#include "perception/model/weights.h"
#include "perception/picture.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- .npz --------------------------------------------------------------------------------------------- */

static bytes npy(const char *header, int major, const void *numbers, size_t size)
{
    bytes b = {0};
    put(&b, "\x93NUMPY", 6);
    put_le(&b, (uint64_t)major, 1);
    put_le(&b, 0, 1);
    put_le(&b, strlen(header), major == 1 ? 2 : 4);
    put_text(&b, header);
    put(&b, numbers, size);
    return b;
}

/* An archive with one member. */
static bytes archive(const char *name, const bytes *member, bool deflate)
{
    zip_writer zip = {0};
    zip_put(&zip,
            &(zip_member){.name = name, .data = member->data, .size = member->size, .deflate = deflate});
    return zip_end(&zip, false);
}

static const float six[6] = {1, 2, 3, 4, 5, 6};

START_TEST(arrays_of_all_kinds)
{
    sv_ctx *c = test_context(1);
    const double doubles[3] = {0.5, -1, 3};
    const uint16_t halves[2] = {0x3c00, 0xc100};
    const int64_t longs[2] = {7, -9};
    bytes members[] = {
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }          \n", 1, six, sizeof six),
        npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }\n", 2, six, sizeof six),
        npy("{\"shape\": (3,), \"descr\": \"<f8\", \"fortran_order\": False}\n", 3, doubles, sizeof doubles),
        npy("{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2, 1, 1), }\n", 1, halves, sizeof halves),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }\n", 1, six, 4),
        npy("{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }\n", 1, longs, sizeof longs),
    };
    const char *names[] = {"a/b/kernel.npy", "a/turned.npy", "doubles.npy",
                           "halves.npy",     "scalar.npy",   "step.npy"};
    zip_writer zip = {0};
    for (int i = 0; i < 6; i++)
        zip_put(&zip,
                &(zip_member){
                    .name = names[i], .data = members[i].data, .size = members[i].size, .deflate = i % 2});
    const bytes file = zip_end(&zip, true);
    sv_weights *w = NULL;
    assert_ok(c, sv_weights_parse(c, "test.npz", file.data, file.size, &w));
    ck_assert_str_eq(sv_weights_kind(w), "npz");
    ck_assert_int_eq(sv_weights_count(w), 6);
    sv_tensor t = sv_weights_find(w, "a.b.kernel");
    ck_assert(t.ndim == 2 && t.dim[0] == 2 && t.dim[1] == 3 && memcmp(t.data, six, sizeof six) == 0);
    t = sv_weights_find(w, "a.turned");
    const float turned[6] = {1, 3, 5, 2, 4, 6};
    ck_assert(t.ndim == 2 && t.dim[1] == 3 && memcmp(t.data, turned, sizeof turned) == 0);
    t = sv_weights_find(w, "doubles");
    ck_assert(t.dtype == SV_F32 && sv_f32(t)[0] == 0.5f && sv_f32(t)[2] == 3);
    t = sv_weights_find(w, "halves");
    ck_assert(t.ndim == 4 && t.dim[1] == 2 && sv_f32(t)[0] == 1 && sv_f32(t)[1] == -2.5f);
    ck_assert(sv_f32(sv_weights_find(w, "scalar"))[0] == 1);
    t = sv_weights_find(w, "step");
    ck_assert(t.dtype == SV_I64 && ((int64_t *)t.data)[1] == -9);
    sv_weights_free(w);
    /* every prefix of it is refused */
    for (size_t n = 0; n < file.size; n += 7) {
        ck_assert_int_ne(sv_weights_parse(c, "cut.npz", file.data, n, &w), SV_OK);
        sv_error_clear(c);
    }
    for (int i = 0; i < 6; i++) free(members[i].data);
    free(file.data);
    sv_ctx_close(c);
}
END_TEST

static const struct {
    const char *name, *header;
    size_t size; /* of the numbers */
    const char *sentence;
} bad_members[] = {
    {"x.npy", "{'descr': '|O', 'fortran_order': False, 'shape': (6,), }\n", 24, "holds '|O'"},
    {"x.npy", "{'descr': '>f4', 'fortran_order': False, 'shape': (6,), }\n", 24, "holds '>f4'"},
    {"x.npy", "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }\n", 24, "has the header"},
    {"x.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (7,), }\n", 24, "should hold 7 numbers"},
    {"x.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (5,), }\n", 24, "should hold 5 numbers"},
    {"x.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (-6,), }\n", 24, "has the header"},
    {"x.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (65536, 65536, 65536), }\n", 24,
     "should hold"},
    {"x.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1, 6), }\n", 24,
     "has the header"},
    {"x.npy", "{'descr': '<f4', 'shape': (6,), }\n", 24, "has the header"},
    {"x.npy", "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (6,), }\n", 24,
     "has the header"},
    {"x.npy", "{'descr': '<f4', 'fortran_order': __import__('os'), 'shape': (6,), }\n", 24, "has the header"},
    {"x.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), } + 1\n", 24, "has the header"},
    {"x.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (6", 24, "has the header"},
    {"x.npy", "", 24, "has the header"},
    {"a b.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }\n", 24, "unusable name"},
};

START_TEST(bad_arrays_are_refused)
{
    sv_ctx *c = test_context(1);
    const bytes member = npy(bad_members[_i].header, 1, six, bad_members[_i].size);
    const bytes file = archive(bad_members[_i].name, &member, false);
    sv_weights *w = NULL;
    const sv_status status = sv_weights_parse(c, "bad.npz", file.data, file.size, &w);
    ck_assert_msg(status == SV_BAD_INPUT || status == SV_UNSUPPORTED, "%s", bad_members[_i].header);
    ck_assert_ptr_null(w);
    ck_assert_msg(strstr(sv_error_message(c), "bad.npz") &&
                      strstr(sv_error_message(c), bad_members[_i].sentence),
                  "'%s' lacks '%s'", sv_error_message(c), bad_members[_i].sentence);
    free(member.data);
    free(file.data);
    sv_ctx_close(c);
}
END_TEST

START_TEST(archives_of_other_things_are_refused)
{
    sv_ctx *c = test_context(1);
    sv_weights *w = NULL;
    const bytes member =
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }\n", 9, six, sizeof six);
    bytes file = archive("x.npy", &member, false);
    assert_fails(c, sv_weights_parse(c, "v.npz", file.data, file.size, &w), SV_UNSUPPORTED,
                 "format version 9");
    free(file.data);
    zip_writer zip = {0};
    zip_put(&zip, &(zip_member){.name = "x.npy", .data = "\x93NUMPX......", .size = 12});
    file = zip_end(&zip, false);
    assert_fails(c, sv_weights_parse(c, "m.npz", file.data, file.size, &w), SV_BAD_INPUT, "no NumPy array");
    free(file.data);
    zip = (zip_writer){0};
    const bytes good = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }\n", 1, six, sizeof six);
    zip_put(&zip, &(zip_member){.name = "x.npy", .data = good.data, .size = good.size});
    zip_put(&zip, &(zip_member){.name = "readme.txt", .data = "hello", .size = 5});
    file = zip_end(&zip, false);
    assert_fails(c, sv_weights_parse(c, "t.npz", file.data, file.size, &w), SV_BAD_INPUT,
                 "'readme.txt' is no .npy");
    free(file.data);
    zip = (zip_writer){0};
    zip_put(&zip, &(zip_member){.name = "a.b.npy", .data = good.data, .size = good.size});
    zip_put(&zip, &(zip_member){.name = "a/b.npy", .data = good.data, .size = good.size});
    file = zip_end(&zip, false);
    assert_fails(c, sv_weights_parse(c, "d.npz", file.data, file.size, &w), SV_BAD_INPUT, "there twice");
    free(file.data);
    free(member.data);
    free(good.data);
    sv_ctx_close(c);
}
END_TEST

/* ---- pictures ----------------------------------------------------------------------------------------- */

/* Red grows to the right, green downwards, blue is constant. */
static sv_image slopes(sv_ctx *c, int width, int height)
{
    sv_image image;
    assert_ok(c, sv_image_new(c, &image, width, height, 0));
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            uint8_t *p = image.rgb + 3 * (y * width + x);
            p[0] = (uint8_t)(255 * (2 * x + 1) / (2 * width));
            p[1] = (uint8_t)(255 * (2 * y + 1) / (2 * height));
            p[2] = 77;
        }
    return image;
}

START_TEST(parts_of_pictures)
{
    const sv_picture_rule cover = {.height = 100, .width = 200, .keep = {0, 0, 1, 1}};
    sv_picture_part p = sv_picture_part_of(&cover, 800, 600); /* tall: rows are cut */
    ck_assert(p.x == 0 && p.width == 800 && p.y == 100 && p.height == 400);
    p = sv_picture_part_of(&cover, 1600, 400); /* wide: columns are cut */
    ck_assert(p.x == 400 && p.width == 800 && p.y == 0 && p.height == 400);
    const sv_picture_rule stretch = {.height = 100, .width = 200, .keep = {0.25, 0, 1, 0.5}, .stretch = true};
    p = sv_picture_part_of(&stretch, 800, 600);
    ck_assert(p.x == 0 && p.width == 400 && p.y == 150 && p.height == 450);
    ck_assert_int_eq(sv_picture_halvings(&stretch, &p), 1);
    const sv_picture_part large = {0, 0, 5000, 5000}, equal = {0, 0, 200, 100};
    ck_assert_int_eq(sv_picture_halvings(&cover, &large), 3);
    ck_assert_int_eq(sv_picture_halvings(&cover, &equal), 0);
}
END_TEST

START_TEST(pictures_are_resized_by_the_rule)
{
    sv_ctx *c = test_context(1);
    static float out[3 * 64 * 64];
    int width, height;
    /* the model's own sides: nothing changes */
    test_rng rng = {9};
    sv_image image;
    assert_ok(c, sv_image_new(c, &image, 48, 32, 0));
    for (int i = 0; i < 3 * 48 * 32; i++) image.rgb[i] = (uint8_t)rng_u64(&rng);
    assert_ok(c, sv_image_write_png(c, &image, test_path("same.png")));
    sv_picture_rule rule = {.height = 32, .width = 48, .keep = {0, 0, 1, 1}};
    assert_ok(c, sv_picture_read(c, test_path("same.png"), &rule, out, &width, &height));
    ck_assert(width == 48 && height == 32);
    for (int i = 0; i < 3 * 48 * 32; i++) ck_assert(out[i] == (float)image.rgb[i] / 255.0f);
    sv_image_free(&image);
    /* slopes stay slopes for any sides, larger and smaller */
    static const int sides[][2] = {{100, 60}, {31, 47}, {400, 300}, {640, 250}, {7, 5}};
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++)
        for (int stretch = 0; stretch < 2; stretch++) {
            rule = (sv_picture_rule){.height = 40, .width = 60, .keep = {0.1, 0, 0.9, 1}, .stretch = stretch};
            image = slopes(c, sides[i][0], sides[i][1]);
            assert_ok(c, sv_image_write_png(c, &image, test_path("slopes.png")));
            assert_ok(c, sv_picture_read(c, test_path("slopes.png"), &rule, out, &width, &height));
            const sv_picture_part part = sv_picture_part_of(&rule, width, height);
            for (int y = 4; y < 36; y++)
                for (int x = 6; x < 54; x++) {
                    const double u = (part.x + (x + 0.5) * part.width / 60) / width,
                                 v = (part.y + (y + 0.5) * part.height / 40) / height;
                    const float *p = out + 3 * (y * 60 + x);
                    if (u < 0.5 / width || u > 1 - 0.5 / width) continue; /* the edge is repeated */
                    ck_assert_double_eq_tol((double)p[0], u, 0.012);
                    ck_assert_double_eq_tol((double)p[1], v, 0.012);
                    ck_assert_double_eq_tol((double)p[2], 77 / 255.0, 1e-6);
                }
            sv_image_free(&image);
        }
    sv_ctx_close(c);
}
END_TEST

START_TEST(rules_and_files_that_make_no_sense)
{
    static const struct {
        const char *yaml, *sentence;
    } bad[] = {{"I: {SIZE: [0, 5]}", "SIZE: 0"},
               {"I: {SIZE: [224]}", "SIZE"},
               {"I: {SIZE: [224, 224], RESIZE: fit}", "'fit' is not cover or stretch"},
               {"I: {SIZE: [224, 224], KEEP: [0, 0, 1, 1.5]}", "KEEP"}};
    sv_ctx *c = test_context(1);
    sv_picture_rule rule;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sv_config *config = NULL;
        assert_ok(c, sv_config_parse(c, bad[i].yaml, strlen(bad[i].yaml), "test.yaml", NULL, 0, &config));
        assert_fails(c, sv_picture_rule_read(c, sv_node_find(sv_config_root(config), "I"), &rule),
                     SV_BAD_INPUT, bad[i].sentence);
        sv_config_free(config);
    }
    float out[3 * 4 * 4];
    int width, height;
    rule = (sv_picture_rule){.height = 4, .width = 4, .keep = {0, 0, 1, 1}};
    write_file(test_path("text.jpg"), "hello", 5);
    ck_assert_int_eq(sv_picture_read(c, test_path("text.jpg"), &rule, out, &width, &height), SV_BAD_INPUT);
    sv_error_clear(c);
    char **paths = NULL;
    int count = 0;
    mkdir(test_path("empty"), 0755);
    assert_fails(c, sv_pictures_of(c, test_path("empty"), &paths, &count), SV_BAD_INPUT, "holds no pictures");
    assert_fails(c, sv_pictures_of(c, test_path("nowhere"), &paths, &count), SV_IO, "cannot be read");
    sv_ctx_close(c);
}
END_TEST

static const char *a_jpeg(void)
{
    static char path[1024];
    const char *reference = reference_folder();
    if (!reference || !sv_image_has_jpeg()) return NULL;
    snprintf(
        path, sizeof path,
        "%s/data/nuscenes/samples/CAM_FRONT/n015-2018-07-24-11-22-45+0800__CAM_FRONT__1532402927612460.jpg",
        reference);
    return path;
}

START_TEST(real_cameras_are_decoded_small)
{
    const char *path = a_jpeg();
    if (!path) return;
    sv_ctx *c = test_context(1);
    const sv_picture_rule rule = {.height = 96, .width = 160, .keep = {0, 0, 1, 1}};
    static float small[3 * 96 * 160], whole[3 * 96 * 160];
    int width, height;
    assert_ok(c, sv_picture_read(c, path, &rule, small, &width, &height));
    ck_assert(width == 1600 && height == 900);
    /* near what a whole decode, averaged down, gives */
    sv_image image, mean;
    assert_ok(c, sv_image_read_jpeg(c, path, &image));
    assert_ok(c, sv_image_resize(c, &image, 200, 113, &mean));
    sv_picture_resample(&rule, &mean, 3, width, height, whole);
    double difference = 0;
    for (int i = 0; i < 3 * 96 * 160; i++) difference += fabs((double)(small[i] - whole[i])) / (3 * 96 * 160);
    ck_assert_msg(difference < 0.02, "a mean difference of %g", difference);
    size_t size = 0;
    char *bytes_of = read_file(path, &size);
    for (size_t n = 4; n < size; n += size / 5) {
        const sv_status status = sv_picture_parse(c, bytes_of, n, "cut.jpg", &rule, small, &width, &height);
        ck_assert_msg(status == SV_BAD_INPUT && strstr(sv_error_message(c), "cut.jpg"), "%s",
                      sv_error_message(c));
        sv_error_clear(c);
    }
    free(bytes_of);
    sv_image_free(&image);
    sv_image_free(&mean);
    sv_ctx_close(c);
}
END_TEST

/* ---- the program -------------------------------------------------------------------------------------- */

static void pictures(const char *folder, int count, int width, int height)
{
    sv_ctx *c = test_context(1);
    char name[64];
    mkdir(test_path(folder), 0755);
    for (int i = 0; i < count; i++) {
        sv_image image = slopes(c, width, height);
        for (int k = 0; k < 300; k++) image.rgb[k] = (uint8_t)(7 * k * (i + 1));
        snprintf(name, sizeof name, "%s/%03d.png", folder, i);
        assert_ok(c, sv_image_write_png(c, &image, test_path(name)));
        sv_image_free(&image);
    }
    sv_ctx_close(c);
}

static const char small_yaml[] =
    "MODEL: {NAME: TRecViT, VARIANT: mu, WIDTH: 24, HEADS: 3, DEPTH: 2, MLP: 40, REP_SIZE: 20, CLASSES: 7,\n"
    "  FRAMES_PER_CLIP: 4}\n"
    "INPUT: {SIZE: [32, 48]}\n";

START_TEST(clips_and_streams_by_the_program)
{
    write_file(test_path("mu.yaml"), small_yaml, strlen(small_yaml));
    pictures("clip", 10, 60, 40);
    const char *model = test_path("mu.safetensors"), *clip = test_path("clip");
    assert_says(savanna("init -c %s -o %s --seed 3", test_path("mu.yaml"), model), 0, "seed 3");
    assert_says(savanna("video -w %s %s -o %s", model, clip, test_path("c.h5")), 0, "8 frames in 2 clips");
    ck_assert_ptr_nonnull(strstr(output, "2 pictures at the end are left out"));
    ck_assert_ptr_nonnull(strstr(output, "frames/s"));
    assert_says(savanna("video -w %s %s --mode stream -o %s", model, clip, test_path("s.h5")), 0,
                "state 0.01 MB");
    size_t sizes[2];
    char *files[2] = {read_file(test_path("c.h5"), &sizes[0]), read_file(test_path("s.h5"), &sizes[1])};
    ck_assert(files[0] && files[1] && sizes[0] == sizes[1] && memcmp(files[0], files[1], sizes[0]) == 0);
    free(files[0]);
    free(files[1]);
    assert_says(savanna("video -w %s %s --json --frames 3 --top 2", model, clip), 0, "\"frames\": 3");
    ck_assert_ptr_nonnull(strstr(output, "\"probability\""));
    assert_says(savanna("video -w %s %s/000.png %s/001.png", model, clip, clip), 0, "2 frames in 1 clip");
    assert_says(savanna("import %s -o %s", model, test_path("mu.h5")), 0, "TRecViT");
    assert_says(savanna("video -w %s %s -q", test_path("mu.h5"), clip), 0, "class");

    assert_says(savanna("video %s", clip), 2, "name the weights");
    assert_says(savanna("video -w %s", model), 2, "name pictures");
    assert_says(savanna("video -w %s %s --model lstm", model, clip), 2, "no model 'lstm'");
    assert_says(savanna("video -w %s %s --mode both", model, clip), 2, "not clip or stream");
    assert_says(savanna("video -w %s %s %s/000.png", model, clip, clip), 2, "not both");
    assert_says(savanna("video -w %s %s", model, test_path("nothing")), 3, "no such file");
    assert_says(savanna("video -w %s -c trecvit_ti %s", model, clip), 3, "of another shape");
    assert_says(savanna("video -w %s -c kitti_lion_mamba %s", model, clip), 3,
                "is no model of 'savanna video'");
    /* a camera that changes its resolution, a picture that is cut off */
    pictures("mixed", 4, 60, 40);
    sv_ctx *c = test_context(1);
    sv_image image = slopes(c, 64, 40);
    assert_ok(c, sv_image_write_png(c, &image, test_path("mixed/002.png")));
    sv_image_free(&image);
    sv_ctx_close(c);
    assert_says(savanna("video -w %s %s", model, test_path("mixed")), 3, "has 64 x 40 pixels");
    size_t size = 0;
    char *png = read_file(test_path("mixed/003.png"), &size);
    write_file(test_path("mixed/002.png"), png, size / 2);
    free(png);
    assert_says(savanna("video -w %s %s --mode stream", model, test_path("mixed")), 3, "002.png");
}
END_TEST

/* The official layout, where it is: the .npz gives what the same weights in a model file give. */
START_TEST(official_layout)
{
    const char *reference = reference_folder();
    if (!reference) return;
    char npz[1024];
    snprintf(npz, sizeof npz, "%s/golden/video/trecvit_mini.npz", reference);
    static const char yaml[] =
        "MODEL: {NAME: TRecViT, WIDTH: 64, HEADS: 4, DEPTH: 2, MLP: 256, REP_SIZE: 96, CLASSES: 10,\n"
        "  FRAMES_PER_CLIP: 8}\n"
        "INPUT: {SIZE: [64, 64]}\n";
    write_file(test_path("mini.yaml"), yaml, strlen(yaml));
    pictures("mini", 8, 70, 70);
    assert_says(savanna("video -c %s -w %s %s -o %s", test_path("mini.yaml"), npz, test_path("mini"),
                        test_path("n.h5")),
                0, "8 frames in 1 clip");
    assert_says(savanna("import %s -c %s -o %s", npz, test_path("mini.yaml"), test_path("mini.h5")), 0,
                "225962 parameters");
    assert_says(savanna("video -w %s %s -o %s", test_path("mini.h5"), test_path("mini"), test_path("m.h5")),
                0, "class");
    size_t sizes[2];
    char *files[2] = {read_file(test_path("n.h5"), &sizes[0]), read_file(test_path("m.h5"), &sizes[1])};
    ck_assert(sizes[0] == sizes[1] && memcmp(files[0], files[1], sizes[0]) == 0);
    free(files[0]);
    free(files[1]);
    assert_says(savanna("check --strict %s/golden/video/trecvit_blocks.h5 %s/golden/video/trecvit_mini.h5",
                        reference, reference),
                0, "0 failed, 0 not covered");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("video files");
    TCase *tests = tcase_create("npz");
    tcase_add_test(tests, arrays_of_all_kinds);
    tcase_add_loop_test(tests, bad_arrays_are_refused, 0, (int)(sizeof bad_members / sizeof *bad_members));
    tcase_add_test(tests, archives_of_other_things_are_refused);
    suite_add_tcase(suite, tests);
    tests = tcase_create("pictures");
    tcase_add_test(tests, parts_of_pictures);
    tcase_add_test(tests, pictures_are_resized_by_the_rule);
    tcase_add_test(tests, rules_and_files_that_make_no_sense);
    tcase_add_test(tests, real_cameras_are_decoded_small);
    suite_add_tcase(suite, tests);
    tests = tcase_create("program");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, clips_and_streams_by_the_program);
    tcase_add_test(tests, official_layout);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
