/* SPDX-License-Identifier: Apache-2.0
 *
 * timestamps.txt has a line for each number a frame could have, "2011-09-26 13:02:25.594360375". A line of
 * oxts is latitude and longitude (degrees), altitude (metres), roll, pitch, yaw (radians), and 24 more
 * numbers. With s the cosine of the first latitude and R = 6378137 m:
 *   east = s R lon pi/180,  north = s R log(tan(pi (90 + lat) / 360)),  up = alt
 */
#define _XOPEN_SOURCE 700 /* realpath() */
#include "kitti_raw.h"

#include "kitti_text.h"
#include "perception/core/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 4096, NAME = 80 };
static const double pi = 3.14159265358979323846, earth_radius = 6378137.0, frame_time = 0.1;

typedef struct drive {
    char day[PATH], folder[PATH], name[NAME];
    sv_kitti_calibration calibration;
    bool has_pose;
    double scale, origin[3];
} drive;

struct sv_kitti_raw {
    drive *drives; /* one per sequence */
    int count;
};

/* ---- where drives are --------------------------------------------------------------------------------- */

static bool is_drive(const char *folder)
{
    char path[PATH];
    return (size_t)snprintf(path, sizeof path, "%s/velodyne_points/data", folder) < sizeof path &&
           sv_dataset_is_folder(path);
}

typedef sv_status (*drive_fn)(void *user, const char *day, const char *folder, const char *name);

/* Visits the drives of a day; '*count' of them. */
static sv_status each_drive_of_day(sv_ctx *c, const char *day, drive_fn visit, void *user, int *count)
{
    char path[PATH];
    sv_names names;
    SV_TRY(sv_dataset_list(c, day, "/", &names));
    sv_status status = SV_OK;
    for (int i = 0; i < names.count && status == SV_OK; i++) {
        status = sv_dataset_path(c, path, sizeof path, "%s/%s", day, names.data[i]);
        if (status != SV_OK || !is_drive(path)) continue;
        ++*count;
        if (visit) status = visit(user, day, path, names.data[i]);
    }
    sv_names_free(&names);
    return status;
}

/* Visits the drives in the order of days and names. */
static sv_status each_drive(sv_ctx *c, const char *root, drive_fn visit, void *user, int *count)
{
    char path[PATH];
    *count = 0;
    if (is_drive(root)) {
        *count = 1;
        if (!visit) return SV_OK;
        /* its own name, whatever way 'root' names it */
        SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/..", root));
        char *full = realpath(root, NULL);
        const char *slash = full ? strrchr(full, '/') : NULL;
        const sv_status status = slash ? visit(user, path, root, slash + 1)
                                       : SV_FAIL(c, SV_IO, "%s: the folder cannot be read", root);
        free(full);
        return status;
    }
    SV_TRY(each_drive_of_day(c, root, visit, user, count));
    if (*count > 0) return SV_OK;
    sv_names names;
    SV_TRY(sv_dataset_list(c, root, "/", &names));
    sv_status status = SV_OK;
    for (int i = 0; i < names.count && status == SV_OK; i++) {
        status = sv_dataset_path(c, path, sizeof path, "%s/%s", root, names.data[i]);
        if (status == SV_OK) status = each_drive_of_day(c, path, visit, user, count);
    }
    sv_names_free(&names);
    return status;
}

bool sv_kitti_is_raw(const char *root)
{
    int count = 0;
    return each_drive(NULL, root, NULL, NULL, &count) == SV_OK && count > 0;
}

/* ---- times -------------------------------------------------------------------------------------------- */

/* Seconds since 1970 of "2011-09-26 13:02:25.594360375"; the calendar is Gregorian, the clock is taken as
 * UTC. */
