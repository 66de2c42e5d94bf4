/* SPDX-License-Identifier: Apache-2.0
 *
 * Boxes between the frames, as the official framework has them:
 *
 *   LiDAR box  centre (x, y, z), sizes (l, w, h), heading
 *   camera box bottom centre in rect, h w l, ry = -heading - pi/2
 *
 * The box stands upright in either frame although the axes are not quite parallel (a few milliradians): only
 * its bottom centre goes through the transform.
 */
#include "kitti.h"

#include "perception/geometry/box.h"

#include <math.h>
#include <string.h>

static const double half_pi = 1.57079632679489661923;

/* Before the camera, metres: what is nearer is cut off before it is projected. */
static const double near_plane = 0.1;

static double row(const double p[12], int i, const double v[3])
{
    return p[4 * i] * v[0] + p[4 * i + 1] * v[1] + p[4 * i + 2] * v[2] + p[4 * i + 3];
}

bool sv_kitti_project(const sv_kitti_calibration *k, const double rect[3], double pixel[2])
{
    const double w = row(k->p2, 2, rect);
    if (!(w > 0)) return false;
    pixel[0] = row(k->p2, 0, rect) / w;
    pixel[1] = row(k->p2, 1, rect) / w;
    return true;
}

sv_box sv_kitti_box_of_object(const sv_kitti_calibration *k, const sv_kitti_object *o)
{
    double centre[3] = {o->x, o->y, o->z};
    sv_pose_apply(&k->rect_to_lidar, centre, centre);
    return (sv_box){.x = (float)centre[0],
                    .y = (float)centre[1],
                    .z = (float)(centre[2] + o->h / 2),
                    .dx = (float)o->l,
                    .dy = (float)o->w,
                    .dz = (float)o->h,
                    .heading = (float)sv_wrap_angle(-(o->ry + half_pi)),
                    .score = (float)o->score};
}

/* The eight corners: four of the bottom, then four of the top (y points down). */
static void corners_of(const sv_kitti_object *o, double out[8][3])
{
    static const double along[4] = {0.5, 0.5, -0.5, -0.5}, across[4] = {0.5, -0.5, -0.5, 0.5};
    const double cosine = cos(o->ry), sine = sin(o->ry);
    for (int i = 0; i < 8; i++) {
        const double u = along[i % 4] * o->l, v = across[i % 4] * o->w;
        out[i][0] = o->x + cosine * u + sine * v;
        out[i][1] = o->y - (i < 4 ? 0 : o->h);
        out[i][2] = o->z - sine * u + cosine * v;
    }
}

static double clip(double value, double most)
{
    return value < 0 ? 0 : value > most ? most : value;
}

/* Widens 'bounds' (x1, y1, x2, y2) to the pixel of a corner. The framework divides by the depth here, not by
 * w. */
static void cover(const sv_kitti_calibration *k, const double rect[3], double bounds[4])
{
    const double u = row(k->p2, 0, rect) / rect[2], v = row(k->p2, 1, rect) / rect[2];
    bounds[0] = fmin(bounds[0], u);
    bounds[1] = fmin(bounds[1], v);
    bounds[2] = fmax(bounds[2], u);
    bounds[3] = fmax(bounds[3], v);
}

/* The image box of what is before the near plane: corners, and where edges cross the plane. */
static bool image_box(const sv_kitti_calibration *k, sv_kitti_object *o, int width, int height)
{
    static const int edge[12][2] = {{0, 1}, {1, 2}, {2, 3}, {3, 0}, {4, 5}, {5, 6},
                                    {6, 7}, {7, 4}, {0, 4}, {1, 5}, {2, 6}, {3, 7}};
    double corner[8][3], bounds[4] = {INFINITY, INFINITY, -INFINITY, -INFINITY};
    corners_of(o, corner);
    for (int i = 0; i < 8; i++)
        if (corner[i][2] >= near_plane) cover(k, corner[i], bounds);
    for (int e = 0; e < 12; e++) {
        const double *a = corner[edge[e][0]], *b = corner[edge[e][1]];
        if ((a[2] < near_plane) == (b[2] < near_plane)) continue;
        const double t = (near_plane - a[2]) / (b[2] - a[2]);
        const double crossing[3] = {a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), near_plane};
        cover(k, crossing, bounds);
    }
    if (!(bounds[2] >= bounds[0])) return false;
    o->x1 = clip(bounds[0], width - 1);
    o->y1 = clip(bounds[1], height - 1);
    o->x2 = clip(bounds[2], width - 1);
    o->y2 = clip(bounds[3], height - 1);
    return true;
}

