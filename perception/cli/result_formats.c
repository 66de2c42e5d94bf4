/* SPDX-License-Identifier: Apache-2.0 */
#include "result_formats.h"

#include "datasets/argoverse2_results.h"
#include "datasets/kitti_dataset.h"
#include "datasets/nuscenes_dataset.h"
#include "datasets/nuscenes_results.h"
#include "datasets/once_results.h"
#include "datasets/waymo_dataset.h"
#include "datasets/waymo_objects.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- paths -------------------------------------------------------------------------------------------- */

bool result_is_folder(const char *path)
{
    struct stat info;
    const size_t length = strlen(path);
    return (length > 0 && path[length - 1] == '/') || (stat(path, &info) == 0 && S_ISDIR(info.st_mode));
}

void result_path_in(const char *folder, const char *stem, const char *extension, char *out, size_t size)
{
    const size_t length = strlen(folder);
    snprintf(out, size, "%s%s%s%s", folder, length > 0 && folder[length - 1] == '/' ? "" : "/", stem,
             extension);
}

sv_status result_make_folder(sv_ctx *c, const char *path)
{
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) return SV_OK;
    SV_CHECK(c, mkdir(path, 0777) == 0, SV_IO, "%s: the folder cannot be made", path);
    return SV_OK;
}

static sv_status allocate(result_writer *w, size_t bytes)
{
    w->own = calloc(1, bytes);
    SV_CHECK(w->c, w->own, SV_NO_MEMORY, "no memory to write results");
    return SV_OK;
}

/* ---- JSON --------------------------------------------------------------------------------------------- */

typedef struct json_file {
    sv_results results;
    bool begun; /* with the first frame: a run that finds none to read leaves no file */
} json_file;

static sv_status open_json(result_writer *w)
{
    return allocate(w, sizeof(json_file));
}

static sv_status add_json(result_writer *w, const sv_sample *sample, const sv_box *boxes, int count)
{
    json_file *own = w->own;
    char path[1024];
    if (w->folder) result_path_in(w->path, sample->id, ".json", path, sizeof path);
    if (!own->begun && w->path)
        SV_TRY(sv_results_open(w->c, &own->results, w->folder ? path : w->path, w->classes, w->class_count));
    else if (!own->begun)
        sv_results_begin(&own->results, stdout, w->classes, w->class_count);
    own->begun = true;
    SV_TRY(sv_results_add(w->c, &own->results, sample->id, boxes, count, w->has_velocity));
    if (!w->folder) return SV_OK;
    own->begun = false;
    return sv_results_close(w->c, &own->results);
}

static sv_status close_json(result_writer *w)
{
    json_file *own = w->own;
    return own->begun && !w->folder ? sv_results_close(w->c, &own->results) : SV_OK;
}

static void discard_json(result_writer *w)
{
    sv_results_discard(&((json_file *)w->own)->results);
}

/* ---- KITTI -------------------------------------------------------------------------------------------- */

static sv_status add_kitti(result_writer *w, const sv_sample *sample, const sv_box *boxes, int count)
{
    const sv_kitti_sample *kitti = sv_kitti_sample_of(sample);
    char path[1024];
    SV_CHECK(
        w->c, kitti->width > 0, SV_BAD_INPUT,
        "%s: --format kitti has boxes in the picture of the left colour camera, whose size is not known: "
        "add the pictures (image_2)",
        sv_dataset_root(w->dataset));
    sv_kitti_object *objects = malloc(sizeof *objects * (size_t)(count + 1));
    SV_CHECK(w->c, objects != NULL, SV_NO_MEMORY, "no memory for %d results", count);
    for (int i = 0; i < count; i++)
        sv_kitti_object_of_box(&kitti->calibration, &boxes[i], w->classes[boxes[i].label - 1], kitti->width,
                               kitti->height, &objects[i]);
    result_path_in(w->path, sample->id, ".txt", path, sizeof path);
    const sv_status status = sv_kitti_write_objects(w->c, path, objects, count);
    free(objects);
    return status;
}

/* ---- nuScenes ----------------------------------------------------------------------------------------- */

typedef struct nuscenes_file {
    sv_nuscenes_writer writer;
    int beyond; /* boxes more than a sample can have */
} nuscenes_file;

