/* SPDX-License-Identifier: Apache-2.0 */
#include "nuscenes_dataset.h"

#include "dataset_type.h"
#include "evaluator_type.h"
#include "perception/core/file.h"
#include "perception/points.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 4096, COLUMNS = 5, POINT_BYTES = COLUMNS * sizeof(float), SWEEPS = 10 };

/* sv_dataset.own */
typedef struct nuscenes {
    sv_nuscenes_tables tables;
    int sweeps;
    sv_nuscenes_sweep_rule rule;
} nuscenes;

const sv_nuscenes_tables *sv_nuscenes_tables_of(const sv_dataset *dataset)
{
    return &((const nuscenes *)dataset->own)->tables;
}

static bool recognise(const char *root)
{
    char path[PATH];
    static const char *const versions[] = {"trainval", "mini", "test"};
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++)
        if (snprintf(path, sizeof path, "%s/v1.0-%s/sample_data.json", root, versions[i]) <
                (int)sizeof path &&
            sv_dataset_is_file(path))
            return true;
    return false;
}

/* ---- opening ------------------------------------------------------------------------------------------ */

static sv_status open_nuscenes(sv_ctx *c, const sv_dataset_def *def, sv_dataset *d)
{
    nuscenes *own = calloc(1, sizeof *own);
    SV_CHECK(c, own, SV_NO_MEMORY, "%s: no memory", d->root);
    d->own = own;
    d->layout = "xyzit";
    d->classes = sv_nuscenes_class_names;
    d->class_count = SV_NUSCENES_CLASSES;
    own->sweeps = def->sweeps ? def->sweeps : SWEEPS;
    SV_CHECK(c, own->sweeps >= 1 && own->sweeps <= SV_NUSCENES_MAX_SWEEPS, SV_USAGE,
             "%d sweeps cannot be gathered: 1 to %d", own->sweeps, SV_NUSCENES_MAX_SWEEPS);
    const char *rule = def->sweep_rule ? def->sweep_rule : "training";
    own->rule = strcmp(rule, "devkit") == 0 ? SV_NUSCENES_DEVKIT : SV_NUSCENES_TRAINING;
    SV_CHECK(c, own->rule == SV_NUSCENES_DEVKIT || strcmp(rule, "training") == 0, SV_USAGE,
             "'%.40s' is no rule for sweeps: training or devkit", rule);
    const sv_nuscenes_tables_def tables = {.root = d->root,
                                           .version = def->version,
                                           .split = def->split,
                                           .scenes = def->sequences,
                                           .scene_count = def->sequence_count};
    SV_TRY(sv_nuscenes_tables_open(c, &tables, &own->tables));
    const sv_nuscenes_tables *t = &own->tables;
    snprintf(d->split, sizeof d->split, "%s", t->split);
    snprintf(d->summary, sizeof d->summary, "nuScenes %s, split %s", strrchr(t->folder, '/') + 1, t->split);
    for (int i = 0; i < t->sample_count; i++) {
        char id[SV_NUSCENES_TOKEN_TEXT];
        const sv_nuscenes_sample *s = &t->samples[i];
        if (i == 0 || t->samples[i - 1].scene != s->scene)
            SV_TRY(sv_dataset_add_sequence(c, d, t->scenes[s->scene].name));
        sv_nuscenes_token_text(s->token, id);
        SV_TRY(sv_dataset_add_sample(c, d, id, 1e-6 * (double)s->time));
    }
    return SV_OK;
}

static void close_nuscenes(sv_dataset *d)
{
    nuscenes *own = d->own;
    if (own) sv_nuscenes_tables_close(&own->tables);
    free(own);
}

/* ---- points ------------------------------------------------------------------------------------------- */

static sv_status data_path(sv_ctx *c, const sv_dataset *d, const sv_nuscenes_data *data, char out[PATH])
{
    return sv_dataset_path(c, out, PATH, "%s/%s", d->root, sv_nuscenes_tables_of(d)->names + data->file);
}

