/* SPDX-License-Identifier: Apache-2.0 */
#include "custom_dataset.h"

#include "evaluator_type.h"
#include "object_text.h"
#include "perception/core/file.h"
#include "perception/points.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 4096, LONGEST = 1 << 28 };

/* A frame of points/. */
typedef struct file {
    char name[64], extension[8]; /* ".bin" */
    const sv_custom_pose *pose;  /* NULL: none */
    int sequence;                /* the first line of it in poses.txt */
    bool chosen;
} file;

/* sv_dataset.own */
typedef struct custom {
    sv_custom_description description;
    const char *classes[SV_OBJECT_CLASSES];
    sv_custom_poses poses;
    file *files; /* of the dataset's samples, in their order */
    int file_count;
    bool labelled;
} custom;

const sv_object_measure *sv_custom_measure_of(const sv_dataset *dataset)
{
    return &((const custom *)dataset->own)->description.measure;
}

static bool recognise(const char *root)
{
    char path[PATH];
    const bool fits = snprintf(path, sizeof path, "%s/dataset.txt", root) < PATH && sv_dataset_is_file(path);
    return fits && snprintf(path, sizeof path, "%s/points", root) < PATH && sv_dataset_is_folder(path);
}

/* ---- opening ------------------------------------------------------------------------------------------ */

/* A text file of the root; missing ones leave '*text' NULL unless they are needed. */
static sv_status read_text(sv_ctx *c, const char *root, const char *name, bool needed, char path[PATH],
                           void **text, size_t *size)
{
    *text = NULL;
    *size = 0;
    SV_TRY(sv_dataset_path(c, path, PATH, "%s/%s", root, name));
    if (!needed && !sv_dataset_is_file(path)) return SV_OK;
    return sv_file_read(c, path, LONGEST, text, size);
}

static sv_status read_description(sv_ctx *c, sv_dataset *d, custom *own)
{
    char path[PATH];
    void *text;
    size_t size;
    SV_TRY(read_text(c, d->root, "dataset.txt", true, path, &text, &size));
    const sv_status status = sv_custom_parse_description(c, path, text, size, &own->description);
    free(text);
    SV_TRY(status);
    for (int i = 0; i < own->description.measure.count; i++)
        own->classes[i] = own->description.measure.names[i];
    d->classes = own->classes;
    d->class_count = own->description.measure.count;
    d->layout = own->description.layout;
    return SV_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const file *)a)->name, ((const file *)b)->name);
}

static sv_status list_files(sv_ctx *c, const sv_dataset *d, custom *own)
{
    char folder[PATH];
    sv_names names;
    SV_TRY(sv_dataset_path(c, folder, sizeof folder, "%s/points", d->root));
    SV_TRY(sv_dataset_list(c, folder, "", &names));
    own->files = calloc((size_t)names.count + 1, sizeof *own->files);
    sv_status status = own->files ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "%s: no memory", folder);
    for (int i = 0; i < names.count && status == SV_OK; i++) {
        const char *name = names.data[i], *dot = strrchr(name, '.');
        file *f = &own->files[own->file_count];
        if (!sv_points_name(name) || !dot) continue;
        const size_t stem = (size_t)(dot - name);
        if (stem == 0 || stem >= sizeof f->name || strpbrk(name, " \t"))
            status = SV_FAIL(c, SV_BAD_INPUT,
                             "%s/%s: the name of a frame has 1 to %zu letters and no spaces; rename the file",
                             folder, name, sizeof f->name - 1);
        else
            own->file_count += snprintf(f->name, sizeof f->name, "%.*s", (int)stem, name) > 0;
        if (status == SV_OK) snprintf(f->extension, sizeof f->extension, "%s", dot);
    }
    sv_names_free(&names);
    SV_TRY(status);
    SV_CHECK(c, own->file_count > 0, SV_BAD_INPUT, "%s: holds no points (.bin, .npy, .pcd, .ply)", folder);
    qsort(own->files, (size_t)own->file_count, sizeof *own->files, by_name);
    for (int i = 1; i < own->file_count; i++)
        SV_CHECK(c, strcmp(own->files[i - 1].name, own->files[i].name) != 0, SV_BAD_INPUT,
                 "%s: %s is there twice, as %s and as %s: remove one", folder, own->files[i].name,
                 own->files[i - 1].extension, own->files[i].extension);
    return SV_OK;
}

static file *find_file(const custom *own, const char *name)
{
    file key;
    snprintf(key.name, sizeof key.name, "%s", name);
    return bsearch(&key, own->files, (size_t)own->file_count, sizeof key, by_name);
}

static int by_sequence(const void *a, const void *b)
{
    const sv_custom_pose *x = *(const sv_custom_pose *const *)a, *y = *(const sv_custom_pose *const *)b;
    const int order = strcmp(x->sequence, y->sequence);
    return order ? order : x < y ? -1 : x > y;
}