static sv_status open_nuscenes(result_writer *w)
{
    SV_TRY(allocate(w, sizeof(nuscenes_file)));
    return sv_nuscenes_writer_open(w->c, w->path, w->has_camera, &((nuscenes_file *)w->own)->writer);
}

static sv_status add_nuscenes(result_writer *w, const sv_sample *sample, const sv_box *boxes, int count)
{
    nuscenes_file *own = w->own;
    const sv_nuscenes_record *record = sv_nuscenes_record_of(sample);
    sv_nuscenes_boxes list;
    int other_class, beyond;
    SV_TRY(sv_nuscenes_boxes_of(w->c, record->tables, record->sample, w->classes, boxes, count, &list,
                                &other_class, &beyond));
    const sv_status status =
        sv_nuscenes_writer_add(w->c, &own->writer, record->sample->token, list.data, list.count);
    free(list.data);
    w->other_class += other_class;
    own->beyond += beyond;
    return status;
}

static sv_status close_nuscenes(result_writer *w)
{
    nuscenes_file *own = w->own;
    if (own->beyond > 0)
        sv_log(w->c, SV_LOG_WARNING,
               "%s: %d boxes beyond %d in a sample, those with the lowest scores, are left out", w->path,
               own->beyond, SV_NUSCENES_MOST_BOXES);
    return sv_nuscenes_writer_close(w->c, &own->writer);
}

static void discard_nuscenes(result_writer *w)
{
    sv_nuscenes_writer_discard(&((nuscenes_file *)w->own)->writer);
}

/* ---- Waymo -------------------------------------------------------------------------------------------- */

static sv_status open_waymo(result_writer *w)
{
    SV_TRY(allocate(w, sizeof(sv_output)));
    return sv_output_open(w->c, w->own, w->path);
}

/* Objects follow one another in the file, so frames are written as they come. */
static sv_status add_waymo(result_writer *w, const sv_sample *sample, const sv_box *boxes, int count)
{
    const sv_waymo_frame *frame = &sv_waymo_sample_of(sample)->frame;
    sv_wire_out bytes = {0};
    for (int i = 0; i < count; i++) {
        const sv_waymo_object object = sv_waymo_object_of_box(&boxes[i], w->classes[boxes[i].label - 1]);
        if (object.type == SV_WAYMO_UNKNOWN) {
            sv_wire_free(&bytes);
            return SV_FAIL(
                w->c, SV_USAGE,
                "--format waymo: the detector's class %s is none of Vehicle, Pedestrian, Sign and Cyclist",
                w->classes[boxes[i].label - 1]);
        }
        sv_waymo_put_object(&bytes, &object, frame->context, frame->timestamp);
    }
    const bool good = !bytes.failed;
    if (good && bytes.size > 0) fwrite(bytes.data, 1, bytes.size, ((sv_output *)w->own)->stream);
    sv_wire_free(&bytes);
    SV_CHECK(w->c, good, SV_NO_MEMORY, "%s: no memory for %d results", sample->id, count);
    return SV_OK;
}

static sv_status close_waymo(result_writer *w)
{
    return sv_output_commit(w->c, w->own);
}

static void discard_waymo(result_writer *w)
{
    sv_output_discard(w->own);
}

/* ---- ONCE, Argoverse 2 -------------------------------------------------------------------------------- */

static sv_status open_once(result_writer *w)
{
    SV_TRY(allocate(w, sizeof(sv_once_writer)));
    return sv_once_writer_open(w->c, w->path, w->own);
}

static sv_status add_once(result_writer *w, const sv_sample *sample, const sv_box *boxes, int count)
{
    return sv_once_writer_add(w->c, w->own, w->dataset, sample->index, w->classes, boxes, count,
                              &w->other_class);
}

static sv_status close_once(result_writer *w)
{
    return sv_once_writer_close(w->c, w->own);
}

static void discard_once(result_writer *w)
{
    sv_once_writer_discard(w->own);
}

static sv_status open_argoverse2(result_writer *w)
{
    SV_TRY(allocate(w, sizeof(sv_feather_writer)));
    return sv_argoverse2_writer_open(w->c, w->path, w->own);
}

static sv_status add_argoverse2(result_writer *w, const sv_sample *sample, const sv_box *boxes, int count)
{
    return sv_argoverse2_writer_add(w->c, w->own, w->dataset, sample->index, w->classes, boxes, count,
                                    &w->other_class);
}

