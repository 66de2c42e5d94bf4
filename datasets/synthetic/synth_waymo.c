/* SPDX-License-Identifier: Apache-2.0
 *
 * Drives in the layout of the Waymo Open Dataset: a TFRecord of frames for every drive, with range images of five
 * lasers (one return), poses, boxes with speeds and counts of points, and five JPEG pictures. Field numbers are those
 * of the official dataset.proto and label.proto.
 *
 * A frame is first a file with its record, in ROOT/synth; the records of a drive are put together at the end. The
 * laser on the roof has a pose per pixel, as recorded ones have; here all pixels are measured at the frame's time.
 */
#include "synth.h"

#include "datasets/tfrecord.h"
#include "datasets/waymo.h"
#include "perception/core/file.h"
#include "random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

static const double pi = 3.14159265358979323846;

/* x, y, z of the lasers in the vehicle, and how they are turned, degrees. */
static const double laser_mounts[SV_WAYMO_LASERS][4] = {{1.43, 0, 2.184, 148},
                                                        {4.07, 0, 0.69, 0},
                                                        {3.25, 1.02, 0.98, 90},
                                                        {3.25, -1.02, 0.98, -90},
                                                        {-1.15, 0, 0.46, 180}};
/* The same of cameras, and the height of their pictures: a third of the official sides. */
static const double camera_mounts[SV_WAYMO_CAMERAS][5] = {{1.54, -0.02, 2.11, 0, 426},
                                                          {1.49, 0.09, 2.11, 45, 426},
                                                          {1.49, -0.12, 2.11, -45, 426},
                                                          {1.43, 0.11, 2.11, 90, 296},
                                                          {1.43, -0.14, 2.11, -90, 296}};
enum { WIDTH = 640 };
static const double focus = 687;

/* ---- names -------------------------------------------------------------------------------------------- */

static void name_context(const sv_synth_def *def, int drive, char out[64])
{
    const uint64_t key = sim_key(def->seed, 0x3A790, (uint64_t)drive);
    snprintf(out, 64, "%llu_%d_000_%d_000", (unsigned long long)key, 20 * drive, 20 * drive + 20);
}

static int64_t stamp(const sv_synth_frame *f)
{
    return (int64_t)1550083467000000 + (int64_t)f->drive * 1000000000 + (int64_t)llround(1e6 * f->time);
}

static void part_file(const sv_synth_def *def, int index, char out[1200])
{
    snprintf(out, 1200, "%s/synth/%06d.record", def->folder, index);
}

/* Every second drive is for validation, a single one too. */
static void drive_file(const sv_synth_def *def, int drive, char out[1200])
{
    char context[64];
    name_context(def, drive, context);
    snprintf(out, 1200, "%s/%s/segment-%s_with_camera_labels.tfrecord", def->folder,
             def->drives == 1 || drive % 2 == 1 ? "validation" : "training", context);
}

/* ---- messages ----------------------------------------------------------------------------------------- */

static void nest(sv_wire_out *outer, int number, sv_wire_out *inner)
{
    outer->failed |= inner->failed;
    sv_wire_put_bytes(outer, number, inner->data, inner->size);
    sv_wire_free(inner);
}

static void put_text(sv_wire_out *o, int number, const char *text)
{
    sv_wire_put_bytes(o, number, text, strlen(text));
}

static void put_pose(sv_wire_out *o, int number, const sv_pose *pose)
{
    sv_wire_out inner = {0};
    for (int i = 0; i < 16; i++) {
        const int row = i / 4, column = i % 4;
        const double bottom = column == 3 ? 1 : 0;
        sv_wire_put_double(&inner, 1,
                           row == 3     ? bottom
                           : column < 3 ? pose->r[3 * row + column]
                                        : pose->t[row]);
    }
    nest(o, number, &inner);
}