static bool parse_time(const sv_kitti_word *day, const sv_kitti_word *clock, double *out)
{
    static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    int y, m, d, hour, minute, used = 0;
    double second;
    sv_kitti_word rest;
    if (sscanf(day->text, "%4d-%2d-%2d%n", &y, &m, &d, &used) != 3 || day->text[used] || y < 1970 || m < 1 ||
        m > 12 || d < 1 || d > 31)
        return false;
    if (sscanf(clock->text, "%2d:%2d:%n", &hour, &minute, &used) != 2 || used < 4 || hour < 0 || hour > 23 ||
        minute < 0 || minute > 59)
        return false;
    rest = (sv_kitti_word){.length = strlen(clock->text + used)};
    memcpy(rest.text, clock->text + used, rest.length + 1);
    if (!sv_kitti_number(&rest, &second) || second < 0 || second > 61) return false;
    const int leap = y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    const long days = 365L * (y - 1970) + (y - 1969) / 4 - (y - 1901) / 100 + (y - 1601) / 400 +
                      before[m - 1] + (leap && m > 2) + d - 1;
    *out = 86400.0 * (double)days + 3600.0 * hour + 60.0 * minute + second;
    return true;
}

static sv_status parse_times(sv_ctx *c, const sv_kitti_text *text, double *out, int *count)
{
    sv_kitti_lines lines = sv_kitti_lines_of(text->name, text->data, text->size);
    sv_kitti_word day, clock;
    while (sv_kitti_next_line(&lines)) {
        sv_kitti_next_word(&lines, &day);
        SV_CHECK(c, sv_kitti_next_word(&lines, &clock) && parse_time(&day, &clock, &out[*count]),
                 SV_BAD_INPUT, "%s, line %d: '%s ...' is no time such as 2011-09-26 13:02:25.594360375",
                 text->name, lines.line, day.text);
        ++*count;
    }
    return SV_OK;
}

sv_status sv_kitti_parse_times(sv_ctx *c, const sv_kitti_text *text, double **out, int *count)
{
    *count = 0;
    *out = malloc(sizeof **out * (text->size / 8 + 1)); /* a line of less than eight letters is no time */
    SV_CHECK(c, *out != NULL, SV_NO_MEMORY, "%s: no memory", text->name);
    const sv_status status = parse_times(c, text, *out, count);
    if (status == SV_OK) return SV_OK;
    free(*out);
    *out = NULL;
    *count = 0;
    return status;
}

/* By frame number; NULL when there is no file. */
static sv_status read_times(sv_ctx *c, const char *folder, double **out, int *count)
{
    char path[PATH];
    *out = NULL;
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/velodyne_points/timestamps.txt", folder));
    if (!sv_dataset_is_file(path)) return SV_OK;
    void *data;
    sv_kitti_text text = {.name = path};
    SV_TRY(sv_file_read(c, path, SV_KITTI_TEXT_LIMIT, &data, &text.size));
    text.data = data;
    const sv_status status = sv_kitti_parse_times(c, &text, out, count);
    free(data);
    return status;
}

/* ---- poses -------------------------------------------------------------------------------------------- */

enum { LATITUDE, LONGITUDE, ALTITUDE, ROLL, PITCH, YAW, OXTS };

sv_status sv_kitti_parse_oxts(sv_ctx *c, const sv_kitti_text *text, double out[OXTS])
{
    static const char *const columns[OXTS] = {"latitude", "longitude", "altitude", "roll", "pitch", "yaw"};
    static const double most[OXTS] = {89, 180, 1e5, 7, 7, 7};
    sv_kitti_lines lines = sv_kitti_lines_of(text->name, text->data, text->size);
    sv_kitti_word word;
    SV_CHECK(c, sv_kitti_next_line(&lines), SV_BAD_INPUT, "%s: is empty, a pose was expected", text->name);
    for (int i = 0; i < OXTS; i++) {
        SV_CHECK(c, sv_kitti_next_word(&lines, &word), SV_BAD_INPUT, "%s: has no %s (column %d)", text->name,
                 columns[i], i + 1);
        SV_CHECK(c, sv_kitti_number(&word, &out[i]) && fabs(out[i]) <= most[i], SV_BAD_INPUT,
                 "%s, line %d: '%s' is no %s", text->name, lines.line, word.text, columns[i]);
    }
    return SV_OK;
}

