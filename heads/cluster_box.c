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
 *   size      the usual deviations by which what was seen exceeds the class
 *   height    the same for its top
 *   outline   the box is as wide for the sensor as what it saw, unless something hid the rest
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
    float x[MOST_FIT], y[MOST_FIT], top[MOST_FIT];
    int points;
    bool cut;                   /* the uppermost rays end in it: it may be higher */
    float high;                 /* top of the segment */
    float middle[2];            /* mean of the columns */
    int body;                   /* the first so many columns begin low: side, not roof */
    float range;                /* of the middle from the sensor */
    float ray[SV_CLUSTER_RAYS]; /* where the rays end in it; 1e9: elsewhere */
    float
        span[2]; /* least and greatest angle at which the sensor sees it, from the direction of the middle */
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
        out->high = greater(out->high, cell->high);
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
                out->top[out->count] = column->high;
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
    const float mx = out->middle[0] - r->sensor[0], my = out->middle[1] - r->sensor[1];
    out->range = hypotf(mx, my);
    const float sight = r->sensor[2] + s->ceiling * out->range -
                        sv_cluster_ground_at(&s->ground, out->middle[0], out->middle[1]);
    out->cut = out->high > sight - 0.2f;
    for (int i = 0; i < SV_CLUSTER_RAYS; i++) out->ray[i] = 1e9f;
    for (int i = 0; i < out->count; i++) {
        const float x_ = out->x[i] - r->sensor[0], y_ = out->y[i] - r->sensor[1];
        const float range = hypotf(x_, y_), width = s->cell / 8 / greater(range, s->cell);
        const int first = sv_cluster_ray(x_, y_), half = 1 + (int)(width * (SV_CLUSTER_RAYS / 6.2831853f));
        for (int k = -half; k <= half; k++) {
            float *ray = &out->ray[(first + k + SV_CLUSTER_RAYS) % SV_CLUSTER_RAYS];
            if (range < *ray) *ray = range;
        }
    }
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

