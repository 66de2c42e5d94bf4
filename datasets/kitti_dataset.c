/* SPDX-License-Identifier: Apache-2.0
 *
 * The two layouts differ in where files lie and what they are called; reading a sample is the same for both
 * once its paths and its calibration are known.
 */
#include "kitti_dataset.h"

#include "dataset_type.h"
#include "evaluator_type.h"
#include "kitti_raw.h"
#include "perception/points.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 4096 };

static const char *const classes[] = {"Car", "Pedestrian", "Cyclist"};
enum { CLASSES = sizeof classes / sizeof *classes };

/* sv_dataset.own */
typedef struct kitti {
    sv_kitti_fov fov;
    const char *part;  /* "training" or "testing" */
    sv_kitti_raw *raw; /* a raw recording: its drives; otherwise NULL */
} kitti;

/* ---- which layout ------------------------------------------------------------------------------------- */

static bool has_folder(const char *root, const char *name)
{
    char path[PATH];
    return (size_t)snprintf(path, sizeof path, "%s/%s", root, name) < sizeof path &&
           sv_dataset_is_folder(path);
}

static bool is_object(const char *root)
{
    return has_folder(root, "training/velodyne") || has_folder(root, "testing/velodyne") ||
           has_folder(root, "training/label_2"); /* enough to score result files */
}

static bool recognise(const char *root)
{
    return is_object(root) || sv_kitti_is_raw(root);
}

/* ---- opening the object benchmark --------------------------------------------------------------------- */

static sv_status read_rule(sv_ctx *c, const char *text, sv_kitti_fov *out)
{
    static const char *const names[] = {"training", "devkit", "all"};
    static const sv_kitti_fov rules[] = {SV_KITTI_FOV_TRAINING, SV_KITTI_FOV_DEVKIT, SV_KITTI_FOV_ALL};
    *out = SV_KITTI_FOV_TRAINING;
    if (!text) return SV_OK;
    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = rules[i];
            return SV_OK;
        }
    return SV_FAIL(c, SV_USAGE, "'%.40s' is no field of view: training, devkit or all", text);
}

/* A missing list: which lists there are. */
static sv_status no_split(sv_ctx *c, const char *root, const char *split)
{
    char folder[PATH], there[400];
    SV_TRY(sv_dataset_path(c, folder, sizeof folder, "%s/ImageSets", root));
    if (!sv_dataset_is_folder(folder))
        return SV_FAIL(c, SV_BAD_INPUT,
                       "%s: has no ImageSets/%s.txt, and no folder ImageSets: make it (one frame a line, "
                       "such as 000134), or take "
                       "the split 'training' or 'testing', which are all scans there are",
                       root, split);
    sv_names names;
    SV_TRY(sv_dataset_list(c, folder, ".txt", &names));
    for (int i = 0; i < names.count; i++) names.data[i][strlen(names.data[i]) - 4] = '\0';
    sv_names_say(&names, there, sizeof there);
    sv_names_free(&names);
    return SV_FAIL(
        c, SV_BAD_INPUT,
        "%s: has no ImageSets/%s.txt; the splits there are: %s; 'training' and 'testing' take every scan",
        root, split, there);
}

static sv_status add_frames(sv_ctx *c, sv_dataset *d, char *const *names, int count)
{
    for (int i = 0; i < count; i++) {
        SV_TRY(sv_dataset_add_sequence(c, d, names[i]));
        SV_TRY(sv_dataset_add_sample(c, d, names[i], 0));
    }
    return SV_OK;
}

/* Every scan, or where there are labels alone, every file of labels. */
static sv_status open_all(sv_ctx *c, sv_dataset *d, const char *part)
{
    char folder[PATH];
    sv_names names;
    SV_TRY(sv_dataset_path(c, folder, sizeof folder, "%s/%s/velodyne", d->root, part));
    const bool scans = sv_dataset_is_folder(folder);
    if (!scans) SV_TRY(sv_dataset_path(c, folder, sizeof folder, "%s/%s/label_2", d->root, part));
    SV_TRY(sv_dataset_list(c, folder, scans ? ".bin" : ".txt", &names));
    for (int i = 0; i < names.count; i++) names.data[i][strlen(names.data[i]) - 4] = '\0';
    const sv_status status = add_frames(c, d, names.data, names.count);
    sv_names_free(&names);
    return status;
}

