/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_scans REAL SIMULATED [SCANS]: two folders in KITTI's layout side by side, to see how far simulated scans are from
 * recorded ones; SCANS is a folder with more real scans, without labels (velodyne_points/data of a raw recording):
 *
 *     savanna synth drives --format kitti --frames 200 --seed 1
 *     build/ci/tests/bench_scans KITTI drives
 *
 * Printed are means over all frames of training/velodyne: points by distance over the ground plane, by elevation and by
 * intensity; how smooth a surface is (the step in range between neighbours of a row); and what hits a labelled car: points
 * and rows of the sensor, by distance. A row is half a degree of elevation seen from the LiDAR, the same measure for
 * both sides; real sensors do not look from one point exactly, so it is not quite a laser. Scans that were cut down to
 * what a camera sees count for their cars only.
 */
#include "datasets/kitti.h"
#include "perception/points.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DISTANCES = 9, INTENSITIES = 10, ELEVATIONS = 14, STEPS = 6, CAR_DISTANCES = 5, ROWS = 120 };
static const double distance_from[DISTANCES + 1] = {0, 5, 10, 15, 20, 30, 40, 50, 70, 120};
static const double car_from[CAR_DISTANCES + 1] = {0, 10, 20, 30, 40, 60};
static const double step_from[STEPS + 1] = {0, 0.02, 0.05, 0.1, 0.3, 1, 1000};

typedef struct side {
    int frames;
    double points, distance[DISTANCES], elevation[ELEVATIONS], intensity[INTENSITIES], step[STEPS], steps;
    double cars[CAR_DISTANCES], car_points[CAR_DISTANCES], car_rows[CAR_DISTANCES],
        car_intensity[CAR_DISTANCES];
} side;

static int place(const double *from, int count, double value)
{
    for (int k = 0; k < count; k++)
        if (value >= from[k] && value < from[k + 1]) return k;
    return -1;
}

static double elevation(const float *p)
{
    return atan2((double)p[2], hypot((double)p[0], (double)p[1])) * 57.29577951308232;
}

static void count_points(const sv_points *points, side *s)
{
    for (int i = 0; i < points->count; i++) {
        const float *p = points->data + (size_t)i * (size_t)points->columns;
        const int d = place(distance_from, DISTANCES, hypot((double)p[0], (double)p[1]));
        if (d >= 0) s->distance[d]++;
        const int e = (int)floor((4 - elevation(p)) / 2.25);
        if (e >= 0 && e < ELEVATIONS) s->elevation[e]++;
        const int n = (int)(p[3] * INTENSITIES);
        s->intensity[n < 0 ? 0 : n > INTENSITIES - 1 ? INTENSITIES - 1 : n]++;
        if (i == 0) continue;
        /* neighbours of a row: files keep the order of firing */
        const float *q = p - points->columns;
        const double turn = fabs(atan2((double)p[1], (double)p[0]) - atan2((double)q[1], (double)q[0]));
        if (turn > 0.0045 || fabs(elevation(p) - elevation(q)) > 0.2) continue;
        const int k = place(step_from, STEPS,
                            fabs(sqrt((double)(p[0] * p[0] + p[1] * p[1] + p[2] * p[2])) -
                                 sqrt((double)(q[0] * q[0] + q[1] * q[1] + q[2] * q[2]))));
        if (k >= 0) s->step[k]++, s->steps++;
    }
    s->points += points->count;
    s->frames++;
}

/* Cars that nothing hides: occluded 0 and whole in the picture. */
static void count_cars(const sv_points *points, const sv_kitti_calibration *k,
                       const sv_kitti_objects *objects, side *s)
{
    for (int n = 0; n < objects->count; n++) {
        const sv_kitti_object *o = &objects->data[n];
        const int d = place(car_from, CAR_DISTANCES, hypot(o->x, o->z));
        if (strcmp(o->type, "Car") != 0 || o->occluded != 0 || o->truncated > 0.05 || d < 0) continue;
        bool row[ROWS] = {false};
        int hits = 0, rows = 0;
        double bright = 0;
        for (int i = 0; i < points->count; i++) {
            const float *p = points->data + (size_t)i * (size_t)points->columns;
            if (sv_kitti_points_in_object(k, o, p, 1, points->columns) == 0) continue;
            const int r = (int)floor((elevation(p) + 30) * 2);
            if (r >= 0 && r < ROWS && !row[r]) row[r] = true, rows++;
            bright += (double)p[3];
            hits++;
        }
        s->cars[d]++;
        s->car_points[d] += hits;
        s->car_rows[d] += rows;
        s->car_intensity[d] += hits ? bright / hits : 0;
    }
}

/* Whether a scan goes all around. */
static bool whole(const sv_points *points)
{
    int behind = 0;
    for (int i = 0; i < points->count; i++) behind += points->data[(size_t)i * (size_t)points->columns] < 0;
    return behind > points->count / 4;
}

static sv_status read_labels(sv_ctx *c, const char *root, const char *name, const sv_points *points, side *s)
{
    char path[1200];
    sv_kitti_calibration k;
    sv_kitti_objects objects = {0};
    snprintf(path, sizeof path, "%s/training/calib/%s.txt", root, name);
    SV_TRY(sv_kitti_read_calibration(c, path, &k));
    snprintf(path, sizeof path, "%s/training/label_2/%s.txt", root, name);
    SV_TRY(sv_kitti_read_objects(c, path, false, &objects));
    count_cars(points, &k, &objects, s);
    sv_kitti_free_objects(&objects);
    return SV_OK;
}

