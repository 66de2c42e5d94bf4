/* SPDX-License-Identifier: Apache-2.0
 *
 * The program as a user meets it: exit codes, one clear sentence for every bad input, results that do not
 * depend on the way they were made.
 */
#include "support_program.h"
#include "perception/image.h"
#include "support_model.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <sys/wait.h>

/* Run "savanna ARGUMENTS", output and errors together in static memory; returns the exit code. */

/* The same, and bad input is told in one sentence. */
static void assert_answers(int code, int wanted, const char *text)
{
    assert_says(code, wanted, text);
    const char *end = strchr(output, '\n');
    ck_assert_msg(wanted != 3 || (end && end[1] == '\0'), "not one sentence: %.3000s", output);
}

static const char *cloud_file(const char *name, uint64_t seed, int points)
{
    test_rng rng = {seed};
    sv_frame *frame = small_cloud(&rng, points);
    const char *path = test_path(name);
    write_file(path, frame->points, sizeof(float) * 4 * (size_t)points);
    sv_frame_release(frame);
    return path;
}

START_TEST(help_names_every_command_and_usage_errors_exit_2)
{
    ck_assert_int_eq(savanna("help"), 0);
    static const char *const commands[] = {"detect",  "eval",    "import", "init",
                                           "inspect", "convert", "check",  "bench"};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        ck_assert_int_eq(savanna("help"), 0);
        ck_assert_ptr_nonnull(strstr(output, commands[i]));
        ck_assert_int_eq(savanna("help %s", commands[i]), 0);
        ck_assert_ptr_nonnull(strstr(output, "EXAMPLES"));
        ck_assert_ptr_nonnull(strstr(output, "--device"));
    }
    assert_answers(savanna("fly"), 2, "no command 'fly'");
    assert_answers(savanna("detect --wings x.bin"), 2, "unknown option '--wings'");
    assert_answers(savanna("detect x.bin"), 2, "-w FILE");
    assert_answers(savanna("detect -w x.h5 x.bin --threads many"), 2, "'many' is not a whole number");
    assert_answers(savanna("detect -w x.h5 x.bin --device gpu"), 2, "'gpu' is not cpu");
    assert_answers(savanna("import a.pth -o model.bin"), 2, "must end in .h5");
    ck_assert_int_eq(savanna("version"), 0);
}
END_TEST

START_TEST(results_do_not_depend_on_how_they_are_made)
{
    const char *cloud = cloud_file("a.bin", 1, 5000), *other = cloud_file("b.bin", 2, 4000);
    const char *config = small_config(), *model = test_path("m.h5"), *tensors = test_path("m.safetensors");
    ck_assert_msg(savanna("init -c %s --seed 4 -o %s", config, model) == 0, "%s", output);
    ck_assert_msg(savanna("import %s -o %s", model, tensors) == 0, "%s", output);
    ck_assert_int_eq(savanna("detect -q -w %s %s %s", model, cloud, other), 0);
    char *first = strdup(output);
    ck_assert_ptr_nonnull(strstr(first, "\"Car\""));
    ck_assert_int_eq(savanna("detect -q -w %s %s %s --threads 1 --batch 2", tensors, cloud, other), 0);
    ck_assert_str_eq(output, first);
    ck_assert_int_eq(savanna("detect -q -c %s -w %s %s %s --threads 3", config, model, cloud, other), 0);
    ck_assert_str_eq(output, first);
    ck_assert_int_eq(savanna("detect -q -w %s %s %s -o %s", model, cloud, other, test_path("out.json")), 0);
    size_t size = 0;
    char *file = read_file(test_path("out.json"), &size);
    ck_assert_str_eq(file, first);
    free(file);
    free(first);
    /* the same seed gives the same model, another seed another */
    ck_assert_int_eq(savanna("init -c %s --seed 4 -o %s", config, test_path("n.h5")), 0);
    ck_assert_int_eq(savanna("init -c %s --seed 5 -o %s", config, test_path("o.h5")), 0);
    size_t n = 0, o = 0;
    char *a = read_file(model, &size), *b = read_file(test_path("n.h5"), &n),
         *c = read_file(test_path("o.h5"), &o);
    ck_assert(size == n && memcmp(a, b, n) == 0);
    ck_assert(size != o || memcmp(a, c, o) != 0);
    free(a), free(b), free(c);
    ck_assert_int_eq(
        savanna("detect -q -w %s %s --image %s -o %s", model, cloud, test_path("p.png"), test_path("p.json")),
        0);
    char *png = read_file(test_path("p.png"), &size);
    ck_assert(png && size > 1000 && memcmp(png, "\x89PNG", 4) == 0);
    free(png);
    ck_assert_int_eq(savanna("detect -q -w %s %s --dump %s", model, cloud, test_path("d.h5")), 0);
    ck_assert_int_eq(savanna("inspect --tensors %s", test_path("d.h5")), 0);
    ck_assert_ptr_nonnull(strstr(output, "backbone_3d/dow1/features"));
}
END_TEST

