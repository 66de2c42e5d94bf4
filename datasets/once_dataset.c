/* SPDX-License-Identifier: Apache-2.0
 *
 * ONCE as a dataset.
 *
 *     ROOT/ImageSets/{train,val,test,raw_small,...}.txt        sequences, one a line
 *     ROOT/data/000076/000076.json                             once.h
 *     ROOT/data/000076/lidar_roof/1616343527200.bin            x, y, z, intensity
 *     ROOT/data/000076/cam01/1616343527200.jpg
 *
 * Of train and val the samples are the annotated frames that hold an object, as in the framework that trains the models
 * (its measure never sees a frame without); of other splits all frames.
 */
#include "dataset_type.h"
#include "evaluator_type.h"
#include "kitti.h"
#include "object_eval.h"
#include "once.h"
#include "perception/core/file.h"
#include "perception/points.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 4096, JSON_LIMIT = 1 << 30 };

/* The LiDAR's x is to the left and its y to the rear. */
static const sv_pose lidar_to_ego = {.r = {0, -1, 0, 1, 0, 0, 0, 0, 1}};

typedef struct place {
    int sequence, frame;
} place;

/* sv_dataset.own */
typedef struct once {
    sv_once_sequence *sequences;
    char (*names)[32];
    int sequence_count;
    place *places; /* of samples */
    int place_room;
} once;

static bool recognise(const char *root)
{
    char path[PATH];
    sv_names names;
    if (snprintf(path, sizeof path, "%s/data", root) >= PATH || !sv_dataset_is_folder(path) ||
        sv_dataset_list(NULL, path, "/", &names) != SV_OK)
        return false;
    bool found = false;
    for (int i = 0; i < names.count && !found; i++)
        found =
            snprintf(path, sizeof path, "%s/data/%s/%s.json", root, names.data[i], names.data[i]) < PATH &&
            sv_dataset_is_file(path);
    sv_names_free(&names);
    return found;
}

/* ---- opening ------------------------------------------------------------------------------------------ */

static sv_status add_frames(sv_ctx *c, sv_dataset *d, once *own, bool annotated)
{
    const int number = own->sequence_count - 1;
    const sv_once_sequence *s = &own->sequences[number];
    SV_TRY(sv_dataset_add_sequence(c, d, own->names[number]));
    for (int i = 0; i < s->frame_count; i++) {
        const sv_once_frame *f = &s->frames[i];
        char id[64];
        if (annotated && f->count == 0) continue;
        if (d->count == own->place_room) {
            own->place_room = own->place_room ? 2 * own->place_room : 256;
            void *grown = realloc(own->places, sizeof *own->places * (size_t)own->place_room);
            SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for %d samples", d->root, own->place_room);
            own->places = grown;
        }
        own->places[d->count] = (place){number, i};
        snprintf(id, sizeof id, "%s_%s", own->names[number], f->id);
        SV_TRY(sv_dataset_add_sample(c, d, id, 1e-3 * strtod(f->id, NULL)));
    }
    return SV_OK;
}

static sv_status add_sequence(sv_ctx *c, sv_dataset *d, once *own, const char *name, bool annotated)
{
    char path[PATH];
    void *bytes;
    size_t size;
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/data/%s/%s.json", d->root, name, name));
    SV_CHECK(c, sv_dataset_is_file(path), SV_IO, "%s: is not there; the split names the sequence %s", path,
             name);
    SV_TRY(sv_file_read(c, path, JSON_LIMIT, &bytes, &size));
    sv_once_sequence *s = &own->sequences[own->sequence_count];
    const sv_status status = sv_once_parse(c, path, bytes, size, s);
    free(bytes);
    SV_TRY(status);
    snprintf(own->names[own->sequence_count++], sizeof *own->names, "%s", name);
    return add_frames(c, d, own, annotated);
}

static bool wanted(const sv_dataset_def *def, const char *name)
{
    bool found = def->sequence_count == 0;
    for (int i = 0; i < def->sequence_count; i++) found |= strcmp(def->sequences[i], name) == 0;
    return found;
}

