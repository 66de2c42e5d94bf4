/* SPDX-License-Identifier: Apache-2.0
 *
 * A frame is kept as what matching needs: of every label and detection its class and distance, of detections the score,
 * and the pairs that overlap by more than the smallest overlap any class asks for, by label, then detection.
 */
#include "object_eval.h"

#include "perception/geometry/pose.h"
#include "perception/geometry/rotated_iou.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const sv_object_range_names[SV_OBJECT_RANGES] = {"overall", "0-30m", "30-50m", "50m-inf"};

static const double pi = 3.14159265358979323846;

typedef struct thing {
    int kind;
    double distance, score;
} thing;

typedef struct pair {
    int label, detection; /* of the frame */
    double overlap;
} pair;

typedef struct frame {
    size_t first_label, first_detection, first_pair;
    int labels, detections, pairs;
} frame;

struct sv_object_eval {
    sv_object_measure measure;
    double least; /* of the overlaps */
    thing *labels, *detections;
    pair *pairs;
    frame *frames;
    size_t label_count, detection_count, pair_count, frame_count;
    size_t label_room, detection_room, pair_room, frame_room;
};

/* ---- frames ------------------------------------------------------------------------------------------- */

double sv_object_overlap(const sv_object *a, const sv_object *b)
{
    double turned = fabs(a->heading - b->heading);
    if (turned >= pi) turned = 2 * pi - turned;
    if (turned > pi / 2) return 0;
    const double high = fmin(a->z + a->dz / 2, b->z + b->dz / 2),
                 low = fmax(a->z - a->dz / 2, b->z - b->dz / 2);
    if (!(high > low)) return 0;
    const double reach = hypot(a->dx, a->dy) + hypot(b->dx, b->dy), x = a->x - b->x, y = a->y - b->y;
    if (4 * (x * x + y * y) > reach * reach) return 0;
    const sv_rectangle64 p = {a->x, a->y, a->dx, a->dy, cos(a->heading), sin(a->heading)},
                         q = {b->x, b->y, b->dx, b->dy, cos(b->heading), sin(b->heading)};
    const double both = sv_overlap_exact64(&p, &q) * (high - low);
    return both / (a->dx * a->dy * a->dz + b->dx * b->dy * b->dz - both);
}

sv_status sv_object_eval_open(sv_ctx *c, const sv_object_measure *measure, sv_object_eval **out)
{
    *out = NULL;
    sv_object_eval *e = calloc(1, sizeof *e);
    SV_CHECK(c, e, SV_NO_MEMORY, "no memory for the evaluator");
    e->measure = *measure;
    e->least = 1;
    for (int i = 0; i < measure->count; i++) e->least = fmin(e->least, measure->overlaps[i]);
    *out = e;
    return SV_OK;
}

void sv_object_eval_close(sv_object_eval *e)
{
    if (!e) return;
    free(e->labels);
    free(e->detections);
    free(e->pairs);
    free(e->frames);
    free(e);
}

static bool reserve(void *pointer, size_t *room, size_t wanted, size_t size)
{
    void **data = pointer;
    if (wanted <= *room) return true;
    const size_t more = wanted > 2 * *room ? wanted + 64 : 2 * *room;
    void *grown = realloc(*data, more * size);
    if (!grown) return false;
    *data = grown;
    *room = more;
    return true;
}

static sv_status check(sv_ctx *c, const char *name, const char *what, const sv_object *o, int number)
{
    const double values[8] = {o->x, o->y, o->z, o->dx, o->dy, o->dz, o->heading, o->score};
    for (int i = 0; i < 8; i++)
        SV_CHECK(c, isfinite(values[i]), SV_BAD_INPUT, "%s: %s %d has a value that is not finite", name, what,
                 number);
    return SV_OK;
}

/* What has a class of the measure, and where it was among 'objects'. */
static int keep(const sv_object *objects, int count, thing *to, int *places)
{
    int kept = 0;
    for (int i = 0; i < count; i++) {
        const sv_object *o = &objects[i];
        if (o->kind < 0) continue;
        to[kept] = (thing){o->kind, sqrt(o->x * o->x + o->y * o->y + o->z * o->z), o->score};
        places[kept++] = i;
    }
    return kept;
}