/* A zlib stream of a MatrixFloat or MatrixInt32: packed values (1), shape (2). */
static void put_matrix(sv_wire_out *o, int number, const void *values, size_t bytes, int rows, int columns,
                       int channels)
{
    sv_wire_out matrix = {0}, shape = {0};
    sv_wire_put_bytes(&matrix, 1, values, bytes);
    sv_wire_put_int(&shape, 1, rows);
    sv_wire_put_int(&shape, 1, columns);
    sv_wire_put_int(&shape, 1, channels);
    nest(&matrix, 2, &shape);
    uLongf size = compressBound((uLong)matrix.size);
    Bytef *packed = malloc(size);
    o->failed |=
        matrix.failed || !packed || compress2(packed, &size, matrix.data, (uLong)matrix.size, 3) != Z_OK;
    if (!o->failed) sv_wire_put_bytes(o, number, packed, size);
    free(packed);
    sv_wire_free(&matrix);
}

/* ---- calibration -------------------------------------------------------------------------------------- */

static const sv_sim_lidar_def *laser_sensor(const sv_synth_def *def, int laser)
{
    return sv_sim_lidar_find(laser == 0 ? def->lidar : "side200");
}

static sv_pose laser_mount(int laser)
{
    const double *m = laser_mounts[laser];
    return sv_pose_from_yaw(m[3] * pi / 180, m[0], m[1], m[2]);
}

/* The camera's own frame has x forward, y left, z up. */
static sv_pose camera_mount(int camera)
{
    const double *m = camera_mounts[camera];
    return sv_pose_from_yaw(m[3] * pi / 180, m[0], m[1], m[2]);
}

static void put_context(const sv_synth_def *def, const sv_synth_frame *f, sv_wire_out *o)
{
    sv_wire_out message = {0}, inner = {0};
    char context[64];
    name_context(def, f->drive, context);
    put_text(&message, 1, context);
    for (int i = 0; def->images && i < SV_WAYMO_CAMERAS; i++) {
        const double height = camera_mounts[i][4];
        const double intrinsic[9] = {focus, focus, WIDTH / 2.0 - 0.5, height / 2 - 0.5};
        const sv_pose mount = camera_mount(i);
        sv_wire_put_int(&inner, 1, i + 1);
        for (int k = 0; k < 9; k++) sv_wire_put_double(&inner, 2, intrinsic[k]);
        put_pose(&inner, 3, &mount);
        sv_wire_put_int(&inner, 4, WIDTH);
        sv_wire_put_int(&inner, 5, (int64_t)height);
        nest(&message, 2, &inner);
    }
    for (int i = 0; i < SV_WAYMO_LASERS; i++) {
        const sv_sim_lidar_def *d = laser_sensor(def, i);
        const sv_pose mount = laser_mount(i);
        sv_wire_put_int(&inner, 1, i + 1);
        for (int k = d->beams - 1; k >= 0; k--) sv_wire_put_double(&inner, 2, (double)d->elevation[k]);
        sv_wire_put_double(&inner, 3, (double)d->elevation[d->beams - 1]);
        sv_wire_put_double(&inner, 4, (double)d->elevation[0]);
        put_pose(&inner, 5, &mount);
        nest(&message, 3, &inner);
    }
    put_text(&inner, 2, "Day");
    put_text(&inner, 3, "location_simulated");
    put_text(&inner, 4, "sunny");
    nest(&message, 4, &inner);
    nest(o, 1, &message);
}

/* ---- lasers ------------------------------------------------------------------------------------------- */

typedef struct simulation {
    sv_sim_scene scene;
    sv_sim_scan scan;
    sv_sim_view view;
    int *points, *top_points; /* of the scene's objects, of all lasers and of the one on the roof */
    float *image;             /* a range image, and one of poses */
} simulation;

/* The car itself stands behind all lasers but the one on the roof. */
static bool blocked(int laser, const sv_sim_lidar_def *d, int column)
{
    const double azimuth =
        sv_wrap_angle(pi - (column + 0.5) * 2 * pi / d->columns - laser_mounts[laser][3] * pi / 180);
    return laser > 0 && fabs(azimuth) > 1.65;
}

