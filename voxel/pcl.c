/* SPDX-License-Identifier: Apache-2.0
 *
 * The checks that PCL leaves to its callers, its sentences in a context, and the loading of the module behind them. The C++
 * is in pcl_shim.cpp.
 */
#define _GNU_SOURCE
#include "pcl.h"

#include "pcl_shim.h"
#include "perception/core/module.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* ---- the module --------------------------------------------------------------------------------------- */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const sv_pcl_shim *shim; /* NULL: there is none */
static char why_not[320];

static void load_shim(void)
{
#ifdef SAVANNA_PCL
    shim = sv_module_table("libsavanna_pcl.so", "sv_pcl_shim_table", "PCL", why_not, sizeof why_not);
#else
    snprintf(why_not, sizeof why_not,
             "this build has no PCL: install libpcl-dev (./run build --with-pcl does) and build again");
#endif
}

sv_status sv_pcl_need(sv_ctx *c)
{
    pthread_once(&once, load_shim);
    SV_CHECK(c, shim, SV_UNSUPPORTED, "%s", why_not);
    return SV_OK;
}

const char *sv_pcl_version(void)
{
    pthread_once(&once, load_shim);
    return shim ? shim->version : NULL;
}

/* ---- what it does ------------------------------------------------------------------------------------- */

static sv_status check_cloud(sv_ctx *c, const char *what, sv_pcl_cloud cloud, int least)
{
    SV_TRY(sv_pcl_need(c));
    SV_CHECK(c, cloud.columns >= 3 && cloud.count >= 0, SV_BAD_SHAPE,
             "%s: a cloud of %d points with %d columns", what, cloud.count, cloud.columns);
    SV_CHECK(c, cloud.count >= least, SV_BAD_INPUT, "%s: %d points are too few; it takes %d", what,
             cloud.count, least);
    /* PCL's trees assume it */
    for (int i = 0; i < cloud.count; i++) {
        const float *p = cloud.points + (size_t)i * (size_t)cloud.columns;
        SV_CHECK(c, isfinite(p[0]) && isfinite(p[1]) && isfinite(p[2]), SV_BAD_INPUT,
                 "%s: point %d is not finite", what, i);
    }
    return SV_OK;
}

static sv_status told(sv_ctx *c, const char *what, int failed, const char *why)
{
    SV_CHECK(c, !failed, SV_BAD_INPUT, "%s: PCL says: %s", what, why);
    return SV_OK;
}

sv_status sv_pcl_voxel_grid(sv_ctx *c, sv_pcl_cloud cloud, float leaf, float *out, int *out_count)
{
    char why[SV_PCL_WHY] = "";
    SV_TRY(check_cloud(c, "voxel grid", cloud, 0));
    SV_CHECK(c, leaf > 0 && isfinite(leaf), SV_USAGE, "voxel grid: cubes of %g m", (double)leaf);
    /* PCL numbers the cubes with an int, and hands the cloud back as it is when they are too many */
    double cubes = 1;
    for (int k = 0; k < 3; k++) {
        double low = 0, high = 0;
        for (int i = 0; i < cloud.count; i++) {
            const double v = (double)cloud.points[(size_t)i * (size_t)cloud.columns + (size_t)k];
            if (i == 0 || v < low) low = v;
            if (i == 0 || v > high) high = v;
        }
        cubes *= floor((high - low) / (double)leaf) + 2;
    }
    SV_CHECK(c, cubes < 2147483647.0, SV_BAD_INPUT,
             "voxel grid: the cloud spans %.3g cubes of %g m, more than PCL can number", cubes, (double)leaf);
    return told(c, "voxel grid",
                shim->voxel_grid(cloud.points, cloud.count, cloud.columns, leaf, out, out_count, why), why);
}

sv_status sv_pcl_statistical_outliers(sv_ctx *c, sv_pcl_cloud cloud, int neighbours, double deviations,
                                      uint8_t *keep)
{
    char why[SV_PCL_WHY] = "";
    SV_CHECK(c, neighbours >= 1 && deviations >= 0, SV_USAGE,
             "statistical outliers: %d neighbours, %g deviations", neighbours, deviations);
    SV_TRY(check_cloud(c, "statistical outliers", cloud, neighbours + 1));
    return told(
        c, "statistical outliers",
        shim->statistical(cloud.points, cloud.count, cloud.columns, neighbours, deviations, keep, why), why);
}

sv_status sv_pcl_radius_outliers(sv_ctx *c, sv_pcl_cloud cloud, double radius, int neighbours, uint8_t *keep)
{
    char why[SV_PCL_WHY] = "";
    SV_CHECK(c, neighbours >= 1 && radius > 0, SV_USAGE, "radius outliers: %d neighbours within %g m",
             neighbours, radius);
    SV_TRY(check_cloud(c, "radius outliers", cloud, 0));
    return told(c, "radius outliers",
                shim->radius(cloud.points, cloud.count, cloud.columns, radius, neighbours, keep, why), why);
}

sv_status sv_pcl_ground_plane(sv_ctx *c, sv_pcl_cloud cloud, double distance, double tilt, int iterations,
                              float plane[4], uint8_t *inlier)
{
    char why[SV_PCL_WHY] = "";
    SV_CHECK(c, distance > 0 && tilt > 0 && iterations > 0, SV_USAGE,
             "ground plane: %g m, %g radians, %d iterations", distance, tilt, iterations);
    SV_TRY(check_cloud(c, "ground plane", cloud, 3));
    return told(
        c, "ground plane",
        shim->plane(cloud.points, cloud.count, cloud.columns, distance, tilt, iterations, plane, inlier, why),
        why);
}

sv_status sv_pcl_clusters(sv_ctx *c, sv_pcl_cloud cloud, double tolerance, int least, int most,
                          int32_t *label, int *clusters)
{
    char why[SV_PCL_WHY] = "";
    SV_CHECK(c, tolerance > 0 && least >= 1 && most >= least, SV_USAGE, "clusters: %g m, %d to %d points",
             tolerance, least, most);
    SV_TRY(check_cloud(c, "clusters", cloud, 0));
    return told(c, "clusters",
                shim->clusters(cloud.points, cloud.count, cloud.columns, tolerance, least, most, label,
                               clusters, why),
                why);
}

sv_status sv_pcl_register(sv_ctx *c, sv_pcl_cloud from, sv_pcl_cloud to, const sv_pcl_registration *how,
                          sv_pose *out, double *fitness, bool *converged)
{
    enum { LEAST = 20 }; /* GICP fits a plane to so many neighbours of each point */
    char why[SV_PCL_WHY] = "";
    SV_CHECK(c, how->distance > 0 && how->iterations > 0, SV_USAGE, "registration: %g m, %d iterations",
             how->distance, how->iterations);
    SV_TRY(check_cloud(c, "registration", from, LEAST));
    SV_TRY(check_cloud(c, "registration", to, LEAST));
    double pose[16] = {0};
    int settled = 0;
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 3; k++) pose[4 * i + k] = how->guess.r[3 * i + k];
        pose[4 * i + 3] = how->guess.t[i];
    }
    pose[15] = 1;
    SV_TRY(told(c, "registration",
                shim->align(from.points, from.count, from.columns, to.points, to.count, to.columns,
                            how->method == SV_PCL_GICP, how->distance, how->iterations, pose, fitness,
                            &settled, why),
                why));
    *out = sv_pose_from_rows(pose);
    *converged = settled != 0;
    return SV_OK;
}