START_TEST(bad_point_files)
{
    const char *model = test_path("m.h5"), *path = test_path("bad.bin");
    ck_assert_int_eq(savanna("init -c %s -o %s", small_config(), model), 0);
    write_file(path, "", 0);
    ck_assert_msg(savanna("detect -q -w %s %s", model, path) == 0, "an empty cloud is not an error: %s",
                  output);
    ck_assert_ptr_nonnull(strstr(output, "\"boxes\": []"));
    write_file(path, "0123456789012345678901234", 25);
    assert_answers(savanna("detect -w %s %s", model, path), 3, "25 bytes");
    assert_answers(savanna("detect -w %s %s", model, test_path("none.bin")), 3, "none.bin");
    write_file(path, "0123456789012345678901234567890123456789", 40);
    assert_answers(savanna("detect -w %s %s --layout xyzir", model, path), 3, "5 columns");
    float points[8] = {1, 2, -1, 0.5f, NAN, 0, 0, 0};
    write_file(path, points, sizeof points);
    ck_assert_int_eq(savanna("detect -w %s %s -o %s", model, path, test_path("nan.json")), 0);
    ck_assert_ptr_nonnull(strstr(output, "1 points"));
}
END_TEST

/* Every kind of point file says the same, to every command that takes points. */
START_TEST(points_of_every_kind)
{
    const char *cloud = cloud_file("kinds.bin", 3, 5000), *model = test_path("m.h5");
    ck_assert_int_eq(savanna("init -c %s --seed 4 -o %s", small_config(), model), 0);
    ck_assert_int_eq(savanna("detect -q -w %s %s", model, cloud), 0);
    char *first = strdup(output);
    ck_assert_ptr_nonnull(strstr(first, "\"label\""));
    static const char *const kinds[][2] = {{"npy", "binary"},     {"pcd", "binary"}, {"pcd", "ascii"},
                                           {"pcd", "compressed"}, {"ply", "binary"}, {"ply", "ascii"}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char name[32];
        snprintf(name, sizeof name, "kinds.%s", kinds[i][0]);
        const char *path = test_path(name);
        ck_assert_msg(savanna("convert %s %s --layout xyzi --encoding %s", cloud, path, kinds[i][1]) == 0,
                      "%s", output);
        ck_assert_ptr_nonnull(strstr(output, "5000 points, xyzi"));
        ck_assert_int_eq(savanna("detect -q -w %s %s", model, path), 0);
        ck_assert_str_eq(output, first);
        ck_assert_int_eq(savanna("inspect %s", path), 0);
        ck_assert_ptr_nonnull(strstr(output, "5000 points, layout xyzi"));
    }
    free(first);
    /* a column that the model needs and the file lacks */
    const char *bare = test_path("bare.ply");
    ck_assert_int_eq(savanna("convert %s %s --layout xyz", test_path("kinds.pcd"), bare), 0);
    assert_answers(savanna("detect -w %s %s", model, bare), 3,
                   "no field is named intensity, i, reflectivity, reflectance, remission");
    assert_answers(savanna("convert %s %s", cloud, bare), 2, "name the layout");
    assert_answers(savanna("convert %s %s --layout xyzi", cloud, test_path("kinds.las")), 2,
                   ".bin, .npy, .pcd or .ply");
    assert_answers(savanna("convert %s", cloud), 2, "name two files");
    assert_answers(savanna("convert %s %s --encoding zip", cloud, bare), 2, "'zip' is not binary");
    write_file(bare, "ply\nformat", 10);
    assert_answers(savanna("detect -w %s %s", model, bare), 3, "the PLY header has no end");
}
END_TEST