static sv_status add_pairs(sv_ctx *c, sv_object_eval *e, frame *f, const sv_object *labels,
                           const int *label_places, const sv_object *detections, const int *detection_places)
{
    for (int i = 0; i < f->labels; i++)
        for (int j = 0; j < f->detections; j++) {
            const double overlap =
                sv_object_overlap(&labels[label_places[i]], &detections[detection_places[j]]);
            if (!(overlap > e->least)) continue;
            SV_CHECK(c, reserve(&e->pairs, &e->pair_room, e->pair_count + 1, sizeof *e->pairs), SV_NO_MEMORY,
                     "no memory for %zu overlaps", e->pair_count + 1);
            e->pairs[e->pair_count++] = (pair){i, j, overlap};
            f->pairs++;
        }
    return SV_OK;
}

sv_status sv_object_eval_add(sv_ctx *c, sv_object_eval *e, const char *name, const sv_object *labels,
                             int label_count, const sv_object *detections, int detection_count)
{
    SV_CHECK(c, label_count <= SV_OBJECT_MOST && detection_count <= SV_OBJECT_MOST, SV_BAD_INPUT,
             "%s: %d labels and %d detections: more than %d are not scored", name, label_count,
             detection_count, SV_OBJECT_MOST);
    for (int i = 0; i < label_count; i++) SV_TRY(check(c, name, "label", &labels[i], i));
    for (int i = 0; i < detection_count; i++) SV_TRY(check(c, name, "detection", &detections[i], i));
    const size_t most_labels = e->label_count + (size_t)label_count,
                 most_detections = e->detection_count + (size_t)detection_count;
    int *places = malloc(sizeof *places * (size_t)(label_count + detection_count + 1));
    const bool room = places && reserve(&e->labels, &e->label_room, most_labels, sizeof *e->labels) &&
                      reserve(&e->detections, &e->detection_room, most_detections, sizeof *e->detections) &&
                      reserve(&e->frames, &e->frame_room, e->frame_count + 1, sizeof *e->frames);
    sv_status status = room ? SV_OK : SV_FAIL(c, SV_NO_MEMORY, "%s: no memory to score it", name);
    if (status == SV_OK) {
        frame f = {.first_label = e->label_count,
                   .first_detection = e->detection_count,
                   .first_pair = e->pair_count};
        f.labels = keep(labels, label_count, e->labels + e->label_count, places);
        f.detections =
            keep(detections, detection_count, e->detections + e->detection_count, places + label_count);
        status = add_pairs(c, e, &f, labels, places, detections, places + label_count);
        e->frames[e->frame_count++] = f;
        e->label_count += (size_t)f.labels;
        e->detection_count += (size_t)f.detections;
    }
    free(places);
    return status;
}

/* ---- one class in one range --------------------------------------------------------------------------- */

enum { OTHER = -1, COUNTS = 0, IGNORED = 1 };

static bool in_range(double distance, int range)
{
    switch (range) {
    case 0:
        return true;
    case 1:
        return distance < 30;
    case 2:
        return distance >= 30 && distance < 50;
    default:
        return distance >= 50;
    }
}

/* Outside the range everything is ignored, other classes too. */
static int role(const thing *t, int kind, int range)
{
    return !in_range(t->distance, range) ? IGNORED : t->kind == kind ? COUNTS : OTHER;
}

typedef struct task {
    const sv_object_eval *e;
    int kind, range;
    double overlap;
    bool *taken;    /* detections of a frame */
    int *matches;   /* of the frame's labels: their detection; NULL: nobody asks */
    double *scores; /* of true matches */
    size_t score_count;
} task;

/* Pass 1: the scores that true matches have. */
static void collect_scores(task *t, const frame *f)
{
    const thing *labels = t->e->labels + f->first_label, *detections = t->e->detections + f->first_detection;
    const pair *pairs = t->e->pairs + f->first_pair;
    memset(t->taken, 0, (size_t)f->detections);
    for (int p = 0; p < f->pairs;) {
        const int label = pairs[p].label, own = role(&labels[label], t->kind, t->range);
        int best = -1;
        for (; p < f->pairs && pairs[p].label == label; p++) {
            const int j = pairs[p].detection;
            if (own == OTHER || t->taken[j] || !(pairs[p].overlap > t->overlap) ||
                role(&detections[j], t->kind, t->range) == OTHER)
                continue;
            if (detections[j].score > (best < 0 ? -1 : detections[best].score)) best = j;
        }
        if (best < 0) continue;
        t->taken[best] = true;
        if (own == COUNTS && role(&detections[best], t->kind, t->range) == COUNTS)
            t->scores[t->score_count++] = detections[best].score;
    }
}