static sv_status add_sequences(sv_ctx *c, const sv_dataset_def *def, sv_dataset *d, char *const *names,
                               int count, bool annotated)
{
    once *own = d->own;
    own->sequences = calloc((size_t)count + 1, sizeof *own->sequences);
    own->names = calloc((size_t)count + 1, sizeof *own->names);
    SV_CHECK(c, own->sequences && own->names, SV_NO_MEMORY, "%s: no memory for %d sequences", d->root, count);
    for (int i = 0; i < count; i++)
        if (wanted(def, names[i])) SV_TRY(add_sequence(c, d, own, names[i], annotated));
    SV_CHECK(c, own->sequence_count >= def->sequence_count, SV_USAGE,
             "%s: the split %s has %d of the %d named sequences", d->root, d->split, own->sequence_count,
             def->sequence_count);
    return SV_OK;
}

/* Every folder of data/ with a file of its name. */
static sv_status open_all(sv_ctx *c, const sv_dataset_def *def, sv_dataset *d)
{
    char path[PATH];
    sv_names names;
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/data", d->root));
    SV_TRY(sv_dataset_list(c, path, "/", &names));
    const sv_status status = add_sequences(c, def, d, names.data, names.count, false);
    sv_names_free(&names);
    return status;
}

static sv_status open_split(sv_ctx *c, const sv_dataset_def *def, sv_dataset *d)
{
    char path[PATH], there[400] = "no folder ImageSets";
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/ImageSets/%s.txt", d->root, d->split));
    if (!sv_dataset_is_file(path))
        SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/ImageSets/%s_set.txt", d->root, d->split));
    if (!sv_dataset_is_file(path)) {
        SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/ImageSets", d->root));
        if (sv_dataset_is_folder(path)) {
            sv_names names;
            SV_TRY(sv_dataset_list(c, path, ".txt", &names));
            sv_names_say(&names, there, sizeof there);
            sv_names_free(&names);
        }
        return SV_FAIL(c, SV_BAD_INPUT,
                       "%s: has no ImageSets/%s.txt; there is: %s; 'all' takes every sequence of data/",
                       d->root, d->split, there);
    }
    sv_kitti_ids ids;
    SV_TRY(sv_kitti_read_ids(c, path, &ids));
    char **names = malloc(sizeof *names * (size_t)(ids.count + 1));
    for (int i = 0; names && i < ids.count; i++) names[i] = ids.data[i];
    const bool annotated = strncmp(d->split, "train", 5) == 0 || strncmp(d->split, "val", 3) == 0;
    const sv_status status = names ? add_sequences(c, def, d, names, ids.count, annotated)
                                   : SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for %d names", path, ids.count);
    free(names);
    sv_kitti_free_ids(&ids);
    return status;
}

static sv_status open_once(sv_ctx *c, const sv_dataset_def *def, sv_dataset *d)
{
    once *own = calloc(1, sizeof *own);
    SV_CHECK(c, own, SV_NO_MEMORY, "%s: no memory", d->root);
    d->own = own;
    d->layout = "xyzi";
    d->classes = sv_once_class_names;
    d->class_count = SV_ONCE_CLASSES;
    const char *split = def->split ? def->split : "val";
    SV_CHECK(c, strlen(split) < sizeof d->split && !strchr(split, '/'), SV_USAGE,
             "'%.60s' is no name of a split: it stands for ImageSets/NAME.txt", split);
    snprintf(d->split, sizeof d->split, "%s", split);
    snprintf(d->summary, sizeof d->summary, "ONCE, split %s", split);
    return strcmp(split, "all") == 0 ? open_all(c, def, d) : open_split(c, def, d);
}