START_TEST(operators_beside_each_other)
{
    const char *csv = test_path("operators.csv"), *png = test_path("operators.png");
    const char *few =
        "--channels 16,32 --lengths 32,64 --groups 1,2 --rounds 1 --stream 1024 --only GLA --only RAT";
    ck_assert_msg(savanna("bench operators -q %s --csv %s --plot %s", few, csv, png) == 0, "%s", output);
    ck_assert_ptr_nonnull(strstr(output, "2 operators on cpu"));
    ck_assert_ptr_nonnull(strstr(output, "quadratic"));
    ck_assert_ptr_nonnull(strstr(output, "States over a long stream"));
    size_t count = 0;
    char *text = read_file(csv, &count);
    ck_assert_ptr_nonnull(text);
    int lines = 0;
    for (size_t i = 0; i < count; i++) lines += text[i] == '\n';
    ck_assert_int_eq(lines, 1 + 2 * 2 * 3); /* operators, widths, shapes */
    free(text);
    text = read_file(png, &count);
    ck_assert(text && count > 1000 && memcmp(text + 1, "PNG", 3) == 0);
    free(text);
    ck_assert_int_eq(savanna("bench operators -q --json %s", few), 0);
    ck_assert_ptr_nonnull(strstr(output, "\"operator\": \"RAT\", \"quadratic\": true"));
    assert_answers(savanna("bench operators --only Gru"), 2, "there is no operator 'Gru'");
    assert_answers(savanna("bench operators --lengths 512,,4"), 2, "--lengths: '512,,4' is no list");
    assert_answers(savanna("bench operators --stream 7"), 2, "--stream: 7 is neither 0 nor within");
    ck_assert_int_eq(savanna("inspect --json catalogue_gla"), 0);
    ck_assert_ptr_nonnull(strstr(output, "\"operator_flop_per_token\""));
}
END_TEST

/* The row of a CSV that begins with this name, as a string of its own in 'row'; false when there is none. */
static bool csv_row(const char *text, const char *name, char row[256])
{
    const size_t length = strlen(name);
    for (const char *at = text; at && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL)
        if (strncmp(at, name, length) == 0 && at[length] == ',') {
            snprintf(row, 256, "%.*s", (int)strcspn(at, "\n"), at);
            return true;
        }
    return false;
}

START_TEST(stages_under_their_ceilings)
{
    const char *cloud = cloud_file("bench.bin", 3, 5000), *csv = test_path("stages.csv"),
               *png = test_path("roofline.png"), *model = test_path("m.h5");
    ck_assert_int_eq(savanna("init -c %s -o %s", small_config(), model), 0);
    ck_assert_msg(savanna("bench -q -w %s %s -n 2 --warmup 1 --csv %s --plot %s", model, cloud, csv, png) ==
                      0,
                  "%s", output);
    ck_assert_ptr_nonnull(strstr(output, "ceilings, measured now: "));
    ck_assert_ptr_nonnull(strstr(output, "GB/s copied, read plus written"));
    size_t count = 0;
    char *text = read_file(csv, &count), row[256];
    ck_assert_ptr_nonnull(text);
    static const char heading[] = "stage,p50_ms,p90_ms,p99_ms,gflop,gflops,share_of_peak,gb_per_s,"
                                  "share_of_copy,flop_per_byte\n";
    ck_assert_int_eq(strncmp(text, heading, sizeof heading - 1), 0);
    for (const char *at = text; *at; at = strchr(at, '\n') + 1) { /* every row has every column */
        int commas = 0;
        for (const char *k = at; *k != '\n'; k++) commas += *k == ',';
        ck_assert_int_eq(commas, 9);
    }
    /* what the figures of a stage say about each other, and about the ceilings */
    double ms, gflop, gflops, of_peak, gb, of_copy, intensity, vector, matrix = 0, copied;
    ck_assert(csv_row(text, "backbone_2d", row));
    ck_assert_int_eq(sscanf(row, "backbone_2d,%lf,%*f,%*f,%lf,%lf,%lf,%lf,%lf,%lf", &ms, &gflop, &gflops,
                            &of_peak, &gb, &of_copy, &intensity),
                     7);
    ck_assert(csv_row(text, "ceiling_vector", row) && sscanf(row, "ceiling_vector,,,,,%lf", &vector) == 1);
    if (csv_row(text, "ceiling_matrix", row))
        ck_assert_int_eq(sscanf(row, "ceiling_matrix,,,,,%lf", &matrix), 1);
    ck_assert(csv_row(text, "ceiling_copy", row) && sscanf(row, "ceiling_copy,,,,,,,%lf", &copied) == 1);
    ck_assert(ms > 0 && gflop > 0 && vector > 0 && copied > 0);
    ck_assert_double_eq_tol(gflops, gflop / ms * 1e3, 0.02 * gflops);
    ck_assert_double_eq_tol(gflops, gb * intensity, 0.02 * gflops + 0.005 * intensity);
    ck_assert_double_eq_tol(of_peak, gflops / (matrix > vector ? matrix : vector), 0.02 * of_peak + 1e-4);
    ck_assert_double_eq_tol(of_copy, gb / copied, 0.02 * of_copy + 1e-4);
    ck_assert(csv_row(text, "end_to_end", row));
    ck_assert(!csv_row(text, "host_gaps", row)); /* the CPU's queue is the host */
    free(text);

    sv_ctx *c = test_context(1);
    sv_image image;
    assert_ok(c, sv_image_read_png(c, png, &image));
    ck_assert(image.width > 1000 && image.height > 600);
    sv_image_free(&image);
    sv_ctx_close(c);

    ck_assert_int_eq(savanna("bench -q --brief -w %s %s -n 1 --warmup 0", model, cloud), 0);
    ck_assert_ptr_nonnull(strstr(output, "end to end"));
    ck_assert_ptr_null(strstr(output, "ceilings"));
    ck_assert_int_eq(savanna("bench -q --json -w %s %s -n 1 --warmup 0", model, cloud), 0);
    ck_assert_ptr_nonnull(strstr(output, "\"copy_gb_per_s\":"));
    assert_answers(savanna("bench --brief --plot x.png -w %s %s", model, cloud), 2,
                   "which --brief leaves out");
}
END_TEST

