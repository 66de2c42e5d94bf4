/* SPDX-License-Identifier: Apache-2.0
 *
 * The sensor dataset of Argoverse 2.
 *
 *     ROOT/{train,val,test}/LOG/sensors/lidar/315968385323560000.feather    x, y, z, intensity of a sweep (10 Hz)
 *     ROOT/{train,val}/LOG/annotations.feather                              boxes of all sweeps
 *     ROOT/SPLIT/LOG/city_SE3_egovehicle.feather                            poses
 *
 * Points and boxes are in the vehicle's frame (x forward, y left, z up), sweeps are freed of the vehicle's motion. Names
 * of files are nanoseconds. Cameras are not read.
 */
#include "argoverse2.h"
#include "dataset_type.h"
#include "evaluator_type.h"
#include "feather.h"
#include "perception/core/file.h"
#include "perception/points.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 4096, FILE_LIMIT = 1 << 28 };

/* In the order of the models. */
const char *const sv_argoverse2_class_names[SV_ARGOVERSE2_CLASSES] = {"REGULAR_VEHICLE",
                                                                      "PEDESTRIAN",
                                                                      "BICYCLIST",
                                                                      "MOTORCYCLIST",
                                                                      "WHEELED_RIDER",
                                                                      "BOLLARD",
                                                                      "CONSTRUCTION_CONE",
                                                                      "SIGN",
                                                                      "CONSTRUCTION_BARREL",
                                                                      "STOP_SIGN",
                                                                      "MOBILE_PEDESTRIAN_CROSSING_SIGN",
                                                                      "LARGE_VEHICLE",
                                                                      "BUS",
                                                                      "BOX_TRUCK",
                                                                      "TRUCK",
                                                                      "VEHICULAR_TRAILER",
                                                                      "TRUCK_CAB",
                                                                      "SCHOOL_BUS",
                                                                      "ARTICULATED_BUS",
                                                                      "MESSAGE_BOARD_TRAILER",
                                                                      "BICYCLE",
                                                                      "MOTORCYCLE",
                                                                      "WHEELED_DEVICE",
                                                                      "WHEELCHAIR",
                                                                      "STROLLER",
                                                                      "DOG"};

/* A sweep. */
typedef struct sweep {
    int64_t time;
    sv_pose to_city;
    bool posed;
} sweep;

/* sv_dataset.own */
typedef struct argoverse {
    sweep *sweeps; /* of samples */
    int room;
    bool labelled;
} argoverse;

int64_t sv_argoverse2_time(const sv_dataset *dataset, int sample)
{
    return ((const argoverse *)dataset->own)->sweeps[sample].time;
}

static bool is_log(const char *root, const char *split, const char *name)
{
    char path[PATH];
    return snprintf(path, sizeof path, "%s/%s/%s/sensors/lidar", root, split, name) < PATH &&
           sv_dataset_is_folder(path);
}

static bool recognise(const char *root)
{
    static const char *const splits[] = {"val", "train", "test"};
    for (size_t k = 0; k < 3; k++) {
        char path[PATH];
        sv_names names;
        bool found = false;
        if (snprintf(path, sizeof path, "%s/%s", root, splits[k]) >= PATH || !sv_dataset_is_folder(path) ||
            sv_dataset_list(NULL, path, "/", &names) != SV_OK)
            continue;
        for (int i = 0; i < names.count && !found; i++) found = is_log(root, splits[k], names.data[i]);
        sv_names_free(&names);
        if (found) return true;
    }
    return false;
}

/* ---- tables ------------------------------------------------------------------------------------------- */

static sv_status open_table(sv_ctx *c, const char *path, void **bytes, sv_feather *out)
{
    size_t size;
    SV_TRY(sv_file_read(c, path, FILE_LIMIT, bytes, &size));
    const sv_status status = sv_feather_open(c, path, *bytes, size, out);
    if (status != SV_OK) free(*bytes);
    return status;
}

/* 'count' columns of all rows, malloc'ed [count, rows]. */
static sv_status read_columns(sv_ctx *c, sv_feather *f, const char *const *names, int count, double **out)
{
    *out = malloc(sizeof **out * (size_t)count * (size_t)(f->rows + 1));
    SV_CHECK(c, *out, SV_NO_MEMORY, "%s: no memory for %lld rows", f->name, (long long)f->rows);
    for (int k = 0; k < count; k++) {
        double *column = *out + (size_t)k * (size_t)f->rows;
        const sv_status status = sv_feather_floats(c, f, names[k], column);
        if (status != SV_OK) {
            free(*out);
            *out = NULL;
            return status;
        }
    }
    return SV_OK;
}

