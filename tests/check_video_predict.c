/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna video --model convs5, and MODEL.TEMPORAL in savanna detect: the program from outside.
 */
#include "support_program.h"
#include "support_model.h"

#include "perception/image.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const char body[] =
    "  IMAGE_SIZE: 16\n  CHANNELS: 1\n  D_MODEL: 32\n"
    "  ENCODER: {DEPTHS: [32, 32], BLOCKS: 1}\n  DECODER: {DEPTHS: [32, 32], BLOCKS: 1}\n"
    "  SEQ_MODEL: {N_LAYERS: 2, LAYER_ACTIVATION: gelu, USE_NORM: true, PRENORM: false,\n"
    "    PER_LAYER_SKIP: true, NUM_GROUPS: 8}\n"
    "  SSM: {SSM_SIZE: 12, CLIP_EIGS: true, B_KERNEL_SIZE: 3, C_KERNEL_SIZE: 3,\n"
    "    D_KERNEL_SIZE: 3, C_D_CONFIG: resnet}\n";

/* A dot that wanders, in 'count' pictures. */
static void draw_clip(sv_ctx *c, const char *folder, int count)
{
    char path[800];
    mkdir(folder, 0777);
    for (int t = 0; t < count; t++) {
        sv_image image;
        assert_ok(c, sv_image_new(c, &image, 24, 16, 0x000000));
        sv_image_rectangle(&image, (float)(2 + t), 5, 4, 4, (sv_paint){0xffffff, 1});
        snprintf(path, sizeof path, "%s/%03d.png", folder, t);
        assert_ok(c, sv_image_write_png(c, &image, path));
        sv_image_free(&image);
    }
}

START_TEST(predictions_by_the_program)
{
    sv_ctx *c = test_context(1);
    char text[2048], clip[700], path[800];
    snprintf(text, sizeof text, "MODEL:\n  NAME: ConvS5\n%s", body);
    write_file(test_path("small.yaml"), text, strlen(text));
    snprintf(clip, sizeof clip, "%s", test_path("clip"));
    draw_clip(c, clip, 9);
    assert_says(savanna("init -c %s -o %s --seed 3", test_path("small.yaml"), test_path("m.safetensors")), 0,
                "tensors");
    assert_says(savanna("video -w %s %s --frames 6 --predict 4 -o %s", test_path("m.safetensors"), clip,
                        test_path("a.png")),
                0, "6 pictures seen, 4 predicted");
    ck_assert_ptr_nonnull(strstr(output, "generated ones"));
    ck_assert_ptr_nonnull(strstr(output, "state 0.01 MB"));
    assert_says(savanna("video -w %s %s --frames 6 --predict 4 -o %s --mode stream --threads 1",
                        test_path("m.safetensors"), clip, test_path("b.png")),
                0, "frames/s");
    size_t size[2];
    char *strip[2] = {read_file(test_path("a.png"), &size[0]), read_file(test_path("b.png"), &size[1])};
    ck_assert(strip[0] && strip[1] && size[0] == size[1]);
    ck_assert_mem_eq(strip[0], strip[1], size[0]); /* a clip at once, and its pictures one by one */
    for (int i = 0; i < 2; i++) free(strip[i]);
    sv_image image;
    assert_ok(c, sv_image_read_png(c, test_path("a.png"), &image));
    ck_assert_int_eq(image.width, (6 + 4) * (2 * 16 + 2) + 2);
    sv_image_free(&image);
    assert_says(savanna("video -w %s %s --json", test_path("m.safetensors"), clip), 0,
                "\"state_bytes\": 6144");
    /* one picture alone; a native file made by import */
    assert_says(savanna("video -w %s %s/000.png --predict 1", test_path("m.safetensors"), clip), 0,
                "1 pictures seen");
    assert_says(savanna("import %s -c %s -o %s", test_path("m.safetensors"), test_path("small.yaml"),
                        test_path("n.h5")),
                0, "ConvS5");
    assert_says(savanna("video -w %s %s --predict 1", test_path("n.h5"), clip), 0, "9 pictures seen");
    /* what goes wrong */
    assert_says(savanna("video -w %s %s -o x.gif", test_path("m.safetensors"), clip), 2, "name it .png");
    assert_says(savanna("video -w %s %s --mode both", test_path("m.safetensors"), clip), 2, "clip or stream");
    assert_says(savanna("video -w %s %s/none", test_path("m.safetensors"), clip), 3, "no such file");
    assert_says(savanna("video -w %s %s --predict -1", test_path("m.safetensors"), clip), 2, "not negative");
    assert_says(savanna("video -w %s %s --set MODEL.IMAGE_SIZE 15", test_path("m.safetensors"), clip), 3,
                "do not fit");
    assert_says(savanna("video --model trecvit -w %s %s", test_path("m.safetensors"), clip), 3, "ConvS5");
    snprintf(path, sizeof path, "%s/004.png", clip);
    write_file(path, "\x89PNG\r\n\x1a\nbroken", 14);
    assert_says(savanna("video -w %s %s", test_path("m.safetensors"), clip), 3, "004.png");
    sv_ctx_close(c);
}
END_TEST