/* Sequences in the order of their first lines. */
static sv_status rank_sequences(sv_ctx *c, custom *own)
{
    const sv_custom_pose *all = own->poses.data,
                         **sorted = malloc(sizeof *sorted * (size_t)(own->poses.count + 1));
    SV_CHECK(c, sorted, SV_NO_MEMORY, "no memory for %d poses", own->poses.count);
    for (int i = 0; i < own->poses.count; i++) sorted[i] = &all[i];
    qsort(sorted, (size_t)own->poses.count, sizeof *sorted, by_sequence);
    for (int i = 0, first = 0; i < own->poses.count; i++) {
        if (strcmp(sorted[i]->sequence, sorted[first]->sequence) != 0) first = i;
        find_file(own, sorted[i]->name)->sequence = (int)(sorted[first] - all);
    }
    free(sorted);
    return SV_OK;
}

static sv_status read_poses(sv_ctx *c, const sv_dataset *d, custom *own)
{
    char path[PATH];
    void *text;
    size_t size;
    SV_TRY(read_text(c, d->root, "poses.txt", false, path, &text, &size));
    if (!text) return SV_OK;
    const sv_status status = sv_custom_parse_poses(c, path, text, size, &own->poses);
    free(text);
    SV_TRY(status);
    for (int i = 0; i < own->poses.count; i++) {
        const sv_custom_pose *p = &own->poses.data[i];
        file *f = find_file(own, p->name);
        SV_CHECK(c, f, SV_BAD_INPUT, "%s: the frame %s has no file in points/; take its line out", path,
                 p->name);
        SV_CHECK(c, !f->pose, SV_BAD_INPUT, "%s: the frame %s stands twice", path, p->name);
        f->pose = p;
    }
    SV_TRY(rank_sequences(c, own));
    for (int i = 0; i < own->file_count; i++)
        SV_CHECK(c, own->files[i].pose, SV_BAD_INPUT,
                 "%s: the frame %s has no line; where there are poses every frame has one", path,
                 own->files[i].name);
    return SV_OK;
}

static sv_status no_split(sv_ctx *c, const sv_dataset *d)
{
    char folder[PATH], there[400] = "nothing";
    sv_names names;
    SV_TRY(sv_dataset_path(c, folder, sizeof folder, "%s/splits", d->root));
    if (sv_dataset_is_folder(folder)) {
        SV_TRY(sv_dataset_list(c, folder, ".txt", &names));
        sv_names_say(&names, there, sizeof there);
        sv_names_free(&names);
    }
    return SV_FAIL(c, SV_USAGE, "%s: has no splits/%s.txt; in splits/ there is %s; 'all' takes every frame",
                   d->root, d->split, there);
}

/* Without a name: val where there is one, else everything. */
static sv_status choose_split(sv_ctx *c, const sv_dataset_def *def, sv_dataset *d, custom *own)
{
    char path[PATH], inner[96];
    void *text = NULL;
    size_t size = 0;
    const char *split = def->split ? def->split : "val";
    SV_CHECK(c, strlen(split) < sizeof d->split && !strchr(split, '/'), SV_USAGE,
             "'%.60s' is no name of a split: it stands for splits/NAME.txt", split);
    snprintf(d->split, sizeof d->split, "%s", split);
    snprintf(inner, sizeof inner, "splits/%s.txt", split);
    if (strcmp(split, "all") != 0) SV_TRY(read_text(c, d->root, inner, false, path, &text, &size));
    if (!text) {
        if (def->split && strcmp(split, "all") != 0) return no_split(c, d);
        snprintf(d->split, sizeof d->split, "all");
        for (int i = 0; i < own->file_count; i++) own->files[i].chosen = true;
        return SV_OK;
    }
    sv_names names;
    sv_status status = sv_custom_parse_names(c, path, text, size, &names);
    free(text);
    SV_TRY(status);
    for (int i = 0; i < names.count && status == SV_OK; i++) {
        file *f = find_file(own, names.data[i]);
        if (!f || f->chosen)
            status =
                SV_FAIL(c, SV_BAD_INPUT,
                        f ? "%s: the frame %.63s stands twice" : "%s: the frame %.63s has no file in points/",
                        path, names.data[i]);
        else
            f->chosen = true;
    }
    sv_names_free(&names);
    return status;
}

static sv_status choose_sequences(sv_ctx *c, const sv_dataset_def *def, const sv_dataset *d, custom *own)
{
    for (int i = 0; i < def->sequence_count; i++) {
        bool found = false;
        for (int k = 0; k < own->poses.count; k++)
            found |= strcmp(own->poses.data[k].sequence, def->sequences[i]) == 0;
        SV_CHECK(c, found, SV_USAGE, "%s: no frame of poses.txt is of the sequence '%.60s'", d->root,
                 def->sequences[i]);
    }
    for (int i = 0; def->sequence_count > 0 && i < own->file_count; i++) {
        bool wanted = false;
        for (int k = 0; k < def->sequence_count; k++)
            wanted |= strcmp(own->files[i].pose->sequence, def->sequences[k]) == 0;
        own->files[i].chosen &= wanted;
    }
    return SV_OK;
}

