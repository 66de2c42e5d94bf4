/* SPDX-License-Identifier: Apache-2.0 */
#include "frames.h"

#include "perception/points.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int sv_frames_check(const sv_app *app, const sv_frames_def *def, int input_count)
{
    if (!def->dataset && (def->root || def->split || def->fov || def->version || def->sweeps ||
                          def->sweep_rule || def->cache || def->frames.count || def->sequences.count))
        return sv_app_usage_error(app, "%s belongs to a dataset: name it with --dataset",
                                  def->root           ? "--root"
                                  : def->split        ? "--split"
                                  : def->fov          ? "--fov"
                                  : def->version      ? "--version"
                                  : def->sweeps       ? "--sweeps"
                                  : def->sweep_rule   ? "--sweep-rule"
                                  : def->cache        ? "--cache"
                                  : def->frames.count ? "--frame"
                                                      : "--sequence");
    if (def->dataset && !def->root)
        return sv_app_usage_error(app, "--dataset %s needs --root DIR", def->dataset);
    if (def->dataset && def->layout)
        return sv_app_usage_error(app, "--layout is for point files; the layout of --dataset %s is known",
                                  def->dataset);
    if (def->dataset && input_count > 0 && def->frames.count == 0)
        return sv_app_usage_error(app,
                                  "with --dataset no point files are named; frames are chosen with --frame");
    if (!def->dataset && input_count == 0)
        return sv_app_usage_error(app,
                                  "name at least one point file, or a dataset with --dataset and --root");
    return 0;
}

/* The number of the frame 'id' in the dataset. */
static sv_status find_frame(sv_ctx *c, const sv_dataset *d, const char *id, int *out)
{
    *out = sv_dataset_find(d, id);
    const int count = sv_dataset_count(d);
    SV_CHECK(c, *out >= 0, SV_USAGE, "%s (%d frames, %s to %s) has no frame '%.60s', or several that end so",
             sv_dataset_summary(d), count, count ? sv_dataset_id(d, 0) : "",
             count ? sv_dataset_id(d, count - 1) : "", id);
    return SV_OK;
}

static sv_status open_dataset(sv_ctx *c, char **inputs, int input_count, const char *layout, sv_frames *s)
{
    const sv_frames_def *def = &s->def;
    sv_dataset_def dataset = sv_dataset_def_default(def->dataset, def->root);
    dataset.split = def->split;
    dataset.fov = def->fov;
    dataset.version = def->version;
    dataset.sweeps = def->sweeps;
    dataset.sweep_rule = def->sweep_rule;
    dataset.cache = def->cache;
    dataset.sequences = def->sequences.text;
    dataset.sequence_count = def->sequences.count;
    SV_TRY(sv_dataset_open(c, &dataset, &s->dataset));
    const char *there = sv_dataset_layout(s->dataset);
    const bool fits = strcmp(layout, there) == 0 ||
                      ((size_t)s->least < strlen(layout) && strncmp(layout, there, (size_t)s->least) == 0);
    SV_CHECK(c, fits, SV_BAD_INPUT, "points of --dataset %s are %s, the model takes %s", def->dataset,
             sv_dataset_layout(s->dataset), layout);
    const int named = def->frames.count;
    s->count = named > 0 ? named + input_count : sv_dataset_count(s->dataset);
    SV_CHECK(c, s->count > 0, SV_BAD_INPUT, "%s: %s has no frames", def->root,
             sv_dataset_summary(s->dataset));
    if (named == 0) return SV_OK;
    s->samples = malloc(sizeof *s->samples * (size_t)s->count);
    SV_CHECK(c, s->samples != NULL, SV_NO_MEMORY, "no memory for %d frames", s->count);
    for (int i = 0; i < s->count; i++)
        SV_TRY(
            find_frame(c, s->dataset, i < named ? def->frames.text[i] : inputs[i - named], &s->samples[i]));
    return SV_OK;
}

sv_status sv_frames_open(sv_ctx *c, const sv_frames_def *def, char **inputs, int input_count,
                         const char *layout, int least, sv_frames *out)
{
    *out = (sv_frames){.def = *def, .least = least};
    if (!def->dataset) {
        out->files = inputs;
        out->count = input_count;
        if (!out->def.layout) out->def.layout = layout;
        return SV_OK;
    }
    const sv_status status = open_dataset(c, inputs, input_count, layout, out);
    if (status != SV_OK) sv_frames_close(out);
    return status;
}

void sv_frames_close(sv_frames *s)
{
    sv_dataset_close(s->dataset);
    free(s->samples);
    *s = (sv_frames){0};
}

/* "dir/000134.bin" -> "000134" */
static void stem_of(const char *path, char *out, size_t size)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    snprintf(out, size, "%.*s", (int)(dot && dot > name ? (size_t)(dot - name) : strlen(name)), name);
}

static sv_status read_file(sv_ctx *c, const char *path, const char *layout, int least, sv_sample *out)
{
    sv_points points = {0};
    SV_TRY(sv_points_read_least(c, path, layout, least, &points));
    out->dropped = points.dropped;
    const sv_status status = sv_sample_frame(c, out, points.count, points.columns);
    if (status == SV_OK) {
        if (points.count > 0)
            memcpy(out->frame->points, points.data,
                   sizeof *points.data * (size_t)points.count * (size_t)points.columns);
        out->frame->count = points.count;
        stem_of(path, out->id, sizeof out->id);
        memcpy(out->frame->id, out->id, sizeof out->frame->id);
    }
    sv_points_free(&points);
    return status;
}

sv_status sv_frames_read(sv_ctx *c, const sv_frames *s, int index, unsigned parts, sv_sample *out)
{
    const char *name = s->files ? s->files[index] : out->id;
    if (s->files)
        SV_TRY(read_file(c, name, s->def.layout, s->least, out));
    else
        SV_TRY(sv_dataset_read(c, s->dataset, s->samples ? s->samples[index] : index, parts, out));
    if (out->dropped > 0)
        sv_log(c, SV_LOG_WARNING, "%s: %d points that are not finite were left out", name, out->dropped);
    return SV_OK;
}