static sv_status open_list(sv_ctx *c, sv_dataset *d, const char *path)
{
    sv_kitti_ids ids;
    SV_TRY(sv_kitti_read_ids(c, path, &ids));
    sv_status status = SV_OK;
    for (int i = 0; i < ids.count && status == SV_OK; i++) {
        char *name = ids.data[i];
        status = add_frames(c, d, &name, 1);
    }
    sv_kitti_free_ids(&ids);
    return status;
}

static sv_status open_object(sv_ctx *c, const sv_dataset_def *def, sv_dataset *d)
{
    char path[PATH];
    kitti *own = d->own;
    SV_CHECK(c, def->sequence_count == 0, SV_USAGE,
             "%s: frames of KITTI's object benchmark belong to no sequences; raw recordings have them",
             d->root);
    const char *split = def->split ? def->split : "val";
    const bool every = strcmp(split, "training") == 0 || strcmp(split, "testing") == 0;
    own->part = strcmp(split, "test") == 0 || strcmp(split, "testing") == 0 ? "testing" : "training";
    SV_CHECK(c, strlen(split) < sizeof d->split && !strchr(split, '/'), SV_USAGE,
             "'%.60s' is no name of a split: it stands for ImageSets/NAME.txt", split);
    memcpy(d->split, split, strlen(split) + 1);
    snprintf(d->summary, sizeof d->summary, "KITTI object benchmark, split %s", split);
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/%s", d->root, own->part));
    SV_CHECK(c, has_folder(path, "velodyne") || has_folder(path, "label_2"), SV_BAD_INPUT,
             "%s: has no %s/velodyne, where the scans of split %s belong", d->root, own->part, split);
    if (every) return open_all(c, d, own->part);
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/ImageSets/%s.txt", d->root, split));
    if (!sv_dataset_is_file(path)) return no_split(c, d->root, split);
    return open_list(c, d, path);
}

/* A folder that is neither layout: which folder might be meant. */
static sv_status no_layout(sv_ctx *c, const char *root)
{
    char there[400];
    SV_CHECK(c, !(has_folder(root, "velodyne") && has_folder(root, "calib")), SV_BAD_INPUT,
             "%s: holds velodyne/ and calib/ itself: name the folder above it, which holds training/ and "
             "ImageSets/",
             root);
    sv_names names;
    SV_TRY(sv_dataset_list(c, root, "", &names));
    sv_names_say(&names, there, sizeof there);
    sv_names_free(&names);
    return SV_FAIL(c, SV_BAD_INPUT,
                   "%s: is no KITTI folder; the object benchmark has training/velodyne, a raw recording "
                   "DATE/calib_cam_to_cam.txt "
                   "and DATE/DATE_drive_XXXX_sync/velodyne_points; here is %s",
                   root, there);
}

static sv_status open_kitti(sv_ctx *c, const sv_dataset_def *def, sv_dataset *d)
{
    kitti *own = calloc(1, sizeof *own);
    SV_CHECK(c, own != NULL, SV_NO_MEMORY, "%s: no memory", d->root);
    d->own = own;
    d->layout = "xyzi";
    d->classes = classes;
    d->class_count = CLASSES;
    SV_TRY(read_rule(c, def->fov, &own->fov));
    if (is_object(d->root)) return open_object(c, def, d);
    if (!sv_kitti_is_raw(d->root)) return no_layout(c, d->root);
    SV_CHECK(c, !def->split, SV_USAGE, "%s: raw recordings have no splits, drives are chosen as sequences",
             d->root);
    return sv_kitti_raw_open(c, def, d, &own->raw);
}

static void close_kitti(sv_dataset *d)
{
    kitti *own = d->own;
    if (own) sv_kitti_raw_close(own->raw);
    free(own);
}