/* A folder whose 'run' is this script; what it was asked is in FOLDER/asked. */
static const char *peer_folder(const char *name, const char *script)
{
    char text[1200];
    static char folder[300];
    snprintf(folder, sizeof folder, "%s", test_path(name));
    mkdir(folder, 0777);
    snprintf(text, sizeof text, "#!/bin/sh\necho \"$@\" > %s/asked\n%s\n", folder, script);
    char program[330];
    snprintf(program, sizeof program, "%s/run", folder);
    write_file(program, text, strlen(text));
    chmod(program, 0777);
    return folder;
}

static const char *asked_of(const char *folder)
{
    static char text[1200];
    char path[330];
    size_t count = 0;
    snprintf(path, sizeof path, "%s/asked", folder);
    char *read = read_file(path, &count);
    ck_assert_ptr_nonnull(read);
    snprintf(text, sizeof text, "%.*s", (int)count, read);
    free(read);
    return text;
}

START_TEST(operators_beside_a_peer)
{
    const char *few =
        "--channels 16,32 --lengths 32,64 --groups 1 --rounds 1 --stream 0 --only GLA --only RAT";
    /* one shape of two, one that nobody asked for, and an operator that is not ours */
    const char *peer = peer_folder(
        "peer", "echo words before\n"
                "echo '{\"name\": \"the other\", \"operators\": ["
                "{\"operator\": \"GLA\", \"channels\": 32, \"length\": 64, \"groups\": 1, \"ms\": 250000},"
                "{\"operator\": \"GLA\", \"channels\": 48, \"length\": 64, \"groups\": 1, \"ms\": 3},"
                "{\"operator\": \"Own\", \"channels\": 32, \"length\": 64, \"groups\": 1, \"ms\": 4}]}'");
    const char *csv = test_path("beside.csv");
    ck_assert_msg(savanna("bench operators -q %s --csv %s --peer %s", few, csv, peer) == 0, "%s", output);
    ck_assert_ptr_nonnull(strstr(output, "peer: the other"));
    ck_assert_ptr_nonnull(strstr(output, "250000.0000"));
    ck_assert_ptr_nonnull(strstr(output, "geometric mean of 1 ratios"));
    ck_assert_ptr_nonnull(strstr(asked_of(peer),
                                 "--operators GLA,RAT --shapes 16x32x1,16x64x1,32x32x1,32x64x1 "
                                 "--direction both --precision fp32 --device cpu"));
    size_t count = 0;
    char *text = read_file(csv, &count);
    ck_assert(text && strstr(text, ",launched_ms,peer_ms,peer_launched_ms\n") &&
              strstr(text, ",250000.0000,\n"));
    free(text);
    ck_assert_int_eq(savanna("bench operators -q --json %s --direction forward --peer %s", few, peer), 0);
    ck_assert_ptr_nonnull(strstr(asked_of(peer), "--direction forward"));
    ck_assert_ptr_null(strstr(output, "peer_ms")); /* of its largest shape of 16 channels there is none */

    peer = peer_folder("none", "echo '{\"operators\": []}'");
    ck_assert_int_eq(savanna("bench operators -q %s --peer %s", few, peer), 0);
    ck_assert_ptr_nonnull(strstr(output, "the peer has none of these operators"));
    peer = peer_folder("mute", "echo '{\"frame_ms\": [1]}'");
    assert_says(savanna("bench operators -q %s --peer %s", few, peer), 3, "has no list 'operators'");
    peer = peer_folder("poor", "echo '{\"operators\": [{\"operator\": \"GLA\"}]}'");
    assert_says(savanna("bench operators -q %s --peer %s", few, peer), 3, "no operator's name or no ms");
    assert_says(savanna("bench operators -q %s --direction inward", few), 3, "direction is 'inward'");
}
END_TEST

