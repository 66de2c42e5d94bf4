/* SPDX-License-Identifier: Apache-2.0
 *
 * A segment becomes an oriented box, a class and a score.
 *
 * Direction: the search of Zhang, Xu, Dong and Dolan (Efficient L-shape fitting for vehicle detection using laser scanners,
 * IV 2017) over 90 degrees with their closeness criterion: for every angle the sum over the columns of
 * 1 / max(d, D0), d the distance to the nearer of the two edges of the enclosing rectangle. Here these are the edges that
 * face the sensor; an axis along which the sensor lies within the rectangle has none.
 *
 * Then every class proposes two boxes, its length along either axis. What is seen of an object ends where the rays cannot
 * reach, so along each axis a box begins at the edge that faces the sensor and is as long as the class usually is, or as
 * what was seen if that is more. Its bottom is the ground. The best proposal wins; its score is the product of
 *
 *   size      the usual deviations by which what was seen exceeds the class, or falls short of it across the line of sight
 *   height    the same for its top
 *   face      share of the columns near the facing edges: high for bodies, low for bushes
 *   floor     less for ground that was seen where the box claims to be
 *   around    less for neighbours that touch it: parts of a wall or a hedge go on beyond the box
 *   support   points / (points + a few)
 */
#include "cluster.h"

#include <math.h>

enum { MOST_FIT = 400, ANGLES = 45 };

#define NEAREST 0.06f /* D0 of the criterion, metres */
#define FACE    0.2f  /* columns within this distance of an edge are on it */

/* Columns of a segment, thinned evenly where there are many. */
typedef struct shape {
    int count;
    float x[MOST_FIT], y[MOST_FIT];
    int points;
    float high;      /* top of the segment */
    float middle[2]; /* mean of the columns */
    int body;        /* the first so many columns begin low: side, not roof */
    float range;     /* from the sensor */
} shape;

typedef struct frame {
    float cosine, sine;    /* of the first axis */
    float low[2], high[2]; /* what was seen along the axes */
    float sensor[2];       /* along the axes */
    int facing[2];         /* -1: the low end faces the sensor, 1: the high end, 0: neither */
} frame;

static void make_shape(const sv_cluster_rules *r, const sv_cluster_scene *s, int segment, shape *out)
{
    const int32_t *member = s->members + s->segments[segment];
    const int cells = s->segments[segment + 1] - s->segments[segment];
    int columns = 0;
    out->points = 0;
    out->high = 0;
    for (int i = 0; i < cells; i++) {
        const sv_cluster_cell *cell = &s->cells[member[i]];
        columns += cell->columns[1] - cell->columns[0];
        out->points += cell->points;
        out->high = fmaxf(out->high, cell->high);
    }
    const int stride = (columns + MOST_FIT - 1) / MOST_FIT;
    int at = 0;
    out->count = out->body = 0;
    double x = 0, y = 0;
    for (int pass = 0; pass < 2; pass++) {
        at = 0;
        for (int i = 0; i < cells; i++) {
            const sv_cluster_cell *cell = &s->cells[member[i]];
            for (int k = cell->columns[0]; k < cell->columns[1]; k++, at++) {
                const sv_cluster_column *column = &s->columns[k];
                if (at % stride != 0 || (column->low < 0.8f) != (pass == 0)) continue;
                out->x[out->count] = column->x;
                out->y[out->count] = column->y;
                x += (double)column->x;
                y += (double)column->y;
                out->count++;
            }
        }
        if (pass == 0) out->body = out->count;
    }
    /* roofs and canopies without sides: take what there is */
    if (out->body < 5 || 4 * out->body < out->count) out->body = out->count;
    out->middle[0] = (float)(x / out->count);
    out->middle[1] = (float)(y / out->count);
    out->range = hypotf(out->middle[0] - r->sensor[0], out->middle[1] - r->sensor[1]);
}

static void project(const shape *s, const frame *f, int count, float *first, float *second)
{
    for (int i = 0; i < count; i++) {
        first[i] = s->x[i] * f->cosine + s->y[i] * f->sine;
        second[i] = s->y[i] * f->cosine - s->x[i] * f->sine;
    }
}

static void limits(const float *v, int count, float *low, float *high)
{
    *low = *high = v[0];
    for (int i = 1; i < count; i++) {
        *low = v[i] < *low ? v[i] : *low;
        *high = v[i] > *high ? v[i] : *high;
    }
}

