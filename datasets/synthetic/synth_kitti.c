/* SPDX-License-Identifier: Apache-2.0
 *
 * Drives in the layout of the KITTI object benchmark: full scans, the left
 * colour picture, calibration, labels, lists, and poses/NN.txt of every drive
 * (a row of a 3x4 matrix per frame: rectified camera to that of the drive's
 * first frame, as KITTI's odometry benchmark has them).
 */
#include "synth.h"

#include "datasets/kitti.h"
#include "perception/points.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WIDTH = 1242, HEIGHT = 375 };
static const double sensor_height = 1.73; /* metres above the ground */

/* A mounting of KITTI's kind: the camera a little before and below the LiDAR, axes parallel to half a degree. */
static sv_kitti_calibration mounting(void)
{
    sv_kitti_calibration k = {.p2 = {721.54, 0, 609.56, 44.86, 0, 721.54, 172.85, 0.2164, 0, 0, 1, 0.002746},
                              .imu_to_velo = {1, 0, 0, -0.81, 0, 1, 0, 0.32, 0, 0, 1, -0.8}};
    memcpy(k.p0, k.p2, sizeof k.p0);
    k.p0[3] = k.p0[7] = k.p0[11] = 0;
    memcpy(k.p1, k.p0, sizeof k.p1);
    k.p1[3] = -387.6;
    memcpy(k.p3, k.p2, sizeof k.p3);
    k.p3[3] = -339.5;
    /* small turns about the camera's axes, after the exchange of axes */
    const double a = 0.0075, b = -0.0042, cosine_a = cos(a), sine_a = sin(a), cosine_b = cos(b),
                 sine_b = sin(b);
    const double tr[12] = {sine_a, -cosine_a, 0, -0.004, 0, 0, -1, -0.0763, cosine_a, sine_a, 0, -0.2718};
    memcpy(k.velo_to_cam, tr, sizeof tr);
    const double r0[9] = {cosine_b, 0, sine_b, 0, 1, 0, -sine_b, 0, cosine_b};
    memcpy(k.r0_rect, r0, sizeof r0);
    return k;
}

static void name_file(const sv_synth_def *def, const char *folder, int index, const char *extension,
                      char out[1200])
{
    snprintf(out, 1200, "%s/training/%s/%06d.%s", def->folder, folder, index, extension);
}

/* ---- labels ------------------------------------------------------------------------------------------- */

static const char *const types[SV_SIM_KINDS] = {"Car",     "Van",  "Truck", "Pedestrian", "Person_sitting",
                                                "Cyclist", "Misc", NULL};

/* Share of the box's area in the picture that lies outside it. */
static double truncation(const sv_kitti_calibration *k, const sv_kitti_object *o)
{
    double low[2] = {1e9, 1e9}, high[2] = {-1e9, -1e9};
    for (int i = 0; i < 8; i++) {
        const double u = (i & 1 ? 0.5 : -0.5) * o->l, v = (i & 2 ? 0.5 : -0.5) * o->w;
        const double rect[3] = {o->x + cos(o->ry) * u + sin(o->ry) * v, o->y - (i & 4 ? o->h : 0),
                                fmax(o->z - sin(o->ry) * u + cos(o->ry) * v, 0.5)};
        double pixel[2];
        if (!sv_kitti_project(k, rect, pixel)) continue;
        for (int n = 0; n < 2; n++) low[n] = fmin(low[n], pixel[n]), high[n] = fmax(high[n], pixel[n]);
    }
    const double all = (high[0] - low[0]) * (high[1] - low[1]), shown = (o->x2 - o->x1) * (o->y2 - o->y1);
    return all > 0 ? fmin(fmax(1 - shown / all, 0), 1) : 0;
}

static bool label(const sv_sim_object *o, const sv_kitti_calibration *k, const sv_pose *to_lidar, int points,
                  int seen, int alone, sv_kitti_object *out)
{
    if (!types[o->kind] || alone == 0) return false;
    const sv_pose pose = sv_pose_compose(to_lidar, &o->pose);
    const double middle[3] = {0, 0, o->height / 2};
    double centre[3];
    sv_pose_apply(&pose, middle, centre);
    const sv_box box = {.x = (float)centre[0],
                        .y = (float)centre[1],
                        .z = (float)centre[2],
                        .dx = (float)o->length,
                        .dy = (float)o->width,
                        .dz = (float)o->height,
                        .heading = (float)sv_pose_yaw(&pose)};
    if (!sv_kitti_object_of_box(k, &box, types[o->kind], WIDTH, HEIGHT, out)) return false;
    if (points == 0 && seen < 15) return false; /* nobody could know of it */
    out->alpha = sv_wrap_angle(out->ry - atan2(out->x, out->z)); /* as labels have it: seen from the camera */
    const double visible = (double)seen / alone;
    out->truncated = floor(100 * truncation(k, out) + 0.5) / 100;
    out->occluded = visible > 0.8 ? 0 : visible > 0.45 ? 1 : visible > 0.1 ? 2 : 3;
    if (out->y2 - out->y1 < 14 ||
        (points < 2 && visible < 0.3)) { /* too small or hidden to judge anybody by */
        sv_kitti_object region = {.truncated = -1,
                                  .occluded = -1,
                                  .alpha = -10,
                                  .h = -1,
                                  .w = -1,
                                  .l = -1,
                                  .x = -1000,
                                  .y = -1000,
                                  .z = -1000,
                                  .ry = -10};
        snprintf(region.type, sizeof region.type, "DontCare");
        region.x1 = out->x1, region.y1 = out->y1, region.x2 = out->x2, region.y2 = out->y2;
        *out = region;
    }
    return out->x2 - out->x1 > 1 && out->y2 - out->y1 > 1;
}