static sv_status read_oxts(sv_ctx *c, const char *folder, const char *frame, double out[OXTS])
{
    char path[PATH];
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/oxts/data/%s.txt", folder, frame));
    void *data;
    sv_kitti_text text = {.name = path};
    SV_TRY(sv_file_read(c, path, SV_KITTI_TEXT_LIMIT, &data, &text.size));
    text.data = data;
    const sv_status status = sv_kitti_parse_oxts(c, &text, out);
    free(data);
    return status;
}

static void place(const double oxts[OXTS], double scale, double out[3])
{
    out[0] = scale * earth_radius * oxts[LONGITUDE] * pi / 180;
    out[1] = scale * earth_radius * log(tan(pi * (90 + oxts[LATITUDE]) / 360));
    out[2] = oxts[ALTITUDE];
}

/* Turned by roll about x, then pitch about y, then yaw about z. */
static sv_pose pose_of(const double oxts[OXTS], double scale, const double origin[3])
{
    const double a = oxts[ROLL], b = oxts[PITCH];
    const sv_pose roll = {.r = {1, 0, 0, 0, cos(a), -sin(a), 0, sin(a), cos(a)}},
                  pitch = {.r = {cos(b), 0, sin(b), 0, 1, 0, -sin(b), 0, cos(b)}},
                  yaw = sv_pose_from_yaw(oxts[YAW], 0, 0, 0);
    sv_pose pose = sv_pose_compose(&pitch, &roll);
    pose = sv_pose_compose(&yaw, &pose);
    place(oxts, scale, pose.t);
    for (int i = 0; i < 3; i++) pose.t[i] -= origin[i];
    return pose;
}

/* "2011_09_26_drive_0001_sync_0000000012" -> "0000000012" */
static const char *frame_of(const char *id)
{
    return strrchr(id, '_') + 1;
}

sv_status sv_kitti_raw_pose(sv_ctx *c, const sv_kitti_raw *raw, sv_sample *sample,
                            sv_kitti_calibration *calibration)
{
    const drive *d = &raw->drives[sample->sequence];
    *calibration = d->calibration;
    if (!d->has_pose) return SV_OK;
    double oxts[OXTS];
    SV_TRY(read_oxts(c, d->folder, frame_of(sample->id), oxts));
    sample->ego_to_world = pose_of(oxts, d->scale, d->origin);
    sample->has_pose = true;
    return SV_OK;
}

/* ---- opening ------------------------------------------------------------------------------------------ */

typedef struct opening {
    sv_ctx *c;
    const sv_dataset_def *def;
    sv_dataset *dataset;
    sv_kitti_raw *raw;
    bool *found;     /* by def->sequences */
    char names[400]; /* of the drives, for messages */
} opening;

static bool chosen(opening *o, const char *name)
{
    bool any = o->def->sequence_count == 0;
    for (int i = 0; i < o->def->sequence_count; i++)
        if (strcmp(o->def->sequences[i], name) == 0) any = o->found[i] = true;
    return any;
}

static sv_status read_day(sv_ctx *c, drive *d)
{
    char path[PATH];
    SV_TRY(sv_dataset_path(c, path, sizeof path, "%s/calib_cam_to_cam.txt", d->day));
    SV_CHECK(c, sv_dataset_is_file(path), SV_BAD_INPUT,
             "%s: is not there; the calibration of a day (calib_cam_to_cam.txt, calib_velo_to_cam.txt) is a "
             "download of its own "
             "and belongs beside the drives",
             path);
    return sv_kitti_read_raw_calibration(c, d->day, &d->calibration);
}