/* ---- reading ------------------------------------------------------------------------------------------ */

/* Where the files of a sample lie; "" where the layout has none. */
typedef struct paths {
    char scan[PATH], picture[PATH], calibration[PATH], labels[PATH];
} paths;

/* sv_sample.memory */
typedef struct memory {
    sv_kitti_sample sample;
    bool placed; /* there is a calibration: labels have boxes in the LiDAR's frame */
    paths paths;
} memory;

static void free_memory(void *pointer)
{
    memory *m = pointer;
    sv_kitti_free_objects(&m->sample.objects);
    free(m);
}

static sv_status object_paths(sv_ctx *c, const sv_dataset *d, const char *id, paths *out)
{
    const kitti *own = d->own;
    const char *root = d->root, *part = own->part;
    SV_TRY(sv_dataset_path(c, out->scan, PATH, "%s/%s/velodyne/%s.bin", root, part, id));
    SV_TRY(sv_dataset_path(c, out->picture, PATH, "%s/%s/image_2/%s.png", root, part, id));
    SV_TRY(sv_dataset_path(c, out->calibration, PATH, "%s/%s/calib/%s.txt", root, part, id));
    SV_TRY(sv_dataset_path(c, out->labels, PATH, "%s/%s/label_2", root, part));
    if (!sv_dataset_is_folder(out->labels)) {
        out->labels[0] = '\0';
        return SV_OK;
    }
    return sv_dataset_path(c, out->labels, PATH, "%s/%s/label_2/%s.txt", root, part, id);
}

/* The scan; of the picture the part that says its size; what calibrates both. */
static sv_status fingerprint(sv_ctx *c, const sv_dataset *d, int index, sv_fingerprint *out)
{
    enum { PNG_HEAD = 24 };
    const kitti *own = d->own;
    sv_kitti_calibration calibration = {0};
    sv_sample sample = {
        .index = index, .sequence = d->samples[index].sequence, .time = d->samples[index].time};
    paths p;
    memcpy(sample.id, d->samples[index].id, sizeof sample.id);
    if (own->raw) {
        SV_TRY(sv_kitti_raw_paths(c, own->raw, &sample, p.scan, p.picture, PATH));
        SV_TRY(sv_kitti_raw_pose(c, own->raw, &sample, &calibration));
        sv_fingerprint_values(out, &calibration.lidar_to_rect, sizeof calibration.lidar_to_rect);
        sv_fingerprint_values(out, calibration.p2, sizeof calibration.p2);
    } else {
        SV_TRY(object_paths(c, d, sample.id, &p));
        SV_TRY(sv_fingerprint_file(c, out, p.calibration, 0, -1));
    }
    SV_TRY(sv_fingerprint_file(c, out, p.scan, 0, -1));
    if (own->fov == SV_KITTI_FOV_ALL) return SV_OK;
    return sv_fingerprint_file(c, out, p.picture, 0, PNG_HEAD);
}

/* The size of the picture, for the field of view and the camera; without a folder of pictures there is no
 * camera. */
static sv_status read_size(sv_ctx *c, memory *m, bool filtered)
{
    const char *path = m->paths.picture;
    if (sv_dataset_is_file(path)) return sv_image_png_size(c, path, &m->sample.width, &m->sample.height);
    SV_CHECK(
        c, !filtered, SV_IO,
        "%s: is not there, and which points the camera sees depends on the size of its picture: add the "
        "pictures of the left colour camera (image_2), or, for scans that are reduced to the camera's view "
        "already, choose the field of view 'all' (--fov all)",
        path);
    char folder[PATH];
    memcpy(folder, path, sizeof folder);
    *strrchr(folder, '/') = '\0';
    SV_CHECK(c, !sv_dataset_is_folder(folder), SV_IO, "%s: is not there, but its folder is", path);
    return SV_OK;
}