START_TEST(frames_beside_a_peer)
{
    const char *config = small_config(), *model = small_weights(1);
    const char *cloud = cloud_file("beside.bin", 3, 2000);
    const char *peer =
        peer_folder("frames", "echo '{\"name\": \"the other\", \"frame_ms\": [4e6, 2e6, 3e6], \"boxes\": 7,"
                              " \"stages\": {\"vfe\": 12.5}, \"peak_rss_kib\": 2048}'");
    ck_assert_msg(savanna("bench -q -n 3 --warmup 0 -c %s -w %s %s --peer %s", config, model, cloud, peer) ==
                      0,
                  "%s", output);
    ck_assert_ptr_nonnull(strstr(output, "peer: the other"));
    ck_assert_ptr_nonnull(strstr(output, "3000000.00")); /* the median */
    ck_assert_ptr_nonnull(strstr(output, "12.50"));
    ck_assert_ptr_nonnull(strstr(asked_of(peer), "--layout xyzi --threads"));
    ck_assert_ptr_null(strstr(asked_of(peer), "--device")); /* a GPU's only */
    peer = peer_folder("dead", "exit 4");
    assert_says(savanna("bench -q -n 1 --warmup 0 -c %s -w %s %s --peer %s", config, model, cloud, peer), 1,
                "the peer ended with 4");
    peer = peer_folder("prose", "echo done");
    assert_says(savanna("bench -q -n 1 --warmup 0 -c %s -w %s %s --peer %s", config, model, cloud, peer), 3,
                "its last line is not JSON");
    peer = peer_folder("timeless", "echo '{}'");
    assert_says(savanna("bench -q -n 1 --warmup 0 -c %s -w %s %s --peer %s", config, model, cloud, peer), 3,
                "its last line has no frame_ms");
    assert_says(savanna("bench -q -n 1 --warmup 0 -c %s -w %s %s --peer %s", config, model, cloud, cloud), 3,
                "a peer is a folder with an executable 'run'");
}
END_TEST

START_TEST(the_classical_detector_needs_no_weights)
{
    const char *cloud = cloud_file("street.bin", 3, 5000), *moved = cloud_file("moved.bin", 3, 4900);
    ck_assert_msg(savanna("detect -q -c cluster %s --image %s", cloud, test_path("c.png")) == 0, "%s",
                  output);
    ck_assert_ptr_nonnull(strstr(output, "\"frame\": \"street\""));
    /* stdout by its usual name, and no file of that name */
    remove("-");
    assert_answers(savanna("detect -q -c cluster %s -o -", cloud), 0, "\"frames\"");
    ck_assert_int_ne(access("-", F_OK), 0);
    assert_answers(savanna("detect -q -c cluster %s --dataset kitti --root . --format kitti -o -", ""), 2,
                   "-o DIR");
    ck_assert_int_eq(savanna("bench -q -c cluster -n 2 --warmup 0 %s", cloud), 0);
    ck_assert_ptr_nonnull(strstr(output, "obstacles"));
    ck_assert_int_eq(savanna("inspect cluster"), 0);
    ck_assert_ptr_nonnull(strstr(output, "which needs no weights"));
    assert_answers(savanna("detect -c clutter %s", cloud), 3, "did you mean 'cluster'?");
    assert_answers(savanna("detect -c kitti_lion_mamba %s", cloud), 2, "a model needs weights: -w FILE");
    assert_answers(savanna("detect -c cluster -w %s %s", small_weights(1), cloud), 2, "has no weights");
    assert_answers(savanna("init -c cluster -o %s", test_path("n.h5")), 2, "has no weights");
    assert_answers(savanna("bench -c cluster --until bev %s", cloud), 2, "no stages of a network");
    assert_answers(savanna("bench -c cluster --peer x %s", cloud), 2, "--peer needs -c CFG.yaml and -w FILE");

    ck_assert_int_eq(savanna("version"), 0);
    const bool pcl = strstr(output, "pcl no") == NULL;
    assert_answers(savanna("register %s", cloud), 2, "at least two point files");
    assert_answers(savanna("register %s %s --method guess", cloud, moved), 2, "'guess' is not icp or gicp");
    if (pcl) {
        ck_assert_msg(savanna("register %s %s -o %s", moved, cloud, test_path("poses.txt")) == 0, "%s",
                      output);
        ck_assert_ptr_nonnull(strstr(output, "the clouds then differ by"));
        size_t size = 0;
        char *poses = read_file(test_path("poses.txt"), &size);
        ck_assert(poses && strncmp(poses, "1 0 0 0 0 1 0 0 0 0 1 0\n", 24) == 0);
        free(poses);
        ck_assert_int_eq(savanna("detect -q -c cluster-pcl %s", cloud), 0);
    } else {
        assert_answers(savanna("register %s %s", cloud, moved), 3,
                       "this build has no PCL: install libpcl-dev");
        assert_answers(savanna("detect -c cluster-pcl %s", cloud), 3,
                       "this build has no PCL: install libpcl-dev");
    }
}
END_TEST