static sv_status read_times(sv_ctx *c, sv_feather *f, int64_t **out)
{
    *out = malloc(sizeof **out * (size_t)(f->rows + 1));
    SV_CHECK(c, *out, SV_NO_MEMORY, "%s: no memory for %lld rows", f->name, (long long)f->rows);
    const sv_status status = sv_feather_integers(c, f, "timestamp_ns", *out);
    if (status == SV_OK) return SV_OK;
    free(*out);
    *out = NULL;
    return status;
}

static const char *const pose_columns[] = {"qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m"};

/* A pose from row 'row' of columns in that order; false when it is none. */
static bool pose_of(const double *columns, int64_t rows, int64_t row, sv_pose *out)
{
    double v[7];
    for (int k = 0; k < 7; k++) v[k] = columns[k * rows + row];
    const double n = v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + v[3] * v[3];
    bool good = n > 0.25 && n < 4;
    for (int k = 4; k < 7; k++) good = good && fabs(v[k]) < 1e9;
    *out = sv_pose_from_quaternion(v, v + 4);
    return good;
}

/* ---- opening ------------------------------------------------------------------------------------------ */

/* Poses of the sweeps first..count of the dataset, by their time. */
static sv_status read_poses(sv_ctx *c, const sv_dataset *d, const char *log, int first)
{
    argoverse *own = d->own;
    char path[PATH];
    void *bytes;
    sv_feather f;
    int64_t *times = NULL;
    double *columns = NULL;
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/%s/%s/city_SE3_egovehicle.feather", d->root, d->split,
                           log));
    if (!sv_dataset_is_file(path)) return SV_OK;
    SV_TRY(open_table(c, path, &bytes, &f));
    sv_status status = read_times(c, &f, &times);
    if (status == SV_OK) status = read_columns(c, &f, pose_columns, 7, &columns);
    /* both are in the order of time in published files; a search from the last place serves any order */
    for (int i = first; i < d->count && status == SV_OK; i++) {
        int64_t row = i > first ? (i - first) % (f.rows + 1) : 0, looked = 0;
        while (looked < f.rows && times[row % f.rows] != own->sweeps[i].time) row++, looked++;
        if (looked == f.rows) continue;
        own->sweeps[i].posed = pose_of(columns, f.rows, row % f.rows, &own->sweeps[i].to_city);
        if (!own->sweeps[i].posed)
            status = SV_FAIL(c, SV_BAD_INPUT, "%s: row %lld is no pose (quaternion and place)", path,
                             (long long)(row % f.rows));
    }
    free(times);
    free(columns);
    sv_feather_free(&f);
    free(bytes);
    return status;
}

static sv_status add_sweep(sv_ctx *c, sv_dataset *d, const char *log, const char *name)
{
    argoverse *own = d->own;
    const size_t digits = strspn(name, "0123456789");
    char id[64];
    SV_CHECK(c, digits > 0 && digits < 19 && strcmp(name + digits, ".feather") == 0, SV_BAD_INPUT,
             "%s/%s/%s/sensors/lidar/%.80s: is not named after its time (nanoseconds)", d->root, d->split,
             log, name);
    SV_CHECK(c, strlen(log) + digits + 2 <= sizeof id, SV_BAD_INPUT,
             "%s/%s/%.80s: the name of the log is too long", d->root, d->split, log);
    if (d->count == own->room) {
        own->room = own->room ? 2 * own->room : 256;
        void *grown = realloc(own->sweeps, sizeof *own->sweeps * (size_t)own->room);
        SV_CHECK(c, grown, SV_NO_MEMORY, "%s: no memory for %d sweeps", d->root, own->room);
        own->sweeps = grown;
    }
    own->sweeps[d->count] = (sweep){.time = strtoll(name, NULL, 10), .to_city = sv_pose_identity()};
    snprintf(id, sizeof id, "%s_%.*s", log, (int)digits, name);
    return sv_dataset_add_sample(c, d, id, 1e-9 * (double)own->sweeps[d->count].time);
}