static sv_status read_points(sv_ctx *c, const sv_dataset *d, const memory *m, sv_sample *out)
{
    const kitti *own = d->own;
    sv_points points;
    SV_TRY(sv_points_read(c, m->paths.scan, d->layout, &points));
    out->dropped = points.dropped;
    points.count = sv_kitti_filter_fov(&m->sample.calibration, own->fov, m->sample.width, m->sample.height,
                                       points.data, points.count, points.columns);
    const sv_status status = sv_sample_frame(c, out, points.count, points.columns);
    if (status == SV_OK) {
        if (points.count > 0)
            memcpy(out->frame->points, points.data,
                   sizeof *points.data * (size_t)points.count * (size_t)points.columns);
        out->frame->count = points.count;
    }
    sv_points_free(&points);
    return status;
}

static int class_of(const char *type)
{
    for (int i = 0; i < CLASSES; i++)
        if (strcmp(classes[i], type) == 0) return i + 1;
    return 0;
}

static sv_status read_labels(sv_ctx *c, memory *m, sv_sample *out)
{
    sv_kitti_objects *objects = &m->sample.objects;
    if (!m->paths.labels[0]) return SV_OK;
    SV_TRY(sv_kitti_read_objects(c, m->paths.labels, false, objects));
    SV_TRY(sv_sample_labels(c, out, objects->count));
    for (int i = 0; i < objects->count; i++) {
        const sv_kitti_object *o = &objects->data[i];
        sv_label *label = &out->labels[i];
        label->type = o->type;
        label->record = o;
        label->points = -1;
        label->has_box = m->placed && strcmp(o->type, "DontCare") != 0;
        if (!label->has_box) continue;
        label->box = sv_kitti_box_of_object(&m->sample.calibration, o);
        label->box.label = class_of(o->type);
    }
    out->has_labels = true;
    return SV_OK;
}

/* rect = lidar_to_rect * lidar, then P2. */
static sv_status read_camera(sv_ctx *c, const memory *m, const char *name, bool picture, sv_sample *out)
{
    const sv_kitti_calibration *k = &m->sample.calibration;
    sv_camera_view *view = &out->cameras[0];
    if (m->sample.width == 0) return SV_OK;
    snprintf(view->name, sizeof view->name, "%s", name);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) {
            double sum = j == 3 ? k->p2[4 * i + 3] : 0;
            for (int n = 0; n < 3; n++)
                sum += k->p2[4 * i + n] * (j < 3 ? k->lidar_to_rect.r[3 * n + j] : k->lidar_to_rect.t[n]);
            view->projection[4 * i + j] = sum;
        }
    view->width = m->sample.width;
    view->height = m->sample.height;
    out->camera_count = 1;
    return picture ? sv_image_read_png(c, m->paths.picture, &view->image) : SV_OK;
}

static sv_status read_kitti(sv_ctx *c, const sv_dataset *d, unsigned parts, sv_sample *out)
{
    const kitti *own = d->own;
    if (!out->memory) {
        out->memory = calloc(1, sizeof(memory));
        SV_CHECK(c, out->memory != NULL, SV_NO_MEMORY, "%s: no memory", out->id);
        out->free_memory = free_memory;
    }
    memory *m = out->memory;
    sv_kitti_free_objects(&m->sample.objects);
    m->sample = (sv_kitti_sample){0};
    out->record = &m->sample;
    if (own->raw) {
        m->paths.labels[0] = '\0';
        m->placed = true;
        SV_TRY(sv_kitti_raw_paths(c, own->raw, out, m->paths.scan, m->paths.picture, PATH));
        SV_TRY(sv_kitti_raw_pose(c, own->raw, out, &m->sample.calibration));
    } else {
        SV_TRY(object_paths(c, d, out->id, &m->paths));
        /* who scores result files needs labels alone: their boxes lie in the camera's frame */
        char folder[PATH];
        SV_TRY(sv_dataset_path(c, folder, sizeof folder, "%s/%s/calib", d->root, own->part));
        m->placed = parts != SV_READ_LABELS || sv_dataset_is_folder(folder);
        if (!m->placed) return read_labels(c, m, out);
        SV_TRY(sv_kitti_read_calibration(c, m->paths.calibration, &m->sample.calibration));
    }
    const sv_pose imu_to_velo = sv_pose_from_rows(m->sample.calibration.imu_to_velo);
    SV_CHECK(c, sv_pose_invert(&imu_to_velo, &out->lidar_to_ego), SV_BAD_INPUT,
             "%s: the motion from the inertial unit to the LiDAR is singular", out->id);
    const bool filtered = (parts & SV_READ_POINTS) && own->fov != SV_KITTI_FOV_ALL;
    if (filtered || (parts & SV_READ_CAMERAS)) SV_TRY(read_size(c, m, filtered));
    if (parts & SV_READ_POINTS) SV_TRY(read_points(c, d, m, out));
    if (parts & SV_READ_CAMERAS)
        SV_TRY(read_camera(c, m, own->raw ? "image_02" : "image_2", (parts & SV_READ_IMAGES) != 0, out));
    if (parts & SV_READ_LABELS) SV_TRY(read_labels(c, m, out));
    return SV_OK;
}