static sv_status close_argoverse2(result_writer *w)
{
    return sv_feather_writer_close(w->c, w->own);
}

static void discard_argoverse2(result_writer *w)
{
    sv_feather_writer_discard(w->own);
}

/* ---- the formats -------------------------------------------------------------------------------------- */

static const result_format formats[] = {
    {.name = "json",
     .open = open_json,
     .add = add_json,
     .close = close_json,
     .keep = close_json,
     .discard = discard_json},
    {.name = "kitti",
     .dataset = "kitti",
     .needs = "the calibration",
     .folder = true,
     .parts = SV_READ_CAMERAS,
     .add = add_kitti},
    {.name = "nuscenes",
     .dataset = "nuscenes",
     .needs = "the poses",
     .file = "FILE.json",
     .open = open_nuscenes,
     .add = add_nuscenes,
     .close = close_nuscenes,
     .discard = discard_nuscenes},
    {.name = "waymo",
     .dataset = "waymo",
     .needs = "the names and times of the frames",
     .file = "FILE.bin",
     .open = open_waymo,
     .add = add_waymo,
     .close = close_waymo,
     .discard = discard_waymo},
    {.name = "once",
     .dataset = "once",
     .needs = "the names of the frames",
     .file = "FILE.json",
     .open = open_once,
     .add = add_once,
     .close = close_once,
     .discard = discard_once},
    {.name = "argoverse2",
     .dataset = "argoverse2",
     .needs = "the logs and times of the sweeps",
     .file = "FILE.feather",
     .open = open_argoverse2,
     .add = add_argoverse2,
     .close = close_argoverse2,
     .discard = discard_argoverse2},
};
enum { FORMATS = sizeof formats / sizeof *formats };

const result_format *result_format_find(const char *name)
{
    for (int i = 0; i < FORMATS; i++)
        if (strcmp(formats[i].name, name) == 0) return &formats[i];
    return NULL;
}

const char *result_format_names(void)
{
    static char names[160];
    size_t used = 0;
    for (int i = 0; i < FORMATS; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s",
                                 i == 0             ? ""
                                 : i == FORMATS - 1 ? " or "
                                                    : ", ",
                                 formats[i].name);
    return names;
}

int result_format_check(const sv_app *app, const result_format *format, const char *dataset,
                        const char *output)
{
    if (format->dataset && !(dataset && strcmp(dataset, format->dataset) == 0))
        return sv_app_usage_error(app, "--format %s needs %s of --dataset %s", format->name, format->needs,
                                  format->dataset);
    if (format->file && (!output || result_is_folder(output)))
        return sv_app_usage_error(app, "--format %s writes one file of all frames: name it with -o %s",
                                  format->name, format->file);
    if (format->folder && !output)
        return sv_app_usage_error(app, "--format %s writes a file per frame: name a folder with -o DIR",
                                  format->name);
    return 0;
}

/* ---- writing ------------------------------------------------------------------------------------------ */

sv_status result_writer_open(result_writer *w)
{
    w->folder = w->path && (w->format->folder || (!w->format->file && result_is_folder(w->path)));
    if (w->folder) SV_TRY(result_make_folder(w->c, w->path));
    return w->format->open ? w->format->open(w) : SV_OK;
}

sv_status result_writer_add(result_writer *w, const sv_sample *sample, const sv_box *boxes, int count)
{
    SV_TRY(w->format->add(w, sample, boxes, count));
    w->frames++;
    return SV_OK;
}

sv_status result_writer_close(result_writer *w, bool done)
{
    if (!done) return w->format->keep ? w->format->keep(w) : SV_OK;
    if (w->other_class > 0)
        sv_log(w->c, SV_LOG_WARNING, "%s: %d boxes are of classes that %s has not, and are left out", w->path,
               w->other_class, sv_dataset_summary(w->dataset));
    if (w->format->file && w->frames < sv_dataset_count(w->dataset))
        sv_log(w->c, SV_LOG_WARNING, "%s: holds %d of the %d samples of the split, so no server will take it",
               w->path, w->frames, sv_dataset_count(w->dataset));
    return w->format->close ? w->format->close(w) : SV_OK;
}

void result_writer_discard(result_writer *w)
{
    if (w->own && w->format->discard) w->format->discard(w);
    free(w->own);
    w->own = NULL;
}