/* 'root' has the labels of the scans; NULL: there are none */
static sv_status read_scans(sv_ctx *c, const char *folder, const char *root, side *s)
{
    DIR *list = opendir(folder);
    SV_CHECK(c, list, SV_BAD_INPUT, "%s: cannot be opened; a folder of .bin scans is needed", folder);
    sv_status status = SV_OK;
    for (struct dirent *e; status == SV_OK && (e = readdir(list));) {
        const size_t length = strlen(e->d_name);
        if (length < 5 || length > 60 || strcmp(e->d_name + length - 4, ".bin") != 0) continue;
        char path[1200], name[64];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        snprintf(name, sizeof name, "%.*s", (int)length - 4, e->d_name);
        sv_points points = {0};
        status = sv_points_read(c, path, "xyzi", &points);
        if (status == SV_OK && whole(&points)) count_points(&points, s);
        if (status == SV_OK && root) status = read_labels(c, root, name, &points, s);
        sv_points_free(&points);
    }
    closedir(list);
    return status;
}

static sv_status read_side(sv_ctx *c, const char *root, const char *more, side *s)
{
    char folder[1100];
    snprintf(folder, sizeof folder, "%s/training/velodyne", root);
    SV_TRY(read_scans(c, folder, root, s));
    if (more) SV_TRY(read_scans(c, more, NULL, s));
    SV_CHECK(c, s->frames > 0, SV_BAD_INPUT, "%s holds no scan that goes all around", folder);
    return SV_OK;
}

static void row(const char *name, double real, double simulated, const char *unit)
{
    printf("  %-22s %12.1f %12.1f %s", name, real, simulated, unit);
    if (real > 0) printf("   %5.2fx", simulated / real);
    putchar('\n');
}

static void print(const side *a, const side *b)
{
    char name[64];
    printf("%-24s %12s %12s\n", "means of a frame", "recorded", "simulated");
    printf("  %-22s %12d %12d\n", "frames", a->frames, b->frames);
    row("points", a->points / a->frames, b->points / b->frames, "");
    puts("points by distance");
    for (int k = 0; k < DISTANCES; k++) {
        snprintf(name, sizeof name, "%g - %g m", distance_from[k], distance_from[k + 1]);
        row(name, a->distance[k] / a->frames, b->distance[k] / b->frames, "");
    }
    puts("points by elevation");
    for (int k = 0; k < ELEVATIONS; k++) {
        snprintf(name, sizeof name, "%.2f .. %.2f degrees", 4 - 2.25 * k, 4 - 2.25 * (k + 1));
        row(name, a->elevation[k] / a->frames, b->elevation[k] / b->frames, "");
    }
    puts("intensity, share of points");
    for (int k = 0; k < INTENSITIES; k++) {
        snprintf(name, sizeof name, "%.1f - %.1f", 0.1 * k, 0.1 * (k + 1));
        row(name, 100 * a->intensity[k] / a->points, 100 * b->intensity[k] / b->points, "%");
    }
    puts("step in range between neighbours of a row");
    for (int k = 0; k < STEPS; k++) {
        snprintf(name, sizeof name, "%g - %g m", step_from[k], step_from[k + 1]);
        row(name, 100 * a->step[k] / a->steps, 100 * b->step[k] / b->steps, "%");
    }
    puts("cars in full view");
    for (int k = 0; k < CAR_DISTANCES; k++) {
        if (a->cars[k] == 0 || b->cars[k] == 0) continue;
        snprintf(name, sizeof name, "%g - %g m: cars", car_from[k], car_from[k + 1]);
        printf("  %-22s %12.0f %12.0f\n", name, a->cars[k], b->cars[k]);
        row("  points", a->car_points[k] / a->cars[k], b->car_points[k] / b->cars[k], "");
        row("  rows", a->car_rows[k] / a->cars[k], b->car_rows[k] / b->cars[k], "");
        row("  mean intensity", 100 * a->car_intensity[k] / a->cars[k],
            100 * b->car_intensity[k] / b->cars[k], "%");
    }
}

int main(int argc, char **argv)
{
    if (argc != 3 && argc != 4) {
        fprintf(stderr,
                "bench_scans REAL SIMULATED [SCANS] (folders in KITTI's layout, a folder of .bin scans)\n");
        return 2;
    }
    static side sides[2];
    const sv_ctx_def def = sv_ctx_def_default();
    sv_ctx *c = NULL;
    sv_status status = sv_ctx_open(&def, &c);
    if (status == SV_OK) status = read_side(c, argv[1], argc > 3 ? argv[3] : NULL, &sides[0]);
    if (status == SV_OK) status = read_side(c, argv[2], NULL, &sides[1]);
    if (status == SV_OK)
        print(&sides[0], &sides[1]);
    else
        fprintf(stderr, "bench_scans: %s\n", c ? sv_error_message(c) : "no memory");
    sv_ctx_close(c);
    return status == SV_OK ? 0 : 3;
}