/* ---- looking at a folder ------------------------------------------------------------------------------ */

/* What belongs to a scan. */
typedef struct companion {
    const char *folder, *suffix, *use;
    int there, missing;
    char first[64]; /* name of the first one missing */
} companion;

/* Looks at one frame's files; the first that cannot be read ends up in 'problem'. */
static void look_at_frame(sv_ctx *c, const char *folder, const char *name, companion *companions, int count,
                          char *problem, size_t room)
{
    char path[PATH];
    sv_kitti_calibration calibration;
    sv_kitti_objects objects;
    int width, height;
    for (int i = 0; i < count; i++) {
        companion *p = &companions[i];
        const int length = snprintf(path, sizeof path, "%s/%s/%s%s", folder, p->folder, name, p->suffix);
        if ((size_t)length >= sizeof path || !sv_dataset_is_file(path)) {
            if (p->missing++ == 0) snprintf(p->first, sizeof p->first, "%s", name);
            continue;
        }
        p->there++;
        if (problem[0]) continue;
        sv_status status = SV_OK;
        if (strcmp(p->folder, "calib") == 0) {
            status = sv_kitti_read_calibration(c, path, &calibration);
        } else if (strcmp(p->folder, "label_2") == 0) {
            status = sv_kitti_read_objects(c, path, false, &objects);
            sv_kitti_free_objects(&objects);
        } else {
            status = sv_image_png_size(c, path, &width, &height);
        }
        if (status == SV_OK) continue;
        snprintf(problem, room, "%s", sv_error_message(c));
        sv_error_clear(c);
    }
}

static sv_status inspect_part(sv_ctx *c, const char *root, const char *part, sv_findings *findings)
{
    char folder[PATH], path[PATH], problem[240] = "";
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/%s/velodyne", root, part));
    if (!sv_dataset_is_folder(path)) {
        SV_TRY(sv_dataset_path(c, folder, sizeof folder, "%s/%s", root, part));
        if (!sv_dataset_is_folder(folder)) return SV_OK;
        return sv_findings_add(c, findings, true, part, "has no velodyne/, so no scans");
    }
    SV_TRY(sv_dataset_path(c, folder, sizeof folder, "%s/%s", root, part));
    companion companions[] = {{"calib", ".txt", "nothing can be placed without it", 0, 0, ""},
                              {"image_2", ".png", "the field of view needs its size", 0, 0, ""},
                              {"label_2", ".txt", "no evaluation without it", 0, 0, ""}};
    const bool labelled = strcmp(part, "training") == 0;
    const int count = labelled ? 3 : 2;
    sv_names scans;
    int odd = 0;
    SV_TRY(sv_dataset_list(c, path, ".bin", &scans));
    for (int i = 0; i < scans.count; i++) {
        char scan[PATH];
        long long size = 0;
        if ((size_t)snprintf(scan, sizeof scan, "%s/%s", path, scans.data[i]) < sizeof scan)
            size = sv_dataset_file_size(scan);
        odd += size <= 0 || size % 16 != 0;
        scans.data[i][strlen(scans.data[i]) - 4] = '\0';
        look_at_frame(c, folder, scans.data[i], companions, count, problem, sizeof problem);
    }
    sv_status status = sv_findings_add(c, findings, scans.count == 0, part, "%d scans", scans.count);
    if (status == SV_OK && odd > 0)
        status = sv_findings_add(c, findings, true, part,
                                 "%d scans are empty or no whole number of points of 16 bytes", odd);
    for (int i = 0; i < count && status == SV_OK; i++) {
        const companion *p = &companions[i];
        if (p->missing > 0)
            status = sv_findings_add(c, findings, true, part, "%s: %d files, %d missing, first %s%s (%s)",
                                     p->folder, p->there, p->missing, p->first, p->suffix, p->use);
        else
            status = sv_findings_add(c, findings, false, part, "%s: %d files", p->folder, p->there);
    }
    if (status == SV_OK && problem[0]) status = sv_findings_add(c, findings, true, part, "%s", problem);
    sv_names_free(&scans);
    return status;
}