/* The same without the outermost 'left_out' values at either end: mirrors, antennas, what merely touches. */
static void inner_limits(const float *v, int count, int left_out, float *low, float *high)
{
    enum { MOST = 10 };
    float least[MOST + 1], most[MOST + 1];
    if (left_out > MOST) left_out = MOST;
    for (int k = 0; k <= left_out; k++) least[k] = 1e9f, most[k] = -1e9f;
    for (int i = 0; i < count; i++) {
        float a = v[i], b = v[i];
        for (int k = 0; k <= left_out;
             k++) { /* kept in order: what is pushed out goes on to the next place */
            const float la = lesser(least[k], a), mb = greater(most[k], b);
            a = greater(least[k], a);
            b = lesser(most[k], b);
            least[k] = la;
            most[k] = mb;
        }
    }
    *low = least[left_out];
    *high = most[left_out];
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

/* Direction of the greatest spread of the columns: for what has no sides. */
static float main_axis(const shape *s)
{
    double xx = 0, xy = 0, yy = 0;
    for (int i = 0; i < s->count; i++) {
        const double x = (double)(s->x[i] - s->middle[0]), y = (double)(s->y[i] - s->middle[1]);
        xx += x * x, xy += x * y, yy += y * y;
    }
    return (float)(0.5 * atan2(2 * xy, xx - yy));
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

/* Angles at which the sensor sees the outermost corners, from the direction of the middle. */
static void span_of(const sv_cluster_rules *r, const shape *s, const sv_cluster_box *b, float span[2])
{
    const float mx = s->middle[0] - r->sensor[0], my = s->middle[1] - r->sensor[1];
    const float cosine = cosf(b->heading), sine = sinf(b->heading);
    span[0] = 10, span[1] = -10;
    for (int i = 0; i < 4; i++) {
        const float u = (i & 1 ? 0.5f : -0.5f) * b->dx, v = (i & 2 ? 0.5f : -0.5f) * b->dy;
        const float x = b->x + u * cosine - v * sine - r->sensor[0],
                    y = b->y + u * sine + v * cosine - r->sensor[1];
        const float angle = atan2f(mx * y - my * x, mx * x + my * y);
        span[0] = lesser(span[0], angle);
        span[1] = greater(span[1], angle);
    }
}

/*
 * Share of the rays through the box that end at its near side. Rays that do not end in the segment speak against the box
 * only if they went on and met something low behind it: others were stopped before, or show nothing at all (the border of a
 * cropped scan).
 */
static float share_of_rays(const sv_cluster_rules *r, const sv_cluster_scene *s, const shape *seen,
                           const sv_cluster_box *b, bool solid, float *visible)
{
    float span[2];
    span_of(r, seen, b, span);
    const float cosine = cosf(b->heading), sine = sinf(b->heading);
    const float dx = r->sensor[0] - b->x, dy = r->sensor[1] - b->y;
    const float from[2] = {dx * cosine + dy * sine, dy * cosine - dx * sine},
                half[2] = {b->dx / 2, b->dy / 2};
    const float direction = atan2f(seen->middle[1] - r->sensor[1], seen->middle[0] - r->sensor[0]);
    const float step = 6.2831853f / SV_CLUSTER_RAYS;
    float good = 0, bad = 0, all = 0;
    int count = (int)((span[1] - span[0]) / step);
    if (count > SV_CLUSTER_RAYS / 2) count = SV_CLUSTER_RAYS / 2; /* the sensor is within */
    for (int i = 0; i <= count; i++) {
        const float angle =
            direction + span[0] + (span[1] - span[0]) * ((float)i + 0.5f) / (float)(count + 1);
        const float rx = cosf(angle), ry = sinf(angle);
        const float way[2] = {rx * cosine + ry * sine, ry * cosine - rx * sine};
        float in = 0, out = 1e9f;
        for (int a = 0; a < 2; a++) {
            const float inverse = 1 / (fabsf(way[a]) > 1e-6f ? way[a] : 1e-6f);
            const float t0 = (-half[a] - from[a]) * inverse, t1 = (half[a] - from[a]) * inverse;
            in = greater(in, lesser(t0, t1));
            out = lesser(out, greater(t0, t1));
        }
        if (in >= out) continue;
        all += 1;
        const int ray = sv_cluster_ray(rx, ry);
        const float end = seen->ray[ray];
        if (end < (solid ? in + 0.5f : out))
            good += 1;
        else if (end < 1e9f)
            bad += 0.5f;
        else if (s->farthest[ray] > out)
            bad += 1;
    }
    *visible = all > 0 ? good / all : 0;
    return good + bad > 0 ? good / (good + bad) : 0;
}

/* Share of the columns that the box holds, a margin added. */
static float share_inside(const shape *s, const sv_cluster_box *b)
{
    const float cosine = cosf(b->heading), sine = sinf(b->heading);
    const float u_most = b->dx / 2 + 0.15f, v_most = b->dy / 2 + 0.15f;
    int inside = 0;
    for (int i = 0; i < s->count; i++) {
        const float x = s->x[i] - b->x, y = s->y[i] - b->y;
        inside += fabsf(x * cosine + y * sine) < u_most && fabsf(y * cosine - x * sine) < v_most;
    }
    return (float)inside / (float)s->count;
}

/* Longer side of what reaches into the upper third. */
static float upper_extent(const shape *s, const float *first, const float *second)
{
    float low[2] = {1e9f, 1e9f}, high[2] = {-1e9f, -1e9f};
    for (int i = 0; i < s->count; i++) {
        if (s->top[i] < 0.7f * s->high) continue;
        low[0] = lesser(low[0], first[i]), high[0] = greater(high[0], first[i]);
        low[1] = lesser(low[1], second[i]), high[1] = greater(high[1], second[i]);
    }
    return greater(high[0] - low[0], high[1] - low[1]);
}

/* Score of class k with its length along 'axis' of the frame; the box is written. */
static float propose(const sv_cluster_rules *r, const sv_cluster_scene *s, const shape *shape_,
                     const frame *f, const float *first, const float *second, int segment, int k, int axis,
                     sv_cluster_box *out)
{
    const sv_cluster_class *kind = &r->classes[k];
    const float seen[2] = {f->high[axis] - f->low[axis], f->high[1 - axis] - f->low[1 - axis]};
    const float high = shape_->cut ? greater(shape_->high, kind->size[2]) : shape_->high;
    if (high < kind->tallest[0] || high > kind->tallest[1]) return 0;
    const float longer = greater(seen[0], seen[1]), shorter = lesser(seen[0], seen[1]);
    if (longer < kind->longest[0] || longer > kind->longest[1] || shorter < kind->widest[0] ||
        shorter > kind->widest[1] || seen[1] > kind->widest[1])
        return 0;

    float size[2], centre[2], score = kind->weight;
    const float upper = upper_extent(shape_, first, second);
    score *= bell(greater(greater(kind->upper[0] - upper, upper - kind->upper[1]), 0) / 0.2f);
    for (int a = 0; a < 2; a++) { /* 0: along the box, 1: across */
        const int on = a == 0 ? axis : 1 - axis;
        size[a] = greater(seen[a], kind->size[a]);
        score *= bell((size[a] - kind->size[a]) / kind->spread[a]);
        /* the far side of a body is hidden; of what is no more than a person on a bicycle it is seen */
        const int facing = kind->face > 0 ? f->facing[on] : 0;
        centre[a] = facing < 0   ? f->low[on] + size[a] / 2
                    : facing > 0 ? f->high[on] - size[a] / 2
                                 : (f->low[on] + f->high[on]) / 2;
    }
    const float u = axis == 0 ? centre[0] : centre[1], v = axis == 0 ? centre[1] : centre[0];
    const float x = u * f->cosine - v * f->sine, y = u * f->sine + v * f->cosine;
    /* the uppermost ray passes below the top, the more so the farther away */
    const float rise = high - kind->size[2];
    score *= bell(rise / (rise > 0 ? kind->spread[2] : kind->spread[2] + 0.007f * shape_->range));
    const float tall =
        lesser(greater(high, kind->size[2] - kind->spread[2]), kind->size[2] + 2 * kind->spread[2]);
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
    float visible = 0;
    const float rays = share_of_rays(r, s, shape_, out, kind->face > 0, &visible);
    score *= bell((1 - rays) / (kind->face > 0 ? 0.3f : 0.45f)) * sqrtf(visible) *
             bell((1 - share_inside(shape_, out)) / 0.15f);
    int on_face = 0;
    for (int i = 0; i < shape_->body; i++)
        on_face += lesser(edge_distance(f, 0, first[i]), edge_distance(f, 1, second[i])) < FACE;
    const float face = (float)on_face / (float)shape_->body;
    if (kind->face > 0) score *= lesser(1, 0.2f + 0.8f * face / kind->face);
    float floor_share = 0, taken_share = 0;
    look_around(s, out, segment, &floor_share, &taken_share);
    score *= bell(greater(0, floor_share - 0.15f) / 0.25f) * bell(taken_share / 0.3f);
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
    /* along its sides for classes that have such, along its main axis for the others */
    const float angle[2] = {find_angle(r, &s), main_axis(&s)};
    float first[MOST_FIT], second[MOST_FIT];
    frame f;
    for (int way = 0; way < 2; way++) {
        turn(r, &s, angle[way], s.count, &f, first, second);
        const int stray = s.count / (way ? 70 : 40);
        inner_limits(first, s.count, stray, &f.low[0], &f.high[0]);
        inner_limits(second, s.count, stray, &f.low[1], &f.high[1]);
        for (int k = 0; k < r->class_count; k++) {
            if ((r->classes[k].face > 0) != (way == 0)) continue;
            for (int axis = 0; axis < 2; axis++) {
                sv_cluster_box box;
                if (propose(r, j->scene, &s, &f, first, second, segment, k, axis, &box) > best->score)
                    *best = box;
            }
        }
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