/* Those that mark a region come last, as in the official files. */
static int by_care(const void *a, const void *b)
{
    const bool one = strcmp(((const sv_kitti_object *)a)->type, "DontCare") == 0,
               two = strcmp(((const sv_kitti_object *)b)->type, "DontCare") == 0;
    const sv_kitti_object *p = a, *q = b;
    return one != two ? one - two : p->z < q->z ? -1 : p->z > q->z ? 1 : p->x < q->x ? -1 : p->x > q->x;
}

static sv_status write_labels(sv_ctx *c, const sv_synth_def *def, int index, const sv_sim_scene *scene,
                              const sv_kitti_calibration *k, const sv_pose *lidar, const sv_sim_scan *scan,
                              const sv_sim_view *view, long *labels)
{
    sv_pose to_lidar;
    SV_CHECK(c, sv_pose_invert(lidar, &to_lidar), SV_INTERNAL, "the pose of the LiDAR cannot be inverted");
    sv_kitti_object *objects = malloc(sizeof *objects * (size_t)(scene->object_count + 1));
    SV_CHECK(c, objects, SV_NO_MEMORY, "no memory for %d labels", scene->object_count);
    int count = 0;
    for (int i = 0; i < scene->object_count; i++)
        count += label(&scene->objects[i], k, &to_lidar, scan->per_object[i], view->seen[i], view->alone[i],
                       &objects[count]);
    qsort(objects, (size_t)count, sizeof *objects, by_care);
    char path[1200];
    name_file(def, "label_2", index, "txt", path);
    const sv_status status = sv_kitti_write_objects(c, path, objects, count);
    for (int i = 0; i < count; i++) *labels += strcmp(objects[i].type, "DontCare") != 0;
    free(objects);
    return status;
}

/* ---- a frame ------------------------------------------------------------------------------------------ */

static sv_status write_points(sv_ctx *c, const sv_synth_def *def, int index, const sv_sim_scan *scan)
{
    float *data = malloc(sizeof *data * 4 * (size_t)(scan->count + 1));
    SV_CHECK(c, data, SV_NO_MEMORY, "no memory for %d points", scan->count);
    for (int i = 0; i < scan->count; i++) {
        const sv_sim_return *r = &scan->returns[i];
        data[4 * i] = r->x, data[4 * i + 1] = r->y, data[4 * i + 2] = r->z, data[4 * i + 3] = r->intensity;
    }
    const sv_points points = {.data = data, .count = scan->count, .columns = 4, .layout = "xyzi"};
    char path[1200];
    name_file(def, "velodyne", index, "bin", path);
    const sv_status status = sv_points_write(c, path, &points, SV_POINTS_BINARY);
    free(data);
    return status;
}

static sv_pose lidar_pose(const sv_sim_scene *scene)
{
    const sv_pose up = sv_pose_from_yaw(0, 0, 0, sensor_height);
    return sv_pose_compose(&scene->ego, &up);
}

/* Camera to LiDAR: the pinhole of P2 does not stand in the origin of the rectified frame. */
static sv_pose camera_mount(const sv_kitti_calibration *k, sv_sim_camera_def *camera)
{
    *camera = (sv_sim_camera_def){WIDTH, HEIGHT, k->p2[0], k->p2[5], k->p2[2], k->p2[6], false};
    const double z = k->p2[11];
    const sv_pose shift = sv_pose_from_yaw(0, -(k->p2[3] - camera->cx * z) / camera->fx,
                                           -(k->p2[7] - camera->cy * z) / camera->fy, -z);
    return sv_pose_compose(&k->rect_to_lidar, &shift);
}