/* Pass 2 at one threshold. */
static void count_matches(task *t, const frame *f, double threshold, int64_t *right, int64_t *wrong)
{
    const thing *labels = t->e->labels + f->first_label, *detections = t->e->detections + f->first_detection;
    const pair *pairs = t->e->pairs + f->first_pair;
    memset(t->taken, 0, (size_t)f->detections);
    for (int p = 0; p < f->pairs;) {
        const int label = pairs[p].label, own = role(&labels[label], t->kind, t->range);
        int best = -1;
        double largest = 0;
        bool best_ignored = false;
        for (; p < f->pairs && pairs[p].label == label; p++) {
            const int j = pairs[p].detection, its = role(&detections[j], t->kind, t->range);
            if (own == OTHER || its == OTHER || t->taken[j] || detections[j].score < threshold ||
                !(pairs[p].overlap > t->overlap))
                continue;
            if (its == COUNTS && (pairs[p].overlap > largest || best_ignored)) {
                largest = pairs[p].overlap;
                best = j;
                best_ignored = false;
            } else if (its == IGNORED && best < 0) {
                best = j;
                best_ignored = true;
            }
        }
        if (best < 0) continue;
        t->taken[best] = true;
        *right += own == COUNTS && !best_ignored;
        if (t->matches) t->matches[label] = best;
    }
    for (int j = 0; j < f->detections; j++)
        *wrong += !t->taken[j] && detections[j].score >= threshold &&
                  role(&detections[j], t->kind, t->range) == COUNTS;
}

static int descending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x > y ? -1 : x < y;
}

/* Scores at steps of recall; the same score may be taken for several. */
static int sample_thresholds(const double *scores, size_t count, int64_t labels, double out[SV_OBJECT_POINTS])
{
    const double step = 1.0 / (SV_OBJECT_POINTS - 1);
    double level = 0;
    int taken = 0;
    for (size_t i = 0; i < count; i++) {
        const double left = (double)(i + 1) / (double)labels,
                     right = i + 1 < count ? (double)(i + 2) / (double)labels : left;
        if (right + left < 2 * level && i + 1 < count) continue;
        if (taken < SV_OBJECT_POINTS) out[taken++] = scores[i];
        level += step;
        while (right + left + 1e-6 > 2 * level) {
            if (taken < SV_OBJECT_POINTS) out[taken++] = scores[i];
            level += step;
        }
    }
    return taken;
}

static void score(task *t, sv_object_curve *out)
{
    const sv_object_eval *e = t->e;
    *out = (sv_object_curve){0};
    for (size_t i = 0; i < e->label_count; i++)
        out->labels += role(&e->labels[i], t->kind, t->range) == COUNTS;
    for (size_t i = 0; i < e->detection_count; i++)
        out->detections += role(&e->detections[i], t->kind, t->range) == COUNTS;
    for (size_t i = 0; i < e->frame_count; i++) collect_scores(t, &e->frames[i]);
    qsort(t->scores, t->score_count, sizeof *t->scores, descending);
    out->points = sample_thresholds(t->scores, t->score_count, out->labels, out->threshold);
    for (int k = 0; k < out->points; k++) {
        int64_t right = 0, wrong = 0;
        if (k > 0 && out->threshold[k] == out->threshold[k - 1]) {
            out->precision[k] = out->precision[k - 1];
            out->recall[k] = out->recall[k - 1];
            continue;
        }
        for (size_t i = 0; i < e->frame_count; i++)
            count_matches(t, &e->frames[i], out->threshold[k], &right, &wrong);
        out->precision[k] = right + wrong > 0 ? (double)right / (double)(right + wrong) : 0;
        out->recall[k] = out->labels > 0 ? (double)right / (double)out->labels : 0;
    }
    for (int k = out->points - 2; k >= 0; k--) {
        out->precision[k] = fmax(out->precision[k], out->precision[k + 1]);
        out->recall[k] = fmax(out->recall[k], out->recall[k + 1]);
    }
    double sum = 0;
    for (int k = 1; k < SV_OBJECT_POINTS; k++) sum += out->precision[k];
    out->ap = sum / (SV_OBJECT_POINTS - 1) * 100;
}

