/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna cache: the decoded frames of a split in HDF5 files, so that they are decoded once.
 */
#define _GNU_SOURCE /* flock */
#include "app.h"

#include "datasets/cache.h"
#include "datasets/dataset_type.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *dataset_name, *root, *split, *fov, *version, *sweep_rule, *output;
static int sweeps, per_part;
static bool verify, measure;

enum { PATH = 4096, MEASURED = 200 };

/* ---- the folder --------------------------------------------------------------------------------------- */

/* What a killed run was writing: NAME.part-PID-NUMBER. */
static sv_status remove_parts(sv_ctx *c)
{
    sv_names names;
    SV_TRY(sv_dataset_list(c, output, "", &names));
    sv_status status = SV_OK;
    for (int i = 0; i < names.count && status == SV_OK; i++) {
        char path[PATH];
        const char *part = strstr(names.data[i], ".h5.part-");
        if (!part || strspn(part + 9, "0123456789-") != strlen(part + 9)) continue;
        status = sv_dataset_path(c, path, sizeof path, "%s/%s", output, names.data[i]);
        if (status == SV_OK && unlink(path) != 0)
            status = SV_FAIL(c, SV_IO, "%s: cannot be removed: %s", path, strerror(errno));
    }
    sv_names_free(&names);
    return status;
}

