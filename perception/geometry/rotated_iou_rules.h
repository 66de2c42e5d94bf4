/* SPDX-License-Identifier: Apache-2.0
 *
 * The rules of rotated_iou.h, written once for the CPU (rotated_iou.c) and for the GPU (nms.cu). Who includes this says what functions are
 * (SV_IOU_PUBLIC, SV_IOU_HELPER) and are called (SV_IOU_NAME), and what keeps a loop from being unrolled (SV_IOU_ROLLED):
 * unrolled, the rules are more code than a GPU's instruction caches hold.
 */
#include "perception/geometry/rotated_iou.h"

#include <math.h>
#include <string.h>

typedef struct point {
    float x, y;
} point;

SV_IOU_PUBLIC sv_rectangle SV_IOU_NAME(rectangle_make)(float x, float y, float dx, float dy, float heading)
{
    sv_rectangle r;
    r.x = x;
    r.y = y;
    r.dx = dx;
    r.dy = dy;
    r.cosine = cosf(heading);
    r.sine = sinf(heading);
    const float x1 = x - dx / 2, x2 = x + dx / 2, y1 = y - dy / 2, y2 = y + dy / 2;
    const float upright[4][2] = {{x1, y1}, {x2, y1}, {x2, y2}, {x1, y2}};
    for (int k = 0; k < 4; k++) {
        const float u = upright[k][0] - x, v = upright[k][1] - y;
        r.corner[k][0] = u * r.cosine + v * -r.sine + x;
        r.corner[k][1] = u * r.sine + v * r.cosine + y;
    }
    r.reach = 0.5f * sqrtf(dx * dx + dy * dy);
    return r;
}

SV_IOU_PUBLIC bool SV_IOU_NAME(rectangles_near)(const sv_rectangle *a, const sv_rectangle *b, float margin)
{
    const float x = a->x - b->x, y = a->y - b->y;
    /* twice the margin and a little for rounding: never closer than the kernel's own test */
    const float reach = (a->reach + b->reach) * 1.0001f + 2 * margin;
    return !(x * x + y * y > reach * reach);
}

/* ---- the official rule -------------------------------------------------------------------------------- */

/* (a - o) x (b - o) */
SV_IOU_HELPER float turn(point a, point b, point o)
{
    return (a.x - o.x) * (b.y - o.y) - (b.x - o.x) * (a.y - o.y);
}

SV_IOU_HELPER bool spans_meet(point p0, point p1, point q0, point q1)
{
    return fminf(p0.x, p1.x) <= fmaxf(q0.x, q1.x) && fminf(q0.x, q1.x) <= fmaxf(p0.x, p1.x) &&
           fminf(p0.y, p1.y) <= fmaxf(q0.y, q1.y) && fminf(q0.y, q1.y) <= fmaxf(p0.y, p1.y);
}

/* Proper crossing of the segments p0p1 and q0q1. */
SV_IOU_HELPER bool crossing(point p0, point p1, point q0, point q1, point *out)
{
    if (!spans_meet(p0, p1, q0, q1)) return false;
    const float s1 = turn(q0, p1, p0), s2 = turn(p1, q1, p0), s3 = turn(p0, q1, q0), s4 = turn(q1, p1, q0);
    if (!(s1 * s2 > 0 && s3 * s4 > 0)) return false;
    const float s5 = turn(q1, p1, p0);
    if (fabsf(s5 - s1) > 1e-8f) {
        out->x = (s5 * q0.x - s1 * q1.x) / (s5 - s1);
        out->y = (s5 * q0.y - s1 * q1.y) / (s5 - s1);
        return true;
    }
    const float a0 = p0.y - p1.y, b0 = p1.x - p0.x, c0 = p0.x * p1.y - p1.x * p0.y;
    const float a1 = q0.y - q1.y, b1 = q1.x - q0.x, c1 = q0.x * q1.y - q1.x * q0.y;
    const float d = a0 * b1 - a1 * b0;
    out->x = (b0 * c1 - b1 * c0) / d;
    out->y = (a1 * c0 - a0 * c1) / d;
    return true;
}

SV_IOU_HELPER bool inside(const sv_rectangle *r, point p, float margin)
{
    const float u = (p.x - r->x) * r->cosine + (p.y - r->y) * r->sine;
    const float v = (p.x - r->x) * -r->sine + (p.y - r->y) * r->cosine;
    return fabsf(u) < r->dx / 2 + margin && fabsf(v) < r->dy / 2 + margin;
}