static sv_status add_frames(opening *o, const drive *d, const sv_names *scans, const double *times,
                            int time_count)
{
    char id[256];
    for (int i = 0; i < scans->count; i++) {
        char *name = scans->data[i];
        name[strlen(name) - 4] = '\0';
        const size_t length = strlen(name);
        SV_CHECK(o->c, length > 0 && length <= 10 && strspn(name, "0123456789") == length, SV_BAD_INPUT,
                 "%s/velodyne_points/data/%s.bin: the name of a scan is its number, such as 0000000012.bin",
                 d->folder, name);
        const long long number = strtoll(name, NULL, 10);
        double time = frame_time * (double)number;
        if (times) {
            SV_CHECK(o->c, number < time_count, SV_BAD_INPUT,
                     "%s/velodyne_points/timestamps.txt: has %d lines, none for the scan %s", d->folder,
                     time_count, name);
            time = times[number];
        }
        snprintf(id, sizeof id, "%s_%s", d->name, name);
        SV_TRY(sv_dataset_add_sample(o->c, o->dataset, id, time));
    }
    return SV_OK;
}

static sv_status open_drive(opening *o, drive *d)
{
    char path[PATH];
    sv_names scans;
    double *times;
    int time_count;
    SV_TRY(read_day(o->c, d));
    SV_TRY(sv_dataset_add_sequence(o->c, o->dataset, d->name));
    SV_TRY(sv_dataset_path(o->c, path, sizeof path, "%s/velodyne_points/data", d->folder));
    SV_TRY(sv_dataset_list(o->c, path, ".bin", &scans));
    sv_status status = read_times(o->c, d->folder, &times, &time_count);
    if (status == SV_OK) status = add_frames(o, d, &scans, times, time_count);
    free(times);
    if (status == SV_OK) status = sv_dataset_path(o->c, path, sizeof path, "%s/oxts/data", d->folder);
    if (status == SV_OK && scans.count > 0 && sv_dataset_is_folder(path)) {
        double first[OXTS];
        status = read_oxts(o->c, d->folder, scans.data[0], first);
        if (status == SV_OK) {
            d->has_pose = true;
            d->scale = cos(first[LATITUDE] * pi / 180);
            place(first, d->scale, d->origin);
        }
    }
    sv_names_free(&scans);
    return status;
}

static sv_status visit_drive(void *user, const char *day, const char *folder, const char *name)
{
    opening *o = user;
    const size_t used = strlen(o->names);
    snprintf(o->names + used, sizeof o->names - used, "%s%s", used ? ", " : "", name);
    if (!chosen(o, name)) return SV_OK;
    drive *grown = realloc(o->raw->drives, sizeof *grown * (size_t)(o->raw->count + 1));
    SV_CHECK(o->c, grown != NULL, SV_NO_MEMORY, "%s: no memory", folder);
    o->raw->drives = grown;
    drive *d = &grown[o->raw->count++];
    *d = (drive){0};
    SV_TRY(sv_dataset_path(o->c, d->day, sizeof d->day, "%s", day));
    SV_TRY(sv_dataset_path(o->c, d->folder, sizeof d->folder, "%s", folder));
    SV_TRY(sv_dataset_path(o->c, d->name, sizeof d->name, "%s", name));
    return open_drive(o, d);
}

sv_status sv_kitti_raw_open(sv_ctx *c, const sv_dataset_def *def, sv_dataset *dataset, sv_kitti_raw **out)
{
    *out = calloc(1, sizeof **out);
    SV_CHECK(c, *out != NULL, SV_NO_MEMORY, "%s: no memory", dataset->root);
    opening o = {.c = c, .def = def, .dataset = dataset, .raw = *out};
    o.found = calloc((size_t)def->sequence_count + 1, sizeof *o.found);
    SV_CHECK(c, o.found != NULL, SV_NO_MEMORY, "%s: no memory", dataset->root);
    int count;
    sv_status status = each_drive(c, dataset->root, visit_drive, &o, &count);
    for (int i = 0; i < def->sequence_count && status == SV_OK; i++)
        if (!o.found[i])
            status = SV_FAIL(c, SV_USAGE, "%s: has no drive %s; the drives there are: %s", dataset->root,
                             def->sequences[i], o.names);
    free(o.found);
    snprintf(dataset->summary, sizeof dataset->summary, "KITTI raw recordings, %d %s", (*out)->count,
             (*out)->count == 1 ? "drive" : "drives");
    return status;
}