/* Points of the sweeps together, from the sizes of their files. */
static sv_status count_points(sv_ctx *c, const sv_dataset *d, const sv_sample *sample,
                              const sv_nuscenes_sweep *sweeps, int count, int *out)
{
    long long total = 0;
    for (int i = 0; i < count; i++) {
        char path[PATH];
        SV_TRY(data_path(c, d, &sv_nuscenes_tables_of(d)->data[sweeps[i].data], path));
        const long long size = sv_dataset_file_size(path);
        SV_CHECK(
            c, size >= 0, SV_IO,
            "%s: is not there; the sample %s of %d sweeps needs it: add it from the dataset's archives%s",
            path, sample->id, count, i > 0 ? ", or gather fewer sweeps (--sweeps)" : "");
        SV_CHECK(c, size % (long long)POINT_BYTES == 0, SV_BAD_INPUT,
                 "%s: %lld bytes are no whole number of points of %d bytes (x, y, z, intensity, ring)", path,
                 size, (int)POINT_BYTES);
        total += size / (long long)POINT_BYTES;
        SV_CHECK(c, total <= SV_POINTS_MAX, SV_BAD_INPUT,
                 "%s: the sample %s has more than %d points in %d sweeps", path, sample->id, SV_POINTS_MAX,
                 count);
    }
    *out = (int)total;
    return SV_OK;
}

static sv_status read_points(sv_ctx *c, const sv_dataset *d, const sv_nuscenes_sample *row, sv_sample *out)
{
    const nuscenes *own = d->own;
    sv_nuscenes_sweep sweeps[SV_NUSCENES_MAX_SWEEPS];
    const int count = sv_nuscenes_choose_sweeps(&own->tables, row, own->sweeps, own->rule, sweeps);
    int capacity = 0;
    SV_TRY(count_points(c, d, out, sweeps, count, &capacity));
    SV_TRY(sv_sample_frame(c, out, capacity, COLUMNS));
    void *bytes = NULL;
    size_t size = 0;
    sv_status status = SV_OK;
    for (int i = 0; i < count && status == SV_OK; i++) {
        char path[PATH];
        if (i == 0 || sweeps[i].data != sweeps[i - 1].data) {
            free(bytes);
            bytes = NULL;
            status = data_path(c, d, &own->tables.data[sweeps[i].data], path);
            if (status == SV_OK) status = sv_file_read(c, path, SV_POINTS_MAX * POINT_BYTES, &bytes, &size);
            if (status != SV_OK) break;
        }
        const size_t points = size / POINT_BYTES;
        if (size % POINT_BYTES != 0 || (size_t)out->frame->count + points > (size_t)out->frame->capacity) {
            status = SV_FAIL(c, SV_IO, "%s: has changed while it was read", path);
            break;
        }
        out->frame->count +=
            sv_nuscenes_move_points(&sweeps[i], bytes, (int)points,
                                    out->frame->points + COLUMNS * (size_t)out->frame->count, &out->dropped);
    }
    free(bytes);
    return status;
}

/* The files of the sweeps, and how they are moved. */
static sv_status fingerprint(sv_ctx *c, const sv_dataset *d, int index, sv_fingerprint *out)
{
    const nuscenes *own = d->own;
    sv_nuscenes_sweep sweeps[SV_NUSCENES_MAX_SWEEPS];
    const int count =
        sv_nuscenes_choose_sweeps(&own->tables, &own->tables.samples[index], own->sweeps, own->rule, sweeps);
    for (int i = 0; i < count; i++) {
        char path[PATH];
        SV_TRY(data_path(c, d, &own->tables.data[sweeps[i].data], path));
        SV_TRY(sv_fingerprint_file(c, out, path, 0, -1));
        sv_fingerprint_values(out, &sweeps[i].to_key, sizeof sweeps[i].to_key);
        sv_fingerprint_values(out, &sweeps[i].lag, sizeof sweeps[i].lag);
    }
    return SV_OK;
}

/* ---- cameras ------------------------------------------------------------------------------------------ */

