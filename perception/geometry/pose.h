/* SPDX-License-Identifier: Apache-2.0
 *
 * Rigid and affine motions of space in double precision: x' = R x + t, with R
 * row-major. Poses of sensors and vehicles are chains of these; single
 * precision would lose centimetres in map coordinates.
 */
#ifndef SV_POSE_H
#define SV_POSE_H

#include <stdbool.h>

typedef struct sv_pose {
    double r[9]; /* row-major; orthonormal for a rigid motion */
    double t[3]; /* metres */
} sv_pose;

sv_pose sv_pose_identity(void);
/* From the 12 numbers of a row-major 3x4 matrix [R | t]. */
sv_pose sv_pose_from_rows(const double rows[12]);
/* Unit quaternion w, x, y, z (normalised here) and translation. */
sv_pose sv_pose_from_quaternion(const double wxyz[4], const double t[3]);
/* The unit quaternion w, x, y, z of a rigid motion's rotation, with w >= 0. */
void sv_pose_quaternion(const sv_pose *a, double wxyz[4]);
/* Turned by 'yaw' about z, counter-clockwise seen from above. */
sv_pose sv_pose_from_yaw(double yaw, double x, double y, double z);
/* First b, then a. */
sv_pose sv_pose_compose(const sv_pose *a, const sv_pose *b);
/* Of any invertible R (calibrations are rounded, so their R is not quite a rotation). False, and the identity,
 * when R is singular. */
bool sv_pose_invert(const sv_pose *a, sv_pose *out);
void sv_pose_apply(const sv_pose *a, const double in[3], double out[3]); /* in and out may be the same */
/* Rotation alone, for directions and velocities. */
void sv_pose_rotate(const sv_pose *a, const double in[3], double out[3]);
/* Heading of the turned x axis about z. */
double sv_pose_yaw(const sv_pose *a);

/* An angle brought into [-pi, pi). */
double sv_wrap_angle(double angle);

#endif