/* Turn the frame to 'angle' and measure the first 'count' columns in it. */
static void turn(const sv_cluster_rules *r, const shape *s, float angle, int count, frame *f, float *first,
                 float *second)
{
    f->cosine = cosf(angle);
    f->sine = sinf(angle);
    project(s, f, count, first, second);
    limits(first, count, &f->low[0], &f->high[0]);
    limits(second, count, &f->low[1], &f->high[1]);
    f->sensor[0] = r->sensor[0] * f->cosine + r->sensor[1] * f->sine;
    f->sensor[1] = r->sensor[1] * f->cosine - r->sensor[0] * f->sine;
    for (int a = 0; a < 2; a++)
        f->facing[a] = f->sensor[a] < f->low[a] ? -1 : f->sensor[a] > f->high[a] ? 1 : 0;
}

/* Distance from the facing edge of an axis; far away where it has none. */
static float edge_distance(const frame *f, int axis, float v)
{
    return f->facing[axis] < 0 ? v - f->low[axis] : f->facing[axis] > 0 ? f->high[axis] - v : 1e3f;
}

static float closeness(const frame *f, int count, const float *first, const float *second)
{
    float sum = 0;
    for (int i = 0; i < count; i++) {
        const float a = edge_distance(f, 0, first[i]), b = edge_distance(f, 1, second[i]);
        const float d = a < b ? a : b;
        sum += 1 / (d > NEAREST ? d : NEAREST);
    }
    return sum;
}

static float find_angle(const sv_cluster_rules *r, const shape *s)
{
    float first[MOST_FIT], second[MOST_FIT], best = -1, best_angle = 0;
    frame f;
    const float step = 1.57079633f / ANGLES;
    for (int k = 0; k < ANGLES; k++) {
        turn(r, s, (float)k * step, s->body, &f, first, second);
        const float value = closeness(&f, s->body, first, second);
        if (value > best) {
            best = value;
            best_angle = (float)k * step;
        }
    }
    const float middle = best_angle;
    for (int k = -3; k <= 3; k++) {
        const float angle = middle + (float)k * step / 4;
        turn(r, s, angle, s->body, &f, first, second);
        const float value = closeness(&f, s->body, first, second);
        if (value > best) {
            best = value;
            best_angle = angle;
        }
    }
    return best_angle;
}

/* exp(-x*x/2) */
static float bell(float x)
{
    return expf(-0.5f * x * x);
}

/* Share of the places inside the box (a margin left out) where the ground was seen, and of those around it that are taken. */
static void look_around(const sv_cluster_scene *s, const sv_cluster_box *b, int segment, float *floor_share,
                        float *taken_share)
{
    const float cosine = cosf(b->heading), sine = sinf(b->heading);
    const float margin = 0.2f, ring = 0.4f, step = s->cell;
    int inside = 0, seen = 0, around = 0, taken = 0;
    const float reach_x = b->dx / 2 + ring, reach_y = b->dy / 2 + ring;
    const int nx = (int)(2 * reach_x / step), ny = (int)(2 * reach_y / step);
    for (int j = 0; j <= ny; j++)
        for (int i = 0; i <= nx; i++) {
            const float u = -reach_x + 2 * reach_x * (float)i / (float)nx,
                        v = -reach_y + 2 * reach_y * (float)j / (float)ny;
            const float x = b->x + u * cosine - v * sine, y = b->y + u * sine + v * cosine;
            const int ix = (int)floorf((x - s->x0) / s->cell), iy = (int)floorf((y - s->y0) / s->cell);
            if (ix < 0 || iy < 0 || ix >= s->nx || iy >= s->ny) continue;
            const int place = iy * s->nx + ix;
            if (fabsf(u) < b->dx / 2 - margin && fabsf(v) < b->dy / 2 - margin) {
                inside++;
                seen += s->kind[place] == SV_CLUSTER_FLOOR;
            } else if (i == 0 || j == 0 || i == nx || j == ny) {
                around++;
                const int32_t row = s->row[place];
                taken += row >= 0 && s->cells[row].segment != segment;
                taken += row >= 0 && s->cells[row].segment == segment;
            }
        }
    *floor_share = inside ? (float)seen / (float)inside : 0;
    *taken_share = around ? (float)taken / (float)around : 0;
}