static sv_status read_camera(sv_ctx *c, const sv_dataset *d, const sv_nuscenes_sample *row, int channel,
                             bool picture, sv_sample *out)
{
    const sv_nuscenes_tables *t = sv_nuscenes_tables_of(d);
    const sv_nuscenes_data *data = &t->data[row->data[channel]];
    const sv_nuscenes_calibration *k = &t->calibrations[data->calibration];
    SV_CHECK(c, k->has_intrinsic, SV_BAD_INPUT, "%s/calibrated_sensor.json: %s has no camera_intrinsic",
             t->folder, sv_nuscenes_channels[channel]);
    SV_CHECK(c, data->width > 0 && data->height > 0, SV_BAD_INPUT,
             "%s/sample_data.json: the picture %s has no size", t->folder, t->names + data->file);
    sv_camera_view *view = &out->cameras[out->camera_count];
    snprintf(view->name, sizeof view->name, "%s", sv_nuscenes_channels[channel]);
    view->width = data->width;
    view->height = data->height;
    /* LiDAR to world at its time, world to camera at its own */
    const sv_pose lidar = sv_nuscenes_sensor_pose(t, &t->data[row->data[0]]),
                  ego = sv_nuscenes_ego_pose(data);
    sv_pose from_world, from_ego;
    sv_pose_invert(&ego, &from_world);
    sv_pose_invert(&k->to_ego, &from_ego);
    const sv_pose in_ego = sv_pose_compose(&from_world, &lidar),
                  in_camera = sv_pose_compose(&from_ego, &in_ego);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) {
            double sum = 0;
            for (int n = 0; n < 3; n++)
                sum += k->intrinsic[3 * i + n] * (j < 3 ? in_camera.r[3 * n + j] : in_camera.t[n]);
            view->projection[4 * i + j] = sum;
        }
    out->camera_count++;
    if (!picture) return SV_OK;
    char path[PATH];
    SV_TRY(data_path(c, d, data, path));
    SV_CHECK(c, sv_dataset_is_file(path), SV_IO,
             "%s: is not there; it is the picture of %s of the sample %s: add it from the dataset's archives",
             path, view->name, out->id);
    SV_TRY(sv_image_read_jpeg(c, path, &view->image));
    SV_CHECK(c, view->image.width == view->width && view->image.height == view->height, SV_BAD_INPUT,
             "%s: has %d x %d pixels, the table says %d x %d", path, view->image.width, view->image.height,
             view->width, view->height);
    return SV_OK;
}

/* ---- labels ------------------------------------------------------------------------------------------- */

/* sv_sample.memory */
typedef struct memory {
    sv_nuscenes_record record;
    char (*instances)[SV_NUSCENES_TOKEN_TEXT];
} memory;

static void free_memory(void *pointer)
{
    memory *m = pointer;
    free(m->instances);
    free(m);
}

static sv_status read_labels(sv_ctx *c, memory *m, sv_sample *out)
{
    const sv_nuscenes_tables *t = m->record.tables;
    const sv_nuscenes_sample *row = m->record.sample;
    if (!t->labelled) return SV_OK;
    SV_TRY(sv_sample_labels(c, out, row->count));
    void *grown = realloc(m->instances, sizeof *m->instances * (size_t)(row->count + 1));
    SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for %d labels", out->id, row->count);
    m->instances = grown;
    for (int i = 0; i < row->count; i++) {
        const sv_nuscenes_annotation *a = &t->annotations[row->first + i];
        sv_label *label = &out->labels[i];
        double box[7], velocity[3];
        sv_nuscenes_lidar_box(t, a, box, velocity);
        sv_nuscenes_token_text(a->instance, m->instances[i]);
        *label = (sv_label){.box = {.x = (float)box[0],
                                    .y = (float)box[1],
                                    .z = (float)box[2],
                                    .dx = (float)box[3],
                                    .dy = (float)box[4],
                                    .dz = (float)box[5],
                                    .heading = (float)box[6],
                                    .label = a->detection_class >= 0 ? a->detection_class + 1 : 0},
                            .has_box = true,
                            .points = a->lidar_points,
                            .type = t->categories[a->category],
                            .instance = m->instances[i],
                            .record = a};
        label->has_velocity = isfinite(velocity[0]) && isfinite(velocity[1]);
        if (!label->has_velocity) continue;
        label->box.vx = (float)velocity[0];
        label->box.vy = (float)velocity[1];
    }
    out->has_labels = true;
    return SV_OK;
}

static sv_status read_nuscenes(sv_ctx *c, const sv_dataset *d, unsigned parts, sv_sample *out)
{
    const sv_nuscenes_tables *t = sv_nuscenes_tables_of(d);
    if (!out->memory) {
        out->memory = calloc(1, sizeof(memory));
        SV_CHECK(c, out->memory, SV_NO_MEMORY, "%s: no memory", out->id);
        out->free_memory = free_memory;
    }
    memory *m = out->memory;
    const sv_nuscenes_sample *row = &t->samples[out->index];
    const sv_nuscenes_data *lidar = &t->data[row->data[0]];
    m->record = (sv_nuscenes_record){t, row};
    out->record = &m->record;
    out->lidar_to_ego = t->calibrations[lidar->calibration].to_ego;
    out->ego_to_world = sv_nuscenes_ego_pose(lidar);
    out->has_pose = true;
    if (parts & SV_READ_POINTS) SV_TRY(read_points(c, d, row, out));
    for (int i = 1; i < SV_NUSCENES_CHANNELS && (parts & SV_READ_CAMERAS); i++)
        if (row->data[i] >= 0) SV_TRY(read_camera(c, d, row, i, (parts & SV_READ_IMAGES) != 0, out));
    if (parts & SV_READ_LABELS) SV_TRY(read_labels(c, m, out));
    return SV_OK;
}

