/* SPDX-License-Identifier: Apache-2.0
 *
 * Rules of the official metrics library (waymo_open_dataset/metrics, with the configuration of
 * compute_detection_metrics_main):
 *
 * - Labels without points are out. LEVEL_2 are those that people marked so, or, unmarked, with five points or
 *   less; the others are LEVEL_1.
 * - A breakdown is a class, or a class in a range of the centre's distance in space; labels and detections go
 *   to ranges independently of each other.
 * - IoU in space: the overlap seen from above, times that of the heights; rounded to a float
 *   (waymo_overlap.h). A match needs 0.7 (vehicles) or 0.5.
 * - At each of 101 cutoffs the detections with at least that score are matched anew with the labels, so that
 *   the sum of round(1e6 IoU) is largest (Hungarian algorithm); scores play no part in it.
 * - Matched detections are found, whatever the level of their label; unmatched ones are false unless they
 *   overlap a no-label zone; unmatched labels of the level or below are missed.
 * - AP is the area under the curve of precision and recall, in floats; see average_precision().
 *
 * Every matching anew would be most of the work. Instead detections join one by one, the best score first.
 * The new best matching differs from the old one by a single alternating path that begins at the newcomer
 * (every other change would have made the old one better), so one search for the best such path keeps the
 * matching optimal, and all 101 cutoffs cost as much as one. Where several matchings have the same sum, the
 * official algorithm takes detections and labels that come first; a small bonus for low numbers does the same
 * for boxes that stand twice.
 */
#include "waymo_eval.h"

#include "waymo_overlap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BREAKDOWNS = SV_WAYMO_CLASSES * SV_WAYMO_RANGES, CHUNK = 128, EASY_POINTS = 5 };
enum { BONUS_BITS = 12, BONUS_MOST = (1 << BONUS_BITS) - 1, WEIGHT_SHIFT = 36 };
static const double pi = 3.14159265358979323846;

const char *const sv_waymo_range_names[SV_WAYMO_RANGES] = {"", "[0, 30)", "[30, 50)", "[50, inf)"};

float sv_waymo_cutoff(int k)
{
    return k == SV_WAYMO_CUTOFFS - 1 ? 1.0f : (float)(k * 0.01);
}

float sv_waymo_min_overlap(int waymo_class)
{
    return waymo_class == 0 ? 0.7f : 0.5f;
}

/* ---- overlaps ----------------------------------------------------------------------------------------- */

typedef struct shape {
    sv_waymo_quad from_above;
    double x, y;
    double low, high, volume, reach;
    bool flat; /* too small or too large to overlap anything */
} shape;

static shape shape_of(const sv_waymo_object *o)
{
    const double least = 1e-2, most = 1e6;
    shape s = {.from_above = sv_waymo_quad_make(o->x, o->y, o->length, o->width, o->heading),
               .x = o->x,
               .y = o->y,
               .low = o->z - o->height * 0.5,
               .high = o->z + o->height * 0.5,
               .volume = o->length * o->width * o->height};
    s.flat = !(o->length > least && o->width > least && o->height > least && o->length < most &&
               o->width < most && o->height < most);
    s.reach = 0.5 * sqrt(o->length * o->length + o->width * o->width);
    return s;
}

static float overlap(const shape *a, const shape *b)
{
    const double low = fmax(a->low, b->low), high = fmin(a->high, b->high);
    const double x = a->x - b->x, y = a->y - b->y, reach = a->reach + b->reach;
    if (a->flat || b->flat || high < low || x * x + y * y > reach * reach * (1 + 1e-9)) return 0;
    const double both = sv_waymo_shared_area(&a->from_above, &b->from_above) * (high - low);
    const double either = a->volume + b->volume - both;
    if (either <= 1e-6) return 0;
    return (float)fmax(fmin(both / either, 1.0), 0.0);
}

/* Angle in [-pi, pi) by the official steps, then as a float. */
static float heading_of(double angle)
{
    const double round = 2 * pi, shifted = angle + pi;
    const double rest = shifted - trunc(shifted * (1 / round)) * round, up = round + rest;
    return (float)((rest >= 0 ? rest : up >= round ? 0 : up) - pi);
}

