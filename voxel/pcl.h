/* SPDX-License-Identifier: Apache-2.0
 *
 * What the Point Cloud Library does for us, where a build has it (CMake option SAVANNA_PCL): filters, a ground plane,
 * clusters, and the registration of clouds without poses. Without it every function but sv_pcl_version() fails with a
 * sentence that says how to get it.
 *
 * 'points' [count, columns] begin with x, y, z. Results depend on the order of the points as far as PCL's do.
 */
#ifndef SV_PCL_H
#define SV_PCL_H

#include "perception/core/context.h"
#include "perception/geometry/pose.h"

typedef struct sv_pcl_cloud {
    const float *points;
    int count, columns;
} sv_pcl_cloud;

const char *sv_pcl_version(void); /* "1.13.0"; NULL: this build has none */

/* One point per cube of 'leaf' metres, the mean of those in it: 'out' [cloud.count * 3]. */
sv_status sv_pcl_voxel_grid(sv_ctx *c, sv_pcl_cloud cloud, float leaf, float *out, int *out_count);
/* keep [count]: 0 for points whose mean distance to their 'neighbours' nearest exceeds the mean over all points by more than
 * so many standard deviations. */
sv_status sv_pcl_statistical_outliers(sv_ctx *c, sv_pcl_cloud cloud, int neighbours, double deviations,
                                      uint8_t *keep);
/* keep [count]: 0 for points with fewer than 'neighbours' others within 'radius' metres. */
sv_status sv_pcl_radius_outliers(sv_ctx *c, sv_pcl_cloud cloud, double radius, int neighbours, uint8_t *keep);
/* The plane a x + b y + c z + d = 0 (c > 0, unit normal) with most points within 'distance' metres, tilted by 'tilt' radians
 * at most, by RANSAC. 'inlier' [count] may be NULL. */
sv_status sv_pcl_ground_plane(sv_ctx *c, sv_pcl_cloud cloud, double distance, double tilt, int iterations,
                              float plane[4], uint8_t *inlier);
/* Euclidean clusters: label [count] 0 .. *clusters - 1, or -1 for clusters below 'least' or above 'most' points. */
sv_status sv_pcl_clusters(sv_ctx *c, sv_pcl_cloud cloud, double tolerance, int least, int most,
                          int32_t *label, int *clusters);

typedef enum sv_pcl_method { SV_PCL_ICP, SV_PCL_GICP } sv_pcl_method;
typedef struct sv_pcl_registration {
    sv_pcl_method method;
    double distance; /* points farther apart, metres, are no pair */
    int iterations;
    sv_pose guess;
} sv_pcl_registration;
/* The motion that brings 'from' onto 'to' (to = pose * from); fitness: mean square distance of the pairs, square metres. */
sv_status sv_pcl_register(sv_ctx *c, sv_pcl_cloud from, sv_pcl_cloud to, const sv_pcl_registration *how,
                          sv_pose *out, double *fitness, bool *converged);

#endif