/* [rows, columns, 4]: range, intensity, elongation, -1 outside no-label zones; -1 everywhere without a return. */
static int fill_range_image(const sv_sim_lidar_def *d, int laser, simulation *s)
{
    const size_t pixels = (size_t)d->beams * (size_t)d->columns;
    int count = 0;
    for (size_t i = 0; i < 4 * pixels; i++) s->image[i] = -1;
    for (int i = 0; i < s->scan.count; i++) {
        const sv_sim_return *r = &s->scan.returns[i];
        if (blocked(laser, d, r->column)) continue;
        float *p = s->image + 4 * ((size_t)r->beam * (size_t)d->columns + (size_t)r->column);
        const double x = (double)r->x, y = (double)r->y, z = (double)r->z;
        p[0] = (float)sqrt(x * x + y * y + z * z);
        p[1] = r->intensity;
        p[2] = 0;
        count++;
        if (r->object < 0) continue;
        s->points[r->object]++;
        if (laser == 0) s->top_points[r->object]++;
    }
    return count;
}

/* [rows, columns, 6]: roll, pitch, yaw, x, y, z of the vehicle in the world. */
static void fill_pose_image(const sv_sim_lidar_def *d, const sv_pose *ego, float *image)
{
    const double *r = ego->r;
    const float pose[6] = {(float)atan2(r[7], r[8]), (float)-asin(fmax(-1, fmin(1, r[6]))),
                           (float)atan2(r[3], r[0]), (float)ego->t[0],
                           (float)ego->t[1],         (float)ego->t[2]};
    for (size_t i = 0; i < (size_t)d->beams * (size_t)d->columns; i++)
        memcpy(image + 6 * i, pose, sizeof pose);
}

/* Azimuths of an image's columns are those of the vehicle, not of the laser: its own turn is taken out. */
static sv_status put_laser(sv_ctx *c, const sv_synth_def *def, const sv_synth_frame *f, int laser,
                           simulation *s, sv_wire_out *o, long *points)
{
    const sv_sim_lidar_def *d = laser_sensor(def, laser);
    const double *m = laser_mounts[laser];
    const sv_pose level = sv_pose_from_yaw(0, m[0], m[1], m[2]),
                  pose = sv_pose_compose(&s->scene.ego, &level);
    SV_TRY(sv_sim_lidar(c, &s->scene, d, &pose, sim_key(f->key, 1, (uint64_t)laser), &s->scan));
    const size_t pixels = (size_t)d->beams * (size_t)d->columns;
    free(s->image);
    s->image = malloc(6 * pixels * sizeof *s->image);
    SV_CHECK(c, s->image, SV_NO_MEMORY, "no memory for a range image of %zu pixels", pixels);
    *points += fill_range_image(d, laser, s);
    sv_wire_out message = {0}, inner = {0};
    sv_wire_put_int(&message, 1, laser + 1);
    put_matrix(&inner, 2, s->image, 4 * pixels * sizeof *s->image, d->beams, d->columns, 4);
    /* no camera sees any pixel: one zero byte for each of six numbers */
    memset(s->image, 0, 6 * pixels);
    put_matrix(&inner, 3, s->image, 6 * pixels, d->beams, d->columns, 6);
    if (laser == 0) {
        fill_pose_image(d, &s->scene.ego, s->image);
        put_matrix(&inner, 4, s->image, 6 * pixels * sizeof *s->image, d->beams, d->columns, 6);
    }
    nest(&message, 2, &inner);
    nest(o, 5, &message);
    return SV_OK;
}

/* ---- cameras ------------------------------------------------------------------------------------------ */