static float heading_accuracy(float a, float b)
{
    float d = fabsf(a - b);
    if ((double)d > pi) d = (float)(2.0 * pi - (double)d);
    return (float)fmin(1.0, fmax(0.0, 1.0 - (double)d / pi));
}

/* ---- matching ----------------------------------------------------------------------------------------- */

typedef struct edge {
    int label;
    int64_t weight; /* round(1e6 IoU) << WEIGHT_SHIFT, plus the bonus */
} edge;

/* One class of a frame: its detections and labels, in the frame's order. */
typedef struct box {
    const sv_waymo_object *object;
    shape shape;
    float heading;
    int range, level;      /* range 1..3 */
    int first_edge, edges; /* of a detection */
    int partner;           /* the matching */
} box;

/* Of a worker; grows. */
typedef struct workspace {
    box *detections, *labels;
    int *order, *queue, *reached_from;
    int64_t *gain; /* best sum of a path that ends at a label */
    bool *queued, *touched, *in;
    edge *edge;
    int detection_room, label_room, edge_room, edge_count;
    bool failed;
} workspace;

static void free_workspace(workspace *w)
{
    free(w->detections);
    free(w->labels);
    free(w->order);
    free(w->queue);
    free(w->reached_from);
    free(w->gain);
    free(w->queued);
    free(w->touched);
    free(w->in);
    free(w->edge);
    *w = (workspace){0};
}

static bool enlarge(void *array, size_t size, int count)
{
    void **place = array, *grown = realloc(*place, size * (size_t)count);
    if (grown) *place = grown;
    return grown != NULL;
}

static bool make_room(workspace *w, int detections, int labels)
{
    if (detections > w->detection_room) {
        const int n = 2 * detections;
        if (!enlarge(&w->detections, sizeof *w->detections, n) || !enlarge(&w->order, sizeof *w->order, n) ||
            !enlarge(&w->in, sizeof *w->in, n))
            return false;
        w->detection_room = n;
    }
    if (labels > w->label_room) {
        const int n = 2 * labels;
        if (!enlarge(&w->labels, sizeof *w->labels, n) || !enlarge(&w->queue, sizeof *w->queue, n) ||
            !enlarge(&w->reached_from, sizeof *w->reached_from, n) ||
            !enlarge(&w->gain, sizeof *w->gain, n) || !enlarge(&w->queued, sizeof *w->queued, n) ||
            !enlarge(&w->touched, sizeof *w->touched, n))
            return false;
        w->label_room = n;
    }
    return true;
}

static bool find_edges(workspace *w, int detections, int labels, float least)
{
    w->edge_count = 0;
    for (int i = 0; i < detections; i++) {
        box *d = &w->detections[i];
        d->first_edge = w->edge_count;
        for (int j = 0; j < labels; j++) {
            const float iou = overlap(&d->shape, &w->labels[j].shape);
            if (!(iou >= least)) continue;
            if (w->edge_count == w->edge_room) {
                const int room = w->edge_room ? 2 * w->edge_room : 256;
                if (!enlarge(&w->edge, sizeof *w->edge, room)) return false;
                w->edge_room = room;
            }
            const int64_t bonus = (int64_t)(BONUS_MOST - (i < BONUS_MOST ? i : BONUS_MOST)) << BONUS_BITS |
                                  (BONUS_MOST - (j < BONUS_MOST ? j : BONUS_MOST));
            const int64_t whole = (int64_t)roundf(iou * 1e6f);
            w->edge[w->edge_count++] = (edge){j, (whole << WEIGHT_SHIFT) + bonus};
        }
        d->edges = w->edge_count - d->first_edge;
    }
    return true;
}

static int64_t weight_of(const workspace *w, int detection, int label)
{
    const box *d = &w->detections[detection];
    const edge *e = w->edge + d->first_edge;
    while (e->label != label) e++;
    return e->weight;
}

/*
 * A detection joins: the best path  newcomer - label = its detection - label = ...  that ends at a free
 * label,
 * or at a detection that gives its label up. Bellman and Ford's search over labels; there are no profitable
 * cycles, since the matching was optimal.
 */