SV_IOU_PUBLIC float SV_IOU_NAME(overlap_official)(const sv_rectangle *a, const sv_rectangle *b, float margin)
{
    point p[4], q[4], corner[24], mean = {0, 0};
    float angle[24];
    int count = 0;
    for (int k = 0; k < 4; k++) {
        p[k].x = a->corner[k][0];
        p[k].y = a->corner[k][1];
        q[k].x = b->corner[k][0];
        q[k].y = b->corner[k][1];
    }
    SV_IOU_ROLLED
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            if (crossing(p[i], p[(i + 1) % 4], q[j], q[(j + 1) % 4], &corner[count])) count++;
    SV_IOU_ROLLED
    for (int k = 0; k < 4; k++) {
        if (inside(a, q[k], margin)) corner[count++] = q[k];
        if (inside(b, p[k], margin)) corner[count++] = p[k];
    }
    SV_IOU_ROLLED
    for (int k = 0; k < count; k++) {
        mean.x += corner[k].x;
        mean.y += corner[k].y;
    }
    mean.x /= (float)count;
    mean.y /= (float)count;
    SV_IOU_ROLLED
    for (int k = 0; k < count; k++) angle[k] = atan2f(corner[k].y - mean.y, corner[k].x - mean.x);
    SV_IOU_ROLLED
    for (int j = 0; j < count - 1; j++) {
        SV_IOU_ROLLED
        for (int i = 0; i < count - j - 1; i++) {
            if (!(angle[i] > angle[i + 1])) continue;
            const point moved = corner[i];
            const float turned = angle[i];
            corner[i] = corner[i + 1];
            angle[i] = angle[i + 1];
            corner[i + 1] = moved;
            angle[i + 1] = turned;
        }
    }
    float area = 0;
    SV_IOU_ROLLED
    for (int k = 0; k < count - 1; k++) {
        const point u = {corner[k].x - corner[0].x, corner[k].y - corner[0].y};
        const point v = {corner[k + 1].x - corner[0].x, corner[k + 1].y - corner[0].y};
        area += u.x * v.y - u.y * v.x;
    }
    return fabsf(area) / 2.0f;
}

/* ---- the exact rule ----------------------------------------------------------------------------------- */

/* Sutherland-Hodgman: b's polygon, in a's frame, is cut by a's four sides. */
SV_IOU_PUBLIC double SV_IOU_NAME(overlap_exact64)(const sv_rectangle64 *a, const sv_rectangle64 *b)
{
    double x[16], y[16], next_x[16], next_y[16];
    int count = 4;
    for (int k = 0; k < 4; k++) {
        const double u = (k == 0 || k == 3 ? -0.5 : 0.5) * b->dx, v = (k < 2 ? -0.5 : 0.5) * b->dy;
        const double wx = b->x + u * b->cosine - v * b->sine - a->x,
                     wy = b->y + u * b->sine + v * b->cosine - a->y;
        x[k] = wx * a->cosine + wy * a->sine;
        y[k] = -wx * a->sine + wy * a->cosine;
    }
    SV_IOU_ROLLED
    for (int side = 0; side < 4; side++) {
        /* distance inside the side: half size minus the coordinate along its outward normal */
        const double half = 0.5 * (side < 2 ? a->dx : a->dy), sign = side % 2 ? -1 : 1;
        int kept = 0;
        SV_IOU_ROLLED
        for (int k = 0; k < count; k++) {
            const int n = k + 1 < count ? k + 1 : 0;
            const double here = half - sign * (side < 2 ? x[k] : y[k]),
                         there = half - sign * (side < 2 ? x[n] : y[n]);
            if (here >= 0) {
                next_x[kept] = x[k];
                next_y[kept++] = y[k];
            }
            if ((here < 0 && there > 0) || (here > 0 && there < 0)) {
                const double t = here / (here - there);
                next_x[kept] = x[k] + t * (x[n] - x[k]);
                next_y[kept++] = y[k] + t * (y[n] - y[k]);
            }
        }
        count = kept;
        memcpy(x, next_x, sizeof *x * (size_t)count);
        memcpy(y, next_y, sizeof *y * (size_t)count);
    }
    double area = 0;
    SV_IOU_ROLLED
    for (int k = 0; k < count; k++) {
        const int n = k + 1 < count ? k + 1 : 0;
        area += x[k] * y[n] - x[n] * y[k];
    }
    return fabs(area) / 2;
}

SV_IOU_PUBLIC double SV_IOU_NAME(overlap_exact)(const sv_rectangle *a, const sv_rectangle *b)
{
    const sv_rectangle64 p = {a->x, a->y, a->dx, a->dy, a->cosine, a->sine},
                         q = {b->x, b->y, b->dx, b->dy, b->cosine, b->sine};
    return SV_IOU_NAME(overlap_exact64)(&p, &q);
}

SV_IOU_PUBLIC float SV_IOU_NAME(iou_bev)(const sv_rectangle *a, const sv_rectangle *b, float margin,
                                         bool exact)
{
    const float both = a->dx * a->dy + b->dx * b->dy;
    if (exact) {
        const double overlap = SV_IOU_NAME(overlap_exact)(a, b);
        return (float)(overlap / fmax((double)a->dx * a->dy + (double)b->dx * b->dy - overlap, 1e-8));
    }
    const float overlap = SV_IOU_NAME(overlap_official)(a, b, margin);
    return overlap / fmaxf(both - overlap, 1e-8f);
}