/* Chosen ones first: by sequence and time where there are poses, else by name. */
static int in_order(const void *a, const void *b)
{
    const file *x = a, *y = b;
    if (x->chosen != y->chosen) return x->chosen ? -1 : 1;
    if (x->sequence != y->sequence) return x->sequence < y->sequence ? -1 : 1;
    if (x->pose && y->pose && x->pose->time != y->pose->time) return x->pose->time < y->pose->time ? -1 : 1;
    return strcmp(x->name, y->name);
}

static sv_status open_custom(sv_ctx *c, const sv_dataset_def *def, sv_dataset *d)
{
    custom *own = calloc(1, sizeof *own);
    SV_CHECK(c, own, SV_NO_MEMORY, "%s: no memory", d->root);
    d->own = own;
    SV_TRY(read_description(c, d, own));
    SV_TRY(list_files(c, d, own));
    SV_TRY(read_poses(c, d, own));
    SV_TRY(choose_split(c, def, d, own));
    SV_TRY(choose_sequences(c, def, d, own));
    char path[PATH];
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/labels", d->root));
    own->labelled = sv_dataset_is_folder(path);
    snprintf(d->summary, sizeof d->summary, "custom data, split %s", d->split);
    qsort(own->files, (size_t)own->file_count, sizeof *own->files, in_order);
    for (int i = 0; i < own->file_count && own->files[i].chosen; i++) {
        const file *f = &own->files[i];
        if (i == 0 || !f->pose || f[-1].sequence != f->sequence)
            SV_TRY(sv_dataset_add_sequence(c, d, f->pose ? f->pose->sequence : f->name));
        SV_TRY(sv_dataset_add_sample(c, d, f->name, f->pose ? f->pose->time : 0));
    }
    return SV_OK;
}

static void close_custom(sv_dataset *d)
{
    custom *own = d->own;
    if (!own) return;
    sv_custom_free_poses(&own->poses);
    free(own->files);
    free(own);
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static sv_status read_points(sv_ctx *c, const sv_dataset *d, const file *f, sv_sample *out)
{
    char path[PATH];
    sv_points points;
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/points/%s%s", d->root, f->name, f->extension));
    SV_TRY(sv_points_read(c, path, d->layout, &points));
    const sv_status status = sv_sample_frame(c, out, points.count, points.columns);
    if (status == SV_OK) {
        memcpy(out->frame->points, points.data,
               sizeof *points.data * (size_t)points.count * (size_t)points.columns);
        out->frame->count = points.count;
        out->dropped = points.dropped;
    }
    sv_points_free(&points);
    return status;
}

static sv_status fingerprint(sv_ctx *c, const sv_dataset *d, int index, sv_fingerprint *out)
{
    const file *f = &((const custom *)d->own)->files[index];
    char path[PATH];
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/points/%s%s", d->root, f->name, f->extension));
    return sv_fingerprint_file(c, out, path, 0, -1);
}

static void free_lines(void *memory)
{
    sv_object_lines_free(memory);
    free(memory);
}

static sv_status read_labels(sv_ctx *c, const sv_dataset *d, const file *f, sv_sample *out)
{
    const custom *own = d->own;
    char path[PATH];
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/labels/%s.txt", d->root, f->name));
    SV_CHECK(c, sv_dataset_is_file(path), SV_IO,
             "%s: is not there (an empty file says that a frame has no objects)", path);
    if (!out->memory) {
        out->memory = calloc(1, sizeof(sv_object_lines));
        SV_CHECK(c, out->memory, SV_NO_MEMORY, "%s: no memory", path);
        out->free_memory = free_lines;
    }
    sv_object_lines *lines = out->memory;
    sv_object_lines_free(lines);
    SV_TRY(sv_object_lines_read(c, path, false, lines));
    SV_TRY(sv_sample_labels(c, out, lines->count));
    for (int i = 0; i < lines->count; i++) {
        const sv_object_line *line = &lines->data[i];
        out->labels[i] = (sv_label){.box = line->box,
                                    .has_box = true,
                                    .has_velocity = line->has_velocity,
                                    .points = -1,
                                    .type = line->type};
        for (int k = 0; k < d->class_count; k++)
            if (strcmp(own->classes[k], line->type) == 0) out->labels[i].box.label = k + 1;
    }
    out->has_labels = true;
    return SV_OK;
}

static sv_status read_custom(sv_ctx *c, const sv_dataset *d, unsigned parts, sv_sample *out)
{
    const custom *own = d->own;
    const file *f = &own->files[out->index];
    if (f->pose) out->ego_to_world = f->pose->to_world;
    out->has_pose = f->pose != NULL;
    if (parts & SV_READ_POINTS) SV_TRY(read_points(c, d, f, out));
    if ((parts & SV_READ_LABELS) && own->labelled) SV_TRY(read_labels(c, d, f, out));
    return SV_OK;
}

const sv_dataset_type sv_dataset_type_custom = {
    .name = "custom",
    .summary =
        "your own data: dataset.txt, points/, labels/, poses.txt, splits/ (see 'savanna help inspect')",
    .takes_split = true,
    .takes_sequences = true,
    .recognise = recognise,
    .open = open_custom,
    .close = close_custom,
    .read = read_custom,
    .inspect = sv_custom_inspect,
    .fingerprint = fingerprint,
    .evaluator = &sv_evaluator_type_custom,
};