static sv_status put_picture(sv_ctx *c, const sv_synth_frame *f, int camera, simulation *s, sv_wire_out *o)
{
    const int height = (int)camera_mounts[camera][4];
    const sv_sim_camera_def d = {WIDTH, height, focus, focus, WIDTH / 2.0 - 0.5, height / 2.0 - 0.5, false};
    const sv_pose mount = camera_mount(camera), axes = {.r = {0, 0, 1, -1, 0, 0, 0, -1, 0}},
                  turned = sv_pose_compose(&s->scene.ego, &mount), eye = sv_pose_compose(&turned, &axes);
    SV_TRY(sv_sim_camera(c, &s->scene, &d, &eye, sim_key(f->key, 2, (uint64_t)camera), &s->view));
    void *bytes;
    size_t size;
    SV_TRY(sv_image_pack_jpeg(c, &s->view.image, 92, &bytes, &size));
    sv_wire_out message = {0};
    sv_wire_put_int(&message, 1, camera + 1);
    sv_wire_put_bytes(&message, 2, bytes, size);
    put_pose(&message, 3, &s->scene.ego);
    nest(o, 4, &message);
    free(bytes);
    return SV_OK;
}

/* ---- labels ------------------------------------------------------------------------------------------- */

static const int types[SV_SIM_KINDS] = {SV_WAYMO_VEHICLE,
                                        SV_WAYMO_VEHICLE,
                                        SV_WAYMO_VEHICLE,
                                        SV_WAYMO_PEDESTRIAN,
                                        SV_WAYMO_PEDESTRIAN,
                                        SV_WAYMO_CYCLIST,
                                        0,
                                        0};

/* What has returns is labelled. */
static int put_labels(const simulation *s, sv_wire_out *o)
{
    sv_pose to_ego;
    int count = 0;
    sv_pose_invert(&s->scene.ego, &to_ego);
    for (int i = 0; i < s->scene.object_count; i++) {
        const sv_sim_object *object = &s->scene.objects[i];
        if (!types[object->kind] || s->points[i] == 0) continue;
        const sv_pose pose = sv_pose_compose(&to_ego, &object->pose);
        const double middle[3] = {0, 0, object->height / 2};
        double centre[3];
        sv_pose_apply(&pose, middle, centre);
        const double box[7] = {centre[0],      centre[1],      centre[2],         object->width,
                               object->length, object->height, sv_pose_yaw(&pose)};
        sv_wire_out message = {0}, inner = {0};
        char id[32];
        for (int k = 0; k < 7; k++) sv_wire_put_double(&inner, k + 1, box[k]);
        nest(&message, 1, &inner);
        sv_wire_put_double(&inner, 1, object->velocity[0]);
        sv_wire_put_double(&inner, 2, object->velocity[1]);
        sv_wire_put_double(&inner, 5, object->velocity[2]);
        nest(&message, 2, &inner);
        sv_wire_put_int(&message, 3, types[object->kind]);
        snprintf(id, sizeof id, "%016llx", (unsigned long long)object->id);
        put_text(&message, 4, id);
        sv_wire_put_int(&message, 7, s->points[i]);
        sv_wire_put_int(&message, 13, s->top_points[i]);
        nest(o, 6, &message);
        count++;
    }
    return count;
}

/* ---- a frame ------------------------------------------------------------------------------------------ */

static sv_status write_record(sv_ctx *c, const char *path, const sv_wire_out *message)
{
    uint8_t head[SV_TFRECORD_HEAD], tail[SV_TFRECORD_TAIL];
    for (int i = 0; i < 8; i++) head[i] = (uint8_t)((uint64_t)message->size >> (8 * i));
    const uint32_t of_length = sv_crc32c_masked(head, 8),
                   of_data = sv_crc32c_masked(message->data, message->size);
    for (int i = 0; i < 4; i++) {
        head[8 + i] = (uint8_t)(of_length >> (8 * i));
        tail[i] = (uint8_t)(of_data >> (8 * i));
    }
    sv_output output;
    SV_TRY(sv_output_open(c, &output, path));
    fwrite(head, 1, sizeof head, output.stream);
    fwrite(message->data, 1, message->size, output.stream);
    fwrite(tail, 1, sizeof tail, output.stream);
    const sv_status status = sv_output_commit(c, &output);
    sv_output_discard(&output);
    return status;
}