static sv_status inspect_lists(sv_ctx *c, const char *root, sv_findings *findings)
{
    char folder[PATH], path[PATH];
    SV_TRY(sv_dataset_path(c, folder, sizeof folder, "%s/ImageSets", root));
    if (!sv_dataset_is_folder(folder))
        return sv_findings_add(
            c, findings, true, "ImageSets",
            "no such folder: only the splits 'training' and 'testing' (every scan) can be read");
    sv_names names;
    SV_TRY(sv_dataset_list(c, folder, ".txt", &names));
    sv_status status = SV_OK;
    for (int i = 0; i < names.count && status == SV_OK; i++) {
        sv_kitti_ids ids = {0};
        status = sv_dataset_path(c, path, sizeof path, "%s/%s", folder, names.data[i]);
        if (status != SV_OK) break;
        if (sv_kitti_read_ids(c, path, &ids) != SV_OK) {
            status = sv_findings_add(c, findings, true, names.data[i], "%s", sv_error_message(c));
            sv_error_clear(c);
            continue;
        }
        const char *part = strcmp(names.data[i], "test.txt") == 0 ? "testing" : "training";
        int missing = 0;
        for (int k = 0; k < ids.count; k++)
            missing += (size_t)snprintf(path, sizeof path, "%s/%s/velodyne/%s.bin", root, part,
                                        ids.data[k]) >= sizeof path ||
                       !sv_dataset_is_file(path);
        status = missing
                     ? sv_findings_add(c, findings, true, names.data[i],
                                       "%d frames, %d of them without a scan in %s", ids.count, missing, part)
                     : sv_findings_add(c, findings, false, names.data[i], "%d frames", ids.count);
        sv_kitti_free_ids(&ids);
    }
    if (status == SV_OK && names.count == 0)
        status = sv_findings_add(c, findings, true, "ImageSets", "no lists (train.txt, val.txt, ...)");
    sv_names_free(&names);
    return status;
}

static sv_status inspect_kitti(sv_ctx *c, const char *root, sv_findings *findings)
{
    if (!is_object(root)) {
        SV_TRY(sv_findings_add(c, findings, false, "layout", "raw recordings"));
        return sv_kitti_raw_inspect(c, root, findings);
    }
    SV_TRY(sv_findings_add(c, findings, false, "layout", "object benchmark"));
    SV_TRY(inspect_part(c, root, "training", findings));
    SV_TRY(inspect_part(c, root, "testing", findings));
    return inspect_lists(c, root, findings);
}

const sv_dataset_type sv_dataset_type_kitti = {
    .name = "kitti",
    .summary = "KITTI: the object benchmark (training/, testing/, ImageSets/) and raw recordings",
    .takes_split = true,
    .takes_sequences = true,
    .takes_fov = true,
    .recognise = recognise,
    .open = open_kitti,
    .close = close_kitti,
    .read = read_kitti,
    .fingerprint = fingerprint,
    .inspect = inspect_kitti,
    .evaluator = &sv_evaluator_type_kitti,
};