void sv_kitti_raw_close(sv_kitti_raw *raw)
{
    if (!raw) return;
    free(raw->drives);
    free(raw);
}

sv_status sv_kitti_raw_paths(sv_ctx *c, const sv_kitti_raw *raw, const sv_sample *sample, char *scan,
                             char *picture, size_t room)
{
    const drive *d = &raw->drives[sample->sequence];
    const char *frame = frame_of(sample->id);
    SV_TRY(sv_dataset_path(c, scan, room, "%s/velodyne_points/data/%s.bin", d->folder, frame));
    return sv_dataset_path(c, picture, room, "%s/image_02/data/%s.png", d->folder, frame);
}

/* ---- looking at a folder ------------------------------------------------------------------------------ */

typedef struct inspection {
    sv_ctx *c;
    sv_findings *findings;
} inspection;

/* Files of a folder of the drive that belong to none of the scans do no harm; scans without one do. */
static sv_status inspect_drive(void *user, const char *day, const char *folder, const char *name)
{
    const inspection *in = user;
    char path[PATH];
    drive d = {0};
    sv_names scans;
    SV_TRY(sv_dataset_path(in->c, d.day, sizeof d.day, "%s", day));
    if (read_day(in->c, &d) != SV_OK) {
        SV_TRY(sv_findings_add(in->c, in->findings, true, name, "%s", sv_error_message(in->c)));
        sv_error_clear(in->c);
    }
    SV_TRY(sv_dataset_path(in->c, path, sizeof path, "%s/velodyne_points/data", folder));
    SV_TRY(sv_dataset_list(in->c, path, ".bin", &scans));
    int pictures = 0, odd = 0;
    for (int i = 0; i < scans.count; i++) {
        char file[PATH + 256];
        snprintf(file, sizeof file, "%s/%s", path, scans.data[i]);
        const long long size = sv_dataset_file_size(file);
        odd += size <= 0 || size % 16 != 0;
        snprintf(file, sizeof file, "%s/image_02/data/%.*s.png", folder, (int)strlen(scans.data[i]) - 4,
                 scans.data[i]);
        pictures += sv_dataset_is_file(file);
    }
    const int count = scans.count;
    sv_names_free(&scans);
    SV_TRY(sv_dataset_path(in->c, path, sizeof path, "%s/velodyne_points/timestamps.txt", folder));
    const bool timed = sv_dataset_is_file(path);
    SV_TRY(sv_dataset_path(in->c, path, sizeof path, "%s/oxts/data", folder));
    const bool posed = sv_dataset_is_folder(path);
    SV_TRY(sv_findings_add(in->c, in->findings, count == 0, name, "%d scans, %s, %s", count,
                           timed ? "with times" : "no timestamps.txt (0.1 s a frame)",
                           posed ? "with poses" : "no oxts (no poses)"));
    if (odd > 0)
        SV_TRY(sv_findings_add(in->c, in->findings, true, name,
                               "%d scans are empty or no whole number of points of 16 bytes", odd));
    if (pictures < count)
        return sv_findings_add(in->c, in->findings, true, name,
                               "%d of %d scans have no picture in image_02/data", count - pictures, count);
    return SV_OK;
}

sv_status sv_kitti_raw_inspect(sv_ctx *c, const char *root, sv_findings *findings)
{
    inspection in = {c, findings};
    int count;
    return each_drive(c, root, inspect_drive, &in, &count);
}