/* The official files have small letters and no MODEL, and much that only training reads. */
START_TEST(official_configurations)
{
    static const char text[] =
        "model: convS5_noVQ\nseed: 1\nlr: 0.001\nimage_size: 16\nchannels: 1\nd_model: 32\n"
        "encoder: {depths: [32, 32], blocks: 1}\ndecoder: {depths: [32, 32], blocks: 1}\n"
        "seq_model: {n_layers: 2, layer_activation: gelu, dropout: 0.0, use_norm: true,\n"
        "  prenorm: false, per_layer_skip: true, num_groups: 8}\n"
        "ssm: {ssm_size: 12, blocks: 1, clip_eigs: true, B_kernel_size: 3, C_kernel_size: 3,\n"
        "  D_kernel_size: 3, dt_min: 0.001, dt_max: 0.1, C_D_config: resnet}\n"
        "use_actions: false\nopen_loop_ctx: 100\n";
    write_file(test_path("official.yaml"), text, sizeof text - 1);
    assert_says(savanna("init -c %s -o %s --seed 3", test_path("official.yaml"), test_path("o.h5")), 0,
                "tensors");
    assert_says(
        savanna("init -c %s -o %s --set ssm.ssm_size 13", test_path("official.yaml"), test_path("p.h5")), 3,
        "pairs");
    write_file(test_path("wings.yaml"), "_BASE_CONFIG_: official.yaml\nwings: 2\n", 39);
    assert_says(savanna("init -c %s -o %s", test_path("wings.yaml"), test_path("p.h5")), 3, "wings");
}
END_TEST

START_TEST(sweeps_by_the_program)
{
    const char *config =
        small_config_of(SMALL_KITTI, "MODEL: {TEMPORAL: {NAME: ConvS5, CHANNELS: 8, SSM_SIZE: 8}}\n");
    test_rng rng = {4};
    sv_frame *frame = small_cloud(&rng, 3000);
    write_file(test_path("x.bin"), frame->points, sizeof(float) * 4 * 3000);
    sv_frame_release(frame);
    assert_says(savanna("init -c %s -o %s", config, test_path("t.h5")), 0, "tensors");
    assert_says(savanna("detect -w %s %s %s", test_path("t.h5"), test_path("x.bin"), test_path("x.bin")), 0,
                "boxes");
    assert_says(savanna("detect -w %s %s --batch 2", test_path("t.h5"), test_path("x.bin")), 2,
                "the one before it");
    assert_says(savanna("init -c %s -o %s --set MODEL.TEMPORAL.SSM_SIZE 7", config, test_path("u.h5")), 3,
                "SSM_SIZE 7");
    assert_says(savanna("init -c %s -o %s --set MODEL.TEMPORAL.NAME LSTM", config, test_path("u.h5")), 3,
                "ConvS5 is");
}
END_TEST

START_TEST(recorded_results)
{
    const char *reference = reference_folder();
    if (!reference) return;
    static const char *const files[] = {"layer", "stack", "mini", "mnist300_proc"};
    for (int i = 0; i < 4; i++)
        assert_says(savanna("check --strict %s/golden/video/convs5_%s.h5", reference, files[i]), 0,
                    " 0 failed, 0 not covered");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("video predict");
    TCase *tests = tcase_create("video predict");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, predictions_by_the_program);
    tcase_add_test(tests, official_configurations);
    tcase_add_test(tests, sweeps_by_the_program);
    tcase_add_test(tests, recorded_results);
    suite_add_tcase(s, tests);
    return run_suite(s, true);
}
