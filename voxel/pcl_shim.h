/* SPDX-License-Identifier: Apache-2.0
 *
 * Between C and the Point Cloud Library: plain arrays in, plain arrays out, no exception gets through. Used by pcl.c and
 * its tests only; everyone else includes pcl.h.
 *
 * Every function returns 0, or another number with a sentence in 'why'. 'xyz' holds 'count' points whose x, y, z lie
 * 'stride' floats apart.
 */
#ifndef SV_PCL_SHIM_H
#define SV_PCL_SHIM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SV_PCL_WHY = 200 };

/* 'out' [count*3] */
int sv_pcl_shim_voxel_grid(const float *xyz, int count, int stride, float leaf, float *out, int *out_count,
                           char why[SV_PCL_WHY]);
/* 'keep' [count]: 1 or 0 */
int sv_pcl_shim_statistical(const float *xyz, int count, int stride, int neighbours, double deviations,
                            uint8_t *keep, char why[SV_PCL_WHY]);
int sv_pcl_shim_radius(const float *xyz, int count, int stride, double radius, int neighbours, uint8_t *keep,
                       char why[SV_PCL_WHY]);
/* plane: a x + b y + c z + d = 0; 'inlier' [count] may be NULL */
int sv_pcl_shim_plane(const float *xyz, int count, int stride, double distance, double tilt, int iterations,
                      float plane[4], uint8_t *inlier, char why[SV_PCL_WHY]);
/* 'label' [count]: 0 .. *clusters - 1, or -1 */
int sv_pcl_shim_clusters(const float *xyz, int count, int stride, double tolerance, int least, int most,
                         int32_t *label, int *clusters, char why[SV_PCL_WHY]);
/* pose: 16 numbers, row-major 4x4; in: the guess, out: the result */
int sv_pcl_shim_register(const float *from, int from_count, int from_stride, const float *to, int to_count,
                         int to_stride, int generalized, double distance, int iterations, double pose[16],
                         double *fitness, int *converged, char why[SV_PCL_WHY]);
const char *sv_pcl_shim_version(void);

#ifdef __cplusplus
}
#endif

#endif