static sv_status simulate(sv_ctx *c, const sv_synth_def *def, int index, simulation *s, sv_wire_out *message,
                          long *points, long *labels)
{
    const sv_synth_frame f = sv_synth_frame_at(def, index);
    SV_TRY(sv_sim_scene_at(c, &f.world, f.time, &s->scene));
    const size_t objects = (size_t)s->scene.object_count;
    s->points = calloc(objects + 1, sizeof *s->points);
    s->top_points = calloc(objects + 1, sizeof *s->top_points);
    SV_CHECK(c, s->points && s->top_points, SV_NO_MEMORY, "no memory for %zu objects", objects);
    put_context(def, &f, message);
    sv_wire_put_int(message, 2, stamp(&f));
    put_pose(message, 3, &s->scene.ego);
    for (int i = 0; def->images && i < SV_WAYMO_CAMERAS; i++) SV_TRY(put_picture(c, &f, i, s, message));
    for (int i = 0; i < SV_WAYMO_LASERS; i++) SV_TRY(put_laser(c, def, &f, i, s, message, points));
    *labels += put_labels(s, message);
    SV_CHECK(c, !message->failed, SV_NO_MEMORY, "no memory for a frame of %zu bytes", message->size);
    char path[1200];
    part_file(def, index, path);
    return write_record(c, path, message);
}

static sv_status write_frame(sv_ctx *c, const sv_synth_def *def, int index, long *points, long *labels)
{
    simulation s = {0};
    sv_wire_out message = {0};
    const sv_status status = simulate(c, def, index, &s, &message, points, labels);
    sv_wire_free(&message);
    free(s.points);
    free(s.top_points);
    free(s.image);
    sv_sim_view_free(&s.view);
    sv_sim_scan_free(&s.scan);
    sv_sim_scene_free(&s.scene);
    return status;
}

static bool have(const sv_synth_def *def, int index)
{
    char path[1200];
    part_file(def, index, path);
    if (access(path, F_OK) == 0) return true;
    drive_file(def, index / sv_synth_drive_length(def), path);
    return access(path, F_OK) == 0;
}

/* ---- the folder --------------------------------------------------------------------------------------- */

static sv_status begin(sv_ctx *c, const sv_synth_def *def)
{
    SV_CHECK(c, !def->images || sv_image_has_jpeg(), SV_USAGE,
             "Waymo's pictures are JPEG files, which this build cannot write: install libjpeg-dev and build "
             "again, or "
             "leave them out (--no-images)");
    SV_TRY(sv_synth_make_folder(c, def->folder, "synth"));
    if (def->drives > 1) SV_TRY(sv_synth_make_folder(c, def->folder, "training"));
    return sv_synth_make_folder(c, def->folder, "validation");
}

static sv_status append(sv_ctx *c, const char *path, FILE *to)
{
    void *bytes;
    size_t size;
    SV_TRY(sv_file_read(c, path, (size_t)SV_TFRECORD_MOST, &bytes, &size));
    fwrite(bytes, 1, size, to);
    free(bytes);
    return SV_OK;
}

/* The drive is whole before its parts go. */
static sv_status finish(sv_ctx *c, const sv_synth_def *def)
{
    char path[1200];
    const int length = sv_synth_drive_length(def);
    for (int d = 0; d * length < def->frames; d++) {
        const int end = (d + 1) * length < def->frames ? (d + 1) * length : def->frames;
        drive_file(def, d, path);
        if (access(path, F_OK) != 0) {
            sv_output output;
            SV_TRY(sv_output_open(c, &output, path));
            sv_status status = SV_OK;
            for (int i = d * length; i < end && status == SV_OK; i++) {
                part_file(def, i, path);
                status = append(c, path, output.stream);
            }
            if (status == SV_OK) status = sv_output_commit(c, &output);
            sv_output_discard(&output);
            SV_TRY(status);
        }
        for (int i = d * length; i < end; i++) {
            part_file(def, i, path);
            unlink(path);
        }
    }
    return SV_OK;
}

const sv_synth_format sv_synth_format_waymo = {"waymo", "roof64", begin, have, write_frame, finish};