START_TEST(bad_weights_files)
{
    const char *config = small_config(), *cloud = cloud_file("a.bin", 1, 1000), *path = test_path("bad.pth");
    write_file(path, "0123456789012345678901234567890123456789", 40);
    assert_answers(savanna("detect -c %s -w %s %s", config, path, cloud), 3, "bad.pth");
    write_file(path, "", 0);
    assert_answers(savanna("detect -c %s -w %s %s", config, path, cloud), 3, "bad.pth");
    assert_answers(savanna("detect -c %s -w %s %s", config, test_path("none.pth"), cloud), 3, "none.pth");
    /* every truncation of a model file is one sentence, and so is a changed byte in the middle of a tensor */
    const char *model = test_path("m.h5");
    ck_assert_int_eq(savanna("init -c %s -o %s", config, model), 0);
    size_t size = 0;
    char *bytes = read_file(model, &size);
    for (size_t part = 1; part < 8; part++) {
        write_file(test_path("cut.h5"), bytes, size * part / 8);
        assert_answers(savanna("detect -w %s %s", test_path("cut.h5"), cloud), 3, "cut.h5");
    }
    bytes[size / 2] ^= 1;
    write_file(test_path("flip.h5"), bytes, size);
    assert_answers(savanna("detect -w %s %s", test_path("flip.h5"), cloud), 3, "checksum");
    free(bytes);
    /* a model that does not fit the configuration */
    assert_answers(savanna("detect -c %s -w %s %s --set MODEL.BACKBONE_3D.OPERATOR.CFG.d_state 8 -q", config,
                           model, cloud),
                   3, "A_log");
}
END_TEST

START_TEST(bad_configurations)
{
    const char *config = small_config(), *model = test_path("m.h5"), *bad = test_path("bad.yaml");
    ck_assert_int_eq(savanna("init -c %s -o %s", config, model), 0);
    size_t size = 0;
    char *text = read_file(config, &size), *changed = malloc(size + 100);
    const char *const edits[][3] = {
        {"SCORE_THRESH", "SCORE_TRESH", "SCORE_TRESH"},
        {"DIFFUSION: true", "DIFFUSION: maybe", "maybe"},
        {"AnchorHeadSingle", "AnchorHeadDouble", "AnchorHeadDouble"},
        {"NAME: Mamba", "NAME: Viper", "Viper"},
        {"GROUP_SIZE: [256, 128, 64, 32]", "GROUP_SIZE: [256, 128, 64]", "GROUP_SIZE"},
        {"NUM_BEV_FEATURES: 32", "NUM_BEV_FEATURES: 48", "48"},
        {"CLASS_NAMES: [", "CLASS_NAMES: [[", "bad.yaml"}};
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        const char *at = strstr(text, edits[i][0]);
        ck_assert_ptr_nonnull(at);
        const size_t before = (size_t)(at - text);
        memcpy(changed, text, before);
        snprintf(changed + before, size + 100 - before, "%s%s", edits[i][1], at + strlen(edits[i][0]));
        write_file(bad, changed, strlen(changed));
        assert_answers(savanna("inspect -q %s", bad), 3, edits[i][2]);
    }
    assert_answers(savanna("inspect -q %s --set MODEL.BACKBONE_3D.WINGS 2", config), 3, "WINGS");
    assert_answers(savanna("inspect %s", test_path("none.yaml")), 3, "none.yaml");
    free(text);
    free(changed);
}
END_TEST