static sv_status add_log(sv_ctx *c, sv_dataset *d, const char *log)
{
    char path[PATH];
    sv_names names;
    const int first = d->count;
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/%s/%s/sensors/lidar", d->root, d->split, log));
    SV_TRY(sv_dataset_list(c, path, ".feather", &names));
    sv_status status = sv_dataset_add_sequence(c, d, log);
    for (int i = 0; i < names.count && status == SV_OK; i++) status = add_sweep(c, d, log, names.data[i]);
    sv_names_free(&names);
    return status == SV_OK ? read_poses(c, d, log, first) : status;
}

static sv_status open_argoverse2(sv_ctx *c, const sv_dataset_def *def, sv_dataset *d)
{
    argoverse *own = calloc(1, sizeof *own);
    SV_CHECK(c, own, SV_NO_MEMORY, "%s: no memory", d->root);
    d->own = own;
    d->layout = "xyzi";
    d->classes = sv_argoverse2_class_names;
    d->class_count = SV_ARGOVERSE2_CLASSES;
    const char *split = def->split ? def->split : "val";
    char path[PATH];
    SV_CHECK(c, strlen(split) < sizeof d->split && !strchr(split, '/'), SV_USAGE,
             "'%.60s' is no name of a split", split);
    snprintf(d->split, sizeof d->split, "%s", split);
    snprintf(d->summary, sizeof d->summary, "Argoverse 2, split %s", split);
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/%s", d->root, split));
    SV_CHECK(c, sv_dataset_is_folder(path), SV_USAGE,
             "%s: has no split %s (a folder with a folder for every log)", d->root, split);
    sv_names names;
    SV_TRY(sv_dataset_list(c, path, "/", &names));
    sv_status status = SV_OK;
    int found = 0;
    for (int i = 0; i < names.count && status == SV_OK; i++) {
        bool wanted = def->sequence_count == 0;
        for (int k = 0; k < def->sequence_count; k++) wanted |= strcmp(names.data[i], def->sequences[k]) == 0;
        if (!wanted || !is_log(d->root, split, names.data[i])) continue;
        found++;
        status = add_log(c, d, names.data[i]);
    }
    sv_names_free(&names);
    SV_TRY(status);
    SV_CHECK(c, found >= def->sequence_count && found > 0, SV_USAGE, "%s: holds %d of the wanted logs", path,
             found);
    own->labelled = strcmp(split, "test") != 0;
    return SV_OK;
}