bool sv_kitti_object_of_box(const sv_kitti_calibration *k, const sv_box *box, const char *type, int width,
                            int height, sv_kitti_object *out)
{
    double bottom[3] = {box->x, box->y, (double)box->z - (double)box->dz / 2};
    sv_pose_apply(&k->lidar_to_rect, bottom, bottom);
    const double ry = sv_wrap_angle(-(double)box->heading - half_pi);
    *out = (sv_kitti_object){
        .truncated = -1,
        .occluded = -1,
        /* seen from the LiDAR, as the framework writes it; from the camera it differs by its offset of 0.3 m
         * */
        .alpha = sv_wrap_angle(ry - atan2(-(double)box->y, box->x)),
        .h = box->dz,
        .w = box->dy,
        .l = box->dx,
        .x = bottom[0],
        .y = bottom[1],
        .z = bottom[2],
        .ry = ry,
        .score = box->score,
        .has_score = true};
    const size_t length = strlen(type), room = sizeof out->type - 1;
    memcpy(out->type, type, length < room ? length : room);
    return image_box(k, out, width, height);
}

int sv_kitti_points_in_object(const sv_kitti_calibration *k, const sv_kitti_object *o, const float *points,
                              int count, int columns)
{
    /* rect to the box: from its bottom centre, along its length, down, and across it */
    const double cosine = cos(o->ry), sine = sin(o->ry);
    const double low[3] = {-o->l / 2, -o->h, -o->w / 2}, high[3] = {o->l / 2, 0, o->w / 2};
    const sv_pose turn = {.r = {cosine, 0, -sine, 0, 1, 0, sine, 0, cosine}};
    sv_pose centred = k->lidar_to_rect;
    centred.t[0] -= o->x;
    centred.t[1] -= o->y;
    centred.t[2] -= o->z;
    const sv_pose to_box = sv_pose_compose(&turn, &centred);
    return sv_points_in_range(points, count, columns, &to_box, low, high);
}

int sv_kitti_filter_fov(const sv_kitti_calibration *k, sv_kitti_fov rule, int width, int height,
                        float *points, int count, int columns)
{
    if (rule == SV_KITTI_FOV_ALL) return count;
    const double *r = k->lidar_to_rect.r, *t = k->lidar_to_rect.t;
    int kept = 0;
    for (int i = 0; i < count; i++) {
        const float *p = points + (size_t)i * (size_t)columns;
        const double x = p[0], y = p[1], z = p[2];
        double rect[3];
        rect[2] = r[6] * x + r[7] * y + r[8] * z + t[2];
        if (!(rect[2] >= 0)) continue; /* half of a full scan */
        rect[0] = r[0] * x + r[1] * y + r[2] * z + t[0];
        rect[1] = r[3] * x + r[4] * y + r[5] * z + t[1];
        const double by = rule == SV_KITTI_FOV_TRAINING ? rect[2] : row(k->p2, 2, rect);
        const double u = row(k->p2, 0, rect) / by, v = row(k->p2, 1, rect) / by;
        if (!(u >= 0 && u < width && v >= 0 && v < height)) continue;
        if (kept < i) memcpy(points + (size_t)kept * (size_t)columns, p, sizeof *points * (size_t)columns);
        kept++;
    }
    return kept;
}