START_TEST(check_tells_what_it_does_not_know)
{
    assert_answers(savanna("check %s", test_path("none")), 3, "none");
    write_file(test_path("a.txt"), "text", 4);
    assert_answers(savanna("check %s", test_path("a.txt")), 3, "not reference data");
    const char *model = test_path("m.h5");
    ck_assert_int_eq(savanna("init -c %s -o %s", small_config(), model), 0);
    assert_answers(savanna("check %s", model), 0, "not covered");
    assert_answers(savanna("check --strict %s", model), 1, "not covered");
}
END_TEST

/* ---- a KITTI folder ----------------------------------------------------------------------------------- */

static void make_folder(const char *name)
{
    mkdir(test_path(name), 0777);
}

/* Two frames of small clouds, a picture each, one labelled car. */
static const char *make_kitti(void)
{
    static const char calibration[] = "P2: 350 0 300 0 0 350 90 0 0 0 1 0.003\nR0_rect: 1 0 0 0 1 0 0 0 1\n"
                                      "Tr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\n";
    static const char label[] = "Car 0.00 0 0.10 250 60 300 90 1.50 1.60 3.90 -1.00 1.60 8.00 -1.57\n";
    static const char *const folders[] = {"kitti",
                                          "kitti/ImageSets",
                                          "kitti/training",
                                          "kitti/training/velodyne",
                                          "kitti/training/image_2",
                                          "kitti/training/calib",
                                          "kitti/training/label_2"};
    char path[128];
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) make_folder(folders[i]);
    sv_ctx *c = test_context(1);
    sv_image image;
    assert_ok(c, sv_image_new(c, &image, 600, 180, 0x336633));
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "kitti/training/velodyne/%06d.bin", i);
        cloud_file(path, (uint64_t)i + 1, 4000);
        snprintf(path, sizeof path, "kitti/training/image_2/%06d.png", i);
        assert_ok(c, sv_image_write_png(c, &image, test_path(path)));
        snprintf(path, sizeof path, "kitti/training/calib/%06d.txt", i);
        write_file(test_path(path), calibration, strlen(calibration));
        snprintf(path, sizeof path, "kitti/training/label_2/%06d.txt", i);
        write_file(test_path(path), label, i == 0 ? strlen(label) : 0);
    }
    sv_image_free(&image);
    sv_ctx_close(c);
    write_file(test_path("kitti/ImageSets/val.txt"), "000000\n000001\n", 14);
    return test_path("kitti");
}

/* Lines of a text; every one must have 16 columns. */
static int count_results(const char *path)
{
    size_t size;
    char *text = read_file(path, &size);
    ck_assert_msg(text != NULL, "%s is not there", path);
    int lines = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        int columns = 1;
        for (const char *p = line; *p; p++) columns += *p == ' ';
        ck_assert_msg(columns == 16 && strstr(line, " -1 -1 ") != NULL, "%s", line);
    }
    free(text);
    return lines;
}

