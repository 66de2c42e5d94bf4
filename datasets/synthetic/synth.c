/* SPDX-License-Identifier: Apache-2.0 */
#include "synth.h"

#include "perception/core/file.h"
#include "random.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const sv_synth_format *const formats[] = {
#define FORMAT(name) &sv_synth_format_##name,
#include "formats.def"
#undef FORMAT
};
enum { FORMATS = sizeof formats / sizeof formats[0] };

const char *sv_synth_format_name(int index)
{
    return index >= 0 && index < FORMATS ? formats[index]->name : NULL;
}

int sv_synth_drive_length(const sv_synth_def *def)
{
    return (def->frames + def->drives - 1) / def->drives;
}

sv_synth_frame sv_synth_frame_at(const sv_synth_def *def, int index)
{
    const int length = sv_synth_drive_length(def), drive = index / length;
    sv_synth_frame f = {.index = index, .drive = drive, .of_drive = index % length};
    f.time = 0.1 * f.of_drive;
    f.world = sv_sim_world_make(sim_key(def->seed, 0xD17E, (uint64_t)drive));
    f.key = sim_key(def->seed, 0xF4A3E, (uint64_t)index);
    return f;
}

/* ---- the folder --------------------------------------------------------------------------------------- */

sv_status sv_synth_make_folder(sv_ctx *c, const char *root, const char *inside)
{
    char path[1024];
    const int length = snprintf(path, sizeof path, "%s%s%s", root, *inside ? "/" : "", inside);
    SV_CHECK(c, length > 0 && length < (int)sizeof path, SV_USAGE, "%s: the path is too long", root);
    struct stat info;
    /* each part that is missing */
    for (char *slash = path + 1;; slash++) {
        if (*slash && *slash != '/') continue;
        const char kept = *slash;
        *slash = 0;
        SV_CHECK(c, (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) || mkdir(path, 0777) == 0, SV_IO,
                 "%s: the folder cannot be made", path);
        *slash = kept;
        if (!kept) return SV_OK;
    }
}

sv_status sv_synth_write_text(sv_ctx *c, const char *path, const char *text)
{
    sv_output output;
    SV_TRY(sv_output_open(c, &output, path));
    fputs(text, output.stream);
    const sv_status status = sv_output_commit(c, &output);
    sv_output_discard(&output);
    return status;
}

static bool is_empty(const char *folder)
{
    DIR *dir = opendir(folder);
    if (!dir) return true;
    bool empty = true;
    for (const struct dirent *entry; empty && (entry = readdir(dir));)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    closedir(dir);
    return empty;
}

/* The settings lie beside the data, so that a second run knows whether it continues the first. */
static sv_status claim_folder(sv_ctx *c, const sv_synth_def *def)
{
    char path[1024], settings[512];
    snprintf(path, sizeof path, "%s/synth.txt", def->folder);
    snprintf(settings, sizeof settings,
             "savanna synth --format %s --frames %d --drives %d --seed %llu --beams %s%s\n", def->format,
             def->frames, def->drives, (unsigned long long)def->seed, def->lidar,
             def->images ? "" : " --no-images");
    struct stat info;
    if (stat(path, &info) == 0) {
        void *text = NULL;
        size_t size = 0;
        SV_TRY(sv_file_read(c, path, 4096, &text, &size));
        const bool same = strcmp(text, settings) == 0;
        char *end = strchr(text, '\n');
        if (end) *end = 0;
        const sv_status status =
            same ? SV_OK
                 : SV_FAIL(c, SV_USAGE,
                           "%s was made by '%.200s': continue with these settings, or name another folder",
                           def->folder, (const char *)text);
        free(text);
        return status;
    }
    SV_CHECK(c, is_empty(def->folder), SV_USAGE,
             "%s is not empty and no simulation of ours: name a new folder, nothing is written over",
             def->folder);
    SV_TRY(sv_synth_make_folder(c, def->folder, ""));
    return sv_synth_write_text(c, path, settings);
}