/* The lock goes with the process. File systems without locks are used without. */
static sv_status take_folder(sv_ctx *c, int *lock)
{
    SV_CHECK(c, sv_dataset_is_folder(output) || mkdir(output, 0777) == 0, SV_IO,
             "%s: the folder cannot be made: %s", output, strerror(errno));
    *lock = open(output, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    SV_CHECK(c, *lock >= 0, SV_IO, "%s: the folder cannot be opened: %s", output, strerror(errno));
    SV_CHECK(c, flock(*lock, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK, SV_IO,
             "%s: another run is writing there", output);
    return remove_parts(c);
}

/* ---- speed -------------------------------------------------------------------------------------------- */

static sv_status time_reading(sv_ctx *c, const sv_dataset *d, int count, double *ms, long long *bytes)
{
    sv_sample sample = {0};
    sv_status status = SV_OK;
    *bytes = 0;
    const double began = sv_clock_ms();
    for (int i = 0; i < count && status == SV_OK; i++) {
        status = sv_dataset_read(c, d, i, SV_READ_POINTS, &sample);
        if (status == SV_OK) *bytes += (long long)sample.frame->count * sample.frame->columns * 4;
    }
    *ms = (sv_clock_ms() - began) / count;
    sv_sample_free(&sample);
    return status;
}

/* One thread, the better of two turns each, taken in turn. */
static sv_status compare_speed(sv_app *app, sv_ctx *c, const sv_dataset *source, const sv_dataset *cached)
{
    const int count = sv_dataset_count(source) < MEASURED ? sv_dataset_count(source) : MEASURED;
    double best[2] = {1e30, 1e30}, ms;
    long long bytes[2];
    for (int turn = 0; turn < 4; turn++) {
        SV_TRY(time_reading(c, turn % 2 ? cached : source, count, &ms, &bytes[turn % 2]));
        if (ms < best[turn % 2]) best[turn % 2] = ms;
    }
    SV_CHECK(c, bytes[0] == bytes[1], SV_INTERNAL, "the cache gives %lld bytes of points, the source %lld",
             bytes[1], bytes[0]);
    if (app->json)
        printf("{\"frames\": %d, \"source_ms\": %.3f, \"cache_ms\": %.3f}\n", count, best[0], best[1]);
    else
        printf("%d frames, points alone: source %.2f ms a frame, cache %.2f ms (%.0f MB/s), %.1f times as "
               "fast\n",
               count, best[0], best[1], 1e-3 * (double)bytes[1] / count / best[1], best[0] / best[1]);
    return SV_OK;
}

/* ---- the command -------------------------------------------------------------------------------------- */

static void step(void *user, int done)
{
    sv_progress_step(user, done);
}

static sv_status make(sv_app *app, sv_ctx *c, const sv_dataset *d, const sv_cache_progress *report)
{
    int lock = -1;
    sv_cache_summary s;
    sv_status status = take_folder(c, &lock);
    if (status == SV_OK) status = sv_cache_make(c, d, output, per_part, report, &s);
    if (lock >= 0) close(lock);
    SV_TRY(status);
    sv_progress_end(report->user);
    if (app->json)
        printf("{\"folder\": \"%s\", \"written\": %d, \"kept\": %d, \"points\": %lld, \"boxes\": %lld, "
               "\"bytes\": %lld, "
               "\"stored\": %lld}\n",
               output, s.written, s.kept, s.points, s.boxes, s.bytes, s.stored);
    else
        sv_app_say(
            app, "%s: %d samples written now (%lld points, %lld boxes; %.1f MB as %.1f MB), %d there before",
            output, s.written, s.points, s.boxes, 1e-6 * (double)s.bytes, 1e-6 * (double)s.stored, s.kept);
    return SV_OK;
}

static sv_status work(sv_app *app, sv_ctx *c)
{
    sv_dataset *d = NULL, *cached = NULL;
    sv_dataset_def def = sv_dataset_def_default(dataset_name, root);
    def.split = split;
    def.fov = fov;
    def.version = version;
    def.sweeps = sweeps;
    def.sweep_rule = sweep_rule;
    SV_TRY(sv_dataset_open(c, &def, &d));
    sv_progress progress;
    const sv_cache_progress report = {step, &progress};
    sv_progress_begin(&progress, app, verify ? "verify" : "cache", "samples", sv_dataset_count(d));
    sv_status status = SV_OK;
    if (verify)
        status = sv_cache_verify(c, d, output, &report);
    else if (!measure)
        status = make(app, c, d, &report);
    sv_progress_end(&progress);
    if (status == SV_OK && verify) sv_app_say(app, "%s: all of it is as the source is", output);
    if (status == SV_OK && measure) {
        def.cache = output;
        status = sv_dataset_open(c, &def, &cached);
        if (status == SV_OK) status = compare_speed(app, c, d, cached);
        sv_dataset_close(cached);
    }
    sv_dataset_close(d);
    return status;
}

static int run_cache(sv_app *app, int count, char **inputs)
{
    if (count > 0)
        return sv_app_usage_error(app, "'%s' is not expected: the dataset is --root, the cache -o",
                                  inputs[0]);
    if (!root || !output)
        return sv_app_usage_error(app, "name the dataset (--root DIR) and the cache (-o FOLDER)");
    if (verify && measure) return sv_app_usage_error(app, "--verify and --compare are two runs");
    if (per_part < 0) return sv_app_usage_error(app, "--part: %d is not positive", per_part);
    int code = 0;
    sv_ctx *c = sv_app_ctx(app, &code);
    if (!c) return code;
    const sv_status status = work(app, c);
    if (status != SV_OK) code = sv_app_fail(app, status, sv_error_message(c));
    sv_ctx_close(c);
    return code;
}

static const sv_option options[] = {
    {"--root", 0, SV_OPTION_TEXT, &root, "DIR", "Folder of the dataset."},
    {"--output", 'o', SV_OPTION_TEXT, &output, "FOLDER", "The cache: made, continued, or looked at."},
    {"--dataset", 0, SV_OPTION_TEXT, &dataset_name, "D",
     "Which dataset; default: the one that the folder looks like."},
    {"--split", 0, SV_OPTION_TEXT, &split, "S", "As 'savanna help eval' says."},
    {"--fov", 0, SV_OPTION_TEXT, &fov, "training|devkit|all",
     "KITTI: which points of a full scan; see 'savanna help detect'."},
    {"--version", 0, SV_OPTION_TEXT, &version, "V", "nuScenes: which tables."},
    {"--sweeps", 0, SV_OPTION_INT, &sweeps, "N", "Sweeps (nuScenes) or frames (Waymo) gathered into one."},
    {"--sweep-rule", 0, SV_OPTION_TEXT, &sweep_rule, "training|devkit", "nuScenes: how they are gathered."},
    {"--part", 0, SV_OPTION_INT, &per_part, "N",
     "Samples in a file; a killed run loses the one at work. Default 64 or more."},
    {"--verify", 0, SV_OPTION_FLAG, &verify, NULL,
     "Make nothing: compare the checksums of all files that the cache was made from."},
    {"--compare", 0, SV_OPTION_FLAG, &measure, NULL,
     "Make nothing: print how long points take from the source and from the cache."},
};

const sv_command sv_command_cache = {
    .name = "cache",
    .summary = "keep the decoded frames of a split, so that evaluations read instead of decode",
    .usage = "--root DIR [--split S] -o FOLDER [--verify|--compare]",
    .description = "Writes the points of every sample as a detector gets them (sweeps gathered, range images "
                   "unpacked, the field of "
                   "view cut), its boxes and poses, into HDF5 files of some samples each, compressed; any "
                   "HDF5 program reads them. "
                   "'savanna eval' and 'savanna detect' take points from there with --cache FOLDER and "
                   "everything else from the "
                   "dataset, with the same results.\n"
                   "A file appears when it is whole: a run that was killed is continued by the same command. "
                   "Opening a cache compares "
                   "settings and, sample by sample, sizes of the files it was made from, and poses; --verify "
                   "their checksums.",
    .examples = "  savanna cache --root waymo --split validation -o waymo_cache\n"
                "  savanna eval --root waymo --cache waymo_cache -c waymo_lion_mamba_64 -w lion.pth\n"
                "  savanna cache --root waymo -o waymo_cache --compare\n",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run_cache,
};