START_TEST(frames_of_a_dataset)
{
    const char *root = make_kitti(), *model = test_path("m.h5");
    ck_assert_int_eq(savanna("init -c %s --seed 4 -o %s", small_config(), model), 0);
    ck_assert_msg(savanna("detect -q -w %s --dataset kitti --root %s", model, root) == 0, "%s", output);
    char *all = strdup(output);
    ck_assert(strstr(all, "\"000000\"") && strstr(all, "\"000001\""));
    ck_assert_int_eq(savanna("detect -q -w %s --dataset kitti --root %s --batch 2 --threads 3", model, root),
                     0);
    ck_assert_str_eq(output, all);
    ck_assert_int_eq(savanna("detect -q -w %s --dataset kitti --root %s --frame 000000 000001", model, root),
                     0);
    ck_assert_str_eq(output, all);
    ck_assert_int_eq(
        savanna("detect -q -w %s --dataset kitti --root %s --frame 1 --split training", model, root), 0);
    ck_assert(strstr(output, "\"000001\"") && !strstr(output, "\"000000\""));
    /* without the filter a frame is the same as its file */
    ck_assert_int_eq(savanna("detect -q -w %s --dataset kitti --root %s --frame 1 --fov all", model, root),
                     0);
    char *whole = strdup(output);
    ck_assert_int_eq(savanna("detect -q -w %s %s/training/velodyne/000001.bin", model, root), 0);
    ck_assert_str_eq(output, whole);
    ck_assert_str_ne(whole, all);
    free(whole);
    /* a file per frame, as many lines as there are boxes; no boxes: an empty file */
    int boxes = 0;
    for (const char *p = all; (p = strstr(p, "\"label\"")) != NULL; p++) boxes++;
    ck_assert_msg(savanna("detect -q -w %s --dataset kitti --root %s --format kitti -o %s", model, root,
                          test_path("results")) == 0,
                  "%s", output);
    ck_assert(boxes > 0);
    ck_assert_int_eq(count_results(test_path("results/000000.txt")) +
                         count_results(test_path("results/000001.txt")),
                     boxes);
    ck_assert_int_eq(savanna("detect -q -w %s --dataset kitti --root %s --format kitti -o %s --set "
                             "MODEL.POST_PROCESSING.SCORE_THRESH 0.9999",
                             model, root, test_path("none/")),
                     0);
    ck_assert_int_eq(count_results(test_path("none/000000.txt")), 0);
    /* a picture: from above beside two of 600 x 180 */
    ck_assert_int_eq(savanna("detect -q -w %s --dataset kitti --root %s --frame 000000 --image %s -o %s",
                             model, root, test_path("p.png"), test_path("o.json")),
                     0);
    sv_ctx *c = test_context(1);
    sv_image picture;
    assert_ok(c, sv_image_read_png(c, test_path("p.png"), &picture));
    ck_assert(picture.height == 366 && picture.width > 700);
    sv_image_free(&picture);
    sv_ctx_close(c);
    free(all);

    assert_answers(savanna("detect -w %s --root %s", model, root), 2, "--root belongs to a dataset");
    assert_answers(savanna("detect -w %s --dataset kitti", model), 2, "--dataset kitti needs --root DIR");
    assert_answers(savanna("detect -w %s --dataset kitti --root %s x.bin", model, root), 2,
                   "frames are chosen with --frame");
    assert_answers(savanna("detect -w %s --dataset kitti --root %s --layout xyzi", model, root), 2,
                   "--layout is for point files");
    assert_answers(savanna("detect -w %s --dataset kitti --root %s --format kitti", model, root), 2,
                   "-o DIR");
    assert_answers(savanna("detect -w %s x.bin --format kitti -o y/", model), 2,
                   "needs the calibration of --dataset");
    assert_answers(savanna("detect -w %s x.bin --format yaml", model), 2,
                   "'yaml' is not json, kitti, nuscenes, waymo, once or argoverse2");
    assert_answers(savanna("detect -w %s --dataset kitty --root %s", model, root), 2,
                   "'kitty' is no dataset");
    assert_answers(savanna("detect -w %s --dataset kitti --root %s --frame 7", model, root), 2,
                   "has no frame '7'");
    assert_answers(savanna("detect -w %s --dataset kitti --root %s --split test", model, root), 3,
                   "has no testing/velodyne");
    assert_answers(savanna("detect -w %s --dataset kitti --root %s --split train", model, root), 3,
                   "the splits there are: val");

    ck_assert_msg(savanna("inspect %s", root) == 0, "%s", output);
    ck_assert(strstr(output, "object benchmark") && strstr(output, "2 scans") &&
              strstr(output, "label_2: 2 files"));
    ck_assert_int_eq(savanna("inspect --json %s", root), 0);
    ck_assert_ptr_nonnull(strstr(output, "\"problems\": 0"));
    remove(test_path("kitti/training/calib/000001.txt"));
    assert_answers(savanna("inspect %s", root), 1, "PROBLEM: calib: 1 files, 1 missing, first 000001.txt");
    assert_answers(savanna("inspect %s/ImageSets", root), 3, "the folder of none of the known datasets");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cli");
    TCase *tests = tcase_create("cli");
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, help_names_every_command_and_usage_errors_exit_2);
    tcase_add_test(tests, results_do_not_depend_on_how_they_are_made);
    tcase_add_test(tests, bad_point_files);
    tcase_add_test(tests, points_of_every_kind);
    tcase_add_test(tests, the_classical_detector_needs_no_weights);
    tcase_add_test(tests, operators_beside_each_other);
    tcase_add_test(tests, stages_under_their_ceilings);
    tcase_add_test(tests, operators_beside_a_peer);
    tcase_add_test(tests, frames_beside_a_peer);
    tcase_add_test(tests, bad_weights_files);
    tcase_add_test(tests, bad_configurations);
    tcase_add_test(tests, check_tells_what_it_does_not_know);
    tcase_add_test(tests, frames_of_a_dataset);
    suite_add_tcase(suite, tests);
    return run_suite(suite, true);
}
