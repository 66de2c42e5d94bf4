/* SPDX-License-Identifier: Apache-2.0 */
#include "waymo_overlap.h"

#include <math.h>
#include <stdbool.h>

typedef struct spot {
    double x, y;
} spot;

/* ---- cross products ----------------------------------------------------------------------------------- */

/* Below this a cross product of differences may have the wrong sign. */
static const double doubtful = 0x1p-50;

/*
 * The sum of numbers, exactly, rounded once: Shewchuk's expansions. Every addition keeps what it rounds off,
 * so that parts[] always add up to the numbers so far, smallest part first.
 */
static double exact_sum(const double *numbers, int count)
{
    double parts[16];
    int n = 0;
    for (int i = 0; i < count; i++) {
        double carry = numbers[i];
        int kept = 0;
        for (int k = 0; k < n; k++) {
            const double sum = carry + parts[k], back = sum - carry,
                         lost = (carry - (sum - back)) + (parts[k] - back);
            if (lost != 0) parts[kept++] = lost;
            carry = sum;
        }
        n = kept;
        parts[n++] = carry;
    }
    double sum = 0;
    for (int k = 0; k < n; k++) sum += parts[k];
    return sum;
}

/* (b - a) x (d - c); with the right sign. */
static double cross(spot a, spot b, spot c, spot d)
{
    if ((a.x == b.x && a.y == b.y) || (c.x == d.x && c.y == d.y)) return 0;
    const double quick = (b.x - a.x) * (d.y - c.y) - (b.y - a.y) * (d.x - c.x);
    if (fabs(quick) > doubtful) return quick;
    const double products[8][2] = {{b.x, d.y},  {-a.x, d.y}, {-b.x, c.y}, {a.x, c.y},
                                   {-b.y, d.x}, {a.y, d.x},  {b.y, c.x},  {-a.y, c.x}};
    double terms[16];
    for (int i = 0; i < 8; i++) {
        terms[i] = products[i][0] * products[i][1];
        terms[8 + i] = fma(products[i][0], products[i][1], -terms[i]); /* what the product rounds off */
    }
    return exact_sum(terms, 16);
}

/* ---- two edges ---------------------------------------------------------------------------------------- */

/* q, which is on the line of a and b, is between them. */
static bool between(spot a, spot b, spot q)
{
    return fmin(a.x, b.x) <= q.x && q.x <= fmax(a.x, b.x) && fmin(a.y, b.y) <= q.y && q.y <= fmax(a.y, b.y);
}

/* Edges on one line: an end of one that lies on the other. */
static bool share_line(spot p0, spot p1, spot q0, spot q1, spot *out)
{
    const spot ends[4] = {p0, p1, q0, q1};
    if (cross(p0, p1, p0, q0) != 0) return false;
    for (int i = 0; i < 4; i++) {
        if (!(i < 2 ? between(q0, q1, ends[i]) : between(p0, p1, ends[i]))) continue;
        *out = ends[i];
        return true;
    }
    return false;
}

/* 'place' / 'all' is in [0, 1]; close to 1 the same from the other end, 'again', must not be negative. */
static bool is_within(double place, double all, double sign, double slack, spot a, spot b, spot c, spot d)
{
    if (place * sign < 0 || place * sign > fabs(all) + slack) return false;
    return !(place * sign > fabs(all) - slack) || !(cross(a, b, c, d) * sign < 0);
}

static bool meet(spot p0, spot p1, spot q0, spot q1, double turn, spot *out)
{
    if (turn == 0) return share_line(p0, p1, q0, q1, out);
    const double sign = copysign(1.0, turn), slack = fmax(fabs(turn), 1.0) * doubtful;
    const double along = cross(p0, q0, q1, q0);
    if (!is_within(along, turn, sign, slack, p1, q1, q0, q1)) return false;
    if (!is_within(cross(p0, p1, p0, q0), turn, sign, slack, p1, p0, p1, q1)) return false;
    const double t = fmax(0.0, fmin(1.0, along / turn));
    *out = (spot){p0.x + (p1.x - p0.x) * t, p0.y + (p1.y - p0.y) * t};
    return true;
}

/* ---- two rectangles ----------------------------------------------------------------------------------- */

