/* SPDX-License-Identifier: Apache-2.0 */
#include "support_kitti.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

const char kitti_cam_to_cam[] =
    "calib_time: 09-Jan-2012 13:57:47\ncorner_dist: 9.95e-02\nS_rect_02: 1.242e+03 3.75e+02\n"
    "R_rect_00: 1 0 0 0 1 0 0 0 1\nR_rect_02: 9 9 9 9 9 9 9 9 9\n"
    "P_rect_00: 700 0 600 0 0 700 180 0 0 0 1 0\nP_rect_02: 700 0 600 45 0 700 180 -0.3 0 0 1 0.003\n";
const char kitti_velo_to_cam[] =
    "calib_time: 15-Mar-2012 11:37:16\nR: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27\n"
    "delta_f: 0 0\n";

void kitti_text(const char *name, const char *text)
{
    write_file(test_path(name), text, strlen(text));
}

const char *kitti_folder(const char *name)
{
    const char *path = test_path(name);
    char part[512];
    for (size_t i = strlen(test_folder()) + 1; path[i]; i++)
        if (path[i] == '/') {
            snprintf(part, sizeof part, "%.*s", (int)i, path);
            mkdir(part, 0777);
        }
    mkdir(path, 0777);
    return path;
}

void kitti_oracle_pixel(const sv_kitti_calibration *k, const double lidar[3], double out[3],
                        double rect_out[3])
{
    const long double x[4] = {lidar[0], lidar[1], lidar[2], 1};
    long double cam[4] = {0, 0, 0, 1}, rect[4] = {0, 0, 0, 1}, pixel[3] = {0};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) cam[i] += (long double)k->velo_to_cam[4 * i + j] * x[j];
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) rect[i] += (long double)k->r0_rect[3 * i + j] * cam[j];
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) pixel[i] += (long double)k->p2[4 * i + j] * rect[j];
    for (int i = 0; i < 3; i++) {
        out[i] = (double)pixel[i];
        rect_out[i] = (double)rect[i];
    }
}
