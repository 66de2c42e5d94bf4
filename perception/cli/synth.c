/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna synth: simulated drives in a dataset's layout.
 */
#include "app.h"

#include "datasets/synthetic/synth.h"

#include <stdio.h>

static const char *format = "kitti", *beams;
static int frames = 100, drives;
static bool no_images;

static void step(void *user, int done)
{
    sv_progress_step(user, done);
}

static int run_synth(sv_app *app, int count, char **inputs)
{
    if (count != 1) return sv_app_usage_error(app, "name one folder to write to");
    if (frames < 1) return sv_app_usage_error(app, "--frames: %d is not positive", frames);
    if (app->seed < 0 || app->seed > 9007199254740992.0 || app->seed != (double)(uint64_t)app->seed)
        return sv_app_usage_error(app, "--seed: %g is not a whole number within 0..2^53", app->seed);
    int code = 0;
    sv_ctx *c = sv_app_ctx(app, &code);
    if (!c) return code;
    sv_progress progress;
    const sv_synth_def def = {.format = format,
                              .folder = inputs[0],
                              .frames = frames,
                              .drives = drives > 0 ? drives : (frames + 19) / 20,
                              .seed = (uint64_t)app->seed,
                              .lidar = beams,
                              .images = !no_images,
                              .progress = step,
                              .user = &progress};
    sv_progress_begin(&progress, app, "simulate", "frames", frames);
    sv_synth_summary summary;
    const sv_status status = sv_synth_run(c, &def, &summary);
    sv_progress_end(&progress);
    if (status != SV_OK) {
        code = sv_app_fail(app, status, sv_error_message(c));
    } else if (app->json) {
        printf("{\"folder\": \"%s\", \"frames\": %d, \"written\": %d, \"kept\": %d, \"points\": %ld, "
               "\"labels\": %ld}\n",
               inputs[0], frames, summary.written, summary.kept, summary.points, summary.labels);
    } else {
        sv_app_say(
            app, "%s: %d frames of %d drives, %d written now (%ld points, %ld labels), %d there before",
            inputs[0], frames, def.drives, summary.written, summary.points, summary.labels, summary.kept);
    }
    sv_ctx_close(c);
    return code;
}

static const sv_option options[] = {
    {"--format", 0, SV_OPTION_TEXT, &format, "kitti|nuscenes|waymo", "Layout of the dataset. Default kitti."},
    {"--frames", 0, SV_OPTION_INT, &frames, "N", "How many. Default 100."},
    {"--drives", 0, SV_OPTION_INT, &drives, "N",
     "Streets they are spread over, evenly; the frames of a drive follow each other by 0.1 s, those of "
     "nuscenes "
     "(key frames) by 0.5 s. Default: one for every 20 frames."},
    {"--beams", 0, SV_OPTION_TEXT, &beams, "hdl64|hdl32|os128|roof64",
     "Table of the LiDAR's beams; of waymo the one on the roof. Default: hdl64 for kitti, hdl32 for "
     "nuscenes, roof64 "
     "for waymo."},
    {"--no-images", 0, SV_OPTION_FLAG, &no_images, NULL, "Write no pictures (two thirds of the time)."},
};

const sv_command sv_command_synth = {
    .name = "synth",
    .summary = "simulate drives with LiDAR, camera and labels",
    .usage = "FOLDER [--format kitti|nuscenes|waymo] [--frames N] [--seed S]",
    .description =
        "Casts the rays of a turning LiDAR and of a camera at streets drawn from a seed: sloped "
        "ground, cars, vans and "
        "lorries that drive and park, people on foot, seated and on bicycles, houses, trees, "
        "fences, poles. Writes scans, "
        "pictures, calibration, labels (with truncation, occlusion and image boxes), lists and "
        "poses in the layout of the "
        "dataset, so that every other command reads them like the real one.\n"
        "kitti: one LiDAR, one camera. nuscenes: a sweep every 0.05 s and the pose of each, so that ten "
        "gather into a frame; six cameras of 800 x 450 pixels; tables of v1.0-trainval, with streets named "
        "as scenes of its splits. waymo: range images of five lasers, five cameras of 640 pixels, a "
        "TFRecord for every drive. Every second drive is for validation, and a single one (of kitti its "
        "second half).\n"
        "The same seed gives the same bytes for any number of threads. An interrupted run is "
        "continued by the same command; "
        "a folder with anything else in it is left alone.",
    .examples = "  savanna synth drive --frames 60 --seed 1\n"
                "  savanna eval -c cluster --dataset kitti --root drive --split val\n"
                "  savanna synth scenes --format nuscenes --frames 40 --seed 1\n"
                "  savanna eval -c cluster --root scenes\n"
                "  savanna detect -c cluster --dataset kitti --root drive --split train --frame 000000 "
                "--image look.png\n",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run_synth,
};