sv_waymo_quad sv_waymo_quad_make(double x, double y, double length, double width, double heading)
{
    const double half = length / 2.0, ahead[2] = {cos(heading) * half, sin(heading) * half};
    const double start[2] = {x - ahead[0], y - ahead[1]}, end[2] = {x + ahead[0], y + ahead[1]};
    const double unit = 1.0 / length, w = width / 2.0;
    const double side[2] = {-(end[1] - start[1]) * unit * w, (end[0] - start[0]) * unit * w};
    sv_waymo_quad quad = {.corner = {{start[0] + side[0], start[1] + side[1]},
                                     {start[0] - side[0], start[1] - side[1]},
                                     {end[0] - side[0], end[1] - side[1]},
                                     {end[0] + side[0], end[1] + side[1]}}};
    for (int k = 0; k < 2; k++) {
        quad.low[k] = quad.high[k] = quad.corner[0][k];
        for (int i = 1; i < 4; i++) {
            quad.low[k] = fmin(quad.low[k], quad.corner[i][k]);
            quad.high[k] = fmax(quad.high[k], quad.corner[i][k]);
        }
    }
    return quad;
}

static spot corner(const sv_waymo_quad *quad, int i)
{
    return (spot){quad->corner[i & 3][0], quad->corner[i & 3][1]};
}

/* Twice the area, counted from the first corner; specks are nothing. */
static double area_of(const spot *points, int count)
{
    double area = 0;
    for (int i = 1; i < count - 1; i++)
        area += (points[i].x - points[0].x) * (points[i + 1].y - points[0].y) -
                (points[i].y - points[0].y) * (points[i + 1].x - points[0].x);
    return fabs(area) <= 1e-10 ? 0 : area * 0.5;
}

static bool holds_all(const sv_waymo_quad *outer, const sv_waymo_quad *inner)
{
    for (int i = 0; i < 4; i++) {
        const spot p = corner(inner, i);
        if (p.x < outer->low[0] || p.y < outer->low[1] || p.x > outer->high[0] || p.y > outer->high[1])
            return false;
        for (int k = 0; k < 4; k++) {
            const spot a = corner(outer, k), b = corner(outer, k + 1);
            if ((b.x - a.x) * (p.y - a.y) - (b.y - a.y) * (p.x - a.x) < 0) return false;
        }
    }
    return true;
}

static double whole_area(const sv_waymo_quad *quad)
{
    const spot points[4] = {corner(quad, 0), corner(quad, 1), corner(quad, 2), corner(quad, 3)};
    return area_of(points, 4);
}

/* What the walk has found; a point that repeats the first or the last one is left out. */
typedef struct outline {
    spot points[40];
    int count;
} outline;

static void append(outline *o, spot p)
{
    const spot *first = o->points, *last = o->points + o->count - 1;
    if (o->count == 0 || ((p.x != first->x || p.y != first->y) && (p.x != last->x || p.y != last->y)))
        o->points[o->count++] = p;
}

double sv_waymo_shared_area(const sv_waymo_quad *p, const sv_waymo_quad *q)
{
    enum { CORNERS = 8 };
    for (int k = 0; k < 2; k++)
        if (p->low[k] > q->high[k] || q->low[k] > p->high[k]) return 0;
    outline o = {.count = 0};
    bool p_inside = false, q_inside = false;
    int i = 0, j = 0; /* edges i..i+1 of p and j..j+1 of q */
    for (int step = 0; step < 2 * CORNERS; step++) {
        const spot p0 = corner(p, i), p1 = corner(p, i + 1), q0 = corner(q, j), q1 = corner(q, j + 1);
        const double turn = cross(p0, p1, q1, q0);
        const double p_side = cross(q1, q0, p1, q0); /* >= 0: p1 lies left of q's edge */
        spot meeting;
        if (meet(p0, p1, q0, q1, turn, &meeting)) {
            if (o.count > 2 && meeting.x == o.points[0].x && meeting.y == o.points[0].y)
                return area_of(o.points, o.count);
            /* from the first meeting, one time around suffices */
            if (o.count == 0) step = CORNERS - 1;
            append(&o, meeting);
            p_inside = p_side >= 0;
            q_inside = !p_inside;
        }
        if (turn >= 0 ? p_side < 0 : cross(p1, p0, q1, p0) >= 0) {
            if (p_inside) append(&o, p1);
            i = (i + 1) & 3;
        } else {
            if (q_inside) append(&o, q1);
            j = (j + 1) & 3;
        }
    }
    /* Met, but not come back: a corner or a part of an edge is shared, or rounding led astray. */
    if (o.count > 0) return 0;
    return holds_all(q, p) ? whole_area(p) : holds_all(p, q) ? whole_area(q) : 0;
}