static void close_argoverse2(sv_dataset *d)
{
    argoverse *own = d->own;
    if (own) free(own->sweeps);
    free(own);
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static sv_status sweep_path(sv_ctx *c, const sv_dataset *d, int sample, char out[PATH])
{
    return sv_dataset_path(c, out, PATH, "%s/%s/%s/sensors/lidar/%s.feather", d->root, d->split,
                           d->sequences[d->samples[sample].sequence].name,
                           strrchr(d->samples[sample].id, '_') + 1);
}

static sv_status read_points(sv_ctx *c, const sv_dataset *d, sv_sample *out)
{
    static const char *const names[] = {"x", "y", "z", "intensity"};
    char path[PATH];
    void *bytes;
    sv_feather f;
    double *columns = NULL;
    SV_TRY(sweep_path(c, d, out->index, path));
    SV_TRY(open_table(c, path, &bytes, &f));
    const int64_t rows = f.rows;
    sv_status status = rows <= SV_POINTS_MAX
                           ? read_columns(c, &f, names, 4, &columns)
                           : SV_FAIL(c, SV_BAD_INPUT, "%s: has more than %d points", path, SV_POINTS_MAX);
    if (status == SV_OK) status = sv_sample_frame(c, out, (int)rows, 4);
    for (int64_t i = 0; i < rows && status == SV_OK; i++) {
        float *p = out->frame->points + 4 * (size_t)out->frame->count;
        bool good = true;
        for (int k = 0; k < 4; k++) {
            p[k] = (float)columns[k * rows + i];
            good = good && isfinite(p[k]);
        }
        out->frame->count += good;
        out->dropped += !good;
    }
    free(columns);
    sv_feather_free(&f);
    free(bytes);
    return status;
}

static sv_status fingerprint(sv_ctx *c, const sv_dataset *d, int sample, sv_fingerprint *out)
{
    char path[PATH];
    SV_TRY(sweep_path(c, d, sample, path));
    return sv_fingerprint_file(c, out, path, 0, -1);
}

/* sv_sample.memory: texts of labels */
typedef struct memory {
    char (*types)[40], (*tracks)[40];
    int room;
} memory;

static void free_memory(void *pointer)
{
    memory *m = pointer;
    free(m->types);
    free(m->tracks);
    free(m);
}

static sv_status grow_memory(sv_ctx *c, sv_sample *out, int count, memory **m)
{
    if (!out->memory) {
        out->memory = calloc(1, sizeof **m);
        SV_CHECK(c, out->memory, SV_NO_MEMORY, "%s: no memory", out->id);
        out->free_memory = free_memory;
    }
    *m = out->memory;
    if (count <= (*m)->room) return SV_OK;
    void *types = realloc((*m)->types, sizeof *(*m)->types * (size_t)count);
    if (types) (*m)->types = types;
    void *tracks = realloc((*m)->tracks, sizeof *(*m)->tracks * (size_t)count);
    if (tracks) (*m)->tracks = tracks;
    SV_CHECK(c, types && tracks, SV_NO_MEMORY, "%s: no memory for %d labels", out->id, count);
    (*m)->room = count;
    return SV_OK;
}

static void copy_text(sv_feather_text text, char out[40])
{
    snprintf(out, 40, "%.*s", (int)(text.size < 39 ? text.size : 39), text.at);
}

/* Everything of annotations.feather. */
typedef struct annotations {
    int64_t *times, *points;
    double *columns; /* length, width, height, then those of a pose */
    sv_feather_text *types, *tracks;
} annotations;

static sv_status read_annotations(sv_ctx *c, sv_feather *f, annotations *a)
{
    static const char *const names[] = {"length_m", "width_m", "height_m", "qw",   "qx",
                                        "qy",       "qz",      "tx_m",     "ty_m", "tz_m"};
    const size_t rows = (size_t)f->rows + 1;
    SV_TRY(read_times(c, f, &a->times));
    SV_TRY(read_columns(c, f, names, 10, &a->columns));
    a->points = malloc(sizeof *a->points * rows);
    a->types = malloc(sizeof *a->types * rows);
    a->tracks = malloc(sizeof *a->tracks * rows);
    SV_CHECK(c, a->points && a->types && a->tracks, SV_NO_MEMORY, "%s: no memory for %zu rows", f->name,
             rows);
    SV_TRY(sv_feather_integers(c, f, "num_interior_pts", a->points));
    SV_TRY(sv_feather_texts(c, f, "category", a->types));
    return sv_feather_texts(c, f, "track_uuid", a->tracks);
}

static sv_status take_label(sv_ctx *c, const sv_feather *f, const annotations *a, int64_t row, memory *m,
                            int at, sv_label *out)
{
    const double *size = a->columns;
    sv_pose pose;
    const double l = size[row], w = size[f->rows + row], h = size[2 * f->rows + row];
    SV_CHECK(c,
             pose_of(a->columns + 3 * f->rows, f->rows, row, &pose) && l > 0 && w > 0 && h > 0 && l < 1e3 &&
                 w < 1e3 && h < 1e3,
             SV_BAD_INPUT, "%s: row %lld is no box (sides greater than 0, quaternion and place)", f->name,
             (long long)row);
    copy_text(a->types[row], m->types[at]);
    copy_text(a->tracks[row], m->tracks[at]);
    *out = (sv_label){.box = {.x = (float)pose.t[0],
                              .y = (float)pose.t[1],
                              .z = (float)pose.t[2],
                              .dx = (float)l,
                              .dy = (float)w,
                              .dz = (float)h,
                              .heading = (float)sv_argoverse2_heading(&pose)},
                      .has_box = true,
                      .points = a->points[row] < 0 || a->points[row] > INT32_MAX ? -1 : (int)a->points[row],
                      .type = m->types[at],
                      .instance = m->tracks[at]};
    for (int k = 0; k < SV_ARGOVERSE2_CLASSES; k++)
        if (strcmp(sv_argoverse2_class_names[k], out->type) == 0) out->box.label = k + 1;
    return SV_OK;
}

static sv_status choose_labels(sv_ctx *c, const sv_feather *f, const annotations *a, int64_t time,
                               sv_sample *out)
{
    int count = 0, at = 0;
    memory *m = NULL;
    for (int64_t i = 0; i < f->rows; i++) count += a->times[i] == time;
    SV_TRY(sv_sample_labels(c, out, count));
    SV_TRY(grow_memory(c, out, count, &m));
    for (int64_t i = 0; i < f->rows; i++) {
        if (a->times[i] != time) continue;
        SV_TRY(take_label(c, f, a, i, m, at, &out->labels[at]));
        at++;
    }
    out->has_labels = true;
    return SV_OK;
}

static sv_status read_labels(sv_ctx *c, const sv_dataset *d, sv_sample *out)
{
    const argoverse *own = d->own;
    char path[PATH];
    void *bytes;
    sv_feather f;
    annotations a = {0};
    if (!own->labelled) return SV_OK;
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/%s/%s/annotations.feather", d->root, d->split,
                           d->sequences[out->sequence].name));
    SV_TRY(open_table(c, path, &bytes, &f));
    sv_status status = read_annotations(c, &f, &a);
    if (status == SV_OK) status = choose_labels(c, &f, &a, own->sweeps[out->index].time, out);
    free(a.times);
    free(a.points);
    free(a.columns);
    free(a.types);
    free(a.tracks);
    sv_feather_free(&f);
    free(bytes);
    return status;
}