static void close_once(sv_dataset *d)
{
    once *own = d->own;
    if (!own) return;
    for (int i = 0; own->sequences && i < own->sequence_count; i++) sv_once_free(&own->sequences[i]);
    free(own->sequences);
    free(own->names);
    free(own->places);
    free(own);
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static sv_status sample_path(sv_ctx *c, const sv_dataset *d, int sample, const char *folder,
                             const char *extension, char out[PATH])
{
    const once *own = d->own;
    const place *p = &own->places[sample];
    return sv_dataset_path(c, out, PATH, "%s/data/%s/%s/%s.%s", d->root, own->names[p->sequence], folder,
                           own->sequences[p->sequence].frames[p->frame].id, extension);
}

static sv_status read_points(sv_ctx *c, const sv_dataset *d, sv_sample *out)
{
    char path[PATH];
    sv_points points;
    SV_TRY(sample_path(c, d, out->index, "lidar_roof", "bin", path));
    SV_TRY(sv_points_read(c, path, d->layout, &points));
    const sv_status status = sv_sample_frame(c, out, points.count, points.columns);
    if (status == SV_OK && points.count > 0)
        memcpy(out->frame->points, points.data,
               sizeof *points.data * (size_t)points.count * (size_t)points.columns);
    if (status == SV_OK) {
        out->frame->count = points.count;
        out->dropped = points.dropped;
    }
    sv_points_free(&points);
    return status;
}

static sv_status fingerprint(sv_ctx *c, const sv_dataset *d, int sample, sv_fingerprint *out)
{
    char path[PATH];
    SV_TRY(sample_path(c, d, sample, "lidar_roof", "bin", path));
    return sv_fingerprint_file(c, out, path, 0, -1);
}

/* u = K (from_lidar p). Cameras without a picture in the folder are left out. */
static sv_status read_camera(sv_ctx *c, const sv_dataset *d, const sv_once_sequence *s, int which,
                             bool picture, sv_sample *out)
{
    char path[PATH];
    const sv_once_camera *k = &s->cameras[which];
    SV_TRY(sample_path(c, d, out->index, sv_once_cameras[which], "jpg", path));
    if (!k->there || !sv_dataset_is_file(path)) return SV_OK;
    sv_camera_view *view = &out->cameras[out->camera_count];
    sv_pose from_lidar;
    sv_pose_invert(&k->to_lidar, &from_lidar);
    snprintf(view->name, sizeof view->name, "%s", sv_once_cameras[which]);
    view->width = SV_ONCE_WIDTH;
    view->height = SV_ONCE_HEIGHT;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) {
            double sum = 0;
            for (int n = 0; n < 3; n++)
                sum += k->intrinsic[3 * i + n] * (j < 3 ? from_lidar.r[3 * n + j] : from_lidar.t[n]);
            view->projection[4 * i + j] = sum;
        }
    out->camera_count++;
    if (!picture) return SV_OK;
    SV_TRY(sv_image_read_jpeg(c, path, &view->image));
    view->width = view->image.width;
    view->height = view->image.height;
    return SV_OK;
}

static sv_status read_labels(sv_ctx *c, const sv_once_sequence *s, const sv_once_frame *f, sv_sample *out)
{
    if (!f->annotated) return SV_OK;
    SV_TRY(sv_sample_labels(c, out, f->count));
    for (int i = 0; i < f->count; i++) {
        const sv_once_box *b = &s->boxes[f->first + i];
        sv_label *label = &out->labels[i];
        *label = (sv_label){.box = {.x = (float)b->value[0],
                                    .y = (float)b->value[1],
                                    .z = (float)b->value[2],
                                    .dx = (float)b->value[3],
                                    .dy = (float)b->value[4],
                                    .dz = (float)b->value[5],
                                    .heading = (float)b->value[6]},
                            .has_box = true,
                            .points = -1,
                            .type = b->type,
                            .record = b};
        for (int k = 0; k < SV_ONCE_CLASSES; k++)
            if (strcmp(sv_once_class_names[k], b->type) == 0) label->box.label = k + 1;
    }
    out->has_labels = true;
    return SV_OK;
}