static sv_status simulate(sv_ctx *c, const sv_synth_def *def, int index, sv_sim_scene *scene,
                          sv_sim_scan *scan, sv_sim_view *view, long *points, long *labels)
{
    const sv_synth_frame f = sv_synth_frame_at(def, index);
    sv_kitti_calibration k = mounting();
    SV_TRY(sv_kitti_derive_calibration(c, "calibration", &k));
    SV_TRY(sv_sim_scene_at(c, &f.world, f.time, scene));
    const sv_pose lidar = lidar_pose(scene);
    SV_TRY(sv_sim_lidar(c, scene, sv_sim_lidar_find(def->lidar), &lidar, f.key, scan));
    sv_sim_camera_def camera;
    const sv_pose mount = camera_mount(&k, &camera), eye = sv_pose_compose(&lidar, &mount);
    camera.blind = !def->images;
    SV_TRY(sv_sim_camera(c, scene, &camera, &eye, f.key, view));

    char path[1200];
    SV_TRY(write_points(c, def, index, scan));
    if (def->images) {
        name_file(def, "image_2", index, "png", path);
        SV_TRY(sv_image_write_png(c, &view->image, path));
    }
    name_file(def, "calib", index, "txt", path);
    SV_TRY(sv_kitti_write_calibration(c, path, &k));
    *points += scan->count;
    return write_labels(c, def, index, scene, &k, &lidar, scan, view,
                        labels); /* last: the frame is complete */
}

static sv_status write_frame(sv_ctx *c, const sv_synth_def *def, int index, long *points, long *labels)
{
    sv_sim_scene scene = {0};
    sv_sim_scan scan = {0};
    sv_sim_view view = {0};
    const sv_status status = simulate(c, def, index, &scene, &scan, &view, points, labels);
    sv_sim_view_free(&view);
    sv_sim_scan_free(&scan);
    sv_sim_scene_free(&scene);
    return status;
}

static bool have(const sv_synth_def *def, int index)
{
    char path[1200];
    name_file(def, "label_2", index, "txt", path);
    return access(path, F_OK) == 0;
}

/* ---- the folder --------------------------------------------------------------------------------------- */

static sv_status begin(sv_ctx *c, const sv_synth_def *def)
{
    static const char *const folders[] = {"training/velodyne", "training/calib", "training/label_2",
                                          "ImageSets", "poses"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        SV_TRY(sv_synth_make_folder(c, def->folder, folders[i]));
    return def->images ? sv_synth_make_folder(c, def->folder, "training/image_2") : SV_OK;
}

/* Every second drive is for validation; of a single one, its second half. */
static bool validates(const sv_synth_def *def, int index)
{
    const int length = sv_synth_drive_length(def);
    return def->drives > 1 ? index / length % 2 == 1 : index >= (length + 1) / 2;
}

static sv_status write_list(sv_ctx *c, const sv_synth_def *def, const char *name, int which)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/ImageSets/%s.txt", def->folder, name);
    sv_output output;
    SV_TRY(sv_output_open(c, &output, path));
    for (int i = 0; i < def->frames; i++)
        if (which < 0 || validates(def, i) == (which == 1)) fprintf(output.stream, "%06d\n", i);
    const sv_status status = sv_output_commit(c, &output);
    sv_output_discard(&output);
    return status;
}

static sv_status write_poses(sv_ctx *c, const sv_synth_def *def, const sv_kitti_calibration *k, int drive,
                             sv_sim_scene *scene)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/poses/%02d.txt", def->folder, drive);
    sv_output output;
    SV_TRY(sv_output_open(c, &output, path));
    const int length = sv_synth_drive_length(def);
    sv_pose first = sv_pose_identity();
    sv_status status = SV_OK;
    for (int i = drive * length; i < (drive + 1) * length && i < def->frames && status == SV_OK; i++) {
        const sv_synth_frame f = sv_synth_frame_at(def, i);
        status = sv_sim_scene_at(c, &f.world, f.time, scene);
        const sv_pose lidar = lidar_pose(scene), camera = sv_pose_compose(&lidar, &k->rect_to_lidar);
        if (i == drive * length) sv_pose_invert(&camera, &first);
        const sv_pose p = sv_pose_compose(&first, &camera);
        for (int r = 0; r < 3; r++)
            fprintf(output.stream, "%.9g %.9g %.9g %.9g%s", p.r[3 * r], p.r[3 * r + 1], p.r[3 * r + 2],
                    p.t[r], r < 2 ? " " : "\n");
    }
    if (status == SV_OK) status = sv_output_commit(c, &output);
    sv_output_discard(&output);
    return status;
}

static sv_status finish(sv_ctx *c, const sv_synth_def *def)
{
    SV_TRY(write_list(c, def, "train", 0));
    SV_TRY(write_list(c, def, "val", 1));
    SV_TRY(write_list(c, def, "trainval", -1));
    sv_kitti_calibration k = mounting();
    SV_TRY(sv_kitti_derive_calibration(c, "calibration", &k));
    sv_sim_scene scene = {0};
    sv_status status = SV_OK;
    for (int d = 0; d * sv_synth_drive_length(def) < def->frames && status == SV_OK; d++)
        status = write_poses(c, def, &k, d, &scene);
    sv_sim_scene_free(&scene);
    return status;
}

const sv_synth_format sv_synth_format_kitti = {"kitti", "hdl64", begin, have, write_frame, finish};
