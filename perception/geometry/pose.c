/* SPDX-License-Identifier: Apache-2.0 */
#include "pose.h"

#include <math.h>

static const double pi = 3.14159265358979323846;

sv_pose sv_pose_identity(void)
{
    return (sv_pose){.r = {1, 0, 0, 0, 1, 0, 0, 0, 1}};
}

sv_pose sv_pose_from_rows(const double rows[12])
{
    sv_pose p;
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 3; k++) p.r[3 * i + k] = rows[4 * i + k];
        p.t[i] = rows[4 * i + 3];
    }
    return p;
}

sv_pose sv_pose_from_quaternion(const double wxyz[4], const double t[3])
{
    const double n = sqrt(wxyz[0] * wxyz[0] + wxyz[1] * wxyz[1] + wxyz[2] * wxyz[2] + wxyz[3] * wxyz[3]);
    if (!(n > 0)) return (sv_pose){.r = {1, 0, 0, 0, 1, 0, 0, 0, 1}, .t = {t[0], t[1], t[2]}};
    const double w = wxyz[0] / n, x = wxyz[1] / n, y = wxyz[2] / n, z = wxyz[3] / n;
    return (sv_pose){.r = {1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
                           2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
                           2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)},
                     .t = {t[0], t[1], t[2]}};
}

/* The largest of the four is found first, so that no small number divides. */
void sv_pose_quaternion(const sv_pose *a, double wxyz[4])
{
    const double *r = a->r;
    const double four[4] = {1 + r[0] + r[4] + r[8], 1 + r[0] - r[4] - r[8], 1 - r[0] + r[4] - r[8],
                            1 - r[0] - r[4] + r[8]};
    int best = 0;
    for (int i = 1; i < 4; i++)
        if (four[i] > four[best]) best = i;
    const double pair[4][4] = {{four[0], r[7] - r[5], r[2] - r[6], r[3] - r[1]},
                               {r[7] - r[5], four[1], r[1] + r[3], r[2] + r[6]},
                               {r[2] - r[6], r[1] + r[3], four[2], r[5] + r[7]},
                               {r[3] - r[1], r[2] + r[6], r[5] + r[7], four[3]}};
    const double scale = (pair[best][0] < 0 ? -0.5 : 0.5) / sqrt(four[best]);
    for (int i = 0; i < 4; i++) wxyz[i] = scale * pair[best][i];
}

sv_pose sv_pose_from_yaw(double yaw, double x, double y, double z)
{
    const double c = cos(yaw), s = sin(yaw);
    return (sv_pose){.r = {c, -s, 0, s, c, 0, 0, 0, 1}, .t = {x, y, z}};
}

sv_pose sv_pose_compose(const sv_pose *a, const sv_pose *b)
{
    sv_pose out;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++)
            out.r[3 * i + k] =
                a->r[3 * i] * b->r[k] + a->r[3 * i + 1] * b->r[3 + k] + a->r[3 * i + 2] * b->r[6 + k];
    sv_pose_apply(a, b->t, out.t);
    return out;
}

bool sv_pose_invert(const sv_pose *a, sv_pose *out)
{
    const double *r = a->r;
    const double cofactor[9] = {
        r[4] * r[8] - r[5] * r[7], r[2] * r[7] - r[1] * r[8], r[1] * r[5] - r[2] * r[4],
        r[5] * r[6] - r[3] * r[8], r[0] * r[8] - r[2] * r[6], r[2] * r[3] - r[0] * r[5],
        r[3] * r[7] - r[4] * r[6], r[1] * r[6] - r[0] * r[7], r[0] * r[4] - r[1] * r[3]};
    const double determinant = r[0] * cofactor[0] + r[1] * cofactor[3] + r[2] * cofactor[6];
    if (!(fabs(determinant) > 1e-12) || !isfinite(determinant)) {
        *out = sv_pose_identity();
        return false;
    }
    sv_pose inverse;
    for (int i = 0; i < 9; i++) inverse.r[i] = cofactor[i] / determinant;
    double t[3];
    sv_pose_rotate(&inverse, a->t, t);
    for (int i = 0; i < 3; i++) inverse.t[i] = -t[i];
    *out = inverse;
    return true;
}

void sv_pose_rotate(const sv_pose *a, const double in[3], double out[3])
{
    const double v[3] = {in[0], in[1], in[2]};
    for (int i = 0; i < 3; i++) out[i] = a->r[3 * i] * v[0] + a->r[3 * i + 1] * v[1] + a->r[3 * i + 2] * v[2];
}

void sv_pose_apply(const sv_pose *a, const double in[3], double out[3])
{
    sv_pose_rotate(a, in, out);
    for (int i = 0; i < 3; i++) out[i] += a->t[i];
}

double sv_pose_yaw(const sv_pose *a)
{
    return atan2(a->r[3], a->r[0]);
}

double sv_wrap_angle(double angle)
{
    const double turned = angle - 2 * pi * floor((angle + pi) / (2 * pi));
    return turned >= pi ? turned - 2 * pi : turned;
}