static void join(workspace *w, int newcomer, int range)
{
    enum { NONE = -1 };
    int first = 0, last = 0, touched = 0, end = NONE;
    bool end_free = false;
    int64_t best = 0;
    int *const queue = w->queue, room = w->label_room;
    const box *n = &w->detections[newcomer];
    /* 'touched' marks labels whose gain is of this search */
    for (int i = 0; i < n->edges; i++) {
        const edge *e = &w->edge[n->first_edge + i];
        if (range && w->labels[e->label].range != range) continue;
        w->gain[e->label] = e->weight;
        w->reached_from[e->label] = newcomer;
        w->touched[e->label] = w->queued[e->label] = true;
        queue[last] = e->label;
        last = last + 1 < room ? last + 1 : 0;
        touched++;
    }
    if (touched == 0) return;
    int waiting = touched;
    for (; waiting > 0; waiting--) {
        const int label = queue[first];
        first = first + 1 < room ? first + 1 : 0;
        w->queued[label] = false;
        const int owner = w->labels[label].partner;
        if (owner == NONE) continue;
        const int64_t before = w->gain[label] - weight_of(w, owner, label);
        const box *o = &w->detections[owner];
        for (int i = 0; i < o->edges; i++) {
            const edge *e = &w->edge[o->first_edge + i];
            if (e->label == label || (range && w->labels[e->label].range != range)) continue;
            const int64_t gain = before + e->weight;
            if (w->touched[e->label] && gain <= w->gain[e->label]) continue;
            w->gain[e->label] = gain;
            w->reached_from[e->label] = owner;
            w->touched[e->label] = true;
            if (w->queued[e->label]) continue;
            w->queued[e->label] = true;
            queue[last] = e->label;
            last = last + 1 < room ? last + 1 : 0;
            waiting++;
        }
    }
    /* the ends, in the order of the labels that can be reached: walked over once more, and forgotten */
    int count = 0;
    for (int i = 0; i < n->edges; i++) {
        const int label = w->edge[n->first_edge + i].label;
        if (w->touched[label]) {
            w->touched[label] = false;
            queue[count++] = label;
        }
    }
    for (int k = 0; k < count; k++) {
        const int label = queue[k], owner = w->labels[label].partner;
        const int64_t gain = w->gain[label] - (owner == NONE ? 0 : weight_of(w, owner, label));
        if (gain > best) {
            best = gain;
            end = label;
            end_free = owner == NONE;
        }
        if (owner == NONE) continue;
        const box *o = &w->detections[owner];
        for (int i = 0; i < o->edges; i++) {
            const int next = w->edge[o->first_edge + i].label;
            if (!w->touched[next]) continue;
            w->touched[next] = false;
            queue[count++] = next;
        }
    }
    if (end == NONE) return;
    if (!end_free) w->detections[w->labels[end].partner].partner = NONE;
    for (int label = end;;) {
        const int owner = w->reached_from[label], old = w->detections[owner].partner;
        w->labels[label].partner = owner;
        w->detections[owner].partner = label;
        if (owner == newcomer) break;
        label = old;
    }
}

/* Scores downwards, the frame's order among equal ones. */
static bool comes_before(const box *p, const box *q)
{
    return p->object->score != q->object->score ? p->object->score > q->object->score : p < q;
}

/* ---- one frame ---------------------------------------------------------------------------------------- */

/* As sv_waymo_counts, of one frame. */
typedef struct counts {
    int32_t found, false_alarms, missed[SV_WAYMO_LEVELS];
    float heading;
} counts;

typedef struct result {
    bool used[BREAKDOWNS];
    counts at[BREAKDOWNS][SV_WAYMO_CUTOFFS];
    int32_t valid[BREAKDOWNS][SV_WAYMO_LEVELS];
    int32_t labels;
} result;

struct sv_waymo_eval {
    sv_waymo_scores scores;
    result *results; /* [CHUNK] */
    workspace *workspaces;
    int workers;
};

static int range_of(const sv_waymo_object *o)
{
    const double distance = sqrt(o->x * o->x + o->y * o->y + o->z * o->z);
    return distance < 30 ? 1 : distance < 50 ? 2 : 3;
}

static bool counts_as_label(const sv_waymo_object *o, int type)
{
    return o->type == type && o->points > 0;
}