/* ---- all of them -------------------------------------------------------------------------------------- */

typedef struct scoring {
    const sv_object_eval *e;
    sv_object_scores *out;
    bool failed; /* set by any task, never taken back */
} scoring;

static void run_task(void *arg, int number, int worker)
{
    (void)worker;
    scoring *s = arg;
    const sv_object_eval *e = s->e;
    size_t most = 1;
    for (size_t i = 0; i < e->frame_count; i++)
        if ((size_t)e->frames[i].detections > most) most = (size_t)e->frames[i].detections;
    task t = {.e = e,
              .kind = number / SV_OBJECT_RANGES,
              .range = number % SV_OBJECT_RANGES,
              .taken = malloc(most * sizeof *t.taken),
              .scores = malloc((e->label_count + 1) * sizeof *t.scores)};
    t.overlap = e->measure.overlaps[t.kind];
    if (t.taken && t.scores)
        score(&t, &s->out->curve[t.kind][t.range]);
    else
        __atomic_store_n(&s->failed, true, __ATOMIC_RELAXED);
    free(t.taken);
    free(t.scores);
}

sv_status sv_object_eval_finish(sv_ctx *c, const sv_object_eval *e, sv_object_scores *out)
{
    *out = (sv_object_scores){.frames = (int64_t)e->frame_count,
                              .labels = (int64_t)e->label_count,
                              .detections = (int64_t)e->detection_count};
    scoring s = {e, out, false};
    sv_pool_run(c->pool, run_task, &s, e->measure.count * SV_OBJECT_RANGES);
    SV_CHECK(c, !s.failed, SV_NO_MEMORY, "no memory to score %zu frames", e->frame_count);
    for (int range = 0; range < SV_OBJECT_RANGES; range++) {
        double sum = 0;
        for (int k = 0; k < e->measure.count; k++) sum += out->curve[k][range].ap;
        out->mean[range] = e->measure.count > 0 ? sum / e->measure.count : 0;
    }
    return SV_OK;
}

/* Places among labels and detections are places of the arguments: nothing is left out beforehand. */
sv_status sv_object_eval_verdicts(sv_ctx *c, const sv_object_measure *measure, const sv_object *labels,
                                  int label_count, const sv_object *detections, int detection_count,
                                  double threshold, bool *found, bool *right)
{
    sv_object_eval *e;
    SV_TRY(sv_object_eval_open(c, measure, &e));
    const size_t room = (size_t)(label_count + detection_count) + 1;
    int *places = malloc(sizeof *places * room), *matches = malloc(sizeof *matches * room);
    bool *taken = malloc(room);
    sv_status status = places && matches && taken ? sv_object_eval_add(c, e, "frame", labels, label_count,
                                                                       detections, detection_count)
                                                  : SV_FAIL(c, SV_NO_MEMORY, "no memory to match a frame");
    if (status == SV_OK) {
        int *label_places = places, *detection_places = places + label_count;
        keep(labels, label_count, e->labels, label_places);
        keep(detections, detection_count, e->detections, detection_places);
        const frame *f = &e->frames[0];
        for (int i = 0; i < label_count; i++) found[i] = false;
        for (int j = 0; j < detection_count; j++) right[j] = false;
        for (int k = 0; k < measure->count; k++) {
            task t = {.e = e, .kind = k, .overlap = measure->overlaps[k], .taken = taken, .matches = matches};
            int64_t good = 0, bad = 0;
            for (int i = 0; i < f->labels; i++) matches[i] = -1;
            count_matches(&t, f, threshold, &good, &bad);
            for (int i = 0; i < f->labels; i++) {
                if (matches[i] < 0) continue;
                found[label_places[i]] = true;
                right[detection_places[matches[i]]] = true;
            }
        }
    }
    free(places);
    free(matches);
    free(taken);
    sv_object_eval_close(e);
    return status;
}

double sv_object_attainable(int64_t labels)
{
    return labels > 0 ? 100 : 0;
}