/* ---- frames ------------------------------------------------------------------------------------------- */

typedef struct worker {
    sv_ctx *c;
    sv_status status;
    long points, labels;
    int written, kept;
} worker;

typedef struct job {
    const sv_synth_def *def;
    const sv_synth_format *format;
    worker *workers;
    int first;
} job;

static void write_one(void *arg, int task, int index)
{
    job *j = arg;
    worker *w = &j->workers[index];
    const int frame = j->first + task;
    if (w->status != SV_OK) return;
    if (j->format->have(j->def, frame)) {
        w->kept++;
        return;
    }
    w->status = j->format->write(w->c, j->def, frame, &w->points, &w->labels);
    w->written += w->status == SV_OK;
}

static sv_status write_all(sv_ctx *c, job *j, int workers)
{
    const int batch = 4 * workers;
    for (j->first = 0; j->first < j->def->frames; j->first += batch) {
        const int left = j->def->frames - j->first;
        sv_pool_run(c->pool, write_one, j, left < batch ? left : batch);
        for (int i = 0; i < workers; i++)
            SV_CHECK(c, j->workers[i].status == SV_OK, j->workers[i].status, "%s",
                     sv_error_message(j->workers[i].c));
        if (j->def->progress) j->def->progress(j->def->user, j->first + (left < batch ? left : batch));
    }
    return SV_OK;
}

/* "a, b, c" of a list that ends with NULL. */
static void say_names(const char *(*name)(int), char *out, size_t room)
{
    size_t used = 0;
    for (int i = 0; name(i) && used < room; i++)
        used += (size_t)snprintf(out + used, room - used, "%s%s", i > 0 ? ", " : "", name(i));
}

sv_status sv_synth_run(sv_ctx *c, const sv_synth_def *given, sv_synth_summary *out)
{
    *out = (sv_synth_summary){0};
    sv_synth_def def = *given;
    const sv_synth_format *format = NULL;
    for (int i = 0; i < FORMATS; i++)
        if (strcmp(formats[i]->name, def.format) == 0) format = formats[i];
    char names[160];
    say_names(sv_synth_format_name, names, sizeof names);
    SV_CHECK(c, format, SV_USAGE, "'%s' is no format; these are: %s", def.format, names);
    if (!def.lidar) def.lidar = format->lidar;
    say_names(sv_sim_lidar_name, names, sizeof names);
    SV_CHECK(c, sv_sim_lidar_find(def.lidar), SV_USAGE, "'%s' is no table of beams; these are: %s", def.lidar,
             names);
    SV_CHECK(c, def.frames >= 1 && def.frames <= 1000000, SV_USAGE, "%d frames: 1..1000000 are possible",
             def.frames);
    SV_CHECK(c, def.drives >= 1 && def.drives <= def.frames, SV_USAGE,
             "%d drives for %d frames: every drive needs one at least", def.drives, def.frames);
    SV_TRY(claim_folder(c, &def));
    SV_TRY(format->begin(c, &def));

    const int workers = sv_pool_threads(c->pool);
    job j = {.def = &def, .format = format, .workers = calloc((size_t)workers, sizeof *j.workers)};
    SV_CHECK(c, j.workers, SV_NO_MEMORY, "no memory for %d workers", workers);
    sv_status status = SV_OK;
    for (int i = 0; i < workers && status == SV_OK; i++) {
        sv_ctx_def alone = sv_ctx_def_default();
        alone.threads = 1;
        status = sv_ctx_open(&alone, &j.workers[i].c);
        if (status != SV_OK) SV_FAIL(c, status, "no context for worker %d", i);
    }
    if (status == SV_OK) status = write_all(c, &j, workers);
    for (int i = 0; i < workers; i++) {
        out->written += j.workers[i].written;
        out->kept += j.workers[i].kept;
        out->points += j.workers[i].points;
        out->labels += j.workers[i].labels;
        sv_ctx_close(j.workers[i].c);
    }
    free(j.workers);
    return status == SV_OK ? format->end(c, &def) : status;
}