/* Boxes of a class; false without memory. */
static bool gather(workspace *w, const sv_waymo_eval_frame *f, int waymo_class, int *detections, int *labels)
{
    const int type = waymo_class + 1;
    *detections = *labels = 0;
    for (int i = 0; i < f->detection_count; i++) *detections += f->detections[i].type == type;
    for (int i = 0; i < f->label_count; i++) *labels += counts_as_label(&f->labels[i], type);
    if (!make_room(w, *detections, *labels)) return false;
    int n = 0, m = 0;
    for (int i = 0; i < f->detection_count; i++) {
        const sv_waymo_object *o = &f->detections[i];
        if (o->type != type) continue;
        w->detections[n++] = (box){.object = o,
                                   .shape = shape_of(o),
                                   .heading = heading_of(o->heading),
                                   .range = range_of(o),
                                   .partner = -1};
    }
    for (int i = 0; i < f->label_count; i++) {
        const sv_waymo_object *o = &f->labels[i];
        if (!counts_as_label(o, type)) continue;
        w->labels[m++] = (box){.object = o,
                               .shape = shape_of(o),
                               .heading = heading_of(o->heading),
                               .range = range_of(o),
                               .level = o->level                   ? o->level
                                        : o->points <= EASY_POINTS ? 2
                                                                   : 1,
                               .partner = -1};
        w->touched[m - 1] = w->queued[m - 1] = false;
    }
    return find_edges(w, n, m, sv_waymo_min_overlap(waymo_class));
}

/* Shell's sort; the order is total, so any sort gives the same. */
static void sort_detections(workspace *w, int count)
{
    for (int i = 0; i < count; i++) w->order[i] = i;
    for (int gap = count / 2; gap > 0; gap /= 2)
        for (int i = gap; i < count; i++) {
            const int moved = w->order[i];
            const box *m = &w->detections[moved];
            int k = i;
            for (; k >= gap; k -= gap) {
                if (comes_before(&w->detections[w->order[k - gap]], m)) break;
                w->order[k] = w->order[k - gap];
            }
            w->order[k] = moved;
        }
}

static counts count_all(const workspace *w, int detections, int labels, int range)
{
    counts n = {0};
    for (int i = 0; i < detections; i++) {
        const box *d = &w->detections[i];
        if (!w->in[i]) continue;
        if (d->partner < 0) {
            n.false_alarms += !d->object->in_zone;
            continue;
        }
        n.found++;
        n.heading += heading_accuracy(d->heading, w->labels[d->partner].heading);
    }
    for (int j = 0; j < labels; j++) {
        const box *l = &w->labels[j];
        if (l->partner >= 0 || (range && l->range != range)) continue;
        n.missed[0] += l->level <= 1;
        n.missed[1]++;
    }
    return n;
}

/* All cutoffs of a class in a range. */
static void judge(workspace *w, int detections, int labels, int range, counts at[SV_WAYMO_CUTOFFS])
{
    int next = 0;
    for (int i = 0; i < detections; i++) {
        w->detections[i].partner = -1;
        w->in[i] = false;
    }
    for (int j = 0; j < labels; j++) w->labels[j].partner = -1;
    counts now = count_all(w, detections, labels, range);
    for (int k = SV_WAYMO_CUTOFFS - 1; k >= 0; k--) {
        const float cutoff = sv_waymo_cutoff(k);
        bool changed = false;
        for (; next < detections; next++) {
            const int i = w->order[next];
            if (!(w->detections[i].object->score >= cutoff)) break;
            if (range && w->detections[i].range != range) continue;
            w->in[i] = changed = true;
            join(w, i, range);
        }
        if (changed) now = count_all(w, detections, labels, range);
        at[k] = now;
    }
}

