/* SPDX-License-Identifier: Apache-2.0
 *
 * savanna register: poses for clouds that have none.
 */
#include "app.h"

#include "perception/core/file.h"
#include "perception/core/text.h"
#include "perception/json.h"
#include "perception/points.h"
#include "voxel/pcl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *layout, *output, *method = "gicp";
static double leaf = 0.3, distance = 1.0;
static int iterations = 60;

typedef struct thinned {
    float *xyz; /* malloc'ed */
    int count;
} thinned;

/* The file's points, one per cube: registration needs no more, and takes the same time for every sensor. */
static sv_status read_cloud(sv_ctx *c, const char *path, thinned *out)
{
    sv_points points;
    const bool raw = strlen(path) > 4 && strcmp(path + strlen(path) - 4, ".bin") == 0;
    SV_TRY(sv_points_read(c, path, layout || !raw ? layout : "xyzi", &points));
    out->count = 0;
    out->xyz = malloc(3 * sizeof(float) * (size_t)(points.count > 0 ? points.count : 1));
    sv_status status =
        out->xyz ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "%s: no memory for %d points", path, points.count);
    if (status == SV_OK)
        status = sv_pcl_voxel_grid(c, (sv_pcl_cloud){points.data, points.count, points.columns}, (float)leaf,
                                   out->xyz, &out->count);
    sv_points_free(&points);
    return status;
}

/* One line per cloud: the 3x4 matrix that takes its points into the frame of the first, as KITTI's odometry files. */
static sv_status write_poses(sv_ctx *c, const sv_pose *poses, int count)
{
    sv_output file;
    SV_TRY(sv_output_open(c, &file, output));
    for (int i = 0; i < count; i++)
        for (int k = 0; k < 12; k++) {
            char text[SV_NUMBER_TEXT];
            sv_text_from_double(text, k % 4 == 3 ? poses[i].t[k / 4] : poses[i].r[3 * (k / 4) + k % 4]);
            fprintf(file.stream, "%s%c", text, k < 11 ? ' ' : '\n');
        }
    const sv_status status = sv_output_commit(c, &file);
    sv_output_discard(&file);
    return status;
}

static void print_step(const sv_app *app, sv_json *j, const char *from, const char *to, const sv_pose *step,
                       double fitness, bool converged)
{
    const double degrees = sv_pose_yaw(step) * 57.29577951308232;
    if (app->json) {
        sv_json_object(j, SV_JSON_LINES);
        sv_json_key(j, "from"), sv_json_text(j, from);
        sv_json_key(j, "to"), sv_json_text(j, to);
        sv_json_key(j, "translation"), sv_json_array(j, SV_JSON_INLINE);
        for (int k = 0; k < 3; k++) sv_json_double(j, step->t[k]);
        sv_json_end(j);
        sv_json_key(j, "rotation"), sv_json_array(j, SV_JSON_INLINE);
        for (int k = 0; k < 9; k++) sv_json_double(j, step->r[k]);
        sv_json_end(j);
        sv_json_key(j, "rms"), sv_json_double(j, sqrt(fitness));
        sv_json_key(j, "converged"), sv_json_bool(j, converged);
        sv_json_end(j);
        return;
    }
    printf(
        "%s -> %s: moved %.3f %.3f %.3f m, turned %.3f degrees; the clouds then differ by %.3f m (root mean "
        "square)%s\n",
        from, to, step->t[0], step->t[1], step->t[2], degrees, sqrt(fitness),
        converged ? "" : "; NOT CONVERGED");
}