/* ---- looking at a folder ------------------------------------------------------------------------------ */

/* Files of the tables that are there. */
static sv_status inspect_files(sv_ctx *c, const char *root, const char *version, const sv_nuscenes_tables *t,
                               sv_findings *findings)
{
    static const char *const kinds[] = {"LiDAR key frames", "LiDAR sweeps between", "camera pictures"};
    for (int kind = 0; kind < 3; kind++) {
        int there = 0, missing = 0, odd = 0, first = -1;
        for (int i = 0; i < t->data_count; i++) {
            const sv_nuscenes_data *data = &t->data[i];
            const bool lidar = t->calibrations[data->calibration].channel == 0;
            if (kind != (lidar ? !data->key : 2)) continue;
            char path[PATH];
            SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/%s", root, t->names + data->file));
            const long long size = sv_dataset_file_size(path);
            there += size >= 0;
            if (size < 0 && missing++ == 0) first = i;
            odd += lidar && size >= 0 && (size == 0 || size % (long long)POINT_BYTES != 0);
        }
        if (missing > 0)
            SV_TRY(sv_findings_add(c, findings, true, version, "%s: %d files, %d missing, first %s",
                                   kinds[kind], there, missing, t->names + t->data[first].file));
        else
            SV_TRY(sv_findings_add(c, findings, false, version, "%s: %d files", kinds[kind], there));
        if (odd > 0)
            SV_TRY(sv_findings_add(c, findings, true, version,
                                   "%d LiDAR files are empty or no whole number of points", odd));
    }
    return SV_OK;
}

static sv_status inspect_version(sv_ctx *c, const char *root, const char *version, sv_findings *findings)
{
    sv_nuscenes_tables t;
    const sv_nuscenes_tables_def def = {.root = root, .version = version, .split = "all"};
    if (sv_nuscenes_tables_open(c, &def, &t) != SV_OK) {
        const sv_status status = sv_findings_add(c, findings, true, version, "%s", sv_error_message(c));
        sv_error_clear(c);
        return status;
    }
    sv_status status = sv_findings_add(
        c, findings, t.scene_count == 0, version, "%d scenes, %d samples, %d annotations%s", t.scene_count,
        t.sample_count, t.annotation_count, t.labelled ? "" : " (no evaluation without them)");
    for (int i = 0; i < SV_NUSCENES_SPLITS && status == SV_OK; i++) {
        const sv_nuscenes_split *split = &sv_nuscenes_splits[i];
        int scenes = 0, samples = 0;
        for (int k = 0; k < t.scene_count; k++) scenes += sv_nuscenes_split_has(split, t.scenes[k].name);
        for (int k = 0; k < t.sample_count; k++)
            samples += sv_nuscenes_split_has(split, t.scenes[t.samples[k].scene].name);
        if (scenes > 0)
            status = sv_findings_add(c, findings, false, version, "split %s: %d scenes, %d samples",
                                     split->name, scenes, samples);
    }
    if (status == SV_OK) status = inspect_files(c, root, version, &t, findings);
    sv_nuscenes_tables_close(&t);
    return status;
}

static sv_status inspect(sv_ctx *c, const char *root, sv_findings *findings)
{
    sv_names names;
    SV_TRY(sv_dataset_list(c, root, "/", &names));
    sv_status status = SV_OK;
    for (int i = 0; i < names.count && status == SV_OK; i++) {
        char path[PATH];
        if (snprintf(path, sizeof path, "%s/%s/sample_data.json", root, names.data[i]) < (int)sizeof path &&
            sv_dataset_is_file(path))
            status = inspect_version(c, root, names.data[i], findings);
    }
    sv_names_free(&names);
    if (status == SV_OK && !sv_image_has_jpeg())
        status = sv_findings_add(c, findings, true, "pictures",
                                 "this build reads no JPEG (libjpeg-dev was missing)");
    return status;
}

const sv_dataset_type sv_dataset_type_nuscenes = {
    .name = "nuscenes",
    .summary = "nuScenes: the official folder (v1.0-*/, samples/, sweeps/)",
    .takes_split = true,
    .takes_version = true,
    .takes_sequences = true,
    .takes_sweeps = true,
    .recognise = recognise,
    .open = open_nuscenes,
    .close = close_nuscenes,
    .read = read_nuscenes,
    .fingerprint = fingerprint,
    .inspect = inspect,
    .evaluator = &sv_evaluator_type_nuscenes,
};