static void judge_frame(workspace *w, const sv_waymo_eval_frame *f, result *out)
{
    out->labels = 0;
    memset(out->valid, 0, sizeof out->valid);
    for (int k = 0; k < SV_WAYMO_CLASSES; k++) {
        int detections, labels;
        if (!gather(w, f, k, &detections, &labels)) {
            w->failed = true;
            return;
        }
        sort_detections(w, detections);
        out->labels += labels;
        for (int r = 0; r < SV_WAYMO_RANGES; r++) {
            const int b = k * SV_WAYMO_RANGES + r;
            bool any = false;
            for (int j = 0; j < labels; j++) {
                if (r && w->labels[j].range != r) continue;
                any = true;
                out->valid[b][0] += w->labels[j].level <= 1;
                out->valid[b][1]++;
            }
            for (int i = 0; i < detections && !any; i++) any = !r || w->detections[i].range == r;
            out->used[b] = any;
            if (any) judge(w, detections, labels, r, out->at[b]);
        }
    }
}

/* ---- many frames -------------------------------------------------------------------------------------- */

sv_status sv_waymo_eval_open(sv_ctx *c, sv_waymo_eval **out)
{
    sv_waymo_eval *e = calloc(1, sizeof *e);
    *out = e;
    SV_CHECK(c, e, SV_NO_MEMORY, "no memory for the evaluator");
    e->workers = sv_pool_threads(c->pool);
    e->results = malloc(sizeof *e->results * CHUNK);
    e->workspaces = calloc((size_t)e->workers, sizeof *e->workspaces);
    if (e->results && e->workspaces) return SV_OK;
    sv_waymo_eval_close(e);
    *out = NULL;
    return SV_FAIL(c, SV_NO_MEMORY, "no memory for the evaluator");
}

void sv_waymo_eval_close(sv_waymo_eval *e)
{
    if (!e) return;
    for (int i = 0; i < e->workers && e->workspaces; i++) free_workspace(&e->workspaces[i]);
    free(e->workspaces);
    free(e->results);
    free(e);
}

typedef struct job {
    sv_waymo_eval *e;
    const sv_waymo_eval_frame *frames;
} job;

static void run_frame(void *arg, int task, int worker)
{
    const job *j = arg;
    judge_frame(&j->e->workspaces[worker], &j->frames[task], &j->e->results[task]);
}

/* In the order of the frames, since floats are summed as the official program does. */
static void add_result(sv_waymo_eval *e, const result *r)
{
    e->scores.labels += r->labels;
    for (int b = 0; b < BREAKDOWNS; b++) {
        const int k = b / SV_WAYMO_RANGES, range = b % SV_WAYMO_RANGES;
        if (!r->used[b]) continue;
        for (int l = 0; l < SV_WAYMO_LEVELS; l++) e->scores.valid[k][range][l] += r->valid[b][l];
        sv_waymo_counts *sum = e->scores.curve[k][range].at;
        for (int i = 0; i < SV_WAYMO_CUTOFFS; i++) {
            const counts *n = &r->at[b][i];
            sum[i].found += n->found;
            sum[i].false_alarms += n->false_alarms;
            sum[i].missed[0] += n->missed[0];
            sum[i].missed[1] += n->missed[1];
            sum[i].heading += n->heading;
        }
    }
}

sv_status sv_waymo_eval_add(sv_ctx *c, sv_waymo_eval *e, const sv_waymo_eval_frame *frames, int count)
{
    SV_CHECK(c, sv_pool_threads(c->pool) <= e->workers, SV_INTERNAL,
             "the evaluator was opened with fewer threads");
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < frames[i].detection_count; k++)
            SV_CHECK(c, isfinite(frames[i].detections[k].score), SV_BAD_INPUT,
                     "the score of a detection is not finite");
        e->scores.detections += frames[i].detection_count;
    }
    for (int first = 0; first < count; first += CHUNK) {
        const int n = count - first < CHUNK ? count - first : CHUNK;
        job j = {e, frames + first};
        sv_pool_run(c->pool, run_frame, &j, n);
        for (int i = 0; i < e->workers; i++)
            SV_CHECK(c, !e->workspaces[i].failed, SV_NO_MEMORY, "no memory to match detections with labels");
        for (int i = 0; i < n; i++) add_result(e, &e->results[i]);
    }
    e->scores.frames += count;
    return SV_OK;
}

/* ---- average precision -------------------------------------------------------------------------------- */

float sv_waymo_precision(const sv_waymo_counts *n, bool heading)
{
    const int64_t all = n->found + n->false_alarms;
    if (all == 0) return 0;
    return (heading ? n->heading : (float)n->found) / (float)all;
}