static sv_status register_all(const sv_app *app, sv_ctx *c, char **paths, int count, sv_pose *poses)
{
    sv_pcl_registration how = {.method = strcmp(method, "icp") == 0 ? SV_PCL_ICP : SV_PCL_GICP,
                               .distance = distance,
                               .iterations = iterations,
                               .guess = sv_pose_identity()};
    sv_json j;
    if (app->json) {
        j = sv_json_begin(stdout);
        sv_json_array(&j, SV_JSON_LINES);
    }
    thinned before = {0}, now = {0};
    int lost = 0;
    sv_status status = read_cloud(c, paths[0], &before);
    poses[0] = sv_pose_identity();
    for (int i = 1; i < count && status == SV_OK; i++) {
        sv_pose step = sv_pose_identity();
        double fitness = 0;
        bool converged = false;
        status = read_cloud(c, paths[i], &now);
        if (status == SV_OK)
            status = sv_pcl_register(c, (sv_pcl_cloud){now.xyz, now.count, 3},
                                     (sv_pcl_cloud){before.xyz, before.count, 3}, &how, &step, &fitness,
                                     &converged);
        if (status != SV_OK) break;
        print_step(app, &j, paths[i], paths[i - 1], &step, fitness, converged);
        lost += !converged;
        poses[i] = sv_pose_compose(&poses[i - 1], &step);
        how.guess = step; /* vehicles go on as they went */
        free(before.xyz);
        before = now;
        now = (thinned){0};
    }
    free(before.xyz);
    free(now.xyz);
    if (app->json) sv_json_end(&j);
    if (status == SV_OK && output) status = write_poses(c, poses, count);
    SV_CHECK(c, status != SV_OK || lost == 0, SV_NOT_MET, "%d of %d registrations did not converge", lost,
             count - 1);
    return status;
}

static int run_register(sv_app *app, int count, char **inputs)
{
    if (count < 2) return sv_app_usage_error(app, "name at least two point files");
    if (strcmp(method, "icp") != 0 && strcmp(method, "gicp") != 0)
        return sv_app_usage_error(app, "--method: '%s' is not icp or gicp", method);
    if (!(leaf > 0 && leaf <= 10) || !(distance > 0 && distance <= 100) || iterations < 1 ||
        iterations > 10000)
        return sv_app_usage_error(app,
                                  "--leaf %g --distance %g --iterations %d: up to 10 m, 100 m and 10000 are "
                                  "possible",
                                  leaf, distance, iterations);
    int code = 0;
    sv_ctx *c = sv_app_ctx(app, &code);
    if (!c) return code;
    sv_pose *poses = calloc((size_t)count, sizeof *poses);
    sv_status status = poses ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "no memory for %d poses", count);
    if (status == SV_OK) status = register_all(app, c, inputs, count, poses);
    if (status != SV_OK) code = sv_app_fail(app, status, sv_error_message(c));
    free(poses);
    sv_ctx_close(c);
    return code;
}

static const sv_option options[] = {
    {"--layout", 0, SV_OPTION_TEXT, &layout, "LAYOUT",
     "Columns of .bin and .npy files; .bin: xyzi by default."},
    {"--output", 'o', SV_OPTION_TEXT, &output, "POSES.txt",
     "Write the poses of all clouds in the frame of the first: twelve numbers a line, a row-major 3x4 "
     "matrix, as in "
     "KITTI's odometry files."},
    {"--method", 0, SV_OPTION_TEXT, &method, "icp|gicp",
     "Iterative closest points, or its generalized form, which matches surfaces (default)."},
    {"--leaf", 0, SV_OPTION_NUMBER, &leaf, "METRES", "One point per cube of this size is used; default 0.3."},
    {"--distance", 0, SV_OPTION_NUMBER, &distance, "METRES", "Points farther apart are no pair; default 1."},
    {"--iterations", 0, SV_OPTION_INT, &iterations, "N", "At most; default 60."},
};

const sv_command sv_command_register = {
    .name = "register",
    .summary = "find the motion between point clouds without poses",
    .usage = "FIRST NEXT... [-o POSES.txt] [--method icp|gicp]",
    .description =
        "Brings every cloud onto the one before it with the Point Cloud Library (a build with PCL is "
        "needed; 'savanna version' tells) and prints the motion that takes its points there. The motion "
        "before serves as the first guess. Exit code 1 when one did not converge.",
    .examples = "  savanna register 000.bin 001.bin 002.bin -o poses.txt\n  savanna register a.pcd b.ply "
                "--method icp "
                "--json\n",
    .options = options,
    .option_count = sizeof options / sizeof *options,
    .run = run_register,
};