static sv_status read_argoverse2(sv_ctx *c, const sv_dataset *d, unsigned parts, sv_sample *out)
{
    const sweep *s = &((const argoverse *)d->own)->sweeps[out->index];
    out->ego_to_world = s->to_city;
    out->has_pose = s->posed;
    if (parts & SV_READ_POINTS) SV_TRY(read_points(c, d, out));
    return parts & SV_READ_LABELS ? read_labels(c, d, out) : SV_OK;
}

/* ---- looking at a folder ------------------------------------------------------------------------------ */

static sv_status inspect_split(sv_ctx *c, const char *root, const char *split, sv_findings *findings)
{
    sv_dataset_def def = sv_dataset_def_default("argoverse2", root);
    sv_dataset *d = NULL;
    def.split = split;
    sv_status status = sv_dataset_open(c, &def, &d);
    if (status == SV_OK)
        status =
            sv_findings_add(c, findings, false, split, "%d logs, %d sweeps", d->sequence_count, d->count);
    else
        status = sv_findings_add(c, findings, true, split, "%s", sv_error_message(c));
    sv_error_clear(c);
    /* the first sweep of every log, and its labels */
    sv_sample s = {0};
    for (int i = 0; d && i < d->sequence_count && status == SV_OK; i++) {
        if (d->sequences[i].count == 0)
            status = sv_findings_add(c, findings, true, split, "%s: holds no sweeps", d->sequences[i].name);
        else if (sv_dataset_read(c, d, d->sequences[i].first, SV_READ_POINTS | SV_READ_LABELS, &s) != SV_OK)
            status = sv_findings_add(c, findings, true, split, "%s", sv_error_message(c));
        else if (!s.has_pose)
            status = sv_findings_add(c, findings, true, split, "%s: has no pose for its first sweep",
                                     d->sequences[i].name);
        sv_error_clear(c);
    }
    sv_sample_free(&s);
    sv_dataset_close(d);
    return status;
}

static sv_status inspect(sv_ctx *c, const char *root, sv_findings *findings)
{
    static const char *const splits[] = {"train", "val", "test"};
    for (size_t k = 0; k < 3; k++) {
        char path[PATH];
        SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/%s", root, splits[k]));
        if (sv_dataset_is_folder(path)) SV_TRY(inspect_split(c, root, splits[k], findings));
    }
    return SV_OK;
}

const sv_dataset_type sv_dataset_type_argoverse2 = {
    .name = "argoverse2",
    .summary = "Argoverse 2: the sensor dataset ({train,val,test}/LOG/sensors/lidar/)",
    .takes_split = true,
    .takes_sequences = true,
    .recognise = recognise,
    .open = open_argoverse2,
    .close = close_argoverse2,
    .read = read_argoverse2,
    .inspect = inspect,
    .fingerprint = fingerprint,
    .evaluator = &sv_evaluator_type_argoverse2,
};