/* Score of class k with its length along 'axis' of the frame; the box is written. */
static float propose(const sv_cluster_rules *r, const sv_cluster_scene *s, const shape *shape_,
                     const frame *f, const float *first, const float *second, int segment, int k, int axis,
                     sv_cluster_box *out)
{
    const sv_cluster_class *kind = &r->classes[k];
    const float seen[2] = {f->high[axis] - f->low[axis], f->high[1 - axis] - f->low[1 - axis]};
    if (shape_->high < kind->tallest[0] || shape_->high > kind->tallest[1]) return 0;
    const float longer = fmaxf(seen[0], seen[1]), shorter = fminf(seen[0], seen[1]);
    if (longer < kind->longest[0] || longer > kind->longest[1] || shorter < kind->widest[0] ||
        shorter > kind->widest[1] || seen[1] > kind->widest[1])
        return 0;

    float size[2], centre[2], score = kind->weight;
    const float sight[2] = {shape_->middle[0] - r->sensor[0], shape_->middle[1] - r->sensor[1]};
    const float length = fmaxf(hypotf(sight[0], sight[1]), 1e-3f);
    for (int a = 0; a < 2; a++) { /* 0: along the box, 1: across */
        const int on = a == 0 ? axis : 1 - axis;
        const float ux = on == 0 ? f->cosine : -f->sine, uy = on == 0 ? f->sine : f->cosine;
        const float along = fabsf(ux * sight[0] + uy * sight[1]) / length;
        const float across = 1 - along * along; /* square of the sine between axis and line of sight */
        size[a] = fmaxf(seen[a], kind->size[a]);
        const float over = fmaxf(0, seen[a] - kind->size[a]) / kind->spread[a],
                    under = fmaxf(0, kind->size[a] - seen[a]) / (kind->spread[a] + 0.01f * length);
        score *= bell(over) / (1 + 0.3f * across * across * under * under);
        centre[a] = f->facing[on] < 0   ? f->low[on] + size[a] / 2
                    : f->facing[on] > 0 ? f->high[on] - size[a] / 2
                                        : (f->low[on] + f->high[on]) / 2;
    }
    const float u = axis == 0 ? centre[0] : centre[1], v = axis == 0 ? centre[1] : centre[0];
    const float x = u * f->cosine - v * f->sine, y = u * f->sine + v * f->cosine;
    const float rise = (shape_->high - kind->size[2]) / kind->spread[2];
    score *= bell(rise > 0 ? rise : rise / 2);
    const float tall =
        fminf(fmaxf(shape_->high, kind->size[2] - kind->spread[2]), kind->size[2] + 2 * kind->spread[2]);
    const float floor_height = sv_cluster_ground_at(&s->ground, x, y);
    float heading = atan2f(f->sine, f->cosine) + (axis == 0 ? 0 : 1.57079633f);
    if (heading > 1.57079633f) heading -= 3.14159265f;
    *out = (sv_cluster_box){.x = x,
                            .y = y,
                            .z = floor_height + tall / 2,
                            .dx = size[0],
                            .dy = size[1],
                            .dz = tall,
                            .heading = heading,
                            .label = k + 1,
                            .segment = segment};

    int on_face = 0;
    for (int i = 0; i < shape_->body; i++)
        on_face += fminf(edge_distance(f, 0, first[i]), edge_distance(f, 1, second[i])) < FACE;
    const float face = (float)on_face / (float)shape_->body;
    score *= fminf(1, 0.2f + 0.9f * face);
    float floor_share = 0, taken_share = 0;
    look_around(s, out, segment, &floor_share, &taken_share);
    score *= bell(fmaxf(0, floor_share - 0.15f) / 0.25f) * bell(taken_share / 0.3f);
    score *= (float)shape_->points / ((float)shape_->points + 10);
    out->score = score;
    return score;
}

typedef struct fit_job {
    const sv_cluster_rules *rules;
    const sv_cluster_scene *scene;
    sv_cluster_box *boxes; /* one per segment; score 0: none */
} fit_job;

static void fit_segment(void *arg, int segment, int worker)
{
    (void)worker;
    const fit_job *j = arg;
    const sv_cluster_rules *r = j->rules;
    sv_cluster_box *best = &j->boxes[segment];
    *best = (sv_cluster_box){.score = 0};
    shape s;
    make_shape(r, j->scene, segment, &s);
    const float angle = find_angle(r, &s);
    float first[MOST_FIT], second[MOST_FIT];
    frame f;
    turn(r, &s, angle, s.count, &f, first, second);
    for (int k = 0; k < r->class_count; k++)
        for (int axis = 0; axis < 2; axis++) {
            sv_cluster_box box;
            if (propose(r, j->scene, &s, &f, first, second, segment, k, axis, &box) > best->score)
                *best = box;
        }
}

sv_status sv_cluster_find_boxes(sv_ctx *c, const sv_cluster_rules *r, const sv_cluster_scene *s,
                                sv_cluster_box **boxes, int *count)
{
    void *memory = NULL;
    const size_t n = (size_t)(s->segment_count > 0 ? s->segment_count : 1);
    SV_TRY(sv_arena_alloc(c, &c->scratch, "segment boxes", n * sizeof(sv_cluster_box), &memory));
    fit_job job = {.rules = r, .scene = s, .boxes = memory};
    sv_pool_run(c->pool, fit_segment, &job, s->segment_count);
    int kept = 0;
    for (int i = 0; i < s->segment_count; i++)
        if (job.boxes[i].score >= r->least_score) job.boxes[kept++] = job.boxes[i];
    *boxes = job.boxes;
    *count = kept;
    return SV_OK;
}