float sv_waymo_recall(const sv_waymo_counts *n, int level)
{
    const int64_t all = n->found + n->missed[level];
    return all > 0 ? (float)n->found / (float)all : 0;
}

typedef struct place {
    float recall, precision;
} place;

static int compare_places(const void *a, const void *b)
{
    const float p = ((const place *)a)->recall, q = ((const place *)b)->recall;
    return p > q ? -1 : p < q;
}

/*
 * The best precision at each recall (no recall: 1), and (0, 1) besides. From the largest recall down, the
 * running maximum; gaps of recall above 0.05 are filled in steps of 0.05 with it; the last place, recall 0,
 * takes the precision of the one before. Trapezoids.
 */
static float average_precision(const sv_waymo_counts at[SV_WAYMO_CUTOFFS], int level, bool heading)
{
    enum { MOST = SV_WAYMO_CUTOFFS + 1 + 40 };
    static const float step = 0.05f, slack = 1e-6f;
    place all[SV_WAYMO_CUTOFFS + 1], curve[MOST];
    int count = 0, places = 0;
    for (int i = 0; i < SV_WAYMO_CUTOFFS; i++) {
        const float recall = sv_waymo_recall(&at[i], level);
        all[i] = (place){recall, recall == 0 ? 1 : sv_waymo_precision(&at[i], heading)};
    }
    all[SV_WAYMO_CUTOFFS] = (place){0, 1};
    qsort(all, SV_WAYMO_CUTOFFS + 1, sizeof *all, compare_places);
    float last = 0, best = 0;
    while (count <= SV_WAYMO_CUTOFFS) {
        const float recall = all[count].recall;
        while (last - recall > step + slack && places < MOST - 1) {
            last -= step;
            curve[places++] = (place){last, best};
        }
        for (; count <= SV_WAYMO_CUTOFFS && all[count].recall == recall; count++)
            best = fmaxf(best, all[count].precision);
        if (places < MOST) curve[places++] = (place){recall, best};
        last = recall;
    }
    if (places >= 2) curve[places - 1].precision = curve[places - 2].precision;
    float area = 0;
    for (int i = 1; i < places; i++)
        area = (float)((double)area + 0.5 * (double)(curve[i - 1].recall - curve[i].recall) *
                                          (double)(curve[i - 1].precision + curve[i].precision));
    return area;
}

sv_status sv_waymo_eval_finish(sv_ctx *c, sv_waymo_eval *e, sv_waymo_scores *out)
{
    (void)c;
    *out = e->scores;
    for (int k = 0; k < SV_WAYMO_CLASSES; k++)
        for (int r = 0; r < SV_WAYMO_RANGES; r++)
            for (int l = 0; l < SV_WAYMO_LEVELS; l++) {
                sv_waymo_curve *curve = &out->curve[k][r];
                curve->ap[l] = average_precision(curve->at, l, false);
                curve->aph[l] = average_precision(curve->at, l, true);
            }
    return SV_OK;
}

/* ---- for pictures ------------------------------------------------------------------------------------- */

sv_status sv_waymo_eval_match(sv_ctx *c, const sv_waymo_eval_frame *f, float score, int *partner,
                              bool *label_found)
{
    workspace w = {0};
    bool good = true;
    for (int i = 0; i < f->detection_count; i++) partner[i] = -1;
    for (int j = 0; j < f->label_count; j++) label_found[j] = false;
    for (int k = 0; k < SV_WAYMO_CLASSES && good; k++) {
        int detections, labels;
        good = gather(&w, f, k, &detections, &labels);
        if (!good) break;
        for (int i = 0; i < detections; i++)
            if (w.detections[i].object->score >= score) join(&w, i, 0);
        for (int i = 0; i < detections; i++) {
            const box *d = &w.detections[i];
            if (d->partner < 0) continue;
            const int label = (int)(w.labels[d->partner].object - f->labels);
            partner[d->object - f->detections] = label;
            label_found[label] = true;
        }
    }
    free_workspace(&w);
    SV_CHECK(c, good, SV_NO_MEMORY, "no memory to match detections with labels");
    return SV_OK;
}