static sv_status read_once(sv_ctx *c, const sv_dataset *d, unsigned parts, sv_sample *out)
{
    const once *own = d->own;
    const place *p = &own->places[out->index];
    const sv_once_sequence *s = &own->sequences[p->sequence];
    const sv_once_frame *f = &s->frames[p->frame];
    sv_pose ego_to_lidar;
    sv_pose_invert(&lidar_to_ego, &ego_to_lidar);
    out->lidar_to_ego = lidar_to_ego;
    out->ego_to_world = sv_pose_compose(&f->to_world, &ego_to_lidar);
    out->has_pose = true;
    if (parts & SV_READ_POINTS) SV_TRY(read_points(c, d, out));
    for (int i = 0; i < SV_ONCE_CAMERAS && (parts & SV_READ_CAMERAS); i++)
        SV_TRY(read_camera(c, d, s, i, (parts & SV_READ_IMAGES) != 0, out));
    return parts & SV_READ_LABELS ? read_labels(c, s, f, out) : SV_OK;
}

/* ---- looking at a folder ------------------------------------------------------------------------------ */

static sv_status inspect_sequence(sv_ctx *c, const char *root, const char *name, sv_findings *findings)
{
    char path[PATH], first[64] = "";
    void *bytes;
    size_t size;
    sv_once_sequence s;
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/data/%s/%s.json", root, name, name));
    if (!sv_dataset_is_file(path)) return sv_findings_add(c, findings, true, name, "%s: is not there", path);
    SV_TRY(sv_file_read(c, path, JSON_LIMIT, &bytes, &size));
    const sv_status parsed = sv_once_parse(c, path, bytes, size, &s);
    free(bytes);
    if (parsed != SV_OK) {
        const sv_status status = sv_findings_add(c, findings, true, name, "%s", sv_error_message(c));
        sv_error_clear(c);
        return status;
    }
    int annotated = 0, missing = 0, odd = 0;
    sv_status status = SV_OK;
    for (int i = 0; i < s.frame_count && status == SV_OK; i++) {
        status =
            sv_dataset_path(c, path, sizeof path, "%s/data/%s/lidar_roof/%s.bin", root, name, s.frames[i].id);
        const long long bytes_there = sv_dataset_file_size(path);
        annotated += s.frames[i].annotated;
        if (bytes_there < 0 && missing++ == 0) snprintf(first, sizeof first, "%s.bin", s.frames[i].id);
        odd += bytes_there >= 0 && (bytes_there == 0 || bytes_there % 16 != 0);
    }
    if (status == SV_OK)
        status = sv_findings_add(c, findings, missing > 0 || odd > 0, name,
                                 "%d frames, %d annotated, %d objects%s%s%s", s.frame_count, annotated,
                                 s.box_count, missing > 0 ? "; scans are missing, the first is " : "", first,
                                 odd > 0 ? "; scans are empty or no whole number of points of 16 bytes" : "");
    sv_once_free(&s);
    return status;
}

static sv_status inspect(sv_ctx *c, const char *root, sv_findings *findings)
{
    char path[PATH];
    sv_names names;
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/data", root));
    SV_TRY(sv_dataset_list(c, path, "/", &names));
    sv_status status = SV_OK;
    for (int i = 0; i < names.count && status == SV_OK; i++)
        status = inspect_sequence(c, root, names.data[i], findings);
    sv_names_free(&names);
    SV_TRY(status);
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/ImageSets", root));
    const bool lists = sv_dataset_is_folder(path);
    return sv_findings_add(c, findings, !lists, "ImageSets",
                           lists ? "lists of splits" : "is not there: only --split all can be read");
}

const sv_dataset_type sv_dataset_type_once = {
    .name = "once",
    .summary = "ONCE: the official folder (data/SEQ/, ImageSets/)",
    .takes_split = true,
    .takes_sequences = true,
    .recognise = recognise,
    .open = open_once,
    .close = close_once,
    .read = read_once,
    .inspect = inspect,
    .fingerprint = fingerprint,
    .evaluator = &sv_evaluator_type_once,
};
